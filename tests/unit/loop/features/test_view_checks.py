from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError
from endcap.loop.features.checks import check_view

SALES = Table("sales", "s.parquet", keys=("store",), event_time="day", columns={"dear": "price > 10"})
PLAN = Table("plan", "p.parquet", keys=("store",), event_time="day")
KNOWN = {"sales": ["store", "day", "units", "price", "unit price", "a)b"]}


def of_source(**given: Any) -> FeatureView:
    return FeatureView(**({"name": "v", "source": SALES, "features": {"u": sum_("units", "7d")}} | given))


def of_sql(sql: str, **given: Any) -> FeatureView:
    return FeatureView(**({"name": "v", "sql": sql, "tables": (SALES, PLAN), "keys": ("store",), "event_time": "day"} | given))


@pytest.mark.parametrize("columns", [{}, KNOWN])
@pytest.mark.parametrize(
    "view",
    [
        of_source(),
        of_source(features={"u": sum_("units * price", "7d", where="dear AND store <> 'x'")}, where="price > 0"),
        of_source(features=["unit price", "price"]),
        of_source(features={"u": "sales.units"}),
        of_source(features={"u": '"unit price" / 2'}),
        of_sql("SELECT store, day, units FROM sales JOIN plan USING (store, day);"),
        of_sql("WITH s AS (SELECT * FROM sales) SELECT * FROM s"),
        of_sql("SELECT store, day, x FROM sales, unnest([1, 2]) AS t(x)"),
        of_sql("SELECT store, make_date(2025, 1, 1) AS day FROM sales UNION SELECT store, day FROM plan"),
        of_sql("SELECT store, ts AS day FROM (VALUES ('a', 1)) AS t(store, ts)"),
    ],
)
def test_what_can_be_computed_passes(view: FeatureView, columns: dict[str, list[str]]) -> None:
    check_view(view, columns=columns)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (of_sql("SELECT store, day FROM salse"), "reads 'salse', which is not among its tables ['plan', 'sales']. Hint: did you mean 'sales'?"),
        (of_sql("SELECT store, day FROM 'other.csv'"), "reads 'other.csv'"),
        (of_sql("SELECT store, day FROM read_csv('/etc/passwd')"), "takes rows from read_csv(...)"),
        (of_sql("SELECT store, day FROM sales WHERE store IN (SELECT content FROM read_text('/etc/passwd'))"), "takes rows from read_text(...)"),
        (of_sql("SELECT store, day FROM glob('*')"), "takes rows from glob(...)"),
        (of_sql("SELECT table_name AS store, 1 AS day FROM information_schema.tables"), "reads 'information_schema.tables'"),
        (of_sql("SELECT store, day FROM other.main.sales"), "reads 'other.main.sales'"),
        (of_sql("SELECT store, day FROM sales; DROP TABLE sales"), "This is not one SELECT"),
        (of_sql("SELECT store, day FROM sales; SELECT 1"), "These are 2 statements"),
        (of_sql("COPY sales TO 'x.csv'"), "This is not one SELECT"),
        (of_sql("INSTALL httpfs"), "This is not one SELECT"),
        (of_sql("DESCRIBE sales"), "describes a table"),
        (of_sql("SELECT store, day, FROM sales WHERE ("), "This is not one SELECT"),
        (of_sql("SELECT store, now() AS day FROM sales"), "asks for now"),
        (of_sql("SELECT store, current_date AS day FROM sales"), "asks for current_date"),
        (of_sql("SELECT store, day, random() AS r FROM sales"), "asks for random"),
        (of_sql("SELECT store, day FROM sales TABLESAMPLE 10%"), "draws a sample"),
        (of_sql("SELECT store, day FROM sales USING SAMPLE 3"), "draws a sample"),
        (of_sql("SELECT store, day, getenv('HOME') AS h FROM sales"), "asks for getenv"),
        (of_sql("SELECT store, day, $1 AS p FROM sales"), "has a parameter"),
        (of_sql("SELECT shop AS store_id, day FROM sales"), "gives no column 'store'. Columns: ['store_id', 'day']"),
        (of_sql("SELECT store FROM sales"), "gives no column 'day'"),
        (of_sql("SELECT store, day, units FROM sales", features=["unit"]), "gives no column 'unit'"),
        (of_source(where="price >"), "'price >' is not an expression"),
        (of_source(where="a) FROM sales WHERE (b"), "is not an expression"),
        (of_source(features={"u": sum_("units) FROM read_csv('x') --", "7d")}), "is not an expression"),
        (of_source(features={"u": sum_("units, price", "7d")}), "is not an expression"),
        (of_source(features={"u": "(SELECT max(units) FROM sales)"}), "reads a table"),
        (of_source(features={"u": sum_("units", "7d", where="day < today()")}), "asks for today"),
        (of_source(where="store = $x"), "has a parameter"),
    ],
)
def test_what_is_hostile_or_impossible_is_refused(view: FeatureView, said: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_view(view, columns={})
    assert said in f"{caught.value.what} Hint: {caught.value.hint}"
    assert caught.value.what.startswith("Feature view 'v': ")


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (of_source(features={"u": sum_("unist", "7d")}), "table 'sales' has no column 'unist'. Columns:"),
        (of_source(features={"u": sum_("units", "7d", where="chanel = 'web'")}), "no column 'chanel'"),
        (of_source(keys=["shop"]), "no column 'shop'"),
        (of_source(features=["no such column"]), "'no such column' is not an expression"),
    ],
)
def test_columns_that_are_not_there_are_refused_where_columns_are_known(view: FeatureView, said: str) -> None:
    check_view(view, columns={})
    with pytest.raises(DefinitionError) as caught:
        check_view(view, columns=KNOWN)
    assert said in caught.value.what
