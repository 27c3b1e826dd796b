from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.data.distances import DriftLimits, compare_profiles, measure_distance
from endcap.loop.data.records import QUANTILES, ColumnDistance, ColumnProfile


def profiled(values: Any, name: str = "x", **options: Any) -> ColumnProfile:
    return profile_columns(pa.table({name: values}), n_threads=1, **options)[0]


def as_ingested(values: list[float], n_null: int = 0) -> ColumnProfile:
    """A profile without a histogram, as an ingest keeps it."""
    return ColumnProfile(
        name="x",
        type="number",
        n=len(values) + n_null,
        n_null=n_null,
        n_distinct=len(set(values)),
        least=min(values),
        most=max(values),
        quantiles=[float(q) for q in np.quantile(values, QUANTILES)],
    )


def texts(top: list[tuple[str, int]], n: int) -> ColumnProfile:
    return ColumnProfile(name="s", type="text", n=n, n_null=0, n_distinct=len(top), top=top)


def measured(a: Any, b: Any) -> ColumnDistance:
    return measure_distance(profiled(a), profiled(b))


@settings(deadline=None)  # the first call imports
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_from_quantiles_the_index_is_zero_to_itself_and_never_negative(a: list[float], b: list[float]) -> None:
    same, other = measure_distance(as_ingested(a), as_ingested(a)), measure_distance(as_ingested(a), as_ingested(b))
    assert (same.psi, same.ks, same.wasserstein) == (0.0, 0.0, 0.0)
    assert other.psi is not None
    assert other.psi >= 0.0
    assert (other.ks_error, other.wasserstein_error) == (None, None), "of quantiles alone there is no bound"


def test_from_quantiles_the_index_is_near_that_of_the_values() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0, 1, 20_000), rng.normal(0.5, 1, 20_000)
    edges = np.quantile(a, QUANTILES)
    p, q = (np.bincount(np.searchsorted(edges, v), minlength=10) / v.size for v in (a, b))
    expected = float(((q - p) * np.log(q / p)).sum())
    assert measure_distance(as_ingested(list(a)), as_ingested(list(b))).psi == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("profile", [as_ingested, profiled])
def test_the_index_grows_with_the_shift_and_sees_ties_and_nulls(profile: Any) -> None:
    zeros = profile([0.0] * 80 + [1.0] * 20)
    fewer, others = profile([0.0] * 40 + [1.0] * 60), profile([5.0] * 100)
    near, far = measure_distance(zeros, fewer).psi, measure_distance(zeros, others).psi
    assert near is not None
    assert far is not None
    assert 0.1 < near < far
    constants = measure_distance(profile([1.0] * 100), profile([0.0] * 100))
    assert (constants.psi or 0.0) > 1.0
    assert (constants.ks, constants.wasserstein) == (1.0, pytest.approx(1.0))


def test_missing_and_infinite_values_are_bins_of_the_index() -> None:
    values = list(np.arange(200.0))
    for other in ([*values, *[None] * 200], [*values, *[math.inf] * 200]):
        found = measured(values, other)
        assert (found.psi or 0.0) > 1.0
        assert found.ks == 0.0, "the finite numbers are the same"


def test_distance_of_text() -> None:
    a = texts([("x", 70), ("y", 30)], 100)
    assert measure_distance(a, a).psi == 0.0
    assert measure_distance(a, texts([("x", 700), ("y", 300)], 1000)).psi == pytest.approx(0.0)
    assert (measure_distance(a, texts([("z", 100)], 100)).psi or 0.0) > 1.0


def test_categories_that_come_and_go_are_named_with_their_rows() -> None:
    found = measured(["a"] * 60 + ["b"] * 40, ["a"] * 60 + ["c"] * 30 + ["d"] * 10 + [None] * 5)
    assert (found.new, found.n_new, found.vanished, found.n_vanished) == ([("c", 30), ("d", 10)], 2, [("b", 40)], 1)
    assert found.null_share_b == pytest.approx(5 / 105)


