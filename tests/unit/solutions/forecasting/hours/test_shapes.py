from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours.shapes import Shapes, find_patterns
from endcap.solutions.forecasting.hours.tallies import correct_shapes, fit_shapes, tally_corrections, tally_shapes

MakeHours = Callable[..., HourPanel]


@pytest.fixture(scope="module")
def panel(make_hours: MakeHours) -> HourPanel:
    return make_hours(n_items=4, n_stores=9, n_days=70)


def learn(panel: HourPanel) -> Shapes:
    shapes = fit_shapes([tally_shapes(panel)])
    return correct_shapes(shapes, [tally_corrections(panel, shapes)])


@pytest.fixture(scope="module")
def shapes(panel: HourPanel) -> Shapes:
    return learn(panel)


def test_hours_and_kinds_of_day_are_found(shapes: Shapes) -> None:
    np.testing.assert_allclose(shapes.days.mean(axis=1), 1)
    np.testing.assert_allclose(shapes.hours.mean(axis=2), 1)
    assert shapes.days[0, 5:].mean() / shapes.days[0, :5].mean() == pytest.approx(1.4, abs=0.06)
    assert 10 <= shapes.hours[0, 0].argmax() <= 15  # the stores' peaks lie at 9 to 17 o'clock


def test_places_have_hours_of_their_own(shapes: Shapes) -> None:
    peaks = (shapes.hours[0, 0] * shapes.place_hours[1:, 0]).argmax(axis=1)
    assert shapes.place_labels == tuple(f"s{i}" for i in range(9))
    assert np.abs(peaks - (9 + np.arange(9))).max() <= 2


def test_levels_are_those_of_likeness(panel: HourPanel, shapes: Shapes) -> None:
    n_days = panel.n_seen // HOURS
    usual = np.array([np.nansum(np.nanmean(panel.demand[panel.statics["item"].codes == i].reshape(9, n_days, HOURS), axis=(0, 1))) for i in range(4)])
    rows = [1 + 2 + i for i in range(4)]  # after all series and the two families
    np.testing.assert_allclose(shapes.levels[rows] / usual, 1, atol=0.3)
    assert shapes.n_series == panel.n_series


def test_the_region_groups_places(panel: HourPanel, shapes: Shapes, make_hours: MakeHours) -> None:
    assert shapes.region == "city"
    roaming = Statics((np.arange(panel.n_series) // 7 % 2).astype(np.int32), ("east", "west"))
    assert learn(replace(panel, statics={**panel.statics, "city": roaming})).region is None
    assert learn(make_hours(n_stores=4)).region is None  # two cities of two stores: a city is hardly more than a store


def test_an_item_in_two_families_keeps_one(panel: HourPanel) -> None:
    codes = panel.statics["family"].codes.copy()
    codes[0] = 1 - codes[0]
    twice = learn(replace(panel, statics={**panel.statics, "family": Statics(codes, panel.statics["family"].labels)}))
    assert [sorted(labels) for labels in twice.labels] == [["i0", "i1", "i2", "i3"], ["f0", "f1"]]
    assert np.isfinite(twice.levels).all()


def test_rows_fall_back_from_the_nearest_label_that_is_known(panel: HourPanel, shapes: Shapes) -> None:
    some = panel.choose(np.arange(4))
    strange = replace(
        some,
        statics={
            "item": Statics(np.array([1, 0, -1, 0], np.int32), ("new", "i1")),
            "family": Statics(np.array([0, 0, 0, 1], np.int32), ("f1", "other")),
            "store": Statics(np.array([0, 1, -1, 0], np.int32), ("s3", "new")),
        },
    )
    family = 1 + shapes.labels[1].index("f1")
    np.testing.assert_array_equal(shapes.rows(strange), [3 + shapes.labels[0].index("i1"), family, family, 0])
    np.testing.assert_array_equal(shapes.place_rows(strange), [4, 0, 0, 4])
    bare = replace(some, statics={})
    assert not shapes.rows(bare).any()
    assert not shapes.place_rows(bare).any()


def test_shapes_put_to_rest_are_the_same(shapes: Shapes) -> None:
    again = Shapes.from_artefact(shapes.to_artefact())
    for name in ("days", "hours", "levels", "place_hours", "place_levels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(shapes, name))
    for name in ("likeness", "labels", "place", "place_labels", "region", "unit", "n_series"):
        assert getattr(again, name) == getattr(shapes, name)


def test_holidays_have_kinds_of_their_own(make_hours: MakeHours) -> None:
    holiday = np.zeros(40, dtype=np.bool_)
    holiday[8] = True  # a Tuesday
    panel = make_hours(n_days=14, calendar={"public_holiday": holiday})
    patterns = find_patterns(panel)
    assert len(patterns.of_day) == 16
    np.testing.assert_allclose(patterns.shares.sum(axis=1), 1)
    assert patterns.of_day[1] != patterns.of_day[8]
    assert panel.start == date(2024, 3, 4)


def test_nothing_told_gives_flat_shapes() -> None:
    shapes = fit_shapes([])
    assert shapes.days.tolist() == [[1.0] * 7]
    assert not shapes.levels.any()
