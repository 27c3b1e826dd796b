"""Landing: rows of a database are fetched and kept as files of the home, so that all that reads tables reads files.

A visit reads the relation in one snapshot. Without a watermark it reads all rows, and where they are as they were, nothing changes. With one it
reads the *window*: the rows whose watermark is at least the greatest read so far, less the overlap. What is kept of the window is then
compared with what was read, row by row, so that a row is neither lost nor doubled however many share a watermark:

- a table without ``known_at`` is made equal to the relation: rows of the window that went are taken away, and a row that came takes the place of
  the older one of the same key (the contract's ``unique``, or the primary key);
- a table with ``known_at`` keeps every version of a row that was seen, as restatements are read; only what is not there yet is added.

A visit begins where the newest accepted ingest stood, so that rows which were refused are read again once they were mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from endcap.core.definitions.tables import Table
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.identity import identify
from endcap.core.names import quote, quote_text
from endcap.core.zones import load_zone
from endcap.governance.keys.secrets import SecretReader
from endcap.governance.sessions import Session
from endcap.loop.data.column_types import FILE
from endcap.loop.data.connectors.opening import open_connector
from endcap.loop.data.connectors.relations import ORDERED, Connector, Mark, Relation, RelationColumn, Snapshot
from endcap.loop.data.engine import open_engine
from endcap.loop.data.landed_predictions import land_predictions
from endcap.loop.data.parts import Generation, Part, PartFolder, hold_parts, locate, write_parts
from endcap.loop.data.paths import DataFiles, find_files, sql_list
from endcap.loop.data.records import INGESTS
from endcap.loop.data.sealed_parts import ROW_NUMBER, open_parts, seal_batches, settle_copies, unseal_copy

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_OVERLAP, _OVERLAP_COUNT = timedelta(minutes=10), 10_000
_LOOKED_BACK = 256
_BATCH_ROWS = 65_536


def gather_files(session: Session, table: Table, *, folder: Path, zone: str, whole: bool = False) -> DataFiles:
    """The files that hold a table's rows: those that its source names, or those into which its rows are fetched, now.

    ``whole`` reads a relation again from its beginning, whatever its watermark. Cost: ``find_files``; ``land`` and ``land_predictions``.
    """
    if not table.is_landed:
        return find_files(table, folder=folder)
    if table.relation is None:
        found = land_predictions(session, table)
    else:
        found = land(session, table, open_connector(table, secrets=SecretReader(session)), zone=zone, whole=whole)
    return replace(found, unseal=unseal_copy(session, table)) if table.personal else found


def land(session: Session, table: Table, connector: Connector, *, zone: str, whole: bool = False) -> DataFiles:
    """Fetch what is new in a relation; see the module. Returns the files that hold all its rows.

    ``zone`` is where watermarks without an offset are read. Raises InvalidInput for a relation, column or watermark that is not as declared,
    Unreachable where the database does not answer: then all is as it was before. A killed process leaves nothing half.
    Cost: the rows of the window are read, sent and compared once; a row that was changed costs a look at the keys of all rows, and the writing of
    the parts that hold the older ones. Memory: a batch, and what the engine may hold. Others who land the same table wait.
    """
    identity = identify(connector.identity, table.relation, table.select, table.watermark, table.known_at is not None, table.contract.unique)
    identity = settle_copies(session, table, source=identity)
    with hold_parts(locate(session, table.name, source=identity), source=f"{connector.shown} {table.relation}") as folder:
        base = _find_base(session, table, folder)
        with connector.open() as snapshot:
            visit = _Visit.plan(session, table, folder, snapshot, base=base, zone=zone, whole=whole)
            staged = visit.fetch(snapshot)
        found, parts = visit.settle(staged)
        if found is not None:
            newest = folder.book.generations[-1:]
            kept = [base] if base is not None and base not in newest else []
            folder.keep([*kept, *newest, found], staged=parts)
        else:
            found = visit.standing
        return DataFiles("parquet", folder.paths(found))


def _find_base(session: Session, table: Table, folder: PartFolder) -> Generation | None:
    """The generation that the newest accepted ingest let in; None where there is none whose parts are all there."""
    ingests = session.records.find(INGESTS, workspace=session.workspace, where={"table": table.name}, newest_first=True, limit=_LOOKED_BACK)
    whole = [g for g in folder.book.generations if all((folder.path / name).exists() for name in g.names)]
    for ingest in ingests:
        if ingest.status == "accepted":
            names = frozenset(Path(file.path).name for file in ingest.files)
            found = next((generation for generation in whole if generation.names == names), None)
            if found is not None:
                return found
    return None


@dataclass(frozen=True)
class _Visit:
    """One visit: what is read, and what it is held against."""

    session: Session
    table: Table
    folder: PartFolder
    relation: Relation
    columns: tuple[RelationColumn, ...]
    key: tuple[str, ...]
    base: Generation | None
    since: Mark | None
    zone: str

    @classmethod
    def plan(
        cls, session: Session, table: Table, folder: PartFolder, snapshot: Snapshot, *, base: Generation | None, zone: str, whole: bool
    ) -> _Visit:
        relation = snapshot.describe(cast(str, table.relation))
        columns = _choose_columns(table, relation)
        key = _choose_key(table, relation, columns)
        types = {column.name: column.type for column in columns}
        if base is not None and base.columns != types and table.watermark is not None:
            if table.known_at is not None:
                raise _other_columns(table, before=base.columns, now=types)
            base = None  # the relation has all that is kept: it is read anew
        since = None
        if table.watermark is not None:
            _require_watermark(table, relation, snapshot)
            if base is not None and base.mark is not None and not whole:
                since = _begin(table, base.mark, now=session.now(), zone=table.zone or zone)
        return cls(session, table, folder, relation, columns, key, base, since, zone)

    @property
    def standing(self) -> Generation:
        """What stands where nothing changed."""
        return self.folder.book.generations[-1] if self.table.watermark is None or self.base is None else self.base

    def fetch(self, snapshot: Snapshot) -> list[Part]:
        names = [column.name for column in self.columns]
        batches = snapshot.read(self.relation, columns=names, watermark=self.table.watermark, since=self.since)
        return write_parts(self.folder.staging, seal_batches(self.session, self.table, batches), prefix=f"{self._number}-f")

    def settle(self, staged: list[Part]) -> tuple[Generation | None, Sequence[Part]]:
        """The new generation and its new parts; None where what stands is what was read."""
        with open_engine(self.session.settings) as engine:
            engine.execute(f"CREATE TEMP VIEW fetched AS SELECT * FROM {self._read([self.folder.staging / part.name for part in staged], engine)}")
            if self.table.watermark is None:
                return self._replace(staged, engine)
            mark = self._find_mark(engine)
            if self.base is None or self.base.mark is None:
                return self._generation(staged, mark=mark), staged
            return self._merge(self.base, engine, mark=mark)

    def _replace(self, staged: list[Part], engine: duckdb.DuckDBPyConnection) -> tuple[Generation | None, Sequence[Part]]:
        """All rows were read: what stands stays where they are the same, in whatever order."""
        names = ", ".join(quote(column.name) for column in self.columns)
        row = _one(engine, f"SELECT count(*), sum(hash({names})), bit_xor(hash({names})) FROM fetched")
        fingerprint = "/".join(str(value) for value in row)
        newest = self.folder.book.generations[-1] if self.folder.book.generations else None
        types = {column.name: column.type for column in self.columns}
        there = newest is not None and all((self.folder.path / name).exists() for name in newest.names)
        if newest is not None and there and (newest.fingerprint, newest.columns) == (fingerprint, types):
            return None, ()
        return self._generation(staged, fingerprint=fingerprint), staged

    def _find_mark(self, engine: duckdb.DuckDBPyConnection) -> Mark | None:
        column = cast(RelationColumn, self.relation.column(cast(str, self.table.watermark)))
        name = quote(column.name)
        n_missing, most = _one(engine, f"SELECT count(*) - count({name}), CAST(max({name}) AS VARCHAR) FROM fetched")
        if n_missing:
            raise InvalidInput(
                f"Table '{self.table.name}': {n_missing:,} rows of '{self.relation.name}' have an infinite {column.name!r}: nothing is above it.",
                hint="take another watermark, or none",
            )
        if most is None:
            return None if self.base is None else self.base.mark
        value = int(most) if column.sort == "integer" else date.fromisoformat(most) if column.sort == "date" else datetime.fromisoformat(most)
        return Mark.of(column.sort, value)

    def _merge(self, base: Generation, engine: duckdb.DuckDBPyConnection, *, mark: Mark | None) -> tuple[Generation | None, Sequence[Part]]:
        """What is kept of the window, made equal to what was read of it, with as few files changed as may be."""
        n_added = self._compare(base, engine)
        added = self._write(engine, "SELECT * FROM added", part="a") if n_added else []
        touched = sorted(Path(row[0]).name for row in engine.execute("SELECT DISTINCT __file FROM removed").fetchall())
        if not added and not touched:
            return None, ()
        rewritten: list[Part] = []
        for n, name in enumerate(touched):
            rest = f"SELECT * FROM kept ANTI JOIN removed USING (__file, __row) WHERE __file = {quote_text(str(self.folder.path / name))}"
            rewritten += [part for part in self._write(engine, f"SELECT * EXCLUDE (__file, __row) FROM ({rest})", part=f"r{n}") if part.n_rows]
        parts = [*(part for part in base.parts if part.name not in touched), *rewritten, *added]
        if not parts:
            parts = added = self._write(engine, "SELECT * FROM fetched LIMIT 0", part="e")
        return self._generation(parts, mark=mark), [*rewritten, *added]

    def _compare(self, base: Generation, engine: duckdb.DuckDBPyConnection) -> int:
        """Fill the tables ``added``, rows that are not kept yet, and ``removed``, where rows stand that are no more. Returns how many are added."""
        columns = ", ".join(quote(column.name) for column in self.columns)
        within = "true" if self.since is None else f"{quote(cast(str, self.table.watermark))} >= {self.since.sql}"
        engine.execute(
            f"CREATE TEMP VIEW kept AS SELECT * RENAME (file_row_number AS __row) FROM {self._read(self.folder.paths(base), engine, placed=True)}"
        )
        engine.execute(f"CREATE TEMP TABLE window_kept AS SELECT * FROM kept WHERE {within}")
        engine.execute(f"CREATE TEMP TABLE added AS SELECT {columns} FROM fetched EXCEPT ALL SELECT {columns} FROM window_kept")
        engine.execute("CREATE TEMP TABLE removed (__file VARCHAR, __row BIGINT)")
        tables = ("fetched", "window_kept", "added")
        n_fetched, n_kept, n_added = _one(engine, f"SELECT {', '.join(f'(SELECT count(*) FROM {name})' for name in tables)}")
        if self.table.known_at is not None:
            return int(n_added)
        if n_fetched - n_added < n_kept:
            same = " AND ".join(f"w.{quote(c.name)} IS NOT DISTINCT FROM f.{quote(c.name)}" for c in self.columns)
            engine.execute(
                f"INSERT INTO removed SELECT __file, __row FROM (SELECT *, row_number() OVER (PARTITION BY {columns} ORDER BY __file, __row) AS __n"
                f" FROM window_kept) AS w LEFT JOIN (SELECT {columns}, count(*) AS __there FROM fetched GROUP BY ALL) AS f ON {same}"
                " WHERE __n > coalesce(__there, 0)"
            )
        if self.key and n_added:
            key = ", ".join(quote(name) for name in self.key)
            older = f"SELECT __file, __row FROM kept SEMI JOIN (SELECT {key} FROM added) USING ({key}) WHERE NOT ({within})"
            engine.execute(f"INSERT INTO removed {older}")
        return int(n_added)

    def _write(self, engine: duckdb.DuckDBPyConnection, statement: str, *, part: str) -> list[Part]:
        """Write the rows of a statement as they were fetched: in the same types."""
        import pyarrow.parquet as pq

        from endcap.governance.privacy.sealing import restore_schema

        schema = restore_schema(pq.read_schema(next(iter(self.folder.staging.glob(f"{self._number}-f-*.parquet")))))
        reader = engine.sql(statement).to_arrow_reader(_BATCH_ROWS)
        batches = chain([schema.empty_table().to_batches() or [_empty(schema)]], ([batch.cast(schema)] for batch in reader))
        rows = seal_batches(self.session, self.table, (batch for some in batches for batch in some))
        return write_parts(self.folder.staging, rows, prefix=f"{self._number}-{part}")

    def _read(self, paths: Sequence[Path], engine: duckdb.DuckDBPyConnection, *, placed: bool = False) -> str:
        """A relation of the rows of parts; ``placed`` with their files and numbers."""
        if self.table.personal:
            name = open_parts(paths, unseal=unseal_copy(self.session, self.table), engine=engine)
            return name if placed else f"(SELECT * EXCLUDE ({FILE}, {ROW_NUMBER}) FROM {name})"
        more = ", filename = '__file', file_row_number = true" if placed else ""
        return f"read_parquet({sql_list(paths)}, hive_partitioning = false{more})"

    @property
    def _number(self) -> str:
        return f"{max((generation.number for generation in self.folder.book.generations), default=0) + 1:06d}"

    def _generation(self, parts: Sequence[Part], *, mark: Mark | None = None, fingerprint: str = "") -> Generation:
        columns = {column.name: column.type for column in self.columns}
        at = self.session.now()
        return Generation(number=int(self._number), at=at, parts=tuple(parts), columns=columns, mark=mark, fingerprint=fingerprint)


def _choose_columns(table: Table, relation: Relation) -> tuple[RelationColumn, ...]:
    """The columns that are read, in the relation's order."""
    offered = [column.name for column in relation.columns]
    asked = [(name, "select") for name in table.select] + ([(table.watermark, "watermark")] if table.watermark else [])
    for name, _ in asked:
        if name not in offered:
            raise InvalidInput(
                unknown("column", name, offered, where=f"Table '{table.name}': relation '{table.relation}'"), hint=suggest(name, offered)
            )
    return tuple(column for column in relation.columns if not table.select or column.name in table.select)


