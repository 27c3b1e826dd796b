"""Logged models: models that runs logged, before anybody registers them. Each is a track in a space of its own, its files under ``logged-model/ID``.

A track's ``started_us`` is when the model was made, its ``ended_us`` when it was last changed; the run that made it and the type its maker gives it
are tags of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from endcap.core.clock import draw_hex
from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.rights.veils import require_track
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.experiments import require_active_experiment
from endcap.loop.training.tracking.names import MOST_PARAM, MOST_TAG, require_batch_limits, require_pairs, require_title
from endcap.loop.training.tracking.records import DEFAULT_EXPERIMENT, LOGGED_MODEL_SPACE, LoggedModel
from endcap.loop.training.tracking.searching import Attribute, Vocabulary, parse_filter, parse_order, require_found
from endcap.loop.training.tracking.tracked_runs import count_us, cut_to_ms, get_run_track
from endcap.storage.tracks import Condition, Point, Stage, Track, TrackBatch

Status = Literal["pending", "ready", "failed"]
_STATUSES: tuple[Status, ...] = ("pending", "ready", "failed")
_LOG, _SHOW = "track log", "track show"
_OURS = "endcap."
_RUN, _KIND = f"{_OURS}run", f"{_OURS}kind"
_CREATED, _CHANGED = Attribute("started_us", reading="instant"), Attribute("ended_us", reading="instant")
_WORDS = Vocabulary(
    "logged model",
    {
        "name": Attribute("name"),
        **dict.fromkeys(("model_id", "id"), Attribute("id")),
        "model_type": Attribute(_KIND, "tag"),
        "source_run_id": Attribute(_RUN, "tag"),
        "status": Attribute("status", reading="lower"),
        "experiment_id": Attribute("group"),
        **dict.fromkeys(("creation_timestamp", "creation_time"), _CREATED),
        **dict.fromkeys(("last_updated_timestamp", "last_update_time"), _CHANGED),
    },
)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


def create_logged_model(
    session: Session,
    *,
    name: str = "",
    experiment: str = DEFAULT_EXPERIMENT,
    run: str = "",
    kind: str = "",
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> LoggedModel:
    """Begin a logged model, which is ``pending`` until its files are here. ``name`` empty: it gets one; ``run`` empty: no run made it.

    Raises NotFound without the experiment or the run, Conflict where the experiment is deleted.
    """
    session.require(Permission.EDIT, verb=_LOG)
    require_active_experiment(session, experiment)
    if run:
        get_run_track(session, run)
    identity = f"m-{draw_hex(session.new_id, 'm')}"
    told = _require_tags(tags or {})
    require_pairs(params or {}, what="parameter", most=MOST_PARAM)
    ours = {_RUN: run, _KIND: kind[:MOST_TAG]}
    at = cut_to_ms(count_us(session.now()))
    track = Track(
        id=identity,
        group=experiment,
        name=require_title(name or f"model-{identity[-8:]}", what="logged model"),
        actor=session.actor.name,
        status="pending",
        started_us=at,
        ended_us=at,
        params=dict(params or {}),
        tags={**told, **{key: value for key, value in ours.items() if value}},
    )
    session.tracks.create(_space(session), track)
    return _to_model(track)


def finalize_logged_model(session: Session, model: str, *, status: Status = "ready") -> LoggedModel:
    """Say that a logged model's files are all here (``ready``) or will not come (``failed``). Raises NotFound."""
    if status not in _STATUSES:
        raise InvalidInput(f"{str(status)[:50]!r} is no status of a logged model. Statuses: {list(_STATUSES)}.")
    return _write(session, model, TrackBatch(status=status))


def get_logged_model(session: Session, model: str) -> LoggedModel:
    """A logged model by id, deleted ones too. Raises NotFound."""
    session.require(Permission.READ, verb=_SHOW)
    (found,) = session.tracks.read(_space(session), [model])
    if found is None:
        raise NotFound(f"There is no logged model {model[:100]!r} in workspace '{session.workspace}'.")
    return _to_model(found)


