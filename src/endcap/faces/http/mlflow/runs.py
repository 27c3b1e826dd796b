"""Calls about runs: what they are told while they go on, and finding them again."""

from __future__ import annotations

from typing import Any

import msgspec

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.answers import NAME_TAG, tell_point, tell_run, tell_run_info
from endcap.faces.http.mlflow.experiments import read_view
from endcap.faces.http.mlflow.protocol import Pair, Request, call, cut_page, read_page, read_token, require_told
from endcap.governance.sessions import Session
from endcap.loop.training.tracking import logged_models, tracked_runs
from endcap.loop.training.tracking.records import DEFAULT_EXPERIMENT, STATUSES, Dataset
from endcap.storage.tracks import Point, Track, TrackBatch

_STATUS_NUMBERS = dict(zip(("1", "2", "3", "4", "5"), STATUSES, strict=True))
_MOST_RUNS = 50_000
_MOST_POINTS = 25_000
_MOST_HISTORIES = 100


class CreateRun(Request, frozen=True):
    experiment_id: str = DEFAULT_EXPERIMENT
    user_id: str = ""
    run_name: str = ""
    start_time: int | None = None
    tags: tuple[Pair, ...] = ()


class OneRun(Request, frozen=True):
    run_id: str = ""
    run_uuid: str = ""  # what older clients call it

    @property
    def id(self) -> str:
        return require_told(self.run_id or self.run_uuid, "run_id")


class UpdateRun(OneRun, frozen=True):
    status: str | int | None = None
    end_time: int | None = None
    run_name: str | None = None


class LogMetric(OneRun, frozen=True):
    key: str = ""
    value: float = 0.0
    timestamp: int = 0
    step: int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class LogPair(OneRun, frozen=True):
    key: str = ""
    value: str = ""


class Metric(Request, frozen=True):
    key: str
    value: float
    timestamp: int = 0
    step: int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class LogBatch(OneRun, frozen=True):
    metrics: tuple[Metric, ...] = ()
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class SearchRuns(Request, frozen=True):
    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    run_view_type: str | int = "ACTIVE_ONLY"
    max_results: int = 1000
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class MetricHistory(OneRun, frozen=True):
    metric_key: str = ""
    max_results: int | None = None
    page_token: str = ""


class ManyHistories(Request, frozen=True):
    run_ids: tuple[str, ...] = ()
    metric_key: str = ""
    start_step: int | None = None
    end_step: int | None = None
    max_results: int = 2500


class DatasetTold(Request, frozen=True):
    name: str
    digest: str = ""
    source_type: str = ""
    source: str = ""
    schema: str = ""
    profile: str = ""


class DatasetInput(Request, frozen=True):
    dataset: DatasetTold
    tags: tuple[Pair, ...] = ()


class ModelTold(Request, frozen=True):
    model_id: str
    step: int = 0


class LogInputs(OneRun, frozen=True):
    datasets: tuple[DatasetInput, ...] = ()
    models: tuple[ModelTold, ...] = ()


class LogOutputs(OneRun, frozen=True):
    models: tuple[ModelTold, ...] = ()


class LogModel(OneRun, frozen=True):
    model_json: str = ""


@call("POST", "/runs/create", verb="track log", permission=Permission.EDIT)
def create_run(session: Session, asked: CreateRun) -> dict[str, Any]:
    """Starts a run; without a name it gets one."""
    tags = {tag.key: tag.value for tag in asked.tags}
    name = asked.run_name or tags.get(NAME_TAG, "")
    told = {**tags, NAME_TAG: name} if name else tags
    started_us = None if asked.start_time is None else asked.start_time * 1000
    run = tracked_runs.start_run(session, experiment=asked.experiment_id, name=name, started_us=started_us, tags=told)
    return {"run": tell_run(run if name else _rename(session, run, run.name))}


@call("GET", "/runs/get", verb="track show", permission=Permission.READ, brief=True)
def get_run(session: Session, asked: OneRun) -> dict[str, Any]:
    """A run with its parameters, tags, the last point of each metric, datasets and logged models."""
    run = tracked_runs.get_run_track(session, asked.id)
    return {"run": tell_run(run, datasets=tracked_runs.list_datasets(session, run.id), outputs=logged_models.list_of_run(session, run.id))}


