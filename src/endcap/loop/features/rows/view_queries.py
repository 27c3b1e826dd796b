"""SQL views: a SELECT over declared tables, run where nothing else can be reached.

The SELECT runs on an engine of its own that has a relation for each declared table and nothing else: it may read those tables' files, no other
file and no network, it may write nothing, and its configuration is locked before it sees the SELECT. What it says was looked at before, see
``check_view``. Its rows are streamed to the engine that asked for them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.durations import format_duration
from endcap.core.errors import DefinitionError, EndcapError, InvalidInput, StepTimedOut, suggest, unknown
from endcap.core.identity import identify
from endcap.core.names import quote, quote_text
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.data.engine import ENGINE_SHARE, open_engine
from endcap.loop.data.failures import reading
from endcap.loop.data.records import FileIdentity, Ingest
from endcap.loop.data.sources import in_utc, local_time
from endcap.loop.features.checks import check_view
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER
from endcap.loop.features.rows.view_sources import ALWAYS_SQL, OpenTable, later, micros, open_table, plain_type
from endcap.pipelines.machine import limit_memory

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MOST_SECONDS = 3600.0
"""How long the SELECT of a view may run."""

_BATCH_ROWS = 65_536
_SPILL_SHARE = 8  # times its memory: what a SELECT may spill to disk
_VIEW = "__selected"


def run_query(
    session: Session,
    view: FeatureView,
    *,
    folder: Path,
    ingests: Mapping[str, Ingest],
    engine: duckdb.DuckDBPyConnection,
    only: Mapping[str, Sequence[FileIdentity]],
    keys: str | None = None,
    timeout_s: float = MOST_SECONDS,
) -> tuple[str, dict[str, str], dict[str, Ingest]]:
    """Run a SQL view's SELECT and keep its feature rows as a temporary table of ``engine``, where it is found again as long as the engine lives.

    ``ingests`` and ``only`` are as in ``open_view``. ``keys`` names a relation of ``engine`` with the keys that are wanted: of a view that says
    ``shard_by``, only rows of those shards are read from tables that have such a column. Returns the table's name, DuckDB's types of keys and
    features, and the ingests that were read. A row becomes known at the view's ``known_at``, or else the longest ``known_after`` of view and tables
    after its event time.

    Raises DefinitionError for SQL that ``check_view`` refuses; InvalidInput for what does not bind, and for two rows of the same key, event time and
    known-at, since nothing says which of them counts; StepTimedOut for a SELECT that runs longer than ``timeout_s``, StepFailed for one that needs
    more than its memory and eight times as much on disk. Cost: the SELECT's own; memory: a quarter of the memory limit.
    """
    check_view(view, columns={})  # before anything is read for it
    shards = keys if view.shard_by is not None else None
    with _own_engine(session.settings, engine) as own:
        tables = {
            table.name: open_table(session, table, folder=folder, engine=own, ingest=ingests.get(table.name), only=only.get(table.name))
            for table in view.tables
        }
        found = {opened.ingest.table: opened.ingest for opened in tables.values()}
        name = _name_result(view, tables)
        standing = _stored_types(name, engine)
        if standing is not None:
            return name, standing, found
        name += _number_shards(name, engine) if shards is not None else ""
        _name_tables(view, tables, own, shards=_read_shards(view, shards, engine))
        _lock(own, [file.path for opened in tables.values() for file in opened.source.files])
        with _limited(own, timeout_s, view=view), reading(view):
            sql, stored = _feature_rows(view, own, zone=_zone_of(view, tables))
            rows = own.sql(sql).to_arrow_reader(_BATCH_ROWS)
            engine.register(f"{name}_rows", rows)
            try:
                engine.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM {name}_rows")
            finally:
                engine.unregister(f"{name}_rows")
    _require_unlike(view, name, engine)
    return name, stored, found


def _name_result(view: FeatureView, tables: Mapping[str, OpenTable]) -> str:
    """By what was read: the same is not run twice."""
    files = {name: [file.sha256 for file in opened.source.files] for name, opened in tables.items()}
    return f"__selected_{view.version}_{identify(files, [opened.ingest.id for opened in tables.values()])[:12]}"


def _number_shards(name: str, engine: duckdb.DuckDBPyConnection) -> str:
    ((n,),) = engine.execute("SELECT count(*) FROM duckdb_tables() WHERE starts_with(table_name, ?)", [f"{name}_"]).fetchall()
    return f"_{n}"


def _stored_types(name: str, engine: duckdb.DuckDBPyConnection) -> dict[str, str] | None:
    rows = engine.execute("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [name]).fetchall()
    return {column: type_ for column, type_ in rows if column not in (EVENT_AT, KNOWN_AT, ORDER)} or None


@contextmanager
def _own_engine(settings: Settings, asking: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine with half the memory, since the engine that asks holds the rows meanwhile."""
    ((n_threads,),) = asking.execute("SELECT CAST(current_setting('threads') AS BIGINT)").fetchall()
    n_bytes = int(limit_memory(settings) * ENGINE_SHARE / 2)
    with open_engine(settings, n_threads=n_threads) as own:
        own.execute(f"SET memory_limit = '{n_bytes}B'")
        own.execute(f"SET max_temp_directory_size = '{n_bytes * _SPILL_SHARE}B'")
        yield own


