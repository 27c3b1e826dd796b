from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from endcap.core.errors import DefinitionError, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.registry.records import MODELS
from endcap.loop.registry.versions import get_model
from endcap.project.applying import apply, plan


def test_a_plan_says_what_would_be_done_and_does_nothing(project: Any) -> None:
    found = plan(project.session, folder=project.folder)
    assert found.changes
    assert [(p.name, p.change, p.tables) for p in found.models] == [("store-day", "new", ("sales", "plan", "stores"))]
    assert found.file == str(project.file)
    assert project.session.records.find(MODELS, workspace="default") == []
    assert list_audit(project.session) == []


def test_applying_makes_the_workspace_know_the_model(project: Any) -> None:
    assert apply(project.session, folder=project.folder).models[0].change == "new"
    model = get_model(project.session, "store-day")
    assert (model.solution, model.applied_by, model.applied_at) == ("forecasting", "ada", project.session.now())
    assert '"horizon":"7d"' in model.definition
    (row,) = list_audit(project.session)
    assert (row.verb, row.thing, row.detail) == ("apply", "model/store-day", {"change": "new", "definition": model.identity})


def test_applying_again_changes_nothing(project: Any) -> None:
    apply(project.session, folder=project.folder)
    again = apply(project.session, folder=project.folder)
    assert (again.changes, again.models[0].change) == (False, "unchanged")
    assert len(list_audit(project.session)) == 1


def test_a_change_is_shown_part_by_part(project: Any) -> None:
    apply(project.session, folder=project.folder)
    project.change('horizon="7d"', 'horizon="14d"')
    project.change("bias=0.4", "bias=0.5, coverage_90=(0.8, 0.95)")
    found = plan(project.session, folder=project.folder)
    assert found.models[0].change == "changed"
    assert found.models[0].differences == (
        "gate.bias: 0.4 -> 0.5",
        "gate.coverage_90: null -> [0.8,0.95]",
        'horizon: "7d" -> "14d"',
    )
    apply(project.session, folder=project.folder)
    assert '"horizon":"14d"' in get_model(project.session, "store-day").definition
    assert [row.detail["change"] for row in list_audit(project.session)] == ["changed", "new"]


def test_a_model_that_left_the_file_stays_as_it_is(project: Any) -> None:
    apply(project.session, folder=project.folder)
    project.change('"store-day"', '"shop-day"')
    found = apply(project.session, folder=project.folder)
    assert {p.name: p.change for p in found.models} == {"shop-day": "new", "store-day": "not in the file"}
    assert get_model(project.session, "store-day").name == "store-day"
    project.file.write_text("", encoding="utf-8")
    assert not plan(project.session, folder=project.folder).changes


def test_a_file_that_cannot_be_run_changes_nothing(project: Any) -> None:
    project.file.write_text(project.file.read_text() + "\nx = 1 / 0\n")
    with pytest.raises(DefinitionError):
        apply(project.session, folder=project.folder)
    with pytest.raises(NotFound):
        apply(project.session, folder=project.folder / "nowhere")
    assert project.session.records.find(MODELS, workspace="default") == []


def test_a_viewer_plans_and_does_not_apply(project: Any) -> None:
    viewer = replace(project.session, role=Role.VIEWER)
    assert plan(viewer, folder=project.folder).changes
    with pytest.raises(PermissionDenied):
        apply(viewer, folder=project.folder)


def test_workspaces_are_told_apart(project: Any) -> None:
    apply(project.session, folder=project.folder)
    assert plan(replace(project.session, workspace="other"), folder=project.folder).models[0].change == "new"
