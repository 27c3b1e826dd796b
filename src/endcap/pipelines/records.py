"""Records of runs, steps and lineage."""

from __future__ import annotations

from datetime import datetime

import msgspec

from endcap.core.identity import identify
from endcap.governance.rights.records import name_subject
from endcap.storage.ports import Kind


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. ``peak_mib`` is the process's greatest resident size while it ran; ``cpu_s`` sums all its threads and children."""

    name: str
    status: str  # done | cached | skipped | failed
    identity: str
    wall_s: float
    cpu_s: float
    peak_mib: float
    n_rows_in: int | None = None
    n_rows_out: int | None = None
    attempts: int = 1
    note: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a graph for a subject (``model/store-day``). ``plan`` names its steps in their order.

    A run whose process died stays ``running`` until the subject's next run marks it ``killed``.
    """

    id: str
    subject: str
    actor: str
    started_at: datetime
    ended_at: datetime | None = None
    status: str = "running"  # running | done | failed | killed
    error: str = ""
    plan: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()

    @property
    def at_step(self) -> str | None:
        """The first step of its plan that has not ended; None when all have."""
        ended = {step.name for step in self.steps}
        return next((name for name in self.plan if name not in ended), None)

    @property
    def cpu_s(self) -> float:
        return sum(step.cpu_s for step in self.steps)

    @property
    def wall_s(self) -> float:
        return sum(step.wall_s for step in self.steps)


class StepResult(msgspec.Struct, frozen=True):
    """What a step of one identity gave, kept so that it need not run again. ``value`` is the digest of its encoded value."""

    identity: str
    step: str
    value: str
    n_rows_in: int | None
    n_rows_out: int | None
    at: datetime


class Edge(msgspec.Struct, frozen=True):
    """``target`` was made from ``source`` by a step of a run. Things are named ``kind/id``."""

    source: str
    target: str
    step: str
    run: str

    @property
    def id(self) -> str:
        return identify(self.source, self.target)


RUNS = Kind("run", Run, "id", (("subject",), ("status",)), of=lambda run: (f"run/{run.id}", name_subject(run.subject)))
STEP_RESULTS = Kind("step-result", StepResult, "identity", (("step",),))
EDGES = Kind("edge", Edge, "id", (("source",), ("target",)), of=lambda edge: (edge.source, edge.target), tells=True)
