"""Hour panels at rest: shards of series, a piece of bytes for each local day, so that a new hour rewrites one small piece of each shard.

A *state* names its pieces by digest and is itself named by the digest of its JSON: equal digests, equal cells. A state is never changed;
the next one shares all pieces that did not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken
from endcap.loop.features.panels.day_panels import Flags, Floats, Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel, HourRevisions
from endcap.loop.features.panels.packing import pack_arrays, unpack_arrays
from endcap.storage.ports import Kind

if TYPE_CHECKING:
    from endcap.storage.ports import BlobStore

_NO_DAY = ""
_REVISED = ("series", "ticks", "arrivals", "values")
_AT_ONCE = 512  # series whose weeks of hours fit in a processor's cache


class ShardState(msgspec.Struct, frozen=True, kw_only=True):
    """The pieces of one shard by digest: who its series are, a piece for each day ('' where the day has no row), its facts by day."""

    n_series: int
    series: str
    days: tuple[str, ...]
    facts: str
    revisions: str = ""


class HourState(msgspec.Struct, frozen=True, kw_only=True):
    """All that is held of an hourly model's tables. ``n_ticks`` is one more than the last tick with a row.

    ``labels`` are those of the statics, whose codes stand with the shards' series; ``holidays`` the calendar's country. ``known_until`` is the
    latest known-at (UTC) among the rows, None where the table has none; ``waits_until`` is the local time after which the first of the rows
    counts that lay in the future and were left out, None where there are none.
    """

    key_types: dict[str, str]
    start: date
    n_ticks: int
    hidden: int
    censored: bool
    shards: tuple[ShardState, ...]
    labels: dict[str, tuple[str, ...]]
    likeness: tuple[str, ...]
    place: str | None
    holidays: str | None
    known_until: datetime | None = None
    waits_until: datetime | None = None

    @property
    def n_series(self) -> int:
        return sum(shard.n_series for shard in self.shards)


class StandingState(msgspec.Struct, frozen=True, kw_only=True):
    """Which state stands for a model, of which definition, and from which ingests it was made, by table."""

    model: str
    definition: str
    state: str
    ingests: dict[str, str]


STANDING_STATES = Kind("hour-state", StandingState, "model", of=lambda state: (f"model/{state.model}",))


def list_digests(state: HourState) -> list[str]:
    """All pieces of a state."""
    pieces = (piece for shard in state.shards for piece in (shard.series, *shard.days, shard.facts, shard.revisions))
    return list(dict.fromkeys(piece for piece in pieces if piece))


def put_day(blobs: BlobStore, sold: Floats, unseen: Flags | None, *, place: int) -> str:
    """Write one day of cells, given by its place among the columns. Returns its digest, '' for a day without a cell."""
    hours = slice(place * HOURS, (place + 1) * HOURS)
    if not np.isfinite(sold[:, hours]).any() and (unseen is None or not unseen[:, hours].any()):
        return _NO_DAY
    pieces = {"sold": np.ascontiguousarray(sold[:, hours])}
    if unseen is not None:
        pieces["unseen"] = np.ascontiguousarray(unseen[:, hours])
    return blobs.put(pack_arrays(pieces))


def put_series(blobs: BlobStore, keys: Mapping[str, list[str]], codes: Mapping[str, NDArray[np.int32]]) -> str:
    """Write who the series of a shard are: their keys, and the codes of their statics."""
    named = np.frombuffer(msgspec.json.encode(keys), dtype=np.uint8)  # arrays of text would be as wide as their longest
    return blobs.put(pack_arrays({"keys": named, **{f"code.{name}": values for name, values in codes.items()}}))


def read_series(blobs: BlobStore, shard: ShardState) -> tuple[dict[str, list[str]], dict[str, NDArray[np.int32]]]:
    """The keys and static codes of a shard's series. Raises IntegrityBroken for bytes that are none."""
    arrays = unpack_arrays(blobs.get(shard.series))
    try:
        keys = msgspec.json.decode(arrays["keys"].tobytes(), type=dict[str, list[str]])
    except (KeyError, msgspec.DecodeError) as error:
        raise IntegrityBroken("These bytes name no series.") from error
    return keys, {name.removeprefix("code."): values for name, values in arrays.items() if name.startswith("code.")}


def put_revisions(blobs: BlobStore, revisions: HourRevisions | None) -> str:
    """Write the late and restated cells of a shard. Returns their digest, '' where there are none."""
    if revisions is None or revisions.n == 0:
        return ""
    arrays = {part: getattr(revisions, part) for part in _REVISED}
    return blobs.put(pack_arrays(arrays if revisions.unseen is None else {**arrays, "unseen": revisions.unseen}))


def read_revisions(blobs: BlobStore, digest: str) -> HourRevisions | None:
    if not digest:
        return None
    arrays = unpack_arrays(blobs.get(digest))
    return HourRevisions(arrays["series"], arrays["ticks"], arrays["arrivals"], arrays["values"], arrays.get("unseen"))


def put_state(blobs: BlobStore, state: HourState) -> str:
    return blobs.put(msgspec.json.encode(state, order="deterministic"))


def read_state(blobs: BlobStore, digest: str) -> HourState:
    """The state of a digest. Raises NotFound, or IntegrityBroken for bytes that are none."""
    try:
        return msgspec.json.decode(blobs.get(digest), type=HourState)
    except msgspec.DecodeError as error:
        raise IntegrityBroken("These bytes are no state of an hourly model.") from error


