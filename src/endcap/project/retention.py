"""Retention: how long each log is kept, shown, applied by command and once a day by the service. The audit chain is never touched.

A period is declared for a log of the workspace (``endcap retention set predictions 400d``) or on a table (``Table(retention="400d")``, for the rows
of it that were put aside). What is not declared is kept for ever, but for what is over since long and serves nobody: see ``project/leftovers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time, timedelta

import msgspec

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput, suggest
from endcap.core.permissions import Permission
from endcap.core.zones import load_zone
from endcap.governance.privacy.records import LEGAL_HOLDS, RETENTION_RULES, SWEEPINGS, LegalHold, RetentionRules, Sweeping
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.records import VIEW_VERSIONS
from endcap.pipelines.leases import hold_lease
from endcap.project.expiry import (
    Expired,
    KeptThing,
    Leaning,
    find_features,
    find_notices,
    find_predictions,
    find_quarantine,
    find_runs,
    find_snapshots,
    find_training_sets,
    remove_expired,
)
from endcap.project.forgetting import finish_forgetting
from endcap.project.leftovers import EVER, SESSIONS, count_sessions, read_sessions_period, remove_leftovers
from endcap.project.things import require_thing

_FINDERS: dict[str, Callable[[Session, Leaning, datetime], Expired]] = {
    "predictions": find_predictions,
    "features": find_features,
    "snapshots": find_snapshots,
    "training-sets": find_training_sets,
    "runs": find_runs,
    "notices": find_notices,
}
_MEANINGS = {
    "predictions": "logged predictions and their outcomes",
    "features": "what is kept of versions of views that others took the place of",
    "snapshots": "profiles of what views looked like",
    "training-sets": "rows of training sets that the house keeps",
    "runs": "tracked runs and their metrics",
    "notices": "notices and what was sent of them",
    SESSIONS: "sessions of pages that ended, of the whole house",
    "quarantine": "rows that contracts put aside",
}
LOGS = tuple(_MEANINGS)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class RetentionLine(msgspec.Struct, frozen=True):
    """How long a log, or the rows of a table that were put aside, are kept ('': for ever); ``n_expired`` would go now, ``n_kept`` are leant on.

    A thing that is held for the law has a line of its own, with the reason in ``held``: nothing of it goes, whatever its period.
    """

    log: str
    period: str
    what: str
    n_expired: int
    n_kept: int
    held: str = ""


class RetentionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, or in a dry run would be, by log, and what was kept though it is older, and why. ``leftovers`` are those of the house."""

    workspace: str
    at: datetime
    dry_run: bool
    removed: dict[str, int]
    kept: tuple[KeptThing, ...]
    leftovers: dict[str, int] = {}


@verb("retention show", permission=Permission.READ)
def show_retention(session: Session) -> list[RetentionLine]:
    """How long each log of the workspace is kept, and how much of it is older. Cost: that of a dry run.

    Behind the logs come the things that are held for the law, with the reason.
    """
    rules, tables = read_rules(session), _find_tables(session)
    expired = {found.log: found for found in _find(session, rules, tables)}
    lines = []
    for log, what in _MEANINGS.items():
        if log == SESSIONS:
            lines.append(_show_sessions(session, what))
            continue
        found = expired.get(log)
        lines.append(RetentionLine(log, rules.periods.get(log, ""), what, found.n if found else 0, len(found.kept) if found else 0))
    lines += [RetentionLine(f"table/{name}", period, "rows of it that were put aside", 0, 0) for name, period in sorted(tables.items())]
    holds = [held for held in session.records.find(LEGAL_HOLDS, workspace=session.workspace) if held.lifted_at is None]
    lines += [RetentionLine(held.id, "", "held for the law", 0, 0, held.reason) for held in sorted(holds, key=lambda held: held.id)]
    return lines


@verb("retention set", permission=Permission.OWN)
def set_retention(session: Session, log: str, period: str, *, at: str | None = None) -> RetentionRules:
    """Say how long a log of the workspace is kept: predictions, features, snapshots, training-sets, runs, notices, sessions or quarantine.

    ``log`` is which; ``period`` is a length of at least a day, such as 400d, or 'ever'. ``at`` is the time of day, in the workspace's zone, at which
    the service applies all of them (None: as it was, 03:30 at first). Nothing is removed before that, or endcap retention apply. The sessions of
    pages are the house's, which keeps them for 90d where nothing else is said: for its admins. Raises InvalidInput for another log, a period that is
    none, and a time that no clock shows.
    """
    if log == "audit":
        raise InvalidInput(
            "The audit is kept for ever: a chain from which rows are taken proves nothing.", hint=f"logs that have a period: {', '.join(LOGS)}"
        )
    if log not in LOGS:
        raise InvalidInput(
            f"There is no log {log[:100]!r}. Logs: {list(LOGS)}.", hint=suggest(log, LOGS) or "a table says it itself: Table(retention=...)"
        )
    whose, thing = session, f"workspace/{session.workspace}"
    if log == SESSIONS:
        session.require_admin(verb="retention set")
        whose, thing = session.in_house(), "house"
    _require_period(period)
    chosen = _require_time(at) if at is not None else None
    with whose.change("retention set", thing=thing, detail={"log": log, "period": period, "at": at}) as change:
        found = change.tx.get_versioned(RETENTION_RULES, workspace=HOUSE, id=whose.workspace)
        standing, expected = found or (RetentionRules(id=whose.workspace, zone=session.zone), 0)
        periods = {name: own for name, own in {**standing.periods, log: period}.items() if own != EVER or name == SESSIONS}
        rules = msgspec.structs.replace(standing, periods=periods, at=chosen or standing.at, zone=session.zone)
        change.tx.put(RETENTION_RULES, workspace=HOUSE, record=rules, expected_version=expected)
    return rules


