"""Storage: bytes are counted where they are put, to the workspace, the actor and the thing that they are for.

The stores of a session are wrapped. What is put waits in memory for the session's next transaction, the one that names it, and is written down with
it: what a killed process put and never named is counted by nobody. A blob that stands already in the workspace's ledger counts no second time; a
partition counts with the bytes that it takes now, and no more once it is gone. What worker processes put, and what was put before anything was
counted, is found by ``endcap quotas recount``, which looks at everything that the workspace's records name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from endcap.core.errors import StorageFull
from endcap.governance.quotas.amounts import name_day
from endcap.governance.quotas.limits import NO_LIMITS, Limits, find_limits, require_storage
from endcap.governance.quotas.records import HELD, STORED, Held, Stored, Usage
from endcap.governance.quotas.usage import add_usage
from endcap.governance.sessions import Session
from endcap.storage.ports import RecordTransaction, partition_folders
from endcap.storage.wrapped import WrappedBlobs, WrappedRecords, WrappedTables

if TYPE_CHECKING:
    import pyarrow as pa

S = TypeVar("S")

_KEPT_S = 1.0
_THING: ContextVar[str] = ContextVar("endcap-metered-thing", default="")


@contextmanager
def storing_for(thing: str) -> Iterator[None]:
    """Count what is put while the block runs to a thing."""
    token = _THING.set(thing)
    try:
        yield
    finally:
        _THING.reset(token)


def meter(session: Session) -> Session:
    """The session with stores that count what is put. Costs some 5 us, and nothing for what is read."""
    account = _Account(session)
    ports = session.ports
    metered = replace(
        ports,
        records=MeteredRecords(ports.records, account),
        blobs=MeteredBlobs(ports.blobs, account),
        tables=MeteredTables(ports.tables, account),
    )
    return replace(session, ports=metered)


def without_meter(session: Session) -> Session:
    """The session with stores that count nothing: for a restore, whose records hold what was counted of what it puts."""
    ports = session.ports
    return replace(
        session,
        ports=replace(
            ports,
            records=ports.records.inner if isinstance(ports.records, MeteredRecords) else ports.records,
            blobs=ports.blobs.inner if isinstance(ports.blobs, MeteredBlobs) else ports.blobs,
            tables=ports.tables.inner if isinstance(ports.tables, MeteredTables) else ports.tables,
        ),
    )


def name_blob(digest: str) -> str:
    return f"blob/{digest}"


def name_partition(dataset: str, partition: Mapping[str, str]) -> str:
    return "/".join(("table", dataset, *partition_folders(partition)))


def write_ledger(tx: RecordTransaction, workspace: str, entries: Iterable[Stored], *, day: str) -> None:
    """Bring the ledger, its sums and the usage of the day to what entries say. Cost: two reads and a write for each that is new."""
    changes: dict[tuple[str, str], int] = {}
    for entry in entries:
        before, version = tx.get_versioned(STORED, workspace=workspace, id=entry.id) or (None, 0)
        if entry.n_bytes == (before.n_bytes if before else 0):
            continue
        if before is not None:
            owner = before.actor, before.thing
            changes[owner] = changes.get(owner, 0) - before.n_bytes
        tx.put(STORED, workspace=workspace, record=entry, expected_version=version)
        changes[entry.actor, entry.thing] = changes.get((entry.actor, entry.thing), 0) + entry.n_bytes
    for (actor, thing), n_bytes in changes.items():
        if not n_bytes:
            continue
        held = Held(actor=actor, thing=thing, n_bytes=n_bytes)
        standing, version = tx.get_versioned(HELD, workspace=workspace, id=held.id) or (None, 0)
        whole = msgspec.structs.replace(held, n_bytes=n_bytes + (standing.n_bytes if standing else 0))
        tx.put(HELD, workspace=workspace, record=whole, expected_version=version)
        add_usage(tx, workspace, Usage(day=day, actor=actor, thing=thing, n_bytes=n_bytes))


class _Account:
    """What one session put and no transaction has written down yet."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[str, Stored] = {}
        self._lock = threading.Lock()
        self._limits: Limits = NO_LIMITS
        self._until = 0.0

    def note(self, identity: str, n_bytes: int) -> None:
        entry = Stored(id=identity, n_bytes=n_bytes, actor=self._session.actor.name, thing=_THING.get(), at=self._session.now())
        with self._lock:
            self._waiting[identity] = entry

    def require_room(self, n_bytes: int) -> int | None:
        """How many bytes may still be put, None for any number. Raises StorageFull where ``n_bytes`` more are too many."""
        if monotonic() >= self._until:
            self._limits, self._until = find_limits(self._session), monotonic() + _KEPT_S
        if all(quota.storage is None for quota in self._limits.quotas):
            return None
        with self._lock:
            waiting = sum(entry.n_bytes for entry in self._waiting.values())
        left = require_storage(self._session, self._limits, n_bytes + waiting, verb="store")
        return None if left is None else left - waiting

    def write(self, tx: RecordTransaction) -> list[Stored]:
        """Write down what waits; what that was."""
        if not self._waiting:
            return []
        with self._lock:
            entries = list(self._waiting.values())
        write_ledger(tx, self._session.workspace, entries, day=name_day(self._session.now()))
        return entries

    def forget(self, entries: Iterable[Stored]) -> None:
        """What a transaction wrote waits no more, unless it was put anew meanwhile."""
        with self._lock:
            for entry in entries:
                if self._waiting.get(entry.id) is entry:
                    del self._waiting[entry.id]


