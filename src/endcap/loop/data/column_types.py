"""Types of columns: what DuckDB's types are called here, and what a text may be read as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.names import quote, quote_text

if TYPE_CHECKING:
    import duckdb

_INTEGERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT BIGNUM".split()  # noqa: SIM905 - a list of words reads better
)
_DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}"
_TIME = r"[ T]\d{1,2}:\d{2}(:\d{2}([.]\d+)?)?"
_OFFSET = r"\s*([Zz]|[+-]\d{2}(:?\d{2})?)"
_ENDS_IN_OFFSET = r":\d{2}([.]\d+)?" + _OFFSET + r"\s*$"
_N_SAMPLED = 20_000
FILE = "__file"  # the path of the file that a row came from
PLACE = "__place"  # the place of a row among the rows of its file, in files that are read in order
ROW = "__row"  # what a row is known by within its file: its number in Parquet, counted from 0; all its texts in CSV, sorted by column
NO_VALUES = "NULL"  # what stands for the type of a text column that no row has a value of: what comes later decides

# What values of a text column may be read as; each type is tried before those it widens to, and text is what remains.
_LADDERS: tuple[tuple[str, ...], ...] = (("bool",), ("BIGINT", "DOUBLE"), ("DATE", "TIMESTAMP"), ("TIMESTAMPTZ",))
_RUNGS = {"BOOLEAN": "bool", "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


@dataclass(frozen=True)
class Exclusion:
    """Rows that are left out of a table.

    ``relation`` is a table of the engine that holds ``__file`` and ``__row`` of each, ``files`` the files that have any. ``torn`` are CSV files
    among them with lines that do not fit the header, which are passed over. ``marked``: the rows that are left carry their ``__row``.
    """

    relation: str
    files: frozenset[Path]
    torn: frozenset[Path] = frozenset()
    marked: bool = False

    def apply(self, relation: str) -> str:
        """The rows of a relation with ``__file`` and ``__row`` that are not left out."""
        kept = "*" if self.marked else f"* EXCLUDE ({ROW})"
        return f"SELECT {kept} FROM ({relation}) AS r ANTI JOIN {self.relation} AS x ON r.{FILE} = x.{FILE} AND r.{ROW} = x.{ROW}"


@dataclass(frozen=True)
class KnownTypes:
    """DuckDB's types of a table's columns, as earlier files of it were read. ``fixed``: the rows are known to fit them."""

    types: Mapping[str, str]
    fixed: bool

    def all_of(self, names: Iterable[str], *, promised: Mapping[str, str]) -> dict[str, str]:
        """The type of each column; one without any value has the promised type, or is text."""
        found = {name: self.types.get(name, NO_VALUES) for name in names}
        return {name: duckdb_type(promised.get(name, "text")) if type_ == NO_VALUES else type_ for name, type_ in found.items()}


def name_type(duckdb_type: str) -> str:
    """Endcap's name for a DuckDB type; DuckDB's own in lower case where Endcap has none (lists, structs, blobs, times of day).

    >>> [name_type(t) for t in ("USMALLINT", "DECIMAL(10,2)", "TIMESTAMP WITH TIME ZONE", "ENUM('a')", "VARCHAR[]")]
    ['integer', 'number', 'timestamp', 'text', 'varchar[]']
    """
    if duckdb_type.endswith("]"):
        return duckdb_type.lower()
    if duckdb_type in _INTEGERS:
        return "integer"
    if duckdb_type in ("FLOAT", "DOUBLE") or duckdb_type.startswith("DECIMAL"):
        return "number"
    if duckdb_type == "VARCHAR" or duckdb_type.startswith("ENUM"):
        return "text"
    if duckdb_type.startswith("TIMESTAMP"):
        return "timestamp"
    return {"BOOLEAN": "bool", "DATE": "date"}.get(duckdb_type, duckdb_type.lower())


def duckdb_type(promised: str) -> str:
    """The DuckDB type in which a promised type is read."""
    return {"bool": "BOOLEAN", "integer": "BIGINT", "number": "DOUBLE", "date": "DATE", "timestamp": "TIMESTAMP"}.get(promised, "VARCHAR")


def holds_all(wide: str, narrow: str) -> bool:
    """Whether every value of one stored type can be read in another without loss of what a number is.

    >>> [holds_all(*pair) for pair in (("BIGINT", "UINTEGER"), ("DOUBLE", "BIGINT"), ("INTEGER", "BIGINT"), ("VARCHAR", "DATE"))]
    [True, True, False, False]
    """
    if wide == narrow:
        return True
    if wide == "DOUBLE":
        return narrow in (*_SIGNED, *_UNSIGNED, "FLOAT")
    if wide in _SIGNED:
        return narrow in _SIGNED[: _SIGNED.index(wide)] + _UNSIGNED[: _SIGNED.index(wide)]
    return wide in _UNSIGNED and narrow in _UNSIGNED[: _UNSIGNED.index(wide)]


def has_offset(text: str) -> str:
    """A SQL condition: the ISO time in ``text`` ends in ``Z`` or an offset."""
    return f"regexp_matches({text}, {quote_text(_ENDS_IN_OFFSET)})"


def casts_to(promised: str, text: str) -> str:
    """A SQL condition: the value of the text expression can be read as the promised type without loss."""
    if promised == "integer":
        return (
            f"(TRY_CAST({text} AS BIGINT) IS NOT NULL"
            f" AND TRY_CAST({text} AS DOUBLE) = CAST(TRY_CAST({text} AS BIGINT) AS DOUBLE) AND NOT contains({text}, '_'))"
        )
    if promised == "number":
        return f"(TRY_CAST({text} AS DOUBLE) IS NOT NULL AND NOT contains({text}, '_'))"
    if promised == "date":
        return f"(TRY_CAST({text} AS TIMESTAMP) = CAST(TRY_CAST({text} AS DATE) AS TIMESTAMP))"
    if promised == "text":
        return "true"
    return f"(TRY_CAST({text} AS {duckdb_type(promised)}) IS NOT NULL)"


def _reads_as(type_: str, text: str) -> str:
    """A SQL condition, stricter than ``casts_to``: nobody would take the value for anything else.

    ``007`` and numbers of 16 digits and more are codes, not numbers; dates are year first, since 03/04 is a guess.
    """
    if type_ == "bool":
        return f"lower({text}) IN ('true', 'false')"
    if type_ == "BIGINT":
        return f"CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) = trim({text})"
    if type_ == "DOUBLE":
        code = quote_text(r"\s*[+-]?(0\d.*|\d{16,})\s*|.*_.*")
        return f"TRY_CAST({text} AS DOUBLE) IS NOT NULL AND NOT regexp_full_match({text}, {code})"
    pattern = {"DATE": _DATE, "TIMESTAMP": f"{_DATE}({_TIME})?", "TIMESTAMPTZ": f"{_DATE}{_TIME}{_OFFSET}"}[type_]
    return f"TRY_CAST({text} AS {type_}) IS NOT NULL AND regexp_full_match({text}, {quote_text(pattern)})"


def detect_types(
    engine: duckdb.DuckDBPyConnection,
    relation: str,
    *,
    columns: Iterable[str],
    promised: Mapping[str, str],
    standing: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The DuckDB type of each text column of a relation: the promised one where every value can be read so, else the narrowest
    that fits all.

    A column promised as text stays text. A column without any value takes the promised type, or text. ``standing`` gives the types in
    which other rows of the same table are read: a column keeps it where all its values fit. Cost: a look at 20,000 rows, then one scan
    that tests only what those rows left possible.
    """
    types = dict.fromkeys(columns, "VARCHAR")
    kept = _find_fitting(engine, relation, list(types), promised=promised, standing=standing) if standing else {}
    names = [name for name in types if name not in kept]
    types |= kept
    if not names:
        return types
    # Columns promised as text are counted too, so that text which is not UTF-8 is met here and not by whoever reads it first.
    possible = {name: [] if promised.get(name) == "text" else [list(ladder) for ladder in _LADDERS] for name in names}
    sampled = _count_fitting(engine, f"SELECT * FROM ({relation}) LIMIT {_N_SAMPLED}", possible, promised={})
    for name, ladders in possible.items():
        n = sampled[name]["n"]
        possible[name] = [left for ladder in ladders if (left := [t for t in ladder if sampled[name][t] == n])]
    wanted = {name: promised[name] for name in possible if name in promised}
    counts = _count_fitting(engine, relation, possible, promised=wanted)
    for name, ladders in possible.items():
        types[name] = _choose(counts[name], ladders, promised=promised.get(name))
    return types


