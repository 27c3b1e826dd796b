"""The digest of rows by what they hold, whatever chunks and files they stand in."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = 65_536


class Contents:
    """Rows that pass by, and their SHA-256 so far: names, types, values and what is null, in the order of the rows.

    Cost: that of SHA-256 over the bytes of the values and one for each row and column; nested columns are written as JSON first.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._head = [[field.name, _name(_plain(field.type))] for field in schema]
        self._columns = [[hashlib.sha256() for _ in range(3)] for _ in schema]
        self.n_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows in. They have the columns and types that were announced."""
        self.n_rows += rows.num_rows
        for hashes, column in zip(self._columns, rows.columns, strict=True):
            for chunk in column.chunks:
                _hash(chunk, hashes)

    def hexdigest(self) -> str:
        """The SHA-256 in hex."""
        parts = [self._head, self.n_rows, [[found.hexdigest() for found in hashes] for hashes in self._columns]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _hash(chunk: pa.Array, hashes: list[hashlib._Hash]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values, lengths, nulls = hashes
    valid = np.asarray(pc.is_valid(chunk)) if chunk.null_count else None
    nulls.update(bytes(len(chunk)) if valid is None else (~valid).data)
    if valid is not None and _is_fixed(_plain(chunk.type)) and chunk.type == _plain(chunk.type):
        values.update(_numbers(chunk)[valid].data)  # what stands in the place of a null means nothing
        return
    if valid is not None:
        chunk = chunk.drop_null()
    if isinstance(chunk.type, pa.BaseExtensionType):
        chunk = chunk.storage
    type_ = _plain(chunk.type)
    chunk = chunk if chunk.type == type_ else chunk.cast(type_)
    if not len(chunk) or pa.types.is_null(type_):
        return
    if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        offsets = np.frombuffer(chunk.buffers()[1], np.int64, len(chunk) + 1, 8 * chunk.offset)
        lengths.update(np.diff(offsets).tobytes())
        if offsets[-1] > offsets[0]:
            values.update(memoryview(chunk.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
    elif pa.types.is_boolean(type_):
        values.update(np.asarray(chunk.cast(pa.uint8())).tobytes())
    elif _is_fixed(type_):
        values.update(_numbers(chunk).data)
    elif pa.types.is_decimal(type_) or pa.types.is_fixed_size_binary(type_):
        width = type_.bit_width // 8
        values.update(memoryview(chunk.buffers()[1])[chunk.offset * width : (chunk.offset + len(chunk)) * width])
    else:
        for start in range(0, len(chunk), _AT_ONCE):
            for value in chunk.slice(start, _AT_ONCE).to_pylist():
                text = json.dumps(value, default=str).encode()
                lengths.update(len(text).to_bytes(8, "little"))
                values.update(text)


def _is_fixed(type_: pa.DataType) -> bool:
    """Whether values lie side by side in memory, each as wide as a number is."""
    import pyarrow as pa

    return pa.types.is_primitive(type_) and type_.bit_width in (8, 16, 32, 64)


def _numbers(chunk: pa.Array) -> NDArray[Any]:
    width = chunk.type.bit_width // 8
    return np.frombuffer(chunk.buffers()[1], f"u{width}", len(chunk), chunk.offset * width)


def _plain(type_: pa.DataType) -> pa.DataType:
    """One type for all that a file may give back in place of one another."""
    import pyarrow as pa

    is_a = pa.types
    if is_a.is_dictionary(type_):
        return _plain(type_.value_type)
    if is_a.is_string(type_) or is_a.is_string_view(type_):
        return pa.large_string()
    if is_a.is_binary(type_) or is_a.is_binary_view(type_):
        return pa.large_binary()
    if is_a.is_date64(type_):
        return pa.date32()
    if is_a.is_timestamp(type_) and type_.unit == "s":
        return pa.timestamp("ms", type_.tz)
    return pa.time32("ms") if type_ == pa.time32("s") else type_


def _name(type_: pa.DataType) -> str:
    import pyarrow as pa

    return "nested" if pa.types.is_nested(type_) else str(type_)
