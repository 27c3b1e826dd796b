"""A method by member: chosen where the evidence allows, by group where not; sums beside a loop over members."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.loop.features.panels.day_panels import Panel, Statics
from endcap.loop.registry.records import MemberLine
from endcap.solutions.forecasting.backtests import BackTest
from endcap.solutions.forecasting.candidates.baselines import SeasonalNaive, WeekdayMean
from endcap.solutions.forecasting.candidates.by_member import ByMember, choose_by_member
from endcap.solutions.forecasting.candidates.members import PerMember
from endcap.solutions.forecasting.candidates.shrunk_rates import ShrunkRates
from endcap.solutions.forecasting.choices import Choice, choose_methods
from endcap.solutions.forecasting.intervals import Intervals
from endcap.solutions.forecasting.member_figures import measure_members
from endcap.solutions.forecasting.memberships import find_members
from endcap.solutions.forecasting.training import TrainedTrial, TrialEvidence

N_ORIGINS, HORIZON = 4, 7


def make_panel(n: int, *, cities: int = 1, items: int = 1) -> Panel:
    stores = tuple(str(i // items) for i in range(n))
    keys = {"store": stores} if items == 1 else {"store": stores, "item": tuple(str(i % items) for i in range(n))}
    city = Statics(np.array([(i // items) % cities for i in range(n)], dtype=np.int32), tuple(f"c{i}" for i in range(cities)))
    return Panel(
        keys=keys,
        key_types={},
        start=date(2026, 1, 5),
        origin=100,
        hidden=0,
        lead=0,
        horizon=HORIZON,
        observed=np.ones((n, 100), dtype=np.float32),
        statics={"city": city},
    )


def make_cubes(n: int, errors: dict[str, np.ndarray], *, seed: int = 1, noise: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Actual values of 100, and forecasts whose usual absolute error for each series is given by method."""
    rng = np.random.default_rng(seed)
    actual = np.full((n, N_ORIGINS, HORIZON), 100.0)
    return actual, {name: actual + size[:, None, None] * np.exp(0.3 * noise * rng.normal(size=actual.shape)) for name, size in errors.items()}


def choose(panel: Panel, actual: np.ndarray, cubes: dict[str, np.ndarray], *, by: tuple[str, ...] = ()) -> Choice:
    return choose_methods(panel, find_members(panel.keys, by=by), actual=actual, forecasts=cubes)


def test_without_a_difference_everybody_takes_the_best_overall() -> None:
    """Methods that err alike leave nobody apart, whatever noise says of single members."""
    panel = make_panel(400, cities=4)
    apart = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        actual = np.full((400, N_ORIGINS, HORIZON), 100.0)
        cubes = {name: actual + rng.normal(0, 20, actual.shape) for name in ("a", "b", "c")}
        apart += len(choose(panel, actual, cubes).by_member)
    assert apart <= 0.02 * 5 * 400


def test_a_fifth_of_the_members_has_a_method_of_its_own() -> None:
    special = np.arange(200) % 5 == 0
    errors = {"a": np.where(special, 30.0, 10.0), "b": np.where(special, 10.0, 20.0)}
    choice = choose(make_panel(200), *make_cubes(200, errors))
    assert choice.overall == "a"
    assert set(choice.by_member) == {str(i) for i in np.flatnonzero(special)}
    assert set(choice.by_member.values()) == {"b"}


def test_a_group_has_a_method_of_its_own_and_new_members_take_it() -> None:
    panel = make_panel(60, cities=3)
    errors = {"a": np.where(np.arange(60) % 3 == 1, 16.0, 10.0), "b": np.where(np.arange(60) % 3 == 1, 10.0, 14.0)}
    choice = choose(panel, *make_cubes(60, errors))
    assert (choice.overall, choice.group, choice.by_group, choice.by_member) == ("a", "city", {"c1": "b"}, {})
    later = make_panel(62, cities=3)
    assert choice.of_series(later, find_members(later.keys))[60:] == ["a", "b"]