@verb("retention apply", permission=Permission.OWN)
def apply_retention(session: Session, *, dry_run: bool = False) -> RetentionReport:
    """Remove what is older than its period, and say what is kept all the same: what answers, is pinned, waits at a gate or is held for the law.

    ``dry_run`` says only what would go. Whole partitions go, and the records that name them first; after a kill the same command goes on. The audit
    chain is never touched; counts are written into it. For an admin of the house what is over since long of the house goes, too: places of the queue,
    set-up codes, marks of use, sessions of pages and the like. One process does it at a time: Conflict where another does. Cost: a look at the
    records of each log that has a period.
    """
    rules, tables = read_rules(session), _find_tables(session)
    with hold_lease(session, "retention") as hold:
        own = hold.session
        found = _find(own, rules, tables)
        if not dry_run:
            remove_expired(own, found)
            removed = {one.log: one.n for one in found if one.n}
            if removed:
                detail: dict[str, str | int | float | bool | None] = {f"n_{log}": n for log, n in removed.items()}
                with own.change("retention apply", thing=f"workspace/{own.workspace}", detail=detail):
                    pass
    return RetentionReport(
        workspace=session.workspace,
        at=session.now(),
        dry_run=dry_run,
        removed={one.log: one.n for one in found},
        kept=tuple(thing for one in found for thing in one.kept),
        leftovers=sweep_leftovers(session, [session.workspace], dry_run=dry_run) if session.admin else {},
    )


@verb("retention hold", permission=Permission.OWN)
def hold_thing(session: Session, thing: str, *, reason: str) -> LegalHold:
    """Hold a thing for the law: nothing of it is removed until the hold is lifted, whatever its period.

    ``thing`` is model/NAME, table/NAME, view/NAME, run/ID or training-set/ID; ``reason`` is kept with it. Nobody of whom
    it holds rows is forgotten meanwhile. Raises InvalidInput for another sort of thing and an empty reason, NotFound for a
    thing of which nothing is kept.
    """
    sort, _, name = thing.partition("/")
    if sort not in ("model", "table", "view", "run", "training-set") or not name:
        raise InvalidInput(f"{thing[:100]!r} is nothing that is held.", hint="model/NAME, table/NAME, view/NAME, run/ID or training-set/ID")
    if not reason.strip():
        raise InvalidInput("A hold needs a reason.", hint="--reason 'case 12/26'")
    standing = session.records.get(LEGAL_HOLDS, workspace=session.workspace, id=thing)
    if standing is None or standing.lifted_at is not None:  # of what is held the reason may be told anew, whatever became of it
        require_thing(session, sort, name)
    held = LegalHold(id=thing, at=session.now(), by=session.actor.name, reason=reason[:500])
    return _put_hold(session, held, verb_name="retention hold")


@verb("retention lift", permission=Permission.OWN)
def lift_hold(session: Session, thing: str) -> LegalHold:
    """Lift the hold of a thing, so that its periods count again, also of one that is not there any more. Raises InvalidInput for one not held."""
    found = session.records.get(LEGAL_HOLDS, workspace=session.workspace, id=thing)
    if found is None or found.lifted_at is not None:
        held = [each.id for each in session.records.find(LEGAL_HOLDS, workspace=session.workspace) if each.lifted_at is None]
        raise InvalidInput(f"{thing[:100]!r} is not held.", hint=suggest(thing, held) or "what is held: endcap retention show")
    return _put_hold(session, msgspec.structs.replace(found, lifted_at=session.now(), lifted_by=session.actor.name), verb_name="retention lift")


def read_rules(session: Session) -> RetentionRules:
    """The rules of the session's workspace."""
    found = session.ports.records.get(RETENTION_RULES, workspace=HOUSE, id=session.workspace)
    return found or RetentionRules(id=session.workspace, zone=session.zone)


