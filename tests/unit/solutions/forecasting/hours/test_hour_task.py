from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.aggregates import max  # noqa: A004 - the word of the house
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.keys.sealings import with_sealing
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.panels.hour_store import STANDING_STATES
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, Version
from endcap.loop.retraining.tasks import DataRef, Members, Trial
from endcap.pipelines.graph import SilentReporter, StepContext
from endcap.solutions.forecasting.hours import task as hour_task
from endcap.solutions.forecasting.hours.shards import forget_shards
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.testing.sessions import make_session

FIRST = datetime(2026, 1, 5)  # noqa: DTZ001 - local by design
N_DAYS, STORES, ITEMS, HORIZON = 24, 3, 2, 6
NOW = FIRST.replace(tzinfo=UTC) + timedelta(days=N_DAYS)


@dataclass
class Desk:
    session: Session
    folder: Path
    task: HourForecastTask

    def write(self, *, hours: range, stores: range = range(STORES), name: str = "history") -> None:
        hour, store, item = (a.reshape(-1) for a in np.meshgrid(np.array(hours), np.array(stores), np.arange(ITEMS), indexing="ij"))
        usual = (1 + store + item) * np.exp(-(((hour % 24) - 13) ** 2) / 20)
        units = np.random.default_rng(hours.start).poisson(usual).astype(float)
        out = (np.arange(hour.size) % 17 == 0).astype(float)
        ts = np.datetime64(FIRST, "us") + hour * np.timedelta64(1, "h")
        (self.folder / "sales").mkdir(exist_ok=True)
        pq.write_table(pa.table({"store": store, "item": item, "ts": ts, "units": units, "out": out}), self.folder / "sales" / f"{name}.parquet")

    def assemble(self, *, origin: str | None = None) -> DataRef:
        ingests = {table.name: ingest(self.session, table, folder=self.folder) for table in self.task.tables}
        now = self.session.now()
        return self.task.assemble(self.session, self.context(), ingests=ingests, folder=self.folder, now=now, origin=origin)

    def context(self) -> StepContext:
        return StepContext("step", "run_1", {}, SilentReporter())

    def at(self, hour: int, *, minute: int = 0) -> None:
        assert isinstance(self.session.clock, ManualClock)
        self.session.clock.set(FIRST.replace(tzinfo=UTC) + timedelta(hours=hour, minutes=minute))

    def version(self, trial: Trial, **changes: Any) -> Version:
        made = Version(
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
            trained_until=trial.trained_until,
            evidence=trial.evidence,
        )
        return msgspec.structs.replace(made, **changes)

    def states(self) -> dict[str, dict[str, Any]]:
        rows = self.session.tables.read(MEMBER_STATES, partition={"workspace": "default", "model": "units"}).to_pylist()
        return {row["member"]: row for row in rows}


OpenDesk = Callable[..., Desk]


def open_desk(folder: Path, **options: Any) -> Desk:
    sales = Table("sales", "sales", keys=("store", "item"), event_time="ts", known_after=options.pop("known_after", "0h"))
    chosen = {"every": "1h", "horizon": f"{HORIZON}h", "censored": max("out"), "candidates": ["shrunk_rates"], "backtest_origins": 3, **options}
    stores = Table("stores", "stores.parquet", keys=("store",))
    pq.write_table(pa.table({"store": [0, 1, 2, 3], "city": ["x", "y", "x", "y"]}), folder / "stores.parquet")
    forecast = Forecast("units", sales, "units", static=stores, gate=Gate(metric="rmse"), **chosen)
    desk = Desk(make_session(start=NOW), folder, HourForecastTask(forecast))
    desk.write(hours=range(N_DAYS * 24))
    return desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return open_desk(tmp_path)


@dataclass
class Trained:
    desk: Desk
    data: DataRef
    trials: tuple[Trial, ...]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    forget_shards()
    desk = open_desk(tmp_path_factory.mktemp("desk"))
    data = desk.assemble()
    return Trained(desk, data, desk.task.train(desk.session, desk.context(), data).trials)


