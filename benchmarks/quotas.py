"""What quotas cost: a request at the gateway with and without them, a place in the queue with nobody and with 1,000 waiting, a logged metric, a blob.

A home of files. CPU time of one process, medians of rounds. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from endcap.assembly import House, open_house
from endcap.faces.http.rates import Rates
from endcap.governance.holders import HOLDS
from endcap.governance.quotas.places import EXPIRY_S, hold_place
from endcap.governance.quotas.queue import list_queue
from endcap.governance.quotas.records import PLACES, QUOTAS, SHARES, Capacity, Place, Quota, Shares
from endcap.governance.quotas.requests import RequestLimits
from endcap.governance.quotas.scheduling import schedule
from endcap.governance.quotas.settling import set_quota
from endcap.governance.records import HOUSE
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.tracked_runs import log, start_run
from endcap.storage.tracks import Point, TrackBatch

N_WAITING, N_WORKSPACES, N_ACTORS = 1_000, 20, 5
LIMITS = {"gateway_us": 1.0, "request_limited_us": 3.0, "place_ms": 5.0, "place_waiting_ms": 60.0}


def measure_us(call: Callable[[], object], *, n: int, rounds: int) -> float:
    """CPU microseconds of a call, the median of rounds of ``n``; the first round warms up."""
    taken = []
    for _ in range(rounds + 1):
        gc.collect()
        began = time.process_time()
        for _ in range(n):
            call()
        taken.append((time.process_time() - began) / n * 1e6)
    return statistics.median(taken[1:])


def measure_requests(session: Session, *, rounds: int, n: int = 100_000) -> float:
    """What letting a request through costs; time stands still, so that no bucket is refilled or read anew."""
    limits = RequestLimits(lambda: 1.0)
    limits.refresh(session)
    return measure_us(lambda: limits.take(session), n=n, rounds=rounds)


def measure_gateway(session: Session, *, rounds: int, n: int = 100_000) -> float:
    """The same as the gateway awaits it, without what awaiting nothing costs."""
    rates = Rates(RequestLimits(lambda: 1.0))
    rates.limits.refresh(session)

    async def nothing() -> None:
        return None

    def drive(call: Callable[[], Awaitable[None]]) -> float:
        async def work() -> None:
            for _ in range(n):
                await call()

        return measure_us(lambda: asyncio.run(work()), n=1, rounds=rounds) / n

    return drive(lambda: rates.require(session)) - drive(nothing)


def wait_in_queue(house: House) -> Place:
    """1,000 runs that wait for one that goes on, of 20 workspaces and five actors in each, on a machine that holds one. Returns who goes on."""
    session, now, capacity = house.session(), house.clock.now(), Capacity(runs=1)
    with session.records.transact() as tx:
        for n in range(N_WAITING + 1):
            place = Place(
                id=f"place_{n:06d}",
                workspace=f"team{n % N_WORKSPACES}",
                actor=f"actor{n // N_WORKSPACES % N_ACTORS}",
                subject=f"model/m{n}",
                holder=HOLDS.begin(),
                arrived_at=now,
                expires_at=now + timedelta(seconds=EXPIRY_S),
                state="waiting" if n else "running",
                capacity=capacity,
            )
            tx.append(PLACES, workspace=HOUSE, record=place)
        for n in range(N_WORKSPACES):
            tx.append(QUOTAS, workspace=HOUSE, record=Quota(workspace=f"team{n}", actor="", at=now, by="ada", runs=3, weight=1.0 + n % 3))
    found = session.records.get(PLACES, workspace=HOUSE, id="place_000000")
    assert found is not None
    return found


def take_place(session: Session) -> None:
    with hold_place(session, "model/bench"):
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description="What quotas cost.")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds is a whole number from 1")
    report: dict[str, Any] = {"waiting": N_WAITING, "limits": LIMITS}
    with tempfile.TemporaryDirectory(prefix="endcap-quotas-") as folder, open_house(Path(folder) / "home") as house:
        session = house.session()
        report["request_us"] = round(measure_requests(session, rounds=given.rounds), 2)
        report["gateway_us"] = round(measure_gateway(session, rounds=given.rounds), 2)
        set_quota(session, requests="1000000/s")
        set_quota(session, actor=session.actor.name, requests="1000000/s")
        report["request_limited_us"] = round(measure_requests(session, rounds=given.rounds), 2)
        other = house.session(workspace="other")
        report["place_ms"] = round(measure_us(lambda: take_place(other), n=50, rounds=given.rounds) / 1000, 2)
        run, points = start_run(other).id, TrackBatch(points=[Point("loss", 1.0, 1, 1)])
        report["metric_us"] = round(measure_us(lambda: log(other, run, points), n=500, rounds=given.rounds), 1)
        raw = replace(other, ports=house.ports)
        report["metric_unmetered_us"] = round(measure_us(lambda: log(raw, run, points), n=500, rounds=given.rounds), 1)
        wait_in_queue(house)
        report["place_waiting_ms"] = round(measure_us(lambda: take_place(other), n=5, rounds=given.rounds) / 1000, 1)
        report["queue_ms"] = round(measure_us(lambda: list_queue(session), n=3, rounds=given.rounds) / 1000, 1)
        waiting = session.records.find(PLACES, workspace=HOUSE, where={"state": "waiting"})
        shares = session.records.get(SHARES, workspace=HOUSE, id="house") or Shares()
        report["schedule_ms"] = round(measure_us(lambda: schedule([], waiting, quotas={}, shares=shares), n=10, rounds=given.rounds) / 1000, 1)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
