"""What somebody might try who may do something, to see or do more: closed things by every verb, shares after they were taken back, roles that ended.

That two workspaces know nothing of one another is tested in test_isolation.py, who may call what in test_matrix.py, what strangers send in
test_hostile.py.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from endcap.core.errors import Conflict, EndcapError, NotFound, PermissionDenied
from endcap.core.permissions import Permission
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit
from endcap.governance.groups import add_group, grant_group, join_group, leave_group
from endcap.governance.people import add_user, grant_role
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token
from endcap.loop.features.online import read_online
from endcap.loop.features.training_sets import training_set
from endcap.loop.registry.downloads import download
from endcap.project.rights import restrict
from endcap.project.sharing import share, unshare
from endcap.project.verbs import load_verbs
from endcap.testing.teams import (
    OURS,
    SEALED_NAME,
    START,
    THEIRS,
    THEM,
    US,
    Home,
    answer,
    ask_about,
    live,
    opened,
    settle_in,
    tell_texts,
    write_project,
)

NOWHERE = "quallwirt"
"""A word as long as the one that stands in every name that is hidden, and that stands in none."""
NOT_ASKED = {"backup", "backups", "export-audit", "forecast", "init", "restore", "tokens make", "run"}
"""Verbs of files and homes, what answers with a secret that is drawn, and what only reads the definition file."""
CLOSED = tuple(f"{SEALED_NAME}{rest}" for rest in ("-day", "-fraud", "_units", "-trials", "-run", "-logged", "-tag", "_loss"))
"""What nothing may show of what is closed: names of models, views, experiments, runs and what they logged."""
CREATING = {"create-model", "track create-experiment", "name-version", "features label", "register-run", "set-environment", "secrets set"}
"""Verbs that take a name for something new: one that is taken is taken, whoever may see by whom."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("projects")
    write_project(made / "plain")
    write_project(made / SEALED_NAME, word=SEALED_NAME)
    return made


# Closed things


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[Home]:
    """A workspace in which a colleague keeps what is theirs closed, and we approve."""
    with opened(folder) as home:
        owner = home.house.session(actor="root")
        for name in (US, THEM):
            grant_role(owner, name, "owner", workspace=OURS)
        home.ids.begin("b")
        colleague = home.session(THEM, OURS)
        live(home, colleague, word=SEALED_NAME)
        home.ids.begin("a")
        live(home, home.session(US, OURS))
        for thing in ("model/{}-day", "model/{}-fraud", "view/{}_units", "experiment/{}-trials"):
            restrict(colleague, thing.format(SEALED_NAME))
        grant_role(owner, US, "approver", workspace=OURS)
        yield home


@pytest.fixture(scope="module")
def hidden(closed: Home) -> list[str]:
    """Names and ids of what is closed, those that have the word in them, and a run that has not."""
    names = [f"{SEALED_NAME}{rest}" for rest in ("-day", "-day-v1", "-fraud", "-fraud-v1", "_units", "-trials", "-blue")]
    seen, told = closed.session(US, OURS), closed.records(OURS)
    for kind in ("release", "run", "materialisation"):
        names += [identity for identity in told.get(kind, {}) if SEALED_NAME in json.dumps(told[kind][identity])][:1]
    assert SEALED_NAME not in answer(load_verbs()["ls"], seen, {})
    return [*names, closed.tracked[OURS, SEALED_NAME]]


def imagine(name: str) -> str:
    """A name of the same shape that nothing has."""
    if SEALED_NAME in name:
        return name.replace(SEALED_NAME, NOWHERE)
    place = re.search(r"[0-9a-f](?=[^0-9a-f]*$)", name)
    assert place is not None
    return f"{name[: place.start()]}{'7' if place[0] != '7' else '3'}{name[place.end() :]}"


