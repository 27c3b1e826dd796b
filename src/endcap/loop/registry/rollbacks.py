"""Rollbacks: the way back, once, to the last version that was good, after it has proved that it still answers as it did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack

import msgspec

from endcap.core.clock import describe_instant
from endcap.core.errors import Conflict, EndcapError
from endcap.core.permissions import Permission
from endcap.governance.sessions import Detail, Session
from endcap.loop.evaluation.records import VERDICTS, Verdict
from endcap.loop.registry.admissions import read_time
from endcap.loop.registry.assignments import Lines, Moved, read_lines
from endcap.loop.registry.comparisons import end_comparison, find_comparison
from endcap.loop.registry.copies import copy_version, open_home
from endcap.loop.registry.door import move_champion
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.members import choose_members
from endcap.loop.registry.records import PROD, RELEASES, Champion, Release, Standing, Version
from endcap.loop.registry.releases import describe_place, end_seat, get_champion, is_move, name_moved
from endcap.loop.registry.standings import require_unpinned
from endcap.loop.registry.versions import get_model, get_version

Prove = Callable[[Session, Version], str]
"""Shows that a version answers as it did when it was made, and says in a sentence what was compared; raises an EndcapError if it does not."""


def roll_back(
    session: Session,
    model: str,
    *,
    prove: Prove,
    environment: str = PROD,
    members: Sequence[str] | None = None,
    segment: str | None = None,
    again: bool = False,
    reason: str = "",
) -> Release:
    """Go back to what answered before: the newest release that still stands is taken back, or some members go back to what they had.

    ``prove`` is asked of every version that would answer again, before anything moves. A version that stood on an override which has expired
    is passed over: it is not the last good one. ``again`` allows a second rollback in a row, which goes back one further. Raises Conflict
    where nothing answered before (for one of the members too), for a second one in a row, and while a person has pinned what answers;
    whatever ``prove`` raises, audited as a refusal. It is never refused for a comparison: one that runs ends with it. One transaction, whatever
    the number of members.
    """
    session.require(Permission.RELEASE, verb="rollback")
    get_model(session, model)
    place = get_environment(session, environment)
    champion = get_champion(session, model, environment=place.name)
    if champion is None:
        where = "" if place.name == PROD else f" in '{place.name}'"
        raise Conflict(f"Model '{model}' has no version to go back to: it has no release{where}.", hint=f"see: endcap history {model}")
    before = read_lines(session, champion)
    chosen = choose_members(session, get_version(session, champion.version), members=members, segment=segment, also=before.members)
    origins = _read_origins(session, before)
    lines, moved = before.roll_back(chosen, spent=_find_spent(session, origins.values()))
    _require_way_back(model, champion, before, chosen, moved)
    try:
        if not again:
            _require_first(session, champion, chosen)
        require_unpinned(session, model, environment=place.name)
    except Conflict as error:
        session.record_refusal("rollback", thing=f"model/{model}", detail={"from": champion.version, "why": error.what[:500]})
        raise
    target = _find_target(lines, before, moved)
    proof = _prove_all(session, model, sorted({target.version, *moved.n_by_version}), prove=prove)
    row = _draft(session, champion, origins[target.release], target, reason=reason)
    row = msgspec.structs.replace(row, segment=segment, moved=moved.n_by_version, proof=proof)
    detail: Detail = {"from": champion.version, "to": target.version, "reason": reason[:500], **({"again": True} if again else {})}
    row, detail = name_moved(session, row, chosen, {**detail, **describe_place(row)})
    with ExitStack() as open_things:
        there = open_things.enter_context(open_home(session, place))
        if there is not None:
            for version in {target.version, *moved.n_by_version}:
                copy_version(session, there, get_version(session, version), verdict=None)
        change = open_things.enter_context(session.change("rollback", thing=f"model/{model}", detail=detail))
        running = find_comparison(session, model, reader=change.tx)
        if running is not None and running.environment == place.name:
            end_comparison(session, change, running, how="rolled back", finding=reason)
        row = move_champion(session, change, row, champion=champion, lines=lines, there=there)
        end_seat(session, change, row, there=there)
        return row


def _draft(session: Session, champion: Champion, origin: Release, target: Standing, *, reason: str) -> Release:
    return Release(
        id=session.new_id("release"),
        model=origin.model,
        environment=origin.environment,
        version=target.version,
        previous=champion.version,
        at=session.now(),
        actor=session.actor.name,
        how="rollback",
        reason=reason,
        verdict=origin.verdict,
        verdict_sentence=origin.verdict_sentence,
        overridden=origin.overridden,
    )


def _read_origins(session: Session, lines: Lines) -> dict[str, Release]:
    """The history rows of every promotion that stands for anybody, by id. Cost: a record for each."""
    found = {}
    for standing in {standing for line in (lines.own, *lines.lines) for standing in line}:
        row = session.records.get(RELEASES, workspace=session.workspace, id=standing.release)
        assert row is not None, "a release is never deleted"
        found[row.id] = row
    return found


def _find_spent(session: Session, origins: Collection[Release]) -> frozenset[int]:
    """The numbers of the promotions that stood on an override which has expired."""
    spent, now = set(), read_time(session)
    for row in origins:
        if row.overridden:
            verdict: Verdict | None = session.records.get(VERDICTS, workspace=session.workspace, id=row.verdict)
            if verdict is None or verdict.override is None or verdict.override.expires_at <= now:
                spent.add(row.id)
    return frozenset(row.n for row in origins if row.id in spent)


def _require_way_back(model: str, champion: Champion, before: Lines, chosen: tuple[str, ...] | None, moved: Moved) -> None:
    """Raise Conflict where nobody, or not all of the members named, have a good version to go back to."""
    first = [member for member in chosen or () if member in moved.stayed]
    if not first and moved.anybody:
        return
    whose = "their" if first else "its"
    line = before.line_of(first[0]) if first else before.own
    what = "first release" if len(line) == 1 else "last good release, for what answered before stood on an override that has expired"
    now = f"'{line[-1].version if first else champion.version}' is {whose} {what}"
    who = f"{len(first):,} of {len(chosen or ()):,} members of model '{model}' have" if first else f"Model '{model}' has"
    some = f" ({', '.join(first[:5])}{' ...' if len(first) > 5 else ''})" if first else ""
    raise Conflict(f"{who} no version to go back to: {now}{some}.", hint=f"see: endcap history {model}")


def _require_first(session: Session, champion: Champion, chosen: tuple[str, ...] | None) -> None:
    """Raise Conflict where the newest moves of the champion are rollbacks already, of anybody who is asked to go back."""
    newest: Release | None = session.records.get(RELEASES, workspace=session.workspace, id=champion.release)
    if newest is None or newest.how != "rollback":
        return
    rows = session.records.find(RELEASES, workspace=session.workspace, where={"model": newest.model}, newest_first=True)
    for row in rows:
        if row.environment != newest.environment or not is_move(row):
            continue
        if row.how != "rollback":
            return
        gone = None if row.n_members is None else set(msgspec.json.decode(session.blobs.get(row.members), type=tuple[str, ...]))
        if gone is None or (chosen is not None and gone.intersection(chosen)):
            who = "It" if gone is None else f"{len(gone.intersection(chosen or ())):,} of these members"
            where = "" if row.environment == PROD else f" --environment {row.environment}"
            raise Conflict(
                f"{who} went back already: {row.actor} rolled model '{row.model}' back to {row.version} at {describe_instant(row.at)}, and"
                " nothing was released since.",
                hint=f"if that one is bad too, go back one further with: endcap rollback {row.model}{where} --again",
            )


def _find_target(lines: Lines, before: Lines, moved: Moved) -> Standing:
    """The promotion that a rollback returns to: that of those who are not named, otherwise that of most members."""
    if moved.own:
        return lines.own[-1]
    most = max(moved.n_by_version, key=lambda version: moved.n_by_version[version])
    return next(s for line in (before.own, *before.lines) for s in reversed(line) if s.version == most)


def _prove_all(session: Session, model: str, versions: Sequence[str], *, prove: Prove) -> str:
    """What was compared for each version that would answer again; one that does not prove itself is an audited refusal."""
    said = []
    for version in versions:
        try:
            sentence = prove(session, get_version(session, version))
        except EndcapError as error:
            session.record_refusal("rollback", thing=f"model/{model}", detail={"version": version, "why": error.what[:500]})
            raise type(error)(
                f"'{version}' does not prove that it answers as it did, so nothing was moved: {error.what}",
                hint=error.hint or f"see what it is made of with: endcap show {version}",
                version=version,
            ) from error
        said.append(f"{version}: {sentence}" if len(versions) > 1 else sentence)
    return "; ".join(said)
