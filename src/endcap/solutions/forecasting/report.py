"""The report of a forecast: one HTML page that needs nothing else, read from the records and stores alone.

Nothing on the page is computed for show: each figure is a record's, or a sum over the panel, the prediction log or the evidence kept with
the version. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.core.zones import load_zone
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch
from endcap.loop.evaluation.records import CheckResult, Metrics, Verdict
from endcap.loop.features.panels import Panel, decode_panel, join_keys
from endcap.loop.monitoring.quality import read_outcomes
from endcap.loop.monitoring.records import INCIDENTS, READINGS, Incident, Reading
from endcap.loop.registry.records import RELEASES, Release, SliceMetrics, Version
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting import plots
from endcap.solutions.forecasting.member_report import describe_members
from endcap.solutions.forecasting.plots import Curve, Timeline, format_day, format_number, format_percent, format_signed
from endcap.solutions.forecasting.task import ForecastTask
from endcap.solutions.forecasting.training import TrialEvidence, decode_evidence
from endcap.storage.files import delivering

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_DAYS = 56
_SHOWN_SERIES = 6
_SHOWN_MEMBERS = 10
_SHOWN_LABELS = 20
_SHOWN_FILES = 10
_NEWEST_READINGS = 200
_NEWEST_BATCHES = 120
_PROMISED = 0.9

Doubles = NDArray[np.float64]
Indexes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Facts:
    """What the page is made from. Grids are n_series x days: ``forecast`` and limits over the targets, ``past`` (forecasts as delivered) and
    ``actual`` over the shown days, ``truth`` over both and what lies between.
    """

    session: Session
    task: ForecastTask
    data: DataRef
    batch: Batch
    version: Version
    verdict: Verdict | None
    evidence: TrialEvidence | None
    panel: Panel
    names: list[str]
    shown: Indexes
    actual: Doubles
    forecast: Doubles
    lower: Doubles
    upper: Doubles
    past: Doubles
    truth_ticks: Indexes
    truth: Doubles | None
    daily_days: NDArray[np.datetime64]
    daily_wape: Doubles
    releases: list[Release]
    readings: list[Reading]
    incidents: list[Incident]

    @property
    def unit(self) -> str:
        return f"{self.task.forecast.target} a day"

    def local(self, instant: datetime) -> datetime:
        return instant.astimezone(load_zone(self.batch.zone))

    def say(self, instant: datetime) -> str:
        local = self.local(instant)
        return f"{format_day(local.date())}, {local:%H:%M}"


def write_report(
    session: Session, task: ForecastTask, data: DataRef, batch: Batch, *, out: Path, truth: pa.Table | None = None, story: Sequence[str] = ()
) -> Path:
    """Write the page of a delivered batch to ``out``, whole or not at all, and return where it stands.

    The version reported on is the one that made the batch. ``out`` is a file; its folders are made, a file that stands there is replaced.
    ``truth`` is the known truth of a simulation: the model's keys, ``ts`` (local) and ``expected``; it is drawn beside the actual values.
    ``story`` is an account in words, shown as a numbered list on top.

    Raises InvalidInput for a ``truth`` without its columns and a place that cannot be written, NotFound and IntegrityBroken where records or
    bytes are gone. Cost: one reading of the panel, the batch, the evidence and the newest outcomes, in whole columns; then a second or so for
    some 20 plots.
    """
    facts = _read(session, task, data, batch, truth=truth)
    page = _render({"story": list(story), **_head(facts), **_answer(facts), **_judging(facts), **_live(facts), **_origins(facts)})
    _write(out, page)
    return out


def _read(session: Session, task: ForecastTask, data: DataRef, batch: Batch, *, truth: pa.Table | None) -> _Facts:
    workspace, where = session.workspace, {"model": batch.model}
    version = get_version(session, batch.version)
    panel = task.read_panel(session, data)
    shown = np.arange(max(0, panel.n_seen - _SHOWN_DAYS), panel.n_seen)
    answers = session.tables.read(PREDICTIONS, partition=batch.partition)
    batches = session.records.find(BATCHES, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_BATCHES)
    forecast, lower, upper = _lay_out(answers, panel, ("forecast", "lower_90", "upper_90"), ticks=panel.targets, what="The prediction log")
    past, daily_days, daily_wape = _read_live(session, batches, panel, shown)
    truth_ticks = np.arange(int(shown[0]) if shown.size else 0, int(panel.targets[-1]) + 1)
    return _Facts(
        session=session,
        task=task,
        data=data,
        batch=batch,
        version=version,
        verdict=latest_verdict(session, version.id),
        evidence=decode_evidence(session.blobs.get(version.evidence)) if version.evidence else None,
        panel=panel,
        names=join_keys(panel.keys),
        shown=shown,
        actual=panel.observed[:, shown].astype(np.float64),
        forecast=forecast,
        lower=lower,
        upper=upper,
        past=past,
        truth_ticks=truth_ticks,
        truth=None if truth is None else _lay_out(truth, panel, ("expected",), ticks=truth_ticks, what="The truth")[0],
        daily_days=daily_days,
        daily_wape=daily_wape,
        releases=session.records.find(RELEASES, workspace=workspace, where=where),
        readings=session.records.find(READINGS, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_READINGS)[::-1],
        incidents=session.records.find(INCIDENTS, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_READINGS)[::-1],
    )


def _read_live(session: Session, batches: list[Batch], panel: Panel, shown: Indexes) -> tuple[Doubles, NDArray[np.datetime64], Doubles]:
    """Forecasts as delivered over the shown days, and the WAPE of each day that has outcomes; of several forecasts of a value the newest counts."""
    days = panel.days(shown)
    past = np.full((panel.n_series, shown.size), np.nan)
    # Cells are assigned in the order of rows, and the last assignment stands.
    rows = read_outcomes(session, sorted(batches, key=lambda batch: (batch.origin, batch.predicted_at)))
    if rows is None:
        return past, days[:0], np.empty(0)
    first = int((min(batch.first for batch in batches) - panel.start).days)
    ticks = np.arange(min(first, panel.n_seen), panel.n_seen)
    forecast, actual = _lay_out(rows, panel, ("forecast", "actual"), ticks=ticks, what="The outcomes")
    common = shown[np.isin(shown, ticks)]
    past[:, np.searchsorted(shown, common)] = forecast[:, np.searchsorted(ticks, common)]
    paired = np.isfinite(forecast) & np.isfinite(actual)
    error = np.where(paired, np.abs(forecast - actual), 0.0).sum(axis=0)
    total = np.where(paired, np.abs(actual), 0.0).sum(axis=0)
    kept = total > 0
    return past, panel.days(ticks[kept]), error[kept] / total[kept]


def _lay_out(table: pa.Table, panel: Panel, columns: Sequence[str], *, ticks: Indexes, what: str) -> list[Doubles]:
    """Columns of a table of keys and ``ts`` as grids n_series x n_ticks, NaN where there is no row. One join, no loop over rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = {*panel.keys, "ts", *columns} - set(table.column_names)
    if missing:
        raise InvalidInput(f"{what} lacks the columns {sorted(missing)}. Columns: {table.column_names}.")
    keys = list(panel.keys)
    text = {f"k{i}": pc.cast(table[key], pa.string()) for i, key in enumerate(keys)}
    rows = pa.table({**text, "row": pa.array(np.arange(table.num_rows))})
    series = pa.table(
        {**{f"k{i}": pa.array(panel.keys[key], pa.string()) for i, key in enumerate(keys)}, "series": pa.array(np.arange(panel.n_series))}
    )
    found = rows.join(series, keys=list(text), join_type="inner").sort_by("row")
    places, row = found["series"].to_numpy(), found["row"].to_numpy()
    days = pc.cast(table["ts"], pa.timestamp("us")).to_numpy().astype("datetime64[D]")[row]
    at = (days - np.datetime64(panel.start, "D")).astype(np.int64) - (int(ticks[0]) if ticks.size else 0)
    inside = (at >= 0) & (at < ticks.size)
    grids = []
    for column in columns:
        grid = np.full((panel.n_series, ticks.size), np.nan)
        grid[places[inside], at[inside]] = pc.cast(table[column], pa.float64()).to_numpy()[row][inside]
        grids.append(grid)
    return grids


