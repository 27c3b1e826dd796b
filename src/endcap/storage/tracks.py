"""The port of what is followed while it happens: things with parameters, tags and numbers by step, found by any of them.

Apart from the records, so that ten thousand numbers a minute never keep a lease or a release waiting. What is written here is logged, not
chained: see ``endcap.governance.audit`` for what is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, get_args

import msgspec
from msgspec import UNSET, UnsetType

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest

ATTRIBUTES = ("id", "name", "status", "actor", "started_us", "ended_us", "group")
"""The attributes of a track by which it is found and put in order."""
INSTANTS = ("started_us", "ended_us")
"""Those of them that are numbers."""
Family = Literal["attribute", "param", "tag", "metric"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "like", "ilike", "in", "not in", "is null", "is not null"]
Stage = Literal["active", "deleted"]
_TEXT_OPERATORS = ("=", "!=", "like", "ilike", "in", "not in", "is null", "is not null")
_NUMBER_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "is null", "is not null")
POINTS_AT_ONCE = 20_000
"""How many points of a track that is read as a whole are in memory at once."""
_LEAST, _MOST = -(2**63), 2**63 - 1


class Point(msgspec.Struct, frozen=True, array_like=True, gc=False):
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
    that stands already (name, step, instant and value) is passed over, so that sending twice changes nothing. Attributes of None stay;
    ``ended_us`` stays where it is UNSET, and None says that the track goes on.
    """

    params: Mapping[str, str] = {}
    tags: Mapping[str, str | None] = {}
    points: Sequence[Point] = ()
    name: str | None = None
    status: str | None = None
    ended_us: int | UnsetType | None = UNSET
    stage: Stage | None = None


class TrackPiece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A track and some of its points; ``first`` is whether it begins the track, others of which follow at once."""

    space: str
    track: Track
    points: list[Point]
    first: bool


class Condition(msgspec.Struct, frozen=True):
    """One condition of a search. ``value`` is a number for metrics and instants, a list of texts for ``in``, None for ``is null``, else a text.

    A track without the name meets no condition but ``is null`` (and ``!=`` neither); a metric that is NaN meets ``!=`` and ``is not null``.
    Numbers are compared by ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``; texts by ``=``, ``!=``, ``like``, ``ilike``, ``in``, ``not in``. ``like``
    takes ``%`` for any text and ``_`` for any one character, nothing escapes them; ``ilike`` takes no notice of the case of ASCII letters.
    """

    family: Family
    name: str
    operator: Operator
    value: str | int | float | Sequence[str] | None


class Order(msgspec.Struct, frozen=True):
    """By what a search is put in order: numbers by size, texts by their code points.

    Whichever way, tracks without the name come last, and before them those whose metric is NaN; ties by ``started_us`` (newest first), then by id.
    """

    family: Family
    name: str
    descending: bool = False


class TrackStore(Protocol):
    """Tracks by space (a workspace) and id. What was acknowledged outlives the power; readers in other processes never see half a batch.

    Raises InvalidInput for a text that is not Unicode or holds NUL, and for an instant or a step of more than 64 bits.
    """

    def create(self, space: str, track: Track) -> None:
        """Keep a new track, with what it already holds; its metrics are its first points. Raises Conflict when its id stands."""
        ...

    def write(self, space: str, id: str, batch: TrackBatch) -> None:  # noqa: A002 - the word of the records
        """Add a batch, all or nothing. Raises NotFound without such a track, Conflict for a parameter that stands with another value.

        A deleted track takes nothing (Conflict) unless the batch makes it active again. Cost grows with the batch, not with what the track holds.
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
        """Tracks that meet all conditions, in order; ``groups`` None means all groups, ``stage`` None both stages.

        Raises InvalidInput for a condition or an order that ``require_search`` refuses.
        """
        ...

    def delete(self, space: str, ids: Sequence[str]) -> int:
        """Forget tracks for good with all they hold. Returns how many there were."""
        ...

    def load(self, pieces: Sequence[TrackPiece]) -> None:
        """Keep pieces of tracks of a backup, all or none; one that begins a track takes the place of what stood under its id.

        Raises NotFound for a piece whose track was never begun.
        """
        ...

    def close(self) -> None: ...


def split_points(space: str, track: Track, points: Iterator[list[Point]]) -> Iterator[TrackPiece]:
    """The pieces of a track whose points come in lists; a track without points is one piece."""
    yield TrackPiece(space, track, next(points, []), True)
    for more in points:
        yield TrackPiece(space, track, more, False)


def rank_point(point: Point) -> tuple[int, int, bool, float]:
    """What is greatest for the last point of a name: by step, then instant, then value, of which NaN is the greatest."""
    unknown = math.isnan(point.value)
    return point.step, point.at_us, unknown, 0.0 if unknown else point.value


