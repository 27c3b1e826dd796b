"""Backups: a home written into a vault as parts by their SHA-256, and read back from there into an empty one.

``Keeper`` writes the parts of a home and ``Filler`` reads them. Why they fit together while others write is said in ``endcap.storage.frozen``.
The order is records, tracks and partitions as they are frozen, then the blobs, then the seal. A part that is there already is not written again, so
that a second backup costs what is new, and one that was killed goes on where it was.

Records and tracks are streams of records of the house, not files of a back end: a home in a folder is restored into PostgreSQL and the other way.
Each record is read by its type when it is backed up, so that the backup says by which keys it is found, and what does not read is noticed while the
home is still there. Online rows are not in it: they are made anew from what is.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.storage.files import ending, telling_full
from endcap.storage.frozen import FiledRecord, Frozen, HeldFile, HeldPartition
from endcap.storage.landing import LandingFolder
from endcap.storage.ports import CHUNK_BYTES, BlobStore, Kind, Ports
from endcap.storage.tracks import TrackPiece
from endcap.storage.vaults import Vault

FORMAT = 1
_FRAME = struct.Struct(">I")
_MOST_FRAME_BYTES = 1 << 30
_AT_ONCE = 4  # reads, writes and fsyncs that wait at the same time
_TRACKS_AT_ONCE = 500
_POINTS_AT_ONCE = 50_000

Advance = Callable[[int, int], None]
Observe = Callable[[str, str, msgspec.Struct], None]


class Part(msgspec.Struct, frozen=True):
    """Bytes of a backup: their SHA-256 and how many, and how many rows are in them (None: they have none)."""

    digest: str
    n_bytes: int
    n_rows: int | None = None


class PartitionPart(msgspec.Struct, frozen=True):
    """A partition of a dataset and its Parquet file."""

    dataset: str
    partition: dict[str, str]
    digest: str
    n_bytes: int


class LandedPart(msgspec.Struct, frozen=True):
    """A landed file, and where it lies in the landing folder."""

    path: tuple[str, ...]
    digest: str
    n_bytes: int


class ChainHead(msgspec.Struct, frozen=True):
    """Where the audit chain of a workspace ended: after so many rows, in that hash."""

    n: int
    hash: str


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup consists of. ``at`` is its recovery point: what was acknowledged before is in it. ``forgotten_at`` is since when the list of the
    forgotten stood that lay beside it (None: there was none).

    ``signature`` is over all else, by the public ``key``; both are empty where nobody signed.
    """

    format: int
    at: datetime
    endcap: str
    home: str
    host: str
    actor: str
    records: Part
    tracks: Part
    partitions: tuple[PartitionPart, ...]
    landed: tuple[LandedPart, ...]
    blobs: tuple[tuple[str, int], ...]
    heads: dict[str, ChainHead]
    forgotten_at: datetime | None = None
    key: str = ""
    signature: str = ""

    @property
    def stamp(self) -> str:
        return f"{self.at:%Y%m%dT%H%M%SZ}"

    @property
    def n_bytes(self) -> int:
        """The bytes of all parts."""
        streams = self.records.n_bytes + self.tracks.n_bytes
        return streams + sum(part.n_bytes for part in self.partitions) + sum(part.n_bytes for part in self.landed) + sum(n for _, n in self.blobs)

    def list_parts(self) -> dict[str, int]:
        """All parts by digest, with their bytes."""
        streams = {self.records.digest: self.records.n_bytes, self.tracks.digest: self.tracks.n_bytes}
        tables = {part.digest: part.n_bytes for part in self.partitions} | {part.digest: part.n_bytes for part in self.landed}
        return streams | tables | dict(self.blobs)


