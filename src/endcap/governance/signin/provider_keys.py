"""The public keys of providers, which change while we run: kept for an hour, and read again when a token names one that is not among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.errors import InvalidInput, NotSignedIn
from endcap.governance.outgoing import Answer
from endcap.governance.signin.discovery import ask, read_json
from endcap.governance.signin.records import Provider

if TYPE_CHECKING:
    from joserfc.jwk import Key

KEPT = timedelta(hours=1)
"""How long keys are used without a look at whether they are still there."""
AGAIN = timedelta(minutes=1)
"""How often a provider is asked at most because a token named a key that it did not have: whoever sends nonsense must not make us a flood."""
_LEAST_RSA_BITS = 2048
_MOST_KEYS = 100
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

Asking = Callable[[str], Answer]


class _Keys(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


@dataclass(frozen=True)
class _Kept:
    keys: tuple[Mapping[str, Any], ...]
    at: datetime
    asked_at: datetime


class ProviderKeys:
    """The keys of the providers of one process. ``asking`` None asks them over the network, as ``own_hosts`` allows."""

    def __init__(self, *, own_hosts: Collection[str] = (), asking: Asking | None = None) -> None:
        self._asking = asking or (lambda url: ask("GET", url, own_hosts=own_hosts))
        self._kept: dict[str, _Kept] = {}
        self._turns: dict[str, threading.Lock] = {}

    def find(self, provider: Provider, *, key_id: str | None, algorithm: str, now: datetime) -> Key:
        """The key that a token names; where it names none, the only one that there is for its algorithm.

        Raises NotSignedIn where there is none or the choice of several, Unreachable where the provider is to be asked and does not answer.
        """
        with self._turns.setdefault(provider.jwks_uri, threading.Lock()):  # one asks, the others read what it was told
            kept = self._kept.get(provider.jwks_uri)
            if kept is None or not kept.at <= now < kept.at + KEPT:
                kept = self._read(provider, now)
            found = _pick(kept.keys, key_id, algorithm)
            if not found and now >= kept.asked_at + AGAIN:
                found = _pick(self._read(provider, now).keys, key_id, algorithm)
        if len(found) != 1:
            raise NotSignedIn(f"The provider '{provider.name}' has {'several keys' if found else 'no key'} for the token that it sent.")
        from joserfc.errors import JoseError
        from joserfc.jwk import import_key

        try:
            return import_key(dict(found[0]))
        except (JoseError, ValueError) as error:
            raise NotSignedIn(f"The provider '{provider.name}' shows a key that is none.") from error

    def _read(self, provider: Provider, now: datetime) -> _Kept:
        said = read_json(self._asking(provider.jwks_uri), _Keys, what=f"The keys of the provider '{provider.name}'")
        if len(said.keys) > _MOST_KEYS:
            raise InvalidInput(f"The provider '{provider.name}' shows {len(said.keys)} keys; the most are {_MOST_KEYS}.")
        kept = _Kept(tuple(key for key in said.keys if _is_good(key)), now, now)
        self._kept[provider.jwks_uri] = kept
        return kept


def _pick(keys: Collection[Mapping[str, Any]], key_id: str | None, algorithm: str) -> list[Mapping[str, Any]]:
    sort = "EC" if algorithm in _CURVES else "RSA"
    return [
        key
        for key in keys
        if (key_id is None or key.get("kid") == key_id)
        and key["kty"] == sort
        and key.get("alg") in (None, algorithm)
        and (sort == "RSA" or key.get("crv") == _CURVES[algorithm])
    ]


def _is_good(key: Mapping[str, Any]) -> bool:
    """Whether it is a public key for signatures, and long enough: no secret one, with which whoever reads it signs, no short one."""
    if key.get("use", "sig") != "sig" or "d" in key or "k" in key or key.get("kty") not in ("RSA", "EC"):
        return False
    return key["kty"] == "EC" or (isinstance(key.get("n"), str) and len(key["n"].rstrip("=")) * 6 >= _LEAST_RSA_BITS)
