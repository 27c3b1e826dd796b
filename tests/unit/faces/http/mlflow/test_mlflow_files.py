from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from endcap.assembly import open_house
from endcap.core.errors import InvalidInput, NotFound
from endcap.faces.http.application import build_application
from endcap.faces.http.mlflow import artefacts
from endcap.faces.http.mlflow.artefacts import FILES, Listed, Place, find_kept, list_under, open_file, parse_place, read_at_hand
from endcap.loop.deployment.registering import register_run
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.project.sealing import seal_files
from endcap.testing.packages import log_package, make_lightgbm_package


def list_files(wire: Any, path: str) -> list[tuple[str, bool, int | None]]:
    said = wire.http.get(FILES, params={"path": path})
    assert said.status_code == 200, said.text
    return [(file["path"], file["is_dir"], file.get("file_size")) for file in said.json()["files"]]


def test_a_file_comes_back_as_it_went(wire: Any) -> None:
    run = wire.make_run()
    payload = bytes(range(256)) * 10_000
    assert wire.put(f"run/{run}/deep/er/data.bin", payload).json() == {}
    said = wire.fetch(f"run/{run}/deep/er/data.bin")
    assert (said.status_code, said.content, said.headers["content-length"]) == (200, payload, str(len(payload)))
    assert list_files(wire, f"run/{run}") == [("deep", True, None)]
    assert list_files(wire, f"run/{run}/deep/er") == [("data.bin", False, len(payload))]
    assert list_files(wire, f"run/{run}/deep/er/data.bin") == [] == list_files(wire, f"run/{run}/nowhere")
    listed = wire.get("/artifacts/list", run_id=run, path="deep/er")
    assert listed == {"root_uri": f"mlflow-artifacts:/run/{run}", "files": [{"path": "deep/er/data.bin", "is_dir": False, "file_size": len(payload)}]}


def test_a_browser_never_shows_a_file_as_ours(wire: Any) -> None:
    run = wire.make_run()
    wire.put(f"run/{run}/page.html", b"<script>alert(1)</script>", **{"content-type": "text/html"})
    told = wire.fetch(f"run/{run}/page.html").headers
    assert told["content-type"] == "application/octet-stream"
    assert (told["x-content-type-options"], told["content-disposition"]) == ("nosniff", "attachment")


def test_a_file_that_breaks_off_leaves_nothing(wire: Any, house: Any) -> None:
    run = wire.make_run()
    coming = [{"type": "http.request", "body": b"x" * 3_000_000, "more_body": True}, {"type": "http.disconnect"}]
    path = f"{FILES}/run/{run}/half.bin"
    scope = {"type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", b"127.0.0.1")]}

    async def receive() -> Any:
        return coming.pop(0) if len(coming) > 1 else coming[0]

    async def send(_: Any) -> None:
        """Nobody is there to read it."""

    anyio.run(build_application(house, folder=Path()), scope, receive, send)
    assert wire.fetch(f"run/{run}/half.bin").status_code == 404
    assert list_files(wire, f"run/{run}") == []
    assert not house.ports.blobs.has(hashlib.sha256(b"x" * 3_000_000).hexdigest())


def test_a_compressed_file_is_refused_as_nothing_is_unpacked_here(wire: Any) -> None:
    run = wire.make_run()
    assert wire.fault(wire.put(f"run/{run}/a", b"\x1f\x8b", **{"content-encoding": "gzip"}))[1] == "INVALID_PARAMETER_VALUE"


def test_files_are_taken_away_one_or_a_folder(wire: Any) -> None:
    run = wire.make_run()
    for name in ("a/1", "a/2", "b"):
        wire.put(f"run/{run}/{name}", b"x")
    assert wire.http.delete(f"{FILES}/run/{run}/a").status_code == 200
    assert list_files(wire, f"run/{run}") == [("b", False, 1)]
    assert wire.http.delete(f"{FILES}/run/{run}").status_code == 200
    assert list_files(wire, f"run/{run}") == []


def test_nobody_s_files_are_refused(wire: Any) -> None:
    assert wire.fault(wire.put(f"run/{'0' * 32}/a", b"x"))[:2] == (404, "RESOURCE_DOES_NOT_EXIST")
    assert wire.fault(wire.http.get(FILES))[1] == "INVALID_PARAMETER_VALUE"
    assert wire.fault(wire.http.get(FILES, params={"path": "experiment/0"}))[1] == "INVALID_PARAMETER_VALUE"
    run = wire.make_run()
    wire.send("/runs/delete", run_id=run)
    assert wire.fault(wire.put(f"run/{run}/a", b"x"))[:2] == (409, "RESOURCE_CONFLICT")


def test_what_a_version_holds_is_read_only_and_stays_when_its_run_changes(wire: Any, register: Callable[..., int]) -> None:
    number = register("trees")
    place = wire.get("/model-versions/get-download-uri", name="trees", version=str(number))["artifact_uri"]
    assert place == "mlflow-artifacts:/version/trees-v1"
    names = [name for name, _, _ in list_files(wire, "version/trees-v1")]
    assert {"MLmodel", "model.lgb", "requirements.txt"} <= set(names)
    before = wire.fetch("version/trees-v1/model.lgb").content
    source = wire.get("/model-versions/get", name="trees", version="1")["model_version"]["source"]
    owner = source.removeprefix("mlflow-artifacts:/")
    wire.put(f"{owner}/model.lgb", b"tree\nanother\n")
    assert wire.http.delete(f"{FILES}/{owner}").status_code == 200
    assert wire.fetch("version/trees-v1/model.lgb").content == before
    for said in (wire.put("version/trees-v1/model.lgb", b"x"), wire.http.delete(f"{FILES}/version/trees-v1")):
        assert "never change" in wire.fault(said)[2]
    assert wire.fault(wire.fetch("version/trees-v1/none"))[0] == 404
    assert wire.fault(wire.fetch("version/trees-v2/MLmodel"))[0] == 404


