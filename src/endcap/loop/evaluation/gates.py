"""The gate: a list of checks on a version's evidence, each with its figure and its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from endcap.core.definitions.gates import Gate
from endcap.loop.evaluation.bootstrap import RatioInterval, compare_errors, widen_tail
from endcap.loop.evaluation.calibration_checks import CalibrationWithin
from endcap.loop.evaluation.evidence import Evidence, Paired
from endcap.loop.evaluation.metrics import SQUARED
from endcap.loop.evaluation.records import NO_CHAMPION, CheckResult
from endcap.loop.evaluation.slice_checks import FairBetween, SlicesWithin


class Check(Protocol):
    """One check of a gate."""

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult: ...


@dataclass(frozen=True)
class BetterThanBaseline:
    """Beats the best baseline by more than chance; a baseline that is judged must be the best of them."""

    metric: str

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        figures = {name: evidence.figure(name, self.metric) for name in evidence.baselines}
        scored = {name: figure for name, figure in figures.items() if figure is not None}
        if not scored:
            return _no_rows(f"{self.metric} against the best baseline", evidence)
        best = min(scored, key=lambda name: scored[name])
        return _compare(evidence, best, metric=self.metric, rival=f"the best baseline ({best})", same=evidence.name == best, rng=rng)


@dataclass(frozen=True)
class BetterThanChampion:
    """Beats the champion by more than chance; passes where there is no champion yet."""

    metric: str

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        what = f"{self.metric} {NO_CHAMPION}"
        if not evidence.has_champion:
            return CheckResult(check=what, passed=True, figure=None, limit="below 1", sentence="there is no champion to beat yet")
        rival = f"the champion ({evidence.champion_name})"
        return _compare(evidence, None, metric=self.metric, rival=rival, same=False, rng=rng)


@dataclass(frozen=True)
class BiasWithin:
    """The sum of forecasts is near the sum of actual values: the bias is within the limit, or so small that chance explains it (its
    bootstrap interval holds 0), as it is on few rows.
    """

    limit: float

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        bias = evidence.metrics.bias
        if bias is None:
            return _no_rows("bias", evidence)
        found = _draw(evidence.sums, rng=rng)
        lower, upper = found.lower - 1, found.upper - 1
        within, chance = abs(bias) <= self.limit, lower <= 0 <= upper
        word = "within" if within else "outside, but chance explains it," if chance else "outside"
        sentence = f"bias is {bias:+.1%} (90% interval {lower:+.1%} to {upper:+.1%}), {word} ±{self.limit * 100:.3g}%"
        return CheckResult(
            check="bias", passed=within or chance, figure=bias, limit=f"±{self.limit:.3g}", sentence=sentence, lower=lower, upper=upper
        )


@dataclass(frozen=True)
class CoverageBetween:
    """The 90 % interval holds about as many actual values as it says."""

    least: float
    most: float

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        coverage = evidence.metrics.coverage_90
        if coverage is None:
            return _no_rows("coverage of the 90 % interval", evidence)
        passed = self.least <= coverage <= self.most
        limit = f"{self.least:.2f} to {self.most:.2f}"
        sentence = f"the 90 % interval covers {coverage:.1%}, {'within' if passed else 'outside'} {limit}"
        return CheckResult(check="coverage_90", passed=passed, figure=coverage, limit=limit, sentence=sentence)


@dataclass(frozen=True)
class AtMost:
    """A metric under an absolute limit; its interval is told and decides nothing."""

    metric: str
    limit: float

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        figure: float | None = getattr(evidence.metrics, self.metric)
        if figure is None:
            return _no_rows(self.metric, evidence)
        passed = figure <= self.limit
        lower, upper, interval = None, None, ""
        parts = evidence.parts(self.metric)
        if parts is not None:
            found = _draw(parts, rng=rng)
            lower, upper = (_unsquare(value, self.metric) for value in (found.lower, found.upper))
            interval = f" (90% interval {lower:.4f} to {upper:.4f})"
        sentence = f"{self.metric} is {figure:.4f}{interval}, {'at most' if passed else 'above'} {self.limit:.4g}"
        limit = f"at most {self.limit:.4g}"
        return CheckResult(check=self.metric, passed=passed, figure=figure, limit=limit, sentence=sentence, lower=lower, upper=upper)


@dataclass(frozen=True)
class AtLeast:
    """A metric of which more is better above an absolute limit."""

    metric: str
    limit: float

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        figure: float | None = getattr(evidence.metrics, self.metric)
        if figure is None:
            return _no_rows(self.metric, evidence)
        passed = figure >= self.limit
        sentence = f"{self.metric} is {figure:.4f}, {'at least' if passed else 'below'} {self.limit:.4g}"
        return CheckResult(check=self.metric, passed=passed, figure=figure, limit=f"at least {self.limit:.4g}", sentence=sentence)


def checks_of(gate: Gate) -> list[Check]:
    """The checks that a gate's definition asks for, in the order a reader wants them."""
    found: list[Check] = []
    if "baseline" in gate.better_than:
        found.append(BetterThanBaseline(gate.metric))
    if "champion" in gate.better_than:
        found.append(BetterThanChampion(gate.metric))
    if gate.bias is not None:
        found.append(BiasWithin(gate.bias))
    if gate.coverage_90 is not None:
        found.append(CoverageBetween(*gate.coverage_90))
    found.extend(AtMost(metric, limit) for metric, limit in sorted(gate.most.items()))
    found.extend(AtLeast(metric, limit) for metric, limit in sorted(gate.least.items()))
    found.extend(SlicesWithin(by, gate.metric, limit, gate.slice_rows) for by, limit in sorted(gate.slices.items()))
    found.extend(FairBetween(by, gate.metric, times, gate.slice_rows) for by, times in sorted(gate.fairness.items()))
    if gate.calibration is not None:
        found.append(CalibrationWithin(gate.calibration))
    return found


