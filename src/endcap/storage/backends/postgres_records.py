"""Records in PostgreSQL: three tables, whatever the kinds of records.

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

from endcap.core.errors import Conflict, EndcapError, InvalidInput, LostConnection, StorageFull
from endcap.storage.backends.postgres_errors import unknown_outcome
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
UPGRADE_RECORDS = """
ALTER TABLE {s}.filed RENAME TO filing;
CREATE TABLE {s}.filed_under (kind text PRIMARY KEY, names text[] NOT NULL);
INSERT INTO {s}.filed_under (kind, names) SELECT DISTINCT kind, '{}'::text[] FROM {s}.record;
"""
_GET = "/* endcap get */ SELECT body::text, version FROM {s}.record WHERE key = %s"
_FIND = """/* endcap find */
SELECT record.body::text FROM (SELECT sequence FROM {s}.filing WHERE key = %s {behind} ORDER BY sequence {order} LIMIT %s::bigint) AS found
JOIN {s}.record USING (sequence) ORDER BY sequence {order}
"""
# The last row is null where not all records of the kind are filed under the index: one statement, so that it is said of what was found.
_SEARCH = f"({_FIND}) UNION ALL SELECT NULL FROM {{s}}.filed_under WHERE kind = %s AND NOT %s = ANY (names)"
_BEHIND = "AND sequence {than} (SELECT sequence FROM {s}.record WHERE key = %s)"
_APPEND = """/* endcap append */
WITH new AS (
  INSERT INTO {s}.record (key, kind, workspace, id, version, body)
  SELECT %s, kind, %s, %s, 1, %s::text::json FROM {s}.filed_under WHERE kind = %s AND names <@ %s::text[]
  ON CONFLICT (key) DO NOTHING RETURNING sequence
), filing AS (INSERT INTO {s}.filing (key, sequence) SELECT unnest(%s::bytea[]), sequence FROM new)
SELECT sequence FROM new
"""
_PUT = """/* endcap put */
WITH new AS (
  UPDATE {s}.record SET version = version + 1, body = %s::text::json WHERE key = %s AND version = %s
  AND EXISTS (SELECT FROM {s}.filed_under WHERE kind = %s AND names <@ %s::text[]) RETURNING sequence
), asked AS (SELECT unnest(%s::bytea[]) AS key), unfiling AS (
  DELETE FROM {s}.filing AS old USING new WHERE old.sequence = new.sequence AND old.key NOT IN (SELECT key FROM asked)
), filing AS (
  INSERT INTO {s}.filing (key, sequence) SELECT key, sequence FROM asked, new ON CONFLICT DO NOTHING
)
SELECT sequence FROM new
"""
_LOAD = """/* endcap load */
WITH new AS (
  INSERT INTO {s}.record (key, kind, workspace, id, version, body)
  SELECT * FROM unnest(%s::bytea[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[]::json[])
  ON CONFLICT (key) DO NOTHING RETURNING sequence, key
), filing AS (
  INSERT INTO {s}.filing (key, sequence) SELECT asked.key, new.sequence FROM unnest(%s::bytea[], %s::bytea[]) AS asked (record, key)
  JOIN new ON new.key = asked.record
)
SELECT key FROM new
"""
_REMOVE = """/* endcap remove */
WITH gone AS (DELETE FROM {s}.record WHERE key = ANY(%s::bytea[]) RETURNING sequence),
unfiling AS (DELETE FROM {s}.filing AS old USING gone WHERE old.sequence = gone.sequence)
SELECT sequence FROM gone
"""
_COUNT = "/* endcap count */ SELECT count(*) FROM {s}.record"
_DUMP = "SELECT kind, workspace, version, body::text FROM {s}.record ORDER BY sequence"
_LIST = "/* endcap list */ SELECT sequence, workspace, body::text FROM {s}.record WHERE kind = %s AND sequence > %s ORDER BY sequence LIMIT %s"
_FILE = """/* endcap file */
WITH new AS (INSERT INTO {s}.filing (key, sequence) SELECT * FROM unnest(%s::bytea[], %s::bigint[]) ON CONFLICT DO NOTHING) SELECT 1
"""
_GET_FILED = "/* endcap filed */ SELECT names FROM {s}.filed_under WHERE kind = %s"
_SET_FILED = """/* endcap set filed */
INSERT INTO {s}.filed_under (kind, names) VALUES (%s, %s::text[]) ON CONFLICT (kind) DO UPDATE SET names = excluded.names RETURNING kind
"""
_AT_ONCE = 2000


class _Reader(ABC):
    """Reads by statements of its database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._get = database.word(_GET)
        self._find = {
            (down, paged, asked): _word_find(database, down=down, paged=paged, asked=asked)
            for down in (False, True)
            for paged in (False, True)
            for asked in (False, True)
        }

    @abstractmethod
    def _ask(self, statement: str, values: Sequence[object]) -> list[Any]: ...

    @abstractmethod
    def file_anew(self, kind: Kind[R]) -> bool:
        """File the records of a kind under those of its indexes under which they are not filed yet. Returns False where that cannot be written."""
        ...

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
        given = (make_key(kind.name, workspace, name, value), *place, at_most, *((_show(kind.name), name) if where else ()))
        rows = self._ask(self._find[newest_first, after is not None, bool(where)], given)
        if rows and rows[-1][0] is None:
            if self.file_anew(kind):
                return self.find(kind, workspace=workspace, where=where, newest_first=newest_first, after=after, limit=limit)
            records = self.find(kind, workspace=workspace, newest_first=newest_first, after=after)
            return [record for record in records if (name, value) in kind.keys_of(record)][:limit]
        if after is not None and not rows and self.get_versioned(kind, workspace=workspace, id=after) is None:
            raise missing_place(kind.name, after)
        return kind.decode_all(body for (body,) in rows)


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
        key, filed = make_key(kind.name, workspace, identity), (_show(kind.name), list(kind.index_names))
        statement, given = (
            (self._database.word(_APPEND), (key, _show(workspace), _show(identity), body, *filed, keys))
            if expected_version == 0
            else (self._database.word(_PUT), (body, key, expected_version, *filed, keys))
        )
        if not self._ask(statement, given) and not (self._narrow(kind.name, kind.index_names) and self._ask(statement, given)):
            raise conflict(kind.name, identity, expected_version)
        return expected_version + 1

    def remove(self, kind: Kind[R], *, workspace: str, ids: Sequence[str]) -> int:
        self._require_open()
        keys = [make_key(kind.name, workspace, identity) for identity in ids]
        return len(self._ask(self._database.word(_REMOVE), (keys,))) if keys else 0

    def load(self, records: Iterable[FiledRecord]) -> int:
        n, given = 0, iter(records)
        while some := list(islice(given, _AT_ONCE)):
            n += len(some)
            for kind, names in {(record.kind, frozenset(name for name, _ in record.keys)) for record in some}:
                self._narrow(kind, names)
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

    def file_anew(self, kind: Kind[R]) -> bool:
        """See ``_Reader``. Memory does not grow with the records."""
        standing, last = self._read_filed(kind.name), 0
        missing = kind.index_names - (kind.index_names if standing is None else standing)
        while missing and (some := self._ask(self._database.word(_LIST), (_show(kind.name), last, _AT_ONCE))):
            last = some[-1][0]
            filed = [
                (make_key(kind.name, workspace, name, value), sequence)
                for sequence, workspace, body in some
                for name, value in kind.keys_of(kind.decode(body))
                if name in missing
            ]
            self._ask(self._database.word(_FILE), ([key for key, _ in filed], [sequence for _, sequence in filed]))
        if missing:
            self._set_filed(kind.name, missing.union(standing or ()))
        return True

    def _narrow(self, kind: str, names: frozenset[str]) -> bool:
        """Note that a record comes that is filed under these indexes alone. Returns whether that was not noted yet."""
        standing = self._read_filed(kind)
        if standing is not None and standing <= names:
            return False
        self._set_filed(kind, names if standing is None else standing & names)
        return True

    def _read_filed(self, kind: str) -> frozenset[str] | None:
        """The indexes under which all records of a kind are filed; None where there was never one."""
        rows = self._ask(self._database.word(_GET_FILED), (_show(kind),))
        return frozenset(rows[0][0]) if rows else None

    def _set_filed(self, kind: str, names: frozenset[str]) -> None:
        self._ask(self._database.word(_SET_FILED), (_show(kind), sorted(names)))

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

    def file_anew(self, kind: Kind[R]) -> bool:
        try:
            with self.transact() as tx:
                return tx.file_anew(kind)
        except (StorageFull, Conflict, InvalidInput):
            return False

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


def _word_find(database: PostgresDatabase, *, down: bool, paged: bool, asked: bool) -> str:
    behind = _BEHIND.replace("{than}", "<" if down else ">") if paged else ""
    statement = (_SEARCH if asked else _FIND).replace("{behind}", behind).replace("{order}", "DESC" if down else "ASC")
    return database.word(statement)


def _show(text: str) -> str:
    """A text as people find it in the table, where it stands beside its key."""
    return text.replace("\x00", "\\u0000")
