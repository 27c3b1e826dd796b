from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from endcap.core.definitions.aggregates import count, mean
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, InvalidInput
from endcap.loop.features.panels.day_loading import MOST_DAYS, LoadedPanel

Load = Callable[..., LoadedPanel]
NAN = np.nan
FIRST = date(2026, 1, 5)
NOW = datetime(2026, 2, 1, 9, tzinfo=UTC)
SALES = Table("sales", "sales.parquet", keys=("store",), event_time="day")
STORES = Table("stores", "stores.parquet", keys=("store",))


def ask(table: Table = SALES, **options: Any) -> Forecast:
    return Forecast(**{"name": "units", "table": table, "target": "units", "horizon": "3d", **options})


def rows(*told: tuple[Any, ...], names: tuple[str, ...] = ("store", "day", "units")) -> dict[str, list[Any]]:
    """Rows as columns; a whole number for the day counts from FIRST."""
    columns = {name: [row[i] for row in told] for i, name in enumerate(names)}
    return {**columns, "day": [FIRST + timedelta(days=d) if isinstance(d, int) else d for d in columns["day"]]}


def daily(n: int, *, store: Any = "a", units: float = 1.0, first: int = 0) -> list[tuple[Any, ...]]:
    return [(store, first + d, units) for d in range(n)]


def doubts(loaded: LoadedPanel) -> dict[str, int]:
    return {doubt.what: doubt.n for doubt in loaded.doubts}


def on(tick: int) -> date:
    return FIRST + timedelta(days=tick)


# --- the origin


@pytest.mark.parametrize(
    ("n_days", "expected"),
    [(27, 27), (26, 27), (24, 27), (23, 23), (10, 10), (29, 27)],  # NOW is day 27; data may lag by the horizon, 3 days
)
def test_fresh_data_are_forecast_from_today_and_an_old_file_from_its_end(load: Load, n_days: int, expected: int) -> None:
    loaded = load(ask(), {"sales": rows(*daily(n_days))}, now=NOW)
    assert loaded.panel.day(loaded.panel.origin) == on(expected)
    assert ("from the end of the data" in str(loaded.doubts)) == (n_days < 24)
    assert loaded.last_day == on(min(n_days, 27) - 1)


def test_rows_that_only_plan_do_not_move_the_end_of_the_data(load: Load) -> None:
    planned = [("a", d, None) for d in range(10, 40)]
    loaded = load(ask(known_ahead={"n": count(table=SALES)}), {"sales": rows(*daily(10), *planned)}, now=NOW)
    assert loaded.panel.origin == 10
    assert loaded.panel.ahead["n"][0].tolist() == [1.0] * 13


def test_data_that_become_known_late_are_forecast_from_when_they_do(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="day", known_after="30h")
    loaded = load(ask(table), {"sales": rows(*daily(10))}, now=NOW)
    assert (loaded.panel.origin, loaded.panel.hidden, loaded.panel.n_seen) == (12, 2, 10)
    today = load(ask(table), {"sales": rows(*daily(26))}, now=NOW)
    assert (today.panel.origin, today.panel.n_seen) == (27, 25)


def test_the_day_is_that_of_the_tables_zone(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="day", zone="Asia/Shanghai")
    late = datetime(2026, 1, 31, 17, tzinfo=UTC)  # already 1 February in Shanghai
    loaded = load(ask(table), {"sales": rows(*daily(26))}, now=late)
    assert loaded.panel.day(loaded.panel.origin) == date(2026, 2, 1)
    assert load(ask(), {"sales": rows(*daily(26))}, now=late).panel.origin == 26


def test_an_origin_before_anything_is_known_is_refused_with_the_first_that_can_be(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="day", known_after="2d")
    with pytest.raises(InvalidInput, match=r"At the origin 2026-01-07 no day of table 'sales'.*choose an origin after 2026-01-07"):
        load(ask(table), {"sales": rows(*daily(9))}, now=NOW, origin=on(2))
    assert load(ask(table), {"sales": rows(*daily(9))}, now=NOW, origin=on(3)).panel.n_seen == 1


@pytest.mark.parametrize(
    "told",
    [
        rows(("a", 0, None), ("b", 3, None)),
        rows(("a", 40, 5.0)),  # after now
    ],
)
def test_a_table_without_a_value_is_refused(load: Load, told: dict[str, list[Any]]) -> None:
    columns = {**told, "units": pa.array(told["units"], pa.float64())}
    with pytest.raises(InvalidInput, match=r"Table 'sales' has no row with a value for sum\(units\) up to 2026-02-01"):
        load(ask(), {"sales": columns}, now=NOW)


