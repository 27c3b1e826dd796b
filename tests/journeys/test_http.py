"""The service as a process of its own, asked by real clients: the loop from afar, what it refuses, how it ends."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.assembly import open_house
from endcap.loop.features.kept.materialisation import materialise

MODEL = "store-day"
JSON = {"Content-Type": "application/json"}
COMMAND = [sys.executable, "-m", "endcap.faces.cli.entry", "up"]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Service(NamedTuple):
    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """One request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, body=payload, headers={**(JSON if method == "POST" else {}), **(headers or {})})
            said = connection.getresponse()
            return Answer(said.status, {name.lower(): value for name, value in said.getheaders()}, said.read())
        finally:
            connection.close()

    def post(self, name: str, **parameters: object) -> Answer:
        return self.ask("POST", f"/api/v1/{name}", parameters)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """How it ended after a signal, and what it had said."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def started(*arguments: object, command: list[str] = COMMAND) -> Iterator[Service]:
    process = subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Endcap listens on http://127.0.0.1:"), line + (process.stderr.read() if process.stderr else "")
        yield Service(process, int(line.rpartition(":")[2]))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, open_shop: Callable[..., Any]) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    open_shop(folder).define("weekday_mean")
    with started("--port", 0, "--project", folder) as up:
        yield up


def test_the_loop_from_afar(service: Service, cli: Callable[..., Any]) -> None:
    assert service.ask("GET", "/healthz").json["status"] == "up"
    (planned,) = service.post("plan").json["models"]
    assert (planned["name"], planned["change"]) == (MODEL, "new")
    ran = service.post("run", model=MODEL)
    assert (ran.status, ran.json["champion"]) == (200, f"{MODEL}-v1")
    (line,) = service.ask("GET", "/api/v1/ls").json
    assert line["champion"] == f"{MODEL}-v1"
    assert service.ask("GET", f"/api/v1/history?model={MODEL}").body == service.post("history", model=MODEL).body
    shown = service.ask("GET", f"/api/v1/show?thing={MODEL}-v1").json
    assert shown["version"]["candidate"] == ran.json["judged"][0]["candidate"]
    steps = service.post("trace", thing=f"{MODEL}-v1").json
    assert steps == cli("trace", f"{MODEL}-v1", "--json", "--project", Path(planned_file(service)).parent).json
    audited = service.ask("GET", "/api/v1/audit?limit=500").json
    assert {row["verb"] for row in audited} >= {"apply", "promote"}
    assert service.post("verify-audit").json["n_rows"] == len(audited)


def test_two_services_share_a_home_in_a_database(
    tmp_path: Path, open_shop: Callable[..., Any], postgres_home: Callable[[], str], cli: Callable[..., Any]
) -> None:
    open_shop(tmp_path).define("weekday_mean")
    where = ("--project", tmp_path, "--home", postgres_home())
    with started("--port", 0, *where) as one, started("--port", 0, *where) as other:
        assert one.post("run", model=MODEL).json["champion"] == f"{MODEL}-v1"
        assert other.ask("GET", f"/api/v1/history?model={MODEL}").json == one.post("history", model=MODEL).json
        refused = other.post("promote", version=f"{MODEL}-v1")
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        assert cli("audit", "--verify", "--json", *where).json["intact"]
        assert not (tmp_path / ".endcap").exists()
        for each in (one, other):
            code, out, err = each.stop()
            assert (code, "s3cret" in f"{out}{err}") == (0, False)


def planned_file(service: Service) -> str:
    return str(service.post("plan").json["file"])


def test_what_a_request_can_get_wrong_is_told_in_one_shape(service: Service) -> None:
    told = {
        (400, "invalid_input"): [
            service.ask("POST", "/api/v1/plan", b"{"),
            service.ask("POST", "/api/v1/plan", b"[]"),
            service.post("history"),
            service.post("history", model=7),
            service.post("history", model=MODEL, folder="/etc"),
            service.post("history", model=MODEL, at="last Tuesday"),
            service.ask("GET", "/api/v1/audit?limit=many"),
            service.ask("GET", "/api/v1/audit?limit=-1"),
        ],
        (403, "permission_denied"): [
            service.ask("GET", "/healthz", headers={"Host": "evil.example"}),
            service.ask("POST", "/api/v1/plan", {}, headers={"Origin": "http://evil.example"}),
            service.ask("GET", "/api/v1/ls", headers={"Sec-Fetch-Site": "cross-site"}),
        ],
        (404, "not_found"): [
            service.ask("GET", "/api/v1/nothing"),
            service.post("forecast", file="sales.csv"),
            service.post("history", model="nothing"),
            service.post("show", thing="nothing"),
        ],
        (405, "invalid_input"): [service.ask("GET", "/api/v1/run"), service.ask("DELETE", "/api/v1/ls"), service.ask("PUT", "/healthz")],
        (413, "invalid_input"): [service.ask("POST", "/api/v1/plan", b" " * (17 * 2**20))],
        (415, "invalid_input"): [
            service.ask("POST", "/api/v1/plan", {}, headers={"Content-Type": "text/plain"}),
            service.ask("POST", "/api/v1/plan", {}, headers={"Content-Encoding": "gzip"}),
        ],
    }
    for (status, code), answers in told.items():
        for i, answer in enumerate(answers):
            assert (answer.status, answer.json["code"]) == (status, code), (i, answer)
            assert set(answer.json) <= {"error", "code", "hint", "details"}
            assert answer.json["error"]
    assert service.ask("GET", "/healthz").status == 200


def test_an_error_is_the_same_by_http_and_by_the_command_line(service: Service, cli: Callable[..., Any]) -> None:
    where = ("--json", "--project", Path(planned_file(service)).parent)
    for name, arguments, parameters in (
        ("history", ("nothing",), {"model": "nothing"}),
        ("history", (MODEL, "--at", "last Tuesday"), {"model": MODEL, "at": "last Tuesday"}),
        ("show", ("store-dya",), {"thing": "store-dya"}),
        ("features show", ("nothing",), {"view": "nothing"}),
    ):
        said = cli(*name.split(" "), *arguments, *where)
        assert said.code in (2, 3)
        assert said.error == service.post(name.replace(" ", "/"), **parameters).json


def test_what_cannot_be_done_as_things_stand_is_told(service: Service) -> None:
    service.post("run", model=MODEL)
    again = service.post("rollback", model=MODEL)
    assert (again.status, again.json["code"]) == (409, "conflict")
    assert "is its first release" in again.json["error"]
    project = Path(planned_file(service))
    text = project.read_text(encoding="utf-8")
    project.write_text(f"{text}\nec.Table('', '')\n", encoding="utf-8")
    broken = service.post("plan")
    project.write_text(text, encoding="utf-8")
    assert (broken.status, broken.json["code"]) == (422, "invalid_definition")
    assert service.post("plan").status == 200


VIEWS = """
import endcap as ec

