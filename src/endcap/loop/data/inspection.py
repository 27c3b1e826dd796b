"""Inspection: the files of an ingest that are new are read and held against the contract; what is known of the others is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.core.settings import Settings
from endcap.loop.data.column_types import NO_VALUES, KnownTypes
from endcap.loop.data.contracts import scan_contract
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import Span, subtract_files
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.profiles import profile_source
from endcap.loop.data.records import BrokenCheck, ColumnProfile, FileIdentity, Ingest
from endcap.loop.data.sources import OtherTypes, Source, open_files

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Inspection:
    """What was found in the files that were read. ``spans`` has one for each of them; ``previous`` None: all were read."""

    spans: dict[str, Span]
    broken: list[BrokenCheck]
    profile: list[ColumnProfile]
    stored_types: dict[str, str]
    previous: Ingest | None


def inspect_files(
    table: Table,
    files: DataFiles,
    identities: Sequence[FileIdentity],
    *,
    zone: str,
    now: datetime,
    previous: Ingest | None,
    settings: Settings | None = None,
) -> Inspection:
    """Read the files that ``previous`` did not let in, and check what the contract says of their rows.

    All are read where there is no such ingest, and where new files change how the columns of the others are to be read: another
    column, or a value that does not fit what a column was taken for. Cost: see ``scan_contract`` and ``profile_source``.
    """
    with open_engine(settings) as engine:
        if previous is not None:
            fresh = subtract_files(identities, previous.files)
            if not fresh:
                return Inspection({}, [], [], previous.stored_types, previous)
            with suppress(OtherTypes):
                source = _open(table, files, fresh, zone=zone, engine=engine, known=KnownTypes(previous.stored_types, fixed=False))
                return _inspect(source, engine=engine, now=now, previous=previous)
        return _inspect(_open(table, files, identities, zone=zone, engine=engine, known=None), engine=engine, now=now, previous=None)


def _open(
    table: Table,
    files: DataFiles,
    identities: Sequence[FileIdentity],
    *,
    zone: str,
    engine: duckdb.DuckDBPyConnection,
    known: KnownTypes | None,
) -> Source:
    chosen = replace(files, paths=tuple(Path(file.path) for file in identities))
    return open_files(table, chosen, tuple(identities), zone=zone, engine=engine, known=known)


def _inspect(source: Source, *, engine: duckdb.DuckDBPyConnection, now: datetime, previous: Ingest | None) -> Inspection:
    scan = scan_contract(source, engine=engine, now=now)
    spans = {file.path: scan.files.get(file.path, Span()) for file in source.files}
    if scan.broken:
        return Inspection(spans, scan.broken, [], {}, previous)
    profile = profile_source(source, engine=engine, n_rows=scan.span.n_rows)
    return Inspection(spans, [], profile, _remembered_types(source, profile, previous=previous), previous)


def _remembered_types(source: Source, profile: Sequence[ColumnProfile], *, previous: Ingest | None) -> dict[str, str]:
    """The types of the files' columns; a text column without any value so far may yet become something else."""
    before = {} if previous is None else previous.stored_types
    promised = source.table.contract.columns
    types = {name: source.stored_types[name] for name in source.file_columns}
    for column in profile:
        unpromised = column.name not in promised or promised[column.name].type is None
        valueless = column.n_null == column.n and before.get(column.name, NO_VALUES) == NO_VALUES
        if types.get(column.name) == "VARCHAR" and unpromised and valueless:
            types[column.name] = NO_VALUES
    return types
