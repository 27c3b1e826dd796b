"""Groups: people who hold roles together, made by admins of the house, or filled by what a provider of sign-in says of them.

What a group's role gives is held while somebody is in the group, and not a second longer: it is looked up each time, and copied nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import msgspec

from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.names import is_name, require_name
from endcap.core.permissions import Permission, permissions_of
from endcap.governance.owners import auditing_last, has_owner, keeping_owners, list_owned_by_group
from endcap.governance.people import NO_ROLE, find_user, parse_given, settle_workspace
from endcap.governance.records import GROUP_GRANTS, GROUPS, HOUSE, MEMBERSHIPS, Group, GroupGrant, Membership, grant_id
from endcap.governance.sessions import Change, Detail, Session
from endcap.governance.verbs import verb
from endcap.storage.ports import RecordReader, RecordTransaction

MOST_CLAIM = 200
"""Characters of a group's name at a provider."""
MOST_CLAIMS = 1_000
"""Groups that a provider may say of one user; what comes behind them does not count."""


class Member(msgspec.Struct, frozen=True):
    """Somebody in a group. ``source`` is house where an admin said so, or provider."""

    user: str
    source: str
    since: datetime
    by: str


class GroupLine(msgspec.Struct, frozen=True, kw_only=True):
    """A group as it is listed. ``role`` is what it gives in the session's workspace, '' for nothing; ``claim`` is its name at a provider."""

    name: str
    role: str
    n_members: int
    claim: str
    made_at: datetime
    made_by: str


class GroupDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A group with who is in it. ``roles`` are by workspace; whoever does not administer the house sees their own workspace's alone.

    ``removed_at`` is for the answer to who removed it: after that there is no such group.
    """

    name: str
    roles: dict[str, str]
    members: tuple[Member, ...]
    claim: str
    made_at: datetime
    made_by: str
    removed_at: datetime | None = None


class Provided(msgspec.Struct, frozen=True):
    """What a provider's word on a user changed: groups joined and left, by name, and how many it named that are mapped to none here."""

    joined: tuple[str, ...]
    left: tuple[str, ...]
    n_unmapped: int


@verb("groups add", permission=Permission.OWN)
def add_group(session: Session, name: str, *, claim: str | None = None) -> GroupDetail:
    """Make a group, for people who hold roles together. It has none yet: endcap groups join, endcap groups grant.

    ``claim`` is what a provider of sign-in calls it: whoever signs in there is in the group while the provider says so. For admins of the house.
    """
    session.require_admin(verb="groups add")
    require_name(name, what="group")
    wanted = _require_claim(claim)
    group = Group(id=session.new_id("group"), name=name, made_at=session.now(), made_by=session.actor.name, claim=wanted)
    with session.in_house().change("groups add", thing=f"group/{name}", detail={"claim": wanted or None}) as change:
        _require_free(change.tx, name)
        _require_unclaimed(change.tx, wanted)
        change.tx.append(GROUPS, workspace=HOUSE, record=group)
    return _detail(session, group)


@verb("groups ls", permission=Permission.READ)
def list_groups(session: Session, *, everywhere: bool = False) -> list[GroupLine]:
    """The groups that have a role in the workspace, by name, with how many are in each.

    ``everywhere`` is all groups of the house: for its admins, and for owners of a workspace, who choose among them whom they give a role. Cost grows
    with the groups listed and who is in them.
    """
    roles = {
        held.group: held.role for held in session.records.find(GROUP_GRANTS, workspace=HOUSE, where={"workspace": session.workspace}) if held.role
    }
    if everywhere:
        if Permission.OWN not in permissions_of(session.role):
            session.require_admin(verb="groups ls")
        groups = [group for group in session.records.find(GROUPS, workspace=HOUSE) if group.removed_at is None]
    else:
        groups = [_get_group(session.records, group) for group in roles]
    return sorted((_line(session, group, roles.get(group.id, "")) for group in groups), key=lambda line: line.name)


@verb("groups show", permission=Permission.READ)
def show_group(session: Session, group: str) -> GroupDetail:
    """A group: who is in it and since when, its roles, and its name at a provider.

    It is shown to its members, where it has a role, to owners of a workspace and to admins of the house; to others there is no such group.
    """
    found = find_group(session.records, group, near=_may_see_all(session))
    if not (_may_see_all(session) or _is_in(session.records, found, session.actor.name) or _role_in(session.records, found, session.workspace)):
        raise _no_group(session.records, group, near=False)
    return _detail(session, found)


