"""The description of the service: OpenAPI 3.1, from the table of verbs and the types of their parameters and results."""

from __future__ import annotations

from importlib.metadata import version
from itertools import chain
from typing import Any

import msgspec

from endcap.faces.codes import HTTP_STATUSES
from endcap.faces.http.prefixes import PREFIX
from endcap.faces.http.remote import API, RemoteVerb, remote_verbs
from endcap.faces.parameters import reflow, split_union
from endcap.governance.records import DEFAULT_WORKSPACE


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong: ``error`` says it, ``code`` names it, ``hint`` says what to do, ``details`` are for machines."""

    error: str
    code: str
    hint: str | None = None
    details: dict[str, Any] | None = None


class Health(msgspec.Struct, frozen=True):
    """That the service answers."""

    status: str
    version: str


def describe_service() -> dict[str, Any]:
    """The document. Every path is a verb, beside the description itself and ``/healthz``. Takes about 30 ms."""
    verbs = remote_verbs()
    results = {name: split_union(remote.verb.result) for name, remote in verbs.items()}
    types = [Error, Health, *(remote.parameters for remote in verbs.values()), *chain.from_iterable(results.values())]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    of_error, of_health, *others = schemas
    of_results = iter(others[len(verbs) :])
    paths: dict[str, Any] = {
        "/healthz": {"get": _operation("health", "Whether the service answers.", "", of_health)},
        f"{API}/openapi.json": {"get": _operation("openapi", "This description.", "", {"type": "object"})},
    }
    for remote, parameters in zip(verbs.values(), others, strict=False):
        parts = [next(of_results) for _ in results[remote.verb.name]]
        paths[remote.path] = _describe_verb(remote, parameters, parts[0] if len(parts) == 1 else {"anyOf": parts}, components)
    failed = {"description": "An error.", "content": {"application/json": {"schema": of_error}}}
    statuses = "; ".join(f"{status} {code.replace('_', ' ')}" for code, status in HTTP_STATUSES.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Endcap",
            "version": version("endcap"),
            "description": f"The verbs: each is POST with its parameters as a JSON object; those that read are GET too. Errors: {statuses}.",
        },
        "servers": [
            {"url": "/", "description": "The workspace of the token, or of the header X-Endcap-Workspace, or default."},
            {
                "url": f"{PREFIX}{{workspace}}",
                "description": "The workspace that is named.",
                "variables": {"workspace": {"default": DEFAULT_WORKSPACE}},
            },
        ],
        "paths": paths,
        "components": {"schemas": components, "responses": {"Failed": failed}},
    }


def _describe_verb(remote: RemoteVerb, parameters: dict[str, Any], result: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    verb = remote.verb
    more = reflow(verb.help.partition("\n")[2]).strip()
    name, words = verb.name.replace(" ", "-"), f"{more}\n\nPermission: {verb.permission}.".strip()
    post = _operation(name, reflow(verb.summary), words, result)
    post["requestBody"] = {"required": bool(_required(remote)), "content": {"application/json": {"schema": parameters}}}
    if not remote.by_query:
        return {"post": post}
    get = _operation(f"get-{name}", reflow(verb.summary), words, result)
    given = components[parameters["$ref"].rpartition("/")[2]]["properties"]
    get["parameters"] = [
        {"name": key, "in": "query", "required": key in _required(remote), "description": schema.get("description", ""), "schema": schema}
        for key, schema in given.items()
    ]
    return {"get": get, "post": post}


def _required(remote: RemoteVerb) -> list[str]:
    return [field.name for field in msgspec.structs.fields(remote.parameters) if field.required]


def _operation(name: str, summary: str, words: str, result: dict[str, Any]) -> dict[str, Any]:
    done = {"description": "Done.", "content": {"application/json": {"schema": result}}}
    shown = {"description": words} if words else {}
    return {"operationId": name, "summary": summary, **shown, "responses": {"200": done, "default": {"$ref": "#/components/responses/Failed"}}}
