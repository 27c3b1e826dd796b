from __future__ import annotations

import hashlib
from datetime import date, datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.identity import digest, identify

NAN = float("nan")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Point(msgspec.Struct, frozen=True):
    x: int
    facts: dict[str, int] = {}


def shuffle(value: Any) -> Any:
    """The same value with every dict written in the other order."""
    if isinstance(value, dict):
        return {key: shuffle(value[key]) for key in reversed(value)}
    return [shuffle(item) for item in value] if isinstance(value, list) else value


def spell(value: Any) -> str:
    """A text that tells values and their types apart, whatever the order of dicts; of numbers only what they are."""
    if isinstance(value, float) and value.is_integer():
        return repr(int(value))
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{spell(value[key])}" for key in sorted(value)) + "}"
    return "[" + ",".join(map(spell, value)) + "]" if isinstance(value, list) else repr(value)


@given(VALUES)
def test_the_order_of_dicts_means_nothing(value: Any) -> None:
    assert identify(value) == identify(shuffle(value))


def test_a_definition_that_was_kept_and_read_back_is_the_same() -> None:
    class Check(msgspec.Struct):
        least: float | None = None

    kept = msgspec.json.decode(msgspec.json.encode(Check(least=0)), type=Check)
    assert repr(kept.least) == "0.0"
    assert identify(kept) == identify(Check(least=0))


@given(VALUES, VALUES)
def test_identities_are_equal_only_when_the_values_are(left: Any, right: Any) -> None:
    assert (identify(left) == identify(right)) == (spell(left) == spell(right))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((1,), ("1",)),
        ((1,), (1.5,)),
        ((1,), (True,)),
        ((0,), (None,)),
        ((None,), ()),
        (("a", "b"), ("ab",)),
        ((["a"], "b"), (["a", "b"],)),
        ((NAN,), (None,)),
        ((float("inf"),), (None,)),
        ((float("inf"),), (float("-inf"),)),
        ((Point(1),), (Point(2),)),
        ((Point(1),), (Point(1, {"a": 1}),)),
        (("\ud800",), ("\udfff",)),
    ],
)
def test_different_parts_have_different_identities(left: tuple[Any, ...], right: tuple[Any, ...]) -> None:
    assert identify(*left) != identify(*right)


def test_equal_parts_have_equal_identities() -> None:
    assert identify(Point(1, {"a": 1, "b": 2})) == identify(Point(1, {"b": 2, "a": 1})) == identify({"facts": {"b": 2, "a": 1}, "x": 1})
    assert identify((1, 2)) == identify([1, 2])
    assert identify({"b", "a", "c"}) == identify({"c", "b", "a"})
    assert identify(date(2026, 1, 5)) == identify("2026-01-05")
    assert identify(NAN) == identify(NAN)
    assert identify(datetime(2026, 1, 5, tzinfo=timezone.utc)) == identify("2026-01-05T00:00:00Z")  # noqa: UP017 - another spelling of UTC


def test_an_identity_is_32_hex_digits_and_stays_the_same_between_processes() -> None:
    assert identify("store-day", 7, {"b": 1.5, "a": None}) == hashlib.sha256(b'["store-day",7,{"a":null,"b":1.5}]').hexdigest()[:32]


def test_a_digest_is_the_whole_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
