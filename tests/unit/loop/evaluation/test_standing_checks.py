from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from endcap.core.definitions.charters import Charter
from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.evaluation.standing_checks import (
    AnswerTimes,
    Approved,
    DriftWithin,
    FreshWithin,
    HasCharter,
    LatencyWithin,
    SizeWithin,
    time_answers,
)
from endcap.loop.features.records import TrainingProfile

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def check(what: Any) -> Any:
    return what.judge(None, rng=np.random.default_rng(7))


def test_answers_are_timed_after_some_that_warm_up() -> None:
    ticks = count(0, 1_000_000)  # each look at the clock takes a millisecond
    calls: list[int] = []
    found = time_answers(lambda: calls.append(1), clock_ns=lambda: next(ticks))
    assert (found.p50_ms, found.p95_ms, found.n) == (1.0, 1.0, 200)
    assert len(calls) == 203


def test_slow_answers_are_timed_a_few_times_only() -> None:
    ticks = count(0, 2_000_000_000)
    assert time_answers(lambda: None, clock_ns=lambda: next(ticks)).n == 5


def test_the_95th_percentile_of_a_few_is_the_slowest() -> None:
    now, times = [0], iter([1, 1, 1, *[1_000_000_000] * 4, 9_000_000_000])

    def answer() -> None:
        now[0] += next(times)

    found = time_answers(answer, clock_ns=lambda: now[0])
    assert (found.p50_ms, found.p95_ms, found.n) == (1000.0, 9000.0, 5)


def test_latency_is_within_its_limit_or_above_or_unknown() -> None:
    fast = check(LatencyWithin(5, AnswerTimes(1.0, 4.0, 200)))
    assert (fast.passed, fast.figure, fast.figures) == (True, 4.0, {"p50_ms": 1.0, "p95_ms": 4.0})
    assert fast.sentence == "one answer takes 4 ms at the 95th percentile of 200 (median 1 ms) on this machine, within 5 ms"
    assert not check(LatencyWithin(3, AnswerTimes(1.0, 4.0, 200))).passed
    unknown = check(LatencyWithin(3, "it keeps no example"))
    assert (unknown.passed, unknown.figure, unknown.sentence) == (False, None, "the latency could not be measured: it keeps no example")


def test_size_counts_all_bytes() -> None:
    assert check(SizeWithin(2, 2_000_000)).passed
    found = check(SizeWithin(2, 2_000_001))
    assert not found.passed
    assert found.figure == pytest.approx(2.000001)


@pytest.mark.parametrize(
    ("until", "passed", "word"),
    [
        (NOW - timedelta(days=3), True, "younger than 14.0 d"),
        (NOW - timedelta(days=15), False, "older than 14.0 d"),
        (NOW + timedelta(hours=20), True, "younger than"),
        (NOW + timedelta(days=2), False, "later than now"),
        (None, False, "it is not known how far its training data reach"),
    ],
)
def test_data_are_fresh_when_they_are_young_and_not_from_the_future(until: datetime | None, passed: bool, word: str) -> None:
    found = check(FreshWithin(timedelta(days=14), until, NOW))
    assert found.passed is passed
    assert word in found.sentence


def test_a_charter_must_name_the_business_metric() -> None:
    assert "has no charter" in check(HasCharter(None)).sentence
    assert "names no business metric" in check(HasCharter(Charter(problem="waste"))).sentence
    found = check(HasCharter(Charter(problem="waste", business_metric="waste per store")))
    assert (found.passed, found.sentence) == (True, "its charter names the business metric: waste per store")


def test_approvals_are_counted() -> None:
    assert check(Approved(2)).sentence == "needs 2 approvals, has 0"
    assert check(Approved(1)).sentence == "needs 1 approval, has 0"
    assert check(Approved(2, ("bob",))).sentence == "needs 2 approvals, has 1 (bob)"
    found = check(Approved(2, ("bob", "eve")))
    assert (found.passed, found.sentence) == (True, "2 of 2 approved (bob, eve)")


def profile(id_: str, *, seed: int, moved: float = 0.0, names: tuple[str, ...] = ("units", "price"), n: int = 4000) -> TrainingProfile:
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(moved if i == 0 else 0, 1, n) for i, name in enumerate(names)}
    return TrainingProfile(id=id_, model="m", at=NOW, n_rows=n, views={"v": "1"}, profiles=tuple(profile_columns(pa.table(columns))))


def test_training_data_that_moved_from_the_champions_are_named() -> None:
    still = check(DriftWithin(0.1, profile("m-v2", seed=1), profile("m-v1", seed=2), champion="m-v1"))
    assert still.passed
    assert set(still.figures) == {"units", "price"}
    assert still.figure < 0.05
    moved = check(DriftWithin(0.1, profile("m-v2", seed=1, moved=1.0), profile("m-v1", seed=2), champion="m-v1"))
    assert not moved.passed
    assert moved.figure > 0.5
    assert moved.sentence.startswith("training data moved from the champion's (m-v1): units by 0.")
    assert "price" not in moved.sentence


def test_a_few_rows_do_not_drift_by_chance() -> None:
    alarms = 0
    for seed in range(40):
        small = check(DriftWithin(0.1, profile("m-v2", seed=seed, n=150), profile("m-v1", seed=100 + seed, n=150), champion="m-v1"))
        alarms += not small.passed
    assert alarms <= 5  # 2 are to be expected at most, of 40


def test_drift_that_cannot_be_measured_does_not_pass() -> None:
    assert check(DriftWithin(0.1, None, None)).passed  # no champion
    assert "this version's training data were not profiled" in check(DriftWithin(0.1, None, profile("m-v1", seed=1), champion="m-v1")).sentence
    assert "the champion's (m-v1)" in check(DriftWithin(0.1, profile("m-v2", seed=1), None, champion="m-v1")).sentence
    apart = check(DriftWithin(0.1, profile("a", seed=1), profile("b", seed=1, names=("other",)), champion="m-v1"))
    assert not apart.passed
    assert "share no feature" in apart.sentence
