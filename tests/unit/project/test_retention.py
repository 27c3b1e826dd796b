from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.privacy.records import SWEEPINGS
from endcap.governance.records import HOUSE, NOTICE_DELIVERIES, NOTICES, Notice, NoticeDelivery
from endcap.governance.sessions import Session
from endcap.governance.signin.records import PAGE_SESSIONS, SIGNED_OUT, USED_STATES, SignedOut, UsedState
from endcap.loop.data.records import QUARANTINE
from endcap.loop.data.verbs import ingest
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Batch
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import read_materialised
from endcap.loop.features.records import MATERIALISED, SNAPSHOTS, TRAINING_SETS, Snapshot, TrainingSet
from endcap.loop.features.training_sets import TRAINING_ROWS
from endcap.loop.registry.records import APPROVAL_REQUESTS, ApprovalRequest
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.tracked_runs import start_run, update_run
from endcap.pipelines.leases import hold_lease
from endcap.project import expiry
from endcap.project.retention import apply_retention, hold_thing, lift_hold, set_retention, show_retention, sweep_when_due
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
ROWS = pa.table({"store": ["a"], "ts": pa.array([datetime(2026, 1, 1)], pa.timestamp("us")), "forecast": [1.0]})  # noqa: DTZ001 - a plain time


@pytest.fixture(params=["memory", "embedded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    made = make_session("memory://" if request.param == "memory" else tmp_path / "home", start=START)
    yield made
    made.ports.close()


def answer(session: Session, days: int, *, model: str = "m", version: str = "m-v1") -> Batch:
    """A batch of predictions that was made so many days ago."""
    at = START - timedelta(days=days)
    batch = Batch(
        id=f"{model}/{at.date()}/{version}",
        workspace="default",
        model=model,
        version=version,
        origin=at.date(),
        predicted_at=at,
        n_rows=1,
        first=date(2026, 1, 1),
        last=date(2026, 1, 1),
        zone="UTC",
        keys=("store",),
        data="0" * 64,
        run="run_1",
    )
    session.tables.write(PREDICTIONS, partition={**batch.partition, "part": "0000"}, table=ROWS)
    with session.records.transact() as tx:
        tx.append(BATCHES, workspace="default", record=batch)
    return batch


def list_batches(session: Session) -> list[str]:
    kept = [batch.moment for batch in session.records.find(BATCHES, workspace="default")]
    assert sorted(kept) == sorted(part["origin"] for part in session.tables.partitions(PREDICTIONS, partition={"workspace": "default"}))
    return sorted(kept)


def days_ago(*days: int) -> list[str]:
    return sorted((START - timedelta(days=n)).date().isoformat() for n in days)


def test_nothing_goes_unless_somebody_says_how_long_it_is_kept(session: Session) -> None:
    for n in (900, 500, 3):
        answer(session, n)
    report = apply_retention(session)
    assert (report.removed, report.kept) == ({}, ())
    assert len(list_batches(session)) == 3
    assert {line.period for line in show_retention(session)} == {""}


def test_predictions_older_than_their_period_go_and_the_newest_stays(session: Session) -> None:
    for n in (900, 500, 3):
        answer(session, n)
    set_retention(session, "predictions", "400d")
    dry = apply_retention(session, dry_run=True)
    assert (dry.dry_run, dry.removed) == (True, {"predictions": 2})
    assert list_batches(session) == days_ago(900, 500, 3)
    line = next(line for line in show_retention(session) if line.log == "predictions")
    assert (line.period, line.n_expired, line.n_kept) == ("400d", 2, 0)
    n_rows = len(list_audit(session))
    report = apply_retention(session)
    assert report.removed == {"predictions": 2}
    assert list_batches(session) == days_ago(3)
    row = list_audit(session)[0]
    assert (row.verb, row.detail, len(list_audit(session))) == ("retention apply", {"n_predictions": 2}, n_rows + 1)
    assert apply_retention(session).removed == {"predictions": 0}
    assert len(list_audit(session)) == n_rows + 1
    set_retention(session, "predictions", "1d")
    assert [(kept.thing, kept.why) for kept in apply_retention(session).kept] == [(f"batch/m/{days_ago(3)[0]}/m-v1", "it answers now")]
    assert session.records.find(ANSWERED, workspace="default") == []
    verify_audit(session)


def test_what_is_held_for_the_law_stays_until_the_hold_is_lifted(session: Session) -> None:
    for n in (500, 3):
        answer(session, n)
    set_retention(session, "predictions", "400d")
    hold_thing(session, "model/m", reason="case 12/26")
    (kept,) = apply_retention(session).kept
    assert kept.why == "held for the law: case 12/26"
    assert [(line.log, line.held) for line in show_retention(session) if line.held] == [("model/m", "case 12/26")]
    assert list_batches(session) == days_ago(500, 3)
    lift_hold(session, "model/m")
    assert [line for line in show_retention(session) if line.held] == []
    with pytest.raises(InvalidInput, match=r"'model/m' is not held\. Hint: what is held: endcap retention show"):
        lift_hold(session, "model/m")
    apply_retention(session)
    assert list_batches(session) == days_ago(3)
    assert [row.verb for row in list_audit(session) if row.thing == "model/m"] == ["retention lift", "retention hold"]


def test_what_waits_at_a_gate_stays(session: Session) -> None:
    for n, version in ((500, "m-v1"), (490, "m-v2"), (3, "m-v1")):
        answer(session, n, version=version)
    asked = ApprovalRequest(
        id="a", model="m", version="m-v2", environment="prod", kind="gate", verdict="v", requested_by="ada", at=START, expires_at=START, n_needed=1
    )
    with session.records.transact() as tx:
        tx.append(APPROVAL_REQUESTS, workspace="default", record=asked)
    set_retention(session, "predictions", "400d")
    report = apply_retention(session)
    assert report.removed == {"predictions": 1}
    assert [kept.why for kept in report.kept] == ["m-v2 waits at its gate for approvals"]
    assert list_batches(session) == days_ago(490, 3)


def test_notices_snapshots_and_sessions(session: Session) -> None:
    def tell(id_: str, days: int, state: str) -> None:
        with session.records.transact() as tx:
            notice = Notice(id=id_, at=START - timedelta(days=days), kind="k", thing="model/m", sentence="s", actor="ada")
            tx.append(NOTICES, workspace="default", record=notice)
            sent = NoticeDelivery(notice=id_, webhook="w", workspace="default", next_at=START, state=state)
            tx.append(NOTICE_DELIVERIES, workspace=HOUSE, record=sent)

    def look(id_: str, days: int) -> None:
        with session.records.transact() as tx:
            at = START - timedelta(days=days)
            found = Snapshot(id=id_, view="v", version="1", at=at, n_rows=1, first_event=None, last_event=None, profiles=())
            tx.append(SNAPSHOTS, workspace="default", record=found)

    tell("old", 100, "delivered")
    tell("waiting", 100, "waiting")
    tell("new", 1, "delivered")
    look("s1", 100)
    look("s2", 90)
    with session.records.transact() as tx:
        for name, days in (("old", 31), ("young", 29)):
            tx.append(USED_STATES, workspace=HOUSE, record=UsedState(name, START - timedelta(days=days)))
            tx.append(SIGNED_OUT, workspace=HOUSE, record=SignedOut(name, START - timedelta(days=days)))
    for log in ("notices", "snapshots", "sessions"):
        set_retention(session, log, "30d")
    report = apply_retention(session)
    assert report.removed == {"notices": 1, "snapshots": 1, "sessions": 0}
    assert [kept.why for kept in report.kept] == ["it waits to be sent"]
    assert [notice.id for notice in session.records.find(NOTICES, workspace="default")] == ["waiting", "new"]
    assert [one.notice for one in session.records.find(NOTICE_DELIVERIES, workspace=HOUSE)] == ["waiting", "new"]
    assert [one.id for one in session.records.find(SNAPSHOTS, workspace="default")] == ["s2"]
    assert session.records.find(PAGE_SESSIONS, workspace=HOUSE) == []
    assert [used.id for used in session.records.find(USED_STATES, workspace=HOUSE)] == ["young"]
    assert [mark.id for mark in session.records.find(SIGNED_OUT, workspace=HOUSE)] == ["young"]


def test_tracked_runs_and_rows_of_training_sets(session: Session) -> None:
    assert isinstance(session.clock, ManualClock)
    experiment = create_experiment(session, "e")
    old = start_run(session, experiment=experiment.id)
    update_run(session, old.id, status="finished", ended_us=int(START.timestamp() * 1e6))
    goes_on = start_run(session, experiment=experiment.id)
    set_ = TrainingSet(
        id="t1",
        identity="i",
        at=START,
        views={},
        ingests={},
        spine_sha256="",
        sha256="",
        n_rows=1,
        n_missing={},
        profiles=(),
        path=None,
        cpu_s=0,
        wall_s=0,
    )
    session.tables.write(TRAINING_ROWS, partition={"workspace": "default", "training_set": "t1", "part": "0"}, table=ROWS)
    with session.records.transact() as tx:
        tx.append(TRAINING_SETS, workspace="default", record=set_)
    session.clock.advance(timedelta(days=100))
    for log in ("runs", "training-sets"):
        set_retention(session, log, "30d")
    hold_thing(session, "training-set/t1", reason="audit")
    report = apply_retention(session)
    assert report.removed == {"training-sets": 0, "runs": 1}
    assert session.tracks.read("default", [old.id]) == [None]
    assert session.tracks.read("default", [goes_on.id]) != [None]
    lift_hold(session, "training-set/t1")
    assert apply_retention(session).removed == {"training-sets": 1, "runs": 0}
    assert session.tables.partitions(TRAINING_ROWS) == []
    assert session.records.get(TRAINING_SETS, workspace="default", id="t1") == set_


def test_what_is_kept_of_superseded_views_goes_unless_something_leans_on_it(session: Session, tmp_path: Path) -> None:
    assert isinstance(session.clock, ManualClock)
    at = pa.array([datetime(2026, 3, 1)] * 2, pa.timestamp("us"))  # noqa: DTZ001 - plain times of the table
    pq.write_table(pa.table({"store": ["a", "b"], "units": [1, 2], "price": [1.0, 2.0], "at": at}), tmp_path / "sales.parquet")
    sales = Table("sales", "sales.parquet", keys=("store",), event_time="at", zone="UTC")
    versions = []
    for features in (["units"], ["units", "price"]):
        view = FeatureView(name="v", source=sales, features=features)
        with session.change("apply", thing="v") as change:
            versions.append(register_view(session, change, view, folder=tmp_path))
        materialise(session, "v")
    old, new = versions
    session.clock.advance(timedelta(days=100))
    set_retention(session, "features", "30d")
    hold_thing(session, "view/v", reason="case")
    report = apply_retention(session)
    assert report.removed == {"features": 0}
    assert f"view/{old.id}" in [kept.thing for kept in report.kept]
    lift_hold(session, "view/v")
    assert apply_retention(session).removed == {"features": 1}
    assert apply_retention(session).removed == {"features": 0}
    assert {part["version"] for part in session.tables.partitions(MATERIALISED)} == {new.version}
    assert session.online.spaces() == [f"default/{new.id}"]
    with pytest.raises(NotFound, match="never materialised"):
        read_materialised(session, old)
    assert read_materialised(session, new) is not None
    assert materialise(session, old.id).n_rows == 2  # it can be made anew


def test_rows_put_aside_go_by_the_period_of_their_table_and_not_while_the_table_leans_on_them(session: Session, tmp_path: Path) -> None:
    assert isinstance(session.clock, ManualClock)
    contract = Contract(columns={"units": Check(least=0)}, quarantine=0.9)
    sales = Table("sales", "sales/*.csv", keys=("store",), contract=contract, retention="30d")
    view = FeatureView(name="v", source=sales, features=["units"])
    with session.change("apply", thing="v") as change:
        register_view(session, change, view, folder=tmp_path)
    (tmp_path / "sales").mkdir()
    (tmp_path / "sales" / "1.csv").write_text("store,units\na,1\nb,-1\n", "utf-8")
    ingest(session, sales, folder=tmp_path)
    session.clock.advance(timedelta(days=100))
    (kept,) = apply_retention(session).kept
    assert kept.why == "the standing ingest leaves these rows out"
    (tmp_path / "sales" / "1.csv").write_text("store,units\na,1\n", "utf-8")
    ingest(session, sales, folder=tmp_path)
    assert apply_retention(session).removed == {"quarantine": 1}
    assert session.tables.partitions(QUARANTINE) == []
    assert [line.period for line in show_retention(session) if line.log == "table/sales"] == ["30d"]


def test_after_a_kill_the_same_command_goes_on(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (500, 450, 3):
        answer(session, n)
    set_retention(session, "predictions", "400d")
    delete, calls = type(session.tables).delete, []

    def die(self: Any, dataset: str, *, partition: Any) -> None:
        calls.append(dataset)
        if len(calls) > 1:
            raise KeyboardInterrupt
        delete(self, dataset, partition=partition)

    with monkeypatch.context() as killed:
        killed.setattr(type(session.tables), "delete", die)
        with pytest.raises(KeyboardInterrupt):
            apply_retention(session)
    assert [batch.moment for batch in session.records.find(BATCHES, workspace="default")] == days_ago(3)
    apply_retention(session)
    assert list_batches(session) == days_ago(3)


def test_the_schedule_does_it_once_a_day_and_one_process_at_a_time(session: Session) -> None:
    assert isinstance(session.clock, ManualClock)
    for n in (500, 3):
        answer(session, n)
    set_retention(session, "predictions", "400d", at="10:00")
    assert sweep_when_due(session) is not None  # yesterday's was never done
    assert sweep_when_due(session) is None
    assert list_batches(session) == days_ago(3)
    session.clock.advance(timedelta(minutes=59))
    assert sweep_when_due(session) is None
    session.clock.advance(timedelta(minutes=2))
    with hold_lease(replace(session, actor=session.actor), "retention"):
        assert sweep_when_due(session) is None  # somebody is at it
    assert sweep_when_due(session) is not None
    assert sweep_when_due(session) is None
    (swept,) = session.records.find(SWEEPINGS, workspace=HOUSE)
    assert (swept.day, swept.done) == ("2026-03-04", True)


def test_a_sweep_that_was_killed_is_done_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(session, 500)
    answer(session, 3)
    set_retention(session, "predictions", "400d")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("endcap.project.retention.remove_expired", die)
        with pytest.raises(KeyboardInterrupt):
            sweep_when_due(session)
    assert session.records.find(SWEEPINGS, workspace=HOUSE) == []
    assert sweep_when_due(session) is not None
    assert list_batches(session) == days_ago(3)


@pytest.mark.parametrize(
    ("log", "period", "at", "says"),
    [
        ("audit", "30d", None, "The audit is kept for ever: a chain from which rows are taken proves nothing."),
        ("prediction", "30d", None, "There is no log"),
        ("predictions", "1h", None, "less than a day"),
        ("predictions", "0d", None, "less than a day"),
        ("predictions", "long", None, "'long' is no period. Hint: write 400d, or ever"),
        ("predictions", "", None, "'' is no period. Hint: write 400d, or ever"),
        ("predictions", "30d", "25:00", "no time of the day"),
        ("../predictions", "30d", None, "There is no log"),
    ],
)
def test_rules_that_are_none(session: Session, log: str, period: str, at: str | None, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        set_retention(session, log, period, at=at)
    assert {line.period for line in show_retention(session)} == {""}


def test_a_rule_is_taken_back(session: Session) -> None:
    set_retention(session, "predictions", "30d")
    set_retention(session, "notices", "30d", at="23:15")
    rules = set_retention(session, "predictions", "ever")
    assert (rules.periods, rules.at) == ({"notices": "30d"}, "23:15")


def test_holds_that_are_none_and_who_may(session: Session) -> None:
    for thing, reason in (("m", "r"), ("model/", "r"), ("user/ada", "r"), ("model/m", " ")):
        with pytest.raises(InvalidInput):
            hold_thing(session, thing, reason=reason)
    with pytest.raises(InvalidInput, match="is not held"):
        lift_hold(session, "model/m")
    owner = replace(session, admin=False)
    with pytest.raises(PermissionDenied):
        set_retention(owner, "sessions", "30d")
    editor = replace(owner, role=Role.EDITOR)
    for call in (lambda: set_retention(editor, "notices", "30d"), lambda: apply_retention(editor), lambda: hold_thing(editor, "model/m", reason="r")):
        with pytest.raises(PermissionDenied):
            call()


def test_two_who_apply_at_once(session: Session) -> None:
    set_retention(session, "predictions", "30d")
    with hold_lease(replace(session), "retention"), pytest.raises(Conflict):
        apply_retention(session)


def test_every_log_has_a_finder() -> None:
    from endcap.project.retention import _FINDERS, LOGS

    assert set(LOGS) == {*_FINDERS, "quarantine"}
    assert msgspec.structs.fields(expiry.KeptThing)[0].name == "log"
