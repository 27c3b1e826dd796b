"""The verbs of rights: closing a thing, opening it to somebody, handing it over; and who may what."""

from __future__ import annotations

import msgspec

from endcap.core.errors import InvalidInput
from endcap.core.names import require_name
from endcap.core.permissions import Permission, permissions_of
from endcap.governance.people import find_user, has_users
from endcap.governance.rights.checks import may_do, may_see
from endcap.governance.rights.guards import (
    close_thing,
    find_guard,
    give_right,
    hand_over,
    list_guards,
    name_holder,
    open_thing,
    require_owner,
    take_right,
)
from endcap.governance.rights.records import LEVELS, PERSONAL, SEE, Guard
from endcap.governance.sessions import Session
from endcap.governance.tokens import held_role
from endcap.governance.verbs import verb
from endcap.project.things import Thing, find_thing


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """Who may do what to one thing. ``owner`` '' is nobody but the owners of the workspace, who may all of it whatever else is said.

    ``closed``: it is there for its owner and those in ``may`` alone, each (``user/NAME``, ``group/NAME``) as far as it says; otherwise roles alone
    decide. ``yours`` is how far who asks may go, their role aside: read, edit, release, own, or see.
    """

    thing: str
    owner: str
    closed: bool
    may: dict[str, str]
    yours: str


@verb("rights restrict", permission=Permission.EDIT)
def restrict(session: Session, thing: str) -> Rights:
    """Close a thing to all but its owner, the owners of the workspace, and those it is opened to: endcap rights grant.

    ``thing`` is ``table/NAME``, ``view/NAME``, ``model/NAME`` (with its versions, releases, predictions), ``run/ID`` or ``experiment/NAME`` (with
    their files). To others it is not there: by no name, in no list. For its owner and owners of the workspace.
    """
    found = _require_owned(session, thing, verb_name="rights restrict")
    if found.name.startswith(f"{PERSONAL}/"):
        raise InvalidInput("Personal columns are always closed.", hint=f"endcap rights grant {found.name} --to user/NAME --may {SEE}")
    close_thing(session, found.name, owner=found.owner, also=found.also, verb="rights restrict")
    return _tell(session, found)


@verb("rights open", permission=Permission.EDIT)
def open_again(session: Session, thing: str) -> Rights:
    """Let roles alone decide about a thing again. The rights that were given are kept for when it is closed again."""
    found = _require_owned(session, thing, verb_name="rights open")
    if found.name.startswith(f"{PERSONAL}/"):
        raise InvalidInput("Personal columns are always closed.", hint=f"endcap rights revoke {found.name} --to user/NAME")
    open_thing(session, found.name, verb="rights open")
    return _tell(session, found)


@verb("rights grant", permission=Permission.EDIT)
def grant_right(session: Session, thing: str, *, to: str, may: str = "read") -> Rights:
    """Open a closed thing to somebody, in the place of what they had. A right only narrows: what it allows needs the role as well.

    ``to`` is whom: ``user/NAME`` or ``group/NAME``; ``may`` is read, edit or release, each with what comes before it. On ``personal/TABLE``, or
    ``personal/*`` for all tables, it is see: those columns are seen by whom it names alone, whatever their role. For the owner of the thing and
    owners of the workspace.
    """
    found = _require_owned(session, thing, verb_name="rights grant")
    give_right(session, found.name, to, SEE if found.name.startswith(f"{PERSONAL}/") and may == "read" else may, verb="rights grant")
    return _tell(session, found)


@verb("rights revoke", permission=Permission.EDIT)
def revoke_right(session: Session, thing: str, *, to: str) -> Rights:
    """Take a right away that was given to somebody.

    ``to`` is whom it was given to: ``user/NAME`` or ``group/NAME``.
    """
    found = _require_owned(session, thing, verb_name="rights revoke")
    take_right(session, found.name, to, verb="rights revoke")
    return _tell(session, found)


@verb("rights transfer", permission=Permission.EDIT)
def transfer(session: Session, thing: str, *, to: str) -> Rights:
    """Give a thing another owner, who must have a role in the workspace. Whoever gave it away keeps the rights they were given, and no more.

    ``to`` is the user's name. For its owner and owners of the workspace, who may so also where the owner has left.
    """
    found = _require_owned(session, thing, verb_name="rights transfer")
    if found.name.startswith(f"{PERSONAL}/"):
        raise InvalidInput("Rights to personal columns are given by the owners of the workspace.", hint=f"endcap rights ls {found.name}")
    name = require_name(to.removeprefix("user/"), what="user")
    if has_users(session.ports.records):
        find_user(session.ports.records, name)
        if held_role(session.ports.records, user=name, workspace=session.workspace) is None:
            raise InvalidInput(f"'{name}' has no role in workspace '{session.workspace}'.", hint=f"endcap users grant {name} editor")
    kept = hand_over(session, found.name, before=found.owner, owner=name, also=found.also, verb="rights transfer")
    return _tell(session, msgspec.structs.replace(found, owner=kept.owner))


@verb("rights ls", permission=Permission.READ)
def list_rights(session: Session, thing: str | None = None) -> list[Rights]:
    """Who may do what to the things that somebody closed or gave another owner; things of which nothing was said are open to every role.

    ``thing`` is one alone, of which something was said or not. Things that are closed to who asks are left out. Cost grows with the things listed.
    """
    if thing is not None:
        found = find_thing(session, thing)
        return [_tell(session, found)] if _is_told(session, found.name) else []
    return [_of_guard(session, guard) for guard in list_guards(session) if _is_told(session, guard.thing)]


def _require_owned(session: Session, text: str, *, verb_name: str) -> Thing:
    found = find_thing(session, text)
    require_owner(session, found.name, found.owner, verb=verb_name)
    return found


def _is_told(session: Session, thing: str) -> bool:
    """Who sees personal columns is for the owners of the workspace, and those who do."""
    if not thing.startswith(f"{PERSONAL}/"):
        return may_see(session, thing)
    return Permission.OWN in permissions_of(session.role) or may_do(session, thing, Permission.PERSONAL)


def _tell(session: Session, thing: Thing) -> Rights:
    guard = find_guard(session, thing.name)
    return _of_guard(session, guard or Guard(thing=thing.name, owner=thing.owner, at=session.now(), by=""))


def _of_guard(session: Session, guard: Guard) -> Rights:
    personal = guard.thing.startswith(f"{PERSONAL}/")
    may = {name_holder(session, holder): level for holder, level in sorted(guard.may.items())}
    return Rights(thing=guard.thing, owner=guard.owner, closed=guard.closed or personal, may=may, yours=_find_own(session, guard))


def _find_own(session: Session, guard: Guard) -> str:
    if guard.thing.startswith(f"{PERSONAL}/"):
        return SEE if may_do(session, guard.thing, Permission.PERSONAL) else ""
    if Permission.OWN in permissions_of(session.role) or guard.owner == session.holder.name:
        return str(Permission.OWN)
    return next((level for level in reversed(LEVELS) if may_do(session, guard.thing, Permission(level))), "")
