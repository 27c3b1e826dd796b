"""Features of a regular panel: Endcap's kernels with mlforecast beside them.

    python benchmarks/panel.py [--series 30490] [--rounds 2] [--threads 1] [--cold]

What is computed, for 30,490 daily series of 1,941 days (59 million rows): lags 1, 7, 14, 28 and 364; rolling mean and sample
deviation over 7 and 28 days, ending the day before; weekday, day of month, ISO week and month, one byte a row each.

How it is measured. Every measurement is a process of its own, ours and mlforecast's in turn. CPU seconds are user and system
time of the process and its children (`getrusage`) around the computation of the features alone: making the data, imports and
the compilation of kernels, done on a tiny panel first, are left out on every side. Each side starts from the input it is made
for, sorted by series and day: ours from an array, mlforecast from a pandas or a polars frame, with its own checks of the data
switched off; each side leaves every feature of every row in memory. mlforecast runs with one thread, as it does by default.
The peak is the resident memory during the computation, with the input in it.

In a virtual machine the first touch of a page can cost more than the work on it, and falls on whoever comes first. So
right before each measurement a child process touches memory and gives it back; `--cold` leaves that out.

mlforecast lives in an environment of its own, made on first use under `.bench/mlforecast`. The results of both sides are
compared on a few series, and a difference is an error. The last line printed is one JSON object.
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
PEER_ENVIRONMENT = ROOT / ".bench" / "mlforecast"
PEER_PACKAGES = ["mlforecast==1.1.0", "pandas==2.3.3", "polars==2.1.0"]
PEERS = ("pandas", "polars")
N_DAYS = 1941
LAGS = (1, 7, 14, 28, 364)
WINDOWS = (7, 28)
START = np.datetime64("2011-01-29", "D")
N_COMPARED = 20
GIB = 1024**3
# Measured peaks, rounded up: what a side needs for a row of the panel, its input included.
BYTES_A_ROW = {"ours": 60, "pandas": 130, "polars": 130}


def make_panel(n_series: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, 40, size=(n_series, N_DAYS), dtype=np.uint8).astype(np.float32)


def prepare_ours(panel: np.ndarray, threads: int) -> Callable[[], Any]:
    import numba

    from endcap.loop.features.panels.kernels import PanelSpec, compute_calendar_features, compute_panel_features

    numba.set_num_threads(threads)
    spec = PanelSpec(lags=LAGS, windows=WINDOWS)

    def compute() -> Any:
        features = compute_panel_features(panel, spec=spec, shift=1)
        days = compute_calendar_features(START, n_ticks=panel.shape[1])
        per_day = {"weekday": days.weekday, "day": days.day_of_month, "week": days.iso_week, "month": days.month}
        rows = {name: np.tile(column, (panel.shape[0], 1)) for name, column in per_day.items()}
        return {name: features.column(name) for name in features.names} | rows

    return compute


def prepare_peer(kind: str, panel: np.ndarray) -> Callable[[], Any]:
    from mlforecast import MLForecast
    from mlforecast.lag_transforms import RollingMean, RollingStd

    n_series, n_days = panel.shape
    columns = {
        "unique_id": np.repeat(np.arange(n_series, dtype=np.int32), n_days),
        "ds": np.tile((START + np.arange(n_days)).astype("datetime64[ns]"), n_series),
        "y": panel.reshape(-1),
    }
    transforms = {1: [kernel(window_size=window) for window in WINDOWS for kernel in (RollingMean, RollingStd)]}
    if kind == "pandas":
        import pandas as pd

        frame, every, weekday = pd.DataFrame(columns, copy=False), "D", "weekday"
    else:
        import polars as pl

        frame, every, weekday = pl.DataFrame(columns), "1d", "weekday"
    features = [weekday, "day", "week", "month"]
    peer = MLForecast(models=[], freq=every, lags=list(LAGS), lag_transforms=transforms, date_features=features, num_threads=1)
    return lambda: peer.preprocess(frame, static_features=[], dropna=False, validate_data=False)


def compare_names() -> dict[str, str]:
    names = {f"lag_{lag}": f"lag{lag}" for lag in LAGS}
    for window in WINDOWS:
        names[f"mean_{window}"] = f"rolling_mean_lag1_window_size{window}"
        names[f"deviation_{window}"] = f"rolling_std_lag1_window_size{window}"
    return names | {name: name for name in ("weekday", "day", "week", "month")}


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


def touch_memory(n_bytes: int) -> None:
    available = read_available()
    n_bytes = min(n_bytes, int(available * 0.7)) if available else n_bytes
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({n_bytes}, dtype='u1')"], check=True)


def read_cpu() -> np.ndarray:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([sum(usage.ru_utime for usage in usages), sum(usage.ru_stime for usage in usages)])


def measure(side: str, *, n_series: int, threads: int, cold: bool, sample: Path) -> dict[str, float]:
    def prepare(panel: np.ndarray) -> Callable[[], Any]:
        return prepare_ours(panel, threads) if side == "ours" else prepare_peer(side, panel)

    prepare(make_panel(3))()
    compute = prepare(make_panel(n_series))
    if not cold:
        touch_memory(BYTES_A_ROW[side] * n_series * N_DAYS)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak of resident memory starts anew
    cpu, clock = read_cpu(), time.perf_counter()
    result = compute()
    user_s, system_s = read_cpu() - cpu
    wall_s = time.perf_counter() - clock
    peak = read_status("VmHWM")
    shape = (n_series, N_DAYS)
    compared = {ours: np.asarray(result[ours if side == "ours" else theirs]).reshape(shape)[:N_COMPARED] for ours, theirs in compare_names().items()}
    np.savez(sample, **compared)
    figures = {"cpu_s": user_s + system_s, "user_s": user_s, "system_s": system_s, "wall_s": wall_s, "peak_gib": peak / GIB}
    return {name: round(float(figure), 3) for name, figure in figures.items()}


def make_peer_environment() -> Path:
    python = PEER_ENVIRONMENT / "bin" / "python"
    stamp = PEER_ENVIRONMENT / "packages.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != PEER_PACKAGES:
        print(f"making {PEER_ENVIRONMENT.relative_to(ROOT)} with {', '.join(PEER_PACKAGES)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_ENVIRONMENT)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER_PACKAGES]
        subprocess.run([str(python), *install], check=True)
        stamp.write_text(json.dumps(PEER_PACKAGES))
    return python


def run_side(side: str, python: Path, arguments: argparse.Namespace, sample: Path) -> dict[str, float]:
    need, available = BYTES_A_ROW[side] * arguments.series * N_DAYS, read_available()
    if available is not None and need > available:
        fits = int(arguments.series * available / need * 0.9)
        raise SystemExit(
            f"The side '{side}' needs about {need / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB are free. Hint: --series {fits} fits."
        )
    command = [str(python), __file__, "--measure", side, "--sample", str(sample), "--series", str(arguments.series)]
    command += ["--threads", str(arguments.threads)] + (["--cold"] if arguments.cold else [])
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
    if done.returncode != 0:
        raise SystemExit(f"Measuring '{side}' ended with code {done.returncode}. Hint: --series takes a smaller panel.")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:>7}  {json.dumps(figures)}", flush=True)
    return figures


def check_agreement(ours: Path, theirs: Path, kind: str) -> float:
    """The largest difference on the rows where a window is full; polars counts weekdays from 1, pandas from 0."""
    largest = 0.0
    with np.load(ours) as a, np.load(theirs) as b:
        for name in a.files:
            other = b[name].astype(np.float64) - (1 if name == "weekday" and kind == "polars" else 0)
            gap = np.abs(a[name].astype(np.float64) - other)[:, max(WINDOWS) :]
            if not np.array_equal(np.isnan(a[name][:, max(WINDOWS) :]), np.isnan(other[:, max(WINDOWS) :])):
                raise SystemExit(f"'{name}' is missing on other rows here than in mlforecast on {kind}.")
            largest = max(largest, float(np.nanmax(gap)))
            if largest > 1e-3:
                raise SystemExit(f"'{name}' differs from mlforecast on {kind} by {largest:.2g}.")
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description="Panel features beside mlforecast.")
    parser.add_argument("--series", type=int, default=30_490, help="number of series of 1,941 days")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each side")
    parser.add_argument("--threads", type=int, default=1, help="threads of our kernels")
    parser.add_argument("--cold", action="store_true", help="count the machine's first touch of memory, on every side")
    parser.add_argument("--measure", choices=("ours", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if min(arguments.series, arguments.rounds, arguments.threads) < 1:
        parser.error("--series, --rounds and --threads are whole numbers from 1")
    if arguments.measure:
        options = {"n_series": arguments.series, "threads": arguments.threads, "cold": arguments.cold}
        print(json.dumps(measure(arguments.measure, sample=arguments.sample, **options)))
        return

    peer_python = make_peer_environment()
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "pandas": [], "polars": []}
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.npz"), Path(folder, "theirs.npz")
        for _ in range(arguments.rounds):
            for kind in PEERS:
                runs["ours"].append(run_side("ours", Path(sys.executable), arguments, ours))
                runs[kind].append(run_side(kind, peer_python, arguments, theirs))
                largest = max(largest, check_agreement(ours, theirs, kind))
    median = {side: {name: round(statistics.median(run[name] for run in of_side), 3) for name in of_side[0]} for side, of_side in runs.items()}
    best = min(PEERS, key=lambda kind: median[kind]["cpu_s"])
    report = {
        "cpu_s": median["ours"]["cpu_s"],
        "peak_gib": median["ours"]["peak_gib"],
        "wall_s": median["ours"]["wall_s"],
        "mlforecast_cpu_s": median[best]["cpu_s"],
        "mlforecast_peak_gib": median[best]["peak_gib"],
        "mlforecast_on": best,
        "ratio": round(median[best]["cpu_s"] / median["ours"]["cpu_s"], 2),
        "rows": arguments.series * N_DAYS,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "cold": arguments.cold,
        "largest_difference": largest,
        "peers": PEER_PACKAGES,
        "medians": median,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
