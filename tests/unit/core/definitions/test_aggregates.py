from __future__ import annotations

from typing import Any

import pytest

from endcap.core.definitions import aggregates
from endcap.core.definitions.aggregates import AGGREGATES, Aggregate
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError

SALES = Table("sales", "a.csv")


@pytest.mark.parametrize("fold", AGGREGATES)
def test_each_fold_has_a_function_of_its_name(fold: str) -> None:
    make = getattr(aggregates, fold)
    assert make("units") == Aggregate(fold, "units")
    assert make("units", table=SALES).table is SALES
    assert str(make("units * price")) == f"{fold}(units * price)"


def test_counting_needs_no_column() -> None:
    assert aggregates.count() == Aggregate("count", "*")


def test_a_table_is_said_once() -> None:
    other = Table("other", "b.csv")
    assert aggregates.sum("units").on(SALES).table is SALES
    assert aggregates.sum("units", table=other).on(SALES).table is other


def test_an_unknown_fold_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"'meen' folds nothing. Folds: .* did you mean 'mean'"):
        Aggregate("meen", "units")


@pytest.mark.parametrize("column", ["", "  ", None, 5])
def test_an_aggregate_needs_a_column(column: Any) -> None:
    with pytest.raises(DefinitionError, match="names no column"):
        aggregates.sum(column)
