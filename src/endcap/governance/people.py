"""People: who may sign in, and with which role in which workspace.

Users belong to the house, their roles to workspaces. The house is administered by admins, and by whoever can open the files of its home.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission, Role, parse_role
from endcap.governance.passwords import hash_password
from endcap.governance.records import GRANTS, HOUSE, SYSTEM, USERS, Grant, User, grant_id
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

_NO_ROLE = "none"
_FEW = 500


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user as others see them. ``roles`` are by workspace; whoever does not administer the house sees their own workspace's alone."""

    name: str
    roles: dict[str, str]
    admin: bool
    disabled: bool
    has_password: bool
    made_at: datetime
    made_by: str


def has_users(records: RecordReader) -> bool:
    """Whether anyone was made a user: from then on nobody gets in unnamed. Cost: one read."""
    return bool(records.find(USERS, workspace=HOUSE, limit=1))


@verb("users add", permission=Permission.OWN)
def add_user(session: Session, name: str, *, password: str | None = None, admin: bool = False) -> Person:
    """Make a user: a person, or a program that shall have tokens.

    ``password`` is asked for, or read from standard input where nobody can be asked; without one only tokens sign in. ``admin`` is whether they
    administer the house. The first user is an admin and owner of the workspace, and from then on the service asks everybody to sign in.
    Others get a role by: endcap users grant.
    """
    session.require_admin(verb="users add")
    require_name(name, what="user")
    if name == SYSTEM.name:
        raise InvalidInput(f"No user can be called {name!r}: schedules and reactions are.", hint="take another name")
    hashed = hash_password(password, name=name) if password else ""
    now, house = session.now(), session.in_house()
    with house.change("users add", thing=f"user/{name}", detail={"has_password": bool(hashed)}) as change:
        first = not has_users(change.tx)
        admin = admin or first
        user = User(name=name, made_at=now, made_by=session.actor.name, password=hashed, password_at=now if hashed else None, admin=admin)
        if change.tx.get(USERS, workspace=HOUSE, id=name) is not None:
            raise Conflict(f"The user '{name}' stands already.", hint=f"endcap users password {name}, or endcap users enable {name}")
        change.tx.append(USERS, workspace=HOUSE, record=user)
        roles = {session.workspace: str(Role.OWNER)} if first else {}
        for workspace, role in roles.items():
            grant = Grant(user=name, workspace=workspace, role=role, at=now, by=session.actor.name)
            change.tx.append(GRANTS, workspace=HOUSE, record=grant)
            change.detail["owner_of"] = workspace
        change.detail["admin"] = admin
    return _person(user, roles)


@verb("users ls", permission=Permission.READ)
def list_people(session: Session, *, everybody: bool = False) -> list[Person]:
    """Who has a role in the workspace, by name.

    ``everybody`` is all users of the house, with all their roles, for its admins. Cost grows with the users listed.
    """
    if everybody:
        session.require_admin(verb="users ls")
        roles: dict[str, dict[str, str]] = {}
        for grant in session.records.find(GRANTS, workspace=HOUSE):
            if grant.role:
                roles.setdefault(grant.user, {})[grant.workspace] = grant.role
        users = session.records.find(USERS, workspace=HOUSE)
        return sorted((_person(user, roles.get(user.name, {})) for user in users), key=lambda person: person.name)
    grants = [grant for grant in session.records.find(GRANTS, workspace=HOUSE, where={"workspace": session.workspace}) if grant.role]
    known = _find_users(session.records, [grant.user for grant in grants])
    found = [(known[grant.user], grant) for grant in grants]
    return sorted((_person(user, {grant.workspace: grant.role}) for user, grant in found), key=lambda person: person.name)


