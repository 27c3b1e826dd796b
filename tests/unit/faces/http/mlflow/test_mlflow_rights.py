"""The MLflow protocol meets closed things: every call answers of them as of what never was, and changes nothing where they may be read only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.permissions import Permission, Role
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES, TRANSFERS
from endcap.faces.http.mlflow.protocol import API
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.naming import name_version
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import log, start_run
from endcap.project.rights import grant_right, restrict, revoke_right
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.packages import log_package, make_onnx_package


@dataclass(frozen=True)
class Names:
    experiment: str
    experiment_name: str
    run: str
    logged: str
    model: str

    def forget(self, text: str, missing: Names) -> str:
        for mine, other in zip(vars(self).values(), vars(missing).values(), strict=True):
            text = text.replace(f'"{mine}"', f'"{other}"').replace(f"'{mine}'", f"'{other}'").replace(f"{mine}-v", f"{other}-v")
        return text


class World(NamedTuple):
    house: House
    http: TestClient
    owner: Session
    names: Names
    missing: Names
    headers: dict[str, str]

    @property
    def things(self) -> list[str]:
        return [f"experiment/{self.names.experiment}", f"run/{self.names.run}", f"model/{self.names.model}"]

    def ask(self, method: str, path: str, body: dict[str, Any]) -> Any:
        parts = {name: body.pop(name) for name in ("model_id", "tag_key") if f"{{{name}" in path}
        place = path.replace("{model_id}", parts.get("model_id", "")).replace("{tag_key:path}", parts.get("tag_key", ""))
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        return self.http.request(method, f"{API}{place}", headers=self.headers, **sent)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("mlflow-rights")
    with open_house("memory://") as house:
        owner = house.session(actor="ada")
        for name in ("ada", "eve"):
            add_user(owner, name)
            grant_role(owner, name, "owner" if name == "ada" else "approver")
        experiment = create_experiment(owner, "secret trials")
        run = start_run(owner, experiment=experiment.id)
        log(owner, run.id, TrackBatch(points=[Point("loss", 0.5, 1)], params={"depth": "3"}, tags={"colour": "red"}))
        put_file(owner, f"run/{run.id}", "notes.txt", [b"secret"])
        logged = create_logged_model(owner, experiment=experiment.id, run=run.id)
        register_run(owner, log_package(owner, make_onnx_package()), "model", model="fraud")
        name_version(owner, "fraud-v1", "blue")
        names = Names(experiment.id, experiment.name, run.id, logged.id, "fraud")
        missing = Names("777", "no such trials", "f" * len(run.id), f"m-{'e' * (len(logged.id) - 2)}", "never")
        made = make_token(owner, "eve's", user="eve").token
        app = build_application(house, folder=folder, signing_in=SignIn(house))
        with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as http:
            world = World(house, http, owner, names, missing, {"Authorization": f"Bearer {made}"})
            for thing in world.things:
                restrict(owner, thing)
            yield world


Body = Callable[[Names], dict[str, Any]]
OF_EXPERIMENT: Body = lambda n: {"experiment_id": n.experiment}  # noqa: E731 - rows of a table
OF_RUN: Body = lambda n: {"run_id": n.run}  # noqa: E731 - as above
OF_MODEL: Body = lambda n: {"name": n.model}  # noqa: E731 - as above
OF_VERSION: Body = lambda n: {"name": n.model, "version": "1"}  # noqa: E731 - as above
OF_LOGGED: Body = lambda n: {"model_id": n.logged}  # noqa: E731 - as above


def of(body: Body, **more: Any) -> Body:
    return lambda n: {**body(n), **more}


FINDS: dict[tuple[str, str], list[Body]] = {
    ("GET", "/experiments/get"): [OF_EXPERIMENT],
    ("GET", "/experiments/get-by-name"): [lambda n: {"experiment_name": n.experiment_name}],
    ("POST", "/experiments/update"): [of(OF_EXPERIMENT, new_name="mine")],
    ("POST", "/experiments/delete"): [OF_EXPERIMENT],
    ("POST", "/experiments/restore"): [OF_EXPERIMENT],
    ("POST", "/experiments/set-experiment-tag"): [of(OF_EXPERIMENT, key="a", value="b")],
    ("POST", "/experiments/delete-experiment-tag"): [of(OF_EXPERIMENT, key="a")],
    ("POST", "/runs/create"): [OF_EXPERIMENT],
    ("GET", "/runs/get"): [OF_RUN],
    ("POST", "/runs/update"): [of(OF_RUN, status="FINISHED")],
    ("POST", "/runs/delete"): [OF_RUN],
    ("POST", "/runs/restore"): [OF_RUN],
    ("POST", "/runs/log-metric"): [of(OF_RUN, key="loss", value=1.0, timestamp=1)],
    ("POST", "/runs/log-parameter"): [of(OF_RUN, key="width", value="1")],
    ("POST", "/runs/set-tag"): [of(OF_RUN, key="a", value="b")],
    ("POST", "/runs/delete-tag"): [of(OF_RUN, key="colour")],
    ("POST", "/runs/log-batch"): [of(OF_RUN, metrics=[{"key": "loss", "value": 1.0, "timestamp": 1}])],
    ("POST", "/runs/log-inputs"): [of(OF_RUN, datasets=[{"dataset": {"name": "rows", "digest": "1", "source_type": "x", "source": "y"}}])],
    ("POST", "/runs/outputs"): [lambda n: {"run_id": n.run, "models": [{"model_id": n.logged}]}],
    ("POST", "/runs/log-model"): [of(OF_RUN, model_json="{}")],
    ("GET", "/metrics/get-history"): [of(OF_RUN, metric_key="loss")],
    ("GET", "/artifacts/list"): [OF_RUN],
    ("POST", "/logged-models"): [OF_EXPERIMENT, lambda n: {"experiment_id": "0", "source_run_id": n.run}],
    ("GET", "/logged-models/{model_id}"): [OF_LOGGED],
    ("PATCH", "/logged-models/{model_id}"): [of(OF_LOGGED, status="LOGGED_MODEL_READY")],
    ("DELETE", "/logged-models/{model_id}"): [OF_LOGGED],
    ("PATCH", "/logged-models/{model_id}/tags"): [of(OF_LOGGED, tags=[{"key": "a", "value": "b"}])],
    ("DELETE", "/logged-models/{model_id}/tags/{tag_key:path}"): [of(OF_LOGGED, tag_key="a")],
    ("POST", "/logged-models/{model_id}/params"): [of(OF_LOGGED, params=[{"key": "a", "value": "b"}])],
    ("GET", "/logged-models/{model_id}/artifacts/directories"): [OF_LOGGED],
    ("GET", "/registered-models/get"): [OF_MODEL],
    ("PATCH", "/registered-models/update"): [of(OF_MODEL, description="mine")],
    ("POST", "/registered-models/set-tag"): [of(OF_MODEL, key="a", value="b")],
    ("DELETE", "/registered-models/delete-tag"): [of(OF_MODEL, key="a")],
    ("POST", "/registered-models/get-latest-versions"): [OF_MODEL],
    ("GET", "/registered-models/get-latest-versions"): [OF_MODEL],
    ("POST", "/model-versions/create"): [
        lambda n: {"name": "own", "source": f"mlflow-artifacts:/run/{n.run}/model", "run_id": n.run},
    ],
    ("GET", "/model-versions/get"): [OF_VERSION],
    ("GET", "/model-versions/get-download-uri"): [OF_VERSION],
    ("PATCH", "/model-versions/update"): [of(OF_VERSION, description="mine")],
    ("POST", "/model-versions/set-tag"): [of(OF_VERSION, key="a", value="b")],
    ("DELETE", "/model-versions/delete-tag"): [of(OF_VERSION, key="a")],
    ("POST", "/registered-models/alias"): [of(OF_VERSION, alias="green"), of(OF_VERSION, alias="champion")],
    ("GET", "/registered-models/alias"): [of(OF_MODEL, alias="blue")],
    ("DELETE", "/registered-models/alias"): [of(OF_MODEL, alias="blue")],
    ("POST", "/model-versions/transition-stage"): [of(OF_VERSION, stage="Production")],
}
SEARCHES: dict[tuple[str, str], list[Body]] = {
    ("POST", "/experiments/search"): [lambda _: {"view_type": "ALL"}],
    ("GET", "/experiments/search"): [lambda _: {"view_type": "ALL"}],
    ("POST", "/runs/search"): [
        lambda n: {"experiment_ids": [n.experiment, "0"], "run_view_type": "ALL"},
        lambda n: {"experiment_ids": ["0"], "filter": f"attributes.run_id = '{n.run}'"},
    ],
    ("GET", "/metrics/get-history-bulk-interval"): [lambda n: {"run_ids": [n.run], "metric_key": "loss"}],
    ("POST", "/logged-models/search"): [lambda n: {"experiment_ids": [n.experiment, "0"]}],
    ("GET", "/registered-models/search"): [lambda _: {}, lambda n: {"filter": f"name = '{n.model}'"}],
    ("GET", "/model-versions/search"): [lambda _: {}, lambda n: {"filter": f"name = '{n.model}'"}],
}
WRITES_NOTHING = {"/runs/outputs", "/runs/log-model"}
"""What they tell is known already by what was told before: they look whether the run is there."""
TAKEN = {("POST", "/experiments/create"), ("POST", "/registered-models/create")}
"""Names of closed things stay taken, and whoever would take them again is told so."""
CALLS = {(call.method, call.path): call for call in list_calls()}
FOUND = [(*key, n) for key, rows in FINDS.items() for n in range(len(rows))]


def test_every_call_has_a_row() -> None:
    assert {*FINDS, *SEARCHES, *TAKEN} == set(CALLS)
    assert len(CALLS) == len(FINDS) + len(SEARCHES) + len(TAKEN)


@pytest.mark.parametrize(("method", "path", "n"), FOUND)
def test_a_closed_thing_is_missed_as_one_that_never_was(world: World, method: str, path: str, n: int) -> None:
    body = FINDS[method, path][n]
    before = list_audit(world.owner, limit=1)
    hidden, missing = (world.ask(method, path, body(names)) for names in (world.names, world.missing))
    assert hidden.status_code == 404, hidden.text
    assert (missing.status_code, world.names.forget(hidden.text, world.missing)) == (404, missing.text)
    assert list_audit(world.owner, limit=1) == before


@pytest.mark.parametrize(("method", "path"), sorted(SEARCHES))
def test_no_search_finds_a_closed_thing(world: World, method: str, path: str) -> None:
    for body in SEARCHES[method, path]:
        said = world.ask(method, path, body(world.names))
        if said.status_code == 200:
            n = world.names
            assert not [name for name in (n.experiment_name, n.run, n.logged, n.model, "secret") if name in said.text], said.text
        else:
            missing = world.ask(method, path, body(world.missing))
            assert (said.status_code, world.names.forget(said.text, world.missing)) == (missing.status_code, missing.text)


@pytest.fixture
def read_only(world: World) -> Iterator[World]:
    for thing in world.things:
        grant_right(world.owner, thing, to="user/eve", may="read")
    yield world
    for thing in world.things:
        revoke_right(world.owner, thing, to="user/eve")


@pytest.mark.parametrize(("method", "path", "n"), FOUND)
def test_whoever_may_read_a_closed_thing_changes_nothing_of_it(read_only: World, method: str, path: str, n: int) -> None:
    world, call = read_only, CALLS[method, path]
    before = list_audit(world.owner, limit=1)
    said = world.ask(method, path, FINDS[method, path][n](world.names))
    if call.needs.permission is Permission.READ:
        assert said.status_code == 200, said.text
        assert list_audit(world.owner, limit=1) == before
    elif path in WRITES_NOTHING:
        assert said.json() == {}
        assert list_audit(world.owner, limit=1) == before
    elif path == "/model-versions/create":
        assert said.status_code == 404, "a run that may be read becomes a version, had it such a file"
    else:
        assert said.status_code == 403, said.text
        assert "is closed" in said.text
        (row,) = list_audit(world.owner, limit=1)
        assert (row.outcome, row.actor) == ("refused", "eve")


@pytest.mark.parametrize(("method", "path"), sorted(TAKEN))
def test_a_name_of_a_closed_thing_stays_taken(world: World, method: str, path: str) -> None:
    name = world.names.model if "models" in path else world.names.experiment_name
    said = world.ask(method, path, {"name": name})
    assert said.status_code == 409
    assert said.json()["error_code"] == "RESOURCE_ALREADY_EXISTS"


def test_files_of_closed_things_are_missed(world: World) -> None:
    assert set(TRANSFERS) == {"list", "take", "give", "remove"}

    def tries(n: Names) -> list[Any]:
        places = [f"run/{n.run}/notes.txt", f"logged-model/{n.logged}/x.txt", f"version/{n.model}-v1/model.onnx"]
        found = [world.http.get(f"{FILES}/{place}", headers=world.headers) for place in places]
        found += [world.http.get(FILES, params={"path": place.rpartition("/")[0]}, headers=world.headers) for place in places]
        sent = {**world.headers, "content-type": "application/octet-stream"}
        found += [world.http.put(f"{FILES}/{place}", content=b"mine", headers=sent) for place in places[:2]]
        return found + [world.http.delete(f"{FILES}/{place}", headers=world.headers) for place in places[:2]]

    for hidden, missing in zip(tries(world.names), tries(world.missing), strict=True):
        assert hidden.status_code == missing.status_code == 404, hidden.text
        text = world.names.forget(hidden.text, world.missing)
        for mine, other in ((world.names.run, world.missing.run), (world.names.logged, world.missing.logged)):
            text = text.replace(mine, other)
        assert text == missing.text


def test_files_of_a_run_that_may_be_read_only_stay_as_they_are(read_only: World) -> None:
    world = read_only
    place = f"{FILES}/run/{world.names.run}/notes.txt"
    assert world.http.get(place, headers=world.headers).content == b"secret"
    sent = {**world.headers, "content-type": "application/octet-stream"}
    assert world.http.put(place, content=b"mine", headers=sent).status_code == 403
    assert world.http.delete(place, headers=world.headers).status_code == 403
    assert world.http.get(place, headers=world.headers).content == b"secret"


def test_what_is_opened_again_is_there_for_every_role(world: World) -> None:
    eve = replace(world.owner, actor=Actor("eve"), role=Role.VIEWER, admin=False)
    assert world.ask("GET", "/registered-models/get", {"name": "fraud"}).status_code == 404
    grant_right(world.owner, "model/fraud", to="user/eve")
    assert world.ask("GET", "/registered-models/get", {"name": "fraud"}).status_code == 200
    revoke_right(world.owner, "model/fraud", to="user/eve")
    assert world.ask("GET", "/registered-models/get", {"name": "fraud"}).status_code == 404
    assert eve.records is not world.owner.ports.records
