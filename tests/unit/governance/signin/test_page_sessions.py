from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.assembly import open_house
from endcap.core.errors import Conflict, InvalidInput, NotFound, NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit
from endcap.governance.groups import add_group, grant_group, join_group
from endcap.governance.people import add_user, disable_user, find_user, grant_role
from endcap.governance.records import HOUSE, Actor
from endcap.governance.sessions import Session
from endcap.governance.signin.page_sessions import (
    IDLE,
    LONGEST,
    MadePageSession,
    Vouching,
    end_sessions,
    find_page_session,
    find_workspaces,
    list_sessions,
    make_page_session,
    note_page_use,
    open_by_page_session,
    open_token_of,
)
from endcap.governance.signin.records import PAGE_SESSIONS, SIGNED_OUT, SignedOut
from endcap.testing.sessions import make_session


@pytest.fixture
def admin() -> Session:
    made = make_session(actor="root")
    for name in ("ada", "bob"):
        add_user(made, name)
    return made


def signed_in(session: Session, name: str) -> MadePageSession:
    return make_page_session(session, find_user(session.records, name))


def as_person(session: Session, name: str, role: Role = Role.VIEWER) -> Session:
    return replace(session, actor=Actor(name), role=role, admin=False)


def advance(session: Session, by: timedelta) -> None:
    session.clock.advance(by)  # type: ignore[attr-defined]  # a ManualClock


def test_a_session_opens_by_its_text_and_by_nothing_else(admin: Session) -> None:
    made, other = signed_in(admin, "ada"), signed_in(admin, "bob")
    now = admin.now()
    assert find_page_session(admin.records, made.text, now=now).user == "ada"
    assert made.text != signed_in(admin, "ada").text
    mixed = f"{made.id}_{other.text.partition('_')[2]}"
    for text in ("", "_", made.id, made.text[:-1], f"{made.text} ", f"x{made.text}", mixed, made.text.replace("_", "."), "\u00e9", "a" * 10_000):
        with pytest.raises(NotSignedIn, match="is over, or never was") as refused:
            find_page_session(admin.records, text, now=now)
        assert refused.value.user == ""


def test_it_ends_an_hour_after_it_was_used_and_half_a_day_after_it_began(admin: Session) -> None:
    made = signed_in(admin, "ada")
    found = find_page_session(admin.records, made.text, now=admin.now())
    assert not note_page_use(admin, found), "noted to five minutes"
    advance(admin, IDLE - timedelta(seconds=1))
    assert note_page_use(admin, found)
    advance(admin, IDLE - timedelta(seconds=1))
    assert find_page_session(admin.records, made.text, now=admin.now()) == found
    advance(admin, timedelta(seconds=1))
    with pytest.raises(NotSignedIn, match="it was not used") as refused:
        find_page_session(admin.records, made.text, now=admin.now())
    assert refused.value.user == "ada"
    late = signed_in(admin, "ada")
    for _ in range(int(LONGEST / timedelta(minutes=30))):
        note_page_use(admin, find_page_session(admin.records, late.text, now=admin.now()))
        advance(admin, timedelta(minutes=30))
    with pytest.raises(NotSignedIn, match="its time is up"):
        find_page_session(admin.records, late.text, now=admin.now())


def test_one_sees_and_ends_ones_own(admin: Session) -> None:
    mine, other = signed_in(admin, "ada"), signed_in(admin, "bob")
    ada = as_person(admin, "ada")
    assert [line.id for line in list_sessions(ada)] == [mine.id]
    with pytest.raises(NotFound, match="You have no page session"):
        end_sessions(ada, other.id)
    for call in (lambda: list_sessions(ada, user="bob"), lambda: list_sessions(ada, everybody=True), lambda: end_sessions(ada, user="bob")):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call()
    assert [line.id for line in end_sessions(ada, mine.id)] == [mine.id]
    with pytest.raises(Conflict, match="is over"):
        end_sessions(ada, mine.id)
    with pytest.raises(InvalidInput, match="Both a session and a user"):
        end_sessions(admin, other.id, user="bob")
    assert [line.user for line in list_sessions(admin, everybody=True)] == ["bob"]
    row = list_audit(admin, house=True, outcome="done")[0]
    assert (row.verb, row.actor, row.thing, row.detail) == ("sessions end", "ada", f"session/{mine.id}", {"user": "ada"})


def test_all_of_ones_own_end_at_once(admin: Session) -> None:
    for _ in range(3):
        signed_in(admin, "ada")
    assert len(end_sessions(as_person(admin, "ada"))) == 3
    assert end_sessions(as_person(admin, "ada")) == []


