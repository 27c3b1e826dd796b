from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from endcap.core.definitions.gates import Gate
from endcap.loop.evaluation.bootstrap import compare_errors
from endcap.loop.evaluation.evidence import Cube, CubeEvidence, scale_of
from endcap.loop.evaluation.gates import AtMost, BetterThanBaseline, BetterThanChampion, BiasWithin, CoverageBetween, checks_of, judge
from endcap.loop.evaluation.records import CheckResult, Verdict

SHAPE = (10, 6, 7)
ACTUAL = np.random.default_rng(0).gamma(20, 5, size=SHAPE)


def around(share: float, *, seed: int = 1, noise: float = 0.1) -> Cube:
    """Forecasts whose relative errors are noise and a share that is always there."""
    return ACTUAL * (1 + share + np.random.default_rng(seed).normal(0, noise, SHAPE))


GOOD, POOR, POORER = around(0.0, noise=0.05), around(0.0, seed=2, noise=0.2), around(0.0, seed=3, noise=0.3)


def evidence(**changes: Any) -> CubeEvidence:
    kept = {
        "name": "model",
        "actual": ACTUAL,
        "forecast": GOOD,
        "lower": ACTUAL * 0.9,
        "upper": ACTUAL * 1.1,
        "rivals": {"naive": POOR, "mean": POORER, "model": GOOD},
        "baselines": ("naive", "mean"),
    }
    return CubeEvidence(**{**kept, **changes})


def check(what: Any, given: CubeEvidence, *, seed: int = 7) -> CheckResult:
    return what.judge(given, rng=np.random.default_rng(seed))


def test_a_version_that_beats_the_best_baseline_passes_and_says_by_how_much() -> None:
    found = check(BetterThanBaseline("wape"), evidence())
    assert found.passed
    assert found.figure == pytest.approx(evidence().metrics.wape / replace(evidence(), forecast=POOR).metrics.wape)
    assert found.check == "wape against the best baseline (naive)"
    assert found.sentence.startswith("beats the best baseline (naive) on wape: ratio 0.2")
    assert "(90% interval" in found.sentence
    assert "10 series x 6 origins" in found.sentence


def test_the_best_of_the_baselines_must_be_beaten_not_any_of_them() -> None:
    between = around(0.0, seed=9, noise=0.25)
    assert check(BetterThanBaseline("wape"), evidence(forecast=between, baselines=("mean",))).passed
    refused = check(BetterThanBaseline("wape"), evidence(forecast=between))
    assert not refused.passed
    assert refused.sentence.startswith("does not clearly beat the best baseline (naive)")


def test_better_by_chance_is_not_better() -> None:
    a_little = POOR.copy()
    a_little[0, 0, 0] = ACTUAL[0, 0, 0]
    found = check(BetterThanBaseline("wape"), evidence(forecast=a_little))
    assert found.figure < 1
    assert found.upper == pytest.approx(1.0)
    assert not found.passed


def test_a_baseline_judged_against_itself_passes_as_the_best_of_them() -> None:
    found = check(BetterThanBaseline("wape"), evidence(name="naive", forecast=POOR))
    assert (found.passed, found.figure, found.sentence) == (True, 1.0, "it is itself the best baseline (naive)")
    other = check(BetterThanBaseline("wape"), evidence(name="mean", forecast=POORER))
    assert not other.passed


@pytest.mark.parametrize("name", ["naive", "model"])
def test_without_one_outcome_only_a_baseline_may_answer(name: str) -> None:
    nothing = np.full(SHAPE, math.nan)
    given = evidence(name=name, actual=nothing)
    for what in (BetterThanBaseline("wape"), BiasWithin(0.05), CoverageBetween(0.8, 1.0), AtMost("wape", 0.1)):
        found = check(what, given)
        assert (found.passed, found.figure) == (name == "naive", None)
        assert "there is not one outcome to judge by" in found.sentence
    champion = check(BetterThanChampion("wape"), replace(given, champion=POOR, champion_name="v1"))
    assert champion.passed == (name == "naive")


def test_no_origins_at_all_are_no_outcomes() -> None:
    empty = np.empty((4, 0, 7))
    given = evidence(name="naive", actual=empty, forecast=empty, lower=empty, upper=empty, rivals={"naive": empty}, baselines=("naive",))
    assert [result.passed for result in judge(given, gate=Gate(coverage_90=(0.8, 1.0), most={"mae": 5.0}), seed=1)] == [True] * 5


