"""What every candidate's answer goes through: closed days, series without history, and no forecast below zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Flags, Floats, Panel
from endcap.solutions.forecasting.day_kinds import HOLIDAY_FACT, weekdays

_CLOSED_LOOK_BACK = 56
_RECENT = 28
_LEAST_WEEKLY = 4
_MOST_WEEKS = 0.6


def finish(forecast: Floats, panel: Panel) -> Floats:
    """A complete forecast, n_series x horizon: never NaN, never below 0, 0 on closed days.

    What a candidate left out (NaN) is filled with the series' mean over its latest 28 days with a value; a series without any takes the
    mean of its like (the series that share most of its facts), and of all series where it has no like.
    """
    filled = forecast.astype(np.float32, copy=True)
    recent = recent_mean(panel.target, n_ticks=_RECENT)
    gaps = np.isnan(filled)
    filled[gaps] = np.broadcast_to(recent[:, None], filled.shape)[gaps]
    lost: NDArray[np.bool_] = np.asarray(np.isnan(filled).any(axis=1))
    if lost.any():
        filled[lost] = _from_likes(filled, panel, lost)
    filled[is_closed(panel)] = 0.0
    return np.maximum(np.nan_to_num(filled, nan=0.0), 0.0)


def is_closed(panel: Panel) -> NDArray[np.bool_]:
    """Which targets are closed days, n_series x horizon.

    Where the plan says so (the model's ``open`` fact). Without such a fact: a weekday on which a series never had a row in the last 8
    weeks, though it had rows on most other days; every other day of a series of weekly rows, whose rows, four at least, all fall on one weekday,
    in most weeks; and a public holiday, if it had none on any public holiday of its history (two at least).
    """
    closed = ~panel.is_open(panel.targets)
    if panel.open_fact is not None:
        return closed
    seen = np.isfinite(panel.observed)
    latest = seen[:, -_CLOSED_LOOK_BACK:]
    if latest.shape[1] >= 28:
        day_of = weekdays(panel, n_ticks=panel.n_seen)[-latest.shape[1] :]
        share = np.stack([latest[:, day_of == d].mean(axis=1) for d in range(7)], axis=1)
        shut = (share == 0) & (np.median(share, axis=1) > 0.6)[:, None]
        closed |= shut[:, weekdays(panel, n_ticks=panel.origin + panel.lead + panel.horizon)[panel.targets]]
    closed |= _is_between_weeks(seen, panel)
    if HOLIDAY_FACT in panel.calendar:
        holiday = panel.calendar[HOLIDAY_FACT]
        past = np.flatnonzero(holiday[: panel.n_seen])
        begun = np.maximum.accumulate(seen, axis=1)
        if past.size:
            shut_then = (begun[:, past].sum(axis=1) >= 2) & ~seen[:, past].any(axis=1)
            closed |= shut_then[:, None] & holiday[panel.targets][None, :]
    return closed


def _is_between_weeks(seen: Flags, panel: Panel) -> Flags:
    """Targets on other weekdays than the one that a series of weekly rows has; n_series x horizon."""
    day_of = weekdays(panel, n_ticks=panel.origin + panel.lead + panel.horizon)
    counts = np.stack([seen[:, day_of[: panel.n_seen] == d].sum(axis=1) for d in range(7)], axis=1)
    total, own = counts.sum(axis=1), counts.argmax(axis=1)
    weeks = (panel.n_seen - seen.argmax(axis=1) - seen[:, ::-1].argmax(axis=1) - 1) // 7 + 1  # from the first row to the last
    weekly = (total >= _LEAST_WEEKLY) & (counts.max(axis=1) == total) & (total > _MOST_WEEKS * weeks)
    return weekly[:, None] & (day_of[panel.targets][None, :] != own[:, None])


def recent_mean(values: Floats, *, n_ticks: int) -> Floats:
    """Each series' mean over its latest ``n_ticks`` values that are there, looking back at most four times as far; NaN for none."""
    window = values[:, -4 * n_ticks :]
    there = np.isfinite(window)
    rank = np.cumsum(there[:, ::-1], axis=1)[:, ::-1]
    used = there & (rank <= n_ticks)
    n = used.sum(axis=1)
    total = np.where(used, window, 0).sum(axis=1, dtype=np.float64)
    return np.divide(total, n, out=np.full(len(values), np.nan), where=n > 0).astype(np.float32)


def _from_likes(filled: Floats, panel: Panel, lost: NDArray[np.bool_]) -> Floats:
    donors = np.flatnonzero(~lost)
    if donors.size == 0:
        return np.zeros((int(lost.sum()), filled.shape[1]), dtype=np.float32)
    codes = np.stack([fact.codes for fact in panel.statics.values()], axis=1) if panel.statics else np.zeros((len(filled), 1), np.int32)
    rows = np.empty((int(lost.sum()), filled.shape[1]), dtype=np.float32)
    for place, series in enumerate(np.flatnonzero(lost)):
        likeness = (codes[donors] == codes[series]).sum(axis=1)
        rows[place] = filled[donors[likeness == likeness.max()]].mean(axis=0)
    return rows
