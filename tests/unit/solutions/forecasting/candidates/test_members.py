from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Panel
from endcap.pipelines.executors import open_executor
from endcap.solutions.forecasting.candidates.baselines import WeekdayMean
from endcap.solutions.forecasting.candidates.members import Block, BlockFit, PerMember, fit_block

MakePanel = Callable[..., Panel]
NAN = np.nan
WEEK = np.array([0.8, 0.7, 0.8, 1.0, 1.2, 1.6, 0.9])


def test_rest_changes_nothing(make_panel: MakePanel, check_rest: Callable[[Any, Panel], None]) -> None:
    check_rest(PerMember(), make_panel())


def test_every_member_has_its_own_week(make_panel: MakePanel) -> None:
    values = np.stack([50 * np.tile(WEEK, 12), 400 * np.tile(WEEK[::-1], 12)])
    panel = make_panel(values)
    answer = PerMember().fit(panel, seed=1).predict(panel)
    np.testing.assert_allclose(answer, values[:, :7], rtol=0.05)


def test_a_member_with_a_short_history_falls_back_and_says_why(make_panel: MakePanel) -> None:
    panel = make_panel()
    values = panel.observed.copy()
    values[1, :-27], values[2] = NAN, NAN
    panel = replace(panel, observed=values)
    fit = PerMember().fit(panel, seed=1)
    assert fit.members.fitted == ("0", "3", "4", "5")
    assert fit.members.fallen_back["1"] == "27 days with a value; a fit of its own needs 28"
    assert fit.members.fallen_back["2"].startswith("0 days")
    np.testing.assert_array_equal(fit.predict(panel)[1:3], WeekdayMean().predict(panel)[1:3])


def test_no_member_with_a_history_is_refused(make_panel: MakePanel) -> None:
    with pytest.raises(InvalidInput, match="needs 28 days of history for a member; the longest has 27"):
        PerMember().fit(make_panel(np.ones((5, 27))), seed=1)


def test_a_series_that_came_after_the_fit_answers_by_the_weekday_mean(make_panel: MakePanel) -> None:
    panel = make_panel()
    fit = PerMember().fit(panel, seed=1)
    later = replace(panel, keys={"store": ("0", "1", "2", "3", "4", "new")})
    np.testing.assert_array_equal(fit.predict(later)[5], WeekdayMean().predict(later)[5])
    np.testing.assert_array_equal(fit.predict(later)[:5], fit.predict(panel)[:5])


def test_members_do_not_depend_on_one_another(make_panel: MakePanel) -> None:
    """But for the one question asked of all, whether the week changed lately, which steady weeks answer alike."""
    values = np.array([[50.0], [400.0], [7.0]]) * np.tile(WEEK, 12)
    together = PerMember().fit(make_panel(values), seed=1).predict(make_panel(values))
    alone = PerMember().fit(make_panel(values[1:2]), seed=1).predict(make_panel(values[1:2]))
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5)


def test_a_fact_that_is_not_known_ahead_does_not_move_the_forecast(make_panel: MakePanel) -> None:
    panel = make_panel()
    fit = PerMember().fit(panel, seed=1)
    unknown = {name: values.copy() for name, values in panel.ahead.items()}
    for values in unknown.values():
        values[:, panel.targets] = NAN
    answer = fit.predict(replace(panel, ahead=unknown))
    assert np.isfinite(answer).all()
    assert (answer != fit.predict(panel)).any()


def test_gaps_and_zeros_do_no_harm(make_panel: MakePanel) -> None:
    values = np.tile(10 * WEEK, 12) * np.ones((3, 1))
    values[0, 20:60], values[1], values[2, 6::7] = NAN, 0, NAN
    panel = make_panel(values)
    answer = PerMember().fit(panel, seed=1).predict(panel)
    assert np.isfinite(answer).all()
    assert (answer >= 0).all()
    assert (answer[1] < 0.01).all()


def spoil(panel: Panel) -> Panel:
    """Members 1, 3 and 4 cannot be fitted: a price that is infinite, no day with a value, sales that are infinite but for 20 days."""
    price, values = panel.ahead["price"].copy(), panel.observed.copy()
    price[1, 30] = np.inf
    values[3] = NAN
    values[4, 20:] = np.inf
    return replace(panel, ahead={**panel.ahead, "price": price}, observed=values)


