"""Spines: the rows that features are joined to, their instants in UTC, and their keys by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text
from endcap.core.zones import load_zone
from endcap.governance.sessions import Session
from endcap.loop.features.joins import MISSING, Codes, Instants

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Given: TypeAlias = "pa.Table | Path | Table | Any"  # or a frame that gives its columns by __arrow_c_stream__

_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
_DAY_US = 86_400_000_000
_UTC = ("UTC", "Etc/UTC")
_CASTS = {
    "integer": "CAST({} AS BIGINT) in the spine, if it holds whole numbers",
    "text": "CAST({} AS VARCHAR) in the spine, if its texts are those of the view",
    "date": "CAST({} AS DATE) in the spine",
}
_COUNT = count()


@dataclass(frozen=True)
class Spine:
    """Rows to join features to.

    ``zone`` is that of its times without one (None: not declared); ``read`` gives rows from one number to before another, by columns (None: all).
    ``what`` begins sentences about it.
    """

    what: str
    schema: pa.Schema
    n_rows: int
    zone: str | None
    read: Callable[[Sequence[str] | None, int, int], pa.Table]

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return self.read(names, 0, self.n_rows)


def open_spine(session: Session, spine: Given, *, folder: Path, engine: duckdb.DuckDBPyConnection) -> Spine:
    """A spine from Arrow, from a frame of pandas or Polars, from a file, or from a declared table.

    A Parquet file is read as it is wanted, and stays as wide as it is on the disk; anything else is held in memory. Files of other sorts, and
    folders, are read as an undeclared table is; a declared table is ingested first, and its rows come in the order of its files. Raises
    InvalidInput for anything else, for columns that share a name, and for files that cannot be read.
    """
    if isinstance(spine, Table):
        return _open_table(session, spine, folder=folder, engine=engine, what=f"The spine '{spine.name}'", declared=True)
    if isinstance(spine, str | Path):
        path = Path(spine) if Path(spine).is_absolute() else folder / spine
        if path.suffix == ".parquet" and path.is_file():
            return _open_parquet(path)
        return _open_table(session, Table("spine", str(spine)), folder=folder, engine=engine, what=f"The spine {spine}", declared=False)
    return _open_arrow(spine)


def as_arrow(spine: Any) -> pa.Table:
    """The rows of a frame. Raises InvalidInput for what holds none."""
    import pyarrow as pa

    if isinstance(spine, pa.Table):
        return spine
    if not hasattr(spine, "__arrow_c_stream__"):
        raise InvalidInput(
            f"The spine is {type(spine).__name__!r}, which holds no rows.",
            hint="give a pyarrow, pandas or Polars table, the path of a file, or an ec.Table",
        )
    return pa.RecordBatchReader.from_stream(spine).read_all()


def _open_arrow(spine: Any) -> Spine:
    table = as_arrow(spine)
    return _made("The spine", table.schema, table.num_rows, None, lambda names, a, b: _select(table, names).slice(a, b - a))


def _open_parquet(path: Path) -> Spine:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"The spine {path} cannot be read: {error}.", hint="is it a Parquet file?") from error
    starts = np.cumsum([0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))])

    @lru_cache(maxsize=1)  # blocks of rows end within groups
    def read_groups(names: tuple[str, ...] | None, first: int, last: int) -> pa.Table:
        try:
            return file.read_row_groups(range(first, last), columns=names and list(names)) if last > first else file.schema_arrow.empty_table()
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"The spine {path} cannot be read: {error}.", hint="write it anew") from error

    def read(names: Sequence[str] | None, start: int, stop: int) -> pa.Table:
        first, last = int(np.searchsorted(starts, start, side="right")) - 1, int(np.searchsorted(starts, stop))
        first = min(first, last)
        rows = read_groups(None if names is None else tuple(names), first, last)
        return _select(rows, names).slice(start - int(starts[first]), stop - start)

    return _made(f"The spine {path}", file.schema_arrow, file.metadata.num_rows, None, read)


def _open_table(session: Session, table: Table, *, folder: Path, engine: duckdb.DuckDBPyConnection, what: str, declared: bool) -> Spine:
    from endcap.loop.data.digests import digest_file
    from endcap.loop.data.failures import reading
    from endcap.loop.data.ingested import open_ingested
    from endcap.loop.data.sources import open_source
    from endcap.loop.data.verbs import ingest

    if declared:
        source = open_ingested(session, table, ingest(session, table, folder=folder), folder=folder, engine=engine)
    else:
        source = open_source(table, folder=folder, zone=session.zone, engine=engine, digests=lambda path: digest_file(session, path))
    names = ", ".join(quote(name) for name in source.columns)
    with reading(table, columns=source.columns):
        engine.execute("SET preserve_insertion_order = true")
        try:
            rows = engine.sql(f"SELECT {names} FROM ({source.sql})").to_arrow_table()
        finally:
            engine.execute("SET preserve_insertion_order = false")
    zone = (table.zone or source.zone) if declared else None
    return _made(what, rows.schema, rows.num_rows, zone, lambda names, a, b: _select(rows, names).slice(a, b - a))


def _made(what: str, schema: pa.Schema, n_rows: int, zone: str | None, read: Callable[[Sequence[str] | None, int, int], pa.Table]) -> Spine:
    doubles = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if doubles:
        raise InvalidInput(f"{what} has two columns called {doubles[0]!r}.", hint="rename one of them")
    return Spine(what, schema.remove_metadata(), n_rows, zone, read)


def _select(rows: pa.Table, names: Sequence[str] | None) -> pa.Table:
    return (rows if names is None else rows.select(list(names))).replace_schema_metadata(None)


def require_column(spine: Spine, name: str, *, of: str) -> None:
    """Raise InvalidInput, with the nearest name, unless the spine has the column; ``of`` says what wants it."""
    if name not in spine.schema.names:
        hint = suggest(name, spine.schema.names) or f"{of} needs it"
        raise InvalidInput(unknown("column", name, spine.schema.names, where=spine.what), hint=hint)


def read_instants(spine: Spine, at: str, *, zone: str | None, engine: duckdb.DuckDBPyConnection) -> tuple[Instants, NDArray[np.bool_]]:
    """The instants of a column in microseconds of UTC, and which rows have one.

    A time with a zone is an instant. One without is wall time of ``zone``, or where that is None of the zone that the spine declares; a date
    is its local midnight. A wall time that a change of clocks repeats is the earlier instant, one that it skips is read as if the clocks had
    not changed. Finer times than microseconds are rounded down, so that nothing later is seen. Raises InvalidInput where no zone is said,
    for a column that is no time and for times that microseconds cannot hold.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    require_column(spine, at, of="at=")
    if zone is not None:
        load_zone(zone)
    column = spine.columns([at])[at]
    type_ = column.type
    if pa.types.is_null(type_):
        return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)
    if not (pa.types.is_timestamp(type_) or pa.types.is_date(type_)):
        said = "a text" if pa.types.is_string(type_) or pa.types.is_large_string(type_) else f"of type {type_}"
        raise InvalidInput(f"{spine.what}: column {at!r} holds no times: it is {said}.", hint="make it a timestamp or a date")
    there = _concat([np.asarray(pc.is_valid(chunk)) for chunk in column.chunks], np.bool_)
    whole = _concat([_count_us(chunk, what=f"{spine.what}: column {at!r}") for chunk in column.chunks], np.int64)
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        return whole, there
    zone = zone or spine.zone
    if zone is None:
        raise InvalidInput(
            f"{spine.what}: column {at!r} holds instants whose zone is neither given nor declared.", hint="give zone='Europe/Berlin', say, or 'UTC'"
        )
    if zone in _UTC:
        return whole, there
    named, day = quote_text(zone), _DAY_US
    with lent(engine, {"wall": pa.array(whole).cast(pa.timestamp("us")), "n": pa.array(np.arange(len(whole)))}) as name:
        late = f"SELECT n, epoch_us(wall) AS wall, epoch_us(timezone({named}, wall)) AS late FROM {name}"  # of two, the engine gives the later
        shown = f"epoch_us(timezone({named}, make_timestamptz({{}})))"
        early = f"SELECT *, wall - ({shown.format(f'late - {day}')} - (late - {day})) AS early FROM ({late})"
        is_shown = f"early < late AND {shown.format('early')} = wall"
        got = engine.sql(f"SELECT n, CASE WHEN {is_shown} THEN early ELSE late END AS at_us FROM ({early})").to_arrow_table()
    instants = np.empty(len(whole), np.int64)
    instants[got["n"].to_numpy()] = got["at_us"].to_numpy()
    return instants, there


