"""The contract of executors: what every one of them must do, said in tests.

An executor is tested by a module that derives a class from the suite and gives the fixture ``executor``, open, with two workers::

    class TestExecutor(ExecutorContract):
        pass

    @pytest.fixture
    def executor():
        with open_executor("processes", n_workers=2) as opened:
            yield opened

The functions that it maps stand here, where other processes find them.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, overload

import msgspec
import numpy as np
import pytest

from endcap.core.errors import ContractBroken, InvalidInput, NotFound, StepFailed
from endcap.pipelines.calls import Failure
from endcap.pipelines.executors import Executor
from endcap.storage.ports import BlobStore


class Shard(msgspec.Struct, frozen=True):
    """An item of the contract's own."""

    store: str
    sales: Any


def square(number: int) -> int:
    return number * number


def sum_shard(shard: Shard, *, weights: Any = None) -> Shard:
    return Shard(shard.store, (shard.sales * (1.0 if weights is None else weights)).sum(axis=0))


def fail_from(number: int, *, first: int) -> int:
    """Its number, or an error that names it; the earliest that fails takes longest."""
    if number < first:
        return number
    time.sleep(0.1 if number == first else 0.0)
    raise ValueError(f"number {number}")


def break_contract(number: int) -> NoReturn:
    raise ContractBroken(f"Row {number} is bad.", hint="mend it", row=number, days=["Mon"])


def refuse_one_in_ten(number: int) -> int:
    if number % 10 == 3:
        raise NotFound(f"No store {number}.")
    return number


def make_unsendable(_number: int) -> Callable[[], int]:
    return lambda: 1


