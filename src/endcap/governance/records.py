"""Records of governance."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.storage.ports import Kind


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a person, a token, or ``system`` (schedules and reactions)."""

    name: str
    sort: str = "person"


SYSTEM = Actor("system", "system")


class AuditRow(msgspec.Struct, frozen=True):
    """One link of a workspace's chain. ``hash`` covers every other field, ``previous`` included."""

    n: int
    at: datetime
    actor: str
    verb: str
    thing: str
    outcome: str  # done | refused
    detail: dict[str, str | int | float | bool | None]
    previous: str
    hash: str

    @property
    def id(self) -> str:
        return f"{self.n:012d}"


class AuditHead(msgspec.Struct, frozen=True):
    """The end of a workspace's chain: the row count and the last hash. Locked by every change."""

    id: str
    n: int
    hash: str


AUDIT_ROWS = Kind("audit", AuditRow, "id", (("thing",), ("actor",), ("verb",)))
AUDIT_HEADS = Kind("audit-head", AuditHead, "id")
