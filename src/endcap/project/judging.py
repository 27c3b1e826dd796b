"""Judging: a version is looked at by the gate of an environment, and what was found is kept as its verdict."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from endcap.core.definitions.models import Model
from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import VERDICTS, CheckResult, Verdict
from endcap.loop.features.records import VIEW_HEADS
from endcap.loop.registry.admissions import identify_gate
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.records import PROD, Version
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.versions import get_model, get_version
from endcap.project.definitions import make_task, read_definition
from endcap.project.run_rows import keep_profile, read_evidence

if TYPE_CHECKING:
    from endcap.loop.evaluation.row_evidence import RowEvidence
    from endcap.loop.evaluation.rows import Rows
    from endcap.loop.evaluation.standing_checks import AnswerTimes
    from endcap.loop.retraining.tasks import Task

FIGURES = ("rmse", "mae", "wape", "rmspe", "log_loss", "brier", "auc", "error_rate", "calibration", "bias", "coverage_90")
"""The figures of rows that a verdict keeps, as far as they are measured."""
_KEY = "rows "


@verb("judge", permission=Permission.EDIT)
def judge_version(session: Session, version: str, *, environment: str = PROD) -> Verdict:
    """Judge a version by its model's gate, against the champion of this moment, and keep the verdict with every figure.

    ``environment`` is where the version shall answer, whose gate is asked. A model of your own is judged by the rows that its run logged as
    ``evidence.parquet`` or ``evidence.csv`` (columns ``actual`` and ``prediction``; see docs/gates.md); without such rows the verdict says
    so and does not pass. A second look at the same rows counts as the first; another version on the same rows must beat its rivals by more, as
    the one lucky draw of several is no progress. Nothing is released. Raises NotFound for an unknown version or environment. Cost: about 3 CPU-s
    for a million rows; of a forecast, one forecast of the champion for each origin that it had not learned from.
    """
    candidate = get_version(session, version)
    place = get_environment(session, environment)
    record = get_model(session, candidate.model)
    definition = read_definition(record)
    standing = get_champion(session, candidate.model, environment=place.name)
    champion = get_version(session, standing.version) if standing else None
    identity = identify_gate(record.definition, environment=place.name)
    if isinstance(definition, Model):
        return _judge_own(session, candidate, definition, environment=environment, champion=champion, identity=identity)
    return _judge_forecast(session, candidate, make_task(definition), environment=environment, champion=champion, identity=identity)


def _judge_forecast(session: Session, version: Version, task: Task, *, environment: str, champion: Version | None, identity: str) -> Verdict:
    """By the evidence of its back-test, kept when it was trained; the champion of now is made to forecast the same rows."""
    from endcap.loop.retraining.checking import judge_evidence
    from endcap.loop.retraining.offers import ask_gate

    known = session.records.find(VERDICTS, workspace=session.workspace, where={"version": version.id})
    n_tried = next((verdict.n_tried for verdict in known if verdict.kind == "gate"), 1)
    other = champion if champion is not None and champion.id != version.id else None
    evidence = task.weigh(session, version, champion=other, n_tried=n_tried)
    asked = replace(ask_gate(session, task, version, environment=environment), identity=identity)
    return judge_evidence(session, version, evidence, asked=asked, champion=champion)


def _judge_own(session: Session, version: Version, model: Model, *, environment: str, champion: Version | None, identity: str) -> Verdict:
    from endcap.loop.evaluation.row_evidence import RowEvidence
    from endcap.loop.retraining.checking import Asked, give_verdict, judge_evidence

    gate = model.gate_of(environment)
    views = version.views or _find_views(session, model)
    asked = Asked(gate, environment, model.charter, views, lambda: _time_answer(session, version), identity=identity)
    try:
        if gate.drift is not None:
            for each in (version, champion):
                if each is not None:
                    keep_profile(session, each)
        name, rows, key = _read_rows(session, version, model, columns=gate.columns)
        other = None
        if champion is not None and champion.id != version.id and "champion" in gate.better_than:
            other = _read_champion(session, champion, model, rows)
    except InvalidInput as error:
        hint = f" ({error.hint})" if error.hint else ""
        doubt = CheckResult(check="evidence", passed=False, figure=None, limit="", sentence=f"it cannot be judged: {error.what}{hint}")
        return give_verdict(session, version, [doubt], asked=asked, champion=champion)
    n_tried = _count_tried(session, version, environment=environment, key=key)
    evidence = RowEvidence(version.id, rows, champion_rows=other, champion_name=champion.id if champion else "", n_tried=n_tried)
    first = _describe_evidence(evidence, metric=gate.metric, name=name, key=key)
    return judge_evidence(session, version, evidence, asked=asked, champion=champion, first=[first])


def _describe_evidence(evidence: RowEvidence, *, metric: str, name: str, key: str) -> CheckResult:
    """What the version is judged on, with all its figures and those of the baselines."""
    metrics = evidence.metrics
    figures = {each: value for each in FIGURES if isinstance(value := getattr(metrics, each), float)}
    rivals = {rival: figure for rival in evidence.baselines if (figure := evidence.figure(rival, metric)) is not None}
    against = ", ".join(f"{rival} {figure:.4g}" for rival, figure in rivals.items())
    own = f": {metric} {figures[metric]:.4g} ({against})" if metric in figures else ""
    said = "; ".join([f"judged on {metrics.n:,} rows of '{name}'{own}", *evidence.rows.notes])
    figures |= {f"{metric} of {rival}": figure for rival, figure in rivals.items()}
    return CheckResult(check="evidence", passed=True, figure=float(metrics.n), limit=key, sentence=said, figures=figures)


def _time_answer(session: Session, version: Version) -> AnswerTimes:
    """How long the version's engine takes for one row of its input example. Raises InvalidInput where it keeps none."""
    from endcap.loop.deployment.engines.opening import open_version
    from endcap.loop.deployment.proving import read_kept
    from endcap.loop.evaluation.standing_checks import time_answers
    from endcap.loop.registry.signatures import fit_example

    kept = read_kept(session, version)
    if kept is None:
        raise InvalidInput("it keeps no input example to answer", hint="log one: log_model(..., input_example=rows)")
    row = fit_example(kept.input, kept.signature).slice(0, 1)
    engine = open_version(session, version)
    return time_answers(lambda: engine.predict(row))


