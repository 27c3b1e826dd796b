"""The runner: executes a graph step by step, keeps what each cost, and skips what was computed before."""

from __future__ import annotations

import logging
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from endcap.core.errors import Conflict, EndcapError, IntegrityBroken, NotFound, StepFailed, StepTimedOut
from endcap.core.identity import digest, identify
from endcap.governance.quotas.usage import count_use
from endcap.governance.sessions import Session
from endcap.pipelines.code import digest_code
from endcap.pipelines.graph import Dataset, Outcome, Reporter, SilentReporter, Step, StepContext, order_steps
from endcap.pipelines.leases import Hold, hold_lease
from endcap.pipelines.open_lineage import describe_run, keep_event, send_events
from endcap.pipelines.records import EDGES, RUNS, STEP_RESULTS, Edge, Run, StepRecord, StepResult
from endcap.pipelines.turns import hold_turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Executed:
    """A finished run and the values its steps gave, by step."""

    run: Run
    values: dict[str, Any]


def run_steps(
    session: Session,
    steps: tuple[Step, ...],
    *,
    subject: str,
    reporter: Reporter | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Executed:
    """Run a graph in this process, one step after another, while holding the lease of its subject and a place in the queue.

    Raises Conflict where another run holds it; to wait for that one, hold the lease first (``hold_lease``), and give the hold's session:
    then the steps' own writes, too, are refused after a run lost its lease.

    Where other runs come first it waits for its place, see ``hold_turn``; a session that holds one goes on in it.

    The run's record is written when it starts and after every step, so that a killed run shows how far it came; finished steps with
    ``parts`` are found again by identity and say ``cached``. A step's kept result, its record and its edges are written in one
    transaction. An EndcapError of a step is raised as it is, an interruption from the keyboard too, any other error as StepFailed,
    chained; the run's record says ``failed`` either way. So does that of a run whose actor signed in and may no longer act as then: it
    is asked before each step, and within one where it reports progress; PermissionDenied, audited, and no step runs any more.
    """
    ordered = order_steps(steps)
    with hold_lease(session, subject) as hold, hold_turn(session, hold, reporter=reporter, wait=wait) as own:
        return _run(hold, own, ordered, reporter=reporter or SilentReporter(), wait=wait)


def _run(hold: Hold, session: Session, ordered: list[Step], *, reporter: Reporter, wait: Callable[[float], object]) -> Executed:
    book = _Book.open(hold, session, ordered)
    values: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for step in ordered:
        context = StepContext(step.name, book.run.id, {need: values[need] for need in step.needs}, reporter, ask=hold.require_warrant)
        identity = identify(step.name, step.parts, [digests[need] for need in step.needs], digest_code()) if step.parts is not None else ""
        reporter.step_started(step.name)
        meter = _Meter()
        try:
            session.require_warrant(verb="run", thing=f"run/{book.run.id}")
            kept = _recall(session, step, identity) if identity else None
            outcome = kept or _attempt(step, context, wait=wait)
            status = "cached" if kept else outcome.status
            payload = msgspec.json.encode(outcome.value, order="deterministic")
            result = _keep(session, step, identity, outcome, payload) if identity and not kept else None
            record = _record(step, identity, status, meter.stop(), outcome=outcome, attempts=context.attempt)
            book.add(record, outcome, result=result)
        except (Exception, KeyboardInterrupt) as error:
            text = str(error) if isinstance(error, EndcapError) else f"{type(error).__name__}: {error}"
            record = _record(step, identity, "failed", meter.stop(), attempts=context.attempt, note=text[:500])
            reporter.step_ended(step.name, status="failed", wall_s=record.wall_s, note=record.note)
            logger.info("run %s failed at step %s", book.run.id, step.name, exc_info=True)
            book.give_up(record, error=text)
            send_events(session)
            if isinstance(error, EndcapError | KeyboardInterrupt):
                raise
            raise StepFailed(f"Step '{step.name}' failed: {text}.", run=book.run.id) from error
        values[step.name], digests[step.name] = outcome.value, digest(payload)
        reporter.step_ended(step.name, status=status, wall_s=record.wall_s, note=record.note)
    book.end(None, status="done")
    send_events(session)
    return Executed(book.run, values)


def _recall(session: Session, step: Step, identity: str) -> Outcome | None:
    """What a step of this identity gave before, or None."""
    kept = session.records.get(STEP_RESULTS, workspace=session.workspace, id=identity)
    if kept is None:
        return None
    try:
        value = msgspec.json.decode(session.blobs.get(kept.value), type=step.gives)
    except (NotFound, IntegrityBroken, msgspec.DecodeError):
        logger.warning("the kept result of step %s is gone or damaged; it runs again", step.name)
        return None
    if step.stands is not None and not step.stands(value):
        logger.warning("what step %s once made is gone; it runs again", step.name)
        return None
    return Outcome(value, kept.n_rows_in, kept.n_rows_out)


def _keep(session: Session, step: Step, identity: str, outcome: Outcome, payload: bytes) -> StepResult:
    """Keep a value's bytes; the record that finds them is written with the step's own."""
    return StepResult(identity, step.name, session.blobs.put(payload), outcome.n_rows_in, outcome.n_rows_out, session.now())


def _attempt(step: Step, context: StepContext, *, wait: Callable[[float], object]) -> Outcome:
    for attempt in range(1, step.retries + 2):
        context.attempt = attempt
        try:
            return _call(step, context)
        except step.retry_on as error:
            if attempt > step.retries or isinstance(error, EndcapError):
                raise
            logger.warning("step %s: attempt %d failed: %s", step.name, attempt, error)
            wait(step.backoff_s * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _call(step: Step, context: StepContext) -> Outcome:
    if step.timeout_s is None:
        return step.call(context)
    box: dict[str, Any] = {}
    own = replace(context, stopped=threading.Event(), on_stop=[])

    def work() -> None:
        try:
            box["outcome"] = step.call(own)
        except BaseException as error:  # noqa: BLE001 - carried to the waiting thread and raised there
            box["error"] = error

    thread = threading.Thread(target=work, name=f"step-{step.name}", daemon=True)
    thread.start()
    thread.join(step.timeout_s)
    if thread.is_alive():
        own.stopped.set()
        for stop in own.on_stop:
            stop()
        raise StepTimedOut(
            f"Step '{step.name}' took longer than its limit of {step.timeout_s} s.",
            hint="raise its timeout_s, or give it less to do",
        )
    if "error" in box:
        raise box["error"]
    outcome: Outcome = box["outcome"]
    return outcome


@dataclass
class _Cost:
    wall_s: float
    cpu_s: float
    peak_mib: float


class _Meter:
    """Wall and CPU seconds since it was made, and the greatest resident size, sampled every 20 ms."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._wall, self._cpu = time.perf_counter(), _cpu_s()
        self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-meter", daemon=True)
        self._thread.start()

    def stop(self) -> _Cost:
        self._done.set()
        self._thread.join()
        self._peak = max(self._peak, self._process.memory_info().rss)
        return _Cost(time.perf_counter() - self._wall, _cpu_s() - self._cpu, self._peak / 2**20)

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)


def _cpu_s() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _record(step: Step, identity: str, status: str, cost: _Cost, *, outcome: Outcome | None = None, attempts: int = 1, note: str = "") -> StepRecord:
    return StepRecord(
        name=step.name,
        status=status,
        identity=identity,
        wall_s=round(cost.wall_s, 4),
        cpu_s=round(cost.cpu_s, 4),
        peak_mib=round(cost.peak_mib, 1),
        n_rows_in=outcome.n_rows_in if outcome else None,
        n_rows_out=outcome.n_rows_out if outcome else None,
        attempts=attempts,
        note=outcome.note if outcome else note,
    )


@dataclass
class _Book:
    """Keeps the record of a run up to date."""

    session: Session
    run: Run
    version: int
    reads: list[Dataset] = field(default_factory=list)
    writes: list[Dataset] = field(default_factory=list)

    @classmethod
    def open(cls, hold: Hold, session: Session, ordered: list[Step]) -> _Book:
        """Begin a run. What runs of the subject are said to go on were killed: their lease is ours now."""
        subject, now = hold.lease.subject, session.now()
        plan = tuple(step.name for step in ordered)
        run = Run(id=session.new_id("run"), subject=subject, actor=session.actor.name, started_at=now, plan=plan)
        with session.records.transact() as tx:
            for left in tx.find(RUNS, workspace=session.workspace, where={"status": "running"}):
                found = tx.get_versioned(RUNS, workspace=session.workspace, id=left.id)
                if left.subject == subject and found is not None:
                    killed = _mark_killed(left, now)
                    tx.put(RUNS, workspace=session.workspace, record=killed, expected_version=found[1])
                    keep_event(session, tx, describe_run(killed, workspace=session.workspace), run=killed.id)
            version = tx.put(RUNS, workspace=session.workspace, record=run, expected_version=0)
            keep_event(session, tx, describe_run(run, workspace=session.workspace), run=run.id)
            count_use(session, tx, subject, n_runs=1)
            hold.name_run(tx, run.id)
        return cls(session, run, version)

    def add(self, record: StepRecord, outcome: Outcome, *, result: StepResult | None) -> None:
        run = msgspec.structs.replace(self.run, steps=(*self.run.steps, record))
        self.reads.extend(outcome.reads)
        self.writes.extend(outcome.writes)
        self._write(run, tuple(Edge(source, target, record.name, self.run.id) for source, target in outcome.edges), result=result)

    def end(self, record: StepRecord | None, *, status: str, error: str = "") -> None:
        steps = (*self.run.steps, record) if record else self.run.steps
        ended = msgspec.structs.replace(self.run, steps=steps, status=status, error=error[:2000], ended_at=self.session.now())
        self._write(ended, ())

    def give_up(self, record: StepRecord, *, error: str) -> None:
        """End with a failure; where that cannot be written (the lease is lost, the disk is full) the next run says so in its stead."""
        try:
            self.end(record, status="failed", error=error)
        except EndcapError as second:
            logger.info("that run %s failed could not be written: %s", self.run.id, second)

    def _write(self, run: Run, edges: tuple[Edge, ...], *, result: StepResult | None = None) -> None:
        workspace = self.session.workspace
        with self.session.records.transact() as tx:
            version = tx.put(RUNS, workspace=workspace, record=run, expected_version=self.version)
            if result is not None:
                found = tx.get_versioned(STEP_RESULTS, workspace=workspace, id=result.identity)
                tx.put(STEP_RESULTS, workspace=workspace, record=result, expected_version=found[1] if found else 0)
            for step in run.steps[len(self.run.steps) :]:
                count_use(self.session, tx, run.subject, cpu_s=step.cpu_s, wall_s=step.wall_s)
            for edge in dict.fromkeys(edges):
                try:
                    tx.append(EDGES, workspace=workspace, record=edge)
                except Conflict:
                    continue  # the same edge was drawn by an earlier run
            if run.status != "running":
                keep_event(self.session, tx, describe_run(run, workspace=workspace, reads=self.reads, writes=self.writes), run=run.id)
        self.run, self.version = run, version


def _mark_killed(run: Run, now: datetime) -> Run:
    place = f"at step '{run.at_step}'" if run.at_step else "after its last step"
    return msgspec.structs.replace(run, status="killed", ended_at=now, error=f"It was killed, or fell silent, {place}.")
