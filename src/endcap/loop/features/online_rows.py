"""Online rows: a key as bytes, and the features of a key packed into one row that is written by columns and read in a microsecond.

A row, all numbers with the greatest byte first: its stamp (16 bytes, see ``endcap.storage.ports.pack_stamp``), the fingerprint of the columns
that it was packed by (4), a bit for each feature that says it is null, a cell of fixed width for each feature, and the bytes of the texts.
The cell of a text holds where it ends among them; a null's cell is zero. Numbers are kept as they are: 64 bits, NaN and the infinities too.

A key of one column is that column: 8 bytes for whole numbers, 4 for dates, 16 for UUIDs, a text's own. Of several columns each text but the
last has its length before it, so that no two keys are the same bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.core.errors import InvalidInput
from endcap.core.identity import identify
from endcap.loop.features.records import EVENT_AT, KNOWN_AT
from endcap.storage.ports import STAMP_BYTES

KEY_TYPES = ("text", "integer", "uuid", "date", "bool")

_PRINT_BYTES = 4
_CELLS = {"bool": "?", "integer": "q", "number": "d", "text": "I", "date": "i", "timestamp": "q"}
_ARRAYS = {"?": "?", "q": ">i8", "d": ">f8", "I": ">u4", "i": ">i4"}
_ZERO = 1 << 63
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - times of rows are plain, as their tables have them
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS = (date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY)
_MOMENTS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)
_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_UUID_TEXT = re.compile(_UUID)
_FEW = 8  # rows below which unpacking one by one is quicker than by columns


class Columns(NamedTuple):
    """Many rows. A row that was not there, or was packed by other columns, has no stamp (None) and None in each column."""

    event_us: list[int | None]
    known_us: list[int | None]
    values: list[list[Any]]


class RowCodec:
    """Packs and unpacks the rows of one view.

    ``keys`` and ``features`` give Endcap's type by name, in order; ``what`` begins its errors, such as ``Feature view 'user_7d'``. ``version`` goes
    into the fingerprint. Raises InvalidInput for a column of a type that has no cell.
    """

    def __init__(self, what: str, *, keys: Mapping[str, str], features: Mapping[str, str], version: str = "") -> None:
        self._what = what
        self.keys = dict(keys)
        self.features = dict(features)
        for name, type_ in keys.items():
            if type_ not in KEY_TYPES:
                raise InvalidInput(f"{what} has the key '{name}' of type {type_}; rows are found online by {list(KEY_TYPES)}.", hint="online=False")
        for name, type_ in features.items():
            if type_ not in _CELLS:
                raise InvalidInput(
                    f"{what} has the feature '{name}' of type {type_}; online are kept {list(_CELLS)}.", hint="cast it, or online=False"
                )
        self.fingerprint = bytes.fromhex(identify("online row", version, list(keys.items()), list(features.items()))[: 2 * _PRINT_BYTES])
        n_bits = -(-len(features) // 8)
        codes = [_CELLS[type_] for type_ in features.values()]
        packed = struct.Struct(f">QQ{_PRINT_BYTES}s{n_bits}s{''.join(codes)}")
        self._width, self._unpack = packed.size, packed.unpack_from
        self._no_nulls = bytes(n_bits)
        # Neighbours of one width are one field of the array: what they hold is taken out, and put in, at once.
        self._blocks = [(f"at {start}", start, n_alike) for start, n_alike in _find_runs(list(features.values()))]
        cells = [(name, _ARRAYS[codes[start]], (n,)) for name, start, n in self._blocks]
        self._dtype = np.dtype([("stamp", ">u8", (2,)), ("print", ">u4"), ("nulls", "u1", (n_bits,)), *cells])
        self._print = int.from_bytes(self.fingerprint, "big")
        self._texts = [place for place, type_ in enumerate(features.values()) if type_ == "text"]
        self._others = [(place, _READ_ONE[type_]) for place, type_ in enumerate(features.values()) if type_ in _READ_ONE]
        self._plain = not self._texts and not self._others
        self._encoders = [_KEYS[type_] for type_ in keys.values()]
        self._sole = self._encoders[0] if len(keys) == 1 else None

    def encode_key(self, values: Sequence[Any]) -> bytes | None:
        """One key as bytes; None where a part of it is null. Raises InvalidInput for a value of another type, naming its column."""
        if self._sole is not None:
            found = self._sole(values[0])
            if found is None and values[0] is not None:
                raise self._wrong_key(values)
            return found
        parts = [encode(value) for encode, value in zip(self._encoders, values, strict=True)]
        if None not in parts:
            last = len(parts) - 1
            types = list(self.keys.values())
            return b"".join(
                len(part or b"").to_bytes(4, "big") + (part or b"") if types[place] == "text" and place < last else part or b""
                for place, part in enumerate(parts)
            )
        if any(part is None and value is not None for part, value in zip(parts, values, strict=True)):
            raise self._wrong_key(values)
        return None

    def encode_many(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """Many keys, given by columns of Python values in the order of the keys. Cost: a fraction of a microsecond a key; see ``encode_keys``."""
        if self._sole is None:
            return [self.encode_key(values) for values in zip(*columns, strict=True)]
        if self._sole is _key_integer and set(map(type, columns[0])) == {int}:
            with suppress(OverflowError):
                return [(value + _ZERO).to_bytes(8, "big") for value in columns[0]]
        found = list(map(self._sole, columns[0]))
        if None in found:
            wrong = next((value for value, key in zip(columns[0], found, strict=True) if key is None and value is not None), None)
            if wrong is not None:
                raise self._wrong_key([wrong])
        return found

    def encode_keys(self, table: pa.Table) -> pa.Array:
        """The keys of a table's rows as bytes (large binary), null where a part is null."""
        last = len(self.keys) - 1
        parts: list[pa.Array] = []
        for place, (name, type_) in enumerate(self.keys.items()):
            column = self._column(table, name, type_)
            if type_ == "text":
                binary = column.cast(pa.binary())
                if place < last:
                    parts.append(_from_matrix(pc.fill_null(pc.binary_length(binary), 0).to_numpy().astype(">u4").view("u1").reshape(-1, 4)))
                parts.append(binary)
            else:
                cells = _WRITE_KEYS[type_](column)
                parts.append(
                    pc.if_else(column.is_valid(), _from_matrix(cells), pa.scalar(None, pa.binary())) if column.null_count else _from_matrix(cells)
                )
        joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.binary()), null_handling="emit_null") if len(parts) > 1 else parts[0]
        return joined.cast(pa.large_binary())

    def decode_keys(self, keys: Sequence[bytes]) -> list[list[Any]]:
        """The columns of keys that ``encode_keys`` or ``encode_key`` made; a UUID comes back as text."""
        columns: list[list[Any]] = [[] for _ in self.keys]
        last = len(self.keys) - 1
        for key in keys:
            start = 0
            for place, type_ in enumerate(self.keys.values()):
                if type_ == "text":
                    start += 0 if place == last else 4
                    end = len(key) if place == last else start + int.from_bytes(key[start - 4 : start], "big")
                else:
                    end = start + _KEY_BYTES[type_]
                columns[place].append(_READ_KEYS[type_](key[start:end]))
                start = end
        return columns

    def encode_rows(self, table: pa.Table) -> pa.Array:
        """The rows of a table as bytes, stamped by ``__event_at`` and ``__known_at``. Columns in any order; others are passed over.

        Cost: about a microsecond a row of ten numbers. Raises InvalidInput for a value that its feature's type does not hold, and for rows of more
        than 2 GiB in all: encode them in parts.
        """
        n = table.num_rows
        cells = np.zeros(n, self._dtype)
        for place, name in enumerate((EVENT_AT, KNOWN_AT)):
            stamp = self._column(table, name, "timestamp")
            if stamp.null_count:
                raise InvalidInput(f"{self._what} has rows without {name}.")
            cells["stamp"][:, place] = stamp.cast(pa.int64()).to_numpy().view(np.uint64) + np.uint64(_ZERO)
        cells["print"] = self._print
        slots = [cells[block][:, place] for block, _, n_alike in self._blocks for place in range(n_alike)]
        nulls = np.zeros((n, len(self.features)), bool)
        texts: list[pa.Array] = []
        end = np.zeros(n, np.int64)
        for place, (name, type_) in enumerate(self.features.items()):
            column = self._column(table, name, type_)
            if column.null_count:
                nulls[:, place] = column.is_null().to_numpy(zero_copy_only=False)
            if type_ == "text":
                texts.append(pc.fill_null(column.cast(pa.binary()), b""))
                end = end + pc.binary_length(texts[-1]).to_numpy()
                slots[place][:] = end
            else:
                slots[place][:] = _to_numbers(column)
        cells["nulls"] = np.packbits(nulls, axis=1, bitorder="little")
        if cells.nbytes + int(end.sum()) >= 2**31:
            raise InvalidInput(f"{self._what}: {n:,} rows are more than 2 GiB.", hint="pack them in parts")
        packed = _from_matrix(cells.view("u1").reshape(n, self._width))
        return pc.binary_join_element_wise(packed, *texts, pa.scalar(b"", pa.binary())) if texts else packed

    def decode_row(self, row: bytes) -> tuple[int, int, tuple[Any, ...]] | None:
        """One row: its stamp, in microseconds of UTC since 1970, and its values in the order of the features. None: other columns packed it."""
        if len(row) < self._width:
            return None
        found = self._unpack(row)
        if found[2] != self.fingerprint:
            return None
        values = found[4:]
        if found[3] != self._no_nulls or not self._plain:
            values = self._finish(row, values, nulls=int.from_bytes(found[3], "little"))
        return found[0] - _ZERO, found[1] - _ZERO, values

    def _finish(self, row: bytes, cells: Sequence[Any], *, nulls: int) -> tuple[Any, ...]:
        """The values of a row with texts, times or nulls."""
        values, start = list(cells), self._width
        for place in self._texts:
            end = self._width + values[place]
            values[place] = row[start:end].decode()
            start = end
        for place, read in self._others:
            values[place] = read(values[place])
        return tuple([None if nulls >> place & 1 else value for place, value in enumerate(values)]) if nulls else tuple(values)

    def decode_rows(self, rows: Sequence[bytes | None]) -> Columns:
        """Many rows by columns. Cost: some 0.3 microseconds a row of ten numbers, and 20 for all of them."""
        if len(rows) < _FEW:
            return self._decode_few(rows)
        width = self._width
        standing = cast("list[bytes]", rows) if None not in rows else [row or b"" for row in rows]
        if set(map(len, standing)) == {width}:
            heads = b"".join(standing)
        else:
            standing = [row if len(row) >= width else b"" for row in standing]
            heads = b"".join([row[:width] or bytes(width) for row in standing])
        cells = np.frombuffer(heads, self._dtype)
        ours = cells["print"] == self._print
        missing = [] if np.count_nonzero(ours) == len(rows) else np.flatnonzero(~ours).tolist()
        event, known = (cells["stamp"] + np.uint64(_ZERO)).view(np.int64).T.tolist()
        columns = self._take_columns(cells, standing, ours)
        bits = cells["nulls"]
        if np.count_nonzero(bits):
            for place, column in enumerate(columns):
                for row in np.flatnonzero(bits[:, place >> 3] >> (place & 7) & 1).tolist():
                    column[row] = None
        for column in (event, known, *columns) if missing else ():
            for row in missing:
                column[row] = None
        return Columns(event, known, columns)

    def _take_columns(self, cells: Any, rows: Sequence[bytes], ours: Any) -> list[list[Any]]:
        """The values of each feature; of rows that are not ours, anything."""
        columns: list[list[Any]] = []
        types = list(self.features.values())
        starts = np.full(len(cells), self._width)
        for block, first, _ in self._blocks:
            type_, values = types[first], cells[block].T
            if not self._plain:
                values = np.where(ours, values, values.dtype.type(0))
            if type_ == "text":
                for ends in values.astype(np.int64) + self._width:
                    columns.append([row[start:end].decode() for row, start, end in zip(rows, starts.tolist(), ends.tolist(), strict=True)])
                    starts = ends
            else:
                columns += values.tolist() if self._plain else [_READ_MANY[type_](column) for column in values]
        return columns

    def _decode_few(self, rows: Sequence[bytes | None]) -> Columns:
        nothing = (None, None, (None,) * len(self.features))
        found = [(self.decode_row(row) if row is not None else None) or nothing for row in rows]
        return Columns(
            [row[0] for row in found], [row[1] for row in found], [[row[2][place] for row in found] for place in range(len(self.features))]
        )

    def _column(self, table: pa.Table, name: str, type_: str) -> pa.Array:
        """A column in the one Arrow type that its cells are made from."""
        if name not in table.column_names:
            raise InvalidInput(f"{self._what} has rows without the column '{name}'. Columns: {table.column_names}.")
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        try:
            return _CAST[type_](column)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise InvalidInput(f"{self._what} keeps '{name}' as {type_}, and {column.type} came: {error}") from error

    def _wrong_key(self, values: Sequence[Any]) -> InvalidInput:
        for (name, type_), encode, value in zip(self.keys.items(), self._encoders, values, strict=True):
            if value is not None and encode(value) is None:
                shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
                return InvalidInput(
                    f"{self._what} is keyed by '{name}' ({type_}), and a key has {shown}, a {type(value).__name__}.", hint=_EXAMPLES[type_]
                )
        raise AssertionError("the caller has found one")


