from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.kernels import (
    PanelSpec,
    compute_calendar_features,
    compute_panel_features,
    compute_same_phase_means,
)

NAN = np.nan
SALES = np.array([[1.0, 2.0, NAN, 4.0, 9.0]])


def column(name: str, *, values: np.ndarray = SALES, **options: Any) -> list[float]:
    kind, _, number = name.rpartition("_")
    field = {"lag": "lags", "mean": "windows", "deviation": "windows", "same_phase_mean": "same_phase"}[kind]
    spec = PanelSpec(**{field: (int(number),)}, period=options.pop("period", 7))
    return compute_panel_features(values, spec=spec, **options).column(name)[0].tolist()


def test_a_lag_is_the_value_that_many_ticks_before() -> None:
    np.testing.assert_equal(column("lag_0"), [1, 2, NAN, 4, 9])
    np.testing.assert_equal(column("lag_2", shift=1), [NAN, NAN, 1, 2, NAN])
    np.testing.assert_equal(column("lag_5"), [NAN] * 5)


def test_a_rolling_mean_skips_what_is_missing_and_ends_before_the_shift() -> None:
    np.testing.assert_equal(column("mean_2"), [1, 1.5, 2, 4, 6.5])
    np.testing.assert_equal(column("mean_2", shift=1), [NAN, 1, 1.5, 2, 4])
    np.testing.assert_equal(column("mean_1"), [1, 2, NAN, 4, 9])


def test_a_deviation_needs_two_values() -> None:
    expected = [NAN, 0.5**0.5, 0.5**0.5, 2**0.5, 12.5**0.5]
    np.testing.assert_allclose(column("deviation_3"), expected, rtol=1e-7)


def test_a_window_longer_than_the_series_holds_all_that_was_seen() -> None:
    np.testing.assert_allclose(column("mean_1000000000"), [1, 1.5, 1.5, 7 / 3, 4], rtol=1e-7)


def test_the_same_phase_counts_the_tick_itself_only_without_a_shift() -> None:
    np.testing.assert_equal(column("same_phase_mean_2", period=2), [1, 2, 1, 3, 9])
    np.testing.assert_equal(column("same_phase_mean_2", period=2, shift=1), [NAN, NAN, 1, 2, 1])
    np.testing.assert_equal(column("same_phase_mean_2", period=2, shift=3), [NAN, NAN, NAN, NAN, 1])


def test_features_come_in_the_order_of_their_names_and_each_is_contiguous() -> None:
    spec = PanelSpec(lags=(7, 1), windows=(3,), same_phase=(2,))
    features = compute_panel_features(SALES, spec=spec)
    assert features.names == ("lag_7", "lag_1", "mean_3", "deviation_3", "same_phase_mean_2")
    assert all(features.column(name).flags.c_contiguous for name in features.names)
    assert np.shares_memory(features.column("lag_1"), features.values)
    assert PanelSpec(windows=(3,), deviations=False).names == ("mean_3",)


def test_the_tick_after_the_last_can_be_asked_for_as_far_as_the_shift_reaches() -> None:
    assert column("mean_2", shift=1, ticks=[5]) == [6.5]
    with pytest.raises(InvalidInput, match=r"ticks must lie from 0 to 5 \(the panel has 5 ticks and the shift is 1\), got 6"):
        column("mean_2", shift=1, ticks=[6])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("level", [0.1, 1e8, -3e30])
def test_a_constant_series_deviates_by_exactly_nothing(dtype: type, level: float) -> None:
    values = np.full((1, 500), level, dtype=dtype)
    assert set(column("deviation_28", values=values)[1:]) == {0.0}
    assert set(column("mean_28", values=values)) == {float(np.float32(level))}


def test_a_spike_leaves_nothing_behind_when_it_has_left_the_window() -> None:
    values = np.tile([0.1, 0.3], 100)[np.newaxis]
    quiet = column("deviation_10", values=values)[60:]
    values[0, 40] = 1e15
    assert column("deviation_10", values=values)[60:] == quiet
    assert quiet[0] == pytest.approx((10 / 9) ** 0.5 * 0.1, rel=1e-6)