class Keeper:
    """Writes the parts of a home into a vault. ``n_bytes_new`` counts what was not there yet."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._standing = vault.list_parts()
        self.n_bytes_new = 0

    def keep_records(self, frozen: Frozen, *, kinds: Mapping[str, Kind[Any]], observe: Observe, advance: Advance) -> Part:
        """All records; ``observe`` is shown each with its workspace and kind.

        Raises InvalidInput for a kind that is not known, IntegrityBroken for a record that does not read as one of its kind.
        """

        def bodies() -> Iterator[bytes]:
            encode = msgspec.msgpack.Encoder().encode
            for n, raw in enumerate(frozen.records(), 1):
                kind = kinds.get(raw.kind)
                if kind is None:
                    raise InvalidInput(f"The home holds a record of the kind '{raw.kind}', which this Endcap does not know.", hint="upgrade endcap")
                record = kind.decode(raw.body)
                observe(raw.workspace, raw.kind, record)
                yield encode(FiledRecord(raw.kind, raw.workspace, kind.id_of(record), raw.version, raw.body, kind.keys_of(record)))
                if n % 1000 == 0:
                    advance(n, n)

        return self._keep_stream(bodies())

    def keep_tracks(self, frozen: Frozen, *, advance: Advance) -> Part:
        """All tracks with their points; the rows counted are tracks."""
        n = 0

        def bodies() -> Iterator[bytes]:
            nonlocal n
            encode = msgspec.msgpack.Encoder().encode
            for piece in frozen.tracks():
                yield encode(piece)
                n += piece.first
                if n % 1000 == 0:
                    advance(n, n)

        return msgspec.structs.replace(self._keep_stream(bodies()), n_rows=n)

    def keep_partitions(self, partitions: Sequence[HeldPartition], *, advance: Advance) -> tuple[PartitionPart, ...]:
        """All partitions. Each is read once for its digest, and once more where it is new."""
        parts = []
        for n, held in enumerate(partitions, 1):
            parts.append(PartitionPart(held.dataset, dict(held.partition), *self._keep_file(held.read)))
            advance(n, len(partitions))
        return tuple(parts)

    def keep_landed(self, landed: Sequence[HeldFile], *, advance: Advance) -> tuple[LandedPart, ...]:
        """All landed files, as partitions are kept."""
        parts = []
        for n, held in enumerate(landed, 1):
            parts.append(LandedPart(held.path, *self._keep_file(held.read)))
            advance(n, len(landed))
        return tuple(parts)

    def keep_blobs(self, blobs: BlobStore, *, advance: Advance) -> tuple[tuple[str, int], ...]:
        """All blobs, some at a time. Those that the vault has are not read. Raises IntegrityBroken for one that was changed at rest in the home."""
        found = list(blobs.list_digests())
        n_total, n_done = sum(n_bytes for _, n_bytes in found), 0

        def keep(digest: str, n_bytes: int) -> int:
            self._keep(digest, n_bytes, lambda: blobs.read_chunks(digest))
            return n_bytes

        for n_bytes in _in_threads(keep, found):
            n_done += n_bytes
            advance(n_done, n_total)
        return tuple(found)

    def seal(self, seal: Seal) -> str:
        """Write the seal: from now on there is a backup. Returns its name."""
        return self._vault.seal(seal.stamp, msgspec.json.encode(seal))

    def _keep_file(self, read: Callable[[], Iterator[bytes]]) -> tuple[str, int]:
        """Keep a file whose digest is not known; returns that, and its bytes."""
        total, n_bytes = hashlib.sha256(), 0
        for chunk in read():
            total.update(chunk)
            n_bytes += len(chunk)
        self._keep(total.hexdigest(), n_bytes, read)
        return total.hexdigest(), n_bytes

    def _keep(self, digest: str, n_bytes: int, read: Callable[[], Iterator[bytes]]) -> None:
        if self._standing.get(digest) != n_bytes:
            self._vault.keep(digest, read())
            self._standing[digest] = n_bytes
            self.n_bytes_new += n_bytes

    def _keep_stream(self, bodies: Iterator[bytes]) -> Part:
        """Bodies as one part. They wait in a temporary file until their digest is known, so that the home is frozen no longer than it must be."""
        total, n_bytes, n = hashlib.sha256(), 0, 0
        folder = Path(tempfile.gettempdir())
        with telling_full(folder), tempfile.TemporaryFile() as waiting:
            for n, body in enumerate(bodies, 1):  # noqa: B007 - how many they were
                for piece in (_FRAME.pack(len(body)), body):
                    total.update(piece)
                    n_bytes += waiting.write(piece)
            self._keep(total.hexdigest(), n_bytes, lambda: _read_from_start(waiting))
        return Part(total.hexdigest(), n_bytes, n)


class Filler:
    """Reads the parts of a backup into a home."""

    def __init__(self, vault: Vault, seal: Seal) -> None:
        self._vault = vault
        self._seal = seal

    def fill_blobs(self, blobs: BlobStore, *, advance: Advance) -> None:
        """All blobs, some at a time; those that are there, as a restore that was killed left them, are not read."""
        n_total, n_done = sum(n_bytes for _, n_bytes in self._seal.blobs), 0

        def fill(digest: str, n_bytes: int) -> int:
            if not blobs.has(digest):
                with ending(self._vault.read(digest, n_bytes=n_bytes)) as chunks:
                    blobs.put_stream(chunks)
            return n_bytes

        for n_bytes in _in_threads(fill, self._seal.blobs):
            n_done += n_bytes
            advance(n_done, n_total)

    def fill_tables(self, ports: Ports, *, advance: Advance) -> None:
        """All partitions, in the place of what a restore that was killed had written."""
        parts = self._seal.partitions

        def fill(n: int, part: PartitionPart) -> int:
            with ending(self._vault.read(part.digest, n_bytes=part.n_bytes)) as chunks:
                ports.tables.place(part.dataset, partition=part.partition, chunks=chunks)
            return n

        for n in _in_threads(fill, list(enumerate(parts, 1))):
            advance(n, len(parts))

    def fill_landed(self, landing: LandingFolder, *, advance: Advance) -> None:
        """All landed files, as partitions are filled."""
        for n, part in enumerate(self._seal.landed, 1):
            with ending(self._vault.read(part.digest, n_bytes=part.n_bytes)) as chunks:
                landing.place(part.path, chunks)
            advance(n, len(self._seal.landed))

    def fill_tracks(self, ports: Ports, *, advance: Advance) -> None:
        """All tracks, some hundreds to a transaction, each in the place of what a restore that was killed had written."""
        some: list[TrackPiece] = []
        n_points = n = 0
        with ending(self._read_stream(self._seal.tracks, TrackPiece)) as pieces:
            for piece in pieces:
                some.append(piece)
                n_points += len(piece.points)
                if len(some) >= _TRACKS_AT_ONCE or n_points >= _POINTS_AT_ONCE:
                    ports.tracks.load(some)
                    n += sum(piece.first for piece in some)
                    advance(n, self._seal.tracks.n_rows or n)
                    some, n_points = [], 0
        if some:
            ports.tracks.load(some)

    def read_records(self, *, advance: Advance) -> Iterator[FiledRecord]:
        """All records, in their order. Raises IntegrityBroken, at the end at the latest, where they are not what they were: keep none then."""
        with ending(self._read_stream(self._seal.records, FiledRecord)) as records:
            for n, record in enumerate(records, 1):
                yield record
                if n % 1000 == 0:
                    advance(n, self._seal.records.n_rows or n)

    def _read_stream(self, part: Part, type_: type[Any]) -> Iterator[Any]:
        decode = msgspec.msgpack.Decoder(type_).decode
        try:
            with ending(_read_frames(self._vault.read(part.digest, n_bytes=part.n_bytes))) as bodies:
                for body in bodies:
                    yield decode(body)
        except msgspec.DecodeError as error:
            raise IntegrityBroken(f"The part {part.digest} of the backup does not read: {error}.", hint="restore an older one") from error


def read_seal(vault: Vault, name: str | None) -> tuple[str, Seal]:
    """The seal of a backup (None: the newest), with its name. Raises NotFound, IntegrityBroken, or InvalidInput for one of a newer format."""
    vault.require()
    if name is None:
        name = next(reversed(vault.list_seals()), None)
        if name is None:
            raise InvalidInput(f"No backup in {vault.shown} is whole: the first was broken off.", hint="give endcap backup again; it goes on")
    body = vault.read_seal(name)
    try:
        said = msgspec.json.decode(body, type=_Format).format
        if said > FORMAT:
            raise InvalidInput(f"The backup '{name}' is of a newer Endcap (format {said}; this one knows {FORMAT}).", hint="upgrade endcap")
        return name, msgspec.json.decode(body, type=Seal)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityBroken(f"The seal of the backup '{name}' does not read: {error}.", hint="restore an older one") from error


def check_parts(vault: Vault, seal: Seal, *, advance: Advance) -> int:
    """Read every part of a backup and check it against its digest. Returns the bytes read. Raises IntegrityBroken for the first that is not whole."""
    parts, n_done = list(seal.list_parts().items()), 0

    def check(digest: str, n_bytes: int) -> int:
        for _ in vault.read(digest, n_bytes=n_bytes):
            pass
        return n_bytes

    for n_bytes in _in_threads(check, parts):
        n_done += n_bytes
        advance(n_done, seal.n_bytes)
    return n_done


class _Format(msgspec.Struct, frozen=True):
    format: int


def _in_threads(work: Callable[..., int], items: Sequence[tuple[Any, ...]]) -> Iterator[int]:
    """What the work gives, some items at a time, in their order. The first that raises ends it: those that had not begun are not."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        waiting: list[Future[int]] = [threads.submit(work, *item) for item in items]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _read_from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(CHUNK_BYTES):
        yield piece


def _read_frames(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bodies of a stream. Raises IntegrityBroken where it ends inside one, or says that one is longer than any can be."""
    kept = bytearray()
    with ending(chunks):
        for chunk in chunks:
            kept += chunk
            start = 0
            while len(kept) - start >= _FRAME.size:
                (n_bytes,) = _FRAME.unpack_from(kept, start)
                if n_bytes > _MOST_FRAME_BYTES:
                    raise IntegrityBroken(f"A record of the backup has {n_bytes:,} bytes, more than any can have.", hint="restore an older one")
                end = start + _FRAME.size + n_bytes
                if len(kept) < end:
                    break
                yield bytes(kept[start + _FRAME.size : end])
                start = end
            del kept[:start]
    if kept:
        raise IntegrityBroken("The records of the backup end inside one.", hint="restore an older one")
