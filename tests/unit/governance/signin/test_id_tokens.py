"""Tokens that are forged, cut, late, early, of another client, and what they get away with: nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput, NotSignedIn
from endcap.governance.signin.discovery import ALGORITHMS
from endcap.governance.signin.id_tokens import OLDEST_S, SKEW_S, check_id_token, require_library
from endcap.governance.signin.records import Provider

pytest.importorskip("authlib", reason="authlib is not installed, so what needs it goes untested: pip install 'endcap[sso]'")
Sign = Callable[..., str]
ACCESS = "an access token"


@pytest.fixture
def check(provider: Provider, jwks: Any, now: datetime) -> Callable[..., Any]:
    keys = jwks.open()

    def run(text: str, **given: Any) -> Any:
        said = {"nonce": "n0nce", "access_token": ACCESS, "now": now, **given}
        return check_id_token(text, given.pop("provider", provider), keys, **{name: value for name, value in said.items() if name != "provider"})

    return run


Check = Callable[..., Any]


def encode(said: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()


def authenticate(body: str, algorithm: str, digest: str, key: bytes) -> str:
    """A token under a message authentication code, as no library makes it with such a key."""
    said = f"{encode({'alg': algorithm, 'kid': 'RS256', 'typ': 'JWT'})}.{body}"
    return f"{said}.{base64.urlsafe_b64encode(hmac.digest(key, said.encode(), digest)).rstrip(b'=').decode()}"


def half_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512"])
def test_a_token_that_is_right_is_taken(sign: Sign, check: Check, algorithm: str) -> None:
    assert check(sign(algorithm=algorithm, groups=["team"]))["groups"] == ["team"]


def test_the_algorithms_are_signatures_by_public_keys() -> None:
    assert all(name[:2] in ("RS", "PS", "ES") for name in ALGORITHMS)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(sign: Sign, check: Check, name: str) -> None:
    body = sign().split(".")[1]
    for token in (f"{encode({'alg': name})}.{body}.", f"{encode({'alg': name, 'kid': 'RS256'})}.{body}.AAAA", f"{encode({'alg': name})}.{body}"):
        with pytest.raises(NotSignedIn, match=r"does not hold: it is (cut off, unsigned|signed by)"):
            check(token)


@pytest.mark.parametrize(("algorithm", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
def test_a_public_key_is_no_secret(sign: Sign, check: Check, jwks: Any, algorithm: str, digest: str) -> None:
    """Key confusion: the provider's public key, known to all, used as the key of a message authentication code."""
    public = jwks.private["RS256"]
    for raw in (
        public.as_pem(private=False),
        public.as_der(private=False),
        json.dumps(public.as_dict(private=False)).encode(),
        b"the client's secret",
    ):
        with pytest.raises(NotSignedIn, match=f"signed by '{algorithm}'"):
            check(authenticate(sign().split(".")[1], algorithm, digest, raw))


def test_what_the_provider_was_not_added_with_is_refused_though_others_may_use_it(sign: Sign, check: Check, provider: Provider) -> None:
    fewer = msgspec.structs.replace(provider, algorithms=("RS256",))
    assert check(sign(), provider=fewer)["sub"] == "1234"
    with pytest.raises(NotSignedIn, match="signed by 'ES256'; this provider's are by"):
        check(sign(algorithm="ES256"), provider=fewer)
    wrong = msgspec.structs.replace(provider, algorithms=("HS256", "none"))  # a record that says so is not believed either
    for token in (authenticate(sign().split(".")[1], "HS256", "sha256", b"x" * 32), f"{encode({'alg': 'none'})}.e30.AA"):
        with pytest.raises(NotSignedIn, match="signed by"):
            check(token, provider=wrong)


def test_a_key_in_the_token_itself_is_not_believed(sign: Sign, check: Check, drawn_keys: dict[str, Any]) -> None:
    stranger = drawn_keys["stranger"]
    for head in ({"jwk": stranger.as_dict(private=False)}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}, {"kid": "RS256"}):
        with pytest.raises(NotSignedIn, match="its signature does not hold"):
            check(sign(key=stranger, head=head))


def test_an_unknown_key_is_refused(sign: Sign, check: Check) -> None:
    with pytest.raises(NotSignedIn, match="has no key for the token"):
        check(sign(head={"kid": "another"}))


def test_a_key_is_used_for_what_it_is_made_for(sign: Sign, check: Check, jwks: Any) -> None:
    """The right key under an algorithm that is not its own, and a curve for another."""
    jwks.shown[-1]["alg"] = "PS256"
    with pytest.raises(NotSignedIn, match="has no key"):
        check(sign(algorithm="RS256", head={"kid": "ES256"}))
    with pytest.raises(NotSignedIn, match="has no key"):
        check(sign())


