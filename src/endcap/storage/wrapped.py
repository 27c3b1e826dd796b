"""Stores before other stores: each hands on all that it is asked, so that who adds something says that alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endcap.storage.ports import CHUNK_BYTES, BlobStore, Kind, R, RecordStore, RecordTransaction, TableStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads


@dataclass(frozen=True)
class WrappedRecords:
    """A ``RecordStore`` before another one."""

    inner: RecordStore

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None:  # noqa: A002 - the port's word
        return self.inner.get(kind, workspace=workspace, id=id)

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - the port's word
        return self.inner.get_versioned(kind, workspace=workspace, id=id)

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
        return self.inner.find(kind, workspace=workspace, where=where, newest_first=newest_first, after=after, limit=limit)

    def transact(self) -> AbstractContextManager[RecordTransaction]:
        return self.inner.transact()

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class WrappedBlobs:
    """A ``BlobStore`` before another one."""

    inner: BlobStore

    def put(self, payload: bytes) -> str:
        return self.inner.put(payload)

    def get(self, digest: str) -> bytes:
        return self.inner.get(digest)

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        return self.inner.put_stream(chunks, most_bytes=most_bytes)

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        return self.inner.read_chunks(digest, n_bytes=n_bytes)

    def has(self, digest: str) -> bool:
        return self.inner.has(digest)

    def list_digests(self) -> Iterator[tuple[str, int]]:
        return self.inner.list_digests()


@dataclass(frozen=True)
class WrappedTables:
    """A ``TableStore`` before another one."""

    inner: TableStore

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        return self.inner.write(dataset, partition=partition, table=table)

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        return self.inner.read(dataset, partition=partition, columns=columns)

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        return self.inner.scan(dataset, partition=partition)

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        return self.inner.partitions(dataset, partition=partition)

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        self.inner.delete(dataset, partition=partition)

    def measure(self, dataset: str, *, partition: Mapping[str, str]) -> int:
        return self.inner.measure(dataset, partition=partition)

    def list_sizes(self, *, partition: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str], int]]:
        return self.inner.list_sizes(partition=partition)

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        self.inner.place(dataset, partition=partition, chunks=chunks)
