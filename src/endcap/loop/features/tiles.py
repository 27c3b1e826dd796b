"""Tiles: partial aggregates by key and tick, from which the value of any window is merged without reading the rows again.

A tile holds what the rows of one file, of one key and of one interval between ticks come to: counts, sums, squares about their own mean, least,
greatest, newest. Rows that were known in time for the tick at which their interval ends make one tile; those that came late make one for each
instant at which they became known, and it says from which tick on they were known in time (``__from``) and when (``__late_at``) for the ticks
before. So the value of a window at a tick is the merger of the tiles that were known in time for it, and each restatement of it the merger of
those and of what was known late by then.

Squares are merged about a mean near all of them (Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979), so that small deviations of great numbers are not lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.durations import parse_duration
from endcap.core.names import quote
from endcap.loop.data.sources import EVENT_TIME, Source
from endcap.loop.data.sources import KNOWN_AT as SOURCE_KNOWN_AT
from endcap.loop.features.records import EVENT_AT, KNOWN_AT
from endcap.loop.features.ticks import Ticks

if TYPE_CHECKING:
    import duckdb

TICK, FROM, LATE_AT, FILE = "__tick", "__from", "__late_at", "__digest"
_SUMS, _SQUARES = ("sum", "mean", "lag", "std"), ("std",)


def has_tiles(view: FeatureView) -> bool:
    """Whether all of a view's features are merged from tiles: different values are not, since no number says which they were."""
    return view.windowed and all(part.fold != "distinct" for part in _parts(view))


@dataclass(frozen=True)
class Lateness:
    """What makes rows of a table without known-at late: files that come after ticks were given out, by ``until``, are known from ``at`` on."""

    until: datetime
    at: datetime


@dataclass(frozen=True)
class Tiling:
    """How a view's features are folded into tiles of its source, and merged from them. ``columns`` are the columns folded, with their conditions."""

    view: FeatureView
    ticks: Ticks
    columns: tuple[tuple[str, str | None], ...]
    n_longest: int

    @classmethod
    def of(cls, view: FeatureView, *, zone: str) -> Tiling:
        assert view.every is not None, "windowed views have ticks"
        ticks = Ticks.of(view.every, zone=zone)
        parts = _parts(view)
        columns = tuple(dict.fromkeys((part.column, part.where) for part in parts))
        return cls(view, ticks, columns, max(ticks.n_of(part.window or "0s") + (part.fold == "lag") for part in parts))

    @property
    def keys(self) -> str:
        return ", ".join(quote(key) for key in self.view.keys)

    @property
    def known_after(self) -> timedelta:
        return parse_duration(self.view.known_after)

    def last_due(self, now: datetime) -> int:
        """The last tick whose values may be given out."""
        return self.ticks.last_by(now - self.known_after)

    def fold(self, source: Source, *, late: Lateness | None = None) -> str:
        """SELECT of the tiles of a source's rows, by the path of their file in ``__file``. One scan, and as many groups as tiles.

        ``late`` says which ticks were given out before these rows came (None: none was).
        """
        view, ticks = self.view, self.ticks
        where = [f"{quote(key)} IS NOT NULL" for key in view.keys] + [f"{EVENT_TIME} IS NOT NULL"]
        where += [f"({source.resolve(view.where)})"] if view.where else []
        known = self._known(source)
        rows = f"SELECT *, {ticks.sql_end(EVENT_TIME)} AS {TICK}, {known} AS __known FROM ({source.sql_by_file}) WHERE {' AND '.join(where)}"
        if self._in_time(source):
            arrived = TICK
        else:
            wall = ticks.sql_wall(f"(__known - {_interval(self.known_after)})")
            arrived = f"greatest({TICK}, {ticks.sql_end(wall)})"
        at = "__known"
        if late is not None:
            arrived = f"greatest({arrived}, {self.last_due(late.until) + 1})"
            if source.table.known_at is None:
                at = f"CASE WHEN __known <= {_instant(late.until)} THEN {_instant(late.at)} ELSE __known END"
        rows = f"SELECT *, {arrived} AS {FROM}, {at} AS __at FROM ({rows})" if source.table.known_at is None else (
            f"SELECT *, {arrived} AS {FROM}, {at} AS __at FROM ({rows})"
        )
        rows = f"SELECT * REPLACE (CASE WHEN {FROM} > {TICK} THEN __at END AS __at) FROM ({rows})"
        group = f"{self.keys}, {TICK}, {FROM}, __at, __file"
        partials = ", ".join(self._partials(source))
        return f"SELECT {self.keys}, {TICK}, {FROM}, __at AS {LATE_AT}, __file, {partials} FROM ({rows}) GROUP BY {group}"