def search_logged_models(
    session: Session,
    *,
    experiments: Sequence[str] | None = None,
    filter: str = "",  # noqa: A002 - the word of MLflow's clients
    order: Sequence[str] = (),
    stage: Stage | None = "active",
    limit: int = 100,
    skip: int = 0,
) -> list[LoggedModel]:
    """Logged models of experiments (ids; None: all) that meet a filter, in order, the last made first where nothing is said.

    Attributes are name, model_id, model_type, source_run_id, status, experiment_id, creation_timestamp and last_updated_timestamp.
    """
    session.require(Permission.READ, verb="track search")
    conditions, orders = parse_filter(filter, _WORDS).conditions, parse_order(order, _WORDS)
    found = session.tracks.search(
        _space(session), groups=experiments, conditions=conditions, order=orders, stage=stage, limit=require_found(limit), skip=skip
    )
    return [_to_model(track) for track in found]


def tag_logged_model(session: Session, model: str, tags: Mapping[str, str | None]) -> LoggedModel:
    """Set tags of a logged model; None takes one away. Raises NotFound."""
    _require_tags({name: value or "" for name, value in tags.items()})
    return _write(session, model, TrackBatch(tags=tags))


def log_model_params(session: Session, model: str, params: Mapping[str, str]) -> LoggedModel:
    """Add parameters to a logged model. Raises NotFound, Conflict for one that was logged with another value."""
    return _write(session, model, TrackBatch(params=params))


def delete_logged_model(session: Session, model: str) -> LoggedModel:
    """Mark a logged model as deleted: it is not listed and takes no more. Nothing is lost. Raises NotFound."""
    session.require(Permission.EDIT, verb=_LOG)  # before the change begins: a refusal is written in a transaction of its own
    (standing,) = session.tracks.read(_space(session), [model])
    if standing is not None:
        require_track(session, standing, verb=_LOG)
    with session.change("track delete-model", thing=f"logged-model/{model}"):
        return _write(session, model, TrackBatch(stage="deleted"))


def log_to_models(session: Session, points: Mapping[str, Sequence[Point]]) -> None:
    """Add points to logged models, by their ids: what a run measured of the models it made. Raises NotFound."""
    for model, some in points.items():
        _write(session, model, TrackBatch(points=some))


def list_of_run(session: Session, run: str) -> list[str]:
    """The ids of the logged models that a run made, the last one first."""
    session.require(Permission.READ, verb=_SHOW)
    made_by = Condition("tag", _RUN, "=", run)
    return [track.id for track in session.tracks.search(_space(session), conditions=[made_by], limit=1000)]


def _write(session: Session, model: str, batch: TrackBatch) -> LoggedModel:
    session.require(Permission.EDIT, verb=_LOG)
    require_batch_limits(batch)
    changed = msgspec.structs.replace(batch, ended_us=cut_to_ms(count_us(session.now())))
    session.tracks.write(_space(session), model, changed)
    return get_logged_model(session, model)


def _require_tags(tags: Mapping[str, str]) -> dict[str, str]:
    require_pairs(tags, what="tag", most=MOST_TAG)
    ours = [name for name in tags if name in (_RUN, _KIND)]
    if ours:
        raise InvalidInput(f"The tag '{ours[0]}' is Endcap's own.", hint="take another name")
    return dict(tags)


def _space(session: Session) -> str:
    return LOGGED_MODEL_SPACE.format(workspace=session.workspace)


def _to_model(track: Track) -> LoggedModel:
    return LoggedModel(
        id=track.id,
        experiment=track.group,
        run=track.tags.get(_RUN, ""),
        name=track.name,
        kind=track.tags.get(_KIND, ""),
        status=track.status,  # type: ignore[arg-type]  # only these are written here
        created_at=_BEGINNING + timedelta(microseconds=track.started_us),
        created_by=track.actor,
        changed_at=_BEGINNING + timedelta(microseconds=track.ended_us or 0),
        params=track.params,
        tags={name: value for name, value in track.tags.items() if name not in (_RUN, _KIND)},
        metrics=track.metrics,
        stage=track.stage,
    )
