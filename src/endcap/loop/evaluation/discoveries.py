"""Many tests at once: which of thousands of members fell, with the share of false alarms among the named kept small.

Each member is tested on its own days; what all members share is taken out first, so that a storm over the whole chain is one finding about the
model and not one about each store.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.data.significance import adjust_p_values
from endcap.loop.evaluation.member_days import MemberDays

Vector = NDArray[np.float64]

_LEAST_MEMBERS = 10
"""With fewer members nobody can say what they share: the one that fell would be half of it."""


@dataclass(frozen=True, eq=False)
class Falls:
    """What the tests found, one entry a member in the order of the sums; NaN where it was not judged.

    ``ratio`` is the live error over the promised one, ``p`` the probability of as much excess by chance, ``q`` the same adjusted for the number
    of members: those with q up to the rate ``fell``. ``common`` is how much the error of the typical member grew (1: not at all).
    """

    judged: NDArray[np.bool_]
    fell: NDArray[np.bool_]
    ratio: Vector
    p: Vector
    q: Vector
    common: float


def find_falls(live: MemberDays, *, validated: Vector, factor: float, rate: float, least_days: int) -> Falls:
    """Test of each member whether its live error is above ``factor`` times the promised one, beyond what all members share and chance explains.

    ``live.promised`` holds the promise by member and day; ``validated`` how many values each promise comes from (shape (n_members,)), as a promise
    from few values is itself uncertain. A member is judged that has ``least_days`` days with outcomes and a promise above 0.

    A one-sided t-test of the logarithm of live over promised, with the spread of the member's own days. Spreads are drawn together over members
    (Smyth, *Linear models and empirical Bayes methods*, Statistical Applications in Genetics and Molecular Biology 3, 2004), as two weeks tell
    little of one, and widened by the serial correlation of days that all members show. The limit follows the chain: on each day it moves with
    the error of the typical member, and over the window it is raised where that grew. Cost: a few passes over the sums and a median a day.
    """
    from scipy.special import stdtr

    n_members = len(live.members)
    there = live.n > 0
    n_days = there.sum(axis=1)
    promised, absolute = live.promised.sum(axis=1), live.absolute.sum(axis=1)
    judged = (n_days >= max(2, least_days)) & np.isfinite(promised) & (promised > 0) & (validated > 0)
    blank = np.full(n_members, np.nan)
    if not judged.any():
        return Falls(judged, np.zeros(n_members, np.bool_), blank, blank.copy(), blank.copy(), 1.0)
    t, days, rows = there[judged], n_days[judged].astype(np.float64), live.n[judged].sum(axis=1)
    common, shape = _find_common(live.absolute[judged], live.promised[judged], t)
    # On the scale of logarithms: an error that doubled varies twice as much from day to day too, and would hide itself on its own scale.
    expected = np.where(t, live.promised[judged] * shape, 0.0)
    grown = live.absolute[judged].sum(axis=1) / np.maximum(expected.sum(axis=1), np.finfo(np.float64).tiny)
    level = np.where(t, live.absolute[judged], 0.0).sum(axis=1) / days
    residual = np.divide(
        live.absolute[judged] - grown[:, None] * expected, level[:, None], out=np.zeros_like(expected), where=t & (level[:, None] > 0)
    )
    inflation = _inflate(residual, t, days)
    df = days - 1
    spread = np.square(residual).sum(axis=1) / df / np.maximum(1 - (inflation - 1) / df, 0.2)
    spread, df = _moderate(spread, df / inflation)
    validated_days = validated[judged] * days / rows
    error = np.sqrt(spread * inflation * (1 / days + 1 / validated_days))
    with np.errstate(divide="ignore"):  # no error at all is as good as can be
        excess = np.log(grown) - np.log(factor * max(1.0, common))
    # Days that are all alike leave no spread; then the excess is certain either way.
    score = np.divide(excess, error, out=np.where(excess > 0, np.inf, -np.inf), where=error > 0)
    p, q, ratio = blank.copy(), blank.copy(), blank.copy()
    p[judged] = stdtr(df, -score)
    q[judged] = adjust_p_values(p[judged])
    ratio[judged] = absolute[judged] / promised[judged]
    return Falls(judged, judged & (np.nan_to_num(q, nan=1.0) <= rate), ratio, p, q, common)


def _find_common(absolute: Vector, promised: Vector, there: NDArray[np.bool_]) -> tuple[float, Vector]:
    """By how much the error of the typical member grew, and the shape of that over the days (mean 1): medians, which a tenth of fallen members
    hardly moves.
    """
    n_members, n_days = absolute.shape
    if n_members < _LEAST_MEMBERS:
        return 1.0, np.ones(n_days)
    usable = there & (promised > 0)
    ratios = np.where(usable, absolute / np.where(usable, promised, 1.0), np.nan)
    full = usable.sum(axis=0) >= _LEAST_MEMBERS
    daily = np.ones(n_days)
    if full.any():
        typical = np.nanmedian(ratios[:, full], axis=0)
        if (typical > 0).all():
            daily[full] = typical / typical.mean()
    return float(np.median(absolute.sum(axis=1) / promised.sum(axis=1))), daily


def _inflate(residual: Vector, there: NDArray[np.bool_], days: Vector) -> Vector:
    """How much the variance of a member's mean is above that of independent days, from the correlation of neighbouring days over all members.

    Means taken out make neighbours look less alike; the correction is Marriott and Pope's (Biometrika 41, 1954).
    """
    pairs = there[:, 1:] & there[:, :-1]
    total, n = float(np.square(residual).sum()), float(days.sum())
    if not pairs.any() or total == 0:
        return np.ones_like(days)
    lagged = float((residual[:, 1:] * residual[:, :-1])[pairs].sum()) / float(pairs.sum()) / (total / n)
    length = float(days.mean())
    rho = np.clip((lagged + 1 / length) / max(1 - 4 / length, 0.2), 0.0, 0.8)
    lags = np.arange(1, residual.shape[1])
    weights = np.clip(1 - lags[None, :] / days[:, None], 0.0, None)
    inflated: Vector = 1 + 2 * (weights * rho**lags).sum(axis=1)
    return inflated


def _moderate(spread: Vector, df: Vector) -> tuple[Vector, Vector]:
    """Variances drawn towards their common value by as much as they look alike, with the degrees of freedom that gives."""
    from scipy.special import digamma, polygamma

    told = spread > 0
    if told.sum() < _LEAST_MEMBERS:
        return spread, df
    half = df[told] / 2
    logs = np.log(spread[told]) - digamma(half) + np.log(half)
    centre = float(logs.mean())
    between = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if between <= 0:
        return np.full_like(spread, np.exp(centre)), df + 1e6
    prior = 2 * _invert_trigamma(between)
    common = np.exp(centre + float(digamma(prior / 2)) - np.log(prior / 2))
    moderated: Vector = (prior * common + df * spread) / (prior + df)
    return moderated, df + prior


def _invert_trigamma(value: float) -> float:
    """The x whose trigamma is ``value``, by Newton's method on its reciprocal, which is nearly a line (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return float(x)
