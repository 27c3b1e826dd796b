"""The verbs of data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import ContractBroken, InvalidInput, NotFound
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.privacy.rights import require_personal, show_personal
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.column_types import ROW
from endcap.loop.data.digests import digest_files, require_unchanged
from endcap.loop.data.file_sets import carry_facts, find_previous, span_of
from endcap.loop.data.ingested import open_ingested, partition_of, read_quarantined
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.records import INGESTS, QUARANTINE, BrokenCheck, FileIdentity, Ingest, QuarantineView, describe_volume
from endcap.loop.data.sealed_parts import mark_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from endcap.loop.data.inspection import Inspection

_MOST_LINES = 10
_SHOWN_ROWS = 10


@verb("ingest", permission=Permission.EDIT)
def ingest(session: Session, table: Table, *, folder: Path, zone: str | None = None, verify: bool = False) -> Ingest:
    """Look at a table's files, check its contract, and record what was found.

    ``folder`` is where relative paths begin; ``zone`` is that of times without an offset unless the table says its own (None: the
    workspace's). Only files that are new or changed since the last accepted ingest of the same definition are read: what rows promise is
    checked on theirs (``unique`` among them alone), and of the other files it is known. Where no file is new the record that stands is
    returned; ``fresh`` is asked each time, of all rows, ``volume`` of all recent rows when files are read. ``verify`` reads every file's digest
    anew, and a relation from its beginning. Rows of a database, or of the prediction log, are fetched first (``endcap.loop.data.landing``).
    Raises ContractBroken, after recording the refused batch, when rows break a promise; InvalidInput, audited as a refusal, when
    the files cannot be read; Unreachable where a database does not answer. Cost: a look at each file, and the digest and two scans (three
    with ``unique``) of the new ones.
    """
    from endcap.loop.data.landing import gather_files

    began_s = time.perf_counter()
    require_right(session, f"table/{table.name}", Permission.READ, verb="ingest")
    zone = table.zone or zone or session.zone
    try:
        files = gather_files(session, table, folder=folder, zone=zone, whole=verify)
        identities = digest_files(session, files.paths, verify=verify)
        identity = _identify(table, zone, files, identities)
        standing = _find_accepted(session.records.find(INGESTS, workspace=session.workspace, where={"identity": identity}))
        found = None
        if standing is not None:
            record = _ask_again(session, table, standing, zone=zone)
        else:
            record, found = _look(session, table, files=files, identities=identities, identity=identity, zone=zone)
            record = _weigh(session, table, record, folder=folder, put_aside=found.bad.identified(identities) if found.bad else None)
    except InvalidInput as error:
        session.record_refusal("ingest", thing=f"table/{table.name}", detail={"error": error.code, "what": error.what[:500]})
        raise
    if record is standing:
        return record
    record = msgspec.structs.replace(record, wall_s=time.perf_counter() - began_s)
    bad = _mark_bad(found.bad.identified(identities), table) if found is not None and found.bad is not None else None
    record = _write(session, record, bad=bad)
    if record.status == "refused":
        raise _contract_broken(table, record, n_too_many=found.n_too_many if found is not None else 0)
    return record


@verb("list-ingests", permission=Permission.READ)
def list_ingests(session: Session, table: str | None = None, *, limit: int = 20) -> list[Ingest]:
    """What was ingested and what was refused, newest first.

    ``table`` None means all; ``limit`` is how many are listed, and cost grows with it.
    """
    where = None if table is None else {"table": table}
    return session.records.find(INGESTS, workspace=session.workspace, where=where, newest_first=True, limit=limit)


@verb("quarantine", permission=Permission.READ)
def deliver_quarantine(session: Session, table: str, *, out: Path | None = None, ingest: str | None = None) -> QuarantineView:
    """The rows of a table that were put aside, with the reasons for each: counted, shown in part, and written to a file.

    These are the rows left out of the table as the newest accepted ingest has it. ``ingest`` takes those that one ingest found (None: all).
    ``out`` is the file, which is replaced whole: CSV, or Parquet where its name ends in ``.parquet``. Columns: ``__file``, ``__row`` (counted
    from 0, in Parquet), ``__line`` (of a CSV line that does not fit its header) and its ``__text``, ``__reasons``, and the table's own as text.
    Who has no right to the table's personal columns sees them hidden, and is refused the file. Raises NotFound for a table or an ingest that never
    was. Cost grows with the rows put aside.
    """
    from endcap.governance.privacy.sealing import read_marks
    from endcap.loop.data.quarantine import gather_rows, hide_columns, view_rows, write_rows

    where = {"table": table}
    found = session.records.find(INGESTS, workspace=session.workspace, where=where, newest_first=True)
    accepted = [record for record in found if record.status == "accepted" and ingest in (None, record.id)]
    if not accepted:
        what = f"Table '{table}' has no accepted ingest{f' {ingest!r}' if ingest else ''}."
        raise NotFound(what, hint="look at: endcap list-ingests" if found else "ingest it first: endcap run MODEL")
    ids = list(dict.fromkeys(facts.ingest for facts in accepted[0].facts if facts.n_quarantined and ingest in (None, facts.ingest)))
    parts = [read_quarantined(session, table, id_) for id_ in ids]
    personal = sorted({name for part in parts for name in read_marks(part.schema)}) if parts else []
    if personal and out is not None:
        require_personal(session, [table], verb="quarantine")
    elif personal and not show_personal(session, [table], verb="quarantine"):
        parts = [hide_columns(part, personal) for part in parts]
    rows = gather_rows(parts)
    if out is not None:
        write_rows(rows, out)
    return view_rows(rows, table=table, path=out, n_shown=_SHOWN_ROWS)


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


def _look(
    session: Session, table: Table, *, files: DataFiles, identities: Sequence[FileIdentity], identity: str, zone: str
) -> tuple[Ingest, Inspection]:
    """Read what is new: the record of what came of it, and all that was found."""
    from endcap.loop.data.contracts import check_fresh
    from endcap.loop.data.inspection import inspect_files

    definition, now, id_ = identify(table), session.now(), session.new_id("ingest")
    before = find_previous(session, table.name, definition=definition, zone=zone, files=identities)
    found = inspect_files(table, files, identities, zone=zone, now=now, previous=before, settings=session.settings)
    put_aside = found.bad.count_by_file() if found.bad else {}
    facts = carry_facts(identities, ingest=id_, spans=found.spans, quarantined=put_aside, previous=found.previous)
    span = span_of(facts)
    broken = [*found.broken, *check_fresh(table, span, zone=zone, now=now)]
    require_unchanged(identities)
    record = Ingest(
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
        n_rows_read=found.n_read,
        facts=() if broken else facts,
        stored_types=found.stored_types,
        n_quarantined=found.bad.table.num_rows if found.bad and not broken else 0,
        quarantined=found.bad.broken if found.bad and not broken else (),
    )
    return record, found


def _weigh(session: Session, table: Table, record: Ingest, *, folder: Path, put_aside: pa.Table | None) -> Ingest:
    """The record with what is to be said of how many rows came, and refused where the table asks for that."""
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.volumes import check_volume, files_within, judged_interval

    volume = table.contract.volume
    interval = judged_interval(table, last_event=record.last_event, zone=record.zone, now=record.at)
    if record.status != "accepted" or volume is None or interval is None or record.first_event is None:
        return record
    recent = files_within(record.files, record.facts, volume=volume, interval=interval)
    if not recent:
        return record
    with open_engine(session.settings) as engine:
        source = open_ingested(session, table, record, folder=folder, engine=engine, only=recent, put_aside=put_aside)
        doubts = tuple(check_volume(source, interval=interval, first_event=record.first_event, engine=engine))
    if not doubts or volume.then == "warn":
        return msgspec.structs.replace(record, warnings=doubts)
    n = sum(doubt.n_doubted for doubt in doubts)
    sample = [{**key.key, "rows": str(key.n_rows), "usual": f"{key.usual:g}"} for doubt in doubts for key in doubt.sample][:_SHOWN_ROWS]
    refused = {"facts": (), "profile": (), "n_quarantined": 0, "quarantined": (), "broken": (BrokenCheck("volume", None, n, sample),)}
    return msgspec.structs.replace(record, status="refused", warnings=doubts, **refused)


def _mark_bad(rows: pa.Table, table: Table) -> pa.Table:
    """Rows put aside with what is personal in them declared; lines as they stand in a file hold all columns, and nobody can tell whose they are."""
    marks = mark_columns(table)
    if not marks:
        return rows
    from endcap.governance.privacy.sealing import Mark, mark_personal
    from endcap.loop.data.quarantine import TEXT

    nobody = Mark(None, table.whose or "", table.name)
    own = {name: mark if mark.subject in rows.column_names else nobody for name, mark in marks.items()}
    return mark_personal(rows, {**own, ROW: nobody, TEXT: nobody})


def _write(session: Session, record: Ingest, *, bad: pa.Table | None = None) -> Ingest:
    """Keep the record, its audit row and the rows put aside, unless somebody accepted the same meanwhile: then theirs stands, and nothing is written.

    The rows are written first, under the record's own id: without a record they are nobody's.
    """
    detail: dict[str, str | int | float | bool | None] = {
        "status": record.status,
        "ingest": record.id,
        "definition": record.definition,
        "identity": record.identity,
        "n_files": len(record.files),
        "n_rows": record.n_rows,
        "n_rows_read": record.n_rows_read,
        "n_quarantined": record.n_quarantined,
        "previous": record.previous,
        "n_broken": len(record.broken),
        "n_warnings": len(record.warnings),
    }
    kept, partition = record, partition_of(session, record.table, record.id)
    if bad is not None and record.status == "accepted":
        session.tables.write(QUARANTINE, partition=partition, table=bad)
    try:
        with session.change("ingest", thing=f"table/{record.table}", detail=detail) as change:
            standing = None
            if record.status == "accepted":
                standing = _find_accepted(change.tx.find(INGESTS, workspace=session.workspace, where={"identity": record.identity}))
            if standing is not None:
                change.detail["ingest"] = standing.id
                kept = standing
            else:
                change.tx.append(INGESTS, workspace=session.workspace, record=record)
    finally:
        if bad is not None and session.records.get(INGESTS, workspace=session.workspace, id=record.id) is None:
            session.tables.delete(QUARANTINE, partition=partition)
    return kept


def _contract_broken(table: Table, record: Ingest, *, n_too_many: int) -> ContractBroken:
    from endcap.loop.data.contracts import describe_broken

    lines = [f"- volume: {describe_volume(doubt)}" for doubt in record.warnings if record.broken[0].check == "volume"]
    lines = lines or [f"- {describe_broken(check, table=table, n_rows=record.n_rows_read)}" for check in record.broken]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"- and {len(lines) - _MOST_LINES + 1} more"]
    n, share = len(record.broken), table.contract.quarantine
    said = f"Table '{table.name}' breaks {n} {'promise' if n == 1 else 'promises'} of its contract; nothing was accepted"
    if n_too_many and share is not None:
        found = f"{n_too_many:,} of {record.n_rows_read:,} rows are bad ({n_too_many / record.n_rows_read:.2%})"
        said += f", since {found} and at most {share:.2%} may be put aside"
    return ContractBroken(
        "\n".join([f"{said}:", *lines]),
        hint="mend the rows, or promise less in Table(contract=...)",
        ingest=record.id,
        table=table.name,
        n_rows=record.n_rows,
        broken=[msgspec.to_builtins(check) for check in record.broken],
    )
