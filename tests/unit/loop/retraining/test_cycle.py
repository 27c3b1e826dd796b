from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.definitions.aggregates import count
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.watches import MemberQuality, Quality
from endcap.core.errors import ContractBroken, IntegrityBroken, PermissionDenied, StepFailed
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.records import BATCHES, PREDICTIONS
from endcap.loop.evaluation.records import VERDICTS
from endcap.loop.monitoring.quality import list_incidents, list_readings
from endcap.loop.registry.pins import pin, unpin
from endcap.loop.registry.records import MEMBER_METRICS, VERSIONS
from endcap.loop.registry.releases import show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.retraining.cycle import CycleResult
from endcap.pipelines.records import EDGES, RUNS
from endcap.pipelines.verbs import walk_lineage

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

STEPS = ["ingest sales", "assemble", "watch", "decide", "train", "release", "forecast"]


def statuses(result: CycleResult) -> dict[str, str]:
    return {step.name: step.status for step in result.run.steps}


def notes(result: CycleResult) -> dict[str, str]:
    return {step.name: step.note for step in result.run.steps}


def audited(world: Any, verb: str, outcome: str = "done") -> list[dict[str, Any]]:
    return [row.detail for row in list_audit(world.session, limit=500) if (row.verb, row.outcome) == (verb, outcome)]


def test_the_first_turn_trains_releases_and_answers(world: Any) -> None:
    done = world.turn()
    assert list(statuses(done)) == STEPS
    assert set(statuses(done).values()) == {"done"}
    assert (done.decision.train, done.decision.reason) == (True, "there is no champion yet")
    assert [(j.version, j.candidate, j.passed, j.released) for j in done.judged] == [("store-day-v1", "model", True, True)]
    assert done.champion == "store-day-v1"
    batch = done.batch
    assert batch is not None
    assert (batch.origin, batch.first, batch.last, batch.n_rows) == (world.today, world.today, world.today + timedelta(days=2), 6)
    assert (batch.run, batch.data, batch.zone, batch.keys) == (done.run.id, done.data.digest, "UTC", ("store_id",))
    assert batch.missing_facts == ("promotion (50% of the targets)",)
    assert notes(done)["forecast"].endswith("by store-day-v1; not known ahead: promotion (50% of the targets)")
    (release,) = show_history(world.session, "store-day")
    assert (release.version, release.how, release.actor, release.reason) == ("store-day-v1", "promote", "ada", "there is no champion yet")


def test_a_second_turn_of_an_unchanged_world_does_nothing_again(world: Any) -> None:
    first = world.turn()
    before, called = world.count(), list(world.task.called)
    second = world.turn()
    assert statuses(second)["assemble"] == "cached"
    assert world.task.called == called
    assert world.count() == before == {"version": 1, "verdict": 1, "release": 1}
    assert (second.decision.train, second.judged, second.champion) == (False, (), "store-day-v1")
    assert second.batch == first.batch
    assert notes(second)["train"] == notes(second)["release"] == "not needed"
    assert notes(second)["forecast"] == "stands already"
    assert len(world.session.records.find(INGESTS, workspace="default")) == 1


def test_the_next_morning_the_champion_answers_anew(world: Any) -> None:
    world.turn()
    done = world.wake().turn()
    assert (done.decision.train, done.champion) == (False, "store-day-v1")
    assert done.batch.origin == world.today
    assert done.watched.n_outcomes == 2
    assert world.count() == {"version": 1, "verdict": 1, "release": 1}
    assert len(world.session.records.find(BATCHES, workspace="default")) == 2
    assert len(world.session.tables.partitions(PREDICTIONS)) == 2


def test_a_file_that_changed_the_same_day_is_answered_from_anew(world: Any) -> None:
    first = world.turn()
    world.changed_on = world.today - timedelta(days=1)
    world.write()
    second = world.turn()
    assert second.batch.id == first.batch.id
    assert second.batch.data != first.batch.data
    assert len(world.session.records.find(BATCHES, workspace="default")) == 1


def test_a_changed_definition_is_trained_once(world: Any) -> None:
    world.turn()
    world.task.wish, world.task.offers = "second", [("model", 0.01)]
    world.apply()
    done = world.wake().turn()
    assert done.decision.reason == "the definition changed"
    assert done.champion == "store-day-v2"
    assert statuses(done)["assemble"] == "done"
    assert world.turn().decision.train is False


