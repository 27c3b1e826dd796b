"""Features that stand in Parquet files just as they are wanted: they are read by the places of their rows, and nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import InvalidInput
from endcap.loop.data.digests import require_unchanged
from endcap.loop.features.rows.view_sources import OpenTable, split_order
from endcap.pipelines.machine import count_cpus

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from endcap.loop.data.records import FileIdentity

_BATCH_ROWS = 32_768
_BUFFER_BYTES = 1 << 17

Places = NDArray[np.int64]


@dataclass(frozen=True)
class StoredFeatures:
    """Where a view's features stand: Parquet files in the order of ingest, and by feature the column and DuckDB's type of it."""

    files: tuple[FileIdentity, ...]
    columns: Mapping[str, str]
    types: Mapping[str, str]


def find_stored(view: FeatureView, table: OpenTable, *, stored: Mapping[str, str]) -> StoredFeatures | None:
    """Where the features stand as they are wanted (``stored``, DuckDB's types); None where any is derived, or a folder's name, or of another type."""
    source = table.source
    columns = {name: feature.column for name, feature in view.features.items()}
    plain = set(source.file_columns) - set(source.partitions)
    if source.format != "parquet" or not plain.issuperset(columns.values()):
        return None
    if any(stored[name] not in _arrow_types() or source.stored_types[column] != stored[name] for name, column in columns.items()):
        return None
    return StoredFeatures(table.files, columns, {name: stored[name] for name in columns})


def read_stored(features: StoredFeatures, order: Places, *, n_threads: int | None = None) -> dict[str, pa.Array] | None:
    """The features of rows, given by their places in the order of ingest, which rise; None where a file holds a column in a type of its own.

    Raises InvalidInput for files that cannot be read, or are no longer those that were identified. Cost: a reading of the row groups in which any of
    the rows stands, by ``n_threads`` (None: one for each CPU), a megabyte or two of them at a time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {name: _arrow_types()[type_] for name, type_ in features.types.items()}
    numbers, places = split_order(order, n_files=len(features.files))
    bounds = np.searchsorted(numbers, np.arange(len(features.files) + 1))
    columns = {name: _open_column(type_, n=len(order)) for name, type_ in wanted.items()}
    stretches: list[_Stretch] = []
    try:
        for number, file in enumerate(features.files):
            if bounds[number] == bounds[number + 1]:
                continue
            with pq.ParquetFile(file.path) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
            found = {field.name: pa.string() if pa.types.is_large_string(field.type) else field.type for field in schema}
            if any(found.get(features.columns[name]) != type_ for name, type_ in wanted.items()):
                return None
            stretches += _cut(file.path, metadata, places[bounds[number] : bounds[number + 1]], first=int(bounds[number]))
        with ThreadPoolExecutor(n_threads or count_cpus(), thread_name_prefix="features") as threads:
            list(threads.map(_read_stretch, stretches, repeat(features.columns), repeat(columns)))
    except (pa.ArrowException, OSError) as error:
        require_unchanged(features.files)
        raise InvalidInput(f"The features {sorted(features.columns)} cannot be read: {error}.", hint="write the file again") from error
    require_unchanged(features.files)
    return {name: column.finish() for name, column in columns.items()}


@dataclass(frozen=True)
class _Stretch:
    """A row group, the rows of it that are wanted (by their places in it, rising), and the number of the first among all that are wanted."""

    path: str
    metadata: pq.FileMetaData
    group: int
    rows: Places
    first: int


def _cut(path: str, metadata: pq.FileMetaData, places: Places, *, first: int) -> list[_Stretch]:
    """The row groups of a file in which any wanted row stands."""
    starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
    if places[-1] >= starts[-1]:
        raise OSError(f"{path} has {starts[-1]:,} rows, and row {places[-1]:,} is wanted")
    bounds = np.searchsorted(places, starts)
    found = range(metadata.num_row_groups)
    return [
        _Stretch(path, metadata, i, places[bounds[i] : bounds[i + 1]] - starts[i], first + int(bounds[i])) for i in found if bounds[i] < bounds[i + 1]
    ]


def _read_stretch(stretch: _Stretch, names: Mapping[str, str], columns: Mapping[str, _Column | _Parts]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(stretch.path, metadata=stretch.metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        start = n = 0
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[stretch.group], columns=[*dict.fromkeys(names.values())], use_threads=False):
            stop = int(np.searchsorted(stretch.rows, start + batch.num_rows))
            if stop > n:
                rows = stretch.rows[n:stop] - start
                for feature, name in names.items():
                    columns[feature].put(stretch.first + n, batch.column(batch.schema.get_field_index(name)), rows)
            start, n = start + batch.num_rows, stop
    if n < len(stretch.rows):
        raise OSError(f"{stretch.path} ends after {start:,} rows of row group {stretch.group}")


class _Column:
    """Values of a fixed width, put where they belong by several threads; which of them are valid is noted where any is not."""

    def __init__(self, type_: pa.DataType, *, n: int) -> None:
        self._type = type_
        self._values = np.empty(n, f"u{type_.bit_width // 8}")
        self._valid: list[tuple[int, NDArray[np.bool_]]] = []

    def put(self, first: int, column: pa.Array, rows: Places) -> None:
        """The values of some rows of a batch, the first of them at ``first``."""
        import pyarrow.compute as pc

        width = self._values.itemsize
        given = np.frombuffer(column.buffers()[1], self._values.dtype, len(column), column.offset * width)
        np.take(given, rows, out=self._values[first : first + len(rows)], mode="clip")
        if column.null_count:
            self._valid.append((first, np.asarray(pc.is_valid(column))[rows]))

    def finish(self) -> pa.Array:
        import pyarrow as pa

        bits = None
        if self._valid:
            valid = np.ones(len(self._values), np.bool_)
            for first, part in self._valid:
                valid[first : first + len(part)] = part
            bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
        return pa.Array.from_buffers(self._type, len(self._values), [bits, pa.py_buffer(self._values)])


class _Parts:
    """Values of any other type: as Arrow takes them, part by part."""

    def __init__(self, type_: pa.DataType) -> None:
        self._type = type_
        self._parts: list[tuple[int, pa.Array]] = []

    def put(self, first: int, column: pa.Array, rows: Places) -> None:
        import pyarrow as pa

        taken = column.take(pa.array(rows))
        taken.validate(full=True)  # a text must be one
        self._parts.append((first, taken.cast(self._type)))

    def finish(self) -> pa.Array:
        import pyarrow as pa

        ordered = sorted(self._parts, key=lambda part: part[0])
        return pa.concat_arrays([part for _, part in ordered]) if ordered else pa.array([], self._type)


def _open_column(type_: pa.DataType, *, n: int) -> _Column | _Parts:
    import pyarrow as pa

    if pa.types.is_string(type_):
        return _Parts(pa.large_string())  # texts of one column may hold more than 2 GiB
    return _Parts(type_) if pa.types.is_boolean(type_) else _Column(type_, n=n)


@cache
def _arrow_types() -> dict[str, pa.DataType]:
    """DuckDB's types that Arrow reads to the same values, and what it calls them."""
    import pyarrow as pa

    return {
        "BOOLEAN": pa.bool_(),
        "TINYINT": pa.int8(),
        "SMALLINT": pa.int16(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "UTINYINT": pa.uint8(),
        "USMALLINT": pa.uint16(),
        "UINTEGER": pa.uint32(),
        "FLOAT": pa.float32(),
        "DOUBLE": pa.float64(),
        "DATE": pa.date32(),
        "VARCHAR": pa.string(),
    }
