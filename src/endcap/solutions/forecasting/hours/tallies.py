"""How shapes are learned: what blocks of series tell, in sums by label, and how the sums become shapes.

First each series is compared with a flat day at its own level, which gives shapes by likeness. A second look compares it with those shapes
at its level of the days around, which gives the places' shapes and corrects what a series' ups and downs did to the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours import kernels
from endcap.solutions.forecasting.hours.methods import Learned
from endcap.solutions.forecasting.hours.shapes import (
    IS_OFF,
    KINDS,
    NO_LABEL,
    Codes,
    DayPatterns,
    Doubles,
    Shapes,
    find_patterns,
    group_series,
    see,
    shrink,
)

WINDOW_DAYS = 112
_HOUR_CELLS = 3.0
_HOUR_PSEUDO = 3.0
_DAY_PSEUDO = 30.0
_PLACE_PSEUDO = 3.0
_PLACE_LEVEL_PSEUDO = 30.0
_LEVEL_SERIES = 3.0
_SMOOTH_HALF_LIFE = 14.0
_SMOOTH_PSEUDO_DAYS = 1.0
_WIDTHS = {"levels": (2,), "place_levels": (2,)}


def tally_shapes(shard: HourPanel) -> Learned:
    """What a block tells of hours and kinds of day, by the labels of its likeness. One pass over at most 16 weeks of its cells."""
    patterns, (groups, labels) = find_patterns(shard), group_series(shard, shard.likeness)
    sold, unseen = see(shard)
    told = np.zeros((len(labels), len(patterns.shares), HOURS))
    expected, levels, sizes = np.zeros_like(told), np.zeros((len(labels), 2)), np.zeros(2)
    kernels.tally_hours(sold, unseen, _first(shard), patterns.of_day, groups, _HOUR_CELLS, told, expected, levels, sizes)
    regions = (
        {}
        if shard.place is None
        else {
            f"places by {name}": group_series(shard, (shard.place, name))[1] for name in shard.statics if name not in {*shard.likeness, shard.place}
        }
    )
    return {
        **regions,
        "likeness": np.array(shard.likeness, dtype=np.str_),
        "place": np.array([] if shard.place is None else [shard.place], dtype=np.str_),
        "labels": labels,
        "told": _fold(told, patterns),
        "expected": _fold(expected, patterns),
        "levels": levels,
        "sizes": sizes,
    }


def fit_shapes(learned: Sequence[Learned]) -> Shapes:
    """Shapes from what all blocks told; without a single seen hour they are flat, at a level of 0. O(labels)."""
    likeness = tuple(str(name) for name in learned[0]["likeness"]) if learned else ()
    place = next((str(name) for name in learned[0]["place"]), None) if learned else None
    groups = _merge(learned, "labels", ("told", "expected", "levels"))
    sizes = np.sum([one["sizes"] for one in learned], axis=0) if learned else np.zeros(2)
    unit = float(sizes[1] / sizes[0]) if sizes[0] > 0 else 1.0
    days, hours, levels = np.ones((1, KINDS)), np.ones((1, 2, HOURS)), np.zeros(1)
    labels: list[tuple[str, ...]] = []
    for branch in _climb_down(groups, n_names=len(likeness)):
        told, expected = branch.sums["told"], branch.sums["expected"]
        n, total = branch.sums["levels"].T
        if branch.labels is None:
            days, hours = _fit_rows(told, expected, days, hours, unit=unit)
            levels = np.divide(total, n, out=np.zeros(1), where=n > 0)
            continue
        own_days, own_hours = _fit_rows(told, expected, days[branch.parents], hours[branch.parents], unit=unit)
        own_levels = (total + _LEVEL_SERIES * levels[branch.parents]) / (n + _LEVEL_SERIES)
        days, hours, levels = np.concatenate((days, own_days)), np.concatenate((hours, own_hours)), np.concatenate((levels, own_levels))
        labels.insert(0, branch.labels)
    return Shapes(
        likeness=likeness,
        labels=tuple(labels),
        days=days,
        hours=hours,
        levels=levels,
        place=place,
        place_labels=(),
        place_hours=np.ones((1, 2, HOURS)),
        place_levels=np.ones(1),
        region=_choose_region(learned),
        unit=unit,
        n_series=int(groups.sums["levels"][:, 0].sum()),
    )


def tally_corrections(shard: HourPanel, shapes: Shapes) -> Learned:
    """What a block tells beyond ``shapes``: by label and by place. Two passes over at most 16 weeks of its cells."""
    patterns = find_patterns(shard)
    groups, labels = group_series(shard, shard.likeness)
    at, places = group_series(shard, () if shard.place is None else (shard.place,))
    sold, unseen = see(shard)
    of_series, place_of_series = shapes.rows(shard), shapes.place_rows(shard)
    likeness, place = shapes.expand(patterns)
    told, place_told = np.zeros((len(labels), len(patterns.shares), HOURS)), np.zeros((len(places), len(patterns.shares), HOURS))
    expected, place_expected, place_levels = np.zeros_like(told), np.zeros_like(place_told), np.zeros((len(places), 2))
    kernels.tally_corrections(
        sold,
        unseen,
        _first(shard),
        patterns.of_day,
        np.stack((groups, of_series, at, place_of_series)),
        likeness,
        place,
        0.5 ** (1 / _SMOOTH_HALF_LIFE),
        _SMOOTH_PSEUDO_DAYS,
        told,
        expected,
        place_told,
        place_expected,
        shapes.prior_levels(shard),
        place_levels,
    )
    return {
        "labels": labels,
        "told": _fold(told, patterns),
        "expected": _fold(expected, patterns),
        "places": places,
        "place_told": _fold(place_told, patterns),
        "place_expected": _fold(place_expected, patterns),
        "place_levels": place_levels,
    }


def correct_shapes(shapes: Shapes, learned: Sequence[Learned]) -> Shapes:
    """Shapes with what a second look told: places have their own, and labels are corrected. O(labels)."""
    places = _merge(learned, "places", ("place_told", "place_expected", "place_levels"))
    known = places.labels[:, 0] != NO_LABEL if places.labels.shape[1] else np.zeros(0, dtype=np.bool_)
    labels = tuple(str(label) for label in places.labels[known, 0]) if shapes.place is not None and known.any() else ()
    hours, levels = np.ones((1, 2, HOURS)), np.ones(1)
    if labels:
        told, expected = _halve(places.sums["place_told"][known]), _halve(places.sums["place_expected"][known])
        hours = np.concatenate((hours, shrink(told, expected, pseudo=_PLACE_PSEUDO * shapes.unit)))
        told, expected = places.sums["place_levels"][known].T
        levels = np.concatenate((levels, shrink(told, expected, pseudo=_PLACE_LEVEL_PSEUDO * shapes.unit)))
    return replace(shapes, place_labels=labels, place_hours=hours, place_levels=levels)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums by distinct row of labels (n x n_names)."""

    labels: NDArray[np.str_]
    sums: dict[str, Doubles]


