"""The in-memory back end: for tests of ours and of users, and for a look around. It ends with the process."""

from __future__ import annotations

import hashlib
import io
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from endcap.core.errors import InvalidInput
from endcap.core.names import require_name
from endcap.storage.backends.online_memory import MemoryOnline
from endcap.storage.backends.tracks_memory import MemoryTracks
from endcap.storage.frozen import FiledRecord, Frozen, HeldPartition, RawRecord
from endcap.storage.parquet import open_parquet, read_parquet, write_parquet
from endcap.storage.ports import (
    CHUNK_BYTES,
    Kind,
    Ports,
    R,
    conflict,
    ended_transaction,
    matches,
    missing_bytes,
    missing_place,
    nested_transaction,
    partition_folders,
    require_chunk_bytes,
    require_limit,
    too_many_bytes,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

_Address = tuple[str, str, str]  # kind, workspace, id
_File = tuple[str, str, str, str]  # kind, workspace, index, value


@dataclass(frozen=True, slots=True)
class _Row:
    address: _Address
    sequence: int
    version: int
    body: bytes
    files: tuple[_File, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(index for _, _, index, _ in self.files)

    @property
    def gone(self) -> bool:
        """Whether it stands for a row that its transaction took away."""
        return self.version == 0

    def file_anew(self, kind: Kind[R]) -> _Row:
        """The row with the files that its kind declares."""
        files = ((kind.name, self.address[1], *key) for key in kind.keys_of(kind.decode(self.body)))
        return replace(self, files=tuple(dict.fromkeys([*self.files, *files])))


@dataclass
class _Committed:
    """What all can see. ``lock`` is held for the moment of a look or a commit, never over a transaction."""

    rows: dict[_Address, _Row] = field(default_factory=dict)
    filed: dict[_File, dict[_Address, None]] = field(default_factory=dict)
    names: dict[str, set[frozenset[str]]] = field(default_factory=dict)
    """By kind, under which indexes its rows were filed when they were written."""
    sequence: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, written: Mapping[_Address, _Row]) -> None:
        with self.lock:
            for address, row in written.items():
                old = self.rows.get(address)
                for file in old.files if old else ():
                    del self.filed[file][address]
                if row.gone:
                    self.rows.pop(address, None)
                    continue
                for file in row.files:
                    self.filed.setdefault(file, {})[address] = None
                self.rows[address] = row
                self.names.setdefault(address[0], set()).add(row.names)
                self.sequence = max(self.sequence, row.sequence)

    def file_anew(self, kind: Kind[R], index: str) -> None:
        """File all rows of the kind under its indexes, where some were written by a declaration without this one."""
        with self.lock:
            if all(index in names for names in self.names.get(kind.name, ())):
                return
            rows = [row.file_anew(kind) for row in self.rows.values() if row.address[0] == kind.name]
            for row in rows:
                for file in row.files:
                    self.filed.setdefault(file, {})[row.address] = None
                self.rows[row.address] = row
            self.names[kind.name] = {row.names for row in rows}


class _Reader(ABC):
    """Reads what is committed beneath what its transaction has written."""

    def __init__(self, committed: _Committed) -> None:
        self._committed = committed

    @property
    @abstractmethod
    def _written(self) -> dict[_Address, _Row]: ...

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        found = self.get_versioned(kind, workspace=workspace, id=id)
        return found[0] if found else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        row = self._row((kind.name, workspace, id))
        return (kind.decode(row.body), row.version) if row else None

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
        index, value = kind.index_for(where) if where else ("", "")
        file, written, committed = (kind.name, workspace, index, value), self._written, self._committed
        if index:
            committed.file_anew(kind, index)
        with committed.lock:
            rows = [committed.rows[address] for address in committed.filed.get(file, {}) if address not in written]
        rows += [row for row in written.values() if file in row.files or (self._lacks(row, kind, index) and file in row.file_anew(kind).files)]
        rows.sort(key=lambda row: row.sequence, reverse=newest_first)
        if after is not None:
            place = self._row((kind.name, workspace, after))
            if place is None:
                raise missing_place(kind.name, after)
            rows = [row for row in rows if (row.sequence < place.sequence if newest_first else row.sequence > place.sequence)]
        return [kind.decode(row.body) for row in rows[:limit]]

    @staticmethod
    def _lacks(row: _Row, kind: Kind[R], index: str) -> bool:
        """Whether a row of the kind was written by a declaration without the index."""
        return row.address[0] == kind.name and bool(index) and index not in row.names and not row.gone

    def _row(self, address: _Address) -> _Row | None:
        row = self._written.get(address) or self._committed.rows.get(address)
        return None if row is None or row.gone else row


class MemoryTransaction(_Reader):
    """What a transaction has written so far, over what is committed."""

    def __init__(self, committed: _Committed) -> None:
        super().__init__(committed)
        self._own: dict[_Address, _Row] | None = {}
        self._sequence = committed.sequence

    @property
    def _written(self) -> dict[_Address, _Row]:
        if self._own is None:
            raise ended_transaction()
        return self._own

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self.put(kind, workspace=workspace, record=record, expected_version=0)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        written = self._written
        identity, body = kind.id_of(record), kind.encode(record)
        files = tuple((kind.name, workspace, *key) for key in [("", ""), *kind.keys_of(record)])
        address = (kind.name, workspace, identity)
        old = self._row(address)
        if (old.version if old else 0) != expected_version:
            raise conflict(kind.name, identity, expected_version)
        if old is None:
            self._sequence += 1
        written[address] = _Row(address, old.sequence if old else self._sequence, expected_version + 1, body, files)
        return expected_version + 1

    def remove(self, kind: Kind[R], *, workspace: str, ids: Sequence[str]) -> int:
        written, n = self._written, 0
        for identity in ids:
            address = (kind.name, workspace, identity)
            row = self._row(address)
            if row is not None:
                written[address] = replace(row, version=0, body=b"", files=())
                n += 1
        return n

    def load(self, records: Iterable[FiledRecord]) -> int:
        written, n = self._written, 0
        for n, record in enumerate(records, 1):  # noqa: B007 - how many they were
            address = (record.kind, record.workspace, record.id)
            if self._row(address) is not None:
                raise conflict(record.kind, record.id, 0)
            self._sequence += 1
            files = tuple((record.kind, record.workspace, name, value) for name, value in [("", ""), *record.keys])
            written[address] = _Row(address, self._sequence, record.version, record.body, files)
        return n

    def count(self) -> int:
        gone = {address for address, row in self._written.items() if row.gone}
        return len((self._committed.rows.keys() | self._written.keys()) - gone)

    def end(self) -> dict[_Address, _Row]:
        """What was written; nothing more is taken."""
        written, self._own = self._written, None
        return written


class MemoryRecords(_Reader):
    """Records in dictionaries; writers take turns, readers do not wait for them."""

    def __init__(self) -> None:
        super().__init__(_Committed())
        self._turn = threading.Lock()
        self._local = threading.local()

    @property
    def _written(self) -> dict[_Address, _Row]:
        tx: MemoryTransaction | None = getattr(self._local, "tx", None)
        return tx._written if tx else {}

    @contextmanager
    def transact(self) -> Iterator[MemoryTransaction]:
        if getattr(self._local, "tx", None) is not None:
            raise nested_transaction()
        with self._turn:
            tx = self._local.tx = MemoryTransaction(self._committed)
            try:
                yield tx
                self._committed.commit(tx._written)
            finally:
                self._local.tx = None
                tx.end()

    def close(self) -> None:
        return None

    def list_rows(self) -> list[_Row]:
        """All that is committed, in its order."""
        with self._committed.lock:
            return sorted(self._committed.rows.values(), key=lambda row: row.sequence)

    @property
    def turn(self) -> threading.Lock:
        """Whose turn it is to write: while it is held, nobody writes."""
        return self._turn


class MemoryBlobs:
    def __init__(self) -> None:
        self._payloads: dict[str, bytes] = {}

    def put(self, payload: bytes | bytearray) -> str:
        digest = hashlib.sha256(payload).hexdigest()
        self._payloads.setdefault(digest, bytes(payload))
        return digest

    def get(self, digest: str) -> bytes:
        try:
            return self._payloads[digest]
        except KeyError as error:
            raise missing_bytes(digest) from error

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        payload = bytearray()
        for chunk in chunks:
            payload += chunk
            if most_bytes is not None and len(payload) > most_bytes:
                raise too_many_bytes(most_bytes)
        return self.put(payload), len(payload)

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        payload, n_bytes = self.get(digest), require_chunk_bytes(n_bytes)
        return (payload[start : start + n_bytes] for start in range(0, len(payload), n_bytes))

    def has(self, digest: str) -> bool:
        return digest in self._payloads

    def list_digests(self) -> Iterator[tuple[str, int]]:
        yield from sorted((digest, len(payload)) for digest, payload in list(self._payloads.items()))

    def __reduce__(self) -> NoReturn:
        """What is in this process's memory is not sent to others: it may be all that a model holds."""
        raise InvalidInput(
            "A home in memory (memory://) cannot be read by other processes.", hint="take the executor 'here', or a home in a folder: --home FOLDER"
        )


class MemoryTables:
    """Tables as Parquet in memory, so that types come back as they do from files and no buffer is shared with the writer."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], tuple[dict[str, str], bytes]] = {}
        self._lock = threading.Lock()

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        address = _address(dataset, partition)
        sink = io.BytesIO()
        n_rows = write_parquet(table, sink=sink)
        with self._lock:
            self._kept[address] = (dict(sorted(partition.items())), sink.getvalue())
        return n_rows

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return read_parquet(self._files(dataset, partition), dataset=dataset, partition=partition, columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        return open_parquet(self._files(dataset, partition), dataset=dataset, partition=partition)

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        return [dict(found) for found, _ in self._list(dataset, partition)]

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        address = _address(dataset, partition)
        with self._lock:
            self._kept.pop(address, None)

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        address, payload = _address(dataset, partition), b"".join(chunks)
        with self._lock:
            self._kept[address] = (dict(sorted(partition.items())), payload)

    def measure(self, dataset: str, *, partition: Mapping[str, str]) -> int:
        found = self._kept.get(_address(dataset, partition))
        return len(found[1]) if found else 0

    def list_sizes(self, *, partition: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str], int]]:
        with self._lock:
            kept = list(self._kept.items())
        yield from ((address[0], dict(found), len(payload)) for address, (found, payload) in kept if matches(found, partition))

    def hold(self) -> list[HeldPartition]:
        """All partitions as they stand."""
        with self._lock:
            kept = list(self._kept.items())
        return [
            HeldPartition(address[0], partition, lambda payload=payload: iter([payload]))  # type: ignore[misc]  # mypy reads no defaults of a lambda
            for address, (partition, payload) in kept
        ]

    def _files(self, dataset: str, partition: Mapping[str, str] | None) -> list[pa.NativeFile]:
        import pyarrow as pa

        return [pa.BufferReader(payload) for _, payload in self._list(dataset, partition)]

    def _list(self, dataset: str, wanted: Mapping[str, str] | None) -> list[tuple[dict[str, str], bytes]]:
        require_name(dataset, what="dataset")
        with self._lock:
            kept = [entry for address, entry in self._kept.items() if address[0] == dataset and matches(entry[0], wanted)]
        return sorted(kept, key=lambda entry: list(entry[0].values()))


def _address(dataset: str, partition: Mapping[str, str]) -> tuple[str, ...]:
    return (require_name(dataset, what="dataset"), *partition_folders(partition))


def open_memory() -> Ports:
    """Ports of an empty home in memory."""
    records, tables, tracks = MemoryRecords(), MemoryTables(), MemoryTracks()

    @contextmanager
    def freeze() -> Iterator[Frozen]:
        with records.turn:
            rows, pieces, held = records.list_rows(), tracks.list_pieces(), tables.hold()
        yield Frozen(lambda: (RawRecord(row.address[0], row.address[1], row.version, row.body) for row in rows), lambda: iter(pieces), held)

    return Ports(url="memory://", records=records, blobs=MemoryBlobs(), tables=tables, online=MemoryOnline(), tracks=tracks, freeze=freeze)
