"""Returning: the verb by which what answered before answers again, proved by whoever can run its answers."""

from __future__ import annotations

from collections.abc import Sequence

from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import PROD, Release
from endcap.loop.registry.rollbacks import roll_back


@verb("rollback", permission=Permission.RELEASE)
def rollback(
    session: Session,
    model: str,
    *,
    environment: str = PROD,
    members: Sequence[str] | None = None,
    segment: str | None = None,
    again: bool = False,
    reason: str = "",
) -> Release:
    """Go back to the last good version: take the newest release back, or let some members go back to what answered for them.

    Before anything moves, the version that would answer proves it: it is asked what it was asked when it was made, and must answer the same;
    what was compared stands in the history. ``environment`` is where. ``members`` are the names of those who go back (None: the newest release
    that still stands is taken back for everybody it moved), ``segment`` names them by a static fact (``city_id=3``). A second rollback in a
    row is refused unless ``again`` says that the version it went back to is bad too. ``reason`` is kept in the history, which keeps every
    step. Raises Conflict when nothing answered before, for one of the members too, and then moves nobody; also while a person has pinned what
    answers. It is never refused for a comparison: one that runs ends with it. One transaction, whatever the number of members.
    """
    from endcap.project.proving import prove_version

    return roll_back(session, model, prove=prove_version, environment=environment, members=members, segment=segment, again=again, reason=reason)