def level(text: str, name: str) -> str:
    """An answer without the name that was asked about, and without whom a hint is near to."""
    told = re.sub(r',"hint":"(?:[^"\\]|\\.)*"', "", text.replace(name, "NAME"))
    return re.sub(r"at character \d+, '[^']*'", "", told).replace(NOWHERE, "WORD").replace(SEALED_NAME, "WORD")


@pytest.mark.parametrize("name", [name for name, verb in load_verbs().items() if verb.permission is Permission.READ and name not in NOT_ASKED])
def test_what_is_closed_reads_as_what_is_not_there(closed: Home, hidden: list[str], name: str) -> None:
    verb, session = load_verbs()[name], closed.session(US, OURS)
    for what in hidden:
        for asked, imagined in zip(ask_about(verb, what, home=closed), ask_about(verb, imagine(what), home=closed), strict=True):
            told, nothing = answer(verb, session, asked), answer(verb, session, imagined)
            assert not [known for known in CLOSED if known in told and known not in what], asked
            assert level(told, what) == level(nothing, imagine(what)), asked
    if not any(p.default is inspect.Parameter.empty for p in verb.parameters if p.name != "folder"):
        told = answer(verb, session, {"folder": closed.folder / "plain"} if any(p.name == "folder" for p in verb.parameters) else {})
        assert not [known for known in CLOSED if known in told]


def of_closed(home: Home) -> dict[str, Any]:
    """Every record that tells of what is closed, but for what is told of it: the audit, and what it cost."""
    kept = {kind: found for kind, found in home.records(OURS).items() if kind not in ("audit", "usage", "place", "held", "token-use")}
    return {kind: {i: told for i, told in found.items() if any(SEALED_NAME in text for text in tell_texts(told))} for kind, found in kept.items()}


def test_what_is_closed_is_changed_by_no_verb(closed: Home, hidden: list[str]) -> None:
    """Somebody who approves, and may do all of it to open things, tries every verb that changes something with every name that is hidden."""
    before, session = of_closed(closed), closed.session(US, OURS)
    for name, verb in load_verbs().items():
        if verb.permission is Permission.READ or name in NOT_ASKED or name in CREATING:
            continue
        for what in hidden:
            for asked in ask_about(verb, what, home=closed):
                meant = [key for key, value in asked.items() if value in (what, [what])]
                if meant and meant[0] in (
                    "model",
                    "version",
                    "view",
                    "run",
                    "thing",
                    "experiment",
                    "challenger",
                    "versions",
                    "runs",
                    "place",
                    "owner",
                ):
                    told = answer(verb, session, asked)
                    assert '"code":"' in told or "Error" in told, (name, asked, told[:200])
    assert {k: v for k, v in of_closed(closed).items() if k in before} == before


# Shares


SHARED = (f"view/{SEALED_NAME}_units", f"model/{SEALED_NAME}-day")
VIEW, MODEL, VERSION = f"{THEIRS}/{SEALED_NAME}_units", f"{THEIRS}/{SEALED_NAME}-day", f"{THEIRS}/{SEALED_NAME}-day-v1"
ONLINE = {"views": [VIEW], "keys": {"store_id": ["S001"]}}


@pytest.fixture(scope="module")
def lent_once(folder: Path) -> Iterator[Home]:
    """Two teams, one of which may lend something to the other."""
    with opened(folder) as home:
        settle_in(home, beside=True)
        yield home


@pytest.fixture
def lent(lent_once: Home) -> Home:
    """The same while a view and a model are lent."""
    for thing in SHARED:
        with suppress(Conflict):
            share(lent_once.session(THEM, THEIRS), thing, to=OURS)
    return lent_once


