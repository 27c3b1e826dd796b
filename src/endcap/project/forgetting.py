"""Forgetting somebody: their key is destroyed, so that nothing written of them can be read; what that cannot undo is told.

It goes in this order, and a process may be killed between any two: the key goes and the subject stands on the list of the forgotten, in one
transaction with the audit row; the list is written to every place of backups that is known; online rows are dropped; the record says done. The same
command goes on where it was killed. What is written meanwhile is sealed under a key that is no more, or under none: it reads as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from endcap.core.errors import Conflict, InvalidInput, suggest
from endcap.core.permissions import Permission
from endcap.governance.privacy.records import FORGETTINGS, Forgetting
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.records import VIEW_VERSIONS, ViewVersion
from endcap.project.held_subjects import HeldRows, StayingThing, TrainedVersion, find_held, list_holds, list_staying, list_trained
from endcap.project.subject_lists import keep_lists
from endcap.storage.ports import STAMP_BYTES

if TYPE_CHECKING:
    from endcap.governance.privacy.sealing import Mark

_TRIES = 20


class ForgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a subject, and what became of it; the value that was asked for is not in it.

    ``subject`` is the keyed hash by which records and the audit name it, ``kind`` the column that names such subjects. ``state`` is planned (a dry
    run), done, or stands (it was forgotten before). ``seen`` is whether it ever had a key. ``held`` are rows in our stores, ``versions`` what was
    trained on them, ``stays`` what a key cannot undo or must be kept, and why.
    """

    subject: str
    kind: str
    state: str
    seen: bool
    at: datetime
    asked_by: str
    n_online: int
    held: tuple[HeldRows, ...]
    versions: tuple[TrainedVersion, ...]
    stays: tuple[StayingThing, ...]


class ForgottenSubject(msgspec.Struct, frozen=True):
    """Somebody who was forgotten, by the keyed hash; ``state`` is begun, done, readmitted, or lost: what the hash was made with was lost
    with a master key, so that nobody can say any more who it was.
    """

    subject: str
    kind: str
    at: datetime
    by: str
    asked_by: str
    state: str


@dataclass(frozen=True)
class _Asked:
    """The subject that is meant: its kind, its value as it was given and as numbers are written, and their names."""

    kind: str
    values: tuple[str, ...]
    refs: tuple[bytes, ...]

    @property
    def id(self) -> str:
        return self.refs[0].hex()


@verb("forget", permission=Permission.OWN)
def forget(session: Session, *, key: str, asked_by: str = "", yes: bool = False, dry_run: bool = False, reason: str = "") -> ForgetReport:
    """Forget a person: destroy the key of all that Endcap wrote of them. Without --yes it only says what that would touch.

    ``key`` names the person by the column that tables declare as their subject: customer_id=123. ``yes`` does it; ``dry_run`` says only what would
    be done, as leaving out both does. ``asked_by`` is who asked for it, and ``reason`` why: both are kept and must not name the person.

    Values of theirs read as missing from then on: features, training sets, logs, quarantine. Rows stay, and digests hold: they are of sealed bytes.
    Online rows are dropped. What comes of them again is left missing until somebody readmits them: endcap readmit. Models that were trained on their
    rows are listed, and so is what a key cannot undo. Doing it twice changes nothing; after a kill the same command goes on.
    Raises InvalidInput for a column that names no subjects, an empty value and one of another type; Conflict where something that holds them is held
    for the law (endcap retention hold). Cost: a look at the parts of all that is sealed,
    a few bytes a row, whatever the subject has; memory for a batch.
    """
    if yes and dry_run:
        raise InvalidInput("--yes does it and --dry-run does not.", hint="give one of them")
    asked = _read_key(session, key)
    subjects = Subjects(session)
    standing = session.records.get(FORGETTINGS, workspace=session.workspace, id=asked.id)
    over = standing is not None and standing.state == "done"
    seen = bool(subjects.find(asked.refs)) or standing is not None
    held = tuple(find_held(session, asked.refs))
    versions = tuple(list_trained(session, held))
    state, holds = "planned", list_holds(session, asked.kind, held)
    if yes and not over and holds:
        session.record_refusal("forget", thing=f"subject/{asked.id}", detail={"kind": asked.kind, "held": ", ".join(hold.thing for hold in holds)})
        raise Conflict(
            f"{holds[0].thing} is {holds[0].why}: nobody's key is destroyed before that ends.", hint=f"endcap retention lift {holds[0].thing}"
        )
    if yes and not over:
        _destroy(session, asked, asked_by=asked_by, reason=reason)
        standing = _finish(session, asked)
        state = "done"
    elif over:
        state = "stands"
    unreached = keep_lists(session) if yes else ()
    stays = (*holds, *unreached, *list_staying(session, asked.kind, held=held))
    return ForgetReport(
        subject=asked.id,
        kind=asked.kind,
        state=state,
        seen=seen,
        at=standing.at if standing is not None else session.now(),
        asked_by=standing.asked_by if standing is not None else asked_by,
        n_online=standing.n_online if standing is not None else _count_online(session, asked),
        held=held,
        versions=versions,
        stays=stays,
    )


