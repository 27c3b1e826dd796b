from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.data.column_profiles import MOST_CHARACTERS, N_TOP, name_category, profile_columns
from endcap.loop.data.distances import measure_distance
from endcap.loop.data.records import QUANTILES, ColumnProfile


def profiled(values: Any, **options: Any) -> ColumnProfile:
    return profile_columns(pa.table({"x": values}), n_threads=1, **options)[0]


def in_batches(values: pa.Array, n: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(values), n):
        yield pa.record_batch({"x": values.slice(start, n)})


def test_numbers_are_described_over_finite_values() -> None:
    finite = [float(i) for i in range(101)]
    found = profiled([*finite, None, math.nan, math.inf, -math.inf])
    assert (found.type, found.n, found.n_null, found.n_infinite, found.least, found.most) == ("number", 105, 2, 2, 0.0, 100.0)
    assert found.mean == pytest.approx(50.0)
    assert found.deviation == pytest.approx(statistics.pstdev(finite))
    assert found.quantiles == pytest.approx([100 * q for q in QUANTILES], abs=1.0)
    assert found.n_distinct == 103
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 101


def test_a_small_deviation_of_large_values_is_kept() -> None:
    found = profiled([1e12 + i % 2 for i in range(1000)])
    assert (found.deviation, found.mean) == (pytest.approx(0.5, rel=1e-9), pytest.approx(1e12 + 0.5, abs=1e-3))


@pytest.mark.parametrize("type_", [pa.float32(), pa.float16(), pa.int8(), pa.uint64(), pa.decimal128(12, 3)])
def test_every_type_of_number_is_read(type_: pa.DataType) -> None:
    values = [Decimal(v) for v in (1, 2, 2, 5)] if pa.types.is_decimal(type_) else [1, 2, 2, 5]
    column = pa.array([np.float16(v) for v in values] if type_ == pa.float16() else values, type_)
    found = profiled(pa.concat_arrays([column, pa.nulls(1, type_)]))
    assert (found.n, found.n_null, found.n_distinct, found.least, found.most, found.mean) == (5, 1, 3, 1.0, 5.0, 2.5)
    assert found.type == ("integer" if pa.types.is_integer(type_) else "number")
    assert found.top == ([("2", 2), ("1", 1), ("5", 1)] if found.type == "integer" else [])


def test_other_types_are_described() -> None:
    instants = [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 250_000, tzinfo=UTC), None, None]
    rows = {
        "s": ["b", "a", "b", None],
        "d": [date(2026, 1, 2), date(2026, 1, 1), None, None],
        "t": pa.array(instants, pa.timestamp("ns", "UTC")),
        "b": [True, False, True, True],
        "l": [[1], [2], None, [1]],
        "u": pa.array([UUID(int=1).bytes, UUID(int=2).bytes, None, UUID(int=1).bytes], pa.binary(16)).cast(pa.uuid()),
        "c": pa.array(["x", None, "x", "y"]).dictionary_encode(),
        "none": pa.nulls(4),
        "nan": [math.nan] * 4,
    }
    found = {profile.name: profile for profile in profile_columns(pa.table(rows))}
    assert (found["s"].top, found["s"].n_null, found["s"].n_distinct, found["s"].least) == ([("b", 2), ("a", 1)], 1, 2, None)
    assert (found["d"].least, found["d"].most, found["d"].n_distinct, found["d"].mean) == ("2026-01-01", "2026-01-02", 2, None)
    assert (found["t"].type, found["t"].least, found["t"].most) == ("timestamp", "2026-01-01T00:00:00.250000", "2026-01-02T03:04:05")
    assert (found["b"].mean, found["b"].top, found["b"].n_distinct) == (0.75, [("true", 3), ("false", 1)], 2)
    assert (found["l"].n_null, found["l"].n_distinct) == (1, 0)
    assert (found["u"].type, found["u"].n_null, found["u"].n_distinct) == ("uuid", 1, 2)
    assert (found["c"].type, found["c"].top, found["c"].n_null) == ("text", [("x", 2), ("y", 1)], 1)
    assert (found["none"].n_null, found["none"].n_distinct, found["none"].quantiles) == (4, 0, None)
    assert (found["nan"].n_null, found["nan"].n_distinct, found["nan"].histogram, found["nan"].mean) == (4, 0, None, None)


