"""Records of monitoring."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from endcap.loop.evaluation.records import Finding
from endcap.loop.registry.records import Comparison
from endcap.storage.ports import Kind

OUTCOMES = "outcomes"
OUTCOME_SUMS = "outcome-sums"
"""Outcomes of models of very many series, kept as sums by member and time, in partitions of their batches."""


class MembersRead(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch over members read: how many were judged, fell, and so on; ``table`` is the digest of all of them with their figures.

    ``named`` are those that fell, the worst first, ``recovered`` those that had fallen at the reading before and have not now, ``stale`` those
    without outcomes: of each list at most some dozens. ``n_new`` fell since the reading before. ``common`` is how much the error of the typical
    member grew over what was promised; ``whole`` says that this alone exceeds the watch's factor.
    """

    n_members: int
    n_judged: int
    n_fell: int
    n_new: int
    n_recovered: int
    n_stale: int
    common: float
    whole: bool
    table: str
    named: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch read: the live figure over the targets from ``first`` to ``last`` (None while there are too few outcomes).

    ``members`` is there where the watch looked at each member.
    """

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
    members: MembersRead | None = None


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A breach that someone must see, and what was done about it. ``members`` is the digest of a table of all members, '' where none fell."""

    id: str
    model: str
    version: str
    at: datetime
    sentence: str
    reactions: tuple[str, ...]
    members: str = ""


class ComparisonView(msgspec.Struct, frozen=True):
    """A comparison and what it shows by now, or showed when it ended: of its metric, and of what else is worth knowing beside it."""

    comparison: Comparison
    finding: Finding
    beside: tuple[Finding, ...] = ()
    n_before: int = 0


READINGS = Kind("reading", Reading, "id", (("model",), ("version",)), of=lambda found: (f"model/{found.model}",))
INCIDENTS = Kind("incident", Incident, "id", (("model",),), of=lambda found: (f"model/{found.model}",))
