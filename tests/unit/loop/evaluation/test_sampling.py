"""Groups are reproducible, exact in share, alike in facts and size; given ones are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.evaluation.records import Groups
from endcap.loop.evaluation.sampling import check_groups, draw_groups, measure_balance

NAMES = [f"S{i:04d}" for i in range(400)]


def chain(n: int = 400, *, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    cities = [f"city{c}" for c in rng.integers(0, 12, n)]
    sizes = np.exp(rng.normal(4, 1, n)) * (1 + rng.integers(0, 3, n))
    return {"figures": {"size": sizes.tolist()}, "facts": {"city": cities}}


def draw(names: list[str] = NAMES, **options: Any) -> Groups:
    return draw_groups(names, **{**chain(len(names)), "share": 0.5, "seed": 7, **options})


def test_the_same_members_and_seed_give_the_same_lists_in_whatever_order_they_are_named() -> None:
    told = chain()
    order = np.random.default_rng(3).permutation(len(NAMES))
    turned = {
        "figures": {"size": [told["figures"]["size"][i] for i in order]},
        "facts": {"city": [told["facts"]["city"][i] for i in order]},
    }
    again = draw_groups([NAMES[i] for i in order], **turned, share=0.5, seed=7)
    assert (again.a, again.b) == (draw().a, draw().b)
    assert draw(seed=8).b != draw().b


@pytest.mark.parametrize("share", [0.5, 0.3, 0.1, 0.9, 0.25, 0.02, 2 / 3])
def test_the_groups_hold_everybody_once_and_the_share_is_kept(share: float) -> None:
    groups = draw(share=share)
    assert sorted([*groups.a, *groups.b]) == NAMES
    assert len(groups.b) == pytest.approx(share * len(NAMES), abs=1)


def test_matching_makes_groups_alike_where_chance_alone_does_not() -> None:
    told = chain()
    matched, plain = [], []
    for seed in range(40):
        (balance,) = draw(seed=seed).balance
        matched.append(abs(balance.difference))
        in_b = np.random.default_rng(seed).permutation(len(NAMES)) < len(NAMES) // 2
        plain.append(abs(measure_balance(in_b, figures=told["figures"])[0].difference))
    assert np.mean(matched) < 0.6 * np.mean(plain)
    assert max(matched) < 0.15


def test_each_city_is_divided_as_the_share_says() -> None:
    cities = dict(zip(NAMES, chain()["facts"]["city"], strict=True))
    for seed in range(10):
        b = set(draw(seed=seed).b)
        for city in set(cities.values()):
            members = [name for name in NAMES if cities[name] == city]
            assert abs(sum(name in b for name in members) - len(members) / 2) <= 1  # a pair at either end may reach into the next city


def test_every_member_is_as_likely_as_any_other() -> None:
    counts = np.zeros(40)
    names = NAMES[:40]
    for seed in range(400):
        b = set(draw(names, seed=seed, share=0.25).b)
        counts += [name in b for name in names]
    assert counts.mean() == pytest.approx(100, abs=2)
    assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(8, 60), joins=st.integers(1, 5), seed=st.integers(0, 1000), share=st.sampled_from([0.5, 0.3]))
def test_who_joins_later_moves_nobody(n: int, joins: int, seed: int, share: float) -> None:
    first = draw(NAMES[:n], seed=seed, share=share)
    later = draw(NAMES[: n + joins], seed=seed, share=share, standing=first)
    assert set(first.a) <= set(later.a)
    assert set(first.b) <= set(later.b)
    assert sorted([*later.a, *later.b]) == sorted(NAMES[: n + joins])


def test_figures_that_are_not_known_keep_nobody_out() -> None:
    sizes = [float("nan") if i % 3 == 0 else float(i) for i in range(400)]
    groups = draw(figures={"size": sizes, "error": [float("nan")] * 400})
    assert len(groups.a) == len(groups.b) == 200
    assert [b.what for b in groups.balance] == ["size"]
    assert draw(figures={}, facts={}).balance == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "The share is 0.0; it must lie between 0 and 1"),
        ({"share": 1.0}, "between 0 and 1"),
        ({"share": float("nan")}, "between 0 and 1"),
        ({"facts": {"city": ["x"]}}, "'city' has 1 values for 400 members"),
        ({"names": ["S1", "S2", "S1", "S3"], "figures": {}, "facts": {}}, r"1 member is there twice: \['S1'\]"),
        ({"names": ["S1", "S2", "S3"], "figures": {}, "facts": {}}, "each needs at least 2"),
        ({"names": [], "figures": {}, "facts": {}}, "The groups have 0 and 0 members"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        draw(options.pop("names", NAMES), **options)


def test_given_lists_are_kept_in_order_with_their_balance() -> None:
    groups = check_groups(["S3", "S1"], ["S2", "S4"], known=["S1", "S2", "S3", "S4", "S5"], figures={"size": {"S1": 1, "S3": 3, "S2": 10, "S4": 12}})
    assert (groups.a, groups.b) == (("S1", "S3"), ("S2", "S4"))
    (balance,) = groups.balance
    assert (balance.mean_a, balance.mean_b, balance.difference) == (2, 11, pytest.approx(9 / np.sqrt(2)))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (["S1", "S2"], ["S2", "S3"], r"1 member is in both groups: \['S2'\]"),
        (["S1", "S2", "S1"], ["S3", "S4"], r"Group a: 1 member is there twice: \['S1'\]"),
        (["S1", "S2"], ["S3", "S3"], "Group b: 1 member is there twice"),
        (["S1", "S2"], [], "The groups have 2 and 0 members; each needs at least 2"),
        (["S1"], ["S2"], "each needs at least 2"),
        (["S1", "X1"], ["S2", *(f"X{i}" for i in range(2, 10))], r"9 members are not known to the model: \['X1', .*\] and 4 more"),
    ],
)
def test_lists_that_cannot_be_are_refused_by_name_and_number(a: list[str], b: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_groups(a, b, known=["S1", "S2", "S3", "S4"])
