"""Members of a version: who they are, how good each is, and which of them a list or a segment names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, MEMBER_STATUSES, MemberLine, MemberSummary, Version
from endcap.loop.registry.versions import get_version
from endcap.storage.ports import require_limit

if TYPE_CHECKING:
    import pyarrow as pa

FACT = "fact "
"""How the columns of members' static facts begin in their table; the fact's name follows."""

ORDERS = ("error", "ratio", "status", "member")

_SHOWN = 5
_STATUS, _LAST_ROW = MemberLine.__struct_fields__.index("status"), MemberLine.__struct_fields__.index("last_row")
_STALE_AFTER = timedelta(days=14)
_FIT_STALE_AFTER = timedelta(weeks=13)


@verb("members", permission=Permission.READ)
def list_members(
    session: Session, version: str, *, status: str | None = None, segment: str | None = None, order: str = "error", limit: int = 20
) -> list[MemberLine]:
    """The members of a version with the judged figures of each beside its baseline's, those with the most error first.

    ``status`` lists only those that are bad, fallback, stale, new, unsure, good or retired (None: all); ``segment`` only those of a static
    fact's value, such as ``city_id=3``. ``order`` is by error (its sum), ratio (to the baseline's), status or member (name). ``limit`` is how
    many are listed; 0 lists all. Raises NotFound for a version that keeps no figures by member. One pass over the members.
    """
    require_limit(limit)
    for name, value, offered in (("status", status, MEMBER_STATUSES), ("order", order, ORDERS)):
        if value is not None and value not in offered:
            raise InvalidInput(f"{value!r} is no {name} of members. Offered: {list(offered)}.", hint=suggest(value, offered))
    found = get_version(session, version)
    lines = read_lines_of_members(session, found)
    if segment is not None:
        chosen = frozenset(_choose_segment(session, found, segment))
        lines = [line for line in lines if line.member in chosen]
    lines = [line for line in lines if status is None or line.status == status]
    lines.sort(key=_KEYS[order])
    return lines[: limit or None]


_KEYS: dict[str, Any] = {
    "error": lambda line: (-(line.mae or 0.0) * line.n, line.member),
    "ratio": lambda line: (-(line.ratio if line.ratio is not None else -1.0), line.member),
    "status": lambda line: (MEMBER_STATUSES.index(line.status), -(line.mae or 0.0) * line.n, line.member),
    "member": lambda line: line.member,
}


def summarize_members(session: Session, version: Version) -> MemberSummary | None:
    """Members at a glance; None for a version that keeps no figures by member. One pass over the members."""
    try:
        lines = read_lines_of_members(session, version)
    except NotFound:
        return None
    counts = Counter(line.status for line in lines)
    bad = sorted((line for line in lines if line.status == "bad"), key=_KEYS["error"])
    reasons = Counter(line.fallback for line in lines if line.fallback is not None)
    by_status = {status: counts[status] for status in MEMBER_STATUSES if counts[status]}
    return MemberSummary(len(lines), by_status, tuple(bad[:_SHOWN]), dict(reasons.most_common(_SHOWN)))


def read_lines_of_members(session: Session, version: Version) -> list[MemberLine]:
    """Every member of a version, with what the newest data say of it; members that came since it was trained stand last."""
    table = read_members(session, version)
    facts = [column for column in table.column_names if column.startswith(FACT)]
    own_facts = _gather_facts(table, facts)
    # One list a field, in the record's order: what a version does not keep stands at its default.
    columns = [table[name].to_pylist() if name in table.column_names else None for name in MemberLine.__struct_fields__]
    defaults = (*[None] * (len(columns) - len(MemberLine.__struct_defaults__)), *MemberLine.__struct_defaults__)
    states = _read_states(session, version.model)
    newest = max((last for _, last, _ in states.values() if last is not None), default=None)
    old_fit = newest is not None and version.trained_until is not None and newest - version.trained_until > _FIT_STALE_AFTER
    lines = []
    n = table.num_rows
    filled = (column if column is not None else repeat(default, n) for column, default in zip(columns, defaults, strict=True))
    for row, own in zip(zip(*filled, strict=True), own_facts, strict=True):
        member, status, last = row[0], row[_STATUS], row[_LAST_ROW]
        _, last, retired = states.get(member, (None, last, False))
        if retired:
            status = "retired"
        elif status not in ("fallback", "bad") and (old_fit or (newest is not None and last is not None and newest - last > _STALE_AFTER)):
            status = "stale"
        values: tuple[Any, ...] = (*row[:_STATUS], status, *row[_STATUS + 1 : _LAST_ROW], last, own)
        lines.append(MemberLine(*values))
    old = {line.member for line in lines}
    for member, (_, last, retired) in states.items():
        if member not in old and not retired:
            lines.append(MemberLine(member, 0, None, None, None, None, None, status="new", last_row=last))
    return lines


def _gather_facts(table: pa.Table, facts: Sequence[str]) -> list[dict[str, str]]:
    names = [column.removeprefix(FACT) for column in facts]
    rows = zip(*(table[column].to_pylist() for column in facts), strict=True) if facts else repeat((), table.num_rows)
    return [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows]


def find_retired(session: Session, model: str) -> frozenset[str]:
    """The members of a model that are retired as of the newest data. One pass over the members."""
    return frozenset(member for member, (_, _, retired) in _read_states(session, model).items() if retired)


def _read_states(session: Session, model: str) -> dict[str, tuple[date | None, date | None, bool]]:
    """Each member's first and newest row and whether it is retired, as of the newest data; empty where that was never noted."""
    try:
        table = session.tables.read(MEMBER_STATES, partition={"workspace": session.workspace, "model": model})
    except NotFound:
        return {}
    columns = (table[name].to_pylist() for name in ("member", "first_row", "last_row", "retired"))
    return {member: (first, last, retired) for member, first, last, retired in zip(*columns, strict=True)}


