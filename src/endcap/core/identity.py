"""Identities: the hash of what a thing is made of. Equal identity means interchangeable."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec


def identify(*parts: Any) -> str:
    """A SHA-256 (32 hex digits of it) over parts in a canonical JSON: keys sorted, types kept apart, dates as ISO text.

    Numbers that are equal are the same, so that a definition is itself again when it was kept and read back.

    >>> identify({"b": 1, "a": 2}) == identify({"a": 2, "b": 1.0})
    True
    >>> identify("1") == identify(1)
    False
    """
    # The standard library's JSON, not msgspec's: that writes NaN and the infinities as null, and they are not None.
    payload = json.dumps(_settle(msgspec.to_builtins(list(parts), order="deterministic")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(payload.encode()).hexdigest()[:32]


def _settle(value: Any) -> Any:
    """Whole numbers as such, whatever they were written as."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _settle(inner) for key, inner in value.items()}
    return [_settle(inner) for inner in value] if isinstance(value, list | tuple) else value


def digest(payload: bytes) -> str:
    """The full SHA-256 of bytes, in hex."""
    return hashlib.sha256(payload).hexdigest()
