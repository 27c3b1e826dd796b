"""Forecasts of up to 2.2 million hourly series for 48 hours from one released version: cost against series, and memory.

A version is trained and released on a few thousand series: FreshRetailNet's where ENDCAP_DATA names it, otherwise a simulated shop's. Its
state is then repeated: the days' cells stand once on the disk and are named by as many shards as it takes, each shard with stores of
its own. Not timed: the release and the making of the states. Timed, in a process of its own for each number of series: the answering path as the
step `forecast` takes it, from the records to the logged rows (survey, inform, predict, limits, columns, the check that keys and time are
unique, Parquet). The straight line is the least-squares one through the CPU seconds; what a point lies off it is told. Last line: one JSON object.

    [ENDCAP_DATA=folder] python benchmarks/scale.py [--series 500000,1000000,2200000] [--method shrunk_rates] [--every 4] [--profile]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.loop.deployment.batches import log_predictions
from endcap.loop.deployment.records import Batch
from endcap.loop.features.panels.hour_store import HourState, ShardState, put_series, put_state, read_series
from endcap.loop.registry.releases import get_champion
from endcap.loop.registry.versions import get_version
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.tasks import DataRef
from endcap.project.applying import apply
from endcap.project.definitions import load_definitions
from endcap.solutions.forecasting.hours.task import HourForecastTask, HourRef

MODEL = "store-item-hour"
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "freshretail" / "project.py"
END = datetime(2024, 6, 18, 16, tzinfo=UTC)  # midnight in Shanghai after the last day
GATE = '    gate=ec.Gate(metric="rmse", bias=0.05),'
TABLES = ("sales_hourly", "conditions_daily", "stores", "products")
SIMULATED = {
    "products": "SELECT i AS product_id, i % 7 AS management_group_id, i % 5 AS first_category_id, i % 20 AS second_category_id,"
    " i % 40 AS third_category_id FROM range(100) t(i)",
    "stores": "SELECT i AS store_id, i % 6 AS city_id FROM range(50) t(i)",
    "conditions_daily": "SELECT s.i AS store_id, p.i AS product_id, DATE '2024-03-28' + CAST(d.i AS INTEGER) AS dt,"
    " CASE WHEN (p.i + d.i) % 9 = 0 THEN 0.8 ELSE 1.0 END AS discount, 0 AS activity_flag"
    " FROM range(50) s(i), range(100) p(i), range(83) d(i)",
    "sales_hourly": "SELECT s.i AS store_id, p.i AS product_id, DATE '2024-03-28' + CAST(d.i AS INTEGER) AS dt, h.i AS hour,"
    " CAST(CASE WHEN random() < 0.05 * (1 + p.i % 4) * sin(pi() * (h.i + 1) / 25) THEN 1 + floor(4 * random() * random()) ELSE 0 END AS FLOAT)"
    " AS hourly_sale, CAST(random() < 0.05 AS UTINYINT) AS hourly_stockout"
    " FROM range(50) s(i), range(100) p(i), range(83) d(i), range(24) h(i) ORDER BY ALL",
}


def lay_out(folder: Path, data: str, *, every: int, method: str) -> None:
    """A project on every n-th store of the data, or on simulated ones, with one candidate and a gate that lets it pass."""
    tables = folder / "freshretailnet"
    tables.mkdir(parents=True)
    engine = duckdb.connect()
    engine.execute("SELECT setseed(0.7)")
    for name in TABLES:
        source = SIMULATED[name]
        if data:
            chosen = f" WHERE store_id % {every} = 0" if name != "products" else ""
            source = f"SELECT * FROM '{Path(data).resolve() / 'freshretailnet' / name}.parquet'{chosen}"
        engine.execute(f"COPY ({source}) TO '{tables / name}.parquet' (FORMAT parquet)")
    passing = '    gate=ec.Gate(metric="rmse", better_than=[], bias=None, most={"rmse": 1e9}),'
    text = EXAMPLE.read_text()
    assert GATE in text, "the example has the gate that is replaced here"
    text = text.replace('    candidates=["shrunk_rates"],\n', "").replace(GATE, f"    candidates=[{method!r}],\n{passing}")
    (folder / "project.py").write_text(text)


def release(home: Path, folder: Path) -> DataRef:
    """Train and release the version, and answer once from the state as it is."""
    with open_house(home, clock=ManualClock(END)) as house:
        session = house.session()
        apply(session, folder=folder)
        return turn(session, load_definitions(folder).task(MODEL), folder=folder).data


def grow(home: Path, folder: Path, data: DataRef, *, n_series: int) -> DataRef:
    """A state of at least so many series: the shards of the one that stands, again and again, with stores of other numbers."""
    with open_house(home, clock=ManualClock(END)) as house:
        session = house.session()
        task = load_definitions(folder).task(MODEL)
        assert isinstance(task, HourForecastTask), "an hourly model"
        ref, source = task.open_data(session, data)
        shards = _repeat(session.blobs, source.state, n_series=n_series)
        state = put_state(session.blobs, msgspec.structs.replace(source.state, shards=tuple(shards)))
        digest = session.blobs.put(msgspec.json.encode(HourRef(state, ref.origin)))
        return msgspec.structs.replace(data, digest=digest, n_series=sum(shard.n_series for shard in shards))


def _repeat(blobs: Any, state: HourState, *, n_series: int) -> list[ShardState]:
    base = [(shard, *read_series(blobs, shard)) for shard in state.shards]
    shards: list[ShardState] = []
    n, copy = 0, 0
    while True:
        for shard, keys, codes in base:
            if n >= n_series:
                return shards
            stores = [str(int(store) + 10_000 * copy) for store in keys["store_id"]]
            series = put_series(blobs, {**keys, "store_id": stores}, codes) if copy else shard.series
            shards.append(msgspec.structs.replace(shard, series=series))
            n += shard.n_series
        copy += 1


def answer(home: Path, folder: Path, data: DataRef) -> dict[str, Any]:
    """Log the answers of the champion from a state, in this process; what they cost."""
    began = resource.getrusage(resource.RUSAGE_SELF)
    with open_house(home, clock=ManualClock(END)) as house:
        session = house.session()
        task = load_definitions(folder).task(MODEL)
        version = get_champion(session, MODEL)
        assert version is not None, "it was released"
        answers = task.answer(session, get_version(session, version.version), data)
        batch = Batch(
            id="scale",
            workspace=session.workspace,
            model=MODEL,
            version=version.version,
            origin=data.origin,
            hour=data.hour,
            predicted_at=session.now(),
            n_rows=0,
            first=answers.first,
            last=answers.last,
            zone=task.zone(session),
            keys=task.keys,
            data=data.digest,
            run="scale",
            missing_facts=answers.missing_facts,
        )
        (kept,) = log_predictions(session, [(batch, answers.parts)])
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "n_series": data.n_series,
        "n_forecasts": kept.n_rows,
        "n_parts": kept.n_parts,
        "cpu_s": round(spent.ru_utime + spent.ru_stime - began.ru_utime - began.ru_stime, 2),
        "cpu_s_with_imports": round(spent.ru_utime + spent.ru_stime, 2),
        "peak_gib": round(spent.ru_maxrss / 2**20, 2),
    }


def answer_apart(home: Path, folder: Path, data: DataRef, *, profile: bool) -> dict[str, Any]:
    """``answer`` in a process of its own, so that its peak of memory is its own."""
    command = [sys.executable, __file__, "--answer", str(home), str(folder), msgspec.json.encode(data).decode(), *(["--profile"] if profile else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    sys.stdout.write("".join(f"    {line}\n" for line in done.stdout.splitlines()[:-1]))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def fit_line(points: list[dict[str, Any]]) -> dict[str, float]:
    """The straight line through cost against series, and how far, as a share, the costs lie off it and off proportionality at most."""
    n, cost = (np.array([float(point[name]) for point in points]) for name in ("n_series", "cpu_s"))
    slope, intercept = np.polyfit(n, cost, 1) if len(points) > 1 else (cost[0] / n[0], 0.0)
    line, proportional = intercept + slope * n, n * float((cost * n).sum() / (n * n).sum())
    return {
        "cpu_s_per_million_series": round(float(slope) * 1e6, 2),
        "intercept_cpu_s": round(float(intercept), 2),
        "most_off_the_line": round(float(np.abs(cost / line - 1).max()), 4),
        "most_off_proportionality": round(float(np.abs(cost / proportional - 1).max()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", default="500000,1000000,2000000,2200000", help="numbers of series, with commas")
    parser.add_argument("--method", default="shrunk_rates")
    parser.add_argument("--every", type=int, default=4, help="train on every n-th store")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, which costs some")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the released home from one call to the next")
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.answer:
        home, folder, data = chosen.answer
        _answer_here(Path(home), Path(folder), msgspec.json.decode(data, type=DataRef), profile=chosen.profile)
        return
    with tempfile.TemporaryDirectory(prefix="endcap-scale-") as scratch:
        kept = chosen.keep or Path(scratch)
        home, folder, noted = kept / "home", kept / "project", kept / "data.json"
        source, os.environ["ENDCAP_DATA"] = os.environ.get("ENDCAP_DATA", ""), str(folder.resolve())
        if not noted.exists():
            lay_out(folder, source, every=chosen.every, method=chosen.method)
            noted.write_bytes(msgspec.json.encode(release(home, folder)))
        data = msgspec.json.decode(noted.read_bytes(), type=DataRef)
        print(f"released on {data.n_series:,} series", flush=True)
        points = []
        for n_series in (int(text) for text in chosen.series.split(",")):
            one = Path(scratch) / "one"
            shutil.copytree(home, one, copy_function=os.link)  # blobs are never changed, only added
            for name in ("records.sqlite", "records.sqlite-wal"):
                if (home / name).exists():
                    (one / name).unlink()
                    shutil.copy2(home / name, one / name)
            points.append(answer_apart(one, folder, grow(one, folder, data, n_series=n_series), profile=chosen.profile))
            print(json.dumps(points[-1]), flush=True)
            shutil.rmtree(one)
    worst = max(points, key=lambda point: point["n_series"])
    print(json.dumps({"benchmark": "scale", "method": chosen.method, **worst, **fit_line(points), "points": points}))


def _answer_here(home: Path, folder: Path, data: DataRef, *, profile: bool) -> None:
    if not profile:
        print(json.dumps(answer(home, folder, data)))
        return
    import cProfile
    import pstats

    profiler = cProfile.Profile(time.process_time)
    found = profiler.runcall(answer, home, folder, data)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(28)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
