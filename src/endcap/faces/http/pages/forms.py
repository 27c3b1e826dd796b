"""What comes from a page: the fields of a form, those of a query, and where somebody wanted to go."""

from __future__ import annotations

from urllib.parse import parse_qsl

from endcap.core.errors import InvalidInput
from endcap.faces.http.answers import RequestRefused
from endcap.faces.http.heads import Head

MOST_BYTES = 16 * 1024
_MOST_FIELDS = 20
_MOST_PATH = 500
_FORM = b"application/x-www-form-urlencoded"


def require_form(head: Head) -> None:
    """Raise RequestRefused unless the body is that of a plain form."""
    kind, _, rest = head.get(b"content-type", b"").lower().partition(b";")
    if kind.strip() != _FORM or rest.strip() not in (b"", b"charset=utf-8") or head.get(b"content-encoding") not in (None, b"identity"):
        raise RequestRefused(415, InvalidInput("The body is not that of the form on this page.", hint="send the form"))


def read_fields(said: bytes) -> dict[str, str]:
    """The fields of a form or a query. Raises InvalidInput for what does not read so, and for a field that is given twice."""
    if len(said) > MOST_BYTES:
        raise InvalidInput(f"The form has more than {MOST_BYTES:,} bytes.")
    try:
        pairs = parse_qsl(said.decode("ascii"), keep_blank_values=True, strict_parsing=bool(said), errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise InvalidInput("The form does not read as NAME=VALUE&NAME=VALUE.") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInput("The form gives a field twice.")
    return found


def local_path(text: str) -> str:
    r"""A path of this service to go on to, and the first page for anything else: no other site, no second header.

    >>> [local_path(path) for path in ("/api/v1/ls?all=1", "//evil.example", "https://evil.example", "/a\r\nX: 1", "/\\evil.example", "")]
    ['/api/v1/ls?all=1', '/', '/', '/', '/', '/']
    """
    plain = text.isascii() and text.isprintable() and " " not in text and "\\" not in text and len(text) <= _MOST_PATH
    return text if plain and text.startswith("/") and not text.startswith("//") else "/"
