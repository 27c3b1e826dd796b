from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from endcap.core.definitions.gates import Gate
from endcap.loop.evaluation.calibration_checks import CalibrationWithin
from endcap.loop.evaluation.evidence import CubeEvidence
from endcap.loop.evaluation.gates import checks_of, judge
from endcap.loop.evaluation.records import CheckResult
from endcap.loop.evaluation.row_evidence import RowEvidence
from endcap.loop.evaluation.rows import Rows
from endcap.loop.evaluation.slice_checks import FairBetween, SlicesWithin
from endcap.loop.evaluation.sums import ErrorSums, SummedEvidence, sum_errors


def rows(**options: Any) -> RowEvidence:
    """300 numbers in three shops, the last of which is answered much worse; and 5 rows of a fourth."""
    rng = np.random.default_rng(2)
    shop = np.repeat([0, 1, 2, 3], [100, 100, 100, 5])
    actual = np.full(305, 10.0)
    prediction = actual + rng.choice([-1, 1], 305) * np.select([shop < 2, shop == 2], [rng.uniform(0.5, 1.5, 305), rng.uniform(2.5, 3.5, 305)], 9.0)
    return RowEvidence("m-v1", Rows("number", actual, prediction, np.ones(305), slices={"shop": (("a", "b", "c", "d"), shop)}, **options))


def check(what: Any, given: Any) -> CheckResult:
    return what.judge(given, rng=np.random.default_rng(7))


def test_a_slice_above_its_limit_is_named_and_small_ones_are_told() -> None:
    found = check(SlicesWithin("shop", "mae", 2.0, 30), rows())
    assert not found.passed
    assert found.check == "mae by shop"
    assert found.figure == pytest.approx(3.0, abs=0.1)
    assert found.sentence.startswith("mae by shop is above 2 for c (")
    assert found.sentence.endswith("beyond chance; too few rows to judge d (5 rows)")
    assert set(found.figures) == {"a", "b", "c"}


def test_slices_within_their_limit_pass_and_the_worst_is_told() -> None:
    found = check(SlicesWithin("shop", "mae", 3.5, 30), rows())
    assert found.passed
    assert found.sentence.startswith("mae by shop: all 3 slices are within 3.5; worst c by ")


def test_a_slice_that_chance_puts_above_passes_and_says_so() -> None:
    figure = check(SlicesWithin("shop", "mae", 3.5, 30), rows()).figure
    found = check(SlicesWithin("shop", "mae", figure - 0.02, 30), rows())
    assert found.passed
    assert "1 of 3 slices are above" in found.sentence
    assert "but chance explains it; worst c by" in found.sentence


def test_a_root_is_compared_as_what_it_is_the_root_of() -> None:
    found = check(SlicesWithin("shop", "rmse", 2.0, 30), rows())
    assert found.figure == pytest.approx(math.sqrt(9.083), abs=0.1)
    assert not found.passed
    assert check(SlicesWithin("shop", "rmse", 3.3, 30), rows()).passed


def test_clusters_are_the_units_of_a_slice() -> None:
    cluster = np.arange(305) // 50
    found = rows(cluster=cluster).slice("shop", "mae")
    assert [one.errors.shape for one in found] == [(2, 1), (2, 1), (2, 1), (1, 1)]
    assert sum(one.n for one in found) == 305


@pytest.mark.parametrize("what", [SlicesWithin("city", "mae", 2.0, 30), FairBetween("city", "mae", 2.0, 30)])
def test_a_column_that_is_not_there_cannot_be_judged(what: Any) -> None:
    found = check(what, rows())
    assert (found.passed, found.figure) == (False, None)
    assert found.sentence.endswith("cannot be judged: there is no column 'city' to slice by, only ['shop']")


def test_slices_that_are_all_too_small_cannot_be_judged() -> None:
    assert "not one slice has 200 rows" in check(SlicesWithin("shop", "mae", 2.0, 200), rows()).sentence


def test_a_group_that_is_served_much_worse_is_named() -> None:
    found = check(FairBetween("shop", "mae", 2.0, 30), rows())
    assert not found.passed
    assert found.figure == pytest.approx(3.0, abs=0.3)
    assert found.sentence.startswith("mae of shop c (")
    assert "times that of " in found.sentence
    assert "above 2 beyond chance" in found.sentence
    assert check(FairBetween("shop", "mae", 4.0, 30), rows()).passed


def test_one_group_is_compared_with_nobody() -> None:
    assert "no other to compare it with" in check(FairBetween("shop", "mae", 2.0, 100), only_one()).sentence


def only_one() -> RowEvidence:
    return RowEvidence("m-v1", Rows("number", np.full(120, 2.0), np.full(120, 1.0), np.ones(120), slices={"shop": (("a",), np.zeros(120, int))}))


def test_a_group_without_an_error_is_infinitely_better() -> None:
    shop = np.repeat([0, 1], 60)
    wrong = (shop == 1).astype(float) * (np.arange(120) % 3 == 0)
    found = check(
        FairBetween("shop", "mae", 2.0, 30), RowEvidence("m", Rows("number", np.zeros(120), wrong, np.ones(120), slices={"shop": (("a", "b"), shop)}))
    )
    assert (found.passed, found.figure) == (False, math.inf)


