"""Approvals: people who look at a version before it answers.

A request waits for a number of people, none of whom had a hand in the version; each answers once. When the last of them approves, the verdict is
recorded anew with its approvals check passed, and the version may be released on it: approvals are given to what a verdict says, and a version
that is judged anew asks for them again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, EndcapError, GateRefused, InvalidInput, NotFound, PermissionDenied, suggest
from endcap.core.permissions import Permission
from endcap.governance.notices import notify
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import APPROVALS_CHECK, VERDICTS, CheckResult, Override, Verdict
from endcap.loop.registry.admissions import count_approved, count_needed, find_gate_verdict, find_rejection, find_waiting, read_time
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.people import find_hands, require_person
from endcap.loop.registry.records import APPROVAL_REQUESTS, APPROVALS, PROD, Approval, ApprovalRequest, ApprovalView, Version
from endcap.loop.registry.versions import get_version
from endcap.storage.ports import RecordReader

STATUSES = ("pending", "approved", "rejected", "expired")
_EVERY = "all"
LONGEST = timedelta(days=90)
"""The most that a request waits, and that an override lasts."""
WAITS = timedelta(days=14)
"""How long a request waits for people if nobody says otherwise."""
_MOST_WORDS = 2000


@verb("approvals", permission=Permission.READ)
def list_approvals(session: Session, *, version: str | None = None, status: str = "pending") -> list[ApprovalView]:
    """What waits for people, newest first: which version, for what, until when, who answered what, and who may not because of their hand in it.

    ``version`` lists only its own; ``status`` is pending, approved, rejected, expired or all. Cost grows with the requests listed.
    """
    if status not in (*STATUSES, _EVERY):
        raise InvalidInput(f"{status!r} is no status of an approval. Offered: {[*STATUSES, _EVERY]}.", hint=suggest(status, (*STATUSES, _EVERY)))
    filed = {"expired": "pending"}.get(status, status)  # what nobody closed stays on file as pending
    if version is not None:
        where: dict[str, object] | None = {"version": get_version(session, version).id}
    else:
        where = None if status == _EVERY else {"status": filed}
    found = session.records.find(APPROVAL_REQUESTS, workspace=session.workspace, where=where, newest_first=True)
    if where is not None and status == "expired" and version is None:
        found += session.records.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"status": "expired"}, newest_first=True)
    now = read_time(session)
    told = [_read_state(request, now) for request in found]
    return [_view(session, request) for request in told if status in (_EVERY, request.status)]


@verb("request-approval", permission=Permission.EDIT)
def request_approval(session: Session, version: str, *, environment: str = PROD, expires: str = "14d") -> ApprovalRequest:
    """Ask people to look at a version that its gate would let pass but for approvals.

    ``environment`` is where it shall answer; ``expires`` is how long the request waits, at most 90d. As many must approve as the environment
    and the model's gate ask for, whichever is more. Raises GateRefused for a version whose gate found something else too (people approve what
    passed; see ``override``), but for one that did not beat the champion, which may still be approved as a challenger or shadow. Raises
    Conflict where nothing asks for approvals, where it waits already, and where somebody rejected this very verdict.
    """
    found, place = get_version(session, version), get_environment(session, environment)
    verdict = find_gate_verdict(session, found.id, environment=place.name)
    if verdict is None or not find_waiting(verdict, role="challenger"):
        why = verdict.sentence if verdict else "it was never judged by its gate"
        at = "" if place.name == PROD else f" --environment {place.name}"
        hint = f"see every figure with: endcap show {found.id}" if verdict else f"judge it with: endcap judge {found.id}{at}"
        session.record_refusal("request-approval", thing=f"model/{found.model}", detail={"version": found.id, "why": why[:500]})
        raise GateRefused(f"'{found.id}' cannot be approved: {why.rstrip('.')}.", hint=hint, version=found.id)
    n_needed = count_needed(session, found.model, place)
    if n_needed == 0:
        raise Conflict(
            f"Neither '{place.name}' nor the gate of model '{found.model}' asks for approvals now.",
            hint=f"judge it anew, or: endcap promote {found.id}",
        )
    if count_approved(session, verdict) >= n_needed:
        raise Conflict(f"'{found.id}' is approved for '{place.name}' already.", hint=f"endcap promote {found.id}")
    if said := find_rejection(session, verdict):
        raise Conflict(
            f"'{found.id}' was rejected on what its verdict says, {said}.", hint=f"a new verdict may be asked for: endcap judge {found.id}"
        )
    until = read_time(session) + _read_length(expires, what="A request")
    with session.change("request-approval", thing=f"model/{found.model}", detail={"version": found.id}) as change:
        return open_request(session, change, found, verdict, kind="gate", n_needed=n_needed, expires_at=until)


@verb("approve", permission=Permission.RELEASE)
def approve(session: Session, version: str, *, environment: str = PROD, request: str = "", comment: str = "") -> ApprovalRequest:
    """Approve a version that waits for people; with the last approval it may be released.

    ``environment`` is where it shall answer; ``request`` is the id of the request where several wait; ``comment`` is kept with the answer. Only
    people approve, each once, and none who trained, registered or defined the version, or asked for the override: raises PermissionDenied.
    Raises Conflict where nothing waits any more: answered, expired, or judged anew since. What is refused is audited.
    """
    return _answer(session, version, environment=environment, request=request, answer="approved", comment=comment)


@verb("reject", permission=Permission.RELEASE)
def reject(session: Session, version: str, *, comment: str, environment: str = PROD, request: str = "") -> ApprovalRequest:
    """Reject a version that waits for people: the request ends, and the version is not released on it.

    ``comment`` says why, for whoever trained it; ``environment`` is where it should answer; ``request`` is the id of the request where several
    wait. One person's no is enough, and anybody who may release may say it. It may be asked for again after a new verdict.
    """
    if not comment.strip():
        raise InvalidInput("A rejection without a comment helps nobody.", hint="say why with --comment")
    return _answer(session, version, environment=environment, request=request, answer="rejected", comment=comment)


def list_waiting(session: Session, model: str) -> tuple[ApprovalView, ...]:
    """What of a model waits for people now, oldest first. Cost grows with the requests of the model."""
    found = session.records.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"model": model})
    now = read_time(session) if found else None
    return tuple(_view(session, asked) for asked in found if now is not None and _read_state(asked, now).status == "pending")


def open_request(
    session: Session,
    change: Change,
    version: Version,
    verdict: Verdict,
    *,
    kind: str,
    n_needed: int,
    expires_at: datetime,
    reason: str = "",
    override_until: datetime | None = None,
) -> ApprovalRequest:
    """Write in an open change that a version waits for people. One that waited on an older verdict is closed; on the same, Conflict."""
    now = read_time(session, reader=change.tx)
    for waiting in change.tx.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"version": version.id}):
        if (waiting.environment, waiting.kind, waiting.status) != (verdict.environment, kind, "pending"):
            continue
        if waiting.verdict == verdict.id and waiting.expires_at > now:
            raise Conflict(
                f"'{version.id}' waits for approval already: {waiting.id}, since {describe_instant(waiting.at)}.", hint=f"endcap approve {version.id}"
            )
        _close(session, change, waiting, status="expired")
    request = ApprovalRequest(
        id=session.new_id("approval"),
        model=version.model,
        version=version.id,
        environment=verdict.environment,
        kind=kind,
        verdict=verdict.id,
        requested_by=session.actor.name,
        at=session.now(),
        expires_at=expires_at,
        n_needed=n_needed,
        reason=reason,
        override_until=override_until,
    )
    change.tx.append(APPROVAL_REQUESTS, workspace=session.workspace, record=request)
    change.detail.update(request=request.id, n_needed=n_needed, environment=request.environment, expires_at=expires_at.isoformat())
    what = "overriding the gate" if kind == "override" else "approval"
    sentence = (
        f"{version.id} waits for {what} in {request.environment}, asked by {request.requested_by}: {n_needed} needed by"
        f" {expires_at:%Y-%m-%d %H:%M} UTC (endcap approve {version.id})"
    )
    notify(session, change, kind="approval-requested", thing=f"model/{version.model}", sentence=sentence)
    return request


def write_override(
    session: Session, change: Change, verdict: Verdict, *, owner: str, reason: str, until: datetime, second: str = "", request: str = ""
) -> Verdict:
    """Write in an open change the verdict by which somebody answers for a version in the gate's place."""
    override = Override(owner=owner, reason=reason, expires_at=until, second=second)
    made = msgspec.structs.replace(verdict, id=session.new_id("verdict"), at=session.now(), kind="override", override=override, request=request)
    change.tx.append(VERDICTS, workspace=session.workspace, record=made)
    change.detail.update(verdict=made.id, overrides=verdict.id, override_until=until.isoformat())
    notify(
        session, change, kind="overridden", thing=f"model/{verdict.model}", sentence=f"{verdict.version} in {verdict.environment}: {made.sentence}"
    )
    return made