@verb("groups join", permission=Permission.OWN)
def join_group(session: Session, group: str, user: str) -> GroupDetail:
    """Take a user into a group, and so give them its roles. For admins of the house."""
    session.require_admin(verb="groups join")
    find_user(session.records, user, asked_by=session)
    with session.in_house().change("groups join", thing=f"group/{group[:100]}", detail={"user": user}) as change:
        found = find_group(change.tx, group)
        before = change.tx.get(MEMBERSHIPS, workspace=HOUSE, id=f"{found.id}/{user}")
        if before is not None and (before.state, before.source) == ("in", "house"):
            raise Conflict(f"'{user}' is in the group '{group}' already.")
        _put_member(change.tx, session, found, user, source="house", state="in")
    return _detail(session, found)


@verb("groups leave", permission=Permission.SELF)
def leave_group(session: Session, group: str, *, user: str | None = None) -> GroupDetail:
    """Take somebody out of a group: what it gave is over within a second, their tokens too.

    ``user`` is who leaves, by default oneself; another, for admins of the house. Whom a provider puts there comes back with their next sign-in.
    """
    name = user or session.actor.name
    if name != session.actor.name or session.actor.sort != "person":
        session.require_admin(verb="groups leave")
    house = session.in_house()
    with _changing(house, "groups leave", group, {"user": name}) as change:
        found = find_group(change.tx, group, near=session.admin)
        if not _is_in(change.tx, found, name):
            raise _no_group(change.tx, group, near=False) if not session.admin else NotFound(f"'{name[:100]}' is not in the group '{group}'.")
        with keeping_owners(change.tx, list_owned_by_group(change.tx, found.id)):
            _put_member(change.tx, session, found, name, source="house", state="left")
    return _detail(session, found)


@verb("groups grant", permission=Permission.OWN)
def grant_group(session: Session, group: str, role: str, *, workspace: str | None = None) -> GroupDetail:
    """Give a group a role in the workspace, in place of the one it had: viewer, editor, approver, owner; or none, to take it away.

    Everybody in it holds that role, or their own if that is more. ``workspace`` is another one, for admins of the house.
    """
    workspace = settle_workspace(session, workspace, verb="groups grant")
    given = "" if role == NO_ROLE else str(parse_given(role))
    where = replace(session, workspace=workspace)
    with _changing(where, "groups grant", group, {"role": role}) as change:
        found = find_group(change.tx, group)
        with keeping_owners(change.tx, [workspace]):
            change.detail["before"] = _grant(change.tx, session, found, workspace, given) or NO_ROLE
    return _detail(where, found)


@verb("groups rename", permission=Permission.OWN)
def rename_group(session: Session, group: str, name: str) -> GroupDetail:
    """Give a group another name; its members, its roles and its name at a provider stay. For admins of the house."""
    session.require_admin(verb="groups rename")
    require_name(name, what="group")
    with session.in_house().change("groups rename", thing=f"group/{group[:100]}", detail={"name": name}) as change:
        found = find_group(change.tx, group)
        _require_free(change.tx, name)
        renamed = _put_group(change.tx, msgspec.structs.replace(found, name=name))
    return _detail(session, renamed)


@verb("groups claim", permission=Permission.OWN)
def claim_group(session: Session, group: str, claim: str) -> GroupDetail:
    """Say what a provider of sign-in calls a group, in place of what it called it; or none: then it fills it no more.

    Memberships that the provider gave under the name before end at once, and come back with a sign-in that says the new one. For admins of the house.
    """
    session.require_admin(verb="groups claim")
    wanted = "" if claim == NO_ROLE else _require_claim(claim)
    house = session.in_house()
    with _changing(house, "groups claim", group, {"claim": wanted or None}) as change:
        found = find_group(change.tx, group)
        if wanted != found.claim:
            _require_unclaimed(change.tx, wanted)
            with keeping_owners(change.tx, list_owned_by_group(change.tx, found.id)):
                gone = [member for member in _list_members(change.tx, found) if member.source == "provider"]
                for member in gone:
                    _put_member(change.tx, session, found, member.user, source="provider", state="left")
            change.detail.update(before=found.claim or None, n_ended=len(gone))
            found = _put_group(change.tx, msgspec.structs.replace(found, claim=wanted))
    return _detail(session, found)


