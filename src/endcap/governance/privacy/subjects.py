"""Subjects: whom personal values are about, named by a keyed hash, each with a key of its own.

The name of a subject is 16 bytes of HMAC-SHA256 (RFC 2104) over the column that names such subjects and the value, under a pepper of the workspace:
the records tell nobody who is in them. A number and its text are the same subject, so that ``customer=123`` is found whatever a table stores.

Keys are 32 random bytes. They lie on 4,096 shelves by the first 12 bits of the name, each shelf sealed as one under the workspace's data key: a
batch of many subjects costs a look at 4,096 records, not one for each, and to destroy a key is to write one shelf without it. Measured: the
keys of 100,000 new subjects take 0.3 s of CPU, those of a million 5 s (``benchmarks/privacy.py``).

Where the data key under which pepper and shelves lie is gone (its master key was lost), all that was sealed reads as missing, and another pepper
begins, audited once. Who was forgotten stays on the shelves by the names of the lost pepper; under the new one everybody has another name.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TypeVar

import msgspec

from endcap.core.errors import Conflict, IntegrityBroken, NotFound
from endcap.governance.keys import seal, unseal
from endcap.governance.keys.data_keys import OpenKey, forget_opened, is_gone, open_newest, require_sealing
from endcap.governance.keys.envelopes import read_key_id
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.privacy.records import FORGETTINGS, PEPPERS, SHELVES, SUBJECT_KINDS, SubjectKind, SubjectPepper, SubjectShelf
from endcap.governance.sessions import Change, Session
from endcap.storage.ports import RecordTransaction

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
REF_BYTES = 16
KEY_BYTES = 32
_ENTRY = REF_BYTES + KEY_BYTES
_SHELF_DIGITS = 3
_MANY = 64  # shelves from which on all are read at once
_TRIES = 20
_UUID_LENGTH = 36
NOBODY = ("", None)
"""The subject of values of which nobody can say whose they are: their key is the workspace's, and no forgetting destroys it."""


