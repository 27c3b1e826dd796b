"""Boosted trees of both kinds of row: LightGBM with Poisson's loss on ratios (Ke et al., *LightGBM*, 2017)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels import Floats

_FEW_ROWS = 20_000


def boost(features: Floats, ratios: NDArray[np.float64], weights: NDArray[np.float64], *, rounds: int, seed: int, **parameters: Any) -> str:
    """Trees for ratios of sold to expected, weighted by the expected, as LightGBM's text. The same rows give the same trees."""
    import lightgbm

    settings = {
        "objective": "poisson",
        "poisson_max_delta_step": 0.7,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 10.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": _n_threads(len(features)),
        "verbose": -1,
        **parameters,
    }
    rows = lightgbm.Dataset(features, ratios, weight=weights, params={"verbose": -1, "num_threads": settings["num_threads"]})
    return str(lightgbm.train(settings, rows, num_boost_round=rounds).model_to_string())


def load_booster(text: str) -> Any:
    """LightGBM's model of its own text."""
    import lightgbm

    return lightgbm.Booster(model_str=text)


def predict_ratios(booster: Any, features: Floats, *, most: float) -> NDArray[np.float64]:
    """The ratio of each row, within a factor of ``most``. On one thread: shards run side by side."""
    if len(features) == 0:
        return np.ones(0)
    answer: NDArray[np.float64] = np.clip(booster.predict(features, num_threads=1), 1.0 / most, most)
    return answer


def _n_threads(n_rows: int) -> int:
    if n_rows < _FEW_ROWS:
        return 1  # several gain nothing, and on a busy machine spin for one another at every split: a hundredfold slower
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
