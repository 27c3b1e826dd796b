"""``load_panel`` and ``Panel.seen_at`` against a slow, obvious twin: what was known on the day, row by row, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_loading import LoadedPanel

FIRST = date(2026, 3, 20)  # clocks change in New York on 8 March, in Berlin on 29 March
NOW = datetime(2026, 4, 30, 12, tzinfo=UTC)
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
COLUMN_TYPES = {
    "store": pa.string(),
    "item": pa.int32(),
    "at": pa.timestamp("us", tz="UTC"),
    "wall": pa.timestamp("us"),
    "known": pa.timestamp("us", tz="UTC"),
    "x": pa.float64(),
    "y": pa.float64(),
}


@dataclass
class Rows:
    """A table and its rows, each a dict of store, item, at or wall, known, x, y."""

    table: Table
    rows: list[dict[str, Any]] = field(default_factory=list)

    def as_arrow(self) -> pa.Table:
        names = [n for n in COLUMN_TYPES if n in ("known", "x", "y", self.table.event_time) or n in self.table.keys]
        return pa.table({name: pa.array([row[name] for row in self.rows], COLUMN_TYPES[name]) for name in names})


def day_of(row: dict[str, Any], table: Table, zone: str) -> date:
    time_ = row[table.event_time or ""]
    return time_.date() if time_.tzinfo is None else time_.astimezone(ZoneInfo(table.zone or zone)).date()


def midnight(day: date, zone: str) -> datetime:
    return datetime.combine(day, time(), tzinfo=ZoneInfo(zone)).astimezone(UTC)


def rows_known(rows: Rows, at: datetime, forecast_keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the table said at an instant: of each row the newest statement (all of its kind, where some came at one instant)."""
    if rows.table.known_at is None:
        return rows.rows
    known = [row for row in rows.rows if row["known"] is not None and row["known"] <= at]
    names = rows.table.keys or tuple(k for k in forecast_keys if k in rows.as_arrow().column_names)

    def same(row: dict[str, Any]) -> tuple[Any, ...]:
        return (*(row[name] for name in names), row[rows.table.event_time or ""])

    return [row for row in known if not any(same(other) == same(row) and other["known"] > row["known"] for other in known)]


def fold(aggregate: Aggregate, rows: list[dict[str, Any]]) -> float:
    if not rows:
        return math.nan
    if aggregate.fold == "count":
        return float(len(rows) if aggregate.column == "*" else sum(row[aggregate.column] is not None for row in rows))
    values = [row[aggregate.column] for row in rows]
    values = [v for v in values if v is not None and math.isfinite(v)]
    if not values:
        return math.nan
    return {"sum": math.fsum, "mean": lambda v: math.fsum(v) / len(v), "min": min, "max": max}[aggregate.fold](values)


def cell(aggregate: Aggregate, tables: dict[str, Rows], forecast: Forecast, key: tuple[Any, ...], day: date, at: datetime, zone: str) -> float:
    assert aggregate.table is not None
    rows = tables[aggregate.table.name]
    has = dict(zip(forecast.keys, key, strict=True))
    names = [name for name in forecast.keys if name in rows.as_arrow().column_names]
    known = rows_known(rows, at, forecast.keys)
    return fold(aggregate, [r for r in known if day_of(r, rows.table, zone) == day and all(r[n] == has[n] for n in names)])


def hidden_days(forecast: Forecast) -> int:
    hours = [{"0h": 0, "6h": 6, "1d": 24, "36h": 36, "3d": 72}[a.table.known_after] for a in observed_columns(forecast) if a.table]
    return max(math.ceil(h / 24) for h in hours)


def observed_columns(forecast: Forecast) -> list[Aggregate]:
    return [forecast.target, *forecast.past.values(), *([forecast.censored] if forecast.censored else [])]


