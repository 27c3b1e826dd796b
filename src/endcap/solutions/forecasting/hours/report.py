"""The report of an hourly model: the same page, of a forecast of hours.

It is bounded: of 50,000 series it reads two weeks of pieces, the sums of the back-test, and the newest batch in two columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.forecasts import Forecast
from endcap.core.errors import NotFound
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import require_batch
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Batch
from endcap.loop.evaluation.records import name_metric
from endcap.loop.evaluation.sums import ErrorSums
from endcap.loop.features.panels.day_panels import join_keys
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.features.panels.hour_store import read_state
from endcap.loop.monitoring.member_outcomes import find_outcome_batches, read_member_outcomes
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting import plots
from endcap.solutions.forecasting.hours.figures import split_hours
from endcap.solutions.forecasting.hours.plots import plot_hour_coverage, plot_hours
from endcap.solutions.forecasting.hours.shards import ShardSource
from endcap.solutions.forecasting.hours.task import HourForecastTask, HourRef
from endcap.solutions.forecasting.hours.training import HourBackTest, decode_evidence
from endcap.solutions.forecasting.page import (
    Told,
    describe_candidates,
    describe_gate,
    describe_live,
    describe_origins,
    describe_slices,
    format_figure,
    read_told,
    render_page,
    say_against,
    write_page,
)
from endcap.solutions.forecasting.plots import Curve, format_day, format_number, format_percent, format_signed

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN_DAYS = 14
_CURVE_DAYS = 5
_LARGEST = 5
_NEWEST_BATCHES = 24 * (_SHOWN_DAYS + 2)
_PROMISED = 0.9
_WAPE_SAID = (
    "WAPE is by the hour here: with most hours at zero it pays for forecasting too little, so look at it beside the bias; "
    "day WAPE is that of each series' sums by day."
)

Doubles = NDArray[np.float64]
Hours = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class _Series:
    """One series to draw: who it is and why, what was sold in its latest hours (NaN without stock), and its answers."""

    name: str
    why: str
    sold: Doubles
    forecast: Doubles
    lower: Doubles
    upper: Doubles


@dataclass(frozen=True, eq=False)
class _Live:
    """Outcomes of the latest days, summed over members by hour: arrays of one length, nothing where no outcome is known."""

    hours: Hours
    members: NDArray[np.int64]
    sums: dict[str, Doubles]


@dataclass(frozen=True, eq=False)
class _Facts(Told):
    """What the page is made from. ``hours`` and ``sold`` are the latest hours and their totals, ``ahead`` and ``coming`` those to come."""

    forecast: Forecast
    test: HourBackTest | None
    test_start: date
    hours: Hours
    sold: Doubles
    n_unseen: int
    n_cells: int
    hidden: int
    ahead: Hours
    coming: Doubles
    n_series: int
    series: tuple[_Series, ...]
    live: _Live | None

    @property
    def metric(self) -> str:
        return self.forecast.gate.metric

    @property
    def unit(self) -> str:
        return f"{self.forecast.target} an hour"

    @property
    def rival(self) -> str | None:
        """The best baseline, unless it is what answers."""
        best = self.best_baseline(self.metric)
        return None if best is None or best[0] == self.version.candidate else best[0]


def write_report(session: Session, task: HourForecastTask, data: DataRef, batch: Batch, *, out: Path, story: Sequence[str] = ()) -> Path:
    """Write the page of an hourly model's delivered batch to ``out``, whole or not at all, and return where it stands.

    ``story`` is an account in words, shown as a numbered list on top. Raises InvalidInput for a place that cannot be written, NotFound and
    IntegrityBroken where records or bytes are gone. Cost: two weeks of pieces, shard by shard, one pass over the batch's answers, and the
    outcomes of two weeks; a second or two for 50,000 series, and as long again for the plots.
    """
    facts = _read(session, task, data, batch)
    context = {
        "story": list(story),
        **_head(facts),
        **_answer(facts),
        **describe_candidates(facts, metric=facts.metric, chosen_on=_say_choice(facts), hourly=True),
        "columns_said": _WAPE_SAID,
        **describe_gate(facts),
        "slices": describe_slices(facts.version, metric=facts.metric, without=("hour", "origin")),
        **_judging(facts),
        **describe_live(facts, daily=_daily(facts.live)),
        **_live(facts),
        **describe_origins(facts),
    }
    write_page(out, render_page("hours/report.html", context))
    return out


# ---- what is read


def _read(session: Session, task: HourForecastTask, data: DataRef, batch: Batch) -> _Facts:
    told = read_told(session, data, batch)
    _, source = task.open_data(session, data)
    answering = _find_answering(session, batch)
    zero = datetime.combine(source.state.start, datetime.min.time())
    ahead = np.datetime64(zero, "h") + source.origin + np.arange(source.horizon)
    first, sold, sums, cells = _sum_shards(source)
    chosen = _choose(sums)
    series = tuple(_read_series(session, source, answering, index, row, why, ahead=ahead) for index, row, why in chosen)
    return _Facts(
        **vars(told),
        forecast=task.forecast,
        test=decode_evidence(session.blobs.get(told.version.evidence)) if told.version.evidence else None,
        test_start=_find_start(session, told, otherwise=source.state.start),
        hours=np.datetime64(zero, "h") + first + np.arange(sold.size),
        sold=sold,
        n_unseen=cells[0],
        n_cells=cells[1],
        hidden=source.state.hidden,
        ahead=ahead,
        coming=_sum_answers(session, answering, ahead=ahead),
        n_series=source.state.n_series,
        series=series,
        live=_read_live(session, batch),
    )


def _find_answering(session: Session, batch: Batch) -> list[Batch]:
    """All batches that answer for the batch's origin: parts of the members may be answered for by other versions."""
    answered = session.records.get(ANSWERED, workspace=session.workspace, id=batch.answered)
    if answered is None or batch.id not in answered.batches:
        return [batch]
    return [require_batch(session, identity) for identity in answered.batches]