def test_an_empty_table_is_refused(load: Load) -> None:
    empty = pa.table({"store": pa.array([], pa.string()), "day": pa.array([], pa.date32()), "units": pa.array([], pa.float64())})
    with pytest.raises(InvalidInput, match="has no row with a value"):
        load(ask(), {"sales": empty}, now=NOW)


def test_at_an_origin_before_all_known_at_nothing_is_known(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="day", known_at="known")
    told = rows(("a", 0, 1.0, datetime(2026, 1, 20)), names=("store", "day", "units", "known"))  # noqa: DTZ001 - wall time is meant
    with pytest.raises(InvalidInput, match="no row of table 'sales' was known yet"):
        load(ask(table), {"sales": told}, now=NOW, origin=on(9))


# --- cells


def test_rows_of_one_key_and_day_are_summed_and_days_without_rows_are_missing(load: Load) -> None:
    panel = load(ask(), {"sales": rows(("a", 0, 2.0), ("a", 0, 3.0), ("a", 2, 1.0), ("b", 1, 0.0))}, now=NOW).panel
    np.testing.assert_array_equal(panel.observed, np.array([[5, NAN, 1], [NAN, 0, NAN]], dtype=np.float32))


def test_values_that_are_none_are_missing_and_counted(load: Load) -> None:
    told = [("a", 0, NAN), ("a", 1, math.inf), ("a", 2, -math.inf), ("a", 3, -2.0), ("a", 4, None), ("a", 5, 1e300), ("a", 6, 4.0), ("a", 6, NAN)]
    loaded = load(ask(), {"sales": rows(*told)}, now=NOW)
    np.testing.assert_array_equal(loaded.panel.observed, [[NAN] * 6 + [4.0]])
    assert doubts(loaded)["infinite or NaN targets"] == 4
    assert doubts(loaded)["days with a negative target"] == 1


def test_rows_without_a_key_are_left_out_and_counted(load: Load) -> None:
    loaded = load(ask(), {"sales": rows(*daily(3), (None, 1, 50.0), (None, 2, 50.0))}, now=NOW)
    assert loaded.panel.keys == {"store": ("a",)}
    assert loaded.panel.observed.tolist() == [[1.0, 1.0, 1.0]]
    assert doubts(loaded)["rows without a key"] == 2
    with pytest.raises(InvalidInput, match=r"Every row of table 'sales' has a null in its keys \['store'\]"):
        load(ask(), {"sales": {**rows((None, 0, 1.0)), "store": pa.array([None], pa.string())}}, now=NOW)


def test_keys_keep_their_type_and_come_in_their_order(load: Load) -> None:
    panel = load(ask(), {"sales": rows(*daily(2, store=10), *daily(2, store=9))}, now=NOW).panel
    assert (panel.keys, panel.key_types) == ({"store": ("9", "10")}, {"store": "integer"})


def test_a_key_that_is_no_column_is_named_with_its_neighbour(load: Load) -> None:
    with pytest.raises(InvalidInput, match=r"Table 'sales' has no column 'shop'"):
        load(ask(keys=["shop"]), {"sales": rows(*daily(2))}, now=NOW)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_days_on_which_clocks_change_are_one_day_each(load: Load, zone: str) -> None:
    table = Table("sales", "sales.parquet", keys=("store",), event_time="at", zone=zone)
    hours = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=h) for h in range(24 * 40)]
    columns = {"store": ["a"] * len(hours), "at": pa.array(hours, pa.timestamp("us", tz="UTC")), "units": [1.0] * len(hours)}
    panel = load(ask(table), {"sales": columns}, now=datetime(2026, 4, 20, tzinfo=UTC)).panel
    whole = panel.observed[0, 1:-1]
    changed = date(2026, 3, 29) if zone == "Europe/Berlin" else date(2026, 3, 8)
    assert set(whole.tolist()) == {23.0, 24.0}
    assert [panel.day(t + 1) for t in np.flatnonzero(whole == 23)] == [changed]


def test_gaps_of_weeks_stay_missing(load: Load) -> None:
    loaded = load(ask(), {"sales": rows(*daily(2), ("a", 23, 1.0))}, now=NOW, origin=on(24))
    assert np.isnan(loaded.panel.observed[0, 2:23]).all()
    assert doubts(loaded)["days missing after a series began"] == 21


def test_at_most_1500_days_are_read(load: Load) -> None:
    loaded = load(ask(), {"sales": rows(("a", 0, 1.0), ("b", MOST_DAYS + 10, 2.0))}, now=datetime(2036, 1, 1, tzinfo=UTC))
    panel = loaded.panel
    assert (panel.start, panel.n_seen) == (on(11), MOST_DAYS)
    assert (panel.observed[1, -1], doubts(loaded)["days before 2026-01-16"]) == (2.0, 11)
    assert doubts(loaded)["series without any history"] == 1


