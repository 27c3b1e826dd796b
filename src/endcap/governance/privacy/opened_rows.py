"""Sealed rows as a lazy dataset: files are opened row group by row group while they are read, and nothing of them stays.

A ``pyarrow.dataset.Dataset`` is what all who read tables take: DuckDB, and rooms that scan by themselves. This one is made of the files as they rest,
and is read through its scanner alone: what it hands on is opened on its way. Of a row group the columns are read that are asked for, or that the
filter speaks of; none is read whose footer says that no row of it is wanted; and where the filter speaks of columns alone that are not sealed, the
values of no others are opened than of the subjects whose rows pass.

Arrow's own means of joining datasets read past the scanner. They would find sealed bytes: so the files that the dataset shows them cannot be read.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.privacy.sealing import PERSONAL, KeyRing, Place, Sealed, read_sealed, require_place, restore_schema, unseal_rows
from endcap.governance.privacy.subjects import Subjects
from endcap.storage.parquet import damaged, mixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

Columns = Sequence[str] | Mapping[str, pads.Expression] | None
_BATCH_ROWS = 65_536
_ROW = "__endcap_row"
_LENGTH = 1024


@dataclass(frozen=True)
class SealedPart:
    """A file of rows, of which columns may be sealed, and the place in which it was found."""

    fragment: pads.ParquetFileFragment
    place: Place

    @property
    def dataset(self) -> str:
        return self.place.dataset

    @cached_property
    def sealed(self) -> dict[str, Sealed]:
        return read_sealed(self.fragment.physical_schema)


class OpenedRows(pads.FileSystemDataset):  # type: ignore[misc]  # pyarrow ships no types
    """The rows of files one behind another, as they were before they were sealed. Values of subjects whose key is no more are null."""

    def __init__(self, parts: Sequence[SealedPart], subjects: Subjects, *, chosen: pads.Expression | None = None) -> None:
        _require_places(parts)
        kind = pads.ParquetFileFormat()
        super().__init__([kind.make_fragment(pa.PythonFile(_Unreadable(), mode="r"))], _unify(parts), kind)
        self._parts, self._subjects, self._chosen = tuple(parts), subjects, chosen

    def scanner(
        self,
        columns: Columns = None,
        filter: pads.Expression | None = None,  # noqa: A002 - Arrow's word
        batch_size: int = _BATCH_ROWS,
        **_: object,
    ) -> RowScanner:
        """See ``pyarrow.dataset.Dataset.scanner``; options of how files are read ahead mean nothing here."""
        both = filter if self._chosen is None else self._chosen if filter is None else self._chosen & filter
        return RowScanner(self._parts, self._subjects, self.schema, columns, both, batch_size)

    def filter(self, expression: pads.Expression) -> OpenedRows:
        """The same without the rows that do not pass."""
        return OpenedRows(self._parts, self._subjects, chosen=expression if self._chosen is None else self._chosen & expression)


@dataclass(frozen=True)
class RowScanner:
    """What ``Dataset.scanner`` gives, as far as anybody asks it."""

    parts: tuple[SealedPart, ...]
    subjects: Subjects
    dataset_schema: pa.Schema
    columns: Columns
    filter: pads.Expression | None
    batch_size: int

    @property
    def projected_schema(self) -> pa.Schema:
        if isinstance(self.columns, Mapping):
            return pads.dataset(self.dataset_schema.empty_table()).scanner(columns=dict(self.columns)).projected_schema
        return self._schema_of(self.dataset_schema.names if self.columns is None else self.columns)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in batches, opened while they are taken. Memory: those of a row group."""
        schema = self.projected_schema
        for opened in self._open_all():
            table = pads.dataset(opened).to_table(columns=dict(self.columns)) if isinstance(self.columns, Mapping) else opened
            if not schema.names:
                yield from _count_off(table.num_rows, self.batch_size)
                continue
            yield from table.select(schema.names).cast(schema).to_batches(max_chunksize=self.batch_size)

    def to_reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.projected_schema, self.to_batches())

    def to_table(self) -> pa.Table:
        batches = list(self.to_batches())
        if not self.projected_schema.names:
            return pa.table({_ROW: pa.nulls(sum(batch.num_rows for batch in batches))}).select([])
        return pa.Table.from_batches(batches, self.projected_schema)

    def head(self, num_rows: int) -> pa.Table:
        found: list[pa.RecordBatch] = []
        for batch in self.to_batches():
            found.append(batch.slice(0, num_rows - sum(one.num_rows for one in found)))
            if sum(one.num_rows for one in found) >= num_rows:
                break
        return pa.Table.from_batches(found, self.projected_schema)

    def count_rows(self) -> int:
        """How many rows pass. Without a filter a look at the footers; sealed values are opened where the filter speaks of them."""
        if self.filter is None:
            return sum(part.fragment.count_rows() for part in self.parts)
        return sum(table.num_rows for table in replace(self, columns=[])._open_all())

    def _schema_of(self, names: Sequence[str]) -> pa.Schema:
        return pa.schema([self._field(name) for name in names])

    def _field(self, name: str) -> pa.Field:
        place = self.dataset_schema.get_field_index(name)
        if place < 0:
            raise pa.ArrowInvalid(f"No match for FieldRef.Name({name}) in {self.dataset_schema.names}")
        return self.dataset_schema.field(place)

    def _find_needed(self, computed: Mapping[str, pads.Expression] | None) -> tuple[list[str], list[str]]:
        """The columns that are handed on or computed with, and those that the filter speaks of."""
        names = self.dataset_schema.names
        if computed is not None:
            wanted = [name for name in names if any(_speaks_of(expression, name) for expression in computed.values())]
        else:
            wanted = list(names) if self.columns is None else list(dict.fromkeys(self.columns))
        return wanted, [] if self.filter is None else [name for name in names if _speaks_of(self.filter, name)]

    def _open_all(self) -> Iterator[pa.Table]:
        """The rows that pass, row group by row group, in the columns that are needed."""
        keys, names = KeyRing(self.subjects), self._find_needed(self.columns if isinstance(self.columns, Mapping) else None)
        for part in self.parts:
            yield from self._open(part, keys, names)

    def _open(self, part: SealedPart, keys: KeyRing, names: tuple[list[str], list[str]]) -> Iterator[pa.Table]:
        for group in part.fragment.split_by_row_group(self.filter, schema=self.dataset_schema):
            opened = self._open_group(part, group, keys, names)
            if opened is not None:
                yield opened

    def _open_group(self, part: SealedPart, group: pads.ParquetFileFragment, keys: KeyRing, names: tuple[list[str], list[str]]) -> pa.Table | None:
        wanted, asked = names
        all_sealed = part.sealed
        there = [name for name in dict.fromkeys((*wanted, *asked)) if name in part.fragment.physical_schema.names]
        sealed = {name: all_sealed[name] for name in there if name in all_sealed}
        plain = [name for name in there if name not in sealed]
        refs = list(dict.fromkeys(entry.refs for entry in sealed.values()))
        ahead = self.filter is not None and not any(name in all_sealed for name in asked)
        table = self._complete(
            _read(part, group, plain),
            [name for name in dict.fromkeys((*wanted, *asked)) if name not in sealed],
            n_rows=sum(one.num_rows for one in group.row_groups),  # the fragment's own count is that of the file
        )
        rows: NDArray[np.int64] | None = None
        if ahead:
            rows = self._find_passing(table)
            if not len(rows):
                return None
            table, rows = (table, None) if len(rows) == table.num_rows else (table.take(pa.array(rows)), rows)
        if sealed:
            lying = _read(part, group, [*sealed, *(name for name in refs if name in group.physical_schema.names)])
            opened = unseal_rows(lying, keys, sealed=sealed, rows=rows, first=group.row_groups[0].id)
            for name in sealed:
                table = table.append_column(self._field(name), opened[name].cast(self._field(name).type))
        if self.filter is not None and not ahead:
            table = pads.dataset(table).to_table(filter=self.filter)
        return table if table.num_rows else None

    def _complete(self, table: pa.Table, names: Iterable[str], *, n_rows: int) -> pa.Table:
        """The table in the dataset's types, with nulls for columns that the file has not. Rows are counted where it has no column."""
        fields = {name: self._field(name) for name in names}
        columns = [
            table[name].cast(field.type) if name in table.column_names else pa.chunked_array([pa.nulls(n_rows, field.type)])
            for name, field in fields.items()
        ]
        if not columns:
            return pa.table({_ROW: pa.nulls(n_rows)})
        return pa.Table.from_arrays(columns, schema=pa.schema(list(fields.values())))

    def _find_passing(self, table: pa.Table) -> NDArray[np.int64]:
        """The numbers of the rows that pass the filter."""
        numbered = table.append_column(_ROW, pa.array(np.arange(table.num_rows)))
        return pads.dataset(numbered).to_table(columns=[_ROW], filter=self.filter)[_ROW].to_numpy()