def _find_start(session: Session, told: Told, *, otherwise: date) -> date:
    """The local day of tick 0 of the evidence, which need not be that of the newest data."""
    import msgspec

    if told.version.training_set in ("", told.data.digest):
        return otherwise
    try:
        ref = msgspec.json.decode(session.blobs.get(told.version.training_set), type=HourRef)
        return read_state(session.blobs, ref.state).start
    except NotFound:
        return otherwise


def _sum_shards(source: ShardSource) -> tuple[int, Doubles, list[Doubles], tuple[int, int]]:
    """The latest hours of all shards, one in memory at a time: the first tick, the total sold of each hour (NaN where nobody has a row), the
    sum of each series by shard, and how many cells are unseen, of how many.
    """
    first, total, there, sums, n_unseen, n_cells = 0, np.zeros(0), np.zeros(0), [], 0, 0
    for index in source.indexes:
        panel = source.read(index, look_back_days=_SHOWN_DAYS, keep=False).latest(_SHOWN_DAYS)  # what is kept may reach further back
        known = np.isfinite(panel.sold)
        sold = np.where(known, panel.sold, 0.0)
        first = source.origin - panel.origin
        total, there = _add(total, sold.sum(axis=0, dtype=np.float64)), _add(there, known.sum(axis=0))
        sums.append(sold.sum(axis=1, dtype=np.float64))
        n_cells += int(known.sum())
        n_unseen += 0 if panel.unseen is None else int((panel.unseen & known).sum())
    return first, np.where(there > 0, total, np.nan), sums, (n_unseen, n_cells)


def _add(total: Doubles, more: Doubles) -> Doubles:
    return more.astype(np.float64) if total.size == 0 else total + more


