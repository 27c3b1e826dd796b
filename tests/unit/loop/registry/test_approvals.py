"""People who look at a version before it answers, and people who answer for one that its gate refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, EndcapError, GateRefused, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.notices import list_notices
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.approvals import approve, list_approvals, reject, request_approval
from endcap.loop.registry.environments import set_environment
from endcap.loop.registry.live import find_live_releases
from endcap.loop.registry.overrides import find_standing_override, override
from endcap.loop.registry.records import MODELS, ApprovalRequest
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.versions import latest_verdict, record_verdict
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.tracked_runs import start_run

MODEL = "store-day"
V1, V2 = "store-day-v1", "store-day-v2"


def as_person(shop: Any, name: str, *, role: Role = Role.APPROVER) -> Session:
    found: Session = replace(shop.session, actor=Actor(name), role=role)
    return found


@pytest.fixture
def asked(shop: Any) -> Any:
    """A version that ada registered, by a gate that asks for two approvals."""
    with shop.session.records.transact() as tx:
        record, n = tx.get_versioned(MODELS, workspace="default", id=MODEL)
        tx.put(MODELS, workspace="default", record=msgspec.structs.replace(record, definition='{"gate": {"approvals": 2}}'), expected_version=n)
    shop.register("a")
    shop.judge_for(V1, "prod", approvals=2)
    return shop


def refused(shop: Any) -> list[tuple[str, str, str]]:
    return [(row.verb, row.actor, str(row.detail.get("why"))) for row in list_audit(shop.session) if row.outcome == "refused"]


def test_with_the_last_approval_the_verdict_is_recorded_anew_and_the_version_is_released(asked: Any) -> None:
    with pytest.raises(GateRefused, match=r"cannot be released: needs 2 approvals, has 0\.") as caught:
        promote(asked.session, V1)
    assert caught.value.hint == "ask for them with: endcap request-approval store-day-v1"
    request = request_approval(asked.session, V1)
    assert (request.status, request.n_needed, request.requested_by) == ("pending", 2, "ada")
    assert request.expires_at == asked.session.now() + timedelta(days=14)
    (told,) = list_approvals(asked.session)
    assert (told.request, told.n_missing, told.hands) == (request, 2, {"ada": "registered it"})
    assert approve(as_person(asked, "bob"), V1, comment="fine").status == "pending"
    with pytest.raises(GateRefused, match="needs 2 approvals"):
        promote(asked.session, V1)
    closed = approve(as_person(asked, "carol"), V1)
    assert closed.status == "approved"
    verdict = latest_verdict(asked.session, V1)
    assert verdict is not None
    assert (verdict.id, verdict.passed, verdict.request) == (closed.granted, True, request.id)
    assert [check.sentence for check in verdict.checks][-1] == "2 of 2 approved (bob, carol)"
    row = promote(asked.session, V1)
    assert (row.verdict, row.overridden) == (verdict.id, False)
    assert [(told.kind, told.sentence) for told in list_notices(asked.session)] == [
        ("released", "store-day-v1 answers in prod, released by ada"),
        ("approval-approved", "store-day-v1 is approved for prod, last by carol"),
        (
            "approval-requested",
            "store-day-v1 waits for approval in prod, asked by ada: 2 needed by 2026-01-19 08:00 UTC (endcap approve store-day-v1)",
        ),
    ]
    assert list_approvals(asked.session) == []
    (done,) = list_approvals(asked.session, version=V1, status="all")
    assert [(said.by, said.answer, said.comment) for said in done.answers] == [("bob", "approved", "fine"), ("carol", "approved", "")]


def test_nobody_approves_twice_and_a_replayed_approval_is_refused_and_audited(asked: Any) -> None:
    request_approval(asked.session, V1)
    bob, carol = as_person(asked, "bob"), as_person(asked, "carol")
    approve(bob, V1)
    for again in (approve, lambda session, version: reject(session, version, comment="changed my mind")):
        with pytest.raises(Conflict, match="'bob' answered the request approval_000001 already; each answers once"):
            again(bob, V1)
    approve(carol, V1)
    with pytest.raises(Conflict, match="'carol' answered the request"):
        approve(carol, V1)
    with pytest.raises(Conflict, match="The request approval_000001 for 'store-day-v1' is approved since"):
        approve(as_person(asked, "dan"), V1)
    assert [(verb, actor) for verb, actor, _ in refused(asked)] == [("approve", "dan"), ("approve", "carol"), ("reject", "bob"), ("approve", "bob")]


def test_nobody_who_had_a_hand_in_it_approves(asked: Any) -> None:
    request_approval(asked.session, V1)
    for session, match in (
        (asked.session, "'ada' registered it, so 'store-day-v1' needs the approval of somebody else"),
        (asked.session.as_system(), "'system' is no person but a system, and 'approve' is a person's word"),
        (replace(asked.session, actor=Actor("ci", "token")), "'ci' is no person but a token"),
        (as_person(asked, "eve", role=Role.EDITOR), "needs the permission 'release'"),
    ):
        with pytest.raises(PermissionDenied, match=match):
            approve(session, V1)
    assert len(refused(asked)) == 4
    assert list_approvals(asked.session)[0].answers == ()


def test_a_record_that_names_somebody_else_does_not_hide_who_registered_it(asked: Any) -> None:
    asked.register("b", created_by="nobody")
    asked.judge_for(V2, "prod", approvals=2)
    request_approval(asked.session, V2)
    with pytest.raises(PermissionDenied, match="'ada' registered it"):
        approve(asked.session, V2)


def test_whoever_logged_the_run_that_it_came_from_does_not_approve(asked: Any) -> None:
    experiment = create_experiment(asked.session, "churn")
    run = start_run(as_person(asked, "fay", role=Role.EDITOR), experiment=experiment.id)
    asked.register("b", run=run.id)
    asked.judge_for(V2, "prod", approvals=2)
    request_approval(asked.session, V2)
    assert list_approvals(asked.session)[0].hands == {"ada": "registered it", "fay": "trained it"}
    with pytest.raises(PermissionDenied, match="'fay' trained it"):
        approve(as_person(asked, "fay"), V2)


def test_one_rejection_ends_the_request(asked: Any) -> None:
    request_approval(asked.session, V1)
    with pytest.raises(InvalidInput, match="without a comment"):
        reject(as_person(asked, "bob"), V1, comment=" ")
    approve(as_person(asked, "carol"), V1)
    assert reject(as_person(asked, "bob"), V1, comment="too high in Essen").status == "rejected"
    with pytest.raises(Conflict, match="is rejected since"):
        approve(as_person(asked, "dan"), V1)
    with pytest.raises(GateRefused, match=r"needs 2 approvals, has 0; rejected by bob at 2026-01-05 08:00 UTC: too high in Essen") as caught:
        promote(asked.session, V1)
    assert caught.value.hint == "what is judged anew may be asked for anew: endcap judge store-day-v1"
    with pytest.raises(Conflict, match=r"'store-day-v1' was rejected on what its verdict says, by bob at .*: too high in Essen"):
        request_approval(asked.session, V1)
    asked.judge_for(V1, "prod", approvals=2)
    assert request_approval(asked.session, V1).status == "pending"
    with pytest.raises(GateRefused) as caught:
        promote(asked.session, V1)
    assert caught.value.hint == "people were asked, until 2026-01-19 08:00 UTC: endcap approvals --version store-day-v1"
    assert [told.request.status for told in list_approvals(asked.session, status="all")] == ["pending", "rejected"]
    assert [told.request.status for told in list_approvals(asked.session, status="rejected")] == ["rejected"]


def test_a_request_expires_and_a_clock_that_jumps_back_does_not_revive_it(asked: Any, shop_of: Any) -> None:
    request_approval(asked.session, V1, expires="2d")
    approve(as_person(asked, "bob"), V1)
    early = replace(asked.session, clock=type(asked.clock)(asked.session.now()))
    asked.pass_time(days=2)
    assert list_approvals(asked.session) == []
    assert [told.request.status for told in list_approvals(asked.session, status="expired")] == ["expired"]
    with pytest.raises(Conflict, match="is expired since 2026-01-07 08:00:00 UTC"):
        approve(as_person(asked, "carol"), V1)
    with pytest.raises(Conflict, match="is expired since"):
        approve(replace(early, actor=Actor("carol"), role=Role.APPROVER), V1)
    request_approval(asked.session, V1)
    assert [told.request.status for told in list_approvals(asked.session, status="expired")] == ["expired"]
    assert len(list_approvals(asked.session)) == 1


def test_a_version_that_is_judged_anew_asks_again(asked: Any) -> None:
    request_approval(asked.session, V1)
    approve(as_person(asked, "bob"), V1)
    asked.judge_for(V1, "prod", approvals=2)
    with pytest.raises(Conflict, match="was judged anew since the request approval_000001"):
        approve(as_person(asked, "carol"), V1)
    second = request_approval(asked.session, V1)
    for name in ("bob", "carol"):
        approve(as_person(asked, name), V1)
    asked.judge_for(V1, "prod", approvals=2)
    with pytest.raises(GateRefused, match="needs 2 approvals, has 0"):
        promote(asked.session, V1)
    assert second.id == "approval_000002"


@pytest.mark.parametrize("expires", ["0d", "91d", "soon", "", "-1d"])
def test_a_bad_length_is_refused(asked: Any, expires: str) -> None:
    with pytest.raises(InvalidInput):
        request_approval(asked.session, V1, expires=expires)
    with pytest.raises(InvalidInput):
        override(asked.session, V1, reason="needed", expires=expires)
    assert list_approvals(asked.session, status="all") == []


def test_people_approve_what_passed_and_nothing_else(asked: Any) -> None:
    asked.judge_for(V1, "prod", approvals=2, biased=True)
    with pytest.raises(GateRefused, match=r"'store-day-v1' cannot be approved: bias is \+20 %"):
        request_approval(asked.session, V1)
    with pytest.raises(NotFound, match="Nobody asked for approval of 'store-day-v1' in 'prod'"):
        approve(as_person(asked, "bob"), V1)
    asked.judge_for(V1, "prod", approvals=2)
    request_approval(asked.session, V1)
    with pytest.raises(Conflict, match="waits for approval already: approval_000001"):
        request_approval(asked.session, V1)
    with pytest.raises(NotFound, match="has no request 'approval_9'"):
        approve(as_person(asked, "bob"), V1, request="approval_9")
    with pytest.raises(InvalidInput, match="2,001 characters"):
        approve(as_person(asked, "bob"), V1, comment="x" * 2001)
    with pytest.raises(InvalidInput, match="'open' is no status"):
        list_approvals(asked.session, status="open")


def test_an_environment_asks_for_approvals_whatever_the_gate_says(shop: Any) -> None:
    shop.register("a")
    shop.judge_for(V1, "prod")
    with pytest.raises(Conflict, match="Neither 'prod' nor the gate of model 'store-day' asks for approvals"):
        request_approval(shop.session, V1)
    set_environment(shop.session, "prod", approvals=1)
    with pytest.raises(GateRefused, match="'prod' asks for 1 approvals, and its verdict has 0"):
        promote(shop.session, V1)
    request_approval(shop.session, V1)
    approve(as_person(shop, "bob"), V1)
    with pytest.raises(Conflict, match="is approved for 'prod' already"):
        request_approval(shop.session, V1)
    set_environment(shop.session, "prod", approvals=2)
    with pytest.raises(GateRefused, match="'prod' asks for 2 approvals, and its verdict has 1"):
        promote(shop.session, V1)
    set_environment(shop.session, "prod", approvals=1)
    assert promote(shop.session, V1).version == V1


def test_approvals_in_a_verdict_that_nobody_gave_do_not_count(asked: Any) -> None:
    verdict = latest_verdict(asked.session, V1)
    assert verdict is not None
    checks = tuple(msgspec.structs.replace(check, passed=True) for check in verdict.checks)
    forged = msgspec.structs.replace(verdict, id="verdict_forged", passed=True, checks=checks)
    record_verdict(asked.session, forged)
    with pytest.raises(GateRefused, match="'prod' asks for 2 approvals, and its verdict has 0"):
        promote(asked.session, V1)
    request = request_approval(asked.session, V1)
    for changes in ({"request": request.id}, {"kind": "override"}, {"passed": False}, {"checks": ()}):
        with pytest.raises(InvalidInput, match="A verdict on 'store-day-v1' "):
            record_verdict(asked.session, msgspec.structs.replace(forged, id="verdict_again", **changes))
    assert [verb for verb, _, _ in refused(asked)][:4] == ["record-verdict"] * 4


def test_two_last_approvals_at_once_record_one_verdict(asked: Any, tamper: Any) -> None:
    request_approval(asked.session, V1)
    approve(as_person(asked, "bob"), V1)
    overtaken = tamper(as_person(asked, "carol"), before=lambda: approve(as_person(asked, "dan"), V1))
    with pytest.raises(Conflict):
        approve(overtaken, V1)
    (done,) = list_approvals(asked.session, status="all")
    assert [said.by for said in done.answers] == ["bob", "dan"]


# Overrides


@pytest.fixture
def failed(shop: Any) -> Any:
    """A champion, and a version that its gate refused."""
    shop.register("a")
    shop.judge_for(V1, "prod")
    promote(shop.session, V1)
    shop.pass_time(hours=1)
    shop.register("b")
    shop.judge_for(V2, "prod", against=V1, biased=True)
    return shop


def test_somebody_answers_for_it_for_a_while(failed: Any) -> None:
    verdict = override(failed.session, V2, reason="the old one is broken", expires="3d")
    assert isinstance(verdict, Verdict)
    assert (verdict.kind, verdict.passed) == ("override", False)
    assert verdict.sentence == "overridden by ada until 2026-01-08 09:00 UTC (the old one is broken), in spite of: bias is +20 %"
    row = promote(failed.session, V2)
    assert (row.overridden, row.verdict, row.verdict_sentence) == (True, verdict.id, verdict.sentence)
    released, overridden, *_ = (told.sentence for told in list_notices(failed.session))
    assert overridden == f"store-day-v2 in prod: {verdict.sentence}"
    assert released == f"store-day-v2 answers in prod in the place of store-day-v1, released by ada; {verdict.sentence}"
    assert list_audit(failed.session, limit=1)[0].detail["overridden"] is True
    standing = find_standing_override(failed.session, MODEL)
    assert standing is not None
    assert (standing.owner, standing.expired) == ("ada", False)
    assert [(live.version, live.overridden) for live in find_live_releases(failed.session, MODEL)] == [(V2, True)]
    failed.pass_time(days=4)
    standing = find_standing_override(failed.session, MODEL)
    assert standing is not None
    assert standing.expired
    assert [row.overridden for row in show_history(failed.session, MODEL, at="2026-01-10")] == [True]


def test_an_expired_override_releases_nothing_and_is_no_way_back(failed: Any) -> None:
    override(failed.session, V2, reason="the old one is broken", expires="1d")
    early = replace(failed.session, clock=type(failed.clock)(failed.session.now()))
    failed.pass_time(days=1)
    set_environment(failed.session, "staging", approvals=1)  # leaves a row of a later time
    for session in (failed.session, early):
        with pytest.raises(GateRefused, match=r"bias is \+20 %"):
            promote(session, V2)
    override(failed.session, V2, reason="once more", expires="1d")
    promote(failed.session, V2)
    third = failed.register("c")
    failed.judge_for(third.id, "prod", against=V2)
    promote(failed.session, third.id)
    failed.pass_time(days=1)
    back = roll_back(failed.session, MODEL, prove=lambda _session, _version: "it answers")
    assert (back.version, back.previous) == (V1, third.id), "what stood on an expired override is passed over"


def test_where_the_only_way_back_has_expired_nothing_moves(shop: Any) -> None:
    shop.register("a")
    shop.judge_for(V1, "prod", biased=True)
    override(shop.session, V1, reason="a beginning", expires="1d")
    promote(shop.session, V1)
    shop.register("b")
    shop.judge_for(V2, "prod", against=V1)
    promote(shop.session, V2)
    shop.pass_time(days=2)
    with pytest.raises(Conflict, match="'store-day-v2' is its last good release, for what answered before stood on an override that has expired"):
        roll_back(shop.session, MODEL, prove=lambda _session, _version: "it answers")


@pytest.mark.parametrize(("reason", "match"), [("", "has 0 characters"), ("  ", "has 0 characters"), ("x" * 501, "has 501 characters")])
def test_an_override_has_a_reason(failed: Any, reason: str, match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        override(failed.session, V2, reason=reason)


def test_an_override_is_a_persons_of_something_found_that_needs_it(failed: Any) -> None:
    with pytest.raises(PermissionDenied, match="'system' is no person"):
        override(failed.session.as_system(), V2, reason="r")
    with pytest.raises(PermissionDenied, match="needs the permission 'release'"):
        override(as_person(failed, "eve", role=Role.EDITOR), V2, reason="r")
    with pytest.raises(GateRefused, match="'store-day-v2' was never judged for 'dev', so there is nothing to override"):
        override(failed.session, V2, reason="r", environment="dev")
    with pytest.raises(Conflict, match="'store-day-v1' needs no override: it passed its gate"):
        override(failed.session, V1, reason="r")
    override(failed.session, V2, reason="r")
    with pytest.raises(Conflict, match="'store-day-v2' needs no override: overridden by ada"):
        override(failed.session, V2, reason="r")
    champion = get_champion(failed.session, MODEL)
    assert champion is not None
    assert champion.version == V1, "an override moves nothing by itself"


def test_where_approvals_are_asked_a_second_person_agrees_first(failed: Any) -> None:
    early = override(failed.session, V2, reason="alone")
    assert isinstance(early, Verdict)
    set_environment(failed.session, "prod", approvals=1)
    with pytest.raises(GateRefused, match=r"bias is \+20 %"):
        promote(failed.session, V2)  # what one person said alone counts no more
    request = override(failed.session, V2, reason="the old one is broken", expires="3d")
    assert isinstance(request, ApprovalRequest)
    assert (request.kind, request.n_needed, request.override_until) == ("override", 1, failed.session.now() + timedelta(days=3))
    with pytest.raises(GateRefused):
        promote(failed.session, V2)
    bob = as_person(failed, "bob")
    with pytest.raises(PermissionDenied, match="'ada' asked for the override"):
        approve(failed.session, V2)
    failed.pass_time(days=1)
    approve(bob, V2, comment="agreed")
    verdict = latest_verdict(failed.session, V2)
    assert verdict is not None
    assert verdict.sentence.startswith("overridden by ada with bob until 2026-01-08 09:00 UTC (the old one is broken), in spite of: bias")
    assert promote(failed.session, V2).overridden


def test_a_request_for_approval_and_one_for_an_override_are_told_apart(failed: Any) -> None:
    set_environment(failed.session, "prod", approvals=1)
    failed.judge_for(V2, "prod", against=V1)
    gate = request_approval(failed.session, V2)
    word = override(failed.session, V2, reason="no time")
    assert isinstance(word, ApprovalRequest)
    bob = as_person(failed, "bob")
    with pytest.raises(EndcapError, match="Several requests for 'store-day-v2' wait") as caught:
        approve(bob, V2)
    assert caught.value.hint == f"endcap approve store-day-v2 --request {word.id}"
    reject(bob, V2, request=word.id, comment="there is time")
    assert approve(bob, V2, request=gate.id).status == "approved"
    assert not promote(failed.session, V2).overridden


def test_a_version_that_was_never_judged_is_told_to_be_judged(asked: Any) -> None:
    asked.register("b")
    with pytest.raises(GateRefused, match="'store-day-v2' cannot be approved: it was never judged by its gate") as caught:
        request_approval(asked.session, V2, environment="staging")
    assert caught.value.hint == "judge it with: endcap judge store-day-v2 --environment staging"
