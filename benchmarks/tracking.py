"""Tracking in process: logging to the disk and searching over 10,000 runs.

    python benchmarks/tracking.py [--runs 10000] [--rounds 5] [--home FOLDER]

What is measured, by the functions that every face calls, in a home in a folder: logging one point, a batch of 100 points, a batch of a
parameter, a tag and 10 points; starting a run; and searching 10,000 runs of 5 experiments, each with 10 metrics, 10 parameters and 5
tags, by filters that people type: by a metric, a parameter and a tag at once, in order of another metric, pages of 100 and of 1,000.

How: latencies are wall times, medians and 95th percentiles of the best of a few rounds; CPU milliseconds a call stand beside them, which
other work on the machine disturbs less. Every call that logs is on the disk when it returns, so it takes at least what the disk takes to
say so: between the calls, 8 KiB are written into a file of their own in the same folder and synced (`fdatasync`), and that is what the column
`fsync` says; `beyond_fsync` is the difference of the medians, and `without_fsync` the same calls where the disk is a piece of memory
(`/dev/shm`, where there is one). The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from endcap.assembly import open_house
from endcap.governance.sessions import Session
from endcap.loop.training.tracking.experiments import create_experiment
from endcap.loop.training.tracking.tracked_runs import log, search_runs, start_run
from endcap.storage.tracks import Point, Track, TrackBatch

LIMITS = {"search_ms": 50.0, "log_ms": 1.0, "batch_ms": 2.0}
MEMORY = Path("/dev/shm")
N_CALLS = 300
FILTERS = {
    "metric, parameter and tag": ("metrics.m1 < 0.5 and params.model = 'tree' and tags.team LIKE '%man%'", ["metrics.m2 DESC"]),
    "a metric": ("metrics.m1 < 0.99", ["metrics.m2 ASC"]),
    "status": ("attributes.status = 'FINISHED'", ["attributes.start_time DESC"]),
    "a rare value": ("metrics.m1 < 0.01 and params.p1 = '3'", ["metrics.m2"]),
    "all": ("", []),
}


def fill_home(session: Session, n_runs: int) -> None:
    rng = np.random.default_rng(5)
    groups = [create_experiment(session, f"experiment {n}").id for n in range(5)]
    for n in range(n_runs):
        track = Track(
            id=f"{n:032x}",
            group=groups[n % 5],
            name=f"run {n}",
            actor="ada",
            status="finished",
            started_us=n * 1_000_000,
            ended_us=n * 1_000_000 + 5_000,
            params={"model": ("tree", "linear", "net")[n % 3]} | {f"p{k}": str(rng.integers(20)) for k in range(9)},
            tags={"team": ("demand", "price")[n % 2]} | {f"t{k}": "abcdef"[rng.integers(6)] * 3 for k in range(4)},
            metrics={f"m{k}": Point(f"m{k}", float(rng.random()), n) for k in range(10)},
        )
        session.tracks.create(session.workspace, track)


def time_calls(act: Callable[[int], Any], n: int, *, rounds: int, between: Callable[[], float] | None = None) -> dict[str, float]:
    """Milliseconds a call: median and 95th percentile of the best round, CPU, and what happens between the calls."""
    best: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms
        took, cpu, waited = np.empty(n), np.empty(n), np.zeros(n)
        for place in range(n):
            began, spent = time.perf_counter(), time.process_time()
            act(number * n + place)
            took[place], cpu[place] = time.perf_counter() - began, time.process_time() - spent
            waited[place] = 0.0 if between is None else between()
        p50, p95 = np.percentile(took, [50, 95]) * 1000
        if number and (not best or p50 < best["p50_ms"]):
            best = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "cpu_ms": round(float(np.median(cpu)) * 1000, 3)}
            if between is not None:
                fsync = float(np.median(waited)) * 1000
                best |= {"fsync_ms": round(fsync, 3), "beyond_fsync_ms": round(max(p50 - fsync, 0.0), 3)}
    return best


def measure_logging(session: Session, folder: Path, *, rounds: int) -> dict[str, dict[str, float]]:
    run = start_run(session).id
    handle = os.open(folder / "probe", os.O_CREAT | os.O_WRONLY)

    def sync() -> float:
        os.pwrite(handle, os.urandom(8192), 0)
        began = time.perf_counter()
        os.fdatasync(handle)
        return time.perf_counter() - began

    def log_one(n: int) -> None:
        log(session, run, TrackBatch(points=[Point("loss", 1 / (n + 1), n, n)]))

    def log_hundred(n: int) -> None:
        log(session, run, TrackBatch(points=[Point(f"m{k % 10}", k / (n + 1), n, n * 10 + k // 10) for k in range(100)]))

    def log_mixed(n: int) -> None:
        points = [Point(f"x{k}", float(k), n, n) for k in range(10)]
        log(session, run, TrackBatch(params={f"p{n}": str(n)}, tags={"at": str(n)}, points=points))

    calls = {"one point": log_one, "100 points": log_hundred, "parameter, tag, 10 points": log_mixed, "start a run": lambda _: start_run(session)}
    try:
        return {name: time_calls(act, N_CALLS, rounds=rounds, between=sync) for name, act in calls.items()}
    finally:
        os.close(handle)
        (folder / "probe").unlink()


def measure_searching(session: Session, *, rounds: int) -> dict[str, dict[str, float]]:
    found = {}
    for name, (text, order) in FILTERS.items():
        for limit in (100, 1000):

            def search(_: int, text: str = text, order: list[str] = order, limit: int = limit) -> list[Track]:
                return search_runs(session, filter=text, order=order, limit=limit)

            found[f"{name}, {limit}"] = time_calls(search, 20, rounds=rounds) | {"n_found": len(search(0))}
    return found


def measure(home: Path, *, n_runs: int, rounds: int) -> dict[str, Any]:
    filled = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        with open_house(filled / "home") as house:
            began = time.process_time()
            fill_home(house.session(), n_runs)
            fill_s = time.process_time() - began
        shutil.copytree(filled / "home", home, dirs_exist_ok=True)
        with open_house(filled / "home") as house:
            in_memory = measure_logging(house.session(), filled, rounds=rounds) if MEMORY.is_dir() else {}
    finally:
        shutil.rmtree(filled)
    with open_house(home) as house:
        searching = measure_searching(house.session(), rounds=rounds)
        logging = measure_logging(house.session(), home, rounds=rounds)
        size = (home / "tracks.sqlite").stat().st_size
    for name, figures in logging.items():
        if name in in_memory:
            figures["without_fsync_ms"] = in_memory[name]["p50_ms"]
    return {
        "n_runs": n_runs,
        "fill_cpu_ms_a_run": round(fill_s / n_runs * 1000, 3),
        "bytes_a_run": size // n_runs,
        "log": logging,
        "search": searching,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(given.home or Path(folder) / "home", n_runs=given.runs, rounds=given.rounds)
    for part in ("log", "search"):
        print(f"\n{part:<38}{'p50 ms':>10}{'p95 ms':>10}{'CPU ms':>10}{'fsync':>10}{'beyond':>10}{'in memory':>10}")
        for name, row in result[part].items():
            cells = [row.get(key) for key in ("p50_ms", "p95_ms", "cpu_ms", "fsync_ms", "beyond_fsync_ms", "without_fsync_ms")]
            print(f"{name:<38}{''.join(f'{cell:>10.3f}' if cell is not None else f'{chr(45):>10}' for cell in cells)}")
    result["limits"] = LIMITS
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
