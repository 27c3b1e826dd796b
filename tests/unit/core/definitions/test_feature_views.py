from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.definitions.aggregates import Aggregate, count, distinct, lag, last, mean, ratio, std, time_since
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError

SALES = Table("sales", "sales.parquet", keys=("store_id",), event_time="at", zone="Asia/Shanghai")
LATE = Table("late", "late.parquet", event_time="at", known_at="told_at")
PLAIN = Table("stores", "stores.parquet", keys=("store_id",))


def make(**given: Any) -> FeatureView:
    return FeatureView(**({"name": "traffic", "source": SALES, "features": {"units_7d": sum_("units", "7d")}} | given))


def test_a_windowed_view_has_ticks_of_a_day_and_the_keys_of_its_source() -> None:
    view = make()
    assert (view.every, view.keys, view.windowed, view.sources) == ("1d", ("store_id",), True, (SALES,))


def test_a_row_view_takes_columns_and_expressions() -> None:
    assert make(features=["price"]).features == {"price": Aggregate("value", "price")}
    view = make(features={"dear": "price > 10"})
    assert (view.features["dear"].column, view.windowed, view.every) == ("price > 10", False, None)


def test_a_sql_view_names_its_tables() -> None:
    view = FeatureView(name="v", sql="SELECT store_id, at, 1 AS one FROM sales", tables=[SALES], keys=["store_id"], event_time="at")  # type: ignore[arg-type]  # lists are taken
    assert view.sources == (SALES,)


def test_a_view_reads_back_from_json_whole() -> None:
    view = make(
        features={
            "a": ratio(sum_("x", "7d", where="y > 0"), count("*", "7d")),
            "b": mean("x", "28d", same="weekday"),
            "c": last("x", "3d"),
            "d": distinct("x", "3d"),
            "e": std("x", "3d"),
            "f": lag("x", "7d"),
            "g": time_since("90d"),
        },
        max_age="3d",
        tags=["a"],
    )
    assert msgspec.json.decode(msgspec.json.encode(view), type=FeatureView) == view


def test_words_for_people_make_no_new_version() -> None:
    assert make().version == make(owner="demand", description="x", tags=("y",), meanings={"units_7d": "units"}, purposes=("orders",)).version
    changed = [
        make(known_after="6h"),
        make(max_age="3d"),
        make(features={"units_7d": sum_("units", "8d")}),
        make(where="units > 0"),
        make(name="other"),
    ]
    assert len({make().version, *(view.version for view in changed)}) == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": None}, "needs a source table or a sql"),
        ({"sql": "SELECT 1"}, "and not both"),
        ({"source": Table("t", "t.csv")}, "no keys"),
        ({"features": {}}, "no features"),
        ({"features": {"a": sum_("x", "7d"), "b": "price"}}, "mixes windows"),
        ({"features": {"a": sum_("x")}}, "has no window"),
        ({"features": {"a": sum_("x", "36h")}}, "whole ticks"),
        ({"features": {"a": sum_("x", "7d"), "A": sum_("x", "8d")}}, "both 'a' and 'A'"),
        ({"features": {"store_id": sum_("x", "7d")}}, "both"),
        ({"features": {"__order": sum_("x", "7d")}}, "Endcap's own"),
        ({"features": {"a\x00": sum_("x", "7d")}}, "a column called"),
        ({"features": {"a": 3}}, "has the feature 'a'"),
        ({"features": {"a": ratio(sum_("x", "7d"), sum_("x"))}}, "has no window"),
        ({"features": {"a": sum_("x", "7d", same="hour")}}, "ticks of an hour"),
        ({"features": {"a": sum_("x", "7d", same="weekday")}, "every": "1h"}, "ticks of a day"),
        ({"every": "5min"}, "Ticks:"),
        ({"features": ["price"], "every": "1d"}, "but no window"),
        ({"source": PLAIN}, "which has no event_time"),
        ({"source": PLAIN, "features": ["x"], "max_age": "3d"}, "no event_time to count it from"),
        ({"max_age": "0d"}, "no value would be young enough"),
        ({"personal": ["age"]}, "no such column"),
        ({"tables": (SALES,)}, "only SQL views have"),
        ({"source": None, "sql": "SELECT 1", "keys": ["a"], "features": {}}, "tables="),
        ({"source": None, "sql": " ", "keys": ["a"], "features": {}, "tables": [SALES]}, "give a SELECT"),
        ({"source": None, "sql": "SELECT 1", "keys": ["a"], "features": {}, "tables": [SALES], "shard_by": "b"}, "shard_by"),
        ({"source": None, "sql": "SELECT 1", "keys": ["a"], "tables": [SALES]}, "folds columns of its SELECT"),
        ({"source": None, "sql": "SELECT 1", "keys": ["a"], "features": {}, "tables": [LATE]}, "says no known_at of its own"),
    ],
)
def test_what_says_something_impossible_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        make(**given)
    assert said in f"{caught.value.what} {caught.value.hint}"


def test_the_same_hour_needs_ticks_of_an_hour() -> None:
    assert make(every="1h", features={"a": sum_("x", "7d", same="hour")}).every == "1h"
