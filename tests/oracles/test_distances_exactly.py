"""Distances from profiles beside those of the rows: scipy's and the index by its definition, within the bounds that are stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.data.distances import measure_distance
from endcap.loop.data.histograms import coarsen, read_histogram
from endcap.loop.data.records import ColumnDistance, ColumnProfile
from endcap.loop.data.significance import (
    _exceed_chi_square,
    _exceed_kolmogorov,
    adjust_p_values,
    find_chance_psi,
    find_chi_square,
    find_ks_p,
    find_share_p,
)

Doubles = NDArray[np.float64]
ROUNDING = 1e-9


def profiled(values: Any, **options: Any) -> ColumnProfile:
    return profile_columns(pa.table({"x": values}), n_threads=1, **options)[0]


def both_ways(a: Doubles, b: Doubles) -> list[ColumnDistance]:
    """From two profiles that know nothing of one another, and with the second counted on the edges of the first."""
    stored = profiled(a)
    return [measure_distance(stored, profiled(b)), measure_distance(stored, profiled(b, against={"x": stored}))]


def check_bounds(a: Doubles, b: Doubles) -> None:
    ks = stats.ks_2samp(a, b, method="asymp" if a.size * b.size / (a.size + b.size) >= 1 else "exact").statistic
    moved = stats.wasserstein_distance(a, b)
    scale = max(np.abs(a).max(), np.abs(b).max())
    for found in both_ways(a, b):
        assert found.ks is not None
        assert found.ks_error is not None
        assert found.wasserstein is not None
        assert found.wasserstein_error is not None
        assert abs(found.ks - ks) <= found.ks_error + ROUNDING
        assert abs(found.wasserstein - moved) <= found.wasserstein_error + ROUNDING * scale


values = st.lists(
    st.one_of(st.floats(-100, 100, width=32), st.integers(-3, 3).map(float), st.sampled_from([0.0, 1e6, -1e-6])), min_size=1, max_size=300
)


@settings(deadline=None, max_examples=150)
@given(values, values)
def test_any_two_samples_are_as_far_apart_as_the_bounds_allow(a: list[float], b: list[float]) -> None:
    check_bounds(np.array(a), np.array(b))


SHAPES = {
    "normal": lambda rng, n, by: rng.normal(by, 1, n),
    "skewed": lambda rng, n, by: rng.lognormal(by, 1.5, n),
    "mostly zero": lambda rng, n, by: np.where(rng.random(n) < 0.7 + by / 10, 0.0, rng.gamma(2, 3, n)),
    "prices": lambda rng, n, by: np.round(rng.gamma(3, 5, n) * (1 + by)) + 0.99,
    "counts": lambda rng, n, by: rng.poisson(20 * (1 + by), n).astype(np.float64),
    "two humps": lambda rng, n, by: np.where(rng.random(n) < 0.5, rng.normal(0, 1, n), rng.normal(1000 * (1 + by), 5, n)),
}


@pytest.mark.parametrize("by", [0.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_samples_are_measured_closely(shape: str, by: float) -> None:
    rng = np.random.default_rng(7)
    a, b = SHAPES[shape](rng, 40_000, 0.0), SHAPES[shape](rng, 30_000, by)
    check_bounds(a, b)
    ks, moved = stats.ks_2samp(a, b, method="asymp"), stats.wasserstein_distance(a, b)
    for found in both_ways(a, b):
        assert found.ks_error is not None
        assert found.ks_error < 0.03
        assert found.ks == pytest.approx(ks.statistic, abs=0.003)
        assert found.wasserstein == pytest.approx(moved, rel=0.02, abs=0.003 * float(a.std()))
        assert found.wasserstein_scaled == pytest.approx((found.wasserstein or 0.0) / a.std())
        if ks.pvalue < 1e-12:
            assert found.ks_p is not None
            assert found.ks_p < 1e-9


def test_whole_numbers_are_measured_exactly() -> None:
    rng = np.random.default_rng(8)
    a, b = rng.poisson(15, 20_000), rng.poisson(16, 20_000)
    found = measure_distance(profiled(a), profiled(b))
    assert found.ks == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=ROUNDING)
    assert found.ks_error == 0.0
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(a, b), abs=0.001)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_index_against_a_profile_is_that_of_the_rows_on_its_bins(shape: str) -> None:
    rng = np.random.default_rng(9)
    a, b = SHAPES[shape](rng, 20_000, 0.0), SHAPES[shape](rng, 10_000, 0.4)
    gaps = rng.random(20_000) < 0.1
    stored = profiled(pa.array(a, mask=gaps))
    found = measure_distance(stored, profiled(b, against={"x": stored}))
    assert stored.histogram is not None
    edges = coarsen(read_histogram(stored.histogram), n_bins=10)

    def share(rows: Doubles, n_null: int) -> Doubles:
        low, high = np.array([-np.inf, *edges]), np.array([*edges, np.inf])
        counts = [n_null, *(int(((rows > left) & (rows <= right)).sum()) for left, right in zip(low, high, strict=True))]
        return np.array(counts) / sum(counts)

    p, q = share(a[~gaps], int(gaps.sum())), share(b, 0)
    assert found.jensen_shannon == pytest.approx(float(jensenshannon(p, q, base=2)))
    p, q = np.maximum(p, 1e-4)[p + q > 0], np.maximum(q, 1e-4)[p + q > 0]
    assert found.psi == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    assert 4 <= p.size <= 24
    unrelated = measure_distance(stored, profiled(b)).psi
    assert unrelated == pytest.approx(found.psi, rel=0.1, abs=0.01)


@pytest.mark.parametrize(("n_a", "n_b"), [(60, 60), (100, 4000), (5000, 5000)])
def test_p_values_of_kolmogorov_and_smirnov_are_close(n_a: int, n_b: int) -> None:
    rng = np.random.default_rng(10)
    for shift in (0.0, 0.1, 0.3):
        told = stats.ks_2samp(rng.normal(size=n_a), rng.normal(shift, 1, n_b), method="exact" if n_a < 1000 else "asymp")
        assert find_ks_p(told.statistic, n_a=n_a, n_b=n_b) == pytest.approx(told.pvalue, abs=0.02, rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(1e-6, 2000))
def test_the_tail_of_chi_square_is_that_of_scipy(df: int, value: float) -> None:
    assert _exceed_chi_square(value, df=df) == pytest.approx(special.chdtrc(df, value), rel=1e-9, abs=1e-300)


@settings(deadline=None)
@given(st.floats(0, 30))
def test_the_tail_of_kolmogorov_is_that_of_scipy(value: float) -> None:
    assert _exceed_kolmogorov(value) == pytest.approx(special.kolmogorov(value), rel=1e-9, abs=1e-300)


@given(st.integers(2, 40))
def test_the_index_by_chance_is_a_quantile_of_chi_square(n_bins: int) -> None:
    expected = special.chdtri(n_bins - 1, 0.05) * (1 / 100 + 1 / 300)
    assert find_chance_psi(n_bins, n_a=100, n_b=300) == pytest.approx(expected, rel=0.03)


counts = st.lists(st.tuples(st.integers(12, 500), st.integers(12, 500)), min_size=2, max_size=12)


@settings(deadline=None)
@given(counts)
def test_chi_square_is_that_of_scipy(rows: list[tuple[int, int]]) -> None:
    table = np.array(rows, np.float64).T
    expected = stats.contingency.expected_freq(table)
    found = find_chi_square(table[0], table[1])
    assert found is not None
    if expected.min() >= 5:
        told = stats.chi2_contingency(table, correction=False)
        assert found == (pytest.approx(told.statistic), pytest.approx(told.pvalue, abs=1e-12))
    else:
        assert found[0] >= 0
        assert 0 <= found[1] <= 1


def test_chi_square_of_a_column_of_text() -> None:
    rng = np.random.default_rng(11)
    names = np.array(["a", "b", "c", "d"])
    a, b = names[rng.choice(4, 3000, p=[0.5, 0.3, 0.2, 0.0])], names[rng.choice(4, 2000, p=[0.4, 0.3, 0.2, 0.1])]
    found = measure_distance(profiled(a), profiled(b))
    told = stats.chi2_contingency([[(side == name).sum() for name in names] for side in (a, b)], correction=False)
    assert (found.chi_square, found.chi_square_p) == (pytest.approx(told.statistic), pytest.approx(told.pvalue))
    assert [name for name, _ in found.new] == ["d"]


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_the_share_test_is_the_chi_square_test_of_two_by_two(n_a: int, n_b: int, share_a: float, share_b: float) -> None:
    hits = np.array([round(n_a * share_a), round(n_b * share_b)])
    table = np.array([hits, [n_a, n_b] - hits])
    if (table.sum(axis=1) == 0).any():
        assert find_share_p(*hits.tolist(), n_a=n_a, n_b=n_b) == 1.0
        return
    told = stats.chi2_contingency(table, correction=False)
    assert find_share_p(*hits.tolist(), n_a=n_a, n_b=n_b) == pytest.approx(told.pvalue, abs=1e-9)


def test_by_chance_alone_the_index_exceeds_its_limit_once_in_twenty() -> None:
    rng = np.random.default_rng(12)
    exceeded = []
    for _ in range(400):
        found = measure_distance(profiled(rng.normal(size=600)), profiled(rng.normal(size=400)))
        assert found.psi is not None
        assert found.psi_by_chance is not None
        exceeded.append(found.psi > found.psi_by_chance)
    assert 0.02 < np.mean(exceeded) < 0.09


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjusted_p_values_are_those_of_scipy(p: list[float]) -> None:
    assert adjust_p_values(np.array(p)) == pytest.approx(stats.false_discovery_control(p))
