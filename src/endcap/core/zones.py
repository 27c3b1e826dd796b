"""Zones: local days on the shop's wall, instants in UTC underneath."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from endcap.core.clock import require_instant
from endcap.core.errors import InvalidInput, suggest


def load_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises InvalidInput with the nearest name for one that does not exist."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: folders of the zone files, names too long for a file
        hint = suggest(name, available_timezones()) or "use an IANA name such as Europe/Berlin or Asia/Shanghai"
        raise InvalidInput(f"{name!r} is not a time zone.", hint=hint) from error


def start_of_day(day: date, *, zone: str) -> datetime:
    """The instant (UTC) at which the local day begins; days of 23 and 25 hours are what they are.

    >>> start_of_day(date(2026, 3, 29), zone="Europe/Berlin").isoformat()
    '2026-03-28T23:00:00+00:00'
    """
    return datetime.combine(day, time(), tzinfo=load_zone(zone)).astimezone(UTC)


def name_moment(day: date, hour: int | None = None) -> str:
    """A local day, or an hour of it, as ISO text; a day sorts before its hours.

    >>> name_moment(date(2026, 3, 3)), name_moment(date(2026, 3, 3), 5)
    ('2026-03-03', '2026-03-03T05:00')
    """
    return day.isoformat() if hour is None else f"{day.isoformat()}T{hour:02d}:00"


def parse_moment(text: str) -> datetime:
    """The local time that an ISO day or hour names, without an offset. Raises InvalidInput for what is neither.

    >>> parse_moment("2026-03-03T05:00")
    datetime.datetime(2026, 3, 3, 5, 0)
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a day or an hour.", hint="write 2026-03-03 or 2026-03-03T05:00") from error
    if found.tzinfo is not None or found != found.replace(minute=0, second=0, microsecond=0):
        raise InvalidInput(f"{text!r} is not a local day or hour.", hint="write 2026-03-03 or 2026-03-03T05:00, without an offset")
    return found


def local_day(instant: datetime, *, zone: str) -> date:
    """The local date on which an instant falls. Raises InvalidInput for a time without a zone."""
    return require_instant(instant, what="instant").astimezone(load_zone(zone)).date()
