"""Rows of series-days, from which trees learn and forecast: what is known of a series at an origin and of the target's day.

A row's features are distances in logarithms and in the facts' own units, never what names a series or a day, so that trees cannot learn one
by heart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours import day_kernels
from endcap.solutions.forecasting.hours.pulses import KEEPS, N_PARTS, PSEUDO_DAYS, Pulses
from endcap.solutions.forecasting.hours.shapes import Codes, Doubles, Shapes, find_patterns, see

_ORIGINS = 42
_BURN_IN_DAYS = 14
_MOST_FACTS = 6
_OWN = (
    "lead", "log_expected", "log_day", "quick_to_slow", "short_to_quick", "long_to_quick", "last_three_days", "same_weekday",
    "same_weekday_four_weeks", "seen_yesterday", "seen_week", "log_prior",
)  # fmt: skip
_OF_FACT = ("", " less usual", " less yesterday", " less last week")
_OF_PULSE = ("yesterday", "three days", "weekday")


def name_features(facts: tuple[str, ...], n_groupings: int) -> tuple[str, ...]:
    """The columns in order: the series' own, four for each known-ahead fact, three for each grouping of pulses."""
    of_facts = tuple(fact + part for fact in facts for part in _OF_FACT)
    return (*_OWN, *of_facts, *(f"pulse {i} {part}" for i in range(n_groupings) for part in _OF_PULSE))


@dataclass(frozen=True, eq=False)
class DayRows:
    """Features (n x n_features), and by row what was sold, what the rates expect of the same hours, the place among origins x leads, the
    series and its quick level.
    """

    features: Floats
    told: Doubles
    expected: Doubles
    at: Codes
    series: Codes
    levels: Doubles


def choose_facts(panel: HourPanel) -> tuple[str, ...]:
    """The known-ahead facts that rows tell of: the first few by name."""
    return tuple(sorted(panel.daily))[:_MOST_FACTS]


def training_origins(panel: HourPanel) -> Codes:
    """The starts of the last six weeks' whole days, less those with under two weeks of history."""
    today = panel.n_seen // HOURS
    return np.arange(min(max(_BURN_IN_DAYS, today - _ORIGINS), today), today)


def find_leads(panel: HourPanel) -> Codes:
    """The targets' days, counted from the current day (the one after the last whole day seen)."""
    today = panel.n_seen // HOURS
    days = panel.targets // HOURS
    return np.arange(days[0] - today, days[-1] - today + 1) if days.size else np.zeros(0, dtype=np.int64)


def build_rows(
    panel: HourPanel,
    *,
    shapes: Shapes,
    pulses: Pulses,
    facts: tuple[str, ...],
    origins: Codes,
    leads: Codes,
    wanted: NDArray[np.bool_],
    learning: bool,
) -> DayRows:
    """Rows by series, origin (a whole day of the panel) and lead; ``wanted`` is n_series x n_origins. One pass over the panel's cells.

    A fact that the panel lacks is missing. When ``learning``, rows whose target is no whole day with a seen hour are left out.
    """
    common = pulses.common(panel, unit=shapes.unit)
    n_days = -(-(panel.origin + panel.horizon) // HOURS)
    known = np.full((len(facts), panel.n_series, n_days), np.nan, dtype=np.float32)
    for i, name in enumerate(facts):
        if name in panel.daily:
            known[i] = panel.daily[name][:, :n_days]
    likeness, place = shapes.expand(patterns := find_patterns(panel))
    n_groupings = len(pulses.groupings) - 1
    n_most = int(wanted.sum()) * leads.size
    features = np.empty((n_most, len(_OWN) + len(_OF_FACT) * len(facts) + N_PARTS * n_groupings), dtype=np.float32)
    labels = np.zeros((n_most, 5))
    n = day_kernels.fill_day_rows(
        *see(panel),
        patterns.of_day,
        np.stack((shapes.rows(panel), shapes.place_rows(panel))),
        likeness,
        place,
        shapes.prior_levels(panel),
        KEEPS,
        PSEUDO_DAYS,
        known,
        pulses.marks(panel),
        pulses.features(common, origins=origins, leads=leads, unit=shapes.unit),
        common,
        origins,
        leads,
        wanted,
        learning,
        shapes.unit,
        features,
        labels,
    )
    told, expected, at, series, levels = labels[:n].T
    return DayRows(features[:n], told, expected, at.astype(np.int64), series.astype(np.int64), levels)
