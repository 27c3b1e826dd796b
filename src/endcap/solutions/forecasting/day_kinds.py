"""Kinds of day: how much each day sells like which day of the week, holidays and bridge days among them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Flags, Panel

FRIDAY, SATURDAY, SUNDAY = 4, 5, 6
HOLIDAY_FACT, WORKDAY_FACT = "public_holiday", "weekend_workday"

# Shares of a weekend day in the kinds of day that a calendar knows. Set on the spring holidays of FreshRetailNet (4-5 April and 1-5 May
# 2024): first days sold 0.84 and 0.59 of the way from a weekday to a weekend day, days inside a run 0.26 on average, worked weekends 0.36.
FIRST_DAY, INSIDE, WORKED = 0.7, 0.35, 0.35


def weigh_day_kinds(panel: Panel) -> NDArray[np.float64]:
    """``weigh_days`` of the panel's axis, targets included; shape (n_ticks, 7)."""
    return weigh_days(panel.start, calendar=panel.calendar, n_days=panel.origin + panel.lead + panel.horizon)


def weigh_days(start: date, *, calendar: Mapping[str, Flags], n_days: int) -> NDArray[np.float64]:
    """For every day from ``start`` on its shares of the seven weekday profiles; shape (n_days, 7), rows sum to 1.

    An ordinary day is its own weekday. In a run of days off with a public holiday in it the last day sells like a Sunday, the first
    mostly like a Saturday, those between mostly like a Friday; a worked weekend day mostly like a Friday. Without a calendar every day is
    its own weekday. O(n_days).
    """
    reach = max(n_days, *(flags.size for flags in calendar.values())) if calendar else n_days
    weekday = (np.arange(reach) + start.weekday()) % 7
    weights = np.zeros((reach, 7))
    weights[np.arange(reach), weekday] = 1.0
    holiday, worked = _flag(calendar, HOLIDAY_FACT, reach), _flag(calendar, WORKDAY_FACT, reach)
    off = ((weekday >= SATURDAY) & ~worked) | holiday
    edges = np.flatnonzero(np.diff(np.concatenate(([False], off, [False])).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2):
        if not holiday[begin:end].any():
            continue
        run = np.arange(begin, end)
        shares = np.where(run == begin, FIRST_DAY, INSIDE)
        weights[run] = 0.0
        weights[run, SATURDAY], weights[run, FRIDAY] = shares, 1 - shares
        weights[end - 1] = 0.0
        weights[end - 1, SUNDAY] = 1.0
    weights[worked] = 0.0
    weights[worked, SUNDAY], weights[worked, FRIDAY] = WORKED, 1 - WORKED
    return weights[:n_days]


def weekdays(panel: Panel, *, n_ticks: int) -> NDArray[np.int64]:
    """The weekday of each tick, Monday 0."""
    return (np.arange(n_ticks) + panel.start.weekday()) % 7


def is_special(panel: Panel) -> NDArray[np.bool_]:
    """Which ticks of the axis do not sell like their own weekday."""
    weights = weigh_day_kinds(panel)
    ordinary: NDArray[np.bool_] = weights[np.arange(len(weights)), weekdays(panel, n_ticks=len(weights))] == 1.0
    return ~ordinary


def _flag(calendar: Mapping[str, Flags], fact: str, n: int) -> NDArray[np.bool_]:
    flags = np.zeros(n, dtype=np.bool_)
    if fact in calendar:
        known = calendar[fact]
        flags[: known.size] = known[:n]
    return flags
