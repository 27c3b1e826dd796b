"""Features online: reading and loading, with Feast beside it, and a storm in which the writer is killed.

    python benchmarks/online.py [--keys 1000000] [--peer-keys 100000] [--rounds 3] [--kills 50] [--only sqlite redis http feast storm]

What is measured, for 1,000,000 keys (whole numbers) of 10 floats each: loading them, in random order of keys, from an Arrow table to
rows that are on the disk; then, over keys drawn at random, reading one key, 100 keys of one view, and 100 keys of three views, decoded
to Python values with the times of each row. Our sides: `sqlite` and `redis` (a real server that the benchmark starts, on loopback) in
the process itself, and `http`, the running service on SQLite over one connection. `feast` is Feast 0.67 on SQLite, by its Python API,
with fewer keys, since it loads slowly: its reads do not gain from more.

How: every side is a process of its own. Latencies are wall times, the median and the 99th percentile of the best of a few rounds; CPU
microseconds a read (the client's, user and system) stand beside them, which other work on the machine disturbs less. Pages are warm:
everything was read once. Feast lives in an environment of its own, made on first use under `.bench/feast`; where it cannot be
installed it is skipped, aloud.

The storm: 50 times a process that writes batches of 400 rows to two spaces in turn is killed with SIGKILL while another process looks
at all of them; and a push is killed at every instant (before, half-way through, after) at which it changes anything. The last line
printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEER_ENVIRONMENT = ROOT / ".bench" / "feast"
PEER_PACKAGES = ["feast==0.67.0"]
SIDES = ("sqlite", "redis", "http", "feast", "storm")
N_FEATURES, N_ASKED, N_VIEWS = 10, 100, 3
FEATURES = [f"f{place}" for place in range(N_FEATURES)]
LIMITS = {"sqlite": {"one_us": 10, "hundred_us": 400, "rows_a_s": 200_000}, "redis": {"hundred_us": 500}, "http": {"one_us": 1000}}


def read_cpu() -> float:
    return sum(getattr(resource.getrusage(resource.RUSAGE_SELF), name) for name in ("ru_utime", "ru_stime"))


def time_calls(act: Callable[[Any], Any], arguments: list[Any], *, rounds: int) -> dict[str, float]:
    """Microseconds a call: median and 99th percentile of the best round, and CPU."""
    for argument in arguments[: max(1, len(arguments) // 4)]:
        act(argument)
    best: dict[str, float] = {}
    for _ in range(rounds):
        took, cpu_s = np.empty(len(arguments)), read_cpu()
        for place, argument in enumerate(arguments):
            began = time.perf_counter_ns()
            act(argument)
            took[place] = time.perf_counter_ns() - began
        cpu_us = (read_cpu() - cpu_s) / len(arguments) * 1e6
        p50, p99 = np.percentile(took, [50, 99]) / 1000
        if not best or p50 < best["p50_us"]:
            best = {"p50_us": round(p50, 1), "p99_us": round(p99, 1), "cpu_us": round(cpu_us, 1)}
    return best


def draw_keys(n_keys: int, n: int, size: int | None = None) -> list[Any]:
    return np.random.default_rng(3).integers(0, n_keys, size=n if size is None else (n, size)).tolist()


def make_rows(n_keys: int) -> Any:
    import pyarrow as pa

    rng = np.random.default_rng(7)
    now = pa.array(np.full(n_keys, int((time.time() - 60) * 1e6)), pa.timestamp("us"))
    columns = {"id": rng.permutation(n_keys), "__event_at": now, "__known_at": now}
    return pa.table(columns | {name: rng.standard_normal(n_keys) for name in FEATURES})


def measure_ours(folder: Path, *, n_keys: int, rounds: int, url: str | None) -> dict[str, Any]:
    from dataclasses import replace

    from endcap.assembly import open_house
    from endcap.core.settings import Settings
    from endcap.loop.features.online import open_online, write_online
    from endcap.loop.features.pushes import push
    from endcap.testing.views import know_view

    with open_house(folder, settings=Settings(online=url)) as house:
        session = replace(house.session(actor="bench"))
        names = [f"user{place}" for place in range(N_VIEWS)]
        types = {"keys": {"id": "integer"}, "features": dict.fromkeys(FEATURES, "number")}
        views = [know_view(session, name, max_age="7d", pushed=True, **types) for name in names]
        rows = make_rows(n_keys)
        loads = []
        for view in views:
            cpu_s, wall_s = read_cpu(), time.perf_counter()
            n = write_online(session, view, rows)
            loads.append({"cpu_s": read_cpu() - cpu_s, "wall_s": time.perf_counter() - wall_s})
            if n != n_keys:
                raise SystemExit(f"{n} of {n_keys} rows were written.")
        reader, many = open_online(session, names[:1]), open_online(session, names)
        check_values(reader, rows, n_keys)
        best = min(loads, key=lambda load: load["cpu_s"])
        figures: dict[str, Any] = {
            "load_cpu_s": round(best["cpu_s"], 2),
            "load_wall_s": round(min(load["wall_s"] for load in loads), 2),
            "rows_a_cpu_s": round(n_keys / best["cpu_s"]),
            "one": time_calls(reader.read_one, draw_keys(n_keys, 20_000), rounds=rounds),
            "hundred": time_calls(reader.read, draw_keys(n_keys, 300, N_ASKED), rounds=rounds),
            "hundred_of_three_views": time_calls(many.read, draw_keys(n_keys, 100, N_ASKED), rounds=rounds),
        }
        if url is None:
            event = {"__event_at": session.now().isoformat()} | dict.fromkeys(FEATURES, 0.5)
            figures["push"] = time_calls(lambda key: push(session, names[0], [{"id": key, **event}]), draw_keys(n_keys, 40), rounds=1)
            figures["file_mb"] = round((folder / "online.sqlite").stat().st_size / 1e6 / N_VIEWS)
        return figures


def check_values(reader: Any, rows: Any, n_keys: int) -> None:
    """What is read is what was written, to the last bit."""
    few = rows.slice(0, min(1000, n_keys))
    (found,) = reader.read(few["id"].to_pylist())
    for name in FEATURES:
        if found.columns[name] != few[name].to_pylist():
            raise SystemExit(f"'{name}' is read otherwise than it was written.")


def measure_http(folder: Path, *, n_keys: int, rounds: int) -> dict[str, Any]:
    """The service in a process of its own over a home that the SQLite side has filled."""
    import http.client

    code = (
        "import sys; from pathlib import Path; from endcap.assembly import open_house; from endcap.faces.http.serving import serve\n"
        "with open_house(sys.argv[1]) as house: serve(house, folder=Path(sys.argv[1]), port=0, announce=lambda url: print(url, flush=True))"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        if not url:
            raise SystemExit("The service did not start.")
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask(ids: Any) -> bytes:
            body = json.dumps({"views": ["user0"], "keys": {"id": ids if isinstance(ids, list) else [ids]}})
            connection.request("POST", "/api/v1/features/online", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            payload = answer.read()
            if answer.status != 200:
                raise SystemExit(f"The service says {answer.status}: {payload[:300]!r}")
            return payload

        (view,) = json.loads(ask([5]))["views"]
        if len(view["features"]) != N_FEATURES or view["reasons"] != [None]:
            raise SystemExit(f"The service says {view}.")
        return {
            "one": time_calls(ask, draw_keys(n_keys, 2000), rounds=rounds),
            "hundred": time_calls(ask, draw_keys(n_keys, 200, N_ASKED), rounds=rounds),
        }
    finally:
        server.kill()
        server.wait()


def measure_feast(folder: Path, *, n_keys: int, rounds: int) -> dict[str, Any]:
    """Runs in Feast's environment."""
    from datetime import UTC, datetime, timedelta

    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.repo_config import RegistryConfig
    from feast.types import Float64

    rng = np.random.default_rng(7)
    frame = pd.DataFrame({"id": rng.permutation(n_keys), "ts": datetime.now(UTC)} | {name: rng.standard_normal(n_keys) for name in FEATURES})
    frame.head(10).to_parquet(folder / "rows.parquet")
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=RegistryConfig(path=str(folder / "registry.db")),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    user = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "rows.parquet"), timestamp_field="ts")
    fields = [Field(name=name, dtype=Float64) for name in FEATURES]
    store.apply([user, FeatureView(name="user0", entities=[user], ttl=timedelta(days=7), schema=fields, source=source)])
    cpu_s, wall_s = read_cpu(), time.perf_counter()
    for start in range(0, n_keys, 20_000):
        store.write_to_online_store("user0", frame.iloc[start : start + 20_000])
    load_cpu_s, load_wall_s = read_cpu() - cpu_s, time.perf_counter() - wall_s
    names = [f"user0:{name}" for name in FEATURES]

    def read(ids: Any) -> Any:
        return store.get_online_features(features=names, entity_rows=[{"id": key} for key in (ids if isinstance(ids, list) else [ids])]).to_dict()

    found, expected = read([int(frame["id"][0])])["f0"][0], float(frame["f0"][0])
    if found != expected:
        raise SystemExit(f"Feast reads {found}, and {expected} was written.")
    return {
        "load_cpu_s": round(load_cpu_s, 2),
        "load_wall_s": round(load_wall_s, 2),
        "rows_a_cpu_s": round(n_keys / load_cpu_s),
        "one": time_calls(read, draw_keys(n_keys, 300), rounds=rounds),
        "hundred": time_calls(read, draw_keys(n_keys, 30, N_ASKED), rounds=rounds),
    }


