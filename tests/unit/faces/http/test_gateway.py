from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from endcap.core.errors import Conflict, NotSignedIn, PermissionDenied
from endcap.faces.http import gateway
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.gateway import Gateway, read_body
from endcap.faces.http.heads import STREAMED, Head, Place
from endcap.faces.http.sessions import SESSION
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

HOST = ("host", "127.0.0.1:8420")
JSON = ("content-type", "application/json")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body that it got, as an application behind the gateway."""
    assert scope["type"] == "http"
    message = await receive() if scope["method"] in ("POST", "PUT", "PATCH", "DELETE") else {"body": b"got"}
    assert scope[SESSION].actor.name == "ada"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


class Porter:
    """Lets in everybody but who says another password; counts how often it was asked for what it does not keep."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.session, self.keeps, self.n_asked = make_session(), keeps, 0

    def find_kept(self, head: Head) -> Session | None:
        return self.session if self.keeps else None

    async def sign_in(self, head: Head, scope: Scope) -> Session:
        self.n_asked += 1
        if head.get(b"authorization") != b"Bearer good":
            raise RequestRefused(401, PermissionDenied("Who are you?"))
        return self.session


async def reverse(body: bytes, session: Session) -> bytes:
    assert session.actor.name == "ada"
    if body == b"clash":
        raise Conflict("It stands already.", hint="read it again")
    if body == b"fail":
        raise RuntimeError("secret")
    return body[::-1]


