from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest

from endcap.loop.evaluation.sums import FIELDS, ErrorSums
from endcap.loop.registry.members import FACT
from endcap.solutions.forecasting.hours.figures import find_retired, measure_members, measure_slices, note_states
from endcap.solutions.forecasting.hours.training import HourBackTest

DAYS = [date(2026, 3, 1), date(2026, 3, 9), None]


def sums_of(**fields: Any) -> ErrorSums:
    """Sums of four members and three origins, of which the first was for choosing."""
    found = ErrorSums.empty(4, 3)
    for name, values in fields.items():
        found.values[FIELDS.index(name)] = values
    return found


def make_test(ours: ErrorSums, base: ErrorSums) -> HourBackTest:
    return HourBackTest(np.array([24, 48, 72]), 1, ("a", "b", "c", "d"), {"ours": ours, "base": base}, {}, {}, ())


def squares(*rows: tuple[float, float]) -> np.ndarray:
    return np.array([(1e6, *row) for row in rows])  # what chose is never shown


def test_a_member_is_good_bad_or_unsure() -> None:
    ours = sums_of(n=np.array([[5, 5, 5], [5, 5, 5], [5, 5, 5], [0, 0, 0]]), squared_error=squares((1, 1), (4, 4), (1, 9), (0, 0)))
    base = sums_of(n=5, squared_error=squares((2, 2), (2, 2), (2, 2), (0, 0)))
    table = measure_members(make_test(ours, base), "ours", baseline="base", segments={"city": ["x", "x", "y", "y"]}, last_days=[*DAYS, None])
    rows = {row["member"]: row for row in table.to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"a": "good", "b": "bad", "c": "unsure", "d": "unsure"}
    assert rows["a"]["ratio"] == pytest.approx(0.5**0.5)
    assert rows["b"]["rmse"] == pytest.approx((8 / 10) ** 0.5)
    assert rows["a"]["n"] == 10
    assert (rows["d"]["n"], rows["d"]["rmse"], rows["d"]["mae"], rows["d"]["ratio"]) == (0, None, None, None)
    assert (rows["c"][FACT + "city"], rows["b"]["last_row"], rows["c"]["last_row"]) == ("y", date(2026, 3, 9), None)
    assert (rows["a"]["candidate"], rows["a"]["baseline"], rows["a"]["fallback"]) == ("ours", "base", None)


def test_shares_of_a_member_that_sold_nothing_are_missing() -> None:
    ours = sums_of(n=5, abs_error=2, forecast=2, actual=[[0, 0, 0], [9, 4, 4], [0, 0, 0], [0, 0, 0]], covered=4, n_banded=5)
    table = measure_members(make_test(ours, ours), "ours", baseline="base", segments={}, last_days=[None] * 4)
    one, other = table.to_pylist()[:2]
    assert (one["wape"], one["bias"], one["baseline_wape"], one["mae"]) == (None, None, None, 0.4)
    assert (other["wape"], other["bias"], other["coverage_90"]) == (0.5, -0.5, 0.8)


def test_slices_are_of_the_judged_rows_and_the_worst_members_come_first() -> None:
    ours = sums_of(n=5, actual=10, abs_error=[[99, 1, 1], [0, 7, 7], [0, 3, 3], [0, 2, 2]])
    found = measure_slices(make_test(ours, ours), "ours", segments={"city": ["x", "y", "x", "y"]}, start=date(2026, 3, 1))
    assert [(s.by, s.value) for s in found] == [
        ("city", "x"),
        ("city", "y"),
        *(("member", name) for name in "bcda"),
        ("origin", "2026-03-03"),
        ("origin", "2026-03-04"),
    ]
    assert found[0].metrics.wape == pytest.approx(8 / 40)
    assert found[2].metrics.wape == pytest.approx(14 / 20)


def test_members_retire_by_the_newest_row_of_all() -> None:
    assert find_retired(DAYS, retire_after_days=8) == [True, False, True]
    assert find_retired(DAYS, retire_after_days=9) == [False, False, True]
    assert find_retired(DAYS, retire_after_days=None) == [False] * 3
    assert find_retired([None, None], retire_after_days=5) == [False, False]
    assert find_retired([], retire_after_days=5) == []


def test_states_of_members_are_noted_with_their_origin() -> None:
    table = note_states(("a", "b", "c"), DAYS, [True, False, True], origin=date(2026, 3, 10))
    assert table.column_names == ["member", "first_row", "last_row", "retired", "origin"]
    assert table.to_pylist()[1] == {"member": "b", "first_row": None, "last_row": date(2026, 3, 9), "retired": False, "origin": date(2026, 3, 10)}
