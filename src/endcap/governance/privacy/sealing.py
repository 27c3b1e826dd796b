"""Sealing by columns: the personal values of one subject in one block of rows are one message, whose pieces lie where the values lay.

A column's rows are brought into the order of their subjects, so that each subject's values are one stretch of bytes. That is encrypted by AES-256-GCM
(NIST SP 800-38D) under the subject's key with a random nonce and cut again at the same places: the piece of the first row begins with the nonce,
that of the last ends with the tag. Nothing loops over rows, only over subjects; a block costs 28 bytes for each of its subjects and columns.
A value's length, and that it is missing, can be seen; what it is cannot, nor whether two are equal.

A block is as many rows as a row group has, so that a file is opened row group by row group. Beside the pieces lies a column of 24 bytes, the same for
all rows of a subject in a block: its name, the block's number and how many rows it has. The tag vouches for it that all pieces are there, at their
rows of that block and as long as they were, and that they are those of that column, as it is described, of that place: one partition of one dataset.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.privacy.subjects import NOBODY, REF_BYTES, Subjects
from endcap.storage.parquet import ROW_GROUP_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERSONAL = b"endcap.personal"
"""Under which a column says in its metadata that it is personal, and which column says whose: a ``Mark``."""
SEALED = b"endcap.sealed"
"""Under which a sealed column says what it was."""
REFS = "__subject_"
"""How the columns are called that say whose the sealed values are."""
_NONCE, _TAG = 12, 16
_BLOCK = struct.Struct(">II")  # its number, and how many rows it has
_ROW_BITS = 32
_FORM = 2
_LAID_BYTES = 8

_REF_TYPE = pa.binary(REF_BYTES + _BLOCK.size)
_MOST_KEYS = 1 << 20


class Mark(msgspec.Struct, frozen=True):
    """Whose the values of a column are: ``subject`` is the column of the table that says so (None: nobody can), ``kind`` what such subjects are
    called: the column that their table names them by. ``table`` is the one that declares the column, by which rights to see it are given.
    """

    subject: str | None
    kind: str
    table: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where a table rests: sealed values open there alone."""

    dataset: str
    partition: dict[str, str]

    def holds(self, other: Place) -> bool:
        """Whether another place is this one, or within it."""
        return self.dataset == other.dataset and all(other.partition.get(name) == value for name, value in self.partition.items())


class Sealed(msgspec.Struct, frozen=True):
    """What a sealed column was: its mark, its field as Arrow writes it, and the column with the names of the subjects; the place that it was sealed
    for, and in which form.
    """

    mark: Mark
    field: bytes
    refs: str
    place: Place = Place("", {})
    form: int = 1  # what was sealed before forms were counted

    @property
    def restored(self) -> pa.Field:
        """The column as it was."""
        return pa.ipc.read_schema(pa.py_buffer(self.field)).field(0)


def mark_personal(table: pa.Table, marks: Mapping[str, Mark]) -> pa.Table:
    """The table with columns declared personal; names that it has not are passed over. Costs nothing but a look at the names."""
    schema = table.schema
    for name, mark in marks.items():
        place = schema.get_field_index(name)
        if place >= 0:
            field = schema.field(place)
            schema = schema.set(place, field.with_metadata({**(field.metadata or {}), PERSONAL: msgspec.json.encode(mark)}))
    return table.cast(schema) if schema is not table.schema else table


def read_marks(schema: pa.Schema) -> dict[str, Mark]:
    """The columns that are declared personal and are not sealed."""
    return {
        field.name: msgspec.json.decode(field.metadata[PERSONAL], type=Mark)
        for field in schema
        if field.metadata is not None and PERSONAL in field.metadata
    }


def is_sealed(schema: pa.Schema) -> bool:
    """Whether some column is sealed."""
    return any(field.metadata is not None and SEALED in field.metadata for field in schema)