def test_whole_numbers_are_categories_too() -> None:
    found = measured([1, 2, 2, 3] * 50, [1, 2, 2, 9] * 50)
    assert (found.new, found.vanished) == ([("9", 50)], [("3", 50)])
    assert found.ks == pytest.approx(0.25)
    assert found.wasserstein == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("type_", [pa.float64(), pa.int8()])
def test_a_bool_beside_numbers_is_zero_and_one(type_: pa.DataType) -> None:
    flags = [True] * 120 + [False] * 80 + [None] * 10
    numbers = pa.array(flags).cast(pa.int8()).cast(type_)
    for a, b in ((flags, numbers), (numbers, flags)):
        same = measured(a, b)
        assert (same.psi, same.ks, same.ks_error, same.wasserstein, same.reason) == (0.0, 0.0, 0.0, 0.0, "")
    other = measured(flags, pa.array([1.0] * 200))
    assert other.ks == pytest.approx(0.4)
    assert other.wasserstein_scaled == pytest.approx(0.4 / math.sqrt(0.24))
    assert measure_distance(profiled(flags, personal=["x"]), profiled(numbers)).reason == "it was bool and is " + profiled(numbers).type


def test_a_list_that_is_not_whole_names_no_newcomer() -> None:
    known = texts([("a", 50), ("b", 30)], 100)  # twenty rows of other texts
    found = measure_distance(known, texts([("a", 50), ("z", 50)], 100))
    assert (found.n_new, found.new) == (None, [])
    assert (found.n_vanished, found.vanished) == (1, [("b", 30)])


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([1.0] * 200, ["a"] * 200, "it was number and is text"),
        ([True] * 200, ["true"] * 200, "it was bool and is text"),
    ],
)
def test_another_type_is_told_and_comes_first(a: Any, b: Any, reason: str) -> None:
    rng = np.random.default_rng(1)
    before, after = rng.normal(0, 1, 500), rng.normal(9, 1, 500)
    found = compare_profiles([profiled(before, "far"), profiled(a)], [profiled(after, "far"), profiled(b)])
    assert [d.column for d in found.distances] == ["x", "far"]
    assert (found.distances[0].reason, found.distances[0].drifted, found.distances[0].psi) == (reason, True, None)


@pytest.mark.parametrize("empty", [[], [None] * 3, [math.nan] * 3])
@pytest.mark.parametrize("full", [[1.5, 2.5], ["a", "b"], [True, False], [1, 2]])
def test_columns_without_rows_or_values(empty: list[Any], full: list[Any]) -> None:
    type_ = pa.array(full).type
    nothing = profiled(pa.array(empty, type_ if not (empty and empty[0]) else pa.float64()))
    if nothing.n and nothing.type != profiled(full).type:
        nothing = profiled(pa.nulls(len(empty)))
    for a, b in ((nothing, profiled(full)), (profiled(full), nothing), (nothing, nothing)):
        found = measure_distance(a, b)
        assert (found.ks, found.wasserstein, found.chi_square, found.enough) == (None, None, None, False)
        if not empty:
            assert found.psi is None
            assert found.reason.endswith("rows")
        elif a is not b:
            assert (found.psi or 0.0) > 1.0, "all became missing, or none is any more"
        else:
            assert found.psi == 0.0


def test_a_column_that_went_missing_altogether_has_drifted() -> None:
    rng = np.random.default_rng(2)
    a, b = profiled(rng.normal(size=1000)), profiled(pa.nulls(1000, pa.float64()))
    (found,) = compare_profiles([a], [b]).distances
    assert found.drifted
    assert (found.null_share_a, found.null_share_b, found.ks) == (0.0, 1.0, None)


