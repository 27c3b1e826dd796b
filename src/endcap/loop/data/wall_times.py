"""Wall times as instants: what a zone's clocks show, in UTC, for many rows at the price of a subtraction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from endcap.core.names import quote_text

if TYPE_CHECKING:
    import duckdb

Years = tuple[int, int]
"""The first and the last year, both included."""

_EARLIEST = 1972  # zones changed by odd seconds before
_MOST_YEARS = 12  # beyond, asking the engine is as quick as looking a change up


def utc_sql(wall: str, *, zone: str) -> str:
    """SQL for the instant (a plain timestamp in UTC) at which a zone's clocks show a wall time.

    A time that a change of clocks repeats is the later of both instants; one that it skips is the instant at which clocks that were not
    changed would show it.
    """
    return f"timezone('UTC', timezone({quote_text(zone)}, {wall}))"


def quick_utc_sql(wall: str, *, zone: str, years: Years, engine: duckdb.DuckDBPyConnection) -> str:
    """The same, about twenty times as quick for the years in which most rows are known to lie: the latest 12 of them.

    Cost: one query of some milliseconds.
    """
    first, last = max(years[0], years[1] - _MOST_YEARS + 1, _EARLIEST), years[1]
    if not _EARLIEST <= first <= last < 9999:
        return utc_sql(wall, zone=zone)
    offsets = _find_offsets(zone, first, last, engine=engine)
    us = f"epoch_us({wall})"
    cases = " ".join(f"WHEN {us} < {until} THEN {offset}" for until, offset in offsets[:-1])
    offset = f"CASE {cases} ELSE {offsets[-1][1]} END" if cases else f"{offsets[-1][1]}"
    within = f"{wall} >= TIMESTAMP '{first}-01-01' AND {wall} < TIMESTAMP '{last + 1}-01-01'"
    return f"CASE WHEN {within} THEN make_timestamp({us} - {offset}) ELSE {utc_sql(wall, zone=zone)} END"


def _find_offsets(zone: str, first: int, last: int, *, engine: duckdb.DuckDBPyConnection) -> list[tuple[int, int]]:
    """How far a zone's wall times are ahead of UTC, in microseconds: until which wall time (exclusive), and how far."""
    ahead = f"epoch_us(w) - epoch_us({utc_sql('w', zone=zone)})"
    hours = f"SELECT unnest(generate_series(TIMESTAMP '{first}-01-01', TIMESTAMP '{last + 1}-01-01', INTERVAL 1 HOUR)) AS w"
    changed = f"SELECT w FROM (SELECT w, {ahead} AS o, lag({ahead}) OVER (ORDER BY w) AS p FROM ({hours})) WHERE o <> p"
    minutes = f"SELECT unnest(generate_series(w - INTERVAL 1 HOUR, w, INTERVAL 1 MINUTE)) AS w FROM ({changed})"
    found = engine.execute(
        f"SELECT epoch_us(w), p FROM (SELECT w, {ahead} AS o, lag({ahead}) OVER (ORDER BY w) AS p FROM (SELECT DISTINCT w FROM ({minutes})))"
        " WHERE o <> p ORDER BY w"
    ).fetchall()
    end = engine.execute(f"SELECT epoch_us(w), {ahead} FROM (SELECT TIMESTAMP '{last + 1}-01-01' AS w)").fetchall()
    return [*((int(until), int(offset)) for until, offset in found), *((int(until), int(offset)) for until, offset in end)]