def test_a_baseline_that_cannot_be_scored_does_not_pass_where_there_are_outcomes() -> None:
    missing = np.full(SHAPE, math.nan)
    found = check(BetterThanBaseline("wape"), evidence(name="naive", forecast=missing, rivals={"naive": missing}, baselines=("naive",)))
    assert (found.passed, found.figure) == (False, None)
    assert found.sentence.endswith("a longer history is needed")


def test_without_a_champion_there_is_nobody_to_beat_yet() -> None:
    found = check(BetterThanChampion("wape"), evidence())
    assert (found.passed, found.figure, found.check) == (True, None, "wape against the champion")


def test_the_champion_must_be_beaten_by_more_than_chance() -> None:
    assert check(BetterThanChampion("wape"), evidence(champion=POOR, champion_name="m-v1")).passed
    even = check(BetterThanChampion("wape"), evidence(champion=GOOD, champion_name="m-v1"))
    assert (even.passed, even.figure) == (False, pytest.approx(1.0))
    assert even.sentence.startswith("does not clearly beat the champion (m-v1) on wape: ratio 1.000")


def test_a_champion_is_compared_on_the_rows_that_both_answered() -> None:
    champion = POOR.copy()
    champion[:5] = math.nan
    champion[:, :2] = math.nan
    found = check(BetterThanChampion("wape"), evidence(champion=champion, champion_name="v1"))
    assert "5 series x 4 origins" in found.sentence
    unanswered = check(BetterThanChampion("wape"), evidence(champion=np.full(SHAPE, math.nan), champion_name="v1"))
    assert (unanswered.passed, unanswered.figure) == (False, None)


def test_each_further_try_must_beat_its_rivals_by_more() -> None:
    results = [check(BetterThanBaseline("wape"), evidence(forecast=around(0, seed=5, noise=0.18), n_tried=n)) for n in (1, 2, 4)]
    uppers = [result.upper for result in results if result.upper is not None]
    assert uppers[0] < uppers[1] < uppers[2]
    assert len({result.figure for result in results}) == 1
    assert ["90%" in results[0].sentence, "95%" in results[1].sentence, "98%" in results[2].sentence] == [True] * 3


def test_one_lucky_draw_of_several_is_refused_where_the_first_would_pass() -> None:
    rng = np.random.default_rng(4)
    lucky = next(
        cube
        for cube in (ACTUAL * (1 + rng.normal(0, noise, SHAPE)) for noise in np.linspace(0.2, 0.18, 60))
        if check(BetterThanBaseline("wape"), evidence(forecast=cube)).passed
    )
    assert not check(BetterThanBaseline("wape"), evidence(forecast=lucky, n_tried=8)).passed


@pytest.mark.parametrize("metric", ["wape", "mae", "rmsse", "rmspe"])
def test_every_metric_of_a_gate_is_compared_as_it_is_measured(metric: str) -> None:
    scale = scale_of(np.random.default_rng(3).gamma(20, 5, size=(10, 60)).astype(np.float32))
    given = evidence(scale=scale)
    found = check(BetterThanBaseline(metric), given)
    own, rival = given.metrics, replace(given, forecast=POOR).metrics
    assert found.figure == pytest.approx(getattr(own, metric) / getattr(rival, metric), rel=1e-6)
    assert found.passed


def test_a_bias_within_its_limit_passes_and_one_outside_does_not() -> None:
    within = check(BiasWithin(0.05), evidence(forecast=ACTUAL * 1.04))
    outside = check(BiasWithin(0.05), evidence(forecast=ACTUAL * 1.06))
    below = check(BiasWithin(0.05), evidence(forecast=ACTUAL * 0.94))
    assert [within.passed, outside.passed, below.passed] == [True, False, False]
    assert outside.figure == pytest.approx(0.06)
    assert outside.sentence == "bias is +6.0% (90% interval +6.0% to +6.0%), outside ±5%"
    assert below.sentence.startswith("bias is -6.0%")
    assert check(BiasWithin(0.001), evidence(forecast=ACTUAL * 1.04)).sentence.endswith("outside ±0.1%"), "a limit is told as it was said"


def test_a_bias_that_chance_explains_passes() -> None:
    few = np.array([[[100.0], [100.0], [100.0]]])
    swinging = np.array([[[60.0], [160.0], [110.0]]])
    found = check(BiasWithin(0.05), evidence(actual=few, forecast=swinging, lower=few, upper=few))
    assert found.figure == pytest.approx(0.1)
    assert found.lower < 0 < found.upper
    assert found.passed
    assert "outside, but chance explains it, ±5%" in found.sentence


