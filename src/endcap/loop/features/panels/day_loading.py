"""From tables to a panel: one aggregate query per table, in DuckDB, and dense arrays out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from endcap.core.clock import describe_instant
from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote
from endcap.core.zones import load_zone, local_day, start_of_day
from endcap.loop.data.sources import Source
from endcap.loop.features.panels.calendars import BEYOND_DAYS, find_holidays
from endcap.loop.features.panels.day_panels import Flags, Floats, Indexes, Panel, Revisions, Statics
from endcap.loop.features.panels.facts import find_contradictions, known_by, newest_facts

if TYPE_CHECKING:
    import duckdb

MOST_DAYS = 1500
MOST_CELLS = 400_000_000
_MOST_LABELS = 64
_RARE = 0.1  # the share of cells up to which more rows than usual are a doubt, not a habit


class Doubt(msgspec.Struct, frozen=True):
    """Rows or cells that were treated specially, and how."""

    what: str
    n: int
    treatment: str


@dataclass(frozen=True)
class LoadedPanel:
    """A panel, how many rows it was made from, and what was doubtful about them."""

    panel: Panel
    n_rows: int
    doubts: tuple[Doubt, ...]
    first_day: date
    last_day: date


def load_panel(
    forecast: Forecast,
    *,
    sources: Mapping[str, Source],
    engine: duckdb.DuckDBPyConnection,
    now: datetime,
    origin: date | None = None,
) -> LoadedPanel:
    """Everything a forecast reads, as known at its origin, as dense arrays.

    ``origin`` is the local day at whose start the forecast is made. None chooses it: the day of ``now`` while the data reach to within
    one horizon of it, otherwise the day after the last that has data, so that an old file is forecast from its own end.
    Rows with a null key are left out; infinite, missing and negative targets count as missing; each is named in ``doubts``.
    At most the latest 1,500 days are read. Raises InvalidInput for a table without rows, or one too large for a dense panel.
    Cost: one scan of each table; memory: 4 bytes per series, day and column.
    """
    return _Loading(forecast, sources=sources, engine=engine, now=now).load(origin)


class _Loading:
    def __init__(self, forecast: Forecast, *, sources: Mapping[str, Source], engine: duckdb.DuckDBPyConnection, now: datetime) -> None:
        self.forecast, self.sources, self.engine, self.now = forecast, sources, engine, now
        self.source = sources[forecast.table.name]
        self.zone = self.source.zone
        self.at = now  # the instant of the origin, once it is chosen
        self.doubts: list[Doubt] = []
        for key in forecast.keys:
            if key not in self.source.columns:
                raise InvalidInput(
                    unknown("column", key, self.source.columns, where=f"Table '{self.source.table.name}'"),
                    hint=suggest(key, self.source.columns),
                )

    def load(self, wanted: date | None) -> LoadedPanel:
        n_rows, first, last = self._survey()
        hidden = self._count_hidden()
        origin_day = wanted or self._choose_origin(last, hidden=hidden)
        self.at = start_of_day(origin_day, zone=self.zone)
        first = self._find_first_known(first)
        start = max(first, origin_day - timedelta(days=MOST_DAYS))
        if start > first:
            self._doubt(f"days before {start}", (start - first).days, "left out: a panel holds 1,500 days")
        origin, lead, horizon = (origin_day - start).days, self.forecast.lead_days, self.forecast.horizon_days
        if origin - hidden < 1:
            raise InvalidInput(
                f"At the origin {origin_day} no day of table '{self.source.table.name}' is known yet: its rows begin on {first}"
                f" and become known {hidden} d after their day.",
                hint=f"choose an origin after {first + timedelta(days=hidden)}",
            )
        n_series = self._name_series()
        n_seen, n_ahead = origin - hidden, origin + lead + horizon
        n_columns = 1 + len(self.forecast.known_ahead) + len(self.forecast.past) + (self.forecast.censored is not None)
        if n_series * n_ahead * n_columns > MOST_CELLS:
            raise InvalidInput(
                f"Forecast '{self.forecast.name}' asks for {n_series} series x {n_ahead} days x {n_columns} columns;"
                f" a dense panel holds at most {MOST_CELLS:,} cells.",
                hint="forecast fewer series, or a shorter history",
            )
        observed, revisions = self._read_all(start, n_series=n_series, n_ahead=n_ahead, hidden=hidden)
        calendar = find_holidays(self.forecast.holidays, start=start, n_days=n_ahead + BEYOND_DAYS)
        panel = Panel(
            keys=self._keys(),
            key_types={key: self.source.columns[key] for key in self.forecast.keys},
            start=start,
            origin=origin,
            hidden=hidden,
            lead=lead,
            horizon=horizon,
            observed=self._clean_target(observed.pop("target")[:, :n_seen]),
            censored=np.ascontiguousarray(observed.pop("censored")[:, :n_seen]) if self.forecast.censored else None,
            ahead={name: observed.pop(name) for name in self.forecast.known_ahead}
            | {name: np.tile(flags[:n_ahead].astype(np.float32), (n_series, 1)) for name, flags in calendar.items()},
            past={name: np.ascontiguousarray(observed.pop(name)[:, :n_seen]) for name in self.forecast.past},
            statics=self._read_statics(n_series),
            open_fact=self.forecast.open,
            censored_most=self.forecast.censored_most,
            revisions=revisions,
            calendar=calendar,
        )
        self._doubt_cells(panel)
        return LoadedPanel(panel, n_rows, tuple(self.doubts), first, min(last, panel.day(panel.n_seen - 1)))

    def _survey(self) -> tuple[int, date, date]:
        keys = " OR ".join(f"{quote(key)} IS NULL" for key in self.forecast.keys)
        target = self._double(self.forecast.target)
        known = known_by(self.source, self.now)
        n, n_null_key, n_timeless, n_bad, first, last = self._one(
            f"SELECT count(*), count(*) FILTER (WHERE {keys}), count(*) FILTER (WHERE __event_time IS NULL AND NOT ({keys})),"
            f" count(*) FILTER (WHERE NOT isfinite({target})),"
            f" CAST(min(__event_time) FILTER (WHERE {target} IS NOT NULL) AS DATE),"
            f" CAST(max(__event_time) FILTER (WHERE {target} IS NOT NULL AND __event_time < {_timestamp(self._local_now())}) AS DATE)"
            f" FROM ({self.source.sql}) WHERE {known}"
        )
        if n == 0 or first is None or last is None:
            raise InvalidInput(
                f"Table '{self.source.table.name}' has no row with a value for {self.forecast.target} up to {self.now.date()}.",
                hint="look at the file, its event_time and its zone",
            )
        self._doubt("rows without a key", n_null_key, "left out")
        self._doubt("rows without a time", n_timeless, "left out")
        self._doubt("infinite or NaN targets", n_bad, "treated as missing")
        return int(n), first, last

    def _count_hidden(self) -> int:
        """The days before an origin that are not seen: as many as the observed column that becomes known last asks for."""
        observed = [self.forecast.target, *self.forecast.past.values(), *([self.forecast.censored] if self.forecast.censored else [])]
        return max(_ceil_days(aggregate.table.known_after) for aggregate in observed if aggregate.table is not None)

    def _find_first_known(self, first: date) -> date:
        """The first day with a row that was known at the origin: a row that came later must not lengthen the axis."""
        if self.source.table.known_at is None:
            return first
        known: date | None = self._one(
            f"SELECT CAST(min(__event_time) FILTER (WHERE {self._double(self.forecast.target)} IS NOT NULL) AS DATE)"
            f" FROM ({self.source.sql}) WHERE {known_by(self.source, self.at)}"
        )[0]
        if known is None:
            raise InvalidInput(
                f"At the origin, {describe_instant(self.at)}, no row of table '{self.source.table.name}' was known yet.",
                hint="choose a later origin, or look at known_at",
            )
        return known

    def _local_now(self) -> datetime:
        return self.now.astimezone(load_zone(self.zone)).replace(tzinfo=None)

    def _choose_origin(self, last: date, *, hidden: int) -> date:
        today, after_data = local_day(self.now, zone=self.zone), last + timedelta(days=1 + hidden)
        if today <= after_data or (today - after_data).days <= self.forecast.horizon_days:
            return today
        self._doubt(f"days between the end of the data ({last}) and today", (today - after_data).days, "forecast from the end of the data")
        return after_data

    def _name_series(self) -> int:
        keys = ", ".join(quote(key) for key in self.forecast.keys)
        parts = [f"SELECT DISTINCT {keys} FROM ({self.source.sql}) WHERE __event_time IS NOT NULL AND {known_by(self.source, self.at)}"]
        for static in self.forecast.static:
            source = self.sources[static.name]
            if all(key in source.columns for key in self.forecast.keys):
                parts.append(f"SELECT DISTINCT {keys} FROM ({source.sql}) WHERE {known_by(source, self.at)}")
        present = " AND ".join(f"{quote(key)} IS NOT NULL" for key in self.forecast.keys)
        self.engine.execute(
            f"CREATE OR REPLACE TEMP TABLE __series AS SELECT CAST(row_number() OVER (ORDER BY {keys}) - 1 AS INTEGER) AS __s, {keys}"
            f" FROM ({' UNION '.join(parts)}) WHERE {present}"
        )
        (n_series,) = self._one("SELECT count(*) FROM __series")
        if n_series == 0:
            raise InvalidInput(f"Every row of table '{self.source.table.name}' has a null in its keys {list(self.forecast.keys)}.")
        return int(n_series)

    def _keys(self) -> dict[str, tuple[str, ...]]:
        columns = ", ".join(f"CAST({quote(key)} AS VARCHAR) AS {quote(key)}" for key in self.forecast.keys)
        table = self.engine.sql(f"SELECT {columns} FROM __series ORDER BY __s").to_arrow_table()
        return {key: tuple(table[key].to_pylist()) for key in self.forecast.keys}

    def _read_all(self, start: date, *, n_series: int, n_ahead: int, hidden: int) -> tuple[dict[str, Floats], dict[str, Revisions]]:
        roles: dict[str, Aggregate] = {"target": self.forecast.target, **self.forecast.known_ahead, **self.forecast.past}
        if self.forecast.censored is not None:
            roles["censored"] = self.forecast.censored
        by_table: dict[str, dict[str, Aggregate]] = {}
        for name, aggregate in roles.items():
            assert aggregate.table is not None, "definitions fill in the table"
            by_table.setdefault(aggregate.table.name, {})[name] = aggregate
        arrays: dict[str, Floats] = {}
        revisions: dict[str, Revisions] = {}
        for table, wanted in by_table.items():
            source = self.sources[table]
            arrays.update(_Reading(self, source, wanted, start=start, n_ahead=n_ahead).read_cells(n_series))
            if source.table.known_at is None:
                continue
            # What is read at the target's day must have its whole history, even where the same rows hold what is observed.
            facts = {name: aggregate for name, aggregate in wanted.items() if name in self.forecast.known_ahead}
            seen = {name: aggregate for name, aggregate in wanted.items() if name not in facts}
            for part in filter(None, (facts, seen)):
                reading = _Reading(self, source, part, start=start, n_ahead=n_ahead)
                revisions.update(reading.read_revisions(all_cells=part is facts, hidden=hidden))
        if "target" in revisions:
            values = revisions["target"].values
            values[values < 0] = np.nan
        return arrays, revisions

    def _clean_target(self, values: Floats) -> Floats:
        negative: Flags = values < 0
        self._doubt("days with a negative target", int(negative.sum()), "treated as missing")
        values[negative] = np.nan
        return np.ascontiguousarray(values)

    def _doubt_cells(self, panel: Panel) -> None:
        if panel.censored is not None:
            masked = int((panel.censored > panel.censored_most).sum())
            self._doubt("days on which demand was censored", masked, "masked in training and scoring")
            missing = np.isnan(panel.observed)
            sold_out = (missing | (panel.censored > panel.censored_most)).all(axis=1) & ~missing.all(axis=1)
            self._doubt("series sold out on every day they have", int(sold_out.sum()), "their demand was never seen: forecast from similar series")
        if panel.open_fact is not None:
            closed = int((~panel.is_open(np.arange(panel.n_seen))).sum())
            self._doubt("days on which a series was closed", closed, "forecast 0; neither learned from nor scored")
        missing = np.isnan(panel.observed)
        self._doubt("series without any history", int(missing.all(axis=1).sum()), "forecast from similar series, with wider bands")
        begun = np.maximum.accumulate(~missing, axis=1)
        self._doubt("days missing after a series began", int((missing & begun).sum()), "left missing")

    def doubt_repeats(self, n_rows: Indexes) -> None:
        """Name the cells that have more rows than cells usually have, where that is rare: an hour or a day may have been sent twice.

        Where every cell has its own number of rows, one for each sale say, there is nothing to name.
        """
        usual = int(np.median(n_rows)) if n_rows.size else 0
        repeated = int((n_rows > usual).sum())
        if repeated <= _RARE * n_rows.size:
            rows = "row" if usual == 1 else "rows"
            self._doubt(
                f"days of a series with more than the usual {usual} {rows}",
                repeated,
                f"folded by {self.forecast.target.fold}: what was sent twice counts twice",
            )

    def _read_statics(self, n_series: int) -> dict[str, Statics]:
        facts = [name for table in self.forecast.static for name in self.sources[table.name].columns if name not in self.forecast.keys]
        for name in self.forecast.slices:
            if name not in facts:
                tables = " and ".join(f"'{table.name}'" for table in self.forecast.static)
                raise InvalidInput(unknown("column", name, facts, where=f"Table {tables}"), hint=suggest(name, facts))
        found: dict[str, Statics] = {}
        for static in self.forecast.static:
            found |= self._read_static(static, n_series)
        return found

    def _read_static(self, static: Table, n_series: int) -> dict[str, Statics]:
        source = self.sources[static.name]
        shared = [key for key in self.forecast.keys if key in source.columns]
        facts = [name for name in source.columns if name not in self.forecast.keys]
        if not shared or not facts:
            return {}
        # Of facts that contradict one another the least counts, and it is said which keys have such.
        chosen = ", ".join(f"min({quote(name)}) AS {quote(name)}" for name in facts)
        keys, on = ", ".join(quote(k) for k in shared), " AND ".join(f"f.{quote(k)} = __series.{quote(k)}" for k in shared)
        rows = newest_facts(source, keys=shared, at=self.at)
        table = self.engine.sql(
            f"SELECT f.* FROM __series LEFT JOIN (SELECT {keys}, {chosen} FROM ({rows}) GROUP BY {keys}) f ON {on} ORDER BY __s"
        ).to_arrow_table()
        for name, (n, shown) in find_contradictions(rows, facts=facts, keys=shared, engine=self.engine).items():
            self._doubt(f"keys of table '{static.name}' with more than one {name} ({shown})", n, "the least of them counts")
        coded = {name: _code_labels(table[name].to_pylist(), keep=name in self.forecast.slices) for name in facts}
        return {name: fact for name, fact in coded.items() if fact is not None and fact.codes.size == n_series}

    def _double(self, aggregate: Aggregate) -> str:
        if aggregate.column == "*":
            return "CAST(1 AS DOUBLE)"
        return f"CAST({self.source.resolve(aggregate.column)} AS DOUBLE)"

    def _one(self, statement: str) -> Any:
        return self.engine.execute(statement).fetchall()[0]

    def _doubt(self, what: str, n: int, treatment: str) -> None:
        if n > 0:
            self.doubts.append(Doubt(what, int(n), treatment))


class _Reading:
    """The queries on one table: cells, and the history of those that came late."""

    def __init__(self, loading: _Loading, source: Source, wanted: dict[str, Aggregate], *, start: date, n_ahead: int) -> None:
        self.loading, self.source, self.wanted, self.start, self.n_ahead = loading, source, wanted, start, n_ahead
        self.shared = [key for key in loading.forecast.keys if key in source.columns]
        # Rows of one key, event time and known-at came together: all of them count, as rows without a known-at do.
        self.row_key = ", ".join([*(quote(key) for key in source.table.keys or self.shared), "__event_time"])

    def read_cells(self, n_series: int) -> dict[str, Floats]:
        keys = "".join(f"{quote(key)}, " for key in self.shared)
        folds = ", ".join(f"{self._fold(a)} AS {quote(name)}" for name, a in self.wanted.items())
        on = " AND ".join(f"c.{quote(k)} = __series.{quote(k)}" for k in self.shared) or "true"
        values = ", ".join(f"TRY_CAST({quote(name)} AS FLOAT) AS {quote(name)}" for name in self.wanted)
        result = self.loading.engine.sql(
            f"WITH c AS (SELECT {keys}CAST(__event_time AS DATE) AS __day, count(*) AS __n, {folds} FROM ({self._newest_rows()}) GROUP BY ALL)"
            f" SELECT __s, {self._tick('__day')} AS __tick, __n, {values}"
            f" FROM c JOIN __series ON {on}"
        ).to_arrow_table()
        series, ticks = result["__s"].to_numpy(), result["__tick"].to_numpy()
        if "target" in self.wanted:
            self.loading.doubt_repeats(result["__n"].to_numpy())
        arrays = {}
        for name in self.wanted:
            array = np.full((n_series, self.n_ahead), np.nan, dtype=np.float32)
            array[series, ticks] = result[name].to_numpy(zero_copy_only=False)
            arrays[name] = array
        return arrays

    def read_revisions(self, *, all_cells: bool, hidden: int) -> dict[str, Revisions]:
        """The values that late cells had from each arrival on. Cost grows with the rows of cells that have a late row."""
        on = " AND ".join(f"r.{quote(k)} = __series.{quote(k)}" for k in self.shared) or "true"
        # Known exactly at midnight counts for the origin of that midnight; any later, for the next one.
        local = f"timezone('{self.loading.zone}', timezone('UTC', __known_at))"
        arrival = f"date_diff('day', {_date(self.start)}, CAST({local} + INTERVAL 1 DAY - INTERVAL 1 MICROSECOND AS DATE))"
        tick = self._tick("CAST(__event_time AS DATE)")
        folds = ", ".join(f"TRY_CAST({self._fold(a)} AS FLOAT) AS {quote(name)}" for name, a in self.wanted.items())
        late = "" if all_cells else f" QUALIFY bool_or(__arrival > __tick + 1 + {hidden}) OVER (PARTITION BY __s, __tick)"
        result = self.loading.engine.sql(
            f"WITH rows AS (SELECT __s, {tick} AS __tick, greatest({arrival}, {'0' if all_cells else tick + ' + 1'}) AS __arrival, r.*"
            f"   FROM ({self._rows()}) r JOIN __series ON {on}),"
            f" late AS (SELECT * FROM rows{late}),"
            " moments AS (SELECT DISTINCT __s, __tick, __arrival FROM late),"
            " stated AS (SELECT m.__s AS __series_at, m.__tick AS __tick_at, m.__arrival AS __arrival_at, late.* FROM moments m JOIN late"
            "   ON late.__s = m.__s AND late.__tick = m.__tick AND late.__arrival <= m.__arrival"
            f"   QUALIFY rank() OVER (PARTITION BY m.__s, m.__tick, m.__arrival, {self.row_key} ORDER BY __known_at DESC) = 1)"
            f" SELECT __series_at, __tick_at, __arrival_at, {folds} FROM stated GROUP BY ALL ORDER BY __arrival_at, __series_at, __tick_at"
        ).to_arrow_table()
        series, ticks, arrivals = (result[c].to_numpy().astype(np.int64) for c in ("__series_at", "__tick_at", "__arrival_at"))
        return {name: Revisions(series, ticks, arrivals, result[name].to_numpy(zero_copy_only=False).astype(np.float32)) for name in self.wanted}

    def _rows(self) -> str:
        end = self.start + timedelta(days=self.n_ahead)
        return (
            f"SELECT * FROM ({self.source.sql}) WHERE __event_time >= {_date(self.start)} AND __event_time < {_date(end)}"
            f" AND {known_by(self.source, self.loading.at)}"
        )

    def _newest_rows(self) -> str:
        if self.source.table.known_at is None:
            return self._rows()
        return f"SELECT * FROM ({self._rows()}) QUALIFY rank() OVER (PARTITION BY {self.row_key} ORDER BY __known_at DESC) = 1"

    def _tick(self, day: str) -> str:
        return f"CAST(date_diff('day', {_date(self.start)}, {day}) AS INTEGER)"

    def _fold(self, aggregate: Aggregate) -> str:
        if aggregate.fold == "count":
            inner = "*" if aggregate.column == "*" else self.source.resolve(aggregate.column)
            return f"CAST(count({inner}) AS DOUBLE)"
        value = f"CAST({self.source.resolve(aggregate.column)} AS DOUBLE)"
        function = {"mean": "avg"}.get(aggregate.fold, aggregate.fold)
        return f"{function}({value}) FILTER (WHERE isfinite({value}))"


def _ceil_days(text: str) -> int:
    return -(-parse_duration(text) // timedelta(days=1))


def _date(day: date) -> str:
    return f"DATE '{day.isoformat()}'"


def _timestamp(moment: datetime) -> str:
    return f"TIMESTAMP '{moment.isoformat(sep=' ')}'"


def _code_labels(values: Sequence[Any], *, keep: bool) -> Statics | None:
    """Codes for one fact. Many-valued numbers become eighths of their range of ranks; many-valued texts and dates are left out."""
    values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    labels = sorted({str(value) for value in values if value is not None})
    if len(labels) > _MOST_LABELS and not keep:
        if not all(isinstance(value, int | float | Decimal) for value in values if value is not None):
            return None
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        edges = np.nanquantile(numbers, np.linspace(0, 1, 9)[1:-1])
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers)).astype(np.int32)
        return Statics(codes, tuple(f"eighth {i + 1}" for i in range(8)))
    places = {label: i for i, label in enumerate(labels)}
    return Statics(np.array([-1 if v is None else places[str(v)] for v in values], dtype=np.int32), tuple(labels))
