from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.deployment import trials
from endcap.loop.deployment.proving import read_kept
from endcap.loop.deployment.registering import register_run
from endcap.loop.deployment.trials import end_trials
from endcap.loop.registry.naming import read_version_words
from endcap.loop.registry.records import MODELS, VERSIONS, ModelRecord, Version
from endcap.loop.registry.versions import get_model, read_artefacts
from endcap.loop.training.tracking.capturing import keep_environment
from endcap.loop.training.tracking.logged_models import create_logged_model
from endcap.loop.training.tracking.records import Dataset, RunEnvironment
from endcap.loop.training.tracking.run_files import put_file
from endcap.loop.training.tracking.tracked_runs import log, log_datasets, start_run
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.packages import (
    ROWS,
    log_package,
    make_lightgbm_package,
    make_onnx_graph,
    make_onnx_package,
    make_package,
    make_skops_package,
)
from endcap.testing.sessions import make_session

BOOSTER = make_lightgbm_package()
SKOPS = make_skops_package(LinearRegression().fit(np.column_stack(list(ROWS.values())), [1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("files", "engine"), [(BOOSTER, "lightgbm"), (SKOPS, "skops"), (make_onnx_package(), "onnx")], ids=["lightgbm", "skops", "onnx"]
)
def test_what_the_client_logged_becomes_a_version_with_all_that_it_told(session: Session, files: dict[str, bytes], engine: str) -> None:
    run = log_package(session, files)
    version = register_run(session, run, "model", model="traffic", description="the first", tags={"season": "winter"})
    assert (version.id, version.n, version.engine, version.run) == ("traffic-v1", 1, engine, run)
    kinds = {file.name: file.kind for file in version.files}
    assert sorted(kinds) == sorted(files)
    assert [kind for name, kind in kinds.items() if name.startswith("model.")] == [engine]
    assert {artefact.payload for artefact in read_artefacts(session, version).values()} == set(files.values())
    assert version.lock["numpy"] == "2.4.6"
    assert version.lock["scipy"] == ">=1.2"
    assert version.lock["python"] == "3.11.7"
    assert version.signature is not None
    kept = read_kept(session, version)
    assert kept is not None
    assert not kept.made
    (answers,) = kept.answers.values()
    assert len(answers) == 3
    words = read_version_words(session, version.id, model="traffic")
    assert (words.description, words.tags) == ("the first", {"season": "winter"})
    assert get_model(session, "traffic").solution == "tracked"
    (row,) = list_audit(session, thing="model/traffic")
    assert row.verb == "register-run"
    assert row.detail == {"from": f"run/{run}/model", "model": "new", "version": "traffic-v1"}


def test_figures_that_are_not_finite_stay_with_the_run(session: Session) -> None:
    run = log_package(session, BOOSTER)
    log(session, run, TrackBatch(points=[Point("rmse", 0.5, 1), Point("lost", float("nan"), 1), Point("far", float("inf"), 1)]))
    version = register_run(session, run, "model", model="traffic")
    assert version.metrics.logged.keys() & {"rmse", "lost", "far"} == {"rmse"}
    assert session.records.get(VERSIONS, workspace=session.workspace, id=version.id) == version


def test_the_same_files_of_the_same_run_give_the_version_that_stands(session: Session) -> None:
    run = log_package(session, BOOSTER)
    first = register_run(session, run, "model", model="traffic", tags={"a": "1"})
    assert register_run(session, run, "model", model="traffic", tags={"a": "2"}) == first
    assert read_version_words(session, first.id, model="traffic").tags == {"a": "1"}
    assert register_run(session, run, "model", model="other").id == "other-v1"
    assert register_run(session, log_package(session, BOOSTER), "model", model="traffic").id == "traffic-v2"


def test_what_the_run_told_stands_in_the_version(session: Session) -> None:
    tags = {"mlflow.source.git.commit": "abc", "mlflow.source.name": "train.py", "endcap.trained_until": "2026-01-04"}
    run = log_package(session, BOOSTER, tags=tags)
    log(session, run, TrackBatch(points=[Point("rmse", 1.5, 0)]))
    log_datasets(session, run, [Dataset(id="", run=run, name="sales", digest="d1", source="s", source_type="local", context="training")])
    file = put_file(session, f"run/{run}", "evidence.csv", [b"actual,prediction\n1,1\n"])
    version = register_run(session, run, "model", model="traffic")
    assert version.metrics.logged == {"rmse": 1.5}
    assert (version.training_set, version.tables, version.evidence) == ("d1", {"sales": "d1"}, file.sha256)
    assert version.code is not None
    assert (version.code.commit, version.code.source, version.code.clean) == ("abc", "train.py", None)
    assert version.trained_until == date(2026, 1, 4)


def test_the_lock_has_the_hashes_that_the_run_told(session: Session) -> None:
    environment = RunEnvironment(python="3.12.1", packages={"numpy": "2.4.6 sha256:ab", "scipy": "1.0 sha256:cd"}, git_commit="abc", git_clean=False)
    tags = keep_environment(session, environment)
    version = register_run(session, log_package(session, BOOSTER, tags=tags), "model", model="traffic")
    assert version.lock["numpy"] == "2.4.6 sha256:ab"
    assert version.lock["scipy"] == ">=1.2", "what the run had is not the version that is asked for"
    assert version.lock["python"] == "3.11.7"
    assert version.code is not None
    assert (version.code.commit, version.code.clean) == ("abc", False)
    bare = register_run(session, log_package(session, {"m.txt": BOOSTER["model.lgb"]}, path="", tags=tags), "m.txt", model="bare")
    assert {"python": "3.12.1", "numpy": "2.4.6 sha256:ab", "scipy": "1.0 sha256:cd"}.items() <= bare.lock.items()


def test_files_swapped_after_registering_change_nothing(session: Session) -> None:
    run = log_package(session, BOOSTER)
    version = register_run(session, run, "model", model="traffic")
    put_file(session, f"run/{run}", "model/model.lgb", [make_lightgbm_package(seed=9)["model.lgb"]])
    assert read_artefacts(session, version)["model.lgb"].payload == BOOSTER["model.lgb"]
    second = register_run(session, run, "model", model="traffic")
    assert second.id == "traffic-v2"
    assert second.files != version.files


def test_a_logged_model_and_a_bare_file_are_registered_too(session: Session) -> None:
    run = start_run(session, experiment="0").id
    logged = create_logged_model(session, name="net", run=run)
    for name, payload in BOOSTER.items():
        put_file(session, f"logged-model/{logged.id}", name, [payload])
    by_id = register_run(session, logged.id, "", model="traffic")
    assert by_id.run == run
    assert register_run(session, run, "net", model="traffic") == by_id, "a run's model is found by the name it was logged under"
    put_file(session, f"run/{run}", "out/trees.txt", [BOOSTER["model.lgb"]])
    bare = register_run(session, run, "out/trees.txt", model="bare")
    kept = read_kept(session, bare)
    assert kept is not None
    assert kept.made
    assert kept.input == {"price": [0.0, 1.0, 2.0], "n": [0.0, 1.0, 2.0]}
    assert "no input example was logged" in bare.notes[0]


def pickled(**names: bytes) -> dict[str, bytes]:
    told = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}
    return make_package("sklearn", told, names)


def zipped(name: str, payload: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr(name, payload)
    return sink.getvalue()


PICKLE = pickle.dumps(ROWS)
PICKLES = {
    "as the client writes it": pickled(**{"model.pkl": PICKLE}),
    "without a word of it": {**BOOSTER, "extra.bin": PICKLE},
    "of an old protocol": {**BOOSTER, "weights.txt": pickle.dumps(ROWS, protocol=0)},
    "named as the text": {**BOOSTER, "model.lgb": PICKLE},
    "by joblib": {**BOOSTER, "scaler.joblib": b"x"},
    "packed": {**BOOSTER, "scaler.bin": b"\x1f\x8b" + PICKLE},
    "in torch's archive": {**BOOSTER, "net.bin": zipped("archive/data.pkl", PICKLE)},
    "in an archive under another name": {**BOOSTER, "net.bin": zipped("readme.txt", PICKLE)},
    "as an array of objects": {**BOOSTER, "a.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"},
    "two names": {**BOOSTER, "model.pkl.txt": b"nothing"},
}


@pytest.mark.parametrize("how", PICKLES)
def test_a_pickle_is_never_part_of_a_version_whatever_it_is_called(session: Session, how: str) -> None:
    run = log_package(session, PICKLES[how])
    with pytest.raises(InvalidInput, match="cannot become part of a version") as caught:
        register_run(session, run, "model", model="traffic")
    assert "serialization_format='skops'" in str(caught.value.hint)
    assert session.records.find(VERSIONS, workspace="default") == []
    assert session.records.find(MODELS, workspace="default") == []
    (row,) = list_audit(session, thing="model/traffic")
    assert (row.verb, row.outcome) == ("register-run", "refused")


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: payload for name, payload in files.items() if name not in names}


def told(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The package with other words in its MLmodel."""
    return {**files, "MLmodel": msgspec.json.encode({**msgspec.json.decode(files["MLmodel"]), **changes})}


SIGNATURE = msgspec.json.decode(BOOSTER["MLmodel"])["signature"]
BAD = {
    "another flavour": (make_package("xgboost", {"data": "m"}, {"m": b"x"}), "flavour 'xgboost'"),
    "a function only": (make_package("python_function", {}, {}), "flavour 'python_function'"),
    "no model file": (without(BOOSTER, "model.lgb"), "names the file 'model.lgb'"),
    "a model file elsewhere": (told(BOOSTER, flavors={"lightgbm": {"data": "../../etc/passwd"}}), "names the file '../../etc/passwd'"),
    "cut text": ({**BOOSTER, "model.lgb": BOOSTER["model.lgb"][:900]}, "no whole LightGBM model"),
    "no text": ({**BOOSTER, "model.lgb": b"hello"}, "no whole LightGBM model"),
    "words": (told(BOOSTER, flavors=["lightgbm"]), "flavour 'python_function'"),
    "an alias bomb": ({**BOOSTER, "MLmodel": b"a: &a [x, x]\nb: [*a, *a]\n"}, "anchors and aliases are not read"),
    "a type": ({**BOOSTER, "MLmodel": b"a: !!python/object:os.system x\n"}, "tag 'tag:yaml.org,2002:python/object:os.system'"),
    "signature of other columns": (told(BOOSTER, signature={**SIGNATURE, "inputs": '[{"type": "double", "name": "cost"}]'}), "has no column 'price'"),
    "signature of another type": (
        told(BOOSTER, signature={**SIGNATURE, "inputs": '[{"type": "double", "name": "n"}, {"type": "long", "name": "price"}]'}),
        "'price' is long; the input example holds",
    ),
    "signature with one more": (
        told(BOOSTER, signature={**SIGNATURE, "inputs": SIGNATURE["inputs"][:-1] + ', {"type": "double", "name": "more"}]'}),
        "input example has no column 'more'",
    ),
    "example of no rows": ({**BOOSTER, "input_example.json": b'{"columns": ["price", "n"], "data": []}'}, "input example"),
    "example cut": ({**BOOSTER, "input_example.json": b'{"columns": ["price"'}, "input example cannot be read"),
    "requirements": ({**BOOSTER, "requirements.txt": b"\xff\xfe"}, "requirements.txt is not UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_package_is_said_and_nothing_is_kept(session: Session, what: str) -> None:
    files, match = BAD[what]
    run = log_package(session, files)
    with pytest.raises(InvalidInput) as caught:
        register_run(session, run, "model", model="traffic")
    assert match in caught.value.what
    assert session.records.find(VERSIONS, workspace="default") == []
    assert session.records.find(MODELS, workspace="default") == []


def test_a_model_file_whose_reader_dies_is_refused_and_the_next_one_is_not(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("endcap.loop.deployment.trials.run_trial", _die)
    run = log_package(session, SKOPS)
    with pytest.raises(InvalidInput, match="did not survive its file"):
        register_run(session, run, "model", model="traffic")
    monkeypatch.undo()
    assert register_run(session, run, "model", model="traffic").id == "traffic-v1"


def test_the_process_of_trials_ends_and_comes_back(session: Session) -> None:
    run = log_package(session, make_onnx_package())
    register_run(session, run, "model", model="traffic")
    assert len(trials._kept) == 1
    end_trials()
    assert trials._kept == []
    assert register_run(session, run, "model", model="again").id == "again-v1"


def _die(_trial: object) -> None:
    import os

    os.abort()


def test_what_is_not_there_is_named(session: Session) -> None:
    run = log_package(session, BOOSTER)
    with pytest.raises(NotFound, match="no files under 'modle'") as caught:
        register_run(session, run, "modle", model="traffic")
    assert caught.value.hint == "did you mean 'model'?"
    with pytest.raises(NotFound):
        register_run(session, "f" * 32, "model", model="traffic")
    with pytest.raises(NotFound):
        register_run(session, "m-" + "f" * 32, "", model="traffic")
    for hostile in ("../model", "model/../../x", "model%2f..", "a\x00b"):
        with pytest.raises(InvalidInput):
            register_run(session, run, hostile, model="traffic")
    for hostile in ("..", "a/b", "", "x" * 200, "ü"):
        with pytest.raises(InvalidInput):
            register_run(session, run, "model", model=hostile)


def test_a_model_that_trains_its_own_takes_no_run(session: Session) -> None:
    with session.records.transact() as tx:
        record = ModelRecord("store-day", "forecasting", "i", "{}", session.now(), "ada")
        tx.append(MODELS, workspace="default", record=record)
    with pytest.raises(Conflict, match="trains its own versions"):
        register_run(session, log_package(session, BOOSTER), "model", model="store-day")


def test_another_workspace_and_a_viewer_register_nothing(session: Session) -> None:
    run = log_package(session, BOOSTER)
    with pytest.raises(NotFound):
        register_run(replace(session, workspace="other"), run, "model", model="traffic")
    with pytest.raises(PermissionDenied):
        register_run(replace(session, role=Role.VIEWER), run, "model", model="traffic")
    with pytest.raises(InvalidInput, match="no day"):
        register_run(session, log_package(session, BOOSTER, tags={"endcap.trained_until": "soon"}), "model", model="traffic")


def test_another_version_of_the_library_is_worth_a_word(session: Session) -> None:
    version = register_run(session, log_package(session, {**SKOPS, "requirements.txt": b"scikit-learn==1.0.2"}), "model", model="traffic")
    assert version.notes[0].startswith("it was logged with scikit-learn 1.0.2, and ")
    assert version.lock["answered by"].startswith("scikit-learn ")


def test_a_zip_bomb_is_refused_before_it_unpacks(session: Session) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SKOPS["model.skops"])) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
        bomb.writestr("1.npy", b"\0" * (64 << 20))
    run = log_package(session, {**SKOPS, "model.skops": sink.getvalue()})
    with pytest.raises(InvalidInput, match="more than numbers do"):
        register_run(session, run, "model", model="traffic")


def test_a_graph_with_numbers_elsewhere_or_operators_of_its_own_is_refused(session: Session) -> None:
    for graph in (make_onnx_graph([[2.0], [1.0]], [0.5], elsewhere="../../secrets"), make_onnx_graph([[2.0], [1.0]], [0.5], domain="evil")):
        run = log_package(session, make_onnx_package(payload=graph))
        with pytest.raises(InvalidInput, match="no ONNX model that can be served"):
            register_run(session, run, "model", model="traffic")


def test_types_that_are_not_trusted_are_named(session: Session) -> None:
    neighbours = KNeighborsRegressor(n_neighbors=1, algorithm="kd_tree").fit(np.column_stack(list(ROWS.values())), [1.0, 2.0, 3.0])
    run = log_package(session, make_skops_package(neighbours))
    with pytest.raises(InvalidInput, match="KDTree") as caught:
        register_run(session, run, "model", model="traffic")
    assert "ONNX" in str(caught.value.hint)


def test_a_blob_that_was_changed_at_rest_becomes_no_version(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    try:
        run = log_package(session, BOOSTER)
        for blob in (path for path in (tmp_path / "blobs").rglob("*") if path.is_file() and path.read_bytes() == BOOSTER["model.lgb"]):
            blob.write_bytes(BOOSTER["model.lgb"].replace(b"leaf_value=", b"leaf_value=1"))
        with pytest.raises(IntegrityBroken):
            register_run(session, run, "model", model="traffic")
        assert session.records.find(VERSIONS, workspace="default") == []
    finally:
        session.ports.close()


def test_rows_are_made_where_none_were_logged(register: Callable[..., Version], session: Session) -> None:
    version = register(make_onnx_package(example=False))
    kept = read_kept(session, version)
    assert kept is not None
    assert kept.made
    assert kept.answers == {"y": [[0.5], [3.5], [6.5]]}
