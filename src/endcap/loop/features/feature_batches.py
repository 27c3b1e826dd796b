"""Batches of a view's rows at rest: written in parts of bounded size under an id, and read where a record names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endcap.core.errors import IntegrityBroken
from endcap.core.settings import Settings
from endcap.governance.sessions import Session
from endcap.loop.features.records import Materialisation, ViewVersion
from endcap.pipelines.machine import limit_memory

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as pads

_BATCH = "batch"
_MOST_PART_BYTES = 256 * 2**20
_PART_SHARE = 1 / 32
"""Of the memory limit, what a part may hold before it is written: it stands there as Arrow, as Parquet, and in the engine's hands."""

_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Written:
    """What was written of a batch, and the SHA-256 of its rows in their order."""

    n_rows: int
    n_parts: int
    sha256: str


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
    advance: Callable[[int], None] | None = None,
) -> Written:
    """Write the rows of a SELECT, in its order, in parts of bounded size; ``advance`` is told how many rows are written.

    Nothing is written for no rows. Writing the same again replaces it part by part, so that a run that was killed leaves nothing wrong.
    Memory: one part.
    """
    import pyarrow as pa

    most = _part_bytes(session.settings)
    hashed = hashlib.sha256()
    waiting: list[pa.RecordBatch] = []
    n_rows = n_parts = n_bytes = 0
    for chunk in engine.sql(sql).to_arrow_reader(_CHUNK_ROWS):
        if chunk.num_rows == 0:
            continue
        waiting.append(chunk)
        n_bytes += chunk.nbytes
        if n_bytes >= most:
            n_rows += _write_part(session, dataset, {**place(session, version, batch), "part": f"{n_parts:05d}"}, waiting, hashed)
            n_parts, n_bytes = n_parts + 1, 0
            waiting.clear()
            if advance is not None:
                advance(n_rows)
    if waiting:
        n_rows += _write_part(session, dataset, {**place(session, version, batch), "part": f"{n_parts:05d}"}, waiting, hashed)
        n_parts += 1
    return Written(n_rows, n_parts, hashed.hexdigest())


def scan_batches(session: Session, dataset: str, version: ViewVersion, batches: Sequence[str]) -> pads.Dataset | None:
    """The rows of batches as one lazy dataset, None where they have none. A part that is not there is missed by who counts rows."""
    import pyarrow.dataset as pads

    there = {found[_BATCH] for found in session.tables.partitions(dataset, partition=place(session, version))}
    opened = [session.tables.scan(dataset, partition=place(session, version, batch)) for batch in batches if batch in there]
    if not opened:
        return None
    return opened[0] if len(opened) == 1 else pads.dataset(opened)


def require_rows(found: int, *, records: Sequence[Materialisation], version: ViewVersion) -> None:
    """Raise IntegrityBroken unless as many rows are there as the records say."""
    said = sum(record.n_rows for record in records)
    if found != said:
        raise IntegrityBroken(
            f"Feature view '{version.id}' was materialised with {said:,} rows, and {found:,} of them are there.", hint="restore them from a backup"
        )


def remove_batches(session: Session, dataset: str, version: ViewVersion, *, but: Collection[str]) -> int:
    """Remove the batches that are not named: what killed runs left, and what is no longer read. Returns the parts removed."""
    left = [found for found in session.tables.partitions(dataset, partition=place(session, version)) if found[_BATCH] not in but]
    for partition in left:
        session.tables.delete(dataset, partition=partition)
    return len(left)


def _part_bytes(settings: Settings) -> int:
    return min(_MOST_PART_BYTES, int(limit_memory(settings) * _PART_SHARE))


def _write_part(session: Session, dataset: str, partition: dict[str, str], chunks: list[pa.RecordBatch], hashed: hashlib._Hash) -> int:
    import pyarrow as pa

    table = pa.Table.from_batches(chunks).combine_chunks()
    with pa.ipc.new_stream(_Hashing(hashed), table.schema) as stream:
        stream.write_table(table)
    return session.tables.write(dataset, partition=partition, table=table)


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
