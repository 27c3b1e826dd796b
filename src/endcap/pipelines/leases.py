"""Leases: one run of a subject at a time; a second waits or says so, and what a holder that died left behind is free again.

A lease is a record: who holds a subject, since when, until when unless renewed. A thread renews it while the work goes on. It is free
once it was given back, once its time has passed, or at once when its holder was a process of this machine that is no more.

Whoever was paused for so long that another took the lease must not write on (Martin Kleppmann, "How to do distributed locking", 2016:
fencing tokens). ``n`` counts how often a lease was taken, and every transaction of the session that a hold gives looks first whether
its ``n`` still stands; since writers of a store take turns, nothing can come between the look and the write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.durations import format_duration
from endcap.core.errors import Conflict, EndcapError, LeaseLost
from endcap.governance.holders import HOLDS, Holder
from endcap.governance.sessions import Session
from endcap.pipelines.graph import Reporter, SilentReporter
from endcap.storage.ports import Kind, RecordReader, RecordTransaction
from endcap.storage.wrapped import WrappedRecords, WrappedTables

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

EXPIRY_S = 60.0
RENEWAL_S = 15.0
ASKED_S = 1.0
"""How often a holder who signed in is asked for again while it writes tables: what was taken away is gone within a second."""
_POLL_S = 0.5


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a subject. ``n`` grows by one each time it is taken, by nothing else; ``run`` is '' until the holder's run has begun."""

    subject: str
    n: int
    actor: str
    holder: Holder
    since: datetime
    expires_at: datetime
    run: str = ""
    released: bool = False

    def is_free(self, now: datetime) -> bool:
        return self.released or self.expires_at <= now or HOLDS.is_gone(self.holder)


LEASES = Kind("lease", Lease, "subject")


class Hold:
    """A lease that is held. ``session`` is the holder's, fenced: once another has taken the lease its writes raise LeaseLost."""

    def __init__(self, session: Session, lease: Lease) -> None:
        self._unfenced = session
        self._workspace = session.workspace
        self._asked_s = time.monotonic()
        self.lease = lease
        ports = session.ports
        fenced = replace(ports, records=FencedRecords(ports.records, self), tables=FencedTables(ports.tables, self))
        self.session = replace(session, ports=fenced)

    def require(self, reader: RecordReader) -> None:
        """Raise LeaseLost unless the lease is still this hold's. Cost: one read by id, some 20 us on the embedded back end."""
        standing = self._find(reader)
        if standing is None or standing[0].n != self.lease.n or standing[0].released:
            raise self._lost(standing[0] if standing else None)

    def require_warrant(self) -> None:
        """Raise PermissionDenied, audited, where who signed in and holds the lease may no longer act as then. Asks once a second at most."""
        if time.monotonic() - self._asked_s >= ASKED_S:
            self._unfenced.require_warrant(verb="run", thing=f"run/{self.lease.run}" if self.lease.run else self.lease.subject)
            self._asked_s = time.monotonic()

    def name_run(self, tx: RecordTransaction, run: str) -> None:
        """Say in the lease which run it is held for, inside the transaction that begins the run."""
        self._put(tx, run=run)
        self.lease = msgspec.structs.replace(self.lease, run=run)

    def renew(self) -> bool:
        """Put off the expiry; False when the lease is lost."""
        with self._unfenced.records.transact() as tx:
            try:
                self._put(tx, expires_at=self._unfenced.now() + timedelta(seconds=EXPIRY_S))
            except LeaseLost:
                return False
        return True

    def release(self) -> None:
        """Give the lease back. One that cannot be written any more, or is lost, is left to the next."""
        HOLDS.end(self.lease.holder)
        try:
            with self._unfenced.records.transact() as tx:
                self._put(tx, released=True)
        except EndcapError as error:
            logger.info("the lease of %s was not given back: %s", self.lease.subject, error)

    def _put(self, tx: RecordTransaction, **changes: object) -> None:
        self.require(tx)
        found = self._find(tx)
        assert found is not None, "it was required"
        tx.put(LEASES, workspace=self._workspace, record=msgspec.structs.replace(found[0], **changes), expected_version=found[1])

    def _find(self, reader: RecordReader) -> tuple[Lease, int] | None:
        return reader.get_versioned(LEASES, workspace=self._workspace, id=self.lease.subject)

    def _lost(self, standing: Lease | None) -> LeaseLost:
        own = self.lease.run or "a run"
        if standing is None or standing.n == self.lease.n:
            return LeaseLost(f"The hold of {own} on '{self.lease.subject}' has ended, so it writes nothing more.", subject=self.lease.subject)
        return LeaseLost(
            f"{own} was silent for longer than {EXPIRY_S:.0f} s, and {_describe(standing)} took '{self.lease.subject}'; it writes nothing more.",
            hint="what it had finished is kept; see: endcap runs",
            subject=self.lease.subject,
            run=standing.run,
        )