def test_after_four_weeks_it_is_trained_again(world: Any) -> None:
    world.turn()
    assert world.wake(days=27).turn().decision.train is False
    done = world.wake().turn()
    assert (done.decision.train, done.decision.reason) == (True, "the last training was 28 days ago")
    assert world.wake().turn().decision.reason.endswith("last training 1 days ago")


def test_a_refused_version_leaves_the_champion_answering(world: Any) -> None:
    world.turn()
    world.task.offers = [("model", 0.2), ("other", 0.25)]
    done = world.wake().turn(train=True)
    assert [(j.version, j.passed, j.released) for j in done.judged] == [("store-day-v2", False, False), ("store-day-v3", False, False)]
    assert (done.champion, done.batch.version, done.run.status) == ("store-day-v1", "store-day-v1", "done")
    assert done.decision.reason == "asked for"
    assert notes(done)["release"].startswith("does not clearly beat the champion (store-day-v1)")
    assert [detail["version"] for detail in audited(world, "promote", "refused")] == ["store-day-v3", "store-day-v2"]


def test_trials_are_offered_in_turn_until_one_passes_each_by_a_stricter_interval(world: Any) -> None:
    world.task.offers = [("poor", 0.4), ("good", 0.1), ("best", 0.01)]
    done = world.turn()
    assert [(j.candidate, j.released) for j in done.judged] == [("poor", False), ("good", True)]
    assert world.task.tried == [1, 2]
    assert done.champion == "store-day-v2"
    assert world.count() == {"version": 2, "verdict": 2, "release": 1}


def test_where_nothing_passes_nothing_answers_and_the_next_turn_tries_again(world: Any) -> None:
    world.task.offers = [("poor", 0.5)]
    done = world.turn()
    assert (done.champion, done.batch, done.run.status) == (None, None, "done")
    assert notes(done)["forecast"] == "no version passed its gate, so nothing answers"
    assert show_history(world.session, "store-day") == []
    world.task.offers = [("model", 0.02)]
    again = world.wake().turn()
    assert (again.decision.reason, again.champion) == ("there is no champion yet", "store-day-v2")


def test_training_is_done_or_left_where_it_is_asked_for(world: Any) -> None:
    left = world.turn(train=False)
    assert (left.decision.reason, left.champion, left.batch, world.task.called) == ("training was asked not to run", None, None, ["assemble"])
    assert world.turn(train=True).champion == "store-day-v1"
    forced = world.turn(train=True)
    assert [(j.version, j.released, j.sentence) for j in forced.judged] == [("store-day-v1", False, "it is the champion already")]
    assert world.count() == {"version": 1, "verdict": 1, "release": 1}


def test_an_origin_may_be_asked_for(world: Any) -> None:
    done = world.turn(origin="2026-01-20")
    assert done.batch.origin == date(2026, 1, 20)
    assert world.turn().batch.origin == world.today


def test_a_breach_soon_after_a_training_waits(world: Any) -> None:
    world.turn()
    world.changed_on = world.today
    first = world.wake().turn()
    assert first.watched.readings[0].breached
    assert first.decision.train is False
    assert first.decision.reason == "a watch is breached, but the last training was 1 days ago; it is tried again after 7"
    assert first.batch.version == "store-day-v1"


def test_what_a_breach_leads_to(world: Any) -> None:
    """Day 10: demand doubles. Day 11: seen, trained, and refused, for two of three judged days were the old world's. Day 18: released."""
    world.turn()
    world.changed_on = world.today + timedelta(days=10)
    assert world.wake(days=10).turn().decision.train is False

    seen = world.wake().turn()
    assert seen.decision.reason.startswith("a watch is breached: live wape")
    assert [(j.version, j.released) for j in seen.judged] == [("store-day-v2", False)]
    assert (seen.champion, seen.batch.version) == ("store-day-v1", "store-day-v1")
    assert len(list_incidents(world.session)) == 1

    waited = [world.wake().turn().decision for _ in range(6)]
    assert {decision.train for decision in waited} == {False}
    assert waited[-1].reason == "a watch is breached, but the last training was 6 days ago; it is tried again after 7"

    mended = world.wake().turn()
    assert (mended.decision.train, mended.champion, mended.batch.version) == (True, "store-day-v3", "store-day-v3")
    after = world.wake().turn()
    assert after.decision.train is False
    assert not after.watched.readings[0].breached
    newest, first = show_history(world.session, "store-day")
    assert (newest.actor, newest.reason[:20]) == ("ada", "a watch is breached:")
    assert {row.version for row in list_readings(world.session, "store-day")} == {"store-day-v1", "store-day-v3"}
    assert first.version == "store-day-v1"


