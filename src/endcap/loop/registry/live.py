"""What answers now: every release that stands, in every environment, whatever its role."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.governance.sessions import Session
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import find_comparison
from endcap.loop.registry.records import CHAMPIONS, ENVIRONMENT_RECORDS, ENVIRONMENTS, PROD, RELEASES
from endcap.loop.registry.standings import get_seats

ON_AN_OVERRIDE = "OVERRIDDEN: it did not pass its gate"
SOME_MEMBERS = "champion of some members"


class LiveRelease(msgspec.Struct, frozen=True):
    """A version that answers now: for everybody that no other answers for, for some members or a share, or unheard.

    ``overridden``: on somebody's word, its gate did not let it pass.
    """

    model: str
    environment: str
    version: str
    role: str
    release: str
    since: datetime
    overridden: bool = False


def find_live_releases(session: Session, model: str) -> tuple[LiveRelease, ...]:
    """What answers for a model, champions first. Cost: some records for each environment."""
    named = (found.name for found in session.records.find(ENVIRONMENT_RECORDS, workspace=session.workspace))
    found: list[LiveRelease] = []
    environments = tuple(dict.fromkeys((*ENVIRONMENTS, *named)))
    for environment in environments:
        champion = session.records.get(CHAMPIONS, workspace=session.workspace, id=f"{model}/{environment}")
        if champion is None:
            continue
        assignment = read_assignment(session, champion)
        others = [version for version in (assignment.versions if assignment else ()) if version != champion.version]
        for version, role in ((champion.version, "champion"), *((version, SOME_MEMBERS) for version in others)):
            found.append(LiveRelease(model, environment, version, role, champion.release, champion.since))
    comparison = find_comparison(session, model)
    if comparison is not None:
        found.append(LiveRelease(model, PROD, comparison.challenger, "challenger", comparison.id, comparison.since))
    for environment in environments:
        seats = get_seats(session, model, environment=environment)
        found += [LiveRelease(model, environment, seat.version, seat.role, seat.release, seat.since) for seat in seats]
    return tuple(msgspec.structs.replace(live, overridden=True) if _is_overridden(session, live) else live for live in found)


def _is_overridden(session: Session, live: LiveRelease) -> bool:
    rows = session.records.find(RELEASES, workspace=session.workspace, where={"version": live.version}, newest_first=True)
    came = (row for row in rows if row.environment == live.environment and row.how in ("promote", "rollback", "comparison"))
    return next((row.overridden for row in came), False)
