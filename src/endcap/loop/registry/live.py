"""What answers now: every release that stands, in every environment, whatever its role."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.governance.sessions import Session
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import find_comparison
from endcap.loop.registry.records import CHAMPIONS, ENVIRONMENT_RECORDS, ENVIRONMENTS, PROD
from endcap.loop.registry.standings import get_seats


class LiveRelease(msgspec.Struct, frozen=True):
    """A version that answers now: for everybody that no other answers for, for some members or a share, or unheard."""

    model: str
    environment: str
    version: str
    role: str
    release: str
    since: datetime


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
        for version, role in ((champion.version, "champion"), *((version, "champion of some members") for version in others)):
            found.append(LiveRelease(model, environment, version, role, champion.release, champion.since))
    comparison = find_comparison(session, model)
    if comparison is not None:
        found.append(LiveRelease(model, PROD, comparison.challenger, "challenger", comparison.id, comparison.since))
    for environment in environments:
        seats = get_seats(session, model, environment=environment)
        found += [LiveRelease(model, environment, seat.version, seat.role, seat.release, seat.since) for seat in seats]
    return tuple(found)
