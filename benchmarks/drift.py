"""Skew and drift of values: Endcap's stored profiles with scipy and Evidently beside them.

    python benchmarks/drift.py [--columns 50] [--rows 1000000] [--seed 7] [--threads 2] [--rounds 3] [--without-evidently]

What is compared: two Parquet files of doubles: bell curves, skewed, mostly zero, and counts, a tenth missing in every fifth column; in the second
file two columns in five have moved. The population stability index, Jensen-Shannon, Kolmogorov-Smirnov and Wasserstein distances of every column.

- `profile`: what is stored of the first file: reading it, profiles with histograms, and writing them as JSON.
- `ours`: the second file against that stored profile: reading both, the distances, significance, ranking.
- `stored`: the same from two stored profiles.
- `scipy`: both files are read and each pair of columns is given to `ks_2samp` and `wasserstein_distance`; the index and Jensen-Shannon are counted by
  `searchsorted` on the deciles of the first.
- `evidently`: both files are read by pandas; one report with `ValueDrift` by the four methods for each column.

Every measurement is a process of its own. CPU seconds are user and system time of the process around the work alone (`getrusage`); imports and the
compilation of kernels, done on a tiny table first, are left out on every side; `process_s` is the wall time of the whole process, with them. The
peak is resident memory. Files stand in the system's cache. Our distances are held against scipy's of the rows: one beyond its stated bound is an
error, as is a Wasserstein distance of Evidently's that differs from scipy's. Evidently lives in an environment of its own, made on first use under
`.bench/evidently`; where it cannot be made that is said, and it is left out. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEER_ENVIRONMENT = ROOT / ".bench" / "evidently"
PEER_PACKAGES = ["evidently==0.7.23", "pandas==2.3.3", "numpy==2.3.5", "scipy==1.16.3", "pyarrow==26.0.1"]
SIDES = ("profile", "ours", "stored", "scipy", "evidently")
LIMIT_S, LIMIT_STORED_S = 2.5, 0.2
METHODS = ("psi", "jensenshannon", "ks", "wasserstein")
GIB = 1024**3
# Measured peaks, rounded up: what a side needs for a value of one file.
BYTES_A_VALUE = {"profile": 12, "ours": 12, "stored": 0, "scipy": 40, "evidently": 80}


def make_column(rng: np.random.Generator, place: int, n_rows: int, *, moved: bool) -> np.ndarray:
    by = (0.0, 0.05, 0.4, 0.0, 0.2)[place % 5] if moved else 0.0
    if place % 4 == 0:
        values = rng.normal(by, 1.0, n_rows)
    elif place % 4 == 1:
        values = rng.lognormal(by, 1.0, n_rows)
    elif place % 4 == 2:
        values = np.where(rng.random(n_rows) < 0.6 - by / 4, 0.0, rng.gamma(2.0, 3.0, n_rows))
    else:
        values = rng.poisson(20 * (1 + by), n_rows).astype(np.float64)
    if place % 5 == 3:
        values[rng.random(n_rows) < 0.1] = np.nan
    return values


def write_files(folder: Path, *, n_columns: int, n_rows: int, seed: int) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = []
    for moved in (False, True):
        rng = np.random.default_rng([seed, moved])
        columns = {f"x{i:03}": pa.array(make_column(rng, i, n_rows, moved=moved), from_pandas=True) for i in range(n_columns)}
        paths.append(folder / f"{'b' if moved else 'a'}.parquet")
        pq.write_table(pa.table(columns), paths[-1])
    return paths


def prepare_ours(side: str, a: Path, b: Path, threads: int) -> Callable[[], dict[str, Any]]:
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    from endcap.loop.data.column_profiles import profile_columns
    from endcap.loop.data.distances import compare_profiles
    from endcap.loop.data.records import ColumnProfile

    pa.set_cpu_count(threads)
    kept = msgspec.json.Decoder(list[ColumnProfile])

    def profile(path: Path, **options: Any) -> list[ColumnProfile]:
        with pq.ParquetFile(path) as file:
            return profile_columns(file.iter_batches(batch_size=2**17), n_threads=threads, **options)

    def store(path: Path) -> list[ColumnProfile]:
        profiles = profile(path)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(profiles))
        return profiles

    def measure() -> dict[str, Any]:
        if side == "profile":
            return {"bytes": [len(msgspec.json.encode(one)) for one in store(a)]}
        reference = kept.decode(a.with_suffix(".json").read_bytes())
        fresh = store(b) if side == "keep" else None
        if fresh is None:
            against = {one.name: one for one in reference}
            fresh = profile(b, against=against) if side == "ours" else kept.decode(b.with_suffix(".json").read_bytes())
        found = compare_profiles(reference, fresh)
        return {one.column: msgspec.to_builtins(one) for one in found.distances}

    warm = profile_columns(pa.table({"x": np.arange(500.0)}), n_threads=1)
    compare_profiles(warm, warm)
    return measure


def prepare_scipy(a: Path, b: Path) -> Callable[[], dict[str, Any]]:
    import pyarrow.parquet as pq
    from scipy import stats
    from scipy.spatial.distance import jensenshannon

    def measure() -> dict[str, Any]:
        left, right = pq.read_table(a), pq.read_table(b)
        found = {}
        for name in left.column_names:
            x, y = (table[name].drop_null().to_numpy() for table in (left, right))
            edges = np.unique(np.quantile(x, np.linspace(0.1, 0.9, 9)))
            p, q = (np.bincount(np.searchsorted(edges, side), minlength=edges.size + 1) / side.size for side in (x, y))
            floor_p, floor_q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
            found[name] = {
                "psi": float(((floor_q - floor_p) * np.log(floor_q / floor_p)).sum()),
                "jensen_shannon": float(jensenshannon(p, q, base=2)),
                "ks": float(stats.ks_2samp(x, y, method="asymp").statistic),
                "wasserstein": float(stats.wasserstein_distance(x, y)),
                "deviation": float(x.std()),
            }
        return found

    return measure


def prepare_evidently(a: Path, b: Path) -> Callable[[], dict[str, Any]]:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    def compare(left: pd.DataFrame, right: pd.DataFrame) -> dict[str, Any]:
        definition = DataDefinition(numerical_columns=list(left))
        sides = [Dataset.from_pandas(frame, data_definition=definition) for frame in (right, left)]
        asked = [(name, method) for name in left for method in METHODS]
        report = Report([ValueDrift(column=name, method=method) for name, method in asked])
        metrics = report.run(*sides).dict()["metrics"]
        found: dict[str, Any] = {name: {} for name in left}
        for (name, method), metric in zip(asked, metrics, strict=True):
            found[name][method] = float(metric["value"])
        return found

    tiny = pd.DataFrame({"x": np.random.default_rng(1).normal(size=2000)})
    compare(tiny, tiny)
    return lambda: compare(pd.read_parquet(a), pd.read_parquet(b))


def read_status(field: str) -> int:
    """One figure of /proc/self/status in bytes, or the peak that getrusage knows where there is no such file."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def read_available() -> int | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def measure_side(side: str, *, folder: Path, threads: int, out: Path) -> dict[str, float]:
    a, b = folder / "a.parquet", folder / "b.parquet"
    peers = {"scipy": prepare_scipy, "evidently": prepare_evidently}
    work = peers[side](a, b) if side in peers else prepare_ours(side, a, b, threads)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak of resident memory starts anew
    before, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    found = work()
    wall_s, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
    out.write_text(json.dumps(found))
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"cpu_s": round(cpu_s, 3), "wall_s": round(wall_s, 3), "peak_gib": round(read_status("VmHWM") / GIB, 3)}


