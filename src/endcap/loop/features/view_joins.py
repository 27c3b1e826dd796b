"""Joining a view to a spine: what chooses between its rows is read first, then the features of those that were chosen, and of no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput
from endcap.core.names import quote
from endcap.loop.data.failures import reading
from endcap.loop.features.joins import MISSING, Codes, Instants, Numbers, RowTimes, choose_rows
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER
from endcap.loop.features.rows.stored_features import read_stored
from endcap.loop.features.rows.view_rows import FeatureRows
from endcap.loop.features.rows.view_sources import Span
from endcap.loop.features.spines import lent, number_keys

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

KEY, SLOT = "__key", "__slot"
_BATCH_ROWS = 32_768  # small enough to be in the cache still when one chooses
_TINY = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - plain UTC, as instants of feature rows are


@dataclass(frozen=True)
class Asked:
    """What a spine asks of a view: each row's key by number (MISSING: it matches nothing) and instant, and the relation of the different keys.

    ``relation`` is a table of the engine with the keys' columns, as the view calls them, and their numbers in ``__key``.
    """

    keys: Codes
    at: Instants
    n_keys: int
    relation: str

    def span(self, max_age: str | None) -> Span | None:
        """The event times that may count; None where nothing is asked."""
        asked = self.at[self.keys != MISSING]
        if not len(asked):
            return None
        first = None if max_age is None else _to_instant(int(asked.min()) - _count_us(max_age))
        return first, _to_instant(int(asked.max()))


@dataclass(frozen=True)
class Chosen:
    """The feature rows that count: by spine row the number of one in ``rows`` (MISSING: none), and what tells each from all others."""

    numbers: Numbers
    rows: RowTimes


def ask(
    columns: pa.Table, *, at: Instants, there: NDArray[np.bool_], stored: Mapping[str, str], name: str, engine: duckdb.DuckDBPyConnection
) -> Asked:
    """Number the keys of a spine and keep the different ones in the engine as the table ``name``, in the view's own types (``stored``).

    Rows whose instant is not there match nothing. Integers stay as wide as they are, since a wider one may hold what the view's cannot.
    """
    import pyarrow as pa

    keys, different = number_keys(columns)
    different = different.append_column(KEY, pa.array(np.arange(different.num_rows, dtype=np.int32)))
    cast = {key: f"CAST({quote(key)} AS UUID) AS {quote(key)}" for key, type_ in stored.items() if type_ == "UUID" and key in columns.column_names}
    taken = [cast.get(key, quote(key)) for key in different.column_names]
    with lent(engine, {column: different[column] for column in different.column_names}) as given:
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {quote(name)} AS SELECT {', '.join(taken)} FROM {given}")
    return Asked(np.where(there, keys, np.int32(MISSING)), at, different.num_rows, name)


def choose_features(rows: FeatureRows, relation: str, asked: Asked, *, max_age: str | None) -> Chosen:
    """Choose for each spine row the feature row that counts, see ``choose_rows``.

    ``relation`` is SQL for the view's rows, of which keys and times are read once and none is kept: memory is in line with the spine.
    """
    if not np.any(asked.keys != MISSING):
        nothing = np.zeros(0, np.int64)
        return Chosen(np.full(len(asked.keys), MISSING, np.int64), RowTimes(nothing.astype(np.int32), nothing, nothing, nothing))
    age_us = None if max_age is None else _count_us(max_age)
    with reading(rows.view):
        batches = _read_times(rows, relation, asked)
        return Chosen(*choose_rows(asked.keys, asked.at, rows=batches, n_keys=asked.n_keys, max_age_us=age_us))


@dataclass(frozen=True)
class Fetched:
    """Features of spine rows: the rows that count, each once, and by spine row which of them (MISSING: none)."""

    columns: dict[str, pa.Array]
    numbers: Numbers
    row_bytes: float

    def take(self, start: int, stop: int) -> dict[str, pa.Array]:
        """The features of the rows from ``start`` to before ``stop``, by name."""
        own = self.numbers[start:stop]
        there = own != MISSING
        return {name: _narrow(take_rows(column, own, there=there)) for name, column in self.columns.items()}


def fetch_features(rows: FeatureRows, relation: str, asked: Asked, chosen: Chosen, *, start: int, stop: int, n_threads: int | None = None) -> Fetched:
    """The features of the spine's rows from ``start`` to before ``stop``.

    Features that stand in files as they are wanted are read from there by ``n_threads`` (None: one for each CPU), by the places of their rows.
    Raises InvalidInput where two rows of a view are alike in key, times and order, so that nothing says which counts, or where its files have
    changed; Conflict where the view's rows are no longer those that were chosen from. Cost: one reading of the features, of which only those that
    count are kept.
    """
    places, wanted = chosen.numbers[start:stop], chosen.rows
    if len(places) < len(chosen.numbers):
        places, used = _close_up(places, n=len(wanted))
        wanted = wanted.take(used)
    columns, slots = _read_standing(rows, wanted, n_threads=n_threads) or _read_features(rows, relation, asked, wanted)
    where = np.full(len(wanted) + 1, MISSING, np.int64)  # the last is where MISSING points
    where[slots] = np.arange(len(slots))
    return Fetched(columns, where[places], sum(column.nbytes for column in columns.values()) / max(1, len(slots)))


def _read_times(rows: FeatureRows, relation: str, asked: Asked) -> Iterator[RowTimes]:
    """What chooses between the rows of the keys that are asked for, batch by batch, in no order; those without a time are none."""
    columns = f"k.{KEY}, CAST(r.{EVENT_AT} AS TIMESTAMP) AS e, CAST(r.{KNOWN_AT} AS TIMESTAMP) AS k, CAST(r.{ORDER} AS BIGINT) AS o"
    query = rows.engine.sql(f"SELECT {columns} FROM ({relation}) r JOIN {quote(asked.relation)} k ON {_equal(rows, 'k')}")
    for batch in query.to_arrow_reader(_BATCH_ROWS):
        whole = batch.drop_null() if any(column.null_count for column in batch.columns) else batch
        keys, event_at, known_at, order = (np.asarray(column) for column in whole.columns)
        yield RowTimes(keys, event_at.view(np.int64), known_at.view(np.int64), order)


def _read_standing(rows: FeatureRows, wanted: RowTimes, *, n_threads: int | None) -> tuple[dict[str, pa.Array], Numbers] | None:
    """The features of rows and the places of these among those wanted; None where features are computed."""
    if rows.standing is None:
        return None
    slots = np.argsort(wanted.order)
    columns = read_stored(rows.standing, wanted.order[slots], n_threads=n_threads)
    return None if columns is None else (columns, slots)


def _read_features(rows: FeatureRows, relation: str, asked: Asked, wanted: RowTimes) -> tuple[dict[str, pa.Array], Numbers]:
    """The same of rows that the engine computes, in no order.

    Where each of them has an order of its own it is looked for by that alone: as many rows as were wanted are then just these, since each finds
    itself. Otherwise it is looked for by all that tells rows apart.
    """
    given: dict[str, NDArray[Any]] = {SLOT: np.arange(len(wanted), dtype=np.int64), ORDER: wanted.order}
    ordered = np.sort(wanted.order)
    found = None
    if not np.any(ordered[1:] == ordered[:-1]):
        found = _look_up(rows, relation, given, f"r.{ORDER} = w.{ORDER}")
    if found is None or found.num_rows != len(wanted):
        given |= {KEY: wanted.keys, EVENT_AT: wanted.event_at.view("datetime64[us]"), KNOWN_AT: wanted.known_at.view("datetime64[us]")}
        same = " AND ".join(f"r.{column} = w.{column}" for column in (EVENT_AT, KNOWN_AT, ORDER))
        found = _look_up(rows, relation, given, f"{_equal(rows, 'w')} AND {same}", keys=asked.relation)
    if found.num_rows != len(wanted):
        _refuse(rows, n_found=found.num_rows, n_wanted=len(wanted))
    slots = np.asarray(found[SLOT])
    return {name: found.column(i + 1).combine_chunks() for i, name in enumerate(rows.feature_types)}, slots


def _look_up(rows: FeatureRows, relation: str, given: Mapping[str, NDArray[Any]], condition: str, *, keys: str | None = None) -> pa.Table:
    import pyarrow as pa

    features = "".join(f", r.{quote(name)} AS f{i}" for i, name in enumerate(rows.feature_types))
    large = "arrow_large_buffer_size"  # texts of one column may hold more than 2 GiB
    with lent(rows.engine, {name: pa.array(values) for name, values in given.items()}) as name, reading(rows.view):
        wanted = name
        if keys is not None:
            named = ", ".join(f"k.{quote(key)}" for key in rows.view.keys)
            wanted = f"(SELECT {named}, w.* FROM {name} w JOIN {quote(keys)} k ON w.{KEY} = k.{KEY})"
        rows.engine.execute(f"SET {large} = true")
        try:
            return rows.engine.sql(f"SELECT w.{SLOT}{features} FROM ({relation}) r JOIN {wanted} w ON {condition}").to_arrow_table()
        finally:
            rows.engine.execute(f"RESET {large}")


def _equal(rows: FeatureRows, alias: str) -> str:
    return " AND ".join(f"r.{quote(key)} = {alias}.{quote(key)}" for key in rows.view.keys)


def _refuse(rows: FeatureRows, *, n_found: int, n_wanted: int) -> None:
    view, keys = rows.view, list(rows.view.keys)
    if n_found > n_wanted:
        raise InvalidInput(
            f"Feature view '{view.name}' has two rows of the same {keys}, event time and known-at, and nothing says which of them came later.",
            hint="leave one of them out, or let known_at tell them apart",
        )
    raise _changed(rows)


def _changed(rows: FeatureRows) -> Conflict:
    return Conflict(f"The rows of feature view '{rows.view.name}' changed while they were read.", hint="try again")


def _close_up(numbers: Numbers, *, n: int) -> tuple[Numbers, Numbers]:
    """The same numbers without gaps (MISSING stays), and the numbers below ``n`` that are used, in order."""
    used = np.zeros(n, np.bool_)
    used[numbers[numbers != MISSING]] = True
    place = np.cumsum(used, dtype=np.int64) - 1
    closed = np.full(len(numbers), MISSING, np.int64)
    there = numbers != MISSING
    closed[there] = place[numbers[there]]
    return closed, np.flatnonzero(used)


def take_rows(column: pa.Array, places: Numbers, *, there: NDArray[np.bool_]) -> pa.Array:
    """The values of a column at places, null where none is ``there``. Those of a fixed width are gathered without a look at what Arrow allows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fixed = pa.types.is_primitive(column.type) and column.type.bit_width >= 8
    if not fixed or not len(column):
        return column.take(pa.array(places, mask=~there))
    width = column.type.bit_width // 8
    values = np.frombuffer(column.buffers()[1], f"u{width}", len(column), column.offset * width).take(places, mode="clip")
    if column.null_count:
        there = there & np.asarray(pc.is_valid(column)).take(places, mode="clip")
    bits = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(column.type, len(places), [bits, pa.py_buffer(values)])


def _narrow(column: pa.Array) -> pa.Array:
    """Texts as most programs know them, where they fit."""
    import pyarrow as pa

    if pa.types.is_large_string(column.type) and column.nbytes < 2**31:
        return column.cast(pa.string())
    return column


def _count_us(duration: str) -> int:
    return round(parse_duration(duration) / _TINY)


def _to_instant(us: int) -> datetime | None:
    """A plain instant of UTC; None where it lies outside of the years that dates have, and so bounds nothing."""
    try:
        return _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return None
