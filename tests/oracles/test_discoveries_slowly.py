"""Benjamini and Hochberg's procedure as the paper words it, and outcomes by member as a walk over the rows."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.loop.data.significance import adjust_p_values
from endcap.loop.evaluation.member_days import SUMMED, sum_by_day

P = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0]))


def name_slowly(p: list[float], rate: float) -> list[bool]:
    """Order them; find the last that is at most its rank's share of the rate; name it and all before it."""
    ranked = sorted(p)
    last = max((i for i in range(1, len(p) + 1) if ranked[i - 1] * len(p) / i <= rate), default=0)
    return [value <= ranked[last - 1] if last else False for value in p]


@settings(max_examples=200, deadline=None)
@given(st.lists(P, min_size=1, max_size=30), st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_adjusted_p_values_name_whom_the_procedure_names(p: list[float], rate: float) -> None:
    q = adjust_p_values(np.array(p))
    assert ((q >= np.array(p) * (1 - 1e-12)) & (q <= 1)).all()
    assert (q <= rate).tolist() == name_slowly(p, rate)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 70), st.floats(0, 100)), min_size=1, max_size=30))
def test_sums_by_member_and_day_are_those_of_a_walk(rows: list[tuple[str, int, float]]) -> None:
    start = datetime(2026, 1, 5)  # noqa: DTZ001 - local by design
    times = [start + timedelta(hours=hour) for _, hour, _ in rows]
    values = [value for _, _, value in rows]
    table = pa.table({"member": [member for member, _, _ in rows], "ts": pa.array(times, pa.timestamp("us")), **dict.fromkeys(SUMMED, values)})
    found = sum_by_day(table, members=("B", "A"))
    expected: dict[tuple[str, int], float] = defaultdict(float)
    for (member, _, value), time in zip(rows, times, strict=True):
        expected[member, (time - start).days] += value
    kept = {day for member, day in expected if member in "AB"}
    for i, member in enumerate(("B", "A")):
        for j, day in enumerate(found.days):
            assert found.actual[i, j] == pytest.approx(expected.get((member, int((day - np.datetime64("2026-01-05")).astype(int))), 0.0))
    assert found.actual.shape == (2, max(kept) - min(kept) + 1 if kept else 0)
