"""The workspace that a URL names before its path, and what names none."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.application import build_application
from endcap.faces.http.heads import WORKSPACE
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.prefixes import choose_workspace, split_workspace
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user, find_user, grant_role
from endcap.governance.signin.page_sessions import make_page_session
from endcap.governance.tokens import make_token

pytestmark = pytest.mark.usefixtures("quick_passwords")
PASSWORD = "pine under marble"
HOSTILE = [
    "../other",
    "..",
    ".",
    "%00",
    "\x00",
    "a\r\nX-Other: b",
    "x" * 300,
    "가나다",
    "🙂",
    "_house",
    "a/b",
    "a b",
    "' OR 1=1 --",
    "'; DROP TABLE records",
    "-x",
]


@pytest.mark.parametrize(
    ("raw", "path", "name"),
    [
        ("/api/v1/ls", "/api/v1/ls", None),
        ("/workspaces/shoes/api/v1/ls", "/api/v1/ls", b"shoes"),
        ("/workspaces/shoes/workspaces/hats/api/v1/ls", "/workspaces/hats/api/v1/ls", b"shoes"),
        ("/workspaces/shoes", "/", b"shoes"),
        ("/workspaces/shoes/", "/", b"shoes"),
        ("/workspaces/shoes//api/v1/ls", "//api/v1/ls", b"shoes"),
        ("/workspaces/a%2Fb/api/v1/ls", "/api/v1/ls", b"a/b"),
        ("/workspaces/%2e%2e/api/v1/ls", "/api/v1/ls", b".."),
        ("/workspaces/%00/api/v1/ls", "/api/v1/ls", b"\x00"),
        ("/workspaces/%2500/x", "/x", b"%00"),
        ("/workspaces/%ff/x", "/x", b"\xff"),
        ("/workspaces/shoes/x/run%2F17", "/x/run/17", b"shoes"),
        ("/workspaces//api/v1/ls", "/workspaces//api/v1/ls", None),
        ("//workspaces/shoes/api/v1/ls", "//workspaces/shoes/api/v1/ls", None),
        ("/Workspaces/shoes/api/v1/ls", "/Workspaces/shoes/api/v1/ls", None),
        ("/%77orkspaces/shoes/x", "/workspaces/shoes/x", None),
        ("/workspaces%2Fshoes/x", "/workspaces/shoes/x", None),
        ("/x/../workspaces/shoes/y", "/x/../workspaces/shoes/y", None),
    ],
)
def test_what_a_path_names(raw: str, path: str, name: bytes | None) -> None:
    found, said = split_workspace({"type": "http", "path": unquote(raw), "raw_path": raw.encode(), "other": 1})
    assert (found["path"], said, found["other"]) == (path, name, 1)


def test_a_server_that_tells_no_raw_path_is_read_by_the_plain_one() -> None:
    found, name = split_workspace({"type": "http", "path": "/workspaces/가/run 1"})
    assert (found["path"], name) == ("/run 1", "가".encode())


def test_a_prefix_and_a_header_say_the_same() -> None:
    head = {WORKSPACE: b"shoes"}
    choose_workspace(head, b"shoes")
    with pytest.raises(RequestRefused, match="names one workspace") as caught:
        choose_workspace(head, b"hats")
    assert caught.value.status == 400
    empty: dict[bytes, bytes] = {}
    choose_workspace(empty, b"hats")
    assert empty == {WORKSPACE: b"hats"}


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://") as opened:
        owner = opened.session()
        add_user(owner, "ada", password=PASSWORD)
        add_user(owner, "bea", password=PASSWORD)
        for workspace in ("shoes", "hats"):
            grant_role(owner, "ada", "owner", workspace=workspace)
        grant_role(owner, "bea", "editor", workspace="shoes")
        yield opened


@pytest.fixture
def client(house: House, tmp_path: Path) -> Iterator[TestClient]:
    app = build_application(house, folder=tmp_path, signing_in=SignIn(house))
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, client=("10.0.0.9", 5000)) as opened:
        yield opened


def basic(name: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{PASSWORD}'.encode()).decode()}", **more}


def bearer(house: House, user: str, workspace: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(house.session(), 'test', user=user, workspace=workspace).token}"}


def last_refusal(house: House) -> tuple[str, str, object]:
    row = list_audit(house.session(), house=True, limit=1)[0]
    return row.outcome, row.actor, row.detail.get("workspace")


def make_experiment(client: TestClient, prefix: str, name: str, headers: dict[str, str]) -> Any:
    return client.post(f"{prefix}{MLFLOW}/experiments/create", json={"name": name}, headers=headers)


def test_each_face_of_the_service_goes_where_the_url_says(client: TestClient, house: House) -> None:
    for workspace in ("shoes", "hats"):
        for headers, name in ((basic("ada"), "by password"), (bearer(house, "ada", workspace), "by token")):
            assert make_experiment(client, f"/workspaces/{workspace}", f"{name} in {workspace}", headers).status_code == 200
    for workspace in ("shoes", "hats"):
        mlflow = client.get(f"/workspaces/{workspace}{MLFLOW}/experiments/search?max_results=10", headers=basic("ada")).json()["experiments"]
        ours = client.post(f"/workspaces/{workspace}/api/v1/track/experiments", json={}, headers=basic("ada")).json()
        named = client.get("/api/v1/track/experiments", headers=basic("ada", **{"X-Endcap-Workspace": workspace})).json()
        assert {e["name"] for e in mlflow} == {e["name"] for e in ours} == {"Default", f"by password in {workspace}", f"by token in {workspace}"}
        assert named == ours
    assert [e["name"] for e in client.get("/api/v1/track/experiments", headers=basic("ada")).json()] == ["Default"]
    assert client.post("/workspaces/shoes/api/v1/features/online", json={"views": ["x"], "keys": {}}, headers=basic("ada")).status_code == 404
    assert client.get("/workspaces/shoes/version", headers=basic("ada")).status_code == 200


def test_files_are_sent_and_fetched_under_the_prefix(client: TestClient) -> None:
    run = client.post(f"/workspaces/shoes{MLFLOW}/runs/create", json={"experiment_id": "0"}, headers=basic("bea")).json()["run"]["info"]
    assert run["artifact_uri"] == f"mlflow-artifacts:/run/{run['run_id']}", "the client puts its tracking address in the place of the scheme"
    file = f"/workspaces/shoes{FILES}/run/{run['run_id']}/a%20note.txt"
    assert client.put(file, content=b"\x00kept", headers=basic("bea")).status_code == 200, "a file needs not be JSON there either"
    assert client.get(file, headers=basic("bea")).content == b"\x00kept"
    listed = client.get(f"/workspaces/shoes{FILES}?path=run/{run['run_id']}", headers=basic("bea")).json()
    assert [found["path"] for found in listed["files"]] == ["a note.txt"]
    for other in ("", "/workspaces/hats", "/workspaces/default"):
        said = client.get(f"{other}{FILES}/run/{run['run_id']}/a%20note.txt", headers=basic("ada"))
        assert said.status_code == 404
    assert client.delete(file, headers=basic("bea")).status_code == 200


@pytest.mark.parametrize("prefix", [True, False])
def test_no_role_is_the_same_whether_or_not_there_is_such_a_workspace(client: TestClient, house: House, prefix: bool) -> None:
    said = []
    for headers in (basic("bea"), bearer(house, "bea", "shoes")):
        for workspace in ("hats", "nope", "HATS", "hat"):
            more = {} if prefix else {"X-Endcap-Workspace": workspace}
            for path in ("/api/v1/ls", f"{MLFLOW}/experiments/get?experiment_id=0", f"{FILES}/run/x/y", "/nothing"):
                answer = client.get(f"/workspaces/{workspace}{path}" if prefix else path, headers={**headers, **more})
                assert answer.status_code == 403
                assert last_refusal(house) == ("refused", "bea", workspace)
                said.append((path, headers["Authorization"], workspace, answer.text.replace(workspace, "NAME"), sorted(answer.headers)))
    for path, who, workspace, text, headers_said in said:
        here = next(row for row in said if row[:2] == (path, who) and row[2] == "hats")
        assert (text, headers_said) == here[3:], (path, workspace)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_no_workspace_can_have_is_refused_and_audited(client: TestClient, house: House, name: str) -> None:
    for path in ("/api/v1/ls", f"{MLFLOW}/experiments/get?experiment_id=0", f"{FILES}/run/x/y"):
        url = f"/workspaces/{quote(name, safe='')}{path}"
        assert ask_raw(client, url, {}).status_code == 401, "strangers learn nothing"
        for headers in (basic("ada"), bearer(house, "bea", "shoes")):
            said = ask_raw(client, url, headers)
            assert said.status_code == 400, said.text
            assert "cannot be the name of a workspace" in said.text
            assert len(said.content) < 1000
            assert last_refusal(house) == ("refused", "ada" if headers == basic("ada") else "bea", name[:101])
    assert "x-other" not in said.headers


class Answer(NamedTuple):
    status_code: int
    content: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return self.content.decode()


def ask_raw(client: TestClient, url: str, headers: dict[str, str]) -> Answer:
    """A GET whose path goes as it is written: a client that settles dots and slashes beforehand would hide them."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw, _, query = url.partition("?")
    known = [(b"host", b"127.0.0.1:8420"), *((name.lower().encode(), value.encode()) for name, value in headers.items())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": known,
        "client": ("10.0.0.9", 5000),
    }
    assert client.portal is not None
    client.portal.call(client.app, scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), told)


