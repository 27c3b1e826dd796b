from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.candidates.average import FittedAverage
from endcap.solutions.forecasting.candidates.baselines import WeekdayMean
from endcap.solutions.forecasting.candidates.trees import GlobalTrees
from endcap.solutions.forecasting.importances import share_importances


def test_trees_lean_on_the_feature_that_tells_what_comes(make_panel: Callable[..., Panel]) -> None:
    rng = np.random.default_rng(3)
    level = rng.uniform(1, 50, size=(6, 115)).astype(np.float32)
    target = np.repeat(level[:, ::7], 7, axis=1)[:, :100]  # a week is sold at the level that was known at its first day
    known = {"level of v@1": level[:, np.arange(101) // 7 * 7], "noise of v@1": rng.normal(size=(6, 101)).astype(np.float32)}
    panel = replace(make_panel(target), known=known, offered=tuple(known))
    fit = GlobalTrees().fit(panel, seed=1)
    shares = share_importances(fit)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["view level of v@1"] > 3 * shares.get("view noise of v@1", 0.0)
    halved = share_importances(FittedAverage({"trees": fit, "weekday_mean": WeekdayMean().fit(panel, seed=1)}))
    assert halved == pytest.approx({name: share / 2 for name, share in shares.items()})
    assert share_importances(WeekdayMean().fit(panel, seed=1)) == {}
