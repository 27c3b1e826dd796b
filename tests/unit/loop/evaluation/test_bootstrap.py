from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from endcap.loop.evaluation.bootstrap import RatioInterval, compare_errors


def compare(ours: NDArray[np.float64], theirs: NDArray[np.float64], *, seed: int = 3, tail: float = 0.05) -> RatioInterval:
    return compare_errors(ours, theirs, rng=np.random.default_rng(seed), tail=tail, n_draws=500)


@pytest.fixture
def errors() -> NDArray[np.float64]:
    return np.random.default_rng(1).gamma(2.0, 5.0, size=(12, 6))


def test_a_constant_share_of_the_rival_is_that_share_without_doubt(errors: NDArray[np.float64]) -> None:
    found = compare(errors * 0.8, errors)
    assert (found.ratio, found.lower, found.upper) == pytest.approx((0.8, 0.8, 0.8))
    assert (found.n_series, found.n_origins) == (12, 6)


def test_the_same_seed_gives_the_same_interval_and_another_another(errors: NDArray[np.float64]) -> None:
    theirs = errors[::-1] * 1.1
    assert compare(errors, theirs, seed=3) == compare(errors, theirs, seed=3)
    assert compare(errors, theirs, seed=3).lower != compare(errors, theirs, seed=4).lower


def test_a_smaller_tail_gives_a_wider_interval(errors: NDArray[np.float64]) -> None:
    theirs = errors[::-1] * 1.1
    wide, narrow = compare(errors, theirs, tail=0.01), compare(errors, theirs, tail=0.1)
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


@pytest.mark.parametrize("swap", [False, True])
def test_with_one_series_only_origins_vary_and_the_reverse(errors: NDArray[np.float64], swap: bool) -> None:
    ours, theirs = errors[:1], errors[1:2]
    found = compare(ours.T, theirs.T) if swap else compare(ours, theirs)
    assert found.lower < found.ratio < found.upper
    lowest, highest = (ours / theirs).min(), (ours / theirs).max()
    assert lowest <= found.lower
    assert found.upper <= highest


def test_one_pair_is_a_point() -> None:
    found = compare(np.array([[3.0]]), np.array([[4.0]]))
    assert (found.ratio, found.lower, found.upper) == (0.75, 0.75, 0.75)


def test_a_rival_without_error_is_met_only_without_error() -> None:
    nothing, something = np.zeros((3, 2)), np.ones((3, 2))
    assert compare(nothing, nothing).upper == 1.0
    assert compare(something, nothing) == RatioInterval(math.inf, math.inf, math.inf, 3, 2)
    assert compare(nothing, something).upper == 0.0


def test_draws_in_which_the_rival_has_no_error_count_against_us() -> None:
    theirs = np.zeros((4, 4))
    theirs[0, 0] = 1.0
    assert compare(np.full((4, 4), 0.01), theirs).upper == math.inf


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.01, 100), st.integers(0, 10**6))
def test_the_unit_of_the_errors_does_not_count(n_series: int, n_origins: int, unit: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = rng.random((n_series, n_origins)) + 0.1, rng.random((n_series, n_origins)) + 0.1
    plain, scaled = compare(ours, theirs), compare(ours * unit, theirs * unit)
    assert (scaled.ratio, scaled.lower, scaled.upper) == pytest.approx((plain.ratio, plain.lower, plain.upper))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held, n_worlds = 0, 60
    for world in range(n_worlds):
        rng = np.random.default_rng(1000 + world)
        series, origins = rng.gamma(8, 1, size=(15, 1)), rng.gamma(8, 1, size=(1, 10))
        ours = series * origins * rng.gamma(4, 0.25, size=(15, 10))
        theirs = series * origins * rng.gamma(4, 0.25, size=(15, 10))
        found = compare(ours, theirs, seed=world)
        held += found.lower <= 1.0 <= found.upper
    assert held >= 48  # 90 % says 54; less than 48 of 60 would happen once in 100,000 times, and the seeds are fixed
