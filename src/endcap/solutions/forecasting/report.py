"""The report of a forecast: one HTML page that needs nothing else, read from the records and stores alone.

Nothing on the page is computed for show: each figure is a record's, or a sum over the panel, the prediction log or the evidence kept with
the version. The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch
from endcap.loop.features.panels.day_panels import Panel, decode_panel, join_keys
from endcap.loop.monitoring.quality import read_outcomes
from endcap.loop.registry.records import Version
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting import plots
from endcap.solutions.forecasting.page import (
    Told,
    describe_candidates,
    describe_gate,
    describe_live,
    describe_origins,
    describe_slices,
    read_told,
    render_page,
    say_against,
    say_days,
    write_page,
)
from endcap.solutions.forecasting.plots import Curve, format_day, format_number, format_percent, format_signed
from endcap.solutions.forecasting.task import ForecastTask
from endcap.solutions.forecasting.training import TrialEvidence, decode_evidence

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_DAYS = 56
_SHOWN_SERIES = 6
_NEWEST_BATCHES = 120
_PROMISED = 0.9

Doubles = NDArray[np.float64]
Indexes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Facts(Told):
    """What the page is made from. Grids are n_series x days: ``forecast`` and limits over the targets, ``past`` (forecasts as delivered) and
    ``actual`` over the shown days, ``truth`` over both and what lies between.
    """

    task: ForecastTask
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

    @property
    def unit(self) -> str:
        return f"{self.task.forecast.target} a day"


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
    live = describe_live(facts, daily={"wape": (facts.daily_days, facts.daily_wape)})
    context = {"story": list(story), **_head(facts), **_answer(facts), **_judging(facts), **live, **describe_origins(facts)}
    write_page(out, render_page("report.html", context))
    return out


def _read(session: Session, task: ForecastTask, data: DataRef, batch: Batch, *, truth: pa.Table | None) -> _Facts:
    workspace, where = session.workspace, {"model": batch.model}
    told = read_told(session, data, batch)
    version = told.version
    panel = task.read_panel(session, data)
    shown = np.arange(max(0, panel.n_seen - _SHOWN_DAYS), panel.n_seen)
    answers = session.tables.read(PREDICTIONS, partition=batch.partition)
    batches = session.records.find(BATCHES, workspace=workspace, where=where, newest_first=True, limit=_NEWEST_BATCHES)
    forecast, lower, upper = _lay_out(answers, panel, ("forecast", "lower_90", "upper_90"), ticks=panel.targets, what="The prediction log")
    past, daily_days, daily_wape = _read_live(session, batches, panel, shown)
    truth_ticks = np.arange(int(shown[0]) if shown.size else 0, int(panel.targets[-1]) + 1)
    return _Facts(
        **vars(told),
        task=task,
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
    after = f", {say_days(forecast.lead_days)} of lead after the origin" if forecast.lead_days else ""
    items = [
        ("Forecasts", f"{forecast.target} of each {', '.join(forecast.keys)}, for each day"),
        ("Reaches", f"{say_days(forecast.horizon_days)}, {format_day(batch.first)} to {format_day(batch.last)}{after}"),
        ("Answered by", f"{version.id} ({version.candidate}), {facts.standing}"),
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
    judged = f"over {metrics.n:,} judged days" if metrics.n else "nothing could be judged"
    n_latest = min(horizon, facts.shown.size)
    return [
        (f"forecast for the coming {say_days(horizon)}", format_number(coming), f"the last {say_days(n_latest)} seen: {format_number(latest)}"),
        ("WAPE, judged", format_percent(metrics.wape, 2), say_against(facts, "wape")),
        ("bias", format_signed(metrics.bias), judged),
        ("inside the 90 % interval", format_percent(metrics.coverage_90), "of the actual values; it promises 90 %"),
    ]


def _answer(facts: _Facts) -> dict[str, Any]:
    """The sum over all series, then some series one by one."""
    everything = slice(None)
    n_gap = int(facts.panel.targets[0]) - facts.panel.n_seen
    gap = f" The gap of {say_days(n_gap)} between them is not known yet when the forecast is made." if n_gap else ""
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
    return {
        **describe_candidates(facts, metric="wape", chosen_on=_say_choice(facts), hourly=False),
        "columns_said": "Intervals are made for the candidates offered to the gate only.",
        **describe_gate(facts),
        "slices": describe_slices(facts.version, metric="wape"),
        "coverage": _coverage(facts.version),
        **_evidence(facts),
    }


def _say_choice(facts: _Facts) -> str:
    """On which rows the choice was made, as far as the evidence says."""
    if facts.evidence is None or facts.version.candidate in facts.version.baselines:
        return ""
    older = facts.evidence.n_choosing > 0
    return "The choice was made on older rows than these." if older else "The history is short: the choice was made on these rows."


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


def _total(grid: Doubles) -> float | None:
    return float(np.nansum(grid)) if np.isfinite(grid).any() else None


def _sum_series(grid: Doubles) -> Doubles:
    """The sum over the first axis of what is there; NaN where nothing is."""
    there = np.isfinite(grid)
    summed: Doubles = np.where(there.any(axis=0), np.where(there, grid, 0.0).sum(axis=0), np.nan)
    return summed
