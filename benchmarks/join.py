"""The point-in-time join: training sets from Parquet to Parquet, with raw DuckDB and Feast beside them.

    python benchmarks/join.py [--rows 5100000] [--spine 1000000] [--keys 100000] [--seed 7] [--rounds 3] [--sizes 1,2,4] [--large] [--no-feast]

What is joined: a spine of keys and instants to a view of ten numbers (doubles) that are at most seven days old. 11 % of the view's rows share their
key and event time with another. Four of five are known within ten minutes, 15 % within six hours, 5 % within three days, so that rows become known
in another order than they happened. The rows lie in the order in which they became known.

How it is measured. Every measurement is a process of its own, the sides in turn; CPU seconds are user and system time of the whole process
(`getrusage`) around the join, imports and the compilation of the kernel left out, the peak is the resident memory during it. Ours is the verb
`training-set` as a user calls it, in a home in which the view's table was ingested: spine file in, file of rows out, with identity, record, digest of
the rows and profiles of their features. `raw` is the fastest DuckDB query we found that gives the same answer, `window` another. `plain`
is DuckDB's ASOF join with ties broken by known-at, as people write it: it lets rows be seen before they were known, and its answer is another. Feast
0.67 on DuckDB, in an environment of its own made on first use under `.bench/feast`, asks nothing of known-at either but to break ties.

The results of ours, raw and window are compared to the last bit, and a difference is an error; what the others have otherwise is told. The last
line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEER_ENVIRONMENT = ROOT / ".bench" / "feast"
PEER_PACKAGES = ["feast[duckdb]==0.67.0"]
SIDES = ("ours", "three", "raw", "window", "plain", "feast")
N_FEATURES, N_VIEWS, DAYS, MAX_AGE_DAYS = 10, 3, 90, 7
FEATURES = [f"f{i}" for i in range(N_FEATURES)]
GIB = 1024**3
START_US = 1_767_225_600_000_000  # 1 January 2026


def make_data(folder: Path, *, n_rows: int, n_spine: int, n_keys: int, seed: int) -> None:
    """A spine and three views' files. The first view is the one that most sides read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    utc = pa.timestamp("us", tz="UTC")
    rng = np.random.default_rng(seed)
    for view in range(N_VIEWS):
        key = rng.integers(1, n_keys + 1, n_rows)
        event = rng.integers(0, DAYS * 86_400, n_rows)
        shuffled = rng.permutation(n_rows)
        n_ties = round(n_rows * 0.055)
        copies, of = shuffled[:n_ties], shuffled[n_ties : 2 * n_ties]
        key[copies], event[copies] = key[of], event[of]
        most_s = np.array([600, 6 * 3600, 3 * 86_400])[rng.choice(3, n_rows, p=[0.8, 0.15, 0.05])]
        known = event + (rng.random(n_rows) * most_s).astype(np.int64)
        known[copies[: n_ties // 5]] = known[of[: n_ties // 5]]  # alike in both times: the order of ingest says which counts
        order = np.argsort(known, kind="stable")
        columns = {"user_id": key[order]}
        columns |= {name: pa.array(START_US + at[order] * 1_000_000, utc) for name, at in (("event_time", event), ("known_at", known))}
        columns |= {name: rng.standard_normal(n_rows) for name in FEATURES}
        pq.write_table(pa.table(columns), folder / f"features{view}.parquet", row_group_size=250_000, use_dictionary=False)
    at = START_US + rng.integers(10 * 86_400, DAYS * 86_400, n_spine) * 1_000_000
    spine = {"user_id": rng.integers(1, n_keys + 1, n_spine), "event_timestamp": pa.array(at, utc), "label": rng.integers(0, 2, n_spine)}
    pq.write_table(pa.table(spine), folder / "spine.parquet")


def define_views(folder: Path, n: int) -> list[Any]:
    from endcap.core.definitions.feature_views import FeatureView
    from endcap.core.definitions.tables import Table

    views = []
    for i in range(n):
        path = str(folder / f"features{i}.parquet")
        table = Table(f"features{i}", path, keys=("user_id",), event_time="event_time", known_at="known_at", zone="UTC")
        names = {name if i == 0 else f"{name}_{i}": name for name in FEATURES}
        views.append(FeatureView(name=f"view{i}", source=table, features=names, max_age=f"{MAX_AGE_DAYS}d"))  # type: ignore[arg-type]  # names are taken
    return views


def prepare_home(folder: Path) -> None:
    from endcap.assembly import open_house
    from endcap.loop.data.verbs import ingest

    with open_house(folder / "home") as house:
        for view in define_views(folder, N_VIEWS):
            ingest(house.session(), view.source, folder=folder)


def join_ours(folder: Path, out: Path, *, n_views: int) -> Callable[[], None]:
    from endcap.assembly import open_house
    from endcap.loop.features.training_sets import build_training_set, training_set
    from endcap.testing.sessions import make_session

    with tempfile.TemporaryDirectory() as name:
        tiny = Path(name)
        make_data(tiny, n_rows=100, n_spine=20, n_keys=5, seed=1)
        training_set(make_session(start=datetime(2027, 1, 1, tzinfo=UTC)), tiny / "spine.parquet", define_views(tiny, 1), at="event_timestamp")

    def join() -> None:
        with open_house(folder / "home") as house:
            build_training_set(house.session(), folder / "spine.parquet", define_views(folder, n_views), at="event_timestamp", out=out)

    return join


def join_raw(folder: Path, out: Path, side: str) -> Callable[[], None]:
    import duckdb

    named = ", ".join(FEATURES)
    spine = (
        f"(SELECT user_id, event_timestamp AS ts, label, file_row_number AS n FROM read_parquet('{folder}/spine.parquet', file_row_number = true))"
    )
    file = f"read_parquet('{folder}/features0.parquet', file_row_number = true)"
    times = "event_time AS e, known_at AS k, greatest(event_time, known_at) AS v, file_row_number AS o"
    rows, young = f"(SELECT user_id, {times}, {named} FROM {file})", f">= s.ts - INTERVAL {MAX_AGE_DAYS} DAY"
    aged = ", ".join(f"CASE WHEN f.e {young} THEN f.{name} END AS {name}" for name in FEATURES)
    late, last = "'infinity'::TIMESTAMPTZ", 2**63 - 1
    queries = {
        "raw": f"""
            SELECT s.user_id, s.ts, s.label, {", ".join(f"g.{name}" for name in FEATURES)} FROM {spine} s
            LEFT JOIN (
                SELECT n, (max({{'e': epoch_us(f.e), 'k': epoch_us(f.k), 'o': f.o}})).o AS o
                FROM {spine} s JOIN (SELECT user_id, {times} FROM {file}) f
                ON s.user_id = f.user_id AND f.e <= s.ts AND f.k <= s.ts AND f.e {young} GROUP BY n
            ) m ON s.n = m.n
            LEFT JOIN {rows} g ON g.o = m.o ORDER BY s.n""",
        "window": f"""
            SELECT s.user_id, s.ts, s.label, {aged} FROM {spine} s ASOF LEFT JOIN (
                SELECT * FROM {rows}
                QUALIFY e >= max(e) OVER (PARTITION BY user_id ORDER BY v, k, o ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
            ) f ON s.user_id = f.user_id AND row(s.ts, {late}, {last}) >= row(f.v, f.k, f.o) ORDER BY s.n""",
        "plain": f"""
            SELECT s.user_id, s.ts, s.label, {aged} FROM {spine} s
            ASOF LEFT JOIN {rows} f ON s.user_id = f.user_id AND row(s.ts, {late}) >= row(f.e, f.k) ORDER BY s.n""",
    }
    query = queries[side].replace("s.ts, s.label", "s.ts AS event_timestamp, s.label", 1)

    def join() -> None:
        engine = duckdb.connect()
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"COPY ({query}) TO '{out}' (FORMAT parquet)")

    return join


def join_feast(folder: Path, out: Path) -> Callable[[], None]:
    import datetime as dt

    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    config = {
        "project": "bench",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entity_key_serialization_version": 3,
    }
    store = FeatureStore(config=RepoConfig(**config))
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "features0.parquet"), timestamp_field="event_time", created_timestamp_column="known_at")
    schema = [Field(name=name, dtype=Float64) for name in FEATURES]
    view = FeatureView(name="view0", entities=[user], ttl=dt.timedelta(days=MAX_AGE_DAYS), schema=schema, source=source)
    store.apply([user, view])
    wanted = [f"view0:{name}" for name in FEATURES]

    def join() -> None:
        spine = pd.read_parquet(folder / "spine.parquet")
        store.get_historical_features(entity_df=spine, features=wanted).to_df().to_parquet(out)

    return join


