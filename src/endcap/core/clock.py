"""Time and ids are handed in, never taken: a run can be replayed, and a test can live through a year in a second."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol

from endcap.core.errors import InvalidInput


class Clock(Protocol):
    def now(self) -> datetime:
        """The instant, in UTC, to the microsecond."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def open_counter(clock: Clock) -> Callable[[], int]:
    """A function that gives the clock's instant in microseconds of UTC since 1970, for what asks many thousand times a second."""
    return _count_us if type(clock) is SystemClock else lambda: round(clock.now().timestamp() * 1e6)


def _count_us() -> int:
    return time.time_ns() // 1000


class ManualClock:
    """A clock that stands still until it is moved, and never moves back."""

    def __init__(self, start: datetime) -> None:
        self._now = require_instant(start, what="clock start")

    def now(self) -> datetime:
        return self._now

    def advance(self, step: timedelta) -> datetime:
        """Move on by ``step`` and return the new instant."""
        return self.set(self._now + step)

    def set(self, instant: datetime) -> datetime:
        """Move to ``instant``. Raises InvalidInput when that lies behind."""
        instant = require_instant(instant, what="clock instant")
        if instant < self._now:
            raise InvalidInput(f"The clock stands at {describe_instant(self._now)} and was asked back to {describe_instant(instant)}.")
        self._now = instant
        return instant


class Ids(Protocol):
    def __call__(self, prefix: str) -> str:
        """A new id, ``prefix_...``; ids made later sort later within a process."""
        ...


class SystemIds:
    """Ids from the time and random bits: 48 bits of milliseconds, 80 of chance, the layout of UUID version 7 but for its marks.

    Within a millisecond, and when the machine's clock goes back, the last id is counted on (RFC 9562, section 6.2, method 2).
    """

    _last: ClassVar[int] = 0
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __call__(self, prefix: str) -> str:
        drawn = int(time.time() * 1000) << 80 | int.from_bytes(os.urandom(10))
        with SystemIds._lock:
            SystemIds._last = max(drawn, SystemIds._last + 1)
            return f"{prefix}_{SystemIds._last:032x}"


class CountingIds:
    """Ids 1, 2, 3 ... per prefix, so that a test can name what it made."""

    def __init__(self) -> None:
        self._n: dict[str, int] = {}

    def __call__(self, prefix: str) -> str:
        self._n[prefix] = self._n.get(prefix, 0) + 1
        return f"{prefix}_{self._n[prefix]:06d}"


def draw_hex(new_id: Ids, prefix: str) -> str:
    """A new id as 32 hex digits, where a protocol wants them so.

    >>> draw_hex(CountingIds(), "track")
    '00000000000000000000000000000001'
    """
    return new_id(prefix).rpartition("_")[2].rjust(32, "0")


def require_instant(value: datetime, *, what: str) -> datetime:
    """The same instant in UTC. Raises InvalidInput for a time without a zone, which names no instant."""
    if value.tzinfo is None:
        raise InvalidInput(f"The {what} {value:%Y-%m-%d %H:%M:%S} has no zone, so it names no instant.", hint="write 2026-03-03T14:05Z")
    return value.astimezone(UTC)


def parse_instant(text: str, *, zone: str = "UTC") -> datetime:
    """An ISO date or time as an instant in UTC; without an offset it is read in ``zone``.

    >>> parse_instant("2026-03-03 14:05", zone="Europe/Berlin").isoformat()
    '2026-03-03T13:05:00+00:00'
    """
    from endcap.core.zones import load_zone

    try:
        value = datetime.fromisoformat(text.strip())
        if value.tzinfo is None:
            value = value.replace(tzinfo=load_zone(zone))
        return value.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # overflow: the first and last hours that a calendar has, in a zone off UTC
        raise InvalidInput(f"{text!r} is not a time.", hint="write 2026-03-03 or 2026-03-03T14:05 or 2026-03-03T14:05+01:00") from error


def describe_instant(at: datetime) -> str:
    """An instant as people read it, to the second: what is written by programs for programs keeps ISO's form.

    >>> describe_instant(datetime(2026, 3, 3, 14, 5, 20, 123456, tzinfo=UTC))
    '2026-03-03 14:05:20 UTC'
    """
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def describe_local(text: str | None) -> str:
    """A day or a time of a table, kept as ISO text in the table's own zone, as people read it; '-' for none.

    >>> describe_local("2026-03-03T14:05:20.123456"), describe_local("2026-03-03"), describe_local(None)
    ('2026-03-03 14:05:20', '2026-03-03', '-')
    """
    if not text or "T" not in text:
        return text or "-"
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"


def describe_span(first: str | None, last: str | None) -> str:
    """The first and the last time of a table as people read them.

    >>> describe_span("2026-03-03T14:05:20", "2026-03-04T00:00:00")
    '2026-03-03 14:05:20 to 2026-03-04 00:00:00'
    """
    return f"{describe_local(first)} to {describe_local(last)}"
