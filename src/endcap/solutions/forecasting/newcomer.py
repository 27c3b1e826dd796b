"""The first minute: guess what the columns of somebody's file mean, and write down the project that follows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.names import quote, quote_text
from endcap.core.settings import Settings
from endcap.core.zones import load_zone
from endcap.solutions.forecasting.date_forms import Dates, find_dates
from endcap.solutions.forecasting.number_forms import Numbers, find_numbers, find_parted_thousands

if TYPE_CHECKING:
    from endcap.loop.data.records import FileIdentity
    from endcap.loop.data.sources import Source

_TIME_WORDS = (
    *("date", "dt", "day", "time", "timestamp", "datetime", "ds", "when", "week", "month", "period"),
    *("datum", "tag", "zeit", "woche", "monat", "fecha", "jour", "semaine", "mois", "data"),
)
_KEY_WORDS = (
    *("store", "shop", "branch", "site", "location", "outlet", "filiale", "markt", "tienda", "magasin", "negozio", "region"),
    *("item", "sku", "product", "article", "artikel", "produkt", "producto", "produit", "series", "id"),
)
_TARGET_WORDS = (
    *("units", "sales", "sold", "quantity", "qty", "orders", "visitors", "customers", "demand", "revenue", "amount", "y", "value", "count"),
    *("menge", "absatz", "umsatz", "anzahl", "kunden", "ventas", "ventes", "vendite", "cantidad", "quantite", "turnover", "sale"),
)
_NOBODYS = ("customer", "user", "client", "invoice", "order", "receipt", "transaction")  # who bought, and what was one purchase, are no series
_TOTALS = ("total", "totals", "grand total", "sum", "gesamt", "summe", "gesamtsumme", "totale", "totaal")
_TOTALS_SQL = ", ".join(map(quote_text, _TOTALS))
_LEAST_WEEKS = 5
_MOST_COMPARED = 5_000_000  # rows that are compared with one another
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
    now: datetime,
    digests: Callable[[Path], FileIdentity],
    settings: Settings | None = None,
) -> Newcomer:
    """Look at a file and say what its columns mean; what the user said is taken as said.

    Time: a column that is or reads as dates; of several ways of reading it the one that puts its days closest together. Target: a number
    by its name, else the only number that is no key. Key: a column by its name with few values; without one all rows are one series.
    Facts that have values on future days, where the target has none, are known ahead. Raises InvalidInput, with the columns there are,
    when time or target cannot be told, and with a value that is in the way. ``now`` is the instant after which no row may say what was sold.
    Cost: a few scans of the file.
    """
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.sources import open_source

    with open_engine(settings) as engine:

        def look(table: Table) -> Source:
            return open_source(table, folder=Path(), zone=zone or workspace_zone, engine=engine, digests=digests)

        return _Guesser(look, path, zone=zone, workspace_zone=workspace_zone, now=now).guess(key=key, time=time, target=target, horizon=horizon)


class _Guesser:
    def __init__(self, look: Callable[[Table], Source], path: Path, *, zone: str | None, workspace_zone: str, now: datetime) -> None:
        self.look, self.path, self.zone, self.workspace_zone, self.now = look, path, zone, workspace_zone, now
        self.source = look(Table(_name_of(path), str(path)))
        self.columns = self.source.columns
        self.guesses: list[Guess] = []

    def guess(self, *, key: str | None, time: str | None, target: str | None, horizon: str) -> Newcomer:
        if not self.columns or self._one("SELECT count(*)")[0] == 0:
            raise InvalidInput(f"{self.path} has no rows.", hint="give a file with one row per day, or per sale")
        event_time, time_columns = self._guess_time(time)
        said = self._split_keys(key, time_columns=time_columns)
        target_column, written = self._guess_target(target, taken={*time_columns, *said})
        zone = self.zone or self.workspace_zone
        table = Table(_name_of(self.path), str(self.path), event_time=event_time, zone=zone)
        number, table = (target_column, table) if written is None else self._derive_target(target_column, written, table)
        self.source = self.look(table)  # from here on rows have the local time of an event
        taken = {*time_columns, target_column, number}
        keys, derived = self._guess_key(said, taken=taken)
        self._say_zone(time_columns, zone)
        known_ahead, future = self._guess_known_ahead(number, taken={*taken, *keys})
        if not future:
            self._require_past(number, zone)
        contract = msgspec.structs.replace(table.contract, future=future)
        table = msgspec.structs.replace(table, keys=keys, columns=table.columns | derived, contract=contract)
        open_fact = next((name for name in known_ahead if name.lower() in ("open", "is_open", "opened")), None)
        forecast = Forecast(
            f"{_name_of(self.path)}-{_slug(target_column)}",
            table,
            Aggregate("sum", number),
            keys=keys,
            horizon=horizon,
            known_ahead=known_ahead,
            open=open_fact,
        )
        self._say_rows(keys)
        self._say_rhythm(number)
        return Newcomer(forecast, tuple(self.guesses))

    def _guess_time(self, said: str | None) -> tuple[str, tuple[str, ...]]:
        """The expression of the time, and the columns that it is made of."""
        if said is not None:
            self._require(said)
            dates, why = self._read_time(said)
            if dates is None:
                raise InvalidInput(
                    f"The column '{said}' of {self.path} does not read as dates: {why}.",
                    hint="give --time the column with the day; dates are best written as 2025-12-31",
                )
            return self._say_time(said, dates)
        by_name = sorted(self.columns, key=lambda name: (_rank(name, _TIME_WORDS), self.columns[name] not in ("date", "timestamp")))
        named = [name for name in by_name if self.columns[name] in ("date", "timestamp") or _rank(name, _TIME_WORDS) < len(_TIME_WORDS)]
        for name in (*named, *(name for name in self.columns if name not in named and self.columns[name] == "text")):
            dates, _ = self._read_time(name)
            if dates is not None:
                return self._say_time(name, dates)
        parts = tuple(next((name for name in self.columns if _slug(name) == word), "") for word in ("year", "month", "day"))
        if all(self.columns.get(name) == "integer" for name in parts):
            self._say("time", ", ".join(parts), "year, month and day in columns of their own")
            return f"make_date({', '.join(map(quote, parts))})", parts
        tried = next((name for name in named if self.columns[name] == "text"), None)
        shown = f" '{tried}' holds values such as {self._one(f'SELECT min({quote(tried)})')[0]!r}." if tried else ""
        raise InvalidInput(
            f"No column of {self.path} reads as dates. Columns: {list(self.columns)}.{shown}",
            hint="name it: --time COLUMN; dates are best written as 2025-12-31",
        )

    def _say_time(self, name: str, dates: Dates) -> tuple[str, tuple[str, ...]]:
        rows = "1 row holds none, and is left out" if dates.n_lost == 1 else f"{dates.n_lost:,} rows hold none, and are left out"
        lost = f"; {rows}: {dates.lost!r}" if dates.n_lost else ""
        self._say("time", name, f"{dates.why}{lost}")
        return dates.expression, (name,)

    def _read_time(self, name: str) -> tuple[Dates | None, str]:
        """How a column reads as times, or None and why. Raises InvalidInput for a few values that are none among many."""
        kind = self.columns[name]
        if kind in ("date", "timestamp"):
            return Dates(name, f"its values are of type {kind}"), ""
        if kind not in ("text", "integer"):
            return None, f"its values are of type {kind}"
        found = find_dates(self._ask, name, kind=kind, where=str(self.path))
        (sample,) = (None,) if found else self._one(f"SELECT min({quote(name)})")
        return found, f"no known way of writing dates fits its values, such as {sample!r}"

    def _guess_target(self, said: str | None, *, taken: set[str]) -> tuple[str, Numbers | None]:
        """The column to forecast, and how its texts read as numbers (None: it holds numbers)."""
        if said is not None:
            self._require(said)
            if said in taken:
                raise InvalidInput(f"The column '{said}' cannot be the target and the time or a key.", hint="give --target another column")
            return self._take_target(said, "as said")
        numbers = [name for name, kind in self.columns.items() if kind in ("integer", "number") and name not in taken]
        texts = [name for name, kind in self.columns.items() if kind == "text" and name not in taken]
        others = [name for name in numbers if _rank(name, _KEY_WORDS) == len(_KEY_WORDS)]
        for name in _by_rank([name for name in self.columns if name in numbers or name in texts], _TARGET_WORDS):
            is_meant = name in numbers or not others or self._is_mostly_numbers(name)
            if is_meant or self._find_numbers(name) is not None:
                return self._take_target(name, "a number with a name like a target's")
        written = [] if others else [name for name in texts if _rank(name, _KEY_WORDS) == len(_KEY_WORDS) and self._find_numbers(name) is not None]
        if len(others or written) == 1:
            return self._take_target((others or written)[0], "the only number that is no key")
        raise InvalidInput(f"Which number of {self.path} is to be forecast cannot be told. Numbers: {numbers}.", hint="name it: --target COLUMN")

    def _take_target(self, name: str, why: str) -> tuple[str, Numbers | None]:
        if self.columns[name] in ("integer", "number"):
            thousands, doubt = self._find_thousands(name)
            self._say("target", name, f"{why}{doubt}")
            return name, thousands
        written = self._find_numbers(name) if self.columns[name] == "text" else None
        if written is None:
            raise self._explain_no_number(name)
        self._say("target", name, f"{why}; {written.why}")
        return name, written

    def _find_numbers(self, name: str) -> Numbers | None:
        return find_numbers(self._ask, name, where=str(self.path))

    def _find_thousands(self, name: str) -> tuple[Numbers | None, str]:
        """How a column of decimals reads as whole numbers, where it is its thousands that the points part; and what to say of it."""
        if self.columns[name] != "number" or self.source.format != "csv":
            return None, ""
        held, promised = self.source, Contract(columns={name: Check(type="text")})
        self.source = self.look(Table(_name_of(self.path), str(self.path), contract=promised))
        try:
            parted = find_parted_thousands(self._ask, name)
        finally:
            self.source = held
        if parted is None:
            return None, "; each has three places after its point, read as decimals: write thousands without a point if they are some"
        if not parted:
            return None, ""
        why = "its points part thousands, for as decimals all would have three places"
        return Numbers(f"CAST(replace({quote(name)}, '.', '') AS DOUBLE)", why), f"; {why}"

    def _derive_target(self, name: str, written: Numbers, table: Table) -> tuple[str, Table]:
        """The table with a column of the target's numbers, and that column's name."""
        lowered = {column.lower() for column in self.columns}
        number = next(n for n in (f"{name}_number{'_' * i}" for i in range(len(lowered) + 1)) if n.lower() not in lowered)
        promised = {name: Check(type="text")} if self.columns[name] != "text" else {}
        return number, msgspec.structs.replace(table, columns={number: written.expression}, contract=Contract(columns=promised))

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

    def _split_keys(self, said: str | None, *, time_columns: tuple[str, ...]) -> tuple[str, ...]:
        if said is None:
            return ()
        keys = (said,) if said in self.columns else tuple(part.strip() for part in said.split(","))
        for part in keys:
            self._require(part)
        for part in keys:
            if part in time_columns:
                raise InvalidInput(f"The column '{part}' cannot be a key: it is the time.", hint="give --key the columns that tell series apart")
        return keys

    def _guess_key(self, said: tuple[str, ...], *, taken: set[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        if said:
            self._say("key", ", ".join(said), "as said")
            return said, {}
        offered = [name for name, kind in self.columns.items() if name not in taken and kind in ("text", "integer")]
        offered = [name for name in offered if _rank(name, _NOBODYS) == len(_NOBODYS)]
        why = "no column names series"
        named = _by_rank(offered, _KEY_WORDS)
        for place, name in enumerate(named):
            n_values, n_rows, n_days, odd = self._one(
                f"SELECT count(DISTINCT {quote(name)}), count(*), count(DISTINCT CAST(__event_time AS DATE)),"
                f" min(CAST({quote(name)} AS VARCHAR)) FILTER (WHERE lower(trim(CAST({quote(name)} AS VARCHAR))) IN ({_TOTALS_SQL}))",
                where="__event_time IS NOT NULL",
            )
            if 1 <= n_values <= -(-n_rows // max(1, min(7, n_days))):
                finer = [other for other in named[place + 1 :] if self._splits(name, other)]
                more = f"; '{finer[0]}' would part them further: --key {name},{finer[0]}" if finer else ""
                total = f"; one is called {odd!r}: if it is the sum of the others, leave its rows out of the file" if odd else ""
                values = "1 value" if n_values == 1 else f"{n_values:,} values"
                self._say("key", name, f"{values}{', each with rows on several days' if n_days > 1 else ''}{more}{total}")
                return (name,), {}
            why = f"'{name}' has {n_values:,} values in {n_rows:,} rows, too many to be series"
        self._say("key", "(none)", f"{why}, so all rows are one series, 'all'; name one with --key")
        lowered = {name.lower() for name in self.columns}
        name = next(n for n in ("series" + "_" * i for i in range(len(lowered) + 1)) if n not in lowered)
        return (name,), {name: "'all'"}

    def _splits(self, name: str, other: str) -> bool:
        """Whether another column has several values within those of a key."""
        n_pairs, n_values = self._one(f"SELECT count(DISTINCT ({quote(name)}, {quote(other)})), count(DISTINCT {quote(name)})")
        return bool(n_pairs > n_values)

    def _say_zone(self, time_columns: tuple[str, ...], zone: str) -> None:
        if self.zone is not None:
            self._say("zone", zone, "as said")
            return
        why = "times without an offset are read in it" if self.columns[time_columns[0]] in ("text", "timestamp") else "its days begin there"
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
        words = [name for name, kind in self.columns.items() if name not in taken and kind == "text"]
        if words:
            self._say("other columns", ", ".join(words), "not used: they are text; as 0 and 1, or as numbers, coming days could be known by them")
        known = [name for name, n in zip(facts, counts[1:], strict=True) if n]
        if known:
            self._say("known ahead", ", ".join(known), "they have values on coming days")
        folds = {name: "max" if self.columns[name] == "bool" else "mean" for name in known}
        return {f"{name}_" if name in _TAKEN else name: Aggregate(fold, name) for name, fold in folds.items()}, True

    def _require_past(self, target: str, zone: str) -> None:
        """Raise InvalidInput for rows of coming days that say what was sold: dates were read wrongly, or it is a plan."""
        now = self.now.astimezone(load_zone(zone)).replace(tzinfo=None)
        n, first = self._one(
            "SELECT count(*), min(__event_time)", where=f"__event_time > TIMESTAMP {quote_text(str(now))} AND {quote(target)} IS NOT NULL"
        )
        (total,) = self._one(f"SELECT count({quote(target)})")
        if n:
            read = next(guess for guess in self.guesses if guess.what == "time")
            raise InvalidInput(
                f"{n:,} of {total:,} rows of {self.path} lie in the future, from {first:%Y-%m-%d} on, and say what '{target}' was.",
                hint=f"was '{read.value}' read rightly ({read.why}), in the zone where its days begin (--zone, here {zone})?"
                f" What is planned for coming days must leave '{target}' empty",
            )

    def _say_rows(self, keys: tuple[str, ...]) -> None:
        """Where a day of a series has several rows: that they are summed, and whether some may have been sent twice."""
        named = [quote(key) for key in keys if key in self.columns]
        there = " AND ".join(f"{name} IS NOT NULL" for name in ("__event_time", *named))
        day = f"{''.join(f'{name}, ' for name in named)}CAST(__event_time AS DATE) AS __day"
        days = f"SELECT {day}, count(*) AS n FROM source WHERE {there} GROUP BY ALL"
        rows, cells = self._one(f"SELECT coalesce(sum(n), 0), count(*) FROM ({days})", wrap=False)
        if rows <= cells:
            return
        equal = 0
        if rows <= _MOST_COMPARED:
            (equal,) = self._one(f"SELECT count(*) - count(DISTINCT hash({', '.join(map(quote, self.columns))}))", where=there)
        twice = f"; {equal:,} of them equal another in every column: if they were sent twice, they count twice" if equal else ""
        hours = "; for forecasts by the hour write every='1h' and horizon='48h' in project.py" if self._is_hourly() else ""
        self._say("rows", f"{int(rows):,} on {int(cells):,} series-days", f"several rows of one day are summed{twice}{hours}")

    def _is_hourly(self) -> bool:
        """Whether rows lie on full hours, on most hours of the days that have any."""
        n_off, n_hours, n_days = self._one(
            "SELECT count(*) FILTER (WHERE __event_time <> date_trunc('hour', __event_time)), count(DISTINCT date_trunc('hour', __event_time)),"
            " count(DISTINCT CAST(__event_time AS DATE))",
            where="__event_time IS NOT NULL",
        )
        return bool(n_off == 0 and n_hours >= 8 * n_days)

    def _say_rhythm(self, target: str) -> None:
        """Rows that lie a week apart are forecast on their weekday. Raises InvalidInput for rows a month apart: no day's forecast comes of them."""
        days = f"SELECT DISTINCT CAST(__event_time AS DATE) AS d FROM source WHERE __event_time IS NOT NULL AND {quote(target)} IS NOT NULL"
        n, gap, weekly, weekday, span = self._one(
            "SELECT count(gap), median(gap), avg(CAST(gap % 7 = 0 AS INTEGER)), max(dayname(d)), sum(gap)"
            f" FROM (SELECT d, date_diff('day', lag(d) OVER (ORDER BY d), d) AS gap FROM ({days}))",
            wrap=False,
        )
        if n < 2 or gap < 7:
            return
        if gap > 7 or weekly < 1 or span < _LEAST_WEEKS * 7:
            few = gap == 7 and weekly == 1
            rows = f"on {n + 1:,} days only, a week apart" if few else f"about {gap:g} days apart"
            raise InvalidInput(
                f"The rows of {self.path} lie {rows}; a forecast is of each day, or of each hour.",
                hint=f"weekly rows are forecast from {_LEAST_WEEKS} weeks on"
                if few
                else "give the rows that were summed: one per day, per week or per sale",
            )
        self._say(
            "rhythm", f"a row a week, on {weekday}s", "so is the forecast, each of a whole week; the other days are 0. Further ahead: --horizon 8w"
        )

    def _require(self, name: str) -> None:
        if name not in self.columns:
            raise InvalidInput(unknown("column", name, self.columns, where=str(self.path)), hint=suggest(name, self.columns))

    def _say(self, what: str, value: str, why: str) -> None:
        self.guesses.append(Guess(what, value, why))

    def _one(self, select: str, *, where: str | None = None, wrap: bool = True) -> Any:
        tail = f" FROM source{f' WHERE {where}' if where else ''}" if wrap else ""
        return self.source.engine.execute(f"WITH source AS ({self.source.sql}) {select}{tail}").fetchall()[0]

    def _ask(self, select: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._one(select, wrap=False)
        return row


def write_project(newcomer: Newcomer, *, folder: Path) -> str:
    """The text of the definition file for a guessed forecast, about 15 lines; paths are kept relative to ``folder`` where they lie below it."""
    forecast, table = newcomer.forecast, newcomer.forecast.table
    path = Path(table.source).resolve()
    source = path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else str(path)
    lines = [
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
    promised = ", ".join(f"{name!r}: ec.Check(type={check.type!r})" for name, check in table.contract.columns.items())
    kept = [f"columns={{{promised}}}"] if promised else []
    if table.contract.future:
        kept.append("future=True")
    if kept:
        lines.append(f"    contract=ec.Contract({', '.join(kept)}),{'  # the file holds coming days too' if table.contract.future else ''}")
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
    text = "\n".join([*lines, ")", ""])
    return f"{_MARK} {path.name!r}, {_seal(text)}\n{text}"


def is_written_by_us(text: str) -> bool:
    """Whether a definition file came from ``write_project`` and may be written anew."""
    return text.startswith(_MARK)


def is_changed(text: str) -> bool:
    """Whether somebody changed a definition file that came from ``write_project``."""
    head, _, rest = text.partition("\n")
    return not head.endswith(f", {_seal(rest)}")


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _rank(name: str, words: tuple[str, ...]) -> int:
    """The place of the first word that is the name or a part of it between underscores; the number of words when none is."""
    parts = set(_slug(re.sub("([a-z])([A-Z])", r"\1-\2", name)).split("-"))
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
