"""Of thousands of members those that fell are named, and hardly any other; what all share is nobody's fall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from endcap.loop.evaluation.discoveries import Falls, _invert_trigamma, find_falls
from endcap.loop.evaluation.member_days import MemberDays

Mask = NDArray[np.bool_]


def live_by_member(
    seed: int,
    n: int = 400,
    *,
    n_days: int = 14,
    n_validated: int = 42,
    fallen: int = 0,
    fall: float = 2.5,
    common: float = 1.0,
    weather: float = 0.3,
    regions: float = 0.2,
    rho: float = 0.3,
) -> tuple[MemberDays, NDArray[np.float64], Mask]:
    """A chain whose daily errors share weather, in the chain and in ten regions, and go on from day to day; the first members fall."""
    rng = np.random.default_rng(seed)
    total = n_validated + n_days
    own = rng.normal(size=(n, total))
    for day in range(1, total):
        own[:, day] = rho * own[:, day - 1] + np.sqrt(1 - rho**2) * own[:, day]
    shared = rng.normal(0, weather, total) + rng.normal(0, regions, (10, total))[rng.integers(0, 10, n)]
    actual = np.exp(rng.normal(4, 0.7, n))[:, None] * np.exp(rng.normal(0, 0.2, (n, total)))
    absolute = actual * 0.2 * np.exp(rng.normal(0, 0.3, n))[:, None] * np.exp(shared + 0.35 * own)
    promise = absolute[:, :n_validated].sum(axis=1) / actual[:, :n_validated].sum(axis=1)
    truth = np.arange(n) < fallen
    actual, absolute = actual[:, n_validated:], absolute[:, n_validated:] * common
    absolute[truth] *= fall
    return as_days(actual, absolute, promise[:, None] * actual), np.full(n, float(n_validated)), truth


def as_days(actual: NDArray[np.float64], absolute: NDArray[np.float64], promised: NDArray[np.float64], n: Any = None) -> MemberDays:
    ones = np.ones_like(actual) if n is None else n
    names = tuple(f"S{i}" for i in range(len(actual)))
    days = np.datetime64("2026-01-05") + np.arange(actual.shape[1])
    return MemberDays(names, days, ones, actual, absolute, absolute**2, absolute, promised)


def find(live: MemberDays, validated: NDArray[np.float64], **options: Any) -> Falls:
    return find_falls(live, validated=validated, **{"factor": 1.3, "rate": 0.05, "least_days": 5, **options})


def study(n_runs: int = 40, **world: Any) -> tuple[float, float, float]:
    """The mean share of names that are wrong, the share of runs with any wrong name, the share of falls that are found."""
    wrong, any_wrong, found = [], [], []
    for seed in range(n_runs):
        live, validated, truth = live_by_member(seed, **world)
        fell = find(live, validated).fell
        wrong.append((fell & ~truth).sum() / max(1, fell.sum()))
        any_wrong.append((fell & ~truth).any())
        found.append(fell[truth].mean() if truth.any() else 0.0)
    return float(np.mean(wrong)), float(np.mean(any_wrong)), float(np.mean(found))


@pytest.mark.parametrize("common", [1.0, 1.3, 2.0])
def test_where_nobody_fell_hardly_anybody_is_named_even_in_bad_weather(common: float) -> None:
    _, any_wrong, _ = study(common=common)
    assert any_wrong <= 0.05


@pytest.mark.parametrize("world", [{"fallen": 20, "fall": 3.0}, {"fallen": 80}, {"fallen": 20, "fall": 3.0, "common": 1.5}])
def test_falls_are_found_and_few_others_are_named_with_them(world: dict[str, Any]) -> None:
    wrong, _, found = study(20, **world)
    assert wrong <= 0.05
    assert found >= 0.6


def test_members_at_their_limit_are_named_as_rarely_as_the_rate_says() -> None:
    """The hardest case: 150 members err exactly by the factor, so that each is as near to a fall as an honest one can be."""
    ps = []
    for seed in range(20):
        live, validated, _ = live_by_member(seed, fallen=100, fall=1.3, regions=0.0)
        ps.append(find(live, validated).p[:100])
    p = np.concatenate(ps)
    assert (p <= 0.05).mean() <= 0.06
    assert (p <= 0.05).mean() >= 0.01, "a test that never rejects proves nothing"


def test_a_shift_of_all_is_said_once_and_of_nobody() -> None:
    live, validated, _ = live_by_member(1, common=2.0)
    falls = find(live, validated)
    assert falls.common == pytest.approx(2.0, rel=0.15)
    assert not falls.fell.any()
    one, validated, truth = live_by_member(1, common=1.0, fallen=3, fall=5.0)
    falls = find(one, validated)
    assert falls.common == pytest.approx(1.0, rel=0.15)
    assert falls.fell.tolist() == truth.tolist()


def test_without_days_or_a_promise_a_member_is_not_judged() -> None:
    live, validated, _ = live_by_member(1, n=20, fallen=20, fall=9.0)
    n = np.ones_like(live.n)
    n[0, 4:] = 0  # four days
    n[1] = 0
    promised = live.promised.copy()
    promised[2], promised[3] = np.nan, 0.0
    validated[4] = 0
    sums = as_days(live.actual * n, live.absolute * n, promised * n, n)
    falls = find(sums, validated)
    assert falls.judged.tolist() == [False] * 5 + [True] * 15
    assert np.isnan(falls.p[:5]).all()
    assert not falls.fell[:5].any()
    nobody = find(sums, np.zeros(20))
    assert not nobody.judged.any()
    assert nobody.common == 1.0


def test_with_few_members_each_answers_for_itself() -> None:
    """Of three members nobody can say what the chain shares."""
    live, validated, _ = live_by_member(1, n=3, fallen=3, fall=6.0)
    falls = find(live, validated)
    assert falls.common == 1.0
    assert falls.fell.all()


def test_days_that_are_all_alike_are_certain_either_way() -> None:
    actual = np.full((2, 14), 100.0)
    live = as_days(actual, np.array([[20.0], [10.0]]) * np.ones(14), 0.1 * actual)
    falls = find(live, np.full(2, 28.0))
    assert falls.fell.tolist() == [True, False]
    spotless = find(as_days(actual, np.zeros((2, 14)), 0.1 * actual), np.full(2, 28.0))
    assert not spotless.fell.any()


@pytest.mark.parametrize("x", [0.05, 0.5, 1.0, 7.0, 300.0])
def test_the_inverse_of_the_trigamma_function(x: float) -> None:
    from scipy.special import polygamma

    assert _invert_trigamma(float(polygamma(1, x))) == pytest.approx(x, rel=1e-6)
