from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.candidates.shrunk_rates import ShrunkRates

MakePanel = Callable[..., Panel]
NAN = np.nan
WEEK = np.array([0.8, 0.7, 0.8, 1.0, 1.2, 1.6, 0.9])


def test_rest_changes_nothing(make_panel: MakePanel, check_rest: Callable[[Any, Panel], None]) -> None:
    check_rest(ShrunkRates(), make_panel())


@pytest.mark.parametrize("n", [0, 13])
def test_less_than_two_weeks_are_refused(make_panel: MakePanel, n: int) -> None:
    with pytest.raises(InvalidInput, match=f"needs 14 days of history; there are {n}"):
        ShrunkRates().fit(make_panel(np.ones((3, n))), seed=1)
    with pytest.raises(InvalidInput, match="needs 14 days"):
        ShrunkRates().fit(make_panel(np.full((3, 60), NAN)), seed=1)
    assert ShrunkRates().fit(make_panel(np.ones((1, 14))), seed=1).predict(make_panel(np.ones((1, 14)))).shape == (1, 7)


def test_a_steady_week_is_continued(make_panel: MakePanel) -> None:
    values = np.array([[20.0], [300.0]]) * np.tile(WEEK, 12)
    panel = make_panel(values)
    answer = ShrunkRates().fit(panel, seed=1).predict(panel)
    np.testing.assert_allclose(answer, np.array([[20.0], [300.0]]) * WEEK, rtol=0.03)


def test_promotions_are_learned_and_applied(make_panel: MakePanel) -> None:
    promo = (np.random.default_rng(1).random((4, 91)) < 0.25).astype(np.float32)
    promo[:, 84:] = [[0, 1, 0, 1, 0, 1, 0]] * 4
    values = 50.0 * (1 + promo[:, :84])
    panel = make_panel(values, ahead={"promo": promo})
    answer = ShrunkRates().fit(panel, seed=1).predict(panel)
    np.testing.assert_allclose(answer[:, 1::2].mean() / answer[:, 0::2].mean(), 2.0, rtol=0.1)


def test_a_new_series_takes_the_profile_of_all_and_its_own_level(make_panel: MakePanel) -> None:
    old = make_panel(np.array([[20.0], [60.0]]) * np.tile(WEEK, 12))
    fit = ShrunkRates().fit(old, seed=1)
    young = np.full(84, NAN)
    young[-3:] = 100 * np.tile(WEEK, 12)[-3:]
    panel = make_panel([20.0 * np.tile(WEEK, 12), young, np.full(84, NAN)], keys={"store": ("0", "young", "unborn")})
    answer = fit.predict(panel)
    np.testing.assert_allclose(answer[1], 100 * WEEK, rtol=0.05)
    assert np.isnan(answer[2]).all()  # to be filled by its like


def test_gaps_zeros_and_closed_weekdays_do_no_harm(make_panel: MakePanel) -> None:
    values = np.tile(10 * WEEK, 12) * np.ones((4, 1))
    values[0, 20:60] = NAN
    values[1] = 0
    values[2, 6::7] = NAN
    values[3, ::2] = 0
    panel = make_panel(values)
    answer = ShrunkRates().fit(panel, seed=1).predict(panel)
    assert np.isfinite(answer).all()
    assert (answer >= 0).all()
    np.testing.assert_allclose(answer[0], 10 * WEEK, rtol=0.1)
    assert (answer[1] == 0).all()
    assert answer[2, 6] == 0


def test_the_scale_multiplies_the_whole_forecast(make_panel: MakePanel) -> None:
    panel = make_panel()
    fit = ShrunkRates().fit(panel, seed=1)
    np.testing.assert_allclose(replace(fit, scale=2.0).predict(panel), 2 * fit.predict(panel), rtol=1e-6)
