"""The panel kernels against slow, obvious twins: loops that look at one cell at a time."""

from __future__ import annotations

import datetime
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.loop.features.panels.kernels import (
    PanelSpec,
    compute_calendar_features,
    compute_panel_features,
    compute_same_phase_means,
)

QUICK = settings(max_examples=150, deadline=None)


def mean_of(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def deviation_of(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) >= 2 else math.nan


def present(row: np.ndarray, ticks: list[int]) -> list[float]:
    return [float(row[tick]) for tick in ticks if 0 <= tick < row.size and not math.isnan(row[tick])]


def feature_at(row: np.ndarray, tick: int, name: str, *, shift: int, period: int) -> float:
    kind, _, number = name.rpartition("_")
    n = int(number)
    seen = range(tick - shift + 1)  # every tick that the feature may look at
    if kind == "lag":
        return mean_of(present(row, [tick - n]))
    if kind == "same_phase_mean":
        of_phase = [other for other in range(-n * period, tick - shift + 1) if (tick - other) % period == 0]
        return mean_of(present(row, of_phase[-n:]))
    window = present(row, [other for other in seen if other > tick - shift - n])
    return mean_of(window) if kind == "mean" else deviation_of(window)


def same_phase_mean_at(row: np.ndarray, origin: int, lead: int, *, count: int, period: int) -> float:
    candidates = [tick for tick in range(origin) if (origin + lead - tick) % period == 0]
    latest = present(row, candidates[::-1][: 4 * count])
    return mean_of(latest[:count])


@st.composite
def panels(draw: st.DrawFn, *, min_ticks: int = 0) -> np.ndarray:
    n_series = draw(st.integers(0, 3))
    n_ticks = draw(st.one_of(st.integers(min_ticks, 3), st.integers(min_ticks, 40)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    level = draw(st.sampled_from([0.0, 1.0, 1e6]))
    values = (level + rng.normal(size=(n_series, n_ticks)) * draw(st.sampled_from([0.0, 1.0, 1000.0]))).astype(dtype)
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.2, 0.9]))] = np.nan
    return values


distances = st.one_of(st.integers(0, 12), st.integers(0, 60))


@st.composite
def specs(draw: st.DrawFn, *, shift: int) -> PanelSpec:
    lags = draw(st.lists(distances.filter(lambda lag: lag >= shift), max_size=3, unique=True))
    windows = draw(st.lists(distances.filter(lambda window: window >= 1), max_size=3, unique=True))
    counts = draw(st.lists(st.integers(1, 9), min_size=0 if lags or windows else 1, max_size=2, unique=True))
    return PanelSpec(
        lags=tuple(lags),
        windows=tuple(windows),
        deviations=draw(st.booleans()),
        same_phase=tuple(counts),
        period=draw(st.integers(1, 8)),
    )


@st.composite
def panel_cases(draw: st.DrawFn) -> tuple[np.ndarray, PanelSpec, int, list[int] | None]:
    values = draw(panels())
    shift = draw(st.one_of(st.integers(0, 1), st.integers(0, 9)))
    last = values.shape[1] - 1 + shift
    chosen = st.lists(st.integers(0, max(last, 0)), unique=True, max_size=6 if last >= 0 else 0).map(sorted)
    return values, draw(specs(shift=shift)), shift, draw(st.one_of(st.none(), chosen))


@QUICK
@given(panel_cases())
def test_panel_features_equal_the_twin(case: tuple[np.ndarray, PanelSpec, int, list[int] | None]) -> None:
    values, spec, shift, ticks = case
    features = compute_panel_features(values, spec=spec, shift=shift, ticks=ticks)
    wanted = list(range(values.shape[1])) if ticks is None else ticks
    assert features.values.dtype == np.float32
    assert features.values.shape == (len(spec.names), values.shape[0], len(wanted))
    for name in spec.names:
        expected = np.array([[feature_at(row, tick, name, shift=shift, period=spec.period) for tick in wanted] for row in values]).reshape(
            values.shape[0], len(wanted)
        )
        scale = np.nanmax(np.abs(values), initial=0.0)
        # Deviations of values near 1e6 with a spread near 1 keep nine digits in float64; the result has seven.
        tolerance = 1e-9 * scale if name.startswith("deviation") else 1e-12 * scale
        np.testing.assert_allclose(features.column(name), expected, rtol=3e-7, atol=tolerance, err_msg=name)


@QUICK
@given(panel_cases())
def test_a_tick_asked_for_alone_is_bit_for_bit_what_it_is_among_all(
    case: tuple[np.ndarray, PanelSpec, int, list[int] | None],
) -> None:
    values, spec, shift, ticks = case
    n_ticks = values.shape[1]
    chosen = [tick for tick in (ticks or range(0, n_ticks, 3)) if tick < n_ticks]
    whole = compute_panel_features(values, spec=spec, shift=shift)
    some = compute_panel_features(values, spec=spec, shift=shift, ticks=chosen)
    np.testing.assert_array_equal(some.values, whole.values[:, :, chosen])