def _read_shards(view: FeatureView, keys: str | None, engine: duckdb.DuckDBPyConnection) -> pa.Table | None:
    """The shards of the keys that are wanted; None: all."""
    if keys is None or view.shard_by is None:
        return None
    return engine.sql(f"SELECT DISTINCT {quote(view.shard_by)} AS shard FROM {keys}").to_arrow_table()


def _name_tables(view: FeatureView, tables: Mapping[str, OpenTable], own: duckdb.DuckDBPyConnection, *, shards: pa.Table | None) -> None:
    """A relation for each table by its name: its columns and nothing else."""
    if shards is not None:
        own.register("__shards_given", shards)
        own.execute("CREATE TEMP TABLE __shards AS SELECT shard FROM __shards_given")
        own.unregister("__shards_given")
    for name, opened in tables.items():
        columns = {column.lower(): column for column in opened.source.columns}
        shard = columns.get(view.shard_by.lower()) if view.shard_by is not None and shards is not None else None
        tail = f" WHERE {quote(shard)} IN (SELECT shard FROM __shards)" if shard is not None else ""
        own.execute(f"CREATE TEMP VIEW {quote(name)} AS SELECT {', '.join(map(quote, columns.values()))} FROM ({opened.source.sql}){tail}")


def _lock(own: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    """From here on the engine reads these files and no other, writes none, and nobody says otherwise."""
    own.execute(f"SET allowed_paths = [{', '.join(map(quote_text, paths))}]")
    own.execute("SET enable_external_access = false")
    own.execute("SET lock_configuration = true")


@contextmanager
def _limited(own: duckdb.DuckDBPyConnection, timeout_s: float, *, view: FeatureView) -> Iterator[None]:
    """Stop what runs longer. Raises StepTimedOut then."""
    import duckdb

    over = threading.Event()

    def stop() -> None:
        over.set()
        own.interrupt()

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (duckdb.Error, EndcapError) as error:
        if over.is_set():
            said = f"The SELECT of feature view '{view.name}' ran longer than {format_duration(timeout_s)}."
            raise StepTimedOut(said, hint="look for a join without a condition, or a recursion without an end") from error
        raise
    finally:
        timer.cancel()


def _zone_of(view: FeatureView, tables: Mapping[str, OpenTable]) -> str:
    return view.zone or next(iter(tables.values())).source.zone


def _feature_rows(view: FeatureView, own: duckdb.DuckDBPyConnection, *, zone: str) -> tuple[str, dict[str, str]]:
    """The SELECT of the view's feature rows over its own SELECT, and DuckDB's types of keys and features."""
    import duckdb

    assert view.sql is not None, "the caller has looked"
    statements = own.extract_statements(view.sql)
    if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
        raise DefinitionError(f"The sql of feature view '{view.name}' is not one SELECT.", hint="a view's sql is one SELECT")
    own.execute(f"CREATE TEMP VIEW {_VIEW} AS {view.sql}")
    given = {row[0]: row[1] for row in own.execute(f"DESCRIBE SELECT * FROM {_VIEW}").fetchall()}
    names = {name.lower(): name for name in given}
    for key in view.keys:
        if key.lower() not in names:
            raise InvalidInput(unknown("column", key, given, where=f"The sql of feature view '{view.name}'"), hint=suggest(key, given))
    event_at, known_at = _times(view, own, names, zone=zone)
    columns = {key: quote(names[key.lower()]) for key in view.keys}
    columns |= {name: _resolve(feature.column, names) for name, feature in view.features.items()}
    if not view.features:
        taken = {name.lower() for name in (*view.keys, view.event_time, view.known_at) if name is not None}
        columns |= {name: quote(name) for name in given if name.lower() not in taken}
    if len(columns) == len(view.keys):
        raise InvalidInput(f"Feature view '{view.name}' has no features: its sql gives keys and times only.", hint="add a column to the SELECT")
    for name in given if not view.features else ():
        if name.lower() in (EVENT_AT, KNOWN_AT, ORDER):
            raise InvalidInput(f"The sql of feature view '{view.name}' gives a column {name!r}; the name is Endcap's own.", hint="name it otherwise")
    select = ", ".join([f"{event_at} AS {EVENT_AT}", *(f"({sql}\n) AS {quote(name)}" for name, sql in columns.items())])
    types = {row[0]: row[1] for row in own.execute(f"DESCRIBE SELECT {select} FROM {_VIEW}").fetchall()}
    stored = {name: plain_type(types[name], view=view, what="key" if name in view.keys else "feature", name=name) for name in columns}
    cast = {name: f"({sql}\n)" if stored[name] == types[name] else f"CAST(({sql}\n) AS {stored[name]})" for name, sql in columns.items()}
    parts = [f"{cast[name]} AS {quote(name)}" for name in view.keys]
    parts += [f"{event_at} AS {EVENT_AT}", f"{known_at} AS {KNOWN_AT}", f"CAST(0 AS BIGINT) AS {ORDER}"]
    parts += [f"{cast[name]} AS {quote(name)}" for name in columns if name not in view.keys]
    present = [*(f"{quote(names[key.lower()])} IS NOT NULL" for key in view.keys), f"isfinite({event_at})"]
    return f"SELECT {', '.join(parts)} FROM {_VIEW} WHERE {' AND '.join(present)}", stored


def _resolve(text: str, names: Mapping[str, str]) -> str:
    return quote(names[text.lower()]) if text.lower() in names else text


def _times(view: FeatureView, own: duckdb.DuckDBPyConnection, names: Mapping[str, str], *, zone: str) -> tuple[str, str]:
    """SQL for the instants that a row is about and from which it was known."""
    found = {}
    for what, expression in (("event_time", view.event_time), ("known_at", view.known_at)):
        if expression is None:
            continue
        value = f"({_resolve(expression, names)}\n)"
        ((_, type_, *_),) = own.execute(f"DESCRIBE SELECT {value} AS __value FROM {_VIEW}").fetchall()
        local = local_time(value, type_, zone=zone, what=f"Feature view '{view.name}' {what} {expression!r}")
        found[what] = in_utc(local, value, type_, zone=zone, years=None, engine=own)
    event_at = found.get("event_time", ALWAYS_SQL)
    # A table whose rows are known by their own instants must be asked for them in the SELECT: nothing here can know which row came of which.
    hidden = max(micros(view.known_after), *(micros(table.known_after) for table in view.tables)) if view.event_time is not None else 0
    known_at = later(event_at, hidden)
    if view.known_at is not None:
        known_at = f"greatest(coalesce({found['known_at']}, {known_at}), {later(event_at, micros(view.known_after) if view.event_time else 0)})"
    return event_at, known_at


def _require_unlike(view: FeatureView, name: str, engine: duckdb.DuckDBPyConnection) -> None:
    """Raise InvalidInput for two rows that only their features tell apart; the table is dropped then."""
    alike = ", ".join([*map(quote, view.keys), EVENT_AT, KNOWN_AT])
    rows = engine.execute(f"SELECT {alike}, count(*) FROM {name} GROUP BY {alike} HAVING count(*) > 1 LIMIT 1").fetchall()
    if not rows:
        return
    (found,) = rows
    engine.execute(f"DROP TABLE {name}")
    hidden = find_marks(view)
    keys = ", ".join(key if key in hidden else f"{key}={value!r}" for key, value in zip(view.keys, found, strict=False))
    raise InvalidInput(
        f"Feature view '{view.name}' gives {found[-1]} rows of {keys} for {found[-3]} UTC, known at {found[-2]} UTC: nothing says which counts.",
        hint="GROUP BY the keys and the time, or say which instant each row was known at: known_at=...",
    )
