"""Leftovers: records that are over since long and serve nobody, of the whole house: taken away by its daily sweep, with no rule to be set.

Each has its length here, from when it was over; that of page sessions is declared (``endcap retention set sessions 30d``). What the audit says of
them stays, as do all that lineage, history, cost or the keys lean on, and what is bounded by itself: a record a person, a secret or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from endcap.core.durations import parse_duration
from endcap.core.errors import NotFound
from endcap.governance.lockout import FORGOTTEN_AFTER
from endcap.governance.privacy.records import RETENTION_RULES
from endcap.governance.quotas.records import PLACES
from endcap.governance.records import HOUSE, SERVICES, SET_UP_CODES, TOKEN_USES, TOKENS, WRONG_PASSWORDS, Service, Token
from endcap.governance.rights.records import SHARE_USES, SHARES, ShareUse
from endcap.governance.signin.records import PAGE_SESSION_USES, PAGE_SESSIONS, SIGNED_OUT, USED_STATES, PageSession
from endcap.pipelines.open_lineage import LINEAGE_EVENTS
from endcap.storage.liveness import has_ended, identify_machine
from endcap.storage.ports import Kind, RecordStore

SESSIONS = "sessions"
SESSIONS_STAY = "90d"
"""How long page sessions that ended are kept where the house declares no other period."""
EVER = "ever"
_AT_ONCE = 1000
_BRIEFLY, _A_WEEK, _A_MONTH, _A_YEAR = timedelta(days=1), timedelta(days=7), timedelta(days=30), timedelta(days=400)


@dataclass(frozen=True)
class Leftover:
    """Records of a kind that go ``stays`` after they were over, and those of the kinds ``also`` of the same ids with them.

    ``ended_at`` is since when one is over; None: it is not. ``where`` finds those that may be, None: all are looked at.
    """

    name: str
    kind: Kind[Any]
    stays: timedelta
    ended_at: Callable[[Any], datetime | None]
    where: Mapping[str, object] | None = None
    also: tuple[Kind[Any], ...] = ()

    def is_over(self, record: Any, now: datetime) -> bool:
        ended_at = self.ended_at(record)
        return ended_at is not None and now - ended_at >= self.stays


def _end_of_token(token: Token) -> datetime:
    return min(token.expires_at, token.revoked_at or token.expires_at)


def _end_of_session(found: PageSession) -> datetime:
    return min(found.expires_at, found.ended_at or found.expires_at)


def _end_of_share_use(used: ShareUse) -> datetime:
    return datetime.fromisoformat(used.day).replace(tzinfo=UTC) + timedelta(days=1)


def _end_of_service(service: Service) -> datetime | None:
    here = service.machine == identify_machine()
    return None if here and not has_ended(service.machine, service.pid, service.began) else service.since


OF_HOUSE = (
    Leftover("places", PLACES, _A_WEEK, lambda place: place.ended_at, where={"state": "ended"}),
    Leftover("set-up-codes", SET_UP_CODES, _A_MONTH, lambda code: code.expires_at),
    Leftover("sign-ins", USED_STATES, _BRIEFLY, lambda used: used.at),  # each is refused for its age after ten minutes
    Leftover("sign-outs", SIGNED_OUT, _BRIEFLY, lambda out: out.at),  # as these: what they are held against is younger
    Leftover("wrong-passwords", WRONG_PASSWORDS, FORGOTTEN_AFTER, lambda wrong: wrong.last_at),  # the longest wait is an hour
    Leftover("share-uses", SHARE_USES, _BRIEFLY, _end_of_share_use),
    Leftover("shares", SHARES, _A_YEAR, lambda share: share.revoked_at),
    Leftover("tokens", TOKENS, _A_YEAR, _end_of_token, also=(TOKEN_USES,)),
    Leftover("services", SERVICES, _A_YEAR, _end_of_service),
)
"""What goes of the house, beside page sessions."""
OF_WORKSPACES = (Leftover("lineage-events", LINEAGE_EVENTS, _A_MONTH, lambda event: event.at, where={"status": "sent"}),)
"""What goes of each workspace."""


def remove_leftovers(records: RecordStore, workspaces: Iterable[str], *, now: datetime, dry_run: bool = False) -> dict[str, int]:
    """Take away what is over since long; returns how many went by name, without those of which none did. ``dry_run`` only counts.

    In transactions of up to a thousand records, in each of which it is asked again what is over: a kill leaves what is left to the next, and two at
    once take nothing twice. Cost: a look at what stands of each kind, some 2 us a record, and some 20 us for each that goes.
    """
    removed: dict[str, int] = {}
    for sort in (*OF_HOUSE, *_of_sessions(records)):
        removed[sort.name] = _remove(records, sort, HOUSE, now, dry_run=dry_run)
    for sort in OF_WORKSPACES:
        removed[sort.name] = sum(_remove(records, sort, workspace, now, dry_run=dry_run) for workspace in workspaces)
    return {name: n for name, n in removed.items() if n}


def count_sessions(records: RecordStore, *, now: datetime) -> int:
    """How many page sessions would go now. Cost: a look at all that are kept."""
    return sum(_remove(records, sort, HOUSE, now, dry_run=True) for sort in _of_sessions(records))


def read_sessions_period(records: RecordStore) -> str:
    """How long page sessions that ended are kept: a length, or 'ever'."""
    rules = records.get(RETENTION_RULES, workspace=HOUSE, id=HOUSE)
    return rules.periods.get(SESSIONS, SESSIONS_STAY) if rules is not None else SESSIONS_STAY


def _of_sessions(records: RecordStore) -> tuple[Leftover, ...]:
    period = read_sessions_period(records)
    if period == EVER:
        return ()
    return (Leftover(SESSIONS, PAGE_SESSIONS, parse_duration(period), _end_of_session, also=(PAGE_SESSION_USES,)),)


def _remove(records: RecordStore, sort: Leftover, workspace: str, now: datetime, *, dry_run: bool) -> int:
    n, after, more = 0, None, True
    while more:
        try:
            page = records.find(sort.kind, workspace=workspace, where=sort.where, after=after, limit=_AT_ONCE)
            over = sum(sort.is_over(record, now) for record in page)
            n += over if dry_run or not over else _remove_page(records, sort, workspace, now, after=after)
        except NotFound:  # another sweep took what the last page ended with: it takes the rest, too
            return n
        staying = page if dry_run else [record for record in page if not sort.is_over(record, now)]
        after, more = sort.kind.id_of(staying[-1]) if staying else after, len(page) == _AT_ONCE
    return n


def _remove_page(records: RecordStore, sort: Leftover, workspace: str, now: datetime, *, after: str | None) -> int:
    """Take what is over of one page. What came back to life since it was looked at, as a drawer of wrong passwords may, stays."""
    with records.transact() as tx:
        page = tx.find(sort.kind, workspace=workspace, where=sort.where, after=after, limit=_AT_ONCE)
        ids = [sort.kind.id_of(record) for record in page if sort.is_over(record, now)]
        for kind in sort.also:
            tx.remove(kind, workspace=workspace, ids=ids)
        return tx.remove(sort.kind, workspace=workspace, ids=ids)