def test_members_of_several_series_are_chosen_as_one() -> None:
    panel = make_panel(80, items=2)
    special = (np.arange(80) // 2) % 4 == 0
    errors = {"a": np.where(special, 30.0, 10.0), "b": np.where(special, 10.0, 20.0)}
    choice = choose(panel, *make_cubes(80, errors), by=("store",))
    assert set(choice.by_member) == {str(i) for i in range(0, 40, 4)}
    assert choice.of_series(panel, find_members(panel.keys, by=("store",)))[:4] == ["b", "b", "a", "a"]


@pytest.mark.parametrize("n_origins", [1, 2, 3])
def test_few_origins_or_members_choose_for_all(n_origins: int) -> None:
    errors = {"a": np.full(3, 10.0), "b": np.array([1.0, 20.0, 20.0])}
    actual, cubes = make_cubes(3, errors)
    choice = choose(make_panel(3), actual[:, :n_origins], {name: cube[:, :n_origins] for name, cube in cubes.items()})
    assert choice == Choice("a", None, {}, {})


def test_rows_that_a_method_did_not_answer_do_not_count() -> None:
    actual, cubes = make_cubes(30, {"a": np.full(30, 10.0), "b": np.full(30, 12.0)})
    cubes["b"][:, :, 3:] = np.nan
    cubes["a"][:, :, 3:] += 1000
    assert choose(make_panel(30), actual, cubes).overall == "a"


def backtest(cubes: dict[str, np.ndarray], actual: np.ndarray, n_choosing: int) -> BackTest:
    return BackTest(np.array([70, 77, 84, 91]), n_choosing, actual, cubes, {})


def test_judged_origins_do_not_choose_and_choosing_ones_are_forecast_by_the_others() -> None:
    """Outcomes of the judged origins, and of an origin itself, may be anything: its forecasts stay the same."""
    candidate = ByMember((WeekdayMean(), ShrunkRates(), PerMember()))
    special = np.arange(40) % 4 == 0
    errors = {"weekday_mean": np.full(40, 20.0), "shrunk_rates": np.where(special, 40.0, 10.0), "members": np.where(special, 10.0, 25.0)}
    actual, cubes = make_cubes(40, errors)
    panel = make_panel(40)
    chosen, test = choose_by_member(panel, candidate, backtest(cubes, actual, 3))
    assert chosen.choice is not None
    assert set(chosen.choice.by_member.values()) == {"members"}
    for place in range(4):
        changed = actual.copy()
        changed[:, place] += 8 * np.where(special, 1, -1)[:, None]
        changed[0, place] = cubes["weekday_mean"][0, place]  # as if that had been perfect for it
        _, other = choose_by_member(panel, candidate, backtest(cubes, changed, 3))
        np.testing.assert_array_equal(other.forecasts["by_member"][:, place], test.forecasts["by_member"][:, place])
    np.testing.assert_array_equal(test.forecasts["by_member"][special, 3], cubes["members"][special, 3])
    np.testing.assert_array_equal(test.forecasts["by_member"][~special, 3], cubes["shrunk_rates"][~special, 3])


def test_where_nobody_is_told_apart_the_candidate_is_refused_and_says_so() -> None:
    actual, cubes = make_cubes(40, {"weekday_mean": np.full(40, 20.0), "shrunk_rates": np.full(40, 10.0)})
    _, test = choose_by_member(make_panel(40), ByMember((WeekdayMean(), ShrunkRates())), backtest(cubes, actual, 2))
    assert "by_member" not in test.forecasts
    assert test.refused["by_member"].startswith("by_member finds no member or group")
    _, test = choose_by_member(make_panel(40), ByMember((WeekdayMean(), SeasonalNaive(7))), backtest({}, actual, 2))
    assert "needs a model" in test.refused["by_member"]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.sampled_from([1, 2, 3]), n_choosing=st.sampled_from([0, 2]))
