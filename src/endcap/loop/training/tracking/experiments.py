"""Experiments: drawers for runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import Spoken, verb
from endcap.loop.training.tracking.names import MOST_TAG, require_keys, require_pairs, require_title
from endcap.loop.training.tracking.records import DEFAULT_EXPERIMENT, EXPERIMENTS, Experiment
from endcap.loop.training.tracking.searching import EXPERIMENT_WORDS, parse_filter, parse_order
from endcap.storage.ports import RecordReader, RecordTransaction, require_limit
from endcap.storage.track_search import meets, sort_tracks
from endcap.storage.tracks import Stage, Track, require_search, require_texts

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_DEFAULT = Experiment(id=DEFAULT_EXPERIMENT, name="Default", created_at=_BEGINNING, created_by="system", changed_at=_BEGINNING)
Tags = Annotated[Mapping[str, str] | Sequence[str], Spoken(Sequence[str])]


@verb("track create-experiment", permission=Permission.EDIT)
def create_experiment(session: Session, name: str, *, tags: Tags = ()) -> Experiment:
    """Make an experiment, a drawer for runs.

    ``tags`` is what it is found by: in Python a mapping, elsewhere texts such as ``team=demand``. Raises Conflict where the name is taken, also by
    an experiment that was deleted.
    """
    require_title(name, what="experiment")
    told = parse_tags(tags)
    with session.change("track create-experiment", thing=f"experiment/{name}") as change:
        _require_free(change.whole, session, name)
        newest = _keep_default(change.tx, session, reader=change.whole)
        at = session.now()
        made = Experiment(id=str(int(newest.id) + 1), name=name, created_at=at, created_by=session.actor.name, changed_at=at, tags=told)
        change.tx.append(EXPERIMENTS, workspace=session.workspace, record=made)
        change.detail.update(experiment=made.id)
    return made


def get_experiment(session: Session, id: str) -> Experiment:  # noqa: A002 - the word of the records
    """One experiment by id. Raises NotFound."""
    session.require(Permission.READ, verb="track experiments")
    found = _get(session.records, session, id)
    if found is None:
        raise NotFound(f"There is no experiment {id[:100]!r} in workspace '{session.workspace}'.", hint="list them with: endcap track experiments")
    return found


def find_experiment(session: Session, name: str) -> Experiment | None:
    """One experiment by name, deleted ones too; None when there is none."""
    session.require(Permission.READ, verb="track experiments")
    return _find(session.records, session, name)


def choose_experiment(session: Session, said: str) -> Experiment:
    """One experiment by id, or else by name. Raises NotFound with the nearest name."""
    session.require(Permission.READ, verb="track experiments")
    found = _get(session.records, session, said) or _find(session.records, session, said)
    if found is None:
        names = [e.name for e in _list(session)]
        hint = suggest(said, names) or "list them with: endcap track experiments"
        raise NotFound(f"There is no experiment {said[:100]!r} in workspace '{session.workspace}'.", hint=hint)
    return found


def open_experiment(session: Session, name: str) -> Experiment:
    """The experiment of a name, made where there is none. Raises Conflict where it is deleted."""
    found = find_experiment(session, name)
    if found is None:
        try:
            return create_experiment(session, name)
        except Conflict:
            found = find_experiment(session, name)  # somebody made it meanwhile
    if found is None:
        raise NotFound(f"There is no experiment {name[:100]!r} in workspace '{session.workspace}'.")
    return _require_active(found)


@verb("track experiments", permission=Permission.READ)
def search_experiments(
    session: Session,
    *,
    filter: str = "",  # noqa: A002 - the word of MLflow's clients
    order: Sequence[str] = (),
    stage: Annotated[Stage | None, Spoken(str)] = "active",
    limit: int = 100,
    skip: int = 0,
) -> list[Experiment]:
    """Experiments, by default the last made first.

    ``filter`` is which, in MLflow's language: ``name LIKE 'shop%' and tags.team = 'demand'``; ``order`` is by what, such as ``name DESC``;
    ``stage`` is active, deleted, or in Python None for both; ``limit`` is how many; ``skip`` is how many are passed over. Cost grows with the
    experiments of the workspace.
    """
    _require_stage(stage)
    conditions, orders = parse_filter(filter, EXPERIMENT_WORDS).conditions, parse_order(order, EXPERIMENT_WORDS)
    require_search(conditions, orders, groups=None, limit=limit, skip=skip)
    found = {e.id: e for e in _list(session) if stage is None or e.stage == stage}
    tracks = [track for e in found.values() if all(meets(track := _to_track(e), condition) for condition in conditions)] if conditions else None
    tracks = [_to_track(e) for e in found.values()] if tracks is None else tracks
    sort_tracks(tracks, orders)
    return [found[track.id] for track in tracks[skip : skip + (require_limit(limit) or 0)]]


def update_experiment(session: Session, id: str, *, name: str) -> Experiment:  # noqa: A002 - see get_experiment
    """Rename an experiment. Raises NotFound, and Conflict where the name is taken."""
    session.require(Permission.EDIT, verb="track create-experiment")
    require_title(name, what="experiment")
    with session.change("track rename-experiment", thing=f"experiment/{id}", detail={"name": name}) as change:
        standing = _require_active(_read_for_change(change.tx, session, id))
        if standing.name != name:
            _require_free(change.whole, session, name)
        return _put(change.tx, session, msgspec.structs.replace(standing, name=name))


@verb("track delete-experiment", permission=Permission.EDIT)
def delete_experiment(session: Session, experiment: str) -> Experiment:
    """Mark an experiment as deleted, by id or name: its runs are not listed and it takes no more, until it is restored. Nothing is lost."""
    return _mark(session, experiment, "deleted", verb_name="track delete-experiment")


@verb("track restore-experiment", permission=Permission.EDIT)
def restore_experiment(session: Session, experiment: str) -> Experiment:
    """Bring a deleted experiment back with its runs, by id or name."""
    return _mark(session, experiment, "active", verb_name="track restore-experiment")


def tag_experiment(session: Session, id: str, *, name: str, value: str | None) -> Experiment:  # noqa: A002 - see get_experiment
    """Set a tag of an experiment; None takes it away. Raises NotFound."""
    session.require(Permission.EDIT, verb="track create-experiment")
    require_keys([name], what="tag")
    if value is not None:
        require_pairs({name: value}, what="tag", most=MOST_TAG)
        require_texts([value])
    get_experiment(session, id)
    require_right(session, f"experiment/{id}", Permission.EDIT, verb="track tag-experiment")
    with session.records.transact() as tx:
        standing = _require_active(_read_for_change(tx, session, id))
        tags = {key: text for key, text in {**standing.tags, name: value}.items() if text is not None}
        return _put(tx, session, msgspec.structs.replace(standing, tags=tags))


def find_deleted(session: Session) -> frozenset[str]:
    """The ids of the experiments that are deleted. Cost grows with them."""
    return frozenset(e.id for e in session.records.find(EXPERIMENTS, workspace=session.workspace, where={"stage": "deleted"}))


def parse_tags(tags: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Tags as a mapping; texts are read as ``name=value``. Raises InvalidInput for one that has no ``=``, or may not be.

    >>> parse_tags(["team=demand", "note=a=b"])
    {'team': 'demand', 'note': 'a=b'}
    """
    if not isinstance(tags, Mapping):
        wrong = next((text for text in tags if "=" not in text), None)
        if wrong is not None:
            raise InvalidInput(f"{wrong[:100]!r} is no tag.", hint="write it like team=demand")
        tags = {name.strip(): value for name, _, value in (text.partition("=") for text in tags)}
    require_pairs(tags, what="tag", most=MOST_TAG)
    require_texts(list(tags.values()))
    return dict(tags)