def measure(side: str, folder: Path, out: Path) -> dict[str, float]:
    if side in ("ours", "three"):
        join = join_ours(folder, out, n_views=1 if side == "ours" else N_VIEWS)
    else:
        join = join_feast(folder, out) if side == "feast" else join_raw(folder, out, side)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        with suppress(OSError):
            reset.write_text("5")  # the peak of resident memory starts anew
    cpu, clock = read_cpu(), time.perf_counter()
    join()
    figures = {"cpu_s": read_cpu() - cpu, "wall_s": time.perf_counter() - clock, "peak_gib": read_peak() / GIB}
    return {name: round(float(figure), 3) for name, figure in figures.items()}


def read_cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read_peak() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def digest_result(path: Path) -> tuple[int, str]:
    """Rows of a result, and the SHA-256 of their keys, instants, labels and features, sorted by all of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = [
        np.asarray(table["user_id"]),
        np.asarray(table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())),
        np.asarray(table["label"]),
    ]
    columns += [np.asarray(table[name].cast(pa.float64()).fill_null(float("nan"))) + 0.0 for name in FEATURES]
    order = np.lexsort(columns[::-1])
    hashed = hashlib.sha256()
    for column in columns:
        hashed.update(np.ascontiguousarray(column[order]))
    return table.num_rows, hashed.hexdigest()


def compare(ours: Path, theirs: Path) -> float:
    """The share of rows that differ in the first feature, both sides in the order of keys, instants and labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for path in (ours, theirs):
        table = pq.read_table(path, columns=["user_id", "event_timestamp", "label", FEATURES[0]])
        at = np.asarray(table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()))
        order = np.lexsort((np.asarray(table["label"]), at, np.asarray(table["user_id"])))
        found.append(np.nan_to_num(np.asarray(table[FEATURES[0]].cast(pa.float64()).fill_null(float("nan")))[order], nan=-1e9))
    return float(np.mean(found[0] != found[1])) if len(found[0]) == len(found[1]) else 1.0


