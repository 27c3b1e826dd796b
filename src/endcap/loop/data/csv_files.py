"""CSV files as one relation: the header names the columns, all values together say what they are."""

from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.core.names import quote, quote_text
from endcap.loop.data.column_types import FILE, PLACE, ROW, Exclusion, KnownTypes, detect_types
from endcap.loop.data.failures import TO_UTF8, reading
from endcap.loop.data.parquet_files import require_free_name, require_same_columns
from endcap.loop.data.paths import DataFiles, sql_list

if TYPE_CHECKING:
    import duckdb

_DELIMITERS = (",", ";", "\t", "|")
_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 1 << 20
_AS_CSV = "open it there and save the sheet as CSV UTF-8"
_OTHERS = (  # the first bytes of files that are called CSV and are none
    (b"PK\x03\x04", "a workbook of Excel (.xlsx) or another zip archive", _AS_CSV),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel (.xls)", _AS_CSV),
    (b"PAR1", "a Parquet file", "call it .parquet"),
    (_GZIP, "zipped by gzip", "call it .csv.gz"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8, or: iconv -f UTF-16 -t UTF-8 FILE > utf8.csv"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8, or: iconv -f UTF-16 -t UTF-8 FILE > utf8.csv"),
)


class _Layout(NamedTuple):
    delimiter: str
    names: tuple[str, ...]


def relate_csv(
    files: DataFiles,
    *,
    table: Table,
    engine: duckdb.DuckDBPyConnection,
    known: KnownTypes | None = None,
    excluded: Exclusion | None = None,
    placed: bool = False,
) -> str:
    r"""A SELECT over all rows of CSV files (UTF-8, a header, quotes ``"``), with types.

    The delimiter is the one of ``, ; tab |`` that parts the header most often; ``.tsv`` is parted by tabs. The files must have
    the same columns, in any order. Each column takes the narrowest type that every value of every file fits (see
    ``detect_types``): one bad value makes a column of numbers text, and the contract names its row. Nothing between two
    delimiters is missing; ``NA`` is a text. Raises InvalidInput naming file and line for a line that does not fit the header.
    Rows that are ``excluded`` are as if the files had never held them, for the types too.
    ``known`` types are preferred to what the values say, or where they are ``fixed`` taken without a look. Each row carries its file's
    path in ``__file``, and if ``placed`` in ``__place`` a number that grows from row to row of a file. Cost: one scan of the files for the
    types (two where a known type does not fit), none where they are fixed.
    """
    layouts = {path: _read_layout(path, table=table) for path in files.paths}
    first = files.paths[0]
    groups: dict[_Layout, list[Path]] = {}
    for path, layout in layouts.items():
        require_same_columns(list(layouts[first].names), list(layout.names), first=first, other=path, table=table)
        groups.setdefault(layout, []).append(path)
    raw = " UNION ALL BY NAME ".join(
        part for layout, paths in groups.items() for part in _read_parts(layout, paths, files=files, excluded=excluded, placed=placed)
    )
    names = [*layouts[first].names, *(name for name in files.partitions if name not in layouts[first].names)]
    promised = {name: check.type for name, check in table.contract.columns.items() if check.type}
    if known is not None and known.fixed:
        types = known.all_of(names, promised=promised)
    else:
        with reading(table):
            types = detect_types(engine, raw, columns=names, promised=promised, standing=known.types if known else None)
    # Rows that are left out may be met before they are: those need not fit.
    cast = "CAST" if excluded is None else "TRY_CAST"
    columns = ", ".join(quote(name) if types[name] == "VARCHAR" else f"{cast}({quote(name)} AS {types[name]}) AS {quote(name)}" for name in names)
    return f"SELECT {columns}, {FILE}{f', {PLACE}' if placed else ''}{f', {ROW}' if excluded and excluded.marked else ''} FROM ({raw})"