class _Unreadable(io.RawIOBase):
    """A file that whoever reads past the scanner finds in the place of sealed ones.

    It has a length and may be sought in, as Arrow does when a dataset is made: an error of that moment would stay in the dataset, and hold with its
    traceback whatever its callers had open.
    """

    def __init__(self) -> None:
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return _LENGTH

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: _LENGTH}[whence]
        return self._at

    def read(self, *_: object) -> NoReturn:
        raise _past_scanner()


def _past_scanner() -> InvalidInput:
    return InvalidInput("Sealed rows are read through their scanner alone.", hint="call scanner(), to_table() or to_batches() of the dataset itself")


def _count_off(n_rows: int, batch_size: int) -> Iterator[pa.RecordBatch]:
    """Batches of no column, which have rows all the same."""
    for start in range(0, n_rows, batch_size):
        yield pa.record_batch({_ROW: pa.nulls(min(batch_size, n_rows - start))}).select([])


def _read(part: SealedPart, group: pads.ParquetFileFragment, names: Sequence[str]) -> pa.Table:
    if not names:
        return pa.table({})
    try:
        return group.to_table(columns=list(names), use_threads=False, batch_readahead=0)
    except (pa.ArrowException, OSError) as error:
        raise damaged(part.dataset, error) from error


def _speaks_of(expression: pads.Expression, name: str) -> bool:
    """Whether an expression may speak of a column: it is asked of its text, so of columns whose names are like others' more than speak are said."""
    text = str(expression)
    return name in text or "FieldRef" in text or "FieldPath" in text


