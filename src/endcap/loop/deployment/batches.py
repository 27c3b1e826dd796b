"""Batch answers: written once per origin and version, found again by model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from endcap.core.errors import InvalidInput, NotFound
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import ANSWERED, BATCHES, PREDICTIONS, Answered, Batch
from endcap.loop.registry.versions import get_model

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
    for batch, _ in batches:
        require_right(session, f"model/{batch.model}", Permission.EDIT, verb="log-predictions")
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
    for batch in replaced:
        if all(batch.partition != standing.partition for standing in kept):
            for partition in session.tables.partitions(PREDICTIONS, partition=batch.partition):
                session.tables.delete(PREDICTIONS, partition=partition)
    return kept


def _write_parts(session: Session, batch: Batch, parts: Iterable[pa.Table] | None) -> Batch:
    if parts is None:
        return batch
    named = msgspec.structs.replace(batch, workspace=session.workspace, id=f"{batch.model}/{batch.moment}/{batch.version}")
    n_rows = n_parts = 0
    for part in parts:
        session.tables.write(PREDICTIONS, partition={**named.partition, "part": f"{n_parts:04d}"}, table=_require_answers(part, named))
        n_rows, n_parts = n_rows + part.num_rows, n_parts + 1
    for partition in session.tables.partitions(PREDICTIONS, partition=named.partition):
        if int(partition["part"]) >= n_parts:  # a run that was killed had cut its answers into more parts
            session.tables.delete(PREDICTIONS, partition=partition)
    return msgspec.structs.replace(named, n_rows=n_rows, n_parts=n_parts)


def sweep_log(session: Session, model: str) -> int:
    """Remove rows of a model that belong to no batch: what a run had written when it was cut short, and no later one wrote again since the world
    went on. Returns how many parts. Cost: a look at all parts of the model, so it is done after such a run alone.
    """
    named = {tuple(batch.partition.items()) for batch in session.records.find(BATCHES, workspace=session.workspace, where={"model": model})}
    n = 0
    for partition in session.tables.partitions(PREDICTIONS, partition={"workspace": session.workspace, "model": model}):
        if tuple((name, partition[name]) for name in ("workspace", "model", "origin", "version", "data")) not in named:
            session.tables.delete(PREDICTIONS, partition=partition)
            n += 1
    return n


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
    """A batch as a table in the columns of a delivery, the rows in the order they were written."""
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
    if not _is_unique(answers, batch.keys):
        raise InvalidInput(f"Answers for '{batch.model}' hold several rows of the same keys and ts.", hint="one row per series and time")
    return answers


def _is_unique(answers: pa.Table, keys: Sequence[str]) -> bool:
    """Whether no two rows share keys and ts. Where rows come series by series, times ascending, only the first of each series is compared with
    others, which takes a tenth of the time.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = answers.select([*keys, "ts"]).combine_chunks()
    if table.num_rows > 1 and not any(column.null_count for column in table.columns):
        starts = np.ones(table.num_rows, dtype=np.bool_)
        starts[1:] = np.any([pc.not_equal(table[key][1:], table[key][:-1]) for key in keys], axis=0)
        later = np.asarray(pc.greater(table["ts"][1:], table["ts"][:-1]))
        if (starts[1:] | later).all():
            firsts = table.select(list(keys)).take(pa.array(np.flatnonzero(starts)))
            if firsts.group_by(list(keys)).aggregate([]).num_rows == firsts.num_rows:
                return True
    return bool(table.group_by([*keys, "ts"]).aggregate([]).num_rows == table.num_rows)
