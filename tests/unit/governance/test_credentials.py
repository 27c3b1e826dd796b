from __future__ import annotations

from datetime import timedelta

import pytest

from endcap.core.errors import NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.credentials import SignedIn, check_user, open_by_token, open_by_user
from endcap.governance.people import add_user, disable_user, enable_user, find_user, grant_role, set_password
from endcap.governance.records import Actor
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token, revoke_token
from endcap.testing.sessions import make_session

GOOD = "pine under marble"

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def owner() -> Session:
    session = make_session(actor="root")
    add_user(session, "ada")
    add_user(session, "bob")
    grant_role(session, "bob", "editor")
    return session


def opened(session: Session, text: str, workspace: str | None = None) -> SignedIn:
    return open_by_token(session.records, text, workspace=workspace, now=session.now())


def test_a_token_opens_its_workspace_with_its_role(owner: Session) -> None:
    made = make_token(owner, "nightly", user="bob", role="viewer")
    assert opened(owner, made.token) == SignedIn(Actor("bob", "token"), "default", Role.VIEWER, token=made.id)
    assert opened(owner, made.token, "default").role == Role.VIEWER
    with pytest.raises(PermissionDenied, match="is of workspace 'default' alone") as refused:
        opened(owner, made.token, "shoes")
    assert not isinstance(refused.value, NotSignedIn)


def test_a_token_never_holds_more_than_its_user_does_now(owner: Session) -> None:
    made = make_token(owner, "nightly", user="bob")
    assert opened(owner, made.token).role == Role.EDITOR
    grant_role(owner, "bob", "viewer")
    assert opened(owner, made.token).role == Role.VIEWER
    grant_role(owner, "bob", "owner")
    assert opened(owner, made.token).role == Role.EDITOR
    grant_role(owner, "bob", "none")
    with pytest.raises(PermissionDenied, match="'bob' has no role in workspace 'default'"):
        opened(owner, made.token)


def test_the_token_of_an_admin_does_not_administer_the_house(owner: Session) -> None:
    assert find_user(owner.records, "ada").admin
    assert not opened(owner, make_token(owner, "nightly", user="ada").token).admin
    assert open_by_user(owner.records, find_user(owner.records, "ada"), workspace=None).admin


def test_a_forged_truncated_revoked_or_expired_token_opens_nothing(owner: Session) -> None:
    made, other = make_token(owner, "one", user="bob", expires="1h"), make_token(owner, "two", user="bob")
    secret = made.token.rpartition("_")[2]
    for text in (
        made.token[:-1],
        made.token + "A",
        made.token.replace(made.id, other.id),
        made.token.replace(made.id, "000000"),
        f"endcap_{made.id}_{'A' * len(secret)}",
        "Bearer",
        "",
    ):
        with pytest.raises(NotSignedIn) as refused:
            opened(owner, text)
        assert secret not in str(refused.value.to_dict())
        assert "bob" not in str(refused.value.to_dict())
    revoke_token(owner, other.id)
    with pytest.raises(NotSignedIn, match="is not known here, or was revoked") as refused:
        opened(owner, other.token)
    assert (refused.value.user, refused.value.token) == ("bob", other.id)
    opened(owner, made.token)
    owner.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]
    with pytest.raises(NotSignedIn, match="expired at 2026-01-05 09:00:00 UTC"):
        opened(owner, made.token)


def test_a_disabled_user_gets_in_by_nothing(owner: Session) -> None:
    made = make_token(owner, "nightly", user="bob")
    set_password(owner, "bob", password=GOOD)
    disable_user(owner, "bob")
    with pytest.raises(NotSignedIn, match="is not known here"):
        opened(owner, made.token)
    with pytest.raises(NotSignedIn, match="The name or the password is wrong"):
        check_user(owner.records, "bob", GOOD)
    enable_user(owner, "bob")
    assert opened(owner, made.token).actor.name == "bob"
    assert check_user(owner.records, "bob", GOOD).name == "bob"


def test_a_wrong_name_and_a_wrong_password_are_told_alike(owner: Session) -> None:
    set_password(owner, "bob", password=GOOD)
    add_user(owner, "cleo")
    said = set()
    for name, password in (("bob", "wrong"), ("nobody", GOOD), ("cleo", ""), ("cleo", GOOD), ("", ""), ("../bob", GOOD)):
        with pytest.raises(NotSignedIn) as refused:
            check_user(owner.records, name, password)
        said.add(str(refused.value.to_dict()))
    assert len(said) == 1


def test_a_user_opens_the_workspaces_where_they_have_a_role(owner: Session) -> None:
    bob = find_user(owner.records, "bob")
    assert open_by_user(owner.records, bob, workspace=None) == SignedIn(Actor("bob"), "default", Role.EDITOR)
    grant_role(owner, "bob", "owner", workspace="shoes")
    assert open_by_user(owner.records, bob, workspace="shoes").role == Role.OWNER
    for workspace in ("hats", "_house", "../shoes", "x" * 5000):
        with pytest.raises(PermissionDenied, match="'bob' has no role in workspace") as refused:
            open_by_user(owner.records, bob, workspace=workspace)
        assert len(str(refused.value)) < 300
