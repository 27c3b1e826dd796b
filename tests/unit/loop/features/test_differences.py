from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions.aggregates import mean
from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.loop.features.differences import describe_differences

SALES = Table("sales", "sales.csv", keys=("store", "item"), event_time="day")
PLAN = Table("plan", "plan.csv", keys=("store",), event_time="day")


def of_source(**given: Any) -> FeatureView:
    return FeatureView(**({"name": "v", "source": SALES, "features": {"a": sum_("units", "7d"), "b": mean("price", "7d")}} | given))


def of_sql(sql: str, **given: Any) -> FeatureView:
    return FeatureView(**({"name": "v", "sql": sql, "tables": (SALES,), "keys": ("store",)} | given))


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (of_source(), ()),
        (of_source(keys=["store"]), ('keys: ["store","item"] -> ["store"]',)),
        (of_source(every="1h"), ('every: "1d" -> "1h"',)),
        (of_source(known_after="6h", max_age="3d"), ('known_after: "0h" -> "6h"', 'max_age: none -> "3d"')),
        (of_source(features={"a": sum_("units", "7d")}), ("- feature b: mean(price, 7d)",)),
        (
            of_source(features={"a": sum_("units", "8d", where="web"), "b": mean("price", "7d"), "c": sum_("x", "7d")}),
            ("+ feature c: sum(x, 7d)", "feature a: sum(units, 7d) -> sum(units, 8d) where web"),
        ),
        (
            of_source(source=Table("sales", "other.csv", keys=("store", "item"), event_time="day")),
            ('table sales, source: "sales.csv" -> "other.csv"',),
        ),
        (of_source(meanings={"a": "units"}, tags=("x",), purposes=("y",)), ('purposes: [] -> ["y"]', 'tags: [] -> ["x"]', "+ meaning a: units")),
        (of_source(description="한국어 🔥 " * 40), None),
    ],
)
def test_each_field_that_differs_is_a_line(new: FeatureView, lines: tuple[str, ...] | None) -> None:
    found = describe_differences(of_source(), new)
    if lines is None:
        assert len(found) == 1
        assert len(found[0]) < 120
    else:
        assert found == lines


def test_sql_is_compared_by_its_lines() -> None:
    old = of_sql("SELECT store,\n  units\nFROM sales\n")
    new = of_sql("SELECT store,\n  units, price\nFROM sales", tables=(SALES, PLAN))
    assert describe_differences(old, new) == ("- sql: units", "+ sql: units, price", "+ table plan: plan.csv")
    many = of_sql("\n".join(f"-- {i}" for i in range(100)))
    assert describe_differences(old, many)[-1].startswith("and ")
    assert len(describe_differences(old, many)) == 41


def test_a_view_of_another_sort_is_told_too() -> None:
    found = describe_differences(of_source(), of_sql("SELECT * FROM sales", tables=(PLAN,)))
    assert 'sql: none -> "SELECT * FROM sales"' in found
    assert "- table sales: sales.csv" in found
    assert "+ table plan: plan.csv" in found
