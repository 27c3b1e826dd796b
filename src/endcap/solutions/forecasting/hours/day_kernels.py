"""Passes over days: kernels that walk along the days of each series and see at each only what was known by its start.

``rows`` holds for each series its row of ``likeness`` and its row of ``place`` (see ``kernels``). A panel's whole days are followed by the
hours seen of the current day, if there are any; these count towards the levels as of the panel's own origin alone.
"""

from __future__ import annotations

import numpy as np

from endcap.solutions.forecasting.hours.kernels import HOURS, Array, compiled, fill_shape, sum_days

SLOW, QUICK, SHORT, LONG = range(4)
N_LEVELS = 4


@compiled
def walk(values: Array, expected: Array, n_seen: int, prior: float, keeps: Array, pseudos: Array, levels: Array) -> None:
    """Levels (one for each of ``keeps``) as of the start of each whole day and as of the end.

    A level is sold over expected, both kept by ``keeps`` a day, drawn by ``pseudos`` days to the slow level, and the slow one to ``prior``.
    """
    n_whole = n_seen // HOURS
    rest = (n_seen % HOURS) / HOURS
    for j in range(keeps.size):
        above, below = 0.0, 0.0
        for day in range(n_whole + 1):
            if day == n_whole and rest > 0.0:
                fade = keeps[j] ** rest
                above = above * fade + values[day]
                below = below * fade + expected[day]
            towards = prior if j == SLOW else levels[SLOW, day]
            levels[j, day] = max((above + pseudos[j] * towards) / max(below + pseudos[j], 1e-12), 0.0)
            if day < n_whole:
                above = above * keeps[j] + values[day]
                below = below * keeps[j] + expected[day]


