from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Panel, Statics
from endcap.solutions.forecasting.candidates.trees import GlobalTrees

MakePanel = Callable[..., Panel]
NAN = np.nan


def with_region(panel: Panel) -> Panel:
    return replace(panel, statics={"region": Statics((np.arange(panel.n_series) % 2).astype(np.int32), ("north", "south"))})


def test_rest_changes_nothing(make_panel: MakePanel, check_rest: Callable[[Any, Panel], None]) -> None:
    check_rest(GlobalTrees(), with_region(make_panel()))


def test_the_seed_decides(make_panel: MakePanel) -> None:
    panel = make_panel()
    assert (GlobalTrees().fit(panel, seed=1).predict(panel) != GlobalTrees().fit(panel, seed=2).predict(panel)).any()


def test_too_little_history_is_refused_and_said(make_panel: MakePanel) -> None:
    with pytest.raises(InvalidInput, match=r"needs 6 weeks of history beyond its horizon; there are 41 days"):
        GlobalTrees().fit(make_panel(np.ones((30, 41))), seed=1)
    with pytest.raises(InvalidInput, match=r"needs 500 rows to learn from; there are 294"):
        GlobalTrees().fit(make_panel(np.ones((3, 61))), seed=1)
    with pytest.raises(InvalidInput, match=r"needs 500 rows to learn from; there are 0"):
        GlobalTrees().fit(make_panel(np.full((30, 61), NAN)), seed=1)


def test_large_and_small_series_are_forecast_at_their_own_height(make_panel: MakePanel) -> None:
    week = np.array([0.8, 0.7, 0.8, 1.0, 1.2, 1.6, 0.9])
    levels = np.array([5.0, 20, 80, 320, 1000, 4000])[:, None]
    panel = make_panel(levels * np.tile(week, 20))
    answer = GlobalTrees().fit(panel, seed=1).predict(panel)
    np.testing.assert_allclose(answer[1:], (levels * week)[1:], rtol=0.12)


def test_a_series_without_history_is_left_out_and_a_new_one_is_answered(make_panel: MakePanel) -> None:
    panel = with_region(make_panel())
    fit = GlobalTrees().fit(panel, seed=1)
    values = panel.observed.copy()
    values[0], values[1, :-5] = NAN, NAN
    answer = fit.predict(replace(panel, observed=values, keys={"store": tuple(f"new {i}" for i in range(6))}))
    assert np.isnan(answer[0]).all()
    assert np.isfinite(answer[1:]).all()
    assert np.isnan(fit.predict(replace(panel, observed=np.full_like(values, NAN)))).all()
