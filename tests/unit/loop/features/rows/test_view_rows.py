from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions import aggregates as agg
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import EndcapError, InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.data.verbs import ingest
from endcap.loop.features.records import PUSHED
from endcap.loop.features.rows.view_rows import FeatureRows, open_view
from endcap.testing.sessions import make_session

if TYPE_CHECKING:
    import duckdb

    from endcap.governance.sessions import Session


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.fixture
def session() -> Session:
    return make_session(start=datetime(2026, 12, 1, tzinfo=UTC))


def utc(*parts: int) -> datetime:
    return datetime(*parts)  # noqa: DTZ001 - plain and in UTC, as the columns are


def table(folder: Path, columns: dict[str, Any], **fields: Any) -> Table:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return Table("t", "t.parquet", **{"keys": ("k",), "event_time": "at", "zone": "Europe/Berlin", "contract": Contract(future=True), **fields})


def rows_of(opened: FeatureRows, what: str = "*") -> list[tuple[Any, ...]]:
    return opened.engine.execute(f"SELECT {what} FROM ({opened.sql}) ORDER BY ALL").fetchall()


# --- rows as they are


def test_rows_carry_their_instants(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    walls = [utc(2026, 3, 29, 1, 30), utc(2026, 3, 29, 2, 30), utc(2026, 3, 29, 3, 30), utc(2026, 10, 25, 1, 30), utc(2026, 10, 25, 2, 30), None]
    source = table(tmp_path, {"k": list(range(6)), "at": pa.array(walls, pa.timestamp("us")), "x": [1] * 6}, known_after="1h")
    opened = open_view(session, FeatureView(name="v", source=source, features=["x"]), folder=tmp_path, engine=engine)
    at = [utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 1, 30), utc(2026, 3, 29, 1, 30), utc(2026, 10, 24, 23, 30), utc(2026, 10, 25, 1, 30)]
    assert rows_of(opened) == [(i, instant, instant + timedelta(hours=1), i, 1) for i, instant in enumerate(at)]


def test_offsets_tell_the_repeated_hour_apart(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "t.csv").write_text("k,at,x\n1,2026-10-25T02:30:00+02:00,1\n2,2026-10-25T02:30:00+01:00,2\n3,2026-10-25T02:30:00,3\n")
    source = Table("t", "t.csv", keys=("k",), event_time="at", zone="Europe/Berlin")
    opened = open_view(session, FeatureView(name="v", source=source, features=["x"]), folder=tmp_path, engine=engine)
    assert rows_of(opened, "k, __event_at") == [(1, utc(2026, 10, 25, 0, 30)), (2, utc(2026, 10, 25, 1, 30)), (3, utc(2026, 10, 25, 1, 30))]


