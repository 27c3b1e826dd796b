from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.solutions.forecasting.hours.spread import Spread, fit_spread, tally_spread

RNG = np.random.default_rng(5)
MEANS = np.exp(RNG.uniform(np.log(0.01), np.log(20), 200_000)).astype(np.float32)
SOLD = RNG.poisson(MEANS).astype(np.float32)
SPREAD = fit_spread([tally_spread(SOLD, MEANS)])


def test_tallies_of_any_blocks_add_up() -> None:
    cuts = [0, 10, 10, 70_000, MEANS.size]
    parts = [tally_spread(SOLD[a:b], MEANS[a:b]) for a, b in pairwise(cuts)]
    again = fit_spread(parts)
    np.testing.assert_allclose(again.chances, SPREAD.chances, atol=1e-12)
    np.testing.assert_allclose(again.values, SPREAD.values)
    assert (again.last, again.centre) == (SPREAD.last, pytest.approx(SPREAD.centre))


def test_limits_hold_what_they_say_on_days_not_learned_from() -> None:
    means = np.exp(np.random.default_rng(6).uniform(np.log(0.01), np.log(20), 100_000)).astype(np.float32)
    sold = np.random.default_rng(7).poisson(means)
    lower, upper = SPREAD.limits(means)
    assert (lower <= means).all()
    assert (upper >= means).all()
    inside = (sold >= lower) & (sold <= upper)
    for low, high in ((0.01, 0.1), (0.1, 1), (1, 5), (5, 20)):
        assert inside[(means >= low) & (means < high)].mean() > 0.885
    large = means > 10
    assert inside[large].mean() < 0.95
    assert SPREAD.chance_of_any(means).mean() == pytest.approx((sold > 0).mean(), abs=0.005)


def test_a_forecast_beyond_all_is_stretched() -> None:
    lower, upper = SPREAD.limits(4 * np.array([SPREAD.centre, 10 * SPREAD.centre], dtype=np.float32))
    assert lower[1] == pytest.approx(10 * lower[0])
    assert upper[1] == pytest.approx(10 * upper[0])
    scores = SPREAD.score(np.array([70.0, 700.0], np.float32), 4 * np.array([SPREAD.centre, 10 * SPREAD.centre], np.float32))
    assert scores[1] == pytest.approx(10 * scores[0], rel=1e-4)


def test_a_missing_actual_has_no_score_and_tells_nothing() -> None:
    gone = np.where(np.arange(SOLD.size) % 2 == 0, np.nan, SOLD).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(SPREAD.score(gone, MEANS)), np.isnan(gone))
    halved = fit_spread([tally_spread(SOLD[1::2], MEANS[1::2])])
    np.testing.assert_allclose(fit_spread([tally_spread(gone, MEANS)]).chances, halved.chances)


def test_shapes_are_kept() -> None:
    scores = SPREAD.score(SOLD[:60].reshape(4, 15), MEANS[:60].reshape(4, 15))
    np.testing.assert_array_equal(scores.reshape(-1), SPREAD.score(SOLD[:60], MEANS[:60]))
    assert SPREAD.limits(MEANS[:60].reshape(4, 15))[0].shape == (4, 15)
    assert SPREAD.score(np.empty((0, 48), np.float32), np.empty((0, 48), np.float32)).shape == (0, 48)


def test_a_spread_put_to_rest_is_the_same() -> None:
    again = Spread.from_artefact(SPREAD.to_artefact())
    np.testing.assert_array_equal(again.score(SOLD, MEANS), SPREAD.score(SOLD, MEANS))
    np.testing.assert_array_equal(again.limits(MEANS), SPREAD.limits(MEANS))


def test_without_pairs_sales_are_poisson() -> None:
    spread = fit_spread([])
    some = np.array([0.0, 0.1, 1.0, 3.0], dtype=np.float32)
    np.testing.assert_allclose(spread.chance_of_any(some), 1 - np.exp(-some), atol=0.03)
    assert spread.limits(np.array([3.0], np.float32))[1] == 6
    empty = tally_spread(np.full(3, np.nan, np.float32), np.ones(3, np.float32))
    np.testing.assert_array_equal(fit_spread([empty]).chances, spread.chances)


def test_few_pairs_are_taken_together() -> None:
    spread = fit_spread([tally_spread(np.array([0, 0, 1, 0], np.float32), np.array([0.1, 0.2, 0.3, 0.4], np.float32))])
    assert spread.chance_of_any(np.array([0.15], np.float32))[0] == pytest.approx(0.25)


@pytest.mark.parametrize("value", [-2.0, 0.0, 1e6])
def test_scores_grow_straight_outside_what_was_told(value: float) -> None:
    told = SPREAD.score(np.array([value, value + 1], np.float32), np.array([1.0, 1.0], np.float32))
    assert np.isfinite(told).all()
    if value != 0:
        assert told[1] - told[0] == pytest.approx(np.sign(value), abs=0.07)


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(InvalidInput, match="3 actual values and 4 forecasts"):
        tally_spread(np.zeros(3, np.float32), np.zeros(4, np.float32))