def _choose_key(table: Table, relation: Relation, columns: Sequence[RelationColumn]) -> tuple[str, ...]:
    """The columns that say which row a changed row is: the contract's ``unique``, else the primary key; () where rows never change."""
    names = {column.name for column in columns}
    unique = table.contract.unique or ()
    if table.watermark is None or table.known_at is not None:
        return ()
    if unique and set(unique) <= names:
        return unique
    absent = sorted(set(relation.key) - names)
    if absent:
        raise InvalidInput(
            f"Table '{table.name}' does not select {absent}, by which changed rows of '{relation.name}' are told.", hint="add them to select=..."
        )
    return relation.key


def _require_watermark(table: Table, relation: Relation, snapshot: Snapshot) -> None:
    column = cast(RelationColumn, relation.column(cast(str, table.watermark)))
    what = f"Table '{table.name}': the watermark {column.name!r} of '{relation.name}'"
    if column.sort not in ORDERED:
        raise InvalidInput(f"{what} is of type {column.type}.", hint="take a column of whole numbers, dates or times that grows with each change")
    if isinstance(table.overlap, str) == (column.sort == "integer") and table.overlap is not None:
        raise InvalidInput(f"{what} is of type {column.type}, and overlap is {table.overlap!r}.", hint="a count for whole numbers, else a duration")
    n_missing = snapshot.count_missing(relation, column.name) if column.nullable else 0
    if n_missing:
        n = f"{n_missing:,} rows" if n_missing < 1000 else "1,000 rows or more"
        raise InvalidInput(f"{what} is null in {n}, which would never be read.", hint="fill it in, declare it NOT NULL, or declare no watermark")


