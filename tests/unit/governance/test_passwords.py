from __future__ import annotations

import pytest

from endcap.core.errors import InvalidInput
from endcap.governance.passwords import MOST_BYTES, check_password, hash_password, require_password

GOOD = "pine under marble"


def test_a_password_is_known_by_its_hash_and_no_other_is() -> None:
    first, second = hash_password(GOOD, name="ada"), hash_password(GOOD, name="ada")
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second, "each has a salt of its own"
    assert GOOD not in first
    assert check_password(first, GOOD)
    assert check_password(second, GOOD)
    for wrong in ("", GOOD + " ", GOOD.upper(), GOOD[:-1], "\ud800", "x" * (MOST_BYTES + 1), "a\x00b"):
        assert not check_password(first, wrong)


def test_without_a_hash_nothing_is_the_password() -> None:
    assert not check_password("", "the password of nobody")
    assert not check_password("", "")
    assert not check_password("no hash at all", GOOD)


def test_two_keyboards_type_the_same() -> None:
    composed, decomposed = "caf\u00e9 unter Marmor", "cafe\u0301 unter Marmor"
    assert composed != decomposed
    assert check_password(hash_password(composed, name="ada"), decomposed)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has 0 characters"),
        ("pine marble", "has 11 characters; the fewest are 12"),
        ("x" * (MOST_BYTES + 1), "has 1,025 bytes"),
        ("aaaaaaaaaaaaaaaa", "a few characters again and again"),
        ("121212121212", "a few characters again and again"),
        ("Ada.Lovelace1", "is the user's name"),
        ("pine under \ud800marble", "is not Unicode"),
    ],
)
def test_a_weak_one_is_refused_without_being_shown(text: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as refused:
        require_password(text, name="ada.lovelace1")
    assert not text or text not in str(refused.value)
