from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from endcap.core.errors import Conflict, InvalidInput, PermissionDenied
from endcap.core.permissions import Permission, Role, permissions_of
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.records import AUDIT_ROWS, SYSTEM
from endcap.governance.sessions import Session
from endcap.storage.ports import Kind
from endcap.testing.sessions import make_session


class Plan(msgspec.Struct, frozen=True):
    id: str
    n: int = 0


PLANS = Kind("plan", Plan, "id")


def append(session: Session, plan: Plan, *, fails: bool = False) -> None:
    with session.change("plan", thing=f"plan/{plan.id}", detail={"n": plan.n}) as change:
        change.tx.append(PLANS, workspace=session.workspace, record=plan)
        change.detail["added"] = True
        if fails:
            raise ZeroDivisionError


def plans(session: Session) -> list[str]:
    return [plan.id for plan in session.records.find(PLANS, workspace=session.workspace)]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_a_role_passes_or_is_refused_and_the_refusal_is_audited(role: Role, permission: Permission) -> None:
    session = make_session(role=role)
    if permission in permissions_of(role):
        session.require(permission, verb="promote")
        assert session.records.find(AUDIT_ROWS, workspace="default") == []
        return
    with pytest.raises(PermissionDenied, match=rf"'ada' is {role} in workspace 'default'; 'promote' needs .* '{permission}'. Hint: ask"):
        session.require(permission, verb="promote")
    (row,) = session.records.find(AUDIT_ROWS, workspace="default")
    assert (row.actor, row.verb, row.thing, row.outcome) == ("ada", "promote", "workspace/default", "refused")
    assert row.detail == {"needs": str(permission)}
    assert row.at == datetime(2026, 1, 5, 8, tzinfo=UTC)
    assert verify_audit(session).n_rows == 1


def test_a_change_and_its_audit_row_are_kept_together() -> None:
    session = make_session()
    append(session, Plan("a", 3))
    assert plans(session) == ["a"]
    (row,) = list_audit(session)
    assert (row.n, row.verb, row.thing, row.outcome, row.detail) == (1, "plan", "plan/a", "done", {"n": 3, "added": True})


def test_a_change_that_fails_leaves_neither_change_nor_audit_row() -> None:
    session = make_session()
    append(session, Plan("a"))
    with pytest.raises(ZeroDivisionError):
        append(session, Plan("b"), fails=True)
    with pytest.raises(Conflict):
        append(session, Plan("a"))
    assert plans(session) == ["a"]
    assert verify_audit(session).n_rows == 1


def test_an_audit_row_that_fails_takes_its_change_back() -> None:
    class BrokenClock:
        def now(self) -> datetime:
            raise InvalidInput("The clock is broken.")

    session = make_session()
    with pytest.raises(InvalidInput, match="clock is broken"):
        append(replace(session, clock=BrokenClock()), Plan("a"))
    assert plans(session) == []
    assert verify_audit(session).n_rows == 0


def test_the_detail_that_is_handed_in_is_not_changed() -> None:
    session = make_session()
    detail = {"n": 1}
    with session.change("plan", thing="plan/a", detail=detail) as change:
        change.detail["more"] = 2
    assert detail == {"n": 1}


def test_a_refusal_on_the_merits_is_a_row_of_its_own() -> None:
    session = make_session()
    session.record_refusal("promote", thing="version/7", detail={"gate": "wape"})
    (row,) = list_audit(session)
    assert (row.thing, row.outcome, row.detail) == ("version/7", "refused", {"gate": "wape"})


def test_the_system_acts_under_its_own_name_with_the_callers_rights() -> None:
    session = make_session(role=Role.VIEWER)
    system = session.as_system()
    assert (system.actor, system.role, system.workspace) == (SYSTEM, Role.VIEWER, "default")
    with pytest.raises(PermissionDenied, match="'system' is viewer"):
        system.require(Permission.EDIT, verb="train")
    assert [row.actor for row in list_audit(session)] == ["system"]
    assert session.actor.name == "ada"


def test_workspaces_of_one_home_have_chains_of_their_own() -> None:
    session = make_session()
    other = replace(session, workspace="other")
    append(session, Plan("a"))
    append(other, Plan("b"))
    append(session, Plan("c"))
    assert [row.n for row in list_audit(session)] == [2, 1]
    assert [row.thing for row in list_audit(other)] == ["plan/b"]
    assert (plans(session), plans(other)) == (["a", "c"], ["b"])


def test_an_admin_of_the_house_is_told_from_an_owner() -> None:
    session = make_session()
    session.require_admin(verb="users add")
    owner = replace(session, admin=False)
    with pytest.raises(PermissionDenied, match="'ada' does not administer the house, as 'users add' asks here"):
        owner.require_admin(verb="users add")
    assert list_audit(owner) == []
    (row,) = list_audit(session, house=True)
    assert (row.actor, row.verb, row.thing, row.outcome, row.detail) == (
        "ada",
        "users add",
        "house",
        "refused",
        {"needs": "admin", "workspace": "default"},
    )
    assert not session.as_system().admin
