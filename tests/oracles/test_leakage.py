"""No look ahead: what comes after an origin, or became known after it, changes nothing that is forecast at it, to the last bit.

Raw rows are garbled, written to files, and everything downstream is done again. Each such test has a control that shows it can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.aggregates import mean
from endcap.core.definitions.forecasts import CANDIDATES, Forecast
from endcap.core.definitions.tables import Table
from endcap.loop.features.panels.day_loading import LoadedPanel
from endcap.loop.features.panels.day_panels import Panel, encode_panel
from endcap.solutions.forecasting.backtests import BackTest, bound_backtest, choose_origins, run_backtest
from endcap.solutions.forecasting.finishing import finish
from endcap.solutions.forecasting.training import build_candidates, finish_trial

pytestmark = pytest.mark.usefixtures("one_thread")
FIRST = date(2026, 1, 5)
NOW = datetime(2026, 12, 1, tzinfo=UTC)
N_DAYS, N_STORES, ORIGIN, HORIZON = 132, 6, 112, 7
DAY = timedelta(days=1)
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
Load = Callable[..., LoadedPanel]
Rows = list[dict[str, Any]]


def day(tick: int) -> date:
    return FIRST + timedelta(days=tick)


def instant(tick: float) -> datetime:
    return datetime.combine(FIRST, time(), tzinfo=UTC) + tick * DAY


@dataclass(frozen=True)
class World:
    """A definition and the rows of its tables."""

    forecast: Forecast
    sales: Rows
    plan: Rows
    stores: Rows

    def load(self, load: Load, *, origin: int = ORIGIN) -> Panel:
        tables = {"sales": self.sales, "plan": self.plan, "stores": self.stores}
        columns = {name: {c: [row[c] for row in rows] for c in rows[0]} for name, rows in tables.items()}
        panel = load(self.forecast, columns, now=NOW, origin=day(origin)).panel
        assert panel.origin == origin
        return panel


def make_world(*, known_after: str = "0h", lead: int = 0, known_at: bool = False) -> World:
    """Six stores, one of them new, with promotions, prices, closed days, stock-outs, visitors and, if asked for, rows that come late."""
    rng = np.random.default_rng(11)
    sales, plan = [], []
    for store in range(N_STORES):
        level = rng.uniform(5, 60)
        for tick in range(0 if store < N_STORES - 1 else 60, N_DAYS):
            promo, price = float(rng.random() < 0.2), round(float(rng.uniform(2, 5)), 2)
            closed = (tick + store) % 37 == 0
            known = {"known": instant(tick + 1.1 + (rng.integers(0, 9) if rng.random() < 0.2 and tick > 3 else 0))} if known_at else {}
            units = float(rng.poisson(level * (1 + 0.6 * promo) * (1.4 if (tick % 7) > 4 else 1.0)))
            row = {"store": store, "day": day(tick), "units": 0.0 if closed else units, "out": float(rng.random() < 0.05), "visitors": units + 9}
            sales.append({**row, **known})
            if known_at and rng.random() < 0.1:
                sales.append({**row, "units": units + 7, "known": row_known(known) + float(rng.integers(1, 12)) * DAY})
            told = {"told": instant(tick - 30)} if known_at else {}
            plan.append({"store": store, "day": day(tick), "promo": promo, "price": price, "open": float(not closed), **told})
            if known_at and rng.random() < 0.1:
                plan.append({**plan[-1], "promo": 1 - promo, "price": price + 1, "told": instant(tick - float(rng.integers(0, 20)))})
    sales_table = Table("sales", "sales.parquet", keys=("store",), event_time="day", known_after=known_after, known_at="known" if known_at else None)
    plan_table = Table("plan", "plan.parquet", keys=("store",), event_time="day", known_at="told" if known_at else None)
    forecast = Forecast(
        "units",
        sales_table,
        "units",
        lead=f"{lead}d",
        horizon=f"{HORIZON}d",
        known_ahead={name: mean(name, table=plan_table) for name in ("promo", "price", "open")},
        past=["visitors"],
        open="open",
        censored="out",
        static=Table("stores", "stores.parquet", keys=("store",)),
        holidays="DE",
        backtest_origins=4,
    )
    return World(forecast, sales, plan, [{"store": s, "region": "north" if s % 2 else "south"} for s in range(N_STORES)])


def row_known(known: dict[str, datetime]) -> datetime:
    return known["known"]


def spoil(row: dict[str, Any], rng: np.random.Generator) -> Rows:
    """A row made wrong: other values, none at all, twice, or not there."""
    wild: list[float | None] = [None, float("nan"), float("inf"), -5.0, 0.0, 1.0, 1e9]
    garbled = {c: wild[rng.integers(len(wild))] if isinstance(v, float) else v for c, v in row.items()}
    return [[], [garbled], [garbled, garbled], [row, garbled]][rng.integers(4)]


def garble(rows: Rows, rng: np.random.Generator, *, hit: Callable[[dict[str, Any]], bool]) -> Rows:
    changed = [new for row in rows for new in (spoil(row, rng) if hit(row) else [row])]
    return [changed[i] for i in rng.permutation(len(changed))]


def garble_after(world: World, origin: int, rng: np.random.Generator) -> World:
    """Every observed value that is not seen at the origin, and every known-ahead value beyond its targets."""
    hidden = 2 if world.forecast.table.known_after == "36h" else 0
    first_unseen, beyond = day(origin - hidden), day(origin + world.forecast.lead_days + HORIZON)
    return replace(
        world,
        sales=garble(world.sales, rng, hit=lambda row: row["day"] >= first_unseen),
        plan=garble(world.plan, rng, hit=lambda row: row["day"] >= beyond),
    )


def garble_later(world: World, origin: int, rng: np.random.Generator) -> World:
    """Every row that became known after the origin, and more such rows about any day."""
    at = instant(origin)
    extra = [
        {**row, "units": 1e6, "out": 1.0, "visitors": 0.0, "known": at + timedelta(microseconds=1) + float(rng.integers(0, 9)) * DAY}
        for row in world.sales
        if rng.random() < 0.1
    ]
    retold = [{**row, "promo": 1 - row["promo"], "open": 0.0, "told": at + timedelta(seconds=1)} for row in world.plan if rng.random() < 0.1]
    return replace(
        world,
        sales=garble(world.sales, rng, hit=lambda row: row["known"] > at) + extra,
        plan=garble(world.plan, rng, hit=lambda row: row["told"] > at) + retold,
    )


WORLDS = {
    "plain": make_world(),
    "known 36 h after, lead 2 d": make_world(known_after="36h", lead=2),
    "late and restated rows": make_world(known_at=True),
    "late rows, lead 1 d": make_world(known_at=True, lead=1),
}


def garble_unseen(world: World, origin: int, rng: np.random.Generator) -> World:
    return garble_later(world, origin, rng) if world.forecast.table.known_at else garble_after(world, origin, rng)


@pytest.mark.parametrize("name", WORLDS)
@QUICK
@given(seed=st.integers(0, 2**32 - 1), origin=st.integers(40, ORIGIN))
def test_a_panel_does_not_change_with_what_it_may_not_see(load: Load, name: str, seed: int, origin: int) -> None:
    garbled = garble_unseen(WORLDS[name], origin, np.random.default_rng(seed))
    assert encode_panel(garbled.load(load, origin=origin)) == encode_panel(WORLDS[name].load(load, origin=origin))


@pytest.mark.parametrize("name", WORLDS)
@QUICK
@given(seed=st.integers(0, 2**32 - 1), origin=st.integers(40, ORIGIN))
def test_looking_back_shows_the_panel_of_that_day(load: Load, name: str, seed: int, origin: int) -> None:
    world = WORLDS[name]
    then = world.load(load, origin=origin)
    garbled = garble_unseen(world, origin, np.random.default_rng(seed)).load(load).seen_at(origin)
    for part, values in arrays_of(then).items():
        np.testing.assert_array_equal(arrays_of(garbled)[part], values, err_msg=part)
    assert (garbled.keys, garbled.start, garbled.origin, garbled.hidden) == (then.keys, then.start, then.origin, then.hidden)


def arrays_of(panel: Panel) -> dict[str, np.ndarray]:
    assert panel.censored is not None
    return {"observed": panel.observed, "target": panel.target, "censored": panel.censored, **panel.ahead, **panel.past}


@dataclass(frozen=True)
class Answer:
    """All that training gives: fits as bytes, forecasts with limits, and the evidence of the back-test."""

    artefacts: dict[str, dict[str, bytes]]
    forecasts: dict[str, tuple[bytes, ...]]
    evidence: dict[str, tuple[bytes, ...]]


def answer(world: World, load: Load) -> Answer:
    panel = world.load(load)
    candidates = build_candidates(CANDIDATES)
    origins, notes = choose_origins(panel, n=world.forecast.n_origins)
    test = run_backtest(panel, candidates, origins=origins, seed=world.forecast.seed, notes=notes)
    artefacts, forecasts, evidence = {}, {}, {}
    for name in test.forecasts:
        trial = finish_trial(panel, world.forecast, test, candidates, name)
        artefacts[trial.candidate] = {name: artefact.payload for name, artefact in trial.to_artefacts().items()}
        values = finish(trial.fit.predict(panel), panel)
        forecasts[trial.candidate] = tuple(part.tobytes() for part in (values, *trial.intervals.apply(values, panel)))
        kept = trial.evidence
        evidence[trial.candidate] = tuple(cube.tobytes() for cube in (kept.actual, kept.lower, kept.upper, *kept.forecasts.values()))
    return Answer(artefacts, forecasts, evidence)


@pytest.mark.parametrize("name", ["plain", "known 36 h after, lead 2 d", "late and restated rows"])
def test_what_comes_after_the_origin_changes_no_forecast_no_interval_and_no_evidence(load: Load, name: str) -> None:
    before, after = answer(WORLDS[name], load), answer(garble_unseen(WORLDS[name], ORIGIN, np.random.default_rng(5)), load)
    assert set(before.forecasts) == set(CANDIDATES) - {"seasonal_naive_364"}
    assert {part.split(".")[0] for part in before.artefacts["average"]} == {"shrunk_rates", "trees", "members", "intervals"}
    assert after == before


@dataclass(frozen=True)
class Judged:
    test: BackTest
    bounds: dict[str, tuple[np.ndarray, np.ndarray]]


def backtest(world: World, load: Load, origins: list[int]) -> Judged:
    panel = world.load(load)
    test = run_backtest(panel, build_candidates(CANDIDATES), origins=np.array(origins), seed=7)
    return Judged(test, {name: bound_backtest(panel, test, cube) for name, cube in test.forecasts.items()})


def until(tested: Judged, place: int, *, lower: bool = True) -> dict[str, list[bytes]]:
    found = {}
    for name, cube in tested.test.forecasts.items():
        bounds = tested.bounds[name] if lower else ()
        found[name] = [part[:, : place + 1].tobytes() for part in (cube, *bounds)]
    return found


BACK = [77, 91, 98]  # ticks; the trees are fitted once, at the first


@pytest.mark.parametrize("name", WORLDS)
def test_rows_after_a_back_tests_origin_change_none_of_its_forecasts_and_limits(load: Load, name: str) -> None:
    world, rng = WORLDS[name], np.random.default_rng(3)
    before = backtest(world, load, BACK)
    assert set(before.test.forecasts) == set(CANDIDATES) - {"seasonal_naive_364"}
    assert np.isfinite(before.bounds["trees"][0][:, 1:]).all()
    for place in (0, 1):
        after = backtest(garble_unseen(world, BACK[place], rng), load, BACK[: place + 1] if place == 0 else BACK)
        # The garble starts right after this origin, so that a candidate which looks one day too far shows it.
        assert until(after, place) == until(before, place)


def test_candidates_that_are_fitted_anew_see_no_restatement_before_it_was_made(load: Load) -> None:
    """A row known after an origin of the back-test and before the panel's own stands in the panel, and not in what the origin saw."""
    world = WORLDS["late and restated rows"]
    at, end = instant(BACK[1]), instant(ORIGIN)
    late = [{**row, "units": row["units"] + 1000, "known": at + 1 * DAY} for row in world.sales if row["day"] < day(BACK[1]) and row["known"] < at]
    changed = replace(world, sales=world.sales + late)
    assert late
    assert at < late[0]["known"] < end
    before, after = backtest(world, load, BACK), backtest(changed, load, BACK)
    assert until(after, 1) == until(before, 1)
    assert until(after, 2) != until(before, 2)
    assert (world.load(load).observed[:, :60] != changed.load(load).observed[:, :60]).any()


