"""What another workspace shares, by the calls of MLflow: found, shown and fetched as ``WORKSPACE~NAME``, and nothing beside it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import NotFound
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow.artefacts import FILES
from endcap.faces.http.mlflow.protocol import API
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.sessions import SignIn
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.rights.shares import enter_model, enter_models, hand_out
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token
from endcap.loop.deployment.registering import register_run
from endcap.loop.registry.naming import describe_version, name_version, tag_model
from endcap.loop.registry.versions import create_model, get_version
from endcap.loop.training.tracking.tracked_runs import get_run_track
from endcap.project.rights import restrict
from endcap.project.sealing import seal_files
from endcap.project.sharing import list_all_shares, share, unshare
from endcap.testing.packages import log_package, make_onnx_package

FILE = "model.onnx"


class Two(NamedTuple):
    """``shoes`` has three versions of ``trees``, and ``secret``; vera of ``web`` reads, will owns it."""

    house: House
    http: TestClient
    owner: Session

    def get(self, path: str, /, **params: Any) -> Any:
        return self.http.get(f"{API}{path}", params=params)

    def fetch(self, place: str) -> Any:
        return self.http.get(f"{FILES}/{place}")

    def names(self, **params: Any) -> list[str]:
        return [model["name"] for model in self.get("/registered-models/search", **params).json()["registered_models"]]

    def versions(self, **params: Any) -> list[str]:
        found = self.get("/model-versions/search", **params).json()["model_versions"]
        return [f"{version['name']}/{version['version']}" for version in found]

    def uses(self) -> list[tuple[str, str, object, object]]:
        rows = list_audit(self.owner, verb="read-shared", limit=100)
        return [(row.actor, row.thing, row.detail["by"], row.detail.get("what")) for row in rows]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with open_house("memory://", clock=ManualClock(datetime(2026, 1, 5, 8, tzinfo=UTC))) as house:
        for name, workspace in (("ada", "shoes"), ("will", "web"), ("vera", "web")):
            add_user(house.session(), name)
            grant_role(house.session(), name, "viewer" if name == "vera" else "owner", workspace=workspace)
        owner = house.session(actor="ada", workspace="shoes")
        seal_files(owner)
        for model, n in (("trees", 3), ("secret", 1)):
            for turn in range(n):
                house.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # a ManualClock
                run = log_package(owner, {**make_onnx_package(), "turn.txt": b"%d" % turn})
                register_run(owner, run, "model", model=model)
        name_version(owner, "trees-v2", "blue")
        tag_model(owner, "trees", "team", "crm")
        describe_version(owner, "trees-v3", "with rain")
        create_model(house.session(workspace="web"), "own")
        register_run(web := house.session(workspace="web"), log_package(web, make_onnx_package()), "model", model="own")
        token = make_token(house.session(), "vera's", user="vera", workspace="web").token
        app = build_application(house, folder=tmp_path_factory.mktemp("lent"), signing_in=SignIn(house))
        with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False, headers={"Authorization": f"Bearer {token}"}) as http:
            yield Two(house, http, owner)


@pytest.fixture
def two(opened: Two) -> Iterator[Two]:
    """With nothing shared, which it is again afterwards; a day later each time, as each day's uses are noted."""
    opened.house.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]  # a ManualClock
    yield opened
    for line in list_all_shares(opened.owner):
        unshare(opened.owner, line.thing, to=line.to)