def use(session: Session, tmp_path: Path) -> dict[str, Any]:
    """Every way in which a share is read, with what it gave: an error's code and words, or 'done'."""
    verbs = load_verbs()
    spine = pa.table({"store_id": ["S001"], "at": pa.array([START], pa.timestamp("us", tz="UTC"))})
    ways: dict[str, Any] = {
        "online": lambda: read_online(session, [VIEW], keys={"store_id": ["S001"]}),
        "training set": lambda: training_set(session, spine, [VIEW], at="at"),
        "download": lambda: download(session, VERSION, out=tmp_path / "files"),
        **{name: lambda name=name, given=given: verbs[name].call(session, given) for name, given in SHOWN.items()},
    }
    told = {}
    for name, way in ways.items():
        try:
            way()
            told[name] = "done"
        except EndcapError as error:
            told[name] = f"{error.code}: {error.what}"
    return told


SHOWN = {"features show": VIEW, "show": MODEL, "versions": MODEL, "members": VERSION, "card": VERSION}


def test_a_share_is_read_while_it_stands_and_not_a_moment_longer(lent: Home, tmp_path: Path) -> None:
    ann, bob = lent.session(US, OURS), lent.session(THEM, THEIRS)
    assert set(use(ann, tmp_path).values()) == {"done"}
    app = build_application(lent.house, folder=lent.folder / "plain", signing_in=SignIn(lent.house))
    token = make_token(lent.house.session(), "test", user=US, workspace=OURS).token
    with TestClient(app, base_url="http://127.0.0.1:8420", headers={"Authorization": f"Bearer {token}"}) as http:
        assert http.post("/api/v1/features/online", json=ONLINE).status_code == 200
        assert http.get(f"/api/v1/show?thing={VERSION}").status_code == 200
        for thing in SHARED:
            unshare(bob, thing, to=OURS)
        assert http.post("/api/v1/features/online", json=ONLINE).status_code == 404, "no reader is kept of what is lent"
        assert http.get(f"/api/v1/show?thing={VERSION}").status_code == 404
    after = use(ann, tmp_path)
    assert all(told.startswith("not_found: ") for told in after.values()), after
    for thing in SHARED:
        share(bob, thing, to=OURS)
    assert set(use(ann, tmp_path).values()) == {"done"}, "and again, once it is lent again"


def test_what_was_taken_back_and_what_never_was_are_missed_in_the_same_words(lent: Home, tmp_path: Path) -> None:
    bob = lent.session(THEM, THEIRS)
    for thing in SHARED:
        unshare(bob, thing, to=OURS)
    taken = use(lent.session(US, OURS), tmp_path)
    for workspace, word in ((THEIRS, NOWHERE), ("caps", SEALED_NAME)):
        verbs, session = load_verbs(), lent.session(US, OURS)
        for name, given in SHOWN.items():
            other = given.replace(THEIRS, workspace).replace(SEALED_NAME, word)
            with pytest.raises(NotFound) as caught:
                verbs[name].call(session, other)
            assert f"not_found: {caught.value.what}".replace(other, "NAME") == taken[name].replace(given, "NAME")


def test_a_share_opens_nothing_beside_it(lent: Home) -> None:
    """By no verb, of what belongs to the lender: not what is beside the thing, not what is called like it, not by way of it."""
    session, verbs = lent.session(US, OURS), load_verbs()
    for beside in ("-fraud", "-fraud-v1", "-trials", "-day-v2", "-day/../-fraud", "_units/../../x", "-blue"):
        for name in (f"{THEIRS}/{SEALED_NAME}{beside}", f"{THEIRS}/{THEIRS}/{SEALED_NAME}{beside}"):
            for verb in ("show", "features show", "versions", "members", "card", "lineage", "trace", "history"):
                with pytest.raises(EndcapError) as caught:
                    verbs[verb].call(session, name)
                assert caught.value.code in ("not_found", "invalid_input"), (verb, name)
    known = {lent.tracked[THEIRS, SEALED_NAME], f"{SEALED_NAME}-fraud", f"{SEALED_NAME}-trials", f"{SEALED_NAME}-nightly", f"{SEALED_NAME}-qa"}
    for name, given in SHOWN.items():
        told = answer(verbs[name], session, dict(zip((p.name for p in verbs[name].parameters), (given,), strict=False)))
        assert not [text for text in known if text in told], name


