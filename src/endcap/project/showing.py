"""Showing: what there is, and one thing in full."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import msgspec

from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import BATCHES, Batch
from endcap.loop.evaluation.records import VERDICTS, Verdict
from endcap.loop.monitoring.records import INCIDENTS, READINGS, Incident, Reading
from endcap.loop.registry.approvals import list_waiting
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import find_comparison
from endcap.loop.registry.live import LiveRelease, find_live_releases
from endcap.loop.registry.members import summarize_members
from endcap.loop.registry.overrides import OverrideStanding, find_standing_override
from endcap.loop.registry.records import (
    MODELS,
    RELEASES,
    VERSIONS,
    ApprovalView,
    Champion,
    Comparison,
    MemberSummary,
    ModelRecord,
    Pin,
    Retirement,
    Version,
)
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.retirements import find_retirement
from endcap.loop.registry.standings import find_pin
from endcap.loop.registry.versions import find_figure, find_gate_metric, get_model, get_version, latest_verdict
from endcap.pipelines.records import RUNS, Run


class ModelLine(msgspec.Struct, frozen=True):
    """A model in a list. ``figure`` is the champion's of ``metric``, which the model's gate compares; ``override`` is who answers for a champion that
    did not pass it, and ``expired`` where nobody does any more; ``retired`` says since when a model is, or as of when it will be.
    """

    model: str
    champion: str | None
    candidate: str | None
    wape: float | None
    since: datetime | None
    versions: int
    last_run: str | None
    last_origin: str | None
    open_breach: bool
    metric: str = "wape"
    figure: float | None = None
    override: str = ""
    retired: str = ""


class ModelView(msgspec.Struct, frozen=True):
    """A model in full: its definition, what answers, its versions (newest first), the last run, readings, incidents, and its members at a glance.

    ``apart`` counts the members that another version than the champion's answers for, by version; ``comparison`` is the one that runs;
    ``metric`` is what the gate compares, ``figures`` that of each version. ``override`` is what the champion stands on where it did not pass
    its gate, ``pin`` what holds it, ``live`` all that answers in any environment, ``waiting`` what waits for people, ``retirement`` that it ends.
    """

    model: ModelRecord
    champion: Champion | None
    champion_version: Version | None
    verdict: Verdict | None
    versions: tuple[Version, ...]
    last_run: Run | None
    last_batch: Batch | None
    readings: tuple[Reading, ...]
    incidents: tuple[Incident, ...]
    members: MemberSummary | None = None
    apart: dict[str, int] = {}
    comparison: Comparison | None = None
    metric: str = "wape"
    override: OverrideStanding | None = None
    pin: Pin | None = None
    live: tuple[LiveRelease, ...] = ()
    waiting: tuple[ApprovalView, ...] = ()
    figures: dict[str, float | None] = {}
    retirement: Retirement | None = None


class VersionView(msgspec.Struct, frozen=True):
    """A version in full, with the newest verdict on it, whether it answers now, and the metric that its model's gate compares."""

    version: Version
    verdict: Verdict | None
    champion: bool
    members: MemberSummary | None = None
    metric: str = "wape"


@verb("ls", permission=Permission.READ)
def ls(session: Session) -> list[ModelLine]:
    """List the models of the workspace: what answers, since when, how good it was in validation, and whether a watch is breached."""
    return [_line(session, model) for model in session.records.find(MODELS, workspace=session.workspace)]


@verb("show", permission=Permission.READ, lent={"thing": ("version", "model")})
def show(session: Session, thing: str) -> ModelView | VersionView:
    """Show a model (``store-day``) or a version (``store-day-v3``) in full: figures beside the baselines', slices, verdict, members, cost."""
    if session.records.get(VERSIONS, workspace=session.workspace, id=thing) is not None:
        version = get_version(session, thing)
        champion = get_champion(session, version.model)
        answers = champion is not None and champion.version == thing
        metric = find_gate_metric(get_model(session, version.model))
        return VersionView(version, latest_verdict(session, thing), answers, summarize_members(session, version), metric)
    model = get_model(session, thing)
    where = {"model": thing}
    champion = get_champion(session, thing)
    runs = session.records.find(RUNS, workspace=session.workspace, where={"subject": f"model/{thing}"}, newest_first=True, limit=1)
    batches = session.records.find(BATCHES, workspace=session.workspace, where=where, newest_first=True, limit=1)
    standing = get_version(session, champion.version) if champion else None
    versions = tuple(session.records.find(VERSIONS, workspace=session.workspace, where=where, newest_first=True, limit=20))
    metric = find_gate_metric(model)
    return ModelView(
        model,
        champion,
        standing,
        _read_verdict(session, champion) if champion else None,
        versions,
        runs[0] if runs else None,
        batches[0] if batches else None,
        tuple(session.records.find(READINGS, workspace=session.workspace, where=where, newest_first=True, limit=10)),
        tuple(session.records.find(INCIDENTS, workspace=session.workspace, where=where, newest_first=True, limit=10)),
        summarize_members(session, standing) if standing else None,
        _count_apart(session, champion) if champion else {},
        find_comparison(session, thing),
        metric,
        find_standing_override(session, thing),
        find_pin(session, thing),
        find_live_releases(session, thing),
        list_waiting(session, thing),
        {version.id: find_figure(session, version, metric) for version in versions},
        find_retirement(session, thing),
    )


def _read_verdict(session: Session, champion: Champion) -> Verdict | None:
    """The verdict that the champion stands on; what it was judged since, or for other environments, is shown with the version."""
    row = session.records.get(RELEASES, workspace=session.workspace, id=champion.standing[-1].release) if champion.standing else None
    return session.records.get(VERDICTS, workspace=session.workspace, id=row.verdict) if row else latest_verdict(session, champion.version)


def _count_apart(session: Session, champion: Champion) -> dict[str, int]:
    assignment = read_assignment(session, champion)
    if assignment is None:
        return {}
    counts = Counter(assignment.codes.tolist())
    return {version: counts[code] for code, version in enumerate(assignment.versions)}


def _line(session: Session, model: ModelRecord) -> ModelLine:
    where = {"model": model.name}
    champion = get_champion(session, model.name)
    version = get_version(session, champion.version) if champion else None
    runs = session.records.find(RUNS, workspace=session.workspace, where={"subject": f"model/{model.name}"}, newest_first=True, limit=1)
    batches = session.records.find(BATCHES, workspace=session.workspace, where=where, newest_first=True, limit=1)
    readings = session.records.find(READINGS, workspace=session.workspace, where=where, newest_first=True, limit=1)
    metric = find_gate_metric(model)
    override = find_standing_override(session, model.name)
    return ModelLine(
        model=model.name,
        champion=champion.version if champion else None,
        candidate=version.candidate if version else None,
        wape=version.metrics.wape if version else None,
        since=champion.since if champion else None,
        versions=len(session.records.find(VERSIONS, workspace=session.workspace, where=where)),
        last_run=runs[0].status if runs else None,
        last_origin=batches[0].moment if batches else None,
        open_breach=bool(readings and readings[0].breached),
        metric=metric,
        figure=find_figure(session, version, metric) if version else None,
        override="" if override is None else "expired" if override.expired else f"{override.owner} until {override.expires_at:%Y-%m-%d}",
        retired=_describe_retirement(session, model.name),
    )


def _describe_retirement(session: Session, model: str) -> str:
    found = find_retirement(session, model)
    if found is None:
        return ""
    return f"{'RETIRED since' if found.effective_at <= session.now() else 'RETIRES'} {found.effective_at:%Y-%m-%d}"
