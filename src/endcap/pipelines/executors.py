"""Executors: one function over many items, in this process, in processes beside it, or on a Ray cluster, with equal results.

At least once, and idempotent: a process may be killed at any instant and its item is run again, so a function given to an executor
does twice what it does once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from endcap.core.errors import InvalidInput, StepFailed
from endcap.core.settings import Settings, require_executor
from endcap.pipelines.calls import Advance, Failure, Tally, require_importable, stay_silent
from endcap.pipelines.machine import count_cpus, limit_memory

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs one function on many items.

    ``function`` is found by name in other processes: module-level, or a ``functools.partial`` of such, whose arguments are sent once
    per worker and not once per item; anything else is InvalidInput before anything starts, with every executor. Items and results are
    records, arrays or tables that can be pickled; items are taken and sent one by one as workers become free, never all at once.

    ``n_bytes`` is what one item needs at its peak: as many run at once as fit in the executor's memory limit, at least one. None: as
    many as there are workers. ``advance(n_done, n_items)`` is called after each item in the caller's thread; what it raises ends the map.

    An executor runs one map at a time; a second one raises Conflict.
    """

    name: str

    def map(self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent) -> list[R]:
        """The results in the order of items. Raises what the first item, in that order, raised: our own errors with their message, hint and
        details, others as they are, with the worker's traceback as their cause. StepFailed when an item's process died at each of its runs.
        """
        ...

    def map_each(
        self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent
    ) -> list[R | Failure]:
        """The same, with a Failure in the place of each item that failed: 3 failures in 2,200 leave 2,197 results."""
        ...

    def close(self) -> None:
        """End the workers, also those that compute; a map that runs in another thread then raises StepFailed. Twice is once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def open_executor(spec: str = "here", *, n_workers: int | None = None, memory_limit: int | None = None) -> Executor:
    """Open an executor; nothing starts before its first map.

    Args:
        spec: ``here``: this process, one item after another, libraries on their own threads. ``processes``: processes beside this one,
            started anew (never forked: compiled threads do not survive it), each with its share of the CPUs. ``ray``: the Ray that runs
            in this process, or else one started on this machine; ``ray://HOST:PORT``: that cluster. Ray needs the extra ``endcap[ray]``.
        n_workers: how many items run at once at most. None: one per CPU this process may use; for Ray one per CPU of the cluster.
        memory_limit: bytes that all items at work share; on a cluster, on each of its nodes. None: no limit.
    """
    if n_workers is not None and n_workers < 1:
        raise InvalidInput(f"An executor with {n_workers} workers does nothing.", hint="give 1 or more, or None for one per CPU")
    if memory_limit is not None and memory_limit < 1:
        raise InvalidInput(f"A memory limit of {memory_limit} bytes holds nothing.", hint="give bytes, or None for no limit")
    if require_executor(spec) == "here":
        return HereExecutor()
    if spec == "processes":
        from endcap.pipelines.processes import ProcessExecutor

        return ProcessExecutor(n_workers=n_workers or count_cpus(), memory_limit=memory_limit)
    from endcap.pipelines.ray_cluster import RayExecutor

    return RayExecutor(spec, n_workers=n_workers, memory_limit=memory_limit)


def open_configured(settings: Settings) -> Executor:
    """The executor that the settings name, with their workers and memory limit."""
    return open_executor(settings.executor, n_workers=settings.n_workers, memory_limit=limit_memory(settings))


class HereExecutor:
    """One item after another in the calling process."""

    name = "here"

    def __init__(self) -> None:
        self._closed = False

    def map(self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent) -> list[R]:
        return self._run(function, items, Tally(len(items), False, advance))

    def map_each(
        self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent
    ) -> list[R | Failure]:
        return self._run(function, items, Tally(len(items), True, advance))

    def _run(self, function: Callable[[Any], Any], items: Sequence[Any], tally: Tally) -> list[Any]:
        require_importable(function)
        if self._closed:
            raise StepFailed("The executor 'here' was closed.", hint="open another one")
        for index in range(len(items)):
            try:
                value = function(items[index])
            except Exception as error:  # noqa: BLE001 - the edge of a worker: the tally decides whether it is kept or raised
                tally.fail(index, error)
                if tally.raised:
                    break
            else:
                tally.give(index, value)
        return tally.finish()

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