def test_a_watch_that_only_notifies_trains_nothing(world: Any) -> None:
    world.task.watch = (Quality("wape", window="7d", least_rows=2, then=("notify",)),)
    world.turn()
    world.changed_on = world.today + timedelta(days=8)
    world.wake(days=8).turn()
    done = world.wake().turn()
    assert done.watched.readings[0].breached
    assert done.decision.train is False
    assert len(list_incidents(world.session)) == 1


def test_members_that_fell_are_a_reason_to_train(world: Any) -> None:
    world.task.watch = (Quality("wape", factor=1e6), MemberQuality(window="7d", least_days=2, then=("retrain",)))
    world.turn()
    (version,) = world.session.records.find(VERSIONS, workspace="default")
    promised = pa.table({"member": ["S1", "S2"], "n": [20, 20], "wape": [0.02, 0.02], "mae": [0.2, 0.4]})
    world.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": version.evidence}, table=promised)
    world.changed_on = world.today
    seen = world.wake(days=8).turn()
    assert [reading.breached for reading in seen.watched.readings] == [False, True]
    assert notes(seen)["watch"].endswith("; 2 of 2 members fell (2 new, 0 recovered)")
    assert seen.decision.reason == "a watch is breached: 2 of 2 members fell (2 new, 0 recovered)"
    (incident,) = list_incidents(world.session)
    assert incident.sentence == "2 of 2 members fell in wape: S1 0.4900 (promised 0.0200), S2 0.4900 (promised 0.0200)"


def test_without_a_watch_nothing_is_read(world: Any) -> None:
    world.task.watch = ()
    world.turn()
    assert notes(world.wake().turn())["watch"] == "no watch is declared"


def test_readings_are_made_by_the_system_and_releases_by_who_ran(world: Any) -> None:
    world.turn()
    world.changed_on = world.today + timedelta(days=1)
    world.wake(days=1).turn()
    world.wake().turn()
    actors = {row.verb: row.actor for row in list_audit(world.session, limit=500)}
    assert (actors["check-quality"], actors["promote"]) == ("system", "ada")


def test_everything_is_released_by_the_one_door(world: Any) -> None:
    world.task.offers = [("poor", 0.5), ("model", 0.02)]
    world.turn()
    assert [detail["version"] for detail in audited(world, "promote")] == ["store-day-v2"]
    assert [detail["version"] for detail in audited(world, "promote", "refused")] == ["store-day-v1"]
    verify_audit(world.session)


def test_an_editors_turn_keeps_what_passed_for_somebody_who_may_release_it(world: Any) -> None:
    world.turn()
    world.task.offers, editor = [("model", 0.01)], replace(world.session, role=Role.EDITOR)
    done = world.wake().turn(editor, train=True)
    (judged,) = done.judged
    assert (judged.passed, judged.released) == (True, False)
    assert "it is not released: 'ada' is editor" in judged.sentence
    assert (done.champion, done.batch.version, done.run.status) == ("store-day-v1", "store-day-v1", "done")


def test_after_a_rollback_the_earlier_version_answers(world: Any) -> None:
    world.turn()
    world.task.offers = [("model", 0.01)]
    assert world.wake().turn(train=True).champion == "store-day-v2"
    rollback(world.session, "store-day")
    done = world.turn()
    assert (done.decision.train, done.batch.version) == (False, "store-day-v1")


def test_what_is_pinned_stays_and_the_turn_goes_on(world: Any) -> None:
    world.turn()
    pin(world.session, "store-day", reason="stock-taking")
    world.task.offers = [("model", 0.01)]
    done = world.wake().turn(train=True)
    assert (done.champion, done.run.status) == ("store-day-v1", "done")
    (judged, *_) = done.judged
    assert (judged.passed, judged.released) == (False, False)
    assert "ada has pinned what answers for model 'store-day' in 'prod'" in judged.sentence
    unpin(world.session, "store-day")
    assert world.wake().turn(train=True).champion == "store-day-v3"


def test_a_broken_contract_ends_the_turn_and_nothing_moves(world: Any) -> None:
    world.turn()
    before, called = world.count(), len(world.task.called)
    world.wake()
    text = (world.folder / "sales.csv").read_text()
    (world.folder / "sales.csv").write_text(text.replace(",10.0\n", ",-1\n", 1))
    with pytest.raises(ContractBroken, match="'sales' breaks 1 promise"):
        world.turn()
    assert (world.count(), len(world.task.called)) == (before, called)
    failed = world.session.records.find(RUNS, workspace="default", newest_first=True, limit=1)[0]
    assert (failed.status, [step.status for step in failed.steps]) == ("failed", ["failed"])
    world.write()
    assert world.turn().champion == "store-day-v1"


