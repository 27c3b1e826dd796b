from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions.aggregates import Aggregate, max, mean, sum  # noqa: A004 - the words of the house
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import BASELINES, CANDIDATES, Forecast
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import MemberQuality, Quality
from endcap.core.errors import DefinitionError, InvalidInput
from endcap.core.identity import identify

SALES = Table("sales", "sales.csv", keys=("store", "item"), event_time="day")
STORES = Table("stores", "stores.csv", keys=("store",))
WEATHER = Table("weather", "weather.csv", keys=("store",), event_time="day")


def make(**options: Any) -> Forecast:
    return Forecast(**{"name": "store-day", "table": SALES, "target": "units", **options})


def test_a_target_by_name_is_summed_over_the_table() -> None:
    assert make().target == Aggregate("sum", "units", SALES)
    assert make(target=mean("price")).target == Aggregate("mean", "price", SALES)
    assert make(target=sum("rain", table=WEATHER)).target.table is WEATHER


def test_keys_are_the_tables_unless_given() -> None:
    assert make().keys == ("store", "item")
    assert make(keys=["store"]).keys == ("store",)
    assert make(keys="store").keys == ("store",)


def test_facts_by_name_are_means_and_keep_their_names() -> None:
    forecast = make(known_ahead=["price"], past={"rain": max("mm", table=WEATHER), "visitors": "n"}, censored="sold_out")
    assert forecast.known_ahead == {"price": Aggregate("mean", "price", SALES)}
    assert forecast.past == {"rain": Aggregate("max", "mm", WEATHER), "visitors": Aggregate("mean", "n", SALES)}
    assert forecast.censored == Aggregate("mean", "sold_out", SALES)


def test_every_table_is_listed_once_the_targets_first() -> None:
    forecast = make(past={"rain": mean("mm", table=WEATHER), "heat": mean("c", table=WEATHER)}, static=STORES, censored="sold_out")
    assert forecast.tables == (SALES, WEATHER, STORES)


def test_days_are_counted() -> None:
    forecast = make(lead="2d", horizon="2w")
    assert (forecast.lead_days, forecast.horizon_days) == (2, 14)


def test_baselines_are_offered_whatever_is_chosen() -> None:
    assert make().offered == CANDIDATES
    assert make(candidates=["trees"]).offered == (*BASELINES, "trees")
    assert make(candidates="weekday_mean").offered == BASELINES


def test_watches_are_taken_one_or_many_or_none() -> None:
    assert make(watch=Quality("mae")).watch == (Quality("mae"),)
    assert make(watch=[Quality("mae"), Quality()]).watch == (Quality("mae"), Quality())
    assert make(watch=[Quality(), MemberQuality("mae")]).watch == (Quality(), MemberQuality("mae"))
    assert make(watch=[]).watch == ()