visits = ec.Table("visits", "visits/*.parquet", keys=["store_id"], event_time="ts", zone="UTC")
traffic = ec.FeatureView(name="traffic", source=visits, every="1d", features={"n_7d": ec.sum("n", "7d"), "n_1d": ec.sum("n", "1d")}, max_age="3650d")
live = ec.FeatureView(name="live", source=visits, features=["n"], pushed=True)
"""
ONLINE = "features/online"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Iterator[Service]:
    """A service over a project with a view that was materialised."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "project.py").write_text(VIEWS, encoding="utf-8")
    (folder / "visits").mkdir()
    write_visits(folder, "1.parquet", [datetime(2026, 3, day) for day in range(1, 11)])  # noqa: DTZ001 - the table's zone says it
    assert cli("apply", "--yes", "--project", folder).code == 0
    with open_house(folder / ".endcap") as house:
        for view in ("traffic", "live"):
            assert materialise(house.session(), view).online == "done"
    with started("--port", 0, "--project", folder) as up:
        yield up


def write_visits(folder: Path, name: str, days: list[datetime]) -> None:
    """Each day every one of five stores has as many visits as its number."""
    rows = [(store, day) for day in days for store in range(1, 6)]
    stores, times = zip(*rows, strict=True)
    pq.write_table(pa.table({"store_id": stores, "ts": pa.array(times, pa.timestamp("us")), "n": stores}), folder / "visits" / name)


