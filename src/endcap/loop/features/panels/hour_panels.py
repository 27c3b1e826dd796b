"""Hour panels: series in rows, local hours in columns, and the same rule of what may be seen at an origin as for days.

Tick 0 is the first hour of the local day ``start``; a day has 24 ticks whatever the clocks do: an hour that the clocks skip is missing,
one that they repeat is folded with its twin. Facts about days (discount, holiday) are kept by day, not by hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Flags, Floats, Indexes, Revisions, Statics

HOURS = 24


@dataclass(frozen=True, eq=False)
class HourRevisions(Revisions):
    """Late and restated hours: each statement says what was sold and, where the model declares it, whether demand was ``unseen``."""

    unseen: Flags | None = None

    def undo(self, sold: Floats, unseen: Flags | None, *, origin: int) -> None:
        """Turn cells (in place, n_series x n_ticks) into what was known at ``origin``. Cost grows with the revisions only."""
        self.apply(sold, origin=origin)
        if unseen is not None and self.unseen is not None:
            inside = self.ticks < unseen.shape[1]
            unseen[self.series[inside], self.ticks[inside]] = False
            known = inside & (self.arrivals <= origin)
            unseen[self.series[known], self.ticks[known]] = self.unseen[known]

    def keep(self, kept: NDArray[np.bool_], *, series: Indexes | None = None, earlier: int | NDArray[np.int64] = 0) -> HourRevisions:
        """Those that are ``kept``, of ``series`` as numbered there (None: as they are), on an axis that begins ``earlier`` ticks later."""
        shift = earlier[kept] if isinstance(earlier, np.ndarray) else earlier
        return HourRevisions(
            (self.series if series is None else series)[kept],
            self.ticks[kept] - shift,
            self.arrivals[kept] - shift,
            self.values[kept],
            None if self.unseen is None else self.unseen[kept],
        )


@dataclass(frozen=True, eq=False)
class HourPanel:
    """All that an hourly forecast reads of some series, as known at the panel's own origin.

    Args:
        keys: the key columns as text, each n_series long; together they name a series.
        key_types: the type of each key column in its table.
        start: the local day whose first hour is tick 0.
        origin: the tick at whose start this was known; the first tick that nothing observed may come from.
        hidden: how many ticks before the origin are not known yet.
        horizon: the targets are the ticks origin ... origin + horizon - 1.
        sold: n_series x n_seen, n_seen = origin - hidden; NaN where missing.
        unseen: n_series x n_seen, True where demand could not be seen (a stock-out); None when the model declares no such thing.
        daily: known-ahead facts by name, n_series x n_days, n_days reaching to the last target's day; NaN where not known at the origin.
        statics: facts per series; the keys are among them.
        likeness: the names of statics by which series resemble each other, nearest first (product, category).
        place: the static that names the place (store), whose hours have a shape of their own. None: no such thing.
        calendar: flags of days by name, alike for all series; they reach beyond the last target.
        revisions: late and restated cells of ``sold`` and ``unseen``, by tick of arrival; None when the table has none.
    """

    keys: dict[str, tuple[str, ...]]
    key_types: dict[str, str]
    start: date
    origin: int
    hidden: int
    horizon: int
    sold: Floats
    unseen: Flags | None = None
    daily: dict[str, Floats] = field(default_factory=dict)
    statics: dict[str, Statics] = field(default_factory=dict)
    likeness: tuple[str, ...] = ()
    place: str | None = None
    calendar: dict[str, Flags] = field(default_factory=dict)
    revisions: HourRevisions | None = None

    @property
    def n_series(self) -> int:
        return int(self.sold.shape[0])

    @property
    def n_seen(self) -> int:
        return int(self.sold.shape[1])

    @property
    def targets(self) -> Indexes:
        """The ticks to forecast."""
        return np.arange(self.horizon, dtype=np.int64) + self.origin

    @property
    def demand(self) -> Floats:
        """What is learned from and scored: what was sold where demand could be seen, NaN elsewhere. A new array."""
        values = self.sold.copy()
        if self.unseen is not None:
            values[self.unseen] = np.nan
        return values

    def moment(self, tick: int) -> datetime:
        """The local time at which a tick begins."""
        return datetime.combine(self.start, time()) + timedelta(hours=int(tick))

    def weekdays(self, days: Indexes) -> Indexes:
        """Monday as 0, for days counted from ``start``."""
        return (days + self.start.weekday()) % 7

    def seen_at(self, origin: int) -> HourPanel:
        """The panel as it was known at an earlier origin: later cells are cut off, late ones undone.

        Arrays are views of this panel's, except where late cells were undone. Raises InvalidInput for an origin after the panel's own or
        before its second tick.
        """
        if not 0 < origin - self.hidden <= self.n_seen:
            raise InvalidInput(f"Origin {origin} is not among those this panel can look back to: {self.hidden + 1} to {self.origin}.")
        n_seen, n_days = origin - self.hidden, -(-(origin + self.horizon) // HOURS)
        sold, unseen, revisions = self.sold[:, :n_seen], None if self.unseen is None else self.unseen[:, :n_seen], None
        if self.revisions is not None:
            known = self.revisions.arrivals <= origin
            if bool((~known & (self.revisions.ticks < n_seen)).any()):
                sold, unseen = sold.copy(), None if unseen is None else unseen.copy()
                self.revisions.undo(sold, unseen, origin=origin)
            revisions = self.revisions.keep(known)
        return replace(
            self,
            origin=origin,
            sold=sold,
            unseen=unseen,
            daily={name: values[:, :n_days] for name, values in self.daily.items()},
            revisions=revisions,
        )

    def latest(self, n_days: int) -> HourPanel:
        """The same with only the last ``n_days`` days and the hours of the current one. Arrays are views."""
        first = max(0, (self.n_seen // HOURS - n_days) * HOURS)
        if first == 0:
            return self
        day, revisions = first // HOURS, self.revisions
        if revisions is not None:
            revisions = revisions.keep(revisions.ticks >= first, earlier=first)
        return replace(
            self,
            start=self.start + timedelta(days=day),
            origin=self.origin - first,
            sold=self.sold[:, first:],
            unseen=None if self.unseen is None else self.unseen[:, first:],
            daily={name: values[:, day:] for name, values in self.daily.items()},
            calendar={name: flags[day:] for name, flags in self.calendar.items()},
            revisions=revisions,
        )

    def choose(self, series: slice | NDArray[np.int64]) -> HourPanel:
        """Some of the series, in the order given; a slice gives views, indexes give copies."""
        rows = np.arange(self.n_series)[series]
        revisions = self.revisions
        if revisions is not None:
            places = np.full(self.n_series, -1, dtype=np.int64)
            places[rows] = np.arange(rows.size)
            revisions = revisions.keep(places[revisions.series] >= 0, series=places[revisions.series])
        return replace(
            self,
            keys={name: tuple(values[i] for i in rows) for name, values in self.keys.items()},
            sold=self.sold[series],
            unseen=None if self.unseen is None else self.unseen[series],
            daily={name: values[series] for name, values in self.daily.items()},
            statics={name: Statics(fact.codes[series], fact.labels) for name, fact in self.statics.items()},
            revisions=revisions,
        )
