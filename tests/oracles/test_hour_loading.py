"""``load_hours`` and ``read_shard`` against a slow, obvious twin: what was known at the hour, row by row, in plain Python; and rows that come
file by file against all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import FileIdentity
from endcap.loop.data.sources import Source, open_source
from endcap.loop.features.panels import hour_loading
from endcap.loop.features.panels.hour_loading import LoadedHours, load_hours
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.features.panels.hour_store import HourState, read_shard
from endcap.storage.opening import open_ports

FIRST = date(2026, 3, 27)  # clocks change in Berlin on 29 March, and in New York on 8 March
NOW = datetime(2026, 4, 20, 12, tzinfo=UTC)
SLOW = settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
TYPES = {
    "store": pa.string(),
    "item": pa.int32(),
    "ts": pa.timestamp("us"),
    "x": pa.float64(),
    "out": pa.float64(),
    "known": pa.timestamp("us", tz="UTC"),
}
Row = dict[str, Any]


@dataclass
class Desk:
    """Loads tables of rows as a user's files are loaded, file by file."""

    home: Path
    engine: duckdb.DuckDBPyConnection
    ports: Any = field(default_factory=lambda: open_ports("memory://"))
    numbers: Iterator[int] = field(default_factory=count)

    def write(self, rows: Sequence[Row]) -> Path:
        path = self.home / f"{next(self.numbers):06d}.parquet"
        columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in TYPES.items()}
        pq.write_table(pa.table(columns), path)
        return path

    def open(self, forecast: Forecast, paths: Sequence[Path], zone: str) -> Source:
        folder = self.home / f"set-{next(self.numbers):06d}"
        folder.mkdir()
        for path in paths:
            (folder / path.name).hardlink_to(path)
        table = forecast.table
        found = Table("sales", str(folder), keys=table.keys, event_time="ts", known_at=table.known_at, known_after=table.known_after)
        return open_source(found, folder=folder, zone=zone, engine=self.engine, digests=identity)

    def load(
        self,
        forecast: Forecast,
        paths: Sequence[Path],
        *,
        fresh: Sequence[Path] = (),
        standing: HourState | None = None,
        zone: str = "UTC",
        now: datetime = NOW,
        memory_limit: int = 2**30,
    ) -> LoadedHours:
        return load_hours(
            forecast,
            sources={"sales": self.open(forecast, paths, zone)},
            fresh=self.open(forecast, fresh, zone) if fresh else None,
            standing=standing,
            changed=frozenset(["sales"]),
            engine=self.engine,
            blobs=self.ports.blobs,
            now=now,
            memory_limit=memory_limit,
        )

    def load_in_turn(self, forecast: Forecast, files: Sequence[Sequence[Row]], *, zone: str = "UTC", now: datetime = NOW) -> HourState:
        """Load the first file whose rows can be loaded, then add the others one by one."""
        paths = [self.write(rows) for rows in files]
        state = None
        for n, path in enumerate(paths):
            if state is None:
                try:
                    state = self.load(forecast, paths[: n + 1], zone=zone, now=now).state
                except InvalidInput as error:
                    assert "has no row with a key and a time" in str(error)  # noqa: PT017 - nothing of these files counts yet
            else:
                state = self.load(forecast, paths[: n + 1], fresh=[path], standing=state, zone=zone, now=now).state
        if state is None:
            raise InvalidInput("no file has a row with a key and a time")
        return state

    def panels(self, state: HourState, origin: int, *, horizon: int = 5, look_back_days: int | None = None) -> list[HourPanel]:
        read = [
            read_shard(self.ports.blobs, state, shard, origin=origin, horizon=horizon, calendar={}, look_back_days=look_back_days)
            for shard in state.shards
        ]
        assert all(panel.origin + 24 * (panel.start - state.start).days == origin for panel in read)
        return read

    def cells(self, state: HourState, origin: int) -> dict[tuple[str, ...], Cells]:
        return cells_of(self.panels(state, origin))


def cells_of(panels: Sequence[HourPanel]) -> dict[tuple[str, ...], Cells]:
    found: dict[tuple[str, ...], Cells] = {}
    for panel in panels:
        for i, key in enumerate(zip(*panel.keys.values(), strict=True)):
            assert key not in found
            found[key] = (panel.sold[i].tobytes(), None if panel.unseen is None else panel.unseen[i].tobytes())
    return found


Cells = tuple[bytes, bytes | None]


def identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, "0" * 64)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with open_engine(n_threads=1) as engine:
        yield Desk(tmp_path_factory.mktemp("hours"), engine)


@contextmanager
def cut_into(n_series: int) -> Iterator[None]:
    """Shards of so many series, or up to twice as many."""
    with patch.object(hour_loading, "_SERIES_AT_ONCE", n_series):
        yield


