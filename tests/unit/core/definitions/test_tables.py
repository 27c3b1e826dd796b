from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Check, Contract, Table, as_names, require_keys
from endcap.core.errors import DefinitionError, EndcapError, InvalidInput
from endcap.core.identity import identify


def test_a_table_takes_one_key_as_a_list_of_one() -> None:
    assert Table("sales", "a.csv", keys="store").keys == ("store",)  # type: ignore[arg-type]  # what users write
    assert Table("sales", "a.csv", keys=["store", "item"]).keys == ("store", "item")  # type: ignore[arg-type]  # what users write


def test_equal_tables_are_equal_and_have_one_identity() -> None:
    first = Table("sales", "a.csv", keys=["store"], columns={"a": "1", "b": "2"})  # type: ignore[arg-type]  # what users write
    second = Table("sales", "a.csv", keys=("store",), columns={"b": "2", "a": "1"})
    assert first == second
    assert identify(first) == identify(second)
    assert identify(first) != identify(Table("sales", "b.csv", keys=("store",), columns={"b": "2", "a": "1"}))


def test_a_table_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Table("sales", "a.csv").name = "other"  # type: ignore[misc]  # what is refused


@pytest.mark.parametrize("name", ["", "a b", "../x", None, 5])
def test_a_table_needs_a_name(name: Any) -> None:
    with pytest.raises(InvalidInput, match="name of a table"):
        Table(name, "a.csv")


@pytest.mark.parametrize("source", ["", "  ", None, 5])
def test_a_table_needs_a_source(source: Any) -> None:
    with pytest.raises(DefinitionError, match=r"Table 'sales' has no source. Hint: give a file"):
        Table("sales", source)


@pytest.mark.parametrize("keys", [["a", "a"], [""], [None], 5, None, [1]])
def test_keys_are_names_each_once(keys: Any) -> None:
    with pytest.raises(DefinitionError, match="Table 'sales' keys is"):
        Table("sales", "a.csv", keys=keys)


def test_a_derived_column_needs_a_name() -> None:
    with pytest.raises(DefinitionError, match="derives a column without a name"):
        Table("sales", "a.csv", columns={" ": "1"})


def test_zones_and_lengths_of_a_table_are_checked() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'Europe/Berlin'"):
        Table("sales", "a.csv", zone="Europe/Berln")
    with pytest.raises(InvalidInput, match="not a length of time"):
        Table("sales", "a.csv", known_after="soon")
    with pytest.raises(InvalidInput, match="not a length of time"):
        Contract(fresh="soon")


def test_a_check_knows_the_types() -> None:
    assert Check(type="number", least=0, most=0).type == "number"
    with pytest.raises(DefinitionError, match=r"'numbr' is not a type of column. .* did you mean 'number'"):
        Check(type="numbr")


def test_a_check_that_no_value_fits_is_refused() -> None:
    with pytest.raises(DefinitionError, match="at least 2 and at most 1: no value fits"):
        Check(least=2, most=1)


def test_a_contract_takes_one_unique_column_and_refuses_doubles() -> None:
    assert Contract(unique="id").unique == ("id",)  # type: ignore[arg-type]  # what users write
    assert Contract().unique is None
    with pytest.raises(DefinitionError, match=r"Contract\.unique"):
        Contract(unique=("id", "id"))


def test_names_come_from_any_iterable() -> None:
    assert as_names("a", what="x") == ("a",)
    assert as_names((name for name in ["a", "b"]), what="x") == ("a", "b")
    assert as_names([], what="x") == ()


def test_an_unknown_key_is_answered_with_the_nearest() -> None:
    require_keys({"a": 1}, known=["a", "b"], what="x")
    with pytest.raises(DefinitionError, match=r"Gate has no 'baise'. It has: \['bias'\]. Hint: did you mean 'bias'"):
        require_keys({"baise": 1}, known=["bias"], what="Gate")


SHOP = "postgresql://ada:$SHOP_PASSWORD@db/shop"


@pytest.mark.parametrize(
    "source",
    [
        "postgresql://ada:s3cret@db/shop",
        "postgresql://ada:s3cret$X@db/shop",
        "postgresql://ada:s3@cret/x@db/shop",
        "postgresql://ada@db/shop?password=s3cret",
        "postgresql://ada@db/shop?sslmode=require&SSLPassword=s3cret",
        "mysql://ada:s3cret@db/shop",
    ],
)
def test_a_password_may_not_stand_in_a_definition_nor_in_the_error_that_says_so(source: str) -> None:
    with pytest.raises(DefinitionError, match=r"Table 'orders' has a password in its source. Hint: endcap secrets set NAME") as refused:
        Table("orders", source, relation="orders")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize("source", [SHOP, "postgresql://db/shop", "postgresql://ada@/shop?host=/run", "postgresql://ada:${A}$B@db/shop", "$SHOP_URL"])
