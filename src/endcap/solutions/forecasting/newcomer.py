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
from endcap.core.settings import Settings

if TYPE_CHECKING:
    from endcap.loop.data.records import FileIdentity
    from endcap.loop.data.sources import Source

_TIME_WORDS = ("date", "dt", "day", "time", "timestamp", "datetime", "ds", "when")
_KEY_WORDS = ("store", "shop", "branch", "site", "location", "outlet", "region", "item", "sku", "product", "series", "id")
_TARGET_WORDS = ("units", "sales", "sold", "quantity", "qty", "orders", "visitors", "customers", "demand", "revenue", "amount", "y", "value", "count")
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%Y%m%d", "%Y/%m/%d")
_FORMATS = tuple(f"{day}{time}" for time in ("", " %H:%M", " %H:%M:%S") for day in _DAYS)
_FITS = 0.98  # of a column's values: what fits so many is meant so, and the others are mistakes
_TAKEN = ("target", "censored")  # a panel's own names
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
    settings: Settings | None = None,
) -> Newcomer:
    """Look at a file and say what its columns mean; what the user said is taken as said.

    Time: a column that is or reads as dates; of several ways of reading it the one that puts its days closest together. Target: a number
    by its name, else the only number that is no key. Key: a column by its name with few values; without one all rows are one series.
    Facts that have values on future days, where the target has none, are known ahead. Raises InvalidInput, with the columns there are,
    when time or target cannot be told, and with a value that is in the way. Cost: a few scans of the file.
    """
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.sources import open_source

    with open_engine(settings) as engine:

        def look(table: Table) -> Source:
            return open_source(table, folder=Path(), zone=zone or workspace_zone, engine=engine, digests=digests)

        return _Guesser(look, path, zone=zone, workspace_zone=workspace_zone).guess(key=key, time=time, target=target, horizon=horizon)


