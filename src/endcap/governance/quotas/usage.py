"""Usage: what was used, kept by day, actor and thing, in the transaction that tells it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from endcap.governance.quotas.amounts import name_day
from endcap.governance.quotas.records import METERED, USAGES, Metered, Usage, usage_id
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.storage.ports import RecordReader, RecordTransaction


def count_use(
    session: Session,
    tx: RecordTransaction,
    thing: str,
    *,
    cpu_s: float = 0.0,
    wall_s: float = 0.0,
    n_runs: int = 0,
    n_requests: int = 0,
    n_refused: int = 0,
) -> None:
    """Add to what the session's actor used today in its workspace for a thing; what a run that holds a place spent is told to its place, too.

    Cost: a read and a write in a transaction that goes on anyway, some 60 us.
    """
    if session.place is not None and cpu_s:
        session.place.spend(cpu_s)
    spent = Usage(
        day=name_day(session.now()),
        actor=session.actor.name,
        thing=thing,
        cpu_s=cpu_s,
        wall_s=wall_s,
        n_runs=n_runs,
        n_requests=n_requests,
        n_refused=n_refused,
    )
    add_usage(tx, session.workspace, spent)


def add_usage(tx: RecordTransaction, workspace: str, more: Usage) -> None:
    """Add to the row of its day, actor and thing."""
    found = tx.get_versioned(USAGES, workspace=workspace, id=usage_id(more.day, more.actor, more.thing))
    whole = add_up([found[0], more]) if found else more
    tx.put(USAGES, workspace=workspace, record=whole, expected_version=found[1] if found else 0)
    if found is None and tx.get(METERED, workspace=HOUSE, id=workspace) is None:
        tx.append(METERED, workspace=HOUSE, record=Metered(workspace))


def add_up(rows: Iterable[Usage]) -> Usage:
    """The sum of rows, under the day, actor and thing of the first; nothing at all without one."""
    some = list(rows)
    first = some[0] if some else Usage(day="", actor="", thing="")
    return Usage(
        day=first.day,
        actor=first.actor,
        thing=first.thing,
        cpu_s=sum(row.cpu_s for row in some),
        wall_s=sum(row.wall_s for row in some),
        n_runs=sum(row.n_runs for row in some),
        n_requests=sum(row.n_requests for row in some),
        n_refused=sum(row.n_refused for row in some),
        n_bytes=sum(row.n_bytes for row in some),
    )


def list_usage(records: RecordReader, workspace: str, *, at: datetime, per: str) -> list[Usage]:
    """The rows of the day or the month that ``at`` lies in. Cost grows with them."""
    day = name_day(at)
    return records.find(USAGES, workspace=workspace, where={"day": day} if per == "day" else {"month": day[:7]})


def sum_cpu_s(records: RecordReader, workspace: str, *, actor: str, at: datetime, per: str) -> float:
    """The CPU seconds used in the day or the month that ``at`` lies in; ``actor`` '' is the whole workspace."""
    return sum(row.cpu_s for row in list_usage(records, workspace, at=at, per=per) if actor in ("", row.actor))
