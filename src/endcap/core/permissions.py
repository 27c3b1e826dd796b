"""Who may do what: four roles, each holding what the one before it holds and more."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from endcap.core.errors import InvalidInput, suggest


class Permission(StrEnum):
    """What a verb asks for."""

    SELF = "self"  # change what is one's own: a password, tokens
    READ = "read"  # see definitions, runs, versions, predictions
    EDIT = "edit"  # define, ingest, train, forecast
    RELEASE = "release"  # make a version answer, or an earlier one answer again
    OWN = "own"  # rights, audit exports, settings of the workspace
    PERSONAL = "personal"  # see columns declared personal: in no role, given one by one


class Role(StrEnum):
    VIEWER = "viewer"
    EDITOR = "editor"
    APPROVER = "approver"
    OWNER = "owner"


_HELD: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.SELF, Permission.READ}),
    Role.EDITOR: frozenset({Permission.SELF, Permission.READ, Permission.EDIT}),
    Role.APPROVER: frozenset({Permission.SELF, Permission.READ, Permission.EDIT, Permission.RELEASE}),
    Role.OWNER: frozenset(Permission) - {Permission.PERSONAL},
}


_RANKS: dict[str, int] = {role: n for n, role in enumerate(Role)}


def permissions_of(role: Role) -> frozenset[Permission]:
    """What a role holds.

    >>> sorted(permissions_of(Role.EDITOR))
    [<Permission.EDIT: 'edit'>, <Permission.READ: 'read'>, <Permission.SELF: 'self'>]
    """
    return _HELD[role]


def greatest_role(roles: Iterable[str]) -> Role | None:
    """The role among several that holds what the others hold and more; None of none.

    >>> greatest_role(["viewer", "approver", "editor"]), greatest_role([])
    (<Role.APPROVER: 'approver'>, None)
    """
    found = max(roles, key=_RANKS.__getitem__, default=None)
    return None if found is None else Role(found)


def parse_role(text: str) -> Role:
    """A role by its name."""
    try:
        return Role(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a role. Roles: {[str(r) for r in Role]}.", hint=suggest(text, list(Role))) from error
