"""Deliveries: a model's newest predictions as files for somebody: all in one, or one for each store with a manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from endcap.core.errors import InvalidInput, suggest, unknown
from endcap.core.permissions import Permission
from endcap.governance.privacy.rights import require_personal
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.batches import add_ids, find_batches, read_batch
from endcap.loop.deployment.records import Batch, Delivery
from endcap.storage.files import delivering, replacing_many

if TYPE_CHECKING:
    import pyarrow as pa

    Cut = tuple[dict[str, str | int | None], pa.Table]

MANIFEST = "manifest.json"
FORMATS = ("parquet", "csv")
_MOST_NAME_BYTES = 200
_UNFINISHED = ".unfinished"
_AT_ONCE = 64  # files that are in memory together
_HINT = "with --by, give --out a folder that you may write to"


class DeliveredFile(msgspec.Struct, frozen=True):
    """One file of a delivery: whose predictions it holds, and its bytes by their digest."""

    name: str
    keys: dict[str, str | int | None]
    n_rows: int
    n_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery by key consists of. It is written last: while its digests fit the files, the delivery is whole."""

    model: str
    origin: str
    versions: tuple[str, ...]
    predicted_at: str
    zone: str
    by: tuple[str, ...]
    columns: tuple[str, ...]
    n_rows: int
    files: tuple[DeliveredFile, ...]


@verb("predictions", permission=Permission.READ)
def deliver_predictions(
    session: Session,
    model: str,
    *,
    out: Path,
    origin: str | None = None,
    by: Sequence[str] | None = None,
    format: str = "parquet",  # noqa: A002 - the word users type
    utc: bool = False,
) -> Delivery:
    """Write a model's newest predictions to a file: CSV, or Parquet where its name ends in ``.parquet``; or to a file for each store.

    Columns: the keys, ``ts`` (start of the interval in the source's local time, no offset), ``forecast``, ``lower_90``, ``upper_90``,
    ``version``, ``predicted_at``; then what else the solution gives, such as ``demand``. ``utc`` adds the instants ``ts_utc`` and
    ``predicted_at_utc``. ``origin`` is the day or hour of an older batch (None: the newest). ``out`` is the file, which is replaced whole.
    ``by`` names keys: then ``out`` is a folder with one file for each of their values (``store_id=17.parquet``) in the ``format`` parquet or
    csv, and a ``manifest.json``, written last, with every file's rows and SHA-256; files of the delivery before that are not in this one are
    taken away. All files are on the disk before the first takes its place, so that a full disk leaves the old delivery whole; after a crash
    each file is an old or a new one whole, and while the manifest's digests fit, they are of one delivery. None: one file.
    """
    import pyarrow as pa

    from endcap.governance.privacy.sealing import read_marks

    batches = find_batches(session, model, origin=origin)
    tables = [read_batch(session, batch, utc=utc) for batch in batches]
    require_personal(session, {mark.table for part in tables for mark in read_marks(part.schema).values()}, verb="predictions")
    table = pa.concat_tables(tables, promote_options="default")
    first = next((add_ids(part.slice(0, 1), batch)["prediction_id"][0].as_py() for batch, part in zip(batches, tables, strict=True) if len(part)), "")
    n_files = 1
    if by is None:
        _write_file(table, out)
    else:
        n_files = _write_folder(table, out, batches, by=tuple(by), ending=format)
    versions = ", ".join(batch.version for batch in batches)
    return Delivery(model, versions, batches[0].moment, table.num_rows, str(out), first, n_files)


