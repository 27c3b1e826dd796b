"""Hourly methods against slow, obvious twins that look at one series, one cell or one pair at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.loop.features.panels.day_panels import Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.day_kinds import weigh_days
from endcap.solutions.forecasting.hours.pulses import PSEUDO_DAYS, merge_pulses, survey_pulses
from endcap.solutions.forecasting.hours.same_hour_mean import MeanFit
from endcap.solutions.forecasting.hours.shapes import Shapes
from endcap.solutions.forecasting.hours.shrunk_rates import RatesFit
from endcap.solutions.forecasting.hours.sparse_demand import SparseFit
from endcap.solutions.forecasting.hours.spread import fit_spread, tally_spread
from endcap.solutions.forecasting.hours.tallies import correct_shapes, fit_shapes, tally_corrections, tally_shapes

QUICK = settings(max_examples=40, deadline=None)
HALF_LIVES = {"slow": 20.0, "quick": 3.0}


@st.composite
def panels(draw: st.DrawFn) -> HourPanel:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_series, n_days, hour = draw(st.integers(1, 4)), draw(st.integers(0, 50)), draw(st.integers(0, 23))
    hidden, horizon = draw(st.integers(0, 30)), draw(st.integers(1, 50))
    n_seen = n_days * HOURS + hour + 1
    origin = n_seen + hidden
    sold = (rng.poisson(draw(st.sampled_from([0.02, 0.3, 5.0])), (n_series, n_seen)) / 10).astype(np.float32)
    sold[rng.random(sold.shape) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    unseen = rng.random(sold.shape) < draw(st.sampled_from([0.0, 0.4, 0.99, 1.0]))
    codes = rng.integers(-1, 2, n_series).astype(np.int32)
    return HourPanel(
        keys={"item": tuple(map(str, range(n_series)))},
        key_types={"item": "integer"},
        start=date(2024, 1, 1) + (date(2024, 1, 2) - date(2024, 1, 1)) * draw(st.integers(0, 6)),
        origin=origin,
        hidden=hidden,
        horizon=horizon,
        sold=sold,
        unseen=draw(st.sampled_from([unseen, None])),
        statics={"kind": Statics(codes, ("a", "b")), "store": Statics(rng.integers(0, 2, n_series).astype(np.int32), ("s", "t"))},
        likeness=("kind",),
        place="store",
    )


def learn(panel: HourPanel) -> Shapes:
    shapes = fit_shapes([tally_shapes(panel)])
    return correct_shapes(shapes, [tally_corrections(panel, shapes)])


def value(panel: HourPanel, series: int, tick: int) -> float:
    if not 0 <= tick < panel.n_seen or (panel.unseen is not None and panel.unseen[series, tick]):
        return math.nan
    return float(panel.sold[series, tick])


def expect(panel: HourPanel, shapes: Shapes) -> np.ndarray:
    """What each series sells in each hour at level 1, from the first tick to the last target."""
    n_days = -(-(panel.origin + panel.horizon) // HOURS)
    kinds, off = weigh_days(panel.start, calendar=panel.calendar, n_days=n_days), (np.arange(7) >= 5).astype(int)
    rows = []
    for row, place in zip(shapes.rows(panel), shapes.place_rows(panel), strict=True):
        own = kinds @ (shapes.days[row][:, None] * shapes.hours[row][off]) / HOURS
        rows.append((own * (kinds @ shapes.place_hours[place][off])).reshape(-1))
    return np.array(rows)


def same_hour_mean(panel: HourPanel, shapes: Shapes, series: int) -> list[float]:
    def mean_of(hour: int) -> float:
        ticks = [tick for tick in range(panel.n_seen - 1, -1, -1) if tick % HOURS == hour][:28]
        there = [v for v in (value(panel, series, tick) for tick in ticks) if not math.isnan(v)]
        return math.fsum(there) / len(there) if there else math.nan

    means = [mean_of(hour) for hour in range(HOURS)]
    row, place = shapes.rows(panel)[series], shapes.place_rows(panel)[series]
    kinds = [(shapes.days[row, k] * shapes.hours[row, int(k >= 5)] / HOURS, shapes.place_hours[place, int(k >= 5)]) for k in range(7)]
    shape = np.mean([own for own, _ in kinds], axis=0) * np.mean([factor for _, factor in kinds], axis=0)
    seen = [hour for hour in range(HOURS) if not math.isnan(means[hour])]
    level = sum(means[h] for h in seen) / sum(shape[h] for h in seen) if seen else float(shapes.prior_levels(panel)[series])
    return [max(means[t % HOURS] if t % HOURS in seen else level * shape[t % HOURS], 0.0) for t in panel.targets]


def day_sums(panel: HourPanel, usual: np.ndarray, series: int) -> list[tuple[float, float]]:
    """Sold and expected of each day, the current one's seen hours last."""
    days = []
    for day in range(-(-panel.n_seen // HOURS)):
        ticks = [t for t in range(day * HOURS, (day + 1) * HOURS) if not math.isnan(value(panel, series, t))]
        days.append((math.fsum(value(panel, series, t) for t in ticks), math.fsum(usual[series, t] for t in ticks)))
    return days


def level_of(days: list[tuple[float, float]], n_seen: int, prior: float) -> float:
    """The quick level, days weighted by half a half-life's powers of their age: that of a whole day from its end."""
    ages = [max(n_seen - HOURS * (day + 1), 0) / HOURS for day in range(len(days))]

    def weighted(half_life: float, pseudo: float, towards: float) -> float:
        above = math.fsum(0.5 ** (age / half_life) * sold for age, (sold, _) in zip(ages, days, strict=True))
        below = math.fsum(0.5 ** (age / half_life) * usual for age, (_, usual) in zip(ages, days, strict=True))
        return (above + pseudo * towards) / (below + pseudo)

    return weighted(HALF_LIVES["quick"], PSEUDO_DAYS[1], weighted(HALF_LIVES["slow"], PSEUDO_DAYS[0], prior))


def sparse_level(panel: HourPanel, usual: np.ndarray, series: int, *, prior: float, fading: bool) -> float:
    alpha = 0.1
    days = []
    for day, (sold, expected) in enumerate(day_sums(panel, usual, series)):
        whole = math.fsum(usual[series, day * HOURS : (day + 1) * HOURS])
        if expected > 0.25 * whole:
            days.append(sold / expected)
    if not days:
        return prior
    sales = [i for i, size in enumerate(days) if size > 0]
    if not sales:
        return 0.0
    size, interval, chance = days[sales[0]], float(sales[0] + 1), 1 / (sales[0] + 1)
    for before, at in pairwise(sales):
        size, interval = size + alpha * (days[at] - size), interval + alpha * (at - before - interval)
    for i in range(sales[0] + 1, len(days)):
        chance += alpha * ((i in sales) - chance)
    return size * chance if fading else (1 - alpha / 2) * size / interval


@QUICK
@given(panel=panels())
def test_same_hour_mean(panel: HourPanel) -> None:
    shapes = learn(panel)
    expected = [same_hour_mean(panel.latest(28), shapes, series) for series in range(panel.n_series)]
    np.testing.assert_allclose(MeanFit(shapes).predict(panel), expected, rtol=1e-5, atol=1e-7)


@QUICK
@given(panel=panels())
def test_shrunk_rates(panel: HourPanel) -> None:
    shapes = learn(panel)
    recent, answer = panel.latest(42), RatesFit(shapes).predict(panel)
    usual = expect(recent, shapes)
    for series in range(panel.n_series):
        level = level_of(day_sums(recent, usual, series), recent.n_seen, float(shapes.prior_levels(recent)[series]))
        expected = [level * usual[series, tick] for tick in recent.targets]
        np.testing.assert_allclose(answer[series], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("fading", [False, True])
@QUICK
@given(panel=panels())
def test_sparse_demand(fading: bool, panel: HourPanel) -> None:
    shapes = learn(panel)
    recent, answer = panel.latest(56), SparseFit(RatesFit(shapes), fading=fading).predict(panel)
    usual = expect(recent, shapes)
    for series in range(panel.n_series):
        level = sparse_level(recent, usual, series, prior=float(shapes.prior_levels(recent)[series]), fading=fading)
        expected = [level * usual[series, tick] for tick in recent.targets]
        np.testing.assert_allclose(answer[series], expected, rtol=1e-4, atol=1e-8)


@QUICK
@given(panel=panels())
def test_pulses_are_sums_by_group_of_what_each_day_expected(panel: HourPanel) -> None:
    shapes = learn(panel)
    pulses = merge_pulses([survey_pulses(panel, shapes, n_days=99)], shapes)
    usual, first = expect(panel, shapes), 0
    for names, labels in zip(pulses.groupings, pulses.labels, strict=True):
        for i, label in enumerate(labels.tolist()):
            told, expected = np.zeros(panel.n_seen // HOURS), np.zeros(panel.n_seen // HOURS)
            for series in range(panel.n_series):
                facts = [panel.statics[name] for name in names]
                if [fact.labels[fact.codes[series]] if fact.codes[series] >= 0 else "" for fact in facts] != label:
                    continue
                days = day_sums(panel, usual, series)
                for day in range(told.size):
                    prior = float(shapes.prior_levels(panel)[series])
                    told[day] += days[day][0]
                    expected[day] += days[day][1] * level_of(days[:day], day * HOURS, prior)
            np.testing.assert_allclose(pulses.told[first + i], told, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(pulses.expected[first + i], expected, rtol=1e-4, atol=1e-6)
        first += len(labels)


@QUICK
@given(panel=panels())
def test_shapes_of_all_are_ratios_of_sums(panel: HourPanel) -> None:
    """The first row, of all series, from each series' level by loops; pseudo-sales as the shapes state them."""
    panel = replace(panel, likeness=())
    shapes = fit_shapes([tally_shapes(panel)])
    told, usual, sizes = np.zeros((7, HOURS)), np.zeros((7, HOURS)), [0.0, 0.0]
    for series in range(panel.n_series):
        cells = [(t, value(panel, series, t)) for t in range(panel.n_seen) if not math.isnan(value(panel, series, t))]
        if not cells:
            continue
        mean = math.fsum(v for _, v in cells) / len(cells)
        of_hour = [[v for t, v in cells if t % HOURS == hour] for hour in range(HOURS)]
        level = sum((sum(own) + 3 * mean) / (len(own) + 3) for own in of_hour)
        for tick, sale in cells:
            kind = panel.moment(tick).weekday()
            told[kind, tick % HOURS] += sale
            usual[kind, tick % HOURS] += level / HOURS
            sizes = [sizes[0] + sale, sizes[1] + sale * sale]
    unit = sizes[1] / sizes[0] if sizes[0] > 0 else 1.0
    off = np.arange(7) >= 5
    for part, days in enumerate((~off, off)):
        hours = (told[days].sum(axis=0) + 3 * unit) / (usual[days].sum(axis=0) + 3 * unit)
        np.testing.assert_allclose(shapes.hours[0, part], hours / hours.mean(), rtol=1e-6)
    weekly = (told.sum(axis=1) + 30 * unit) / ((usual * shapes.hours[0][off.astype(int)]).sum(axis=1) + 30 * unit)
    np.testing.assert_allclose(shapes.days[0], weekly / weekly.mean(), rtol=1e-6)


def tell_by_size(draws: np.ndarray) -> np.ndarray:
    """Each value as the spread keeps it: sizes grow by 4 %, and within one size values are told by their mean."""
    sizes = [0 if value < 1e-4 else 1 + math.floor(math.log(value / 1e-4) / math.log(1.04)) for value in draws]
    return np.array([np.mean([other for other, like in zip(draws, sizes, strict=True) if like == size]) for size in sizes])


@QUICK
@given(seed=st.integers(0, 2**32 - 1), mean=st.sampled_from([0.0, 0.003, 0.2, 3.0, 40.0]), n=st.integers(1, 60))
def test_crps_and_limits_are_those_of_the_pairs(seed: int, mean: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    sold = (rng.poisson(3 * mean, n) / 2).astype(np.float32)
    forecast = np.full(n, mean, dtype=np.float32)
    spread = fit_spread([tally_spread(sold, forecast)])
    asked = rng.choice([*sold, 0.0, 0.7 * mean, 5 * mean + 1], 10).astype(np.float32)
    draws = sold.astype(np.float64)
    told = tell_by_size(draws)
    assert np.all(np.abs(told - draws) <= (1e-12 if mean <= 3 else 0.04 * draws)), "a size tells its values apart while it holds one, else by 4 %"
    apart = np.abs(told[:, None] - told).mean() / 2
    twin = [np.abs(told - y).mean() - apart for y in asked]
    np.testing.assert_allclose(spread.score(asked, np.full(10, mean, np.float32)), twin, rtol=1e-4, atol=1e-6)
    ordered = np.sort(draws)
    low = next(v for v in ordered if (draws <= v).mean() > 0.05)
    dropped = (draws < low).mean()
    high = next(v for v in ordered if (draws <= v).mean() - dropped >= 0.9 - 1e-9)
    lower, upper = spread.limits(forecast[:1])
    if mean <= 3:
        np.testing.assert_allclose([lower[0], upper[0]], [min(low, mean), max(high, mean)], rtol=1e-6)
    else:  # neighbours within one size are taken together
        assert ((draws >= 0.96 * lower[0]) & (draws <= 1.04 * upper[0])).mean() >= 0.9
    assert spread.chance_of_any(forecast[:1])[0] == pytest.approx((draws > 0).mean(), abs=1e-6)
