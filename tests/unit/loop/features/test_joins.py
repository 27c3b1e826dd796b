from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import Conflict, InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.features.contents import Contents
from endcap.loop.features.joins import MISSING, RowTimes, choose_rows
from endcap.loop.features.rows.view_rows import FeatureRows
from endcap.loop.features.spines import number_keys
from endcap.loop.features.view_joins import Asked, ask, choose_features, fetch_features

DAY_US = 86_400_000_000


def times(*rows: tuple[int, int, int, int]) -> RowTimes:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    keys, *rest = (np.array(column, np.int64) for column in columns)
    return RowTimes(keys.astype(np.int32), *rest)


def choose(asked: list[tuple[int, int]], rows: RowTimes, *, max_age_us: int | None = None) -> list[int]:
    keys, at = np.array([key for key, _ in asked], np.int32), np.array([time for _, time in asked], np.int64)
    places, used = choose_rows(keys, at, rows=[rows], n_keys=3, max_age_us=max_age_us)
    return [int(used.order[place]) if place != MISSING else MISSING for place in places.tolist()]


def test_the_newest_known_row_counts_and_ties_go_to_known_at_then_to_order() -> None:
    rows = times((0, 10, 30, 0), (0, 20, 20, 1), (0, 20, 25, 2), (0, 20, 25, 3), (1, 5, 5, 4))
    assert choose([(0, 19), (0, 20), (0, 25), (0, 99), (1, 4), (1, 5), (2, 99), (MISSING, 99)], rows) == [-1, 1, 3, 3, -1, 4, -1, -1]


def test_a_late_row_about_an_earlier_event_does_not_hide_a_newer_one() -> None:
    assert choose([(0, 50)], times((0, 40, 40, 0), (0, 10, 45, 1))) == [0]


def test_age_is_counted_to_the_microsecond() -> None:
    assert choose([(0, 10), (0, 11)], times((0, 4, 4, 0)), max_age_us=6) == [0, MISSING]


def test_nothing_asked_and_nothing_there() -> None:
    assert choose([], times((0, 1, 1, 0))) == []
    assert choose([(0, 1)], times()) == [MISSING]


def test_arrays_that_may_not_be_written_are_left_as_they_are() -> None:
    rows = times((0, 20, 20, 0), (0, 10, 10, 1))
    for array in (rows.keys, rows.event_at, rows.known_at, rows.order):
        array.setflags(write=False)
    assert choose([(0, 15), (0, 5), (0, 25)], rows) == [1, MISSING, 0]


def test_keys_of_several_columns_are_numbered_in_the_order_they_come() -> None:
    columns = pa.table({"a": ["x", "y", "x", None, "x"], "b": pa.array([1, 1, 2, 1, 1], pa.int8())})
    codes, different = number_keys(columns)
    assert codes.tolist() == [0, 1, 2, MISSING, 0]
    assert different.to_pylist() == [{"a": "x", "b": 1}, {"a": "y", "b": 1}, {"a": "x", "b": 2}]
    many = pa.table({f"k{i}": np.arange(3000) for i in range(8)})  # the product of the sizes is beyond 64 bits
    assert number_keys(many)[0].tolist() == list(range(3000))


