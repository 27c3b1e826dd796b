"""Data keys: a workspace's own keys, wrapped under the home's master key, and open in memory for some minutes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from weakref import WeakKeyDictionary

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.governance.audit_chain import append_audit_row
from endcap.governance.keys import masters
from endcap.governance.keys.ciphers import KEY_BYTES, derive_key
from endcap.governance.keys.masters import Master, check_of, require_right_key
from endcap.governance.keys.records import DATA_KEYS, MASTER_KEYS, DataKey, MasterKey
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Change, Session
from endcap.storage.ports import RecordReader, RecordTransaction

KEPT_OPEN = timedelta(minutes=5)
"""How long an unwrapped key stays in memory, and opens there what was sealed under it. Whether it still seals is asked of the records each time."""
ID_BYTES = 12


@dataclass(frozen=True)
class OpenKey:
    """A data key in memory, as the keys that are derived from it: ``envelopes`` for what is sealed whole, ``streams`` for what is in pieces."""

    id: str
    envelopes: bytes = field(repr=False)
    streams: bytes = field(repr=False)


class _Kept:
    """What a process keeps of a home's keys."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.opened: dict[tuple[str, str], tuple[OpenKey, datetime]] = {}
        self.newest: dict[str, str] = {}


_KEPT: WeakKeyDictionary[Callable[[], object], _Kept] = WeakKeyDictionary()  # by what tells an open home from any other, whatever stands before it
_LOCK = threading.Lock()


def open_newest(session: Session, change: Change | None = None) -> OpenKey:
    """The key under which the session's workspace seals now, made when there is none. Cost: a read, and an unwrapping every five minutes.

    ``change`` is the open transaction of the caller, where there is one: a key that must be made is made in it, and the one that is given seals until
    it ends. Without one it may be retired, or lost, the next moment: whoever keeps what they seal asks ``require_sealing`` in the transaction that
    keeps it. Raises NotFound where the master key is not at hand, InvalidInput where the home has no place for one.
    """
    kept, now = _kept_of(session), session.now()
    records = change.tx if change else session.ports.records
    known = kept.newest.get(session.workspace)
    if known is not None and _is_sealing(records, known):
        return open_key(session, known, change)
    standing = find_newest(records, session.workspace)
    if standing is not None:
        opened = open_key(session, standing.id, change)
    elif change is not None:
        return make_key(session, change.tx)  # not kept: the transaction may be taken back
    else:
        with session.ports.records.transact() as tx:
            standing = find_newest(tx, session.workspace)
            opened = _open(session, standing, tx) if standing is not None else make_key(session, tx)
    with kept.lock:
        kept.newest[session.workspace] = opened.id
        kept.opened[session.workspace, opened.id] = (opened, now)
    return opened


def require_sealing(session: Session, tx: RecordTransaction, key: str) -> None:
    """Raise Conflict, in the transaction that would keep what was sealed under a data key, where the key is not the one that seals any more."""
    if not _is_sealing(tx, key):
        what = f"The data key {key} of workspace '{session.workspace}' was retired or lost while something was sealed under it."
        raise Conflict(what, hint="give the same command again")


def open_key(session: Session, key: str, change: Change | None = None) -> OpenKey:
    """A data key of the session's workspace by its id. Raises IntegrityBroken where it has none such, NotFound for one that was destroyed."""
    kept, now = _kept_of(session), session.now()
    found = kept.opened.get((session.workspace, key))
    if found is not None and _is_fresh(found[1], now):
        return found[0]
    records = change.tx if change else session.ports.records
    record = records.get(DATA_KEYS, workspace=HOUSE, id=key)
    if record is None or record.workspace != session.workspace:
        raise IntegrityBroken(f"This was not sealed in the workspace '{session.workspace}', or its data key is gone.", hint="endcap keys ls")
    opened = _open(session, record, records)
    if change is None:  # a key that was made in an open transaction may be taken back with it
        with kept.lock:
            for stale in [name for name, (_, at) in kept.opened.items() if not _is_fresh(at, now)]:
                del kept.opened[stale]
            kept.opened[session.workspace, key] = (opened, now)
    return opened


def make_key(session: Session, tx: RecordTransaction, *, master: Master | None = None) -> OpenKey:
    """A new data key for the session's workspace, on record in this transaction. ``master`` None is the one in use, made when there is none."""
    plain, key = os.urandom(KEY_BYTES), os.urandom(ID_BYTES).hex()
    using = master or open_master(session, tx)
    wrapped = using.wrap(plain, about=about_key(session.workspace, key))
    record = DataKey(
        id=key,
        workspace=session.workspace,
        master=using.key,
        wrapped=wrapped,
        checked=check_of(plain),
        made_at=session.now(),
        made_by=session.actor.name,
    )
    tx.append(DATA_KEYS, workspace=HOUSE, record=record)
    _note(session, tx, verb="make-data-key", thing=f"data-key/{key}", detail={"workspace": session.workspace, "master": using.key})
    return _derive(key, plain)


def find_newest(records: RecordReader, workspace: str) -> DataKey | None:
    """The data key under which a workspace seals; None where it has none yet."""
    found = records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": workspace}, newest_first=True, limit=1)
    return found[0] if found and found[0].destroyed_at is None and not found[0].lost else None


