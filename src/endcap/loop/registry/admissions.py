"""Admissions: on what a version may answer. Everything that releases asks here, and the door asks again in the transaction that lets it in.

A version is admitted to an environment by the newest verdict of the gate there, if it passed against the champion of this moment, or by an
override that somebody answers for and that has not expired; and, where approvals are asked, by the people who gave them. A challenger or
shadow need not have beaten the champion: it stands beside it to find that out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from endcap.core.identity import identify
from endcap.governance.records import AUDIT_ROWS
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import APPROVALS_CHECK, NO_CHAMPION, VERDICTS, Verdict
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.records import (
    APPROVAL_REQUESTS,
    APPROVALS,
    MODELS,
    PROD,
    RELEASES,
    ApprovalRequest,
    Champion,
    Environment,
    Version,
)
from endcap.loop.registry.retirements import find_retirement
from endcap.storage.ports import RecordReader


@dataclass(frozen=True)
class Admission:
    """On what a version may answer: the verdict, which is of kind ``override`` where somebody answers for it in the gate's place."""

    verdict: Verdict

    @property
    def overridden(self) -> bool:
        return self.verdict.kind == "override"


@dataclass(frozen=True)
class Refusal:
    """Why a version may not answer, and what would do."""

    why: str
    hint: str


def find_admission(
    session: Session, version: Version, *, environment: str, role: str, champion: Champion | None, reader: RecordReader | None = None
) -> Admission | Refusal:
    """Whether a version may answer in an environment in a role, beside or in the place of the champion that answers there.

    ``reader`` is an open transaction to read in. Cost: the verdicts of the version and a handful of records.
    """
    reader = reader or session.records
    retired = find_retirement(session, version.model, reader=reader)
    if retired is not None and retired.effective_at <= read_time(session, reader=reader):
        why = f"its model is retired since {retired.effective_at:%Y-%m-%d %H:%M}Z, by {retired.by}"
        return Refusal(why, f"take it back into service with: endcap unretire {version.model}")
    place = get_environment(session, environment, reader=reader)
    skipped = _find_skipped(session, version, place, reader=reader)
    if skipped is not None:
        return skipped
    verdicts = list_verdicts(session, version.id, environment=environment, reader=reader)
    verdict = next((found for found in verdicts if found.kind == "gate"), None)
    refusal = _find_shortfall(session, version, verdict, place, role=role, champion=champion, reader=reader)
    if refusal is None:
        assert verdict is not None, "no admission without a verdict"
        return Admission(verdict)
    override = find_override(session, version, place, reader=reader)
    return refusal if override is None else Admission(override)


def list_verdicts(session: Session, version: str, *, environment: str, reader: RecordReader | None = None) -> list[Verdict]:
    """The verdicts on a version in an environment, newest first. Cost grows with the verdicts on the version."""
    found = (reader or session.records).find(VERDICTS, workspace=session.workspace, where={"version": version}, newest_first=True)
    return [verdict for verdict in found if verdict.environment == environment]


def find_gate_verdict(session: Session, version: str, *, environment: str = PROD, reader: RecordReader | None = None) -> Verdict | None:
    """What the gate of an environment found last about a version; None where it was never judged for it."""
    verdicts = list_verdicts(session, version, environment=environment, reader=reader)
    return next((found for found in verdicts if found.kind == "gate"), None)


def find_override(session: Session, version: Version, place: Environment, *, reader: RecordReader | None = None) -> Verdict | None:
    """The override on which a version may answer now, or None: there was none, it has expired, or it lacks the second person that is asked for."""
    reader = reader or session.records
    now = read_time(session, reader=reader)
    alone = count_needed(session, version.model, place, reader=reader) == 0
    for verdict in list_verdicts(session, version.id, environment=place.name, reader=reader):
        if verdict.override is not None and verdict.override.expires_at > now and (alone or count_approved(session, verdict, reader=reader)):
            return verdict
    return None


