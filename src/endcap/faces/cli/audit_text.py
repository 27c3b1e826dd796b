"""The audit as lines and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from endcap.governance.audit import AuditCheck
from endcap.governance.audit_exports import AuditExport
from endcap.governance.records import HOUSE, AuditKey, SignedHead


def row_of_key(key: AuditKey) -> dict[str, Any]:
    handed = "-" if not key.previous else "yes" if key.endorsed else "no: it was lost"
    return {"key": key.number, "public": key.public, "since": key.since, "by": key.by, "handed over": handed}


def tell_check(check: AuditCheck) -> Iterator[tuple[str, str]]:
    """What was walked, how much of it is signed, and what that is worth."""
    whose = "the house" if check.workspace == HOUSE else f"'{check.workspace}'"
    yield f"the audit chain of {whose} is intact: {check.n_rows:,} rows", "bold"
    yield f"  ends in    {check.head}", ""
    if check.signed_at is None:
        command = "endcap sign-audit --house" if check.workspace == HOUSE else "endcap sign-audit"
        yield f"  no head is signed yet, so a tail that is cut would not be found: {command}", "yellow"
    else:
        yield f"  signed     the last of {check.n_signed_heads:,} heads covers row {check.signed_n:,} at {check.signed_at:%Y-%m-%d %H:%M:%S} UTC", ""
        yield f"  by the key {check.key}", ""
        if check.trusted == "records":
            yield "  which is only as good as the records: the private key is not at hand here; give the key that you know by --key", "yellow"
    if check.against:
        yield f"  holds all that stands in {check.against}", ""
    elif check.signed_at is not None:
        yield "  whether the newest signed heads themselves were taken away only something kept elsewhere can say: --against FILE", "dim"


def tell_export(made: AuditExport) -> Iterator[tuple[str, str]]:
    """Where the rows are, and what an auditor does with them."""
    span = f"rows {made.first:,} to {made.last:,}" if made.n_rows else "no rows"
    yield f"{span} in {made.path}, with {made.manifest}", ""
    yield f"signed head {made.head} by the key {made.key}", ""
    yield f"without this home: python -m endcap.governance.audit_exports {made.path} --key {made.key}", "dim"


def tell_head(head: SignedHead) -> Iterator[tuple[str, str]]:
    """What was signed, and what it is for."""
    yield f"signed head {head.number} of '{head.workspace}': row {head.n:,} is {head.hash}", ""
    yield f"by the key {head.key}", ""
    yield "With --json it is what verify-audit --against takes: keep that elsewhere.", "dim"


def tell_key(key: AuditKey) -> Iterator[tuple[str, str]]:
    """A new key, and who must be told."""
    yield f"key {key.number} signs from now on: {key.public}", "bold"
    if key.endorsed:
        yield f"the key before it, {key.previous}, has signed that it hands over, and is gone", ""
    else:
        yield f"the key before it, {key.previous}, has handed nothing over: tell your auditors of the new one by a way that they trust", "yellow"


TELLERS: dict[type, Callable[[Any], Iterator[tuple[str, str]]]] = {
    AuditCheck: tell_check,
    AuditExport: tell_export,
    AuditKey: tell_key,
    SignedHead: tell_head,
}
ROWS: dict[type, Callable[[Any], dict[str, Any]]] = {AuditKey: row_of_key}