def test_what_is_lent_is_changed_by_nobody_who_reads_it(lent: Home) -> None:
    """Not by an owner of the other workspace either, by no verb and under no name."""
    before = of_lender(lent)
    for name, verb in load_verbs().items():
        if verb.permission is not Permission.READ and name not in NOT_ASKED:
            for what in (VIEW, MODEL, VERSION, f"model/{MODEL}"):
                for asked in ask_about(verb, what, home=lent):
                    answer(verb, lent.session(US, OURS), asked)
    assert of_lender(lent) == before


def of_lender(home: Home) -> dict[str, Any]:
    """All that the lender has, but for what is told of who read what is lent."""
    return {kind: found for kind, found in home.records(THEIRS).items() if kind not in ("audit", "audit-head", "share-use")}


def test_a_share_is_passed_on_to_nobody(lent: Home) -> None:
    grant_role(lent.house.session(actor="root"), US, "owner", workspace="caps")
    for thing in (f"view/{VIEW}", f"model/{MODEL}", f"version/{VERSION}"):
        with pytest.raises(EndcapError):
            share(lent.session(US, OURS), thing, to="caps")
    with pytest.raises(NotFound):
        load_verbs()["show"].call(lent.session(US, "caps"), MODEL)


def test_by_mlflow_what_is_lent_is_there_under_its_own_name_alone(lent: Home) -> None:
    """Its files and its names while it is lent; no name without the sign, no run, and nothing beside it."""
    app = build_application(lent.house, folder=lent.folder / "plain", signing_in=SignIn(lent.house))
    token = make_token(lent.house.session(), "test", user=US, workspace=OURS).token
    model = MODEL.replace("/", "~")
    with TestClient(app, base_url="http://127.0.0.1:8420", headers={"Authorization": f"Bearer {token}"}) as http:

        def look() -> list[int]:
            asked = (f"{MLFLOW}/registered-models/get?name={model}", f"{FILES}?path=version/{model}-v1", f"{FILES}/version/{model}-v1/rates.npz")
            return [http.get(path).status_code for path in asked]

        for path in (f"{FILES}/version/{VERSION}/rates.npz", f"{FILES}/version/{SEALED_NAME}-day-v1/rates.npz", f"{FILES}?path=version/{VERSION}"):
            assert http.get(path).status_code in (400, 404)
        for name in (MODEL, f"{SEALED_NAME}-day", f"{THEIRS}~{SEALED_NAME}-fraud", f"{THEIRS}~{THEIRS}~{SEALED_NAME}-day"):
            assert http.get(f"{MLFLOW}/registered-models/get", params={"name": name}).status_code == 404
        run = lent.tracked[THEIRS, SEALED_NAME]
        for owner in (f"run/{THEIRS}~{run}", f"run/{run}", f"logged-model/{THEIRS}~{run}"):
            assert http.get(f"{FILES}?path={owner}").status_code == 404
        assert look() == [200, 200, 200]
        unshare(lent.session(THEM, THEIRS), f"model/{SEALED_NAME}-day", to=OURS)
        assert look() == [404, 404, 404]
        found = http.get(f"{MLFLOW}/registered-models/search").json()["registered_models"]
        assert not [one["name"] for one in found if SEALED_NAME in one["name"]]


# Roles that ended