@verb("groups remove", permission=Permission.OWN)
def remove_group(session: Session, group: str) -> GroupDetail:
    """Do away with a group: what it gave its members is over within a second. Its name is free for another. For admins of the house."""
    session.require_admin(verb="groups remove")
    house = session.in_house()
    with _changing(house, "groups remove", group) as change:
        found = find_group(change.tx, group)
        with keeping_owners(change.tx, list_owned_by_group(change.tx, found.id)):
            held = [grant.workspace for grant in change.tx.find(GROUP_GRANTS, workspace=HOUSE, where={"group": found.id}) if grant.role]
            for workspace in held:
                _grant(change.tx, session, found, workspace, "")
        members = _list_members(change.tx, found)
        for member in members:
            _put_member(change.tx, session, found, member.user, source=member.source, state="left")
        change.detail.update(n_members=len(members), workspaces=", ".join(sorted(held))[:500])
        removed = _put_group(change.tx, msgspec.structs.replace(found, removed_at=session.now(), removed_by=session.actor.name))
    return _detail(session, removed)


def set_groups_from_provider(session: Session, user: str, groups: Sequence[str]) -> Provided:
    """Hold a user's groups to what a provider of sign-in says now: memberships that it gave and no longer says end, those it says and an admin has
    mapped (``groups claim``) begin. What it calls by a name that is mapped to none counts for nothing. Those that an admin gave stay.

    A group that was renamed there is such a name: what it gave ends, and nothing comes in its place until an admin maps it. Where that leaves a
    workspace without an owner, the audit row says so, and an admin of the house names another. A change is one audit row in the house's chain; no
    change costs two reads. Raises NotFound for a user there is none of.
    """
    said = {claim for claim in list(groups)[:MOST_CLAIMS] if isinstance(claim, str) and claim}
    find_user(session.records, user)
    moves, unmapped = _compare(session.records, user, said)
    if not moves:
        return Provided((), (), len(unmapped))
    with session.in_house().change("groups from-provider", thing=f"user/{user}") as change:
        moves, unmapped = _compare(change.tx, user, said)
        joined, left = (tuple(sorted(group.name for group, state in moves if state == wanted)) for wanted in ("in", "left"))
        owned = [w for group, state in moves if state == "left" for w in list_owned_by_group(change.tx, group.id) if has_owner(change.tx, w)]
        for group, state in moves:
            _put_member(change.tx, session, group, user, source="provider", state=state)
        orphans = sorted({workspace for workspace in owned if not has_owner(change.tx, workspace)})
        told = {"joined": joined, "left": left, "unmapped": [claim for claim in unmapped if claim.isprintable()], "without_owner": orphans}
        change.detail.update({name: ", ".join(found)[:500] for name, found in told.items() if found})
    return Provided(joined, left, len(unmapped))


def list_groups_of(records: RecordReader, user: str) -> tuple[str, ...]:
    """The names of the groups that a user is in, sorted. Cost: a read, and one more for each."""
    found = records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})
    return tuple(sorted(_get_group(records, member.group).name for member in found))


@contextmanager
def _changing(session: Session, verb: str, group: str, detail: Detail | None = None) -> Iterator[Change]:
    """A change of a group, which may be refused as it would leave a workspace without an owner."""
    thing = f"group/{group[:100]}"
    with auditing_last(session, verb, thing=thing), session.change(verb, thing=thing, detail=detail) as change:
        yield change


def _compare(records: RecordReader, user: str, said: set[str]) -> tuple[list[tuple[Group, str]], list[str]]:
    """The groups that a user is to be in, or to have left, by a provider's word; and the names in it that are mapped to none. Cost: two reads."""
    groups = {group.id: group for group in records.find(GROUPS, workspace=HOUSE) if group.removed_at is None}
    now = {member.group: member.source for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})}
    mapped = [identity for identity, group in groups.items() if group.claim and group.claim in said]
    moves = [(groups[identity], "in") for identity in mapped if identity not in now]
    moves += [(groups[identity], "left") for identity, source in now.items() if source == "provider" and identity not in mapped]
    return moves, sorted(said - {groups[identity].claim for identity in mapped})


def _require_claim(claim: str | None) -> str:
    if claim is None:
        return ""
    if not claim.strip() or len(claim) > MOST_CLAIM or not claim.isprintable():
        raise InvalidInput(
            f"A provider calls a group by up to {MOST_CLAIM} printable characters, not by {claim[:100]!r}.",
            hint=f"write what stands in its groups claim, or {NO_ROLE}",
        )
    return claim