def test_a_name_that_cannot_be_is_told_a_user_without_a_role_in_default_too(client: TestClient, house: House) -> None:
    said = client.get("/workspaces/a%20b/api/v1/ls", headers=basic("bea"))
    assert said.status_code in (400, 403)
    assert last_refusal(house) == ("refused", "bea", "a b")


@pytest.mark.parametrize(
    "path", ["/workspaces/", "/workspaces//api/v1/ls", "//workspaces/shoes/api/v1/ls", "/workspaces", "/WORKSPACES/shoes/api/v1/ls"]
)
def test_what_names_no_workspace_is_no_path(client: TestClient, path: str) -> None:
    assert ask_raw(client, path, basic("ada")).status_code == 404


def test_a_prefix_beside_another_header_is_refused(client: TestClient) -> None:
    said = client.get("/workspaces/shoes/api/v1/ls", headers=basic("ada", **{"X-Endcap-Workspace": "hats"}))
    assert (said.status_code, said.json()["code"]) == (400, "invalid_input")
    assert client.get("/workspaces/shoes/api/v1/ls", headers=basic("ada", **{"X-Endcap-Workspace": "shoes"})).status_code == 200


def test_whether_it_is_up_is_asked_without_a_prefix(client: TestClient) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/workspaces/shoes/healthz").status_code == 401
    assert client.get("/workspaces/shoes/healthz", headers=basic("ada")).status_code == 200


