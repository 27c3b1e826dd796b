from __future__ import annotations

from collections.abc import Sequence

import pytest

from endcap.core.definitions.aggregates import sum as sum_
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.purposes import require_purpose
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, PermissionDenied

OPEN = Table("sales", "sales.csv", keys=("store",), event_time="day")
CLOSED = Table("loyalty", "loyalty.csv", keys=("store",), event_time="day", purposes=("demand", "stock"))


def see(table: Table = OPEN, **given: object) -> FeatureView:
    return FeatureView(name="visits", source=table, features={"n": sum_("n", "7d")}, **given)  # type: ignore[arg-type]  # fields by name


def allows(purpose: str | None, *, tables: Sequence[Table] = (), views: Sequence[FeatureView] = ()) -> bool:
    try:
        require_purpose(purpose, asker="Model 'm'", tables=tables, views=views)
    except PermissionDenied:
        return False
    return True


def test_what_states_nothing_allows_anything() -> None:
    assert allows(None, tables=[OPEN], views=[see()])
    assert allows("credit", tables=[OPEN], views=[see()])
    assert allows(None)
    assert not allows(None, tables=[OPEN, CLOSED])


def test_a_purpose_that_is_allowed_passes() -> None:
    assert allows("stock", tables=[CLOSED], views=[see(CLOSED), see(purposes=("stock",))])
    assert not allows("credit", tables=[CLOSED], views=[see(CLOSED)])


@pytest.mark.parametrize(
    ("purpose", "tables", "views", "said"),
    [
        ("credit", [CLOSED], [], "Model 'm' is for 'credit', and table 'loyalty' may be used for 'demand' and 'stock' only."),
        (None, [CLOSED], [], "Model 'm' states no purpose, and table 'loyalty' may be used for 'demand' and 'stock' only."),
        ("credit", [], [see(purposes=("stock",))], "Model 'm' is for 'credit', and feature view 'visits' may be used for 'stock' only."),
        ("credit", [], [see(CLOSED)], "and table 'loyalty' (by feature view 'visits') may be used for"),
        ("demand", [], [see(CLOSED, purposes=("stock",))], "feature view 'visits' may be used for 'stock' only"),
        ("stock", [], [see(CLOSED, purposes=("stock",)), see(purposes=("staff",))], "feature view 'visits' may be used for 'staff' only"),
    ],
)
def test_another_purpose_or_none_is_refused(purpose: str | None, tables: list[Table], views: list[FeatureView], said: str) -> None:
    with pytest.raises(PermissionDenied) as caught:
        require_purpose(purpose, asker="Model 'm'", tables=tables, views=views)
    assert said in caught.value.what
    assert caught.value.hint


def test_a_purpose_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(PermissionDenied) as caught:
        require_purpose("demnad", asker="Model 'm'", tables=[CLOSED])
    assert caught.value.hint == "did you mean 'demand'?"
    assert caught.value.details == {"purpose": "demnad", "allowed": ["demand", "stock"]}


@pytest.mark.parametrize("purpose", ["", "  ", 3])
def test_a_forecast_states_a_purpose_in_words_or_none(purpose: object) -> None:
    with pytest.raises(DefinitionError, match="has purpose="):
        Forecast("m", OPEN, sum_("units"), purpose=purpose)  # type: ignore[arg-type]  # that is the point
    assert Forecast("m", OPEN, sum_("units")).purpose is None
    assert Forecast("m", OPEN, sum_("units"), purpose="stock").purpose == "stock"


def test_a_tables_purposes_are_words() -> None:
    with pytest.raises(DefinitionError, match="purposes"):
        Table("t", "t.csv", purposes=("a", "a"))
    assert Table("t", "t.csv", purposes="stock").purposes == ("stock",)  # type: ignore[arg-type]  # one word is a list of one
