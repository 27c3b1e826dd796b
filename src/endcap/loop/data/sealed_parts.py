"""Landed copies of tables with personal columns: sealed when they are written, opened in memory when they are read.

A part is sealed batch by batch. Whoever reads asks for whole parts, since the values of one person stand in many rows: the rows of a table that is
fetched from a database and has personal columns are in memory while they are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken
from endcap.core.identity import identify
from endcap.governance.sessions import Session
from endcap.loop.data.column_types import FILE
from endcap.loop.data.parts import locate
from endcap.storage.parquet import ROW_GROUP_ROWS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from endcap.governance.privacy.sealing import Mark

ROW_NUMBER = "file_row_number"
"""As the engine calls the number of a row in a file of Parquet."""
_NAMES = count()
_LANDED = "landed"


def mark_columns(table: Table) -> dict[str, Mark]:
    """The personal columns of a table as they stand in its rows; derived ones stand nowhere."""
    from endcap.governance.privacy.sealing import Mark

    whose = table.whose
    if whose is None:
        return {}
    return {column: Mark(None if whose in table.columns else whose, whose, table.name) for column in table.personal if column not in table.columns}


def settle_copies(session: Session, table: Table, *, source: str) -> str:
    """The hash by which copies of a source are kept: another one once the table has personal columns. Copies from before, in plain, are removed."""
    if not mark_columns(table):
        return source
    shutil.rmtree(locate(session, table.name, source=source), ignore_errors=True)
    return identify(source, sorted(table.personal), table.whose)


def mark_answers(tables: Sequence[Table], keys: Collection[str], parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Parts of a model's answers, with the keys declared that its tables call personal."""
    from endcap.governance.privacy.sealing import Mark, mark_personal

    marks: dict[str, Mark] = {}
    for table in tables:
        for name, mark in mark_columns(table).items():
            if name in keys:
                marks.setdefault(name, Mark(mark.subject if mark.subject in keys else None, mark.kind, table.name))
    yield from (mark_personal(part, marks) if marks else part for part in parts)


def seal_batches(session: Session, table: Table, batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
    """Batches of a table's rows as they are to rest."""
    marks = mark_columns(table)
    return _seal(session, table, marks, batches) if marks else batches


def unseal_copy(session: Session, table: Table) -> Callable[[pa.Table], pa.Table]:
    """What opens the rows of a table's copies. It opens no other table's."""
    return partial(session.tables.unseal, dataset=_LANDED, partition=_place(session, table))


def open_parts(paths: Sequence[Path], *, unseal: Callable[[pa.Table], pa.Table], engine: duckdb.DuckDBPyConnection) -> str:
    """The rows of parts as a relation of the engine, with ``__file`` and ``file_row_number``. Memory: all of them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for path in paths:
        try:
            rows = unseal(pq.read_table(path, partitioning=None))
        except (pa.ArrowException, OSError) as error:
            raise IntegrityBroken(f"{path} was changed at rest: {error}.", hint=f"remove {path.parent}: the rows are read again") from error
        rows = rows.append_column(FILE, pa.repeat(pa.scalar(str(path)), rows.num_rows))
        found.append(rows.append_column(ROW_NUMBER, pa.array(np.arange(rows.num_rows, dtype=np.int64))))
    name = f"__parts_{next(_NAMES)}"
    engine.register(name, pa.concat_tables(found, promote_options="permissive"))
    return name


def _place(session: Session, table: Table) -> dict[str, str]:
    return {"workspace": session.workspace, "table": table.name}


def _seal(session: Session, table: Table, marks: dict[str, Mark], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    from endcap.governance.privacy.sealing import mark_personal

    n = 0
    for batch in batches:
        marked = mark_personal(pa.Table.from_batches([batch]), marks)
        sealed = session.tables.seal(marked, _LANDED, partition=_place(session, table), first_block=n).combine_chunks()
        n += -(-batch.num_rows // ROW_GROUP_ROWS)
        yield from sealed.to_batches() or [pa.RecordBatch.from_arrays([pa.array([], field.type) for field in sealed.schema], schema=sealed.schema)]
