"""Who may do what, walked: every verb and every call of MLflow, on each face, as each role, with real calls.

The rows are found, not listed (``endcap.faces.matrix``): a new verb or call is walked as soon as it is there. Whoever must not is refused, and the
audit says so; whoever may gets past the door, whatever then becomes of the made-up arguments.
"""

from __future__ import annotations

import base64
import inspect
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.errors import EndcapError, PermissionDenied
from endcap.core.permissions import Permission, Role, permissions_of
from endcap.faces.cli import commands
from endcap.faces.cli.commands import is_plain, offered_verbs
from endcap.faces.cli.entry import main
from endcap.faces.codes import EXIT_CODES
from endcap.faces.http.application import build_application
from endcap.faces.http.gateway import OPEN
from endcap.faces.http.mlflow.protocol import API as MLFLOW
from endcap.faces.http.remote import RemoteVerb, remote_verbs
from endcap.faces.http.sessions import SignIn
from endcap.faces.matrix import ADMINS, ALWAYS, STRANGERS, CallRow, Row, read_calls, read_matrix
from endcap.governance import passwords
from endcap.governance.audit import list_audit
from endcap.governance.credentials import open_by_user
from endcap.governance.people import add_user, find_user, grant_role
from endcap.governance.records import AuditRow
from endcap.governance.sessions import Session
from endcap.governance.verbs import Verb
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.versions import create_model
from endcap.project.verbs import load_verbs
from endcap.testing.packages import log_package, make_onnx_package

PASSWORD = "pine under marble"
PEOPLE = {"vera": Role.VIEWER, "ed": Role.EDITOR, "ann": Role.APPROVER, "otto": Role.OWNER, "root": Role.OWNER}
"""One of each role, and ``root``, who administers the house too."""
ADMIN = "root"
ROWS = {row.verb: row for row in read_matrix()}
CALLS = {f"{row.method} {row.path}": row for row in read_calls()}


