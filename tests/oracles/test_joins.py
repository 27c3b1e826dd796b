"""The point-in-time join beside its slow twin: for each row of the spine, a look at every feature row there is."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.loop.data.engine import open_engine
from endcap.loop.features.joins import MISSING, RowTimes, choose_rows
from endcap.loop.features.rows.view_rows import FeatureRows
from endcap.loop.features.spines import Spine, fit_keys, open_spine, read_instants
from endcap.loop.features.view_joins import ask, choose_features, fetch_features
from endcap.testing.sessions import make_session

START = datetime(2026, 1, 5)  # noqa: DTZ001 - plain UTC, as instants of feature rows are
MINUTE = timedelta(minutes=1)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
Row = dict[str, Any]

# Of each type: its name here and in DuckDB, Arrow's type in the view, Arrow's types that a spine may have, and some values.
KINDS: dict[str, tuple[str, str, pa.DataType, list[pa.DataType], list[Any]]] = {
    "text": ("text", "VARCHAR", pa.string(), [pa.string(), pa.large_string(), pa.string_view()], ["a", "b", "", "a'b\n", "x" * 40]),
    "int32": ("integer", "INTEGER", pa.int32(), [pa.int8(), pa.int64(), pa.uint8(), pa.uint64()], [0, 1, 7, 100, 101]),
    "uint8": ("integer", "UTINYINT", pa.uint8(), [pa.int64(), pa.uint8(), pa.int16()], [0, 1, 7, 100, 101]),
    "int64": ("integer", "BIGINT", pa.int64(), [pa.int64(), pa.int8()], [-3, -1, 0, 1, 100]),
    "uuid": ("uuid", "UUID", pa.string(), [pa.string(), pa.uuid()], [str(uuid.UUID(int=i << 100)) for i in range(5)]),
    "date": ("date", "DATE", pa.date32(), [pa.date32(), pa.date64()], [date(1969, 12, 31) + timedelta(days=i) for i in range(5)]),
    "bool": ("bool", "BOOLEAN", pa.bool_(), [pa.bool_()], [True, False]),
}
FEATURES = st.one_of(st.none(), st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0]), st.floats(-5, 5))


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


def newest(rows: Sequence[Row], keys: Sequence[str], asked: Row, *, max_age: timedelta | None) -> Row | None:
    """The twin. Rows are in the order of ingest."""
    at = asked["at"]
    if at is None or any(asked[key] is None for key in keys):
        return None
    own = [(row["event"], row["known"], n) for n, row in enumerate(rows) if all(row[key] == asked[key] for key in keys)]
    seen = [found for found in own if found[0] <= at and found[1] <= at]
    if not seen or (max_age is not None and max(seen)[0] < at - max_age):
        return None
    return rows[max(seen)[2]]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, pa.DataType], list[Row], list[Row]]:
    """Key columns by kind, the types of the spine's, feature rows in the order of ingest, and spine rows."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    keys = {f"k{i}": kind for i, kind in enumerate(kinds)}
    types = {key: draw(st.sampled_from(KINDS[kind][3])) for key, kind in keys.items()}
    n_values = draw(st.integers(1, 5))
    minutes = st.integers(-3, 12)

    def key_values() -> dict[str, st.SearchStrategy[Any]]:
        return {key: st.sampled_from(KINDS[kind][4][:n_values]) for key, kind in keys.items()}

    late = st.sampled_from([0, 0, 0, 1, 4, 9])
    row = st.fixed_dictionaries({**key_values(), "event": minutes, "late": late, "x": FEATURES, "s": st.sampled_from(["p", "q", None])})
    ask_row = st.fixed_dictionaries(
        {**{key: st.one_of(st.none(), values) for key, values in key_values().items()}, "at": st.one_of(st.none(), minutes)}
    )
    rows = draw(st.lists(row, max_size=40))
    spine = draw(st.lists(ask_row, max_size=25))
    for found in rows:
        found["event"] = START + found["event"] * MINUTE
        found["known"] = found["event"] + found.pop("late") * MINUTE
    for found in spine:
        found["at"] = None if found["at"] is None else START + found["at"] * MINUTE
    return keys, types, rows, spine


