from __future__ import annotations

import math

import numpy as np
import pytest

from endcap.loop.evaluation.metrics import measure, seasonal_scale

NAN = math.nan


def test_every_figure_of_a_small_case_by_hand() -> None:
    actual, forecast = np.array([10.0, 20.0, 0.0, 10.0]), np.array([12.0, 15.0, 1.0, 10.0])
    found = measure(
        actual, forecast, lower=np.array([8.0, 18.0, 0.0, 11.0]), upper=np.array([12.0, 22.0, 2.0, 13.0]), scale=np.array([4.0, 25.0, 1.0, 0.0])
    )
    assert found.n == 4
    assert found.mae == pytest.approx(8 / 4)
    assert found.wape == pytest.approx(8 / 40)
    assert found.rmse == pytest.approx(math.sqrt(30 / 4))
    assert found.rmsse == pytest.approx(math.sqrt((1 + 1 + 1) / 3))  # the pair without a scale is left out
    assert found.rmspe == pytest.approx(math.sqrt((0.04 + 0.0625 + 0) / 3))  # the actual zero is left out
    assert found.bias == pytest.approx(-2 / 40)
    assert found.coverage_90 == pytest.approx(3 / 4)
    assert found.width_90 == pytest.approx(3.0 / 10.0)


def test_too_much_is_a_bias_above_zero_and_too_little_below() -> None:
    actual = np.array([10.0, 10.0])
    assert measure(actual, actual * 1.1).bias == pytest.approx(0.1)
    assert measure(actual, actual * 0.9).bias == pytest.approx(-0.1)


@pytest.mark.parametrize(("actual", "forecast"), [([NAN, 5.0], [1.0, 4.0]), ([9.0, 5.0], [NAN, 4.0]), ([math.inf, 5.0], [1.0, 4.0])])
def test_a_pair_in_which_one_is_missing_is_left_out(actual: list[float], forecast: list[float]) -> None:
    found = measure(np.array(actual), np.array(forecast))
    assert (found.n, found.mae) == (1, 1.0)


@pytest.mark.parametrize("n", [0, 3])
def test_without_pairs_there_are_no_figures(n: int) -> None:
    nothing = np.full(n, NAN)
    found = measure(nothing, nothing, lower=nothing, upper=nothing, scale=nothing)
    assert found.n == 0
    assert {getattr(found, name) for name in found.__struct_fields__ if name not in ("n", "logged")} == {None}


def test_where_every_actual_is_zero_no_share_of_them_is_given() -> None:
    found = measure(np.zeros(3), np.ones(3), lower=np.zeros(3), upper=np.ones(3))
    assert (found.wape, found.bias, found.rmspe, found.width_90) == (None, None, None, None)
    assert (found.mae, found.rmse, found.coverage_90) == (1.0, 1.0, 1.0)


def test_a_pair_without_limits_says_nothing_of_coverage() -> None:
    found = measure(np.array([1.0, 5.0]), np.array([1.0, 5.0]), lower=np.array([0.0, NAN]), upper=np.array([2.0, 9.0]))
    assert (found.n, found.coverage_90, found.width_90) == (2, 1.0, 2.0)


def test_limits_are_within() -> None:
    found = measure(np.array([1.0, 2.0]), np.array([1.0, 2.0]), lower=np.array([1.0, 0.0]), upper=np.array([3.0, 2.0]))
    assert found.coverage_90 == 1.0


def test_figures_of_half_precision_are_summed_in_full() -> None:
    actual = np.full(100_000, 3.0, dtype=np.float32)
    assert measure(actual, actual + np.float32(0.1)).mae == pytest.approx(0.1, rel=1e-6)


def test_seasonal_scale_of_a_week_and_of_too_short_a_history() -> None:
    weekly = np.tile(np.arange(7.0), 3)
    observed = np.stack([weekly, weekly + np.arange(21) // 7 * 2, np.full(21, NAN)])
    assert seasonal_scale(observed)[:2].tolist() == [0.0, 4.0]
    assert math.isnan(seasonal_scale(observed)[2])
    assert np.isnan(seasonal_scale(observed[:, :7])).all()
