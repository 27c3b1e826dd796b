from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours.pulses import merge_pulses, name_groupings, survey_pulses
from endcap.solutions.forecasting.hours.shapes import Shapes
from endcap.solutions.forecasting.hours.tallies import fit_shapes, tally_shapes

MakeHours = Callable[..., HourPanel]
Cut = Callable[..., list[HourPanel]]


@pytest.fixture(scope="module")
def panel(make_hours: MakeHours) -> HourPanel:
    return make_hours()


@pytest.fixture(scope="module")
def shapes(panel: HourPanel) -> Shapes:
    return fit_shapes([tally_shapes(panel)])


def test_groups_are_those_of_likeness_region_and_place(shapes: Shapes) -> None:
    assert name_groupings(shapes) == ((), ("item",), ("family",), ("city", "item"), ("city", "family"), ("store",))


def test_blocks_add_up_in_any_order(panel: HourPanel, shapes: Shapes, cut: Cut) -> None:
    whole = merge_pulses([survey_pulses(panel, shapes, n_days=20)], shapes)
    parts = merge_pulses((survey_pulses(shard, shapes, n_days=20) for shard in reversed(cut(panel, (5, 5, 20)))), shapes)
    assert parts.n_groups == whole.n_groups
    for one in (whole, parts):
        assert one.told.shape == (one.n_groups, 20)
    at, again = whole.marks(panel), parts.marks(panel)
    np.testing.assert_allclose(parts.told[again], whole.told[at], rtol=1e-5)
    np.testing.assert_allclose(parts.expected[again], whole.expected[at], rtol=1e-5)
    np.testing.assert_allclose(parts.told[0], whole.told[0], rtol=1e-5)


def test_what_all_have_in_common_is_no_pulse(panel: HourPanel, shapes: Shapes) -> None:
    sold = panel.sold.copy()
    sold[:, -HOURS:] *= 3
    surge = HourPanel(**{**vars(panel), "sold": sold})
    pulses = merge_pulses([survey_pulses(surge, shapes, n_days=28)], shapes)
    common = pulses.common(surge, unit=shapes.unit)
    assert common[-1] > 1.8
    assert common.size == panel.n_seen // HOURS
    told = pulses.features(common, origins=np.array([common.size]), leads=np.array([0, 1]), unit=shapes.unit)
    assert np.abs(told[:, 0, :, 0].mean()) < 0.3  # the logarithm of 3 is 1.1
    assert not told[-1].any()  # who did not tell


def test_groups_that_did_not_tell_are_apart(panel: HourPanel, shapes: Shapes, cut: Cut) -> None:
    first, second = cut(panel, (7,))  # the first item's series alone
    pulses = merge_pulses([survey_pulses(first, shapes, n_days=28)], shapes)
    assert (pulses.marks(first) < pulses.n_groups).all()
    assert (pulses.marks(second)[0] == pulses.n_groups).all()


def test_surveys_must_be_of_the_same_days(panel: HourPanel, shapes: Shapes, cut: Cut) -> None:
    first, second = cut(panel, (7,))
    earlier = survey_pulses(second.seen_at(panel.origin - HOURS), shapes, n_days=28)
    with pytest.raises(InvalidInput, match="ends -1 days from the first"):
        merge_pulses([survey_pulses(first, shapes, n_days=28), earlier], shapes)


def test_nobody_may_tell(shapes: Shapes) -> None:
    pulses = merge_pulses([], shapes)
    assert (pulses.n_groups, pulses.told.shape) == (1, (1, 0))
