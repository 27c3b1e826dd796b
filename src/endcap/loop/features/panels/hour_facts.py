"""Facts beside the hours: what describes a series, and what is known ahead about its days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote
from endcap.loop.data.failures import reading
from endcap.loop.data.sources import Source
from endcap.loop.features.panels.day_loading import Doubt
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.facts import find_contradictions, newest_facts

if TYPE_CHECKING:
    import duckdb

_REACH = timedelta(days=400)  # facts further ahead than this are not kept


@dataclass
class FactReader:
    """Reads facts for the series that stand numbered in the engine's table ``__series``; what is doubtful is added to ``doubts``."""

    forecast: Forecast
    sources: Mapping[str, Source]
    engine: duckdb.DuckDBPyConnection
    place: str
    now: datetime
    doubts: list[Doubt]

    def keys(self) -> dict[str, list[str]]:
        columns = ", ".join(f"CAST({quote(key)} AS VARCHAR) AS {quote(key)}" for key in self.forecast.keys)
        table = self.engine.sql(f"SELECT {columns} FROM __series ORDER BY __s").to_arrow_table()
        return {key: table[key].to_pylist() for key in self.forecast.keys}

    def read_statics(self) -> tuple[dict[str, tuple[str, ...]], dict[str, NDArray[np.int32]]]:
        """Labels and codes of every key and every column of the static tables, as known now; -1 where a series has none."""
        texts: dict[str, list[str | None]] = {name: list(values) for name, values in self.keys().items()}
        for static in self.forecast.static:
            source = self.sources[static.name]
            shared = [key for key in self.forecast.keys if key in source.columns]
            facts = [name for name in source.columns if name not in self.forecast.keys]
            if not shared or not facts:
                continue
            for name in facts:
                if name in texts:
                    raise InvalidInput(f"Two static tables of '{self.forecast.name}' have a column '{name}'.", hint="derive it under another name")
            chosen = ", ".join(f"min(CAST({quote(name)} AS VARCHAR)) AS {quote(name)}" for name in facts)
            keys, on = ", ".join(quote(k) for k in shared), " AND ".join(f"f.{quote(k)} = __series.{quote(k)}" for k in shared)
            with reading(static, columns=source.columns):
                rows = newest_facts(source, keys=shared, at=self.now)
                contradicted = find_contradictions(rows, facts=facts, keys=shared, engine=self.engine)
                table = self.engine.sql(
                    f"SELECT f.* FROM __series LEFT JOIN (SELECT {keys}, {chosen} FROM ({rows}) GROUP BY {keys}) f ON {on} ORDER BY __s"
                ).to_arrow_table()
            for name, (n, shown) in contradicted.items():
                self.doubts.append(Doubt(f"keys of table '{static.name}' with more than one {name} ({shown})", n, "the least of them counts"))
            texts |= {name: table[name].to_pylist() for name in facts}
        missing = [name for name in (*self.forecast.slices, *self.forecast.likeness) if name not in texts]
        if missing:
            where = f"Forecast '{self.forecast.name}'"
            raise InvalidInput(unknown("static column", missing[0], texts, where=where), hint=suggest(missing[0], texts))
        coded = {name: _encode(values) for name, values in texts.items()}
        return {name: labels for name, (labels, _) in coded.items()}, {name: codes for name, (_, codes) in coded.items()}

    def find_likeness(self, labels: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        if self.forecast.likeness:
            return self.forecast.likeness
        items = [key for key in self.forecast.keys if key != self.place]
        facts = [
            name
            for static in self.forecast.static
            if any(key in items for key in self.sources[static.name].columns)
            for name in self.sources[static.name].columns
            if name in labels and name not in self.forecast.keys
        ]
        return (*items, *sorted(facts, key=lambda name: -len(labels[name])))

    def read_daily(self, start: date, tables: set[str]) -> dict[str, Floats]:
        """Known-ahead facts by name, n_series x n_days from ``start`` on; NaN where there is no row."""
        found: dict[str, Floats] = {}
        (n_series,) = self.engine.execute("SELECT count(*) FROM __series").fetchall()[0]
        for name in sorted(tables):
            source = self.sources[name]
            wanted = {n: a for n, a in self.forecast.known_ahead.items() if a.table is not None and a.table.name == name}
            shared = [key for key in self.forecast.keys if key in source.columns]
            on = " AND ".join(f"f.{quote(k)} = __series.{quote(k)}" for k in shared) or "true"
            folds = ", ".join(
                f"TRY_CAST({fold_sql(a)}({v}) FILTER (WHERE isfinite({v})) AS FLOAT) AS {quote(n)}"
                for n, a, v in ((n, a, value_sql(source, a)) for n, a in wanted.items())
            )
            end = min(self.now.date(), date.max - _REACH) + _REACH
            keys = "".join(f"{quote(k)}, " for k in shared)
            own = f" EXCLUDE ({', '.join(quote(k) for k in shared)})" if shared else ""
            day = f"CAST(date_diff('day', DATE '{start.isoformat()}', CAST(__event_time AS DATE)) AS INTEGER)"
            with reading(name, columns=source.columns):
                inside = f"__event_time >= DATE '{start.isoformat()}' AND __event_time < DATE '{end.isoformat()}'"
                folded = f"SELECT {keys}{day} AS __day, {folds} FROM ({source.sql}) WHERE {inside} GROUP BY ALL"
                table = self.engine.sql(f"SELECT __s, f.*{own} FROM ({folded}) f JOIN __series ON {on}").to_arrow_table()
            series, days = table["__s"].to_numpy(), table["__day"].to_numpy()
            n_days = int(days.max(initial=-1)) + 1
            for fact in wanted:
                values = np.full((n_series, n_days), np.nan, dtype=np.float32)
                values[series, days] = table[fact].to_numpy(zero_copy_only=False)
                found[fact] = values
        return found


def value_sql(source: Source, aggregate: Aggregate) -> str:
    """A row's value as a float; what is counted is 1 where there is a value."""
    if aggregate.column == "*":
        return "CAST(1 AS FLOAT)"
    column = source.resolve(aggregate.column)
    if aggregate.fold == "count":
        return f"CAST(({column}) IS NOT NULL AS FLOAT)"
    return f"TRY_CAST(CAST({column} AS DOUBLE) AS FLOAT)"


def fold_sql(aggregate: Aggregate) -> str:
    return {"mean": "avg", "count": "sum"}.get(aggregate.fold, aggregate.fold)


def _encode(values: list[str | None]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Labels in order and a code for each value; -1 for a missing one."""
    labels = sorted({value for value in values if value is not None})
    places = {label: i for i, label in enumerate(labels)}
    return tuple(labels), np.array([-1 if value is None else places[value] for value in values], dtype=np.int32)
