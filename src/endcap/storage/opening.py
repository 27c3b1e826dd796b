"""From a URL to open ports. The one module, beside the test kit, that knows the back ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from endcap.core.errors import InvalidInput, suggest
from endcap.core.settings import hide_password
from endcap.storage.ports import Ports

SCHEMES = ("file", "memory", "postgresql")


def open_ports(url: str | Path, *, online: str | None = None) -> Ports:
    """Open a home: a folder (path or ``file://``), made if it is not there, ``memory://`` for a home that ends with the process, or
    ``postgresql://USER:PASSWORD@HOST:5432/DATABASE?schema=endcap&files=/shared/folder`` for one that several machines share.

    ``online`` is the URL of the server that keeps online rows, ``redis://HOST:PORT/DB``; None: the home keeps them itself. Neither is touched
    before the first online row is asked for or written. Raises InvalidInput for another scheme, an empty path or one that is no folder,
    Unreachable for a server that does not answer.
    """
    text = str(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "file", text
    if not text.strip() or text.strip() == "file://":
        raise InvalidInput(f"The home is {text!r}, which names no folder.", hint="give a folder; it is made if it is not there")
    if scheme == "memory":
        from endcap.storage.backends.memory import open_memory

        return _with_online(open_memory(), online)
    if scheme == "file":
        from endcap.storage.backends.embedded import open_embedded

        return _with_online(open_embedded(Path(rest)), online)
    if scheme == "postgresql":
        from endcap.storage.backends.postgres import open_postgres

        return _with_online(open_postgres(text), online)
    raise InvalidInput(f"{hide_password(text)} names no back end. Schemes: {list(SCHEMES)}.", hint=suggest(scheme, SCHEMES) or "give a folder")


def _with_online(ports: Ports, url: str | None) -> Ports:
    if url is None:
        return ports
    from endcap.storage.backends.online_redis import RedisOnline

    return replace(ports, online=RedisOnline(url))