@compiled
def fill_levels(
    sold: Array,
    unseen: Array,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    priors: Array,
    keeps: Array,
    pseudos: Array,
    levels: Array,
) -> None:
    """Each series' quick level as of the end."""
    n_seen = sold.shape[1]
    n_days = -(-n_seen // HOURS)
    values, expected, walked = np.empty(n_days), np.empty(n_days), np.empty((keeps.size, n_seen // HOURS + 1))
    shape = np.empty((likeness.shape[1], HOURS))
    for series in range(sold.shape[0]):
        fill_shape(likeness[rows[0, series]], place[rows[1, series]], shape)
        sum_days(sold, unseen, series, 0, patterns, shape, values, expected)
        walk(values, expected, n_seen, priors[series], keeps, pseudos, walked)
        levels[series] = walked[QUICK, n_seen // HOURS]


@compiled
def tally_pulses(
    sold: Array,
    unseen: Array,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    priors: Array,
    keeps: Array,
    pseudos: Array,
    marks: Array,
    told: Array,
    expected_of: Array,
) -> None:
    """By group and whole day (n_groups x n_whole): what was sold, and what the quick levels as of each day's start expect of the same hours.

    ``marks`` (n_groupings x n_series) names each series' groups; groupings number their groups apart.
    """
    n_seen = sold.shape[1]
    n_whole, n_days = n_seen // HOURS, -(-n_seen // HOURS)
    values, expected, levels = np.empty(n_days), np.empty(n_days), np.empty((keeps.size, n_whole + 1))
    shape = np.empty((likeness.shape[1], HOURS))
    for series in range(sold.shape[0]):
        fill_shape(likeness[rows[0, series]], place[rows[1, series]], shape)
        sum_days(sold, unseen, series, 0, patterns, shape, values, expected)
        walk(values, expected, n_seen, priors[series], keeps, pseudos, levels)
        for grouping in range(marks.shape[0]):
            group = marks[grouping, series]
            for day in range(n_whole):
                told[group, day] += values[day]
                expected_of[group, day] += expected[day] * levels[QUICK, day]


@compiled
def fill_day_rows(
    sold: Array,
    unseen: Array,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    priors: Array,
    keeps: Array,
    pseudos: Array,
    facts: Array,
    marks: Array,
    pulses: Array,
    common: Array,
    origins: Array,
    leads: Array,
    wanted: Array,
    learning: bool,
    unit: float,
    features: Array,
    labels: Array,
) -> int:
    """Rows of series-days, series by series, then origin by origin, then lead by lead; returns how many.

    ``facts`` are n_facts x n_series x n_days, known ahead; ``pulses`` are n_groups x n_origins x n_leads x 3; ``common`` is by whole day what
    all series sold over what was expected; ``wanted`` is n_series x n_origins. When ``learning``, only targets that are whole days of which an
    hour was seen give a row, and ``labels`` holds what was sold in the seen hours, what is expected of them at the origin's quick level, and
    the target's place among origins x leads; then, in both cases, the series and the quick level. ``day_rows.name_features`` names the
    columns.
    """
    n_seen = sold.shape[1]
    n_whole, n_days = n_seen // HOURS, -(-n_seen // HOURS)
    values, expected, levels = np.empty(n_days), np.empty(n_days), np.empty((keeps.size, n_whole + 1))
    n_patterns = likeness.shape[1]
    shape, whole = np.empty((n_patterns, HOURS)), np.empty(n_patterns)
    averages = np.empty((facts.shape[0], n_whole + 1))
    n = 0
    for series in range(sold.shape[0]):
        if not wanted[series].any():
            continue
        fill_shape(likeness[rows[0, series]], place[rows[1, series]], shape)
        for pattern in range(n_patterns):
            whole[pattern] = np.sum(shape[pattern, :])
        sum_days(sold, unseen, series, 0, patterns, shape, values, expected)
        walk(values, expected, n_seen, priors[series], keeps, pseudos, levels)
        for fact in range(facts.shape[0]):
            _average_fact(facts[fact, series], expected, keeps[QUICK], averages[fact])
        for i in range(origins.size):
            if not wanted[series, i]:
                continue
            origin = origins[i]
            quick = levels[QUICK, origin]
            for k in range(leads.size):
                target = origin + leads[k]
                if learning:
                    if target >= n_whole or expected[target] * quick <= 0.0:
                        continue
                    labels[n, 0], labels[n, 1] = values[target], expected[target] * quick
                labels[n, 2] = i * leads.size + k
                labels[n, 3], labels[n, 4] = series, quick
                row = features[n]
                row[0] = leads[k]
                row[1] = np.log(whole[patterns[target]] * quick / unit + 1e-3)
                row[2] = np.log(whole[patterns[target]] + 1e-3)
                row[3] = _compare(quick, levels[SLOW, origin], 0.05 * unit)
                row[4] = _compare(levels[SHORT, origin], quick, 0.05 * unit)
                row[5] = _compare(levels[LONG, origin], quick, 0.05 * unit)
                row[6] = _recall(values, expected, levels[QUICK], common, origin - 3, origin, 1, unit)
                week = target - 7 * ((target - origin) // 7 + 1)
                row[7] = _recall(values, expected, levels[QUICK], common, week, week + 1, 7, 0.5 * unit)
                row[8] = _recall(values, expected, levels[QUICK], common, week - 21, week + 1, 7, unit)
                row[9] = expected[origin - 1] / max(whole[patterns[origin - 1]], 1e-12) if origin > 0 else 0.0
                row[10] = expected[max(origin - 7, 0) : origin].sum()
                row[11] = np.log(priors[series] / unit + 1e-3)
                at = 12
                for fact in range(facts.shape[0]):
                    known = facts[fact, series]
                    row[at] = known[target]
                    row[at + 1] = known[target] - averages[fact, origin]
                    row[at + 2] = known[target] - known[origin - 1] if origin > 0 else np.nan
                    row[at + 3] = known[target] - _mean(known, max(target - 7, 0), target)
                    at += 4
                for grouping in range(marks.shape[0]):
                    for part in range(3):
                        row[at + part] = pulses[marks[grouping, series], i, k, part]
                    at += 3
                n += 1
    return n


@compiled
def _compare(one: float, other: float, least: float) -> float:
    return np.log((one + least) / (other + least))


@compiled
def _recall(values: Array, expected: Array, levels: Array, common: Array, begin: int, end: int, step: int, pseudo: float) -> float:
    """The logarithm of sold over expected on some past days, less what all series had in common; 0 where nothing was seen."""
    above, below = pseudo, pseudo
    for day in range(begin, end, step):
        if day >= 0:
            above += values[day]
            below += expected[day] * levels[day] * common[day]
    return np.log(max(above, 1e-9) / below)


@compiled
def _average_fact(known: Array, expected: Array, keep: float, averages: Array) -> None:
    """As of the start of each day, the mean of a fact over the days that the quick level rests on; the latest value where it rests on none."""
    above, below = 0.0, 0.0
    for day in range(averages.size):
        if below > 1e-9:
            averages[day] = above / below
        else:
            averages[day] = known[max(day - 1, 0)]
        if day < averages.size - 1:
            above, below = above * keep, below * keep
            if known[day] == known[day]:  # only NaN differs from itself
                above += expected[day] * known[day]
                below += expected[day]


@compiled
def _mean(known: Array, begin: int, end: int) -> float:
    total, n = 0.0, 0
    for day in range(begin, end):
        if known[day] == known[day]:  # only NaN differs from itself
            total += known[day]
            n += 1
    return total / n if n > 0 else np.nan


@compiled
def fill_sparse_levels(
    sold: Array,
    unseen: Array,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    priors: Array,
    fading: bool,
    size_alpha: float,
    chance_alpha: float,
    least_share: float,
    levels: Array,
) -> None:
    """Each series' level by TSB (``fading``) or Croston with the correction of Syntetos and Boylan.

    A day of which less than ``least_share`` was seen says nothing. Both start from the first day with a sale: its size, and the chance that it
    came when it did; without any sale Croston's level is 0 and TSB's chance has faded since the first day. A series without a seen day takes
    its prior.
    """
    n_seen = sold.shape[1]
    n_days = -(-n_seen // HOURS)
    values, expected = np.empty(n_days), np.empty(n_days)
    shape = np.empty((likeness.shape[1], HOURS))
    for series in range(sold.shape[0]):
        fill_shape(likeness[rows[0, series]], place[rows[1, series]], shape)
        sum_days(sold, unseen, series, 0, patterns, shape, values, expected)
        size, chance, interval, waited, sales, seen = 0.0, 0.0, 0.0, 0.0, 0, 0
        for day in range(n_days):
            whole = np.sum(shape[patterns[day], :])
            if expected[day] <= least_share * whole or expected[day] <= 0.0:
                continue
            seen += 1
            waited += 1.0
            any_sold = values[day] > 0.0
            if any_sold:
                today = values[day] / expected[day]
                if sales == 0:
                    size, interval, chance = today, waited, 1.0 / waited
                else:
                    size += size_alpha * (today - size)
                    interval += chance_alpha * (waited - interval)
                sales += 1
                waited = 0.0
            if sales > 1 or (sales == 1 and not any_sold):
                chance += chance_alpha * ((1.0 if any_sold else 0.0) - chance)
        if seen == 0:
            levels[series] = max(priors[series], 0.0)
        elif sales == 0:
            levels[series] = 0.0
        elif fading:
            levels[series] = size * chance
        else:
            levels[series] = (1.0 - chance_alpha / 2.0) * size / interval