def require_track(space: str, track: Track) -> None:
    """Raise InvalidInput unless every text of a track can be kept anywhere and every number fits."""
    texts = [space, track.id, track.group, track.name, track.actor, track.status, *track.params, *track.params.values()]
    require_texts([*texts, *track.tags, *track.tags.values(), *track.metrics, *(p.name for p in track.metrics.values())])
    require_numbers([track.started_us, track.ended_us or 0, *(n for p in track.metrics.values() for n in (p.at_us, p.step))])


def require_batch(batch: TrackBatch) -> None:
    """Raise InvalidInput unless every text of a batch can be kept anywhere and every number fits."""
    texts = [*batch.params, *batch.params.values(), *batch.tags, *(v for v in batch.tags.values() if v is not None)]
    require_texts([*texts, *{p.name for p in batch.points}, batch.name or "", batch.status or ""])
    ended = 0 if batch.ended_us is UNSET or batch.ended_us is None else batch.ended_us
    require_numbers([ended, *(n for p in batch.points for n in (p.at_us, p.step))])


def require_texts(texts: Sequence[str]) -> None:
    """Raise InvalidInput for a text that is not Unicode, such as half a surrogate pair, or that holds NUL, which not every store can keep."""
    together = "\n".join(texts)
    try:
        together.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object[max(error.start - 20, 0) : error.end]!r} is not Unicode.") from error
    if "\x00" in together:
        place = together.index("\x00")
        raise InvalidInput(f"A text holds the character NUL: {together[max(place - 20, 0) : place + 1]!r}.", hint="log it as a file")


def require_numbers(numbers: Sequence[int]) -> None:
    """Raise InvalidInput for a whole number of more than 64 bits."""
    far = next((n for n in numbers if not number_fits(n)), None)
    if far is not None:
        raise InvalidInput(f"{str(far)[:40]} is no instant or step: it takes more than 64 bits.", hint="instants are in microseconds since 1970")


def require_search(conditions: Sequence[Condition], order: Sequence[Order], *, groups: Sequence[str] | None, limit: int, skip: int) -> None:
    """Raise InvalidInput unless a search can be answered: families, attributes, operators and the types of values fit one another."""
    every: list[Condition | Order] = [*conditions, *order]
    for asked in every:
        if asked.family not in get_args(Family):
            raise InvalidInput(f"{asked.family!r} is no family of what a track holds. Families: {list(get_args(Family))}.")
        if asked.family == "attribute" and asked.name not in ATTRIBUTES:
            raise InvalidInput(f"{asked.name!r} is no attribute of a track. Attributes: {list(ATTRIBUTES)}.", hint=suggest(asked.name, ATTRIBUTES))
    for condition in conditions:
        _require_condition(condition)
    require_texts([*(asked.name for asked in every), *(groups or ())])
    for what, number in (("limit", limit), ("number to pass over", skip)):
        if not 0 <= number <= _MOST:
            raise InvalidInput(f"The {what} is {number}; it must be 0 or more.")


def _require_condition(condition: Condition) -> None:
    number, value = is_number(condition), condition.value
    offered = _NUMBER_OPERATORS if number else _TEXT_OPERATORS
    if condition.operator not in offered:
        what = "a number" if number else "a text"
        raise InvalidInput(
            f"The {condition.family} '{condition.name}' is {what}; {condition.operator!r} does not compare it. Those do: {list(offered)}."
        )
    if condition.operator in ("is null", "is not null"):
        fits = value is None
    elif condition.operator in ("in", "not in"):
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    elif number:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise InvalidInput(f"The {condition.family} '{condition.name}' cannot be compared by {condition.operator!r} with {value!r}.")
    if isinstance(condition.value, int) and not number_fits(condition.value):
        raise InvalidInput(f"The {condition.family} '{condition.name}' is compared with {str(value)[:40]}, which takes more than 64 bits.")
    require_texts([value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [])


def is_number(asked: Condition | Order) -> bool:
    """Whether what is asked for is a number: a metric or an instant."""
    return asked.family == "metric" or (asked.family == "attribute" and asked.name in INSTANTS)


def number_fits(number: int) -> bool:
    """Whether a whole number has at most 64 bits."""
    return _LEAST <= number <= _MOST


def stands_otherwise(track: str, name: str, *, stands: str, given: str) -> Conflict:
    """The error of a parameter that is said again and differs."""
    return Conflict(
        f"The parameter '{name}' of '{track}' is {_cut(stands)} already; it cannot become {_cut(given)}.",
        hint="log it under another name, or start another run",
    )


def missing_track(track: str) -> NotFound:
    """The error of a track that is not there."""
    return NotFound(f"There is no '{_cut(track)[1:-1]}' here.", hint="list runs with: endcap track search")


def deleted_track(track: str) -> Conflict:
    """The error of writing to a track that was deleted."""
    return Conflict(f"'{track}' is deleted, so nothing is logged to it.", hint=f"bring it back first: endcap track restore-run {track}")


def _cut(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
