"""Ticks: the instants at which windows are looked at, numbered by the wall time of a zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from endcap.core.durations import parse_duration
from endcap.core.names import quote_text
from endcap.core.zones import load_zone

_ORIGIN = datetime(1, 1, 1)  # noqa: DTZ001 - a wall time; a Monday
_BEFORE_1970_US = (datetime(1970, 1, 1) - _ORIGIN) // timedelta(microseconds=1)  # noqa: DTZ001 - the same


@dataclass(frozen=True)
class Ticks:
    """Ticks that are ``every_us`` microseconds of wall time apart. Tick n stands at n times that after the Monday with which the calendar begins."""

    every_us: int
    zone: str

    @classmethod
    def of(cls, every: str, *, zone: str) -> Ticks:
        return cls(parse_duration(every) // timedelta(microseconds=1), zone)

    def n_of(self, length: str) -> int:
        """How many ticks a length of time is."""
        return parse_duration(length) // timedelta(microseconds=self.every_us)

    def instant(self, n: int) -> datetime:
        """The instant (UTC) of a tick. A wall time that occurs twice is the later one, as the engine has it.

        >>> Ticks.of("1d", zone="Europe/Berlin").instant(739_600).isoformat()
        '2025-12-19T23:00:00+00:00'
        """
        wall = (_ORIGIN + timedelta(microseconds=n * self.every_us)).replace(tzinfo=load_zone(self.zone))
        return max(wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))

    def last_by(self, instant: datetime) -> int:
        """The last tick that is not after an instant."""
        wall = instant.astimezone(load_zone(self.zone)).replace(tzinfo=None)
        n = (wall - _ORIGIN) // timedelta(microseconds=self.every_us)
        while self.instant(n) > instant:
            n -= 1
        return n

    def first_from(self, instant: datetime) -> int:
        """The first tick that is not before an instant."""
        n = self.last_by(instant)
        return n if self.instant(n) == instant else n + 1

    def sql_end(self, wall: str) -> str:
        """SQL of the tick at which the interval ends that a wall time lies in: an interval holds its end, and not its beginning."""
        return f"((epoch_us({wall}) + {_BEFORE_1970_US + self.every_us - 1}) // {self.every_us})"

    def sql_wall(self, instant: str) -> str:
        """SQL of the wall time of an instant that is a plain timestamp in UTC."""
        return instant if self.zone == "UTC" else f"timezone({quote_text(self.zone)}, timezone('UTC', {instant}))"

    def sql_instant(self, tick: str) -> str:
        """SQL of a tick's instant, a plain timestamp in UTC."""
        return self.sql_utc(f"make_timestamp(({tick}) * {self.every_us} - {_BEFORE_1970_US})")

    def sql_utc(self, wall: str) -> str:
        """SQL of the instant, a plain timestamp in UTC, of a wall time."""
        return wall if self.zone == "UTC" else f"timezone('UTC', timezone({quote_text(self.zone)}, {wall}))"
