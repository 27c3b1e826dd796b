from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Panel
from endcap.solutions.forecasting.candidates.baselines import FlagMedian, SeasonalNaive, WeekdayMean, flag_facts

MakePanel = Callable[..., Panel]
NAN = np.nan


def test_seasonal_naive_repeats_the_last_season(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(30.0))
    assert SeasonalNaive(7).predict(panel).tolist() == [[23, 24, 25, 26, 27, 28, 29]]
    assert SeasonalNaive(14).predict(panel).tolist() == [[16, 17, 18, 19, 20, 21, 22]]
    later = make_panel(np.arange(30.0), lead=3, hidden=2)
    assert SeasonalNaive(7).predict(later).tolist() == [[28, 29, 23, 24, 25, 26, 27]]  # the targets begin on tick 35
    assert SeasonalNaive(7).name == "seasonal_naive_7"


def test_seasonal_naive_goes_three_seasons_further_back_and_no_more(make_panel: MakePanel) -> None:
    values = np.arange(42.0)
    values[[35, 28, 21]] = NAN
    assert SeasonalNaive(7).predict(make_panel(values))[0, 0] == 14
    values[14] = NAN
    assert np.isnan(SeasonalNaive(7).predict(make_panel(values))[0, 0])


@pytest.mark.parametrize(("season", "need"), [(7, 7), (14, 14), (364, 392)])
def test_a_season_must_have_been_seen(make_panel: MakePanel, season: int, need: int) -> None:
    assert SeasonalNaive(season).fit(make_panel(np.ones((1, need))), seed=1) == SeasonalNaive(season)
    with pytest.raises(InvalidInput, match=f"seasonal_naive_{season} needs {need} days of history; there are {need - 1}"):
        SeasonalNaive(season).fit(make_panel(np.ones((1, need - 1))), seed=1)


def test_weekday_mean_takes_the_latest_four_that_are_there(make_panel: MakePanel) -> None:
    values = np.arange(56.0)
    values[[42, 28]] = NAN
    answer = WeekdayMean().predict(make_panel(values))
    assert answer[0, 0] == np.mean([49, 35, 21, 14])
    assert answer[0, 1] == np.mean([50, 43, 36, 29])


def test_flag_median_tells_promotions_from_other_days(make_panel: MakePanel) -> None:
    promo = np.zeros((1, 63), dtype=np.float32)
    promo[0, [7, 21, 35, 56]] = 1  # Mondays
    values = np.full(56, 10.0)
    values[[7, 21, 35]] = [20, 90, 40]
    panel = make_panel(values, ahead={"promo": promo})
    assert FlagMedian().predict(panel)[0].tolist() == [40.0] + [10.0] * 6
    promo[0, 58] = 1  # a Wednesday with a promotion was never seen: the weekday mean answers
    assert FlagMedian().predict(make_panel(values, ahead={"promo": promo}))[0, 2] == 10


def test_flags_are_facts_that_were_both_0_and_1(make_panel: MakePanel) -> None:
    def fact(*seen: float) -> np.ndarray:
        return np.array([[*np.resize(seen, 14), *[1] * 7]], dtype=np.float32)

    facts = {"a": fact(0, 1), "b": fact(0, 2), "c": fact(0), "d": fact(1), "e": fact(NAN, 0, 1), "open": fact(1, 0), "f": fact(NAN)}
    panel = make_panel(np.ones((1, 14)), ahead=facts, open_fact="open")
    assert flag_facts(panel) == ["a", "e"]
    with pytest.raises(InvalidInput, match="needs a known-ahead fact that is 0 or 1"):
        FlagMedian().fit(make_panel(np.ones((1, 14))), seed=1)


@pytest.mark.parametrize("candidate", [SeasonalNaive(7), WeekdayMean(), FlagMedian()])
def test_baselines_leave_what_they_do_not_know_and_rest_as_nothing(make_panel: MakePanel, candidate: Any) -> None:
    values = np.full((2, 30), 4.0)
    values[1] = NAN
    promo = np.tile(np.arange(37) % 2, (2, 1)).astype(np.float32)
    panel = make_panel(values, ahead={"promo": promo})
    fit = candidate.fit(panel, seed=1)
    answer = fit.predict(panel)
    assert answer.dtype == np.float32
    assert (answer[0] == 4).all()
    assert np.isnan(answer[1]).all()
    assert fit.to_artefacts() == {}
    assert candidate.baseline
    np.testing.assert_array_equal(candidate.revive({}).predict(panel), answer)
