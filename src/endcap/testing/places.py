"""The contract of the queue over a back end: places are taken, waited for, given back and lost; none is held twice.

A back end is tested by a module that derives a class from the suite and gives the fixture ``ports``, open and empty, as in ``endcap.testing.stores``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from endcap.core.clock import ManualClock, SystemIds
from endcap.core.errors import Conflict, InvalidInput, NotFound, PermissionDenied, QuotaExceeded
from endcap.governance.audit import list_audit
from endcap.governance.holders import Holder
from endcap.governance.quotas.places import EXPIRY_S, Needs, hold_place, look
from endcap.governance.quotas.queue import QueueLine, leave_queue, list_queue
from endcap.governance.quotas.records import PLACES, SHARES, Capacity, Place, Shares
from endcap.governance.quotas.settling import clear_quota, set_quota
from endcap.governance.quotas.usage import count_use, sum_cpu_s
from endcap.governance.records import HOUSE, Actor
from endcap.governance.sessions import Session
from endcap.storage.ports import Ports
from endcap.testing.sessions import make_session

ELSEWHERE = Holder("far", "another kernel", 1, "1", 1)
ONE = Capacity(runs=1)
"""A machine that holds one run at once."""


def open_session(ports: Ports, *, actor: str = "ada", workspace: str = "default") -> Session:
    """A session over open ports, with a clock of its own and ids that no other has."""
    return replace(make_session(actor=actor, workspace=workspace), ports=ports, new_id=SystemIds())


def put_elsewhere(session: Session, **changes: Any) -> Place:
    """A place as it would stand had a process of another machine taken it a moment ago."""
    now = session.now()
    place = Place(
        id=session.new_id("place"),
        workspace=session.workspace,
        actor="bob",
        subject="model/far",
        holder=ELSEWHERE,
        arrived_at=now,
        expires_at=now + timedelta(seconds=EXPIRY_S),
        state="running",
        charged_s=60.0,
    )
    place = msgspec.structs.replace(place, **changes)
    with session.records.transact() as tx:
        tx.append(PLACES, workspace=HOUSE, record=place)
    return place


def find_places(session: Session, state: str) -> list[Place]:
    """The places of a state, in the order of arrival."""
    return session.records.find(PLACES, workspace=HOUSE, where={"state": state})


def passing(session: Session, *, then: Callable[[], object] = lambda: None, after: int = 3) -> Callable[[float], None]:
    """A way to wait that lets the session's clock go on, and does something ``after`` so many turns."""
    turns: list[float] = []

    def wait(pause_s: float) -> None:
        assert isinstance(session.clock, ManualClock)
        session.clock.advance(timedelta(seconds=pause_s))
        turns.append(pause_s)
        if len(turns) == after:
            then()
        assert len(turns) < 1000, "it waits for ever"

    return wait


class Told:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step_started(self, name: str) -> None:
        self.lines.append(name)

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        self.lines.append(f"{name}: {status}, {wall_s:g} s, {note}")


