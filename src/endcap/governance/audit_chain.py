"""The audit chain: one per workspace, each row hashed over the row before it, its head written in the same transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.core.identity import digest
from endcap.governance.records import AUDIT_HEADS, AUDIT_ROWS, AuditHead, AuditRow
from endcap.governance.sessions import Detail
from endcap.storage.ports import RecordReader, RecordTransaction

_HEAD = "head"
GENESIS = AuditHead(_HEAD, 0, "0" * 64)
"""Where each chain begins: before its first row."""
PAGE_ROWS = 2_000


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
    head, version = found or (GENESIS, 0)
    row = AuditRow(head.n + 1, at, actor, verb_name, thing, outcome, dict(detail), head.hash, "")
    row = msgspec.structs.replace(row, hash=hash_row(row))
    tx.append(AUDIT_ROWS, workspace=workspace, record=row)
    tx.put(AUDIT_HEADS, workspace=workspace, record=AuditHead(_HEAD, row.n, row.hash), expected_version=version)
    return row


def hash_row(row: AuditRow) -> str:
    """The hash of a row over all its fields but ``hash``, in a canonical JSON."""
    return digest(msgspec.json.encode(msgspec.structs.replace(row, hash=""), order="sorted"))


def read_head(records: RecordReader, workspace: str) -> AuditHead:
    """Where the chain ends, as the records say."""
    return records.get(AUDIT_HEADS, workspace=workspace, id=_HEAD) or GENESIS


def walk_chain(records: RecordReader, workspace: str, *, start: AuditHead = GENESIS) -> Iterator[AuditRow]:
    """The rows behind ``start`` in their order, each checked against the one before it.

    Raises IntegrityBroken at the first that was changed, is missing or stands elsewhere. Cost grows with the rows behind ``start``; never more
    than a page of them is in memory.
    """
    n, previous = start.n, start.hash
    while True:
        try:
            page = records.find(AUDIT_ROWS, workspace=workspace, after=f"{n:012d}" if n else None, limit=PAGE_ROWS)
        except NotFound as error:
            raise broken_at(workspace, n) from error
        for row in page:
            n += 1
            if not is_link(row, n=n, previous=previous):
                raise broken_at(workspace, n)
            previous = row.hash
            yield row
        if len(page) < PAGE_ROWS:
            return


def is_link(row: AuditRow, *, n: int, previous: str) -> bool:
    """Whether a row is the ``n``-th, hangs on the one before it and is what its hash says."""
    return row.n == n and row.previous == previous and row.hash == hash_row(row)


def broken_at(workspace: str, n: int) -> IntegrityBroken:
    """The error of a chain whose row ``n`` is not what it was."""
    return IntegrityBroken(
        f"The audit chain of workspace '{workspace}' breaks at row {n}.",
        hint="compare with a backup or an export: rows from here on cannot be trusted",
        row=n,
    )
