"""Passes over hours: series in rows, ticks in columns, one series at a time while it is in the processor's cache.

Kernels run on one thread and release the interpreter's lock, so that shards may go through them side by side in threads or in processes.
The first call for a type of array compiles for some seconds; numba keeps the machine code in its cache on disk. A cell tells nothing where
it is missing (NaN) or its demand was unseen; ``unseen`` of shape (0, 0) says that every cell was seen.

A series' *expected* sales of an hour at level 1 are ``likeness[group, pattern, hour] * place[place, pattern, hour]``, where a pattern is a
kind of day.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

HOURS = 24

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
compiled: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True, error_model="numpy")
# A day's sum may be taken in any order, which lets it be taken several hours at a time.
compiled_sums: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})


@compiled
def is_seen(sold: Array, unseen: Array, series: int, tick: int) -> bool:
    """Whether a cell tells of demand."""
    value = sold[series, tick]
    return value == value and not (unseen.shape[0] > 0 and unseen[series, tick])  # noqa: PLR0124  # only NaN differs from itself


@compiled
def fill_same_hour_means(sold: Array, unseen: Array, n_days: int, means: Array) -> None:
    """For each hour of the day (n_series x 24) the mean of the seen among its latest ``n_days`` ticks; NaN where none was seen."""
    n_seen = sold.shape[1]
    for series in range(sold.shape[0]):
        for hour in range(HOURS):
            tick = n_seen - 1 - (n_seen - 1 - hour) % HOURS
            total, n = 0.0, 0
            for _ in range(n_days):
                if tick < 0:
                    break
                if is_seen(sold, unseen, series, tick):
                    total += sold[series, tick]
                    n += 1
                tick -= HOURS
            means[series, hour] = total / n if n > 0 else np.nan


@compiled
def tally_hours(
    sold: Array, unseen: Array, first: int, patterns: Array, groups: Array, pseudo: float, told: Array, expected: Array, levels: Array, sizes: Array
) -> None:
    """By group, kind of day and hour: what was sold, and what a flat day at each series' own level would have sold in the same seen hours.

    A series' level is the sum over the hours of the day of each hour's own mean, so that hours seldom seen count as much as others; an hour's
    mean is shrunk to the mean of all by ``pseudo`` cells. ``levels`` holds by group the number of series that told and the sum of their
    levels, ``sizes`` the sums of values and of their squares.
    """
    n_patterns = told.shape[1]
    values = np.empty((n_patterns, HOURS))
    counts = np.empty((n_patterns, HOURS))
    for series in range(sold.shape[0]):
        values[:] = 0.0
        counts[:] = 0.0
        squares = 0.0
        for tick in range(first, sold.shape[1]):
            if is_seen(sold, unseen, series, tick):
                value = np.float64(sold[series, tick])
                values[patterns[tick // HOURS], tick % HOURS] += value
                counts[patterns[tick // HOURS], tick % HOURS] += 1.0
                squares += value * value
        n = counts.sum()
        if n == 0.0:
            continue
        mean = values.sum() / n
        level = 0.0
        for hour in range(HOURS):
            level += (values[:, hour].sum() + pseudo * mean) / (counts[:, hour].sum() + pseudo)
        group = groups[series]
        levels[group, 0] += 1.0
        levels[group, 1] += level
        sizes[0] += values.sum()
        sizes[1] += squares
        for pattern in range(n_patterns):
            for hour in range(HOURS):
                told[group, pattern, hour] += values[pattern, hour]
                expected[group, pattern, hour] += counts[pattern, hour] * level / HOURS


@compiled_sums
def sum_days(sold: Array, unseen: Array, series: int, first: int, patterns: Array, shape: Array, values: Array, expected: Array) -> None:
    """What one series sold in its seen hours of each day, and what its shape (patterns x hours) expects of the same hours.

    ``first`` is the first tick of a day.
    """
    row, usual = sold[series], shape
    all_seen = unseen.shape[0] == 0
    begin = first // HOURS
    for day in range(begin, -(-row.size // HOURS)):
        start = day * HOURS
        n = min(HOURS, row.size - start)
        own = usual[patterns[day]]
        above, below = 0.0, 0.0
        if all_seen:
            for hour in range(n):
                value = row[start + hour]
                told = value == value  # noqa: PLR0124  # only NaN differs from itself
                above += np.float64(value) if told else 0.0
                below += own[hour] if told else 0.0
        else:
            hidden = unseen[series]
            for hour in range(n):
                value = row[start + hour]
                told = (value == value) & (not hidden[start + hour])  # noqa: PLR0124  # only NaN differs from itself
                above += np.float64(value) if told else 0.0
                below += own[hour] if told else 0.0
        values[day - begin], expected[day - begin] = above, below


@compiled
def fill_shape(likeness: Array, place: Array, shape: Array) -> None:
    """A series' expected sales at level 1 by kind of day and hour."""
    for pattern in range(shape.shape[0]):
        for hour in range(HOURS):
            shape[pattern, hour] = likeness[pattern, hour] * place[pattern, hour]


