"""Rotation: a new key in the place of an old one while everybody goes on. What is sealed is not touched."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.keys import masters
from endcap.governance.keys.data_keys import (
    about_key,
    find_at_hand,
    find_master,
    find_newest,
    forget_opened,
    make_key,
    open_master,
    register_master,
    unwrap_key,
)
from endcap.governance.keys.masters import Master
from endcap.governance.keys.records import DATA_KEYS, MASTER_KEYS, DataKey
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader, RecordTransaction


class KeyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is listed. ``sort`` is data or master; ``state`` of a data key is seals, opens, free (nothing leans on it any more), lost or
    destroyed, of a master key wraps or retired. ``at_hand`` is whether the master key, or that of the data key, is there now.
    """

    id: str
    sort: str
    state: str
    workspace: str
    master: str
    at_hand: bool
    made_at: datetime
    made_by: str
    retired_at: datetime | None = None


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """What follows what: the ids of the new key and of the old one ('': there was none), and how many data keys were wrapped anew or are lost."""

    sort: str
    key: str
    before: str
    n_wrapped: int = 0
    n_lost: int = 0
    source: str = ""


@verb("keys ls", permission=Permission.OWN)
def list_keys(session: Session, *, house: bool = False) -> list[KeyLine]:
    """The data keys under which the workspace's things are sealed, oldest first: which one seals, which only open, and whether their master is there.

    ``house`` lists those of all workspaces, and the master keys before them: for admins of the house. No key is shown, only ids.
    """
    if house:
        session.require_admin(verb="keys ls")
    there = {master.key for master in masters.load_masters(session)}
    known = session.ports.records.find(MASTER_KEYS, workspace=HOUSE)
    lines = [
        KeyLine(
            id=found.key,
            sort="master",
            state="wraps" if found is known[-1] else "retired",
            workspace="",
            master="",
            at_hand=found.key in there,
            made_at=found.since,
            made_by=found.by,
            retired_at=None if found is known[-1] else known[place + 1].since,
        )
        for place, found in enumerate(known)
    ]
    where = None if house else {"workspace": session.workspace}
    keys = session.ports.records.find(DATA_KEYS, workspace=HOUSE, where=where)
    return [*(lines if house else ()), *(_line(key, at_hand=key.master in there) for key in keys)]


@verb("keys rotate", permission=Permission.OWN)
def rotate_keys(session: Session, *, house: bool = False, master: bool = False, lost: bool = False) -> Rotated:
    """Seal under a new data key from now on; what was sealed under older ones goes on to open. Nobody has to stop.

    ``house`` is for the data key of the house itself, under which lies what belongs to no workspace: for its admins.
    ``master`` changes the master key instead, for admins of the house: all data keys are wrapped under the new one, in one transaction. That is the
    one named by ENDCAP_MASTER_KEY_NEXT, _NEXT_FILE or _NEXT_COMMAND; where none is named, and the old one is a file, it is made in that file's place.
    ``lost`` is for a master key that is gone for good, for admins of the house: another one begins, and what was sealed under the old one is gone.
    Raises NotFound where the master key is not at hand, Conflict where ``lost`` is said of one that is.
    """
    if master and lost:
        raise InvalidInput("A master key is either at hand or lost.", hint="endcap keys rotate --master, or: endcap keys rotate --lost")
    if lost:
        return _begin_again(session)
    return _rotate_master(session) if master else _rotate_data_key(choose_place(session, house=house, verb="keys rotate"))


def choose_place(session: Session, *, house: bool, verb: str) -> Session:
    """The session where its keys are meant, or those of the house. Raises PermissionDenied, audited, where the house is not the actor's to keep."""
    if house:
        session.require_admin(verb=verb)
        return session.in_house()
    return session


def _rotate_data_key(session: Session) -> Rotated:
    with session.change("keys rotate", thing="data-key") as change:
        old = find_newest(change.tx, session.workspace)
        if old is not None:
            _put(change.tx, msgspec.structs.replace(old, retired_at=session.now()))
        new = make_key(session, change.tx)
        change.detail.update({"key": new.id, "before": old.id if old else ""})
    forget_opened(session)
    return Rotated(sort="data", key=new.id, before=old.id if old else "")


