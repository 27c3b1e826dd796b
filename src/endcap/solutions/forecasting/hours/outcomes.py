"""Outcomes of hourly forecasts: hours that came or changed since the last look, scored against the forecast of them that was made last.

Cells are compared piece by piece between two states, so the cost grows with what changed. What is kept are sums by member and hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, NotFound
from endcap.core.zones import parse_moment
from endcap.governance.sessions import Session
from endcap.loop.deployment.batches import require_batch
from endcap.loop.deployment.records import ANSWERED, PREDICTIONS, Answered, Batch
from endcap.loop.features.panels.hour_panels import HOURS
from endcap.loop.features.panels.hour_store import HourState, ShardState, read_series, read_state
from endcap.loop.features.panels.packing import unpack_arrays
from endcap.loop.monitoring.member_outcomes import keep_outcome_sums
from endcap.storage.ports import BlobStore, Kind

if TYPE_CHECKING:
    import pyarrow as pa

    NameMembers = Callable[[dict[str, list[str]]], list[str]]

_LOOK_BACK = 1000  # origins answered last: six weeks of hours


class SeenState(msgspec.Struct, frozen=True):
    """Up to which state a model's outcomes were scored, and when: answers made since are scored for all their hours."""

    model: str
    state: str
    at: datetime


SEEN_STATES = Kind("hour-seen", SeenState, "model", of=lambda seen: (f"model/{seen.model}",))


