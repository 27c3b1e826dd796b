"""Calls about registered models: those of the project too, whoever made them."""

from __future__ import annotations

from typing import Any

from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.answers import count_ms, tell_pairs
from endcap.faces.http.mlflow.lent import reach_model, tell_name
from endcap.faces.http.mlflow.meanings import STAGES
from endcap.faces.http.mlflow.protocol import Pair, Request, call, cut_page, read_page, read_token
from endcap.faces.http.mlflow.refused import drop_prompts, refuse_prompts
from endcap.faces.http.mlflow.versions import Names, asks_words
from endcap.governance.rights.shares import enter_models
from endcap.governance.sessions import Session
from endcap.loop.registry import naming
from endcap.loop.registry.records import MODELS, VERSIONS, ModelRecord, ModelWords
from endcap.loop.registry.versions import create_model, get_model, get_version
from endcap.loop.training.tracking.searching import Attribute, Vocabulary, parse_filter, parse_order
from endcap.storage.track_search import meets, sort_tracks
from endcap.storage.tracks import Order, Track

_STARTED, _ENDED = Attribute("started_us", reading="instant"), Attribute("ended_us", reading="instant")
WORDS = Vocabulary("model", {"name": Attribute("name"), "creation_timestamp": _STARTED, "last_updated_timestamp": _ENDED}, frozenset({"tag"}))


class CreateModel(Request, frozen=True):
    name: str
    tags: tuple[Pair, ...] = ()
    description: str = ""


class OneModel(Request, frozen=True):
    name: str


class DescribeModel(OneModel, frozen=True):
    description: str = ""


class TagModel(OneModel, frozen=True):
    key: str
    value: str = ""


class SearchModels(Request, frozen=True):
    filter: str = ""
    max_results: int = 100
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class LatestVersions(OneModel, frozen=True):
    stages: tuple[str, ...] = ()


@call("POST", "/registered-models/create", verb="create-model", permission=Permission.EDIT, conflict="RESOURCE_ALREADY_EXISTS")
def make_model(session: Session, asked: CreateModel) -> dict[str, Any]:
    """Makes a model of your own, with the default gate. Names are letters, digits, dots, dashes and underscores."""
    refuse_prompts(asked.tags)
    tags = naming.require_tags({tag.key: tag.value for tag in asked.tags})
    made = create_model(session, asked.name)
    if asked.description:
        naming.describe_model(session, made.name, asked.description)
    for name, value in tags.items():
        naming.tag_model(session, made.name, name, value)
    return {"registered_model": tell_model(session, made)}


@call("GET", "/registered-models/get", verb="versions", permission=Permission.READ, brief=True)
def read_model(session: Session, asked: OneModel) -> dict[str, Any]:
    """A model with its aliases, tags and newest versions."""
    where, model = reach_model(session, asked.name)
    return {"registered_model": tell_model(where, get_model(where, model))}


@call("PATCH", "/registered-models/update", verb="describe-model", permission=Permission.EDIT)
def describe_model(session: Session, asked: DescribeModel) -> dict[str, Any]:
    """Describes a model."""
    naming.describe_model(session, asked.name, asked.description)
    return {"registered_model": tell_model(session, get_model(session, asked.name))}


@call("POST", "/registered-models/set-tag", verb="tag-model", permission=Permission.EDIT)
def tag_model(session: Session, asked: TagModel) -> None:
    """Sets a tag of a model."""
    naming.tag_model(session, asked.name, asked.key, asked.value)


@call("DELETE", "/registered-models/delete-tag", verb="tag-model", permission=Permission.EDIT)
def untag_model(session: Session, asked: TagModel) -> None:
    """Takes a tag of a model away."""
    naming.tag_model(session, asked.name, asked.key, None)


@call("GET", "/registered-models/search", verb="versions", permission=Permission.READ)
def search_models(session: Session, asked: SearchModels) -> dict[str, Any]:
    """Models that meet a filter, in order (by name where none is said), page by page; those too that other workspaces share, as `WORKSPACE~NAME`."""
    skip, size = read_token(asked.page_token), read_page(asked.max_results)
    conditions, order = drop_prompts(parse_filter(asked.filter, WORDS).conditions), parse_order(asked.order_by, WORDS)
    seen: dict[str, tuple[Session, ModelRecord]] = {}
    tracks: list[Track] = []
    words = asks_words([*conditions, *order])
    for where, record in _find_models(session):
        track = _to_track(where, record, naming.read_model_words(where, record.name) if words else ModelWords(record.name))
        if all(meets(track, condition) for condition in conditions):
            seen[track.id] = where, record
            tracks.append(track)
    sort_tracks(tracks, [*order, Order("attribute", "name")])
    page, token = cut_page(tracks[skip : skip + size + 1], skip=skip, size=size)
    return {"registered_models": [tell_model(*seen[track.id]) for track in page], **token}


@call("GET", "/registered-models/get-latest-versions", verb="versions", permission=Permission.READ)
@call("POST", "/registered-models/get-latest-versions", verb="versions", permission=Permission.READ)
def read_latest(session: Session, asked: LatestVersions) -> dict[str, Any]:
    """The newest version of each stage: what answers in staging, in prod, and the newest that answers in neither."""
    where, model = reach_model(session, asked.name)
    get_model(where, model)
    wanted = [stage.strip().lower() for stage in asked.stages]
    found = _find_latest(where, model, Names.read(where, model))
    return {"model_versions": [version for version in found if not wanted or version["current_stage"].lower() in wanted]}


def tell_model(session: Session, record: ModelRecord) -> dict[str, Any]:
    """A model in MLflow's shape."""
    words = naming.read_model_words(session, record.name)
    names = Names.read(session, record.name, words=words)
    return {
        "name": tell_name(session, record.name),
        "creation_timestamp": count_ms(record.applied_at),
        "last_updated_timestamp": count_ms(words.changed_at or record.applied_at),
        "user_id": record.applied_by,
        "description": words.description,
        "latest_versions": _find_latest(session, record.name, names),
        "tags": tell_pairs(words.tags),
        "aliases": [{"alias": alias, "version": id_.rpartition("-v")[2]} for alias, id_ in sorted(names.ids.items())],
    }


def _find_latest(session: Session, model: str, names: Names) -> list[dict[str, Any]]:
    """The newest version of each stage in MLflow's shape. Cost: some records, whatever the number of versions."""
    answering = [names.ids[environment] for environment in STAGES.values() if environment in names.ids]
    newest = session.records.find(VERSIONS, workspace=session.workspace, where={"model": model}, newest_first=True, limit=len(answering) + 1)
    idle = [version for version in newest if version.id not in answering][:1]
    found = {version.id: version for version in (*idle, *(get_version(session, id_) for id_ in answering))}
    return [names.tell(session, version) for version in found.values()]


def _find_models(session: Session) -> list[tuple[Session, ModelRecord]]:
    """The models that are there, and those that other workspaces share, each with the session that reads it."""
    own = session.records.find(MODELS, workspace=session.workspace)
    lent = [(where, where.records.get(MODELS, workspace=where.workspace, id=model)) for where, model in enter_models(session)]
    return [*((session, record) for record in own), *((where, record) for where, record in lent if record is not None)]


def _to_track(session: Session, record: ModelRecord, words: ModelWords) -> Track:
    """A model as searches see it."""
    name = tell_name(session, record.name)
    started, ended = count_ms(record.applied_at) * 1000, count_ms(words.changed_at or record.applied_at) * 1000
    return Track(id=name, group="", name=name, started_us=started, ended_us=ended, tags=words.tags)
