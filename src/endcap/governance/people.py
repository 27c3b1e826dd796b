"""People: who may sign in, and with which role in which workspace.

Users belong to the house, their roles to workspaces. The house is administered by admins, and by whoever can open the files of its home.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from operator import attrgetter

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.names import require_name
from endcap.core.permissions import Permission, Role, greatest_role, parse_role
from endcap.governance.lockout import find_locked, name_drawer, unlock
from endcap.governance.owners import auditing_last, keeping_admins, keeping_owners, list_owned
from endcap.governance.passwords import hash_password
from endcap.governance.records import GRANTS, GROUP_GRANTS, GROUPS, HOUSE, MEMBERSHIPS, SYSTEM, USERS, Grant, User, grant_id
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader

NO_ROLE = "none"
OWN_GRANT = "own"
TAKEN = frozenset((SYSTEM.name, "nobody"))
"""Names that the audit has for those who are no users: schedules and reactions, and strangers."""
_FEW = 500

Sources = dict[str, dict[str, str]]
"""By workspace what gives somebody a role there, with the role: ``own``, or ``group NAME``."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A user as others see them. ``roles`` are by workspace; whoever does not administer the house sees their own workspace's alone.

    ``sources`` says where each role comes from: by workspace what gives one there, ``own`` or ``group NAME``, with the role that it gives.
    ``locked_until``: after too many wrong passwords none is looked at before then; None where that is not so, or told to admins of the house alone.
    """

    name: str
    roles: dict[str, str]
    sources: Sources
    admin: bool
    disabled: bool
    has_password: bool
    made_at: datetime
    made_by: str
    locked_until: datetime | None = None


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
    if name in TAKEN:
        raise InvalidInput(f"No user can be called {name!r}: in the audit that is somebody else.", hint="take another name")
    hashed = hash_password(password, name=name) if password else ""
    now, house = session.now(), session.in_house()
    with house.change("users add", thing=f"user/{name}", detail={"has_password": bool(hashed)}) as change:
        first = not has_users(change.tx)
        admin = admin or first
        user = User(name=name, made_at=now, made_by=session.actor.name, password=hashed, password_at=now if hashed else None, admin=admin)
        if change.tx.get(USERS, workspace=HOUSE, id=name) is not None:
            raise Conflict(f"The user '{name}' stands already.", hint=f"endcap users password {name}, or endcap users enable {name}")
        change.tx.append(USERS, workspace=HOUSE, record=user)
        if first:
            grant = Grant(user=name, workspace=session.workspace, role=str(Role.OWNER), at=now, by=session.actor.name)
            change.tx.append(GRANTS, workspace=HOUSE, record=grant)
            change.detail["owner_of"] = session.workspace
        change.detail["admin"] = admin
    return make_person(user, {session.workspace: {OWN_GRANT: str(Role.OWNER)}} if first else {})


@verb("users ls", permission=Permission.READ)
def list_people(session: Session, *, everybody: bool = False) -> list[Person]:
    """Who has a role in the workspace, by name, with where the role comes from.

    ``everybody`` is all users of the house, with all their roles, for its admins. Cost grows with the users listed.
    """
    if everybody:
        session.require_admin(verb="users ls")
        users = {user.name: user for user in session.records.find(USERS, workspace=HOUSE)}
        sources = _find_sources(session.records)
        locked = find_locked(session.records, session.now())
        waits = {name: locked[drawer] for name in users if (drawer := name_drawer(name)) in locked} if locked else {}
        people = [make_person(user, sources.get(name, {}), locked_until=waits.get(name)) for name, user in users.items()]
    else:
        sources = _find_sources(session.records, workspace=session.workspace)
        users = _find_users(session.records, list(sources))
        people = [make_person(users[name], held) for name, held in sources.items()]
    people.sort(key=attrgetter("name"))
    return people


@verb("users grant", permission=Permission.OWN)
def grant_role(session: Session, name: str, role: str, *, workspace: str | None = None) -> Person:
    """Give a user a role in the workspace, in place of the one they had: viewer, editor, approver, owner; or none, to take it away.

    ``workspace`` is another one, for admins of the house; a workspace begins with its first owner. Whoever loses a role loses it within a second,
    their tokens too.
    """
    workspace = settle_workspace(session, workspace, verb="users grant")
    given = "" if role == NO_ROLE else str(parse_given(role))
    user = find_user(session.records, name, asked_by=session)
    where, thing = replace(session, workspace=workspace), f"user/{name}"
    with auditing_last(where, "users grant", thing=thing), where.change("users grant", thing=thing, detail={"role": role}) as change:
        before, version = change.tx.get_versioned(GRANTS, workspace=HOUSE, id=grant_id(workspace, name)) or (None, 0)
        change.detail["before"] = (before.role if before else "") or NO_ROLE
        grant = Grant(user=name, workspace=workspace, role=given, at=session.now(), by=session.actor.name)
        with keeping_owners(change.tx, [workspace]):
            change.tx.put(GRANTS, workspace=HOUSE, record=grant, expected_version=version)
        held = _find_sources_of(change.tx, name, workspace)
    return make_person(user, {workspace: held} if held else {})


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


@verb("users admin", permission=Permission.OWN)
def set_admin(session: Session, name: str, *, revoke: bool = False) -> Person:
    """Make a user an admin of the house, who makes and disables users and groups, in whatever workspace. For admins of the house.

    ``revoke`` takes it away again; the last admin who can sign in stays one.
    """
    session.require_admin(verb="users admin")
    return _change_user(session, name, "users admin", admin=not revoke)


@verb("users disable", permission=Permission.OWN)
def disable_user(session: Session, name: str) -> Person:
    """Keep a user from signing in, by password or token, within a second. Their name stays in history and audit. For admins of the house.

    The last owner of a workspace and the last admin are not disabled: somebody else is made one first.
    """
    session.require_admin(verb="users disable")
    return _change_user(session, name, "users disable", disabled=True)


@verb("users unlock", permission=Permission.OWN)
def unlock_user(session: Session, name: str) -> Person:
    """Let a user who waits after too many wrong passwords try again at once. For admins of the house.

    A new password does the same (endcap users password).
    """
    session.require_admin(verb="users unlock")
    with session.in_house().change("users unlock", thing=f"user/{name[:100]}") as change:
        user = find_user(change.tx, name)
        change.detail["waited"] = unlock(change.tx, name)
    return make_person(user, {})


@verb("users enable", permission=Permission.OWN)
def enable_user(session: Session, name: str) -> Person:
    """Let a disabled user sign in again, with the password, tokens and roles they had. For admins of the house."""
    session.require_admin(verb="users enable")
    return _change_user(session, name, "users enable", disabled=False)


def find_user(records: RecordReader, name: str, *, asked_by: Session | None = None) -> User:
    """The user. Raises NotFound, with a name that is near among those that ``asked_by`` may know of; None: without."""
    found = records.get(USERS, workspace=HOUSE, id=name)
    if found is None:
        raise _no_user(records, name, asked_by)
    return found


def _find_users(records: RecordReader, names: list[str]) -> dict[str, User]:
    """Some users by name; of many, all of the house are read at once."""
    if len(names) <= _FEW:
        return {name: find_user(records, name) for name in names}
    return {user.name: user for user in records.find(USERS, workspace=HOUSE)}


def _no_user(records: RecordReader, name: str, asked_by: Session | None) -> NotFound:
    """Who is in the house, its admins are told; others, who has a role in their workspace."""
    known: Iterable[str] = ()
    if asked_by is not None:
        known = (
            (user.name for user in records.find(USERS, workspace=HOUSE)) if asked_by.admin else _find_sources(records, workspace=asked_by.workspace)
        )
    return NotFound(f"There is no user {name[:100]!r}.", hint=suggest(name, known) or "make one: endcap users add NAME")


def _change_user(session: Session, name: str, verb_name: str, **changes: object) -> Person:
    house, thing = session.in_house(), f"user/{name[:100]}"
    detail = {key: value for key, value in changes.items() if key == "admin" and isinstance(value, bool)}
    with auditing_last(house, verb_name, thing=thing), house.change(verb_name, thing=thing, detail=detail) as change:
        found = change.tx.get_versioned(USERS, workspace=HOUSE, id=name)
        if found is None:
            raise _no_user(change.tx, name, session)
        user = msgspec.structs.replace(found[0], **changes)
        taken = user.disabled or (found[0].admin and not user.admin)
        with keeping_owners(change.tx, list_owned(change.tx, name) if user.disabled else ()), keeping_admins(change.tx) if taken else nullcontext():
            change.tx.put(USERS, workspace=HOUSE, record=user, expected_version=found[1])
        if "password" in changes:
            unlock(change.tx, name)
    return make_person(user, {})


def settle_workspace(session: Session, workspace: str | None, *, verb: str) -> str:
    """The workspace that is meant. Another than the session's is for admins of the house."""
    if workspace is None or workspace == session.workspace:
        return session.workspace
    session.require_admin(verb=verb)
    return require_name(workspace, what="workspace")


