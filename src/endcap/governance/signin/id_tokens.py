"""ID tokens: what a provider signs of who somebody is, checked as OpenID Connect Core 1.0, 3.1.3.7, and RFC 8725 ask.

Nothing in a token chooses how it is checked: its algorithm must be one that the provider was added with, its key is one of the provider's own that
is made for that algorithm, and what its head says of other keys (``jku``, ``jwk``, ``x5u``) is not read.
"""

from __future__ import annotations

import base64
import hmac
import math
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from endcap.core.errors import InvalidInput, NotSignedIn
from endcap.governance.signin.discovery import ALGORITHMS
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.records import Provider

T = TypeVar("T")

SKEW_S = 60
"""By how much the provider's clock may differ from ours."""
OLDEST_S = 600
"""How long ago a token may have been made: it is fetched right after it was."""
MOST_BYTES = 64 * 1024
MOST_SUBJECT = 255  # OpenID Connect Core 1.0, section 2
_TYPES = (None, "JWT", "jwt")


class _Head(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str | None = None


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float
    nonce: str
    nbf: float | None = None
    azp: str | None = None
    at_hash: str | None = None


def check_id_token(text: str, provider: Provider, keys: ProviderKeys, *, nonce: str, access_token: str, now: datetime) -> Mapping[str, Any]:
    """The claims of a token, if every one of them holds. Costs a signature's check, some 0.1 ms, and at times a request for keys.

    Raises NotSignedIn, which says what does not hold and shows no value of the token.
    """
    claims, algorithm = open_token(text, provider, keys, types=_TYPES, now=now)
    said = read_claims(claims, _Claims, provider)
    if not all(math.isfinite(value) for value in (said.exp, said.iat, said.nbf or 0.0)):
        raise wrong_token(provider, "a time in it is no number")
    _validate(claims, algorithm, provider, nonce=nonce, access_token=access_token, now=now)
    audience = [said.aud] if isinstance(said.aud, str) else said.aud
    at = now.timestamp()
    for holds, what in (
        (said.iss == provider.issuer, "it is of another issuer"),
        (provider.client_id in audience, "it is for another client"),
        (len(audience) == 1 or said.azp == provider.client_id, "it is for several clients, and not handed out to this one"),
        (said.azp in (None, provider.client_id), "it was handed out to another client"),
        (at < said.exp + SKEW_S, "it has expired"),
        (said.iat <= at + SKEW_S, "it is of the future"),
        (said.nbf is None or said.nbf <= at + SKEW_S, "it does not hold yet"),
        (at <= said.iat + OLDEST_S + SKEW_S, "it was made long ago"),
        (hmac.compare_digest(said.nonce.encode(), nonce.encode()), "it is of another sign-in (its nonce)"),
        (0 < len(said.sub) <= MOST_SUBJECT and said.sub.isprintable(), "its subject is none"),
    ):
        if not holds:
            raise wrong_token(provider, what)
    return claims


def open_token(text: str, provider: Provider, keys: ProviderKeys, *, types: Collection[str | None], now: datetime) -> tuple[dict[str, Any], str]:
    """What a provider signed, and by which algorithm: the claims are still to be looked at. ``types`` are those that its head may say.

    Raises NotSignedIn for what is no token of the provider's, or signed by none of its keys.
    """
    head = _read_head(text, provider, types)
    key = keys.find(provider, key_id=head.kid, algorithm=head.alg, now=now)
    return _open(text, key, head.alg, provider), head.alg


def read_claims(claims: Mapping[str, Any], kind: type[T], provider: Provider) -> T:
    """The claims as a record. Raises NotSignedIn where one is missing or of the wrong type."""
    try:
        return msgspec.convert(claims, kind)
    except msgspec.ValidationError as error:
        raise wrong_token(provider, f"a claim is missing or of the wrong type ({error})") from error


def wrong_token(provider: Provider, what: str) -> NotSignedIn:
    """What is raised for a token that does not hold; ``what`` shows no value of it."""
    return NotSignedIn(f"What the provider '{provider.name}' said does not hold: {what}.", hint="sign in again; should it stay so, ask an admin")


def _read_head(text: str, provider: Provider, types: Collection[str | None]) -> _Head:
    parts = text.split(".")
    if len(parts) != 3 or not all(parts) or len(text) > MOST_BYTES or not text.isascii():
        raise wrong_token(provider, "it is cut off, unsigned or no token at all")
    try:
        head = msgspec.json.decode(base64.urlsafe_b64decode(parts[0] + "=" * (-len(parts[0]) % 4)), type=_Head)
    except (ValueError, RecursionError) as error:
        raise wrong_token(provider, "its head does not read") from error
    if head.alg not in provider.algorithms or head.alg not in ALGORITHMS:
        raise wrong_token(provider, f"it is signed by {head.alg[:20]!r}; this provider's are by {list(provider.algorithms)}")
    if head.typ not in types:
        raise wrong_token(provider, "it is a token of another sort")
    return head


def _open(text: str, key: Any, algorithm: str, provider: Provider) -> dict[str, Any]:
    """The claims under a signature that holds."""
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)  # what it does not know in a head is not read; crit is refused
    try:
        opened = jwt.decode(text, key, registry=registry)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:  # the last four: a head or a body that is JSON of another shape
        raise wrong_token(provider, "its signature does not hold") from error
    return opened.claims


def _validate(claims: dict[str, Any], algorithm: str, provider: Provider, *, nonce: str, access_token: str, now: datetime) -> None:
    """What authlib checks of a token from the code flow: among others the half hash of the access token that came with it."""
    from authlib.oidc.core import CodeIDToken
    from joserfc.errors import JoseError

    options = {"iss": {"essential": True, "value": provider.issuer}, "aud": {"essential": True, "value": provider.client_id}}
    params = {"nonce": nonce, "client_id": provider.client_id, "access_token": access_token}
    try:
        CodeIDToken(claims, {"alg": algorithm}, options, params).validate(now=int(now.timestamp()), leeway=SKEW_S)
    except (JoseError, ValueError, TypeError) as error:
        raise wrong_token(provider, f"a claim of it does not hold ({_name_claim(error)})") from error


def require_library() -> None:
    """Raise InvalidInput where authlib is not installed."""
    try:
        import authlib.oidc.core  # noqa: F401 - asked for, not used
    except ImportError as error:
        raise InvalidInput("Sign-in by a provider needs the package authlib, which is not installed.", hint="pip install 'endcap[sso]'") from error


def _name_claim(error: Exception) -> str:
    return str(getattr(error, "claim", "") or getattr(error, "error", "") or type(error).__name__)