def test_a_damaged_champion_does_not_answer(tmp_path: Any, world: Any) -> None:
    from endcap.testing.sessions import make_session

    session = make_session(tmp_path / "home", start=world.session.now())
    own = replace(world, session=session)
    try:
        own.apply()
        version = own.turn().judged[0].version
        (file,) = session.records.get(VERSIONS, workspace="default", id=version).files
        (tmp_path / "home" / "blobs" / file.sha256[:2] / file.sha256).write_bytes(b"{}")
        with pytest.raises(IntegrityBroken, match="changed at rest"):
            own.wake().turn()
        assert len(session.records.find(BATCHES, workspace="default")) == 1
    finally:
        session.ports.close()


KILLS = ["assemble", "train", "weigh", "answer", "version", "verdict", "release"]


def killed(world: Any, tamper: Callable[..., Any], point: str) -> None:
    """A turn that ends at a point: inside the task's method of that name, or where a record of that kind is written."""
    session = world.session
    if point in ("version", "verdict", "release"):
        session = tamper(session, breaks=point)
    else:
        world.task.fails[point] = KeyboardInterrupt() if point == "train" else RuntimeError("killed")
    with pytest.raises((StepFailed, KeyboardInterrupt)):
        world.turn(session)


def state(world: Any) -> dict[str, Any]:
    """All that a turn leaves, but for verdicts, of which every look gives a new one."""
    records = world.session.records
    return {
        "versions": [(v.id, v.identity) for v in records.find(VERSIONS, workspace="default")],
        "releases": [(r.version, r.previous, r.how, r.reason) for r in show_history(world.session, "store-day")],
        "batches": [(b.id, b.data, b.n_rows) for b in records.find(BATCHES, workspace="default")],
        "rows": world.session.tables.read(PREDICTIONS).to_pylist(),
        "edges": {(e.source, e.target) for e in records.find(EDGES, workspace="default")},
    }


@pytest.mark.parametrize("point", KILLS)
def test_a_turn_that_was_killed_is_completed_by_the_next(world: Any, tamper: Callable[..., Any], point: str) -> None:
    world.task.offers = [("poor", 0.5), ("model", 0.02)]
    untouched = world.again()
    untouched.apply()
    untouched.turn()
    killed(world, tamper, point)
    done = world.turn()
    assert (done.champion, done.run.status) == ("store-day-v2", "done")
    assert state(world) == state(untouched)
    if point not in ("assemble", "train", "answer"):
        assert world.task.called.count("train") == 1  # what was trained is found again
        assert statuses(done)["train"] == "cached"
    world.turn()
    assert state(world) == state(untouched)
    verify_audit(world.session)


@pytest.mark.parametrize("point", ["weigh", "version", "verdict", "release", "answer"])
def test_a_training_that_was_killed_before_its_verdict_is_not_forgotten(world: Any, tamper: Callable[..., Any], point: str) -> None:
    world.turn()
    world.task.offers, world.task.wish = [("model", 0.01)], "second"
    world.apply()
    world.wake()
    killed(world, tamper, point)
    done = world.turn()
    assert done.champion == done.batch.version == "store-day-v2"
    assert world.count()["version"] == world.count()["release"] == 2
    assert world.turn().decision.train is False


def test_a_training_after_a_breach_that_was_killed_does_not_wait_a_week(world: Any, tamper: Callable[..., Any]) -> None:
    world.turn()
    world.changed_on = world.today + timedelta(days=8)
    world.wake(days=8).turn()
    world.wake()
    killed(world, tamper, "verdict")
    done = world.turn()
    assert done.decision.reason.startswith("a watch is breached: live wape")
    assert [judged.version for judged in done.judged] == ["store-day-v2"]
    assert (world.count()["version"], world.task.called.count("train")) == (2, 2)
    assert world.turn().decision.reason.endswith("it is tried again after 7")


def test_a_training_that_was_asked_for_and_killed_is_not_forgotten(world: Any) -> None:
    world.turn()
    world.task.offers = [("model", 0.01)]
    world.task.fails["weigh"] = RuntimeError("killed")
    with pytest.raises(StepFailed):
        world.wake().turn(train=True)
    assert world.turn().champion == "store-day-v2"


