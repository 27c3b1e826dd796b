"""Tables as Parquet: how back ends write them, and how they read a snapshot of several as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING

from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, suggest, unknown

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as pads

ROW_GROUP_ROWS = 1 << 20
"""How many rows a row group has at most: what a reader has in memory at once."""
OPEN_AT_ONCE = 256  # files; processes are commonly allowed 1,024


def write_parquet(table: pa.Table, *, sink: IO[bytes]) -> int:
    """Write a table, row group by row group, each page with its checksum. Returns its rows.

    Fractions hardly repeat, so no dictionary is tried for them: their bytes are split by place, which packs better and takes a third of the time.
    The footer says no ends of long bytes: of what is sealed they mean nothing, and a filter on the column as it was must not be held against them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(set(table.column_names)) != table.num_columns:
        raise InvalidInput(f"The table has columns that share a name: {table.column_names}.")
    fractions = {field.name for field in table.schema if pa.types.is_float32(field.type) or pa.types.is_float64(field.type)}
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=[name for name in table.column_names if name not in fractions],
        column_encoding=dict.fromkeys(fractions, "BYTE_STREAM_SPLIT"),
        write_statistics=[field.name for field in table.schema if not pa.types.is_large_binary(field.type)],
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
    )
    return int(table.num_rows)


def read_parquet(
    files: Iterable[pa.NativeFile],
    *,
    dataset: str,
    partition: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    at_once: int = OPEN_AT_ONCE,
) -> pa.Table:
    """The rows of open files, one after another; see ``TableStore.read``. Takes ``at_once`` files at a time."""
    return read_fragments(map(open_fragment, files), dataset=dataset, partition=partition, columns=columns, at_once=at_once)


def read_fragments(
    fragments: Iterable[pads.ParquetFileFragment],
    *,
    dataset: str,
    partition: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    at_once: int = OPEN_AT_ONCE,
) -> pa.Table:
    """``read_parquet`` of what ``open_fragment`` opened."""
    import pyarrow as pa

    rest = iter(fragments)
    read: list[pa.Table] = []
    seen: dict[str, None] = {}
    while taken := list(islice(rest, at_once)):
        found = join_fragments(taken, dataset=dataset, partition=partition)
        seen.update(dict.fromkeys(found.schema.names))
        wanted = None if columns is None else [name for name in columns if name in found.schema.names]
        try:
            read.append(found.to_table(columns=wanted))
        except (pa.ArrowException, OSError) as error:
            raise damaged(dataset, error) from error
    if not read:
        raise _missing(dataset, partition)
    for name in columns or ():
        if name not in seen:
            raise InvalidInput(unknown("column", name, seen, where=f"Dataset '{dataset}'"), hint=suggest(name, seen))
    try:
        table = pa.concat_tables(read, promote_options="default")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise mixed(dataset, error) from error
    return table if columns is None else table.select(list(columns))


def open_parquet(files: Sequence[pa.NativeFile], *, dataset: str, partition: Mapping[str, str] | None = None) -> pads.Dataset:
    """Open files as one lazy dataset.

    Reading by handle, not by path, keeps a snapshot: a path could be replaced between reading its footer and reading its pages.
    """
    return join_fragments([open_fragment(file) for file in files], dataset=dataset, partition=partition)


def open_fragment(file: pa.NativeFile) -> pads.ParquetFileFragment:
    """An open file, each page of which is checked as it is read."""
    import pyarrow.dataset as pads

    kind = pads.ParquetFileFormat(default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True))
    return kind.make_fragment(file)


def join_fragments(fragments: Sequence[pads.ParquetFileFragment], *, dataset: str, partition: Mapping[str, str] | None = None) -> pads.Dataset:
    """Open files as one lazy dataset; see ``open_parquet``."""
    import pyarrow as pa
    import pyarrow.dataset as pads

    if not fragments:
        raise _missing(dataset, partition)
    try:
        schemas = [fragment.physical_schema for fragment in fragments]
    except (pa.ArrowException, OSError) as error:
        raise damaged(dataset, error) from error
    try:
        return pads.FileSystemDataset(list(fragments), pa.unify_schemas(schemas), fragments[0].format)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise mixed(dataset, error) from error


def open_files(paths: Iterable[str]) -> Iterator[pa.NativeFile]:
    """Open files one by one, leaving out those that went away since they were listed."""
    import pyarrow as pa

    for path in paths:
        try:
            yield pa.OSFile(path)
        except FileNotFoundError:
            continue


def _missing(dataset: str, partition: Mapping[str, str] | None) -> NotFound:
    where = f" with {dict(partition)}" if partition else ""
    return NotFound(f"Nothing is kept in '{dataset}'{where}.")


def damaged(dataset: str, error: Exception) -> IntegrityBroken:
    return IntegrityBroken(f"A partition of '{dataset}' was changed at rest: {error}.", hint="restore the file from a backup")


def mixed(dataset: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"Partitions of '{dataset}' cannot be read as one table: {error}.", hint="read them one by one")
