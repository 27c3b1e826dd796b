"""What every back end must do. The contract suites in ``endcap.testing`` say it in tests."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.core.names import require_name
from endcap.storage.frozen import FiledRecord, Frozen
from endcap.storage.landing import LandingFolder
from endcap.storage.tracks import TrackStore

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads


R = TypeVar("R", bound=msgspec.Struct)

_MOST_FOLDER_BYTES = 240  # file systems end at 255
_MOST_KEY_BYTES = 2048
_MOST_SPACE_BYTES = 400
STAMP_BYTES = 16
CHUNK_BYTES = 1 << 20
"""The pieces in which long bytes are read."""
_STAMP = struct.Struct(">QQ")
_ZERO = 1 << 63  # shifts a signed number so that its bytes compare as it does


@dataclass(frozen=True)
class Kind(Generic[R]):
    """A kind of record: its name, its type, which field is its id, and the fields (or tuples of them) it is found by.

    Indexes may be added and dropped from one Endcap to the next. Stores keep under which of them all records of a kind are filed: each write leaves
    those that its declaration has, and the first ``find`` that asks for another files the records of the kind under it, in one pass.

    ``of`` says which things a record is part of, or tells of (``model/store-day``), and with which it is hidden; None: it is the workspace's.
    ``tells`` is whether it only tells of them, as an audit row does, so that whoever may not change a thing writes it all the same.
    """

    name: str
    type: type[R]
    id: str
    indexes: tuple[tuple[str, ...], ...] = ()
    of: Callable[[R], tuple[str, ...]] | None = None
    tells: bool = False

    @cached_property
    def index_names(self) -> frozenset[str]:
        return frozenset("+".join(fields) for fields in self.indexes)

    @cached_property
    def decoder(self) -> msgspec.json.Decoder[R]:
        return msgspec.json.Decoder(self.type)

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
        """The record as JSON. Raises InvalidInput for what would not be read back: a text that is not Unicode, such as half a surrogate pair, or a
        number that is not finite where one must be.
        """
        try:
            body = msgspec.json.encode(record)
        except UnicodeEncodeError as error:
            raise InvalidInput(f"A record of kind '{self.name}' holds a text that is not Unicode: {error.object!r}.") from error
        if b"null" in body:  # as NaN and the infinities are written
            try:
                msgspec.json.decode(body, type=self.type)
            except msgspec.DecodeError as error:
                raise InvalidInput(f"A record of kind '{self.name}' holds a number that is not finite: {error}.") from error
        return body

    def decode(self, body: bytes) -> R:
        """The record of a body. Raises IntegrityBroken when the bytes are no such record."""
        try:
            return self.decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._broken(error) from error

    def decode_all(self, bodies: Iterable[bytes | str]) -> list[R]:
        """The records of many bodies. Raises as ``decode``."""
        try:
            return list(map(self.decoder.decode, bodies))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> IntegrityBroken:
        return IntegrityBroken(f"A record of kind '{self.name}' does not read as one: {error}.", hint="restore the home from a backup")


def join_values(values: Sequence[object]) -> str:
    """Values of a compound index as one text that no other tuple of values gives. Raises InvalidInput for a text that is not Unicode."""
    try:
        return msgspec.json.encode([None if value is None else str(value) for value in values]).decode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{error.object!r} is not Unicode, so nothing is filed under it.") from error


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
        after: str | None = None,
        limit: int | None = None,
    ) -> list[R]:
        """Records in the order they were first appended. Cost grows with the rows returned, not with the rows kept.

        ``after`` is the id of a record of the kind, whether it is among those asked for or not: what comes behind it in that order is given, so
        that pages follow one another. ``limit`` None means all. Raises NotFound for an ``after`` that is not there, InvalidInput for a limit
        below 0 and for a ``where`` that no index answers.

        Where records were written by a declaration without that index, the first search files them all under it: one pass over the kind, in a
        transaction of its own or in the one that searches; IntegrityBroken for a record that does not read. Where nothing can be written, or
        the thread has a transaction open that this reader is not, what is asked for is picked out of all records of the kind.
        """
        ...


class RecordTransaction(RecordReader, Protocol):
    """Writing: all of it or nothing. Writers of one store take turns; once its block has ended it takes no more."""

    def append(self, kind: Kind[R], *, workspace: str, record: R) -> None:
        """Add a record. Raises Conflict when its id stands already."""
        ...

    def put(self, kind: Kind[R], *, workspace: str, record: R, expected_version: int) -> int:
        """Replace a record if its version is still the expected one (0: it must not exist). Returns the new version.

        Raises Conflict when somebody changed it first.
        """
        ...

    def remove(self, kind: Kind[R], *, workspace: str, ids: Sequence[str]) -> int:
        """Take records away for good; returns how many stood. What is not there changes nothing. Never for what a chain, or another record, names."""
        ...

    def load(self, records: Iterable[FiledRecord]) -> int:
        """Append records of a backup, with the versions and keys that they had. Returns how many. Raises Conflict when one of them stands."""
        ...

    def count(self) -> int:
        """How many records there are, of whatever kind and workspace. Cost grows with them."""
        ...


class RecordStore(RecordReader, Protocol):
    def transact(self) -> AbstractContextManager[RecordTransaction]:
        """A transaction: committed when the block ends, rolled back when it raises. The only way to write.

        Others see nothing of it before it is committed, and are not kept from reading. Raises InvalidInput inside another transaction of
        the same thread, and Conflict when other writers do not let it have its turn.
        """
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

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        """Keep bytes that come in pieces, of which never more than one is in memory; returns their digest and how many they are.

        When the stream breaks off, or is longer than ``most_bytes`` (None: any length; InvalidInput), nothing of it stays.
        """
        ...

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The bytes in pieces of ``n_bytes``, of which never more than one is in memory. Raises NotFound before the first.

        Raises IntegrityBroken when they were changed at rest; of many pieces, after those before the last, as only then all were seen.
        """
        ...

    def has(self, digest: str) -> bool: ...

    def list_digests(self) -> Iterator[tuple[str, int]]:
        """All digests that are kept, and how many bytes each stands for; what is put meanwhile may be among them. Cost grows with the blobs."""
        ...


