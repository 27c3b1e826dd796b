"""Personal columns by any face: whoever was not given the right sees not one value, by no verb, in no error, no page, no file and no list.

What is written of them is sealed (tests/unit/governance/privacy), and can be forgotten (tests/unit/project/test_forgetting.py). Here a workspace's
own owner, who may all else, asks for them, and an editor beside; every value that is personal has a word in it, or digits, that stand nowhere else.
"""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from endcap.core.errors import EndcapError, PermissionDenied
from endcap.faces.http.application import build_application
from endcap.faces.http.remote import remote_verbs
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit
from endcap.governance.people import grant_role
from endcap.governance.sessions import Session
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.online import read_online
from endcap.loop.features.pushes import push
from endcap.loop.features.training_sets import build_training_set, read_training_set, training_set
from endcap.project.applying import apply
from endcap.project.rights import grant_right, revoke_right
from endcap.project.verbs import load_verbs
from endcap.testing.teams import OURS, PASSWORD, START, THEM, US, Home, answer, ask_about, opened

WORD, DIGITS = "zebracanary", "7777"
FILES = {"backup", "backups", "forecast", "init", "restore", "export-audit", "run"}
CLOSING = {"rights restrict", "rights transfer"}
"""Verbs after which a view is not there any more for those who are to ask for it."""
PROJECT = """
import endcap as ec

customers = ec.Table(
    "customers", "data/*.parquet", keys=["customer_id"], event_time="at", zone="UTC", personal=["email", "phone"], subject="customer_id",
    contract=ec.Contract(
        columns={"email": ec.Check(type="text", nulls=False), "phone": ec.Check(type="integer", least=0)},
        unique=["customer_id", "at"],
        quarantine=0.9,
    ),
)
people = ec.FeatureView(
    name="people", source=customers, features={"email": "email", "phone": "phone", "city": "city"}, online=True, pushed=True
)
weekly = ec.FeatureView(name="weekly", source=customers, features={"n": ec.count(window="7d"), "mail": ec.last("email", "7d")}, online=True)
"""
SPINE = pa.table({"customer_id": ["c1", "c2"], "at": pa.array([START] * 2, pa.timestamp("us", tz="UTC"))})