def test_a_panel_too_large_to_be_dense_is_refused_before_it_is_made(load: Load) -> None:
    n = 230_000
    days = pa.array(np.where(np.arange(n) == 0, np.datetime64(FIRST), np.datetime64(on(MOST_DAYS - 1))))
    big = pa.table({"store": np.arange(n), "day": days, "units": np.ones(n)})
    with pytest.raises(InvalidInput, match="230000 series x 1900 days x 1 columns; a dense panel holds at most 400,000,000 cells"):
        load(ask(horizon="400d"), {"sales": big}, now=datetime(2036, 1, 1, tzinfo=UTC))


def test_arrays_are_whole_blocks_for_the_kernels(load: Load) -> None:
    told = rows(*[(*row, 0.0, 1.0) for row in daily(9)], names=("store", "day", "units", "out", "rain"))
    panel = load(ask(censored="out", past=["rain"], known_ahead={"price": mean("rain", table=SALES)}), {"sales": told}, now=NOW).panel
    assert panel.censored is not None
    for array in (panel.observed, panel.censored, panel.ahead["price"], panel.past["rain"]):
        assert array.flags.c_contiguous
        assert array.dtype == np.float32


def test_hostile_names_of_columns_are_columns(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=('st"ore; --',), event_time="day")
    told = rows(*[(*row, 3.0) for row in daily(3)], names=('st"ore; --', "day", "un its", "pro'mo"))
    panel = load(ask(table, target="un its", known_ahead=["pro'mo"]), {"sales": told}, now=NOW).panel
    assert panel.observed.tolist() == [[1.0, 1.0, 1.0]]
    assert panel.ahead["pro'mo"][0, :3].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("name", ["target", "censored"])
def test_a_fact_cannot_take_the_name_of_a_panels_own_column(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"uses the names \\['{name}'\\] twice"):
        ask(known_ahead={name: "promo"}, censored="out")
    with pytest.raises(DefinitionError, match="twice"):
        ask(past={name: "promo"})


def test_closed_and_censored_days_are_counted(load: Load) -> None:
    told = rows(("a", 0, 5.0, 0.0, 1), ("a", 1, 5.0, 0.4, 1), ("a", 2, 0.0, 0.0, 0), names=("store", "day", "units", "out", "open"))
    loaded = load(ask(censored="out", known_ahead=["open"], open="open"), {"sales": told}, now=NOW)
    assert (doubts(loaded)["days on which demand was censored"], doubts(loaded)["days on which a series was closed"]) == (1, 1)
    np.testing.assert_array_equal(loaded.panel.target, [[5.0, NAN, NAN]])


# --- late and restated rows


def restated(*told: tuple[Any, ...]) -> dict[str, Any]:
    return rows(*told, names=("store", "day", "units", "known"))


LATE = Table("sales", "sales.parquet", keys=("store",), event_time="day", known_at="known")


def told_on(tick: float) -> datetime:
    return datetime(2026, 1, 5) + timedelta(days=tick)  # noqa: DTZ001 - wall time is meant


def test_a_restated_value_stands_from_its_arrival_on(load: Load) -> None:
    told = restated(("a", 0, 1.0, told_on(1)), ("a", 1, 2.0, told_on(2)), ("a", 0, 9.0, told_on(2.5)), ("a", 2, 3.0, told_on(3)))
    panel = load(ask(LATE), {"sales": told}, now=NOW, origin=on(4)).panel
    assert panel.observed[0].tolist()[:3] == [9.0, 2.0, 3.0]
    assert [panel.seen_at(o).observed[0, 0] for o in (1, 2, 3)] == [1.0, 1.0, 9.0]


def test_a_value_that_was_negative_for_a_while_was_missing_then(load: Load) -> None:
    told = restated(("a", 0, 1.0, told_on(1)), ("a", 1, -5.0, told_on(2)), ("a", 1, 5.0, told_on(3.5)), ("a", 2, 3.0, told_on(3)))
    panel = load(ask(LATE), {"sales": told}, now=NOW, origin=on(4)).panel
    np.testing.assert_array_equal([panel.seen_at(o).observed[0, 1] for o in (2, 3, 4)], [NAN, NAN, 5.0])