def test_figures_by_member_are_those_of_a_loop_over_members(seed: int, items: int, n_choosing: int) -> None:
    rng = np.random.default_rng(seed)
    n = 6 * items
    panel = make_panel(n, cities=2, items=items)
    actual = rng.poisson(20, (n, N_ORIGINS, HORIZON)).astype(float)
    actual[rng.random(actual.shape) < 0.2] = np.nan
    actual[:items] = np.nan
    cubes = {"weekday_mean": actual + rng.normal(0, 4, actual.shape), "shrunk_rates": np.abs(rng.normal(20, 4, actual.shape))}
    cubes["weekday_mean"] = np.where(np.isfinite(actual), cubes["weekday_mean"], 20.0)
    lower, upper = cubes["shrunk_rates"] - 6, cubes["shrunk_rates"] + 6
    evidence = TrialEvidence("shrunk_rates", np.arange(N_ORIGINS), n_choosing, actual, lower, upper, cubes)
    trial = TrainedTrial("shrunk_rates", ShrunkRates().fit(panel, seed=1), _no_intervals(), evidence, None, {}, (), ())  # type: ignore[arg-type]
    forecast = Forecast("units", Table("s", "s.parquet", keys=tuple(panel.keys), event_time="day"), "units", members=("store",))
    rows = measure_members(panel, forecast, trial).to_pylist()
    assert [row["member"] for row in rows] == [str(i) for i in range(6)]
    assert set(rows[0]) - {"fact city"} <= set(MemberLine.__struct_fields__)
    for place, row in enumerate(rows):
        series = slice(place * items, (place + 1) * items)
        y, f, b = (cube[series, n_choosing:].reshape(-1) for cube in (actual, cubes["shrunk_rates"], cubes["weekday_mean"]))
        kept = np.isfinite(y)
        y, f, b = y[kept], f[kept], b[kept]
        assert row["n"] == y.size
        if y.size == 0:
            assert (row["wape"], row["ratio"], row["status"]) == (None, None, "unsure")
            continue
        assert row["wape"] == pytest.approx(np.abs(f - y).sum() / y.sum())
        assert row["mae"] == pytest.approx(np.abs(f - y).mean())
        assert row["bias"] == pytest.approx((f - y).sum() / y.sum())
        assert row["coverage_90"] == pytest.approx(((f - 6 <= y) & (y <= f + 6)).mean())
        assert row["baseline_wape"] == pytest.approx(np.abs(b - y).sum() / y.sum())
        assert row["ratio"] == pytest.approx(np.abs(f - y).sum() / np.abs(b - y).sum())
        assert row["fact city"] == f"c{place % 2}"
        if row["status"] == "good":
            assert row["ratio"] <= 1
        if row["status"] == "bad":
            assert row["ratio"] > 1


def _no_intervals() -> Intervals:
    return Intervals((), np.empty(0), 1.0, -np.ones(7), np.ones(7), 0)


def status_of(errors: np.ndarray, rival: np.ndarray, *, seed: int = 1) -> list[str]:
    """Statuses of members whose forecasts err as given, against a baseline's."""
    panel = make_panel(len(errors))
    actual, cubes = make_cubes(len(errors), {"shrunk_rates": errors, "weekday_mean": rival}, seed=seed, noise=2.0)
    evidence = TrialEvidence("shrunk_rates", np.arange(N_ORIGINS), 0, actual, actual - 1, actual + 1, cubes)
    trial = TrainedTrial("shrunk_rates", ShrunkRates().fit(panel, seed=1), _no_intervals(), evidence, None, {}, (), ())  # type: ignore[arg-type]
    forecast = Forecast("units", Table("s", "s.parquet", keys=("store",), event_time="day"), "units")
    return [str(status) for status in measure_members(panel, forecast, trial)["status"].to_pylist()]


def test_bad_members_are_found_and_few_others_are_called_bad() -> None:
    bad = np.arange(500) % 20 == 0
    found = status_of(np.where(bad, 30.0, 10.0), np.full(500, 10.0))
    called = [i for i, status in enumerate(found) if status == "bad"]
    assert set(np.flatnonzero(bad)) <= set(called)
    assert len(called) - bad.sum() <= 0.15 * len(called)
    assert status_of(np.full(500, 10.0), np.full(500, 10.0), seed=3).count("bad") <= 3, "with nothing to find, next to nothing is found"
    assert set(status_of(np.full(50, 10.0), np.full(50, 30.0))) == {"good"}