def write_rows(path: Path, *, n: int, bad: bool = False) -> None:
    first = datetime(2025, 4, 1)  # noqa: DTZ001 - the table declares its zone
    rows: dict[str, list[Any]] = {
        "customer_id": [f"c{i}" for i in range(n)],
        "email": [f"{WORD}{i}@example.org" for i in range(n)],
        "phone": [int(f"{DIGITS}{1000 + i}") for i in range(n)],
        "city": ["Graz"] * n,
        "at": [first + timedelta(days=i % 20, hours=i) for i in range(n)],
    }
    if bad:
        rows["email"][3], rows["phone"][4] = None, -int(f"{DIGITS}9999")
        rows["customer_id"][6], rows["at"][6] = rows["customer_id"][5], rows["at"][5]
    pq.write_table(pa.table(rows), path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A workspace whose views hold personal columns: materialised, pushed, put aside, kept as a training set."""
    folder = tmp_path_factory.mktemp("personal")
    (folder / "plain" / "data").mkdir(parents=True)
    (folder / "plain" / "project.py").write_text(PROJECT, encoding="utf-8")
    write_rows(folder / "plain" / "data" / "a.parquet", n=30)
    with opened(folder) as made:
        root = made.house.session(actor="root", workspace=OURS)
        grant_role(root, US, "owner", workspace=OURS)
        grant_role(root, THEM, "editor", workspace=OURS)
        made.ids.begin("a")
        apply(root, folder=folder / "plain")
        for view in ("people", "weekly"):
            materialise(root, view, folder=folder / "plain")
        stamp = pa.array([root.now()], pa.timestamp("us", tz="UTC"))
        row = {"customer_id": ["c1"], "__event_at": stamp, "email": [f"{WORD}@x"], "phone": pa.array([int(f"{DIGITS}1")], pa.int64()), "city": ["y"]}
        push(root, "people", pa.table(row))
        assert shows(str(training_set(root, SPINE, ["people", "weekly"], at="at", folder=folder / "plain").table.to_pylist())), "it is there"
        write_rows(folder / "plain" / "data" / "b.parquet", n=12, bad=True)
        materialise(root, "people", folder=folder / "plain")
        yield made


def shows(text: str) -> bool:
    return WORD in text or DIGITS in text


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name_things(home: Home) -> list[str]:
    records = home.records(OURS)
    kept = [next(iter(records[kind])) for kind in ("ingest", "training-set", "feature-view")]
    return ["people", "customers", "weekly", "c1", *kept]


def test_no_record_holds_a_value(home: Home) -> None:
    for kind, found in home.records(OURS).items():
        assert not shows(json.dumps(found)), kind
    assert set(home.records(OURS)) >= {"ingest", "feature-snapshot", "training-set", "feature-push"}


@pytest.mark.parametrize("name", [name for name in load_verbs() if name not in FILES | CLOSING])
def test_no_verb_shows_a_value(home: Home, elsewhere: Path, name: str) -> None:
    verb = load_verbs()[name]
    plain = {"folder": home.folder / "plain"} if any(p.name == "folder" for p in verb.parameters) else {}
    alone = not any(p.default is inspect.Parameter.empty for p in verb.parameters if p.name != "folder")
    for person in (US, THEM):
        for what in name_things(home) if person == US else ("people", "customers"):
            for values in ask_about(verb, what, home=home):
                assert not shows(answer(verb, home.session(person, OURS), values)), values
        if alone:
            assert not shows(answer(verb, home.session(person, OURS), plain))
    for file in elsewhere.rglob("*"):
        assert not file.is_file() or not shows(file.read_bytes().decode("latin-1")), file


@pytest.mark.parametrize("name", sorted(set(remote_verbs()) - FILES - CLOSING))
def test_no_request_is_told_a_value(home: Home, http: TestClient, name: str) -> None:
    remote = remote_verbs()[name]
    for what in ("people", "customers"):
        for values in ask_about(remote.verb, what, home=home):
            body = {key: value for key, value in values.items() if key in remote.parameters.__struct_fields__}
            assert not shows(http.post(remote.path, json=json.loads(msgspec.json.encode(body, enc_hook=str))).text)


@pytest.fixture(scope="module")
def http(home: Home) -> Iterator[TestClient]:
    app = build_application(home.house, folder=home.folder / "plain", signing_in=SignIn(home.house))
    with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Basic {base64.b64encode(f'{US}:{PASSWORD}'.encode()).decode()}"
        client.headers["x-endcap-workspace"] = OURS
        yield client


def test_online_reads_tell_no_value_over_http(home: Home, http: TestClient) -> None:
    for view in ("people", "weekly"):
        said = http.post("/api/v1/features/online", json={"views": [view], "keys": {"customer_id": ["c1", "c2"]}})
        assert not shows(said.text)
        assert said.status_code in (200, 403)


ROWS: dict[str, Callable[[Session, Path], object]] = {
    "a training set": lambda session, folder: training_set(session, SPINE, ["people"], at="at", folder=folder),
    "one that stands": lambda session, folder: read_training_set(session, build_training_set(session, SPINE, ["people"], at="at", folder=folder)),
    "a file of one": lambda session, folder: build_training_set(session, SPINE, ["people"], at="at", folder=folder, out=Path("rows.parquet")),
    "a file of text": lambda session, folder: build_training_set(session, SPINE, ["weekly"], at="at", folder=folder, out=Path("rows.csv")),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_are_handed_to_nobody_without_the_right_and_each_time_is_audited(home: Home, elsewhere: Path, what: str) -> None:
    session, root, folder = home.session(US, OURS), home.house.session(actor="root", workspace=OURS), home.folder / "plain"
    with pytest.raises(PermissionDenied, match="'ann' may not see personal columns"):
        ROWS[what](session, folder)
    row = list_audit(root)[0]
    assert (row.verb, row.outcome, row.actor, row.thing) == ("training-set", "refused", US, "personal/customers")
    assert not [file for file in elsewhere.rglob("*") if file.is_file()], "nothing is left"
    grant_right(root, "personal/customers", to=f"user/{US}", may="see")
    try:
        ROWS[what](session, folder)
        assert ("see-personal", US) in [(row.verb, row.actor) for row in list_audit(root, limit=3)]
    finally:
        revoke_right(root, "personal/customers", to=f"user/{US}")
    with pytest.raises(PermissionDenied):
        ROWS[what](session, folder)


def test_an_owner_of_the_workspace_gives_the_right_also_to_themselves_and_it_is_audited(home: Home) -> None:
    """They answer for the workspace; that they gave it, and each look, stands in the chain."""
    session = home.session(US, OURS)
    grant_right(session, "personal/customers", to=f"user/{US}", may="see")
    try:
        found = read_online(session, ["people"], keys={"customer_id": ["c1"]})
        assert shows(str(found))
        rows = [(row.verb, row.actor, row.outcome) for row in list_audit(session, limit=5)]
        assert ("rights grant", US, "done") in rows
        assert ("see-personal", US, "done") in rows
    finally:
        revoke_right(session, "personal/customers", to=f"user/{US}")
    assert not shows(str(read_online(session, ["people"], keys={"customer_id": ["c1"]})))


def test_an_editor_gives_the_right_to_nobody(home: Home) -> None:
    session = home.session(THEM, OURS)
    for thing in ("personal/customers", "personal/*"):
        with pytest.raises(EndcapError) as caught:
            grant_right(session, thing, to=f"user/{THEM}", may="see")
        assert caught.value.code == "permission_denied"
    assert not shows(str(read_online(session, ["people"], keys={"customer_id": ["c1"]})))


def test_what_is_pushed_wrongly_is_not_told_back(home: Home) -> None:
    session = home.session(THEM, OURS)
    for row in (
        {"customer_id": "c1", "__event_at": "2025-04-01", "email": int(f"{DIGITS}5"), "phone": f"{WORD}", "city": "x"},
        {"customer_id": "c1", "__event_at": "2025-04-01", "email": f"{WORD}\x00", "phone": 2**70, "city": "x"},
        {"customer_id": "c1", "__event_at": "2025-04-01", "email": f"{WORD}" * 20_000, "phone": 1, "city": "x"},
        {"customer_id": "c1", "__event_at": "2025-04-01", "phone": int(f"{DIGITS}5"), "city": [f"{WORD}"]},
    ):
        with pytest.raises(EndcapError) as caught:
            push(session, "people", [row])
        assert not shows(str(caught.value)), "a value is no part of an error"
