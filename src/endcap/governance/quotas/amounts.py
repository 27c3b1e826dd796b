"""Amounts as people write them: CPU-minutes a day or a month, requests a second, counts; and when a period begins anew."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from endcap.core.errors import InvalidInput, suggest

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,6})?")
_PERIODS = {"day": "day", "1d": "day", "d": "day", "month": "month", "1mo": "month", "mo": "month"}
_SECONDS = {"s": 1.0, "1s": 1.0, "min": 60.0, "1min": 60.0, "h": 3600.0, "1h": 3600.0}


def parse_cpu_minutes(text: str) -> tuple[float, str]:
    """CPU-minutes and the period they are for: a day (also where none is said) or a month of UTC.

    >>> parse_cpu_minutes("600/1d"), parse_cpu_minutes("20000/month"), parse_cpu_minutes("90.5")
    ((600.0, 'day'), (20000.0, 'month'), (90.5, 'day'))
    """
    number, slash, period = text.strip().partition("/")
    found = _PERIODS.get(period.strip().lower()) if slash else "day"
    if found is None:
        raise InvalidInput(
            f"cpu-minutes is {text!r}: {period!r} is no period. Periods: ['day', 'month'].",
            hint=suggest(period, _PERIODS) or "write 600/day or 20000/month",
        )
    return _parse_number(number, text, what="cpu-minutes", hint="write 600/day or 20000/month"), found


def parse_requests(text: str) -> tuple[float, float]:
    """Requests, and the seconds that they are for.

    >>> parse_requests("50/s"), parse_requests("600/min"), parse_requests("2")
    ((50.0, 1.0), (600.0, 60.0), (2.0, 1.0))
    """
    number, slash, period = text.strip().partition("/")
    found = _SECONDS.get(period.strip().lower()) if slash else 1.0
    if found is None:
        raise InvalidInput(
            f"requests is {text!r}: {period!r} is no unit. Units: ['s', 'min', 'h'].", hint=suggest(period, _SECONDS) or "write 50/s or 600/min"
        )
    n = _parse_number(number, text, what="requests", hint="write 50/s or 600/min")
    if n < 1:
        raise InvalidInput(f"requests is {text!r}, which lets not one through.", hint="write one in a longer time: 1/min, 1/h")
    return n, found


def require_count(n: int, *, what: str, at_least: int) -> int:
    """The same number. Raises InvalidInput below ``at_least`` and beyond a million."""
    if not at_least <= n <= 1_000_000:
        raise InvalidInput(f"{what} is {n}; it must be a whole number from {at_least} to 1,000,000.", hint="no limit at all: endcap quotas clear")
    return n


def require_weight(weight: float) -> float:
    """The same weight. Raises InvalidInput for what is no share: it lies from 0.01 to 100."""
    if not (math.isfinite(weight) and 0.01 <= weight <= 100):
        raise InvalidInput(f"weight is {weight}; it must be from 0.01 to 100.", hint="everybody has 1 by default; 2 is twice the share")
    return weight


def name_day(at: datetime) -> str:
    """The day of UTC.

    >>> name_day(datetime(2026, 3, 3, 14, tzinfo=UTC))
    '2026-03-03'
    """
    return at.astimezone(UTC).date().isoformat()


def find_renewal(at: datetime, per: str) -> datetime:
    """When the day or the month of UTC that ``at`` lies in ends.

    >>> find_renewal(datetime(2026, 12, 31, 14, tzinfo=UTC), "day").isoformat(), find_renewal(datetime(2026, 12, 3, tzinfo=UTC), "month").isoformat()
    ('2027-01-01T00:00:00+00:00', '2027-01-01T00:00:00+00:00')
    """
    midnight = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return midnight + timedelta(days=1)
    return (midnight.replace(day=28) + timedelta(days=4)).replace(day=1)


def _parse_number(number: str, text: str, *, what: str, hint: str) -> float:
    found = float(number) if _NUMBER.fullmatch(number.strip()) else 0.0
    if found <= 0:
        raise InvalidInput(f"{what} is {text!r}; it must be a number above 0.", hint=hint)
    return found