def test_rows_of_one_statement_are_all_of_it(load: Load) -> None:
    told = restated(("a", 0, 1.0, told_on(1)), ("a", 0, 2.0, told_on(1)), ("a", 0, 10.0, told_on(2.5)), ("a", 0, 20.0, told_on(2.5)))
    panel = load(ask(LATE), {"sales": told}, now=NOW, origin=on(3)).panel
    assert [panel.seen_at(o).observed[0, 0] for o in (1, 2, 3)] == [3.0, 3.0, 30.0]


def test_a_calendar_for_all_series_may_be_restated(load: Load) -> None:
    week = Table("week", "week.parquet", event_time="day", known_at="known")
    told = {"day": [on(d) for d in (2, 3, 2)], "fair": [0.0, 1.0, 1.0], "known": [told_on(-9), told_on(-9), told_on(1.5)]}
    forecast = ask(known_ahead={"fair": mean("fair", table=week)})
    panel = load(forecast, {"sales": rows(*daily(3), *daily(3, store="b")), "week": told}, now=NOW, origin=on(3)).panel
    assert panel.ahead["fair"][:, 2:4].tolist() == [[1.0, 1.0]] * 2
    assert panel.seen_at(1).ahead["fair"][:, 2:4].tolist() == [[0.0, 1.0]] * 2


# --- facts of series


def stores(**columns: Any) -> dict[str, Any]:
    return {"store": ["a", "b"], **columns}


def test_a_series_may_be_known_by_its_facts_alone_and_facts_may_be_missing(load: Load) -> None:
    told = {"sales": rows(*daily(3), *daily(3, store="c")), "stores": stores(region=["north", None], floors=[2, 3])}
    loaded = load(ask(static=STORES), told, now=NOW)
    panel = loaded.panel
    assert panel.keys == {"store": ("a", "b", "c")}
    assert (panel.statics["region"].codes.tolist(), panel.statics["region"].labels) == ([0, -1, -1], ("north",))
    assert (panel.statics["floors"].codes.tolist(), panel.statics["floors"].labels) == ([0, 1, -1], ("2", "3"))
    assert np.isnan(panel.observed[1]).all()
    assert doubts(loaded)["series without any history"] == 1


def test_many_valued_numbers_become_eighths_and_many_valued_texts_and_dates_are_left_out(load: Load) -> None:
    n = 100
    columns = {
        "store": list(range(n)),
        "area": [NAN if i == 3 else float(i * i) for i in range(n)],
        "price": [Decimal(i) / 4 for i in range(n)],
        "opened": [on(i) for i in range(n)],
        "street": [f"street {i}" for i in range(n)],
        "town": [f"town {i % 5}" for i in range(n)],
        "lift": [i % 2 == 0 for i in range(n)],
        "share": [None if i % 3 else NAN for i in range(n)],
    }
    told = {"sales": rows(*[("x", d, 1.0) for d in range(2)]), "stores": columns}
    told["sales"]["store"] = [0, 1]
    panel = load(ask(static=STORES), told, now=NOW).panel
    assert set(panel.statics) == {"area", "price", "town", "lift", "share"}
    area = panel.statics["area"]
    assert area.codes[3] == -1
    assert len(area.labels) == 8
    assert np.bincount(area.codes[area.codes >= 0]).tolist() == pytest.approx([99 / 8] * 8, abs=1)
    assert (np.diff(np.delete(area.codes, 3)) >= 0).all()
    assert len(panel.statics["price"].labels) == 8
    assert panel.statics["lift"].labels == ("False", "True")
    assert (panel.statics["share"].labels, set(panel.statics["share"].codes.tolist())) == ((), {-1})


def test_a_slice_is_kept_whatever_it_holds_and_an_unknown_one_is_refused(load: Load) -> None:
    columns = {"store": list(range(70)), "street": [f"street {i}" for i in range(70)]}
    told = {"sales": {**rows(("x", 0, 1.0)), "store": [0]}, "stores": columns}
    assert len(load(ask(static=STORES, slices=["street"]), told, now=NOW).panel.statics["street"].labels) == 70
    with pytest.raises(InvalidInput, match=r"Table 'stores' has no column 'streat'.*did you mean 'street'"):
        load(ask(static=STORES, slices=["streat"]), told, now=NOW)


