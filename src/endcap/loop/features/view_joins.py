"""Joining a view to a spine: what chooses between its rows is read first, then the features of those that were chosen, and of no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.durations import parse_duration
from endcap.core.errors import Conflict, InvalidInput
from endcap.core.names import quote
from endcap.loop.data.failures import reading
from endcap.loop.features.joins import BYTES_A_ROW, MISSING, Codes, Instants, Numbers, RowTimes, choose_rows, split_keys
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER
from endcap.loop.features.rows.view_rows import FeatureRows
from endcap.loop.features.rows.view_sources import Span
from endcap.loop.features.spines import lent, number_keys

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

KEY, SLOT = "__key", "__slot"
_BATCH_ROWS = 100_000
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


class Room:
    """Memory for what chooses, which one view leaves to the next: pages that were touched once cost nothing any more."""

    def __init__(self) -> None:
        self._reserve(0)

    def take(self, n: int) -> list[NDArray[Any]]:
        """Arrays for keys, both times and order of ``n`` rows; what was taken before is overwritten."""
        if n > len(self._keys):
            self._reserve(n)
        return [self._keys[:n], self._times[:n, 0], self._times[:n, 1], self._order[:n]]

    def _reserve(self, n: int) -> None:
        self._keys, self._order = np.empty(n, np.int32), np.empty(n, np.int64)
        self._times = np.empty((n, 2), np.int64)  # a row's two times lie side by side, where one look fetches both


def choose_features(
    rows: FeatureRows, relation: str, asked: Asked, *, max_age: str | None, n_bytes: int, n_bound: int | None, room: Room | None = None
) -> Chosen:
    """Choose for each spine row the feature row that counts, see ``choose_rows``.

    ``relation`` is SQL for the view's rows. What chooses is held in at most ``n_bytes``: where the rows may be more than fit (``n_bound`` is
    how many there are at most; None: unknown), keys are taken in turns, each with a reading of keys and times. A key's own rows must fit.
    ``room`` is what an earlier choice used (None: memory of its own).
    """
    room = room or Room()
    if not np.any(asked.keys != MISSING):
        return Chosen(np.full(len(asked.keys), MISSING, np.int64), RowTimes.concat([]))
    most = max(1, n_bytes // BYTES_A_ROW)
    ranges = [(0, asked.n_keys, n_bound or 0)]
    if n_bound is None or n_bound > most:
        counts = _count_rows(rows, relation, asked)
        ranges = [(start, stop, int(counts[start:stop].sum())) for start, stop in split_keys(counts, most=most)]
    age_us = None if max_age is None else _count_us(max_age)
    numbers = np.full(len(asked.keys), MISSING, np.int64)
    parts: list[RowTimes] = []
    n = 0
    for start, stop, n_most in ranges:
        found = _read_times(rows, relation, asked, start=start, stop=stop, arrays=room.take(n_most))
        keys = asked.keys if len(ranges) == 1 else np.where((asked.keys >= start) & (asked.keys < stop), asked.keys, np.int32(MISSING))
        places, used = choose_rows(keys, asked.at, rows=found, n_keys=asked.n_keys, max_age_us=age_us)
        np.copyto(numbers, places + n, where=places != MISSING)
        parts.append(found.take(used))
        n += len(used)
    return Chosen(numbers, RowTimes.concat(parts))


@dataclass(frozen=True)
class Fetched:
    """Features of spine rows: the rows that count, each once, and by spine row which of them (MISSING: none)."""

    columns: dict[str, pa.Array]
    numbers: Numbers
    row_bytes: float

    def take(self, start: int, stop: int) -> dict[str, pa.Array]:
        """The features of the rows from ``start`` to before ``stop``, by name."""
        import pyarrow as pa

        own = self.numbers[start:stop]
        places = pa.array(own, mask=own == MISSING)
        return {name: _narrow(column.take(places)) for name, column in self.columns.items()}


def fetch_features(rows: FeatureRows, relation: str, asked: Asked, chosen: Chosen, *, start: int, stop: int) -> Fetched:
    """The features of the spine's rows from ``start`` to before ``stop``.

    Raises InvalidInput where two rows of a view are alike in key, times and order, so that nothing says which counts; Conflict where the
    view's rows are no longer those that were chosen from. Cost: one reading of the features, of which only those that count leave the engine.
    """
    places, wanted = chosen.numbers[start:stop], chosen.rows
    if len(places) < len(chosen.numbers):
        places, used = _close_up(places, n=len(wanted))
        wanted = wanted.take(used)
    found = _read_features(rows, relation, asked, wanted)
    slots = np.asarray(found[SLOT])
    found = found.drop_columns([SLOT])
    if len(slots) != len(wanted):
        _refuse(rows, n_found=len(slots), n_wanted=len(wanted))
    where = np.full(len(wanted) + 1, MISSING, np.int64)  # the last is where MISSING points
    where[slots] = np.arange(len(slots))
    columns = {name: found.column(i).combine_chunks() for i, name in enumerate(rows.feature_types)}
    return Fetched(columns, where[places], found.nbytes / max(1, len(slots)))


def _read_times(rows: FeatureRows, relation: str, asked: Asked, *, start: int, stop: int, arrays: Sequence[NDArray[Any]]) -> RowTimes:
    """What chooses between the rows of some keys, which goes from the engine into the arrays batch by batch; they hold all there may be."""
    part = "" if (start, stop) == (0, asked.n_keys) else f" AND k.{KEY} >= {start} AND k.{KEY} < {stop}"
    columns = f"k.{KEY}, CAST(r.{EVENT_AT} AS TIMESTAMP) AS e, CAST(r.{KNOWN_AT} AS TIMESTAMP) AS k, CAST(r.{ORDER} AS BIGINT) AS o"
    n, n_most = 0, len(arrays[0])
    with reading(rows.view.name):
        query = rows.engine.sql(
            f"SELECT {columns} FROM ({relation}) r JOIN {quote(asked.relation)} k ON {_equal(rows, 'k')}{part}"
            f" WHERE r.{EVENT_AT} IS NOT NULL AND r.{KNOWN_AT} IS NOT NULL"
        )
        for batch in query.to_arrow_reader(_BATCH_ROWS):
            if n + batch.num_rows > n_most:
                raise _changed(rows)
            for array, column in zip(arrays, batch.columns, strict=True):
                array[n : n + batch.num_rows] = np.asarray(column).view(array.dtype)
            n += batch.num_rows
    return RowTimes(*(array[:n] for array in arrays))


def _count_rows(rows: FeatureRows, relation: str, asked: Asked) -> NDArray[np.int64]:
    with reading(rows.view.name):
        found = rows.engine.sql(
            f"SELECT k.{KEY}, count(*) AS n FROM ({relation}) r JOIN {quote(asked.relation)} k ON {_equal(rows, 'k')} GROUP BY k.{KEY}"
        ).to_arrow_table()
    counts = np.zeros(asked.n_keys, np.int64)
    counts[np.asarray(found[KEY])] = np.asarray(found["n"])
    return counts


def _read_features(rows: FeatureRows, relation: str, asked: Asked, wanted: RowTimes) -> pa.Table:
    """The features of rows, in no order, with their places among those wanted.

    Where each of them has an order of its own it is looked for by that alone: as many rows as were wanted are then just these, since each finds
    itself. Otherwise it is looked for by all that tells rows apart.
    """
    given: dict[str, NDArray[Any]] = {SLOT: np.arange(len(wanted), dtype=np.int64), ORDER: wanted.order}
    ordered = np.sort(wanted.order)
    if not np.any(ordered[1:] == ordered[:-1]):
        found = _look_up(rows, relation, given, f"r.{ORDER} = w.{ORDER}")
        if found.num_rows == len(wanted):
            return found
    given |= {KEY: wanted.keys, EVENT_AT: wanted.event_at.view("datetime64[us]"), KNOWN_AT: wanted.known_at.view("datetime64[us]")}
    same = " AND ".join(f"r.{column} = w.{column}" for column in (EVENT_AT, KNOWN_AT, ORDER))
    return _look_up(rows, relation, given, f"{_equal(rows, 'w')} AND {same}", keys=asked.relation)


def _look_up(rows: FeatureRows, relation: str, given: Mapping[str, NDArray[Any]], condition: str, *, keys: str | None = None) -> pa.Table:
    import pyarrow as pa

    features = "".join(f", r.{quote(name)} AS f{i}" for i, name in enumerate(rows.feature_types))
    large = "arrow_large_buffer_size"  # texts of one column may hold more than 2 GiB
    with lent(rows.engine, {name: pa.array(values) for name, values in given.items()}) as name, reading(rows.view.name):
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
