"""Exports of the audit: rows of a span in a file, and beside it a manifest that the home signed. Whoever holds one needs nothing else of the home.

``python -m endcap.governance.audit_exports FILE --key PUBLIC`` checks one where there is no home.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice, takewhile
from pathlib import Path
from typing import IO

import msgspec

from endcap.core.clock import parse_instant
from endcap.core.errors import EndcapError, IntegrityBroken, InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.audit_chain import GENESIS, PAGE_ROWS, broken_at, is_link, walk_chain
from endcap.governance.audit_heads import check_since_signed, has_signature, require_head, settle_chain, sign_head
from endcap.governance.audit_keys import is_signed, open_key, require_public
from endcap.governance.records import AUDIT_ROWS, AuditHead, AuditKey, AuditRow, SignedHead
from endcap.governance.sessions import Detail, Session
from endcap.governance.verbs import verb
from endcap.storage.files import delivering

PURPOSE = "export"
_FORMAT = 1
_MOST_MANIFEST_BYTES = 100_000
_HINT = "give it a place that you may write to"


class AuditManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in an export and who says so. Rows ``first`` to ``last`` (0 and 0 of none) hang on ``previous`` and end in ``last_hash``;
    ``sha256`` is of the file's bytes, ``head`` is where the whole chain ended, and ``signature`` is that of ``key`` over all the rest.
    """

    format: int
    workspace: str
    since: datetime | None
    until: datetime | None
    first: int
    last: int
    n_rows: int
    previous: str
    last_hash: str
    sha256: str
    head: SignedHead
    at: datetime
    by: str
    key: str
    signature: str = ""