@dataclass(frozen=True, eq=False)
class _Branch:
    """The labels under one name, their parents' rows, and sums by label. The first branch is all series: no labels."""

    labels: tuple[str, ...] | None
    parents: Codes
    sums: dict[str, Doubles]


def _choose_region(learned: Sequence[Learned]) -> str | None:
    """The finest static of which each place has one label alone, with at least two labels and three places to a label."""
    found: dict[int, str] = {}
    for name in sorted(name for name in learned[0] if name.startswith("places by ")) if learned else ():
        pairs = np.unique(np.concatenate([one[name] for one in learned]), axis=0)
        n_places, n_labels = (len(np.unique(pairs[:, i])) for i in range(2))
        if len(pairs) == n_places and 2 <= n_labels <= n_places / 3:
            found.setdefault(n_labels, name.removeprefix("places by "))
    return found[max(found)] if found else None


def _first(shard: HourPanel) -> int:
    return max(0, (shard.n_seen // HOURS - WINDOW_DAYS) * HOURS)


def _fold(values: Doubles, patterns: DayPatterns) -> Doubles:
    """From kinds of day as they occurred to the seven that they are made of."""
    folded: Doubles = np.einsum("pk,gph->gkh", patterns.shares, values)
    return folded


def _halve(values: Doubles) -> Doubles:
    """From seven kinds of day to days of work and days off."""
    return np.stack((values[:, ~IS_OFF].sum(axis=1), values[:, IS_OFF].sum(axis=1)), axis=1)


def _merge(learned: Sequence[Learned], labels: str, names: Sequence[str]) -> _Sums:
    if not learned:
        return _Sums(np.empty((0, 0), dtype=np.str_), {name: np.zeros((0, *_WIDTHS.get(name, (KINDS, HOURS)))) for name in names})
    rows = np.concatenate([one[labels] for one in learned])
    distinct, of_row = np.unique(rows, axis=0, return_inverse=True) if rows.shape[1] else (rows[:1], np.zeros(len(rows), dtype=np.int64))
    sums = {}
    for name in names:
        values = np.concatenate([one[name] for one in learned])
        sums[name] = np.zeros((len(distinct), *values.shape[1:]))
        np.add.at(sums[name], of_row.reshape(-1), values)
    return _Sums(distinct, sums)


def _climb_down(groups: _Sums, *, n_names: int) -> Iterator[_Branch]:
    """All series, then the labels of each name from the farthest to the nearest."""
    yield _Branch(None, np.zeros(1, dtype=np.int64), {name: values.sum(axis=0, keepdims=True) for name, values in groups.sums.items()})
    row_of_group, n_rows = np.zeros(len(groups.labels), dtype=np.int64), 1
    weight = groups.sums["expected"].sum(axis=(1, 2)) if "expected" in groups.sums else np.ones(len(groups.labels))
    for i in range(n_names - 1, -1, -1):
        there = np.flatnonzero(groups.labels[:, i] != NO_LABEL)
        labels, of_group = np.unique(groups.labels[there, i], return_inverse=True)
        # A label that has two parents (a product in two categories) keeps the one that expects more.
        parents = np.zeros(labels.size, dtype=np.int64)
        order = np.argsort(weight[there], kind="stable")
        parents[of_group[order]] = row_of_group[there[order]]
        sums = {}
        for name, values in groups.sums.items():
            sums[name] = np.zeros((labels.size, *values.shape[1:]))
            np.add.at(sums[name], of_group, values[there])
        yield _Branch(tuple(str(label) for label in labels), parents, sums)
        row_of_group[there] = n_rows + of_group
        n_rows += labels.size


def _fit_rows(told: Doubles, expected: Doubles, days: Doubles, hours: Doubles, *, unit: float) -> tuple[Doubles, Doubles]:
    """Days and hours of some rows, shrunk to their parents'; ``expected`` is of flat days."""
    off = IS_OFF.astype(np.int64)
    usual = _halve(expected * days[:, :, None] * hours[:, off])
    hours = _to_mean_one(hours * shrink(_halve(told), usual, pseudo=_HOUR_PSEUDO * unit))
    usual = (expected * days[:, :, None] * hours[:, off]).sum(axis=2)
    days = _to_mean_one(days * shrink(told.sum(axis=2), usual, pseudo=_DAY_PSEUDO * unit))
    return days, hours


def _to_mean_one(values: Doubles) -> Doubles:
    mean: Doubles = values.mean(axis=-1, keepdims=True)
    return values / mean