# ---- the twin


def hour_of(moment: datetime, start: date) -> int:
    return (moment - datetime.combine(start, time())) // timedelta(hours=1)


def keys_of(row: Row, forecast: Forecast) -> tuple[str, ...] | None:
    values = [row[name] for name in forecast.keys]
    return None if None in values else tuple(str(value) for value in values)


def rows_that_count(rows: Sequence[Row], forecast: Forecast, zone: str, now: datetime) -> list[Row]:
    local = now.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    timely = [row for row in rows if row["ts"] is not None and row["ts"] < local and keys_of(row, forecast) is not None]
    return timely if forecast.table.known_at is None else [row for row in timely if row["known"] is not None and row["known"] <= now]


def fold(how: str, values: list[float | None]) -> float:
    if how == "count":
        return float(sum(value is not None for value in values))
    finite = [value for value in values if value is not None and abs(value) < 1e38]  # a single float holds no more
    return {"sum": math.fsum, "min": min, "max": max}[how](finite) if finite else math.nan


def twin(rows: Sequence[Row], forecast: Forecast, origin: int, *, zone: str = "UTC", now: datetime = NOW) -> dict[tuple[str, ...], Cells]:
    """What ``read_shard`` must give for every series."""
    kept = rows_that_count(rows, forecast, zone, now)
    start = min(row["ts"] for row in kept).date()
    hidden = {"0h": 0, "90min": 2, "6h": 6}[forecast.table.known_after]
    at = datetime.combine(start, time()) + timedelta(hours=origin)
    found: dict[tuple[str, ...], Cells] = {}
    for key in {keys_of(row, forecast) for row in kept}:
        assert key is not None
        sold, unseen = [], []
        for tick in range(origin - hidden):
            own = [row for row in kept if keys_of(row, forecast) == key and hour_of(row["ts"], start) == tick]
            if forecast.table.known_at is not None:
                own = [row for row in own if row["known"].astimezone(ZoneInfo(zone)).replace(tzinfo=None) <= at]
                own = [row for row in own if row["known"] == max(r["known"] for r in own)]
            value = fold(forecast.target.fold, [1.0 if forecast.target.column == "*" else row["x"] for row in own]) if own else math.nan
            sold.append(math.nan if value < 0 else value)
            flags = [row["out"] for row in own if row["out"] is not None and math.isfinite(row["out"])]
            unseen.append(any(flag > forecast.censored_most for flag in flags))
        flagged = np.array(unseen, dtype=np.bool_).tobytes() if forecast.censored is not None else None
        found[key] = (np.array(sold, dtype=np.float32).tobytes(), flagged)
    return found


# ---- cases

VALUES = st.sampled_from([None, math.nan, math.inf, -math.inf, 1e300, -3.0, -1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 7.25, 40.0])
OUTS = st.sampled_from([None, math.nan, 0.0, 0.0, 0.25, 0.5, 1.0])


def make_forecast(how: str = "sum", *, known_at: bool = False, known_after: str = "0h", censored: bool = True, **options: Any) -> Forecast:
    table = Table("sales", "sales", keys=("store", "item"), event_time="ts", known_at="known" if known_at else None, known_after=known_after)
    column = "*" if how == "rows" else "x"
    target = Aggregate("count" if how == "rows" else how, column)
    chosen = {"every": "1h", "horizon": "5h", "censored": Aggregate("max", "out") if censored else None, "censored_most": 0.25, **options}
    return Forecast("hours", table, target, **chosen)


@st.composite
def rows_of(draw: st.DrawFn, *, least: int = 1, most: int = 24) -> list[Row]:
    moments = st.builds(
        lambda hour, minute: datetime.combine(FIRST, time()) + timedelta(hours=hour, minutes=minute),
        st.integers(0, 80) | st.integers(0, 6) | st.integers(46, 54),
        st.sampled_from([0, 0, 30, 59]),
    )
    delays = st.sampled_from(
        [timedelta(0), timedelta(hours=1), timedelta(hours=1, microseconds=1), timedelta(minutes=61), timedelta(hours=9, minutes=7)]
    )
    row = st.fixed_dictionaries(
        {
            "store": st.sampled_from(["a", "a", "b", "c", "", None]),
            "item": st.sampled_from([1, 1, 1, 2, None]),
            "ts": moments,
            "x": VALUES,
            "out": OUTS,
        }
    )
    rows = draw(st.lists(row, min_size=least, max_size=most))
    for one in draw(st.lists(st.sampled_from(rows), max_size=8)):
        rows.append({**one, "x": draw(VALUES), "out": draw(OUTS)})
    for one in rows:
        at = (
            one["ts"].replace(minute=0).replace(tzinfo=UTC)
            + draw(delays)
            + draw(st.sampled_from([timedelta(0), timedelta(hours=-2), timedelta(days=2)]))
        )
        one["known"] = draw(st.sampled_from([at, at, at, None]))
    return rows


