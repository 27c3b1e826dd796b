"""The in-memory back end: for tests of ours and of users, and for a look around. It ends with the process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from endcap.core.errors import Conflict, NotFound
from endcap.storage.ports import Kind, Ports, R, matches

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

_Address = tuple[str, str, str]  # kind, workspace, id


class _Row:
    __slots__ = ("body", "keys", "sequence", "version")

    def __init__(self, *, sequence: int, version: int, body: bytes, keys: list[tuple[str, str]]) -> None:
        self.sequence, self.version, self.body, self.keys = sequence, version, body, keys


class MemoryRecords:
    """Records in dictionaries. A transaction holds the lock and keeps what it replaced, to put it back if the block raises."""

    def __init__(self) -> None:
        self._rows: dict[_Address, _Row] = {}
        self._filed: dict[tuple[str, str, str, str], dict[str, None]] = {}
        self._lock = threading.RLock()
        self._sequence = 0

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        found = self.get_versioned(kind, workspace=workspace, id=id)
        return found[0] if found else None

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        with self._lock:
            row = self._rows.get((kind.name, workspace, id))
        return (kind.decode(row.body), row.version) if row else None

    def find(
        self,
        kind: Kind[R],
        *,
        workspace: str,
        where: Mapping[str, object] | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        with self._lock:
            index, value = kind.index_for(where) if where else ("", "")
            ids = self._filed.get((kind.name, workspace, index, value), {})
            rows = sorted((self._rows[kind.name, workspace, i] for i in ids), key=lambda row: row.sequence, reverse=newest_first)
        return [kind.decode(row.body) for row in rows[:limit]]

    @contextmanager
    def transact(self) -> Iterator[MemoryRecords]:
        with self._lock:
            rows, filed, sequence = (
                dict(self._rows),
                {key: dict(ids) for key, ids in self._filed.items()},
                self._sequence,
            )
            try:
                yield self
            except BaseException:
                self._rows, self._filed, self._sequence = rows, filed, sequence
                raise

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        self.put(kind, workspace=workspace, record=record, expected_version=0)

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        with self._lock:
            identity = kind.id_of(record)
            address = (kind.name, workspace, identity)
            old = self._rows.get(address)
            if (old.version if old else 0) != expected_version:
                raise conflict(kind.name, identity, expected_version)
            for index, value in old.keys if old else []:
                self._filed[kind.name, workspace, index, value].pop(identity)
            self._sequence += 1
            keys = [("", ""), *kind.keys_of(record)]
            self._rows[address] = _Row(
                sequence=old.sequence if old else self._sequence,
                version=expected_version + 1,
                body=kind.encode(record),
                keys=keys,
            )
            for index, value in keys:
                self._filed.setdefault((kind.name, workspace, index, value), {})[identity] = None
            return expected_version + 1

    def close(self) -> None:
        return None


def conflict(kind: str, identity: str, expected_version: int) -> Conflict:
    """The error of a write that came second."""
    if expected_version == 0:
        return Conflict(f"The {kind} '{identity}' stands already.")
    return Conflict(
        f"The {kind} '{identity}' was changed since version {expected_version} was read.",
        hint="read it again, then retry",
    )


class MemoryBlobs:
    def __init__(self) -> None:
        self._payloads: dict[str, bytes] = {}

    def put(self, payload: bytes) -> str:
        digest = hashlib.sha256(payload).hexdigest()
        self._payloads.setdefault(digest, bytes(payload))
        return digest

    def get(self, digest: str) -> bytes:
        try:
            return self._payloads[digest]
        except KeyError as error:
            raise NotFound(f"No bytes are kept under {digest!r}.") from error

    def has(self, digest: str) -> bool:
        return digest in self._payloads


class MemoryTables:
    def __init__(self) -> None:
        self._tables: dict[str, dict[tuple[tuple[str, str], ...], pa.Table]] = {}

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        self._tables.setdefault(dataset, {})[tuple(partition.items())] = table
        return int(table.num_rows)

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        import pyarrow as pa

        found = [self._tables[dataset][tuple(p.items())] for p in self.partitions(dataset, partition=partition)]
        if not found:
            raise missing_dataset(dataset, partition)
        table = pa.concat_tables(found)
        return table.select(list(columns)) if columns is not None else table

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        import pyarrow.dataset as pads

        return pads.dataset(self.read(dataset, partition=partition))

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        kept = [dict(key) for key in self._tables.get(dataset, {})]
        return sorted((p for p in kept if matches(p, partition)), key=lambda p: list(p.values()))

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        self._tables.get(dataset, {}).pop(tuple(partition.items()), None)


def missing_dataset(dataset: str, partition: Mapping[str, str] | None) -> NotFound:
    """The error of reading what was never written."""
    where = f" with {dict(partition)}" if partition else ""
    return NotFound(f"Nothing is kept in '{dataset}'{where}.")


def open_memory() -> Ports:
    """Ports of an empty home in memory."""
    return Ports(url="memory://", records=MemoryRecords(), blobs=MemoryBlobs(), tables=MemoryTables())
