"""The verbs of data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import ContractBroken, InvalidInput
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.digests import digest_files, require_unchanged
from endcap.loop.data.file_sets import carry_facts, find_previous, span_of
from endcap.loop.data.paths import DataFiles, find_files
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest

_MOST_LINES = 10


@verb("ingest", permission=Permission.EDIT)
def ingest(session: Session, table: Table, *, folder: Path, zone: str | None = None, verify: bool = False) -> Ingest:
    """Look at a table's files, check its contract, and record what was found.

    ``folder`` is where relative paths begin; ``zone`` is that of times without an offset unless the table says its own (None: the
    workspace's). Only files that are new or changed since the last accepted ingest of the same definition are read: what rows promise is
    checked on theirs (``unique`` among them alone), and of the other files it is known. Where no file is new the record that stands is
    returned; ``fresh`` is asked each time, of all rows. ``verify`` reads every file's digest anew.
    Raises ContractBroken, after recording the refused batch, when rows break a promise; InvalidInput, audited as a refusal, when
    the files cannot be read. Cost: a look at each file, and the digest and two scans (three with ``unique``) of the new ones.
    """
    began_s = time.perf_counter()
    zone = table.zone or zone or session.zone
    try:
        files = find_files(table, folder=folder)
        identities = digest_files(session, files.paths, verify=verify)
        identity = _identify(table, zone, files, identities)
        standing = _find_accepted(session.records.find(INGESTS, workspace=session.workspace, where={"identity": identity}))
        if standing is not None:
            record = _ask_again(session, table, standing, zone=zone)
        else:
            record = _look(session, table, files=files, identities=identities, identity=identity, zone=zone)
    except InvalidInput as error:
        session.record_refusal("ingest", thing=f"table/{table.name}", detail={"error": error.code, "what": error.what[:500]})
        raise
    if record is standing:
        return record
    record = _write(session, msgspec.structs.replace(record, wall_s=time.perf_counter() - began_s))
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


def _ask_again(session: Session, table: Table, standing: Ingest, *, zone: str) -> Ingest:
    """The record that stands, or where time made its rows too old the record of a refusal."""
    from endcap.loop.data.contracts import check_fresh

    broken = check_fresh(table, span_of(standing.facts), zone=zone, now=session.now())
    if not broken:
        return standing
    made = {"id": session.new_id("ingest"), "at": session.now(), "n_rows_read": 0, "previous": standing.id}
    return msgspec.structs.replace(standing, **made, status="refused", profile=(), facts=(), broken=tuple(broken))


def _look(session: Session, table: Table, *, files: DataFiles, identities: Sequence[FileIdentity], identity: str, zone: str) -> Ingest:
    """Read what is new, and what came of it."""
    from endcap.loop.data.contracts import check_fresh
    from endcap.loop.data.inspection import inspect_files

    definition, now, id_ = identify(table), session.now(), session.new_id("ingest")
    before = find_previous(session, table.name, definition=definition, zone=zone, files=identities)
    found = inspect_files(table, files, identities, zone=zone, now=now, previous=before, settings=session.settings)
    facts = carry_facts(identities, ingest=id_, spans=found.spans, previous=found.previous)
    span = span_of(facts)
    broken = [*found.broken, *check_fresh(table, span, zone=zone, now=now)]
    require_unchanged(identities)
    return Ingest(
        id=id_,
        table=table.name,
        definition=definition,
        identity=identity,
        at=now,
        status="refused" if broken else "accepted",
        files=tuple(identities),
        n_rows=span.n_rows,
        first_event=span.first_event,
        last_event=span.last_event,
        profile=() if broken else tuple(found.profile),
        broken=tuple(broken),
        wall_s=0.0,
        zone=zone,
        previous=None if found.previous is None else found.previous.id,
        n_rows_read=sum(read.n_rows for read in found.spans.values()),
        facts=() if broken else facts,
        stored_types=found.stored_types,
    )


def _write(session: Session, record: Ingest) -> Ingest:
    """Keep the record and its audit row, unless somebody accepted the same meanwhile: then theirs stands, and nothing is written."""
    detail: dict[str, str | int | float | bool | None] = {
        "status": record.status,
        "ingest": record.id,
        "definition": record.definition,
        "identity": record.identity,
        "n_files": len(record.files),
        "n_rows": record.n_rows,
        "n_rows_read": record.n_rows_read,
        "previous": record.previous,
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

    lines = [f"- {describe_broken(check, table=table, n_rows=record.n_rows_read)}" for check in record.broken]
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