def test_what_was_refused_is_not_kept_for_another_workspace(client: TestClient, house: House) -> None:
    """A session is kept by the workspace that was asked for beside the credentials."""
    known = bearer(house, "bea", "shoes")
    assert client.get("/workspaces/shoes/api/v1/ls", headers=known).status_code == 200
    assert client.get("/workspaces/hats/api/v1/ls", headers=known).status_code == 403
    assert client.get("/api/v1/ls", headers=known).status_code == 200


def test_without_users_the_owner_of_the_machine_chooses_by_url_too(tmp_path: Path) -> None:
    with open_house("memory://") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        assert make_experiment(client, "/workspaces/hats", "there", {}).status_code == 200
        assert [e["name"] for e in client.get("/api/v1/track/experiments").json()] == ["Default"]
        assert client.get("/workspaces/a%2Fb/api/v1/ls").status_code == 400
        assert last_refusal(house)[2] == "a/b"


def test_a_cookie_of_the_pages_chooses_by_url_and_is_refused_alike(client: TestClient, house: House) -> None:
    made = make_page_session(house.session(), find_user(house.ports.records, "bea"))
    cookie = {"Cookie": f"endcap-session={made.text}"}
    assert client.get("/workspaces/shoes/api/v1/ls", headers=cookie).status_code == 200
    told = {}
    for workspace in ("hats", "nope"):
        said = client.get(f"/workspaces/{workspace}/api/v1/ls", headers=cookie)
        assert (said.status_code, last_refusal(house)) == (403, ("refused", "bea", workspace))
        told[workspace] = said.text.replace(workspace, "NAME")
    assert told["hats"] == told["nope"]
    assert client.get("/workspaces/a%2Fb/api/v1/ls", headers=cookie).status_code == 400
    assert client.get("/workspaces/shoes/sign-in").status_code == 401, "pages stand at the root alone"
    for method, path in (("POST", "/api/v1/track/create-experiment"), ("PUT", f"{FILES}/run/x/y"), ("DELETE", f"{FILES}/run/x/y")):
        said = client.request(method, f"/workspaces/shoes{path}", headers=cookie, json={"name": "x"})
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied"), "a cookie alone changes nothing under a prefix either"
