"""Calls of one function on many items: what may be called, how many at once, and the book of what came back."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from endcap.core.errors import EndcapError, InvalidInput, StepFailed

N_RETRIES = 3
"""How often an item runs again after the process that computed it was killed: four runs, then it has failed."""

Advance = Callable[[int, int], object]


def stay_silent(_n_done: int, _n_items: int) -> None:
    """Nobody asked how far it is."""


class Failure(msgspec.Struct, frozen=True):
    """An item that failed where failures are kept: its index, the code of its error (``step_failed`` for one that is not ours), and what."""

    index: int
    error_code: str
    what: str


def require_importable(function: Callable[..., Any]) -> None:
    """Raise InvalidInput unless another process finds the function by name: module-level, or a ``functools.partial`` of such."""
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    module, name = getattr(inner, "__module__", None), getattr(inner, "__qualname__", None)
    hint = "define it with def at the top of a module that can be imported; functools.partial of such a function is fine"
    if not isinstance(module, str) or not isinstance(name, str):
        raise InvalidInput(f"An executor was given {inner!r}, which is no function with a name.", hint=hint)
    if module == "__main__":
        raise InvalidInput(f"The function '{name}' stands in the script that is running, where other processes do not find it.", hint=hint)
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not inner:
        raise InvalidInput(f"The function '{name}' of module '{module}' cannot be imported by that name.", hint=hint)


def pack(value: object, *, what: str) -> bytes:
    """A value as another process reads it. Raises InvalidInput for one that cannot travel; ``what`` names it in the message."""
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput(
            f"{what} cannot be sent to another process: {error}.",
            hint="give records, arrays and tables whose types stand in importable modules; open files, connections and lambdas stay behind",
        ) from error


def count_at_once(n_workers: int, *, n_bytes: int | None, memory_limit: int | None) -> int:
    """How many items may run at once: the workers, or as many as fit in the memory, and at least one.

    >>> count_at_once(8, n_bytes=3 * 2**30, memory_limit=10 * 2**30)
    3
    >>> count_at_once(8, n_bytes=None, memory_limit=10 * 2**30), count_at_once(8, n_bytes=2, memory_limit=1)
    (8, 1)
    """
    if n_bytes is not None and n_bytes < 0:
        raise InvalidInput(f"An item needs {n_bytes} bytes, which is less than none.", hint="n_bytes is the peak of one item; None if unknown")
    if not n_bytes or memory_limit is None:
        return n_workers
    return max(1, min(n_workers, memory_limit // n_bytes))


@dataclass
class Tally:
    """The book of one map: results in the order of items, and the failures.

    ``keeps`` says whether an item's failure becomes a Failure among the results; otherwise items after the first that failed no longer
    matter, those before it do, and ``finish`` raises what the first raised.
    """

    n: int
    keeps: bool
    advance: Advance
    results: list[Any] = field(init=False)
    raised: dict[int, BaseException] = field(default_factory=dict)
    n_done: int = 0

    def __post_init__(self) -> None:
        self.results = [None] * self.n

    @property
    def end(self) -> int:
        """Items from this index on need no computing."""
        return min(self.raised, default=self.n)

    def give(self, index: int, value: object) -> None:
        self.results[index] = value
        self.n_done += 1
        self.advance(self.n_done, self.n)

    def fail(self, index: int, error: BaseException) -> None:
        if self.keeps and isinstance(error, Exception):
            self.give(index, describe_failure(index, error))
        else:
            self.raised[index] = error

    def finish(self) -> list[Any]:
        if self.raised:
            raise self.raised[self.end]
        return self.results


def describe_failure(index: int, error: Exception) -> Failure:
    if isinstance(error, EndcapError):
        return Failure(index, error.code, str(error))
    return Failure(index, StepFailed.code, f"{type(error).__name__}: {error}")


def say_killed(index: int, *, cause: str, n_runs: int = N_RETRIES + 1) -> StepFailed:
    """The error of an item whose process died at each of its runs."""
    return StepFailed(
        f"Item {index} was given up after {n_runs} runs: its process died each time; the last one {cause}.",
        hint="if memory ran out, say what an item needs with n_bytes, lower the number of workers, or make the items smaller",
        index=index,
        cause=cause,
    )