def test_the_identity_follows_what_is_said_and_not_how() -> None:
    assert identify(make(keys=["store", "item"])) == identify(make())
    assert identify(make(seed=8)) != identify(make())
    assert identify(make(horizon="8d")) != identify(make())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "sales"}, r"Forecast 'store-day' has no table: 'sales'. Hint: give an ec.Table"),
        ({"table": STORES}, "table 'stores', which has no event_time"),
        ({"target": None}, "has the target None"),
        ({"target": ""}, "names no column"),
        ({"table": Table("sales", "a.csv", event_time="day")}, "has no keys, nor has its table"),
        ({"keys": ["store", "store"]}, "keys is .* twice"),
        ({"known_ahead": 5}, "known_ahead is 5"),
        ({"known_ahead": {"price": 5}}, "known_ahead has 'price': 5"),
        ({"past": [None]}, "past is"),
        ({"past": {"rain": None}}, "past has 'rain': None"),
        ({"censored": 0.5}, "has censored=0.5"),
        ({"static": "stores.csv"}, "has static='stores.csv'. Hint: give an ec.Table"),
        ({"every": "1w"}, "every=.1w.; forecasts are daily or hourly"),
        ({"horizon": "401d"}, "horizon of 401 days; at most 400"),
        ({"backtest_origins": 0}, "backtest_origins=0; it must be 1 to 60"),
        ({"backtest_origins": 61}, "backtest_origins=61"),
        ({"slices": ["region"]}, r"slices \['region'\] but no static table"),
        ({"slices": 5, "static": STORES}, "slices is 5"),
        ({"candidates": ["tree"]}, r"the candidate 'tree'. Candidates: .* did you mean 'trees'"),
        ({"candidates": ["trees", "trees"]}, "candidates is .* twice"),
        ({"open": "opens", "known_ahead": ["open"]}, r"open='opens', which is not among its known-ahead facts \['open'\]. .*mean 'open'"),
        ({"open": "open"}, r"known-ahead facts \[\]"),
        ({"censored_most": 1}, "censored_most=1; it must be a share"),
        ({"censored_most": -0.1}, "censored_most=-0.1"),
        ({"censored_most": float("nan")}, "censored_most=nan"),
        ({"known_ahead": ["price"], "past": ["price"]}, r"uses the names \['price'\] twice"),
        ({"known_ahead": {"target": "price"}}, r"uses the names \['target'\] twice"),
        ({"past": ["target"]}, r"uses the names \['target'\] twice"),
        ({"gate": None}, "has gate=None"),
        ({"gate": Gate(parity="7d")}, "has a gate that asks for parity, and reads no feature view"),
        ({"gate": Gate(drift=0.2)}, "has a gate that asks for drift, and reads no feature view"),
        ({"gate": Gate(metric="brier")}, "is daily, and 'brier' is not measured for such a forecast"),
        ({"gate": Gate(least={"auc": 0.7})}, "asks for .'auc'., which no forecast has"),
        ({"gate": Gate(slices={"region": 0.2})}, r"slices by 'region'. Its slices: \[\]"),
        ({"gate": Gate(fairness={"regio": 2}), "slices": ["region"], "static": STORES}, r"Its slices: \['region'\]. .*did you mean 'region'"),
        ({"gates": {"staging": 5}}, "has gate=5"),
        ({"gates": {"staging": Gate(metric="crps")}}, "'crps' is not measured"),
        ({"gates": "staging"}, "give gates by environment"),
        ({"charter": "to earn"}, "has charter='to earn'"),
        ({"watch": None}, "has the watch None"),
        ({"watch": ["wape"]}, "has the watch 'wape'"),
    ],
)
def test_a_forecast_that_cannot_be_made_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make(**options)


@pytest.mark.parametrize("options", [{"name": "a b"}, {"lead": "6h"}, {"lead": "-1d"}, {"horizon": "0d"}, {"every": "daily"}])
def test_names_and_lengths_of_a_forecast_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        make(**options)


def test_members_are_named_by_some_of_the_keys() -> None:
    assert (make().members, make().member_keys) == ((), ("store", "item"))
    assert make(members="store").member_keys == ("store",)
    with pytest.raises(DefinitionError, match=r"names members by 'city'. Keys: \['store', 'item'\]"):
        make(members=["city"])
    with pytest.raises(DefinitionError, match="stands there twice"):
        make(members=["store", "store"])


def test_a_member_retires_after_whole_days_or_never() -> None:
    assert [make(**given).retire_after_days for given in ({}, {"retire_after": "4w"}, {"retire_after": None})] == [56, 28, None]
    for wrong in ("0d", "6h", "soon"):
        with pytest.raises(InvalidInput):
            make(retire_after=wrong)


def make_hourly(**options: Any) -> Forecast:
    return make(**{"every": "1h", "lead": "0h", "horizon": "48h", **options})