def _answer(session: Session, version: str, *, environment: str, request: str, answer: str, comment: str) -> ApprovalRequest:
    found, place = get_version(session, version), get_environment(session, environment)
    name, thing = {"approved": "approve", "rejected": "reject"}[answer], f"model/{found.model}"
    person = require_person(session, verb=name, thing=thing)
    if len(comment) > _MOST_WORDS:
        raise InvalidInput(f"The comment has {len(comment):,} characters; the most are {_MOST_WORDS:,}.", hint="keep the long form elsewhere")
    waiting = _find_pending(session, found, environment=place.name, request=request, verb=name)
    refusal = _find_refusal(session, found, waiting, person=person, answer=answer, reader=session.records)
    if refusal is not None:
        session.record_refusal(name, thing=thing, detail={"version": found.id, "request": waiting.id, "why": refusal.what[:500]})
        raise refusal
    detail = {"version": found.id, "request": waiting.id, "comment": comment[:500]}
    with session.change(name, thing=thing, detail=detail) as change:
        refusal = _find_refusal(session, found, waiting, person=person, answer=answer, reader=change.tx)
        if refusal is not None:
            raise refusal
        said = Approval(f"{waiting.id}/{person}", waiting.id, found.id, person, session.now(), answer, comment)
        change.tx.append(APPROVALS, workspace=session.workspace, record=said)
        if answer == "rejected":
            return _close(session, change, waiting, status="rejected")
        answers = change.tx.find(APPROVALS, workspace=session.workspace, where={"request": waiting.id})
        by = [given.by for given in answers if given.answer == "approved"]
        change.detail.update(n_approved=len(by), n_needed=waiting.n_needed)
        if len(by) < waiting.n_needed:
            return waiting
        granted = _grant(session, change, waiting, by=by)
        return _close(session, change, waiting, status="approved", granted=granted.id)


