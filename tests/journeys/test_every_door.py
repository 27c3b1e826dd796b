"""Every path that could release, walked with versions that their gate refused or never saw: none passes.

The paths are found, not listed: every verb that is not for reading, called in Python, over HTTP and on the command line; every call of the MLflow
protocol that names a version; the turn of the cycle by which schedules and reactions release; and the rooms' own functions. A new verb or call is
walked as soon as it is there. That nothing but the door writes who answers is read from the source (tests/unit/loop/registry/test_door.py).
"""

from __future__ import annotations

import ast
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from starlette.testclient import TestClient

import endcap as ec
from endcap.core.errors import EndcapError, GateRefused
from endcap.core.permissions import Permission, Role
from endcap.core.zones import start_of_day
from endcap.faces.cli.commands import is_plain, offered_verbs
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.protocol import API, Call
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.remote import remote_verbs
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.governance.verbs import Verb
from endcap.loop.evaluation.records import VERDICTS, Groups
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import list_comparisons
from endcap.loop.registry.environments import list_environments, set_environment
from endcap.loop.registry.members import list_members
from endcap.loop.registry.records import RELEASES, ROLES, VERSIONS
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.standings import get_seats
from endcap.loop.registry.versions import get_version, latest_verdict, register_version
from endcap.project.verbs import load_verbs
from endcap.storage.opening import open_ports

MODEL = "store-day"
ANSWERS, REFUSED, UNJUDGED = (f"{MODEL}-v{n}" for n in (1, 2, 4))
BARRED = (REFUSED, UNJUDGED)
NAMING = {"version", "challenger", "thing", "model"}
FIRST = date(2025, 1, 6) + timedelta(weeks=40)
PLACES = ("prod", "staging", "dev", "eu")
SOURCE = Path(ec.__file__).parent
NOT_CALLED = {
    "join-outcomes": "takes a table of outcomes",
    "log-predictions": "takes tables of answers; who answers was settled before",
    "check-members": "takes a watch, and reads",
    "check-quality": "takes a watch, and reads",
    "ingest": "takes a table's definition",
    "training-set": "takes a table of keys",
    "features push": "takes rows",
}
"""Verbs that take what no generic call can make up; none of them takes the name of a version."""


class Barred(NamedTuple):
    """A project and a home in which one version answers, one was refused by its gate in a run, and one was never judged."""

    folder: Path
    home: Path
    elsewhere: Path


@pytest.fixture(scope="module")
def barred(tmp_path_factory: pytest.TempPathFactory, open_shop: Callable[..., Any]) -> Barred:
    at = Barred(*(tmp_path_factory.mktemp("doors") / name for name in ("shop", "home", "elsewhere")))
    at.folder.mkdir()
    shop = open_shop(at.folder)
    shop.define("weekday_mean")
    clock = ec.ManualClock(start_of_day(FIRST, zone="UTC") + timedelta(hours=6))
    with ec.open_house(at.home, clock=clock) as house:
        session = house.session(actor="ada")
        assert ec.run(session, MODEL, folder=at.folder).champion == ANSWERS
        shop.define("shrunk_rates", gate='ec.Gate(bias=0.1, most={"wape": 0.000001})', seed="8")
        clock.advance(timedelta(hours=1))
        done = ec.run(session, MODEL, folder=at.folder, train=True)  # the way of schedules and reactions
        assert [(judged.version, judged.passed, judged.released) for judged in done.judged] == [
            (REFUSED, False, False),
            (f"{MODEL}-v3", False, False),
        ]
        made = register_version(session, msgspec.structs.replace(get_version(session, REFUSED), identity="another"))
        assert made.id == UNJUDGED
        set_environment(session, "eu", store=str(at.elsewhere))
        assert [place.name for place in list_environments(session) if place.name in PLACES] == ["dev", "staging", "prod", "eu"]
        require_nobody(session)
    return at


