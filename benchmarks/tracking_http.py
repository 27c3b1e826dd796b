"""Tracking over HTTP by the real MLflow client: our service, with MLflow's own server on SQLite beside it in the same run.

    python benchmarks/tracking_http.py [--rounds 3] [--only endcap mlflow at-once] [--memory]

What is measured, with the unmodified client 3.17 on loopback, call by call: `log_metric` (one point), `log_batch` (100 points), setting an alias
that is a name to one version and the other in turn, and loading a LightGBM model of 50 trees by `models:/NAME@ALIAS`, ten requests, in a process that
does nothing else, as those do that serve.
Of ours also setting the alias `champion` of a model whose version was never judged: it is judged by its evidence of 1,000 rows, then released.

How: both servers run at once, each in a process of its own, and the client measures them in turn, round by round; a side's figures are
those of its best round. Milliseconds are wall times, medians and 95th percentiles; CPU milliseconds a call, of the server's processes and
of the client, stand beside them, which other work on the machine disturbs less. What logs is on the disk when it is answered, by both
servers: `fsync_ms` is what the disk takes to say so, and with `--memory` the homes are in a piece of memory (`/dev/shm`), which says it
at once. What a server costs until it answers is its CPU time, and its resident memory then and at the end. MLflow stands in the
environment that `make bench NAME=mlflow-clients` makes; where it cannot be installed nothing is measured, aloud. For loads the client also asks a
server that says what ours said before, from memory and at once (`at_once.py`): what it takes then is its own time, below which no server brings it.

Most of what is waited for is Python, the client's above all, so it matters how that Python was built: with the optimisation by profile that
distributions use (`--enable-optimizations --with-lto`), or without it, as from source by default. `pace` is what a fixed piece of Python takes
in the client's, by which runs can be told apart; all environments stand in the Python that runs this file.

The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from mlflow_clients import make_environment

SIDES = ("endcap", "at-once", "mlflow")
_LOADS = "load_by_alias"
LIMITS = {"log_metric": 3.0, "log_batch": 6.0, "set_alias": 5.0, "load_by_alias": 30.0}
READY_CPU_S, READY_MB = 3.0, 300.0
MEMORY = Path("/dev/shm")
_MEASURING = r"""
def measure(act, n):
    took, spent = [], []
    for place in range(n + max(2, n // 10)):
        began, cpu = time.perf_counter(), time.process_time()
        act(place)
        took.append(1000 * (time.perf_counter() - began))
        spent.append(1000 * (time.process_time() - cpu))
    return took[-n:], spent[-n:]

def tell(name, measured):
    took, spent = measured
    p50, p95 = (round(float(value), 2) for value in np.percentile(took, [50, 95]))
    told = {"name": name, "p50_ms": p50, "p95_ms": p95, "client_cpu_ms": round(float(np.median(spent)), 2), "n": len(took)}
    print(json.dumps(told), flush=True)
    sys.stdin.readline()

def keep_pace():
    began, counts = time.process_time(), {}
    for place in range(200_000):
        counts[place % 1000] = counts.get(place % 1000, 0) + place
    json.dumps([str(place) for place in range(50_000)])
    return 1000 * (time.process_time() - began)
"""
LOGGER = (
    r"""
import json, os, sys, tempfile, time, warnings, logging
import lightgbm as lgb, mlflow, numpy as np, pandas as pd
from mlflow.entities import Metric
from mlflow.models import infer_signature

warnings.simplefilter("ignore")
url, stem, side, sizes = *sys.argv[1:4], json.loads(sys.argv[4])
mlflow.set_tracking_uri(url)
logging.getLogger("mlflow").setLevel(logging.ERROR)
client = mlflow.MlflowClient()
rng = np.random.default_rng(7)
rows = pd.DataFrame(rng.normal(size=(2000, 6)), columns=list("abcdef"))
target = rows["a"] * 3 - rows["b"]
booster = lgb.train({"verbose": -1, "num_threads": 1}, lgb.Dataset(rows, target), num_boost_round=50)
signature = infer_signature(rows, booster.predict(rows))
mlflow.set_experiment(stem)

def log(name, seed):
    with mlflow.start_run():
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "evidence.csv")
            pd.DataFrame({"id": range(1000), "actual": target[:1000], "prediction": booster.predict(rows[:1000])}).to_csv(path, index=False)
            mlflow.log_artifact(path)
        mlflow.lightgbm.log_model(booster, name="model", signature=signature, pip_requirements=["lightgbm"], registered_model_name=name)
"""
    + _MEASURING
    + r"""
print(json.dumps({"name": "pace", "ms": round(min(keep_pace() for _ in range(5)), 1), "python": sys.version.split()[0]}), flush=True)
sys.stdin.readline()
run = client.create_run(client.get_experiment_by_name(stem).experiment_id).info.run_id
tell("log_metric", measure(lambda place: client.log_metric(run, "loss", 1.0 / (place + 1), step=place), sizes["log_metric"]))
def batch(place):
    now = int(time.time() * 1000)
    client.log_batch(run, [Metric(f"m{i % 10}", i * 0.5, now, place * 10 + i // 10) for i in range(100)])
tell("log_batch", measure(batch, sizes["log_batch"]))
name = stem + "-trees"
for seed in range(2):
    log(name, seed)
print(json.dumps({"name": "pause"}), flush=True)
sys.stdin.readline()
tell("set_alias", measure(lambda place: client.set_registered_model_alias(name, "best", str(place % 2 + 1)), sizes["set_alias"]))
if side == "endcap":
    names = [f"{stem}-{place}" for place in range(sizes["release"] + 2)]
    for each in names:
        log(each, 0)
    print(json.dumps({"name": "pause"}), flush=True)
    sys.stdin.readline()
    tell("release", measure(lambda place: client.set_registered_model_alias(names[place], "champion", "1"), sizes["release"]))
"""
)
LOADER = (
    r"""
import json, os, sys, time, warnings, logging
import mlflow, numpy as np

warnings.simplefilter("ignore")
url, stem, n = *sys.argv[1:3], int(sys.argv[3])
mlflow.set_tracking_uri(url)
logging.getLogger("mlflow").setLevel(logging.ERROR)
"""
    + _MEASURING
    + r"""
sys.stdin.readline()
def load(place):
    model = mlflow.lightgbm.load_model(f"models:/{stem}-trees@best")
    assert model.num_trees() == 50
tell("load_by_alias", measure(load, n))
"""
)
SIZES = {"log_metric": 300, "log_batch": 100, "set_alias": 100, "load_by_alias": 20, "release": 10}


def find_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def read_cost(process: psutil.Process) -> tuple[float, float]:
    """CPU seconds and resident MB of a process and all that it started."""
    cpu_s, resident = 0.0, 0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
            cpu_s += times.user + times.system
            resident += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu_s, resident / 1e6


@contextmanager
def replay(url: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server that says at once what another said before."""
    port = find_port()
    command = [sys.executable, str(Path(__file__).with_name("at_once.py")), str(port), url.rpartition(":")[2]]
    with subprocess.Popen(command) as process:
        try:
            wait(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


@contextmanager
def start(side: str, python: Path, folder: Path) -> Iterator[tuple[str, psutil.Process, dict[str, float]]]:
    """A server that answers: its address, its process, and what it cost until then."""
    port = find_port()
    (folder / "project.py").write_text("import endcap as ec\n", encoding="utf-8")
    command = {
        "endcap": [sys.executable, "-m", "endcap.faces.cli.entry", "up", "--port", str(port)],
        "mlflow": [
            *(str(python.parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "artifacts")),
        ],
    }[side]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment) as process:
        try:
            watched = psutil.Process(process.pid)
            wait(f"http://127.0.0.1:{port}/health", process)
            cpu_s, resident = read_cost(watched)
            yield f"http://127.0.0.1:{port}", watched, {"ready_cpu_s": round(cpu_s, 2), "ready_mb": round(resident)}
        finally:
            for child in watched.children(recursive=True):
                child.terminate()
            process.terminate()


def wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer.")


def measure_round(python: Path, side: str, url: str, server: psutil.Process, folder: Path) -> dict[str, dict[str, float]]:
    """One round of the client: for each call its milliseconds, and those of CPU in the server. What it logged is loaded by a process of its own."""
    stem = f"bench-{time.time_ns():x}"
    found = follow([str(python), "-c", LOGGER, url, stem, side, json.dumps(SIZES)], server, folder)
    return found | follow([str(python), "-c", LOADER, url, stem, str(SIZES[_LOADS])], server, folder)


def follow(asked: list[str], server: psutil.Process, folder: Path) -> dict[str, dict[str, float]]:
    """What a process of the client tells, each piece begun and ended with a look at what the server has cost."""
    found: dict[str, dict[str, float]] = {}
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        asked, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("go\n")
        client.stdin.flush()
        before, _ = read_cost(server)
        for line in client.stdout:
            if not line.startswith('{"name"'):
                continue
            told: dict[str, Any] = json.loads(line)
            after, _ = read_cost(server)
            name = told.pop("name")
            if name == "pace":
                found[name], (before, _) = told, read_cost(server)
                continue
            if name != "pause":
                n = told.pop("n")
                found[name] = {**told, "server_cpu_ms": round(1000 * (after - before) / (n + max(2, n // 10)), 2)}
            client.stdin.write("go\n")
            client.stdin.flush()
            before, _ = read_cost(server)
    if client.returncode:
        raise SystemExit(f"The client failed against {server.cmdline()[:4]}.")
    return found


def time_fsync(folder: Path) -> float:
    """Milliseconds that the disk of a folder takes to say that 8 KiB are on it, the median."""
    took = []
    with (folder / "synced").open("wb") as sink:
        for _ in range(50):
            began = time.perf_counter()
            sink.write(b"x" * 8192)
            sink.flush()
            os.fdatasync(sink.fileno())
            took.append(time.perf_counter() - began)
    return round(1000 * statistics.median(took), 2)


def run(sides: list[str], *, rounds: int, within: Path | None) -> dict[str, Any]:
    python = make_environment("3.17")
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        servers = {}
        for side in sides:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=within)))
            figures["fsync_ms"] = time_fsync(folder)
            if side == "at-once":
                servers[side] = (*stack.enter_context(replay(servers["endcap"][0])), {}, folder)
                figures[side] = {}
                continue
            servers[side] = (*stack.enter_context(start(side, python, folder)), folder)
            figures[side] = dict(servers[side][2])
        for _ in range(rounds):
            for side, (url, server, _, folder) in servers.items():
                for name, told in measure_round(python, side, url, server, folder).items():
                    if name == "pace":
                        if name not in figures or told["ms"] < figures[name]["ms"]:
                            figures[name] = told
                        continue
                    if side == "at-once" and name != _LOADS:
                        continue
                    if name not in figures[side] or told["p50_ms"] < figures[side][name]["p50_ms"]:
                        figures[side][name] = told
        for side, (_, server, _, _) in servers.items():
            figures[side]["resident_mb"] = round(read_cost(server)[1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    if "at-once" in given.only and "endcap" not in given.only:
        parser.error("at-once says again what endcap said: --only endcap at-once")
    try:
        figures = run([side for side in SIDES if side in given.only], rounds=given.rounds, within=MEMORY if given.memory else None)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"The MLflow client cannot be installed: {error}") from error
    for name, limit in LIMITS.items():
        told = {side: figures[side][name] for side in given.only if name in figures[side]}
        shown = [f"{side} {each['p50_ms']:.2f} ms (CPU {each['server_cpu_ms']} + {each['client_cpu_ms']})" for side, each in told.items()]
        print(f"{name:14} {'   '.join(shown)}   limit {limit:g}")
    ours = figures.get("endcap", {})
    passed = bool(ours) and all(ours[name]["p50_ms"] <= limit for name, limit in LIMITS.items())
    passed = passed and ours["ready_cpu_s"] <= READY_CPU_S and ours["ready_mb"] <= READY_MB
    print(json.dumps({"rounds": given.rounds, "limits": {**LIMITS, "ready_cpu_s": READY_CPU_S, "ready_mb": READY_MB}, "passed": passed, **figures}))


if __name__ == "__main__":
    main()
