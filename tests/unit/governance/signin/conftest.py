"""A provider as it is on record, and keys by which its tokens are signed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from endcap.governance.outgoing import Answer
from endcap.governance.signin.discovery import ALGORITHMS
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.records import Provider

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def provider() -> Provider:
    issuer = "https://login.example.com"
    return Provider(
        name="corp",
        issuer=issuer,
        client_id="endcap",
        secret=b"",
        scopes=("openid", "profile"),
        name_claim="preferred_username",
        groups_claim="groups",
        lets_in=True,
        authorization_endpoint=f"{issuer}/authorize",
        token_endpoint=f"{issuer}/token",
        jwks_uri=f"{issuer}/jwks",
        userinfo_endpoint="",
        algorithms=ALGORITHMS,
        by_post=False,
        names_itself=False,
        read_at=NOW,
        made_at=NOW,
        made_by="ada",
    )


@dataclass
class Jwks:
    """What a provider shows as its keys, and how often it was asked; ``private`` are the halves that sign, by algorithm."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    private: dict[str, Any] = field(default_factory=dict)
    n_asked: int = 0

    def ask(self, _: str) -> Answer:
        self.n_asked += 1
        return Answer(200, "application/json", msgspec.json.encode({"keys": self.shown}))

    def open(self) -> ProviderKeys:
        return ProviderKeys(asking=self.ask)

    def add(self, key: Any, algorithm: str) -> None:
        self.private[algorithm] = key
        self.shown.append(key.as_dict(private=False))


@pytest.fixture(scope="session")
def drawn_keys() -> dict[str, Any]:
    """Keys by the algorithm that they are for, drawn once; and another of RSA."""
    jwk = pytest.importorskip("joserfc.jwk", reason="authlib is not installed, so what needs it goes untested: pip install 'endcap[sso]'")
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    found = {name: jwk.ECKey.generate_key(curve, {"kid": name, "use": "sig"}) for name, curve in curves.items()}
    return {**found, **{name: jwk.RSAKey.generate_key(2048, {"kid": name, "use": "sig"}) for name in ("RS256", "stranger")}}


@pytest.fixture
def jwks(drawn_keys: dict[str, Any]) -> Jwks:
    found = Jwks()
    for name, key in drawn_keys.items():
        if name != "stranger":
            found.add(key, name)
    return found


Sign = Callable[..., str]


@pytest.fixture
def sign(jwks: Jwks, provider: Provider) -> Sign:
    """Signs a token with changed claims (None takes one out) and a changed head."""
    from joserfc import jwt
    from joserfc.jws import JWSRegistry

    def make(*, algorithm: str = "RS256", key: Any = None, head: dict[str, Any] | None = None, **changes: Any) -> str:
        at = int(NOW.timestamp())
        claims = {"iss": provider.issuer, "sub": "1234", "aud": "endcap", "iat": at, "exp": at + 300, "nonce": "n0nce", **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        said = {"alg": algorithm, "kid": algorithm if algorithm in jwks.private else "RS256", **(head or {})}
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None}, claims, key or jwks.private[algorithm], registry=registry
        )

    return make
