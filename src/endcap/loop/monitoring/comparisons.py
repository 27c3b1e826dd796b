"""What a running comparison shows so far, and its end: the figures of both groups from the outcomes of what was delivered to each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import Conflict, GateRefused, InvalidInput
from endcap.core.permissions import Permission
from endcap.core.zones import load_zone
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import BATCHES, Batch
from endcap.loop.evaluation.records import VERDICTS, CheckResult, Finding, Verdict
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.monitoring.records import ComparisonView
from endcap.loop.registry.admissions import against_champion, find_gate_verdict
from endcap.loop.registry.comparisons import end_comparison, find_comparison, get_comparison, read_groups
from endcap.loop.registry.records import Comparison
from endcap.loop.registry.releases import release_challenger, require_readable
from endcap.loop.registry.versions import get_model, get_version

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from endcap.loop.evaluation.member_days import MemberDays

_DAYS_BEFORE = 28
_BESIDE = ("wape", "bias", "actual per member-day")


@verb("comparison", permission=Permission.READ)
def show_comparison(session: Session, model: str, *, comparison: str | None = None) -> ComparisonView:
    """Show what an A/B comparison of a model says by now: is one version better, by how much, and if not, what it would take to know.

    ``comparison`` is the id of an older one (None: the newest). Only forecasts count that were made since the start, each member's by the version
    that answers for it, and of days that both groups have outcomes of. The interval allows for looking every day, so look as often as you
    like; what each member's error was in the four weeks before the start makes it narrower. Beside the metric it gives the bias and what was
    sold per member and day. Raises NotFound for a model that was never compared. Cost: the outcomes since four weeks before the start.
    """
    found = get_comparison(session, model, comparison=comparison)
    return _measure(session, found)


@verb("stop-comparison", permission=Permission.RELEASE)
def stop_comparison(session: Session, model: str, *, keep: str, reason: str = "") -> Comparison:
    """End the A/B comparison of a model: one of the two versions answers for everybody again.

    ``keep`` is which of them: ``a``, the champion, or ``b``, the challenger, which needs that it is shown to be better or has passed its gate
    against this champion; ``reason`` is kept with it. What was found by then is kept too, and for b as a verdict. Raises
    GateRefused where b may not be kept (the refusal is audited), Conflict when no comparison runs.
    """
    get_model(session, model)
    running = find_comparison(session, model)
    if keep not in ("a", "b"):
        raise InvalidInput(f"{keep!r} is neither group.", hint="write --keep a for the champion, --keep b for the challenger")
    if running is None:
        raise Conflict(f"No comparison of model '{model}' runs.", hint=f"see earlier ones with: endcap comparisons {model}")
    finding = _measure(session, running).finding
    verdict = _judge(session, running, finding) if keep == "b" else None
    if keep == "b" and verdict is None:
        session.record_refusal("stop-comparison", thing=f"model/{model}", detail={"comparison": running.id, "why": finding.sentence[:500]})
        raise GateRefused(
            f"'{running.challenger}' cannot be kept: it is not shown to be better than {running.champion}. {finding.sentence}.",
            hint="let it run on, or keep the champion with: --keep a",
            version=running.challenger,
        )
    if verdict is not None:
        require_readable(session, get_version(session, running.challenger), verb="stop-comparison")
    detail = {"keep": keep, "finding": finding.sentence[:500], "reason": reason[:500]}
    with session.change("stop-comparison", thing=f"model/{model}", detail=detail) as change:
        ended = end_comparison(session, change, running, how=f"kept {keep}", finding=finding.sentence)
        if verdict is not None:
            if change.tx.get(VERDICTS, workspace=session.workspace, id=verdict.id) is None:
                change.tx.append(VERDICTS, workspace=session.workspace, record=verdict)
            release_challenger(session, change, running, verdict=verdict, reason=reason or finding.sentence)
    return ended


def _judge(session: Session, comparison: Comparison, finding: Finding) -> Verdict | None:
    """The verdict by which the challenger may be released: the live comparison beside the checks that let it in, or one of its gate that
    passed against this very champion. None: neither, or it is shown to be worse.
    """
    standing = find_gate_verdict(session, comparison.challenger, environment=comparison.environment)
    assert standing is not None, "a verdict is never deleted"
    if finding.better != "b":
        by_gate = standing.passed and standing.against == comparison.champion and finding.better != "a"
        return standing if by_gate else None
    live = CheckResult(
        check=f"live {comparison.metric} against the champion ({comparison.champion})",
        passed=True,
        figure=finding.difference,
        limit="interval below 0",
        sentence=finding.sentence,
        lower=finding.lower,
        upper=finding.upper,
    )
    admitted = session.records.get(VERDICTS, workspace=session.workspace, id=comparison.verdict)
    assert admitted is not None, "a verdict is never deleted"
    return msgspec.structs.replace(
        admitted,
        id=session.new_id("verdict"),
        at=session.now(),
        passed=True,
        checks=(*(check for check in admitted.checks if not against_champion(check.check)), live),
        against=comparison.champion,
    )


def _measure(session: Session, comparison: Comparison) -> ComparisonView:
    live, before, in_b = _read_sums(session, comparison)
    if live is None:
        sentence = "no outcome has arrived yet of a forecast that was made since the start"
        blank = Finding(
            metric=comparison.metric, figure_a=None, figure_b=None, n_a=0, n_b=0, n_days=0, n_planned=comparison.n_days, sentence=sentence
        )
        return ComparisonView(comparison, blank)
    from endcap.loop.evaluation.comparisons import compare_groups

    def measure(metric: str) -> Finding:
        return compare_groups(live, before, in_b=in_b, metric=metric, smallest=comparison.smallest, n_planned=comparison.n_days)

    beside = tuple(measure(metric) for metric in _BESIDE if metric != comparison.metric)
    return ComparisonView(comparison, measure(comparison.metric), beside, 0 if before is None else int((before.n.sum(axis=0) > 0).sum()))


def _read_sums(session: Session, comparison: Comparison) -> tuple[MemberDays | None, MemberDays | None, NDArray[np.bool_]]:
    """The sums since the start and before it over the members of both groups, and which of them are in b."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from endcap.loop.evaluation.member_days import sum_by_day

    groups = read_groups(session, comparison)
    names = (*groups.a, *groups.b)
    in_b = np.arange(len(names)) >= len(groups.a)
    batches = session.records.find(BATCHES, workspace=session.workspace, where={"model": comparison.model})
    until = comparison.until or session.now()
    by_challenger = [b for b in batches if b.version == comparison.challenger and comparison.since <= b.predicted_at <= until]
    by_others = [b for b in batches if b.version != comparison.challenger and comparison.since <= b.predicted_at <= until]
    parts = []
    for mine, members in ((by_challenger, groups.b), (by_others, groups.a)):
        rows = read_member_outcomes(session, comparison.model, mine)
        if rows is not None:
            parts.append(rows.filter(pc.is_in(rows["member"], pa.array(members, pa.string()))))
    live = sum_by_day(pa.concat_tables(parts), members=names) if parts else None
    if live is None or live.days.size == 0:
        return None, None, in_b
    start = _local(comparison.since, batches[-1])
    earlier = [b for b in batches if b.predicted_at < comparison.since and b.last >= (start - timedelta(days=_DAYS_BEFORE)).date()]
    rows = read_member_outcomes(session, comparison.model, earlier)
    before = _before(rows, start, names) if rows is not None else None
    return live, before, in_b


def _before(rows: pa.Table, start: datetime, names: Sequence[str]) -> MemberDays | None:
    """The sums of whole days before the start, at most four weeks of them."""
    import numpy as np

    from endcap.loop.evaluation.member_days import sum_by_day

    sums = sum_by_day(rows, members=tuple(names))
    if sums.days.size == 0:
        return None
    day = np.datetime64(start.date())
    kept = sums.between(day - _DAYS_BEFORE, day - 1)
    return kept if kept.days.size and kept.n.sum() > 0 else None


def _local(instant: datetime, batch: Batch) -> datetime:
    return instant.astimezone(load_zone(batch.zone))