def parse_given(role: str) -> Role:
    try:
        return parse_role(role)
    except InvalidInput as error:
        raise InvalidInput(f"{error.what[:-1]}, or '{NO_ROLE}' to take it away.", hint=error.hint) from error


def _find_sources(records: RecordReader, *, workspace: str | None = None) -> dict[str, Sources]:
    """What gives users roles, by user, in a workspace (None: in all). Cost: a read of each kind, and in one workspace one for each of its groups."""
    where = {"workspace": workspace} if workspace is not None else None
    found: dict[str, Sources] = defaultdict(dict)
    for grant in records.find(GRANTS, workspace=HOUSE, where=where):
        if grant.role:
            found[grant.user][grant.workspace] = {OWN_GRANT: grant.role}
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for held in records.find(GROUP_GRANTS, workspace=HOUSE, where=where):
        if held.role:
            given[held.group][held.workspace] = held.role
    if workspace is None:
        members = records.find(MEMBERSHIPS, workspace=HOUSE) if given else []
    else:
        members = [member for group in given for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"group": group, "state": "in"})]
    names = _name_groups(records, given)
    for member in members:
        if member.state == "in" and member.group in given:
            held_by = found[member.user]
            for place, role in given[member.group].items():
                held_by.setdefault(place, {})[names[member.group]] = role
    return found


