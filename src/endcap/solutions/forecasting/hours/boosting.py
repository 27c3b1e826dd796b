"""Boosted trees of both kinds of row: LightGBM with Poisson's loss on ratios (Ke et al., *LightGBM*, 2017)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats
from endcap.solutions.forecasting.hours.forest import Forest
from endcap.solutions.forecasting.hours.methods import Learned

Doubles = NDArray[np.float64]

_LEAST_ROWS = 500
_FEW_ROWS = 20_000
_PSEUDO = 100.0


def tell_rows(features: Floats, told: Doubles, expected: Doubles, at: NDArray[np.int64], *, facts: tuple[str, ...]) -> Learned:
    """Rows as a shard tells them; ``at`` numbers what rows have in common (origin and lead)."""
    return {
        "features": features,
        "told": told.astype(np.float32),
        "expected": expected.astype(np.float32),
        "at": at.astype(np.int32),
        "facts": np.array(facts, dtype=np.str_),
    }


def facts_of(learned: Sequence[Learned]) -> tuple[str, ...]:
    """The known-ahead facts that the told rows read, in order."""
    return tuple(str(fact) for fact in learned[0]["facts"])


def boost_told(learned: Sequence[Learned], *, unit: float, name: str, rounds: int, seed: int, **parameters: Any) -> str:
    """Trees for the ratio of sold to expected, less what all rows of an origin and lead have in common.

    Raises InvalidInput for fewer than 500 rows, and where nothing was sold at all.
    """
    n = sum(len(one["told"]) for one in learned)
    if n < _LEAST_ROWS:
        raise InvalidInput(f"{name} needs {_LEAST_ROWS} rows with two weeks of history each to learn from; there are {n}.")
    told, expected = (np.concatenate([one[part] for one in learned]).astype(np.float64) for part in ("told", "expected"))
    if told.sum() <= 0:
        raise InvalidInput(f"{name} has nothing to learn from: in {n} rows nothing was sold.")
    at = np.concatenate([one["at"] for one in learned])
    common = (np.bincount(at, told) + _PSEUDO * unit) / (np.bincount(at, expected) + _PSEUDO * unit)
    expected = expected * common[at]
    features = np.concatenate([one["features"] for one in learned])
    return boost(features, np.maximum(told, 0.0) / expected, expected / unit, rounds=rounds, seed=seed, **parameters)


def boost(features: Floats, ratios: Doubles, weights: Doubles, *, rounds: int, seed: int, **parameters: Any) -> str:
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


def predict_ratios(forest: Forest, features: Floats, *, most: float) -> Doubles:
    """The ratio of each row, within a factor of ``most``."""
    ratios: Doubles = np.clip(forest.predict(features), 1.0 / most, most)
    return ratios


def _n_threads(n_rows: int) -> int:
    if n_rows < _FEW_ROWS:
        return 1  # several gain nothing, and on a busy machine spin for one another at every split: a hundredfold slower
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
