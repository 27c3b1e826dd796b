"""Volumes: keys that sent nothing, or far fewer or more rows than is usual for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table, Volume
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text
from endcap.core.zones import load_zone
from endcap.governance.privacy.rights import HIDDEN
from endcap.loop.data.failures import reading
from endcap.loop.data.records import FileFacts, FileIdentity, KeyVolume, VolumeDoubt
from endcap.loop.data.sources import EVENT_TIME, Source

if TYPE_CHECKING:
    import duckdb

_MOST_NAMED = 48
_WEEK = timedelta(days=7)


def judged_interval(table: Table, *, last_event: str | None, zone: str, now: datetime) -> datetime | None:
    """The local start of the newest interval that is over and has rows in the table; None for a table without rows.

    An interval is over when ``known_after`` has passed since its end.
    """
    volume = table.contract.volume
    if volume is None or last_event is None:
        return None
    length = parse_duration(volume.every)
    over = (now - parse_duration(table.known_after)).astimezone(load_zone(zone)).replace(tzinfo=None)
    return min(_start(over, length) - length, _start(datetime.fromisoformat(last_event), length))


def files_within(files: Sequence[FileIdentity], facts: Sequence[FileFacts], *, volume: Volume, interval: datetime) -> tuple[FileIdentity, ...]:
    """The files with event times in the interval or in the weeks before it that say what is usual."""
    first, end = interval - volume.weeks * _WEEK, interval + parse_duration(volume.every)
    return tuple(
        file
        for file, known in zip(files, facts, strict=True)
        if known.first_event is not None
        and known.last_event is not None
        and datetime.fromisoformat(known.first_event) < end
        and datetime.fromisoformat(known.last_event) >= first
    )


def check_volume(source: Source, *, interval: datetime, first_event: str, engine: duckdb.DuckDBPyConnection) -> list[VolumeDoubt]:
    """The keys whose number of rows in an interval is unusual: none, few, many; empty where all is as usual.

    Weeks before ``first_event``, the table's own, do not count; without a whole week nothing is usual yet. A key is judged when the median
    of its weeks is above 0. Rows with a missing key are left out. Raises InvalidInput for a column that is not there. Cost: one scan of
    the keys and times of the rows since the first of the weeks.
    """
    table, volume = source.table, source.table.contract.volume
    assert volume is not None, "the caller has looked"
    for name in volume.by:
        if name not in source.columns:
            raise InvalidInput(unknown("column", name, source.columns, where=f"Table '{table.name}'"), hint=suggest(name, source.columns))
    n_weeks = min(volume.weeks, (interval - _start(datetime.fromisoformat(first_event), parse_duration(volume.every))) // _WEEK)
    if n_weeks < 1:
        return []
    with reading(table, columns=source.columns):
        rows = engine.execute(_statement(source, volume, interval=interval, n_weeks=n_weeks)).fetchall()
    hidden = {*table.personal, *(table.columns if table.personal else ())}
    judged = [
        KeyVolume({name: HIDDEN if name in hidden else key for name, key in zip(volume.by, row[2:], strict=True)}, int(row[0]), float(row[1]))
        for row in rows
    ]
    found = {
        "nothing": [key for key in judged if key.n_rows == 0],
        "few": [key for key in judged if 0 < key.n_rows < volume.least * key.usual],
        "many": [key for key in judged if key.n_rows > volume.most * key.usual],
    }
    return [
        VolumeDoubt(
            what=what,
            every=volume.every,
            interval=interval.isoformat(),
            n_keys=len(judged),
            n_doubted=len(keys),
            sample=sorted(keys, key=lambda key: (-key.usual, tuple(key.key.values())))[:_MOST_NAMED],
        )
        for what, keys in found.items()
        if keys
    ]


def _statement(source: Source, volume: Volume, *, interval: datetime, n_weeks: int) -> str:
    hourly = parse_duration(volume.every) < timedelta(days=1)
    unit, in_week = ("hour", 168) if hourly else ("day", 7)
    start, first, end = (
        f"TIMESTAMP {quote_text(moment.isoformat(sep=' '))}"
        for moment in (interval, interval - n_weeks * _WEEK, interval + parse_duration(volume.every))
    )
    keys = [quote(name) for name in volume.by]
    present = " AND ".join([f"{EVENT_TIME} >= {first}", f"{EVENT_TIME} < {end}", *(f"{key} IS NOT NULL" for key in keys)])
    named = "".join(f", {key}" for key in keys)
    shown = "".join(f", CAST({key} AS VARCHAR)" for key in keys)
    slot = f"date_diff('{unit}', date_trunc('{unit}', {EVENT_TIME}), {start})"
    past = "list(__n) FILTER (WHERE __week > 0)"
    # A week without a row is one with none, not one that is missing.
    usual = f"list_aggregate(list_resize(__past, {n_weeks}, 0), 'median')"
    return (
        f"WITH slots AS (SELECT {slot} AS __slot{named} FROM ({source.sql}) WHERE {present}),"
        f" weeks AS (SELECT __slot // {in_week} AS __week, count(*) AS __n{named} FROM slots WHERE __slot % {in_week} = 0 GROUP BY ALL),"
        f" sent AS (SELECT coalesce(max(__n) FILTER (WHERE __week = 0), 0) AS __n, {past} AS __past{named} FROM weeks GROUP BY ALL),"
        f" usual AS (SELECT __n, {usual} AS __usual{named} FROM sent)"
        f" SELECT __n, __usual{shown} FROM usual WHERE __usual > 0"
    )


def _start(moment: datetime, length: timedelta) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0) if length < timedelta(days=1) else datetime.combine(moment.date(), time())