@dataclass(frozen=True)
class Subjects:
    """The subjects of a session's workspace."""

    session: Session

    @property
    def pepper(self) -> bytes:
        """What names are hashed with, made at first use, and anew where the one before opens no more. Cost: two reads and an unsealing, once."""
        return self._begun[0]

    @cached_property
    def _begun(self) -> tuple[bytes, datetime | None]:
        """The pepper, and when the one before was lost."""
        session = self.session
        for _ in range(_TRIES):
            found = session.ports.records.get(PEPPERS, workspace=session.workspace, id="pepper")
            if found is not None and not is_gone(session, read_key_id(found.sealed)):
                return unseal(session, found.sealed, about="subject-pepper"), found.lost_at
            try:
                if found is None:
                    open_newest(session)  # unwrapped before the transaction, as that may take its time
                    with session.ports.records.transact() as tx:
                        sealed = seal(session, os.urandom(KEY_BYTES), about="subject-pepper", change=Change(tx))
                        made = SubjectPepper("pepper", sealed)
                        tx.append(PEPPERS, workspace=session.workspace, record=made)
                else:
                    self._begin_again(found)
            except Conflict:
                continue  # another process made it
        raise _crowded()

    def stands(self) -> bool:
        """Whether names are still what they were when they were first asked for here: nothing that they led to was lost since. Cost: two reads."""
        found = self.session.ports.records.get(PEPPERS, workspace=self.session.workspace, id="pepper")
        return found is not None and found.lost_at == self._begun[1] and not is_gone(self.session, read_key_id(found.sealed))

    def find_loss(self) -> datetime | None:
        """Since when what was sealed before is lost, and names are others; None where nothing ever was. Cost: a read."""
        found = self.session.ports.records.get(PEPPERS, workspace=self.session.workspace, id="pepper")
        return found.lost_at if found is not None else None

    def name(self, kind: str, values: Iterable[str | None]) -> list[bytes]:
        """The names of subjects by their values as text, None for nobody. Cost: a microsecond each."""
        pepper = self.pepper
        head = kind.encode() + b"\x00"
        nobody = hmac.digest(pepper, b"\x00nobody", "sha256")[:REF_BYTES]
        return [nobody if value is None else hmac.digest(pepper, head + _settle(value).encode(), "sha256")[:REF_BYTES] for value in values]

    def pseudonyms(self, space: str, keys: Sequence[bytes]) -> list[bytes]:
        """What stands for keys where they may not stand themselves: the same for the same key, and told apart by nobody without the pepper."""
        pepper, head = self.pepper, space.encode() + b"\x00\x00"
        return [hmac.digest(pepper, head + key, "sha256") for key in keys]

    def find(self, refs: Collection[bytes]) -> dict[bytes, bytes]:
        """The keys that there are, by name; those of subjects who were forgotten, or never seen, and those that were lost are missing."""
        found: dict[bytes, bytes] = {}
        for shelf, asked in self._look(refs):
            if shelf is not None:
                entries = self._open(shelf)
                found.update((ref, entries[ref]) for ref in asked if ref in entries and ref not in shelf.forgotten)
        return found

    def obtain(self, refs: Collection[bytes]) -> dict[bytes, bytes]:
        """The keys of subjects, made for those that have none; missing only for those who were forgotten.

        Cost: a look at their shelves, and the writing of those that get new ones, in one transaction. Raises Conflict where what names are hashed
        with was lost meanwhile.
        """
        found: dict[bytes, bytes] = {}
        rest = set(refs)
        for _ in range(_TRIES):
            own: OpenKey | None = None
            written: list[tuple[SubjectShelf, int]] = []
            made: dict[bytes, bytes] = {}
            for shelf_id, versioned, asked in self._look_versioned(rest):
                shelf, expected = versioned or (SubjectShelf(id=shelf_id, sealed=b"", n=0), 0)
                gone = set(shelf.forgotten)
                entries = {ref: key for ref, key in self._open(shelf).items() if ref not in gone}
                new = {ref: os.urandom(KEY_BYTES) for ref in asked if ref not in entries and ref not in gone}
                found.update((ref, entries[ref]) for ref in asked if ref in entries)
                if new:
                    own = own or open_newest(self.session)
                    made |= new
                    written.append((self._seal(shelf, {**entries, **new}, key=own), expected))
            if own is None:
                return found
            try:
                with self.session.ports.records.transact() as tx:
                    require_sealing(self.session, tx, own.id)
                    for shelf, expected in written:
                        tx.put(SHELVES, workspace=self.session.workspace, record=shelf, expected_version=expected)
            except Conflict:
                if not self.stands():
                    raise
                rest -= found.keys()
                continue  # others put keys on the same shelves, or another data key seals now
            return found | made
        raise _crowded()

    def is_forgotten(self, refs: Collection[bytes]) -> set[bytes]:
        """Those whose key was destroyed."""
        return {ref for shelf, asked in self._look(refs) if shelf is not None for ref in set(asked) & set(shelf.forgotten)}

    def prepare_forgetting(self, refs: Collection[bytes]) -> list[tuple[SubjectShelf, int]]:
        """The shelves without the keys of subjects, with the versions they have now, for ``put_shelves``."""
        found = [(versioned, self._without(shelf_id, versioned, asked)) for shelf_id, versioned, asked in self._look_versioned(refs)]
        return [new for old, new in found if old is None or (new[0].n, new[0].forgotten) != (old[0].n, old[0].forgotten)]

    def prepare_readmission(self, refs: Collection[bytes]) -> list[tuple[SubjectShelf, int]]:
        """The shelves on which subjects may have keys again, new ones: what was forgotten stays so."""
        found = []
        for _, versioned, asked in self._look_versioned(refs):
            if versioned is not None and set(asked) & set(versioned[0].forgotten):
                rest = tuple(ref for ref in versioned[0].forgotten if ref not in asked)
                found.append((msgspec.structs.replace(versioned[0], forgotten=rest), versioned[1]))
        return found

    def put_shelves(self, tx: RecordTransaction, shelves: Sequence[tuple[SubjectShelf, int]]) -> None:
        """Write shelves in a transaction. Raises Conflict where somebody wrote them since, or another data key seals now: prepare them anew."""
        for key in {read_key_id(shelf.sealed) for shelf, _ in shelves if shelf.sealed and not self._is_as_it_was(tx, shelf)}:
            require_sealing(self.session, tx, key)
        for shelf, expected in shelves:
            tx.put(SHELVES, workspace=self.session.workspace, record=shelf, expected_version=expected)

    def mark_forgotten(self, tx: RecordTransaction, refs: Collection[bytes]) -> None:
        """Close subjects' keys in a transaction without a look at them: ``prepare_forgetting`` takes them from the shelves afterwards."""
        for shelf_id, asked in _by_shelf(refs).items():
            found = tx.get_versioned(SHELVES, workspace=self.session.workspace, id=shelf_id)
            shelf, expected = found or (SubjectShelf(id=shelf_id, sealed=b"", n=0), 0)
            forgotten = tuple(dict.fromkeys([*shelf.forgotten, *asked]))
            tx.put(SHELVES, workspace=self.session.workspace, record=msgspec.structs.replace(shelf, forgotten=forgotten), expected_version=expected)

    def note_kind(self, kind: str) -> None:
        """Have a kind of subjects on record, as ``list_kinds`` lists them. Cost: a read where it is."""
        records, workspace = self.session.ports.records, self.session.workspace
        if not kind or records.get(SUBJECT_KINDS, workspace=workspace, id=kind) is not None:
            return
        with suppress(Conflict), records.transact() as tx:
            tx.append(SUBJECT_KINDS, workspace=workspace, record=SubjectKind(kind))

    def list_kinds(self) -> list[str]:
        """What subjects are named by in the workspace: columns of tables of which something was sealed."""
        return [kind.id for kind in self.session.ports.records.find(SUBJECT_KINDS, workspace=self.session.workspace)]

    def count(self) -> int:
        """How many subjects have a key. Cost: a look at all shelves."""
        return sum(shelf.n for shelf in self.session.ports.records.find(SHELVES, workspace=self.session.workspace))

    def _begin_again(self, lost: SubjectPepper) -> None:
        """Put another pepper in the place of one that opens no more, and empty the shelves that do not either: who is forgotten stays on them.

        Raises Conflict where another process did meanwhile. Cost: a look at all shelves, and the writing of those that are emptied.
        """
        session = self.session
        forget_opened(session)  # a key that was lost may be open here still
        with session.change("begin-pepper", thing="subject-pepper", detail={"lost": read_key_id(lost.sealed)}) as change:
            found = change.tx.get_versioned(PEPPERS, workspace=session.workspace, id="pepper")
            if found is None or found[0].sealed != lost.sealed:
                raise Conflict("Another process began it.")
            n_lost = self._empty_lost(change.tx)
            sealed = seal(session, os.urandom(KEY_BYTES), about="subject-pepper", change=change)
            made = SubjectPepper("pepper", sealed, lost_at=session.now())
            change.tx.put(PEPPERS, workspace=session.workspace, record=made, expected_version=found[1])
            change.detail["n_subjects"] = n_lost
        _LOG.warning("The keys of %d subjects of workspace '%s' were lost: what was sealed under them reads as missing.", n_lost, session.workspace)

    def _empty_lost(self, tx: RecordTransaction) -> int:
        """Take what opens no more from the shelves, and mark the forgotten as lost. Returns how many keys that were."""
        n, workspace = 0, self.session.workspace
        shelves = [shelf for shelf in tx.find(SHELVES, workspace=workspace) if shelf.n]
        gone = {key: is_gone(self.session, key, records=tx) for key in {read_key_id(shelf.sealed) for shelf in shelves}}
        for shelf in shelves:
            if gone[read_key_id(shelf.sealed)]:
                _, version = tx.get_versioned(SHELVES, workspace=workspace, id=shelf.id) or (shelf, 0)
                tx.put(SHELVES, workspace=workspace, record=msgspec.structs.replace(shelf, sealed=b"", n=0), expected_version=version)
                n += shelf.n
        for one in tx.find(FORGETTINGS, workspace=workspace):
            _, version = tx.get_versioned(FORGETTINGS, workspace=workspace, id=one.id) or (one, 0)
            tx.put(FORGETTINGS, workspace=workspace, record=msgspec.structs.replace(one, state="lost"), expected_version=version)
        return n

    def _is_as_it_was(self, tx: RecordTransaction, shelf: SubjectShelf) -> bool:
        """Whether what a shelf holds sealed was not sealed anew."""
        before = tx.get(SHELVES, workspace=self.session.workspace, id=shelf.id)
        return before is not None and before.sealed == shelf.sealed

    def _without(self, shelf_id: str, versioned: tuple[SubjectShelf, int] | None, asked: Collection[bytes]) -> tuple[SubjectShelf, int]:
        shelf, expected = versioned or (SubjectShelf(id=shelf_id, sealed=b"", n=0), 0)
        entries = {ref: key for ref, key in self._open(shelf).items() if ref not in asked}
        forgotten = tuple(dict.fromkeys([*shelf.forgotten, *asked]))
        return msgspec.structs.replace(self._seal(shelf, entries), forgotten=forgotten), expected

    def _look(self, refs: Collection[bytes]) -> list[tuple[SubjectShelf | None, list[bytes]]]:
        asked = _by_shelf(refs)
        records, workspace = self.session.ports.records, self.session.workspace
        if len(asked) >= _MANY:
            standing = {shelf.id: shelf for shelf in records.find(SHELVES, workspace=workspace)}
            return [(standing.get(shelf), wanted) for shelf, wanted in asked.items()]
        return [(records.get(SHELVES, workspace=workspace, id=shelf), wanted) for shelf, wanted in asked.items()]

    def _look_versioned(self, refs: Collection[bytes]) -> list[tuple[str, tuple[SubjectShelf, int] | None, list[bytes]]]:
        records, workspace = self.session.ports.records, self.session.workspace
        return [(shelf, records.get_versioned(SHELVES, workspace=workspace, id=shelf), wanted) for shelf, wanted in _by_shelf(refs).items()]

    def _open(self, shelf: SubjectShelf) -> dict[bytes, bytes]:
        if not shelf.n:
            return {}
        try:
            plain = unseal(self.session, shelf.sealed, about=f"subject-shelf/{shelf.id}")
        except NotFound:
            if not is_gone(self.session, read_key_id(shelf.sealed)):
                raise  # the master key is not at hand, and may be again
            return {}
        if len(plain) != shelf.n * _ENTRY:
            raise IntegrityBroken(f"The shelf {shelf.id} of subjects' keys is cut off.", hint="restore the home from a backup")
        return {plain[at : at + REF_BYTES]: plain[at + REF_BYTES : at + _ENTRY] for at in range(0, len(plain), _ENTRY)}

    def _seal(self, shelf: SubjectShelf, entries: dict[bytes, bytes], *, key: OpenKey | None = None) -> SubjectShelf:
        plain = b"".join(ref + key for ref, key in sorted(entries.items()))
        sealed = seal(self.session, plain, about=f"subject-shelf/{shelf.id}", key=key) if entries else b""
        return msgspec.structs.replace(shelf, sealed=sealed, n=len(entries))


def seal_standing(session: Session, work: Callable[[Subjects], T]) -> T:
    """What ``work`` seals by the keys of subjects; done again where these were lost meanwhile, so that nothing is kept that nobody can open."""
    for _ in range(_TRIES):
        subjects = Subjects(session)
        try:
            sealed = work(subjects)
        except Conflict:
            if subjects.stands():
                raise
            continue
        if subjects.stands():
            return sealed
    raise _crowded()


def _settle(value: str) -> str:
    """UUIDs are one whatever the case of their letters."""
    return value.lower() if len(value) == _UUID_LENGTH and value.count("-") == 4 else value


def _by_shelf(refs: Collection[bytes]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for ref in sorted(set(refs)):
        found.setdefault(ref[:2].hex()[:_SHELF_DIGITS], []).append(ref)
    return found


def _crowded() -> Conflict:
    return Conflict(f"Other processes changed the keys of subjects {_TRIES} times meanwhile.", hint="give the same command again")


SEALED_SHELVES = SealedKind(SHELVES, ("sealed",), lambda shelf, _: f"subject-shelf/{shelf.id}")
SEALED_PEPPERS = SealedKind(PEPPERS, ("sealed",), lambda _, __: "subject-pepper")