def test_a_small_file_of_a_version_is_read_at_once_where_it_lies_near_and_in_plain(
    wire: Any, house: Any, register: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    register("trees")
    session = house.session()
    small, other = Place("version/trees-v1", "MLmodel"), Place(f"run/{wire.make_run()}", "MLmodel")
    wire.put(f"{other.owner}/MLmodel", b"x")
    read = read_at_hand(session, small)
    assert read is not None
    assert read == b"".join(open_file(session, small)[1]) == wire.fetch("version/trees-v1/MLmodel").content
    with pytest.raises(NotFound, match="Version 'trees-v1' has no file 'none'"):
        read_at_hand(session, Place("version/trees-v1", "none"))
    far = replace(session, ports=replace(session.ports, url="postgresql://shop"))
    lent = Place("version/shoes~trees-v1", "MLmodel")
    assert [read_at_hand(*asked) for asked in ((far, small), (session, other), (session, lent))] == [None] * 3
    monkeypatch.setattr(artefacts, "_SMALL_BYTES", len(read) - 1)
    assert read_at_hand(session, small) is None
    assert wire.fetch("version/trees-v1/MLmodel").content == read


def test_an_encrypted_file_of_a_version_waits_for_its_key_elsewhere(wire: Any, house: Any, register: Callable[..., int]) -> None:
    """Where requests are read nothing is unsealed: a master key may come from a command that takes its time."""
    seal_files(house.session(), experiment="0")
    register("trees")
    assert read_at_hand(house.session(), Place("version/trees-v1", "MLmodel")) is None
    assert b"flavors" in wire.fetch("version/trees-v1/MLmodel").content


def test_a_file_changed_at_rest_is_not_given_as_if_it_were_whole(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        run = start_run(house.session()).id
        client.put(f"{FILES}/run/{run}/a.bin", content=b"as it was")
        (kept,) = (tmp_path / "home").rglob(hashlib.sha256(b"as it was").hexdigest() + "*")
        kept.chmod(0o600)
        kept.write_bytes(b"as it isn")
        said = client.get(f"{FILES}/run/{run}/a.bin")
        assert (said.status_code, said.json()["error_code"]) == (422, "DATA_LOSS")


def test_a_file_of_a_version_changed_at_rest_is_not_given(tmp_path: Path) -> None:
    with open_house(tmp_path / "home") as house, TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420") as client:
        session = house.session()
        version = register_run(session, f"run/{log_package(session, make_lightgbm_package())}", "model", model="trees")
        (kept,) = (tmp_path / "home").rglob(find_kept(session, version.id, "MLmodel").sha256)
        kept.chmod(0o600)
        kept.write_bytes(b"another")
        said = client.get(f"{FILES}/version/{version.id}/MLmodel")
        assert (said.status_code, said.json()["error_code"]) == (422, "DATA_LOSS")


@pytest.mark.parametrize(
    "text", ["", "run", "run/17", "home/17/a", "run//a", "run/17/../a", "/run/17/a", "run/17/a\\b", "run/17/\x00", "run/17/%2e%2e/a"]
)
def test_a_place_is_an_owner_and_a_path(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_place(text)


def test_a_place_may_be_the_whole_of_an_owner() -> None:
    assert parse_place("run/17", whole=True) == Place("run/17", "")
    assert parse_place("run/17/", whole=True) == Place("run/17", "")
    assert parse_place("version/a-v1/b/c") == Place("version/a-v1", "b/c")


def test_a_version_s_folders_are_listed_one_by_one() -> None:
    files = [(name, 3) for name in ("a/b/1", "a/b/2", "a/c", "d")]
    assert list_under(files, "") == [Listed("a", None), Listed("d", 3)]
    assert list_under(files, "a") == [Listed("a/b", None), Listed("a/c", 3)]
    assert list_under(files, "a/b") == [Listed("a/b/1", 3), Listed("a/b/2", 3)]
    assert list_under(files, "a/") == list_under(files, "x") == list_under(files, "d") == []


def test_an_encrypted_file_comes_back_as_it_went(wire: Any, house: Any) -> None:
    """The client knows nothing of it: the bytes at rest are others, also of what comes in pieces."""
    seal_files(house.session(), experiment="0")
    run = wire.make_run()
    payload = bytes(range(256)) * 10_000
    assert wire.put(f"run/{run}/deep/data.bin", payload).json() == {}
    said = wire.fetch(f"run/{run}/deep/data.bin")
    assert (said.status_code, said.content, said.headers["content-length"]) == (200, payload, str(len(payload)))
    assert list_files(wire, f"run/{run}/deep") == [("data.bin", False, len(payload))]
    assert hashlib.sha256(payload).hexdigest() not in dict(house.ports.blobs.list_digests())
