from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import Conflict, ContractBroken, GateRefused, InvalidInput, NotFound, StepFailed
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.batches import find_batch, read_batch
from endcap.loop.deployment.deliveries import deliver_predictions
from endcap.loop.deployment.tracing import trace
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import VERSIONS
from endcap.loop.registry.releases import promote
from endcap.loop.registry.versions import get_model, get_version, read_artefacts
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.offers import offer_version, register_trial
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.records import RUNS
from endcap.pipelines.verbs import walk_lineage
from endcap.project.definitions import load_definitions
from endcap.project.running import run
from endcap.solutions.forecasting.mishaps import train_in_wrong_unit


class Listener:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[tuple[str, str]] = []

    def step_started(self, name: str) -> None:
        self.started.append(name)

    def step_advanced(self, name: str, *, done: int, total: int) -> None:
        assert 1 <= done <= total

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        self.ended.append((name, status))


def test_a_run_goes_from_the_files_to_the_forecasts(lived: Any) -> None:
    first, second = lived.session.records.find(RUNS, workspace="default")
    names = ["ingest sales", "ingest plan", "ingest stores", "assemble", "watch", "decide", "train", "release", "forecast"]
    assert [step.name for step in first.steps] == [step.name for step in second.steps] == names
    assert (first.status, second.status) == ("done", "done")
    (version,) = lived.session.records.find(VERSIONS, workspace="default")
    assert (version.id, version.candidate, version.run) == ("store-day-v1", "shrunk_rates", first.id)
    batch = find_batch(lived.session, "store-day")
    assert (batch.version, batch.origin, batch.zone) == ("store-day-v1", lived.session.now().date(), "Europe/Berlin")
    assert batch.n_rows == 6 * 7
    assert batch.missing_facts == ()


def test_forecasts_are_numbers_within_their_limits_and_closed_days_are_zero(lived: Any) -> None:
    batch = find_batch(lived.session, "store-day")
    rows = read_batch(lived.session, batch)
    forecast, lower, upper = (rows[name].to_numpy() for name in ("forecast", "lower_90", "upper_90"))
    assert np.isfinite(forecast).all()
    assert (lower <= forecast).all()
    assert (forecast <= upper).all()
    plan = lived.chain.plan(batch.first, batch.last + timedelta(days=1)).to_pylist()
    closed = {(row["store_id"], row["date"]) for row in plan if not row["open"]}
    assert closed, "a week has a Sunday"
    assert all((row["forecast"] == 0) == ((row["store_id"], row["ts"].date()) in closed) for row in rows.to_pylist())


def test_from_any_prediction_one_walks_to_the_files(lived: Any, tmp_path: Any) -> None:
    delivery = deliver_predictions(lived.session, "store-day", out=tmp_path / "f.csv")
    things = [step.thing for step in trace(lived.session, delivery.first_id)]
    assert things[0] == f"prediction/{delivery.first_id}"
    for table in ("sales", "plan", "stores"):
        assert f"table/{table}" in things
    batch = find_batch(lived.session, "store-day")
    upstream = {edge.source for edge in walk_lineage(lived.session, f"batch/{batch.id}")}
    for ingest in lived.session.records.find(INGESTS, workspace="default"):
        assert {f"source/{file.sha256}" for file in ingest.files} <= upstream


def test_a_version_read_back_answers_as_it_did(lived: Any) -> None:
    task = load_definitions(lived.folder).task("store-day")
    version = get_version(lived.session, "store-day-v1")
    assert set(read_artefacts(lived.session, version)) >= {"intervals.npz"}
    data = turn(lived.session, task, folder=lived.folder, train=False).data
    (again,) = load_definitions(lived.folder).task("store-day").answer(lived.session, version, data).parts
    assert again["forecast"].equals(read_batch(lived.session, find_batch(lived.session, "store-day"))["forecast"])


def test_every_store_has_its_figures(lived: Any) -> None:
    lines = list_members(lived.session, "store-day-v1", limit=0)
    assert sorted(line.member for line in lines) == lived.chain.stores()["store_id"].to_pylist()
    assert sum(line.n for line in lines) == get_version(lived.session, "store-day-v1").metrics.n


