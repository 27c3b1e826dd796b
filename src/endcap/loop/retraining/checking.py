"""Checking: what a gate asks beyond the evidence is gathered, and what it found is kept. Trained trials, models of one's own and second looks
are all judged here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time

import msgspec

from endcap.core.definitions.charters import Charter
from endcap.core.definitions.gates import Gate
from endcap.core.durations import parse_duration
from endcap.core.errors import EndcapError
from endcap.governance.sessions import Session
from endcap.loop.evaluation.evidence import Evidence
from endcap.loop.evaluation.gates import Check, judge
from endcap.loop.evaluation.parity_checks import ask_parity
from endcap.loop.evaluation.records import NO_CHAMPION, CheckResult, Verdict
from endcap.loop.evaluation.standing_checks import AnswerTimes, Approved, DriftWithin, FreshWithin, HasCharter, LatencyWithin, SizeWithin
from endcap.loop.features.records import TRAINING_PROFILES
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.records import PROD, Version
from endcap.loop.registry.versions import record_verdict


@dataclass(frozen=True)
class Asked:
    """What a version is judged by: the gate of an environment, the model's charter, the feature views it reads (versions by name), and how its
    answers are timed (None: nothing here can answer for it). ``identity`` is that of the gate as the model's definition has it.
    """

    gate: Gate
    environment: str = PROD
    charter: Charter | None = None
    views: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[], AnswerTimes] | None = None
    seed: int = 7
    identity: str = ""


def judge_evidence(
    session: Session, version: Version, evidence: Evidence, *, asked: Asked, champion: Version | None, first: Sequence[CheckResult] = ()
) -> Verdict:
    """Every check of the gate on a version; the verdict is kept and returned. ``first`` are results that stand before the others.

    The champion itself is not asked to beat the champion. A new verdict needs approvals of its own, whatever people said of an older one. Cost: the
    checks; a gate that asks for latency takes some seconds more.
    """
    gate, results = asked.gate, [*first]
    if champion is not None and champion.id == version.id and "champion" in gate.better_than:
        gate = msgspec.structs.replace(gate, better_than=tuple(rival for rival in gate.better_than if rival != "champion"))
        results.append(CheckResult(check=f"{gate.metric} {NO_CHAMPION}", passed=True, figure=None, limit="", sentence="it is the champion itself"))
    judged = judge(evidence, gate=gate, seed=asked.seed, further=ask_further(session, version, asked=asked, champion=champion))
    return give_verdict(session, version, (*results, *judged), asked=asked, champion=champion, n_pairs=evidence.metrics.n, n_tried=evidence.n_tried)


def give_verdict(
    session: Session, version: Version, checks: Sequence[CheckResult], *, asked: Asked, champion: Version | None, n_pairs: int = 0, n_tried: int = 1
) -> Verdict:
    """Keep what was found about a version. It passed if every check did; that a gate asks for nothing is said as a check of its own."""
    checks = checks or (CheckResult(check="gate", passed=True, figure=0.0, limit="", sentence="its gate asks for nothing"),)
    verdict = Verdict(
        id=session.new_id("verdict"),
        model=version.model,
        version=version.id,
        at=session.now(),
        passed=all(check.passed for check in checks),
        checks=tuple(_settle(check) for check in checks),
        against=champion.id if champion else None,
        n_pairs=n_pairs,
        environment=asked.environment,
        n_tried=n_tried,
        gate=asked.identity,
    )
    return record_verdict(session, verdict)


def _settle(check: CheckResult) -> CheckResult:
    """The result without figures that JSON lacks: it would not be read back."""
    return msgspec.structs.replace(check, figures={name: value for name, value in check.figures.items() if math.isfinite(value)})


def ask_further(session: Session, version: Version, *, asked: Asked, champion: Version | None) -> list[Check]:
    """The checks of a gate that read no evidence, in the order a reader wants them: what was trained on, how it answers, who agreed."""
    gate, found = asked.gate, list[Check]()
    if gate.parity is not None:
        found.append(ask_parity(session, asked.views, within=gate.parity))
    if gate.drift is not None:
        other = champion if champion is not None and champion.id != version.id else None
        profiles = [
            None if one is None else session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=one.id) for one in (version, other)
        ]
        found.append(DriftWithin(gate.drift, profiles[0], profiles[1], champion=other.id if other else ""))
    if gate.fresh is not None:
        found.append(FreshWithin(parse_duration(gate.fresh), _start_of(version), session.now()))
    if gate.latency_ms is not None:
        found.append(LatencyWithin(gate.latency_ms, _measure(asked)))
    if gate.size_mb is not None:
        found.append(SizeWithin(gate.size_mb, sum(file.n_bytes for file in version.files)))
    if gate.charter:
        found.append(HasCharter(asked.charter))
    n_needed = max(gate.approvals, get_environment(session, asked.environment).approvals)
    if n_needed:
        found.append(Approved(n_needed))
    return found


def _measure(asked: Asked) -> AnswerTimes | str:
    """Times of answers, or why there are none: what does not answer is not let in, and says so."""
    if asked.measure is None:
        return "nothing here can answer for this version"
    try:
        return asked.measure()
    except EndcapError as error:
        return error.what


def _start_of(version: Version) -> datetime | None:
    day = version.trained_until
    return None if day is None else datetime.combine(day, time(), tzinfo=UTC)