class TableStore(Protocol):
    """Columns at rest: datasets in partitions, each partition one table that is replaced whole.

    Datasets and the names in a partition are names as ``endcap.core.names`` has them; the values are any text of up to about 200 bytes.
    The order of a partition's names means nothing. Raises InvalidInput otherwise.
    """

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        """Write or replace one partition; readers see the old one or the new one. Returns the rows written.

        Raises InvalidInput when two columns share a name.
        """
        ...

    def read(self, dataset: str, *, partition: Mapping[str, str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the partitions whose values include ``partition``'s, without the partition columns, in the order of ``partitions``.

        A column that only some partitions have is null in the others. ``columns`` None means all. Raises NotFound when there is no
        partition, InvalidInput for a column that none has or that has several types, IntegrityBroken when bytes were changed at rest.
        """
        ...

    def scan(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> pads.Dataset:
        """The same as a lazy dataset: what was there when it was opened, whatever is replaced since.

        It holds a file open for each partition until it is dropped.
        """
        ...

    def partitions(self, dataset: str, *, partition: Mapping[str, str] | None = None) -> list[dict[str, str]]:
        """The partitions that hold a table, in the order of their values, names sorted; an unknown dataset has none."""
        ...

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        """Forget one partition; forgetting what is not there changes nothing."""
        ...

    def measure(self, dataset: str, *, partition: Mapping[str, str]) -> int:
        """How many bytes one partition takes at rest; 0 where there is none."""
        ...

    def list_sizes(self, *, partition: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str], int]]:
        """The partitions of all datasets whose values include ``partition``'s, with the bytes that each takes at rest; in no particular order.

        What is written meanwhile may be among them. Cost grows with all partitions.
        """
        ...

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        """``write`` for a partition whose Parquet file is at hand, as a backup holds it. When ``chunks`` raises, the old one stands."""
        ...


class OnlineStore(Protocol):
    """The newest row of each key, by space: what answers within microseconds.

    A row is bytes that begin with its stamp, as ``pack_stamp`` makes it: when it was true, and from when that was known. A key is any bytes, up
    to 2 KiB; a space any text of up to 400 bytes. What is in here can always be made anew from what is kept elsewhere.
    """

    @property
    def n_rows_at_once(self) -> int:
        """How many rows a batch should have at most, so that neither other writers nor readers wait for more than some milliseconds."""
        ...

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """Put rows in the place of older ones of their keys. Returns how many; a row whose stamp is older than what stands is passed over.

        One with the same stamp replaces, so that writing twice changes nothing; of a key that comes twice in a batch, what was said of rows
        standing holds between the two. All of the batch or nothing, for every reader in any process and whenever the writer is killed.
        Raises InvalidInput for a row without a stamp, StorageFull where there is no room.
        """
        ...

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        """The rows of many keys in many spaces, in the order they were asked for; None for a key that has none.

        All of them as they stood at one instant: of a batch, every row or none. Cost grows with the keys asked for.
        """
        ...

    def get(self, space: str, key: bytes) -> bytes | None:
        """The row of one key: what ``read`` says of it, by the shortest way."""
        ...

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        """Up to ``n`` keys with their rows, each key at most once and as likely as any other; the store draws by chances of its own."""
        ...

    def count(self, space: str) -> int:
        """How many keys a space has; one never written to has none."""
        ...

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        """Forget the rows of keys, whatever their stamps; returns how many stood. All of them or none; what is not there changes nothing."""
        ...

    def drop(self, space: str) -> None:
        """Forget a space; forgetting what is not there changes nothing."""
        ...

    def spaces(self) -> list[str]:
        """The spaces that hold a row, sorted."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ports:
    """The open stores of one home, and its folder for files that were fetched from elsewhere (by default one that ends with the process).

    ``url`` is the home as it may be shown, without a password; ``folder`` is where its files rest (None: in no folder). ``online`` and ``tracks``
    open what they need when they are first used. ``freeze`` is a block in which the home can be read as it stands when the block begins, while
    others go on: see ``endcap.storage.frozen``. Writers of records wait for some 50 us a partition then. ``kept`` is what rooms above remember of the
    home in memory, each under a name of its own.
    """

    url: str
    records: RecordStore
    blobs: BlobStore
    tables: TableStore
    online: OnlineStore
    tracks: TrackStore
    freeze: Callable[[], AbstractContextManager[Frozen]]
    landing: LandingFolder = field(default_factory=LandingFolder)
    folder: Path | None = None
    kept: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def near(self) -> bool:
        """Whether a record is read without a round trip to a server, in which others could be answered."""
        return self.url == "memory://" or "://" not in self.url

    def close(self) -> None:
        self.records.close()
        self.online.close()
        self.tracks.close()
        self.landing.close()


def pack_stamp(event_us: int, known_us: int) -> bytes:
    """The head of an online row: two instants in microseconds of UTC since 1970, such that of two stamps the later is the greater as bytes.

    >>> pack_stamp(-1, 5) < pack_stamp(0, 3) < pack_stamp(0, 4)
    True
    """
    return _STAMP.pack(event_us + _ZERO, known_us + _ZERO)


def read_stamp(row: bytes) -> tuple[int, int]:
    """The two instants of an online row's stamp.

    >>> read_stamp(pack_stamp(-1, 5) + b"the rest")
    (-1, 5)
    """
    event, known = _STAMP.unpack_from(row)
    return event - _ZERO, known - _ZERO


def require_batch(space: str, keys: Sequence[bytes], rows: Sequence[bytes]) -> None:
    """Raise InvalidInput unless there is a row with a stamp for each key, and the space and the keys are not too long."""
    require_space(space)
    if len(keys) != len(rows):
        raise InvalidInput(f"A batch for '{space}' has {len(keys)} keys and {len(rows)} rows.")
    if rows and min(map(len, rows)) < STAMP_BYTES:
        raise InvalidInput(f"A row for '{space}' has {min(map(len, rows))} bytes; the first {STAMP_BYTES} are its stamp.", hint="see pack_stamp")
    if keys and max(map(len, keys)) > _MOST_KEY_BYTES:
        raise InvalidInput(
            f"A key for '{space}' has {max(map(len, keys)):,} bytes; the most are {_MOST_KEY_BYTES:,}.", hint="key by an id, not by a text"
        )


def require_space(space: str) -> bytes:
    """A space's name as bytes. Raises InvalidInput for one that is too long or not Unicode."""
    try:
        name = space.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{space!r} is not Unicode, so no online space is called so.") from error
    if len(name) > _MOST_SPACE_BYTES:
        raise InvalidInput(f"An online space is called by {len(name)} bytes: {space[:40]!r} ... The most are {_MOST_SPACE_BYTES}.")
    return name


def partition_folders(partition: Mapping[str, str]) -> tuple[str, ...]:
    """The folders ``name=value`` of a partition, sorted by name, safe whatever the values hold. Raises InvalidInput for what no folder can say.

    >>> partition_folders({"version": "..", "model": "a/b"})
    ('model=a%2Fb', 'version=..')
    """
    folders = []
    for name, value in sorted(partition.items()):
        try:
            folder = f"{require_name(name, what='partition')}={quote(value, safe='')}"
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidInput(f"The partition {name!r} has the value {value!r}, which is no text.") from error
        if len(folder) > _MOST_FOLDER_BYTES:
            raise InvalidInput(f"The partition {name!r} has a value of {len(value)} characters, which is too long: {value[:40]!r} ...")
        folders.append(folder)
    return tuple(folders)


def matches(candidate: Mapping[str, str], wanted: Mapping[str, str] | None) -> bool:
    """Whether a partition's values include the wanted ones."""
    return all(candidate.get(name) == value for name, value in (wanted or {}).items())


def require_limit(limit: int | None) -> int | None:
    """The same limit. Raises InvalidInput below 0."""
    if limit is not None and limit < 0:
        raise InvalidInput(f"The limit is {limit}; it must be 0 or more.")
    return limit


def missing_place(kind: str, identity: str) -> NotFound:
    """The error of a search after a record that is not there."""
    return NotFound(f"There is no {kind} {identity!r} after which others could come.", hint="begin at the first page again")


def conflict(kind: str, identity: str, expected_version: int) -> Conflict:
    """The error of a write that came second."""
    if expected_version == 0:
        return Conflict(f"The {kind} '{identity}' stands already.")
    return Conflict(
        f"The {kind} '{identity}' was changed since version {expected_version} was read.",
        hint="read it again, then retry",
    )


def nested_transaction() -> InvalidInput:
    """The error of a transaction inside another of the same thread."""
    return InvalidInput("This thread has a transaction open already.", hint="write through the open one")


def ended_transaction() -> InvalidInput:
    """The error of using a transaction after its block."""
    return InvalidInput("This transaction has ended.", hint="open another with transact()")


def changed_bytes(digest: str) -> IntegrityBroken:
    """The error of reading bytes that are not those that were put."""
    return IntegrityBroken(
        f"The bytes kept under {digest} were changed at rest.",
        hint="restore the file from a backup, or train the version again",
    )


def too_many_bytes(most_bytes: int) -> InvalidInput:
    """The error of a stream that is longer than it may be."""
    return InvalidInput(f"What was sent is longer than {most_bytes:,} bytes, which is the most.", hint="send less, or in several files")


def require_chunk_bytes(n_bytes: int) -> int:
    """The same size of a piece. Raises InvalidInput below 1."""
    if n_bytes < 1:
        raise InvalidInput(f"A piece of {n_bytes} bytes is none; it must be 1 or more.")
    return n_bytes


def missing_bytes(digest: str) -> NotFound:
    """The error of reading bytes that were never put."""
    return NotFound(f"No bytes are kept under {digest!r}.")
