from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.solutions.forecasting.hours.sampling import draw_rows

MakeHours = Callable[..., HourPanel]
TICKS = np.arange(738_000, 738_028)


@pytest.fixture(scope="module")
def panel(make_hours: MakeHours) -> HourPanel:
    return make_hours(n_items=40, n_stores=10, n_days=1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.0])
def test_about_the_share_is_drawn(share: float, panel: HourPanel) -> None:
    drawn = draw_rows(panel, TICKS, share=share, seed=1)
    assert drawn.mean() == pytest.approx(share, abs=0.02)
    if 0 < share < 1:
        assert np.ptp(drawn.mean(axis=0)) < 0.2
        assert (draw_rows(panel, TICKS, share=share, seed=2) != drawn).any()


def test_a_series_is_drawn_alike_wherever_it_stands(panel: HourPanel) -> None:
    drawn = draw_rows(panel, TICKS, share=0.3, seed=1)
    np.testing.assert_array_equal(draw_rows(panel.choose(slice(7, 90)), TICKS, share=0.3, seed=1), drawn[7:90])
    np.testing.assert_array_equal(draw_rows(panel, TICKS[5:], share=0.3, seed=1), drawn[:, 5:])
    assert draw_rows(panel.choose(slice(0, 0)), TICKS, share=0.3, seed=1).shape == (0, 28)
