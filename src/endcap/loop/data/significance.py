"""How likely a difference is by chance: p-values of samples from their counts, and many of them at once.

The few functions that this takes are closed forms and short series: to import them would take longer than to compare two profiles.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_LEAST_EXPECTED = 5.0


def adjust_p_values(p: Vector) -> Vector:
    """p-values adjusted by the method of Benjamini and Hochberg: naming all up to a rate keeps the false discovery rate at it.

    *Controlling the false discovery rate*, Journal of the Royal Statistical Society B 57 (1995). It holds for independent tests and for
    one-sided tests that depend positively on one another (Benjamini and Yekutieli, Annals of Statistics 29, 2001, theorem 1.2), as errors of
    stores do that share weather; their correction for any dependence whatever costs a factor of 8 at 2,200 members and is not made. One sort.

    >>> adjust_p_values(np.array([0.04, 0.001, 0.03])).round(3).tolist()
    [0.04, 0.003, 0.04]
    """
    n = p.size
    order = np.argsort(p)
    scaled = p[order] * n / np.arange(1, n + 1)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def find_ks_p(distance: float, *, n_a: float, n_b: float) -> float:
    """The probability that two samples of one continuous distribution differ by so much, two-sided; on the safe side where values repeat.

    Kolmogorov's distribution with Stephens's correction for samples that are not large (Journal of the Royal Statistical Society B 32, 1970).
    """
    n = n_a * n_b / (n_a + n_b)
    return _exceed_kolmogorov((math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance)


def find_share_p(n_hits_a: float, n_hits_b: float, *, n_a: float, n_b: float) -> float:
    """The probability that two samples of one population differ by so much in a share, two-sided: the z-test with pooled variance.

    >>> round(find_share_p(10, 30, n_a=100, n_b=100), 5)
    0.00041
    """
    pooled = (n_hits_a + n_hits_b) / (n_a + n_b)
    variance = pooled * (1 - pooled) * (1 / n_a + 1 / n_b)
    if variance <= 0:
        return 1.0
    return math.erfc(abs(n_hits_a / n_a - n_hits_b / n_b) / math.sqrt(2 * variance))


def find_chi_square(a: Vector, b: Vector) -> tuple[float, float] | None:
    """Pearson's chi-square of two rows of counts by category, and the probability of one as great by chance.

    Categories with an expected count below five in either row are taken together, as Cochran advises (Biometrics 10, 1954). None where fewer
    than two are left.

    >>> tuple(round(x, 4) for x in find_chi_square(np.array([30.0, 70.0]), np.array([50.0, 50.0])))
    (8.3333, 0.0039)
    """
    n_a, n_b = float(a.sum()), float(b.sum())
    if min(n_a, n_b) <= 0:
        return None
    rare = (a + b) * min(n_a, n_b) / (n_a + n_b) < _LEAST_EXPECTED
    table = np.array([[*row[~rare], row[rare].sum()] for row in (a, b)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return None
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / (n_a + n_b)
    statistic = float((np.square(table - expected) / expected).sum())
    return statistic, _exceed_chi_square(statistic, df=table.shape[1] - 1)


def find_chance_psi(n_bins: int, *, n_a: float, n_b: float, level: float = 0.05) -> float:
    """The population stability index that samples of one population exceed with probability ``level``: it is nearly (1/n + 1/m) times a chi-square
    with a degree of freedom less than there are bins (Yurdakul and Naranjo, *Statistical properties of the population stability index*, Journal
    of Risk Model Validation 14, 2020).
    """
    if n_bins < 2:
        return 0.0
    # The quantile of chi-square by Wilson and Hilferty (Proceedings of the National Academy of Sciences 17, 1931), good to a percent.
    spread = 2 / (9 * (n_bins - 1))
    root = 1 - spread + NormalDist().inv_cdf(1 - level) * math.sqrt(spread)
    return (n_bins - 1) * root**3 * (1 / n_a + 1 / n_b)


def _exceed_kolmogorov(value: float) -> float:
    """The probability that Kolmogorov's statistic exceeds a value: each of its two series where it is the shorter."""
    if value < 0.2:
        return 1.0
    if value < 1.2:
        step = math.pi**2 / (8 * value**2)
        return 1 - math.sqrt(2 * math.pi) / value * math.fsum(math.exp(-((2 * k - 1) ** 2) * step) for k in range(1, 6))
    return 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * value) ** 2) for k in range(1, 6))


def _exceed_chi_square(value: float, *, df: int) -> float:
    """The probability that chi-square with ``df`` degrees of freedom exceeds a value: a finite sum, as ``df`` is a whole number."""
    if value <= 0:
        return 1.0
    half, odd = value / 2, df % 2
    powers = [k + odd / 2 for k in range(df // 2)]
    terms = [math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers]
    return min(math.fsum([math.erfc(math.sqrt(half)) if odd else 0.0, *terms]), 1.0)
