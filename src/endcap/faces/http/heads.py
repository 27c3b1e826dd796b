"""What the head of a request says that decides whether it is let in: names of this service, no other site, a body of the right sort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from endcap.core.errors import InvalidInput, PermissionDenied
from endcap.faces.http.answers import RequestRefused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
STREAMED = "/api/2.0/mlflow-artifacts/artifacts/"
"""What is PUT under this path is handed on as it comes, whatever it is: files of runs, which may be large."""

Head = Mapping[bytes, bytes]
WORKSPACE = b"x-endcap-workspace"
_READ = frozenset(
    (
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"cookie",
        b"x-endcap-form",
        WORKSPACE,
        b"x-forwarded-for",
    )
)


@dataclass(frozen=True)
class Place:
    """The names that a service answers to, and whether its clients reach it by TLS (its own, or that of a proxy before it)."""

    names: frozenset[str] = frozenset(LOOPBACK)
    secure: bool = False
    hint: str = "call it from this machine, as http://127.0.0.1:PORT or http://localhost:PORT"

    @property
    def scheme(self) -> bytes:
        return b"https://" if self.secure else b"http://"


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers that decide. Raises RequestRefused for one that is said twice: two readers could take different ones."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in _READ:
            continue
        if name in found:
            if name != b"x-forwarded-for":
                raise RequestRefused(403, PermissionDenied(f"The request says its header {name.decode()} twice.", hint="say it once"))
            value = found[name] + b"," + value  # noqa: PLW2901 - each proxy may add a line of its own
        found[name] = value
    return found


def require_place(head: Head, place: Place, *, followed: bool = False) -> None:
    """Raise RequestRefused unless the request names this service and comes from no other site.

    ``followed`` is whether a page is asked for, which a link of another site may lead to, or the answer of a provider of sign-in: it changes nothing.
    """
    host, origin, site = head.get(b"host"), head.get(b"origin"), head.get(b"sec-fetch-site")
    if host is None or read_hostname(host.decode("latin-1")) not in place.names:
        who = "this service answers its own machine only" if place.names == frozenset(LOOPBACK) else "this service has other names"
        raise _forbidden(f"The request came for the host {_shown(host)}; {who}.", place)
    if origin is not None and origin.lower() != place.scheme + host.lower():
        raise _forbidden(f"The request came from the site {_shown(origin)}.", place)
    if site not in (None, b"none", b"same-origin") and not (followed and head.get(b"sec-fetch-mode") == b"navigate"):
        raise _forbidden(f"The request came from another site ({_shown(site)}).", place)


def require_json(head: Head, *, method: str) -> None:
    """Raise RequestRefused unless a body is plain JSON, which no form of another site can send. What no form can send at all may come without one."""
    kind, encoding = head.get(b"content-type"), head.get(b"content-encoding")
    if not (_is_json(kind) or (method != "POST" and kind is None)):
        what = f"The body is {_shown(kind)}; it must be application/json."
        raise RequestRefused(415, InvalidInput(what, hint="send the header Content-Type: application/json"))
    if encoding not in (None, b"identity"):
        raise RequestRefused(415, InvalidInput(f"The body is encoded as {_shown(encoding)}.", hint="send it as it is"))


def read_hostname(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6.

    >>> read_hostname("Shop.example:443"), read_hostname("[::1]:8420")
    ('shop.example', '::1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_json(content_type: bytes | None) -> bool:
    if content_type == b"application/json":
        return True
    kind, _, rest = (content_type or b"").lower().partition(b";")
    return kind.strip() == b"application/json" and rest.strip() in (b"", b"charset=utf-8", b'charset="utf-8"')


def _shown(value: bytes | None) -> str:
    return "not named" if value is None else repr(value[:200].decode("latin-1"))


def _forbidden(what: str, place: Place) -> RequestRefused:
    return RequestRefused(403, PermissionDenied(what, hint=place.hint))
