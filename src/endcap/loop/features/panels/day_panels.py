"""Panels: series in rows, days in columns, and the rule of what may be seen at an origin.

An *origin* is the start of a day, given as its index on the panel's axis. ``Panel.seen_at`` cuts the arrays themselves, so that
whoever gets the result cannot look ahead: what is not there cannot leak.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, InvalidInput

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
Indexes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Revisions:
    """Cells whose value arrived late or was restated: from origin ``arrival`` on the cell (series, tick) had ``value``.

    Four arrays of one length, ordered by arrival. A cell that is listed has no value before its first arrival.
    """

    series: Indexes
    ticks: Indexes
    arrivals: Indexes
    values: Floats

    @property
    def n(self) -> int:
        return int(self.series.size)

    def apply(self, values: Floats, *, origin: int) -> None:
        """Turn ``values`` (in place, n_series x n_ticks) into what was known at ``origin``. Cost grows with the revisions only."""
        inside = self.ticks < values.shape[1]
        values[self.series[inside], self.ticks[inside]] = np.nan
        known = inside & (self.arrivals <= origin)
        # Assignment with repeated indexes keeps the last value, and the last is the newest that had arrived.
        values[self.series[known], self.ticks[known]] = self.values[known]


NO_REVISIONS = Revisions(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, eq=False)
class Statics:
    """One fact per series: codes into ``labels``; -1 where it is missing."""

    codes: NDArray[np.int32]
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Panel:
    """All that a daily forecast reads, as known at the panel's own origin.

    Args:
        keys: the key columns as text, each n_series long; together they name a series.
        key_types: the type of each key column in its table, to write it as it was read.
        start: the local day of tick 0.
        origin: the tick at whose start this was known; the first tick that nothing observed may come from.
        hidden: how many ticks before the origin are not known yet, because the table's rows become known late.
        lead, horizon: the targets are the ticks origin + lead ... origin + lead + horizon - 1.
        target: n_series x n_seen, n_seen = origin - hidden; NaN where missing, closed or censored.
        observed: the same before closed and censored days were masked.
        censored: the share of each cell on which demand could not be seen; None when the model does not declare it.
        ahead: known-ahead facts, n_series x (origin + lead + horizon); NaN where not known at the origin.
        past: facts known afterwards, n_series x n_seen.
        known: features of declared views by name, n_series x (origin + 1): each cell what was known at the start of its tick; NaN where nothing was.
        offered: those of them that a new fit reads; the others are of versions that answer already.
        statics: facts per series.
        open_fact: which known-ahead fact says that a series is open.
        censored_most: above this share a cell is masked.
        revisions: late and restated cells by column: ``target``, ``censored`` or a fact's name.
        calendar: flags of days by name, alike for all series and fixed for years (public holidays); they reach beyond the last target.
    """

    keys: dict[str, tuple[str, ...]]
    key_types: dict[str, str]
    start: date
    origin: int
    hidden: int
    lead: int
    horizon: int
    observed: Floats
    censored: Floats | None = None
    ahead: dict[str, Floats] = field(default_factory=dict)
    past: dict[str, Floats] = field(default_factory=dict)
    known: dict[str, Floats] = field(default_factory=dict)
    offered: tuple[str, ...] = ()
    statics: dict[str, Statics] = field(default_factory=dict)
    open_fact: str | None = None
    censored_most: float = 0.0
    revisions: dict[str, Revisions] = field(default_factory=dict)
    calendar: dict[str, Flags] = field(default_factory=dict)

    @property
    def n_series(self) -> int:
        return int(self.observed.shape[0])

    @property
    def n_seen(self) -> int:
        return int(self.observed.shape[1])

    @property
    def offsets(self) -> Indexes:
        """Each target's distance from the first tick that is not seen: hidden + lead + 0 ... horizon - 1."""
        return np.arange(self.horizon, dtype=np.int64) + self.hidden + self.lead

    @property
    def targets(self) -> Indexes:
        """The ticks to forecast."""
        return np.arange(self.horizon, dtype=np.int64) + self.origin + self.lead

    @property
    def target(self) -> Floats:
        """What is learned from and scored: observed values less closed and censored cells. A new array."""
        values = self.observed.copy()
        values[~self.is_open(np.arange(self.n_seen))] = np.nan
        if self.censored is not None:
            values[self.censored > self.censored_most] = np.nan
        return values

    def is_open(self, ticks: Indexes) -> Flags:
        """n_series x n_ticks: False where the plan says closed; a day the plan does not name counts as open."""
        if self.open_fact is None:
            return np.ones((self.n_series, ticks.size), dtype=np.bool_)
        closed: Flags = self.ahead[self.open_fact][:, ticks] == 0
        return ~closed

    def day(self, tick: int) -> date:
        return self.start + timedelta(days=int(tick))

    def days(self, ticks: Indexes) -> NDArray[np.datetime64]:
        return np.datetime64(self.start, "D") + ticks

    def seen_at(self, origin: int) -> Panel:
        """The panel as it was known at an earlier origin: later cells are cut off, late ones undone.

        Raises InvalidInput for an origin after the panel's own, or before its second tick. Copies what it keeps: O(cells kept).
        """
        if not 0 < origin - self.hidden <= self.n_seen:
            raise InvalidInput(f"Origin {origin} is not among those this panel can look back to: {self.hidden + 1} to {self.origin}.")
        n_seen, n_ahead = origin - self.hidden, origin + self.lead + self.horizon
        return replace(
            self,
            origin=origin,
            observed=self._cut("target", self.observed, n_seen, origin),
            censored=None if self.censored is None else self._cut("censored", self.censored, n_seen, origin),
            ahead={name: self._cut(name, values, n_ahead, origin) for name, values in self.ahead.items()},
            past={name: self._cut(name, values, n_seen, origin) for name, values in self.past.items()},
            known={name: values[:, : origin + 1].copy() for name, values in self.known.items()},
            revisions={name: _keep_known(revisions, origin=origin) for name, revisions in self.revisions.items()},
        )

    def choose(self, series: Indexes) -> Panel:
        """Some of the series, in the order given."""
        places = np.full(self.n_series, -1, dtype=np.int64)
        places[series] = np.arange(series.size)

        def cut(revisions: Revisions) -> Revisions:
            kept = places[revisions.series] >= 0
            return Revisions(places[revisions.series[kept]], revisions.ticks[kept], revisions.arrivals[kept], revisions.values[kept])

        return replace(
            self,
            keys={name: tuple(values[i] for i in series) for name, values in self.keys.items()},
            observed=self.observed[series],
            censored=None if self.censored is None else self.censored[series],
            ahead={name: values[series] for name, values in self.ahead.items()},
            past={name: values[series] for name, values in self.past.items()},
            known={name: values[series] for name, values in self.known.items()},
            statics={name: Statics(fact.codes[series], fact.labels) for name, fact in self.statics.items()},
            revisions={name: cut(revisions) for name, revisions in self.revisions.items()},
        )

    def _cut(self, name: str, values: Floats, n_ticks: int, origin: int) -> Floats:
        kept = values[:, :n_ticks].copy()
        revisions = self.revisions.get(name)
        if revisions is not None:
            revisions.apply(kept, origin=origin)
        return kept


