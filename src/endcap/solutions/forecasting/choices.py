"""The choice of a method for each member, where the evidence allows, and for its group where it does not.

Methods are compared by their absolute errors on the same back-test origins. What a method saves a member against its group's method is
known only within noise: with few origins the noise of each member is moderated by that of all (Smyth, *Linear models and empirical Bayes
methods*, 2004), and the savings are shrunk towards their mean over all members (James and Stein's estimator in Efron and Morris's form,
*Stein's estimation rule and its competitors*, 1973). A member leaves its group's method only where what is left is clearly a saving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Panel, Statics
from endcap.solutions.forecasting.backtests import Cube
from endcap.solutions.forecasting.memberships import Membership

_CLEARLY = 1.64  # standard deviations, one-sided 5 %
_STUDENT_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)  # by degrees of freedom from 1
_PRIOR_ORIGINS = 8.0  # how many origins' worth of noise the noise of all members counts
_LEAST_MEMBERS = 5
_MOST_GROUPS = 60

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A method by name for each member; ``by_group`` for the others of a group (values of the fact ``group``), ``overall`` for anybody else."""

    overall: str
    group: str | None
    by_group: dict[str, str]
    by_member: dict[str, str]

    @property
    def tells_apart(self) -> bool:
        """Whether anybody has another method than the overall one."""
        return bool(self.by_group or self.by_member)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that answer for somebody, or would for somebody new."""
        return tuple(dict.fromkeys((self.overall, *self.by_group.values(), *self.by_member.values())))

    def of_series(self, panel: Panel, membership: Membership) -> list[str]:
        """The method of each series: its member's own, otherwise its group's, otherwise the overall one."""
        labels = _label_groups(panel.statics.get(self.group or ""), panel.n_series)
        return [
            self.by_member.get(membership.names[member]) or self.by_group.get(label) or self.overall
            for member, label in zip(membership.codes, labels, strict=True)
        ]


def choose_methods(panel: Panel, membership: Membership, *, actual: Cube, forecasts: dict[str, Cube]) -> Choice:
    """Choose from back-test cubes (n_series x n_origins x horizon). Without two origins everybody takes the method that is best overall.

    Cost: one pass over each cube. Raises ValueError without a method.
    """
    names = list(forecasts)
    there = np.isfinite(actual) & np.logical_and.reduce([np.isfinite(cube) for cube in forecasts.values()])  # rows that all methods answered
    # n_methods x n_members x n_origins sums of absolute errors
    errors = np.stack([membership.sum(np.where(there, np.abs(cube - actual), 0.0).sum(axis=2)) for cube in forecasts.values()])
    size = membership.sum(np.where(there, np.abs(actual), 0.0).sum(axis=2))
    best = int(np.argmin(errors.sum(axis=(1, 2))))
    group, labels = _find_group(panel, membership)
    by_group: dict[str, str] = {}
    base = np.full(membership.n, best)
    for label in dict.fromkeys(label for label in labels if label):
        members = np.flatnonzero([own == label for own in labels])
        if members.size >= _LEAST_MEMBERS:
            found = _choose_for_group(errors[:, members], best)
            if found != best:
                by_group[label], base[members] = names[found], found
    chosen = _choose_for_members(errors, size, base)
    own = {membership.names[i]: names[chosen[i]] for i in np.flatnonzero(chosen != base)}
    return Choice(names[best], group if by_group else None, by_group, own)


def _choose_for_group(errors: Doubles, best: int) -> int:
    """The method that is clearly better than the overall best for a group's sums, an origin a sample; otherwise that best."""
    saved = errors.sum(axis=1) - errors[best].sum(axis=0)  # n_methods x n_origins; below 0 is better
    k = saved.shape[1]
    if k < 2:
        return best
    mean, noise = saved.mean(axis=1), saved.std(axis=1, ddof=1) / np.sqrt(k)
    # Few origins make a lucky row of them: Student's quantile in place of the normal one.
    clear = mean + _STUDENT_95[min(k - 1, len(_STUDENT_95)) - 1] * noise < 0
    return int(np.argmin(np.where(clear, mean, np.inf))) if clear.any() else best


def _choose_for_members(errors: Doubles, size: Doubles, base: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each member the method whose shrunken saving against its group's method is clearly one; otherwise its group's."""
    n_methods, n_members, k = errors.shape
    chosen = base.copy()
    usual = size.mean(axis=1)
    usable = usual > 0
    if k < 2 or usable.sum() < _LEAST_MEMBERS:
        return chosen
    most = np.zeros(n_members)
    for method in range(n_methods):
        asked = usable & (base != method)
        if asked.sum() < _LEAST_MEMBERS:
            continue
        saved = (errors[method, asked] - errors[base[asked], np.flatnonzero(asked)]) / usual[asked, None]
        mean, noise = saved.mean(axis=1), saved.var(axis=1, ddof=1)
        usual_noise = float(np.mean(noise))
        variance = (_PRIOR_ORIGINS * usual_noise + (k - 1) * noise) / (_PRIOR_ORIGINS + k - 1) / k
        centre = float(np.average(mean, weights=1 / np.maximum(variance, 1e-12)))
        between = max(0.0, float(np.var(mean)) - float(variance.mean()))
        if between == 0:
            continue  # all that members differ by is noise
        weight = between / (between + variance)
        shrunk, spread = centre + weight * (mean - centre), np.sqrt(weight * variance)
        clear = (shrunk + _CLEARLY * spread < 0) & (shrunk < most[asked])
        places = np.flatnonzero(asked)[clear]
        chosen[places], most[places] = method, shrunk[clear]
    return chosen


def _find_group(panel: Panel, membership: Membership) -> tuple[str | None, list[str]]:
    """The static fact by which members are grouped: the finest that gives groups of enough members; and each member's value of it."""
    first = np.unique(membership.codes, return_index=True)[1]
    found: tuple[str | None, list[str]] = (None, [""] * membership.n)
    most = 1
    for name, fact in panel.statics.items():
        n_labels = len(set(fact.codes[first].tolist()) - {-1})
        if most < n_labels <= min(_MOST_GROUPS, membership.n // _LEAST_MEMBERS):
            most, found = n_labels, (name, [_label_groups(fact, panel.n_series)[i] for i in first])
    return found


def _label_groups(fact: Statics | None, n: int) -> list[str]:
    if fact is None:
        return [""] * n
    return [fact.labels[code] if code >= 0 else "" for code in fact.codes]