def test_a_database_is_named_by_its_url(source: str) -> None:
    assert Table("orders", source, relation="public.orders", watermark="at", overlap="1h", select="at").is_landed  # type: ignore[arg-type]  # what users write
    assert not Table("orders", "orders/*.parquet").is_landed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation": None}, "names no relation. Hint: declare relation='public.orders'"),
        ({"relation": " "}, "has the relation ' '"),
        ({"source": "orders.csv"}, "its source 'orders.csv' is no database"),
        ({"source": "orders.csv", "relation": None, "watermark": "at"}, "declares watermark and no relation"),
        ({"source": "orders.csv", "relation": None, "select": ("at",)}, "declares select and no relation"),
        ({"watermark": "at", "select": ("id",)}, "has the watermark 'at', which it does not select"),
        ({"watermark": ""}, "has the watermark ''"),
        ({"overlap": "1h"}, "has an overlap and no watermark"),
        ({"watermark": "at", "overlap": -1}, "has the overlap -1"),
        ({"watermark": "at", "overlap": True}, "has the overlap True"),
        ({"watermark": "at", "overlap": 1.5}, "has the overlap 1.5"),
        ({"select": ("a", "a")}, "a name stands there twice"),
        ({"personal": 5}, "it must be a list of column names"),
        ({"purposes": ("",)}, "it must be a list of purposes"),
        ({"purposes": (" staffing",)}, "begins or ends with a blank"),
        ({"owner": 5}, "has the owner 5"),
    ],
)
def test_what_fits_no_database_or_no_file_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        Table(**{"name": "orders", "source": SHOP, "relation": "public.orders", **changes})
    assert said in str(refused.value)


def test_purposes_personal_columns_and_the_owner_are_part_of_a_table() -> None:
    table = Table("orders", "a.csv", purposes=["staffing"], personal="email", subject="buyer", owner="demand")  # type: ignore[arg-type]  # what users write
    assert (table.purposes, table.personal, table.owner) == (("staffing",), ("email",), "demand")
    assert (Table("orders", "a.csv").purposes, Table("orders", "a.csv").personal) == ((), ())


def test_a_table_says_whose_its_personal_values_are() -> None:
    assert Table("t", "t.csv", keys=("id",), personal=("email",)).whose == "id"
    assert Table("t", "t.csv", keys=("email", "day"), personal=("email", "age")).whose == "email"
    assert Table("t", "t.csv", keys=("a", "b"), personal=("email",), subject="buyer").whose == "buyer"
    assert Table("t", "t.csv", keys=("a", "b")).whose is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keys": ("a", "b"), "personal": ("email",)}, "do not say whose they are"),
        ({"personal": ("email",)}, "do not say whose they are"),
        ({"keys": ("a", "b"), "personal": ("a", "b")}, "do not say whose they are"),
        ({"keys": ("a",), "subject": "a"}, "nothing personal"),
        ({"keys": ("a",), "personal": ("b",), "subject": " "}, "no column's name"),
        ({"keys": ("a",), "personal": ("b",), "subject": 3}, "no column's name"),
        ({"keep": 10}, "which is no text"),
        ({"retention": "1h"}, "at least a day"),
        ({"retention": "long"}, "not a length of time"),
    ],
)
def test_subjects_and_periods_that_cannot_be(given: dict[str, Any], says: str) -> None:
    with pytest.raises(EndcapError, match=says):
        Table("t", "t.csv", **given)


def test_what_tables_say_for_people_and_the_law_leaves_a_view_s_version_alone() -> None:
    table = Table("t", "t.csv", keys=("id",), personal=("email",))
    view = FeatureView(name="v", source=table, features=["email"])
    same = msgspec.structs.replace(table, keep="10 years", retention="400d", owner="us")
    other = msgspec.structs.replace(table, subject="id2")
    assert msgspec.structs.replace(view, source=same).version == view.version
    assert msgspec.structs.replace(view, source=other).version != view.version
    assert (
        FeatureView(name="daily", source=Table("sales", "sales", keys=("store",)), features={"units": "units"}).version == "d2704ecf03c8"
    )  # as it was before
