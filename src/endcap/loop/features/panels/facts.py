"""Facts that describe a series, from tables of facts: the newest statement of each that was known, and those that contradict one another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from endcap.core.names import quote, quote_text
from endcap.loop.data.sources import Source

if TYPE_CHECKING:
    import duckdb

_MOST_NAMED = 5


def known_by(source: Source, at: datetime) -> str:
    """SQL that holds for the rows known at an instant: all of them where the table has no known-at."""
    return "true" if source.table.known_at is None else f"__known_at <= TIMESTAMP '{at.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"


def newest_facts(source: Source, *, keys: Sequence[str], at: datetime) -> str:
    """SELECT of the rows of a table of facts that count at an instant; of the statements of one key the newest, where the table has known-at."""
    named = ", ".join(quote(key) for key in keys)
    newest = "" if source.table.known_at is None else f" QUALIFY rank() OVER (PARTITION BY {named} ORDER BY __known_at DESC) = 1"
    return f"SELECT * FROM ({source.sql}) WHERE {known_by(source, at)}{newest}"


def find_contradictions(rows: str, *, facts: Sequence[str], keys: Sequence[str], engine: duckdb.DuckDBPyConnection) -> dict[str, tuple[int, str]]:
    """The facts of which some keys have more than one value, such as an item in two categories: how many keys, and some of them by name.

    One group-by over the rows.
    """
    named = ", ".join(quote(key) for key in keys)
    differ = ", ".join(f"min({quote(name)}) IS DISTINCT FROM max({quote(name)}) OR count({quote(name)}) NOT IN (0, count(*))" for name in facts)
    label = " || ' ' || ".join(f"{quote_text(key + '=')} || CAST({quote(key)} AS VARCHAR)" for key in keys)
    present = " AND ".join(f"{quote(key)} IS NOT NULL" for key in keys)
    statement = f"SELECT {label}, {differ} FROM ({rows}) WHERE {present} GROUP BY {named} HAVING count(*) > 1 ORDER BY {named}"
    found = engine.execute(statement).fetchall()
    contradicted = {}
    for place, name in enumerate(facts):
        labels = [row[0] for row in found if row[place + 1]]
        if labels:
            contradicted[name] = (len(labels), ", ".join(labels[:_MOST_NAMED]) + (" ..." if len(labels) > _MOST_NAMED else ""))
    return contradicted
