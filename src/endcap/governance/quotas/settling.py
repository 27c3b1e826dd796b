"""Setting, clearing and showing quotas: an admin of the house settles what a workspace may use, its owners what an actor may in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission, permissions_of
from endcap.core.settings import parse_bytes
from endcap.governance.people import find_user, has_users, settle_workspace
from endcap.governance.quotas.amounts import find_renewal, parse_cpu_minutes, parse_requests, require_count, require_weight
from endcap.governance.quotas.limits import sum_storage
from endcap.governance.quotas.records import PLACES, QUOTAS, Place, Quota, quota_id
from endcap.governance.quotas.usage import sum_cpu_s
from endcap.governance.records import HOUSE, SYSTEM
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb

_FIELDS = {
    "cpu-minutes": ("cpu_minutes", "cpu_per"),
    "memory": ("memory",),
    "storage": ("storage",),
    "gpus": ("gpus",),
    "runs": ("runs",),
    "requests": ("requests", "requests_per_s"),
    "weight": ("weight",),
}


class QuotaLine(msgspec.Struct, frozen=True, kw_only=True):
    """One limit, and what is used of it. ``used`` None: each process counts its own (requests), or each run has its own (memory).

    ``left`` is never less than nothing: a limit may be set below what is used. ``per`` is what the limit is for: a day, a month, a run, at once,
    some seconds; ``renews_at`` when it begins anew.
    """

    workspace: str
    actor: str
    limit: str
    allowed: float
    per: str
    used: float | None
    left: float | None
    renews_at: datetime | None
    by: str
    at: datetime


@verb("quotas set", permission=Permission.OWN)
def set_quota(
    session: Session,
    *,
    workspace: str | None = None,
    actor: str | None = None,
    cpu_minutes: str | None = None,
    memory: str | None = None,
    storage: str | None = None,
    gpus: int | None = None,
    runs: int | None = None,
    requests: str | None = None,
    weight: float | None = None,
) -> list[QuotaLine]:
    """Limit what the workspace may use, or an actor in it. What is not named stays as it is; see endcap quotas clear.

    ``actor`` is whom it is for, set by owners (None: the workspace as a whole, set by admins of the house); ``workspace`` is another one, for admins.
    ``cpu_minutes`` is how many runs may take, by the day or month of UTC: 600/day, 20000/month. ``memory`` is what a run may use: 4GB. ``storage``
    is what may rest here: 50GB. ``gpus`` is how many may be held at once, 0 for none. ``runs`` is how many may go on at once; more wait in the queue.
    ``requests`` is how many a process answers: 50/s, 600/min. ``weight`` is the share in the queue; everybody else has 1.
    Holds within a second, and for runs that have not begun. A limit may lie below what is used already: nothing is stopped or deleted.
    """
    wanted = _settle(session, workspace, actor, verb_name="quotas set")
    given = _read_given(cpu_minutes, memory, storage, gpus=gpus, runs=runs, requests=requests, weight=weight)
    if not given:
        raise InvalidInput(f"No limit was given. Limits: {list(_FIELDS)}.", hint="endcap quotas set --actor ada --runs 2 --cpu-minutes 600/day")
    detail: dict[str, Any] = {"actor": actor, **given}
    with replace(session, workspace=wanted).change("quotas set", thing=f"quota/{quota_id(wanted, actor or '')}", detail=detail) as change:
        standing, version = change.tx.get_versioned(QUOTAS, workspace=HOUSE, id=quota_id(wanted, actor or "")) or (None, 0)
        at, by = session.now(), session.actor.name
        quota = msgspec.structs.replace(standing or Quota(workspace=wanted, actor=actor or "", at=at, by=by), at=at, by=by, **given)
        change.tx.put(QUOTAS, workspace=HOUSE, record=quota, expected_version=version)
    return _tell(session, [quota])


@verb("quotas clear", permission=Permission.OWN)
def clear_quota(session: Session, *, workspace: str | None = None, actor: str | None = None, only: Sequence[str] = ()) -> list[QuotaLine]:
    """Take limits away from the workspace, or from an actor in it: all of them, or some. Returns those that stay.

    ``actor`` is whose, cleared by owners (None: the workspace's as a whole, by admins of the house); ``workspace`` is another one, for admins.
    ``only`` are the limits to take away: cpu-minutes, memory, storage, gpus, runs, requests, weight.
    """
    wanted = _settle(session, workspace, actor, verb_name="quotas clear", known=False)
    for name in only:
        if name not in _FIELDS:
            raise InvalidInput(f"{name[:50]!r} is no limit. Limits: {list(_FIELDS)}.", hint=suggest(name, _FIELDS))
    identity = quota_id(wanted, actor or "")
    detail = {"actor": actor, "only": ", ".join(only) or None}
    with replace(session, workspace=wanted).change("quotas clear", thing=f"quota/{identity}", detail=detail) as change:
        found = change.tx.get_versioned(QUOTAS, workspace=HOUSE, id=identity)
        if found is None:
            whose = f"'{actor}' in workspace '{wanted}'" if actor else f"workspace '{wanted}'"
            raise NotFound(f"There is no quota of {whose}.", hint="see them: endcap quotas ls")
        blank = Quota(workspace=wanted, actor=actor or "", at=session.now(), by=session.actor.name)
        cleared = [field for name in (only or _FIELDS) for field in _FIELDS[name]]
        left = msgspec.structs.replace(found[0], at=blank.at, by=blank.by, **{field: getattr(blank, field) for field in cleared})
        change.tx.put(QUOTAS, workspace=HOUSE, record=left, expected_version=found[1])
    return _tell(session, [left])


@verb("quotas show", permission=Permission.READ)
def show_quota(session: Session, *, workspace: str | None = None, actor: str | None = None) -> list[QuotaLine]:
    """What the workspace may use and what is used, and the same of oneself in it: limit, used, left, who set it, when it begins anew.

    ``actor`` is somebody else, for owners; ``workspace`` is another one, for admins of the house. Nothing listed is nothing limited.
    """
    wanted = settle_workspace(session, workspace, verb="quotas show")
    if actor is not None and actor != session.actor.name:
        session.require(Permission.OWN, verb="quotas show")
    found = [session.ports.records.get(QUOTAS, workspace=HOUSE, id=quota_id(wanted, whose)) for whose in ("", actor or session.actor.name)]
    return _tell(session, [quota for quota in found if quota is not None])


@verb("quotas ls", permission=Permission.READ)
def list_quotas(session: Session, *, everywhere: bool = False) -> list[QuotaLine]:
    """The limits of the workspace and of all in it, for its owners; for others those of the workspace and their own.

    ``everywhere`` is those of all workspaces, for admins of the house. Cost grows with the quotas and with what was used in their periods.
    """
    if everywhere:
        session.require_admin(verb="quotas ls")
        return _tell(session, session.ports.records.find(QUOTAS, workspace=HOUSE))
    found = session.ports.records.find(QUOTAS, workspace=HOUSE, where={"workspace": session.workspace})
    whole = Permission.OWN in permissions_of(session.role)
    return _tell(session, [quota for quota in found if whole or quota.actor in ("", session.actor.name)])


def _settle(session: Session, workspace: str | None, actor: str | None, *, verb_name: str, known: bool = True) -> str:
    """The workspace that is meant; raises unless who asks may settle its quota, or that of the actor in it."""
    wanted = settle_workspace(session, workspace, verb=verb_name)
    if actor is None:
        session.require_admin(verb=verb_name)
    elif known and has_users(session.ports.records) and actor != SYSTEM.name:
        find_user(session.ports.records, actor, asked_by=session)
    elif known and (not actor.strip() or len(actor) > 100 or not actor.isprintable() or "/" in actor):
        require_name(actor, what="actor")
    return wanted


def _read_given(
    cpu_minutes: str | None,
    memory: str | None,
    storage: str | None,
    *,
    gpus: int | None,
    runs: int | None,
    requests: str | None,
    weight: float | None,
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if cpu_minutes is not None:
        given["cpu_minutes"], given["cpu_per"] = parse_cpu_minutes(cpu_minutes)
    if memory is not None:
        given["memory"] = parse_bytes(memory, what="memory")
    if storage is not None:
        given["storage"] = parse_bytes(storage, what="storage")
    if gpus is not None:
        given["gpus"] = require_count(gpus, what="gpus", at_least=0)
    if runs is not None:
        given["runs"] = require_count(runs, what="runs", at_least=1)
    if requests is not None:
        given["requests"], given["requests_per_s"] = parse_requests(requests)
    if weight is not None:
        given["weight"] = require_weight(weight)
    return given


def _tell(session: Session, quotas: Sequence[Quota]) -> list[QuotaLine]:
    """The limits of quotas, the workspace's before its actors', each with what is used of it."""
    running = session.ports.records.find(PLACES, workspace=HOUSE, where={"state": "running"}) if quotas else []
    return [line for quota in sorted(quotas, key=lambda quota: (quota.workspace, quota.actor)) for line in _tell_quota(session, quota, running)]


def _tell_quota(session: Session, quota: Quota, running: Sequence[Place]) -> list[QuotaLine]:
    own = [place for place in running if place.workspace == quota.workspace and quota.actor in ("", place.actor)]
    now, lines = session.now(), []

    def add(limit: str, allowed: float | None, per: str, used: float | None, renews_at: datetime | None = None) -> None:
        if allowed is not None:
            left = None if used is None else max(0.0, allowed - used)
            whose: dict[str, Any] = {"workspace": quota.workspace, "actor": quota.actor, "by": quota.by, "at": quota.at}
            lines.append(QuotaLine(limit=limit, allowed=allowed, per=per, used=used, left=left, renews_at=renews_at, **whose))

    if quota.cpu_minutes is not None:
        used = sum_cpu_s(session.ports.records, quota.workspace, actor=quota.actor, at=now, per=quota.cpu_per) / 60
        add("cpu-minutes", quota.cpu_minutes, quota.cpu_per, round(used, 3), find_renewal(now, quota.cpu_per))
    add("memory", quota.memory, "run", None)
    if quota.storage is not None:
        add("storage", quota.storage, "at rest", sum_storage(session.ports.records, quota.workspace, actor=quota.actor))
    add("gpus", quota.gpus, "at once", sum(place.gpus for place in own))
    add("runs", quota.runs, "at once", len(own))
    add("requests", quota.requests, f"{quota.requests_per_s:g} s", None)
    add("weight", quota.weight if quota.weight != 1.0 else None, "share", None)
    return lines