def test_features_are_found_and_read_with_their_freshness(stored: Service, cli: Callable[..., Any]) -> None:
    (found,) = stored.ask("GET", "/api/v1/features/search?words=traffic").json
    assert found["name"] == "traffic"
    assert stored.post("features/show", view="traffic").json["name"] == "traffic"
    said = stored.post(ONLINE, views=["traffic"], keys={"store_id": [1, 5, 6, None]}).json
    (view,) = said["views"]
    assert (said["n_keys"], view["view"], view["version"]) == (4, "traffic", found["version"])
    assert view["reasons"] == [None, None, "absent", "no key"]
    assert view["features"]["n_7d"][2:] == [None, None]
    assert view["event_at"][0] is not None
    assert view["age_s"][0] > 0
    assert stored.post(ONLINE, views=[f"traffic@{view['version']}"], keys={"store_id": [1]}).json["views"][0]["version"] == view["version"]


def test_ten_thousand_keys_are_read_at_once_and_no_more(stored: Service) -> None:
    said = stored.post(ONLINE, views=["traffic"], keys={"store_id": list(range(10_000))})
    assert (said.status, said.json["n_keys"]) == (200, 10_000)
    more = stored.post(ONLINE, views=["traffic"], keys={"store_id": list(range(10_001))})
    assert (more.status, more.json["error"]) == (400, "10,001 keys were asked for at once; the most are 10,000.")
    large = stored.post(ONLINE, views=["traffic"], keys={"store_id": ["x" * 2**20]})
    assert large.status == 400
    assert len(large.body) < 1000
    assert stored.post(ONLINE, views=["trafic"], keys={"store_id": [1]}).json["hint"] == "did you mean 'traffic'?"
    assert stored.post(ONLINE, views=["traffic"], keys={"__proto__'; DROP TABLE": [1]}).status == 400


def test_what_is_pushed_is_read_at_once(stored: Service) -> None:
    rows = [{"store_id": 3, "n": 33, "__event_at": "2026-03-11T08:00:00Z"}, {"store_id": 9, "n": None, "__event_at": "2026-03-11T08:00:00Z"}]
    pushed = stored.post("features/push", view="live", rows=rows)
    assert (pushed.status, pushed.json["n_rows"], pushed.json["n_online"]) == (200, 2, 2)
    (view,) = stored.post(ONLINE, views=["live"], keys={"store_id": [3, 9, 10]}).json["views"]
    assert (view["features"]["n"], view["reasons"]) == ([33, None, None], [None, None, "absent"])
    assert view["event_at"] == ["2026-03-11T08:00:00Z", "2026-03-11T08:00:00Z", None]
    older = stored.post("features/push", view="live", rows=[{"store_id": 3, "n": 1, "__event_at": "2026-03-01T08:00:00Z"}])
    assert (older.status, older.json["n_online"]) == (200, 0)
    assert stored.post("parity", view="live", keys=10, instants=0).json["passed"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"n": "33"}, "33"),
        ({"n": 1.5}, "1.5"),
        ({"store_id": None}, "store_id"),
        ({"store_id": "x" * 2**20}, "store_id"),
        ({"n": {"a": 1}}, "'n'"),
        ({"m": 1}, "'m'"),
        ({"__event_at": "2999-01-01T00:00:00Z"}, "2999"),
        ({"__event_at": "soon"}, "soon"),
    ],
)
def test_a_push_that_is_not_as_the_view_is_changes_nothing(stored: Service, changed: dict[str, object], what: str) -> None:
    asked = {"views": ["live"], "keys": {"store_id": [1, 2]}}
    before = stored.post(ONLINE, **asked).json["views"]
    rows = [{"store_id": 1, "n": 5, "__event_at": "2026-03-11T08:00:00Z"}, {"store_id": 2, "n": 5, "__event_at": "2026-03-11T08:00:00Z", **changed}]
    said = stored.post("features/push", view="live", rows=rows)
    assert (said.status, said.json["code"]) == (400, "invalid_input")
    assert what in said.json["error"]
    assert len(said.body) < 2000
    after = stored.post(ONLINE, **asked).json["views"]
    assert [view["features"] for view in after] == [view["features"] for view in before]
    assert stored.post("features/push", view="traffic", rows=rows).status == 400, "it takes no pushes"


