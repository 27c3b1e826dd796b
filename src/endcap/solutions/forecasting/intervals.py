"""90 % intervals by split conformal prediction, normalised by series and weekday.

Residuals of earlier origins, all of whose targets were known, are divided by a scale of the series (shrunk towards all) times a power of
the forecast; quantiles of those of the latest weeks, per weekday and pooled, are turned back into limits. Split conformal prediction: Lei
et al., *Distribution-free predictive inference for regression* (2018); the finite-sample correction is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Floats, Panel, join_keys
from endcap.loop.training.artefacts import Artefact, decode_arrays, encode_arrays
from endcap.solutions.forecasting.day_kinds import is_special, weekdays
from endcap.solutions.forecasting.finishing import is_closed

# How a residual grows with its forecast, and the pseudo-days by which a series' scale is shrunk: set on FreshRetailNet's origins before
# 15 May 2024, where the first evens out coverage between small and large stores.
POWER = 0.6
_PSEUDO_DAYS = 10.0
_WINDOW_DAYS = 21
_ENOUGH = 400
_SPECIAL_WIDENING = 1.3
_UNKNOWN_WIDENING = 1.5
_TAIL = 0.05

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Back-test residuals as columns: the series' place, the target's tick and whether it was a special day."""

    series: NDArray[np.int64]
    ticks: NDArray[np.int64]
    errors: Doubles
    forecasts: Doubles
    special: NDArray[np.bool_]
    n_series: int
    n_leads: int


@dataclass(frozen=True, eq=False)
class Intervals:
    """Scales by series and limits by weekday, in units of the scale. A series without a scale takes the pooled one, widened."""

    keys: tuple[str, ...]
    scale: Doubles
    pooled: float
    low: Doubles
    high: Doubles
    n_residuals: int

    def apply(self, forecast: Floats, panel: Panel) -> tuple[Floats, Floats]:
        """Lower and upper limits of a forecast, each n_series x horizon; both are 0 on closed days."""
        places = {key: i for i, key in enumerate(self.keys)}
        rows = np.array([places.get(key, -1) for key in join_keys(panel.keys)])
        scale = np.where(rows >= 0, self.scale[rows], np.nan)
        scale = np.where(np.isfinite(scale), scale, self.pooled * _UNKNOWN_WIDENING)
        widening = np.where(is_special(panel)[panel.targets], _SPECIAL_WIDENING, 1.0)
        day_of = weekdays(panel, n_ticks=int(panel.targets[-1]) + 1)[panel.targets]
        unit = scale[:, None] * np.maximum(forecast, 1.0) ** POWER * widening
        lower = np.maximum(forecast + self.low[day_of] * unit, 0.0)
        upper = np.maximum(forecast + self.high[day_of] * unit, forecast)
        closed = is_closed(panel)
        return np.where(closed, 0.0, lower).astype(np.float32), np.where(closed, 0.0, upper).astype(np.float32)

    def to_artefact(self) -> Artefact:
        return encode_arrays(
            {
                "keys": np.array(self.keys, dtype=np.str_),
                "scale": self.scale,
                "pooled": np.array(self.pooled),
                "low": self.low,
                "high": self.high,
                "n_residuals": np.array(self.n_residuals),
            }
        )

    @staticmethod
    def from_artefact(artefact: Artefact) -> Intervals:
        arrays = decode_arrays(artefact)
        keys = tuple(str(key) for key in arrays["keys"])
        return Intervals(keys, arrays["scale"], float(arrays["pooled"]), arrays["low"], arrays["high"], int(arrays["n_residuals"]))