def _require_free(tx: RecordReader, name: str) -> None:
    if any(group.removed_at is None for group in tx.find(GROUPS, workspace=HOUSE, where={"name": name})):
        raise Conflict(f"The group '{name}' stands already.", hint=f"endcap groups show {name}")


def _require_unclaimed(tx: RecordReader, claim: str) -> None:
    other = next((group for group in tx.find(GROUPS, workspace=HOUSE) if claim and group.claim == claim and group.removed_at is None), None)
    if other is not None:
        raise Conflict(f"What the provider calls {claim!r} fills the group '{other.name}' already.", hint=f"endcap groups claim {other.name} none")


def find_group(records: RecordReader, name: str, *, near: bool = True) -> Group:
    """The group of a name. Raises NotFound, with a name that is near where the one who asks may see it."""
    found = records.find(GROUPS, workspace=HOUSE, where={"name": name}) if is_name(name) else []
    standing = next((group for group in found if group.removed_at is None), None)
    if standing is None:
        raise _no_group(records, name, near=near)
    return standing


def _no_group(records: RecordReader, name: str, *, near: bool) -> NotFound:
    names = [group.name for group in records.find(GROUPS, workspace=HOUSE) if group.removed_at is None] if near else []
    return NotFound(f"There is no group {name[:100]!r}.", hint=suggest(name[:100], names) or "see: endcap groups ls")


def _get_group(records: RecordReader, identity: str) -> Group:
    found = records.get(GROUPS, workspace=HOUSE, id=identity)
    if found is None:
        raise NotFound(f"There is no group of the id {identity!r}.", hint="restore the home from a backup")
    return found


def _put_group(tx: RecordTransaction, group: Group) -> Group:
    _, version = tx.get_versioned(GROUPS, workspace=HOUSE, id=group.id) or (group, 0)
    tx.put(GROUPS, workspace=HOUSE, record=group, expected_version=version)
    return group


def _put_member(tx: RecordTransaction, session: Session, group: Group, user: str, *, source: str, state: str) -> None:
    member = Membership(group=group.id, user=user, at=session.now(), by=session.actor.name, source=source, state=state)
    _, version = tx.get_versioned(MEMBERSHIPS, workspace=HOUSE, id=member.id) or (member, 0)
    tx.put(MEMBERSHIPS, workspace=HOUSE, record=member, expected_version=version)


def _grant(tx: RecordTransaction, session: Session, group: Group, workspace: str, role: str) -> str:
    """Put a group's role in a workspace; returns the one before."""
    before, version = tx.get_versioned(GROUP_GRANTS, workspace=HOUSE, id=grant_id(workspace, group.id)) or (None, 0)
    grant = GroupGrant(group=group.id, workspace=workspace, role=role, at=session.now(), by=session.actor.name)
    tx.put(GROUP_GRANTS, workspace=HOUSE, record=grant, expected_version=version)
    return before.role if before else ""


def _list_members(records: RecordReader, group: Group) -> list[Membership]:
    return records.find(MEMBERSHIPS, workspace=HOUSE, where={"group": group.id, "state": "in"})


def _is_in(records: RecordReader, group: Group, user: str) -> bool:
    found = records.get(MEMBERSHIPS, workspace=HOUSE, id=f"{group.id}/{user}")
    return found is not None and found.state == "in"


def _role_in(records: RecordReader, group: Group, workspace: str) -> str:
    found = records.get(GROUP_GRANTS, workspace=HOUSE, id=grant_id(workspace, group.id))
    return found.role if found else ""


def _may_see_all(session: Session) -> bool:
    return session.admin or Permission.OWN in permissions_of(session.role)


def _line(session: Session, group: Group, role: str) -> GroupLine:
    n = len(_list_members(session.records, group))
    return GroupLine(name=group.name, role=role, n_members=n, claim=group.claim, made_at=group.made_at, made_by=group.made_by)


def _detail(session: Session, group: Group) -> GroupDetail:
    held = session.records.find(GROUP_GRANTS, workspace=HOUSE, where={"group": group.id})
    roles = {grant.workspace: grant.role for grant in held if grant.role and (session.admin or grant.workspace == session.workspace)}
    members = sorted(_list_members(session.records, group), key=lambda member: member.user)
    return GroupDetail(
        name=group.name,
        roles=dict(sorted(roles.items())),
        members=tuple(Member(member.user, member.source, member.at, member.by) for member in members),
        claim=group.claim,
        made_at=group.made_at,
        made_by=group.made_by,
        removed_at=group.removed_at,
    )
