"""The door: the one module that writes who answers.

Whatever moves a champion, seats a challenger or a shadow, or adds a row to the history does it here, inside its own open change, and here the
admission is asked once more in that very transaction: a path that forgot to ask lets nobody through. A test reads the source for other writers.
"""

from __future__ import annotations

import msgspec

from endcap.core.errors import Conflict, GateRefused
from endcap.governance.notices import notify
from endcap.governance.sessions import Change, Session
from endcap.loop.evaluation.records import VERDICTS
from endcap.loop.registry.admissions import Refusal, find_admission
from endcap.loop.registry.assignments import Lines, keep_lines
from endcap.loop.registry.environments import get_environment
from endcap.loop.registry.records import (
    CHAMPIONS,
    ENVIRONMENT_RECORDS,
    ENVIRONMENTS,
    RELEASES,
    SEATS,
    VERSIONS,
    Champion,
    Release,
    Seat,
    Seats,
)
from endcap.loop.registry.standings import require_unpinned


def move_champion(
    session: Session, change: Change, row: Release, *, champion: Champion | None, lines: Lines, there: Session | None = None
) -> Release:
    """Write the history row and move the champion, if it still stands where it was read.

    ``there`` is a session in the home of the environment, where that is another one: the same is written there first. Raises GateRefused for a
    version that is not admitted, Conflict where somebody else moved the champion or a person has pinned it.
    """
    identity = f"{row.model}/{row.environment}"
    require_unpinned(session, row.model, environment=row.environment, reader=change.tx)
    found = change.tx.get_versioned(CHAMPIONS, workspace=session.workspace, id=identity)
    if (found[0] if found else None) != champion:
        raise Conflict(f"The champion of model '{row.model}' changed a moment ago.", hint=f"see: endcap history {row.model}")
    _require_admitted(session, change, row, champion=champion)
    assignment = keep_lines(session, lines)
    row = msgspec.structs.replace(row, n=champion.n + 1 if champion else 1, champion=lines.own[-1].version, assignment=assignment)
    row = _append(session, change, row)
    changed = champion is None or champion.version != row.champion or len(champion.standing) != len(lines.own)
    since = row.at if champion is None or changed else champion.since
    moved = Champion(identity, row.id, row.champion, since, lines.own, row.n, assignment)
    change.tx.put(CHAMPIONS, workspace=session.workspace, record=moved, expected_version=found[1] if found else 0)
    _tell(session, change, row)
    if there is not None:
        _write_there(session, change, there, row, champion=moved, before=champion)
    return row


def seat(session: Session, change: Change, row: Release, *, there: Session | None = None) -> Release:
    """Write the history row and let a challenger or a shadow answer beside the champion, in the place of what it was there before."""
    champion = change.tx.get(CHAMPIONS, workspace=session.workspace, id=f"{row.model}/{row.environment}")
    _require_admitted(session, change, row, champion=champion)
    row = _append(session, change, row)
    taken = Seat(row.version, row.role, row.share, row.id, row.at)
    return _put_seats(session, change, row, add=(taken,), there=there)


def unseat(session: Session, change: Change, row: Release, *, there: Session | None = None) -> Release:
    """Write the history row and take a challenger or a shadow away; only its leaving is asked for, so nothing is asked of it."""
    return _put_seats(session, change, _append(session, change, row), add=(), there=there)


def note(session: Session, change: Change, row: Release) -> Release:
    """Write a history row that moves nobody: a pin that was set or taken back."""
    return _append(session, change, row)


def _tell(session: Session, change: Change, row: Release) -> None:
    """Tell those who want to know of releases."""
    kind = "rolled-back" if row.how == "rollback" else "released"
    some = "" if row.n_members is None else f" for {row.n_members:,} members"
    before = f" in the place of {row.previous}" if row.previous else ""
    word = f"; {row.verdict_sentence}" if row.overridden else ""
    sentence = f"{row.version} answers in {row.environment}{some}{before}, {kind.replace('-', ' ')} by {row.actor}{word}"
    notify(session, change, kind=kind, thing=f"model/{row.model}", sentence=sentence)


def _append(session: Session, change: Change, row: Release) -> Release:
    """Append a row of history, never before the newest one: where the clock jumped back, the row takes the newest one's time and says so."""
    newest = change.tx.find(RELEASES, workspace=session.workspace, where={"model": row.model}, newest_first=True, limit=1)
    if newest and newest[0].at > row.at:
        change.detail["clock_behind_s"] = round((newest[0].at - row.at).total_seconds(), 6)
        row = msgspec.structs.replace(row, at=newest[0].at)
    change.tx.append(RELEASES, workspace=session.workspace, record=row)
    return row


