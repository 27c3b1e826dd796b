"""Sources: a table's files as one SELECT, with derived columns, local event times and the instants at which rows were known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text
from endcap.core.zones import load_zone
from endcap.loop.data.column_types import FILE, PLACE, ROW, Exclusion, KnownTypes, has_offset, name_type
from endcap.loop.data.csv_files import relate_csv
from endcap.loop.data.failures import reading
from endcap.loop.data.file_sets import span_of, subtract_files
from endcap.loop.data.parquet_files import relate_parquet
from endcap.loop.data.parts import find_landed
from endcap.loop.data.paths import DataFiles, find_files
from endcap.loop.data.records import FileIdentity, Ingest
from endcap.loop.data.wall_times import Years, quick_utc_sql, utc_sql

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

EVENT_TIME = "__event_time"
KNOWN_AT = "__known_at"
_UTC = ("UTC", "Etc/UTC")
EVENT_AT = "__event_at"


class OtherTypes(Exception):
    """Some files are not read as the other files of their table are."""


@dataclass(frozen=True)
class Source:
    """A table's rows, ready to be queried by the engine that opened it.

    ``columns`` gives Endcap's type of every column, first those of the files, then the derived ones (DuckDB's name in lower case
    for a type that Endcap has no name for); ``file_columns`` are the former, of which ``partitions`` are folders, ``stored_types``
    DuckDB's own types of all. ``sql`` is a SELECT of every column and, where declared, ``__event_time`` (local wall time in ``zone``)
    and ``__known_at`` (UTC), both plain timestamps. ``sql_by_file`` is the same with the path of each row's file in ``__file``; of a source
    opened with ``placed`` it also has ``__place``, the row's place in that file, and where there is an event time the instant of it (UTC) in
    ``__event_at``: a wall time that a change of clocks repeats is the later of both instants, one that it skips the instant at which a
    clock that was not changed would show it. Columns that nobody asks for cost nothing. ``event_type`` is DuckDB's type of the event time as
    the table declares it ('': it declares none). ``years`` are those in which event times lie, None where that is not known.
    """

    table: Table
    zone: str
    files: tuple[FileIdentity, ...]
    columns: dict[str, str]
    sql: str
    sql_by_file: str = field(repr=False)
    file_columns: tuple[str, ...]
    stored_types: dict[str, str]
    format: str  # parquet | csv
    partitions: tuple[str, ...]
    event_type: str
    years: Years | None
    engine: duckdb.DuckDBPyConnection = field(repr=False, compare=False)

    def in_utc(self, wall: str) -> str:
        """SQL for the instant (a plain timestamp in UTC) of a wall time of the table's zone."""
        if self.years is None:
            return utc_sql(wall, zone=self.zone)
        return quick_utc_sql(wall, zone=self.zone, years=self.years, engine=self.engine)

    def resolve(self, expression: str) -> str:
        """SQL for a column's name or an expression over the columns.

        A name of a column becomes a quoted identifier, whatever characters it holds; anything else is an expression, returned as
        it is once it has been bound against the table. Raises InvalidInput for an unknown column, naming those there are, or for
        what is no expression.
        """
        if expression in self.columns:
            return quote(expression)
        bind(expression, relation=self.sql, columns=list(self.columns), table=self.table, engine=self.engine)
        return expression


