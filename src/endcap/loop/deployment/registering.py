"""Registering: what a run logged becomes a version, once its file has been read strictly, opened and has answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.keys.sealings import with_sealing
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.proving import Example
from endcap.loop.deployment.trials import Trial, Tried, try_engine
from endcap.loop.evaluation.records import Metrics
from endcap.loop.registry.naming import MOST_DESCRIPTION, keep_words, require_tags, require_text
from endcap.loop.registry.packages import Package, find_owner, read_package
from endcap.loop.registry.records import MODELS, Code, Field, ModelRecord, Signature, Version
from endcap.loop.registry.signatures import Columns, fit_example, read_example
from endcap.loop.registry.versions import TRACKED, draft_model, keep_new_model, keep_version
from endcap.loop.training.tracking.capturing import read_environment
from endcap.loop.training.tracking.experiments import Tags, parse_tags
from endcap.loop.training.tracking.logged_models import get_logged_model
from endcap.loop.training.tracking.records import RunEnvironment
from endcap.loop.training.tracking.run_files import find_file
from endcap.loop.training.tracking.tracked_runs import get_run_track, list_datasets
from endcap.pipelines.machine import name_machine

if TYPE_CHECKING:
    from endcap.storage.tracks import Track

TRAINED_UNTIL = "endcap.trained_until"
"""The tag by which a run says how new its newest training row is: an ISO day."""
EVIDENCE = ("evidence.parquet", "evidence.csv")
"""The file by which a run shows what its model answered on rows that it was not trained on."""
_MADE_ROWS = 3


@verb("register-run", permission=Permission.EDIT)
def register_run(session: Session, owner: str, path: str, *, model: str, description: str = "", tags: Tags = ()) -> Version:
    """Make a version of what a run logged: a folder of the MLflow client, or one model file.

    ``owner`` is the id of the run or of the logged model, ``path`` the folder or file under it ('': all of it). ``model`` is the model's name, which
    is made when it does not stand. ``description`` says what the version is; ``tags`` is what it is found by: in Python a mapping, elsewhere
    texts such as ``season=winter``. LightGBM's text, scikit-learn by skops and ONNX can become versions; whatever is pickled is refused with the
    way to log it instead, and the run keeps it. The file is opened in a process of its own and answers its input example, which is kept for
    proofs. The same files of the same run give the version that stands already.
    Raises NotFound without files there, InvalidInput, audited, for what cannot become a version, Conflict for a model that trains its own. Cost: one
    reading of the files; about 1.5 s for the first model that a process registers.
    """
    said = require_tags(parse_tags(tags))
    require_text(description, what="description", most=MOST_DESCRIPTION)
    record = _find_model(session, model)
    try:
        owner, path = find_owner(session, owner, path)
        package = read_package(session, owner, path)
        session = with_sealing(session, declared=_require_sealed(session, record, package))
        tried, example, notes = _try(session, package)
    except (InvalidInput, IntegrityBroken) as error:
        session.record_refusal("register-run", thing=f"model/{record.name}", detail={"from": f"{owner}/{path}"[:300], "why": error.what[:500]})
        raise
    notes += _compare_libraries(package, tried)
    draft = _draft(session, record, package, owner=owner, path=path, tried=tried)
    draft = msgspec.structs.replace(draft, example=session.blobs.put(msgspec.json.encode(example)) if example else "", notes=(*package.notes, *notes))
    with session.change("register-run", thing=f"model/{model}", detail={"from": f"{owner}/{path}".rstrip("/")}) as change:
        if change.tx.get(MODELS, workspace=session.workspace, id=model) is None:
            keep_new_model(session, change, record)
            change.detail.update(model="new")
        version = keep_version(session, change, draft)
        if "note" not in change.detail:
            keep_words(session, change, version.id, model=model, description=description, tags=said)
    return version


def _find_model(session: Session, name: str) -> ModelRecord:
    """The model as it stands, or as it will be made."""
    found = session.records.get(MODELS, workspace=session.workspace, id=name)
    if found is None:
        return draft_model(session, name)
    if found.solution != TRACKED:
        raise Conflict(f"Model '{name}' trains its own versions: it is a {found.solution} model.", hint="register the run under another name")
    return found


def _require_sealed(session: Session, record: ModelRecord, package: Package) -> bool:
    """Whether the model is declared to be encrypted. Raises InvalidInput where it is, and a file of the package lies there in plain."""
    encrypted = bool(msgspec.json.decode(record.definition).get("encrypted"))
    plain = [file.name for file in package.files if not session.blobs.is_sealed(file.sha256)] if encrypted else []
    if plain:
        raise InvalidInput(
            f"Model '{record.name}' is encrypted at rest, and the run logged these files in plain: {plain[:5]}.",
            hint="endcap keys seal --experiment NAME, and log them anew",
        )
    return encrypted


def _try(session: Session, package: Package) -> tuple[Tried, Example | None, list[str]]:
    """Open what was logged and let it answer: its input example, or rows made to fit where none was logged."""
    notes: list[str] = []
    rows = None
    if package.example is not None:
        rows = read_example(package.example)
        fit_example(rows, package.signature)  # so that what does not fit is told apart from what does not answer
    file = next(file for file in package.files if file.name == package.answers)
    payload = session.blobs.get(file.sha256)
    tried = try_engine(Trial(engine=package.engine, payload=payload, example=rows, signature=package.signature))
    if package.signature is not None:
        _require_inputs(package.signature, tried.inputs)
    if rows is not None:
        return tried, Example(rows, tried.answers, tried.name, package.signature, machine=name_machine()), notes
    signature = package.signature or Signature(tried.inputs)
    made = _make_rows(signature.inputs)
    if made is not None:
        try:
            again = try_engine(Trial(engine=package.engine, payload=payload, example=made, signature=signature))
            return (
                tried,
                Example(made, again.answers, again.name, signature, made=True, machine=name_machine()),
                [*notes, "no input example was logged; rows of zeros and ones stand in"],
            )
        except InvalidInput as error:
            return tried, None, [*notes, f"no input example was logged, and it does not answer rows of zeros and ones: {error.what}"]
    return tried, None, [*notes, "no input example was logged, so that its answers can never be proved the same: log_model(..., input_example=rows)"]


def _compare_libraries(package: Package, tried: Tried) -> list[str]:
    """Another version of the library than the model was logged with is worth a word: it may answer otherwise."""
    library, _, here = tried.name.partition(" ")
    there = package.lock.get(library, here)
    return [] if there == here else [f"it was logged with {library} {there}, and {here} answers here"]


def _require_inputs(signature: Signature, takes: tuple[Field, ...]) -> None:
    """Raise InvalidInput where the signature and the file speak of other columns."""
    told = [field.name for field in signature.inputs]
    named = [field.name for field in takes]
    if not all(told) or not all(named) or (len(named) == 1 and takes[0].shape):
        return
    known = {name.replace(" ", "_") for name in told}
    places = all(name.startswith("Column_") and name[7:].isdigit() for name in named)
    missing = [] if places and len(told) == len(named) else [name for name in named if name.replace(" ", "_") not in known]
    if missing and told:
        raise InvalidInput(
            f"The signature tells of {told[:10]}; the model itself takes {missing[0]!r} too.",
            hint="infer the signature from the rows it was fitted on",
        )


def _make_rows(fields: tuple[Field, ...]) -> Columns | list[Any] | None:
    """Three rows that fit: zeros, ones, and twos; texts of one letter. None where no row can be made."""
    numbers = ("", "double", "float", "long", "integer", "boolean", "string")
    if not fields or any(field.type not in numbers for field in fields) or any(n == -1 for field in fields for n in field.shape[1:]):
        return None
    if len(fields) == 1 and not fields[0].name:
        return [_make_value(fields[0], n, shape=fields[0].shape[1:]) for n in range(_MADE_ROWS)]
    if not all(field.name for field in fields):
        return [[_make_value(field, n, shape=()) for field in fields] for n in range(_MADE_ROWS)]
    return {field.name: [_make_value(field, n, shape=field.shape[1:]) for n in range(_MADE_ROWS)] for field in fields}


def _make_value(field: Field, n: int, *, shape: tuple[int, ...]) -> Any:
    if shape:
        return [_make_value(field, n, shape=shape[1:]) for _ in range(min(shape[0], 1 << 16))]
    return {"boolean": n > 0, "string": "abc"[n], "long": n, "integer": n}.get(field.type, float(n))


def _draft(session: Session, record: ModelRecord, package: Package, *, owner: str, path: str, tried: Tried) -> Version:
    track, run = _find_track(session, owner)
    tags = track.tags if track else {}
    environment = read_environment(session, track) if track else None
    metrics = Metrics(
        n=0,
        logged={name: point.value for name, point in sorted(track.metrics.items()) if math.isfinite(point.value)} if track else {},
    )
    datasets = list_datasets(session, run) if run else []
    training = next((each for each in datasets if each.context in ("train", "training")), datasets[0] if datasets else None)
    evidence = _find_evidence(session, run)
    views = msgspec.json.decode(record.definition, type=_Leans).features
    return Version(
        id="",
        model=record.name,
        n=0,
        candidate=package.flavour,
        identity=identify(TRACKED, record.name, owner, path, [(file.name, file.sha256) for file in package.files]),
        created_at=session.now(),
        created_by=session.actor.name,
        run=run,
        files=package.files,
        metrics=metrics,
        leaderboard={package.flavour: metrics},
        baselines=(),
        trained_until=_read_day(tags.get(TRAINED_UNTIL)),
        training_set=training.digest if training else "",
        evidence=evidence,
        tables={each.name: each.digest for each in datasets},
        definition=record.identity,
        lock={**_read_lock(package, environment), "answered by": tried.name},
        engine=package.engine,
        signature=package.signature or (Signature(tried.inputs) if tried.inputs else None),
        views={view.name: view.version for view in views},
        code=_read_code(tags, environment),
        source=f"{owner}/{path}".rstrip("/"),
    )


class _Leans(msgspec.Struct):
    """Of a model's definition: the feature views that its versions are trained on."""

    features: tuple[FeatureView, ...] = ()


