"""The first minute: guess what the columns of somebody's file mean, and write down the project that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text

if TYPE_CHECKING:
    from endcap.loop.data.records import FileIdentity
    from endcap.loop.data.sources import Source

_TIME_WORDS = ("date", "dt", "day", "time", "timestamp", "datetime", "ds", "when")
_KEY_WORDS = ("store", "shop", "branch", "site", "location", "outlet", "region", "item", "sku", "product", "series", "id")
_TARGET_WORDS = ("units", "sales", "sold", "quantity", "qty", "orders", "visitors", "customers", "demand", "revenue", "amount", "y", "value", "count")
_FORMATS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y%m%d", "%Y/%m/%d", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M")
_MARK = "# Written by: endcap forecast"


class Guess(msgspec.Struct, frozen=True):
    """One guess about a file: what was looked for, what was taken, and why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Newcomer:
    """What was guessed about a file and the forecast that follows."""

    forecast: Forecast
    guesses: tuple[Guess, ...]


def guess_forecast(
    path: Path,
    *,
    key: str | None,
    time: str | None,
    target: str | None,
    horizon: str,
    zone: str | None,
    workspace_zone: str,
    digests: Callable[[Path], FileIdentity],
) -> Newcomer:
    """Look at a file and say what its columns mean; what the user said is taken as said.

    Time: a column that is or reads as dates. Target: a number by its name, else the last number that is no key. Key: a column by its name
    with few values; without one all rows are one series. Facts that have values on future days, where the target has none, are known
    ahead. Raises InvalidInput, with the columns there are, when time or target cannot be told. Cost: two scans of the file.
    """
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.sources import open_source

    source_path = str(path)
    plain = Table(_name_of(path), source_path)
    engine = open_engine()
    try:
        source = open_source(plain, folder=Path(), zone=zone or workspace_zone, engine=engine, digests=digests)
        return _Guesser(source, path, zone=zone, workspace_zone=workspace_zone).guess(key=key, time=time, target=target, horizon=horizon)
    finally:
        engine.close()


