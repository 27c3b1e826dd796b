"""Who signed in is asked again before each change: what a job does for somebody is over when they may no longer do it themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from endcap.core.errors import PermissionDenied
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.credentials import SignedIn, open_by_token, open_by_user
from endcap.governance.groups import add_group, grant_group, join_group, leave_group, remove_group
from endcap.governance.people import add_user, disable_user, enable_user, find_user, grant_role, set_admin
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token, revoke_token
from endcap.testing.sessions import make_session


@pytest.fixture
def owner() -> Session:
    session = make_session(actor="root")
    for name in ("ada", "bob", "cleo"):
        add_user(session, name)
    grant_role(session, "bob", "editor")
    add_group(session, "demand")
    join_group(session, "demand", "cleo")
    grant_group(session, "demand", "editor")
    return session


def admitted(session: Session, found: SignedIn) -> Session:
    """The session of who signed in, as the service makes it."""
    return replace(session, actor=found.actor, role=found.role, workspace=found.workspace, admin=found.admin, warrant=found.warrant)


def signed_in(session: Session, name: str, workspace: str | None = None) -> Session:
    return admitted(session, open_by_user(session.records, find_user(session.records, name), workspace=workspace))


def by_token(session: Session, name: str) -> tuple[Session, str]:
    made = make_token(session, "nightly", user=name, expires="1h")
    return admitted(session, open_by_token(session.records, made.token, workspace=None, now=session.now())), made.id


def work(session: Session) -> None:
    with session.change("apply", thing="model/store-day"):
        pass


def test_who_signed_in_works_on_while_they_hold_what_they_held(owner: Session) -> None:
    bob = signed_in(owner, "bob")
    work(bob)
    grant_role(owner, "bob", "approver")
    work(bob)
    work(bob.as_system())
    work(signed_in(owner, "cleo"))
    work(by_token(owner, "bob")[0])
    bob.require_warrant(verb="run", thing="run/1")
    work(owner)
    assert [row.outcome for row in list_audit(owner) if row.verb == "apply"] == ["done"] * 6


@pytest.mark.parametrize(
    ("take", "why"),
    [
        (lambda s: grant_role(s, "bob", "viewer"), "'bob' is not editor in workspace 'default' any more"),
        (lambda s: grant_role(s, "bob", "none"), "'bob' is not editor in workspace 'default' any more"),
        (lambda s: disable_user(s, "bob"), "'bob' was disabled"),
    ],
)
def test_what_was_taken_away_stops_what_goes_on(owner: Session, take: Callable[[Session], object], why: str) -> None:
    sessions = [signed_in(owner, "bob"), by_token(owner, "bob")[0]]
    take(owner)
    for session in (*sessions, sessions[0].as_system()):
        before = len(list_audit(owner, limit=100))
        with pytest.raises(PermissionDenied, match=f"^{why}, so 'apply' was stopped"):
            work(session)
        with pytest.raises(PermissionDenied, match=f"^{why}, so 'run' was stopped"):
            session.require_warrant(verb="run", thing="run/1")
        rows = list_audit(owner, limit=100)
        assert [(row.verb, row.thing, row.outcome, row.detail) for row in rows[:-before]] == [
            ("run", "run/1", "refused", {"why": why}),
            ("apply", "model/store-day", "refused", {"why": why}),
        ]
    verify_audit(owner)


@pytest.mark.parametrize(
    "take", [lambda s: leave_group(s, "demand", user="cleo"), lambda s: remove_group(s, "demand"), lambda s: grant_group(s, "demand", "none")]
)
def test_a_role_that_a_group_gave_ends_what_goes_on(owner: Session, take: Callable[[Session], object]) -> None:
    cleo = signed_in(owner, "cleo")
    work(cleo)
    take(owner)
    with pytest.raises(PermissionDenied, match="'cleo' is not editor in workspace 'default' any more"):
        work(cleo)


def test_a_token_that_ended_ends_what_it_began(owner: Session) -> None:
    (first, token), (second, _) = by_token(owner, "bob"), by_token(owner, "bob")
    revoke_token(owner, token)
    with pytest.raises(PermissionDenied, match=f"The token '{token}' was revoked, so 'apply' was stopped"):
        work(first)
    work(second)
    owner.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    with pytest.raises(PermissionDenied, match="expired, so 'apply' was stopped"):
        work(second)
    work(signed_in(owner, "bob"))


def test_an_admin_who_is_none_any_more_changes_nobody(owner: Session) -> None:
    grant_role(owner, "bob", "owner")
    set_admin(owner, "bob")
    bob = signed_in(owner, "bob")
    assert bob.admin
    add_user(bob, "dan")
    set_admin(owner, "bob", revoke=True)
    for call in (lambda: add_user(bob, "eve"), lambda: disable_user(bob, "ada"), lambda: enable_user(bob, "ada"), lambda: set_admin(bob, "bob")):
        with pytest.raises(PermissionDenied, match="'bob' does not administer the house any more"):
            call()
    assert [row.outcome for row in list_audit(owner, house=True, limit=4)] == ["refused"] * 4
    with pytest.raises(PermissionDenied, match="'bob' does not administer the house any more"):
        grant_role(bob, "bob", "owner", workspace="shoes")


def test_an_owner_who_was_removed_removes_nobody(owner: Session) -> None:
    for name in ("bob", "cleo"):
        grant_role(owner, name, "owner")
    ada, bob = signed_in(owner, "ada"), signed_in(owner, "bob")
    grant_role(ada, "bob", "viewer")
    with pytest.raises(PermissionDenied, match="'bob' is not owner in workspace 'default' any more"):
        grant_role(bob, "ada", "viewer")
    assert grant_role(signed_in(owner, "cleo"), "ada", "viewer").roles == {"default": "viewer"}
