"""What one workspace holds is nowhere to be seen in another: asked for, it is answered as what never was, byte for byte.

Two homes are made by the same steps, with the same people, clock and ids, but in one of them another team's workspace stands too, full of things with
the same names and content, and of things with names of its own. Whatever a member of the first team asks for on whatever face, by whatever of the
other team's ids, names and digests, the two homes must answer alike; they hold the same of the first team afterwards; and the other team's workspace
is as it was. The requests are made up from the tables of verbs and calls, so that a new one is asked too.
"""

from __future__ import annotations

import base64
import inspect
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zlib import crc32

import msgspec
import pytest
from starlette.testclient import TestClient

from endcap.core.errors import EndcapError
from endcap.faces.cli import commands
from endcap.faces.cli.commands import is_plain, offered_verbs
from endcap.faces.cli.entry import main
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.remote import remote_verbs
from endcap.faces.http.sessions import SignIn
from endcap.governance.people import grant_role
from endcap.governance.sessions import Session
from endcap.loop.registry.versions import get_version
from endcap.loop.training.tracking.run_files import read_file
from endcap.project.verbs import load_verbs
from endcap.testing.teams import (
    OURS,
    PASSWORD,
    SEALED_NAME,
    THEIRS,
    THEM,
    US,
    Home,
    answer,
    ask_about,
    opened,
    settle,
    settle_in,
    tell_texts,
    write_project,
)

STANDING = (
    THEIRS,
    SEALED_NAME,
    f"{SEALED_NAME}-day",
    f"{SEALED_NAME}-day-v1",
    f"{SEALED_NAME}-fraud",
    f"{SEALED_NAME}_units",
    f"{SEALED_NAME}-trials",
)
OF_FILES = {"backup", "backups", "export-audit", "forecast", "init", "restore"}
"""Verbs that work on files and homes, not on what a workspace holds: they are for who opens the home's files."""
SLOW = {"lineage", "predictions", "retire", "run"}
"""Verbs that read files first; they are asked about fewer things."""
MEASURED = {"audit-keys", "cost", "keys ls", "keys rewrap", "keys rotate", "runs", "sign-audit", "track search", "verify-audit"}
"""Verbs whose lists show keys, or how long something took."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("projects")
    write_project(made / "plain")
    write_project(made / SEALED_NAME, word=SEALED_NAME)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[Home]:
    with opened(folder) as home:
        settle_in(home, beside=False)
        yield home


@pytest.fixture(scope="module")
def together(folder: Path) -> Iterator[Home]:
    with opened(folder) as home:
        settle_in(home, beside=True)
        yield home


@pytest.fixture(scope="module")
def theirs(together: Home) -> dict[str, Any]:
    """The other team's records before anybody asked."""
    return together.records(THEIRS)


@pytest.fixture(scope="module")
def their_names(together: Home, theirs: dict[str, Any]) -> list[str]:
    """What our team could get to know and has not itself: of every kind of thing an id, what it is called, the digests of its bytes."""
    ours = set(tell_texts(together.records(OURS)))
    found = [*STANDING, together.tracked[THEIRS, "store"], together.tracked[THEIRS, SEALED_NAME]]
    for records in theirs.values():
        unlike = [identity for identity in records if identity not in ours]
        found += [next((identity for identity in unlike if SEALED_NAME in identity), unlike[0])] if unlike else []
    version = theirs["version"][f"{SEALED_NAME}-day-v1"]
    found += [version["training_set"], version["evidence"], version["identity"], *(file["sha256"] for file in version["files"])]
    assert len(set(found)) > 35
    assert ours.isdisjoint({*found} - {version["training_set"], version["evidence"], *(file["sha256"] for file in version["files"])})
    return list(dict.fromkeys(found))


