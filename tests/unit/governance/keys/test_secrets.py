from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError, IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.keys.records import SECRETS
from endcap.governance.keys.secrets import SecretReader, list_secrets, remove_secret, set_secret
from endcap.governance.sessions import Session
from endcap.loop.data.connectors.addresses import read_address
from endcap.loop.data.paths import find_files
from endcap.testing.sessions import make_session

VALUE = "c4nary p@ss/word?"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home")
    yield opened
    opened.ports.close()


def test_a_secret_is_set_listed_used_and_removed_and_never_shown(session: Session) -> None:
    line = set_secret(session, "DB", password=VALUE)
    assert (line.name, line.hosts, line.set_by, line.used_at) == ("DB", (), "ada", None)
    assert SecretReader(session).read("DB") == VALUE
    assert list_secrets(session)[0].used_at == session.now()
    assert list_secrets(replace(session, workspace="other")) == []
    set_secret(session, "DB", password="another one")
    assert SecretReader(session).read("DB") == "another one"
    shown = msgspec.json.encode([list_secrets(session), list_audit(session, limit=100), session.records.find(SECRETS, workspace="default")])
    assert b"c4nary" not in shown
    assert b"another one" not in shown
    remove_secret(session, "DB")
    assert list_secrets(session) == []
    with pytest.raises(NotFound, match="has no secret 'DB'"):
        SecretReader(session).read("DB")
    with pytest.raises(NotFound, match="has no secret"):
        remove_secret(session, "DB")
    set_secret(session, "DB", password="a third")
    assert SecretReader(session).read("DB") == "a third"
    assert [row.verb for row in list_audit(session)] == ["secrets set", "secrets remove", "secrets set", "secrets set"]


def test_use_is_noted_to_a_quarter_of_an_hour(session: Session) -> None:
    set_secret(session, "DB", password=VALUE)
    reader, clock = SecretReader(session), session.clock
    assert isinstance(clock, ManualClock)
    first = session.now()
    for step, noted in ((0, first), (14, first), (1, first + timedelta(minutes=15))):
        clock.advance(timedelta(minutes=step))
        reader.read("DB")
        assert list_secrets(session)[0].used_at == noted


