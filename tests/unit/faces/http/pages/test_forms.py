from __future__ import annotations

from urllib.parse import quote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.faces.http.heads import Place
from endcap.faces.http.pages.cookies import is_form_key, make_form_key, read_cookie, set_cookie
from endcap.faces.http.pages.forms import local_path, read_fields

PIECES = st.lists(
    st.sampled_from(["/", "\\", "//", "http:", "https:", "evil.example", "@", "?", "#", "..", ".", "\t", "\r\n", " ", "%2f", "\u2044", "a"])
)


@given(st.one_of(st.text(), PIECES.map("".join)))
@example("/\t/evil.example")
@example("/%09/evil.example")
@example("///evil.example")
def test_a_path_stays_here_and_on_its_line(text: str) -> None:
    found = local_path(text)
    assert urlsplit(urljoin("https://shop.example/sign-in", found)).netloc == "shop.example"
    assert found.isascii()
    assert found.isprintable()
    assert not set(found) & set(" \\")
    assert local_path(found) == found
    assert found in ("/", text)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.text(st.characters(codec="utf-8"), max_size=50), max_size=10)
)
def test_fields_are_read_as_a_browser_sends_them(fields: dict[str, str]) -> None:
    said = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in fields.items())
    assert read_fields(said.encode()) == fields


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_told(said: bytes) -> None:
    try:
        found = read_fields(said)
    except InvalidInput:
        return
    assert all(isinstance(value, str) for value in found.values())


@given(st.binary(max_size=300))
def test_whatever_a_cookie_header_holds_one_of_ours_is_plain_or_none(said: bytes) -> None:
    for header in (said, b"endcap-session=" + said, b"a=b; endcap-session=" + said):
        found = read_cookie({b"cookie": header}, "endcap-session", secure=False)
        assert found is None or found == "" or found.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("header", "secure", "found"),
    [
        (b"endcap-session=abc", False, "abc"),
        (b" endcap-session = abc ;x=y", False, "abc"),
        (b"__Host-endcap-session=abc", True, "abc"),
        (b"__Host-endcap-session=abc", False, None),
        (b"endcap-session=abc", True, None),
        (b"xendcap-session=abc; endcap-sessionx=abc", False, None),
        (b"endcap-session=abc; endcap-session=abc", False, ""),
        (b"endcap-session=", False, ""),
        (b"endcap-session", False, ""),
        (b"endcap-session=a b", False, ""),
        (b"endcap-session=" + b"a" * 201, False, ""),
        (b"endcap-session=abc; x=" + b"y" * 20_000, False, ""),
    ],
)
def test_a_cookie_is_read_by_its_whole_name_and_once(header: bytes, secure: bool, found: str | None) -> None:
    assert read_cookie({b"cookie": header}, "endcap-session", secure=secure) == found


def test_without_cookies_there_is_none() -> None:
    assert read_cookie({}, "endcap-session", secure=True) is None


def test_a_key_of_one_form_is_none_of_another() -> None:
    key = make_form_key("secret", "sign-in")
    assert is_form_key(key, "secret", "sign-in")
    assert not any((is_form_key(key, "other", "sign-in"), is_form_key(key, "secret", "session"), is_form_key("", "", "session")))
    assert not is_form_key(make_form_key("", "session"), None, "session")


def test_a_cookie_says_for_whom_it_is() -> None:
    name, value = set_cookie("endcap-session", "abc", place=Place(secure=True), max_age_s=60)
    assert (name, value) == (b"set-cookie", b"__Host-endcap-session=abc; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure")
