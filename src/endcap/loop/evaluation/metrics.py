"""Metrics of forecasts against actual values. Pairs in which either is NaN are left out; without pairs a metric is None.

WAPE and bias: Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 3rd edition, 5.8; RMSSE: Makridakis et al., *The M5
competition* (2022), here with the mean square of the series' own seasonal differences as scale; coverage and width of intervals: ibid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.records import Metrics

Array = NDArray[np.floating]


def measure(actual: Array, forecast: Array, *, lower: Array | None = None, upper: Array | None = None, scale: Array | None = None) -> Metrics:
    """All figures at once, over arrays of one shape.

    ``scale`` is each pair's mean square seasonal difference (for RMSSE; pairs without a positive one are left out of it). Bias is
    the sum of errors (forecast less actual) over the sum of actual values: above 0 is too much. RMSPE leaves out actual zeros. Width is
    the mean width over the mean actual value. One pass per figure.
    """
    kept = np.isfinite(actual) & np.isfinite(forecast)
    y, f = actual[kept].astype(np.float64), forecast[kept].astype(np.float64)
    error, total = f - y, float(np.abs(y).sum())
    rmsse = None
    if scale is not None:
        s = scale[kept].astype(np.float64)
        usable = np.isfinite(s) & (s > 0)
        rmsse = _root(_mean(error[usable] ** 2 / s[usable]))
    coverage = width = None
    if lower is not None and upper is not None:
        low, high = lower[kept].astype(np.float64), upper[kept].astype(np.float64)
        banded = np.isfinite(low) & np.isfinite(high)
        coverage = _mean(((low <= y) & (y <= high))[banded].astype(np.float64))
        mean_actual = _mean(y[banded])
        mean_width = _mean((high - low)[banded])
        width = mean_width / mean_actual if mean_width is not None and mean_actual else None
    nonzero = y != 0
    return Metrics(
        n=int(y.size),
        mae=_mean(np.abs(error)),
        wape=float(np.abs(error).sum()) / total if total > 0 else None,
        rmse=_root(_mean(error**2)),
        rmsse=rmsse,
        rmspe=_root(_mean((error[nonzero] / y[nonzero]) ** 2)),
        bias=float(error.sum()) / total if total > 0 else None,
        coverage_90=coverage,
        width_90=width,
    )


def seasonal_scale(observed: Array, *, period: int = 7) -> Array:
    """Each series' mean square difference between values one period apart; NaN where no such pair is present. Shape (n_series,)."""
    if observed.shape[1] <= period:
        return np.full(observed.shape[0], np.nan)
    squares = np.square(observed[:, period:].astype(np.float64) - observed[:, :-period])
    n = np.isfinite(squares).sum(axis=1)
    total = np.nansum(squares, axis=1)
    mean: Array = np.divide(total, n, out=np.full(observed.shape[0], np.nan), where=n > 0)
    return mean


ERROR_PARTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "wape": lambda y, f: (np.abs(f - y), np.abs(y)),
    "mae": lambda y, f: (np.abs(f - y), np.ones_like(y)),
    "rmse": lambda y, f: (np.square(f - y), np.ones_like(y)),
    "rmspe": lambda y, f: (_square_ratio(y, f), (y != 0).astype(np.float64)),
}
"""The metrics that are a ratio of two sums, as the summands of each; the bootstrap resamples these. A ratio's root, where the metric has
one, changes no comparison."""

SQUARED = ("rmse", "rmspe", "rmsse")
"""The metrics that are a root of such a ratio."""


def _square_ratio(y: Array, f: Array) -> Array:
    safe = np.where(y == 0, 1.0, y)
    return np.where(y == 0, 0.0, np.square((f - y) / safe))


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def _root(value: float | None) -> float | None:
    return math.sqrt(value) if value is not None else None