def _find_sources_of(records: RecordReader, user: str, workspace: str) -> dict[str, str]:
    """What gives a user a role in a workspace, as in ``Sources``."""
    grant = records.get(GRANTS, workspace=HOUSE, id=grant_id(workspace, user))
    own = {OWN_GRANT: grant.role} if grant is not None and grant.role else {}
    groups = [member.group for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})]
    given = {group: records.get(GROUP_GRANTS, workspace=HOUSE, id=grant_id(workspace, group)) for group in groups}
    roles = {group: held.role for group, held in given.items() if held is not None and held.role}
    names = _name_groups(records, roles)
    return own | {names[group]: role for group, role in roles.items()}


def _name_groups(records: RecordReader, groups: Iterable[str]) -> dict[str, str]:
    """The word for a group as a source, by its id."""
    found = {group: records.get(GROUPS, workspace=HOUSE, id=group) for group in groups}
    return {identity: f"group {group.name if group else identity}" for identity, group in found.items()}


def make_person(user: User, sources: Sources, *, locked_until: datetime | None = None) -> Person:
    """A user as others see them, with what gives them roles."""
    return Person(
        name=user.name,
        roles={workspace: _greatest(held) for workspace, held in sources.items()},
        sources=sources,
        admin=user.admin,
        disabled=user.disabled,
        has_password=bool(user.password),
        made_at=user.made_at,
        made_by=user.made_by,
        locked_until=locked_until,
    )


def _greatest(held: dict[str, str]) -> str:
    if len(held) == 1:
        return next(iter(held.values()))
    return str(greatest_role(held.values()))
