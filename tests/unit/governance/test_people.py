from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance import people
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.passwords import check_password
from endcap.governance.people import add_user, disable_user, enable_user, find_user, grant_role, has_users, list_people, set_admin, set_password
from endcap.governance.records import HOUSE, USERS, Actor
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

GOOD, OTHER = "pine under marble", "marble under pine"

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def owner() -> Session:
    """The owner of the machine."""
    return make_session(actor="root")


def as_user(session: Session, name: str, role: Role, *, admin: bool = False, workspace: str = "default") -> Session:
    return replace(session, actor=Actor(name), role=role, admin=admin, workspace=workspace)


def test_the_first_user_is_admin_and_owner_and_later_ones_are_nothing_yet(owner: Session) -> None:
    assert not has_users(owner.records)
    first = add_user(owner, "ada", password=GOOD)
    assert has_users(owner.records)
    assert (first.admin, first.roles, first.has_password, first.made_by) == (True, {"default": "owner"}, True, "root")
    second = add_user(owner, "bob")
    assert (second.admin, second.roles, second.has_password) == (False, {}, False)
    assert add_user(owner, "cleo", admin=True).admin
    assert [person.name for person in list_people(owner)] == ["ada"]
    assert [(person.name, person.roles) for person in list_people(owner, everybody=True)] == [
        ("ada", {"default": "owner"}),
        ("bob", {}),
        ("cleo", {}),
    ]