def _put_seats(session: Session, change: Change, row: Release, *, add: tuple[Seat, ...], there: Session | None) -> Release:
    identity = f"{row.model}/{row.environment}"
    found = change.tx.get_versioned(SEATS, workspace=session.workspace, id=identity)
    others = tuple(taken for taken in (found[0].seats if found else ()) if taken.version != row.version)
    seats = Seats(identity, row.model, row.environment, (*others, *add))
    change.tx.put(SEATS, workspace=session.workspace, record=seats, expected_version=found[1] if found else 0)
    if there is not None:
        _write_there(session, change, there, row, seats=seats)
    return row


def _require_admitted(session: Session, change: Change, row: Release, *, champion: Champion | None) -> None:
    """Raise GateRefused unless the version of a row may answer on the verdict that the row names."""
    version = change.tx.get(VERSIONS, workspace=session.workspace, id=row.version)
    verdict = change.tx.get(VERDICTS, workspace=session.workspace, id=row.verdict)
    why = None
    if version is None or verdict is None or (verdict.version, verdict.environment) != (row.version, row.environment):
        why = f"its release names the verdict {row.verdict!r}, which is none on it for '{row.environment}'"
    elif row.how == "rollback":
        why = None if _answered(change, session, row) else f"it never answered in '{row.environment}' on the verdict {verdict.id}"
    else:
        admission = find_admission(session, version, environment=row.environment, role=row.role, champion=champion, reader=change.tx)
        why = admission.why if isinstance(admission, Refusal) else None
        if not isinstance(admission, Refusal) and admission.verdict.id != verdict.id:
            why = f"its newest verdict is now {admission.verdict.id}, not {verdict.id}"
    if why is not None:
        hint = f"see every figure with: endcap show {row.version}"
        raise GateRefused(f"'{row.version}' cannot be released: {why.rstrip('.')}.", hint=hint, version=row.version)


def _answered(change: Change, session: Session, row: Release) -> bool:
    """Whether a version was let in before on the verdict that takes it back."""
    rows = change.tx.find(RELEASES, workspace=session.workspace, where={"version": row.version})
    return any((old.model, old.environment, old.verdict) == (row.model, row.environment, row.verdict) for old in rows)


def _write_there(
    session: Session,
    change: Change,
    there: Session,
    row: Release,
    *,
    champion: Champion | None = None,
    before: Champion | None = None,
    seats: Seats | None = None,
) -> None:
    """Write the same row and the same champion or seats in the home of the environment, which gets to know the environment by its name.

    Raises Conflict where something else answers there than is known here: somebody released there without this home. What an earlier try of
    the same left there, whose own home failed to remember it, is replaced.
    """
    workspace = there.workspace
    if row.assignment:
        there.blobs.put(session.blobs.get(row.assignment))
    if row.members:
        there.blobs.put(session.blobs.get(row.members))
    detail = {"version": row.version, "verdict": row.verdict, "how": row.how, "release": row.id}
    place = get_environment(session, row.environment, reader=change.tx)
    with there.change("copy-release", thing=f"model/{row.model}", detail=detail) as far:
        if place.name not in ENVIRONMENTS and far.tx.get(ENVIRONMENT_RECORDS, workspace=workspace, id=place.name) is None:
            known = msgspec.structs.replace(place, after=None, home=None)
            far.tx.put(ENVIRONMENT_RECORDS, workspace=workspace, record=known, expected_version=0)
        if champion is not None:
            found = far.tx.get_versioned(CHAMPIONS, workspace=workspace, id=champion.id)
            if found is not None and found[0] != before and found[0].version != row.version:
                raise Conflict(
                    f"In the home of '{row.environment}' {found[0].version} answers for model '{row.model}', which this home did not release there.",
                    hint="compare the histories of both homes before anything is moved",
                )
            far.tx.put(CHAMPIONS, workspace=workspace, record=champion, expected_version=found[1] if found else 0)
        if seats is not None:
            standing = far.tx.get_versioned(SEATS, workspace=workspace, id=seats.id)
            far.tx.put(SEATS, workspace=workspace, record=seats, expected_version=standing[1] if standing else 0)
        far.tx.append(RELEASES, workspace=workspace, record=row)