_EXAMPLES = {
    "bool": "true or false",
    "integer": "a whole number of 64 bits, not a text nor a fraction",
    "text": "a text that is Unicode",
    "date": "a date such as 2026-03-03",
    "uuid": "a UUID such as 123e4567-e89b-12d3-a456-426614174000",
}


def _find_runs(types: Sequence[str]) -> list[tuple[int, int]]:
    """Neighbours of the same type: where each run begins, and how long it is."""
    starts = [place for place, type_ in enumerate(types) if place == 0 or types[place - 1] != type_]
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], len(types)], strict=True)]


def _key_integer(value: Any) -> bytes | None:
    if type(value) is not int and not isinstance(value, np.integer):
        return None
    try:
        return (int(value) + _ZERO).to_bytes(8, "big")
    except OverflowError:
        return None


def _key_text(value: Any) -> bytes | None:
    try:
        return value.encode() if isinstance(value, str) else None
    except UnicodeEncodeError:
        return None


def _key_bool(value: Any) -> bytes | None:
    return (b"\x01" if value else b"\x00") if isinstance(value, bool | np.bool_) else None


def _key_date(value: Any) -> bytes | None:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, date) or isinstance(value, datetime):
        return None
    return (value.toordinal() - _EPOCH_DAY + 2**31).to_bytes(4, "big")