def read_sealed(schema: pa.Schema) -> dict[str, Sealed]:
    """The columns that are sealed."""
    return {
        field.name: msgspec.json.decode(field.metadata[SEALED], type=Sealed)
        for field in schema
        if field.metadata is not None and SEALED in field.metadata
    }


def restore_schema(schema: pa.Schema) -> pa.Schema:
    """The columns as they were before they were sealed."""
    sealed = read_sealed(schema)
    refs = {entry.refs for entry in sealed.values()}
    return pa.schema([sealed[field.name].restored if field.name in sealed else field for field in schema if field.name not in refs])


def list_refs(schema: pa.Schema) -> list[str]:
    """The columns that say whose the sealed values are."""
    return list(dict.fromkeys(sealed.refs for sealed in read_sealed(schema).values()))


def as_texts(values: pa.Array) -> list[str | None]:
    """The values of subjects as they are named: whole numbers without a fraction, dates and instants in ISO's form; NaN and null are nobody."""
    type_ = values.type
    if pa.types.is_floating(type_):
        return [
            None if value is None or math.isnan(value) else str(int(value)) if value.is_integer() else repr(value) for value in values.to_pylist()
        ]
    if pa.types.is_boolean(type_):
        return [None if value is None else str(value).lower() for value in values.to_pylist()]
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return [None if value is None else value.hex() for value in values.to_pylist()]
    try:
        return values.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _nameless(type_) from error


def seal_table(table: pa.Table, subjects: Subjects, *, place: Place, first_block: int = 0) -> pa.Table:
    """The table with each column that is declared personal sealed, and the columns of their subjects' names added.

    It opens in its ``place`` alone. ``first_block`` counts the blocks that rest in front of it there.
    Values of subjects who were forgotten become null. Raises InvalidInput where the column that says whose they are is not there.
    Cost: some 12 us a subject and column, 0.4 us a row; the keys of its subjects.
    """
    marks = read_marks(table.schema)
    if not marks:
        return table
    sources = list(dict.fromkeys((mark.subject, mark.kind) for mark in marks.values()))
    named = {source: _name_rows(table, *source, subjects=subjects) for source in sources}
    found = subjects.obtain({ref for _, refs in named.values() for ref in refs})
    for kind in dict.fromkeys(kind for _, kind in sources):
        subjects.note_kind(kind)
    keys = {source: [found.get(ref) for ref in refs] for source, (_, refs) in named.items()}
    blocks = [slice(start, start + ROW_GROUP_ROWS) for start in range(0, table.num_rows, ROW_GROUP_ROWS)]
    tails = [_BLOCK.pack(first_block + n, len(range(table.num_rows)[block])) for n, block in enumerate(blocks)]
    ordered = {source: [_Order.of(codes[block]) for block in blocks] for source, (codes, _) in named.items()}
    sealed_table = table
    for name, mark in marks.items():
        source = (mark.subject, mark.kind)
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        if pa.types.is_null(field.type):
            continue  # no value can stand there
        column = table.column(at)
        said = Sealed(mark, pa.schema([field]).serialize().to_pybytes(), f"{REFS}{sources.index(source)}", place, _FORM)
        context = _bind(name, said)
        pieces = [
            _seal_column(_combine(column[block]), order, keys[source], bound=context + tail)
            for block, order, tail in zip(blocks, ordered[source], tails, strict=True)
        ]
        sealed = pa.chunked_array(pieces, pa.large_binary())
        sealed_table = sealed_table.set_column(at, pa.field(name, pa.large_binary(), metadata={SEALED: msgspec.json.encode(said)}), sealed)
    for n, (codes, refs) in enumerate(named.values()):
        names = [pa.array([ref + tail for ref in refs], _REF_TYPE).take(pa.array(codes[block])) for block, tail in zip(blocks, tails, strict=True)]
        sealed_table = sealed_table.append_column(f"{REFS}{n}", pa.chunked_array(names, _REF_TYPE))
    return sealed_table