def join_hours(session: Session, model: str, digest: str, state: HourState, *, members: NameMembers) -> int:
    """Score the hours that came or changed since the state that was scored last. Returns how many cells have an outcome among them.

    Of several forecasts of an hour the one made last before it counts; hours whose forecast was made anew are scored again. Hours before the
    first forecast are passed over. Scoring twice gives the same. Cost: the pieces of days that changed, and for each such hour a look at one
    batch.
    """
    answered = session.records.find(ANSWERED, workspace=session.workspace, where={"model": model}, newest_first=True, limit=_LOOK_BACK)
    seen = session.records.get(SEEN_STATES, workspace=session.workspace, id=model)
    if not answered or (seen is not None and seen.state == digest and all(a.at < seen.at for a in answered)):
        return 0
    zero = datetime.combine(state.start, datetime.min.time())
    origins = sorted(((int((parse_moment(a.moment) - zero) // timedelta(hours=1)), a) for a in answered), key=lambda pair: (pair[0], pair[1].at))
    first = origins[0][0]
    try:
        ticks = _find_changed(session.blobs, None if seen is None else read_state(session.blobs, seen.state), state, first=first)
    except (NotFound, IntegrityBroken):
        ticks = _find_changed(session.blobs, None, state, first=first)  # what was scored is gone: everything is scored anew
    if seen is not None:
        ticks = np.union1d(ticks, _find_reanswered(origins, since=seen.at, n_ticks=state.n_ticks))
    n, now = 0, session.now()
    for answer, own in _group_by_answer(origins, ticks):
        n += _score(session, answer, own, state, zero=zero, members=members)
    with session.records.transact() as tx:
        found = tx.get_versioned(SEEN_STATES, workspace=session.workspace, id=model)
        tx.put(SEEN_STATES, workspace=session.workspace, record=SeenState(model, digest, now), expected_version=found[1] if found else 0)
    return n


def _find_reanswered(origins: list[tuple[int, Answered]], *, since: datetime, n_ticks: int) -> NDArray[np.int64]:
    """The ticks with data for which an answer made since then is the last before them."""
    ends = [*(tick for tick, _ in origins[1:]), n_ticks]
    found = [np.arange(max(0, tick), min(end, n_ticks)) for (tick, answer), end in zip(origins, ends, strict=True) if answer.at >= since]
    return np.concatenate([np.empty(0, dtype=np.int64), *found]).astype(np.int64)


def _find_changed(blobs: BlobStore, before: HourState | None, state: HourState, *, first: int) -> NDArray[np.int64]:
    """The ticks from ``first`` on of which some cell is new, gone, or another than before."""
    changed: set[int] = set()
    pairs, shift = _pair_shards(blobs, before, state), 0 if before is None else (state.start - before.start).days
    for old, new in pairs:
        n_days = max(0 if new is None else len(new.days), 0 if old is None else len(old.days) - shift)
        for day in range(max(0, first // HOURS), n_days):
            was, now = _find_day(old, day + shift), _find_day(new, day)
            if was != now:
                changed |= set((np.flatnonzero(_differ(blobs, was, now)) + day * HOURS).tolist())
    return np.array(sorted(tick for tick in changed if tick >= first), dtype=np.int64)


def _pair_shards(blobs: BlobStore, before: HourState | None, state: HourState) -> list[tuple[ShardState | None, ShardState | None]]:
    """Each shard beside what it was before: one whose series it still begins with. Where series stand otherwise, all of both are listed apart."""
    if before is None:
        return [(None, shard) for shard in state.shards]
    for was, now in zip(before.shards, state.shards, strict=False):
        if was.series != now.series:
            old, new = read_series(blobs, was)[0], read_series(blobs, now)[0]
            if any(new[name][: len(values)] != values for name, values in old.items()):
                return [*((None, shard) for shard in state.shards), *((shard, None) for shard in before.shards)]
    return list(zip_longest(before.shards, state.shards))


def _find_day(shard: ShardState | None, day: int) -> str:
    return shard.days[day] if shard is not None and 0 <= day < len(shard.days) else ""


def _differ(blobs: BlobStore, was: str, now: str) -> NDArray[np.bool_]:
    """The hours of a day in which some cell is another; series that came since stand at the end."""
    then, new = (unpack_arrays(blobs.get(digest)) if digest else None for digest in (was, now))
    if then is None or new is None:
        there: NDArray[np.bool_] = np.isfinite((then or new or {})["sold"]).any(axis=0)
        return there
    n = then["sold"].shape[0]
    differs = np.isfinite(new["sold"])
    same = (new["sold"][:n] == then["sold"]) | (np.isnan(new["sold"][:n]) & np.isnan(then["sold"]))
    if "unseen" in new and "unseen" in then:
        same &= new["unseen"][:n] == then["unseen"]
    differs[:n] = ~same
    found: NDArray[np.bool_] = differs.any(axis=0)
    return found


def _group_by_answer(origins: list[tuple[int, Answered]], ticks: NDArray[np.int64]) -> Iterator[tuple[Answered, NDArray[np.int64]]]:
    """The ticks by who answered last before them."""
    starts = np.array([tick for tick, _ in origins])
    newest = np.searchsorted(starts, ticks, side="right") - 1
    for place in np.unique(newest[newest >= 0]).tolist():
        yield origins[place][1], ticks[newest == place]


def _score(session: Session, answered: Answered, ticks: NDArray[np.int64], state: HourState, *, zero: datetime, members: NameMembers) -> int:
    import pyarrow as pa

    n = 0
    for identity in answered.batches:
        batch = require_batch(session, identity)
        times = pa.array([zero + timedelta(hours=int(tick)) for tick in ticks], pa.timestamp("us"))
        table = _read_hours(session, batch, times)
        if table is None:
            continue
        sums = _sum_members(session.blobs, state, batch, table, ticks, zero=zero, members=members)
        keep_outcome_sums(session, batch, sums, times=times)
        n += int(sum(sums["n"].to_pylist()))
    return n


def _read_hours(session: Session, batch: Batch, times: pa.Array) -> pa.Table | None:
    import pyarrow.compute as pc

    dataset = session.tables.scan(PREDICTIONS, partition=batch.partition)
    table = dataset.to_table(columns=[*batch.keys, "ts", "forecast"], filter=pc.field("ts").isin(times))
    return table if table.num_rows else None


def _sum_members(
    blobs: BlobStore, state: HourState, batch: Batch, table: pa.Table, ticks: NDArray[np.int64], *, zero: datetime, members: NameMembers
) -> pa.Table:
    """Sums by member and hour of what was forecast against what was in demand."""
    import pyarrow as pa
    import pyarrow.compute as pc

    actuals = []
    for shard in state.shards:
        keys, _ = read_series(blobs, shard)
        named = pa.array(members(keys), pa.string())
        columns = {name: pa.array(values, pa.string()).cast(table.schema.field(name).type) for name, values in keys.items()}
        for day in np.unique(ticks // HOURS).tolist():
            if day >= len(shard.days) or not shard.days[day]:
                continue
            piece = unpack_arrays(blobs.get(shard.days[day]))
            for tick in ticks[ticks // HOURS == day].tolist():
                values = piece["sold"][:, tick % HOURS].astype(np.float64)
                values[values < 0] = np.nan
                if "unseen" in piece:
                    values[piece["unseen"][:, tick % HOURS]] = np.nan
                kept = pa.array(np.isfinite(values))
                stamp = pa.repeat(pa.scalar(zero + timedelta(hours=tick), pa.timestamp("us")), len(values))
                rows = pa.table({**columns, "ts": stamp, "member": named, "actual": pa.array(values)})
                actuals.append(rows.filter(kept))
    if not actuals:
        return _no_sums()
    joined = table.join(pa.concat_tables(actuals), keys=[*batch.keys, "ts"], join_type="inner")
    error = pc.subtract(pc.cast(joined["forecast"], pa.float64()), joined["actual"])
    wide = pa.table(
        {
            "member": joined["member"],
            "ts": joined["ts"],
            "actual": pc.abs(joined["actual"]),
            "absolute": pc.abs(error),
            "squared": pc.multiply(error, error),
            "error": error,
        }
    )
    found = wide.group_by(["member", "ts"]).aggregate([("error", "count"), *((name, "sum") for name in ("actual", "absolute", "squared", "error"))])
    return found.select(["member", "ts", "error_count", "actual_sum", "absolute_sum", "squared_sum", "error_sum"]).rename_columns(
        ["member", "ts", "n", "actual", "absolute", "squared", "error"]
    )


def _no_sums() -> pa.Table:
    import pyarrow as pa

    types = {"member": pa.string(), "ts": pa.timestamp("us"), "n": pa.int64()} | dict.fromkeys(
        ("actual", "absolute", "squared", "error"), pa.float64()
    )
    return pa.table({name: pa.array([], kind) for name, kind in types.items()})
