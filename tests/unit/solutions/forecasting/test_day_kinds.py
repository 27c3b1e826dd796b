from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.day_kinds import FIRST_DAY, FRIDAY, INSIDE, SATURDAY, SUNDAY, WORKED, is_special, weekdays, weigh_day_kinds

MakePanel = Callable[..., Panel]
N = 35 + 7 + 14  # the axis and what the calendar holds beyond it


def flags(*ticks: int) -> np.ndarray:
    found = np.zeros(N, dtype=np.bool_)
    found[list(ticks)] = True
    return found


def weights_of(make_panel: MakePanel, *, holidays: tuple[int, ...] = (), worked: tuple[int, ...] = ()) -> np.ndarray:
    panel = make_panel(np.ones((1, 35)), calendar={"public_holiday": flags(*holidays), "weekend_workday": flags(*worked)})
    weights = weigh_day_kinds(panel)
    assert weights.shape == (42, 7)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    return weights


def shares(**named: float) -> list[float]:
    places = {"fri": FRIDAY, "sat": SATURDAY, "sun": SUNDAY}
    return [next((v for k, v in named.items() if places[k] == i), 0.0) for i in range(7)]


@pytest.mark.parametrize("start", [date(2026, 1, 5), date(2024, 2, 29), date(2026, 3, 1)])
def test_weekdays_count_from_monday(make_panel: MakePanel, start: date) -> None:
    panel = make_panel(np.ones((1, 20)), start=start)
    assert weekdays(panel, n_ticks=27).tolist() == [panel.day(t).weekday() for t in range(27)]


def test_without_a_calendar_every_day_is_its_own_weekday(make_panel: MakePanel) -> None:
    panel = make_panel(np.ones((1, 20)))
    np.testing.assert_array_equal(weigh_day_kinds(panel), np.eye(7)[weekdays(panel, n_ticks=27)])
    assert not is_special(panel).any()


def test_a_single_holiday_in_the_week_sells_like_a_sunday(make_panel: MakePanel) -> None:
    weights = weights_of(make_panel, holidays=(16,))
    assert weights[16].tolist() == shares(sun=1)
    np.testing.assert_array_equal(np.delete(weights, 16, axis=0), np.delete(np.eye(7)[np.arange(42) % 7], 16, axis=0))


def test_a_run_of_days_off_begins_like_a_saturday_and_ends_like_a_sunday(make_panel: MakePanel) -> None:
    weights = weights_of(make_panel, holidays=(18, 21))  # Good Friday to Easter Monday
    np.testing.assert_allclose(weights[18], shares(sat=FIRST_DAY, fri=1 - FIRST_DAY))
    for tick in (19, 20):
        np.testing.assert_allclose(weights[tick], shares(sat=INSIDE, fri=1 - INSIDE))
    np.testing.assert_allclose(weights[21], shares(sun=1))
    np.testing.assert_array_equal(weights[25:28], np.eye(7)[[4, 5, 6]])  # other weekends stay as they are


def test_a_worked_weekend_day_ends_a_run_and_sells_mostly_like_a_friday(make_panel: MakePanel) -> None:
    weights = weights_of(make_panel, holidays=(18,), worked=(20,))
    np.testing.assert_allclose(weights[18:20], [shares(sat=FIRST_DAY, fri=1 - FIRST_DAY), shares(sun=1)])
    np.testing.assert_allclose(weights[20], shares(sun=WORKED, fri=1 - WORKED))


def test_a_run_that_goes_on_after_the_last_target_is_seen_to_its_end(make_panel: MakePanel) -> None:
    weights = weights_of(make_panel, holidays=(41, 42, 43))  # the axis ends with tick 41, a Sunday
    np.testing.assert_allclose(weights[40], shares(sat=FIRST_DAY, fri=1 - FIRST_DAY))
    np.testing.assert_allclose(weights[41], shares(sat=INSIDE, fri=1 - INSIDE))


def test_an_earlier_look_weighs_the_same_days_alike(make_panel: MakePanel) -> None:
    panel = make_panel(np.ones((1, 35)), calendar={"public_holiday": flags(18, 21, 27, 28)})
    for origin in (15, 20, 28):
        np.testing.assert_array_equal(weigh_day_kinds(panel.seen_at(origin)), weigh_day_kinds(panel)[: origin + 7])


def test_days_that_do_not_sell_like_their_weekday_are_special(make_panel: MakePanel) -> None:
    panel = make_panel(np.ones((1, 35)), calendar={"public_holiday": flags(16, 20)})
    assert np.flatnonzero(is_special(panel)).tolist() == [16, 19]  # a Sunday that is a holiday still sells like a Sunday