@dataclass(frozen=True)
class MeteredRecords(WrappedRecords):
    """Records whose transactions write down what their session put."""

    account: _Account

    @contextmanager
    def transact(self) -> Iterator[RecordTransaction]:
        with self.inner.transact() as tx:
            yield tx
            written = self.account.write(tx)
        if written:
            self.account.forget(written)


@dataclass(frozen=True)
class MeteredBlobs(WrappedBlobs):
    """Blobs that are counted where they are put. Another process that is handed them has them as they are, and counts nothing."""

    account: _Account

    def __reduce__(self) -> tuple[Any, ...]:
        return _hand_on, (self.inner,)

    def put(self, payload: bytes) -> str:
        self.account.require_room(len(payload))
        digest = self.inner.put(payload)
        self.account.note(name_blob(digest), len(payload))
        return digest

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        left = self.account.require_room(0)
        digest, n_bytes = self.inner.put_stream(chunks if left is None else _end_at(chunks, left), most_bytes=most_bytes)
        self.account.note(name_blob(digest), n_bytes)
        return digest, n_bytes


@dataclass(frozen=True)
class MeteredTables(WrappedTables):
    """Tables that are counted where they are written; as ``MeteredBlobs``."""

    account: _Account

    def __reduce__(self) -> tuple[Any, ...]:
        return _hand_on, (self.inner,)

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        self.account.require_room(1)  # how many it takes is known once it is written
        n_rows = self.inner.write(dataset, partition=partition, table=table)
        self._note(dataset, partition)
        return n_rows

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        self.inner.delete(dataset, partition=partition)
        self.account.note(name_partition(dataset, partition), 0)

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        self.inner.place(dataset, partition=partition, chunks=chunks)
        self._note(dataset, partition)

    def _note(self, dataset: str, partition: Mapping[str, str]) -> None:
        self.account.note(name_partition(dataset, partition), self.inner.measure(dataset, partition=partition))


def _end_at(chunks: Iterable[bytes], left: int) -> Iterator[bytes]:
    """The same pieces up to what there is room for. Raises StorageFull beyond."""
    n_bytes = 0
    for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > left:
            raise StorageFull(
                f"What was sent is longer than the {max(left, 0):,} bytes that the quota of storage leaves.", hint="see: endcap quotas show"
            )
        yield chunk


def _hand_on(inner: S) -> S:
    return inner