def make_peer_environment() -> Path | None:
    """The Python of Feast's environment; None where it cannot be made, which is said aloud."""
    python, stamp = PEER_ENVIRONMENT / "bin" / "python", PEER_ENVIRONMENT / "packages.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != PEER_PACKAGES:
        print(f"making {PEER_ENVIRONMENT.relative_to(ROOT)} with {', '.join(PEER_PACKAGES)}", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_ENVIRONMENT)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES], check=True)
        except subprocess.CalledProcessError as error:
            print(f"SKIPPED: Feast cannot be installed here ({error}); ratio_feast is null.", flush=True)
            return None
        stamp.write_text(json.dumps(PEER_PACKAGES))
    return python


def run(arguments: list[str], python: Path | None = None) -> dict[str, float]:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    command = [str(python or sys.executable), __file__, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def lay_out(folder: Path, arguments: argparse.Namespace, *, times: int) -> None:
    """Data of so many times the size, and a home that knows them; made in a process of its own, whose memory then goes."""
    folder.mkdir(parents=True)
    sizes = {"rows": arguments.rows * times, "spine": arguments.spine * times, "keys": arguments.keys * times, "seed": arguments.seed}
    run(["--make", str(folder), *(text for name, size in sizes.items() for text in (f"--{name}", str(size)))])


def take_turns(folder: Path, sides: list[str], *, rounds: int, peer: Path | None) -> dict[str, dict[str, float]]:
    """The medians of each side."""
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            out = folder / f"{side}.parquet"
            out.unlink(missing_ok=True)
            runs[side].append(run(["--measure", side, "--make", str(folder), "--out", str(out)], peer if side == "feast" else None))
            print(f"{side:>7}  {json.dumps(runs[side][-1])}", flush=True)
    return {side: {name: round(statistics.median(found[name] for found in of_side), 3) for name in of_side[0]} for side, of_side in runs.items()}


def check(folder: Path, sides: list[str]) -> tuple[int, str, dict[str, float]]:
    """Rows and digest of ours; those that must be the same are, and of the others the share of rows that differ."""
    n_rows, sha256 = digest_result(folder / "ours.parquet")
    for side in ("raw", "window"):
        if side in sides and digest_result(folder / f"{side}.parquet") != (n_rows, sha256):
            raise SystemExit(f"The result of '{side}' is not ours.")
    return (
        n_rows,
        sha256,
        {side: round(compare(folder / "ours.parquet", folder / f"{side}.parquet"), 4) for side in sides if side in ("plain", "feast")},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Training sets beside raw DuckDB and Feast.")
    parser.add_argument("--rows", type=int, default=5_100_000, help="rows of each view")
    parser.add_argument("--spine", type=int, default=1_000_000, help="rows of the spine")
    parser.add_argument("--keys", type=int, default=100_000, help="different keys")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--sizes", default="1,2,4", help="multiples of the size at which ours is measured once more")
    parser.add_argument("--large", action="store_true", help="also 20.5 million rows and a spine of 5 million")
    parser.add_argument("--no-feast", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.make, arguments.out)))
        return
    if arguments.make:
        make_data(arguments.make, n_rows=arguments.rows, n_spine=arguments.spine, n_keys=arguments.keys, seed=arguments.seed)
        prepare_home(arguments.make)
        return
    peer = None if arguments.no_feast else make_peer_environment()
    sides = [side for side in SIDES if side != "feast" or peer is not None]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        lay_out(base / "1", arguments, times=1)
        median = take_turns(base / "1", sides, rounds=arguments.rounds, peer=peer)
        n_rows, sha256, differing = check(base / "1", sides)
        line = {"1": median["ours"]}
        for times in (int(text) for text in arguments.sizes.split(",") if text and int(text) > 1):
            lay_out(base / str(times), arguments, times=times)
            line[str(times)] = take_turns(base / str(times), ["ours"], rounds=1, peer=None)["ours"]
        large = None
        if arguments.large:
            grown = argparse.Namespace(rows=20_500_000, spine=5_000_000, keys=400_000, seed=arguments.seed)
            lay_out(base / "large", grown, times=1)
            large = take_turns(base / "large", ["ours", "raw"], rounds=1, peer=None)
            check(base / "large", ["ours", "raw"])
    report = {
        "cpu_s": median["ours"]["cpu_s"],
        "peak_gib": median["ours"]["peak_gib"],
        "rows": n_rows,
        "sha256_of_sorted_result": sha256,
        "ratio_raw_duckdb": round(median["ours"]["cpu_s"] / median["raw"]["cpu_s"], 2),
        "ratio_feast": round(median["feast"]["cpu_s"] / median["ours"]["cpu_s"], 2) if "feast" in median else None,
        "three_views_cpu_s": median["three"]["cpu_s"],
        "rows_that_differ": differing,
        "by_size": line,
        "large": large,
        "seed": arguments.seed,
        "medians": median,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
