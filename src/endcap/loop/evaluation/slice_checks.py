"""Checks of slices and groups: nobody is served too badly, and no group much worse than another, beyond what chance makes of few rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from endcap.loop.evaluation.evidence import Evidence, SliceSums
from endcap.loop.evaluation.metrics import SQUARED
from endcap.loop.evaluation.ratio_tests import adjust_holm, find_above, find_worse, measure_ratio
from endcap.loop.evaluation.records import CheckResult

_LEVEL = 0.05
_NAMED = 3
_MOST_FIGURES = 100
_MOST_GROUPS = 50


@dataclass(frozen=True)
class SlicesWithin:
    """No slice by a column has a figure above a limit. A slice of too few rows is told and not judged; one that is above fails where chance does
    not explain it: among all slices together one is named wrongly at most one time in twenty (Holm).
    """

    by: str
    metric: str
    limit: float
    least_rows: int

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        """Its figure is that of the worst slice that is judged."""
        what, limit = f"{self.metric} by {self.by}", f"at most {self.limit:.4g}"
        found = _find_slices(evidence, self.by, self.metric, least_rows=self.least_rows)
        if isinstance(found, str):
            return CheckResult(check=what, passed=False, figure=None, limit=limit, sentence=f"{what} cannot be judged: {found}")
        judged, small, figures = found
        bound = _square(self.limit, self.metric)
        q = adjust_holm([find_above(one.errors, one.weights, limit=bound) for one in judged])
        failed = sorted((one.value for one, share in zip(judged, q, strict=True) if share <= _LEVEL), key=lambda value: -figures[value])
        above = sum(figures[one.value] > self.limit for one in judged) - len(failed)
        worst = max(judged, key=lambda one: figures[one.value])
        told = f"worst {worst.value} by {figures[worst.value]:.4g} on {worst.n:,} rows"
        if failed:
            sentence = f"{what} is above {self.limit:.4g} for {_name(failed, figures)}, beyond chance"
        elif above:
            sentence = f"{what}: {above} of {len(judged)} slices are above {self.limit:.4g}, but chance explains it; {told}"
        else:
            sentence = f"{what}: all {len(judged)} slices are within {self.limit:.4g}; {told}"
        return CheckResult(
            check=what, passed=not failed, figure=figures[worst.value], limit=limit, sentence=sentence + _tell_small(small), figures=_cut(figures)
        )


@dataclass(frozen=True)
class FairBetween:
    """The worst group's figure is at most so many times the best group's. Every pair of groups is tested; one that is further apart fails where
    chance does not explain it, all pairs counted (Holm).
    """

    by: str
    metric: str
    times: float
    least_rows: int

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        """Its figure is the worst group's over the best group's."""
        what, limit = f"fairness by {self.by}", f"at most {self.times:g} times"

        def refuse(why: str) -> CheckResult:
            return CheckResult(check=what, passed=False, figure=None, limit=limit, sentence=f"{what} cannot be judged: {why}")

        found = _find_slices(evidence, self.by, self.metric, least_rows=self.least_rows)
        if isinstance(found, str):
            return refuse(found)
        judged, small, figures = found
        ratios = {one.value: ratio for one in judged if (ratio := measure_ratio(one.errors, one.weights)) is not None}
        if len(ratios) < 2:
            return refuse(f"there is one group of at least {self.least_rows} rows, and no other to compare it with{_tell_small(small)}")
        if len(ratios) > _MOST_GROUPS:
            return refuse(f"'{self.by}' has {len(ratios)} groups; at most {_MOST_GROUPS} are compared")
        pairs = [(worse, better) for worse in ratios for better in ratios if worse != better]
        times = _square(self.times, self.metric)
        q = adjust_holm([find_worse(ratios[worse], ratios[better], times=times) for worse, better in pairs])
        failed = [pair for pair, share in zip(pairs, q, strict=True) if share <= _LEVEL]
        apart = {pair: figures[pair[0]] / figures[pair[1]] if figures[pair[1]] > 0 else math.inf for pair in pairs if figures[pair[0]] > 0}
        worst = max(apart, key=lambda pair: apart[pair], default=None)
        figure = apart[worst] if worst else 1.0
        if failed:
            named = max(failed, key=lambda pair: apart[pair])
            sentence = (
                f"{self.metric} of {self.by} {named[0]} ({figures[named[0]]:.4g}) is {apart[named]:.2f} times that of {named[1]}"
                f" ({figures[named[1]]:.4g}), above {self.times:g} beyond chance"
            )
        else:
            word = "chance explains that it is above" if figure > self.times else "within"
            between = f" ({worst[0]} against {worst[1]})" if worst else ""
            sentence = f"{self.metric} of the worst {self.by} is {figure:.2f} times the best's{between}, {word} {self.times:g}"
        return CheckResult(check=what, passed=not failed, figure=figure, limit=limit, sentence=sentence + _tell_small(small), figures=_cut(figures))


def _find_slices(evidence: Evidence, by: str, metric: str, *, least_rows: int) -> tuple[list[SliceSums], list[SliceSums], dict[str, float]] | str:
    """The slices that are judged, those of too few rows, and the figures of the first; or why there are none."""
    if by not in evidence.sliced_by:
        offered = list(evidence.sliced_by)
        return f"there is no column {by!r} to slice by{f', only {offered}' if offered else ''}"
    found = evidence.slice(by, metric)
    judged = [one for one in found if one.n >= least_rows and one.weights.sum() > 0]
    if not judged:
        return f"not one slice has {least_rows} rows with an outcome"
    return judged, [one for one in found if 0 < one.n < least_rows], {one.value: _find_figure(one, metric) for one in judged}


def _find_figure(one: SliceSums, metric: str) -> float:
    ratio = float(one.errors.sum() / one.weights.sum())
    return math.sqrt(ratio) if metric in SQUARED else ratio


def _square(limit: float, metric: str) -> float:
    return limit**2 if metric in SQUARED else limit


def _name(values: Sequence[str], figures: dict[str, float]) -> str:
    named = ", ".join(f"{value} ({figures[value]:.4g})" for value in values[:_NAMED])
    return f"{named} and {len(values) - _NAMED} more" if len(values) > _NAMED else named


def _tell_small(small: Sequence[SliceSums]) -> str:
    if not small:
        return ""
    named = ", ".join(f"{one.value} ({one.n} rows)" for one in small[:_NAMED])
    return f"; too few rows to judge {named}{f' and {len(small) - _NAMED} more' if len(small) > _NAMED else ''}"


def _cut(figures: dict[str, float]) -> dict[str, float]:
    """The figures that are kept: the greatest ones."""
    return dict(sorted(figures.items(), key=lambda item: -item[1])[:_MOST_FIGURES])
