"""The service with people: a newcomer's first call, a process with TLS, users and tokens, what another workspace sees of it, and who is told."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from endcap.assembly import open_house
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.notices import notify
from endcap.governance.people import add_user
from endcap.governance.tokens import make_token
from endcap.governance.webhooks import add_webhook
from endcap.testing.certificates import write_certificate
from endcap.testing.receivers import receiving

GOOD = "pine under marble"
MLFLOW = "/api/2.0/mlflow"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service(NamedTuple):
    process: subprocess.Popen[str]
    port: int
    cert: Path | None

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request; headers are said with underscores."""
        if self.cert is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        else:
            trusting = ssl.create_default_context(cafile=str(self.cert))
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=trusting)
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        said = {"Content-Type": "application/json"} if payload is not None else {}
        try:
            connection.request(method, path, body=payload, headers={**said, **{name.replace("_", "-"): value for name, value in headers.items()}})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: object, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)


@contextmanager
def started(*arguments: object, cert: Path | None = None, **environ: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--port", "0", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Endcap listens on http"), line + (process.stderr.read() if process.stderr else "")
        yield Service(process, int(line.rpartition(":")[2]), cert)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def said(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """A command on the home of the test, with a line on its standard input."""

    def call(*arguments: object, typed: str = "") -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return cli(*arguments, "--json", "--home", tmp_path / "home")

    return call


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def test_a_newcomers_first_call_just_works_until_there_is_a_user(tmp_path: Path, said: Callable[..., Any]) -> None:
    with started("--home", tmp_path / "home") as service:
        made = service.post(f"{MLFLOW}/experiments/create", {"name": "first"})
        assert made.status == 200
        found = service.ask("GET", f"{MLFLOW}/experiments/get-by-name?experiment_name=first").json
        assert found["experiment"]["experiment_id"] == made.json["experiment_id"]
        stray = service.ask("GET", f"{MLFLOW}/experiments/get-by-name?experiment_name=first", **bearer("dapi0123456789"))
        assert (stray.status, stray.json["error_code"]) == (401, "UNAUTHENTICATED")
        assert "MLFLOW_TRACKING_TOKEN" in stray.json["message"]
        page = service.post(f"{MLFLOW}/experiments/create", {"name": "theirs"}, Origin="https://evil.example")
        assert (page.status, page.json["error_code"]) == (403, "PERMISSION_DENIED")
        assert said("users", "add", "ada", typed=f"{GOOD}\n").json["admin"]
        until_seen(lambda: service.ask("GET", "/api/v1/ls").status == 401)
        assert service.post(f"{MLFLOW}/experiments/create", {"name": "second"}).status == 401
        assert service.post(f"{MLFLOW}/experiments/create", {"name": "second"}, **basic("ada", GOOD)).status == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=60) == 0


def handshake(service: Service, at_most: ssl.TLSVersion) -> str:
    """The cipher that is agreed on with a client of at most some version of TLS."""
    context = ssl.create_default_context(cafile=str(service.cert))
    context.maximum_version = at_most
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as agreed,
    ):
        return str(agreed.cipher())


def until_seen(holds: Callable[[], bool]) -> None:
    """What other processes do is seen within a second; the machine may be slow."""
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def people(said: Callable[..., Any]) -> dict[str, str]:
    """ada owns default and administers the house, bob trains in default, eve owns shoes; the tokens of each."""
    said("users", "add", "ada", typed=f"{GOOD}\n")
    said("users", "add", "bob", typed="")
    said("users", "add", "eve", typed="")
    said("users", "grant", "bob", "editor")
    said("users", "grant", "eve", "owner", "--workspace", "shoes")
    tokens = {}
    for user, workspace in (("ada", "default"), ("bob", "default"), ("eve", "shoes")):
        made = said("tokens", "make", f"of {user}", "--user", user, "--workspace", workspace)
        assert made.code == 0, made
        tokens[user] = made.json["token"]
    return tokens


