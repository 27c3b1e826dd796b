from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.forecasts import BASELINES, Forecast
from endcap.core.definitions.tables import Contract, Table
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.panels.day_panels import Panel
from endcap.loop.registry.records import Version
from endcap.loop.retraining.tasks import Answers, DataRef, Trial
from endcap.pipelines.graph import SilentReporter, StepContext
from endcap.solutions.forecasting.backtests import Cube
from endcap.solutions.forecasting.finishing import finish
from endcap.solutions.forecasting.mishaps import train_in_wrong_unit
from endcap.solutions.forecasting.task import ForecastTask, find_missing_facts, key_columns, uncensoring_factor
from endcap.solutions.forecasting.training import decode_evidence
from endcap.testing.sessions import make_session

MakePanel = Callable[..., Panel]
FIRST, N_DAYS, N_STORES = date(2026, 1, 5), 84, 4
NOW = datetime(2026, 3, 30, 9, tzinfo=UTC)  # day 84
SALES = Table("sales", "sales.parquet", keys=("store",), event_time="day", zone="Europe/Berlin", contract=Contract(future=True))
STORES = Table("stores", "stores.parquet", keys=("store",))


@dataclass
class Desk:
    """A session, a folder of tables and a task about them."""

    session: Session
    folder: Path
    task: ForecastTask

    def context(self) -> StepContext:
        return StepContext("step", "run_1", {}, SilentReporter())

    def assemble(self, *, origin: str | None = None) -> DataRef:
        ingests = {table.name: ingest(self.session, table, folder=self.folder) for table in self.task.tables}
        return self.task.assemble(self.session, self.context(), ingests=ingests, folder=self.folder, now=NOW, origin=origin)

    def version(self, trial: Trial) -> Version:
        return Version(
            id="units:1",
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


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(9)
    store, tick = np.repeat(np.arange(N_STORES), N_DAYS + 7), np.tile(np.arange(N_DAYS + 7), N_STORES)
    promo = (rng.random(tick.size) < 0.2).astype(float)
    units = rng.poisson((20 + 30 * store) * (1 + promo * 0.5)).astype(float)
    past = tick < N_DAYS
    days = np.datetime64(FIRST) + tick
    sales = {"store": store, "day": days, "units": np.where(past, units, np.nan), "promo": promo, "out": (rng.random(tick.size) < 0.1) * 0.25}
    table = pa.table(sales)
    pq.write_table(table.set_column(2, "units", pa.array(np.where(past, units, 0), mask=~past)), folder / "sales.parquet")
    pq.write_table(pa.table({"store": np.arange(N_STORES), "region": ["north", "south"] * 2}), folder / "stores.parquet")


def make_desk(folder: Path, **options: Any) -> Desk:
    write_tables(folder)
    chosen = {"known_ahead": ["promo"], "static": STORES, "candidates": ["shrunk_rates", "members"], "backtest_origins": 6, **options}
    return Desk(make_session(start=NOW), folder, ForecastTask(Forecast("units", SALES, "units", **chosen)))


@dataclass
class Trained:
    desk: Desk
    data: DataRef
    trials: tuple[Trial, ...]

    def judged(self, trial: Trial) -> Version:
        return replace_struct(self.desk.version(trial), training_set=self.data.digest)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    desk = make_desk(tmp_path_factory.mktemp("desk"))
    data = desk.assemble()
    return Trained(desk, data, desk.task.train(desk.session, desk.context(), data).trials)


def only(answers: Answers) -> pa.Table:
    (table,) = answers.parts
    return table


def test_what_was_read_is_kept_under_its_digest(trained: Trained) -> None:
    data = trained.data
    assert (data.origin, data.first_day, data.last_day) == (FIRST + timedelta(days=N_DAYS), FIRST, FIRST + timedelta(days=N_DAYS - 1))
    assert (data.n_series, data.n_rows) == (N_STORES, N_STORES * (N_DAYS + 7))
    kept, read = (task.read_panel(trained.desk.session, data) for task in (trained.desk.task, ForecastTask(trained.desk.task.forecast)))
    assert read.observed.tobytes() == kept.observed.tobytes()


def test_equal_tables_give_an_equal_digest_and_other_origins_another(trained: Trained) -> None:
    assert trained.desk.assemble().digest == trained.data.digest
    earlier = trained.desk.assemble(origin=(FIRST + timedelta(days=60)).isoformat())
    assert earlier.digest != trained.data.digest
    assert trained.desk.task.read_panel(trained.desk.session, earlier).origin == 60


def test_trials_rest_as_files_and_say_what_they_are(trained: Trained) -> None:
    assert [t.candidate for t in trained.trials][-1] in BASELINES
    assert {t.candidate for t in trained.trials[:2]} == {"shrunk_rates", "members"}
    for trial in trained.trials:
        assert trial.trained_until == trained.data.last_day
        assert set(trial.baselines) == set(BASELINES) - {"seasonal_naive_364"}
        assert "intervals.npz" in {file.name for file in trial.files}
        for file in trial.files:
            assert len(trained.desk.session.blobs.get(file.sha256)) == file.n_bytes
    members = next(t for t in trained.trials if t.candidate == "members")
    assert (members.members, members.members_fallen_back) == (N_STORES, {})


def test_processes_train_the_same(trained: Trained) -> None:
    desk = trained.desk
    elsewhere = replace(desk.session, settings=Settings(executor="processes", n_workers=1))
    found = desk.task.train(elsewhere, desk.context(), trained.data).trials
    assert "members" in {trial.candidate for trial in found}
    assert found == trained.trials


def test_a_version_answers_as_the_trial_did_and_covers_every_series_and_day(trained: Trained) -> None:
    session, panel = trained.desk.session, trained.desk.task.read_panel(trained.desk.session, trained.data)
    for trial in trained.trials:
        answers = ForecastTask(trained.desk.task.forecast).answer(session, trained.desk.version(trial), trained.data)
        table = only(answers)
        assert table.column_names == ["store", "ts", "forecast", "lower_90", "upper_90"]
        assert table["store"].type == pa.int64()
        assert table["ts"].type == pa.timestamp("us")
        assert table["ts"].to_pylist()[:7] == [datetime(2026, 3, 30) + timedelta(days=i) for i in range(7)]  # noqa: DTZ001 - the table's own time
        fit, intervals = trained.desk.task.revive(session, trained.desk.version(trial))
        values = finish(fit.predict(panel), panel)
        for name, expected in zip(("forecast", "lower_90", "upper_90"), (values, *intervals.apply(values, panel)), strict=True):
            np.testing.assert_allclose(np.array(table[name]).reshape(N_STORES, 7), expected, rtol=1e-5)  # six significant digits are written
        assert answers.missing_facts == ()


def test_the_evidence_is_of_the_judged_origins(trained: Trained) -> None:
    trial = trained.trials[0]
    evidence = trained.desk.task.weigh(trained.desk.session, trained.judged(trial), champion=None, n_tried=2)
    assert evidence.actual.shape == (N_STORES, 3, 7)
    assert (evidence.name, evidence.champion, evidence.n_tried) == (trial.candidate, None, 2)
    assert evidence.metrics.wape == pytest.approx(trial.metrics.wape)
    assert set(evidence.rivals) == set(trial.leaderboard)


def test_a_champion_is_judged_by_itself_where_it_had_not_learned_the_targets(trained: Trained) -> None:
    desk, panel = trained.desk, trained.desk.task.read_panel(trained.desk.session, trained.data)
    trial = trained.trials[0]
    kept = decode_evidence(desk.session.blobs.get(trial.evidence))
    origins = kept.origins[kept.n_choosing :]
    fit, _ = desk.task.revive(desk.session, desk.version(trial))

    def itself(place: int) -> Cube:
        seen = panel.seen_at(int(origins[place]))
        return finish(fit.predict(seen), seen).astype(np.float64)

    def standing(until: int | None) -> Cube:
        day = None if until is None else panel.day(until)
        evidence = desk.task.weigh(desk.session, trained.judged(trial), champion=replace_struct(desk.version(trial), trained_until=day), n_tried=1)
        assert evidence.champion is not None
        return evidence.champion

    recipe = kept.forecasts[trial.candidate][:, kept.n_choosing :]
    old = standing(int(origins[0]) - 1)
    np.testing.assert_array_equal(old, np.stack([itself(0), itself(1), itself(2)], axis=1))
    newer = standing(int(origins[1]) - 1)
    assert np.isnan(newer[:, 0]).all()  # it has learned these targets, and two origins are left to judge it by
    np.testing.assert_array_equal(newer[:, 1:], np.stack([itself(1), itself(2)], axis=1))
    newest = standing(int(origins[2]) - 1)
    np.testing.assert_array_equal(newest[:, :2], recipe[:, :2])
    np.testing.assert_array_equal(newest[:, 2], itself(2))
    np.testing.assert_array_equal(standing(panel.n_seen - 1), recipe)


def replace_struct(record: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(record, **changes)


def test_actuals_are_the_days_that_are_seen(trained: Trained) -> None:
    table = trained.desk.task.find_actuals(trained.desk.session, trained.data)
    panel = trained.desk.task.read_panel(trained.desk.session, trained.data)
    assert table.column_names == ["store", "ts", "actual"]
    assert table.num_rows == N_STORES * 56  # of the latest eight weeks
    np.testing.assert_array_equal(np.array(table["actual"]).reshape(N_STORES, -1), panel.observed[:, -56:])
    assert max(table["ts"].to_pylist()).date() == trained.data.last_day


def test_a_known_ahead_fact_that_ends_is_named_with_its_share(trained: Trained) -> None:
    desk = trained.desk
    late = desk.assemble(origin=(FIRST + timedelta(days=N_DAYS + 3)).isoformat())
    answers = desk.task.answer(desk.session, desk.version(trained.trials[0]), late)
    assert answers.missing_facts == ("promo (43% of the targets)",)
    assert np.isfinite(np.array(only(answers)["forecast"])).all()


def test_demand_is_what_was_sold_over_what_could_be_seen(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, censored="out", censored_most=0.5, demand=True, candidates=["shrunk_rates"])
    data = desk.assemble()
    trial = desk.task.train(desk.session, desk.context(), data).trials[0]
    table = only(desk.task.answer(desk.session, desk.version(trial), data))
    factor = np.repeat(uncensoring_factor(desk.task.read_panel(desk.session, data))[:, 0], 7)
    assert (factor >= 1).all()
    assert factor.max() > 1.01
    np.testing.assert_allclose(np.array(table["demand"]), np.array(table["forecast"]) * factor, rtol=2e-5)


def test_the_factor_weighs_the_latest_four_weeks_by_what_was_sold(make_panel: MakePanel) -> None:
    values, share = np.full((4, 40), 10.0), np.zeros((4, 40), dtype=np.float32)
    share[0, -28:-14], share[1, :12], share[2, -1] = 0.5, 0.5, 1.0
    values[3] = np.nan
    panel = make_panel(values)
    assert uncensoring_factor(panel)[:, 0].tolist() == [1, 1, 1, 1]
    factor = uncensoring_factor(replace(panel, censored=share))[:, 0]
    np.testing.assert_allclose(factor, [1.5, 1.0, (27 + 3) / 28, 1.0], rtol=1e-5)


def test_keys_are_written_in_the_types_of_their_table(make_panel: MakePanel) -> None:
    panel = replace(make_panel(np.ones((2, 20))), keys={"store": ("7", "-8"), "item": ("1", "a")}, key_types={"store": "integer", "item": "text"})
    columns = key_columns(panel, repeat=2)
    assert columns["store"].to_pylist() == [7, 7, -8, -8]
    assert columns["item"].to_pylist() == ["1", "1", "a", "a"]


def test_missing_facts_are_counted_over_the_targets_alone(make_panel: MakePanel) -> None:
    panel = make_panel(n_series=2, n_seen=20)
    facts = {name: values.copy() for name, values in panel.ahead.items()}
    facts["promo"][:, :20] = np.nan
    facts["price"][0, 20:] = np.nan
    assert find_missing_facts(replace(panel, ahead=facts)) == ("price (50% of the targets)",)


def test_a_trial_in_the_wrong_unit_is_twice_as_high_everywhere(trained: Trained) -> None:
    desk = trained.desk
    wrong = train_in_wrong_unit(desk.session, desk.task, trained.data)
    right = next(t for t in trained.trials if t.candidate == "shrunk_rates")
    one, other = (only(desk.task.answer(desk.session, desk.version(t), trained.data)) for t in (right, wrong))
    np.testing.assert_allclose(np.array(other["forecast"]), 2 * np.array(one["forecast"]), rtol=1e-5)
    assert wrong.candidate == "shrunk_rates"
    assert wrong.metrics.bias is not None
    assert wrong.metrics.bias > 0.7


def test_the_task_says_what_its_definition_says(trained: Trained) -> None:
    task = trained.desk.task
    assert (task.name, task.solution, task.keys, task.seed) == ("units", "forecasting", ("store",), 7)
    assert [table.name for table in task.tables] == ["sales", "stores"]
    assert task.zone(trained.desk.session) == "Europe/Berlin"
    assert ForecastTask(task.forecast).identity == task.identity
    assert ForecastTask(replace_struct(task.forecast, seed=8)).identity != task.identity
