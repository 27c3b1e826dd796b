"""What comes after an origin changes nothing that is seen, learned, judged or forecast there, however it is garbled in the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.aggregates import max, mean  # noqa: A004 - the words of the house
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Contract, Table
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.registry.records import Version
from endcap.loop.retraining.tasks import DataRef, Trial
from endcap.pipelines.graph import SilentReporter, StepContext
from endcap.solutions.forecasting.hours.shards import ShardSource, forget_shards
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.testing.sessions import make_session

FIRST = datetime(2026, 1, 5, tzinfo=UTC)
N_DAYS, STORES, ITEMS, HORIZON = 26, 3, 2, 30
NOW = FIRST + timedelta(days=N_DAYS)
QUICK = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """Columns of sales and of a plan by day; hours are counted from ``FIRST``."""

    forecast: Forecast
    sales: Rows
    plan: Rows

    def write(self, folder: Path) -> None:
        pq.write_table(as_table(self.sales), folder / "sales.parquet")
        pq.write_table(as_table(self.plan), folder / "plan.parquet")
        pq.write_table(pa.table({"store": range(STORES), "city": ["north", "south", "north"]}), folder / "stores.parquet")


def as_table(rows: Rows) -> pa.Table:
    columns: dict[str, Any] = dict(rows)
    for name in ("ts", "day"):
        if name in rows:
            columns[name] = np.datetime64(FIRST.replace(tzinfo=None), "us") + rows[name] * np.timedelta64(1, "h")
    if "known" in rows:
        columns["known"] = pa.array(np.datetime64(FIRST.replace(tzinfo=None), "us") + (rows["known"] * 3600e6).astype("timedelta64[us]"))
        columns["known"] = columns["known"].cast(pa.timestamp("us", tz="UTC"))
    return pa.table(columns)


def make_world(*, known_at: bool = False, known_after: str = "0h") -> World:
    rng = np.random.default_rng(4)
    store, item, hour = (a.reshape(-1) for a in np.meshgrid(np.arange(STORES), np.arange(ITEMS), np.arange(N_DAYS * 24), indexing="ij"))
    usual = (1 + store + item) * np.exp(-(((hour % 24) - 13) ** 2) / 20)
    sales = {"store": store, "item": item, "ts": hour, "units": rng.poisson(usual).astype(float), "out": (rng.random(hour.size) < 0.1).astype(float)}
    if known_at:
        delay = np.where(rng.random(hour.size) < 0.1, rng.uniform(1, 80, hour.size), 1.0)
        sales["known"] = hour + delay
        again = np.flatnonzero(rng.random(hour.size) < 0.1)
        extra = {name: values[again] for name, values in sales.items()}
        extra["units"], extra["out"] = extra["units"] + 3.0, 1 - extra["out"]
        extra["known"] = extra["known"] + rng.integers(1, 90, again.size)
        sales = {name: np.concatenate([values, extra[name]]) for name, values in sales.items()}
    day = np.tile(np.arange(N_DAYS + 5), STORES) * 24
    plan = {"store": np.repeat(np.arange(STORES), N_DAYS + 5), "day": day, "promo": rng.random(day.size)}
    table = Table("sales", "sales.parquet", keys=("store", "item"), event_time="ts", known_after=known_after, known_at="known" if known_at else None)
    forecast = Forecast(
        "units",
        table,
        "units",
        every="1h",
        horizon=f"{HORIZON}h",
        censored=max("out"),
        known_ahead={"promo": mean("promo", table=Table("plan", "plan.parquet", keys=("store",), event_time="day", contract=Contract(future=True)))},
        static=Table("stores", "stores.parquet", keys=("store",)),
        candidates=["shrunk_rates"],
        backtest_origins=2,
    )
    return World(forecast, sales, plan)


WORLDS = {"plain": make_world(), "six hours late": make_world(known_after="6h"), "late and restated": make_world(known_at=True)}


def garble(world: World, origin: int, rng: np.random.Generator) -> World:
    """Every row that is not known at an origin becomes another, comes twice or goes; and the plan beyond the day of the last target."""
    hidden = 6 if world.forecast.table.known_after == "6h" else 0
    unknown = world.sales["known"] > origin if "known" in world.sales else world.sales["ts"] >= origin - hidden
    beyond = world.plan["day"] >= -(-(origin + HORIZON) // 24) * 24
    return replace(world, sales=spoil(world.sales, unknown, ("units", "out"), rng), plan=spoil(world.plan, beyond, ("promo",), rng))


def spoil(rows: Rows, hit: np.ndarray, columns: tuple[str, ...], rng: np.random.Generator) -> Rows:
    wild = np.array([np.nan, np.inf, -5.0, 0.0, 1.0, 1e9])
    changed = {name: values.copy() for name, values in rows.items()}
    for name in columns:
        changed[name][hit] = wild[rng.integers(wild.size, size=hit.sum())]
    times = np.where(hit, rng.integers(0, 3, hit.size), 1)
    order = rng.permutation(np.repeat(np.arange(hit.size), times))
    return {name: values[order] for name, values in changed.items()}


@dataclass
class Desk:
    session: Session
    folder: Path
    task: HourForecastTask

    def context(self) -> StepContext:
        return StepContext("step", "run_1", {}, SilentReporter())

    def assemble(self, *, origin: int | None = None) -> DataRef:
        ingests = {table.name: ingest(self.session, table, folder=self.folder) for table in self.task.tables}
        moment = None if origin is None else (FIRST + timedelta(hours=origin)).strftime("%Y-%m-%dT%H:00")
        return self.task.assemble(self.session, self.context(), ingests=ingests, folder=self.folder, now=NOW, origin=moment)

    def source(self, data: DataRef) -> ShardSource:
        return self.task.open_data(self.session, data)[1]

    def answer(self, trial: Trial, data: DataRef) -> pa.Table:
        version = Version(
            id="units-v1",
            model="units",
            n=1,
            candidate=trial.candidate,
            identity="i",
            created_at=NOW,
            created_by="ada",
            run="run_1",
            files=trial.files,
            metrics=trial.metrics,
            leaderboard=trial.leaderboard,
            baselines=trial.baselines,
            trained_until=date(2026, 1, 1),
        )
        return pa.concat_tables(self.task.answer(self.session, version, data).parts)


@pytest.fixture(scope="module")
def open_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[World], Desk]]:
    home, numbers = tmp_path_factory.mktemp("worlds"), count()

    def make(world: World) -> Desk:
        folder = home / str(next(numbers))
        folder.mkdir()
        world.write(folder)
        return Desk(make_session(start=NOW), folder, HourForecastTask(world.forecast))

    yield make
    forget_shards()


def parts_of(panel: HourPanel) -> dict[str, bytes]:
    assert panel.unseen is not None
    statics = {name: fact.codes.tobytes() for name, fact in panel.statics.items()}
    daily = {name: values.tobytes() for name, values in panel.daily.items()}
    return {"sold": panel.sold.tobytes(), "unseen": panel.unseen.tobytes(), **daily, **statics}


@pytest.mark.parametrize("name", WORLDS)
@QUICK
@given(seed=st.integers(0, 2**32 - 1), origin=st.integers(7, N_DAYS * 24))
def test_a_panel_does_not_change_with_what_it_may_not_see(open_desk: Callable[[World], Desk], name: str, seed: int, origin: int) -> None:
    world = WORLDS[name]
    plain, garbled = open_desk(world), open_desk(garble(world, origin, np.random.default_rng(seed)))
    one = plain.source(plain.assemble(origin=origin)).read(0)
    other = garbled.source(garbled.assemble(origin=origin)).read(0)
    assert (one.origin, one.hidden, one.start) == (other.origin, other.hidden, other.start)
    assert parts_of(one) == parts_of(other)
    back = garbled.source(garbled.assemble()).read(0).seen_at(origin)
    assert parts_of(back) == parts_of(one)
    short = garbled.source(garbled.assemble(origin=origin)).read(0, look_back_days=3)
    assert parts_of(short.latest(3)) == parts_of(one.latest(3)), "a panel that is kept whole is read as it is"


@dataclass(frozen=True)
class Given:
    """All that training and answering give."""

    artefacts: dict[str, dict[str, str]]
    evidence: tuple[str, ...]
    answers: dict[str, pa.Table]


def train(desk: Desk, *, origin: int) -> Given:
    data = desk.assemble(origin=origin)
    trials = desk.task.train(desk.session, desk.context(), data).trials
    return Given(
        {trial.candidate: {file.name: file.sha256 for file in trial.files} for trial in trials},
        tuple(trial.evidence for trial in trials),
        {trial.candidate: desk.answer(trial, data) for trial in trials},
    )


@pytest.mark.parametrize("name", WORLDS)
def test_what_comes_after_the_origin_changes_no_fit_no_evidence_and_no_forecast(open_desk: Callable[[World], Desk], name: str) -> None:
    world, origin = WORLDS[name], (N_DAYS - 2) * 24 + 7
    plain = train(open_desk(world), origin=origin)
    garbled = train(open_desk(garble(world, origin, np.random.default_rng(3))), origin=origin)
    assert plain.artefacts == garbled.artefacts
    assert plain.evidence == garbled.evidence
    assert set(plain.answers) == {"shrunk_rates", "same_hour_mean"}
    for candidate, table in plain.answers.items():
        assert table.num_rows == STORES * ITEMS * HORIZON
        assert table.equals(garbled.answers[candidate])


@pytest.mark.parametrize("name", WORLDS)
def test_control_what_was_seen_does_change_fits_evidence_and_forecasts(open_desk: Callable[[World], Desk], name: str) -> None:
    world, origin = WORLDS[name], (N_DAYS - 2) * 24 + 7
    hidden = 6 if world.forecast.table.known_after == "6h" else 0
    last = (world.sales["ts"] < origin - hidden) & (world.sales["ts"] >= origin - 72)
    changed = replace(world, sales={**world.sales, "units": np.where(last, world.sales["units"] * 3 + 1, world.sales["units"])})
    one, other = train(open_desk(world), origin=origin), train(open_desk(changed), origin=origin)
    for candidate in one.artefacts:
        assert one.artefacts[candidate] != other.artefacts[candidate]
        assert not one.answers[candidate].equals(other.answers[candidate])
    assert one.evidence != other.evidence


def test_a_series_whose_first_row_lies_after_the_origin_is_not_answered_and_moves_nobody(open_desk: Callable[[World], Desk]) -> None:
    world, origin = WORLDS["plain"], (N_DAYS - 2) * 24 + 7
    new = {
        "store": np.array([1, 1]),
        "item": np.array([9, 9]),
        "ts": np.array([origin, origin + 1]),
        "units": np.array([5.0, 5.0]),
        "out": np.zeros(2),
    }
    later = replace(world, sales={name: np.concatenate([values, new[name]]) for name, values in world.sales.items()})
    one, other = train(open_desk(world), origin=origin), train(open_desk(later), origin=origin)
    for candidate, table in one.answers.items():
        assert other.answers[candidate].select(["store", "item", "ts"]).equals(table.select(["store", "item", "ts"]))
        np.testing.assert_allclose(np.array(other.answers[candidate]["forecast"]), np.array(table["forecast"]), rtol=1e-5)