def test_members_whose_fit_fails_fall_back_and_the_others_do_not_notice(make_panel: MakePanel) -> None:
    panel = make_panel()
    fit, spoiled = PerMember().fit(panel, seed=1), PerMember().fit(spoil(panel), seed=1)
    assert spoiled.members.fitted == ("0", "2", "5")
    assert spoiled.members.fallen_back == {
        "1": "one of its known-ahead facts is infinite",
        "3": "0 days with a value; a fit of its own needs 28",
        "4": "20 days with a value; a fit of its own needs 28",
    }
    rows = [0, 2, 5]
    np.testing.assert_allclose(spoiled.predict(panel)[rows], fit.predict(panel)[rows], rtol=1e-5)
    np.testing.assert_array_equal(spoiled.predict(panel)[[1, 3, 4]], WeekdayMean().predict(panel)[[1, 3, 4]])


def test_a_fact_that_became_infinite_after_the_fit_is_answered_by_the_fallback(make_panel: MakePanel) -> None:
    panel = make_panel()
    fit = PerMember().fit(panel, seed=1)
    price = panel.ahead["price"].copy()
    price[1, panel.targets] = np.inf
    later = replace(panel, ahead={**panel.ahead, "price": price})
    np.testing.assert_array_equal(fit.predict(later)[1], WeekdayMean().predict(later)[1])
    np.testing.assert_array_equal(fit.predict(later)[[0, 2, 3, 4, 5]], fit.predict(panel)[[0, 2, 3, 4, 5]])


@pytest.mark.parametrize("block_bytes", [1, 100_000, 2**28])
def test_blocks_of_any_size_give_the_same_fits(make_panel: MakePanel, block_bytes: int) -> None:
    panel = spoil(make_panel())
    whole, parts = PerMember().fit(panel, seed=1), PerMember(block_bytes=block_bytes).fit(panel, seed=1)
    np.testing.assert_allclose(parts.coefficients, whole.coefficients, rtol=1e-9)
    assert parts.members == whole.members


def test_blocks_may_run_elsewhere_and_are_cut_as_they_are_wanted(make_panel: MakePanel) -> None:
    panel = spoil(make_panel())
    with open_executor("processes", n_workers=2) as executor:
        fit = PerMember(block_bytes=1, map_blocks=partial(executor.map, n_bytes=1)).fit(panel, seed=1)
    here = PerMember(block_bytes=1).fit(panel, seed=1)
    np.testing.assert_array_equal(fit.coefficients, here.coefficients)
    assert fit.members == here.members


class Explosive(np.ndarray):
    """Sales that raise when a fit looks at those of a poisoned member."""

    def astype(self, *given: Any, **how: Any) -> Any:
        plain = np.asarray(self)
        if (plain == 666).any():
            raise np.linalg.LinAlgError("Singular matrix")
        return plain.astype(*given, **how)


def test_a_fit_that_raises_stands_alone(make_panel: MakePanel) -> None:
    target = make_panel(n_series=9).observed
    poisoned = target.copy()
    poisoned[[2, 7], 50] = 666
    kinds = np.eye(7)[np.arange(120) % 7]
    block = Block(target, kinds, np.empty((9, 0, 120), dtype=np.float32), 119 - np.arange(120))
    clean = fit_block(block)
    fit: BlockFit = fit_block(replace(block, target=poisoned.view(Explosive)))
    assert fit.failed == dict.fromkeys((2, 7), "its fit failed: Singular matrix")
    rows = [0, 1, 3, 4, 5, 6, 8]
    np.testing.assert_allclose(fit.coefficients[:, rows], clean.coefficients[:, rows], rtol=1e-9)
    assert np.isnan(fit.coefficients[:, [2, 7]]).all()


def test_when_every_fit_fails_the_candidate_is_refused(make_panel: MakePanel) -> None:
    panel = make_panel()
    price = np.full_like(panel.ahead["price"], np.inf)
    with pytest.raises(InvalidInput, match="could fit none of its 6 members; the first: one of its known-ahead facts is infinite"):
        PerMember().fit(replace(panel, ahead={"price": price}), seed=1)
