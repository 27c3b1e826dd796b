"""Applying: what a definition file says becomes what the workspace knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import may_see, require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.landed_predictions import SCHEME
from endcap.loop.features.catalogue import find_columns, register_view, require_zone
from endcap.loop.features.declared import Dropped, require_may_drop
from endcap.loop.features.differences import describe_differences
from endcap.loop.features.records import VIEW_HEADS, VIEW_VERSIONS, ViewHead
from endcap.loop.registry.records import MODEL_DEFINITIONS, MODELS, PROD, ModelDefinition, ModelRecord
from endcap.loop.registry.versions import TRACKED, identify_model
from endcap.loop.registry.view_uses import ViewUse, find_view_uses
from endcap.project.declassifying import find_all_dropped
from endcap.project.definitions import FILE, Definitions, load_definitions, read_definition
from endcap.project.things import read_owner, require_same_owner

_NEW_VERSION = ("changed", "restored")  # of a view: what is computed is not what was
_DOES_NOTHING = ("unchanged", "not in the file", "closed")


class Planned(msgspec.Struct, frozen=True):
    """What applying would do to one model or view.

    ``change`` is ``new``, ``changed``, ``unchanged``, ``reworded`` (words for people, or what versions are judged by: nothing is made anew), or, of
    what is left as it is, ``not in the file`` or ``closed`` (to who applies); of a view also ``restored`` (an earlier version stands again) or
    ``moved`` (the project has another folder). ``version`` is the view's; ``touches`` says in words which models and releases a changed view touches.
    """

    name: str
    change: str
    tables: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    version: str = ""
    touches: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.change not in _DOES_NOTHING


class Plan(msgspec.Struct, frozen=True):
    """What applying a definition file would do."""

    file: str
    models: tuple[Planned, ...]
    views: tuple[Planned, ...] = ()

    @property
    def changes(self) -> bool:
        return any(planned.changes for planned in (*self.views, *self.models))


@verb("plan", permission=Permission.READ)
def plan(session: Session, *, folder: Path = Path()) -> Plan:
    """Show what ``apply`` would do, and do nothing: differences field by field, and the models and releases that a changed view touches."""
    planned, _ = _compare(session, load_definitions(folder))
    return planned


@verb("apply", permission=Permission.EDIT)
def apply(session: Session, *, folder: Path = Path()) -> Plan:
    """Make the workspace know the models and feature views of ``project.py``; returns what changed.

    Models and views that are not in the file stay as they are. A changed definition of a model is trained at the next run; that of a view is
    a new version beside the old one, which models that were trained on it keep. Views are checked as far as that goes without reading a row.
    What stands as personal is declared so no longer by an owner of the workspace alone who may see it: raises PermissionDenied, audited, for others.
    """
    definitions = load_definitions(folder)
    planned, dropped = _compare(session, definitions)
    _require_rights(session, definitions, planned, dropped)
    for change in planned.views:
        if change.changes:
            view = definitions.views[change.name]
            detail = {"change": change.change, "definition": view.version, **_tell_dropped(dropped.get(f"view/{view.name}", ()))}
            with session.change("apply", thing=f"view/{view.name}", detail=detail) as open_change:
                register_view(session, open_change, view, folder=definitions.folder)
    defined = {model.name: model for model in _list_models(definitions)}
    for change in planned.models:
        if change.changes:
            _apply_model(session, defined[change.name], change=change.change, dropped=dropped.get(f"model/{change.name}", ()))
    return planned


def _require_rights(session: Session, definitions: Definitions, planned: Plan, dropped: Mapping[str, Sequence[Dropped]]) -> None:
    """Raise, before anything is written, unless what changes may be changed, and what it is made of may be read."""
    made_of = {f"model/{name}": (task.tables, task.views) for name in definitions.models for task in (definitions.task(name),)}
    made_of |= {f"model/{name}": ((), model.features) for name, model in definitions.own.items()}
    made_of |= {f"view/{name}": (view.sources, ()) for name, view in definitions.views.items()}
    owners = {f"model/{model.name}": read_owner(model.definition) for model in _list_models(definitions)}
    owners |= {f"view/{name}": view.owner for name, view in definitions.views.items()}
    changing = [*(f"view/{p.name}" for p in planned.views if p.changes), *(f"model/{p.name}" for p in planned.models if p.changes)]
    for thing in changing:
        require_right(session, thing, Permission.EDIT, verb="apply")
        require_same_owner(session, thing, owners[thing], verb="apply")
        tables, views = made_of[thing]
        for source in (*(name for table in tables for name in _name_sources(table)), *(f"view/{view.name}" for view in views)):
            require_right(session, source, Permission.READ, verb="apply")
        require_may_drop(session, dropped.get(thing, ()), verb="apply")


def _name_sources(table: Table) -> tuple[str, ...]:
    """The table, and where its rows are a model's predictions the model."""
    predicted = table.source.removeprefix(SCHEME) if table.source.startswith(SCHEME) else None
    return (f"table/{table.name}",) if predicted is None else (f"table/{table.name}", f"model/{predicted}")


