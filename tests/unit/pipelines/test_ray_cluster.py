"""The executor ``ray`` on a cluster of two nodes on this machine. One test takes all that need it: a parallel run then starts one cluster."""

from __future__ import annotations

import inspect
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, InvalidInput
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.data.verbs import ingest
from endcap.loop.features.panels import hour_loading
from endcap.loop.registry.records import Version
from endcap.loop.retraining.tasks import DataRef, Trial
from endcap.pipelines.executors import open_executor
from endcap.pipelines.graph import SilentReporter, StepContext
from endcap.project.definitions import load_definitions
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.testing.executors import DistributedExecutorContract
from endcap.testing.kill_worlds import World, lay_out
from endcap.testing.sessions import make_session

STORE = 80 * 2**20  # bytes; Ray wants at least 75 MiB
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 8}


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


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "_system_config": QUICK}
        opened = Cluster(initialize_head=True, head_node_args=head)
        try:
            opened.add_node(num_cpus=1, object_store_memory=STORE)
            ray.init(address=opened.address, log_to_driver=False, configure_logging=False)
            yield opened
        finally:
            ray.shutdown()
            opened.shutdown()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Twelve series by the hour, in nine shards."""
    (laid := tmp_path / "world").mkdir()
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", 1)
    found = lay_out("hours-first", laid, act=lambda _: None)
    monkeypatch.setattr(hour_loading, "_SERIES_AT_ONCE", 1)
    return found


class Killing(SilentReporter):
    """Does something terrible when the first origin of a back-test is done."""

    def __init__(self, strike: Callable[[], object]) -> None:
        self._strike, self.struck = strike, False

    def step_advanced(self, name: str, *, done: int, total: int) -> None:
        if not self.struck:
            self.struck = True
            self._strike()


def test_a_cluster_keeps_the_contract_and_trains_hours_though_a_node_dies(cluster: Any, world: World, tmp_path: Path) -> None:
    (scratch := tmp_path / "contract").mkdir()
    check_contract(scratch)
    check_hours(cluster, world)


def check_contract(folder: Path) -> None:
    names = [name for name in dir(DistributedExecutorContract) if name.startswith("test_")]
    assert len(names) > 10
    for name in names:
        test = getattr(DistributedExecutorContract(), name)
        with open_executor("ray") as executor:
            test(executor, **({"tmp_path": folder} if "tmp_path" in inspect.signature(test).parameters else {}))
    with pytest.raises(Conflict, match="connected to a Ray already"):
        open_executor("ray://127.0.0.1:10001")


def check_hours(cluster: Any, world: World) -> None:
    session = replace(make_session(world.base, zone="Europe/Berlin"), clock=ManualClock(world.now))
    task = load_definitions(world.folder).task(world.model)
    assert isinstance(task, HourForecastTask)
    data = assemble(session, task, world)
    _, source = task.open_data(session, data)
    assert len(source.indexes) == 9
    shared = replace(session, settings=Settings(executor="processes", n_workers=4, memory_limit=2**30))
    assert task.open_data(shared, data)[1].kept_bytes == 2**30 // 16  # a quarter of the limit among all workers
    (node,) = cluster.worker_nodes
    killing = Killing(lambda: cluster.remove_node(node, allow_graceful=False))
    trials: dict[str, tuple[Trial, ...]] = {}
    answers: dict[str, pa.Table] = {}
    for spec, reporter in (("here", SilentReporter()), ("processes", SilentReporter()), ("ray", killing)):
        own = replace(session, settings=Settings(executor=spec, n_workers=1 if spec == "processes" else 2))
        trials[spec] = task.train(own, StepContext("train", "run_1", {}, reporter), data).trials
        answers[spec] = pa.concat_tables(task.answer(own, version_of(trials[spec][0], world), data).parts)
    assert killing.struck
    assert not cluster.worker_nodes
    assert {trial.candidate for trial in trials["here"]} == {"shrunk_rates", "same_hour_mean"}
    assert trials["processes"] == trials["here"]  # files and evidence by digest: equal to the last bit
    assert trials["ray"] == trials["here"]
    assert answers["here"].num_rows == 12 * 24
    assert answers["processes"].equals(answers["here"])
    assert answers["ray"].equals(answers["here"])
    session.ports.close()


def assemble(session: Session, task: HourForecastTask, world: World) -> DataRef:
    ingests = {table.name: ingest(session, table, folder=world.folder) for table in task.tables}
    context = StepContext("assemble", "run_1", {}, SilentReporter())
    return task.assemble(session, context, ingests=ingests, folder=world.folder, now=world.now, origin=None)


def version_of(trial: Trial, world: World) -> Version:
    return Version(
        id="item-hour-v1",
        model=world.model,
        n=1,
        candidate=trial.candidate,
        identity="i",
        created_at=world.now,
        created_by="ada",
        run="run_1",
        files=trial.files,
        metrics=trial.metrics,
        leaderboard=trial.leaderboard,
        baselines=trial.baselines,
        trained_until=trial.trained_until,
    )
