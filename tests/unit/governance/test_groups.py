from __future__ import annotations

from dataclasses import replace

import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.credentials import open_by_token, open_by_user
from endcap.governance.groups import (
    add_group,
    claim_group,
    grant_group,
    join_group,
    leave_group,
    list_groups,
    list_groups_of,
    remove_group,
    rename_group,
    set_groups_from_provider,
    show_group,
)
from endcap.governance.people import add_user, disable_user, find_user, grant_role, list_people
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.tokens import held_role, make_token
from endcap.testing.sessions import make_session

HOSTILE = (
    *("", "../other", "%00", "a\x00b", "x" * 300, "한글", "🙂", "a b", "_house", "a..b"),
    *("a\r\nX-Endcap-Workspace: shoes", "'; DROP TABLE record; --"),
)


@pytest.fixture
def owner() -> Session:
    """The owner of the machine, with ada (owner and admin), bob and cleo, and the group demand, which bob is in."""
    session = make_session(actor="root")
    for name in ("ada", "bob", "cleo"):
        add_user(session, name)
    add_group(session, "demand")
    join_group(session, "demand", "bob")
    return session


def as_user(session: Session, name: str, role: Role, *, workspace: str = "default") -> Session:
    return replace(session, actor=Actor(name), role=role, admin=False, workspace=workspace)


def role_of(session: Session, user: str, workspace: str = "default") -> str | None:
    found = held_role(session.records, user=user, workspace=workspace)
    return None if found is None else str(found)


def test_who_is_in_a_group_holds_its_role_and_loses_it_with_the_group(owner: Session) -> None:
    assert role_of(owner, "bob") is None
    assert grant_group(owner, "demand", "editor").roles == {"default": "editor"}
    assert (role_of(owner, "bob"), role_of(owner, "cleo")) == ("editor", None)
    token = make_token(owner, "nightly", user="bob")
    assert open_by_token(owner.records, token.token, workspace=None, now=owner.now()).role is Role.EDITOR
    grant_group(owner, "demand", "viewer")
    assert open_by_token(owner.records, token.token, workspace=None, now=owner.now()).role is Role.VIEWER
    leave_group(owner, "demand", user="bob")
    for opened in (
        lambda: open_by_token(owner.records, token.token, workspace=None, now=owner.now()),
        lambda: open_by_user(owner.records, find_user(owner.records, "bob"), workspace=None),
    ):
        with pytest.raises(PermissionDenied, match="'bob' has no role in workspace 'default'"):
            opened()
    join_group(owner, "demand", "bob")
    assert role_of(owner, "bob") == "viewer"
    grant_group(owner, "demand", "none")
    assert role_of(owner, "bob") is None
    verify_audit(owner)
    verify_audit(owner, house=True)


@pytest.mark.parametrize(
    ("own", "groups", "held"),
    [
        ("none", {}, None),
        ("viewer", {"demand": "editor"}, "editor"),
        ("approver", {"demand": "editor"}, "approver"),
        ("none", {"demand": "viewer", "fraud": "approver", "ops": "none"}, "approver"),
        ("owner", {"demand": "viewer"}, "owner"),
        ("viewer", {"demand": "owner", "ops": "owner"}, "owner"),
    ],
)
def test_the_greatest_of_ones_own_role_and_ones_groups_is_held(owner: Session, own: str, groups: dict[str, str], held: str | None) -> None:
    for name in ("fraud", "ops"):
        add_group(owner, name)
        join_group(owner, name, "bob")
    grant_role(owner, "bob", own)
    for name, role in groups.items():
        grant_group(owner, name, role)
        grant_group(owner, name, "owner", workspace="shoes")
    assert role_of(owner, "bob") == held
    listed = {person.name: person for person in list_people(owner)}
    assert (listed["bob"].roles["default"] if "bob" in listed else None) == held
    everybody = {person.name: person for person in list_people(owner, everybody=True)}
    assert everybody["bob"].roles.get("default") == held


