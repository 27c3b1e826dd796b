"""Names of users, groups and workspaces that cannot be, and texts that would be commands elsewhere: on the command line, over HTTP, in headers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.application import build_application
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.groups import add_group, list_groups
from endcap.governance.people import add_user, list_people

GOOD = "pine under marble"
INJECTED = ("'; DROP TABLE record; --", '" OR ""="', "a\r\nX-Endcap-Workspace: shoes", "$(id)", "{{7*7}}", "<script>alert(1)</script>")
NAMES = ("../other", "..", "%00", "%2e%2e%2fother", "x" * 300, "한글", "🙂", "a b", "_house", "a/b", "a\\b", "a\tb", "\ud800", *INJECTED)

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path / "home") as opened:
        add_user(opened.session(), "ada", password=GOOD)
        add_group(opened.session(), "demand")
        yield opened


@pytest.fixture
def client(house: House, tmp_path: Path) -> Iterator[TestClient]:
    signed_in = f"Basic {base64.b64encode(f'ada:{GOOD}'.encode()).decode()}"
    app = build_application(house, folder=tmp_path)
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, headers={"Authorization": signed_in}) as opened:
        yield opened


def names_of(house: House) -> tuple[list[str], list[str]]:
    owner = house.session()
    return [person.name for person in list_people(owner, everybody=True)], [line.name for line in list_groups(owner, everywhere=True)]


ASKED: list[tuple[str, dict[str, str]]] = [
    ("users/add", {"name": "{}"}),
    ("users/grant", {"name": "{}", "role": "viewer"}),
    ("users/grant", {"name": "ada", "role": "viewer", "workspace": "{}"}),
    ("users/grant", {"name": "ada", "role": "{}", "workspace": "shoes"}),
    ("users/password", {"name": "{}", "password": GOOD}),
    ("users/disable", {"name": "{}"}),
    ("users/unlock", {"name": "{}"}),
    ("users/admin", {"name": "{}"}),
    ("groups/add", {"name": "{}"}),
    ("groups/show", {"group": "{}"}),
    ("groups/join", {"group": "demand", "user": "{}"}),
    ("groups/join", {"group": "{}", "user": "ada"}),
    ("groups/leave", {"group": "{}"}),
    ("groups/rename", {"group": "demand", "name": "{}"}),
    ("groups/grant", {"group": "{}", "role": "viewer"}),
    ("groups/grant", {"group": "demand", "role": "viewer", "workspace": "{}"}),
    ("groups/remove", {"group": "{}"}),
    ("tokens/make", {"label": "nightly", "user": "{}"}),
    ("tokens/make", {"label": "nightly", "workspace": "{}"}),
    ("tokens/revoke", {"token": "{}"}),
    ("tokens/rotate", {"token": "{}"}),
]


@pytest.mark.parametrize(("path", "values"), ASKED)
def test_a_name_that_cannot_be_is_refused_by_every_verb_over_http(house: House, client: TestClient, path: str, values: dict[str, str]) -> None:
    before = names_of(house)
    for name in NAMES:
        body = {key: value.replace("{}", name) for key, value in values.items()}
        if "\ud800" in name:
            said = client.post(f"/api/v1/{path}", content=str(body).replace("'", '"'), headers={"Content-Type": "application/json"})
        else:
            said = client.post(f"/api/v1/{path}", json=body)
        assert said.status_code in (400, 404), (name, said.text)
        assert len(said.text) < 1000
    assert names_of(house) == before
    verify_audit(house.session(), house=True)
    verify_audit(house.session())


@pytest.mark.parametrize("name", [name for name in NAMES if "\ud800" not in name])
def test_a_workspace_that_cannot_be_is_refused_in_the_header(house: House, name: str) -> None:
    said = base64.b64encode(f"ada:{GOOD}".encode())
    head = {b"authorization": b"Basic " + said, b"x-endcap-workspace": name.encode()}
    with pytest.raises(RequestRefused) as refused:
        anyio.run(SignIn(house).sign_in, head, {"client": None})
    assert refused.value.status == 400
    assert len(str(refused.value.error)) < 1000
    assert list_audit(house.session(), house=True, outcome="refused", limit=1)[0].thing == "user/ada"


@pytest.mark.parametrize("text", INJECTED)
def test_texts_that_are_commands_elsewhere_are_texts(house: House, client: TestClient, text: str) -> None:
    """Passwords, labels and names at a provider are kept as they are, or refused; they are never run, and never split a header."""
    label = client.post("/api/v1/tokens/make", json={"label": text})
    claim = client.post("/api/v1/groups/claim", json={"group": "demand", "claim": text})
    printable = text.isprintable()
    assert (label.status_code, claim.status_code) == ((200, 200) if printable else (400, 400))
    if printable:
        assert (label.json()["label"], claim.json()["claim"]) == (text, text)
        assert client.get("/api/v1/tokens/ls").json()[0]["label"] == text
    password = f"{text} {GOOD}"
    assert client.post("/api/v1/users/add", json={"name": "bob", "password": password}).status_code == 200
    assert client.post("/api/v1/users/grant", json={"name": "bob", "role": "viewer"}).status_code == 200
    for typed, status in ((password, 200), (GOOD, 401), (f"{password}'", 401)):
        basic = base64.b64encode(f"bob:{typed}".encode()).decode()
        assert client.get("/api/v1/users/ls", headers={"Authorization": f"Basic {basic}"}).status_code == status
    name = base64.b64encode(f"{text}:{GOOD}".encode()).decode()
    assert client.get("/api/v1/users/ls", headers={"Authorization": f"Basic {name}"}).status_code == 401
    assert names_of(house) == (["ada", "bob"], ["demand"])


def test_a_name_that_cannot_be_is_refused_on_the_command_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    home = ("--project", str(tmp_path))
    with open_house(tmp_path / ".endcap") as house:
        add_user(house.session(), "ada")
        add_group(house.session(), "demand")
    commands = [
        ("groups", "add", "--", "{}"),
        ("groups", "join", "--", "demand", "{}"),
        ("groups", "grant", "--workspace", "{}", "demand", "viewer"),
        ("groups", "rename", "--", "demand", "{}"),
        ("users", "grant", "--", "{}", "viewer"),
        ("users", "ls", "--workspace", "{}"),
        ("tokens", "make", "nightly", "--user", "{}"),
    ]
    for name in (name for name in NAMES if "\ud800" not in name):
        for command in commands:
            *words, last = (word.replace("{}", name) for word in command)
            said = cli(words[0], words[1], *home, "--json", *words[2:], last)
            assert said.code in (2, 3), (command, name, said)
            assert said.error["code"] in ("invalid_input", "not_found")
    with open_house(tmp_path / ".endcap") as house:
        assert names_of(house) == (["ada"], ["demand"])
        verify_audit(house.session(), house=True)
