"""Places: a run takes one before it begins, waits for it where others come first, and gives it back.

A place is a record of the house, so that all processes of a home stand in one queue; like a lease it is renewed by a thread, and free once its time
has passed, or at once when its holder was a process of this machine that is no more. Whoever comes, goes, or finds that nobody did for a second
looks at the queue, and writes who goes next; who waits reads its own record alone, so many that wait do not crowd one another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from endcap.core.durations import format_duration
from endcap.core.errors import Conflict, EndcapError, InvalidInput, QuotaExceeded
from endcap.core.identity import identify
from endcap.core.settings import Settings, format_bytes
from endcap.governance.holders import HOLDS
from endcap.governance.quotas.limits import Limits, find_limits, require_cpu, require_gpus
from endcap.governance.quotas.records import PLACES, PULSES, QUOTAS, SHARES, Capacity, Place, Pulse, Quota, Shares
from endcap.governance.quotas.scheduling import LEAST_S, describe_short, schedule, settle
from endcap.governance.quotas.storing import storing_for
from endcap.governance.records import HOUSE
from endcap.governance.rights.checks import may_see
from endcap.governance.rights.records import name_subject
from endcap.governance.sessions import Session
from endcap.storage.liveness import identify_machine
from endcap.storage.ports import RecordReader, RecordTransaction

EXPIRY_S = 60.0
RENEWAL_S = 15.0
POLL_S = 0.5
TOLD_S = 5.0
"""How often who waits is told anew whom it waits for."""
LOOK_S = 1.0
"""After how long without a look somebody who waits takes one."""
MOST_WAITING = 8
"""Runs that wait at a time in one process: those of a service would else take up all its threads."""
_PULSE = "house"


class Telling(Protocol):
    """Who is told of the waiting; a run's reporter is one."""

    def step_started(self, name: str) -> None: ...

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None: ...


class _Silent:
    def step_started(self, name: str) -> None:
        return None

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        return None


@dataclass(frozen=True)
class Needs:
    """What a run asks for. ``expected_s`` are the CPU seconds that it will cost as far as is known: its share is charged with them until it ends."""

    gpus: int = 0
    expected_s: float = 60.0


@dataclass
class Taken:
    """A place that is held. ``admit`` makes a session one that holds it."""

    place: Place
    limits: Limits
    spent_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spend(self, cpu_s: float) -> None:
        """Say what the run has spent since it was last said."""
        with self._lock:
            self.spent_s += cpu_s

    def admit(self, session: Session) -> Session:
        """The session with the place, and with no more memory than its quotas allow."""
        return replace(session, place=self, settings=limit_settings(session, self.limits))


def limit_settings(session: Session, limits: Limits) -> Settings:
    """The session's settings with a memory limit no greater than the quotas'."""
    most, given = limits.memory, session.settings.memory_limit
    if most is None or (given is not None and given <= most):
        return session.settings
    return msgspec.structs.replace(session.settings, memory_limit=most)


class _Waiters:
    """How many runs of this process wait."""

    def __init__(self) -> None:
        self._n = 0
        self._lock = threading.Lock()

    @contextmanager
    def count(self) -> Iterator[None]:
        with self._lock:
            if self._n >= MOST_WAITING:
                raise QuotaExceeded(
                    f"{self._n} runs of this process wait in the queue already.",
                    hint="see: endcap queue; ask again once one has begun",
                    retry_after_s=10,
                )
            self._n += 1
        try:
            yield
        finally:
            with self._lock:
                self._n -= 1


_WAITERS = _Waiters()