def test_people_are_listed_with_where_their_roles_come_from(owner: Session) -> None:
    grant_group(owner, "demand", "editor")
    grant_group(owner, "demand", "owner", workspace="shoes")
    grant_role(owner, "bob", "viewer")
    both = {"own": "viewer", "group demand": "editor"}
    assert [(person.name, person.roles, person.sources) for person in list_people(owner)] == [
        ("ada", {"default": "owner"}, {}),
        ("bob", {"default": "editor"}, {"default": both}),
    ]
    everybody = {person.name: person for person in list_people(owner, everybody=True)}
    assert everybody["bob"].sources == {"default": both, "shoes": {"group demand": "owner"}}
    assert everybody["bob"].roles == {"default": "editor", "shoes": "owner"}
    assert grant_role(owner, "bob", "none").roles == {"default": "editor"}, "the group's role stays, and is told"
    shoes = as_user(owner, "bob", Role.OWNER, workspace="shoes")
    assert [person.sources for person in list_people(shoes)] == [{"shoes": {"group demand": "owner"}}]


def test_groups_are_listed_and_shown_to_whom_they_concern(owner: Session) -> None:
    add_group(owner, "fraud", claim="eu-fraud")
    grant_group(owner, "demand", "viewer")
    assert [(line.name, line.role, line.n_members, line.claim) for line in list_groups(owner)] == [("demand", "viewer", 1, "")]
    everywhere = list_groups(owner, everywhere=True)
    assert [(line.name, line.role, line.claim) for line in everywhere] == [
        ("demand", "viewer", ""),
        ("fraud", "", "eu-fraud"),
    ]
    viewer = as_user(owner, "bob", Role.VIEWER)
    assert [line.name for line in list_groups(viewer)] == ["demand"]
    with pytest.raises(PermissionDenied):
        list_groups(viewer, everywhere=True)
    shown = show_group(viewer, "demand")
    assert [(member.user, member.source, member.by) for member in shown.members] == [("bob", "house", "root")]
    elsewhere = as_user(owner, "cleo", Role.EDITOR, workspace="shoes")
    said = []
    for name in ("demand", "fraud", "nothing", "../x", "x" * 1000):
        with pytest.raises(NotFound) as refused:
            show_group(elsewhere, name)
        said.append(str(refused.value).replace(repr(name[:100]), "NAME"))
    assert len(set(said)) == 1, "what is there and what is not are told alike"
    with pytest.raises(NotFound, match=r"There is no group 'demnd'. Hint: did you mean 'demand'"):
        show_group(owner, "demnd")
    grant_group(owner, "demand", "owner", workspace="shoes")
    assert show_group(elsewhere, "demand").roles == {"shoes": "owner"}, "nobody else's workspaces are told"
    assert show_group(owner, "demand").roles == {"default": "viewer", "shoes": "owner"}


def test_admins_make_groups_and_members_and_owners_give_them_roles(owner: Session) -> None:
    ada = as_user(owner, "ada", Role.OWNER)
    for call in (
        lambda: add_group(ada, "more"),
        lambda: join_group(ada, "demand", "cleo"),
        lambda: leave_group(ada, "demand", user="bob"),
        lambda: rename_group(ada, "demand", "supply"),
        lambda: claim_group(ada, "demand", "eu-demand"),
        lambda: remove_group(ada, "demand"),
        lambda: grant_group(ada, "demand", "viewer", workspace="shoes"),
        lambda: leave_group(replace(ada, actor=Actor("bob", "token")), "demand"),
    ):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call()
    assert [row.outcome for row in list_audit(owner, house=True, limit=8)] == ["refused"] * 8
    assert grant_group(ada, "demand", "editor").roles == {"default": "editor"}
    bob = as_user(owner, "bob", Role.VIEWER)
    leave_group(bob, "demand")
    assert role_of(owner, "bob") is None
    with pytest.raises(NotFound, match="There is no group 'demand'"):
        leave_group(bob, "demand")