class _Guesser:
    def __init__(self, source: Source, path: Path, *, zone: str | None, workspace_zone: str) -> None:
        self.source, self.path, self.zone, self.workspace_zone = source, path, zone, workspace_zone
        self.columns = source.columns
        self.guesses: list[Guess] = []

    def guess(self, *, key: str | None, time: str | None, target: str | None, horizon: str) -> Newcomer:
        if not self.columns or self._one("SELECT count(*)")[0] == 0:
            raise InvalidInput(f"{self.path} has no rows.", hint="give a file with one row per day, or per sale")
        event_time, time_column = self._guess_time(time)
        target_column = self._guess_target(target, taken={time_column, *([key] if key else [])})
        keys, derived = self._guess_key(key, taken={time_column, target_column})
        zone = self._guess_zone(time_column)
        known_ahead, future = self._guess_known_ahead(event_time, target_column, taken={time_column, target_column, *keys})
        table = Table(
            _name_of(self.path),
            str(self.path),
            keys=keys,
            event_time=event_time,
            zone=zone,
            columns=derived,
            contract=Contract(future=future),
        )
        open_fact = next((name for name in known_ahead if name.lower() in ("open", "is_open", "opened")), None)
        forecast = Forecast(
            f"{_name_of(self.path)}-{_slug(target_column)}",
            table,
            Aggregate("sum", target_column),
            keys=keys,
            horizon=horizon,
            known_ahead=known_ahead,
            open=open_fact,
        )
        self._say_rows_per_day(event_time, keys)
        return Newcomer(forecast, tuple(self.guesses))

    def _guess_time(self, said: str | None) -> tuple[str, str]:
        if said is not None:
            self._require(said)
            expression, why = self._read_time(said)
            if expression is None:
                raise InvalidInput(f"The column '{said}' of {self.path} does not read as dates: {why}.", hint="give --time the column with the day")
            self._say("time", said, why)
            return expression, said
        ranked = sorted(self.columns, key=lambda name: (_rank(name, _TIME_WORDS), self.columns[name] not in ("date", "timestamp")))
        for name in ranked:
            if self.columns[name] in ("date", "timestamp") or (self.columns[name] == "text" and _rank(name, _TIME_WORDS) < len(_TIME_WORDS)):
                expression, why = self._read_time(name)
                if expression is not None:
                    self._say("time", name, why)
                    return expression, name
        raise InvalidInput(f"No column of {self.path} reads as dates. Columns: {list(self.columns)}.", hint="name it: --time COLUMN")

    def _read_time(self, name: str) -> tuple[str | None, str]:
        kind = self.columns[name]
        if kind in ("date", "timestamp"):
            return name, f"its values are of type {kind}"
        if kind not in ("text", "integer"):
            return None, f"its values are of type {kind}"
        text = f"CAST({quote(name)} AS VARCHAR)"
        tries = [(quote(name), "ISO dates", f"try_cast({text} AS TIMESTAMPTZ)")] if kind == "text" else []
        tries += [(f"strptime({text}, {quote_text(f)})", f"dates written {f}", f"try_strptime({text}, {quote_text(f)})") for f in _FORMATS]
        for expression, words, test in tries:
            good, present = self._one(f"SELECT count({test}), count({quote(name)})")
            if present and good >= 0.98 * present:
                return (name if words == "ISO dates" else expression), f"its values are {words}"
        return None, "no known way of writing dates fits its values"

    def _guess_target(self, said: str | None, *, taken: set[str]) -> str:
        if said is not None:
            self._require(said)
            self._say("target", said, "as said")
            return said
        numbers = [name for name, kind in self.columns.items() if kind in ("integer", "number") and name not in taken]
        named = sorted((n for n in numbers if _rank(n, _TARGET_WORDS) < len(_TARGET_WORDS)), key=lambda n: _rank(n, _TARGET_WORDS))
        others = [name for name in numbers if _rank(name, _KEY_WORDS) == len(_KEY_WORDS)]
        if named:
            self._say("target", named[0], "a number with a name like a target's")
            return named[0]
        if len(others) == 1:
            self._say("target", others[0], "the only number that is no key")
            return others[0]
        raise InvalidInput(f"Which number of {self.path} is to be forecast cannot be told. Numbers: {numbers}.", hint="name it: --target COLUMN")

    def _guess_key(self, said: str | None, *, taken: set[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        if said is not None:
            keys = tuple(part.strip() for part in said.split(",")) if said not in self.columns else (said,)
            for part in keys:
                self._require(part)
            self._say("key", ", ".join(keys), "as said")
            return keys, {}
        offered = [
            name
            for name, kind in self.columns.items()
            if name not in taken and kind in ("text", "integer") and _rank(name, _KEY_WORDS) < len(_KEY_WORDS)
        ]
        for name in sorted(offered, key=lambda n: _rank(n, _KEY_WORDS)):
            n_values, n_rows = self._one(f"SELECT approx_count_distinct({quote(name)}), count(*)")
            if 1 <= n_values <= max(1, n_rows // 7):
                self._say("key", name, f"about {n_values} values, each with rows on several days")
                return (name,), {}
        self._say("key", "(none)", "no column names series, so all rows are one series, 'all'; name one with --key")
        name = next(n for n in ("series", "series_", "all_rows") if n not in self.columns)
        return (name,), {name: "'all'"}

    def _guess_zone(self, time_column: str) -> str:
        if self.zone is not None:
            self._say("zone", self.zone, "as said")
            return self.zone
        why = (
            "the workspace's; times without an offset are read in it"
            if self.columns[time_column] != "date"
            else "the workspace's; its days begin there"
        )
        self._say("zone", self.workspace_zone, f"{why}; say another with --zone")
        return self.workspace_zone

    def _guess_known_ahead(self, event_time: str, target: str, *, taken: set[str]) -> tuple[dict[str, Aggregate], bool]:
        time = quote(event_time) if event_time in self.columns else event_time
        day = f"CAST({time} AS TIMESTAMP)" if self.columns.get(event_time) != "text" else f"CAST(try_cast({time} AS TIMESTAMPTZ) AS TIMESTAMP)"
        (last,) = self._one(f"SELECT max({day}) FILTER (WHERE {quote(target)} IS NOT NULL)")
        facts = [name for name, kind in self.columns.items() if name not in taken and kind in ("integer", "number", "bool")]
        if last is None:
            return {}, False
        counts = self._one(
            f"SELECT count(*){''.join(f', count({quote(name)})' for name in facts)}", where=f"{day} > TIMESTAMP {quote_text(str(last))}"
        )
        if counts[0] == 0:
            if facts:
                self._say("other columns", ", ".join(facts), "not used: they have no values on coming days, so nobody would know them ahead")
            return {}, False
        known = [name for name, n in zip(facts, counts[1:], strict=True) if n]
        if known:
            self._say("known ahead", ", ".join(known), "they have values on coming days")
        return {name: Aggregate("max" if self.columns[name] == "bool" else "mean", name) for name in known}, True

    def _say_rows_per_day(self, event_time: str, keys: tuple[str, ...]) -> None:
        time = quote(event_time) if event_time in self.columns else event_time
        names = ", ".join(quote(key) for key in keys if key in self.columns) or "1"
        cast = (
            f"CAST(try_cast(CAST({time} AS VARCHAR) AS TIMESTAMPTZ) AS DATE)" if self.columns.get(event_time) == "text" else f"CAST({time} AS DATE)"
        )
        rows, cells, exact = self._one(
            f"SELECT sum(n), count(*), max(same) FROM (SELECT {names}, {cast} AS d, count(*) AS n, 0 AS same FROM source GROUP BY ALL)", wrap=False
        )
        del exact
        if rows and cells and rows > cells:
            self._say("rows", f"{int(rows):,} on {int(cells):,} series-days", "several rows of one day are summed")

    def _require(self, name: str) -> None:
        if name not in self.columns:
            raise InvalidInput(unknown("column", name, self.columns, where=str(self.path)), hint=suggest(name, self.columns))

    def _say(self, what: str, value: str, why: str) -> None:
        self.guesses.append(Guess(what, value, why))

    def _one(self, select: str, *, where: str | None = None, wrap: bool = True) -> Any:
        tail = f" FROM source{f' WHERE {where}' if where else ''}" if wrap else ""
        return self.source.engine.execute(f"WITH source AS ({self.source.sql}) {select}{tail}").fetchall()[0]


def write_project(newcomer: Newcomer, *, folder: Path) -> str:
    """The text of the definition file for a guessed forecast, about 15 lines; paths are kept relative to ``folder`` where they lie below it."""
    forecast, table = newcomer.forecast, newcomer.forecast.table
    path = Path(table.source).resolve()
    source = path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else str(path)
    lines = [
        f"{_MARK} {path.name}",
        "import endcap as ec",
        "",
        "table = ec.Table(",
        f"    {table.name!r},",
        f"    {source!r},",
        f"    keys={list(table.keys)!r},",
        f"    event_time={table.event_time!r},",
        f"    zone={table.zone!r},",
    ]
    if table.columns:
        lines.append(f"    columns={table.columns!r},")
    if table.contract.future:
        lines.append("    contract=ec.Contract(future=True),  # the file holds coming days too")
    lines += [
        ")",
        "",
        "model = ec.Forecast(",
        f"    {forecast.name!r},",
        "    table,",
        f"    ec.sum({forecast.target.column!r}),",
        f"    horizon={forecast.horizon!r},",
    ]
    if forecast.known_ahead:
        facts = ", ".join(f"{name!r}: ec.{fact.fold}({fact.column!r})" for name, fact in forecast.known_ahead.items())
        lines.append(f"    known_ahead={{{facts}}},")
    if forecast.open:
        lines.append(f"    open={forecast.open!r},")
    return "\n".join([*lines, ")", ""])


def is_written_by_us(text: str) -> bool:
    """Whether a definition file came from ``write_project`` and may be written anew."""
    return text.startswith(_MARK)


def _rank(name: str, words: tuple[str, ...]) -> int:
    """The place of the first word that is the name or a part of it between underscores; the number of words when none is."""
    parts = set(_slug(name).split("-"))
    return next((i for i, word in enumerate(words) if word in parts or _slug(name) == word), len(words))


def _slug(text: str) -> str:
    kept = "".join(c.lower() if c.isascii() and c.isalnum() else "-" for c in text).strip("-")
    while "--" in kept:
        kept = kept.replace("--", "-")
    return kept[:40] or "column"


def _name_of(path: Path) -> str:
    stem = path.name.split(".")[0] if path.suffix else path.name
    return _slug(stem) if _slug(stem) != "column" else "table"
