"""Our own trainings among everybody's runs: each trial is a tracked run of the experiment that is named like its model."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Metrics
from endcap.loop.retraining.offers import identify_trial
from endcap.loop.retraining.tasks import DataRef, Task, Trial
from endcap.loop.training.tracking.capturing import capture_environment, keep_environment, tell_cost
from endcap.loop.training.tracking.experiments import find_experiment, open_experiment
from endcap.loop.training.tracking.names import MOST_PARAM
from endcap.loop.training.tracking.records import Dataset, RunCost
from endcap.loop.training.tracking.tracked_runs import count_us, cut_to_ms, log_datasets, record_run
from endcap.pipelines.records import RUNS, StepRecord
from endcap.storage.tracks import Point, Track

RUN_TAG = "endcap.run"


def track_trials(session: Session, task: Task, data: DataRef, trials: tuple[Trial, ...], *, run: str, folder: Path) -> list[Track]:
    """Keep each trial of a training as a finished run; one that is kept already stays as it is.

    A run's id is the identity of the version that the trial may become. Parameters are the candidate and the settings of the definition, metrics the
    figures on the judged rows, the dataset is the training set; the cost is that of the whole training step, which the trials share. Where somebody
    deleted the model's experiment nothing is kept.
    """
    standing = find_experiment(session, task.name)
    if not trials or (standing is not None and standing.stage == "deleted"):
        return []
    experiment = open_experiment(session, task.name)
    tags = {RUN_TAG: run, "endcap.model": task.name, **keep_environment(session, capture_environment(folder=folder))}
    step = _find_training_step(session, run)
    ended_us = cut_to_ms(count_us(session.now()))
    tracked = []
    for trial in trials:
        points = [Point(name, figure, ended_us) for name, figure in _tell_metrics(trial.metrics).items()]
        points += [] if step is None else _tell_step(step, at_us=ended_us)
        track = Track(
            id=identify_trial(task, data, trial),
            group=experiment.id,
            name=trial.candidate,
            actor=session.actor.name,
            status="finished",
            started_us=ended_us if step is None else cut_to_ms(ended_us - round(step.wall_s * 1e6)),
            ended_us=ended_us,
            params={"candidate": trial.candidate, "seed": str(task.seed), **_tell_settings(task.definition)},
            tags=tags,
            metrics={point.name: point for point in points},
        )
        record_run(session, track)
        source = f"{task.solution}: {data.first_day} to {data.last_day}, {data.n_rows:,} rows"
        told = Dataset(
            id=session.new_id("dataset"),
            run=track.id,
            name="training set",
            digest=data.digest,
            source=source,
            source_type="endcap",
            context="training",
        )
        log_datasets(session, track.id, [told])  # also of one that stands: who kept it may have been killed before this
        tracked.append(track)
    return tracked


def _find_training_step(session: Session, run: str) -> StepRecord | None:
    found = session.records.get(RUNS, workspace=session.workspace, id=run)
    return None if found is None else next((step for step in found.steps if step.name == "train"), None)


def _tell_step(step: StepRecord, *, at_us: int) -> list[Point]:
    return tell_cost(RunCost(wall_s=step.wall_s, cpu_s=step.cpu_s, peak_bytes=round(step.peak_mib * 2**20)), at_us=at_us)


def _tell_metrics(metrics: Metrics) -> dict[str, float]:
    told = {name: getattr(metrics, name) for name in metrics.__struct_fields__ if name != "logged"}
    figures = {name: float(value) for name, value in told.items() if value is not None}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _tell_settings(definition: str) -> dict[str, str]:
    """The settings of a definition, each as text; what is longer than a parameter may be is left to the definition itself."""
    settings: dict[str, object] = msgspec.json.decode(definition, type=dict[str, object])
    told = {name: value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode() for name, value in settings.items()}
    return {f"definition.{name}": text for name, text in told.items() if len(text) <= MOST_PARAM and text not in ("null", "")}