def check_against_twin(loaded: LoadedPanel, forecast: Forecast, tables: dict[str, Rows], origin: date, zone: str) -> None:
    panel, main = loaded.panel, tables[forecast.table.name]
    own_zone = main.table.zone or zone
    at = midnight(origin, own_zone)
    known = [row for row in main.rows if main.table.known_at is None or (row["known"] is not None and row["known"] <= at)]
    keys = sorted({tuple(row[k] for k in forecast.keys) for row in known if all(row[k] is not None for k in forecast.keys)})
    assert list(zip(*panel.keys.values(), strict=True)) == [tuple(str(part) for part in key) for key in keys]
    has_value = [row for row in known if forecast.target.column == "*" or row[forecast.target.column] is not None]
    start = min(day_of(row, main.table, zone) for row in has_value)
    hidden = hidden_days(forecast)
    assert (panel.start, panel.origin, panel.hidden) == (start, (origin - start).days, hidden)
    names = {"target": panel.observed, **panel.ahead, **panel.past, **({} if panel.censored is None else {"censored": panel.censored})}
    assert len(names) == 1 + len(forecast.known_ahead) + len(forecast.past) + (forecast.censored is not None)
    assert all(values.dtype == np.float32 for values in names.values())
    for o in range(hidden + 1, panel.origin + 1):  # the panel's own origin, and every earlier one it can look back to
        seen = panel.seen_at(o)
        then = midnight(start + timedelta(days=o), own_zone)

        def expect(aggregate: Aggregate, n_ticks: int, *, at: datetime = then) -> np.ndarray:
            rows = [[cell(aggregate, tables, forecast, key, start + timedelta(days=t), at, zone) for t in range(n_ticks)] for key in keys]
            return np.array(rows, dtype=np.float32).reshape(len(keys), n_ticks)

        target = expect(forecast.target, o - hidden)
        np.testing.assert_array_equal(seen.observed, np.where(target < 0, np.nan, target))
        for name, aggregate in forecast.known_ahead.items():
            np.testing.assert_array_equal(seen.ahead[name], expect(aggregate, o + forecast.lead_days + forecast.horizon_days))
        for name, aggregate in forecast.past.items():
            np.testing.assert_array_equal(seen.past[name], expect(aggregate, o - hidden))
        if forecast.censored is not None:
            assert seen.censored is not None
            np.testing.assert_array_equal(seen.censored, expect(forecast.censored, o - hidden))


VALUES = st.sampled_from([None, math.nan, math.inf, -math.inf, -3.0, 0.0, 0.5, 1.0, 2.0, 7.25, 40.0])
KNOWN_AFTER = st.sampled_from(["0h", "0h", "6h", "1d", "36h", "3d"])


@st.composite
def instants(draw: st.DrawFn, *, first: int = 0, last: int = 12) -> datetime:
    """Instants around the days' ends, and on them to the microsecond, in the zones that are drawn."""
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]))
    day = FIRST + timedelta(days=draw(st.integers(first, last)))
    shift = draw(st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(microseconds=-1), timedelta(hours=2), timedelta(hours=13)]))
    return midnight(day, zone) + shift


@st.composite
def tables_of(draw: st.DrawFn, name: str, *, keys: tuple[str, ...], last: int, least: int = 0) -> Rows:
    event_time = draw(st.sampled_from(["at", "wall"]))
    known_at = draw(st.sampled_from([None, "known"]))
    zone = draw(st.sampled_from([None, "America/New_York"]))
    table = Table(name, f"{name}.parquet", keys=keys, event_time=event_time, zone=zone, known_at=known_at, known_after=draw(KNOWN_AFTER))
    row = st.fixed_dictionaries(
        {
            "store": st.sampled_from(["a", "a", "b", "c/d", None]),
            "item": st.sampled_from([1, 1, 2, None]),
            "at": instants(last=last),
            "known": st.one_of(st.none(), instants(first=-2, last=14), instants(first=-2, last=14)),
            "x": VALUES,
            "y": VALUES,
        }
    )
    rows = draw(st.lists(row, min_size=least, max_size=16))
    for one in rows:
        one["wall"] = one["at"].replace(tzinfo=None)
    for one in draw(st.lists(st.sampled_from(rows), max_size=5)) if rows else []:  # what is said again later, or twice at once
        rows.append({**one, "x": draw(VALUES), "y": draw(VALUES), "known": draw(st.one_of(st.just(one["known"]), instants(first=-2, last=14)))})
    return Rows(table, rows)