def test_a_group_is_renamed_and_removed_with_what_it_gave(owner: Session) -> None:
    grant_group(owner, "demand", "editor")
    assert rename_group(owner, "demand", "supply").name == "supply"
    assert (role_of(owner, "bob"), list_groups_of(owner.records, "bob")) == ("editor", ("supply",))
    with pytest.raises(NotFound):
        show_group(owner, "demand")
    removed = remove_group(owner, "supply")
    assert (removed.roles, removed.members) == ({}, ())
    assert (role_of(owner, "bob"), list_groups_of(owner.records, "bob"), list_groups(owner, everywhere=True)) == (None, (), [])
    again = add_group(owner, "supply")
    assert (again.roles, again.members) == ({}, ()), "another of the same name is another"
    assert role_of(owner, "bob") is None
    (row, *_) = [found for found in list_audit(owner, house=True) if found.verb == "groups remove"]
    assert row.detail == {"n_members": 1, "workspaces": "default"}


def test_what_cannot_be_is_refused_and_nothing_is_half_written(owner: Session) -> None:
    for name in HOSTILE:
        with pytest.raises(InvalidInput, match="cannot be the name of a group"):
            add_group(owner, name)
        with pytest.raises(InvalidInput, match="cannot be the name of a group"):
            rename_group(owner, "demand", name)
        for call in (
            lambda name=name: show_group(owner, name),
            lambda name=name: join_group(owner, name, "bob"),
            lambda name=name: join_group(owner, "demand", name),
            lambda name=name: leave_group(owner, name),
            lambda name=name: grant_group(owner, name, "viewer"),
            lambda name=name: remove_group(owner, name),
            lambda name=name: set_groups_from_provider(owner, name, ["demand"]),
        ):
            with pytest.raises(NotFound) as refused:
                call()
            assert len(str(refused.value)) < 500
        with pytest.raises(InvalidInput, match="cannot be the name of a workspace"):
            grant_group(owner, "demand", "viewer", workspace=name or "_")
    for claim in ("", " ", "x" * 201, "a\nb", "a\x00"):
        with pytest.raises(InvalidInput, match="A provider calls a group by up to 200 printable"):
            claim_group(owner, "demand", claim)
    with pytest.raises(Conflict, match="The group 'demand' stands already"):
        add_group(owner, "demand")
    with pytest.raises(Conflict, match="The group 'demand' stands already"):
        rename_group(owner, "demand", "demand")
    with pytest.raises(Conflict, match="'bob' is in the group 'demand' already"):
        join_group(owner, "demand", "bob")
    with pytest.raises(NotFound, match="'cleo' is not in the group 'demand'"):
        leave_group(owner, "demand", user="cleo")
    with pytest.raises(InvalidInput, match="'boss' is not a role"):
        grant_group(owner, "demand", "boss")
    assert [line.name for line in list_groups(owner, everywhere=True)] == ["demand"]
    verify_audit(owner, house=True)


def test_a_provider_fills_the_groups_that_are_mapped_and_no_others(owner: Session) -> None:
    claim_group(owner, "demand", "EU Demand / 수요")
    add_group(owner, "fraud", claim="eu-fraud")
    grant_group(owner, "fraud", "approver")
    done = set_groups_from_provider(owner, "cleo", ["eu-fraud", "EU Demand / 수요", "everyone", "everyone", ""])
    assert (done.joined, done.left, done.n_unmapped) == (("demand", "fraud"), (), 1)
    assert role_of(owner, "cleo") == "approver"
    before = len(list_audit(owner, house=True))
    assert set_groups_from_provider(owner, "cleo", ["EU Demand / 수요", "eu-fraud"]).joined == ()
    assert len(list_audit(owner, house=True)) == before, "nothing changed, and nothing is written"
    done = set_groups_from_provider(owner, "cleo", ["EU Demand / 수요"])
    assert (done.left, role_of(owner, "cleo"), list_groups_of(owner.records, "cleo")) == (("fraud",), None, ("demand",))
    done = set_groups_from_provider(owner, "bob", [])
    assert (done.left, list_groups_of(owner.records, "bob")) == ((), ("demand",)), "an admin put him there"
    assert [member.source for member in show_group(owner, "demand").members] == ["house", "provider"]
    join_group(owner, "demand", "cleo")
    assert set_groups_from_provider(owner, "cleo", []).left == (), "and now her"