def judge(evidence: Evidence, *, gate: Gate, seed: int, further: Sequence[Check] = ()) -> tuple[CheckResult, ...]:
    """Every check of a gate on the evidence, then the ``further`` ones; the same evidence and seed give the same results."""
    rng = np.random.default_rng(seed)
    return tuple(check.judge(evidence, rng=rng) for check in [*checks_of(gate), *further])


def _compare(evidence: Evidence, name: str | None, *, metric: str, rival: str, same: bool, rng: np.random.Generator) -> CheckResult:
    what = f"{metric} against {rival}"
    paired = evidence.compare(name, metric)
    if paired is None:
        return _no_rows(what, evidence)
    if same:
        return CheckResult(check=what, passed=True, figure=1.0, limit="best of the baselines", sentence=f"it is itself {rival}")
    found = _draw(paired, rng=rng, tail=0.05 / evidence.n_tried)
    passed = found.upper < 1
    # A squared metric is compared as its root, so that the ratio reads like the metric.
    ratio, lower, upper = (_unsquare(value, metric) for value in (found.ratio, found.lower, found.upper))
    how = "beats" if passed else "does not clearly beat"
    sentence = (
        f"{how} {rival} on {metric}: ratio {ratio:.3f} ({1 - 0.1 / evidence.n_tried:.0%} interval {lower:.3f} to {upper:.3f},"
        f" {paired.what or f'{found.n_series} series x {found.n_origins} origins'})"
    )
    return CheckResult(check=what, passed=passed, figure=ratio, limit="interval below 1", sentence=sentence, lower=lower, upper=upper)


def _draw(paired: Paired, *, rng: np.random.Generator, tail: float = 0.05) -> RatioInterval:
    """The bootstrap's interval of a ratio, widened where few units are drawn: few rows or clusters, or the origins of a single series."""
    n_units = paired.ours.size if paired.n_units is None and 1 in paired.ours.shape else paired.n_units
    return compare_errors(paired.ours, paired.theirs, rng=rng, tail=tail if n_units is None else widen_tail(tail, n_units))


def _unsquare(value: float, metric: str) -> float:
    return float(np.sqrt(value)) if metric in SQUARED else value


def _no_rows(check: str, evidence: Evidence) -> CheckResult:
    """Without an outcome, or with nothing but zeros, only a baseline may answer: somebody must, and it is what anyone would do."""
    n_outcomes, any_sold = evidence.outcomes
    baseline = evidence.name in evidence.baselines and not any_sold
    what = "there is nothing but zeros to judge by" if n_outcomes and not any_sold else "there is not one outcome to judge by"
    why = "a baseline answers until there is" if baseline else "a longer history is needed"
    if any_sold and evidence.metrics.n:
        what, why = "it cannot be measured on these outcomes", "others are needed"
    return CheckResult(check=check, passed=baseline, figure=None, limit="", sentence=f"{check}: {what}; {why}")
