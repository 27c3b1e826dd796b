"""What a comparison of two groups of members shows: the difference, an interval that may be looked at every day, and the sample still needed.

Members, not rows, were drawn, so a member is what varies: figures are ratios of sums over members, their variance that of the members' influence
on them (the delta method). What a member's error and size were before the start takes away much of what members differ by (CUPED: Deng, Xu,
Kohavi and Walker, *Improving the sensitivity of online controlled experiments by utilizing pre-experiment data*, WSDM 2013). Limits are those
of ``sequential``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.member_days import MemberDays
from endcap.loop.evaluation.records import Finding
from endcap.loop.evaluation.sequential import FIRST_LOOK, daily_limits, widen_limit

Vector = NDArray[np.float64]
Array = NDArray[np.float64]

_POWER_Z = 0.8416212335729143  # the normal quantile of 80 % power
_MOST_DAYS_NEEDED = 730
_ENOUGH_FOR_TWO = 20  # members for two slopes
_ROUGH = 10  # members; with fewer, intervals over heavy-tailed errors miss about twice as often as they say


@dataclass(frozen=True)
class Compared:
    """A figure as a function of two sums over a group: ``above`` over ``below``, then ``turn``; ``slope`` is the derivative of ``turn``.

    ``below`` may be ``days``: the days on which a member had outcomes. ``less_is_better`` None: it is neither.
    """

    above: str
    below: str
    turn: Callable[[float], float] = float
    slope: Callable[[float], float] = lambda _: 1.0
    less_is_better: bool | None = True


FIGURES: dict[str, Compared] = {
    "wape": Compared("absolute", "actual"),
    "mae": Compared("absolute", "n"),
    "rmse": Compared("squared", "n", lambda r: float(np.sqrt(r)), lambda r: 0.5 / float(np.sqrt(r)) if r > 0 else 0.0),
    "bias": Compared("error", "actual", abs, lambda r: 1.0 if r >= 0 else -1.0),
    "actual per member-day": Compared("actual", "days", less_is_better=None),
}
"""What can be compared. The bias counts by its size, whatever its sign; the last is what was sold, wherever it comes from."""


def compare_groups(
    live: MemberDays,
    before: MemberDays | None,
    *,
    in_b: NDArray[np.bool_],
    metric: str,
    smallest: float,
    n_planned: int,
    alpha: float = 0.05,
    alike: str = "",
) -> Finding:
    """Compare a figure of group b with that of group a.

    ``live`` are the sums since the start, each member's by the version that answers for it; ``in_b`` says of each of its members whether it
    belongs to b. ``before`` are sums over the same members in the same order before the start, None without any. Only days count on which both
    groups have outcomes, and of those the first ``n_planned``: what comes later is not looked at, since its limits would not be
    those that were planned. ``alike`` is how the figure is called in the sentence ('': as it is). A member without outcomes is left out.

    Over all looks together the interval misses the true difference with probability ``alpha``. Cost: a few passes over the sums.
    """
    name, what = alike or metric, FIGURES[metric]
    both = (live.n[~in_b].sum(axis=0) > 0) & (live.n[in_b].sum(axis=0) > 0)
    looked = np.flatnonzero(both)[:n_planned]
    n_days = int(looked.size)
    above, below = _sums(live, what)
    above, below = above[:, looked], below[:, looked]
    there = live.n[:, looked].sum(axis=1) > 0
    above, below, b = above[there], below[there], in_b[there]
    n_a, n_b = int((~b).sum()), int(b.sum())
    sides = [_Side.of(above[mask], below[mask], what) for mask in (~b, b)]
    blank = Finding(
        metric=name, figure_a=sides[0].figure, figure_b=sides[1].figure, n_a=n_a, n_b=n_b, n_days=n_days, n_planned=n_planned, sentence=""
    )
    if n_days < FIRST_LOOK or min(n_a, n_b) < 2 or sides[0].figure is None or sides[1].figure is None:
        return _replace(blank, sentence=_too_early(blank))
    influence = np.zeros(b.size)
    influence[~b], influence[b] = sides[0].influence, sides[1].influence
    covariates = None if before is None else _covariates(before, what, there=there)
    adjusted, shift, left, df = _adjust(influence, covariates, b)
    variances = np.array([adjusted[~b].var(ddof=1) / n_a, adjusted[b].var(ddof=1) / n_b]) * (n_a + n_b - 2) / df
    variance = float(variances.sum())
    difference = sides[1].figure - sides[0].figure - shift
    limits = daily_limits(n_planned, alpha=alpha)
    reach = widen_limit(limits[n_days - FIRST_LOOK], df=df) * float(np.sqrt(variance))
    lower, upper = difference - reach, difference + reach
    better = ""
    if what.less_is_better is not None and (upper < 0 or lower > 0):
        better = "b" if (upper < 0) == what.less_is_better else "a"
    noise = sides[0].noise / n_a + sides[1].noise / n_b
    wanted = (smallest * sides[0].figure / (widen_limit(limits[-1], df=df) + _POWER_Z)) ** 2
    days, members = _need(variance, min(noise, variance), n_days=n_days, n_planned=n_planned, n_members=n_a + n_b, wanted=wanted)
    found = _replace(
        blank,
        difference=difference,
        lower=lower,
        upper=upper,
        better=better,
        variance_left=left,
        n_days_needed=days,
        n_members_needed=members,
    )
    return _replace(found, sentence=_describe(found, smallest=smallest, judged=what.less_is_better is not None))


@dataclass(frozen=True, eq=False)
class _Side:
    """One group: its figure, each member's influence on it, and the variance of a member's influence that days alone bring."""

    figure: float | None
    influence: Vector
    noise: float

    @classmethod
    def of(cls, above: Vector, below: Vector, what: Compared) -> _Side:
        total = float(below.sum())
        if total <= 0:
            return cls(None, np.zeros(len(above)), 0.0)
        ratio = float(above.sum()) / total
        slope, mean = what.slope(ratio), total / len(below)
        daily = slope * (above - ratio * below) / mean  # sums over days to the member's influence
        n_days = above.shape[1]
        noise = float(daily.var(axis=1, ddof=1).mean() * n_days) if n_days > 1 else 0.0
        return cls(what.turn(ratio), daily.sum(axis=1), noise)


def _sums(sums: MemberDays, what: Compared) -> tuple[Vector, Vector]:
    below = (sums.n > 0).astype(np.float64) if what.below == "days" else getattr(sums, what.below)
    return getattr(sums, what.above), below


def _covariates(before: MemberDays, what: Compared, *, there: NDArray[np.bool_]) -> Array | None:
    """What is known of each member from before the start, n_members x 2: its influence on the figure of all, and its size.

    0, the mean, for members that were not there. None: nobody was. Size counts because figures are ratios of sums, in which a large store weighs
    more, and tends to err less.
    """
    above, below = _sums(before, what)
    above, below = above[there].sum(axis=1), below[there].sum(axis=1)
    if before.days.size == 0 or below.sum() <= 0:
        return None
    ratio, known = float(above.sum() / below.sum()), below > 0
    size = np.where(known, below / float(below[known].mean()) - 1, 0.0)
    return np.column_stack([(above - ratio * below) / float(below.mean()), size])


def _adjust(influence: Vector, covariates: Array | None, b: NDArray[np.bool_]) -> tuple[Vector, float, float | None, int]:
    """The influences less what the time before explains, the difference it explains, the share of variance left, degrees of freedom.

    The slopes are one for both groups, from within them: the groups' means play no part in them. With few members only the first covariate
    is used, with very few none.
    """
    df = b.size - 2
    if covariates is None or df < 4:
        return influence, 0.0, None, df
    used = covariates[:, : 2 if df >= _ENOUGH_FOR_TWO else 1]
    means = np.stack([used[~b].mean(axis=0), used[b].mean(axis=0)])
    within = used - means[b.astype(np.int64)]
    inverse = np.linalg.pinv(within.T @ within)
    slopes = inverse @ (within.T @ influence)
    left = influence - within @ slopes
    total = float(influence @ influence)
    share = float(left @ left) / total if total > 0 else 1.0
    # A member that sticks out before the start pulls the slopes towards itself and hides its own residual (HC3: MacKinnon and White,
    # Journal of Econometrics 29, 1985).
    pull = np.einsum("ij,jk,ik->i", within, inverse, within)
    return left / (1 - np.minimum(pull, 0.5)), float((means[1] - means[0]) @ slopes), share, df - used.shape[1]


def _need(variance: float, noise: float, *, n_days: int, n_planned: int, n_members: int, wanted: float) -> tuple[int | None, int | None]:
    """Days with these members, and members at the planned days, at which the variance is as small as wanted.

    Of the variance, the part that days bring shrinks with days, and the rest, by which members differ lastingly, with members only.
    """
    if wanted <= 0:
        return None, None
    lasting = variance - noise
    days = max(FIRST_LOOK, int(np.ceil(noise * n_days / (wanted - lasting)))) if wanted > lasting else None
    at_plan = lasting + noise * n_days / n_planned
    members = max(4, int(np.ceil(n_members * at_plan / wanted)))
    return (days if days is not None and days <= _MOST_DAYS_NEEDED else None), members


def _replace(finding: Finding, **changes: object) -> Finding:
    import msgspec

    return msgspec.structs.replace(finding, **changes)


def _too_early(finding: Finding) -> str:
    if min(finding.n_a, finding.n_b) < 2:
        return f"{finding.metric}: outcomes of {finding.n_a} members in a and {finding.n_b} in b, too few to compare"
    if finding.n_days < FIRST_LOOK:
        return f"{finding.metric}: {finding.n_days} days with outcomes in both groups; it is looked at from {FIRST_LOOK} on, as weekdays differ"
    return f"{finding.metric}: there is nothing but zeros to compare by"


def _describe(finding: Finding, *, smallest: float, judged: bool) -> str:
    assert finding.figure_a is not None, "described once it is measured"
    assert finding.difference is not None, "as above"
    assert finding.lower is not None, "as above"
    assert finding.upper is not None, "as above"
    base = abs(finding.figure_a)
    share = f", {finding.difference / base:+.1%} of a's" if base > 0 else ""
    figures = f"{finding.difference:+.4g} in b (interval {finding.lower:+.4g} to {finding.upper:+.4g}{share}) after {finding.n_days} days"
    if min(finding.n_a, finding.n_b) < _ROUGH:
        figures += f", rough, as a group has fewer than {_ROUGH} members"
    if not judged:
        sure = "" if finding.lower <= 0 <= finding.upper else ", more than chance"
        return f"{finding.metric}: {figures}{sure}"
    if finding.better:
        return f"{finding.metric}: {finding.better} is better: {figures}"
    return f"{finding.metric}: no difference is shown yet: {figures}; {_say_need(finding, smallest=smallest)}"


def _say_need(finding: Finding, *, smallest: float) -> str:
    worth = smallest * abs(finding.figure_a or 0.0)
    if finding.lower is not None and finding.upper is not None and -worth < finding.lower and finding.upper < worth:
        return f"one of {smallest:.1%} or more is ruled out"
    to_show = f"to show a difference of {smallest:.1%}"
    days = finding.n_days_needed
    if days is not None and days <= finding.n_planned:
        ahead = max(0, finding.n_planned - finding.n_days)
        if ahead:
            return f"the {ahead} days that are left of the plan are enough {to_show}"
        return f"the planned days are over, and one of {smallest:.1%} or more would likely have been shown"
    members = f"or about {finding.n_members_needed:,} members" if finding.n_members_needed is not None else ""
    if days is not None:
        return f"{to_show} it needs about {days - finding.n_days} more days with these members (plan a new one with --days {days}), {members}"
    return f"these members cannot show one of {smallest:.1%}, however long it runs: it needs about {finding.n_members_needed or 0:,} of them"