FORECASTS = st.builds(
    make_forecast,
    st.sampled_from(["sum", "sum", "count", "min", "max", "rows"]),
    known_at=st.booleans(),
    known_after=st.sampled_from(["0h", "0h", "90min", "6h"]),
    censored=st.booleans(),
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])
NOWS = st.sampled_from([NOW, NOW, NOW, datetime(2026, 3, 29, 1, tzinfo=UTC)])


def counting(rows: Sequence[Row], forecast: Forecast, zone: str, now: datetime) -> bool:
    return bool(rows_that_count(rows, forecast, zone, now))


@SLOW
@given(rows=rows_of(), forecast=FORECASTS, zone=ZONES, now=NOWS, series_at_once=st.sampled_from([1, 2, 1000]), tight=st.booleans())
def test_a_state_holds_what_was_known_at_each_origin(
    desk: Desk, rows: list[Row], forecast: Forecast, zone: str, now: datetime, series_at_once: int, tight: bool
) -> None:
    path = desk.write(rows)
    if not counting(rows, forecast, zone, now):
        with pytest.raises(InvalidInput, match="has no row with a key and a time up to"):
            desk.load(forecast, [path], zone=zone, now=now)
        return
    with cut_into(series_at_once):
        loaded = desk.load(forecast, [path], zone=zone, now=now, memory_limit=20_000 if tight else 2**30)
    state = loaded.state
    kept = rows_that_count(rows, forecast, zone, now)
    assert state.start == min(row["ts"] for row in kept).date()
    assert state.n_ticks == hour_of(max(row["ts"] for row in kept), state.start) + 1
    for origin in {state.hidden + 1, state.hidden + 2, 25 + state.hidden, state.n_ticks // 2 + state.hidden + 1, state.n_ticks + state.hidden + 30}:
        assert desk.cells(state, origin) == twin(rows, forecast, origin, zone=zone, now=now)


@SLOW
@given(rows=rows_of(least=2), forecast=FORECASTS, zone=ZONES, now=NOWS, data=st.data(), series_at_once=st.sampled_from([1, 1000]))
def test_files_one_by_one_give_what_all_at_once_give(
    desk: Desk, rows: list[Row], forecast: Forecast, zone: str, now: datetime, data: st.DataObject, series_at_once: int
) -> None:
    n_files = data.draw(st.integers(1, 5))
    places = data.draw(st.lists(st.integers(0, n_files - 1), min_size=len(rows), max_size=len(rows)))
    if forecast.table.known_at is not None:  # an hour that is stated without a value counts as not stated, which only matters in another order
        rows = [row if row["x"] is not None and math.isfinite(row["x"]) and abs(row["x"]) < 1e9 else {**row, "x": 3.0} for row in rows]
    files = [[row for row, place in zip(rows, places, strict=True) if place == n] for n in range(n_files)]
    if not counting(rows, forecast, zone, now):
        return
    whole = desk.load(forecast, [desk.write(rows)], zone=zone, now=now).state
    with cut_into(series_at_once):
        state = desk.load_in_turn(forecast, files, zone=zone, now=now)
    assert (state.start, state.n_ticks, state.hidden, state.n_series) == (whole.start, whole.n_ticks, whole.hidden, whole.n_series)
    assert state.known_until == whole.known_until
    hidden, end = state.hidden, state.n_ticks + state.hidden
    for origin in sorted({hidden + 1, hidden + 7, 25 + hidden, end // 2 + hidden + 1, end, end + 30}):
        assert desk.cells(state, origin) == desk.cells(whole, origin)
        back = [panel.seen_at(origin) for panel in desk.panels(state, end + 30)]
        assert cells_of(back) == desk.cells(whole, origin)


@SLOW
@given(rows=rows_of(least=4), known_at=st.booleans(), days=st.integers(1, 3))
def test_a_few_days_back_are_the_end_of_all(desk: Desk, rows: list[Row], known_at: bool, days: int) -> None:
    forecast = make_forecast(known_at=known_at)
    if not counting(rows, forecast, "UTC", NOW):
        return
    state = desk.load(forecast, [desk.write(rows)]).state
    origin = state.n_ticks
    for short, whole in zip(desk.panels(state, origin, look_back_days=days), desk.panels(state, origin), strict=True):
        cut = whole.latest(days)
        assert (short.start, short.origin, short.n_seen) == (cut.start, cut.origin, cut.n_seen)
        assert cells_of([short]) == cells_of([cut])
        for back in range(1, short.n_seen + 1):
            assert cells_of([short.seen_at(back)]) == cells_of([cut.seen_at(back)])