class OddError(Exception):
    """One that cannot be built from its message."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


def raise_odd(_number: int) -> NoReturn:
    raise OddError(1, 2)


def raise_unsendable(_number: int) -> NoReturn:
    """One of ours with a detail that cannot travel."""
    raise NotFound("No.", hint="do not", row=3, call=lambda: 1)


def touch(name: str, *, folder: Path) -> str:
    (folder / name).touch()
    return name


def name_process(_number: int) -> int:
    return os.getpid()


def die_once(number: int, *, folder: Path, doomed: tuple[int, ...]) -> int:
    """Its square; the doomed kill their process the first time, with nothing it could do."""
    mark = folder / f"{number}.died"
    if number in doomed and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


class Watched(Sequence[int]):
    """The numbers from 0, counting how many were taken."""

    def __init__(self, n: int) -> None:
        self.n, self.n_taken = n, 0

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        assert isinstance(index, int), "items are taken one by one"
        self.n_taken += 1
        return index


class ExecutorContract:
    """Every executor, whatever it runs on."""

    def test_results_come_in_the_order_of_items(self, executor: Executor) -> None:
        assert executor.map(square, range(20)) == [n * n for n in range(20)]
        assert executor.map(square, [3]) == [9]
        assert executor.map(square, []) == []
        assert executor.map_each(square, range(5)) == [0, 1, 4, 9, 16]

    def test_records_and_arrays_come_back_to_the_last_bit(self, executor: Executor) -> None:
        rng = np.random.default_rng(7)
        weights = rng.random((40, 3))
        shards = [Shard(f"店/{n}", rng.random((40, 3))) for n in range(6)]
        expected = [sum_shard(shard, weights=weights) for shard in shards]
        found = executor.map(partial(sum_shard, weights=weights), shards)
        assert [shard.store for shard in found] == [shard.store for shard in expected]
        assert all(np.array_equal(a.sales, b.sales) for a, b in zip(found, expected, strict=True))

    def test_the_first_item_that_fails_says_what_is_raised(self, executor: Executor) -> None:
        with pytest.raises(ValueError, match="number 4"):
            executor.map(partial(fail_from, first=4), range(12))
        assert executor.map(square, range(3)) == [0, 1, 4]

    def test_our_own_errors_keep_type_message_hint_and_details(self, executor: Executor) -> None:
        with pytest.raises(ContractBroken) as caught:
            executor.map(break_contract, [7])
        assert (caught.value.what, caught.value.hint, caught.value.details) == ("Row 7 is bad.", "mend it", {"row": 7, "days": ["Mon"]})

    def test_failures_of_some_leave_the_others(self, executor: Executor) -> None:
        found = executor.map_each(refuse_one_in_ten, range(40))
        failed = {n for n in range(40) if n % 10 == 3}
        assert [n for n in found if not isinstance(n, Failure)] == [n for n in range(40) if n not in failed]
        assert [found[n] for n in sorted(failed)] == [Failure(n, "not_found", f"No store {n}.") for n in sorted(failed)]
        assert executor.map_each(partial(fail_from, first=1), range(2)) == [0, Failure(1, "step_failed", "ValueError: number 1")]

    def test_a_function_that_cannot_be_imported_is_refused_before_anything_starts(self, executor: Executor) -> None:
        items = Watched(3)

        def inner(number: int) -> int:
            return number

        for function in (lambda number: number, inner, partial(inner), Watched(1).__getitem__):
            with pytest.raises(InvalidInput, match=r"cannot be imported|no function with a name"):
                executor.map(function, items)
        assert items.n_taken == 0

    def test_items_are_taken_as_workers_become_free(self, executor: Executor) -> None:
        items = Watched(50)
        ahead: list[int] = []
        executor.map(square, items, advance=lambda n_done, _: ahead.append(items.n_taken - n_done))
        assert len(ahead) == 50
        assert max(ahead) <= 4

    def test_progress_counts_every_item_once(self, executor: Executor) -> None:
        said: list[tuple[int, int]] = []
        executor.map_each(refuse_one_in_ten, range(15), advance=lambda n_done, n: said.append((n_done, n)))
        assert said == [(n, 15) for n in range(1, 16)]

    def test_what_progress_raises_ends_the_map_and_not_the_executor(self, executor: Executor) -> None:
        items = Watched(50)

        def stop(n_done: int, _n: int) -> None:
            if n_done == 3:
                raise StepFailed("Stopped.")

        with pytest.raises(StepFailed, match=r"Stopped\."):
            executor.map(square, items, advance=stop)
        assert items.n_taken < 10
        assert executor.map(square, range(3)) == [0, 1, 4]

    def test_a_closed_executor_says_so(self, executor: Executor) -> None:
        executor.map(square, range(3))
        executor.close()
        executor.close()
        with pytest.raises(StepFailed, match="was closed"):
            executor.map(square, range(3))


class DistributedExecutorContract(ExecutorContract):
    """And those whose items leave this process."""

    def test_items_run_elsewhere(self, executor: Executor) -> None:
        assert os.getpid() not in executor.map(name_process, range(3))

    def test_what_cannot_travel_is_named(self, executor: Executor) -> None:
        with pytest.raises(InvalidInput, match="Item 1 cannot be sent to another process"):
            executor.map(square, [1, lambda: 2])  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="The result of an item cannot be sent"):
            executor.map(make_unsendable, [1])
        with pytest.raises(InvalidInput, match="The function cannot be sent"):
            executor.map(partial(sum_shard, weights=lambda: 1), [])

    def test_errors_that_cannot_travel_are_told_all_the_same(self, executor: Executor) -> None:
        with pytest.raises(StepFailed, match="OddError: 1 and 2") as caught:
            executor.map(raise_odd, [1])
        assert "in raise_odd" in str(caught.value.__cause__)
        with pytest.raises(NotFound) as refused:
            executor.map(raise_unsendable, [1])
        assert (refused.value.what, refused.value.hint, refused.value.details["row"]) == ("No.", "do not", 3)

    def test_an_item_whose_process_was_killed_runs_again(self, executor: Executor, tmp_path: Path) -> None:
        found = executor.map(partial(die_once, folder=tmp_path, doomed=(0, 3, 4)), range(6))
        assert found == [n * n for n in range(6)]
        assert len(list(tmp_path.glob("*.died"))) == 3


def measure_blob(blobs: BlobStore, digest: str) -> int:
    """How many bytes a store has under a digest; for tests of stores that workers open by themselves."""
    return len(blobs.get(digest))
