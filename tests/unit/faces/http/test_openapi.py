from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.faces.cli.commands import offered_verbs
from endcap.faces.codes import HTTP_STATUSES
from endcap.faces.http.answers import encode_error, encode_result
from endcap.faces.http.openapi import Error, describe_service
from endcap.faces.http.remote import local_verbs, remote_verbs

OWN = {"/healthz", "/api/v1/openapi.json"}


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(encode_result(describe_service()))


def test_it_is_a_valid_description(document: Any) -> None:
    assert document["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_paths_are_the_verbs_that_requests_can_call(document: Any) -> None:
    assert set(document["paths"]) - OWN == {entry.path for entry in remote_verbs().values()}
    for name, entry in remote_verbs().items():
        methods = set(document["paths"][entry.path])
        assert methods == ({"get", "post"} if entry.verb.permission is Permission.READ and name != "features online" else {"post"}), name


def test_the_command_line_offers_what_requests_can_call_and_more() -> None:
    taking_rows = {"features online", "features push"}
    assert set(remote_verbs()) - set(offered_verbs()) <= taking_rows
    assert set(offered_verbs()) - set(remote_verbs()) <= set(local_verbs())


@pytest.mark.parametrize("name", list(remote_verbs()))
def test_an_operation_says_what_it_takes_and_gives(document: Any, name: str) -> None:
    entry = remote_verbs()[name]
    post = document["paths"][entry.path]["post"]
    schema = document["components"]["schemas"][post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert set(schema["properties"]) == set(entry.parameters.__struct_fields__)
    assert schema["additionalProperties"] is False
    required = [p.name for p in entry.verb.parameters if p.default is p.empty and p.name != "folder"]
    assert schema.get("required", []) == required
    assert post["requestBody"]["required"] == bool(required)
    assert post["responses"]["200"]["content"]["application/json"]["schema"]
    assert post["summary"]
    assert "`" not in post["summary"] + post["description"]
    if entry.by_query:
        given = document["paths"][entry.path]["get"]["parameters"]
        assert [p["name"] for p in given] == list(entry.parameters.__struct_fields__)
        assert [p["name"] for p in given if p["required"]] == required


def test_results_are_described_by_their_records(document: Any) -> None:
    shown = document["paths"]["/api/v1/show"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert {part["$ref"] for part in shown["anyOf"]} >= {"#/components/schemas/ModelView", "#/components/schemas/VersionView"}
    runs = document["paths"]["/api/v1/runs"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert runs == {"type": "array", "items": {"$ref": "#/components/schemas/Run"}}


def test_errors_are_described_as_they_are_written(document: Any) -> None:
    for error in (InvalidInput("No."), InvalidInput("No.", hint="yes", rows=[1])):
        assert msgspec.to_builtins(msgspec.json.decode(encode_error(error), type=Error)) == error.to_dict()
    assert set(document["components"]["schemas"]["Error"]["properties"]) == {"error", "code", "hint", "details"}
    for code, status in HTTP_STATUSES.items():
        assert f"{status} {code.replace('_', ' ')}" in document["info"]["description"]


def test_names_of_operations_are_unique(document: Any) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_it_is_served(tea: TestClient, document: Any) -> None:
    assert tea.get("/api/v1/openapi.json").json()["info"] == document["info"]


def test_a_workspace_is_named_before_every_path() -> None:
    first, named = describe_service()["servers"]
    assert first["url"] == "/"
    assert (named["url"], named["variables"]) == ("/workspaces/{workspace}", {"workspace": {"default": "default"}})
