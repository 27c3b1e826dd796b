"""Versions: keeping and reading back what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from endcap.core.definitions.models import DEFAULT_METRICS, Model
from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, suggest
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import VERDICTS, Metrics, Verdict
from endcap.loop.features.records import TRAINING_PROFILES, TrainingProfile
from endcap.loop.registry.records import MODEL_DEFINITIONS, MODELS, VERSIONS, ModelDefinition, ModelRecord, Version

if TYPE_CHECKING:
    from endcap.loop.training.artefacts import Artefact

_MEASURED = frozenset(Metrics.__struct_fields__) - {"n", "logged"}
TRACKED = "tracked"
"""The solution of models whose versions are made elsewhere and registered."""


def get_model(session: Session, model: str) -> ModelRecord:
    """A model by name. Raises NotFound with the nearest name."""
    found = session.records.get(MODELS, workspace=session.workspace, id=model)
    if found is None:
        names = [m.name for m in session.records.find(MODELS, workspace=session.workspace)]
        raise NotFound(
            f"No model {model!r} in workspace '{session.workspace}'. Models: {names[:20]}.",
            hint=suggest(model, names) or "define it in project.py, then: endcap apply",
        )
    return found


class _Gate(msgspec.Struct):
    metric: str = "wape"


class _Judged(msgspec.Struct):
    """Of a model's definition: by what its versions are judged, and of a model of one's own what it predicts."""

    gate: _Gate | None = None
    predicts: str = ""


def find_gate_metric(model: ModelRecord) -> str:
    """The metric that a model's gate compares, by which its versions are told apart at a glance."""
    judged = msgspec.json.decode(model.definition, type=_Judged)
    return judged.gate.metric if judged.gate else DEFAULT_METRICS.get(judged.predicts, _Gate().metric)


def draft_model(session: Session, name: str) -> ModelRecord:
    """The record of a model of one's own of which nothing but the name was said. Raises InvalidInput, audited, for a name that cannot be one."""
    try:
        blank = Model(name=name)
    except InvalidInput as error:
        session.record_refusal("create-model", thing="model", detail={"why": error.what[:500]})
        raise
    return ModelRecord(name, TRACKED, identify_model(blank), msgspec.json.encode(blank).decode(), session.now(), session.actor.name)


def identify_model(model: Model) -> str:
    """The identity of a model of one's own: that of its definition, but for words for people and what its versions are judged by."""
    plain = tuple(view.plain for view in model.features)
    return identify(TRACKED, msgspec.structs.replace(model, features=plain, description="", owner="", charter=None, gate=None, gates={}))


@verb("create-model", permission=Permission.EDIT)
def create_model(session: Session, model: str) -> ModelRecord:
    """Make a model whose versions your own code trains, with everything else as ``ec.Model`` has it by default.

    Registering a run makes the model by itself; this is for those who name it first. Raises Conflict when it stands already.
    """
    record = draft_model(session, model)
    with session.change("create-model", thing=f"model/{model}", detail={"definition": record.identity}) as change:
        keep_new_model(session, change, record)
    return record


def keep_new_model(session: Session, change: Change, record: ModelRecord) -> None:
    """Write a model that does not stand yet in an open change, with its definition for what will be made by it. Raises Conflict when it stands."""
    change.tx.append(MODELS, workspace=session.workspace, record=record)
    if change.tx.get(MODEL_DEFINITIONS, workspace=session.workspace, id=record.identity) is None:
        kept = ModelDefinition(record.identity, record.name, record.solution, record.definition, record.applied_at, record.applied_by)
        change.tx.append(MODEL_DEFINITIONS, workspace=session.workspace, record=kept)


def get_version(session: Session, version: str) -> Version:
    """A version by id, such as ``store-day-v3``. Raises NotFound with the nearest id of the same model, or how to list those of a model."""
    found = session.records.get(VERSIONS, workspace=session.workspace, id=version)
    if found is None:
        model = version.rpartition("-v")[0]
        ids = [v.id for v in session.records.find(VERSIONS, workspace=session.workspace, where={"model": model})]
        hint = suggest(version, ids) or (f"list them with: endcap versions {model}" if ids else "list models with: endcap ls")
        if session.records.get(MODELS, workspace=session.workspace, id=version) is not None:
            hint = f"that is a model; its versions: endcap versions {version}"
        raise NotFound(f"No version {version!r} in workspace '{session.workspace}'.", hint=hint)
    return found


@verb("register", permission=Permission.EDIT)
def register_version(session: Session, version: Version, *, profile: TrainingProfile | None = None) -> Version:
    """Keep a version, its number given here: the next of its model.

    ``profile`` is what the features were like that it was trained on, kept under the version's name (None: it reads no feature view). A
    version of the same identity that stands already is returned instead: training the same twice gives one version.
    """
    require_right(session, f"model/{version.model}", Permission.EDIT, verb="register")
    with session.change("register", thing=f"model/{version.model}", detail={"candidate": version.candidate}) as change:
        return keep_version(session, change, version, profile=profile)


