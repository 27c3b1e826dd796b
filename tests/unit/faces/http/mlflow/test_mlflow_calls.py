from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from endcap.core import errors
from endcap.core.errors import EndcapError
from endcap.faces.codes import HTTP_STATUSES
from endcap.faces.http.mlflow import PROTOCOL
from endcap.faces.http.mlflow.faults import FAULTS
from endcap.faces.http.mlflow.protocol import API
from endcap.faces.http.mlflow.routes import list_calls
from endcap.governance.audit import list_audit

ASKED_AGAIN = {408, 429, 500, 502, 503, 504}


def test_every_error_has_a_name_and_a_status_that_the_client_understands() -> None:
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EndcapError)}
    assert set(FAULTS) == codes == set(HTTP_STATUSES)
    again = {code for code, (_, status) in FAULTS.items() if status in ASKED_AGAIN}
    assert again == {"error", "lost_connection", "quota_exceeded", "unreachable"}, (
        "the client asks again for minutes: only after what may pass by itself"
    )


def test_every_call_says_what_it_does_and_is_there_once() -> None:
    calls = list_calls()
    assert len({(entry.method, entry.path) for entry in calls}) == len(calls) > 45
    for entry in calls:
        assert entry.summary.endswith("."), entry.path


def test_it_says_which_protocol_it_speaks_and_that_it_is_there(wire: Any) -> None:
    assert wire.http.get("/version").text == PROTOCOL
    assert wire.http.get("/health").text == "OK"
    assert wire.http.get("/api/3.0/mlflow/server-info").json()["multipart_uploads_enabled"] is False


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("POST", "/api/3.0/mlflow/traces", "traces"),
        ("POST", "/api/3.0/mlflow/traces/search", "traces"),
        ("GET", "/api/2.0/mlflow/traces/17/info", "traces"),
        ("POST", "/v1/traces", "traces"),
        ("POST", "/api/3.0/mlflow/scorers/register", "scorers"),
        ("POST", "/api/3.0/mlflow/datasets/create", "evaluation datasets"),
        ("POST", "/api/2.0/mlflow/webhooks", "endcap webhooks add"),
        ("GET", "/api/3.0/mlflow/workspaces", "workspaces"),
        ("POST", "/api/3.0/mlflow/gateway/secrets/create", "gateway"),
        ("POST", "/api/2.0/mlflow/registered-models/rename", "names"),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete", "kept"),
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", "kept"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/run/17/a", "does not know"),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/run/17/a", "does not know"),
        ("POST", "/api/2.0/mlflow/runs/fly", "does not know"),
        ("DELETE", "/api/2.0/mlflow/runs/search", "does not know"),
    ],
)
def test_what_is_not_here_is_refused_in_a_sentence_that_is_not_asked_again(wire: Any, method: str, path: str, word: str) -> None:
    status, code, message = wire.fault(wire.http.request(method, path, json={} if method != "GET" else None))
    assert (status, code) == (501, "NOT_IMPLEMENTED")
    assert word in message
    assert "Hint: " in message, "it says what to do instead"


@pytest.mark.parametrize("kind", ["application/x-protobuf", "application/json"])
def test_spans_are_refused_in_whatever_form_they_come(wire: Any, kind: str) -> None:
    headers = {"Content-Type": kind, "Content-Encoding": "gzip"} if kind != "application/json" else {"Content-Type": kind}
    assert wire.fault(wire.http.post("/v1/traces", content=b"\x0a\x00", headers=headers))[:2] == (501, "NOT_IMPLEMENTED")


def test_prompts_are_refused_though_clients_keep_them_among_the_models(wire: Any) -> None:
    tag = {"key": "mlflow.prompt.is_prompt", "value": "true"}
    assert wire.refused("/registered-models/create", name="greeting", tags=[tag])[:2] == (501, "NOT_IMPLEMENTED")
    assert wire.refused("/model-versions/create", name="greeting", source="x", tags=[tag])[:2] == (501, "NOT_IMPLEMENTED")
    assert wire.get("/registered-models/search") == {"registered_models": []}


BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"run_id": 7, "key": "m", "value": 1}',
    b'{"key": "m"}',
    b'{"run_id": "x", "value": "many"}',
    rb'{"run_id": "\ud800", "key": "m", "value": 1}',
    b"\xff",
    b"[" * 5000,
)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_request_is_refused_with_its_reason(wire: Any, body: bytes) -> None:
    said = wire.http.post("/api/2.0/mlflow/runs/log-metric", content=body, headers={"content-type": "application/json"})
    assert wire.fault(said)[:2] == (400, "INVALID_PARAMETER_VALUE")


def test_a_query_that_says_a_thing_twice_is_refused(wire: Any) -> None:
    said = wire.http.get("/api/2.0/mlflow/experiments/get?experiment_id=0&experiment_id=1")
    assert wire.fault(said)[:2] == (400, "INVALID_PARAMETER_VALUE")


