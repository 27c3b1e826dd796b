"""Rows of evidence: outcomes and answers as a run logged them, read with suspicion."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput, suggest

if TYPE_CHECKING:
    import pyarrow as pa

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]

MOST_ROWS = 5_000_000
MOST_BYTES = 2_000_000_000
MOST_SLICES = 1_000
LEAST_ROWS = 30
LEAST_CLUSTERS = 8
_MOST_COLUMNS = 1_000
_NAMED = 3
_GREATEST, _LEAST = 1e70, 1e-70
"""Greater numbers count as infinite and smaller ones as 0, so that no sum of squares of a share runs over."""
_LEAST_WEIGHT = 1e-12
"""Of the greatest weight; what counts for less counts for nothing."""
_PLAIN = ("actual", "prediction", "baseline", "weight", "cluster", "id", "lower_90", "upper_90")
"""The columns that have a meaning; every other one may be sliced by."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows with an outcome, each with its answer: numbers, probabilities of 1, or classes by their place in ``classes``.

    ``id`` names rows so that those of two versions find each other; ``cluster`` numbers the groups that are not independent of one another
    inside; ``slices`` are the columns that were asked for, as the names of their values and which each row has. ``notes`` say what was done to
    the rows that were read.
    """

    predicts: str
    actual: NDArray[Any]
    prediction: NDArray[Any]
    weight: Doubles
    baseline: NDArray[Any] | None = None
    lower: Doubles | None = None
    upper: Doubles | None = None
    cluster: Codes | None = None
    id: pa.Array | None = None
    classes: tuple[str, ...] = ()
    slices: Mapping[str, tuple[tuple[str, ...], Codes]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return int(self.actual.size)

    @property
    def truth(self) -> NDArray[Any]:
        """The outcomes as they were read: numbers, or the names of classes."""
        return np.array(self.classes)[self.actual] if self.predicts == "class" else self.actual


def read_table(payload: bytes, *, name: str) -> pa.Table:
    """The table of a file that a run logged: Parquet, or CSV with a header.

    Raises InvalidInput for bytes that are neither, and for more than 5,000,000 rows, 1,000 columns or 2 GB once unpacked, which is found out before
    they are unpacked.
    """
    import pyarrow as pa
    import pyarrow.csv as pv
    import pyarrow.parquet as pq

    if len(payload) > MOST_BYTES:
        raise InvalidInput(f"'{name}' has {len(payload):,} bytes; at most {MOST_BYTES:,} are read.")
    try:
        if payload[:4] == b"PAR1":
            file = pq.ParquetFile(io.BytesIO(payload))
            meta = file.metadata
            n_bytes = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            _require_size(name, n_rows=meta.num_rows, n_columns=len(file.schema_arrow.names), n_bytes=n_bytes)
            table = file.read()
        else:
            _require_size(name, n_rows=payload.count(b"\n") - 1, n_columns=payload[: payload.find(b"\n") + 1].count(b",") + 1, n_bytes=len(payload))
            table = pv.read_csv(io.BytesIO(payload))
        table.validate(full=True)  # texts that are no Unicode, say
        _require_size(name, n_rows=table.num_rows, n_columns=len(table.column_names), n_bytes=table.nbytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"'{name}' is neither Parquet nor CSV with a header: {str(error).partition(chr(10))[0][:200]}.") from error
    return table


def parse_rows(table: pa.Table, *, predicts: str, slices: tuple[str, ...] = (), name: str = "evidence") -> Rows:
    """Rows with an outcome from a table with the columns ``actual`` and ``prediction``, and those of ``_PLAIN`` that there are.

    Rows without an outcome (null, NaN) are left out and counted in the notes. Everything else that is not as it must be is refused by
    InvalidInput: a missing column, a type that does not fit, an infinite outcome, a row with an outcome and no answer (a model that is silent
    where it is hard would look good), a probability outside 0 and 1, an outcome that is neither 0 nor 1, an id that comes twice, a negative
    or missing weight, a column to slice by with more than 1,000 values, no row at all. A few passes over the columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    _require_columns(table, ("actual", "prediction", *slices), name=name)
    text = predicts == "class"
    table = _settle(table, columns=(*_PLAIN, *slices))
    actual = table["actual"].combine_chunks()
    there = pc.is_valid(actual)
    if pa.types.is_floating(actual.type):
        there = pc.and_kleene(there, pc.fill_null(pc.invert(pc.is_nan(actual)), False))
    n_without = table.num_rows - int(pc.sum(there).as_py() or 0)
    table = table.filter(there) if n_without else table
    if not table.num_rows:
        raise InvalidInput(f"'{name}' has no row with an outcome{f' ({n_without:,} without)' if n_without else ''}.")
    notes = (f"{n_without:,} rows without an outcome are left out",) if n_without else ()
    classes: tuple[str, ...] = ()
    if text:
        classes, columns = _read_classes(table, name=name)
    else:
        columns = {column: _read_numbers(table, column, name=name) for column in ("actual", "prediction", "baseline") if column in table.column_names}
        if predicts == "probability":
            _require_probabilities(columns, name=name)
    bounds = {column: _read_numbers(table, column, name=name) for column in ("lower_90", "upper_90") if column in table.column_names}
    if len(bounds) == 1 or (bounds and (bounds["lower_90"] > bounds["upper_90"]).any()):
        raise InvalidInput(f"'{name}' has limits of the 90 % interval that are not two in order.", hint="give lower_90 and upper_90, or neither")
    return Rows(
        predicts=predicts,
        actual=columns["actual"],
        prediction=columns["prediction"],
        weight=_read_weights(table, name=name),
        baseline=columns.get("baseline"),
        lower=bounds.get("lower_90"),
        upper=bounds.get("upper_90"),
        cluster=_read_codes(table, "cluster", name=name)[1] if "cluster" in table.column_names else None,
        id=_read_ids(table, name=name) if "id" in table.column_names else None,
        classes=classes,
        slices={column: _read_slices(table, column, name=name) for column in slices},
        notes=notes,
    )


