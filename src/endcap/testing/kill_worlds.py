"""The worlds of kill storms: a project, a home as it stands, and the morning on which a run is hurt.

``first``: an empty home; ingest, train, judge, release, forecast. ``changed``: weeks later with a new definition; outcomes are joined, the
watch reads, a second version takes over. ``hours-first`` and ``next-hour`` are the same of an hourly model over a folder of files, its series
in three shards: everything is read and a version released; then an hour's file has come with rows of the day before, the state
grows, what was forecast of that hour is scored, and all is forecast anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from endcap.project.definitions import FILE
from endcap.project.sample import SAMPLE, write_parquet, write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain

ZONE = "Europe/Berlin"
WORLDS = ("first", "changed", "hours-first", "next-hour")
_OPENED = date(2025, 1, 6)
_TODAY = _OPENED + timedelta(weeks=16)
_N_STORES, _N_ITEMS, _N_DAYS = 3, 4, 35
_HOURS_PROJECT = '''"""A few items by the hour."""

import endcap as ec

sales = ec.Table(
    "sales", "data/hours", keys=["store", "item"], event_time="ts", zone="Europe/Berlin", contract=ec.Contract(columns={"units": ec.Check(least=0)})
)
item_hour = ec.Forecast(
    "item-hour",
    sales,
    ec.sum("units"),
    every="1h",
    horizon="24h",
    likeness=["item"],
    candidates=["shrunk_rates"],
    backtest_origins=2,
    gate=ec.Gate(metric="rmse", better_than=[], bias=None, most={"rmse": 1e9}),
    watch=[ec.Quality("rmse", factor=9.0)],
)
'''


@dataclass(frozen=True)
class World:
    """A project's folder, a home as it stands before the run that is hurt, the moment of that run, and how the world goes on after it."""

    name: str
    model: str
    folder: Path
    base: Path
    now: datetime
    go_on: Callable[[], timedelta]


def lay_out(name: str, folder: Path, *, act: Callable[[World], None]) -> World:
    """Make a world's files and the home it begins with; ``act`` runs the model once in a world. Raises KeyError for a name that is none."""
    project, base = folder / "project", folder / "base"
    if name not in WORLDS:
        raise KeyError(name)
    base.mkdir()
    if name in ("first", "changed"):
        return _lay_out_days(name, project, base, act)
    return _lay_out_hours(name, project, base, act)


def _lay_out_days(name: str, project: Path, base: Path, act: Callable[[World], None]) -> World:
    chain = Chain(7, n_stores=3, opened=_OPENED)
    write_sample(project, seed=7, chain=chain, last=_TODAY)
    _define(project, "weekday_mean")

    def sell(start: date, n_days: int) -> timedelta:
        end = start + timedelta(days=n_days)
        write_sales(project, chain, start, end)
        write_plan(project, chain, end)
        return timedelta(days=n_days)

    world = World(name, "store-day", project, base, _morning(_TODAY), lambda: sell(_TODAY, 1))
    if name == "first":
        return world
    act(world)
    later = _TODAY + sell(_TODAY, 14)
    _define(project, "shrunk_rates")
    return World(name, "store-day", project, base, _morning(later), lambda: sell(later, 1))


def _lay_out_hours(name: str, project: Path, base: Path, act: Callable[[World], None]) -> World:
    from endcap.loop.features.panels import hour_loading

    hour_loading._SERIES_AT_ONCE = _N_ITEMS  # a shard for each store: in this process and in those forked from it
    n_hours = _N_DAYS * 24
    write_hours(project, 0, n_hours)
    (project / FILE).write_text(_HOURS_PROJECT, encoding="utf-8")
    world = World(name, "item-hour", project, base, _hour(n_hours), lambda: _come(project, n_hours, n=1))
    if name == "hours-first":
        return world
    act(world)
    _come(project, n_hours, n=1)
    return World(name, "item-hour", project, base, _hour(n_hours + 1), lambda: _come(project, n_hours + 1, n=1))


def write_hours(project: Path, start: int, end: int, *, again: int = 0) -> Path:
    """A file with the hours from ``start`` to ``end``, counted from the first; of the ``again`` hours before them one item sold one more."""
    import numpy as np
    import pyarrow as pa

    series = _N_STORES * _N_ITEMS
    hours = np.repeat(np.arange(start, end), series)
    place = np.tile(np.arange(series), end - start)
    units = np.random.default_rng(7 + start).poisson(0.5 + place % _N_ITEMS * (hours % 24 > 7) * (1 + (hours // 24 % 7 > 4)))
    late = np.arange(start - again, start)
    hours, place, units = (np.concatenate(parts) for parts in ((hours, late), (place, np.zeros(again, np.int64)), (units, np.ones(again, np.int64))))
    names = {"store": [f"S{i // _N_ITEMS + 1}" for i in place], "item": [f"I{i % _N_ITEMS + 1}" for i in place]}
    zero = np.datetime64(_OPENED, "us")
    return write_parquet(
        project / "data" / "hours" / f"{start:04d}.parquet", pa.table({**names, "ts": zero + hours * np.timedelta64(1, "h"), "units": units})
    )


def _come(project: Path, start: int, *, n: int) -> timedelta:
    """The next hours' file, with late rows of the day before. Returns how long it took."""
    write_hours(project, start, start + n, again=5)
    return timedelta(hours=n)


def _hour(n: int) -> datetime:
    return datetime.combine(_OPENED, datetime.min.time(), tzinfo=UTC) + timedelta(hours=n - 1, minutes=5)  # Berlin is an hour ahead in winter


def _morning(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), tzinfo=UTC) + timedelta(hours=6)


def _define(project: Path, candidate: str) -> None:
    """The sample's model with one quick candidate and a gate that three stores can pass."""
    text = SAMPLE.replace("gate=ec.Gate(bias=0.05)", 'gate=ec.Gate(better_than=[], bias=None, most={"wape": 0.9})')
    given = f'    candidates=["{candidate}"],\n    backtest_origins=4,\n)\n'
    (project / FILE).write_text(text.removesuffix(")\n") + given, encoding="utf-8")