def _find_pending(session: Session, version: Version, *, environment: str, request: str, verb: str) -> ApprovalRequest:
    """The request that an answer is meant for. Raises NotFound where there never was one, Conflict where several wait."""
    asked = session.records.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"version": version.id}, newest_first=True)
    asked = [found for found in asked if found.environment == environment]
    if request:
        for found in asked:
            if found.id == request:
                return found
        raise NotFound(f"'{version.id}' has no request {request!r} in '{environment}'.", hint="see: endcap approvals --status all")
    waiting = [found for found in asked if found.status == "pending"]
    if len(waiting) > 1:
        ids = ", ".join(f"{found.id} ({found.kind})" for found in waiting)
        raise Conflict(f"Several requests for '{version.id}' wait: {ids}.", hint=f"endcap {verb} {version.id} --request {waiting[0].id}")
    if not asked:
        raise NotFound(f"Nobody asked for approval of '{version.id}' in '{environment}'.", hint=f"endcap request-approval {version.id}")
    return (waiting or asked)[0]


def _find_refusal(
    session: Session, version: Version, request: ApprovalRequest, *, person: str, answer: str, reader: RecordReader
) -> EndcapError | None:
    """Why an answer does not count, or None. ``reader`` may be the open transaction in which it is written."""
    kept = reader.get(APPROVAL_REQUESTS, workspace=session.workspace, id=request.id)
    now = read_time(session, reader=reader)
    state = _read_state(kept or request, now)
    again = f"endcap request-approval {version.id}"
    if reader.get(APPROVALS, workspace=session.workspace, id=f"{request.id}/{person}") is not None:
        return Conflict(f"'{person}' answered the request {request.id} already; each answers once.", hint="somebody else must, if more are needed")
    if state.status != "pending":
        when = state.closed_at or state.expires_at
        hint = again if state.status != "approved" else f"endcap promote {version.id}"
        return Conflict(f"The request {request.id} for '{version.id}' is {state.status} since {describe_instant(when)}.", hint=hint)
    if answer == "rejected":
        return None
    newest = find_gate_verdict(session, version.id, environment=request.environment, reader=reader)
    if newest is None or newest.id != request.verdict:
        return Conflict(f"'{version.id}' was judged anew since the request {request.id}, so what was asked is no more.", hint=again)
    hands = _find_hands(session, version, request, reader=reader)
    if person in hands:
        return PermissionDenied(f"'{person}' {hands[person]}, so '{version.id}' needs the approval of somebody else.", hint="ask a colleague")
    return None


