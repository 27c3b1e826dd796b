"""The audit chain: one per workspace, each row hashed over the row before it, its head written in the same transaction."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.errors import IntegrityBroken
from endcap.core.identity import digest
from endcap.core.permissions import Permission
from endcap.governance.records import AUDIT_HEADS, AUDIT_ROWS, AuditHead, AuditRow
from endcap.governance.sessions import Detail, Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordTransaction, require_limit

_HEAD = "head"
_GENESIS = "0" * 64


def append_audit_row(
    tx: RecordTransaction,
    *,
    workspace: str,
    at: datetime,
    actor: str,
    verb_name: str,
    thing: str,
    outcome: str,
    detail: Detail,
) -> AuditRow:
    """Add a link to the chain inside the caller's transaction. Cost: one read, two writes, whatever the chain's length."""
    found = tx.get_versioned(AUDIT_HEADS, workspace=workspace, id=_HEAD)
    head, version = found or (AuditHead(_HEAD, 0, _GENESIS), 0)
    row = AuditRow(head.n + 1, at, actor, verb_name, thing, outcome, dict(detail), head.hash, "")
    row = msgspec.structs.replace(row, hash=hash_row(row))
    tx.append(AUDIT_ROWS, workspace=workspace, record=row)
    tx.put(AUDIT_HEADS, workspace=workspace, record=AuditHead(_HEAD, row.n, row.hash), expected_version=version)
    return row


def hash_row(row: AuditRow) -> str:
    """The hash of a row over all its fields but ``hash``, in a canonical JSON."""
    return digest(msgspec.json.encode(msgspec.structs.replace(row, hash=""), order="sorted"))


class AuditCheck(msgspec.Struct, frozen=True):
    """What a verification found: the rows walked and the head they end in."""

    workspace: str
    n_rows: int
    head: str
    intact: bool = True


@verb("audit", permission=Permission.READ)
def list_audit(session: Session, *, thing: str | None = None, actor: str | None = None, limit: int = 50, house: bool = False) -> list[AuditRow]:
    """Who did what, and who was refused what, newest first.

    ``thing`` is what was acted on, exactly as it is listed (``model/store-day``); ``actor`` is who acted; None means all. ``limit`` is how
    many rows are listed; cost grows with it. ``house`` is what belongs to no workspace, people and refused sign-ins, for admins of the house.
    """
    session = _settle_chain(session, house=house, verb_name="audit")
    where = {name: value for name, value in (("thing", thing), ("actor", actor)) if value is not None}
    if len(where) > 1:
        rows = session.records.find(AUDIT_ROWS, workspace=session.workspace, where={"thing": thing}, newest_first=True)
        return [row for row in rows if row.actor == actor][: require_limit(limit)]
    return session.records.find(AUDIT_ROWS, workspace=session.workspace, where=where or None, newest_first=True, limit=limit)


@verb("verify-audit", permission=Permission.READ)
def verify_audit(session: Session, *, house: bool = False) -> AuditCheck:
    """Walk the workspace's whole audit chain and check every link.

    ``house`` is the chain of what belongs to no workspace, for admins of the house.
    Raises IntegrityBroken naming the first row that was changed, is missing, or was added behind the head's back. Cost grows with the rows.
    """
    session = _settle_chain(session, house=house, verb_name="verify-audit")
    before = _read_head(session)
    rows = session.records.find(AUDIT_ROWS, workspace=session.workspace)
    after = _read_head(session)  # others may write meanwhile: the rows read end at one head or the other, or between
    previous, n = _GENESIS, 0
    for row in rows:
        n += 1
        if row.n != n or row.previous != previous or row.hash != hash_row(row):
            raise IntegrityBroken(
                f"The audit chain of workspace '{session.workspace}' breaks at row {n}.",
                hint="compare with a backup: rows from here on cannot be trusted",
                row=n,
            )
        previous = row.hash
    ends = [_GENESIS, *(row.hash for row in rows)]
    if not before.n <= n <= after.n or ends[before.n] != before.hash:
        raise IntegrityBroken(
            f"The audit chain of workspace '{session.workspace}' has {n} rows, but its head says {after.n}, or ends otherwise.",
            hint="rows were cut off or added behind the head: compare with a backup",
            row=min(n, after.n),
        )
    return AuditCheck(session.workspace, n, previous)


def _read_head(session: Session) -> AuditHead:
    return session.records.get(AUDIT_HEADS, workspace=session.workspace, id=_HEAD) or AuditHead(_HEAD, 0, _GENESIS)


def _settle_chain(session: Session, *, house: bool, verb_name: str) -> Session:
    if not house:
        return session
    session.require_admin(verb=verb_name)
    return session.in_house()
