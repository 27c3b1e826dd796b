"""Whether somebody may do something to a thing, on stores in memory and in a folder: what is hidden, what is refused, and what costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Permission, Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.groups import add_group, join_group, leave_group, remove_group, rename_group
from endcap.governance.people import add_user
from endcap.governance.records import SYSTEM, Actor
from endcap.governance.rights.checks import filter_seen, may_do, may_see, note_change, require_right, stamp_standing
from endcap.governance.rights.guards import close_thing, find_guard, give_right, hand_over, open_thing, require_owner, take_right
from endcap.governance.rights.records import GUARDS
from endcap.governance.sessions import Session
from endcap.storage.ports import Kind
from endcap.testing.sessions import make_session


class Part(msgspec.Struct, frozen=True):
    id: str
    model: str
    n: int = 0


PARTS = Kind("part", Part, "id", (("model",),), of=lambda part: (f"model/{part.model}",))
LOOSE = Kind("loose", Part, "id")


@pytest.fixture(params=["memory://", "folder"])
def owner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    session = make_session("memory://" if request.param == "memory://" else tmp_path / "home")
    with session.records.transact() as tx:
        for n in range(10):
            tx.append(PARTS, workspace="default", record=Part(f"p{n}", "secret" if n % 2 else "plain", n))
    yield session
    session.ports.close()


def someone(session: Session, name: str, role: Role = Role.APPROVER) -> Session:
    return replace(session, actor=Actor(name), role=role, admin=False)


def close(session: Session, thing: str = "model/secret", owner: str = "bob") -> None:
    close_thing(session, thing, owner=owner, verb="rights restrict")


def test_without_a_closed_thing_roles_alone_decide_and_stores_are_as_they_are(owner: Session) -> None:
    bob = someone(owner, "bob", Role.VIEWER)
    assert bob.records is owner.ports.records
    assert bob.tracks is owner.ports.tracks
    assert may_see(bob, "model/secret")
    require_right(bob, "model/secret", Permission.OWN, verb="x")
    assert stamp_standing(bob) is None


def test_a_closed_thing_is_there_for_its_owner_and_the_workspaces_alone(owner: Session) -> None:
    bob, eve = someone(owner, "bob"), someone(owner, "eve")
    close(owner)
    assert [part.id for part in bob.records.find(PARTS, workspace="default")] == [f"p{n}" for n in range(10)]
    assert [part.id for part in owner.records.find(PARTS, workspace="default")] == [f"p{n}" for n in range(10)]
    assert [part.id for part in eve.records.find(PARTS, workspace="default")] == ["p0", "p2", "p4", "p6", "p8"]
    assert eve.records.get(PARTS, workspace="default", id="p1") is None
    assert eve.records.get_versioned(PARTS, workspace="default", id="p1") is None
    assert eve.records.get(PARTS, workspace="default", id="p2") == Part("p2", "plain", 2)
    assert filter_seen(eve, ["secret", "plain"], lambda name: f"model/{name}") == ["plain"]
    with pytest.raises(NotFound, match="No model 'secret' in workspace 'default'"):
        require_right(eve, "model/secret", Permission.READ, verb="show")
    assert list_audit(owner, actor="eve") == []


def test_pages_of_what_is_there_are_as_long_as_was_asked(owner: Session) -> None:
    eve = someone(owner, "eve")
    close(owner)

    def ids(**asked: Any) -> list[str]:
        return [part.id for part in eve.records.find(PARTS, workspace="default", **asked)]

    assert ids(limit=3) == ["p0", "p2", "p4"]
    assert ids(limit=3, after="p4") == ["p6", "p8"]
    assert ids(limit=2, newest_first=True) == ["p8", "p6"]
    assert ids(limit=0) == []
    assert ids(where={"model": "secret"}, limit=5) == []
    with pytest.raises(NotFound) as hidden:
        ids(after="p1")
    with pytest.raises(NotFound) as missing:
        ids(after="q1")
    assert str(hidden.value) == str(missing.value).replace("q1", "p1")
    with pytest.raises(InvalidInput, match="limit is -1"):
        ids(limit=-1)


def test_a_right_opens_as_far_as_it_says_and_is_taken_again(owner: Session) -> None:
    eve = someone(owner, "eve")
    close(owner)
    give_right(owner, "model/secret", "user/eve", "read", verb="rights grant")
    assert eve.records.get(PARTS, workspace="default", id="p1") == Part("p1", "secret", 1)
    require_right(eve, "model/secret", Permission.READ, verb="show")
    with pytest.raises(PermissionDenied, match="'model/secret' is closed: 'eve' may read it, and 'retire' needs the right 'edit'"):
        require_right(eve, "model/secret", Permission.EDIT, verb="retire")
    (row,) = list_audit(owner, actor="eve")
    assert (row.verb, row.outcome, row.thing, row.detail) == ("retire", "refused", "model/secret", {"needs": "edit on model/secret"})
    give_right(owner, "model/secret", "user/eve", "edit", verb="rights grant")
    assert may_do(eve, "model/secret", Permission.EDIT)
    assert not may_do(eve, "model/secret", Permission.RELEASE)
    give_right(owner, "model/secret", "user/eve", "release", verb="rights grant")
    assert may_do(eve, "model/secret", Permission.RELEASE)
    assert not may_do(eve, "model/secret", Permission.OWN)
    take_right(owner, "model/secret", "user/eve", verb="rights revoke")
    assert not may_see(eve, "model/secret")
    with pytest.raises(NotFound, match=r"'user/eve' has no right to 'model/secret'. Rights: \[\]"):
        take_right(owner, "model/secret", "user/eve", verb="rights revoke")
    open_thing(owner, "model/secret", verb="rights open")
    assert eve.records is owner.ports.records


def test_what_may_not_be_changed_is_not_written(owner: Session) -> None:
    eve, bob = someone(owner, "eve"), someone(owner, "bob")
    close(owner)
    changed = Part("p1", "secret", 99)

    def write(session: Session, record: Part, *, version: int) -> None:
        with session.records.transact() as tx:
            if version:
                tx.put(PARTS, workspace="default", record=record, expected_version=version)
            else:
                tx.append(PARTS, workspace="default", record=record)

    with eve.records.transact() as tx:
        assert tx.remove(PARTS, workspace="default", ids=["p1", "p3"]) == 0, "what is hidden is not there to be removed"
    with pytest.raises(Conflict):
        write(eve, changed, version=1)
    with pytest.raises(Conflict, match="The part 'p1' stands already"):
        write(eve, Part("p1", "plain"), version=0)
    with pytest.raises(Conflict):
        write(eve, Part("p1", "plain"), version=1)  # nor taken into a thing of one's own
    with pytest.raises(NotFound, match="No model 'secret'"):
        write(eve, Part("new", "secret"), version=0)
    give_right(owner, "model/secret", "user/eve", "read", verb="rights grant")
    with pytest.raises(PermissionDenied, match="needs the right 'edit'"):
        write(eve, changed, version=1)
    with pytest.raises(PermissionDenied, match="is closed"), eve.change("describe-model", thing="model/secret"):
        raise AssertionError("the block was entered")
    assert owner.records.get_versioned(PARTS, workspace="default", id="p1") == (Part("p1", "secret", 1), 1)
    with eve.records.transact() as tx:
        assert tx.remove(PARTS, workspace="default", ids=["p0"]) == 1
    with pytest.raises(PermissionDenied), eve.records.transact() as tx:
        tx.remove(PARTS, workspace="default", ids=["p2", "p1"])
    assert [part.id for part in owner.records.find(PARTS, workspace="default")][:2] == ["p1", "p2"]
    write(bob, changed, version=1)
    assert owner.records.get(PARTS, workspace="default", id="p1") == changed
    write(eve, Part("own", "plain"), version=0)
    with eve.change("describe-model", thing="model/plain"):
        pass
    verify_audit(owner)


def test_what_is_hidden_is_hidden_in_the_audit_and_its_chain_stays_whole(owner: Session) -> None:
    eve = someone(owner, "eve")
    for n in range(30):
        with owner.change("describe-model", thing=f"model/{'secret' if n % 3 else 'plain'}"):
            pass
    close(owner)
    seen = list_audit(eve, limit=100)
    assert {row.thing for row in seen} == {"model/plain"}
    assert len(seen) == 10
    assert list_audit(eve, thing="model/secret") == []
    assert [row.n for row in list_audit(eve, limit=3, before=30)] == [28, 25, 22]
    assert verify_audit(eve).n_rows == 31


def test_whoever_acts_for_somebody_holds_what_they_hold(owner: Session) -> None:
    eve, bob = someone(owner, "eve"), someone(owner, "bob")
    close(owner)
    assert not may_see(eve.as_system(), "model/secret")
    assert may_see(bob.as_system(), "model/secret")
    assert may_see(bob.as_system().as_system(), "model/secret")
    assert not may_see(replace(eve, actor=SYSTEM), "model/secret")
    assert may_see(owner.as_system(), "model/secret")
    assert not may_see(someone(owner, "bob-2"), "model/secret")
    assert may_see(eve.without_veil(), "model/secret")


def test_a_session_of_a_share_sees_what_was_shared_and_changes_nothing(owner: Session) -> None:
    with owner.records.transact() as tx:
        tx.append(LOOSE, workspace="default", record=Part("x", "plain"))
    lent = replace(owner, role=Role.VIEWER, only=frozenset({"model/plain"}), admin=True)
    assert [part.id for part in lent.records.find(PARTS, workspace="default")] == ["p0", "p2", "p4", "p6", "p8"]
    assert lent.records.get(LOOSE, workspace="default", id="x") is None
    assert list_audit(lent) == []
    assert not may_do(lent, "model/plain", Permission.EDIT)
    assert not may_do(lent, "personal/plain", Permission.PERSONAL)
    with pytest.raises(PermissionDenied), lent.records.transact() as tx:
        tx.append(PARTS, workspace="default", record=Part("new", "plain"))
    with pytest.raises(PermissionDenied), lent.records.transact() as tx:
        tx.append(LOOSE, workspace="default", record=Part("y", "plain"))


def test_rights_are_of_one_workspace(owner: Session) -> None:
    close(owner)
    elsewhere = replace(someone(owner, "eve"), workspace="other")
    assert elsewhere.records is owner.ports.records
    assert may_see(elsewhere, "model/secret")


def test_what_another_process_changed_is_seen_once_what_was_kept_is_old(owner: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    eve, now_s = someone(owner, "eve"), [0.0]
    monkeypatch.setattr("endcap.governance.rights.checks.monotonic", lambda: now_s[0])
    assert may_see(eve, "model/secret")
    close(owner)
    guard = find_guard(owner, "model/secret")
    assert guard is not None
    assert not may_see(eve, "model/secret")
    with owner.ports.records.transact() as tx:
        tx.put(GUARDS, workspace="default", record=msgspec.structs.replace(guard, closed=False), expected_version=1)
    assert not may_see(eve, "model/secret")
    now_s[0] = 1.01
    assert may_see(eve, "model/secret")


def test_personal_columns_are_closed_unless_somebody_was_given_them(owner: Session) -> None:
    bob = someone(owner, "bob", Role.OWNER)
    assert may_do(owner, "personal/customers", Permission.PERSONAL)  # who opened the files
    with pytest.raises(PermissionDenied, match="'bob' may not see personal columns: 'track show' needs the right 'see' on 'personal/customers'"):
        require_right(bob, "personal/customers", Permission.PERSONAL, verb="track show")
    assert list_audit(owner, actor="bob")[0].thing == "personal/customers"
    give_right(owner, "personal/customers", "user/bob", "see", verb="rights grant")
    require_right(bob, "personal/customers", Permission.PERSONAL, verb="track show")
    assert not may_do(bob, "personal/sales", Permission.PERSONAL)
    assert bob.records is owner.ports.records, "nothing else is closed by it"
    give_right(owner, "personal/*", "user/bob", "see", verb="rights grant")
    assert may_do(bob, "personal/sales", Permission.PERSONAL)
    take_right(owner, "personal/*", "user/bob", verb="rights revoke")
    assert not may_do(bob, "personal/sales", Permission.PERSONAL)
    with pytest.raises(InvalidInput, match=r"'read' is no right to 'personal/\*'. Rights: \['see'\]"):
        give_right(owner, "personal/*", "user/bob", "read", verb="rights grant")


def test_a_group_keeps_its_rights_by_any_name_and_loses_them_with_its_members(owner: Session) -> None:
    eve = someone(owner, "eve")
    add_user(owner, "ada")
    add_user(owner, "eve")
    add_group(owner, "readers")
    join_group(owner, "readers", "eve")
    close(owner)
    assert not may_see(eve, "model/secret")
    give_right(owner, "model/secret", "group/readers", "read", verb="rights grant")
    assert may_see(eve, "model/secret")
    rename_group(owner, "readers", "analysts")
    add_group(owner, "readers")
    note_change()
    assert may_see(eve, "model/secret")
    leave_group(owner, "analysts", user="eve")
    join_group(owner, "readers", "eve")
    note_change()  # else within a second
    assert not may_see(eve, "model/secret")
    with pytest.raises(NotFound, match=r"'group/readers' has no right to 'model/secret'. Rights: \['group/analysts'\]"):
        take_right(owner, "model/secret", "group/readers", verb="rights revoke")
    join_group(owner, "analysts", "eve")
    note_change()
    assert may_see(eve, "model/secret")
    remove_group(owner, "analysts")
    note_change()
    assert not may_see(eve, "model/secret")
    take_right(owner, "model/secret", "group/analysts", verb="rights revoke")
    with pytest.raises(NotFound, match="There is no group 'nobody'"):
        give_right(owner, "model/secret", "group/nobody", "read", verb="rights grant")


def test_the_greatest_of_several_rights_counts(owner: Session) -> None:
    eve = someone(owner, "eve")
    for name in ("ada", "eve"):
        add_user(owner, name)
    add_group(owner, "readers")
    join_group(owner, "readers", "eve")
    close(owner)
    give_right(owner, "model/secret", "group/readers", "edit", verb="rights grant")
    give_right(owner, "model/secret", "user/eve", "read", verb="rights grant")
    assert may_do(eve, "model/secret", Permission.EDIT)
    assert not may_do(eve, "model/secret", Permission.RELEASE)


def test_whoever_lost_a_right_writes_no_more_with_a_session_from_before(owner: Session) -> None:
    eve = someone(owner, "eve")
    close(owner)
    give_right(owner, "model/secret", "user/eve", "edit", verb="rights grant")
    with eve.change("describe-model", thing="model/secret") as change:
        change.tx.append(PARTS, workspace="default", record=Part("hers", "secret"))
    give_right(owner, "model/secret", "user/eve", "read", verb="rights grant")
    with pytest.raises(PermissionDenied), eve.change("describe-model", thing="model/secret"):
        raise AssertionError("the block was entered")
    take_right(owner, "model/secret", "user/eve", verb="rights revoke")
    with pytest.raises(NotFound), eve.change("describe-model", thing="model/secret") as change:
        change.tx.append(PARTS, workspace="default", record=Part("more", "secret"))
    assert owner.records.get(PARTS, workspace="default", id="more") is None


def test_an_owner_hands_over_and_keeps_nothing(owner: Session) -> None:
    bob, eve = someone(owner, "bob"), someone(owner, "eve")
    close(owner)
    require_owner(bob, "model/secret", "bob", verb="rights grant")
    with pytest.raises(NotFound, match="No model 'secret'"):
        require_owner(eve, "model/secret", "bob", verb="rights grant")
    hand_over(bob, "model/secret", before="bob", owner="eve", verb="rights transfer")
    assert may_do(eve, "model/secret", Permission.OWN)
    assert not may_see(bob, "model/secret")
    with pytest.raises(Conflict, match="owned by 'eve' already"):
        hand_over(eve, "model/secret", before="bob", owner="eve", verb="rights transfer")
    give_right(owner, "model/secret", "user/bob", "read", verb="rights grant")
    with pytest.raises(PermissionDenied, match="needs the right 'own'"):
        require_owner(bob, "model/secret", "eve", verb="rights grant")


@pytest.mark.parametrize(
    ("to", "level", "said"),
    [
        ("eve", "read", "neither a user nor a group"),
        ("user/", "read", "neither a user nor a group"),
        ("team/eve", "read", "neither a user nor a group"),
        ("user/../eve", "read", "cannot be the name of a user"),
        ("user/eve", "see", r"'see' is no right to 'model/secret'. Rights: \['read', 'edit', 'release'\]"),
        ("user/eve", "own", "'own' is no right"),
    ],
)
def test_what_is_no_right_is_refused(owner: Session, to: str, level: str, said: str) -> None:
    close(owner)
    with pytest.raises(InvalidInput, match=said):
        give_right(owner, "model/secret", to, level, verb="rights grant")
    guard = find_guard(owner, "model/secret")
    assert guard is not None
    assert guard.may == {}


def test_what_is_done_twice_or_to_an_open_thing_is_a_conflict(owner: Session) -> None:
    calls: list[Callable[[], object]] = [
        lambda: give_right(owner, "model/plain", "user/eve", "read", verb="rights grant"),
        lambda: open_thing(owner, "model/plain", verb="rights open"),
    ]
    for call in calls:
        with pytest.raises(Conflict, match="'model/plain' is open"):
            call()
    close(owner)
    with pytest.raises(Conflict, match="closed already"):
        close(owner)
    add_user(owner, "ada")
    with pytest.raises(NotFound, match="There is no user 'eve'"):
        give_right(owner, "model/secret", "user/eve", "read", verb="rights grant")