@contextmanager
def hold_place(
    session: Session,
    subject: str,
    *,
    needs: Needs = Needs(),
    capacity: Capacity = Capacity(),  # noqa: B008 - frozen
    verb: str = "run",
    wait_s: float | None = None,
    reporter: Telling | None = None,
    wait: Callable[[float], object] = time.sleep,
    renewal_s: float = RENEWAL_S,
) -> Iterator[Session]:
    """Hold a place while the block runs: yields the session that the run goes on with, whose memory limit is no greater than its quotas'.

    What a session that holds a place begins itself goes on in that place. ``capacity`` is what the machine holds at once. Where others come first, it
    is waited: for up to ``wait_s`` seconds (None: without end), the reporter told whom for; then QuotaExceeded. Raises QuotaExceeded at once where
    the CPU-minutes of a period are used up, InvalidInput for more GPUs or memory than a quota or the machine will ever have (both audited), Conflict
    where somebody took the place out of the queue, PermissionDenied where who waited lost the right meanwhile. Cost: one transaction to take it and
    one to give it back, with a look at the queue in each, some 10 us for each place that waits.
    """
    if session.place is not None:
        yield session
        return
    limits = find_limits(session)
    require_cpu(session, limits, verb=verb)
    require_gpus(session, limits, needs.gpus, verb=verb)
    _require_room(session, limits, needs, capacity)
    place = _arrive(session, subject, needs, capacity, limits)
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(session, place.id, ended, renewal_s), name="place-renewal", daemon=True)
    thread.start()
    taken = Taken(place, limits)
    try:
        if place.state == "waiting":
            with _WAITERS.count():
                taken.place = _wait(session, place, wait_s=wait_s, reporter=reporter or _Silent(), wait=wait)
            session.require_warrant(verb=verb, thing=subject)  # who may run it when they ask may not any more when its turn comes
            require_cpu(session, limits, verb=verb)
        with storing_for(subject):
            yield taken.admit(session)
    finally:
        ended.set()
        thread.join()
        HOLDS.end(place.holder)
        _leave(session, place.id, spent_s=taken.spent_s)


def look(tx: RecordTransaction, now: datetime) -> None:
    """Look at the queue once, and write who goes next. Cost: some 10 us for each place that waits."""
    running = _sweep(tx, tx.find(PLACES, workspace=HOUSE, where={"state": "running"}), now)
    waiting = tx.find(PLACES, workspace=HOUSE, where={"state": "waiting"})
    standing = tx.get_versioned(SHARES, workspace=HOUSE, id="house")
    shares, version = standing or (Shares(), 0)
    quotas = read_quotas(tx, [*running, *waiting])
    while True:
        found = schedule(running, waiting, quotas=quotas, shares=shares)
        gone = {place.id for place in found.admitted if not is_standing(place, now)}
        if not gone:
            break
        _sweep(tx, [place for place in waiting if place.id in gone], now)
        waiting = [place for place in waiting if place.id not in gone]
    for place in found.admitted:
        put_place(tx, place.id, state="running", began_at=now, charged_s=place.charged_s)
    if found.shares != shares:
        tx.put(SHARES, workspace=HOUSE, record=found.shares, expected_version=version)
    pulse = tx.get_versioned(PULSES, workspace=HOUSE, id=_PULSE)
    tx.put(PULSES, workspace=HOUSE, record=Pulse(_PULSE, now), expected_version=pulse[1] if pulse else 0)


def read_quotas(reader: RecordReader, places: Iterable[Place]) -> dict[str, Quota]:
    """The quotas of the workspaces in which places stand, by id."""
    workspaces = dict.fromkeys(place.workspace for place in places)
    return {quota.id: quota for name in workspaces for quota in reader.find(QUOTAS, workspace=HOUSE, where={"workspace": name})}


def put_place(tx: RecordTransaction, identity: str, **changes: object) -> Place:
    """Change a place."""
    found = tx.get_versioned(PLACES, workspace=HOUSE, id=identity)
    assert found is not None, "it stands: only those that ended long ago are taken away"
    changed = msgspec.structs.replace(found[0], **changes)
    tx.put(PLACES, workspace=HOUSE, record=changed, expected_version=found[1])
    return changed