def test_a_version_in_the_wrong_unit_is_refused_by_the_gate(lived: Any) -> None:
    task: Any = load_definitions(lived.folder).task("store-day")
    data = turn(lived.session, task, folder=lived.folder, train=False).data
    trial = train_in_wrong_unit(lived.session, task, data)
    version = register_trial(lived.session, task, data, trial, tables={}, run="run_0")
    judged = offer_version(lived.session, task, version, reason="a mishap")
    assert not judged.passed
    assert "bias is +" in judged.sentence
    with pytest.raises(GateRefused, match=f"'{version.id}' cannot be released"):
        promote(lived.session, version.id)


def test_a_second_run_finds_all_it_needs(project: Any) -> None:
    listener = Listener()
    first = project.run(reporter=listener)
    assert [name for name, _ in listener.ended] == listener.started
    again = project.run()
    assert again.batch == first.batch
    assert (again.decision.split(";")[0], again.judged) == ("the champion is watched and within its limits", ())
    statuses = {step.name: step.status for step in again.run.steps}
    assert "done" not in {statuses["assemble"], statuses["train"], statuses["ingest sales"]}
    assert len(project.session.records.find(INGESTS, workspace="default")) == 3


def test_a_changed_definition_is_applied_and_trained_by_the_run(project: Any) -> None:
    project.run()
    project.change("backtest_origins=4", "backtest_origins=5")
    result = project.run()
    assert result.decision == "the definition changed"
    assert len(result.judged) >= 1
    assert result.batch is not None


def test_another_gate_is_applied_and_trains_nothing(project: Any) -> None:
    project.run()
    project.change("bias=0.4", "bias=0.41")
    assert project.run().decision.startswith("the champion is watched")
    assert '"bias":0.41' in get_model(project.session, "store-day").definition


def test_an_origin_in_the_past_is_forecast_from_as_it_was(project: Any) -> None:
    day = project.session.now().date() - timedelta(days=14)
    result = project.run(origin=day.isoformat())
    assert (result.batch.origin, result.batch.first) == (day, day)


@pytest.mark.parametrize("origin", ["tomorrow", "2025-13-01", ""])
def test_an_origin_that_is_no_day_is_refused(project: Any, origin: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{origin}' is not a day or an hour"):
        project.run(origin=origin)
    assert project.session.records.find(RUNS, workspace="default") == []


def test_a_model_that_another_runs_is_refused_and_can_be_waited_for(project: Any) -> None:
    with hold_lease(project.session, "model/store-day"):
        with pytest.raises(Conflict, match=r"'model/store-day' is held by a run of '\w+' \(process \d+ on .*--wait"):
            project.run()
        with pytest.raises(InvalidInput, match="'10 minutes' is not a length of time"):
            project.run(wait="10 minutes")
        with pytest.raises(Conflict, match="after 10 ms of waiting"):
            project.run(wait="0.01s")
    assert project.session.records.find(RUNS, workspace="default") == []
    assert project.run(wait="1min").champion == "store-day-v1"


def test_an_unknown_model_is_not_found_before_anything_runs(project: Any) -> None:
    with pytest.raises(NotFound, match="defines no model 'store-dya'"):
        run(project.session, "store-dya", folder=project.folder)
    assert project.session.records.find(RUNS, workspace="default") == []


def test_rows_that_break_the_contract_are_refused_whole(project: Any) -> None:
    import pyarrow.parquet as pq

    path = project.folder / "data" / "sales" / "2025-01-06.parquet"
    good = pq.read_table(path)
    pq.write_table(project.chain.spoil(good, how="negative", rng=np.random.default_rng(1)), path)
    with pytest.raises(ContractBroken, match="'sales' breaks 1 promise"):
        project.run()
    pq.write_table(good, path)
    assert project.run().champion == "store-day-v1"


def test_a_report_is_written_where_it_was_asked_for(project: Any) -> None:
    project.change('candidates=["shrunk_rates"]', 'candidates=["weekday_mean"]')
    page = project.folder / "out" / "page.html"
    result = project.run(report=page)
    assert result.report == str(page)
    assert page.read_text(encoding="utf-8").startswith("<!")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"executor": "proceses"}, "did you mean 'processes'"),
        ({"memory": "lots"}, "The memory is 'lots', which is no size"),
        ({"memory": "0"}, "The memory is '0', which is no size"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_runs(project: Any, given: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        project.run(**given)
    assert project.session.records.find(RUNS, workspace="default") == []


def test_the_memory_of_a_run_is_what_its_queries_are_held_to(project: Any) -> None:
    with pytest.raises(StepFailed, match="needs more than the 50 KiB that it may hold in memory"):
        project.run(memory="100KiB", executor="processes")
    assert project.session.settings.executor == "here"