def _find_hands(session: Session, version: Version, request: ApprovalRequest, *, reader: RecordReader) -> dict[str, str]:
    hands = find_hands(session, version, reader=reader)
    return hands if request.kind == "gate" else {**hands, request.requested_by: "asked for the override"}


def _grant(session: Session, change: Change, request: ApprovalRequest, *, by: list[str]) -> Verdict:
    """The verdict by which a version may be released, now that the last of those who were asked has approved."""
    verdict = change.tx.get(VERDICTS, workspace=session.workspace, id=request.verdict)
    assert verdict is not None, "a verdict is never deleted"
    if request.kind == "override":
        assert request.override_until is not None, "an override has an end"
        who = ", ".join(by)
        return write_override(
            session, change, verdict, owner=request.requested_by, reason=request.reason, until=request.override_until, second=who, request=request.id
        )
    sentence = f"{len(by)} of {request.n_needed} approved ({', '.join(by)})"
    passed = CheckResult(check=APPROVALS_CHECK, passed=True, figure=float(len(by)), limit=f"at least {request.n_needed}", sentence=sentence)
    checks = (*(check for check in verdict.checks if check.check != APPROVALS_CHECK), passed)
    granted = msgspec.structs.replace(
        verdict, id=session.new_id("verdict"), at=session.now(), checks=checks, passed=all(check.passed for check in checks), request=request.id
    )
    change.tx.append(VERDICTS, workspace=session.workspace, record=granted)
    change.detail.update(verdict=granted.id)
    return granted


def _close(session: Session, change: Change, request: ApprovalRequest, *, status: str, granted: str = "") -> ApprovalRequest:
    found = change.tx.get_versioned(APPROVAL_REQUESTS, workspace=session.workspace, id=request.id)
    assert found is not None, "a request is never deleted"
    closed = msgspec.structs.replace(found[0], status=status, closed_at=session.now(), granted=granted)
    change.tx.put(APPROVAL_REQUESTS, workspace=session.workspace, record=closed, expected_version=found[1])
    if status != "expired":
        sentence = f"{request.version} is {status} for {request.environment}, last by {session.actor.name}"
        notify(session, change, kind=f"approval-{status}", thing=f"model/{request.model}", sentence=sentence)
    return closed


def _read_state(request: ApprovalRequest, now: datetime) -> ApprovalRequest:
    """The request as it stands: one that nobody closed ends by itself."""
    if request.status == "pending" and request.expires_at <= now:
        return msgspec.structs.replace(request, status="expired")
    return request


def _view(session: Session, request: ApprovalRequest) -> ApprovalView:
    answers = session.records.find(APPROVALS, workspace=session.workspace, where={"request": request.id})
    n_missing = max(0, request.n_needed - sum(given.answer == "approved" for given in answers)) if request.status == "pending" else 0
    hands = {}
    if request.status == "pending":
        hands = _find_hands(session, get_version(session, request.version), request, reader=session.records)
    return ApprovalView(request, tuple(answers), n_missing, hands)


def _read_length(text: str, *, what: str) -> timedelta:
    length = parse_duration(text)
    if not timedelta(0) < length <= LONGEST:
        raise InvalidInput(f"{what} for {text!r} was asked for; it may last up to {LONGEST.days} days.", hint="write 7d")
    return length
