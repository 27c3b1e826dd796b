"""The process: a port taken, the routes on it, an end when it is asked for."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from endcap.assembly import House
from endcap.core.errors import Conflict, InvalidInput
from endcap.faces.http import PORT
from endcap.faces.http.application import build_application
from endcap.faces.http.calls import Calls
from endcap.faces.http.heads import LOOPBACK

GRACE_S = 30
"""How long an end waits for what is being answered. What a verb had not written by then is done again by the next call, as after any kill."""
_UNFINISHED = 8


def serve(
    house: House, *, folder: Path, host: str = "127.0.0.1", port: int = PORT, grace_s: int = GRACE_S, announce: Callable[[str], None] = print
) -> None:
    """Answer requests until SIGTERM or SIGINT. ``announce`` is called with the URL once requests are answered.

    Port 0 is any free one. Raises InvalidInput for a host that is not of this machine alone and for a port that cannot be, Conflict for one that is
    taken. A SIGINT after a signal does not wait for what is being answered.
    """
    with open_socket(host, port) as listening:
        calls = Calls()
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listening.getsockname()[1]}"
        application = build_application(house, folder=folder, calls=calls, announce=lambda: announce(url))
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # what a client says of its own address is not believed
            timeout_graceful_shutdown=grace_s,
        )
        # uvicorn takes the signals over while it runs, and raises those it got once more when it has ended.
        before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if calls.n_running:
                _abandon(calls.n_running)


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises as ``serve``."""
    if host not in LOOPBACK:
        what = f"The host is {host!r}; without sign-in the service answers its own machine only."
        raise InvalidInput(what, hint=f"give --host one of {', '.join(LOOPBACK)}; from elsewhere, use a tunnel (ssh -L)")
    if not 0 <= port <= 65_535:
        raise InvalidInput(f"The port is {port}; ports are 0 (any free one) to 65535.")
    family, address = (socket.AF_INET6, "::1") if host == "::1" else (socket.AF_INET, "127.0.0.1")
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
        found.listen(2048)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"Port {port} of {host} is taken.", hint="another endcap up may run; or give --port 0 for any free one") from error
        raise InvalidInput(f"Port {port} of {host} cannot be had: {error.strerror}.", hint="give another --port, or 0 for any free one") from error
    return found


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _abandon(n_running: int) -> None:
    """Leave threads that still work, at once: the interpreter would wait for them."""
    sys.stderr.write(f"stopped with {n_running} calls unfinished\n")
    sys.stderr.flush()
    os._exit(_UNFINISHED)