def _require_places(parts: Sequence[SealedPart]) -> None:
    """Raise IntegrityBroken unless each file was sealed for where it lies, and no two for the same partition."""
    seen: list[Place] = []
    for part in parts:
        sealed = part.sealed
        require_place(sealed, part.place)
        seen += {str(entry.place): entry.place for entry in sealed.values()}.values()
    counted = Counter(repr(sorted(place.partition.items())) for place in seen)
    twice = next((place for place in seen if counted[repr(sorted(place.partition.items()))] > 1), None)
    if twice is not None:
        raise IntegrityBroken(
            f"Several files of '{twice.dataset}' were sealed for the same partition: {twice.partition}.",
            hint="somebody copied one: restore them from a backup",
        )


def _unify(parts: Sequence[SealedPart]) -> pa.Schema:
    """The schema of all parts, marks and all. Raises InvalidInput where a column has several types."""
    schemas = [restore_schema(part.fragment.physical_schema) for part in parts]
    try:
        found = pa.unify_schemas([schema.remove_metadata() for schema in schemas])
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise mixed(parts[0].dataset, error) from error
    for place, field in enumerate(found):
        metadata: list[Any] = [schema.field(field.name).metadata for schema in schemas if field.name in schema.names]
        kept = next((one for one in metadata if one and PERSONAL in one), metadata[0])
        found = found.set(place, field.with_metadata(kept))
    return found