def test_a_service_that_others_reach_signs_everybody_in_over_tls(tmp_path: Path, people: dict[str, str], said: Callable[..., Any]) -> None:
    cert, key = write_certificate(tmp_path, names=("127.0.0.1", "endcap.example.org"))
    home = ("--home", tmp_path / "home")
    names = ("--name", "endcap.example.org", "--tls-cert", cert, "--tls-key", key)
    with started(*home, "--host", "0.0.0.0", *names, cert=cert) as service:
        assert service.ask("GET", "/healthz").status == 200
        assert service.ask("GET", "/api/v1/ls").status == 401
        assert service.ask("GET", "/api/v1/ls", **bearer(people["bob"])).status == 200
        assert service.ask("GET", "/api/v1/ls", **basic("ada", GOOD)).status == 200
        assert service.ask("GET", "/api/v1/ls", **basic("ada", "wrong")).status == 401
        assert service.ask("GET", "/api/v1/ls", **bearer(people["bob"]), Host="endcap.example.org").status == 200
        assert service.ask("GET", "/api/v1/ls", **bearer(people["bob"]), Host="evil.example").status == 403
        listed = service.post("/api/v1/tokens/make", {"label": "more"}, **bearer(people["bob"]))
        assert (listed.status, "A token makes no tokens" in listed.json["error"]) == (403, True)
        assert service.post("/api/v1/users/add", {"name": "mallory", "admin": True}, **bearer(people["ada"])).status == 403, (
            "a token administers nothing"
        )
        assert service.post("/api/v1/users/add", {"name": "zoe", "password": GOOD[::-1]}, **basic("ada", GOOD)).status == 200
        assert service.ask("GET", "/api/v1/ls", **basic("zoe", GOOD[::-1])).json["error"] == "'zoe' has no role in workspace 'default'."
        assert GOOD[::-1] not in service.ask("GET", "/api/v1/audit?house=true", **basic("ada", GOOD)).body.decode()
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200" not in plain.recv(1000)
        assert "GCM" in handshake(service, ssl.TLSVersion.TLSv1_2)
        with pytest.raises(ssl.SSLError), pytest.warns(DeprecationWarning, match="TLSv1_1"):
            handshake(service, ssl.TLSVersion.TLSv1_1)
        with pytest.raises(ssl.SSLError):
            http.client.HTTPSConnection("127.0.0.1", service.port, timeout=20, context=ssl.create_default_context()).connect()
        revoked = said("tokens", "revoke", people["bob"].split("_")[1])
        assert revoked.json["state"] == "revoked"
        until_seen(lambda: service.ask("GET", "/api/v1/ls", **bearer(people["bob"])).status == 401)


def test_the_token_of_another_workspace_sees_nothing(tmp_path: Path, people: dict[str, str]) -> None:
    bob, eve = bearer(people["bob"]), bearer(people["eve"])
    with started("--home", tmp_path / "home") as service:
        experiment = service.post(f"{MLFLOW}/experiments/create", {"name": "secret-shop"}, **bob).json["experiment_id"]
        run = service.post(f"{MLFLOW}/runs/create", {"experiment_id": experiment, "start_time": 1}, **bob).json["run"]["info"]["run_id"]
        assert service.post(f"{MLFLOW}/runs/log-metric", {"run_id": run, "key": "wape", "value": 0.1, "timestamp": 1}, **bob).status == 200
        path = f"/api/2.0/mlflow-artifacts/artifacts/run/{run}/notes.txt"
        assert service.ask("PUT", path, b"takings", Content_Type="text/plain", **bob).status == 200
        assert service.post(f"{MLFLOW}/registered-models/create", {"name": "till"}, **bob).status == 200
        assert service.ask("GET", path, **bob).body == b"takings"

        hidden = [
            service.ask("GET", f"{MLFLOW}/experiments/get?experiment_id={experiment}", **eve),
            service.ask("GET", f"{MLFLOW}/experiments/get-by-name?experiment_name=secret-shop", **eve),
            service.ask("GET", f"{MLFLOW}/runs/get?run_id={run}", **eve),
            service.ask("GET", f"{MLFLOW}/metrics/get-history?run_id={run}&metric_key=wape", **eve),
            service.post(f"{MLFLOW}/runs/log-metric", {"run_id": run, "key": "wape", "value": 9, "timestamp": 2}, **eve),
            service.post(f"{MLFLOW}/runs/delete", {"run_id": run}, **eve),
            service.ask("GET", path, **eve),
            service.ask("PUT", path, b"forged", Content_Type="text/plain", **eve),
            service.ask("DELETE", path, **eve),
            service.ask("GET", f"{MLFLOW}/registered-models/get?name=till", **eve),
        ]
        assert [answer.status for answer in hidden] == [404] * len(hidden), [(i, a.status, a.body[:200]) for i, a in enumerate(hidden)]
        for answer in hidden:
            assert b"takings" not in answer.body
        searched = service.post(f"{MLFLOW}/runs/search", {"experiment_ids": [experiment]}, **eve)
        assert searched.json.get("runs", []) == []
        assert "secret-shop" not in service.post(f"{MLFLOW}/experiments/search", {"max_results": 100}, **eve).body.decode()
        other = service.ask("GET", f"{MLFLOW}/runs/get?run_id={run}", X_Endcap_Workspace="default", **eve)
        assert other.status == 403, "a token is of one workspace"
        assert service.ask("GET", path, **bob).body == b"takings"
        assert "bob" in {row["actor"] for row in service.ask("GET", "/api/v1/audit", **bearer(people["ada"])).json}
        assert "till" not in service.ask("GET", "/api/v1/audit", **eve).body.decode()


