"""Canaries: secrets that are planted wherever Endcap is told one, and looked for wherever it says or keeps anything.

A home lives through a day: it is told every sort of secret, uses each, fails with each, and is asked by every face for all that it shows. Whatever
came of it, each file of its folder to the last byte, every log at DEBUG, error with its traceback, ``repr``, page, answer, audit row, lineage event,
notice and command line, is searched for each secret as text, as bytes, in base64, in hex and in the escapes of URLs.
"""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as replace_struct
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.definitions.aggregates import count, last
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import EndcapError
from endcap.core.settings import Settings, read_settings
from endcap.faces.http.application import build_application
from endcap.faces.http.remote import remote_verbs
from endcap.governance.audit import list_audit
from endcap.governance.audit_exports import export_audit
from endcap.governance.keys.data_keys import forget_opened, open_newest, unwrap_key
from endcap.governance.keys.records import DATA_KEYS
from endcap.governance.keys.rotation import rotate_keys
from endcap.governance.keys.secrets import set_secret
from endcap.governance.notices import deliver_notices, notify
from endcap.governance.people import add_user, set_password
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.signin.providers import add_provider
from endcap.governance.tokens import make_token
from endcap.governance.webhooks import add_webhook
from endcap.loop.data.verbs import ingest
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.training_sets import build_training_set
from endcap.loop.training.tracking.run_files import put_file, read_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.pipelines.graph import Outcome, Step
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.runner import run_steps
from endcap.project.kinds import load_kinds
from endcap.project.sealing import rewrap, seal_files
from endcap.project.verbs import load_verbs
from endcap.project.view_pages import write_view_pages
from endcap.storage.ports import Kind
from endcap.testing.oidc_providers import serve_provider
from endcap.testing.postgres import PostgresServer
from endcap.testing.receivers import Receiver, receiving

CANARIES = {
    "connector password": "c4nary-connector-8f2Zq/w:ord",
    "wrong password": "c4nary-wrong-connector-1kPz7",
    "client secret": "c4nary-client-55XsYw0aTt",
    "user's password": "c4nary user password of many words",
    "lineage key": "c4nary-lineage-Qm3vb81Lr",
    "webhook path": "c4nary-webhook-path-7Hs2mX",
    "online password": "c4nary-online-n0tTaken",
    "content of a sealed file": "c4nary-content-of-a-sealed-file-3fK",
    "malformed master key": "c4nary-malformed-master-key",
    "personal value": "c4nary-ada@home.example",
}


@dataclass
class Found:
    """What was said and kept, by where."""

    places: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)

    def add(self, place: str, said: object) -> None:
        text = said if isinstance(said, bytes) else str(said).encode("utf-8", "surrogatepass")
        self.places[place] = self.places.get(place, b"") + text + b"\n"

    def failed(self, place: str, call: Callable[[], object]) -> None:
        """Call what must fail, and keep all that can be printed of its error."""
        try:
            call()
        except (EndcapError, Exception) as error:  # noqa: BLE001 - whatever it raises, it may not show a secret
            chain: BaseException | None = error
            self.add(place, "".join(traceback.format_exception(error)))
            while chain is not None:
                self.add(place, f"{chain!r} {chain.args!r} {getattr(chain, 'details', '')!r}")
                chain = chain.__cause__ or chain.__context__
        else:
            raise AssertionError(f"{place}: nothing failed")

    def leaks(self) -> list[tuple[str, str]]:
        return [(name, place) for name, secret in self.secrets.items() for place, said in self.places.items() if stands_in(secret, said)]


def stands_in(secret: bytes, said: bytes) -> bool:
    """Whether a secret stands in bytes: as it is, or in the ways in which bytes are written as text."""
    forms = {
        secret,
        secret.hex().encode(),
        quote(secret, safe="").encode(),
        quote(secret).encode(),
        msgspec.json.encode(secret.decode("latin-1"))[1:-1],
    }
    for shift in range(3):  # base64 has three ways to write what begins in the middle of something
        written = base64.b64encode(bytes(shift) + secret)
        forms |= {written[4:-4], written[4:-4].replace(b"+", b"-").replace(b"/", b"_")}
    return any(form in said for form in forms if len(form) >= 8)


