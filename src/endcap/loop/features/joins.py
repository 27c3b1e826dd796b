"""The point-in-time join: of a key's feature rows, the newest that was known at each instant asked for.

Pure: arrays in, numbers of rows out. A row is visible from the later of its event time and its known-at. Walking a key's rows in the order in
which they become visible, and its instants beside them, the greatest row passed so far by (event time, known-at, order) is the answer: no row of
a later instant is ever looked at. Where rows come in that order already, as most tables are kept, nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Instants = NDArray[np.int64]
Numbers = NDArray[np.int64]

MISSING = -1
BYTES_A_ROW = 64
"""What a feature row takes while a choice is made: its key, times and order as they come and in one piece, and its place by key."""

_EVER = np.iinfo(np.int64).min
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_compiled: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True)


@dataclass(frozen=True)
class RowTimes:
    """Feature rows by what chooses between them: the number of their key (from 0), event time and known-at (microseconds, UTC), ingest order."""

    keys: Codes
    event_at: Instants
    known_at: Instants
    order: Numbers

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, numbers: Numbers) -> RowTimes:
        return RowTimes(self.keys[numbers], self.event_at[numbers], self.known_at[numbers], self.order[numbers])

    @classmethod
    def concat(cls, parts: Sequence[RowTimes]) -> RowTimes:
        """The rows of parts one after another; without a part, none."""
        columns = [[part.keys, part.event_at, part.known_at, part.order] for part in parts] or [[np.zeros(0, np.int64)] * 4]
        keys, *rest = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(keys.astype(np.int32, copy=False), *rest)


def choose_rows(keys: Codes, at: Instants, *, rows: RowTimes, n_keys: int, max_age_us: int | None) -> tuple[Numbers, Numbers]:
    """For each key and instant the feature row that counts, by its place among those that count for any (MISSING: none does); and their numbers.

    It is the greatest by (event time, known-at, order) among the key's rows whose event time and known-at are not after the instant; none
    where that row's event time is earlier than the instant less ``max_age_us`` (None: any age). ``keys`` are numbers below ``n_keys``, or
    MISSING for what matches nothing. Of rows that are alike in all three one is chosen. Cost: a pass over rows and instants, with a sort
    within each key whose rows or instants do not come in order; memory: 4 bytes for each row and instant, 8 for each answer.
    """
    given: tuple[Any, ...] = (keys, at, rows.keys, rows.event_at, rows.known_at, rows.order)
    own, times, row_keys, event_at, known_at, order = (np.require(values, requirements="W") for values in given)
    return _choose(own, times, row_keys, event_at, known_at, order, n_keys, MISSING if max_age_us is None else max_age_us)


def split_keys(counts: NDArray[np.int64], *, most: int) -> list[tuple[int, int]]:
    """Ranges of key numbers, each with at most ``most`` rows, or with a single key that has more. ``counts`` are the rows of each key.

    >>> split_keys(np.array([3, 3, 9, 0, 1]), most=6)
    [(0, 2), (2, 3), (3, 5)]
    """
    ends = np.cumsum(counts)
    ranges: list[tuple[int, int]] = []
    start = 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, before + most, side="right")), start + 1)
        ranges.append((start, end))
        start = end
    return ranges


@_compiled
def _group(keys: Any, n_keys: int) -> Any:
    """Where each key's entries begin, and the entries by key, each key's in the order in which they came. Those without a key are left out."""
    starts = np.zeros(n_keys + 1, np.int64)
    for i in range(len(keys)):
        if keys[i] >= 0:
            starts[keys[i] + 1] += 1
    for k in range(n_keys):
        starts[k + 1] += starts[k]
    places = starts[:-1].copy()
    grouped = np.empty(starts[n_keys], np.int32)
    for i in range(len(keys)):
        k = keys[i]
        if k >= 0:
            grouped[places[k]] = i
            places[k] += 1
    return starts, grouped


@_compiled
def _sort(entries: Any, values: Any) -> None:
    """Put entries and their values in the order of the values: by insertion while little is out of order, as it mostly is, else by merging."""
    left = 16 * len(values)
    for i in range(1, len(values)):
        value, entry, place = values[i], entries[i], i
        while place > 0 and values[place - 1] > value:
            values[place], entries[place] = values[place - 1], entries[place - 1]
            place -= 1
        values[place], entries[place] = value, entry
        left -= i - place
        if left < 0:
            order = np.argsort(values, kind="mergesort")  # n log n whatever the order, which quicksort is not
            values[:] = values[order]
            entries[:] = entries[order]
            return


@_compiled
def _choose(keys: Any, at: Any, row_keys: Any, event_at: Any, known_at: Any, order: Any, n_keys: int, max_age_us: int) -> Any:
    chosen = np.full(len(keys), -1, np.int64)
    used = np.empty(len(keys), np.int64)
    n_used = 0
    row_starts, rows = _group(row_keys, n_keys)
    starts, asked = _group(keys, n_keys)
    for k in range(n_keys):
        if starts[k] == starts[k + 1] or row_starts[k] == row_starts[k + 1]:
            continue
        own = rows[row_starts[k] : row_starts[k + 1]]
        visible = np.empty(len(own), np.int64)
        for i in range(len(own)):
            visible[i] = max(event_at[own[i]], known_at[own[i]])
        _sort(own, visible)
        instants = asked[starts[k] : starts[k + 1]]
        times = at[instants]
        _sort(instants, times)
        best, told, e, kn, o, i = -1, -1, _EVER, _EVER, _EVER, 0
        for j in range(len(instants)):
            while i < len(own) and visible[i] <= times[j]:
                row = own[i]
                i += 1
                if best < 0 or event_at[row] > e or (event_at[row] == e and (known_at[row] > kn or (known_at[row] == kn and order[row] > o))):
                    best, e, kn, o = row, event_at[row], known_at[row], order[row]
            if best >= 0 and (max_age_us < 0 or times[j] - max_age_us <= e):
                if best != told:  # what was passed never comes back
                    told = best
                    used[n_used] = best
                    n_used += 1
                chosen[instants[j]] = n_used - 1
    return chosen, used[:n_used].copy()