def _keep_known(revisions: Revisions, *, origin: int) -> Revisions:
    # Cells that had not arrived at all are missing in the cut array already; the list keeps what an even earlier look must undo.
    known = revisions.arrivals <= origin
    return Revisions(revisions.series[known], revisions.ticks[known], revisions.arrivals[known], revisions.values[known])


class _Head(msgspec.Struct):
    keys: dict[str, tuple[str, ...]]
    key_types: dict[str, str]
    start: date
    origin: int
    hidden: int
    lead: int
    horizon: int
    ahead: list[str]
    past: list[str]
    known: list[str]
    offered: tuple[str, ...]
    statics: dict[str, tuple[str, ...]]
    open_fact: str | None
    censored_most: float
    revisions: list[str]
    calendar: list[str]


def encode_panel(panel: Panel) -> bytes:
    """A panel as bytes (NumPy's zip of arrays, no objects). O(cells)."""
    head = _Head(
        keys=panel.keys,
        key_types=panel.key_types,
        start=panel.start,
        origin=panel.origin,
        hidden=panel.hidden,
        lead=panel.lead,
        horizon=panel.horizon,
        ahead=list(panel.ahead),
        past=list(panel.past),
        known=list(panel.known),
        offered=panel.offered,
        statics={name: fact.labels for name, fact in panel.statics.items()},
        open_fact=panel.open_fact,
        censored_most=panel.censored_most,
        revisions=list(panel.revisions),
        calendar=list(panel.calendar),
    )
    arrays: dict[str, NDArray[Any]] = {"head": np.frombuffer(msgspec.json.encode(head), dtype=np.uint8), "observed": panel.observed}
    if panel.censored is not None:
        arrays["censored"] = panel.censored
    for group, facts in (("ahead", panel.ahead), ("past", panel.past), ("known", panel.known)):
        arrays.update({f"{group}.{i}": values for i, values in enumerate(facts.values())})
    arrays.update({f"statics.{i}": fact.codes for i, fact in enumerate(panel.statics.values())})
    arrays.update({f"calendar.{i}": flags for i, flags in enumerate(panel.calendar.values())})
    for i, revisions in enumerate(panel.revisions.values()):
        for part in ("series", "ticks", "arrivals", "values"):
            arrays[f"revisions.{i}.{part}"] = getattr(revisions, part)
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def decode_panel(payload: bytes) -> Panel:
    """The panel of ``encode_panel``. Raises IntegrityBroken for bytes that are none."""
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            head = msgspec.json.decode(arrays["head"].tobytes(), type=_Head)
            return Panel(
                keys=head.keys,
                key_types=head.key_types,
                start=head.start,
                origin=head.origin,
                hidden=head.hidden,
                lead=head.lead,
                horizon=head.horizon,
                observed=arrays["observed"],
                censored=arrays["censored"] if "censored" in arrays.files else None,
                ahead={name: arrays[f"ahead.{i}"] for i, name in enumerate(head.ahead)},
                past={name: arrays[f"past.{i}"] for i, name in enumerate(head.past)},
                known={name: arrays[f"known.{i}"] for i, name in enumerate(head.known)},
                offered=head.offered,
                statics={name: Statics(arrays[f"statics.{i}"], labels) for i, (name, labels) in enumerate(head.statics.items())},
                open_fact=head.open_fact,
                censored_most=head.censored_most,
                revisions={
                    name: Revisions(*(arrays[f"revisions.{i}.{part}"] for part in ("series", "ticks", "arrivals", "values")))
                    for i, name in enumerate(head.revisions)
                },
                calendar={name: arrays[f"calendar.{i}"] for i, name in enumerate(head.calendar)},
            )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, msgspec.DecodeError) as error:
        raise IntegrityBroken("These bytes are no panel.") from error


def join_keys(keys: Mapping[str, tuple[str, ...]]) -> list[str]:
    r"""One text per series; a single key stands as it is, several are joined by '/', with a backslash before their own.

    >>> join_keys({"store": ("1", "2/3"), "item": ("a", "b")})
    ['1/a', '2\\/3/b']
    """
    columns = list(keys.values())
    if len(columns) == 1:
        return list(columns[0])
    escaped = [[part.replace("\\", "\\\\").replace("/", "\\/") for part in column] for column in columns]
    return ["/".join(parts) for parts in zip(*escaped, strict=True)]
