"""Insight: what each version and each set of features was worth once it was live, beside what validation promised."""

from __future__ import annotations

import math
from datetime import datetime

import msgspec

from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import name_metric
from endcap.loop.features.records import TRAINING_PROFILES
from endcap.loop.monitoring.records import READINGS, Reading
from endcap.loop.registry.records import PROD, RELEASES, VERSIONS, Release, Version
from endcap.loop.registry.versions import find_figure, find_gate_metric, get_model, latest_verdict

NO_VIEWS = "no feature view"


class LiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a version was worth: ``validation`` as judged, ``live`` as outcomes told while it was watched (None: no outcome yet).

    ``views`` are the feature views it was trained on, at their versions. ``from_`` and ``until`` bound the time in which it was champion of ``prod``
    (None: never; still). ``n_readings`` windows that do not overlap make the live figure, each weighted by its ``n`` outcomes in all.
    ``baseline`` is the validation figure of the best baseline, which stands for doing nothing.
    """

    version: str
    candidate: str
    metric: str
    views: dict[str, str] = {}
    created_at: datetime
    from_: datetime | None = msgspec.field(default=None, name="from")
    until: datetime | None = None
    validation: float | None = None
    baseline: float | None = None
    live: float | None = None
    n: int = 0
    n_readings: int = 0

    @property
    def kept(self) -> float | None:
        """The live figure over the promised one; above 1 the version was worse than promised."""
        return None if self.live is None or not self.validation else self.live / self.validation


class FeatureSetResult(msgspec.Struct, frozen=True, kw_only=True):
    """All versions that were trained on one set of feature views: their mean validation figure, and their live figure weighted by outcomes."""

    views: tuple[str, ...]
    n_versions: int
    n_live: int
    validation: float | None
    live: float | None
    n: int


class Insight(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's versions and feature sets were worth: versions newest first, feature sets by their live figure, best first."""

    model: str
    metric: str
    versions: tuple[LiveResult, ...]
    feature_sets: tuple[FeatureSetResult, ...]


@verb("insight", permission=Permission.READ)
def show_insight(session: Session, model: str) -> Insight:
    """Show what each version and each set of feature views of a model was worth live, beside what validation promised.

    The live figure is that of the model's watch on its gate's metric, over windows that do not overlap. Versions of another time met other days:
    the ratio to their own validation and to the baseline is what compares. Cost: the model's versions, releases and readings.
    """
    metric = find_gate_metric(get_model(session, model))
    where = {"model": model}
    versions = session.records.find(VERSIONS, workspace=session.workspace, where=where, newest_first=True)
    readings: dict[str, list[Reading]] = {}
    for reading in session.records.find(READINGS, workspace=session.workspace, where=where):
        if reading.metric == metric and reading.figure is not None:
            readings.setdefault(reading.version, []).append(reading)
    spans = find_spans(session.records.find(RELEASES, workspace=session.workspace, where=where))
    results = tuple(_weigh(session, version, metric, readings.get(version.id, []), spans.get(version.id)) for version in versions)
    return Insight(model=model, metric=metric, versions=results, feature_sets=_gather(results))


def find_spans(releases: list[Release]) -> dict[str, tuple[datetime, datetime | None]]:
    """From when until when each version was champion of ``prod``, as a model's history tells: from its first time to the end of its last (None:
    it is champion now).
    """
    spans: dict[str, tuple[datetime, datetime | None]] = {}
    standing = ""
    for release in releases:
        champion = release.champion or release.version
        if release.environment != PROD or release.role != "champion" or champion == standing:
            continue
        if standing:
            spans[standing] = (spans[standing][0], release.at)
        spans[champion] = (spans[champion][0] if champion in spans else release.at, None)
        standing = champion
    return spans


def _weigh(session: Session, version: Version, metric: str, readings: list[Reading], span: tuple[datetime, datetime | None] | None) -> LiveResult:
    apart = _choose_apart(readings)
    n = sum(reading.n for reading in apart)
    verdict = latest_verdict(session, version.id)
    judged = verdict.figures if verdict is not None else {}
    boards = [version.leaderboard.get(name) for name in version.baselines]
    scored = [value for found in boards if found is not None and (value := getattr(found, metric, None)) is not None]
    scored += [value for name, value in judged.items() if name.startswith(f"{metric} of ")]
    profile = session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=version.id)
    return LiveResult(
        version=version.id,
        candidate=version.candidate,
        metric=metric,
        views={**version.views, **(profile.views if profile else {})},
        created_at=version.created_at,
        from_=span[0] if span else None,
        until=span[1] if span else None,
        validation=find_figure(session, version, metric),
        baseline=min(scored, default=None),
        live=sum((reading.figure or 0.0) * reading.n for reading in apart) / n if n else None,
        n=n,
        n_readings=len(apart),
    )


def _choose_apart(readings: list[Reading]) -> list[Reading]:
    """Readings whose windows do not overlap, the newest first; of several of one day the last counts."""
    chosen: list[Reading] = []
    for reading in sorted(readings, key=lambda r: (r.last, r.at), reverse=True):
        if not chosen or reading.last < chosen[-1].first:
            chosen.append(reading)
    return chosen


def _gather(results: tuple[LiveResult, ...]) -> tuple[FeatureSetResult, ...]:
    groups: dict[tuple[str, ...], list[LiveResult]] = {}
    for result in results:
        groups.setdefault(tuple(f"{name}@{version}" for name, version in sorted(result.views.items())), []).append(result)
    found = []
    for views, members in groups.items():
        promised = [m.validation for m in members if m.validation is not None]
        n = sum(m.n for m in members)
        found.append(
            FeatureSetResult(
                views=views or (NO_VIEWS,),
                n_versions=len(members),
                n_live=sum(m.live is not None for m in members),
                validation=math.fsum(promised) / len(promised) if promised else None,
                live=math.fsum((m.live or 0.0) * m.n for m in members) / n if n else None,
                n=n,
            )
        )
    return tuple(sorted(found, key=lambda f: (f.live is None, f.live or 0.0, f.validation or 0.0)))


def describe_insight(insight: Insight) -> str:
    """The best set of features in a sentence.

    >>> describe_insight(Insight(model="m", metric="wape", versions=(), feature_sets=()))
    'nothing was trained yet'
    """
    if not insight.feature_sets:
        return "nothing was trained yet"
    best = insight.feature_sets[0]
    if best.live is None:
        return "no outcome has told yet what a version is worth"
    return f"best live {name_metric(insight.metric)} so far: {best.live:.4f} with {', '.join(best.views)} over {best.n:,} outcomes"