def test_many_people_are_listed_as_few_are(owner: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ada", "bob", "cleo"):
        add_user(owner, name)
        grant_role(owner, name, "owner")
    few = list_people(owner)
    monkeypatch.setattr(people, "_FEW", 2)
    assert list_people(owner) == few
    assert [person.name for person in few] == ["ada", "bob", "cleo"]


def test_a_password_is_kept_as_a_hash_and_shown_nowhere(owner: Session) -> None:
    shown = add_user(owner, "ada", password=GOOD)
    user = find_user(owner.records, "ada")
    assert check_password(user.password, GOOD)
    rows = msgspec.json.encode(list_audit(owner, house=True)).decode()
    for text in (msgspec.json.encode(shown).decode(), repr(shown), repr(user), rows):
        assert GOOD not in text
        assert "argon2" not in text


def test_a_user_is_made_once_under_a_name_that_is_one(owner: Session) -> None:
    add_user(owner, "ada")
    with pytest.raises(Conflict, match="The user 'ada' stands already"):
        add_user(owner, "ada")
    for name in ("", "../ada", "_house", "a b", "x" * 101, "ada\n", "가나다", "🙂", "%00"):
        with pytest.raises(InvalidInput, match="cannot be the name of a user"):
            add_user(owner, name)
    with pytest.raises(InvalidInput, match="'system'"):
        add_user(owner, "system")
    with pytest.raises(InvalidInput, match="The password has 5 characters"):
        add_user(owner, "bob", password="short")
    assert [user.name for user in owner.records.find(USERS, workspace=HOUSE)] == ["ada"]


def test_a_role_is_given_changed_and_taken_away_and_each_is_audited(owner: Session) -> None:
    add_user(owner, "ada")
    add_user(owner, "bob")
    assert grant_role(owner, "bob", "viewer").roles == {"default": "viewer"}
    assert grant_role(owner, "bob", "approver").roles == {"default": "approver"}
    assert [(person.name, person.roles) for person in list_people(owner)] == [("ada", {"default": "owner"}), ("bob", {"default": "approver"})]
    assert grant_role(owner, "bob", "none").roles == {}
    assert [person.name for person in list_people(owner)] == ["ada"]
    assert [row.detail for row in list_audit(owner, thing="user/bob")] == [
        {"role": "none", "before": "approver"},
        {"role": "approver", "before": "viewer"},
        {"role": "viewer", "before": "none"},
    ]
    with pytest.raises(NotFound, match=r"There is no user 'bobb'. Hint: did you mean 'bob'"):
        grant_role(owner, "bobb", "viewer")
    with pytest.raises(InvalidInput, match=r"'boss' is not a role. .*or 'none' to take it away"):
        grant_role(owner, "bob", "boss")
    verify_audit(owner)
    verify_audit(owner, house=True)


def test_an_owner_rules_their_own_workspace_and_an_admin_each(owner: Session) -> None:
    add_user(owner, "ada")
    add_user(owner, "bob")
    bob = as_user(owner, "bob", Role.OWNER, workspace="shoes")
    assert grant_role(bob, "ada", "viewer").roles == {"shoes": "viewer"}
    assert [row.verb for row in list_audit(bob)] == ["users grant"]
    with pytest.raises(PermissionDenied, match=r"'bob' does not administer the house, as 'users grant' asks here"):
        grant_role(bob, "bob", "owner", workspace="default")
    ada = as_user(owner, "ada", Role.OWNER, admin=True)
    assert grant_role(ada, "bob", "owner", workspace="hats").roles == {"hats": "owner"}
    for name in ("_house", "../other", "%00", "a" * 300, "🙂"):
        with pytest.raises(InvalidInput, match="cannot be the name of a workspace"):
            grant_role(ada, "bob", "owner", workspace=name)
    assert list_people(as_user(owner, "bob", Role.VIEWER, workspace="hats"))[0].roles == {"hats": "owner"}, "nobody else's roles are told"


def test_who_does_not_administer_the_house_makes_and_changes_nobody(owner: Session) -> None:
    add_user(owner, "ada", password=GOOD)
    bob = as_user(owner, "bob", Role.OWNER)
    before = len(list_audit(owner, house=True))
    for call in (
        lambda: add_user(bob, "eve", admin=True),
        lambda: disable_user(bob, "ada"),
        lambda: enable_user(bob, "ada"),
        lambda: set_password(bob, "ada", password=OTHER),
        lambda: list_people(bob, everybody=True),
        lambda: list_audit(bob, house=True),
        lambda: verify_audit(bob, house=True),
    ):
        with pytest.raises(PermissionDenied, match="'bob' does not administer the house"):
            call()
    rows = list_audit(owner, house=True)
    assert len(rows) == before + 7
    assert {(row.actor, row.outcome, row.detail["needs"]) for row in rows[:7]} == {("bob", "refused", "admin")}
    assert check_password(find_user(owner.records, "ada").password, GOOD)


def test_ones_own_password_is_ones_own_to_change_but_not_a_tokens(owner: Session) -> None:
    add_user(owner, "ada", password=GOOD)
    ada = as_user(owner, "ada", Role.VIEWER)
    assert set_password(ada, "ada", password=OTHER).has_password
    assert check_password(find_user(owner.records, "ada").password, OTHER)
    with pytest.raises(PermissionDenied):
        set_password(replace(ada, actor=Actor("ada", "token")), "ada", password=GOOD)
    for password in (None, ""):
        with pytest.raises(InvalidInput, match="There is no password"):
            set_password(ada, "ada", password=password)
    with pytest.raises(NotFound, match="There is no user 'bob'"):
        set_password(owner, "bob", password=GOOD)


def test_a_user_is_disabled_and_enabled_but_the_last_admin_is_not(owner: Session) -> None:
    add_user(owner, "ada")
    add_user(owner, "bob", admin=True)
    grant_role(owner, "bob", "owner")
    assert disable_user(owner, "bob").disabled
    with pytest.raises(Conflict, match="The house would have no admin left who can sign in"):
        disable_user(owner, "ada")
    assert not find_user(owner.records, "ada").disabled
    assert not enable_user(owner, "bob").disabled
    assert disable_user(owner, "ada").disabled
    with pytest.raises(NotFound):
        disable_user(owner, "nobody")


def test_of_many_first_users_at_once_one_is_the_first(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home", actor="root")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: add_user(session, f"user{i}"), range(8)))
    assert [person.admin for person in made].count(True) == 1
    assert [len(person.roles) for person in made].count(1) == 1
    verify_audit(session, house=True)
    session.ports.close()


def test_the_system_does_not_administer_the_house(owner: Session) -> None:
    with pytest.raises(PermissionDenied):
        add_user(owner.as_system(), "ada")


def test_who_administers_the_house_is_changed_but_the_last_one_stays(owner: Session) -> None:
    add_user(owner, "ada")
    add_user(owner, "bob")
    with pytest.raises(Conflict, match="The house would have no admin left"):
        set_admin(owner, "ada", revoke=True)
    assert set_admin(owner, "bob").admin
    assert set_password(owner, "ada", password=GOOD).roles == {"default": "owner"}
    assert not set_admin(owner, "ada", revoke=True).admin
    with pytest.raises(PermissionDenied, match="does not administer the house"):
        set_admin(as_user(owner, "ada", Role.OWNER), "ada")
    rows = [(row.verb, row.outcome, row.detail.get("admin")) for row in list_audit(owner, house=True, limit=5)]
    assert rows == [
        ("users admin", "refused", None),
        ("users admin", "done", False),
        ("users password", "done", None),
        ("users admin", "done", True),
        ("users admin", "refused", None),
    ]
