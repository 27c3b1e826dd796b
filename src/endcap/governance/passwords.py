"""Passwords: what may be one, and its hash by argon2id (RFC 9106), which costs a guesser 64 MiB and 0.2 s of CPU each time."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput

if TYPE_CHECKING:
    from argon2 import PasswordHasher

LEAST_CHARACTERS = 12
MOST_BYTES = 1024


def require_password(text: str, *, name: str) -> str:
    """The password as it is hashed: Unicode composed, so that two keyboards type the same (NIST SP 800-63B).

    Raises InvalidInput for one that is short, endless, one character again and again, or the user's name. The message does not show it.
    """
    try:
        composed = unicodedata.normalize("NFKC", text)
        n_bytes = len(composed.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("The password is not Unicode.") from error
    hint = f"take {LEAST_CHARACTERS} characters or more: a few words that do not belong together"
    if len(composed) < LEAST_CHARACTERS:
        raise InvalidInput(f"The password has {len(composed)} characters; the fewest are {LEAST_CHARACTERS}.", hint=hint)
    if n_bytes > MOST_BYTES:
        raise InvalidInput(f"The password has {n_bytes:,} bytes; the most are {MOST_BYTES:,}.", hint="a long one is good; this is a file")
    if len(set(composed)) < 4 or composed.casefold() in (name.casefold(), name.casefold() * 2):
        raise InvalidInput("The password is the user's name or a few characters again and again.", hint=hint)
    return composed


def hash_password(text: str, *, name: str) -> str:
    """The hash, salted by the operating system's chance, with its parameters in it. Raises as ``require_password``. Costs 0.2 s of CPU."""
    return _hasher().hash(require_password(text, name=name))


def check_password(hashed: str, text: str) -> bool:
    """Whether the text is the password of a hash. Without a hash ('' for whom there is none) it is not, after the same time."""
    from argon2.exceptions import InvalidHashError, VerificationError

    if len(text) > MOST_BYTES:
        return False
    try:
        typed = unicodedata.normalize("NFKC", text).encode()
    except UnicodeEncodeError:
        return False
    try:
        return _hasher().verify(hashed or _nobody(), typed) and bool(hashed)
    except (VerificationError, InvalidHashError):
        return False


@lru_cache(maxsize=1)
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # RFC 9106, second recommended: 3 passes over 64 MiB, 4 lanes


@lru_cache(maxsize=1)
def _nobody() -> str:
    return _hasher().hash("the password of nobody")
