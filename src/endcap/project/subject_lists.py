"""The list of the forgotten beside backups: a backup made before somebody was forgotten brings their key back, so a restore reads the list and
closes those keys again, before anybody sees the home.

The list holds keyed hashes alone, by workspace. It is written to each place to which the home was ever backed up, as far as it can be reached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from endcap.core.errors import EndcapError, IntegrityBroken
from endcap.governance.privacy.records import FORGETTINGS, Forgetting
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.records import AUDIT_ROWS, HOUSE
from endcap.governance.sessions import Session
from endcap.project.held_subjects import StayingThing, in_workspace
from endcap.storage.ports import RecordTransaction
from endcap.storage.vaults import Vault, open_vault

NOTES = "forgotten"


class ForgottenList(msgspec.Struct, frozen=True):
    """Who is forgotten, by workspace: the records of it, by keyed hashes. Those who were readmitted are in it as such."""

    workspaces: dict[str, tuple[Forgetting, ...]]


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


def keep_list(session: Session, vault: Vault, workspaces: Collection[str]) -> None:
    """Bring the list of a place up to what the home knows of some workspaces; of others it stays as it was."""
    before = read_list(vault)
    found = dict(before)
    for workspace in workspaces:
        own = {one.id: one for one in before.get(workspace, ())}
        own |= {one.id: one for one in session.ports.records.find(FORGETTINGS, workspace=workspace)}
        if own:
            found[workspace] = tuple(own.values())
    if found != before:
        vault.keep_notes(NOTES, msgspec.json.encode(ForgottenList(found)))


def read_list(vault: Vault) -> Mapping[str, tuple[Forgetting, ...]]:
    """The list of a place, by workspace. Raises IntegrityBroken for one that does not read: a restore must not pass it over."""
    body = vault.read_notes(NOTES)
    if body is None:
        return {}
    try:
        return msgspec.json.decode(body, type=ForgottenList).workspaces
    except msgspec.DecodeError as error:
        raise IntegrityBroken(f"The list of the forgotten in {vault.shown} does not read: {error}.", hint="bring back the file as it was") from error


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