def _read_layout(path: Path, *, table: Table) -> _Layout:
    delimiters = ("\t",) if ".tsv" in path.name.lower() else _DELIMITERS
    _require_text(path, table=table)
    try:
        headers = {d: header for d in delimiters if (header := _read_header(path, d)) is not None}
    except UnicodeDecodeError as error:
        raise InvalidInput(f"Table '{table.name}': {path} is not UTF-8.", hint=TO_UTF8) from error
    except (OSError, EOFError) as error:
        raise InvalidInput(f"Table '{table.name}': the header of {path} cannot be read: {error}.") from error
    if not headers:
        raise InvalidInput(
            f"Table '{table.name}': the header of {path} cannot be read: a quote is opened and not closed, or closed within a name.",
            hint='double quotes inside a quoted name: ""',
        )
    delimiter = max(headers, key=lambda d: len(headers[d]))
    names = tuple(name.strip() for name in headers[delimiter])
    _require_header(names, path=path, table=table)
    if len(names) == 1:
        _require_no_title(names[0], delimiters, path=path, table=table)
    names = tuple(name or f"column_{place}" for place, name in enumerate(names, start=1))
    _require_own_names(names, path=path, table=table)
    return _Layout(delimiter, names)


def _require_text(path: Path, *, table: Table) -> None:
    """Raise InvalidInput for a file whose first bytes say that it is something else."""
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise InvalidInput(f"Table '{table.name}': the header of {path} cannot be read: {error}.") from error
    zipped = path.name.lower().endswith(".gz")
    for first, what, hint in _OTHERS:
        if head.startswith(first) and not (zipped and first == _GZIP):
            raise InvalidInput(f"Table '{table.name}': {path} is {what}, whatever its name says.", hint=hint)
    if not zipped and head.lstrip()[:1] in (b"{", b"[", b"<"):
        what = "HTML or XML" if head.lstrip()[:1] == b"<" else "JSON"
        raise InvalidInput(f"Table '{table.name}': {path} begins as {what} does; it is no CSV.", hint="export it as CSV, with a header")


def _read_header(path: Path, delimiter: str) -> list[str] | None:
    """The names of the first line; None when its quotes do not fit the delimiter."""
    with _open(path) as stream:
        try:
            return next(csv.reader(stream, delimiter=delimiter, strict=True), [])
        except csv.Error:
            return None