def test_nothing_of_a_personal_column_is_kept_but_counts() -> None:
    rows = {"age": [41, 41, None, 17], "name": ["ada"] * 4, "weight": [61.5] * 4, "born": [date(1985, 1, 2)] * 4, "member": [True] * 4}
    for profile in profile_columns(pa.table(rows), personal=list(rows)):
        counted = ColumnProfile(name=profile.name, type=profile.type, n=4, n_null=profile.n_null, n_distinct=profile.n_distinct)
        assert profile == counted
        assert (profile.n_null, profile.n_distinct) == ((1, 2) if profile.name == "age" else (0, 1))


def test_a_million_texts_are_counted_and_not_listed() -> None:
    found = profiled(pa.array(np.arange(1_000_000)).cast(pa.string()))
    assert found.top == []
    assert found.n_distinct == pytest.approx(1_000_000, rel=0.1)


def test_hostile_categories_are_cut_and_kept_apart() -> None:
    long = ["a" * 1_000_000, "a" * 999_999 + "b", "\x1b[2J\x00<script>", "é" * 80]
    found = profiled(long)
    names = [name for name, _ in found.top]
    assert len(set(names)) == 4
    assert max(map(len, names)) == MOST_CHARACTERS + 14
    assert {"\x1b[2J\x00<script>", "é" * 80} < set(names)
    assert len(msgspec.json.encode(found)) < 1000
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")])
    assert profiled(broken).top == [("a\\xff", 1)]
    assert name_category("\ud800" * 100).startswith("\ud800" * 80)


def test_a_stored_profile_is_small() -> None:
    rng = np.random.default_rng(1)
    rows = {"x": rng.normal(size=100_000), "f": rng.gamma(2, 3, 100_000).astype("f4"), "i": rng.poisson(3, 100_000)}
    rows["s"] = [f"category {i}" for i in rng.integers(0, 900, 100_000)]
    sizes = {profile.name: len(msgspec.json.encode(profile)) for profile in profile_columns(pa.table(rows))}
    assert max(sizes[name] for name in "xfi") < 4_000
    assert sizes["s"] < 30 * N_TOP


def test_batches_and_tables_give_about_the_same() -> None:
    rng = np.random.default_rng(2)
    values = pa.array(np.sort(rng.lognormal(0, 1, 700_000)))  # in order, so that every part looks different
    table, batches = profiled(values), profile_columns(in_batches(values, 50_000))[0]
    assert (batches.n, batches.n_null, batches.least, batches.most) == (table.n, 0, table.least, table.most)
    assert batches.mean == pytest.approx(table.mean)
    assert batches.n_distinct == table.n_distinct
    assert batches.histogram is not None
    assert sum(batches.histogram.counts) == 700_000
    shares = np.searchsorted(values.to_numpy(), batches.histogram.edges, side="right") / 700_000
    counted = np.concatenate([[0], np.cumsum(batches.histogram.counts)]) / 700_000
    assert np.abs(shares - counted).max() < 1 / 128


def test_many_parts_are_merged_without_adding_up_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from endcap.loop.data import column_profiles

    monkeypatch.setattr(column_profiles, "_ROWS_AT_ONCE", 500)
    rng = np.random.default_rng(3)
    values = rng.normal(size=300_000) + np.linspace(0, 3, 300_000)  # 600 parts, three levels
    found = profile_columns(in_batches(pa.array(values), 500))[0]
    assert found.histogram is not None
    shares = np.searchsorted(np.sort(values), found.histogram.edges, side="right") / values.size
    counted = np.concatenate([[0], np.cumsum(found.histogram.counts)]) / values.size
    assert np.abs(shares - counted).max() < 1 / 128
    assert max(found.histogram.counts) < 2 * values.size / 128


