"""Packed rows come back as they were, whichever way they were packed and unpacked."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.features.online_rows import RowCodec
from endcap.storage.ports import pack_stamp, read_stamp

WHAT = "Feature view 'user_7d@0123456789ab'"
ARROW = {
    "bool": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "uuid": pa.string(),
}
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "integer": INT64,
    "number": st.floats(),
    "text": TEXTS,
    "date": st.dates(),
    "timestamp": st.datetimes(),
}
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "integer": INT64,
    "uuid": st.uuids().map(str),
    "date": st.dates(),
    "bool": st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], list[tuple[Any, ...]], list[tuple[int, int]]]:
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=11))
    n = draw(st.integers(0, 20))
    rows = draw(st.lists(st.tuples(*(st.none() | VALUES[type_] for type_ in types)), min_size=n, max_size=n))
    moments = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
    stamps = draw(st.lists(st.tuples(moments, moments), min_size=n, max_size=n))
    return {f"f{place}": type_ for place, type_ in enumerate(types)}, rows, stamps


def as_table(features: dict[str, str], rows: list[tuple[Any, ...]], stamps: list[tuple[int, int]]) -> pa.Table:
    columns = {name: pa.array([row[place] for row in rows], ARROW[type_]) for place, (name, type_) in enumerate(features.items())}
    times = {name: pa.array([stamp[place] for stamp in stamps], pa.timestamp("us")) for place, name in enumerate(("__event_at", "__known_at"))}
    return pa.table(times | dict(reversed(columns.items())))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit: NaN is NaN, and minus zero is not zero."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and a == b


@settings(max_examples=80, deadline=None)
@given(given_table=tables())
def test_rows_come_back_one_by_one_and_by_columns(given_table: tuple[dict[str, str], list[tuple[Any, ...]], list[tuple[int, int]]]) -> None:
    features, rows, stamps = given_table
    codec = RowCodec(WHAT, keys={"k": "integer"}, features=features)
    packed = codec.encode_rows(as_table(features, rows, stamps)).to_pylist()
    assert [read_stamp(row) for row in packed] == stamps
    assert [row[:16] for row in packed] == [pack_stamp(*stamp) for stamp in stamps]
    for row, stamp, blob in zip(rows, stamps, packed, strict=True):
        found = codec.decode_row(blob)
        assert found is not None
        assert found[:2] == stamp
        assert all(map(same, found[2], row))
    asked: list[bytes | None] = [blob for row in packed for blob in (row, None)]
    many = codec.decode_rows(asked)
    assert (many.event_us[::2], many.known_us[::2]) == ([stamp[0] for stamp in stamps], [stamp[1] for stamp in stamps])
    assert many.event_us[1::2] == [None] * len(rows)
    for place, column in enumerate(many.values):
        assert column[1::2] == [None] * len(rows)
        assert all(map(same, column[::2], [row[place] for row in rows]))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), types=st.lists(st.sampled_from(list(KEYS)), min_size=1, max_size=3))
def test_keys_are_the_same_bytes_by_value_and_by_column_and_no_two_are_alike(data: st.DataObject, types: list[str]) -> None:
    keys = {f"k{place}": type_ for place, type_ in enumerate(types)}
    codec = RowCodec(WHAT, keys=keys, features={"f": "number"})
    values = data.draw(st.lists(st.tuples(*(st.none() | KEYS[type_] for type_ in types)), max_size=12))
    table = pa.table({name: pa.array([row[place] for row in values], ARROW[type_]) for place, (name, type_) in enumerate(keys.items())})
    found = codec.encode_keys(table).to_pylist()
    assert found == [codec.encode_key(row) for row in values]
    assert found == codec.encode_many([[row[place] for row in values] for place in range(len(types))])
    assert [key is None for key in found] == [None in row for row in values]
    whole = [row for row in values if None not in row]
    assert len({codec.encode_key(row) for row in whole}) == len(set(whole))
    standing = [key for key in found if key is not None]
    assert list(zip(*codec.decode_keys(standing), strict=True)) == whole


def test_keys_sort_as_their_values_do() -> None:
    for type_, values in {
        "integer": [-(2**63), -256, -1, 0, 1, 255, 2**63 - 1],
        "date": [date(1, 1, 1), date(1969, 12, 31), date(1970, 1, 1), date(2026, 3, 3)],
    }.items():
        codec = RowCodec(WHAT, keys={"k": type_}, features={"f": "number"})
        keys = codec.encode_many([values])
        assert all(a is not None and b is not None and a < b for a, b in pairwise(keys))


def test_a_key_may_be_given_in_the_forms_that_json_and_arrays_have() -> None:
    def codec(type_: str) -> RowCodec:
        return RowCodec(WHAT, keys={"k": type_}, features={"f": "number"})

    text = "123E4567-e89b-12d3-a456-426614174000"
    assert len({codec("uuid").encode_key([value]) for value in (text, text.lower(), UUID(text))}) == 1
    assert codec("date").encode_key(["2026-03-03"]) == codec("date").encode_key([date(2026, 3, 3)])
    assert codec("integer").encode_key([np.int32(-5)]) == codec("integer").encode_key([-5])
    assert codec("bool").encode_key([np.True_]) == codec("bool").encode_key([True])
    stored = pa.table({"k": pa.array([UUID(text).bytes], pa.binary(16))})
    assert codec("uuid").encode_keys(stored).to_pylist() == [UUID(text).bytes]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("integer", "5"), ("integer", 5.0), ("integer", True), ("integer", 2**63), ("integer", float("nan")), ("text", 5), ("text", b"a"),
        ("text", "\ud800"), ("bool", 1), ("bool", "true"), ("date", "03.03.2026"), ("date", datetime(2026, 3, 3, tzinfo=UTC)), ("date", 5),
        ("uuid", "123e4567"), ("uuid", "{123e4567-e89b-12d3-a456-426614174000}"), ("uuid", "123e4567-e89b-12d3-a456-426614174000\n"), ("uuid", 5),
    ],
)  # fmt: skip
def test_a_key_of_another_type_is_refused_with_its_column(type_: str, value: Any) -> None:
    for keys, values in (({"id": type_}, [value]), ({"first": "text", "id": type_}, ["a", value]), ({"id": type_, "last": "text"}, [value, None])):
        codec = RowCodec(WHAT, keys=keys, features={"f": "number"})
        with pytest.raises(InvalidInput, match=rf"user_7d.* is keyed by 'id' \({type_}\), and a key has .* a {type(value).__name__}\. Hint: "):
            codec.encode_key(values)
        with pytest.raises(InvalidInput, match=rf"is keyed by 'id' \({type_}\)"):
            codec.encode_many([[entry] for entry in values])


STORED = [
    ("number", pa.array([0.1, None, float("nan")], pa.float32()), [np.float32(0.1).item(), None, float("nan")]),
    ("number", pa.array([1, 2**53, None]), [1.0, 2.0**53, None]),
    ("number", pa.array([1, None, 3]).cast(pa.decimal128(30, 2)), [1.0, None, 3.0]),
    ("integer", pa.array([1, 255, None], pa.uint8()), [1, 255, None]),
    ("integer", pa.array([2**63 - 1, 0, None], pa.uint64()), [2**63 - 1, 0, None]),
    ("text", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    ("text", pa.array(["", None, "ü" * 70_000], pa.large_string()), ["", None, "ü" * 70_000]),
    ("date", pa.array([date(2026, 3, 3), None, date.min], pa.date64()), [date(2026, 3, 3), None, date.min]),
    ("timestamp", pa.array([999, None, 0], pa.timestamp("ns")), [datetime(1970, 1, 1), None, datetime(1970, 1, 1)]),  # noqa: DTZ001
    ("timestamp", pa.array([0, None, 0], pa.timestamp("us", "Europe/Berlin")), [datetime(1970, 1, 1), None, datetime(1970, 1, 1)]),  # noqa: DTZ001
    ("bool", pa.nulls(3), [None] * 3),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "column", "expected"), STORED)
def test_what_tables_hold_is_widened_and_never_narrowed(type_: str, column: pa.Array, expected: list[Any]) -> None:
    codec = RowCodec(WHAT, keys={"k": "integer"}, features={"f": type_})
    times = pa.array([0, 0, 0], pa.timestamp("us"))
    for chunks in (column, pa.chunked_array([column.slice(0, 1), column.slice(1)])):
        rows = codec.encode_rows(pa.table({"__event_at": times, "__known_at": times, "f": chunks, "other": times})).to_pylist()
        assert all(map(same, codec.decode_rows(rows).values[0], expected))
        assert all(map(same, codec.decode_rows(rows * 4).values[0], expected * 4))


@pytest.mark.parametrize(
    ("type_", "column"),
    [
        ("integer", pa.array([2**63], pa.uint64())), ("integer", pa.array([1.0])), ("integer", pa.array(["1"])), ("integer", pa.array([True])),
        ("number", pa.array([2**53 + 1])), ("number", pa.array(["1"])), ("number", pa.array([True])), ("text", pa.array([1])),
        ("text", pa.array([b"a"])), ("bool", pa.array([1])), ("date", pa.array(["2026-03-03"])), ("date", pa.array([2**31 - 1], pa.date32())),
        ("timestamp", pa.array([date(2026, 3, 3)])), ("timestamp", pa.array([2**62], pa.timestamp("us"))),
    ],
)  # fmt: skip
def test_what_a_cell_does_not_hold_is_refused(type_: str, column: pa.Array) -> None:
    codec = RowCodec(WHAT, keys={"k": "integer"}, features={"f": type_})
    times = pa.array([0], pa.timestamp("us"))
    with pytest.raises(InvalidInput, match=rf"keeps 'f' as {type_}, and .* came: "):
        codec.encode_rows(pa.table({"__event_at": times, "__known_at": times, "f": column}))


def test_rows_packed_by_other_columns_are_told_from_ours() -> None:
    times = pa.array([0], pa.timestamp("us"))
    table = pa.table({"__event_at": times, "__known_at": times, "a": [1], "b": [2], "t": ["x" * 99]})
    shapes = [{"a": "integer"}, {"b": "integer"}, {"a": "integer", "b": "integer"}, {"t": "text"}, {"a": "number"}, {"a": "integer", "t": "text"}]
    codecs = [RowCodec(WHAT, keys={"k": "integer"}, features=shape, version=version) for shape in shapes for version in ("", "x")]
    rows = [codec.encode_rows(table)[0].as_py() for codec in codecs]
    for place, codec in enumerate(codecs):
        assert [codec.decode_row(row) is not None for row in [*rows, b"", b"\x00" * 20]] == [number == place for number in range(len(rows) + 2)]
        found = codec.decode_rows([*rows, b"", None])
        assert [stamp is not None for stamp in found.event_us] == [number == place for number in range(len(rows) + 2)]
        assert all(column[:place] == [None] * place for column in found.values)


@pytest.mark.parametrize(
    ("keys", "features"), [({"k": "number"}, {"f": "number"}), ({"k": "timestamp"}, {"f": "number"}), ({"k": "text"}, {"f": "varchar[]"})]
)
def test_columns_that_have_no_cell_are_refused(keys: dict[str, str], features: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"user_7d.* of type .*online=False"):
        RowCodec(WHAT, keys=keys, features=features)


def test_a_column_that_is_not_there_and_a_row_without_a_time_are_refused() -> None:
    codec = RowCodec(WHAT, keys={"k": "integer"}, features={"f": "number"})
    times = pa.array([0], pa.timestamp("us"))
    with pytest.raises(InvalidInput, match=r"without the column 'f'. Columns: \['__event_at', '__known_at'\]"):
        codec.encode_rows(pa.table({"__event_at": times, "__known_at": times}))
    with pytest.raises(InvalidInput, match="without the column 'k'"):
        codec.encode_keys(pa.table({"f": [1.0]}))
    with pytest.raises(InvalidInput, match="rows without __known_at"):
        codec.encode_rows(pa.table({"__event_at": times, "__known_at": pa.nulls(1), "f": [1.0]}))


def test_a_table_of_no_rows_and_many_features_are_packed_too() -> None:
    features = {f"f{place}": "number" for place in range(300)}
    codec = RowCodec(WHAT, keys={"k": "text", "b": "uuid"}, features=features)
    types = {"k": pa.string(), "b": pa.string(), "__event_at": pa.timestamp("us"), "__known_at": pa.timestamp("us")} | dict.fromkeys(
        features, pa.float64()
    )
    nothing = pa.table({name: pa.array([], type_) for name, type_ in types.items()})
    assert (codec.encode_keys(nothing).to_pylist(), codec.encode_rows(nothing).to_pylist()) == ([], [])
    times = pa.array([0] * 9, pa.timestamp("us"))
    table = pa.table({"__event_at": times, "__known_at": times} | {name: pa.array([float(place)] * 9) for place, name in enumerate(features)})
    rows = codec.encode_rows(table).to_pylist()
    assert codec.decode_row(rows[0]) == (0, 0, tuple(map(float, range(300))))
    assert codec.decode_rows(rows).values == [[float(place)] * 9 for place in range(300)]
    assert codec.decode_rows([]).values == [[] for _ in features]
