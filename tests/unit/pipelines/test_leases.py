from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, LeaseLost
from endcap.pipelines.graph import Outcome, Step, StepContext
from endcap.pipelines.leases import EXPIRY_S, LEASES, hold_lease
from endcap.pipelines.records import RUNS, STEP_RESULTS
from endcap.pipelines.runner import run_steps
from endcap.testing.sessions import make_session

SUBJECT = "model/store-day"
HOLDING = """
import sys, time
from endcap.pipelines.leases import hold_lease
from endcap.testing.sessions import make_session

session = make_session(sys.argv[1], actor="bob")
with hold_lease(session, "model/store-day") as hold:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        with hold.session.records.transact():
            print("wrote", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


def hold_elsewhere(home: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLDING, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


class Telling:
    """Keeps what a reporter is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def step_started(self, name: str) -> None:
        self.told.append(("started", name))

    def step_advanced(self, name: str, *, done: int, total: int) -> None:
        self.told.append(("advanced", done, total))

    def step_ended(self, name: str, *, status: str, wall_s: float, note: str) -> None:
        self.told.append(("ended", name, status, wall_s, note))


def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path) -> None:
    child = hold_elsewhere(tmp_path)
    session = make_session(tmp_path)
    with pytest.raises(Conflict, match=rf"held by a run of 'bob' \(process {child.pid} on "), hold_lease(session, SUBJECT):
        raise AssertionError("never entered")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with hold_lease(session, SUBJECT) as hold:
        assert hold.lease.n == 2
    child.communicate()
    session.ports.close()


def test_a_process_that_was_paused_too_long_writes_nothing_more(tmp_path: Path) -> None:
    child = hold_elsewhere(tmp_path)
    session = make_session(tmp_path)
    assert isinstance(session.clock, ManualClock)
    os.kill(child.pid, signal.SIGSTOP)
    session.clock.advance(timedelta(seconds=EXPIRY_S))
    with hold_lease(session, SUBJECT) as hold:
        os.kill(child.pid, signal.SIGCONT)
        said, _ = child.communicate("go on\n", timeout=60)
        assert said == "LeaseLost\n"
        hold.require(session.records)
    session.ports.close()


def test_whoever_waits_is_told_for_whom(tmp_path: Path) -> None:
    child = hold_elsewhere(tmp_path)
    session, telling = make_session(tmp_path), Telling()

    def wait(_: float) -> None:
        child.communicate("go on\n", timeout=60)

    with hold_lease(session, SUBJECT, wait_s=5, reporter=telling, wait=wait):
        pass
    who = f"a run of 'bob' (process {child.pid} on "
    assert [entry[0] for entry in telling.told] == ["started", "advanced", "ended"]
    assert telling.told[0][1].startswith(f"wait for {who}")
    assert telling.told[0][1].endswith("since 08:00:00 UTC")
    assert telling.told[1] == ("advanced", 0, 5)
    assert telling.told[2][1:4] == ("wait", "done", 0.5)
    assert telling.told[2][4].startswith(who)
    session.ports.close()


def test_a_second_run_of_a_subject_is_refused_while_the_first_goes_on_and_begins_no_run() -> None:
    session = make_session()
    refused: list[Conflict] = []

    def call(_: StepContext) -> Outcome:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return Outcome(1)

    def second() -> None:
        try:
            run_steps(session, (Step("other", lambda _: Outcome(2), int),), subject=SUBJECT)
        except Conflict as error:
            refused.append(error)

    done = run_steps(session, (Step("a", call, int),), subject=SUBJECT)
    assert [error.details["run"] for error in refused] == [done.run.id]
    assert session.records.find(RUNS, workspace="default") == [done.run]
    assert run_steps(session, (Step("other", lambda _: Outcome(2), int),), subject=SUBJECT).values == {"other": 2}


def test_a_run_that_lost_its_lease_keeps_no_step_and_the_taker_says_what_became_of_it() -> None:
    session = make_session()
    other = replace(session, clock=ManualClock(session.now() + timedelta(minutes=5)))

    def overtaken(_: StepContext) -> Outcome:
        run_steps(other, (Step("b", lambda _: Outcome(2), int, parts=()),), subject=SUBJECT)
        return Outcome(1)

    with pytest.raises(LeaseLost, match=r"run_000001 was silent for longer than 60 s, and run_000002 of 'ada'"):
        run_steps(session, (Step("a", overtaken, int, parts=()), Step("b", lambda _: Outcome(1), int)), subject=SUBJECT)
    runs = session.records.find(RUNS, workspace="default")
    assert [(run.id, run.status, run.error) for run in runs] == [
        ("run_000001", "killed", "It was killed, or fell silent, at step 'a'."),
        ("run_000002", "done", ""),
    ]
    assert [kept.step for kept in session.records.find(STEP_RESULTS, workspace="default")] == ["b"]


def test_a_lease_that_a_failing_store_kept_is_free_for_the_same_process() -> None:
    session = make_session()

    def leave() -> None:
        with hold_lease(session, SUBJECT) as hold:
            hold._unfenced.ports.records.transact = broken  # type: ignore[attr-defined,method-assign]  # the store fails from here on

    def broken() -> Any:
        raise Conflict("no writer has its turn")

    leave()
    del session.records.transact  # type: ignore[attr-defined]
    standing = session.records.get(LEASES, workspace="default", id=SUBJECT)
    assert standing is not None
    assert not standing.released
    with hold_lease(session, SUBJECT) as hold:
        assert hold.lease.n == 2


def test_no_thread_is_left_behind() -> None:
    with hold_lease(make_session(), SUBJECT):
        assert [thread for thread in threading.enumerate() if thread.name == "lease-renewal"]
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-renewal"]
