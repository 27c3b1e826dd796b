from __future__ import annotations

from itertools import pairwise

import pytest

from endcap.core.errors import InvalidInput
from endcap.core.permissions import Permission, Role, parse_role, permissions_of


def test_each_role_holds_what_the_one_before_holds_and_one_more() -> None:
    held = [permissions_of(role) for role in (Role.VIEWER, Role.EDITOR, Role.APPROVER, Role.OWNER)]
    assert all(less < more for less, more in pairwise(held))
    assert [len(permissions) for permissions in held] == [2, 3, 4, 5]
    assert held[0] == {Permission.SELF, Permission.READ}
    assert held[-1] == set(Permission) - {Permission.PERSONAL}, "what is personal is shown by a right of its own"


def test_only_approvers_and_owners_release_and_only_owners_own() -> None:
    assert [role for role in Role if Permission.RELEASE in permissions_of(role)] == [Role.APPROVER, Role.OWNER]
    assert [role for role in Role if Permission.OWN in permissions_of(role)] == [Role.OWNER]
    assert Permission.EDIT not in permissions_of(Role.VIEWER)


@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_read_by_its_name(role: Role) -> None:
    assert parse_role(str(role)) is role


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'owners' is not a role. Roles: \['viewer'.* did you mean 'owner'"):
        parse_role("owners")
    with pytest.raises(InvalidInput):
        parse_role("OWNER")