def test_a_model_that_is_shared_is_found_shown_and_fetched(two: Two) -> None:
    assert (two.names(), two.versions()) == (["own"], ["own/1"])
    share(two.owner, "model/trees", to="web")
    assert two.names() == ["own", "shoes~trees"]
    assert (
        two.names(filter="name LIKE '%trees%'")
        == two.names(filter="name = 'shoes~trees'")
        == two.names(filter="tags.team = 'crm'")
        == ["shoes~trees"]
    )
    assert two.names(max_results=1) == ["own"]
    assert two.names(max_results=1, page_token="1") == ["shoes~trees"]
    assert two.names(filter="name = 'trees'") == []
    assert two.versions() == ["own/1", "shoes~trees/3", "shoes~trees/2", "shoes~trees/1"]
    assert two.versions(filter="name = 'shoes~trees'", max_results=2) == ["shoes~trees/3", "shoes~trees/2"]
    assert two.versions(filter="version_number > 2") == ["shoes~trees/3"]
    model = two.get("/registered-models/get", name="shoes~trees").json()["registered_model"]
    assert (model["aliases"], model["tags"]) == ([{"alias": "blue", "version": "2"}], [{"key": "team", "value": "crm"}])
    assert [(version["name"], version["version"]) for version in model["latest_versions"]] == [("shoes~trees", "3")]
    latest = two.get("/registered-models/get-latest-versions", name="shoes~trees").json()["model_versions"]
    assert latest == model["latest_versions"]
    assert two.get("/registered-models/alias", name="shoes~trees", alias="blue").json()["model_version"]["version"] == "2"
    assert two.get("/model-versions/get", name="shoes~trees", version="3").json()["model_version"] == latest[0]
    assert latest[0]["description"] == "with rain"
    place = two.get("/model-versions/get-download-uri", name="shoes~trees", version="3").json()["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert place == "version/shoes~trees-v3"
    files = {file.name: file.n_bytes for file in get_version(two.owner, "trees-v3").files}
    listed = two.http.get(FILES, params={"path": place}).json()["files"]
    assert {file["path"]: file["file_size"] for file in listed if not file["is_dir"]} == files
    assert two.fetch(f"{place}/{FILE}").content == make_onnx_package()[FILE], "files that lie sealed in the other workspace too"


def test_what_a_lent_version_was_made_of_is_not_told(two: Two) -> None:
    share(two.owner, "version/trees-v3", to="web")
    run = get_version(two.owner, "trees-v3").run
    assert get_run_track(two.owner, run).id == run
    told = two.get("/model-versions/get", name="shoes~trees", version="3")
    assert run not in told.text
    assert (told.json()["model_version"]["run_id"], told.json()["model_version"]["source"]) == ("", "mlflow-artifacts:/version/shoes~trees-v3")
    assert two.versions(filter=f"run_id = '{run}'") == []
    assert two.get("/runs/get", run_id=run).status_code == 404
    assert two.fetch(f"run/{run}/model/{FILE}").status_code == 404


def test_of_a_version_that_is_shared_nothing_else_of_its_model_is_there(two: Two) -> None:
    share(two.owner, "version/trees-v1", to="web")
    share(two.owner, "version/trees-v2", to="web")
    assert two.names() == ["own", "shoes~trees"]
    assert two.versions(filter="name = 'shoes~trees'") == ["shoes~trees/2", "shoes~trees/1"]
    model = two.get("/registered-models/get", name="shoes~trees").json()["registered_model"]
    assert (model["aliases"], model["tags"]) == ([], []), "what the model is called, and what is said of it, is not lent"
    assert [version["version"] for version in model["latest_versions"]] == ["2"]
    assert two.fetch(f"version/shoes~trees-v1/{FILE}").status_code == 200
    for missed in (
        two.get("/model-versions/get", name="shoes~trees", version="3"),
        two.get("/model-versions/get-download-uri", name="shoes~trees", version="3"),
        two.get("/registered-models/alias", name="shoes~trees", alias="blue"),
        two.fetch(f"version/shoes~trees-v3/{FILE}"),
        two.http.get(FILES, params={"path": "version/shoes~trees-v3"}),
    ):
        assert (missed.status_code, missed.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    never, real = (two.get("/model-versions/get", name="shoes~trees", version=n).text.replace(f"v{n}", "vN") for n in "93")
    assert never == real


BESIDE = (
    "shoes~secret",
    "shoes~never",
    "shoes~shoes~trees",
    "nowhere~trees",
    "web~own",
    "_house~trees",
    "~trees",
    "shoes~",
    "shoes/trees",
    "shoes:trees",
)


@pytest.mark.parametrize("name", BESIDE)
def test_everything_else_is_as_if_it_were_not_there(two: Two, name: str) -> None:
    share(two.owner, "model/trees", to="web")
    before = two.uses()
    for said in (
        two.get("/registered-models/get", name=name),
        two.get("/registered-models/get-latest-versions", name=name),
        two.get("/registered-models/alias", name=name, alias="blue"),
        two.get("/model-versions/get", name=name, version="1"),
        two.get("/model-versions/get-download-uri", name=name, version="1"),
    ):
        assert said.status_code == 404, said.text
        assert f"No model {name!r} in workspace 'web'" in said.json()["message"]
    assert two.versions(filter=f"name = '{name}'") == []
    assert two.fetch(f"version/{name}-v1/{FILE}").status_code in (400, 404)
    assert two.uses() == before


CHANGES: dict[str, dict[str, Any]] = {
    "POST /registered-models/create": {},
    "PATCH /registered-models/update": {"description": "mine"},
    "POST /registered-models/set-tag": {"key": "a", "value": "b"},
    "DELETE /registered-models/delete-tag": {"key": "team"},
    "POST /model-versions/create": {"source": "mlflow-artifacts:/run/x/model", "run_id": "x"},
    "PATCH /model-versions/update": {"version": "1", "description": "mine"},
    "POST /model-versions/set-tag": {"version": "1", "key": "a", "value": "b"},
    "DELETE /model-versions/delete-tag": {"version": "1", "key": "a"},
    "POST /registered-models/alias": {"version": "1", "alias": "mine"},
    "DELETE /registered-models/alias": {"alias": "blue"},
    "POST /model-versions/transition-stage": {"version": "1", "stage": "Production"},
}


def test_every_call_that_changes_a_model_is_walked() -> None:
    named = {f"{call.method} {call.path}" for call in list_calls() if "name" in call.request.__struct_fields__ and "model" in call.path}
    reads = {f"GET /{rest}" for rest in ("registered-models/get", "registered-models/get-latest-versions", "registered-models/alias")}
    reads |= {"POST /registered-models/get-latest-versions", "GET /model-versions/get", "GET /model-versions/get-download-uri"}
    assert named - reads - {"POST /logged-models"} == set(CHANGES)


@pytest.mark.parametrize("call", CHANGES)
def test_what_is_lent_is_changed_by_no_call(two: Two, call: str) -> None:
    """Not by an owner of the workspace to which it is lent either."""
    share(two.owner, "model/trees", to="web")
    add = {"Authorization": f"Bearer {make_token(two.house.session(), 'boss', user='will', workspace='web').token}"}
    before = list_audit(two.owner, limit=1)
    method, _, path = call.partition(" ")
    said = two.http.request(method, f"{API}{path}", json={"name": "shoes~trees", **CHANGES[call]}, headers=add)
    assert said.status_code in (400, 404), said.text
    for method in ("PUT", "DELETE"):
        assert two.http.request(method, f"{FILES}/version/shoes~trees-v1/{FILE}", headers=add, content=b"mine").status_code == 400
    assert list_audit(two.owner, limit=1) == before


def test_a_share_that_is_taken_back_never_was(two: Two) -> None:
    share(two.owner, "model/trees", to="web")
    calls = {
        "/registered-models/get": {},
        "/registered-models/get-latest-versions": {},
        "/registered-models/alias": {"alias": "blue"},
        "/model-versions/get": {"version": "1"},
        "/model-versions/get-download-uri": {"version": "1"},
    }
    assert [two.get(path, name="shoes~trees", **more).status_code for path, more in calls.items()] == [200] * 5
    assert two.fetch(f"version/shoes~trees-v1/{FILE}").status_code == 200
    unshare(two.owner, "model/trees", to="web")
    for path, more in calls.items():
        taken, never = two.get(path, name="shoes~trees", **more), two.get(path, name="shoes~never", **more)
        assert (taken.status_code, taken.text.replace("trees", "never")) == (404, never.text)
    taken, never = two.fetch(f"version/shoes~trees-v1/{FILE}"), two.fetch(f"version/shoes~never-v1/{FILE}")
    assert (taken.status_code, taken.text.replace("trees", "never")) == (404, never.text)
    assert (two.names(), two.versions()) == (["own"], ["own/1"])


def test_each_version_that_is_handed_out_is_audited_by_its_owners_once_a_day(two: Two) -> None:
    share(two.owner, "model/trees", to="web")
    before = len(two.uses())
    two.versions()
    two.get("/model-versions/get", name="shoes~trees", version="1")
    two.http.get(FILES, params={"path": "version/shoes~trees-v1"})
    assert two.fetch("version/shoes~trees-v1/nothing.txt").status_code == 404
    assert two.fetch(f"version/shoes~trees-v9/{FILE}").status_code == 404
    assert len(two.uses()) == before, "what is there is no data, and what is not there is not handed out"
    for name in ("trees-v1", "trees-v1", "trees-v2"):
        for file in (FILE, "MLmodel"):
            assert two.fetch(f"version/shoes~{name}/{file}").status_code == 200
    made = two.uses()[: len(two.uses()) - before]
    assert made == [("vera", "model/trees", "download", f"version/trees-v{n}") for n in (2, 1)]
    (row,) = list_audit(two.owner, verb="read-shared", limit=1)
    assert row.detail["workspace"] == "web"
    two.house.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]  # a ManualClock
    two.fetch(f"version/shoes~trees-v1/{FILE}")
    assert len(two.uses()) == before + 3
    verify_audit(two.owner)


def test_of_many_that_fetch_at_once_one_is_written_down(two: Two) -> None:
    """As the client does, which fetches files side by side."""
    share(two.owner, "model/trees", to="web")
    before = len(two.uses())
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: two.fetch(f"version/shoes~trees-v1/{FILE}").status_code, range(16)))
    assert said == [200] * 16
    assert len(two.uses()) == before + 1
    verify_audit(two.owner)