def _key_uuid(value: Any) -> bytes | None:
    if isinstance(value, UUID):
        return value.bytes
    if not isinstance(value, str):
        return None
    text = value.lower()
    return bytes.fromhex(text.replace("-", "")) if _UUID_TEXT.match(text) and len(text) == 36 else None


_KEYS: dict[str, Callable[[Any], bytes | None]] = {
    "bool": _key_bool,
    "integer": _key_integer,
    "text": _key_text,
    "date": _key_date,
    "uuid": _key_uuid,
}


_KEY_BYTES = {"bool": 1, "integer": 8, "date": 4, "uuid": 16}
_READ_KEYS: dict[str, Callable[[bytes], Any]] = {
    "bool": lambda part: part != b"\x00",
    "integer": lambda part: int.from_bytes(part, "big") - _ZERO,
    "text": bytes.decode,
    "date": lambda part: date.fromordinal(int.from_bytes(part, "big") - 2**31 + _EPOCH_DAY),
    "uuid": lambda part: str(UUID(bytes=part)),
}


def _cast_text(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    _require(column, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return column.cast(pa.string())


def _cast_number(column: pa.Array) -> pa.Array:
    _require(column, pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    return column.cast(pa.float64())


def _cast_integer(column: pa.Array) -> pa.Array:
    _require(column, pa.types.is_integer, pa.types.is_decimal, pa.types.is_null)
    return column.cast(pa.int64())


def _cast_bool(column: pa.Array) -> pa.Array:
    _require(column, pa.types.is_boolean, pa.types.is_null)
    return column.cast(pa.bool_())


def _cast_date(column: pa.Array) -> pa.Array:
    _require(column, pa.types.is_date, pa.types.is_null)
    return _within(column.cast(pa.date32()).cast(pa.int32()), _DAYS)


def _cast_timestamp(column: pa.Array) -> pa.Array:
    """Microseconds; those of an instant are UTC's."""
    _require(column, pa.types.is_timestamp, pa.types.is_null)
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = pc.floor_temporal(column, unit="microsecond")
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    return _within(column.cast(pa.timestamp("us", zone)).cast(pa.int64()), _MOMENTS)


def _cast_uuid(column: pa.Array) -> pa.Array:
    """16 bytes each, from texts or from what is 16 bytes already."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == 16:
        return column
    text = pc.utf8_lower(_cast_text(column))
    fits = pc.match_substring_regex(text, _UUID)
    if not pc.all(fits, skip_nulls=True, min_count=0).as_py():
        raise pa.ArrowInvalid(f"{text.filter(pc.invert(pc.fill_null(fits, True)))[0].as_py()!r} is no UUID")
    digits = pc.fill_null(pc.replace_substring(text, "-", ""), "0" * 32)
    codes = np.frombuffer(b"".join(digits.cast(pa.binary()).to_pylist()), np.uint8)
    halves = np.where(codes >= ord("a"), codes - (ord("a") - 10), codes - ord("0")).astype(np.uint8).reshape(-1, 2)
    whole = pa.Array.from_buffers(pa.binary(16), len(column), [None, pa.py_buffer((halves[:, 0] << 4 | halves[:, 1]).tobytes())])
    return pc.if_else(text.is_valid(), whole, pa.scalar(None, pa.binary(16))) if text.null_count else whole


_CAST: dict[str, Callable[[pa.Array], pa.Array]] = {
    "bool": _cast_bool,
    "integer": _cast_integer,
    "number": _cast_number,
    "text": _cast_text,
    "date": _cast_date,
    "timestamp": _cast_timestamp,
    "uuid": _cast_uuid,
}


def _require(column: pa.Array, *kinds: Callable[[Any], bool]) -> None:
    if not any(kind(column.type) for kind in kinds):
        raise pa.ArrowInvalid("it is of another kind")


def _within(column: pa.Array, bounds: tuple[int, int]) -> pa.Array:
    least, most = (bound.as_py() for bound in pc.min_max(column).values())
    if least is not None and (least < bounds[0] or most > bounds[1]):
        raise pa.ArrowInvalid("a time lies outside the years 1 to 9999")
    return column


def _to_numbers(column: pa.Array) -> Any:
    return (pc.fill_null(column, False if pa.types.is_boolean(column.type) else 0) if column.null_count else column).to_numpy(zero_copy_only=False)


def _shift(column: pa.Array) -> Any:
    return (_to_numbers(column).view(np.uint64) + np.uint64(_ZERO)).astype(">u8").view("u1").reshape(-1, 8)


def _uuid_bytes(column: pa.Array) -> Any:
    filled = pc.fill_null(column, bytes(16)) if column.null_count else column
    return np.frombuffer(filled.buffers()[1], np.uint8)[16 * filled.offset : 16 * (filled.offset + len(filled))].reshape(-1, 16)


_WRITE_KEYS: dict[str, Callable[[pa.Array], Any]] = {
    "bool": lambda column: _to_numbers(column).astype("u1").reshape(-1, 1),
    "integer": _shift,
    "date": lambda column: (_to_numbers(column).astype(np.int64) + 2**31).astype(">u4").view("u1").reshape(-1, 4),
    "uuid": _uuid_bytes,
}


def _from_matrix(cells: Any) -> pa.Array:
    """Rows of bytes of one width as Arrow's binary."""
    n, width = cells.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width
    if offsets[-1] >= 2**31:
        raise InvalidInput(f"{n:,} rows of {width} bytes are more than 2 GiB.", hint="pack them in parts")
    payload = np.ascontiguousarray(cells)
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(payload)])


_READ_ONE: dict[str, Callable[[int], Any]] = {
    "date": lambda value: date.fromordinal(value + _EPOCH_DAY),
    "timestamp": lambda value: _EPOCH + timedelta(microseconds=value),
}


def _as_list(values: Any) -> list[Any]:
    return list(values.tolist())


_READ_MANY: dict[str, Callable[[Any], list[Any]]] = {
    "bool": _as_list,
    "integer": _as_list,
    "number": _as_list,
    "date": lambda values: _as_list(values.astype("datetime64[D]")),
    "timestamp": lambda values: _as_list(values.astype("datetime64[us]")),
}

assert STAMP_BYTES == 16, "the first two cells are the stamp"
