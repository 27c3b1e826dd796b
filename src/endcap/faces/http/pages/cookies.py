"""Cookies: which a browser keeps for us, under which names, and what of a header is taken for one.

Over TLS their names begin with ``__Host-``, which browsers let nobody set but this very host by TLS, for all its paths (RFC 6265bis, 4.1.3). Without
TLS, which is this machine alone, they have plain names, and other services of the machine could set them.
"""

from __future__ import annotations

import hmac
import re

from endcap.faces.http.heads import Head, Place

SESSION, BROWSER = "endcap-session", "endcap-browser"
"""What opens after sign-in; and a secret by which a browser is known that is not signed in."""
_VALUE = re.compile(r"[0-9A-Za-z_-]{1,200}")
_MOST_HEADER = 16 * 1024


def read_cookie(head: Head, name: str, *, secure: bool) -> str | None:
    """The value of a cookie of ours; None without one. '' for one that is none of ours: cut off, too long, or said twice."""
    said = head.get(b"cookie")
    if said is None:
        return None
    wanted = _full_name(name, secure=secure).encode()
    found = [pair.partition(b"=")[2].strip() for pair in said[:_MOST_HEADER].split(b";") if pair.partition(b"=")[0].strip() == wanted]
    if not found:
        return None
    value = found[0].decode("latin-1")
    return value if len(found) == 1 and len(said) <= _MOST_HEADER and _VALUE.fullmatch(value) else ""


def set_cookie(name: str, value: str, *, place: Place, max_age_s: int) -> tuple[bytes, bytes]:
    """The header that has a browser keep a cookie; 0 seconds has it forget one."""
    secure = "; Secure" if place.secure else ""
    text = f"{_full_name(name, secure=place.secure)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"
    return b"set-cookie", text.encode("ascii")


def make_form_key(secret: str, form: str) -> str:
    """What a form says to show that it was made for this browser: nobody can make it who does not hold the cookie's secret."""
    return hmac.digest(secret.encode(), f"form {form}".encode(), "sha256").hex()


def is_form_key(said: str, secret: str | None, form: str) -> bool:
    return bool(secret) and hmac.compare_digest(said.encode(), make_form_key(secret or "", form).encode())


def _full_name(name: str, *, secure: bool) -> str:
    return f"__Host-{name}" if secure else name
