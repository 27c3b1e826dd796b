"""Releases: the one door through which a version becomes the one that answers, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice, pairwise

import msgspec

from endcap.core.clock import parse_instant
from endcap.core.errors import Conflict, GateRefused, NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Detail, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.assignments import Lines, Moved, find_answer, keep_lines, read_lines
from endcap.loop.registry.comparisons import end_comparison, find_comparison
from endcap.loop.registry.members import choose_members, require_members
from endcap.loop.registry.records import CHAMPIONS, PROD, RELEASES, Champion, Comparison, Release, Standing, Version
from endcap.loop.registry.versions import get_model, get_version, latest_verdict

_SAMPLE = 5


def get_champion(session: Session, model: str, *, environment: str = PROD) -> Champion | None:
    """What answers for a model now, or None."""
    return session.records.get(CHAMPIONS, workspace=session.workspace, id=f"{model}/{environment}")


@verb("promote", permission=Permission.RELEASE)
def promote(session: Session, version: str, *, members: Sequence[str] | None = None, segment: str | None = None, reason: str = "") -> Release:
    """Make a version the champion of its model, or let it answer for some members only.

    It needs a passing verdict against the champion of this moment; everything that releases goes through here, schedules and reactions
    too. ``members`` are the names of those it shall answer for (None: all), ``segment`` names them by a static fact (``city_id=3``).
    ``reason`` is kept in the history. Raises GateRefused with what failed (the refusal is audited), also while a comparison of the model runs,
    which would no longer compare what it was started for; InvalidInput for members that the version does not know, Conflict when it answers
    for all of them already. One transaction, whatever the number of members.
    """
    candidate = get_version(session, version)
    chosen = choose_members(session, candidate, members=members, segment=segment)
    verdict = latest_verdict(session, candidate.id)
    thing = f"model/{candidate.model}"
    champion = get_champion(session, candidate.model)
    if champion is None and chosen is not None:
        raise Conflict(
            f"Nothing answers for model '{candidate.model}' yet, so nothing would answer for the members that are left out.",
            hint=f"first release a version for all members: endcap promote {candidate.id}",
        )
    standing = Standing(champion.n + 1 if champion else 1, session.new_id("release"), candidate.id)
    if champion is None:
        lines, moved = Lines((standing,)), Moved(True, {})
    else:
        lines, moved = read_lines(session, champion).promote(standing, chosen)
        if not moved.anybody:
            raise Conflict(_describe_standing(champion, candidate, chosen))
    refusal = _find_refusal(verdict, candidate, champion=champion) or _describe_running(find_comparison(session, candidate.model))
    if refusal is not None:
        session.record_refusal("promote", thing=thing, detail={"version": candidate.id, "why": refusal[:500]})
        hint = f"see every figure with: endcap show {candidate.id}"
        raise GateRefused(f"'{candidate.id}' cannot be released: {refusal}.", hint=hint, version=candidate.id)
    assert verdict is not None, "no refusal without a verdict"
    row = Release(
        id=standing.release,
        model=candidate.model,
        environment=PROD,
        version=candidate.id,
        previous=champion.version if champion else None,
        at=session.now(),
        actor=session.actor.name,
        how="promote",
        reason=reason,
        verdict=verdict.id,
        verdict_sentence=verdict.sentence,
        segment=segment,
        moved=moved.n_by_version,
    )
    detail: Detail = {"version": candidate.id, "verdict": verdict.id}
    row, detail = _name_moved(session, row, chosen, detail)
    with session.change("promote", thing=thing, detail=detail) as change:
        if running := _describe_running(find_comparison(session, candidate.model, reader=change.tx)):
            raise Conflict(f"'{candidate.id}' cannot be released: {running}.", hint=f"see it with: endcap comparison {candidate.model}")
        return _release(session, change, row, champion=champion, lines=lines)


@verb("rollback", permission=Permission.RELEASE)
def rollback(session: Session, model: str, *, members: Sequence[str] | None = None, segment: str | None = None, reason: str = "") -> Release:
    """Go back to the version that answered before: take the newest release back, or let some members go back to what answered for them.

    Called again it goes back one further. ``members`` are the names of those who go back (None: the newest release that still stands is
    taken back for everybody it moved), ``segment`` names them by a static fact (``city_id=3``). ``reason`` is kept in the history, which keeps
    every step. Raises Conflict when nothing answered before, for one of the members too, and then moves nobody. It is never refused for a
    comparison: one that runs ends with it. One transaction, whatever the number of members.
    """
    get_model(session, model)
    champion = get_champion(session, model)
    if champion is None:
        raise Conflict(f"Model '{model}' has no version to go back to: it has no release.", hint=f"see: endcap history {model}")
    before = read_lines(session, champion)
    chosen = choose_members(session, get_version(session, champion.version), members=members, segment=segment, also=before.members)
    lines, moved = before.roll_back(chosen)
    first = [member for member in chosen or () if len(before.line_of(member)) == 1]
    if first or not moved.anybody:
        whose = "their" if first else "its"
        now = f"'{before.line_of(first[0])[-1].version if first else champion.version}' is {whose} first release"
        who = f"{len(first):,} of {len(chosen or ()):,} members of model '{model}' have" if first else f"Model '{model}' has"
        some = f" ({', '.join(first[:5])}{' ...' if len(first) > 5 else ''})" if first else ""
        raise Conflict(f"{who} no version to go back to: {now}{some}.", hint=f"see: endcap history {model}")
    target = _find_target(lines, before, moved)
    origin = session.records.get(RELEASES, workspace=session.workspace, id=target.release)
    assert origin is not None, "a release is never deleted"
    row = Release(
        id=session.new_id("release"),
        model=model,
        environment=PROD,
        version=target.version,
        previous=champion.version,
        at=session.now(),
        actor=session.actor.name,
        how="rollback",
        reason=reason,
        verdict=origin.verdict,
        verdict_sentence=origin.verdict_sentence,
        segment=segment,
        moved=moved.n_by_version,
    )
    detail: Detail = {"from": champion.version, "to": target.version, "reason": reason[:500]}
    row, detail = _name_moved(session, row, chosen, detail)
    with session.change("rollback", thing=f"model/{model}", detail=detail) as change:
        running = find_comparison(session, model, reader=change.tx)
        if running is not None:
            end_comparison(session, change, running, how="rolled back", finding=reason)
        return _release(session, change, row, champion=champion, lines=lines)


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
    standing = Standing(champion.n + 1, session.new_id("release"), comparison.challenger)
    lines, moved = read_lines(session, champion).promote(standing, None)
    row = Release(
        id=standing.release,
        model=comparison.model,
        environment=PROD,
        version=comparison.challenger,
        previous=champion.version,
        at=session.now(),
        actor=session.actor.name,
        how="comparison",
        reason=reason,
        verdict=verdict.id,
        verdict_sentence=verdict.sentence,
        moved=moved.n_by_version,
    )
    return _release(session, change, row, champion=champion, lines=lines)


@verb("history", permission=Permission.READ)
def show_history(session: Session, model: str, *, at: str | None = None, member: str | None = None) -> list[Release]:
    """What answered for a model: every release, newest first, or the one that stood at an instant.

    ``at`` is the instant, an ISO time, read in the workspace's zone when it has no offset (None: every release). ``member`` is one of the
    model's members: then only the rows that changed what answers for it are given, with the version that it got and the one it had before.
    Raises NotFound when nothing answered then. Cost grows with the releases; with a member also with the members that were moved apart.
    """
    get_model(session, model)
    releases = session.records.find(RELEASES, workspace=session.workspace, where={"model": model}, newest_first=True)
    if at is not None:
        instant: datetime = parse_instant(at, zone=session.zone)
        standing = [release for release in releases if release.at <= instant]
        if not standing:
            first = f"its first release was at {releases[-1].at.isoformat()}" if releases else "it was never released"
            raise NotFound(f"Nothing answered for model '{model}' at {instant.isoformat()}: {first}.")
        releases = standing
    if member is not None:
        champion = get_champion(session, model)
        if champion is not None:
            also = read_lines(session, champion).members
            require_members(session, get_version(session, champion.version), [member], also=also)
        found = _follow(session, releases, member)
        return list(islice(found, 1)) if at is not None else list(found)
    return releases if at is None else releases[:1]


def _follow(session: Session, releases: Sequence[Release], member: str) -> Iterator[Release]:
    """The rows, newest first, that changed what answers for a member, in its own terms."""
    read: dict[str, Lines] = {}
    answers = (find_answer(session, release, member, read=read) for release in releases)
    for release, (answer, before) in zip(releases, pairwise(chain(answers, [None])), strict=True):
        if answer is not None and answer != before:
            yield msgspec.structs.replace(release, version=answer, previous=before)


def _find_target(lines: Lines, before: Lines, moved: Moved) -> Standing:
    """The promotion that a rollback returns to: that of those who are not named, otherwise that of most members."""
    if moved.own:
        return lines.own[-1]
    most = max(moved.n_by_version, key=lambda version: moved.n_by_version[version])
    return next(s for line in (before.own, *before.lines) for s in reversed(line) if s.version == most)


def _describe_standing(champion: Champion, candidate: Version, chosen: tuple[str, ...] | None) -> str:
    if chosen is None:
        return f"'{candidate.id}' is the champion already, since {champion.since.isoformat()}."
    return f"'{candidate.id}' answers for all of these {len(chosen):,} members already."


def _describe_running(comparison: Comparison | None) -> str | None:
    if comparison is None:
        return None
    return f"the comparison '{comparison.id}' of {comparison.champion} with {comparison.challenger} runs; end it first (endcap stop-comparison)"


def _find_refusal(verdict: Verdict | None, candidate: Version, *, champion: Champion | None) -> str | None:
    if verdict is None:
        return "it was never judged by its gate"
    if not verdict.passed:
        return verdict.sentence
    # The champion itself, given back to members that another version answers for, has no older champion to beat.
    if champion is not None and verdict.against != champion.version != candidate.id:
        return f"it was judged against {verdict.against or 'no champion'}, but the champion is now {champion.version}"
    return None


def _name_moved(session: Session, row: Release, chosen: tuple[str, ...] | None, detail: Detail) -> tuple[Release, Detail]:
    """The row and the audit's detail with who was moved: how many, a few by name, all of them in a blob."""
    if chosen is None:
        return row, detail
    row = msgspec.structs.replace(row, n_members=len(chosen), members=session.blobs.put(msgspec.json.encode(chosen)), sample=chosen[:_SAMPLE])
    return row, {**detail, "n_members": len(chosen), "members": row.members, "sample": ", ".join(row.sample)[:200], "segment": row.segment}


def _release(session: Session, change: Change, row: Release, *, champion: Champion | None, lines: Lines) -> Release:
    """Write the history row and move the champion, if it still stands where it was read."""
    identity = f"{row.model}/{PROD}"
    assignment = keep_lines(session, lines)
    row = msgspec.structs.replace(row, n=champion.n + 1 if champion else 1, champion=lines.own[-1].version, assignment=assignment)
    changed = champion is None or champion.version != row.champion or len(champion.standing) != len(lines.own)
    since = row.at if champion is None or changed else champion.since
    found = change.tx.get_versioned(CHAMPIONS, workspace=session.workspace, id=identity)
    if (found[0] if found else None) != champion:
        raise Conflict(f"The champion of model '{row.model}' changed a moment ago.", hint=f"see: endcap history {row.model}")
    change.tx.append(RELEASES, workspace=session.workspace, record=row)
    change.tx.put(
        CHAMPIONS,
        workspace=session.workspace,
        record=Champion(identity, row.id, row.champion, since, lines.own, row.n, assignment),
        expected_version=found[1] if found else 0,
    )
    return row