def make_peer_environment() -> Path | None:
    """Its interpreter, or None where it cannot be made."""
    python, stamp = PEER_ENVIRONMENT / "bin" / "python", PEER_ENVIRONMENT / "packages.json"
    if stamp.exists() and json.loads(stamp.read_text()) == PEER_PACKAGES:
        return python
    print(f"making {PEER_ENVIRONMENT.relative_to(ROOT)} with {', '.join(PEER_PACKAGES)}", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES], check=True)
    except subprocess.CalledProcessError as error:
        print(
            f"EVIDENTLY IS LEFT OUT: its environment cannot be made (exit {error.returncode}). Hint: a package index must be reachable.", flush=True
        )
        return None
    stamp.write_text(json.dumps(PEER_PACKAGES))
    return python


def run_side(side: str, python: Path, arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    need, available = BYTES_A_VALUE.get(side, 12) * arguments.rows * arguments.columns, read_available()
    if available is not None and need > available:
        raise SystemExit(f"The side '{side}' needs about {need / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free. Hint: fewer --rows.")
    command = [str(python), __file__, "--measure", side, "--folder", str(folder), "--threads", str(arguments.threads)]
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    clock = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        raise SystemExit(f"Measuring '{side}' ended with code {done.returncode}.")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    figures["process_s"] = round(time.perf_counter() - clock, 3)
    print(f"{side:>10}  {json.dumps(figures)}", flush=True)
    return figures


def check_agreement(folder: Path, *, with_evidently: bool) -> dict[str, float]:
    """How far our distances are at most from scipy's of the rows; raises where one is beyond its bound."""
    found = {side: json.loads((folder / f"{side}.result").read_text()) for side in ("ours", "stored", "scipy", *["evidently"] * with_evidently)}
    largest = dict.fromkeys(("ks_ours", "ks_stored", "wasserstein_scaled_ours", "wasserstein_scaled_stored"), 0.0)
    for name, exact in found["scipy"].items():
        for side in ("ours", "stored"):
            one = found[side][name]
            for measure in ("ks", "wasserstein"):
                gap = abs(one[measure] - exact[measure])
                if gap > one[f"{measure}_error"] + 1e-9:
                    raise SystemExit(
                        f"{measure} of {name} ({side}) is {one[measure]}, of the rows {exact[measure]}: beyond {one[f'{measure}_error']}."
                    )
                scaled = gap if measure == "ks" else gap / exact["deviation"]
                key = f"{'ks' if measure == 'ks' else 'wasserstein_scaled'}_{side}"
                largest[key] = max(largest[key], scaled)
        if with_evidently and abs(found["evidently"][name]["wasserstein"] - exact["wasserstein"] / exact["deviation"]) > 1e-3:
            raise SystemExit(f"Evidently's Wasserstein distance of {name} is {found['evidently'][name]['wasserstein']}: not what was asked for.")
    return {name: round(gap, 6) for name, gap in largest.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Drift of values beside scipy and Evidently.")
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each file")
    parser.add_argument("--seed", type=int, default=7, help="of the generated values")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of ours and of reading")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of ours; the peers are measured once")
    parser.add_argument("--without-evidently", action="store_true", help="leave out the slowest side")
    parser.add_argument("--measure", choices=(*SIDES, "keep"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.columns, arguments.rows, arguments.threads, arguments.rounds) < 1:
        parser.error("--columns, --rows, --threads and --rounds are whole numbers from 1")
    if arguments.measure:
        out = arguments.folder / f"{arguments.measure}.result"
        print(json.dumps(measure_side(arguments.measure, folder=arguments.folder, threads=arguments.threads, out=out)))
        return

    peer = None if arguments.without_evidently else make_peer_environment()
    if arguments.without_evidently:
        print("EVIDENTLY IS LEFT OUT, as asked", flush=True)
    own = Path(sys.executable)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, n_columns=arguments.columns, n_rows=arguments.rows, seed=arguments.seed)
        runs: dict[str, list[dict[str, float]]] = {"profile": [run_side("profile", own, arguments, folder)]}
        run_side("keep", own, arguments, folder)  # the second file's profile, for the side that reads no rows
        for side in ("ours", "stored"):
            runs[side] = [run_side(side, own, arguments, folder) for _ in range(arguments.rounds)]
        runs["scipy"] = [run_side("scipy", own, arguments, folder)]
        if peer is not None:
            runs["evidently"] = [run_side("evidently", peer, arguments, folder)]
        largest = check_agreement(folder, with_evidently=peer is not None)
        stored_bytes = (folder / "a.json").stat().st_size
    median = {side: {name: round(statistics.median(run[name] for run in of_side), 3) for name in of_side[0]} for side, of_side in runs.items()}
    report = {
        "cpu_s": median["ours"]["cpu_s"],
        "wall_s": median["ours"]["wall_s"],
        "peak_gib": median["ours"]["peak_gib"],
        "stored_cpu_s": median["stored"]["cpu_s"],
        "stored_wall_s": median["stored"]["wall_s"],
        "limit_s": LIMIT_S,
        "limit_stored_s": LIMIT_STORED_S,
        "ratio_limit": round(LIMIT_S / median["ours"]["wall_s"], 2),
        "ratio_limit_stored": round(LIMIT_STORED_S / median["stored"]["wall_s"], 2),
        "ratio_scipy": round(median["scipy"]["cpu_s"] / median["ours"]["cpu_s"], 1),
        "ratio_evidently": round(median["evidently"]["cpu_s"] / median["ours"]["cpu_s"], 1) if peer is not None else None,
        "stored_bytes": stored_bytes,
        "largest_difference": largest,
        "columns": arguments.columns,
        "rows": arguments.rows,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "peers": PEER_PACKAGES,
        "medians": median,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