def _require_size(name: str, *, n_rows: int, n_columns: int, n_bytes: int) -> None:
    if n_rows > MOST_ROWS or n_columns > _MOST_COLUMNS or n_bytes > MOST_BYTES:
        raise InvalidInput(
            f"'{name}' has {n_rows:,} rows in {n_columns:,} columns and {n_bytes:,} bytes once unpacked; at most {MOST_ROWS:,}, {_MOST_COLUMNS:,} and"
            f" {MOST_BYTES:,} are read.",
            hint="a random sample of the rows judges as well",
        )


def _require_columns(table: pa.Table, wanted: tuple[str, ...], *, name: str) -> None:
    offered = table.column_names
    for column in wanted:
        if column not in offered:
            raise InvalidInput(f"'{name}' has no column {column!r}. Columns: {offered[:50]}.", hint=suggest(column, offered))
    twice = sorted({column for column in (*wanted, *_PLAIN) if offered.count(column) > 1})
    if twice:
        raise InvalidInput(f"'{name}' has more than one column of the name {twice[0]!r}.")


def _settle(table: pa.Table, *, columns: tuple[str, ...]) -> pa.Table:
    """The columns that are read, those of few values as these values, and small floats as such that Arrow computes with."""
    import pyarrow as pa

    found = {}
    for name in dict.fromkeys(name for name in columns if name in table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        found[name] = column.cast(pa.float64()) if pa.types.is_float16(column.type) else column
    return pa.table(found)


def _read_numbers(table: pa.Table, column: str, *, name: str) -> Doubles:
    """A column as numbers, every one finite."""
    import pyarrow as pa

    found = table[column].combine_chunks()
    if pa.types.is_null(found.type):
        found = found.cast(pa.float64())
    if not (
        pa.types.is_integer(found.type) or pa.types.is_floating(found.type) or pa.types.is_boolean(found.type) or pa.types.is_decimal(found.type)
    ):
        raise InvalidInput(f"'{name}' has the type {found.type} in column {column!r}, where numbers are expected.")
    if pa.types.is_boolean(found.type):
        found = found.cast(pa.int8())
    values = np.asarray(found.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(values) <= _GREATEST))
    if bad.size:
        raise InvalidInput(
            f"'{name}' has {bad.size:,} of {values.size:,} rows with an outcome whose {column!r} is missing or not finite (row {bad[0] + 1:,}).",
            hint="a version is judged on every row that has an outcome",
        )
    return np.where(np.abs(values) < _LEAST, 0.0, values)


