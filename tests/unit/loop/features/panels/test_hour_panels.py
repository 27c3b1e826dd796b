from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Statics
from endcap.loop.features.panels.hour_panels import HourPanel, HourRevisions

NAN = np.nan


def revise(*told: tuple[int, int, int, float, bool]) -> HourRevisions:
    series, ticks, arrivals = (np.array([row[i] for row in told], dtype=np.int64) for i in range(3))
    return HourRevisions(
        series, ticks, arrivals, np.array([row[3] for row in told], dtype=np.float32), np.array([row[4] for row in told], dtype=np.bool_)
    )


def make(**options: Any) -> HourPanel:
    """Two series over three days and two hours, of which the last hour is not known yet; six hours are forecast."""
    sold = np.arange(2 * 73, dtype=np.float32).reshape(2, 73)
    unseen = np.zeros(sold.shape, dtype=np.bool_)
    unseen[0, 5] = unseen[1, 70] = True
    return HourPanel(
        **{
            "keys": {"store": ("1", "2"), "item": ("a", "a")},
            "key_types": {"store": "integer", "item": "text"},
            "start": date(2026, 3, 6),  # a Friday
            "origin": 74,
            "hidden": 1,
            "horizon": 6,
            "sold": sold,
            "unseen": unseen,
            "daily": {"promo": np.arange(8, dtype=np.float32).reshape(2, 4)},
            "statics": {"city": Statics(np.array([0, -1], dtype=np.int32), ("north",))},
            "calendar": {"public_holiday": np.arange(20) == 2},
            **options,
        }
    )


def test_a_panel_counts_in_local_hours() -> None:
    panel = make()
    assert (panel.n_series, panel.n_seen) == (2, 73)
    assert panel.targets.tolist() == [74, 75, 76, 77, 78, 79]
    assert panel.moment(74) == datetime(2026, 3, 9, 2)  # noqa: DTZ001 - local by design
    assert panel.weekdays(np.array([0, 1, 2, 3])).tolist() == [4, 5, 6, 0]


def test_demand_is_what_was_sold_where_it_could_be_seen() -> None:
    panel = make()
    demand = panel.demand
    assert np.flatnonzero(np.isnan(demand)).tolist() == [5, 73 + 70]
    assert panel.sold[0, 5] == 5
    assert np.isfinite(make(unseen=None).demand).all()


def test_looking_back_cuts_off_what_came_later() -> None:
    seen = make().seen_at(30)
    assert (seen.origin, seen.n_seen, seen.start) == (30, 29, date(2026, 3, 6))
    np.testing.assert_array_equal(seen.sold, make().sold[:, :29])
    assert seen.unseen is not None
    assert seen.unseen.sum() == 1
    assert seen.daily["promo"].tolist() == [[0, 1], [4, 5]]  # its targets end on the second day
    assert seen.calendar["public_holiday"].size == 20


@pytest.mark.parametrize("origin", [-1, 0, 1, 75, 1000])
def test_there_are_origins_that_no_panel_can_look_back_to(origin: int) -> None:
    with pytest.raises(InvalidInput, match=rf"Origin {origin} is not among those this panel can look back to: 2 to 74\."):
        make().seen_at(origin)


def test_what_came_late_is_undone_with_its_flag() -> None:
    panel = make()
    told = revise((0, 5, 7, 3.0, False), (1, 9, 15, 8.0, True), (0, 5, 20, 5.0, True))
    assert panel.unseen is not None
    panel = make(revisions=told, sold=panel.sold.copy())
    first = panel.seen_at(10)
    assert first.unseen is not None
    assert (first.sold[0, 5], first.unseen[0, 5]) == (3, False)
    assert first.revisions is not None
    assert first.revisions.n == 1
    before = panel.seen_at(6 + 1)
    assert before.sold[0, 5] == 3
    assert np.isnan(panel.seen_at(11).sold[1, 9])
    second = panel.seen_at(20)
    assert second.unseen is not None
    assert (second.sold[0, 5], second.unseen[0, 5]) == (5, True)
    assert (panel.sold[0, 5], panel.sold[1, 9]) == (5, 73 + 9)  # the panel itself is as it was


def test_the_latest_days_are_the_same_hours_on_a_shorter_axis() -> None:
    told = revise((0, 5, 7, 3.0, False), (1, 50, 60, 8.0, True))
    panel = make(revisions=told)
    short = panel.latest(1)
    assert (short.start, short.origin, short.n_seen, short.hidden) == (date(2026, 3, 8), 26, 25, 1)
    np.testing.assert_array_equal(short.sold, panel.sold[:, 48:])
    assert short.daily["promo"].tolist() == [[2, 3], [6, 7]]
    assert short.calendar["public_holiday"].argmax() == 0
    assert short.revisions is not None
    assert (short.revisions.ticks.tolist(), short.revisions.arrivals.tolist()) == ([2], [12])
    assert short.moment(short.origin) == panel.moment(panel.origin)
    assert panel.latest(3) is panel
    assert panel.latest(99) is panel


def test_chosen_series_keep_their_own() -> None:
    panel = make(revisions=revise((0, 5, 7, 3.0, False), (1, 50, 60, 8.0, True)))
    other = panel.choose(np.array([1]))
    assert other.keys == {"store": ("2",), "item": ("a",)}
    assert other.statics["city"].codes.tolist() == [-1]
    assert other.revisions is not None
    assert (other.revisions.series.tolist(), other.revisions.ticks.tolist()) == ([0], [50])
    swapped = panel.choose(np.array([1, 0]))
    np.testing.assert_array_equal(swapped.sold, panel.sold[::-1])
    assert swapped.revisions is not None
    assert swapped.revisions.series.tolist() == [1, 0]
    sliced = panel.choose(slice(0, 1))
    assert sliced.n_series == 1
    assert np.shares_memory(sliced.sold, panel.sold)


def test_revisions_without_flags_leave_flags_alone() -> None:
    told = revise((0, 5, 70, 3.0, False))
    panel = make(revisions=HourRevisions(told.series, told.ticks, told.arrivals, told.values))
    seen = panel.seen_at(30)
    assert seen.unseen is not None
    assert np.isnan(seen.sold[0, 5])
    assert seen.unseen[0, 5]
