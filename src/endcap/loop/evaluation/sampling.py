"""Groups of members for a comparison: drawn so that they are alike, or given and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.evaluation.records import Balance, Groups

_MOST_IN_BLOCK = 20
_SHOWN = 5


def draw_groups(
    members: Sequence[str],
    *,
    figures: Mapping[str, Sequence[float]],
    facts: Mapping[str, Sequence[str]],
    share: float,
    seed: int,
    standing: Groups | None = None,
) -> Groups:
    """Draw the challenger's group, about ``share`` of the members, so that both groups are alike in facts and figures.

    Members are put in order of their facts and, within equal facts, of their first figure (their size); the order is cut into blocks of
    neighbours as small as the share allows (pairs at a half), and chance decides within each block alone. That is matching in pairs carried
    over to any share: of all draws that treat members alike it has nearly the least variance (Bai, *Optimality of matched-pair designs*,
    American Economic Review 112, 2022). Chance is the hash of seed and member, so the same members and seed give the same lists on any machine, in
    whatever order they are named. No draw of a fixed share leaves everybody in place when somebody joins; hence ``standing``: its members keep
    their group and only the others are drawn, among themselves.

    ``figures`` and ``facts`` hold one value a member, in the order of ``members``; NaN is a figure that is not known and sorts last. The balance
    of every figure is reported. Raises InvalidInput for a share outside 0 to 1, members that stand there twice, columns of another length, and
    a draw that leaves a group with fewer than two. Cost: a sort and one hash a member.
    """
    names = list(members)
    _refuse_doubles(names, what="The members")
    for what, values in {**figures, **facts}.items():
        if len(values) != len(names):
            raise InvalidInput(f"'{what}' has {len(values)} values for {len(names)} members.", hint="give one value a member")
    if not 0 < share < 1:
        raise InvalidInput(f"The share is {share}; it must lie between 0 and 1.", hint="write 0.5 for halves")
    kept = dict.fromkeys(standing.a, "a") | dict.fromkeys(standing.b, "b") if standing else {}
    drawn = [i for i, name in enumerate(names) if name not in kept]
    chosen = _draw(
        [names[i] for i in drawn],
        sizes=[_size(figures, i) for i in drawn],
        strata=[tuple(str(values[i]) for values in facts.values()) for i in drawn],
        share=share,
        seed=seed,
    )
    in_b = np.array([kept[name] == "b" if name in kept else name in chosen for name in names], dtype=np.bool_)
    groups = Groups(
        tuple(sorted(n for n, b in zip(names, in_b, strict=True) if not b)), tuple(sorted(n for n, b in zip(names, in_b, strict=True) if b))
    )
    _refuse_small(groups)
    return Groups(groups.a, groups.b, measure_balance(in_b, figures=figures))


def check_groups(a: Iterable[str], b: Iterable[str], *, known: Iterable[str], figures: Mapping[str, Mapping[str, float]] | None = None) -> Groups:
    """The groups as given, sorted, with their balance in ``figures`` (values by member, by what they are).

    Raises InvalidInput, naming some and saying how many, for members that stand there twice, that are in both lists or that nobody knows, and
    for a group of fewer than two.
    """
    first, second, there = list(a), list(b), set(known)
    _refuse_doubles(first, what="Group a")
    _refuse_doubles(second, what="Group b")
    both = sorted(set(first) & set(second))
    if both:
        raise InvalidInput(f"{_count(both)} in both groups: {_name(both)}.", hint="a member belongs to one of them")
    strangers = sorted((set(first) | set(second)) - there)
    if strangers:
        near = f"members look like {_name(sorted(there)[:3])}" if there else "the model has no members"
        raise InvalidInput(f"{_count(strangers)} not known to the model: {_name(strangers)}.", hint=near)
    groups = Groups(tuple(sorted(first)), tuple(sorted(second)))
    _refuse_small(groups)
    names = [*groups.a, *groups.b]
    in_b = np.arange(len(names)) >= len(groups.a)
    columns = {what: [values.get(name, np.nan) for name in names] for what, values in (figures or {}).items()}
    return Groups(groups.a, groups.b, measure_balance(in_b, figures=columns))


def measure_balance(in_b: NDArray[np.bool_], *, figures: Mapping[str, Sequence[float]]) -> tuple[Balance, ...]:
    """The standardised mean difference of each figure between the groups; a figure that is unknown for a whole group is left out."""
    found = []
    for what, values in figures.items():
        column = np.asarray(values, dtype=np.float64)
        a, b = column[~in_b & np.isfinite(column)], column[in_b & np.isfinite(column)]
        if not a.size or not b.size:
            continue
        spread = float(np.sqrt((_variance(a) + _variance(b)) / 2))
        gap = float(b.mean() - a.mean())
        found.append(Balance(what, float(a.mean()), float(b.mean()), gap / spread if spread > 0 else 0.0))
    return tuple(found)


def _draw(names: list[str], *, sizes: list[float], strata: list[tuple[str, ...]], share: float, seed: int) -> set[str]:
    """The challenger's members of one draw: blocks of neighbours, the lowest hashes of each."""
    rare = min(share, 1 - share)
    ratio = Fraction(rare).limit_denominator(_MOST_IN_BLOCK) if rare >= 1 / _MOST_IN_BLOCK else Fraction(1, round(1 / rare))
    ratio = ratio if share <= 0.5 else 1 - ratio
    chances = [_hash(seed, name) for name in names]
    # Facts in the order of their hash, not of their names: which cities share a block is chance too. Sizes go up and down in turn, so
    # that a block that reaches from one stratum into the next joins members of like size.
    places = {stratum: i for i, stratum in enumerate(sorted(set(strata), key=lambda s: _hash(seed, "\x00".join(s))))}
    keys = [np.nan_to_num(size, nan=np.inf) * (1 if places[stratum] % 2 == 0 else -1) for size, stratum in zip(sizes, strata, strict=True)]
    order = sorted(range(len(names)), key=lambda i: (places[strata[i]], keys[i], chances[i]))
    chosen: set[str] = set()
    for start in range(0, len(order), ratio.denominator):
        block = sorted(order[start : start + ratio.denominator], key=lambda i: chances[i])
        wanted = ratio.numerator
        if len(block) < ratio.denominator:  # the rest: its expected number, what is left over decided by chance
            exact = len(block) * ratio
            wanted = int(exact) + (_hash(seed, f"rest of {names[block[0]]}") < float(exact - int(exact)))
        chosen.update(names[i] for i in block[:wanted])
    return chosen


def _size(figures: Mapping[str, Sequence[float]], i: int) -> float:
    return float(next(iter(figures.values()))[i]) if figures else 0.0


def _hash(seed: int, text: str) -> float:
    """A number from 0 to below 1 that depends on seed and text alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x00{text}".encode()).digest()[:6]) / 2**48


def _variance(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) if values.size > 1 else 0.0


def _refuse_doubles(names: Sequence[str], *, what: str) -> None:
    doubles = sorted(name for name, n in Counter(names).items() if n > 1)
    if doubles:
        raise InvalidInput(f"{what}: {_count(doubles)} there twice: {_name(doubles)}.", hint="name each once")


def _refuse_small(groups: Groups) -> None:
    if len(groups.a) < 2 or len(groups.b) < 2:
        n = f"{len(groups.a)} and {len(groups.b)}"
        raise InvalidInput(f"The groups have {n} members; each needs at least 2.", hint="a difference between two stores says nothing of versions")


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} member{' is' if len(names) == 1 else 's are'}"


def _name(names: Sequence[str]) -> str:
    return f"{list(names[:_SHOWN])}{f' and {len(names) - _SHOWN:,} more' if len(names) > _SHOWN else ''}"