def open_source(
    table: Table,
    *,
    folder: Path,
    zone: str,
    engine: duckdb.DuckDBPyConnection,
    digests: Callable[[Path], FileIdentity],
    ingest: Ingest | None = None,
    only: Sequence[FileIdentity] | None = None,
    excluded: Callable[[Sequence[FileIdentity]], Exclusion | None] | None = None,
    placed: bool = False,
    landing: Path | None = None,
    unseal: Callable[[pa.Table], pa.Table] | None = None,
) -> Source:
    """Find a table's files, bind its expressions, and give it back as one SELECT.

    Times: ``event_time`` may be a date, a timestamp without a zone (wall time of ``zone``, kept as it stands: a time that a
    change of clocks skips or repeats is not moved, its day is what counts), a timestamp with a zone or ISO text with offsets (an
    instant, turned into the wall time of ``zone``; offsets may differ from row to row, text without one is wall time). Text that
    is no time becomes null, and ``check_contract`` counts it. ``known_at`` takes the same and becomes UTC; a wall time that
    occurs twice is the later of both instants.

    ``zone`` is where times without an offset are read unless the table says its own. ``digests`` gives the identity of a file.
    ``ingest`` reads what that ingest let in and nothing else: its files, though others may have come since, in the types that it found,
    so that CSV files are not scanned for them (None: all files there are, and what their values say). ``only`` reads some of the files,
    as ``new_files`` names them (None: all); with ``ingest`` they have the types of the whole table. ``excluded`` says which rows of files the
    ingest put aside (None: it put none aside); ``placed`` adds instants and places to ``sql_by_file`` (quicker with ``ingest``, which knows the
    years); ``landing`` is the home's folder of files that were fetched from databases, whose tables are read through an ingest alone;
    ``unseal`` opens those of them whose personal columns are sealed (None: there are none); ``open_ingested`` fills in all of these.

    Raises InvalidInput for files that are not there or cannot be read (``find_files``, ``relate_parquet``, ``relate_csv``), that are not as
    the ingest found them, a key that is no column, an expression that does not bind, or a time of another type. Cost: the footer of
    each Parquet file; without an ingest a scan of CSV files; nothing is kept.
    """
    files = replace(find_landed(table, ingest, landing=landing), unseal=unseal) if table.is_landed else find_files(table, folder=folder)
    if ingest is not None:
        files = _choose_ingested(files, ingest, table=table, digests=digests)
    identities = tuple(digests(path) for path in files.paths)
    if only is not None:
        absent = subtract_files(only, identities)
        if absent or not only:
            said = f"lacks {absent[0].path} as it was" if absent else "is to be read without any file"
            raise InvalidInput(f"Table '{table.name}' {said}.", hint="ingest it again, and ask for files of that ingest")
        others = {file.path for file in subtract_files(identities, only)}
        identities = tuple(file for file in identities if file.path not in others)
        files = replace(files, paths=tuple(Path(file.path) for file in identities))
    if table.contract.quarantine is not None and (ingest is None or any(f.n_quarantined for f in ingest.facts)) and excluded is None:
        raise InvalidInput(
            f"Table '{table.name}' puts bad rows aside, and which ones only its ingest knows.",
            hint="open it with open_ingested(session, table, ingest)",
        )
    known = KnownTypes(ingest.stored_types, fixed=True) if ingest is not None else None
    left_out = excluded(identities) if excluded is not None else None
    return open_files(table, files, identities, zone=zone, engine=engine, known=known, excluded=left_out, placed=placed, years=_years(ingest))


def open_files(
    table: Table,
    files: DataFiles,
    identities: tuple[FileIdentity, ...],
    *,
    zone: str,
    engine: duckdb.DuckDBPyConnection,
    known: KnownTypes | None = None,
    excluded: Exclusion | None = None,
    placed: bool = False,
    years: Years | None = None,
) -> Source:
    """The same for files that were found already.

    Raises OtherTypes where ``known`` are not fixed and the files have other columns, or columns that must be read in other types, unless
    the contract promises their type: then it is the rows that are wrong.
    """
    zone = table.zone or zone
    load_zone(zone)
    relate = relate_parquet if files.format == "parquet" else relate_csv
    base = relate(files, table=table, engine=engine, known=known, excluded=excluded, placed=placed)
    stored = _describe(base, table=table, engine=engine)
    file_columns = tuple(stored)
    if known is not None and not known.fixed:
        promised = {name for name, check in table.contract.columns.items() if check.type}
        told = {name: type_ for name, type_ in known.all_of(stored, promised={}).items() if name not in promised}
        if set(known.types) != set(stored) or any(stored[name] != type_ for name, type_ in told.items()):
            raise OtherTypes
    sql, stored = _derive(base, stored, table=table, engine=engine)
    for key in (*table.keys, *table.personal, *([table.subject] if table.subject is not None else [])):
        if key not in stored:
            raise InvalidInput(unknown("column", key, stored, where=f"Table '{table.name}'"), hint=suggest(key, stored))
    sql, event_type = _add_times(sql, list(stored), zone=zone, table=table, engine=engine, instants=placed, years=years)
    inner = [FILE, *([ROW] if excluded and excluded.marked else []), *([PLACE] if placed else [])]
    inner += [EVENT_AT] if placed and table.event_time is not None else []
    return Source(
        table=table,
        zone=zone,
        files=identities,
        columns={name: name_type(type_) for name, type_ in stored.items()},
        sql=f"SELECT * EXCLUDE ({', '.join(inner)}) FROM ({sql})",
        sql_by_file=sql,
        file_columns=file_columns,
        stored_types=stored,
        format=files.format,
        partitions=files.partitions,
        event_type=event_type,
        years=years,
        engine=engine,
    )


