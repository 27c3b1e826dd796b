"""A view's tables, opened: the instants of their rows, their order of ingest, and expressions over them that read nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.durations import parse_duration
from endcap.core.errors import EndcapError, InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text
from endcap.governance.sessions import Session
from endcap.loop.data.column_types import FILE, PLACE, name_type
from endcap.loop.data.failures import reading
from endcap.loop.data.ingested import open_ingested
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.loop.data.sources import EVENT_AT, EVENT_TIME, KNOWN_AT, Source, bind
from endcap.loop.data.verbs import ingest as ingest_table
from endcap.loop.features.records import ALWAYS

if TYPE_CHECKING:
    import duckdb

Span = tuple[datetime | None, datetime | None]
"""The first and the last instant that are wanted, both included; None: unbounded."""

KEY_TYPES = ("text", "integer", "uuid", "date", "bool")
FEATURE_TYPES = ("bool", "integer", "number", "text", "date", "timestamp")
_ROWS_OF_A_FILE = 1 << 40
_MANY = 100  # rows; fewer midnights may be chance
ALWAYS_SQL = f"TIMESTAMP '{ALWAYS.isoformat(sep=' ')}'"


@dataclass(frozen=True)
class OpenTable:
    """A table of a view: its source, opened with places, the ingest it was read from, and SQL over ``source.sql_by_file``.

    ``event_at`` is the instant of a row (UTC): the end of the ``interval`` that it sums up. ``known_at`` is the one at which the table says that it
    became known, ``order`` its place in the order of ingest, in which ``files`` are too (see ``split_order``).
    """

    source: Source
    ingest: Ingest
    interval: timedelta
    event_at: str
    known_at: str
    order: str
    files: tuple[FileIdentity, ...]


def open_table(
    session: Session,
    table: Table,
    *,
    folder: Path,
    engine: duckdb.DuckDBPyConnection,
    ingest: Ingest | None,
    only: Sequence[FileIdentity] | None = None,
    folded: bool = False,
) -> OpenTable:
    """Open what an ingest let in (None: ingest the table now), or some files of it. ``folded`` says that windows fold the rows.

    Raises what ``ingest`` and ``open_ingested`` raise, and InvalidInput where rows that are folded may sum up a day or not, see ``_find_interval``.
    """
    found = ingest if ingest is not None else ingest_table(session, table, folder=folder)
    source = open_ingested(session, table, found, folder=folder, engine=engine, only=only, placed=True)
    _require_outside(session, source)
    interval = _find_interval(source, folded=folded)
    event_at = _end_sql(interval, source=source) if table.event_time is not None else ALWAYS_SQL
    hidden = micros(table.known_after) if table.event_time is not None else 0
    known_at = later(event_at, hidden)
    if table.known_at is not None:
        known_at = f"coalesce({KNOWN_AT}, {known_at})"
    files = _rank_files(session, source, found)
    return OpenTable(source, found, interval, event_at, known_at, _order(files), files)


def _require_outside(session: Session, source: Source) -> None:
    """Raise InvalidInput for a table whose files are the home's own: what other workspaces keep there is not this one's to read."""
    if source.table.is_landed or session.ports.folder is None:
        return
    home = session.ports.folder.resolve()
    if any(Path(file.path).resolve().is_relative_to(home) for file in source.files):
        raise InvalidInput(
            f"Table '{source.table.name}' reads files of the home itself ({home}), where all workspaces keep what they made.",
            hint="read features by their views, and predictions by ec.predictions(...)",
        )


def _find_interval(source: Source, *, folded: bool) -> timedelta:
    """What a row sums up, from its event time on: as the table says. Where it does not say, a date that is folded is a day, all else an instant.

    A window that ends at a midnight would hold the day that only begins there, if its rows were taken as instants. Raises InvalidInput where
    rows are folded and every one of a hundred and more stands at a midnight, since then nobody can tell which they are.
    """
    table = source.table
    if table.event_time is None:
        return timedelta()
    if table.interval is not None:
        return parse_duration(table.interval)
    if source.event_type == "DATE":
        return timedelta(days=1 if folded else 0)
    if folded and _stands_at_midnights(source):
        raise InvalidInput(
            f"Every row of table '{table.name}' is stamped midnight, and windows are folded over them: does each sum up the day that begins there?",
            hint="say interval='1d' of the table if it does, interval='0h' if a row is of the instant",
        )
    return timedelta()


def _stands_at_midnights(source: Source) -> bool:
    asked = f"count(*), bool_and({EVENT_TIME} = date_trunc('day', {EVENT_TIME}))"
    with reading(source.table):
        n, first = source.engine.execute(f"SELECT {asked} FROM (SELECT {EVENT_TIME} FROM ({source.sql}) LIMIT {_MANY})").fetchone() or (0, None)
        if n < _MANY or not first:
            return False
        _, every = source.engine.execute(f"SELECT {asked} FROM ({source.sql})").fetchone() or (0, None)
    return bool(every)


def _end_sql(interval: timedelta, *, source: Source) -> str:
    """SQL for the end of a row's interval; whole days end as the clocks of the zone show it."""
    if interval and not interval % timedelta(days=1):
        return source.in_utc(f"({EVENT_TIME} + INTERVAL {interval.days} DAY)")
    return later(EVENT_AT, round(interval.total_seconds() * 1_000_000))


def _order(files: Sequence[FileIdentity]) -> str:
    """A row's place in the order of ingest. The paths' places are looked up once for each batch of rows, since all are of one file."""
    if len(files) == 1:
        return f"CAST({PLACE} AS BIGINT)"
    paths = ", ".join(quote_text(file.path) for file in files)
    return f"list_position([{paths}], {FILE}) * CAST({_ROWS_OF_A_FILE} AS BIGINT) + CAST({PLACE} AS BIGINT)"


