"""The page of a forecast: what the reports of daily and of hourly models share.

One HTML page that needs nothing else, read from the records and stores alone. Nothing on it is computed for show; the same records give the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.zones import load_zone
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.deployment.records import Batch
from endcap.loop.evaluation.records import CheckResult, Metrics, SliceMetrics, Verdict, name_metric
from endcap.loop.monitoring.records import INCIDENTS, READINGS, Incident, Reading
from endcap.loop.registry.records import PROD, RELEASES, VERSIONS, Release, Version
from endcap.loop.registry.releases import get_champion, is_move
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting import plots
from endcap.solutions.forecasting.member_report import describe_members
from endcap.solutions.forecasting.plots import Timeline, format_day, format_number, format_percent, format_signed
from endcap.storage.files import delivering

_SHOWN_MEMBERS = 10
_SHOWN_LABELS = 20
_SHOWN_FILES = 10
_NEWEST_READINGS = 200
_NEWEST_VERSIONS = 50
_SHARES = ("wape", "rmspe", "day_wape")
_DAILY_COLUMNS = ("wape", "mae", "rmsse", "rmspe")
_HOURLY_COLUMNS = ("rmse", "crps", "day_wape", "wape")
_SAID = {"wape": "WAPE (sum of absolute errors over sum of actual values)", "day_wape": "WAPE of each series' sums by day"}
_SORTED_ALREADY = ("weekday", "day ahead", "origin")

Doubles = NDArray[np.float64]
Days = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class Told:
    """What the records say of a batch: the version that made it, its verdict, and what happened to its model."""

    session: Session
    data: DataRef
    batch: Batch
    version: Version
    verdict: Verdict | None
    releases: list[Release]
    readings: list[Reading]
    incidents: list[Incident]

    def local(self, instant: datetime) -> datetime:
        return instant.astimezone(load_zone(self.batch.zone))

    def say(self, instant: datetime) -> str:
        local = self.local(instant)
        return f"{format_day(local.date())}, {local:%H:%M}"

    @property
    def standing(self) -> str:
        """Whether the version answers, in words."""
        champion = get_champion(self.session, self.batch.model)
        released = [release for release in self.releases if release.version == self.version.id]
        if champion is not None and champion.version == self.version.id:
            return f"champion since {self.say(champion.since)}"
        return f"released on {self.say(released[-1].at)}, no longer the champion" if released else "never released"

    def best_baseline(self, metric: str) -> tuple[str, float] | None:
        """The baseline of the least error on the judged rows, and its figure; None when none was scored."""
        figures = {name: getattr(self.version.leaderboard[name], metric) for name in self.version.baselines if name in self.version.leaderboard}
        return min(((name, figure) for name, figure in figures.items() if figure is not None), key=lambda pair: pair[1], default=None)


def read_told(session: Session, data: DataRef, batch: Batch) -> Told:
    """Read the records of a batch. Raises NotFound for a version that is gone."""
    workspace, where = session.workspace, {"model": batch.model}
    version = get_version(session, batch.version)
    return Told(
        session=session,
        data=data,
        batch=batch,
        version=version,
        verdict=latest_verdict(session, version.id),
        releases=[row for row in session.records.find(RELEASES, workspace=workspace, where=where) if row.environment == PROD and is_move(row)],
        readings=session.records.find(READINGS, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_READINGS)[::-1],
        incidents=session.records.find(INCIDENTS, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_READINGS)[::-1],
    )


def say_against(told: Told, metric: str) -> str:
    """Beside a version's figure: that of its best baseline."""
    best = told.best_baseline(metric)
    if best is None:
        return "no baseline was scored"
    if best[0] == told.version.candidate:
        return "it is itself the best baseline"
    return f"best baseline, {best[0]}: {format_figure(metric, best[1])}"


def describe_candidates(told: Told, *, metric: str, chosen_on: str, hourly: bool) -> dict[str, Any]:
    """The leaderboard as bars of the gate's metric and as a table of all figures."""
    version, board = told.version, ""
    names = list(version.leaderboard)
    if names:
        figures = [getattr(version.leaderboard[name], metric) for name in names]
        label = f"{name_metric(metric)} of every candidate on the judged rows"
        board = plots.plot_leaderboard(
            names,
            figures,
            baselines=version.baselines,
            chosen=version.candidate,
            write=lambda figure: format_figure(metric, figure),
            name="leaderboard",
            label=label,
        )
    columns: tuple[str, ...] = _HOURLY_COLUMNS if hourly else _DAILY_COLUMNS
    columns = columns if metric in columns else (metric, *columns)

    def rank(item: tuple[str, Metrics]) -> tuple[bool, float]:
        figure: float | None = getattr(item[1], metric)
        return figure is None, figure or 0.0

    rows = [
        {
            "name": name,
            "chosen": name == version.candidate,
            "baseline": name in version.baselines,
            "figures": [*(format_figure(column, getattr(m, column)) for column in columns), *_shares(m), format_percent(m.width_90), f"{m.n:,}"],
        }
        for name, m in sorted(version.leaderboard.items(), key=rank)
    ]
    return {
        "metric": name_metric(metric),
        "metric_said": _SAID.get(metric, name_metric(metric)),
        "leaderboard": board,
        "columns": [*map(name_metric, columns), "bias", "in 90 %", "width", "rows"],
        "candidates": rows,
        "chosen_on": chosen_on,
    }


