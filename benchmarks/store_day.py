"""FreshRetailNet, daily units per store, seven days ahead, from every origin from 21 May 2024 that leaves seven days.

The candidate is the one that the gate would have released on the morning of the first origin, from what was seen then; it is then fitted
anew at each origin. Constants of the method and of the intervals stand in the code and were set on earlier days, except where
docs/benchmarks.md says otherwise. Beside it: seasonal naive and weekday mean on the same rows. Last line: one JSON object.

    ENDCAP_DATA=folder python benchmarks/store_day.py [--plan: store-day-plan too]
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

from endcap.assembly import open_house
from endcap.core.clock import ManualClock
from endcap.core.definitions.forecasts import BASELINES as NAMES
from endcap.core.definitions.forecasts import Forecast
from endcap.core.zones import start_of_day
from endcap.loop.data.digests import digest_file
from endcap.loop.data.engine import open_engine
from endcap.loop.data.sources import open_source
from endcap.loop.data.verbs import ingest
from endcap.loop.evaluation.evidence import CubeEvidence, scale_of
from endcap.loop.evaluation.gates import judge
from endcap.loop.evaluation.metrics import measure
from endcap.loop.features.panels.day_loading import load_panel
from endcap.loop.features.panels.day_panels import Panel
from endcap.project.definitions import load_definitions
from endcap.solutions.forecasting.backtests import bound_backtest, cut_actual, run_backtest
from endcap.solutions.forecasting.day_kinds import HOLIDAY_FACT, is_special, weekdays
from endcap.solutions.forecasting.training import build_candidates, train_forecast

FIRST, LAST, CALIBRATE_FROM = date(2024, 5, 21), date(2024, 6, 12), date(2024, 4, 18)
FOUR = [date(2024, 5, 21), date(2024, 5, 28), date(2024, 6, 4), date(2024, 6, 11)]
BASELINES = ("seasonal_naive_7", "weekday_mean")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def load(model: str) -> tuple[Panel, Forecast]:
    """Ingest the tables (contract and profile) and load the panel, as a run does."""
    folder = Path(__file__).resolve().parents[1] / "examples" / "freshretail"
    forecast = load_definitions(folder).models[model]
    clock = ManualClock(start_of_day(date(2024, 6, 19), zone="Asia/Shanghai"))
    with open_house("memory://", clock=clock) as house, open_engine(house.settings) as engine:
        session = house.session()
        sources = {}
        for table in forecast.tables:
            ingest(session, table, folder=folder)
            sources[table.name] = open_source(
                table, folder=folder, zone=table.zone or "UTC", engine=engine, digests=lambda path: digest_file(session, path)
            )
        return load_panel(forecast, sources=sources, engine=engine, now=clock.now(), origin=date(2024, 6, 19)).panel, forecast


def choose(panel: Panel, forecast: Forecast, origin: int) -> tuple[str, list[str]]:
    """The candidate that passes the gate at an origin, and what happened to those tried before it."""
    seen, told = panel.seen_at(origin), []
    for n_tried, trial in enumerate(train_forecast(seen, forecast), start=1):
        kept = trial.evidence
        where = slice(kept.n_choosing, None)
        evidence = CubeEvidence(
            name=trial.candidate,
            actual=kept.actual[:, where],
            forecast=kept.forecasts[trial.candidate][:, where],
            lower=kept.lower[:, where],
            upper=kept.upper[:, where],
            rivals={name: cube[:, where] for name, cube in kept.forecasts.items()},
            baselines=tuple(name for name in kept.forecasts if name in NAMES),
            scale=scale_of(seen.target),
            n_tried=n_tried,
        )
        checks = judge(evidence, gate=forecast.gate, seed=forecast.seed)
        failed = [check.sentence for check in checks if not check.passed]
        told.append(f"{trial.candidate}: {'passed' if not failed else '; '.join(failed)}")
        if not failed:
            return trial.candidate, told
    return "weekday_mean", told


def main() -> None:
    if not os.environ.get("ENDCAP_DATA"):
        raise SystemExit("ENDCAP_DATA is not set: give the folder that holds freshretailnet/")
    began = time.perf_counter()
    figures: dict[str, object] = {}
    for model in ("store-day", "store-day-plan") if "--plan" in sys.argv else ("store-day",):
        panel, forecast = load(model)
        tick = {day: (day - panel.start).days for day in (FIRST, LAST, CALIBRATE_FROM)}
        last = min(tick[LAST], panel.n_seen - panel.lead - panel.horizon)
        candidate, told = choose(panel, forecast, tick[FIRST])
        print(f"{model}: on {FIRST} the gate said: " + " | ".join(told))
        origins = np.arange(tick[CALIBRATE_FROM], last + 1)
        test = run_backtest(panel, build_candidates((*BASELINES, candidate)), origins=origins, seed=forecast.seed)
        actual = cut_actual(panel, origins)
        judged = origins >= tick[FIRST]
        figures[model] = report(panel, test, judged, actual, candidate)
    figures["wall_s"] = round(time.perf_counter() - began, 1)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures["cpu_s"] = round(usage.ru_utime + usage.ru_stime, 1)
    figures["peak_gib"] = round(usage.ru_maxrss / 2**20, 2)
    print(json.dumps(figures))


def report(panel, test, judged, actual, candidate):
    """Figures of one model over all judged origins and over the four of the reference."""
    origins, forecasts = test.origins, test.forecasts
    lower, upper = bound_backtest(panel, test, forecasts[candidate])
    four = np.isin(origins, [(day - panel.start).days for day in FOUR]) & judged
    found: dict[str, object] = {"candidate": candidate, "n_origins": int(judged.sum())}
    for label, where in (("all", judged), ("four", four)):
        if not where.any():
            continue
        for name in (*BASELINES, candidate):
            metrics = measure(actual[:, where], forecasts[name][:, where], lower=lower[:, where], upper=upper[:, where])
            print(f"  {label:<5}{name:<18} WAPE {metrics.wape:.4f}  RMSE {metrics.rmse:.3f}  bias {metrics.bias:+.3f}")
            found.setdefault(label, {})[name] = {"wape": round(metrics.wape, 4), "rmse": round(metrics.rmse, 3), "bias": round(metrics.bias, 4)}  # type: ignore[attr-defined]
    covered = (lower <= actual) & (actual <= upper)
    ticks = np.broadcast_to((origins[:, None] + panel.lead + np.arange(panel.horizon))[None], actual.shape)
    special = is_special(panel)[ticks]
    named = np.zeros_like(special) if HOLIDAY_FACT not in panel.ahead else special
    where = np.broadcast_to(judged[None, :, None], actual.shape) & np.isfinite(actual)
    day_of = weekdays(panel, n_ticks=int(ticks.max()) + 1)[ticks]
    found["coverage_90"] = round(float(covered[where].mean()), 4)
    found["coverage_90_without_holidays"] = round(float(covered[where & ~named].mean()), 4)
    found["coverage_90_holidays"] = round(float(covered[where & named].mean()), 4) if (where & named).any() else None
    found["coverage_90_by_weekday"] = {DAYS[d]: round(float(covered[where & ~named & (day_of == d)].mean()), 4) for d in range(7)}
    print(f"  coverage {found['coverage_90']}, by weekday without holidays {found['coverage_90_by_weekday']}")
    return found


if __name__ == "__main__":
    main()
