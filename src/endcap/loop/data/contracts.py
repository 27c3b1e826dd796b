"""Contracts: what a table's rows promised, checked in one scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from endcap.core.clock import describe_local
from endcap.core.definitions.tables import Check, Table
from endcap.core.durations import format_duration, parse_duration
from endcap.core.errors import DefinitionError
from endcap.core.names import quote, quote_text
from endcap.core.zones import load_zone
from endcap.loop.data.column_types import FILE, casts_to
from endcap.loop.data.failures import reading
from endcap.loop.data.file_sets import Span, join_spans
from endcap.loop.data.records import BrokenCheck
from endcap.loop.data.sources import EVENT_TIME, KNOWN_AT, Source

if TYPE_CHECKING:
    import duckdb
    import numpy as np

SHARED = "__shared_values"
_MOST_SAMPLES = 10
_MOST_HASHES = 250_000_000
_ALIKE = {"timestamp": ("timestamp", "date"), "number": ("number", "integer")}


@dataclass(frozen=True)
class ContractScan:
    """What one scan found. ``files`` gives the span of each file that has rows, by its path."""

    span: Span
    files: dict[str, Span]
    broken: list[BrokenCheck]


@dataclass(frozen=True)
class Ask:
    """One check over rows: ``condition`` holds for the rows that break it. ``always``: it is broken even by a table without rows."""

    check: str
    column: str | None
    condition: str
    shown: tuple[str, ...] = field(default=())
    always: bool = False


def check_contract(source: Source, *, engine: duckdb.DuckDBPyConnection, now: datetime) -> list[BrokenCheck]:
    """The promises that a table breaks, in the order of the checks; empty when all are kept. See ``scan_contract`` and ``check_fresh``."""
    scan = scan_contract(source, engine=engine, now=now)
    return [*scan.broken, *check_fresh(source.table, scan.span, zone=source.zone, now=now)]


def scan_contract(source: Source, *, engine: duckdb.DuckDBPyConnection, now: datetime, show: bool = True) -> ContractScan:
    """Check every promise, and find the rows' number and the ends of their event times.

    A promised type is kept by a column of that type, and by one whose every value is of it without loss: whole numbers with gaps,
    which pandas stores as fractions, are integers; a date is a timestamp, and timestamps at midnight are dates; any integer is a
    number. Text is never a number in Parquet; in CSV the rows whose text is none are counted. ``least`` and ``most`` promise a
    number. NaN counts as missing. ``unique``: a row with a missing value in one of the columns equals no other; all rows that
    share a value are counted. Text or an infinite time where an event time or known-at is expected is always refused; a missing
    time or key is not, unless the contract names it: such rows belong to no interval or series.

    ``now`` is an instant; ``show`` False counts the rows that break a check and shows none of them. Cost: one scan for all checks;
    ``unique`` a second and 8 bytes a row (sorted hashes, then an exact look at those that meet); each broken check one more for its sample.
    """
    table = source.table
    asks = ask_rows(source, now=now)
    files, counts = _count(source, asks, engine=engine)
    span = join_spans(files.values())
    broken = _broken_columns(source, span.n_rows)
    with reading(table, columns=source.columns):
        for ask, n in zip(asks, counts, strict=True):
            if n > 0 or ask.always:
                sample = _sample(source, ask.condition, ask.shown, engine=engine) if show and n > 0 else []
                broken.append(BrokenCheck(ask.check, ask.column, n, sample))
        broken += _check_unique(source, span.n_rows, engine=engine)
    return ContractScan(span, files, broken)


def ask_rows(source: Source, *, now: datetime) -> list[Ask]:
    """Every check that a row can break by itself, as conditions over ``source.sql``; null counts as kept."""
    return [*_ask_times(source, now), *_ask_columns(source)]


def check_fresh(table: Table, span: Span, *, zone: str, now: datetime) -> list[BrokenCheck]:
    """What ``fresh`` says of a table whose rows have that span: one broken check, or none. It compares instants, so changes of clocks do not count.

    Raises DefinitionError for a table that promises to be fresh and has no event time.
    """
    if table.contract.fresh is not None and table.event_time is None:
        raise DefinitionError(f"Table '{table.name}' promises to be fresh and has no event_time.", hint="declare event_time=...")
    if not is_stale(table, last_event=span.last_event, zone=zone, now=now):
        return []
    sample = [{"newest": describe_local(span.last_event), "now": f"{_local(now, zone):%Y-%m-%d %H:%M:%S}"}] if span.last_event else []
    return [BrokenCheck("fresh", None, span.n_rows, sample)]


def is_stale(table: Table, *, last_event: str | None, zone: str, now: datetime) -> bool:
    """Whether the newest row is older than the contract allows; a table without rows is never fresh. False where nothing is promised."""
    if table.contract.fresh is None:
        return False
    if last_event is None:
        return True
    newest = datetime.fromisoformat(last_event).replace(tzinfo=load_zone(zone))
    return now.astimezone(UTC) - newest.astimezone(UTC) > parse_duration(table.contract.fresh)


def describe_broken(check: BrokenCheck, *, table: Table, n_rows: int) -> str:
    """One line for a reader: the check, the column, how many rows, and one of them."""
    said = describe_promise(check.check, check.column, table=table)
    if check.check not in ("missing", "extra", "fresh", "volume"):
        said += f" in {check.n_rows:,} of {n_rows:,} rows"
    shown = ", ".join(f"{name}={value}" for name, value in check.sample[0].items()) if check.sample else ""
    return f"{said}{f', such as {shown}' if shown else ''}"


def describe_promise(check: str, column: str | None, *, table: Table) -> str:
    """What it means that a check is broken: its name and a sentence."""
    promised = table.contract.columns.get(column or "", Check())
    named = f"column {column!r}"
    fresh = format_duration(parse_duration(table.contract.fresh).total_seconds()) if table.contract.fresh else ""
    said = {
        "missing": f"{named} is not there",
        "extra": f"{named} is not in the contract",
        "type": f"{named} is not {promised.type or 'number'}",
        "nulls": f"{named} is missing",
        "infinite": f"{named} is infinite",
        "least": f"{named} is below {promised.least}",
        "most": f"{named} is above {promised.most}",
        "one_of": f"{named} is none of {list(promised.one_of or ())[:10]}",
        "unique": f"{list(table.contract.unique or ())} occur more than once",
        "event_time": f"event time {table.event_time!r} is no time",
        "known_at": f"known-at {table.known_at!r} is no time",
        "future": "event time is in the future",
        "fresh": f"the newest row is older than {fresh}",
        "line": "the line does not fit the header",
        "volume": "the number of rows is not what is usual",
    }[check]
    return f"{check}: {said}"


def _count(source: Source, asks: list[Ask], *, engine: duckdb.DuckDBPyConnection) -> tuple[dict[str, Span], list[int]]:
    """The span of each file, and how many rows break each check."""
    timed = source.table.event_time is not None
    ends = [
        f"replace(CAST({fold}({EVENT_TIME}) FILTER (WHERE isfinite({EVENT_TIME})) AS VARCHAR), ' ', 'T')" if timed else "NULL"
        for fold in ("min", "max")
    ]
    asked = ", ".join([FILE, "count(*)", *ends, *(f"count(*) FILTER (WHERE {ask.condition})" for ask in asks)])
    with reading(source.table, columns=source.columns):
        rows = engine.execute(f"SELECT {asked} FROM ({source.sql_by_file}) GROUP BY {FILE}").fetchall()
    return {row[0]: Span(*row[1:4]) for row in rows}, [sum(row[4 + i] for row in rows) for i in range(len(asks))]


def _broken_columns(source: Source, n_rows: int) -> list[BrokenCheck]:
    contract = source.table.contract
    named = [*contract.columns, *(name for name in contract.unique or () if name not in contract.columns)]
    present = {*source.columns, *_times(source)}
    broken = [BrokenCheck("missing", name, n_rows) for name in named if name not in present]
    if not contract.extra:
        known = {*named, *source.table.keys}
        broken += [BrokenCheck("extra", name, n_rows) for name in source.file_columns if name not in known]
    return broken


def _times(source: Source) -> list[str]:
    return [EVENT_TIME] * (source.table.event_time is not None) + [KNOWN_AT] * (source.table.known_at is not None)


def _ask_times(source: Source, now: datetime) -> list[Ask]:
    asks = []
    table = source.table
    for check, name, expression in (("event_time", EVENT_TIME, table.event_time), ("known_at", KNOWN_AT, table.known_at)):
        if expression is None:
            continue
        value = quote(expression) if expression in source.columns else f"({expression})"
        condition = f"(({value} IS NOT NULL AND {name} IS NULL) OR NOT isfinite({name}))"
        asks.append(Ask(check, expression if expression in source.columns else None, condition, (value,)))
    if table.event_time is not None and not table.contract.future:
        local = _local(now, source.zone).isoformat(sep=" ")
        condition = f"({EVENT_TIME} > TIMESTAMP {quote_text(local)} AND isfinite({EVENT_TIME}))"
        asks.append(Ask("future", None, condition, (EVENT_TIME,)))
    return asks


def _local(now: datetime, zone: str) -> datetime:
    return now.astimezone(load_zone(zone)).replace(tzinfo=None)


def _ask_columns(source: Source) -> list[Ask]:
    asks = []
    for name, check in source.table.contract.columns.items():
        if name in source.columns:
            asks += _ask_column(source, name, check)
    return asks


def _ask_column(source: Source, name: str, check: Check) -> list[Ask]:
    column, type_ = quote(name), source.columns[name]
    floating = source.stored_types[name] in ("FLOAT", "DOUBLE")
    promised = check.type or ("number" if check.least is not None or check.most is not None else None)
    missing = f"({column} IS NULL OR isnan({column}))" if floating else f"{column} IS NULL"
    asks = []
    if promised is not None:
        asks += _ask_type(source, name, promised)
    if not check.nulls:
        asks.append(Ask("nulls", name, missing, (column,)))
    number = _as_number(source, name)
    if number is None:
        return asks + _ask_one_of(name, check, type_)
    if promised in ("integer", "number") and (floating or type_ == "text"):
        asks.append(Ask("infinite", name, f"isinf({number})", (column,)))
    stored = source.stored_types[name]
    if check.least is not None:
        asks.append(Ask("least", name, f"({number} < {_limit(check.least, stored)})", (column,)))
    if check.most is not None:
        # NaN is greater than every number to DuckDB; it is missing, not too great.
        guard = f" AND NOT isnan({number})" if floating or type_ == "text" else ""
        asks.append(Ask("most", name, f"({number} > {_limit(check.most, stored)}{guard})", (column,)))
    return asks + _ask_one_of(name, check, type_)


def _ask_type(source: Source, name: str, promised: str) -> list[Ask]:
    column, type_ = quote(name), source.columns[name]
    if type_ in _ALIKE.get(promised, (promised,)):
        return []
    if promised == "integer" and type_ == "number":
        condition = f"(isfinite(CAST({column} AS DOUBLE)) AND {column} <> trunc({column}))"
        return [Ask("type", name, condition, (column,))]
    if promised == "date" and source.stored_types[name].startswith("TIMESTAMP"):
        return [Ask("type", name, f"(date_trunc('day', {column}) <> {column})", (column,))]
    if type_ == "text" and source.format == "csv" and name in source.file_columns:
        return [Ask("type", name, f"({column} IS NOT NULL AND NOT coalesce({casts_to(promised, column)}, false))", (column,))]
    return [Ask("type", name, f"{column} IS NOT NULL", (column,), always=True)]


def _as_number(source: Source, name: str) -> str | None:
    """The column as SQL that compares with numbers; None where it holds none."""
    type_ = source.columns[name]
    if type_ in ("integer", "number"):
        return quote(name)
    if type_ == "text" and source.format == "csv" and name in source.file_columns:
        return f"TRY_CAST({quote(name)} AS DOUBLE)"
    return None


def _limit(limit: float, stored: str) -> str:
    # A limit of 0.1 on a column of 32 bits means the 0.1 that such a column can hold.
    if stored == "FLOAT":
        return f"CAST({quote_text(repr(float(limit)))} AS FLOAT)"
    if float(limit).is_integer() and abs(limit) < 2**63:
        return str(int(limit))
    return f"CAST({quote_text(repr(float(limit)))} AS DOUBLE)"


def _ask_one_of(name: str, check: Check, type_: str) -> list[Ask]:
    if check.one_of is None:
        return []
    column = quote(name)
    if type_ in ("integer", "number") and all(isinstance(value, int) for value in check.one_of):
        inside, value = ", ".join(str(int(v)) for v in check.one_of), column
    else:
        inside, value = ", ".join(quote_text(str(v)) for v in check.one_of), f"CAST({column} AS VARCHAR)"
    outside = f"{value} NOT IN ({inside})" if inside else "true"
    condition = f"({column} IS NOT NULL AND {outside})"
    if type_ == "number":
        condition = f"({condition} AND NOT isnan(CAST({column} AS DOUBLE)))"
    return [Ask("one_of", name, condition, (column,))]


def _sample(source: Source, condition: str, shown: tuple[str, ...], *, engine: duckdb.DuckDBPyConnection) -> list[dict[str, str]]:
    parts: dict[str, str] = {key: quote(key) for key in source.table.keys}
    if source.table.event_time is not None:
        parts["event_time"] = EVENT_TIME
    for sql in shown:
        name = next((n for n in (*source.columns, *_times(source)) if sql in (n, quote(n))), "value")
        parts[{EVENT_TIME: "event_time", KNOWN_AT: "known_at"}.get(name, name)] = sql
    if source.table.personal:  # what is shown is kept, too; an expression may be made of anything
        told = {*(name for name in parts if name in source.columns and name not in source.table.columns), "event_time", "known_at"}
        parts = {name: sql if name in told - {*source.table.personal} else "'(personal)'" for name, sql in parts.items()}
    chosen = ", ".join(f"coalesce(CAST({sql} AS VARCHAR), 'null')" for sql in parts.values())
    rows = engine.execute(f"SELECT {chosen} FROM ({source.sql}) WHERE {condition} ORDER BY ALL LIMIT {_MOST_SAMPLES}").fetchall()
    return [{name: value if len(value) <= 200 else value[:197] + "..." for name, value in zip(parts, row, strict=True)} for row in rows]


def _check_unique(source: Source, n_rows: int, *, engine: duckdb.DuckDBPyConnection) -> list[BrokenCheck]:
    """Rows that share their values of the ``unique`` columns."""
    if not find_shared(source, n_rows, engine=engine):
        return []
    names = source.table.contract.unique or ()
    shown = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in names)
    rows = engine.execute(
        f"SELECT sum(__n) OVER (), CAST(__n AS VARCHAR), {shown} FROM {SHARED}"
        f" ORDER BY __n DESC, {', '.join(map(quote, names))} LIMIT {_MOST_SAMPLES}"
    ).fetchall()
    engine.execute(f"DROP TABLE {SHARED}")
    labels = [{EVENT_TIME: "event_time", KNOWN_AT: "known_at"}.get(name, name) for name in names]
    hidden = {*source.table.personal, *(source.table.columns if source.table.personal else ())}
    sample = [
        {**{label: "(personal)" if label in hidden else value for label, value in zip(labels, row[2:], strict=True)}, "rows": row[1]} for row in rows
    ]
    return [BrokenCheck("unique", None, int(rows[0][0]), sample)]


def find_shared(source: Source, n_rows: int, *, engine: duckdb.DuckDBPyConnection, where: str = "true") -> bool:
    """Whether rows share their values of the ``unique`` columns; if so those values stand in the table ``SHARED``, with the rows of each as ``__n``.

    ``where`` leaves rows out. A group-by of 100 M rows costs half a minute and gigabytes; sorting their 64-bit hashes takes seconds and 8
    bytes a row. Only rows whose hashes meet are then grouped by the values themselves, so the answer is exact.
    """
    names = source.table.contract.unique
    present = {*source.columns, *_times(source)}
    if not names or n_rows < 2 or any(name not in present for name in names):
        return False
    columns = ", ".join(quote(name) for name in names)
    whole = " AND ".join([f"({where})", *(f"{quote(name)} IS NOT NULL" for name in names)])
    n_parts = -(-n_rows // _MOST_HASHES)
    met = _find_met_hashes(f"SELECT hash({columns}) AS h FROM ({source.sql}) WHERE {whole}", n_parts=n_parts, engine=engine)
    if met.size == 0:
        return False
    import pyarrow as pa

    engine.register("__met_hashes", pa.table({"h": met}))
    try:
        ((n,),) = engine.execute(
            f"CREATE OR REPLACE TEMP TABLE {SHARED} AS SELECT {columns}, count(*) AS __n FROM ({source.sql}) WHERE {whole}"
            f" AND hash({columns}) IN (SELECT h FROM __met_hashes) GROUP BY {columns} HAVING count(*) > 1"
        ).fetchall()
    finally:
        engine.unregister("__met_hashes")
    return int(n) > 0


def _find_met_hashes(statement: str, *, n_parts: int, engine: duckdb.DuckDBPyConnection) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The hashes that occur more than once, in as many passes as keep each one's hashes within 2 GB."""
    import numpy as np

    found = []
    for part in range(n_parts):
        wanted = statement if n_parts == 1 else f"SELECT h FROM ({statement}) WHERE h % {n_parts} = {part}"
        hashes = np.asarray(engine.execute(wanted).fetchnumpy()["h"])
        hashes.sort()
        found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    return np.concatenate(found)
