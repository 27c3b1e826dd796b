from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.definitions.aggregates import count, distinct, lag, last, ratio, time_since
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import DefinitionError
from endcap.loop.features.lineage import CONDITION, ViewSources, find_personal, find_sources, source_columns

SALES = Table(
    "sales",
    "s.parquet",
    keys=("store",),
    event_time="day + hour * interval 1 hour",
    known_at="sent",
    columns={"dear": "price > 10", "day part": "hour // 6"},
)
TOLD = msgspec.structs.replace(SALES, known_at=None)  # a SELECT over rows that come late says since when its own are known
PLAN = Table("plan", "p.parquet", keys=("store",), event_time="day", contract=Contract(columns={"promo": Check()}))


def tell(found: ViewSources) -> dict[str, str]:
    """By feature: what it is made of, and after a bar what only says which rows count."""
    told = {}
    for name, columns in found.features.items():
        values = ", ".join(str(column) for column in columns if column.role != CONDITION)
        conditions = ", ".join(str(column) for column in columns if column.role == CONDITION)
        told[name] = f"{values} | {conditions}" if conditions else values
    return told


def of_source(**features: Any) -> dict[str, str]:
    return tell(find_sources(FeatureView(name="v", source=SALES, features=features)))


def of_sql(sql: str, *features: str, columns: dict[str, list[str]] | None = None, **given: Any) -> dict[str, str]:
    view = FeatureView(name="v", sql=sql, tables=(TOLD, PLAN), keys=("store",), features=features, **given)  # type: ignore[arg-type]  # a list of names is taken
    return tell(find_sources(view, columns=columns))


def test_columns_and_expressions_of_rows() -> None:
    assert of_source(
        price="price", half="price / 2", both="price * units + sales.price", text="'price'", odd="unit price", cast="CAST(units AS VARCHAR)"
    ) == {
        "price": "sales.price",
        "half": "sales.price",
        "both": "sales.price, sales.units",
        "text": "",
        "odd": "sales.unit price",
        "cast": "sales.units",
    }


def test_functions_of_columns_lambdas_and_fields_of_structs() -> None:
    found = of_source(
        a="list_transform(l, lambda z: z + w)", b="l.list_filter(lambda q: q > 1)", c="address.city", d="[x, y][1]", e="CASE WHEN a THEN b END"
    )
    assert found == {"a": "sales.l, sales.w", "b": "sales.l", "c": "sales.address", "d": "sales.x, sales.y", "e": "sales.a, sales.b"}


def test_windows_with_conditions_counts_and_ratios() -> None:
    found = of_source(
        web=sum_("units", "7d", where="channel = 'web' AND NOT test"),
        n=count("*", "7d"),
        quiet=time_since("28d", where="units > 0"),
        share=ratio(sum_("units * price", "7d", where="web"), distinct("item", "7d")),
        was=lag("units", "7d"),
        newest=last("price", "7d"),
    )
    assert found == {
        "web": "sales.units | sales.channel, sales.test",
        "n": "sales (rows)",
        "quiet": "sales.day, sales.hour | sales.units",
        "share": "sales.item, sales.price, sales.units | sales.web",
        "was": "sales.units",
        "newest": "sales.price",
    }


def test_derived_columns_are_followed_to_the_files() -> None:
    assert of_source(dear="dear", n="DEAR", part='"day part"') == {"dear": "sales.price", "n": "sales.price", "part": "sales.hour"}


def test_the_condition_of_a_view_counts_for_all_of_its_features() -> None:
    view = FeatureView(name="v", source=SALES, features={"price": "price", "open": "open"}, where="open AND units > 0")
    found = find_sources(view)
    assert tell(found) == {"price": "sales.price | sales.open, sales.units", "open": "sales.open | sales.units"}
    assert [str(column) for column in found.times] == ["sales.day", "sales.hour", "sales.sent"]
    assert [str(column) for column in found.keys["store"]] == ["sales.store"]
    assert [f"{c} {c.role}" for c in found.columns if c.column == "open"] == ["sales.open condition", "sales.open value"]