@compiled
def smooth_days(values: Array, expected: Array, keep: float, pseudo: float, levels: Array) -> None:
    """The level around each day: sold over expected, both weighted by ``keep`` to the distance in days, shrunk to the level of all days.

    ``pseudo`` is in days of the mean expectation.
    """
    n = values.size
    usual = pseudo * expected.sum() / n
    mean = values.sum() / max(expected.sum(), 1e-12)
    before = np.empty((n, 2))
    above, below = 0.0, 0.0
    for day in range(n):
        above = above * keep + values[day]
        below = below * keep + expected[day]
        before[day, 0], before[day, 1] = above, below
    above, below = 0.0, 0.0
    for day in range(n - 1, -1, -1):
        levels[day] = (before[day, 0] + above + usual * mean) / max(before[day, 1] + below + usual, 1e-12)
        above = (above + values[day]) * keep
        below = (below + expected[day]) * keep


@compiled
def tally_corrections(
    sold: Array,
    unseen: Array,
    first: int,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    keep: float,
    pseudo: float,
    group_told: Array,
    group_expected: Array,
    place_told: Array,
    place_expected: Array,
    priors: Array,
    place_levels: Array,
) -> None:
    """By group and by place, kind of day and hour: what was sold, and what the shapes known so far expect at each series' level of those days.

    ``rows`` holds for each series its group among those told of, its row of ``likeness``, its place among those told of and its row of
    ``place``. ``place_levels`` holds by place what was sold in all and what the series' ``priors`` (levels of their likeness) expect.
    """
    n_days = (sold.shape[1] - 1) // HOURS - first // HOURS + 1
    values, expected, levels = np.empty(n_days), np.empty(n_days), np.empty(n_days)
    shape = np.empty(likeness.shape[1:])
    for series in range(sold.shape[0]):
        group, at = rows[0, series], rows[2, series]
        fill_shape(likeness[rows[1, series]], place[rows[3, series]], shape)
        sum_days(sold, unseen, series, first, patterns, shape, values, expected)
        if expected.sum() <= 0.0:
            continue
        smooth_days(values, expected, keep, pseudo, levels)
        place_levels[at, 0] += values.sum()
        place_levels[at, 1] += expected.sum() * priors[series]
        for tick in range(first, sold.shape[1]):
            if is_seen(sold, unseen, series, tick):
                day, hour = tick // HOURS, tick % HOURS
                pattern = patterns[day]
                value = np.float64(sold[series, tick])
                usual = levels[day - first // HOURS] * shape[pattern, hour]
                group_told[group, pattern, hour] += value
                group_expected[group, pattern, hour] += usual
                place_told[at, pattern, hour] += value
                place_expected[at, pattern, hour] += usual


@compiled
def fill_targets(
    levels: Array, targets: Array, first_day: int, patterns: Array, rows: Array, places: Array, likeness: Array, place: Array, means: Array
) -> None:
    """Each target hour's mean: the level of its day (n_series x n_days) times what is expected at level 1."""
    last = levels.shape[1] - 1
    for series in range(levels.shape[0]):
        of_likeness, of_place = likeness[rows[series]], place[places[series]]
        for i in range(targets.size):
            day, hour = targets[i] // HOURS, targets[i] % HOURS
            pattern = patterns[day]
            means[series, i] = levels[series, min(day - first_day, last)] * of_likeness[pattern, hour] * of_place[pattern, hour]


@compiled
def find_bucket(value: float, least: float, step: float) -> int:
    """0 below ``least``, then one bucket for each ``step`` of the logarithm."""
    return 0 if value < least else 1 + int(np.floor(np.log(value / least) / step))


@compiled
def tally_pairs(actual: Array, forecast: Array, least: float, step: float, size_step: float, counts: Array, sums: Array, means: Array) -> None:
    """Count pairs by bucket of the forecast and by size of the actual, with the sums of both; missing actuals are left out."""
    for i in range(actual.size):
        value = np.float64(actual[i])
        if value == value:  # noqa: PLR0124  # only NaN differs from itself
            mean = np.float64(forecast[i])
            bucket = min(find_bucket(mean, least, step), counts.shape[0] - 1)
            size = min(find_bucket(value, least, size_step), counts.shape[1] - 1)
            counts[bucket, size] += 1.0
            sums[bucket, size] += value
            means[bucket, 0] += 1.0
            means[bucket, 1] += mean


@compiled
def score_pairs(
    actual: Array, forecast: Array, least: float, step: float, last: int, centre: float, values: Array, scores: Array, out: Array
) -> None:
    """The CRPS of each pair: the line through the scores of the two values next to the actual, stretched beyond the last bucket."""
    n = values.size
    for i in range(actual.size):
        mean = np.float64(forecast[i])
        bucket, stretch = find_bucket(mean, least, step), 1.0
        if bucket > last:
            bucket, stretch = last, mean / centre
        value = np.float64(actual[i]) / stretch
        row = scores[bucket]
        if value != value:  # noqa: PLR0124  # only NaN differs from itself
            out[i] = np.nan
        elif value <= values[0]:
            out[i] = stretch * (row[0] + values[0] - value)
        elif value >= values[n - 1]:
            out[i] = stretch * (row[n - 1] + value - values[n - 1])
        else:
            at = np.searchsorted(values, value)
            share = (values[at] - value) / (values[at] - values[at - 1])
            out[i] = stretch * (row[at] + share * (row[at - 1] - row[at]))
