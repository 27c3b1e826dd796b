from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.logged_models import (
    create_logged_model,
    delete_logged_model,
    finalize_logged_model,
    get_logged_model,
    list_of_run,
    log_model_params,
    log_to_models,
    search_logged_models,
    tag_logged_model,
)
from endcap.loop.training.tracking.tracked_runs import search_runs, start_run
from endcap.storage.tracks import Point
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def ids(session: Session, filter: str = "", **asked: object) -> list[str]:  # noqa: A002 - the word of the room
    return [model.id for model in search_logged_models(session, filter=filter, **asked)]  # type: ignore[arg-type]  # by name


def test_a_logged_model_is_begun_and_made_ready(session: Session) -> None:
    assert isinstance(session.clock, ManualClock)
    run = start_run(session).id
    made = create_logged_model(session, name="trees", run=run, kind="lightgbm", params={"depth": "6"}, tags={"team": "demand"})
    assert (made.id[:2], len(made.id), made.status, made.run, made.kind, made.experiment) == ("m-", 34, "pending", run, "lightgbm", "0")
    assert (made.created_at, made.changed_at, made.created_by) == (session.now(), session.now(), "ada")
    session.clock.advance(timedelta(seconds=2))
    ready = finalize_logged_model(session, made.id)
    assert (ready.status, ready.created_at, ready.changed_at) == ("ready", made.created_at, session.now())
    log_model_params(session, made.id, {"seed": "1"})
    tag_logged_model(session, made.id, {"team": None, "stage": "try"})
    log_to_models(session, {made.id: [Point("auc", 0.9, 5, 1)]})
    whole = get_logged_model(session, made.id)
    assert (whole.params, whole.tags, whole.metrics) == ({"depth": "6", "seed": "1"}, {"stage": "try"}, {"auc": Point("auc", 0.9, 5, 1)})
    assert list_of_run(session, run) == [made.id]
    assert list_of_run(session, "other") == []
    assert [track.id for track in search_runs(session)] == [run], "a logged model is no run"


def test_logged_models_are_found_by_what_they_hold(session: Session) -> None:
    create_experiment(session, "one")
    run = start_run(session, experiment="1").id
    a = create_logged_model(session, name="a", experiment="1", run=run, kind="onnx").id
    b = create_logged_model(session, name="b", params={"p": "1"}).id
    finalize_logged_model(session, b, status="failed")
    log_to_models(session, {a: [Point("auc", 0.5, 0)], b: [Point("auc", 0.7, 0)]})
    assert ids(session, "name = 'a'") == ids(session, experiments=["1"]) == ids(session, f"source_run_id = '{run}'") == [a]
    assert ids(session, "status = 'FAILED' and params.p = '1'") == ids(session, "model_type IS NULL") == [b]
    assert ids(session, order=["metrics.auc DESC"]) == [b, a]
    assert ids(session, "metrics.auc < 0.6 and model_type = 'onnx' and experiment_id = '1'") == [a]
    assert ids(session, order=["name"], limit=1, skip=1) == [b]
    with pytest.raises(InvalidInput, match="'colour' is no attribute of logged models"):
        ids(session, "colour = 'x'")


def test_a_deleted_logged_model_is_not_listed_and_takes_nothing(session: Session) -> None:
    model = create_logged_model(session).id
    assert delete_logged_model(session, model).stage == "deleted"
    assert (ids(session), ids(session, stage=None)) == ([], [model])
    assert get_logged_model(session, model).stage == "deleted"
    with pytest.raises(Conflict, match="is deleted"):
        finalize_logged_model(session, model)
    assert [(row.verb, row.thing) for row in list_audit(session)] == [("track delete-model", f"logged-model/{model}")]


def test_bad_input_is_refused(session: Session) -> None:
    for refused, error in (
        (lambda: create_logged_model(session, run="nobody"), NotFound),
        (lambda: create_logged_model(session, experiment="9"), NotFound),
        (lambda: create_logged_model(session, name="a\nb"), InvalidInput),
        (lambda: create_logged_model(session, params={"p": "x" * 6001}), InvalidInput),
        (lambda: create_logged_model(session, tags={"endcap.run": "x"}), InvalidInput),
        (lambda: get_logged_model(session, "m-1"), NotFound),
        (lambda: finalize_logged_model(session, "m-1"), NotFound),
        (lambda: delete_logged_model(session, "m-1"), NotFound),
        (lambda: finalize_logged_model(session, "m-1", status="done"), InvalidInput),  # type: ignore[arg-type]  # refused at run time
    ):
        with pytest.raises(error):
            refused()
    assert (ids(session, stage=None), list_audit(session)) == ([], [])
    model = create_logged_model(session).id
    with pytest.raises(InvalidInput, match="is Endcap's own"):
        tag_logged_model(session, model, {"endcap.kind": "x"})


def test_viewers_only_look(session: Session) -> None:
    model = create_logged_model(session).id
    viewer = replace(session, role=Role.VIEWER)
    assert ids(viewer) == [model]
    for refused in (
        lambda: create_logged_model(viewer),
        lambda: finalize_logged_model(viewer, model),
        lambda: tag_logged_model(viewer, model, {"t": "1"}),
        lambda: delete_logged_model(viewer, model),
    ):
        with pytest.raises(PermissionDenied):
            refused()
