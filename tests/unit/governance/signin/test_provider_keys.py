from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from endcap.core.errors import InvalidInput, NotSignedIn, Unreachable
from endcap.governance.outgoing import Answer
from endcap.governance.signin.provider_keys import AGAIN, KEPT, ProviderKeys
from endcap.governance.signin.records import Provider


def test_keys_are_kept_and_looked_at_again(jwks: Any, provider: Provider, now: datetime) -> None:
    keys = jwks.open()
    for _ in range(3):
        assert keys.find(provider, key_id="ES256", algorithm="ES256", now=now).kid == "ES256"
    assert jwks.n_asked == 1
    assert keys.find(provider, key_id="RS256", algorithm="RS256", now=now + KEPT - timedelta(seconds=1)).kid == "RS256"
    assert jwks.n_asked == 1
    gone, jwks.shown = jwks.shown, []
    with pytest.raises(NotSignedIn, match="no key"):
        keys.find(provider, key_id="RS256", algorithm="RS256", now=now + KEPT)
    assert jwks.n_asked == 2
    jwks.shown = gone


def test_a_key_that_is_new_at_the_provider_is_found_at_most_once_a_minute(jwks: Any, provider: Provider, now: datetime) -> None:
    keys, late = jwks.open(), jwks.shown.pop()
    for _ in range(50):
        with pytest.raises(NotSignedIn, match="no key"):
            keys.find(provider, key_id=late["kid"], algorithm="RS256", now=now)
    assert jwks.n_asked == 1, "what is unknown does not make us ask and ask"
    jwks.shown.append(late)
    with pytest.raises(NotSignedIn, match="no key"):
        keys.find(provider, key_id=late["kid"], algorithm="RS256", now=now + AGAIN - timedelta(seconds=1))
    assert keys.find(provider, key_id=late["kid"], algorithm="RS256", now=now + AGAIN).kid == late["kid"]
    assert jwks.n_asked == 2


def test_a_token_that_names_no_key_is_checked_by_the_only_one(jwks: Any, provider: Provider, drawn_keys: dict[str, Any], now: datetime) -> None:
    assert jwks.open().find(provider, key_id=None, algorithm="RS256", now=now).kid == "RS256"
    jwks.add(drawn_keys["stranger"], "stranger")
    with pytest.raises(NotSignedIn, match="several keys"):
        jwks.open().find(provider, key_id=None, algorithm="RS256", now=now)


def test_keys_that_should_not_be_shown_or_are_too_short_are_not_used(provider: Provider, drawn_keys: dict[str, Any], now: datetime) -> None:
    good = drawn_keys["RS256"]
    public, whole = good.as_dict(private=False), good.as_dict(private=True)
    bad: list[dict[str, Any]] = [
        whole,
        {"kty": "oct", "kid": "RS256", "k": "c2VjcmV0"},
        {**public, "use": "enc"},
        {**public, "n": public["n"][:170]},
        {**public, "n": 7},
        {"kid": "RS256"},
        {**public, "kty": "EC"},
    ]
    for key in bad:
        keys = ProviderKeys(asking=lambda _, key=key: Answer(200, "application/json", json.dumps({"keys": [key]}).encode()))  # type: ignore[misc]  # the default binds
        with pytest.raises(NotSignedIn, match="no key"):
            keys.find(provider, key_id="RS256", algorithm="RS256", now=now)


@pytest.mark.parametrize("changes", [{"n": "!" * 400}, {"e": None}, {"e": "!"}])
def test_a_key_that_does_not_read_is_told(provider: Provider, drawn_keys: dict[str, Any], now: datetime, changes: dict[str, Any]) -> None:
    shown = {**drawn_keys["RS256"].as_dict(private=False), **changes}
    keys = ProviderKeys(asking=lambda _: Answer(200, "application/json", json.dumps({"keys": [shown]}).encode()))
    with pytest.raises(NotSignedIn, match="shows a key that is none"):
        keys.find(provider, key_id="RS256", algorithm="RS256", now=now)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(500, "text/html", b""), Unreachable),
        (Answer(302, "text/html", b""), Unreachable),
        (Answer(200, "application/json", b"[]"), InvalidInput),
        (Answer(200, "application/json", b'{"keys": 7}'), InvalidInput),
        (Answer(200, "text/html", b"<html>"), InvalidInput),
        (Answer(200, "application/json", b'{"keys": [{"x": ' + b"[" * 100_000), InvalidInput),
        (Answer(200, "application/json", b'{"keys": [' + b",".join([b"{}"] * 101) + b"]}"), InvalidInput),
    ],
)
def test_an_answer_that_holds_no_keys_is_told(provider: Provider, now: datetime, answer: Answer, error: type[Exception]) -> None:
    with pytest.raises(error):
        ProviderKeys(asking=lambda _: answer).find(provider, key_id="x", algorithm="RS256", now=now)
