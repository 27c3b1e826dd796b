"""The quarantine: rows that break a promise are put aside with the reasons for each, and left out wherever the table is read."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.core.names import quote
from endcap.governance.privacy.rights import HIDDEN
from endcap.loop.data.column_types import FILE, ROW, Exclusion
from endcap.loop.data.contracts import SHARED, ask_rows, describe_promise, find_shared
from endcap.loop.data.csv_files import TornLine, count_rows
from endcap.loop.data.failures import reading
from endcap.loop.data.file_sets import facts_of, rows_key
from endcap.loop.data.records import BrokenCheck, FileIdentity, Ingest, QuarantineView
from endcap.loop.data.sources import Source
from endcap.storage.files import delivering

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

LINE, REASONS, TEXT, SHA = "__line", "__reasons", "__text", "__sha256"
_MOST_SAMPLES = 10
_CHUNK_BYTES = 1 << 24


class TornFile(NamedTuple):
    """A CSV file and its lines that do not fit the header."""

    path: Path
    lines: list[TornLine]


def find_torn(paths: Iterable[Path], *, table: Table, engine: duckdb.DuckDBPyConnection) -> list[TornFile]:
    """The CSV files that have lines which do not fit their header, and those lines.

    Only lines that are whole by themselves can be put aside. Raises InvalidInput for a file in which one is not: a quote that is opened and
    never closed swallows what follows, and nobody can tell where its row ends. Cost: one reading of each file by one thread, and of those
    that have such lines another.
    """
    torn = []
    for path in paths:
        n_rows, n_breaks, lines = count_rows(path, table=table, engine=engine)
        n_lines, n_blank = _count_lines(path)
        whole = all("\n" not in line.text.rstrip("\r\n") for line in lines)
        if not whole or n_lines - n_blank != 1 + n_rows + n_breaks + len(lines):
            near = f" near line {lines[0].line}" if lines else ""
            raise InvalidInput(
                f"Table '{table.name}': {path} cannot be taken apart into rows{near}: a quote is opened and not closed, or the header is broken"
                " over lines. No row of it can be put aside.",
                hint='mend the file; double quotes inside a quoted value: ""',
                file=str(path),
                line=lines[0].line if lines else None,
            )
        if lines:
            torn.append(TornFile(path, lines))
    return torn


def _count_lines(path: Path) -> tuple[int, int]:
    """How many lines a file has, and how many of them are blank."""
    import numpy as np

    n_lines = n_blank = 0
    tail = b"\n"  # as if a line had just ended, so that a first line may be blank
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            held = np.frombuffer(tail + chunk.replace(b"\r", b""), dtype=np.uint8)
            ends = held == ord("\n")
            n_lines += int(ends[1:].sum())
            n_blank += int((ends[1:] & ends[:-1]).sum())
            tail = held[-1:].tobytes()
    return n_lines + (tail != b"\n"), n_blank


def pass_over(torn: Sequence[TornFile], *, engine: duckdb.DuckDBPyConnection) -> Exclusion:
    """How rows are read that are to be judged: each carries what it is known by, lines that do not fit are passed over."""
    paths = frozenset(file.path for file in torn)
    return Exclusion(_make_relation(None, engine=engine), paths, paths, marked=True)


class BadRows(NamedTuple):
    """Rows that break a promise, as they are kept: file, row, line, reasons, the text of a line that does not fit, and all columns as text."""

    table: pa.Table
    broken: tuple[BrokenCheck, ...]

    def identified(self, files: Sequence[FileIdentity]) -> pa.Table:
        """The rows with the digest of their file, by which they are found again though it may get another name."""
        import pyarrow as pa

        digests = {file.path: file.sha256 for file in files}
        return self.table.add_column(1, SHA, pa.array([digests[path] for path in self.table[FILE].to_pylist()], pa.string()))

    def count_by_file(self) -> Counter[str]:
        return Counter(self.table[FILE].to_pylist())


def find_bad_rows(source: Source, *, n_rows: int, torn: Sequence[TornFile], now: datetime, engine: duckdb.DuckDBPyConnection) -> BadRows:
    """The rows of a source that break a promise by themselves, those among the rest that are not unique, and the lines that do not fit.

    The source's rows, ``n_rows`` of them, are marked. Cost: one scan; with ``unique`` as for ``scan_contract`` another two. Memory: the bad
    rows as text.
    """
    import pyarrow as pa

    asks = ask_rows(source, now=now)
    mask = " || ".join(f"CASE WHEN {ask.condition} THEN '1' ELSE '0' END" for ask in asks) or "''"
    judged = f"SELECT *, {mask} AS __mask FROM ({source.sql_by_file})"
    kept = ", ".join([FILE, ROW, "__mask", *_texts(source)])
    with reading(source.table, columns=source.columns):
        found = [engine.sql(f"SELECT {kept} FROM ({judged}) WHERE contains(__mask, '1')").to_arrow_table()]
        if find_shared(source, n_rows, engine=engine, where=f"NOT contains({mask}, '1')"):
            same = " AND ".join(f"s.{quote(name)} = r.{quote(name)}" for name in source.table.contract.unique or ())
            twins = f"SELECT r.* FROM ({judged}) AS r SEMI JOIN {SHARED} AS s ON {same}"
            found.append(engine.sql(f"SELECT {kept} FROM ({twins}) WHERE NOT contains(__mask, '1')").to_arrow_table())
            engine.execute(f"DROP TABLE {SHARED}")
    rows = pa.concat_tables(found)
    checks = [(ask.check, ask.column) for ask in asks]
    broken = {m: [c for bit, c in zip(m, checks, strict=True) if bit == "1"] or [("unique", None)] for m in set(rows["__mask"].to_pylist())}
    table = _lay_out(rows, broken, table=source.table)
    counts: Counter[tuple[str, str | None]] = Counter()
    for m, n in Counter(rows["__mask"].to_pylist()).items():
        counts.update(dict.fromkeys(broken[m], n))
    if torn:
        table = pa.concat_tables([table, _lay_out_lines(torn)], promote_options="default")
    said = [BrokenCheck(*check, counts[check]) for check in (*checks, ("unique", None)) if counts[check]]
    return BadRows(table, (*said, *describe_torn(torn)))


def _texts(source: Source) -> list[str]:
    """All columns of the files as text: as they stand in a CSV, as they are written out otherwise."""
    folders = set(source.partitions)
    if source.format != "csv":
        return [f"CAST({quote(name)} AS VARCHAR) AS {quote(name)}" for name in source.file_columns]
    places = {name: i + 1 for i, name in enumerate(sorted(name for name in source.file_columns if name not in folders))}
    return [f"{ROW}[{places[n]}] AS {quote(n)}" if n in places else f"CAST({quote(n)} AS VARCHAR) AS {quote(n)}" for n in source.file_columns]


def _lay_out(rows: pa.Table, broken: dict[str, list[tuple[str, str | None]]], *, table: Table) -> pa.Table:
    import pyarrow as pa

    masks = rows["__mask"].combine_chunks()
    said = {mask: [describe_promise(check, column, table=table) for check, column in checks] for mask, checks in broken.items()}
    leading = {
        FILE: rows[FILE],
        ROW: rows[ROW],
        LINE: pa.nulls(rows.num_rows, pa.int64()),
        REASONS: pa.array([said[mask] for mask in masks.to_pylist()], pa.list_(pa.string())),
        TEXT: pa.nulls(rows.num_rows, pa.string()),
    }
    return pa.table({**leading, **{name: rows[name] for name in rows.column_names if name not in (FILE, ROW, "__mask")}})


def _lay_out_lines(torn: Sequence[TornFile]) -> pa.Table:
    import pyarrow as pa

    lines = [(str(file.path), line) for file in torn for line in file.lines]
    return pa.table(
        {
            FILE: pa.array([path for path, _ in lines], pa.string()),
            LINE: pa.array([line.line for _, line in lines], pa.int64()),
            REASONS: pa.array([[f"line: {line.reason}"] for _, line in lines], pa.list_(pa.string())),
            TEXT: pa.array([line.text for _, line in lines], pa.string()),
        }
    )


def describe_torn(torn: Sequence[TornFile]) -> tuple[BrokenCheck, ...]:
    """The lines that do not fit as a broken check; none where there are none."""
    lines = [(file.path, line) for file in torn for line in file.lines]
    sample = [{"file": str(path), "line": str(line.line), "why": line.reason} for path, line in lines[:_MOST_SAMPLES]]
    return (BrokenCheck("line", None, len(lines), sample),) if lines else ()


def exclude_rows(table: pa.Table, *, engine: duckdb.DuckDBPyConnection) -> Exclusion:
    """How a table's files are read without bad rows, which name them by their paths."""
    import pyarrow.compute as pc

    lines = pc.is_valid(table[LINE])
    files, torn = (frozenset(map(Path, pc.unique(part).to_pylist())) for part in (table[FILE], table[FILE].filter(lines)))
    return Exclusion(_make_relation(table.select([FILE, ROW]).filter(pc.invert(lines)), engine=engine), files, torn)


