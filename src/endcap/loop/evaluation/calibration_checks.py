"""Checks of calibration: probabilities come true as often as they say, and intervals hold as much as they say, beyond chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.bootstrap import compare_errors, widen_tail
from endcap.loop.evaluation.evidence import Evidence, Paired, Probabilities
from endcap.loop.evaluation.metrics import Bins, bin_probabilities
from endcap.loop.evaluation.records import CheckResult

_N_DRAWS = 2_000
_LEVEL = 0.05
_SAID = 0.9


@dataclass(frozen=True)
class CalibrationWithin:
    """The expected calibration error of probabilities, or how far the 90 % interval's coverage is from 90 %, is within a limit or so little above
    it that chance explains it.

    The error of few rows is above 0 even where every probability is right. So it is compared with what it would be, by the same rows and bins, if
    the truth were off by exactly the limit: outcomes are drawn anew from the probabilities moved as far, in the direction that was seen, and the
    check fails where fewer than one draw in twenty shows as great an error. With a limit of nothing that is consistency resampling (Bröcker and
    Smith, *Increasing the reliability of reliability diagrams*, Weather and Forecasting 22, 2007; as a test: Vaicenavicius and others,
    *Evaluating model calibration in classification*, AISTATS 2019). Rows in clusters, or with weights, are not drawn: the bins' gaps are taken as
    Student's with the covariance that the clusters show. Coverage is drawn by the bootstrap over groups and origins.
    """

    limit: float

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        found = evidence.probabilities
        if found is not None:
            return self._judge_probabilities(found, rng=rng)
        covered = evidence.covered
        if covered is not None:
            return self._judge_coverage(covered, rng=rng)
        sentence = "calibration cannot be measured: the answers are neither probabilities nor do they have a 90 % interval (lower_90, upper_90)"
        return CheckResult(check="calibration", passed=False, figure=None, limit=self._limit, sentence=sentence)

    @property
    def _limit(self) -> str:
        return f"at most {self.limit:.3g}"

    def _judge_probabilities(self, found: Probabilities, *, rng: np.random.Generator) -> CheckResult:
        weight = np.ones(found.actual.size) if found.weight is None else found.weight
        bins = bin_probabilities(found.actual, found.probability, weight=weight)
        error = bins.error
        passed, p = error <= self.limit, 1.0
        if not passed:
            p = find_chance(found, bins, limit=self.limit, rng=rng)
            passed = p > _LEVEL
        word = "within" if error <= self.limit else "above, but chance explains it," if passed else "beyond chance above"
        sentence = f"the expected calibration error is {error:.4f} in {bins.share.size} bins, {word} {self.limit:.3g}"
        return CheckResult(check="calibration", passed=bool(passed), figure=error, limit=self._limit, sentence=sentence, figures=_tell_bins(bins))

    def _judge_coverage(self, covered: Paired, *, rng: np.random.Generator) -> CheckResult:
        tail = _LEVEL if covered.n_units is None else widen_tail(_LEVEL, covered.n_units)
        found = compare_errors(covered.ours, covered.theirs, rng=rng, tail=tail)
        within = abs(found.ratio - _SAID) <= self.limit
        chance = found.lower <= _SAID + self.limit and found.upper >= _SAID - self.limit
        word = "within" if within else "outside, but chance explains it," if chance else "outside"
        sentence = (
            f"the 90 % interval covers {found.ratio:.1%} (90% interval {found.lower:.1%} to {found.upper:.1%}), {word} {self.limit:.1%} of 90 %"
        )
        return CheckResult(
            check="calibration",
            passed=within or chance,
            figure=abs(found.ratio - _SAID),
            limit=self._limit,
            sentence=sentence,
            lower=found.lower,
            upper=found.upper,
        )


def find_chance(found: Probabilities, bins: Bins, *, limit: float, rng: np.random.Generator) -> float:
    """The probability of so great a calibration error if the truth were off by ``limit``, from 2,000 draws. Cost: draws x bins."""
    gaps = bins.share * (bins.actual - bins.probability)  # the error is the sum of their sizes
    size = float(np.abs(gaps).sum())
    moved = gaps * min(1.0, limit / size) if size > 0 else gaps
    truth = np.clip(bins.probability + np.divide(moved, bins.share), 0.0, 1.0)
    if found.cluster is None and found.weight is None:
        n = np.bincount(bins.place, minlength=bins.share.size)
        # As many successes as rows of one probability would have: those of several vary a little less, which is on the safe side.
        drawn = rng.binomial(n, truth, size=(_N_DRAWS, n.size)) / n.sum() - bins.share * bins.probability
    else:
        covariance, n_units = _find_covariance(found, bins, moved=truth - bins.probability)
        student = np.sqrt((n_units - 1) / rng.chisquare(n_units - 1, size=_N_DRAWS))
        drawn = moved + rng.multivariate_normal(np.zeros(moved.size), covariance, size=_N_DRAWS, method="eigh") * student[:, None]
    errors = np.abs(drawn).sum(axis=1)
    return float((1 + (errors >= size - 1e-12).sum()) / (1 + _N_DRAWS))


def _find_covariance(found: Probabilities, bins: Bins, *, moved: NDArray[np.floating]) -> tuple[NDArray[np.float64], int]:
    """The covariance of the bins' gaps where they are ``moved``, by the sums of each cluster (Liang and Zeger, Biometrika 73, 1986), and the number
    of clusters.
    """
    weight = np.ones(found.actual.size) if found.weight is None else found.weight
    cluster = np.arange(found.actual.size) if found.cluster is None else np.unique(found.cluster, return_inverse=True)[1]
    n_clusters, n_bins = int(cluster.max()) + 1, bins.share.size
    residual = weight * (found.actual - found.probability - moved[bins.place]) / weight.sum()
    sums = np.bincount(cluster * n_bins + bins.place, weights=residual, minlength=n_clusters * n_bins).reshape(n_clusters, n_bins)
    return np.asarray(sums.T @ sums * (n_clusters / (n_clusters - 1)), dtype=np.float64), n_clusters


def _tell_bins(bins: Bins) -> dict[str, float]:
    """What came true in each bin, by its mean probability."""
    return {f"{p:.4f}": float(y) for p, y in sorted(zip(bins.probability.tolist(), bins.actual.tolist(), strict=True))}
