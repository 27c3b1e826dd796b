"""Limits: what a session may use, by the quota of its workspace and that of its actor in it; and what is refused at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from endcap.core.errors import EndcapError, InvalidInput, QuotaExceeded, StorageFull
from endcap.core.settings import format_bytes
from endcap.governance.quotas.amounts import find_renewal
from endcap.governance.quotas.records import HELD, QUOTAS, Quota, quota_id
from endcap.governance.quotas.usage import sum_cpu_s
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.storage.ports import RecordReader


@dataclass(frozen=True)
class Limits:
    """The quotas that count for a session, the workspace's first: none, one or two."""

    quotas: tuple[Quota, ...] = ()

    @property
    def memory(self) -> int | None:
        """Bytes that a run may use; None: as many as the settings say."""
        return min((quota.memory for quota in self.quotas if quota.memory is not None), default=None)


NO_LIMITS = Limits()


def find_limits(session: Session) -> Limits:
    """What counts for the session. Cost: two reads."""
    return read_limits(session.ports.records, workspace=session.workspace, actor=session.actor.name)


def read_limits(records: RecordReader, *, workspace: str, actor: str) -> Limits:
    """What counts for an actor in a workspace. Cost: two reads."""
    found = (records.get(QUOTAS, workspace=HOUSE, id=quota_id(workspace, whose)) for whose in ("", actor))
    return Limits(tuple(quota for quota in found if quota is not None))


def require_memory(session: Session, n_bytes: int, *, verb: str) -> int:
    """The bytes that were asked for a run. Raises InvalidInput, audited, where a quota allows less."""
    for quota in find_limits(session).quotas:
        if quota.memory is not None and n_bytes > quota.memory:
            what = f"{format_bytes(n_bytes)} of memory were asked for, and a run of {quota.whose} may use {format_bytes(quota.memory)}."
            _refuse(session, verb, asked_memory=n_bytes, limit=quota.memory)
            raise InvalidInput(what, hint="leave it out for as much as is allowed; see: endcap quotas show")
    return n_bytes


def require_gpus(session: Session, limits: Limits, n: int, *, verb: str) -> None:
    """Raise InvalidInput, audited, for more GPUs than may ever be held."""
    for quota in limits.quotas:
        if quota.gpus is not None and n > quota.gpus:
            _refuse(session, verb, asked_gpus=n, limit=quota.gpus)
            raise InvalidInput(f"{n} GPUs were asked for, and {quota.whose} may hold {quota.gpus}.", hint="ask for fewer; see: endcap quotas show")


def require_cpu(session: Session, limits: Limits, *, verb: str) -> None:
    """Raise QuotaExceeded, audited, where the CPU-minutes of a period are used up: a run begins before, or after they are renewed.

    Cost: nothing without such a quota; with one a read of the period's usage.
    """
    now = session.now()
    for quota in limits.quotas:
        if quota.cpu_minutes is None:
            continue
        used = sum_cpu_s(session.ports.records, session.workspace, actor=quota.actor, at=now, per=quota.cpu_per) / 60
        if used >= quota.cpu_minutes:
            renewed = find_renewal(now, quota.cpu_per)
            _refuse(session, verb, cpu_minutes=round(used, 3), limit=quota.cpu_minutes)
            raise QuotaExceeded(
                f"{quota.whose[0].upper()}{quota.whose[1:]} has used {used:,.1f} of {quota.cpu_minutes:,g} CPU-minutes this {quota.cpu_per}.",
                hint=f"they begin anew at {renewed:%Y-%m-%d %H:%M} UTC; or ask for more: endcap quotas show",
                renewed_at=renewed.isoformat(),
                retry_after_s=_seconds_until(renewed, now),
            )


def require_storage(session: Session, limits: Limits, n_bytes: int, *, verb: str) -> int | None:
    """How many bytes may still come to rest, None for any number. Raises StorageFull, audited, where ``n_bytes`` more would be too many.

    Cost: nothing without such a quota; with one a read of the sums of the workspace's storage.
    """
    left: int | None = None
    for quota in limits.quotas:
        if quota.storage is None:
            continue
        used = sum_storage(session.ports.records, session.workspace, actor=quota.actor)
        room = quota.storage - used
        if n_bytes > room or room <= 0:
            _refuse(session, verb, stored=used, asked_bytes=n_bytes, limit=quota.storage)
            raise StorageFull(
                f"The storage of {quota.whose} is used up: {format_bytes(max(used, 0))} of {format_bytes(quota.storage)}.",
                hint="what stands can still be read; delete what is not needed, or ask for more: endcap quotas show",
            )
        left = room if left is None else min(left, room)
    return left


def sum_storage(records: RecordReader, workspace: str, *, actor: str = "") -> int:
    """Bytes that rest for a workspace, or in it for an actor. Cost grows with its actors and things."""
    return sum(held.n_bytes for held in records.find(HELD, workspace=workspace) if actor in ("", held.actor))


def _seconds_until(renewed: datetime, now: datetime) -> int:
    return max(1, int((renewed - now).total_seconds()))


def _refuse(session: Session, verb: str, **detail: float) -> None:
    with suppress(EndcapError):  # refused is refused, also where nothing more can be written: within another transaction, or on a full disk
        session.record_refusal(verb, thing=f"workspace/{session.workspace}", detail={"why": "quota", **detail})
