"""Members of a panel: which series belong to which member, and when each member had rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.core.definitions.forecasts import Forecast
from endcap.loop.features.panels.day_panels import Indexes, Panel, join_keys

_NAMED = 5


@dataclass(frozen=True, eq=False)
class Membership:
    """``names`` of members in the order of their first series, and of each series which member it belongs to."""

    names: tuple[str, ...]
    codes: Indexes

    @property
    def n(self) -> int:
        return len(self.names)

    def sum(self, by_series: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over each member's series of an array whose first axis are series. One pass."""
        if self.n == len(by_series):
            return by_series
        total = np.zeros((self.n, *by_series.shape[1:]))
        np.add.at(total, self.codes, by_series)
        return total


def find_members(keys: Mapping[str, tuple[str, ...]], *, by: tuple[str, ...] = ()) -> Membership:
    """The members of series whose keys are given as columns; ``by`` are the keys that name a member (empty: all, a series is a member).

    >>> found = find_members({"store": ("1", "1", "2"), "item": ("a", "b", "a")}, by=("store",))
    >>> found.names, found.codes.tolist()
    (('1', '2'), [0, 0, 1])
    """
    of_series = join_keys({name: keys[name] for name in by or keys})
    place = {name: i for i, name in enumerate(dict.fromkeys(of_series))}
    return Membership(tuple(place), np.array([place[name] for name in of_series], dtype=np.int64))


def find_last_rows(panel: Panel, membership: Membership) -> tuple[Indexes, Indexes]:
    """The first and the last tick at which each member had a row, -1 for none. One pass over the observed values."""
    there = np.isfinite(panel.observed)
    any_row = there.any(axis=1)
    first = np.where(any_row, there.argmax(axis=1), panel.n_seen)
    last = np.where(any_row, panel.n_seen - 1 - there[:, ::-1].argmax(axis=1), -1)
    firsts, lasts = np.full(membership.n, panel.n_seen), np.full(membership.n, -1)
    np.minimum.at(firsts, membership.codes, first)
    np.maximum.at(lasts, membership.codes, last)
    return np.where(lasts >= 0, firsts, -1), lasts


def find_retired(panel: Panel, forecast: Forecast) -> tuple[Membership, NDArray[np.bool_]]:
    """The members, and which of them are retired: without a row for ``retire_after`` before the latest day on which anybody had one.

    Members that never had a row are not retired: they are to come.
    """
    membership = find_members(panel.keys, by=forecast.members)
    _, last = find_last_rows(panel, membership)
    if forecast.retire_after_days is None:
        return membership, np.zeros(membership.n, dtype=np.bool_)
    return membership, np.asarray((last >= 0) & (int(last.max(initial=-1)) - last >= forecast.retire_after_days))


def find_active(panel: Panel, forecast: Forecast) -> NDArray[np.bool_]:
    """Which series belong to members that are not retired, n_series long."""
    membership, retired = find_retired(panel, forecast)
    return np.asarray(~retired[membership.codes])


def describe_retired(panel: Panel, forecast: Forecast) -> tuple[str, ...]:
    """The note that says which members are retired, if any."""
    membership, retired = find_retired(panel, forecast)
    if not retired.any():
        return ()
    names = [membership.names[i] for i in np.flatnonzero(retired)]
    shown = f"{', '.join(names[:_NAMED])}{' ...' if len(names) > _NAMED else ''}"
    return (f"{len(names):,} of {membership.n:,} members had no row for {forecast.retire_after}, are retired and not forecast: {shown}",)