def find_last_days(
    blobs: BlobStore, state: HourState, groups: Mapping[int, NDArray[np.int64]], *, n_groups: int, until: int, most_days: int | None = None
) -> NDArray[np.int64]:
    """The last day, counted from the state's start, on which each group of series had a row before the tick ``until``; -1 for none in the last
    ``most_days`` (None: in all).

    ``groups`` gives each series' group by shard. Days are read from the newest back until every group has one: mostly one piece a shard.
    """
    found = np.full(n_groups, -1, dtype=np.int64)
    newest = min(max((len(shard.days) for shard in state.shards), default=0), -(-until // HOURS))
    for index, shard in enumerate(state.shards):
        open_groups = np.unique(groups[index])
        for day in range(min(len(shard.days), newest) - 1, -1 if most_days is None else max(-1, newest - 1 - most_days), -1):
            if shard.days[day] == _NO_DAY:
                continue
            hours = unpack_arrays(blobs.get(shard.days[day]))["sold"][:, : until - day * HOURS]
            there = np.isfinite(hours).any(axis=1)
            present = np.unique(groups[index][there])
            found[present] = np.maximum(found[present], day)
            open_groups = np.setdiff1d(open_groups, present, assume_unique=True)
            if open_groups.size == 0:
                break
    return found


def find_present(blobs: BlobStore, state: HourState, *, until: int) -> list[NDArray[np.bool_]] | None:
    """Which series of each shard had a row before the tick ``until``; None where all had.

    Days are read from the newest back until every series has one: all of them where some series has none.
    """
    if until >= state.n_ticks:
        return None
    ends = np.cumsum([shard.n_series for shard in state.shards])
    groups = {i: np.arange(end - shard.n_series, end) for i, (shard, end) in enumerate(zip(state.shards, ends.tolist(), strict=True))}
    found = find_last_days(blobs, state, groups, n_groups=state.n_series, until=until) >= 0
    return None if found.all() else np.split(found, ends[:-1])


def read_shard(
    blobs: BlobStore,
    state: HourState,
    shard: ShardState,
    *,
    origin: int,
    horizon: int,
    calendar: Mapping[str, Flags],
    look_back_days: int | None = None,
) -> HourPanel:
    """The panel of one shard as known at an origin, in ticks from the state's start.

    ``look_back_days`` reads only so many days before the origin's own (None: all). Cost: the pieces of those days.
    """
    n_seen, n_days = origin - state.hidden, -(-(origin + horizon) // HOURS)
    last = -(-n_seen // HOURS)
    first = 0 if look_back_days is None else max(0, n_seen // HOURS - look_back_days)
    # Revisions before the days read cannot be told apart from what is not read, and are not needed: they lie outside.
    sold, unseen = _join_days(blobs, shard, range(first, last), censored=state.censored)
    revisions = _shift(read_revisions(blobs, shard.revisions), first * HOURS)
    keys, codes = read_series(blobs, shard)
    facts = unpack_arrays(blobs.get(shard.facts)) if shard.facts else {}
    panel = HourPanel(
        keys={name: tuple(values) for name, values in keys.items()},
        key_types=state.key_types,
        start=date.fromordinal(state.start.toordinal() + first),
        origin=origin - first * HOURS,
        hidden=state.hidden,
        horizon=horizon,
        sold=sold[:, : n_seen - first * HOURS],
        unseen=None if unseen is None else unseen[:, : n_seen - first * HOURS],
        daily={name: _cut_days(values, first=first, n_days=n_days) for name, values in facts.items()},
        statics={name: Statics(values, state.labels[name]) for name, values in codes.items()},
        likeness=state.likeness,
        place=state.place,
        calendar={name: flags[first:] for name, flags in calendar.items()},
        revisions=revisions,
    )
    return panel.seen_at(panel.origin)


def _join_days(blobs: BlobStore, shard: ShardState, days: range, *, censored: bool) -> tuple[Floats, Flags | None]:
    """The cells of some days side by side; negative ones are missing: returns that outweigh sales say nothing of demand.

    A few hundred series at a time: a day's cells of all would touch each page of memory once for every day.
    """
    from endcap.loop.features.panels.hour_cells import place_day

    pieces = [
        unpack_arrays(blobs.get(digest)) if digest != _NO_DAY else None for digest in (*shard.days, *[_NO_DAY] * days.stop)[days.start : days.stop]
    ]
    nothing: dict[str, NDArray[Any]]
    nothing = {"sold": np.full((shard.n_series, HOURS), np.nan, dtype=np.float32), "unseen": np.zeros((shard.n_series, HOURS), dtype=np.bool_)}
    sold = np.empty((shard.n_series, len(days) * HOURS), dtype=np.float32)
    unseen = np.empty(sold.shape if censored else (0, 0), dtype=np.bool_)
    for start in range(0, shard.n_series, _AT_ONCE):
        for place, piece in enumerate(pieces):
            day = nothing if piece is None else piece
            place_day(sold, unseen, day["sold"], day["unseen"] if censored else unseen, start, start + _AT_ONCE, place * HOURS)
    return sold, unseen if censored else None


def _shift(revisions: HourRevisions | None, ticks: int) -> HourRevisions | None:
    """The revisions from a tick on, counted from there; a negative value is missing, as in the cells."""
    if revisions is None:
        return None
    cleaned = replace(revisions, values=np.where(revisions.values < 0, np.float32(np.nan), revisions.values))
    return cleaned.keep(revisions.ticks >= ticks, earlier=ticks)


def _cut_days(values: Floats, *, first: int, n_days: int) -> Floats:
    """Facts of the days from ``first`` to the last target's, NaN where none is known that far."""
    cut = np.full((values.shape[0], n_days - first), np.nan, dtype=np.float32)
    there = values[:, first:n_days]
    cut[:, : there.shape[1]] = there
    return cut
