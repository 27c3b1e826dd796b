"""PostgreSQL: relations read as Arrow by ADBC, which streams ``COPY ... TO STDOUT`` in batches of bounded size."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from endcap.core.errors import EndcapError, InvalidInput, Unreachable, suggest
from endcap.core.names import quote, quote_text
from endcap.core.transport import choose_sslmode, may_be_plain
from endcap.loop.data.connectors.addresses import Address
from endcap.loop.data.connectors.relations import Mark, Relation, RelationColumn

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_INSTALL = "install the extra: pip install 'endcap[postgres]'"
_MOST_MISSING = 1000
_MOST_DIGITS = 38
_PORT = re.compile(r"(?<=[^:]):[0-9]*$")
_PLAIN = frozenset({"int2", "int4", "int8", "float4", "float8", "bool", "bytea", "time"})
_TIMES = {"date": "date", "timestamp": "timestamp", "timestamptz": "instant"}
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_NOT_LET_IN = re.compile(r"authentication failed|no password supplied|role .* does not exist|no pg_hba.conf entry")
_NO_TLS = re.compile(r"does not support SSL|certificate|root.crt")
_BAD_URL = re.compile(r"database .* does not exist|connection option|URI|invalid \w+ value")
_GONE = ("08", "40", "53", "55", "57", "58")  # classes of SQLSTATE that are no fault of what was asked
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')

# The types of domains are those that they stand for.
_DESCRIBE = """
WITH RECURSIVE typed(attnum, attname, nullable, oid, modifier) AS (
  SELECT attnum, attname, NOT attnotnull, atttypid, atttypmod FROM pg_attribute
  WHERE attrelid = to_regclass({name}) AND attnum > 0 AND NOT attisdropped
  UNION ALL
  SELECT d.attnum, d.attname, d.nullable AND NOT t.typnotnull, t.typbasetype, CASE WHEN d.modifier = -1 THEN t.typtypmod ELSE d.modifier END
  FROM typed AS d JOIN pg_type AS t ON t.oid = d.oid WHERE t.typtype = 'd'
)
SELECT json_build_object(
  'columns', (
    SELECT coalesce(json_agg(json_build_array(
      d.attname, t.typname, format_type(d.oid, d.modifier), t.typtype, t.typcategory, d.nullable) ORDER BY d.attnum), '[]')
    FROM typed AS d JOIN pg_type AS t ON t.oid = d.oid WHERE t.typtype <> 'd'
  ),
  'key', (
    SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]')
    FROM pg_index AS i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute AS a
    WHERE i.indrelid = to_regclass({name}) AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum
  )
)::text
"""
_NEAR = """
SELECT json_agg(format('%s.%s', nspname, relname))::text FROM (
  SELECT nspname, relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE relkind IN ('r', 'v', 'm', 'f', 'p') AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg_toast%'
  ORDER BY nspname, relname LIMIT 1000
) AS found
"""


@dataclass(frozen=True)
class PostgresConnector:
    """A database of PostgreSQL 12 or later, or of what speaks its protocol with its catalogue.

    What the URL leaves open is libpq's to fill in: ``PGHOST``, ``PGPASSWORD``, ``~/.pgpass``, ``~/.pg_service.conf`` and the like.
    """

    address: Address
    table: str

    @property
    def shown(self) -> str:
        return self.address.shown

    @property
    def identity(self) -> str:
        return self.address.identity

    @contextmanager
    def open(self) -> Iterator[PostgresSnapshot]:
        """One read-only transaction that sees the database as it is when it begins."""
        try:
            import adbc_driver_postgresql.dbapi as driver
        except ImportError as error:
            raise InvalidInput(f"Table '{self.table}' reads PostgreSQL, and its driver is not installed.", hint=_INSTALL) from error

        connection = self._connect(driver)
        try:
            snapshot = PostgresSnapshot(self, connection)
            snapshot.begin()
            yield snapshot
        finally:
            connection.close()

    def _connect(self, driver: Any) -> Any:
        try:
            return driver.connect(demand_tls(self.address))
        except (driver.Error, OSError) as error:
            text = str(error)
            told = self._explain_connecting(text)
            if self.address.hide(text) == text:
                raise told from error
        raise told  # outside the block: what libpq said shows the password, so it must not even stand behind

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the driver's errors into those of the house."""
        import adbc_driver_manager.dbapi as manager
        import pyarrow as pa

        try:
            yield
        except (manager.Error, pa.ArrowException, OSError) as error:
            raise self._explain(str(error), sqlstate=getattr(error, "sqlstate", None) or "") from error

    def _explain_connecting(self, text: str) -> EndcapError:
        said, what = self.address.hide(_shorten(text)), f"Table '{self.table}': {self.shown}"
        if _NOT_LET_IN.search(said):
            return InvalidInput(f"{what} does not let us in: {said}", hint="look at the user, and at the variable that gives the password")
        if _NO_TLS.search(said):
            hint = "name the server's authority: ?sslmode=verify-full&sslrootcert=/etc/ca.crt; or ?sslmode=disable, where the network is yours alone"
            return InvalidInput(f"{what} cannot be spoken to by TLS: {said}", hint=hint)
        if _BAD_URL.search(said):
            return InvalidInput(f"{what} cannot be opened: {said}", hint="look at the URL in Table(source=...)")
        return Unreachable(f"{what} does not answer: {said}", hint="is the server up, and reachable from here?")

    def _explain(self, text: str, *, sqlstate: str) -> EndcapError:
        said, what = _shorten(text), f"Table '{self.table}': {self.shown}"
        if sqlstate == "42501":
            return InvalidInput(f"{what} refuses to be read: {said}", hint="GRANT SELECT ON the relation TO the user")
        if sqlstate and not sqlstate.startswith(_GONE):
            return InvalidInput(f"{what} cannot be read: {said}")
        return Unreachable(f"{what} stopped in the middle: {said}", hint="run again; nothing was kept of what came before")


