"""Graphs of steps: what runs after what, and what makes a step the same as one that ran before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

from endcap.core.errors import DefinitionError, StepTimedOut


class Reporter(Protocol):
    """Someone who shows how a run goes on."""

    def step_started(self, name: str) -> None: ...

    def step_advanced(self, name: str, *, done: int, total: int) -> None: ...

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None: ...


class SilentReporter:
    """Shows nothing."""

    def step_started(self, name: str) -> None:
        return None

    def step_advanced(self, name: str, *, done: int, total: int) -> None:
        return None

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        return None


def _ask_nobody() -> None:
    """A step outside a run."""


@dataclass
class StepContext:
    """What a step is given to work with: the values of the steps it needs, and a way to say how far it is.

    ``attempt`` is 1 on the first try, 0 before it. ``ask`` raises where whoever began the run may no longer do so.
    """

    name: str
    run: str
    values: Mapping[str, Any]
    reporter: Reporter
    stopped: Event = field(default_factory=Event)
    on_stop: list[Callable[[], object]] = field(default_factory=list)
    attempt: int = 0
    ask: Callable[[], None] = _ask_nobody

    def advance(self, done: int, total: int) -> None:
        """Report progress. Raises StepTimedOut once the step's time limit has passed, and as ``ask`` does, so that long loops end here."""
        self.ask()
        if self.stopped.is_set():
            raise StepTimedOut(f"Step '{self.name}' was stopped at {done} of {total}.")
        self.reporter.step_advanced(self.name, done=done, total=total)


@dataclass(frozen=True)
class Dataset:
    """Something that a step read or wrote, by a name that stays the same from run to run.

    ``name`` is ``table/sales`` or the like; ``namespace`` '' is the workspace's. ``version`` says which state of it. ``fields`` are its columns
    with their types.
    """

    name: str
    namespace: str = ""
    version: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a step gives back: a small record (big things rest in stores, named by digest), counts, a note and lineage edges.

    ``reads`` and ``writes`` are told to collectors of lineage; a step whose kept value is taken has read and written nothing.

    ``status`` is ``done``; ``cached`` when the step found its work standing already, ``skipped`` when there was nothing to do.
    """

    value: Any
    n_rows_in: int | None = None
    n_rows_out: int | None = None
    note: str = ""
    edges: tuple[tuple[str, str], ...] = ()
    status: str = "done"
    reads: tuple[Dataset, ...] = ()
    writes: tuple[Dataset, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: unique in its graph.
        call: does the work; gets the context, gives an Outcome.
        gives: the type of the value, for keeping and reading it back.
        needs: the steps whose values it reads.
        parts: what else its result depends on (definitions, digests, seeds). None: it runs every time.
        retries: how often it is tried again after an error of the type ``retry_on``.
        backoff_s: the wait before the first retry; doubled for each one after.
        timeout_s: after this many seconds it is stopped and fails. None: no limit. A step is stopped where it reports progress and
            by its ``on_stop`` calls; a library call that does neither is abandoned, its result thrown away.
        stands: whether all that a kept value names is still there; if not, the step runs again. None: a value stands by itself.
    """

    name: str
    call: Callable[[StepContext], Outcome]
    gives: Any
    needs: tuple[str, ...] = ()
    parts: tuple[Any, ...] | None = None
    retries: int = 0
    backoff_s: float = 1.0
    timeout_s: float | None = None
    retry_on: tuple[type[Exception], ...] = (OSError,)
    stands: Callable[[Any], bool] | None = None


def order_steps(steps: tuple[Step, ...]) -> list[Step]:
    """Steps such that each comes after those it needs, otherwise in the order given. Raises DefinitionError for a hole or a circle."""
    by_name = {step.name: step for step in steps}
    if len(by_name) != len(steps):
        raise DefinitionError(f"Two steps of a graph share a name: {sorted(step.name for step in steps)}.")
    for step in steps:
        for need in step.needs:
            if need not in by_name:
                raise DefinitionError(f"Step '{step.name}' needs '{need}', which is not in the graph. Steps: {sorted(by_name)}.")
    ordered: dict[str, Step] = {}
    waiting = list(steps)
    while waiting:
        ready = [step for step in waiting if all(need in ordered for need in step.needs)]
        if not ready:
            raise DefinitionError(f"The steps {sorted(step.name for step in waiting)} need one another in a circle.")
        ordered[ready[0].name] = ready[0]
        waiting.remove(ready[0])
    return list(ordered.values())