def test_an_infinite_value_stays_in_the_windows_that_hold_it() -> None:
    values = np.array([[1.0, np.inf, 3.0, 4.0, 5.0]])
    means = column("mean_2", values=values)
    assert not np.isfinite(means[1:3]).any()
    assert means[3:] == [3.5, 4.5]


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_an_empty_panel_gives_empty_features(shape: tuple[int, int]) -> None:
    values = np.empty(shape, dtype=np.float32)
    spec = PanelSpec(lags=(1,), windows=(2,), same_phase=(1,))
    assert compute_panel_features(values, spec=spec, shift=1).values.shape == (4, *shape)
    assert compute_same_phase_means(values, origins=[0], leads=[0, 1], counts=[1]).shape == (1, shape[0], 1, 2)


def test_a_panel_without_ticks_gives_nothing_but_missing_features() -> None:
    features = compute_panel_features(np.empty((2, 0)), spec=PanelSpec(lags=(1,), windows=(2,)), shift=1, ticks=[0])
    assert features.values.shape == (3, 2, 1)
    assert np.isnan(features.values).all()


def test_no_ticks_wanted_gives_no_columns() -> None:
    assert compute_panel_features(SALES, spec=PanelSpec(lags=(1,)), ticks=[]).values.shape == (1, 1, 0)


def test_the_panel_is_read_only_and_unchanged() -> None:
    values = SALES.copy()
    values.flags.writeable = False
    np.testing.assert_equal(column("mean_2", values=values), [1, 1.5, 2, 4, 6.5])
    np.testing.assert_equal(values, SALES)


def test_calls_from_several_threads_all_answer_right() -> None:
    values = np.arange(4000.0).reshape(20, 200)
    spec = PanelSpec(lags=(1,), windows=(7,))
    expected = compute_panel_features(values, spec=spec).values
    answers: list[np.ndarray] = []

    def call() -> None:
        answers.append(compute_panel_features(values, spec=spec).values)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0]], "got list. Hint: np.asarray"),
        (np.zeros((2, 2), dtype=np.int64), "got dtype int64. Hint: values.astype"),
        (np.zeros((2, 2), dtype=">f8"), "got dtype >f8"),
        (np.zeros(3), r"got shape \(3,\). Hint: one series alone"),
        (np.zeros((3, 2)).T, "got another memory order. Hint: np.ascontiguousarray"),
        (np.ma.masked_array(np.zeros((2, 2))), r"got a masked array. Hint: values.filled"),
    ],
)
def test_what_is_not_a_panel_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compute_panel_features(values, spec=PanelSpec(lags=(1,)))
    with pytest.raises(InvalidInput, match=message):
        compute_same_phase_means(values, origins=[0], leads=[0], counts=[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "PanelSpec names no feature"),
        ({"lags": [1, 7]}, r"PanelSpec.lags must be a tuple of whole numbers, got \[1, 7\]. Hint: write lags=\(7, 28\)"),
        ({"lags": (-1,)}, "PanelSpec.lags must be a whole number from 0 to 2147483647, got -1"),
        ({"lags": (2**31,)}, "got 2147483648"),
        ({"lags": (True,)}, "got True"),
        ({"lags": (1.0,)}, "got 1.0"),
        ({"windows": (0,)}, "PanelSpec.windows must be a whole number from 1"),
        ({"windows": (7, 7)}, r"PanelSpec.windows names 7 more than once: \(7, 7\)"),
        ({"same_phase": (0,)}, "PanelSpec.same_phase must be a whole number from 1"),
        ({"lags": (1,), "period": 0}, "PanelSpec.period must be a whole number from 1"),
        ({"windows": (1,), "deviations": 1}, "PanelSpec.deviations must be True or False, got 1"),
    ],
)
def test_a_spec_that_cannot_be_computed_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        PanelSpec(**fields)


