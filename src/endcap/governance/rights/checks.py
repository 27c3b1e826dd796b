"""Whether somebody may do something to a thing: what the records say, kept for a second, and at once what this process changed.

Cost: nothing is read where a workspace has no closed thing, but for one look a second; a check is a look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from endcap.core.errors import NotFound, PermissionDenied
from endcap.core.permissions import Permission, permissions_of
from endcap.governance.records import GROUPS, HOUSE, MEMBERSHIPS
from endcap.governance.rights.records import GUARDS, LEVELS, OWNED, PERSONAL, SEE, Guard

if TYPE_CHECKING:
    from endcap.governance.sessions import Session

T = TypeVar("T")

KEPT_S = 1.0
"""For how long what the records say is kept where another process may change it: as long as a role at the gateway."""
_NOTHING: frozenset[Permission] = frozenset()


@dataclass(frozen=True)
class Standing:
    """What of the closed things of a workspace is there for somebody, and what they may do to it; of a share nothing else is there (``only``)."""

    hidden: frozenset[str] = frozenset()
    held: Mapping[str, frozenset[Permission]] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def sees(self, things: Iterable[str]) -> bool:
        """Whether a record that is part of these things is there: none of them is hidden; of a share, one of them is what was shared."""
        return self.hidden.isdisjoint(things) if self.only is None else not self.only.isdisjoint(things)

    def may(self, thing: str, permission: Permission) -> bool:
        """Whether it may be done to a thing, as far as rights are asked."""
        if self.only is not None:
            return thing in self.only and permission is Permission.READ
        return thing not in self.hidden and permission in self.held.get(thing, OWNED)


@dataclass(frozen=True)
class _Kept:
    """The guards of a workspace as they were read, and what they come to for those who asked."""

    change: int
    until_s: float
    closed: Mapping[str, Guard]
    personal: Mapping[str, Guard]
    standings: dict[str, Standing] = field(default_factory=dict)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)


class _Changes:
    """How often rights were changed by this process: what was read before the last change does not count."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.n = 0

    def note(self) -> None:
        self.n = next(self._numbers)


_CHANGES = _Changes()


def note_change() -> None:
    """Have every session of this process see at once what was written: called after the transaction."""
    _CHANGES.note()


def find_standing(session: Session) -> Standing | None:
    """What rights leave to a session; None where they take nothing away: no thing is closed, or an owner of the workspace asks."""
    if session.only is not None:
        return Standing(only=session.only)
    if session.unveiled or session.workspace == HOUSE or Permission.OWN in permissions_of(session.role):
        return None
    kept = _find_kept(session)
    if not kept.closed:
        return None
    name = session.holder.name
    standing = kept.standings.get(name)
    if standing is None:
        standing = kept.standings[name] = _stand(kept, {f"user/{name}", *_find_groups(session, kept)}, name)
    return standing


def may_see(session: Session, thing: str) -> bool:
    """Whether a thing is there for a session, as far as rights are asked."""
    standing = find_standing(session)
    return standing is None or standing.sees((thing,))


def filter_seen(session: Session, found: Iterable[T], thing_of: Callable[[T], str]) -> list[T]:
    """Those of a list whose things are there for a session."""
    standing = find_standing(session)
    return list(found) if standing is None else [entry for entry in found if standing.sees((thing_of(entry),))]


def require_right(session: Session, thing: str, permission: Permission, *, verb: str) -> None:
    """Raise unless a session may do something to a thing, as far as rights are asked: NotFound where it may not even read it, PermissionDenied,
    audited, where it may. ``personal/TABLE`` with Permission.PERSONAL is always asked for. Cost: some 2 us, and nothing without a closed thing.
    """
    if permission is Permission.PERSONAL:
        if not _sees_personal(session, thing):
            refuse(session, thing, permission, verb=verb)
        return
    standing = find_standing(session)
    if standing is None or standing.may(thing, permission):
        return
    if not standing.sees((thing,)):
        raise missing_thing(session, thing)
    refuse(session, thing, permission, verb=verb)


def require_change(session: Session, thing: str, permission: Permission, *, verb: str) -> None:
    """``require_right`` where what is closed is looked for afterwards: then it is missed in the words in which any other is missed."""
    if may_see(session, thing):
        require_right(session, thing, permission, verb=verb)


