"""Blobs and tables in PostgreSQL: bytes in chunks of 1 MiB, so that neither side holds a large one several times.

The database keeps them as they are (``STORAGE EXTERNAL``): what is large here is packed already. A row of chunks goes in one transaction, so that
what is there is there as a whole. Measured on a loopback, see ``docs/postgres.md``: a folder is quicker by far for large tables, and
``?files=/shared/folder`` in the URL of the home puts blobs and tables into one.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from endcap.core.names import require_name
from endcap.storage.backends.postgres_records import make_key
from endcap.storage.backends.postgres_server import Connection, PostgresDatabase, share_database
from endcap.storage.files import telling_full
from endcap.storage.frozen import HeldPartition
from endcap.storage.parquet import open_parquet, read_parquet, write_parquet
from endcap.storage.ports import CHUNK_BYTES, changed_bytes, missing_bytes, partition_folders, require_chunk_bytes, too_many_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

_CHUNK_BYTES = 2**20
_CHUNKS_AT_ONCE = 4
_IN_MEMORY_BYTES = 2**20

CREATE_FILES = """
CREATE TABLE {s}.blob (digest bytea NOT NULL, place int NOT NULL, chunk bytea NOT NULL, PRIMARY KEY (digest, place));
ALTER TABLE {s}.blob ALTER COLUMN chunk SET STORAGE EXTERNAL;
CREATE TABLE {s}.partition (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key bytea NOT NULL UNIQUE, address text[] NOT NULL,
  n_rows bigint NOT NULL, n_bytes bigint NOT NULL
);
CREATE INDEX partition_by_address ON {s}.partition USING gin (address);
CREATE TABLE {s}.partition_chunk (
  partition bigint NOT NULL REFERENCES {s}.partition ON DELETE CASCADE, place int NOT NULL, chunk bytea NOT NULL, PRIMARY KEY (partition, place)
);
ALTER TABLE {s}.partition_chunk ALTER COLUMN chunk SET STORAGE EXTERNAL;
"""
_HAS = "/* endcap has */ SELECT 1 FROM {s}.blob WHERE digest = %s AND place = 0"
_READ = "/* endcap blob */ SELECT chunk FROM {s}.blob WHERE digest = %s AND place >= %s AND place < %s ORDER BY place"
_DIGEST = "/* endcap digests */ SELECT place, sha256(chunk) FROM {s}.blob WHERE digest = %s"
# Of bytes that were damaged since, putting them again heals what differs; what is the same is not written again.
_KEEP = """/* endcap keep */
INSERT INTO {s}.blob AS standing (digest, place, chunk) VALUES (%s, %s, %s)
ON CONFLICT (digest, place) DO UPDATE SET chunk = excluded.chunk WHERE standing.chunk <> excluded.chunk
"""
_CUT = "/* endcap cut */ DELETE FROM {s}.blob WHERE digest = %s AND place >= %s"
_REPLACE = """/* endcap replace */
INSERT INTO {s}.partition (key, address, n_rows, n_bytes) VALUES (%s, %s::text[], %s, %s)
ON CONFLICT (key) DO UPDATE SET n_rows = excluded.n_rows, n_bytes = excluded.n_bytes RETURNING id
"""
_EMPTY = "/* endcap empty */ DELETE FROM {s}.partition_chunk WHERE partition = %s"
_FILL = "/* endcap fill */ INSERT INTO {s}.partition_chunk (partition, place, chunk) VALUES (%s, %s, %s)"
_FORGET = "/* endcap forget */ DELETE FROM {s}.partition WHERE key = %s"
_LIST = "/* endcap partitions */ SELECT id, address, n_bytes FROM {s}.partition WHERE address @> %s::text[]"
_MEASURE = "/* endcap measure */ SELECT n_bytes FROM {s}.partition WHERE key = %s"
_FETCH = """/* endcap partition */
SELECT partition, chunk FROM {s}.partition_chunk WHERE partition = ANY(%s::bigint[]) AND place >= %s AND place < %s ORDER BY partition, place
"""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_EVERY = "/* endcap every partition */ SELECT id, address FROM {s}.partition ORDER BY address"
_DIGESTS = "/* endcap every digest */ SELECT encode(digest, 'hex'), sum(length(chunk))::bigint FROM {s}.blob GROUP BY digest ORDER BY digest"


class PostgresBlobs:
    """Bytes by their SHA-256, checked on every read. A blob costs its size twice while it is read or put."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def __reduce__(self) -> tuple[Any, ...]:
        return _share_blobs, (self._database.address.url,)

    def put(self, payload: bytes) -> str:
        digest, view = hashlib.sha256(payload), memoryview(payload)
        self._keep(digest.digest(), lambda: (view[first : first + _CHUNK_BYTES] for first in range(0, len(view), _CHUNK_BYTES)), n_bytes=len(view))
        return digest.hexdigest()

    def get(self, digest: str) -> bytes:
        sink, sha256 = io.BytesIO(), hashlib.sha256()  # whose value is the buffer itself, no copy of it
        for chunk in self._read(digest):
            sha256.update(chunk)
            sink.write(chunk)
        if sha256.hexdigest() != digest:
            raise changed_bytes(digest)
        return sink.getvalue()

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        """See ``BlobStore``. What comes waits in a temporary file until its digest is known: no connection is held while it is sent."""
        total, n_bytes = hashlib.sha256(), 0
        with _spool_file() as waiting:
            for chunk in chunks:
                n_bytes += len(chunk)
                if most_bytes is not None and n_bytes > most_bytes:
                    raise too_many_bytes(most_bytes)
                total.update(chunk)
                with telling_full(Path(tempfile.gettempdir())):
                    waiting.write(chunk)
            self._keep(total.digest(), lambda: _read_pieces(waiting, _CHUNK_BYTES), n_bytes=n_bytes)
        return total.hexdigest(), n_bytes

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """See ``BlobStore``. Some 4 MiB are fetched at a time, and no connection is held between."""
        require_chunk_bytes(n_bytes)
        if not self.has(digest):
            raise missing_bytes(digest)
        return self._check(digest, n_bytes)

    def has(self, digest: str) -> bool:
        return _is_digest(digest) and bool(_ask(self._database, _HAS, (bytes.fromhex(digest),)))

    def list_digests(self) -> Iterator[tuple[str, int]]:
        yield from _ask(self._database, _DIGESTS, ())

    def _keep(self, name: bytes, chunks: Callable[[], Iterable[bytes | memoryview]], *, n_bytes: int) -> None:
        """Put the chunks that do not stand there yet, in one transaction; a single one by one statement."""
        keep, cut, digests = (self._database.word(statement) for statement in (_KEEP, _CUT, _DIGEST))
        n_chunks = max(1, -(-n_bytes // _CHUNK_BYTES))

        def keep_one(connection: Connection) -> None:
            connection.execute(keep, (name, 0, next(iter(chunks()), b"")), binary=True)

        def keep_many(connection: Connection) -> None:
            standing = dict(connection.execute(digests, (name,), binary=True).fetchall())
            for place, chunk in enumerate(chunks()):
                if standing.get(place) != hashlib.sha256(chunk).digest():
                    connection.execute(keep, (name, place, chunk), binary=True)
            if any(place >= n_chunks for place in standing):
                connection.execute(cut, (name, n_chunks), binary=True)

        if n_chunks == 1:
            self._database.run(keep_one)
        else:
            self._database.run(keep_many, begin="BEGIN")

    def _read(self, digest: str) -> Iterator[bytes]:
        """The chunks, some at a time. Raises NotFound where there is none."""
        if not _is_digest(digest):
            raise missing_bytes(digest)
        name, first = bytes.fromhex(digest), 0
        while True:
            rows = _ask(self._database, _READ, (name, first, first + _CHUNKS_AT_ONCE))
            if not rows and not first:
                raise missing_bytes(digest)
            for (chunk,) in rows:
                yield chunk
            if len(rows) < _CHUNKS_AT_ONCE:
                return
            first += _CHUNKS_AT_ONCE

    def _check(self, digest: str, n_bytes: int) -> Iterator[bytes]:
        """Pieces of a blob; the last one only if all of them together are what the digest says."""
        total, kept = hashlib.sha256(), b""
        for chunk in self._read(digest):
            total.update(chunk)
            pieces = [kept, chunk] if kept else [chunk]
            whole = b"".join(pieces)
            n_whole = (len(whole) - 1) // n_bytes * n_bytes if whole else 0  # at least a byte stays behind
            for start in range(0, n_whole, n_bytes):
                yield whole[start : start + n_bytes]
            kept = whole[n_whole:]
        if total.hexdigest() != digest:
            raise changed_bytes(digest)
        if kept:
            yield kept


class PostgresTables:
    """Partitions as Parquet in chunks. What is read is fetched in one snapshot; a partition above 1 MiB waits in a temporary file of its own."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def __reduce__(self) -> tuple[Any, ...]:
        return _share_tables, (self._database.address.url,)

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        address = _address(dataset, partition)
        with _spool_file() as sink:
            with telling_full(Path(tempfile.gettempdir()), n_bytes=table.nbytes):
                n_rows = write_parquet(table, sink=sink)
            self._replace(address, sink, n_rows=n_rows, n_bytes=sink.tell())
        return n_rows

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        files = self._fetch(dataset, partition)
        return read_parquet(files, dataset=dataset, partition=partition, columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        return open_parquet(self._fetch(dataset, partition), dataset=dataset, partition=partition)

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        rows = _ask(self._database, _LIST, (_wanted(dataset, partition),))
        return [found for found, _, _ in _sort(rows)]

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        key, forget = make_key(*_address(dataset, partition)), self._database.word(_FORGET)
        self._database.run(lambda connection: connection.execute(forget, (key,), binary=True))

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        import pyarrow.parquet as pq

        address = _address(dataset, partition)
        with _spool_file() as sink:
            with telling_full(Path(tempfile.gettempdir())):
                for chunk in chunks:
                    sink.write(chunk)
            n_bytes = sink.tell()
            n_rows = pq.read_metadata(sink).num_rows
            self._replace(address, sink, n_rows=n_rows, n_bytes=n_bytes)

    def measure(self, dataset: str, *, partition: Mapping[str, str]) -> int:
        rows = _ask(self._database, _MEASURE, (make_key(*_address(dataset, partition)),))
        return int(rows[0][0]) if rows else 0

    def list_sizes(self, *, partition: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str], int]]:
        for _, address, n_bytes in _ask(self._database, _LIST, (list(partition_folders(partition or {})),)):
            yield address[0], _parse(address), n_bytes

    def hold(self, connection: Connection) -> list[HeldPartition]:
        """All partitions that a snapshot sees, to be read by its connection."""
        fetch = self._database.word(_FETCH)
        return [
            HeldPartition(address[0], _parse(address), partial(_read_chunks, connection, fetch, number))
            for number, address in connection.execute(self._database.word(_EVERY), binary=True).fetchall()
        ]

    def _replace(self, address: tuple[str, ...], payload: IO[bytes], *, n_rows: int, n_bytes: int) -> None:
        replace, empty, fill = (self._database.word(statement) for statement in (_REPLACE, _EMPTY, _FILL))

        def work(connection: Connection) -> None:
            ((number,),) = connection.execute(replace, (make_key(*address), list(address), n_rows, n_bytes), binary=True).fetchall()
            connection.execute(empty, (number,), binary=True)
            for place, chunk in enumerate(_read_pieces(payload, _CHUNK_BYTES)):
                connection.execute(fill, (number, place, chunk), binary=True)

        self._database.run(work, begin="BEGIN")

    def _fetch(self, dataset: str, partition: Mapping[str, str] | None) -> list[pa.NativeFile]:
        """The bytes of all partitions wanted, as they stood at one instant; small ones many at a time."""
        wanted = _wanted(dataset, partition)
        list_, fetch = self._database.word(_LIST), self._database.word(_FETCH)

        def work(connection: Connection) -> list[pa.NativeFile]:
            files: dict[int, pa.NativeFile] = {}
            listed = _sort(connection.execute(list_, (wanted,), binary=True).fetchall())
            for numbers in _group([(number, n_bytes) for _, number, n_bytes in listed]):
                if len(numbers) == 1:
                    files[numbers[0]] = _spool(_read_chunks(connection, fetch, numbers[0]))
                else:
                    rows = connection.execute(fetch, (numbers, 0, 1), binary=True).fetchall()
                    files.update((number, _wrap(chunk)) for number, chunk in rows)
            return [files[number] for _, number, _ in listed]

        return self._database.run(work, begin=_SNAPSHOT)


def _spool_file() -> IO[bytes]:
    """A temporary file that stays in memory while it is small."""
    return cast(IO[bytes], tempfile.SpooledTemporaryFile(_CHUNKS_AT_ONCE * _CHUNK_BYTES))


def _read_pieces(file: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(n_bytes):
        yield piece


def _read_chunks(connection: Connection, fetch: str, number: int) -> Iterator[bytes]:
    first = 0
    while True:
        rows = connection.execute(fetch, ([number], first, first + _CHUNKS_AT_ONCE), binary=True).fetchall()
        for _, chunk in rows:
            yield chunk
        if len(rows) < _CHUNKS_AT_ONCE:
            return
        first += _CHUNKS_AT_ONCE


def _group(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Partitions of one chunk in groups of up to 4 MiB, larger ones by themselves."""
    group: list[int] = []
    n_waiting = 0
    for number, n_bytes in sizes:
        if n_bytes > _IN_MEMORY_BYTES:
            yield [number]
            continue
        if group and n_waiting + n_bytes > _CHUNKS_AT_ONCE * _CHUNK_BYTES:
            yield group
            group, n_waiting = [], 0
        group.append(number)
        n_waiting += n_bytes
    if group:
        yield group


def _wrap(chunk: bytes) -> pa.NativeFile:
    import pyarrow as pa

    return pa.BufferReader(chunk)


def _spool(chunks: Iterator[bytes]) -> pa.NativeFile:
    """Chunks as one file: a single one in memory, several in a temporary file that goes with its last reader."""
    import pyarrow as pa

    first, second = next(chunks, b""), next(chunks, None)
    if second is None:
        return _wrap(first)
    with telling_full(Path(tempfile.gettempdir())):
        handle, path = tempfile.mkstemp(prefix="endcap-partition-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(first)
                file.write(second)
                for chunk in chunks:
                    file.write(chunk)
            return pa.memory_map(path)
        finally:
            Path(path).unlink()


def _sort(rows: Sequence[tuple[int, Sequence[str], int]]) -> list[tuple[dict[str, str], int, int]]:
    """Partitions, their numbers and bytes, in the order of their values."""
    found = [(_parse(address), number, n_bytes) for number, address, n_bytes in rows]
    return sorted(found, key=lambda entry: list(entry[0].values()))


def _parse(address: Sequence[str]) -> dict[str, str]:
    fields = (folder.partition("=") for folder in address[1:])
    return {name: unquote(value) for name, _, value in fields}


def _address(dataset: str, partition: Mapping[str, str]) -> tuple[str, ...]:
    """The dataset, which holds no ``=``, and the partition's folders as they would be called."""
    return (require_name(dataset, what="dataset"), *partition_folders(partition))


def _wanted(dataset: str, partition: Mapping[str, str] | None) -> list[str]:
    return list(_address(dataset, partition or {}))


def _ask(database: PostgresDatabase, statement: str, values: Sequence[object]) -> list[Any]:
    """Rows of a statement on a connection of its own: bytes are no part of a transaction of records."""
    worded = database.word(statement)
    return database.run(lambda connection: connection.execute(worded, values, binary=True).fetchall())


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _share_blobs(url: str) -> PostgresBlobs:
    return PostgresBlobs(share_database(url))


def _share_tables(url: str) -> PostgresTables:
    return PostgresTables(share_database(url))