@call("POST", "/runs/update", verb="track log", permission=Permission.EDIT)
def update_run(session: Session, asked: UpdateRun) -> dict[str, Any]:
    """Ends a run, or names it anew."""
    ended_us = None if asked.end_time is None else asked.end_time * 1000
    status = None if asked.status is None else _read_status(asked.status)
    run = tracked_runs.update_run(session, asked.id, status=status, ended_us=ended_us)
    return {"run_info": tell_run_info(_rename(session, run, asked.run_name) if asked.run_name else run)}


@call("POST", "/runs/delete", verb="track delete-run", permission=Permission.EDIT)
def delete_run(session: Session, asked: OneRun) -> None:
    """Marks a run as deleted; nothing is lost."""
    tracked_runs.delete_run(session, asked.id)


@call("POST", "/runs/restore", verb="track restore-run", permission=Permission.EDIT)
def restore_run(session: Session, asked: OneRun) -> None:
    """Takes the mark back."""
    tracked_runs.restore_run(session, asked.id)


@call("POST", "/runs/log-metric", verb="track log", permission=Permission.EDIT)
def log_metric(session: Session, asked: LogMetric) -> None:
    """Logs a number at a step, NaN and the infinities too."""
    point = Point(asked.key, asked.value, asked.timestamp * 1000, asked.step)
    tracked_runs.log(session, asked.id, TrackBatch(points=[point]))
    if asked.model_id:
        logged_models.log_to_models(session, {asked.model_id: [point]})


@call("POST", "/runs/log-parameter", verb="track log", permission=Permission.EDIT, conflict="INVALID_PARAMETER_VALUE")
def log_param(session: Session, asked: LogPair) -> None:
    """Logs a parameter: the same value again changes nothing, another one is refused."""
    tracked_runs.log(session, asked.id, TrackBatch(params={require_told(asked.key, "key"): asked.value}))


@call("POST", "/runs/set-tag", verb="track log", permission=Permission.EDIT)
def set_tag(session: Session, asked: LogPair) -> None:
    """Sets a tag; `mlflow.runName` renames the run."""
    tracked_runs.log(session, asked.id, _tag({require_told(asked.key, "key"): asked.value}))


@call("POST", "/runs/delete-tag", verb="track log", permission=Permission.EDIT)
def delete_tag(session: Session, asked: LogPair) -> None:
    """Takes a tag away."""
    tracked_runs.log(session, asked.id, TrackBatch(tags={require_told(asked.key, "key"): None}))


@call("POST", "/runs/log-batch", verb="track log", permission=Permission.EDIT, conflict="INVALID_PARAMETER_VALUE")
def log_batch(session: Session, asked: LogBatch) -> None:
    """Logs metrics, parameters and tags at once, all or nothing."""
    points, of_models = [], dict[str, list[Point]]()
    for metric in asked.metrics:
        points.append(point := Point(metric.key, metric.value, metric.timestamp * 1000, metric.step))
        if metric.model_id:
            of_models.setdefault(metric.model_id, []).append(point)
    params: dict[str, str] = {}
    for param in asked.params:
        if params.setdefault(param.key, param.value) != param.value:
            raise InvalidInput(f"The batch says two values of the parameter {param.key[:250]!r}.", hint="a parameter is said once")
    batch = _tag({tag.key: tag.value for tag in asked.tags})
    tracked_runs.log(session, asked.id, msgspec.structs.replace(batch, params=params, points=points))
    if of_models:
        logged_models.log_to_models(session, of_models)


@call("POST", "/runs/log-inputs", verb="track log", permission=Permission.EDIT)
def log_inputs(session: Session, asked: LogInputs) -> None:
    """Keeps which datasets a run used, with source, digest, schema and profile."""
    datasets = [_read_dataset(session, asked.id, told) for told in asked.datasets]
    if datasets:
        tracked_runs.log_datasets(session, asked.id, datasets)