class PlaceContract:
    """Places: taking, waiting in order, quotas, expiry, what a run spent."""

    def test_a_place_is_held_while_the_block_runs_and_then_it_is_not(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_place(session, "model/a", needs=Needs(expected_s=5)) as own:
            assert own.place is not None
            (place,) = find_places(session, "running")
            assert (place.workspace, place.actor, place.subject, place.charged_s) == ("default", "ada", "model/a", 5.0)
            with hold_place(own, "features/b") as inner:
                assert inner is own, "what a run begins itself goes on in its place"
            assert len(find_places(session, "running")) == 1
        assert find_places(session, "running") == find_places(session, "waiting") == []
        (ended,) = find_places(session, "ended")
        assert ended.spent_s == 0.0

    def test_a_block_that_fails_gives_its_place_back(self, ports: Ports) -> None:
        session = open_session(ports)

        def fail() -> None:
            with hold_place(session, "model/a", capacity=ONE):
                raise KeyError("x")

        with pytest.raises(KeyError):
            fail()
        with hold_place(session, "model/b", capacity=ONE, wait_s=0):
            assert len(find_places(session, "running")) == 1

    def test_who_comes_second_waits_is_told_for_whom_and_goes_on(self, ports: Ports) -> None:
        session, told = open_session(ports), Told()
        with ExitStack() as first:
            first.enter_context(hold_place(session, "model/a", capacity=ONE))
            wait = passing(session, then=first.close, after=20)
            with hold_place(session, "model/b", capacity=ONE, reporter=told, wait=wait):
                (running,) = find_places(session, "running")
                assert running.subject == "model/b"
        asked = "wait: number 1 of 1 in the queue: the machine runs as many as it may; 'model/a' of 'ada' goes on"
        assert told.lines == [asked, asked, "wait in the queue: done, 10 s, its turn after 10.0 s"]

    def test_of_other_workspaces_it_is_told_no_more_than_that_they_run(self, ports: Ports) -> None:
        theirs, ours, told = open_session(ports, actor="eve", workspace="secret"), open_session(ports), Told()
        with ExitStack() as first:
            first.enter_context(hold_place(theirs, "model/theirs", capacity=ONE))
            with hold_place(ours, "model/ours", capacity=ONE, reporter=told, wait=passing(ours, then=first.close)):
                seen = [line for line in list_queue(replace(theirs, admin=False)) if line.workspace == "default"]
                assert seen == []
        assert told.lines[0].endswith("the machine runs as many as it may; 1 run goes on")

    def test_waiting_ends_when_its_time_is_up(self, ports: Ports) -> None:
        session = open_session(ports)
        with (
            hold_place(session, "model/a", capacity=ONE),
            pytest.raises(QuotaExceeded, match=r"waited 1\.2 s in the queue and did not come to its turn: number 1 of 1") as caught,
            hold_place(session, "model/b", capacity=ONE, wait_s=1.2, wait=passing(session)),
        ):
            raise AssertionError("it has no place")
        assert caught.value.details["retry_after_s"] == 1
        assert find_places(session, "waiting") == []

    def test_a_quota_of_runs_is_the_workspace_s_and_the_actor_s_alone(self, ports: Ports) -> None:
        ada, bob = open_session(ports), open_session(ports, actor="bob")
        set_quota(ada, runs=2)
        set_quota(ada, actor="ada", runs=1)
        with hold_place(ada, "model/a"):
            with pytest.raises(QuotaExceeded, match="'ada' in workspace 'default' runs as many as they may"), hold_place(ada, "model/b", wait_s=0):
                raise AssertionError("it has no place")
            with hold_place(bob, "model/c", wait_s=0):
                with pytest.raises(QuotaExceeded, match="workspace 'default' runs as many"), hold_place(bob, "model/d", wait_s=0):
                    raise AssertionError("it has no place")
                with hold_place(open_session(ports, workspace="other"), "model/e", wait_s=0):
                    assert len(find_places(ada, "running")) == 3

    def test_a_quota_that_is_taken_away_lets_who_waits_go_on(self, ports: Ports) -> None:
        session = open_session(ports)
        set_quota(session, runs=1)
        with (
            hold_place(session, "model/a"),
            hold_place(session, "model/b", wait=passing(session, then=lambda: clear_quota(session))),
        ):
            assert len(find_places(session, "running")) == 2

    def test_used_up_cpu_minutes_refuse_until_they_begin_anew_and_it_is_audited(self, ports: Ports) -> None:
        session = open_session(ports)
        set_quota(session, cpu_minutes="1/day")
        with hold_place(session, "model/a") as own, own.records.transact() as tx:
            count_use(own, tx, "model/a", cpu_s=61.0)
        with pytest.raises(QuotaExceeded, match=r"has used 1\.0 of 1 CPU-minutes this day") as caught, hold_place(session, "model/b"):
            raise AssertionError("it has no place")
        assert "2026-01-06 00:00 UTC" in str(caught.value)
        assert list_audit(session, outcome="refused")[0].detail == {"why": "quota", "cpu_minutes": 1.017, "limit": 1.0}
        assert isinstance(session.clock, ManualClock)
        session.clock.advance(timedelta(hours=16))
        with hold_place(session, "model/b", wait_s=0):
            assert sum_cpu_s(session.records, "default", actor="ada", at=session.now(), per="month") == 61.0

    def test_a_run_s_memory_is_lowered_to_its_quota_and_counts_against_the_machine_s(self, ports: Ports) -> None:
        session = open_session(ports)
        session = replace(session, settings=msgspec.structs.replace(session.settings, memory_limit=8_000))
        machine = Capacity(runs=5, memory=10_000)
        with hold_place(session, "model/a", capacity=machine) as own:
            assert own.settings.memory_limit == 8_000
            with pytest.raises(QuotaExceeded, match="no more memory"), hold_place(session, "model/b", capacity=machine, wait_s=0):
                raise AssertionError("it has no place")
            set_quota(session, memory="2000")
            with hold_place(session, "model/b", capacity=machine, wait_s=0) as lowered:
                assert lowered.settings.memory_limit == 2_000
        clear_quota(session)
        with pytest.raises(InvalidInput, match="runs of this machine have"), hold_place(session, "model/c", capacity=Capacity(runs=1, memory=7_000)):
            raise AssertionError("it has no place")

    def test_gpus_are_counted_and_more_than_there_are_refused(self, ports: Ports) -> None:
        session, machine = open_session(ports), Capacity(gpus=2)
        set_quota(session, actor="ada", gpus=1)
        with (
            pytest.raises(InvalidInput, match="2 GPUs were asked for, and 'ada' in workspace 'default' may hold 1"),
            hold_place(session, "model/a", needs=Needs(gpus=2), capacity=machine),
        ):
            raise AssertionError("it has no place")
        bob = open_session(ports, actor="bob")
        with pytest.raises(InvalidInput, match="this machine has 2"), hold_place(bob, "model/a", needs=Needs(gpus=3), capacity=machine):
            raise AssertionError("it has no place")
        with hold_place(session, "model/a", needs=Needs(gpus=1), capacity=machine):
            with pytest.raises(QuotaExceeded, match="all GPUs are held"), hold_place(bob, "model/b", needs=Needs(gpus=2), capacity=machine, wait_s=0):
                raise AssertionError("it has no place")
            with hold_place(bob, "model/b", needs=Needs(gpus=1), capacity=machine, wait_s=0):
                assert sum(place.gpus for place in find_places(session, "running")) == 2

    def test_a_place_of_another_machine_is_free_when_its_time_has_passed(self, ports: Ports) -> None:
        session = open_session(ports)
        set_quota(session, runs=1)
        put_elsewhere(session)
        wait = passing(session)
        with hold_place(session, "model/a", wait=wait):
            assert [place.subject for place in find_places(session, "running")] == ["model/a"]
        far = next(place for place in find_places(session, "ended") if place.subject == "model/far")
        assert far.spent_s == far.charged_s, "nobody can tell what it spent"

    def test_a_place_whose_process_is_gone_is_free_at_once(self, ports: Ports) -> None:
        session = open_session(ports)
        set_quota(session, runs=1)
        with hold_place(session, "model/a") as own:
            assert own.place is not None
            (place,) = find_places(session, "running")
        gone = msgspec.structs.replace(place.holder, hold=place.holder.hold)  # its hold has ended
        put_elsewhere(session, holder=gone)
        with hold_place(session, "model/b", wait_s=0):
            assert len(find_places(session, "running")) == 1

    def test_who_waited_and_is_gone_keeps_nobody_waiting(self, ports: Ports) -> None:
        session = open_session(ports)
        with ExitStack() as first:
            first.enter_context(hold_place(session, "model/a", capacity=ONE))
            (running,) = find_places(session, "running")
            dead = msgspec.structs.replace(running.holder, hold=10**9)  # no hold of this process
            put_elsewhere(session, holder=dead, state="waiting", capacity=ONE, charged_s=0.0)
            assert [line.subject for line in list_queue(session)] == ["model/a"]
            with hold_place(session, "model/b", capacity=ONE, wait=passing(session, then=first.close)):
                assert [place.subject for place in find_places(session, "running")] == ["model/b"]

    def test_the_queue_is_shown_in_order_and_left(self, ports: Ports) -> None:
        ada, bob = open_session(ports), open_session(ports, actor="bob")
        lines: list[QueueLine] = []

        def take_out() -> None:
            lines.extend(list_queue(ada))
            with pytest.raises(Conflict, match="does not wait any more: it runs"):
                leave_queue(ada, lines[0].id)
            leave_queue(ada, lines[1].id)

        with (
            hold_place(ada, "model/a", capacity=ONE),
            pytest.raises(Conflict, match="'ada' took the run of 'model/b' out of the queue"),
            hold_place(bob, "model/b", capacity=ONE, wait=passing(bob, then=take_out)),
        ):
            raise AssertionError("it has no place")
        assert [(line.number, line.state, line.actor, line.subject) for line in lines] == [
            (0, "running", "ada", "model/a"),
            (1, "waiting", "bob", "model/b"),
        ]
        assert lines[1].waits_for == "the machine runs as many as it may"
        assert list_audit(ada)[0].detail == {"actor": "bob", "subject": "model/b", "workspace": "default"}

    def test_what_a_run_spent_is_set_right_when_it_ends(self, ports: Ports) -> None:
        session = open_session(ports)
        put_elsewhere(session, workspace="other")
        with hold_place(session, "model/a", needs=Needs(expected_s=10)) as own:
            before = session.records.get(SHARES, workspace=HOUSE, id="house") or Shares()
            assert before.passes["default"] == 10.0
            with own.records.transact() as tx:
                count_use(own, tx, "model/a", cpu_s=100.0)
        after = session.records.get(SHARES, workspace=HOUSE, id="house") or Shares()
        assert after.passes["default"] == 100.0
        assert after.times[""] == 50.0, "two workspaces run: the home's time moves on by half"

    def test_a_clock_that_jumps_back_keeps_nobody_waiting(self, ports: Ports) -> None:
        session = open_session(ports)
        with ExitStack() as first:
            first.enter_context(hold_place(session, "model/a", capacity=ONE))
            earlier = replace(session, clock=ManualClock(session.now() - timedelta(days=400)))
            with hold_place(earlier, "model/b", capacity=ONE, wait=passing(earlier, then=first.close)):
                assert [place.subject for place in find_places(session, "running")] == ["model/b"]

    def test_many_at_once_never_run_beside_one_another(self, ports: Ports) -> None:
        running, most, order = [0], [0], []
        lock, free = threading.Lock(), threading.Event()

        def work(n: int) -> None:
            session = open_session(ports, actor=f"actor-{n % 3}")
            clock = session.clock
            assert isinstance(clock, ManualClock)

            def wait(pause_s: float) -> None:
                clock.advance(timedelta(seconds=pause_s))
                free.wait(0.005)

            with hold_place(session, f"model/{n}", capacity=ONE, wait=wait):
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                    order.append(n)
                with lock:
                    running[0] -= 1

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1]
        assert sorted(order) == list(range(8))

    def test_minutes_that_were_used_up_while_it_waited_refuse_a_run_when_its_turn_comes(self, ports: Ports) -> None:
        session = open_session(ports)
        set_quota(session, cpu_minutes="1/day")
        with ExitStack() as first:
            own = first.enter_context(hold_place(session, "model/a", capacity=ONE))

            def end() -> None:
                with own.records.transact() as tx:
                    count_use(own, tx, "model/a", cpu_s=61.0)
                first.close()

            with (
                pytest.raises(QuotaExceeded, match="CPU-minutes this day"),
                hold_place(session, "model/b", capacity=ONE, wait=passing(session, then=end)),
            ):
                raise AssertionError("it has no minutes")
        assert find_places(session, "running") == find_places(session, "waiting") == []

    def test_who_lost_the_right_while_waiting_does_not_run(self, ports: Ports) -> None:
        class Lost:
            def find_lost(self, *_: object) -> str:
                return "the user 'bob' was disabled"

        session = open_session(ports)
        bob = replace(open_session(ports, actor="bob"), warrant=Lost())
        with ExitStack() as first:
            first.enter_context(hold_place(session, "model/a", capacity=ONE))
            with (
                pytest.raises(PermissionDenied, match="was disabled, so 'run' was stopped"),
                hold_place(bob, "model/b", capacity=ONE, wait=passing(bob, then=first.close)),
            ):
                raise AssertionError("it has no right")
        assert list_audit(session, outcome="refused")[0].actor == "bob"

    def test_a_look_at_an_empty_queue_changes_no_shares(self, ports: Ports) -> None:
        session = open_session(ports)
        with session.records.transact() as tx:
            look(tx, session.now())
        assert session.records.get(SHARES, workspace=HOUSE, id="house") is None

    def test_a_stranger_finds_no_place_of_another_workspace(self, ports: Ports) -> None:
        session = open_session(ports)
        place = put_elsewhere(session, state="waiting")
        stranger = replace(open_session(ports, workspace="other"), admin=False, actor=Actor("eve"))
        with pytest.raises(NotFound, match="There is no run"):
            leave_queue(stranger, place.id)