def unseal_table(table: pa.Table, subjects: Subjects, *, place: Place) -> pa.Table:
    """The table as it was before it was sealed for a place, marks and all. Values of subjects whose key is no more are null.

    Raises IntegrityBroken where pieces were altered or are missing, and for what was sealed for another place. Cost: that of sealing.
    """
    sealed = read_sealed(table.schema)
    require_place(sealed, place)
    return unseal_rows(table, KeyRing(subjects), sealed=sealed)


def require_place(sealed: Mapping[str, Sealed], place: Place) -> None:
    """Raise IntegrityBroken unless sealed columns are in the form that is read, and were sealed for a place, or one within it."""
    for name, entry in sealed.items():
        if entry.form != _FORM:
            raise IntegrityBroken(
                f"Sealed values of the column {name!r} are in form {entry.form}, of another Endcap; this one opens form {_FORM}.",
                hint="make them anew from their source: endcap features materialise, endcap run; or read them with the Endcap that wrote them",
            )
        if not place.holds(entry.place):
            raise IntegrityBroken(
                f"Sealed values of the column {name!r} lie in '{place.dataset}' {place.partition}, and were sealed for '{entry.place.dataset}'"
                f" {entry.place.partition}.",
                hint="somebody moved the file: restore it from a backup",
            )


