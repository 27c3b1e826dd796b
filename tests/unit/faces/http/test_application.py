from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from endcap.assembly import House
from endcap.core.errors import NotFound
from endcap.faces.codes import HTTP_STATUSES
from endcap.faces.http.answers import encode_result
from endcap.faces.http.application import build_application
from endcap.faces.http.calls import MOST_CALLS, Calls
from endcap.faces.http.remote import remote_verbs
from endcap.governance.audit import list_audit
from endcap.project.verbs import load_verbs

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(house: House, tmp_path: Path) -> Any:
    with TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as opened:
        yield opened


def test_a_verb_is_called_with_the_body_and_answers_in_json(tea: TestClient, tmp_path: Path) -> None:
    said = tea.post("/api/v1/tea/brew", json={"leaf": "assam", "cups": 3})
    assert (said.status_code, said.headers["content-type"]) == (200, "application/json")
    assert said.json()["cups"] == 3
    assert said.json()["folder"] == str(tmp_path)
    assert tea.get("/api/v1/tea/brew", params={"leaf": "assam", "cups": 3}).content == said.content
    assert tea.post("/api/v1/pour", content=b"", headers=JSON).json() == ["well"]


@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ("refused", 422, {"error": "The tea is cold.", "code": "gate_refused", "hint": "heat it", "details": {"degrees": 40}}),
        ("bad", 400, {"error": "No such cup.", "code": "invalid_input"}),
        (
            "broken",
            500,
            {"error": "The service failed: RuntimeError.", "code": "error", "hint": "its log holds the whole error; please report it"},
        ),
    ],
)
def test_an_error_has_the_status_of_its_code_and_the_one_shape(tea: TestClient, how: str, status: int, body: dict[str, Any]) -> None:
    said = tea.post("/api/v1/pour", json={"how": how})
    assert (said.status_code, said.headers["content-type"], said.json()) == (status, "application/json", body)
    assert HTTP_STATUSES[body["code"]] == status
    assert tea.post("/api/v1/pour", json={}).json() == ["well"], "it goes on"


def test_what_is_wrong_with_a_request_is_told_before_the_verb_is_called(tea: TestClient) -> None:
    said = tea.post("/api/v1/tea/brew", json={"leaf": "assam", "cups": "3"})
    assert (said.status_code, said.json()["code"]) == (400, "invalid_input")
    assert "at `$.cups`" in said.json()["error"]
    said = tea.get("/api/v1/tea/brew", params={"leaf": "assam", "folder": "/etc"})
    assert (said.status_code, said.json()["details"]) == (400, {"parameter": "folder"})


def test_a_verb_that_changes_something_is_not_called_by_get(tea: TestClient) -> None:
    said = tea.get("/api/v1/pour")
    assert (said.status_code, said.headers["allow"]) == (405, "POST")
    assert said.json() == {"error": "/api/v1/pour takes POST, not GET.", "code": "invalid_input", "hint": "send it by POST"}
    assert tea.delete("/api/v1/tea/brew").status_code == 405


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/tea", "/api/v1/tea/brew/", "/api/v1/tea%20brew", "/api/v1/../../etc/passwd", "/api/v2/pour"])
def test_another_path_is_not_found(tea: TestClient, path: str) -> None:
    said = tea.get(path)
    assert (said.status_code, said.json()["code"]) == (404, "not_found")


def test_a_path_that_is_nearly_one_is_suggested(tea: TestClient) -> None:
    assert tea.get("/api/v1/tea/brwe").json()["hint"] == "did you mean '/api/v1/tea/brew'?"


def test_a_verb_that_no_request_calls_says_why(client: TestClient) -> None:
    said = client.post("/api/v1/backup", json={})
    assert (said.status_code, said.json()) == (
        404,
        {
            "error": "'backup' is not called over HTTP: copies what all workspaces hold to a place that the server can reach.",
            "code": "not_found",
            "hint": "call it where the home is, by command or in Python",
        },
    )
    assert client.get("/api/v1/features/page").json()["error"].startswith("'features page' is not called over HTTP")


def test_it_says_that_it_is_up(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "up"


def test_routes_are_the_table_of_verbs(client: TestClient) -> None:
    for name in load_verbs():
        said = client.options(f"/api/v1/{name.replace(' ', '/')}")
        if name not in remote_verbs():
            assert said.status_code == 404, name
            continue
        assert said.status_code == 405
        allowed = set(said.headers["allow"].split(", "))
        assert allowed == ({"GET", "HEAD", "POST"} if remote_verbs()[name].by_query else {"POST"}), name


def test_a_verb_is_called_as_the_local_owner_and_audited(client: TestClient, house: House, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    planned = client.post("/api/v1/plan", json={}).json()
    assert (planned["file"], planned["models"]) == (str(tmp_path / "project.py"), [])
    said = client.post("/api/v1/rollback", json={"model": "nothing"})
    assert (said.status_code, said.json()["code"]) == (404, "not_found")
    assert client.get("/api/v1/audit").json() == []
    assert house.session().role == "owner"
    assert list_audit(house.session()) == []


def test_results_are_encoded_as_the_command_line_does(client: TestClient, house: House) -> None:
    check = load_verbs()["verify-audit"].call(house.session())
    assert client.get("/api/v1/verify-audit").content == encode_result(check)


def test_calls_wait_their_turn_and_are_counted() -> None:
    calls, gate, seen = Calls(), threading.Event(), []

    def hold() -> bytes:
        seen.append(calls.n_running)
        gate.wait(20)
        return b"done"

    async def drive() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(MOST_CALLS + 4):
                group.start_soon(calls.run, hold)
            with anyio.fail_after(20):
                while len(seen) < MOST_CALLS:
                    await anyio.sleep(0.01)
            assert calls.n_running == MOST_CALLS
            gate.set()

    anyio.run(drive)
    assert len(seen) == MOST_CALLS + 4
    assert max(seen) <= MOST_CALLS
    assert calls.n_running == 0


def test_a_call_that_fails_is_counted_out() -> None:
    calls = Calls()

    def fail() -> bytes:
        raise NotFound("gone")

    with pytest.raises(NotFound):
        anyio.run(calls.run, fail)
    assert calls.n_running == 0
