"""Ticks: the instants at which windows end, as a zone's clocks show them, numbered one after another.

Ticks of a day are local midnights, ticks of 7 days those of Mondays. Shorter ticks are the instants at which the clocks show a multiple of
their length since midnight. A time that a change of clocks skips is a tick at the instant of the change. One that it repeats is a tick both
times if ticks are at most an hour apart, so that every hour has its own, and the first time otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from endcap.core.clock import describe_instant
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput
from endcap.core.zones import load_zone, start_of_day

MOST_TICKS = 3_000_000
_DAY_US = 86_400_000_000
_HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Instants = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ticks:
    """Ticks in a row. ``instants`` are microseconds since 1970 (UTC), ascending; the first has the number ``first``.

    Ticks of days are numbered from 1970-01-01, so that they keep their number whatever the span. ``offsets`` are the zone's offsets from UTC in
    microseconds, each with the instant from which it holds, for ticks shorter than a day.
    """

    every: str
    zone: str
    first: int
    instants: Instants
    offsets: tuple[tuple[int, int], ...] = ()

    @property
    def last(self) -> int:
        return self.first + len(self.instants) - 1

    def number(self, instant: datetime) -> int:
        """The first tick that is not before an instant; one after the last where there is none."""
        return self.first + int(np.searchsorted(self.instants, to_us(instant), side="left"))

    def last_until(self, instant: datetime) -> int:
        """The last tick that is not after an instant; one before the first where there is none."""
        return self.first + int(np.searchsorted(self.instants, to_us(instant), side="right")) - 1

    def instant_us(self, number: int) -> int:
        """The instant of a tick, held to the ends."""
        return int(self.instants[min(max(number - self.first, 0), len(self.instants) - 1)])

    def number_sql(self, us: str) -> str:
        """SQL for the number of the first tick that is not before an instant, given in microseconds: the interval in which it falls."""
        step, runs = self._runs()
        parts = []
        for place, (number, at) in enumerate(runs):
            ahead = f"{number} + (({us}) - {at} + {step - 1}) // {step}"
            following = runs[place + 1][0] if place + 1 < len(runs) else None
            parts.append((at, f"least({ahead}, {following})" if following is not None else ahead))
        if len(parts) == 1:
            return f"({parts[0][1]})"
        # Latest first: most rows are asked about the newest times.
        cases = " ".join(f"WHEN ({us}) > {at} THEN {sql}" for at, sql in reversed(parts[1:]))
        return f"CASE {cases} ELSE {parts[0][1]} END"

    def instant_sql(self, number: str) -> str:
        """SQL for the instant of a tick in microseconds since 1970."""
        step, runs = self._runs()
        parts = [(first, f"{at} + (({number}) - {first}) * CAST({step} AS BIGINT)") for first, at in runs]
        if len(parts) == 1:
            return f"({parts[0][1]})"
        cases = " ".join(f"WHEN ({number}) >= {first} THEN {sql}" for first, sql in reversed(parts[1:]))
        return f"CASE {cases} ELSE {parts[0][1]} END"

    def class_sql(self, number: str) -> str:
        """SQL for what begins with a tick: the local hour, or for ticks of a day a number that each weekday has for itself."""
        if not self.offsets:
            return f"((({number}) % 7 + 7) % 7)"
        us = self.instant_sql(number)
        cases = " ".join(f"WHEN {us} >= {at} THEN {offset}" for at, offset in reversed(self.offsets[1:]))
        offset = f"CASE {cases} ELSE {self.offsets[0][1]} END" if cases else str(self.offsets[0][1])
        return f"((({us} + {offset}) // {_HOUR_US}) % 24)"

    def _runs(self) -> tuple[int, list[tuple[int, int]]]:
        """The usual step, and number and instant of each tick from which ticks are that far apart."""
        step = round(parse_duration(self.every).total_seconds() * 1_000_000)
        breaks = np.flatnonzero(np.diff(self.instants) != step) + 1
        places = [0, *breaks.tolist()]
        return step, [(self.first + place, int(self.instants[place])) for place in places]


def to_us(instant: datetime) -> int:
    """Microseconds since 1970; an instant without a zone is in UTC."""
    aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def make_ticks(every: str, *, zone: str, first: datetime, last: datetime, before: int, after: int) -> Ticks:
    """The ticks of a zone from ``before`` ticks ahead of the first instant to ``after`` ticks past the last.

    Raises InvalidInput for more than 3 million. Cost grows with the days for ticks of a day or more, with the ticks for shorter ones.
    """
    length = parse_duration(every)
    try:
        start, end = first - length * (before + 2) - timedelta(days=1), last + length * (after + 2) + timedelta(days=1)
    except OverflowError as error:
        raise _too_far(first, last) from error
    if (end - start) / length > MOST_TICKS or start.year < 2 or end.year > 9998:
        raise _too_far(first, last)
    if length >= timedelta(days=1):
        return _make_days(every, zone=zone, start=start, end=end, n_days=length.days)
    return _make_hours(every, zone=zone, start=start, end=end)


def _too_far(first: datetime, last: datetime) -> InvalidInput:
    return InvalidInput(
        f"Event times from {describe_instant(first)} to {describe_instant(last)} span more ticks than are kept ({MOST_TICKS:,}).",
        hint="look for event times that are far off, or leave them out with where=...",
    )


def _make_days(every: str, *, zone: str, start: datetime, end: datetime, n_days: int) -> Ticks:
    epoch = date(1970, 1, 1) if n_days == 1 else date(1970, 1, 5)  # a Monday
    first, last = (start.date() - epoch).days // n_days, (end.date() - epoch).days // n_days + 1
    days = [epoch + timedelta(days=n_days * number) for number in range(first, last + 1)]
    instants = np.array([to_us(start_of_day(day, zone=zone)) for day in days], dtype=np.int64)
    return Ticks(every, zone, first, instants)


def _make_hours(every: str, *, zone: str, start: datetime, end: datetime) -> Ticks:
    step = round(parse_duration(every).total_seconds() * 1_000_000)
    stretches = _find_stretches(load_zone(zone), start, end)
    parts = []
    for place, (from_us, to_us_, offset) in enumerate(stretches):
        walls = np.arange(-(-(from_us + offset) // step) * step, to_us_ + offset, step, dtype=np.int64)
        found = walls - offset
        before = stretches[place - 1][2] if place else offset
        if offset < before and step > _HOUR_US:  # set back: what was shown already does not count again
            found = found[walls >= from_us + before]
        if offset > before and -(-(from_us + before) // step) * step < from_us + offset:  # set forward over a multiple
            found = np.concatenate(([from_us], found))
        parts.append(found)
    instants = np.unique(np.concatenate(parts))
    return Ticks(every, zone, 0, instants, tuple((from_us, offset) for from_us, _, offset in stretches))


def _find_stretches(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[int, int, int]]:
    """Stretches of time with one offset from UTC: from, to (not included) and offset, in microseconds."""

    def offset_at(us: int) -> int:
        found = (_EPOCH + timedelta(microseconds=us)).astimezone(zone).utcoffset()
        return found // timedelta(microseconds=1) if found is not None else 0

    from_us, end_us = to_us(start), to_us(end)
    stretches, at, offset = [], from_us, offset_at(from_us)
    while at < end_us:
        following = min(at + _DAY_US, end_us)
        if offset_at(following) != offset:
            low, high = at, following
            while high - low > 1_000_000:  # clocks change at whole seconds
                middle = (low + high) // 2 // 1_000_000 * 1_000_000
                low, high = (middle, high) if offset_at(middle) == offset else (low, middle)
            stretches.append((from_us, high, offset))
            from_us, offset, following = high, offset_at(high), max(high, following if offset_at(following) == offset_at(high) else high)
        at = following
    stretches.append((from_us, end_us, offset))
    return stretches
