"""Counting storage anew: all that rests for a workspace, found by what its records name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.core.permissions import Permission
from endcap.governance.quotas.amounts import name_day
from endcap.governance.quotas.records import HELD, STORED, Held, Stored
from endcap.governance.quotas.storing import name_blob, name_partition, write_ledger
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordTransaction

_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_LOOKED_INTO = 64 * 2**20
_JSON = (b"{", b"[")


class Recount(msgspec.Struct, frozen=True, kw_only=True):
    """What rests for a workspace, and what was thought to before it was counted anew."""

    workspace: str
    n_blobs: int
    n_partitions: int
    n_bytes: int
    n_bytes_before: int


@verb("quotas recount", permission=Permission.OWN)
def recount_storage(session: Session) -> Recount:
    """Count anew what rests for the workspace: blobs, partitions of tables, files of runs. Exact, whatever was killed, restored or put unseen.

    A blob is the workspace's if a session of it put it, or if a record of it names its digest, itself or by a list (JSON) that it names; two
    workspaces that hold the same bytes each count them. What nobody is known to have put is counted to no actor. Cost: all records of the home are
    read once, and those blobs that are lists; the ledger is written in one transaction.
    """
    session = session.without_veil()
    workspace, day = session.workspace, name_day(session.now())
    sizes = dict(session.blobs.list_digests())
    named = _find_named(session, sizes)
    tables = {name_partition(dataset, partition): n for dataset, partition, n in session.ports.tables.list_sizes(partition={"workspace": workspace})}
    with session.change("quotas recount", thing=f"workspace/{workspace}") as change:
        ledger = {entry.id: entry for entry in change.tx.find(STORED, workspace=workspace)}
        before = sum(held.n_bytes for held in change.tx.find(HELD, workspace=workspace))
        standing = {name_blob(digest): sizes[digest] for digest in named} | tables
        for identity, entry in ledger.items():
            if identity not in standing and (n_bytes := _measure(session, entry, sizes)):
                standing[identity] = n_bytes
        truth = {**dict.fromkeys(ledger, 0), **standing}
        corrected = (_correct(ledger.get(identity), identity, n_bytes, session) for identity, n_bytes in truth.items())
        changed = [entry for entry in corrected if entry is not None]
        write_ledger(change.tx, workspace, changed, day=day)
        _right_sums(change.tx, workspace)
        n_bytes = sum(standing.values())
        change.detail.update(n_bytes=n_bytes, n_bytes_before=before)
    n_partitions = sum(not identity.startswith("blob/") for identity in standing)
    return Recount(workspace=workspace, n_blobs=len(standing) - n_partitions, n_partitions=n_partitions, n_bytes=n_bytes, n_bytes_before=before)


def _find_named(session: Session, sizes: Mapping[str, int]) -> set[str]:
    """The blobs that the workspace's records name, and those that lists among these name."""
    found: set[str] = set()
    with session.ports.freeze() as frozen:
        for record in frozen.records():
            if record.workspace == session.workspace:
                found.update(_find_digests(record.body, sizes))
    waiting = list(found)
    while waiting:
        digest = waiting.pop()
        if sizes[digest] > _MOST_LOOKED_INTO:
            continue
        try:
            payload = session.blobs.get(digest)
        except (NotFound, IntegrityBroken):  # it takes its room all the same
            continue
        if payload.startswith(_JSON):
            more = _find_digests(payload, sizes) - found
            found |= more
            waiting += more
    return found


def _find_digests(body: bytes, sizes: Mapping[str, int]) -> set[str]:
    return {text for text in (match.decode() for match in _DIGEST.findall(body)) if text in sizes}


def _measure(session: Session, entry: Stored, sizes: Mapping[str, int]) -> int:
    """What an entry of the ledger takes that was not found: it came while all was looked at, or it is gone."""
    if entry.id.startswith("blob/"):
        digest = entry.id.removeprefix("blob/")
        return sizes.get(digest) or (entry.n_bytes if session.blobs.has(digest) else 0)
    _, dataset, *folders = entry.id.split("/")
    pairs = (folder.partition("=") for folder in folders)
    return session.ports.tables.measure(dataset, partition={name: unquote(value) for name, _, value in pairs})


def _correct(entry: Stored | None, identity: str, n_bytes: int, session: Session) -> Stored | None:
    """The entry as it should be; None where it is so."""
    if entry is None:
        return Stored(id=identity, n_bytes=n_bytes, actor="", thing="", at=session.now())
    return None if entry.n_bytes == n_bytes else msgspec.structs.replace(entry, n_bytes=n_bytes)


def _right_sums(tx: RecordTransaction, workspace: str) -> None:
    """Make the sums those of the ledger, whatever they were."""
    sums: dict[str, Held] = {}
    for entry in tx.find(STORED, workspace=workspace):
        held = Held(actor=entry.actor, thing=entry.thing, n_bytes=entry.n_bytes)
        before = sums.get(held.id)
        sums[held.id] = msgspec.structs.replace(held, n_bytes=held.n_bytes + (before.n_bytes if before else 0))
    for held in tx.find(HELD, workspace=workspace):
        sums.setdefault(held.id, msgspec.structs.replace(held, n_bytes=0))
    for held in sums.values():
        standing, version = tx.get_versioned(HELD, workspace=workspace, id=held.id) or (None, 0)
        if standing != held:
            tx.put(HELD, workspace=workspace, record=held, expected_version=version)
