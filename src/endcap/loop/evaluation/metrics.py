"""Metrics of forecasts, probabilities and classes against actual values. Pairs in which a number is NaN are left out; without pairs a metric
is None.

WAPE and bias: Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 3rd edition, 5.8; RMSSE: Makridakis et al., *The M5
competition* (2022), here with the mean square of the series' own seasonal differences as scale; coverage and width of intervals: ibid.
Log loss and Brier score: Gneiting and Raftery, *Strictly proper scoring rules*, JASA 102 (2007); area under the curve as the share of pairs in
the right order: Hanley and McNeil, Radiology 143 (1982); calibration: see ``bin_probabilities``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def measure_numbers(actual: Array, answer: Array, *, weight: Array, lower: Array | None = None, upper: Array | None = None) -> Metrics:
    """The same figures of numbers that count for more or less, but those of series; every row has its answer. A few passes."""
    error, size = answer - actual, np.abs(actual)
    total, all_size = float(weight.sum()), float((weight * size).sum())
    nonzero = actual != 0
    coverage = width = None
    if lower is not None and upper is not None and total > 0:
        coverage = float((weight * ((lower <= actual) & (actual <= upper))).sum()) / total
        mean = float((weight * actual).sum()) / total
        width = float((weight * (upper - lower)).sum()) / total / mean if mean else None
    return Metrics(
        n=int(actual.size),
        mae=_weigh(np.abs(error), weight),
        wape=float((weight * np.abs(error)).sum()) / all_size if all_size > 0 else None,
        rmse=_root(_weigh(error**2, weight)),
        rmsse=None,
        rmspe=_root(_weigh((error[nonzero] / actual[nonzero]) ** 2, weight[nonzero])),
        bias=float((weight * error).sum()) / all_size if all_size > 0 else None,
        coverage_90=coverage,
        width_90=width,
    )


def measure_probabilities(actual: Array, probability: Array, *, weight: Array) -> Metrics:
    """The figures of probabilities of what came true (1) or not (0).

    ``error_rate`` takes one half and above as 1; ``bias`` is the sum of probabilities less that of outcomes, as a share of these; ``auc`` is None
    where only one of the two came true. Cost: one sort.
    """
    parts = {name: _weigh(part(actual, probability)[0], weight) for name, part in PROBABILITY_PARTS.items()}
    came_true = float((weight * actual).sum())
    return Metrics(
        n=int(actual.size),
        bias=float((weight * (probability - actual)).sum()) / came_true if came_true > 0 else None,
        log_loss=parts["log_loss"],
        brier=parts["brier"],
        error_rate=parts["error_rate"],
        auc=rank_pairs(actual, probability, weight=weight),
        calibration=bin_probabilities(actual, probability, weight=weight).error if actual.size else None,
    )


def measure_classes(actual: NDArray[np.int64], answer: NDArray[np.int64], *, weight: Array) -> Metrics:
    """The figures of classes by their numbers: the share that is wrong."""
    rate = _weigh((actual != answer).astype(np.float64), weight)
    n = int(actual.size)
    return Metrics(n, error_rate=rate)


def rank_pairs(actual: Array, score: Array, *, weight: Array) -> float | None:
    """The area under the curve: the share of pairs of a positive and a negative in which the positive has the higher score, ties counting half.

    None without a pair. One sort.
    """
    _, place = np.unique(score, return_inverse=True)
    positive = np.bincount(place, weights=weight * actual)
    negative = np.bincount(place, weights=weight * (1 - actual))
    pairs = float(positive.sum()) * float(negative.sum())
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum()) / pairs if pairs > 0 else None


@dataclass(frozen=True, eq=False)
class Bins:
    """Probabilities in bins: ``place`` of each row, and of each bin its share of the rows, its mean probability and its share that came true."""

    place: NDArray[np.int64]
    share: Array
    probability: Array
    actual: Array

    @property
    def error(self) -> float:
        """The expected calibration error: how far probabilities are from what comes true, averaged over the bins by their share of the rows."""
        return float((self.share * np.abs(self.actual - self.probability)).sum())


def bin_probabilities(actual: Array, probability: Array, *, weight: Array, n_bins: int = 10) -> Bins:
    """Rows in bins of nearly equal weight by their probability, equal probabilities in one; of fewer than 20 rows a bin there are fewer bins.

    Bins of equal counts: Nguyen and O'Connor, *Posterior calibration and exploratory analysis for natural language processing models*, EMNLP
    2015; the error: Naeini, Cooper and Hauskrecht, AAAI 2015. One sort. There must be a row of some weight.
    """
    n_bins = max(1, min(n_bins, actual.size // 20))
    values, place = np.unique(probability, return_inverse=True)
    of_value = np.bincount(place, weights=weight, minlength=values.size)
    total = float(of_value.sum())
    middle = (np.cumsum(of_value) - of_value / 2) / total
    _, bins = np.unique(np.minimum((middle * n_bins).astype(np.int64), n_bins - 1), return_inverse=True)
    found = bins[place]
    held = np.bincount(found, weights=weight)
    safe = np.where(held > 0, held, 1.0)
    means = [np.bincount(found, weights=weight * column) / safe for column in (probability, actual)]
    return Bins(found, held / total, means[0], means[1])


ERROR_PARTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "wape": lambda y, f: (np.abs(f - y), np.abs(y)),
    "mae": lambda y, f: (np.abs(f - y), np.ones_like(y)),
    "rmse": lambda y, f: (np.square(f - y), np.ones_like(y)),
    "rmspe": lambda y, f: (_square_ratio(y, f), (y != 0).astype(np.float64)),
}
"""The metrics that are a ratio of two sums, as the summands of each; the bootstrap resamples these. A ratio's root, where the metric has
one, changes no comparison."""

PROBABILITY_PARTS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "log_loss": lambda y, p: (_log_loss(y, p), np.ones_like(y)),
    "brier": lambda y, p: (np.square(p - y), np.ones_like(y)),
    "error_rate": lambda y, p: (((p >= 0.5) != (y >= 0.5)).astype(np.float64), np.ones_like(y)),
}
"""The same for probabilities of 0 or 1."""
_LEAST_PROBABILITY = 1e-15

SQUARED = ("rmse", "rmspe", "rmsse")
"""The metrics that are a root of such a ratio."""


def _square_ratio(y: Array, f: Array) -> Array:
    safe = np.where(y == 0, 1.0, y)
    return np.where(y == 0, 0.0, np.square((f - y) / safe))


def _log_loss(y: Array, p: Array) -> Array:
    """The loss of each row; a probability of 0 or 1 counts as one that is 1e-15 away, so that one row that is wrong for certain costs 34.5."""
    said = np.clip(np.where(y >= 0.5, p, 1 - p), _LEAST_PROBABILITY, 1.0)
    return np.asarray(-np.log(said))


def _weigh(values: Array, weight: Array) -> float | None:
    total = float(weight.sum())
    return float((weight * values).sum()) / total if total > 0 else None


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def _root(value: float | None) -> float | None:
    return math.sqrt(value) if value is not None else None
