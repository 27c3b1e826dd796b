"""The authorization code flow with PKCE (OpenID Connect Core 1.0, 3.1; RFC 7636): from the browser that is sent away to what is known of who it is.

Nothing is kept while somebody is away: what must be known again at the end is drawn from a secret that their browser holds in a cookie and nobody
else knows. So strangers who begin sign-ins fill nothing up, and an answer that was meant for another browser opens nothing in this one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from endcap.core.errors import InvalidInput, NotSignedIn, Unreachable
from endcap.governance.outgoing import Answer
from endcap.governance.signin.discovery import ask, read_json
from endcap.governance.signin.id_tokens import check_id_token
from endcap.governance.signin.provider_keys import ProviderKeys
from endcap.governance.signin.records import Provider

AWAY_S = 600
"""How long somebody may take at the provider."""
_MOST_GROUPS = 2000
_MOST_CODE = 4096
_MOST_STATE = 2000
_AGAIN = "begin again at /sign-in"


@dataclass(frozen=True)
class Outside:
    """Somebody as a provider says. ``name`` is what they are called by there, '' where it does not say; ``groups`` are its own words."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Came:
    """What a browser came back with: who it is, the local path it had asked for, and a digest of the sign-in, which opens once.

    ``sid`` is what the provider calls the session there ('' where it does not say), ``id_token`` what it signed, and ``at`` when, by its clock.
    """

    person: Outside
    path: str
    used: str
    sid: str
    id_token: str = field(repr=False)
    at: datetime


@dataclass(frozen=True)
class _Grant:
    id_token: str = field(repr=False)
    access_token: str = field(repr=False)


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str
    token_type: str = "Bearer"


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


def new_browser() -> str:
    """A secret for a browser that is not signed in: 256 bits."""
    return secrets.token_urlsafe(32)


def begin_flow(provider: Provider, *, browser: str, redirect_uri: str, path: str, now: datetime) -> str:
    """The URL at the provider to which the browser is sent. ``path`` is where it goes after it has come back."""
    state = write_state(provider, "state", browser=browser, uri=redirect_uri, path=path, now=now)
    verifier = _mac(browser, "pkce", state)
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": state,
        "nonce": _mac(browser, "nonce", state),
        "code_challenge": _encode(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
    }
    return add_query(provider.authorization_endpoint, asked)


def add_query(url: str, asked: Mapping[str, str]) -> str:
    """A URL of a provider with what is asked of it."""
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(asked, quote_via=quote)}"


def finish_flow(
    provider: Provider,
    said: Mapping[str, str],
    *,
    browser: str,
    redirect_uri: str,
    secret: Callable[[], str],
    keys: ProviderKeys,
    own_hosts: Collection[str],
    is_used: Callable[[str], bool],
    now: datetime,
) -> Came:
    """Who came back with what the provider ``said`` in the query. ``secret`` gives the client's, ``is_used`` tells a sign-in that was ended before.

    Raises NotSignedIn for an answer that is not of this browser, is late, was used, was refused there or does not hold; Unreachable where the
    provider does not answer. Costs a request to the provider, at times three.
    """
    state = said.get("state", "")
    path = read_state(provider, "state", state, browser=browser, uri=redirect_uri, now=now)
    used = hashlib.sha256(state.encode()).hexdigest()
    if is_used(used):
        raise NotSignedIn("This sign-in was ended before: an answer of a provider is taken once.", hint=_AGAIN)
    if ("iss" in said or provider.names_itself) and said.get("iss") != provider.issuer:
        raise NotSignedIn(f"The answer is not from the provider '{provider.name}' (its iss).", hint=_AGAIN)
    if "error" in said:
        raise NotSignedIn(f"The provider '{provider.name}' did not sign you in: {_show_code(said['error'])}.", hint=_AGAIN)
    code = said.get("code", "")
    if not code or len(code) > _MOST_CODE or not code.isascii() or not code.isprintable():
        raise NotSignedIn(f"The provider '{provider.name}' answered without a code.", hint=_AGAIN)
    grant = _exchange(provider, code, verifier=_mac(browser, "pkce", state), redirect_uri=redirect_uri, secret=secret(), own_hosts=own_hosts)
    nonce = _mac(browser, "nonce", state)
    claims = dict(check_id_token(grant.id_token, provider, keys, nonce=nonce, access_token=grant.access_token, now=now))
    missing = [name for name in (provider.name_claim, provider.groups_claim) if name and find_claim(claims, name) is None]
    if missing and provider.userinfo_endpoint:
        more = _ask_userinfo(provider, grant, subject=claims["sub"], own_hosts=own_hosts)
        claims = {**more, **claims}
    sid, at = claims.get("sid"), datetime.fromtimestamp(claims["iat"], UTC)
    return Came(_read_person(provider, claims), path, used, sid if isinstance(sid, str) else "", grant.id_token, at)


