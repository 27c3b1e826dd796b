"""Offers: a trained trial becomes a version, is judged by its gate, and asks to be released by the same call that anyone would use."""

from __future__ import annotations

import msgspec

from endcap.core.errors import Conflict, GateRefused, PermissionDenied
from endcap.core.identity import identify
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Verdict
from endcap.loop.evaluation.standing_checks import AnswerTimes, time_answers
from endcap.loop.features.records import TrainingProfile
from endcap.loop.registry.admissions import identify_gate
from endcap.loop.registry.approvals import request_approval
from endcap.loop.registry.records import MODELS, PROD, Field, Signature, Version
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.versions import get_version, register_version
from endcap.loop.retraining.checking import Asked, judge_evidence
from endcap.loop.retraining.records import Judged
from endcap.loop.retraining.tasks import DataRef, Task, Trial, refer_to
from endcap.pipelines.code import digest_code, read_lock

_FORECAST = (Field("ts", "datetime"), Field("forecast", "double"), Field("lower_90", "double"), Field("upper_90", "double"))
"""What every forecast answers for its keys."""


def identify_trial(task: Task, data: DataRef, trial: Trial) -> str:
    """The hash of what a trial was made of and of the files that it became."""
    return identify(task.identity, data.digest, trial.candidate, digest_code(), task.seed, [(f.name, f.sha256) for f in trial.files])


def register_trial(session: Session, task: Task, data: DataRef, trial: Trial, *, tables: dict[str, str], run: str) -> Version:
    """Keep a trial as a version, with all that it was made of. Equal identity gives the version that stands already."""
    version = Version(
        id="",
        model=task.name,
        n=0,
        candidate=trial.candidate,
        identity=identify_trial(task, data, trial),
        created_at=session.now(),
        created_by=session.actor.name,
        run=run,
        files=trial.files,
        metrics=trial.metrics,
        leaderboard=trial.leaderboard,
        baselines=trial.baselines,
        slices=trial.slices,
        members=trial.members,
        members_fallen_back=trial.members_fallen_back,
        trained_until=trial.trained_until,
        training_set=data.digest,
        evidence=trial.evidence,
        tables=tables,
        definition=task.identity,
        lock=read_lock(),
        notes=trial.notes,
        signature=Signature(tuple(Field(key, "any") for key in task.keys), _FORECAST),
        views=data.views,
    )
    profile = TrainingProfile(
        id="",
        model=task.name,
        at=session.now(),
        n_rows=data.n_profiled,
        views=data.views,
        profiles=data.profiles,
        importances=trial.importances,
    )
    return register_version(session, version, profile=profile if data.views else None)


def ask_gate(session: Session, task: Task, version: Version, *, environment: str = PROD) -> Asked:
    """What a version of a task is judged by in an environment; its answers are timed on the data that it was trained on."""
    data = refer_to(version)

    def measure() -> AnswerTimes:
        n_rows = 0

        def answer() -> None:
            nonlocal n_rows
            n_rows = sum(part.num_rows for part in task.answer(session, version, data).parts)

        times = time_answers(answer)
        return msgspec.structs.replace(times, of=f"an answer of {n_rows:,} forecasts")

    record = session.records.get(MODELS, workspace=session.workspace, id=task.name)
    identity = identify_gate(record.definition, environment=environment) if record is not None else ""
    return Asked(task.gate_of(environment), environment, task.charter, version.views, measure, seed=task.seed, identity=identity)


def offer_version(session: Session, task: Task, version: Version, *, reason: str, n_tried: int = 1) -> Judged:
    """Judge a version against the champion of this moment, keep the verdict, and promote it if it passed.

    The one who asks gets no exception for a refusal but its sentence, and none where the version passed but the asker's role may not release:
    it then waits for somebody who may. Both refusals are audited by ``promote``. A version that lacks nothing but approvals waits for these.
    """
    champion = get_champion(session, task.name)
    if champion is not None and champion.version == version.id:
        return Judged(version.id, version.candidate, True, False, "it is the champion already")
    standing = get_version(session, champion.version) if champion else None
    evidence = task.weigh(session, version, champion=standing, n_tried=n_tried)
    verdict = judge_evidence(session, version, evidence, asked=ask_gate(session, task, version), champion=standing)
    try:
        promote(session, version.id, reason=reason)
    except GateRefused as error:
        why = error.what if verdict.passed else verdict.sentence  # it passed, but the champion changed while it was judged
        return Judged(version.id, version.candidate, False, False, why, _ask_people(session, version, verdict))
    except PermissionDenied as error:
        waits = _ask_people(session, version, verdict)
        return Judged(version.id, version.candidate, verdict.passed, False, f"{verdict.sentence}; it is not released: {error.what}", waits)
    return Judged(version.id, version.candidate, True, True, verdict.sentence)


def _ask_people(session: Session, version: Version, verdict: Verdict) -> bool:
    """Ask for approvals where nothing else is missing; whether the version waits for them."""
    if not (verdict.passed or verdict.waits):
        return False
    try:
        request_approval(session, version.id)
    except Conflict:  # nobody is asked for any: something else keeps it out, such as a pin
        return verdict.waits
    return True
