from __future__ import annotations

import io
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from endcap.faces.cli.rendering import show
from endcap.governance.privacy.subjects import Subjects
from endcap.loop.registry.records import MODELS, ModelRecord
from endcap.project.expiry import KeptThing
from endcap.project.forgetting import ForgetReport, forget, list_forgotten, readmit
from endcap.project.held_subjects import HeldRows, StayingThing, TrainedVersion
from endcap.project.retention import RetentionReport, hold_thing, lift_hold, set_retention, show_retention
from endcap.testing.sessions import make_session

AT = datetime(2026, 3, 4, 9, tzinfo=UTC)
REPORT = ForgetReport(
    subject="ab" * 16,
    kind="customer_id",
    state="planned",
    seen=True,
    at=AT,
    asked_by="ticket 7",
    n_online=2,
    held=(HeldRows("view/facts@1", "feature rows", 1200),),
    versions=(TrainedVersion("churn-v1", "view/facts@1", "prod", "endcap run churn"), TrainedVersion("fraud-v1", "view/facts@1", "", "")),
    stays=(StayingThing("audit", "its rows name the person by a keyed hash alone", "for ever"), StayingThing("table/people", "not ours")),
)


def shown(result: object) -> list[str]:
    out = io.StringIO()
    show(result, Console(file=out, width=240, highlight=False))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_what_forgetting_would_touch_is_told_line_by_line() -> None:
    assert shown(REPORT) == [
        "customer_id abababababababab would be forgotten; nothing was changed",
        "view/facts@1: 1,200 feature rows",
        "online: 2 rows to be dropped",
        "churn-v1 was trained on view/facts@1, answers in prod; trained again by: endcap run churn",
        "fraud-v1 was trained on view/facts@1; its files came from outside, so nothing here trains it again",
        "What a key cannot undo, or must be kept:",
        "audit: its rows name the person by a keyed hash alone (for ever)",
        "table/people: not ours",
        "The same command with --yes does it.",
    ]


def test_one_row_is_told_as_one() -> None:
    assert "online: 1 row to be dropped" in shown(msgspec.structs.replace(REPORT, n_online=1))


def test_who_was_forgotten_is_told_by_hash() -> None:
    session = make_session()
    Subjects(session).note_kind("customer_id")
    done = forget(session, key="customer_id=planted", asked_by="ticket 7", yes=True)
    assert shown(done)[:2] == [f"customer_id {done.subject[:16]} is forgotten: the key is destroyed", "Nothing was ever sealed for them."]
    assert shown(forget(session, key="customer_id=planted"))[0].startswith(f"customer_id {done.subject[:16]} was forgotten at 2026-01-05 08:00 UTC")
    assert shown(list_forgotten(session)) == [
        "subject of since by asked by state",
        f"{done.subject} customer_id 2026-01-05 08:00:00 ada ticket 7 done",
    ]
    again = readmit(session, key="customer_id=planted")
    assert shown(again) == [
        f"customer_id {done.subject[:16]} is readmitted: what comes of them from now on is kept again, under a new key",
        "What was sealed before they were forgotten, at 2026-01-05 08:00 UTC, stays closed.",
    ]
    assert not any("planted" in line for line in [*shown(done), *shown(list_forgotten(session))])


def test_retention_is_told_with_what_stays_and_why() -> None:
    session = make_session()
    assert shown(set_retention(session, "notices", "400d")) == [
        "notices: 400d",
        "Applied by endcap up at 03:30 (UTC), or now: endcap retention apply. All else is kept for ever.",
    ]
    assert shown(show_retention(session))[:2] == [
        "log kept for what older of it leant on",
        "predictions ever logged predictions and their outcomes 0 0",
    ]
    kept = tuple(KeptThing("predictions", f"batch/{n}", "it answers now") for n in range(22))
    report = RetentionReport(workspace="default", at=AT, dry_run=True, removed={"notices": 1200, "runs": 0}, kept=kept)
    assert shown(report)[:2] == ["1,200 notices would go of workspace default", "batch/0 stays: it answers now"]
    assert shown(report)[-1] == "and 2 more"
    assert (
        shown(msgspec.structs.replace(report, leftovers={"places": 1200, "tokens": 2}))[1] == "Of the house, over since long: 1,200 places, 2 tokens"
    )
    nothing = RetentionReport(workspace="default", at=AT, dry_run=False, removed={}, kept=())
    assert shown(nothing) == ["nothing went of workspace default", "No log has a period: endcap retention set LOG 400d"]


def test_a_hold_is_told_with_how_it_ends() -> None:
    session = make_session()
    model = ModelRecord(name="m", solution="tabular", definition="{}", identity="i", applied_at=AT, applied_by="ada")
    with session.records.transact() as tx:
        tx.append(MODELS, workspace="default", record=model)
    assert shown(hold_thing(session, "model/m", reason="case 12")) == ["model/m is held: case 12", "endcap retention lift model/m ends it."]
    assert shown(show_retention(session))[-1] == "model/m until lifted held for the law: case 12 0 0"
    assert shown(lift_hold(session, "model/m")) == ["model/m is held no more: its periods count again"]