def test_those_of_the_whole_house_are_found_in_pages(admin: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from endcap.governance.signin import page_sessions

    monkeypatch.setattr(page_sessions, "_PAGE", 3)
    old = signed_in(admin, "ada")
    advance(admin, LONGEST)
    made = [signed_in(admin, name).id for name in ("ada", "bob") * 4]
    found = [line.id for line in list_sessions(admin, everybody=True)]
    assert found == made[::-1]
    assert old.id not in found
    assert [line.id for line in list_sessions(admin, user="bob")] == made[1::2][::-1]
    assert len(end_sessions(admin, user="bob")) == 4


def test_whoever_changed_since_they_proved_who_they_are_does_not_come_in(admin: Session) -> None:
    before = find_user(admin.records, "bob")
    disable_user(admin, "bob")
    with pytest.raises(NotSignedIn, match="was changed meanwhile"):
        make_page_session(admin, before)
    with pytest.raises(NotSignedIn, match="was changed meanwhile"):
        make_page_session(admin, msgspec.structs.replace(before, name="nobody-here"))


def vouch(session: Session, **given: Any) -> Vouching:
    """What a provider said of ada, who is linked to it; given its marks it may have been taken back."""
    return Vouching(**{"by": "provider/corp", "identity": "", "used": "f" * 64, "said_at": session.now(), **given})


def test_of_many_that_bring_one_answer_at_once_one_comes_in(admin: Session) -> None:
    user, together, won = find_user(admin.records, "ada"), threading.Barrier(8), list[str]()

    def bring() -> None:
        together.wait()
        try:
            won.append(make_page_session(admin, user, vouching=vouch(admin)).id)
        except (NotSignedIn, Conflict):
            return

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(list_sessions(admin, everybody=True)) == 1


@pytest.mark.parametrize(("seconds", "comes_in"), [(-1, False), (0, False), (1, True)])
def test_what_a_provider_took_back_meanwhile_begins_no_session(admin: Session, seconds: int, comes_in: bool) -> None:
    """It signs somebody out while they are on their way with what it said before; what it says afterwards counts."""
    with admin.records.transact() as tx:
        tx.append(SIGNED_OUT, workspace=HOUSE, record=SignedOut("a" * 64, admin.now()))
    user, said_at = find_user(admin.records, "ada"), admin.now() + timedelta(seconds=seconds)
    if comes_in:
        assert make_page_session(admin, user, vouching=vouch(admin, said_at=said_at, marks=("b" * 64, "a" * 64))).user == "ada"
    else:
        with pytest.raises(NotSignedIn, match="has signed you out meanwhile"):
            make_page_session(admin, user, vouching=vouch(admin, said_at=said_at, marks=("b" * 64, "a" * 64)))
    assert len(list_sessions(admin, everybody=True)) == comes_in


def test_what_a_provider_signed_is_sealed_and_goes_with_its_session(admin: Session) -> None:
    made = make_page_session(admin, find_user(admin.records, "ada"), vouching=vouch(admin, id_token="head.canary.signature"))
    kept = find_page_session(admin.records, made.text, now=admin.now())
    assert open_token_of(admin, kept) == "head.canary.signature"
    assert b"canary" not in kept.id_token
    assert "canary" not in repr(vouch(admin, id_token="head.canary.signature"))
    assert open_token_of(admin, msgspec.structs.replace(kept, id="another")) == "", "it opens for its own session alone"
    end_sessions(admin, user="ada")
    assert [each.id_token for each in admin.records.find(PAGE_SESSIONS, workspace=HOUSE)] == [b""]


def test_without_a_good_master_key_people_sign_in_and_the_token_is_not_kept(tmp_path: Path) -> None:
    (key := tmp_path / "master.key").write_text("read by all")
    key.chmod(0o644)
    with open_house("memory://", settings=Settings(master_key_file=key)) as house:
        add_user(house.session(), "ada")
        made = make_page_session(house.session(), find_user(house.ports.records, "ada"), vouching=vouch(house.session(), id_token="a.b.c"))
        (kept,) = house.ports.records.find(PAGE_SESSIONS, workspace=HOUSE)
        assert (kept.id, kept.id_token, open_token_of(house.session(), kept)) == (made.id, b"", "")


def test_workspaces_are_those_of_roles_of_ones_own_and_of_groups(admin: Session) -> None:
    grant_role(admin, "bob", "viewer", workspace="shoes")
    add_group(admin, "team")
    grant_group(admin, "team", "editor", workspace="hats")
    grant_group(admin, "team", "viewer", workspace="shoes")
    assert find_workspaces(admin.records, "bob") == {"shoes": Role.VIEWER}
    join_group(admin, "team", "bob")
    assert find_workspaces(admin.records, "bob") == {"hats": Role.EDITOR, "shoes": Role.VIEWER}
    grant_role(admin, "bob", "viewer")
    assert list(find_workspaces(admin.records, "bob")) == ["default", "hats", "shoes"]
    found = find_page_session(admin.records, signed_in(admin, "bob").text, now=admin.now())
    opened = open_by_page_session(admin.records, found, workspace="hats")
    assert (opened.actor, opened.role, opened.workspace, opened.admin) == (Actor("bob"), Role.EDITOR, "hats", False)
    with pytest.raises(PermissionDenied, match="no role in workspace 'boots'"):
        open_by_page_session(admin.records, found, workspace="boots")