def test_a_group_that_is_renamed_at_the_provider_ends_what_it_gave(owner: Session) -> None:
    claim_group(owner, "demand", "eu-demand")
    grant_group(owner, "demand", "editor")
    set_groups_from_provider(owner, "cleo", ["eu-demand"])
    assert role_of(owner, "cleo") == "editor"
    for renamed in ("eu-demand-2026", "EU-demand", "eu-demand ", "demand"):
        done = set_groups_from_provider(owner, "cleo", [renamed])
        assert (done.left, done.n_unmapped, role_of(owner, "cleo")) == (("demand",), 1, None)
        (row, *_) = list_audit(owner, house=True, limit=1)
        assert (row.verb, row.thing, row.detail) == ("groups from-provider", "user/cleo", {"left": "demand", "unmapped": renamed})
        set_groups_from_provider(owner, "cleo", ["eu-demand"])
    claim_group(owner, "demand", "eu-demand-2026")
    assert role_of(owner, "cleo") is None, "what was given under the name before has ended"
    assert list_audit(owner, house=True, limit=1)[0].detail == {"claim": "eu-demand-2026", "before": "eu-demand", "n_ended": 1}
    set_groups_from_provider(owner, "cleo", ["eu-demand-2026"])
    assert role_of(owner, "cleo") == "editor"
    with pytest.raises(Conflict, match="fills the group 'demand' already"):
        add_group(owner, "other", claim="eu-demand-2026")
    claim_group(owner, "demand", "none")
    assert (role_of(owner, "cleo"), role_of(owner, "bob")) == (None, "editor")


def test_a_providers_word_that_takes_the_last_owner_is_followed_and_said(owner: Session) -> None:
    add_group(owner, "heads", claim="heads")
    grant_group(owner, "heads", "owner", workspace="shoes")
    set_groups_from_provider(owner, "cleo", ["heads"])
    assert role_of(owner, "cleo", "shoes") == "owner"
    set_groups_from_provider(owner, "cleo", [])
    assert role_of(owner, "cleo", "shoes") is None
    assert list_audit(owner, house=True, limit=1)[0].detail == {"left": "heads", "without_owner": "shoes"}


def test_the_last_owner_by_a_group_stays(owner: Session) -> None:
    add_group(owner, "heads")
    join_group(owner, "heads", "cleo")
    grant_group(owner, "heads", "owner")
    grant_role(owner, "ada", "viewer")
    sentence = "Workspace 'default' would have no owner left who can sign in"
    for call in (
        lambda: leave_group(as_user(owner, "cleo", Role.OWNER), "heads"),
        lambda: leave_group(owner, "heads", user="cleo"),
        lambda: grant_group(owner, "heads", "approver"),
        lambda: remove_group(owner, "heads"),
        lambda: disable_user(owner, "cleo"),
    ):
        with pytest.raises(Conflict, match=sentence):
            call()
    rows = [*list_audit(owner, outcome="refused"), *list_audit(owner, house=True, outcome="refused")]
    assert [(row.verb, str(row.detail["why"]).startswith(sentence)) for row in rows] == [
        (name, True) for name in ("groups grant", "users disable", "groups remove", "groups leave", "groups leave")
    ]
    assert role_of(owner, "cleo") == "owner"
    grant_role(owner, "ada", "owner")
    remove_group(owner, "heads")
    assert role_of(owner, "cleo") is None