def test_a_share_that_is_taken_back_between_a_look_and_a_hand_hands_nothing_out(two: Two) -> None:
    share(two.owner, "model/trees", to="web")
    reader = two.house.session(actor="vera", workspace="web")
    where = enter_model(reader, "shoes", "trees")
    assert where is not None
    assert (where.lent_to, enter_model(where, "shoes", "trees"), enter_models(where)) == ("web", None, []), "what is lent lends nothing on"
    hand_out(where, "version/trees-v1", verb="download")
    unshare(two.owner, "model/trees", to="web")
    with pytest.raises(NotFound, match="No version 'trees-v1' in workspace 'shoes'"):
        hand_out(where, "version/trees-v1", verb="download")
    before = two.uses()
    hand_out(reader, "version/own-v1", verb="download")
    assert two.uses() == before, "what is one's own is handed out without a word"


def test_what_was_shared_stays_so_when_it_is_closed_at_home(two: Two) -> None:
    share(two.owner, "version/trees-v1", to="web")
    restrict(two.owner, "model/trees")
    assert two.fetch(f"version/shoes~trees-v1/{FILE}").status_code == 200
    assert two.versions() == ["own/1", "shoes~trees/1"]


def test_a_share_is_of_the_workspace_that_it_was_given_to(two: Two, tmp_path: Path) -> None:
    share(two.owner, "model/trees", to="web")
    grant_role(two.house.session(), "vera", "viewer", workspace="third")
    token = make_token(two.house.session(), "third", user="vera", workspace="third").token
    said = two.http.get(f"{FILES}/version/shoes~trees-v1/{FILE}", headers={"Authorization": f"Bearer {token}"})
    assert said.status_code == 404
    app = build_application(two.house, folder=tmp_path, signing_in=SignIn(two.house))
    with TestClient(app, base_url="http://127.0.0.1:8420", headers=dict(two.http.headers)) as http:
        assert http.get(f"/workspaces/web{FILES}/version/shoes~trees-v1/{FILE}").status_code == 200
        assert http.get(f"/workspaces/shoes{FILES}/version/trees-v1/{FILE}").status_code in (401, 403)
