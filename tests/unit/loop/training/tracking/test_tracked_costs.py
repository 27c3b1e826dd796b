from __future__ import annotations

import math
from dataclasses import replace

import pytest

from endcap.governance.quotas.costs import CostLine, list_costs
from endcap.governance.quotas.places import hold_place
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.client import track_run
from endcap.loop.training.tracking.tracked_runs import log, start_run, update_run
from endcap.storage.tracks import Point, TrackBatch
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    return make_session()


def end(session: Session, *, cpu_s: float, wall_s: float = 2.0, status: str = "finished") -> str:
    run = start_run(session).id
    log(session, run, TrackBatch(points=[Point("endcap.cpu_s", cpu_s, 1), Point("endcap.wall_s", wall_s, 1)]))
    update_run(session, run, status=status)
    return run


def costs(session: Session) -> CostLine:
    (line,) = list_costs(session, by="actor")
    return line


def test_what_a_tracked_run_told_counts_once_however_often_it_ends(session: Session) -> None:
    run = end(session, cpu_s=10.0)
    update_run(session, run, status="running")
    log(session, run, TrackBatch(points=[Point("endcap.cpu_s", 99.0, 2, 1)]))
    update_run(session, run, status="failed")
    assert (costs(session).cpu_s, costs(session).wall_s, costs(session).n_runs) == (10.0, 2.0, 1)
    assert [line.of for line in list_costs(session)] == ["experiment/0"]


@pytest.mark.parametrize("cpu_s", [-5.0, math.nan, math.inf, 1e300])
def test_what_is_no_number_of_seconds_counts_nothing(session: Session, cpu_s: float) -> None:
    end(session, cpu_s=cpu_s)
    assert (costs(session).cpu_s, costs(session).wall_s, costs(session).n_runs) == (0.0, 2.0, 1)


def test_a_run_of_python_counts_what_it_cost(session: Session) -> None:
    with track_run(session, "trials"):
        sum(n * n for n in range(200_000))
    assert costs(session).cpu_s > 0


def test_a_run_within_a_run_of_ours_is_counted_by_that(session: Session) -> None:
    with hold_place(session, "model/a") as own:
        end(own, cpu_s=10.0)
    assert list_costs(session) == []


def test_a_run_counts_in_its_own_workspace(session: Session) -> None:
    end(replace(session, workspace="other"), cpu_s=1.0)
    assert list_costs(session) == []
