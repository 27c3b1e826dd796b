"""FreshRetailNet by the hour: 50,000 series of 99.6 million rows, from the files to released forecasts, and how good they are.

Three parts: the whole run in a process of its own, as `endcap run` does it, with its time and peak memory; the same again, unchanged; and the
error at the origins 4, 11 and 16 June 2024, 48 hours each, in hours in stock, against the mean of the same hour over 28 days. Every method is
fitted anew at each origin from what was known there, spreads are those of earlier origins (23 and 28 May come first), and constants were set
on days before June. Last line: one JSON object.

    ENDCAP_DATA=folder python benchmarks/freshretail.py [--methods daily_trees,average] [--skip-run]
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
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.loop.evaluation.records import Metrics
from endcap.loop.evaluation.sums import ErrorSums
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.retraining.cycle import turn
from endcap.project.applying import apply
from endcap.project.definitions import load_definitions
from endcap.solutions.forecasting.hours.catalogue import build_methods
from endcap.solutions.forecasting.hours.task import HourForecastTask
from endcap.solutions.forecasting.hours.training import HourBackTest, Shards, run_backtest

PROJECT = Path(__file__).resolve().parents[1] / "examples" / "freshretail"
MODEL, BASELINE = "store-item-hour", "same_hour_mean"
CALIBRATE = (date(2024, 5, 23), date(2024, 5, 28))
JUDGED = (date(2024, 6, 4), date(2024, 6, 11), date(2024, 6, 16))
END = datetime(2024, 6, 18, 16, tzinfo=UTC)  # midnight in Shanghai after the last day
ONE_RUN = """
import json, resource, sys, time
from datetime import datetime
from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.project.running import run
from pathlib import Path
home, folder, now = sys.argv[1:]
began_s = time.perf_counter()
with open_house(home, clock=ManualClock(datetime.fromisoformat(now))) as house:
    done = run(house.session(), "store-item-hour", folder=Path(folder))
spent = resource.getrusage(resource.RUSAGE_SELF)
steps = {step.name: [step.status, round(step.wall_s, 1), round(step.cpu_s, 1)] for step in done.run.steps}
print(json.dumps({"wall_s": round(time.perf_counter() - began_s, 1), "cpu_s": round(spent.ru_utime + spent.ru_stime, 1),
    "peak_gib": round(spent.ru_maxrss / 2**20, 2), "champion": done.champion, "judged": [[j.candidate, j.sentence] for j in done.judged],
    "n_forecasts": done.batch.n_rows if done.batch else 0, "steps": steps}))
"""


def run_once(home: str) -> dict[str, Any]:
    command = [sys.executable, "-c", ONE_RUN, home, str(PROJECT), END.isoformat()]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return found


def judge(home: str, methods: tuple[str, ...]) -> tuple[HourBackTest, float]:
    """The back-test at the judged origins, and its CPU seconds."""
    clock = ManualClock(END)
    with open_house(home, clock=clock) as house:
        session = house.session()
        apply(session, folder=PROJECT)
        task = load_definitions(PROJECT).task(MODEL)
        assert isinstance(task, HourForecastTask), "an hourly model"
        data = turn(session, task, folder=PROJECT, train=False).data
        _, source = task.open_data(session, data)
        names, groups, _ = task.find_members(session, source.state)
        origins = np.array([(day - source.state.start).days * HOURS for day in (*CALIBRATE, *JUDGED)], dtype=np.int64)
        began_s = time.process_time()
        with task.open_executor(session) as executor:
            test = run_backtest(Shards(source, executor), build_methods(methods), origins=origins, groups=groups, names=names, seed=task.seed)
        return test, time.process_time() - began_s


def compare(test: HourBackTest, name: str) -> dict[str, float]:
    judged = slice(len(CALIBRATE), None)
    ours, base = test.sums[name].take(origins=judged), test.sums[BASELINE].take(origins=judged)
    mine, theirs = ours.metrics, base.metrics

    def ratio(of: str) -> float:
        return round(_of(mine, of) / _of(theirs, of), 4)

    return {
        "rmse": ratio("rmse"),
        "crps": ratio("crps"),
        "rmse_debiased": round(_debiased(ours) / _debiased(base), 4),
        "day_wape": round(_of(mine, "day_wape"), 4),
        "bias": round(_of(mine, "bias"), 4),
        "wape": round(_of(mine, "wape"), 4),
        "coverage_90": round(_of(mine, "coverage_90"), 4),
        "n": mine.n,
        **{f"rmse {day}": round(_of(one.metrics, "rmse") / _of(other.metrics, "rmse"), 4) for day, one, other in _by_origin(ours, base)},
    }


def _by_origin(ours: ErrorSums, base: ErrorSums) -> list[tuple[date, ErrorSums, ErrorSums]]:
    return [(day, ours.take(origins=[i]), base.take(origins=[i])) for i, day in enumerate(JUDGED)]


def _debiased(sums: ErrorSums) -> float:
    """The RMSE after taking the mean error off."""
    n, error = float(sums["n"].sum()), float((sums["forecast"] - sums["actual"]).sum())
    return float(np.sqrt(float(sums["squared_error"].sum()) / n - (error / n) ** 2))


def _of(metrics: Metrics, name: str) -> float:
    return float(getattr(metrics, name))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default="")
    parser.add_argument("--skip-run", action="store_true")
    chosen = parser.parse_args()
    if not os.environ.get("ENDCAP_DATA"):
        raise SystemExit("ENDCAP_DATA names no folder with freshretailnet/")
    found: dict[str, Any] = {"benchmark": "freshretail"}
    with tempfile.TemporaryDirectory(prefix="endcap-freshretail-") as home:
        if not chosen.skip_run:
            for name in ("first run", "second run"):
                found[name] = run_once(home)
                print(f"{name}: {json.dumps(found[name])}", flush=True)
        offered = tuple(name for name in chosen.methods.split(",") if name) or load_definitions(PROJECT).models[MODEL].offered
        test, cpu_s = judge(home, offered)
        found["backtest_cpu_s"] = round(cpu_s, 1)
        base = test.sums[BASELINE].take(origins=slice(len(CALIBRATE), None)).metrics
        found["baseline"] = {name: round(_of(base, name), 5) for name in ("rmse", "crps", "day_wape", "bias", "wape")}
        print(f"{BASELINE}: {found['baseline']}")
        found["methods"] = {name: compare(test, name) for name in test.sums if name != BASELINE}
        for name, figures in found["methods"].items():
            print(f"{name}: {figures}", flush=True)
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