def test_webhooks_are_told_while_the_service_runs(tmp_path: Path, said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_WEBHOOK_HOSTS", "127.0.0.1")
    with receiving() as receiver:
        made = said("webhooks", "add", f"http://127.0.0.1:{receiver.port}/x", "--kinds", "release")
        assert made.json["place"] == f"http://127.0.0.1:{receiver.port}/***"
        with started("--home", tmp_path / "home") as service, open_house(tmp_path / "home") as house:
            session = house.session()
            with session.change("promote", thing="version/v2") as change:
                notify(session, change, kind="release", thing="version/v2", sentence="v2 answers")
            assert receiver.arrived.wait(30)
            until_seen(lambda: service.ask("GET", "/api/v1/notices").json[0]["n_delivered"] == 1)
        assert json.loads(receiver.requests[0].body)["text"] == "v2 answers"
        refused = said("webhooks", "add", "https://169.254.169.254/latest/meta-data")
        assert (refused.code, refused.error["code"]) == (4, "permission_denied")


def test_people_and_notices_in_postgres(tmp_path: Path, postgres_home: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The service looks people up beside what it answers, as it does so over a wire. A home without a folder is told where its master key is."""
    url, key = postgres_home(), tmp_path / "master.key"
    key.write_text(bytes(range(32)).hex())
    key.chmod(0o600)
    monkeypatch.setenv("ENDCAP_MASTER_KEY_FILE", str(key))
    monkeypatch.setenv("ENDCAP_WEBHOOK_HOSTS", "127.0.0.1")
    with receiving() as receiver, open_house(url) as house:
        owner = house.session()
        add_user(owner, "ada", password=GOOD)
        token = make_token(owner, "nightly", user="ada").token
        add_webhook(owner, f"http://127.0.0.1:{receiver.port}/x")
        with owner.change("promote", thing="version/v2") as change:
            notify(owner, change, kind="release", thing="version/v2", sentence="v2 answers")
        with started("--home", url) as service:
            assert service.ask("GET", "/api/v1/ls").status == 401
            for headers in (bearer(token), bearer(token), basic("ada", GOOD)):
                assert service.ask("GET", "/api/v1/ls", **headers).status == 200
            assert service.ask("GET", "/api/v1/ls", **bearer(token[:-1])).status == 401
            assert receiver.arrived.wait(30)
        assert [row.verb for row in list_audit(owner, house=True)] == ["sign-in", "make-data-key", "begin-master-key", "users add"]
        verify_audit(owner, house=True)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--host", "0.0.0.0", "--name", "a.example"), "without TLS: passwords and tokens could be read on the way"),
        (("--host", "0.0.0.0", "--behind-proxy"), "no name is given"),
        (("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--behind-proxy"), "give one of them"),
        (("--host", "192.0.2.1", "--behind-proxy"), "cannot be had"),
    ],
)
def test_what_cannot_be_served_to_others_is_told(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], what: str
) -> None:
    with open_house(tmp_path / "home") as house:
        add_user(house.session(), "ada")
    monkeypatch.chdir(tmp_path)
    write_certificate(tmp_path)
    answer = cli("up", *arguments, "--home", tmp_path / "home")
    assert (answer.code, answer.out) == (2, "")
    assert what in answer.err


def test_a_password_is_typed_and_never_an_option(said: Callable[..., Any]) -> None:
    assert said("users", "add", "ada", "--password", GOOD).code == 2
    assert said("users", "add", "ada", typed="short\n").error["error"] == "The password has 5 characters; the fewest are 12."
    assert said("users", "add", "ada", typed=f"{GOOD}\n").json["has_password"]
    assert said("users", "password", "ada", typed="").error["error"] == "There is no password."
    assert said("users", "password", "ada", typed=f"{GOOD[::-1]}\r\n").code == 0
    assert [person["name"] for person in said("users", "ls").json] == ["ada"]
    assert [row["verb"] for row in said("audit", "--house").json] == ["users password", "users add"]
    assert said("audit", "--house", "--verify").json["n_rows"] == 2
    assert said("audit", "--workspace", "_house").code == 2


def test_every_command_takes_the_workspace_of_the_environment(said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said("users", "add", "ada")
    monkeypatch.setenv("ENDCAP_WORKSPACE", "shoes")
    assert said("users", "grant", "ada", "editor").json["roles"] == {"shoes": "editor"}
    assert said("tokens", "make", "nightly", "--user", "ada").json["workspace"] == "shoes"
    assert [token["label"] for token in said("tokens", "ls").json] == ["nightly"]
    assert said("tokens", "ls", "--workspace", "default").json == []