def _read_rows(session: Session, version: Version, model: Model, *, columns: tuple[str, ...]) -> tuple[str, Rows, str]:
    """The rows of a version, the name of their file, and a key that is the same for the same rows, whatever was answered to them."""
    from endcap.loop.evaluation.row_evidence import require_enough
    from endcap.loop.evaluation.rows import parse_rows, read_table

    name, payload, note = read_evidence(session, version)
    table = read_table(payload, name=name)
    rows = parse_rows(table, predicts=model.predicts, slices=columns, name=name)
    rows = replace(rows, notes=(*rows.notes, *([note] if note else [])))
    require_enough(rows, what=f"rows with an outcome in '{name}'")
    digest = hashlib.sha256(rows.truth.astype("U").tobytes() if rows.classes else rows.actual.tobytes())
    return name, rows, f"{_KEY}{digest.hexdigest()[:16]}"


def _read_champion(session: Session, champion: Version, model: Model, rows: Rows) -> Rows:
    """The champion's rows. Raises InvalidInput where too few of them are among those of the version that is judged."""
    from endcap.loop.evaluation.row_evidence import find_shared, require_enough
    from endcap.loop.evaluation.rows import parse_rows, read_table

    try:
        name, payload, _ = read_evidence(session, champion)
        standing = parse_rows(read_table(payload, name=name), predicts=model.predicts, name=name)
    except InvalidInput as error:
        raise InvalidInput(f"the champion ({champion.id}) cannot be compared with: {error.what}", hint=error.hint) from error
    shared, _ = find_shared(rows, standing)
    require_enough(rows, what=f"rows that both have, this version and the champion ({champion.id})", among=shared)
    return standing


def _count_tried(session: Session, version: Version, *, environment: str, key: str) -> int:
    """How many versions of the model were judged on the same rows, this one included; a second look at one counts as its first."""
    tried: dict[str, int] = {}
    for verdict in session.records.find(VERDICTS, workspace=session.workspace, where={"model": version.model}):
        if verdict.environment == environment and verdict.kind == "gate" and any(c.check == "evidence" and c.limit == key for c in verdict.checks):
            tried.setdefault(verdict.version, verdict.n_tried)
    return tried.get(version.id, len(tried) + 1)


def _find_views(session: Session, model: Model) -> dict[str, str]:
    """The versions of the model's views as they stand."""
    heads = {view.name: session.records.get(VIEW_HEADS, workspace=session.workspace, id=view.name) for view in model.features}
    return {name: head.version if head else next(v.version for v in model.features if v.name == name) for name, head in heads.items()}
