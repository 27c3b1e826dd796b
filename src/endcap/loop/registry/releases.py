"""Releases: the one door through which a version becomes the one that answers, and the way back."""

from __future__ import annotations

from datetime import datetime

from endcap.core.clock import parse_instant
from endcap.core.errors import Conflict, GateRefused, NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import VERDICTS, Verdict
from endcap.loop.registry.comparisons import end_comparison, find_comparison
from endcap.loop.registry.records import CHAMPIONS, PROD, RELEASES, Champion, Comparison, Release, Version
from endcap.loop.registry.versions import get_model, get_version, latest_verdict


def get_champion(session: Session, model: str, *, environment: str = PROD) -> Champion | None:
    """What answers for a model now, or None."""
    return session.records.get(CHAMPIONS, workspace=session.workspace, id=f"{model}/{environment}")


@verb("promote", permission=Permission.RELEASE)
def promote(session: Session, version: str, *, reason: str = "") -> Release:
    """Make a version the champion of its model.

    It needs a passing verdict against the champion of this moment; everything that releases goes through here, schedules and reactions
    too. ``reason`` is kept in the history. Raises GateRefused with what failed (the refusal is audited), also while a comparison of the model
    runs, which would no longer compare what it was started for; Conflict when it is the champion already.
    """
    candidate = get_version(session, version)
    verdict = latest_verdict(session, candidate.id)
    thing = f"model/{candidate.model}"
    champion = get_champion(session, candidate.model)
    if champion is not None and champion.version == candidate.id:
        raise Conflict(f"'{candidate.id}' is the champion already, since {champion.since.isoformat()}.")
    refusal = _find_refusal(verdict, champion=champion) or _describe_running(find_comparison(session, candidate.model))
    if refusal is not None:
        session.record_refusal("promote", thing=thing, detail={"version": candidate.id, "why": refusal[:500]})
        hint = f"see every figure with: endcap show {candidate.id}"
        raise GateRefused(f"'{candidate.id}' cannot be released: {refusal}.", hint=hint, version=candidate.id)
    assert verdict is not None, "no refusal without a verdict"
    with session.change("promote", thing=thing, detail={"version": candidate.id, "verdict": verdict.id}) as change:
        if running := _describe_running(find_comparison(session, candidate.model, reader=change.tx)):
            raise Conflict(f"'{candidate.id}' cannot be released: {running}.", hint=f"see it with: endcap comparison {candidate.model}")
        behind = (*champion.behind, champion.release) if champion else ()
        return _release(session, change, candidate, how="promote", reason=reason, verdict=verdict, champion=champion, behind=behind)


@verb("rollback", permission=Permission.RELEASE)
def rollback(session: Session, model: str, *, reason: str = "") -> Release:
    """Go back to the version that answered before the champion.

    Called again it goes back one further. ``reason`` is kept in the history, which keeps every step. Raises Conflict when nothing answered
    before. It is never refused for a comparison: one that runs ends with it, and the earlier version answers for everybody.
    """
    get_model(session, model)
    champion = get_champion(session, model)
    if champion is None or not champion.behind:
        now = f"'{champion.version}' is its first release" if champion else "it has no release"
        raise Conflict(f"Model '{model}' has no version to go back to: {now}.", hint=f"see: endcap history {model}")
    target = session.records.get(RELEASES, workspace=session.workspace, id=champion.behind[-1])
    assert target is not None, "a release is never deleted"
    version = get_version(session, target.version)
    verdict = session.records.get(VERDICTS, workspace=session.workspace, id=target.verdict)
    assert verdict is not None, "a verdict is never deleted"
    detail = {"from": champion.version, "to": version.id, "reason": reason[:500]}
    with session.change("rollback", thing=f"model/{model}", detail=detail) as change:
        running = find_comparison(session, model, reader=change.tx)
        if running is not None:
            end_comparison(session, change, running, how="rolled back", finding=reason)
        return _release(session, change, version, how="rollback", reason=reason, verdict=verdict, champion=champion, behind=champion.behind[:-1])


def release_challenger(session: Session, change: Change, comparison: Comparison, *, verdict: Verdict, reason: str) -> Release:
    """In the change that ends a comparison, make its challenger the champion by the verdict that the comparison gave.

    Raises Conflict when the champion is no longer the one it was compared with.
    """
    champion = change.tx.get(CHAMPIONS, workspace=session.workspace, id=f"{comparison.model}/{PROD}")
    if champion is None or champion.version != comparison.champion:
        now = champion.version if champion else "nothing"
        raise Conflict(
            f"'{comparison.id}' compared with {comparison.champion}, but {now} answers now.", hint=f"see: endcap history {comparison.model}"
        )
    version = get_version(session, comparison.challenger)
    behind = (*champion.behind, champion.release)
    return _release(session, change, version, how="comparison", reason=reason, verdict=verdict, champion=champion, behind=behind)


@verb("history", permission=Permission.READ)
def show_history(session: Session, model: str, *, at: str | None = None) -> list[Release]:
    """What answered for a model: every release, newest first, or the one that answered at an instant.

    ``at`` is the instant, an ISO time, read in the workspace's zone when it has no offset (None: every release). Raises NotFound when
    nothing answered then.
    """
    get_model(session, model)
    releases = session.records.find(RELEASES, workspace=session.workspace, where={"model": model}, newest_first=True)
    if at is None:
        return releases
    instant: datetime = parse_instant(at, zone=session.zone)
    standing = [release for release in releases if release.at <= instant]
    if not standing:
        first = f"its first release was at {releases[-1].at.isoformat()}" if releases else "it was never released"
        raise NotFound(f"Nothing answered for model '{model}' at {instant.isoformat()}: {first}.")
    return standing[:1]


def _describe_running(comparison: Comparison | None) -> str | None:
    if comparison is None:
        return None
    return f"the comparison '{comparison.id}' of {comparison.champion} with {comparison.challenger} runs; end it first (endcap stop-comparison)"


def _find_refusal(verdict: Verdict | None, *, champion: Champion | None) -> str | None:
    if verdict is None:
        return "it was never judged by its gate"
    if not verdict.passed:
        return verdict.sentence
    if champion is not None and verdict.against != champion.version:
        return f"it was judged against {verdict.against or 'no champion'}, but the champion is now {champion.version}"
    return None


def _release(
    session: Session,
    change: Change,
    version: Version,
    *,
    how: str,
    reason: str,
    verdict: Verdict,
    champion: Champion | None,
    behind: tuple[str, ...],
) -> Release:
    """Write the history row and move the champion, if it still stands where it was read."""
    now = session.now()
    release = Release(
        id=session.new_id("release"),
        model=version.model,
        environment=PROD,
        version=version.id,
        previous=champion.version if champion else None,
        at=now,
        actor=session.actor.name,
        how=how,
        reason=reason,
        verdict=verdict.id,
        verdict_sentence=verdict.sentence,
    )
    identity = f"{version.model}/{PROD}"
    found = change.tx.get_versioned(CHAMPIONS, workspace=session.workspace, id=identity)
    if (found[0] if found else None) != champion:
        raise Conflict(f"The champion of model '{version.model}' changed a moment ago.", hint=f"see: endcap history {version.model}")
    change.tx.append(RELEASES, workspace=session.workspace, record=release)
    change.tx.put(
        CHAMPIONS,
        workspace=session.workspace,
        record=Champion(identity, release.id, version.id, now, behind),
        expected_version=found[1] if found else 0,
    )
    return release
