"""A session for tests: in memory, with a clock that stands still and ids that count."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from endcap.core.clock import CountingIds, ManualClock
from endcap.core.permissions import Role
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.storage.opening import open_ports


def make_session(
    url: str | Path = "memory://",
    *,
    role: Role = Role.OWNER,
    actor: str = "ada",
    workspace: str = "default",
    start: datetime = datetime(2026, 1, 5, 8, tzinfo=UTC),
    zone: str = "UTC",
    online: str | None = None,
) -> Session:
    """A session in the home at ``url``. Its clock is a ManualClock that stands at ``start``, its ids are CountingIds.

    An owner administers the house, too. ``online`` is as ``open_ports`` takes it. The caller closes a home that has files:
    ``session.ports.close()``. For another actor or workspace in the same home use ``dataclasses.replace(session, ...)``.

    >>> session = make_session()
    >>> session.now().isoformat(), session.new_id("run")
    ('2026-01-05T08:00:00+00:00', 'run_000001')
    """
    return Session(
        actor=Actor(actor),
        role=role,
        workspace=workspace,
        zone=zone,
        ports=open_ports(url, online=online),
        clock=ManualClock(start),
        new_id=CountingIds(),
        admin=role is Role.OWNER,
    )