def demand_tls(address: Address) -> str:
    """The URL of an address such that nothing is said in plain to another machine, unless it says so itself."""
    rest, _, options = address.url.partition("://")[2].partition("?")
    given = {name.lower(): unquote(value) for name, _, value in (option.partition("=") for option in options.split("&"))}
    place = unquote(rest.rpartition("@")[2].partition("/")[0])
    named = given.get("hostaddr") or given.get("host") or place or os.environ.get("PGHOST", "")
    hosts = [_PORT.sub("", host) for host in named.split(",")]
    said = given.get("sslmode") or os.environ.get("PGSSLMODE")
    mode = choose_sslmode(hosts, given=said, authority=given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT"))
    if may_be_plain(hosts, mode=mode):
        logger.warning("%s: sslmode=%s lets passwords and rows be read on the way; verify-full, with sslrootcert=, does not", address.shown, mode)
    if mode is None or "sslmode" in given:
        return address.url
    return f"{address.url}{'&' if options else '?'}sslmode={mode}"


class PostgresSnapshot:
    """An open connection inside its transaction."""

    def __init__(self, connector: PostgresConnector, connection: Any) -> None:
        self._connector, self._connection = connector, connection
        self._expressions: dict[str, tuple[str, tuple[int, int] | None]] = {}

    def begin(self) -> None:
        self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        self._run("SET LOCAL TIME ZONE 'UTC'")

    def describe(self, relation: str) -> Relation:
        name = quote_relation(relation, table=self._connector.table)
        found = json.loads(self._ask(_DESCRIBE.format(name=quote_text(name))))
        if not found["columns"]:
            near = json.loads(self._ask(_NEAR) or "[]")
            raise InvalidInput(
                f"Table '{self._connector.table}': {self._connector.shown} has no relation {relation!r} with columns that its user may see.",
                hint=suggest(relation, [*near, *(each.partition(".")[2] for each in near)]) or f"relations there: {near[:10]}",
            )
        columns = []
        for column, short, type_, kind, category, nullable in found["columns"]:
            self._expressions[column] = _expression(quote(column), short, type_, kind=kind, category=category)
            sort = "integer" if short in ("int2", "int4", "int8") else _TIMES.get(short, "")
            columns.append(RelationColumn(column, type_, sort, nullable))
        return Relation(relation, tuple(columns), tuple(found["key"]))

    def count_missing(self, relation: Relation, column: str) -> int:
        name = quote_relation(relation.name, table=self._connector.table)
        inner = f"SELECT 1 FROM {name} WHERE {quote(column)} IS NULL LIMIT {_MOST_MISSING}"
        return int(self._ask(f"SELECT count(*)::text FROM ({inner}) AS missing"))

    def read(self, relation: Relation, *, columns: Sequence[str], watermark: str | None, since: Mark | None) -> Iterator[pa.RecordBatch]:
        chosen = ", ".join(f"{self._expressions[name][0]} AS {quote(name)}" for name in columns)
        where = f" WHERE {quote(watermark)} >= {since.sql}" if watermark is not None and since is not None else ""
        statement = f"SELECT {chosen} FROM {quote_relation(relation.name, table=self._connector.table)}{where}"
        decimals = {name: self._expressions[name][1] for name in columns}
        with self._connector._telling(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            reader = cursor.fetch_record_batch()
            schema = _schema(reader.schema, decimals)
            n = 0
            for batch in reader:
                n += 1
                yield _cast(batch, schema)
            if n == 0:
                yield _cast(_empty(reader.schema), schema)

    def _run(self, statement: str) -> None:
        with self._connector._telling(), self._connection.cursor() as cursor:
            cursor.execute(statement)

    def _ask(self, statement: str) -> str:
        """The one text that a statement gives; '' for a null."""
        with self._connector._telling(), self._connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
        return "" if row is None or row[0] is None else str(row[0])


def quote_relation(relation: str, *, table: str = "") -> str:
    """``schema.name`` in the database's quotes: in the spelling given, whatever characters it holds; a part in double quotes may hold dots.

    >>> quote_relation("public.Orders"), quote_relation('shop."a.b"'), quote_relation("x; DROP TABLE y")
    ('"public"."Orders"', '"shop"."a.b"', '"x; DROP TABLE y"')
    """
    parts: list[str] = []
    place = 0
    while (found := _PART.match(relation, place)) is not None:
        parts.append(found[1].replace('""', '"') if found[1] else found[2])
        place = found.end()
        if place == len(relation) or relation[place] != ".":
            break
        place += 1
    if place != len(relation) or relation.endswith(".") or not 1 <= len(parts) <= 2 or "\0" in relation:
        raise InvalidInput(
            f"Table '{table}' reads the relation {relation!r}, which is no name.",
            hint="write public.orders; a part that holds a dot or a quote stands in double quotes, its own doubled",
        )
    return ".".join(quote(part) for part in parts)


def _expression(column: str, short: str, type_: str, *, kind: str, category: str) -> tuple[str, tuple[int, int] | None]:
    """How a column is asked for, and the digits (all, after the point) of a decimal that comes as text."""
    if short in _PLAIN:
        return column, None
    if short in _TIMES:
        return f"CASE WHEN isfinite({column}) THEN {column} END", None  # an end of time is no time
    if short == "numeric":
        digits = _NUMERIC.fullmatch(type_)
        if digits and int(digits[1]) <= _MOST_DIGITS and int(digits[2]) <= int(digits[1]):
            return f"nullif({column}, 'NaN')::text", (int(digits[1]), int(digits[2]))
        return f"{column}::float8", None
    if short == "money":
        return f"{column}::numeric::float8", None
    if short == "oid":
        return f"{column}::int8", None
    if category == "A" or kind == "c":
        return f"to_json({column})::text", None
    return f"{column}::text", None


def _schema(found: pa.Schema, decimals: dict[str, tuple[int, int] | None]) -> pa.Schema:
    """The driver's schema without its notes, with decimals for the texts that hold some."""
    import pyarrow as pa

    fields = []
    for field in found:
        digits = decimals[field.name]
        fields.append(pa.field(field.name, pa.decimal128(*digits) if digits else field.type))
    return pa.schema(fields)


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [column if column.type == field.type else column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _shorten(text: str) -> str:
    """The first sentence of what the server said, without the query and the driver's own lead."""
    said = text.partition("\n\nQuery was:")[0].partition("\nLINE ")[0]
    said = re.sub(r"^[A-Z_]+: (\[libpq\] )?(Failed to connect: )?", "", " ".join(said.split()))
    return f"{said[:300].rstrip('.?')}."
