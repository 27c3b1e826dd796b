"""Figures of an hourly back-test by member and by slice, from its sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.sums import ErrorSums
from endcap.loop.registry.records import SliceMetrics
from endcap.solutions.forecasting.hours.training import HourBackTest

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_MEMBERS = 60


def measure_slices(test: HourBackTest, name: str, *, segments: dict[str, list[str]]) -> tuple[SliceMetrics, ...]:
    """Figures of the judged rows by origin, declared slice and member (the 60 worst members by their share of error)."""
    sums = test.sums[name].take(origins=test.judged)
    found = []
    for fact, values in segments.items():
        labels = np.array(values)
        found += [SliceMetrics(fact, value, sums.take(groups=labels == value).metrics) for value in sorted(set(values))]
    worst = np.argsort(-sums["abs_error"].sum(axis=1), kind="stable")[:_MOST_MEMBERS]
    found += [SliceMetrics("member", test.groups[i], sums.take(groups=[i]).metrics) for i in worst.tolist()]
    return tuple(found)


def measure_members(test: HourBackTest, name: str, *, baseline: str, segments: dict[str, list[str]]) -> pa.Table:
    """The judged figures of every member, one row each. A member without an outcome has nulls."""
    import pyarrow as pa

    sums = test.sums[name].take(origins=test.judged)

    def total(of: ErrorSums, field: str) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = of[field].sum(axis=1)
        return summed

    def share(above: NDArray[np.float64], below: NDArray[np.float64]) -> pa.Array:
        return pa.array(np.divide(above, below, out=np.zeros_like(above), where=below > 0), mask=below <= 0)

    n, actual = total(sums, "n"), total(sums, "actual")
    return pa.table(
        {
            "member": pa.array(test.groups, pa.string()),
            "n": pa.array(n.astype(np.int64)),
            "wape": share(total(sums, "abs_error"), actual),
            "mae": share(total(sums, "abs_error"), n),
            "bias": share(total(sums, "forecast") - actual, actual),
            "coverage_90": share(total(sums, "covered"), total(sums, "n_banded")),
            "fallback": pa.array([None] * len(test.groups), pa.string()),
            **{fact: pa.array(values, pa.string()) for fact, values in segments.items()},
        }
    )
