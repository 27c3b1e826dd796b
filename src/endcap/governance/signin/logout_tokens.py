"""Logout tokens: what a provider signs of whom it signed out, checked as OpenID Connect Back-Channel Logout 1.0, 2.6, asks.

They are signed as ID tokens are, by the same keys, and what a token may not choose there it may not choose here. None passes for the other: an ID
token names no event and has a nonce, which no logout token has.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from endcap.governance.signin.id_tokens import MOST_SUBJECT, OLDEST_S, SKEW_S, open_token, read_claims, wrong_token
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.records import Provider

EVENT = "http://schemas.openid.net/event/backchannel-logout"
_TYPES = (None, "JWT", "jwt", "logout+jwt", "application/logout+jwt")
_MOST_NAME = 1000


@dataclass(frozen=True)
class Logout:
    """Whom a provider signed out: ``subject`` with all their sessions there, or the session ``sid`` alone ('' each where it does not say).

    ``used`` is a digest of the token's name, which is taken once; ``at`` when it was made, by the provider's clock.
    """

    subject: str
    sid: str
    used: str
    at: datetime


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    iss: str
    aud: str | list[str]
    iat: float
    jti: str
    events: dict[str, Any]
    sub: str | None = None
    sid: str | None = None
    exp: float | None = None


def check_logout_token(text: str, provider: Provider, keys: ProviderKeys, *, now: datetime) -> Logout:
    """Whom a token says that they are signed out, if every claim of it holds. Whether it was taken before is still to be asked.

    ``exp`` is looked at where it is there: drafts did not have it. Raises NotSignedIn, which says what does not hold and shows no value of the token.
    Costs a signature's check, some 0.1 ms, and at times a request for keys.
    """
    claims, _ = open_token(text, provider, keys, types=_TYPES, now=now)
    said = read_claims(claims, _Claims, provider)
    if not all(math.isfinite(value) for value in (said.iat, said.exp or 0.0)):
        raise wrong_token(provider, "a time in it is no number")
    audience = [said.aud] if isinstance(said.aud, str) else said.aud
    at, named = now.timestamp(), [name for name in (said.sub, said.sid) if name is not None]
    for holds, what in (
        (said.iss == provider.issuer, "it is of another issuer"),
        (provider.client_id in audience, "it is for another client"),
        (isinstance(said.events.get(EVENT), dict), "it tells of no logout"),
        ("nonce" not in claims, "it has a nonce, as no logout token has"),
        (said.iat <= at + SKEW_S, "it is of the future"),
        (at <= said.iat + OLDEST_S + SKEW_S, "it was made long ago"),
        (said.exp is None or at < said.exp + SKEW_S, "it has expired"),
        (0 < len(said.jti) <= _MOST_NAME, "it has no name of its own (its jti)"),
        (bool(named), "it names nobody and no session"),
        (all(0 < len(name) <= MOST_SUBJECT and name.isprintable() for name in named), "whom it names is nobody"),
    ):
        if not holds:
            raise wrong_token(provider, what)
    used = hashlib.sha256(msgspec.json.encode(["logout", provider.issuer, provider.client_id, said.jti])).hexdigest()
    return Logout(said.sub or "", said.sid or "", used, datetime.fromtimestamp(said.iat, UTC))
