"""Why a served value is not the offline one: the causes that parity tells apart, from a key's rows alone.

Everything here is pure: what was served, the key's feature rows as the sources give them now, and an instant. The causes, in the order in which
they are looked for:

- ``early``: what was served was not known at the instant;
- ``stale``: what was served is an older row, though a newer one had been known for longer than allowed;
- ``late row``: what was served is what the tick said before a row became known late; or, where the source does not say when rows became
  known, what it said when the store was filled;
- ``time zone``: what was served stands at another instant than its row, by whole quarters of an hour, as zones are apart;
- ``narrowed``: values are the same once both are cast to 32-bit floats;
- ``missing online``, ``missing offline``: one side has nothing;
- ``value``: none of these.

``definition`` (another version is served than stands) is told from the versions before any row is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

CAUSES = ("definition", "early", "stale", "late row", "time zone", "narrowed", "missing online", "missing offline", "value")
RELATIVE = 1e-9
"""Numbers this close are the same: sums of doubles taken in another order differ by less, 32-bit floats by more (6e-8)."""
_QUARTER = timedelta(minutes=15)
_FARTHEST_ZONE = timedelta(hours=26)  # from -12 to +14


@dataclass(frozen=True)
class FeatureRow:
    """A row of one key: when it was true, since when that was known (both UTC), and the features in the order of the view."""

    event_at: datetime
    known_at: datetime
    values: tuple[Any, ...]

    @property
    def visible_at(self) -> datetime:
        return max(self.event_at, self.known_at)


@dataclass(frozen=True)
class Limits:
    """What parity allows: rows may come ``behind`` so late; a value older than ``max_age`` is missing; ``tick`` is None without windows."""

    behind: timedelta = timedelta(0)
    max_age: timedelta | None = None
    tick: timedelta | None = None


@dataclass(frozen=True)
class Finding:
    """A difference: its cause, and what it is about in words that hold no value."""

    cause: str
    about: str
    expected: FeatureRow | None


def newest(rows: Sequence[FeatureRow], at: datetime, *, max_age: timedelta | None) -> FeatureRow | None:
    """The row that stands at an instant, of a key's rows in order of event time, known-at and ingest."""
    seen = [row for row in rows if row.event_at <= at and row.known_at <= at]
    if not seen or (max_age is not None and seen[-1].event_at < at - max_age):
        return None
    return seen[-1]


def explain(served: FeatureRow | None, rows: Sequence[FeatureRow], then: Sequence[FeatureRow], *, at: datetime, limits: Limits) -> Finding | None:
    """Why ``served`` is not what stood at ``at``; None where it is, or may be as things are allowed to come late.

    ``rows`` are the key's rows as the sources give them now and ``then`` as they stood when the store was filled, both in order of event time,
    known-at and ingest. ``served`` None: nothing was, or what was had expired.
    """
    standing = newest(rows, at, max_age=limits.max_age)
    if any(_is_same(served, allowed) for allowed in _allowed(rows, at=at, limits=limits)):
        return None
    if served is None:
        assert standing is not None, "nothing is the same as nothing"
        return Finding("missing online", f"the row of {_say(standing.event_at)} was known since {_say(standing.visible_at)}", standing)
    return (
        _explain_by_rows(served, rows, standing, at=at)
        or _explain_by_zone(served, rows, limits=limits, standing=standing)
        or _explain_by_width(served, rows, standing)
        or _explain_by_arrival(served, then, standing)
        or _explain_the_rest(served, standing)
    )


def _allowed(rows: Sequence[FeatureRow], *, at: datetime, limits: Limits) -> list[FeatureRow | None]:
    """What stood at the instant, and at any since the moment up to which everything must have come."""
    since = at - limits.behind
    instants = [since, at, *(row.visible_at for row in rows if since < row.visible_at <= at)]
    return [newest(rows, instant, max_age=limits.max_age) for instant in instants]