def aggregates(table: Table) -> st.SearchStrategy[Aggregate]:
    folds = [Aggregate(f, c, table) for f in ("sum", "mean", "count", "min", "max") for c in ("x", "y")]
    return st.sampled_from([*folds, Aggregate("count", "*", table)])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Forecast, dict[str, Rows]]:
    keys = draw(st.sampled_from([("store",), ("item", "store")]))
    sales = draw(tables_of("sales", keys=keys, last=12, least=1))
    plan = draw(tables_of("plan", keys=draw(st.sampled_from([keys, ("store",), ()])), last=16))
    diary = draw(tables_of("diary", keys=("store",), last=12))
    either = st.one_of(aggregates(sales.table), aggregates(plan.table))
    forecast = Forecast(
        "units",
        sales.table,
        draw(aggregates(sales.table)),
        lead=draw(st.sampled_from(["0d", "2d"])),
        horizon=draw(st.sampled_from(["1d", "3d"])),
        known_ahead=draw(st.dictionaries(st.sampled_from(["promo", "price"]), either)),
        past=draw(st.dictionaries(st.sampled_from(["rain", "x"]), st.one_of(aggregates(diary.table), aggregates(sales.table)), max_size=1)),
        censored=draw(st.one_of(st.none(), aggregates(sales.table), aggregates(diary.table))),
    )
    return forecast, {"sales": sales, "plan": plan, "diary": diary}


@SLOW
@given(case=cases(), day=st.integers(1, 13), zone=st.sampled_from(["UTC", "Europe/Berlin"]))
def test_a_panel_holds_what_was_known_at_each_origin(
    load: Callable[..., LoadedPanel], case: tuple[Forecast, dict[str, Rows]], day: int, zone: str
) -> None:
    forecast, tables = case
    origin = FIRST + timedelta(days=day)
    try:
        loaded = load(forecast, {name: rows.as_arrow() for name, rows in tables.items()}, now=NOW, origin=origin, zone=zone)
    except InvalidInput as error:
        if not any(part in str(error) for part in ("has no row with a value", "is known yet", "was known yet", "null in its keys")):
            raise
        return  # nothing was known at that origin, and the message says so
    check_against_twin(loaded, forecast, tables, origin, zone)


def make_row(day: int, known: datetime, *, x: float, y: float = 0.0, store: str = "a") -> dict[str, Any]:
    return {"store": store, "wall": datetime.combine(FIRST + timedelta(days=day), time()), "known": known, "x": x, "y": y}


def test_the_twin_and_the_panel_follow_a_restatement_from_day_to_day(load: Callable[..., LoadedPanel]) -> None:
    sales = Table("sales", "sales.parquet", keys=("store",), event_time="wall", known_at="known")
    rows = [make_row(d, midnight(FIRST + timedelta(days=d + 1), "UTC"), x=float(d)) for d in range(6)]
    rows.append(make_row(2, midnight(FIRST + timedelta(days=4), "UTC") + timedelta(seconds=1), x=-9.0))
    rows.append(make_row(2, midnight(FIRST + timedelta(days=6), "UTC"), x=50.0))
    forecast = Forecast("units", sales, "x", horizon="1d")
    tables = {"sales": Rows(sales, rows)}
    loaded = load(forecast, {"sales": tables["sales"].as_arrow()}, now=NOW, origin=FIRST + timedelta(days=6))
    check_against_twin(loaded, forecast, tables, FIRST + timedelta(days=6), "UTC")
    third = [loaded.panel.seen_at(o).observed[0, 2] for o in (3, 4, 5, 6)]
    np.testing.assert_array_equal(third, np.array([2, 2, np.nan, 50], dtype=np.float32))  # a negative day is missing


def test_the_twin_notices_a_wrong_cell(load: Callable[..., LoadedPanel]) -> None:
    sales = Table("sales", "sales.parquet", keys=("store",), event_time="wall")
    rows = Rows(sales, [make_row(d, NOW, x=1.0) for d in range(3)])
    forecast = Forecast("units", sales, "x", horizon="1d")
    loaded = load(forecast, {"sales": rows.as_arrow()}, now=NOW, origin=FIRST + timedelta(days=3))
    rows.rows[1]["x"] = 2.0
    with pytest.raises(AssertionError, match="Mismatched elements: 1"):
        check_against_twin(loaded, forecast, {"sales": rows}, FIRST + timedelta(days=3), "UTC")