def test_facts_of_part_of_the_key_hold_for_all_that_share_it(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store", "item"), event_time="day")
    told = rows(("a", 0, 1.0, "x"), ("a", 0, 1.0, "y"), ("b", 0, 1.0, "x"), names=("store", "day", "units", "item"))
    panel = load(ask(table, static=STORES), {"sales": told, "stores": stores(region=["north", "south"])}, now=NOW).panel
    assert [panel.statics["region"].labels[c] for c in panel.statics["region"].codes] == ["north", "north", "south"]


def test_an_item_in_two_categories_is_named_and_counted_once(load: Load) -> None:
    table = Table("sales", "sales.parquet", keys=("store", "item"), event_time="day")
    items = Table("items", "items.parquet", keys=("item",))
    told = {
        "sales": rows(*[("a", d, 1.0, item) for item in "wxyz" for d in range(2)], names=("store", "day", "units", "item")),
        "items": {
            "item": ["w", "x", "x", "y", "y", "z", "z", None, None],
            "category": ["tea", "tea", "milk", "tea", "tea", None, "milk", "a", "b"],
            "size": [1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 1.0, 2.0],
        },
    }
    loaded = load(ask(table, static=items), told, now=NOW)
    category = loaded.panel.statics["category"]
    assert [category.labels[c] for c in category.codes] == ["tea", "milk", "tea", "milk"]
    named = {doubt.what: (doubt.n, doubt.treatment) for doubt in loaded.doubts if "items" in doubt.what}
    assert named == {"keys of table 'items' with more than one category (item=x, item=z)": (2, "the least of them counts")}


def test_of_restated_facts_only_the_newest_can_contradict(load: Load) -> None:
    stated = Table("stores", "stores.parquet", keys=("store",), known_at="at")
    then, later = datetime(2026, 1, 1), datetime(2026, 1, 3)  # noqa: DTZ001 - naive is the case
    told = {"store": ["a", "a", "b", "b"], "region": ["north", "south", "east", "west"], "at": [then, later, later, later]}
    loaded = load(ask(static=stated), {"sales": rows(*daily(9), *daily(9, store="b")), "stores": told}, now=NOW)
    assert doubts(loaded)["keys of table 'stores' with more than one region (store=b)"] == 1
    region = loaded.panel.statics["region"]
    assert [region.labels[c] for c in region.codes] == ["south", "east"]


def test_a_day_that_was_sent_twice_is_summed_and_named(load: Load) -> None:
    loaded = load(ask(), {"sales": rows(*daily(15), ("a", 3, 2.0), ("a", 3, 5.0))}, now=NOW)
    assert loaded.panel.observed[0, 3] == 8.0
    assert doubts(loaded)["days of a series with more than the usual 1 row"] == 1


def test_an_hour_that_was_sent_twice_is_named(load: Load) -> None:
    hourly = [("a", datetime.combine(on(d), time(h)), 1.0) for d in range(12) for h in range(24)]
    loaded = load(ask(), {"sales": rows(*hourly, hourly[30])}, now=NOW)
    assert loaded.panel.observed[0, 1] == 25.0
    assert doubts(loaded)["days of a series with more than the usual 24 rows"] == 1


def test_one_row_for_each_sale_is_no_doubt(load: Load) -> None:
    sales = [("a", d, 1.0) for d in range(20) for _ in range(1 + 7 * d % 5)]
    assert not [what for what in doubts(load(ask(), {"sales": rows(*sales)}, now=NOW)) if "usual" in what]


# --- holidays


@pytest.mark.parametrize(("where", "epiphany"), [("DE", False), ("DE-BY", True), ("AT", True)])
def test_public_holidays_are_those_of_the_country_and_region(load: Load, where: str, epiphany: bool) -> None:
    panel = load(ask(holidays=where), {"sales": rows(*daily(26))}, now=NOW, origin=date(2026, 4, 1)).panel
    flags = panel.calendar["public_holiday"]
    assert bool(flags[(date(2026, 1, 6) - FIRST).days]) == epiphany
    assert flags.size > panel.targets[-1] + 7
    assert bool(flags[(date(2026, 4, 6) - FIRST).days])  # Easter Monday, beyond the last target


def test_weekend_days_that_are_worked_are_flagged_where_a_country_has_them(load: Load) -> None:
    panel = load(ask(holidays="CN"), {"sales": rows(*daily(26))}, now=NOW).panel
    worked = [panel.day(t) for t in np.flatnonzero(panel.calendar["weekend_workday"])]
    assert worked
    assert all(day.weekday() >= 5 for day in worked)
    assert load(ask(), {"sales": rows(*daily(26))}, now=NOW).panel.calendar == {}


@pytest.mark.parametrize(("where", "hint"), [("DEE", "did you mean '"), ("??", "use a code such as DE or DE-BY"), ("DE-XX", "DE")])
def test_a_country_or_region_without_a_calendar_is_refused_with_a_hint(load: Load, where: str, hint: str) -> None:
    with pytest.raises(DefinitionError, match=r"has no holiday calendar") as caught:
        load(ask(holidays=where), {"sales": rows(*daily(26))}, now=NOW)
    assert hint in str(caught.value)
