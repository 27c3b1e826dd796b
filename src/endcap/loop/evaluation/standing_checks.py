"""Checks that read no row of evidence: what stands about a version, and what was measured of it on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import numpy as np

from endcap.core.definitions.charters import Charter
from endcap.core.durations import format_duration
from endcap.loop.data.distances import DriftLimits, compare_profiles
from endcap.loop.evaluation.evidence import Evidence
from endcap.loop.evaluation.records import APPROVALS_CHECK, NO_CHAMPION, CheckResult
from endcap.loop.features.records import TrainingProfile

_DAY = timedelta(days=1)
_WARM_UPS = 3
_MOST_TIMES = 200
_LEAST_TIMES = 5
_MOST_SECONDS = 5.0
_NAMED = 5
_MOST_FIGURES = 50


class AnswerTimes(msgspec.Struct, frozen=True):
    """How long answers took on this machine, in milliseconds: at the median, at the 95th percentile, and how many there were."""

    p50_ms: float
    p95_ms: float
    n: int
    of: str = "one answer"


def time_answers(answer: Callable[[], object], *, of: str = "one answer", clock_ns: Callable[[], int] = time.perf_counter_ns) -> AnswerTimes:
    """Times of the same call again and again: 200 of them, or as many as fit into 5 s, but 5; three before them warm up and are not counted.

    The percentiles are of the times themselves (the next greater one), so that the 95th of fewer than 20 is the slowest.
    """
    begun = clock_ns()
    for _ in range(_WARM_UPS):
        answer()
        if clock_ns() - begun > _MOST_SECONDS * 1e9:
            break
    times: list[int] = []
    begun = clock_ns()
    while len(times) < _LEAST_TIMES or (len(times) < _MOST_TIMES and clock_ns() - begun < _MOST_SECONDS * 1e9):
        start = clock_ns()
        answer()
        times.append(clock_ns() - start)
    p50, p95 = np.quantile(times, [0.5, 0.95], method="higher") / 1e6
    return AnswerTimes(float(p50), float(p95), len(times), of)


@dataclass(frozen=True)
class LatencyWithin:
    """Answers within a time, on the machine that judges. ``times`` is what was measured; as text it is why nothing could be."""

    limit_ms: float
    times: AnswerTimes | str

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        limit = f"at most {self.limit_ms:g} ms"
        if isinstance(self.times, str):
            return CheckResult(check="latency", passed=False, figure=None, limit=limit, sentence=f"the latency could not be measured: {self.times}")
        t = self.times
        passed = t.p95_ms <= self.limit_ms
        word = "within" if passed else "above"
        sentence = (
            f"{t.of} takes {t.p95_ms:.3g} ms at the 95th percentile of {t.n} (median {t.p50_ms:.3g} ms) on this machine, {word} {self.limit_ms:g} ms"
        )
        return CheckResult(
            check="latency", passed=passed, figure=t.p95_ms, limit=limit, sentence=sentence, figures={"p50_ms": t.p50_ms, "p95_ms": t.p95_ms}
        )


@dataclass(frozen=True)
class SizeWithin:
    """The files of the version take no more room than they may, in 10⁶ bytes."""

    limit_mb: float
    n_bytes: int

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        size = self.n_bytes / 1e6
        passed = size <= self.limit_mb
        sentence = f"its files have {size:.3g} MB, {'within' if passed else 'above'} {self.limit_mb:g} MB"
        return CheckResult(check="size", passed=passed, figure=size, limit=f"at most {self.limit_mb:g} MB", sentence=sentence)


@dataclass(frozen=True)
class FreshWithin:
    """The newest data it was trained on are not older than ``within`` at the moment of judging. ``until`` None: nobody said how far they reach."""

    within: timedelta
    until: datetime | None
    at: datetime

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        """Its figure is the age in days."""
        limit = f"at most {format_duration(self.within.total_seconds())}"
        if self.until is None:
            sentence = "it is not known how far its training data reach (tag the run: endcap.trained_until = 2026-03-03)"
            return CheckResult(check="freshness", passed=False, figure=None, limit=limit, sentence=sentence)
        age = self.at - self.until
        passed = -_DAY <= age <= self.within  # a day that has begun elsewhere may be tomorrow's here
        word = "younger than" if passed else "which is later than now, not within" if age < -_DAY else "older than"
        sentence = f"its training data reach to {self.until:%Y-%m-%d}, {word} {format_duration(self.within.total_seconds())}"
        return CheckResult(check="freshness", passed=passed, figure=age / _DAY, limit=limit, sentence=sentence)


@dataclass(frozen=True)
class HasCharter:
    """The model has a charter that names the business metric."""

    charter: Charter | None

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        passed = self.charter is not None and bool(self.charter.business_metric.strip())
        if self.charter is None:
            sentence = "the model has no charter (charter=ec.Charter(problem=..., business_metric=...))"
        elif not passed:
            sentence = "the model's charter names no business metric (Charter.business_metric)"
        else:
            sentence = f"its charter names the business metric: {self.charter.business_metric}"
        return CheckResult(check="charter", passed=passed, figure=float(passed), limit="names the business metric", sentence=sentence)


@dataclass(frozen=True)
class Approved:
    """So many people approved it. While fewer did, the check says how many are missing; whoever counts them gives the verdict anew."""

    n_needed: int
    by: tuple[str, ...] = ()

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        n = len(self.by)
        passed = n >= self.n_needed
        who = f" ({', '.join(self.by)})" if self.by else ""
        sentence = f"{n} of {self.n_needed} approved{who}" if passed else f"needs {self.n_needed} approval{'s' * (self.n_needed > 1)}, has {n}{who}"
        return CheckResult(check=APPROVALS_CHECK, passed=passed, figure=float(n), limit=f"at least {self.n_needed}", sentence=sentence)


@dataclass(frozen=True)
class DriftWithin:
    """No feature of its training data moved further from the champion's than a population stability index of ``limit``, beyond chance.

    A feature fails where its index is above the limit and above what samples of one population exceed one time in twenty, and the difference of
    its distributions is beyond chance with all features counted (Benjamini and Hochberg; see ``endcap.loop.data.distances``). ``own`` and
    ``standing`` are what was profiled when both were trained; None: nothing was.
    """

    limit: float
    own: TrainingProfile | None
    standing: TrainingProfile | None
    champion: str = ""
    level: float = 0.05

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        limit = f"index at most {self.limit:g}"

        def refuse(why: str) -> CheckResult:
            return CheckResult(check="drift", passed=False, figure=None, limit=limit, sentence=f"drift could not be measured: {why}")

        if not self.champion:
            said = "there is no champion whose training data could differ"
            return CheckResult(check=f"drift {NO_CHAMPION}", passed=True, figure=None, limit=limit, sentence=said)
        if self.own is None or self.standing is None:
            which = "this version's" if self.own is None else f"the champion's ({self.champion})"
            return refuse(f"{which} training data were not profiled")
        found = compare_profiles(self.standing.profiles, self.own.profiles, limits=DriftLimits(psi=self.limit, level=self.level))
        measured = {d.column: d.psi for d in found.distances if d.psi is not None}
        moved = [
            d
            for d in found.distances
            if d.psi is not None and d.psi > self.limit and d.psi > (d.psi_by_chance or 0.0) and d.q is not None and d.q <= self.level
        ]
        retyped = [d.column for d in found.distances if d.reason.startswith("it was ")]
        if not measured and not retyped:
            return refuse("both trainings share no feature with a histogram")
        doubts = [f"{d.column} by {d.psi:.2f}" for d in sorted(moved, key=lambda d: -(d.psi or 0.0))[:_NAMED]]
        doubts += [f"{name} by another type" for name in retyped[:_NAMED]]
        worst = max(measured, key=lambda name: measured[name], default="")
        figure = measured.get(worst)
        good = f"of {len(measured)} features none moved from the champion's training data beyond {self.limit:g}; most {worst} by {figure or 0.0:.2f}"
        figures = dict(sorted(measured.items(), key=lambda item: -item[1])[:_MOST_FIGURES])
        return CheckResult(
            check="drift",
            passed=not doubts,
            figure=figure,
            limit=limit,
            sentence=f"training data moved from the champion's ({self.champion}): {', '.join(doubts)}" if doubts else good,
            figures=figures,
        )


@dataclass(frozen=True)
class EvidenceFound:
    """What the version is judged on, or why there is nothing to judge it by (``doubt``)."""

    said: str = ""
    doubt: str = ""
    n: int | None = None

    def judge(self, evidence: Evidence, *, rng: np.random.Generator) -> CheckResult:
        figure = None if self.n is None else float(self.n)
        return CheckResult(check="evidence", passed=not self.doubt, figure=figure, limit="", sentence=self.doubt or self.said)
