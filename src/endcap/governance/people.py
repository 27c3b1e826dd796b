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
from endcap.storage.ports import Kind, RecordReader

NO_ROLE = "none"
OWN_GRANT = "own"
TAKEN = frozenset((SYSTEM.name, "nobody"))
"""Names that the audit has for those who are no users: schedules and reactions, and strangers."""
_FEW, _FEW_GROUPS = 500, 10

Roles = dict[str, str]
"""By workspace."""
Sources = dict[str, Roles]
"""By workspace what gives somebody a role there, with the role: ``own``, or ``group NAME``; for those in which a group gives one."""


class _Granted(msgspec.Struct, frozen=True, gc=False):
    """What a list needs of a grant."""

    user: str
    workspace: str
    role: str


class _Joined(msgspec.Struct, frozen=True, gc=False):
    """What a list needs of a membership."""

    group: str
    user: str
    state: str


_GRANTED = Kind("grant", _Granted, "id", GRANTS.indexes)  # read only, so that nothing is filed by its id
_JOINED = Kind("membership", _Joined, "id", MEMBERSHIPS.indexes)


class Person(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A user as others see them. ``roles`` are by workspace; whoever does not administer the house sees their own workspace's alone.

    ``sources`` says where those come from that are not simply their own: by workspace all that gives a role there, ``own`` and ``group NAME``, with
    the role that each gives, of which the greatest is held.
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
    require_user_name(name)
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
    return make_person(user, ({session.workspace: str(Role.OWNER)} if first else {}, {}))


@verb("users ls", permission=Permission.READ)
def list_people(session: Session, *, everybody: bool = False) -> list[Person]:
    """Who has a role in the workspace, by name, with where the role comes from.

    ``everybody`` is all users of the house, with all their roles, for its admins. Cost grows with the users listed.
    """
    if everybody:
        session.require_admin(verb="users ls")
        held = _find_held(session.records)
        users = session.records.find(USERS, workspace=HOUSE)
        locked = find_locked(session.records, session.now())
    else:
        held = _find_held(session.records, workspace=session.workspace)
        users, locked = _find_users(session.records, list(held)), {}
    nothing: tuple[Roles, Sources] = ({}, {})
    people = [make_person(user, held.get(user.name, nothing), locked.get(name_drawer(user.name)) if locked else None) for user in users]
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
        held = _find_held_by(change.tx, name, workspace)
    return make_person(user, held)


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
    return make_person(user, _find_held_by(session.records, name, session.workspace))


@verb("users enable", permission=Permission.OWN)
def enable_user(session: Session, name: str) -> Person:
    """Let a disabled user sign in again, with the password, tokens and roles they had. For admins of the house."""
    session.require_admin(verb="users enable")
    return _change_user(session, name, "users enable", disabled=False)


def require_user_name(name: str) -> str:
    """A name that a user can have. Raises InvalidInput."""
    require_name(name, what="user")
    if name in TAKEN:
        raise InvalidInput(f"No user can be called {name!r}: in the audit that is somebody else.", hint="take another name")
    return name


def find_user(records: RecordReader, name: str, *, asked_by: Session | None = None) -> User:
    """The user. Raises NotFound, with a name that is near among those that ``asked_by`` may know of; None: without."""
    found = records.get(USERS, workspace=HOUSE, id=name)
    if found is None:
        raise _no_user(records, name, asked_by)
    return found


def _find_users(records: RecordReader, names: list[str]) -> list[User]:
    """Some users by name; of many, all of the house are read at once."""
    if len(names) <= _FEW:
        return [find_user(records, name) for name in names]
    wanted = set(names)
    return [user for user in records.find(USERS, workspace=HOUSE) if user.name in wanted]


def _no_user(records: RecordReader, name: str, asked_by: Session | None) -> NotFound:
    """Who is in the house, its admins are told; others, who has a role in their workspace."""
    known: Iterable[str] = ()
    if asked_by is not None:
        known = (user.name for user in records.find(USERS, workspace=HOUSE)) if asked_by.admin else _find_held(records, workspace=asked_by.workspace)
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
    return make_person(user, _find_held_by(session.records, name, session.workspace))


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


def _find_held(records: RecordReader, *, workspace: str | None = None) -> dict[str, tuple[Roles, Sources]]:
    """What users hold, by user, in a workspace (None: in all). Cost: a read of each kind, and in one workspace one for each of its groups.

    What some groups and roles of one's own come to is put together once, and shared by all who hold just those.
    """
    where = {"workspace": workspace} if workspace is not None else None
    own: dict[str, Roles] = {}
    for grant in records.find(_GRANTED, workspace=HOUSE, where=where):
        if grant.role:
            if grant.user in own:
                own[grant.user][grant.workspace] = grant.role
            else:
                own[grant.user] = {grant.workspace: grant.role}
    given: dict[str, Roles] = defaultdict(dict)
    for by_group in records.find(GROUP_GRANTS, workspace=HOUSE, where=where):
        if by_group.role:
            given[by_group.group][by_group.workspace] = by_group.role
    groups: dict[str, tuple[str, ...]] = {}
    for member in _list_joined(records, given, whole=workspace is None):
        if member.state == "in" and member.group in given:
            before = groups.get(member.user)
            groups[member.user] = (member.group,) if before is None else (*before, member.group)
    names = _name_groups(records, given)
    united = {those: _unite_groups({names[group]: given[group] for group in those}) for those in set(groups.values())}
    found = {user: united[those] for user, those in groups.items()}
    shared: dict[tuple[object, ...], tuple[Roles, Sources]] = {}
    nothing: Sources = {}
    for user, roles in own.items():
        if user not in groups:
            found[user] = (roles, nothing)
            continue
        key = (groups[user], *roles.items())
        if key not in shared:
            shared[key] = _add_own(found[user], roles)
        found[user] = shared[key]
    return found


def _list_joined(records: RecordReader, groups: Iterable[str], *, whole: bool) -> list[_Joined]:
    """Who is in some groups; where those are the ``whole`` house's, by one read."""
    if whole:
        return records.find(_JOINED, workspace=HOUSE)
    return [member for group in groups for member in records.find(_JOINED, workspace=HOUSE, where={"group": group, "state": "in"})]


def _find_held_by(records: RecordReader, user: str, workspace: str) -> tuple[Roles, Sources]:
    """What a user holds in a workspace."""
    grant = records.get(GRANTS, workspace=HOUSE, id=grant_id(workspace, user))
    own: Roles = {workspace: grant.role} if grant is not None and grant.role else {}
    groups = [member.group for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})]
    given = {group: records.get(GROUP_GRANTS, workspace=HOUSE, id=grant_id(workspace, group)) for group in groups}
    names = _name_groups(records, groups)
    return _add_own(_unite_groups({names[group]: {workspace: held.role} for group, held in given.items() if held is not None and held.role}), own)


