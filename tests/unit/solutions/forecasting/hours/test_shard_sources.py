from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput, NotFound
from endcap.loop.features.panels.hour_store import HourState, ShardState, put_day, put_series, put_state
from endcap.loop.features.panels.packing import pack_arrays
from endcap.pipelines.executors import HereExecutor, open_executor
from endcap.solutions.forecasting.hours.shapes import group_series
from endcap.solutions.forecasting.hours.shards import ShardSource, forget_shards, score_shard
from endcap.solutions.forecasting.hours.training import Shards
from endcap.storage.opening import open_ports
from endcap.storage.ports import BlobStore

N_SERIES, N_DAYS, N_SHARDS = 700, 5, 3
LABELS = {"item": ("a", "b", "c"), "city": ("x", "y")}


def cells(shard: int, day: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Sales with gaps and returns, and flags."""
    rng = np.random.default_rng([shard, day])
    sold = rng.normal(2, 2, (N_SERIES, 24)).astype(np.float32)
    sold[rng.random(sold.shape) < 0.1] = np.nan
    return sold, rng.random(sold.shape) < 0.2


def codes(shard: int) -> dict[str, NDArray[np.int32]]:
    rng = np.random.default_rng(shard)
    return {name: rng.integers(-1, len(labels), N_SERIES).astype(np.int32) for name, labels in LABELS.items()}


def make_source(blobs: BlobStore, *, kept_bytes: int = 2**30) -> ShardSource:
    shards = []
    for shard in range(N_SHARDS):
        days = tuple("" if day == 1 else put_day(blobs, *cells(shard, day), place=0) for day in range(N_DAYS))
        series = put_series(blobs, {"item": [f"{shard}.{i}" for i in range(N_SERIES)]}, codes(shard))
        facts = blobs.put(pack_arrays({"discount": np.ones((N_SERIES, N_DAYS), dtype=np.float32)}))
        shards.append(ShardState(n_series=N_SERIES, series=series, days=days, facts=facts))
    state = HourState(
        key_types={"item": "text"},
        start=date(2026, 1, 5),
        n_ticks=N_DAYS * 24,
        hidden=0,
        censored=True,
        shards=tuple(shards),
        labels=LABELS,
        likeness=("item",),
        place=None,
        holidays="DE",
    )
    return ShardSource(blobs, put_state(blobs, state), state, N_DAYS * 24, 24, kept_bytes)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    forget_shards()
    ports = open_ports(tmp_path / "home")
    yield ports.blobs
    ports.close()
    forget_shards()


def test_a_panel_has_the_days_side_by_side_and_returns_as_missing(blobs: BlobStore) -> None:
    panel = make_source(blobs).read(1)
    assert panel.unseen is not None
    for day in range(N_DAYS):
        sold, unseen = cells(1, day) if day != 1 else (np.full((N_SERIES, 24), np.nan), np.zeros((N_SERIES, 24), np.bool_))
        hours = slice(day * 24, (day + 1) * 24)
        np.testing.assert_array_equal(panel.sold[:, hours], np.where(sold < 0, np.nan, sold))
        np.testing.assert_array_equal(panel.unseen[:, hours], unseen)


def test_the_first_panels_read_are_kept_and_go_when_another_origin_is_read(blobs: BlobStore) -> None:
    one = make_source(blobs).read(0, keep=False)
    assert one.unseen is not None
    n_bytes = one.sold.nbytes + one.unseen.nbytes + one.daily["discount"].nbytes
    source = make_source(blobs, kept_bytes=2 * n_bytes)
    first = [source.read(index) for index in range(N_SHARDS)]
    again = [source.read(index) for index in range(N_SHARDS)]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, False]
    assert source.read(2, keep=False) is not source.read(2, keep=False)
    assert source.read(0, look_back_days=2) is first[0]  # the whole one is there: a fit takes of it what it looks at
    earlier = replace(source, origin=source.origin - 24)
    kept = earlier.read(2)
    assert earlier.read(2) is kept
    assert source.read(0) is not first[0]


def test_groups_are_those_of_equal_labels(blobs: BlobStore) -> None:
    panel = make_source(blobs).read(2)
    own = codes(2)
    for names in ((), ("item",), ("item", "city"), ("nothing", "city")):
        groups, labels = group_series(panel, names)
        told = [tuple(LABELS[name][own[name][i]] if name in own and own[name][i] >= 0 else "" for name in names) for i in range(N_SERIES)]
        assert [tuple(labels[group]) for group in groups] == told
        assert len({tuple(row) for row in labels}) == len(labels) == len(set(told))


class FarAway(HereExecutor):
    """As a cluster whose nodes do not see this machine's disk."""

    name = "ray"


@pytest.mark.parametrize(("executor", "expected"), [(FarAway(), InvalidInput), (HereExecutor(), NotFound)])
def test_a_node_that_cannot_see_the_home_is_told_what_it_lacks(blobs: BlobStore, executor: HereExecutor, expected: type[Exception]) -> None:
    source = make_source(blobs)
    elsewhere = replace(source, blobs=open_ports("memory://").blobs)
    with pytest.raises(expected, match=r"^(A worker of the Ray cluster cannot read the model's hours: |)No bytes are kept") as raised:
        Shards(elsewhere, executor).map(partial(score_shard, source=elsewhere, origin=96, fits={}, spreads={}, groups={}, n_groups=0))
    assert ("same path" in str(raised.value)) == (executor.name == "ray")


def test_a_home_in_memory_is_refused_before_a_process_starts() -> None:
    source = make_source(open_ports("memory://").blobs)
    with pytest.raises(InvalidInput, match=r"memory://\) cannot be read by other processes.*--home FOLDER"):
        pickle.dumps(source)
    with open_executor("processes", n_workers=1) as executor, pytest.raises(InvalidInput, match="cannot be read by other processes"):
        executor.map(partial(score_shard, source=source, origin=96, fits={}, spreads={}, groups={}, n_groups=0), source.indexes)


def test_a_home_with_a_relative_path_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_shards()
    monkeypatch.chdir(tmp_path)
    ports = open_ports("home")
    source = make_source(ports.blobs)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.read(0).n_series == N_SERIES
    ports.close()
    forget_shards()
