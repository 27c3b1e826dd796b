"""What an ingest let in, opened to be read, and what it put aside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.data.digests import digest_file
from endcap.loop.data.records import QUARANTINE, FileIdentity, Ingest
from endcap.loop.data.sealed_parts import unseal_copy

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from endcap.loop.data.sources import Source


def open_ingested(
    session: Session,
    table: Table,
    ingest: Ingest,
    *,
    folder: Path,
    engine: duckdb.DuckDBPyConnection,
    only: Sequence[FileIdentity] | None = None,
    put_aside: pa.Table | None = None,
    placed: bool = False,
) -> Source:
    """The rows that an ingest let in as one SELECT, without those it put aside; see ``open_source``.

    ``only`` reads some of the ingest's files, such as ``new_files`` names (None: all); ``put_aside`` are the rows that this very ingest put
    aside, while they are not written yet; ``placed`` adds instants and places to ``sql_by_file``. Raises InvalidInput for files that are not
    as the ingest found them. Cost: that of ``open_source`` without a scan, and the reading of the rows put aside; files that have such rows
    are read by all their columns, or in Parquet by their rows' numbers, CSV files with lines that do not fit by one thread.
    """
    from endcap.loop.data.quarantine import load_exclusion
    from endcap.loop.data.sources import open_source

    def read(id_: str) -> pa.Table:
        return put_aside if put_aside is not None and id_ == ingest.id else read_quarantined(session, ingest.table, id_)

    return open_source(
        table,
        folder=folder,
        zone=ingest.zone,
        engine=engine,
        digests=lambda path: digest_file(session, path),
        ingest=ingest,
        only=only,
        excluded=lambda files: load_exclusion(ingest, files, quarantined=read, engine=engine),
        placed=placed,
        landing=session.ports.landing.path if table.is_landed else None,
        unseal=unseal_copy(session, table) if table.is_landed and table.personal else None,
    )


def read_quarantined(session: Session, table: str, ingest: str) -> pa.Table:
    """The rows that an ingest put aside: file, row, line, reasons, the text of a line that does not fit, and every column as text.

    Raises NotFound where it put none aside.
    """
    return session.tables.read(QUARANTINE, partition=partition_of(session, table, ingest))


def partition_of(session: Session, table: str, ingest: str) -> dict[str, str]:
    """Where the rows that an ingest put aside are kept."""
    return {"workspace": session.workspace, "table": table, "ingest": ingest}
