from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.faces.cli.tracking_text import tell_run_download
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.run_downloads import download_run
from endcap.loop.training.tracking.run_files import list_run_files, put_file
from endcap.loop.training.tracking.tracked_runs import start_run
from endcap.testing.sessions import make_session

FILES = {"loss.txt": b"0.41", "model/model.pkl": pickle.dumps({"a": 1}), "model/MLmodel": b"flavors:", "empty": b""}


@pytest.fixture
def logged(tmp_path: Path) -> Any:
    session = make_session(tmp_path / "home")
    run = start_run(session).id
    for path, payload in FILES.items():
        put_file(session, f"run/{run}", path, [payload[:2], payload[2:]])
    yield session, run
    session.ports.close()


def lie_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("under", "expected"),
    [("", set(FILES)), ("model", {"model/model.pkl", "model/MLmodel"}), ("model/model.pkl", {"model/model.pkl"}), ("empty", {"empty"})],
)
def test_what_was_logged_comes_back_byte_for_byte(logged: Any, tmp_path: Path, under: str, expected: set[str]) -> None:
    session, run = logged
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "loss.txt").write_bytes(b"older")
    done = download_run(session, run, out=tmp_path / "out", under=under)
    assert {file.path for file in done.files} == expected
    kept = {} if "loss.txt" in expected else {"loss.txt": b"older"}
    assert lie_in(tmp_path / "out") == {path: FILES[path] for path in expected} | kept
    first, *files = (line for line, _ in tell_run_download(done))
    assert first == f"{len(expected)} file{'s' if len(expected) != 1 else ''} of {run} in {tmp_path / 'out'}"
    assert len(files) == len(expected)


def test_a_model_that_a_run_logged_comes_back_by_its_own_id(logged: Any, tmp_path: Path) -> None:
    session, run = logged
    model = create_logged_model(session, name="trees", run=run).id
    put_file(session, f"logged-model/{model}", "model.pkl", [FILES["model/model.pkl"]])
    assert [entry.path for entry in list_run_files(session, model)] == ["model.pkl"]
    assert [file.path for file in download_run(session, model, out=tmp_path / "out").files] == ["model.pkl"]
    assert lie_in(tmp_path / "out") == {"model.pkl": FILES["model/model.pkl"]}


def test_what_is_not_there_is_not_found_and_nothing_is_written(logged: Any, tmp_path: Path) -> None:
    session, run = logged
    for given in ({"run": run, "under": "nothing"}, {"run": "17"}, {"run": start_run(session).id}):
        with pytest.raises(NotFound):
            download_run(session, out=tmp_path / "out", **given)
    with pytest.raises(InvalidInput, match="climbs out"):
        download_run(session, run, out=tmp_path / "out", under="../home")
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_changed_at_rest_is_not_written(logged: Any, tmp_path: Path) -> None:
    session, run = logged
    blob = next(path for path in (tmp_path / "home" / "blobs").rglob("*") if path.is_file() and path.read_bytes() == b"0.41")
    blob.write_bytes(b"0.14")
    with pytest.raises(IntegrityBroken, match="changed at rest"):
        download_run(session, run, out=tmp_path / "out", under="loss.txt")
    assert lie_in(tmp_path / "out") == {}


def test_a_link_in_the_folder_leads_nowhere(logged: Any, tmp_path: Path) -> None:
    session, run = logged
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model").symlink_to(tmp_path / "home")
    with pytest.raises(InvalidInput, match=r"leads out of .* by a link"):
        download_run(session, run, out=tmp_path / "out", under="model")
    assert not (tmp_path / "home" / "MLmodel").exists()
