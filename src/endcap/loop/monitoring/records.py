"""Records of monitoring."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from endcap.storage.ports import Kind

OUTCOMES = "outcomes"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch read: the live figure over the targets from ``first`` to ``last`` (None while there are too few outcomes)."""

    id: str
    model: str
    version: str
    at: datetime
    metric: str
    first: date
    last: date
    n: int
    figure: float | None
    validation: float | None
    limit: float | None
    breached: bool


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A breach that someone must see, and what was done about it."""

    id: str
    model: str
    version: str
    at: datetime
    sentence: str
    reactions: tuple[str, ...]


READINGS = Kind("reading", Reading, "id", (("model",), ("version",)))
INCIDENTS = Kind("incident", Incident, "id", (("model",),))