def _head(facts: _Facts) -> dict[str, Any]:
    forecast, batch, data, version = facts.task.forecast, facts.batch, facts.data, facts.version
    champion = get_champion(facts.session, batch.model)
    released = [release for release in facts.releases if release.version == version.id]
    if champion is not None and champion.version == version.id:
        standing = f"champion since {facts.say(champion.since)}"
    elif released:
        standing = f"released on {facts.say(released[-1].at)}, no longer the champion"
    else:
        standing = "never released"
    after = f", {_days(forecast.lead_days)} of lead after the origin" if forecast.lead_days else ""
    items = [
        ("Forecasts", f"{forecast.target} of each {', '.join(forecast.keys)}, for each day"),
        ("Reaches", f"{_days(forecast.horizon_days)}, {format_day(batch.first)} to {format_day(batch.last)}{after}"),
        ("Answered by", f"{version.id} ({version.candidate}), {standing}"),
        ("Made from", f"the origin {format_day(batch.origin)}, predicted at {facts.say(batch.predicted_at)}"),
        ("Series", f"{facts.panel.n_series:,}"),
        ("Data", f"{data.n_rows:,} rows, {format_day(data.first_day)} to {format_day(data.last_day)}"),
        ("Zone", batch.zone),
    ]
    return {"model": batch.model, "items": items, "version": version, "candidate": version.candidate, "tiles": _tiles(facts)}


