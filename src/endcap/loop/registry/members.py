"""Members of a version: who they are, how good each is, and which of them a list or a segment names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
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
_BLANKS = {"n": 0, "status": "unsure", "candidate": ""}
_SORT_KEYS: dict[str, list[tuple[str, str]]] = {
    "error": [("error", "descending")],
    "ratio": [("ratio", "descending")],
    "status": [("status", "ascending"), ("error", "descending")],
    "member": [],
}
_STALE_AFTER = timedelta(days=14)
_FIT_STALE_AFTER = timedelta(weeks=13)


@verb("members", permission=Permission.READ, lent={"version": ("version",)})
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
    import pyarrow.compute as pc

    found = get_version(session, version)
    board = read_board(session, found)
    if segment is not None:
        board = board.filter(pc.is_in(board["member"], value_set=_as_texts(_choose_segment(session, found, segment))))
    if status is not None:
        board = board.filter(pc.equal(board["status"], status))
    return _to_lines(_sort(board, order)[: limit or board.num_rows])


def summarize_members(session: Session, version: Version) -> MemberSummary | None:
    """Members at a glance; None for a version that keeps no figures by member. A few passes over columns."""
    import pyarrow.compute as pc

    try:
        board = read_board(session, version)
    except NotFound:
        return None
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(board["status"]).to_pylist()}
    bad = _sort(board.filter(pc.equal(board["status"], "bad")), "error")[:_SHOWN]
    reasons = Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(board["fallback"].drop_null()).to_pylist()})
    by_status = {status: counts[status] for status in MEMBER_STATUSES if status in counts}
    return MemberSummary(board.num_rows, by_status, tuple(_to_lines(bad)), dict(reasons.most_common(_SHOWN)))


def read_lines_of_members(session: Session, version: Version) -> list[MemberLine]:
    """Every member of a version, with what the newest data say of it; members that came since it was trained stand last."""
    return _to_lines(read_board(session, version))


def read_board(session: Session, version: Version) -> pa.Table:
    """The same as columns: the fields of ``MemberLine`` but for ``facts``, then a column for each fact. Whole columns, no loop over members."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = _complete(read_members(session, version))
    try:
        states = session.tables.read(MEMBER_STATES, partition={"workspace": session.workspace, "model": version.model})
    except NotFound:
        return table  # no newer data were noted
    place = pc.index_in(table["member"], value_set=states["member"])
    last = pc.coalesce(states["last_row"].take(place), table["last_row"])
    retired = pc.fill_null(states["retired"].take(place), False)
    newest = pc.max(states["last_row"]).as_py()
    if newest is None:
        stale = pa.array([False] * table.num_rows)
    elif version.trained_until is not None and newest - version.trained_until > _FIT_STALE_AFTER:
        stale = pa.array([True] * table.num_rows)
    else:
        stale = pc.fill_null(pc.less(last, pa.scalar(newest - _STALE_AFTER, pa.date32())), False)
    stale = pc.and_(stale, pc.invert(pc.is_in(table["status"], value_set=_as_texts(("bad", "fallback")))))
    status = pc.if_else(retired, "retired", pc.if_else(stale, "stale", table["status"]))
    table = table.set_column(table.column_names.index("status"), "status", status)
    table = table.set_column(table.column_names.index("last_row"), "last_row", last)
    came = states.filter(pc.and_(pc.invert(pc.is_in(states["member"], value_set=table["member"])), pc.invert(states["retired"])))
    if came.num_rows:
        new = pa.table({"member": came["member"], "status": pa.array(["new"] * came.num_rows), "last_row": came["last_row"]})
        table = pa.concat_tables([table, _complete(new)], promote_options="default")
    return table


def _complete(table: pa.Table) -> pa.Table:
    """The columns of ``MemberLine`` in their order and types, with nulls where a version does not keep one; the facts after them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = {"n": pa.int64(), "last_row": pa.date32()} | dict.fromkeys(("member", "fallback", "status", "candidate", "baseline"), pa.string())
    columns = {}
    for name in MemberLine.__struct_fields__[:-1]:
        kind = kinds.get(name, pa.float64())
        column = pc.cast(table[name], kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        columns[name] = pc.fill_null(column, _BLANKS[name]) if name in _BLANKS else column
    return pa.table({**columns, **{name: table[name] for name in table.column_names if name.startswith(FACT)}})


def _sort(board: pa.Table, order: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = pa.table(
        {
            "error": pc.multiply(pc.fill_null(board["mae"], 0.0), pc.cast(board["n"], pa.float64())),
            "ratio": pc.fill_null(board["ratio"], -1.0),
            "status": pc.index_in(board["status"], value_set=_as_texts(MEMBER_STATUSES)),
            "member": board["member"],
        }
    )
    return board.take(pc.sort_indices(keys, sort_keys=[*_SORT_KEYS[order], ("member", "ascending")]))


def _to_lines(board: pa.Table) -> list[MemberLine]:
    facts = [column for column in board.column_names if column.startswith(FACT)]
    names = [column.removeprefix(FACT) for column in facts]
    own = zip(*(board[column].to_pylist() for column in facts), strict=True) if facts else repeat((), board.num_rows)
    fields = (board[name].to_pylist() for name in MemberLine.__struct_fields__[:-1])
    lines = []
    for row, values in zip(zip(*fields, strict=True), own, strict=True):
        known = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        line: tuple[Any, ...] = (*row, known)
        lines.append(MemberLine(*line))
    return lines


def _as_texts(values: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string())


def find_retired(session: Session, model: str) -> frozenset[str]:
    """The members of a model that are retired as of the newest data. One pass over the members."""
    try:
        table = session.tables.read(MEMBER_STATES, partition={"workspace": session.workspace, "model": model}, columns=["member", "retired"])
    except NotFound:
        return frozenset()
    return frozenset(table.filter(table["retired"])["member"].to_pylist())


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