class KeyRing:
    """Keys of subjects, as one reading needs them: looked up once while they are not too many."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._kept: dict[bytes, bytes | None] = {}

    def find(self, refs: Sequence[bytes]) -> list[bytes | None]:
        """The keys of subjects by their names; None for one whose key is no more."""
        unknown = {ref for ref in refs if ref not in self._kept}
        if unknown:
            if len(self._kept) + len(unknown) > _MOST_KEYS:
                self._kept.clear()
                unknown = set(refs)
            found = self._subjects.find(unknown)
            self._kept.update((ref, found.get(ref)) for ref in unknown)
        return [self._kept[ref] for ref in refs]


def unseal_rows(
    table: pa.Table, keys: KeyRing, *, sealed: Mapping[str, Sealed], rows: NDArray[np.int64] | None = None, first: int | None = None
) -> pa.Table:
    """Whole blocks of rows with their sealed columns opened, less the columns that said whose they are.

    ``sealed`` are the columns among them that are sealed. ``rows`` are the numbers of those that are wanted (None: all): then nothing is opened but
    the values of their subjects, and the others are left out. ``first`` is the number that the first block must have (None: any). Raises
    IntegrityBroken where pieces were altered or are missing.
    """
    opened: dict[str, tuple[_Order, list[bytes | None], _Blocks]] = {}
    for refs_name, column in {sealed[name].refs: name for name in reversed(list(sealed))}.items():
        if refs_name not in table.column_names:
            raise IntegrityBroken(f"Sealed columns stand without '{refs_name}', which says whose they are.", hint="restore them from a backup")
        coded = _combine(table[refs_name]).dictionary_encode()
        codes, marked = np.asarray(coded.indices.fill_null(-1)).astype(np.int64), coded.dictionary.to_pylist()
        if coded.null_count:
            raise _broken(column)
        blocks = _find_blocks(codes, marked, column=column)
        if first is not None and len(codes) and blocks.tails[codes[0]][:4] != first.to_bytes(4):
            raise _broken(column)
        found = keys.find([mark[:REF_BYTES] for mark in marked])
        if rows is not None:
            asked = np.zeros(len(marked), np.bool_)
            asked[codes[rows]] = True
            found = [key if wanted else None for key, wanted in zip(found, asked.tolist(), strict=True)]
        opened[refs_name] = _Order.of(codes), found, blocks
    taken = None if rows is None else pa.array(rows)
    for name, entry in sealed.items():
        at = table.schema.get_field_index(name)
        field = entry.restored
        values = _unseal_column(_combine(table.column(at)), *opened[entry.refs], name=name, bound=_bind(name, entry), type_=field.type)
        table = table.set_column(at, field, values)
    table = table.drop_columns(list(opened))
    return table if taken is None else table.take(taken)


def _bind(name: str, said: Sealed) -> bytes:
    """What all messages of a column are bound to: its name, and all that is said of it, its place among that."""
    return hashlib.sha256(b"%b\n%b" % (name.encode(), msgspec.json.encode(said))).digest()


@dataclass(frozen=True)
class _Blocks:
    """By the number of a subject in a block: what says which block that is, and its first row."""

    tails: list[bytes]
    starts: NDArray[np.int64]


def _find_blocks(codes: NDArray[np.int64], marked: Sequence[bytes], *, column: str) -> _Blocks:
    """Of which blocks rows are. Raises IntegrityBroken unless these are one behind another, and none of them lacks a row."""
    tails = np.frombuffer(b"".join(marked), np.uint8).reshape(-1, REF_BYTES + _BLOCK.size)[:, REF_BYTES:].copy().view(">u4").astype(np.int64)
    numbers, sizes = tails[:, 0], tails[:, 1]
    own = numbers[codes]
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    lengths = np.diff(np.append(starts, len(own)))
    if not np.array_equal(sizes[codes[starts]], lengths) or len(np.unique(tails, axis=0)) != len(starts):
        raise _broken(column)
    first = dict(zip(own[starts].tolist(), starts.tolist(), strict=True))
    return _Blocks([mark[REF_BYTES:] for mark in marked], np.array([first[number] for number in numbers.tolist()], np.int64))


def blank_table(table: pa.Table, subjects: Subjects) -> pa.Table:
    """The table with null for the personal values of subjects who were forgotten. Cost: a look at the shelves of its subjects."""
    marks, original = read_marks(table.schema), table
    for name, mark in marks.items():
        codes, refs = _name_rows(original, mark.subject, mark.kind, subjects=subjects)
        gone = subjects.is_forgotten(set(refs))
        if gone:
            there = np.array([ref not in gone for ref in refs], np.bool_)[codes]
            place = table.schema.get_field_index(name)
            column = table.column(place)
            table = table.set_column(place, table.schema.field(place), pc.if_else(pa.array(there), column, pa.scalar(None, column.type)))
    return table


@dataclass(frozen=True)
class _Order:
    """Rows in the order of their subjects, and of each the number of its subject."""

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, codes: NDArray[np.int64]) -> _Order:
        if len(codes) < 2 or (codes[1:] >= codes[:-1]).all():
            return cls(np.arange(len(codes)), codes)
        joined = (codes << _ROW_BITS) | np.arange(len(codes))  # one sort of whole numbers, not one of places
        joined.sort()
        return cls(joined & ((1 << _ROW_BITS) - 1), joined >> _ROW_BITS)

    def stretch(self, column: pa.Array, keys: Sequence[bytes | None]) -> _Stretches:
        """The stretches of rows with a value and a key."""
        rows, codes = self.rows, self.codes
        if column.null_count or None in keys:
            there = _valid(column)[rows] & np.array([key is not None for key in keys], np.bool_)[codes]
            rows, codes = rows[there], codes[there]
        starts = np.flatnonzero(np.diff(codes, prepend=-1, append=-1)) if len(codes) else np.zeros(1, np.int64)
        return _Stretches(rows, codes[starts[:-1]], starts)


@dataclass(frozen=True)
class _Stretches:
    """Rows with a value, in the order of their subjects: ``starts`` are where each subject's begin, with the end of all behind them."""

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    starts: NDArray[np.int64]