def read_time(session: Session, *, reader: RecordReader | None = None) -> datetime:
    """Now, and never before what is on record: a clock that jumps back brings nothing back to life that has expired. Cost: one record."""
    newest = (reader or session.records).find(AUDIT_ROWS, workspace=session.workspace, newest_first=True, limit=1)
    return max([session.now(), *(row.at for row in newest)])


def against_champion(check: str) -> bool:
    """Whether a check by this name compares with the champion.

    >>> against_champion("wape against the champion (store-day-v1)"), against_champion("bias")
    (True, False)
    """
    return NO_CHAMPION in check


def find_challenger_refusal(verdict: Verdict | None) -> str | None:
    """Why a version may not even stand beside the champion, or None: it passed every check of its gate but those against the champion."""
    if verdict is None:
        return "it was never judged by its gate"
    if not verdict.checks:
        return "its verdict holds no check"
    failed = [check.sentence for check in verdict.checks if not check.passed and not against_champion(check.check)]
    return "; ".join(failed) or None


def count_needed(session: Session, model: str, environment: Environment, *, reader: RecordReader | None = None) -> int:
    """How many approvals a version of a model needs in an environment: what it asks, or the model's gate there if that is more."""
    record = (reader or session.records).get(MODELS, workspace=session.workspace, id=model)
    if record is None:
        return environment.approvals
    return max(environment.approvals, read_gate_approvals(record.definition, environment=environment.name))


class _Gate(msgspec.Struct):
    approvals: int = 0


class _Asked(msgspec.Struct):
    """Of a model's definition: how many approvals its gates ask for."""

    gate: _Gate | None = None
    gates: dict[str, _Gate] = {}


def read_gate_approvals(definition: str, *, environment: str = PROD) -> int:
    """How many approvals the gate of an environment asks for, by a model's definition as JSON; where it has none of its own, that of ``prod``.

    >>> read_gate_approvals('{"gate": {"approvals": 2}, "gates": {"dev": {}}}', environment="dev")
    0
    """
    asked = msgspec.json.decode(definition, type=_Asked)
    return asked.gates.get(environment, asked.gate or _Gate()).approvals


def identify_gate(definition: str, *, environment: str) -> str:
    """What tells the gate of an environment, by a model's definition as JSON, from what it was or will be.

    The approvals it asks for are left out: these are counted whenever somebody wants to release.

    >>> identify_gate('{"gate": {"bias": 0.1, "approvals": 2}}', environment="dev") == identify_gate('{"gate": {"bias": 0.1}}', environment="dev")
    True
    """
    told = msgspec.json.decode(definition)
    gate = (told.get("gates") or {}).get(environment, told.get("gate")) or {}
    return identify("gate", {name: value for name, value in gate.items() if name != "approvals"})


def _find_skipped(session: Session, version: Version, place: Environment, *, reader: RecordReader) -> Refusal | None:
    """The environment that a version left out on its way, as a refusal."""
    if place.after is None:
        return None
    rows = reader.find(RELEASES, workspace=session.workspace, where={"version": version.id})
    if any(row.environment == place.after for row in rows):
        return None
    return Refusal(
        f"it never answered in '{place.after}', which comes before '{place.name}'", f"endcap promote {version.id} --environment {place.after}"
    )


