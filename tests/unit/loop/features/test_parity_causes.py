from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from endcap.loop.features.parity_causes import CAUSES, FeatureRow, Finding, Limits, explain, newest, same_value

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
DAILY = Limits(tick=DAY)


def row(day: int, *values: Any, known: timedelta = HOUR, shift: timedelta = timedelta(0)) -> FeatureRow:
    at = START + day * DAY
    return FeatureRow(at + shift, at + known, values)


ROWS = [row(day, (10 * day + 2) / 3, day) for day in range(6)]
NOON = START + 5 * DAY + 12 * HOUR
"""The newest row is known since eleven hours."""


def cause(served: FeatureRow | None, rows: Sequence[FeatureRow] = ROWS, then: Sequence[FeatureRow] = (), **given: Any) -> str | None:
    found = explain(served, rows, then, at=given.pop("at", NOON), limits=Limits(**{"tick": DAY, **given}))
    assert found is None or found.cause in CAUSES
    return None if found is None else found.cause


def test_what_stands_is_the_same_whatever_its_known_at_and_the_last_bits() -> None:
    assert cause(ROWS[-1]) is None
    assert cause(row(5, 52 / 3 * (1 + 1e-12), 5, known=3 * HOUR)) is None
    assert cause(None, []) is None


def test_nothing_served_though_something_was_known() -> None:
    found = explain(None, ROWS, [], at=NOON, limits=DAILY)
    assert found == Finding("missing online", "the row of 2026-03-06 was known since 2026-03-06 01:00Z", ROWS[-1])
    assert cause(None, max_age=timedelta(hours=11)) is None, "it is too old for both"


def test_something_served_that_the_sources_do_not_have() -> None:
    assert cause(row(5, 1.0, 1), []) == "missing offline"
    assert cause(row(5, 1.0, 1), [], max_age=HOUR) == "missing offline"


def test_an_older_row_is_stale() -> None:
    assert cause(ROWS[-2]) == "stale"
    found = explain(ROWS[-3], ROWS, [], at=NOON, limits=DAILY)
    assert found is not None
    assert (found.cause, found.about, found.expected) == ("stale", "a row that is newer by 48:00 was known", ROWS[-1])
    constant = [row(day, 0.0) for day in range(6)]
    assert cause(constant[-2], constant) == "stale", "although the values are the same"


def test_a_row_that_is_too_old_to_be_served_is_stale() -> None:
    assert cause(ROWS[-1], max_age=HOUR) == "stale"


@pytest.mark.parametrize(("behind", "found"), [(10.9, "stale"), (11.1, None), (30, None)])
def test_rows_may_come_as_late_as_is_allowed(behind: float, found: str | None) -> None:
    assert cause(ROWS[-2], behind=behind * HOUR) == found
    assert cause(None, ROWS[-1:], behind=behind * HOUR) == ("missing online" if found else None)
    assert cause(ROWS[-1], behind=behind * HOUR) is None
    assert cause(ROWS[-3], behind=behind * HOUR) == "stale"


def test_a_row_served_before_it_was_known_is_early() -> None:
    late = [*ROWS, row(5, 1.5, 1, known=20 * HOUR)]
    assert cause(late[-1], late) == "early"
    assert cause(row(6, 9.0, 9), [*ROWS, row(6, 9.0, 9)]) == "early"


def test_what_was_said_before_a_late_row_is_a_late_row() -> None:
    restated = sorted([*ROWS, row(5, 99.0, 5, known=5 * HOUR)], key=lambda r: (r.event_at, r.known_at))
    found = explain(ROWS[-1], restated, [], at=NOON, limits=DAILY)
    assert found == Finding("late row", "the row of 2026-03-06 was said anew at 2026-03-06 05:00Z", restated[-1])
    assert cause(restated[-1], restated) is None
    assert cause(ROWS[-1], restated, behind=8 * HOUR) is None


def test_a_late_row_of_a_table_that_does_not_say_when_rows_became_known() -> None:
    changed = [*ROWS[:-1], row(5, 99.0, 5)]
    assert cause(ROWS[-1], changed, ROWS) == "late row"
    assert cause(ROWS[-1], changed, changed) == "value"


@pytest.mark.parametrize("hours", [8, -8, 5.75, 1, -1, 14, 26])
def test_a_row_at_another_zones_instant_is_a_slip(hours: float) -> None:
    slipped = row(5, *ROWS[-1].values, shift=hours * HOUR)
    assert cause(slipped) == "time zone"
    assert cause(slipped, tick=None) == "time zone"
    other = row(5, 4.5, 3, shift=hours * HOUR)
    assert cause(other, tick=None) == "value"


