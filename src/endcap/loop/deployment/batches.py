"""Batch answers: written once per origin and version, found again by model, delivered as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Answered, Batch, Delivery
from endcap.loop.registry.versions import get_model
from endcap.storage.files import delivering

if TYPE_CHECKING:
    import pyarrow as pa

_LOOK_BACK = 200  # origins answered last, among which the newest is looked for: an old one may have been answered again


@verb("log-predictions", permission=Permission.EDIT)
def log_predictions(session: Session, batches: Sequence[tuple[Batch, Iterable[pa.Table] | None]]) -> list[Batch]:
    """Write the batches of one origin into the prediction log; from then on they are what answers for it.

    Each comes with its answers in parts, which are written as they are taken, or with None where the batch stands in the log already. A part
    holds the batch's keys, ``ts`` (timestamp, local), ``forecast``, ``lower_90``, ``upper_90`` and whatever else the solution gives, each
    key and ``ts`` once. A row's id follows from version, origin, keys and time, so that writing twice changes nothing. Readers see the batches
    of before or all the new ones. One pass over the rows.
    """
    written = [(_write_parts(session, batch, parts), parts is not None) for batch, parts in batches]
    kept = [batch for batch, _ in written]
    if not kept:
        return kept
    answered = Answered(kept[0].answered, kept[0].model, kept[0].moment, tuple(batch.id for batch in kept), session.now())
    detail: dict[str, str | int | float | bool | None] = {
        "version": ", ".join(batch.version for batch in kept),
        "origin": kept[0].moment,
        "n_rows": sum(batch.n_rows for batch in kept),
    }
    replaced: list[Batch] = []
    with session.change("log-predictions", thing=f"model/{kept[0].model}", detail=detail) as change:
        for batch, new in written:
            if not new:
                continue
            found = change.tx.get_versioned(BATCHES, workspace=session.workspace, id=batch.id)
            change.tx.put(BATCHES, workspace=session.workspace, record=batch, expected_version=found[1] if found else 0)
            replaced += [found[0]] if found else []
        standing = change.tx.get_versioned(ANSWERED, workspace=session.workspace, id=answered.id)
        change.tx.put(ANSWERED, workspace=session.workspace, record=answered, expected_version=standing[1] if standing else 0)
    for batch in (*replaced, *(batch for batch, new in written if new)):  # of a run that was killed parts may be left, too
        _forget_parts(session, batch, but=next(b for b in kept if b.id == batch.id))
    return kept


def _write_parts(session: Session, batch: Batch, parts: Iterable[pa.Table] | None) -> Batch:
    if parts is None:
        return batch
    named = msgspec.structs.replace(batch, workspace=session.workspace, id=f"{batch.model}/{batch.moment}/{batch.version}")
    n_rows = n_parts = 0
    for part in parts:
        session.tables.write(PREDICTIONS, partition={**named.partition, "part": f"{n_parts:04d}"}, table=_require_answers(part, named))
        n_rows, n_parts = n_rows + part.num_rows, n_parts + 1
    return msgspec.structs.replace(named, n_rows=n_rows, n_parts=n_parts)


def _forget_parts(session: Session, old: Batch, *, but: Batch) -> None:
    """Take away the parts that a batch no longer has: all of them when it was made from other data."""
    for partition in session.tables.partitions(PREDICTIONS, partition=old.partition):
        if old.partition != but.partition or int(partition["part"]) >= but.n_parts:
            session.tables.delete(PREDICTIONS, partition=partition)


@verb("predictions", permission=Permission.READ)
def deliver_predictions(session: Session, model: str, *, out: Path, origin: str | None = None, utc: bool = False) -> Delivery:
    """Write a model's newest predictions to a file: CSV, or Parquet where its name ends in ``.parquet``.

    Columns: the keys, ``ts`` (start of the interval in the source's local time, no offset), ``forecast``, ``lower_90``, ``upper_90``,
    ``version``, ``predicted_at``; then what else the solution gives,
    such as ``demand``. ``utc`` adds the instants ``ts_utc`` and ``predicted_at_utc``. ``origin`` is the day of an
    older batch (None: the newest). ``out`` is the file, which is replaced whole.
    """
    import pyarrow as pa

    batches = find_batches(session, model, origin=origin)
    tables = [read_batch(session, batch, utc=utc) for batch in batches]
    table = pa.concat_tables(tables, promote_options="default")
    first = next((add_ids(part.slice(0, 1), batch)["prediction_id"][0].as_py() for batch, part in zip(batches, tables, strict=True) if len(part)), "")
    _write_file(table, out)
    versions = ", ".join(batch.version for batch in batches)
    return Delivery(model, versions, batches[0].moment, table.num_rows, str(out), first)


def find_batches(session: Session, model: str, *, origin: str | None = None) -> list[Batch]:
    """The batches that answer for the newest origin, or for the one asked for, the champion's first. Raises NotFound."""
    get_model(session, model)
    if origin is None:
        found = session.records.find(ANSWERED, workspace=session.workspace, where={"model": model}, newest_first=True, limit=_LOOK_BACK)
        answered = max(found, key=lambda a: (a.moment, a.at), default=None)
    else:
        answered = session.records.get(ANSWERED, workspace=session.workspace, id=f"{model}/{origin}")
    if answered is None:
        which = f" from the origin {origin}" if origin is not None else ""
        raise NotFound(f"Model '{model}' has no predictions{which}.", hint=f"make them with: endcap run {model}")
    return [require_batch(session, batch) for batch in answered.batches]


def find_batch(session: Session, model: str, *, origin: str | None = None) -> Batch:
    """The champion's batch of the newest origin, or of the one asked for. Raises NotFound."""
    return find_batches(session, model, origin=origin)[0]


def require_batch(session: Session, batch: str) -> Batch:
    """A batch by its id. Raises NotFound."""
    found = session.records.get(BATCHES, workspace=session.workspace, id=batch)
    if found is None:
        raise NotFound(f"No batch {batch!r} in workspace '{session.workspace}'.")
    return found


def read_batch(session: Session, batch: Batch, *, utc: bool = False) -> pa.Table:
    """A batch as a table in the columns of ``deliver_predictions``, the rows in the order they were written."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = session.tables.read(PREDICTIONS, partition=batch.partition)
    if table.num_rows != batch.n_rows:  # parts that it no longer has were not taken away yet
        parts = [{**batch.partition, "part": f"{n:04d}"} for n in range(batch.n_parts)]
        table = pa.concat_tables(session.tables.read(PREDICTIONS, partition=part) for part in parts)
    table = table.append_column("version", pa.repeat(pa.scalar(batch.version), table.num_rows))
    stamps = pa.repeat(pa.scalar(batch.predicted_at, pa.timestamp("us", tz=batch.zone)), table.num_rows)
    table = table.append_column("predicted_at", pc.local_timestamp(stamps))
    if utc:
        instants = pc.assume_timezone(table["ts"], batch.zone, ambiguous="earliest", nonexistent="latest")
        table = table.append_column("ts_utc", pc.cast(instants, pa.timestamp("us", tz="UTC")))
        table = table.append_column("predicted_at_utc", pc.cast(stamps, pa.timestamp("us", tz="UTC")))
    first = [*batch.keys, "ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]
    return table.select([*first, *(name for name in table.column_names if name not in first)])


def add_ids(rows: pa.Table, batch: Batch) -> pa.Table:
    """Rows of a batch with their ids in the column ``prediction_id``: version, origin, keys and time. They are derived, never stored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lead = pa.scalar(f"{batch.version}~{batch.moment}")
    parts = [pc.cast(rows[key], pa.string()) for key in batch.keys] + [pc.strftime(rows["ts"], format="%Y-%m-%dT%H:%M")]
    # Neither the mark between parts nor the one for a null may come from a key's own text, or two rows could share an id.
    escaped = [pc.replace_substring(pc.replace_substring(part, "%", "%25"), "~", "%7E") for part in parts]
    ids = pc.binary_join_element_wise(lead, *escaped, "~", null_handling="replace", null_replacement="%null")
    return rows.append_column("prediction_id", ids)


def _require_answers(answers: pa.Table, batch: Batch) -> pa.Table:
    """The answers with their columns in order. Raises InvalidInput for a missing column or several rows of the same keys and time."""
    leading = [*batch.keys, "ts", "forecast", "lower_90", "upper_90"]
    missing = set(leading) - set(answers.column_names)
    if missing:
        raise InvalidInput(f"Answers for '{batch.model}' lack the columns {sorted(missing)}. Columns: {answers.column_names}.")
    answers = answers.select([*leading, *(name for name in answers.column_names if name not in leading)])
    if answers.group_by([*batch.keys, "ts"]).aggregate([]).num_rows != answers.num_rows:
        raise InvalidInput(f"Answers for '{batch.model}' hold several rows of the same keys and ts.", hint="one row per series and time")
    return answers


def _write_file(table: pa.Table, out: Path) -> None:
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    hint = "give --out a file, such as out/predictions.csv, in a folder that you may write to"
    with delivering(out, what=str(out), hint=hint, n_bytes=table.nbytes) as file:
        if out.suffix == ".parquet":
            pq.write_table(table, file)
        else:
            pacsv.write_csv(_plain_times(table), file)


def _plain_times(table: pa.Table) -> pa.Table:
    """Times as text to the second, without an offset for local ones and with Z for instants."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            whole = pc.cast(pc.floor_temporal(table[field.name], unit="second"), pa.timestamp("s", tz=field.type.tz))
            text = pc.strftime(whole, format="%Y-%m-%dT%H:%M:%SZ" if field.type.tz else "%Y-%m-%d %H:%M:%S")
            table = table.set_column(i, field.name, text)
    return table
