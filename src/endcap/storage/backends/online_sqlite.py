"""Online rows in SQLite: ``online.sqlite`` in the home, apart from the records, so that a load never keeps a lease waiting.

One table for each space, one packed row for each key, in the order of the keys. Measured with 1 M keys of 8 bytes and rows of 102: rows filed
under their key (WITHOUT ROWID) are read in 7 us where an index beside the rows takes 8, reading through the operating system's own pages
(``mmap_size``) halves the time of 100 keys (230 against 520 us) at no memory of ours, and pages of 16 KiB rather than 4 take another tenth off it
and a third off a batch over scattered keys. Keys written in their order load at 340,000 rows a CPU second, at random at 50,000: a batch is
sorted first, and whoever loads much sorts all of it.

A batch is one transaction, on the disk when ``write`` returns (``synchronous = FULL``). NORMAL would save the fsync, which a batch of 100,000
rows does not notice, and might lose what was acknowledged when the power fails.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, local
from typing import Any

from endcap.storage.backends.sqlite_file import SqliteFile
from endcap.storage.ports import STAMP_BYTES, require_batch, require_limit, require_space

_LAYOUT = 1
_PAGE_BYTES = 16_384
_PREFIX = "rows_"
# All that SQLite maps; a log that grew in a load is cut to 64 MiB; of a row that is removed or replaced no byte stays in the file.
_PRAGMAS = ("mmap_size = 2147418112", "journal_size_limit = 67108864", "secure_delete = ON")
_MOST_AT_ONCE = 256  # keys in one statement; powers of two up to it keep the statements few

# A table's name is the space's in hex: any text is a name then, and there is no list of names that could differ from the tables.
_CREATE = "CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"
_WRITE = f"""
INSERT INTO {{table}} (key, row) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET row = excluded.row
WHERE substr(excluded.row, 1, {STAMP_BYTES}) >= substr(row, 1, {STAMP_BYTES})
"""
_GET = "SELECT row FROM {table} WHERE key = ?"
_READ = "WITH asked (key) AS (VALUES {places}) SELECT stands.key, stands.row FROM asked CROSS JOIN {table} AS stands ON stands.key = asked.key"
_SAMPLE = "SELECT key, row FROM {table} WHERE key IN (SELECT key FROM {table} ORDER BY random() LIMIT ?)"
_REMOVE = "DELETE FROM {table} WHERE key = ?"
_ANY = "SELECT EXISTS (SELECT 1 FROM {table})"
_COUNT = "SELECT count(*) FROM {table}"
_DROP = "DROP TABLE IF EXISTS {table}"
_TABLES = f"SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, {len(_PREFIX)}) = '{_PREFIX}'"


class SqliteOnline:
    """Online rows in the file at ``path``, which is opened, and made, when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: SqliteFile | None = None
        self._lock = Lock()
        self._local = local()
        self._gets: dict[str, str] = {}
        self._reads: dict[str, dict[int, str]] = {}

    @property
    def n_rows_at_once(self) -> int:
        """So many that a batch over a large space writes each page once; it takes a third of a second, in which no reader waits."""
        return 100_000

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        require_batch(space, keys, rows)
        if not keys:
            return 0
        table = _name_table(space)
        order = sorted(range(len(keys)), key=keys.__getitem__)  # of equal keys the first stays first
        file = self._open()
        connection = file.begin()
        try:
            with file.telling():
                connection.execute(_CREATE.format(table=table))
                put = connection.executemany(_WRITE.format(table=table), ((keys[place], rows[place]) for place in order))
                connection.execute("COMMIT")
        finally:
            file.roll_back(connection)
        return put.rowcount

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        file = self._file or self._open_standing()
        if file is None:
            return [[None] * len(keys) for _, keys in requests]
        try:
            connection = file.connection()
            connection.execute("BEGIN DEFERRED")
            try:
                return [self._read(connection, space, keys) for space, keys in requests]
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            told = file.explain(error)
            if told is None:
                raise
            raise told from error

    def get(self, space: str, key: bytes) -> bytes | None:
        """See ``OnlineStore``. A statement of its own sees one instant, so no transaction is begun; the thread's cursor is at hand."""
        try:
            found = self._local.ask(self._gets[space], (key,)).fetchone()
        except (AttributeError, KeyError, sqlite3.Error):  # the thread's first look, or the space's; one that failed is made again and says why
            rows = self._ask(_GET, space, key)
            self._remember(space)
            return rows[0][0] if rows else None
        return found[0] if found else None

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        """See ``OnlineStore``. Cost: one look at every key."""
        return self._ask(_SAMPLE, space, require_limit(n))

    def count(self, space: str) -> int:
        """See ``OnlineStore``. Cost: one look at every page."""
        found = self._ask(_COUNT, space)
        return int(found[0][0]) if found else 0

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        file, table = self._open_standing(), _name_table(space)
        if file is None or not keys:
            return 0
        connection = file.begin()
        try:
            with file.telling():
                connection.execute(_CREATE.format(table=table))
                n_removed = connection.executemany(_REMOVE.format(table=table), ((key,) for key in keys)).rowcount
                if not connection.execute(_ANY.format(table=table)).fetchone()[0]:
                    connection.execute(_DROP.format(table=table))
                connection.execute("COMMIT")
        finally:
            file.roll_back(connection)
        return n_removed

    def drop(self, space: str) -> None:
        file, table = self._open_standing(), _name_table(space)
        if file is not None:
            connection = file.begin()
            try:
                with file.telling():
                    connection.execute(_DROP.format(table=table))
                    connection.execute("COMMIT")
            finally:
                file.roll_back(connection)

    def spaces(self) -> list[str]:
        file = self._open_standing()
        if file is None:
            return []
        with file.telling():
            names = file.connection().execute(_TABLES).fetchall()
        return sorted(bytes.fromhex(name.removeprefix(_PREFIX)).decode() for (name,) in names)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file, self._local = None, local()

    def _read(self, connection: sqlite3.Connection, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Rows of one space inside a transaction, by statements of 256, 128, 64 ... keys."""
        found: dict[bytes, bytes] = {}
        start, n, statements = 0, len(keys), self._word_reads(space)
        try:
            while start < n:
                size = min(_MOST_AT_ONCE, 1 << ((n - start).bit_length() - 1))
                found.update(connection.execute(statements[size], keys[start : start + size]).fetchall())
                start += size
        except sqlite3.OperationalError as error:
            if not _has_no_table(error):
                raise
        return list(map(found.get, keys))

    def _remember(self, space: str) -> None:
        """Keep the statement of a space and the calling thread's cursor; that of a file which is only looked at may be another next time."""
        self._gets[space] = _GET.format(table=_name_table(space))
        self._local.__dict__.pop("ask", None)
        if self._file is not None and not self._file.is_frozen():
            self._local.ask = self._file.connection().cursor().execute

    def _word_reads(self, space: str) -> dict[int, str]:
        known = self._reads.get(space)
        if known is None:
            table, sizes = _name_table(space), [1 << power for power in range(_MOST_AT_ONCE.bit_length())]
            known = self._reads[space] = {n: _READ.format(table=table, places=", ".join(["(?)"] * n)) for n in sizes}
        return known

    def _open(self) -> SqliteFile:
        with self._lock:
            if self._file is None:
                self._file = SqliteFile(self._path, holds="online rows", layout=_LAYOUT, pragmas=_PRAGMAS, page_bytes=_PAGE_BYTES)
            return self._file

    def _open_standing(self) -> SqliteFile | None:
        """The file if there is one: looking makes none."""
        return self._file or (self._open() if self._path.exists() else None)

    def _ask(self, statement: str, space: str, *values: object) -> list[Any]:
        """What a statement finds in a space; nothing where there is no file or no table."""
        file, table = self._open_standing(), _name_table(space)
        if file is None:
            return []
        with file.telling():
            try:
                return file.connection().execute(statement.format(table=table), values).fetchall()
            except sqlite3.OperationalError as error:
                if _has_no_table(error):
                    return []
                raise


def _has_no_table(error: sqlite3.DatabaseError) -> bool:
    return str(error).startswith("no such table")


def _name_table(space: str) -> str:
    return _PREFIX + require_space(space).hex()
