"""Records of the rooms in MLflow's shapes. Instants are milliseconds of UTC since 1970 there, and NaN and the infinities are words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from endcap.loop.training.tracking.logged_models import Status
from endcap.loop.training.tracking.records import Dataset, Experiment, LoggedModel
from endcap.storage.tracks import Point, Track

SCHEME = "mlflow-artifacts:/"
"""Artefacts are read and written through the service; the client puts the tracking address in the place of this."""
USER_TAG = "mlflow.user"
NAME_TAG = "mlflow.runName"


def locate(owner: str, path: str = "") -> str:
    """Where the client finds the files of an owner (``run/ID``, ``logged-model/ID``, ``version/ID``).

    >>> locate("run/17", "model")
    'mlflow-artifacts:/run/17/model'
    """
    return f"{SCHEME}{owner}/{path}".rstrip("/")


def count_ms(at: datetime | None) -> int:
    return 0 if at is None else math.floor(at.timestamp() * 1000)


def tell_number(value: float) -> float | str:
    """A number as protobuf writes it in JSON.

    >>> tell_number(0.5), tell_number(float("-inf"))
    (0.5, '-Infinity')
    """
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def tell_pairs(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def tell_experiment(experiment: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": experiment.id,
        "name": experiment.name,
        "artifact_location": locate(f"experiment/{experiment.id}"),
        "lifecycle_stage": experiment.stage,
        "creation_time": count_ms(experiment.created_at),
        "last_update_time": count_ms(experiment.changed_at),
        "tags": tell_pairs(experiment.tags),
    }


def tell_point(point: Point) -> dict[str, Any]:
    return {"key": point.name, "value": tell_number(point.value), "timestamp": point.at_us // 1000, "step": point.step}


def tell_run_info(track: Track) -> dict[str, Any]:
    info: dict[str, Any] = {
        "run_id": track.id,
        "run_uuid": track.id,
        "run_name": track.name,
        "experiment_id": track.group,
        "user_id": track.tags.get(USER_TAG, track.actor),
        "status": track.status.upper(),
        "start_time": track.started_us // 1000,
        "artifact_uri": locate(f"run/{track.id}"),
        "lifecycle_stage": track.stage,
    }
    if track.ended_us is not None:
        info["end_time"] = track.ended_us // 1000
    return info


def tell_run(track: Track, *, datasets: Iterable[Dataset] = (), inputs: Iterable[str] = (), outputs: Iterable[str] = ()) -> dict[str, Any]:
    """A run. ``inputs`` and ``outputs`` are the ids of the logged models that it used and made."""
    return {
        "info": tell_run_info(track),
        "data": {
            "metrics": [tell_point(point) for point in track.metrics.values()],
            "params": tell_pairs(track.params),
            "tags": tell_pairs(track.tags),
        },
        "inputs": {
            "dataset_inputs": [tell_dataset(dataset) for dataset in datasets],
            "model_inputs": [{"model_id": model} for model in inputs],
        },
        "outputs": {"model_outputs": [{"model_id": model, "step": 0} for model in outputs]},
    }


def tell_dataset(dataset: Dataset) -> dict[str, Any]:
    told = {name: getattr(dataset, name) for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    tags = tell_pairs({"mlflow.data.context": dataset.context}) if dataset.context else []
    return {"tags": tags, "dataset": {name: value for name, value in told.items() if value}}


LOGGED_STATUSES: dict[Status, str] = {"pending": "LOGGED_MODEL_PENDING", "ready": "LOGGED_MODEL_READY", "failed": "LOGGED_MODEL_UPLOAD_FAILED"}


def tell_logged_model(model: LoggedModel) -> dict[str, Any]:
    return {
        "info": {
            "model_id": model.id,
            "experiment_id": model.experiment,
            "name": model.name,
            "creation_timestamp_ms": count_ms(model.created_at),
            "last_updated_timestamp_ms": count_ms(model.changed_at),
            "artifact_uri": locate(f"logged-model/{model.id}"),
            "status": LOGGED_STATUSES[model.status],
            "model_type": model.kind,
            "source_run_id": model.run,
            "tags": tell_pairs(model.tags),
        },
        "data": {
            "params": tell_pairs(model.params),
            "metrics": [{**tell_point(point), "model_id": model.id, "run_id": model.run} for point in model.metrics.values()],
        },
    }