def end_place(tx: RecordTransaction, place: Place, now: datetime, *, spent_s: float | None, removed_by: str = "") -> None:
    """End a place, and set right what its run was charged; ``spent_s`` None: nobody can tell, so what was charged stays."""
    spent = spent_s if spent_s is not None else place.charged_s
    put_place(tx, place.id, state="ended", ended_at=now, spent_s=round(spent, 3), removed_by=removed_by)
    if place.state != "running" or spent_s is None:
        return
    others = [other for state in ("running", "waiting") for other in tx.find(PLACES, workspace=HOUSE, where={"state": state}) if other.id != place.id]
    shares, version = tx.get_versioned(SHARES, workspace=HOUSE, id="house") or (Shares(), 0)
    right = settle(place, spent_s, others, quotas=read_quotas(tx, [place, *others]), shares=shares)
    tx.put(SHARES, workspace=HOUSE, record=right, expected_version=version)


def _require_room(session: Session, limits: Limits, needs: Needs, capacity: Capacity) -> None:
    memory = _ask_memory(session, limits, capacity)
    if capacity.gpus is not None and needs.gpus > capacity.gpus:
        raise InvalidInput(f"{needs.gpus} GPUs were asked for, and this machine has {capacity.gpus}.", hint="ask for fewer, or run it elsewhere")
    if capacity.memory is not None and memory > capacity.memory:
        raise InvalidInput(
            f"{format_bytes(memory)} of memory were asked for, and runs of this machine have {format_bytes(capacity.memory)} together.",
            hint="ask for less: --memory, or ENDCAP_MEMORY_LIMIT",
        )


def _ask_memory(session: Session, limits: Limits, capacity: Capacity) -> int:
    """The bytes that count against the machine's; nothing where the machine's memory does not count."""
    if capacity.memory is None:
        return 0
    given = [n for n in (session.settings.memory_limit, limits.memory) if n is not None]
    return min(given, default=0)


def _arrive(session: Session, subject: str, needs: Needs, capacity: Capacity, limits: Limits) -> Place:
    """Stand in the queue; the place that was found, which may go on at once."""
    now, holder = session.now(), HOLDS.begin()
    place = Place(
        id=f"place_{identify(holder.machine, holder.pid, holder.began, holder.hold)[:24]}",
        workspace=session.workspace,
        actor=session.actor.name,
        subject=subject,
        holder=holder,
        arrived_at=now,
        expires_at=now + timedelta(seconds=EXPIRY_S),
        memory=_ask_memory(session, limits, capacity),
        gpus=needs.gpus,
        expected_s=max(LEAST_S, needs.expected_s),
        capacity=capacity,
    )
    try:
        with session.ports.records.transact() as tx:
            tx.append(PLACES, workspace=HOUSE, record=place)
            look(tx, now)
            found = tx.get(PLACES, workspace=HOUSE, id=place.id)
    except BaseException:
        HOLDS.end(place.holder)
        raise
    assert found is not None, "it was just put there"
    return found


def _wait(session: Session, place: Place, *, wait_s: float | None, reporter: Telling, wait: Callable[[float], object]) -> Place:
    """Wait until the place goes on; the place as it stands then."""
    waited, told_at, told = 0.0, -TOLD_S, ""
    while True:
        standing = session.ports.records.get(PLACES, workspace=HOUSE, id=place.id)
        if standing is None or standing.state == "ended":
            raise _removed(place, standing)
        if standing.state == "running":
            reporter.step_ended("wait in the queue", status="done", wall_s=waited, note=f"its turn after {format_duration(waited)}")
            return standing
        if waited - told_at >= TOLD_S:
            told_at = waited
            told = describe_wait(session, place)
            reporter.step_started(f"wait: {told}")
        if wait_s is not None and waited >= wait_s:
            raise QuotaExceeded(
                f"The run of '{place.subject}' waited {format_duration(waited)} in the queue and did not come to its turn: {told}.",
                hint="wait longer; see: endcap queue",
                retry_after_s=max(1, int(wait_s)),
            )
        pause = POLL_S if wait_s is None else min(POLL_S, wait_s - waited)
        wait(pause)
        waited += pause
        _look_when_due(session)


