from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from endcap.faces.http.route_table import RouteTable


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.method} {request.url.path}")


async def rest(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"rest {request.path_params['path']}", status_code=418)


ROUTES = [Route("/a", echo, methods=["GET"]), Route("/a", echo, methods=["POST"]), Route("/a/b", echo, methods=["PATCH"])]


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=[RouteTable(ROUTES)]))


@pytest.mark.parametrize(("method", "path"), [("GET", "/a"), ("POST", "/a"), ("PATCH", "/a/b"), ("HEAD", "/a")])
def test_a_path_is_found_by_its_method(client: TestClient, method: str, path: str) -> None:
    said = client.request(method, path)
    assert said.status_code == 200
    assert method == "HEAD" or said.text == f"{method} {path}"


def test_what_is_not_in_the_table_is_as_it_would_be_without(client: TestClient) -> None:
    plain = TestClient(Starlette(routes=ROUTES))
    for method, path in (("GET", "/"), ("GET", "/a/c"), ("DELETE", "/a"), ("GET", "/a/b"), ("OPTIONS", "/a/b"), ("GET", "/a/")):
        ours, theirs = client.request(method, path), plain.request(method, path)
        assert (ours.status_code, ours.headers.get("allow")) == (theirs.status_code, theirs.headers.get("allow")), (method, path)


def test_a_wrong_method_leaves_the_path_to_those_that_come_after() -> None:
    client = TestClient(Starlette(routes=[RouteTable(ROUTES), Route("/{path:path}", rest, methods=["GET", "DELETE"])]))
    assert client.get("/a").status_code == 200
    assert client.delete("/a").text == "rest a"


def test_a_route_with_named_parts_is_none_of_its() -> None:
    with pytest.raises(AssertionError, match="named parts"):
        RouteTable([Route("/a/{b}", echo)])