def test_the_search_finds_what_is_there() -> None:
    secret = CANARIES["connector password"].encode()
    for hidden in (
        secret,
        base64.b64encode(b"x" + secret),
        base64.urlsafe_b64encode(b"xy" + secret + b"z"),
        secret.hex().encode(),
        quote(secret).encode(),
    ):
        assert stands_in(secret, b"before " + hidden + b" after")
    assert not stands_in(secret, b"before and after, c4nary")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@pytest.fixture(scope="module")
def day(receiver: Receiver, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Found:
    """All that came of the day."""
    found, folder = Found(secrets={name: value.encode() for name, value in CANARIES.items()}), tmp_path_factory.mktemp("day")
    settings = Settings(
        webhook_hosts=("127.0.0.1",),
        provider_hosts=("127.0.0.1",),
        lineage=f"http://127.0.0.1:{receiver.port}/api/v1/lineage",
        lineage_key=CANARIES["lineage key"],
        online=f"rediss://:{CANARIES['online password']}@127.0.0.1:1/0",
    )
    log = folder / "log"
    handler, root = logging.FileHandler(log), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(name)s %(pathname)s %(message)s %(args)s"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with open_house(folder / "home", settings=settings) as house:
            session = house.session()
            plant(found, session, postgres)
            fail(found, session, folder)
            live(found, session, tmp_path_factory.mktemp("elsewhere"))
            look(found, house, folder)
            keep_files(found, folder, "open")
        ask_commands(found, folder, cli)
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
        handler.close()
    found.add("log", log.read_bytes())
    keep_files(found, folder, "closed")
    return found


def plant(found: Found, session: Session, postgres: PostgresServer) -> None:
    """Every sort of secret, told and used."""
    password = CANARIES["connector password"]
    postgres.execute(f"CREATE ROLE canary LOGIN PASSWORD '{password}'; CREATE TABLE canaries AS SELECT 1 AS id; GRANT SELECT ON canaries TO canary")
    set_secret(session, "DB", password=password)
    place = f"127.0.0.1:{postgres.port}/{postgres.database}"
    table = Table("canaries", f"postgresql://canary:$secret:DB@{place}", relation="canaries", keys=("id",))
    assert ingest(session, table, folder=Path(), zone="UTC").n_rows == 1
    set_secret(session, "DB", password=CANARIES["wrong password"])
    found.failed("error of a wrong password", lambda: ingest(session, table, folder=Path(), zone="UTC"))
    away = Table("canaries", "postgresql://canary:$secret:DB@127.0.0.1:1/shop", relation="canaries", keys=("id",))
    found.failed("error of a server that is away", lambda: ingest(session, away, folder=Path(), zone="UTC"))

    hook = add_webhook(session, f"{session.settings.lineage.rpartition('/api')[0]}/{CANARIES['webhook path']}")  # type: ignore[union-attr]  # it is set above
    found.secrets["webhook secret"] = hook.secret.encode()
    found.add("repr of a made webhook", repr(hook))
    with session.change("test", thing="it") as change:
        notify(session, change, kind="approval-requested", thing="it", sentence="bob asks for an approval")
    assert [told.state for told in deliver_notices(session)] == ["delivered"]

    add_user(session, "ada", password=CANARIES["user's password"], admin=True)
    set_password(session, "ada", password=CANARIES["user's password"])
    token = make_token(session, "nightly", user="ada")
    found.secrets["token"] = token.token.rpartition("_")[2].encode()
    found.add("repr of a made token", repr(token))
    with serve_provider() as provider:
        add_provider(session, "idp", issuer=provider.issuer, client_id="endcap", password=CANARIES["client secret"])

    seal_files(session)
    run = start_run(session)
    put_file(session, f"run/{run.id}", "a.txt", [CANARIES["content of a sealed file"].encode() * 100])
    _, chunks = read_file(session, f"run/{run.id}", "a.txt")
    assert b"".join(chunks).startswith(b"c4nary")
    with hold_lease(session, "model/x", wait_s=0.0) as hold:
        step = Step("say", lambda _: Outcome(CANARIES["content of a sealed file"]), gives=str, parts=("1",))
        run_steps(hold.session, [step], subject="model/x")
    rotate_keys(session)
    assert session.ports.folder is not None
    found.secrets["first master key"] = bytes.fromhex((session.ports.folder / "master.key").read_text().strip())
    rotate_keys(session, master=True)
    rewrap(session)


def fail(found: Found, session: Session, folder: Path) -> None:
    """Keys that are missing, wrong or malformed, and settings that are."""
    master = folder / "home" / "master.key"
    found.secrets["master key"] = bytes.fromhex(master.read_text().strip())
    for key in session.ports.records.find(DATA_KEYS, workspace=HOUSE):
        found.secrets[f"data key {key.id}"] = unwrap_key(session, key)
    opened = open_newest(session)
    found.add("repr of an open key", repr(opened))
    found.secrets |= {"key of envelopes": opened.envelopes, "key of streams": opened.streams}
    use = load_verbs()["keys rotate"].call
    other = "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"
    found.secrets["another master key"] = bytes.fromhex(other)
    program = f"{sys.executable} -c 'import sys; sys.exit(sys.stdin.read())'"
    for name, given in (
        ("another", Settings(master_key=other)),
        ("malformed", Settings(master_key=CANARIES["malformed master key"])),
        ("a command", Settings(master_key_command=program)),
    ):
        forget_opened(session)
        found.failed(f"error of {name} master key", lambda given=given: use(replace(session, settings=given)))  # type: ignore[misc]  # the default binds
        found.add("repr of settings", f"{given!r} {given}")
    found.failed("error of two master keys", lambda: read_settings({"ENDCAP_MASTER_KEY": other, "ENDCAP_MASTER_KEY_FILE": "x"}))
    found.failed("error of the online server", session.online.spaces)
    found.failed("error of a definition", lambda: Table("t", f"postgresql://a:{CANARIES['wrong password']}@h/d", relation="t"))
    found.failed("error of a weak password", lambda: add_user(session, "bob", password=CANARIES["user's password"][:9]))
    forget_opened(session)


def live(found: Found, session: Session, elsewhere: Path) -> None:
    """A personal value in a file that is not the home's, in whatever is made of it, and in rows that break a contract."""
    at = [datetime(2026, 3, 1 + day) for day in range(3)]  # noqa: DTZ001 - plain times of the table
    rows = {"customer": ["1", "2", "3"], "email": [CANARIES["personal value"], "bob", None], "spend": [1.0, -2.0, 3.0]}
    pq.write_table(pa.table({**rows, "at": pa.array(at, pa.timestamp("us"))}), elsewhere / "people.parquet")
    people = Table("people", "people.parquet", keys=("customer",), event_time="at", zone="UTC", personal=("email",), subject="customer")
    view = FeatureView(name="mails", source=people, features={"email": last("email", "28d"), "n": count("*", "28d")}, online=False)
    with session.change("apply", thing="view/mails") as change:
        register_view(session, change, view, folder=elsewhere)
    materialise(session, "mails")
    pages = elsewhere / "pages"
    write_view_pages(session, out=pages)
    for path in pages.rglob("*"):
        if path.is_file():
            found.add(f"page {path.name}", path.read_bytes())
    build_training_set(session, pa.table({"customer": ["1"], "at": pa.array([at[2]], pa.timestamp("us", "UTC"))}), ["mails"], at="at")
    for name, check in (("one_of", Check(one_of=("x",))), ("type", Check(type="number")), ("nulls", Check(nulls=False))):
        told = replace_struct(people, name=f"people_{name}", contract=Contract(columns={"email": check}, quarantine=None))
        found.failed(f"error of a contract: {name}", lambda told=told: ingest(session, told, folder=elsewhere, zone="UTC"))  # type: ignore[misc]  # the default binds
    aside = replace_struct(people, name="people_aside", contract=Contract(columns={"email": Check(one_of=("bob",))}, quarantine=0.9))
    assert ingest(session, aside, folder=elsewhere, zone="UTC").n_quarantined == 1


def look(found: Found, house: House, folder: Path) -> None:
    """All that is shown in Python and over HTTP, and all that a record says of itself."""
    session = house.session()
    found.add("repr of the house", f"{house!r} {house.settings!r} {session!r} {session.blobs!r} {session.tables!r}")
    kinds: dict[str, Kind[msgspec.Struct]] = load_kinds()
    with session.ports.freeze() as frozen:
        for raw in frozen.records():
            found.add("repr of records", repr(kinds[raw.kind].decode(raw.body)) if raw.kind in kinds else raw.body)
    found.add("audit", msgspec.json.encode([*list_audit(session, limit=1000), *list_audit(session, house=True, limit=1000)]))
    export_audit(session, folder / "audit.jsonl")
    export_audit(session, folder / "house.jsonl", house=True)
    with TestClient(build_application(house, folder=folder), base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
        for headers in ({"Authorization": f"Bearer {_token(session)}"}, {"Authorization": "Bearer endcap_x_c4nary"}, {}):
            for remote in remote_verbs().values():
                if remote.by_query:
                    answer = client.get(remote.path, headers=headers)
                    found.add(f"GET {remote.path}", f"{answer.status_code} {answer.headers} {answer.text}")
            for path in ("/", "/sign-in", "/healthz", "/metrics", "/api/v1/openapi.json", "/api/2.0/mlflow/experiments/search?max_results=5"):
                answer = client.get(path, headers=headers)
                found.add(f"GET {path}", f"{answer.status_code} {answer.headers} {answer.text}")
        wrong = client.post("/api/v1/secrets/set", json={"name": "../x", "password": CANARIES["wrong password"]}, headers=headers)
        found.add("POST of a wrong secret", wrong.text)


def _token(session: Session) -> str:
    return make_token(session, "reader", user="ada").token


def ask_commands(found: Found, folder: Path, cli: Callable[..., Any]) -> None:
    """What the command line says of all that it lists, and what the machine shows of a command while it reads a secret."""
    where = ["--home", str(folder / "home"), "--project", str(folder)]
    for words in ("secrets ls", "keys ls --house", "webhooks ls", "providers ls", "tokens ls", "users ls", "audit --house"):
        said = cli(*words.split(" "), *where, "--json")
        assert said.code == 0, said.err
        found.add(f"endcap {words}", said.out + said.err)
    command = [sys.executable, "-m", "endcap.faces.cli.entry"]
    given = {**os.environ, "ENDCAP_MASTER_KEY_NEXT_COMMAND": "/bin/false"}
    setting = subprocess.Popen(
        [*command, "secrets", "set", "AGAIN", *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=given
    )
    assert setting.stdin is not None
    setting.stdin.write(CANARIES["connector password"].encode())
    setting.stdin.flush()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.add("process list", path.read_bytes())
    told, _ = setting.communicate(timeout=60)
    assert setting.returncode == 0, told
    found.add("endcap secrets set", told)


def keep_files(found: Found, folder: Path, when: str) -> None:
    """Every byte of the home, of what its database has not yet put in its place too, and what was written beside it."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("master.key", "log"):
            found.add(f"{when} file {path.relative_to(folder)}", path.read_bytes())


def test_nothing_secret_is_said_or_kept_anywhere(day: Found) -> None:
    assert len(day.places) > 60
    assert len(day.secrets) > 14
    assert day.leaks() == []


def test_the_secrets_went_where_they_belong(day: Found, receiver: Receiver) -> None:
    """The search is not blind, and the day was lived: what should have been sent was."""
    sent = b"\n".join(f"{request.path} {request.headers}".encode() for request in receiver.requests)
    assert stands_in(day.secrets["lineage key"], sent)
    assert stands_in(day.secrets["webhook path"], sent)
    bodies = b"\n".join(request.body for request in receiver.requests)
    assert b"RunEvent" in bodies
    assert b"bob asks" in bodies
    assert not [name for name, secret in day.secrets.items() if stands_in(secret, bodies)]
    assert b"secrets set" in day.places["audit"]
    assert {"open file home/records.sqlite-wal", "closed file home/records.sqlite"} <= day.places.keys()
