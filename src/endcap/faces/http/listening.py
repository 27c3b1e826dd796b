"""Where the service listens, by which names, and whether it may: an address that others reach asks for users and for TLS."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from endcap.core.errors import Conflict, InvalidInput
from endcap.faces.http.heads import LOOPBACK, Place

_EVERY = ("0.0.0.0", "::")
_MOST_NAME = 253


def settle_place(host: str, *, names: Sequence[str], secure: bool, behind_proxy: bool) -> Place:
    """The names that a service answers to at an address. ``secure`` is whether it ends TLS itself.

    Raises InvalidInput for an address that others reach without TLS or a proxy that ends it, and for every address without a name.
    """
    local = host in LOOPBACK
    if not local and not secure and not behind_proxy:
        what = f"The host is {host!r}, which others reach, without TLS: passwords and tokens could be read on the way."
        raise InvalidInput(what, hint="give --tls-cert and --tls-key, or --behind-proxy where a proxy ends TLS, or use a tunnel (ssh -L)")
    if secure and behind_proxy:
        raise InvalidInput("--behind-proxy says that a proxy ends TLS, and --tls-cert that the service does.", hint="give one of them")
    own = {_require_host(name) for name in names} | set(LOOPBACK)
    if not local:
        if host in _EVERY and not names:
            hint = "give --name endcap.example.org: the name that stands in the clients' URL"
            raise InvalidInput(f"The host is {host!r}, every address of the machine, and no name is given.", hint=hint)
        own |= set() if host in _EVERY else {host.lower()}
    secure = secure or behind_proxy
    scheme, others = "https" if secure else "http", sorted(own - set(LOOPBACK))
    hint = f"call it from this machine, as {scheme}://127.0.0.1:PORT or {scheme}://localhost:PORT"
    if others:
        hint = f"call it as {scheme}://{others[0]}; other names are given by --name"
    return Place(frozenset(own), secure=secure, hint=hint)


def show_url(host: str, port: int, *, names: Sequence[str], secure: bool) -> str:
    """Where a service that listens at an address is called.

    >>> show_url("::1", 8420, names=(), secure=False), show_url("0.0.0.0", 443, names=("shop.example",), secure=True)
    ('http://[::1]:8420', 'https://shop.example:443')
    """
    name = names[0] if host in _EVERY and names else host
    return f"http{'s' if secure else ''}://{f'[{name}]' if ':' in name else name}:{port}"


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InvalidInput for an address that is none of this machine's and a port that cannot be, Conflict for a taken one."""
    if not 0 <= port <= 65_535:
        raise InvalidInput(f"The port is {port}; ports are 0 (any free one) to 65535.")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise InvalidInput(f"The host is {host!r}, which is no address.", hint="give --host an address such as 0.0.0.0, and --name a name") from error
    found = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((str(address), port))
        found.listen(2048)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"Port {port} of {host} is taken.", hint="another endcap up may run; or give --port 0 for any free one") from error
        raise InvalidInput(f"Port {port} of {host} cannot be had: {error.strerror}.", hint="give another --port, or 0 for any free one") from error
    return found


def require_certificate(cert: Path | None, key: Path | None) -> bool:
    """Whether there is a certificate. Raises InvalidInput unless it and its key are both there, belong together, and the key is nobody else's."""
    if cert is None and key is None:
        return False
    if cert is None or key is None:
        given, missing = ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        raise InvalidInput(f"{given} is given without {missing}.", hint="give both, or neither")
    for option, path in (("--tls-cert", cert), ("--tls-key", key)):
        if not path.is_file():
            raise InvalidInput(f"{option}: there is no file {path}.")
    if key.stat().st_mode & 0o007:
        raise InvalidInput(f"The key {key} may be read by everybody on this machine.", hint=f"chmod 600 {key}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_refuse_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        what = f"{cert} and {key} do not read as a certificate and its key: {error}."
        raise InvalidInput(what, hint="give PEM files that belong together, the key without a password") from error
    return True


def _refuse_password() -> str:
    raise ValueError("the key has a password")


def _require_host(name: str) -> str:
    """A host name as it stands in URLs, without scheme and port."""
    lowered = name.strip().lower().rstrip(".")
    try:
        plain = lowered.encode("idna").decode()
    except UnicodeError as error:
        raise InvalidInput(f"--name {name[:100]!r} is no host name.", hint="write endcap.example.org") from error
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789.-:")
    if not plain or len(plain) > _MOST_NAME or not set(plain) <= letters or (":" in plain and not _is_address(plain)):
        raise InvalidInput(f"--name {name[:100]!r} is no host name.", hint="write endcap.example.org, without https:// and port")
    return plain


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
