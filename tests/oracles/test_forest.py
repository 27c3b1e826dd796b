"""The forest against LightGBM itself, on its own trees."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.solutions.forecasting.hours.boosting import boost
from endcap.solutions.forecasting.hours.forest import read_forest


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize(("rounds", "leaves"), [(1, 2), (30, 31)])
@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 1000])
def test_leaves_are_those_that_lightgbm_finds(missing: float, rounds: int, leaves: int, n_rows: int) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 5)).astype(np.float32)
    x[:, 2] = np.round(x[:, 2])
    y = np.exp(0.5 * x[:, 0] + 0.3 * x[:, 2] * (x[:, 1] > 0)) + rng.random(4000)
    x[rng.random(x.shape) < missing] = np.nan
    text = boost(x, y, rng.random(4000), rounds=rounds, seed=1, num_leaves=leaves)
    asked = np.concatenate((x[:500], rng.normal(size=(500, 5)).astype(np.float32)))
    asked[::7, 1], asked[::5, 2], asked[::11, 0] = np.nan, 0.0, np.inf
    expected = lightgbm.Booster(model_str=text).predict(asked, num_threads=1)
    np.testing.assert_allclose(read_forest(text).predict(asked[:n_rows]), expected[:n_rows], rtol=1e-12)


def test_a_tree_may_have_one_leaf() -> None:
    text = boost(np.ones((600, 2), np.float32), np.full(600, 2.0), np.ones(600), rounds=3, seed=1)
    np.testing.assert_allclose(read_forest(text).predict(np.zeros((4, 2), np.float32)), 2.0, rtol=1e-6)


def test_what_is_no_forest_is_refused() -> None:
    with pytest.raises(IntegrityBroken, match="no trees"):
        read_forest("tree\nversion=v4\n")
    rows = lightgbm.Dataset(np.arange(1000.0)[:, None] % 7, np.arange(1000.0) % 7 % 3, categorical_feature=[0], params={"verbose": -1})
    by_category = lightgbm.train({"verbose": -1, "num_threads": 1, "min_data_per_group": 1}, rows, 2).model_to_string()
    with pytest.raises(IntegrityBroken, match="categories"):
        read_forest(by_category)
    text = boost(np.random.default_rng(1).normal(size=(600, 2)).astype(np.float32), np.arange(600.0), np.ones(600), rounds=1, seed=1)
    with pytest.raises(InvalidInput, match="read 2 columns"):
        read_forest(text).predict(np.zeros((4, 3), np.float32))