def _seal_column(column: pa.Array, order: _Order, keys: Sequence[bytes | None], *, bound: bytes) -> pa.Array:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = order.stretch(column, keys)
    lengths, plain = _pack(column.take(pa.array(found.rows)))
    ends = np.concatenate([[0], np.cumsum(lengths)])[found.starts].tolist()
    nonces = os.urandom(_NONCE * len(found.codes))
    laid, cuts = _lay_out(found.rows, lengths), (found.starts * _LAID_BYTES).tolist()
    parts: list[bytes] = []
    # What ends one message begins the next.
    for n, (code, first, last, a, b) in enumerate(zip(found.codes.tolist(), ends, ends[1:], cuts, cuts[1:], strict=False)):
        key, nonce = keys[code], nonces[_NONCE * n : _NONCE * (n + 1)]
        assert key is not None, "rows without a key were left out"
        parts += (nonce, AESGCM(key).encrypt(nonce, plain[first:last], bound + laid[a:b]))
    if len(found.codes):
        lengths[found.starts[:-1]] += _NONCE
        lengths[found.starts[1:] - 1] += _TAG
    return _scatter(_as_binary(lengths, b"".join(parts)), found.rows, n=len(column))


def _unseal_column(
    column: pa.Array, order: _Order, keys: Sequence[bytes | None], blocks: _Blocks, *, name: str, bound: bytes, type_: pa.DataType
) -> pa.Array:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = order.stretch(column, keys)
    lengths, sealed = _pack(column.take(pa.array(found.rows)))
    ends = np.concatenate([[0], np.cumsum(lengths)])[found.starts].tolist()
    if len(found.codes):
        lengths[found.starts[:-1]] -= _NONCE
        lengths[found.starts[1:] - 1] -= _TAG
    parts: list[bytes] = []
    try:
        if len(lengths) and lengths.min() < 0:
            raise InvalidTag
        counts = np.diff(found.starts)
        laid, cuts = _lay_out(found.rows - np.repeat(blocks.starts[found.codes], counts), lengths), (found.starts * _LAID_BYTES).tolist()
        heads = {tail: bound + tail for tail in set(blocks.tails)}
        own = [heads[tail] for tail in blocks.tails]
        # What ends one message begins the next.
        for code, first, last, a, b in zip(found.codes.tolist(), ends, ends[1:], cuts, cuts[1:], strict=False):
            key, start = keys[code], first + _NONCE
            assert key is not None, "rows without a key were left out"
            parts.append(AESGCM(key).decrypt(sealed[first:start], sealed[start:last], own[code] + laid[a:b]))
    except InvalidTag as error:
        raise _broken(name) from error
    return _scatter(_unpack(lengths, b"".join(parts), type_), found.rows, n=len(column))