@verb("forgotten", permission=Permission.READ)
def list_forgotten(session: Session) -> list[ForgottenSubject]:
    """Who was forgotten in the workspace, by keyed hashes, oldest first, and how far it came."""
    found = session.records.find(FORGETTINGS, workspace=session.workspace)
    return [ForgottenSubject(one.id, one.kind, one.at, one.by, one.asked_by, one.state) for one in found]


@verb("readmit", permission=Permission.OWN)
def readmit(session: Session, *, key: str, asked_by: str = "") -> ForgottenSubject:
    """Let what comes of somebody who was forgotten be kept again, under a new key. What was forgotten stays so.

    ``key`` names them as for endcap forget; ``asked_by`` is who asked for it. Raises InvalidInput where they were not forgotten.
    """
    asked, subjects = _read_key(session, key), Subjects(session)
    for _ in range(_TRIES):
        found = session.records.get_versioned(FORGETTINGS, workspace=session.workspace, id=asked.id)
        if found is None or found[0].state == "readmitted":
            raise InvalidInput("Nobody whom that names was forgotten.", hint="see: endcap forgotten")
        if found[0].state != "done":
            raise Conflict("The forgetting was begun and is not done.", hint="finish it first, with the same --key: endcap forget --yes")
        done = msgspec.structs.replace(found[0], state="readmitted")
        shelves = subjects.prepare_readmission(asked.refs)
        try:
            with session.change("readmit", thing=f"subject/{asked.id}", detail={"kind": asked.kind, "asked_by": asked_by[:200]}) as change:
                subjects.put_shelves(change.tx, shelves)
                change.tx.put(FORGETTINGS, workspace=session.workspace, record=done, expected_version=found[1])
        except Conflict:
            continue
        keep_lists(session)
        return ForgottenSubject(done.id, done.kind, done.at, done.by, done.asked_by, done.state)
    raise _crowded()


def finish_forgetting(session: Session) -> int:
    """Take the keys of those whose forgetting was begun, here or by a restore, from their shelves. Returns how many were begun.

    Their online rows go with the next ``forget``; they cannot be read. Cost: a look at the records when there is nothing to do.
    """
    begun = session.records.find(FORGETTINGS, workspace=session.workspace, where={"state": "begun"})
    subjects = Subjects(session)
    refs = [bytes.fromhex(one.id) for one in begun]
    for _ in range(_TRIES if refs else 0):
        shelves = subjects.prepare_forgetting(refs)
        try:
            with session.records.transact() as tx:
                subjects.put_shelves(tx, shelves)
        except Conflict:
            continue
        return len(refs)
    return len(refs)


def _read_key(session: Session, key: str) -> _Asked:
    """The subject that is meant. Raises InvalidInput, which does not repeat the value."""
    kind, separator, value = key.partition("=")
    subjects, kind = Subjects(session), kind.strip()
    if not separator or not kind or not value.strip():
        raise InvalidInput("A person is named by a column and a value.", hint="--key customer_id=123")
    known = sorted({*subjects.list_kinds(), *(table.whose for version in _list_views(session) for table in version.view.sources if table.whose)})
    if kind not in known:
        raise InvalidInput(
            f"Nothing is kept by the subject {kind!r} in workspace '{session.workspace}'. Subjects: {known}.",
            hint=suggest(kind, known) or "declare it: Table(personal=[...], subject='customer_id')",
        )
    types = _find_types(session, kind)
    values = dict.fromkeys([value])
    if types == {"integer"}:
        values = {}
    if "integer" in types:
        try:
            values[str(int(value))] = None
        except ValueError as error:
            if types == {"integer"}:
                raise InvalidInput(f"'{kind}' is a whole number, and the value that was given is none.", hint=f"--key {kind}=123") from error
    if "uuid" in types:
        values[value.lower()] = None
    try:
        refs = dict.fromkeys(subjects.name(kind, values))
    except UnicodeEncodeError as error:
        raise InvalidInput("The value is not Unicode, so nobody is called so.") from error
    return _Asked(kind, tuple(values), tuple(refs))


def _find_types(session: Session, kind: str) -> set[str]:
    """Of which types the columns are that name such subjects, as far as views know."""
    return {version.key_types[mark.subject] for version, mark in _list_marked(session, kind) if mark.subject in version.key_types}


