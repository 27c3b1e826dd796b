"""Tracking in process: logging to the disk and searching over 10,000 runs, with MLflow's own store beside it.

    python benchmarks/tracking.py [--runs 10000] [--rounds 5] [--home FOLDER] [--only endcap mlflow]

What is measured, by the functions that every face calls, in a home in a folder: logging one point, a batch of 100 points, a batch of a
parameter, a tag and 10 points; starting a run; and searching 10,000 runs of 5 experiments, each with 10 metrics, 10 parameters and 5
tags, by filters that people type: by a metric, a parameter and a tag at once, in order of another metric, pages of 100 and of 1,000.

How: latencies are wall times, medians and 95th percentiles of the best of a few rounds; CPU milliseconds a call stand beside them, which
other work on the machine disturbs less. Every call that logs is on the disk when it returns, so it takes at least what the disk takes to
say so: between the calls, 8 KiB are written into a file of their own in the same folder and synced (`fdatasync`), and that is what the column
`fsync` says; `beyond_fsync` is the difference of the medians, and `without_fsync` the same calls where the disk is a piece of memory
(`/dev/shm`, where there is one).

The peer: MLflow 3.17's `SqlAlchemyStore` on SQLite in process, without server or client, with as many runs that hold as much, put there by
its own tables; the same searches (fewer times: some take seconds), and its own calls to log. It stands in the environment that
`make bench NAME=mlflow-clients` makes; where there is none it is left out, aloud. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
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

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".bench" / "mlflow-3.17"
SIDES = ("endcap", "mlflow")
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

PEER_SIDE = r"""
import json, sys, time
import numpy as np
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

folder, n_runs, rounds, filters = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
store = SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", f"{folder}/artefacts")
groups = [store.create_experiment(f"experiment {n}") for n in range(5)]
rng = np.random.default_rng(5)
rows = {kind: [] for kind in (SqlRun, SqlParam, SqlTag, SqlMetric, SqlLatestMetric)}
for n in range(n_runs):
    run = f"{n:032x}"
    rows[SqlRun].append(dict(run_uuid=run, name=f"run {n}", source_type="LOCAL", source_name="", entry_point_name="", user_id="ada",
                             status="FINISHED", start_time=n * 1000, end_time=n * 1000 + 5, source_version="", lifecycle_stage="active",
                             artifact_uri="", experiment_id=int(groups[n % 5])))
    params = {"model": ("tree", "linear", "net")[n % 3]} | {f"p{k}": str(rng.integers(20)) for k in range(9)}
    tags = {"team": ("demand", "price")[n % 2]} | {f"t{k}": "abcdef"[rng.integers(6)] * 3 for k in range(4)}
    rows[SqlParam] += [dict(run_uuid=run, key=key, value=value) for key, value in params.items()]
    rows[SqlTag] += [dict(run_uuid=run, key=key, value=value) for key, value in tags.items()]
    for k in range(10):
        rows[SqlMetric].append(dict(run_uuid=run, key=f"m{k}", value=float(rng.random()), timestamp=n, step=0, is_nan=False))
    rows[SqlLatestMetric] += rows[SqlMetric][-10:]
with store.ManagedSessionMaker() as session:
    for kind, some in rows.items():
        session.bulk_insert_mappings(kind, some)

def measure(act, n, rounds=rounds):
    best = {}
    for number in range(rounds + 1):
        took, cpu = np.empty(n), np.empty(n)
        for place in range(n):
            began, spent = time.perf_counter(), time.process_time()
            act(number * n + place)
            took[place], cpu[place] = time.perf_counter() - began, time.process_time() - spent
        p50, p95 = np.percentile(took, [50, 95]) * 1000
        if number and (not best or p50 < best["p50_ms"]):
            best = {"p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "cpu_ms": round(float(np.median(cpu)) * 1000, 3)}
    return best

searching = {}
for name, (text, order) in filters.items():
    for limit in (100, 1000):
        search = lambda _: store.search_runs(groups, text, ViewType.ACTIVE_ONLY, max_results=limit, order_by=order)
        searching[f"{name}, {limit}"] = measure(search, 3, rounds=1) | {"n_found": len(search(0))}
run = store.create_run(groups[0], "ada", 0, [], "run").info.run_id
logging = {
    "one point": measure(lambda n: store.log_metric(run, Metric("loss", 1 / (n + 1), n, n)), 60),
    "100 points": measure(lambda n: store.log_batch(run, [Metric(f"m{k % 10}", k / (n + 1), n, n * 10 + k // 10) for k in range(100)], [], []), 30),
    "parameter, tag, 10 points": measure(
        lambda n: store.log_batch(run, [Metric(f"x{k}", float(k), n, n) for k in range(10)], [Param(f"p{n}", str(n))], [RunTag("at", str(n))]), 30),
    "start a run": measure(lambda n: store.create_run(groups[0], "ada", n, [], "run"), 30),
}
print(json.dumps({"n_runs": n_runs, "log": logging, "search": searching}))
"""


def measure_peer(folder: Path, *, n_runs: int, rounds: int) -> dict[str, Any] | None:
    """What MLflow's own store takes; None where it is not installed or fails, which is said."""
    python = PEER / "bin" / "python"
    if not python.exists():
        print("SKIPPED mlflow: it is not installed. Hint: make bench NAME=mlflow-clients", flush=True)
        return None
    command = [str(python), "-c", PEER_SIDE, str(folder), str(n_runs), str(rounds), json.dumps(FILTERS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"SKIPPED mlflow: {done.stderr[-2000:]}", flush=True)
        return None
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


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
    parser.add_argument("--only", nargs="*", choices=SIDES, default=list(SIDES))
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "endcap" in given.only:
            found["endcap"] = measure(given.home or Path(folder) / "home", n_runs=given.runs, rounds=given.rounds)
        if "mlflow" in given.only and (peer := measure_peer(Path(folder), n_runs=given.runs, rounds=given.rounds)):
            found["mlflow"] = peer
    for side, result in found.items():
        for part in ("log", "search"):
            print(f"\n{side + ': ' + part:<38}{'p50 ms':>10}{'p95 ms':>10}{'CPU ms':>10}{'fsync':>10}{'beyond':>10}{'in memory':>10}")
            for name, row in result[part].items():
                cells = [row.get(key) for key in ("p50_ms", "p95_ms", "cpu_ms", "fsync_ms", "beyond_fsync_ms", "without_fsync_ms")]
                print(f"{name:<38}{''.join(f'{cell:>10.3f}' if cell is not None else f'{chr(45):>10}' for cell in cells)}")
    print(json.dumps({**found, "limits": LIMITS}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
