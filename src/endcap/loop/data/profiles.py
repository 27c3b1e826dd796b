"""Profiles of a table's files: what each column holds, by one scan of the query engine."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from endcap.core.names import quote
from endcap.loop.data.failures import reading
from endcap.loop.data.records import MOST_TEXTS, QUANTILES, ColumnProfile
from endcap.loop.data.sources import Source

if TYPE_CHECKING:
    import duckdb

MOST_EXACT_ROWS = 5_000_000
N_SAMPLED = 1_000_000
_N_TOP = 20
_SEED = 7
_SAMPLE = "__profile_sample"


def profile_source(
    source: Source, *, engine: duckdb.DuckDBPyConnection, personal: Collection[str] = (), n_rows: int | None = None
) -> list[ColumnProfile]:
    """A profile of every column, in the table's order.

    Counts, least, most, mean and deviation are over all rows. Quantiles and top values are too up to 5 M rows; above, they come
    from a Bernoulli sample of about 1 M rows, drawn with a fixed seed so that the same files give the same profile, and the
    counts of ``top`` are scaled to all rows. The distinct count is HyperLogLog's (Flajolet et al., 2007). ``personal`` names
    columns of which only counts are kept; ``n_rows`` spares counting the rows again.

    Cost: one scan of the files and, above 5 M rows, one more for the sample (for CSV also one to count, unless ``n_rows`` is
    given). Memory: the rows kept for the quantiles, spilled if need be. On two cores 100 M rows of six columns in Parquet take
    about ten seconds.
    """
    with reading(source.table, columns=source.columns):
        if n_rows is None:
            (n_rows,) = engine.execute(f"SELECT count(*) FROM ({source.sql})").fetchone() or (0,)
        sampled = n_rows > MOST_EXACT_ROWS
        names = ", ".join(quote(name) for name in source.columns)
        share = f" USING SAMPLE {100 * N_SAMPLED / n_rows:.9f}% (bernoulli, {_SEED})" if sampled else ""
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {_SAMPLE} AS SELECT {names} FROM ({source.sql}){share}")
        try:
            return _Profiling(source, engine=engine, personal=personal, n_rows=n_rows, sampled=sampled).profile()
        finally:
            engine.execute(f"DROP TABLE IF EXISTS {_SAMPLE}")


class _Profiling:
    def __init__(self, source: Source, *, engine: duckdb.DuckDBPyConnection, personal: Collection[str], n_rows: int, sampled: bool) -> None:
        self.source, self.engine, self.personal = source, engine, personal
        self.n_rows, self.sampled = n_rows, sampled

    def profile(self) -> list[ColumnProfile]:
        quantiles = self._quantiles()
        folded = self._fold({name: values[4] for name, values in quantiles.items()})
        profiles = []
        for name, type_ in self.source.columns.items():
            n_null, n_distinct, least, most, shift_mean, square_mean, n_infinite = folded[name]
            shown = name not in self.personal
            mean, deviation = _moments(quantiles.get(name, [0.0] * 9)[4], shift_mean, square_mean)
            profiles.append(
                ColumnProfile(
                    name=name,
                    type=type_,
                    n=self.n_rows,
                    n_null=n_null,
                    n_distinct=min(n_distinct, self.n_rows - n_null),
                    least=least if shown else None,
                    most=most if shown else None,
                    mean=mean if shown else None,
                    deviation=deviation if shown and type_ != "bool" else None,
                    quantiles=quantiles.get(name) if shown else None,
                    n_infinite=n_infinite if shown else 0,
                    top=self._top(name) if shown and type_ == "text" and 0 < n_distinct <= MOST_TEXTS else [],
                )
            )
        return profiles

    def _quantiles(self) -> dict[str, list[float]]:
        """Of finite values; columns without any are left out. Columns are taken in turn, since each is held in memory."""
        found: dict[str, list[float]] = {}
        for name, type_ in self.source.columns.items():
            if type_ not in ("integer", "number"):
                continue
            value = self._double(name)
            row = self._one(f"SELECT quantile_cont({value}, {list(QUANTILES)}) FILTER (WHERE isfinite({value})) FROM {_SAMPLE}")
            if row[0] is not None:
                found[name] = [float(q) for q in row[0]]
        return found

    def _fold(self, centres: dict[str, float]) -> dict[str, tuple[Any, ...]]:
        """One scan: missing, distinct, least, most, the means of the difference from a centre and of its square, and infinite.

        The differences are small where the values are large, which keeps the deviation's digits (Chan, Golub and LeVeque, 1983).
        """
        asked = [part for name in self.source.columns for part in self._asks(name, centres.get(name, 0.0))]
        rows = self.source.sql if self.sampled else f"SELECT * FROM {_SAMPLE}"
        row = self._one(f"SELECT {', '.join(asked)} FROM ({rows})") if asked else ()
        return {name: tuple(row[7 * i : 7 * i + 7]) for i, name in enumerate(self.source.columns)}

    def _asks(self, name: str, centre: float) -> list[str]:
        column, type_ = quote(name), self.source.columns[name]
        if type_ in ("integer", "number"):
            floating = self.source.stored_types[name] in ("FLOAT", "DOUBLE")
            kept = f" FILTER (WHERE isfinite({column}))" if floating else ""
            apart = f"({self._double(name)} - CAST('{centre!r}' AS DOUBLE))"
            present = f"CASE WHEN NOT isnan({column}) THEN {column} END" if floating else column
            return [
                f"count(*) - count({present})",
                f"approx_count_distinct({present})",
                *(f"CAST({fold}({column}){kept} AS DOUBLE)" for fold in ("min", "max")),
                f"avg({apart}){kept}",
                f"avg({apart} * {apart}){kept}",
                f"count(*) FILTER (WHERE isinf({column}))" if floating else "0",
            ]
        counted = column if type_ in ("text", "date", "timestamp", "bool") else f"hash({column})"
        asks = [f"count(*) - count({column})", f"approx_count_distinct({counted}) FILTER (WHERE {column} IS NOT NULL)"]
        if type_ == "bool":
            return [*asks, "NULL", "NULL", f"avg(CAST({column} AS INTEGER))", "NULL", "0"]
        if type_ in ("date", "timestamp"):
            ends = [f"replace(CAST({fold}({column}) AS VARCHAR), ' ', 'T')" for fold in ("min", "max")]
            return [*asks, *ends, "NULL", "NULL", "0"]
        return [*asks, "NULL", "NULL", "NULL", "NULL", "0"]

    def _top(self, name: str) -> list[tuple[str, int]]:
        column = quote(name)
        rows = self.engine.execute(
            f"SELECT CAST({column} AS VARCHAR) AS value, count(*) AS n, sum(count(*)) OVER () AS n_all FROM {_SAMPLE}"
            f" GROUP BY {column} ORDER BY {column} IS NULL, n DESC, value LIMIT {_N_TOP}"
        ).fetchall()
        scale = self.n_rows / float(rows[0][2]) if self.sampled and rows else 1.0
        return [(value, round(n * scale)) for value, n, _ in rows if value is not None]

    def _double(self, name: str) -> str:
        return f"CAST({quote(name)} AS DOUBLE)"

    def _one(self, statement: str) -> tuple[Any, ...]:
        return tuple(self.engine.execute(statement).fetchone() or ())


def _moments(centre: float, shift_mean: float | None, square_mean: float | None) -> tuple[float | None, float | None]:
    if shift_mean is None:
        return None, None
    if square_mean is None:
        return shift_mean, None
    return centre + shift_mean, math.sqrt(max(square_mean - shift_mean * shift_mean, 0.0))