def as_column(values: list[Any], type_: pa.DataType) -> pa.Array:
    if type_ == pa.uuid():
        return pa.array([None if value is None else uuid.UUID(value).bytes for value in values], pa.uuid())
    return pa.array(values, type_)


def open_rows(rows: list[Row], keys: dict[str, str], engine: duckdb.DuckDBPyConnection) -> FeatureRows:
    columns = {key: pa.array([row[key] for row in rows], KINDS[kind][2]) for key, kind in keys.items()}
    columns |= {name: pa.array([row[name] for row in rows], pa.timestamp("us")) for name in ("event", "known")}
    columns |= {"x": pa.array([row["x"] for row in rows], pa.float64()), "s": pa.array([row["s"] for row in rows], pa.string())}
    columns["n"] = pa.array(range(len(rows)), pa.int64())
    given = pa.table(columns)
    engine.register("given", given)
    casts = ", ".join(f"CAST({key} AS {KINDS[kind][1]}) AS {key}" for key, kind in keys.items())
    columns_sql = f"{casts}, event AS __event_at, known AS __known_at, n AS __order, x, s"
    engine.execute(f"CREATE OR REPLACE TEMP TABLE kept AS SELECT {columns_sql} FROM given ORDER BY hash(n)")
    engine.unregister("given")
    stored = {key: KINDS[kind][1] for key, kind in keys.items()} | {"x": "DOUBLE", "s": "VARCHAR"}
    view = FeatureView(name="v", source=Table("t", "t.parquet", keys=list(keys)), features=["x", "s"])  # type: ignore[arg-type]  # lists are taken
    return FeatureRows(view, {key: KINDS[kind][0] for key, kind in keys.items()}, {"x": "number", "s": "text"}, stored, "FROM kept", {}, engine)


def open_asked(spine: list[Row], types: dict[str, pa.DataType], engine: duckdb.DuckDBPyConnection) -> Spine:
    columns = {key: as_column([row[key] for row in spine], type_) for key, type_ in types.items()}
    at = pa.array([None if row["at"] is None else row["at"].replace(tzinfo=UTC) for row in spine], pa.timestamp("us", "UTC"))
    table = pa.table({**columns, "at": at})
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])  # columns come in chunks
    return open_spine(make_session(), chunked, folder=None, engine=engine)  # type: ignore[arg-type]  # no path is relative


@QUICK
@given(scene=scenes(), max_age=st.sampled_from([None, "1min", "5min"]), block=st.sampled_from([1, 4, 1000]))
def test_the_join_is_its_twin(scene: Any, max_age: str | None, block: int, engine: duckdb.DuckDBPyConnection) -> None:
    keys, types, rows, asked_rows = scene
    found, spine = open_rows(rows, keys, engine), open_asked(asked_rows, types, engine)
    at, there = read_instants(spine, "at", zone=None, engine=engine)
    columns = fit_keys(spine, found.key_types, view="v", engine=engine)
    asked = ask(columns, at=at, there=there, stored=found.stored_types, name="__asked", engine=engine)
    chosen = choose_features(found, "FROM kept", asked, max_age=max_age)
    got: list[Row] = []
    for start in range(0, len(asked_rows), block):
        stop = min(start + block, len(asked_rows))
        fetched = fetch_features(found, "FROM kept", asked, chosen, start=start, stop=stop)
        for first in range(0, stop - start, 3):
            got += pa.table(fetched.take(first, min(first + 3, stop - start))).to_pylist()
    age = None if max_age is None else timedelta(minutes=int(max_age.removesuffix("min")))
    expected = [newest(rows, list(keys), row, max_age=age) or {"x": None, "s": None} for row in asked_rows]
    assert [(repr(row["x"]), row["s"]) for row in got] == [(repr(row["x"]), row["s"]) for row in expected]