def test_an_hourly_forecast_counts_in_hours_and_has_candidates_of_its_own() -> None:
    forecast = make_hourly(candidates=["shrunk_rates"])
    assert (forecast.hourly, forecast.horizon_hours, forecast.n_origins) == (True, 48, 4)
    assert forecast.offered == ("same_hour_mean", "shrunk_rates")
    assert make_hourly(horizon="2d").horizon_hours == 48
    assert not make().hourly


def test_an_hourly_forecast_may_name_its_place_and_likeness() -> None:
    forecast = make_hourly(place="item", likeness="store", censored=max("out"))
    assert (forecast.place, forecast.likeness) == ("item", ("store",))
    assert identify(forecast) != identify(make_hourly(censored=max("out")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lead": "1h"}, "has lead='1h'; an hourly forecast begins at its origin. Hint: write lead='0h'"),
        ({"horizon": "90min"}, "an hourly one is 1 to 336 whole hours"),
        ({"horizon": "15d"}, "an hourly one is 1 to 336 whole hours"),
        ({"target": mean("units")}, r"folds its target by mean; hours are folded by \['sum', 'count', 'min', 'max'\]"),
        ({"target": sum("mm", table=WEATHER)}, "takes its target from another table than 'sales'"),
        ({"censored": "out"}, r"folds censored by mean; .* write censored=ec.max\('out'\)"),
        ({"censored": sum("out")}, "folds censored by sum"),
        ({"censored": max("mm", table=WEATHER)}, "takes its censored from another table"),
        ({"known_ahead": ["promo"]}, "takes the fact 'promo' from 'sales', the target's own table"),
        ({"known_ahead": {"mm": mean("mm", table=Table("w", "w.csv", event_time="d", known_at="k"))}}, "from 'w', which has known_at"),
        ({"known_ahead": {"item": mean("mm", table=WEATHER)}}, r"uses the names \['item'\] twice"),
        ({"past": {"mm": mean("mm", table=WEATHER)}}, "which only daily forecasts have"),
        ({"demand": True}, "which only daily forecasts have"),
        ({"place": "stor"}, r"place='stor', which is not among its keys \['store', 'item'\]. .*did you mean 'store'"),
        ({"candidates": ["trees"]}, "the candidate 'trees'. Candidates: .*'same_hour_mean'"),
        ({"watch": Quality("rmsse")}, "is hourly, and 'rmsse' is not measured"),
    ],
)
def test_an_hourly_forecast_that_cannot_be_made_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make_hourly(**options)


@pytest.mark.parametrize("options", [{"place": "store"}, {"likeness": ["item"]}])
def test_days_have_no_likeness_and_no_place(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="is daily and has likeness or place"):
        make(**options)


TRAFFIC = FeatureView(name="traffic", source=WEATHER, keys=("store",), features={"rain_7d": sum("mm", "7d")})


def test_feature_views_bring_their_tables() -> None:
    forecast = make(features=TRAFFIC)
    assert forecast.features == (TRAFFIC,)
    assert [table.name for table in forecast.tables] == ["sales", "weather"]
    assert identify(forecast) != identify(make())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": ["traffic"]}, "give ec.FeatureViews"),
        ({"features": [FeatureView(name="v", source=WEATHER, keys=("city",), features=["mm"])]}, "by 'city'"),
        ({"features": [TRAFFIC, FeatureView(name="v", source=WEATHER, features=["rain_7d"])]}, "from 'traffic' and from 'v'"),
        ({"features": [TRAFFIC], "every": "1h", "horizon": "24h"}, "only daily forecasts have"),
        ({"known_ahead": {"rain": mean("mm", "7d", table=WEATHER)}}, "windows and conditions belong to"),
        ({"target": sum("units", where="units > 0")}, "windows and conditions belong to"),
        ({"censored": max("sold_out", "7d")}, "windows and conditions belong to"),
    ],
)
def test_features_that_fit_no_forecast_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        make(**options)
    assert said in f"{caught.value.what} {caught.value.hint}"
