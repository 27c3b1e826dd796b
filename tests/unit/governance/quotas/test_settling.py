from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit
from endcap.governance.people import add_user
from endcap.governance.quotas.limits import find_limits, require_cpu, require_memory
from endcap.governance.quotas.places import describe_wait, limit_settings
from endcap.governance.quotas.queue import leave_queue, list_queue
from endcap.governance.quotas.settling import QuotaLine, clear_quota, list_quotas, set_quota, show_quota
from endcap.governance.quotas.usage import count_use
from endcap.governance.records import Actor
from endcap.governance.rights.guards import close_thing
from endcap.governance.sessions import Session
from endcap.testing.places import put_elsewhere
from endcap.testing.sessions import make_session


@pytest.fixture
def admin() -> Session:
    return make_session()


def owner_of(session: Session, **changes: Any) -> Session:
    """An owner of the workspace who does not administer the house."""
    return replace(session, admin=False, actor=Actor("olga"), **changes)


def tell(lines: list[QuotaLine]) -> dict[str, tuple[float, float | None, float | None]]:
    return {f"{line.actor}{'/' if line.actor else ''}{line.limit}": (line.allowed, line.used, line.left) for line in lines}


def spend(session: Session, cpu_s: float, thing: str = "model/a") -> None:
    with session.records.transact() as tx:
        count_use(session, tx, thing, cpu_s=cpu_s, wall_s=cpu_s, n_runs=1)


def test_what_is_set_is_shown_with_what_is_used_what_is_left_by_whom_and_when_it_begins_anew(admin: Session) -> None:
    made = set_quota(admin, cpu_minutes="600/1d", memory="4GB", storage="50GB", gpus=0, runs=2, requests="50/s", weight=2.0)
    spend(admin, 90)
    lines = show_quota(admin)
    assert tell(lines) == {
        "cpu-minutes": (600.0, 1.5, 598.5),
        "memory": (4e9, None, None),
        "storage": (5e10, 0, 5e10),
        "gpus": (0, 0, 0.0),
        "runs": (2, 0, 2.0),
        "requests": (50.0, None, None),
        "weight": (2.0, None, None),
    }
    assert [line.limit for line in made] == [line.limit for line in lines]
    cpu = lines[0]
    assert (cpu.workspace, cpu.actor, cpu.per, cpu.by, cpu.at) == ("default", "", "day", "ada", admin.now())
    assert cpu.renews_at is not None
    assert cpu.renews_at.isoformat() == "2026-01-06T00:00:00+00:00"
    put_elsewhere(admin, gpus=3)
    assert tell(show_quota(admin))["runs"] == (2, 1, 1.0)
    assert tell(show_quota(admin))["gpus"] == (0, 3, 0.0), "a limit below what is used: nothing is left, and nothing was stopped"