@call("POST", "/runs/outputs", verb="track log", permission=Permission.EDIT)
def log_outputs(session: Session, asked: LogOutputs) -> None:
    """Checks that the logged models that a run says it made stand; they name their run themselves."""
    tracked_runs.get_run_track(session, asked.id)
    for told in asked.models:
        logged_models.get_logged_model(session, told.model_id)


@call("POST", "/runs/log-model", verb="track log", permission=Permission.EDIT)
def log_model(session: Session, asked: LogModel) -> None:
    """What clients of 2.x tell of a model among a run's files; the `MLmodel` file says it all, so it is checked and passed over."""
    tracked_runs.get_run_track(session, asked.id)
    try:
        msgspec.json.decode(asked.model_json, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"model_json does not read as a JSON object: {error}.") from error


@call("POST", "/runs/search", verb="track search", permission=Permission.READ)
def search_runs(session: Session, asked: SearchRuns) -> dict[str, Any]:
    """Runs that meet a filter, in order, page by page."""
    skip, size = read_token(asked.page_token), read_page(asked.max_results, most=_MOST_RUNS)
    found = tracked_runs.search_runs(
        session,
        experiments=asked.experiment_ids,
        filter=asked.filter,
        order=asked.order_by,
        stage=read_view(asked.run_view_type),
        limit=size + 1,
        skip=skip,
    )
    page, token = cut_page(found, skip=skip, size=size)
    return {"runs": [tell_run(run) for run in page], **token}


@call("GET", "/metrics/get-history", verb="track metric", permission=Permission.READ)
def read_history(session: Session, asked: MetricHistory) -> dict[str, Any]:
    """All points of a metric, page by page where `max_results` says so."""
    skip = read_token(asked.page_token)
    name = require_told(asked.metric_key, "metric_key")
    size = None if asked.max_results is None else read_page(asked.max_results)
    found = tracked_runs.read_metric(session, asked.id, name, limit=None if size is None else size + 1, skip=skip)
    page, token = (found, {}) if size is None else cut_page(found, skip=skip, size=size)
    return {"metrics": [tell_point(point) for point in page], **token}


@call("GET", "/metrics/get-history-bulk-interval", verb="track metric", permission=Permission.READ)
def read_histories(session: Session, asked: ManyHistories) -> dict[str, Any]:
    """The points of a metric in several runs, between two steps; at most `max_results` a run, evenly over the steps."""
    told = []
    size = read_page(asked.max_results, most=_MOST_POINTS)
    if len(asked.run_ids) > _MOST_HISTORIES:
        raise InvalidInput(f"The metric of {len(asked.run_ids):,} runs is asked for; the most are {_MOST_HISTORIES}.")
    for run in asked.run_ids:
        points = [
            point
            for point in tracked_runs.read_metric(session, run, require_told(asked.metric_key, "metric_key"))
            if (asked.start_step is None or point.step >= asked.start_step) and (asked.end_step is None or point.step <= asked.end_step)
        ]
        every = -(-len(points) // size) or 1
        told += [{**tell_point(point), "run_id": run} for point in points[::every]]
    return {"metrics": told}


def _rename(session: Session, run: Track, name: str) -> Track:
    """The run under a name, which stands in a tag too, where clients look for it."""
    tracked_runs.log(session, run.id, _tag({NAME_TAG: name}))
    return msgspec.structs.replace(run, name=name, tags={**run.tags, NAME_TAG: name})


def _tag(tags: dict[str, str]) -> TrackBatch:
    return TrackBatch(tags=tags, name=tags.get(NAME_TAG) or None)


def _read_status(status: str | int) -> str:
    name = _STATUS_NUMBERS.get(str(status), str(status).lower())
    if name not in STATUSES:
        raise InvalidInput(f"{str(status)[:50]!r} is no status of a run. Offered: {[known.upper() for known in STATUSES]}.")
    return name


def _read_dataset(session: Session, run: str, told: DatasetInput) -> Dataset:
    context = next((tag.value for tag in told.tags if tag.key == "mlflow.data.context"), "")
    given = {name: getattr(told.dataset, name) for name in ("name", "digest", "source", "source_type", "schema", "profile")}
    return Dataset(id=session.new_id("dataset"), run=run, context=context, **given)
