"""Outcomes of delivered forecasts by member and time: each value by the newest forecast of it, summed over what the member holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from endcap.governance.sessions import Session
from endcap.loop.deployment.records import Batch
from endcap.loop.monitoring.records import OUTCOME_SUMS, OUTCOMES
from endcap.loop.registry.records import MODELS

if TYPE_CHECKING:
    import pyarrow as pa


class _Members(msgspec.Struct):
    """Of a model's definition: the keys that name a member; empty: all of its keys."""

    members: tuple[str, ...] = ()


def member_keys(session: Session, model: str, *, keys: Sequence[str]) -> tuple[str, ...]:
    """The columns that name a member of a model: those that its definition says, else all of its ``keys``."""
    found = session.records.get(MODELS, workspace=session.workspace, id=model)
    return (msgspec.json.decode(found.definition, type=_Members).members if found else ()) or tuple(keys)


def find_outcome_batches(session: Session, batches: Sequence[Batch], *, n_days: int) -> list[Batch]:
    """Of some batches those that can hold the newest ``n_days`` days of outcomes: from that many days before the first day of the newest batch
    that has any. None that has: an empty list. Cost: looking for the newest, and one pass over the batches.
    """
    newest = sorted(batches, key=_rank, reverse=True)
    latest = next(
        (batch for batch in newest if any(session.tables.partitions(name, partition=batch.partition) for name in (OUTCOME_SUMS, OUTCOMES))), None
    )
    return (
        []
        if latest is None
        else [batch for batch in batches if batch.last >= latest.first - timedelta(days=n_days) and _rank(batch) <= _rank(latest)]
    )


def _rank(batch: Batch) -> tuple[str, datetime]:
    return batch.moment, batch.predicted_at


def read_member_outcomes(session: Session, model: str, batches: Sequence[Batch]) -> pa.Table | None:
    """The outcomes of some batches of a model, a row per member and time; None when there are none.

    Columns: ``member``, ``ts``, ``version`` (whose forecast it was), ``n`` values, ``actual`` (the sum of their sizes), ``absolute``, ``squared`` and
    ``error`` (sums of absolute, squared and signed errors, forecast less actual). Of several forecasts of a member's time the one of the newest
    origin counts. A batch is summed as it is read, so that memory grows with members and times and not with series.
    """
    import pyarrow as pa

    parts = []
    for rank, batch in enumerate(sorted(batches, key=_rank)):
        if session.tables.partitions(OUTCOME_SUMS, partition=batch.partition):
            summed = session.tables.read(OUTCOME_SUMS, partition=batch.partition)
        elif session.tables.partitions(OUTCOMES, partition=batch.partition):
            keys = member_keys(session, model, keys=batch.keys)
            rows = session.tables.read(OUTCOMES, partition=batch.partition, columns=[*keys, "ts", "forecast", "actual"])
            summed = _sum_members(rows, keys)
        else:
            continue
        n = summed.num_rows
        summed = summed.append_column("version", pa.array([batch.version], pa.string()).take(pa.array([0] * n, pa.int32())))
        parts.append(summed.append_column("rank", pa.array([rank], pa.int32()).take(pa.array([0] * n, pa.int32()))))
    if not parts:
        return None
    return _keep_newest(pa.concat_tables(parts))


def keep_outcome_sums(session: Session, batch: Batch, sums: pa.Table, *, times: pa.Array) -> None:
    """Keep the sums of some ``times`` of a batch in the place of those that stood for them; a time without a sum has none any more.

    ``sums`` has a row per member and time with the columns of ``read_member_outcomes`` but ``version``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    standing = bool(session.tables.partitions(OUTCOME_SUMS, partition=batch.partition))
    if standing:
        old = session.tables.read(OUTCOME_SUMS, partition=batch.partition)
        sums = pa.concat_tables([old.filter(pc.invert(pc.is_in(old["ts"], times))), sums])
    if standing or sums.num_rows:
        session.tables.write(OUTCOME_SUMS, partition=batch.partition, table=sums)


def name_members(rows: pa.Table, keys: Sequence[str]) -> pa.ChunkedArray:
    r"""The member of each row in one text: a single key as it stands, several joined by '/', with a backslash before their own (as panels do)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [pc.cast(rows[key], pa.string()) for key in keys]
    if len(columns) == 1:
        return columns[0]
    escaped = [pc.replace_substring(pc.replace_substring(column, "\\", "\\\\"), "/", "\\/") for column in columns]
    return pc.binary_join_element_wise(*escaped, "/")


def _sum_members(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    actual, forecast = pc.cast(rows["actual"], pa.float64()), pc.cast(rows["forecast"], pa.float64())
    error = pc.subtract(forecast, actual)
    table = pa.table(
        {
            "member": name_members(rows, keys),
            "ts": rows["ts"],
            "actual": pc.abs(actual),
            "absolute": pc.abs(error),
            "squared": pc.multiply(error, error),
            "error": error,
        }
    ).filter(pc.fill_null(pc.is_finite(error), False))
    sums = table.group_by(["member", "ts"]).aggregate([("error", "count"), *((name, "sum") for name in ("actual", "absolute", "squared", "error"))])
    return sums.select(["member", "ts", "error_count", "actual_sum", "absolute_sum", "squared_sum", "error_sum"]).rename_columns(
        ["member", "ts", "n", "actual", "absolute", "squared", "error"]
    )


def _keep_newest(rows: pa.Table) -> pa.Table:
    """Of rows of one member and time the one of the greatest rank, without the ranks."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    members = rows["member"].combine_chunks().dictionary_encode()
    codes = np.asarray(members.indices, dtype=np.int64)
    times, places = np.unique(np.asarray(pc.cast(rows["ts"], pa.timestamp("us")).to_numpy()).astype(np.int64), return_inverse=True)
    cells = codes * times.size + places
    order = np.lexsort((rows["rank"].to_numpy(), cells))
    last = np.append(cells[order][1:] != cells[order][:-1], True) if order.size else np.zeros(0, np.bool_)
    return rows.take(pa.array(np.sort(order[last]))).drop_columns(["rank"])