@pytest.mark.parametrize("name", ["", "a b", "1a", "../x", "a:b", "x" * 101, "Ärger", "a\n", "%00"])
def test_a_hostile_name_is_refused(session: Session, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a secret"):
        set_secret(session, name, password=VALUE)


@pytest.mark.parametrize("value", [None, "", "x" * 70_000, "a\0b", "\ud800c4nary"])
def test_a_value_that_is_none_is_refused_and_not_shown(session: Session, value: str | None) -> None:
    with pytest.raises(InvalidInput, match="value") as caught:
        set_secret(session, "DB", password=value)
    assert "c4nary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert session.records.find(SECRETS, workspace="default") == []


def test_setting_is_for_owners_and_the_names_are_for_all(session: Session) -> None:
    set_secret(session, "DB", password=VALUE)
    editor = replace(session, role=Role.EDITOR, admin=False)
    for call in (lambda: set_secret(editor, "DB", password="x"), lambda: remove_secret(editor, "DB")):
        with pytest.raises(PermissionDenied):
            call()
    assert [line.name for line in list_secrets(replace(editor, role=Role.VIEWER))] == ["DB"]


def test_a_secret_put_under_another_name_does_not_open(session: Session) -> None:
    set_secret(session, "DB", password=VALUE)
    set_secret(session, "OTHER", password="x")
    mine, theirs = (session.records.get(SECRETS, workspace="default", id=name) for name in ("DB", "OTHER"))
    assert mine is not None
    assert theirs is not None
    with session.records.transact() as tx:
        tx.put(SECRETS, workspace="default", record=msgspec.structs.replace(theirs, value=mine.value), expected_version=1)
    with pytest.raises(IntegrityBroken, match="belong to another thing"):
        SecretReader(session).read("OTHER")


@pytest.mark.parametrize(
    "source",
    ["postgresql://ada:$secret:DB@db:5432/shop", "postgresql://ada:${secret:DB}@db:5432/shop", "postgresql://$secret:WHO:$secret:DB@db:5432/shop"],
)
def test_a_definition_names_secrets_where_it_names_variables(session: Session, source: str) -> None:
    set_secret(session, "DB", password=VALUE)
    set_secret(session, "WHO", password="ada")
    address = read_address(Table("orders", source, relation="orders"), environ={}, secrets=SecretReader(session))
    assert address.url == "postgresql://ada:c4nary%20p%40ss%2Fword%3F@db:5432/shop"
    assert "c4nary" not in f"{address!r}{address.shown}{address.identity}"
    assert address.hide(f"said {VALUE} and {address.url}") == "said *** and postgresql://ada:***@db:5432/shop"
    plain = read_address(Table("orders", "postgresql://ada:$DB@db:5432/shop", relation="orders"), environ={"DB": VALUE})
    assert address.identity == plain.identity, "wherever the password comes from, the rows are the same"


def test_a_whole_url_may_be_a_secret(session: Session) -> None:
    set_secret(session, "SHOP", password="postgresql://ada:c4nary@db/shop")
    address = read_address(Table("orders", "$secret:SHOP", relation="orders"), secrets=SecretReader(session))
    assert address.shown == "postgresql://ada@db/shop"
    assert address.secrets == ("c4nary",)


def test_a_password_beside_a_secret_is_still_refused() -> None:
    for source in ("postgresql://ada:hunter2@db/shop", "postgresql://$secret:WHO:hunter2@db/shop", "postgresql://ada:$secret:DBx-y@db/shop"):
        with pytest.raises(DefinitionError, match="has a password in its source") as caught:
            Table("orders", source, relation="orders")
        assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_not_there_is_named_and_files_take_none(session: Session, tmp_path: Path) -> None:
    set_secret(session, "DB_SHOP", password=VALUE)
    with pytest.raises(NotFound, match="did you mean 'DB_SHOP'"):
        read_address(Table("orders", "postgresql://ada:$secret:DB_SHOPS@db/shop", relation="orders"), secrets=SecretReader(session))
    with pytest.raises(InvalidInput, match="secrets are for the addresses of databases"):
        find_files(Table("orders", "$secret:DB_SHOP/orders.csv"), folder=tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "evil.example/shop",
        "db.example,evil.example/shop",
        "db.example/shop?host=evil.example",
        "db.example/shop?hostaddr=10.0.0.1",
        "/shop",
        "db.example.evil/shop",
    ],
)
def test_a_secret_goes_to_its_hosts_alone(session: Session, place: str) -> None:
    """Whoever may change a definition could else send it to a server of theirs."""
    set_secret(session, "DB", password=VALUE, hosts=["DB.example"])
    good = Table("orders", "postgresql://ada:$secret:DB@db.example:5432/shop?sslmode=verify-full", relation="orders")
    assert read_address(good, secrets=SecretReader(session)).url.startswith("postgresql://ada:c4nary")
    with pytest.raises(PermissionDenied, match="may not be sent to") as caught:
        read_address(Table("orders", f"postgresql://ada:$secret:DB@{place}", relation="orders"), secrets=SecretReader(session))
    assert "c4nary" not in str(caught.value)
    assert list_audit(session)[0].outcome == "refused"


def test_hosts_are_bound_to_the_value(session: Session) -> None:
    """Somebody who may write records cannot open the secret for another server."""
    set_secret(session, "DB", password=VALUE, hosts=["db.example"])
    found = session.records.get(SECRETS, workspace="default", id="DB")
    assert found is not None
    with session.records.transact() as tx:
        tx.put(SECRETS, workspace="default", record=msgspec.structs.replace(found, hosts=()), expected_version=1)
    with pytest.raises(IntegrityBroken):
        SecretReader(session).read("DB")
    with pytest.raises(InvalidInput, match="is no host"):
        set_secret(session, "DB", password=VALUE, hosts=["a b"])
