from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from endcap.core.definitions.gates import Gate
from endcap.core.errors import InvalidInput
from endcap.loop.evaluation.gates import BetterThanBaseline, BetterThanChampion, judge
from endcap.loop.evaluation.sums import FIELDS, ErrorSums, SummedEvidence, sum_errors, sum_targets


def sums_of(**fields: Any) -> ErrorSums:
    """Sums of two groups and two origins; a field not named is 0."""
    found = ErrorSums.empty(2, 2)
    for name, values in fields.items():
        found.values[FIELDS.index(name)] = values
    return found


GOOD = sums_of(n=10, actual=20, forecast=21, abs_error=4, squared_error=5, crps=2, n_scored=[[0, 10], [0, 10]])
POOR = sums_of(n=10, actual=20, forecast=21, abs_error=8, squared_error=20, crps=4, n_scored=[[0, 10], [0, 10]])


def evidence(**changes: Any) -> SummedEvidence:
    return SummedEvidence(**{"name": "model", "ours": GOOD, "rivals": {"model": GOOD, "naive": POOR}, "baselines": ("naive",), **changes})


def test_the_shape_of_sums_is_checked() -> None:
    with pytest.raises(InvalidInput, match=r"Error sums have the shape \(2, 3, 4\); it must be 12 x n_groups x n_origins"):
        ErrorSums(np.zeros((2, 3, 4)))
    assert ErrorSums.empty(3, 0).values.shape == (12, 3, 0)


def test_figures_are_shares_of_sums() -> None:
    metrics = sums_of(
        n=10, actual=20, forecast=22, abs_error=5, squared_error=40, covered=9, n_banded=10, width=30, day_error=4, day_actual=20
    ).metrics
    assert (metrics.n, metrics.mae, metrics.rmse, metrics.wape) == (40, 0.5, 2.0, 0.25)
    assert metrics.bias == pytest.approx(0.1)
    assert (metrics.coverage_90, metrics.width_90, metrics.day_wape, metrics.crps) == (0.9, 1.5, 0.2, None)
    assert (metrics.rmsse, metrics.rmspe) == (None, None)


def test_without_an_outcome_or_a_sale_there_is_no_figure() -> None:
    nothing = ErrorSums.empty(2, 2).metrics
    assert nothing.n == 0
    assert {getattr(nothing, name) for name in ("mae", "wape", "rmse", "bias", "coverage_90", "width_90", "crps", "day_wape")} == {None}
    zeros = sums_of(n=5, forecast=1, abs_error=1, squared_error=1, n_banded=5, covered=5, width=1).metrics
    assert (zeros.wape, zeros.bias, zeros.width_90, zeros.mae, zeros.coverage_90) == (None, None, None, 0.2, 1.0)


def test_some_groups_and_origins_can_be_taken() -> None:
    sums = sums_of(n=[[1, 2], [3, 4]])
    assert sums.take(origins=slice(1, None))["n"].tolist() == [[2], [4]]
    assert sums.take(groups=[1], origins=slice(0, 0))["n"].shape == (1, 0)
    assert sums.take(groups=np.array([True, False])).metrics.n == 3


def test_a_crps_is_compared_where_it_was_scored() -> None:
    paired = evidence().compare("naive", "crps")
    assert paired is not None
    assert (paired.ours.tolist(), paired.theirs.tolist()) == ([[2], [2]], [[4], [4]])
    rmse = evidence().compare("naive", "rmse")
    assert rmse is not None
    assert rmse.ours.shape == (2, 2)


def test_only_groups_and_origins_with_equal_outcomes_are_compared() -> None:
    fewer = ErrorSums(POOR.values.copy())
    fewer.values[FIELDS.index("n")][0, 1] = 9
    paired = evidence(champion=fewer, champion_name="v1").compare(None, "mae")
    assert paired is not None
    assert (paired.ours.tolist(), paired.theirs.tolist()) == ([[4, 0], [4, 4]], [[8, 0], [8, 8]])
    fewer.values[FIELDS.index("n")] = 9
    assert evidence(champion=fewer).compare(None, "mae") is None
    assert evidence().compare(None, "mae") is None


def test_a_gate_reads_sums() -> None:
    rng = np.random.default_rng(1)
    better = BetterThanBaseline("rmse").judge(evidence(), rng=rng)
    assert (better.passed, better.figure) == (True, pytest.approx(0.5))
    assert "ratio 0.500" in better.sentence
    assert "2 series x 2 origins" in better.sentence
    assert BetterThanChampion("rmse").judge(evidence(), rng=rng).sentence == "there is no champion to beat yet"
    lost = BetterThanChampion("rmse").judge(evidence(ours=POOR, champion=GOOD, champion_name="v1"), rng=rng)
    assert (lost.passed, lost.figure) == (False, pytest.approx(2.0))


@pytest.mark.parametrize("name", ["model", "naive"])
def test_without_an_outcome_only_a_baseline_passes(name: str) -> None:
    nothing = ErrorSums.empty(2, 0)
    given = evidence(name=name, ours=nothing, rivals={"model": nothing, "naive": nothing})
    assert given.outcomes == (0, False)
    found = judge(given, gate=Gate(metric="rmse", coverage_90=(0.8, 1)), seed=1)
    assert [check.passed for check in found] == [name == "naive", True, name == "naive", name == "naive"]


def test_day_sums_are_taken_over_the_days_of_the_targets() -> None:
    actual, forecast = np.array([[1, 1, 5, 1]], dtype=np.float32), np.array([[0, 2, 4, 4]], dtype=np.float32)
    options: dict[str, Any] = {"groups": np.array([0]), "n_groups": 1}
    found = sum_errors(actual, forecast, day_of=np.array([0, 0, 1, 1]), **options)
    assert found[FIELDS.index("day_error")].tolist() == [2]
    assert sum_errors(actual, forecast, day_of=np.zeros(4, dtype=np.int64), **options)[FIELDS.index("day_error")].tolist() == [2]
    assert sum_errors(actual, forecast, day_of=np.arange(4), **options)[FIELDS.index("day_error")].tolist() == [6]


def test_sums_by_target_are_those_of_each_target_alone() -> None:
    rng = np.random.default_rng(3)
    actual, forecast = rng.poisson(1.0, (5, 4)).astype(np.float32), rng.gamma(1.0, 1.0, (5, 4)).astype(np.float32)
    actual[rng.random(actual.shape) < 0.3] = np.nan
    actual[:, 3] = np.nan
    given = {"lower": forecast - 1, "upper": forecast + 1, "crps": np.abs(np.nan_to_num(actual) - forecast)}
    found = sum_targets(actual, forecast, **given)
    for target in range(4):
        one = slice(target, target + 1)
        alone = sum_errors(
            actual[:, one],
            forecast[:, one],
            groups=np.zeros(5, dtype=np.int64),
            n_groups=1,
            day_of=np.zeros(1, dtype=np.int64),
            **{name: values[:, one] for name, values in given.items()},
        )[:, 0]
        by_day = [FIELDS.index("day_error"), FIELDS.index("day_actual")]
        assert np.allclose(np.delete(found[:, target], by_day), np.delete(alone, by_day))
    assert not found[by_day].any()
    assert not found[:, 3].any(), "nothing is known of it"
    assert not sum_targets(actual, forecast)[FIELDS.index("n_banded")].any()