class _Defined(msgspec.Struct, frozen=True):
    """A model of the file, whoever trains it, and its gates by environment."""

    name: str
    solution: str
    identity: str
    definition: str
    tables: tuple[str, ...]
    gates: dict[str, Gate]


def _list_models(definitions: Definitions) -> Iterator[_Defined]:
    for name, forecast in definitions.models.items():
        task = definitions.task(name)
        tables = tuple(table.name for table in task.tables)
        yield _Defined(name, task.solution, task.identity, task.definition, tables, {PROD: forecast.gate, **forecast.gates})
    for name, model in definitions.own.items():
        sources = dict.fromkeys(table.name for view in model.features for table in view.sources)
        gates = {PROD: model.standing_gate, **model.gates}
        yield _Defined(name, TRACKED, identify_model(model), msgspec.json.encode(model).decode(), tuple(sources), gates)


def _apply_model(session: Session, model: _Defined, *, change: str, dropped: Sequence[Dropped]) -> None:
    record = ModelRecord(model.name, model.solution, model.identity, model.definition, session.now(), session.actor.name)
    detail = {"change": change, "definition": model.identity, **_tell_dropped(dropped)}
    with session.change("apply", thing=f"model/{model.name}", detail=detail) as open_change:
        found = open_change.tx.get_versioned(MODELS, workspace=session.workspace, id=model.name)
        if found is not None:
            open_change.detail.update(_tell_approvals(found[0], model))
        open_change.tx.put(MODELS, workspace=session.workspace, record=record, expected_version=found[1] if found else 0)
        if open_change.tx.get(MODEL_DEFINITIONS, workspace=session.workspace, id=model.identity) is None:
            kept = ModelDefinition(model.identity, model.name, model.solution, model.definition, session.now(), session.actor.name)
            open_change.tx.append(MODEL_DEFINITIONS, workspace=session.workspace, record=kept)


def _tell_dropped(dropped: Sequence[Dropped]) -> dict[str, str | int | float | bool | None]:
    return {"declassified": "; ".join(map(str, dropped))} if dropped else {}


def _tell_approvals(before: ModelRecord, model: _Defined) -> dict[str, int]:
    """The numbers of approvals, old and new, by environment, where they change."""
    known = read_definition(before)
    told: dict[str, int] = {}
    for environment in dict.fromkeys((PROD, *known.gates, *model.gates)):
        old, new = known.gate_of(environment).approvals, model.gates.get(environment, model.gates[PROD]).approvals
        if old != new:
            told |= {f"approvals_before {environment}": old, f"approvals_after {environment}": new}
    return told


def _compare(session: Session, definitions: Definitions) -> tuple[Plan, dict[str, tuple[Dropped, ...]]]:
    """What applying would do, and what would be personal no longer, by thing."""
    models, views = tuple(_compare_models(session, definitions)), tuple(_compare_views(session, definitions))
    dropped = find_all_dropped(session, definitions)

    def tell(sort: str, planned: Planned) -> Planned:
        told = [str(one) for one in dropped.get(f"{sort}/{planned.name}", ()) if may_see(session, f"table/{one.table}")]
        return msgspec.structs.replace(planned, differences=(*planned.differences, *told)) if planned.changes and told else planned

    found = Plan(str(definitions.folder / FILE), tuple(tell("model", one) for one in models), tuple(tell("view", one) for one in views))
    return found, dropped


# Models