def _count_us(chunk: pa.Array, *, what: str) -> Instants:
    """Microseconds since 1970, rounded down; 0 for what is null."""
    import pyarrow as pa

    if pa.types.is_date(chunk.type):
        units, factor = chunk.cast(pa.date32()).cast(pa.int32()), _DAY_US
    else:
        units, factor = chunk.cast(pa.int64()), _US.get(chunk.type.unit, 0)
    counts = np.asarray(units.fill_null(0)).astype(np.int64)
    if not factor:  # nanoseconds
        return counts // 1000
    if len(counts) and max(-int(counts.min()), int(counts.max())) > np.iinfo(np.int64).max // factor:
        raise InvalidInput(f"{what} holds times that lie too far away to be kept.", hint="times reach from 290,000 BC to 290,000 AD")
    return counts * factor


def _concat(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([part.astype(dtype, copy=False) for part in parts]) if parts else np.zeros(0, dtype)


def fit_keys(spine: Spine, key_types: Mapping[str, str], *, view: str, engine: duckdb.DuckDBPyConnection) -> pa.Table:
    """The spine's key columns in types that can be held against those of a view: ``key_types``, Endcap's names by column.

    Integers of any width fit one another. A text fits a uuid where each value reads as one; uuids come as texts, in lower case. A column
    without any type is all null. Raises InvalidInput for a column that is not there or is of another type.
    """
    import pyarrow as pa

    from endcap.loop.data.column_profiles import name_arrow_type

    for name in key_types:
        require_column(spine, name, of=f"feature view '{view}'")
    rows = spine.columns(list(key_types))
    columns = {}
    for name, wanted in key_types.items():
        column = rows[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        found = name_arrow_type(column.type)
        if wanted == "uuid" and found in ("uuid", "text"):
            column = _read_uuids(column, what=f"{spine.what}: key {name!r}", view=view, engine=engine)
        elif found == "null":
            column = column.cast(pa.large_string())
        elif found != wanted:
            hint = _CASTS.get(wanted, f"make it {wanted} before")
            raise InvalidInput(
                f"{spine.what}: key {name!r} is of type {found}, and feature view '{view}' has it as {wanted}.", hint=hint.format(name), column=name
            )
        columns[name] = column.cast(pa.large_string()) if found == "text" else column
    return pa.table(columns)


def _read_uuids(column: pa.ChunkedArray, *, what: str, view: str, engine: duckdb.DuckDBPyConnection) -> pa.ChunkedArray:
    import pyarrow as pa

    with lent(engine, {"value": column, "n": pa.array(np.arange(len(column)))}) as name:
        read = "CAST(TRY_CAST(value AS UUID) AS VARCHAR)"
        got = engine.sql(f"SELECT n, {read} AS value, value IS NOT NULL AND {read} IS NULL AS bad FROM {name} ORDER BY n").to_arrow_table()
    bad = np.flatnonzero(got["bad"].to_numpy())
    if len(bad):
        raise InvalidInput(
            f"{what} is text, and feature view '{view}' has it as uuid; the value of row {bad[0]:,} reads as none.",
            hint="a uuid has 32 hex digits: 550e8400-e29b-41d4-a716-446655440000",
        )
    return got["value"].cast(pa.large_string())


@contextmanager
def lent(engine: duckdb.DuckDBPyConnection, columns: Mapping[str, Any]) -> Iterator[str]:
    """Columns as a relation of the engine while the block runs. Yields its name."""
    import pyarrow as pa

    name = f"__lent_{next(_COUNT)}"
    engine.register(name, pa.table(dict(columns)))
    try:
        yield name
    finally:
        engine.unregister(name)


def number_keys(columns: pa.Table) -> tuple[Codes, pa.Table]:
    """A number for each row's key, MISSING where any part of it is null, and the different keys in the order of their numbers.

    Cost: a dictionary of each column, and one of the pairs for each column after the first.
    """
    import pyarrow as pa

    codes: NDArray[np.int64] | None = None
    for name in columns.column_names:
        encoded = columns[name].combine_chunks().dictionary_encode()
        own = np.asarray(encoded.indices.fill_null(MISSING)).astype(np.int64)
        codes = own if codes is None else _close_up(np.where((codes < 0) | (own < 0), MISSING, codes * max(1, len(encoded.dictionary)) + own))
    assert codes is not None, "a view has a key"
    first = np.zeros(int(codes.max(initial=MISSING)) + 1, np.int64)
    numbered = np.flatnonzero(codes >= 0)[::-1]  # backwards, so that of each key's rows the first is kept
    first[codes[numbered]] = numbered
    return codes.astype(np.int32), columns.take(pa.array(first))


def _close_up(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same numbers without gaps, in the order in which they first come; MISSING stays."""
    import pyarrow as pa

    encoded = pa.array(codes, mask=codes < 0).dictionary_encode()
    return np.asarray(encoded.indices.fill_null(MISSING)).astype(np.int64)
