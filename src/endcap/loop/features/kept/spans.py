"""Spans of event times: which a view's batches cover, each from its first instant to before its last."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from endcap.loop.features.rows.view_sources import plain

Span = tuple[datetime | None, datetime | None]
"""From the first instant to before the last; None: without beginning, without end."""

_EVER = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


def unite(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same instants in as few spans as can be, in order.

    >>> day = lambda n: datetime(2026, 3, n, tzinfo=UTC)
    >>> [(a.day if a else a, b.day if b else b) for a, b in unite([(day(5), None), (day(1), day(3)), (day(3), day(4))])]
    [(1, 4), (5, None)]
    """
    found: list[tuple[datetime, datetime]] = []
    for first, last in sorted((first or _EVER, last or _NEVER) for first, last in spans):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        elif first < last:
            found.append((first, last))
    return tuple(_open(first, last) for first, last in found)


def subtract(spans: Iterable[Span], others: Iterable[Span]) -> tuple[Span, ...]:
    """The instants of some spans that are in none of the others.

    >>> day = lambda n: datetime(2026, 3, n, tzinfo=UTC)
    >>> [(a.day if a else a, b.day if b else b) for a, b in subtract([(None, None)], [(day(2), day(4))])]
    [(None, 2), (4, None)]
    """
    left = [(first or _EVER, last or _NEVER) for first, last in unite(spans)]
    for first, last in ((first or _EVER, last or _NEVER) for first, last in others):
        left = [part for a, b in left for part in ((a, min(b, first)), (max(a, last), b)) if part[0] < part[1]]
    return tuple(_open(first, last) for first, last in left)


def within(column: str, spans: Iterable[Span]) -> str:
    """SQL that holds for the instants (plain timestamps, UTC) of some spans.

    >>> within("t", [(None, datetime(2026, 3, 1, tzinfo=UTC))]), within("t", [(None, None)]), within("t", [])
    ("(t < TIMESTAMP '2026-03-01 00:00:00')", '(true)', '(false)')
    """
    parts = []
    for first, last in spans:
        ends = [f"{column} >= {plain(first)}"] if first is not None else []
        ends += [f"{column} < {plain(last)}"] if last is not None else []
        parts.append(" AND ".join(ends) or "true")
    return f"({' OR '.join(parts) or 'false'})"


def _open(first: datetime, last: datetime) -> Span:
    return (None if first == _EVER else first, None if last == _NEVER else last)
