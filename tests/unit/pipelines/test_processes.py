from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from endcap.core.errors import Conflict, InvalidInput, StepFailed
from endcap.pipelines.calls import N_RETRIES, Failure
from endcap.pipelines.executors import Executor, open_executor
from endcap.testing.executors import Watched, name_process, square

# A module of a project, beside which nothing else lies: functions that a user would map.
WORK = '''
import ctypes, os, signal, sys, time
from pathlib import Path


def name_threads(_number):
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ENDCAP_THREADS", "ENDCAP_EXECUTOR", "ENDCAP_MEMORY_LIMIT")
    return [os.environ.get(name) for name in names]


def die_always(number, *, folder):
    with (folder / "runs").open("a") as log:
        log.write(f"{number} ")
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave(number):
    os._exit(7)


def count_company(number, *, folder):
    """How many are at work while this one is."""
    mark = folder / f"at-work-{number}"
    mark.touch()
    time.sleep(0.05)
    n = len(list(folder.glob("at-work-*")))
    mark.unlink()
    return n


def meet(number, *, folder):
    """Waits until two are at work."""
    (folder / f"met-{number}").touch()
    end = time.monotonic() + 60
    while len(list(folder.glob("met-*"))) < 2:
        if time.monotonic() > end:
            raise TimeoutError("nobody came")
        time.sleep(0.01)
    return number


def compute_for_ever(number, *, folder):
    """Holds the interpreter's lock all the while."""
    (folder / f"{os.getpid()}.pid").touch()
    ctypes.PyDLL(None).sleep(600)


def speak(number):
    print("spoken in a worker")
    return number


def measure(number, *, shared):
    return len(shared)


def weigh(_number):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
'''


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "executor_work.py").write_text(WORK, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("executor_work")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["executor_work"]


@pytest.fixture
def executor() -> Iterator[Executor]:
    with open_executor("processes", n_workers=2) as opened:
        yield opened


def wait_for(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, "it did not happen within a minute"
        time.sleep(0.01)


def pids_in(folder: Path, *, n: int) -> list[int]:
    wait_for(lambda: len(list(folder.glob("*.pid"))) == n)
    return [int(path.stem) for path in folder.glob("*.pid")]


def test_workers_are_kept_between_maps(executor: Executor) -> None:
    first = set(executor.map(name_process, range(8)))
    assert len(first) <= 2
    assert set(executor.map(name_process, range(8))) <= first | {pid for pid in first if not psutil.pid_exists(pid)}


def test_a_worker_that_was_killed_at_rest_is_replaced(executor: Executor) -> None:
    pid = executor.map(name_process, [0])[0]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert executor.map(name_process, [0])[0] != pid
    assert not psutil.pid_exists(pid)


def test_an_item_that_always_kills_is_given_up_and_the_others_are_not(executor: Executor, work: ModuleType, tmp_path: Path) -> None:
    found = executor.map_each(partial(work.die_always, folder=tmp_path), range(5))
    assert [found[n] for n in (0, 1, 3, 4)] == [0, 1, 3, 4]
    failure = found[2]
    assert isinstance(failure, Failure)
    assert (failure.index, failure.error_code) == (2, "step_failed")
    assert "Item 2 was given up after 4 runs" in failure.what
    assert "killed by SIGKILL" in failure.what
    runs = (tmp_path / "runs").read_text().split()
    assert runs.count("2") == 1 + N_RETRIES
    assert len(runs) == 4 + 1 + N_RETRIES
    with pytest.raises(StepFailed, match=r"Item 2 .* killed by SIGKILL") as caught:
        executor.map(partial(work.die_always, folder=tmp_path), range(5))
    assert caught.value.details == {"index": 2, "cause": "was killed by SIGKILL"}


def test_a_process_that_leaves_is_like_one_that_was_killed(executor: Executor, work: ModuleType) -> None:
    with pytest.raises(StepFailed, match=r"Item 0 .* ended with code 7"):
        executor.map(work.leave, [1])


def test_workers_share_the_cpus_and_the_memory(work: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    n_cpus = len(os.sched_getaffinity(0))
    with open_executor("processes", n_workers=2, memory_limit=4 * 2**30) as executor:
        n = str(max(1, n_cpus // 2))
        assert executor.map(work.name_threads, [0]) == [[n, n, n, "here", str(2 * 2**30)]]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with open_executor("processes", n_workers=1) as executor:
        assert executor.map(work.name_threads, [0])[0][:2] == ["1", "1"]


def test_as_many_run_at_once_as_fit_in_memory(work: ModuleType, tmp_path: Path) -> None:
    with open_executor("processes", n_workers=3, memory_limit=1000) as executor:
        assert executor.map(partial(work.meet, folder=tmp_path), range(2), n_bytes=500) == [0, 1]
        assert max(executor.map(partial(work.count_company, folder=tmp_path), range(6), n_bytes=400)) <= 2
        assert set(executor.map(partial(work.count_company, folder=tmp_path), range(3), n_bytes=5000)) == {1}
    with open_executor("processes", n_workers=2) as executor:
        folder = tmp_path / "unlimited"
        folder.mkdir()
        assert executor.map(partial(work.meet, folder=folder), range(2), n_bytes=10**15) == [0, 1]


def test_values_shared_by_all_items_are_let_go_after_the_map(work: ModuleType) -> None:
    with open_executor("processes", n_workers=1) as executor:
        before = executor.map(work.weigh, [0])[0]
        assert executor.map(partial(work.measure, shared=bytes(100_000_000)), [0, 1]) == [100_000_000] * 2
        assert executor.map(work.weigh, [0])[0] < before + 50_000_000


def test_what_a_function_prints_does_not_reach_standard_output(executor: Executor, work: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert executor.map(work.speak, [1]) == [1]
    executor.close()
    said = capfd.readouterr()
    assert "spoken in a worker" not in said.out


def test_an_interruption_ends_the_workers(work: ModuleType, tmp_path: Path) -> None:
    pids: list[int] = []
    main = threading.get_ident()

    def interrupt() -> None:
        try:
            pids.extend(pids_in(tmp_path, n=2))
        finally:  # without it the map would go on for ever
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt), open_executor("processes", n_workers=2) as executor:
            executor.map(partial(work.compute_for_ever, folder=tmp_path), range(2))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_closing_from_another_thread_ends_a_map(work: ModuleType, tmp_path: Path) -> None:
    executor = open_executor("processes", n_workers=2)
    caught: list[StepFailed] = []

    def compute() -> None:
        try:
            executor.map(partial(work.compute_for_ever, folder=tmp_path), range(2))
        except StepFailed as error:
            caught.append(error)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        pids = pids_in(tmp_path, n=2)
        with pytest.raises(Conflict, match="runs another map"):
            executor.map(square, [1])
    finally:  # without it the map would go on for ever
        executor.close()
    thread.join(60)
    assert "was closed" in str(caught[0])
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_an_executor_that_is_let_go_leaves_no_workers() -> None:
    executor = open_executor("processes", n_workers=2)
    pids = executor.map(name_process, range(4))
    del executor
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))


PARENT = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import executor_work
from endcap.pipelines.executors import open_executor

open_executor("processes", n_workers=2).map(partial(executor_work.compute_for_ever, folder=Path(sys.argv[2])), range(2))
"""


def test_workers_do_not_outlive_a_parent_that_is_killed(work: ModuleType, tmp_path: Path) -> None:
    assert work.__file__ is not None
    source = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-c", PARENT, str(Path(work.__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": source}) as parent:
        workers = [psutil.Process(pid) for pid in pids_in(tmp_path, n=2)]
        assert all(worker.ppid() == parent.pid for worker in workers)
        parent.kill()
    wait_for(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))


def test_a_type_that_workers_cannot_import_is_refused(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ModuleType("made_here")
    exec("class Made: pass\ndef call(made): return 1", vars(made))
    monkeypatch.setitem(sys.modules, "made_here", made)
    with pytest.raises(InvalidInput, match="cannot read what it was sent: No module named 'made_here'"):
        executor.map(made.call, [1])
    with pytest.raises(InvalidInput, match="cannot read what it was sent"):
        executor.map(id, [made.Made()])
    monkeypatch.setattr(made.call, "__module__", "__main__")
    with pytest.raises(InvalidInput, match="in the script that is running"):
        executor.map(made.call, [1])


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("", {}, "'' names no executor"),
        ("proceses", {}, "did you mean 'processes'"),
        ("threads", {}, "names no executor"),
        ("processes", {"n_workers": 0}, "0 workers does nothing"),
        ("processes", {"memory_limit": 0}, "0 bytes holds nothing"),
    ],
)
def test_what_is_no_executor_is_refused(spec: str, options: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        open_executor(spec, **options)


def test_an_item_of_less_than_no_bytes_is_refused(executor: Executor) -> None:
    items = Watched(2)
    with pytest.raises(InvalidInput, match="-1 bytes"):
        executor.map(square, items, n_bytes=-1)
    assert items.n_taken == 0
