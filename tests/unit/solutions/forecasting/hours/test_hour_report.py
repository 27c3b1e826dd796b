from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.assembly import open_house
from endcap.core.clock import CountingIds, ManualClock
from endcap.core.definitions.aggregates import max as most
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import Quality
from endcap.governance.sessions import Session
from endcap.loop.deployment.records import Batch
from endcap.loop.retraining.cycle import turn
from endcap.loop.retraining.tasks import DataRef
from endcap.solutions.forecasting.hours.task import HourForecastTask

HOSTILE = "<script>alert('$x')</script>"
STORES = ("S1", "S2", HOSTILE)
FIRST, TODAY = date(2025, 12, 26), date(2026, 2, 9)
ZONE = "Europe/Berlin"


@dataclass(frozen=True)
class Shop:
    """A home in which an hourly model was trained at midnight and answered again eight hours later."""

    session: Session
    task: HourForecastTask
    data: DataRef
    batch: Batch


def write_hours(folder: Path, first: datetime, last: datetime, *, factor: float = 1.0) -> None:
    """A file of sales from ``first`` to before ``last``: four items a store, open from 8 to 20, the second half of an item's evening sold out."""
    n = int((last - first) / timedelta(hours=1))
    at = [first + timedelta(hours=i) for i in range(n)]
    hour, day = np.array([t.hour for t in at]), np.array([t.weekday() for t in at])
    rng = np.random.default_rng(int(first.timestamp()) // 3600)
    columns: dict[str, list[object]] = {"store": [], "item": [], "at": [], "units": [], "out": []}
    for s, store in enumerate(STORES):
        for i in range(4):
            usual = factor * (s + 1) * 0.3 * (4 - i) * (1 + 0.6 * (day >= 5)) * np.where((hour >= 8) & (hour < 20), 1 + (hour >= 16), 0.0)
            out = (hour >= 18) & (i == 1) & (rng.random(n) < 0.3)
            units = np.where(out, 0, rng.poisson(usual))
            columns["store"] += [store] * n
            columns["item"] += [f"I{i}"] * n
            columns["at"] += at
            columns["units"] += units.tolist()
            columns["out"] += out.astype(float).tolist()
    times = pa.array(columns.pop("at"), pa.timestamp("us"))
    (folder / "sales").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**columns, "at": times}), folder / "sales" / f"{first:%Y%m%dT%H}.parquet")


def define(**changes: object) -> Forecast:
    sales = Table("sales", "sales/*.parquet", keys=("store", "item"), event_time="at", zone=ZONE)
    stores = Table("stores", "stores.parquet", keys=("store",))
    given: dict[str, object] = {
        "keys": ("store", "item"),
        "members": ("store",),
        "every": "1h",
        "horizon": "48h",
        "censored": most("out"),
        "static": stores,
        "slices": ("region",),
        "candidates": ("shrunk_rates",),
        "gate": Gate(metric="rmse", bias=0.4, better_than=()),
        "watch": (Quality("rmse", factor=1.3, least_rows=5),),
        "backtest_origins": 3,
    }
    return Forecast("item-hour", sales, "units", **{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("hours")
    midnight = datetime.combine(TODAY, datetime.min.time())
    pq.write_table(pa.table({"store": list(STORES), "region": ["north", "north", "south"]}), folder / "stores.parquet")
    write_hours(folder, datetime.combine(FIRST, datetime.min.time()), midnight)
    clock = ManualClock(midnight.replace(tzinfo=UTC) - timedelta(hours=1) + timedelta(minutes=5))
    with open_house("memory://", clock=clock, new_id=CountingIds(), zone=ZONE) as house:
        session, task = house.session(actor="ada"), HourForecastTask(define())
        turn(session, task, folder=folder)
        write_hours(folder, midnight, midnight + timedelta(hours=14), factor=3.0)
        clock.advance(timedelta(hours=14))
        done = turn(session, task, folder=folder)
        assert done.batch is not None, "the gate lets the chosen method pass"
        yield Shop(session, task, done.data, done.batch)
