"""SQL views: a SELECT over declared tables, run where nothing else can be reached.

The SELECT runs on an engine of its own that has a relation for each declared table and nothing else: it may read those tables' files, no other
file and no network, it may write nothing, and its configuration is locked before it sees the SELECT. What it says was looked at before, see
``check_view``. Its rows are streamed to the engine that asked for them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import InvalidInput, StepTimedOut, suggest, unknown
from endcap.core.names import quote
from endcap.core.settings import Settings, format_bytes
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.data.failures import reading
from endcap.loop.data.records import Ingest
from endcap.loop.data.sources import in_utc, local_time
from endcap.loop.features.checks import check_view
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER
from endcap.loop.features.view_sources import ALWAYS_SQL, OpenTable, later, micros, of_keys, open_table, plain_type

if TYPE_CHECKING:
    import duckdb

MOST_SECONDS = 3600.0
"""How long the SELECT of a view may run."""

_MEMORY_SHARE = 0.5  # of what an engine may hold: the engine that asked holds rows meanwhile
_SPILL_SHARE = 8  # times its memory: what a SELECT may spill to disk
_VIEW = "__selected"


def run_query(
    session: Session,
    view: FeatureView,
    *,
    folder: Path,
    ingests: Mapping[str, Ingest],
    engine: duckdb.DuckDBPyConnection,
    name: str,
    keys: str | None = None,
    tail: str = "",
    timeout_s: float = MOST_SECONDS,
) -> tuple[dict[str, str], dict[str, Ingest]]:
    """Run a SQL view's SELECT and keep its feature rows as the temporary table ``name`` of ``engine``.

    ``keys`` names a relation of ``engine`` with the keys that are wanted: of a view that says ``shard_by`` only rows of those shards are read from
    tables that have such a column. ``tail`` is a WHERE over the feature rows that leaves those to keep. Returns DuckDB's types of keys and
    features, and the ingests that were read. Raises DefinitionError for SQL that reads anything but the declared tables or is not the same when
    run again; InvalidInput for what does not bind, and for two rows of the same key, event time and known-at, since nothing says which of them
    counts; StepTimedOut for a SELECT that runs longer than ``timeout_s``. Cost: the SELECT's own; memory: a quarter of the memory limit, the rest is
    spilled, up to eight times as much.
    """
    with _own_engine(session.settings, n_threads=_threads(engine)) as own:
        tables = {
            table.name: open_table(session, table, folder=folder, engine=own, ingest=ingests.get(table.name)) for table in view.tables
        }
        check_view(view, columns={table: list(opened.source.columns) for table, opened in tables.items()})
        _name_tables(view, tables, own, shards=_read_shards(view, keys, engine))
        _lock(own, [file.path for opened in tables.values() for file in opened.source.files])
        with _limited(own, timeout_s, view=view), reading(view.name):
            sql, stored = _feature_rows(view, own, zone=_zone_of(view, tables, session))
            rows = own.execute(sql).to_arrow_reader(65_536)
            engine.register(f"{name}_rows", rows)
            try:
                engine.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM {name}_rows{tail}")
            finally:
                engine.unregister(f"{name}_rows")
    _require_unlike(view, name, engine)
    return stored, {opened.ingest.table: opened.ingest for opened in tables.values()}


@contextmanager
def _own_engine(settings: Settings, *, n_threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(settings, n_threads=n_threads) as own:
        (n_bytes,) = own.execute("SELECT value FROM duckdb_settings() WHERE name = 'memory_limit'").fetchone() or ("",)
        own.execute(f"SET memory_limit = '{n_bytes}'")
        yield own


def _threads(engine: duckdb.DuckDBPyConnection) -> int:
    (n,) = engine.execute("SELECT current_setting('threads')").fetchone() or (1,)
    return int(n)