def _open(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _require_no_title(name: str, delimiters: tuple[str, ...], *, path: Path, table: Table) -> None:
    """Raise InvalidInput where the first line is one text and the second has several columns."""
    with _open(path) as stream:
        lines = [stream.readline(_LONGEST_LINE) for _ in range(2)]
    try:
        n = max(len(next(csv.reader([lines[1]], delimiter=delimiter, strict=True), [])) for delimiter in delimiters)
    except csv.Error:
        return
    if n > 1:
        raise InvalidInput(
            f"Table '{table.name}': the first line of {path}, {name[:80]!r}, is one column, and the second line has {n}: it looks like a title.",
            hint="remove the lines above the header",
        )


def _require_header(names: tuple[str, ...], *, path: Path, table: Table) -> None:
    where = f"Table '{table.name}': the first line of {path}"
    if not any(names):
        raise InvalidInput(f"{where} is empty; a CSV begins with the names of its columns.", hint="write a header")
    if names[0].lower().startswith("sep=") and len(names[0]) <= 5 and not any(names[1:]):
        raise InvalidInput(f"{where} is {','.join(names)!r}, a note to Excel, and no header.", hint="remove the line")
    if len(names) > 2 and sum(map(bool, names)) == 1:
        title = next(filter(None, names))
        raise InvalidInput(f"{where} names one of {len(names)} columns, {title!r}: it looks like a title.", hint="remove the lines above the header")
    values = [name for name in names if _looks_like_value(name)]
    if len(values) * 2 > len(names):
        hint = "write a header; where each day has a column of its own, make rows of them: key, date, value"
        raise InvalidInput(f"{where} holds values such as {values[0]!r}, not names.", hint=hint)


def _require_own_names(names: tuple[str, ...], *, path: Path, table: Table) -> None:
    where = f"Table '{table.name}': the first line of {path}"
    require_free_name(names, path=path)
    lowered = [name.lower() for name in names]
    for place, name in enumerate(lowered):
        if name in lowered[:place]:
            first = lowered.index(name)
            raise InvalidInput(
                f"{where} names {names[first]!r} and {names[place]!r} (columns {first + 1} and {place + 1}), which SQL cannot tell apart.",
                hint="rename or remove one of them: which one counts, nobody can tell",
            )


def _looks_like_value(text: str) -> bool:
    if len(text) == 4 and text.isdigit():
        return False  # a year may well name a column
    digits = text.replace("-", "").replace(":", "").replace(".", "").replace(" ", "")
    return digits.isdigit()


def _read_parts(layout: _Layout, paths: list[Path], *, files: DataFiles, excluded: Exclusion | None, placed: bool) -> list[str]:
    """The files of one layout: those that are read whole, those that have rows to leave out, and those with lines to pass over."""
    if excluded is None:
        return [_read_raw(layout, paths, files=files, placed=placed)]
    parts = []
    whole = [path for path in paths if path not in excluded.files]
    if whole:
        raw = _read_raw(layout, whole, files=files, placed=placed)
        parts.append(_mark_rows(raw, layout, files=files) if excluded.marked else raw)
    for torn in (False, True):
        chosen = [path for path in paths if path in excluded.files and (path in excluded.torn) == torn]
        if chosen:
            parts.append(excluded.apply(_mark_rows(_read_raw(layout, chosen, files=files, torn=torn, placed=placed), layout, files=files)))
    return parts


def _mark_rows(raw: str, layout: _Layout, *, files: DataFiles) -> str:
    texts = sorted(name for name in layout.names if name not in files.partitions)
    return f"SELECT *, [{', '.join(map(quote, texts))}] AS {ROW} FROM ({raw})"


def count_rows(path: Path, *, table: Table, engine: duckdb.DuckDBPyConnection) -> tuple[int, int, list[TornLine]]:
    """Of one CSV file: the rows that fit its header, the line breaks within their values, and the lines that do not fit.

    Whether every row of the file is among them must be asked of the file itself: what follows a quote that is never closed is in none.
    """
    layout = _read_layout(path, table=table)
    raw = _read_raw(layout, [path], files=DataFiles("csv", (path,)), torn=True)
    breaks = " + ".join(f"coalesce(length({c}) - length(replace({c}, chr(10), '')), 0)" for c in map(quote, layout.names))
    for name in ("reject_errors", "reject_scans"):
        engine.execute(f"DROP TABLE IF EXISTS {name}")
    with reading(table):
        ((n_rows, n_breaks),) = engine.execute(f"SELECT count(*), coalesce(sum({breaks}), 0) FROM ({raw})").fetchall()
    found = engine.execute(
        "SELECT line, any_value(error_type), any_value(error_message), any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    ).fetchall()
    return int(n_rows), int(n_breaks), [TornLine(line, _say_torn(type_, message), text) for line, type_, message, text in found]


class TornLine(NamedTuple):
    """A line that does not fit its file's header, and why."""

    line: int
    reason: str
    text: str


def _say_torn(type_: str, message: str) -> str:
    found = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if found:
        return f"it has {found[2]} columns where the header has {found[1]}"
    return {"INVALID ENCODING": "it is not UTF-8", "LINE SIZE OVER MAXIMUM": "it is longer than a line may be"}.get(type_, "its quotes do not fit")


def _read_raw(layout: _Layout, paths: list[Path], *, files: DataFiles, torn: bool = False, placed: bool = False) -> str:
    struct = ", ".join(f"{quote_text(name)}: 'VARCHAR'" for name in layout.names)
    hive = "hive_partitioning = true, hive_types_autocast = false" if files.partitions else "hive_partitioning = false"
    outer = [name for name in dict.fromkeys(files.outer) if name not in files.partitions]
    kept = f"* EXCLUDE ({', '.join(quote(name) for name in outer)})" if outer else "*"
    # By one thread, so that each reading passes over the same lines.
    errors = "ignore_errors = true, store_rejects = true, rejects_limit = 0, parallel = false" if torn else "ignore_errors = false"
    # Numbered as they are read, by one thread, if anybody asks for it: otherwise the engine leaves it out.
    place = f", row_number() OVER () AS {PLACE}" if placed else ""
    return (
        f"SELECT {kept}{place} FROM read_csv({sql_list(paths)}, columns = {{{struct}}}, delim = {quote_text(layout.delimiter)},"
        " quote = '\"', escape = '\"',"
        f" filename = '{FILE}', header = true, auto_detect = false, strict_mode = true, null_padding = false, {errors}, nullstr = '',"
        f" {hive})"
    )
