"""What a comparison shows: false alarms over daily looks stay as few as promised, differences are found, and the sample needed is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from endcap.loop.evaluation.comparisons import compare_groups
from endcap.loop.evaluation.member_days import MemberDays
from endcap.loop.evaluation.records import Finding

Array = NDArray[np.float64]
N_BEFORE, PLAN = 28, 28


def sums(actual: Array, error: Array, *, first: str = "2026-01-05", n: Array | None = None) -> MemberDays:
    names = tuple(f"S{i}" for i in range(len(actual)))
    days = np.datetime64(first) + np.arange(actual.shape[1])
    there = np.ones_like(actual) if n is None else n
    return MemberDays(names, days, there, actual * there, np.abs(error) * there, error**2 * there, error * there, np.zeros_like(actual))


def chain(seed: int, n: int = 60, *, effect: float = 0.0, rho: float = 0.5, lasting: float = 0.3) -> tuple[MemberDays, MemberDays, NDArray[np.bool_]]:
    """Stores that differ in size and lastingly in error, under weather they share, with errors that go on from day to day."""
    rng = np.random.default_rng(seed)
    total = N_BEFORE + PLAN
    own = rng.normal(size=(n, total))
    for day in range(1, total):
        own[:, day] = rho * own[:, day - 1] + np.sqrt(1 - rho**2) * own[:, day]
    actual = np.exp(rng.normal(4, 0.5, n))[:, None] * np.exp(rng.normal(0, 0.2, (n, total)))
    error = actual * 0.2 * np.exp(rng.normal(0, lasting, n))[:, None] * np.exp(rng.normal(0, 0.3, total) + 0.4 * own)
    in_b = np.zeros(n, np.bool_)
    in_b[rng.permutation(n)[: n // 2]] = True
    error[in_b, N_BEFORE:] *= 1 + effect
    return sums(actual[:, :N_BEFORE], error[:, :N_BEFORE]), sums(actual[:, N_BEFORE:], error[:, N_BEFORE:], first="2026-02-02"), in_b


def compare(live: MemberDays, before: MemberDays | None, in_b: NDArray[np.bool_], **options: Any) -> Finding:
    return compare_groups(live, before, in_b=in_b, **{"metric": "wape", "smallest": 0.05, "n_planned": PLAN, **options})


def look_every_day(seed: int, *, with_before: bool = True, **world: Any) -> list[Finding]:
    before, live, in_b = chain(seed, **world)
    start = live.days[0]
    looks = range(7, PLAN + 1, 3)
    return [compare(live.between(start, start + (day - 1)), before if with_before else None, in_b) for day in looks]


@pytest.mark.parametrize("with_before", [True, False])
def test_two_groups_of_one_version_are_told_apart_as_rarely_as_promised(with_before: bool) -> None:
    n = 240
    alarms = [any(found.better for found in look_every_day(seed, with_before=with_before)) for seed in range(n)]
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)
    assert any(alarms), "an interval that never misses is wider than it need be"


def test_plain_intervals_looked_at_every_day_would_raise_more() -> None:
    """What the limits are for: the same looks, each judged as if it were the only one, on errors that days alone make differ."""
    plain = allowed = 0
    for seed in range(120):
        looks = look_every_day(seed, rho=0.0, lasting=0.0, with_before=False)
        allowed += any(found.better for found in looks)
        plain += any(abs(found.difference) > 2 * _error_of(found) for found in looks if found.difference is not None)
    assert plain > 2 * max(allowed, 3)


def _error_of(found: Finding) -> float:
    from endcap.loop.evaluation.sequential import FIRST_LOOK, daily_limits, widen_limit

    assert found.upper is not None
    assert found.difference is not None
    limit = widen_limit(daily_limits(found.n_planned)[found.n_days - FIRST_LOOK], df=found.n_a + found.n_b - 2)
    return (found.upper - found.difference) / limit


@pytest.mark.parametrize(("effect", "better"), [(-0.2, "b"), (0.25, "a")])
def test_a_planted_difference_is_found_on_the_right_side(effect: float, better: str) -> None:
    n = 30
    ends = [compare(live, before, in_b) for before, live, in_b in (chain(seed, n=120, effect=effect) for seed in range(n))]
    assert sum(found.better == better for found in ends) >= 0.9 * n
    assert not any(found.better not in ("", better) for found in ends)
    means = [found.difference / found.figure_a for found in ends if found.difference is not None and found.figure_a]
    assert np.mean(means) == pytest.approx(effect, abs=0.04)


def test_the_interval_holds_the_true_difference_and_the_time_before_makes_it_narrower() -> None:
    with_it, without, held = [], [], 0
    for seed in range(60):
        before, live, in_b = chain(seed, n=80, effect=-0.15)
        truth = 0.15 / 0.85 * -1  # of b's own figure: what b would have without the challenger, less what it has
        adjusted, plain = compare(live, before, in_b), compare(live, None, in_b)
        assert adjusted.lower is not None
        assert adjusted.upper is not None
        assert plain.lower is not None
        assert plain.upper is not None
        assert adjusted.figure_b is not None
        held += adjusted.lower <= truth * adjusted.figure_b <= adjusted.upper
        with_it.append(adjusted.upper - adjusted.lower)
        without.append(plain.upper - plain.lower)
    assert held >= 54
    assert np.mean(with_it) < 0.8 * np.mean(without)


def test_an_imbalance_from_before_the_start_is_no_difference() -> None:
    """Group b has the bad stores: without the time before the challenger would be blamed for them."""
    before, live, _ = chain(3, n=80, lasting=0.6)
    worst = np.argsort(before.absolute.sum(axis=1) / before.actual.sum(axis=1))
    in_b = np.zeros(80, np.bool_)
    in_b[worst[40:]] = True
    blamed, fair = compare(live, None, in_b), compare(live, before, in_b)
    assert blamed.better == "a"
    assert fair.difference is not None
    assert blamed.difference is not None
    assert abs(fair.difference) < 0.25 * abs(blamed.difference)


def test_the_figures_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(5)
    actual, error = rng.uniform(50, 100, (10, 14)), rng.normal(3, 10, (10, 14))
    live, in_b = sums(actual, error), np.arange(10) >= 4
    expected = {
        "wape": [np.abs(e).sum() / y.sum() for y, e in ((actual[:4], error[:4]), (actual[4:], error[4:]))],
        "mae": [np.abs(e).mean() for e in (error[:4], error[4:])],
        "rmse": [np.sqrt((e**2).mean()) for e in (error[:4], error[4:])],
        "bias": [abs(e.sum() / y.sum()) for y, e in ((actual[:4], error[:4]), (actual[4:], error[4:]))],
        "actual per member-day": [y.mean() for y in (actual[:4], actual[4:])],
    }
    for metric, figures in expected.items():
        found = compare(live, None, in_b, metric=metric)
        assert [found.figure_a, found.figure_b] == pytest.approx(figures)
        assert found.difference == pytest.approx(found.figure_b - found.figure_a)
        assert found.variance_left is None


@pytest.mark.parametrize("metric", ["wape", "rmse", "actual per member-day"])
def test_the_spread_is_that_of_drawing_members_again(metric: str) -> None:
    """Beside a bootstrap over members (without the time before, on one look)."""
    _, live, in_b = chain(11, n=120)
    week = live.between(live.days[0], live.days[6])
    found = compare(week, None, in_b, metric=metric, n_planned=7)
    assert found.upper is not None
    assert found.difference is not None
    rng = np.random.default_rng(1)
    a, b = np.flatnonzero(~in_b), np.flatnonzero(in_b)
    drawn = []
    for _ in range(600):
        rows = np.concatenate([rng.choice(a, a.size), rng.choice(b, b.size)])
        again = MemberDays(
            tuple(map(str, rows)), week.days, *(getattr(week, n)[rows] for n in ("n", "actual", "absolute", "squared", "error", "promised"))
        )
        drawn.append(compare(again, None, np.arange(rows.size) >= a.size, metric=metric, n_planned=7).difference)
    assert (found.upper - found.difference) / 1.98 == pytest.approx(np.std(drawn), rel=0.15)


def test_what_was_sold_is_neither_better_nor_worse() -> None:
    actual = np.vstack([np.full((10, 14), 100.0), np.full((10, 14), 130.0)]) + np.random.default_rng(1).normal(size=(20, 14))
    found = compare(sums(actual, np.ones_like(actual)), None, np.arange(20) >= 10, metric="actual per member-day")
    assert found.better == ""
    assert found.sentence.startswith("actual per member-day: +29.9")
    assert found.sentence.endswith("more than chance")


def test_before_a_week_nothing_is_said() -> None:
    before, live, in_b = chain(1, effect=5.0)
    found = compare(live.between(live.days[0], live.days[5]), before, in_b)
    assert (found.difference, found.better, found.n_days) == (None, "", 6)
    assert found.sentence == "wape: 6 days with outcomes in both groups; it is looked at from 7 on, as weekdays differ"


def test_only_days_that_both_groups_have_count_and_none_beyond_the_plan() -> None:
    before, live, in_b = chain(1)
    n = np.ones_like(live.n)
    n[np.ix_(in_b, [2, 3])] = 0  # two days on which b has no outcome
    n[0, :] = 0  # and a member that has none at all
    gaps = sums(live.actual, live.error, n=n)
    found = compare(gaps, before, in_b, n_planned=14)
    assert (found.n_days, found.n_a + found.n_b) == (14, 59)
    looked = [day for day in range(PLAN) if day not in (2, 3)][:14]
    a = ~in_b
    a[0] = False
    b = in_b.copy()
    b[0] = False
    assert found.figure_a == pytest.approx(live.absolute[np.ix_(a, looked)].sum() / live.actual[np.ix_(a, looked)].sum())
    assert found.figure_b == pytest.approx(live.absolute[np.ix_(b, looked)].sum() / live.actual[np.ix_(b, looked)].sum())


def test_too_few_members_or_nothing_but_zeros_are_said() -> None:
    _, live, _ = chain(1, n=6)
    few = compare(live, None, np.arange(6) >= 5)
    assert few.sentence == "wape: outcomes of 5 members in a and 1 in b, too few to compare"
    zeros = sums(np.zeros((6, 14)), np.zeros((6, 14)))
    assert compare(zeros, None, np.arange(6) >= 3).sentence == "wape: there is nothing but zeros to compare by"


def test_the_sample_that_is_said_to_be_needed_shows_the_difference_four_times_in_five() -> None:
    """Take the number of members it asks for at the planned days, and see how often the smallest difference is found."""
    pilots = [compare(live, before, in_b, smallest=0.12) for before, live, in_b in (chain(seed, n=100) for seed in range(12))]
    needed = int(np.median([found.n_members_needed or 0 for found in pilots]))
    assert 20 < needed < 600
    ends = [compare(live, before, in_b) for before, live, in_b in (chain(seed, n=needed, effect=-0.12) for seed in range(100, 160))]
    assert 0.65 <= np.mean([found.better == "b" for found in ends]) <= 0.95


def test_days_that_alone_make_errors_differ_are_worth_waiting_for_and_lasting_differences_are_not() -> None:
    _, live, in_b = chain(2, n=60, rho=0.0, lasting=0.0)
    found = compare(live.between(live.days[0], live.days[9]), None, in_b, smallest=0.06)
    assert found.n_days_needed is not None
    assert 10 < found.n_days_needed < 100
    _, live, in_b = chain(2, n=60, rho=0.0, lasting=0.8)
    stuck = compare(live, None, in_b, smallest=0.02)
    assert stuck.n_days_needed is None
    assert stuck.n_members_needed is not None
    assert stuck.n_members_needed > 1000
    assert "these members cannot show one of 2.0%, however long it runs" in stuck.sentence
    assert stuck.sentence.startswith("wape: no difference is shown yet: ")


@pytest.mark.parametrize(
    ("n_days", "smallest", "words"),
    [(10, 0.35, "the 18 days that are left of the plan are enough to show a difference of 35.0%"), (28, 0.5, "one of 50.0% or more is ruled out")],
)
def test_the_words_say_what_is_left(n_days: int, smallest: float, words: str) -> None:
    before, live, in_b = chain(4)
    found = compare(live.between(live.days[0], live.days[n_days - 1]), before, in_b, smallest=smallest)
    assert found.better == ""
    assert words in found.sentence