def answers(desk: Desk, version: Version, data: DataRef, **options: Any) -> pa.Table:
    return pa.concat_tables(desk.task.answer(desk.session, version, data, **options).parts)


def test_what_was_read_is_told(trained: Trained) -> None:
    data = trained.data
    assert (data.moment, data.first_day, data.last_day) == ("2026-01-29T00:00", date(2026, 1, 5), date(2026, 1, 28))
    assert (data.n_series, data.n_rows) == (STORES * ITEMS, STORES * ITEMS * N_DAYS * 24)
    task = trained.desk.task
    assert (task.name, task.solution, task.keys, task.seed) == ("units", "forecasting", ("store", "item"), 7)
    assert [table.name for table in task.tables] == ["sales", "stores"]
    assert task.zone(trained.desk.session) == "UTC"
    assert task.name_tick(trained.desk.session) == "2026-01-29T00"


def test_equal_tables_give_an_equal_reference(trained: Trained, tmp_path: Path) -> None:
    other = open_desk(tmp_path)
    assert other.assemble().digest == trained.data.digest
    assert other.assemble(origin="2026-01-20").digest != trained.data.digest


def test_a_reference_that_is_none_is_refused(desk: Desk) -> None:
    data = replace_struct(desk.assemble(), digest=desk.session.blobs.put(b"{}"))
    with pytest.raises(IntegrityBroken, match="no reference to hours"):
        desk.task.open_data(desk.session, data)


