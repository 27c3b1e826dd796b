"""Values that somebody made to do harm, in every parameter of every path, on a home in files: nothing fails unforeseen, and nothing is harmed."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.remote import RemoteVerb, remote_verbs
from endcap.governance import passwords
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user
from endcap.loop.training.tracking.experiments import search_experiments
from endcap.loop.training.tracking.run_files import put_file, read_file
from endcap.loop.training.tracking.tracked_runs import get_run_track, log, start_run
from endcap.storage.tracks import Point, TrackBatch

PASSWORD = "pine under marble"
INJECTIONS = (
    "' OR '1'='1' --",
    '"; DROP TABLE filing; --',
    "x') UNION SELECT * FROM records --",
    "%' ESCAPE '\\",
    "\x00",
    "a\r\nSet-Cookie: x=y",
    "../../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "{{7*7}}${7*7}<script>alert(1)</script>",
    "가나다🙂\u202e",
    "x" * 100_000,
    "",
)


class Place(NamedTuple):
    house: House
    http: TestClient
    run: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("injected")
    (folder / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch, open_house(folder / ".endcap") as house:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setattr(passwords, "_hasher", lambda: hasher)
        session = house.session()
        add_user(session, "ada", password=PASSWORD)
        run = start_run(session, name="kept").id
        log(session, run, TrackBatch(params={"rate": "0.1"}, points=[Point("loss", 0.5, 0)], tags={"note": "kept"}))
        put_file(session, f"run/{run}", "note.txt", [b"kept"])
        app = build_application(house, folder=folder)
        with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
            client.headers["authorization"] = f"Basic {base64.b64encode(f'ada:{PASSWORD}'.encode()).decode()}"
            yield Place(house, client, run)
        require_whole(house, run)


def require_whole(house: House, run: str) -> None:
    session = house.session()
    track = get_run_track(session, run)
    assert (track.params["rate"], track.tags["note"]) == ("0.1", "kept")
    assert b"".join(read_file(session, f"run/{run}", "note.txt")[1]) == b"kept"
    rows = list_audit(session, limit=100_000)
    assert max(len(row.thing) + sum(len(str(value)) for value in row.detail.values()) for row in rows) < 5_000, "nobody fills the audit with a value"
    assert verify_audit(session).intact
    assert verify_audit(session, house=True).intact


def fill(remote: RemoteVerb, asked: str, value: str) -> dict[str, Any]:
    """The value in one parameter, and something of the right type in all others that must be given."""
    sorts: dict[str, Any] = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    said: dict[str, Any] = {}
    for field in msgspec.structs.fields(remote.parameters):
        kind = msgspec.json.schema(field.type).get("type", "string")
        if field.encode_name == asked:
            said[asked] = [value] if kind == "array" else {value: [value]} if kind == "object" else value
        elif field.required:
            said[field.encode_name] = sorts[kind]
    return said


@pytest.mark.parametrize("name", sorted(remote_verbs()))
def test_no_value_breaks_a_verb_or_gets_through_it(place: Place, name: str) -> None:
    remote = remote_verbs()[name]
    for field in msgspec.structs.fields(remote.parameters):
        if "str" not in str(field.type):
            continue
        for value in INJECTIONS:
            said = place.http.post(remote.path, json=fill(remote, field.encode_name, value))
            require_harmless(said, (field.encode_name, value[:50]))


def require_harmless(said: Any, what: object) -> None:
    assert said.status_code not in (401, 500), what
    assert "root:" not in said.text, what
    assert "Traceback" not in said.text, what
    assert said.status_code < 400 or len(said.content) < 50_000, (what, "a long value is not told back whole")
    assert "set-cookie" not in said.headers, what
    assert said.headers["content-type"].startswith(("application/json", "text/plain", "application/octet-stream")), what


@pytest.mark.parametrize("n", range(len(list_calls())), ids=[f"{call.method}{call.path}" for call in list_calls()])
def test_no_value_breaks_a_call_of_mlflow(place: Place, n: int) -> None:
    call = list_calls()[n]
    if call.path in ("/runs/delete", "/experiments/delete"):
        return  # what is asked for by its own name is marked, as it should be
    fields = {field.name: field.type for field in msgspec.structs.fields(call.request)}
    own: dict[str, Any] = {"run_id": place.run, "experiment_id": "0", "name": "x", "version": "1", "key": "k", "value": "v", "metric_key": "loss"}
    for asked, kind in fields.items():
        for value in INJECTIONS:
            said = {name: own[name] for name in fields if name in own and name not in ("key", "value")} | {
                asked: [value] if "tuple" in str(kind) else value
            }
            if asked == "filter":
                said[asked] = f"tags.note = '{value}' AND params.{value} LIKE '{value}'"
            parts = {part: str(said.pop(part, "x")) for part in re.findall(r"{([a-z_]+)(?::path)?}", call.path)}
            path = MLFLOW + re.sub(r"{([a-z_]+)(?::path)?}", lambda part: quote(parts[part[1]][:2000] or "x", safe=""), call.path)  # noqa: B023 - at once
            if call.method == "GET":
                said = {key: text[:2000] if isinstance(text, str) else [one[:2000] for one in text] for key, text in said.items()}
            given: dict[str, Any] = {"params": said} if call.method == "GET" else {"json": said}
            require_harmless(place.http.request(call.method, path, **given), (asked, value[:50]))
    assert search_experiments(place.house.session(), limit=1), "the tables are there"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_no_path_of_a_file_leads_out(place: Place, method: str) -> None:
    for value in (*INJECTIONS[:12], "..", "a/../../../note.txt", "%2e%2e/%2e%2e/etc/passwd", "..\\..\\x", "note.txt/../../other", "C:\\x", "CON"):
        for path in (f"run/{place.run}/{quote(value[:500])}", f"run/{quote(value[:500], safe='')}/note.txt", quote(value[:500])):
            said = place.http.request(method, f"{FILES}/{path}", content=b"x" if method == "PUT" else None)
            require_harmless(said, (method, path))
            if method != "PUT":
                refused = (400, 404, 405, 501)  # the last two: a client settles dots before it asks, and then asks for nothing there is
                assert said.status_code in ((200, *refused) if method == "DELETE" else refused), (method, path)
