"""What a provider says of itself: its discovery document (OpenID Connect Discovery 1.0), and how it is asked at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from endcap.core.errors import InvalidInput, Unreachable
from endcap.governance.outgoing import Answer, Purpose, fetch, require_url

T = TypeVar("T")

PROVIDER = Purpose("provider", "https://login.example.com", "ENDCAP_PROVIDER_HOSTS=login.example,10.0.0.5")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""The signatures that are taken, each by a public key. Never ``none``; never HS256, whose key would be the client's secret, or a public key that
somebody passes off as one (RFC 8725, 2.1).
"""
MOST_BYTES = 512 * 1024
_WELL_KNOWN = "/.well-known/openid-configuration"
_BASIC, _POST, _NONE = "client_secret_basic", "client_secret_post", "none"


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str | None = None
    response_types_supported: tuple[str, ...] = ("code",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = (_BASIC,)
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)
    authorization_response_iss_parameter_supported: bool = False


@dataclass(frozen=True)
class Discovered:
    """What is kept of the document: see ``Provider``."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    algorithms: tuple[str, ...]
    by_post: bool
    names_itself: bool
    end_session_endpoint: str


def discover(issuer: str, *, own_hosts: Collection[str], has_secret: bool) -> Discovered:
    """Read the document of an issuer. Costs a request.

    Raises InvalidInput for what is no such document, is another issuer's, or offers nothing that we take; PermissionDenied for a host inside.
    """
    parts = require_url(issuer, own_hosts=own_hosts, purpose=PROVIDER)
    if parts.query or "?" in issuer:
        raise InvalidInput("The issuer's URL holds a query.", hint="give it as the provider names it, without ?")
    place = issuer.rstrip("/") + _WELL_KNOWN
    found = read_json(ask("GET", place, own_hosts=own_hosts), _Document, what=f"The discovery document {place}")
    if found.issuer != issuer:
        hint = "give that one, if it is yours: it stands in every token" if found.issuer.rstrip("/") == issuer.rstrip("/") else None
        raise InvalidInput(f"The discovery document {place} is of the issuer {found.issuer[:200]!r}, not {issuer!r}.", hint=hint)
    endpoints = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint, found.end_session_endpoint)
    for url in filter(None, endpoints):
        require_url(url, own_hosts=own_hosts, purpose=PROVIDER)
    algorithms = tuple(name for name in ALGORITHMS if name in found.id_token_signing_alg_values_supported)
    methods = found.token_endpoint_auth_methods_supported
    for there, what in (
        (algorithms, f"signs by {list(found.id_token_signing_alg_values_supported[:20])}; taken are {list(ALGORITHMS)}"),
        ("code" in found.response_types_supported, "does not offer the authorization code flow (response type 'code')"),
        ("S256" in found.code_challenge_methods_supported, "offers no PKCE by S256"),
        (_BASIC in methods or _POST in methods or not has_secret, f"takes secrets by {list(methods[:20])}, not as Basic or in the body"),
        (_NONE in methods or has_secret, "wants a secret of its clients"),
    ):
        if not there:
            raise InvalidInput(f"The provider {issuer} {what}.", hint="set the client up there as a confidential web application")
    return Discovered(
        issuer=issuer,
        authorization_endpoint=found.authorization_endpoint,
        token_endpoint=found.token_endpoint,
        jwks_uri=found.jwks_uri,
        userinfo_endpoint=found.userinfo_endpoint,
        algorithms=algorithms,
        by_post=_BASIC not in methods,
        names_itself=found.authorization_response_iss_parameter_supported,
        end_session_endpoint=found.end_session_endpoint or "",
    )


def ask(
    method: str,
    url: str,
    *,
    own_hosts: Collection[str],
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask a provider: ``form`` is sent as a body. Raises as ``fetch``."""
    said = {"Accept": "application/json", **(headers or {})}
    body = None
    if form is not None:
        said["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(form).encode()
    return fetch(method, url, body=body, headers=said, own_hosts=own_hosts, purpose=PROVIDER, most_bytes=MOST_BYTES)


def read_json(answer: Answer, kind: type[T], *, what: str) -> T:
    """The record of an answer. Raises Unreachable for a status other than 200, InvalidInput for what does not read."""
    if answer.status != 200:
        raise Unreachable(f"{what} was answered with status {answer.status}.", hint="look into the provider's log")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{what} does not read as it should: {error}.", hint="is it the URL of a provider of OpenID Connect?") from error