def test_a_window_that_ends_at_another_zones_midnight_is_a_slip_though_its_values_differ() -> None:
    found = explain(row(5, 4.5, 3, shift=8 * HOUR), ROWS, [], at=NOON, limits=DAILY)
    assert found is not None
    assert (found.cause, found.about) == ("time zone", "served 8:00 off its instant")
    assert cause(row(5, 4.5, 3, shift=timedelta(minutes=7))) == "value"
    assert cause(row(5, 4.5, 3, shift=timedelta(hours=27)), tick=None) == "value"


def test_hourly_rows_that_slipped_onto_one_another_are_told_by_their_values() -> None:
    hourly = [FeatureRow(START + n * HOUR, START + n * HOUR, (math.sin(n),)) for n in range(100)]
    slipped = FeatureRow(hourly[-1].event_at - 8 * HOUR, hourly[-1].known_at, hourly[-1].values)
    assert cause(slipped, hourly, tick=None, at=START + 99.5 * HOUR) == "time zone"
    assert cause(hourly[-9], hourly, tick=None, at=START + 99.5 * HOUR) == "stale"


def test_narrow_floats() -> None:
    import numpy as np

    narrowed = row(5, float(np.float32(ROWS[-1].values[0])), 5)
    assert narrowed.values != ROWS[-1].values
    assert cause(narrowed) == "narrowed"
    assert cause(row(5, 17.34, 5)) == "value"
    large = [row(5, 16_777_217)]
    assert cause(row(5, 16_777_216), large) == "narrowed"
    assert cause(row(5, 1e300, 5)) == "value"
    assert cause(row(5, float(np.float32(ROWS[-1].values[0])), 6)) == "value", "another column is wrong too"


def test_a_value_that_nothing_explains() -> None:
    found = explain(row(5, 52 / 3, 6), ROWS, ROWS, at=NOON, limits=DAILY)
    assert found == Finding("value", "the sources say otherwise of 2026-03-06", ROWS[-1])
    assert cause(row(5, 52 / 3)) == "value", "a column is not there"


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (True, True, True),
        (math.nan, math.nan, True),
        (math.nan, None, False),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (0.0, -0.0, True),
        (1e-300, 2e-300, False),
        ("a", "a", True),
        ("1", 1, False),
        (date(2026, 3, 1), date(2026, 3, 1), True),
        (START, START, True),
        (START, START + HOUR, False),
        (date(2026, 3, 1), START, False),
        (None, None, True),
    ],
)
def test_values_that_are_one(ours: Any, theirs: Any, same: bool) -> None:
    assert same_value(ours, theirs) == same_value(theirs, ours) == same


@st.composite
def histories(draw: st.DrawFn) -> list[FeatureRow]:
    """A key's rows in order: some ticks said once, some restated, some missing."""
    found = []
    for day in range(draw(st.integers(0, 5))):
        delays = draw(st.lists(st.integers(0, 60), max_size=3, unique=True))
        found += [row(day, draw(st.sampled_from([0.0, 1.5, None, math.nan])), known=delay * HOUR) for delay in sorted(delays)]
    return found


LIMITS = st.builds(
    Limits, behind=st.integers(0, 48).map(lambda n: n * HOUR), max_age=st.none() | st.integers(1, 72).map(lambda n: n * HOUR), tick=st.just(DAY)
)


@settings(deadline=None)
@given(histories(), LIMITS, st.integers(0, 200))
def test_what_stands_at_an_instant_is_never_a_difference(rows: list[FeatureRow], limits: Limits, hour: int) -> None:
    at = START + hour * HOUR
    assert explain(newest(rows, at, max_age=limits.max_age), rows, [], at=at, limits=limits) is None
    before = newest(rows, at - limits.behind, max_age=limits.max_age)
    assert explain(before, rows, [], at=at, limits=limits) is None


@settings(deadline=None)
@given(histories(), histories(), st.none() | st.sampled_from(ROWS), LIMITS, st.integers(0, 200))
def test_whatever_was_served_has_one_of_the_causes(
    rows: list[FeatureRow], then: list[FeatureRow], served: FeatureRow | None, limits: Limits, hour: int
) -> None:
    at = START + hour * HOUR
    found = explain(served, rows, then, at=at, limits=limits)
    assert found is None or found.cause in CAUSES
    assert (found is None or found.cause == "missing online") or served is not None


@settings(deadline=None)
@given(histories(), st.integers(0, 200))
def test_the_newest_row_is_the_greatest_that_is_visible(rows: list[FeatureRow], hour: int) -> None:
    at = START + hour * HOUR
    seen = [(r.event_at, r.known_at, i) for i, r in enumerate(rows) if max(r.event_at, r.known_at) <= at]
    assert newest(rows, at, max_age=None) == (rows[max(seen)[2]] if seen else None)
