"""What things cost: runs, requests and bytes by model (or view), by actor, by day, or by workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

import msgspec

from endcap.core.clock import parse_instant
from endcap.core.errors import InvalidInput, suggest
from endcap.core.permissions import Permission
from endcap.governance.quotas.amounts import name_day
from endcap.governance.quotas.records import HELD, METERED, USAGES, Held, Usage
from endcap.governance.quotas.usage import add_up
from endcap.governance.records import HOUSE
from endcap.governance.rights.checks import filter_seen
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

T = TypeVar("T")

_BY: dict[str, Callable[[Usage], str]] = {"thing": lambda row: row.thing, "actor": lambda row: row.actor, "day": lambda row: row.day}
_WORKSPACE = "workspace"


class CostLine(msgspec.Struct, frozen=True, kw_only=True):
    """What something cost in a span of days: ``of`` is a model or view (``model/NAME``), an actor, a day or a workspace; '' for what was for none.

    ``stored_bytes`` are those that came to rest in the span less those that went; ``held_bytes`` those that rest now (None for a day).
    """

    of: str
    cpu_s: float
    wall_s: float
    n_runs: int
    n_requests: int
    n_refused: int
    stored_bytes: int
    held_bytes: int | None


@verb("cost", permission=Permission.READ)
def list_costs(session: Session, *, by: str = "thing", since: str | None = None, until: str | None = None) -> list[CostLine]:
    """What runs, requests and storage cost: CPU seconds, runs, requests, bytes; the dearest first.

    ``by`` is thing (models, views, training sets), actor, day, or workspace: all of the home, for admins of the house. ``since`` and ``until`` are
    days of UTC, both included (None: since the first, until today). Cost grows with the days, actors and things of the span.
    """
    if by not in (*_BY, _WORKSPACE):
        raise InvalidInput(f"by is {by[:50]!r}; it must be one of {[*_BY, _WORKSPACE]}.", hint=suggest(by, [*_BY, _WORKSPACE]))
    first, last = (None if text is None else name_day(parse_instant(text)) for text in (since, until))
    if first is not None and last is not None and last < first:
        raise InvalidInput(f"The span from {since} to {until} holds no day.", hint="since is the earlier one")
    if by == _WORKSPACE:
        session.require_admin(verb="cost")
        names = [metered.id for metered in session.records.find(METERED, workspace=HOUSE)]
        whole = ((name, _read(session.records, name, first, last, session.now()), session.records.find(HELD, workspace=name)) for name in names)
        return _sort(_line(name, rows, held) for name, rows, held in whole)
    found = _read(session.records, session.workspace, first, last, session.now())
    held = [] if by == "day" else session.records.find(HELD, workspace=session.workspace)
    rows = _group(found, _BY[by])
    resting = _group(held, lambda one: one.thing if by == "thing" else one.actor)
    names = [*rows, *(name for name in resting if name not in rows)]
    if by == "thing":
        names = filter_seen(session, names, _name_closed)
    lines = [_line(name, rows.get(name, []), None if by == "day" else resting.get(name, [])) for name in names]
    return sorted(lines, key=lambda line: line.of) if by == "day" else _sort(lines)


def _read(records: RecordReader, workspace: str, first: str | None, last: str | None, now: datetime) -> list[Usage]:
    """The rows of a span of days: of one within a month by its months, else of all."""
    end = last or name_day(now)
    if first is not None and first[:7] == end[:7]:
        found = records.find(USAGES, workspace=workspace, where={"month": first[:7]})
    else:
        found = records.find(USAGES, workspace=workspace)
    return [row for row in found if (first is None or row.day >= first) and (last is None or row.day <= last)]


def _name_closed(thing: str) -> str:
    """The thing that can be closed, of one that costs: a view of what was computed of it (``features/user_7d@1a2b3c4d5e6f``).

    >>> _name_closed("features/user_7d@1a2b3c4d5e6f"), _name_closed("model/churn"), _name_closed("version/churn-v3")
    ('view/user_7d', 'model/churn', 'model/churn')
    """
    sort, _, name = thing.partition("/")
    if sort in ("features", "view"):
        return f"view/{name.partition('@')[0]}"
    return f"model/{name.rpartition('-v')[0]}" if sort == "version" else thing


def _group(rows: Iterable[T], name_of: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for row in rows:
        groups.setdefault(name_of(row), []).append(row)
    return groups


def _line(name: str, rows: list[Usage], held: list[Held] | None) -> CostLine:
    whole = add_up(rows)
    return CostLine(
        of=name,
        cpu_s=round(whole.cpu_s, 3),
        wall_s=round(whole.wall_s, 3),
        n_runs=whole.n_runs,
        n_requests=whole.n_requests,
        n_refused=whole.n_refused,
        stored_bytes=whole.n_bytes,
        held_bytes=None if held is None else sum(one.n_bytes for one in held),
    )


def _sort(lines: Iterable[CostLine]) -> list[CostLine]:
    return sorted(lines, key=lambda line: (-line.cpu_s, -(line.held_bytes or 0), line.of))