def _mark(session: Session, said: str, stage: Stage, *, verb_name: str) -> Experiment:
    identity = choose_experiment(session, said).id
    with session.change(verb_name, thing=f"experiment/{identity}") as change:
        standing = _read_for_change(change.tx, session, identity)
        change.detail.update(name=standing.name)
        return _put(change.tx, session, msgspec.structs.replace(standing, stage=stage))


def _require_stage(stage: object) -> None:
    if stage not in ("active", "deleted", None):
        raise InvalidInput(f"{stage!r} is no stage. Stages: ['active', 'deleted'].")


def _require_active(experiment: Experiment) -> Experiment:
    if experiment.stage == "deleted":
        hint = f"bring it back first: endcap track restore-experiment {experiment.id}"
        raise Conflict(f"The experiment '{experiment.name}' is deleted.", hint=hint)
    return experiment


def require_active_experiment(session: Session, id: str) -> Experiment:  # noqa: A002 - see get_experiment
    """The experiment by id, which takes runs. Raises NotFound, and Conflict for a deleted one."""
    return _require_active(get_experiment(session, id))


def _list(session: Session) -> list[Experiment]:
    kept = session.records.find(EXPERIMENTS, workspace=session.workspace)
    return kept or [_DEFAULT]


def _get(reader: RecordReader, session: Session, identity: str) -> Experiment | None:
    found = reader.get(EXPERIMENTS, workspace=session.workspace, id=identity)
    return found or (_DEFAULT if identity == DEFAULT_EXPERIMENT else None)


