"""Overrides: somebody answers with their name, for a while, in the place of a gate that said no."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, GateRefused, InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import VERDICTS, Verdict
from endcap.loop.registry.admissions import Refusal, count_needed, find_admission, find_gate_verdict, read_time
from endcap.loop.registry.approvals import LONGEST, WAITS, open_request, write_override
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.people import require_person
from endcap.loop.registry.records import PROD, RELEASES, ApprovalRequest
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.versions import get_version

_MOST_WORDS = 500


@verb("override", permission=Permission.RELEASE)
def override(session: Session, version: str, *, reason: str, expires: str = "7d", environment: str = PROD) -> Verdict | ApprovalRequest:
    """Answer with your name for a version that its gate refused, so that it can be released for a while. It is shown in red until it ends.

    ``reason`` is why it must answer in spite of what the gate found; ``expires`` is how long it may be released on your word, at most 90d;
    ``environment`` is where. Where approvals are asked a second person must agree first (``approve``): then the request is returned, otherwise
    the verdict, of kind override. What was released on it goes on answering when it ends, and is shown as expired until something passes the
    gate; nothing is released or rolled back to on it any more. Raises GateRefused for a version that was never judged: an override is of
    something found. Raises Conflict for one that needs none.
    """
    found, place = get_version(session, version), get_environment(session, environment)
    owner = require_person(session, verb="override", thing=f"model/{found.model}")
    if not reason.strip() or len(reason) > _MOST_WORDS:
        raise InvalidInput(
            f"The reason of an override has {len(reason.strip()):,} characters; it takes 1 to {_MOST_WORDS}.", hint="say why it must answer"
        )
    length = parse_duration(expires)
    if not 0 < length.total_seconds() <= LONGEST.total_seconds():
        raise InvalidInput(f"An override for {expires!r} was asked for; it may last up to {LONGEST.days} days.", hint="write 7d")
    verdict = find_gate_verdict(session, found.id, environment=place.name)
    if verdict is None:
        session.record_refusal("override", thing=f"model/{found.model}", detail={"version": found.id, "why": "never judged"})
        raise GateRefused(
            f"'{found.id}' was never judged for '{place.name}', so there is nothing to override.",
            hint=f"first: endcap judge {found.id}",
            version=found.id,
        )
    champion = get_champion(session, found.model, environment=place.name)
    admission = find_admission(session, found, environment=place.name, role="champion", champion=champion)
    if not isinstance(admission, Refusal):
        why = admission.verdict.sentence if admission.overridden else "it passed its gate"
        raise Conflict(f"'{found.id}' needs no override: {why}.", hint=f"endcap promote {found.id}")
    now = read_time(session)
    until = now + length
    detail = {"version": found.id, "environment": place.name, "reason": reason[:500]}
    with session.change("override", thing=f"model/{found.model}", detail=detail) as change:
        if count_needed(session, found.model, place, reader=change.tx) == 0:
            return write_override(session, change, verdict, owner=owner, reason=reason, until=until)
        return open_request(
            session,
            change,
            found,
            verdict,
            kind="override",
            n_needed=1,
            expires_at=min(until, now + WAITS),
            reason=reason,
            override_until=until,
        )


class OverrideStanding(msgspec.Struct, frozen=True):
    """What a champion stands on where that is an override: who answers for it, until when, and whether that has passed."""

    owner: str
    reason: str
    expires_at: datetime
    second: str
    expired: bool


def find_standing_override(session: Session, model: str, *, environment: str = PROD) -> OverrideStanding | None:
    """The override that what answers for a model stands on, also when it has expired; None where it passed its gate. Cost: three records."""
    champion = get_champion(session, model, environment=environment)
    row = session.records.get(RELEASES, workspace=session.workspace, id=champion.standing[-1].release) if champion and champion.standing else None
    if row is None or not row.overridden:
        return None
    verdict = session.records.get(VERDICTS, workspace=session.workspace, id=row.verdict)
    if verdict is None or verdict.override is None:
        return None
    told = verdict.override
    return OverrideStanding(told.owner, told.reason, told.expires_at, told.second, told.expires_at <= read_time(session))