def read_members(session: Session, version: Version, *, columns: Sequence[str] | None = None) -> pa.Table:
    """The figures of every member of a version, a row each. Raises NotFound for a version that keeps none."""
    try:
        return session.tables.read(MEMBER_METRICS, partition={"workspace": session.workspace, "evidence": version.evidence}, columns=columns)
    except NotFound as error:
        raise NotFound(f"Version '{version.id}' keeps no figures by member.", hint="only versions with members are released in parts") from error


def choose_members(
    session: Session,
    version: Version,
    *,
    members: Sequence[str] | None = None,
    segment: str | None = None,
    also: Sequence[str] = (),
) -> tuple[str, ...] | None:
    """The members that a list, or a segment such as ``city_id=3``, names, ordered by name; None where neither is given: all of them.

    ``also`` are names that count as known beside the version's own. Raises InvalidInput for a list that names unknown or no members (with
    some of them and how many), for an unknown fact or value, and where both a list and a segment are given.
    """
    if segment is not None:
        if members is not None:
            raise InvalidInput(f"Both members and the segment {segment!r} are given.", hint="give one of them")
        return _choose_segment(session, version, segment)
    if members is None:
        return None
    named = (members,) if isinstance(members, str) else tuple(members)
    if not named:
        raise InvalidInput("The list of members is empty.", hint="name some, or leave the list out for all of them")
    return require_members(session, version, named, also=also)


def require_members(session: Session, version: Version, named: Sequence[str], *, also: Sequence[str] = ()) -> tuple[str, ...]:
    """The members named, each once, ordered. Raises InvalidInput where some are unknown."""
    known = {*read_members(session, version, columns=["member"])["member"].to_pylist(), *also}
    chosen = sorted({str(name) for name in named})
    strange = [name for name in chosen if name not in known]
    if strange:
        shown = ", ".join(repr(name) for name in strange[:_SHOWN])
        raise InvalidInput(
            f"{len(strange):,} of {len(chosen):,} members named are no members of '{version.id}': {shown}{' ...' if len(strange) > _SHOWN else ''}.",
            hint=suggest(strange[0], known) or f"list them with: endcap members {version.id} --limit 0",
            n_unknown=len(strange),
            unknown=strange[:100],
        )
    return tuple(chosen)


def _choose_segment(session: Session, version: Version, segment: str) -> tuple[str, ...]:
    import pyarrow.compute as pc

    name, separator, value = segment.partition("=")
    if not separator or not name or not value:
        raise InvalidInput(f"{segment!r} is no segment.", hint="write FACT=VALUE, such as city_id=3")
    table = read_members(session, version)
    facts = [column.removeprefix(FACT) for column in table.column_names if column.startswith(FACT)]
    if name not in facts:
        raise InvalidInput(f"Members of '{version.id}' have no fact {name!r}. Facts: {facts}.", hint=suggest(name, facts))
    column = table[FACT + name]
    chosen = table["member"].filter(pc.equal(column, value)).to_pylist()
    if not chosen:
        values = sorted(v for v in pc.unique(column).to_pylist() if v is not None)
        raise InvalidInput(
            f"No member of '{version.id}' has {name}={value}. Values: {values[:20]}{' ...' if len(values) > 20 else ''}.", hint=suggest(value, values)
        )
    return tuple(sorted(chosen))
