"""Every metric, and the point of the bootstrap's ratio, beside a twin that walks pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from endcap.loop.evaluation.bootstrap import compare_errors
from endcap.loop.evaluation.metrics import ERROR_PARTS, SQUARED, measure, seasonal_scale

VALUES = st.one_of(st.just(math.nan), st.just(0.0), st.floats(0.01, 1e4), st.floats(-50, -0.01))
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)


@st.composite
def forecasts(draw: st.DrawFn) -> dict[str, NDArray[np.float64]]:
    shape = draw(SHAPES)
    names = ("actual", "forecast", "lower", "upper", "scale")
    return {name: draw(hnp.arrays(np.float64, shape, elements=VALUES)) for name in names}


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def measure_slowly(arrays: dict[str, NDArray[np.float64]]) -> dict[str, float | None]:
    rows = zip(*(arrays[name].reshape(-1).tolist() for name in ("actual", "forecast", "lower", "upper", "scale")), strict=True)
    rows = [row for row in rows if math.isfinite(row[0]) and math.isfinite(row[1])]
    total = math.fsum(abs(y) for y, *_ in rows)
    banded = [(y, low, high) for y, _, low, high, _ in rows if math.isfinite(low) and math.isfinite(high)]
    mean_actual, mean_width = mean([y for y, _, _ in banded]), mean([high - low for _, low, high in banded])
    return {
        "n": len(rows),
        "mae": mean([abs(f - y) for y, f, *_ in rows]),
        "wape": math.fsum(abs(f - y) for y, f, *_ in rows) / total if total > 0 else None,
        "rmse": root(mean([(f - y) ** 2 for y, f, *_ in rows])),
        "rmsse": root(mean([(f - y) ** 2 / s for y, f, _, _, s in rows if math.isfinite(s) and s > 0])),
        "rmspe": root(mean([((f - y) / y) ** 2 for y, f, *_ in rows if y != 0])),
        "bias": math.fsum(f - y for y, f, *_ in rows) / total if total > 0 else None,
        "coverage_90": mean([1.0 if low <= y <= high else 0.0 for y, low, high in banded]),
        "width_90": mean_width / mean_actual if mean_width is not None and mean_actual else None,
    }


@settings(max_examples=150, deadline=None)
@given(forecasts())
def test_the_figures_are_those_of_a_walk_over_the_pairs(arrays: dict[str, NDArray[np.float64]]) -> None:
    found = measure(arrays["actual"], arrays["forecast"], lower=arrays["lower"], upper=arrays["upper"], scale=arrays["scale"])
    for name, expected in measure_slowly(arrays).items():
        figure = getattr(found, name)
        if name == "width_90" and expected is not None and abs(expected) > 1e6:
            continue  # a mean of actual values that is zero but for rounding
        assert figure is None if expected is None else figure == pytest.approx(expected, rel=1e-9, abs=1e-9), name


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.one_of(st.just(np.nan), st.integers(0, 500))))
def test_the_seasonal_scale_is_that_of_a_walk_over_the_days(observed: NDArray[np.float32]) -> None:
    for period in (1, 7):
        found = seasonal_scale(observed, period=period)
        for row, scale in zip(observed.tolist(), found.tolist(), strict=True):
            pairs = [(row[i] - row[i - period]) ** 2 for i in range(period, len(row))]
            expected = mean([pair for pair in pairs if math.isfinite(pair)])
            assert math.isnan(scale) if expected is None else scale == pytest.approx(expected)


@settings(max_examples=80, deadline=None)
@given(forecasts())
def test_the_summands_of_a_metric_sum_to_the_metric(arrays: dict[str, NDArray[np.float64]]) -> None:
    kept = np.isfinite(arrays["actual"]) & np.isfinite(arrays["forecast"])
    y, f = arrays["actual"][kept], arrays["forecast"][kept]
    found = measure(y, f)
    for name, parts in ERROR_PARTS.items():
        above, below = (float(part.sum()) for part in parts(y, f))
        expected = getattr(found, name)
        if expected is None:
            assert below == 0
        else:
            assert (math.sqrt(above / below) if name in SQUARED else above / below) == pytest.approx(expected)


ERRORS = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 100).map(lambda v: round(v, 3)))


@settings(max_examples=60, deadline=None)
@given(ERRORS, st.integers(0, 2**31), st.floats(0.25, 4))
def test_the_ratio_is_that_of_two_sums_and_lies_within_its_interval(ours: NDArray[np.float64], seed: int, factor: float) -> None:
    theirs = np.random.default_rng(seed).permutation(ours.reshape(-1)).reshape(ours.shape) * factor
    found = compare_errors(ours, theirs, rng=np.random.default_rng(seed), n_draws=200)
    above = below = 0.0
    for i in range(ours.shape[0]):
        for j in range(ours.shape[1]):
            above += ours[i, j]
            below += theirs[i, j]
    if below == 0:
        assert found.ratio == 1.0
    else:
        assert found.ratio == pytest.approx(above / below)
    assert found.lower <= found.upper


def test_the_draws_are_those_of_a_walk_over_series_and_origins() -> None:
    """Each draw takes whole series and whole origins: the twin looks every drawn pair up by hand."""
    rng = np.random.default_rng(5)
    ours, theirs = rng.random((4, 3)), rng.random((4, 3)) + 0.5
    found = compare_errors(ours, theirs, rng=np.random.default_rng(11), n_draws=50, tail=0.1)
    twin = np.random.default_rng(11)
    by_series = twin.multinomial(4, np.full(4, 1 / 4), size=50)
    by_origin = twin.multinomial(3, np.full(3, 1 / 3), size=50)
    ratios = []
    for d in range(50):
        series = [i for i in range(4) for _ in range(by_series[d, i])]
        origins = [j for j in range(3) for _ in range(by_origin[d, j])]
        ratios.append(sum(ours[i, j] for i in series for j in origins) / sum(theirs[i, j] for i in series for j in origins))
    ratios.sort()
    assert (found.lower, found.upper) == pytest.approx((ratios[4], ratios[45]))  # 0.1 and 0.9 of the way from the first to the last of 50