@verb("users grant", permission=Permission.OWN)
def grant_role(session: Session, name: str, role: str, *, workspace: str | None = None) -> Person:
    """Give a user a role in the workspace, in place of the one they had: viewer, editor, approver, owner; or none, to take it away.

    ``workspace`` is another one, for admins of the house; a workspace begins with its first owner. Whoever loses a role loses it within a second,
    their tokens too.
    """
    workspace = settle_workspace(session, workspace, verb="users grant")
    given = "" if role == _NO_ROLE else str(_parse_given(role))
    user = find_user(session.records, name)
    where = replace(session, workspace=workspace)
    with where.change("users grant", thing=f"user/{name}", detail={"role": role}) as change:
        before, version = change.tx.get_versioned(GRANTS, workspace=HOUSE, id=grant_id(workspace, name)) or (None, 0)
        change.detail["before"] = (before.role if before else "") or _NO_ROLE
        grant = Grant(user=name, workspace=workspace, role=given, at=session.now(), by=session.actor.name)
        change.tx.put(GRANTS, workspace=HOUSE, record=grant, expected_version=version)
    return _person(user, {workspace: given} if given else {})


@verb("users password", permission=Permission.SELF)
def set_password(session: Session, name: str, *, password: str | None = None) -> Person:
    """Set a password: one's own, or as an admin of the house anybody's.

    ``password`` is asked for, or read from standard input where nobody can be asked. Tokens go on as they were: endcap tokens revoke.
    """
    if name != session.actor.name or session.actor.sort != "person":  # a token that leaked must not become a password
        session.require_admin(verb="users password")
    if not password:
        raise InvalidInput("There is no password.", hint="type one, or write it to standard input")
    hashed = hash_password(password, name=name)
    return _change_user(session, name, "users password", password=hashed, password_at=session.now())


@verb("users disable", permission=Permission.OWN)
def disable_user(session: Session, name: str) -> Person:
    """Keep a user from signing in, by password or token, within a second. Their name stays in history and audit. For admins of the house."""
    session.require_admin(verb="users disable")
    return _change_user(session, name, "users disable", disabled=True)


@verb("users enable", permission=Permission.OWN)
def enable_user(session: Session, name: str) -> Person:
    """Let a disabled user sign in again, with the password, tokens and roles they had. For admins of the house."""
    session.require_admin(verb="users enable")
    return _change_user(session, name, "users enable", disabled=False)


def find_user(records: RecordReader, name: str) -> User:
    """The user. Raises NotFound, with a name that is near."""
    found = records.get(USERS, workspace=HOUSE, id=name)
    if found is None:
        raise _no_user(records, name)
    return found


def _find_users(records: RecordReader, names: list[str]) -> dict[str, User]:
    """Some users by name; of many, all of the house are read at once."""
    if len(names) <= _FEW:
        return {name: find_user(records, name) for name in names}
    return {user.name: user for user in records.find(USERS, workspace=HOUSE)}


def _no_user(records: RecordReader, name: str) -> NotFound:
    near = suggest(name, [user.name for user in records.find(USERS, workspace=HOUSE)])
    return NotFound(f"There is no user {name[:100]!r}.", hint=near or "make one: endcap users add NAME")


def _change_user(session: Session, name: str, verb_name: str, **changes: object) -> Person:
    with session.in_house().change(verb_name, thing=f"user/{name}") as change:
        found = change.tx.get_versioned(USERS, workspace=HOUSE, id=name)
        if found is None:
            raise _no_user(change.tx, name)
        user = msgspec.structs.replace(found[0], **changes)
        change.tx.put(USERS, workspace=HOUSE, record=user, expected_version=found[1])
        if user.disabled and not any(other.admin and not other.disabled for other in change.tx.find(USERS, workspace=HOUSE)):
            raise Conflict(f"'{name}' is the last admin of the house who can sign in.", hint="make another first: endcap users add NAME --admin")
    return _person(user, {})


def settle_workspace(session: Session, workspace: str | None, *, verb: str) -> str:
    """The workspace that is meant. Another than the session's is for admins of the house."""
    if workspace is None or workspace == session.workspace:
        return session.workspace
    session.require_admin(verb=verb)
    return require_name(workspace, what="workspace")


def _parse_given(role: str) -> Role:
    try:
        return parse_role(role)
    except InvalidInput as error:
        raise InvalidInput(f"{error.what[:-1]}, or '{_NO_ROLE}' to take it away.", hint=error.hint) from error


def _person(user: User, roles: dict[str, str]) -> Person:
    return Person(
        name=user.name,
        roles=roles,
        admin=user.admin,
        disabled=user.disabled,
        has_password=bool(user.password),
        made_at=user.made_at,
        made_by=user.made_by,
    )
