"""Histograms of numbers in bins of about equal counts: how edges are chosen, what is merged, and which distribution a histogram stands for.

Counts at the edges are exact whatever the edges are; only between edges is a distribution guessed: the numbers of a bin are spread evenly over
the part of it that lies about their mean. So shares up to an edge and the mean are exact, and a share up to any other value is off by at most the
share of the bin it falls into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.data.records import Histogram

Doubles = NDArray[np.float64]

N_BINS = 116  # with the edges in the tails 125 or so: what kernels search in seven steps
_TAILS = 2.0 ** -np.arange(8, 13)  # shares beyond which there are edges besides
_DIGITS = 4  # of the positions of means
_AT_END = 1 - 1e-9
_CONTIGUOUS = 2.0**53  # beyond it not every whole number is a double


@dataclass(frozen=True, eq=False)
class Spread:
    """A distribution of numbers: ``counts[i]`` above ``edges[i]`` and up to ``edges[i + 1]``, with the mean at ``positions[i]`` of the way."""

    edges: Doubles
    counts: Doubles
    positions: Doubles

    @property
    def n(self) -> float:
        return float(self.counts.sum())

    @property
    def up_to(self) -> Doubles:
        """The share of the numbers up to each edge."""
        below = np.concatenate([[0.0], np.cumsum(self.counts)])
        return below / below[-1] if below[-1] > 0 else below

    @property
    def support(self) -> tuple[Doubles, Doubles]:
        """Where the numbers of each bin are taken to lie evenly: about their mean, as wide as the bin lets it be."""
        low, high = self.edges[:-1], self.edges[1:]
        wide = high - low
        start = np.where(self.positions > 0.5, high - 2 * (1 - self.positions) * wide, low)
        stop = np.where(self.positions > 0.5, high, low + 2 * self.positions * wide)
        return np.minimum(start, np.nextafter(high, -np.inf)), np.maximum(stop, np.nextafter(low, np.inf))

    def share_up_to(self, values: Doubles) -> Doubles:
        """The share of the numbers at or below each value. O(values x log bins)."""
        if self.counts.size == 0:
            return np.zeros(values.size)
        below, (start, stop) = self.up_to, self.support
        place = np.searchsorted(self.edges, values, side="left") - 1
        inside = np.clip(place, 0, self.counts.size - 1)
        with np.errstate(over="ignore"):  # far beyond a bin that is hardly wide
            way = np.clip((values - start[inside]) / (stop[inside] - start[inside]), 0.0, 1.0)
        way = np.where(values >= self.edges[inside + 1], 1.0, way)
        shares = below[inside] + (below[inside + 1] - below[inside]) * way
        return np.where(place < 0, 0.0, np.where(place >= self.counts.size, 1.0, shares))

    def quantiles(self, levels: Doubles) -> Doubles:
        """The value at which each level is reached."""
        below, (start, stop) = self.up_to, self.support
        place = np.clip(np.searchsorted(below, levels, side="left") - 1, 0, self.counts.size - 1)
        mass = below[place + 1] - below[place]
        way = np.divide(levels - below[place], mass, out=np.zeros(levels.size), where=mass > 0)
        inside = start[place] + (stop[place] - start[place]) * np.clip(way, 0.0, 1.0)
        return np.where(self.standing[place], self.edges[place + 1], inside)

    @property
    def standing(self) -> NDArray[np.bool_]:
        """Whether all numbers of each bin stand at its upper edge."""
        return (self.positions >= 1.0) | (self.counts == 0)

    def bound_between(self, edges: Doubles) -> tuple[Doubles, Doubles]:
        """The least and the most that the share up to a value can be, for every value between two edges, whatever the numbers are.

        ``edges`` rise, and hold all edges of this distribution. Shape (n_edges - 1,).
        """
        if self.counts.size == 0:
            return np.zeros(edges.size - 1), np.zeros(edges.size - 1)
        below = self.up_to
        place = np.searchsorted(self.edges, edges[1:], side="left") - 1
        inside = np.clip(place, 0, self.counts.size - 1)
        highest = np.where(self.standing[inside], below[inside], below[inside + 1])
        outside = np.where(place < 0, 0.0, 1.0)
        within = (place >= 0) & (place < self.counts.size)
        return np.where(within, below[inside], outside), np.where(within, highest, outside)

    @property
    def area_error(self) -> float:
        """How much area may lie between the shares up to a value of this distribution and those of the numbers it was counted from.

        Within a bin of unit width and mean m (below one half), the model is m / 2 from all numbers standing at the mean, in Wasserstein's
        distance, and whatever the numbers are they are at most 2 m (1 - m) from that.
        """
        near = np.minimum(np.minimum(self.positions, 1 - self.positions) + 10.0**-_DIGITS, 0.5) * ~self.standing
        return float((np.diff(self.edges) * self.counts * (near / 2 + 2 * near * (1 - near))).sum()) / max(self.n, 1.0)


def read_histogram(histogram: Histogram) -> Spread:
    return Spread(*(np.asarray(part, np.float64) for part in (histogram.edges, histogram.counts, histogram.positions)))


def write_histogram(spread: Spread) -> Histogram:
    """As it is stored: whole counts that add up to the same."""
    counts = np.diff(np.rint(np.concatenate([[0.0], np.cumsum(spread.counts)]))).astype(np.int64)
    positions = np.minimum(np.round(spread.positions, _DIGITS), 1 - 10.0**-_DIGITS)
    return Histogram(spread.edges.tolist(), counts.tolist(), np.where(spread.standing, 1.0, positions).tolist())


def choose_edges(values: Doubles, *, n_bins: int = N_BINS, whole: bool = False) -> Doubles:
    """Edges between which about as many of the sorted finite ``values`` lie, fewer in the tails; at most ``2 * n_bins``, none for no values.

    A value as frequent as a bin has edges of its own; where there are few values, each is an edge. Other edges are rounded to what tells them
    apart. ``whole``: the values are whole numbers. O(values).

    >>> choose_edges(np.array([0.0] * 90 + list(range(1, 11))), n_bins=4, whole=True).tolist()
    [-1.0, 0.0, 9.0, 10.0]
    """
    if values.size == 0:
        return values
    distinct = values[np.flatnonzero(np.diff(values, prepend=-np.inf))]
    if distinct.size <= n_bins:
        return distinct
    levels = np.concatenate([_TAILS, np.arange(1, n_bins) / n_bins, 1 - _TAILS])
    chosen, hits = np.unique(values[(levels * values.size).astype(np.int64)], return_counts=True)
    frequent = chosen[hits > 1]
    return np.union1d(np.concatenate([_below(frequent, whole=whole), frequent]), _shorten(chosen[hits == 1]))


def merge_spreads(spreads: Sequence[Spread], *, n_bins: int = N_BINS, kept: Doubles | None = None) -> Spread:
    """The distribution of all numbers together, in about ``n_bins`` bins; ``kept`` edges stay.

    At an edge that all have, counts are exact; elsewhere off by at most each one's share of the bin it falls into.
    O(spreads x edges of all x log bins).
    """
    spreads = [spread for spread in spreads if spread.counts.size]
    if not spreads:
        return Spread(*(np.empty(0) for _ in range(3)))
    grid = np.unique(np.concatenate([spread.edges for spread in spreads]))
    counts, moments = np.zeros(grid.size - 1), np.zeros(grid.size - 1)
    for spread in spreads:
        fine = spread.n * np.diff(spread.share_up_to(grid))
        counts += fine
        moments += fine * _positions_on(spread, grid)
    total = np.cumsum(counts)
    levels = total[-1] * np.concatenate([_TAILS, np.arange(1, n_bins) / n_bins, 1 - _TAILS])
    picks = np.searchsorted(total, levels, side="left") + 1
    heavy = np.flatnonzero(counts >= total[-1] / n_bins)
    picks = np.unique(np.concatenate([[0, grid.size - 1], picks, heavy, heavy + 1]))
    if kept is not None and kept.size:
        picks = np.union1d(picks, np.flatnonzero(np.isin(grid, kept)))
    return _gather(grid, counts, moments, picks)


def coarsen(spread: Spread, *, n_bins: int) -> Doubles:
    """Edges of the spread between which about as many numbers lie, a frequent value in a bin of its own; the outermost bins are open.

    >>> constant = Spread(np.array([2.0, 3.0]), np.array([7.0]), np.array([1.0]))
    >>> coarsen(constant, n_bins=10).tolist()
    [2.0, 3.0]
    """
    below = spread.up_to
    levels = np.arange(1, n_bins) / n_bins
    above = np.clip(np.searchsorted(below, levels, side="left"), 1, below.size - 1)
    nearest = np.where(below[above] - levels <= levels - below[above - 1], above, above - 1)
    heavy = np.flatnonzero(np.diff(below) >= 1 / n_bins)
    inner = nearest[(nearest > 0) & (nearest < below.size - 1)]
    return spread.edges[np.unique(np.concatenate([inner, heavy, heavy + 1]))]


def close_bins(edges: Doubles, counts: NDArray[np.int64], means: Doubles, *, least: float, most: float, whole: bool) -> Spread:
    """A spread from bins that are open at both ends, one more than ``edges``, closed by the least and the most number.

    ``means`` are those of each bin's numbers, anything where it is empty.
    """
    first = int(edges.size > 0 and least > edges[0])
    stop = counts.size - int(edges.size > 0 and most <= edges[-1])
    lowest = _below(np.array([least]), whole=whole)
    closed = np.concatenate([lowest[first:], edges, np.array([most])[: stop - counts.size + 1]])
    counts, means, low, wide = counts[first:stop], means[first:stop], closed[:-1], np.diff(closed)
    with np.errstate(over="ignore"):  # of a bin that holds nothing, the mean may be anywhere
        return Spread(closed, counts.astype(np.float64), _place(low, wide, (means - low) / wide))


def _gather(grid: Doubles, counts: Doubles, moments: Doubles, picks: NDArray[np.int64]) -> Spread:
    starts = picks[:-1]
    edges, gathered = grid[picks], np.add.reduceat(counts, starts)
    low, wide = np.repeat(edges[:-1], np.diff(picks)), np.repeat(np.diff(edges), np.diff(picks))
    fine = np.divide(moments, counts, out=np.full(counts.size, 0.5), where=counts > 0)
    way = (grid[:-1] - low) / wide + fine * (np.diff(grid) / wide)
    means = np.add.reduceat(way * counts, starts)
    positions = np.divide(means, gathered, out=np.full(gathered.size, 0.5), where=gathered > 0)
    return Spread(edges, gathered, _place(edges[:-1], np.diff(edges), positions))


def _positions_on(spread: Spread, grid: Doubles) -> Doubles:
    """Where the mean of the spread's numbers lies in each bin of a finer grid, as a share of the way."""
    start, stop = spread.support
    low, high = grid[:-1], grid[1:]
    place = np.clip(np.searchsorted(spread.edges, high, side="left") - 1, 0, spread.counts.size - 1)
    undivided = (spread.edges[place] == low) & (spread.edges[place + 1] == high)
    with np.errstate(over="ignore"):  # beside a bin that is hardly wide, where none of these numbers are
        middle = (np.maximum(start[place], low) / 2 + np.minimum(stop[place], high) / 2 - low) / (high - low)
    return np.clip(np.where(undivided, spread.positions[place], middle), 0.0, 1.0)


def _below(values: Doubles, *, whole: bool) -> Doubles:
    """The edge next below each value."""
    next_below = np.nextafter(values, -np.inf)
    return np.where(np.abs(values) < _CONTIGUOUS, values - 1, next_below) if whole else next_below


def _place(low: Doubles, wide: Doubles, positions: Doubles) -> Doubles:
    """Positions within bins; 1 where but rounding keeps them from it, and where a bin has room for one number only."""
    at_end = (positions >= _AT_END) | (np.nextafter(low, np.inf) >= low + wide)
    return np.where(at_end, 1.0, np.clip(positions, 0.0, 1.0))


def _shorten(edges: Doubles) -> Doubles:
    """Rounded to a hundredth of the way to the nearest neighbour: shorter in a record, and no value of anybody."""
    if edges.size < 2:
        return edges
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        gaps = np.diff(edges)
        gap = np.minimum(np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]]))
        decimals = np.ceil(2 - np.log10(gap))
        scale = 10.0 ** np.abs(decimals)
        rounded = np.where(decimals >= 0, np.rint(edges * scale) / scale, np.rint(edges / scale) * scale)
    usable = (np.abs(decimals) <= 22) & np.isfinite(rounded)
    return np.unique(np.where(usable, rounded, edges))
