"""Records in PostgreSQL: two tables, whatever the kinds of records.

A record's body is the JSON of its type, so that the database's own tools can look into it (``body ->> 'version'``). Rows are found by keys: the
first 20 bytes of a SHA-256 over kind, workspace and id, or over kind, workspace, index and value. An index entry of PostgreSQL ends at 2,700
bytes and its texts hold no NUL, while ids and values here are any text; as keys they are of one length, and compared byte by byte.

Writers of a home take turns by an advisory lock that ends with the transaction. So ``sequence`` is the order of commits too, and whoever reads
inside a transaction may rely on what was read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import msgspec

from endcap.core.errors import EndcapError
from endcap.storage.backends.postgres_errors import LostConnection, unknown_outcome
from endcap.storage.backends.postgres_server import Connection, PostgresDatabase, commit
from endcap.storage.frozen import FiledRecord, RawRecord
from endcap.storage.ports import Kind, R, conflict, ended_transaction, missing_place, nested_transaction, require_limit

_KEY_BYTES = 20
_MOST = 2**62

CREATE_RECORDS = """
CREATE TABLE {s}.record (
  sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL UNIQUE,
  kind text NOT NULL, workspace text NOT NULL, id text NOT NULL, version bigint NOT NULL, body json NOT NULL
) WITH (fillfactor = 90);
CREATE TABLE {s}.filed (key bytea NOT NULL, sequence bigint NOT NULL, PRIMARY KEY (key, sequence));
CREATE INDEX filed_by_sequence ON {s}.filed (sequence);
"""
_GET = "/* endcap get */ SELECT body::text, version FROM {s}.record WHERE key = %s"
_FIND = """/* endcap find */
SELECT record.body::text FROM (SELECT sequence FROM {s}.filed WHERE key = %s {behind} ORDER BY sequence {order} LIMIT %s::bigint) AS found
JOIN {s}.record USING (sequence) ORDER BY sequence {order}
"""
_BEHIND = "AND sequence {than} (SELECT sequence FROM {s}.record WHERE key = %s)"
_APPEND = """/* endcap append */
WITH new AS (
  INSERT INTO {s}.record (key, kind, workspace, id, version, body) VALUES (%s, %s, %s, %s, 1, %s::text::json)
  ON CONFLICT (key) DO NOTHING RETURNING sequence
), filing AS (INSERT INTO {s}.filed (key, sequence) SELECT unnest(%s::bytea[]), sequence FROM new)
SELECT sequence FROM new
"""
_PUT = """/* endcap put */
WITH new AS (
  UPDATE {s}.record SET version = version + 1, body = %s::text::json WHERE key = %s AND version = %s RETURNING sequence
), asked AS (SELECT unnest(%s::bytea[]) AS key), unfiling AS (
  DELETE FROM {s}.filed USING new WHERE filed.sequence = new.sequence AND filed.key NOT IN (SELECT key FROM asked)
), filing AS (
  INSERT INTO {s}.filed (key, sequence) SELECT key, sequence FROM asked, new ON CONFLICT DO NOTHING
)
SELECT sequence FROM new
"""
_LOAD = """/* endcap load */
WITH new AS (
  INSERT INTO {s}.record (key, kind, workspace, id, version, body)
  SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[]::json[])
  ON CONFLICT (key) DO NOTHING RETURNING sequence, key
), filing AS (
  INSERT INTO {s}.filed (key, sequence) SELECT asked.key, new.sequence FROM unnest(%s::bytea[], %s::bytea[]) AS asked (record, key)
  JOIN new ON new.key = asked.record
)
SELECT key FROM new
"""
_COUNT = "/* endcap count */ SELECT count(*) FROM {s}.record"
_DUMP = "SELECT kind, workspace, version, body::text FROM {s}.record ORDER BY sequence"
_AT_ONCE = 2000


class _Reader(ABC):
    """Reads by statements of its database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._get = database.word(_GET)
        self._find = {(down, paged): _word_find(database, down=down, paged=paged) for down in (False, True) for paged in (False, True)}

    @abstractmethod
    def _ask(self, statement: str, values: Sequence[object]) -> list[Any]: ...

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        found = self.get_versioned(kind, workspace=workspace, id=id)
        return found[0] if found else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        try:
            key = make_key(kind.name, workspace, id)
        except UnicodeEncodeError:
            key = b""  # nothing can be kept under a text that is not Unicode
        rows = self._ask(self._get, (key,))
        return (kind.decode(rows[0][0]), rows[0][1]) if rows else None

    def find(
        self,
        kind: Kind[R],
        *,
        workspace: str,
        where: Mapping[str, object] | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[R]:
        limit = require_limit(limit)
        name, value = kind.index_for(where) if where else ("", "")
        at_most = None if limit is None else min(limit, _MOST)
        place = () if after is None else (make_key(kind.name, workspace, after),)
        rows = self._ask(self._find[newest_first, after is not None], (make_key(kind.name, workspace, name, value), *place, at_most))
        if after is not None and not rows and self.get_versioned(kind, workspace=workspace, id=after) is None:
            raise missing_place(kind.name, after)
        return [kind.decode(body) for (body,) in rows]


class PostgresTransaction(_Reader):
    """Writes through a connection on which a transaction was begun."""

    def __init__(self, database: PostgresDatabase, connection: Connection) -> None:
        super().__init__(database)
        self._own: Connection | None = connection
        self._broken: EndcapError | None = None

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self.put(kind, workspace=workspace, record=record, expected_version=0)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        self._require_open()
        identity, body = kind.id_of(record), kind.encode(record).decode()
        keys = [make_key(kind.name, workspace, name, value) for name, value in [("", ""), *kind.keys_of(record)]]
        key = make_key(kind.name, workspace, identity)
        if expected_version == 0:
            shown = (_show(kind.name), _show(workspace), _show(identity))
            rows = self._ask(self._database.word(_APPEND), (key, *shown, body, keys))
        else:
            rows = self._ask(self._database.word(_PUT), (body, key, expected_version, keys))
        if not rows:
            raise conflict(kind.name, identity, expected_version)
        return expected_version + 1

    def load(self, records: Iterable[FiledRecord]) -> int:
        n, given = 0, iter(records)
        while some := list(islice(given, _AT_ONCE)):
            n += len(some)
            keyed = {make_key(record.kind, record.workspace, record.id): record for record in some}
            if len(keyed) < len(some):
                raise conflict(some[0].kind, "one of a backup", 0)
            columns = [
                list(keyed),
                *([_show(getattr(record, name)) for record in keyed.values()] for name in ("kind", "workspace", "id")),
                [record.version for record in keyed.values()],
                [record.body.decode() for record in keyed.values()],
            ]
            filed = [
                (key, make_key(record.kind, record.workspace, name, value))
                for key, record in keyed.items()
                for name, value in dict.fromkeys([("", ""), *map(tuple, record.keys)])
            ]
            kept = {key for (key,) in self._ask(self._database.word(_LOAD), (*columns, [key for key, _ in filed], [key for _, key in filed]))}
            for key, record in keyed.items():
                if key not in kept:
                    raise conflict(record.kind, record.id, 0)
        return n

    def count(self) -> int:
        ((n,),) = self._ask(self._database.word(_COUNT), ())
        return int(n)

    def commit(self) -> None:
        """Keep all of it. Raises what broke it where the database took it back."""
        connection = self._require_open()
        if self._broken is not None:
            raise self._broken
        try:
            with self._database.telling():
                commit(connection)
        except LostConnection as error:
            raise unknown_outcome(error) from error

    def end(self) -> None:
        """Take nothing more."""
        self._own = None

    def _ask(self, statement: str, values: Sequence[object]) -> list[Any]:
        connection = self._require_open()
        if self._broken is not None:
            raise self._broken  # after an error PostgreSQL takes nothing more of a transaction
        try:
            with self._database.telling():
                return connection.execute(statement, values, binary=True).fetchall()
        except EndcapError as error:
            self._broken = error
            raise

    def _require_open(self) -> Connection:
        if self._own is None:
            raise ended_transaction()
        return self._own


class PostgresRecords(_Reader):
    """Records in the schema of a database; writers take turns and wait up to 30 s for theirs."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database)
        self._lock = database.lock_of("records")

    @contextmanager
    def transact(self) -> Iterator[PostgresTransaction]:
        with self._database.take_turn(self._lock, nested=nested_transaction) as connection:
            tx = PostgresTransaction(self._database, connection)
            try:
                yield tx
                tx.commit()
            finally:
                tx.end()

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def holding_off(self) -> Iterator[None]:
        """Nobody writes while the block lasts."""
        with self._database.take_turn(self._lock, nested=nested_transaction):
            yield

    def dump(self, connection: Connection) -> Iterator[RawRecord]:
        """All records that a snapshot sees, in their order."""
        with self._database.telling(), connection.cursor(name="endcap_records") as found:
            found.itersize = _AT_ONCE
            for kind, workspace, version, body in found.execute(self._database.word(_DUMP)):
                yield RawRecord(kind, workspace, version, body.encode())

    def _ask(self, statement: str, values: Sequence[object]) -> list[Any]:
        return self._database.ask(statement, values)


def make_key(*parts: str) -> bytes:
    """The key that no other parts have. Raises UnicodeEncodeError for a text that is not Unicode."""
    return hashlib.sha256(msgspec.json.encode(parts)).digest()[:_KEY_BYTES]


def _word_find(database: PostgresDatabase, *, down: bool, paged: bool) -> str:
    behind = _BEHIND.format(than="<" if down else ">", s="{s}") if paged else ""
    return database.word(_FIND.replace("{behind}", behind)).format(order="DESC" if down else "ASC")


def _show(text: str) -> str:
    """A text as people find it in the table, where it stands beside its key."""
    return text.replace("\x00", "\\u0000")
