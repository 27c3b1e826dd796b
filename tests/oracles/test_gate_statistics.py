"""How often the checks of a gate raise a false alarm, by simulation, and slow twins of what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from endcap.loop.evaluation.bootstrap import compare_errors, widen_tail
from endcap.loop.evaluation.calibration_checks import find_chance
from endcap.loop.evaluation.evidence import Probabilities
from endcap.loop.evaluation.metrics import PROBABILITY_PARTS, bin_probabilities, measure_probabilities, rank_pairs
from endcap.loop.evaluation.ratio_tests import adjust_holm, find_above, find_worse, measure_ratio

LEVEL = 0.05


def count_alarms(alarm: Callable[[np.random.Generator], bool], *, n: int, seed: int = 11) -> float:
    rng = np.random.default_rng(seed)
    return sum(alarm(rng) for _ in range(n)) / n


def most(n: int) -> float:
    """The level, and what chance adds to it in so many simulations: three standard errors."""
    return LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / n)


def alarm_of_slices(rng: np.random.Generator, *, n: int, sigma: float, n_slices: int = 10, worse: float = 1.0) -> bool:
    """Ten slices whose true figure is just the limit: is one of them named?"""
    limit = math.exp(sigma**2 / 2)
    p = [find_above(worse * rng.lognormal(0, sigma, (n, 1)), np.ones((n, 1)), limit=limit) for _ in range(n_slices)]
    return bool((adjust_holm(p) <= LEVEL).any())


@pytest.mark.parametrize(("n", "sigma"), [(30, 1.0), (30, 0.3), (100, 0.3)])
def test_slices_at_their_limit_are_rarely_named_however_many_there_are(n: int, sigma: float) -> None:
    assert count_alarms(lambda rng: alarm_of_slices(rng, n=n, sigma=sigma), n=400) <= most(400)


def test_slices_that_are_worse_are_named() -> None:
    assert count_alarms(lambda rng: alarm_of_slices(rng, n=100, sigma=0.3, worse=1.2), n=100) > 0.95


@pytest.mark.parametrize(("n_series", "n_origins", "shared"), [(5, 4, 0.2), (30, 4, 0.2), (100, 4, 0.0), (100, 4, 0.1), (10, 3, 0.2), (100, 2, 0.2)])
def test_a_forecast_at_its_limit_is_rarely_named_though_its_origins_share_their_weather(n_series: int, n_origins: int, shared: float) -> None:
    limit = math.exp((shared**2 + 0.04 + 0.09) / 2)

    def alarm(rng: np.random.Generator) -> bool:
        weather, quirk = rng.normal(0, shared, (1, n_origins)), rng.normal(0, 0.2, (n_series, 1))
        errors = np.exp(weather + quirk + rng.normal(0, 0.3, (n_series, n_origins)))
        return find_above(errors, np.ones_like(errors), limit=limit) <= LEVEL

    assert count_alarms(alarm, n=400) <= most(400)


def test_a_forecast_that_is_worse_in_a_slice_is_named_after_four_origins() -> None:
    def alarm(rng: np.random.Generator) -> bool:
        errors = np.exp(rng.normal(0, 0.1, (1, 4)) + rng.normal(0, 0.2, (40, 1)) + rng.normal(0, 0.3, (40, 4)))
        return find_above(1.3 * errors, np.ones_like(errors), limit=math.exp(0.07)) <= LEVEL / 10

    assert count_alarms(alarm, n=100) > 0.5


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("draw", ["skewed", "even", "shares"])
def test_groups_that_are_apart_by_just_the_limit_are_rarely_called_unfair(n: int, draw: str) -> None:
    times = 1.25

    def sample(rng: np.random.Generator, factor: float) -> Any:
        if draw == "shares":
            return (rng.random((n, 1)) < 0.2 * factor).astype(float)
        return rng.lognormal(0, 1.0 if draw == "skewed" else 0.3, (n, 1)) * factor

    def alarm(rng: np.random.Generator) -> bool:
        found = [measure_ratio(sample(rng, times if i == 0 else 1.0), np.ones((n, 1))) for i in range(5)]
        ratios = [ratio for ratio in found if ratio is not None]
        p = [find_worse(a, b, times=times) for a in ratios for b in ratios if a is not b]
        return bool((adjust_holm(p) <= LEVEL).any())

    assert count_alarms(alarm, n=250) <= most(250)


@pytest.mark.parametrize(("n", "off"), [(60, 0.0), (200, 0.0), (200, 0.05), (1000, 0.05)])
@pytest.mark.parametrize("cluster", [0, 4])
def test_probabilities_that_are_as_right_as_asked_are_rarely_called_wrong(n: int, off: float, cluster: int) -> None:
    """The truth is off by just the limit; with clusters, outcomes of one go together."""

    def alarm(rng: np.random.Generator) -> bool:
        return judge_calibration(rng, n=n, off=off, limit=max(off, 1e-9), cluster=cluster)

    assert count_alarms(alarm, n=150) <= most(150)


def test_probabilities_that_are_wrong_are_found() -> None:
    assert count_alarms(lambda rng: judge_calibration(rng, n=1000, off=0.15, limit=0.05, cluster=0), n=50) > 0.95


def judge_calibration(rng: np.random.Generator, *, n: int, off: float, limit: float, cluster: int) -> bool:
    p = rng.beta(2, 5, n)
    drawn = rng.random(n)
    groups = np.repeat(np.arange(n // cluster), cluster) if cluster else None
    if groups is not None:
        drawn = np.where(rng.random(n) < 0.5, rng.random(n // cluster)[groups], drawn)
    came = (drawn < np.clip(p + off, 0, 1)).astype(float)
    bins = bin_probabilities(came, p, weight=np.ones(n))
    return bins.error > limit and find_chance(Probabilities(p, came, None, groups), bins, limit=limit, rng=rng) <= LEVEL


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_a_model_as_good_as_its_rival_rarely_beats_it_on_few_clusters(sigma: float) -> None:
    def alarm(rng: np.random.Generator) -> bool:
        ours, theirs = rng.lognormal(0, sigma, (2, 8, 1))
        return compare_errors(ours, theirs, rng=rng, tail=widen_tail(0.05, 8)).upper < 1

    assert count_alarms(alarm, n=300) <= most(300)


# Slow twins


def find_above_slowly(errors: Any, weights: Any, *, limit: float) -> float:
    from scipy.stats import t

    n_groups, n_origins = errors.shape
    by_group = [sum(errors[g, o] - limit * weights[g, o] for o in range(n_origins)) for g in range(n_groups)]
    by_origin = [sum(errors[g, o] - limit * weights[g, o] for g in range(n_groups)) for o in range(n_origins)]
    parts = []
    for sums in (by_group, by_origin):
        if len(sums) > 1:
            mean = sum(sums) / len(sums)
            parts.append((len(sums) * sum((value - mean) ** 2 for value in sums) / (len(sums) - 1), len(sums)))
    variance, total = sum(part for part, _ in parts), sum(by_group)
    df = variance**2 / sum(part**2 / (n - 1) for part, n in parts) if min(n for _, n in parts) > 2 else min(n for _, n in parts) - 1
    return 1.0 if total <= 0 else float(t.sf(total / math.sqrt(variance), df))


@pytest.mark.parametrize("shape", [(30, 1), (7, 4), (3, 9), (40, 2)])
def test_a_limit_is_tested_as_it_is_written_down(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    errors, weights = rng.gamma(2, 1, shape), rng.gamma(5, 1, shape)
    for limit in (0.2, 0.35, 0.6):
        assert find_above(errors, weights, limit=limit) == pytest.approx(find_above_slowly(errors, weights, limit=limit))


def test_holm_is_as_it_is_written_down() -> None:
    rng = np.random.default_rng(5)
    for n in (1, 2, 9):
        p = rng.random(n) ** 3
        ordered = sorted(range(n), key=lambda i: p[i])
        expected, highest = [0.0] * n, 0.0
        for rank, i in enumerate(ordered):
            highest = max(highest, min(1.0, p[i] * (n - rank)))
            expected[i] = highest
        np.testing.assert_allclose(adjust_holm(p), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_are_measured_as_it_is_written_down(weighted: bool) -> None:
    rng = np.random.default_rng(7)
    n = 120
    p = np.round(rng.random(n), 2)  # with ties
    y = (rng.random(n) < p).astype(float)
    w = rng.gamma(2, 1, n) if weighted else np.ones(n)
    found = measure_probabilities(y, p, weight=w)
    loss = sum(w[i] * -math.log(max(p[i] if y[i] else 1 - p[i], 1e-15)) for i in range(n)) / w.sum()
    assert found.log_loss == pytest.approx(loss)
    assert found.brier == pytest.approx(sum(w[i] * (p[i] - y[i]) ** 2 for i in range(n)) / w.sum())
    assert found.error_rate == pytest.approx(sum(w[i] for i in range(n) if (p[i] >= 0.5) != (y[i] == 1)) / w.sum())
    assert found.bias == pytest.approx(sum(w[i] * (p[i] - y[i]) for i in range(n)) / sum(w[i] * y[i] for i in range(n)))
    right = pairs = 0.0
    for i in range(n):
        for j in range(n):
            if y[i] == 1 and y[j] == 0:
                pairs += w[i] * w[j]
                right += w[i] * w[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    assert found.auc == pytest.approx(right / pairs)
    assert rank_pairs(np.ones(3), np.ones(3), weight=np.ones(3)) is None


def test_the_calibration_error_is_that_of_its_bins() -> None:
    rng = np.random.default_rng(9)
    p = np.round(rng.beta(1, 8, 300), 2)
    y = (rng.random(300) < p + 0.1).astype(float)
    bins = bin_probabilities(y, p, weight=np.ones(300))
    error = 0.0
    for place in set(bins.place.tolist()):
        rows = [i for i in range(300) if bins.place[i] == place]
        error += len(rows) / 300 * abs(sum(y[i] for i in rows) / len(rows) - sum(p[i] for i in rows) / len(rows))
    assert bins.error == pytest.approx(error)
    for value in set(p.tolist()):
        assert len(set(bins.place[p == value].tolist())) == 1, "equal probabilities share a bin"
    order = np.argsort(p, kind="stable")
    assert (np.diff(bins.place[order]) >= 0).all()
    assert 5 <= bins.share.size <= 10


def test_every_metric_of_probabilities_has_its_parts() -> None:
    assert set(PROBABILITY_PARTS) == {"log_loss", "brier", "error_rate"}
