"""Owners and admins: a workspace that has an owner keeps one, and the house an admin, whatever is changed and by however many at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from endcap.core.errors import Conflict
from endcap.core.permissions import Role
from endcap.governance.records import GRANTS, GROUP_GRANTS, HOUSE, MEMBERSHIPS, USERS
from endcap.governance.sessions import Session
from endcap.storage.ports import RecordReader

_OWNER = str(Role.OWNER)


def has_owner(records: RecordReader, workspace: str) -> bool:
    """Whether somebody who can sign in owns a workspace, by a role of their own or one of their groups. Cost grows with who has a role there."""
    return any(_is_enabled(records, user) for user in _list_owners(records, workspace))


def list_owned(records: RecordReader, user: str) -> list[str]:
    """The workspaces that a user owns, sorted. Cost: a read, and one more for each of their groups."""
    own = [grant.workspace for grant in records.find(GRANTS, workspace=HOUSE, where={"user": user}) if grant.role == _OWNER]
    groups = [member.group for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"user": user, "state": "in"})]
    return sorted({*own, *(workspace for group in groups for workspace in list_owned_by_group(records, group))})


def list_owned_by_group(records: RecordReader, group: str) -> list[str]:
    """The workspaces that a group owns; ``group`` is its id."""
    return [grant.workspace for grant in records.find(GROUP_GRANTS, workspace=HOUSE, where={"group": group}) if grant.role == _OWNER]


@contextmanager
def keeping_owners(tx: RecordReader, workspaces: Iterable[str]) -> Iterator[None]:
    """Raise Conflict where the block takes the last owner from one of the workspaces. One that had none may stay so.

    It looks inside the transaction of the change: as writers take turns, of two owners who remove each other one is refused.
    """
    owned = [workspace for workspace in workspaces if has_owner(tx, workspace)]
    yield
    for workspace in owned:
        if not has_owner(tx, workspace):
            raise Conflict(
                f"Workspace '{workspace}' would have no owner left who can sign in.",
                hint=f"make another first: endcap users grant NAME owner --workspace {workspace}",
                last="owner",
            )


@contextmanager
def keeping_admins(tx: RecordReader) -> Iterator[None]:
    """Raise Conflict where the block takes the last admin who can sign in from the house. Cost grows with the users."""
    had = _has_admin(tx)
    yield
    if had and not _has_admin(tx):
        raise Conflict("The house would have no admin left who can sign in.", hint="make another first: endcap users admin NAME", last="admin")


@contextmanager
def auditing_last(session: Session, verb: str, *, thing: str) -> Iterator[None]:
    """Write into the session's chain that a change was refused as it would have left nobody."""
    try:
        yield
    except Conflict as error:
        if "last" in error.details:
            session.record_refusal(verb, thing=thing, detail={"why": error.what})
        raise


def _list_owners(records: RecordReader, workspace: str) -> Iterator[str]:
    for grant in records.find(GRANTS, workspace=HOUSE, where={"workspace": workspace}):
        if grant.role == _OWNER:
            yield grant.user
    for held in records.find(GROUP_GRANTS, workspace=HOUSE, where={"workspace": workspace}):
        if held.role == _OWNER:
            yield from (member.user for member in records.find(MEMBERSHIPS, workspace=HOUSE, where={"group": held.group, "state": "in"}))


def _is_enabled(records: RecordReader, name: str) -> bool:
    user = records.get(USERS, workspace=HOUSE, id=name)
    return user is not None and not user.disabled


def _has_admin(records: RecordReader) -> bool:
    return any(user.admin and not user.disabled for user in records.find(USERS, workspace=HOUSE))