def _find_track(session: Session, owner: str) -> tuple[Track | None, str]:
    """The run behind the files, with what it logged, and its id; None and '' where no run is known."""
    kind, _, identity = owner.partition("/")
    if kind == "logged-model":
        identity = get_logged_model(session, identity).run
    return (get_run_track(session, identity) if identity else None), identity


def _find_evidence(session: Session, run: str) -> str:
    """The digest of the run's evidence as it is now: what the run is given later changes no version."""
    found = (find_file(session, f"run/{run}", name) for name in EVIDENCE) if run else ()
    return next((file.sha256 for file in found if file is not None), "")


def _read_day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text.strip()[:10])
    except ValueError as error:
        raise InvalidInput(f"The run's tag {TRAINED_UNTIL!r} is {text[:40]!r}, which is no day.", hint="write 2026-03-03") from error


def _read_code(tags: Mapping[str, str], environment: RunEnvironment | None) -> Code | None:
    """Which code trained it, as the run told; None when it told nothing."""
    source = tags.get("mlflow.source.name", "")
    if environment is None:
        return Code(source=source) if source else None
    return Code(environment.git_commit, environment.git_clean, source)


def _read_lock(package: Package, environment: RunEnvironment | None) -> dict[str, str]:
    """What the model needs by the package's word, with the hashes that the run told of the same versions; without that all that the run had."""
    if environment is None:
        return package.lock
    if "python" not in package.lock:
        return {"python": environment.python, **environment.packages}
    hashed = {name: environment.packages.get(name, "") for name in package.lock}
    return {name: hashed[name] if hashed[name].partition(" ")[0] == version else version for name, version in package.lock.items()}
