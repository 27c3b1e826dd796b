"""The contract of leases over a back end: one holder at a time, and none that lost its turn writes on.

A back end is tested by a module that derives a class from the suite and gives the fixture ``ports``, open and empty, as in
``endcap.testing.stores``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, LeaseLost
from endcap.governance.holders import Holder
from endcap.governance.sessions import Session
from endcap.pipelines.leases import EXPIRY_S, LEASES, Lease, hold_lease
from endcap.storage.ports import Ports
from endcap.testing.sessions import make_session
from endcap.testing.stores import THINGS, WS, Thing, in_threads

SUBJECT = "model/store-day"
ELSEWHERE = Holder("far", "another kernel", 1, "1", 1)


def open_session(ports: Ports, *, actor: str = "ada") -> Session:
    """A session over open ports, with a clock of its own."""
    return replace(make_session(actor=actor), ports=ports)


def lease_elsewhere(session: Session, *, n: int = 1) -> Lease:
    """The lease as it would stand had a process of another machine taken it a moment ago."""
    now = session.now()
    lease = Lease(subject=SUBJECT, n=n, actor="bob", holder=ELSEWHERE, since=now, expires_at=now + timedelta(seconds=EXPIRY_S), run="run_9")
    with session.records.transact() as tx:
        found = tx.get_versioned(LEASES, workspace=session.workspace, id=SUBJECT)
        tx.put(LEASES, workspace=session.workspace, record=lease, expected_version=found[1] if found else 0)
    return lease


def read_lease(session: Session) -> Lease:
    """The lease that stands."""
    found = session.records.get(LEASES, workspace=session.workspace, id=SUBJECT)
    assert found is not None
    return found


def pass_time(session: Session, seconds: float) -> None:
    """Let the session's clock go on."""
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(seconds=seconds))


def take(session: Session, **options: Any) -> Lease:
    """Hold the subject for a moment; what stood meanwhile."""
    with hold_lease(session, SUBJECT, **options) as hold:
        return hold.lease


class LeaseContract:
    """Leases: taking, waiting, expiry, fencing, many at the same time."""

    def test_a_lease_says_who_holds_it_and_is_free_afterwards(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT) as hold:
            standing = read_lease(session)
            assert standing == hold.lease
            assert (standing.n, standing.actor, standing.since, standing.released) == (1, "ada", session.now(), False)
            assert standing.expires_at - standing.since == timedelta(seconds=EXPIRY_S)
        assert read_lease(session) == msgspec.structs.replace(standing, released=True)
        assert take(session).n == 2

    def test_a_second_is_told_who_holds_it_since_when_and_for_which_run(self, ports: Ports) -> None:
        session = open_session(ports)
        lease_elsewhere(session)
        pass_time(session, 10)
        with pytest.raises(Conflict, match=r"'model/store-day' is held by run_9 of 'bob' \(process 1 on far\), since 2026-01-05 08:00") as caught:
            take(session)
        assert "--wait" in str(caught.value)
        assert "ends by itself in 50 s" in str(caught.value)
        assert caught.value.details["run"] == "run_9"

    def test_a_failing_block_gives_its_lease_back(self, ports: Ports) -> None:
        session = open_session(ports)

        def fail() -> None:
            with hold_lease(session, SUBJECT):
                raise KeyError("x")

        with pytest.raises(KeyError):
            fail()
        assert take(session).n == 2

    def test_subjects_and_workspaces_are_held_apart(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT), hold_lease(session, "model/other"), hold_lease(replace(session, workspace="other"), SUBJECT) as third:
            assert third.lease.n == 1

    def test_whoever_holds_it_already_goes_on_holding_it(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT) as outer:
            with hold_lease(outer.session, SUBJECT) as inner:
                assert inner is outer
            assert not read_lease(session).released
            with hold_lease(outer.session, "model/other") as other, hold_lease(other.session, SUBJECT) as again:
                assert again is outer
            with pytest.raises(Conflict, match="is held by"):
                take(session)

    def test_another_machine_s_lease_is_free_when_its_time_has_passed(self, ports: Ports) -> None:
        session = open_session(ports)
        lease_elsewhere(session)
        pass_time(session, EXPIRY_S - 1)
        with pytest.raises(Conflict):
            take(session)
        pass_time(session, 1)
        assert take(session).n == 2

    def test_waiting_goes_on_until_it_is_free(self, ports: Ports) -> None:
        session = open_session(ports)
        lease_elsewhere(session)
        waited: list[float] = []

        def wait(pause_s: float) -> None:
            waited.append(pause_s)
            pass_time(session, 20)

        assert take(session, wait_s=600, wait=wait).n == 2
        assert len(waited) == 3

    def test_waiting_ends_when_its_time_is_up(self, ports: Ports) -> None:
        session = open_session(ports)
        lease_elsewhere(session)
        waited: list[float] = []
        with pytest.raises(Conflict, match=r"after 1\.2 s of waiting"):
            take(session, wait_s=1.2, wait=waited.append)
        assert sum(waited) == pytest.approx(1.2)

    def test_who_lost_its_lease_writes_nothing_more(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT) as hold:
            own = hold.session
            with own.records.transact() as tx:
                tx.append(THINGS, workspace=WS, record=Thing("before"))
            own.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [1]}))
            lease_elsewhere(session, n=2)
            with pytest.raises(LeaseLost, match=r"run_9 of 'bob' \(process 1 on far\) took"), own.records.transact() as tx:
                tx.append(THINGS, workspace=WS, record=Thing("after"))
            with pytest.raises(LeaseLost):
                own.tables.write("sales", partition={"day": "1"}, table=pa.table({"a": [2]}))
            with pytest.raises(LeaseLost):
                own.tables.delete("sales", partition={"day": "1"})
            assert not hold.renew()
        assert [thing.id for thing in own.records.find(THINGS, workspace=WS)] == ["before"]
        assert own.tables.read("sales").to_pydict() == {"a": [1]}
        assert (read_lease(session).holder, read_lease(session).released) == (ELSEWHERE, False)

    def test_nothing_is_written_through_a_hold_that_ended(self, ports: Ports) -> None:
        with hold_lease(open_session(ports), SUBJECT) as hold:
            pass
        with pytest.raises(LeaseLost, match="has ended"), hold.session.records.transact():
            raise AssertionError("never entered")

    def test_a_renewal_puts_off_the_expiry(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT) as hold:
            pass_time(session, EXPIRY_S + 5)  # the machine slept; nobody came
            assert hold.renew()
            assert read_lease(session).expires_at == session.now() + timedelta(seconds=EXPIRY_S)
            assert read_lease(session).since < session.now()

    def test_the_lease_is_renewed_while_the_work_goes_on(self, ports: Ports) -> None:
        session = open_session(ports)
        with hold_lease(session, SUBJECT, renewal_s=0.01):
            pass_time(session, 3)
            expected = session.now() + timedelta(seconds=EXPIRY_S)
            gate = Event()
            for _ in range(1000):
                if read_lease(session).expires_at == expected:
                    break
                gate.wait(0.01)
            assert read_lease(session).expires_at == expected

    def test_of_many_who_come_together_one_holds_and_all_get_their_turn(self, ports: Ports) -> None:
        inside: list[int] = []

        def work(number: int) -> int:
            with hold_lease(open_session(ports, actor=f"actor {number}"), SUBJECT, wait_s=60, wait=lambda _: Event().wait(0.002)) as hold:
                inside.append(number)
                assert inside == [number]
                inside.remove(number)
                return hold.lease.n

        assert sorted(in_threads(work)) == list(range(1, 9))
        assert read_lease(open_session(ports)).released