def test_what_a_newer_client_says_beside_is_passed_over(wire: Any) -> None:
    assert wire.send("/experiments/create", name="new", mood="sunny", tags=[{"key": "a", "value": "b", "since": 4}])["experiment_id"] == "1"


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "9" * 13, "٣"])
def test_a_page_token_that_is_none_is_refused(wire: Any, token: str) -> None:
    assert wire.refused("/experiments/search", page_token=token)[1] == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("size", [0, -1, 10**9])
def test_a_page_of_no_or_too_many_results_is_refused(wire: Any, size: int) -> None:
    assert wire.refused("/runs/search", experiment_ids=["0"], max_results=size)[1] == "INVALID_PARAMETER_VALUE"


def test_numbers_that_json_does_not_know_come_and_go_as_words(wire: Any) -> None:
    run = wire.make_run()
    words = {"no": "NaN", "up": "Infinity", "down": "-Infinity"}
    for name, word in words.items():
        wire.send("/runs/log-metric", run_id=run, key=name, value=word, timestamp=5)
    assert {metric["key"]: metric["value"] for metric in wire.get("/runs/get", run_id=run)["run"]["data"]["metrics"]} == words
    kept = [wire.house.session().tracks.read_points("default", run, name)[0].value for name in words]
    assert math.isnan(kept[0])
    assert kept[1:] == [math.inf, -math.inf]


def test_whole_numbers_may_come_as_text_as_protobuf_writes_them(wire: Any) -> None:
    run = wire.make_run(start_time="1700000000000")
    wire.send("/runs/log-metric", run_id=run, key="m", value=1, timestamp="1700000000001", step="3")
    assert wire.get("/metrics/get-history", run_id=run, metric_key="m", max_results="5") == {
        "metrics": [{"key": "m", "value": 1.0, "timestamp": 1700000000001, "step": 3}]
    }
    assert wire.get("/runs/get", run_id=run)["run"]["info"]["start_time"] == 1700000000000


