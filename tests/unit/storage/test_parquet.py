from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound
from endcap.storage.parquet import open_parquet, read_parquet, write_parquet


def file_of(**columns: list[object]) -> pa.NativeFile:
    return pa.BufferReader(bytes_of(**columns))


def bytes_of(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    write_parquet(pa.table(columns), sink=sink)
    return sink.getvalue()


@pytest.mark.parametrize("at_once", [1, 2, 3, 256])
@pytest.mark.parametrize("columns", [None, ["b", "a"], ["b"]])
def test_rows_are_the_same_however_many_files_are_taken_at_once(at_once: int, columns: list[str] | None) -> None:
    files = [file_of(a=[1]), file_of(a=[2], b=["x"]), file_of(a=[3]), file_of(a=[], b=["y"][:0]), file_of(b=["z"])]
    expected = {"a": [1, 2, 3, None], "b": [None, "x", None, "z"]}
    read = read_parquet(files, dataset="sales", columns=columns, at_once=at_once)
    assert read.to_pydict() == {name: expected[name] for name in columns or ["a", "b"]}


@pytest.mark.parametrize("at_once", [1, 2])
def test_mixed_types_and_unknown_columns_are_refused_however_many_files_are_taken_at_once(at_once: int) -> None:
    with pytest.raises(InvalidInput, match="as one table"):
        read_parquet([file_of(a=[1]), file_of(a=["x"])], dataset="sales", at_once=at_once)
    with pytest.raises(InvalidInput, match="no column 'c'"):
        read_parquet([file_of(a=[1]), file_of(b=["x"])], dataset="sales", at_once=at_once, columns=["a", "c"])


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_fractions_come_back_to_the_last_bit(kind: pa.DataType) -> None:
    values = np.array([0.1, -0.0, 0.0, np.nan, np.inf, -np.inf, 1e-40, 0.1], dtype=kind.to_pandas_dtype())
    array = pa.array(values, kind, mask=np.arange(values.size) == 7)
    sink = io.BytesIO()
    table = pa.table({"a.b": array, "name": ["x"] * 8, "list": [[0.5]] * 8})
    assert write_parquet(table, sink=sink) == 8
    found = read_parquet([pa.BufferReader(sink.getvalue())], dataset="sales")
    assert found.schema == table.schema
    assert found["a.b"].null_count == 1
    assert np.array(found["a.b"])[:7].tobytes() == values[:7].tobytes()
    assert found["list"].to_pylist() == [[0.5]] * 8


def test_no_files_are_nothing_to_read() -> None:
    with pytest.raises(NotFound, match=r"Nothing is kept in 'sales' with \{'day': '1'\}"):
        read_parquet([], dataset="sales", partition={"day": "1"})
    with pytest.raises(NotFound):
        open_parquet([], dataset="sales")


def test_every_changed_byte_of_a_page_is_found() -> None:
    payload = bytes_of(a=list(range(100)))
    for position in range(60, 120):
        damaged = bytearray(payload)
        damaged[position] ^= 0x01
        with pytest.raises(IntegrityBroken, match="changed at rest"):
            read_parquet([pa.BufferReader(bytes(damaged))], dataset="sales")


@pytest.mark.parametrize("payload", [b"", b"PAR1", bytes_of(a=[1])[:-9]])
def test_a_file_that_was_cut_is_found(payload: bytes) -> None:
    with pytest.raises(IntegrityBroken, match="changed at rest"):
        read_parquet([pa.BufferReader(payload)], dataset="sales")