def test_a_turn_killed_between_two_trials_offers_the_second(world: Any) -> None:
    world.turn()
    world.task.offers = [("poor", 0.5), ("model", 0.01)]
    world.task.wish = "second"
    world.apply()
    world.wake()

    class SecondWeighing(RuntimeError):
        pass

    weigh, calls = world.task.weigh, []

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SecondWeighing
        return weigh(*args, **kwargs)

    world.task.weigh = fail_once
    with pytest.raises(StepFailed):
        world.turn()
    assert world.turn().champion == "store-day-v3"


def test_a_judgement_that_always_fails_does_not_keep_the_champion_from_answering(world: Any) -> None:
    world.turn()
    world.task.offers, world.task.wish = [("model", 0.01)], "second"
    world.apply()
    world.wake()
    for _ in range(3):
        world.task.fails["weigh"] = RuntimeError("it cannot be weighed")
        with pytest.raises(StepFailed, match="it cannot be weighed"):
            world.turn()
    done = world.turn()
    assert (done.decision.train, done.champion, done.batch.version) == (False, "store-day-v1", "store-day-v1")
    assert world.task.called.count("train") == 2


def test_a_failed_ingest_after_a_killed_training_forgets_nothing(world: Any, tamper: Callable[..., Any]) -> None:
    world.turn()
    world.wake().task.offers = [("model", 0.01)]
    world.task.wish = "second"
    world.apply()
    killed(world, tamper, "verdict")
    good = (world.folder / "sales.csv").read_text()
    (world.folder / "sales.csv").write_text(good.replace(",10.0\n", ",-1\n", 1))
    with pytest.raises(ContractBroken):
        world.turn()
    world.write()
    assert world.turn().champion == "store-day-v2"


def test_from_a_batch_one_walks_to_the_files_and_back(world: Any) -> None:
    done = world.turn()
    batch = f"batch/{done.batch.id}"
    (ingest,) = world.session.records.find(INGESTS, workspace="default")
    source = f"source/{ingest.files[0].sha256}"
    upstream = {edge.source for edge in walk_lineage(world.session, batch)}
    (version,) = world.session.records.find(VERSIONS, workspace="default")
    file = f"file/{version.files[0].sha256}"
    assert upstream == {f"version/{version.id}", f"data/{done.data.digest}", file, f"ingest/{ingest.id}", source}
    downstream = {edge.target for edge in walk_lineage(world.session, source, upstream=False)}
    assert downstream == {f"ingest/{ingest.id}", f"data/{done.data.digest}", file, f"version/{version.id}", batch}
    assert {edge.run for edge in walk_lineage(world.session, batch)} == {done.run.id}


def test_of_a_later_batch_both_the_training_and_the_new_data_are_upstream(world: Any) -> None:
    first = world.turn()
    second = world.wake().turn()
    upstream = {edge.source for edge in walk_lineage(world.session, f"batch/{second.batch.id}")}
    assert {f"data/{first.data.digest}", f"data/{second.data.digest}"} <= upstream
    assert len([thing for thing in upstream if thing.startswith("source/")]) == 2


def test_every_verdict_says_what_it_was_judged_against(world: Any) -> None:
    world.turn()
    world.task.offers = [("model", 0.01)]
    world.wake().turn(train=True)
    verdicts = world.session.records.find(VERDICTS, workspace="default")
    assert [(v.version, v.against, v.passed, v.n_pairs) for v in verdicts] == [
        ("store-day-v1", None, True, 6),
        ("store-day-v2", "store-day-v1", True, 6),
    ]


@pytest.mark.parametrize("purpose", [None, "credit"])
def test_a_model_of_another_purpose_is_refused_before_anything_is_read(world: Any, purpose: str | None) -> None:
    (sales,) = world.task.tables
    world.task.tables = (msgspec.structs.replace(sales, purposes=("demand",)),)
    world.task.purpose = purpose
    with pytest.raises(PermissionDenied, match=r"table 'sales' may be used for 'demand' only"):
        world.turn()
    assert world.task.called == []
    assert world.session.records.find(INGESTS, workspace="default") == world.session.records.find(RUNS, workspace="default") == []
    (detail,) = audited(world, "run", "refused")
    assert detail["purpose"] == purpose
    assert "may be used for 'demand' only" in str(detail["why"])
    world.task.purpose = "demand"
    assert world.turn().champion == "store-day-v1"


def test_a_view_of_another_purpose_refuses_too(world: Any) -> None:
    (sales,) = world.task.tables
    world.task.views = (FeatureView(name="visits", source=sales, features={"n": count("*", "7d")}, purposes=("staffing",)),)
    with pytest.raises(PermissionDenied, match=r"feature view 'visits' may be used for 'staffing' only"):
        world.turn(train=False)
    assert world.task.called == []
