"""Pulses: how groups of series (a product, a product in a region, a place) sold on each late day beside what their levels expected.

What moves a product today moves it tomorrow in all its shops; a single series sells too little to show it. What moves all series alike
is taken out: a day's weather or holiday says next to nothing of the next day, and a month of days is too few to learn such from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours import day_kernels
from endcap.solutions.forecasting.hours.methods import Learned
from endcap.solutions.forecasting.hours.shapes import Codes, Doubles, Shapes, find_patterns, group_series, see

# Half-lives in days of the slow, quick, short and long level, and the pseudo-days by which each is drawn: to the likeness, then to the slow.
_HALF_LIVES = np.array([20.0, 3.0, 1.5, 9.0])
KEEPS = 0.5 ** (1 / _HALF_LIVES)
PSEUDO_DAYS = np.array([0.5, 2.0, 1.5, 1.5])
N_PARTS = 3
_PSEUDO, _COMMON_PSEUDO = 8.0, 50.0

Grouping = tuple[str, ...]

# What a row of a series-day recalls: four weeks of its own days and of its groups'.
RECALLED_DAYS = 28


@dataclass(frozen=True, eq=False)
class Pulses:
    """What was sold and expected by group and whole day, the latest day last.

    Args:
        groupings: the statics whose labels together name a group; the first, of none, is all series.
        labels: per grouping its groups' labels, n_groups x n_names; groups are numbered through all groupings.
        told, expected: n_groups x n_days.
        last: the day of the last column, as an ordinal.
    """

    groupings: tuple[Grouping, ...]
    labels: tuple[NDArray[np.str_], ...]
    told: Doubles
    expected: Doubles
    last: int

    @property
    def n_groups(self) -> int:
        return len(self.told)

    def marks(self, panel: HourPanel) -> Codes:
        """Each series' group by grouping but the first; ``n_groups`` for a group that did not tell."""
        marks = np.empty((len(self.groupings) - 1, panel.n_series), dtype=np.int64)
        for i, (names, known) in enumerate(zip(self.groupings[1:], self._numbers, strict=True)):
            of_series, own = group_series(panel, names)
            marks[i] = np.array([known.get(tuple(row), self.n_groups) for row in own.tolist()], dtype=np.int64)[of_series]
        return marks

    @cached_property
    def _numbers(self) -> list[dict[tuple[str, ...], int]]:
        """By grouping but the first, the number of each group."""
        firsts = np.cumsum([len(labels) for labels in self.labels])[:-1].tolist()
        return [{tuple(row): first + j for j, row in enumerate(labels.tolist())} for first, labels in zip(firsts, self.labels[1:], strict=True)]

    def common(self, panel: HourPanel, *, unit: float) -> Doubles:
        """By whole day of the panel, what all series sold over what was expected; 1 before the first day that is told of.

        Raises InvalidInput for a panel that ends at another day.
        """
        n_whole, n_days = panel.n_seen // HOURS, self.told.shape[1]
        if (end := _last_day(panel)) != self.last:
            raise InvalidInput(
                f"The survey ends {self.last - end:+d} days from the panel to forecast.", hint="survey all shards at the panel's origin"
            )
        ratio = (self.told[0] + _COMMON_PSEUDO * unit) / (self.expected[0] + _COMMON_PSEUDO * unit)
        return np.concatenate((np.ones(max(n_whole - n_days, 0)), ratio))[-n_whole:] if n_whole else np.ones(0)

    def features(self, common: Doubles, *, origins: Codes, leads: Codes, unit: float) -> NDArray[np.float32]:
        """Logarithms of sold over expected: the last day's, the last three days', those of the target's weekday.

        n_groups + 1 x n_origins x n_leads x 3; the last group is the one of those that did not tell. ``origins`` count whole days of the panel
        of ``common``.
        """
        n_whole, n_days = common.size, min(self.told.shape[1], common.size)
        out = np.zeros((self.n_groups + 1, origins.size, leads.size, N_PARTS), dtype=np.float32)
        told = np.zeros((self.n_groups, n_whole))
        expected = np.zeros_like(told)
        if n_days:
            told[:, -n_days:], expected[:, -n_days:] = self.told[:, -n_days:], self.expected[:, -n_days:] * common[-n_days:]
        for i, origin in enumerate(origins.tolist()):
            for k, lead in enumerate(leads.tolist()):
                week = origin + lead - 7 * (lead // 7 + 1)
                for part, days in enumerate(([origin - 1], [origin - 3, origin - 2, origin - 1], [week - 14, week - 7, week])):
                    there = [day for day in days if day >= 0]
                    above, below = told[:, there].sum(axis=1), expected[:, there].sum(axis=1)
                    out[:-1, i, k, part] = np.log(np.maximum(above + _PSEUDO * unit, 1e-9) / (below + _PSEUDO * unit))
        return out


def name_groupings(shapes: Shapes) -> tuple[Grouping, ...]:
    """Which groups are surveyed: all, the nearest two likenesses, the nearest and farthest within the region, the place."""
    near, region = shapes.likeness[:2], () if shapes.region is None else (shapes.region,)
    groupings: list[Grouping] = [(), *((name,) for name in near)]
    if region:
        groupings += [(*region, name) for name in dict.fromkeys((*near[:1], *shapes.likeness[-1:]))]
    if shapes.place is not None:
        groupings.append((shapes.place,))
    return tuple(groupings)


def survey_pulses(panel: HourPanel, shapes: Shapes, *, n_days: int) -> Learned:
    """What a block of series tells of its groups' latest days. One pass over the panel's cells; the levels rest on all of them."""
    groupings = name_groupings(shapes)
    marks, labels, first = [], {}, 0
    for i, names in enumerate(groupings):
        of_series, own = group_series(panel, names)
        marks.append(of_series + first)
        labels[f"labels.{i}"] = own if names else np.empty((len(own), 0), dtype=np.str_)
        first += len(own)
    told = np.zeros((first, panel.n_seen // HOURS))
    expected = np.zeros_like(told)
    likeness, place = shapes.expand(patterns := find_patterns(panel))
    rows = np.stack((shapes.rows(panel), shapes.place_rows(panel)))
    day_kernels.tally_pulses(
        *see(panel), patterns.of_day, rows, likeness, place, shapes.prior_levels(panel), KEEPS, PSEUDO_DAYS, np.stack(marks), told, expected
    )
    first = max(told.shape[1] - n_days, 0)
    return {
        **labels,
        "told": told[:, first:].astype(np.float32),
        "expected": expected[:, first:].astype(np.float32),
        "last": np.array(_last_day(panel)),
    }


def merge_pulses(surveys: Iterable[Learned], shapes: Shapes) -> Pulses:
    """Surveys of all shards, summed by group, one after the other: a generator of them need not be in memory at once.

    Raises InvalidInput for surveys of different days. O(groups of each survey x days).
    """
    groupings = name_groupings(shapes)
    numbers: list[dict[tuple[str, ...], int]] = [{} for _ in groupings]
    sums: list[Doubles] = []
    last, n_days = 0, 0
    for survey in surveys:
        values = np.stack((survey["told"], survey["expected"]))
        if not sums:
            last, n_days = int(survey["last"]), values.shape[2]
            sums = [np.zeros((2, 0, n_days)) for _ in groupings]
        if (int(survey["last"]), values.shape[2]) != (last, n_days):
            apart = int(survey["last"]) - last
            raise InvalidInput(f"Surveys must be of the same {n_days} days; one has {values.shape[2]} and ends {apart:+d} days from the first.")
        start = 0
        for i, known in enumerate(numbers):
            own = survey[f"labels.{i}"].tolist()
            rows = np.array([known.setdefault(tuple(row), len(known)) for row in own], dtype=np.int64)
            grown = len(known) - sums[i].shape[1]
            sums[i] = np.concatenate((sums[i], np.zeros((2, grown, n_days))), axis=1) if grown else sums[i]
            sums[i][:, rows] += values[:, start : start + len(own)]
            start += len(own)
    numbers[0].setdefault((), 0)  # where nobody told, all series together sold nothing
    parts = (
        [own if own.shape[1] == len(known) else np.zeros((2, len(known), n_days)) for own, known in zip(sums, numbers, strict=True)] if sums else []
    )
    told, expected = np.concatenate(parts, axis=1) if parts else np.zeros((2, 1, 0))
    labels = tuple(np.array(list(known), dtype=np.str_).reshape(len(known), len(names)) for known, names in zip(numbers, groupings, strict=True))
    return Pulses(groupings, labels, told, expected, last)


def _last_day(panel: HourPanel) -> int:
    return panel.start.toordinal() + panel.n_seen // HOURS - 1