@pytest.mark.parametrize(("share", "passed"), [(0.5, False), (0.9, True), (1.0, False)])
def test_coverage_must_lie_between_its_limits(share: float, passed: bool) -> None:
    inside = np.random.default_rng(1).random(SHAPE) < share
    found = check(CoverageBetween(0.8, 0.95), evidence(lower=np.where(inside, ACTUAL - 1, ACTUAL + 1), upper=ACTUAL + 2))
    assert found.passed == passed
    assert found.limit == "0.80 to 0.95"
    assert f"{'within' if passed else 'outside'} 0.80 to 0.95" in found.sentence


def test_an_absolute_limit_holds_for_every_metric() -> None:
    wape = evidence().metrics.wape
    assert wape is not None
    assert check(AtMost("wape", wape), evidence()).passed
    refused = check(AtMost("wape", wape * 0.99), evidence())
    assert not refused.passed
    assert "above" in refused.sentence


def test_a_gate_asks_for_its_checks_in_order() -> None:
    assert checks_of(Gate()) == [BetterThanBaseline("wape"), BetterThanChampion("wape"), BiasWithin(0.05)]
    full = Gate(metric="mae", coverage_90=(0.8, 0.95), most={"wape": 0.2, "mae": 3.0}, better_than=("champion",), bias=None)
    assert checks_of(full) == [BetterThanChampion("mae"), CoverageBetween(0.8, 0.95), AtMost("mae", 3.0), AtMost("wape", 0.2)]
    assert checks_of(Gate(better_than=(), bias=None)) == []


def test_the_same_evidence_and_seed_give_the_same_results() -> None:
    gate = Gate(coverage_90=(0.8, 1.0))
    assert judge(evidence(), gate=gate, seed=7) == judge(evidence(), gate=gate, seed=7)
    assert judge(evidence(), gate=gate, seed=7)[0].lower != judge(evidence(), gate=gate, seed=8)[0].lower


def verdict(*checks: CheckResult) -> Verdict:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    return Verdict(id="v", model="m", version="m-v1", at=at, passed=all(c.passed for c in checks), checks=checks)


def test_a_passed_verdict_says_so_in_a_line() -> None:
    assert verdict(*judge(evidence(), gate=Gate(), seed=7)).sentence == "all 3 checks passed"


def test_a_refused_verdict_says_what_failed_and_nothing_else() -> None:
    given = verdict(*judge(evidence(forecast=ACTUAL * 2), gate=Gate(), seed=7))
    assert not given.passed
    parts = given.sentence.split("; ")
    assert len(parts) == 2
    assert parts[0].startswith("does not clearly beat the best baseline (naive)")
    assert parts[1] == "bias is +100.0% (90% interval +100.0% to +100.0%), outside ±5%"


def test_a_verdict_that_passed_without_an_outcome_says_so() -> None:
    nothing = evidence(name="naive", actual=np.full(SHAPE, math.nan))
    assert verdict(*judge(nothing, gate=Gate(), seed=7)).sentence == "all 3 checks passed, 2 of them without one outcome to judge by"
    champion = replace(nothing, champion=POOR, champion_name="m-v1")
    assert verdict(*judge(champion, gate=Gate(), seed=7)).sentence == "all 3 checks passed, 3 of them without one outcome to judge by"


def test_a_limit_is_told_with_an_interval_that_decides_nothing() -> None:
    found = check(AtMost("wape", 0.5), evidence())
    assert found.lower < found.figure < found.upper
    assert found.sentence == f"wape is {found.figure:.4f} (90% interval {found.lower:.4f} to {found.upper:.4f}), at most 0.5"
    edge = check(AtMost("wape", (found.figure + found.lower) / 2), evidence())
    assert not edge.passed
    assert check(AtMost("rmsse", 5.0), evidence(scale=np.full(SHAPE[0], 400.0))).lower is not None


def test_the_origins_of_a_single_series_widen_the_interval() -> None:
    one = replace(
        evidence(), actual=ACTUAL[:1], forecast=GOOD[:1], lower=ACTUAL[:1], upper=ACTUAL[:1], rivals={"naive": POOR[:1]}, baselines=("naive",)
    )
    paired = one.compare("naive", "wape")
    assert paired is not None
    plain = compare_errors(paired.ours, paired.theirs, rng=np.random.default_rng(7))
    found = check(BetterThanBaseline("wape"), one)
    assert found.figure == pytest.approx(plain.ratio)
    assert found.lower < plain.lower < plain.upper < found.upper
