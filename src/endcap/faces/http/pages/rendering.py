"""HTML and the headers that go with it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import Send

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent
Header = tuple[bytes, bytes]


async def send_page(send: Send, template: str, values: Mapping[str, object], *, status: int = 200, headers: tuple[Header, ...] = ()) -> None:
    """A page, whole. Everything in ``values`` is escaped."""
    given = {"go": "", "said": None, **values}
    body = _open_templates().get_template(template).render(style=_style()[0], **given).encode()
    await _send(send, status, ((b"content-type", b"text/html; charset=utf-8"), *headers), body)


async def send_elsewhere(send: Send, url: str, *, headers: tuple[Header, ...] = ()) -> None:
    """Send the browser on, by GET, to a URL of printable ASCII without spaces."""
    await _send(send, 303, ((b"location", url.encode("ascii")), *headers), b"")


def guard_headers() -> tuple[Header, ...]:
    """What every page says: nothing but its own style, in no frame, kept nowhere.

    ``Referrer-Policy`` is not ``no-referrer``: browsers would then say of a form of ours that it comes from nowhere (``Origin: null``).
    """
    policy = f"default-src 'none'; style-src '{_style()[1]}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    return (
        (b"content-security-policy", policy.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )


async def _send(send: Send, status: int, headers: tuple[Header, ...], body: bytes) -> None:
    told = [*headers, *guard_headers(), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=1)
def _open_templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=False)


@lru_cache(maxsize=1)
def _style() -> tuple[object, str]:
    """The style, and its digest, by which the policy lets it in and no other."""
    from markupsafe import Markup

    text = (_FOLDER / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"