@pytest.mark.parametrize("name", WORLDS)
def test_control_rows_that_were_seen_do_change_every_candidate(load: Load, name: str) -> None:
    world = WORLDS[name]
    hidden = 2 if world.forecast.table.known_after == "36h" else 0
    origin = BACK[0]
    at = instant(origin)

    def seen_last(row: dict[str, Any]) -> bool:
        in_reach = day(origin - hidden - 21) <= row["day"] < day(origin - hidden)
        return in_reach and (world.forecast.table.known_at is None or row["known"] <= at)

    changed = replace(world, sales=[{**row, "units": row["units"] * 3 + 1} if seen_last(row) else row for row in world.sales])
    before, after = backtest(world, load, [origin]), backtest(changed, load, [origin])
    assert {name for name in before.test.forecasts if until(before, 0)[name] == until(after, 0)[name]} == set()
    told = replace(world, plan=[{**row, "promo": 1.0 - row["promo"]} if day(origin) <= row["day"] < day(origin + 9) else row for row in world.plan])
    moved = backtest(told, load, [origin])
    same = {name for name in before.test.forecasts if until(before, 0)[name] == until(moved, 0)[name]}
    assert same == {"seasonal_naive_7", "seasonal_naive_14", "weekday_mean"}  # they do not read what is known ahead