def open_master(session: Session, tx: RecordTransaction) -> Master:
    """The master key that wraps now; the home's first one is put on record, the file of one that was rotated brought to its place.

    Raises NotFound where the one on record is not at hand.
    """
    standing, place = find_master(tx), masters.find_file(session)
    if standing is not None:
        found = find_at_hand(session, standing.key)
        if place is not None and (late := masters.load_file(masters.waiting(place))) is not None and late.key == standing.key:
            masters.settle(place)  # writers take turns, so no other rotation is between
        return found
    first = next(masters.load_masters(session), None)
    if first is None:
        if place is None:
            raise InvalidInput(
                "This home has no folder, so its master key has no place.",
                hint=f"name one that all its machines have: ENDCAP_MASTER_KEY_FILE=/etc/endcap/master.key; {masters.MAKE_ONE}",
            )
        first = masters.make_file(place)
    register_master(session, tx, first, number=1)
    return first


def register_master(session: Session, tx: RecordTransaction, master: Master, *, number: int) -> MasterKey:
    """Put a master key on record: from now on it wraps."""
    record = MasterKey(number=number, key=master.key, source=master.source, since=session.now(), by=session.actor.name)
    tx.append(MASTER_KEYS, workspace=HOUSE, record=record)
    _note(session, tx, verb="begin-master-key", thing="master-key", detail={"key": master.key, "source": master.source})
    return record


def find_master(records: RecordReader) -> MasterKey | None:
    """What is on record of the master key that wraps now; None where there was never one."""
    found = records.find(MASTER_KEYS, workspace=HOUSE, newest_first=True, limit=1)
    return found[0] if found else None


def find_at_hand(session: Session, key: str) -> Master:
    """The master key of an id, if the settings or the home's file hold it. Raises NotFound."""
    found, place = list(masters.load_masters(session)), masters.find_file(session)
    for master in found:
        if master.key == key:
            return master
    for master in found:
        if master.source == "command" and key.startswith("command-"):  # it may be the same one elsewhere: what it unwraps is checked
            return master
    shown = f"at hand is {', '.join(master.key for master in found)}" if found else f"there is none in {place}" if place else "there is none at hand"
    raise NotFound(
        f"The master key {key}, under which this home's keys are wrapped, is missing: {shown}. What is sealed does not open without it.",
        hint="put it back as it was (docs/keys.md): a backup does not hold it; where it is lost for good: endcap keys rotate --lost",
    )


def unwrap_key(session: Session, record: DataKey) -> bytes:
    """The 32 bytes of a data key. Raises NotFound where it was destroyed, or its master key is not at hand; IntegrityBroken for another one."""
    if record.destroyed_at is not None:
        raise NotFound(f"The data key {record.id} was destroyed on {record.destroyed_at:%Y-%m-%d}; what was sealed under it is gone.")
    if record.lost:
        raise NotFound(f"The master key {record.master} of the data key {record.id} was lost; what was sealed under it is gone.")
    master = find_at_hand(session, record.master)
    plain = master.unwrap(record.wrapped, about=about_key(record.workspace, record.id))
    return require_right_key(plain, checked=record.checked, key=record.id)


def is_gone(session: Session, key: str, *, records: RecordReader | None = None) -> bool:
    """Whether a data key was destroyed, or its master key lost, so that what was sealed under it opens never again. Cost: a read.

    ``records`` is the open transaction of the caller, where there is one.
    """
    record = (records or session.ports.records).get(DATA_KEYS, workspace=HOUSE, id=key)
    return record is not None and (record.lost or record.destroyed_at is not None)


def about_key(workspace: str, key: str) -> str:
    """What a wrapped key is bound to: it is no key of another workspace, and none of another id."""
    return f"endcap data key\n{workspace}\n{key}"


def forget_opened(session: Session, keys: Sequence[str] | None = None) -> None:
    """Let go of what this process keeps open of a home: of these keys, or of all (None)."""
    kept = _kept_of(session)
    with kept.lock:
        kept.newest.clear()
        for name in [name for name in kept.opened if keys is None or name[1] in keys]:
            del kept.opened[name]


def _open(session: Session, record: DataKey, records: RecordReader) -> OpenKey:
    """A data key in memory. Where it is wrapped anew between reading it and reading the master key, it is read again."""
    while True:
        try:
            return _derive(record.id, unwrap_key(session, record))
        except NotFound:
            again = records.get(DATA_KEYS, workspace=HOUSE, id=record.id)
            if again is None or again.master == record.master:
                raise
            record = again


def _derive(key: str, plain: bytes) -> OpenKey:
    return OpenKey(key, derive_key(plain, purpose=b"endcap data key: envelopes"), derive_key(plain, purpose=b"endcap data key: streams"))


def _kept_of(session: Session) -> _Kept:
    with _LOCK:
        return _KEPT.setdefault(session.ports.freeze, _Kept())


def _is_sealing(records: RecordReader, key: str) -> bool:
    """Whether a data key is the one that seals: one that is retired, lost or destroyed never is again."""
    record = records.get(DATA_KEYS, workspace=HOUSE, id=key)
    return record is not None and record.retired_at is None and not record.lost and record.destroyed_at is None


def _is_fresh(at: datetime, now: datetime) -> bool:
    return abs(now - at) < KEPT_OPEN


def _note(session: Session, tx: RecordTransaction, *, verb: str, thing: str, detail: dict[str, str | int | float | bool | None]) -> None:
    """A row of the house's chain in a transaction that is open already."""
    append_audit_row(tx, workspace=HOUSE, at=session.now(), actor=session.actor.name, verb_name=verb, thing=thing, outcome="done", detail=detail)
