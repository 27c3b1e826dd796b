"""Lengths of time as users write them: ``90s``, ``15min``, ``6h``, ``7d``, ``2w``, and sums such as ``1d 6h``."""

from __future__ import annotations

import re
from datetime import timedelta

from endcap.core.errors import InvalidInput

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[shdw])")


def parse_duration(text: str) -> timedelta:
    """A length of time; never negative.

    >>> parse_duration("1d 6h")
    datetime.timedelta(days=1, seconds=21600)
    """
    rest = _PART.sub("", text).strip() if isinstance(text, str) else "?"
    if rest or not text.strip():
        raise InvalidInput(f"{text!r} is not a length of time.", hint="write 90s, 15min, 6h, 7d or 2w")
    try:
        return timedelta(seconds=sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text)))
    except OverflowError as error:
        raise InvalidInput(f"{text!r} is longer than time itself is kept.", hint="write at most 999999d") from error


def count_days(text: str, *, what: str, at_least: int = 0) -> int:
    """A length that must be whole days, as their number.

    >>> count_days("2w", what="horizon")
    14
    """
    length = parse_duration(text)
    if length % timedelta(days=1) or length.days < at_least:
        raise InvalidInput(f"{what} is {text!r}; it must be whole days, at least {at_least}.", hint="write 7d")
    return length.days


def format_duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> [format_duration(s) for s in (0.0123, 4.2, 75, 4000, 200_000)]
    ['12 ms', '4.2 s', '1 min 15 s', '1 h 6 min', '2.3 d']
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{seconds / 86_400:.1f} d"