def measure_storm(folder: Path, *, n_kills: int) -> dict[str, Any]:
    from endcap.testing.online_storms import storm
    from endcap.testing.redis_servers import running_redis, why_no_redis

    outcomes = {"sqlite": storm(folder / "sqlite", n_kills=n_kills)}
    if why_no_redis() is None:
        with running_redis() as url:
            outcomes["redis"] = storm(folder / "redis", n_kills=n_kills, online=url)
    figures: dict[str, Any] = {side: {name: getattr(outcome, name) for name in outcome.__struct_fields__} for side, outcome in outcomes.items()}
    test = "tests/unit/loop/features/test_pushes.py::test_a_push_killed_at_any_instant_is_whole_or_not_and_the_next_makes_it_good"
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", test]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"ENDCAP_TEST_EVERY": "1"}, capture_output=True, text=True, check=False)
    figures["push_killed_at_every_instant"] = "passed" if done.returncode == 0 else done.stdout[-2000:]
    return figures


def make_peer_environment() -> Path | None:
    """Feast's interpreter; None where it cannot be installed."""
    python, stamp = PEER_ENVIRONMENT / "bin" / "python", PEER_ENVIRONMENT / "packages.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != PEER_PACKAGES:
        print(f"making {PEER_ENVIRONMENT.relative_to(ROOT)} with {', '.join(PEER_PACKAGES)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_ENVIRONMENT)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES], check=False)
        if done.returncode != 0:
            return None
        stamp.write_text(json.dumps(PEER_PACKAGES))
    return python


def run_side(side: str, python: Path, given: argparse.Namespace, folder: Path, url: str | None = None) -> dict[str, Any]:
    n_keys = given.peer_keys if side == "feast" else given.keys
    command = [str(python), __file__, "--measure", side, "--folder", str(folder), "--keys", str(n_keys)]
    command += ["--rounds", str(given.rounds), "--kills", str(given.kills)] + (["--url", url] if url else [])
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ({} if side == "feast" else {"PYTHONPATH": path})
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"Measuring '{side}' ended with code {done.returncode}.")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:>7}  {json.dumps(figures)}", flush=True)
    return figures


