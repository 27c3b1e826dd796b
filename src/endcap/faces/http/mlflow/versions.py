"""Calls about versions of registered models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.http.mlflow.answers import count_ms, locate, tell_pairs
from endcap.faces.http.mlflow.lent import reach_model, tell_name
from endcap.faces.http.mlflow.meanings import tell_stage
from endcap.faces.http.mlflow.protocol import Pair, Request, call, cut_page, read_page, read_token
from endcap.faces.http.mlflow.refused import drop_prompts, refuse_prompts
from endcap.faces.http.mlflow.sources import parse_source
from endcap.governance.rights.shares import enter_models
from endcap.governance.sessions import Session
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry import naming
from endcap.loop.registry.records import VERSIONS, ModelWords, Version, VersionWords
from endcap.loop.registry.versions import get_model, get_version
from endcap.loop.training.tracking.searching import Attribute, Vocabulary, parse_filter, parse_order
from endcap.storage.track_search import meets, sort_tracks
from endcap.storage.tracks import Condition, Order, Point, Track

_NUMBER = re.compile(r"[vV]?0*([1-9][0-9]{0,8})")
_NUMBER_NAME = "version_number"
_STARTED, _ENDED = Attribute("started_us", reading="instant"), Attribute("ended_us", reading="instant")
WORDS = Vocabulary(
    "version",
    {
        "name": Attribute("group"),
        "version_number": Attribute(_NUMBER_NAME, family="metric", reading="number"),
        "run_id": Attribute("actor"),
        "source_path": Attribute("status"),
        "creation_timestamp": _STARTED,
        "last_updated_timestamp": _ENDED,
    },
    frozenset({"tag"}),
)
"""What versions are found by. Each is looked at as a track whose group is the model, whose actor the run, and whose status the source."""
_NEWEST_FIRST = [Order("attribute", "started_us", descending=True), Order("metric", _NUMBER_NAME, descending=True)]


class CreateVersion(Request, frozen=True):
    name: str
    source: str
    run_id: str = ""
    model_id: str = ""
    run_link: str = ""
    description: str = ""
    tags: tuple[Pair, ...] = ()


class OneVersion(Request, frozen=True):
    name: str
    version: str


class DescribeVersion(OneVersion, frozen=True):
    description: str = ""


class TagVersion(OneVersion, frozen=True):
    key: str
    value: str = ""


class SearchVersions(Request, frozen=True):
    filter: str = ""
    max_results: int = 10_000
    order_by: tuple[str, ...] = ()
    page_token: str = ""


@call("POST", "/model-versions/create", verb="register-run", permission=Permission.EDIT)
def create_version(session: Session, asked: CreateVersion) -> dict[str, Any]:
    """Makes a version of a model that a run logged: LightGBM, scikit-learn by skops, ONNX. Anything pickled is refused, with the way to log it."""
    refuse_prompts(asked.tags)
    source = parse_source(asked.source, run=asked.run_id, logged_model=asked.model_id)
    tags = {tag.key: tag.value for tag in asked.tags}
    made = register_run(session, source.owner, source.path, model=asked.name, description=asked.description, tags=tags)
    return {"model_version": tell_version(session, made)}


@call("GET", "/model-versions/get", verb="versions", permission=Permission.READ, brief=True)
def read_version(session: Session, asked: OneVersion) -> dict[str, Any]:
    """A version of a model."""
    where, model = reach_model(session, asked.name)
    return {"model_version": tell_version(where, find_version(where, model, asked.version))}


@call("GET", "/model-versions/get-download-uri", verb="versions", permission=Permission.READ, brief=True)
def locate_version(session: Session, asked: OneVersion) -> dict[str, Any]:
    """Where a version's files are fetched: those that were judged, whatever has become of its run."""
    where, model = reach_model(session, asked.name)
    return {"artifact_uri": locate(f"version/{tell_name(where, find_version(where, model, asked.version).id)}")}


@call("PATCH", "/model-versions/update", verb="describe-version", permission=Permission.EDIT)
def describe_version(session: Session, asked: DescribeVersion) -> dict[str, Any]:
    """Describes a version."""
    found = find_version(session, asked.name, asked.version)
    naming.describe_version(session, found.id, asked.description)
    return {"model_version": tell_version(session, found)}


@call("POST", "/model-versions/set-tag", verb="tag-version", permission=Permission.EDIT)
def tag_version(session: Session, asked: TagVersion) -> None:
    """Sets a tag of a version."""
    naming.tag_version(session, find_version(session, asked.name, asked.version).id, asked.key, asked.value)


@call("DELETE", "/model-versions/delete-tag", verb="tag-version", permission=Permission.EDIT)
def untag_version(session: Session, asked: TagVersion) -> None:
    """Takes a tag of a version away."""
    naming.tag_version(session, find_version(session, asked.name, asked.version).id, asked.key, None)


