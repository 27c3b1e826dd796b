"""Figures of an hourly back-test by member and by slice, from its sums."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.records import SliceMetrics
from endcap.loop.evaluation.sums import ErrorSums
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.registry.members import FACT
from endcap.solutions.forecasting.hours.training import HourBackTest

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_MEMBERS = 60
_CLEARLY = 1.02


def measure_slices(test: HourBackTest, name: str, *, segments: dict[str, list[str]], start: date) -> tuple[SliceMetrics, ...]:
    """Figures of the judged rows by declared slice, member (the 60 worst by their share of error), origin, day ahead and hour of the day.

    ``start`` is the local day of tick 0.
    """
    sums = test.sums[name].take(origins=test.judged)
    found = []
    for fact, values in segments.items():
        labels = np.array(values)
        found += [SliceMetrics(fact, value, sums.take(groups=labels == value).metrics) for value in sorted(set(values))]
    worst = np.argsort(-sums["abs_error"].sum(axis=1), kind="stable")[:_MOST_MEMBERS]
    found += [SliceMetrics("member", test.groups[i], sums.take(groups=[i]).metrics) for i in worst.tolist()]
    origins = test.origins[test.judged]
    for place, origin in enumerate(origins.tolist()):
        found.append(SliceMetrics("origin", (start + timedelta(days=origin // HOURS)).isoformat(), sums.take(origins=[place]).metrics))
    if name in test.targets:
        targets = test.targets[name].take(origins=test.judged)
        found += [SliceMetrics("day ahead", str(day + 1), one.metrics) for day, one in enumerate(split_days(targets))]
        found += [SliceMetrics("hour", f"{hour:02}:00", one.metrics) for hour, one in enumerate(split_hours(targets, origins))]
    return tuple(found)


def split_days(targets: ErrorSums) -> list[ErrorSums]:
    """Sums by target (n_targets x n_origins), cut into days from the origin on."""
    n = targets.values.shape[1]
    return [targets.take(groups=slice(first, first + HOURS)) for first in range(0, n, HOURS)]


def split_hours(targets: ErrorSums, origins: NDArray[np.int64]) -> list[ErrorSums]:
    """The same by the 24 local hours of the day."""
    hour_of = (np.arange(targets.values.shape[1])[:, None] + origins[None, :]) % HOURS
    return [ErrorSums(np.where(hour_of == hour, targets.values, 0.0)) for hour in range(HOURS)]


def measure_members(test: HourBackTest, name: str, *, baseline: str, segments: dict[str, list[str]], last_days: list[date | None]) -> pa.Table:
    """The judged figures of every member, one row each, in the columns of ``MemberLine``; and its static facts.

    A member is ``good`` where its squared error is at most its baseline's, ``bad`` where it is above by more than 2 % and was so at every
    judged origin, ``unsure`` otherwise: with so few origins nothing finer can be said. A member without an outcome has nulls.
    """
    import pyarrow as pa

    sums, base = test.sums[name].take(origins=test.judged), test.sums[baseline].take(origins=test.judged)
    n, actual = _total(sums, "n"), _total(sums, "actual")
    ours, theirs = np.sqrt(_total(sums, "squared_error")), np.sqrt(_total(base, "squared_error"))
    always = (sums["squared_error"] > base["squared_error"]).all(axis=1)
    status = np.where(always & (ours > _CLEARLY * theirs), "bad", np.where((n > 0) & (ours <= theirs), "good", "unsure"))
    return pa.table(
        {
            "member": pa.array(test.groups, pa.string()),
            "n": pa.array(n.astype(np.int64)),
            "wape": _share(_total(sums, "abs_error"), actual),
            "mae": _share(_total(sums, "abs_error"), n),
            "rmse": pa.array(np.sqrt(np.divide(_total(sums, "squared_error"), n, out=np.zeros_like(n), where=n > 0)), mask=n <= 0),
            "bias": _share(_total(sums, "forecast") - actual, actual),
            "coverage_90": _share(_total(sums, "covered"), _total(sums, "n_banded")),
            "fallback": pa.nulls(len(test.groups), pa.string()),
            "status": pa.array(status.tolist(), pa.string()),
            "candidate": pa.array([name] * len(test.groups), pa.string()),
            "baseline": pa.array([baseline] * len(test.groups), pa.string()),
            "baseline_wape": _share(_total(base, "abs_error"), actual),
            "ratio": _share(ours, theirs),
            "last_row": pa.array(last_days, pa.date32()),
            **{FACT + fact: pa.array(values, pa.string()) for fact, values in segments.items()},
        }
    )


def note_states(names: tuple[str, ...], last_days: list[date | None], retired: list[bool], *, origin: date) -> pa.Table:
    """When each member had its newest row, and whether it is retired."""
    import pyarrow as pa

    return pa.table(
        {
            "member": pa.array(names, pa.string()),
            "first_row": pa.nulls(len(names), pa.date32()),
            "last_row": pa.array(last_days, pa.date32()),
            "retired": pa.array(retired),
            "origin": pa.array([origin] * len(names), pa.date32()),
        }
    )


def find_retired(last_days: list[date | None], *, retire_after_days: int | None) -> list[bool]:
    """Which members had no row for so long before the latest day on which anybody had one. None: nobody."""
    newest = max((day for day in last_days if day is not None), default=None)
    if retire_after_days is None or newest is None:
        return [False] * len(last_days)
    return [day is None or (newest - day).days >= retire_after_days for day in last_days]


def _total(of: ErrorSums, field: str) -> NDArray[np.float64]:
    summed: NDArray[np.float64] = of[field].sum(axis=1)
    return summed


def _share(above: NDArray[np.float64], below: NDArray[np.float64]) -> pa.Array:
    import pyarrow as pa

    return pa.array(np.divide(above, below, out=np.zeros_like(above), where=below > 0), mask=below <= 0)