def choose(names: list[str], asked: str, *, n: int) -> list[str]:
    """The names that matter most, and ``n`` others: of all that is asked, each is asked about by some."""
    first = crc32(asked.encode()) % len(names)
    return [*names[2:4], *itertools.islice(itertools.cycle(names), first, first + n)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a verb makes of a word that it takes for a path stays there."""
    monkeypatch.chdir(tmp_path)


ASKED = {name: verb for name, verb in load_verbs().items() if name not in OF_FILES}


@pytest.mark.parametrize("name", ASKED)
def test_python(alone: Home, together: Home, their_names: list[str], name: str) -> None:
    verb, homes = ASKED[name], (alone, together)
    without, beside = (home.session(US, OURS) for home in homes)
    for what in choose(their_names, name, n=1 if name in SLOW else 4):
        for values in ask_about(verb, what, home=alone):
            assert answer(verb, beside, values) == answer(verb, without, values), values
    if name not in MEASURED and not any(p.default is inspect.Parameter.empty for p in verb.parameters if p.name != "folder"):
        values = {"folder": alone.folder / "plain"} if any(p.name == "folder" for p in verb.parameters) else {}
        assert answer(verb, beside, values) == answer(verb, without, values)


@pytest.fixture(scope="module")
def http(alone: Home, together: Home) -> Iterator[tuple[TestClient, TestClient]]:
    """A client of each home."""
    apps = [build_application(home.house, folder=home.folder / "plain", signing_in=SignIn(home.house)) for home in (alone, together)]
    clients = [TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) for app in apps]
    with clients[0] as without, clients[1] as beside:
        yield without, beside


SIGNED_IN = {"Authorization": f"Basic {base64.b64encode(f'{US}:{PASSWORD}'.encode()).decode()}"}


def request(client: TestClient, method: str, path: str, **given: Any) -> tuple[int, str, list[tuple[str, str]]]:
    """Everything that an answer says."""
    said = client.request(method, f"/workspaces/{OURS}{path}", headers=SIGNED_IN, **given)
    text = settle(said.text)
    return said.status_code, text, [(key, value) for key, value in sorted(said.headers.items()) if key != "content-length"]


@pytest.mark.parametrize("name", sorted(set(remote_verbs()) & set(ASKED)))
def test_http(alone: Home, http: tuple[TestClient, TestClient], their_names: list[str], name: str) -> None:
    remote = remote_verbs()[name]
    for what in choose(their_names, name, n=0 if name in SLOW else 1):
        for values in ask_about(remote.verb, what, home=alone):
            body = {key: value for key, value in values.items() if key in remote.parameters.__struct_fields__}
            without, beside = (request(client, "POST", remote.path, json=json.loads(msgspec.json.encode(body, enc_hook=str))) for client in http)
            assert beside == without, body
            assert beside[0] != 500
    if name not in MEASURED:
        without, beside = (request(client, "POST", remote.path, json={}) for client in http)
        assert beside == without


def ask_call(fields: Mapping[str, Any], what: str, *, own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A request for each field that a name may be said in; the others name what is ours, wherever the protocol knows a name."""
    for asked, type_ in fields.items():
        said = {name: own[name] for name in fields if name in own}
        if asked == "filter":
            for filter_ in (f"name = '{what}'", f"tags.note = '{what}'", f"attributes.run_id = '{what}'", f"dataset.name = '{what}'"):
                yield {**said, "filter": filter_}
        elif "str" in str(type_):
            yield {**said, asked: [what] if "tuple" in str(type_) else what}


@pytest.mark.parametrize("n", range(len(list_calls())), ids=[f"{call.method}{call.path}" for call in list_calls()])
def test_mlflow(alone: Home, http: tuple[TestClient, TestClient], their_names: list[str], n: int) -> None:
    call, run_id = list_calls()[n], alone.tracked[OURS, "store"]
    experiment = alone.tracked[OURS, "store-trials"]
    own = {"run_id": run_id, "experiment_id": experiment, "experiment_ids": [experiment], "name": "store-fraud", "version": "1"}
    own |= {"alias": "store-green", "key": "k", "value": "v", "metric_key": "store_loss", "source": f"mlflow-artifacts:/run/{run_id}/model"}
    fields = {field.name: field.type for field in msgspec.structs.fields(call.request)}
    for what in choose(their_names, call.path, n=1):
        for said in ask_call(fields, what, own={**own, "source": f"mlflow-artifacts:/run/{what}/model"} if "source" in fields else own):
            named = {part: said.pop(part, "x") for part in re.findall(r"{([a-z_]+)(?::path)?}", call.path)}
            path = MLFLOW + re.sub(r"{([a-z_]+)(?::path)?}", lambda part: quote(str(named[part[1]]), safe="/"), call.path)  # noqa: B023 - called at once
            given = {"params": said} if call.method == "GET" else {"json": said}
            without, beside = (request(client, call.method, path, **given) for client in http)
            assert beside == without, (path, said)
            assert beside[0] != 500


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_files(alone: Home, together: Home, http: tuple[TestClient, TestClient], their_names: list[str], method: str) -> None:
    for what in choose(their_names, method, n=2):
        for owner in ("run", "logged-model", "version", "experiment"):
            for path in ("model/MLmodel", f"{SEALED_NAME}/notes.txt", "store/notes.txt"):
                without, beside = (request(client, method, f"{FILES}/{owner}/{quote(what, safe='')}/{path}") for client in http)
                assert beside == without, (owner, what, path)
                assert beside[0] in (400, 404)
            without, beside = (request(client, "GET", FILES, params={"path": f"{owner}/{what}"}) for client in http)
            assert beside == without
    ours = f"{FILES}/run/{alone.tracked[OURS, 'store']}/store/notes.txt"
    assert together.tracked[OURS, "store"] in ours
    assert [request(client, "GET", ours)[:2] for client in http] == [(200, "what store wrote")] * 2, "what is ours is there"


class OneSession:
    """Stands for a house: gives one session, whoever asks."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def session(self, *, workspace: str) -> Session:
        assert workspace == self._session.workspace
        return self._session


def type_command(home: Home, *words: str) -> tuple[object, str, str]:
    """What a command says, typed by a member of our team."""

    @contextmanager
    def open_project(*_: object, **__: object) -> Iterator[Any]:
        yield OneSession(home.session(US, OURS))

    out, err = io.StringIO(), io.StringIO()
    typed = [*words, "--workspace", OURS, "--project", str(home.folder / "plain")]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(commands, "open_project", open_project)
        patch.setattr("sys.stdin", io.StringIO())
        with pytest.raises(SystemExit) as left:
            main(typed)
    return left.value.code, settle(out.getvalue()), err.getvalue()


@pytest.mark.parametrize("name", sorted(name for name in set(offered_verbs()) & set(ASKED) - {"audit", *MEASURED, *SLOW}))
def test_cli(alone: Home, together: Home, their_names: list[str], name: str) -> None:
    """As people read it: no table, no hint and no list of names shows a thing of the other team's."""
    verb = offered_verbs()[name]
    if any(p.name == "workspace" for p in verb.parameters):
        pytest.skip("names another workspace, as admins do: walked in test_matrix.py")
    for what in choose(their_names, name, n=0)[:1]:
        words = [
            what if p.annotation is str else "x"
            for p in verb.parameters
            if p.kind is not inspect.Parameter.KEYWORD_ONLY and p.default is inspect.Parameter.empty and is_plain(p)
        ]
        without, beside = (type_command(home, *name.split(" "), *words) for home in (alone, together))
        assert beside == without, words


def test_our_team_has_the_same_whether_or_not_there_is_another(alone: Home, together: Home) -> None:
    """After all that was asked, and what of it was done: their things have left no trace in ours, though half of them are equal."""
    without, beside = (plain(home.records(OURS)) for home in (alone, together))
    assert beside.keys() == without.keys()
    for kind, records in without.items():
        assert beside[kind] == records, kind


def plain(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Records without what is measured, or follows from it: how long steps took, and the identity of the step that reads what was ingested."""
    told = {kind: list(found.values()) for kind, found in records.items() if not kind.endswith("-key")}
    text = {
        kind: [re.sub(r"\"identity\":\"[0-9a-f]{32}\"", "", settle(msgspec.json.encode(r).decode())) for r in found] for kind, found in told.items()
    }
    return {kind: sorted(found) for kind, found in text.items()}


def test_the_other_team_has_what_it_had(together: Home, theirs: dict[str, Any]) -> None:
    assert together.records(THEIRS) == theirs
    session = together.session(THEM, THEIRS)
    kept = together.tracked[THEIRS, SEALED_NAME]
    assert together.house.ports.tracks.read(OURS, [kept]) == [None]
    assert b"".join(read_file(session, f"run/{kept}", f"{SEALED_NAME}/notes.txt")[1]).decode() == f"what {SEALED_NAME} wrote"
    assert get_version(session, f"{SEALED_NAME}-fraud-v1").model == f"{SEALED_NAME}-fraud"


def test_people_who_are_in_no_workspace_of_ours_are_hinted_at_to_admins_alone(together: Home) -> None:
    """Users are the house's: an owner gives a role to whom they can name, and is not told who else there is."""
    for owner, hinted in ((together.session(US, OURS), False), (together.house.session(workspace=OURS), True)):
        with pytest.raises(EndcapError, match="no user 'bobb'") as caught:
            grant_role(owner, "bobb", "viewer")
        assert ("bob'" in str(caught.value.hint)) == hinted
        with pytest.raises(EndcapError) as caught:
            grant_role(owner, f"{US}e", "viewer")
        assert f"'{US}'" in str(caught.value.hint), "who has a role here is no secret"
