"""Sums of errors against plain loops, and evidence kept as sums against evidence kept as forecasts, on the same cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.definitions.gates import Gate
from endcap.loop.evaluation.evidence import CubeEvidence
from endcap.loop.evaluation.gates import judge
from endcap.loop.evaluation.metrics import measure
from endcap.loop.evaluation.sums import FIELDS, ErrorSums, SummedEvidence, sum_errors

QUICK = settings(max_examples=25, deadline=None)
CELLS = st.sampled_from([math.nan, math.nan, 0.0, 0.0, 0.0, 1.0, 2.5, 40.0])


def floats(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def sum_slowly(actual: Any, forecast: Any, *, groups: Any, n_groups: int, day_of: Any, lower: Any = None, upper: Any = None, crps: Any = None) -> Any:
    found = {name: [0.0] * n_groups for name in FIELDS}
    for i, group in enumerate(groups):
        days: dict[int, list[float]] = {}
        for h, day in enumerate(day_of):
            y, f = float(actual[i][h]), float(forecast[i][h])
            if not math.isfinite(y):
                continue
            days.setdefault(int(day), [0.0, 0.0])
            days[int(day)][0] += f - y
            days[int(day)][1] += y
            add = {"n": 1.0, "actual": y, "forecast": f, "abs_error": abs(f - y), "squared_error": (f - y) ** 2}
            if crps is not None:
                add |= {"crps": float(crps[i][h]), "n_scored": 1.0}
            if lower is not None:
                add |= {"covered": float(lower[i][h] <= y <= upper[i][h]), "width": float(upper[i][h]) - float(lower[i][h]), "n_banded": 1.0}
            for name, value in add.items():
                found[name][group] += value
        for error, sold in days.values():
            found["day_error"][group] += abs(error)
            found["day_actual"][group] += sold
    return np.array([found[name] for name in FIELDS])


@QUICK
@given(data=st.data(), n_series=st.integers(1, 5), horizon=st.integers(1, 30), first=st.integers(0, 23), banded=st.booleans(), scored=st.booleans())
def test_sums_are_what_loops_sum(data: st.DataObject, n_series: int, horizon: int, first: int, banded: bool, scored: bool) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    flat = data.draw(st.lists(CELLS, min_size=n_series * horizon, max_size=n_series * horizon))
    actual = floats(flat).reshape(n_series, horizon)
    forecast = floats(rng.gamma(1, 2, actual.shape))
    lower, upper = (forecast / 2, forecast * 2 + 1) if banded else (None, None)
    crps = np.where(np.isnan(actual), np.float32(np.nan), floats(rng.random(actual.shape))) if scored else None
    groups = rng.integers(0, 3, n_series)
    day_of = (np.arange(horizon) + first) // 24
    options: dict[str, Any] = {"groups": groups, "n_groups": 4, "day_of": day_of, "lower": lower, "upper": upper, "crps": crps}
    np.testing.assert_allclose(sum_errors(actual, forecast, **options), sum_slowly(actual, forecast, **options), rtol=1e-6, atol=1e-9)


@QUICK
@given(seed=st.integers(0, 2**32 - 1), banded=st.booleans())
def test_the_figures_of_sums_are_those_of_the_forecasts(seed: int, banded: bool) -> None:
    cells = make_cells(np.random.default_rng(seed))
    lower, upper = (cells.forecast / 2, cells.forecast * 2 + 1) if banded else (None, None)
    one, other = cells.sums(cells.forecast, lower=lower, upper=upper).metrics, measure(cells.actual, cells.forecast, lower=lower, upper=upper)
    assert one.n == other.n
    for name in ("mae", "wape", "rmse", "bias", "coverage_90", "width_90"):
        assert getattr(one, name) == (None if getattr(other, name) is None else pytest.approx(getattr(other, name), rel=1e-6)), name


class Cells:
    """Actual values and forecasts of the same series (each a group of its own), origins and hours, as cubes."""

    def __init__(self, actual: np.ndarray, forecasts: dict[str, np.ndarray]) -> None:
        self.actual, self.forecasts = actual, forecasts

    @property
    def forecast(self) -> np.ndarray:
        return self.forecasts["model"]

    def sums(self, forecast: np.ndarray, *, lower: Any = None, upper: Any = None) -> ErrorSums:
        n_series, n_origins, horizon = self.actual.shape
        found = ErrorSums.empty(n_series, n_origins)
        for place in range(n_origins):
            found.values[:, :, place] = sum_errors(
                floats(self.actual[:, place]),
                floats(forecast[:, place]),
                groups=np.arange(n_series),
                n_groups=n_series,
                day_of=np.arange(horizon) // 24,
                lower=None if lower is None else floats(lower[:, place]),
                upper=None if upper is None else floats(upper[:, place]),
            )
        return found


def make_cells(rng: np.random.Generator, *, skill: float = 0.2) -> Cells:
    shape = (int(rng.integers(1, 7)), int(rng.integers(1, 4)), 30)
    mean = rng.gamma(2, 1, (shape[0], 1, 1)) * np.ones(shape)
    actual = floats(rng.poisson(mean)).astype(np.float64)
    actual[rng.random(shape) < 0.3] = np.nan
    actual[rng.random(shape[:2]) < 0.15] = np.nan
    noise = {"model": skill, "naive": 0.8, "mean": 0.5, "champion": 0.4}
    return Cells(actual, {name: floats(np.maximum(mean * (1 + sd * rng.normal(size=shape)), 0)).astype(np.float64) for name, sd in noise.items()})


@QUICK
@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(["rmse", "mae", "wape"]),
    skill=st.sampled_from([0.0, 0.2, 0.45, 1.5]),
    with_champion=st.booleans(),
    name=st.sampled_from(["model", "model", "naive", "mean"]),
)
def test_a_gate_says_the_same_of_sums_and_of_forecasts(seed: int, metric: str, skill: float, with_champion: bool, name: str) -> None:
    cells = make_cells(np.random.default_rng(seed), skill=skill)
    forecast = cells.forecasts[name]
    lower, upper = forecast / 2, forecast * 2 + 1
    common: dict[str, Any] = {"name": name, "baselines": ("naive", "mean"), "champion_name": "v1" if with_champion else "", "n_tried": 2}
    cubes = {n: f for n, f in cells.forecasts.items() if n != "champion"}
    cube = CubeEvidence(
        actual=cells.actual,
        forecast=forecast,
        lower=lower,
        upper=upper,
        rivals=cubes,
        champion=cells.forecasts["champion"] if with_champion else None,
        **common,
    )
    summed = SummedEvidence(
        ours=cells.sums(forecast, lower=lower, upper=upper),
        rivals={n: cells.sums(f) for n, f in cubes.items()},
        champion=cells.sums(cells.forecasts["champion"]) if with_champion else None,
        **common,
    )
    gate = Gate(metric=metric, bias=0.2, coverage_90=(0.3, 0.95), most={"mae": 2.0, metric: 1.0})
    assert cube.outcomes == summed.outcomes
    for one, other in zip(judge(cube, gate=gate, seed=3), judge(summed, gate=gate, seed=3), strict=True):
        assert (one.check, one.passed, one.limit, one.sentence) == (other.check, other.passed, other.limit, other.sentence)
        for part in ("figure", "lower", "upper"):
            told = getattr(other, part)
            assert getattr(one, part) == (None if told is None else pytest.approx(told, rel=1e-5)), (one.check, part)
