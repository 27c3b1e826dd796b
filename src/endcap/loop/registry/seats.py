"""Seats: challengers and shadows leaving. They come by ``promote``."""

from __future__ import annotations

import msgspec

from endcap.core.errors import Conflict
from endcap.core.permissions import Permission
from endcap.governance.sessions import Detail, Session
from endcap.governance.verbs import verb
from endcap.loop.registry.copies import open_home
from endcap.loop.registry.door import unseat
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.records import PROD, RELEASES, Release
from endcap.loop.registry.releases import describe_place, get_champion
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import get_version


@verb("withdraw", permission=Permission.RELEASE)
def withdraw(session: Session, version: str, *, environment: str = PROD, reason: str = "") -> Release:
    """Let a challenger or a shadow answer no more; what it had of the requests is the champion's again.

    ``environment`` is where it stands; ``reason`` is kept in the history. Raises Conflict for a version that stands nowhere there, and for the
    champion, in whose place something must answer: roll back, or promote another.
    """
    found, place = get_version(session, version), get_environment(session, environment)
    champion = get_champion(session, found.model, environment=place.name)
    with open_home(session, place) as there, session.change("withdraw", thing=f"model/{found.model}", detail={"version": found.id}) as change:
        seats = get_seats(session, found.model, environment=place.name, reader=change.tx)
        seat = next((taken for taken in seats if taken.version == found.id), None)
        if seat is None:
            if champion is not None and champion.version == found.id:
                raise Conflict(
                    f"'{found.id}' is the champion in '{place.name}', and something must answer in its place.",
                    hint=f"go back with: endcap rollback {found.model}; or promote another version",
                )
            beside = ", ".join(f"{taken.version} ({taken.role})" for taken in seats) or "nobody"
            raise Conflict(f"'{found.id}' is no challenger or shadow in '{place.name}'.", hint=f"beside the champion there: {beside}")
        came = change.tx.get(RELEASES, workspace=session.workspace, id=seat.release)
        assert came is not None, "a release is never deleted"
        now = session.now()
        row = msgspec.structs.replace(came, id=session.new_id("release"), how="withdraw", at=now, actor=session.actor.name, reason=reason)
        row = msgspec.structs.replace(row, previous=found.id, champion=champion.version if champion else "", n=champion.n if champion else 0)
        detail: Detail = {**describe_place(row), "reason": reason[:500]}
        change.detail.update(detail)
        return unseat(session, change, row, there=there)