def test_a_row_is_known_when_its_table_says_and_not_before_its_view_does(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    at = utc(2026, 1, 5, 11)
    seen = pa.array([at, at + timedelta(hours=9), None], pa.timestamp("us", tz="UTC"))
    source = table(
        tmp_path,
        {"k": [1, 2, 3], "at": pa.array([at] * 3, pa.timestamp("us", tz="UTC")), "seen": seen, "x": [1] * 3},
        known_at="seen",
        known_after="3h",
    )

    def waits(known_after: str) -> list[float]:
        view = FeatureView(name="v", source=source, features=["x"], known_after=known_after)
        return [
            (known - at).total_seconds() / 3600 for _, known in rows_of(open_view(session, view, folder=tmp_path, engine=engine), "k, __known_at")
        ]

    assert waits("0h") == [0, 9, 3]
    assert waits("5h") == [5, 9, 5]


def test_facts_hold_for_ever(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    source = table(tmp_path, {"k": ["a", None], "city": ["Bonn", "Köln"]}, event_time=None)
    opened = open_view(session, FeatureView(name="v", source=source, features=["city"], known_after="1h"), folder=tmp_path, engine=engine)
    assert rows_of(opened) == [("a", utc(1, 1, 1), utc(1, 1, 1), 0, "Bonn")]


def test_types_are_plain(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    at = utc(2026, 1, 5)
    columns = {
        "k": pa.array([uuid.UUID(int=7).bytes], pa.uuid()),
        "at": [at],
        "seen": pa.array([at], pa.timestamp("us", tz="UTC")),
        "cents": pa.array([Decimal("1.25")], pa.decimal128(9, 2)),
        "big": pa.array([7], pa.uint64()),
        "small": pa.array([0.1], pa.float32()),
        "kind": pa.array(["a"]).dictionary_encode(),
        "day": [date(2026, 1, 1)],
        "yes": [True],
    }
    source = table(tmp_path, columns)
    names = ["seen", "cents", "big", "small", "kind", "day", "yes"]
    opened = open_view(session, FeatureView(name="v", source=source, features=names), folder=tmp_path, engine=engine)
    assert opened.key_types == {"k": "uuid"}
    assert list(opened.feature_types.values()) == ["timestamp", "number", "integer", "number", "text", "date", "bool"]
    assert [opened.stored_types[name] for name in names] == ["TIMESTAMP", "DOUBLE", "BIGINT", "FLOAT", "VARCHAR", "DATE", "BOOLEAN"]
    row = rows_of(opened)[0]
    assert row[0] == uuid.UUID(int=7)
    assert row[4:6] == (at, 1.25)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keys": ["shop"]}, "no column 'shop'"),
        ({"keys": ["x"], "features": ["name"]}, "the key 'x' of type double"),
        ({"features": ["xx"]}, "no column 'xx'.*did you mean 'x'"),
        ({"features": {"a": "x +"}}, "not an expression"),
        ({"features": {"a": "list"}}, r"of type bigint\[\]"),
        ({"features": {"a": "x, k"}}, "not an expression"),
        ({"features": {"a": "x) FROM (SELECT 1"}}, "not one expression|not an expression"),
        ({"features": {"a": "(SELECT max(content) FROM read_text('/etc/passwd'))"}}, "reads a table"),
        ({"features": {"a": "random()"}}, "random"),
        ({"where": "x"}, "no condition"),
        ({"where": "at < now()"}, "now"),
        ({"where": "y > 1"}, "y"),
        ({"features": {"a": agg.sum("name", "7d")}}, "only numbers are added up"),
        ({"features": {"a": agg.ratio(agg.last("name", "7d"), agg.count("*", "7d"))}}, "cannot be divided"),
        ({"features": {"a": agg.sum("x", "7d", where="name")}}, "no condition"),
        ({"features": {"a": agg.max("list", "7d")}}, r"of type bigint\[\]"),
    ],
)
def test_what_does_not_fit_is_said(fields: dict[str, Any], said: str, tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    source = table(tmp_path, {"k": [1], "at": [utc(2026, 1, 5, 3)], "x": [1.5], "name": ["a"], "list": [[1]]})
    with pytest.raises(EndcapError, match=said):
        open_view(session, FeatureView(**{"name": "v", "source": source, "features": ["x"], **fields}), folder=tmp_path, engine=engine)


def test_names_are_quoted_whatever_they_hold(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    hostile = """a"; DROP TABLE x; --'"""
    source = table(tmp_path, {hostile: [1], "at": [utc(2026, 1, 5, 3)], "select": [1.5]}, keys=(hostile,))
    rows = FeatureView(name="v", source=source, features={'b") --': "select"})
    assert rows_of(open_view(session, rows, folder=tmp_path, engine=engine))[0][-1] == 1.5
    windows = FeatureView(name="v", source=source, features={'b") --': agg.sum("select", "7d")})
    opened = open_view(session, windows, folder=tmp_path, engine=engine)
    assert rows_of(opened)[0][-1] == 1.5
    assert opened.key_types == {hostile: "integer"}


def test_the_home_itself_is_no_table(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    home = tmp_path / "home"
    kept = make_session(home, workspace="other", start=datetime(2026, 12, 1, tzinfo=UTC))
    kept.tables.write("features", partition={"workspace": "other", "view": "v"}, table=pa.table({"k": [1], "at": [utc(2026, 1, 5, 3)], "x": [7]}))
    kept.ports.close()
    (found,) = home.rglob("*.parquet")
    session = make_session(home, start=datetime(2026, 12, 1, tzinfo=UTC))
    views = [
        FeatureView(name="v", source=(source := Table("t", str(found), keys=("k",), event_time="at", zone="UTC")), features=["x"]),
        FeatureView(name="v", sql='SELECT k, "at", x FROM t', tables=(source,), keys=("k",), event_time="at"),
    ]
    for view in views:
        with pytest.raises(InvalidInput, match="files of the home itself"):
            open_view(session, view, folder=tmp_path, engine=engine)
    session.ports.close()


# --- the order of ingest


def test_files_of_an_earlier_ingest_come_first(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    source = Table("t", "t", keys=("k",), event_time="at", zone="UTC")
    for name, x in (("b", [1, 2]), ("a", [3, 4]), ("c", [5, 6])):
        pq.write_table(pa.table({"k": [1, 1], "at": [utc(2026, 1, 5, 3)] * 2, "x": x}), folder / f"{name}.parquet")
        if name != "a":  # a and c are let in together
            ingest(session, source, folder=tmp_path)
    view = FeatureView(name="v", source=source, features=["x"])
    opened = open_view(session, view, folder=tmp_path, engine=engine)
    assert [x for _, x in rows_of(opened, "__order, x")] == [1, 2, 3, 4, 5, 6]
    last = FeatureView(name="w", source=source, features={"x": agg.last("x", "1d")})
    assert rows_of(open_view(session, last, folder=tmp_path, engine=engine), "x")[0] == (6,)


def test_rows_of_a_csv_stand_in_its_order(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    n = 30_000
    (tmp_path / "t.csv").write_text("k,at,x\n" + "".join(f"1,2026-01-05T03:00:00,{i}\n" for i in range(n)))
    source = Table("t", "t.csv", keys=("k",), event_time="at", zone="UTC")
    opened = open_view(session, FeatureView(name="v", source=source, features=["x"]), folder=tmp_path, engine=engine)
    assert [x for _, x in rows_of(opened, "__order, x")] == list(range(n))


def test_the_order_costs_nothing_where_nobody_asks(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "t.csv").write_text("k,at,x\n1,2026-01-05T03:00:00,1\n")
    source = Table("t", "t.csv", keys=("k",), event_time="at", zone="UTC")
    opened = open_view(session, FeatureView(name="v", source=source, features=["x"]), folder=tmp_path, engine=engine)
    plans = [engine.execute(f"EXPLAIN SELECT {what} FROM ({opened.sql})").fetchall()[0][1].lower() for what in ("x", "x, __order")]
    assert ["window" in plan for plan in plans] == [False, True]


def test_a_column_by_the_engines_name_for_a_rows_number_is_refused(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    source = table(tmp_path, {"k": [1], "at": [utc(2026, 1, 5, 3)], "file_row_number": [7]})
    with pytest.raises(InvalidInput, match="file_row_number"):
        open_view(session, FeatureView(name="v", source=source, features=["file_row_number"]), folder=tmp_path, engine=engine)


def test_pushed_rows_come_last(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    at = utc(2026, 1, 5, 2)
    source = table(tmp_path, {"k": [1], "at": [utc(2026, 1, 5, 3)], "x": [1.0]})
    view = FeatureView(name="v", source=source, features=["x"], pushed=True)
    order = [1 << 62, (1 << 62) + 1]
    pushed = pa.table({"k": [1, 2], "__event_at": [at, at], "__known_at": [at, at], "__order": order, "x": [2.0, 3.0]})
    partition = {"workspace": session.workspace, "view": "v", "version": view.version, "batch": "b1"}
    assert len(rows_of(open_view(session, view, folder=tmp_path, engine=engine))) == 1
    session.tables.write(PUSHED, partition=partition, table=pushed)
    opened = open_view(session, view, folder=tmp_path, engine=engine)
    assert [row[0] for row in engine.execute(f"SELECT x FROM ({opened.sql}) ORDER BY k, __event_at, __known_at, __order").fetchall()] == [
        1.0,
        2.0,
        3.0,
    ]
    assert len(rows_of(open_view(session, view, folder=tmp_path, engine=engine, pushed=False))) == 1
    engine.execute("CREATE OR REPLACE TEMP TABLE wanted AS SELECT 2 AS k")
    assert rows_of(open_view(session, view, folder=tmp_path, engine=engine, keys="wanted"), "x") == [(3.0,)]


# --- windows


def test_numbers_are_folded_as_what_they_are(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    noon = [utc(2026, 1, 5, 12)] * 4
    columns = {
        "k": [1, 1, 1, 2],
        "at": noon,
        "n": pa.array([2**53, 1, None, 5], pa.int64()),
        "cents": pa.array([Decimal("0.10"), Decimal("0.20"), None, None], pa.decimal128(9, 2)),
        "x": [1.5, math.nan, None, math.nan],
        "y": [1.0, math.inf, 2.0, -math.inf],
        "big": [1e9 - 1, 1e9, 1e9 + 1, 1.0],
        "yes": [True, False, True, None],
    }
    features = {
        "n": agg.sum("n", "1d"),
        "cents": agg.sum("cents", "1d"),
        "x": agg.sum("x", "1d"),
        "n_x": agg.count("x", "1d"),
        "y": agg.sum("y", "1d"),
        "std_y": agg.std("y", "1d"),
        "std": agg.std("big", "1d"),
        "yes": agg.mean("yes", "1d"),
        "rows": agg.count("*", "1d"),
        "most": agg.max("x", "1d"),
    }
    opened = open_view(session, FeatureView(name="v", source=table(tmp_path, columns), features=features), folder=tmp_path, engine=engine)
    assert list(opened.stored_types.values())[1:4] == ["BIGINT", "DOUBLE", "DOUBLE"]
    one, *_, two, closing = rows_of(opened, "* EXCLUDE (__event_at, __known_at, __order)")
    assert one[:2] == (1, 2**53 + 1)
    assert one[2] == pytest.approx(0.3)
    assert one[3:6] == (1.5, 1, math.inf)
    assert math.isnan(one[6])
    assert one[7:] == (pytest.approx(1.0), pytest.approx(2 / 3), 3, 1.5)
    assert two[:6] == (2, 5, None, None, 0, -math.inf)
    assert closing == (2, None, None, None, 0, None, None, None, None, 0, None)


def test_a_table_without_rows_has_no_feature_rows(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    columns = {"k": pa.array([], pa.int64()), "at": pa.array([], pa.timestamp("us")), "x": pa.array([], pa.float64())}
    source = table(tmp_path, columns)
    for features in (["x"], {"x": agg.sum("x", "7d"), "d": agg.distinct("x", "7d", same="weekday"), "s": agg.std("x", "7d")}):
        assert rows_of(open_view(session, FeatureView(name="v", source=source, features=features), folder=tmp_path, engine=engine)) == []


def test_event_times_that_are_far_off_are_named(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    source = table(tmp_path, {"k": [1, 1], "at": [utc(1700, 1, 1), utc(9000, 1, 1, 3)], "x": [1, 2]})
    with pytest.raises(InvalidInput, match="more ticks than are kept"):
        open_view(session, FeatureView(name="v", source=source, every="15min", features={"x": agg.sum("x", "1h")}), folder=tmp_path, engine=engine)


def test_a_restatement_is_a_new_row(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    at, late = utc(2026, 1, 5, 12), utc(2026, 1, 7, 9)
    columns = {"k": [1, 1], "at": [at, at], "seen": pa.array([at, late], pa.timestamp("us", tz="UTC")), "x": [1, 10]}
    source = table(tmp_path, columns, known_at="seen", zone="UTC")
    view = FeatureView(name="v", source=source, features={"x": agg.sum("x", "2d")}, known_after="1h")
    six, seven, eight = (utc(2026, 1, day) for day in (6, 7, 8))
    hour = timedelta(hours=1)
    assert rows_of(open_view(session, view, folder=tmp_path, engine=engine), "__event_at, __known_at, x") == [
        (six, six + hour, 1),
        (six, late, 11),
        (seven, seven + hour, 1),
        (seven, late, 11),
        (eight, eight + hour, None),
    ]


def test_rows_that_all_take_as_long_are_never_late(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    source = table(tmp_path, {"k": [1, 1], "at": [utc(2026, 1, 5, 12), utc(2026, 1, 5, 23)], "x": [1, 10]}, known_after="30h", zone="UTC")
    view = FeatureView(name="v", source=source, features={"x": agg.sum("x", "1d")}, known_after="1h")
    six, seven = utc(2026, 1, 6), utc(2026, 1, 7)
    wait = timedelta(hours=30)
    assert rows_of(open_view(session, view, folder=tmp_path, engine=engine), "__event_at, __known_at, x") == [
        (six, six + wait, 11),
        (seven, seven + wait, None),
    ]