def describe_gate(told: Told) -> dict[str, Any]:
    """The verdict with every figure and limit, and which versions of the same run were refused, why."""
    verdict = told.verdict
    checks = [_check(check, place) for place, check in enumerate(verdict.checks)] if verdict else []
    near = told.session.records.find(
        VERSIONS, workspace=told.session.workspace, where={"model": told.batch.model}, newest_first=True, limit=_NEWEST_VERSIONS
    )
    rivals = [(v, latest_verdict(told.session, v.id)) for v in near[::-1] if v.run == told.version.run and v.id != told.version.id]
    return {
        "refused": [(v.id, v.candidate, judged.sentence) for v, judged in rivals if judged is not None and not judged.passed],
        "verdict": verdict,
        "verdict_at": told.say(verdict.at) if verdict else "",
        "checks": checks,
        "drawn_checks": any(check["plot"] for check in checks),
    }


def _check(check: CheckResult, place: int) -> dict[str, Any]:
    plot, figure = "", "–"
    if check.figure is not None:
        figure = _say_check(check, check.figure)
        if check.lower is not None and check.upper is not None:
            if _is_ratio(check):
                label = f"{check.check}: ratio {check.figure:.3f}, interval {check.lower:.3f} to {check.upper:.3f}"
                plot = plots.plot_ratio(check.figure, check.lower, check.upper, passed=check.passed, name=f"check-{place}", label=label)
            figure = f"{figure} ({_say_check(check, check.lower)} to {_say_check(check, check.upper)})"
    return {"check": check.check, "passed": check.passed, "figure": figure, "limit": check.limit, "sentence": check.sentence, "plot": plot}


def _is_ratio(check: CheckResult) -> bool:
    return "against" in check.check


def _say_check(check: CheckResult, figure: float) -> str:
    if _is_ratio(check):
        return f"{figure:.3f}"
    if check.check == "bias":
        return format_signed(figure)
    return format_percent(figure, 2) if check.check in ("coverage_90", *_SHARES) else format_number(figure)


