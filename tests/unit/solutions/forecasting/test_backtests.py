from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel, Revisions
from endcap.loop.training.artefacts import Artefact
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.backtests import bound_backtest, choose_origins, cut_actual, run_backtest
from endcap.solutions.forecasting.candidates.baselines import SeasonalNaive, WeekdayMean

MakePanel = Callable[..., Panel]
NAN = np.nan


@dataclass
class Diary:
    """A candidate that writes down what it was shown, and answers with the last day it saw."""

    name: str = "diary"
    baseline: bool = False
    costly: bool = False
    least: int = 0
    fitted: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def fit(self, data: Panel, *, seed: int) -> Diary:
        if data.n_seen < self.least:
            raise InvalidInput(f"{self.name} needs {self.least} days.")
        self.fitted.append(data.origin)
        return self

    def predict(self, data: Panel) -> Floats:
        self.shown.append(data.origin)
        return np.repeat(data.target[:, -1:], data.horizon, axis=1)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {}

    def revive(self, artefacts: dict[str, Artefact]) -> Diary:
        return self


# --- origins


@pytest.mark.parametrize("options", [{}, {"lead": 3}, {"hidden": 2}, {"lead": 2, "hidden": 3, "horizon": 14}])
def test_origins_are_weekly_and_the_last_has_all_its_targets_seen(make_panel: MakePanel, options: dict[str, int]) -> None:
    panel = make_panel(n_seen=150, **options)
    origins, notes = choose_origins(panel, n=8)
    assert np.diff(origins).tolist() == [7] * 7
    assert origins[-1] + panel.lead + panel.horizon == panel.n_seen
    assert notes == ()


@pytest.mark.parametrize(
    ("n_seen", "expected", "note"),
    [
        (76, [13 + 7 * i for i in range(1, 9)], None),  # the first origin has 20 days before it
        (56, [14, 21, 28, 35, 42, 49], "6 back-test origins instead of 8"),
        (30, list(range(16, 24)), "8 back-test origins, 1 days apart"),
        (21, [14], "1 back-test origins, 1 days apart"),
        (20, [7, 8, 9, 10, 11, 12, 13], "1 days apart"),
        (14, [7], "1 back-test origins"),
        (13, [], "13 days of history are too short for a back-test, which needs 14"),
        (1, [], "which needs 14"),
    ],
)
def test_short_histories_have_fewer_or_closer_origins_and_say_so(make_panel: MakePanel, n_seen: int, expected: list[int], note: str | None) -> None:
    panel = make_panel(n_series=1, n_seen=n_seen)
    origins, notes = choose_origins(panel, n=8)
    assert origins.tolist() == expected
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_every_origin_can_be_looked_back_to_and_leaves_what_it_promises(make_panel: MakePanel) -> None:
    for n_seen in range(1, 90):
        for hidden, lead, n in ((0, 0, 8), (3, 2, 8), (1, 0, 1), (0, 5, 60)):
            panel = make_panel(n_series=1, n_seen=n_seen, hidden=hidden, lead=lead)
            origins, notes = choose_origins(panel, n=n)
            assert origins.size <= n
            assert (np.diff(origins) > 0).all()
            assert origins.size == n or notes
            for origin in origins:
                assert panel.seen_at(int(origin)).n_seen >= 7
                assert origin + lead + panel.horizon <= n_seen


# --- back-tests


def test_every_candidate_is_shown_each_origin_and_nothing_after_it(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(60.0), lead=1, hidden=2)
    diary = Diary()
    test = run_backtest(panel, {"diary": diary}, origins=np.array([30, 37, 44, 51]), seed=1)
    assert diary.fitted == diary.shown == [30, 37, 44, 51]
    assert test.forecasts["diary"][0, :, 0].tolist() == [27, 34, 41, 48]  # two days are not known yet
    assert test.actual[0, :, 0].tolist() == [31, 38, 45, 52]
    assert (test.n_choosing, test.choosing, test.judged) == (2, slice(0, 2), slice(2, None))
    assert test.notes == ()


def test_costly_candidates_are_fitted_every_four_weeks_and_still_shown_every_origin(make_panel: MakePanel) -> None:
    diary = Diary(costly=True)
    origins = np.array([30, 37, 44, 51, 58, 65])
    run_backtest(make_panel(np.ones((1, 80))), {"diary": diary}, origins=origins, seed=1)
    assert diary.fitted == [30, 58]
    assert diary.shown == origins.tolist()


def test_a_candidate_that_the_last_origin_refuses_is_left_out_with_its_reason(make_panel: MakePanel) -> None:
    panel = make_panel(np.ones((1, 60)))
    test = run_backtest(panel, {"diary": Diary(least=99), "weekday_mean": WeekdayMean()}, origins=np.array([30, 37]), seed=1)
    assert set(test.forecasts) == {"weekday_mean"}
    assert test.refused == {"diary": "diary needs 99 days."}
    grown = run_backtest(panel, {"diary": Diary(least=35)}, origins=np.array([30, 37]), seed=1)
    assert grown.refused == {}
    assert np.isnan(grown.forecasts["diary"][:, 0]).all()
    assert np.isfinite(grown.forecasts["diary"][:, 1]).all()


