"""The limits keep what they promise over all looks together, beside simulated paths."""

from __future__ import annotations

import numpy as np
import pytest

from endcap.loop.evaluation.sequential import FIRST_LOOK, daily_limits, widen_limit


@pytest.mark.parametrize(("n_days", "alpha"), [(7, 0.05), (14, 0.05), (28, 0.05), (28, 0.2), (60, 0.1)])
def test_looking_every_day_raises_as_many_false_alarms_as_are_allowed(n_days: int, alpha: float) -> None:
    steps = np.random.default_rng(1).standard_normal((40_000, n_days))
    scores = np.abs(steps.cumsum(axis=1)[:, FIRST_LOOK - 1 :] / np.sqrt(np.arange(FIRST_LOOK, n_days + 1)))
    crossed = (scores > daily_limits(n_days, alpha=alpha)).any(axis=1).mean()
    assert crossed == pytest.approx(alpha, abs=4 * np.sqrt(alpha * (1 - alpha) / 40_000))


def test_limits_fall_from_look_to_look_and_a_single_look_is_a_plain_test() -> None:
    limits = daily_limits(180)
    assert (np.diff(limits) < 0).all()
    assert np.isfinite(limits).all()
    assert daily_limits(7) == (pytest.approx(1.959964, abs=1e-5),)


def test_few_members_widen_a_limit_and_many_do_not() -> None:
    assert widen_limit(1.959964, df=10) == pytest.approx(2.228139, abs=1e-5)
    assert widen_limit(1.959964, df=100_000) == pytest.approx(1.96, abs=1e-3)
    assert widen_limit(2.0, df=0) == float("inf")
