"""Defects as real feeds have them, planted into a sales table for tests and the demo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput, suggest

_COLUMNS = ("store_id", "date", "units")
_DEFECT_SHARE = 0.01
_FUTURE_DAYS = 3650

Rows = NDArray[np.int64]


def _replace(table: pa.Table, column: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


def _chosen(table: pa.Table, rows: Rows) -> pa.Array:
    mask = np.zeros(table.num_rows, dtype=np.bool_)
    mask[rows] = True
    return pa.array(mask)


def _negative(table: pa.Table, rows: Rows) -> pa.Table:
    units = table["units"]
    below = pc.subtract(pc.negate(pc.abs(units)), 1)
    return _replace(table, "units", pc.if_else(_chosen(table, rows), below, units))


def _duplicate(table: pa.Table, rows: Rows) -> pa.Table:
    return pa.concat_tables([table, table.take(pa.array(rows))])


def _null_key(table: pa.Table, rows: Rows) -> pa.Table:
    ids = table["store_id"]
    return _replace(table, "store_id", pc.if_else(_chosen(table, rows), pa.scalar(None, ids.type), ids))


def _text_in_number(table: pa.Table, rows: Rows) -> pa.Table:
    text = table["units"].cast(pa.string())
    return _replace(table, "units", pc.if_else(_chosen(table, rows), "n/a", text))


def _missing_column(table: pa.Table, _rows: Rows) -> pa.Table:
    return table.drop_columns(["units"])


def _future(table: pa.Table, rows: Rows) -> pa.Table:
    dates = table["date"]
    days = dates.cast(pa.int32())
    later = pc.add(days, pa.scalar(_FUTURE_DAYS + pc.max(days).as_py() - pc.min(days).as_py(), pa.int32()))
    return _replace(table, "date", pc.if_else(_chosen(table, rows), later, days).cast(dates.type))


_PLANTERS: dict[str, Callable[[pa.Table, Rows], pa.Table]] = {
    "duplicate": _duplicate,
    "future": _future,
    "missing_column": _missing_column,
    "negative": _negative,
    "null_key": _null_key,
    "text_in_number": _text_in_number,
}
DEFECTS: tuple[str, ...] = tuple(_PLANTERS)


def spoil(table: pa.Table, *, how: str, rng: np.random.Generator) -> pa.Table:
    """A copy of a sales table with one kind of defect in about one row of a hundred, at least one.

    `how` is one of `DEFECTS`: "negative" units; "duplicate" rows, added at the end; "null_key" (no store id);
    "text_in_number" (the units become text, some of it "n/a"); "missing_column" (no units at all); "future" (dates at
    least ten years after the table's last). Raises InvalidInput for another `how`, for a table that lacks store_id,
    date or units, and for one without rows. The input is untouched. Costs one pass over the columns it changes.
    """
    planter = _PLANTERS.get(how) if isinstance(how, str) else None
    if planter is None:
        raise InvalidInput(
            f"A sales table cannot be spoiled by how={how!r}. Kinds: {list(DEFECTS)}.",
            hint=suggest(str(how), DEFECTS) or "take one of the kinds listed",
        )
    missing = [column for column in _COLUMNS if column not in table.column_names]
    if missing:
        raise InvalidInput(
            f"The table to spoil has no column {missing[0]!r}. Columns: {table.column_names}.",
            hint="spoil a table that Chain.sales returned",
        )
    if table.num_rows == 0:
        raise InvalidInput("The table to spoil has 0 rows: none can carry a defect.", hint="ask Chain.sales for more days")
    n_defects = max(1, round(_DEFECT_SHARE * table.num_rows))
    rows = np.sort(rng.choice(table.num_rows, size=n_defects, replace=False))
    return planter(table, rows.astype(np.int64))
