from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.tables import Table
from endcap.loop.data import profiles
from endcap.loop.data.engine import open_engine
from endcap.loop.data.profiles import profile_source
from endcap.loop.data.records import QUANTILES, ColumnProfile, FileIdentity
from endcap.loop.data.sources import open_source

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=2) as opened:
        yield opened


def profiled(folder: Path, engine: duckdb.DuckDBPyConnection, rows: dict[str, Any], **options: Any) -> dict[str, ColumnProfile]:
    pq.write_table(pa.table(rows), folder / "a.parquet")

    def identity(path: Path) -> FileIdentity:
        return FileIdentity(str(path), 0, 0, 0, "0" * 64)

    source = open_source(Table("t", "a.parquet"), folder=folder, zone="UTC", engine=engine, digests=identity)
    return {profile.name: profile for profile in profile_source(source, engine=engine, **options)}


def test_numbers_are_described_over_finite_values(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    finite = [float(i) for i in range(101)]
    found = profiled(tmp_path, engine, {"x": [*finite, None, float("nan"), float("inf")]})["x"]
    assert (found.type, found.n, found.n_null, found.n_infinite, found.least, found.most) == ("number", 104, 2, 1, 0.0, 100.0)
    assert found.mean == pytest.approx(50.0)
    assert found.deviation == pytest.approx(statistics.pstdev(finite))
    assert found.quantiles == pytest.approx([100 * q for q in QUANTILES])
    assert found.n_distinct == pytest.approx(102, rel=0.1)


def test_a_small_deviation_of_large_values_is_kept(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    values = [1e12 + i % 2 for i in range(1000)]
    found = profiled(tmp_path, engine, {"x": values})["x"]
    assert found.deviation == pytest.approx(0.5, rel=1e-9)
    assert found.mean == pytest.approx(1e12 + 0.5, abs=1e-3)


def test_other_types_are_described(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {
        "s": ["b", "a", "b", None],
        "d": [date(2026, 1, 2), date(2026, 1, 1), None, None],
        "b": [True, False, True, True],
        "l": [[1], [2], None, [1]],
        "none": pa.nulls(4, pa.float64()),
    }
    found = profiled(tmp_path, engine, rows)
    assert (found["s"].top, found["s"].n_null, found["s"].n_distinct, found["s"].least) == ([("b", 2), ("a", 1)], 1, 2, None)
    assert (found["d"].least, found["d"].most, found["d"].mean) == ("2026-01-01", "2026-01-02", None)
    assert (found["b"].mean, found["b"].deviation) == (0.75, None)
    assert (found["l"].type, found["l"].n_null, found["l"].n_distinct) == ("bigint[]", 1, 2)
    assert (found["none"].n_null, found["none"].n_distinct, found["none"].mean, found["none"].quantiles) == (4, 0, None, None)


def test_personal_and_many_valued_text_is_not_shown(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    rows = {"mail": [f"p{i}@x" for i in range(3000)], "name": ["ada"] * 3000, "age": [41] * 3000}
    found = profiled(tmp_path, engine, rows, personal={"name", "age"})
    assert found["mail"].top == []
    assert b"ada" not in msgspec.json.encode(found["name"])
    assert (found["age"].least, found["age"].mean, found["age"].quantiles, found["age"].n) == (None, None, None, 3000)


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_single_rows(tmp_path: Path, engine: duckdb.DuckDBPyConnection, n: int) -> None:
    rows = {"x": pa.array([3] * n, pa.int64()), "s": pa.array(["a"] * n, pa.string())}
    found = profiled(tmp_path, engine, rows)
    assert (found["x"].n, found["x"].mean) == (n, 3.0 if n else None)
    assert found["x"].quantiles == ([3.0] * 9 if n else None)
    assert found["s"].top == ([("a", 1)] if n else [])


def test_large_tables_are_sampled_the_same_way_each_time(tmp_path: Path, engine: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MOST_EXACT_ROWS", 10_000)
    monkeypatch.setattr(profiles, "N_SAMPLED", 20_000)
    rng = np.random.default_rng(3)
    rows = {"x": rng.gamma(2.0, 3.0, 200_000), "s": rng.choice(["a", "b", "c"], 200_000, p=[0.7, 0.2, 0.1])}
    first, again = profiled(tmp_path, engine, rows), profiled(tmp_path, engine, rows)
    assert first["s"].top == again["s"].top
    assert first["x"].quantiles == again["x"].quantiles
    assert first["x"].quantiles == pytest.approx(np.quantile(rows["x"], QUANTILES), rel=0.1)
    assert first["x"].mean == pytest.approx(rows["x"].mean(), rel=1e-12)
    assert [name for name, _ in first["s"].top] == ["a", "b", "c"]
    assert sum(n for _, n in first["s"].top) == pytest.approx(200_000, abs=3)
    assert first["s"].top[0][1] == pytest.approx(140_000, rel=0.05)