def test_a_series_that_is_named_only_later_is_not_there_yet(load: Load) -> None:
    world = WORLDS["late and restated rows"]
    later = {**world.sales[0], "store": 77, "day": day(3), "known": instant(ORIGIN + 1)}
    assert encode_panel(replace(world, sales=[*world.sales, later]).load(load)) == encode_panel(world.load(load))


def test_a_row_of_an_earlier_day_that_came_later_does_not_lengthen_the_axis(load: Load) -> None:
    world = WORLDS["late and restated rows"]
    earlier = {**world.sales[0], "day": FIRST - 9 * DAY, "known": instant(ORIGIN + 1)}
    assert encode_panel(replace(world, sales=[*world.sales, earlier]).load(load)) == encode_panel(world.load(load))


def test_facts_of_a_series_stand_as_they_were_known(load: Load) -> None:
    world = WORLDS["plain"]
    static = replace_struct(world.forecast.static[0], known_at="since")
    stores = [{**row, "since": instant(-9)} for row in world.stores]
    forecast = replace_struct(world.forecast, static=(static,))
    moved = [{**row, "region": "abroad", "since": instant(ORIGIN + 1)} for row in stores[:2]]
    before = replace(world, forecast=forecast, stores=stores).load(load)
    after = replace(world, forecast=forecast, stores=[*stores, *moved]).load(load)
    assert after.statics["region"].labels == before.statics["region"].labels == ("north", "south")
    np.testing.assert_array_equal(after.statics["region"].codes, before.statics["region"].codes)
    in_time = [{**row, "since": instant(ORIGIN)} for row in moved]
    seen = replace(world, forecast=forecast, stores=[*stores, *in_time]).load(load)
    assert seen.statics["region"].labels == ("abroad", "north", "south")