@contextmanager
def hold_lease(
    session: Session,
    subject: str,
    *,
    wait_s: float = 0.0,
    reporter: Reporter | None = None,
    wait: Callable[[float], object] = time.sleep,
    renewal_s: float = RENEWAL_S,
) -> Iterator[Hold]:
    """Hold a subject of the session's workspace while the block runs; what is written inside goes through ``hold.session``.

    A session that holds the subject already goes on holding it. Where another holds it: asked again twice a second for up to ``wait_s``
    seconds, the reporter told whom it waits for; then Conflict says who holds it, since when and for which run. ``renewal_s`` is how
    often the lease is renewed. Cost: one transaction to take it and one to give it back.
    """
    held = _find_hold(session, subject)
    if held is not None:
        yield held
        return
    hold = Hold(session, _take(session, subject, wait_s=wait_s, reporter=reporter or SilentReporter(), wait=wait))
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(hold, ended, renewal_s), name="lease-renewal", daemon=True)
    thread.start()
    try:
        yield hold
    finally:
        ended.set()
        thread.join()
        hold.release()


def _find_hold(session: Session, subject: str) -> Hold | None:
    records = session.ports.records
    while isinstance(records, FencedRecords):
        if records.hold.lease.subject == subject and records.hold.session.workspace == session.workspace:
            return records.hold
        records = records.inner
    return None


def _take(session: Session, subject: str, *, wait_s: float, reporter: Reporter, wait: Callable[[float], object]) -> Lease:
    holder, waited, shown = HOLDS.begin(), 0.0, ""
    try:
        while True:
            lease = _try(session, subject, holder)
            if lease.holder == holder:
                break
            if waited >= wait_s:
                raise _held(lease, session.now(), waited=waited)
            who = _describe(lease)
            if who != shown:
                shown = who
                reporter.step_started(f"wait for {who}, since {lease.since:%H:%M:%S} UTC")
            reporter.step_advanced(f"wait for {who}, since {lease.since:%H:%M:%S} UTC", done=int(waited), total=int(wait_s))
            pause = min(_POLL_S, wait_s - waited)
            wait(pause)
            waited += pause
    except BaseException:
        HOLDS.end(holder)
        raise
    if shown:
        reporter.step_ended("wait", status="done", wall_s=waited, note=f"{shown} has ended")
    return lease


def _try(session: Session, subject: str, holder: Holder) -> Lease:
    """Take the lease if it is free: the lease that stands now, the holder's or another's. Only a lease that looks free costs a transaction."""
    standing = session.records.get(LEASES, workspace=session.workspace, id=subject)
    if standing is not None and not standing.is_free(session.now()):
        return standing
    with session.records.transact() as tx:
        found = tx.get_versioned(LEASES, workspace=session.workspace, id=subject)
        now = session.now()
        if found is not None and not found[0].is_free(now):
            return found[0]
        lease = Lease(
            subject=subject,
            n=found[0].n + 1 if found else 1,
            actor=session.actor.name,
            holder=holder,
            since=now,
            expires_at=now + timedelta(seconds=EXPIRY_S),
        )
        tx.put(LEASES, workspace=session.workspace, record=lease, expected_version=found[1] if found else 0)
    return lease


def _renew(hold: Hold, ended: threading.Event, renewal_s: float) -> None:
    while not ended.wait(renewal_s):
        try:
            if not hold.renew():
                logger.info("the lease of %s was lost", hold.lease.subject)
                return
        except EndcapError as error:  # a full disk, a writer that kept its turn: the next renewal may come in time
            logger.info("the lease of %s was not renewed: %s", hold.lease.subject, error)


def _describe(lease: Lease) -> str:
    return f"{lease.run or 'a run'} of '{lease.actor}' ({lease.holder})"


def _held(lease: Lease, now: datetime, *, waited: float) -> Conflict:
    after = f" after {format_duration(waited)} of waiting" if waited else ""
    left = max(0.0, (lease.expires_at - now).total_seconds())
    return Conflict(
        f"'{lease.subject}' is held{after} by {_describe(lease)}, since {describe_instant(lease.since)}.",
        hint=f"wait for it with --wait 10min; should that process be lost with its machine, the hold ends by itself in {left:.0f} s",
        subject=lease.subject,
        run=lease.run,
        actor=lease.actor,
        since=lease.since,
        host=lease.holder.host,
        pid=lease.holder.pid,
    )


@dataclass(frozen=True)
class FencedRecords(WrappedRecords):
    """Records whose every transaction first looks whether the hold still stands."""

    hold: Hold

    @contextmanager
    def transact(self) -> Iterator[RecordTransaction]:
        with self.inner.transact() as tx:
            self.hold.require(tx)
            yield tx


@dataclass(frozen=True)
class FencedTables(WrappedTables):
    """Tables that are written only while the hold stands.

    A partition is no part of a transaction: who is paused between the look and the write still writes. What counts is the record that
    names the partition, and that is fenced for good.
    """

    hold: Hold

    def write(self, dataset: str, *, partition: Mapping[str, str], table: pa.Table) -> int:
        self.hold.require(self.hold.session.records)
        self.hold.require_warrant()
        return self.inner.write(dataset, partition=partition, table=table)

    def delete(self, dataset: str, *, partition: Mapping[str, str]) -> None:
        self.hold.require(self.hold.session.records)
        self.hold.require_warrant()
        self.inner.delete(dataset, partition=partition)

    def place(self, dataset: str, *, partition: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        self.hold.require(self.hold.session.records)
        self.hold.require_warrant()
        self.inner.place(dataset, partition=partition, chunks=chunks)