def _compare_models(session: Session, definitions: Definitions) -> Iterator[Planned]:
    standing = {m.name: m for m in session.records.find(MODELS, workspace=session.workspace)}
    for model in _list_models(definitions):
        known = standing.pop(model.name, None)
        if not may_see(session, f"model/{model.name}"):
            yield Planned(model.name, "closed", model.tables)
        elif known is None:
            yield Planned(model.name, "new", model.tables)
        elif known.solution != model.solution:
            raise DefinitionError(
                f"Model '{model.name}' stands as one of the solution '{known.solution}', and the file defines it as '{model.solution}'.",
                hint="give it another name: versions of the two cannot answer for one another",
            )
        else:
            differences = _differ(known.definition, model.definition)
            change = "changed" if known.identity != model.identity else "reworded" if differences else "unchanged"
            yield Planned(model.name, change, model.tables, differences)
    yield from (Planned(name, "not in the file") for name in standing)


def _differ(old: str, new: str) -> tuple[str, ...]:
    return tuple(_differ_fields(_decode_model(old), _decode_model(new)))


def _differ_fields(old: Mapping[str, object], new: Mapping[str, object], *, within: str = "") -> Iterator[str]:
    """A line for each field that differs; of what has fields of its own on both sides, such as a gate, a line for each of those."""
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differ_fields(before, after, within=f"{within}{name}.")
        elif before != after:
            yield f"{within}{name}: {_short(before)} -> {_short(after)}"


def _decode_model(definition: str) -> dict[str, object]:
    """The fields of a model's definition; of the views that it reads their versions, whose differences are told with the views."""
    fields: dict[str, object] = msgspec.json.decode(definition)
    if "features" in fields:
        fields["features"] = [msgspec.convert(view, FeatureView).id for view in msgspec.convert(fields["features"], list[object])]
    return fields


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


# Views


def _compare_views(session: Session, definitions: Definitions) -> Iterator[Planned]:
    _check_views(session, definitions)
    standing = {head.name: head for head in session.records.find(VIEW_HEADS, workspace=session.workspace)}
    found = [_compare_view(session, view, standing.pop(view.name, None), folder=definitions.folder) for view in definitions.views.values()]
    touched = {planned.name for planned in found if planned.change in _NEW_VERSION}
    uses = find_view_uses(session, views=touched) if touched else {}
    for planned in found:
        if planned.name in touched:
            yield msgspec.structs.replace(planned, touches=tuple(map(_describe_touch, uses.get(planned.name, ()))))
        else:
            yield planned
    yield from (Planned(name, "not in the file", version=head.version) for name, head in standing.items())


def _compare_view(session: Session, view: FeatureView, head: ViewHead | None, *, folder: Path) -> Planned:
    tables, version = tuple(table.name for table in view.sources), view.version
    if not may_see(session, f"view/{view.name}"):
        return Planned(view.name, "closed", tables)
    if head is None:
        return Planned(view.name, "new", tables, version=version)
    kept = session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=view.id)
    if kept is not None:
        require_zone(session, view, kept)
    before = kept if head.version == version else session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=head.id)
    differences = describe_differences(before.view, view) if before is not None else ()
    if head.version != version:
        return Planned(view.name, "changed" if kept is None else "restored", tables, differences, version)
    if differences:
        return Planned(view.name, "reworded", tables, differences, version)
    base = str(folder.resolve())
    if kept is not None and kept.folder != base:
        return Planned(view.name, "moved", tables, (f"folder: {kept.folder} -> {base}",), version)
    return Planned(view.name, "unchanged", tables, version=version)


def _describe_touch(use: ViewUse) -> str:
    said = []
    if use.answering:
        said.append(f"{', '.join(use.answering)} answers now and keeps the version of the view that it was trained on")
    elif use.versions:
        said.append(f"{len(use.versions)} of its versions were trained on the view; none of them answers now")
    if use.declared:
        said.append("it is trained on the new version at its next run")
    return f"model {use.model}: {'; '.join(said)}"


def _check_views(session: Session, definitions: Definitions) -> None:
    """Raise DefinitionError, with its line, for the first view that could never be computed."""
    if not definitions.views:
        return
    from endcap.loop.features.checks import check_view, read_columns
    from endcap.loop.features.parsing import open_parser

    columns = find_columns(session, definitions.tables.values())
    with open_parser() as parser:
        for view in definitions.views.values():
            try:
                check_view(view, columns=columns, parser=parser)
                continue
            except DefinitionError:
                now = read_columns(session, view.sources, folder=definitions.folder)  # files may have got columns since they were last let in
            try:
                check_view(view, columns=now, parser=parser)
            except DefinitionError as error:
                line = definitions.lines.get(view.name)
                where = f"{definitions.folder / FILE}{f', line {line}' if line else ''}"
                raise DefinitionError(f"{where}: {error.what}", hint=error.hint) from error
