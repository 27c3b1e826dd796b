"""Releases: the one door through which a version becomes the one that answers, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice, pairwise

import msgspec

from endcap.core.clock import describe_instant, parse_instant
from endcap.core.errors import Conflict, GateRefused, IntegrityBroken, InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.sessions import Change, Detail, Session
from endcap.governance.verbs import verb
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.admissions import Admission, Refusal, find_admission
from endcap.loop.registry.assignments import Lines, Moved, find_answer, read_lines
from endcap.loop.registry.comparisons import find_comparison
from endcap.loop.registry.copies import copy_version, open_home
from endcap.loop.registry.door import move_champion, seat, unseat
from endcap.loop.registry.environments import EVERY, get_environment
from endcap.loop.registry.members import choose_members, require_members
from endcap.loop.registry.records import (
    CHAMPIONS,
    PROD,
    RELEASES,
    ROLES,
    Champion,
    Comparison,
    Environment,
    Release,
    Seat,
    Standing,
    Version,
)
from endcap.loop.registry.standings import describe_pin, find_pin, get_seats, hint_at_pin
from endcap.loop.registry.versions import get_model, get_version, require_whole
from endcap.storage.ports import RecordReader

FIRST_SHARE = 0.1
"""Of the requests, what a challenger gets that asked for no share."""
_SAMPLE = 5


def get_champion(session: Session, model: str, *, environment: str = PROD, reader: RecordReader | None = None) -> Champion | None:
    """What answers for a model in an environment now, or None. ``reader`` is an open transaction to read in. Cost: one record."""
    return (reader or session.records).get(CHAMPIONS, workspace=session.workspace, id=f"{model}/{environment}")


@verb("promote", permission=Permission.RELEASE)
def promote(
    session: Session,
    version: str,
    *,
    environment: str = PROD,
    role: str = "champion",
    share: float | None = None,
    members: Sequence[str] | None = None,
    segment: str | None = None,
    reason: str = "",
) -> Release:
    """Make a version the champion of its model, or let it answer for some members only, or beside the champion.

    It needs a passing verdict of the ``environment`` against the champion there of this moment, with the approvals that are asked, or an
    override; everything that releases goes through here, schedules and reactions too. ``role`` is champion, challenger (it answers for a
    ``share`` of the requests; None: what it has, else 0.1) or shadow (it answers beside, unheard); neither of these need have beaten the
    champion, and the shares of all challengers sum to less than 1. ``members`` are the names of those a champion shall answer for (None: all),
    ``segment`` names them by a static fact (``city_id=3``). ``reason`` is kept in the history. An environment with a home of its own gets the
    version copied there, every file checked. Raises GateRefused with what failed (the refusal is audited), also while a comparison of the
    model runs, which would no longer compare what it was started for; IntegrityBroken where a file of the version is not what it was;
    InvalidInput for members that the version does not know, Conflict when it answers already or a person has pinned what answers. One
    transaction, whatever the number of members; its files are read once against their SHA-256.
    """
    candidate = get_version(session, version)
    place = get_environment(session, environment)
    if role not in ROLES:
        raise InvalidInput(f"{role!r} is no role of a release. Roles: {list(ROLES)}.", hint=suggest(str(role), ROLES))
    if role == "champion":
        if share is not None:
            raise InvalidInput("A champion has no share: it answers for all that nobody else does.", hint="--role challenger has one")
        return _promote_champion(session, candidate, place, members=members, segment=segment, reason=reason)
    if members is not None or segment is not None:
        raise InvalidInput(f"A {role} answers for no members of its own.", hint=f"endcap compare {candidate.model} --challenger {candidate.id}")
    return _promote_beside(session, candidate, place, role=role, share=share, reason=reason)


def _promote_champion(
    session: Session, candidate: Version, place: Environment, *, members: Sequence[str] | None, segment: str | None, reason: str
) -> Release:
    chosen = choose_members(session, candidate, members=members, segment=segment)
    champion = get_champion(session, candidate.model, environment=place.name)
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
    admission = _admit(session, candidate, place, role="champion", champion=champion)
    row = _draft(session, candidate, place, admission, id=standing.release, how="promote", reason=reason)
    row = msgspec.structs.replace(row, previous=champion.version if champion else None, segment=segment, moved=moved.n_by_version)
    row, detail = name_moved(session, row, chosen, {"version": candidate.id, "verdict": row.verdict, **describe_place(row)})
    with open_home(session, place) as there:
        if there is not None:
            copy_version(session, there, candidate, verdict=admission.verdict)
        with session.change("promote", thing=f"model/{candidate.model}", detail=detail) as change:
            if running := _describe_running(_find_running(session, candidate, place, reader=change.tx)):
                raise Conflict(f"'{candidate.id}' cannot be released: {running}.", hint=f"see it with: endcap comparison {candidate.model}")
            row = move_champion(session, change, row, champion=champion, lines=lines, there=there)
            end_seat(session, change, row, there=there)
            return row


def _promote_beside(session: Session, candidate: Version, place: Environment, *, role: str, share: float | None, reason: str) -> Release:
    champion = get_champion(session, candidate.model, environment=place.name)
    if champion is None:
        raise Conflict(
            f"Model '{candidate.model}' has no champion in '{place.name}' to stand beside.", hint=f"first release one: endcap promote {candidate.id}"
        )
    if champion.version == candidate.id:
        hint = f"see others with: endcap versions {candidate.model}"
        raise Conflict(f"'{candidate.id}' is the champion itself, since {describe_instant(champion.since)}.", hint=hint)
    seats = get_seats(session, candidate.model, environment=place.name)
    asked = _choose_share(seats, candidate, role=role, share=share)
    if any((seat.version, seat.role, seat.share) == (candidate.id, role, asked) for seat in seats):
        raise Conflict(f"'{candidate.id}' is a {role} in '{place.name}' already.", hint=f"see: endcap show {candidate.model}")
    admission = _admit(session, candidate, place, role=role, champion=champion)
    row = _draft(session, candidate, place, admission, id=session.new_id("release"), how="promote", reason=reason)
    before = next((seat.version for seat in seats if seat.version == candidate.id), None)
    row = msgspec.structs.replace(row, role=role, share=asked, n=champion.n, champion=champion.version, previous=before)
    detail: Detail = {"version": candidate.id, "verdict": row.verdict, **describe_place(row)}
    with open_home(session, place) as there:
        if there is not None:
            copy_version(session, there, candidate, verdict=admission.verdict)
        with session.change("promote", thing=f"model/{candidate.model}", detail=detail) as change:
            _choose_share(get_seats(session, row.model, environment=place.name, reader=change.tx), candidate, role=role, share=asked)
            return seat(session, change, row, there=there)


def _choose_share(seats: Sequence[Seat], candidate: Version, *, role: str, share: float | None) -> float | None:
    """The share that a version gets in a role, checked against those that the other challengers have."""
    if role == "shadow":
        if share is not None:
            raise InvalidInput("A shadow has no share: it answers beside every request, unheard.", hint="--role challenger has one")
        return None
    had = next((seat.share for seat in seats if seat.version == candidate.id and seat.share is not None), FIRST_SHARE)
    asked = had if share is None else share
    others = sum(seat.share or 0.0 for seat in seats if seat.version != candidate.id)
    if not 0 < asked < 1:
        raise InvalidInput(f"A share of {asked} was asked for; it must be above 0 and below 1.", hint="write 0.1 for one request in ten")
    if others + asked >= 1:
        raise InvalidInput(
            f"With {others:.4g} for other challengers, a share of {asked:.4g} leaves nothing to the champion.",
            hint=f"give less than {1 - others:.4g}, or take one away with: endcap withdraw VERSION",
        )
    return asked


def _admit(session: Session, candidate: Version, place: Environment, *, role: str, champion: Champion | None) -> Admission:
    """On what a version may answer. Raises GateRefused, audited, where on nothing."""
    thing, why = f"model/{candidate.model}", ""
    found = find_admission(session, candidate, environment=place.name, role=role, champion=champion)
    if isinstance(found, Refusal):
        why, hint = found.why, found.hint
    elif role == "champion" and (pinned := find_pin(session, candidate.model, environment=place.name)):
        why, hint = describe_pin(pinned), hint_at_pin(pinned)
    elif role != "shadow" and (running := _describe_running(_find_running(session, candidate, place))):
        why, hint = running, f"see it with: endcap comparison {candidate.model}"
    if why:
        detail: Detail = {"version": candidate.id, "why": why[:500], **({"environment": place.name} if place.name != PROD else {})}
        session.record_refusal("promote", thing=thing, detail=detail)
        raise GateRefused(f"'{candidate.id}' cannot be released: {why.rstrip('.')}.", hint=hint, version=candidate.id)
    assert isinstance(found, Admission), "no refusal, so an admission"
    require_readable(session, candidate, verb="promote")
    return found


def require_readable(session: Session, candidate: Version, *, verb: str) -> None:
    """Raise IntegrityBroken, audited, where a file of a version is not what it was: nothing is released that could not answer."""
    try:
        require_whole(session, candidate)
    except IntegrityBroken as error:
        session.record_refusal(verb, thing=f"model/{candidate.model}", detail={"version": candidate.id, "why": error.what[:500]})
        raise IntegrityBroken(f"'{candidate.id}' cannot be released: {error.what}", hint=error.hint, version=candidate.id) from error


def _find_running(session: Session, candidate: Version, place: Environment, *, reader: RecordReader | None = None) -> Comparison | None:
    running = find_comparison(session, candidate.model, reader=reader)
    return running if running is not None and running.environment == place.name else None


def _draft(session: Session, candidate: Version, place: Environment, admission: Admission, *, id: str, how: str, reason: str) -> Release:  # noqa: A002 - the word of the records
    return Release(
        id=id,
        model=candidate.model,
        environment=place.name,
        version=candidate.id,
        previous=None,
        at=session.now(),
        actor=session.actor.name,
        how=how,
        reason=reason,
        verdict=admission.verdict.id,
        verdict_sentence=admission.verdict.sentence,
        overridden=admission.overridden,
    )


def end_seat(session: Session, change: Change, row: Release, *, there: Session | None) -> None:
    """Take the seat of a challenger or shadow that a row of the history just made the champion for all: nobody stands beside itself."""
    if row.n_members is not None:
        return
    for left in get_seats(session, row.model, environment=row.environment, reader=change.tx):
        if left.version == row.champion:
            reason = "it is the champion now"
            ended = msgspec.structs.replace(
                row, id=session.new_id("release"), version=left.version, how="withdraw", reason=reason, moved={}, proof=""
            )
            ended = msgspec.structs.replace(ended, role=left.role, share=left.share)
            unseat(session, change, ended, there=there)


def release_challenger(session: Session, change: Change, comparison: Comparison, *, verdict: Verdict, reason: str) -> Release:
    """In the change that ends a comparison, make its challenger the champion by the verdict that the comparison gave.

    Raises Conflict when the champion is no longer the one it was compared with, or a person has pinned it. Whoever opens the change has asked
    ``require_readable`` before.
    """
    champion = get_champion(session, comparison.model, environment=comparison.environment, reader=change.tx)
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
        environment=comparison.environment,
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
    with open_home(session, get_environment(session, comparison.environment, reader=change.tx)) as there:
        if there is not None:
            copy_version(session, there, get_version(session, row.version), verdict=verdict)
        row = move_champion(session, change, row, champion=champion, lines=lines, there=there)
        end_seat(session, change, row, there=there)
        return row


@verb("history", permission=Permission.READ)
def show_history(session: Session, model: str, *, environment: str = PROD, at: str | None = None, member: str | None = None) -> list[Release]:
    """Who put what into production, when, why and on which verdict: every release, newest first, or what stood at an instant.

    ``environment`` is where (``all``: everywhere). ``at`` is the instant, an ISO time, read in the workspace's zone when it has no offset
    (None: every row): then the row that made the champion of that instant is given, and after it those of the challengers and shadows beside
    it and of the pin that held it. ``member`` is one of the model's members: then only the rows that changed what answers for it are given,
    with the version that it got and the one it had before. A release on an override says so. Raises NotFound when nothing answered then.
    Cost grows with the releases; with a member also with the members that were moved apart.
    """
    get_model(session, model)
    if environment != EVERY:
        get_environment(session, environment)
    rows = session.records.find(RELEASES, workspace=session.workspace, where={"model": model}, newest_first=True)
    releases = [row for row in rows if environment in (EVERY, row.environment)]
    if at is not None:
        instant: datetime = parse_instant(at, zone=session.zone)
        standing = [release for release in releases if release.at <= instant]
        if not any(is_move(row) for row in standing):
            raise NotFound(_describe_nothing(model, environment, instant, releases, rows))
        releases = standing
    if member is not None:
        champion = get_champion(session, model, environment=PROD if environment == EVERY else environment)
        if champion is not None:
            also = read_lines(session, champion).members
            require_members(session, get_version(session, champion.version), [member], also=also)
        moves = [row for row in releases if is_move(row) and row.environment == (PROD if environment == EVERY else environment)]
        found = _follow(session, moves, member)
        return list(islice(found, 1)) if at is not None else list(found)
    return releases if at is None else list(_find_standing(releases))


def is_move(row: Release) -> bool:
    """Whether a row of history moved a champion, and did not only seat, unseat or pin."""
    return row.role == "champion" and row.how not in ("pin", "unpin")


def _find_standing(releases: Sequence[Release]) -> Iterator[Release]:
    """Of the rows up to an instant, newest first, those that stood then: of each environment its champion, who was beside it, and its pin."""
    for environment in dict.fromkeys(row.environment for row in releases):
        rows = [row for row in releases if row.environment == environment]
        yield from islice((row for row in rows if is_move(row)), 1)
        newest: dict[str, Release] = {}
        for row in rows:
            if not is_move(row):
                newest.setdefault("pin" if row.role == "champion" else row.version, row)
        yield from (row for row in newest.values() if row.how in ("promote", "pin"))


def _describe_nothing(model: str, environment: str, instant: datetime, releases: Sequence[Release], rows: Sequence[Release]) -> str:
    first = f"its first release was at {describe_instant(releases[-1].at)}" if releases else "it was never released"
    elsewhere = sorted({row.environment for row in rows if row.at <= instant} - {environment})
    also = f"; something answered in {', '.join(elsewhere)}" if elsewhere else ""
    where = "" if environment in (PROD, EVERY) else f" in '{environment}'"
    return f"Nothing answered for model '{model}'{where} at {describe_instant(instant)}: {first}{also}."


def _follow(session: Session, releases: Sequence[Release], member: str) -> Iterator[Release]:
    """The rows, newest first, that changed what answers for a member, in its own terms."""
    read: dict[str, Lines] = {}
    answers = (find_answer(session, release, member, read=read) for release in releases)
    for release, (answer, before) in zip(releases, pairwise(chain(answers, [None])), strict=True):
        if answer is not None and answer != before:
            yield msgspec.structs.replace(release, version=answer, previous=before)


def _describe_standing(champion: Champion, candidate: Version, chosen: tuple[str, ...] | None) -> str:
    if chosen is None:
        return f"'{candidate.id}' is the champion already, since {describe_instant(champion.since)}."
    return f"'{candidate.id}' answers for all of these {len(chosen):,} members already."


def _describe_running(comparison: Comparison | None) -> str | None:
    if comparison is None:
        return None
    return f"the comparison '{comparison.id}' of {comparison.champion} with {comparison.challenger} runs; end it first (endcap stop-comparison)"


def name_moved(session: Session, row: Release, chosen: tuple[str, ...] | None, detail: Detail) -> tuple[Release, Detail]:
    """The row and the audit's detail with who was moved: how many, a few by name, all of them in a blob."""
    if chosen is None:
        return row, detail
    row = msgspec.structs.replace(row, n_members=len(chosen), members=session.blobs.put(msgspec.json.encode(chosen)), sample=chosen[:_SAMPLE])
    return row, {**detail, "n_members": len(chosen), "members": row.members, "sample": ", ".join(row.sample)[:200], "segment": row.segment}


def describe_place(row: Release) -> Detail:
    """What the audit says of where and how a version answers, where that is not as the champion of ``prod``."""
    told: dict[str, str | float | None] = {}
    if row.environment != PROD:
        told["environment"] = row.environment
    if row.role != "champion":
        told |= {"role": row.role, "share": row.share}
    if row.overridden:
        told["overridden"] = True
    return told
