"""Records of one turn of the cycle."""

from __future__ import annotations

import msgspec

from endcap.loop.monitoring.records import Reading


class Judged(msgspec.Struct, frozen=True):
    """What became of one trial: its version and verdict, whether it was released, and whether it waits for nothing but approvals."""

    version: str
    candidate: str
    passed: bool
    released: bool
    sentence: str
    waits: bool = False


class Decision(msgspec.Struct, frozen=True):
    """Whether to train, and why."""

    train: bool
    reason: str


class Watched(msgspec.Struct, frozen=True):
    """What joined and what the watches read."""

    n_outcomes: int = 0
    readings: tuple[Reading, ...] = ()


class Judgement(msgspec.Struct, frozen=True):
    """The trials in the order they were judged."""

    judged: tuple[Judged, ...] = ()
