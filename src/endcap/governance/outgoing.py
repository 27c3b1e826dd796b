"""What leaves the house: a request to an address that somebody typed, which must not become a way into the network the house stands in.

The name is looked up once, every address it has must be one of the public internet, and the connection goes to an address that was checked, so a
name that answers otherwise a moment later gains nothing. Redirects are not followed, proxies of the environment not asked. Hosts of one's own network
are told by the operator, in the environment (``ENDCAP_WEBHOOK_HOSTS``, ``ENDCAP_PROVIDER_HOSTS``), never by whoever types the address.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from endcap.core.errors import InvalidInput, PermissionDenied, Unreachable

if TYPE_CHECKING:
    from http.client import HTTPConnection

TIMEOUT_S = 10.0
"""How long is waited for a connection, and for each part of an answer."""
WHOLE_S = 20.0
"""How long an answer may take as a whole, however slowly its parts come."""
_MOST_URL = 2000
_INNER_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Purpose:
    """Whose URL it is, for what is said of a wrong one: its word, how one looks, and the setting by which the operator allows hosts of his own."""

    whose: str
    example: str
    setting: str


WEBHOOK = Purpose("webhook", "https://hooks.example.com/...", "ENDCAP_WEBHOOK_HOSTS=chat.example,10.0.0.5")


@dataclass(frozen=True)
class Answer:
    """What was answered, with as much of the body as was asked for."""

    status: int
    content_type: str
    body: bytes


def require_url(url: str, *, own_hosts: Collection[str] = (), purpose: Purpose = WEBHOOK) -> SplitResult:
    """The parts of a URL that may be asked: https to a public host, or http and https to one of ``own_hosts``.

    Raises InvalidInput for what is no such URL, PermissionDenied for a host that is plainly inside; the messages show no path, which may be a secret.
    Names are looked up when something is sent.
    """
    hint, whose = f"write {purpose.example}", purpose.whose
    if len(url) > _MOST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidInput(f"A {whose}'s URL is at most {_MOST_URL:,} printable characters of ASCII, without spaces and backslashes.", hint=hint)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise InvalidInput(f"The {whose}'s URL cannot be read as one.", hint=hint) from error
    own = host in own_hosts
    if host and not own and _is_plainly_inside(host):
        raise _inside(host, purpose)
    if parts.scheme not in (("https", "http") if own else ("https",)) or not host or port == 0:
        raise InvalidInput(f"A {whose}'s URL begins with https:// and names a host, not {parts.scheme[:20]!r}.", hint=hint)
    if "@" in parts.netloc or parts.fragment:
        raise InvalidInput(f"A {whose}'s URL holds no user, no password and no fragment.", hint="leave them out")
    return parts


def post(url: str, body: bytes, *, headers: Mapping[str, str], own_hosts: Collection[str] = ()) -> int:
    """Send JSON; returns the status of the answer, whose body is not read. Raises as ``fetch``."""
    return fetch("POST", url, body=body, headers={"Content-Type": "application/json", **headers}, own_hosts=own_hosts).status


def fetch(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    own_hosts: Collection[str] = (),
    purpose: Purpose = WEBHOOK,
    most_bytes: int = 0,
) -> Answer:
    """Ask, and read up to ``most_bytes`` of the answer. A redirect is an answer like any other.

    Raises PermissionDenied for a host with an address inside, InvalidInput for an answer that is longer, Unreachable where nobody answers in time, or
    with a certificate that nobody vouches for (``SSL_CERT_FILE`` names one's own authorities).
    """
    import ssl
    import threading
    from http.client import HTTPException

    parts = require_url(url, own_hosts=own_hosts, purpose=purpose)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = find_address(host, port, own=host in own_hosts, purpose=purpose)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = _connection(host, port, address, secure=parts.scheme == "https")
    watch: threading.Timer | None = None
    try:
        connection.connect()
        watch = threading.Timer(WHOLE_S, _break_off, (connection.sock,))  # which the connection lets go of where the answer says that it closes
        watch.start()
        connection.request(method, path, body=body, headers={"User-Agent": "Endcap", **(headers or {})})
        answer = connection.getresponse()
        read = answer.read(most_bytes + 1) if most_bytes else b""
        if len(read) > most_bytes:
            raise InvalidInput(f"{host} answers with more than {most_bytes:,} bytes.", hint=f"is it the right URL of the {purpose.whose}?")
        return Answer(answer.status, answer.headers.get_content_type(), read)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(
            f"{host} shows a certificate that is not trusted: {error.verify_message}.", hint="SSL_CERT_FILE names authorities"
        ) from error
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{host} does not answer: {type(error).__name__}.") from error
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()


def find_address(host: str, port: int, *, own: bool = False, purpose: Purpose = WEBHOOK) -> str:
    """The address to connect to. Raises PermissionDenied unless all that a name has are public, or it is one's ``own``; Unreachable for none."""
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{host} has no address.") from error
    if not own and not all(is_public(ipaddress.ip_address(address.partition("%")[0])) for address in found):
        raise _inside(host, purpose)
    return found[0]


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public internet, also where it wraps one of IPv4.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("93.184.215.14", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(address.packed[12:])
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def sign(secret: str, body: bytes, *, at_s: int) -> str:
    """The signature of a body that is sent at an instant, in seconds since 1970: HMAC-SHA256 over both, so that it cannot be sent again later.

    >>> sign("s3cret", b"{}", at_s=1)
    't=1,v1=3aef069923b329162e71de34136b0ef6ee4b9253867069748da3fc3680c71406'
    """
    return f"t={at_s},v1={hmac.new(secret.encode(), b'%d.%b' % (at_s, body), hashlib.sha256).hexdigest()}"


def check_signature(secret: str, body: bytes, header: str, *, now_s: float, within_s: float = 300.0) -> bool:
    """What a receiver asks: whether the body was sent by who knows the secret, no longer than ``within_s`` ago.

    >>> check_signature("s3cret", b"{}", sign("s3cret", b"{}", at_s=100), now_s=130.0)
    True
    """
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    if not (parts.get("t", "").isascii() and parts.get("t", "").isdigit()) or abs(now_s - int(parts["t"])) > within_s:
        return False
    return hmac.compare_digest(sign(secret, body, at_s=int(parts["t"])).encode(), header.encode())


def _connection(host: str, port: int, address: str, *, secure: bool) -> HTTPConnection:
    """A connection to an address that was checked, under the host's name: for the Host header, and for the certificate."""
    import ssl
    from http.client import HTTPConnection

    class Checked(HTTPConnection):
        def connect(self) -> None:
            plain = socket.create_connection((address, port), timeout=TIMEOUT_S)
            try:
                self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if secure else plain
            except BaseException:
                plain.close()
                raise

    shown = f"[{host}]" if ":" in host else host
    return Checked(shown, port if port != (443 if secure else 80) else None, timeout=TIMEOUT_S)


def _break_off(connected: socket.socket) -> None:
    with suppress(OSError):  # it ended meanwhile
        connected.shutdown(socket.SHUT_RDWR)


def _read_literal(host: str) -> _Address | None:
    """The address that a host is, also in the short forms that a resolver takes: 127.1, 0x7f000001, 2130706433."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_plainly_inside(host: str) -> bool:
    literal = _read_literal(host)
    if literal is not None:
        return not is_public(literal)
    return "." not in host or host.endswith(tuple(f".{name}" for name in _INNER_NAMES))


def _inside(host: str, purpose: Purpose) -> PermissionDenied:
    hint = f"the operator allows hosts of the own network: {purpose.setting}"
    return PermissionDenied(f"The host {host[:100]!r} is not on the public internet.", hint=hint)