@pytest.fixture
def fresh(barred: Barred, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Barred]]:
    """Gives copies of the project and the home, so that nothing that one door does stands before another."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # what a verb makes of a word that it takes for a path stays there
    made: list[Barred] = []

    def copy() -> Barred:
        at = Barred(tmp_path / f"{len(made)}" / "shop", tmp_path / f"{len(made)}" / "home", barred.elsewhere)
        shutil.copytree(barred.folder, at.folder)
        shutil.copytree(barred.home, at.home)
        made.append(at)
        return at

    yield copy
    for at in made:
        with ec.open_house(at.home) as house:
            require_nobody(house.session(actor="ada"))
    ports = open_ports(barred.elsewhere)
    try:
        assert ports.records.find(VERSIONS, workspace="default") == [], "nothing was even copied"
    finally:
        ports.close()


def require_nobody(session: Session) -> None:
    """Nobody but the version that passed answers, or ever did, anywhere, in any role, for anyone; and each release stands on what it says."""
    answered = {row.version for row in session.records.find(RELEASES, workspace=session.workspace)}
    for place in list_environments(session):
        champion = get_champion(session, MODEL, environment=place.name)
        if champion is not None:
            assignment = read_assignment(session, champion)
            answered |= {champion.version, *(standing.version for standing in champion.standing), *(assignment.versions if assignment else ())}
        answered |= {seat.version for seat in get_seats(session, MODEL, environment=place.name)}
    answered |= {comparison.challenger for comparison in list_comparisons(session, MODEL)}
    assert answered == {ANSWERS}
    for row in session.records.find(RELEASES, workspace=session.workspace):
        verdict = session.records.get(VERDICTS, workspace=session.workspace, id=row.verdict)
        assert verdict is not None
        assert (verdict.version, verdict.environment, verdict.passed) == (row.version, row.environment, True)


def fill(verb: Verb, *, version: str, at: Barred) -> Iterator[dict[str, Any]]:
    """What a verb may be called with to let a version in: every role and environment that it can say."""
    given: dict[str, Any] = {}
    named = {
        "version": version,
        "challenger": version,
        "thing": version,
        "model": MODEL,
        "keep": "b",
        "train": False,
        "again": True,
        "table": "sales",
    }
    for parameter in verb.parameters:
        kind, name = str(parameter.annotation), parameter.name
        if name in ("folder", "out", "report"):
            given[name] = at.folder if name == "folder" else at.folder / "written"
        elif name in named:
            given[name] = named[name]
        elif parameter.default is inspect.Parameter.empty:
            given[name] = (
                (version,) if "Sequence" in kind else 1 if "int" in kind else 0.5 if "float" in kind else at.folder if "Path" in kind else "prod"
            )
    offered = {parameter.name for parameter in verb.parameters}
    if "groups" in offered:
        given["groups"] = Groups(("S001", "S002"), ("S003", "S004"))
    roles = ROLES if "role" in offered else (None,)
    places = PLACES if "environment" in offered else (None,)
    for role in roles:
        for place in places:
            yield given | ({"role": role} if role else {}) | ({"environment": place} if place else {})


def sweep(verb: Verb, at: Barred, act: Callable[[Mapping[str, Any]], object]) -> None:
    for version in BARRED:
        for values in fill(verb, version=version, at=at):
            act(values)


def is_callable(verb: Verb) -> bool:
    return verb.permission is not Permission.READ and verb.name not in NOT_CALLED


CHANGING = {name: verb for name, verb in load_verbs().items() if is_callable(verb)}
NAMED = {name: verb for name, verb in CHANGING.items() if NAMING & {parameter.name for parameter in verb.parameters}}


def test_the_verbs_that_are_not_called_name_no_version() -> None:
    for name in NOT_CALLED:
        assert not {"version", "challenger"} & {parameter.name for parameter in load_verbs()[name].parameters if is_plain(parameter)}, name
    assert {"promote", "rollback", "compare", "start-comparison", "stop-comparison", "withdraw", "override", "approve", "run"} <= set(NAMED)


@pytest.mark.parametrize("name", sorted(CHANGING))
def test_no_verb_called_in_python_lets_them_in(name: str, barred: Barred, fresh: Callable[[], Barred]) -> None:
    verb, at = CHANGING[name], fresh()
    with ec.open_house(at.home) as house:
        session = house.session(actor="ada")
        records: dict[str, dict[str, Any]] = {
            "register": {"version": get_version(session, UNJUDGED)},
            "record-verdict": {"verdict": latest_verdict(session, REFUSED)},
        }

        def act(values: Mapping[str, Any]) -> None:
            with suppress(EndcapError):
                verb.call(session, **{**values, **records.get(name, {})})

        sweep(verb, at, act)
        require_nobody(session)


@pytest.mark.parametrize("name", sorted(set(NAMED) & set(remote_verbs())))
def test_no_request_lets_them_in(name: str, fresh: Callable[[], Barred]) -> None:
    remote, at = remote_verbs()[name], fresh()
    with ec.open_house(at.home) as house, TestClient(build_application(house, folder=at.folder), base_url="http://127.0.0.1:8420") as client:
        said: list[int] = []

        def act(values: Mapping[str, Any]) -> None:
            plain = {key: value for key, value in values.items() if not isinstance(value, Path)}
            said.append(client.post(remote.path, json=plain).status_code)

        sweep(remote.verb, at, act)
        require_nobody(house.session())
    if name == "promote":
        assert set(said) == {422, 409}, "refused by the gate, or nothing stands there yet to be beside"


@pytest.mark.parametrize("name", sorted(set(NAMED) & set(offered_verbs()) - {"run"}))
def test_no_command_lets_them_in(name: str, fresh: Callable[[], Barred], cli: Callable[..., Any]) -> None:
    verb, at = offered_verbs()[name], fresh()
    codes: set[object] = set()

    def act(values: Mapping[str, Any]) -> None:
        arguments: list[Any] = []
        options: list[Any] = []
        for parameter in verb.parameters:
            if parameter.name in values and parameter.name != "folder":
                value = values[parameter.name]
                if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                    arguments.append(value)
                elif value is not False:
                    flag = f"--{parameter.name.replace('_', '-')}"
                    options += [flag] if value is True else [flag, ",".join(value) if isinstance(value, tuple) else value]
        codes.add(cli(*name.split(" "), *arguments, *options, "--project", at.folder, "--home", at.home).code)

    sweep(verb, at, act)
    if name == "promote":
        assert codes == {6, 5}


# The MLflow protocol


def fill_call(entry: Call, number: str) -> Iterator[dict[str, str]]:
    """What a call may say of a version: every alias and stage that could mean a release."""
    fields = set(entry.request.__struct_fields__)
    given = {"name": MODEL, "version": number}
    aliases: Sequence[str | None] = ("champion", "Champion", *ROLES, *PLACES, "production", "blue") if "alias" in fields else (None,)
    stages: Sequence[str | None] = ("Production", "production", "Staging", "None", "Archived") if "stage" in fields else (None,)
    for alias in aliases:
        for stage in stages:
            said = given | ({"alias": alias} if alias else {}) | ({"stage": stage} if stage else {})
            yield {key: value for key, value in said.items() if key in fields}


RELEASING = sorted(
    {(entry.method, entry.path) for entry in list_calls() if entry.method != "GET" and {"version", "alias"} & set(entry.request.__struct_fields__)}
)


@pytest.mark.parametrize(("method", "path"), RELEASING)
def test_no_call_of_the_mlflow_protocol_lets_them_in(method: str, path: str, fresh: Callable[[], Barred]) -> None:
    entry = next(entry for entry in list_calls() if (entry.method, entry.path) == (method, path))
    at = fresh()
    with ec.open_house(at.home) as house, TestClient(build_application(house, folder=at.folder), base_url="http://127.0.0.1:8420") as client:
        said = {}
        for number in ("2", "4"):
            for values in fill_call(entry, number):
                answer = client.request(method, f"{API}{path}", json=values)
                said[values.get("alias"), values.get("stage"), number] = answer
        require_nobody(house.session())
    for alias in ("champion", "prod", "challenger", "shadow"):
        if (alias, None, "2") in said and path.endswith("/alias") and method == "POST":
            answer = said[alias, None, "2"]
            assert answer.status_code in (400, 403)
            assert "wape" in answer.json()["message"], "it says why"


def test_both_ways_of_the_protocol_to_release_are_among_those_walked() -> None:
    assert {("POST", "/registered-models/alias"), ("POST", "/model-versions/transition-stage")} <= set(RELEASING)


# People, schedules and the rooms themselves


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("system", [False, True])
def test_no_role_lets_them_in_and_every_try_is_audited(role: Role, system: bool, fresh: Callable[[], Barred]) -> None:
    with ec.open_house(fresh().home) as house:
        session = replace(house.session(actor="mallory"), role=role)
        session = session.as_system() if system else session
        before = len(list_audit(session, limit=1000))
        for version in BARRED:
            with pytest.raises(EndcapError) as caught:
                promote(session, version, reason="it must be")
            assert caught.value.code in ("gate_refused", "permission_denied")
        rows = list_audit(session, limit=1000)
        assert len(rows) == before + len(BARRED)
        assert {(row.verb, row.outcome) for row in rows[: len(BARRED)]} == {("promote", "refused")}


def test_some_members_need_a_verdict_too(fresh: Callable[[], Barred]) -> None:
    with ec.open_house(fresh().home) as house:
        session = house.session(actor="ada")
        member = list_members(session, REFUSED)[0].member
        with pytest.raises(GateRefused, match="wape"):
            promote(session, REFUSED, members=[member])
        require_nobody(session)


def test_who_opens_the_door_is_known() -> None:
    """A new module that calls the door is looked at, walked here, and then named."""
    opens = {"move_champion", "seat", "unseat", "note"}
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "door" in text else ():
            if isinstance(node, ast.ImportFrom) and node.module == "endcap.loop.registry.door":
                found.setdefault(path.relative_to(SOURCE).as_posix(), set()).update(alias.name for alias in node.names)
            assert not (isinstance(node, ast.Import) and any("registry.door" in alias.name for alias in node.names)), path
    assert found == {
        "loop/registry/pins.py": {"note"},
        "loop/registry/releases.py": {"move_champion", "seat", "unseat"},
        "loop/registry/rollbacks.py": {"move_champion"},
        "loop/registry/seats.py": {"unseat"},
    }
    assert set().union(*found.values()) == opens
