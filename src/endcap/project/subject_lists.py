"""The list of the forgotten beside backups: a backup made before somebody was forgotten brings their key back, so a restore reads the list and
closes those keys again, before anybody sees the home.

The list holds keyed hashes alone, by workspace. It is written to each place to which the home was ever backed up, as far as it can be reached.

It is signed with the home's key, as the ends of the audit chains are, and says since when it stands. A restore takes no other: whoever may write the
place takes nobody off it. The seal of a backup says which list stood beside it, so that none before that can be put in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import msgspec

from endcap.core.errors import EndcapError, IntegrityBroken
from endcap.governance.audit_keys import is_handed_over, is_signed, list_audit_keys, open_key
from endcap.governance.privacy.records import FORGETTINGS, Forgetting
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.records import AUDIT_ROWS, HOUSE, AuditKey
from endcap.governance.sessions import Session
from endcap.project.held_subjects import StayingThing, in_workspace
from endcap.storage.ports import RecordTransaction
from endcap.storage.vaults import Vault, open_vault

NOTES = "forgotten"
_PURPOSE = "forgotten"


class ForgottenList(msgspec.Struct, frozen=True, kw_only=True):
    """Who is forgotten, by workspace: the records of it, by keyed hashes. Those who were readmitted are in it as such.

    ``at`` is when it was written, ``keys`` are the home's public keys then, the last of which made the ``signature``.
    """

    workspaces: dict[str, tuple[Forgetting, ...]] = {}
    at: datetime | None = None
    keys: tuple[AuditKey, ...] = ()
    signature: str = ""


def list_places(session: Session) -> list[str]:
    """The places to which the home was backed up, as the audit of the house names them."""
    rows = session.ports.records.find(AUDIT_ROWS, workspace=HOUSE, where={"verb": "backup"})
    return list(dict.fromkeys(str(row.detail["place"]) for row in rows if row.outcome == "done" and row.detail.get("place")))


def keep_lists(session: Session) -> tuple[StayingThing, ...]:
    """Write the workspace's list to all known places of backups; returns those that could not be reached."""
    missed = []
    for place in list_places(session):
        try:
            vault = open_vault(place)
            vault.require()
            keep_list(session, vault, [session.workspace])
        except EndcapError as error:
            why = f"the list of the forgotten could not be written there ({error.what}): a restore of a backup made before brings the key back"
            missed.append(StayingThing(f"backups in {place}", why, "until the place is reached: give the same command again, or endcap backup"))
    return tuple(missed)


def keep_list(session: Session, vault: Vault, workspaces: Collection[str]) -> datetime | None:
    """Bring the list of a place up to what the home knows of some workspaces; of others it stays as it was. Returns since when it stands.

    Raises NotFound or InvalidInput where the home's key, with which it is signed, is not at hand; IntegrityBroken where the one that stands was
    changed, or another home signed it.
    """
    before = read_list(vault)
    found = dict(before.workspaces)
    for workspace in workspaces:
        own = {one.id: one for one in found.get(workspace, ())}
        own |= {one.id: one for one in session.ports.records.find(FORGETTINGS, workspace=workspace)}
        if own:
            found[workspace] = tuple(own.values())
    publics = {key.public for key in list_audit_keys(session)}
    if publics:
        require_trusted(before, trusted=publics, shown=vault.shown)
    if found == before.workspaces:
        return before.at
    key = open_key(session)
    at = session.now() if before.at is None else max(session.now(), before.at + timedelta(microseconds=1))
    made = ForgottenList(workspaces=found, at=at, keys=tuple(list_audit_keys(session)))
    signed = msgspec.structs.replace(made, signature=key.sign(made, purpose=_PURPOSE))
    vault.keep_notes(NOTES, msgspec.json.encode(signed))
    return at


def read_list(vault: Vault, *, since: datetime | None = None) -> ForgottenList:
    """The list of a place. ``since`` is when the one stood that may be the oldest (None: there need be none).

    Raises IntegrityBroken for one that does not read, that its last key did not sign, that is older, or is gone: a restore must not pass it over.
    Whose keys they are is for ``require_trusted``.
    """
    body = vault.read_notes(NOTES)
    try:
        found = ForgottenList() if body is None else msgspec.json.decode(body, type=ForgottenList)
    except msgspec.DecodeError as error:
        raise _changed(vault.shown, f"does not read: {error}") from error
    bare = msgspec.structs.replace(found, signature="")
    signed = bool(found.keys) and is_signed(bare, purpose=_PURPOSE, by=found.keys[-1].public, signature=found.signature)
    if body is not None and not signed:
        raise _changed(vault.shown, "does not bear the signature of the home's key: it was changed, or an older Endcap wrote it")
    if since is not None and (found.at is None or found.at < since):
        raise _changed(vault.shown, "is gone" if body is None else f"is of {found.at}, and one of {since} stood there when the backup was made")
    return found


def require_trusted(found: ForgottenList, *, trusted: Collection[str], shown: str) -> None:
    """Raise IntegrityBroken unless the key that signed a list is one of those that are trusted, or one to which they handed over."""
    if found.signature and not is_handed_over(found.keys, trusted=trusted):
        raise _changed(
            shown,
            f"is signed by {found.keys[-1].public}, which is none of the home's keys, nor did one of them hand over to it",
            hint="bring back the list as the home wrote it; where the home lost its key and began with another since, say so:"
            " endcap restore --forgotten-key PUBLIC; another home backs up to a place of its own",
        )


def _changed(shown: str, why: str, *, hint: str = "bring back the file notes-forgotten.json as the home wrote it last") -> IntegrityBroken:
    return IntegrityBroken(f"The list of the forgotten in {shown} {why}.", hint=hint)


def apply_lists(session: Session, tx: RecordTransaction, found: Mapping[str, tuple[Forgetting, ...]]) -> int:
    """Close the keys of all who were forgotten after the backup, in the transaction that restores it. Returns how many.

    Who was readmitted since the backup is closed, too: the key in it is the one that was destroyed, and comes back with what it opens. They are
    readmitted anew. What lies on the shelves is taken from them when the home is used (``finish_forgetting``).
    """
    n = 0
    for workspace, forgettings in found.items():
        inside = in_workspace(session, workspace)
        closing = []
        for one in forgettings:
            standing = tx.get_versioned(FORGETTINGS, workspace=workspace, id=one.id)
            if standing is not None and _is_settled(standing[0], one):
                continue
            begun = msgspec.structs.replace(one, state="begun", done_at=None)
            tx.put(FORGETTINGS, workspace=workspace, record=begun, expected_version=standing[1] if standing else 0)
            closing.append(bytes.fromhex(one.id))
        if closing:
            Subjects(inside).mark_forgotten(tx, closing)
        n += len(closing)
    return n


def _is_settled(standing: Forgetting, listed: Forgetting) -> bool:
    """Whether a backup holds no key that was destroyed after it: it was gone then, or was the one of a readmission that the list has, too."""
    return standing.state in ("done", "lost") or (standing.state == listed.state == "readmitted" and standing.at >= listed.at)