def test_parity_by_http_and_by_the_command_line(stored: Service, cli: Callable[..., Any]) -> None:
    report = stored.post("parity", view="traffic", keys=5)
    assert (report.status, report.json["passed"], report.json["n_keys"]) == (200, True, 5)
    folder = Path(planned_file(stored)).parent
    write_visits(folder, "2.parquet", [datetime.now(UTC).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)])
    said = cli("parity", "traffic", "--keys", 5, "--instants", 0, "--json", "--project", folder)
    assert (said.code, said.json["passed"]) == (6, False)
    assert [cause["cause"] for cause in said.json["differences"]] == ["stale"]
    told = cli("parity", "traffic", "--keys", 5, "--instants", 0, "--project", folder)
    assert told.code == 6
    assert "parity failed, 0 of 5 samples" in told.out
    assert {row["verb"] for row in stored.ask("GET", "/api/v1/audit").json} >= {"parity"}


def talk(port: int, sent: bytes, *, leave: bool = False) -> bytes:
    """What comes back on a bare connection until the other side closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        if leave:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_connection_that_speaks_no_http_harms_nobody(service: Service) -> None:
    assert talk(service.port, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03").startswith(b"HTTP/1.1 400")
    assert talk(service.port, b"GET / HTTP/9\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert talk(service.port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403")
    half = b"POST /api/v1/plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    assert talk(service.port, half, leave=True) == b""
    head = b"POST /api/v1/plan HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    parts = head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert talk(service.port, parts).startswith(b"HTTP/1.1 200")
    assert service.ask("GET", "/healthz").status == 200


def test_one_connection_serves_many_requests(service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    used = set()
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        used.add(connection.sock.getsockname())
        connection.request("POST", "/api/v1/plan", body=b"[]", headers=JSON)
        assert connection.getresponse().read()
    assert len(used) == 1
    connection.close()


def test_a_page_of_another_site_that_finds_the_port_gets_nothing(service: Service) -> None:
    """As a browser sends it: a form, a script's request, a name bound to 127.0.0.1 meanwhile; none runs a verb."""
    before = service.ask("GET", "/api/v1/runs?limit=500").body
    form = {"Origin": "http://shop.example", "Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site"}
    rebound = {"Host": f"shop.example:{service.port}", "Origin": f"http://shop.example:{service.port}", "Sec-Fetch-Site": "same-origin"}
    for headers in (form, rebound, {"Origin": "null"}):
        assert service.ask("POST", "/api/v1/run", {"model": MODEL}, headers=headers).status == 403
    preflight = {"Origin": "http://shop.example", "Access-Control-Request-Method": "POST"}
    asked = service.ask("OPTIONS", "/api/v1/run", headers=preflight)
    assert (asked.status, [name for name in asked.headers if name.startswith("access-control")]) == (403, [])
    assert service.ask("GET", "/api/v1/runs?limit=500").body == before


def test_it_ends_when_it_is_told_and_its_port_is_free(tmp_path: Path) -> None:
    with started("--port", 0, "--project", tmp_path) as first:
        again = [*COMMAND, "--port", str(first.port), "--json", "--project", str(tmp_path)]
        taken = subprocess.run(again, capture_output=True, text=True, timeout=60, check=False)
        assert (taken.returncode, taken.stdout, json.loads(taken.stderr)["code"]) == (5, "", "conflict")
        assert first.ask("GET", "/healthz").status == 200, "it was not disturbed"
        assert first.stop(signal.SIGTERM) == (0, "", "")
    with started("--port", first.port, "--project", tmp_path) as second:
        assert second.port == first.port
        assert second.stop(signal.SIGINT) == (0, "", "")