class World(NamedTuple):
    house: House
    http: TestClient
    folder: Path

    def session(self, name: str) -> Session:
        """What signing in by a password gives."""
        found = open_by_user(self.house.ports.records, find_user(self.house.ports.records, name), workspace="default")
        return replace(self.house.admit(found.actor, role=found.role, workspace=found.workspace), admin=found.admin, warrant=found.warrant)

    def headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{PASSWORD}'.encode()).decode()}"}

    def last(self, *, house: bool = False) -> AuditRow | None:
        return next(iter(list_audit(self.house.session(), limit=1, house=house)), None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A home in memory with one user of each role, a model with a version, and an empty project."""
    hasher, folder = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1), tmp_path_factory.mktemp("matrix")
    (folder / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, open_house("memory://") as house:
        patch.setattr(passwords, "_hasher", lambda: hasher)
        patch.chdir(tmp_path_factory.mktemp("here"))  # what a verb makes of a word that it takes for a path stays there
        owner = house.session()
        for name in (ADMIN, *PEOPLE):
            with suppress(EndcapError):  # the first is there already
                add_user(owner, name, password=PASSWORD)
            grant_role(owner, name, str(PEOPLE[name]))
        create_model(owner, "fraud")
        register_run(owner, log_package(owner, make_onnx_package()), "model", model="fraud")
        app = build_application(house, folder=folder, signing_in=SignIn(house))
        with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as http:
            yield World(house, http, folder)


OWN = {"users password": ("name",), "quotas clear": ("actor",), "quotas set": ("actor",)}
"""The parameters that are one's own name, so that what is asked is asked as oneself."""


def make_up(kind: str, *, world: World) -> Any:
    """A value of a parameter's type that names nothing."""
    if "Sequence" in kind or "tuple" in kind or "list" in kind:
        return ("x",)
    plain = {"int": 1, "float": 0.5, "bool": False, "Path": world.folder / "x", "Mapping": {}, "dict": {}}
    return next((value for word, value in plain.items() if word in kind), "x")


def fill(verb: Verb, *, person: str, world: World) -> dict[str, Any]:
    """Something for each parameter that must be given; one's own name, where a name is asked for as oneself."""
    given = {p.name: make_up(str(p.annotation), world=world) for p in verb.parameters if p.default is inspect.Parameter.empty}
    if any(p.name == "folder" for p in verb.parameters):
        given["folder"] = world.folder
    return given | dict.fromkeys(OWN.get(verb.name, ()), person)


class Refusal(NamedTuple):
    """What a face said of lacking a permission, and what the chain says of it; None and None for whoever got past the door."""

    needs: str | None
    audited: tuple[str, str, str, object] | None


def expect(verb: str, permission: Permission, *, admin: str, person: str) -> Refusal:
    """What a row says must become of a person's call."""
    if permission not in permissions_of(PEOPLE[person]):
        return Refusal(str(permission), (verb, person, "workspace/default", str(permission)))
    if admin == ALWAYS and person != ADMIN:
        return Refusal("admin", (verb, person, "house", "admin"))
    return Refusal(None, None)


def read_refusal(world: World, error: Mapping[str, Any] | None, before: tuple[AuditRow | None, AuditRow | None]) -> Refusal:
    """What was refused, read from the error's words, and from whichever chain has a new row that names a lacking right."""
    text = str(error.get("error")) if error and error.get("code") == "permission_denied" else ""
    needs = "admin" if "does not administer the house" in text else text.partition("needs the permission '")[2].partition("'")[0] or None
    for house, old in zip((False, True), before, strict=True):
        row = world.last(house=house)
        if row is not None and row != old and row.outcome == "refused" and "needs" in row.detail:
            return Refusal(needs, (row.verb, row.actor, row.thing, row.detail["needs"]))
    return Refusal(needs, None)


def both(world: World) -> tuple[AuditRow | None, AuditRow | None]:
    return world.last(), world.last(house=True)


@pytest.mark.parametrize("name", ROWS)
def test_python(world: World, name: str) -> None:
    row, verb = ROWS[name], load_verbs()[name]
    for person in PEOPLE:
        before, error = both(world), None
        try:
            verb.call(world.session(person), **fill(verb, person=person, world=world))
        except EndcapError as caught:
            error = caught.to_dict()
        except (TypeError, AttributeError, ValueError):
            error = None  # past the door, where a made-up record is no record
        assert read_refusal(world, error, before) == expect(name, row.permission, admin=row.admin, person=person), person


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.http])
def test_http(world: World, name: str) -> None:
    row, remote = ROWS[name], remote_verbs()[name]
    nobody = world.http.post(row.http, json={"code": "setup_x_x", "name": "eve"} if name in STRANGERS else {})
    assert nobody.status_code == (409 if name in STRANGERS else 401), "nobody; and where there are users there is nothing to set up"
    for person in PEOPLE:
        before = both(world)
        values = {key: value for key, value in fill(remote.verb, person=person, world=world).items() if key in remote.parameters.__struct_fields__}
        body = json.loads(msgspec.json.encode({key: fit(remote, key, value) for key, value in values.items()}))
        said = world.http.post(row.http, json=body, headers=world.headers(person))
        expected = expect(name, row.permission, admin=row.admin, person=person)
        assert read_refusal(world, said.json() if said.status_code >= 400 else None, before) == expected, (person, said.text)
        assert said.status_code != 500
        assert said.status_code == 403 if expected.needs else said.status_code != 403 or remote.verb.permission is Permission.SELF, said.text
        if remote.by_query and person == "vera" and not body:
            assert world.http.get(row.http, headers=world.headers(person)).status_code == said.status_code


def fit(remote: RemoteVerb, name: str, value: Any) -> Any:
    """A value as the parameter's JSON has it."""
    field = next(field for field in msgspec.structs.fields(remote.parameters) if field.encode_name == name)
    kind = msgspec.json.schema(field.type).get("type", "string")
    return {"array": [], "object": {}, "string": str(value)}.get(kind, value)


@contextmanager
def acting(world: World, person: str) -> Iterator[None]:
    """The command line in whose home a person of a role acts: as it stands, whoever opens a home's files owns them."""
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def open_project(*_: object, **__: object) -> Iterator[Any]:
            yield OneSession(world.session(person))

        patch.setattr(commands, "open_project", open_project)
        patch.setattr("sys.stdin", io.StringIO())
        yield