def _choose(sums: list[Doubles]) -> list[tuple[int, int, str]]:
    """The series to draw, as shard, row and reason: those that sold most in these days, and the one in the middle of all that sold."""
    shard = np.repeat(np.arange(len(sums)), [part.size for part in sums])
    row = np.concatenate([np.arange(part.size) for part in sums]) if sums else np.zeros(0, dtype=np.int64)
    total = np.concatenate(sums) if sums else np.zeros(0)
    order = np.argsort(-total, kind="stable")
    ranks = ["the most sold", *("among the most sold" for _ in range(_LARGEST - 1))]
    wanted = list(zip(order[:_LARGEST].tolist(), ranks, strict=False))
    n_sold = int((total > 0).sum())
    if n_sold > 2 * _LARGEST:
        wanted.append((int(order[n_sold // 2]), "the one in the middle"))
    return [(int(shard[place]), int(row[place]), why) for place, why in wanted]


def _read_series(session: Session, source: ShardSource, answering: list[Batch], index: int, row: int, why: str, *, ahead: Hours) -> _Series:
    panel = source.read(index, look_back_days=_CURVE_DAYS, keep=False).latest(_CURVE_DAYS).choose(np.array([row]))
    keys = {name: values[0] for name, values in panel.keys.items()}
    sold = panel.demand[0].astype(np.float64)
    found = [_read_answers(session, batch, keys, ahead=ahead) for batch in answering]
    grids = next((grid for grid in found if np.isfinite(grid).any()), found[0])
    return _Series(join_keys({name: (value,) for name, value in keys.items()})[0], why, sold, *grids)


def _read_answers(session: Session, batch: Batch, keys: dict[str, str], *, ahead: Hours) -> Doubles:
    """Forecast and limits of one series, 3 x horizon; NaN where the batch has no row of it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dataset = session.tables.scan(PREDICTIONS, partition=batch.partition)
    same = [pc.field(name) == pa.scalar(value).cast(dataset.schema.field(name).type) for name, value in keys.items()]
    rows = dataset.to_table(columns=["ts", "forecast", "lower_90", "upper_90"], filter=reduce(and_, same))
    grid = np.full((3, ahead.size), np.nan)
    at = _place(rows, ahead)
    for i, name in enumerate(("forecast", "lower_90", "upper_90")):
        grid[i, at] = rows[name].to_numpy()
    return grid


def _sum_answers(session: Session, answering: list[Batch], *, ahead: Hours) -> Doubles:
    total = np.zeros(ahead.size)
    for batch in answering:
        rows = session.tables.scan(PREDICTIONS, partition=batch.partition).to_table(columns=["ts", "forecast"])
        summed = rows.group_by("ts").aggregate([("forecast", "sum")])
        total[_place(summed, ahead)] += summed["forecast_sum"].to_numpy()
    return total


def _place(rows: pa.Table, ahead: Hours) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (rows["ts"].to_numpy().astype("datetime64[h]") - ahead[0]).astype(np.int64)
    return found


def _read_live(session: Session, batch: Batch) -> _Live | None:
    batches = session.records.find(BATCHES, workspace=session.workspace, where={"model": batch.model}, newest_first=True, limit=_NEWEST_BATCHES)
    near = find_outcome_batches(session, batches, n_days=_SHOWN_DAYS)
    rows = read_member_outcomes(session, batch.model, near) if near else None
    if rows is None or rows.num_rows == 0:
        return None
    hours, at = np.unique(rows["ts"].to_numpy().astype("datetime64[h]"), return_inverse=True)
    kept = hours > hours[-1] - np.timedelta64(_SHOWN_DAYS * HOURS, "h")
    sums = {
        name: np.bincount(at, weights=rows[name].to_numpy(), minlength=hours.size)[kept] for name in ("n", "actual", "absolute", "squared", "error")
    }
    return _Live(hours[kept], np.bincount(at, minlength=hours.size)[kept], sums)


# ---- what is said


def _head(facts: _Facts) -> dict[str, Any]:
    forecast, batch, data, version = facts.forecast, facts.batch, facts.data, facts.version
    items = [
        ("Forecasts", f"{forecast.target} of each {', '.join(forecast.keys)}, for each hour"),
        ("Reaches", f"{facts.ahead.size} hours, {_say_hour(facts.ahead[0])} to {_say_hour(facts.ahead[-1])}"),
        ("Answered by", f"{version.id} ({version.candidate}), {facts.standing}"),
        ("Made from", f"the origin {_say_hour(facts.ahead[0])}, predicted at {facts.say(batch.predicted_at)}"),
        ("Series", f"{facts.n_series:,}"),
        ("Data", f"{format_day(data.first_day)} to {format_day(data.last_day)}, {data.n_rows:,} rows of it read for this origin"),
        ("Zone", batch.zone),
    ]
    return {"model": batch.model, "items": items, "version": version, "candidate": version.candidate, "tiles": _tiles(facts)}


def _tiles(facts: _Facts) -> list[tuple[str, str, str]]:
    metrics, horizon, metric = facts.version.metrics, facts.ahead.size, facts.metric
    latest = facts.sold[-horizon:]
    judged = f"over {metrics.n:,} judged hours" if metrics.n else "nothing could be judged"
    tiles = [
        (f"forecast for the coming {horizon} hours", format_number(float(facts.coming.sum())), f"the last {latest.size} seen: {_total(latest)}"),
        (f"{name_metric(metric)}, judged", format_figure(metric, getattr(metrics, metric)), say_against(facts, metric)),
    ]
    if metric != "day_wape":
        tiles.append(("WAPE of daily sums", format_percent(metrics.day_wape, 2), say_against(facts, "day_wape")))
    return [
        *tiles,
        ("bias", format_signed(metrics.bias), judged),
        ("inside the 90 % interval", format_percent(metrics.coverage_90), "of the actual values; it promises 90 % or more"),
    ]


def _answer(facts: _Facts) -> dict[str, Any]:
    label = f"All series of {facts.batch.model}: sold and forecast by the hour"
    total = Curve(days=facts.hours, actual=facts.sold, ahead=facts.ahead, forecast=facts.coming)
    return {
        "total": plots.plot_curve(total, name="total", label=label, unit=facts.unit, origin=facts.ahead[0], wide=True),
        "multiples": [
            {"title": series.name, "why": series.why, "plot": _plot_series(facts, series, place)} for place, series in enumerate(facts.series)
        ],
        "unit": facts.unit,
        "n_series": facts.n_series,
        "n_shown_days": -(-facts.sold.size // HOURS),
        "horizon": facts.ahead.size,
        "censored": facts.forecast.censored is not None,
        "n_unseen": f"{facts.n_unseen:,}",
        "n_cells": f"{facts.n_cells:,}",
        "n_hidden": facts.hidden,
    }


def _plot_series(facts: _Facts, series: _Series, place: int) -> str:
    curve = Curve(
        days=facts.hours[-series.sold.size :],
        actual=series.sold,
        ahead=facts.ahead,
        forecast=series.forecast,
        lower=series.lower,
        upper=series.upper,
    )
    label = f"{series.name}: sold and forecast by the hour"
    return plots.plot_curve(curve, name=f"series-{place}", label=label, unit=facts.unit, origin=facts.ahead[0], wide=False)


def _say_choice(facts: _Facts) -> str:
    if facts.test is None or facts.version.candidate in facts.version.baselines:
        return ""
    return (
        "The choice was made at an older origin than these." if facts.test.n_choosing else "The history is short: the choice was made on these rows."
    )


def _judging(facts: _Facts) -> dict[str, Any]:
    """Error by hour and origin, and the totals of the judged origins, from the sums of the back-test."""
    nothing = {"by_hour": "", "hour_metric": "", "coverage": "", "by_origin": [], "rival": "", "judged_total": "", "n_judged_origins": 0}
    test, name = facts.test, facts.version.candidate
    if test is None or name not in test.sums or not test.origins[test.judged].size:
        return nothing
    rival = facts.rival if facts.rival in test.sums else None
    return {**nothing, "rival": rival or "", "by_origin": _by_origin(facts, test, rival), **_by_target(facts, test, rival)}


def _by_origin(facts: _Facts, test: HourBackTest, rival: str | None) -> list[list[str]]:
    rows = []
    for place in range(test.n_choosing, test.origins.size):
        ours = test.sums[facts.version.candidate].take(origins=[place]).metrics
        figure = getattr(ours, facts.metric)
        row = [format_day(facts.test_start + timedelta(days=int(test.origins[place]) // HOURS)), format_figure(facts.metric, figure)]
        if rival is not None:
            theirs = getattr(test.sums[rival].take(origins=[place]).metrics, facts.metric)
            row += [format_figure(facts.metric, theirs), f"{figure / theirs:.3f}" if figure is not None and theirs else "–"]
        rows.append([*row, format_percent(ours.day_wape, 2), format_signed(ours.bias), format_percent(ours.coverage_90)])
    return rows


def _by_target(facts: _Facts, test: HourBackTest, rival: str | None) -> dict[str, Any]:
    name, origins = facts.version.candidate, test.origins[test.judged]
    if name not in test.targets:
        return {}
    ours = test.targets[name].take(origins=test.judged)
    theirs = test.targets[rival].take(origins=test.judged) if rival is not None and rival in test.targets else None
    judged = ours["n"] > 0
    if not judged.any():
        return {}
    metric = facts.metric if facts.metric != "day_wape" else "rmse"  # sums by day have no hours
    hours = split_hours(ours, origins)
    return {
        "hour_metric": name_metric(metric),
        "by_hour": plot_hours(
            _figures(hours, metric),
            None if theirs is None else _figures(split_hours(theirs, origins), metric),
            np.array([_mean_error(hour) for hour in hours]),
            metric=name_metric(metric),
            rival_name=str(rival),
            name="by-hour",
            label=f"{name_metric(metric)} and mean error by hour of the day",
        ),
        "coverage": _plot_coverage(hours),
        "judged_total": plots.plot_judged(
            (np.datetime64(facts.test_start, "h") + origins[:, None] + np.arange(judged.shape[0])[None, :]),
            _by_row(ours, "actual"),
            _by_row(ours, "forecast"),
            None if theirs is None else _by_row(theirs, "forecast"),
            rival_name=str(rival),
            unit=facts.unit,
            name="judged",
            label="Judged origins: forecast and actual by the hour, summed over the series",
        ),
        "n_judged_origins": int(judged.any(axis=0).sum()),
    }


def _plot_coverage(hours: list[ErrorSums]) -> str:
    shares = [hour.metrics.coverage_90 for hour in hours]
    if all(share is None for share in shares):
        return ""
    return plot_hour_coverage(shares, promised=_PROMISED, name="coverage", label="Coverage of the 90 % interval by hour of the day")


def _figures(hours: list[ErrorSums], metric: str) -> Doubles:
    return np.array([np.nan if (figure := getattr(hour.metrics, metric)) is None else figure for hour in hours], dtype=np.float64)


def _mean_error(sums: ErrorSums) -> float:
    n = float(sums["n"].sum())
    return float((sums["forecast"] - sums["actual"]).sum()) / n if n else np.nan


def _by_row(sums: ErrorSums, field: str) -> Doubles:
    """Totals by target as rows of origins, NaN where nothing was judged."""
    return np.where(sums["n"] > 0, sums[field], np.nan).T


def _daily(live: _Live | None) -> dict[str, tuple[Hours, Doubles]]:
    """The live error of each day, by metric."""
    if live is None:
        return {}
    days, sums = _by_day(live)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"rmse": np.sqrt(sums["squared"] / sums["n"]), "wape": sums["absolute"] / sums["actual"], "mae": sums["absolute"] / sums["n"]}
    return {metric: (days[np.isfinite(figures)], figures[np.isfinite(figures)]) for metric, figures in found.items()}


def _by_day(live: _Live) -> tuple[Hours, dict[str, Doubles]]:
    days, at = np.unique(live.hours.astype("datetime64[D]"), return_inverse=True)
    return days, {name: np.bincount(at, weights=values, minlength=days.size).astype(np.float64) for name, values in live.sums.items()}


def _live(facts: _Facts) -> dict[str, Any]:
    live = facts.live
    if live is None:
        return {"live_total": "", "live_days": []}
    axis = np.arange(live.hours[0], live.hours[-1] + 1)
    at = (live.hours - axis[0]).astype(np.int64)
    actual, forecast = np.full((2, axis.size), np.nan)
    actual[at] = live.sums["actual"]
    forecast[at] = live.sums["actual"] + live.sums["error"]
    label = "Delivered forecasts and what came, by the hour, summed over the series"
    total = plots.plot_judged(axis[None, :], actual[None, :], forecast[None, :], None, rival_name="", unit=facts.unit, name="live", label=label)
    days, sums = _by_day(live)
    members = np.maximum.reduceat(live.members, np.searchsorted(live.hours, days.astype("datetime64[h]")))
    rows = [
        [
            format_day(day),
            format_number(float(np.sqrt(sums["squared"][i] / sums["n"][i]))),
            format_percent(sums["absolute"][i] / sums["actual"][i] if sums["actual"][i] else None),
            format_signed(sums["error"][i] / sums["actual"][i] if sums["actual"][i] else None),
            f"{members[i]:,}",
            f"{int(sums['n'][i]):,}",
        ]
        for i, day in enumerate(days.astype(object))
        if sums["n"][i]
    ]
    return {"live_total": total, "live_days": rows[::-1]}


def _say_hour(hour: np.datetime64) -> str:
    at: datetime = hour.astype("datetime64[s]").astype(object)
    return f"{format_day(at.date())}, {at:%H:%M}"


def _total(values: Doubles) -> str:
    return format_number(float(np.nansum(values)) if np.isfinite(values).any() else None)
