"""The spread around an hourly mean: the distribution of what was sold where a like mean had been forecast.

Pairs of earlier origins are counted by bucket of the forecast and by size of what was sold; a bucket's empirical distribution is the
predictive one of every forecast in it. With four hours in five at zero no formula's tails need to be believed, and limits, the chance of
any sale and the CRPS (Gneiting and Raftery, *Strictly proper scoring rules*, 2007) come from one table. Buckets and sizes grow
geometrically, so that the counts of any blocks of series add up without knowing the scale of sales beforehand; within a size the mean of
what was counted stands for all, which is exact while sizes hold one value each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.training.artefacts import Artefact, decode_arrays, encode_arrays
from endcap.solutions.forecasting.hours import kernels
from endcap.solutions.forecasting.hours.methods import Learned

Doubles = NDArray[np.float64]

LEAST = 1e-4
_BUCKET_RATIO, _N_BUCKETS = 1.1, 270
_SIZE_RATIO, _N_SIZES = 1.04, 660
_ENOUGH = 1000.0
_NEAR = 3
_TAIL = 0.05


def tally_spread(actual: Floats, forecast: Floats) -> Learned:
    """Counts of pairs (any shape, alike) whose actual is not missing. One pass; a megabyte at most."""
    counts, sums = np.zeros((_N_BUCKETS, _N_SIZES)), np.zeros((_N_BUCKETS, _N_SIZES))
    means = np.zeros((_N_BUCKETS, 2))
    flat, told = np.ascontiguousarray(forecast, dtype=np.float32).reshape(-1), np.ascontiguousarray(actual, dtype=np.float32).reshape(-1)
    if flat.size != told.size:
        raise InvalidInput(f"A spread is told by pairs; there are {told.size} actual values and {flat.size} forecasts.")
    kernels.tally_pairs(told, flat, LEAST, np.log(_BUCKET_RATIO), np.log(_SIZE_RATIO), counts, sums, means)
    at = np.flatnonzero(counts)
    return {"at": at.astype(np.int32), "counts": counts.reshape(-1)[at], "sums": sums.reshape(-1)[at], "means": means}


def fit_spread(tallies: Sequence[Learned]) -> Spread:
    """The distribution of each bucket. A bucket with less than a thousand pairs takes in its neighbours, nearest first.

    Without a single pair a forecast's distribution is Poisson's. O(buckets x sizes).
    """
    counts, sums, means = np.zeros(_N_BUCKETS * _N_SIZES), np.zeros(_N_BUCKETS * _N_SIZES), np.zeros((_N_BUCKETS, 2))
    for tally in tallies:
        counts[tally["at"]] += tally["counts"]
        sums[tally["at"]] += tally["sums"]
        means += tally["means"]
    if counts.sum() == 0:
        return _spread_of_poisson()
    table = counts.reshape(_N_BUCKETS, _N_SIZES)
    told = np.flatnonzero(table.any(axis=0))
    values = sums.reshape(_N_BUCKETS, _N_SIZES)[:, told].sum(axis=0) / table[:, told].sum(axis=0)
    return _widen(values, table[:, told], means)


@dataclass(frozen=True, eq=False)
class Spread:
    """Distributions by bucket of the forecast.

    Args:
        values: what may be sold, ascending.
        chances: buckets x values, rows sum to 1.
        last: the last bucket that enough pairs told of; the distribution of a forecast beyond it is its, stretched.
        centre: the mean forecast behind the last bucket.
    """

    values: Doubles
    chances: Doubles
    last: int
    centre: float

    def limits(self, forecast: Floats) -> tuple[Floats, Floats]:
        """Lower and upper limits that hold 90 % or, since sales come in lumps, a little more; the forecast itself lies within.

        The lower one leaves at most 5 % below it; the upper one is the first to make 90 %. O(cells).
        """
        bucket, stretch = self._find(forecast)
        lower, upper = (quantiles[bucket] * stretch for quantiles in self._quantiles)
        return np.minimum(lower, forecast).astype(np.float32), np.maximum(upper, forecast).astype(np.float32)

    def chance_of_any(self, forecast: Floats) -> Floats:
        """The chance that anything at all is sold. O(cells)."""
        bucket, _ = self._find(forecast)
        return self._any[bucket].astype(np.float32)

    def score(self, actual: Floats, forecast: Floats) -> Floats:
        """The CRPS of each cell, in units of sales; NaN where the actual is missing. 30 ns a cell."""
        told, means = np.ascontiguousarray(actual, dtype=np.float32), np.ascontiguousarray(forecast, dtype=np.float32)
        scores = np.empty(told.shape, dtype=np.float32)
        kernels.score_pairs(
            told.reshape(-1), means.reshape(-1), LEAST, np.log(_BUCKET_RATIO), self.last, self.centre, self.values, self._scores, scores.reshape(-1)
        )
        return scores

    def to_artefact(self) -> Artefact:
        return encode_arrays({"values": self.values, "chances": self.chances, "last": np.array(self.last), "centre": np.array(self.centre)})

    @staticmethod
    def from_artefact(artefact: Artefact) -> Spread:
        arrays = decode_arrays(artefact)
        return Spread(arrays["values"], arrays["chances"], int(arrays["last"]), float(arrays["centre"]))

    @cached_property
    def _below(self) -> Doubles:
        below: Doubles = np.minimum(np.cumsum(self.chances, axis=1), 1.0)
        return below

    @cached_property
    def _any(self) -> Doubles:
        any_sold: Doubles = self.chances[:, self.values > LEAST].sum(axis=1)
        return any_sold

    @cached_property
    def _scores(self) -> Doubles:
        """The CRPS of each value by bucket; between two values it is a straight line.

        E|X - v| from the areas under the distribution left of v and above it right of v, less half the mean distance of two draws.
        """
        gaps, nothing = np.diff(self.values), np.zeros((len(self.chances), 1))
        under, over = self._below[:, :-1] * gaps, (1 - self._below[:, :-1]) * gaps
        left = np.concatenate((nothing, np.cumsum(under, axis=1)), axis=1)
        right = np.concatenate((np.cumsum(over[:, ::-1], axis=1)[:, ::-1], nothing), axis=1)
        scores: Doubles = left + right - (self._below[:, :-1] * over).sum(axis=1, keepdims=True)
        return scores

    @cached_property
    def _quantiles(self) -> tuple[Doubles, Doubles]:
        rows = np.arange(len(self.chances))
        low = np.argmax(self._below > _TAIL, axis=1)
        dropped = self._below[rows, low] - self.chances[rows, low]
        high = np.argmax(self._below - dropped[:, None] >= 1 - 2 * _TAIL - 1e-9, axis=1)
        return self.values[low], self.values[high]

    def _find(self, forecast: Floats) -> tuple[NDArray[np.int64], Doubles]:
        """Each forecast's bucket, and how far beyond the last one it lies, as a factor."""
        size = np.log(np.maximum(forecast.astype(np.float64), LEAST) / LEAST) / np.log(_BUCKET_RATIO)
        bucket = np.where(forecast < LEAST, 0, 1 + np.floor(size)).astype(np.int64)
        return np.minimum(bucket, self.last), np.where(bucket > self.last, np.maximum(forecast, LEAST) / self.centre, 1.0)


