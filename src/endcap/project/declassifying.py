"""Declassifying: a definition that says less of personal columns than what stands, of views and of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from endcap.core.definitions.models import Model
from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.features.declared import Declared, Dropped, find_declared, find_dropped, find_unmarked, require_may_drop
from endcap.loop.registry.records import MODELS
from endcap.loop.retraining.tasks import Task
from endcap.project.definitions import Definitions, read_definition


def find_all_dropped(session: Session, definitions: Definitions) -> dict[str, tuple[Dropped, ...]]:
    """What the views and models of a file say no more of their tables and their own columns, by thing (``view/NAME``). Cost: that of
    ``find_declared``, and a look at each model.
    """
    declared = _find_declared(session)
    found = {f"view/{name}": (*find_dropped(view.sources, declared), *find_unmarked(session, view)) for name, view in definitions.views.items()}
    found |= {f"model/{name}": find_dropped(forecast.tables, declared) for name, forecast in definitions.models.items()}
    found |= {f"model/{name}": find_dropped(_read_tables(model), declared) for name, model in definitions.own.items()}
    return {thing: dropped for thing, dropped in found.items() if dropped}


def require_standing(session: Session, task: Task, *, verb: str) -> None:
    """Raise PermissionDenied, audited, for a task by which less is personal than by what stands, unless it stands itself or who acts may apply it."""
    standing = session.records.get(MODELS, workspace=session.workspace, id=task.name)
    if standing is None or standing.definition != task.definition:
        require_may_drop(session, find_dropped(task.tables, _find_declared(session)), verb=verb)


def _find_declared(session: Session) -> dict[str, Declared]:
    return find_declared(session, further=_list_model_tables(session))


def _list_model_tables(session: Session) -> Iterator[Table]:
    for record in session.without_veil().records.find(MODELS, workspace=session.workspace):
        with suppress(InvalidInput, IntegrityBroken):  # of another kind, or not read: to apply it again must not be refused for that
            definition = read_definition(record)
            yield from _read_tables(definition) if isinstance(definition, Model) else definition.tables


def _read_tables(model: Model) -> tuple[Table, ...]:
    return tuple(table for view in model.features for table in view.sources)
