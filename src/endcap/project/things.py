"""Things by name: whether one is there, who owns it, and what else records call it."""

from __future__ import annotations

import msgspec

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.governance.records import AUDIT_ROWS, HOUSE, USERS
from endcap.governance.rights.guards import find_guard, require_owner
from endcap.governance.rights.records import PERSONAL
from endcap.governance.sessions import Session
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.records import BATCHES
from endcap.loop.features.catalogue import find_head, find_view, list_versions
from endcap.loop.features.records import TRAINING_SETS, VIEW_VERSIONS
from endcap.loop.registry.versions import get_model
from endcap.loop.training.tracking.experiments import choose_experiment
from endcap.loop.training.tracking.records import DEFAULT_EXPERIMENT
from endcap.loop.training.tracking.tracked_runs import get_run_track
from endcap.pipelines.records import RUNS

SORTS = ("table", "view", "model", "run", "experiment")
"""What can be closed; beside them, whose personal columns are seen: ``personal/TABLE``."""
_MOST_NEAR = 1000
"""Among how many ids, the newest, a near one is looked for."""


class Thing(msgspec.Struct, frozen=True):
    """A thing by its full name, such as ``model/store-day``. ``owner`` '' is nobody but the owners of the workspace; ``also`` are its other names."""

    name: str
    owner: str
    also: tuple[str, ...] = ()


class _Owned(msgspec.Struct):
    owner: str = ""


def find_thing(session: Session, text: str) -> Thing:
    """A thing that is there for the session, with its owner: who was named, else the user whom its definition names, else who first made it.

    Raises InvalidInput for what is no thing, NotFound for one that is not there, or closed. Cost: some reads.
    """
    sort, _, name = text.partition("/")
    if sort == PERSONAL and name:
        return Thing(_require_personal(session, name), "")
    if sort not in SORTS or not name:
        raise InvalidInput(
            f"{text[:100]!r} is no thing that has rights. Sorts: {[f'{known}/NAME' for known in (*SORTS, PERSONAL)]}.",
            hint=suggest(sort, (*SORTS, PERSONAL)) or "write model/store-day",
        )
    found = {"table": _find_table, "view": _find_view, "model": _find_model, "run": _find_run, "experiment": _find_experiment}[sort](session, name)
    guard = find_guard(session, found.name)
    return found if guard is None else msgspec.structs.replace(found, owner=guard.owner)


def require_thing(session: Session, sort: str, name: str) -> None:
    """Raise NotFound, with the nearest name, unless something of a thing is kept: its record, or rows that the house wrote of it.

    ``sort`` is model, table, view, run or training-set. Cost: a read or two; where it is not there, and for a table that was never let in, a look
    at all of its sort.
    """
    records, workspace = session.records, session.workspace
    if sort == "model":
        if not records.find(BATCHES, workspace=workspace, where={"model": name}, limit=1):
            get_model(session, name)
    elif sort == "view":
        find_head(session, name)  # of a view all versions are held, or none
    elif sort == "run":
        _find_run(session, name)
    elif sort == "table":
        if not records.find(INGESTS, workspace=workspace, where={"table": name}, limit=1):
            _require_read_table(session, name)
    elif records.get(TRAINING_SETS, workspace=workspace, id=name) is None:
        known = [found.id for found in records.find(TRAINING_SETS, workspace=workspace, newest_first=True, limit=_MOST_NEAR)]
        raise NotFound(
            f"No training set {name[:100]!r} in workspace '{workspace}'.",
            hint=suggest(name, known) or "endcap show VERSION says of which it was made",
        )


def _require_read_table(session: Session, name: str) -> None:
    """Raise NotFound unless a view reads the table, as it may do in place."""
    names = {table.name for version in session.records.find(VIEW_VERSIONS, workspace=session.workspace) for table in version.view.sources}
    if name not in names:
        names |= {record.table for record in session.records.find(INGESTS, workspace=session.workspace)}
        what = f"No table {name[:100]!r} in workspace '{session.workspace}'."
        raise NotFound(what, hint=suggest(name, sorted(names)) or "tables that were let in: endcap list-ingests")


def read_owner(definition: str) -> str:
    """Whom a model's definition names its owner; '' for nobody."""
    return msgspec.json.decode(definition, type=_Owned).owner


def require_same_owner(session: Session, thing: str, said: str, *, verb: str) -> None:
    """Raise PermissionDenied, audited, where a definition that names ``said`` its owner would give a thing to another than whose it is, and who
    applies it is neither that owner nor an owner of the workspace. A thing that is new is whose its definition says. Cost: some reads.
    """
    try:
        found = find_thing(session, thing)
    except NotFound:
        return
    if find_guard(session, thing) is not None:  # whose it is was said by rights transfer, and no definition changes it
        return
    if (_named_owner(session, said) or _find_maker(session, thing)) != found.owner:
        require_owner(session, thing, found.owner, verb=verb)


def _find_maker(session: Session, thing: str) -> str:
    """Whose a view or a model is where its definition names nobody."""
    sort, _, name = thing.partition("/")
    if sort == "view":
        return list_versions(session, name)[-1].actor
    return _first_maker(session, thing) or get_model(session, name).applied_by


def _require_personal(session: Session, name: str) -> str:
    if name != "*":
        _find_table(session.without_veil(), name)
    return f"{PERSONAL}/{name}"


def _find_table(session: Session, name: str) -> Thing:
    thing = f"table/{name}"
    if not session.records.find(INGESTS, workspace=session.workspace, where={"table": name}, limit=1):
        raise NotFound(f"No table {name[:100]!r} in workspace '{session.workspace}'.", hint="tables that were let in: endcap list-ingests")
    return Thing(thing, _first_maker(session, thing))


def _find_view(session: Session, name: str) -> Thing:
    standing = find_view(session, name.partition("@")[0])
    thing = f"view/{standing.name}"
    return Thing(thing, _named_owner(session, standing.view.owner) or _find_maker(session, thing))


def _find_model(session: Session, name: str) -> Thing:
    model = get_model(session, name)
    said = read_owner(model.definition)
    thing = f"model/{name}"
    also = () if name.isdecimal() else (f"experiment/{name}",)  # which its trials are kept in, and the audit calls so
    return Thing(thing, _named_owner(session, said) or _find_maker(session, thing), also)


def _find_run(session: Session, name: str) -> Thing:
    run = session.records.get(RUNS, workspace=session.workspace, id=name)
    return Thing(f"run/{name}", (run or get_run_track(session, name)).actor)


def _find_experiment(session: Session, name: str) -> Thing:
    found = choose_experiment(session, name)
    if found.id == DEFAULT_EXPERIMENT:
        raise InvalidInput("The default experiment is everybody's.", hint="make another: endcap track create-experiment NAME")
    also = () if found.name.isdecimal() else (f"experiment/{found.name}",)
    return Thing(f"experiment/{found.id}", found.created_by, also)


def _named_owner(session: Session, name: str) -> str:
    """Whom a definition names, where that is a user; it may be a team, too, which owns nothing here."""
    return name if name and session.ports.records.get(USERS, workspace=HOUSE, id=name) is not None else ""


def _first_maker(session: Session, thing: str) -> str:
    """Who did what the audit first knows of a thing. Cost: a read where that was no refusal."""
    for row in session.ports.records.find(AUDIT_ROWS, workspace=session.workspace, where={"thing": thing}, limit=20):
        if row.outcome == "done":
            return row.actor
    return ""