def cube(labels: dict[str, tuple[str, ...]]) -> CubeEvidence:
    rng = np.random.default_rng(3)
    actual = rng.gamma(20, 5, (12, 6, 7))
    worse = np.array([label == "kiosk" for label in labels["format"]])[:, None, None]
    forecast = actual * (1 + rng.normal(0, np.where(worse, 0.4, 0.1), actual.shape))
    forecast[0, 0, 0] = np.nan
    return CubeEvidence("trees", actual, forecast, actual * 0.9, actual * 1.1, {}, (), labels=labels)


def test_a_forecast_is_sliced_by_the_facts_of_its_series() -> None:
    labels = {"format": tuple("kiosk" if i < 5 else "market" for i in range(12))}
    evidence = cube(labels)
    kiosk, market = evidence.slice("format", "wape")
    assert (kiosk.value, kiosk.errors.shape, kiosk.n) == ("kiosk", (5, 6), 5 * 42 - 1)
    assert (market.value, market.n) == ("market", 7 * 42)
    np.testing.assert_allclose(
        kiosk.errors[1].sum() / kiosk.weights[1].sum(), np.abs(evidence.forecast - evidence.actual)[1].sum() / evidence.actual[1].sum()
    )
    found = check(SlicesWithin("format", "wape", 0.2, 30), evidence)
    assert not found.passed
    assert found.sentence.startswith("wape by format is above 0.2 for kiosk (0.3")
    assert not check(FairBetween("format", "wape", 2.0, 30), evidence).passed


def test_sums_are_sliced_as_the_cells_that_they_are_of() -> None:
    evidence = cube({"format": tuple("kiosk" if i < 5 else "market" for i in range(12))})
    whole = np.nan_to_num(evidence.forecast, nan=0.0)
    actual = np.where(np.isfinite(evidence.forecast), evidence.actual, np.nan)
    parts = [
        sum_errors(
            actual[:, o].astype(np.float32),
            whole[:, o].astype(np.float32),
            groups=np.arange(12),
            n_groups=12,
            day_of=np.zeros(7, np.int64),
            lower=evidence.lower[:, o].astype(np.float32),
            upper=evidence.upper[:, o].astype(np.float32),
        )
        for o in range(6)
    ]
    summed = SummedEvidence("trees", ErrorSums(np.stack(parts, axis=2)), {}, (), labels=evidence.labels)
    for ours, theirs in zip(summed.slice("format", "wape"), evidence.slice("format", "wape"), strict=True):
        assert (ours.value, ours.n) == (theirs.value, theirs.n)
        np.testing.assert_allclose(ours.errors, theirs.errors, rtol=1e-4)
        np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-4)
    assert summed.covered is not None
    assert check(CalibrationWithin(0.15), summed).figure == pytest.approx(0.1, abs=1e-3)  # all are covered


def test_an_interval_that_covers_too_little_is_refused_beyond_chance() -> None:
    evidence = cube({"format": ("x",) * 12})
    inside = np.random.default_rng(4).random(evidence.actual.shape) < 0.7
    narrow = CubeEvidence("t", evidence.actual, evidence.actual, np.where(inside, 0, evidence.actual + 1), evidence.actual + 2, {}, ())
    found = check(CalibrationWithin(0.05), narrow)
    assert not found.passed
    assert found.figure == pytest.approx(0.9 - inside.mean())
    assert found.sentence.startswith(f"the 90 % interval covers {inside.mean():.1%}")
    assert "outside 5.0% of 90 %" in found.sentence
    assert check(CalibrationWithin(0.3), narrow).passed


def probabilities(off: float, *, n: int = 2000, **options: Any) -> RowEvidence:
    rng = np.random.default_rng(5)
    p = rng.beta(2, 5, n)
    return RowEvidence("m-v1", Rows("probability", (rng.random(n) < np.clip(p + off, 0, 1)).astype(float), p, np.ones(n), **options))


def test_probabilities_that_come_true_as_often_as_they_say_pass() -> None:
    found = check(CalibrationWithin(0.03), probabilities(0.0))
    assert found.passed
    assert len(found.figures) == 10
    off = check(CalibrationWithin(0.03), probabilities(0.1))
    assert (off.passed, off.figure) == (False, pytest.approx(0.1, abs=0.03))
    assert off.sentence.endswith("in 10 bins, beyond chance above 0.03")
    assert "but chance explains it" in check(CalibrationWithin(0.001), probabilities(0.0, n=60)).sentence


def test_numbers_without_an_interval_have_no_calibration() -> None:
    found = check(CalibrationWithin(0.03), rows())
    assert (found.passed, found.figure) == (False, None)
    assert "neither probabilities nor" in found.sentence
    bands = rows(lower=np.full(305, 0.0), upper=np.full(305, 20.0))
    assert check(CalibrationWithin(0.03), bands).passed is False
    assert check(CalibrationWithin(0.11), bands).passed


def test_a_gate_asks_for_its_slices_in_order() -> None:
    gate = Gate(metric="mae", better_than=[], bias=None, slices={"shop": 2.0}, fairness={"shop": 5}, calibration=0.1)
    evidence = rows()
    found = judge(evidence, gate=gate, seed=7)
    assert found == judge(evidence, gate=gate, seed=7)
    assert [type(each).__name__ for each in checks_of(gate)] == ["SlicesWithin", "FairBetween", "CalibrationWithin"]
    assert [each.passed for each in found] == [False, True, False]