def _unite_groups(given: dict[str, Roles]) -> tuple[Roles, Sources]:
    """What groups give together, by their names as sources."""
    if len(given) == 1:
        ((name, roles),) = given.items()
        return roles, {workspace: {name: role} for workspace, role in roles.items()}
    sources: Sources = {}
    for name, roles in given.items():
        for workspace, role in roles.items():
            sources.setdefault(workspace, {})[name] = role
    return {workspace: str(greatest_role(told.values())) for workspace, told in sources.items()}, sources


def _add_own(held: tuple[Roles, Sources], own: Roles) -> tuple[Roles, Sources]:
    """What groups give, and the roles that somebody has of their own."""
    roles, sources = held[0] | own, held[1]
    for workspace in own.keys() & sources.keys():
        roles[workspace] = str(greatest_role((own[workspace], held[0][workspace])))
        sources = sources | {workspace: {OWN_GRANT: own[workspace]} | held[1][workspace]}
    return roles, sources


def _name_groups(records: RecordReader, groups: Iterable[str]) -> dict[str, str]:
    """The word for a group as a source, by its id."""
    wanted = set(groups)
    if len(wanted) > _FEW_GROUPS:
        return {group.id: f"group {group.name}" for group in records.find(GROUPS, workspace=HOUSE) if group.id in wanted}
    found = {group: records.get(GROUPS, workspace=HOUSE, id=group) for group in wanted}
    return {identity: f"group {group.name if group else identity}" for identity, group in found.items()}


def make_person(user: User, held: tuple[Roles, Sources] = ({}, {}), locked_until: datetime | None = None) -> Person:
    """A user as others see them, with the roles they hold."""
    return Person(
        name=user.name,
        roles=held[0],
        sources=held[1],
        admin=user.admin,
        disabled=user.disabled,
        has_password=bool(user.password),
        made_at=user.made_at,
        made_by=user.made_by,
        locked_until=locked_until,
    )