def _make_relation(rows: pa.Table | None, *, engine: duckdb.DuckDBPyConnection) -> str:
    """A table of the engine with the rows to leave out, and one row that is no file's: an empty table would be planned away, and with it
    the look at all columns that tells which lines fit.
    """
    import pyarrow as pa

    ((number,),) = engine.execute("SELECT count(*) FROM duckdb_tables() WHERE starts_with(table_name, '__excluded_')").fetchall()
    name = f"__excluded_{number}"
    given = rows if rows is not None else pa.table({FILE: pa.array([], pa.string()), ROW: pa.array([], pa.list_(pa.string()))})
    engine.register("__given", given)
    engine.execute(f"CREATE TABLE {name} AS SELECT * FROM __given UNION ALL BY NAME SELECT '' AS {FILE}")
    engine.unregister("__given")
    return name


def load_exclusion(
    ingest: Ingest, files: Sequence[FileIdentity], *, quarantined: Callable[[str], pa.Table], engine: duckdb.DuckDBPyConnection
) -> Exclusion | None:
    """What an ingest left out of files; None where that is nothing. ``quarantined`` reads the rows put aside by an ingest, by its id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    read_by = facts_of(files, ingest=ingest)
    kept = []
    for id_ in dict.fromkeys(facts.ingest for facts in read_by.values() if facts.n_quarantined):
        rows = quarantined(id_)
        held: dict[tuple[str, ...], list[str]] = {}
        for file in files:
            if read_by[file.path].ingest == id_:
                held.setdefault(rows_key(file.path, file.sha256), []).append(file.path)
        for path in pc.unique(rows[FILE]).to_pylist():
            part = rows.filter(pc.equal(rows[FILE], path))
            names = held.get(rows_key(path, part[SHA][0].as_py()), [])
            part = part.select([FILE, ROW, LINE])
            kept += [part.set_column(0, FILE, pa.array([name] * part.num_rows, pa.string())) for name in names]
    return exclude_rows(pa.concat_tables(kept), engine=engine) if kept else None


def gather_rows(parts: Sequence[pa.Table]) -> pa.Table:
    """The rows put aside by several ingests as they are shown; what a CSV row is known by are its texts, which stand in its columns."""
    import pyarrow as pa

    head = [(FILE, pa.string()), (ROW, pa.int64()), (LINE, pa.int64()), (REASONS, pa.list_(pa.string())), (TEXT, pa.string())]
    parts = [part.drop_columns([SHA]) for part in parts]
    laid = [part if pa.types.is_integer(part.schema.field(ROW).type) else part.drop_columns([ROW]) for part in parts]
    return pa.concat_tables([pa.schema(head).empty_table(), *laid], promote_options="default")


def hide_columns(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Rows with a word in the place of each value of some columns, all of which are text but for what rows are known by, which goes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names:
        place = rows.schema.get_field_index(name)
        if name == ROW:
            rows = rows.set_column(place, name, pa.nulls(rows.num_rows, pa.int64()))
        elif place >= 0:
            hidden = pc.if_else(rows.column(place).is_valid(), HIDDEN, pa.scalar(None, pa.string()))
            rows = rows.set_column(place, name, hidden)
    return rows


def view_rows(rows: pa.Table, *, table: str, path: Path | None, n_shown: int) -> QuarantineView:
    """Rows for a reader: how often each reason stands, and the first rows by what they hold."""
    reasons = Counter(reason for said in rows[REASONS].to_pylist() for reason in said)
    sample = [_show_row(row) for row in rows.slice(0, n_shown).to_pylist()]
    return QuarantineView(
        table=table, n_rows=rows.num_rows, reasons=dict(reasons.most_common()), sample=sample, path=None if path is None else str(path)
    )


def _show_row(row: dict[str, object]) -> dict[str, str]:
    return {name: "; ".join(value) if isinstance(value, list) else str(value) for name, value in row.items() if value is not None}


def write_rows(rows: pa.Table, out: Path) -> None:
    """Write a file whole or not at all: CSV, or Parquet by its name. Raises InvalidInput where it cannot be written, StorageFull on a full disk."""
    import pyarrow.compute as pc
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    rows = rows.set_column(rows.column_names.index(REASONS), REASONS, pc.binary_join(rows[REASONS], "; "))
    hint = "give --out a file, such as out/rows.csv, in a folder that you may write to"
    with delivering(out, what=str(out), hint=hint, n_bytes=rows.nbytes) as file:
        if out.suffix == ".parquet":
            pq.write_table(rows, file)
        else:
            pacsv.write_csv(rows, file)
