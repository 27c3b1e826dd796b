"""The cycle of a model: ingest, assemble, join outcomes, watch, train when there is a reason, judge, release, answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.purposes import require_purpose
from endcap.core.errors import PermissionDenied
from endcap.core.identity import identify
from endcap.governance.keys.sealings import with_sealing
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.data.sealed_parts import mark_answers
from endcap.loop.data.verbs import ingest
from endcap.loop.deployment.batches import log_predictions, sweep_log
from endcap.loop.deployment.records import BATCHES, Batch
from endcap.loop.deployment.routes import find_answers
from endcap.loop.evaluation.records import name_metric
from endcap.loop.monitoring.watches import check_watch, describe_reading
from endcap.loop.registry.records import MODELS, VERSIONS, Version
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.retirements import require_in_service
from endcap.loop.registry.versions import get_version
from endcap.loop.registry.view_uses import find_answering_views
from endcap.loop.retraining.offers import offer_version, register_trial
from endcap.loop.retraining.records import Decision, Judged, Judgement, Watched
from endcap.loop.retraining.tasks import DataRef, Members, Task, Training
from endcap.loop.retraining.tracked_trials import track_trials
from endcap.pipelines.graph import Dataset, Outcome, Reporter, Step, StepContext
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.records import RUNS, Run
from endcap.pipelines.runner import run_steps
from endcap.pipelines.turns import hold_turn

if TYPE_CHECKING:
    import pyarrow as pa

RETRAIN_EVERY = timedelta(days=28)
RETRY_AFTER = timedelta(days=7)
_MOST_TRIES = 3
_LOOK_BACK = 20  # runs; more that fail in a row do so before they train


@dataclass(frozen=True)
class CycleResult:
    """What one turn of the cycle did."""

    run: Run
    data: DataRef
    watched: Watched
    decision: Decision
    judged: tuple[Judged, ...]
    champion: str | None
    batch: Batch | None


def turn(
    session: Session,
    task: Task,
    *,
    folder: Path,
    origin: str | None = None,
    train: bool | None = None,
    verify: bool = False,
    wait_s: float = 0.0,
    reporter: Reporter | None = None,
) -> CycleResult:
    """One turn of a model's cycle, as a run whose steps are kept by identity. One model turns once at a time: where another run of it
    goes on, it is waited for up to ``wait_s`` seconds, then Conflict says who runs it. Then it waits for its place in the queue (``hold_turn``).

    A retired model is refused (Conflict), and one whose purpose the tables and views do not all allow (PermissionDenied, audited), before
    anything is read.

    ``train`` True trains whatever the state, False never, None when there is a reason: no champion yet, a changed definition, a watch's
    breach with the reaction ``retrain``, or 28 days since the last training. ``origin`` None: chosen from the data and the clock.
    """
    subject = f"model/{task.name}"
    _require_purpose(session, task)
    require_in_service(session, task.name)
    session = with_sealing(session, declared=task.encrypted)
    with hold_lease(session, subject, wait_s=wait_s, reporter=reporter) as hold, hold_turn(session, hold, reporter=reporter) as own:
        cycle = _Cycle(own, task, folder=folder, origin=origin, train=train, verify=verify)
        done = run_steps(own, cycle.steps(), subject=subject, reporter=reporter)
        champion = get_champion(session, task.name)
    values = done.values
    return CycleResult(
        run=done.run,
        data=values["assemble"],
        watched=values["watch"],
        decision=values["decide"],
        judged=values["release"].judged,
        champion=champion.version if champion else None,
        batch=values["forecast"],
    )


def _require_purpose(session: Session, task: Task) -> None:
    try:
        require_purpose(task.purpose, asker=f"Model '{task.name}'", tables=task.tables, views=task.views)
    except PermissionDenied as error:
        session.record_refusal("run", thing=f"model/{task.name}", detail={"purpose": task.purpose, "why": error.what})
        raise


class _Cycle:
    def __init__(self, session: Session, task: Task, *, folder: Path, origin: str | None, train: bool | None, verify: bool) -> None:
        self.session, self.task, self.folder = session, task, folder
        self.origin, self.forced, self.verify = origin, train, verify

    def steps(self) -> tuple[Step, ...]:
        task = self.task
        ingests = tuple(Step(f"ingest {t.name}", self._ingest(t.name), Ingest, retries=2, backoff_s=0.5) for t in task.tables)
        names = tuple(step.name for step in ingests)
        now = self.task.name_tick(self.session)
        return (
            *ingests,
            Step(
                "assemble",
                self._assemble,
                DataRef,
                needs=names,
                parts=(task.identity, now, str(self.origin), *find_answering_views(self.session, task.name)),
                stands=lambda data: self.session.blobs.has(data.digest),
            ),
            Step("watch", self._watch, Watched, needs=("assemble",)),
            Step("decide", self._decide, Decision, needs=("assemble", "watch")),
            Step(
                "train",
                self._train,
                Training,
                needs=("assemble", "decide"),
                parts=(task.identity, task.seed),
                stands=lambda training: all(
                    self.session.blobs.has(digest) for trial in training.trials for digest in (trial.evidence, *(f.sha256 for f in trial.files))
                ),
            ),
            Step("release", self._release, Judgement, needs=("assemble", "decide", "train", *names)),
            Step("forecast", self._forecast, Batch | None, needs=("assemble", "release", *names)),
        )

    def _ingest(self, name: str) -> Callable[[StepContext], Outcome]:
        table = next(t for t in self.task.tables if t.name == name)

        def step(context: StepContext) -> Outcome:  # noqa: ARG001 - an ingest reads files, not steps
            where = {"table": table.name}
            standing = {i.id for i in self.session.records.find(INGESTS, workspace=self.session.workspace, where=where, newest_first=True, limit=20)}
            found = ingest(self.session, table, folder=self.folder, verify=self.verify)
            edges = tuple((f"source/{f.sha256}", f"ingest/{found.id}") for f in found.files)
            status = "cached" if found.id in standing else "done"
            reads = tuple(Dataset(f.path, namespace="file", version=f.sha256) for f in found.files)
            fields = {column.name: column.type for column in found.profile}
            writes = (Dataset(f"table/{table.name}", version=found.id, fields=fields),)
            return Outcome(found, n_rows_in=found.n_rows, n_rows_out=found.n_rows, edges=edges, status=status, reads=reads, writes=writes)

        return step

    def _ingests(self, context: StepContext) -> dict[str, Ingest]:
        return {t.name: context.values[f"ingest {t.name}"] for t in self.task.tables}

    def _assemble(self, context: StepContext) -> Outcome:
        ingests = self._ingests(context)
        data = self.task.assemble(self.session, context, ingests=ingests, folder=self.folder, now=self.session.now(), origin=self.origin)
        edges = tuple((f"ingest/{i.id}", f"data/{data.digest}") for i in ingests.values())
        note = f"{data.n_series} series, {data.first_day} to {data.last_day}, origin {data.moment}"
        return Outcome(data, n_rows_in=data.n_rows, n_rows_out=data.n_series, note=note, edges=edges)

    def _watch(self, context: StepContext) -> Outcome:
        data: DataRef = context.values["assemble"]
        n = 0
        if self.session.records.find(BATCHES, workspace=self.session.workspace, where={"model": self.task.name}, limit=1):
            n = self.task.join(self.session, data)
        champion = get_champion(self.session, self.task.name)
        if champion is None:
            return Outcome(Watched(n), n_rows_out=n, note="nothing is released yet")
        version = get_version(self.session, champion.version)
        readings = tuple(check_watch(self.session.as_system(), version, watch) for watch in self.task.watch)
        note = "; ".join(describe_reading(reading) for reading in readings) or "no watch is declared"
        return Outcome(Watched(n, readings), n_rows_out=n, note=note)

    def _decide(self, context: StepContext) -> Outcome:
        decision = self._reason(context.values["watch"])
        return Outcome(decision, note=decision.reason)

    def _reason(self, watched: Watched) -> Decision:
        if self.forced is not None:
            return Decision(self.forced, "asked for" if self.forced else "training was asked not to run")
        unfinished = self._find_unfinished()
        if unfinished is not None:
            return Decision(True, unfinished)
        model = self.session.records.get(MODELS, workspace=self.session.workspace, id=self.task.name)
        where = {"model": self.task.name}
        newest = self.session.records.find(VERSIONS, workspace=self.session.workspace, where=where, newest_first=True, limit=1)
        if get_champion(self.session, self.task.name) is None:
            return Decision(True, "there is no champion yet")
        age = self.session.now() - newest[0].created_at
        if model is not None and newest[0].definition != model.identity:
            return Decision(True, "the definition changed")
        breached = [r for r, w in zip(watched.readings, self.task.watch, strict=True) if r.breached and "retrain" in w.then]
        if breached:
            if age < RETRY_AFTER:
                return Decision(False, f"a watch is breached, but the last training was {age.days} days ago; it is tried again after 7")
            return Decision(True, f"a watch is breached: {describe_reading(breached[0])}")
        if age >= RETRAIN_EVERY:
            return Decision(True, f"the last training was {age.days} days ago")
        return Decision(False, f"the champion is watched and within its limits; last training {age.days} days ago")

    def _find_unfinished(self) -> str | None:
        """Why the last run trained, if it ended before all it had trained was judged; None when nothing was left behind, or when that
        happened three times in a row: then the champion goes on without it.

        The same reason gives the training step the same identity, so that what was trained is found again.
        """
        where = {"subject": f"model/{self.task.name}"}
        reasons: list[str] = []
        for run in self.session.records.find(RUNS, workspace=self.session.workspace, where=where, newest_first=True, limit=_LOOK_BACK):
            done = {step.name: step for step in run.steps if step.status != "failed"}
            if "release" in done:
                break
            if "train" in done and done["train"].n_rows_out is not None:
                reasons.append(done["decide"].note)
        return reasons[0] if 0 < len(reasons) < _MOST_TRIES else None

    def _train(self, context: StepContext) -> Outcome:
        decision: Decision = context.values["decide"]
        if not decision.train:
            return Outcome(Training(), note="not needed", status="skipped")
        data: DataRef = context.values["assemble"]
        training = self.task.train(self.session, context, data)
        best = training.trials[0]
        edges = tuple((f"data/{data.digest}", f"file/{f.sha256}") for trial in training.trials for f in trial.files)
        metric = self.task.gate.metric
        figure = getattr(best.metrics, metric)
        said = "not scored" if figure is None else f"{name_metric(metric)} {figure:.4f}"
        return Outcome(training, n_rows_in=data.n_rows, n_rows_out=best.metrics.n, note=f"{best.candidate}: {said}", edges=edges)

    def _release(self, context: StepContext) -> Outcome:
        training: Training = context.values["train"]
        data: DataRef = context.values["assemble"]
        decision: Decision = context.values["decide"]
        tables = {name: found.id for name, found in self._ingests(context).items()}
        judged: list[Judged] = []
        edges: list[tuple[str, str]] = []
        track_trials(self.session, self.task, data, training.trials, run=context.run, folder=self.folder)
        for n_tried, trial in enumerate(training.trials, start=1):
            version = register_trial(self.session, self.task, data, trial, tables=tables, run=context.run)
            edges += [(f"file/{f.sha256}", f"version/{version.id}") for f in version.files]
            edges.append((f"data/{version.training_set}", f"version/{version.id}"))
            outcome = offer_version(self.session, self.task, version, reason=decision.reason, n_tried=n_tried)
            judged.append(outcome)
            if outcome.passed or outcome.waits:
                break
        released = next((j for j in judged if j.released), None)
        note = f"{released.version} ({released.candidate}) released" if released else (judged[-1].sentence if judged else "not needed")
        status = "done" if judged else "skipped"
        reads = (*(Dataset(f"table/{name}", version=id_) for name, id_ in tables.items()), *self._views_read(data)) if judged else ()
        writes = tuple(Dataset(f"model/{self.task.name}", version=outcome.version) for outcome in judged)
        kept = Judgement(tuple(judged))
        return Outcome(kept, n_rows_out=len(judged), note=note, edges=tuple(edges), status=status, reads=reads, writes=writes)

    def _views_read(self, data: DataRef) -> tuple[Dataset, ...]:
        return tuple(Dataset(f"view/{name}", version=version) for name, version in data.views.items())

    def _forecast(self, context: StepContext) -> Outcome:
        data: DataRef = context.values["assemble"]
        if self._was_cut_short(context):
            sweep_log(self.session, self.task.name)
        champion = get_champion(self.session, self.task.name)
        if champion is None:
            return Outcome(None, note="no version passed its gate, so nothing answers")
        batches = [self._answer(context, get_version(self.session, version), members, data) for version, members in self._find_answering()]
        if all(parts is None for _, parts in batches):
            kept = [batch for batch, _ in batches]
            return Outcome(kept[0], n_rows_out=sum(batch.n_rows for batch in kept), note="stands already", status="cached")
        kept = log_predictions(self.session, batches)
        batch, n_rows = kept[0], sum(batch.n_rows for batch in kept)
        missing = f"; not known ahead: {', '.join(batch.missing_facts)}" if batch.missing_facts else ""
        edges = tuple(edge for b in kept for edge in ((f"version/{b.version}", f"batch/{b.id}"), (f"data/{data.digest}", f"batch/{b.id}")))
        versions = ", ".join(b.version for b in kept)
        note = f"{n_rows} forecasts for {batch.first} to {batch.last} by {versions}{missing}"
        tables = (Dataset(f"table/{name}", version=found.id) for name, found in self._ingests(context).items())
        reads = (*tables, *(Dataset(f"model/{self.task.name}", version=b.version) for b in kept))
        writes = (Dataset(f"predictions/{self.task.name}", version=batch.moment),)
        return Outcome(batch, n_rows_in=data.n_series, n_rows_out=n_rows, note=note, edges=edges, reads=reads, writes=writes)

    def _was_cut_short(self, context: StepContext) -> bool:
        """Whether the run before this one was killed, or failed."""
        where = {"subject": f"model/{self.task.name}"}
        found = self.session.records.find(RUNS, workspace=self.session.workspace, where=where, newest_first=True, limit=2)
        return any(run.id != context.run and run.status != "done" for run in found)

    def _find_answering(self) -> list[tuple[str, Members]]:
        """Which version answers for which members, the champion's own first; versions without anybody to answer for are left out."""
        answers = find_answers(self.session, self.task.name)
        elsewhere = frozenset().union(*(answering.members for answering in answers if answering.members is not None))
        own = Members(elsewhere, but=True)
        return [(answering.version, own if answering.members is None else Members(answering.members)) for answering in answers]

    def _answer(self, context: StepContext, version: Version, members: Members, data: DataRef) -> tuple[Batch, Iterable[pa.Table] | None]:
        """A batch and the parts to log; None for one that stands as it would be made."""
        named = "" if members.everybody else identify(sorted(members.names), members.but)
        identity = f"{self.task.name}/{data.moment}/{version.id}"
        standing = self.session.records.get(BATCHES, workspace=self.session.workspace, id=identity)
        if standing is not None and (standing.data, standing.members) == (data.digest, named):
            return standing, None
        answers = self.task.answer(self.session, version, data, members=members)
        batch = Batch(
            id=identity,
            workspace=self.session.workspace,
            model=self.task.name,
            version=version.id,
            origin=data.origin,
            hour=data.hour,
            predicted_at=self.session.now(),
            n_rows=0,
            first=answers.first,
            last=answers.last,
            zone=self.task.zone(self.session),
            keys=self.task.keys,
            data=data.digest,
            run=context.run,
            missing_facts=answers.missing_facts,
            members=named,
        )
        return batch, mark_answers(self.task.tables, self.task.keys, answers.parts)
