from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.intervals import POWER, Intervals, Residuals, collect_residuals, fit_intervals

MakePanel = Callable[..., Panel]


def simulate(rng: np.random.Generator, *, n_series: int, n_days: int, horizon: int = 7, skew: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts and outcomes whose errors grow with the forecast as the method says, on a scale of each series' own."""
    forecast = np.repeat(rng.uniform(2, 200, (n_series, 1)), n_days, axis=1)
    spread = rng.uniform(0.3, 2.0, (n_series, 1))
    noise = rng.gamma(2.0, 1.0, forecast.shape) - 2.0 if skew else rng.standard_normal(forecast.shape)
    return forecast, forecast + noise * spread * forecast**POWER


def as_residuals(forecast: np.ndarray, actual: np.ndarray, *, first: int = 0, special: np.ndarray | None = None) -> Residuals:
    n_series, n_days = forecast.shape
    series, ticks = np.repeat(np.arange(n_series), n_days), np.tile(np.arange(n_days) + first, n_series)
    flags = np.zeros(ticks.size, dtype=np.bool_) if special is None else special
    return Residuals(series, ticks, (actual - forecast).reshape(-1), forecast.reshape(-1), flags, n_series, 1)


def fit(residuals: Residuals, **options: Any) -> Intervals:
    return fit_intervals(residuals, **{"keys": tuple(str(i) for i in range(residuals.n_series)), "start_weekday": 0, **options})


@pytest.mark.parametrize("skew", [False, True])
@pytest.mark.parametrize("n_series", [4, 60])
def test_limits_hold_nine_in_ten_outcomes(make_panel: MakePanel, n_series: int, skew: bool) -> None:
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(30):
        forecast, actual = simulate(rng, n_series=n_series, n_days=63, skew=skew)
        intervals = fit(as_residuals(forecast[:, :56], actual[:, :56]))
        panel = make_panel(np.ones((n_series, 56)))
        lower, upper = intervals.apply(forecast[:, 56:].astype(np.float32), panel)
        inside.append(((lower <= actual[:, 56:]) & (actual[:, 56:] <= upper)).mean())
    assert 0.87 < np.mean(inside) < 0.945


def test_limits_follow_the_series_that_err_more(make_panel: MakePanel) -> None:
    forecast = np.full((2, 60), 50.0)
    actual = forecast + np.array([[1.0], [20.0]]) * np.random.default_rng(1).standard_normal((2, 60))
    lower, upper = fit(as_residuals(forecast, actual)).apply(forecast[:, :7].astype(np.float32), make_panel(np.ones((2, 60))))
    width = (upper - lower).mean(axis=1)
    assert width[1] > 4 * width[0]


def test_limits_surround_the_forecast_and_never_fall_below_zero(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(5)
    forecast, actual = simulate(rng, n_series=5, n_days=40)
    for shift in (-500.0, 0.0, 500.0):  # residuals all on one side
        intervals = fit(as_residuals(forecast, np.maximum(actual + shift, 0)))
        values = rng.uniform(0.1, 300, (5, 7)).astype(np.float32)
        lower, upper = intervals.apply(values, make_panel(np.ones((5, 40))))
        assert (lower >= 0).all()
        assert (lower <= values).all()
        assert (upper >= values).all()
        assert lower.dtype == upper.dtype == np.float32


def test_a_closed_day_is_certain_and_a_slow_or_new_series_is_not(make_panel: MakePanel) -> None:
    forecast, actual = simulate(np.random.default_rng(5), n_series=2, n_days=60)
    intervals = fit(as_residuals(forecast, actual))
    opened = np.ones((3, 67), dtype=np.float32)
    opened[:, 66] = 0
    panel = make_panel(np.ones((3, 60)), ahead={"open": opened}, open_fact="open")  # series 2 came after the fit
    values = np.full((3, 7), 50.0, dtype=np.float32)
    values[:, 5:] = 0
    lower, upper = intervals.apply(values, panel)
    assert (lower[:, 5:] == 0).all()
    assert upper[:, 6].tolist() == [0, 0, 0]
    assert (upper[:, 5] > 0).all()  # open, though nothing is expected to be sold
    widest = (upper - lower)[:, 0]
    assert widest[2] > widest[:2].mean()


def test_special_days_are_wider_and_their_residuals_do_not_count(make_panel: MakePanel) -> None:
    forecast, actual = simulate(np.random.default_rng(5), n_series=3, n_days=60)
    special = np.zeros(180, dtype=np.bool_)
    special[::10] = True
    odd = actual.copy().reshape(-1)
    odd[special] = 1e6
    plain, same = fit(as_residuals(forecast, actual, special=special)), fit(as_residuals(forecast, odd.reshape(3, 60), special=special))
    np.testing.assert_array_equal(plain.high, same.high)
    calendar = np.zeros(60 + 7 + 14, dtype=np.bool_)
    calendar[61] = True
    panel = make_panel(np.ones((3, 60)), calendar={"public_holiday": calendar})
    values = np.full((3, 7), 50.0, dtype=np.float32)
    wide = plain.apply(values, panel)[1] - values
    usual = plain.apply(values, make_panel(np.ones((3, 60))))[1] - values
    np.testing.assert_allclose(wide[:, 1], usual[:, 1] * 1.3, rtol=1e-5)
    np.testing.assert_array_equal(np.delete(wide, 1, axis=1), np.delete(usual, 1, axis=1))


def test_without_residuals_the_interval_is_as_wide_as_the_forecast_and_says_so(make_panel: MakePanel) -> None:
    empty = Residuals(*(np.empty(0, dtype=t) for t in (np.int64, np.int64, np.float64, np.float64, np.bool_)), 2, 7)
    intervals = fit(empty)
    assert intervals.n_residuals == 0
    lower, upper = intervals.apply(np.full((2, 7), 10.0, dtype=np.float32), make_panel(np.ones((2, 30))))
    assert (lower < 5).all()
    assert (upper > 15).all()


@pytest.mark.parametrize("n", [1, 2, 5, 19, 59])
def test_few_residuals_give_wide_limits_and_never_crash(make_panel: MakePanel, n: int) -> None:
    rng = np.random.default_rng(n)
    forecast = np.full((1, n), 50.0)
    intervals = fit(as_residuals(forecast, forecast + rng.standard_normal((1, n))))
    assert intervals.n_residuals == n
    lower, upper = intervals.apply(np.full((1, 7), 50.0, dtype=np.float32), make_panel(np.ones((1, 60))))
    assert np.isfinite(upper).all()
    assert (lower < 50).all()
    assert (upper > 50).all()


def test_only_the_latest_weeks_count_where_they_are_enough(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(2)
    forecast = np.full((40, 70), 50.0)
    actual = forecast + rng.standard_normal(forecast.shape)
    actual[:, :40] += 30 * rng.standard_normal((40, 40))
    late = fit(as_residuals(forecast, actual))
    assert late.n_residuals == 21 * 40
    few = fit(as_residuals(forecast[:3], actual[:3]))
    assert few.n_residuals == 3 * 70  # too few in nine weeks, so all of them


def test_residuals_are_collected_with_their_place_and_day(make_panel: MakePanel) -> None:
    panel = make_panel(np.ones((2, 40)), horizon=3, lead=1)
    actual, forecast = np.full((2, 2, 3), 5.0), np.full((2, 2, 3), 4.0)
    actual[0, 0, 1], forecast[1, 1, 2], forecast[1, 0, 0] = np.nan, np.nan, 0.0
    found = collect_residuals(panel, origins=np.array([20, 27]), actual=actual, forecast=forecast)
    assert list(zip(found.series.tolist(), found.ticks.tolist(), strict=True)) == [
        (0, 21), (0, 23), (0, 28), (0, 29), (0, 30), (1, 22), (1, 23), (1, 28), (1, 29),
    ]  # fmt: skip
    assert set(found.errors.tolist()) == {1.0}
    assert (found.n_series, found.n_leads) == (2, 3)


def test_limits_are_the_same_after_a_rest(make_panel: MakePanel) -> None:
    forecast, actual = simulate(np.random.default_rng(5), n_series=3, n_days=60)
    intervals = fit(as_residuals(forecast, actual), keys=("a", "b/c", "ü"))
    revived = Intervals.from_artefact(intervals.to_artefact())
    assert (revived.keys, revived.pooled, revived.n_residuals) == (intervals.keys, intervals.pooled, intervals.n_residuals)
    panel = make_panel(np.ones((3, 60)), keys={"store": ("ü", "a", "new")})
    values = np.full((3, 7), 50.0, dtype=np.float32)
    for one, other in zip(intervals.apply(values, panel), revived.apply(values, panel), strict=True):
        assert one.tobytes() == other.tobytes()
    assert intervals.to_artefact() == revived.to_artefact()
