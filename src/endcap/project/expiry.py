"""What has lived longer than it may, log by log, and what is kept all the same because something leans on it.

Each log gives what expired as ``Expired``: whole partitions, and the records that name them. Records go first, in a transaction, so that nobody reads
what is about to go; a process may be killed between the two, and the next sweep finds partitions that no record names. What answers, is pinned,
waits for an approval or is held for the law is kept, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec

from endcap.core.durations import parse_duration
from endcap.governance.privacy.records import LEGAL_HOLDS
from endcap.governance.records import HOUSE, NOTICE_DELIVERIES, NOTICES
from endcap.governance.sessions import Session
from endcap.governance.signin.records import PAGE_SESSION_USES, PAGE_SESSIONS, SIGNED_OUT, USED_STATES
from endcap.loop.data.records import INGESTS, QUARANTINE
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Batch
from endcap.loop.features.kept.feature_batches import place
from endcap.loop.features.online import name_space
from endcap.loop.features.records import (
    MATERIALISATIONS,
    MATERIALISED,
    NEWEST,
    PUSH_MERGES,
    PUSHED,
    PUSHES,
    SNAPSHOTS,
    TILES,
    TRAINING_SETS,
    VIEW_HEADS,
    VIEW_VERSIONS,
)
from endcap.loop.features.training_sets import TRAINING_ROWS
from endcap.loop.monitoring.records import OUTCOME_SUMS, OUTCOMES
from endcap.loop.registry.live import find_live_releases
from endcap.loop.registry.records import APPROVAL_REQUESTS, MODELS, PINS, VERSIONS
from endcap.storage.ports import Kind
from endcap.storage.tracks import Condition

_AT_ONCE = 1000
_OF_VIEWS = (MATERIALISED, NEWEST, TILES, PUSHED)
_OF_BATCHES = (PREDICTIONS, OUTCOMES, OUTCOME_SUMS)
_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


class KeptThing(msgspec.Struct, frozen=True):
    """Something older than its period that is kept, and why."""

    log: str
    thing: str
    why: str


@dataclass
class Expired:
    """What goes of one log: records by kind and id, partitions by dataset, and what else there is to be dropped. ``n`` counts things as people do."""

    log: str
    n: int = 0
    records: list[tuple[Kind[Any], str, str]] = field(default_factory=list)
    partitions: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    drops: list[Callable[[], object]] = field(default_factory=list)
    kept: list[KeptThing] = field(default_factory=list)

    def keep(self, thing: str, why: str) -> None:
        self.kept.append(KeptThing(self.log, thing, why))


@dataclass(frozen=True)
class Leaning:
    """What leans on what, in a workspace as it is now."""

    session: Session

    @cached_property
    def held(self) -> dict[str, str]:
        """Things held for the law, with the reason."""
        found = self.session.records.find(LEGAL_HOLDS, workspace=self.session.workspace)
        return {hold.id: f"held for the law: {hold.reason}" for hold in found if hold.lifted_at is None}

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions that answer, are pinned or wait for an approval, with why they count."""
        session, found = self.session, dict[str, str]()
        for model in session.records.find(MODELS, workspace=session.workspace):
            pinned = any(pin.until is None for pin in session.records.find(PINS, workspace=session.workspace, where={"model": model.name}))
            for live in find_live_releases(session, model.name):
                found[live.version] = f"{live.version} answers in {live.environment}{', and is pinned' if pinned else ''}"
        for asked in session.records.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"status": "pending"}):
            found.setdefault(asked.version, f"{asked.version} waits at its gate for approvals")
        return found

    @cached_property
    def views(self) -> dict[str, str]:
        """The versions of views (``name@version``) that something leans on."""
        session = self.session
        found = {f"{head.name}@{head.version}": "it stands" for head in session.records.find(VIEW_HEADS, workspace=session.workspace)}
        for version in self._leaning_versions():
            for name, own in version.views.items():
                found.setdefault(f"{name}@{own}", self.versions[version.id])
        return found

    @cached_property
    def training_sets(self) -> dict[str, str]:
        return {version.training_set: self.versions[version.id] for version in self._leaning_versions() if version.training_set}

    @cached_property
    def runs(self) -> dict[str, str]:
        """Runs of which a version was made: they are its evidence."""
        found: dict[str, str] = {}
        for version in self.session.records.find(VERSIONS, workspace=self.session.workspace):
            found[version.run] = f"version {version.id} was made by it"
            if version.source.startswith("run/"):
                found[version.source.split("/")[1]] = f"version {version.id} was logged there"
        return found

    def _leaning_versions(self) -> Iterator[Any]:
        for name in self.versions:
            version = self.session.records.get(VERSIONS, workspace=self.session.workspace, id=name)
            if version is not None:
                yield version


