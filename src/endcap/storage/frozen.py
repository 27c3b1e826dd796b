"""A home as it stood at one instant: what a backup reads while others go on writing, and what a restore hands back.

Whoever writes keeps an order that every kill -9 respects: a blob or a partition is there before the record that names it is committed, and goes
only after a commit of records that name it no more. So at every instant the committed records find all that they name, and a store is frozen by
holding off writers of records for one moment: in it a reader of records is opened, whose snapshot is that instant, and every partition is held
under a second name, whatever is replaced or deleted since. Blobs are not held: they never change and never go, so that those that the records of
the instant name are still there however late they are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from endcap.storage.tracks import TrackPiece


class FiledRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record with all that a store knows of it. ``keys`` are the (index name, value) pairs under which its kind files it."""

    kind: str
    workspace: str
    id: str
    version: int
    body: bytes
    keys: list[tuple[str, str]]


@dataclass(frozen=True)
class RawRecord:
    """A record as it lies in a store: its body is not looked into."""

    kind: str
    workspace: str
    version: int
    body: bytes


@dataclass(frozen=True)
class HeldPartition:
    """A partition as it stood. ``read`` gives the bytes of its Parquet file in pieces, from their beginning each time it is called."""

    dataset: str
    partition: Mapping[str, str]
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class HeldFile:
    """A landed file as it stood: where it lies in the landing folder, and its bytes, as of a partition."""

    path: tuple[str, ...]
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Frozen:
    """What stood at the instant, for as long as the block lasts. ``records`` come in the order in which they were first appended.

    What is read comes in pieces: memory does not grow with the home. Records and tracks are read once; all by the thread that froze.
    """

    records: Callable[[], Iterator[RawRecord]]
    tracks: Callable[[], Iterator[TrackPiece]]
    partitions: Sequence[HeldPartition]
    landed: Sequence[HeldFile] = ()