class AuditExport(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: the rows, the manifest, and which row numbers; ``key`` is the public key to check them with."""

    path: str
    manifest: str
    first: int
    last: int
    n_rows: int
    head: int
    key: str


@dataclass(frozen=True)
class Witness:
    """Something that says which hash the row ``n`` of a chain had; 0 is before the first."""

    n: int
    hash: str
    source: str


@verb("export-audit", permission=Permission.OWN)
def export_audit(session: Session, out: Path, *, since: str | None = None, until: str | None = None, house: bool = False) -> AuditExport:
    """Write rows of the audit into a file, with a manifest beside it that the home's key signs, for those who check from outside.

    OUT is written as Parquet if it is called so, otherwise as a line of JSON a row; the manifest is OUT.manifest.json. ``since`` is the first
    instant, ``until`` is the first one after them; both are read in the workspace's zone unless they say another. The rows are those from the first
    to the last of the span, in the chain's order. ``house`` is the chain of what belongs to no workspace, for admins of the house.

    Raises IntegrityBroken where what would be signed is not whole. Cost: the rows of the span and those since the last signed head.
    """
    session = settle_chain(session, house=house, verb_name="export-audit")
    begin, end = (parse_instant(text, zone=session.zone) if text is not None else None for text in (since, until))
    if begin is not None and end is not None and begin >= end:
        raise InvalidInput(f"The span ends at {until!r}, which is not after its beginning {since!r}.", hint="--since is the earlier one")
    key, checked = open_key(session), check_since_signed(session)
    start, last = _find_span(session, begin, end, head=checked)
    manifest_path = name_manifest(out)
    with delivering(out, what=f"The export {out}", hint=_HINT) as file:
        told = _Told(start)
        rows = takewhile(lambda row: row.n <= last, walk_chain(session.records, session.workspace, start=start))
        _write_rows(told.listen(rows), file, parquet=_is_parquet(out))
        if told.end.n != max(last, start.n):
            raise broken_at(session.workspace, told.end.n + 1)
        file.flush()
        with Path(file.name).open("rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
        first, n_rows = (start.n + 1, told.end.n - start.n) if last > start.n else (0, 0)
        detail: Detail = {"first": first, "last": last if n_rows else 0, "n_rows": n_rows, "sha256": sha256}
        with session.change("export-audit", thing="audit", detail=detail) as change:
            head = sign_head(session, change, key=key, checked=checked)
    bare = AuditManifest(
        format=_FORMAT,
        workspace=session.workspace,
        since=begin,
        until=end,
        first=first,
        last=last if n_rows else 0,
        n_rows=n_rows,
        previous=start.hash,
        last_hash=told.end.hash,
        sha256=sha256,
        head=head,
        at=head.at,
        by=session.actor.name,
        key=key.public,
    )
    manifest = msgspec.structs.replace(bare, signature=key.sign(bare, purpose=PURPOSE))
    with delivering(manifest_path, what=f"The manifest {manifest_path}", hint=_HINT) as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return AuditExport(path=str(out), manifest=str(manifest_path), first=first, last=manifest.last, n_rows=n_rows, head=head.number, key=key.public)


def name_manifest(path: Path) -> Path:
    """Where the manifest of an export lies."""
    return path.with_name(f"{path.name}.manifest.json")


def check_export(path: Path, *, key: str) -> AuditManifest:
    """Check an export without a home: its manifest's signature by the public ``key``, and that its rows are just those that were signed.

    Raises NotFound where a file is missing, IntegrityBroken naming what is not what it was. Cost: reading the rows once, a hash each.
    """
    public = require_public(key)
    found = _read(name_manifest(path))
    if not isinstance(found, AuditManifest):
        raise IntegrityBroken(f"{name_manifest(path)} is no manifest of an export.", hint="get the export again")
    _require_signature(found, name_manifest(path), key=public)
    _check_rows(path, found)
    return found


def read_witnesses(path: Path, *, workspace: str, keys: Sequence[AuditKey]) -> list[Witness]:
    """What an export, a manifest or a signed head says of a chain, if a key that was in use then signed it.

    An export's own rows are checked, too. Raises InvalidInput for another workspace's and for a file that is none of these, IntegrityBroken for
    one that was changed.
    """
    whole = path if name_manifest(path).exists() else None
    found = _read(name_manifest(path) if whole is not None else path)
    head = found.head if isinstance(found, AuditManifest) else found
    if head.workspace != workspace:
        raise InvalidInput(
            f"{path} is of the workspace '{head.workspace}', not of '{workspace}'.", hint="give --workspace, or --house for the house's"
        )
    require_head(head, workspace=workspace, keys=tuple(keys))
    said = [Witness(head.n, head.hash, f"{path}, signed at {head.at:%Y-%m-%d %H:%M:%S} UTC,")]
    if isinstance(found, AuditManifest):
        _require_signature(found, path, key=head.key)
        if whole is not None:
            _check_rows(whole, found)
        if found.n_rows:
            said += [Witness(found.first - 1, found.previous, f"{path}"), Witness(found.last, found.last_hash, f"{path}")]
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Check an export from the command line; returns 0, or 1 where it is not what was signed."""
    parser = argparse.ArgumentParser(prog="python -m endcap.governance.audit_exports", description="Check an export of the audit without a home.")
    parser.add_argument("file", type=Path, help="the rows; the manifest lies beside them")
    parser.add_argument("--key", required=True, help="the home's public key, as you were given it by a way that you trust")
    given = parser.parse_args(arguments)
    try:
        found = check_export(given.file, key=given.key)
    except EndcapError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    span = f"rows {found.first} to {found.last}" if found.n_rows else "no rows"
    sys.stdout.write(
        f"{given.file} is what was signed: {span} of workspace '{found.workspace}', exported by {found.by} at {found.at:%Y-%m-%d %H:%M:%S} UTC, "
        f"when the chain ended in row {found.head.n}.\n"
    )
    return 0


@dataclass
class _Told:
    """Where the rows that went by ended."""

    end: AuditHead

    def listen(self, rows: Iterable[AuditRow]) -> Iterator[AuditRow]:
        for row in rows:
            self.end = AuditHead(GENESIS.id, row.n, row.hash)
            yield row


def _find_span(session: Session, begin: datetime | None, end: datetime | None, *, head: AuditHead) -> tuple[AuditHead, int]:
    """What a span's rows hang on, and the number of its last; 0 where there are none. Cost: a look for each day, and the rows of two."""
    oldest, newest = _get(session, 1), _get(session, head.n)
    if oldest is None or newest is None:
        return GENESIS, 0
    low, high = oldest.at.toordinal(), max(newest.at, session.now()).toordinal() + 1  # clocks may be ahead, but not by more than a day
    low, high = max(low, begin.toordinal() if begin else low), min(high, end.toordinal() if end else high)
    days = [date.fromordinal(n).isoformat() for n in range(low, high + 1)]
    first = 1 if begin is None else _first_of(session, days, lambda row: row.at >= begin)
    last = head.n if end is None else _first_of(session, days[::-1], lambda row: row.at < end, newest_first=True)
    if first is None or last is None or min(last, head.n) < first:
        return GENESIS, 0
    before = _get(session, first - 1)
    return (AuditHead(GENESIS.id, before.n, before.hash) if before is not None else GENESIS), min(last, head.n)


def _first_of(session: Session, days: Sequence[str], takes: Callable[[AuditRow], bool], *, newest_first: bool = False) -> int | None:
    """The number of the first row of the days that is taken."""
    for day in days:
        after: str | None = None
        while True:
            page = session.records.find(
                AUDIT_ROWS, workspace=session.workspace, where={"day": day}, newest_first=newest_first, after=after, limit=PAGE_ROWS
            )
            found = next((row.n for row in page if takes(row)), None)
            if found is not None:
                return found
            if len(page) < PAGE_ROWS:
                break
            after = page[-1].id
    return None


def _get(session: Session, n: int) -> AuditRow | None:
    return session.records.get(AUDIT_ROWS, workspace=session.workspace, id=f"{n:012d}")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _write_rows(rows: Iterable[AuditRow], file: IO[bytes], *, parquet: bool) -> None:
    if not parquet:
        for row in rows:
            file.write(msgspec.json.encode(row, order="sorted") + b"\n")
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(name, pa.string()) for name in ("actor", "verb", "thing", "outcome", "detail", "previous", "hash")]
    schema = pa.schema([("n", pa.int64()), ("at", pa.timestamp("us", tz="UTC")), *texts])
    with pq.ParquetWriter(file, schema) as writer:
        while page := list(islice(rows, PAGE_ROWS)):
            values = [{name: getattr(row, name) for name in schema.names} for row in page]
            for value in values:
                value["detail"] = msgspec.json.encode(value["detail"], order="sorted").decode()
            writer.write_table(pa.Table.from_pylist(values, schema=schema))


