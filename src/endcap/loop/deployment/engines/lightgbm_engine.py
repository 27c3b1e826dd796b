"""LightGBM's text models."""

from __future__ import annotations

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
        return tuple(Field(name, "string" if place in self._told.categorical and self._told.categories else "double") for place, name in enumerate(self._told.features))

    def predict(self, rows: pa.Table) -> pa.Table:
        return to_answers(self._booster.predict(self._arrange(rows), num_threads=1))

    def _arrange(self, rows: pa.Table) -> NDArray[np.float64]:
        import numpy as np
        import pyarrow as pa

        if rows.num_columns == 1 and pa.types.is_fixed_size_list(rows.schema.field(0).type):
            found = to_matrix(rows)
            if found.shape[1] != len(self._told.features):
                raise InvalidInput(f"Each row has {found.shape[1]} numbers; the model takes {len(self._told.features)}.")
            return found
        chosen = choose_columns(rows, self._told.features, what="The model")
        codes = self._find_coded(chosen)
        found = np.empty((chosen.num_rows, chosen.num_columns))
        for place, name in enumerate(chosen.column_names):
            column = chosen.column(place)
            found[:, place] = _encode(column, codes[place]) if place in codes else to_numbers(column, name=name)
        return found

    def _find_coded(self, chosen: pa.Table) -> dict[int, tuple[Any, ...]]:
        """The category values by place. pandas' values come without names: they belong to the columns that are not numbers, in order."""
        import pyarrow as pa

        if not self._told.categories:
            return {}
        words = [place for place, column in enumerate(chosen.columns) if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)]
        places = words if len(words) == len(self._told.categories) else list(self._told.categorical)
        if len(places) != len(self._told.categories):
            told = len(self._told.categories)
            raise InvalidInput(f"The model was trained on {told} category columns; {len(words)} of the input's hold text.")
        return dict(zip(places, self._told.categories, strict=True))


def _encode(column: pa.ChunkedArray, values: tuple[Any, ...]) -> NDArray[np.float64]:
    """The place of each value among those of the training, NaN for others."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    places = {value: float(place) for place, value in enumerate(values)}
    return np.array([places.get(value, np.nan) for value in column.to_pylist()], dtype=np.float64)