def _find_fitting(
    engine: duckdb.DuckDBPyConnection, relation: str, names: list[str], *, promised: Mapping[str, str], standing: Mapping[str, str]
) -> dict[str, str]:
    """The standing types of the columns all of whose values fit them. One scan."""
    asked = {}
    for name in names:
        type_, column = standing.get(name, NO_VALUES), quote(name)
        if type_ == NO_VALUES:
            continue
        if type_ == "VARCHAR":
            fits = "true"
        elif promised.get(name) not in (None, "timestamp"):
            fits = casts_to(promised[name], column)
        else:
            fits = _reads_as(_RUNGS.get(type_, type_), column)
        asked[name] = f"count({column}) = count({column}) FILTER (WHERE {fits})"
    if not asked:
        return {}
    row = engine.execute(f"SELECT {', '.join(asked.values())} FROM ({relation})").fetchone() or ()
    return {name: standing[name] for name, fitting in zip(asked, row, strict=True) if fitting}


def _choose(counts: Mapping[str, int], ladders: list[list[str]], *, promised: str | None) -> str:
    n = counts["n"]
    if n == 0:
        return duckdb_type(promised or "text")
    fitting = [t for ladder in ladders for t in ladder if counts[t] == n]
    if promised == "timestamp":
        # An offset must not be dropped, and a column in which only some values have one stays text, to be read value by value.
        return "TIMESTAMPTZ" if "TIMESTAMPTZ" in fitting else "TIMESTAMP" if "TIMESTAMP" in fitting else "VARCHAR"
    if promised is not None and counts["promised"] == n:
        return duckdb_type(promised)
    return {"bool": "BOOLEAN"}.get(fitting[0], fitting[0]) if fitting else "VARCHAR"


def _count_fitting(
    engine: duckdb.DuckDBPyConnection, relation: str, possible: Mapping[str, list[list[str]]], *, promised: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Per column: how many values there are, how many fit each possible type, and how many the promised one."""
    asked: list[tuple[str, str, str]] = []
    for name, ladders in possible.items():
        column = quote(name)
        asked.append((name, "n", f"count({column})"))
        asked += [(name, t, f"count(*) FILTER (WHERE {_reads_as(t, column)})") for ladder in ladders for t in ladder]
        if name in promised:
            asked.append((name, "promised", f"count(*) FILTER (WHERE {casts_to(promised[name], column)})"))
    if not asked:
        return {}
    row = engine.execute(f"SELECT {', '.join(sql for _, _, sql in asked)} FROM ({relation})").fetchone() or ()
    counts: dict[str, dict[str, int]] = {name: {} for name in possible}
    for (name, what, _), n in zip(asked, row, strict=True):
        counts[name][what] = n
    return counts
