"""Whoever is refused over HTTP is refused in the audit too."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.permissions import Permission
from endcap.faces.http.application import build_application
from endcap.faces.http.remote import RemoteVerb, remote_verbs
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.tokens import make_token

pytestmark = pytest.mark.usefixtures("quick_passwords")
PASSWORD = "pine under marble"


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://") as opened:
        add_user(opened.session(), "ada", password=PASSWORD)
        add_user(opened.session(), "bea", password=PASSWORD)
        grant_role(opened.session(), "bea", "viewer")
        yield opened


@pytest.fixture
def client(house: House, tmp_path: Path) -> Iterator[TestClient]:
    app = build_application(house, folder=tmp_path, signing_in=SignIn(house))
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, client=("10.0.0.9", 5000)) as opened:
        yield opened


def bearer(house: House, user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {make_token(house.session(), 'test', user=user).token}"}


def basic(name: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{PASSWORD}'.encode()).decode()}", **more}


def fill(entry: RemoteVerb) -> dict[str, Any]:
    """Something of the right type for each parameter that must be given."""
    sorts = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    required = [field for field in msgspec.structs.fields(entry.parameters) if field.required]
    return {field.encode_name: sorts[msgspec.json.schema(field.type).get("type", "string")] for field in required}


def test_each_verb_that_a_viewer_may_not_call_is_refused_in_the_chain(client: TestClient, house: House) -> None:
    headers = bearer(house, "bea")
    n_before = len(list_audit(house.session(), limit=1000))
    asked = {name: entry for name, entry in remote_verbs().items() if entry.verb.permission not in (Permission.READ, Permission.SELF)}
    for name, entry in asked.items():
        said = client.post(entry.path, json=fill(entry), headers=headers)
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied"), name
    rows = list_audit(house.session(), outcome="refused", limit=1000)
    assert [(row.verb, row.actor) for row in reversed(rows)] == [(name, "bea") for name in asked]
    assert all(row.detail == {"needs": str(asked[row.verb].verb.permission)} for row in rows)
    assert len(asked) > 30
    assert verify_audit(house.session()).n_rows == n_before + len(asked)


def test_whoever_is_known_and_has_no_role_there_is_refused_in_the_house_s_chain(client: TestClient, house: House) -> None:
    for headers, workspace, thing in (
        (basic("bea", **{"X-Endcap-Workspace": "shoes"}), "shoes", "user/bea"),
        ({**(token := bearer(house, "bea")), "X-Endcap-Workspace": "hats"}, "hats", ""),
    ):
        said = client.post("/api/v1/ls", json={}, headers=headers)
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied")
        assert "10.0.0.9" not in said.text
        row = list_audit(house.session(), house=True)[0]
        assert (row.verb, row.outcome, row.detail["workspace"], row.detail["address"]) == ("sign-in", "refused", workspace, "10.0.0.9")
        assert row.thing == thing or row.thing.startswith("token/")
        assert f"user/{row.actor}" == thing or row.actor == "bea"
    assert client.post("/api/v1/ls", json={}, headers=token).status_code == 200
    assert list_audit(house.session(workspace="shoes")) == [], "a workspace that is none of theirs learns of nobody"


def test_a_token_that_would_make_a_token_is_refused_in_the_chain(client: TestClient, house: House) -> None:
    said = client.post("/api/v1/tokens/make", json={"label": "more"}, headers=bearer(house, "bea"))
    assert said.status_code == 403
    row = list_audit(house.session())[0]
    assert (row.verb, row.outcome, row.actor, row.detail) == ("tokens make", "refused", "bea", {"why": "asked by a token"})


def test_the_audit_is_asked_by_verb_outcome_and_time_over_http(client: TestClient, house: House) -> None:
    headers = bearer(house, "bea")
    client.post("/api/v1/sign-audit", json={}, headers=headers)
    query = "/api/v1/audit?verb=sign-audit&outcome=refused&since=2020-01-01&until=2100-01-01&limit=5&before=100"
    (row,) = client.get(query, headers=headers).json()
    assert (row["verb"], row["actor"]) == ("sign-audit", "bea")
    assert client.get("/api/v1/audit?since=soon", headers=headers).status_code == 400
    assert client.get("/api/v1/verify-audit?against=/etc/passwd", headers=headers).status_code == 400, "no request names a file of the server"
    assert client.get("/api/v1/audit-keys", headers=headers).json() == []
