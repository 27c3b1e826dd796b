"""The protocol of an engine, and how rows become what libraries want."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from endcap.core.errors import InvalidInput, unknown
from endcap.loop.registry.records import Field

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

ROWS = "inputs"
"""The name of the one column of rows that have no names: lists of equal length."""
ANSWER = "prediction"
"""The name of the one column of answers of a library that gives it none."""


class Engine(Protocol):
    """What answers with the file of a version."""

    @property
    def name(self) -> str:
        """The library and its version, such as ``lightgbm 4.7.0``."""
        ...

    @property
    def inputs(self) -> tuple[Field, ...]:
        """What the file itself says it takes; empty: it does not say."""
        ...

    def predict(self, rows: pa.Table) -> pa.Table:
        """Answers in the order of rows, one column for each output; several numbers a row are lists of equal length.

        Columns are taken by name where the file knows names, otherwise by place. A column of lists of equal length is a tensor. Raises
        InvalidInput for rows that do not fit. The same rows give the same answers; several threads may ask at once.
        """
        ...


def choose_columns(rows: pa.Table, names: tuple[str, ...], *, what: str) -> pa.Table:
    """The columns of these names in their order; all of them by place where the names are only places (``Column_0``).

    Raises InvalidInput when one is missing or the number differs.
    """
    offered = {name.replace(" ", "_"): name for name in rows.column_names}  # LightGBM writes them so
    if all(name.replace(" ", "_") in offered for name in names):
        return rows.select([offered[name.replace(" ", "_")] for name in names])
    if rows.num_columns == len(names) and all(name.rpartition("_")[2].isdigit() and name.startswith("Column_") for name in names):
        return rows
    missing = next((name for name in names if name.replace(" ", "_") not in offered), names[0])
    raise InvalidInput(
        unknown("column", missing, rows.column_names, where="The input"), hint=f"{what} takes {len(names)} columns: {list(names)[:10]}"
    )


def to_matrix(rows: pa.Table, *, dtype: str = "float64") -> NDArray[Any]:
    """Rows as one matrix (n_rows, n_columns), or (n_rows, length) of a single column of lists. A missing number is NaN."""
    import numpy as np
    import pyarrow as pa

    if rows.num_columns == 1 and pa.types.is_fixed_size_list(rows.schema.field(0).type):
        return to_tensor(rows.column(0)).astype(dtype, copy=False)
    found = np.empty((rows.num_rows, rows.num_columns), dtype=dtype)
    for place, name in enumerate(rows.column_names):
        found[:, place] = to_numbers(rows.column(place), name=name)
    return found


def to_tensor(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of equal length as (n_rows, length)."""
    import numpy as np
    import pyarrow.compute as pc

    if column.null_count:
        raise InvalidInput("A row of a tensor is missing.", hint="give every row")
    flat = pc.list_flatten(column)
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), column.type.list_size)


def to_numbers(column: pa.ChunkedArray, *, name: str) -> NDArray[np.float64]:
    """A column of numbers or truth values as floats, missing ones NaN. Raises InvalidInput for anything else."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise InvalidInput(f"The column {name!r} holds {column.type}; the model takes numbers there.")
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def to_answers(values: Any, *, name: str = ANSWER) -> pa.Table:
    """An array of one answer a row, or of several, as a table of one column. Raises InvalidInput for what is neither."""
    import numpy as np
    import pyarrow as pa

    array = np.asarray(values)
    if array.ndim == 0:
        raise InvalidInput("The model gave one answer for all rows.")
    if array.ndim > 2:
        array = array.reshape(array.shape[0], -1)
    flat = array.reshape(-1)
    column = pa.array(flat.tolist() if array.dtype.kind in "OU" else flat)
    if array.ndim == 2:
        column = pa.FixedSizeListArray.from_arrays(column, array.shape[1])
    return pa.table({name: column})