def test_what_is_not_named_stays_and_what_is_cleared_goes(admin: Session) -> None:
    set_quota(admin, runs=2, memory="4GB")
    set_quota(admin, runs=3)
    assert {line.limit: line.allowed for line in show_quota(admin)} == {"runs": 3, "memory": 4e9}
    assert {line.limit for line in clear_quota(admin, only=["runs"])} == {"memory"}
    assert clear_quota(admin) == show_quota(admin) == []
    with pytest.raises(NotFound, match="There is no quota of 'bob' in workspace 'default'"):
        clear_quota(admin, actor="bob")
    with pytest.raises(InvalidInput, match=r"'run' is no limit.*did you mean 'runs'"):
        clear_quota(admin, only=["run"])
    assert [(row.verb, row.thing) for row in list_audit(admin)] == [
        ("quotas clear", "quota/default/"),
        ("quotas clear", "quota/default/"),
        ("quotas set", "quota/default/"),
        ("quotas set", "quota/default/"),
    ]
    assert list_audit(admin)[2].detail == {"actor": None, "runs": 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"runs": 0}, "runs is 0; it must be a whole number from 1"),
        ({"runs": -1}, "runs is -1"),
        ({"gpus": -1}, "gpus is -1; it must be a whole number from 0"),
        ({"runs": 10**7}, "runs is 10000000"),
        ({"cpu_minutes": "0/day"}, "must be a number above 0"),
        ({"cpu_minutes": "-5"}, "must be a number above 0"),
        ({"cpu_minutes": "nan"}, "must be a number above 0"),
        ({"cpu_minutes": "inf/day"}, "must be a number above 0"),
        ({"cpu_minutes": "600/year"}, "'year' is no period"),
        ({"cpu_minutes": "600/"}, "'' is no period"),
        ({"cpu_minutes": ""}, "must be a number above 0"),
        ({"memory": "0GB"}, "which is no size"),
        ({"memory": "-4GB"}, "which is no size"),
        ({"memory": "4 parsec"}, "which is no size"),
        ({"storage": "nan"}, "storage is 'nan', which is no size"),
        ({"requests": "0/s"}, "must be a number above 0"),
        ({"requests": "5/parsec"}, "'parsec' is no unit"),
        ({"requests": "nan/s"}, "must be a number above 0"),
        ({"requests": "0.5/s"}, "lets not one through"),
        ({"weight": 0.0}, "weight is 0.0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": -1.0}, "weight is -1.0"),
        ({"weight": float("inf")}, "weight is inf"),
        ({}, "No limit was given"),
        ({"actor": "a/b", "runs": 1}, "cannot be the name of an actor"),
        ({"actor": "", "runs": 1}, "cannot be the name of an actor"),
        ({"actor": "x" * 101, "runs": 1}, "cannot be the name of an actor"),
        ({"workspace": "../other", "runs": 1}, "cannot be the name of a workspace"),
        ({"workspace": "%00", "runs": 1}, "cannot be the name of a workspace"),
        ({"workspace": "무역", "runs": 1}, "cannot be the name of a workspace"),
    ],
)
def test_bad_input_is_refused_and_leaves_what_stood(admin: Session, given: dict[str, Any], said: str) -> None:
    set_quota(admin, runs=7)
    with pytest.raises(InvalidInput, match=said):
        set_quota(admin, **given)
    assert tell(list_quotas(admin, everywhere=True)) == {"runs": (7, 0, 7.0)}


def test_an_actor_who_is_not_there_is_refused_once_there_are_users(admin: Session) -> None:
    set_quota(admin, actor="whoever", runs=1)
    add_user(admin, "bea")
    with pytest.raises(NotFound, match="There is no user 'bee'"):
        set_quota(admin, actor="bee", runs=1)
    set_quota(admin, actor="bea", runs=1)
    set_quota(admin, actor="system", runs=1)
    clear_quota(admin, actor="whoever")


def test_an_owner_settles_what_actors_may_and_no_more(admin: Session) -> None:
    olga = owner_of(admin)
    set_quota(olga, actor="bob", runs=1)
    for call in (
        lambda: set_quota(olga, runs=1),
        lambda: set_quota(olga, workspace="other", actor="bob", runs=1),
        lambda: clear_quota(olga),
        lambda: list_quotas(olga, everywhere=True),
        lambda: show_quota(olga, workspace="other"),
    ):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call()
    assert [row.verb for row in list_audit(admin, house=True)] == ["quotas show", "quotas ls", "quotas clear", "quotas set", "quotas set"]
    for role in (Role.VIEWER, Role.EDITOR, Role.APPROVER):
        with pytest.raises(PermissionDenied, match="needs the permission 'own'"):
            set_quota(owner_of(admin, role=role), actor="bob", runs=1)


def test_others_see_the_workspace_s_limits_and_their_own(admin: Session) -> None:
    set_quota(admin, runs=3)
    set_quota(admin, actor="bob", runs=1)
    set_quota(admin, actor="eve", runs=2)
    set_quota(admin, workspace="other", runs=5)
    bob = replace(admin, admin=False, actor=Actor("bob"), role=Role.VIEWER)
    assert tell(list_quotas(bob)) == tell(show_quota(bob)) == {"runs": (3, 0, 3.0), "bob/runs": (1, 0, 1.0)}
    with pytest.raises(PermissionDenied, match="needs the permission 'own'"):
        show_quota(bob, actor="eve")
    assert tell(show_quota(owner_of(admin), actor="eve")) == {"runs": (3, 0, 3.0), "eve/runs": (2, 0, 2.0)}
    assert [line.workspace for line in list_quotas(admin, everywhere=True)] == ["default", "default", "default", "other"]
    assert tell(show_quota(admin, workspace="other")) == {"runs": (5, 0, 5.0)}


