"""Profiles of Arrow columns, fine enough to tell distributions apart later without the rows: counted in one pass by kernels."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.data.column_kernels import GREATEST, estimate_distinct, fold_distinct, fold_distinct_texts, fold_numbers, start_distinct
from endcap.loop.data.histograms import N_BINS, Spread, choose_edges, close_bins, merge_spreads, write_histogram
from endcap.loop.data.records import MOST_TEXTS, QUANTILES, ColumnProfile

Doubles = NDArray[np.float64]

MOST_WHOLE = 50  # distinct whole numbers that are looked at as categories too
N_TOP = 256
MOST_CHARACTERS = 80  # of a category's text
_N_SAMPLED = 8_192  # values that edges are chosen by: the share of a bin is then about an eighth off
_ROWS_AT_ONCE = 2**18
_MOST_PARTS = 16
_SEED = 7
_NO_BITS = np.empty(0, np.uint8)
_FLOATING = (pa.float32(), pa.float64())


def profile_columns(
    rows: pa.Table | Iterable[pa.RecordBatch],
    *,
    personal: Collection[str] = (),
    against: Mapping[str, ColumnProfile] | None = None,
    n_threads: int | None = None,
) -> list[ColumnProfile]:
    """A profile of every column, in the order of the columns, with a histogram of each of numbers.

    ``rows`` are a table, or record batches of one schema, which are read once (a ``RecordBatchReader``, a scan of a dataset). NaN counts as
    missing; infinities, and numbers from 1e300 on, are counted and left out. Decimals are read as doubles. Of columns named in ``personal``
    there are counts only. Categories are cut after 80 characters, with the digest of the whole text behind.

    ``against`` are profiles that will be compared with these, by column: then the numbers are counted on their edges too, so that shares
    between these are exact, and their categories are counted though they be rare. Each column has about 120 bins of its own besides, from
    a sample of its values: counts at their edges are exact for a table and for up to 2^18 rows of batches; of more batches, each 2^18 rows are
    counted on edges of their own and merged, which puts a count off by a bin's share (about 1/116) at worst. ``n_threads`` None: one for each CPU.

    Types are Endcap's (bool, integer, number, text, date, timestamp, uuid), Arrow's own otherwise; of lists and structs distinct values are not
    counted (0). Raises InvalidInput when two columns share a name, or batches have different columns. Cost: O(values), about 15 ns a
    number, 10 to 50 ns a text, beside a few hundred kilobytes a column; batches are held until there are 2^18 rows.
    """
    tables: Iterator[pa.Table] = iter((rows,)) if isinstance(rows, pa.Table) else _gather(rows)
    first = next(tables, None)
    if first is None:
        first = (rows.schema if isinstance(rows, pa.RecordBatchReader) else pa.schema([])).empty_table()
    names = first.column_names
    if len(set(names)) < len(names):
        raise InvalidInput(f"Two columns share a name: {sorted({name for name in names if names.count(name) > 1})}.", hint="rename one of them")
    folds = [
        _open_fold(name, type_, shown=name not in personal, against=(against or {}).get(name))
        for name, type_ in zip(names, first.schema.types, strict=True)
    ]
    with ThreadPoolExecutor(n_threads or os.cpu_count() or 1, thread_name_prefix="profile") as pool:
        for table in chain((first,), tables):
            if table.schema.types != first.schema.types or table.column_names != names:
                raise InvalidInput(f"Batches have different columns: {first.schema.to_string()!r} and {table.schema.to_string()!r}.")
            list(pool.map(lambda fold, column: fold.fold(column), folds, table.columns))
    return [fold.profile() for fold in folds]


def name_arrow_type(type_: pa.DataType) -> str:
    """Endcap's name for an Arrow type; Arrow's own where Endcap has none.

    >>> [name_arrow_type(t) for t in (pa.uint8(), pa.decimal128(9, 2), pa.large_string(), pa.date32(), pa.list_(pa.int8()))]
    ['integer', 'number', 'text', 'date', 'list<item: int8>']
    """
    is_a = pa.types
    if is_a.is_dictionary(type_):
        return name_arrow_type(type_.value_type)
    named = (
        ("bool", is_a.is_boolean),
        ("integer", is_a.is_integer),
        ("number", is_a.is_floating),
        ("number", is_a.is_decimal),
        ("text", is_a.is_string),
        ("text", is_a.is_large_string),
        ("text", is_a.is_string_view),
        ("date", is_a.is_date),
        ("timestamp", is_a.is_timestamp),
    )
    if isinstance(type_, pa.UuidType):
        return "uuid"
    return next((name for name, holds in named if holds(type_)), str(type_))


def name_category(value: Any) -> str:
    r"""The text that a category is known by: of a long one its beginning and a digest, of bytes that are no text what can be read.

    >>> name_category(True), name_category(-3), name_category(b"caf\xe9")
    ('true', '-3', 'caf\\xe9')
    """
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… {sha256(text.encode(errors='backslashreplace')).hexdigest()[:12]}"


def _gather(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches together, of about 2^18 rows."""
    held: list[pa.RecordBatch] = []
    n_rows = 0
    try:
        for batch in batches:
            held.append(batch)
            n_rows += batch.num_rows
            if n_rows >= _ROWS_AT_ONCE:
                yield pa.Table.from_batches(held)
                held, n_rows = [], 0
        if held:
            yield pa.Table.from_batches(held)
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"The batches cannot be read as one table: {error}.") from error


