"""Applying: what a definition file says becomes what the workspace knows."""

from __future__ import annotations

from pathlib import Path

import msgspec

from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import MODELS, ModelRecord
from endcap.project.definitions import Definitions, load_definitions


class Planned(msgspec.Struct, frozen=True):
    """What applying would do to one model: ``new``, ``changed``, ``unchanged``, or ``not in the file``, which leaves it as it is."""

    model: str
    change: str
    tables: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What applying a definition file would do."""

    file: str
    models: tuple[Planned, ...]

    @property
    def changes(self) -> bool:
        return any(planned.change in ("new", "changed") for planned in self.models)


@verb("plan", permission=Permission.READ)
def plan(session: Session, *, folder: Path = Path()) -> Plan:
    """Show what ``apply`` would do, and do nothing."""
    return _compare(session, load_definitions(folder))


@verb("apply", permission=Permission.EDIT)
def apply(session: Session, *, folder: Path = Path()) -> Plan:
    """Make the workspace know the models of ``project.py``; returns what changed.

    Models that are not in the file stay as they are. A changed definition is trained at the next run.
    """
    definitions = load_definitions(folder)
    planned = _compare(session, definitions)
    for change in planned.models:
        if change.change not in ("new", "changed"):
            continue
        task = definitions.task(change.model)
        record = ModelRecord(task.name, task.solution, task.identity, task.definition, session.now(), session.actor.name)
        detail = {"change": change.change, "definition": task.identity}
        with session.change("apply", thing=f"model/{task.name}", detail=detail) as open_change:
            found = open_change.tx.get_versioned(MODELS, workspace=session.workspace, id=task.name)
            open_change.tx.put(MODELS, workspace=session.workspace, record=record, expected_version=found[1] if found else 0)
    return planned


def _compare(session: Session, definitions: Definitions) -> Plan:
    standing = {m.name: m for m in session.records.find(MODELS, workspace=session.workspace)}
    planned = []
    for name in definitions.models:
        task = definitions.task(name)
        tables = tuple(table.name for table in task.tables)
        known = standing.pop(name, None)
        if known is None:
            planned.append(Planned(name, "new", tables))
        elif known.identity == task.identity:
            planned.append(Planned(name, "unchanged", tables))
        else:
            planned.append(Planned(name, "changed", tables, _differ(known.definition, task.definition)))
    planned += [Planned(name, "not in the file") for name in standing]
    return Plan(str(definitions.folder / "project.py"), tuple(planned))


def _differ(old: str, new: str) -> tuple[str, ...]:
    before, after = msgspec.json.decode(old), msgspec.json.decode(new)
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return tuple(f"{name}: {_short(before.get(name))} -> {_short(after.get(name))}" for name in names)


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
