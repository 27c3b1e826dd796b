"""Signed heads: the home's word of where a chain ended, against which every later state of it is held.

A head is signed with each export, by ``sign-audit``, and by whoever else calls ``sign_head`` within a change: a backup does. Before one is signed the
rows since the one before it are checked, so that nothing that was changed behind Endcap's back is signed as if it were right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import msgspec

from endcap.core.errors import IntegrityBroken
from endcap.core.identity import digest
from endcap.core.permissions import Permission
from endcap.governance.audit_chain import GENESIS, broken_at, walk_chain
from endcap.governance.audit_keys import SigningKey, is_signed, open_key, require_newest
from endcap.governance.records import AUDIT_ROWS, SIGNED_HEADS, AuditHead, AuditKey, SignedHead
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

PURPOSE = "head"
NAMED = "signed_head"
"""The word of an audit row's detail that names the head which was signed beside it."""
_FIRST = "0" * 64
_APART = timedelta(minutes=5)
"""How far the clocks of machines that share a home may be apart."""


@verb("sign-audit", permission=Permission.OWN)
def sign_audit(session: Session, *, house: bool = False) -> SignedHead:
    """Sign where the audit chain ends now, so that cutting or rewriting it up to here is found. Keep what it prints somewhere else, too.

    ``house`` is the chain of what belongs to no workspace, for admins of the house. Raises IntegrityBroken when the rows since the last signed
    head are not whole. Cost: those rows.
    """
    session = settle_chain(session, house=house, verb_name="sign-audit")
    key, checked = open_key(session), check_since_signed(session)
    with session.change("sign-audit", thing="audit") as change:
        return sign_head(session, change, key=key, checked=checked)


def sign_head(session: Session, change: Change, *, key: SigningKey, checked: AuditHead) -> SignedHead:
    """Sign the end of the chain within a change, whose audit row then names it. ``checked`` is as far as the chain was walked before.

    What others wrote since is walked here. Raises IntegrityBroken as ``sign_audit``, Conflict where the key was rotated meanwhile.
    """
    since = require_newest(change.tx, key).since
    n, last = checked.n, checked.hash
    for row in walk_chain(change.tx, session.workspace, start=checked):
        n, last = row.n, row.hash
    before = _find_last(change.tx, session.workspace)
    bare = SignedHead(
        number=before.number + 1 if before else 1,
        workspace=session.workspace,
        n=n,
        hash=last,
        at=max(session.now(), since),
        by=session.actor.name,
        key=key.public,
        previous=_digest(before) if before else _FIRST,
    )
    head = msgspec.structs.replace(bare, signature=key.sign(bare, purpose=PURPOSE))
    change.tx.append(SIGNED_HEADS, workspace=session.workspace, record=head)
    change.detail[NAMED] = head.number
    return head


def check_since_signed(session: Session) -> AuditHead:
    """Walk the chain from its last signed head on; returns where it ends. Raises IntegrityBroken. Cost grows with those rows."""
    records, workspace = session.records, session.workspace
    before = _find_last(records, workspace)
    start = GENESIS
    if before is not None and before.n:
        row = records.get(AUDIT_ROWS, workspace=workspace, id=f"{before.n:012d}")
        if row is None or row.hash != before.hash:
            raise broken_at(workspace, before.n)
        start = AuditHead(GENESIS.id, before.n, before.hash)
    n, last = start.n, start.hash
    for row in walk_chain(records, workspace, start=start):
        n, last = row.n, row.hash
    return AuditHead(GENESIS.id, n, last)


def read_signed_heads(session: Session, *, keys: tuple[AuditKey, ...]) -> list[SignedHead]:
    """All signed heads of the workspace in their order, each checked against the one before it and the keys.

    Raises IntegrityBroken, naming the first that was changed, removed, or signed by a key that is not the home's or was not in use any more.
    """
    heads = session.records.find(SIGNED_HEADS, workspace=session.workspace)
    previous, n, number_of_key = _FIRST, 0, 0
    numbers = {key.public: key.number for key in keys}
    for place, head in enumerate(heads, start=1):
        if head.number != place or head.previous != previous or head.n < n or numbers.get(head.key, number_of_key) < number_of_key:
            raise _broken_head(session.workspace, place, "is not the one that followed")
        require_head(head, workspace=session.workspace, keys=keys)
        previous, n, number_of_key = _digest(head), head.n, numbers[head.key]
    return heads


def require_head(head: SignedHead, *, workspace: str, keys: tuple[AuditKey, ...]) -> SignedHead:
    """The same head, if a key that was in use then signed it. Raises IntegrityBroken."""
    by_public: Mapping[str, AuditKey] = {key.public: key for key in keys}
    key = by_public.get(head.key)
    if key is None:
        raise _broken_head(workspace, head.number, f"is signed by a key that is none of this home's, {head.key}")
    following = keys[key.number] if key.number < len(keys) else None
    if head.at < key.since - _APART or (following is not None and head.at > following.since + _APART):
        raise _broken_head(workspace, head.number, f"is signed by a key that was not in use then, {head.key}")
    if head.workspace != workspace or not has_signature(head):
        raise _broken_head(workspace, head.number, "does not bear the home's signature")
    return head


def has_signature(head: SignedHead) -> bool:
    """Whether a head bears the signature of the key that it names."""
    return is_signed(msgspec.structs.replace(head, signature=""), purpose=PURPOSE, by=head.key, signature=head.signature)


def settle_chain(session: Session, *, house: bool, verb_name: str) -> Session:
    """The session in whose chain a verb looks. Raises PermissionDenied, audited, for the house's where the actor is no admin of it."""
    if not house:
        return session
    session.require_admin(verb=verb_name)
    return session.in_house()


def _find_last(records: RecordReader, workspace: str) -> SignedHead | None:
    found = records.find(SIGNED_HEADS, workspace=workspace, newest_first=True, limit=1)
    return found[0] if found else None


def _digest(head: SignedHead) -> str:
    return digest(msgspec.json.encode(head, order="sorted"))


def _broken_head(workspace: str, number: int, what: str) -> IntegrityBroken:
    return IntegrityBroken(
        f"The signed head {number} of the audit chain of workspace '{workspace}' {what}.",
        hint="compare with an export that was kept elsewhere: endcap verify-audit --against FILE",
        head=number,
    )
