"""Calls about logged models of 3.x: models that a run logged, before anybody registers them."""

from __future__ import annotations

from typing import Any

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.answers import LOGGED_STATUSES, locate, tell_logged_model
from endcap.faces.http.mlflow.artefacts import Place, list_place, tell_file
from endcap.faces.http.mlflow.protocol import Pair, Request, call, cut_page, read_page, read_token
from endcap.governance.sessions import Session
from endcap.loop.training.tracking import logged_models
from endcap.loop.training.tracking.paths import require_path
from endcap.loop.training.tracking.records import DEFAULT_EXPERIMENT

_STATUSES: dict[str, logged_models.Status] = {
    **{name: status for status, name in LOGGED_STATUSES.items()},
    "1": "pending",
    "2": "ready",
    "3": "failed",
}


class CreateLoggedModel(Request, frozen=True):
    experiment_id: str = DEFAULT_EXPERIMENT
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class OneLoggedModel(Request, frozen=True):
    model_id: str
    allow_deleted: bool = False


class FinalizeLoggedModel(Request, frozen=True):
    model_id: str
    status: str | int = "LOGGED_MODEL_READY"


class OrderBy(Request, frozen=True):
    field_name: str
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class SearchLoggedModels(Request, frozen=True):
    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    datasets: tuple[dict[str, Any], ...] = ()
    max_results: int = 100
    order_by: tuple[OrderBy, ...] = ()
    page_token: str = ""


class TagLoggedModel(Request, frozen=True):
    model_id: str
    tags: tuple[Pair, ...] = ()


class UntagLoggedModel(Request, frozen=True):
    model_id: str
    tag_key: str


class ParamsOfLoggedModel(Request, frozen=True):
    model_id: str
    params: tuple[Pair, ...] = ()


class FilesOfLoggedModel(Request, frozen=True):
    model_id: str
    artifact_directory_path: str = ""
    page_token: str = ""


@call("POST", "/logged-models", verb="track log", permission=Permission.EDIT)
def create_logged_model(session: Session, asked: CreateLoggedModel) -> dict[str, Any]:
    """Makes a logged model, to which files are then sent."""
    made = logged_models.create_logged_model(
        session,
        experiment=asked.experiment_id,
        run=asked.source_run_id,
        name=asked.name,
        kind=asked.model_type,
        params={param.key: param.value for param in asked.params},
        tags={tag.key: tag.value for tag in asked.tags},
    )
    return {"model": tell_logged_model(made)}


@call("POST", "/logged-models/search", verb="track search", permission=Permission.READ)
def search_logged_models(session: Session, asked: SearchLoggedModels) -> dict[str, Any]:
    """Logged models that meet a filter, in order, page by page."""
    skip, size = read_token(asked.page_token), read_page(asked.max_results)
    if asked.datasets or any(order.dataset_name or order.dataset_digest for order in asked.order_by):
        raise InvalidInput("Logged models are not found by the datasets of their metrics.", hint="leave datasets out; filter by the metric's name")
    found = logged_models.search_logged_models(
        session,
        experiments=asked.experiment_ids,
        filter=asked.filter,
        order=[f"{order.field_name} {'ASC' if order.ascending else 'DESC'}" for order in asked.order_by],
        limit=size + 1,
        skip=skip,
    )
    page, token = cut_page(found, skip=skip, size=size)
    return {"models": [tell_logged_model(model) for model in page], **token}


@call("GET", "/logged-models/{model_id}", verb="track show", permission=Permission.READ)
def get_logged_model(session: Session, asked: OneLoggedModel) -> dict[str, Any]:
    """A logged model with its parameters, tags and metrics; a deleted one only where `allow_deleted` says so."""
    found = logged_models.get_logged_model(session, asked.model_id)
    if found.stage == "deleted" and not asked.allow_deleted:
        raise NotFound(f"The logged model '{found.id}' is deleted.", hint="ask with allow_deleted=true")
    return {"model": tell_logged_model(found)}


@call("PATCH", "/logged-models/{model_id}", verb="track log", permission=Permission.EDIT)
def finalize_logged_model(session: Session, asked: FinalizeLoggedModel) -> dict[str, Any]:
    """Says that all files of a logged model are there, or that they could not be sent."""
    status = _STATUSES.get(str(asked.status))
    if status is None:
        raise InvalidInput(f"{str(asked.status)[:50]!r} is no status of a logged model. Offered: {list(LOGGED_STATUSES.values())}.")
    return {"model": tell_logged_model(logged_models.finalize_logged_model(session, asked.model_id, status=status))}


@call("DELETE", "/logged-models/{model_id}", verb="track log", permission=Permission.EDIT)
def delete_logged_model(session: Session, asked: OneLoggedModel) -> None:
    """Marks a logged model as deleted."""
    logged_models.delete_logged_model(session, asked.model_id)


@call("PATCH", "/logged-models/{model_id}/tags", verb="track log", permission=Permission.EDIT)
def tag_logged_model(session: Session, asked: TagLoggedModel) -> dict[str, Any]:
    """Sets tags of a logged model."""
    tagged = logged_models.tag_logged_model(session, asked.model_id, {tag.key: tag.value for tag in asked.tags})
    return {"model": tell_logged_model(tagged)}


@call("DELETE", "/logged-models/{model_id}/tags/{tag_key:path}", verb="track log", permission=Permission.EDIT)
def untag_logged_model(session: Session, asked: UntagLoggedModel) -> None:
    """Takes a tag of a logged model away."""
    logged_models.tag_logged_model(session, asked.model_id, {asked.tag_key: None})


@call("POST", "/logged-models/{model_id}/params", verb="track log", permission=Permission.EDIT)
def add_params(session: Session, asked: ParamsOfLoggedModel) -> None:
    """Adds parameters to a logged model."""
    logged_models.log_model_params(session, asked.model_id, {param.key: param.value for param in asked.params})


@call("GET", "/logged-models/{model_id}/artifacts/directories", verb="track files", permission=Permission.READ)
def list_model_files(session: Session, asked: FilesOfLoggedModel) -> dict[str, Any]:
    """The files and folders of a logged model directly under a path."""
    path = asked.artifact_directory_path
    place = Place(f"logged-model/{asked.model_id}", require_path(path) if path else "")
    return {"root_uri": locate(place.owner), "files": [tell_file(file.path, file) for file in list_place(session, place)]}