def _years(ingest: Ingest | None) -> Years | None:
    """The years in which the rows of an ingest lie; None where that is not known."""
    span = span_of(ingest.facts) if ingest is not None else None
    if span is None or span.first_event is None or span.last_event is None:
        return None
    return int(span.first_event[:4]), int(span.last_event[:4])


def _choose_ingested(files: DataFiles, ingest: Ingest, *, table: Table, digests: Callable[[Path], FileIdentity]) -> DataFiles:
    """The files that an ingest let in: at their own paths, or the same bytes elsewhere."""
    if ingest.status != "accepted":
        raise InvalidInput(f"Ingest '{ingest.id}' of table '{table.name}' was refused; nothing may be read of it.")
    if table.is_landed:
        return _require_landed(files, ingest, table=table, digests=digests)
    then, found = {Path(file.path): file.sha256 for file in ingest.files}, set(files.paths)
    if set(then) <= found:
        changed = [path for path, sha256 in then.items() if digests(path).sha256 != sha256]
        paths = tuple(path for path in files.paths if path in then)
    else:
        same = sorted(digests(path).sha256 for path in files.paths) == sorted(then.values())
        changed, paths = [] if same else sorted(set(then) - found), files.paths
    if changed:
        raise InvalidInput(
            f"Table '{table.name}': {changed[0]} is not as ingest '{ingest.id}' found it.", hint="it changed meanwhile, or is gone: ingest it again"
        )
    return replace(files, paths=paths)


def _require_landed(files: DataFiles, ingest: Ingest, *, table: Table, digests: Callable[[Path], FileIdentity]) -> DataFiles:
    """Files that only Endcap writes: whatever folder the home is in now, each holds what it held."""
    then = {file.sha256 for file in ingest.files}
    changed = next((path for path in files.paths if digests(path).sha256 not in then), None)
    if changed is not None:
        raise IntegrityBroken(f"Table '{table.name}': {changed} was changed at rest.", hint=f"remove {changed.parent}: the rows are read again")
    return files


def bind(expression: str, *, relation: str, columns: list[str], table: Table, engine: duckdb.DuckDBPyConnection) -> str:
    """The DuckDB type of an expression over a relation, without reading rows.

    Raises InvalidInput for an unknown column or anything but one expression.
    """
    # Twice, since each form stops what the other would let pass: in parentheses `a, b` is a row of two, in a cast `a AS INT) --` is whole.
    statement = f"DESCRIBE SELECT ({expression}\n) AS __bound, CAST({expression} AS VARCHAR) AS __text FROM ({relation})"
    with reading(table, columns=columns):
        if len(engine.extract_statements(statement)) != 1:
            raise InvalidInput(f"Table '{table.name}': {expression!r} is not one expression.")
        rows = engine.execute(statement).fetchall()
    return str(rows[0][1])


def _describe(relation: str, *, table: Table, engine: duckdb.DuckDBPyConnection) -> dict[str, str]:
    with reading(table):
        stored = {row[0]: row[1] for row in engine.execute(f"DESCRIBE {relation}").fetchall()}
    for name in stored:
        if name.lower() in (EVENT_TIME, KNOWN_AT, EVENT_AT):
            raise InvalidInput(f"The files of table '{table.name}' have a column '{name}'; the name is Endcap's own.", hint="rename it")
    for name in (FILE, PLACE, ROW):
        stored.pop(name, None)
    return stored


