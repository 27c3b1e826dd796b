from __future__ import annotations

import pytest

from endcap.faces.http import guesses
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.guesses import MOST_AUDITED, MOST_OF_ADDRESS, MOST_OF_NAME, MOST_OF_PAIR, WINDOW_S, Guesses


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def count(counted: Guesses, n: int, *, address: str = "10.0.0.1", name: str | None = "ada") -> None:
    for _ in range(n):
        counted.require(address=address, name=name)
        counted.count(address=address, name=name)


def is_refused(counted: Guesses, *, address: str = "10.0.0.1", name: str | None = "ada") -> bool:
    try:
        counted.require(address=address, name=name)
    except RequestRefused as refused:
        return refused.status == 429
    return False


def test_a_name_from_one_address_waits_until_the_window_has_passed() -> None:
    clock = Clock()
    counted = Guesses(clock)
    count(counted, MOST_OF_PAIR)
    clock.now += 100
    with pytest.raises(RequestRefused, match="too many wrong passwords or tokens") as refused:
        counted.require(address="10.0.0.1", name="ada")
    assert dict(refused.value.headers)[b"retry-after"] == b"200"
    assert not is_refused(counted, address="10.0.0.2")
    assert not is_refused(counted, name="bob")
    clock.now += WINDOW_S - 100
    assert not is_refused(counted)


def test_many_names_from_one_address_and_many_addresses_for_one_name_wait_too() -> None:
    counted = Guesses(Clock())
    for i in range(MOST_OF_ADDRESS):
        count(counted, 1, name=f"user{i}")
    assert is_refused(counted, name="another")
    assert is_refused(counted, name=None), "a token from there too"
    counted = Guesses(Clock())
    for i in range(MOST_OF_NAME):
        count(counted, 1, address=f"10.0.{i}.1")
    assert is_refused(counted, address="10.1.1.1")
    assert not is_refused(counted, address="10.1.1.1", name=None), "tokens are not kept out by guesses at a name"


def test_what_was_right_is_forgiven_and_what_was_wrong_elsewhere_is_not() -> None:
    counted = Guesses(Clock())
    count(counted, MOST_OF_PAIR - 1)
    counted.forgive(counted.count(address="10.0.0.1", name="ada"))
    count(counted, MOST_OF_PAIR)
    assert is_refused(counted)
    counted = Guesses(Clock())
    for _ in range(2 * MOST_OF_ADDRESS):
        counted.forgive(counted.count(address="10.0.0.1", name="ada"))
    assert not is_refused(counted)
    for i in range(MOST_OF_ADDRESS):
        counted.forgive(counted.count(address="10.0.0.1", name="eve"))
        count(counted, 1, name=f"user{i}")
    assert is_refused(counted, name="eve"), "signing in as oneself buys no more guesses at others"


def test_what_is_counted_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "_MOST_KEPT", 10)
    counted = Guesses(Clock())
    count(counted, MOST_OF_PAIR, name="ada")
    for i in range(100):
        counted.count(address=f"10.0.{i}.1", name="ada" if i % 2 else f"user{i}")
    assert len(counted._attempts) == 10


def test_so_many_refusals_are_audited_and_no_more() -> None:
    clock = Clock()
    counted = Guesses(clock)
    assert [counted.may_be_audited() for _ in range(MOST_AUDITED + 2)].count(True) == MOST_AUDITED
    clock.now += WINDOW_S
    assert counted.may_be_audited()
