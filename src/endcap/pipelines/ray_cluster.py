"""The executor ``ray``: items as tasks of a Ray cluster, run again when a worker or its node dies."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from threading import Event
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from endcap.core.errors import Conflict, EndcapError, InvalidInput, StepFailed
from endcap.pipelines.calls import N_RETRIES, Advance, Failure, Tally, count_at_once, pack, require_importable, say_killed, stay_silent
from endcap.pipelines.worker import compute, read_error

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

# The second: that Ray leaves the variables of accelerators alone, as it will from its next release on, rather than warn of it.
_OFFLINE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_POLL_S = 0.2
_REACH_S = 5.0


class RayExecutor:
    """Tasks of one CPU each on the Ray that runs in this process, on the cluster at an address, or on one started on this machine.

    Starting one takes some seconds, so it stays up until the executor that started it is closed. A cluster of others is left as it is.
    Nodes must have the same Endcap and the project's modules installed, or share this machine's disk. What reads a home (the shards of an
    hourly model) finds it by its path: on a cluster of several machines the home lies on a file system that all of them mount at the same
    place. ``memory_limit`` counts for each node: tasks are spread, and as many are on their way as fit in all nodes.
    """

    name = "ray"

    def __init__(self, spec: str, *, n_workers: int | None = None, memory_limit: int | None = None) -> None:
        self._ray = _import_ray()
        self._n_workers, self._memory_limit = n_workers, memory_limit
        self._closed, self._mapping = Event(), False
        self._started = self._connect(spec)

    def map(self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent) -> list[R]:
        return self._run(function, items, Tally(len(items), False, advance), n_bytes=n_bytes)

    def map_each(
        self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent
    ) -> list[R | Failure]:
        return self._run(function, items, Tally(len(items), True, advance), n_bytes=n_bytes)

    def close(self) -> None:
        self._closed.set()
        if self._started and not self._mapping:  # a map of another thread sees it within a moment, and closes then
            self._started = False
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _connect(self, spec: str) -> bool:
        """Whether Ray was started, or connected to, here."""
        ray = self._ray
        if ray.is_initialized():
            if spec != "ray":
                raise Conflict(f"This process is connected to a Ray already, and cannot be to {spec!r} too.", hint="take the executor 'ray'")
            return False
        os.environ.update({name: os.environ.get(name, value) for name, value in _OFFLINE.items()})
        address = spec if spec != "ray" else os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
        if address == "local":  # for this machine alone: no other one reaches it
            options |= {"include_dashboard": False, "num_cpus": self._n_workers, "_node_ip_address": "127.0.0.1"}
        _hush(ray)
        try:
            if address.startswith("ray://"):  # asked first: Ray itself tries for half a minute
                found = urlsplit(address)
                socket.create_connection((found.hostname or "", found.port or 10001), timeout=_REACH_S).close()
            ray.init(**options)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            hint = "check that it runs and listens for clients: ray start --head --ray-client-server-port=10001" if address != "local" else None
            raise InvalidInput(f"No Ray could be reached or started at '{address}': {error}.", hint=hint) from error
        return True

    def _run(self, function: Callable[[Any], Any], items: Sequence[Any], tally: Tally, *, n_bytes: int | None) -> list[Any]:
        require_importable(function)
        if self._closed.is_set():
            raise StepFailed("The executor 'ray' was closed.", hint="open another one")
        if self._mapping:
            raise Conflict("The executor 'ray' runs another map.", hint="open an executor for each thread that maps")
        count_at_once(1, n_bytes=n_bytes, memory_limit=None)
        pack(function, what="The function")  # refused here rather than by Ray, in our words
        self._mapping = True
        try:
            _RayMap(self, function, items, tally, n_bytes=n_bytes).run()
        finally:
            self._mapping = False
            if self._closed.is_set():
                self.close()
        return tally.finish()

    def count_at_once(self, n_bytes: int | None) -> int:
        """How many tasks may be on their way now, as nodes come and go."""
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        n_cpus = max(1, int(sum(node["Resources"].get("CPU", 0) for node in nodes)))
        limit = None if self._memory_limit is None else self._memory_limit * max(1, len(nodes))
        return count_at_once(min(n_cpus, self._n_workers or n_cpus), n_bytes=n_bytes, memory_limit=limit)

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()


class _RayMap:
    """One map at work."""

    def __init__(self, executor: RayExecutor, function: Callable[[Any], Any], items: Sequence[Any], tally: Tally, *, n_bytes: int | None) -> None:
        self._executor, self._items, self._tally, self._n_bytes = executor, items, tally, n_bytes
        self._ray = executor._ray
        self._function = self._ray.put(function)  # once per node, and not once per item
        self._task = self._ray.remote(num_cpus=1, max_retries=N_RETRIES, retry_exceptions=False, scheduling_strategy="SPREAD")(compute)
        self._running: dict[Any, int] = {}
        self._next = 0

    def run(self) -> None:
        try:
            while self._hand_out():
                done, _ = self._ray.wait(list(self._running), timeout=_POLL_S, fetch_local=True)
                for reference in done:
                    self._take(reference)
        finally:
            for reference in self._running:  # an error, an interruption, or items that no longer matter
                self._ray.cancel(reference, force=True)

    def _hand_out(self) -> bool:
        if self._executor.is_closed:
            raise StepFailed("The executor 'ray' was closed.", hint="open another one")
        if self._next < self._tally.end:
            n_at_once = self._executor.count_at_once(self._n_bytes)
            while len(self._running) < n_at_once and self._next < self._tally.end:
                self._start(self._next)
                self._next += 1
        return any(index < self._tally.end for index in self._running.values())

    def _start(self, index: int) -> None:
        try:
            body = pack(self._items[index], what=f"Item {index}")
        except Exception as error:  # noqa: BLE001 - an item that cannot be had or sent has failed like one that cannot be computed
            self._tally.fail(index, error)
            return
        self._running[self._task.remote(self._function, body)] = index

    def _take(self, reference: Any) -> None:
        index = self._running.pop(reference)
        try:
            done, answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._tally.fail(index, _explain(error, index))
            return
        if done:
            self._tally.give(index, pickle.loads(answer))
        else:
            self._tally.fail(index, read_error(answer))


def _explain(error: Exception, index: int) -> EndcapError:
    """A Ray error in our words, chained. Ray has by then run the item again as often as it may."""
    from ray import exceptions

    died = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.ObjectLostError, exceptions.NodeDiedError)
    what: EndcapError
    if isinstance(error, died):
        cause = "ran out of its node's memory" if isinstance(error, exceptions.OutOfMemoryError) else f"was lost ({type(error).__name__})"
        what = say_killed(index, cause=cause)
    elif isinstance(error, exceptions.RayTaskError):
        what = InvalidInput(
            f"Another process cannot read what it was sent: {str(error).strip().splitlines()[-1]}.",
            hint="install Endcap and the project's modules, of the same versions, on every node",
        )
    else:
        what = StepFailed(f"Ray could not compute item {index}: {type(error).__name__}: {error}.", index=index)
    what.__cause__ = error
    return what


def _hush(ray: Any) -> None:
    """Send what Ray tells about its workers to the log. It prints it on standard output, where answers go, and has no switch for that."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray._private.worker.print_to_stdstream = _log_lines


def _log_lines(data: dict[str, Any], **_: object) -> None:
    logger.info("ray: %s", " ".join(str(line) for line in data.get("lines", ())))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InvalidInput("The executor 'ray' needs the package ray, which is not installed.", hint="pip install endcap[ray]") from error
    return ray