def _write_folder(table: pa.Table, out: Path, batches: Sequence[Batch], *, by: tuple[str, ...], ending: str) -> int:
    if ending not in FORMATS:
        raise InvalidInput(f"{ending!r} is not a format of deliveries. Formats: {list(FORMATS)}.", hint=suggest(ending, FORMATS))
    for name in by:
        if name not in batches[0].keys:
            where = f"Model '{batches[0].model}'"
            raise InvalidInput(unknown("key", name, batches[0].keys, where=where), hint=suggest(name, batches[0].keys))
    if out.is_file():
        raise InvalidInput(f"{out} is a file.", hint="with --by, give --out a folder")
    before = _read_manifest(out / MANIFEST)
    files: list[DeliveredFile] = []
    try:
        with replacing_many(out, unfinished=out / _UNFINISHED) as put:
            for cut in _batch(_cut(table, by), n=_AT_ONCE):
                payloads = [(_name_file(keys, ending=ending), _encode(rows, ending=ending)) for keys, rows in cut]
                put(payloads)
                files += [
                    DeliveredFile(name, keys, rows.num_rows, len(payload), hashlib.sha256(payload).hexdigest())
                    for (keys, rows), (name, payload) in zip(cut, payloads, strict=True)
                ]
    except OSError as error:
        raise InvalidInput(f"The folder {out} cannot be written: {error}.", hint=_HINT) from error
    manifest = Manifest(
        model=batches[0].model,
        origin=batches[0].moment,
        versions=tuple(batch.version for batch in batches),
        predicted_at=max(batch.predicted_at for batch in batches).isoformat(),
        zone=batches[0].zone,
        by=by,
        columns=tuple(table.column_names),
        n_rows=table.num_rows,
        files=tuple(files),
    )
    _deliver(out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    _take_away(out, {file.name for file in (before.files if before else ())} - {file.name for file in files})
    return len(files)


def _take_away(out: Path, names: Iterable[str]) -> None:
    """Take files of the delivery before out of its folder; what a manifest of somebody else's making names elsewhere is passed over."""
    for name in names:
        if Path(name).name == name and name.isprintable() and name != MANIFEST and not (out / name).is_dir():
            (out / name).unlink(missing_ok=True)


def _read_manifest(path: Path) -> Manifest | None:
    """The manifest of the delivery before; None where there is none that reads as one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def _batch(cuts: Iterator[Cut], *, n: int) -> Iterator[list[Cut]]:
    while taken := list(islice(cuts, n)):
        yield taken


def _cut(table: pa.Table, by: tuple[str, ...]) -> Iterator[Cut]:
    """The rows of each value of the keys, in the order in which they stand. One sort of the row numbers, then slices."""
    import numpy as np
    import pyarrow as pa

    if table.num_rows == 0:
        return
    table = table.combine_chunks()
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for name in by:
        column = table[name].combine_chunks().dictionary_encode()
        own = np.asarray(column.indices.fill_null(len(column.dictionary)), dtype=np.int64)
        codes = np.unique(codes * (len(column.dictionary) + 1) + own, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    table, codes = table.take(pa.array(order)), codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), table.num_rows], strict=True):
        rows = table.slice(start, end - start)
        yield {name: rows[name][0].as_py() for name in by}, rows


def _name_file(keys: dict[str, str | int | None], *, ending: str) -> str:
    """``store_id=17.parquet``; what no file name may hold is escaped as in an address, a null is ``%null``, and a name too long ends in a hash."""
    parts = [f"{_escape(name)}={'%null' if value is None else _escape(str(value))}" for name, value in keys.items()]
    name = ",".join(parts)
    if len(name) > _MOST_NAME_BYTES:
        name = f"{name[: _MOST_NAME_BYTES - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.{ending}"


def _escape(text: str) -> str:
    return quote(text, safe="").replace("~", "%7E")  # what marks a shortened name stands in no other


def _write_file(table: pa.Table, out: Path) -> None:
    hint = "give --out a file, such as out/predictions.csv, in a folder that you may write to"
    with delivering(out, what=str(out), hint=hint, n_bytes=table.nbytes) as file:
        file.write(_encode(table, ending="parquet" if out.suffix == ".parquet" else "csv"))


def _deliver(path: Path, payload: bytes) -> None:
    with delivering(path, what=str(path), hint=_HINT, n_bytes=len(payload)) as file:
        file.write(payload)


def _encode(table: pa.Table, *, ending: str) -> bytes:
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    if ending == "parquet":
        pq.write_table(table, sink)
    else:
        pacsv.write_csv(_plain_times(table), sink)
    return sink.getvalue()


def _plain_times(table: pa.Table) -> pa.Table:
    """Times as text to the second, without an offset for local ones and with Z for instants. Each distinct time is written once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            times = table.column(i).combine_chunks().dictionary_encode()
            whole = pc.cast(pc.floor_temporal(times.dictionary, unit="second"), pa.timestamp("s", tz=field.type.tz))
            text = pc.strftime(whole, format="%Y-%m-%dT%H:%M:%SZ" if field.type.tz else "%Y-%m-%d %H:%M:%S")
            table = table.set_column(i, field.name, text.take(times.indices))
    return table
