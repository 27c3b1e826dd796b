"""Batch answers: written once per origin and version, found again by model, delivered as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch, Delivery
from endcap.loop.registry.versions import get_model
from endcap.storage.files import delivering

if TYPE_CHECKING:
    import pyarrow as pa


@verb("log-predictions", permission=Permission.EDIT)
def log_predictions(session: Session, batch: Batch, answers: pa.Table) -> Batch:
    """Write a batch of answers into the prediction log.

    ``answers`` holds the batch's keys, ``ts`` (timestamp, local), ``forecast``, ``lower_90``, ``upper_90`` and whatever else the
    solution gives. Each row gets an id derived from version, origin, keys and time, so that writing twice changes nothing; a batch of the
    same version and origin is replaced whole. One pass over the rows.
    """
    batch = msgspec.structs.replace(batch, workspace=session.workspace)
    table = _with_ids(answers, batch)
    session.tables.write(PREDICTIONS, partition=batch.partition, table=table)
    kept = msgspec.structs.replace(batch, id=f"{batch.model}/{batch.origin.isoformat()}/{batch.version}", n_rows=table.num_rows)
    detail = {"version": batch.version, "origin": batch.origin.isoformat(), "n_rows": table.num_rows}
    with session.change("log-predictions", thing=f"model/{batch.model}", detail=detail) as change:
        found = change.tx.get_versioned(BATCHES, workspace=session.workspace, id=kept.id)
        change.tx.put(BATCHES, workspace=session.workspace, record=kept, expected_version=found[1] if found else 0)
    return kept


@verb("predictions", permission=Permission.READ)
def deliver_predictions(session: Session, model: str, *, out: Path, origin: str | None = None, utc: bool = False) -> Delivery:
    """Write a model's newest predictions to a file: CSV, or Parquet where its name ends in ``.parquet``.

    Columns: the keys, ``ts`` (start of the interval in the source's local time, no offset), ``forecast``, ``lower_90``, ``upper_90``,
    ``version``, ``predicted_at``; then what else the solution gives,
    such as ``demand``. ``utc`` adds the instants ``ts_utc`` and ``predicted_at_utc``. ``origin`` is the day of an
    older batch (None: the newest). ``out`` is the file, which is replaced whole.
    """
    batch = find_batch(session, model, origin=origin)
    table = read_batch(session, batch, utc=utc)
    ids = table["prediction_id"]
    _write_file(table.drop_columns(["prediction_id"]), out)
    return Delivery(batch.model, batch.version, batch.origin, table.num_rows, str(out), ids[0].as_py() if len(ids) else "")


def find_batch(session: Session, model: str, *, origin: str | None = None) -> Batch:
    """The batch of the newest origin, or of the one asked for. Raises NotFound."""
    get_model(session, model)
    batches = session.records.find(BATCHES, workspace=session.workspace, where={"model": model}, newest_first=True)
    if origin is not None:
        batches = [batch for batch in batches if batch.origin.isoformat() == origin]
    if not batches:
        which = f" from the origin {origin}" if origin else ""
        raise NotFound(f"Model '{model}' has no predictions{which}.", hint=f"make them with: endcap run {model}")
    return max(batches, key=lambda batch: (batch.origin, batch.predicted_at))


def read_batch(session: Session, batch: Batch, *, utc: bool = False) -> pa.Table:
    """A batch as a table in the columns of ``deliver_predictions`` and ``prediction_id``, the rows in the order they were written."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = session.tables.read(PREDICTIONS, partition=batch.partition)
    local_now = pa.scalar(batch.predicted_at, pa.timestamp("us", tz="UTC"))
    table = table.append_column("version", pa.array([batch.version] * table.num_rows, pa.string()))
    stamps = pa.array([local_now.as_py()] * table.num_rows, pa.timestamp("us", tz=batch.zone))
    table = table.append_column("predicted_at", pc.local_timestamp(stamps))
    if utc:
        instants = pc.assume_timezone(table["ts"], batch.zone, ambiguous="earliest", nonexistent="latest")
        table = table.append_column("ts_utc", pc.cast(instants, pa.timestamp("us", tz="UTC")))
        table = table.append_column("predicted_at_utc", pc.cast(stamps, pa.timestamp("us", tz="UTC")))
    first = [*batch.keys, "ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]
    return table.select([*first, *(name for name in table.column_names if name not in first)])


def _with_ids(answers: pa.Table, batch: Batch) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    leading = [*batch.keys, "ts", "forecast", "lower_90", "upper_90"]
    missing = set(leading) - set(answers.column_names)
    if missing:
        raise InvalidInput(f"Answers for '{batch.model}' lack the columns {sorted(missing)}. Columns: {answers.column_names}.")
    answers = answers.select([*leading, *(name for name in answers.column_names if name not in leading)])
    lead = pa.scalar(f"{batch.version}~{batch.origin.isoformat()}")
    parts = [pc.cast(answers[key], pa.string()) for key in batch.keys] + [pc.strftime(answers["ts"], format="%Y-%m-%dT%H:%M")]
    # Neither the mark between parts nor the one for a null may come from a key's own text, or two rows could share an id.
    escaped = [pc.replace_substring(pc.replace_substring(part, "%", "%25"), "~", "%7E") for part in parts]
    ids = pc.binary_join_element_wise(lead, *escaped, "~", null_handling="replace", null_replacement="%null")
    if pc.count_distinct(ids).as_py() != answers.num_rows:
        raise InvalidInput(f"Answers for '{batch.model}' hold several rows of the same keys and ts.", hint="one row per series and time")
    return answers.append_column("prediction_id", ids)


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