def ask(
    *headers: tuple[str, str],
    method: str = "POST",
    path: str = "/slow",
    body: list[Message] | None = None,
    porter: Porter | None = None,
    place: Place | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request through the gateway: status, headers, body."""
    sent: list[Any] = []
    left = body if body is not None else [{"type": "http.request", "body": b"hello", "more_body": False}]

    async def receive() -> Message:
        if not left:
            await anyio.sleep_forever()
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers]}
    anyio.run(Gateway(echo, {"/quick": reverse}, porter or Porter(), place=place), scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}, sent[1]["body"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8420", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8420"])
def test_a_loopback_name_is_let_in_by_any_port(host: str) -> None:
    assert ask(("host", host), JSON) == (200, {}, b"hello")
    assert ask(("host", host), method="GET") == (200, {}, b"got")
    assert ask(("host", host), ("origin", f"http://{host}"), JSON)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("host", ""),),
        (("host", "evil.example"),),
        (("host", "127.0.0.1.evil.example"),),
        (("host", "localhost.evil.example:8420"),),
        (("host", "10.0.0.1"),),
        (("host", "[::2]"),),
        (("host", "évil"),),
        (HOST, ("host", "evil.example")),
        (HOST, HOST),
        (HOST, ("origin", "http://evil.example")),
        (HOST, ("origin", "null")),
        (HOST, ("origin", "http://localhost:8420")),
        (HOST, ("origin", "http://127.0.0.1:3000")),
        (HOST, ("origin", "https://127.0.0.1:8420")),
        (HOST, ("sec-fetch-site", "cross-site")),
        (HOST, ("sec-fetch-site", "same-site")),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/slow", "/quick"])
def test_another_name_or_another_site_is_not(headers: tuple[tuple[str, str], ...], method: str, path: str) -> None:
    status, answered, body = ask(*headers, JSON, method=method, path=path)
    assert (status, answered["content-type"], answered["connection"]) == (403, "application/json", "close")
    assert json.loads(body)["code"] == "permission_denied"


def test_what_decides_is_said_once() -> None:
    for name in ("origin", "content-type", "authorization", "x-endcap-workspace"):
        status, _, body = ask(HOST, (name, "a"), (name, "b"))
        assert (status, json.loads(body)["error"]) == (403, f"The request says its header {name} twice.")
    assert ask(HOST, JSON, ("x-forwarded-for", "a"), ("x-forwarded-for", "b"))[0] == 200


def test_another_name_is_let_in_where_the_service_has_it() -> None:
    place = Place(frozenset({"shop.example", "10.0.0.5"}), secure=True, hint="call it as https://shop.example")
    for host in ("shop.example", "Shop.example:443", "10.0.0.5:8420"):
        assert ask(("host", host), ("origin", f"https://{host}"), JSON, place=place)[0] == 200
        assert ask(("host", host), ("origin", f"http://{host}"), JSON, place=place)[0] == 403
    status, _, body = ask(("host", "evil.example"), JSON, place=place)
    assert (status, json.loads(body)["hint"]) == (403, "call it as https://shop.example")
    assert "this service has other names" in json.loads(body)["error"]


def test_who_asks_is_found_out_before_the_body_is_read() -> None:
    for path in ("/slow", "/quick"):
        porter, left = Porter(keeps=False), one(b"hello")
        status, headers, _ = ask(HOST, JSON, path=path, porter=porter, body=left)
        assert (status, headers["connection"], porter.n_asked, left) == (401, "close", 1, one(b"hello"))
        assert ask(HOST, JSON, ("authorization", "Bearer good"), path=path, porter=porter)[0] == 200
        assert ask(HOST, JSON, path=path, porter=Porter(keeps=True))[0] == 200


def test_a_client_of_mlflow_reads_why_it_is_refused() -> None:
    class Strict(Porter):
        async def sign_in(self, head: Head, scope: Scope) -> Session:
            raise RequestRefused(429, NotSignedIn("There were too many.", hint="wait"), headers=((b"retry-after", b"9"),))

    status, headers, body = ask(HOST, JSON, path="/api/2.0/mlflow/runs/create", porter=Strict(keeps=False))
    assert (status, headers["retry-after"]) == (401, "9")
    said = json.loads(body)
    assert (said["error_code"], said["message"], said["code"]) == ("UNAUTHENTICATED", "There were too many. Hint: wait", "not_signed_in")
    assert ask(HOST, JSON, porter=Strict(keeps=False))[0] == 429
    assert json.loads(ask(("host", "evil.example"), JSON, path="/api/3.0/mlflow/traces")[2])["error_code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods_bring_their_bodies_too(method: str) -> None:
    assert ask(HOST, JSON, method=method) == (200, {}, b"hello")
    assert ask(HOST, ("content-type", "text/plain"), method=method)[0] == 415
    assert ask(HOST, method=method)[0] == 200, "no form sends it, with or without a sort of body"


def test_files_of_runs_are_handed_on_as_they_come(small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{STREAMED}1/2/artifacts/model.bin"
    assert small(HOST, method="PUT", path=path, body=chunks(b"more than four", b"...")) == (200, {}, b"more than four"), (
        "the first part, unread by us"
    )
    assert small(HOST, ("content-type", "text/plain"), method="POST", path=path)[0] == 415
    assert small(HOST, ("origin", "null"), method="PUT", path=path)[0] == 403
    monkeypatch.setattr(gateway, "_BODY_S", 0.05)
    said: list[Message] = []

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        said.extend([await receive(), await receive()])

    async def drive() -> None:
        left = chunks(b"he", more=True)

        async def receive() -> Message:
            return left.pop() if left else await anyio.sleep_forever()

        scope = {"type": "http", "method": "PUT", "path": path, "headers": [(b"host", b"localhost")]}
        await Gateway(listen, {}, Porter())(scope, receive, lambda _: anyio.sleep(0))

    anyio.run(drive)
    assert said == [*chunks(b"he", more=True), {"type": "http.disconnect"}], "who sends no more counts as gone"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'])
def test_json_is_taken(kind: str) -> None:
    assert ask(HOST, ("content-type", kind), ("sec-fetch-site", "same-origin"))[2] == b"hello"


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/json; charset=latin-1"]
)
@pytest.mark.parametrize("path", ["/slow", "/quick"])
def test_what_a_form_of_another_site_could_send_is_not(kind: str | None, path: str) -> None:
    status, _, body = ask(HOST, *([] if kind is None else [("content-type", kind)]), path=path)
    assert (status, json.loads(body)["hint"]) == (415, "send the header Content-Type: application/json")


def test_a_packed_body_is_not_unpacked() -> None:
    assert ask(HOST, JSON, ("content-encoding", "identity"))[0] == 200
    status, _, body = ask(HOST, JSON, ("content-encoding", "gzip"))
    assert (status, json.loads(body)["error"]) == (415, "The body is encoded as 'gzip'.")


def test_a_quick_path_is_answered_without_the_application() -> None:
    status, headers, body = ask(HOST, JSON, path="/quick")
    assert (status, body) == (200, b"olleh")
    assert headers == {"content-type": "application/json", "content-length": "5"}
    status, headers, body = ask(HOST, method="GET", path="/quick")
    assert (status, headers["allow"], json.loads(body)["error"]) == (405, "POST", "/quick takes POST, not GET.")


def one(body: bytes) -> list[Message]:
    return [{"type": "http.request", "body": body, "more_body": False}]


def test_an_error_of_a_quick_path_has_the_one_shape() -> None:
    status, headers, body = ask(HOST, JSON, path="/quick", body=one(b"clash"))
    assert (status, "connection" in headers) == (409, False)
    assert json.loads(body) == {"code": "conflict", "error": "It stands already.", "hint": "read it again"}


def test_an_error_that_nobody_foresaw_is_told_without_its_text_and_logged() -> None:
    sent: list[Any] = []

    async def receive() -> Message:
        return one(b"fail")[0]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/quick", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}
    with pytest.raises(RuntimeError, match="secret"):
        anyio.run(Gateway(echo, {"/quick": reverse}, Porter()), scope, receive, send)
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"] == "The service failed: RuntimeError."


def test_a_sign_in_that_fails_is_told_without_its_text_and_logged() -> None:
    class Failing(Porter):
        async def sign_in(self, head: Head, scope: Scope) -> Session:
            raise RuntimeError("secret")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/slow", "headers": [(b"host", b"localhost")]}
    with pytest.raises(RuntimeError, match="secret"):
        anyio.run(Gateway(echo, {}, Failing(keeps=False)), scope, None, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]) == (500, "The service failed: RuntimeError.")


def chunks(*parts: bytes, more: bool = False) -> list[Message]:
    last = len(parts) - 1
    return [{"type": "http.request", "body": part, "more_body": more or i < last} for i, part in enumerate(parts)]


def test_a_body_comes_in_parts() -> None:
    assert ask(HOST, JSON, body=chunks(b"he", b"", b"llo"))[2] == b"hello"
    assert ask(HOST, JSON, body=chunks(b"he", b"llo"), path="/quick")[2] == b"olleh"
    assert ask(HOST, JSON, body=[{"type": "http.request"}])[2] == b""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(gateway, "MOST_BODY_BYTES", 4)
    return ask


def test_a_body_that_is_too_large_is_read_to_its_end_and_refused(small: Callable[..., Any]) -> None:
    assert small(HOST, JSON, body=chunks(b"four"))[0] == 200
    for body in (chunks(b"fives"), chunks(b"fo", b"ur", b"s"), chunks(*[b"12345"] * 6)):
        status, headers, said = small(HOST, JSON, body=body)
        assert (status, headers["connection"], body) == (413, "close", [])
        assert json.loads(said)["code"] == "invalid_input"


def test_a_body_without_end_is_not_read_to_its_end(small: Callable[..., Any]) -> None:
    endless = chunks(*[b"12345"] * 1000, more=True)
    assert small(HOST, JSON, body=endless)[0] == 413
    assert len(endless) > 990


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_BODY_S", 0.05)
    status, headers, said = ask(HOST, JSON, body=chunks(b"he", more=True))
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(said)["error"] == "The body did not come within 0.05 s."


def test_a_client_that_goes_away_gets_no_answer() -> None:
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def drive() -> None:
        assert await read_body(receive) is None
        scope = {"type": "http", "method": "POST", "path": "/quick", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}
        await Gateway(echo, {"/quick": reverse}, Porter())(scope, receive, send)

    anyio.run(drive)
    assert sent == []
