"""Members of a version: who they are, and which of them a list or a segment names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.governance.sessions import Session
from endcap.loop.registry.records import MEMBER_METRICS, Version

if TYPE_CHECKING:
    import pyarrow as pa

FACT = "fact "
"""How the columns of members' static facts begin in their table; the fact's name follows."""

_SHOWN = 5


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
