"""Inspection: the files of an ingest that are new are read and held against the contract; what is known of the others is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.core.settings import Settings
from endcap.loop.data.column_types import NO_VALUES, Exclusion, KnownTypes, duckdb_type
from endcap.loop.data.contracts import ContractScan, scan_contract
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import Span, subtract_files
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.profiles import profile_source
from endcap.loop.data.quarantine import BadRows, TornFile, describe_torn, exclude_rows, find_bad_rows, find_torn, pass_over
from endcap.loop.data.records import BrokenCheck, ColumnProfile, FileIdentity, Ingest
from endcap.loop.data.sources import OtherTypes, Source, open_files

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Inspection:
    """What was found in the files that were read. ``spans`` has one for each of them; ``previous`` None: all were read.

    ``n_read`` counts all rows that were read, ``bad`` holds those to put aside (None: there are none), and ``n_too_many`` counts the bad rows of a
    batch that has more than it may.
    """

    spans: dict[str, Span]
    n_read: int
    broken: list[BrokenCheck]
    profile: list[ColumnProfile]
    stored_types: dict[str, str]
    previous: Ingest | None
    bad: BadRows | None = None
    n_too_many: int = 0


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
                return Inspection({}, 0, [], [], previous.stored_types, previous)
            with suppress(OtherTypes):
                known = KnownTypes(previous.stored_types, fixed=False)
                return _Batch(table, files, fresh, zone=zone, engine=engine, now=now, known=known, previous=previous).inspect()
        return _Batch(table, files, identities, zone=zone, engine=engine, now=now, known=None, previous=None).inspect()


@dataclass(frozen=True)
class _Batch:
    """The files that are read together, and how."""

    table: Table
    files: DataFiles
    identities: Sequence[FileIdentity]
    zone: str
    engine: duckdb.DuckDBPyConnection
    now: datetime
    known: KnownTypes | None
    previous: Ingest | None

    def inspect(self) -> Inspection:
        if self.table.contract.quarantine is not None:
            return self._inspect_leniently(self.table.contract.quarantine)
        source = self._open()
        scan = scan_contract(source, engine=self.engine, now=self.now)
        return self._refuse(scan) if scan.broken else self._accept(source, scan)

    def _inspect_leniently(self, share: float) -> Inspection:
        """Judge all rows, put the bad ones aside if they are few enough, and look again at what is left as if they had never been."""
        torn, source = self._open_marked()
        scan = scan_contract(source, engine=self.engine, now=self.now, show=False)
        if not scan.broken and not torn:
            return self._accept(source, scan)
        if any(check.check in ("missing", "extra") for check in scan.broken):
            return self._refuse(scan_contract(source, engine=self.engine, now=self.now), torn=torn)
        bad = find_bad_rows(source, n_rows=scan.span.n_rows, torn=torn, now=self.now, engine=self.engine)
        n_rows, n_bad = scan.span.n_rows + sum(len(file.lines) for file in torn), bad.table.num_rows
        if n_bad > share * n_rows:
            return self._refuse(scan_contract(source, engine=self.engine, now=self.now), torn=torn, n_too_many=n_bad)
        source = self._open(exclude_rows(bad.table, engine=self.engine), known=self._types_without(source, bad))
        left = scan_contract(source, engine=self.engine, now=self.now)
        if left.broken:
            return self._refuse(left)
        if left.span.n_rows + n_bad != n_rows:
            raise IntegrityBroken(f"Table '{self.table.name}': {n_rows:,} rows were read, {n_bad:,} put aside, and {left.span.n_rows:,} are left.")
        return self._accept(source, left, bad=bad)

    def _open_marked(self) -> tuple[list[TornFile], Source]:
        try:
            return [], self._open(pass_over([], engine=self.engine))
        except InvalidInput as error:
            if self.files.format != "csv" or "line" not in error.details:
                raise
        torn = find_torn([Path(file.path) for file in self.identities], table=self.table, engine=self.engine)
        return torn, self._open(pass_over(torn, engine=self.engine))

    def _types_without(self, source: Source, bad: BadRows) -> KnownTypes | None:
        """The types of the files' columns once bad rows are left out, where that is plain without another look at all values.

        A column whose type is promised has it then. Any other may be narrower than it was with bad rows, but only times are ever bad in it.
        """
        promised = {name: check.type for name, check in self.table.contract.columns.items() if check.type}
        texts = {name for name in source.file_columns if source.stored_types[name] == "VARCHAR"}
        if source.format != "csv" or any(promised.get(name) == "timestamp" for name in texts):
            return self.known
        if any(check.check in ("event_time", "known_at") for check in bad.broken):
            return self.known
        types = {name: source.stored_types[name] for name in source.file_columns}
        told = {name: duckdb_type(type_) for name, type_ in promised.items() if name in types and type_ != "timestamp"}
        return KnownTypes(types | told, fixed=True)

    def _open(self, excluded: Exclusion | None = None, *, known: KnownTypes | None = None) -> Source:
        chosen = replace(self.files, paths=tuple(Path(file.path) for file in self.identities))
        known = known or self.known
        return open_files(self.table, chosen, tuple(self.identities), zone=self.zone, engine=self.engine, known=known, excluded=excluded)

    def _refuse(self, scan: ContractScan, *, torn: Sequence[TornFile] = (), n_too_many: int = 0) -> Inspection:
        n_read = scan.span.n_rows + sum(len(file.lines) for file in torn)
        return Inspection(self._spans(scan), n_read, [*scan.broken, *describe_torn(torn)], [], {}, self.previous, n_too_many=n_too_many)

    def _accept(self, source: Source, scan: ContractScan, *, bad: BadRows | None = None) -> Inspection:
        profile = profile_source(source, engine=self.engine, n_rows=scan.span.n_rows, personal=self.table.personal)
        types = _remembered_types(source, profile, previous=self.previous)
        n_read = scan.span.n_rows + (bad.table.num_rows if bad else 0)
        return Inspection(self._spans(scan), n_read, [], profile, types, self.previous, bad=bad)

    def _spans(self, scan: ContractScan) -> dict[str, Span]:
        return {file.path: scan.files.get(file.path, Span()) for file in self.identities}


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