def test_a_lag_that_would_leak_is_refused() -> None:
    message = r"Lag 0 is smaller than the shift 1: .* tick t - 0 .* no later than t - 1. Hint: use lags of 1 and more"
    with pytest.raises(InvalidInput, match=message):
        compute_panel_features(SALES, spec=PanelSpec(lags=(7, 0)), shift=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": -1}, "shift must be a whole number from 0"),
        ({"ticks": [1, 1]}, "ticks must increase strictly. Hint: np.unique"),
        ({"ticks": [2, 1]}, "ticks must increase strictly"),
        ({"ticks": [-1]}, "got -1"),
        ({"ticks": [1.0]}, "one-dimensional array of whole numbers, got dtype float64"),
        ({"ticks": [[1]]}, r"shape \(1, 1\)"),
    ],
)
def test_ticks_and_shifts_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compute_panel_features(SALES, spec=PanelSpec(windows=(2,)), **options)


def test_a_feature_that_was_not_computed_is_named() -> None:
    features = compute_panel_features(SALES, spec=PanelSpec(lags=(1,)))
    with pytest.raises(InvalidInput, match=r"no feature 'lag_2'.*'lag_1'.* Hint: did you mean 'lag_1'\?"):
        features.column("lag_2")


def test_same_phase_means_look_past_gaps_as_far_as_four_times_the_count() -> None:
    values = np.full((1, 12), NAN)
    values[0, [0, 4, 10]] = [8.0, 6.0, 5.0]  # period 2: the even ticks before 12 are 10, 8, 6, 4, 2, 0
    means = compute_same_phase_means(values, origins=[12, 10], leads=[0], counts=[2, 1, 3], period=2)
    np.testing.assert_allclose(means[:, 0, 0, 0], [5.5, 5.0, 19 / 3], rtol=1e-7)
    np.testing.assert_allclose(means[:, 0, 1, 0], [7.0, 6.0, 7.0], rtol=1e-7)
    values[0, 4] = NAN
    # From 10 the candidates are 8, 6, 4, 2, 0: a count of 1 looks at four of them and so not at tick 0.
    far = compute_same_phase_means(values, origins=[10], leads=[0], counts=[1, 2], period=2)
    np.testing.assert_equal(far[:, 0, 0, 0], [NAN, 8.0])


def test_a_lead_beyond_a_period_uses_the_latest_seen_tick_of_its_phase() -> None:
    values = np.arange(14.0).reshape(1, 14)
    means = compute_same_phase_means(values, origins=[14, 7, 0], leads=[0, 6, 7, 20], counts=[1])
    np.testing.assert_equal(means[0, 0], [[7, 13, 7, 13], [0, 6, 0, 6], [NAN] * 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origins": [6]}, r"origins must lie from 0 to 5 \(the panel has 5 ticks\), got 6"),
        ({"leads": [-1]}, "leads must lie from 0"),
        ({"counts": [0]}, "counts must be a whole number from 1"),
        ({"period": 0}, "period must be a whole number from 1"),
    ],
)
def test_impossible_direct_forecasts_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compute_same_phase_means(SALES, **{"origins": [5], "leads": [0], "counts": [1]} | options)


def test_a_calendar_over_a_leap_year_and_a_long_iso_year() -> None:
    calendar = compute_calendar_features(np.datetime64("2020-12-30"), n_ticks=6)
    assert calendar.weekday.tolist() == [2, 3, 4, 5, 6, 0]
    assert calendar.iso_week.tolist() == [53, 53, 53, 53, 53, 1]
    assert calendar.day_of_year.tolist() == [365, 366, 1, 2, 3, 4]
    assert calendar.month.tolist() == [12, 12, 1, 1, 1, 1]
    assert calendar.day_of_month.tolist() == [30, 31, 1, 2, 3, 4]
    assert compute_calendar_features(np.datetime64("2020-12-30"), n_ticks=0).weekday.size == 0


@pytest.mark.parametrize("start", [np.datetime64("NaT", "D"), np.datetime64("2020-01"), np.datetime64("2020-01-01T00"), "2020-01-01"])
def test_a_calendar_starts_on_a_day(start: Any) -> None:
    with pytest.raises(InvalidInput, match=r"must be a numpy\.datetime64 of unit D"):
        compute_calendar_features(start, n_ticks=1)


def test_a_calendar_has_no_negative_length() -> None:
    with pytest.raises(InvalidInput, match="n_ticks must be a whole number from 0 to 2147483647, got -1"):
        compute_calendar_features(np.datetime64("2020-01-01"), n_ticks=-1)
