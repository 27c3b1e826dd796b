"""Who holds which role, as a list of all says it, against the plainest reading: the greatest of all that gives a user one in a workspace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import Conflict
from endcap.core.permissions import Role
from endcap.governance.groups import add_group, grant_group, join_group, leave_group, remove_group, show_group
from endcap.governance.owners import has_owner, list_owned
from endcap.governance.people import add_user, disable_user, find_user, grant_role, list_people
from endcap.governance.tokens import held_role
from endcap.testing.sessions import make_session

USERS, GROUPS, WORKSPACES = ("bob", "cleo", "dan"), ("demand", "fraud"), ("hats", "shoes")
ROLES = ("none", *map(str, Role))
users, groups, workspaces = st.sampled_from(USERS), st.sampled_from(GROUPS), st.sampled_from(WORKSPACES)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), users, workspaces, st.sampled_from(ROLES)),
        st.tuples(st.just("grant group"), groups, workspaces, st.sampled_from(ROLES)),
        st.tuples(st.just("join"), groups, users),
        st.tuples(st.just("leave"), groups, users),
        st.tuples(st.just("remove"), groups),
        st.tuples(st.just("disable"), users),
    ),
    max_size=25,
)


class Plain:
    """The same changes on dicts: what stands, and whether a change is refused as it would leave a workspace without an owner."""

    def __init__(self) -> None:
        self.own: dict[tuple[str, str], str] = {}
        self.given: dict[tuple[str, str], str] = {}
        self.members: set[tuple[str, str]] = set()
        self.disabled: set[str] = set()

    def role(self, user: str, workspace: str) -> str | None:
        of_groups = [self.given.get((group, workspace), "none") for group, name in self.members if name == user]
        held = max([self.own.get((user, workspace), "none"), *of_groups], key=ROLES.index)
        return None if held == "none" else held

    def owners(self, workspace: str) -> set[str]:
        return {user for user in USERS if user not in self.disabled and self.role(user, workspace) == "owner"}

    def apply(self, change: tuple[str, ...]) -> bool:
        """Whether it stands."""
        before = self.own.copy(), self.given.copy(), self.members.copy(), self.disabled.copy()
        owned = [workspace for workspace in WORKSPACES if self.owners(workspace)]
        match change:
            case ("grant", user, workspace, role):
                self.own[user, workspace] = role
            case ("grant group", group, workspace, role):
                self.given[group, workspace] = role
            case ("join", group, user):
                self.members.add((group, user))
            case ("leave", group, user):
                self.members.discard((group, user))
            case ("remove", group):
                self.members = {member for member in self.members if member[0] != group}
                self.given = {key: role for key, role in self.given.items() if key[0] != group}
            case ("disable", user):
                self.disabled.add(user)
        if all(self.owners(workspace) for workspace in owned):
            return True
        self.own, self.given, self.members, self.disabled = before
        return False


@given(changes)
def test_the_roles_of_all_are_the_greatest_of_what_gives_them(wanted: list[tuple[str, ...]]) -> None:
    session, plain = make_session(actor="root"), Plain()
    add_user(session, "ada")
    for name in USERS:
        add_user(session, name)
    for name in GROUPS:
        add_group(session, name)
    calls = {
        "grant": lambda user, workspace, role: grant_role(session, user, role, workspace=workspace),
        "grant group": lambda group, workspace, role: grant_group(session, group, role, workspace=workspace),
        "join": lambda group, user: join_group(session, group, user),
        "leave": lambda group, user: leave_group(session, group, user=user),
        "remove": lambda group: (remove_group(session, group), add_group(session, group)),
        "disable": lambda user: disable_user(session, user),
    }
    for change in wanted:
        joined = {member.user for member in show_group(session, change[1]).members} if change[0] in ("join", "leave") else set()
        if (change[0] == "join" and change[2] in joined) or (change[0] == "leave" and change[2] not in joined):
            continue
        stands = plain.apply(change)
        try:
            calls[change[0]](*change[1:])
        except Conflict as error:
            refused = "would have no owner left" in str(error)
        else:
            refused = False
        assert refused != stands, change
    listed = {person.name: person.roles for person in list_people(session, everybody=True)}
    for user in USERS:
        expected = {workspace: plain.role(user, workspace) for workspace in WORKSPACES if plain.role(user, workspace)}
        assert listed[user] == expected
        assert {place: str(held_role(session.records, user=user, workspace=place)) for place in expected} == expected
        assert find_user(session.records, user).disabled == (user in plain.disabled)
        assert list_owned(session.records, user) == sorted(place for place, role in expected.items() if role == "owner")
    for workspace in WORKSPACES:
        assert has_owner(session.records, workspace) == bool(plain.owners(workspace))
