from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endcap.loop.features.panels.hour_cells import HourCells, TouchedDays
from endcap.loop.features.panels.hour_panels import HourRevisions

NAN = np.nan


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def cells_of(cells: HourCells) -> dict[tuple[int, int], float]:
    return {(int(row), int(tick)): float(cells.sold[row, tick]) for row, tick in np.argwhere(np.isfinite(cells.sold))}


@pytest.mark.parametrize(("how", "expected"), [("sum", 7.0), ("count", 7.0), ("min", -1.0), ("max", 5.0)])
def test_rows_of_a_cell_are_folded_and_those_that_meet_are_counted(how: str, expected: float) -> None:
    cells = HourCells.empty(2, 1, censored=False)
    cells.fold(ints(0, 0, 1, 0), ints(3, 3, 3, 3), floats(3, 5, 9, -1), how=how)
    assert cells_of(cells) == {(0, 3): expected, (1, 3): 9.0}
    assert cells.n_met == 2
    cells.fold(ints(1), ints(3), floats(9), how=how)
    assert cells.n_met == 3
    assert cells.unseen is None


def test_values_that_are_not_finite_fold_into_nothing() -> None:
    cells = HourCells.empty(1, 1, censored=False)
    cells.fold(ints(0, 0, 0), ints(1, 2, 3), floats(NAN, np.inf, -np.inf), how="sum")
    assert cells_of(cells) == {}
    assert cells.n_met == 0


def test_a_flag_is_set_above_the_limit_and_stays() -> None:
    cells = HourCells.empty(1, 1, censored=True)
    cells.flag(ints(0, 0, 0, 0), ints(1, 2, 3, 4), floats(0.5, 0.51, NAN, 1.0), most=0.5)
    cells.flag(ints(0), ints(2), floats(0.0), most=0.5)
    assert cells.unseen is not None
    assert np.flatnonzero(cells.unseen[0]).tolist() == [2, 4]


def state(cells: HourCells, *told: tuple[int, int, float, int, bool], hidden: int = 0) -> None:
    columns: Any = list(zip(*told, strict=True))
    rows, ticks, arrivals = ints(*columns[0]), ints(*columns[1]), ints(*columns[3])
    cells.restate(rows, ticks, floats(*columns[2]), arrivals, hidden=hidden, unseen=np.array(columns[4], dtype=np.bool_))


def test_what_is_stated_in_time_stands_and_is_not_listed() -> None:
    cells = HourCells.empty(1, 1, censored=True)
    state(cells, (0, 5, 2.0, 6, False), (0, 5, 3.0, 6, True), (0, 7, 1.0, 7, False))
    cells.settle(hidden=0)
    assert cells_of(cells) == {(0, 5): 3.0, (0, 7): 1.0}
    assert cells.unseen is not None
    assert cells.unseen[0, 5]
    assert cells.revisions is None


def test_what_comes_late_is_listed_with_what_stood_before() -> None:
    cells = HourCells.empty(2, 1, censored=True)
    state(cells, (0, 5, 2.0, 6, True), (0, 5, 3.0, 9, False), (1, 2, 4.0, 8, False), (0, 5, 2.0, 12, True))
    cells.settle(hidden=0)
    revisions = cells.revisions
    assert revisions is not None
    assert revisions.unseen is not None
    listed = zip(revisions.series, revisions.ticks, revisions.arrivals, revisions.values, revisions.unseen, strict=True)
    assert [tuple(float(part) for part in row) for row in listed] == [(0, 5, 6, 2, 1), (1, 2, 8, 4, 0), (0, 5, 9, 3, 0), (0, 5, 12, 2, 1)]
    assert cells_of(cells) == {(0, 5): 2.0, (1, 2): 4.0}
    state(cells, (0, 5, 7.0, 20, False))
    cells.settle(hidden=0)
    assert cells.revisions is not None
    assert cells.revisions.n == 5  # what stood before is not listed twice
    assert cells_of(cells)[0, 5] == 7.0


def test_hours_that_are_hidden_anyway_are_not_late() -> None:
    cells = HourCells.empty(1, 1, censored=False)
    state(cells, (0, 5, 2.0, 8, False), (0, 6, 2.0, 10, False), hidden=2)
    cells.settle(hidden=2)
    assert cells.revisions is not None
    assert (cells.revisions.ticks.tolist(), cells.revisions.unseen) == ([6], None)


def test_a_cell_is_stated_by_a_value_a_flag_or_a_revision() -> None:
    cells = HourCells.empty(1, 1, censored=True)
    assert not cells.is_stated(ints(0), ints(5))
    state(cells, (0, 5, 2.0, 6, False), (0, 6, NAN, 7, True), (0, 7, NAN, 20, False))
    cells.settle(hidden=0)
    assert [cells.is_stated(ints(0), ints(tick)) for tick in (4, 5, 6, 7, 8)] == [False, True, True, True, False]
    assert not cells.is_stated(ints(), ints())


def test_a_part_of_the_series_takes_its_revisions_along() -> None:
    cells = HourCells.empty(3, 1, censored=True)
    state(cells, (0, 5, 2.0, 9, False), (1, 6, 3.0, 9, True), (2, 7, 4.0, 9, False))
    cells.settle(hidden=0)
    part = cells.take(slice(1, 3))
    assert cells_of(part) == {(0, 6): 3.0, (1, 7): 4.0}
    assert part.revisions is not None
    assert part.revisions.series.tolist() == [0, 1]
    assert np.shares_memory(part.sold, cells.sold)


def test_touched_days_stand_side_by_side_and_go_back_to_their_places() -> None:
    ticks = np.array([2, 30, 50, 100], dtype=np.int64)
    told = HourRevisions(np.arange(4), ticks, ticks + 10, np.arange(4, dtype=np.float32), ticks > 40)
    days = TouchedDays(np.array([1, 4]))
    narrow = days.narrow(told)
    assert narrow is not None
    assert (narrow.series.tolist(), narrow.ticks.tolist(), narrow.arrivals.tolist()) == ([1, 3], [6, 28], [16, 38])
    wide = days.widen(narrow, beside=told)
    assert wide is not None
    for part in ("series", "ticks", "arrivals", "values", "unseen"):
        np.testing.assert_array_equal(getattr(wide, part), getattr(told, part))
    assert days.narrow(None) is None
    assert days.widen(None, beside=told) is told
    alone = days.widen(narrow, beside=None)
    assert alone is not None
    assert alone.ticks.tolist() == [30, 100]
