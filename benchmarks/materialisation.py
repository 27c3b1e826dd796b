"""Materialisation on real data and at size: a first run, one with nothing new, one with a day more, and a million keys into the online store.

``store_traffic`` (store by day, windows of 7 and 28 days, and the same weekday) is materialised over FreshRetailNet's hours: 99.6 M rows in a folder
of a file for each day, all but the last; then again; then with the last day's file. After each run the values at the last tick are held against a
query that says them plainly. ``prices`` is a row view of ``--keys`` keys by ten floats. Each run is a process of its own; its CPU seconds count
all threads, its memory is the greatest that the process held. Last line: one JSON object.

    ENDCAP_DATA=folder python benchmarks/materialisation.py [--keys 1000000] [--threads 2] [--days 90]
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

ZONE = "Asia/Shanghai"
RUN = """
import json, resource, sys, time
from datetime import datetime
from pathlib import Path
from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions import aggregates as ag
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.settings import Settings
from endcap.loop.features.catalogue import register_view
from endcap.loop.features.kept.materialisation import materialise
home, folder, now, name, threads = sys.argv[1:]
hours = Table("sales", "sales", keys=("store_id", "product_id"), event_time="dt + hour * interval 1 hour", zone="Asia/Shanghai", interval="1h")
prices = Table("prices", "prices.parquet", keys=("item",), event_time="at")
view = {
    "store_traffic": FeatureView(name="store_traffic", source=hours, keys=("store_id",), every="1d", known_after="6h", features={
        "units_7d": ag.sum("hourly_sale", "7d"), "units_28d": ag.sum("hourly_sale", "28d"), "mean_28d": ag.mean("hourly_sale", "28d"),
        "units_same_weekday": ag.mean("hourly_sale", "28d", same="weekday")}),
    "prices": FeatureView(name="prices", source=prices, features=[f"f{n}" for n in range(10)]),
}[name]
with open_house(home, clock=ManualClock(datetime.fromisoformat(now)), settings=Settings(n_threads=int(threads), memory_limit=4 * 2**30)) as house:
    session = house.session()
    with session.change("apply", thing=name) as change:
        register_view(session, change, view, folder=Path(folder))
    steps, begun = {}, {}
    class Timing:
        def step_started(self, step): begun[step] = time.process_time()
        def step_advanced(self, step, *, done, total): pass
        def step_ended(self, step, *, status, wall_s, note): steps[step] = round(time.process_time() - begun[step], 2)
    before = time.process_time()
    done = materialise(session, name, reporter=Timing())
    cpu_s = time.process_time() - before
spent = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": round(cpu_s, 2), "wall_s": done.wall_s, "peak_gib": round(spent.ru_maxrss / 2**20, 2), "n_rows": done.n_rows,
    "n_online": done.n_online, "batch": done.n, "n_restated": done.n_restated, "steps_cpu_s": steps}))
"""
CHECK = """
SELECT store_id, sum(hourly_sale) FILTER (dt >= DATE '{day}' - 7), sum(hourly_sale), avg(hourly_sale),
  avg(hourly_sale) FILTER (isodow(dt) = isodow(DATE '{day}'))
FROM read_parquet('{files}') WHERE dt >= DATE '{day}' - 28 AND dt < DATE '{day}' GROUP BY store_id ORDER BY store_id
"""


def run(home: Path, folder: Path, now: datetime, name: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, str(home), str(folder), now.isoformat(), name, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, found, flush=True)
    return found


def split_days(folder: Path, data: Path, *, n_days: int) -> list[Path]:
    """A file for each of the last days."""
    engine = duckdb.connect(config={"threads": 2, "memory_limit": "3GB"})
    source = data / "freshretailnet" / "sales_hourly.parquet"
    days = [day for (day,) in engine.execute(f"SELECT DISTINCT dt FROM read_parquet('{source}') ORDER BY dt DESC LIMIT {n_days}").fetchall()][::-1]
    folder.mkdir(parents=True)
    for day in days:
        engine.execute(f"COPY (SELECT * FROM read_parquet('{source}') WHERE dt = DATE '{day}') TO '{folder / f'{day}.parquet'}' (FORMAT parquet)")
    return [folder / f"{day}.parquet" for day in days]


def check(home: Path, folder: Path, now: datetime) -> float:
    """The greatest difference, of the greater value, between what is answered online and what a plain query says of the last tick."""
    from endcap.assembly import open_house
    from endcap.core.clock import ManualClock
    from endcap.loop.features.online import open_online

    day = (now + timedelta(hours=8)).date()
    expected = duckdb.execute(CHECK.format(day=day, files=folder / "sales" / "*.parquet")).fetchall()
    with open_house(home, clock=ManualClock(now)) as house:
        (rows,) = open_online(house.session(), ["store_traffic"]).read([row[0] for row in expected])
    found = list(zip(*rows.columns.values(), strict=True))
    assert len(found) == len(expected) > 800, len(found)
    return max(abs(a - b) / max(abs(a), abs(b), 1e-9) for row, told in zip(found, expected, strict=True) for a, b in zip(row, told[1:], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--days", type=int, default=90)
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="endcap-materialise-") as scratch:
        folder, home = Path(scratch) / "project", Path(scratch) / "home"
        folder.mkdir()
        if given.keys:
            engine = duckdb.connect()
            floats = ", ".join(f"random() AS f{n}" for n in range(10))
            made = f"SELECT range AS item, TIMESTAMP '2026-01-01' + to_seconds(range % 86400) AS \"at\", {floats} FROM range({given.keys})"
            engine.execute(f"SELECT setseed(0.7); COPY ({made}) TO '{folder / 'prices.parquet'}' (FORMAT parquet)")
            figures["prices"] = run(home, folder, datetime(2026, 1, 3, tzinfo=UTC), "prices", given.threads)
            figures["online_rows_per_cpu_s"] = round(given.keys / figures["prices"]["steps_cpu_s"]["online"])
        if given.days:
            files = split_days(folder / "sales", Path(os.environ["ENDCAP_DATA"]), n_days=given.days)
            later = files[-1].rename(folder / files[-1].name)
            last = datetime.fromisoformat(later.stem).replace(tzinfo=UTC)
            morning = last - timedelta(hours=8) + timedelta(hours=7)  # 7 in the morning in Shanghai of the day that has not come yet
            figures["first"] = run(home, folder, morning, "store_traffic", given.threads)
            figures["again"] = run(home, folder, morning, "store_traffic", given.threads)
            differs = [check(home, folder, morning)]
            later.rename(folder / "sales" / later.name)
            figures["next_day"] = run(home, folder, morning + timedelta(days=1), "store_traffic", given.threads)
            differs.append(check(home, folder, morning + timedelta(days=1)))
            figures["differs_by_at_most"] = max(differs)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
