from __future__ import annotations

import time
from dataclasses import replace

import pytest

from endcap.core.errors import Conflict, QuotaExceeded
from endcap.core.settings import Settings
from endcap.governance.quotas.costs import list_costs
from endcap.governance.quotas.records import PLACES, USAGES, Place
from endcap.governance.quotas.settling import set_quota
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.pipelines.graph import Outcome, Step, StepContext
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.records import RUNS
from endcap.pipelines.runner import run_steps
from endcap.pipelines.turns import EXPECTED_S, hold_turn
from endcap.testing.places import put_elsewhere
from endcap.testing.sessions import make_session

SUBJECT = "model/a"


@pytest.fixture
def session() -> Session:
    return make_session()


def burn(context: StepContext) -> Outcome:
    """Costs 20 ms of CPU."""
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    return Outcome(None)


def fail(context: StepContext) -> Outcome:
    burn(context)
    raise Conflict("It does not fit.")


def running(session: Session) -> list[Place]:
    return session.records.find(PLACES, workspace=HOUSE, where={"state": "running"})


def test_a_run_holds_a_place_and_what_its_steps_cost_is_counted_to_the_last(session: Session) -> None:
    seen: list[str] = []

    def look(context: StepContext) -> Outcome:
        seen.extend(place.subject for place in running(session))
        return burn(context)

    done = run_steps(session, (Step("a", look, type(None)), Step("b", burn, type(None))), subject=SUBJECT)
    assert seen == [SUBJECT]
    assert running(session) == []
    (row,) = session.records.find(USAGES, workspace="default")
    assert (row.day, row.actor, row.thing, row.n_runs) == ("2026-01-05", "ada", SUBJECT, 1)
    assert done.run.cpu_s > 0.03
    assert row.cpu_s == pytest.approx(done.run.cpu_s)
    (place,) = session.records.find(PLACES, workspace=HOUSE, where={"state": "ended"})
    assert place.spent_s == pytest.approx(done.run.cpu_s, abs=0.001)
    assert place.charged_s == EXPECTED_S


def test_a_run_that_fails_counts_too_the_step_that_failed_as_well(session: Session) -> None:
    with pytest.raises(Conflict, match="does not fit"):
        run_steps(session, (Step("a", burn, type(None)), Step("b", fail, type(None))), subject=SUBJECT)
    (run,) = session.records.find(RUNS, workspace="default")
    (line,) = list_costs(session)
    assert run.cpu_s > 0.03
    assert line.cpu_s == pytest.approx(run.cpu_s, abs=0.001)
    assert len(run.steps) == 2


def test_the_next_run_is_expected_to_cost_what_the_last_one_did(session: Session) -> None:
    first = run_steps(session, (Step("a", burn, type(None)),), subject=SUBJECT).run
    with hold_lease(session, SUBJECT) as hold, hold_turn(session, hold):
        (place,) = running(session)
    assert place.expected_s == max(1.0, first.cpu_s)
    with hold_lease(session, SUBJECT) as hold, hold_turn(session, hold, expected_s=7.0, thing="view/x"):
        (place,) = running(session)
    assert (place.expected_s, place.subject) == (7.0, "view/x")


def test_the_session_of_a_turn_is_the_hold_s_with_what_quotas_allow(session: Session) -> None:
    set_quota(session, memory="1000")
    with hold_lease(session, SUBJECT) as hold, hold_turn(session, hold) as own:
        assert own.settings.memory_limit == 1000
        assert own.ports.records is hold.session.ports.records, "its writes are fenced"
        with hold_lease(own, "model/b") as other, hold_turn(own, other) as inner:
            assert inner is other.session
            assert len(running(session)) == 1


def test_used_up_cpu_minutes_refuse_a_run_before_anything_is_written(session: Session) -> None:
    set_quota(session, cpu_minutes="0.0001/day")
    run_steps(session, (Step("a", burn, type(None)),), subject=SUBJECT)
    with pytest.raises(QuotaExceeded, match="CPU-minutes this day"):
        run_steps(session, (Step("a", burn, type(None)),), subject=SUBJECT)
    assert len(session.records.find(RUNS, workspace="default")) == 1


def test_a_machine_that_is_full_keeps_its_own_runs_waiting_and_not_those_of_others(session: Session) -> None:
    session = replace(session, settings=Settings(n_runs=1, memory_limit=1000))
    put_elsewhere(session)  # of another machine
    run_steps(session, (Step("a", burn, type(None)),), subject=SUBJECT)
    with hold_lease(session, "model/b") as hold, hold_turn(session, hold):
        waits: list[float] = []

        def wait(pause_s: float) -> None:
            waits.append(pause_s)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_steps(session, (Step("a", burn, type(None)),), subject=SUBJECT, wait=wait)
    assert len(waits) == 1
    assert session.records.find(PLACES, workspace=HOUSE, where={"state": "waiting"}) == []
