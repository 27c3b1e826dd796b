"""The port of what is followed while it happens: things with parameters, tags and numbers by step, found by any of them.

Apart from the records, so that ten thousand numbers a minute never keep a lease or a release waiting. What is written here is logged, not
chained: see ``endcap.governance.audit`` for what is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

ATTRIBUTES = ("id", "name", "status", "actor", "started_us", "ended_us", "group")
"""The attributes of a track by which it is found and put in order."""
Family = Literal["attribute", "param", "tag", "metric"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "like", "ilike", "in", "not in", "is null", "is not null"]
Stage = Literal["active", "deleted"]


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A number of a thing: what it was at a step and an instant (microseconds of UTC since 1970). NaN and the infinities are kept as they are."""

    name: str
    value: float
    at_us: int
    step: int = 0


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is followed. ``metrics`` holds the last point of each name: that of the highest step, then the latest, then the greatest.

    ``group`` is what it belongs to (an experiment); ``ended_us`` None: it goes on.
    """

    id: str
    group: str
    name: str = ""
    actor: str = ""
    status: str = "running"
    started_us: int = 0
    ended_us: int | None = None
    stage: Stage = "active"
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, Point] = {}


class TrackBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What is added to a track at once.

    A parameter is said once: the same value again changes nothing, another one is a Conflict. A tag is replaced, and taken away by None. A point
    that stands already (name, step, instant and value) is passed over, so that sending twice changes nothing. ``attributes`` of None stay.
    """

    params: Mapping[str, str] = {}
    tags: Mapping[str, str | None] = {}
    points: Sequence[Point] = ()
    name: str | None = None
    status: str | None = None
    ended_us: int | None = None
    stage: Stage | None = None


class Condition(msgspec.Struct, frozen=True):
    """One condition of a search. ``value`` is a number for metrics and instants, a list of texts for ``in``, None for ``is null``, else a text.

    A track without the name meets no condition but ``is null`` (and ``!=`` neither). ``like`` takes ``%`` and ``_``.
    """

    family: Family
    name: str
    operator: Operator
    value: str | float | Sequence[str] | None


class Order(msgspec.Struct, frozen=True):
    """By what a search is put in order; tracks without the name come last, ties by ``started_us`` (newest first), then by id."""

    family: Family
    name: str
    descending: bool = False


class TrackStore(Protocol):
    """Tracks by space (a workspace) and id. What was acknowledged outlives the power; readers in other processes never see half a batch."""

    def create(self, space: str, track: Track) -> None:
        """Keep a new track, with what it already holds. Raises Conflict when its id stands."""
        ...

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the word of the records
        """Add a batch, all or nothing. Raises NotFound without such a track, Conflict for a parameter that stands with another value.

        Cost grows with the batch, not with what the track holds.
        """
        ...

    def read(self, space: str, ids: Sequence[str]) -> list[Track | None]:
        """Tracks in the order asked for."""
        ...

    def read_points(self, space: str, id: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:  # noqa: A002 - see write
        """All points of a name, by instant, then step, then value; ``skip`` of them passed over."""
        ...

    def search(
        self,
        space: str,
        *,
        groups: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
        order: Sequence[Order] = (),
        stage: Stage | None = "active",
        limit: int,
        skip: int = 0,
    ) -> list[Track]:
        """Tracks that meet all conditions, in order; ``groups`` None means all groups, ``stage`` None both stages."""
        ...

    def delete(self, space: str, ids: Sequence[str]) -> int:
        """Forget tracks for good with all they hold. Returns how many there were."""
        ...

    def close(self) -> None: ...
