from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel, Statics
from endcap.solutions.forecasting.finishing import finish, is_closed, recent_mean

MakePanel = Callable[..., Panel]
NAN = np.nan


def gaps(panel: Panel) -> np.ndarray:
    return np.full((panel.n_series, panel.horizon), NAN, dtype=np.float32)


def test_a_forecast_is_whole_and_never_below_zero_and_the_answer_is_a_new_array(make_panel: MakePanel) -> None:
    panel = make_panel(np.full((2, 30), 5.0))
    raw = np.array([[-1, NAN, 2, 3, 4, 5, 6], [0] * 7], dtype=np.float32)
    kept = raw.copy()
    np.testing.assert_array_equal(finish(raw, panel), np.array([[0, 5, 2, 3, 4, 5, 6], [0] * 7], dtype=np.float32))
    np.testing.assert_array_equal(raw, kept)


def test_what_is_left_out_is_the_recent_mean_of_the_series(make_panel: MakePanel) -> None:
    values = np.concatenate([np.full(40, 1.0), np.full(28, 9.0)])
    values[-3] = NAN
    panel = make_panel(values)
    expected = (27 * 9 + 1) / 28
    np.testing.assert_allclose(finish(gaps(panel), panel), np.full((1, 7), expected), rtol=1e-6)


def test_the_recent_mean_looks_back_four_times_as_far_and_no_further() -> None:
    values = np.full((3, 40), NAN, dtype=np.float32)
    values[0, [28, 30, 39]] = [6, 3, 0]
    values[1, 27] = 5
    np.testing.assert_array_equal(recent_mean(values, n_ticks=3), np.array([3, NAN, NAN], dtype=np.float32))
    np.testing.assert_array_equal(recent_mean(values, n_ticks=2), np.array([0, NAN, NAN], dtype=np.float32))
    assert np.isnan(recent_mean(np.empty((2, 0), dtype=np.float32), n_ticks=28)).all()


def test_a_series_without_history_takes_the_mean_of_its_like(make_panel: MakePanel) -> None:
    values = np.full((5, 30), NAN)
    values[0], values[1], values[2] = 10, 20, 60
    north_south = Statics(np.array([0, 0, 1, 0, -1], dtype=np.int32), ("north", "south"))
    size = Statics(np.array([0, 1, 1, 1, -1], dtype=np.int32), ("small", "large"))
    panel = make_panel(values, statics={"region": north_south, "size": size})
    answer = finish(gaps(panel), panel)
    np.testing.assert_allclose(answer[:, 0], [10, 20, 60, 20, 30], rtol=1e-6)  # 3 is like 1 in both; 4 is like nobody: the mean of all
    alone = make_panel(values)
    np.testing.assert_allclose(finish(gaps(alone), alone)[3], np.full(7, 30.0), rtol=1e-6)


def test_without_any_history_at_all_the_forecast_is_zero(make_panel: MakePanel) -> None:
    panel = make_panel(np.full((2, 30), NAN))
    assert (finish(gaps(panel), panel) == 0).all()


def test_days_that_the_plan_closes_are_zero_and_no_others(make_panel: MakePanel) -> None:
    plan = np.ones((2, 37), dtype=np.float32)
    plan[0, 31], plan[1, 32:] = 0, NAN
    values = np.full((2, 30), 5.0)
    values[:, 6::7] = NAN  # never open on Sundays, but where there is a plan the plan decides
    panel = make_panel(values, ahead={"open": plan}, open_fact="open")
    answer = finish(np.full((2, 7), 3.0, dtype=np.float32), panel)
    np.testing.assert_array_equal(answer == 0, np.array([[t == 31 for t in panel.targets], [False] * 7]))


def week_with(sunday: float, *, n: int = 56) -> np.ndarray:
    values = np.full(n, 5.0)
    values[6::7] = sunday
    return values


def test_a_weekday_that_never_had_a_row_is_closed(make_panel: MakePanel) -> None:
    one_sunday = week_with(NAN)
    one_sunday[13] = 1.0
    sparse = np.full(56, NAN)
    sparse[0::14] = 5.0  # hardly any rows at all: nothing is said by their absence
    panel = make_panel([week_with(NAN), week_with(0.0), one_sunday, sparse])
    closed = is_closed(panel)
    assert closed[0].tolist() == [False] * 6 + [True]
    assert not closed[1:].any()
    assert finish(np.full((4, 7), 3.0, dtype=np.float32), panel)[0].tolist() == [3.0] * 6 + [0.0]


@pytest.mark.parametrize(("n", "expected"), [(27, False), (28, True)])
def test_a_closed_weekday_shows_after_four_weeks(make_panel: MakePanel, n: int, expected: bool) -> None:
    assert is_closed(make_panel(week_with(NAN, n=n))).any() == expected


def test_a_weekday_opened_nine_weeks_ago_and_closed_since_is_closed(make_panel: MakePanel) -> None:
    values = week_with(NAN, n=70)
    values[6] = 4.0
    assert is_closed(make_panel(values))[0].tolist() == [False] * 6 + [True]


def test_a_closed_weekday_is_found_wherever_the_axis_begins(make_panel: MakePanel) -> None:
    full = make_panel(week_with(NAN, n=80), lead=2)
    for origin in range(60, 75):
        seen = full.seen_at(origin)
        assert np.flatnonzero(is_closed(seen)[0]).tolist() == [i for i, t in enumerate(seen.targets) if t % 7 == 6]


def test_a_public_holiday_is_closed_for_those_that_never_opened_on_one(make_panel: MakePanel) -> None:
    calendar = np.zeros(40 + 7 + 14, dtype=np.bool_)
    calendar[[10, 23, 43]] = True
    shut, open_, late = np.full(40, 5.0), np.full(40, 5.0), np.full(40, 5.0)
    shut[[10, 23]] = NAN
    open_[10] = NAN
    late[:15] = NAN  # has lived through one holiday only
    late[23] = NAN
    panel = make_panel([shut, open_, late], calendar={"public_holiday": calendar})
    closed = is_closed(panel)
    assert np.flatnonzero(closed[0]).tolist() == [3]
    assert not closed[1:].any()


def test_a_series_of_weekly_rows_is_forecast_on_its_weekday_alone(make_panel: MakePanel) -> None:
    weekly, daily, rare, young = (np.full(70, NAN) for _ in range(4))
    weekly[3::7] = 700.0
    daily[:] = 100.0
    rare[[3, 31, 66]] = 5.0  # three rows that happen to fall on one weekday
    young[[59, 66]] = 700.0
    panel = make_panel(np.stack([weekly, daily, rare, young]))
    answer = finish(gaps(panel), panel)
    assert np.flatnonzero(answer[0]).tolist() == [3]
    assert answer[0, 3] == 700
    assert (answer[1:] > 0).all()


def test_a_weekly_series_that_ended_months_ago_stays_weekly(make_panel: MakePanel) -> None:
    ended = np.full(140, NAN)
    ended[3:70:7] = 700.0
    panel = make_panel(np.stack([ended, np.full(140, 1.0)]))
    assert is_closed(panel)[0].sum() == 6