def test_the_digest_of_rows_does_not_know_chunks_but_knows_everything_else() -> None:
    rows = pa.table({"a": ["x", None, "yz"], "b": [1.0, None, float("nan")], "c": [True, None, False], "d": [[1], None, [2, 3]], "e": pa.nulls(3)})

    def digest(table: pa.Table) -> str:
        contents = Contents(table.schema)
        contents.add(table)
        return contents.hexdigest()

    whole = digest(rows)
    assert digest(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == whole
    assert digest(rows.set_column(0, "a", rows["a"].cast(pa.large_string()))) == whole
    others = [
        rows.rename_columns(["A", "b", "c", "d", "e"]),
        rows.slice(0, 2),
        rows.take([1, 0, 2]),
        rows.set_column(1, "b", rows["b"].cast(pa.float32())),
        rows.set_column(0, "a", pa.array(["xy", None, "z"])),
        rows.set_column(0, "a", pa.array(["x", "", "yz"])),
        rows.set_column(3, "d", pa.array([[1, 2], None, [3]])),
    ]
    assert len({whole, *map(digest, others)}) == len(others) + 1


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


def open_rows(values: str, engine: duckdb.DuckDBPyConnection) -> tuple[FeatureRows, Asked]:
    columns = "k, make_timestamp(e * 1000000) AS __event_at, make_timestamp(n * 1000000) AS __known_at, CAST(o AS BIGINT) AS __order, x"
    engine.execute(f"CREATE OR REPLACE TEMP TABLE kept AS SELECT {columns} FROM (VALUES {values}) t(k, e, n, o, x)")
    view = FeatureView(name="v", source=Table("t", "t.parquet", keys=("k",)), features=["x"])  # type: ignore[arg-type]  # lists are taken
    rows = FeatureRows(view, {"k": "integer"}, {"x": "integer"}, {"k": "INTEGER", "x": "INTEGER"}, "FROM kept", {}, engine)
    spine = pa.table({"k": [1, 2, 1]})
    at = np.array([5, 5, 9], np.int64) * 1_000_000
    return rows, ask(spine, at=at, there=np.ones(3, np.bool_), stored=rows.stored_types, name="asked", engine=engine)


def test_rows_alike_in_all_are_refused_where_they_count_and_only_there(engine: duckdb.DuckDBPyConnection) -> None:
    rows, asked = open_rows("(1, 1, 1, 0, 10), (1, 1, 1, 0, 11), (2, 3, 3, 0, 20)", engine)
    chosen = choose_features(rows, rows.sql, asked, max_age=None)
    with pytest.raises(InvalidInput, match=r"'v' has two rows of the same \['k'\], event time and known-at, and nothing says which"):
        fetch_features(rows, rows.sql, asked, chosen, start=0, stop=3)
    assert fetch_features(rows, rows.sql, asked, chosen, start=1, stop=2).take(0, 1)["x"].to_pylist() == [20]
    rows, asked = open_rows("(1, 1, 1, 0, 10), (1, 1, 1, 0, 11), (1, 4, 4, 0, 12)", engine)
    chosen = choose_features(rows, rows.sql, asked, max_age=None)
    assert fetch_features(rows, rows.sql, asked, chosen, start=0, stop=3).take(0, 3)["x"].to_pylist() == [12, None, 12]


def test_rows_that_share_an_order_are_told_apart_by_key_and_times(engine: duckdb.DuckDBPyConnection) -> None:
    rows, asked = open_rows("(1, 1, 1, 7, 10), (2, 3, 3, 7, 20), (1, 6, 6, 7, 12), (3, 6, 6, 8, 13)", engine)
    chosen = choose_features(rows, rows.sql, asked, max_age=None)
    assert fetch_features(rows, rows.sql, asked, chosen, start=0, stop=3).take(0, 3)["x"].to_pylist() == [10, 20, 12]


def test_rows_that_change_between_the_readings_are_noticed(engine: duckdb.DuckDBPyConnection) -> None:
    rows, asked = open_rows("(1, 1, 1, 0, 10), (2, 3, 3, 1, 20)", engine)
    chosen = choose_features(rows, rows.sql, asked, max_age=None)
    engine.execute("DELETE FROM kept WHERE k = 2")
    with pytest.raises(Conflict, match="changed while they were read"):
        fetch_features(rows, rows.sql, asked, chosen, start=0, stop=3)


def test_many_rows_of_one_key_in_the_wrong_order_are_sorted_all_the_same() -> None:
    n = 5_000
    backwards = times(*((0, n - i, n - i, i) for i in range(n)))
    assert choose([(0, i) for i in range(n + 2)], backwards) == [MISSING, *range(n - 1, -1, -1), 0]
