"""Parts: the files in which fetched rows are kept, and the book that says which of them are a table.

A folder of its own for each source of a table: ``*.parquet`` named by what they hold, and ``book.json``, which is replaced whole once the parts
that it names are on the disk. What the book does not name is nobody's, and goes at the next visit.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.core.names import require_name
from endcap.governance.sessions import Session
from endcap.loop.data.connectors.relations import Mark
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.records import Ingest
from endcap.storage.files import replacing, telling_full

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 128 * 2**20  # of rows in memory; packed a part is a fraction of it
_BOOK, _LOCK, _STAGING = "book.json", "lock", "staging"
_ENDING = ".parquet"
_DEPTH = 4  # workspace, table, source, file


class Part(msgspec.Struct, frozen=True):
    """A file of rows: its name in the folder, which says when it came and what it holds, and how many there are."""

    name: str
    n_rows: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What a table's source held at one visit: its parts, its columns with the source's types, the greatest watermark (None: there is none, or no
    row), and a fingerprint of all rows where they were read whole.
    """

    number: int
    at: datetime
    parts: tuple[Part, ...]
    columns: dict[str, str]
    mark: Mark | None = None
    fingerprint: str = ""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts)


class Book(msgspec.Struct, frozen=True):
    """The generations whose parts are kept, oldest first."""

    source: str
    generations: tuple[Generation, ...] = ()


@dataclass
class PartFolder:
    """The folder of one source of a table, held by one visitor at a time."""

    path: Path
    book: Book

    @property
    def staging(self) -> Path:
        return self.path / _STAGING

    def paths(self, generation: Generation) -> tuple[Path, ...]:
        return tuple(sorted(self.path / part.name for part in generation.parts))

    def keep(self, generations: Sequence[Generation], *, staged: Sequence[Part] = ()) -> None:
        """Put staged parts in their places, then the book that names them, and forget what no kept generation names. All or nothing."""
        with telling_full(self.path):
            for part in staged:
                (self.staging / part.name).replace(self.path / part.name)
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self.book = msgspec.structs.replace(self.book, generations=tuple(generations))
        with replacing(self.path / _BOOK, unfinished=self.staging) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(self.book))
        self.sweep()

    def sweep(self) -> None:
        """Remove what was begun and not finished, and parts that no generation names."""
        shutil.rmtree(self.staging, ignore_errors=True)
        named = {part.name for generation in self.book.generations for part in generation.parts}
        for path in self.path.glob(f"*{_ENDING}"):
            if path.name not in named:
                path.unlink(missing_ok=True)


def locate(session: Session, table: str, *, source: str) -> Path:
    """Where the parts of a table's source are kept; ``source`` is a hash that says which rows are meant."""
    return session.ports.landing.path / require_name(session.workspace, what="workspace") / require_name(table, what="table") / source[:16]


@contextmanager
def hold_parts(path: Path, *, source: str) -> Iterator[PartFolder]:
    """The folder, made if it is not there, for one visitor at a time: others wait until the block, or the process, ends.

    Raises IntegrityBroken for a book that does not read as one, StorageFull where the disk takes no more.
    """
    with telling_full(path.parent):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = PartFolder(path, _read_book(path, source=source))
        folder.sweep()
        with telling_full(path):
            folder.staging.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.staging, ignore_errors=True)
    finally:
        os.close(lock)


def find_landed(table: Table, ingest: Ingest | None, *, landing: Path | None) -> DataFiles:
    """The parts that an ingest let in, wherever the home is now. Nothing is fetched.

    Raises InvalidInput without an ingest, or where they are no more.
    """
    if ingest is None or landing is None:
        raise InvalidInput(
            f"Table '{table.name}' is fetched from {table.source!r} when it is ingested, and read through that ingest alone.",
            hint="open it with open_ingested(session, table, ingest)",
        )
    there: set[Path] = set()
    for file in ingest.files:
        path = landing.joinpath(*Path(file.path).parts[-_DEPTH:])
        if not path.exists():  # the same rows may have been fetched anew, under another number
            same = (found for found in sorted(path.parent.glob(f"*-{_name_digest(file.sha256)}")) if found not in there)
            path = next(same, path)
        if not path.exists():
            what = f"Table '{table.name}': {path} is gone, which ingest '{ingest.id}' let in."
            raise InvalidInput(what, hint="newer rows took its place: ingest it again")
        there.add(path)
    return DataFiles("parquet", tuple(sorted(there)))


