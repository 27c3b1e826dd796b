"""Reading the audit: who did what and who was refused what, and whether the chain is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from endcap.core.clock import describe_instant, parse_instant
from endcap.core.errors import IntegrityBroken, InvalidInput, suggest
from endcap.core.permissions import Permission
from endcap.governance.audit_chain import PAGE_ROWS, read_head, walk_chain
from endcap.governance.audit_exports import Witness, read_witnesses
from endcap.governance.audit_heads import NAMED, read_signed_heads, settle_chain
from endcap.governance.audit_keys import trust_keys
from endcap.governance.records import AUDIT_ROWS, AuditHead, AuditRow
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import require_limit

_OUTCOMES = ("done", "refused")
_MOST_ROWS = 100_000
_FIRST_PAGE = 100
_MOST_DAYS = 1_000
"""Longer spans are not looked up by the day."""


class AuditCheck(msgspec.Struct, frozen=True):
    """What a verification found: the rows walked and the head they end in; how many heads of it are signed, up to which row, when and by which
    key; ``trusted`` is where the key is from that vouches for it: given, the home's own file, or only the records. What stands behind the last
    signed head is only as safe as the records' disk.
    """

    workspace: str
    n_rows: int
    head: str
    intact: bool = True
    n_signed_heads: int = 0
    signed_n: int = 0
    signed_at: datetime | None = None
    key: str = ""
    trusted: str = ""
    against: str = ""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are asked for; None means all. ``before`` is a row number."""

    thing: str | None = None
    actor: str | None = None
    verb: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None

    @property
    def named(self) -> dict[str, str]:
        """The conditions that an index answers."""
        return {name: value for name in ("thing", "actor", "verb", "outcome") if (value := getattr(self, name)) is not None}

    def takes(self, row: AuditRow) -> bool:
        """Whether a row is asked for."""
        if (self.before is not None and row.n >= self.before) or any(getattr(row, name) != value for name, value in self.named.items()):
            return False
        return (self.since is None or row.at >= self.since) and (self.until is None or row.at < self.until)


@verb("audit", permission=Permission.READ)
def list_audit(
    session: Session,
    *,
    thing: str | None = None,
    actor: str | None = None,
    verb: str | None = None,
    since: str | None = None,
    until: str | None = None,
    outcome: str | None = None,
    before: int | None = None,
    limit: int = 50,
    house: bool = False,
) -> list[AuditRow]:
    """Who did what, and who was refused what, newest first.

    ``thing`` is what was acted on, exactly as it is listed (``model/store-day``); ``actor`` is who acted; ``verb`` is what was asked for
    (``promote``); ``outcome`` is done or refused; None means all. ``since`` is the first instant, ``until`` is the first one after them;
    both are read in the workspace's zone unless they say another. ``limit`` is how many rows are listed, 100,000 at most; ``before`` is
    the row number before which the next page begins. ``house`` is what belongs to no workspace, people and refused sign-ins, for admins of the house.

    Cost grows with the rows of the condition that the fewest rows meet; a span of time counts as one if it has a beginning.
    """
    session = settle_chain(session, house=house, verb_name="audit")
    if outcome is not None and outcome not in _OUTCOMES:
        raise InvalidInput(f"No row has the outcome {outcome!r}. Outcomes: {list(_OUTCOMES)}.", hint=suggest(outcome, _OUTCOMES))
    if (require_limit(limit) or 0) > _MOST_ROWS:
        raise InvalidInput(
            f"The limit is {limit:,}; the most are {_MOST_ROWS:,}.", hint="ask page by page with --before, or endcap export-audit FILE"
        )
    first, end = (parse_instant(text, zone=session.zone) if text is not None else None for text in (since, until))
    if first is not None and end is not None and first >= end:
        raise InvalidInput(f"The span ends at {until!r}, which is not after its beginning {since!r}.", hint="--since is the earlier one")
    wanted = AuditFilter(thing=thing, actor=actor, verb=verb, outcome=outcome, since=first, until=end, before=before)
    return find_rows(session, wanted, limit=limit)


def find_rows(session: Session, wanted: AuditFilter, *, limit: int) -> list[AuditRow]:
    """The newest rows that are wanted. Each condition's rows are walked a page at a time, side by side, until one walk has the answer."""
    head = read_head(session.records, session.workspace)
    if not limit or not head.n or (wanted.before is not None and wanted.before <= 1):
        return []
    start = f"{wanted.before:012d}" if wanted.before is not None and wanted.before <= head.n else None
    conditions: list[dict[str, str]] = [{name: value} for name, value in wanted.named.items()] or [{}]
    walks = [(_walk_back(session, where, start=start), list[AuditRow](), True) for where in conditions]
    days = _list_days(session, wanted, head=head)
    if days is not None:  # its order is that of the days: only its end says that nothing newer comes
        walks.append((_walk_days(session, days), [], False))
    while True:
        for pages, found, ordered in walks:
            page, is_last = next(pages)
            found += [row for row in page if wanted.takes(row)]
            if is_last or (ordered and len(found) >= limit):
                return sorted(found, key=lambda row: -row.n)[:limit]


