"""Batches of a view's rows at rest: written in parts of bounded size under an id, and read where a record names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER, ViewVersion
from endcap.pipelines.machine import limit_memory

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as pads

    from endcap.governance.privacy.sealing import Mark

_BATCH = "batch"
_MOST_PART_BYTES = 256 * 2**20
_PART_SHARE = 1 / 32
"""Of the memory limit, what a part may hold before it is written: it stands there as Arrow, as Parquet, and in the engine's hands."""

_CHUNK_ROWS = 65_536


RESTATED = "__restated"
"""A column beside feature rows while they are written: whether a row says anew what was said before. It is counted, and not kept."""

_ROWS_OF_A_BATCH = 1 << 40


@dataclass
class Written:
    """What was written of a batch: its rows, those that say anew what was said before, the ends of their event times, and the latest instant
    from which one of them counts (plain times, UTC; None without rows).
    """

    n_rows: int = 0
    n_parts: int = 0
    n_restated: int = 0
    sha256: str = ""
    first_event: datetime | None = None
    last_event: datetime | None = None
    last_visible: datetime | None = None


def place(session: Session, version: ViewVersion, batch: str | None = None) -> dict[str, str]:
    """The partition of a version of a view, or of one batch of it, without its parts."""
    where = {"workspace": session.workspace, "view": version.name, "version": version.version}
    return where if batch is None else {**where, _BATCH: batch}


def write_batch(
    session: Session,
    dataset: str,
    version: ViewVersion,
    batch: str,
    *,
    sql: str,
    engine: duckdb.DuckDBPyConnection,
    n: int | None = None,
    advance: Callable[[int], None] | None = None,
    marks: Mapping[str, Mark] | None = None,
) -> Written:
    """Write the rows of a SELECT, in its order, in parts of bounded size; ``advance`` is told how many rows are written.

    ``n`` counts the batches of feature rows: their place in the order of ingest is that of the batch, then their own (None: rows without such
    an order). ``marks`` are the columns that are personal (None: those of the view); digests are of what is written. Nothing is written for no
    rows. Writing the same again replaces it part by part, so that a run that was killed leaves nothing wrong. Memory: one part.
    """
    writing = _Writing(session, dataset, place(session, version, batch), n, find_marks(version.view) if marks is None else marks)
    from endcap.loop.data.failures import reading

    with reading(version.view):
        for chunk in engine.sql(sql).to_arrow_reader(_CHUNK_ROWS):
            if chunk.num_rows and writing.add(chunk) and advance is not None:
                advance(writing.written.n_rows)
    return writing.end()


def first_order(n: int) -> int:
    """The least place in the order of ingest that a row of a batch has."""
    return n * _ROWS_OF_A_BATCH


def scan_batches(session: Session, dataset: str, version: ViewVersion, batches: Sequence[str]) -> pads.Dataset | None:
    """The rows of batches as one lazy dataset; None where one of them is not there. Holds a file open for each part."""
    there = {found[_BATCH] for found in session.tables.partitions(dataset, partition=place(session, version))}
    if not batches or not there.issuperset(batches):
        return None
    return session.tables.scan_all(dataset, partitions=[place(session, version, batch) for batch in batches])


def remove_batches(session: Session, dataset: str, version: ViewVersion, *, but: Collection[str]) -> int:
    """Remove the batches that are not named: what killed runs left, and what is no longer read. Returns the parts removed."""
    left = [found for found in session.tables.partitions(dataset, partition=place(session, version)) if found[_BATCH] not in but]
    for partition in left:
        session.tables.delete(dataset, partition=partition)
    return len(left)


def _part_bytes(settings: Settings) -> int:
    return min(_MOST_PART_BYTES, int(limit_memory(settings) * _PART_SHARE))


class _Writing:
    """Parts being filled."""

    def __init__(self, session: Session, dataset: str, partition: dict[str, str], n: int | None, marks: Mapping[str, Mark]) -> None:
        self.marks = marks
        self.session, self.dataset, self.partition, self.n = session, dataset, partition, n
        self.written = Written()
        self.most = _part_bytes(session.settings)
        self.waiting: list[pa.RecordBatch] = []
        self.n_bytes = 0
        self.hashed = hashlib.sha256()

    def add(self, chunk: pa.RecordBatch) -> bool:
        """Take a chunk of rows; True where it filled a part."""
        self.waiting.append(chunk)
        self.n_bytes += chunk.nbytes
        if self.n_bytes < self.most:
            return False
        self._write()
        return True

    def end(self) -> Written:
        if self.waiting:
            self._write()
        self.written.sha256 = self.hashed.hexdigest()
        return self.written

    def _write(self) -> None:
        import pyarrow as pa

        table, written = pa.Table.from_batches(self.waiting).combine_chunks(), self.written
        self.waiting, self.n_bytes = [], 0
        if self.n is not None:
            table = self._count(table, first_order(self.n) + written.n_rows)
        partition = {**self.partition, "part": f"{written.n_parts:05d}"}
        if self.marks:
            from endcap.governance.privacy.sealing import mark_personal

            table = self.session.tables.seal(mark_personal(table, self.marks), self.dataset, partition=partition)
        with pa.ipc.new_stream(_Hashing(self.hashed), table.schema) as stream:
            stream.write_table(table)
        self.session.tables.write(self.dataset, partition=partition, table=table)
        written.n_rows += table.num_rows
        written.n_parts += 1

    def _count(self, table: pa.Table, first: int) -> pa.Table:
        """The rows as they are kept: numbered, counted, their times within those of the batch."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        written = self.written
        if RESTATED in table.column_names:
            written.n_restated += pc.sum(table[RESTATED]).as_py() or 0
            table = table.drop_columns([RESTATED])
        ends = pc.min_max(table[EVENT_AT]).as_py()
        visible = pc.max(pc.max_element_wise(table[EVENT_AT], table[KNOWN_AT])).as_py()
        written.first_event = min(filter(None, (written.first_event, ends["min"])))
        written.last_event = max(filter(None, (written.last_event, ends["max"])))
        written.last_visible = max(filter(None, (written.last_visible, visible)))
        order = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
        return table.set_column(table.column_names.index(ORDER), ORDER, order)


class _Hashing:
    """A file that keeps nothing but the digest of what is written to it."""

    closed = False

    def __init__(self, hashed: hashlib._Hash) -> None:
        self._hashed = hashed

    def write(self, payload: bytes) -> int:
        self._hashed.update(payload)
        return len(payload)

    def flush(self) -> None:
        return None

    def close(self) -> None:
        return None
