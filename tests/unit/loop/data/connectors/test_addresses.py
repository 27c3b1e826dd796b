from __future__ import annotations

import pytest

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.connectors.addresses import Address, read_address
from endcap.loop.data.connectors.opening import open_connector

ENVIRON = {
    "PASSWORD": "p@ss/w:rd%",
    "AT": "db:5433,other:5434",
    "URL": "postgresql://ada:p%40ss@db/shop?sslmode=require&sslpassword=k%2Fy",
    "HOME": "/root",
}


def read(source: str) -> Address:
    return read_address(Table("orders", source, relation="orders"), environ=ENVIRON)


def test_a_password_from_the_environment_may_hold_any_character_and_is_not_shown() -> None:
    address = read("postgresql://ada:$PASSWORD@${AT}/shop?sslmode=require&password=$PASSWORD")
    escaped = "p%40ss%2Fw%3Ard%25"
    assert address.url == f"postgresql://ada:{escaped}@db:5433,other:5434/shop?sslmode=require&password={escaped}"
    assert address.shown == "postgresql://ada@db:5433,other:5434/shop"
    for text in (repr(address), str(address), address.identity, address.hide(f"x {escaped} p@ss/w:rd% y")):
        assert "p%40" not in text
        assert "p@ss" not in text


def test_another_password_is_the_same_place_and_another_user_is_not() -> None:
    first, second = read("postgresql://ada:$PASSWORD@db/shop"), read("postgresql://ada@db/shop")
    assert first.identity == second.identity
    assert len({read(f"postgresql://{place}/shop").identity for place in ("ada@db", "bob@db", "ada@other", "ada@db:1")}) == 4


def test_a_whole_url_is_taken_as_it_stands() -> None:
    address = read("$URL")
    assert address.url == ENVIRON["URL"]
    assert address.shown == "postgresql://ada@db/shop"
    assert set(address.secrets) == {"p%40ss", "p@ss", "k%2Fy", "k/y"}


@pytest.mark.parametrize("source", ["postgresql://ada:$PASWORD@db/shop", "$PASWORD"])
def test_a_variable_that_is_not_set_is_named(source: str) -> None:
    with pytest.raises(InvalidInput, match=r"the environment variable 'PASWORD' is not set. Hint: did you mean 'PASSWORD'"):
        read(source)


def test_what_a_variable_holds_is_not_told_when_it_is_no_url() -> None:
    with pytest.raises(InvalidInput, match=r"reads '\$PASSWORD', which is no URL of a database") as refused:
        read("$PASSWORD")
    assert "p@ss" not in str(refused.value)


def test_a_scheme_without_a_connector_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InvalidInput, match=r"no connector for 'postgress'. Schemes: \['postgresql', 'postgres'\]. Hint: did you mean"):
        open_connector(Table("orders", "postgress://db/shop", relation="orders"))
