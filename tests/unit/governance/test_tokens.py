from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotFound, NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.credentials import open_by_token
from endcap.governance.people import add_user, disable_user, enable_user, grant_role
from endcap.governance.records import HOUSE, TOKENS, Actor
from endcap.governance.sessions import Session
from endcap.governance.tokens import hash_secret, list_tokens, make_token, note_use, revoke_token, rotate_token, split_token
from endcap.testing.sessions import make_session


@pytest.fixture
def owner() -> Session:
    session = make_session(actor="root")
    add_user(session, "ada")
    add_user(session, "bob")
    grant_role(session, "bob", "editor")
    return session


def as_user(session: Session, name: str, role: Role, workspace: str = "default") -> Session:
    return replace(session, actor=Actor(name), role=role, admin=False, workspace=workspace)


def test_a_token_is_shown_once_and_kept_as_a_hash(owner: Session) -> None:
    made = make_token(as_user(owner, "bob", Role.EDITOR), "nightly training")
    assert (made.user, made.workspace, made.role) == ("bob", "default", "editor")
    assert made.expires_at == owner.now() + timedelta(days=90)
    parts = split_token(made.token)
    assert parts is not None
    assert parts[0] == made.id
    assert len(parts[1]) == 43, "256 bits"
    kept = owner.records.get(TOKENS, workspace=HOUSE, id=made.id)
    assert kept is not None
    assert kept.hash == hash_secret(parts[1])
    for text in (repr(made), repr(kept), repr(list_tokens(owner)), repr(list_audit(owner)), msgspec.json.encode(kept).decode()):
        assert parts[1] not in text
    assert make_token(owner, "another", user="bob").token.rpartition("_")[2] != parts[1]


@pytest.mark.parametrize(
    ("given", "error", "what"),
    [
        ({"label": ""}, InvalidInput, "labelled by up to 100 printable"),
        ({"label": "x" * 101}, InvalidInput, "labelled by"),
        ({"label": "a\nb"}, InvalidInput, "labelled by"),
        ({"expires": "10s"}, InvalidInput, "expires is '10s'"),
        ({"expires": "367d"}, InvalidInput, "opens for 1min to 366d"),
        ({"expires": "never"}, InvalidInput, "not a length of time"),
        ({"role": "owner"}, InvalidInput, "'bob' is editor in workspace 'default', so a token of theirs cannot be owner"),
        ({"role": "boss"}, InvalidInput, "'boss' is not a role"),
        ({"user": "ada"}, PermissionDenied, "'bob' does not administer the house"),
        ({"workspace": "shoes"}, PermissionDenied, "'bob' does not administer the house"),
    ],
)
def test_a_token_that_cannot_be_is_refused(owner: Session, given: dict[str, Any], error: type[EndcapError], what: str) -> None:
    with pytest.raises(error, match=what):
        make_token(as_user(owner, "bob", Role.EDITOR), **{"label": "nightly", **given})
    assert owner.records.find(TOKENS, workspace=HOUSE) == []


def test_an_admin_makes_tokens_for_programs_in_any_workspace(owner: Session) -> None:
    with pytest.raises(Conflict, match=r"'bob' has no role in workspace 'shoes'\. Hint: endcap users grant bob editor --workspace shoes"):
        make_token(owner, "nightly", user="bob", workspace="shoes")
    grant_role(owner, "bob", "viewer", workspace="shoes")
    made = make_token(owner, "nightly", user="bob", workspace="shoes")
    assert (made.workspace, made.role) == ("shoes", "viewer")
    (row,) = list_audit(replace(owner, workspace="shoes"), thing=f"token/{made.id}")
    assert row.detail == {"user": "bob", "role": "viewer", "expires_at": made.expires_at.isoformat(), "label": "nightly"}
    with pytest.raises(InvalidInput, match="'root', who asks, is no user") as refused:
        make_token(owner, "nightly")
    assert refused.value.hint == 'say whose: endcap tokens make "nightly" --user NAME'
    with pytest.raises(NotFound, match=r"There is no user 'ada'\. Hint: make one: endcap users add NAME"):
        make_token(make_session(), "nightly")


def test_a_token_makes_no_tokens(owner: Session) -> None:
    with pytest.raises(PermissionDenied, match="A token makes no tokens"):
        make_token(replace(as_user(owner, "bob", Role.EDITOR), actor=Actor("bob", "token")), "more")


def test_owners_see_the_tokens_of_their_workspace_and_others_their_own(owner: Session) -> None:
    first, second = make_token(owner, "one", user="ada"), make_token(owner, "two", user="bob")
    grant_role(owner, "bob", "owner", workspace="shoes")
    elsewhere = make_token(owner, "three", user="bob", workspace="shoes")
    assert [line.id for line in list_tokens(owner)] == [second.id, first.id]
    bob = as_user(owner, "bob", Role.EDITOR)
    assert [line.label for line in list_tokens(bob)] == ["two"]
    assert [line.id for line in list_tokens(as_user(owner, "eve", Role.OWNER, "shoes"))] == [elsewhere.id]
    for token in (first.id, elsewhere.id, "nothing", "../x", "x" * 1000):
        with pytest.raises(NotFound, match="No token") as refused:
            revoke_token(bob, token)
        assert len(str(refused.value)) < 300
    assert revoke_token(bob, second.id).state == "revoked"
    assert revoke_token(owner, first.id).state == "revoked"
    with pytest.raises(Conflict, match=r"was revoked by 'bob' at 2026-\d\d-\d\d \d\d:\d\d:\d\d UTC"):
        revoke_token(owner, second.id)