@pytest.mark.parametrize("head", [{"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}])
def test_what_a_head_calls_critical_and_nobody_knows_is_refused(sign: Sign, check: Check, head: dict[str, Any]) -> None:
    _, body, signature = sign().split(".")
    with pytest.raises(NotSignedIn, match="its signature does not hold"):
        check(f"{encode({'alg': 'RS256', 'kid': 'RS256', **head})}.{body}.{signature}")


@pytest.mark.parametrize("kind", ["at+jwt", "logout+jwt", "secevent+jwt", "JWE"])
def test_a_token_of_another_sort_is_refused(sign: Sign, check: Check, kind: str) -> None:
    with pytest.raises(NotSignedIn, match="of another sort"):
        check(sign(head={"typ": kind}))


SECONDS = {
    "exp": [(-SKEW_S + 1, True), (-SKEW_S, False), (-3600, False)],
    "nbf": [(SKEW_S, True), (SKEW_S + 1, False), (86_400, False)],
    "iat": [(SKEW_S, True), (SKEW_S + 1, False), (-OLDEST_S - SKEW_S, True), (-OLDEST_S - SKEW_S - 1, False), (-86_400 * 365, False)],
}


@pytest.mark.parametrize(("claim", "seconds", "taken"), [(claim, seconds, taken) for claim, cases in SECONDS.items() for seconds, taken in cases])
def test_clocks_may_differ_by_a_minute_and_no_more(sign: Sign, check: Check, now: datetime, claim: str, seconds: int, taken: bool) -> None:
    token = sign(**{claim: int(now.timestamp()) + seconds})
    if taken:
        assert check(token)["sub"] == "1234"
    else:
        with pytest.raises(NotSignedIn, match="does not hold"):
            check(token)


def test_a_token_that_was_right_is_not_a_while_later(sign: Sign, check: Check, now: datetime) -> None:
    token = sign()
    assert check(token, now=now + timedelta(seconds=300 + SKEW_S - 1))
    with pytest.raises(NotSignedIn, match="does not hold"):
        check(token, now=now + timedelta(seconds=300 + SKEW_S))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": "https://login.example.com/"}, "iss"),
        ({"iss": None}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"aud": ["another"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": 7}, "aud"),
        ({"aud": {"endcap": True}}, "aud"),
        ({"aud": ["endcap", "another"]}, "azp"),
        ({"aud": ["endcap", "another"], "azp": "another"}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"nonce": "n0nc\u00e9"}, "nonce"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "x" * 256}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"exp": None}, "exp"),
        ({"exp": "4000000000"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": float("inf")}, "time|type"),
        ({"exp": float("nan")}, "time|type"),
        ({"iat": None}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"nbf": "now"}, "nbf"),
        ({"at_hash": half_hash("another")}, "at_hash"),
        ({"at_hash": 7}, "at_hash"),
        ({"auth_time": "yesterday"}, "auth_time"),
        ({"amr": "pwd"}, "amr"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(sign: Sign, check: Check, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(NotSignedIn, match=rf"does not hold: .*({what})"):
        check(sign(**changes))


def test_several_clients_are_taken_where_this_one_was_handed_the_token(sign: Sign, check: Check) -> None:
    assert check(sign(aud=["endcap"]))
    assert check(sign(aud=["endcap", "another"], azp="endcap"))
    assert check(sign(at_hash=half_hash(ACCESS)))


@pytest.mark.parametrize("text", ["", ".", "..", "...", "a.b.c", "e30.e30.e30", "\u00e9.e30.e30", "x" * 200_000, "e30.e30.e30.e30.e30"])
def test_what_is_no_token_is_refused(check: Check, text: str) -> None:
    with pytest.raises(NotSignedIn, match="does not hold"):
        check(text)


def test_a_body_that_is_no_object_is_refused(check: Check, jwks: Any) -> None:
    from joserfc import jws

    for body in (b"[]", b"7", b"null", b"", b"{", b'"x"', b"\xff", b"[" * 50_000):
        token = jws.serialize_compact({"alg": "RS256", "kid": "RS256"}, body, jwks.private["RS256"], algorithms=["RS256"])
        with pytest.raises(NotSignedIn, match="does not hold"):
            check(token)


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "nonce", "azp", "at_hash"])
def test_half_a_letter_in_a_claim_is_refused(check: Check, jwks: Any, provider: Provider, now: datetime, claim: str) -> None:
    """JSON can say half a surrogate pair, which no text can hold."""
    from joserfc import jws

    at = int(now.timestamp())
    claims = {"iss": provider.issuer, "sub": "1234", "aud": "endcap", "iat": at, "exp": at + 300, "nonce": "n0nce", claim: "\ud83d"}
    body = json.dumps(claims).encode()
    with pytest.raises(NotSignedIn, match="does not hold"):
        check(jws.serialize_compact({"alg": "RS256", "kid": "RS256"}, body, jwks.private["RS256"], algorithms=["RS256"]))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_token_with_one_letter_changed_or_cut_is_refused(sign: Sign, check: Check, data: st.DataObject) -> None:
    token = sign()
    at = data.draw(st.integers(0, len(token) - 2))  # of the last letter some bits stand for nothing
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = data.draw(st.sampled_from([token[:at], token[:at] + token[at + 1 :], token[:at] + letter + token[at + 1 :]]))
    if changed == token:
        return
    with pytest.raises(NotSignedIn):
        check(changed)


def test_the_message_shows_nothing_of_the_token(sign: Sign, check: Check) -> None:
    token = sign(nonce="sesame", email="ada@example.org")
    with pytest.raises(NotSignedIn) as refused:
        check(token)
    assert "sesame" not in str(refused.value)
    assert "ada@" not in str(refused.value)
    assert token.split(".")[1] not in str(refused.value)


def test_without_the_package_it_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "authlib.oidc.core", None)
    with pytest.raises(InvalidInput, match="needs the package authlib") as told:
        require_library()
    assert told.value.hint == "pip install 'endcap[sso]'"
