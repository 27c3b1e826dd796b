"""Tests of ratios of sums over groups and origins: is a figure above its limit, or is that chance? Closed forms, so that a thousand slices cost
little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of two sums with its variance by linearisation and the degrees of freedom of that (0: nothing is known of how it varies)."""

    value: float
    variance: float
    df: float


def find_above(errors: Sums, weights: Sums, *, limit: float) -> float:
    """The probability of a ratio of sums so far above ``limit`` by chance, one-sided; 1 where it is not above or there is nothing to judge by.

    ``errors`` and ``weights`` are n_groups x n_origins. What is tested is whether the mean of errors - limit x weights is above 0, by Student's t
    over the groups, and over the origins as well where there are several: the variances of both ways are added (Cameron, Gelbach and Miller,
    *Robust inference with multiway clustering*, Journal of Business & Economic Statistics 29, 2011; their third term, which is subtracted, is
    left out, so that the sum is never negative and the test never rejects too often for it: Davezies, D'Haultfoeuille and Guyonvarch, Annals of
    Statistics 49, 2021). Errors are skewed to the right, which makes Student's upper tail reject less often than it says. One pass.
    """
    excess = errors - limit * weights
    total = float(excess.sum())
    variance, df = _find_variance(excess)
    if total <= 0 or df <= 0:
        return 1.0
    if variance <= 0:
        return 0.0  # every unit is above by the same
    return _exceed_student(total / math.sqrt(variance), df)


def measure_ratio(errors: Sums, weights: Sums) -> Ratio | None:
    """The ratio of two sums and its variance by the same two ways, of errors - ratio x weights; None where there is nothing to divide by."""
    below = float(weights.sum())
    if below <= 0:
        return None
    value = float(errors.sum()) / below
    variance, df = _find_variance(errors - value * weights)
    return Ratio(value, variance / below**2, df)


def find_worse(ours: Ratio, theirs: Ratio, *, times: float) -> float:
    """The probability of a ratio so far above ``times`` another one by chance, one-sided, for ratios that do not depend on one another.

    Where both share their weather the difference varies less than is reckoned here, so that the test is on the safe side. The degrees of freedom
    are Welch's (Biometrika 34, 1947).
    """
    excess = ours.value - times * theirs.value
    parts = (ours.variance, times**2 * theirs.variance)
    if excess <= 0 or min(ours.df, theirs.df) <= 0:
        return 1.0
    if sum(parts) <= 0:
        return 0.0
    return _exceed_student(excess / math.sqrt(sum(parts)), _pool_df(parts, (ours.df, theirs.df)))


def adjust_holm(p: Sequence[float]) -> NDArray[np.float64]:
    """p-values adjusted so that naming all up to a level names a single one wrongly no more often than that, whatever their dependence.

    Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6 (1979).

    >>> adjust_holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    found = np.asarray(p, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    adjusted = np.empty(found.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(found[order] * np.arange(found.size, 0, -1)), 1.0)
    return adjusted


def _find_variance(excess: Sums) -> tuple[float, float]:
    """The variance of the sum over groups and over origins, added, and its degrees of freedom: Satterthwaite's (Biometrics Bulletin 2, 1946), of
    fewer than three units those of the fewer, as simulations ask for.

    An only group or origin says nothing of how it varies, and is left out.
    """
    parts, dfs = [], []
    for axis in (1, 0):
        sums = excess.sum(axis=axis)
        if sums.size > 1:
            parts.append(float(sums.size / (sums.size - 1) * np.square(sums - sums.mean()).sum()))
            dfs.append(sums.size - 1)
    if not parts or sum(parts) <= 0 or min(dfs) < 2:
        return sum(parts), float(min(dfs, default=0))
    return sum(parts), _pool_df(parts, dfs)


def _pool_df(variances: Sequence[float], dfs: Sequence[float]) -> float:
    """The degrees of freedom of a sum of variances, by Satterthwaite and Welch."""
    return sum(variances) ** 2 / sum(variance**2 / df for variance, df in zip(variances, dfs, strict=True))


def _exceed_student(t: float, df: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, -t))