def _read_rows(path: Path) -> Iterator[AuditRow]:
    """The rows of an export; what does not read as one raises IntegrityBroken."""
    decoder = msgspec.json.Decoder(AuditRow)
    try:
        if not _is_parquet(path):
            with path.open("rb") as file:
                yield from (decoder.decode(line) for line in file)
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as found:
            for batch in found.iter_batches(PAGE_ROWS):
                for value in batch.to_pylist():
                    yield msgspec.convert({**value, "detail": msgspec.json.decode(value["detail"])}, AuditRow)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityBroken(f"{path} does not read as rows of the audit: {error}.", hint="get the export again") from error


def _check_rows(path: Path, manifest: AuditManifest) -> None:
    """Raise IntegrityBroken unless the rows are those of the manifest: their bytes, each link, the first and the last.

    What is not what was signed is not given to a reader of Parquet; lines are read for the row at which they break.
    """
    try:
        with path.open("rb") as file:
            signed = hashlib.file_digest(file, "sha256").hexdigest() == manifest.sha256
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", hint="the manifest of an export lies beside its rows") from error
    broken = IntegrityBroken(f"The bytes of {path} are not those that were signed.", hint="get the export again")
    if not signed and _is_parquet(path):
        raise broken
    n, last, first = manifest.first - 1 if manifest.n_rows else 0, manifest.previous, manifest.first - 1 if manifest.n_rows else 0
    for row in _read_rows(path):
        n += 1
        if not is_link(row, n=n, previous=last):
            raise IntegrityBroken(f"{path} breaks at row {n}: it is not the one that was exported.", hint="get the export again", row=n)
        last = row.hash
    if (n - first, last) != (manifest.n_rows, manifest.last_hash):
        raise IntegrityBroken(
            f"{path} holds {n - first} rows; {manifest.n_rows} were signed, or it ends otherwise.", hint="get the export again", row=n
        )
    if not signed:
        raise broken


def _read(path: Path) -> AuditManifest | SignedHead:
    """A manifest or a signed head. Raises NotFound, and InvalidInput for a file that is neither."""
    try:
        with path.open("rb") as file:
            payload = file.read(_MOST_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}.", hint="the manifest of an export lies beside its rows") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error}.", hint="give an export, its manifest or a signed head") from error
    problem: Exception | None = None
    kinds: tuple[type[AuditManifest], type[SignedHead]] = (AuditManifest, SignedHead)
    for kind in kinds:
        try:
            return msgspec.json.decode(payload, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            problem = problem or error
    raise InvalidInput(f"{path} is no manifest of an export and no signed head: {problem}.", hint="its manifest lies beside an export") from problem


def _require_signature(manifest: AuditManifest, path: Path, *, key: str) -> None:
    """Raise IntegrityBroken unless the manifest, and the head in it, are signed by the key."""
    if manifest.format != _FORMAT:
        raise InvalidInput(f"{path} is of the format {manifest.format}; this version reads {_FORMAT}.", hint="read it with a newer Endcap")
    if manifest.key != key or manifest.head.key != key:
        raise IntegrityBroken(
            f"{path} is signed by another key, {manifest.key}, than {key}.", hint="was the key rotated? ask for the home's keys: endcap audit-keys"
        )
    signed = is_signed(msgspec.structs.replace(manifest, signature=""), purpose=PURPOSE, by=key, signature=manifest.signature)
    if not signed or not has_signature(manifest.head) or manifest.head.workspace != manifest.workspace:
        raise IntegrityBroken(f"{path} does not bear the signature of the key {key}.", hint="it was changed since: get the export again")


if __name__ == "__main__":
    raise SystemExit(main())