class OneSession:
    """Stands for a house: gives one session, whoever asks."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def session(self, *, workspace: str) -> Session:
        assert workspace == self._session.workspace
        return self._session


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.command])
def test_cli(world: World, name: str) -> None:
    row, verb = ROWS[name], offered_verbs()[name]
    for person in PEOPLE:
        values, words = fill(verb, person=person, world=world), []
        for parameter in verb.parameters:
            if parameter.name in values and parameter.name != "folder" and is_plain(parameter):
                value = ",".join(values[parameter.name]) if isinstance(values[parameter.name], tuple) else str(values[parameter.name])
                words += [value] if parameter.kind is not inspect.Parameter.KEYWORD_ONLY else [f"--{parameter.name.replace('_', '-')}", value]
        before, err = both(world), io.StringIO()
        with acting(world, person), redirect_stdout(io.StringIO()), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main([*name.split(" "), *words, "--json", "--project", str(world.folder)])
        error = json.loads(err.getvalue()) if left.value.code else None
        expected = expect(name, row.permission, admin=row.admin, person=person)
        assert read_refusal(world, error, before) == expected, (person, err.getvalue())
        assert (left.value.code == EXIT_CODES["permission_denied"]) == bool(expected.needs) or verb.permission is Permission.SELF
        assert "endcap COMMAND --help" not in err.getvalue(), "the command line said what was to be said"


def ask(world: World, row: CallRow, *, person: str | None, body: Mapping[str, Any] | None = None) -> Any:
    path = row.path.replace("{path}", "run/x/y").replace("{tag_key:path}", "x").replace("{model_id}", "x")
    headers = world.headers(person) if person else {}
    if row.method == "GET" or "artifacts/artifacts" in row.path.replace("mlflow-artifacts", "artifacts"):
        return world.http.request(row.method, path, headers=headers, params=dict(body or {}))
    return world.http.request(row.method, path, headers=headers, json=dict(body or {}))


@pytest.mark.parametrize("name", CALLS)
def test_mlflow(world: World, name: str) -> None:
    row = CALLS[name]
    assert ask(world, row, person=None).status_code == 401, "nobody"
    for person in PEOPLE:
        before = both(world)
        said = ask(world, row, person=person)
        expected = expect(row.needs.verb, row.needs.permission, admin="", person=person)
        error = said.json() if said.status_code >= 400 else None
        assert read_refusal(world, error, before) == expected, (person, said.text)
        assert (said.status_code == 403) == bool(expected.needs), said.text
        assert said.status_code != 500
        if expected.needs:
            assert error is not None
            assert error["error_code"] == "PERMISSION_DENIED"


def test_an_alias_that_means_a_release_asks_for_that_permission_too(world: World) -> None:
    releasing = {name for name, row in CALLS.items() if row.needs.releasing}
    assert releasing == {f"{method} {MLFLOW}/registered-models/alias" for method in ("POST", "DELETE")}
    said = {}
    for person in PEOPLE:
        row = CALLS[f"POST {MLFLOW}/registered-models/alias"]
        said[person] = ask(world, row, person=person, body={"name": "fraud", "version": "1", "alias": "champion"}).json()["error"]
    assert [person for person, text in said.items() if "needs the permission 'edit'" in text] == ["vera"]
    assert [person for person, text in said.items() if "needs the permission 'release'" in text] == ["ed"]
    assert ask(world, row, person="ed", body={"name": "fraud", "version": "1", "alias": "blue"}).status_code == 200


# Whoever administers the house

ASKING: dict[str, dict[str, Any]] = {
    "audit": {"house": True},
    "cost": {"by": "workspace"},
    "export-audit": {"house": True},
    "groups grant": {"workspace": "elsewhere"},
    "groups leave": {"user": "vera"},
    "groups ls": {"everywhere": True},
    "sessions end": {"user": "vera"},
    "sessions ls": {"everybody": True},
    "keys destroy": {"house": True},
    "keys ls": {"house": True},
    "keys rewrap": {"house": True},
    "keys rotate": {"master": True},
    "quotas clear": {"actor": None},
    "quotas ls": {"everywhere": True},
    "quotas set": {"actor": None},
    "quotas show": {"workspace": "elsewhere"},
    "retention set": {"log": "sessions"},
    "set-environment": {"store": "x"},
    "sign-audit": {"house": True},
    "tokens make": {"user": "vera"},
    "users grant": {"workspace": "elsewhere"},
    "users ls": {"everybody": True},
    "users password": {"name": "vera"},
    "verify-audit": {"house": True},
}
"""With what each verb asks for an admin that does not always."""
ASKED_BY = {"groups ls": "ann"}
"""Who is refused, where it is not an owner."""


def test_what_asks_for_an_admin_is_said() -> None:
    """Read from the code: a verb that reaches ``require_admin`` has its row in ADMINS, and a way to ask for it here."""
    assert set(ADMINS) <= set(load_verbs())
    assert set(ASKING) == {name for name, when in ADMINS.items() if when != ALWAYS}
    reaching = {name for name, verb in load_verbs().items() if _reaches_admin(inspect.unwrap(verb.call))}
    assert reaching == set(ADMINS)


def _reaches_admin(function: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a function's code, or that of the functions of governance and of its own module that it calls, asks for an admin."""
    names = set(function.__code__.co_names)
    if "require_admin" in names:
        return True
    for name in names:
        called = function.__globals__.get(name)
        called = inspect.unwrap(called) if inspect.isfunction(called) else None
        if called is None or called in seen or hasattr(called, "__verb__"):
            continue
        near = called.__module__ == function.__module__ or called.__module__.startswith("endcap.governance.")
        if near and _reaches_admin(called, seen | {function, called}):
            return True
    return False


