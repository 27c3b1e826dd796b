"""Feature rows against a slow twin: for every key, every tick and every instant at which more became known, the rows are looked at one by one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions import aggregates as agg
from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.core.durations import parse_duration
from endcap.loop.data.engine import open_engine
from endcap.loop.features.rows.view_rows import open_view
from endcap.testing.sessions import make_session

if TYPE_CHECKING:
    import duckdb

    from endcap.governance.sessions import Session

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
CHANGES = {
    "Europe/Berlin": [date(2026, 3, 29), date(2026, 10, 25)],
    "Asia/Shanghai": [date(2026, 3, 29)],
    "America/St_Johns": [date(2026, 3, 8), date(2026, 11, 1)],
}


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path, Iterator[int]]:
    return make_session(), tmp_path_factory.mktemp("views"), count()


# --- the twin


@dataclass(frozen=True)
class Row:
    key: tuple[Any, ...]
    at: datetime
    known: datetime
    order: int
    values: dict[str, Any]


def instant_of(wall: datetime, zone: str) -> datetime:
    """A repeated wall time is the later of both instants, a skipped one counts from the clock that was not changed yet."""
    first = wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    there = first.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == wall
    return wall.replace(tzinfo=ZoneInfo(zone), fold=1).astimezone(UTC) if there else first


@lru_cache
def find_ticks(every: str, zone: str, start: date, n_days: int) -> tuple[datetime, ...]:
    """Minute by minute: which multiples of ``every`` do the clocks reach or leap over?"""
    step = parse_duration(every)
    if step >= DAY:
        days = [start + DAY * i for i in range(n_days) if step == DAY or (start + DAY * i).weekday() == 0]
        return tuple(datetime(d.year, d.month, d.day, tzinfo=ZoneInfo(zone)).astimezone(UTC) for d in days)
    found, furthest = [], None
    at = datetime(start.year, start.month, start.day, tzinfo=UTC)
    before = (at - MINUTE).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    for _ in range(n_days * 1440):
        wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        midnight = wall.replace(hour=0, minute=0)
        multiple = midnight + (wall - midnight) // step * step  # the last that the clocks have reached or leapt over
        reached = multiple > before if wall > before else multiple == wall
        if reached and (step <= HOUR or furthest is None or multiple > furthest):
            found.append(at)
        furthest = wall if furthest is None else max(furthest, wall)
        before, at = wall, at + MINUTE
    return tuple(found)


def present(rows: Sequence[Row], feature: Aggregate) -> list[Row]:
    met = [row for row in rows if feature.where is None or row.values["web"]]
    if feature.column == "*":
        return met
    return [row for row in met if (value := row.values[feature.column]) is not None and value == value]  # noqa: PLR0124 - NaN


def fold(feature: Aggregate, tick: int, placed: Sequence[tuple[int, Row]], view: FeatureView, zone: str, ticks: Sequence[datetime]) -> Any:
    """The value at a tick of rows, each with the tick of its interval."""
    if feature.fold == "ratio":
        a, b = (fold(part, tick, placed, view, zone, ticks) for part in feature.parts)
        return None if a is None or not b else a / b
    assert feature.window is not None
    assert view.every is not None
    n = parse_duration(feature.window) // parse_duration(view.every)
    low, high = (tick - n, tick - n) if feature.fold == "lag" else (tick - n + 1, tick)
    chosen = []
    for own, row in placed:
        if not low <= own <= high:
            continue
        begun, here = ticks[own - 1].astimezone(ZoneInfo(zone)), ticks[tick].astimezone(ZoneInfo(zone))
        if feature.same == "weekday" and begun.weekday() != here.weekday():
            continue
        if feature.same == "hour" and begun.hour != here.hour:
            continue
        chosen.append(row)
    rows = present(chosen, feature)
    if feature.fold == "time_since":
        return (ticks[tick] - max(row.at for row in rows)) / timedelta(seconds=1) if rows else None
    if feature.fold == "count":
        return len(rows)
    values = [row.values[feature.column] for row in rows]
    if feature.fold == "distinct":
        return len(set(values))
    if not values or (feature.fold == "std" and len(values) < 2):
        return None
    if feature.fold in ("sum", "lag"):
        return sum(values) if isinstance(values[0], int) else math.fsum(values)
    newest = max(rows, key=lambda row: (row.at, row.known, row.order))
    return {
        "mean": lambda: math.fsum(values) / len(values),
        "min": lambda: min(values),
        "max": lambda: max(values),
        "last": lambda: newest.values[feature.column],
        "std": lambda: stdev(values),
    }[feature.fold]()


def expect_rows(view: FeatureView, rows: Sequence[Row], zone: str, ticks: Sequence[datetime]) -> list[tuple[Any, ...]]:
    assert view.every
    every, known_after = parse_duration(view.every), parse_duration(view.known_after)
    spans = []
    for feature in view.features.values():
        for part in feature.parts or (feature,):
            assert part.window
            n = parse_duration(part.window) // every
            spans.append(n + 1 if part.fold == "lag" else n)
    reach = max(spans)
    found = []
    by_key = defaultdict(list)
    for row in rows:
        own = next(i for i, at in enumerate(ticks) if at >= row.at)
        by_key[row.key].append((own, row))
    for key, placed in by_key.items():
        for tick, at in enumerate(ticks):
            near = [(own, row) for own, row in placed if tick - reach <= own <= tick]  # the window, and that of the tick before
            due = at + known_after
            for known in sorted({due, *(row.known for _, row in near if row.known > due)}):
                seen = [(own, row) for own, row in near if row.known <= known]
                if seen:
                    values = [fold(feature, tick, seen, view, zone, ticks) for feature in view.features.values()]
                    found.append((*key, at.replace(tzinfo=None), known.replace(tzinfo=None), *values))
    return found


def same(a: Any, b: Any, *, scale: float) -> bool:
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-14 * scale)
    return type(a) is type(b) and a == b


def require_same(got: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]], *, n_keys: int, names: Sequence[str], scale: float) -> None:
    def place(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(str, row[:n_keys])), row[n_keys], row[n_keys + 1]

    got, wanted = sorted(got, key=place), sorted(wanted, key=place)
    assert [place(row) for row in got] == [place(row) for row in wanted]
    for a, b in zip(got, wanted, strict=True):
        for name, x, y in zip(names, a[n_keys + 2 :], b[n_keys + 2 :], strict=True):
            assert same(x, y, scale=scale), (a[: n_keys + 2], name, x, y)


# --- tables and views


values = st.one_of(st.none(), st.sampled_from([math.nan, 0.0, -0.5, 1.5, 1e9 - 1, 1e9, 1e9 + 1]), st.integers(-20, 20).map(lambda i: i / 4))
lateness = st.sampled_from([0, 0, 0, 30, 60 * 5, 60 * 24, 60 * 36, 60 * 24 * 3])


@st.composite
def tables(draw: st.DrawFn, every: str) -> tuple[str, list[dict[str, Any]]]:
    zone = draw(st.sampled_from(sorted(CHANGES)))
    change = datetime.combine(draw(st.sampled_from(CHANGES[zone])), time())
    step, span = {"1d": (30, 14 * 48), "7d": (360, 60 * 4), "1h": (15, 4 * 24), "15min": (5, 6 * 12), "6h": (30, 4 * 48)}[every]
    rows = []
    for _ in range(draw(st.integers(0, 14))):
        at = change + (draw(st.integers(-span // 2, span // 2))) * MINUTE * step + timedelta(microseconds=draw(st.sampled_from([0, 0, 0, 1, -1])))
        rows.append(
            {
                "store": draw(st.sampled_from([1, 1, 1, 2, None])),
                "item": draw(st.sampled_from(["a", "a", "b"])),
                "at": at,
                "late": draw(lateness) * MINUTE,
                "price": draw(values),
                "n": draw(st.one_of(st.none(), st.integers(-5, 5))),
                "channel": draw(st.sampled_from(["web", "shop", None])),
                "web": draw(st.booleans()),
            }
        )
    return zone, rows


FOLDS = ("sum", "mean", "count", "min", "max", "last", "distinct", "std")


@st.composite
def features(draw: st.DrawFn, every: str) -> dict[str, Aggregate]:
    tick = parse_duration(every)
    lengths = st.integers(1, 9).map(lambda n: f"{int(n * tick.total_seconds())}s")
    sames: dict[str, list[Any]] = {"1d": [None, None, "weekday"], "1h": [None, None, "hour"], "15min": [None, "hour"]}
    found: dict[str, Aggregate] = {}
    for i in range(draw(st.integers(1, 6))):
        where = draw(st.sampled_from([None, None, "web"]))
        kind = draw(st.sampled_from([*FOLDS, "lag", "time_since", "ratio"]))
        if kind == "lag":
            found[f"f{i}"] = agg.lag(draw(st.sampled_from(["price", "n"])), draw(lengths), where=where)
        elif kind == "time_since":
            found[f"f{i}"] = agg.time_since(draw(lengths), where=where)
        elif kind == "ratio":
            found[f"f{i}"] = agg.ratio(agg.sum("n", draw(lengths), where=where), agg.count("*", draw(lengths)))
        else:
            numeric = kind in ("sum", "mean", "std")
            column = draw(st.sampled_from(["price", "n"] if numeric else ["price", "n", "channel"]))
            length = draw(lengths)
            same_ = draw(st.sampled_from(sames.get(every, [None])))
            if same_ == "weekday":
                length = draw(st.sampled_from(["7d", "14d", "10d"]))
            elif same_ == "hour":
                length = draw(st.sampled_from(["24h", "30h"]))
            found[f"f{i}"] = Aggregate(kind, column, None, length, same_, where)
    return found


TYPES = {"store": pa.int64(), "item": pa.string(), "price": pa.float64(), "n": pa.int32(), "channel": pa.string(), "web": pa.bool_()}


def write(rows: list[dict[str, Any]], path: Path, *, zone: str, instants: bool) -> list[Row]:
    """Rows in a file, and the same as the twin wants them. ``instants``: event times with offsets, otherwise wall times."""
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows], type=type_) for name, type_ in TYPES.items()}
    ats = [row["at"].replace(tzinfo=UTC) if instants else instant_of(row["at"], zone) for row in rows]
    columns["at"] = pa.array([row["at"] for row in rows], type=pa.timestamp("us", tz="UTC" if instants else None))
    seen = [at + row["late"] for at, row in zip(ats, rows, strict=True)]
    columns["seen"] = pa.array(seen, type=pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(columns), path)
    return [
        Row((row["store"], row["item"]), at, known, i, row)
        for i, (row, at, known) in enumerate(zip(rows, ats, seen, strict=True))
        if row["store"] is not None
    ]


@pytest.mark.parametrize("every", ["1d", "1h", "15min", "6h", "7d"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_windows_are_those_of_a_walk_over_all_rows_and_ticks(
    every: str, data: st.DataObject, engine: duckdb.DuckDBPyConnection, home: tuple[Session, Path, Iterator[int]]
) -> None:
    session, folder, numbers = home
    zone, rows = data.draw(tables(every))
    dated, instants, hidden = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.sampled_from(["0h", "6h"]))
    name = f"t{next(numbers)}"
    twins = write(rows, folder / f"{name}.parquet", zone=zone, instants=instants)
    if not dated:
        twins = [Row(row.key, row.at, row.at, row.order, row.values) for row in twins]
    table = Table(
        name, f"{name}.parquet", keys=("store",), event_time="at", zone=zone, known_at="seen" if dated else None, contract=Contract(future=True)
    )
    view = FeatureView(name="v", source=table, keys=("store", "item"), every=every, known_after=hidden, features=data.draw(features(every)))
    opened = open_view(session, view, folder=folder, engine=engine)
    got = engine.execute(f"SELECT * EXCLUDE (__order) FROM ({opened.sql})").fetchall()
    start = min((row.at for row in twins), default=datetime(2026, 1, 1, tzinfo=UTC)).date() - DAY * (9 if every == "7d" else 3)
    n_days = 200 if every == "7d" else 50 if every == "1d" else 20
    wanted = expect_rows(view, twins, zone, find_ticks(every, zone, start, n_days))
    scale = max((abs(row.values["price"]) for row in twins if row.values["price"] is not None and not math.isnan(row.values["price"])), default=1.0)
    require_same(got, wanted, n_keys=2, names=list(view.features), scale=max(scale, 1.0) * 20)

    first, last = sorted(data.draw(st.tuples(*[st.sampled_from([row[2] for row in got] or [datetime.min])] * 2)))  # noqa: DTZ901 - plain, as rows are
    engine.execute("CREATE OR REPLACE TEMP TABLE wanted_keys AS SELECT 1 AS store, 'a' AS item UNION ALL SELECT 7, 'a'")
    part = open_view(session, view, folder=folder, engine=engine, ingests=opened.ingests, keys="wanted_keys", span=(first, last))
    got = engine.execute(f"SELECT * EXCLUDE (__order) FROM ({part.sql})").fetchall()
    wanted = [row for row in wanted if row[:2] == (1, "a") and first <= row[2] <= last]
    require_same(got, wanted, n_keys=2, names=list(view.features), scale=max(scale, 1.0) * 20)