@call("GET", "/model-versions/search", verb="versions", permission=Permission.READ)
def search_versions(session: Session, asked: SearchVersions) -> dict[str, Any]:
    """Versions that meet a filter, in order (the newest first where none is said), page by page; any filter but `name = '...'` looks at all."""
    skip, size = read_token(asked.page_token), read_page(asked.max_results)
    conditions, order = drop_prompts(parse_filter(asked.filter, WORDS).conditions), parse_order(asked.order_by, WORDS)
    name, conditions = _narrow(conditions)
    most = None if conditions or order else skip + size + 1
    seen: dict[str, tuple[Session, Version]] = {}
    tracks: list[Track] = []
    places = _find_places(session, name)
    for where, model in places:
        only = None if model is None else {"model": model}
        for version in where.records.find(VERSIONS, workspace=where.workspace, where=only, newest_first=True, limit=most):
            track = _to_track(where, version, words=asks_words([*conditions, *order]))
            if all(meets(track, condition) for condition in conditions):
                seen[track.id] = where, version
                tracks.append(track)
    if order or len(places) > 1:
        sort_tracks(tracks, [*order, *_NEWEST_FIRST])
    page, token = cut_page(tracks[skip : skip + size + 1], skip=skip, size=size)
    models = {track.group: seen[track.id] for track in page}
    names = {group: Names.read(where, version.model) for group, (where, version) in models.items()}
    return {"model_versions": [names[track.group].tell(*seen[track.id]) for track in page], **token}


def _find_places(session: Session, name: str | None) -> list[tuple[Session, str | None]]:
    """Where versions are looked for, and of which model: those of a name, or all, and then those too that other workspaces share."""
    return [(session, None), *enter_models(session)] if name is None else [reach_model(session, name)]


def asks_words(asked: Sequence[Condition | Order]) -> bool:
    """Whether a search asks for what may change about models and versions, which is kept apart from them: tags, and when they last changed."""
    return any(said.family == "tag" or said.name == _ENDED.name for said in asked)


class Names(NamedTuple):
    """By which names the versions of a model go: those that releases give, and those that were given."""

    ids: Mapping[str, str]

    @classmethod
    def read(cls, session: Session, model: str, *, words: ModelWords | None = None) -> Names:
        """The names as they stand; see ``list_names``."""
        return cls(naming.list_names(session, model, words=words))

    def tell(self, session: Session, version: Version) -> dict[str, Any]:
        """A version in MLflow's shape; one that another workspace lends says nothing of its run, which is not lent. Cost: a record."""
        words = naming.read_version_words(session, version.id, model=version.model)
        source, lent = tell_source(session, version), session.only is not None
        owner, _, id_ = version.source.partition("/")
        logged = id_.partition("/")[0] if owner == "logged-model" and not lent else ""
        return {
            "name": tell_name(session, version.model),
            "version": str(version.n),
            "creation_timestamp": count_ms(version.created_at),
            "last_updated_timestamp": count_ms(words.changed_at or version.created_at),
            "user_id": version.created_by,
            "current_stage": tell_stage(self.ids, version.id),
            "description": words.description,
            "source": source,
            "run_id": "" if lent else version.run,
            **({"model_id": logged} if logged else {}),
            "status": "READY",
            "tags": tell_pairs(words.tags),
            "aliases": sorted(alias for alias, id_ in self.ids.items() if id_ == version.id),
        }


def find_version(session: Session, model: str, number: str) -> Version:
    """A version by its model and number. Raises NotFound."""
    said = _NUMBER.fullmatch(number.strip())
    if said is None:
        raise InvalidInput(f"{number[:50]!r} is no number of a version.", hint="versions are numbered 1, 2, 3 ...")
    get_model(session, model)
    return get_version(session, f"{model}-v{said[1]}")


def tell_version(session: Session, version: Version) -> dict[str, Any]:
    """A version in MLflow's shape, looked up."""
    return Names.read(session, version.model).tell(session, version)


def tell_source(session: Session, version: Version) -> str:
    """What a version was made of, as clients say it; its own files where nobody logged it, and where it is lent."""
    if session.only is not None:
        return locate(f"version/{tell_name(session, version.id)}")
    kind, _, rest = version.source.partition("/")
    if kind == "logged-model" and "/" not in rest:
        return f"models:/{rest}"
    return locate(version.source or f"version/{version.id}")


def _narrow(conditions: Sequence[Condition]) -> tuple[str | None, list[Condition]]:
    """The name of the model where the filter says it, by which records are found; and the conditions that are left to be looked at."""
    names = [said for said in conditions if (said.family, said.name, said.operator) == ("attribute", "group", "=")]
    if not names:
        return None, list(conditions)
    return str(names[0].value), [said for said in conditions if said is not names[0]]


def _to_track(session: Session, version: Version, *, words: bool) -> Track:
    """A version as searches see it, with its ``words`` where they are asked for."""
    said = naming.read_version_words(session, version.id, model=version.model) if words else VersionWords(version.id, version.model)
    return Track(
        id=tell_name(session, version.id),
        group=tell_name(session, version.model),
        actor="" if session.only is not None else version.run,
        status=tell_source(session, version),
        started_us=count_ms(version.created_at) * 1000,
        ended_us=count_ms(said.changed_at or version.created_at) * 1000,
        tags=said.tags,
        metrics={_NUMBER_NAME: Point(_NUMBER_NAME, version.n, 0)},
    )
