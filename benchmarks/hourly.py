"""The next hour of store-item-hour: its rows arrive as a file, and 2.4 million forecasts are made anew.

FreshRetailNet is laid out as a folder: one file with everything up to 17 June 2024, then a file for each hour of 18 June. A version is released
on the first (not timed here: see freshretail); then hours arrive one by one, each with a run in a process of its own: ingest, fold into the
state, score the forecasts of the hour that passed, forecast the next 48 hours, log. Some hours bring late and corrected rows of days before.
At the end, how long the forecast alone takes, and that the state is cell by cell the same as one loaded at once. Last line: one JSON object.

    ENDCAP_DATA=folder python benchmarks/hourly.py [--hours 4]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.loop.features.panels.hour_store import STANDING_STATES, HourState, read_shard, read_state
from endcap.project.running import run

MODEL = "store-item-hour"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "freshretail" / "project.py"
DAY = datetime(2024, 6, 17, 16, tzinfo=UTC)  # midnight in Shanghai before 18 June
ONE_RUN = """
import json, resource, sys, time
from datetime import datetime
from pathlib import Path
from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.project.running import run
home, folder, now = sys.argv[1:]
began_s = time.perf_counter()
with open_house(home, clock=ManualClock(datetime.fromisoformat(now))) as house:
    done = run(house.session(), "store-item-hour", folder=Path(folder))
spent = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall_s": round(time.perf_counter() - began_s, 2), "cpu_s": round(spent.ru_utime + spent.ru_stime, 2),
    "peak_gib": round(spent.ru_maxrss / 2**20, 2), "origin": done.batch.moment, "n_forecasts": done.batch.n_rows,
    "steps": {step.name: round(step.wall_s, 2) for step in done.run.steps}}))
"""


def lay_out(folder: Path, data: Path, *, candidates: str) -> None:
    """A project whose hourly sales are a folder of files."""
    (folder / "sales").mkdir(parents=True)
    engine = duckdb.connect()
    source = data / "freshretailnet" / "sales_hourly.parquet"
    engine.execute(
        f"COPY (SELECT * FROM '{source}' WHERE dt < DATE '2024-06-18') TO '{folder / 'sales' / 'until-2024-06-17.parquet'}' (FORMAT parquet)"
    )
    text = EXAMPLE.read_text().replace('f"{FOLDER}/sales_hourly.parquet"', '"sales"')
    marker = '    gate=ec.Gate(metric="rmse", bias=0.05),'
    (folder / "project.py").write_text(text.replace(marker, f"    candidates={candidates.split(',')!r},\n{marker}") if candidates else text)


def add_hour(folder: Path, data: Path, hour: int) -> int:
    """The file of one hour; from the third on with 500 corrected rows of the day before, which add to what was said."""
    engine = duckdb.connect()
    source = data / "freshretailnet" / "sales_hourly.parquet"
    late = f" UNION ALL (SELECT * FROM '{source}' WHERE dt = DATE '2024-06-17' AND hour = {hour} AND hourly_sale > 0 LIMIT 500)" if hour >= 2 else ""
    target = folder / "sales" / f"2024-06-18T{hour:02d}.parquet"
    engine.execute(f"COPY (SELECT * FROM '{source}' WHERE dt = DATE '2024-06-18' AND hour = {hour}{late}) TO '{target}' (FORMAT parquet)")
    return int(engine.execute(f"SELECT count(*) FROM '{target}'").fetchall()[0][0])


def run_hour(home: Path, folder: Path, now: datetime) -> dict[str, Any]:
    command = [sys.executable, "-c", ONE_RUN, str(home), str(folder), now.isoformat()]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return found


def count_differences(home: Path, folder: Path, other: Path, now: datetime) -> int:
    """Cells in which the grown state differs from one loaded from all files at once."""
    with open_house(other, clock=ManualClock(now)) as house:
        run(house.session(), MODEL, folder=folder, train=False)
        fresh, again = _state(house), house.ports.blobs
        with open_house(home) as grown_house:
            grown, blobs = _state(grown_house), grown_house.ports.blobs
            n = 0
            for one, two in zip(grown.shards, fresh.shards, strict=True):
                a = read_shard(blobs, grown, one, origin=grown.n_ticks, horizon=48, calendar={})
                b = read_shard(again, fresh, two, origin=fresh.n_ticks, horizon=48, calendar={})
                n += int((~((a.sold == b.sold) | (np.isnan(a.sold) & np.isnan(b.sold)))).sum()) + int(a.keys != b.keys)
                assert a.unseen is not None, "stock-outs are declared"
                n += int((a.unseen != b.unseen).sum())
        return n


def _state(house: Any) -> HourState:
    found = house.ports.records.get(STANDING_STATES, workspace="default", id=MODEL)
    return read_state(house.ports.blobs, found.state)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=int, default=4)
    parser.add_argument("--candidates", default="", help="instead of the example's: shrunk_rates,daily_trees")
    chosen = parser.parse_args()
    if not os.environ.get("ENDCAP_DATA"):
        raise SystemExit("ENDCAP_DATA names no folder with freshretailnet/")
    data = Path(os.environ["ENDCAP_DATA"]).resolve()
    with tempfile.TemporaryDirectory(prefix="endcap-hourly-") as scratch:
        home, folder = Path(scratch) / "home", Path(scratch) / "project"
        lay_out(folder, data, candidates=chosen.candidates)
        first = run_hour(home, folder, DAY + timedelta(minutes=5))
        print(f"release: {json.dumps(first)}", flush=True)
        hours = []
        for hour in range(chosen.hours):
            n_rows = add_hour(folder, data, hour)
            hours.append({"n_rows": n_rows, **run_hour(home, folder, DAY + timedelta(hours=hour + 1, minutes=5))})
            print(f"hour {hour}: {json.dumps(hours[-1])}", flush=True)
        wrong = count_differences(home, folder, Path(scratch) / "other", DAY + timedelta(hours=chosen.hours, minutes=10))
        n_bytes = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    print(f"cells that differ from a state loaded at once: {wrong}; home {n_bytes / 2**20:.0f} MiB")
    worst = max(hours, key=lambda found: found["wall_s"])
    figures = {"benchmark": "hourly", "next_hour_s": worst["wall_s"], "forecast_s": max(found["steps"]["forecast"] for found in hours)}
    print(json.dumps({**figures, "peak_gib": worst["peak_gib"], "n_forecasts": worst["n_forecasts"], "cells_that_differ": wrong, "hours": hours}))


if __name__ == "__main__":
    main()