def test_a_select_through_ctes_joins_and_conditions() -> None:
    sql = """
        WITH sold AS (SELECT store, day, sum(units) AS u FROM sales s WHERE s.kind > 0 GROUP BY store, day)
        SELECT sold.store, day, sold.u / p.visitors AS rate, p.promo FROM sold JOIN plan p ON p.store = sold.store
    """
    conditions = "plan.store, sales.day, sales.kind, sales.store"
    assert of_sql(sql, event_time="day") == {
        "rate": f"plan.visitors, sales.units | {conditions}",
        "promo": f"plan.promo | {conditions}",
    }


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT store, units AS u FROM sales UNION ALL SELECT store, visitors FROM plan", "plan.visitors, sales.units"),
        ("SELECT store, u FROM (SELECT store, units AS u FROM sales)", "sales.units"),
        ("SELECT t.store, t.x AS u FROM (SELECT store, units FROM sales) AS t(store, x)", "sales.units"),
        ("WITH RECURSIVE r AS (SELECT store, units AS u FROM sales UNION ALL SELECT store, u + 1 FROM r) SELECT * FROM r", "sales.units"),
        ("SELECT store, units AS one, one + 1 AS u FROM sales", "sales.units"),
        ("SELECT store, l.u FROM (SELECT store, items FROM sales) s, unnest(s.items) AS l(u)", "sales.items"),
        ("SELECT store, (SELECT max(visitors) FROM plan p WHERE p.store = s.store) AS u FROM sales s", "plan.visitors | plan.store, sales.store"),
        ("SELECT store, row_number() OVER (PARTITION BY store ORDER BY day) AS u FROM sales", "sales.day, sales.store"),
        ("SELECT store, count(*) AS u FROM sales GROUP BY ALL", "sales (rows) | sales.store"),
        ("SELECT store, sum(units) FILTER (WHERE web) AS u FROM sales GROUP BY 1", "sales.units, sales.web | sales.store"),
        ("SELECT * EXCLUDE (hour) RENAME (units AS u) FROM sales", "sales.units"),
        ("SELECT * REPLACE (price * 2 AS u) FROM sales", "sales.price"),
        ("SELECT store, dear AS u FROM sales", "sales.price"),
        ("SELECT DISTINCT store, 1 AS u FROM sales WHERE open QUALIFY rank() OVER (ORDER BY day) = 1", " | sales.day, sales.open, sales.store"),
        ("FROM sales SELECT store, UNITS AS U", "sales.UNITS"),
        ("SELECT s.store, p.promo AS u FROM sales s ASOF JOIN plan p ON s.store = p.store AND s.day >= p.day", None),
    ],
)
def test_selects_of_many_forms(sql: str, found: str | None) -> None:
    told = of_sql(sql, "u")["u"]
    assert told == (found if found is not None else "plan.promo | plan.day, plan.store, sales.day, sales.store")


def test_where_a_column_cannot_be_told_its_tables_are_named() -> None:
    joined = "SELECT * FROM sales JOIN plan USING (store)"
    assert of_sql(joined, "units") == {"units": "plan (some columns), sales (some columns) | plan.store, sales.store"}
    known = {"sales": ["store", "units"], "plan": ["store", "visitors"]}
    told = of_sql(joined, "units", "visitors", columns=known)
    assert told == {"units": "sales.units | plan.store, sales.store", "visitors": "plan.visitors | plan.store, sales.store"}
    assert of_sql("SELECT * FROM (PIVOT sales ON kind IN ('a', 'b') USING sum(units))", "a") == {"a": "plan (some columns), sales (some columns)"}
    assert of_sql("SELECT * FROM sales", "units") == {"units": "sales.units"}


def test_a_view_that_names_no_features_has_those_of_its_select() -> None:
    assert of_sql("SELECT store, day, units, price FROM sales", event_time="day") == {"units": "sales.units", "price": "sales.price"}
    view = FeatureView(name="v", sql="SELECT * FROM sales", tables=(TOLD,), keys=("store",))
    assert find_sources(view).given is None
    assert find_sources(view, columns={"sales": ["store", "units"]}).given is not None


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(DefinitionError, match="This is not one SELECT"):
        of_sql("SELECT FROM WHERE", "u")
    view = FeatureView(name="v", source=SALES, features={"a": "price"})
    assert [str(column) for column in source_columns(view)["a"]] == ["sales.price"]


def test_what_carries_a_personal_column_is_personal() -> None:
    people = Table("people", "p.csv", keys=("email",), event_time="day", columns={"domain": "split_part(email, '@', 2)"}, personal=("email", "age"))
    windows = {"newest": last("age", "7d"), "total": sum_("age", "7d"), "n": count("*", "7d"), "spend": last("spend", "7d")}
    folded = FeatureView(name="v", source=people, features=windows, personal=("spend",))
    assert find_personal(folded, find_sources(folded)) == find_personal(folded) == {"email", "newest", "spend"}
    assert find_personal(FeatureView(name="v", source=SALES, features={"x": "x"}, personal=("x",))) == {"x"}
    rows = FeatureView(name="v", source=people, keys=("store",), features={"d": "domain", "old": "age > 60", "x": "x"})
    assert find_personal(rows, find_sources(rows)) == {"d", "old"}
    queried = FeatureView(name="v", sql="SELECT store, count(*) AS n, max(age) AS m FROM people GROUP BY 1", tables=(people,), keys=("store",))
    assert find_personal(queried, find_sources(queried)) == {"m"}
    starred = FeatureView(name="v", sql="SELECT * FROM people, sales", tables=(people, TOLD), keys=("store",), features=["x"])  # type: ignore[arg-type]  # a list of names is taken
    assert "x" in find_personal(starred, find_sources(starred))