def _begin(table: Table, mark: Mark, *, now: datetime, zone: str) -> Mark | None:
    """From which watermark on rows are read again. One in the future counts as now: rows below it may yet come."""
    if mark.sort == "integer":
        return mark.lower(_OVERLAP_COUNT if table.overlap is None else cast(int, table.overlap))
    local = now.astimezone(load_zone(zone)).replace(tzinfo=None)
    today = Mark.of(mark.sort, {"date": local.date(), "timestamp": local, "instant": now}[mark.sort])
    overlap = _OVERLAP if table.overlap is None else parse_duration(cast(str, table.overlap))
    return min(mark, today, key=lambda each: each.value).lower(overlap)


def _other_columns(table: Table, *, before: dict[str, str], now: dict[str, str]) -> InvalidInput:
    said = [f"{name!r} is gone" for name in before if name not in now]
    said += [f"{name!r} is new" for name in now if name not in before]
    said += [f"{name!r} was {type_} and is {now[name]}" for name, type_ in before.items() if name in now and now[name] != type_]
    return InvalidInput(
        f"Table '{table.name}': the columns of '{table.relation}' are others than those of the versions that are kept: {', '.join(said)}.",
        hint="name the columns that stay with select=...: then all are read anew, and versions that the database has no more are gone",
    )


def _one(engine: duckdb.DuckDBPyConnection, statement: str) -> tuple[Any, ...]:
    """The one row of a statement, all of which is fetched: the engine takes no other work before."""
    return tuple(engine.execute(statement).fetchall()[0])


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
