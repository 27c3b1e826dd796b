"""What DuckDB says about a bad file or expression, in our words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, suggest, unknown

# Running out of memory or disk, an interrupt or a fault of the engine is nobody's bad input: those pass through.
_BAD_INPUT = (
    duckdb.InvalidInputException,
    duckdb.IOException,
    duckdb.BinderException,
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
    duckdb.InvalidTypeException,
    duckdb.NotImplementedException,
    duckdb.SerializationException,
)
_ABOUT_VALUES = (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException, duckdb.TypeMismatchException)
_CSV_LINE = re.compile(r"CSV Error on Line: (\d+)")
_CSV_FILE = re.compile(r"^\s*file = (.*)$", re.MULTILINE)
TO_UTF8 = "save the file as UTF-8 (Excel: CSV UTF-8), or: iconv -f WINDOWS-1252 -t UTF-8 FILE > utf8.csv"
_CSV_REASONS = (
    (re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)"), "it has {1} columns where the header has {0}", None),
    (re.compile(r"[Ii]nvalid unicode|not utf-8"), "it is not UTF-8", TO_UTF8),
    (re.compile(r"unterminated quote"), "a quote is opened and not closed", 'double quotes inside a quoted value: ""'),
    (re.compile(r"[Mm]aximum line size"), "it is longer than a line may be", "look for a quote that is not closed"),
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")
_NO_COLUMN = re.compile(r'Referenced column "(.*?)" (?:was )?not found')


@contextmanager
def reading(table: str | Table | FeatureView, *, columns: Iterable[str] = ()) -> Iterator[None]:
    """Turn DuckDB's complaints about files and expressions into InvalidInput, chained.

    ``table`` names the table, or the view, in the message, in which no value is shown where it has personal columns; ``columns`` are offered when
    a column is not found.
    """
    try:
        yield
    except _BAD_INPUT as error:
        if lacks_room(error):
            raise
        name = table if isinstance(table, str) else table.name
        raise explain(error, table=name, columns=columns, shy=_is_shy(table)) from error


def lacks_room(error: duckdb.Error) -> bool:
    """Whether the engine ran out of memory, or of disk to spill to: no fault of what it read."""
    return isinstance(error, duckdb.OutOfMemoryException) or lacks_disk(error)


def lacks_disk(error: duckdb.Error) -> bool:
    """Whether the disk takes no more of what the engine spills."""
    return _FULL.search(str(error)) is not None


def _is_shy(table: str | Table | FeatureView) -> bool:
    if isinstance(table, FeatureView):
        return bool(table.personal) or any(source.personal for source in table.sources)
    return isinstance(table, Table) and bool(table.personal)


def explain(error: duckdb.Error, *, table: str, columns: Iterable[str] = (), shy: bool = False) -> InvalidInput:
    """What a DuckDB error means: file and line of a CSV, the column that is not there, or DuckDB's first lines. ``shy``: no value is repeated."""
    text = str(error)
    line, file = _CSV_LINE.search(text), _CSV_FILE.search(text)
    if line and file:
        return _explain_csv(text, table=table, line=int(line[1]), file=file[1].strip())
    absent = _NO_COLUMN.search(text)
    if absent:
        offered = list(columns)
        return InvalidInput(unknown("column", absent[1], offered, where=f"Table '{table}'"), hint=suggest(absent[1], offered))
    said = text.partition("\n\nLINE ")[0].strip()
    if shy and isinstance(error, _ABOUT_VALUES):
        what = said.partition(":")[0]
        return InvalidInput(f"Table '{table}' cannot be read: {what}, of a value that is not shown, as the table has personal columns.")
    return InvalidInput(f"Table '{table}' cannot be read: {_cut(said)}")


def _explain_csv(text: str, *, table: str, line: int, file: str) -> InvalidInput:
    for pattern, reason, hint in _CSV_REASONS:
        found = pattern.search(text)
        if found:
            said = reason.format(*found.groups())
            return InvalidInput(
                f"Table '{table}': line {line} of {file} cannot be read: {said}.",
                hint=hint or "mend or remove the line; a value that holds the delimiter must stand in quotes",
                file=file,
                line=line,
            )
    return InvalidInput(f"Table '{table}': line {line} of {file} cannot be read.", file=file, line=line)


def _cut(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= 400 else one_line[:397] + "..."
