"""Rows of series-hours: a series-day's features (see ``day_rows``) and those of one of its hours."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from endcap.loop.features.panels.day_panels import Floats, join_keys
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours.day_rows import DayRows
from endcap.solutions.forecasting.hours.kernels import Array, compiled, is_seen
from endcap.solutions.forecasting.hours.shapes import Codes, Doubles, Shapes, find_patterns, see

HOUR_FEATURES = ("hour", "log_share", "same_hour_two_weeks", "same_hour_six_weeks", "near_hours_two_weeks")
_EVERY = 12
_STRIDE = 5


@dataclass(frozen=True, eq=False)
class HourRows:
    """Features (n x n_features), and by row what was sold in the hour, what the rates expect of it and the day's place (``DayRows.at``)."""

    features: Floats
    told: Doubles
    expected: Doubles
    at: Codes


def sample_hours(panel: HourPanel, days: DayRows, *, shapes: Shapes, origins: Codes, targets: Codes) -> HourRows:
    """Of each series-day the seen among two hours, twelve apart; which two turns with the series and the day, so that all hours have their share.

    ``origins`` and ``targets`` are the rows' days, as whole days of the panel.
    """
    own = np.array([crc32(key.encode()) % _EVERY for key in join_keys(panel.keys)], dtype=np.int64)
    turns = (own[days.series] + _STRIDE * (origins + panel.start.toordinal()) + targets) % _EVERY
    hours = np.concatenate((turns[:, None], turns[:, None] + _EVERY), axis=1)
    return _build(panel, days, shapes=shapes, origins=origins, ticks=targets[:, None] * HOURS + hours, learning=True)


def expand_hours(panel: HourPanel, days: DayRows, *, shapes: Shapes, first_lead: int, n_leads: int, series: Codes) -> HourRows:
    """Rows of every target hour of some series, series by series; ``days`` are those of all series, ``n_leads`` each."""
    today = panel.n_seen // HOURS
    at = (series[:, None] * n_leads + panel.targets // HOURS - today - first_lead).reshape(-1)
    chosen = DayRows(days.features[at], days.told[at], days.expected[at], days.at[at], days.series[at], days.levels[at])
    ticks = np.tile(panel.targets, series.size)[:, None]
    return _build(panel, chosen, shapes=shapes, origins=np.full(at.size, today), ticks=ticks, learning=False)


def _build(panel: HourPanel, days: DayRows, *, shapes: Shapes, origins: Codes, ticks: Codes, learning: bool) -> HourRows:
    likeness, place = shapes.expand(patterns := find_patterns(panel))
    rows = np.stack((shapes.rows(panel), shapes.place_rows(panel)))
    features = np.empty((ticks.size, days.features.shape[1] + len(HOUR_FEATURES)), dtype=np.float32)
    labels = np.zeros((ticks.size, 3))
    n = _fill_hour_rows(
        *see(panel),
        patterns.of_day,
        rows,
        likeness,
        place,
        days.features,
        days.series,
        days.levels,
        origins,
        ticks,
        learning,
        shapes.unit,
        features,
        labels,
    )
    told, expected, row = labels[:n].T
    return HourRows(features[:n], told, expected, days.at[row.astype(np.int64)])


@compiled
def _fill_hour_rows(
    sold: Array,
    unseen: Array,
    patterns: Array,
    rows: Array,
    likeness: Array,
    place: Array,
    days: Array,
    series_of: Array,
    levels: Array,
    origins: Array,
    ticks: Array,
    learning: bool,
    unit: float,
    features: Array,
    labels: Array,
) -> int:
    n, width = 0, days.shape[1]
    for row in range(days.shape[0]):
        series = series_of[row]
        of_likeness, of_place = likeness[rows[0, series]], place[rows[1, series]]
        for tick in ticks[row]:
            pattern, hour = patterns[tick // HOURS], tick % HOURS
            expected = levels[row] * of_likeness[pattern, hour] * of_place[pattern, hour]
            if learning:
                if tick >= sold.shape[1] or expected <= 0.0 or not is_seen(sold, unseen, series, tick):
                    continue
                labels[n, 0] = sold[series, tick]
            labels[n, 1], labels[n, 2] = expected, row
            features[n, :width] = days[row]
            features[n, width] = hour
            features[n, width + 1] = np.log(expected / unit + 1e-4)
            for part in range(3):
                n_days, reach = (42, 0) if part == 1 else (14, 0)
                if part == 2:
                    reach = 1
                above, below = unit, unit
                for day in range(max(origins[row] - n_days, 0), origins[row]):
                    for near in range(max(hour - reach, 0), min(hour + reach, HOURS - 1) + 1):
                        if is_seen(sold, unseen, series, day * HOURS + near):
                            above += sold[series, day * HOURS + near]
                            below += levels[row] * of_likeness[patterns[day], near] * of_place[patterns[day], near]
                features[n, width + 2 + part] = np.log(max(above, 1e-9) / below)
            n += 1
    return n