def measure_side(given: argparse.Namespace) -> dict[str, Any]:
    if given.measure == "feast":
        return measure_feast(given.folder, n_keys=given.keys, rounds=given.rounds)
    if given.measure == "storm":
        return measure_storm(given.folder, n_kills=given.kills)
    if given.measure == "http":
        return measure_http(given.folder, n_keys=given.keys, rounds=given.rounds)
    return measure_ours(given.folder, n_keys=given.keys, rounds=given.rounds, url=given.url)


def measure_all(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from endcap.testing.redis_servers import running_redis, why_no_redis

    figures: dict[str, Any] = {}
    own = Path(sys.executable)
    if {"sqlite", "http"} & set(given.only):
        (folder / "home").mkdir()
        figures["sqlite"] = run_side("sqlite", own, given, folder / "home")
    if "http" in given.only:
        figures["http"] = run_side("http", own, given, folder / "home")
    if "redis" in given.only:
        if reason := why_no_redis():
            print(f"redis is skipped: {reason}")
        else:
            with ExitStack() as stack, socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
                free.close()
                stack.enter_context(running_redis("--port", str(port), "--bind", "127.0.0.1"))
                figures["redis"] = run_side("redis", own, given, folder / "redis", f"redis://127.0.0.1:{port}/0")
    if "feast" in given.only:
        python = make_peer_environment()
        if python is None:
            print("feast is skipped: it cannot be installed here")
        else:
            (folder / "feast").mkdir()
            figures["feast"] = run_side("feast", python, given, folder / "feast")
    if "storm" in given.only:
        figures["storm"] = run_side("storm", own, given, folder / "storm")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="Features online, with Feast beside them.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--peer-keys", type=int, default=100_000, help="keys that Feast gets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if min(given.keys, given.peer_keys, given.rounds, given.kills) < 1 or min(given.keys, given.peer_keys) < N_ASKED:
        parser.error(f"--rounds and --kills are whole numbers from 1, --keys and --peer-keys from {N_ASKED}")
    if given.measure:
        print(json.dumps(measure_side(given)))
        return 0
    with tempfile.TemporaryDirectory(prefix="endcap-online-") as folder:
        figures = measure_all(given, Path(folder))
    report: dict[str, Any] = {"keys": given.keys, "features": N_FEATURES, "peer_keys": given.peer_keys, "limits": LIMITS, **figures}
    if "sqlite" in figures and "feast" in figures:
        ratios = {name: figures["feast"][name]["cpu_us"] / figures["sqlite"][name]["cpu_us"] for name in ("one", "hundred")}
        ratios["load"] = figures["sqlite"]["rows_a_cpu_s"] / figures["feast"]["rows_a_cpu_s"]
        report["ratio_feast"] = {name: round(ratio, 1) for name, ratio in ratios.items()}
        report["ratio_feast_geometric_mean"] = round(statistics.geometric_mean(ratios.values()), 1)
    print(json.dumps(report))
    storms = figures.get("storm", {})
    harmed = [side for side in ("sqlite", "redis") if side in storms and (storms[side]["n_lost"] or storms[side]["n_torn"])]
    return 1 if harmed or storms.get("push_killed_at_every_instant", "passed") != "passed" else 0


if __name__ == "__main__":
    raise SystemExit(main())