def _widen(values: Doubles, counts: Doubles, means: Doubles) -> Spread:
    n_before = np.concatenate(([0.0], np.cumsum(counts.sum(axis=1))))
    counts_before = np.concatenate((np.zeros((1, values.size)), np.cumsum(counts, axis=0)))
    told = np.flatnonzero(means[:, 0] > 0)
    begin, end = np.zeros(_N_BUCKETS, dtype=np.int64), np.zeros(_N_BUCKETS, dtype=np.int64)
    for reach in range(_N_BUCKETS, -1, -1):
        first, stop = np.maximum(np.arange(_N_BUCKETS) - reach, 0), np.minimum(np.arange(_N_BUCKETS) + reach + 1, _N_BUCKETS)
        enough = (n_before[stop] - n_before[first] >= _ENOUGH) | (reach == _N_BUCKETS)
        begin, end = np.where(enough, first, begin), np.where(enough, stop, end)
    near = np.flatnonzero((end - begin <= 2 * _NEAR + 1) & (means[:, 0] > 0))
    last = int(near[-1]) if near.size else int(told[np.argmax(means[told, 0])])
    chances = counts_before[end] - counts_before[begin]
    of_last = means[begin[last] : end[last]].sum(axis=0)
    return Spread(values, chances / chances.sum(axis=1, keepdims=True), last, max(float(of_last[1] / of_last[0]), LEAST))


def _spread_of_poisson() -> Spread:
    values = np.arange(100.0)
    centres = np.minimum(LEAST * _BUCKET_RATIO ** (np.arange(_N_BUCKETS) - 0.5), 30.0)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(values[1:]))))
    chances = np.exp(values * np.log(centres)[:, None] - centres[:, None] - log_factorials)
    last = int(np.argmax(centres))
    return Spread(values, chances / chances.sum(axis=1, keepdims=True), last, float(centres[last]))
