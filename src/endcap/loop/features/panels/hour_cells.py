"""Cells being filled: rows of series and hours as they stream in, folded or restated, with what is needed to undo what came late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Flags, Floats
from endcap.loop.features.panels.hour_panels import HOURS, HourRevisions

Rows = NDArray[np.int32]
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_compiled: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True)
FOLDS = {"sum": 0, "count": 0, "min": 1, "max": 2}  # what is counted comes as 1 where there is a value, and 0 elsewhere


@_compiled
def fold_cells(cells: Floats, rows: Rows, ticks: Rows, values: Floats, fold: int) -> int:
    """Fold values into cells in place, in their order: 0 sums, 1 keeps the least, 2 the greatest.

    Values that are not finite are left out. Returns how many met a cell that had a value. O(values).
    """
    n_met = 0
    for i in range(values.size):
        value = values[i]
        if not np.isfinite(value):
            continue
        standing = cells[rows[i], ticks[i]]
        if np.isnan(standing):
            cells[rows[i], ticks[i]] = value
            continue
        n_met += 1
        if fold == 0:
            cells[rows[i], ticks[i]] = standing + value
        elif fold == 1:
            cells[rows[i], ticks[i]] = min(standing, value)
        else:
            cells[rows[i], ticks[i]] = max(standing, value)
    return n_met


@_compiled
def flag_cells(cells: Flags, rows: Rows, ticks: Rows, values: Floats, most: float) -> None:
    """Set, in place, the flag of every cell that has a value above ``most``. O(values)."""
    for i in range(values.size):
        if values[i] > most:
            cells[rows[i], ticks[i]] = True


@_compiled
def place_day(sold: Floats, unseen: Flags, day_sold: Floats, day_unseen: Flags, start: int, stop: int, first: int) -> None:
    """Put the cells of one day (n_series x 24) into those of many from the tick ``first`` on, for the series from ``start`` to ``stop``.

    Negative ones are missing. Flags of shape (0, 0): there are none. O(cells).
    """
    for series in range(start, min(stop, day_sold.shape[0])):
        for hour in range(day_sold.shape[1]):
            value = day_sold[series, hour]
            sold[series, first + hour] = value if value >= 0.0 else np.nan
        if unseen.shape[0] > 0:
            for hour in range(day_sold.shape[1]):
                unseen[series, first + hour] = day_unseen[series, hour]


@dataclass
class HourCells:
    """Cells of some series over whole days: ``sold`` (NaN where there is no row) and ``unseen`` flags, n_series x (24 x n_days)."""

    sold: Floats
    unseen: Flags | None
    revisions: HourRevisions | None = None
    n_met: int = 0
    _late: list[tuple[Rows, Rows, Rows, Floats, Flags]] = field(default_factory=list)

    @staticmethod
    def empty(n_series: int, n_days: int, *, censored: bool) -> HourCells:
        shape = (n_series, n_days * HOURS)
        return HourCells(np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=np.bool_) if censored else None)

    def fold(self, rows: Rows, ticks: Rows, values: Floats, *, how: str) -> None:
        """Fold rows without known-at into the cells."""
        self.n_met += int(fold_cells(self.sold, rows, ticks, values, FOLDS[how]))

    def flag(self, rows: Rows, ticks: Rows, values: Floats, *, most: float) -> None:
        """Mark the cells whose censored share is above ``most``."""
        assert self.unseen is not None, "flags are streamed only where the model declares them"
        flag_cells(self.unseen, rows, ticks, values, most)

    def restate(self, rows: Rows, ticks: Rows, values: Floats, arrivals: Rows, *, hidden: int, unseen: Flags | None = None) -> None:
        """State cells anew, rows in the order in which they were known; those that arrived late are kept back until ``settle``."""
        late = arrivals > ticks + 1 + hidden
        flags = np.zeros(values.shape, dtype=np.bool_) if unseen is None else unseen
        self.sold[rows[~late], ticks[~late]] = values[~late]
        if self.unseen is not None:
            self.unseen[rows[~late], ticks[~late]] = flags[~late]
        if late.any():
            self._late.append((rows[late], ticks[late], arrivals[late], values[late], flags[late]))

    def is_stated(self, rows: Rows, ticks: Rows) -> bool:
        """Whether any of these cells has a statement already."""
        stated = bool(np.isfinite(self.sold[rows, ticks]).any() or (self.unseen is not None and self.unseen[rows, ticks].any()))
        if stated or self.revisions is None:
            return stated
        n_ticks = self.sold.shape[1]
        return bool(np.isin(rows.astype(np.int64) * n_ticks + ticks, self.revisions.series * n_ticks + self.revisions.ticks).any())

    def settle(self, *, hidden: int) -> None:
        """Bring late statements into the cells, and list them with what stood before, so that any origin can be seen as it was."""
        if not self._late:
            return
        rows, ticks, arrivals, values, flags = (np.concatenate(parts) for parts in zip(*self._late, strict=True))
        self._late.clear()
        n_ticks = self.sold.shape[1]
        cells = np.unique(rows.astype(np.int64) * n_ticks + ticks)
        old = self.revisions
        listed = np.empty(0, np.int64) if old is None else np.unique(old.series * n_ticks + old.ticks)
        before = np.setdiff1d(cells, listed, assume_unique=True)
        unseen = np.zeros(before.size, dtype=np.bool_) if self.unseen is None else self.unseen.reshape(-1)[before]
        stood = np.isfinite(self.sold.reshape(-1)[before]) | unseen
        before, unseen = before[stood], unseen[stood]
        columns = [
            (before // n_ticks, before % n_ticks, before % n_ticks + 1 + hidden, self.sold.reshape(-1)[before], unseen),
            *([] if old is None else [(old.series, old.ticks, old.arrivals, old.values, old.unseen)]),
            (rows, ticks, arrivals, values, flags),
        ]
        if self.unseen is None:
            columns = [(*column[:4], np.zeros(column[0].size, dtype=np.bool_)) for column in columns]
        series, at, came, said, flagged = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        order = np.lexsort((at, series, came))  # stable: of one cell's statements the one known last stays last
        self.revisions = HourRevisions(
            series[order].astype(np.int64),
            at[order].astype(np.int64),
            came[order].astype(np.int64),
            said[order].astype(np.float32),
            None if self.unseen is None else flagged[order],
        )
        self.sold[self.revisions.series, self.revisions.ticks] = self.revisions.values  # of several, the one that came last stands
        if self.unseen is not None and self.revisions.unseen is not None:
            self.unseen[self.revisions.series, self.revisions.ticks] = self.revisions.unseen

    def take(self, series: slice) -> HourCells:
        """The cells of some series, as views."""
        revisions = self.revisions
        if revisions is not None:
            kept = (revisions.series >= series.start) & (revisions.series < series.stop)
            revisions = revisions.keep(kept, series=revisions.series - series.start)
        return HourCells(self.sold[series], None if self.unseen is None else self.unseen[series], revisions)


@dataclass(frozen=True, eq=False)
class TouchedDays:
    """The days that new rows touch, whose columns stand side by side while they are filled."""

    days: NDArray[np.int64]

    def narrow(self, revisions: HourRevisions | None) -> HourRevisions | None:
        """The revisions of these days, in ticks of the columns side by side."""
        if revisions is None:
            return None
        day = revisions.ticks // HOURS
        place = np.minimum(np.searchsorted(self.days, day), self.days.size - 1)
        return revisions.keep(self.days[place] == day, earlier=(self.days[place] - place) * HOURS)

    def widen(self, revisions: HourRevisions | None, *, beside: HourRevisions | None) -> HourRevisions | None:
        """Revisions of the columns in true ticks again, with those of other days beside them, ordered by arrival."""
        if revisions is None:
            return beside
        place = revisions.ticks // HOURS
        own = revisions.keep(np.ones(revisions.n, dtype=np.bool_), earlier=-(self.days[place] - place) * HOURS)
        if beside is None:
            return own
        others = beside.keep(~np.isin(beside.ticks // HOURS, self.days))
        flags = None if own.unseen is None or others.unseen is None else np.concatenate([own.unseen, others.unseen])
        series, ticks, arrivals, values = (
            np.concatenate([getattr(own, part), getattr(others, part)]) for part in ("series", "ticks", "arrivals", "values")
        )
        order = np.lexsort((ticks, series, arrivals))
        return HourRevisions(series[order], ticks[order], arrivals[order], values[order], None if flags is None else flags[order])