def sweep_when_due(session: Session) -> RetentionReport | None:
    """Apply a workspace's rules if their time of the day has come and no process did so yet; None where there is nothing to do.

    A sweep that was killed is done again: it counts as done when it ended. What a restore, or a kill, left of forgetting is finished, too.
    """
    finish_forgetting(session)
    rules = read_rules(session)
    if not rules.periods and not _find_tables(session):
        return None
    day = _due_day(rules, session.now())
    if _was_swept(session, day):
        return None
    try:
        report = apply_retention(session)
    except Conflict:
        return None  # another process is at it
    _note_swept(session, day)
    return report


def sweep_house_when_due(session: Session, workspaces: Iterable[str]) -> dict[str, int]:
    """Take away what is over since long, of the house and of workspaces, if its time of the day has come and no process did so yet.

    Returns how many went, by name; none where it was done. ``session`` is the system's, in whatever workspace.
    """
    house = session.in_house()
    day = _due_day(read_rules(house), session.now())
    if _was_swept(house, day):
        return {}
    removed = sweep_leftovers(session, workspaces)
    _note_swept(house, day)
    return removed


def sweep_leftovers(session: Session, workspaces: Iterable[str], *, dry_run: bool = False) -> dict[str, int]:
    """Take away what is over since long, and write how many of what into the house's audit chain. Doing it again, or two at once, changes nothing."""
    removed = remove_leftovers(session.ports.records, workspaces, now=session.now(), dry_run=dry_run)
    if removed and not dry_run:
        with session.in_house().change("retention apply", thing="house", detail={f"n_{name}": n for name, n in removed.items()}):
            pass
    return removed


def _was_swept(session: Session, day: str) -> bool:
    standing = session.ports.records.get(SWEEPINGS, workspace=HOUSE, id=session.workspace)
    return standing is not None and standing.done and standing.day >= day


def _note_swept(session: Session, day: str) -> None:
    with session.ports.records.transact() as tx:
        found = tx.get_versioned(SWEEPINGS, workspace=HOUSE, id=session.workspace)
        tx.put(SWEEPINGS, workspace=HOUSE, record=Sweeping(session.workspace, day, True), expected_version=found[1] if found else 0)


def _show_sessions(session: Session, what: str) -> RetentionLine:
    """The line of page sessions, which are the house's: how many would go is for its admins."""
    records = session.ports.records
    n = count_sessions(records, now=session.now()) if session.admin else 0
    return RetentionLine(SESSIONS, read_sessions_period(records), what, n, 0)


def _due_day(rules: RetentionRules, now: datetime) -> str:
    """The last day, of the rules' zone, whose time of sweeping has come."""
    local = now.astimezone(load_zone(rules.zone))
    due = local.replace(tzinfo=None).time() >= time.fromisoformat(rules.at)
    return (local.date() if due else local.date() - timedelta(days=1)).isoformat()


def _find(session: Session, rules: RetentionRules, tables: dict[str, str]) -> list[Expired]:
    now, leaning, found = session.now(), Leaning(session), list[Expired]()
    for log, finder in _FINDERS.items():
        if log in rules.periods:
            found.append(finder(session, leaning, now - parse_duration(rules.periods[log])))
    if "quarantine" in rules.periods or tables:
        before = now - parse_duration(rules.periods["quarantine"]) if "quarantine" in rules.periods else _NEVER
        found.append(find_quarantine(session, leaning, before, tables=tables, now=now))
    return found


def _find_tables(session: Session) -> dict[str, str]:
    """The tables that declare a period, as the newest views that read them have them."""
    found: dict[str, str] = {}
    for version in session.records.find(VIEW_VERSIONS, workspace=session.workspace):
        for table in version.view.sources:
            found.pop(table.name, None)
            if table.retention is not None:
                found[table.name] = table.retention
    return found


def _require_period(text: str) -> None:
    if text == EVER:
        return
    try:
        length = parse_duration(text)
    except InvalidInput as error:
        raise InvalidInput(f"{text[:40]!r} is no period.", hint="write 400d, or ever") from error
    if length < timedelta(days=1):
        raise InvalidInput(f"The period {text!r} is less than a day.", hint="write 400d, or ever")


def _require_time(text: str) -> str:
    try:
        return time.fromisoformat(text).strftime("%H:%M")
    except ValueError as error:
        raise InvalidInput(f"{text[:40]!r} is no time of the day.", hint="write 03:30") from error


def _put_hold(session: Session, held: LegalHold, *, verb_name: str) -> LegalHold:
    with session.change(verb_name, thing=held.id, detail={"reason": held.reason}) as change:
        found = change.tx.get_versioned(LEGAL_HOLDS, workspace=session.workspace, id=held.id)
        change.tx.put(LEGAL_HOLDS, workspace=session.workspace, record=held, expected_version=found[1] if found else 0)
    return held