def _find_shortfall(
    session: Session, version: Version, verdict: Verdict | None, place: Environment, *, role: str, champion: Champion | None, reader: RecordReader
) -> Refusal | None:
    """What the gate's verdict lacks for a version to answer, or None."""
    seen = Refusal("", f"see every figure with: endcap show {version.id}")
    if verdict is None:
        where = "" if place.name == PROD else f" for '{place.name}'"
        return Refusal(f"it was never judged by its gate{where}", f"judge it with: endcap judge {version.id}{_name(place)}")
    failed = find_challenger_refusal(verdict)
    if role == "champion" and failed is None and not (verdict.passed and all(check.passed for check in verdict.checks)):
        failed = verdict.sentence
    if failed is not None:
        why = verdict.sentence if role == "champion" else failed
        return _wait(session, why, verdict, place, reader=reader) if find_waiting(verdict, role=role) else Refusal(why, seen.hint)
    # The champion itself, given back to members that another version answers for, has no older champion to beat.
    if role == "champion" and champion is not None and verdict.against != champion.version != version.id:
        why = f"it was judged against {verdict.against or 'no champion'}, but the champion is now {champion.version}"
        return Refusal(why, f"judge it anew with: endcap judge {version.id}{_name(place)}")
    record = reader.get(MODELS, workspace=session.workspace, id=version.model) if verdict.gate else None
    if record is not None and verdict.gate != identify_gate(record.definition, environment=place.name):
        return Refusal("its gate was changed since it was judged", f"judge it anew with: endcap judge {version.id}{_name(place)}")
    n_needed = count_needed(session, version.model, place, reader=reader)
    n_has = count_approved(session, verdict, reader=reader) if n_needed else 0
    if n_has < n_needed:
        return _wait(session, f"'{place.name}' asks for {n_needed} approvals, and its verdict has {n_has}", verdict, place, reader=reader)
    return None


def _wait(session: Session, why: str, verdict: Verdict, place: Environment, *, reader: RecordReader) -> Refusal:
    """The refusal of a version that lacks approvals, with what became of asking for them. Cost: the requests for the version."""
    if said := find_rejection(session, verdict, reader=reader):
        return Refusal(f"{why}; rejected {said}", f"what is judged anew may be asked for anew: endcap judge {verdict.version}{_name(place)}")
    now = read_time(session, reader=reader)
    for request in _list_requests(session, verdict, reader=reader):
        if request.status == "pending" and request.expires_at > now:
            return Refusal(why, f"people were asked, until {request.expires_at:%Y-%m-%d %H:%M} UTC: endcap approvals --version {verdict.version}")
    return Refusal(why, f"ask for them with: endcap request-approval {verdict.version}{_name(place)}")


def find_rejection(session: Session, verdict: Verdict, *, reader: RecordReader | None = None) -> str | None:
    """Who rejected what a verdict says, and why, or None. Cost: the requests for the version."""
    reader = reader or session.records
    for request in _list_requests(session, verdict, reader=reader):
        if request.status == "rejected":
            answers = reader.find(APPROVALS, workspace=session.workspace, where={"request": request.id})
            no = next(answer for answer in answers if answer.answer == "rejected")
            return f"by {no.by} at {no.at:%Y-%m-%d %H:%M} UTC: {no.comment[:200]}"
    return None


def _list_requests(session: Session, verdict: Verdict, *, reader: RecordReader) -> list[ApprovalRequest]:
    """What people were asked about a gate's verdict, newest first."""
    asked = reader.find(APPROVAL_REQUESTS, workspace=session.workspace, where={"version": verdict.version}, newest_first=True)
    return [request for request in asked if request.kind == "gate" and request.verdict == verdict.id]


def find_waiting(verdict: Verdict, *, role: str = "champion") -> bool:
    """Whether a gate's verdict lacks nothing but approvals for a version to answer in a role."""
    failed = [check.check for check in verdict.checks if not check.passed]
    waits = all(name == APPROVALS_CHECK or (role != "champion" and against_champion(name)) for name in failed)
    return verdict.kind == "gate" and bool(verdict.checks) and waits


def count_approved(session: Session, verdict: Verdict, *, reader: RecordReader | None = None) -> int:
    """How many people approved what a verdict says, by the records of what they answered."""
    reader = reader or session.records
    request = reader.get(APPROVAL_REQUESTS, workspace=session.workspace, id=verdict.request) if verdict.request else None
    if request is None or request.status != "approved" or (request.version, request.environment) != (verdict.version, verdict.environment):
        return 0
    answers = reader.find(APPROVALS, workspace=session.workspace, where={"request": request.id})
    return len({answer.by for answer in answers if answer.answer == "approved"})


def _name(place: Environment) -> str:
    return "" if place.name == PROD else f" --environment {place.name}"
