"""Kernels over the values of one column: which bin each falls into, what they sum to, and how many different ones there are.

Each sees a value once, holds no lock and starts no thread: columns are shared among threads by the caller. The first call compiles for some
seconds; numba keeps the machine code in its cache on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
Hashes = NDArray[np.uint64]

N_SLOTS = 4096
GREATEST = 1e300  # from here on a number counts as infinite: what is computed of it would be
_MOST_KEPT = 2048  # half of the slots, so that a search is short
_BLOCK = 512  # values whose bins are found together: what is compared stays in the nearest cache
_ALL = np.uint64(2**64 - 1)

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_compiled: Callable[[_Kernel], _Kernel] = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def _mix(h: Any) -> Any:
    """Spread 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@_compiled
def _keep(h: Any, slots: Hashes, state: Hashes) -> None:
    """Put a hash below the threshold ``state[0]`` among the ``state[1]`` kept ones; when they are too many, halve them and lower it."""
    mask = np.uint64(slots.size - 1)
    place = h & mask
    while slots[place] != 0:
        if slots[place] == h:
            return
        place = (place + np.uint64(1)) & mask
    slots[place] = h
    state[1] += np.uint64(1)
    if state[1] <= _MOST_KEPT:
        return
    kept = np.sort(slots[slots != 0])
    n = kept.size // 2
    state[0] = kept[n]
    state[1] = np.uint64(n)
    slots[:] = 0
    for i in range(n):
        place = kept[i] & mask
        while slots[place] != 0:
            place = (place + np.uint64(1)) & mask
        slots[place] = kept[i]


@_compiled
def fold_numbers(
    values: Any, validity: NDArray[np.uint8], offset: int, edges: Doubles, counts: Counts, sums: Doubles, moments: Doubles, tallies: Counts
) -> None:
    """Fold numbers into bins and moments, in place. O(values x log bins), about 10 ns each.

    ``edges`` rise, one less than a power of two of them, filled up with infinity; ``counts`` and ``sums`` have one entry more: the last is of
    what lies above all edges. ``validity`` is Arrow's bitmap, from bit ``offset`` on (empty: all are valid). ``moments`` are a centre, the
    sums of the difference from it and of its square, the least and the most; ``sums`` add differences from the centre too. ``tallies`` are
    the missing or NaN, and the infinite (from ``GREATEST`` on).
    """
    bins = np.empty(_BLOCK, np.int64)
    block = np.empty(_BLOCK, np.float64)
    centre, total, squares, least, most = moments[0], moments[1], moments[2], moments[3], moments[4]
    for start in range(0, values.size, _BLOCK):
        n = 0
        stop = min(start + _BLOCK, values.size)
        for i in range(start, stop):
            value = np.float64(values[i])
            valid = validity.size == 0 or (validity[(offset + i) >> 3] >> ((offset + i) & 7)) & 1
            if valid and abs(value) < GREATEST:
                block[n] = value
                n += 1
            elif valid and value == value:  # noqa: PLR0124 - NaN is the value that is not itself
                tallies[1] += 1
            else:
                tallies[0] += 1
        bins[:n] = 0
        half = (edges.size + 1) >> 1
        while half > 0:
            for i in range(n):
                place = bins[i]
                bins[i] = place + half if edges[place + half - 1] < block[i] else place
            half >>= 1
        for i in range(n):
            apart = block[i] - centre
            counts[bins[i]] += 1
            sums[bins[i]] += apart
            total += apart
            squares += apart * apart
            least = min(least, block[i])
            most = max(most, block[i])
    moments[1], moments[2], moments[3], moments[4] = total, squares, least, most


@_compiled
def fold_distinct(bits: Any, magnitude: Any, infinity: Any, validity: NDArray[np.uint8], offset: int, slots: Hashes, state: Hashes) -> None:
    """Fold values, given as their bits in unsigned numbers, into a sample of their hashes from which ``estimate_distinct`` counts them.

    Adaptive sampling (Flajolet, Computing 43, 1990): hashes below a threshold are kept, which falls when they are too many. Where the values
    are floating, ``magnitude`` are all bits but the sign and ``infinity`` those of infinity: NaN is passed over, the two zeros are one. Else 0.
    ``slots`` and ``state`` are at first what ``start_distinct`` gives. O(values), about 1 ns each.
    """
    mask = np.uint64(slots.size - 1)
    for i in range(bits.size):
        if validity.size != 0 and not (validity[(offset + i) >> 3] >> ((offset + i) & 7)) & 1:
            continue
        value = bits[i]
        if magnitude != 0:
            size = value & magnitude
            if size > infinity:
                continue
            if size == 0:
                value = size
        h = _mix(np.uint64(value) + np.uint64(0x9E3779B97F4A7C15))
        if h < state[0] and slots[h & mask] != h and h != 0:  # most are seen already
            _keep(h, slots, state)


@_compiled
def fold_distinct_texts(payload: NDArray[np.uint8], offsets: Counts, validity: NDArray[np.uint8], offset: int, slots: Hashes, state: Hashes) -> None:
    """The same for texts: value i has the bytes from ``offsets[i]`` to ``offsets[i + 1]``. O(bytes); the hash is FNV-1a, mixed."""
    for i in range(offsets.size - 1):
        if validity.size != 0 and not (validity[(offset + i) >> 3] >> ((offset + i) & 7)) & 1:
            continue
        h = np.uint64(0xCBF29CE484222325)
        for place in range(offsets[i], offsets[i + 1]):
            h = (h ^ np.uint64(payload[place])) * np.uint64(0x100000001B3)
        h = _mix(h)
        if h < state[0] and h != 0:
            _keep(h, slots, state)


def start_distinct() -> tuple[Hashes, Hashes]:
    """Slots and state of a sample that has seen nothing."""
    return np.zeros(N_SLOTS, np.uint64), np.array([_ALL, 0], np.uint64)


def estimate_distinct(state: Hashes) -> int:
    """How many distinct values were folded: exact up to 2,048, then with a standard error of about 3 %.

    >>> slots, state = start_distinct()
    >>> fold_distinct(np.array([3, 1, 3, 3], np.uint64), np.uint64(0), np.uint64(0), np.empty(0, np.uint8), 0, slots, state)
    >>> estimate_distinct(state)
    2
    """
    threshold, n = int(state[0]), int(state[1])
    return n if threshold == int(_ALL) else round(n * 2**64 / threshold)
