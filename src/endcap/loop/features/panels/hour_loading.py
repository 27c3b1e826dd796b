"""From tables to the state of an hourly model: everything once, then only what is new.

All rows are read once, streamed from DuckDB and folded into cells as they come; afterwards only rows of new files are, into the days they
touch. Late and corrected rows are such rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote
from endcap.core.zones import load_zone
from endcap.loop.data.failures import reading
from endcap.loop.data.sources import Source
from endcap.loop.features.panels.day_loading import Doubt
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_cells import HourCells, TouchedDays
from endcap.loop.features.panels.hour_facts import FactReader, fold_sql, value_sql
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.features.panels.hour_store import HourState, ShardState, put_day, put_revisions, put_series, read_revisions, read_series
from endcap.loop.features.panels.packing import pack_arrays, unpack_arrays

if TYPE_CHECKING:
    import duckdb

    from endcap.storage.ports import BlobStore

MOST_HOURS = 24 * 1500
_SERIES_AT_ONCE = 12_500
_SHARD_BYTES = 2**28
_CELL_BYTES = 5
_BATCH_ROWS = 1_000_000
_MOST_SURPLUS_HOURS = 24 * 100  # how far a state may grow beyond MOST_HOURS before it is made anew


@dataclass(frozen=True)
class _Survey:
    """What some rows hold: how many are known, the ends of their times, the latest known-at, and when the first of the others will count."""

    n_rows: int
    first: datetime | None
    last: datetime | None
    known_until: datetime | None
    waits_until: datetime | None


class _OutOfOrderError(Exception):
    """A row states an hour that was stated before, and was known no later than what was read already."""


@dataclass(frozen=True)
class LoadedHours:
    """A state, how many rows were read to make it from the one before, and what was doubtful about them."""

    state: HourState
    n_rows: int
    doubts: tuple[Doubt, ...]


def load_hours(
    forecast: Forecast,
    *,
    sources: Mapping[str, Source],
    fresh: Source | None,
    standing: HourState | None,
    changed: frozenset[str],
    engine: duckdb.DuckDBPyConnection,
    blobs: BlobStore,
    now: datetime,
    memory_limit: int,
) -> LoadedHours:
    """The state of a model after all rows known at ``now``.

    Without a ``standing`` state all rows of the target's table are read; with one only those of ``fresh``, which holds its new files (None:
    there are none). Tables of facts are read again where their names are in ``changed``. A row that was read stays read: rows of a file that
    changed or went away ask for a load without a standing state. All rows are read again, too, where a new row lies before the first day of
    the state or far beyond its last, where it states an hour that was stated before and was known earlier, and when a row that lay in the
    future has come to count: then the state is what it would be had everything been read at once.

    Several rows of a cell are folded. Where the table has ``known_at``, rows of one hour and a later known-at restate the hour instead, and
    back-tests see what was known at their origins. Rows with a null key or after ``now`` are left out; infinite values, and those too large
    for a single float, are missing, and so are negative ones once they are folded.
    Cost: one pass over the rows read; memory: 5 bytes a cell for as many shards as fit into ``memory_limit`` bytes; with more, a pass for each
    such group of shards.
    """
    with reading(forecast.table, columns=sources[forecast.table.name].columns):
        loading = _HourLoading(forecast, sources=sources, engine=engine, blobs=blobs, now=now, memory_limit=memory_limit)
        if standing is None:
            return loading.load_all()
        return loading.add(standing, fresh, changed=changed)


class _HourLoading:
    def __init__(
        self,
        forecast: Forecast,
        *,
        sources: Mapping[str, Source],
        engine: duckdb.DuckDBPyConnection,
        blobs: BlobStore,
        now: datetime,
        memory_limit: int,
    ) -> None:
        self.forecast, self.sources, self.engine, self.blobs, self.now = forecast, sources, engine, blobs, now
        self.memory_limit = memory_limit
        self.source = sources[forecast.table.name]
        self.doubts: list[Doubt] = []
        self.n_met = self.n_negative = 0
        self.place = forecast.place or forecast.keys[0]
        self.facts = FactReader(forecast, sources, engine, self.place, now, self.doubts)
        self._check_columns()

    def _check_columns(self) -> None:
        for key in self.forecast.keys:
            if key not in self.source.columns:
                raise InvalidInput(
                    unknown("column", key, self.source.columns, where=f"Table '{self.source.table.name}'"), hint=suggest(key, self.source.columns)
                )

    # ---- everything

    def load_all(self) -> LoadedHours:
        found = self._survey(self.source)
        first, last = found.first, found.last
        if first is None or last is None:
            raise InvalidInput(
                f"Table '{self.source.table.name}' has no row with a key and a time up to {self.now.date()}.",
                hint="look at the file, its event_time and its zone",
            )
        start = self._find_start(first.date(), last.date())
        n_ticks = _count_hours(start, last) + 1
        bounds = self._name_series(n_days=-(-n_ticks // HOURS))
        labels, codes = self.facts.read_statics()
        keys = self.facts.keys()
        facts = self.facts.read_daily(start, {a.table.name for a in self.forecast.known_ahead.values() if a.table is not None})
        shards: list[ShardState] = []
        for group in self._group(bounds, n_ticks=n_ticks):
            shards += self._load_group(group, start=start, n_ticks=n_ticks, keys=keys, codes=codes, facts=facts)
        state = HourState(
            key_types={key: self.source.columns[key] for key in self.forecast.keys},
            start=start,
            n_ticks=n_ticks,
            hidden=_ceil_hours(self.source.table.known_after),
            censored=self.forecast.censored is not None,
            shards=tuple(shards),
            labels=labels,
            likeness=self.facts.find_likeness(labels),
            place=self.place,
            holidays=self.forecast.holidays,
            known_until=found.known_until,
            waits_until=found.waits_until,
        )
        self._doubt_cells()
        return LoadedHours(state, found.n_rows, tuple(self.doubts))

    def _find_start(self, first: date, last: date) -> date:
        start = max(first, last - timedelta(hours=MOST_HOURS))
        if start > first:
            self._doubt(f"days before {start}", (start - first).days, "left out: an hourly panel holds 1,500 days")
        return start

    def _survey(self, source: Source) -> _Survey:
        absent = " OR ".join(f"{quote(key)} IS NULL" for key in self.forecast.keys)
        known = self._known(source)
        until = f"max(__known_at) FILTER (WHERE {known})" if source.table.known_at is not None else "NULL"
        n_all, n, n_absent, first, last, known_until = self._one(
            f"SELECT count(*), count(*) FILTER (WHERE {known}), count(*) FILTER (WHERE {known} AND ({absent})),"
            f" min(__event_time) FILTER (WHERE {known} AND NOT ({absent})), max(__event_time) FILTER (WHERE {known} AND NOT ({absent})), {until}"
            f" FROM ({source.sql})"
        )
        self._doubt("rows without a key", n_absent, "left out")
        n_future, waits_until = 0, None
        if n_all > n:
            come = "__event_time"
            if source.table.known_at is not None:
                come = f"greatest(__event_time, CASE WHEN __known_at IS NULL THEN NULL ELSE {_in_zone('__known_at', source)} END)"
                absent += " OR __known_at IS NULL"
            n_future, waits_until = self._one(
                f"SELECT count(*), min({come}) FROM ({source.sql})"
                f" WHERE NOT ({known}) AND NOT ({absent}) AND {value_sql(source, self.forecast.target)} IS NOT NULL"
            )
        self._doubt("rows that lie in the future", n_future, "left out until then")
        return _Survey(int(n), first, last, known_until, waits_until)

    def _one(self, statement: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.engine.execute(statement).fetchall()[0]
        return row

    def _known(self, source: Source) -> str:
        known = f"__event_time < TIMESTAMP '{self._local_now(source).isoformat(sep=' ')}'"
        if source.table.known_at is not None:
            known += f" AND __known_at <= TIMESTAMP '{self.now.replace(tzinfo=None).isoformat(sep=' ')}'"
        return known

    def _local_now(self, source: Source) -> datetime:
        return self.now.astimezone(load_zone(source.zone)).replace(tzinfo=None)

    def _name_series(self, *, n_days: int) -> list[tuple[int, int]]:
        """Number the series, those of a place side by side, and cut them into shards, between places where that can be."""
        keys = ", ".join(quote(key) for key in (self.place, *(k for k in self.forecast.keys if k != self.place)))
        present = " AND ".join(f"{quote(key)} IS NOT NULL" for key in self.forecast.keys)
        self.engine.execute(
            f"CREATE OR REPLACE TEMP TABLE __series AS SELECT CAST(row_number() OVER (ORDER BY {keys}) - 1 AS INTEGER) AS __s, {keys}"
            f" FROM (SELECT DISTINCT {keys} FROM ({self.source.sql}) WHERE {present} AND {self._known(self.source)})"
        )
        sizes = self.engine.execute(f"SELECT count(*) FROM __series GROUP BY {quote(self.place)} ORDER BY min(__s)").fetchnumpy()
        most = _most_series(n_days)
        ends = np.cumsum(np.asarray(next(iter(sizes.values())), dtype=np.int64))
        bounds: list[tuple[int, int]] = []
        first = 0
        for end in ends.tolist():
            while end - first > 2 * most:  # one place alone is too large
                bounds.append((first, first + most))
                first += most
            if end - first >= most or end == ends[-1]:
                bounds.append((first, end))
                first = end
        return bounds

    def _group(self, bounds: Sequence[tuple[int, int]], *, n_ticks: int) -> Iterator[list[tuple[int, int]]]:
        most = max(1, self.memory_limit // 2 // (n_ticks * 2 * _CELL_BYTES))
        group: list[tuple[int, int]] = []
        for bound in bounds:
            if group and bound[1] - group[0][0] > most:
                yield group
                group = []
            group.append(bound)
        yield group

    def _load_group(
        self,
        group: list[tuple[int, int]],
        *,
        start: date,
        n_ticks: int,
        keys: dict[str, list[str]],
        codes: dict[str, NDArray[np.int32]],
        facts: dict[str, Floats],
    ) -> list[ShardState]:
        low, high = group[0][0], group[-1][1]
        n_days = -(-n_ticks // HOURS)
        hidden = _ceil_hours(self.source.table.known_after)
        cells = HourCells.empty(high - low, n_days, censored=self.forecast.censored is not None)
        for batch in self._stream(self.source, start=start, where=f"__s >= {low} AND __s < {high}"):
            batch["row"] = batch["row"] - np.int32(low)
            self._fill(cells, batch, hidden=hidden)
        cells.settle(hidden=hidden)
        self.n_met += cells.n_met
        self.n_negative += int((cells.sold < 0).sum())
        shards = []
        for first, last in group:
            part = cells.take(slice(first - low, last - low))
            own = {name: values[first:last] for name, values in keys.items()}
            own_codes = {name: values[first:last] for name, values in codes.items()}
            shards.append(
                ShardState(
                    n_series=last - first,
                    series=put_series(self.blobs, own, own_codes),
                    days=tuple(put_day(self.blobs, part.sold, part.unseen, place=day) for day in range(n_days)),
                    facts=self.blobs.put(pack_arrays({name: values[first:last] for name, values in facts.items()})) if facts else "",
                    revisions=put_revisions(self.blobs, part.revisions),
                )
            )
        return shards

    def _stream(self, source: Source, *, start: date, where: str = "true") -> Iterator[dict[str, NDArray[Any]]]:
        """Rows of the target's table in batches of columns: ``row`` of a series, ``tick``, ``value``, ``censored`` and, where the table has
        known-at, the tick of ``arrival``; then in the order in which they were known.
        """
        zero = f"TIMESTAMP '{start.isoformat()} 00:00:00'"
        restated = source.table.known_at is not None
        named = [(f"__{name}", aggregate) for name, aggregate in self._folded()]  # no column of the table may be meant by these
        own = [*(quote(k) for k in self.forecast.keys), "__event_time", *(["__known_at"] if restated else [])]
        own += [f"{value_sql(source, aggregate)} AS {name}" for name, aggregate in named]
        on = " AND ".join(f"r.{quote(k)} = __series.{quote(k)}" for k in self.forecast.keys)
        columns = [f"__s AS \"row\", CAST(date_diff('hour', {zero}, r.__event_time) AS INTEGER) AS tick"]
        columns += [f"r.{name} AS {name.removeprefix('__')}" for name, _ in named]
        if restated:
            # Known exactly on the hour counts for the origin of that hour; any later, for the next one. When clocks are put back, a later
            # instant may have an earlier hour: no statement may come before one that was known earlier.
            last = "INTERVAL 1 MICROSECOND"
            known = ("r.__known_at", f"r.__known_at - {last}")
            hours = [f"date_diff('hour', {zero}, {_in_zone(instant, source)} + INTERVAL 1 HOUR - {last})" for instant in known]
            columns.append(f"CAST(greatest({', '.join(hours)}) AS INTEGER) AS arrival, r.__known_at AS known")
        statement = (
            f"SELECT {', '.join(columns)} FROM (SELECT {', '.join(own)} FROM ({source.sql})) r JOIN __series ON {on}"
            f" WHERE r.__event_time >= {zero} AND {self._known(source)} AND {where}"
        )
        names = ["row", "tick", *(name for name, _ in self._folded())]
        if restated:
            folds = ", ".join(f"TRY_CAST({fold_sql(a)}({name}) FILTER (WHERE isfinite({name})) AS FLOAT) AS {name}" for name, a in self._folded())
            group = '"row", tick, arrival, known'
            statement = f'SELECT {group}, {folds} FROM ({statement}) GROUP BY {group} ORDER BY known, "row", tick'
            names += ["arrival", "known"]
        for batch in self.engine.sql(statement).to_arrow_reader(_BATCH_ROWS):
            yield {name: batch[name].to_numpy(zero_copy_only=False) for name in names}

    def _fill(self, cells: HourCells, batch: dict[str, NDArray[Any]], *, hidden: int) -> None:
        rows, ticks, most = batch["row"], batch["tick"], self.forecast.censored_most
        if "arrival" in batch:
            unseen = batch["censored"] > most if "censored" in batch else None
            cells.restate(rows, ticks, batch["value"], batch["arrival"], hidden=hidden, unseen=unseen)
            return
        cells.fold(rows, ticks, batch["value"], how=self.forecast.target.fold)
        if "censored" in batch:
            cells.flag(rows, ticks, batch["censored"], most=most)

    def _folded(self) -> list[tuple[str, Aggregate]]:
        found = [("value", self.forecast.target)]
        return [*found, ("censored", self.forecast.censored)] if self.forecast.censored is not None else found

    # ---- only what is new

    def add(self, standing: HourState, fresh: Source | None, *, changed: frozenset[str]) -> LoadedHours:
        if standing.waits_until is not None and standing.waits_until < self._local_now(self.source):
            return self.load_all()
        self._name_standing(standing)
        state, n_rows = standing, 0
        if fresh is not None:
            found = self._survey(fresh)
            n_rows = found.n_rows
            waits = [when for when in (standing.waits_until, found.waits_until) if when is not None]
            latest = _latest(standing.known_until, found.known_until)
            state = msgspec.structs.replace(standing, waits_until=min(waits, default=None), known_until=latest)
            if found.first is not None and found.last is not None:
                last = max(found.last, datetime.combine(standing.start, datetime.min.time()) + timedelta(hours=standing.n_ticks - 1))
                start = self._find_start(min(found.first.date(), standing.start), last.date())
                n_ticks = _count_hours(standing.start, last) + 1
                if start < standing.start or n_ticks > MOST_HOURS + _MOST_SURPLUS_HOURS:
                    return self._load_again()
                try:
                    wider = self._add_series(state, fresh, n_days=-(-n_ticks // HOURS))
                    state = self._add_rows(wider, fresh, n_ticks=n_ticks, known_until=standing.known_until)
                except _OutOfOrderError:
                    return self._load_again()
                self._doubt_cells()
        statics = {table.name for table in self.forecast.static}
        facts = {a.table.name for a in self.forecast.known_ahead.values() if a.table is not None}
        came = state.n_series > standing.n_series
        if came or statics & changed:
            state = self._renew_statics(state)
        if (came and facts) or facts & changed:
            state = self._renew_facts(state, facts)
        return LoadedHours(state, n_rows, tuple(self.doubts))

    def _load_again(self) -> LoadedHours:
        self.doubts.clear()
        self.n_met = self.n_negative = 0
        return self.load_all()

    def _name_standing(self, state: HourState) -> None:
        """Number the series as the state holds them, shard after shard."""
        import pyarrow as pa

        columns: dict[str, list[str]] = {key: [] for key in self.forecast.keys}
        for shard in state.shards:
            for key, values in read_series(self.blobs, shard)[0].items():
                columns[key] += values
        table = pa.table({"__s": pa.array(np.arange(state.n_series, dtype=np.int32)), **{k: pa.array(v, pa.string()) for k, v in columns.items()}})
        self.engine.register("__named", table)
        typed = ", ".join(f"CAST({quote(k)} AS {self.source.stored_types[k]}) AS {quote(k)}" for k in self.forecast.keys)
        self.engine.execute(f"CREATE OR REPLACE TEMP TABLE __series AS SELECT __s, {typed} FROM __named")
        self.engine.unregister("__named")

    def _add_series(self, state: HourState, fresh: Source, *, n_days: int) -> HourState:
        """New series go to the end of the last shard, or into shards of their own once that is full."""
        keys = ", ".join(quote(k) for k in self.forecast.keys)
        absent = " OR ".join(f"{quote(k)} IS NULL" for k in self.forecast.keys)
        self.engine.execute(
            f"INSERT INTO __series SELECT CAST({state.n_series} + row_number() OVER (ORDER BY {keys}) - 1 AS INTEGER), {keys}"
            f" FROM (SELECT DISTINCT {keys} FROM ({fresh.sql}) WHERE NOT ({absent}) AND {self._known(fresh)}) new"
            f" ANTI JOIN __series USING ({keys})"
        )
        text = ", ".join(f"CAST({quote(k)} AS VARCHAR) AS {quote(k)}" for k in self.forecast.keys)
        table = self.engine.sql(f"SELECT {text} FROM __series WHERE __s >= {state.n_series} ORDER BY __s").to_arrow_table()
        if table.num_rows == 0:
            return state
        new = {key: table[key].to_pylist() for key in self.forecast.keys}
        shards, most = list(state.shards), _most_series(n_days)
        if shards[-1].n_series + table.num_rows <= 2 * most:
            shards[-1] = self._widen(shards[-1], new)
        else:
            for first in range(0, table.num_rows, most):
                own = {name: values[first : first + most] for name, values in new.items()}
                n = min(most, table.num_rows - first)
                empty = {name: np.full(n, -1, np.int32) for name in state.labels}
                shards.append(ShardState(n_series=n, series=put_series(self.blobs, own, empty), days=(), facts=""))
        return msgspec.structs.replace(state, shards=tuple(shards))

    def _widen(self, shard: ShardState, new: dict[str, list[str]]) -> ShardState:
        """A shard with more series, which have no cell yet."""
        keys, codes = read_series(self.blobs, shard)
        n_new = len(next(iter(new.values())))
        days = []
        for digest in shard.days:
            if digest:
                piece = unpack_arrays(self.blobs.get(digest))
                sold = np.concatenate([piece["sold"], np.full((n_new, HOURS), np.nan, np.float32)])
                unseen = np.concatenate([piece["unseen"], np.zeros((n_new, HOURS), np.bool_)]) if "unseen" in piece else None
                digest = put_day(self.blobs, sold, unseen, place=0)  # noqa: PLW2901 - the same day, widened
            days.append(digest)
        wider = {name: np.concatenate([values, np.full(n_new, -1, np.int32)]) for name, values in codes.items()}
        series = put_series(self.blobs, {name: values + new[name] for name, values in keys.items()}, wider)
        return msgspec.structs.replace(shard, n_series=shard.n_series + n_new, series=series, days=tuple(days))

    def _add_rows(self, state: HourState, fresh: Source, *, n_ticks: int, known_until: datetime | None) -> HourState:
        """Fold the rows of new files into the days they touch. Raises _OutOfOrderError where that needs what was read before."""
        batches = list(self._stream(fresh, start=state.start))
        rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} if batches else {}
        ends = np.cumsum([shard.n_series for shard in state.shards])
        if "known" in rows and known_until is not None:
            rows["early"] = rows.pop("known") <= np.datetime64(known_until)
        shards = []
        for shard, end in zip(state.shards, ends, strict=True):
            first = int(end) - shard.n_series
            own = (rows["row"] >= first) & (rows["row"] < end) if rows else np.empty(0, np.bool_)
            if not own.any():
                shards.append(shard)
                continue
            batch = {name: values[own] for name, values in rows.items()}
            batch["row"] = batch["row"] - np.int32(first)
            shards.append(self._fill_days(shard, batch, hidden=state.hidden, censored=state.censored))
        return msgspec.structs.replace(state, n_ticks=n_ticks, shards=tuple(shards))

    def _fill_days(self, shard: ShardState, batch: dict[str, NDArray[Any]], *, hidden: int, censored: bool) -> ShardState:
        days, place = np.unique(batch["tick"] // HOURS, return_inverse=True)
        standing = list(shard.days) + [""] * (int(days[-1]) + 1 - len(shard.days))
        cells = HourCells.empty(shard.n_series, days.size, censored=censored)
        for i, day in enumerate(days.tolist()):
            if standing[day]:
                piece, hours = unpack_arrays(self.blobs.get(standing[day])), slice(i * HOURS, (i + 1) * HOURS)
                cells.sold[:, hours] = piece["sold"]
                if cells.unseen is not None:
                    cells.unseen[:, hours] = piece["unseen"]
        # Columns of the days touched stand side by side; late statements are listed by their true ticks.
        shift = (days * HOURS - np.arange(days.size) * HOURS)[place].astype(np.int32)
        old = read_revisions(self.blobs, shard.revisions)
        touched = TouchedDays(days)
        cells.revisions = touched.narrow(old)
        narrow = {**batch, "tick": batch["tick"] - shift, **({"arrival": batch["arrival"] - shift} if "arrival" in batch else {})}
        if "early" in batch and cells.is_stated(narrow["row"][batch["early"]], narrow["tick"][batch["early"]]):
            raise _OutOfOrderError
        n_negative = int((cells.sold < 0).sum())
        self._fill(cells, narrow, hidden=hidden)
        cells.settle(hidden=hidden)
        self.n_met += cells.n_met
        self.n_negative += max(0, int((cells.sold < 0).sum()) - n_negative)
        for i, day in enumerate(days.tolist()):
            standing[day] = put_day(self.blobs, cells.sold, cells.unseen, place=i)
        revisions = put_revisions(self.blobs, touched.widen(cells.revisions, beside=old))
        return msgspec.structs.replace(shard, days=tuple(standing), revisions=revisions)

    def _renew_statics(self, state: HourState) -> HourState:
        labels, codes = self.facts.read_statics()
        shards, first = [], 0
        for shard in state.shards:
            keys, _ = read_series(self.blobs, shard)
            own = {name: values[first : first + shard.n_series] for name, values in codes.items()}
            shards.append(msgspec.structs.replace(shard, series=put_series(self.blobs, keys, own)))
            first += shard.n_series
        return msgspec.structs.replace(state, shards=tuple(shards), labels=labels, likeness=self.facts.find_likeness(labels))

    def _renew_facts(self, state: HourState, tables: set[str]) -> HourState:
        facts = self.facts.read_daily(state.start, tables)
        shards, first = [], 0
        for shard in state.shards:
            own = {name: values[first : first + shard.n_series] for name, values in facts.items()}
            shards.append(msgspec.structs.replace(shard, facts=self.blobs.put(pack_arrays(own))))
            first += shard.n_series
        return msgspec.structs.replace(state, shards=tuple(shards))

    def _doubt_cells(self) -> None:
        self._doubt("rows of an hour that had a row already", self.n_met, f"folded by {self.forecast.target.fold}")
        self._doubt("hours with a negative target", self.n_negative, "treated as missing")

    def _doubt(self, what: str, n: int, treatment: str) -> None:
        if n:
            self.doubts.append(Doubt(what, int(n), treatment))


def _in_zone(instant: str, source: Source) -> str:
    return f"timezone('{source.zone}', timezone('UTC', {instant}))"


def _most_series(n_days: int) -> int:
    """How many series a shard of so many days holds, or up to twice as many."""
    return int(np.clip(_SHARD_BYTES // (n_days * HOURS * _CELL_BYTES), 1, _SERIES_AT_ONCE))


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    found = [when for when in (one, other) if when is not None]
    return max(found, default=None)


def _count_hours(start: date, moment: datetime) -> int:
    return int((moment - datetime.combine(start, datetime.min.time())) // timedelta(hours=1))


def _ceil_hours(text: str) -> int:
    return -(-parse_duration(text) // timedelta(hours=1))
