"""Turns: a run that holds its subject waits for its place among all runs of the home, and goes on with what it may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from endcap.governance.quotas.places import Needs, hold_place
from endcap.governance.sessions import Session
from endcap.pipelines.graph import Reporter
from endcap.pipelines.leases import Hold
from endcap.pipelines.machine import find_capacity
from endcap.pipelines.records import RUNS

EXPECTED_S = 60.0
"""CPU seconds that a run of something that never ran is expected to cost."""


@contextmanager
def hold_turn(
    session: Session,
    hold: Hold,
    *,
    verb: str = "run",
    thing: str | None = None,
    gpus: int = 0,
    expected_s: float | None = None,
    reporter: Reporter | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> Iterator[Session]:
    """Hold a place in the queue for a subject that is held already: yields the hold's session, with the place and no more memory than its quotas
    allow.

    ``session`` is the one that took the hold. ``thing`` is what it is shown and counted as (None: the subject). ``expected_s`` are the CPU seconds
    that it will cost as far as is known (None: what the subject's last run cost). Raises as ``hold_place``; cost as there, and one read.
    """
    if hold.session.place is not None:
        yield hold.session
        return
    needs = Needs(gpus=gpus, expected_s=_expect(session, hold.lease.subject) if expected_s is None else expected_s)
    capacity = find_capacity(session.settings)
    with hold_place(session, thing or hold.lease.subject, needs=needs, capacity=capacity, verb=verb, reporter=reporter, wait=wait) as own:
        yield replace(hold.session, settings=own.settings, place=own.place)


def _expect(session: Session, subject: str) -> float:
    last = session.records.find(RUNS, workspace=session.workspace, where={"subject": subject}, newest_first=True, limit=1)
    return last[0].cpu_s if last and last[0].status == "done" else EXPECTED_S