def _derive(base: str, stored: dict[str, str], *, table: Table, engine: duckdb.DuckDBPyConnection) -> tuple[str, dict[str, str]]:
    if not table.columns:
        return base, stored
    taken = {name.lower() for name in (*stored, EVENT_TIME, KNOWN_AT, EVENT_AT, FILE, PLACE, ROW)}
    types = dict(stored)
    parts = []
    for name, expression in table.columns.items():
        if name.lower() in taken:
            raise InvalidInput(
                f"Table '{table.name}' derives the column {name!r}, which its files have already.",
                hint="give the derived column another name",
            )
        taken.add(name.lower())
        sql = quote(expression) if expression in stored else expression
        types[name] = bind(sql, relation=base, columns=list(stored), table=table, engine=engine)
        parts.append(f"({sql}) AS {quote(name)}")
    return f"SELECT *, {', '.join(parts)} FROM ({base})", types


def _add_times(
    sql: str, columns: list[str], *, zone: str, table: Table, engine: duckdb.DuckDBPyConnection, instants: bool, years: Years | None
) -> tuple[str, str]:
    """The rows with their times, and DuckDB's type of the event time ('': there is none)."""
    times, event_type, event_at = [], "", ""
    for what, name, expression in (("event_time", EVENT_TIME, table.event_time), ("known_at", KNOWN_AT, table.known_at)):
        if expression is None:
            continue
        value = quote(expression) if expression in columns else expression
        type_ = bind(value, relation=sql, columns=columns, table=table, engine=engine)
        local = local_time(f"({value})", type_, zone=zone, what=f"Table '{table.name}' {what} {expression!r}")
        if name == EVENT_TIME:
            event_type = type_
            event_at = in_utc(EVENT_TIME, f"({value})", type_, zone=zone, years=years, engine=engine) if instants else ""
        else:
            local = in_utc(local, f"({value})", type_, zone=zone, years=years, engine=engine)
        times.append(f"{local} AS {name}")
    sql = f"SELECT *, {', '.join(times)} FROM ({sql})" if times else sql
    return f"SELECT *, {event_at} AS {EVENT_AT} FROM ({sql})" if event_at else sql, event_type


def local_time(value: str, type_: str, *, zone: str, what: str) -> str:
    """SQL for the wall time in a zone of a time of DuckDB's type ``type_``. Raises InvalidInput, saying ``what``, for what is no time."""
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return _utc(value) if zone in _UTC else f"CAST(timezone({quote_text(zone)}, {value}) AS TIMESTAMP)"
    if name_type(type_) in ("date", "timestamp"):
        return f"CAST({value} AS TIMESTAMP)"
    if name_type(type_) == "text":
        text = f"CAST({value} AS VARCHAR)"
        return (
            f"CASE WHEN {has_offset(text)} THEN CAST(timezone({quote_text(zone)}, TRY_CAST({text} AS TIMESTAMPTZ)) AS TIMESTAMP)"
            f" ELSE TRY_CAST({text} AS TIMESTAMP) END"
        )
    hint = None
    if name_type(type_) in ("integer", "number"):
        hint = "say what it counts: to_timestamp(column) for seconds since 1970, epoch_ms(column), make_date(year, month, day)"
    raise InvalidInput(f"{what} is of type {name_type(type_)}, which is no time.", hint=hint)


def in_utc(local: str, value: str, type_: str, *, zone: str, years: Years | None, engine: duckdb.DuckDBPyConnection) -> str:
    """SQL for the instant (UTC) of a time, given as it is and as the zone's wall time."""
    if zone in _UTC:
        from_wall = local
    elif years is not None:
        from_wall = quick_utc_sql(local, zone=zone, years=years, engine=engine)
    else:
        from_wall = utc_sql(local, zone=zone)
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return _utc(value)
    if name_type(type_) == "text":
        text = f"CAST({value} AS VARCHAR)"
        return f"CASE WHEN {has_offset(text)} THEN timezone('UTC', TRY_CAST({text} AS TIMESTAMPTZ)) ELSE {from_wall} END"
    return from_wall


def _utc(value: str) -> str:
    """An instant as a plain timestamp in UTC. Zones are looked up row by row, which takes longer than reading the rows; UTC needs no looking up."""
    return f"CASE WHEN isfinite({value}) THEN make_timestamp(epoch_us({value})) ELSE CAST(timezone('UTC', {value}) AS TIMESTAMP) END"
