"""The process: a port taken, the routes on it, an end when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import uvicorn

from endcap.assembly import House
from endcap.core.errors import StorageFull
from endcap.faces.http import PORT
from endcap.faces.http.application import build_application
from endcap.faces.http.calls import Calls
from endcap.faces.http.gateway import Gateway
from endcap.faces.http.heads import LOOPBACK
from endcap.faces.http.listening import open_socket, require_certificate, settle_place, show_url
from endcap.faces.http.rates import Rates, counting
from endcap.faces.http.resealing import resealing
from endcap.faces.http.sessions import SignIn
from endcap.faces.http.sweeping import sweeping
from endcap.faces.http.telling import telling
from endcap.faces.http.wire import BoundedProtocol
from endcap.governance.people import has_users
from endcap.governance.services import note_service
from endcap.governance.setting_up import MadeSetUpCode, make_setup_code

GRACE_S = 30
"""How long an end waits for what is being answered. What a verb had not written by then is done again by the next call, as after any kill."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""What TLS 1.2 may use; 1.3 has its own, all of which are sound."""
_UNFINISHED = 8


def serve(
    house: House,
    *,
    folder: Path,
    host: str = "127.0.0.1",
    port: int = PORT,
    names: Sequence[str] = (),
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: bool = False,
    grace_s: int = GRACE_S,
    announce: Callable[[str], None] = print,
    announce_code: Callable[[MadeSetUpCode], None] = lambda _: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT. ``announce`` is called with the URL once requests are answered.

    Where others reach it and nobody was made a user it lets in who says the set-up code alone, which ``announce_code`` is called with after that.

    Port 0 is any free one. ``names`` are those that clients call it by, beside ``host``. ``tls_cert`` and ``tls_key`` None: no TLS of its own.
    Raises InvalidInput as ``settle_place`` and ``require_certificate`` do, and for a port that cannot be, Conflict for one that is taken. A SIGINT
    after a signal does not wait for what is being answered.
    """
    secure = require_certificate(tls_cert, tls_key)
    place = settle_place(host, names=names, secure=secure, behind_proxy=behind_proxy)
    rates = Rates(near=house.ports.near)
    with open_socket(host, port) as listening, telling(house), resealing(house), sweeping(house), counting(rates):
        calls = Calls()
        url = show_url(host, listening.getsockname()[1], names=names, secure=secure)
        with suppress(StorageFull):  # what reads is answered all the same
            note_service(house.ports.records, url, now=house.clock.now())
        local = host in LOOPBACK and not behind_proxy
        code = None if local or has_users(house.ports.records) else make_setup_code(house.session())
        signing_in = SignIn(house, local=local, behind_proxy=behind_proxy, secure=place.secure)

        def tell() -> None:
            announce(url)
            if code is not None:
                announce_code(code)

        application = build_application(house, folder=folder, calls=calls, place=place, signing_in=signing_in, rates=rates, announce=tell)
        config = _configure(application, grace_s=grace_s, tls_cert=tls_cert, tls_key=tls_key)
        # uvicorn takes the signals over while it runs, and raises those it got once more when it has ended.
        before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if calls.n_running:
                _abandon(calls.n_running)


def _configure(application: Gateway, *, grace_s: int, tls_cert: Path | None, tls_key: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a client says of its own address is not believed
        timeout_graceful_shutdown=grace_s,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        ssl_ciphers=CIPHERS,
    )


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _abandon(n_running: int) -> None:
    """Leave threads that still work, at once: the interpreter would wait for them."""
    sys.stderr.write(f"stopped with {n_running} calls unfinished\n")
    sys.stderr.flush()
    os._exit(_UNFINISHED)
