from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import DefinitionError
from endcap.loop.data import contracts
from endcap.loop.data.contracts import check_contract, scan_contract
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import BrokenCheck, FileIdentity
from endcap.loop.data.sources import Source, open_source

if TYPE_CHECKING:
    import duckdb

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=2) as opened:
        yield opened


def identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, "0" * 64)


def opened(folder: Path, engine: duckdb.DuckDBPyConnection, rows: dict[str, Any] | str, contract: Contract, **options: Any) -> Source:
    zone = options.pop("zone", "UTC")
    path = folder / ("a.csv" if isinstance(rows, str) else "a.parquet")
    if isinstance(rows, str):
        path.write_text(rows)
    else:
        pq.write_table(pa.table(rows), path)
    return open_source(Table("t", path.name, contract=contract, **options), folder=folder, zone=zone, engine=engine, digests=identity)


def broken(source: Source, now: datetime = NOW) -> list[tuple[str, str | None, int]]:
    return [(check.check, check.column, check.n_rows) for check in check_contract(source, engine=source.engine, now=now)]


def columns(**checks: Check) -> Contract:
    return Contract(columns=checks)


def test_rows_that_keep_every_promise(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    contract = Contract(
        columns={
            "store": Check(type="text", nulls=False, one_of=("a", "b")),
            "units": Check(type="number", least=0, most=5),
            "day": Check(type="date"),
        },
        unique=("store", "day"),
        fresh="2d",
        extra=False,
    )
    rows = {"store": ["a", "b"], "units": [0, 5], "day": [date(2026, 3, 2)] * 2}
    scan = scan_contract(opened(tmp_path, engine, rows, contract, event_time="day"), engine=engine, now=NOW)
    assert (scan.broken, scan.span) == ([], (2, "2026-03-02T00:00:00", "2026-03-02T00:00:00"))
    assert scan.files == {str(tmp_path / "a.parquet"): scan.span}


def test_missing_and_extra_columns(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    contract = Contract(columns={"units": Check(), "price": Check()}, unique=("store", "shelf"), extra=False)
    source = opened(tmp_path, engine, {"store": ["a"], "units": [1], "note": ["x"]}, contract, columns={"twice": "units * 2"})
    assert broken(source) == [("missing", "price", 1), ("missing", "shelf", 1), ("extra", "note", 1)]


@pytest.mark.parametrize(
    ("promised", "values", "n_broken"),
    [
        ("integer", pa.array([1, 2], pa.uint8()), None),
        ("integer", [1.0, None], None),
        ("integer", [1.0, 1.5], 1),
        ("integer", ["1", "2"], 2),
        ("number", [1, 2], None),
        ("number", ["1", None], 1),
        ("number", [True, False], 2),
        ("text", [1, 2], 2),
        ("text", pa.array(["a", "b"]).dictionary_encode(), None),
        ("bool", [1, 0], 2),
        ("date", [datetime(2026, 1, 1), datetime(2026, 1, 1, 5)], 1),  # noqa: DTZ001 - naive is the case
        ("timestamp", [date(2026, 1, 1)] * 2, None),
        ("timestamp", ["2026-01-01"] * 2, 2),
    ],
)
def test_types_as_stored(tmp_path: Path, engine: duckdb.DuckDBPyConnection, promised: str, values: Any, n_broken: int | None) -> None:
    found = broken(opened(tmp_path, engine, {"x": values}, columns(x=Check(type=promised))))
    assert found == ([] if n_broken is None else [("type", "x", n_broken)])


def test_a_wrong_type_is_wrong_without_rows(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    source = opened(tmp_path, engine, {"x": pa.array([], pa.string())}, columns(x=Check(type="number")))
    assert broken(source) == [("type", "x", 0)]


def test_csv_rows_whose_text_is_no_number_are_named(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    text = "store,units,size\na,1,1\nb,NA,2\nc,1.5x,2.5\nd,-3,inf\ne,,9\n"
    contract = columns(units=Check(type="number", least=0), size=Check(type="integer", most=8))
    source = opened(tmp_path, engine, text, contract, keys=("store",))
    found = check_contract(source, engine=engine, now=NOW)
    assert [(c.check, c.column, c.n_rows) for c in found] == [
        ("type", "units", 2),
        ("least", "units", 1),
        ("type", "size", 1),
        ("infinite", "size", 1),
        ("most", "size", 2),
    ]
    assert found[0].sample == [{"store": "b", "units": "NA"}, {"store": "c", "units": "1.5x"}]


def test_nan_is_missing_and_infinity_is_no_number(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    values = [1.0, NAN, None, INF, -INF]
    assert broken(opened(tmp_path, engine, {"x": values}, columns(x=Check(type="number", nulls=False)))) == [
        ("nulls", "x", 2),
        ("infinite", "x", 2),
    ]
    # The footer of a Parquet file does not count NaN among the ends of a column; the rows are found and shown even so.
    (found,) = check_contract(opened(tmp_path, engine, {"x": [1.0, NAN, 2.0]}, columns(x=Check(nulls=False))), engine=engine, now=NOW)
    assert (found.n_rows, found.sample) == (1, [{"x": "nan"}])
    assert broken(opened(tmp_path, engine, {"x": [1.0, NAN]}, columns(x=Check(type="integer", least=0, most=1, one_of=(1,))))) == []
    assert broken(opened(tmp_path, engine, {"x": values}, columns(x=Check()))) == []


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(5, 1)])
def test_limits_are_inclusive_in_every_number_type(tmp_path: Path, engine: duckdb.DuckDBPyConnection, type_: pa.DataType) -> None:
    values = pa.array([0, 1, 9, 10], pa.int8()).cast(type_)
    source = opened(tmp_path, engine, {"x": values}, columns(x=Check(least=1, most=9)))
    assert broken(source) == [("least", "x", 1), ("most", "x", 1)]
    source = opened(tmp_path, engine, {"x": values}, columns(x=Check(least=0.5, most=9.5)))
    assert broken(source) == [("least", "x", 1), ("most", "x", 1)]


def test_a_limit_means_what_the_column_can_hold(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    values = pa.array([0.1, 0.7], pa.float32())
    assert broken(opened(tmp_path, engine, {"x": values}, columns(x=Check(least=0.1, most=0.7)))) == []


def test_negative_values_show_their_rows(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {"store": list(range(30)), "units": [-1] * 12 + [1] * 18}
    (found,) = check_contract(opened(tmp_path, engine, rows, columns(units=Check(least=0)), keys=("store",)), engine=engine, now=NOW)
    assert (found.check, found.n_rows, len(found.sample)) == ("least", 12, 10)
    assert found.sample[:2] == [{"store": "0", "units": "-1"}, {"store": "1", "units": "-1"}]


def test_one_of(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    assert broken(opened(tmp_path, engine, {"x": ["a", "it's", None]}, columns(x=Check(one_of=("a", "b"))))) == [("one_of", "x", 1)]
    assert broken(opened(tmp_path, engine, {"x": ["it's"]}, columns(x=Check(one_of=("it's",))))) == []
    assert broken(opened(tmp_path, engine, {"x": [0.0, 1.0, 2.0]}, columns(x=Check(one_of=(0, 1))))) == [("one_of", "x", 1)]
    assert broken(opened(tmp_path, engine, {"x": [1]}, columns(x=Check(one_of=())))) == [("one_of", "x", 1)]


def test_duplicates_are_counted_with_all_their_rows(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {"store": ["a", "a", "a", "b", "b", None, None], "day": [1, 1, 1, 2, 2, 1, 1], "units": range(7)}
    source = opened(tmp_path, engine, {k: list(v) for k, v in rows.items()}, Contract(unique=("store", "day")))
    assert check_contract(source, engine=engine, now=NOW) == [
        BrokenCheck("unique", None, 5, [{"store": "a", "day": "1", "rows": "3"}, {"store": "b", "day": "2", "rows": "2"}])
    ]


def test_a_restated_row_differs_by_its_known_at(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {"store": ["a", "a"], "day": [date(2026, 1, 1)] * 2, "arrived": [datetime(2026, 1, 2), datetime(2026, 1, 5)]}  # noqa: DTZ001 - naive is the case
    times = {"event_time": "day", "known_at": "arrived"}
    assert broken(opened(tmp_path, engine, rows, Contract(unique=("store", "day")), **times)) == [("unique", None, 2)]
    assert broken(opened(tmp_path, engine, rows, Contract(unique=("store", "day", "arrived")), **times)) == []
    assert broken(opened(tmp_path, engine, rows, Contract(unique=("store", "__event_time", "__known_at")), **times)) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 3)), min_size=1, max_size=20), n_parts=st.integers(1, 3))
def test_unique_agrees_with_counting(tmp_path: Path, engine: duckdb.DuckDBPyConnection, rows: list[tuple[str | None, int]], n_parts: int) -> None:
    table = {"k": pa.array([k for k, _ in rows], pa.string()), "i": [i for _, i in rows]}
    source = opened(tmp_path, engine, table, Contract(unique=("k", "i")))
    expected = sum(n for (key, _), n in Counter(rows).items() if n > 1 and key is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contracts, "_MOST_HASHES", -(-len(rows) // n_parts))
        assert broken(source) == ([("unique", None, expected)] if expected else [])


def test_future_event_times_are_judged_on_the_local_wall(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = "t\n2026-03-03 13:00\n2026-03-03 13:01\n"  # 12:00 UTC is 13:00 in Berlin and 20:00 in Shanghai
    assert broken(opened(tmp_path, engine, rows, Contract(), event_time="t", zone="Europe/Berlin")) == [("future", None, 1)]
    assert broken(opened(tmp_path, engine, rows, Contract(), event_time="t", zone="Asia/Shanghai")) == []
    assert broken(opened(tmp_path, engine, rows, Contract(future=True), event_time="t")) == []


def test_times_that_are_none_are_refused_and_missing_ones_are_not(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    text = "t,k\n2026-01-01,2026-01-02\n01.02.2026,2026-01-02\n,\ninfinity,soon\n"
    assert broken(opened(tmp_path, engine, text, Contract(), event_time="t", known_at="k")) == [
        ("event_time", "t", 2),
        ("known_at", "k", 1),
    ]


def test_freshness_compares_instants(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    source = opened(tmp_path, engine, "t\n2026-03-28 12:00\n", Contract(fresh="24h"), event_time="t", zone="Europe/Berlin")
    # The clocks skip an hour on 29 March: 13:00 that day is 24 hours after 12:00 the day before.
    assert broken(source, now=datetime(2026, 3, 29, 11, 0, tzinfo=UTC)) == []
    assert broken(source, now=datetime(2026, 3, 29, 11, 1, tzinfo=UTC)) == [("fresh", None, 1)]


def test_an_empty_table_is_not_fresh_and_breaks_nothing_else(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    contract = Contract(columns={"x": Check(type="number", nulls=False)}, unique=("x",), fresh="1d")
    assert broken(opened(tmp_path, engine, "x,t\n", contract, event_time="t")) == [("fresh", None, 0)]


def test_freshness_needs_an_event_time(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(DefinitionError, match="has no event_time"):
        check_contract(opened(tmp_path, engine, "x\n1\n", Contract(fresh="1d")), engine=engine, now=NOW)


def test_hostile_names_and_derived_columns_are_checked(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    name = 'x"); DROP TABLE t; --'
    contract = Contract(columns={name: Check(least=0), "half price": Check(most=1)}, unique=(name, "half price"))
    rows = {name: [-1, -1], "price": [4.0, 4.0]}
    source = opened(tmp_path, engine, rows, contract, columns={"half price": "price / 2"}, keys=(name,))
    assert broken(source) == [("least", name, 2), ("most", "half price", 2), ("unique", None, 2)]


def test_null_keys_are_not_broken_unless_promised(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {"store": pa.array([None, "a"], pa.string())}
    assert broken(opened(tmp_path, engine, rows, Contract(), keys=("store",))) == []
    assert broken(opened(tmp_path, engine, rows, columns(store=Check(nulls=False)), keys=("store",))) == [("nulls", "store", 1)]
