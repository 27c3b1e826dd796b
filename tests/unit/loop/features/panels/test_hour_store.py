from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.loop.features.panels.hour_panels import HourRevisions
from endcap.loop.features.panels.hour_store import (
    HourState,
    ShardState,
    find_last_days,
    find_present,
    put_day,
    put_revisions,
    put_series,
    put_state,
    read_revisions,
    read_series,
    read_shard,
    read_state,
)
from endcap.loop.features.panels.packing import pack_arrays
from endcap.storage.opening import open_ports
from endcap.storage.ports import BlobStore

NAN = np.nan


@pytest.fixture
def blobs() -> BlobStore:
    return open_ports("memory://").blobs


def cells(n_series: int, n_days: int, told: dict[tuple[int, int], float]) -> np.ndarray:
    sold = np.full((n_series, n_days * 24), NAN, dtype=np.float32)
    for cell, value in told.items():
        sold[cell] = value
    return sold


def keep(blobs: BlobStore, *shards: np.ndarray, facts: str = "", revisions: str = "", **options: Any) -> HourState:
    made, n = [], 0
    for sold in shards:
        keys = {"store": [str(n + i) for i in range(len(sold))]}
        days = tuple(put_day(blobs, sold, None, place=day) for day in range(sold.shape[1] // 24))
        codes = {"store": np.arange(n, n + len(sold), dtype=np.int32)}
        made.append(ShardState(n_series=len(sold), series=put_series(blobs, keys, codes), days=days, facts=facts, revisions=revisions))
        n += len(sold)
    given = {
        "key_types": {"store": "integer"},
        "start": date(2026, 3, 1),
        "n_ticks": max(sold.shape[1] for sold in shards),
        "hidden": 0,
        "censored": False,
        "shards": tuple(made),
        "labels": {"store": tuple(str(i) for i in range(n))},
        "likeness": (),
        "place": "store",
        "holidays": None,
    }
    return HourState(**{**given, **options})


def read(blobs: BlobStore, state: HourState, *, origin: int, shard: int = 0, horizon: int = 2, **options: Any) -> Any:
    return read_shard(blobs, state, state.shards[shard], origin=origin, horizon=horizon, **{"calendar": {}, **options})


def test_a_state_is_named_by_its_digest_and_comes_back(blobs: BlobStore) -> None:
    state = keep(blobs, cells(2, 2, {(0, 3): 1.0}), cells(1, 1, {(0, 0): 2.0}))
    assert state.n_series == 3
    digest = put_state(blobs, state)
    assert put_state(blobs, state) == digest
    assert read_state(blobs, digest) == state
    with pytest.raises(NotFound):
        read_state(blobs, "0" * 64)
    with pytest.raises(IntegrityBroken, match="no state of an hourly model"):
        read_state(blobs, blobs.put(b"[]"))


def test_a_day_without_a_cell_takes_no_piece(blobs: BlobStore) -> None:
    state = keep(blobs, cells(2, 3, {(0, 3): 1.0, (1, 50): 2.0}))
    assert [bool(day) for day in state.shards[0].days] == [True, False, True]
    flags = np.zeros((2, 24), dtype=np.bool_)
    assert put_day(blobs, cells(2, 1, {}), flags, place=0) == ""
    flags[1, 3] = True
    assert put_day(blobs, cells(2, 1, {}), flags, place=0)


HOSTILE = ["", "a/b", "\x00", "a\x00", "ü" * 3000, "key.x", '"', "\\", "\n"]


def test_keys_come_back_whatever_they_hold(blobs: BlobStore) -> None:
    codes = {"city": np.arange(len(HOSTILE), dtype=np.int32)}
    digest = put_series(blobs, {"store": HOSTILE, "key.store": HOSTILE[::-1]}, codes)
    keys, found = read_series(blobs, ShardState(n_series=len(HOSTILE), series=digest, days=(), facts=""))
    assert keys == {"store": HOSTILE, "key.store": HOSTILE[::-1]}
    np.testing.assert_array_equal(found["city"], codes["city"])
    assert len(blobs.get(put_series(blobs, {"store": ["x" * 9000, *("y" for _ in range(5000))]}, {}))) < 100_000


@pytest.mark.parametrize("flags", [None, np.array([True, False])])
def test_revisions_come_back_with_or_without_flags(blobs: BlobStore, flags: Any) -> None:
    told = HourRevisions(np.array([0, 1]), np.array([3, 4]), np.array([9, 9]), np.array([1, NAN], dtype=np.float32), flags)
    found = read_revisions(blobs, put_revisions(blobs, told))
    assert found is not None
    for part in ("series", "ticks", "arrivals", "values"):
        np.testing.assert_array_equal(getattr(found, part), getattr(told, part))
    assert (found.unseen is None) == (flags is None)
    assert put_revisions(blobs, None) == ""
    assert put_revisions(blobs, told.keep(np.zeros(2, dtype=np.bool_))) == ""
    assert read_revisions(blobs, "") is None


def test_a_panel_reaches_to_its_origin_and_no_further(blobs: BlobStore) -> None:
    sold = cells(1, 3, {(0, tick): float(tick) for tick in range(60)})
    state = keep(blobs, sold)
    panel = read(blobs, state, origin=50)
    np.testing.assert_array_equal(panel.sold, sold[:, :50])
    assert (panel.keys, panel.key_types, panel.statics["store"].labels) == ({"store": ("0",)}, {"store": "integer"}, ("0",))
    beyond = read(blobs, state, origin=100)
    assert beyond.n_seen == 100
    assert np.isnan(beyond.sold[0, 60:]).all()
    hidden = read(blobs, keep(blobs, sold, hidden=6), origin=50)
    assert (hidden.n_seen, hidden.hidden, hidden.origin) == (44, 6, 50)


def test_returns_that_outweigh_sales_are_missing_now_and_in_looking_back(blobs: BlobStore) -> None:
    told = HourRevisions(np.zeros(3, np.int64), np.array([2, 2, 5]), np.array([3, 20, 9]), np.array([-4, 7, -1], dtype=np.float32))
    state = keep(blobs, cells(1, 1, {(0, 1): -2.0, (0, 2): 7.0, (0, 5): -1.0, (0, 6): 3.0}), revisions=put_revisions(blobs, told))
    panel = read(blobs, state, origin=24)
    assert np.flatnonzero(np.isfinite(panel.sold[0])).tolist() == [2, 6]
    back = panel.seen_at(10)
    assert np.flatnonzero(np.isfinite(back.sold[0])).tolist() == [6]
    np.testing.assert_array_equal(read(blobs, state, origin=10).sold, back.sold)


def test_facts_reach_to_the_last_targets_day(blobs: BlobStore) -> None:
    facts = blobs.put(pack_arrays({"promo": np.array([[1, 2, 3]], dtype=np.float32)}))
    state = keep(blobs, cells(1, 2, {(0, 3): 1.0}), facts=facts)
    assert read(blobs, state, origin=24).daily["promo"].tolist() == [[1, 2]]
    assert read(blobs, state, origin=30, look_back_days=0).daily["promo"].tolist() == [[2]]
    np.testing.assert_array_equal(read(blobs, state, origin=24, horizon=80).daily["promo"], np.array([[1, 2, 3, NAN, NAN]], dtype=np.float32))


def test_the_calendar_is_counted_from_the_first_day_that_is_read(blobs: BlobStore) -> None:
    state = keep(blobs, cells(1, 3, {(0, 3): 1.0}))
    panel = read(blobs, state, origin=72, look_back_days=1, calendar={"public_holiday": np.arange(9) == 2})
    assert panel.start == date(2026, 3, 3)
    assert panel.calendar["public_holiday"].argmax() == 0


GROUPS = {0: np.array([0, 0, 1]), 1: np.array([2, 1])}


def last_days(blobs: BlobStore, state: HourState, **options: Any) -> list[int]:
    return find_last_days(blobs, state, GROUPS, **{"n_groups": 4, "until": state.n_ticks, **options}).tolist()


def test_the_last_day_of_each_group_is_found_over_all_shards(blobs: BlobStore) -> None:
    state = keep(blobs, cells(3, 4, {(0, 3): 1.0, (1, 30): 0.0, (2, 5): 1.0}), cells(2, 4, {(0, 95): 1.0, (1, 60): 2.0}))
    assert last_days(blobs, state) == [1, 2, 3, -1]
    assert last_days(blobs, state, until=95) == [1, 2, -1, -1]
    assert last_days(blobs, state, until=30) == [0, 0, -1, -1]
    assert last_days(blobs, state, most_days=2) == [-1, 2, 3, -1]
    assert last_days(blobs, state, until=10_000) == [1, 2, 3, -1]


def test_who_was_there_before_an_hour(blobs: BlobStore) -> None:
    state = keep(blobs, cells(2, 2, {(0, 3): 1.0, (1, 30): 0.0}), cells(1, 2, {(0, 47): 1.0}))
    assert find_present(blobs, state, until=48) is None
    there = find_present(blobs, state, until=31)
    assert there is not None
    assert [part.tolist() for part in there] == [[True, True], [False]]
    there = find_present(blobs, state, until=30)
    assert there is not None
    assert [part.tolist() for part in there] == [[True, False], [False]]
    whole = keep(blobs, cells(1, 2, {(0, 3): 1.0, (0, 40): 1.0}))
    assert find_present(blobs, whole, until=10) is None