def may_do(session: Session, thing: str, permission: Permission) -> bool:
    """``require_right`` as a question. Nothing is audited."""
    if permission is Permission.PERSONAL:
        return _sees_personal(session, thing)
    standing = find_standing(session)
    return standing is None or standing.may(thing, permission)


def refuse(session: Session, thing: str, permission: Permission, *, verb: str) -> None:
    """Write the refusal into the chain of the workspace, and raise PermissionDenied."""
    session.record_refusal(verb, thing=thing, detail={"needs": f"{SEE if permission is Permission.PERSONAL else permission} on {thing}"})
    raise denied(session.actor.name, thing, permission, verb=verb)


def denied(actor: str, thing: str, permission: Permission, *, verb: str) -> PermissionDenied:
    """The error of one who may read a thing and wanted more."""
    if permission is Permission.PERSONAL:
        return PermissionDenied(
            f"'{actor}' may not see personal columns: '{verb}' needs the right '{SEE}' on '{thing}'.",
            hint=f"an owner of the workspace gives it: endcap rights grant {thing} --to user/{actor} --may {SEE}",
        )
    stands = f"'{actor}' does not own '{thing}'," if permission is Permission.OWN else f"'{thing}' is closed: '{actor}' may read it,"
    return PermissionDenied(
        f"{stands} and '{verb}' needs the right '{permission}' on it.",
        hint=f"ask who owns it: endcap rights ls {thing}",
    )


def missing_thing(session: Session, thing: str) -> NotFound:
    """The error of a thing that is not there, or not for this session: the same words."""
    sort, _, name = thing.partition("/")
    return NotFound(f"No {'feature view' if sort == 'view' else sort} {name[:100]!r} in workspace '{session.workspace}'.")


def stamp_standing(session: Session) -> object:
    """What tells apart sessions of one workspace that do not see the same: what was opened for one is not for another. None: all is seen."""
    return None if find_standing(session) is None else (session.holder.name, session.only, _CHANGES.n)


def _find_kept(session: Session) -> _Kept:
    place, change, now_s = ("rights", session.workspace), _CHANGES.n, monotonic()
    kept = session.ports.kept.get(place)
    if isinstance(kept, _Kept) and kept.change == change and now_s < kept.until_s:
        return kept
    guards = session.ports.records.find(GUARDS, workspace=session.workspace, where={"closed": True})
    personal = {guard.thing: guard for guard in guards if guard.thing.startswith(f"{PERSONAL}/")}
    closed = {guard.thing: guard for guard in guards if guard.thing not in personal}
    session.ports.kept[place] = kept = _Kept(change, now_s + KEPT_S, closed, personal)
    return kept


def _find_groups(session: Session, kept: _Kept) -> frozenset[str]:
    """The groups of who asks, by id: one that is renamed keeps its rights, and another that takes its name gets none of them."""
    name, records = session.holder.name, session.ports.records
    groups = kept.groups.get(name)
    if groups is None:
        joined = records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": name, "state": "in"})
        found = (records.get(GROUPS, workspace=HOUSE, id=member.group) for member in joined)
        groups = kept.groups[name] = frozenset(f"group/{group.id}" for group in found if group is not None and group.removed_at is None)
    return groups


def _stand(kept: _Kept, names: set[str], user: str) -> Standing:
    hidden: set[str] = set()
    held: dict[str, frozenset[Permission]] = {}
    for guard in kept.closed.values():
        given = [LEVELS[level] for name, level in guard.may.items() if name in names]
        found = OWNED if guard.owner == user else _NOTHING.union(*given)
        for thing in (guard.thing, *guard.also):
            if found:
                held[thing] = found
            else:
                hidden.add(thing)
    return Standing(frozenset(hidden), held)


def _sees_personal(session: Session, thing: str) -> bool:
    if session.only is not None:
        return False  # what is shared is never personal
    if session.admin:
        return True
    kept = _find_kept(session)
    guards = [guard for name in (thing, f"{PERSONAL}/*") if (guard := kept.personal.get(name)) is not None]
    if not guards:
        return False
    names = {f"user/{session.holder.name}", *_find_groups(session, kept)}
    return any(guard.may.get(name) == SEE for guard in guards for name in names)
