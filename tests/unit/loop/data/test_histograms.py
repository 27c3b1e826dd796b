from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.loop.data.histograms import Spread, choose_edges, close_bins, coarsen, merge_spreads, read_histogram, write_histogram
from endcap.loop.data.records import Histogram

numbers = st.lists(st.one_of(st.floats(-1e9, 1e9), st.integers(-4, 4).map(float)), min_size=1, max_size=200)


def spread(values: np.ndarray, edges: np.ndarray | None = None) -> Spread:
    values = np.sort(values)
    edges = choose_edges(values) if edges is None else edges
    place = np.searchsorted(edges, values, side="left")
    counts = np.bincount(place, minlength=edges.size + 1)
    means = np.divide(np.bincount(place, values, minlength=edges.size + 1), counts, out=np.zeros(counts.size), where=counts > 0)
    return close_bins(edges, counts, means, least=float(values[0]), most=float(values[-1]), whole=False)


def shares(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), at, side="right") / values.size


@settings(deadline=None)
@given(numbers)
def test_shares_are_exact_at_edges_and_bounded_between(values: list[float]) -> None:
    rows = np.array(values)
    found = spread(rows)
    assert found.share_up_to(found.edges) == pytest.approx(shares(rows, found.edges))
    grid = np.unique(np.concatenate([found.edges, rows, rows + 0.3, [-2e9, 2e9]]))
    low, high = found.bound_between(grid)
    inside = grid[:-1] + np.diff(grid) / 2
    between = inside[(inside > grid[:-1]) & (inside < grid[1:])]
    kept = (inside > grid[:-1]) & (inside < grid[1:])
    exact = shares(rows, between)
    assert (low[kept] <= exact + 1e-12).all()
    assert (exact <= high[kept] + 1e-12).all()


@settings(deadline=None)
@given(numbers)
def test_what_is_stored_reads_back(values: list[float]) -> None:
    found = spread(np.array(values))
    stored = write_histogram(found)
    again = read_histogram(msgspec.json.decode(msgspec.json.encode(stored), type=Histogram))
    assert (again.edges.tolist(), again.counts.tolist()) == (found.edges.tolist(), found.counts.tolist())
    assert again.positions == pytest.approx(found.positions, abs=1e-4)
    assert again.standing.tolist() == found.standing.tolist()
    assert write_histogram(again) == stored


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=5))
def test_merging_keeps_counts_means_and_shares(parts: list[list[float]]) -> None:
    together = np.concatenate([np.array(part) for part in parts])
    merged = merge_spreads([spread(np.array(part)) for part in parts])
    assert merged.n == pytest.approx(together.size)
    middle = merged.edges[:-1] + merged.positions * np.diff(merged.edges)
    assert float((middle * merged.counts).sum()) / merged.n == pytest.approx(together.mean(), rel=1e-6, abs=1e-6 * (1 + np.abs(together).max()))
    assert merged.edges[-1] >= together.max()
    assert merged.edges[0] < together.min()
    exact, bound = shares(together, merged.edges), sum(_largest(spread(np.array(part))) * len(part) for part in parts) / together.size
    assert np.abs(merged.up_to - exact).max() <= bound + 1e-9


def _largest(one: Spread) -> float:
    return float(np.max(one.counts * ~one.standing)) / one.n


def test_merging_is_exact_where_all_have_the_edge_and_nothing_merges_to_nothing() -> None:
    rng = np.random.default_rng(1)
    edges = np.array([-1.0, 0.0, 1.0])
    parts = [rng.normal(by, 1, 500) for by in (0, 1, 2)]
    own = [spread(part, np.union1d(edges, choose_edges(np.sort(part)))) for part in parts]
    merged = merge_spreads(own, kept=edges)
    assert np.isin(edges, merged.edges).all()
    assert merged.share_up_to(edges) == pytest.approx(shares(np.concatenate(parts), edges), abs=1e-12)
    nothing = merge_spreads([])
    assert (nothing.n, nothing.share_up_to(np.array([1.0])).tolist()) == (0.0, [0.0])
    assert choose_edges(np.empty(0)).size == 0


def test_frequent_values_have_bins_of_their_own() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([np.zeros(3000), np.full(500, 7.25), rng.normal(3, 2, 6500)])
    found = spread(values)
    at = dict(zip(found.edges[1:].tolist(), found.counts.tolist(), strict=True))
    assert (at[0.0], at[7.25]) == (3000, 500)
    wide = coarsen(found, n_bins=10)
    assert {np.nextafter(0.0, -1), 0.0} < set(wide.tolist())
    assert 8 <= wide.size <= 12
    assert found.quantiles(np.array([0.3])).tolist() == [0.0]


def test_edges_are_no_values_of_anybody_and_short() -> None:
    rng = np.random.default_rng(3)
    values = np.sort(rng.normal(30_000, 8_000, 5_000))
    edges = choose_edges(values)
    assert not np.isin(edges, values).any()
    assert max(len(repr(edge)) for edge in edges.tolist()) <= 10
    assert np.diff(shares(values, edges)).max() < 1.2 / 116