def describe_slices(version: Version, *, metric: str, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each way of slicing with its plot and table; of members those with the most error, of a column's labels those with the most rows."""
    groups: dict[str, list[SliceMetrics]] = {}
    for entry in version.slices:
        if entry.by in without:
            continue
        groups.setdefault(entry.by, []).append(entry)

    def write(figure: float | None) -> str:
        return format_figure(metric, figure)

    found = []
    for place, (by, entries) in enumerate(groups.items()):
        kept = _shorten(by, entries)
        labels = [entry.value for entry in kept]
        label = f"{name_metric(metric)} and bias by {by}"
        errors, bias = [getattr(e.metrics, metric) for e in kept], [e.metrics.bias for e in kept]
        found.append(
            {
                "by": by,
                "n_shown": len(kept),
                "n": len(entries),
                "plot": plots.plot_slices(labels, errors, bias, title=name_metric(metric), write=write, name=f"slices-{place}", label=label),
                "rows": [{"name": e.value, "figures": [write(getattr(e.metrics, metric)), *_shares(e.metrics), f"{e.metrics.n:,}"]} for e in kept],
            }
        )
    return found


def _shorten(by: str, entries: list[SliceMetrics]) -> list[SliceMetrics]:
    if by == "member":
        return entries[:_SHOWN_MEMBERS]  # they stand in the order of their error
    if by in _SORTED_ALREADY:
        return entries
    kept = sorted(entries, key=lambda entry: -entry.metrics.n)[:_SHOWN_LABELS]
    whole = all(entry.value.isdecimal() for entry in kept)
    return sorted(kept, key=lambda entry: (int(entry.value) if whole else 0, entry.value))


def describe_live(told: Told, *, daily: Mapping[str, tuple[Days, Doubles]]) -> dict[str, Any]:
    """The timeline, where there is something to see on it. ``daily`` is the error of each day, by metric: days, and a figure for each."""
    if not told.readings and len(told.releases) < 2 and not any(days.size for days, _ in daily.values()):
        return {"timelines": [], "n_unread": 0, "incidents": []}
    metrics = list(dict.fromkeys(reading.metric for reading in told.readings)) or list(daily)[:1]
    return {
        "timelines": [_timeline(told, metric, place, daily=daily.get(metric)) for place, metric in enumerate(metrics)],
        "n_unread": sum(reading.figure is None for reading in told.readings),
        "incidents": [(told.say(incident.at), incident.sentence, ", ".join(incident.reactions)) for incident in told.incidents[::-1][:10]],
    }


def _timeline(told: Told, metric: str, place: int, *, daily: tuple[Days, Doubles] | None) -> dict[str, Any]:
    def instants(found: Sequence[datetime]) -> NDArray[np.datetime64]:
        return np.array([told.local(at).replace(tzinfo=None) for at in found], dtype="datetime64[us]")

    read = [reading for reading in told.readings if reading.metric == metric and reading.figure is not None]
    label = f"Live {metric} over time, with releases and incidents"
    days, errors = (np.empty(0, "datetime64[us]"), np.empty(0)) if daily is None else daily
    line = Timeline(
        at=instants([reading.at for reading in read]),
        figures=np.array([reading.figure for reading in read], dtype=np.float64),
        limits=np.array([np.nan if reading.limit is None else reading.limit for reading in read], dtype=np.float64),
        breached=np.array([reading.breached for reading in read], dtype=np.bool_),
        releases=tuple((instants([r.at])[0], _short_version(r, told.batch.model)) for r in told.releases),
        incidents=instants([incident.at for incident in told.incidents]),
        daily_days=days.astype("datetime64[us]"),
        daily=errors,
    )
    newest = read[-1] if read else None
    said = "" if newest is None else f"{format_figure(metric, newest.figure)} over {format_day(newest.first)} to {format_day(newest.last)}"
    limit = (
        ""
        if newest is None or newest.limit is None
        else f"{'above' if newest.breached else 'within'} its limit of {format_figure(metric, newest.limit)}"
    )
    plot = plots.plot_timeline(line, metric=metric, name=f"timeline-{place}", label=label)
    return {"metric": name_metric(metric), "newest": said, "limit": limit, "plot": plot, "n": len(read)}


def describe_origins(told: Told) -> dict[str, Any]:
    """Doubts, and where everything comes from."""
    version, session = told.version, told.session
    newest = [note for note in told.data.notes if note not in version.notes]
    tables = []
    for name, identity in version.tables.items():
        ingest = session.records.get(INGESTS, workspace=session.workspace, id=identity)
        tables.append(_table(name, ingest))
    return {
        "notes": version.notes,
        "newest_notes": newest,
        "missing_facts": told.batch.missing_facts,
        **describe_members(session, version),
        "created": f"{told.say(version.created_at)} by {version.created_by}",
        "trained_until": format_day(version.trained_until) if version.trained_until else "–",
        "files": [(file.name, file.kind, _bytes(file.n_bytes), file.sha256[:12]) for file in version.files],
        "training_set": version.training_set[:12],
        "read_set": told.data.digest[:12],
        "tables": tables,
        "lock": sorted(version.lock.items()),
        "releases": [(told.say(r.at), r.version, r.how, r.actor, r.reason, r.verdict_sentence, r.overridden) for r in told.releases[::-1][:20]],
    }


def _table(name: str, ingest: Ingest | None) -> dict[str, Any]:
    if ingest is None:
        return {"name": name, "kept": False}
    files = [(Path(file.path).name, _bytes(file.n_bytes), file.sha256[:12]) for file in ingest.files[:_SHOWN_FILES]]
    bounds = "no event time" if not ingest.first_event else f"{_instant(ingest.first_event)} to {_instant(ingest.last_event or '')}"
    return {"name": name, "kept": True, "n_rows": f"{ingest.n_rows:,}", "bounds": bounds, "files": files, "n_more": len(ingest.files) - len(files)}


def _instant(text: str) -> str:
    return text.removesuffix("T00:00:00").replace("T", " ")


def format_figure(metric: str, figure: float | None) -> str:
    """A figure of a metric: a share in percent, or a number."""
    return (
        format_percent(figure, 1 if metric == "rmspe" else 2)
        if metric in _SHARES
        else format_ratio(figure)
        if metric == "rmsse"
        else format_number(figure)
    )


def format_ratio(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"


def _shares(metrics: Metrics) -> tuple[str, str]:
    return format_signed(metrics.bias), format_percent(metrics.coverage_90)


def say_days(n: int) -> str:
    return "1 day" if n == 1 else f"{n:,} days"


def _bytes(n: int) -> str:
    return f"{n:,} bytes" if n < 10_000 else f"{n / 1e3:,.0f} kB" if n < 10_000_000 else f"{n / 1e6:,.0f} MB"


def _short_version(release: Release, model: str) -> str:
    short = release.version.removeprefix(f"{model}-")
    return f"back to {short}" if release.how == "rollback" else short


def render_page(template: str, context: dict[str, Any]) -> str:
    """The page of a template, named by its path below this package, which extends ``page.html``."""
    from importlib.resources import files

    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("endcap.solutions.forecasting")
    sources = {name: folder.joinpath(*name.split("/")).read_text(encoding="utf-8") for name in ("page.html", template)}
    environment = Environment(loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["drawn"] = Markup  # plots escape what they write themselves
    return environment.get_template(template).render(context)


def write_page(out: Path, page: str) -> None:
    """Write a page to a file, whole or not at all."""
    payload = page.encode(errors="xmlcharrefreplace")
    hint = "give a file in a folder that you may write to"
    with delivering(out, what=f"The report {out}", hint=hint, n_bytes=len(payload)) as file:
        file.write(payload)
