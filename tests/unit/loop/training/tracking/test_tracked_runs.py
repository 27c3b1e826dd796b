from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.records import Dataset
from endcap.loop.training.tracking.tracked_runs import (
    delete_run,
    get_run_track,
    list_datasets,
    log,
    log_datasets,
    read_metric,
    record_run,
    restore_run,
    search_runs,
    start_run,
    update_run,
)
from endcap.storage.tracks import Point, Track, TrackBatch
from endcap.testing.sessions import make_session

START_US = 1_767_600_000_000_000


@pytest.fixture
def session() -> Session:
    return make_session()


def pass_time(session: Session, **length: float) -> None:
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(**length))


def ids(session: Session, filter: str = "", **asked: object) -> list[str]:  # noqa: A002 - the word of the room
    return [run.id for run in search_runs(session, filter=filter, **asked)]  # type: ignore[arg-type]  # by name


def test_a_run_has_an_id_that_clients_read_a_name_and_a_start(session: Session) -> None:
    run = start_run(session)
    assert len(run.id) == 32
    assert set(run.id) <= set("0123456789abcdef")
    assert (run.group, run.actor, run.status, run.started_us, run.ended_us) == ("0", "ada", "running", START_US, None)
    assert run.name == f"run-{run.id[-8:]}"
    assert get_run_track(session, run.id) == run
    told = start_run(session, name="mine", actor="bob", started_us=START_US + 1_999, tags={"t": "1"})
    assert (told.name, told.actor, told.started_us, told.tags) == ("mine", "bob", START_US + 1_000, {"t": "1"})


def test_a_status_that_ends_a_run_says_when_and_one_that_does_not_takes_the_end_away(session: Session) -> None:
    run = start_run(session).id
    pass_time(session, seconds=3)
    assert update_run(session, run, status="finished").ended_us == START_US + 3_000_000
    assert update_run(session, run, name="x").ended_us == START_US + 3_000_000
    assert update_run(session, run, status="failed", ended_us=START_US + 5_999).ended_us == START_US + 5_000
    again = update_run(session, run, status="running")
    assert (again.ended_us, again.status, again.name) == (None, "running", "x")
    with pytest.raises(InvalidInput, match=r"'done' is no status of a run. Statuses: \['running'"):
        update_run(session, run, status="done")


def test_what_is_logged_comes_back(session: Session) -> None:
    run = start_run(session).id
    points = [Point("loss", math.nan, 5, 0), Point("loss", math.inf, 3, 1), Point("loss", 0.5, 1, 2)]
    log(session, run, TrackBatch(params={"depth": "6"}, tags={"t": "1"}, points=points))
    track = get_run_track(session, run)
    assert (track.params, track.tags, track.metrics) == ({"depth": "6"}, {"t": "1"}, {"loss": Point("loss", 0.5, 1, 2)})
    assert read_metric(session, run, "loss")[:2] == [points[2], points[1]]
    assert math.isnan(read_metric(session, run, "loss", limit=1, skip=2)[0].value)
    assert read_metric(session, run, "unheard") == []
    with pytest.raises(Conflict, match=r"'depth' of .* is '6' already; it cannot become '7'"):
        log(session, run, TrackBatch(params={"depth": "7"}))
    with pytest.raises(InvalidInput, match="cannot be the name of a metric"):
        log(session, run, TrackBatch(points=[Point("../x", 1.0, 0)]))


@pytest.mark.parametrize("run", ["", "x", "../x", "0" * 32, "run/1"])
def test_a_run_that_is_not_there_is_not_found(session: Session, run: str) -> None:
    for refused in (
        lambda: get_run_track(session, run),
        lambda: update_run(session, run, status="failed"),
        lambda: log(session, run, TrackBatch(tags={"t": "1"})),
        lambda: read_metric(session, run, "loss"),
        lambda: delete_run(session, run),
        lambda: restore_run(session, run),
        lambda: log_datasets(session, run, []),
    ):
        with pytest.raises(NotFound):
            refused()
    assert list_audit(session) == []


def test_a_deleted_run_is_not_listed_takes_nothing_and_comes_back(session: Session) -> None:
    run = start_run(session).id
    assert delete_run(session, run).stage == "deleted"
    assert delete_run(session, run).stage == "deleted"
    assert (ids(session), ids(session, stage="deleted"), ids(session, stage=None)) == ([], [run], [run])
    with pytest.raises(Conflict, match="is deleted, so nothing is logged to it"):
        log(session, run, TrackBatch(tags={"t": "1"}))
    assert restore_run(session, run).stage == "active"
    assert ids(session) == [run]
    assert [row.verb for row in reversed(list_audit(session))] == ["track delete-run", "track delete-run", "track restore-run"]
    with pytest.raises(InvalidInput, match="'all' is no stage"):
        search_runs(session, stage="all")  # type: ignore[arg-type]  # refused at run time


