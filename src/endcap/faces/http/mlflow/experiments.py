"""Calls about experiments."""

from __future__ import annotations

from typing import Any

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.answers import tell_experiment
from endcap.faces.http.mlflow.protocol import Pair, Request, call, cut_page, read_page, read_token, require_told
from endcap.governance.sessions import Session
from endcap.loop.training.tracking import experiments
from endcap.storage.tracks import Stage

VIEWS: dict[str, Stage | None] = {"ACTIVE_ONLY": "active", "DELETED_ONLY": "deleted", "ALL": None}
_VIEW_NUMBERS = {"1": "ACTIVE_ONLY", "2": "DELETED_ONLY", "3": "ALL"}


class CreateExperiment(Request, frozen=True):
    name: str
    artifact_location: str = ""
    tags: tuple[Pair, ...] = ()


class OneExperiment(Request, frozen=True):
    experiment_id: str


class NamedExperiment(Request, frozen=True):
    experiment_name: str


class RenameExperiment(Request, frozen=True):
    experiment_id: str
    new_name: str


class SearchExperiments(Request, frozen=True):
    max_results: int = 1000
    page_token: str = ""
    filter: str = ""
    order_by: tuple[str, ...] = ()
    view_type: str | int = "ACTIVE_ONLY"


class TagExperiment(Request, frozen=True):
    experiment_id: str
    key: str
    value: str = ""


@call("POST", "/experiments/create", verb="track create-experiment", permission=Permission.EDIT, conflict="RESOURCE_ALREADY_EXISTS")
def create_experiment(session: Session, asked: CreateExperiment) -> dict[str, Any]:
    """Makes an experiment. Its files are kept by Endcap: another `artifact_location` is refused."""
    if asked.artifact_location:
        what = f"The experiment {asked.name[:50]!r} asks for its files to be kept at {asked.artifact_location[:200]!r}; they are kept here."
        raise InvalidInput(what, hint="leave artifact_location out", refused="place")
    made = experiments.create_experiment(session, asked.name, tags={tag.key: tag.value for tag in asked.tags})
    return {"experiment_id": made.id}


@call("GET", "/experiments/get", verb="track experiments", permission=Permission.READ, brief=True)
def get_experiment(session: Session, asked: OneExperiment) -> dict[str, Any]:
    """An experiment by id; "0" is the default one."""
    return {"experiment": tell_experiment(experiments.get_experiment(session, asked.experiment_id))}


@call("GET", "/experiments/get-by-name", verb="track experiments", permission=Permission.READ, brief=True)
def find_experiment(session: Session, asked: NamedExperiment) -> dict[str, Any]:
    """An experiment by name, deleted ones too."""
    found = experiments.find_experiment(session, asked.experiment_name)
    if found is None:
        raise NotFound(f"There is no experiment named {asked.experiment_name[:200]!r}.")
    return {"experiment": tell_experiment(found)}


@call("GET", "/experiments/search", verb="track experiments", permission=Permission.READ)
@call("POST", "/experiments/search", verb="track experiments", permission=Permission.READ)
def search_experiments(session: Session, asked: SearchExperiments) -> dict[str, Any]:
    """Experiments that meet a filter, in order, page by page."""
    skip, size = read_token(asked.page_token), read_page(asked.max_results)
    found = experiments.search_experiments(
        session, filter=asked.filter, order=asked.order_by, stage=read_view(asked.view_type), limit=size + 1, skip=skip
    )
    page, token = cut_page(found, skip=skip, size=size)
    return {"experiments": [tell_experiment(experiment) for experiment in page], **token}


@call("POST", "/experiments/update", verb="track create-experiment", permission=Permission.EDIT, conflict="RESOURCE_ALREADY_EXISTS")
def rename_experiment(session: Session, asked: RenameExperiment) -> None:
    """Renames an experiment."""
    experiments.update_experiment(session, asked.experiment_id, name=require_told(asked.new_name, "new_name"))


@call("POST", "/experiments/delete", verb="track delete-experiment", permission=Permission.EDIT)
def delete_experiment(session: Session, asked: OneExperiment) -> None:
    """Marks an experiment and its runs as deleted; nothing is lost."""
    experiments.delete_experiment(session, asked.experiment_id)


@call("POST", "/experiments/restore", verb="track restore-experiment", permission=Permission.EDIT)
def restore_experiment(session: Session, asked: OneExperiment) -> None:
    """Takes the mark back."""
    experiments.restore_experiment(session, asked.experiment_id)


@call("POST", "/experiments/set-experiment-tag", verb="track create-experiment", permission=Permission.EDIT)
def tag_experiment(session: Session, asked: TagExperiment) -> None:
    """Sets a tag of an experiment."""
    experiments.tag_experiment(session, asked.experiment_id, name=asked.key, value=asked.value)


@call("POST", "/experiments/delete-experiment-tag", verb="track create-experiment", permission=Permission.EDIT)
def untag_experiment(session: Session, asked: TagExperiment) -> None:
    """Takes a tag of an experiment away."""
    experiments.tag_experiment(session, asked.experiment_id, name=asked.key, value=None)


def read_view(view: str | int) -> Stage | None:
    """The stage that a view type shows, None for both; it comes as a word or as protobuf's number."""
    name = _VIEW_NUMBERS.get(str(view), str(view) or "ACTIVE_ONLY")
    if name not in VIEWS:
        raise InvalidInput(f"{str(view)[:50]!r} is no view type. Offered: {list(VIEWS)}.")
    return VIEWS[name]