def test_a_service_that_others_reach_is_set_up_with_the_code_that_it_prints(tmp_path: Path) -> None:
    owner = {"name": "ada", "password": "pine under marble"}
    signed_in = {"Authorization": f"Basic {base64.b64encode(b'ada:pine under marble').decode()}"}
    with started("--port", 0, "--behind-proxy", "--project", tmp_path) as up:
        assert up.process.stdout is not None
        assert "whoever has this code becomes the first owner" in up.process.stdout.readline()
        code = up.process.stdout.readline().strip()
        assert up.ask("GET", "/api/v1/users/ls").json["error"] == "This service has no users yet."
        assert up.ask("POST", "/api/v1/setup", {**owner, "code": code[:-1]}).status == 401
        assert up.ask("POST", "/api/v1/setup", {**owner, "code": code}).json["roles"] == {"default": "owner"}
        assert up.ask("POST", "/api/v1/setup", {**owner, "code": code}).status == 409
        assert [person["name"] for person in up.ask("GET", "/api/v1/users/ls", headers=signed_in).json] == ["ada"]
        assert up.stop() == (0, "", "")
    with started("--port", 0, "--behind-proxy", "--project", tmp_path) as up:
        assert up.ask("GET", "/api/v1/users/ls", headers=signed_in).status == 200
        assert up.stop() == (0, "", ""), "with users no code is printed"


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("--host", "0.0.0.0"), 2, "without TLS: passwords and tokens could be read on the way"),
        (("--host", "example.org", "--behind-proxy"), 2, "The host is 'example.org', which is no address"),
        (("--tls-cert", "absent.pem"), 2, "--tls-cert is given without --tls-key"),
        (("--port", "65536"), 2, "ports are 0 (any free one) to 65535"),
        (("--project", "absent"), 3, "There is no folder absent"),
    ],
)
def test_what_cannot_be_served_is_told(
    tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("up", *arguments)
    assert (said.code, said.out) == (code, "")
    assert what in said.err


SLOW = """
import sys, time
from pathlib import Path
from endcap.assembly import open_house
from endcap.core.permissions import Permission
from endcap.faces.http import application, gateway
from endcap.faces.http.remote import make_remote
from endcap.faces.http.serving import serve
from endcap.governance.verbs import verb

@verb("doze", permission=Permission.READ)
def doze(session, *, hours: float = 0.0) -> str:
    print("dozing", flush=True)
    time.sleep(hours * 3600)
    return "rested"

@verb("break", permission=Permission.READ)
def fail(session) -> str:
    raise RuntimeError("the secret of the house")

gateway._BODY_S = 0.2
application.remote_verbs = lambda: {"doze": make_remote(doze.__verb__), "break": make_remote(fail.__verb__)}
with open_house("memory://") as house:
    serve(house, folder=Path(), port=0, grace_s=int(sys.argv[1]), announce=lambda url: print(f"Endcap listens on {url}", flush=True))
"""


@pytest.mark.parametrize(("hours", "code", "answer"), [(0.0002, 0, b"200 OK"), (1.0, 8, b"503 Service Unavailable")])
def test_what_is_being_answered_is_waited_for_a_while(hours: float, code: int, answer: bytes) -> None:
    with started(1, command=[sys.executable, "-c", SLOW]) as slow, socket.create_connection(("127.0.0.1", slow.port), timeout=60) as connection:
        connection.sendall(f"GET /api/v1/doze?hours={hours} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert slow.process.stdout is not None
        assert slow.process.stdout.readline() == "dozing\n"
        left = slow.stop()
        assert left[0] == code
        assert left[2].endswith("stopped with 1 calls unfinished\n" if code else "")
        assert "Traceback" not in left[2]
        got = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer in got
        assert (b"rested" in got) == (code == 0)
        assert (b"was stopped before this call had ended" in got) == (code == 8)


def test_whoever_asks_twice_is_not_kept_waiting() -> None:
    with started(600, command=[sys.executable, "-c", SLOW]) as slow, socket.create_connection(("127.0.0.1", slow.port), timeout=60) as connection:
        connection.sendall(b"GET /api/v1/doze?hours=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.process.stdout is not None
        assert slow.process.stdout.readline() == "dozing\n"
        slow.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            slow.process.wait(timeout=0.5)
        code, _, err = slow.stop(signal.SIGINT)
        assert (code, err) == (8, "stopped with 1 calls unfinished\n")


def test_what_nobody_foresaw_is_told_without_its_text_and_logged(tmp_path: Path) -> None:
    with started(1, command=[sys.executable, "-c", SLOW]) as service:
        said = service.ask("GET", "/api/v1/break")
        assert (said.status, said.json["code"], said.json["error"]) == (500, "error", "The service failed: RuntimeError.")
        half = b"POST /api/v1/break HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        slow = talk(service.port, half)
        assert slow.startswith(b"HTTP/1.1 408")
        assert json.loads(slow.partition(b"\r\n\r\n")[2])["code"] == "invalid_input"
        assert service.ask("GET", "/healthz").status == 200
        code, _, err = service.stop()
    assert code == 0
    assert "RuntimeError: the secret of the house" in err
