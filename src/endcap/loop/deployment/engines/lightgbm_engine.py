"""LightGBM's text models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from endcap.core.errors import InvalidInput
from endcap.loop.deployment.engines.engine import choose_columns, to_answers, to_matrix, to_numbers
from endcap.loop.registry.records import Field
from endcap.loop.training.model_files.lightgbm_text import parse_booster

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class LightgbmEngine:
    """A booster answers what ``Booster.predict`` does: numbers, the probability of the positive class, or one for each class.

    Category columns are given as their values, which become the numbers that pandas gave them in training; one that was not there is missing.
    """

    def __init__(self, payload: bytes) -> None:
        """Raises InvalidInput for a text that is not whole. Cost: a pass over the text, about 1 s for 25 MB."""
        import lightgbm

        self._told = parse_booster(payload)
        self.name = f"lightgbm {lightgbm.__version__}"
        self._booster = lightgbm.Booster(model_str=self._told.text)

    @property
    def inputs(self) -> tuple[Field, ...]:
        told = self._told
        coded = told.categorical if told.categories else ()
        return tuple(Field(name, "string" if place in coded else "double") for place, name in enumerate(told.features))

    def predict(self, rows: pa.Table) -> pa.Table:
        told = self._told
        matrix = arrange_rows(rows, features=told.features, categories=told.categories, categorical=told.categorical)
        return to_answers(self._booster.predict(matrix, num_threads=1))


def arrange_rows(
    rows: pa.Table, *, features: Sequence[str], categories: Sequence[Sequence[Any]], categorical: Sequence[int] = ()
) -> NDArray[np.float64]:
    """Rows as the matrix (n_rows, n_features) that LightGBM takes.

    ``categories`` are the values of each category column, which come without names: they belong to the columns that hold text, in order, or
    to the places that ``categorical`` names. Raises InvalidInput for rows that do not fit.
    """
    import numpy as np
    import pyarrow as pa

    if rows.num_columns == 1 and pa.types.is_fixed_size_list(rows.schema.field(0).type):
        found = to_matrix(rows)
        if found.shape[1] != len(features):
            raise InvalidInput(f"Each row has {found.shape[1]} numbers; the model takes {len(features)}.")
        return found
    chosen = choose_columns(rows, tuple(features), what="The model")
    words = [place for place, column in enumerate(chosen.columns) if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)]
    places = words if len(words) == len(categories) else list(categorical)
    if categories and len(places) != len(categories):
        raise InvalidInput(f"The model was trained on {len(categories)} category columns; {len(words)} of the input's hold text.")
    coded = dict(zip(places, categories, strict=True)) if categories else {}
    found = np.empty((chosen.num_rows, chosen.num_columns))
    for place, name in enumerate(chosen.column_names):
        column = chosen.column(place)
        found[:, place] = _encode(column, coded[place]) if place in coded else to_numbers(column, name=name)
    return found


def _encode(column: pa.ChunkedArray, values: Sequence[Any]) -> NDArray[np.float64]:
    """The place of each value among those of the training, NaN for others."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    places = {value: float(place) for place, value in enumerate(values)}
    return np.array([places.get(value, np.nan) for value in column.to_pylist()], dtype=np.float64)
