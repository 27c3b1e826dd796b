"""The executor ``ray`` on a cluster of three nodes on this machine: few tests, so that one process of a parallel run takes them all."""

from __future__ import annotations

import inspect
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import Conflict, InvalidInput
from endcap.pipelines.executors import open_executor
from endcap.testing.executors import DistributedExecutorContract, Shard, die_once, sum_shard

STORE = 80 * 2**20  # bytes; Ray wants at least 75 MiB


# --- without a cluster: these stand first, since a process is connected to one Ray at a time


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidInput, match=r"not installed\. Hint: pip install endcap\[ray\]"):
        open_executor("ray")


def test_a_cluster_that_does_not_answer_is_named() -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(InvalidInput, match=f"No Ray could be reached or started at '{address}'.*ray-client-server-port"):
            open_executor(address)


# --- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        opened = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False})
        try:
            opened.workers = [opened.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
            ray.init(address=opened.address, log_to_driver=False, configure_logging=False)
            yield opened
        finally:
            ray.shutdown()
            opened.shutdown()


def test_the_contract_holds_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    names = [name for name in dir(DistributedExecutorContract) if name.startswith("test_")]
    assert len(names) > 10
    for name in names:
        test = getattr(DistributedExecutorContract(), name)
        with open_executor("ray") as executor:
            test(executor, **({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
    with pytest.raises(Conflict, match="connected to a Ray already"):
        open_executor("ray://127.0.0.1:10001")


def test_results_are_equal_everywhere_though_a_node_dies(cluster: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    weights = rng.random((2000, 20))
    shards = [Shard(str(n), rng.random((2000, 20))) for n in range(12)]
    call = partial(sum_shard, weights=weights)
    left = list(cluster.workers)

    def kill_a_node(n_done: int, _n: int) -> None:
        if n_done == 4:
            cluster.remove_node(left.pop(), allow_graceful=False)

    found = {}
    for spec in ("here", "processes", "ray"):
        with open_executor(spec, n_workers=3) as executor:
            found[spec] = executor.map(call, shards, **({"advance": kill_a_node} if spec == "ray" else {}))
    assert len(left) == 1
    for spec in ("processes", "ray"):
        assert [shard.store for shard in found[spec]] == [shard.store for shard in shards]
        assert all(np.array_equal(a.sales, b.sales) for a, b in zip(found["here"], found[spec], strict=True))
    with open_executor("ray") as executor:  # and on what is left, with a killed worker
        assert executor.map(partial(die_once, folder=tmp_path, doomed=(1,)), range(4)) == [0, 1, 4, 9]
