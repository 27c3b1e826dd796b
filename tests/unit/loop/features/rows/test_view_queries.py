from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import EndcapError, InvalidInput, StepFailed, StepTimedOut
from endcap.core.settings import Settings
from endcap.loop.data.engine import open_engine
from endcap.loop.features.rows.view_queries import run_query
from endcap.loop.features.rows.view_rows import FeatureRows, open_view
from endcap.testing.sessions import make_session

if TYPE_CHECKING:
    import duckdb

    from endcap.governance.sessions import Session

SALES = Table("sales", "sales.parquet", keys=("store",), event_time="day", interval="0h", zone="Europe/Berlin", known_after="2h")
STORES = Table("stores", "stores.parquet", keys=("store",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    days = [datetime(2026, 1, day, 12) for day in (1, 1, 2)]  # noqa: DTZ001 - wall times
    pq.write_table(pa.table({"store": [1, 2, 1], "day": days, "units": [3, 5, 4]}), made / "sales.parquet")
    pq.write_table(pa.table({"store": [1, 2], "city": ["Bonn", "Köln"]}), made / "stores.parquet")
    (made / "secret.csv").write_text("word\nswordfish\n")
    return made


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(start=datetime(2026, 3, 1, tzinfo=UTC))


def make_view(sql: str, **fields: Any) -> FeatureView:
    return FeatureView(**{"name": "v", "sql": sql, "tables": (SALES, STORES), "keys": ("store",), "event_time": "day", **fields})


def rows_of(rows: FeatureRows) -> list[tuple[Any, ...]]:
    return rows.engine.execute(f"FROM ({rows.sql}) ORDER BY ALL").fetchall()


def test_a_select_gives_feature_rows(session: Session, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    view = make_view(
        "SELECT store, day, city, CAST(units AS DECIMAL(9, 2)) * 2 AS double FROM sales JOIN stores USING (store) -- all", known_after="1h"
    )
    rows = open_view(session, view, folder=folder, engine=engine)
    assert rows.key_types == {"store": "integer"}
    assert rows.feature_types == {"city": "text", "double": "number"}
    assert rows.stored_types == {"store": "BIGINT", "city": "VARCHAR", "double": "DOUBLE"}
    at = [datetime(2026, 1, day, 11) for day in (1, 2)]  # noqa: DTZ001 - noon in Berlin, in UTC
    known = [datetime(2026, 1, day, 13) for day in (1, 2)]  # noqa: DTZ001 - two hours later, as the table says
    assert rows_of(rows) == [
        (1, at[0], known[0], 0, "Bonn", 6.0),
        (1, at[1], known[1], 0, "Bonn", 8.0),
        (2, at[0], known[0], 0, "Köln", 10.0),
    ]
    assert set(rows.ingests) == {"sales", "stores"}


def test_facts_without_a_time_hold_for_ever(session: Session, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    view = make_view("SELECT store, city FROM stores", tables=(STORES,), event_time=None)
    found = rows_of(open_view(session, view, folder=folder, engine=engine))
    assert [(row[1].year, row[2].year, row[4]) for row in found] == [(1, 1, "Bonn"), (1, 1, "Köln")]


def test_a_select_is_run_once_for_each_engine_and_ingest(session: Session, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    view = make_view("SELECT store, day, units + 1 AS more FROM sales")
    one = open_view(session, view, folder=folder, engine=engine)
    assert open_view(session, view, folder=folder, engine=engine, ingests=one.ingests).sql == one.sql
    first, second, *_ = rows_of(one)
    engine.execute("CREATE OR REPLACE TEMP TABLE wanted AS SELECT 1 AS store")
    part = open_view(session, view, folder=folder, engine=engine, ingests=one.ingests, keys="wanted", span=(second[1], None))
    assert rows_of(part) == [second]
    assert first != second


def test_a_select_runs_over_its_shards_only(session: Session, folder: Path) -> None:
    # Of store 2 the SELECT would divide by zero: only the shard of store 1 is read.
    view = make_view("SELECT store, day, 60 // (5 - units) + (CASE WHEN units = 5 THEN error('read') ELSE 0 END) AS x FROM sales", shard_by="store")
    with open_engine(n_threads=1) as engine:
        engine.execute("CREATE TEMP TABLE wanted AS SELECT 1 AS store")
        rows = open_view(session, view, folder=folder, engine=engine, keys="wanted")
        assert [row[-1] for row in rows_of(rows)] == [30, 60]
        with pytest.raises(InvalidInput, match="read"):
            open_view(session, view, folder=folder, engine=engine)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY sales TO 'out.csv'",
        "COPY (SELECT 1) TO 'out.parquet'",
        "EXPORT DATABASE 'out'",
        "ATTACH 'x.db' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SET enable_external_access = true",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO sales VALUES (1, now(), 2)",
        "DROP VIEW sales",
        "CALL pragma_version()",
        "EXPLAIN SELECT * FROM sales",
        "DESCRIBE sales",
        "SELECT * FROM sales; SELECT * FROM stores",
        "SELECT * FROM sales; COPY sales TO 'out.csv'",
        "SELECT * FROM sales /* ; */; DROP VIEW sales --",
        "SELECT 1) UNION ALL SELECT * FROM (SELECT 2",
        "SELECT * FROM read_csv('secret.csv')",
        "SELECT * FROM read_csv_auto('/etc/passwd')",
        "SELECT content AS store FROM read_text('/etc/passwd')",
        "SELECT content AS store FROM read_blob('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM 'secret.csv'",
        'SELECT * FROM "secret.csv"',
        "SELECT * FROM 'sales.parquet'",
        "SELECT * FROM sales, (SELECT * FROM '/etc/passwd')",
        "SELECT store, day, (SELECT word FROM 'secret.csv') AS x FROM sales",
        "SELECT store, day, (SELECT max(content) FROM read_text('/etc/passwd')) AS x FROM sales",
        "WITH a AS (SELECT * FROM parquet_scan('stores.parquet')) SELECT * FROM a",
        "SELECT * FROM query('SELECT 1 AS store')",
        "SELECT * FROM query_table('sales')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM other.sales",
        "SELECT * FROM other.main.sales",
        "SELECT * FROM temp.main.sales",
        "SELECT * FROM v",
        "SELECT * FROM __selected",
        "SELECT * FROM features",
        "SELECT store, day, getenv('HOME') AS home FROM sales",
        "SELECT store, day, getvariable('x') AS home FROM sales",
        "SELECT store, day, current_setting('temp_directory') AS home FROM sales",
        "SELECT store, day, random() AS x FROM sales",
        "SELECT store, day, now() AS x FROM sales",
        "SELECT store, day, current_date AS x FROM sales",
        "SELECT store, day, uuid() AS x FROM sales",
        "SELECT store, day, ago(INTERVAL 1 DAY) AS x FROM sales",
        "SELECT store, day, units FROM sales USING SAMPLE 1",
        "SELECT store, day, units FROM sales TABLESAMPLE 50%",
        "SELECT store, day, ? AS x FROM sales",
        "SELECT store, day, pg_sleep(1) AS x FROM sales",
        "FROM sales SELECT store, day, nextval('s') AS x",
        "SELECT store, day, x FROM sales, range(nowhere) AS r(x)",
        "",
        "SELECT",
    ],
)
def test_a_select_reads_its_tables_and_nothing_else(
    sql: str, session: Session, folder: Path, engine: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(InvalidInput):
        open_view(session, make_view(sql), folder=folder, engine=engine)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    "attack",
    [
        "SELECT * FROM read_csv('secret.csv')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM 'secret.csv'",
        "COPY (SELECT 1) TO 'out.csv'",
        "ATTACH 'x.db' AS x",
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "SET lock_configuration = false",
        "RESET lock_configuration",
        "SET memory_limit = '100GB'",
    ],
)
def test_the_engine_itself_is_locked(
    attack: str, session: Session, folder: Path, engine: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Had what is said slipped through the look at it, the engine would still refuse it."""
    import duckdb

    from endcap.loop.features.rows import view_queries

    monkeypatch.chdir(folder)
    sales = (folder / "sales.parquet").read_bytes()
    met: list[str] = []

    def attack_first(view: FeatureView, own: duckdb.DuckDBPyConnection, *, zone: str) -> tuple[str, dict[str, str]]:
        with pytest.raises(duckdb.Error) as caught:
            own.execute(attack)
        met.append(str(caught.value))
        return feature_rows(view, own, zone=zone)

    feature_rows = view_queries._feature_rows
    monkeypatch.setattr(view_queries, "_feature_rows", attack_first)
    with open_engine(n_threads=1) as fresh:
        open_view(session, make_view("SELECT store, day, units FROM sales"), folder=folder, engine=fresh)
    assert len(met) == 1
    assert not (folder / "out.csv").exists()
    assert (folder / "sales.parquet").read_bytes() == sales


def test_a_recursion_without_an_end_is_stopped(session: Session, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    bomb = (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n > 0) SELECT 1 AS store, day, max(n) AS n FROM r, sales GROUP BY day"
    )
    with pytest.raises(StepTimedOut, match="longer than 300 ms"):
        run_query(session, make_view(bomb), folder=folder, ingests={}, engine=engine, only={}, timeout_s=0.3)


def test_a_select_that_needs_too_much_room_is_stopped(folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    small = make_session(start=datetime(2026, 3, 1, tzinfo=UTC))
    small = replace(small, settings=Settings(memory_limit=64 << 20))
    bomb = "SELECT a.range AS store, day, repeat('x', 200) || b.range AS text FROM sales, range(3000) a, range(3000) b ORDER BY text"
    with pytest.raises(StepFailed):
        open_view(small, make_view(bomb), folder=folder, engine=engine)


@pytest.mark.parametrize(
    ("sql", "fields", "said"),
    [
        ("SELECT store, day FROM sales", {}, "has no features"),
        ("SELECT store AS shop, day, units FROM sales", {}, "store"),
        ("SELECT store, day, units FROM sales", {"features": ["unit"]}, "unit"),
        ("SELECT store, units FROM sales", {}, "day"),
        ("SELECT store, day, [units] AS list FROM sales", {}, r"of type bigint\[\]"),
        ("SELECT units / 2 AS store, day, units FROM sales", {}, "the key 'store' of type double"),
        ("SELECT store, units AS day, units AS x FROM sales", {}, "no time"),
        ("SELECT store, day, units AS __order FROM sales", {}, "Endcap's own"),
        ("SELECT store, date '2026-01-01' AS day, units FROM sales", {}, "2 rows of store=1 for 2025-12-31 23:00:00 UTC"),
    ],
)
def test_what_does_not_fit_is_said(
    sql: str, fields: dict[str, Any], said: str, session: Session, folder: Path, engine: duckdb.DuckDBPyConnection
) -> None:
    with pytest.raises(EndcapError, match=said):
        open_view(session, make_view(sql, **fields), folder=folder, engine=engine)


def test_rows_become_known_when_the_select_says(session: Session, folder: Path, engine: duckdb.DuckDBPyConnection) -> None:
    view = make_view(
        "SELECT store, day, CASE WHEN units > 3 THEN day + INTERVAL 3 DAY END AS seen, units FROM sales", known_at="seen", known_after="1d"
    )
    known = [row[2] - row[1] for row in rows_of(open_view(session, view, folder=folder, engine=engine))]
    assert [wait.total_seconds() / 86_400 for wait in known] == [1, 3, 3]
