from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.core.names import quote, quote_text, require_name

SQL_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.)){0,20}", fullmatch=True))
def test_a_plain_name_is_kept(name: str) -> None:
    assert require_name(name, what="model") == name


HOSTILE = ["", " ", "a b", ".a", "-a", "_a", "a/b", "a\\b", "..", "a..b", "a\n", "\na", "a\x00", "ü", "店", "a" * 101, "a=b", "a%20", "a'b"]


@pytest.mark.parametrize("name", [*HOSTILE, None, 5, b"a", ["a"]])
def test_a_hostile_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be the name of a model. Hint: use up to 100"):
        require_name(name, what="model")


@pytest.mark.parametrize(("what", "article"), [("model", "a model"), ("environment", "an environment"), ("user", "a user")])
def test_a_refusal_is_short_however_long_the_name_and_says_what_it_is_of(what: str, article: str) -> None:
    with pytest.raises(InvalidInput, match=f"'xxx.* ... cannot be the name of {article}") as caught:
        require_name("x" * 10**7, what=what)
    assert len(str(caught.value)) < 300


def test_a_name_may_have_100_characters() -> None:
    assert require_name("a" * 100, what="model") == "a" * 100


@given(SQL_TEXT.filter(bool), SQL_TEXT)
def test_whatever_is_quoted_comes_back_from_sql_as_it_was(name: str, text: str) -> None:
    with duckdb.connect() as connection:
        result = connection.execute(f"SELECT {quote_text(text)} AS {quote(name)}")
        assert [column[0] for column in result.description] == [name]
        assert result.fetchall() == [(text,)]


@given(st.text(), st.text())
def test_two_names_are_never_quoted_alike(left: str, right: str) -> None:
    assert (quote(left) == quote(right)) == (left == right)
    assert (quote_text(left) == quote_text(right)) == (left == right)
