"""How much a fit leans on each column that it reads."""

from __future__ import annotations

from collections import Counter

import numpy as np

from endcap.solutions.forecasting.backtests import PanelFit
from endcap.solutions.forecasting.candidates.average import FittedAverage
from endcap.solutions.forecasting.candidates.by_member import FittedByMember
from endcap.solutions.forecasting.candidates.trees import FittedTrees


def share_importances(fit: PanelFit) -> dict[str, float]:
    """The share of each column in what the fit's trees gained by it (Breiman et al., Classification and Regression Trees, 1984).

    The parts of an average, or of a choice by member, count alike; a method that is no tree leans on the series alone, so that its part is
    named by nothing, and the shares add up to less than 1. Empty for a fit without trees.
    """
    if isinstance(fit, FittedTrees):
        gains = fit.gains()
        return {name: float(gain) for name, gain in zip(fit.columns, gains / max(float(np.sum(gains)), 1e-300), strict=True) if gain > 0}
    if isinstance(fit, FittedAverage | FittedByMember):
        shares: Counter[str] = Counter()
        for part in fit.parts.values():
            for name, share in share_importances(part).items():
                shares[name] += share / len(fit.parts)  # type: ignore[assignment]  # counters add floats as well
        return dict(shares)
    return {}