def write_state(provider: Provider, purpose: str, *, browser: str, uri: str, path: str, now: datetime) -> str:
    """What a browser takes along to a provider and brings back to ``uri``, and which only it can have been given."""
    body = f"{int(now.timestamp())}.{secrets.token_urlsafe(16)}.{_encode(path.encode())}"
    return f"{body}.{_mac(browser, purpose, provider.name, uri, body)}"


def read_state(provider: Provider, purpose: str, state: str, *, browser: str, uri: str, now: datetime) -> str:
    """The local path that a state holds. Raises NotSignedIn unless this browser was sent away with it, to this provider, and not long ago."""
    body, _, mac = state.rpartition(".")
    right = _mac(browser, purpose, provider.name, uri, body)
    if not browser or len(state) > _MOST_STATE or not hmac.compare_digest(right.encode(), mac.encode()):
        raise NotSignedIn("This answer of a provider belongs to another browser, or to none.", hint=_AGAIN)
    at, _, rest = body.partition(".")
    if not 0 <= now.timestamp() - int(at) + 1 <= AWAY_S + 1:
        raise NotSignedIn(f"The browser was sent to the provider more than {AWAY_S // 60} minutes ago.", hint=_AGAIN)
    return base64.urlsafe_b64decode(rest.partition(".")[2] + "==").decode()


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or, where there is none called so, by names with dots from outside to inside; None where there is none.

    >>> find_claim({"https://a.example/groups": ["x"]}, "https://a.example/groups"), find_claim({"realm": {"roles": ["y"]}}, "realm.roles")
    (['x'], ['y'])
    """
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _exchange(provider: Provider, code: str, *, verifier: str, redirect_uri: str, secret: str, own_hosts: Collection[str]) -> _Grant:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": provider.client_id,
        "code_verifier": verifier,
    }
    headers = {}
    if secret and provider.by_post:
        form["client_secret"] = secret
    elif secret:  # each part encoded as in a form first: RFC 6749, 2.3.1
        pair = f"{quote(provider.client_id, safe='')}:{quote(secret, safe='')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    answer = ask("POST", provider.token_endpoint, own_hosts=own_hosts, form=form, headers=headers)
    if answer.status in (400, 401, 403):
        raise NotSignedIn(f"The provider '{provider.name}' did not take the code: {_read_refusal(answer)}.", hint=_AGAIN)
    try:
        found = read_json(answer, _Tokens, what=f"The code for the provider '{provider.name}'")
    except InvalidInput as error:
        raise Unreachable(error.what, hint=error.hint) from error
    if found.token_type.lower() != "bearer":
        raise NotSignedIn(f"The provider '{provider.name}' gave a token of the type {_show_code(found.token_type)}.", hint=_AGAIN)
    return _Grant(found.id_token, found.access_token)


def _ask_userinfo(provider: Provider, grant: _Grant, *, subject: str, own_hosts: Collection[str]) -> dict[str, Any]:
    """What the provider says of the person beside the token: of that person, or it is not taken (OpenID Connect Core 1.0, 5.3.2)."""
    if not grant.access_token.isascii() or not grant.access_token.isprintable():
        raise NotSignedIn(f"The provider '{provider.name}' gave an access token that is none.", hint=_AGAIN)
    answer = ask("GET", provider.userinfo_endpoint, own_hosts=own_hosts, headers={"Authorization": f"Bearer {grant.access_token}"})
    if answer.status != 200 or answer.content_type != "application/json":
        return {}
    try:
        found = msgspec.json.decode(answer.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if found.get("sub") != subject:
        raise NotSignedIn(f"The provider '{provider.name}' speaks of somebody else in its userinfo.", hint=_AGAIN)
    return found


def _read_person(provider: Provider, claims: Mapping[str, Any]) -> Outside:
    name = find_claim(claims, provider.name_claim)
    if provider.name_claim == "email" and claims.get("email_verified") in (False, "false"):
        name = ""  # anybody may have typed it there
    groups = find_claim(claims, provider.groups_claim) if provider.groups_claim else None
    listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
    if len(listed) > _MOST_GROUPS:
        raise NotSignedIn(f"The provider '{provider.name}' names {len(listed):,} groups; the most are {_MOST_GROUPS:,}.", hint="have it name fewer")
    words = tuple(dict.fromkeys(group for group in listed if isinstance(group, str)))
    return Outside(provider.issuer, claims["sub"], name if isinstance(name, str) else "", words)


def _read_refusal(answer: Answer) -> str:
    try:
        return _show_code(msgspec.json.decode(answer.body, type=_Refusal).error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"status {answer.status}"


def _show_code(code: str) -> str:
    """A code of an error as it may be shown: the standard's are letters and underscores."""
    return code if code.isascii() and code.replace("_", "").isalnum() and len(code) <= 40 else "it says no reason"


def _mac(browser: str, *parts: str) -> str:
    """43 characters that only who knows the browser's secret can make."""
    return _encode(hmac.digest(browser.encode(), "\n".join(parts).encode(), "sha256"))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
