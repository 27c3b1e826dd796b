"""The executor ``processes``: workers started anew beside this process, each replaced when it is killed.

A pool of our own and not the standard library's, whose pool breaks as a whole when one worker is killed, cannot say which item killed
it, and starts workers by running the caller's script again.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from endcap.core.errors import Conflict, StepFailed
from endcap.pipelines.calls import N_RETRIES, Advance, Failure, Tally, count_at_once, pack, require_importable, say_killed, stay_silent
from endcap.pipelines.machine import count_cpus
from endcap.pipelines.worker import FUNCTION, ITEM, VALUE, read_error

T = TypeVar("T")
R = TypeVar("R")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "ENDCAP_THREADS")


class ProcessExecutor:
    """Workers of this machine. Starting one costs about 0.1 s and what the function imports; they are kept between maps.

    Standard output of a worker goes to standard error, so that what a function prints does not mix with this process's answer.
    """

    name = "processes"

    def __init__(self, *, n_workers: int, memory_limit: int | None = None, n_retries: int = N_RETRIES) -> None:
        self._n_workers, self._n_retries = n_workers, n_retries
        self._memory_limit = memory_limit
        self._workers: list[_Worker] = []
        self._closed = threading.Event()
        self._busy = threading.Lock()
        self._end = weakref.finalize(self, _end_all, self._workers)  # also when the interpreter leaves

    def map(self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent) -> list[R]:
        return self._run(function, items, Tally(len(items), False, advance), n_bytes=n_bytes)

    def map_each(
        self, function: Callable[[T], R], items: Sequence[T], *, n_bytes: int | None = None, advance: Advance = stay_silent
    ) -> list[R | Failure]:
        return self._run(function, items, Tally(len(items), True, advance), n_bytes=n_bytes)

    def close(self) -> None:
        self._closed.set()
        if self._busy.acquire(blocking=False):
            try:
                _end_all(self._workers)
            finally:
                self._busy.release()
        else:  # a map of another thread: its workers die, it sees that, and reaps them itself
            for worker in tuple(self._workers):
                worker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, function: Callable[[Any], Any], items: Sequence[Any], tally: Tally, *, n_bytes: int | None) -> list[Any]:
        require_importable(function)
        n_at_once = count_at_once(self._n_workers, n_bytes=n_bytes, memory_limit=self._memory_limit)
        if not self._busy.acquire(blocking=False):
            raise Conflict("The executor 'processes' runs another map.", hint="open an executor for each thread that maps")
        try:
            self._require_open()
            for worker in self._workers[n_at_once:]:  # what is at rest keeps memory, too
                self._put_away(worker)
            _Map(self, pack(function, what="The function"), items, tally, n_at_once).run()
        finally:
            if self._closed.is_set():
                _end_all(self._workers)
            self._busy.release()
        return tally.finish()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise StepFailed("The executor 'processes' was closed.", hint="open another one")

    def _free_worker(self, *, taken: set[_Worker]) -> _Worker:
        """A worker at rest, or a new one. Those that were killed while they rested are put away."""
        self._require_open()
        for worker in [each for each in self._workers if each not in taken]:
            if worker.lives():
                return worker
            self._put_away(worker)
        worker = _Worker(self._environment())
        self._workers.append(worker)
        self._require_open()  # closed while it started
        return worker

    def _put_away(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        return worker.end()

    def _environment(self) -> dict[str, str]:
        n_threads = max(1, count_cpus() // self._n_workers)
        asked = os.environ.get("OMP_NUM_THREADS", "")
        n_threads = min(n_threads, int(asked)) if asked.isdigit() and int(asked) else n_threads
        own = dict.fromkeys(_THREADS, str(n_threads)) | {"ENDCAP_EXECUTOR": "here"}
        if self._memory_limit is not None:
            own["ENDCAP_MEMORY_LIMIT"] = str(max(1, self._memory_limit // self._n_workers))
        return {**os.environ, **own}


class _Map:
    """One map at work."""

    def __init__(self, executor: ProcessExecutor, function: bytes, items: Sequence[Any], tally: Tally, n_at_once: int) -> None:
        self._executor, self._function, self._items, self._tally, self._n_at_once = executor, function, items, tally, n_at_once
        self._next = 0
        self._killed: deque[int] = deque()
        self._n_deaths: dict[int, int] = {}
        self._running: dict[_Worker, int] = {}

    def run(self) -> None:
        try:
            while self._hand_out():
                for connection in wait([worker.connection for worker in self._running]):
                    self._take(next(worker for worker in self._running if worker.connection is connection))
        finally:  # an error, an interruption, or items that no longer matter: what still computes is ended
            for worker in tuple(self._running):
                self._executor._put_away(worker)
            for worker in self._executor._workers:
                worker.forget()

    def _hand_out(self) -> bool:
        """Give every free worker an item; whether anything is being computed."""
        for worker in [each for each, index in self._running.items() if index >= self._tally.end]:
            del self._running[worker]
            self._executor._put_away(worker)
        while len(self._running) < self._n_at_once and self._next < self._tally.end:
            self._start(self._next)
            self._next += 1
        # Memory is the usual cause of a kill: what was killed runs again by itself, when the others have ended.
        while not self._running and self._killed:
            index = self._killed.popleft()
            if index < self._tally.end:
                self._start(index)
        return bool(self._running)

    def _start(self, index: int) -> None:
        try:
            body = pack(self._items[index], what=f"Item {index}")
        except Exception as error:  # noqa: BLE001 - an item that cannot be had or sent has failed like one that cannot be computed
            self._tally.fail(index, error)
            return
        worker = self._executor._free_worker(taken=set(self._running))
        self._running[worker] = index
        with suppress(OSError):  # killed at this instant: its end is read like any other
            worker.send(self._function, body)

    def _take(self, worker: _Worker) -> None:
        index = self._running[worker]
        try:
            subject, answer = worker.connection.recv_bytes(), worker.connection.recv_bytes()
        except (EOFError, OSError):
            del self._running[worker]
            self._bury(worker, index)
            return
        del self._running[worker]
        if subject == VALUE:
            self._tally.give(index, pickle.loads(answer))
        else:
            self._tally.fail(index, read_error(answer))

    def _bury(self, worker: _Worker, index: int) -> None:
        cause = self._executor._put_away(worker)
        self._executor._require_open()
        self._n_deaths[index] = self._n_deaths.get(index, 0) + 1
        if self._n_deaths[index] > self._executor._n_retries:
            self._tally.fail(index, say_killed(index, cause=cause, n_runs=self._n_deaths[index]))
        else:
            self._killed.append(index)


class _Worker:
    """A process and the two ends that this process holds of it: the channel, and a pipe whose closing ends it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.connection, theirs = Pipe()
        watch, self._held = os.pipe()
        self._has_function = False
        program = f"import sys; sys.path[:] = {_search_path()!r}; from endcap.pipelines.worker import serve; serve({theirs.fileno()}, {watch})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(), watch),
            )
        except BaseException:
            self.connection.close()
            os.close(self._held)
            raise
        finally:
            theirs.close()
            os.close(watch)

    def lives(self) -> bool:
        return self._process.poll() is None

    def send(self, function: bytes, item: bytes) -> None:
        if not self._has_function:
            self._write(FUNCTION, function)
            self._has_function = True
        self._write(ITEM, item)

    def forget(self) -> None:
        """Have it let go of the function and the values that came with it."""
        if self._has_function:
            self._has_function = False
            with suppress(OSError):  # killed at rest: found out when it is needed
                self._write(FUNCTION, pickle.dumps(None))

    def _write(self, subject: bytes, body: bytes) -> None:
        self.connection.send_bytes(subject)
        self.connection.send_bytes(body)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> str:
        """End the process, wait for it, and say how it ended."""
        self.kill()
        code = self._process.wait()
        if not self.connection.closed:
            self.connection.close()
            os.close(self._held)
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


def _search_path() -> list[str]:
    """Where a worker looks for modules: where this process does, then beside the modules it has loaded from elsewhere (a project's own)."""
    tops = [module for name, module in tuple(sys.modules.items()) if "." not in name and name != "__main__"]
    files = [Path(file).resolve() for module in tops if (file := getattr(module, "__file__", None))]
    beside = [str(file.parent.parent if file.name == "__init__.py" else file.parent) for file in files]
    known = [path or str(Path.cwd()) for path in sys.path]
    return list(dict.fromkeys([*known, *beside]))