def describe_wait(session: Session, place: Place) -> str:
    """Whom a place waits for, in a sentence: of other workspaces, and of closed things, no more than how many runs go on."""
    records = session.ports.records
    shares = records.get(SHARES, workspace=HOUSE, id="house") or Shares()
    order = [identity for identity, _ in shares.order]
    number = order.index(place.id) + 1 if place.id in order else len(order) + 1
    short = dict(shares.order).get(place.id, "")
    running = records.find(PLACES, workspace=HOUSE, where={"state": "running"})
    seen = [other for other in running if other.workspace == place.workspace and may_see(session, name_subject(other.subject))]
    own = [f"'{other.subject}' of '{other.actor}'" for other in seen]
    others = len(running) - len(own[:3])
    who = [*own[:3], *([f"{others} {'other' if own else 'run'}{'s' if others > 1 else ''}"] if others else [])]
    told = f"number {number} of {max(number, len(order))} in the queue{f': {describe_short(short)}' if short else ''}"
    return f"{told}; {', '.join(who)} {'goes' if len(running) == 1 else 'go'} on" if who else told


def _look_when_due(session: Session) -> None:
    """Look at the queue where nobody did for a second, for instance as who ran was killed. Of many that wait one does."""
    now = session.now()
    if not _is_due(session.ports.records.get(PULSES, workspace=HOUSE, id=_PULSE), now):
        return
    try:
        with session.ports.records.transact() as tx:
            if _is_due(tx.get(PULSES, workspace=HOUSE, id=_PULSE), now):
                look(tx, now)
    except EndcapError:  # writers are many, or the disk is full: the next look may come through
        return


def _is_due(pulse: Pulse | None, now: datetime) -> bool:
    return pulse is None or abs((now - pulse.at).total_seconds()) >= LOOK_S  # a clock that went back must not stop it


def is_standing(place: Place, now: datetime) -> bool:
    """Whether a place still has its process: on this machine that is seen, whatever a clock says that was set or stood still; else its time tells."""
    if place.holder.machine == identify_machine():
        return not HOLDS.is_gone(place.holder)
    return place.expires_at > now


def _sweep(tx: RecordTransaction, places: list[Place], now: datetime) -> list[Place]:
    """End the places whose processes are gone; those that stand."""
    standing = []
    for place in places:
        if is_standing(place, now):
            standing.append(place)
        else:
            end_place(tx, place, now, spent_s=None, removed_by="")
    return standing


def _leave(session: Session, identity: str, *, spent_s: float) -> None:
    """Give a place back, and let the next go on. One that cannot be written is left to who looks next: its holder is gone."""
    now = session.now()
    try:
        with session.ports.records.transact() as tx:
            place = tx.get(PLACES, workspace=HOUSE, id=identity)
            if place is not None and place.state != "ended":
                end_place(tx, place, now, spent_s=spent_s)
                look(tx, now)
    except EndcapError:
        return


def _renew(session: Session, identity: str, ended: threading.Event, renewal_s: float) -> None:
    while not ended.wait(renewal_s):
        try:
            with session.ports.records.transact() as tx:
                place = tx.get(PLACES, workspace=HOUSE, id=identity)
                if place is None or place.state == "ended":
                    return
                put_place(tx, identity, expires_at=session.now() + timedelta(seconds=EXPIRY_S))
        except EndcapError:  # as with a lease: the next renewal may come in time
            continue


def _removed(place: Place, standing: Place | None) -> Conflict:
    by = standing.removed_by if standing is not None else ""
    if by:
        return Conflict(f"'{by}' took the run of '{place.subject}' out of the queue.", hint="run it again, or ask them")
    return Conflict(
        f"The place of '{place.subject}' in the queue was lost: its process was silent for longer than {EXPIRY_S:.0f} s.", hint="run it again"
    )