def test_a_thing_that_stands_already_is_told_so_that_clients_go_on(wire: Any) -> None:
    wire.send("/experiments/create", name="churn")
    assert wire.refused("/experiments/create", name="churn")[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    wire.send("/registered-models/create", name="churn")
    assert wire.refused("/registered-models/create", name="churn")[:2] == (409, "RESOURCE_ALREADY_EXISTS")
    run = wire.make_run()
    wire.send("/runs/log-parameter", run_id=run, key="a", value="1")
    assert wire.refused("/runs/log-parameter", run_id=run, key="a", value="2")[1] == "INVALID_PARAMETER_VALUE"
    wire.send("/runs/delete", run_id=run)
    assert wire.refused("/runs/set-tag", run_id=run, key="a", value="2")[:2] == (409, "RESOURCE_CONFLICT")


def test_what_flows_is_logged_and_what_decides_is_audited(wire: Any, register: Callable[..., int]) -> None:
    run = wire.make_run()
    wire.send("/runs/log-batch", run_id=run, metrics=[{"key": "m", "value": 1.0}], params=[{"key": "p", "value": "1"}])
    wire.put(f"run/{run}/note.txt", b"hello")
    assert list_audit(wire.house.session()) == []
    register("trees")
    wire.send("/registered-models/alias", name="trees", alias="best", version="1")
    assert {row.verb for row in list_audit(wire.house.session())} == {"register-run", "name-version"}


def test_who_is_not_let_in_is_told_so_in_words_that_the_client_shows(wire: Any) -> None:
    from endcap.governance.people import add_user

    add_user(wire.house.session(), "ada", password="a long enough password 7")
    wire.http.app._signing_in._kept.clear()
    for path in (API + "/experiments/search", "/api/2.0/mlflow-artifacts/artifacts"):
        status, code, message = wire.fault(wire.http.get(path))
        assert (status, code) == (401, "UNAUTHENTICATED")
        assert "MLFLOW_TRACKING_TOKEN" in message
    said = wire.http.get(API + "/experiments/search", headers={"authorization": "Bearer endcap_nonsense"})
    assert wire.fault(said)[:2] == (401, "UNAUTHENTICATED")
    assert wire.fault(wire.http.get(API + "/experiments/search", headers={"host": "attacker.example"}))[:2] == (403, "PERMISSION_DENIED")
    assert wire.fault(wire.http.post(API + "/experiments/create", content=b"x" * 17_000_000, headers={"content-type": "text/plain"}))[0] == 415


def test_the_points_of_several_runs_are_thinned_evenly(wire: Any) -> None:
    runs = [wire.make_run(), wire.make_run()]
    for run in runs:
        points = [{"key": "m", "value": step / 2, "timestamp": step, "step": step} for step in range(20)]
        wire.send("/runs/log-batch", run_id=run, metrics=points)

    def ask(**given: Any) -> list[tuple[str, int]]:
        found = wire.get("/metrics/get-history-bulk-interval", run_ids=runs, metric_key="m", **given)["metrics"]
        return [(point["run_id"], point["step"]) for point in found]

    assert ask() == [(run, step) for run in runs for step in range(20)]
    assert ask(start_step=5, end_step=7) == [(run, step) for run in runs for step in (5, 6, 7)]
    assert ask(max_results=5) == [(run, step) for run in runs for step in (0, 4, 8, 12, 16)]
    assert wire.refused("/metrics/get-history-bulk-interval", method="GET", run_ids=["0"] * 101, metric_key="m")[1] == "INVALID_PARAMETER_VALUE"


def test_pages_of_a_metric_hold_all_of_it(wire: Any) -> None:
    run = wire.make_run()
    wire.send("/runs/log-batch", run_id=run, metrics=[{"key": "m", "value": step, "timestamp": step, "step": step} for step in range(7)])
    token, steps = "", []
    while True:
        page = wire.get("/metrics/get-history", run_id=run, metric_key="m", max_results=3, page_token=token)
        steps.append([point["step"] for point in page["metrics"]])
        token = page.get("next_page_token", "")
        if not token:
            break
    assert steps == [[0, 1, 2], [3, 4, 5], [6]]


def test_datasets_and_models_of_a_run_are_told_with_it(wire: Any) -> None:
    run = wire.make_run()
    dataset = {"name": "sales", "digest": "17", "source_type": "http", "source": "{}", "schema": "{}", "profile": "{}"}
    context = [{"key": "mlflow.data.context", "value": "training"}]
    for _ in range(2):
        wire.send("/runs/log-inputs", run_id=run, datasets=[{"dataset": dataset, "tags": context}])
    model = wire.send("/logged-models", experiment_id="0", name="m", source_run_id=run)["model"]["info"]["model_id"]
    wire.send("/runs/outputs", run_id=run, models=[{"model_id": model, "step": 0}])
    assert wire.refused("/runs/outputs", run_id=run, models=[{"model_id": "m-none"}])[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    told = wire.get("/runs/get", run_id=run)["run"]
    assert told["inputs"]["dataset_inputs"] == [{"tags": context, "dataset": dataset}]
    assert told["outputs"]["model_outputs"] == [{"model_id": model, "step": 0}]
    wire.send("/runs/log-metric", run_id=run, key="rmse", value=0.5, timestamp=3, model_id=model)
    found = wire.get(f"/logged-models/{model}")["model"]
    assert found["data"]["metrics"] == [{"key": "rmse", "value": 0.5, "timestamp": 3, "step": 0, "model_id": model, "run_id": run}]
    wire.send("/runs/log-model", run_id=run, model_json='{"flavors": {}}')
    for body in ("", "[", "[1]"):
        assert wire.refused("/runs/log-model", run_id=run, model_json=body)[1] == "INVALID_PARAMETER_VALUE"


def test_a_logged_model_s_status_tags_and_params(wire: Any) -> None:
    model = wire.send("/logged-models", name="m", params=[{"key": "a", "value": "1"}])["model"]["info"]["model_id"]
    for status, word in ((2, "LOGGED_MODEL_READY"), ("LOGGED_MODEL_UPLOAD_FAILED", "LOGGED_MODEL_UPLOAD_FAILED"), ("1", "LOGGED_MODEL_PENDING")):
        assert wire.send(f"/logged-models/{model}", method="PATCH", status=status)["model"]["info"]["status"] == word
    assert wire.refused(f"/logged-models/{model}", method="PATCH", status="DONE")[1] == "INVALID_PARAMETER_VALUE"
    wire.send(f"/logged-models/{model}/tags", method="PATCH", tags=[{"key": "a/b", "value": "c"}])
    wire.send(f"/logged-models/{model}/params", params=[{"key": "b", "value": "2"}])
    told = wire.get(f"/logged-models/{model}")["model"]
    assert told["data"]["params"] == [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    assert told["info"]["tags"] == [{"key": "a/b", "value": "c"}]
    wire.send(f"/logged-models/{model}/tags/a/b", method="DELETE")
    assert wire.get(f"/logged-models/{model}")["model"]["info"]["tags"] == []
    wire.put(f"logged-model/{model}/sub/a", b"x")
    files = wire.get(f"/logged-models/{model}/artifacts/directories", artifact_directory_path="sub")
    assert files == {"root_uri": f"mlflow-artifacts:/logged-model/{model}", "files": [{"path": "sub/a", "is_dir": False, "file_size": 1}]}
    by_dataset = [{"field_name": "metrics.rmse", "dataset_name": "d"}]
    assert wire.refused("/logged-models/search", experiment_ids=["0"], order_by=by_dataset)[1] == "INVALID_PARAMETER_VALUE"
    wire.send(f"/logged-models/{model}", method="DELETE")
    assert wire.refused(f"/logged-models/{model}", method="GET")[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    assert wire.get(f"/logged-models/{model}", allow_deleted="true")["model"]["info"]["model_id"] == model
