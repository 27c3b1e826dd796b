"""The point-in-time join: of a key's feature rows, the newest that was known at each instant asked for.

Pure: arrays in, numbers of rows out. A row is visible from the later of its event time and its known-at. Of each key the instants stand in order,
each with a slot for the greatest row by (event time, known-at, order) that became visible since the instant before. Rows pass by once, in any
order, and none is kept but in a slot; in the end the greatest slot up to an instant is its answer, so no row of a later instant is ever looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Instants = NDArray[np.int64]
Numbers = NDArray[np.int64]

MISSING = -1

_AHEAD = 128
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


def choose_rows(keys: Codes, at: Instants, *, rows: Iterable[RowTimes], n_keys: int, max_age_us: int | None) -> tuple[Numbers, RowTimes]:
    """For each key and instant the feature row that counts, by its place among those that count for any (MISSING: none does); and those rows.

    It is the greatest by (event time, known-at, order) among the key's rows whose event time and known-at are not after the instant; none
    where that row's event time is earlier than the instant less ``max_age_us`` (None: any age). ``keys`` are numbers below ``n_keys``, or
    MISSING for what matches nothing. ``rows`` come in batches and in any order; orders are greater than the least number of 64 bits. Of rows
    that are alike in all three, one is chosen. Cost: a look at each row, quickest where a key's rows come by the time from which they are
    visible, as most tables are kept, else with a binary search among the key's instants; memory: 60 bytes for each instant, whatever the rows are.
    """
    age_us = MISSING if max_age_us is None else max_age_us
    bounds, numbers = _group(_read_only(keys), n_keys)
    slots = _open_slots(bounds, numbers, _read_only(at))
    for batch in rows:
        row_keys, event_at, known_at, order = (_read_only(values) for values in (batch.keys, batch.event_at, batch.known_at, batch.order))
        _fill(row_keys, event_at, known_at, order, bounds, slots, age_us)
    places, used_keys, used = _answer(bounds, numbers, slots, len(keys), age_us)
    return places, RowTimes(used_keys, slots[used, _EVENT], slots[used, _KNOWN], slots[used, _ORDER])


_AT, _EVENT, _KNOWN, _ORDER = 0, 1, 2, 3  # of a slot: its instant, and the row in it; an order of _EVER says that there is none


def _read_only(values: NDArray[Any]) -> NDArray[Any]:
    """Arrays of the engine may not be written to; kernels are compiled once where none is."""
    values = np.ascontiguousarray(values).view()
    values.setflags(write=False)
    return values


@_compiled
def _group(keys: Any, n_keys: int) -> Any:
    """By key where its entries are looked at next and where they begin, both its beginning at first; and the entries by key."""
    bounds = np.zeros((n_keys + 1, 2), np.int64)
    for i in range(len(keys)):
        if keys[i] >= 0:
            bounds[keys[i] + 1, 1] += 1
    for k in range(n_keys):
        bounds[k + 1, 1] += bounds[k, 1]
    places = bounds[:-1, 1].copy()
    grouped = np.empty(bounds[n_keys, 1], np.int32)
    for i in range(len(keys)):
        k = keys[i]
        if k >= 0:
            grouped[places[k]] = i
            places[k] += 1
    bounds[:, 0] = bounds[:, 1]
    return bounds, grouped


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
def _open_slots(bounds: Any, numbers: Any, at: Any) -> Any:
    """A slot for each entry, which are put in the order of their instants within their key."""
    slots = np.empty((len(numbers), 4), np.int64)
    for k in range(len(bounds) - 1):
        own = numbers[bounds[k, 1] : bounds[k + 1, 1]]
        times = at[own]
        _sort(own, times)
        for j in range(len(own)):
            place = bounds[k, 1] + j
            slots[place, 0] = times[j]
            slots[place, 1] = slots[place, 2] = slots[place, 3] = _EVER
    return slots


@_compiled
def _search(slots: Any, start: int, stop: int, visible: int) -> int:
    """The first slot of a stretch whose instant is not before a row is visible; ``stop`` where there is none."""
    while start < stop:
        middle = (start + stop) >> 1
        if slots[middle, 0] < visible:
            start = middle + 1
        else:
            stop = middle
    return start


@_compiled
def _is_young(event_at: int, at: int, max_age_us: int) -> bool:
    """Whether a row counts at an instant by its age; instants so early that none is old enough are not wrapped around."""
    return max_age_us < 0 or at < _EVER + max_age_us or at - max_age_us <= event_at


@_compiled
def _fill(keys: Any, event_at: Any, known_at: Any, order: Any, bounds: Any, slots: Any, max_age_us: int) -> int:
    """Put rows into the slots of the first instants that see them, where they are greater than what is there.

    What is too old for the first instant that sees it is too old for all. The search begins where the key's row before went. Returns nothing of
    use: the slots of some rows are looked at together, so that one need not wait for another to come from memory, and a look must lead to something.
    """
    looked, last = 0, len(slots) - 1
    for start in range(0, len(keys), _AHEAD):
        end = min(start + _AHEAD, len(keys))
        for i in range(start, end):
            looked ^= slots[min(bounds[keys[i], 0], last), 0]
        for i in range(start, end):
            k, e, kn = keys[i], event_at[i], known_at[i]
            visible = max(e, kn)
            place, stop = bounds[k, 0], bounds[k + 1, 1]
            if place < stop and slots[place, 0] < visible:
                place += 1
                if place < stop and slots[place, 0] < visible:
                    place = _search(slots, place + 1, stop, visible)
                bounds[k, 0] = place
            elif place > bounds[k, 1] and slots[place - 1, 0] >= visible:
                place -= 1
                if place > bounds[k, 1] and slots[place - 1, 0] >= visible:
                    place = _search(slots, bounds[k, 1], place - 1, visible)
                bounds[k, 0] = place
            if place < stop and _is_young(e, slots[place, 0], max_age_us):
                best, known = slots[place, 1], slots[place, 2]
                if e > best or (e == best and (kn > known or (kn == known and order[i] > slots[place, 3]))):
                    slots[place, 1], slots[place, 2], slots[place, 3] = e, kn, order[i]
    return looked


@_compiled
def _answer(bounds: Any, numbers: Any, slots: Any, n: int, max_age_us: int) -> Any:
    """By entry the place of its answer among those that are used; their keys and slots."""
    chosen = np.full(n, -1, np.int64)
    keys, used = np.empty(len(slots), np.int32), np.empty(len(slots), np.int64)
    n_used = 0
    for k in range(len(bounds) - 1):
        best, told, e, kn, o = -1, -1, _EVER, _EVER, _EVER
        for j in range(bounds[k, 1], bounds[k + 1, 1]):
            at, own, last, order = slots[j, 0], slots[j, 1], slots[j, 2], slots[j, 3]
            if order != _EVER and (best < 0 or own > e or (own == e and (last > kn or (last == kn and order > o)))):
                best, e, kn, o = j, own, last, order
            if best >= 0 and _is_young(e, at, max_age_us):
                if best != told:  # what was passed never comes back
                    told = best
                    keys[n_used], used[n_used] = k, best
                    n_used += 1
                chosen[numbers[j]] = n_used - 1
    return chosen, keys[:n_used].copy(), used[:n_used].copy()