def replace_struct(record: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(record, **changes)


def test_the_origin_is_the_hour_of_now_while_the_data_reach_near_it(desk: Desk) -> None:
    end = N_DAYS * 24
    for hour, origin in ((end, end), (end + HORIZON, end + HORIZON), (end + HORIZON + 1, end), (end + 5000, end)):
        desk.at(hour, minute=30)
        assert desk.assemble().moment == (FIRST + timedelta(hours=origin)).strftime("%Y-%m-%dT%H:00")


def test_hours_that_are_known_late_are_waited_for(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, known_after="90min")
    desk.at(N_DAYS * 24 + 5000)
    data = desk.assemble()
    assert data.moment == "2026-01-29T02:00"
    _, source = desk.task.open_data(desk.session, data)
    assert source.read(0).n_seen == N_DAYS * 24
    with pytest.raises(InvalidInput, match=r"At the origin 2026-01-05T02:00 no hour .*Hint: choose one after 2026-01-05T00:00"):
        desk.assemble(origin="2026-01-05T02:00")


def test_the_hour_that_has_only_begun_is_not_seen(desk: Desk) -> None:
    desk.at(N_DAYS * 24, minute=40)
    desk.write(hours=range(N_DAYS * 24, N_DAYS * 24 + 1), name="now")
    data = desk.assemble()
    assert data.moment == "2026-01-29T00:00"
    assert data.last_day == date(2026, 1, 28)


def test_trials_rest_as_files_with_figures_of_every_member(trained: Trained) -> None:
    assert [trial.candidate for trial in trained.trials] == ["shrunk_rates", "same_hour_mean"]
    desk = trained.desk
    for trial in trained.trials:
        assert trial.trained_until == date(2026, 1, 28)
        assert {file.name for file in trial.files} >= {"spread.npz"}
        for file in trial.files:
            assert len(desk.session.blobs.get(file.sha256)) == file.n_bytes
        members = desk.session.tables.read(MEMBER_METRICS, partition={"workspace": "default", "evidence": trial.evidence}).to_pylist()
        assert [row["member"] for row in members] == ["0", "1", "2"]
        assert sum(row["n"] for row in members) == trial.metrics.n


def test_answers_hold_every_series_and_hour_in_the_types_of_the_table(trained: Trained) -> None:
    desk = trained.desk
    for trial in trained.trials:
        table = answers(desk, desk.version(trial), trained.data)
        assert table.column_names == ["store", "item", "ts", "forecast", "lower_90", "upper_90"]
        assert (table["store"].type, table["ts"].type) == (pa.int64(), pa.timestamp("us"))
        assert table["ts"].to_pylist()[:HORIZON] == [FIRST + timedelta(days=N_DAYS, hours=i) for i in range(HORIZON)]
        assert table.num_rows == STORES * ITEMS * HORIZON
        low, middle, high = (np.array(table[name]) for name in ("lower_90", "forecast", "upper_90"))
        assert ((low <= middle) & (middle <= high)).all()
        assert middle.max() > 0


def test_some_members_are_answered_for_as_among_all(trained: Trained) -> None:
    desk, version = trained.desk, trained.desk.version(trained.trials[0])
    whole = answers(desk, version, trained.data)
    some = answers(desk, version, trained.data, members=Members(frozenset({"1"})))
    others = answers(desk, version, trained.data, members=Members(frozenset({"1"}), but=True))
    assert set(some["store"].to_pylist()) == {1}
    assert pa.concat_tables([others, some]).sort_by([("store", "ascending"), ("item", "ascending"), ("ts", "ascending")]).equals(whole)


def test_an_answer_for_nobody_is_a_table_without_rows(trained: Trained) -> None:
    desk = trained.desk
    (only,) = desk.task.answer(desk.session, desk.version(trained.trials[0]), trained.data, members=Members()).parts
    assert only.num_rows == 0
    assert only.column_names == ["store", "item", "ts", "forecast", "lower_90", "upper_90"]


def test_a_champion_is_scored_by_itself_where_it_had_not_learned(trained: Trained) -> None:
    desk, trial = trained.desk, trained.trials[0]
    judged = desk.version(trial, training_set=trained.data.digest)
    fresh = desk.task.weigh(desk.session, judged, champion=None, n_tried=1)
    assert (fresh.has_champion, fresh.name, fresh.baselines) == (False, "shrunk_rates", ("same_hour_mean",))
    same = desk.task.weigh(desk.session, judged, champion=desk.version(trial), n_tried=1)
    paired = same.compare(None, "rmse")
    assert paired is not None
    np.testing.assert_array_equal(paired.ours, paired.theirs)  # its own recipe, as it has learned all of these hours
    old = desk.task.weigh(desk.session, judged, champion=desk.version(trial, trained_until=date(2026, 1, 5)), n_tried=1)
    itself = old.compare(None, "rmse")
    assert itself is not None
    assert itself.ours.shape == itself.theirs.shape == (STORES, 1)
    assert not np.array_equal(itself.ours, itself.theirs)
    strange = desk.version(trial, candidate="shrunk_rates", trained_until=None)
    assert desk.task.weigh(desk.session, judged, champion=strange, n_tried=1).has_champion


def test_members_are_places_unless_named_otherwise(trained: Trained) -> None:
    desk = trained.desk
    _, source = desk.task.open_data(desk.session, trained.data)
    names, groups, segments = desk.task.find_members(desk.session, source.state)
    assert (names, groups[0].tolist(), segments) == (("0", "1", "2"), [0, 0, 1, 1, 2, 2], {"city": ["x", "y", "x"]})
    both = HourForecastTask(replace_struct(desk.task.forecast, members=("store", "item")))
    names, groups, _ = both.find_members(desk.session, source.state)
    assert names == ("0/0", "0/1", "1/0", "1/1", "2/0", "2/1")
    items = HourForecastTask(replace_struct(desk.task.forecast, members=("item",)))
    names, groups, segments = items.find_members(desk.session, source.state)
    assert (names, groups[0].tolist(), segments) == (("0", "1"), [0, 1] * 3, {})  # an item is sold in several cities


def test_the_state_goes_on_from_the_one_that_stands(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.assemble()
    first = desk.session.records.get(STANDING_STATES, workspace="default", id="units")
    end = N_DAYS * 24
    desk.write(hours=range(end, end + 1), name="next")
    desk.at(end + 1)
    assert desk.assemble().n_rows == STORES * ITEMS
    second = desk.session.records.get(STANDING_STATES, workspace="default", id="units")
    assert first is not None
    assert second is not None
    assert (first.definition, first.state) != (second.definition, second.state)
    assert desk.assemble().n_rows == 0
    for what, change in (
        ("zone", lambda: replace(desk.session, zone="Europe/Berlin")),
        ("code", lambda: monkeypatch.setattr(hour_task, "digest_code", lambda: "other") or desk.session),
    ):
        desk.session = change()
        assert desk.assemble().n_rows == STORES * ITEMS * (end + 1), what
        assert desk.assemble().n_rows == 0


def test_another_type_of_key_reads_all_rows_again(desk: Desk) -> None:
    desk.assemble()
    path = desk.folder / "sales" / "history.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "store", table["store"].cast(pa.string())), path)
    desk.assemble()
    _, source = desk.task.open_data(desk.session, desk.assemble())
    assert source.state.key_types["store"] == "text"


def test_who_fell_silent_is_retired_as_seen_from_each_origin(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, retire_after="2d")
    end = N_DAYS * 24
    desk.write(hours=range(end, end + 72), stores=range(1, STORES), name="later")
    desk.at(end + 72)
    data = desk.assemble()
    assert data.notes == ("1 members had no row for 2d, are retired and not forecast: 0",)
    assert {name: row["retired"] for name, row in desk.states().items()} == {"0": True, "1": False, "2": False}
    assert desk.states()["0"]["last_row"] == date(2026, 1, 28)
    earlier = desk.assemble(origin="2026-01-29T05:00")
    assert earlier.notes == ()
    assert desk.states()["0"]["retired"]  # newer data said so already
    version = desk.version(desk.task.train(desk.session, desk.context(), earlier).trials[0])
    assert set(answers(desk, version, earlier)["store"].to_pylist()) == {0, 1, 2}
    assert set(answers(desk, version, data)["store"].to_pylist()) == {1, 2}


def test_who_has_only_just_opened_is_not_retired(desk: Desk) -> None:
    desk.write(hours=range(N_DAYS * 24, N_DAYS * 24 + 1), stores=range(3, 4), name="opening")
    desk.at(N_DAYS * 24, minute=30)
    data = desk.assemble()
    assert data.notes == ()
    assert desk.states()["3"] == {"member": "3", "first_row": None, "last_row": None, "retired": False, "origin": date(2026, 1, 29)}


def test_without_retiring_nobody_goes(tmp_path: Path) -> None:
    desk = open_desk(tmp_path, retire_after=None)
    end = N_DAYS * 24
    desk.write(hours=range(end, end + 120), stores=range(1, STORES), name="later")
    desk.at(end + 120)
    assert desk.assemble().notes == ()
    assert desk.states()["0"]["last_row"] == date(2026, 1, 28)


def test_an_encrypted_model_is_trained_and_answers_in_other_processes(tmp_path: Path) -> None:
    """Workers are handed the keys of the shards they read; what they give is what a plain model gives."""
    told = []
    for encrypted in (False, True):
        (tmp_path / str(encrypted)).mkdir()
        desk = open_desk(tmp_path / str(encrypted), encrypted=encrypted)
        home = make_session(tmp_path / str(encrypted) / "home", start=NOW)
        settings = msgspec.structs.replace(home.settings, executor="processes" if encrypted else "here", n_workers=1)
        desk.session = with_sealing(replace(home, settings=settings), declared=encrypted)
        data = desk.assemble()
        assert desk.session.blobs.is_sealed(data.digest) is encrypted
        training = desk.task.train(desk.session, desk.context(), data)
        trial = training.trials[0]
        assert {desk.session.blobs.is_sealed(file.sha256) for file in trial.files} == {encrypted}
        told.append(answers(desk, desk.version(trial), data))
        home.ports.close()
    plain, sealed = told
    assert plain.column("forecast").to_pylist() == pytest.approx(sealed.column("forecast").to_pylist())
