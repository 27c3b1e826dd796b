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


def local_day(instant: datetime, *, zone: str) -> date:
    """The local date on which an instant falls. Raises InvalidInput for a time without a zone."""
    return require_instant(instant, what="instant").astimezone(load_zone(zone)).date()
