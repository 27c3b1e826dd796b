"""The embedded back end: one folder. ``records.sqlite`` (WAL), ``blobs/`` by digest, ``tables/`` as Parquet.

Many threads and processes of one machine may share a home; the folder must be on a local disk, as WAL asks.
SQLite by the standard library: three statements need no mapper, and opening a home costs milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote as quote_url
from urllib.parse import unquote

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.storage.ports import Kind, Ports, R, iterate_partition_path, matches

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

_LAYOUT = 1
_BUSY_S = 30.0

# A record's body is the JSON of its type; `filed` holds one row per declared index and one, named '', for the kind itself.
_CREATE = """
CREATE TABLE IF NOT EXISTS record (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, workspace TEXT NOT NULL, id TEXT NOT NULL,
  version INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (kind, workspace, id)
);
CREATE TABLE IF NOT EXISTS filed (
  kind TEXT NOT NULL, workspace TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (kind, workspace, name, value, sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS filed_by_sequence ON filed (sequence);
"""
_GET = "SELECT body, version FROM record WHERE kind = ? AND workspace = ? AND id = ?"
_FIND = """
SELECT record.body FROM filed JOIN record ON record.sequence = filed.sequence
WHERE filed.kind = ? AND filed.workspace = ? AND filed.name = ? AND filed.value = ?
ORDER BY filed.sequence {order} LIMIT ?
"""
_INSERT = "INSERT INTO record (kind, workspace, id, version, body) VALUES (?, ?, ?, 1, ?)"
_UPDATE = "UPDATE record SET version = version + 1, body = ? WHERE kind = ? AND workspace = ? AND id = ? AND version = ? RETURNING sequence"
_UNFILE = "DELETE FROM filed WHERE sequence = ?"
_FILE = "INSERT INTO filed (kind, workspace, name, value, sequence) VALUES (?, ?, ?, ?, ?)"


class SqliteRecords:
    """Records in SQLite, one connection a thread. Writers take turns by ``BEGIN IMMEDIATE`` and wait up to 30 s for theirs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        connection = self._connection()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        if layout > _LAYOUT:
            raise InvalidInput(
                f"{path} was written by a newer Endcap (layout {layout}; this one knows {_LAYOUT}).",
                hint="upgrade endcap",
            )
        if layout < _LAYOUT:
            connection.executescript(_CREATE + f"PRAGMA user_version = {_LAYOUT};")

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        found = self.get_versioned(kind, workspace=workspace, id=id)
        return found[0] if found else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        row = self._connection().execute(_GET, (kind.name, workspace, id)).fetchone()
        return (kind.decode(row[0]), row[1]) if row else None

    def find(
        self,
        kind: Kind[R],
        *,
        workspace: str,
        where: Mapping[str, object] | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        name, value = kind.index_for(where) if where else ("", "")
        statement = _FIND.format(order="DESC" if newest_first else "ASC")
        rows = self._connection().execute(statement, (kind.name, workspace, name, value, -1 if limit is None else limit))
        return [kind.decode(body) for (body,) in rows]

    @contextmanager
    def transact(self) -> Iterator[SqliteRecords]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield self
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self.put(kind, workspace=workspace, record=record, expected_version=0)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        connection, identity, body = self._connection(), kind.id_of(record), kind.encode(record)
        if expected_version == 0:
            try:
                sequence = connection.execute(_INSERT, (kind.name, workspace, identity, body)).lastrowid
            except sqlite3.IntegrityError as error:
                raise Conflict(f"The {kind.name} '{identity}' stands already.") from error
        else:
            row = connection.execute(_UPDATE, (body, kind.name, workspace, identity, expected_version)).fetchone()
            if row is None:
                raise Conflict(
                    f"The {kind.name} '{identity}' was changed since version {expected_version} was read.",
                    hint="read it again, then retry",
                )
            sequence = row[0]
            connection.execute(_UNFILE, (sequence,))
        keys = [("", ""), *kind.keys_of(record)]
        connection.executemany(_FILE, [(kind.name, workspace, name, value, sequence) for name, value in keys])
        return expected_version + 1

    def close(self) -> None:
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Closing happens in one thread for all, hence check_same_thread; each connection is used by the thread that made it.
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection


class FolderBlobs:
    """Bytes in ``ab/abcdef...`` by their SHA-256; checked on every read."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, payload: bytes) -> str:
        digest = hashlib.sha256(payload).hexdigest()
        path = self._path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, payload)
        return digest

    def get(self, digest: str) -> bytes:
        try:
            payload = self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"No bytes are kept under {digest!r}.") from error
        if hashlib.sha256(payload).hexdigest() != digest:
            raise IntegrityBroken(
                f"The bytes kept under {digest} were changed at rest.",
                hint="restore the file from a backup, or train the version again",
            )
        return payload

    def has(self, digest: str) -> bool:
        return self._path(digest).exists()

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound(f"No bytes are kept under {digest!r}.")
        return self._root / digest[:2] / digest


class FolderTables:
    """Datasets as folders, partitions as folders ``name=value``, one Parquet file in each."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._folder(dataset, partition) / "rows.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        replace_file(path, sink.getvalue())
        return int(table.num_rows)

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return self.scan(dataset, partition=partition).to_table(columns=list(columns) if columns is not None else None)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        import pyarrow.dataset as pads

        found = self.partitions(dataset, partition=partition)
        if not found:
            where = f" with {dict(partition)}" if partition else ""
            raise NotFound(f"Nothing is kept in '{dataset}'{where}.")
        return pads.dataset([str(self._folder(dataset, p) / "rows.parquet") for p in found], format="parquet")

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        root = self._root / dataset
        kept = []
        for path in root.rglob("rows.parquet"):
            pairs = [part.partition("=") for part in path.parent.relative_to(root).parts]
            kept.append({name: unquote(value) for name, _, value in pairs})
        return sorted((p for p in kept if matches(p, partition)), key=lambda p: list(p.values()))

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        (self._folder(dataset, partition) / "rows.parquet").unlink(missing_ok=True)

    def _folder(self, dataset: str, partition: Mapping[str, str]) -> Path:
        return self._root.joinpath(dataset, *iterate_partition_path(partition, quote=lambda value: quote_url(value, safe="")))


def replace_file(path: Path, payload: bytes) -> None:
    """Write a file so that readers and crashes see the old bytes or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_embedded(folder: Path) -> Ports:
    """Ports of a home in ``folder``, which is made with access for its owner only."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"The home {folder} is a file.", hint="give a folder; it is made if it is not there")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        records = SqliteRecords(folder / "records.sqlite")
    except (OSError, sqlite3.DatabaseError) as error:
        raise InvalidInput(f"The home {folder} cannot be opened: {error}.", hint="give --home a folder that you may write to") from error
    return Ports(url=str(folder), records=records, blobs=FolderBlobs(folder / "blobs"), tables=FolderTables(folder / "tables"))
