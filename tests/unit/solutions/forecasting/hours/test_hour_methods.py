"""What every hourly method keeps, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Statics
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.solutions.forecasting.hours.catalogue import METHOD_NAMES, build_methods
from endcap.solutions.forecasting.hours.methods import HourFit

MakeHours = Callable[..., HourPanel]
Cut = Callable[..., list[HourPanel]]
FitAll = Callable[..., dict[str, HourFit]]

WITHOUT_TREES = ("same_hour_mean", "croston", "tsb", "shrunk_rates")


def predict(fit: HourFit, shards: Sequence[HourPanel]) -> Floats:
    return np.concatenate([fit.predict(shard) for shard in shards])


@pytest.fixture(scope="module")
def panel(make_hours: MakeHours) -> HourPanel:
    return make_hours()


@pytest.fixture(scope="module")
def fits(panel: HourPanel, fit_all: FitAll) -> dict[str, HourFit]:
    return fit_all(build_methods(), [panel])


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_forecasts_are_means_of_every_target(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    answer = fits[name].predict(panel)
    assert answer.shape == (panel.n_series, panel.horizon)
    assert answer.dtype == np.float32
    assert np.isfinite(answer).all()
    assert (answer >= 0).all()
    assert answer.mean() == pytest.approx(np.nanmean(panel.demand[:, -14 * HOURS :]), rel=0.35)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_fit_put_to_rest_answers_the_same(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    revived = build_methods()[name].revive(fits[name].to_artefacts(), given=fits)
    revived = revived.inform([revived.survey(panel)])
    np.testing.assert_array_equal(revived.predict(panel), fits[name].predict(panel))


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("starts", [(1,), (11, 11, 30), tuple(range(1, 42))])
def test_the_cut_of_shards_changes_nothing(
    name: str, starts: tuple[int, ...], panel: HourPanel, fits: dict[str, HourFit], cut: Cut, fit_all: FitAll
) -> None:
    shards = cut(panel, starts)
    again = fit_all(build_methods([name]), shards)
    np.testing.assert_allclose(predict(again[name], shards), fits[name].predict(panel), rtol=2e-4)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_forecast_reads_no_more_than_it_says(name: str, make_hours: MakeHours, fit_all: FitAll) -> None:
    long = make_hours(n_days=80, hour=5)
    fit = fit_all(build_methods([name]), [long])[name]
    short = long.latest(fit.look_back_days)
    informed = fit.inform([fit.survey(long)])
    np.testing.assert_array_equal(fit.inform([fit.survey(short)]).predict(short), informed.predict(long))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_what_comes_after_the_origin_is_not_seen(name: str, panel: HourPanel, fit_all: FitAll) -> None:
    origin = panel.origin - 3 * HOURS - 4
    later = np.arange(panel.n_seen) >= origin
    sold, unseen = np.where(later, 7 - panel.sold, panel.sold), np.where(later, ~panel.unseen, panel.unseen)
    garbled = replace(panel, sold=sold.astype(np.float32), unseen=unseen)
    answers = [fit_all(build_methods([name]), [one.seen_at(origin)])[name].predict(one.seen_at(origin)) for one in (panel, garbled)]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_codes_mean_nothing_and_labels_all(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    statics = {}
    for fact, own in panel.statics.items():
        labels = ("new", *reversed(own.labels))
        statics[fact] = Statics((len(own.labels) - own.codes).astype(np.int32), labels)
    permuted = replace(panel, statics=statics)
    fit = fits[name].inform([fits[name].survey(permuted)])
    np.testing.assert_allclose(fit.predict(permuted), fits[name].predict(panel), rtol=1e-5)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_new_series_sells_like_its_likeness(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    sold = panel.sold.copy()
    sold[:3] = np.nan
    labels = panel.statics["item"].labels
    codes = panel.statics["item"].codes.copy()
    codes[1], codes[2] = len(labels), -1  # 0 is of a known item, 1 of one never heard of, 2 of none
    statics = {**panel.statics, "item": Statics(codes, (*labels, "never heard of"))}
    answer = fits[name].predict(replace(panel, sold=sold, statics=statics))
    usual = np.nanmean(panel.demand[:, -28 * HOURS :])
    assert np.isfinite(answer).all()
    assert (answer[:3].mean(axis=1) > 0.3 * usual).all()
    assert (answer[:3].mean(axis=1) < 3 * usual).all()
    assert (answer[:3, 3] < answer[:3, 12]).all()  # with the hours of the place


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize(("hour", "hidden", "horizon"), [(0, 0, 24), (13, 0, 48), (23, 0, 1), (7, 30, 60)])
def test_an_origin_may_be_any_hour(name: str, hour: int, hidden: int, horizon: int, make_hours: MakeHours, cut: Cut, fit_all: FitAll) -> None:
    panel = make_hours(n_days=30, hour=hour, hidden=hidden, horizon=horizon)
    shards = cut(panel, (17,))
    answer = predict(fit_all(build_methods([name]), shards)[name], shards)
    assert answer.shape == (panel.n_series, horizon)
    assert np.isfinite(answer).all()
    night = (panel.targets % HOURS) == 0
    if night.any() and not night.all():
        assert answer[:, night].mean() < 0.5 * answer[:, ~night].mean()


@pytest.mark.parametrize("name", WITHOUT_TREES)
@pytest.mark.parametrize("case", ["nothing seen", "nothing told", "nothing sold", "one sale", "one hour", "returns", "no facts", "no series"])
def test_poor_data_give_a_forecast(name: str, case: str, make_hours: MakeHours, fit_all: FitAll) -> None:
    panel = make_hours(n_days=0 if case == "one hour" else 21, hour=1)
    sold = panel.sold.copy()
    if case == "nothing seen":
        panel = replace(panel, unseen=np.ones_like(sold, dtype=np.bool_))
    elif case == "nothing told":
        panel = replace(panel, sold=np.full_like(sold, np.nan), unseen=None)
    elif case in ("nothing sold", "one sale"):
        sold[:] = 0
        sold[3, 40] = float(case == "one sale")
        panel = replace(panel, sold=sold, unseen=None)
    elif case == "returns":
        panel = replace(panel, sold=np.where(np.arange(sold.shape[1]) % 3 == 0, -sold, sold).astype(np.float32))
    elif case == "no facts":
        panel = replace(panel, statics={}, likeness=(), place=None, daily={}, unseen=None)
    elif case == "no series":
        panel = panel.choose(slice(0, 0))
    answer = fit_all(build_methods([name]), [panel])[name].predict(panel)
    assert answer.shape == (panel.n_series, panel.horizon)
    assert np.isfinite(answer).all()
    assert (answer >= 0).all()
    if case in ("nothing seen", "nothing told", "nothing sold"):
        assert (answer == 0).all()
    if case == "one sale":
        assert 0 < answer[3].sum() < 3


@pytest.mark.parametrize("name", ["daily_trees", "hourly_trees"])
def test_trees_say_what_they_lack(name: str, make_hours: MakeHours, fit_all: FitAll) -> None:
    short = make_hours(n_days=10)
    with pytest.raises(InvalidInput, match=f"{name} needs 500 rows"):
        fit_all(build_methods([name]), [short])
    panel = make_hours()
    once = np.zeros_like(panel.sold)
    once[:, 30] = 1.0
    with pytest.raises(InvalidInput, match="nothing was sold"):
        fit_all(build_methods([name]), [replace(panel, sold=once, unseen=None)])


@pytest.mark.parametrize("name", ["daily_trees", "hourly_trees"])
def test_trees_learn_what_a_discount_does(name: str, make_hours: MakeHours, fit_all: FitAll) -> None:
    panel = make_hours(n_items=12, n_days=60, unseen_share=0.0)
    fits = fit_all(build_methods([name]), [panel])
    answers: list[Floats] = []
    for discount in (1.0, 0.8):
        known = panel.daily["discount"].copy()
        known[:, panel.n_seen // HOURS :] = discount
        answers.append(fits[name].predict(replace(panel, daily={"discount": known})))
    assert answers[1].sum() > 1.3 * answers[0].sum()


@pytest.mark.parametrize("name", ["daily_trees", "hourly_trees"])
def test_a_fact_that_is_missing_is_no_reason_to_stop(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    blank = np.full_like(panel.daily["discount"], np.nan)
    for daily in ({}, {"discount": blank}):
        assert np.isfinite(fits[name].predict(replace(panel, daily=daily))).all()


@pytest.mark.parametrize("name", ["daily_trees", "hourly_trees"])
def test_trees_ask_for_a_survey(name: str, panel: HourPanel, fits: dict[str, HourFit]) -> None:
    revived = build_methods()[name].revive(fits[name].to_artefacts(), given=fits)
    with pytest.raises(InvalidInput, match="not informed"):
        revived.predict(panel)
    later = replace(panel, start=panel.start.replace(day=5))
    with pytest.raises(InvalidInput, match="survey ends -1 days"):
        fits[name].predict(later)


def test_methods_come_after_what_they_need() -> None:
    assert list(build_methods(["average"])) == ["same_hour_mean", "shrunk_rates", "daily_trees", "hourly_trees", "average"]
    assert list(build_methods([])) == ["same_hour_mean"]
    assert set(build_methods()) == set(METHOD_NAMES)
    with pytest.raises(InvalidInput, match="shrunk_rate'") as caught:
        build_methods(["shrunk_rate"])
    assert "shrunk_rates" in str(caught.value)


@pytest.mark.parametrize("name", ["shrunk_rates", "croston", "tsb", "daily_trees", "hourly_trees", "average"])
def test_a_method_says_which_fit_it_misses(name: str, panel: HourPanel) -> None:
    with pytest.raises(InvalidInput, match="given"):
        build_methods()[name].fit([], given={}, seed=1)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_cut_of_any_panel_gives_the_same(data: st.DataObject, make_hours: MakeHours, cut: Cut, fit_all: FitAll) -> None:
    options: dict[str, Any] = {
        "n_items": data.draw(st.integers(1, 4)),
        "n_stores": data.draw(st.integers(1, 4)),
        "n_days": data.draw(st.integers(1, 30)),
        "hour": data.draw(st.integers(0, 23)),
        "hidden": data.draw(st.integers(0, 20)),
        "horizon": data.draw(st.integers(1, 60)),
        "unseen_share": data.draw(st.sampled_from([0.0, 0.3, 0.95])),
        "seed": data.draw(st.integers(0, 999)),
    }
    panel = make_hours(**options)
    starts = sorted(data.draw(st.lists(st.integers(0, panel.n_series), max_size=4)))
    shards = cut(panel, starts)
    whole, parts = fit_all(build_methods(WITHOUT_TREES), [panel]), fit_all(build_methods(WITHOUT_TREES), shards)
    for name in WITHOUT_TREES:
        np.testing.assert_allclose(predict(parts[name], shards), whole[name].predict(panel), rtol=1e-4, atol=1e-7)
