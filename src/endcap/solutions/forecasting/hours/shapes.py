"""Shapes: how sales spread over kinds of day and hours, for series that are alike and for places.

A shape is kept for all series, for each label of each static of ``likeness`` (product, category) and for each place. Each is shrunk
towards its parent (place and nearest label towards what is coarser) by pseudo-sales, as James and Stein shrink means; a label that was not
there when a shape was learned takes its parent's. Kinds of day are the seven of ``day_kinds``; hours have one profile for days of work and
one for days off, times the seven kinds' sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Flags, Floats, Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.loop.training.artefacts import Artefact, decode_arrays, encode_arrays
from endcap.solutions.forecasting.day_kinds import SATURDAY, weigh_days
from endcap.solutions.forecasting.hours import kernels

Doubles = NDArray[np.float64]
Codes = NDArray[np.int64]

KINDS = 7
IS_OFF = np.arange(KINDS) >= SATURDAY
NO_LABEL = ""
_SMALL = 1_000_000
_MOST = 50.0


@dataclass(frozen=True, eq=False)
class DayPatterns:
    """The distinct kinds of day of a panel: ``of_day`` names each day's, ``shares`` (n_patterns x 7) what each is made of."""

    of_day: Codes
    shares: Doubles


def find_patterns(panel: HourPanel) -> DayPatterns:
    """The kinds of the panel's days, the targets' days included. O(days)."""
    n_days = -(-(panel.origin + panel.horizon) // HOURS)
    shares = weigh_days(panel.start, calendar=panel.calendar, n_days=n_days)
    distinct, of_day = np.unique(shares, axis=0, return_inverse=True)
    return DayPatterns(of_day.reshape(-1).astype(np.int64), distinct)


def see(panel: HourPanel) -> tuple[Floats, Flags]:
    """What was sold and where demand was unseen, as kernels take them: read-only views, the latter (0, 0) where nothing is declared."""
    sold = panel.sold.view()
    unseen = np.zeros((0, 0), dtype=np.bool_) if panel.unseen is None else panel.unseen.view()
    sold.flags.writeable = unseen.flags.writeable = False
    return sold, unseen


def group_series(panel: HourPanel, names: Sequence[str]) -> tuple[Codes, NDArray[np.str_]]:
    """Series with the same labels under all of ``names`` share a group: each series' group, and the groups' labels (n_groups x n_names).

    O(series).
    """
    of_series, picks = np.zeros(panel.n_series, dtype=np.int64), np.zeros(min(panel.n_series, 1), dtype=np.int64)
    labels = []
    for name in names:
        fact = panel.statics.get(name, Statics(np.full(panel.n_series, -1, np.int32), ()))
        of_series, picks = _number(of_series * (len(fact.labels) + 1) + fact.codes + 1)
        labels.append((np.array([*fact.labels, NO_LABEL], dtype=np.str_), fact.codes))
    rows = [texts[codes[picks]] for texts, codes in labels]  # code -1 reads the last
    return of_series, np.stack(rows, axis=1) if rows else np.empty((picks.size, 0), dtype=np.str_)


def _number(values: Codes) -> tuple[Codes, Codes]:
    """Distinct values numbered in their order: the number of each, and one place at which each number stands. O(values) where they are small."""
    size = int(values.max(initial=0)) + 1
    if size > _SMALL + 4 * values.size:
        _, picks, numbers = np.unique(values, return_index=True, return_inverse=True)
        return numbers.astype(np.int64), picks
    place = np.full(size, -1, dtype=np.int64)
    place[values] = np.arange(values.size)
    picks = place[place >= 0]
    numbers = np.cumsum(place >= 0) - 1
    return numbers[values], picks


@dataclass(frozen=True, eq=False)
class Shapes:
    """Shapes by label. Row 0 of every table is what has no label: all series, or a place like any other.

    Args:
        likeness: the statics' names, nearest first.
        labels: the labels of each; from row 1 on stand those of the farthest name, then nearer ones.
        days: rows x 7, what a kind of day sells, 1 on average over the kinds.
        hours: rows x 2 x 24, what an hour of a day of work or off sells, 1 on average over the hours.
        levels: per row, what a series like it sells in a whole day of kind 1 at a place like any other.
        place: the static that names places, or None.
        place_labels: the labels of places, from row 1 of ``place_hours`` on.
        place_hours: rows x 2 x 24, factors on ``hours``.
        place_levels: per row, a factor on ``levels``.
        region: a static that groups places (a city), or None.
        unit: the size of a usual sale: the sum of squares over the sum of hourly values. Pseudo-sales are counted in it.
        n_series: how many series told.
    """

    likeness: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    days: Doubles
    hours: Doubles
    levels: Doubles
    place: str | None
    place_labels: tuple[str, ...]
    place_hours: Doubles
    place_levels: Doubles
    region: str | None
    unit: float
    n_series: int

    def rows(self, panel: HourPanel) -> Codes:
        """The row of each series: of its nearest label that is known."""
        rows = np.zeros(panel.n_series, dtype=np.int64)
        first = 1
        for name, labels in reversed(list(zip(self.likeness, self.labels, strict=True))):
            own = _find_labels(panel.statics.get(name), labels, first=first)
            rows = rows if own is None else np.where(own > 0, own, rows)
            first += len(labels)
        return rows

    def place_rows(self, panel: HourPanel) -> Codes:
        """The row of each series' place."""
        own = None if self.place is None else _find_labels(panel.statics.get(self.place), self.place_labels, first=1)
        return np.zeros(panel.n_series, dtype=np.int64) if own is None else own

    def expand(self, patterns: DayPatterns) -> tuple[Doubles, Doubles]:
        """Expected sales of an hour at level 1 by row, kind of day and hour, and the places' factors on them."""
        kinds = self.days[:, :, None] * self.hours[:, IS_OFF.astype(np.int64)]
        likeness = (patterns.shares / HOURS) @ kinds
        off = patterns.shares[:, IS_OFF].sum(axis=1)
        return likeness, np.stack((1 - off, off), axis=1) @ self.place_hours

    def spread_levels(self, levels: Doubles, panel: HourPanel, *, first_day: int) -> Floats:
        """Levels by series and day (n_series x n_days, the first of which is ``first_day``) as means of the panel's target hours."""
        likeness, place = self.expand(patterns := find_patterns(panel))
        means = np.empty((panel.n_series, panel.horizon), dtype=np.float32)
        rows, places = self.rows(panel), self.place_rows(panel)
        kernels.fill_targets(levels, panel.targets, first_day, patterns.of_day, rows, places, likeness, place, means)
        return means

    def prior_levels(self, panel: HourPanel) -> Doubles:
        """What a series of that likeness and place sells in a day, before anything is known of its own."""
        return self.levels[self.rows(panel)] * self.place_levels[self.place_rows(panel)]

    def to_artefact(self) -> Artefact:
        labels = [np.array(own, dtype=np.str_) for own in self.labels]
        return encode_arrays(
            {
                "likeness": np.array(self.likeness, dtype=np.str_),
                **{f"labels.{i}": own for i, own in enumerate(labels)},
                "days": self.days,
                "hours": self.hours,
                "levels": self.levels,
                "place": np.array([] if self.place is None else [self.place], dtype=np.str_),
                "place_labels": np.array(self.place_labels, dtype=np.str_),
                "place_hours": self.place_hours,
                "place_levels": self.place_levels,
                "region": np.array([] if self.region is None else [self.region], dtype=np.str_),
                "unit": np.array(self.unit),
                "n_series": np.array(self.n_series),
            }
        )

    @staticmethod
    def from_artefact(artefact: Artefact) -> Shapes:
        arrays = decode_arrays(artefact)
        likeness = _texts(arrays["likeness"])
        return Shapes(
            likeness=likeness,
            labels=tuple(_texts(arrays[f"labels.{i}"]) for i in range(len(likeness))),
            days=arrays["days"],
            hours=arrays["hours"],
            levels=arrays["levels"],
            place=next(iter(_texts(arrays["place"])), None),
            place_labels=_texts(arrays["place_labels"]),
            place_hours=arrays["place_hours"],
            place_levels=arrays["place_levels"],
            region=next(iter(_texts(arrays["region"])), None),
            unit=float(arrays["unit"]),
            n_series=int(arrays["n_series"]),
        )


def shrink(told: Doubles, expected: Doubles, *, pseudo: float) -> Doubles:
    """What was told over what was expected, drawn to 1 by ``pseudo`` sales in each cell; 1 where neither says anything."""
    ratio = np.divide(told + pseudo, expected + pseudo, out=np.ones_like(told), where=expected + pseudo > 0)
    return np.clip(ratio, 1.0 / _MOST, _MOST)


def _find_labels(fact: Statics | None, labels: tuple[str, ...], *, first: int) -> Codes | None:
    """The row of each series' label among ``labels``, counted from ``first``; 0 where it is unknown."""
    if fact is None:
        return None
    return _match_labels(fact.labels, labels, first)[fact.codes]  # code -1, nothing known, reads the last


@lru_cache(maxsize=32)
def _match_labels(own: tuple[str, ...], labels: tuple[str, ...], first: int) -> Codes:
    """The row of each of some labels among others, counted from ``first``; 0 where it is unknown, and at the end.

    Shards have their labels in common.
    """
    rows = {label: first + i for i, label in enumerate(labels)}
    known = np.array([*(rows.get(label, 0) for label in own), 0], dtype=np.int64)
    known.flags.writeable = False
    return known


def _texts(values: NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