def _tiles(facts: _Facts) -> list[tuple[str, str, str]]:
    """What a reader looks for first, each with what it is measured by."""
    metrics, horizon = facts.version.metrics, facts.panel.horizon
    coming, latest = _total(facts.forecast), _total(facts.actual[:, -horizon:])
    best = min(
        ((name, m.wape) for name, m in facts.version.leaderboard.items() if name in facts.version.baselines and m.wape is not None),
        key=lambda pair: pair[1],
        default=None,
    )
    against = "no baseline was scored" if best is None else f"best baseline, {best[0]}: {format_percent(best[1], 2)}"
    if best is not None and best[0] == facts.version.candidate:
        against = "it is itself the best baseline"
    judged = f"over {metrics.n:,} judged days" if metrics.n else "nothing could be judged"
    n_latest = min(horizon, facts.shown.size)
    return [
        (f"forecast for the coming {_days(horizon)}", format_number(coming), f"the last {_days(n_latest)} seen: {format_number(latest)}"),
        ("WAPE, judged", format_percent(metrics.wape, 2), against),
        ("bias", format_signed(metrics.bias), judged),
        ("inside the 90 % interval", format_percent(metrics.coverage_90), "of the actual values; it promises 90 %"),
    ]


def _answer(facts: _Facts) -> dict[str, Any]:
    """The sum over all series, then some series one by one."""
    everything = slice(None)
    n_gap = int(facts.panel.targets[0]) - facts.panel.n_seen
    gap = f" The gap of {_days(n_gap)} between them is not known yet when the forecast is made." if n_gap else ""
    total = _plot_curve(facts, everything, name="total", label=f"All series of {facts.batch.model}: actual and forecast", wide=True)
    multiples = [
        {
            "title": facts.names[series],
            "why": why,
            "plot": _plot_curve(facts, slice(series, series + 1), name=f"series-{place}", label=f"{facts.names[series]}: actual and forecast"),
        }
        for place, (series, why) in enumerate(choose_series(facts.panel))
    ]
    return {
        "total": total,
        "gap": gap,
        "multiples": multiples,
        "unit": facts.unit,
        "has_truth": facts.truth is not None,
        "n_series": facts.panel.n_series,
    }


