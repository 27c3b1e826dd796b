"""Outcomes summed by member and day: what the comparison of groups and the watch over members compute on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MemberDays:
    """Sums of outcomes, each n_members x n_days; 0 where a member had no outcome on a day. ``days`` are in order and without gaps.

    ``n`` counts values, ``actual`` sums them, ``absolute``, ``squared`` and ``error`` sum the errors (forecast less actual). ``promised`` sums the
    absolute errors that validation promised; NaN for members without a promise (see ``monitoring.members``), all 0 where nobody asked.
    """

    members: tuple[str, ...]
    days: NDArray[np.datetime64]
    n: Sums
    actual: Sums
    absolute: Sums
    squared: Sums
    error: Sums
    promised: Sums

    def select(self, members: NDArray[np.bool_]) -> MemberDays:
        """The same for some members; ``members`` is a mask."""
        names = tuple(name for name, kept in zip(self.members, members, strict=True) if kept)
        return MemberDays(names, self.days, *(getattr(self, name)[members] for name in SUMMED))

    def between(self, first: np.datetime64, last: np.datetime64) -> MemberDays:
        """The same for the days from ``first`` to ``last``, both included."""
        kept = (self.days >= first) & (self.days <= last)
        return MemberDays(self.members, self.days[kept], *(getattr(self, name)[:, kept] for name in SUMMED))


SUMMED = ("n", "actual", "absolute", "squared", "error", "promised")


def sum_by_day(rows: pa.Table, *, members: tuple[str, ...] | None = None) -> MemberDays:
    """Sums by member and day of rows with ``member``, ``ts`` and the columns of ``SUMMED`` (``promised`` may lack).

    ``members`` gives the order and leaves out all others (None: those of the rows, by name). A few passes over the rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = members if members is not None else tuple(sorted(pc.unique(rows["member"]).to_pylist()))
    places = pc.index_in(rows["member"], pa.array(names, pa.string()))
    kept = pc.is_valid(places)
    rows, places = rows.filter(kept), np.asarray(pc.drop_null(places), dtype=np.int64)
    days = rows["ts"].to_numpy().astype("datetime64[D]")
    if days.size == 0:
        return MemberDays(names, np.zeros(0, "datetime64[D]"), *(np.zeros((len(names), 0)) for _ in SUMMED))
    first, n_days = days.min(), int((days.max() - days.min()).astype(int)) + 1
    cells = places * n_days + (days - first).astype(np.int64)

    def total(name: str) -> Sums:
        if name not in rows.column_names:
            return np.zeros((len(names), n_days))
        weights = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        summed: Sums = np.bincount(cells, weights=weights, minlength=len(names) * n_days).astype(np.float64)
        return summed.reshape(len(names), n_days)

    return MemberDays(names, first + np.arange(n_days), *(total(name) for name in SUMMED))