def test_against_a_profile_numbers_are_counted_on_its_edges_exactly() -> None:
    rng = np.random.default_rng(4)
    reference = profiled(rng.normal(size=5000))
    values = rng.normal(0.5, 2, 600_000)
    assert reference.histogram is not None
    for rows in (pa.table({"x": values}), in_batches(pa.array(values), 10_000)):
        found = profile_columns(rows, against={"x": reference})[0]
        assert found.histogram is not None
        counted = dict(zip(found.histogram.edges, [0, *np.cumsum(found.histogram.counts).tolist()], strict=True))
        assert [counted[edge] for edge in reference.histogram.edges] == np.searchsorted(
            np.sort(values), reference.histogram.edges, side="right"
        ).tolist()


def test_categories_of_the_reference_are_counted_though_rare() -> None:
    common = [f"c{i:03}" for i in range(400)]
    reference = profiled(["rare"] * 10)
    found = profiled(common * 3 + ["rare"], against={"x": reference})
    assert ("rare", 1) not in profiled(common * 3 + ["rare"]).top
    assert found.top[-1] == ("rare", 1)
    assert len(found.top) == N_TOP + 1
    assert measure_distance(reference, found).n_vanished is None, "the list is not whole"


def test_rows_that_are_no_table_are_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(InvalidInput, match="Two columns share a name: \\['x'\\]"):
        profile_columns(twice)
    batches = [pa.record_batch({"x": [1]}), pa.record_batch({"x": ["a"]})]
    with pytest.raises(InvalidInput, match="read as one table"):
        profile_columns(batches)
    assert profile_columns([]) == []
    schema = pa.schema([("x", pa.float64()), ("s", pa.string())])
    for empty in (schema.empty_table(), pa.RecordBatchReader.from_batches(schema, [])):
        assert [(p.name, p.type, p.n, p.histogram) for p in profile_columns(empty)] == [("x", "number", 0, None), ("s", "text", 0, None)]


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0])), max_size=80),
    start=st.integers(0, 10),
    narrow=st.booleans(),
    n=st.integers(1, 9),
)
def test_counts_hold_for_any_numbers_slices_and_chunks(values: list[float | None], start: int, narrow: bool, n: int) -> None:
    whole = pa.array(values, pa.float32() if narrow else pa.float64(), from_pandas=False)
    column = pa.chunked_array([whole.slice(i, n) for i in range(min(start, len(values)), len(values), n)], whole.type)
    left = column.to_pylist()
    finite = sorted(v for v in left if v is not None and math.isfinite(v))
    found = profiled(column)
    assert found.n == len(left)
    assert found.n_null == sum(v is None or math.isnan(v) for v in left)
    assert found.n_infinite == len(left) - found.n_null - len(finite)
    assert found.n_distinct == len({v + 0.0 for v in left if v is not None and not math.isnan(v)})
    if not finite:
        assert (found.histogram, found.least) == (None, None)
        return
    assert (found.least, found.most) == (finite[0], finite[-1])
    assert found.mean == pytest.approx(math.fsum(finite) / len(finite), rel=1e-6, abs=1e-6 * max(map(abs, finite)))
    assert found.histogram is not None
    edges = found.histogram.edges
    assert all(low < high for low, high in pairwise(edges))
    assert [0, *np.cumsum(found.histogram.counts).tolist()] == [sum(v <= edge for v in finite) for edge in edges]
    assert all(0 <= position <= 1 for position in found.histogram.positions)
    assert msgspec.json.decode(msgspec.json.encode(found), type=ColumnProfile) == found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3)), max_size=60))
def test_counts_hold_for_any_whole_numbers(values: list[int | None]) -> None:
    found = profiled(pa.array(values, pa.int64()))
    present = [v for v in values if v is not None]
    assert (found.n, found.n_null, found.n_distinct) == (len(values), len(values) - len(present), len(set(present)))
    assert sum(n for _, n in found.top) == (len(present) if len(set(present)) <= 50 else 0)
    if present:
        assert found.histogram is not None
        assert sum(found.histogram.counts) == len(present)
        assert (found.least, found.most) == (float(min(present)), float(max(present)))