def _rotate_master(session: Session) -> Rotated:
    session.require_admin(verb="keys rotate")
    house, place = session.in_house(), masters.find_file(session)
    if find_master(session.ports.records) is None:
        raise Conflict("No master key was ever used here, so there is none to follow.", hint="the first is made when something is sealed")
    named = next(masters.load_next(session.settings), None)
    if named is None and place is None:
        raise InvalidInput("Nothing says which master key is to follow.", hint=f"name it by ENDCAP_MASTER_KEY_NEXT; {masters.MAKE_ONE}")
    wrapped = {} if named is None else _wrap_all(session, session.ports.records, named)  # before the transaction: a command takes its time
    with house.change("keys rotate", thing="master-key") as change:
        standing = find_master(change.tx)
        if standing is None or (named is not None and named.key == standing.key):
            raise Conflict("The master key that is to follow is the one in use.", hint=masters.MAKE_ONE)
        open_master(session, change.tx)  # what another rotation left is brought to its end
        new = named or masters.make_file(masters.waiting(place))  # type: ignore[arg-type]  # one of the two is there, as was seen above
        anew = _wrap_all(session, change.tx, new, before=wrapped)
        for key in anew.values():
            _put(change.tx, key)
        register_master(session, change.tx, new, number=standing.number + 1)
        change.detail.update({"key": new.key, "before": standing.key, "n_wrapped": len(anew)})
    if named is None and place is not None:
        settle_file(session)
    return Rotated(sort="master", key=new.key, before=standing.key, n_wrapped=len(anew), source=new.source)


def _begin_again(session: Session) -> Rotated:
    session.require_admin(verb="keys rotate")
    with session.in_house().change("keys rotate", thing="master-key", detail={"lost": True}) as change:
        standing = find_master(change.tx)
        if standing is None:
            raise Conflict("No master key was ever used here, so none is lost.", hint="the first is made when something is sealed")
        try:
            find_at_hand(session, standing.key)
        except NotFound:
            pass
        else:
            raise Conflict(f"The master key {standing.key} is at hand.", hint="endcap keys rotate --master changes it, and loses nothing")
        place = masters.find_file(session)
        new = next(masters.load_next(session.settings), None) or next(masters.load_masters(session), None)
        if new is None and place is not None:
            new = masters.make_file(place)
        if new is None:
            raise InvalidInput("Nothing says which master key is to follow.", hint=f"name it by ENDCAP_MASTER_KEY; {masters.MAKE_ONE}")
        lost = [key for key in change.tx.find(DATA_KEYS, workspace=HOUSE) if _is_wrapped(key)]
        for key in lost:
            _put(change.tx, msgspec.structs.replace(key, lost=True, retired_at=key.retired_at or session.now()))
        register_master(session, change.tx, new, number=standing.number + 1)
        change.detail.update({"key": new.key, "before": standing.key, "n_lost": len(lost)})
    forget_opened(session)
    return Rotated(sort="master", key=new.key, before=standing.key, n_lost=len(lost), source=new.source)


def settle_file(session: Session) -> None:
    """Bring the file of a new master key to its place, if it is on record. Under the lock of writers, so that no other rotation is between."""
    with session.ports.records.transact() as tx:
        open_master(session, tx)


def _wrap_all(session: Session, records: RecordReader, master: Master, *, before: Mapping[str, DataKey] | None = None) -> dict[str, DataKey]:
    """All data keys that open, wrapped under a master key. Those that were wrapped under it ``before`` are taken as they are."""
    found: dict[str, DataKey] = {}
    for key in records.find(DATA_KEYS, workspace=HOUSE):
        if not _is_wrapped(key) or key.master == master.key:
            continue
        done = (before or {}).get(key.id)
        wrapped = done.wrapped if done else master.wrap(unwrap_key(session, key), about=about_key(key.workspace, key.id))
        found[key.id] = msgspec.structs.replace(key, master=master.key, wrapped=wrapped)
    return found


def _is_wrapped(key: DataKey) -> bool:
    return key.destroyed_at is None and not key.lost


def _put(tx: RecordTransaction, key: DataKey) -> None:
    _, version = tx.get_versioned(DATA_KEYS, workspace=HOUSE, id=key.id) or (key, 0)
    tx.put(DATA_KEYS, workspace=HOUSE, record=key, expected_version=version)


def _line(key: DataKey, *, at_hand: bool) -> KeyLine:
    if key.destroyed_at is not None:
        state = "destroyed"
    elif key.lost:
        state = "lost"
    elif key.retired_at is None:
        state = "seals"
    else:
        state = "free" if key.freed_at is not None else "opens"
    return KeyLine(
        id=key.id,
        sort="data",
        state=state,
        workspace=key.workspace,
        master=key.master,
        at_hand=at_hand,
        made_at=key.made_at,
        made_by=key.made_by,
        retired_at=key.retired_at,
    )
