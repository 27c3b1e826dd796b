"""No look ahead in training sets: rows that become known after every instant asked for may be garbled, moved or removed, and no bit changes.

Each example has a control that shows it can fail: rows known before are garbled in the same way, and then it does change.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.aggregates import count as count_
from endcap.core.definitions.aggregates import last
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.features.training_sets import training_set
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 27)  # noqa: DTZ001 - wall time in Berlin, where a night of 23 hours follows
HOUR = timedelta(hours=1)
LAST_H = 60  # hours from the start to the last instant that is asked for
QUICK = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path, Iterator[int]]:
    return make_session(start=datetime(2027, 1, 1, tzinfo=UTC)), tmp_path_factory.mktemp("leakage"), count()


def make_rows(seed: int) -> dict[str, np.ndarray]:
    """Events by the hour, half of them on time, others up to two days late; some known before they happen. Sums of the values are exact."""
    rng = np.random.default_rng(seed)
    event = rng.integers(0, 100, 150)
    return {
        "key": rng.integers(0, 4, 150),
        "event": event,
        "known": event + rng.choice([0, 0, 1, 7, 48, -3], 150),
        "x": rng.integers(-80, 80, 150) / 4,
    }


def garble(rows: dict[str, np.ndarray], chosen: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Other values and other keys for the chosen rows, other times later than any that is asked for, and a third of them left out."""
    rng = np.random.default_rng(seed)
    changed = {name: values.copy() for name, values in rows.items()}
    n = int(chosen.sum())
    changed["x"][chosen] = rng.choice([np.nan, np.inf, -1e300, 0.0], n)
    changed["key"][chosen] = rng.integers(0, 4, n)
    later = rng.random(len(chosen)) < 0.5
    moved = chosen & (np.maximum(rows["event"], rows["known"]) > LAST_H)
    changed["known"][moved & later] += 5
    changed["event"][moved & ~later & (rows["event"] > LAST_H)] += 3
    kept = ~(chosen & (rng.random(len(chosen)) < 1 / 3))
    return {name: values[kept] for name, values in changed.items()}


def join(home: tuple[Session, Path, Iterator[int]], rows: dict[str, np.ndarray], *, seed: int) -> tuple[str, pa.Table]:
    session, base, numbers = home
    folder = base / str(next(numbers))
    folder.mkdir()
    times = {name: pa.array([START + int(h) * HOUR for h in rows[name]], pa.timestamp("us")) for name in ("event", "known")}
    pq.write_table(pa.table({"key": rows["key"], "x": rows["x"], **times}), folder / "rows.parquet")
    table = Table("rows", "rows.parquet", keys=("key",), event_time="event", known_at="known", zone="Europe/Berlin")
    windows = {"sum_1d": sum_("x", "1d"), "n_2d": count_("*", "2d"), "last_2d": last("x", "2d")}
    views = [
        FeatureView(name="newest", source=table, features=["x"], max_age="2d"),  # type: ignore[arg-type]  # lists are taken
        FeatureView(name="windows", source=table, features=windows, every="6h", known_after="1h"),  # type: ignore[arg-type]  # aggregates
    ]
    rng = np.random.default_rng(seed + 1)
    at = [START + int(h) * HOUR for h in rng.integers(-5, LAST_H + 1, 40)]
    spine = pa.table({"key": rng.integers(0, 5, 40), "at": pa.array(at, pa.timestamp("us"))})
    made = training_set(session, spine, views, at="at", zone="Europe/Berlin", folder=folder)
    return made.record.sha256, made.table


@QUICK
@given(seed=st.integers(0, 10_000))
def test_what_becomes_known_later_changes_no_bit(seed: int, home: Any) -> None:
    rows = make_rows(seed)
    unseen = np.maximum(rows["event"], rows["known"]) > LAST_H
    sha256, table = join(home, rows, seed=seed)
    assert join(home, garble(rows, unseen, seed), seed=seed) == (sha256, table)
    assert table["x"].null_count < table.num_rows, "something is seen"
    assert join(home, garble(rows, ~unseen, seed), seed=seed)[0] != sha256, "the control: what was known counts"