ANY_TIME = st.integers(-2, 3)
TRIPLES = st.lists(st.tuples(st.integers(-1, 3), ANY_TIME, ANY_TIME, st.integers(0, 3)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(
    rows=TRIPLES,
    asked=st.lists(st.tuples(st.integers(-1, 3), ANY_TIME), max_size=30),
    max_age=st.sampled_from([None, 0, 2]),
    far=st.booleans(),
    n_at_once=st.sampled_from([1, 7, 1000]),
)
def test_the_kernel_is_its_twin(rows: list[Any], asked: list[Any], max_age: int | None, far: bool, n_at_once: int) -> None:
    """Known before it happened, alike in all, and times at the ends of what 64 bits hold: plus and minus infinity of the engine among them."""
    scale = (2**63 - 1) // 3 if far else 1
    taken = [(key, event * scale, known * scale, order) for key, event, known, order in rows if key >= 0]
    columns = [np.array([row[i] for row in taken], np.int32 if i == 0 else np.int64) for i in range(4)]
    keys, at = np.array([key for key, _ in asked], np.int32), np.array([time * scale for _, time in asked], np.int64)
    age = None if max_age is None else max_age if not far else 0
    batches = [RowTimes(*(column[i : i + n_at_once] for column in columns)) for i in range(0, len(taken), n_at_once)]
    places, found = choose_rows(keys, at, rows=iter(batches), n_keys=4, max_age_us=age)
    used = list(zip(*(column.tolist() for column in (found.keys, found.event_at, found.known_at, found.order)), strict=True))
    assert len(set(used)) == len(used)
    assert set(places.tolist()) - {MISSING} == set(range(len(used)))
    for place, (key, time) in zip(places.tolist(), asked, strict=True):
        seen = [row[1:] for row in taken if row[0] == key and max(row[1], row[2]) <= time * scale]
        expected = max(seen) if seen and key >= 0 else None
        if expected is not None and age is not None and expected[0] < time * scale - age:
            expected = None
        assert (None if place == MISSING else used[place]) == (None if expected is None else (key, *expected))


CHANGES = [datetime(2026, 3, 29, 2), datetime(2026, 10, 25, 2), datetime(2020, 11, 1), datetime(2018, 11, 4), datetime(2026, 4, 5, 1, 30)]  # noqa: DTZ001
WALL_TIMES = st.one_of(
    st.datetimes(datetime(1950, 1, 1), datetime(2037, 12, 31)),  # noqa: DTZ001 - wall times
    st.builds(lambda change, minutes: change + minutes * MINUTE, st.sampled_from(CHANGES), st.integers(-90, 90)),
)


@settings(max_examples=80, deadline=None)
@given(
    local=st.lists(WALL_TIMES, max_size=20),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Kolkata", "Australia/Lord_Howe"]),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_wall_times_are_the_instants_that_the_zone_database_gives(
    local: list[datetime], zone: str, unit: str, engine: duckdb.DuckDBPyConnection
) -> None:
    whole = [time.replace(microsecond=0) if unit == "s" else time.replace(microsecond=time.microsecond // 1000 * 1000) for time in local]
    table = pa.table({"at": pa.array(whole, pa.timestamp(unit))})
    got, there = read_instants(open_asked_table(table, engine), "at", zone=zone, engine=engine)
    assert there.all()
    assert [datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us) for us in got.tolist()] == [
        time.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for time in whole
    ]


def open_asked_table(table: pa.Table, engine: duckdb.DuckDBPyConnection) -> Spine:
    return open_spine(make_session(), table, folder=None, engine=engine)  # type: ignore[arg-type]  # no path is relative


@settings(max_examples=30, deadline=None)
@given(days=st.lists(st.dates(date(1960, 1, 1), date(2037, 1, 1)), max_size=10), zone=st.sampled_from(["Europe/Berlin", "America/Havana", "UTC"]))
def test_a_date_is_its_local_midnight(days: list[date], zone: str, engine: duckdb.DuckDBPyConnection) -> None:
    for type_ in (pa.date32(), pa.date64()):
        got, _ = read_instants(open_asked_table(pa.table({"at": pa.array(days, type_)}), engine), "at", zone=zone, engine=engine)
        expected = [datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp() * 1_000_000 for day in days]
        assert got.tolist() == [round(us) for us in expected]
