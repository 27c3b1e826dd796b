from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import NotFound
from endcap.faces.http import online
from endcap.faces.http.answers import encode_result
from endcap.faces.http.application import build_application
from endcap.faces.http.calls import Calls
from endcap.faces.http.online import OnlineReads
from endcap.faces.http.remote import remote_verbs
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.online import read_online, write_online
from endcap.loop.features.records import VIEW_VERSIONS, ViewVersion

NOW = datetime(2026, 3, 3, 14, 5, tzinfo=UTC)
USERS = Table("users", "users.parquet", keys=["user_id"], event_time="ts", zone="UTC")
PATH = "/api/v1/features/online"


def stand(house: House, **given: Any) -> ViewVersion:
    """Apply a view of users, with its types as materialising would find them."""
    session, view = house.session(), FeatureView(name="user_7d", source=USERS, features=["clicks", "city"], **given)
    with session.change("apply", thing="view/user_7d") as change:
        version = register_view(session, change, view, folder=Path())
        _, n = change.tx.get_versioned(VIEW_VERSIONS, workspace="default", id=version.id) or (None, 0)
        typed = msgspec.structs.replace(version, key_types={"user_id": "integer"}, feature_types={"clicks": "number", "city": "text"})
        change.tx.put(VIEW_VERSIONS, workspace="default", record=typed, expected_version=n)
    return typed


def fill(house: House, version: ViewVersion, *, day: int = 3, clicks: float = 0.5) -> None:
    at = pa.array([datetime(2026, 3, day)] * 1000, pa.timestamp("us"))  # noqa: DTZ001 - as feature rows have it
    columns = {"clicks": [user + clicks for user in range(1000)], "city": [None if user % 2 else "Köln" for user in range(1000)]}
    write_online(house.session(), version, pa.table({"user_id": range(1000), "__event_at": at, "__known_at": at, **columns}))


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://", clock=ManualClock(NOW)) as opened:
        yield opened


@pytest.fixture
def client(house: House, tmp_path: Path) -> Iterator[TestClient]:
    fill(house, stand(house, max_age="7d"))
    with TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as opened:
        yield opened


def test_values_come_with_freshness_versions_and_reasons(client: TestClient, house: House) -> None:
    asked = {"views": ["user_7d"], "keys": {"user_id": [2, 3, 5000, None]}}
    said = client.post(PATH, json=asked)
    assert (said.status_code, said.headers["content-type"]) == (200, "application/json")
    (view,) = said.json()["views"]
    assert view["features"] == {"clicks": [2.5, 3.5, None, None], "city": ["Köln", None, None, None]}
    assert view["event_at"] == ["2026-03-03T00:00:00Z"] * 2 + [None] * 2
    assert view["age_s"] == [50_700.0, 50_700.0, None, None]
    assert view["reasons"] == [None, None, "absent", "no key"]
    assert (said.json()["at"], said.json()["n_keys"], len(view["version"])) == ("2026-03-03T14:05:00Z", 4, 12)
    assert said.content == encode_result(read_online(house.session(), **asked))


@pytest.mark.parametrize("n_keys", [0, 1, 200, 201, 10_000])
def test_many_keys_are_answered_as_few_are(client: TestClient, house: House, n_keys: int) -> None:
    asked = {"views": ["user_7d"], "keys": {"user_id": [user % 1000 for user in range(n_keys)]}}
    said = client.post(PATH, json=asked)
    assert said.status_code == 200
    assert said.json()["n_keys"] == n_keys
    assert said.content == encode_result(read_online(house.session(), **asked))


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        (b"{", 400, "does not read as JSON"),
        (b'{"views": ["user_7d"]}', 400, "needs the parameter 'keys'"),
        (b'{"views": "user_7d", "keys": {}}', 400, "Expected `array`, got `str`"),
        (b'{"views": ["user_7d"], "keys": {"user_id": 1}}', 400, "Expected `array`, got `int`"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [1]}, "folder": "/etc"}', 400, "no parameter 'folder'"),
        (b'{"views": [], "keys": {}}', 400, "The views to read are"),
        (b'{"views": ["user_7d", "user_7d"], "keys": {"user_id": [1]}}', 400, "named twice"),
        (b'{"views": ["user_7d"], "keys": {"user_id": ["1"]}}', 400, "a key has '1', a str"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [99999999999999999999]}}', 400, "a key has 99999999999999999999"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [1.5]}}', 400, "a key has 1.5, a float"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [{"a": [1]}]}}', 400, "a dict"),
        (b'{"views": ["user_7d"], "keys": {"user": [1]}}', 400, "no column 'user_id'"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [1], "shop": [2]}}', 400, "'shop'"),
        (b'{"views": ["user_8d"], "keys": {"user_id": [1]}}', 404, "No feature view 'user_8d'"),
        (b'{"views": ["user_7d@0123"], "keys": {"user_id": [1]}}', 404, "has no version '0123'"),
        (b'{"views": ["user_7d"], "keys": {"user_id": [' + b"1," * 10_000 + b"1]}}", 400, "10,001 keys were asked for at once"),
    ],
)
def test_what_cannot_be_answered_is_told(client: TestClient, body: bytes, status: int, what: str) -> None:
    said = client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert (said.status_code, set(said.json()) <= {"error", "code", "hint", "details"}) == (status, True)
    assert what in said.json()["error"]


def test_a_version_that_comes_to_stand_is_seen_once_the_reader_is_old(client: TestClient, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Any = {"views": ["user_7d"], "keys": {"user_id": [2]}}
    first = client.post(PATH, json=asked).json()["views"][0]
    second = stand(house, max_age="8d")
    fill(house, second, clicks=0.25)
    assert client.post(PATH, json=asked).json()["views"][0] == first
    monkeypatch.setattr(online, "READER_S", 0.0)
    told = client.post(PATH, json=asked).json()["views"][0]
    assert (told["version"], told["features"]["clicks"]) == (second.version, [2.25])
    pinned = {**asked, "views": [f"user_7d@{first['version']}"]}
    assert client.post(PATH, json=pinned).json()["views"][0] == first, "whoever was trained on it keeps reading it"


def test_new_rows_are_seen_at_once(client: TestClient, house: House) -> None:
    asked = {"views": ["user_7d"], "keys": {"user_id": [2]}}
    assert client.post(PATH, json=asked).json()["views"][0]["features"]["clicks"] == [2.5]
    fill(house, stand(house, max_age="7d"), clicks=0.75)
    assert client.post(PATH, json=asked).json()["views"][0]["features"]["clicks"] == [2.75]


def test_readers_are_not_kept_without_bound(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(house, stand(house))
    monkeypatch.setattr(online, "_MOST_READERS", 1)
    reads = OnlineReads(house.settings, remote_verbs()["features online"], Calls())
    session = house.session()
    first = reads._open(session, ["user_7d"])
    assert reads._open(session, ["user_7d"]) is first
    assert reads._open(session, [first.views[0]]) is not first
    assert [(wanted[0], wanted[-1]) for wanted in reads._readers] == [("default", (first.views[0],))]


def test_a_workspace_does_not_get_the_reader_of_another(house: House) -> None:
    fill(house, stand(house))
    reads = OnlineReads(house.settings, remote_verbs()["features online"], Calls())
    assert reads._open(house.session(), ["user_7d"]).views
    with pytest.raises(NotFound):
        reads._open(house.session(workspace="other"), ["user_7d"])


def test_it_is_asked_by_post_alone(client: TestClient) -> None:
    said = client.get(PATH, params={"views": "user_7d"})
    assert (said.status_code, said.headers["allow"]) == (405, "POST")