def test_few_origins_choose_and_judge_and_say_so(make_panel: MakePanel) -> None:
    test = run_backtest(make_panel(np.ones((1, 60))), {"weekday_mean": WeekdayMean()}, origins=np.array([30, 37, 44]), seed=1, notes=("first",))
    assert (test.n_choosing, test.choosing, test.judged) == (0, slice(0, None), slice(0, None))
    assert test.notes[0] == "first"
    assert "too short to keep apart" in test.notes[1]


def test_without_origins_only_baselines_that_can_be_fitted_are_left(make_panel: MakePanel) -> None:
    candidates = {"diary": Diary(), "seasonal_naive_14": SeasonalNaive(14), "weekday_mean": WeekdayMean()}
    test = run_backtest(make_panel(np.ones((2, 10))), candidates, origins=np.empty(0, dtype=np.int64), seed=1)
    assert set(test.forecasts) == {"weekday_mean"}
    assert test.forecasts["weekday_mean"].shape == test.actual.shape == (2, 0, 7)
    assert "nothing would show what it is worth" in test.refused["diary"]
    assert "needs 14 days" in test.refused["seasonal_naive_14"]


def test_progress_is_told_after_each_origin(make_panel: MakePanel) -> None:
    told: list[tuple[int, int]] = []
    panel = make_panel(np.ones((1, 60)))
    run_backtest(panel, {}, origins=np.array([30, 37]), seed=1, advance=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_closed_and_censored_days_are_not_scored_nor_days_that_are_not_seen(make_panel: MakePanel) -> None:
    plan = np.ones((1, 37), dtype=np.float32)
    plan[0, 21] = 0
    censored = np.zeros((1, 30), dtype=np.float32)
    censored[0, 22] = 0.5
    panel = make_panel(np.arange(30.0), ahead={"open": plan}, open_fact="open", censored=censored)
    actual = cut_actual(panel, np.array([20, 27]))
    np.testing.assert_array_equal(actual[0, 0], [20, NAN, NAN, 23, 24, 25, 26])
    np.testing.assert_array_equal(actual[0, 1], [27, 28, 29, NAN, NAN, NAN, NAN])


# --- limits


def test_limits_rest_on_what_was_known_before_each_origin(make_panel: MakePanel) -> None:
    panel = make_panel(n_seen=100)
    origins = np.array([44, 51, 58, 65, 72])
    test = run_backtest(panel, {"weekday_mean": WeekdayMean()}, origins=origins, seed=1)
    forecast = test.forecasts["weekday_mean"]
    lower, upper = bound_backtest(panel, test, forecast)
    assert np.isnan(lower[:, 0]).all()
    assert np.isfinite(lower[:, 1:]).all()
    assert (lower[:, 1:] <= forecast[:, 1:]).all()
    assert (upper[:, 1:] >= forecast[:, 1:]).all()
    for place, origin in enumerate(origins):
        values = panel.observed.copy()
        values[:, origin:] = 9999
        other = make_panel(values, ahead=panel.ahead)
        later = run_backtest(other, {"weekday_mean": WeekdayMean()}, origins=origins, seed=1)
        low, high = bound_backtest(other, later, later.forecasts["weekday_mean"])
        np.testing.assert_array_equal(low[:, : place + 1], lower[:, : place + 1])
        np.testing.assert_array_equal(high[:, : place + 1], upper[:, : place + 1])
        assert place + 1 == origins.size or (high[:, place + 1] != upper[:, place + 1]).any()


@pytest.mark.parametrize("hidden", [0, 3])
def test_limits_leave_out_targets_that_are_not_known_yet(make_panel: MakePanel, hidden: int) -> None:
    """The first origin's targets, all wrong by 100, are known to the second but for the days that are hidden."""
    values = np.full((3, 60), 50.0)
    values[:, 40:47] = 150
    panel = make_panel(values, hidden=hidden)
    test = run_backtest(panel, {"weekday_mean": WeekdayMean()}, origins=np.array([40, 41, 40 + hidden + 1]), seed=1)
    _, upper = bound_backtest(panel, test, test.forecasts["weekday_mean"])
    assert np.isnan(upper[:, 1]).all() == (hidden > 0)
    assert (upper[:, 2] > test.forecasts["weekday_mean"][:, 2] + 90).all()


def test_limits_rest_on_outcomes_as_they_stood_then(make_panel: MakePanel) -> None:
    values = np.full((2, 60), 50.0) + np.arange(60) % 5
    panel = make_panel(values)
    restated = Revisions(np.array([0, 0]), np.array([42, 42]), np.array([43, 55]), np.array([values[0, 42], 999], dtype=np.float32))
    last = panel.observed.copy()
    last[0, 42] = 999
    revised = make_panel(last, revisions={"target": restated})
    origins = np.array([41, 48, 56])
    bounds = []
    for one in (panel, revised):
        test = run_backtest(one, {"weekday_mean": WeekdayMean()}, origins=origins, seed=1)
        bounds.append(bound_backtest(one, test, test.forecasts["weekday_mean"]))
    np.testing.assert_array_equal(bounds[0][1][:, 1], bounds[1][1][:, 1])
    assert (bounds[0][1][0, 2] != bounds[1][1][0, 2]).any()