class _Guesser:
    def __init__(self, look: Callable[[Table], Source], path: Path, *, zone: str | None, workspace_zone: str) -> None:
        self.look, self.path, self.zone, self.workspace_zone = look, path, zone, workspace_zone
        self.source = look(Table(_name_of(path), str(path)))
        self.columns = self.source.columns
        self.guesses: list[Guess] = []

    def guess(self, *, key: str | None, time: str | None, target: str | None, horizon: str) -> Newcomer:
        if not self.columns or self._one("SELECT count(*)")[0] == 0:
            raise InvalidInput(f"{self.path} has no rows.", hint="give a file with one row per day, or per sale")
        event_time, time_column = self._guess_time(time)
        said = self._split_keys(key, time_column=time_column)
        target_column = self._guess_target(target, taken={time_column, *said})
        zone = self.zone or self.workspace_zone
        table = Table(_name_of(self.path), str(self.path), event_time=event_time, zone=zone)
        self.source = self.look(table)  # from here on rows have the local time of an event
        keys, derived = self._guess_key(said, taken={time_column, target_column})
        self._say_zone(time_column, zone)
        known_ahead, future = self._guess_known_ahead(target_column, taken={time_column, target_column, *keys})
        table = msgspec.structs.replace(table, keys=keys, columns=derived, contract=Contract(future=future))
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
        self._say_rows_per_day(keys)
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
            if self.columns[name] in ("date", "timestamp") or _rank(name, _TIME_WORDS) < len(_TIME_WORDS):
                expression, why = self._read_time(name)
                if expression is not None:
                    self._say("time", name, why)
                    return expression, name
        raise InvalidInput(f"No column of {self.path} reads as dates. Columns: {list(self.columns)}.", hint="name it: --time COLUMN")

    def _read_time(self, name: str) -> tuple[str | None, str]:
        """The expression that reads a column as times, or None, and why. Raises InvalidInput for a few values that are none among many."""
        kind = self.columns[name]
        if kind in ("date", "timestamp"):
            return name, f"its values are of type {kind}"
        if kind not in ("text", "integer"):
            return None, f"its values are of type {kind}"
        text = f"CAST({quote(name)} AS VARCHAR)"
        tests = {f"dates written {f}": (f"try_strptime({text}, {quote_text(f)})", f"strptime({text}, {quote_text(f)})") for f in _FORMATS}
        if kind == "text":
            tests = {"ISO dates": (f"CAST(try_cast({text} AS TIMESTAMPTZ) AS TIMESTAMP)", name), **tests}
        parts = [f"count({test}), date_diff('day', min({test}), max({test}))" for test, _ in tests.values()]
        present, *found = self._one(f"SELECT count({quote(name)}), {', '.join(parts)}")
        fitting = {words: n for words, n in zip(tests, found[::2], strict=True) if present and n >= _FITS * present}
        if not fitting:
            return None, "no known way of writing dates fits its values"
        spans = dict(zip(tests, found[1::2], strict=True))
        best, *others = sorted(fitting, key=lambda words: (-fitting[words], spans[words]))
        if fitting[best] < present:
            (sample,) = self._one(f"SELECT min({text})", where=f"{tests[best][0]} IS NULL")
            said = f"{present - fitting[best]:,} of {present:,} values are none, such as {sample!r}"
            raise InvalidInput(f"The column '{name}' of {self.path} holds {best}, but {said}.", hint="mend the rows")
        doubt = f"; as {others[0]} they would lie further apart" if others and fitting[others[0]] == present else ""
        return tests[best][1], f"its values are {best}{doubt}"

    def _guess_target(self, said: str | None, *, taken: set[str]) -> str:
        if said is not None:
            self._require(said)
            if said in taken:
                raise InvalidInput(f"The column '{said}' cannot be the target and the time or a key.", hint="give --target another column")
            if self.columns[said] not in ("integer", "number"):
                raise self._explain_no_number(said)
            self._say("target", said, "as said")
            return said
        numbers = [name for name, kind in self.columns.items() if kind in ("integer", "number") and name not in taken]
        texts = [name for name, kind in self.columns.items() if kind == "text" and name not in taken]
        others = [name for name in numbers if _rank(name, _KEY_WORDS) == len(_KEY_WORDS)]
        named, meant = _by_rank(numbers, _TARGET_WORDS), _by_rank(texts, _TARGET_WORDS)
        if named:
            self._say("target", named[0], "a number with a name like a target's")
            return named[0]
        if meant and (not others or self._is_mostly_numbers(meant[0])):
            raise self._explain_no_number(meant[0])
        if len(others) == 1:
            self._say("target", others[0], "the only number that is no key")
            return others[0]
        raise InvalidInput(f"Which number of {self.path} is to be forecast cannot be told. Numbers: {numbers}.", hint="name it: --target COLUMN")

    def _is_mostly_numbers(self, name: str) -> bool:
        good, present = self._one(f"SELECT count(try_cast({quote(name)} AS DOUBLE)), count({quote(name)})")
        return bool(good > 0.5 * present)

    def _explain_no_number(self, name: str) -> InvalidInput:
        text = f"CAST({quote(name)} AS VARCHAR)"
        present, n_bad, bad, any_ = self._one(
            f"SELECT count({text}), count({text}) FILTER (WHERE try_cast({text} AS DOUBLE) IS NULL),"
            f" min({text}) FILTER (WHERE try_cast({text} AS DOUBLE) IS NULL), min({text})"
        )
        if not present:
            why = "has no values"
        elif n_bad:
            why = f"is no number in {n_bad:,} of {present:,} rows, such as {bad!r}"
        else:
            why = f"is read as text, for values such as {any_!r} look like codes"
        return InvalidInput(f"The column '{name}' of {self.path} {why}.", hint="give --target a column of numbers; decimals are written with a point")

    def _split_keys(self, said: str | None, *, time_column: str) -> tuple[str, ...]:
        if said is None:
            return ()
        keys = (said,) if said in self.columns else tuple(part.strip() for part in said.split(","))
        for part in keys:
            self._require(part)
        if time_column in keys:
            raise InvalidInput(f"The column '{time_column}' cannot be a key: it is the time.", hint="give --key the columns that tell series apart")
        return keys

    def _guess_key(self, said: tuple[str, ...], *, taken: set[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        if said:
            self._say("key", ", ".join(said), "as said")
            return said, {}
        offered = [name for name, kind in self.columns.items() if name not in taken and kind in ("text", "integer")]
        why = "no column names series"
        for name in _by_rank(offered, _KEY_WORDS):
            n_values, n_rows, n_days = self._one(f"SELECT count(DISTINCT {quote(name)}), count(*), count(DISTINCT CAST(__event_time AS DATE))")
            if 1 <= n_values <= n_rows // max(1, min(7, n_days)):
                self._say("key", name, f"{n_values:,} values, each with rows on several days" if n_days > 1 else f"{n_values:,} values")
                return (name,), {}
            why = f"'{name}' has {n_values:,} values in {n_rows:,} rows, too many to be series"
        self._say("key", "(none)", f"{why}, so all rows are one series, 'all'; name one with --key")
        lowered = {name.lower() for name in self.columns}
        name = next(n for n in ("series" + "_" * i for i in range(len(lowered) + 1)) if n not in lowered)
        return (name,), {name: "'all'"}

    def _say_zone(self, time_column: str, zone: str) -> None:
        if self.zone is not None:
            self._say("zone", zone, "as said")
            return
        why = "times without an offset are read in it" if self.columns[time_column] != "date" else "its days begin there"
        self._say("zone", zone, f"the workspace's; {why}; say another with --zone")

    def _guess_known_ahead(self, target: str, *, taken: set[str]) -> tuple[dict[str, Aggregate], bool]:
        (last,) = self._one("SELECT max(__event_time)", where=f"isfinite(CAST({quote(target)} AS DOUBLE))")
        facts = [name for name, kind in self.columns.items() if name not in taken and kind in ("integer", "number", "bool")]
        if last is None:
            return {}, False
        counts = self._one(
            f"SELECT count(*){''.join(f', count({quote(name)})' for name in facts)}", where=f"__event_time > TIMESTAMP {quote_text(str(last))}"
        )
        if counts[0] == 0:
            if facts:
                self._say("other columns", ", ".join(facts), "not used: they have no values on coming days, so nobody would know them ahead")
            return {}, False
        known = [name for name, n in zip(facts, counts[1:], strict=True) if n]
        if known:
            self._say("known ahead", ", ".join(known), "they have values on coming days")
        folds = {name: "max" if self.columns[name] == "bool" else "mean" for name in known}
        return {f"{name}_" if name in _TAKEN else name: Aggregate(fold, name) for name, fold in folds.items()}, True

    def _say_rows_per_day(self, keys: tuple[str, ...]) -> None:
        names = "".join(f"{quote(key)}, " for key in keys if key in self.columns)
        days = f"SELECT {names}CAST(__event_time AS DATE) AS __day, count(*) AS n FROM source GROUP BY ALL"
        rows, cells = self._one(f"SELECT sum(n), count(*) FROM ({days})", wrap=False)
        if rows > cells:
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
        f"{_MARK} {path.name!r}",
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


def _by_rank(names: list[str], words: tuple[str, ...]) -> list[str]:
    """The names that hold one of the words, the first words' first."""
    return sorted((name for name in names if _rank(name, words) < len(words)), key=lambda name: _rank(name, words))


def _slug(text: str) -> str:
    kept = "".join(c.lower() if c.isascii() and c.isalnum() else "-" for c in text).strip("-")
    while "--" in kept:
        kept = kept.replace("--", "-")
    return kept[:40] or "column"


def _name_of(path: Path) -> str:
    stem = path.name.split(".")[0] if path.suffix else path.name
    return _slug(stem) if _slug(stem) != "column" else "table"