@pytest.mark.parametrize("name", ASKING)
def test_whoever_is_no_admin_is_refused_what_asks_for_one(world: World, name: str) -> None:
    verb, refused = load_verbs()[name], ASKED_BY.get(name, "otto")
    for person in (refused, ADMIN):
        before, error = both(world), None
        try:
            verb.call(world.session(person), **fill(verb, person=person, world=world) | ASKING[name])
        except EndcapError as caught:
            error = caught.to_dict()
        expected = Refusal("admin", (name, refused, "house", "admin")) if person == refused else Refusal(None, None)
        assert read_refusal(world, error, before) == expected
        remote = remote_verbs().get(name)
        if remote is not None and set(ASKING[name]) <= set(remote.parameters.__struct_fields__):
            values = fill(verb, person=person, world=world) | ASKING[name]
            said = world.http.post(remote.path, json={key: value for key, value in values.items() if key != "folder"}, headers=world.headers(person))
            assert (said.status_code == 403) == (person == refused), said.text


def test_an_admin_holds_no_role_by_it(world: World) -> None:
    """Someone who administers the house and reads in a workspace does no more than read in it."""
    session = replace(world.session("vera"), admin=True)
    for name, row in ROWS.items():
        if Role.VIEWER not in row.roles:
            with pytest.raises(PermissionDenied, match="needs the permission"):
                load_verbs()[name].call(session, **fill(load_verbs()[name], person="vera", world=world))


def test_nobody_is_told_anything_but_that_it_is_up(world: World) -> None:
    for path in ("/version", "/api/3.0/mlflow/server-info", "/api/v1/openapi.json", "/nothing", f"{MLFLOW}/nothing"):
        assert world.http.get(path).status_code == 401
    assert [world.http.get(path).status_code for path in sorted(OPEN)] == [200, 200]


def test_the_matrix_is_whole() -> None:
    assert set(ROWS) == set(load_verbs())
    assert len(CALLS) == len(read_calls()) > 50, "no call stands twice"
    for row in ROWS.values():
        assert isinstance(row, Row)
        assert row.roles == tuple(role for role in Role if row.permission in permissions_of(role))
    spoken = {row.needs.verb for row in CALLS.values()}
    assert spoken - set(ROWS) == {"track log"}, "what training code tells of itself is a verb of no other face"
    assert sum(len(row.calls) for row in ROWS.values()) + sum(row.needs.verb == "track log" for row in CALLS.values()) == len(CALLS)
