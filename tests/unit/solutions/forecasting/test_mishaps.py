from __future__ import annotations

from collections.abc import Callable

import numpy as np

from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.backtests import run_backtest
from endcap.solutions.forecasting.candidates.shrunk_rates import ShrunkRates
from endcap.solutions.forecasting.mishaps import WrongUnit

MakePanel = Callable[..., Panel]


def test_every_forecast_is_so_many_times_too_large_in_back_tests_and_after_a_rest(make_panel: MakePanel) -> None:
    panel = make_panel()
    for times in (0.5, 2.0, 1000.0):
        wrong = WrongUnit(times)
        fit = wrong.fit(panel, seed=1)
        right = ShrunkRates().fit(panel, seed=1).predict(panel)
        np.testing.assert_allclose(fit.predict(panel), right * times, rtol=1e-5)
        np.testing.assert_allclose(wrong.revive(fit.to_artefacts()).predict(panel), right * times, rtol=1e-5)
        test = run_backtest(panel, {"shrunk_rates": wrong}, origins=np.array([100, 107]), seed=1)
        plain = run_backtest(panel, {"shrunk_rates": ShrunkRates()}, origins=np.array([100, 107]), seed=1)
        np.testing.assert_allclose(test.forecasts["shrunk_rates"], plain.forecasts["shrunk_rates"] * times, rtol=1e-5)


def test_it_passes_for_an_ordinary_candidate() -> None:
    one, other = WrongUnit(2.0), ShrunkRates()
    assert (one.name, one.baseline, one.costly) == (other.name, other.baseline, other.costly)