def test_a_group_s_role_ends_with_who_leaves_it_whatever_they_hold_of_it(lent: Home) -> None:
    """A session of before, a token made by it, and a token made for it: all of them look the role up anew."""
    owner = lent.house.session(actor="root")
    add_user(owner, "cleo", password="pine under marble")
    add_group(owner, "analysts")
    grant_group(owner, "analysts", "editor", workspace=OURS)
    join_group(owner, "analysts", "cleo")
    made = make_token(lent.session("cleo", OURS), "nightly")
    app = build_application(lent.house, folder=lent.folder / "plain", signing_in=SignIn(lent.house))
    headers = {"Authorization": f"Bearer {made.token}"}
    with TestClient(app, base_url="http://127.0.0.1:8420") as http:
        assert http.post("/api/v1/track/create-experiment", json={"name": "before"}, headers=headers).status_code == 200
        grant_role(owner, "cleo", "viewer", workspace=OURS)
        leave_group(owner, "analysts", user="cleo")
        fresh = SignIn(lent.house)
        app = build_application(lent.house, folder=lent.folder / "plain", signing_in=fresh)
    with TestClient(app, base_url="http://127.0.0.1:8420") as http:
        said = http.post("/api/v1/track/create-experiment", json={"name": "after"}, headers=headers)
        assert (said.status_code, said.json()["code"]) == (403, "permission_denied"), "the token holds no more than its user does"
        assert list_audit(lent.house.session(workspace=OURS), outcome="refused")[0].actor == "cleo"
        grant_role(owner, "cleo", "none", workspace=OURS)
        app = build_application(lent.house, folder=lent.folder / "plain", signing_in=SignIn(lent.house))
    with TestClient(app, base_url="http://127.0.0.1:8420") as http:
        assert http.get("/api/v1/ls", headers=headers).status_code == 403
    with pytest.raises(PermissionDenied):
        lent.session("cleo", OURS)


# Ownership


def name_owner(folder: Path, owner: str) -> None:
    """Write into the definition file whose the view is."""
    file = folder / "project.py"
    text = re.sub(r', owner="[a-z-]*"', "", file.read_text(encoding="utf-8"))
    file.write_text(text.replace("pushed=True", f'pushed=True, owner="{owner}"') if owner else text, encoding="utf-8")


def test_nobody_becomes_the_owner_of_a_thing_by_writing_it_into_the_definition(tmp_path: Path) -> None:
    """An editor may apply a definition; whose a thing is, they do not say by it: the owner could lend it, and close it to others."""
    write_project(tmp_path / "plain")
    with opened(tmp_path) as home:
        root, verbs, view, folder = home.house.session(actor="root", workspace=OURS), load_verbs(), "view/store_units", tmp_path / "plain"
        add_user(root, "cleo")
        for name, role in ((THEM, "editor"), (US, "editor"), ("cleo", "editor")):
            grant_role(root, name, role, workspace=OURS)
        name_owner(folder, THEM)
        verbs["apply"].call(home.session(US, OURS), folder=folder)  # of a thing that is new, a definition says whose it is
        assert [line.owner for line in verbs["rights ls"].call(root, view)] == [THEM]
        for said in (US, "", "nobody-here"):
            name_owner(folder, said)
            with pytest.raises(PermissionDenied, match="needs the right 'own'"):
                verbs["apply"].call(home.session(US, OURS), folder=folder)
            row = list_audit(root)[0]
            assert (row.verb, row.outcome, row.actor, row.thing) == ("apply", "refused", US, view)
        assert [line.owner for line in verbs["rights ls"].call(root, view)] == [THEM]
        for by, to in ((THEM, "cleo"), ("root", THEM)):  # its owner hands it on, and who owns the workspace
            name_owner(folder, to)
            verbs["apply"].call(root if by == "root" else home.session(by, OURS), folder=folder)
            assert [line.owner for line in verbs["rights ls"].call(root, view)] == [to]
        verbs["rights transfer"].call(root, view, to="cleo")
        name_owner(folder, US)
        verbs["apply"].call(home.session(US, OURS), folder=folder)
        assert [line.owner for line in verbs["rights ls"].call(root, view)] == ["cleo"], "what was said by transfer no definition changes"
        with pytest.raises(PermissionDenied):
            share(home.session(US, OURS), view, to="caps")