def _find(reader: RecordReader, session: Session, name: str) -> Experiment | None:
    try:
        found = reader.find(EXPERIMENTS, workspace=session.workspace, where={"name": name}, limit=1)
    except InvalidInput:
        return None  # nothing is filed under a text that is not Unicode
    if found:
        return found[0]
    default = _get(reader, session, DEFAULT_EXPERIMENT)
    return default if default is not None and default.name == name else None


def _require_free(reader: RecordReader, session: Session, name: str) -> None:
    """Names are taken by closed experiments, too."""
    standing = _find(reader, session, name)
    if standing is None:
        return
    hint = "take another name" if standing.stage == "active" else f"bring it back: endcap track restore-experiment {standing.id}"
    gone = " and is deleted" if standing.stage == "deleted" else ""
    raise Conflict(f"The experiment '{name}' stands already{gone}.", hint=hint)


def _keep_default(tx: RecordTransaction, session: Session, *, reader: RecordReader) -> Experiment:
    """The newest experiment, where there is none yet the default one, which is then kept: it is always the first."""
    newest = reader.find(EXPERIMENTS, workspace=session.workspace, newest_first=True, limit=1)
    if not newest:
        tx.append(EXPERIMENTS, workspace=session.workspace, record=_DEFAULT)
    return newest[0] if newest else _DEFAULT


def _read_for_change(tx: RecordTransaction, session: Session, identity: str) -> Experiment:
    if identity == DEFAULT_EXPERIMENT:
        _keep_default(tx, session, reader=tx)  # which nobody can close
    found = tx.get(EXPERIMENTS, workspace=session.workspace, id=identity)
    if found is None:
        raise NotFound(
            f"There is no experiment {identity[:100]!r} in workspace '{session.workspace}'.", hint="list them with: endcap track experiments"
        )
    return found


def _put(tx: RecordTransaction, session: Session, changed: Experiment) -> Experiment:
    _, version = tx.get_versioned(EXPERIMENTS, workspace=session.workspace, id=changed.id) or (None, 0)
    kept = msgspec.structs.replace(changed, changed_at=session.now())
    tx.put(EXPERIMENTS, workspace=session.workspace, record=kept, expected_version=version)
    return kept


def _to_track(experiment: Experiment) -> Track:
    """An experiment as searches see it."""
    started, ended = (round(at.timestamp() * 1000) * 1000 for at in (experiment.created_at, experiment.changed_at))
    return Track(id=experiment.id, group="", name=experiment.name, started_us=started, ended_us=ended, tags=experiment.tags)
