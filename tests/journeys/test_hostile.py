"""Requests that somebody made to do harm, one by one, against the service as a process: nothing is done, nothing is told, and it goes on answering.

What a request can say that is well formed is tried against every path in tests/unit/faces/http/test_hostile_values.py; sign-in has its own tests
(tests/unit/faces/http/test_sessions.py, test_prefixes.py), as has the line of sites and hosts (test_gateway.py).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from endcap.assembly import open_house
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.wire import MOST_HEAD_BYTES
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.tokens import make_token
from endcap.loop.training.tracking.run_files import list_files, put_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.backups import backup

PASSWORD = "long enough to be guessed by none"


class Served(NamedTuple):
    """A service that knows users, and what signs in: tokens of an owner in each of two workspaces, and a run with a file in the second."""

    port: int
    home: Path
    shoes: str
    hats: str
    run: str

    def send(self, request: bytes) -> bytes:
        """What comes back for bytes that are sent as they are, until the service ends the connection."""
        said = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as wire, suppress(ConnectionResetError, BrokenPipeError):
            with suppress(ConnectionResetError, BrokenPipeError):  # it has ended the connection already, and may have said why
                wire.sendall(request)
            while chunk := wire.recv(65_536):
                said += chunk
        return said

    def ask(self, method: str, path: str, *headers: str, body: bytes = b"", token: str | None = None) -> tuple[int, bytes]:
        """Status and body of one request, written as it is said."""
        known = [f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {token or self.shoes}", "Connection: close"]
        length = [f"Content-Length: {len(body)}"] if body or method in ("POST", "PUT") else []
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *known, *length, *headers, "", ""])
        return read(self.send(head.encode("utf-8") + body))

    def is_up(self) -> bool:
        return read(self.send(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode()))[0] == 200


def read(said: bytes) -> tuple[int, bytes]:
    """The status and the body of an answer; 0 for none."""
    if not said:
        return 0, b""
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    with open_house(folder / ".endcap") as house:
        owner = house.session(actor="ada")
        add_user(owner, "ada", password=PASSWORD)
        tokens = {}
        for workspace in ("shoes", "hats"):
            grant_role(owner, "ada", "owner", workspace=workspace)
            tokens[workspace] = make_token(owner, "test", workspace=workspace).token
        hats = house.session(actor="ada", workspace="hats")
        run = start_run(hats, name="there").id
        put_file(hats, f"run/{run}", "note.txt", [b"kept"])
    command = [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--port", "0", "--project", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            yield Served(port, folder / ".endcap", tokens["shoes"], tokens["hats"], run)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def files_of(served: Served) -> list[str]:
    with open_house(served.home) as house:
        return [file.path for file in list_files(house.session(workspace="hats"), f"run/{served.run}")]


# Heads


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(lambda n: [f"X-Long: {'x' * n}"], id="one header"),
        pytest.param(lambda n: [f"X-{i}: {'y' * 100}" for i in range(n // 100)], id="many headers"),
        pytest.param(lambda n: [f"Authorization: Bearer endcap_{'z' * n}"], id="a token"),
    ],
)
def test_an_oversized_head_ends_the_connection(served: Served, head: Callable[[int], list[str]]) -> None:
    n = 40 * MOST_HEAD_BYTES
    status, body = read(served.send("\r\n".join(["GET /healthz HTTP/1.1", f"Host: 127.0.0.1:{served.port}", *head(n), "", ""]).encode()))
    assert status in (431, 0), "refused, or ended before the client had sent all"
    assert not body or json.loads(body)["error"] == "The head of the request is larger than 64 KiB."
    assert served.is_up()


def test_an_endless_path_and_a_head_without_an_end_are_not_kept(served: Served) -> None:
    for endless in (b"GET /" + b"a" * 4_000_000, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"b" * 4_000_000):
        assert read(served.send(endless))[0] in (431, 400, 0)
    assert served.ask("GET", f"/api/v1/history?model={'m' * 30_000}")[0] in (400, 404)
    assert served.is_up()


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /x",
        b"POST /api/v1/ls HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
        b"POST /api/v1/ls HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /api/v1/ls HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Folded: a\r\n b\r\nBad Header: c\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Null: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a hello of TLS",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 1000,
    ],
)
def test_a_head_that_two_readers_could_read_differently_is_refused(served: Served, lines: bytes) -> None:
    status, body = read(served.send(lines))
    assert status in (400, 0), body
    assert served.is_up()


def test_a_second_request_in_the_body_of_the_first_is_no_request(served: Served) -> None:
    inner = f"DELETE {FILES}/run/{served.run}/note.txt HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.hats}\r\n\r\n".encode()
    assert served.ask("POST", "/api/v1/ls", "Content-Type: application/json", body=inner)[0] == 400
    assert served.ask("GET", "/healthz", f"Content-Length: {len(inner)}", body=inner)[0] in (200, 400)
    assert files_of(served) == ["note.txt"]


# Headers that say that something else was meant

OVERRIDES = ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE", "X-Original-Method: DELETE")


@pytest.mark.parametrize("header", OVERRIDES)
def test_a_method_is_what_the_request_line_says(served: Served, header: str) -> None:
    file = f"{FILES}/run/{served.run}/note.txt"
    assert served.ask("GET", file, header, token=served.hats) == (200, b"kept")
    assert served.ask("GET", f"{file}?_method=DELETE", token=served.hats) == (200, b"kept")
    assert served.ask("POST", f"{MLFLOW}/runs/delete?_method=GET", header, "Content-Type: application/json", body=b"{}", token=served.hats)[0] == 400
    assert files_of(served) == ["note.txt"]


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /workspaces/hats/api/v1/track/search",
        "X-Rewrite-URL: /workspaces/hats/api/v1/track/search",
        "X-Forwarded-Prefix: /workspaces/hats",
        "X-Forwarded-Path: /workspaces/hats",
        "X-MLFLOW-WORKSPACE: hats",
        "X_Endcap_Workspace: hats",
        "Forwarded: for=127.0.0.1;host=evil.example",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-User: ada",
        "X-Remote-User: ada",
        "Cookie: endcap_session=ada; workspace=hats",
    ],
)
def test_no_other_header_names_a_path_a_workspace_or_a_user(served: Served, header: str) -> None:
    status, body = served.ask("GET", "/api/v1/track/search", header)
    assert (status, json.loads(body)) == (200, []), "shoes, as the token says: nothing runs there"
    nobody = f"GET /api/v1/track/search HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n{header}\r\nConnection: close\r\n\r\n".encode()
    assert read(served.send(nobody))[0] == 401


def test_a_whole_url_in_the_request_line_reaches_no_other_host_and_no_other_workspace(served: Served) -> None:
    for line in ("GET http://evil.example/workspaces/hats/api/v1/track/search HTTP/1.1", "CONNECT evil.example:443 HTTP/1.1", "TRACE / HTTP/1.1"):
        said = served.send(f"{line}\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.shoes}\r\nConnection: close\r\n\r\n".encode())
        assert read(said)[0] in (400, 403, 404, 405, 0)
        assert served.shoes.encode() not in said, "nothing is sent back"


@pytest.mark.parametrize("name", ["a\r\nX-Injected: yes", "a\nSet-Cookie: x=y", "a\r\n\r\nHTTP/1.1 200 OK"])
def test_what_a_request_names_is_no_header_of_the_answer(served: Served, name: str) -> None:
    for path in (
        f"{FILES}/run/{served.run}/{quote(name)}",
        f"/api/v1/show?thing={quote(name)}",
        f"/{quote(name)}",
        f"/workspaces/{quote(name)}/api/v1/ls",
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.hats}\r\nConnection: close\r\n\r\n"
        said = served.send(head.encode())
        answered, _, _ = said.partition(b"\r\n\r\n")
        assert read(said)[0] in (400, 404)
        assert b"injected" not in answered.lower()
        assert b"set-cookie" not in answered.lower()
        assert said.count(b"HTTP/1.1 ") == 1 + read(said)[1].count(b"HTTP/1.1 ")


# Pages of other sites


@pytest.mark.parametrize("prefix", ["", "/workspaces/hats"])
@pytest.mark.parametrize("header", ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"])
def test_a_page_of_another_site_reaches_nothing_even_with_credentials(served: Served, prefix: str, header: str) -> None:
    file = f"{prefix}{FILES}/run/{served.run}/note.txt"
    for method, path, body in (
        ("GET", f"{prefix}/api/v1/track/search", b""),
        ("POST", f"{prefix}/api/v1/tokens/make", b'{"label":"x"}'),
        ("POST", f"{prefix}{MLFLOW}/runs/delete", json.dumps({"run_id": served.run}).encode()),
        ("PUT", file, b"changed"),
        ("DELETE", file, b""),
        ("GET", f"{prefix}/healthz", b""),
    ):
        status, said = served.ask(method, path, header, "Content-Type: application/json", body=body, token=served.hats)
        assert status == 403, (method, path, said)
    assert files_of(served) == ["note.txt"]


def test_a_browser_is_never_told_that_another_site_may_ask(served: Served) -> None:
    for path in ("/api/v1/ls", f"{FILES}/run/{served.run}/note.txt", "/workspaces/hats/api/v1/ls"):
        asked = ("Origin: https://evil.example", "Access-Control-Request-Method: DELETE", "Access-Control-Request-Headers: authorization")
        said = served.send("\r\n".join([f"OPTIONS {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", *asked, "Connection: close", "", ""]).encode())
        assert read(said)[0] == 403
        assert b"access-control" not in said.lower()


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json, text/plain", ""]
)
def test_what_a_form_of_another_site_can_send_is_no_body(served: Served, kind: str) -> None:
    header = [f"Content-Type: {kind}"] if kind else []
    for path in ("/api/v1/tokens/make", "/workspaces/hats/api/v1/tokens/make", f"{MLFLOW}/runs/create"):
        assert served.ask("POST", path, *header, body=b'{"label":"x","experiment_id":"0"}', token=served.hats)[0] == 415


# A restore over what is served


def test_a_home_that_is_served_is_not_restored_over(served: Served, tmp_path: Path, cli: Callable[..., Any]) -> None:
    with open_house(tmp_path / "other") as other:
        start_run(other.session(), name="of another home")
        backup(other.session(), str(tmp_path / "vault"))
    before = served.ask("GET", "/api/v1/track/search", token=served.hats)
    said = cli("restore", tmp_path / "vault", "--home", served.home, "--json")
    assert (said.code, said.error["code"]) == (5, "conflict")
    assert "is served by process" in said.error["error"]
    assert served.ask("GET", "/api/v1/track/search", token=served.hats) == before, "it goes on as it was"
    with open_house(served.home) as house:
        row = list_audit(house.session(), house=True)[0]
        assert (row.verb, row.outcome, row.detail["why"]) == ("restore", "refused", "served")
        assert verify_audit(house.session(), house=True).intact


def test_an_empty_home_that_is_served_is_not_restored_into_either(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Whose service began a moment ago: what it answers must not become something else under its feet."""
    with open_house(tmp_path / "other") as other:
        start_run(other.session(), name="of another home")
        backup(other.session(), str(tmp_path / "vault"))
    (tmp_path / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    command = [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--port", "0", "--project", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        try:
            assert process.stdout is not None
            assert "listens" in process.stdout.readline()
            said = cli("restore", tmp_path / "vault", "--project", tmp_path, "--json")
            assert (said.code, said.error["code"]) == (5, "conflict")
            assert "is served by process" in said.error["error"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_a_connection_that_says_nothing_keeps_nobody_waiting(served: Served) -> None:
    """Many that have begun a head and stop: others are answered, and none was told anything."""
    waiting = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(50)]
    try:
        for wire in waiting:
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert served.is_up()
        assert not select.select(waiting, [], [], 0)[0]
    finally:
        for wire in waiting:
            wire.close()
    assert served.is_up()
