"""The bootstrap over series and origins: is one forecast better than another, or was it luck?"""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray


class RatioInterval(msgspec.Struct, frozen=True):
    """The ratio of a version's error to its rival's and its bootstrap interval; below 1 the version is better."""

    ratio: float
    lower: float
    upper: float
    n_series: int
    n_origins: int


def compare_errors(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    *,
    rng: np.random.Generator,
    tail: float = 0.05,
    n_draws: int = 2000,
) -> RatioInterval:
    """A two-way bootstrap of the ratio of two sums of errors.

    Both arrays are n_series x n_origins sums over the same pairs (so that a weight of actual values, being the same in both, cancels).
    Series and origins are drawn with replacement independently of one another: errors of one origin share its weather, errors of one
    series its quirks (Owen, *The pigeonhole bootstrap*, 2007). With a single series only origins vary, and the reverse; with one of each
    the interval is the point. ``tail`` is left out on either side: 0.05 gives the 90 % interval.
    Cost: n_draws x n_series x n_origins multiplications.
    """
    n_series, n_origins = ours.shape
    total = float(theirs.sum())
    if total == 0:
        point = 1.0 if float(ours.sum()) == 0 else float("inf")
        return RatioInterval(point, point, point, n_series, n_origins)
    by_series = rng.multinomial(n_series, np.full(n_series, 1 / n_series), size=n_draws) if n_series > 1 else np.ones((n_draws, 1))
    by_origin = rng.multinomial(n_origins, np.full(n_origins, 1 / n_origins), size=n_draws) if n_origins > 1 else np.ones((n_draws, 1))
    above = np.einsum("do,do->d", by_series @ ours, by_origin)
    below = np.einsum("do,do->d", by_series @ theirs, by_origin)
    # Draws in which the rival has no error: as good where we have none either, otherwise infinitely worse. Limits are draws themselves,
    # the next one outwards: between a number and infinity nothing can be interpolated.
    ratios = np.divide(above, below, out=np.where(above > 0, np.inf, 1.0), where=below > 0)
    ratios.sort()
    lower, upper = ratios[math.floor(tail * (n_draws - 1))], ratios[math.ceil((1 - tail) * (n_draws - 1))]
    return RatioInterval(float(ours.sum()) / total, float(lower), float(upper), n_series, n_origins)


def widen_tail(tail: float, n_units: int) -> float:
    """The tail of a percentile bootstrap whose interval is as wide as Student's would be, where only ``n_units`` independent units are drawn.

    The bootstrap's own interval is too narrow by the root of (n - 1) / n and by the normal quantile in place of Student's (Hesterberg, *What
    teachers should know about the bootstrap*, The American Statistician 69, 2015: the expanded percentile interval).

    >>> round(widen_tail(0.05, 10), 3), round(widen_tail(0.05, 100_000), 3)
    (0.027, 0.05)
    """
    if n_units < 2:
        return tail
    from scipy.special import stdtrit

    return NormalDist().cdf(float(stdtrit(n_units - 1, tail)) * math.sqrt(n_units / (n_units - 1)))
