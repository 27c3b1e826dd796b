"""Logout tokens that are forged, late, of another client, or no logout tokens: nobody is signed out by them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.errors import NotSignedIn
from endcap.governance.signin.id_tokens import MOST_BYTES, OLDEST_S, SKEW_S, check_id_token
from endcap.governance.signin.logout_tokens import EVENT, Logout, check_logout_token
from endcap.governance.signin.records import Provider

pytest.importorskip("authlib", reason="authlib is not installed, so what needs it goes untested: pip install 'endcap[sso]'")
RIGHT: dict[str, Any] = {"nonce": None, "sid": "s-1", "jti": "j-1", "events": {EVENT: {}}}
Check = Callable[..., Logout]


@pytest.fixture
def check(sign: Callable[..., str], provider: Provider, jwks: Any, now: datetime) -> Check:
    """Signs claims over those that are right, and has them checked."""
    keys = jwks.open()

    def run(*, text: str | None = None, at: datetime = now, **changes: Any) -> Logout:
        return check_logout_token(sign(**{**RIGHT, **changes}) if text is None else text, provider, keys, now=at)

    return run


def encode(said: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()


def test_a_token_that_is_right_names_whom_it_means(check: Check, now: datetime) -> None:
    found = check()
    assert (found.subject, found.sid, found.at, len(found.used)) == ("1234", "s-1", now, 64)
    assert (check(sub=None).subject, check(sid=None).sid) == ("", "")
    assert check(exp=None).sid == "s-1", "drafts of the standard had none"
    assert check(aud=["another", "endcap"]).sid == "s-1"
    for kind in ("logout+jwt", "JWT", None):
        assert check(head={"typ": kind}).sid == "s-1"
    for algorithm in ("ES256", "ES512"):
        assert check(algorithm=algorithm).sid == "s-1"


def test_tokens_are_told_apart_by_their_names_alone(check: Check) -> None:
    assert check().used == check(sid="s-2").used
    assert check().used != check(jti="j-2").used


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "another"}, "another client"),
        ({"aud": []}, "another client"),
        ({"aud": None}, "aud"),
        ({"aud": 7}, "aud"),
        ({"nonce": "n0nce"}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"jti": None}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": "x" * 1001}, "jti"),
        ({"jti": 7}, "jti"),
        ({"events": None}, "events"),
        ({"events": {}}, "tells of no logout"),
        ({"events": [EVENT]}, "events"),
        ({"events": {EVENT: None}}, "tells of no logout"),
        ({"events": {EVENT: True}}, "tells of no logout"),
        ({"events": {"http://schemas.openid.net/event/other": {}}}, "tells of no logout"),
        ({"sub": None, "sid": None}, "names nobody"),
        ({"sub": ""}, "nobody"),
        ({"sid": ""}, "nobody"),
        ({"sid": "x" * 256}, "nobody"),
        ({"sid": "a\nb"}, "nobody"),
        ({"sub": 7}, "sub"),
        ({"iat": None}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"iat": float("nan")}, "time|type"),
        ({"exp": float("inf")}, "time|type"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(check: Check, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(NotSignedIn, match=rf"does not hold: .*({what})"):
        check(**changes)


@pytest.mark.parametrize(
    ("claim", "seconds", "taken"),
    [
        ("iat", SKEW_S, True),
        ("iat", SKEW_S + 1, False),
        ("iat", -OLDEST_S - SKEW_S, True),
        ("iat", -OLDEST_S - SKEW_S - 1, False),
        ("exp", -SKEW_S + 1, True),
        ("exp", -SKEW_S, False),
    ],
)
def test_clocks_may_differ_by_a_minute_and_no_more(check: Check, now: datetime, claim: str, seconds: int, taken: bool) -> None:
    changes = {claim: int((now + timedelta(seconds=seconds)).timestamp())}
    if taken:
        assert check(**changes).sid == "s-1"
    else:
        with pytest.raises(NotSignedIn, match="does not hold"):
            check(**changes)


def test_a_forged_token_is_refused(sign: Callable[..., str], check: Check, drawn_keys: dict[str, Any]) -> None:
    head, body, signature = sign(**RIGHT).split(".")
    stranger = drawn_keys["stranger"]
    forged = [
        f"{encode({'alg': 'none'})}.{body}.",
        f"{encode({'alg': 'none'})}.{body}.AAAA",
        f"{encode({'alg': 'HS256', 'kid': 'RS256'})}.{body}.{signature}",
        f"{head}.{body}.{signature[:-20]}",
        f"{head}.{encode({'sub': 'somebody else'})}.{signature}",
        sign(key=stranger, head={"kid": "RS256"}, **RIGHT),
        sign(key=stranger, head={"jwk": stranger.as_dict(private=False)}, **RIGHT),
        sign(head={"typ": "at+jwt"}, **RIGHT),
        f"{head}.{body}.{'A' * MOST_BYTES}",
        "",
        "..",
    ]
    for text in forged:
        with pytest.raises(NotSignedIn):
            check(text=text)


def test_neither_token_passes_for_the_other(sign: Callable[..., str], check: Check, provider: Provider, jwks: Any, now: datetime) -> None:
    with pytest.raises(NotSignedIn, match="jti"):
        check(text=sign())
    with pytest.raises(NotSignedIn, match="nonce"):
        check(text=sign(**{**RIGHT, "nonce": "n0nce"}))
    for given_head in ({"typ": "logout+jwt"}, {}):
        with pytest.raises(NotSignedIn):
            check_id_token(sign(head=given_head, **RIGHT), provider, jwks.open(), nonce="n0nce", access_token="x", now=now)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True)))
def test_whatever_is_sent_is_refused_and_nothing_else(check: Check, text: str) -> None:
    with pytest.raises(NotSignedIn):
        check(text=text)
