from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from math import inf, isnan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import EndcapError, InvalidInput, Unreachable
from endcap.core.names import quote
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.data.connectors.addresses import read_address
from endcap.loop.data.connectors.postgres import PostgresConnector, _expression, quote_relation
from endcap.loop.data.connectors.relations import Mark, Relation
from endcap.loop.data.engine import open_engine
from endcap.loop.data.ingested import open_ingested
from endcap.loop.data.verbs import ingest
from endcap.testing.postgres import PostgresServer
from endcap.testing.sessions import make_session

START = datetime(2030, 1, 5, 8, tzinfo=UTC)
COUNT = itertools.count(1)

Run = Callable[[str], str]


@pytest.fixture
def schema(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A schema of the test's own; the variables name the server and its password."""
    name = f"shop_{next(COUNT)}"
    postgres.execute(f"CREATE SCHEMA {name}")
    monkeypatch.setenv("SHOP_PASSWORD", postgres.password)
    monkeypatch.setenv("SHOP_AT", f"127.0.0.1:{postgres.port}")
    return name


@pytest.fixture
def run(postgres: PostgresServer, schema: str) -> Run:
    return lambda sql: postgres.execute(f"SET search_path = {schema}; {sql}")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home", start=START)
    yield opened
    opened.ports.close()


def table(schema: str, relation: str = "orders", *, source: str = "postgresql://shop:$SHOP_PASSWORD@$SHOP_AT/postgres", **given: Any) -> Table:
    return Table("orders", source, relation=f"{schema}.{relation}", **given)


def connector(schema: str, **given: Any) -> PostgresConnector:
    return PostgresConnector(read_address(table(schema, **given)), table="orders")


def rows_of(session: Session, definition: Table) -> list[dict[str, Any]]:
    record = ingest(session, definition, folder=Path())
    with open_engine(session.settings) as engine:
        source = open_ingested(session, definition, record, folder=Path(), engine=engine)
        found = [dict(row) for row in engine.sql(f"SELECT {', '.join(map(quote, source.columns))} FROM ({source.sql})").to_arrow_table().to_pylist()]
    return sorted(found, key=repr)


# ---- types


TYPES = [
    ("smallint", "-3", -3, pa.int16()),
    ("bigint", "9007199254740993", 9007199254740993, pa.int64()),
    ("oid", "4000000000", 4_000_000_000, pa.int64()),
    ("real", "'-infinity'", -inf, pa.float32()),
    ("double precision", "0.1", 0.1, pa.float64()),
    ("numeric(10,2)", "12345678.90", Decimal("12345678.90"), pa.decimal128(10, 2)),
    ("numeric(20,0)", "12345678901234567890", Decimal("12345678901234567890"), pa.decimal128(20, 0)),
    ("numeric(10,2)", "'NaN'", None, pa.decimal128(10, 2)),
    ("numeric", "0.25", 0.25, pa.float64()),
    ("numeric", "'infinity'", inf, pa.float64()),
    ("numeric(5,-2)", "12345", 12300.0, pa.float64()),
    ("price", "1.5", Decimal("1.50"), pa.decimal128(10, 2)),
    ("money", "5.5", 5.5, pa.float64()),
    ("boolean", "true", True, pa.bool_()),
    ("text", "'Ä\n'''", "Ä\n'", pa.string()),
    ("varchar(9)", "'x'", "x", pa.string()),
    ("char(5)", "'ab'", "ab", pa.string()),
    ("mood", "'glad'", "glad", pa.string()),
    ("uuid", "'A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", pa.string()),
    ("date", "'2026-02-28'", date(2026, 2, 28), pa.date32()),
    ("date", "'infinity'", None, pa.date32()),
    ("timestamp", "'2026-03-29 02:30'", datetime(2026, 3, 29, 2, 30), pa.timestamp("us")),  # noqa: DTZ001 - a local time has no zone
    ("timestamptz", "'2026-03-29 02:30+08'", datetime(2026, 3, 28, 18, 30, tzinfo=UTC), pa.timestamp("us", tz="UTC")),
    ("timestamptz", "'-infinity'", None, pa.timestamp("us", tz="UTC")),
    ("jsonb", """'{"b": [1, null]}'""", '{"b": [1, null]}', pa.string()),
    ("int[]", "'{1,null,3}'", "[1,null,3]", pa.string()),
    ("text[]", """'{"a,b",c}'""", '["a,b","c"]', pa.string()),
    ("pair", "'(1,x)'", '{"n":1,"t":"x"}', pa.string()),
    ("interval", "'1 day'", "1 day", pa.string()),
    ("inet", "'10.0.0.1'", "10.0.0.1/32", pa.string()),
    ("int4range", "'[1,4)'", "[1,4)", pa.string()),
    ("bytea", r"'\xdead'", b"\xde\xad", pa.binary()),
]


def test_a_value_comes_as_what_it_is(run: Run, schema: str) -> None:
    run("CREATE DOMAIN price AS numeric(10,2); CREATE TYPE mood AS ENUM ('glad'); CREATE TYPE pair AS (n int, t text)")
    columns = ", ".join(f"c{n} {declared}" for n, (declared, *_) in enumerate(TYPES))
    values = ", ".join(written for _, written, *_ in TYPES)
    run(f"CREATE TABLE orders ({columns}); INSERT INTO orders VALUES ({values}); INSERT INTO orders (c0) VALUES (NULL)")
    with connector(schema).open() as snapshot:
        found = read_all(snapshot, snapshot.describe(f"{schema}.orders"))
    for n, (declared, written, value, type_) in enumerate(TYPES):
        assert (found.schema.field(n).type, found.column(n).to_pylist()) == (type_, [value, None]), f"{declared} {written}"


def test_not_a_number_is_kept_where_the_type_has_it(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (v double precision); INSERT INTO orders VALUES ('NaN')")
    ((value,),) = (row.values() for row in rows_of(session, table(schema)))
    assert isnan(value)


def test_all_types_go_through_the_door(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz NOT NULL, j jsonb, price numeric(10,2), u uuid, t text)")
    hours = "'2026-01-01'::timestamptz + n * interval '1 hour'"
    run(f"INSERT INTO orders SELECT n, {hours}, '{{}}', n / 7.0, NULL, repeat('x', n) FROM generate_series(1, 50) n")
    record = ingest(session, table(schema, watermark="at", event_time="at", keys=("id",)), folder=Path())
    assert (record.n_rows, record.first_event, record.last_event) == (50, "2026-01-01T01:00:00", "2026-01-03T02:00:00")
    assert {column.name: column.type for column in record.profile} == {
        "id": "integer",
        "at": "timestamp",
        "j": "text",
        "price": "number",
        "u": "text",
        "t": "text",
    }


# ---- what is read


def test_new_and_changed_rows_are_found_and_everything_else_stays(run: Run, schema: str, session: Session) -> None:
    definition = table(schema, watermark="changed")
    run("CREATE TABLE orders (id bigint PRIMARY KEY, units int, changed timestamptz NOT NULL)")
    run("INSERT INTO orders SELECT n, 0, '2026-01-01'::timestamptz + n * interval '1 hour' FROM generate_series(1, 100) n")
    first = ingest(session, definition, folder=Path())
    run("UPDATE orders SET units = 5, changed = '2026-02-01' WHERE id IN (3, 100); INSERT INTO orders VALUES (101, 1, '2026-02-01')")
    second = ingest(session, definition, folder=Path())
    assert (first.n_rows, second.n_rows) == (100, 101)
    (expected,) = [run("SELECT string_agg(concat_ws('/', id, units), ',' ORDER BY id) FROM orders")]
    rows = sorted(rows_of(session, definition), key=lambda row: row["id"])
    assert ",".join(f"{row['id']}/{row['units']}" for row in rows) == expected


def test_what_is_read_is_of_one_instant(run: Run, schema: str) -> None:
    run("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    with connector(schema).open() as snapshot:
        relation = snapshot.describe(f"{schema}.orders")
        run("INSERT INTO orders VALUES (2); UPDATE orders SET id = 7 WHERE id = 1")
        assert read_all(snapshot, relation)["id"].to_pylist() == [1]
    with connector(schema).open() as snapshot:
        assert sorted(read_all(snapshot, relation, describe=True)["id"].to_pylist()) == [2, 7]


def read_all(snapshot: Any, relation: Relation, *, describe: bool = False) -> pa.Table:
    if describe:
        relation = snapshot.describe(relation.name)
    return pa.Table.from_batches(snapshot.read(relation, columns=[column.name for column in relation.columns], watermark=None, since=None))


def test_the_database_is_told_which_rows_and_columns_are_wanted(run: Run, schema: str) -> None:
    run("CREATE TABLE orders (id int, secret text, at date); INSERT INTO orders VALUES (1, 'x', '2026-01-01'), (2, 'y', '2026-01-02')")
    with connector(schema).open() as snapshot:
        relation = snapshot.describe(f"{schema}.orders")
        for since, expected in ((Mark("date", "2026-01-02"), [2]), (Mark("date", "2027-01-01"), [])):
            found = pa.Table.from_batches(snapshot.read(relation, columns=["id"], watermark="at", since=since))
            assert found.to_pydict() == {"id": expected}


def test_views_and_partitioned_tables_are_relations_too(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (id int, at date) PARTITION BY RANGE (at)")
    run("CREATE TABLE orders_26 PARTITION OF orders FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); INSERT INTO orders VALUES (1, '2026-01-01')")
    run("CREATE VIEW seen AS SELECT id FROM orders; CREATE MATERIALIZED VIEW kept AS SELECT id FROM orders")
    for relation in ("orders", "orders_26", "seen", "kept"):
        assert [row["id"] for row in rows_of(session, table(schema, relation))] == [1]


def test_awkward_names_are_only_names(postgres: PostgresServer, run: Run, schema: str, session: Session) -> None:
    relation, column = 'Or"ders; DROP TABLE x; --', "Ünits \"'$1 %s"
    run(f"CREATE TABLE {quote(relation)} (id int PRIMARY KEY, {quote(column)} int NOT NULL); INSERT INTO {quote(relation)} VALUES (1, 5)")
    definition = table(schema, quote(relation), watermark=column, select=("id", column))
    assert rows_of(session, definition) == [{"id": 1, column: 5}]
    run(f"UPDATE {quote(relation)} SET {quote(column)} = 6")
    assert rows_of(session, definition) == [{"id": 1, column: 6}]


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a.b.c", 'a"b', '"a', 'a."b"c', "a\0b", '""'])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="which is no name"):
        quote_relation(name, table="orders")


def test_texts_of_a_megabyte_come_in_several_batches(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (id int, t text); INSERT INTO orders SELECT n, repeat(chr(64 + n), 1000000) FROM generate_series(1, 20) n")
    with connector(schema).open() as snapshot:
        relation = snapshot.describe(f"{schema}.orders")
        sizes = [batch.num_rows for batch in snapshot.read(relation, columns=["id", "t"], watermark=None, since=None)]
    assert sum(sizes) == 20
    assert len(sizes) > 1
    assert sum(len(row["t"]) for row in rows_of(session, table(schema))) == 20_000_000


def test_the_watermark_of_a_server_elsewhere_is_an_instant(postgres: PostgresServer, run: Run, schema: str, session: Session) -> None:
    postgres.execute("ALTER DATABASE postgres SET TimeZone = 'Asia/Shanghai'")
    try:
        run("CREATE TABLE orders (id int, at timestamptz NOT NULL); INSERT INTO orders VALUES (1, '2026-01-01 00:00+00')")
        definition = table(schema, watermark="at", overlap="0s")
        rows_of(session, definition)
        run("INSERT INTO orders VALUES (2, '2026-01-01 00:00+00'), (3, '2025-12-31 23:59+00')")
        assert [row["id"] for row in rows_of(session, definition)] == [1, 2]
    finally:
        postgres.execute("ALTER DATABASE postgres RESET TimeZone")


def test_rows_that_come_and_change_in_any_order_are_what_a_full_read_gives(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (id int PRIMARY KEY, units numeric(8,2), changed timestamptz NOT NULL)")
    definition = table(schema, watermark="changed")
    for turn in range(3):
        at = f"'2026-01-01'::timestamptz + interval '{turn * 4} minutes'"
        new = f"SELECT {turn} * 100 + n, random() * 9, {at} + n * interval '1 s' FROM generate_series(1, 20) n"
        run(f"SELECT setseed({turn / 10}); INSERT INTO orders {new}")
        run(f"UPDATE orders SET units = units + 1, changed = {at} + interval '30 s' WHERE random() < 0.3")
        expected = run("SELECT string_agg(id || '/' || units, ',' ORDER BY id) FROM orders")
        rows = sorted(rows_of(session, definition), key=lambda row: row["id"])
        assert ",".join(f"{row['id']}/{row['units']}" for row in rows) == expected


# ---- bad input


def refused(session: Session, definition: Table, kind: type[EndcapError] = InvalidInput) -> EndcapError:
    with pytest.raises(kind) as raised:
        ingest(session, definition, folder=Path())
    assert not list(session.ports.landing.path.rglob("*.parquet"))
    return raised.value


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"source": "postgresql://shop:$SHOP_AT@$SHOP_AT/postgres"}, InvalidInput, "does not let us in: .*authentication failed"),
        ({"source": "postgresql://nobody:$SHOP_PASSWORD@$SHOP_AT/postgres"}, InvalidInput, "does not let us in"),
        ({"source": "postgresql://shop:$SHOP_PASSWORD@$SHOP_AT/nothing"}, InvalidInput, 'database "nothing" does not exist'),
        ({"source": "postgresql://shop:$SHOP_PASSWORD@127.0.0.1:1/postgres"}, Unreachable, "does not answer: .*Connection refused"),
        ({"source": "postgresql://shop:$SHOP_PASSWORD@127.0.0.1:x/postgres"}, InvalidInput, "cannot be opened"),
        ({"source": "postgresql://shop:$SHOP_PASSWORD@[::1/postgres"}, InvalidInput, r"cannot be opened: .*shop:\*\*\*@"),
        ({"source": "postgresql://shop:$SHOP_PASSWORD@$SHOP_AT/postgres?sslmode=odd"}, InvalidInput, "sslmode"),
        ({"source": "mysql://shop:$SHOP_PASSWORD@$SHOP_AT/postgres"}, InvalidInput, "no connector for 'mysql'"),
        ({"relation": "oders"}, InvalidInput, r"has no relation .*oders'.* Hint: did you mean '.*orders'"),
        ({"relation": "orders; DROP TABLE orders"}, InvalidInput, "has no relation"),
        ({"watermark": "chnged"}, InvalidInput, "did you mean 'changed'"),
        ({"watermark": "t"}, InvalidInput, "the watermark 't' of .* is of type text"),
        ({"watermark": "maybe"}, InvalidInput, "is null in 1 rows"),
        ({"watermark": "changed"}, InvalidInput, "1 rows of .* have an infinite 'changed'"),
        ({"select": ("id", "tt")}, InvalidInput, "has no column 'tt'"),
    ],
)
def test_what_cannot_be_read_is_told_without_the_password(
    postgres: PostgresServer,
    run: Run,
    schema: str,
    session: Session,
    caplog: pytest.LogCaptureFixture,
    given: dict[str, Any],
    kind: type[EndcapError],
    said: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    run("CREATE TABLE orders (id int, t text, maybe date, changed timestamptz NOT NULL); INSERT INTO orders VALUES (1, 'a', NULL, 'infinity')")
    definition = table(schema, **given)
    error = refused(session, definition, kind)
    assert said_by(error, said)
    behind: BaseException | None = error
    told = [caplog.text, repr(definition), repr(read_address(definition)), str(list_audit(session))]
    while behind is not None:
        told += [str(behind), repr(behind)]
        behind = behind.__cause__ or behind.__context__
    assert not [text for text in told if postgres.password in text or "s3cret%2F" in text]


def said_by(error: EndcapError, pattern: str) -> bool:
    import re

    return re.search(pattern, str(error)) is not None


def test_nothing_that_is_kept_holds_the_password(postgres: PostgresServer, run: Run, schema: str, session: Session, tmp_path: Path) -> None:
    run("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    rows_of(session, table(schema, watermark="id"))
    session.ports.close()
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(kept) > 3
    secret = postgres.password.encode()
    assert not [path for path in kept if secret in path.read_bytes() or b"s3cret%2F" in path.read_bytes()]


def test_a_user_without_the_right_is_told_which_to_ask_for(postgres: PostgresServer, run: Run, schema: str, session: Session) -> None:
    run(f"CREATE TABLE orders (id int); CREATE ROLE {schema}_guest LOGIN; GRANT USAGE ON SCHEMA {schema} TO {schema}_guest")
    source = f"postgresql://{schema}_guest@/postgres?host={postgres.folder}&port={postgres.port}"
    error = refused(session, table(schema, source=source))
    assert error.hint == "GRANT SELECT ON the relation TO the user"
    run(f"GRANT SELECT ON orders TO {schema}_guest")
    assert rows_of(session, table(schema, source=source)) == []


def test_a_whole_url_may_come_from_the_environment(
    postgres: PostgresServer, run: Run, schema: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    monkeypatch.setenv("SHOP_URL", postgres.url)
    assert rows_of(session, table(schema, source="$SHOP_URL")) == [{"id": 1}]
    monkeypatch.setenv("SHOP_URL", "nothing of the kind")
    assert "is no URL" in refused_text(session, table(schema, source="$SHOP_URL"))


def refused_text(session: Session, definition: Table) -> str:
    with pytest.raises(InvalidInput) as raised:
        ingest(session, definition, folder=Path())
    return str(raised.value)


def test_a_connection_that_is_cut_in_the_middle_keeps_nothing(postgres: PostgresServer, run: Run, schema: str) -> None:
    run("CREATE TABLE orders (id int, t text); INSERT INTO orders SELECT n, repeat('x', 100000) FROM generate_series(1, 700) n")
    with connector(schema).open() as snapshot:
        batches = snapshot.read(snapshot.describe(f"{schema}.orders"), columns=["id", "t"], watermark=None, since=None)
        assert next(batches).num_rows < 700
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
        with pytest.raises(Unreachable, match="stopped in the middle"):
            list(batches)


def test_a_relation_that_loses_a_column_is_told_where_it_is_needed(run: Run, schema: str, session: Session) -> None:
    run("CREATE TABLE orders (id int PRIMARY KEY, units int, at date NOT NULL); INSERT INTO orders VALUES (1, 1, '2026-01-01')")
    promising = table(schema, watermark="at", contract=Contract(unique=("units",)))
    rows_of(session, promising)
    run("ALTER TABLE orders DROP COLUMN units")
    with pytest.raises(InvalidInput, match="units"):
        ingest(session, promising, folder=Path())
    assert rows_of(session, table(schema, watermark="at")) == [{"at": date(2026, 1, 1), "id": 1}]


def test_nothing_can_be_written_through_a_connector(run: Run, schema: str) -> None:
    run("CREATE TABLE orders (id int)")
    with connector(schema).open() as snapshot, pytest.raises(InvalidInput, match="read-only transaction"):
        snapshot._run(f"INSERT INTO {schema}.orders VALUES (1)")


def test_a_type_of_its_own_is_text() -> None:
    assert _expression('"c"', "citext", "citext", kind="b", category="S") == ('"c"::text', None)