def _walk_back(session: Session, where: dict[str, str], *, start: str | None) -> Iterator[tuple[list[AuditRow], bool]]:
    """Pages of rows, the newest first, each with whether it is the last."""
    n_rows, after, is_last = _FIRST_PAGE, start, False
    while not is_last:
        page = session.records.find(AUDIT_ROWS, workspace=session.workspace, where=where or None, newest_first=True, after=after, limit=n_rows)
        is_last = len(page) < n_rows
        yield page, is_last
        n_rows, after = min(4 * n_rows, PAGE_ROWS), page[-1].id if page else after


def _walk_days(session: Session, days: list[str]) -> Iterator[tuple[list[AuditRow], bool]]:
    for day in days:
        for page, is_last in _walk_back(session, {"day": day}, start=None):
            yield page, is_last and day == days[-1]


def _list_days(session: Session, wanted: AuditFilter, *, head: AuditHead) -> list[str] | None:
    """The days of a span, the last one first; None where it has no beginning or is too long to look its days up."""
    if wanted.since is None:
        return None
    end = wanted.until
    if end is None:  # the clock of whoever wrote last may be ahead, but not by more than a day
        newest = session.records.get(AUDIT_ROWS, workspace=session.workspace, id=f"{head.n:012d}")
        end = max(session.now(), wanted.since, newest.at if newest else wanted.since) + timedelta(days=1)
    first = wanted.since.date()
    n_days = ((end - timedelta(microseconds=1)).date() - first).days
    return [(first + timedelta(days=n)).isoformat() for n in range(n_days, -1, -1)] if n_days <= _MOST_DAYS else None


@verb("verify-audit", permission=Permission.READ)
def verify_audit(session: Session, *, against: Path | None = None, key: str | None = None, house: bool = False) -> AuditCheck:
    """Walk the workspace's whole audit chain and check every link, its head, and each head that was signed.

    ``against`` is an export, its manifest or a signed head that somebody kept elsewhere; the chain must still hold every row of it, which is how a
    tail that was cut with all that is signed of it is found. ``key`` is the public key that must have signed, as you know it; None means the
    one in the home's own file. ``house`` is the chain of what belongs to no workspace, for admins of the house.

    Raises IntegrityBroken naming the first row that was changed, is missing, or was added behind the head's back. Cost grows with the rows.
    """
    session = settle_chain(session, house=house, verb_name="verify-audit").without_veil()  # a chain is whole; what its rows say is not told
    before = read_head(session.records, session.workspace)
    trusted = trust_keys(session, pinned=key)
    heads = read_signed_heads(session, keys=trusted.keys)
    witnesses = [Witness(head.n, head.hash, f"head {head.number}, signed at {describe_instant(head.at)}") for head in heads]
    witnesses += read_witnesses(against, workspace=session.workspace, keys=trusted.keys) if against is not None else []
    n, last = _walk(session, before=before, witnesses=witnesses, n_signed_heads=len(heads))
    after = read_head(session.records, session.workspace)  # others may write meanwhile: the rows read end at one head or the other, or between
    if not before.n <= n <= after.n or (n == after.n and last != after.hash):
        raise _wrong_end(session.workspace, n, after.n)
    signed = heads[-1] if heads else None
    return AuditCheck(
        session.workspace,
        n,
        last,
        n_signed_heads=len(heads),
        signed_n=signed.n if signed else 0,
        signed_at=signed.at if signed else None,
        key=signed.key if signed else "",
        trusted=trusted.source,
        against=str(against) if against is not None else "",
    )


def _walk(session: Session, *, before: AuditHead, witnesses: list[Witness], n_signed_heads: int) -> tuple[int, str]:
    """Walk all rows past those who can say what stood there; where they end."""
    waiting = sorted(witnesses, key=lambda witness: -witness.n)
    n, last = 0, "0" * 64
    while waiting and waiting[-1].n == 0:
        waiting.pop()
    for row in walk_chain(session.records, session.workspace):
        n, last = row.n, row.hash
        if n == before.n and last != before.hash:
            raise _wrong_end(session.workspace, n, before.n)
        while waiting and waiting[-1].n == n:
            witness = waiting.pop()
            if witness.hash != last:
                raise IntegrityBroken(
                    f"The audit chain of workspace '{session.workspace}' was rewritten: row {n} is not what {witness.source} says.",
                    hint="compare with a backup or an export: what was rewritten lies at or before this row",
                    row=n,
                )
        named = row.detail.get(NAMED)
        if n <= before.n and row.outcome == "done" and isinstance(named, int) and named > n_signed_heads:
            raise IntegrityBroken(
                f"Row {n} of the audit chain of workspace '{session.workspace}' names the signed head {named}, which is not there any more.",
                hint="somebody took it away: compare with an export that was kept elsewhere",
                row=n,
            )
    if waiting:
        lost = waiting[0]
        raise IntegrityBroken(
            f"The audit chain of workspace '{session.workspace}' was cut: it has {n} rows, but {lost.source} says {lost.n}.",
            hint="rows from here on are lost: compare with a backup or an export",
            row=n,
        )
    return n, last


def _wrong_end(workspace: str, n: int, said: int) -> IntegrityBroken:
    return IntegrityBroken(
        f"The audit chain of workspace '{workspace}' has {n} rows, but its head says {said}, or ends otherwise.",
        hint="rows were cut off or added behind the head: compare with a backup",
        row=min(n, said),
    )
