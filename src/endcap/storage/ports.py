"""What every back end must do. The contract suites in ``endcap.testing`` say it in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from endcap.core.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of record: its name, its type, which field is its id, and the fields (or tuples of them) it is found by."""

    name: str
    type: type[R]
    id: str
    indexes: tuple[tuple[str, ...], ...] = ()

    def id_of(self, record: R) -> str:
        return str(getattr(record, self.id))

    def keys_of(self, record: R) -> list[tuple[str, str]]:
        """The (index name, value) pairs under which a record is filed."""
        return [("+".join(fields), join_values([getattr(record, f) for f in fields])) for fields in self.indexes]

    def index_for(self, where: Mapping[str, object]) -> tuple[str, str]:
        """The index that answers ``where``. Raises InvalidInput when none was declared: a scan is never done silently."""
        for fields in self.indexes:
            if set(fields) == set(where):
                return "+".join(fields), join_values([where[f] for f in fields])
        offered = [" and ".join(fields) for fields in self.indexes]
        raise InvalidInput(f"Records of kind '{self.name}' are not found by {sorted(where)}. Indexes: {offered}.")

    def encode(self, record: R) -> bytes:
        return msgspec.json.encode(record)

    def decode(self, body: bytes) -> R:
        return msgspec.json.decode(body, type=self.type)


def join_values(values: Sequence[object]) -> str:
    """Values of a compound index as one text that no other tuple of values gives."""
    return msgspec.json.encode([None if value is None else str(value) for value in values]).decode()


class RecordReader(Protocol):
    """Reading: each call sees all that was committed before it, and inside a transaction its own writes too."""

    def get(self, kind: Kind[R], *, workspace: str, id: str) -> R | None: ...  # noqa: A002 - the word of the records

    def get_versioned(self, kind: Kind[R], *, workspace: str, id: str) -> tuple[R, int] | None:  # noqa: A002 - see get
        """The record and its version, which begins at 1 and grows by one with each ``put``."""
        ...

    def find(
        self,
        kind: Kind[R],
        *,
        workspace: str,
        where: Mapping[str, object] | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        """Records in the order they were first appended. Cost grows with the rows returned, not with the rows kept."""
        ...


class RecordTransaction(RecordReader, Protocol):
    """Writing: all of it or nothing. Writers of one store take turns."""

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        """Add a record. Raises Conflict when its id stands already."""
        ...

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        """Replace a record if its version is still the expected one (0: it must not exist). Returns the new version.

        Raises Conflict when somebody changed it first.
        """
        ...


class RecordStore(RecordReader, Protocol):
    def transact(self) -> AbstractContextManager[RecordTransaction]:
        """A transaction: committed when the block ends, rolled back when it raises."""
        ...

    def close(self) -> None: ...


class BlobStore(Protocol):
    """Bytes under their own SHA-256."""

    def put(self, payload: bytes) -> str:
        """Keep bytes; returns their digest. Putting them twice changes nothing."""
        ...

    def get(self, digest: str) -> bytes:
        """The bytes, checked against their digest. Raises NotFound, or IntegrityBroken when they were changed at rest."""
        ...

    def has(self, digest: str) -> bool: ...


class TableStore(Protocol):
    """Columns at rest: datasets in partitions, each partition one table that is replaced whole."""

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        """Write or replace one partition; readers see the old one or the new one. Returns the rows written."""
        ...

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the partitions whose values include ``partition``'s, without the partition columns.

        Raises NotFound when there is none.
        """
        ...

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        """The same as a lazy dataset."""
        ...

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """The partitions that hold a table, in the order of their values; an unknown dataset has none."""
        ...

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        """Forget one partition; forgetting what is not there changes nothing."""
        ...


@dataclass(frozen=True)
class Ports:
    """The open stores of one home."""

    url: str
    records: RecordStore
    blobs: BlobStore
    tables: TableStore

    def close(self) -> None:
        self.records.close()


def iterate_partition_path(partition: Mapping[str, str], *, quote: Callable[[str], str]) -> Iterator[str]:
    """The folders ``name=value`` of a partition, in the order given."""
    for name, value in partition.items():
        yield f"{name}={quote(value)}"


def matches(candidate: Mapping[str, str], wanted: Mapping[str, str] | None) -> bool:
    """Whether a partition's values include the wanted ones."""
    return all(candidate.get(name) == value for name, value in (wanted or {}).items())