def _plot_curve(facts: _Facts, series: slice, *, name: str, label: str, wide: bool = False) -> str:
    panel, origin = facts.panel, np.datetime64(facts.batch.origin, "D")

    def fold(grid: Doubles) -> Doubles:
        return _sum_series(grid[series])

    curve = Curve(
        days=panel.days(facts.shown),
        actual=fold(facts.actual),
        ahead=panel.days(panel.targets),
        forecast=fold(facts.forecast),
        # Quantiles do not add: a sum has no interval that could be read off those of its parts.
        lower=None if wide else fold(facts.lower),
        upper=None if wide else fold(facts.upper),
        past=None if wide else fold(facts.past),
        truth_days=None if facts.truth is None else panel.days(facts.truth_ticks),
        truth=None if facts.truth is None else fold(facts.truth),
    )
    return plots.plot_curve(curve, name=name, label=label, unit=facts.unit, origin=origin, wide=wide)


def choose_series(panel: Panel) -> list[tuple[int, str]]:
    """Up to six series worth a look, each with the reason, by their latest 56 days: the largest, the one in the middle, the most volatile, a new one
    where there is one, the smallest, one large and one small between. Of few series all. O(n_series x 56).
    """
    latest = panel.observed[:, -_SHOWN_DAYS:].astype(np.float64)
    seen = np.isfinite(latest)
    n = seen.sum(axis=1)
    mean = np.divide(np.where(seen, latest, 0.0).sum(axis=1), n, out=np.zeros(panel.n_series), where=n > 0)
    spread = np.sqrt(np.divide((np.where(seen, latest - mean[:, None], 0.0) ** 2).sum(axis=1), n, out=np.zeros(panel.n_series), where=n > 0))
    begun = np.isfinite(panel.observed[:, :-_SHOWN_DAYS]).any(axis=1) | (panel.n_seen <= _SHOWN_DAYS)
    fresh, unseen = np.flatnonzero(~begun & (n > 0)), np.flatnonzero(n == 0)
    known = np.flatnonzero(begun & (n > 0))
    order = known[np.argsort(-mean[known], kind="stable")]
    wanted: list[tuple[int, str]] = []
    if order.size:
        volatility = np.where(mean[order] > 0, spread[order] / np.where(mean[order] > 0, mean[order], 1.0), 0.0)
        enough = volatility * (n[order] >= min(14, int(n.max())))
        wanted += [(int(order[0]), "the largest"), (int(order[order.size // 2]), "the one in the middle")]
        wanted.append((int(order[int(np.argmax(enough))]), "the most volatile"))
    wanted += [(int(series), "new in these weeks") for series in fresh[:1]]
    wanted += [(int(series), "nothing seen in these weeks") for series in unseen[:1]]
    if order.size:
        wanted += [(int(order[-1]), "the smallest"), (int(order[order.size // 4]), "a large one"), (int(order[3 * order.size // 4]), "a small one")]
        wanted.append((int(order[order.size // 8]), "another large one"))
    if panel.n_series <= _SHOWN_SERIES:
        wanted += [(series, "") for series in range(panel.n_series)]
    chosen: dict[int, str] = {}
    for series, why in wanted:
        chosen.setdefault(series, why)
    return list(chosen.items())[:_SHOWN_SERIES]


def _judging(facts: _Facts) -> dict[str, Any]:
    version = facts.version
    names = list(version.leaderboard)
    board = ""
    if names:
        figures = [version.leaderboard[name].wape for name in names]
        label = "WAPE of every candidate on the judged rows"
        board = plots.plot_leaderboard(names, figures, baselines=version.baselines, chosen=version.candidate, name="leaderboard", label=label)
    ranked = sorted(version.leaderboard.items(), key=lambda item: (item[1].wape is None, item[1].wape or 0.0))
    rows = [
        {"name": name, "chosen": name == version.candidate, "baseline": name in version.baselines, **_figures(metrics)} for name, metrics in ranked
    ]
    verdict = facts.verdict
    checks = [_check(check, place) for place, check in enumerate(verdict.checks)] if verdict else []
    return {
        "leaderboard": board,
        "candidates": rows,
        "chosen_on": _say_choice(facts),
        "verdict": verdict,
        "verdict_at": facts.say(verdict.at) if verdict else "",
        "checks": checks,
        "drawn_checks": any(check["plot"] for check in checks),
        "slices": _slices(version),
        "coverage": _coverage(version),
        **_evidence(facts),
    }


def _say_choice(facts: _Facts) -> str:
    """On which rows the choice was made, as far as the evidence says."""
    if facts.evidence is None or facts.version.candidate in facts.version.baselines:
        return ""
    older = facts.evidence.n_choosing > 0
    return "The choice was made on older rows than these." if older else "The history is short: the choice was made on these rows."


def _check(check: CheckResult, place: int) -> dict[str, Any]:
    plot, figure = "", "–"
    if check.figure is not None:
        ratio = "against" in check.check
        share = check.check in ("bias", "coverage_90", "wape", "rmspe")
        figure = f"{check.figure:.3f}" if ratio else format_signed(check.figure) if check.check == "bias" else format_percent(check.figure, 2)
        if not ratio and not share:
            figure = format_number(check.figure)
        if check.lower is not None and check.upper is not None:
            label = f"{check.check}: ratio {check.figure:.3f}, interval {check.lower:.3f} to {check.upper:.3f}"
            plot = plots.plot_ratio(check.figure, check.lower, check.upper, passed=check.passed, name=f"check-{place}", label=label)
            figure = f"{figure} ({check.lower:.3f} to {check.upper:.3f})"
    return {"check": check.check, "passed": check.passed, "figure": figure, "limit": check.limit, "sentence": check.sentence, "plot": plot}


def _slices(version: Version) -> list[dict[str, Any]]:
    """Each way of slicing with its plot and table; of members those with the most error, of a column's labels those with the most rows."""
    groups: dict[str, list[SliceMetrics]] = {}
    for entry in version.slices:
        groups.setdefault(entry.by, []).append(entry)
    found = []
    for place, (by, entries) in enumerate(groups.items()):
        kept = _shorten(by, entries)
        labels = [entry.value for entry in kept]
        label = f"WAPE and bias by {by}"
        wape, bias = [e.metrics.wape for e in kept], [e.metrics.bias for e in kept]
        found.append(
            {
                "by": by,
                "n_shown": len(kept),
                "n": len(entries),
                "plot": plots.plot_slices(labels, wape, bias, name=f"slices-{place}", label=label),
                "rows": [{"name": entry.value, **_figures(entry.metrics)} for entry in kept],
            }
        )
    return found


def _shorten(by: str, entries: list[SliceMetrics]) -> list[SliceMetrics]:
    if by == "member":
        return entries[:_SHOWN_MEMBERS]  # they stand in the order of their error
    if by in ("weekday", "day ahead"):
        return entries
    kept = sorted(entries, key=lambda entry: -entry.metrics.n)[:_SHOWN_LABELS]
    whole = all(entry.value.isdecimal() for entry in kept)
    return sorted(kept, key=lambda entry: (int(entry.value) if whole else 0, entry.value))


def _coverage(version: Version) -> str:
    days = [entry for entry in version.slices if entry.by == "weekday"]
    if not any(entry.metrics.coverage_90 is not None for entry in days):
        return ""
    shares = [entry.metrics.coverage_90 for entry in days]
    label = "Coverage of the 90 % interval by weekday"
    return plots.plot_coverage([entry.value for entry in days], shares, promised=_PROMISED, name="coverage", label=label)


def _evidence(facts: _Facts) -> dict[str, Any]:
    """Judged back-test rows: sums by origin and day, and every row against its forecast."""
    evidence, version, unit = facts.evidence, facts.version, facts.unit
    nothing = {"judged_total": "", "agreement": "", "n_judged": 0, "n_judged_origins": 0, "judged_rival": ""}
    if evidence is None or evidence.candidate not in evidence.forecasts:
        return nothing
    judged = slice(evidence.n_choosing, None)
    actual, forecast = evidence.actual[:, judged], evidence.forecasts[evidence.candidate][:, judged]
    paired = np.isfinite(actual) & np.isfinite(forecast)
    if not paired.any():
        return nothing
    rival_name = min(
        (
            name
            for name in version.baselines
            if name in evidence.forecasts and name != evidence.candidate and version.leaderboard[name].wape is not None
        ),
        key=lambda name: version.leaderboard[name].wape or 0.0,
        default=None,
    )
    start, lead = _axis_of_evidence(facts)
    ticks = evidence.origins[judged][:, None] + lead + np.arange(actual.shape[2])
    y, f = (_sum_series(np.where(paired, cube, np.nan)) for cube in (actual, forecast))
    rival = None if rival_name is None else _sum_series(np.where(paired, evidence.forecasts[rival_name][:, judged], np.nan))
    label = "Judged origins: forecast and actual, summed over the series"
    total = plots.plot_judged(start + ticks, y, f, rival, rival_name=str(rival_name), unit=unit, name="judged", label=label)
    lower, upper = evidence.lower[:, judged], evidence.upper[:, judged]
    banded = paired & np.isfinite(lower) & np.isfinite(upper)
    agreement = ""
    if banded.any():
        label = "Actual against forecast of each judged row, with the usual interval"
        agreement = plots.plot_agreement(forecast[banded], actual[banded], lower[banded], upper[banded], unit=unit, name="agreement", label=label)
    return {
        "judged_total": total,
        "agreement": agreement,
        "n_judged": int(paired.sum()),
        "n_judged_origins": int(paired.any(axis=(0, 2)).sum()),
        "judged_rival": rival_name or "",
    }


def _axis_of_evidence(facts: _Facts) -> tuple[np.datetime64, int]:
    """Day of tick 0 and lead of the version's evidence, which need not be those of the newest panel."""
    panel = facts.panel
    if facts.version.training_set not in ("", facts.data.digest):
        panel = decode_panel(facts.session.blobs.get(facts.version.training_set))
    return np.datetime64(panel.start, "D"), panel.lead


def _live(facts: _Facts) -> dict[str, Any]:
    """The timeline, where there is something to see on it."""
    if not facts.readings and len(facts.releases) < 2:
        return {"timelines": [], "n_unread": 0, "incidents": []}
    metrics = list(dict.fromkeys(reading.metric for reading in facts.readings)) or ["wape"]
    return {
        "timelines": [_timeline(facts, metric, place) for place, metric in enumerate(metrics)],
        "n_unread": sum(reading.figure is None for reading in facts.readings),
        "incidents": [(facts.say(incident.at), incident.sentence, ", ".join(incident.reactions)) for incident in facts.incidents[::-1][:10]],
    }


def _timeline(facts: _Facts, metric: str, place: int) -> dict[str, Any]:
    def instants(found: Sequence[datetime]) -> NDArray[np.datetime64]:
        return np.array([facts.local(at).replace(tzinfo=None) for at in found], dtype="datetime64[us]")

    read = [reading for reading in facts.readings if reading.metric == metric and reading.figure is not None]
    label = f"Live {metric} over time, with releases and incidents"
    daily = metric == "wape"
    line = Timeline(
        at=instants([reading.at for reading in read]),
        figures=np.array([reading.figure for reading in read], dtype=np.float64),
        limits=np.array([np.nan if reading.limit is None else reading.limit for reading in read], dtype=np.float64),
        breached=np.array([reading.breached for reading in read], dtype=np.bool_),
        releases=tuple((instants([r.at])[0], _short_version(r, facts.batch.model)) for r in facts.releases),
        incidents=instants([incident.at for incident in facts.incidents]),
        daily_days=facts.daily_days.astype("datetime64[us]") if daily else np.empty(0, "datetime64[us]"),
        daily=facts.daily_wape if daily else np.empty(0),
    )
    newest = read[-1] if read else None
    said = "" if newest is None else f"{_metric(metric, newest.figure)} over {format_day(newest.first)} to {format_day(newest.last)}"
    limit = (
        "" if newest is None or newest.limit is None else f"{'above' if newest.breached else 'within'} its limit of {_metric(metric, newest.limit)}"
    )
    plot = plots.plot_timeline(line, metric=metric, name=f"timeline-{place}", label=label)
    return {"metric": metric, "newest": said, "limit": limit, "plot": plot, "n": len(read)}


def _origins(facts: _Facts) -> dict[str, Any]:
    """Doubts, and where everything comes from."""
    version, session = facts.version, facts.session
    newest = [note for note in facts.data.notes if note not in version.notes]
    tables = []
    for name, identity in version.tables.items():
        ingest = session.records.get(INGESTS, workspace=session.workspace, id=identity)
        tables.append(_table(name, ingest))
    return {
        "notes": version.notes,
        "newest_notes": newest,
        "missing_facts": facts.batch.missing_facts,
        **describe_members(session, version),
        "created": f"{facts.say(version.created_at)} by {version.created_by}",
        "trained_until": format_day(version.trained_until) if version.trained_until else "–",
        "files": [(file.name, file.kind, _bytes(file.n_bytes), file.sha256[:12]) for file in version.files],
        "training_set": version.training_set[:12],
        "read_set": facts.data.digest[:12],
        "tables": tables,
        "lock": sorted(version.lock.items()),
        "releases": [(facts.say(r.at), r.version, r.how, r.actor, r.reason, r.verdict_sentence) for r in facts.releases[::-1][:20]],
    }


def _table(name: str, ingest: Ingest | None) -> dict[str, Any]:
    if ingest is None:
        return {"name": name, "kept": False}
    files = [(Path(file.path).name, _bytes(file.n_bytes), file.sha256[:12]) for file in ingest.files[:_SHOWN_FILES]]
    bounds = "no event time" if not ingest.first_event else f"{_instant(ingest.first_event)} to {_instant(ingest.last_event or '')}"
    return {"name": name, "kept": True, "n_rows": f"{ingest.n_rows:,}", "bounds": bounds, "files": files, "n_more": len(ingest.files) - len(files)}


def _instant(text: str) -> str:
    return text.removesuffix("T00:00:00").replace("T", " ")


def _figures(metrics: Metrics) -> dict[str, str]:
    return {
        "n": f"{metrics.n:,}",
        "wape": format_percent(metrics.wape, 2),
        "mae": format_number(metrics.mae),
        "rmsse": "–" if metrics.rmsse is None else f"{metrics.rmsse:.3f}",
        "rmspe": format_percent(metrics.rmspe),
        "bias": format_signed(metrics.bias),
        "coverage": format_percent(metrics.coverage_90),
        "width": format_percent(metrics.width_90),
    }


def _metric(metric: str, figure: float | None) -> str:
    return format_percent(figure, 2) if metric in ("wape", "rmspe") else format_number(figure)


def _days(n: int) -> str:
    return "1 day" if n == 1 else f"{n:,} days"


def _bytes(n: int) -> str:
    return f"{n:,} bytes" if n < 10_000 else f"{n / 1e3:,.0f} kB" if n < 10_000_000 else f"{n / 1e6:,.0f} MB"


def _short_version(release: Release, model: str) -> str:
    short = release.version.removeprefix(f"{model}-")
    return short if release.how == "promote" else f"back to {short}"


def _total(grid: Doubles) -> float | None:
    return float(np.nansum(grid)) if np.isfinite(grid).any() else None


def _sum_series(grid: Doubles) -> Doubles:
    """The sum over the first axis of what is there; NaN where nothing is."""
    there = np.isfinite(grid)
    summed: Doubles = np.where(there.any(axis=0), np.where(there, grid, 0.0).sum(axis=0), np.nan)
    return summed


def _render(context: dict[str, Any]) -> str:
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["drawn"] = Markup  # plots escape what they write themselves
    source = files("endcap.solutions.forecasting").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(context)


def _write(out: Path, page: str) -> None:
    payload = page.encode(errors="xmlcharrefreplace")
    hint = "give a file in a folder that you may write to"
    with delivering(out, what=f"The report {out}", hint=hint, n_bytes=len(payload)) as file:
        file.write(payload)
