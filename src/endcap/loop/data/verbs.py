"""The verbs of data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import ContractBroken, InvalidInput
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.digests import digest_files, require_unchanged
from endcap.loop.data.paths import DataFiles, find_files
from endcap.loop.data.records import INGESTS, BrokenCheck, ColumnProfile, FileIdentity, Ingest

if TYPE_CHECKING:
    from endcap.loop.data.contracts import ContractScan

_MOST_LINES = 10


@verb("ingest", permission=Permission.EDIT)
def ingest(session: Session, table: Table, *, folder: Path, zone: str | None = None, verify: bool = False) -> Ingest:
    """Look at a table's files, check its contract, and record what was found.

    ``folder`` is where relative paths begin; ``zone`` is that of times without an offset unless the table says its own (None: the
    workspace's). Files that are unchanged since they were accepted under the same definition are not scanned again, and the
    record that stands is returned; only ``fresh`` is asked again, since time passes. ``verify`` reads every file's digest anew.
    Raises ContractBroken, after recording the refused batch, when rows break a promise; InvalidInput, audited as a refusal, when
    the files cannot be read. Cost: the digest of each new file, and two scans (three with ``unique``) of all of them.
    """
    began_s = time.perf_counter()
    zone = table.zone or zone or session.zone
    try:
        files = find_files(table, folder=folder)
        identities = digest_files(session, files.paths, verify=verify)
        identity = _identify(table, zone, files, identities)
        standing = _find_accepted(session.records.find(INGESTS, workspace=session.workspace, where={"identity": identity}))
        scan, profile = _look(session, table, folder=folder, zone=zone, identities=identities, standing=standing)
    except InvalidInput as error:
        session.record_refusal("ingest", thing=f"table/{table.name}", detail={"error": error.code, "what": error.what[:500]})
        raise
    if standing is not None and not scan.broken:
        return standing
    record = Ingest(
        id=session.new_id("ingest"),
        table=table.name,
        definition=identify(table),
        identity=identity,
        at=session.now(),
        status="refused" if scan.broken else "accepted",
        files=tuple(identities),
        n_rows=scan.n_rows,
        first_event=scan.first_event,
        last_event=scan.last_event,
        profile=tuple(profile),
        broken=tuple(scan.broken),
        wall_s=time.perf_counter() - began_s,
    )
    record = _write(session, record)
    if record.status == "refused":
        raise _contract_broken(table, record)
    return record


@verb("list-ingests", permission=Permission.READ)
def list_ingests(session: Session, table: str | None = None, *, limit: int = 20) -> list[Ingest]:
    """What was ingested and what was refused, newest first.

    ``table`` None means all; ``limit`` is how many are listed, and cost grows with it.
    """
    where = None if table is None else {"table": table}
    return session.records.find(INGESTS, workspace=session.workspace, where=where, newest_first=True, limit=limit)


def _identify(table: Table, zone: str, files: DataFiles, identities: Sequence[FileIdentity]) -> str:
    """Where a file lies counts only as far as its folders are columns."""
    rows = [(found.sha256, files.partition_values(path)) for path, found in zip(files.paths, identities, strict=True)]
    return identify(table, zone, files.partitions, sorted(rows))


def _find_accepted(records: Sequence[Ingest]) -> Ingest | None:
    return next((record for record in records if record.status == "accepted"), None)


def _look(
    session: Session, table: Table, *, folder: Path, zone: str, identities: Sequence[FileIdentity], standing: Ingest | None
) -> tuple[ContractScan, list[ColumnProfile]]:
    from endcap.loop.data.contracts import ContractScan, is_stale, scan_contract
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.profiles import profile_source
    from endcap.loop.data.sources import open_source

    if standing is not None:
        stale = is_stale(table, last_event=standing.last_event, zone=zone, now=session.now())
        broken = [BrokenCheck("fresh", None, standing.n_rows, [{"newest": standing.last_event or "null"}])] if stale else []
        return ContractScan(standing.n_rows, standing.first_event, standing.last_event, broken), []
    by_path = {Path(identity.path): identity for identity in identities}
    with open_engine(session.settings) as engine:
        source = open_source(table, folder=folder, zone=zone, engine=engine, digests=by_path.__getitem__)
        scan = scan_contract(source, engine=engine, now=session.now())
        profile = [] if scan.broken else profile_source(source, engine=engine, n_rows=scan.n_rows)
        require_unchanged(identities)
        return scan, profile


def _write(session: Session, record: Ingest) -> Ingest:
    """Keep the record and its audit row, unless somebody accepted the same meanwhile: then theirs stands, and nothing is written."""
    detail: dict[str, str | int | float | bool | None] = {
        "status": record.status,
        "ingest": record.id,
        "definition": record.definition,
        "identity": record.identity,
        "n_files": len(record.files),
        "n_rows": record.n_rows,
        "n_broken": len(record.broken),
    }
    with session.change("ingest", thing=f"table/{record.table}", detail=detail) as change:
        if record.status == "accepted":
            found = change.tx.find(INGESTS, workspace=session.workspace, where={"identity": record.identity})
            standing = _find_accepted(found)
            if standing is not None:
                change.detail["ingest"] = standing.id
                return standing
        change.tx.append(INGESTS, workspace=session.workspace, record=record)
    return record


def _contract_broken(table: Table, record: Ingest) -> ContractBroken:
    from endcap.loop.data.contracts import describe_broken

    lines = [f"- {describe_broken(check, table=table, n_rows=record.n_rows)}" for check in record.broken]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"- and {len(lines) - _MOST_LINES + 1} more"]
    n = len(record.broken)
    return ContractBroken(
        "\n".join([f"Table '{table.name}' breaks {n} {'promise' if n == 1 else 'promises'} of its contract; nothing was accepted:", *lines]),
        hint="mend the rows, or promise less in Table(contract=...)",
        ingest=record.id,
        table=table.name,
        n_rows=record.n_rows,
        broken=[msgspec.to_builtins(check) for check in record.broken],
    )