def split_order(order: NDArray[np.int64], *, n_files: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of places in the order of ingest of so many files the numbers of the files, from 0, and the places in them."""
    return order // _ROWS_OF_A_FILE - (n_files > 1), order % _ROWS_OF_A_FILE


def _rank_files(session: Session, source: Source, ingest: Ingest) -> tuple[FileIdentity, ...]:
    if len(source.files) == 1:
        return source.files
    facts = {file.path: (place, fact.ingest) for place, (file, fact) in enumerate(zip(ingest.files, ingest.facts, strict=True))}
    facts |= {file.sha256: facts[file.path] for file in ingest.files}  # the same bytes may lie elsewhere
    came = {fact.ingest for fact in ingest.facts}
    ranks: dict[str, int] = {}
    if len(came) > 1:
        records = session.records.find(INGESTS, workspace=session.workspace, where={"table": ingest.table})
        ranks = {record.id: rank for rank, record in enumerate(records) if record.id in came}

    def rank(path: str, sha256: str) -> tuple[int, int]:
        place, id_ = facts.get(path) or facts[sha256]
        return ranks.get(id_, -1), place

    return tuple(sorted(source.files, key=lambda file: rank(file.path, file.sha256)))


def clamp(table: OpenTable, known_after: str) -> str:
    """SQL for the instant a row is known for a view: as the table says, but not before ``known_after`` has gone by since its event time."""
    floor = micros(known_after)
    if not floor or table.source.table.event_time is None:
        return table.known_at
    if table.source.table.known_at is None:
        return later(table.event_at, max(floor, micros(table.source.table.known_after)))
    return f"greatest({table.known_at}, {later(table.event_at, floor)})"


def micros(duration: str) -> int:
    """A length of time in microseconds."""
    return round(parse_duration(duration).total_seconds() * 1_000_000)


def later(instant: str, n_us: int) -> str:
    """SQL for an instant so many microseconds later."""
    return instant if not n_us else f"({instant} + to_microseconds({n_us}))"


def plain(instant: datetime) -> str:
    """An instant as a SQL literal, a plain timestamp in UTC; one without a zone is in UTC already."""
    utc = instant.astimezone(UTC).replace(tzinfo=None) if instant.tzinfo is not None else instant
    return f"TIMESTAMP '{utc.isoformat(sep=' ')}'"


def key_column(source: Source, key: str, *, view: FeatureView) -> str:
    """The column of a key, quoted. Raises InvalidInput where the table has none, naming those it has."""
    if key not in source.columns:
        where = f"Feature view '{view.name}': table '{source.table.name}'"
        raise InvalidInput(unknown("column", key, source.columns, where=where), hint=suggest(key, source.columns))
    return quote(key)


def of_keys(view: FeatureView, wanted: str) -> str:
    """A condition: the row's keys stand in a relation that has columns of their names."""
    names = ", ".join(quote(key) for key in view.keys)
    return f"({names}) IN (SELECT ({names}) FROM {wanted})" if len(view.keys) > 1 else f"{names} IN (SELECT {names} FROM {wanted})"


def resolve_value(expression: str, source: Source, *, view: FeatureView, name: str) -> str:
    """SQL for a column or an expression over a table's columns. Raises InvalidInput, naming the feature, for what does not bind."""
    try:
        return source.resolve(expression)
    except InvalidInput as error:
        raise _of(view, f"feature '{name}'", error) from error


def resolve_condition(condition: str, source: Source, *, view: FeatureView) -> str:
    """SQL for a condition over a table's columns. Raises InvalidInput for what does not bind or is no condition."""
    try:
        sql = source.resolve(condition)
        type_ = bind(sql, relation=source.sql, columns=list(source.columns), table=source.table, engine=source.engine)
    except InvalidInput as error:
        raise _of(view, "where", error) from error
    if type_ != "BOOLEAN":
        raise InvalidInput(f"Feature view '{view.name}': where {condition!r} is of type {type_.lower()}, which is no condition.", hint="units > 0")
    return sql


def _of(view: FeatureView, what: str, error: EndcapError) -> InvalidInput:
    return InvalidInput(f"Feature view '{view.name}', {what}: {error.what}", hint=error.hint, **error.details)


def plain_type(type_: str, *, view: FeatureView, what: str, name: str) -> str:
    """The DuckDB type in which a column of feature rows travels.

    Instants become plain timestamps in UTC, decimals doubles, whole numbers that 64 bits may not hold BIGINT (one that does not fit fails when
    it is read), enums text. ``what`` is key or feature. Raises InvalidInput for a key that is neither text, integer, uuid, date nor bool, and
    for a feature of a type that Endcap has no name for.
    """
    allowed = KEY_TYPES if what == "key" else FEATURE_TYPES
    if name_type(type_) not in allowed:
        hint = "derive a column of such a type in the table: columns={...}" if what == "key" else "make text of it: CAST(column AS VARCHAR)"
        raise InvalidInput(
            f"Feature view '{view.name}' has the {what} {name!r} of type {type_.lower()}. Types of a {what}: {list(allowed)}.", hint=hint
        )
    if type_ in ("HUGEINT", "UHUGEINT", "UBIGINT", "BIGNUM"):
        return "BIGINT"
    if type_.startswith("DECIMAL"):
        return "DOUBLE"
    if type_.startswith("ENUM"):
        return "VARCHAR"
    return "TIMESTAMP" if type_.startswith("TIMESTAMP") else type_
