"""The queue as people see it: who runs, who waits, and for whom; and taking a run out of it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, NotFound
from endcap.core.permissions import Permission
from endcap.governance.quotas.places import end_place, is_standing, look, read_quotas
from endcap.governance.quotas.records import PLACES, SHARES, Place, Shares
from endcap.governance.quotas.scheduling import describe_short, schedule
from endcap.governance.records import HOUSE
from endcap.governance.rights.checks import may_see
from endcap.governance.rights.records import name_subject
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb

_HIDDEN = "-"


class QueueLine(msgspec.Struct, frozen=True, kw_only=True):
    """A run that goes on, or waits. ``number`` is its place among those that wait (0: it runs); ``waits_for`` says what for, or whom.

    What runs of other workspaces are is hidden from all but admins of the house, and those of closed things from whom they are closed to: their
    ``id``, ``actor`` and ``subject`` are '-'.
    """

    number: int
    id: str
    state: str
    workspace: str
    actor: str
    subject: str
    since: datetime
    process: str
    waits_for: str


@verb("queue", permission=Permission.READ)
def list_queue(session: Session) -> list[QueueLine]:
    """Who runs, who waits, and for whom: the runs of the home, those that wait in the order in which they would go.

    Of other workspaces than one's own it is said that they run or wait, and no more; admins of the house see all. Cost grows with the runs that go
    on or wait.
    """
    now = session.now()
    running = [p for p in session.ports.records.find(PLACES, workspace=HOUSE, where={"state": "running"}) if is_standing(p, now)]
    waiting = [p for p in session.ports.records.find(PLACES, workspace=HOUSE, where={"state": "waiting"}) if is_standing(p, now)]
    shares = session.ports.records.get(SHARES, workspace=HOUSE, id="house") or Shares()
    found = schedule(running, waiting, quotas=read_quotas(session.ports.records, [*running, *waiting]), shares=shares)
    lines = [_line(session, place, 0, "") for place in running]
    shorts = {place.id: describe_short(short) for place, short in found.waiting}
    behind = [*found.admitted, *(place for place, _ in found.waiting)]  # admitted: they find out in a moment
    for number, place in enumerate(behind, start=1):
        lines.append(_line(session, place, number, shorts.get(place.id, "its turn has come")))
    return lines


@verb("leave-queue", permission=Permission.EDIT)
def leave_queue(session: Session, place: str) -> QueueLine:
    """Take a run out of the queue that waits in it: one's own, or for owners anybody's of the workspace. Whoever started it is told.

    A run that has begun is not stopped by this. Admins of the house take out any.
    """
    standing = session.ports.records.get(PLACES, workspace=HOUSE, id=place)
    if standing is None or (standing.workspace != session.workspace and not session.admin):
        raise NotFound(f"There is no run {place[:100]!r} in the queue.", hint="see: endcap queue")
    if standing.actor != session.actor.name and not session.admin:
        session.require(Permission.OWN, verb="leave-queue")
    detail = {"actor": standing.actor, "subject": standing.subject, "workspace": standing.workspace}
    with session.change("leave-queue", thing=f"place/{place}", detail=detail) as change:
        found = change.tx.get(PLACES, workspace=HOUSE, id=place)
        if found is None or found.state != "waiting":
            raise Conflict(f"The run {place} does not wait any more: it {'runs' if found and found.state == 'running' else 'has ended'}.")
        end_place(change.tx, found, session.now(), spent_s=0.0, removed_by=session.actor.name)
        look(change.tx, session.now())
    return _line(session, msgspec.structs.replace(found, state="ended"), 0, "")


def _line(session: Session, place: Place, number: int, waits_for: str) -> QueueLine:
    whole = session.admin or (place.workspace == session.workspace and may_see(session, name_subject(place.subject)))
    return QueueLine(
        number=number,
        id=place.id if whole else _HIDDEN,
        state=place.state if not number else "waiting",
        workspace=place.workspace if whole else _HIDDEN,
        actor=place.actor if whole else _HIDDEN,
        subject=place.subject if whole else _HIDDEN,
        since=place.began_at or place.arrived_at,
        process=str(place.holder) if whole else _HIDDEN,
        waits_for=waits_for if whole else _HIDDEN if waits_for else "",
    )
