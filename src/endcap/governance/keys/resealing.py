"""Sealing anew: what lies under older data keys comes under the newest, until nothing leans on an old one and it may be destroyed.

Which records hold envelopes is said by their rooms, as a ``SealedKind`` beside the code that seals; ``endcap.project.sealing`` has the table of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, NotFound
from endcap.governance.keys.data_keys import KEPT_OPEN, find_newest, forget_opened
from endcap.governance.keys.envelopes import mark_of, read_key_id, seal, unseal
from endcap.governance.keys.records import DATA_KEYS, DataKey
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Change, Session
from endcap.storage.ports import Kind, R, RecordTransaction

GRACE = max(timedelta(hours=1), 2 * KEPT_OPEN)
"""How long after a data key was retired it may be destroyed: what was begun under it has ended by then, and nothing new is sealed under it."""
_AT_ONCE = 200


@dataclass(frozen=True)
class SealedKind(Generic[R]):
    """Records of a kind that hold envelopes of ``seal_text`` (text) or ``seal`` (bytes) in ``fields``; an empty field holds none.

    ``about`` is what a field's envelope is bound to. ``workspace_of`` is whose keys sealed it, where the records lie in the house's workspace; None:
    each lies in the workspace whose keys sealed it.
    """

    kind: Kind[R]
    fields: tuple[str, ...]
    about: Callable[[R, str], str]
    workspace_of: Callable[[R], str] | None = None
    seal_older: Callable[[Session, R, Change | None], R | None] | None = None
    """Seals a record that was written before its kind was sealed, and gives None for any other. None: there are none such."""

    def find(self, session: Session) -> list[R]:
        """All records of the kind whose envelopes are of the session's workspace. Cost grows with the records of the kind."""
        if self.workspace_of is None:
            return session.ports.records.find(self.kind, workspace=session.workspace)
        owner = self.workspace_of
        return [record for record in session.ports.records.find(self.kind, workspace=HOUSE) if owner(record) == session.workspace]

    def keys_of(self, record: R) -> set[str]:
        """The data keys that a record leans on."""
        return {read_key_id(_as_bytes(value)) for field in self.fields if (value := getattr(record, field))}

    def is_old(self, session: Session, record: R, newest: str) -> bool:
        """Whether a record leans on another key than the newest, or holds in plain what should be sealed."""
        if self.seal_older is not None and self.seal_older(session, record, None) is not None:
            return True
        return bool(self.keys_of(record) - {newest})

    def reseal(self, session: Session, record: R, change: Change) -> R:
        """The same record with its envelopes under the newest key, for the transaction that keeps it."""
        if self.seal_older is not None and (done := self.seal_older(session, record, change)) is not None:
            return done
        changed: dict[str, Any] = {}
        for field in self.fields:
            if value := getattr(record, field):
                about = self.about(record, field)
                sealed = seal(session, unseal(session, _as_bytes(value), about=about), about=about, change=change)
                changed[field] = sealed if isinstance(value, bytes) else base64.b64encode(sealed).decode()
        return msgspec.structs.replace(record, **changed)


def reseal_records(session: Session, kinds: Sequence[SealedKind[Any]]) -> int:
    """Seal the workspace's envelopes anew that lie under older keys; returns how many records that were.

    In transactions of some hundreds, so that others have their turn; what somebody changes meanwhile is left as they wrote it. It goes on where it
    was cut short. What does not open any more, since its key was lost or destroyed, stays. Cost: the records of the kinds, and 100 us for each that
    is changed.
    """
    newest = find_newest(session.ports.records, session.workspace)
    if newest is None:
        return 0
    forget_opened(session)
    n = 0
    for sealed in kinds:
        old = [record for record in sealed.find(session) if sealed.is_old(session, record, newest.id)]
        for first in range(0, len(old), _AT_ONCE):
            with session.ports.records.transact() as tx:
                n += sum(_reseal(session, tx, sealed, record) for record in old[first : first + _AT_ONCE])
    return n


def find_old_keys(session: Session) -> list[DataKey]:
    """The workspace's data keys that only open, and that something may lean on."""
    found = session.ports.records.find(DATA_KEYS, workspace=HOUSE, where={"workspace": session.workspace})
    return [key for key in found if key.retired_at is not None and key.destroyed_at is None]


def count_leaning(session: Session, keys: Collection[str]) -> dict[str, int]:
    """How many records hold an envelope of each data key, whatever their kind. Cost: one pass over all records of the home."""
    marks, n = {key: mark_of(key) for key in keys}, dict.fromkeys(keys, 0)
    with session.ports.freeze() as frozen:
        for record in frozen.records():
            for key, mark in marks.items():
                n[key] += mark in record.body
    return n


def note_freed(session: Session, tx: RecordTransaction, keys: Sequence[DataKey]) -> None:
    """Write down that nothing leans on these keys any more."""
    for key in keys:
        found = tx.get_versioned(DATA_KEYS, workspace=HOUSE, id=key.id)
        if found is not None and found[0].freed_at is None:
            freed = msgspec.structs.replace(found[0], freed_at=session.now())
            tx.put(DATA_KEYS, workspace=HOUSE, record=freed, expected_version=found[1])


def destroy_key(session: Session, tx: RecordTransaction, key: str) -> DataKey:
    """Take away a data key's wrapped bytes. Raises NotFound for none of the workspace, Conflict for one that seals, or did an hour ago."""
    found = tx.get_versioned(DATA_KEYS, workspace=HOUSE, id=key)
    if found is None or found[0].workspace != session.workspace:
        raise NotFound(f"No data key {key[:100]!r} in workspace '{session.workspace}'.", hint="endcap keys ls")
    record, version = found
    if record.destroyed_at is not None:
        raise Conflict(f"The data key {key} was destroyed on {record.destroyed_at:%Y-%m-%d}.")
    if record.retired_at is None:
        raise Conflict(f"The data key {key} is the one that seals.", hint="endcap keys rotate, then endcap keys rewrap")
    if not record.lost and session.now() < record.retired_at + GRACE:
        raise Conflict(
            f"The data key {key} was retired at {record.retired_at:%Y-%m-%d %H:%M} UTC; what was begun under it may still go on.",
            hint=f"destroy it after {record.retired_at + GRACE:%Y-%m-%d %H:%M} UTC",
        )
    destroyed = msgspec.structs.replace(record, wrapped=b"", destroyed_at=session.now(), destroyed_by=session.actor.name)
    tx.put(DATA_KEYS, workspace=HOUSE, record=destroyed, expected_version=version)
    return destroyed


def _reseal(session: Session, tx: RecordTransaction, sealed: SealedKind[Any], record: Any) -> bool:
    place = HOUSE if sealed.workspace_of is not None else session.workspace
    found = tx.get_versioned(sealed.kind, workspace=place, id=sealed.kind.id_of(record))
    if found is None:
        return False
    try:
        anew = sealed.reseal(session, found[0], Change(tx))
    except (NotFound, IntegrityBroken):
        return False  # it opens for nobody: whoever needs it is told so
    tx.put(sealed.kind, workspace=place, record=anew, expected_version=found[1])
    return True


def _as_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value)