def test_personal_columns_and_those_of_too_many_texts_are_compared_by_what_is_missing() -> None:
    rng = np.random.default_rng(3)
    ages = profiled(rng.integers(18, 90, 500), personal=["x"])
    found = measure_distance(ages, ages)
    assert (found.psi, found.null_p) == (None, 1.0)
    assert "counts only" in found.reason
    names = profiled([f"n{i}" for i in range(1001)])
    assert measure_distance(names, names).reason == "the reference has too many categories to list"
    days = profiled(pa.array(range(300), pa.int32()).cast(pa.date32()))
    assert measure_distance(days, days).reason == "values of type date are not compared"


def test_few_rows_are_measured_but_not_judged() -> None:
    found = compare_profiles([profiled([1.0] * 99)], [profiled([9.0] * 5000)]).distances[0]
    assert (found.ks, found.enough, found.drifted, found.q) == (1.0, False, False, None)
    assert found.reason == "only 99 rows on one side; 100 are needed to judge"
    judged = compare_profiles([profiled([1.0] * 99)], [profiled([9.0] * 5000)], limits=DriftLimits(least_n=50)).distances[0]
    assert (judged.enough, judged.drifted, judged.reason) == (True, True, "")


def test_a_small_difference_beyond_chance_is_no_drift_and_a_large_one_by_chance_neither() -> None:
    rng = np.random.default_rng(4)
    a, b = profiled(rng.normal(size=200_000)), profiled(rng.normal(0.03, 1, 200_000))
    (found,) = compare_profiles([a], [b]).distances
    assert found.q is not None
    assert found.q < 1e-6
    assert not found.drifted
    small = [profiled(rng.normal(size=110), f"c{i}") for i in range(60)]
    others = [profiled(rng.normal(size=110), f"c{i}") for i in range(60)]
    found_small = compare_profiles(small, others).distances
    assert max(d.ks or 0.0 for d in found_small) > 0.15, "among many small samples some are far apart"
    assert not any(d.drifted for d in found_small)


def test_columns_are_ranked_by_importance_times_distance() -> None:
    rng = np.random.default_rng(5)
    shifts = {"little": 0.1, "much": 2.0, "some": 0.7, "none": 0.0}
    a = [profiled(rng.normal(size=2000), name) for name in shifts]
    b = [profiled(rng.normal(shift, 1, 2000), name) for name, shift in shifts.items()]
    assert [d.column for d in compare_profiles(a, b).distances] == ["much", "some", "little", "none"]
    leaned = compare_profiles(a, b, importances={"some": 0.9, "much": 0.1}).distances
    assert [d.column for d in leaned] == ["some", "much", "little", "none"]
    assert leaned[0].weight == pytest.approx(0.9 * (leaned[0].jensen_shannon or 0.0))
    assert leaned[2].importance == 0.0
    assert {d.column for d in leaned if d.drifted} == {"much", "some"}, "what has drifted does not depend on what is leaned on"


def test_columns_of_one_side_are_listed_apart() -> None:
    found = compare_profiles([profiled([1.0], "a"), profiled([1.0], "b")], [profiled([1.0], "b"), profiled([1.0], "c")])
    assert ([d.column for d in found.distances], found.vanished, found.new) == (["b"], ("a",), ("c",))
    assert compare_profiles([], []).distances == ()


def test_bad_limits_and_doubled_columns_are_refused() -> None:
    with pytest.raises(InvalidInput, match="least_n is 0"):
        DriftLimits(least_n=0)
    with pytest.raises(InvalidInput, match="limit of psi is nan"):
        DriftLimits(psi=math.nan)
    twice = [profiled([1.0]), profiled([1.0])]
    with pytest.raises(InvalidInput, match="same name: \\['x'\\]"):
        compare_profiles(twice, twice)


def test_extreme_numbers_leave_finite_distances() -> None:
    a, b = [-9e299, 0.0, 9e299, 1e308, -math.inf], [5e-324, -5e-324, 0.0, math.inf, math.nan]
    for found in (measured(a, b), measured(b, a), measured([1e16, 1e16 + 2], [1e16, 1e16 + 4])):
        figures = [value for name in found.__struct_fields__ if isinstance(value := getattr(found, name), float)]
        assert all(map(math.isfinite, figures)), found
