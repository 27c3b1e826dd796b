"""Baselines against slow, obvious twins that look at one target at a time."""

from __future__ import annotations

import math
import statistics
from datetime import date

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.candidates.baselines import FlagMedian, SeasonalNaive, WeekdayMean, flag_facts, median

QUICK = settings(max_examples=120, deadline=None)


@st.composite
def panels(draw: st.DrawFn) -> Panel:
    n_series, n_seen = draw(st.integers(1, 3)), draw(st.integers(1, 60))
    hidden, lead, horizon = draw(st.integers(0, 3)), draw(st.integers(0, 8)), draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    observed = rng.integers(0, 50, (n_series, n_seen)).astype(np.float32)
    observed[rng.random(observed.shape) < draw(st.sampled_from([0, 0.2, 0.9]))] = np.nan
    n_ahead = n_seen + hidden + lead + horizon
    facts = {}
    for i in range(draw(st.integers(0, 6))):
        fact = rng.integers(0, 2, (n_series, n_ahead)).astype(np.float32)
        fact[rng.random(fact.shape) < draw(st.sampled_from([0, 0.3]))] = np.nan
        facts[f"flag {i}"] = fact * draw(st.sampled_from([1, 1, 1, 2]))
    return Panel(
        keys={"store": tuple(map(str, range(n_series)))},
        key_types={"store": "integer"},
        start=date(2026, 1, 1) + (date(2026, 1, 2) - date(2026, 1, 1)) * draw(st.integers(0, 6)),
        origin=n_seen + hidden,
        hidden=hidden,
        lead=lead,
        horizon=horizon,
        observed=observed,
        ahead=facts,
        open_fact=draw(st.sampled_from([None, *facts])),
    )


def value(panel: Panel, series: int, tick: int) -> float:
    """What may be learned of a day: nothing where it is not seen, not there or closed."""
    if not 0 <= tick < panel.n_seen:
        return math.nan
    closed = panel.open_fact is not None and panel.ahead[panel.open_fact][series, tick] == 0
    return math.nan if closed else float(panel.observed[series, tick])


def seasonal_naive(panel: Panel, series: int, target: int, season: int) -> float:
    ticks = [t for t in range(target - season, -400, -season) if t < panel.n_seen][:4]
    return next((v for v in (value(panel, series, t) for t in ticks) if not math.isnan(v)), math.nan)


def weekday_mean(panel: Panel, series: int, target: int) -> float:
    ticks = [t for t in range(target - 7, -1, -7) if t < panel.n_seen][:16]
    found = [v for v in (value(panel, series, t) for t in ticks) if not math.isnan(v)][:4]
    return math.fsum(found) / len(found) if found else math.nan


def is_flag(panel: Panel, name: str) -> bool:
    seen = panel.ahead[name][:, : panel.n_seen]
    return name != panel.open_fact and set(seen[~np.isnan(seen)].tolist()) == {0.0, 1.0}


def flag_median(panel: Panel, series: int, target: int, flags: list[str]) -> float:
    def on(name: str, tick: int) -> bool:
        return bool(panel.ahead[name][series, tick] > 0)

    days = range(max(0, panel.n_seen - 84), panel.n_seen)
    alike = [t for t in days if (target - t) % 7 == 0 and all(on(name, t) == on(name, target) for name in flags)]
    found = [v for v in (value(panel, series, t) for t in alike) if not math.isnan(v)]
    return statistics.median(found) if found else weekday_mean(panel, series, target)


def expect(panel: Panel, twin: object) -> np.ndarray:
    assert callable(twin)
    rows = [[twin(panel, series, int(target)) for target in panel.targets] for series in range(panel.n_series)]
    return np.array(rows, dtype=np.float32)


@QUICK
@given(panel=panels(), season=st.sampled_from([7, 14, 364]))
def test_seasonal_naive_is_the_latest_day_of_the_season_that_is_there(panel: Panel, season: int) -> None:
    expected = expect(panel, lambda *where: seasonal_naive(*where, season))
    np.testing.assert_array_equal(SeasonalNaive(season).predict(panel), expected)


@QUICK
@given(panel=panels())
def test_weekday_mean_is_the_mean_of_the_latest_four_of_the_weekday(panel: Panel) -> None:
    np.testing.assert_allclose(WeekdayMean().predict(panel), expect(panel, weekday_mean), rtol=1e-6)


@QUICK
@given(panel=panels())
def test_flag_median_is_the_median_of_like_days(panel: Panel) -> None:
    flags = [name for name in panel.ahead if is_flag(panel, name)]
    assert flag_facts(panel) == flags
    try:
        FlagMedian().fit(panel, seed=1)
    except InvalidInput:
        assert not flags
    else:
        assert flags
    expected = expect(panel, lambda *where: flag_median(*where, flags[:4]) if flags else weekday_mean(*where))
    np.testing.assert_allclose(FlagMedian().predict(panel), expected, rtol=1e-6)


@QUICK
@given(rows=st.lists(st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=5, max_size=5), max_size=4))
def test_a_median_skips_what_is_missing(rows: list[list[int | None]]) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in rows], dtype=np.float32).reshape(len(rows), 5)
    expected = [statistics.median([v for v in row if v is not None]) if any(v is not None for v in row) else math.nan for row in rows]
    np.testing.assert_array_equal(median(values), np.array(expected, dtype=np.float32))
