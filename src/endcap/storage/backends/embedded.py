"""The embedded back end: one folder. ``records.sqlite`` (WAL), ``blobs/`` by digest, ``tables/`` as Parquet, ``online.sqlite``, ``tracks.sqlite``.

Many threads and processes of one machine may share a home; the folder must be on a local disk, as WAL asks.
SQLite by the standard library: three statements need no mapper, and opening a home costs milliseconds.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote

import msgspec

from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, InvalidInput, StorageFull
from endcap.core.names import require_name
from endcap.storage.backends.online_sqlite import SqliteOnline
from endcap.storage.backends.sqlite_file import SqliteFile
from endcap.storage.backends.tracks_sqlite import SqliteTracks
from endcap.storage.files import hold_files, place_by_content, read_pieces, remove_left_behind, replacing, telling_full
from endcap.storage.frozen import FiledRecord, Frozen, HeldPartition, RawRecord
from endcap.storage.landing import LandingFolder
from endcap.storage.parquet import open_files, open_parquet, read_parquet, write_parquet
from endcap.storage.ports import (
    CHUNK_BYTES,
    Kind,
    Ports,
    R,
    changed_bytes,
    conflict,
    ended_transaction,
    matches,
    missing_bytes,
    missing_place,
    partition_folders,
    require_chunk_bytes,
    require_limit,
    too_many_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

_LAYOUT = 2
_ROWS = "rows.parquet"

# A record's body is the JSON of its type; `filing` holds one row per declared index and one, named '', for the kind itself. `filed_under` has, for
# each kind that has records, the indexes under which all of them are filed, as JSON.
_CREATE = """
CREATE TABLE IF NOT EXISTS record (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, workspace TEXT NOT NULL, id TEXT NOT NULL,
  version INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (kind, workspace, id)
);
CREATE TABLE IF NOT EXISTS filed (
  kind TEXT NOT NULL, workspace TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (kind, workspace, name, value, sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS filed_by_sequence ON filed (sequence)
"""
# In layout 1 nothing said under which indexes records are filed, so they are counted. Processes of an older Endcap that have the home open know
# nothing of `filed_under`: the table has another name since, so that their writes fail.
_UPGRADE = """
ALTER TABLE filed RENAME TO filing;
CREATE TABLE filed_under (kind TEXT PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO filed_under
WITH whole AS (SELECT kind, count(*) AS n FROM record GROUP BY kind), part AS (SELECT kind, name, count(*) AS n FROM filing GROUP BY kind, name)
SELECT whole.kind, '[' || ifnull(group_concat('"' || part.name || '"'), '') || ']' FROM whole
LEFT JOIN part ON part.kind = whole.kind AND part.n = whole.n AND part.name <> '' GROUP BY whole.kind
"""
_GET = "SELECT body, version FROM record WHERE kind = ? AND workspace = ? AND id = ?"
_FIND = """
SELECT record.body FROM filing JOIN record ON record.sequence = filing.sequence
WHERE filing.kind = ?1 AND filing.workspace = ?2 AND filing.name = ?3 AND filing.value = ?4 {behind}
ORDER BY filing.sequence {order} LIMIT ?6
"""
# The same of a kind that has records, or one number: 0 where not all of them are filed under the index, another where they are and none is found. It
# is one statement, so that it is said of what was found.
_SEARCH = """
SELECT ifnull(record.body, instr(names, ?5)) FROM filed_under
LEFT JOIN filing ON filing.kind = CASE WHEN instr(names, ?5) THEN ?1 END AND filing.workspace = ?2 AND filing.name = ?3 AND filing.value = ?4 {behind}
LEFT JOIN record ON record.sequence = filing.sequence
WHERE filed_under.kind = ?1 ORDER BY filing.sequence {order} LIMIT ?6
"""
_BEHIND = "AND filing.sequence {than} (SELECT sequence FROM record WHERE kind = ?1 AND workspace = ?2 AND id = ?7)"
_FINDING = {
    (asked, down, paged): (_SEARCH if asked else _FIND).format(
        order="DESC" if down else "ASC", behind=_BEHIND.format(than="<" if down else ">") if paged else ""
    )
    for asked in (False, True)
    for down in (False, True)
    for paged in (False, True)
}
_INSERT = "INSERT INTO record (kind, workspace, id, version, body) VALUES (?, ?, ?, 1, ?)"
_UPDATE = "UPDATE record SET version = version + 1, body = ? WHERE kind = ? AND workspace = ? AND id = ? AND version = ? RETURNING sequence"
_UNFILE = "DELETE FROM filing WHERE sequence = ?"
_REMOVE = "DELETE FROM record WHERE kind = ? AND workspace = ? AND id = ? RETURNING sequence"
_LOAD = "INSERT INTO record (kind, workspace, id, version, body) VALUES (?, ?, ?, ?, ?)"
_DUMP = "SELECT kind, workspace, version, body FROM record ORDER BY sequence"
_COUNT = "SELECT count(*) FROM record"
_FILE = "INSERT INTO filing (kind, workspace, name, value, sequence) VALUES (?, ?, ?, ?, ?)"
_FILE_AGAIN = _FILE.replace("INSERT", "INSERT OR IGNORE")
_LIST = "SELECT sequence, workspace, body FROM record WHERE kind = ?"
_GET_FILED = "SELECT names FROM filed_under WHERE kind = ?"
_SET_FILED = "INSERT OR REPLACE INTO filed_under (kind, names) VALUES (?, ?)"
_AT_ONCE = 2000


class _Reader(ABC):
    """Reads through a connection, and so sees what that connection has written and not yet committed."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    @abstractmethod
    def _connection(self) -> sqlite3.Connection: ...

    @abstractmethod
    def file_anew(self, kind: Kind[R]) -> bool:
        """File the records of a kind under those of its indexes under which they are not filed yet. Returns False where that cannot be written."""
        ...

    @contextmanager
    def _telling(self) -> Iterator[None]:
        with self._file.telling():
            yield

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        found = self.get_versioned(kind, workspace=workspace, id=id)
        return found[0] if found else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        try:
            with self._telling():
                row = self._connection().execute(_GET, (kind.name, workspace, id)).fetchone()
        except UnicodeEncodeError:
            return None  # nothing can be kept under a text that is not Unicode
        return (kind.decode(row[0]), row[1]) if row else None

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
        statement = _FINDING[bool(where), newest_first, after is not None]
        given = (kind.name, workspace, name, value, f'"{name}"', -1 if limit is None else limit, *(() if after is None else (after,)))
        with self._telling():
            bodies = [body for (body,) in self._connection().execute(statement, given)]  # many tuples at once would keep the collector busy
        if len(bodies) == 1 and isinstance(bodies[0], int) and bodies.pop() == 0:  # the number goes, whichever it is
            return self._find_unfiled(kind, workspace=workspace, where=where or {}, newest_first=newest_first, after=after, limit=limit)
        if after is not None and not bodies and self.get_versioned(kind, workspace=workspace, id=after) is None:
            raise missing_place(kind.name, after)
        return kind.decode_all(bodies)

    def _find_unfiled(
        self, kind: Kind[R], *, workspace: str, where: Mapping[str, object], newest_first: bool, after: str | None, limit: int | None
    ) -> list[R]:
        if self.file_anew(kind):
            return self.find(kind, workspace=workspace, where=where, newest_first=newest_first, after=after, limit=limit)
        records, wanted = self.find(kind, workspace=workspace, newest_first=newest_first, after=after), kind.index_for(where)
        return [record for record in records if wanted in kind.keys_of(record)][:limit]


class SqliteTransaction(_Reader):
    """Writes through a connection on which a transaction was begun. Without one, each statement would be kept on its own."""

    def __init__(self, file: SqliteFile, connection: sqlite3.Connection) -> None:
        super().__init__(file)
        self._own: sqlite3.Connection | None = connection
        self._broken: EndcapError | None = None
        self._narrowed: dict[str, frozenset[str]] = {}

    def _connection(self) -> sqlite3.Connection:
        if self._own is None:
            raise ended_transaction()
        return self._own

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self.put(kind, workspace=workspace, record=record, expected_version=0)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        connection, identity, body = self._connection(), kind.id_of(record), kind.encode(record)
        keys = [("", ""), *kind.keys_of(record)]  # before the first statement: it may refuse
        with self._telling():
            self._narrow(kind.name, kind.index_names)
            if expected_version == 0:
                try:
                    sequence = connection.execute(_INSERT, (kind.name, workspace, identity, body)).lastrowid
                except sqlite3.IntegrityError as error:
                    raise conflict(kind.name, identity, expected_version) from error
            else:
                row = connection.execute(_UPDATE, (body, kind.name, workspace, identity, expected_version)).fetchone()
                if row is None:
                    raise conflict(kind.name, identity, expected_version)
                sequence = row[0]
                connection.execute(_UNFILE, (sequence,))
            connection.executemany(_FILE, [(kind.name, workspace, name, value, sequence) for name, value in keys])
        return expected_version + 1

    def remove(self, kind: Kind[R], *, workspace: str, ids: Sequence[str]) -> int:
        connection, n = self._connection(), 0
        with self._telling():
            for identity in ids:
                row = connection.execute(_REMOVE, (kind.name, workspace, identity)).fetchone()
                if row is not None:
                    connection.execute(_UNFILE, row)
                    n += 1
        return n

    def load(self, records: Iterable[FiledRecord]) -> int:
        connection, n = self._connection(), 0
        with self._telling():
            for n, record in enumerate(records, 1):  # noqa: B007 - how many they were
                try:
                    given = (record.kind, record.workspace, record.id, record.version, record.body)
                    sequence = connection.execute(_LOAD, given).lastrowid
                except sqlite3.IntegrityError as error:
                    raise conflict(record.kind, record.id, 0) from error
                self._narrow(record.kind, frozenset(name for name, _ in record.keys))
                keys = [("", ""), *record.keys]
                connection.executemany(_FILE, [(record.kind, record.workspace, name, value, sequence) for name, value in keys])
        return n

    def count(self) -> int:
        with self._telling():
            (n,) = self._connection().execute(_COUNT).fetchone()
        return int(n)

    def file_anew(self, kind: Kind[R]) -> bool:
        """See ``_Reader``. Memory does not grow with the records."""
        with self._telling():
            connection, standing = self._connection(), self._read_filed(kind.name)
            missing = kind.index_names - (kind.index_names if standing is None else standing)
            if missing:
                found = connection.execute(_LIST, (kind.name,))
                while some := found.fetchmany(_AT_ONCE):
                    connection.executemany(_FILE_AGAIN, [
                        (kind.name, workspace, name, value, sequence)
                        for sequence, workspace, body in some
                        for name, value in kind.keys_of(kind.decode(body))
                        if name in missing
                    ])  # fmt: skip
                self._set_filed(kind.name, missing.union(standing or ()))
        return True

    def _narrow(self, kind: str, names: frozenset[str]) -> None:
        """Note that a record comes that is filed under these indexes alone."""
        if self._narrowed.get(kind) != names:
            standing = self._read_filed(kind)
            if standing is None or not standing <= names:
                self._set_filed(kind, names if standing is None else standing & names)
            self._narrowed[kind] = names

    def _read_filed(self, kind: str) -> frozenset[str] | None:
        """The indexes under which all records of a kind are filed; None where there was never one."""
        row = self._connection().execute(_GET_FILED, (kind,)).fetchone()
        return frozenset(msgspec.json.decode(row[0])) if row else None

    def _set_filed(self, kind: str, names: frozenset[str]) -> None:
        self._connection().execute(_SET_FILED, (kind, msgspec.json.encode(sorted(names)).decode()))
        self._narrowed.pop(kind, None)

    def commit(self) -> None:
        """Keep what was written. Raises what broke the transaction, even where its block went on regardless."""
        if self._broken is not None:
            raise self._broken
        with self._telling():
            self._connection().execute("COMMIT")

    def end(self) -> None:
        """Take nothing more."""
        self._own = None

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with super()._telling():
                yield
        except (StorageFull, IntegrityBroken) as error:
            self._broken = error  # SQLite may have taken all back by itself: what came after would be kept without what came before
            self.end()
            raise


class SqliteRecords(_Reader):
    """Records in SQLite, one connection a thread. Writers take turns by ``BEGIN IMMEDIATE`` and wait up to 30 s for theirs."""

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteFile(path, holds="records", layout=_LAYOUT, create=_CREATE, upgrades=(_UPGRADE,), pragmas=("secure_delete = FAST",)))

    @contextmanager
    def transact(self) -> Iterator[SqliteTransaction]:
        connection = self._file.begin()
        tx = SqliteTransaction(self._file, connection)
        try:
            yield tx
            tx.commit()
        finally:
            tx.end()
            self._file.roll_back(connection)

    def file_anew(self, kind: Kind[R]) -> bool:
        try:
            with self.transact() as tx:
                return tx.file_anew(kind)
        except (StorageFull, Conflict, InvalidInput):
            return False

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def holding_off(self) -> Iterator[None]:
        """Nobody writes while the block lasts."""
        connection = self._file.begin()
        try:
            yield
        finally:
            self._file.roll_back(connection)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """What is committed when the block begins; see ``dump_records``."""
        with self._file.snapshot() as connection:
            yield connection

    def dump(self, connection: sqlite3.Connection) -> Iterator[RawRecord]:
        """All records that a snapshot sees, in their order."""
        with self._telling():
            for row in connection.execute(_DUMP):
                yield RawRecord(*row)

    def _connection(self) -> sqlite3.Connection:
        return self._file.connection()


class FolderBlobs:
    """Bytes in ``ab/abcdef...`` by their SHA-256; checked on every read."""

    def __init__(self, root: Path, *, unfinished: Path) -> None:
        self._root = root.absolute()  # workers elsewhere need not stand in the same folder
        self._unfinished = unfinished.absolute()

    def put(self, payload: bytes) -> str:
        digest = hashlib.sha256(payload).hexdigest()
        path = self._path(digest)
        with suppress(FileNotFoundError):
            if path.read_bytes() == payload:
                return digest
        with replacing(path, unfinished=self._unfinished, n_bytes=len(payload)) as file:  # new, or damaged since: putting the bytes again heals them
            file.write(payload)
        return digest

    def get(self, digest: str) -> bytes:
        try:
            payload = self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise missing_bytes(digest) from error
        if hashlib.sha256(payload).hexdigest() != digest:
            raise changed_bytes(digest)
        return payload

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        """See ``BlobStore``. What comes is written aside, hashed on its way, and moved under its digest."""
        total, n_bytes = hashlib.sha256(), 0

        def write(file: IO[bytes]) -> Path:
            nonlocal n_bytes
            for chunk in chunks:
                n_bytes += len(chunk)
                if most_bytes is not None and n_bytes > most_bytes:
                    raise too_many_bytes(most_bytes)
                total.update(chunk)
                with telling_full(self._root):
                    file.write(chunk)
            return self._path(total.hexdigest())

        place_by_content(write, unfinished=self._unfinished)
        return total.hexdigest(), n_bytes

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """See ``BlobStore``. The file is opened at once, so that it is there whatever becomes of its name meanwhile."""
        require_chunk_bytes(n_bytes)
        try:
            file = self._path(digest).open("rb")
        except FileNotFoundError as error:
            raise missing_bytes(digest) from error
        return _check_chunks(file, digest, n_bytes)

    def has(self, digest: str) -> bool:
        return _is_digest(digest) and self._path(digest).exists()

    def list_digests(self) -> Iterator[tuple[str, int]]:
        for folder in sorted(self._root.iterdir()) if self._root.exists() else ():
            with os.scandir(folder) as inside:
                yield from sorted((entry.name, entry.stat().st_size) for entry in inside if _is_digest(entry.name))

    def _path(self, digest: str) -> Path:
        if not _is_digest(digest):
            raise missing_bytes(digest)
        return self._root / digest[:2] / digest


class FolderTables:
    """Datasets as folders, partitions as folders ``name=value``, one Parquet file in each."""

    def __init__(self, root: Path, *, unfinished: Path) -> None:
        self._root = root
        self._unfinished = unfinished

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        path = self._path(dataset, partition)
        with replacing(path, unfinished=self._unfinished, n_bytes=table.nbytes) as file:
            return write_parquet(table, sink=file)

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        files = open_files(path for _, path in self._list(dataset, partition))
        return read_parquet(files, dataset=dataset, partition=partition, columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        files = open_files(path for _, path in self._list(dataset, partition))
        return open_parquet(list(files), dataset=dataset, partition=partition)

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        return [found for found, _ in self._list(dataset, partition)]

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        self._path(dataset, partition).unlink(missing_ok=True)

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        with replacing(self._path(dataset, partition), unfinished=self._unfinished) as file:
            for chunk in chunks:
                file.write(chunk)

    def measure(self, dataset: str, *, partition: Mapping[str, str]) -> int:
        try:
            return self._path(dataset, partition).stat().st_size
        except FileNotFoundError:
            return 0

    def list_sizes(self, *, partition: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str], int]]:
        root = str(self._root)
        for path in _find_rows(root):
            dataset, found = _read_address(path, root)
            if matches(found, partition):
                with suppress(FileNotFoundError):  # gone since
                    yield dataset, found, os.stat(path).st_size  # noqa: PTH116 - a text: there are many

    def hold(self, stack: ExitStack) -> list[HeldPartition]:
        """All partitions as they stand, each under a second name until the stack is closed: see ``hold_files``."""
        root, found = str(self._root), list(_find_rows(str(self._root)))
        held = stack.enter_context(hold_files(found, unfinished=self._unfinished))
        partitions = []
        for path, name in zip(found, held, strict=True):
            if name is not None:
                dataset, partition = _read_address(path, root)
                partitions.append(HeldPartition(dataset, partition, partial(read_pieces, name, CHUNK_BYTES)))
        return sorted(partitions, key=lambda found: (found.dataset, list(found.partition.values())))

    def _path(self, dataset: str, partition: Mapping[str, str]) -> Path:
        return self._root.joinpath(require_name(dataset, what="dataset"), *partition_folders(partition), _ROWS)

    def _list(self, dataset: str, wanted: Mapping[str, str] | None) -> list[tuple[dict[str, str], str]]:
        """Partitions and their files. Folders whose value is not wanted are not entered."""
        found: list[tuple[dict[str, str], str]] = []
        waiting: list[tuple[dict[str, str], Path]] = [({}, self._root / require_name(dataset, what="dataset"))]
        while waiting:
            partition, folder = waiting.pop()
            try:
                inside = list(folder.iterdir())
            except FileNotFoundError:
                continue
            for path in inside:
                field, separator, value = path.name.partition("=")
                if separator and (wanted or {}).get(field, unquote(value)) == unquote(value):
                    waiting.append(({**partition, field: unquote(value)}, path))
                elif path.name == _ROWS and matches(partition, wanted):
                    found.append((partition, str(path)))
        return sorted(found, key=lambda entry: list(entry[0].values()))


def _read_address(path: str, root: str) -> tuple[str, dict[str, str]]:
    """The dataset and the partition that a file of rows holds."""
    dataset, *folders, _ = path[len(root) + 1 :].split("/")
    pairs = (folder.partition("=") for folder in folders)
    return dataset, {field: unquote(value) for field, _, value in pairs}


def _find_rows(root: str) -> Iterator[str]:
    """The files of all partitions of all datasets."""
    waiting = [root]
    while waiting:
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as inside:  # gone since, with its partition
            for entry in inside:
                if entry.name == _ROWS:
                    yield entry.path
                elif entry.is_dir():
                    waiting.append(entry.path)


def _check_chunks(file: IO[bytes], digest: str, n_bytes: int) -> Iterator[bytes]:
    """The pieces of a file; the last one only if all of them together are what the digest says."""
    total = hashlib.sha256()
    with file:
        chunk = file.read(n_bytes)
        while chunk:
            total.update(chunk)
            following = file.read(n_bytes)
            if not following:
                break
            yield chunk
            chunk = following
    if total.hexdigest() != digest:
        raise changed_bytes(digest)
    if chunk:
        yield chunk


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def open_embedded(folder: Path) -> Ports:
    """Ports of a home in ``folder``, which is made with access for its owner only. What killed writers left unfinished is removed."""
    try:
        if folder.exists() and not folder.is_dir():
            raise InvalidInput(f"The home {folder} is a file.", hint="give a folder; it is made if it is not there")
        with telling_full(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        records = SqliteRecords(folder / "records.sqlite")
    except (OSError, ValueError, sqlite3.DatabaseError) as error:
        raise InvalidInput(f"The home {folder} cannot be opened: {error}.", hint="give --home a folder that you may write to") from error
    unfinished = folder / "unfinished"
    remove_left_behind(unfinished)
    blobs, tables = FolderBlobs(folder / "blobs", unfinished=unfinished), FolderTables(folder / "tables", unfinished=unfinished)
    online, landing = SqliteOnline(folder / "online.sqlite"), LandingFolder(folder / "landed")
    tracks = SqliteTracks(folder / "tracks.sqlite")

    @contextmanager
    def freeze() -> Iterator[Frozen]:
        with ExitStack() as stack:
            with records.holding_off():
                connection = stack.enter_context(records.snapshot())
                dump_tracks = stack.enter_context(tracks.snapshot())
                held, landed = tables.hold(stack), landing.hold(stack)
            yield Frozen(lambda: records.dump(connection), dump_tracks, held, landed)

    return Ports(
        url=str(folder),
        records=records,
        blobs=blobs,
        tables=tables,
        online=online,
        tracks=tracks,
        freeze=freeze,
        landing=landing,
        folder=folder,
    )