def test_months_and_days_are_counted_apart_and_a_clock_that_goes_back_loses_nothing(admin: Session) -> None:
    set_quota(admin, cpu_minutes="10/month")
    set_quota(admin, actor="ada", cpu_minutes="5/day")
    spend(admin, 120)
    assert isinstance(admin.clock, ManualClock)
    admin.clock.advance(timedelta(days=1))
    spend(admin, 60)
    assert tell(show_quota(admin)) == {"cpu-minutes": (10.0, 3.0, 7.0), "ada/cpu-minutes": (5.0, 1.0, 4.0)}
    earlier = replace(admin, clock=ManualClock(admin.now() - timedelta(days=1)))
    spend(earlier, 60)
    assert tell(show_quota(earlier)) == {"cpu-minutes": (10.0, 4.0, 6.0), "ada/cpu-minutes": (5.0, 3.0, 2.0)}
    admin.clock.advance(timedelta(days=30))
    assert tell(show_quota(admin))["cpu-minutes"] == (10.0, 0, 10.0)


def test_memory_above_the_limit_is_refused_and_audited(admin: Session) -> None:
    set_quota(admin, memory="4GB")
    set_quota(admin, actor="ada", memory="2GB")
    assert require_memory(admin, 2 * 10**9, verb="run") == 2 * 10**9
    with pytest.raises(InvalidInput, match=r"a run of 'ada' in workspace 'default' may use 1\.9 GiB"):
        require_memory(admin, 3 * 10**9, verb="run")
    (row,) = list_audit(admin, outcome="refused")
    assert (row.verb, row.detail) == ("run", {"why": "quota", "asked_memory": 3 * 10**9, "limit": 2 * 10**9})
    assert find_limits(admin).memory == 2 * 10**9


def test_without_a_quota_nothing_is_read_of_what_was_used(admin: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("usage was read")

    monkeypatch.setattr("endcap.governance.quotas.limits.sum_cpu_s", fail)
    require_cpu(admin, find_limits(admin), verb="run")
    set_quota(admin, cpu_minutes="1/1d")
    with pytest.raises(AssertionError, match="usage was read"):
        require_cpu(admin, find_limits(admin), verb="run")


def test_the_queue_is_seen_by_all_and_left_by_its_own(admin: Session) -> None:
    place = put_elsewhere(admin, state="waiting")
    bob = replace(admin, admin=False, actor=Actor("bob"), role=Role.EDITOR)
    eve = replace(bob, actor=Actor("eve"))
    (line,) = list_queue(eve)
    assert (line.number, line.actor, line.subject, line.waits_for) == (1, "bob", "model/far", "its turn has come")
    with pytest.raises(PermissionDenied, match="needs the permission 'own'"):
        leave_queue(eve, place.id)
    assert leave_queue(bob, place.id).state == "ended"
    assert list_queue(eve) == []
    with pytest.raises(NotFound, match="There is no run 'nothing'"):
        leave_queue(bob, "nothing")


def test_who_waits_for_a_run_of_a_closed_view_is_told_that_one_goes_on(admin: Session) -> None:
    put_elsewhere(admin, subject="features/pay@1a2b3c4d5e6f")
    waiting = put_elsewhere(admin, state="waiting")
    eve = replace(admin, admin=False, actor=Actor("eve"), role=Role.EDITOR)
    assert describe_wait(eve, waiting).endswith("; 'features/pay@1a2b3c4d5e6f' of 'bob' goes on")
    close_thing(admin, "view/pay", owner="bob", verb="rights restrict")
    assert describe_wait(eve, waiting).endswith("; 1 run goes on")


def test_what_is_asked_for_by_the_settings_stays_where_no_quota_is_less(admin: Session) -> None:
    session = replace(admin, settings=Settings(memory_limit=1000))
    set_quota(session, memory="4GB")
    assert limit_settings(session, find_limits(session)) is session.settings
    unlimited = replace(admin, settings=Settings())
    assert limit_settings(unlimited, find_limits(session)) == msgspec.structs.replace(Settings(), memory_limit=4 * 10**9)