@QUICK
@given(panel_cases(), st.integers(0, 2**32 - 1))
def test_values_after_the_shifted_tick_never_change_a_feature(case: tuple[np.ndarray, PanelSpec, int, list[int] | None], seed: int) -> None:
    values, spec, shift, _ = case
    rng = np.random.default_rng(seed)
    tick = int(rng.integers(0, max(values.shape[1] + shift, 1)))
    if values.shape[1] + shift == 0:
        return
    changed = values.copy()
    hidden = changed[:, max(tick - shift + 1, 0) :]
    hidden[...] = rng.choice([np.nan, np.inf, -1e30, 5.0], size=hidden.shape)
    before = compute_panel_features(values, spec=spec, shift=shift, ticks=np.arange(tick + 1))
    after = compute_panel_features(changed, spec=spec, shift=shift, ticks=np.arange(tick + 1))
    np.testing.assert_array_equal(after.values, before.values)


@QUICK
@given(seed=st.integers(0, 2**32 - 1), n_ticks=st.integers(0, 900), window=st.integers(1, 300), shift=st.integers(0, 3))
def test_a_long_row_without_gaps_gives_the_bits_that_chosen_ticks_give(seed: int, n_ticks: int, window: int, shift: int) -> None:
    values = np.random.default_rng(seed).lognormal(sigma=2.0, size=(1, n_ticks))
    spec = PanelSpec(windows=(window, window % 7 + 1 + window))
    whole = compute_panel_features(values, spec=spec, shift=shift)
    some = compute_panel_features(values, spec=spec, shift=shift, ticks=np.arange(n_ticks))
    np.testing.assert_array_equal(whole.values, some.values)
    for tick in range(0, n_ticks, 97):
        for name in spec.names:
            expected = feature_at(values[0], tick, name, shift=shift, period=7)
            assert whole.column(name)[0, tick] == pytest.approx(expected, rel=3e-7, nan_ok=True)


@st.composite
def same_phase_cases(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[int], list[int], int]:
    values = draw(panels())
    return (
        values,
        draw(st.lists(st.integers(0, values.shape[1]), max_size=5)),
        draw(st.lists(st.integers(0, 30), max_size=4)),
        draw(st.lists(st.integers(1, 9), max_size=3)),
        draw(st.integers(1, 8)),
    )


@QUICK
@given(same_phase_cases())
def test_same_phase_means_equal_the_twin(case: tuple[np.ndarray, list[int], list[int], list[int], int]) -> None:
    values, origins, leads, counts, period = case
    means = compute_same_phase_means(values, origins=origins, leads=leads, counts=counts, period=period)
    assert means.dtype == np.float32
    assert means.shape == (len(counts), values.shape[0], len(origins), len(leads))
    for place in np.ndindex(means.shape):
        count, series, origin, lead = place
        expected = same_phase_mean_at(values[series], origins[origin], leads[lead], count=counts[count], period=period)
        assert means[place] == pytest.approx(expected, rel=3e-7, abs=1e-6, nan_ok=True)


@QUICK
@given(same_phase_cases())
def test_same_phase_means_see_nothing_from_the_origin_on(
    case: tuple[np.ndarray, list[int], list[int], list[int], int],
) -> None:
    values, origins, leads, counts, period = case
    for origin in origins:
        changed = values.copy()
        changed[:, origin:] = 1e9
        before = compute_same_phase_means(values, origins=[origin], leads=leads, counts=counts, period=period)
        after = compute_same_phase_means(changed, origins=[origin], leads=leads, counts=counts, period=period)
        np.testing.assert_array_equal(after, before)


@QUICK
@given(st.dates(datetime.date(1, 1, 10), datetime.date(9990, 1, 1)), st.integers(0, 800))
def test_the_calendar_equals_that_of_datetime(start: datetime.date, n_ticks: int) -> None:
    calendar = compute_calendar_features(np.datetime64(start, "D"), n_ticks=n_ticks)
    days = [start + datetime.timedelta(days=tick) for tick in range(n_ticks)]
    assert calendar.weekday.tolist() == [day.weekday() for day in days]
    assert calendar.day_of_month.tolist() == [day.day for day in days]
    assert calendar.day_of_year.tolist() == [day.timetuple().tm_yday for day in days]
    assert calendar.month.tolist() == [day.month for day in days]
    assert calendar.iso_week.tolist() == [day.isocalendar().week for day in days]