def _open_fold(name: str, type_: pa.DataType, *, shown: bool, against: ColumnProfile | None) -> _Fold:
    named = name_arrow_type(type_)
    if named in ("integer", "number"):
        return _Numbers(name, named, shown=shown, against=against)
    if named in ("text", "bool"):
        return _Texts(name, named, shown=shown, against=against)
    return (_Times if named in ("date", "timestamp") else _Fold)(name, named, shown=shown)


class _Fold:
    """What every column has: rows, missing values and how many are different."""

    def __init__(self, name: str, type_: str, *, shown: bool) -> None:
        self.name, self.type, self.shown = name, type_, shown
        self.n = self.n_null = 0
        self.slots, self.state = start_distinct()

    def fold(self, column: pa.ChunkedArray) -> None:
        self.n += len(column)
        self.n_null += column.null_count
        self._fold_chunks([_plain(chunk) for chunk in column.chunks if len(chunk)])

    def profile(self) -> ColumnProfile:
        n_distinct = min(estimate_distinct(self.state), self.n - self.n_null)
        described = self._describe() if self.shown else {}
        return ColumnProfile(name=self.name, type=self.type, n=self.n, n_null=self.n_null, n_distinct=n_distinct, **described)

    def _fold_chunks(self, chunks: Sequence[pa.Array]) -> None:
        for chunk in chunks:
            if not pa.types.is_null(chunk.type) and not pa.types.is_nested(chunk.type):
                self._fold_texts(_as_bytes(chunk))

    def _describe(self) -> dict[str, Any]:
        return {}

    def _fold_texts(self, chunk: pa.Array) -> None:
        validity, bounds, payload = chunk.buffers()
        offsets = np.frombuffer(bounds, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        held = np.frombuffer(payload, np.uint8) if payload is not None and payload.size else _NO_BITS
        fold_distinct_texts(held, offsets, _bits(validity, chunk), chunk.offset, self.slots, self.state)

    def _fold_whole(self, chunk: pa.Array) -> None:
        unsigned = _values(chunk if pa.types.is_uint64(chunk.type) else chunk.cast(pa.int64())).view(np.uint64)
        fold_distinct(unsigned, np.uint64(0), np.uint64(0), _bits(chunk.buffers()[0], chunk), chunk.offset, self.slots, self.state)


def _plain(chunk: pa.Array) -> pa.Array:
    """The values themselves, whatever they are wrapped in."""
    if isinstance(chunk, pa.ExtensionArray):
        return chunk.storage
    return chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk


def _as_bytes(chunk: pa.Array) -> pa.Array:
    """The values as bytes of one kind, by which they are told apart; a text from elsewhere need not be one."""
    is_a = pa.types
    if is_a.is_binary(chunk.type) or is_a.is_large_binary(chunk.type) or is_a.is_binary_view(chunk.type) or is_a.is_fixed_size_binary(chunk.type):
        return chunk.cast(pa.large_binary())
    if is_a.is_string(chunk.type) or is_a.is_string_view(chunk.type) or is_a.is_large_string(chunk.type):
        return chunk.cast(pa.large_binary())
    return chunk.cast(pa.large_string()).cast(pa.large_binary())


def _values(chunk: pa.Array) -> NDArray[Any]:
    """The numbers of a chunk as they lie in memory, those that are missing too."""
    return np.frombuffer(chunk.buffers()[1], chunk.type.to_pandas_dtype())[chunk.offset : chunk.offset + len(chunk)]


def _bits(validity: Any, chunk: pa.Array) -> NDArray[np.uint8]:
    return np.frombuffer(validity, np.uint8) if validity is not None and chunk.null_count else _NO_BITS


class _Categories:
    """Rows by a category's name as long as there are few; ``counts`` is None once there were too many."""

    def __init__(self, most: int, *, kept: ColumnProfile | None) -> None:
        self.most, self.kept = most, {name for name, _ in kept.top} if kept else set()
        self.counts: dict[str, int] | None = {}

    def fold(self, chunk: pa.Array, *, n_distinct: int) -> None:
        """Count the values of a chunk, unless so many are distinct by now that they are no categories."""
        if n_distinct > self.most:
            self.counts = None
        if self.counts is None:
            return
        found = pc.value_counts(chunk.drop_null())
        for value, n in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
            name = name_category(value)
            self.counts[name] = self.counts.get(name, 0) + n

    def top(self) -> list[tuple[str, int]]:
        """The most frequent, and those that are kept however rare they are; none where there are too many."""
        ordered = sorted((self.counts or {}).items(), key=lambda item: (-item[1], item[0]))
        return [*ordered[:N_TOP], *(item for item in ordered[N_TOP:] if item[0] in self.kept)]


class _Texts(_Fold):
    """Texts and bools."""

    def __init__(self, name: str, type_: str, *, shown: bool, against: ColumnProfile | None) -> None:
        super().__init__(name, type_, shown=shown)
        self.categories = _Categories(MOST_TEXTS if shown else 0, kept=against)

    def _fold_chunks(self, chunks: Sequence[pa.Array]) -> None:
        for chunk in chunks:
            plain = chunk if self.type == "bool" else _as_bytes(chunk)
            if self.type == "bool":
                self._fold_whole(chunk.cast(pa.uint8()))
            else:
                self._fold_texts(plain)
            self.categories.fold(plain, n_distinct=estimate_distinct(self.state))

    def _describe(self) -> dict[str, Any]:
        top = self.categories.top()
        if self.type != "bool" or self.n == self.n_null:
            return {"top": top}
        return {"top": top, "mean": dict(top).get("true", 0) / (self.n - self.n_null)}


class _Times(_Fold):
    """Dates and timestamps: their span, in microseconds."""

    def __init__(self, name: str, type_: str, *, shown: bool) -> None:
        super().__init__(name, type_, shown=shown)
        self.ends: list[int] = []

    def _fold_chunks(self, chunks: Sequence[pa.Array]) -> None:
        for chunk in chunks:
            ticks = chunk.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
            self._fold_whole(ticks)
            found = pc.min_max(ticks).as_py()
            self.ends = [end for end in (*self.ends, *found.values()) if end is not None]
            self.ends = [min(self.ends), max(self.ends)] if self.ends else []

    def _describe(self) -> dict[str, Any]:
        return {name: self._write(end) for name, end in zip(("least", "most"), self.ends, strict=False)}

    def _write(self, ticks: int) -> str:
        text = str(pa.scalar(ticks, pa.timestamp("us")).cast(pa.string()).as_py()).replace(" ", "T")
        return text.split("T")[0] if self.type == "date" else text.removesuffix(".000000")


class _Numbers(_Fold):
    """Numbers: each table is counted on edges of its own and those of the reference, and what was counted is merged."""

    def __init__(self, name: str, type_: str, *, shown: bool, against: ColumnProfile | None) -> None:
        super().__init__(name, type_, shown=shown)
        self.whole = type_ == "integer"
        self.categories = _Categories(MOST_WHOLE if self.whole and shown else 0, kept=against)
        self.reference = np.asarray(against.histogram.edges) if shown and against and against.histogram else np.empty(0)
        self.parts: list[list[Spread]] = [[]]
        self.n_infinite = self.n_finite = 0
        self.centre, self.total, self.squares, self.least, self.most = 0.0, 0.0, 0.0, np.inf, -np.inf

    def _fold_chunks(self, chunks: Sequence[pa.Array]) -> None:
        floating = [chunk if chunk.type in _FLOATING else chunk.cast(pa.float64(), safe=False) for chunk in chunks]
        sample = _sample(floating)
        if self.n_finite == 0 and sample.size:
            self.centre = float(sample[sample.size // 2])
        edges = np.union1d(choose_edges(sample, whole=self.whole), self.reference) if self.shown else np.empty(0)
        n = edges.size
        padded = np.full(2 ** math.ceil(math.log2(n + 1)) - 1, np.inf)
        padded[:n] = edges
        counts, sums = np.zeros(padded.size + 1, np.int64), np.zeros(padded.size + 1)
        moments, tallies = np.array([self.centre, self.total, self.squares, np.inf, -np.inf]), np.zeros(2, np.int64)
        for chunk, original in zip(floating, chunks, strict=True):
            fold_numbers(_values(chunk), _bits(chunk.buffers()[0], chunk), chunk.offset, padded, counts, sums, moments, tallies)
            self._fold_different(original if self.whole else chunk)
        _, self.total, self.squares, least, most = moments.tolist()
        self.n_null += int(tallies[0]) - sum(chunk.null_count for chunk in chunks)  # those were counted before
        self.n_infinite += int(tallies[1])
        self.n_finite += int(counts.sum())
        if least > most:
            return
        self.least, self.most = min(self.least, least), max(self.most, most)
        if self.shown:
            means = self.centre + np.divide(sums, counts, out=np.zeros(counts.size), where=counts > 0)
            self._add(close_bins(edges, counts[: n + 1], means[: n + 1], least=least, most=most, whole=self.whole))

    def _fold_different(self, chunk: pa.Array) -> None:
        if self.whole:
            self._fold_whole(chunk)
            self.categories.fold(chunk, n_distinct=estimate_distinct(self.state))
            return
        values = _values(chunk)
        unsigned = np.uint32 if values.dtype == np.float32 else np.uint64
        infinity = np.array([np.inf], values.dtype).view(unsigned)[0]
        magnitude = np.iinfo(unsigned).max >> 1
        bits = _bits(chunk.buffers()[0], chunk)
        fold_distinct(values.view(unsigned), unsigned(magnitude), infinity, bits, chunk.offset, self.slots, self.state)

    def _add(self, spread: Spread) -> None:
        """Keep a part. Sixteen are merged to one, in bins so fine that merging again and again adds little."""
        self.parts[0].append(spread)
        for level, parts in enumerate(self.parts):
            if len(parts) < _MOST_PARTS:
                return
            if level + 1 == len(self.parts):
                self.parts.append([])
            self.parts[level + 1].append(merge_spreads(parts, n_bins=8 * N_BINS, kept=self.reference))
            parts.clear()

    def _describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"top": self.categories.top(), "n_infinite": self.n_infinite}
        if self.n_finite == 0:
            return found
        parts = [part for level in self.parts for part in level]
        spread = parts[0] if len(parts) == 1 else merge_spreads(parts, kept=self.reference)
        shift = self.total / self.n_finite
        mean, deviation = self.centre + shift, math.sqrt(max(self.squares / self.n_finite - shift * shift, 0.0))
        return found | {
            "least": self.least,
            "most": self.most,
            "mean": mean,
            "deviation": deviation if math.isfinite(deviation) else None,
            "quantiles": np.clip(spread.quantiles(np.asarray(QUANTILES)), self.least, self.most).tolist(),
            "histogram": write_histogram(spread),
        }


def _sample(chunks: Sequence[pa.Array]) -> Doubles:
    """Sorted finite values from all over the chunks, by which edges are chosen; what is counted at the edges does not depend on it."""
    n = sum(len(chunk) for chunk in chunks)
    rng = np.random.default_rng(_SEED)
    taken = []
    for chunk in chunks:
        values = _values(chunk)
        share = min(len(values), math.ceil(_N_SAMPLED * len(values) / n))
        # One of each stretch: even, and in step with no period.
        places = ((np.arange(share) + rng.random(share)) * (len(values) / share)).astype(np.int64) if share < len(values) else np.arange(share)
        picked = values[places].astype(np.float64)
        bits = _bits(chunk.buffers()[0], chunk)
        if bits.size:
            picked = picked[(bits[(chunk.offset + places) >> 3] >> ((chunk.offset + places) & 7)) & 1 == 1]
        taken.append(picked)
    sample = np.concatenate(taken) if taken else np.empty(0)
    return np.sort(sample[np.abs(sample) < GREATEST])