def _require_probabilities(columns: Mapping[str, Doubles], *, name: str) -> None:
    actual = columns["actual"]
    strange = actual[(actual != 0) & (actual != 1)]
    if strange.size:
        raise InvalidInput(
            f"'{name}' has the outcome {strange[0]:g}, where 0 and 1 are expected.", hint="a model of several classes predicts='class'"
        )
    for column, values in columns.items():
        outside = values[(values < 0) | (values > 1)]
        if outside.size:
            raise InvalidInput(f"'{name}' has {outside.size:,} values of {column!r} outside 0 and 1, such as {outside[0]:g}.")


def _read_classes(table: pa.Table, *, name: str) -> tuple[tuple[str, ...], dict[str, NDArray[Any]]]:
    """Classes as texts, and each column's as places among them."""
    texts = {column: _read_texts(table, column, name=name) for column in ("actual", "prediction", "baseline") if column in table.column_names}
    for column, values in texts.items():
        if values.null_count:
            raise InvalidInput(f"'{name}' has {values.null_count:,} rows with an outcome and without {column!r}.", hint="a version answers every row")
    classes, places = np.unique(np.concatenate([values.to_numpy(zero_copy_only=False).astype(str) for values in texts.values()]), return_inverse=True)
    parts = np.split(places.astype(np.int64), len(texts))
    return tuple(classes.tolist()), dict(zip(texts, parts, strict=True))


def _read_texts(table: pa.Table, column: str, *, name: str) -> pa.Array:
    """A column as texts; of whole numbers that were kept as floats (``1.0``) the whole numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = table[column].combine_chunks()
    if pa.types.is_floating(found.type) and bool(pc.all(pc.equal(pc.floor(found), found)).as_py()):
        found = found.cast(pa.int64(), safe=False)
    try:
        return found.cast(pa.string())
    except pa.ArrowException as error:
        raise InvalidInput(f"'{name}' has the type {found.type} in column {column!r}, which names nothing.") from error


def _read_weights(table: pa.Table, *, name: str) -> Doubles:
    if "weight" not in table.column_names:
        return np.ones(table.num_rows)
    weight = _read_numbers(table, "weight", name=name)
    if (weight < 0).any() or not weight.sum() > 0:
        raise InvalidInput(f"'{name}' has weights below 0, or none above it.")
    weight = weight / weight.max()
    return np.where(weight < _LEAST_WEIGHT, 0.0, weight)


def _read_ids(table: pa.Table, *, name: str) -> pa.Array:
    import pyarrow.compute as pc

    ids = _read_texts(table, "id", name=name)
    if ids.null_count:
        raise InvalidInput(f"'{name}' has {ids.null_count:,} rows without an id.", hint="name every row, or leave the column out")
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        shown = ", ".join(twice.slice(0, _NAMED).to_pylist())
        raise InvalidInput(f"'{name}' has {len(twice):,} ids more than once: {shown}{' ...' if len(twice) > _NAMED else ''}.")
    return ids


def _read_codes(table: pa.Table, column: str, *, name: str) -> tuple[tuple[str, ...], Codes]:
    """The values of a column as texts, sorted, and which each row has; a missing one is a value of its own."""
    import pyarrow.compute as pc

    texts = pc.fill_null(_read_texts(table, column, name=name), "(none)").dictionary_encode()
    names = np.array(texts.dictionary.to_pylist(), dtype=object)
    order = np.argsort(names.astype(str), kind="stable")
    place = np.empty(order.size, dtype=np.int64)
    place[order] = np.arange(order.size)
    return tuple(names[order].tolist()), place[texts.indices.to_numpy(zero_copy_only=False)]


def _read_slices(table: pa.Table, column: str, *, name: str) -> tuple[tuple[str, ...], Codes]:
    names, codes = _read_codes(table, column, name=name)
    if len(names) > MOST_SLICES:
        raise InvalidInput(f"'{name}' has {len(names):,} values of {column!r}; at most {MOST_SLICES:,} are slices.", hint="slice by a coarser column")
    return names, codes