def test_a_fact_from_rows_that_come_with_the_day_is_missing_ahead_in_back_tests_as_in_use(load: Load) -> None:
    """Known ahead by its role, but stated only afterwards: no origin may see it for its targets."""
    world = WORLDS["late and restated rows"]
    visits = {"visits": mean("visitors", table=world.forecast.table)}
    forecast = replace_struct(world.forecast, known_ahead={**world.forecast.known_ahead, **visits}, past={})
    panel = replace(world, forecast=forecast).load(load)
    for origin in (*BACK, ORIGIN):
        seen = panel.seen_at(origin)
        assert np.isnan(seen.ahead["visits"][:, seen.targets]).all()
        assert np.isfinite(seen.ahead["visits"][:, : seen.n_seen - 10]).mean() > 0.8


def test_a_past_fact_is_seen_only_when_its_own_table_is_known(load: Load) -> None:
    world = WORLDS["plain"]
    slow = Table("plan", "plan.parquet", keys=("store",), event_time="day", known_after="5d")
    forecast = replace_struct(world.forecast, known_ahead={}, open=None, past={"heat": mean("price", table=slow)})
    world = replace(world, forecast=forecast)
    unseen = [{**row, "price": 99.0} if row["day"] >= day(ORIGIN - 5) else row for row in world.plan]
    panel = world.load(load)
    assert panel.hidden == 5
    assert encode_panel(replace(world, plan=unseen).load(load)) == encode_panel(panel)


def replace_struct(record: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(record, **changes)