def keep_version(session: Session, change: Change, version: Version, *, profile: TrainingProfile | None = None) -> Version:
    """The same in an open change. Cost: three records, whatever the number of versions."""
    where = {"identity": version.identity}
    for standing in change.tx.find(VERSIONS, workspace=session.workspace, where=where):
        if standing.model == version.model:
            change.detail.update(version=standing.id, note="stands already")
            return standing
    newest = change.tx.find(VERSIONS, workspace=session.workspace, where={"model": version.model}, newest_first=True, limit=1)
    n = newest[0].n + 1 if newest else 1
    while change.tx.get(VERSIONS, workspace=session.workspace, id=f"{version.model}-v{n}") is not None:
        n += 1  # versions that were copied from another store keep their numbers
    kept = msgspec.structs.replace(version, id=f"{version.model}-v{n}", n=n)
    change.tx.append(VERSIONS, workspace=session.workspace, record=kept)
    if profile is not None:
        change.tx.append(TRAINING_PROFILES, workspace=session.workspace, record=msgspec.structs.replace(profile, id=kept.id))
    change.detail.update(version=kept.id)
    return kept


@verb("record-verdict", permission=Permission.EDIT)
def record_verdict(session: Session, verdict: Verdict) -> Verdict:
    """Keep what a gate found. A verdict is added, never changed.

    Raises InvalidInput, audited, for one that says of itself what its checks do not say, and for one that bears the word of people: overrides and
    approvals are given by ``override`` and ``approve``.
    """
    if why := _find_flaw(verdict):
        session.record_refusal("record-verdict", thing=f"model/{verdict.model}", detail={"version": verdict.version, "why": why})
        raise InvalidInput(f"A verdict on '{verdict.version}' {why}.", hint="let its gate judge it: endcap judge VERSION")
    detail: dict[str, str | int | float | bool | None] = {"version": verdict.version, "passed": verdict.passed, "verdict": verdict.id}
    with session.change("record-verdict", thing=f"model/{verdict.model}", detail=detail) as change:
        change.tx.append(VERDICTS, workspace=session.workspace, record=verdict)
    return verdict


def _find_flaw(verdict: Verdict) -> str | None:
    if verdict.kind != "gate" or verdict.override is not None or verdict.request:
        return "bears the word of people, which is given elsewhere"
    if verdict.passed != (bool(verdict.checks) and all(check.passed for check in verdict.checks)):
        return f"says that it {'passed' if verdict.passed else 'did not pass'}, which its {len(verdict.checks)} checks do not say"
    return None


@verb("versions", permission=Permission.READ, lent={"model": ("model",)})
def list_versions(session: Session, model: str) -> list[Version]:
    """All versions of a model, newest first, with their figures beside those of every candidate.

    One that was registered has the figures of its newest verdict. Cost grows with the versions, and with the verdicts on registered ones.
    """
    get_model(session, model)
    where = {"model": model}
    found = session.records.find(VERSIONS, workspace=session.workspace, where=where, newest_first=True)
    if not any(version.engine for version in found):
        return found
    judged = {verdict.version: verdict.figures for verdict in session.records.find(VERDICTS, workspace=session.workspace, where=where)}
    return [_fill(version, judged.get(version.id, {})) for version in found]


def _fill(version: Version, figures: Mapping[str, float]) -> Version:
    """A version whose figures are those of its verdict where it has none of its own."""
    told = {name: figure for name, figure in figures.items() if name in _MEASURED and getattr(version.metrics, name) is None}
    return msgspec.structs.replace(version, metrics=msgspec.structs.replace(version.metrics, **told)) if told else version


def latest_verdict(session: Session, version: str) -> Verdict | None:
    """The newest verdict on a version, or None when it was never judged."""
    found = session.records.find(VERDICTS, workspace=session.workspace, where={"version": version}, newest_first=True, limit=1)
    return found[0] if found else None


def find_figure(session: Session, version: Version, metric: str) -> float | None:
    """A figure of a version: its own, else that of the rows on which its newest verdict was given; None without either."""
    own: float | None = getattr(version.metrics, metric, None)
    if own is not None:
        return own
    verdict = latest_verdict(session, version.id)
    return verdict.figures.get(metric) if verdict is not None else None


def read_artefacts(session: Session, version: Version) -> dict[str, Artefact]:
    """The files of a version, each checked against its SHA-256. Raises IntegrityBroken when one was changed or is gone."""
    return {file.name: read_file(session, version, file.name) for file in version.files}


def require_whole(session: Session, version: Version) -> None:
    """Read every file of a version against its SHA-256, a piece at a time. Raises IntegrityBroken when one was changed or is gone.

    Cost: reading the files once, whatever their size in the memory of one piece.
    """
    for file in version.files:
        try:
            for _piece in session.blobs.read_chunks(file.sha256):
                pass
        except NotFound as error:
            raise _gone(file.name, version) from error


def read_file(session: Session, version: Version, name: str) -> Artefact:
    """One file of a version, checked against its SHA-256. Raises NotFound for a name it does not have, IntegrityBroken as ``read_artefacts``."""
    from endcap.loop.training.artefacts import Artefact

    file = next((file for file in version.files if file.name == name), None)
    if file is None:
        names = [file.name for file in version.files]
        raise NotFound(f"'{version.id}' has no file {name!r}. Files: {names[:20]}.", hint=suggest(name, names))
    try:
        return Artefact(file.kind, session.blobs.get(file.sha256))
    except NotFound as error:
        raise _gone(name, version) from error


def _gone(name: str, version: Version) -> IntegrityBroken:
    return IntegrityBroken(f"The file '{name}' of version '{version.id}' is gone.", hint="restore it from a backup")
