from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.errors import NotSignedIn, Unreachable
from endcap.governance.signin.flow import AWAY_S, begin_flow, find_claim, finish_flow, new_browser
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.records import Provider

URI = "https://endcap.example/sign-in/callback/corp"
BROWSER = "b" * 43


def begin(provider: Provider, now: datetime, *, browser: str = BROWSER, path: str = "/") -> dict[str, str]:
    return dict(parse_qsl(urlsplit(begin_flow(provider, browser=browser, redirect_uri=URI, path=path, now=now)).query))


def finish(provider: Provider, said: Mapping[str, str], now: datetime, *, browser: str = BROWSER, uri: str = URI, used: bool = False) -> None:
    """Up to the point at which the provider would be asked, who cannot be reached here: Unreachable is what a right answer comes to."""

    def forget() -> str:
        raise Unreachable("The provider would be asked now.")

    keys = ProviderKeys(asking=lambda _: pytest.fail("keys were asked for"))
    values = {"browser": browser, "redirect_uri": uri, "secret": forget, "keys": keys, "own_hosts": (), "is_used": lambda _: used}
    finish_flow(provider, said, now=now, **values)  # type: ignore[arg-type]  # one record of several sorts


def test_what_is_sent_differs_each_time_and_gives_nothing_of_the_browser_away(provider: Provider, now: datetime) -> None:
    first, second = begin(provider, now), begin(provider, now)
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]
    assert BROWSER not in str(first)
    assert len(new_browser()) == 43
    assert new_browser() != new_browser()


def test_a_provider_with_a_query_of_its_own_keeps_it(provider: Provider, now: datetime) -> None:
    other = msgspec.structs.replace(provider, authorization_endpoint="https://login.example.com/authorize?tenant=a%20b")
    asked = begin(other, now)
    assert (asked["tenant"], asked["client_id"], asked["scope"]) == ("a b", "endcap", "openid profile")


@pytest.mark.parametrize("seconds", [0, 1, AWAY_S])
def test_an_answer_in_time_goes_on_to_the_provider(provider: Provider, now: datetime, seconds: int) -> None:
    said = {"state": begin(provider, now)["state"], "code": "c"}
    with pytest.raises(Unreachable, match="would be asked now"):
        finish(provider, said, now + timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [-3600, -2, AWAY_S + 1, 86_400])
def test_an_answer_out_of_time_does_not(provider: Provider, now: datetime, seconds: int) -> None:
    said = {"state": begin(provider, now)["state"], "code": "c"}
    with pytest.raises(NotSignedIn, match="minutes ago"):
        finish(provider, said, now + timedelta(seconds=seconds))


def test_an_answer_is_of_one_browser_one_provider_one_address_and_one_time(provider: Provider, now: datetime) -> None:
    said = {"state": begin(provider, now)["state"], "code": "c"}
    for browser, uri, name in (("c" * 43, URI, "corp"), ("", URI, "corp"), (BROWSER, URI.replace("https", "http"), "corp"), (BROWSER, URI, "other")):
        with pytest.raises(NotSignedIn, match="belongs to another browser"):
            finish(msgspec.structs.replace(provider, name=name), said, now, browser=browser, uri=uri)
    with pytest.raises(NotSignedIn, match="was ended before"):
        finish(provider, said, now, used=True)


def test_whoever_says_which_provider_it_is_must_be_it(provider: Provider, now: datetime) -> None:
    """Mix-up (RFC 9207): one provider's answer brought to the address of another."""
    strict = msgspec.structs.replace(provider, names_itself=True)
    said = {"state": begin(provider, now)["state"], "code": "c"}
    for given_iss, found in ((None, provider), (provider.issuer, provider), (provider.issuer, strict)):
        with pytest.raises(Unreachable):
            finish(found, said if given_iss is None else {**said, "iss": given_iss}, now)
    for given_iss, found in (("https://evil.example", provider), (None, strict), ("", strict), (f"{provider.issuer}/", strict)):
        with pytest.raises(NotSignedIn, match="its iss"):
            finish(found, said if given_iss is None else {**said, "iss": given_iss}, now)


@pytest.mark.parametrize("code", ["", "x" * 5000, "a\nb", "\u00e9"])
def test_a_code_that_is_none_is_not_sent(provider: Provider, now: datetime, code: str) -> None:
    with pytest.raises(NotSignedIn, match="without a code"):
        finish(provider, {"state": begin(provider, now)["state"], "code": code}, now)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300))
def test_a_state_that_we_did_not_make_opens_nothing(provider: Provider, now: datetime, state: str) -> None:
    right = begin(provider, now)["state"]
    for said in (state, f"{state}.{right}", f"{right}{state or '.'}", f"{right.rpartition('.')[0]}.{state}"):
        if said != right:
            with pytest.raises(NotSignedIn):
                finish(provider, {"state": said, "code": "c"}, now)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5), lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=3)
    )
)
def test_a_claim_is_found_by_its_name_or_by_its_way(claims: object) -> None:
    known = claims if isinstance(claims, dict) else {}
    found = find_claim(known, "a.b")
    inner = known.get("a")
    expected = known["a.b"] if "a.b" in known else inner.get("b") if isinstance(inner, dict) else None
    assert found == expected
