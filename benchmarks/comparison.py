"""Comparisons and the watch over members on real errors: how often do they cry wolf, and how much do they find?

FreshRetailNet (``ENDCAP_DATA``): 898 stores, forecast each day by their mean of the same weekday over four weeks; the errors of 55 days are what a
model's errors are like: stores differ lastingly, days share weather and holidays, neighbours in time are alike. Nothing is trained.

- Two groups of one version: groups are drawn by city and size with many seeds, over the last 28 days, with 27 days before, looked at every day.
- The same with the errors of one group made smaller by a share.
- The watch with nobody fallen: live days drawn from all days, so that no store is worse in them than before but by chance; and with the errors
  of some stores made larger.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.comparisons import compare_groups
from endcap.loop.evaluation.discoveries import find_falls
from endcap.loop.evaluation.member_days import MemberDays
from endcap.loop.evaluation.sampling import draw_groups

Array = NDArray[np.float64]
N_DRAWS, PLAN, WEEKS = 200, 28, 4


def main() -> int:
    where = os.environ.get("ENDCAP_DATA")
    if not where:
        sys.stderr.write("ENDCAP_DATA is not set. Hint: ENDCAP_DATA=folder with freshretailnet\n")
        return 2
    begun = time.process_time()
    actual, cities = read_stores(Path(where) / "freshretailnet")
    error = forecast_by_weekday(actual) - actual[:, 7 * WEEKS :]
    actual = actual[:, 7 * WEEKS :]
    told = {
        "n_stores": actual.shape[0],
        "n_days": actual.shape[1],
        "alarms without a difference": compare_often(actual, error, cities, effect=0.0),
        "found where b errs 3 % less": compare_often(actual, error, cities, effect=-0.03),
        "found where b errs 6 % less": compare_often(actual, error, cities, effect=-0.06),
        "watch, nobody fell": watch_often(actual, error, n_fallen=0, times=1.0),
        "watch, 20 stores err twice as much": watch_often(actual, error, n_fallen=20, times=2.0),
        "watch, 20 stores err three times as much": watch_often(actual, error, n_fallen=20, times=3.0),
        "watch, 20 stores three times and all of them 1.5 times": watch_often(actual, error, n_fallen=20, times=3.0, common=1.5),
    }
    told["cpu_s"] = round(time.process_time() - begun, 1)
    for what, figures in told.items():
        print(f"{what}: {figures}")
    print(json.dumps(told))
    return 0


def read_stores(folder: Path) -> tuple[Array, list[str]]:
    """What each store sold on each day, n_stores x n_days, and its city."""
    rows = duckdb.sql(
        f"select store_id, dt, sum(hourly_sale)::double as sale from '{folder / 'sales_hourly.parquet'}' group by all order by store_id, dt"
    ).fetchnumpy()
    stores, i = np.unique(rows["store_id"], return_inverse=True)
    days, j = np.unique(rows["dt"], return_inverse=True)
    sold = np.full((stores.size, days.size), np.nan)
    sold[i, j] = rows["sale"]
    city = dict(duckdb.sql(f"select store_id, city_id from '{folder / 'stores.parquet'}'").fetchall())
    return np.nan_to_num(sold), [str(city[int(store)]) for store in stores]


def forecast_by_weekday(actual: Array) -> Array:
    """The mean of the same weekday over the four weeks before, for every day from the fifth week on."""
    first = 7 * WEEKS
    return np.mean([actual[:, first - 7 * week : actual.shape[1] - 7 * week] for week in range(1, WEEKS + 1)], axis=0)


def days_of(actual: Array, error: Array, promised: Array | None = None) -> MemberDays:
    names = tuple(map(str, range(len(actual))))
    days = np.datetime64("2024-04-25") + np.arange(actual.shape[1])
    there, size = np.ones_like(actual), np.abs(error)
    return MemberDays(names, days, there, actual, size, error**2, error, np.zeros_like(actual) if promised is None else promised)


def compare_often(actual: Array, error: Array, cities: list[str], *, effect: float) -> dict[str, float]:
    n_before = actual.shape[1] - PLAN
    before = days_of(actual[:, :n_before], error[:, :n_before])
    names = before.members
    any_look, last_look, found = 0, 0, None
    for seed in range(N_DRAWS):
        groups = draw_groups(names, figures={"size": actual[:, :n_before].mean(axis=1).tolist()}, facts={"city": cities}, share=0.5, seed=seed)
        chosen = set(groups.b)
        in_b = np.array([name in chosen for name in names])
        changed = error[:, n_before:] * np.where(in_b, 1 + effect, 1.0)[:, None]
        live = days_of(actual[:, n_before:], changed)
        looks = [
            compare_groups(live.between(live.days[0], live.days[day - 1]), before, in_b=in_b, metric="wape", smallest=0.03, n_planned=PLAN)
            for day in range(7, PLAN + 1)
        ]
        any_look += any(look.better for look in looks)
        found = looks[-1]
        last_look += found.better == ("b" if effect < 0 else found.better) and bool(found.better)
    assert found is not None
    return {
        "share of draws, any look": any_look / N_DRAWS,
        "share of draws, last look": last_look / N_DRAWS,
        "variance left by the time before": round(found.variance_left or 0.0, 2),
    }


def watch_often(actual: Array, error: Array, *, n_fallen: int, times: float, common: float = 1.0) -> dict[str, Any]:
    wrong, n_named, found, shifts = [], [], [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        order = rng.permutation(actual.shape[1])
        lived, past = np.sort(order[:14]), np.sort(order[14:])
        promise = np.abs(error[:, past]).sum(axis=1) / np.maximum(actual[:, past].sum(axis=1), 1e-9)
        fallen = np.zeros(len(actual), np.bool_)
        fallen[rng.choice(len(actual), n_fallen, replace=False)] = True
        changed = error[:, lived] * np.where(fallen, times, 1.0)[:, None] * common
        live = days_of(actual[:, lived], changed, promise[:, None] * actual[:, lived])
        falls = find_falls(live, validated=np.full(len(actual), float(past.size)), factor=1.3, rate=0.05, least_days=5)
        named = int(falls.fell.sum())
        n_named.append(named)
        wrong.append((falls.fell & ~fallen).sum() / max(1, named))
        found.append(falls.fell[fallen].mean() if n_fallen else 0.0)
        shifts.append(falls.common)
    told = {"named": float(np.mean(n_named)), "named wrongly": round(float(np.mean(wrong)), 3), "common": round(float(np.mean(shifts)), 2)}
    return told | ({"found": round(float(np.mean(found)), 2)} if n_fallen else {})


if __name__ == "__main__":
    raise SystemExit(main())
