"""Packages: a folder that the MLflow client logged as a model, or one model file that was logged, read into what a version is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, suggest
from endcap.governance.sessions import Session
from endcap.loop.registry.mlmodel import read_yaml
from endcap.loop.registry.records import Signature, VersionFile
from endcap.loop.registry.signatures import read_signature
from endcap.loop.training.model_files.pickles import find_pickle
from endcap.loop.training.tracking.logged_models import get_logged_model, list_of_run
from endcap.loop.training.tracking.records import RunFile
from endcap.loop.training.tracking.run_files import find_file, list_files, name_owner, walk_files

MLMODEL = "MLmodel"
FLAVOURS = {"lightgbm": "lightgbm", "sklearn": "skops", "onnx": "onnx"}
"""The flavours that can become a version, and the kind of file that answers."""
HOW_TO_LOG = (
    "log it as scikit-learn by skops (a client of MLflow 3): mlflow.sklearn.log_model(model, name='model', serialization_format='skops'); "
    "as LightGBM's text: mlflow.lightgbm.log_model(model.booster_, name='model'); or as ONNX: mlflow.onnx.log_model(graph, name='model')"
)
_MOST_FILES = 2_000
_MOST_BYTES = 4 << 30
_MOST_REQUIREMENTS = 5_000
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,100})(?:\[[^\]]{0,100}\])?\s*([^#;]{0,100})")


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """What a version is made of. ``engine`` answers with the file named ``answers``; ``example`` is the input example's bytes (None: there is none).

    ``lock`` holds Python and the packages that it was logged with, as the package tells them.
    """

    flavour: str
    engine: str
    answers: str
    files: tuple[VersionFile, ...]
    signature: Signature | None = None
    example: bytes | None = None
    lock: dict[str, str] = {}
    notes: tuple[str, ...] = ()


def find_owner(session: Session, owner: str, path: str) -> tuple[str, str]:
    """Where a package stands: the owner of its files, and the folder or file under it ('': all of them).

    ``owner`` is ``run/ID``, ``logged-model/ID`` or the id alone; a path that a run has no files under may be the name of a model that it logged.
    """
    path = path.strip("/")
    if "/" not in owner:
        owner = name_owner(owner)
    kind, _, identity = owner.partition("/")
    if kind == "run" and path and not list_owned(session, owner, path):
        logged = (get_logged_model(session, each) for each in list_of_run(session, identity))
        found = next((model for model in logged if model.name == path), None)
        if found is not None:
            return f"logged-model/{found.id}", ""
    return owner, path


def list_owned(session: Session, owner: str, path: str) -> list[RunFile]:
    """The file at a path of a run or a logged model, or all files in the folder there ('': all of them)."""
    if path:
        file = find_file(session, owner, path)
        if file is not None:
            return [file]
    return walk_files(session, owner, under=path)


def read_package(session: Session, owner: str, path: str) -> Package:
    """Read what was logged under a path. Every file is read once and checked against its digest; pickles are found and refused, never opened.

    Raises NotFound without files there, InvalidInput for what cannot become a version, with the way to log it instead.
    """
    files = {_name_under(file.path, path): file for file in list_owned(session, owner, path)}
    if not files:
        offered = [entry.path for entry in list_files(session, owner)]
        raise NotFound(
            f"There are no files under {path!r} in '{owner}'. There are: {offered[:10]}.", hint=suggest(path, offered) or "endcap track files RUN"
        )
    n_bytes = sum(file.n_bytes for file in files.values())
    if len(files) > _MOST_FILES or n_bytes > _MOST_BYTES:
        raise InvalidInput(f"{path!r} holds {len(files):,} files of {n_bytes:,} bytes; the most are {_MOST_FILES:,} and {_MOST_BYTES:,}.")
    _refuse_pickles(session, files)
    if MLMODEL not in files:
        return _read_bare(session, files, path=path)
    told = read_yaml(read_owned(session, files[MLMODEL]), what=MLMODEL)
    flavour, engine, answers = _read_flavour(told, files)
    info = _mapping(told.get("saved_input_example_info"))
    example_path = info.get("artifact_path")
    example = files.get(example_path) if isinstance(example_path, str) else None
    kind = FLAVOURS[flavour] if engine.partition(":")[0] == FLAVOURS[flavour] else engine.partition(":")[0]
    notes = []
    if _mapping(_mapping(told.get("flavors")).get(flavour)).get("code"):
        notes.append("it came with code of its own, which is kept and never run")
    return Package(
        flavour=flavour,
        engine=engine,
        answers=answers,
        files=tuple(VersionFile(name, kind if name == answers else "attachment", f.sha256, f.n_bytes) for name, f in sorted(files.items())),
        signature=read_signature(told.get("signature")),
        example=read_owned(session, example) if example is not None and info.get("type") in ("dataframe", "ndarray", None) else None,
        lock=_read_lock(session, files, told),
        notes=tuple(notes),
    )


def read_owned(session: Session, file: RunFile) -> bytes:
    """The bytes of a file as it was logged. Raises IntegrityBroken when they were changed or are gone."""
    try:
        return session.blobs.get(file.sha256)
    except NotFound as error:
        raise IntegrityBroken(f"The file '{file.path}' of '{file.owner}' is gone.", hint="restore it from a backup") from error


def _refuse_pickles(session: Session, files: Mapping[str, RunFile]) -> None:
    for name, file in files.items():
        why = find_pickle(name, read_owned(session, file))
        if why is not None:
            raise InvalidInput(
                f"'{name}' cannot become part of a version: {why}. A pickle runs code when it is opened, so none is opened here; the run keeps it.",
                hint=HOW_TO_LOG,
                file=name,
            )


def _read_bare(session: Session, files: Mapping[str, RunFile], *, path: str) -> Package:
    """One model file without a word about it."""
    if len(files) != 1:
        hint = f"no {MLMODEL} stands there; name its folder, or one model file: {sorted(files)[:10]}"
        raise InvalidInput(f"{path!r} is no model that the MLflow client logged.", hint=hint)
    name, file = next(iter(files.items()))
    payload = read_owned(session, file)
    kind = "lightgbm" if payload.startswith(b"tree\n") else "skops" if payload.startswith(b"PK\x03\x04") else "onnx"
    flavour = next(flavour for flavour, each in FLAVOURS.items() if each == kind)
    return Package(flavour=flavour, engine=kind, answers=name, files=(VersionFile(name, kind, file.sha256, file.n_bytes),))


def _read_flavour(told: Mapping[str, Any], files: Mapping[str, RunFile]) -> tuple[str, str, str]:
    """The flavour, the engine and the file that answers."""
    flavours = _mapping(told.get("flavors"))
    flavour = next((name for name in FLAVOURS if name in flavours), None)
    if flavour is None:
        names = [name for name in flavours if name != "python_function"] or ["python_function"]
        raise InvalidInput(f"A model of flavour {names[0][:60]!r} cannot become a version. Flavours: {list(FLAVOURS)}.", hint=HOW_TO_LOG)
    own, function = _mapping(flavours[flavour]), _mapping(flavours.get("python_function"))
    answers = own.get("pickled_model") if flavour == "sklearn" else own.get("data")
    written = own.get("serialization_format") or ("pickle" if flavour == "sklearn" else "")
    by_skops = isinstance(answers, str) and answers.endswith(".skops")
    if written in ("pickle", "cloudpickle") and (flavour == "sklearn" or not str(answers).endswith((".lgb", ".txt"))):
        raise InvalidInput(f"The model was logged as a {written}, which cannot become a version: opening it runs code.", hint=HOW_TO_LOG)
    if not isinstance(answers, str) or answers not in files:
        raise InvalidInput(f"MLmodel names the file {str(answers)[:80]!r}, which is not among {sorted(files)[:10]}.", hint="log the model anew")
    if flavour == "sklearn" and written != "skops":
        raise InvalidInput(f"MLmodel says that the model was written by {str(written)[:40]!r}.", hint=HOW_TO_LOG)
    method = function.get("predict_fn") or "predict"
    kind = "skops" if by_skops and flavour == "lightgbm" else FLAVOURS[flavour]
    return flavour, f"{kind}:{method}" if kind == "skops" and method != "predict" else kind, answers


def _read_lock(session: Session, files: Mapping[str, RunFile], told: Mapping[str, Any]) -> dict[str, str]:
    function = _mapping(_mapping(told.get("flavors")).get("python_function"))
    lock = {"python": str(function["python_version"])[:40]} if function.get("python_version") else {}
    if isinstance(told.get("mlflow_version"), str):
        lock["mlflow"] = told["mlflow_version"][:40]
    if "requirements.txt" not in files:
        return lock
    try:
        lines = read_owned(session, files["requirements.txt"]).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput("requirements.txt is not UTF-8.", hint="log the model anew") from error
    for line in lines[:_MOST_REQUIREMENTS]:
        found = _REQUIREMENT.match(line.strip())
        if found:
            lock[found[1].lower()] = found[2].strip().removeprefix("==") or "any"
    return lock


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _name_under(path: str, folder: str) -> str:
    return path.rpartition("/")[2] if path == folder else path[len(folder) + 1 :] if folder else path