def _explain_by_rows(served: FeatureRow, rows: Sequence[FeatureRow], standing: FeatureRow | None, *, at: datetime) -> Finding | None:
    """What was served is one of the key's rows, and not the one that should have been."""
    same = [row for row in rows if _is_same(served, row)]
    if not same:
        return None
    if all(row.visible_at > at for row in same):
        return Finding("early", f"the row of {_say(served.event_at)} was not known before {_say(min(row.visible_at for row in same))}", standing)
    if standing is None:
        return Finding("stale", f"the row of {_say(served.event_at)} was too old to be served", None)
    if served.event_at < standing.event_at:
        return Finding("stale", f"a row that is newer by {_span(standing.event_at - served.event_at)} was known", standing)
    return Finding("late row", f"the row of {_say(standing.event_at)} was said anew at {_say(standing.known_at)}", standing)


def _explain_by_zone(served: FeatureRow, rows: Sequence[FeatureRow], *, limits: Limits, standing: FeatureRow | None) -> Finding | None:
    """Its values are a row's of another instant; or it stands between the ticks, where no row can."""
    shifts = [served.event_at - row.event_at for row in rows if _are_same(served.values, row.values)]
    if not any(row.event_at == served.event_at for row in rows) and limits.tick is not None:
        shifts += [served.event_at - row.event_at for row in rows if abs(served.event_at - row.event_at) < limits.tick]
    shifts = [shift for shift in shifts if shift and abs(shift) <= _FARTHEST_ZONE and not shift % _QUARTER]
    if not shifts:
        return None
    return Finding("time zone", f"served {_span(min(shifts, key=abs))} off its instant", standing)


def _explain_by_width(served: FeatureRow, rows: Sequence[FeatureRow], standing: FeatureRow | None) -> Finding | None:
    if any(row.event_at == served.event_at and _are_same(_narrow(served.values), _narrow(row.values)) for row in rows):
        return Finding("narrowed", "the same as 32-bit floats, and not as they were computed", standing)
    return None


def _explain_by_arrival(served: FeatureRow, then: Sequence[FeatureRow], standing: FeatureRow | None) -> Finding | None:
    if any(_is_same(served, row) for row in then):
        return Finding("late row", f"rows came since that change what was true at {_say(served.event_at)}; their table does not say so", standing)
    return None


def _explain_the_rest(served: FeatureRow, standing: FeatureRow | None) -> Finding:
    if standing is None:
        return Finding("missing offline", f"the sources have no row for what was served as of {_say(served.event_at)}", None)
    return Finding("value", f"the sources say otherwise of {_say(standing.event_at)}", standing)


def _is_same(served: FeatureRow | None, row: FeatureRow | None) -> bool:
    if served is None or row is None:
        return served is row
    return served.event_at == row.event_at and _are_same(served.values, row.values)


def _are_same(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    return len(ours) == len(theirs) and all(map(same_value, ours, theirs))


def same_value(ours: Any, theirs: Any) -> bool:
    """Whether two values are one: numbers to within 1e-9 of their size, NaN as NaN, all else exactly.

    >>> same_value(0.1 + 0.2, 0.3), same_value(0.1, 0.10000000149011612), same_value(None, 0)
    (True, False, False)
    """
    if _is_number(ours) and _is_number(theirs):
        return ours == theirs or math.isclose(ours, theirs, rel_tol=RELATIVE) or (ours != ours and theirs != theirs)  # noqa: PLR0124 - NaN alone
    if type(ours) is not type(theirs) and not (isinstance(ours, date) and isinstance(theirs, date)):
        return False
    return bool(ours == theirs)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _narrow(values: Sequence[Any]) -> list[Any]:
    with np.errstate(over="ignore"):
        return [float(np.float32(value)) if _is_number(value) else value for value in values]


def _say(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z".replace(" 00:00:00Z", "").replace(":00Z", "Z")


def _span(span: timedelta) -> str:
    """A length of time with its sign.

    >>> _span(timedelta(hours=-8)), _span(timedelta(days=1, minutes=30))
    ('-8:00', '24:30')
    """
    minutes = round(abs(span) / timedelta(minutes=1))
    return f"{'-' if span < timedelta(0) else ''}{minutes // 60}:{minutes % 60:02d}"