def test_runs_are_found_by_what_they_hold(session: Session) -> None:
    one, two = create_experiment(session, "one"), create_experiment(session, "two")
    a = start_run(session, experiment=one.id, name="a").id
    pass_time(session, seconds=1)
    b = start_run(session, experiment=two.id, name="b").id
    log(session, a, TrackBatch(params={"model": "tree"}, points=[Point("rmse", 0.5, 0)]))
    log(session, b, TrackBatch(params={"model": "linear"}, points=[Point("rmse", 0.7, 0)]))
    update_run(session, a, status="finished")
    assert ids(session) == [b, a]
    assert ids(session, "metrics.rmse < 0.6 and params.model = 'tree' and attributes.status = 'FINISHED'") == [a]
    assert ids(session, order=["metrics.rmse DESC"]) == [b, a]
    assert ids(session, order=["metrics.rmse"], limit=1) == [a]
    assert ids(session, experiments=["one"]) == ids(session, experiments=[one.id]) == [a]
    assert ids(session, experiments=[]) == []
    assert ids(session, f"start_time > {START_US // 1000}") == [b]
    assert ids(session, f"run_id = '{a}'") == [a]
    with pytest.raises(InvalidInput, match="at most 100,000; 100,001 were asked for"):
        search_runs(session, limit=100_001)
    with pytest.raises(NotFound, match="no experiment 'three'"):
        search_runs(session, experiments=["three"])


def dataset(session: Session, run: str, **fields: str) -> Dataset:
    plain = {"name": "sales", "digest": "d1", "source": "sales.csv", "source_type": "local", "context": "training"}
    return Dataset(id=session.new_id("dataset"), run=run, **(plain | fields))


def test_datasets_are_kept_once_and_runs_are_found_by_them(session: Session) -> None:
    a, b = start_run(session).id, start_run(session).id
    for _ in range(2):
        log_datasets(session, a, [dataset(session, a), dataset(session, a), dataset(session, a, context="eval")])
    log_datasets(session, b, [dataset(session, b, digest="d2")])
    assert [(d.name, d.digest, d.context) for d in list_datasets(session, a)] == [("sales", "d1", "training"), ("sales", "d1", "eval")]
    assert ids(session, "dataset.name = 'sales' and datasets.context = 'eval'") == [a]
    assert ids(session, "dataset.digest LIKE 'd_'", order=["run_name"]) == [a, b]
    assert ids(session, "dataset.digest != 'd1'") == [b]
    assert ids(session, "dataset.name = 'nothing'") == []


def test_a_dataset_that_lies_about_its_run_or_is_too_long_is_refused(session: Session) -> None:
    run = start_run(session).id
    for wrong, said in (
        (dataset(session, "other"), "says that the run 'other' used it"),
        (dataset(session, run, name="a\nb"), "cannot be the name of a dataset"),
        (dataset(session, run, source="x" * 70_000), "has 70,000 characters"),
        (dataset(session, run, context="../x"), "cannot be the name of a dataset's context"),
    ):
        with pytest.raises(InvalidInput, match=said):
            log_datasets(session, run, [dataset(session, run), wrong])
    assert list_datasets(session, run) == []


def test_a_run_that_ended_is_recorded_once(session: Session) -> None:
    whole = Track(id="f" * 32, group="0", name="x", status="finished", params={"p": "1"}, metrics={"m": Point("m", 1.0, 0)})
    assert record_run(session, whole)
    assert not record_run(session, msgspec.structs.replace(whole, params={"p": "2"}))
    assert get_run_track(session, whole.id) == whole
    with pytest.raises(NotFound):
        record_run(session, msgspec.structs.replace(whole, id="e" * 32, group="9"))
    with pytest.raises(InvalidInput):
        record_run(session, msgspec.structs.replace(whole, id="e" * 32, params={"p": "x" * 6001}))


def test_workspaces_see_nothing_of_one_another_and_viewers_only_look(session: Session) -> None:
    run = start_run(session).id
    log(session, run, TrackBatch(points=[Point("m", 1.0, 0)]))
    other = replace(session, workspace="other")
    assert ids(other) == []
    with pytest.raises(NotFound):
        get_run_track(other, run)
    with pytest.raises(NotFound):
        read_metric(other, run, "m")
    viewer = replace(session, role=Role.VIEWER)
    assert ids(viewer) == [run]
    for refused in (
        lambda: start_run(viewer),
        lambda: log(viewer, run, TrackBatch(tags={"t": "1"})),
        lambda: update_run(viewer, run, name="x"),
        lambda: delete_run(viewer, run),
        lambda: restore_run(viewer, run),
        lambda: log_datasets(viewer, run, []),
        lambda: record_run(viewer, Track(id="x", group="0", name="x")),
    ):
        with pytest.raises(PermissionDenied):
            refused()