def _list_views(session: Session) -> list[ViewVersion]:
    return session.records.find(VIEW_VERSIONS, workspace=session.workspace)


def _list_marked(session: Session, kind: str) -> Iterator[tuple[ViewVersion, Mark]]:
    """The versions of views with personal columns of such subjects."""
    from endcap.loop.features.personal import find_marks

    for version in _list_views(session):
        chosen = [mark for mark in find_marks(version.view).values() if mark.kind == kind]
        if chosen:
            yield version, next((mark for mark in chosen if mark.subject is not None), chosen[0])


def _destroy(session: Session, asked: _Asked, *, asked_by: str, reason: str) -> None:
    """Take the keys away, put the subject on the list of the forgotten, and say so in the audit, all at once."""
    subjects = Subjects(session)
    for _ in range(_TRIES):
        shelves = subjects.prepare_forgetting(asked.refs)
        found = session.records.get_versioned(FORGETTINGS, workspace=session.workspace, id=asked.id)
        if found is not None and found[0].state != "readmitted" and not shelves:
            return
        begun = Forgetting(id=asked.id, kind=asked.kind, at=session.now(), by=session.actor.name, asked_by=asked_by[:200])
        detail = {"kind": asked.kind, "asked_by": asked_by[:200], "reason": reason[:500]}
        try:
            with session.change("forget", thing=f"subject/{asked.id}", detail=detail) as change:
                subjects.put_shelves(change.tx, shelves)
                for n, ref in enumerate(asked.refs):
                    standing = change.tx.get_versioned(FORGETTINGS, workspace=session.workspace, id=ref.hex())
                    record = begun if n == 0 else msgspec.structs.replace(begun, id=ref.hex(), state="done")
                    change.tx.put(FORGETTINGS, workspace=session.workspace, record=record, expected_version=standing[1] if standing else 0)
        except Conflict:
            continue  # others put keys on the same shelves, or forget the same subject
        return
    raise _crowded()


def _finish(session: Session, asked: _Asked) -> Forgetting:
    """Drop what is kept ready of the subject, and say that it is done."""
    n_online = sum(_drop_online(session, version, mark, asked) for version, mark in _list_marked(session, asked.kind))
    for _ in range(_TRIES):
        found = session.records.get_versioned(FORGETTINGS, workspace=session.workspace, id=asked.id)
        assert found is not None, "it was begun"
        if found[0].state != "begun":
            return found[0]
        done = msgspec.structs.replace(found[0], state="done", done_at=session.now(), n_online=n_online)
        try:
            with session.records.transact() as tx:
                tx.put(FORGETTINGS, workspace=session.workspace, record=done, expected_version=found[1])
        except Conflict:
            continue
        return done
    raise _crowded()


def _count_online(session: Session, asked: _Asked) -> int:
    return sum(len(_find_online(session, version, mark, asked)) for version, mark in _list_marked(session, asked.kind))


def _drop_online(session: Session, version: ViewVersion, mark: Mark, asked: _Asked) -> int:
    from endcap.loop.features.online import name_space

    found = _find_online(session, version, mark, asked)
    return session.online.remove(name_space(session, version), found) if found else 0


def _find_online(session: Session, version: ViewVersion, mark: Mark, asked: _Asked) -> list[bytes]:
    """The keys of the subject's online rows, as they stand in the store: looked up where the subject is the key, else by the names on all rows."""
    from endcap.loop.features.online import make_codec, name_space

    if not version.view.online or not version.key_types:
        return []
    space = name_space(session, version)
    if tuple(version.key_types) == (mark.subject,):
        codec = make_codec(version)
        typed = [_as_type(value, version.key_types[mark.subject]) for value in asked.values] if mark.subject else []
        keys = [key for value in typed if value is not None and (key := codec.encode_key([value])) is not None]
        from endcap.loop.features.personal import find_marks

        hidden = Subjects(session).pseudonyms(space, keys) if mark.subject in find_marks(version.view) else keys
        (rows,) = session.online.read([(space, hidden)])
        return [key for key, row in zip(hidden, rows, strict=True) if row is not None]
    refs = set(asked.refs)
    rows_by_key = session.online.sample(space, session.online.count(space))
    return [key for key, row in rows_by_key if row[STAMP_BYTES : STAMP_BYTES + len(asked.refs[0])] in refs]


def _as_type(value: str, type_: str) -> object:
    """A value of a key's type; None where it is none of it."""
    with suppress(ValueError):
        if type_ == "integer":
            return int(value)
        if type_ == "date":
            return date.fromisoformat(value)
        if type_ == "uuid":
            return str(UUID(value))
        return value == "true" if type_ == "bool" else value
    return None


def _crowded() -> Conflict:
    return Conflict("Others changed the keys of subjects again and again meanwhile.", hint="give the same command again")
