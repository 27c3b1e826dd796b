"""That a storm would see what it looks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from endcap.governance.sessions import Session
from endcap.pipelines.graph import Outcome, Step
from endcap.pipelines.leases import hold_lease
from endcap.pipelines.records import RUNS, Run
from endcap.pipelines.runner import run_steps
from endcap.testing.kills import Seen, _hold_against, choose, find_faults
from endcap.testing.sessions import make_session

SUBJECT = "model/store-day"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def session(home: Path) -> Iterator[Session]:
    made = make_session(home)
    run_steps(made, (Step("a", lambda _: Outcome(1), int, parts=()),), subject=SUBJECT)
    yield made
    made.ports.close()


def test_a_sound_home_has_no_faults(session: Session, home: Path) -> None:
    assert find_faults(session, home) == []


def test_what_is_left_behind_is_seen(session: Session, home: Path) -> None:
    (home / "unfinished").mkdir(exist_ok=True)
    (home / "unfinished" / "x.part").write_bytes(b"half")
    assert find_faults(session, home) == ["unfinished/x.part was left behind"]


def test_a_run_that_seems_to_go_on_is_seen(session: Session, home: Path) -> None:
    with session.records.transact() as tx:
        tx.append(RUNS, workspace="default", record=Run(id="run_x", subject=SUBJECT, actor="ada", started_at=session.now()))
    assert find_faults(session, home) == ["run_x is said to go on"]


def test_a_lease_that_is_held_is_seen(session: Session, home: Path) -> None:
    with hold_lease(session, SUBJECT):
        assert find_faults(session, home) == [f"the lease of {SUBJECT} is held"]


def test_a_second_run_that_repeats_a_finished_step_is_seen() -> None:
    session = make_session()
    done = run_steps(session, (Step("a", lambda _: Outcome(1), int, parts=()),), subject=SUBJECT).run
    killed = msgspec.structs.replace(done, id="run_x", status="killed")
    assert _hold_against(killed, Seen(None, (), done, killed)) == ["the finished step 'a' ran again"]
    cached = msgspec.structs.replace(done, steps=(msgspec.structs.replace(done.steps[0], status="cached"),))
    assert _hold_against(killed, Seen(None, (), cached, killed)) == []
    assert _hold_against(killed, Seen(None, (), cached, done)) == ["run_x is not marked as killed"]


def test_words_that_name_no_instant_are_refused() -> None:
    with pytest.raises(ValueError, match="'burn:5' says neither"):
        choose(["burn:5"], n=9)