def _lay_out(rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
    """At which rows of their block values lie, and how long each is: what messages are bound to, ``_LAID_BYTES`` a row."""
    return np.stack([rows, lengths], axis=1).astype("<u4").tobytes()


def _broken(column: str) -> IntegrityBroken:
    return IntegrityBroken(
        f"Sealed values of the column {column!r} do not open: they were altered, stood elsewhere, or some of their rows are missing.",
        hint="restore the file from a backup",
    )


def _name_rows(table: pa.Table, subject: str | None, kind: str, *, subjects: Subjects) -> tuple[NDArray[np.int64], list[bytes]]:
    """Of each row a number of its subject, and the names by number."""
    if subject is None:
        return np.zeros(table.num_rows, np.int64), subjects.name(*NOBODY_NAMED)
    if subject not in table.column_names:
        raise InvalidInput(
            f"Personal columns are those of the subject in {subject!r}, and the rows have no such column: {table.column_names}.",
            hint="let the rows carry it",
        )
    column = _combine(table[subject])
    if pa.types.is_null(column.type):
        return np.zeros(table.num_rows, np.int64), subjects.name(*NOBODY_NAMED)
    if pa.types.is_nested(column.type):
        raise _nameless(column.type)
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    texts = as_texts(coded.dictionary)
    codes = np.asarray(pc.fill_null(coded.indices.cast(pa.int64()), len(texts)))
    return codes, subjects.name(kind, [*texts, *([None] if column.null_count else [])])


def _nameless(type_: pa.DataType) -> InvalidInput:
    return InvalidInput(f"A subject cannot be named by values of type {type_}.", hint="name it by text, a whole number or a date")


NOBODY_NAMED: tuple[str, list[str | None]] = (NOBODY[0], [NOBODY[1]])


def _valid(column: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid(), np.bool_) if column.null_count else np.ones(len(column), np.bool_)


def _combine(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        return found.chunk(0) if found.num_chunks else pa.array([], column.type)
    return found


def _pack(values: pa.Array) -> tuple[NDArray[np.int64], memoryview]:
    """Values without nulls as one stretch of bytes, and how many bytes each has."""
    type_, n = values.type, len(values)
    if pa.types.is_dictionary(type_):
        values, type_ = values.dictionary_decode(), type_.value_type
    if pa.types.is_boolean(type_):
        values, type_ = values.cast(pa.uint8()), pa.uint8()
    if _is_fixed(type_):
        width = type_.bit_width // 8
        start = values.offset * width
        held = memoryview(values.buffers()[1]).cast("B")[start : start + n * width] if n else memoryview(b"")
        return np.full(n, width, np.int64), held
    if not _is_bytes(type_):
        plain = values.cast(_as_plain(type_)).to_pylist()
        values = pa.array([msgspec.msgpack.encode(value) for value in plain], pa.large_binary())
    values = values.cast(pa.large_binary())
    offsets = np.frombuffer(values.buffers()[1], np.int64, n + 1, values.offset * 8) if n else np.zeros(1, np.int64)
    held = memoryview(values.buffers()[2]).cast("B")[int(offsets[0]) : int(offsets[-1])] if n and values.buffers()[2] is not None else memoryview(b"")
    return np.diff(offsets), held


def _unpack(lengths: NDArray[np.int64], plain: bytes, type_: pa.DataType) -> pa.Array:
    """The values of a stretch of bytes. Raises IntegrityBroken where they are of another width than their type."""
    if pa.types.is_dictionary(type_):
        return _unpack(lengths, plain, type_.value_type).dictionary_encode().cast(type_)
    if pa.types.is_boolean(type_):
        return _unpack(lengths, plain, pa.uint8()).cast(type_)
    if _is_fixed(type_):
        if len(plain) != len(lengths) * type_.bit_width // 8:
            raise IntegrityBroken(f"Sealed values are not {type_}, as they say.", hint="restore the file from a backup")
        return pa.Array.from_buffers(type_, len(lengths), [None, pa.py_buffer(plain)])
    found = _as_binary(lengths, plain)
    if _is_bytes(type_):
        return found.cast(type_)
    return pa.array([msgspec.msgpack.decode(value) for value in found.to_pylist()], _as_plain(type_)).cast(type_)


def _as_binary(lengths: NDArray[np.int64], payload: bytes) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(payload)])


def _scatter(values: pa.Array, rows: NDArray[np.int64], *, n: int) -> pa.Array:
    """Values at their rows among ``n``, the others null."""
    places = np.full(n, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return values.take(pa.array(places, mask=places < 0))


def _as_plain(type_: pa.DataType) -> pa.DataType:
    """A nested type with numbers for its times and texts for its decimals, as MessagePack has them."""
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(field.name, _as_plain(field.type)) for field in type_])
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(_as_plain(type_.value_type))
    if pa.types.is_decimal(type_):
        return pa.string()
    if pa.types.is_temporal(type_):
        return pa.int32() if type_.bit_width == 32 else pa.int64()
    return type_


def _is_fixed(type_: pa.DataType) -> bool:
    held = pa.types.is_primitive(type_) or pa.types.is_decimal(type_) or pa.types.is_fixed_size_binary(type_)
    return bool(held and not pa.types.is_boolean(type_))


def _is_bytes(type_: pa.DataType) -> bool:
    kinds: list[Any] = [pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary]
    return any(kind(type_) for kind in kinds)
