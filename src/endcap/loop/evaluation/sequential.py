"""Looking every day without raising false alarms: the limits of a group-sequential test.

O'Brien and Fleming, *A multiple testing procedure for clinical trials*, Biometrics 35 (1979), in the form of Lan and DeMets, *Discrete
sequential boundaries for clinical trials*, Biometrika 70 (1983): of the false alarms that are allowed, only so many are spent by each look as
``2 - 2 Phi(z / sqrt(t))`` says at the share t of the planned days. Early looks need very much, the last one hardly more than a single test.
Limits are found by the recursion of Armitage, McPherson and Rowe (Journal of the Royal Statistical Society A 132, 1969).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FIRST_LOOK = 7
"""Days before the first look: weekdays differ, so less than a week says nothing."""

_N_GRID = 501
_MOST = 38.0  # normal deviations; beyond it a probability is no number any more


@lru_cache(maxsize=64)
def daily_limits(n_days: int, *, alpha: float = 0.05) -> tuple[float, ...]:
    """The limit of the standardised difference, either way, at each look: after day ``FIRST_LOOK``, and every day up to ``n_days``.

    The looks' share of information is taken as their share of days. Members that differ lastingly make looks more alike than that, and the
    limits then keep more than they promise. Cost: n_days x 501 x 501 multiplications, once.

    >>> limits = daily_limits(28)
    >>> len(limits), round(limits[0], 2), round(limits[-1], 2)
    (22, 3.92, 2.19)
    """
    from scipy.special import ndtr, ndtri

    z = float(-ndtri(alpha / 2))
    shares = np.arange(FIRST_LOOK, n_days + 1) / n_days
    spent = 2 * ndtr(-z / np.sqrt(shares))
    limits: list[float] = []
    places, density, before = np.zeros(1), np.ones(1), 0.0  # of the process at the last look, where it had not crossed; weights included
    for share, step in zip(shares, np.diff(spent, prepend=0.0), strict=True):
        spread = np.sqrt(share - before)
        limit = _solve(places, density, spread=spread, share=share, wanted=float(step))
        limits.append(limit)
        edge = min(limit * np.sqrt(share), _MOST)
        grid = np.linspace(-edge, edge, _N_GRID)
        weights = np.full(_N_GRID, grid[1] - grid[0])
        weights[[0, -1]] /= 2
        steps = (grid[:, None] - places[None, :]) / spread
        density = weights * (np.exp(-(steps**2) / 2) / (spread * np.sqrt(2 * np.pi)) @ density)
        places, before = grid, float(share)
    return tuple(limits)


def widen_limit(limit: float, *, df: float) -> float:
    """The same limit where the variance is estimated with ``df`` degrees of freedom: equal tail probability under Student's t."""
    from scipy.special import ndtr, stdtrit

    return float(-stdtrit(df, ndtr(-limit))) if df > 0 else float("inf")


def _solve(places: NDArray[np.float64], density: NDArray[np.float64], *, spread: float, share: float, wanted: float) -> float:
    """The limit that is crossed at this look, and not before, with the wanted probability: by halving."""
    from scipy.special import ndtr

    low, high = 0.0, _MOST
    for _ in range(60):
        middle = (low + high) / 2
        edge = middle * np.sqrt(share)
        crossed = float(density @ (ndtr((-edge - places) / spread) + ndtr((places - edge) / spread)))
        low, high = (middle, high) if crossed > wanted else (low, middle)
    return high
