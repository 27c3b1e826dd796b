"""Three people of one workspace and one of another: a model is closed, opened as far as needed and handed over, a view lent and taken back."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.application import build_application
from endcap.faces.http.sessions import SignIn

VIEW = """
store_traffic = ec.FeatureView(
    name="store_traffic", source=sales, online=True, features={"units_2y": ec.sum("units", window="730d")}, owner="bob",
)
"""
KEYS = {"store_id": ["S001"]}
MLFLOW = "/api/2.0/mlflow"


class Town(NamedTuple):
    """The command line as whoever opened the home, and the service as people who signed in."""

    command: Callable[..., Any]
    http: TestClient
    tokens: dict[str, str]
    folder: Path

    def ask(self, who: str, name: str, /, **given: Any) -> Any:
        """A verb over HTTP, as somebody: its status and what it says."""
        said = self.http.post(f"/api/v1/{name}", json=given, headers={"Authorization": f"Bearer {self.tokens[who]}"})
        return said.status_code, said.json()

    def track(self, who: str, path: str, /, **given: Any) -> Any:
        said = self.http.get(f"{MLFLOW}{path}", params=given, headers={"Authorization": f"Bearer {self.tokens[who]}"})
        return said.status_code, said.json()


@pytest.fixture(scope="module")
def town(cli: Callable[..., Any], open_shop: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    shop, home = open_shop(folder / "project"), folder / "home"
    shop.define("shrunk_rates", gate="ec.Gate(bias=0.9, better_than=[])")
    file = shop.folder / "project.py"
    file.write_text(file.read_text(encoding="utf-8") + VIEW, encoding="utf-8")

    def command(*arguments: object, workspace: str = "grocery") -> Any:
        return cli(*arguments, "--json", "--home", home, "--project", shop.folder, "--workspace", workspace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stdin, "read", lambda *_: "", raising=False)
        with open_house(home) as house:
            people = {"ada": ("owner", "grocery"), "bob": ("approver", "grocery"), "eve": ("approver", "grocery"), "will": ("editor", "web")}
            tokens = {name: introduce(house, name, *place) for name, place in people.items()}
            assert command("run", "store-day").code == 0
            assert command("features", "materialise", "store_traffic").code == 0
            app = build_application(house, folder=shop.folder, signing_in=SignIn(house))
            with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as http:
                yield Town(command, http, tokens, folder)


def introduce(house: House, name: str, role: str, workspace: str) -> str:
    """A user with a role, and a token to speak as them."""
    from endcap.governance.people import add_user, grant_role
    from endcap.governance.tokens import make_token

    session = house.session(actor="root", workspace=workspace)
    add_user(session, name)
    grant_role(session, name, role)
    return make_token(session, "journey", user=name).token


def test_a_model_is_closed_opened_as_far_as_needed_and_handed_over(town: Town) -> None:
    assert town.ask("eve", "show", thing="store-day")[0] == 200
    assert town.ask("eve", "rights/restrict", thing="model/store-day")[0] == 403, "it is not hers"
    closed = town.command("rights", "restrict", "model/store-day")
    assert closed.code == 0
    assert closed.json["closed"]

    status, hidden = town.ask("eve", "show", thing="store-day")
    assert (status, hidden["code"]) == (404, "not_found")
    assert hidden == json.loads(json.dumps(town.ask("eve", "show", thing="store-dax")[1]).replace("store-dax", "store-day"))
    assert town.ask("eve", "ls") == (200, [])
    assert town.ask("eve", "history", model="store-day")[0] == 404
    assert town.ask("eve", "lineage", thing="store-day")[0] == 404
    assert town.track("eve", "/registered-models/get", name="store-day")[0] == 404
    assert town.track("eve", "/registered-models/search")[1].get("registered_models", []) == []
    assert town.ask("ada", "ls")[1][0]["model"] == "store-day"

    assert town.command("rights", "grant", "model/store-day", "--to", "user/bob", "--may", "read").code == 0
    assert town.ask("bob", "show", thing="store-day")[0] == 200
    tag = {"model": "store-day", "name": "team", "value": "demand"}
    status, refused = town.ask("bob", "tag-model", **tag)
    assert (status, refused["code"]) == (403, "permission_denied")
    assert "is closed: 'bob' may read it, and 'tag-model' needs the right 'edit'" in refused["error"]
    assert town.command("rights", "grant", "model/store-day", "--to", "user/bob", "--may", "release").code == 0
    assert town.ask("bob", "tag-model", **tag)[0] == 200

    assert town.ask("bob", "rights/transfer", thing="model/store-day", to="bob")[0] == 403
    assert town.command("rights", "transfer", "model/store-day", "--to", "bob").code == 0
    assert town.ask("bob", "rights/grant", thing="model/store-day", to="user/eve", may="read")[0] == 200
    assert town.ask("eve", "show", thing="store-day")[0] == 200
    assert town.ask("bob", "rights/revoke", thing="model/store-day", to="user/eve")[0] == 200
    assert town.ask("eve", "show", thing="store-day")[0] == 404
    assert town.command("rights", "transfer", "model/store-day", "--to", "will").code != 0, "he has no role here"
    (line,) = town.command("rights", "ls", "model/store-day").json
    assert (line["owner"], line["closed"], line["may"]) == ("bob", True, {"user/bob": "release"})
    assert town.ask("bob", "rights/open", thing="model/store-day")[0] == 200
    assert town.ask("eve", "show", thing="store-day")[0] == 200
    told = [
        (row["actor"], row["outcome"])
        for row in town.command("audit", "--thing", "model/store-day", "--limit", "100").json
        if "rights" in row["verb"]
    ]
    assert told.count(("bob", "done")) == 3
    assert told.count(("eve", "refused")) == 1
    assert town.command("verify-audit").code == 0


def test_a_view_is_lent_to_a_neighbour_and_taken_back(town: Town) -> None:
    assert town.ask("will", "features/show", view="grocery/store_traffic")[0] == 404
    assert town.ask("eve", "share", thing="view/store_traffic", to="web")[0] == 403
    assert town.ask("bob", "share", thing="view/store_traffic", to="web")[0] == 200, "its definition names him its owner"
    assert [line["name"] for line in town.command("shares", "ls").json] == ["grocery/store_traffic"]
    assert [line["name"] for line in town.command("shares", "ls", workspace="web").json] == ["grocery/store_traffic"]

    assert town.ask("will", "features/show", view="grocery/store_traffic")[1]["name"] == "store_traffic"
    status, answer = town.ask("will", "features/online", views=["grocery/store_traffic"], keys=KEYS)
    assert status == 200
    assert answer["views"][0]["features"]["units_2y"][0] > 0
    for name, given in (
        ("features/show", {"view": "store_traffic"}),
        ("show", {"thing": "grocery/store-day"}),
        ("show", {"thing": "grocery/store-day-v1"}),
        ("lineage", {"thing": "grocery/store_traffic"}),
        ("features/label", {"view": "grocery/store_traffic", "label": "mine"}),
        ("features/materialise", {"view": "grocery/store_traffic"}),
    ):
        assert town.ask("will", name, **given)[0] == 404, name

    spine, rows = town.folder / "spine.csv", town.folder / "rows.parquet"
    spine.write_text("store_id,at\nS001,2025-09-01T00:00:00Z\nS002,2025-09-01T00:00:00Z\n", encoding="utf-8")
    made = town.command("training-set", spine, "grocery/store_traffic", "--at", "at", "--out", rows, workspace="web")
    assert made.code == 0, made.err
    assert list(made.json["views"]) == ["grocery/store_traffic"]
    assert made.json["n_missing"] == {"units_2y": 0}
    used = town.command("audit", "--verb", "read-shared").json
    assert {(row["actor"], row["detail"]["workspace"]) for row in used} >= {("will", "web")}

    assert town.command("share", "version/store-day-v1", "--to", "web").code == 0
    done = town.command("download", "grocery/store-day:v1", "--out", town.folder / "files", workspace="web")
    assert done.code == 0
    assert {path.name for path in (town.folder / "files").iterdir()} == {file["name"] for file in done.json["files"]}
    assert town.ask("will", "show", thing="grocery/store-day-v1")[0] == 200

    assert town.ask("bob", "unshare", thing="view/store_traffic", to="web")[0] == 200
    revoked = town.ask("will", "features/online", views=["grocery/store_traffic"], keys=KEYS)
    never = town.ask("will", "features/online", views=["grocery/never_was"], keys=KEYS)
    assert revoked[0] == 404
    assert json.dumps(revoked).replace("store_traffic", "never_was") == json.dumps(never)
    assert town.command("training-set", spine, "grocery/store_traffic", "--at", "at", "--out", rows, workspace="web").code == 3