def write_parts(folder: Path, batches: Iterable[pa.RecordBatch], *, prefix: str, n_bytes: int = PART_BYTES) -> list[Part]:
    """Write batches of one schema into parts of about ``n_bytes`` in memory; at least one, of no rows where there are none but the schema.

    Their names begin with ``prefix``, which must be one's own: parts of the same rows are two. One pass; memory: a batch, or 16 MB of small ones.
    Raises InvalidInput for columns that share a name, StorageFull where the disk takes no more.
    """
    parts: list[Part] = []
    writer: _PartWriter | None = None
    try:
        for batch in batches:
            if writer is not None and writer.n_bytes >= n_bytes and batch.num_rows:
                parts.append(writer.finish())
                writer = None
            if writer is None:
                writer = _PartWriter(folder, batch.schema, lead=f"{prefix}-{len(parts):04d}")
            writer.write(batch)
        if writer is not None and (writer.n_rows or not parts):
            parts.append(writer.finish())
            writer = None
    finally:
        if writer is not None:
            writer.drop()
    return parts


@dataclass
class _Digesting:
    """A file that keeps the digest of what is written to it, which is written in one go from front to back."""

    file: IO[bytes]
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    closed: bool = False
    dropped: bool = False

    def write(self, payload: bytes) -> int:
        if self.dropped:
            return len(payload)
        self.sha256.update(payload)
        return self.file.write(payload)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.closed = True


class _PartWriter:
    _ROWS_BYTES = 16 * 2**20

    def __init__(self, folder: Path, schema: pa.Schema, *, lead: str) -> None:
        import pyarrow.parquet as pq

        if len(set(schema.names)) != len(schema.names):
            raise InvalidInput(f"The rows have columns that share a name: {schema.names}.")
        self.lead, self.path = lead, folder / f"{lead}-to-be"
        self.n_rows = self.n_bytes = self._n_waiting = 0
        self._waiting: list[pa.RecordBatch] = []
        with telling_full(folder):
            self._file = self.path.open("xb")
            os.fchmod(self._file.fileno(), 0o600)
            self._sink = _Digesting(self._file)
            try:
                self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", write_page_checksum=True)
            except BaseException:
                self._file.close()
                raise

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self.n_rows += batch.num_rows
        self.n_bytes += batch.nbytes
        self._n_waiting += batch.nbytes
        if self._n_waiting >= self._ROWS_BYTES:
            self._flush()

    def finish(self) -> Part:
        self._flush()
        with telling_full(self.path.parent, n_bytes=self.n_bytes):
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            part = Part(f"{self.lead}-{_name_digest(self._sink.sha256.hexdigest())}", self.n_rows)
            self.path.replace(self.path.with_name(part.name))
        return part

    def drop(self) -> None:
        self._sink.dropped = True  # the writer ends its file even now
        self._writer.close()
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        with telling_full(self.path.parent, n_bytes=self.n_bytes):
            if self._waiting:
                self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting, self._n_waiting = [], 0


def _name_digest(sha256: str) -> str:
    """How the name of a part ends."""
    return f"{sha256[:24]}{_ENDING}"


def _read_book(path: Path, *, source: str) -> Book:
    try:
        return msgspec.json.decode((path / _BOOK).read_bytes(), type=Book)
    except FileNotFoundError:
        return Book(source)
    except msgspec.DecodeError as error:
        raise IntegrityBroken(
            f"{path / _BOOK} does not read as the book of a table's parts: {error}.", hint=f"remove {path}: the rows are read again"
        ) from error