def test_a_token_runs_out_and_its_last_use_is_told_to_a_quarter_of_an_hour(owner: Session) -> None:
    made = make_token(owner, "nightly", user="bob", expires="1h")
    assert list_tokens(owner)[0].used_at is None
    used = owner.now()
    assert note_use(owner, made.id)
    owner.clock.advance(timedelta(minutes=14))  # type: ignore[attr-defined]  # a ManualClock
    assert not note_use(owner, made.id)
    assert (list_tokens(owner)[0].used_at, list_tokens(owner)[0].state) == (used, "active")
    owner.clock.advance(timedelta(minutes=46))  # type: ignore[attr-defined]  # a ManualClock
    assert list_tokens(owner)[0].state == "expired"
    assert note_use(owner, made.id)


def role_of(session: Session, text: str) -> str:
    return str(open_by_token(session.records, text, workspace=None, now=session.now()).role)


def test_a_token_is_rotated_with_its_rights_and_the_old_one_ends_after_the_overlap(owner: Session) -> None:
    bob = as_user(owner, "bob", Role.EDITOR)
    old = make_token(bob, "nightly", role="viewer", expires="30d")
    owner.clock.advance(timedelta(days=29))  # type: ignore[attr-defined]  # a ManualClock
    new = rotate_token(bob, old.id, overlap="2h")
    assert (new.label, new.user, new.workspace, new.role, new.replaces) == ("nightly", "bob", "default", "viewer", old.id)
    assert new.expires_at == owner.now() + timedelta(days=30), "as long as the one before was made for"
    assert new.overlaps_until == owner.now() + timedelta(hours=2)
    assert (role_of(owner, old.token), role_of(owner, new.token)) == ("viewer", "viewer")
    lines = {line.id: line for line in list_tokens(owner)}
    assert (lines[old.id].replaced_by, lines[old.id].expires_at, lines[new.id].replaced_by) == (new.id, new.overlaps_until, "")
    owner.clock.advance(timedelta(hours=2))  # type: ignore[attr-defined]  # a ManualClock
    with pytest.raises(NotSignedIn, match="expired") as replayed:
        role_of(owner, old.token)
    assert (replayed.value.user, replayed.value.token) == ("bob", old.id), "the audit says whose it was"
    assert role_of(owner, new.token) == "viewer"
    (row,) = list_audit(owner, thing=f"token/{old.id}", limit=1)
    assert (row.verb, row.detail["replaced_by"], row.detail["user"]) == ("tokens rotate", new.id, "bob")
    assert new.token.rpartition("_")[2] not in repr(list_audit(owner, limit=100))


def test_a_rotation_gives_no_token_more_than_it_had(owner: Session) -> None:
    old = make_token(owner, "nightly", user="bob", expires="1h")
    new = rotate_token(owner, old.id, overlap="30d")
    assert new.overlaps_until == old.expires_at, "never beyond its own end"
    grant_role(owner, "bob", "viewer")
    assert role_of(owner, new.token) == "viewer"
    disable_user(owner, "bob")
    with pytest.raises(NotSignedIn):
        role_of(owner, rotate_token(owner, new.id, overlap="0s").token)
    enable_user(owner, "bob")
    with pytest.raises(NotSignedIn, match="expired"):
        role_of(owner, new.token)


def test_what_cannot_be_rotated_is_refused(owner: Session) -> None:
    bob, ada = as_user(owner, "bob", Role.EDITOR), as_user(owner, "ada", Role.OWNER)
    made = make_token(bob, "nightly", expires="1d")
    for session, token in ((ada, made.id), (bob, "nothing"), (bob, "../x"), (bob, "x" * 1000), (replace(bob, workspace="shoes"), made.id)):
        with pytest.raises(NotFound, match="No token") as refused:
            rotate_token(session, token)
        assert len(str(refused.value)) < 300
    with pytest.raises(PermissionDenied, match="A token makes no tokens"):
        rotate_token(replace(bob, actor=Actor("bob", "token")), made.id)
    for overlap in ("31d", "-1h", "soon"):
        with pytest.raises(InvalidInput):
            rotate_token(bob, made.id, overlap=overlap)
    later = rotate_token(bob, made.id)
    with pytest.raises(Conflict, match=f"was rotated: the token '{later.id}' is in its place"):
        rotate_token(bob, made.id)
    revoke_token(bob, later.id)
    with pytest.raises(Conflict, match="was revoked by 'bob'"):
        rotate_token(bob, later.id)
    ended = make_token(bob, "short", expires="1h")
    owner.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # a ManualClock
    with pytest.raises(Conflict, match="expired at"):
        rotate_token(bob, ended.id)
    assert len(owner.records.find(TOKENS, workspace=HOUSE)) == 3


@pytest.mark.parametrize("text", ["", "endcap", "endcap_", "endcap_1", "endcap_1_", "endcap__x", "other_1_x", "endcap_1_ü", "endcap_1_" + "x" * 200])
def test_what_is_no_token_is_told_from_one(text: str) -> None:
    assert split_token(text) is None