def collect_residuals(panel: Panel, *, origins: NDArray[np.int64], actual: Doubles, forecast: Doubles) -> Residuals:
    """Residuals of back-test cubes (n_series x n_origins x horizon) as columns; pairs with a missing value or a forecast of 0 are left out."""
    ticks = np.broadcast_to((origins[:, None] + panel.lead + np.arange(panel.horizon))[None], actual.shape)
    series = np.broadcast_to(np.arange(panel.n_series)[:, None, None], actual.shape)
    kept = np.isfinite(actual) & np.isfinite(forecast) & (forecast > 0)
    special = is_special(panel)[ticks[kept]]
    return Residuals(series[kept], ticks[kept], (actual - forecast)[kept], forecast[kept], special, panel.n_series, min(7, max(1, panel.horizon)))


def fit_intervals(residuals: Residuals, *, keys: tuple[str, ...], start_weekday: int) -> Intervals:
    """Scales and limits from residuals. With few of them the limits are wide, and say so by ``n_residuals``.

    One pass over the residuals. Without a single residual the interval is plus and minus the forecast's own size.
    """
    ordinary = ~residuals.special if (~residuals.special).sum() >= 30 else np.ones(residuals.special.shape, dtype=np.bool_)
    series, ticks = residuals.series[ordinary], residuals.ticks[ordinary]
    z = residuals.errors[ordinary] / np.maximum(residuals.forecasts[ordinary], 1.0) ** POWER
    if z.size == 0:
        wide = np.ones(7)
        return Intervals(keys, np.full(residuals.n_series, np.nan), 2.0, -wide, wide, 0)
    pooled = float(np.abs(z).mean())
    total = np.bincount(series, weights=np.abs(z), minlength=residuals.n_series)
    # Overlapping leads of one target say little more than one of them.
    days = np.bincount(series, minlength=residuals.n_series) / residuals.n_leads
    mean = np.divide(total, days * residuals.n_leads, out=np.full(residuals.n_series, pooled), where=days > 0)
    scale = np.maximum((mean * days + _PSEUDO_DAYS * pooled) / (days + _PSEUDO_DAYS), 1e-9)
    recent = _choose_recent(ticks)
    normal, weekday = (z / scale[series])[recent], (ticks[recent] + start_weekday) % 7
    symmetric = _quantile(np.abs(normal), 1 - 2 * _TAIL)
    low_all, high_all = -_quantile(-normal, 1 - _TAIL), _quantile(normal, 1 - _TAIL)
    low, high = np.empty(7), np.empty(7)
    for day in range(7):
        own = normal[weekday == day]
        own_low, own_high = (-_quantile(-own, 1 - _TAIL), _quantile(own, 1 - _TAIL)) if own.size >= 60 else (low_all, high_all)
        # Half signed (half of that the weekday's own), half symmetric: signed quantiles follow the last weeks' drift too closely.
        low[day] = 0.25 * own_low + 0.25 * low_all - 0.5 * symmetric
        high[day] = 0.25 * own_high + 0.25 * high_all + 0.5 * symmetric
    seen = np.where(days > 0, scale, np.nan)
    return Intervals(keys, seen, pooled, np.minimum(low, 0.0), np.maximum(high, 0.0), int(normal.size))


def _choose_recent(ticks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The latest 21 days that have targets; more, up to all, while these hold fewer than 400 residuals."""
    distinct = np.unique(ticks)[::-1]
    for n in (_WINDOW_DAYS, 2 * _WINDOW_DAYS, 3 * _WINDOW_DAYS):
        recent: NDArray[np.bool_] = ticks >= distinct[min(n, distinct.size) - 1]
        if recent.sum() >= _ENOUGH:
            return recent
    return np.ones(ticks.shape, dtype=np.bool_)


def _quantile(values: Doubles, level: float) -> float:
    """The conformal quantile: the ceil((n + 1) * level)-th smallest; beyond the largest, the largest and a quarter of its size more."""
    n = values.size
    rank = int(np.ceil((n + 1) * level))
    ordered = np.sort(values)
    if rank > n:
        return float(ordered[-1] + 0.25 * abs(ordered[-1]))
    return float(ordered[rank - 1])
