"""A workspace keeps an owner and the house an admin, also where many take them away at once, on every back end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from endcap.core.errors import Conflict, EndcapError
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.groups import add_group, grant_group, join_group, leave_group
from endcap.governance.owners import has_owner, list_owned
from endcap.governance.people import add_user, disable_user, enable_user, find_user, grant_role, list_people, set_admin
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session


@pytest.fixture(params=["memory", "embedded", "postgres"])
def owner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    url = {"memory": "memory://", "embedded": tmp_path / "home"}.get(request.param) or request.getfixturevalue("postgres_home")()
    session = make_session(url, actor="root")
    add_user(session, "ada")
    yield session
    session.ports.close()


def as_user(session: Session, name: str, *, workspace: str = "default") -> Session:
    return replace(session, actor=Actor(name), role=Role.OWNER, admin=False, workspace=workspace)


def at_once(*calls: Callable[[], object]) -> list[EndcapError | None]:
    """What each of some calls that begin together raised."""
    gate = Barrier(len(calls))

    def work(call: Callable[[], object]) -> EndcapError | None:
        gate.wait()
        try:
            call()
        except EndcapError as error:
            return error
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, calls))


def test_the_last_owner_neither_leaves_nor_is_taken_away_nor_disabled(owner: Session) -> None:
    sentence = "Workspace 'default' would have no owner left who can sign in"
    add_user(owner, "bob", admin=True)
    for call in (
        lambda: grant_role(as_user(owner, "ada"), "ada", "none"),
        lambda: grant_role(owner, "ada", "approver"),
        lambda: disable_user(owner, "ada"),
    ):
        with pytest.raises(Conflict, match=sentence):
            call()
    refused = [*list_audit(owner, outcome="refused"), *list_audit(owner, house=True, outcome="refused")]
    assert [(row.verb, row.thing) for row in refused] == [("users grant", "user/ada")] * 2 + [("users disable", "user/ada")]
    assert list_owned(owner.records, "ada") == ["default"]
    grant_role(owner, "bob", "owner")
    disable_user(owner, "bob")
    with pytest.raises(Conflict, match=sentence):
        grant_role(owner, "ada", "none")
    enable_user(owner, "bob")
    assert grant_role(as_user(owner, "ada"), "ada", "none").roles == {}
    verify_audit(owner)


def test_a_workspace_that_had_no_owner_may_stay_so(owner: Session) -> None:
    add_user(owner, "bob")
    assert not has_owner(owner.records, "shoes")
    grant_role(owner, "bob", "viewer", workspace="shoes")
    grant_role(owner, "bob", "none", workspace="shoes")


@pytest.mark.parametrize("round_", range(3))
def test_of_two_owners_who_remove_each_other_at_once_one_is_refused(owner: Session, round_: int) -> None:
    add_user(owner, "bob")
    grant_role(owner, "bob", "owner")
    ada, bob = as_user(owner, "ada"), as_user(owner, "bob")
    outcomes = at_once(lambda: grant_role(ada, "bob", "none"), lambda: grant_role(bob, "ada", "viewer"))
    assert [type(error) for error in outcomes if error is not None] == [Conflict], round_
    assert has_owner(owner.records, "default")
    assert [row.outcome for row in list_audit(owner, limit=2)].count("refused") == 1
    assert sum(person.roles.get("default") == "owner" for person in list_people(owner)) == 1
    verify_audit(owner)


def test_of_many_owners_who_all_leave_at_once_one_stays(owner: Session) -> None:
    names = [f"user{i}" for i in range(4)]
    add_group(owner, "heads")
    for name in names:
        add_user(owner, name)
        grant_role(owner, name, "owner", workspace="shoes")
    join_group(owner, "heads", "user0")
    grant_group(owner, "heads", "owner", workspace="shoes")
    grant_role(owner, "user0", "none", workspace="shoes")
    leaving = [lambda name=name: grant_role(as_user(owner, name, workspace="shoes"), name, "none") for name in names[1:3]]
    outcomes = at_once(
        lambda: leave_group(as_user(owner, "user0"), "heads"),
        *leaving,
        lambda: disable_user(owner, "user3"),
    )
    assert [type(error) for error in outcomes if error is not None] == [Conflict]
    assert has_owner(owner.records, "shoes")
    for where in (owner, replace(owner, workspace="shoes")):
        verify_audit(where)
    verify_audit(owner, house=True)


def test_of_two_admins_who_remove_each_other_at_once_one_is_refused(owner: Session) -> None:
    add_user(owner, "bob", admin=True)
    grant_role(owner, "bob", "owner")
    ada, bob = (replace(as_user(owner, name), admin=True) for name in ("ada", "bob"))
    outcomes = at_once(lambda: set_admin(ada, "bob", revoke=True), lambda: disable_user(bob, "ada"))
    assert [type(error) for error in outcomes if error is not None] == [Conflict]
    users = [find_user(owner.records, name) for name in ("ada", "bob")]
    assert sum(user.admin and not user.disabled for user in users) == 1
    verify_audit(owner, house=True)