def find_predictions(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """Batches of the prediction log that were made before an instant, with their outcomes. The newest of each model stays, of what is pinned all."""
    found = Expired("predictions")
    newest: dict[str, Batch] = {}
    batches = session.records.find(BATCHES, workspace=session.workspace)
    for batch in batches:
        if batch.model not in newest or batch.moment >= newest[batch.model].moment:
            newest[batch.model] = batch
    for batch in batches:
        if batch.predicted_at >= before:
            continue
        why = leaning.held.get(f"model/{batch.model}") or ("it answers now" if batch.moment == newest[batch.model].moment else None)
        why = why or next((said for name, said in leaning.versions.items() if name == batch.version and ("pinned" in said or "waits" in said)), None)
        if why is not None:
            found.keep(f"batch/{batch.id}", why)
            continue
        found.n += 1
        found.records += [(BATCHES, session.workspace, batch.id), (ANSWERED, session.workspace, batch.answered)]
    gone = {identity for kind, _, identity in found.records if kind is BATCHES}
    named = {tuple(batch.partition.items()) for batch in batches if batch.id not in gone}
    for dataset in _OF_BATCHES:
        for own in session.tables.partitions(dataset, partition={"workspace": session.workspace}):
            place_ = tuple((name, own[name]) for name in ("workspace", "model", "origin", "version", "data"))
            if place_ not in named and own["origin"][:10] < before.date().isoformat():  # those that a kill left without a record, too
                found.partitions.append((dataset, own))
    return found


def find_features(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """What is kept of versions of views that others took the place of, and that nothing reads which answers."""
    found, workspace = Expired("features"), session.workspace
    for version in session.records.find(VIEW_VERSIONS, workspace=workspace):
        at = place(session, version)
        there = [(dataset, own) for dataset in _OF_VIEWS for own in session.tables.partitions(dataset, partition=at)]
        where = {"view": version.name, "version": version.version}
        batches = session.records.find(MATERIALISATIONS, workspace=workspace, where=where)
        since = max([version.at, *(batch.at for batch in batches)])
        if not there and not batches:
            continue
        why = leaning.held.get(f"view/{version.name}") or leaning.views.get(version.id)
        if why is not None or since >= before:
            if since < before and why != "it stands":
                found.keep(f"view/{version.id}", why or "")
            continue
        found.n += 1
        found.partitions += there
        found.records += [(MATERIALISATIONS, workspace, batch.id) for batch in batches]
        found.records += [(SNAPSHOTS, workspace, one.id) for one in session.records.find(SNAPSHOTS, workspace=workspace, where=where)]
        found.records += [(PUSHES, workspace, one.id) for one in session.records.find(PUSHES, workspace=workspace, where=where)]
        for removed in (False, True):
            merges = session.records.find(PUSH_MERGES, workspace=workspace, where={**where, "removed": removed})
            found.records += [(PUSH_MERGES, workspace, merge.id) for merge in merges]
        space = name_space(session, version)
        found.drops.append(lambda space=space: session.online.drop(space))  # type: ignore[misc]  # bound at once
    return found


def find_snapshots(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """Profiles of what views looked like; the newest of each version stays."""
    found, last = Expired("snapshots"), dict[tuple[str, str], str]()
    snapshots = session.records.find(SNAPSHOTS, workspace=session.workspace)
    for snapshot in snapshots:
        last[snapshot.view, snapshot.version] = snapshot.id
    for snapshot in snapshots:
        if snapshot.at >= before or last[snapshot.view, snapshot.version] == snapshot.id:
            continue
        why = leaning.held.get(f"view/{snapshot.view}")
        if why is not None:
            found.keep(f"snapshot/{snapshot.id}", why)
            continue
        found.n += 1
        found.records.append((SNAPSHOTS, session.workspace, snapshot.id))
    return found


def find_training_sets(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """Rows of training sets that the house keeps; their records stay, as versions name them."""
    found = Expired("training-sets")
    for record in session.records.find(TRAINING_SETS, workspace=session.workspace):
        if record.at >= before or record.path is not None:
            continue
        there = session.tables.partitions(TRAINING_ROWS, partition={"workspace": session.workspace, "training_set": record.id})
        why = leaning.held.get(f"training-set/{record.id}") or leaning.training_sets.get(record.id) or leaning.training_sets.get(record.identity)
        if there and why is not None:
            found.keep(f"training-set/{record.id}", why)
        elif there:
            found.n += 1
            found.partitions += [(TRAINING_ROWS, own) for own in there]
    return found


def find_runs(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """Tracked runs that ended before an instant, with their metrics."""
    found, gone = Expired("runs"), list[str]()
    until_us = (before - _ZERO) // timedelta(microseconds=1)
    skip = 0
    while True:
        conditions = [Condition("attribute", "ended_us", "<", until_us)]
        some = session.tracks.search(session.workspace, conditions=conditions, stage=None, limit=_AT_ONCE, skip=skip)
        for track in some:
            why = leaning.held.get(f"run/{track.id}") or leaning.runs.get(track.id)
            if why is not None:
                found.keep(f"run/{track.id}", why)
            else:
                gone.append(track.id)
        skip += len(some)
        if len(some) < _AT_ONCE:
            break
    found.n = len(gone)
    if gone:
        found.drops.append(lambda: session.tracks.delete(session.workspace, gone))
    return found


def find_notices(session: Session, leaning: Leaning, before: datetime) -> Expired:
    """Notices, and what was sent of them; what waits to be sent stays."""
    found = Expired("notices")
    for notice in session.records.find(NOTICES, workspace=session.workspace):
        if notice.at >= before:
            continue
        sent = session.ports.records.find(NOTICE_DELIVERIES, workspace=HOUSE, where={"notice": notice.id})
        why = leaning.held.get(notice.thing) or ("it waits to be sent" if any(one.state == "waiting" for one in sent) else None)
        if why is not None:
            found.keep(f"notice/{notice.id}", why)
            continue
        found.n += 1
        found.records.append((NOTICES, session.workspace, notice.id))
        found.records += [(NOTICE_DELIVERIES, HOUSE, one.id) for one in sent]
    return found


def find_sessions(session: Session, _: Leaning, before: datetime) -> Expired:
    """Sessions of pages that ended or expired before an instant, of the whole house, and the marks of sign-ins that were used up before it."""
    found = Expired("sessions")
    for one in session.ports.records.find(PAGE_SESSIONS, workspace=HOUSE):
        if min(one.expires_at, one.ended_at or one.expires_at) < before:
            found.n += 1
            found.records += [(PAGE_SESSIONS, HOUSE, one.id), (PAGE_SESSION_USES, HOUSE, one.id)]
    used = session.ports.records.find(USED_STATES, workspace=HOUSE)  # each was refused for its age long before
    found.records += [(USED_STATES, HOUSE, one.id) for one in used if one.at < before]
    signed_out = session.ports.records.find(SIGNED_OUT, workspace=HOUSE)  # as these: what they are held against is younger
    found.records += [(SIGNED_OUT, HOUSE, one.id) for one in signed_out if one.at < before]
    return found


def find_quarantine(session: Session, leaning: Leaning, before: datetime, *, tables: dict[str, str], now: datetime) -> Expired:
    """Rows put aside by ingests that are too old, by the workspace's period or their table's own. What the standing ingest leaves out stays."""
    found, leans = Expired("quarantine"), dict[str, set[str]]()
    for partition in session.tables.partitions(QUARANTINE, partition={"workspace": session.workspace}):
        table, ingest = partition["table"], partition["ingest"]
        record = session.records.get(INGESTS, workspace=session.workspace, id=ingest)
        limit = max(before, now - parse_duration(tables[table])) if table in tables else before
        if record is not None and record.at >= limit:
            continue
        if table not in leans:
            leans[table] = _find_leaning_ingests(session, table)
        why = leaning.held.get(f"table/{table}") or ("the standing ingest leaves these rows out" if ingest in leans[table] else None)
        if why is not None:
            found.keep(f"quarantine/{table}/{ingest}", why)
            continue
        found.n += 1
        found.partitions.append((QUARANTINE, partition))
    return found


def _find_leaning_ingests(session: Session, table: str) -> set[str]:
    records = session.records.find(INGESTS, workspace=session.workspace, where={"table": table}, newest_first=True)
    standing = next((record for record in records if record.status == "accepted"), None)
    return {facts.ingest for facts in standing.facts if facts.n_quarantined} if standing is not None else set()


def remove_expired(session: Session, expired: Sequence[Expired]) -> None:
    """Take away what expired: records in transactions of a thousand, then partitions, then the rest. Doing it again changes nothing."""
    for log in expired:
        for first in range(0, len(log.records), _AT_ONCE):
            with session.ports.records.transact() as tx:
                for kind, workspace, identity in log.records[first : first + _AT_ONCE]:
                    tx.remove(kind, workspace=workspace, ids=[identity])
        for dataset, partition in log.partitions:
            session.tables.delete(dataset, partition=partition)
        for drop in log.drops:
            drop()
