"""A home in PostgreSQL beside one in a folder: what each act costs, and storms of processes that promote and roll back at once.

    python benchmarks/postgres.py [--records 100000] [--calls 500] [--gib 1] [--attempts 100] [--kills 10] [--only records tracks online files storm]

The server is a new one of this machine, over the loopback, with fsync as it ships; the folder is on the same disk. What is measured: in a home of
100,000 records appending one in a transaction of its own, reading one by its id, and finding the newest ten of 1,000 of a group; logging one number
and a batch of 100 to a track; one online row, 100 rows, and a batch of 20,000; a blob of 10 KB; a blob of a GiB, with the most memory of the
process; a table of 4 million rows (two columns of doubles, one of whole numbers). Latencies are wall times in microseconds, medians and 99th
percentiles; CPU is this process's own, without the server's. The storm: 8 processes and 10 kills; then 30 runs of a model that are
killed at moments spread over the time that one takes, and run again. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from endcap.assembly import open_house
from endcap.core.settings import Settings
from endcap.project.sample import write_sample
from endcap.solutions.shop import Chain
from endcap.storage.opening import open_ports
from endcap.storage.ports import Ports, pack_stamp
from endcap.storage.tracks import Point, Track, TrackBatch
from endcap.testing.kills import State, describe, find_faults
from endcap.testing.postgres import serve_postgres
from endcap.testing.release_storms import storm
from endcap.testing.stores import THINGS, WS, Thing

SERVER = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": "100", "shared_buffers": "128MB"}
PARTS = ("records", "tracks", "online", "files", "storm", "kills")
MODEL = "store-day"


def time_calls(act: Callable[[int], object], n: int) -> dict[str, float]:
    """Microseconds a call: median, 99th percentile, and this process's CPU."""
    for number in range(max(10, n // 10)):
        act(-1 - number)
    took, before = np.empty(n), resource.getrusage(resource.RUSAGE_SELF)
    for number in range(n):
        began = time.perf_counter_ns()
        act(number)
        took[number] = time.perf_counter_ns() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"p50_us": round(float(np.median(took)) / 1000), "p99_us": round(float(np.quantile(took, 0.99)) / 1000), "cpu_us": round(cpu_s * 1e6 / n)}


def measure_records(ports: Ports, n_records: int, n_calls: int) -> dict[str, Any]:
    for first in range(0, n_records, 1000):
        with ports.records.transact() as tx:
            for number in range(first, min(first + 1000, n_records)):
                tx.append(THINGS, workspace=WS, record=Thing(f"thing-{number}", group=f"g{number % 100}", n=number))

    def append(number: int) -> None:
        with ports.records.transact() as tx:
            tx.append(THINGS, workspace=WS, record=Thing(f"new-{number}", n=number))

    return {
        "append": time_calls(append, n_calls),
        "get": time_calls(lambda number: ports.records.get(THINGS, workspace=WS, id=f"thing-{number % n_records}"), n_calls),
        "find_10": time_calls(
            lambda number: ports.records.find(THINGS, workspace=WS, where={"group": f"g{number % 100}"}, newest_first=True, limit=10), n_calls
        ),
    }


def measure_tracks(ports: Ports, n_calls: int) -> dict[str, Any]:
    ports.tracks.create(WS, Track(id="run", group="1"))
    names = [f"metric-{place}" for place in range(100)]

    def log_one(number: int) -> None:
        ports.tracks.write(WS, "run", TrackBatch(points=[Point("loss", 0.1, number, number)]))

    def log_many(number: int) -> None:
        ports.tracks.write(WS, "run", TrackBatch(points=[Point(name, 0.1, number, number) for name in names]))

    return {"log_1": time_calls(log_one, n_calls), "log_100": time_calls(log_many, max(10, n_calls // 5))}


def measure_online(ports: Ports, n_calls: int) -> dict[str, Any]:
    rng, keys = np.random.default_rng(0), [number.to_bytes(8, "big") for number in range(200_000)]
    row = pack_stamp(0, 0) + bytes(86)
    began_s = time.perf_counter()
    for first in range(0, len(keys), 20_000):
        ports.online.write("space", keys=keys[first : first + 20_000], rows=[row] * 20_000)
    wall_s = time.perf_counter() - began_s
    drawn = [keys[place] for place in rng.integers(0, len(keys), 100 * n_calls)]
    return {
        "load_rows_a_s": round(len(keys) / wall_s),
        "read_1": time_calls(lambda number: ports.online.get("space", drawn[number]), n_calls),
        "read_100": time_calls(lambda number: ports.online.read([("space", drawn[100 * abs(number) : 100 * abs(number) + 100])]), n_calls - 1),
    }


def pieces(n_bytes: int) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    for _ in range(n_bytes // 2**20):
        yield rng.bytes(2**20)


def measure_files(ports: Ports, n_calls: int, gib: float) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    small = [rng.bytes(10_000) for _ in range(2 * n_calls)]
    kept: dict[int, str] = {}

    def put(number: int) -> None:
        kept[number] = ports.blobs.put(small[number])

    found: dict[str, Any] = {"blob_put_10_kb": time_calls(put, n_calls), "blob_get_10_kb": time_calls(lambda n: ports.blobs.get(kept[n]), n_calls)}
    n_rows = 4_000_000
    table = pa.table({"x": rng.normal(size=n_rows), "y": rng.normal(size=n_rows), "n": np.arange(n_rows)})
    found["table_write_s"] = took(partial(ports.tables.write, "large", partition={"day": "1"}, table=table))
    found["table_read_s"] = took(lambda: ports.tables.read("large"))
    del table
    if gib:
        digests: list[str] = []
        found["stream_in_s"] = took(lambda: digests.append(ports.blobs.put_stream(pieces(int(gib * 2**30)))[0]))
        found["stream_out_s"] = took(lambda: sum(len(piece) for piece in ports.blobs.read_chunks(digests[0])))
        found["most_mib_streaming"] = peak_mib()
        payload: list[bytes] = []
        found["get_s"] = took(lambda: payload.append(ports.blobs.get(digests[0])))
        found["most_mib_after_get"] = peak_mib()
        ports.blobs.put(payload[0][:-1])
        found["most_mib_after_put"] = peak_mib()
    return found


def took(act: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    act()
    return round(time.perf_counter() - began_s, 2)


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(home: str | Path, given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with closing(open_ports(home)) as ports:
        if "records" in given.only:
            found["records"] = measure_records(ports, given.records, given.calls)
        if "tracks" in given.only:
            found["tracks"] = measure_tracks(ports, given.calls)
        if "online" in given.only:
            found["online"] = measure_online(ports, given.calls)
        if "files" in given.only:
            found["files"] = measure_files(ports, given.calls, given.gib)
    return found


def kill_runs(url: str, n_kills: int) -> dict[str, Any]:
    """Runs of a small model, each in a home of its own and killed after a share of the time that one takes; then one that nobody hurts."""
    faults: list[str] = []
    n_hurt = 0
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder:
        write_sample(Path(folder), seed=7, chain=Chain(7, n_stores=3))
        command = [sys.executable, "-m", "endcap.faces.cli.entry", "run", MODEL, "--json", "--project", folder, "--home"]
        began_s = time.perf_counter()
        subprocess.run([*command, f"{url}?schema=whole"], check=True, capture_output=True)
        whole_s = time.perf_counter() - began_s
        whole, _ = look(f"{url}?schema=whole")
        for number in range(n_kills):
            home = f"{url}?schema=hurt_{number}"
            process = subprocess.Popen([*command, home], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(whole_s * (number + 0.5) / n_kills)
            process.kill()
            n_hurt += process.wait() != 0
            again = subprocess.run([*command, home], capture_output=True, text=True, check=False)
            if again.returncode:
                faults.append(again.stderr[-500:])
                continue
            state, found = look(home)
            faults += found
            if state != whole:
                faults.append(f"{state} is not what a run comes to that nobody hurts")
    return {"n_killed": n_hurt, "whole_run_s": round(whole_s, 2), "faults": faults}


def look(home: str) -> tuple[State, list[str]]:
    """What stands in a home, and what is wrong there."""
    with open_house(home, settings=Settings()) as house:
        session = house.session()
        return describe(session, MODEL), find_faults(session, Path("nowhere"))


def in_child(home: str | Path, given: argparse.Namespace) -> dict[str, Any]:
    """What one home came to, in a process of its own, whose peak of memory is then its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(measure(home, given)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--gib", type=float, default=1.0, help="of the large blob; 0: none")
    parser.add_argument("--attempts", type=int, default=100, help="of each of the 8 processes")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    report: dict[str, Any] = {"records": given.records, "gib": given.gib}
    harmed = False
    with tempfile.TemporaryDirectory(prefix="endcap-bench-") as folder, serve_postgres(SERVER) as server:
        homes = {"folder": Path(folder) / "home", "postgres": f"{server.url}?schema=figures"}
        for name, home in homes.items():
            report[name] = in_child(home, given)
            print(name, json.dumps(report[name]), flush=True)
        if "storm" in given.only:
            for name, home in {"folder": Path(folder) / "storm", "postgres": f"{server.url}?schema=storm"}.items():
                found = storm(home, n_processes=8, n_each=given.attempts, n_kills=given.kills)
                report[name]["storm"] = {field: getattr(found, field) for field in found.__struct_fields__}
                harmed |= bool(found.faults or found.n_torn)
        if "kills" in given.only:
            report["kills"] = kill_runs(server.url, 3 * given.kills)
            harmed |= bool(report["kills"]["faults"])
    print(json.dumps(report))
    return 1 if harmed else 0


if __name__ == "__main__":
    raise SystemExit(main())
