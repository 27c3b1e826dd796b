"""Who is let in, and the quick routes before all others.

The service answers its own machine only, as its owner. A page of another site, open in a browser of that machine, must not reach it: requests are
taken by loopback names alone (a name that was bound to 127.0.0.1 afterwards is refused), never from another origin, and POST only as
``application/json``, which no form of another site can send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from endcap.core.errors import EndcapError, InvalidInput, PermissionDenied, Unreachable
from endcap.faces.http.answers import RequestRefused, encode_error, send_json, status_of, tell_unforeseen

MOST_BODY_BYTES = 16 * 2**20
"""The largest body: 10,000 keys of eight columns take about 2 MB, a text of 1 MB in a push stays readable enough to be refused by name."""
_BODY_S = 30.0
_DRAINED_BODIES = 8
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_STOPPED = Unreachable("The service was stopped before this call had ended.", hint="what it had not written is not done: call again once it is up")

Quick = Callable[[bytes], Awaitable[bytes]]
"""A route from the bytes of a body to those of an answer."""


class Gateway:
    """The ASGI application: lets requests in, reads their bodies, answers ``quick`` paths itself and hands the rest on.

    ``announce`` is called once, when requests are answered.
    """

    def __init__(self, app: ASGIApp, quick: Mapping[str, Quick], announce: Callable[[], None] = lambda: None) -> None:
        self._app = app
        self._quick = quick
        self._announce = announce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            with suppress(asyncio.CancelledError):  # an end that waits for nothing
                await self._live(receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except RequestRefused as refused:
            await send_json(send, encode_error(refused.error), status=refused.status, headers=refused.headers)
        except asyncio.CancelledError:  # the service ends and does not wait for it
            with suppress(RuntimeError):  # an answer that had begun is left as it is
                await send_json(send, encode_error(_STOPPED), status=status_of(_STOPPED), headers=((b"connection", b"close"),))

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            self._announce()
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        require_local(scope)
        if scope["method"] != "POST":
            if scope["path"] in self._quick:
                error = InvalidInput(f"{scope['path']} takes POST, not {scope['method']}.", hint="send it by POST")
                raise RequestRefused(405, error, headers=((b"allow", b"POST"),))
            await self._app(scope, receive, send)
            return
        body = await read_body(receive)
        if body is None:
            return
        quick = self._quick.get(scope["path"])
        if quick is None:
            await self._app(scope, _once(body), send)
            return
        try:
            answer = await quick(body)
        except EndcapError as error:
            await send_json(send, encode_error(error), status=status_of(error))
        except Exception as error:
            await send_json(send, encode_error(tell_unforeseen(error)), status=500)
            raise  # uvicorn writes it down
        else:
            await send_json(send, answer)


def require_local(scope: Scope) -> None:
    """Raise RequestRefused unless the request comes by a loopback name, from no other site, and a POST as JSON."""
    host = origin = site = content_type = encoding = None
    for name, value in scope["headers"]:
        if name == b"host":
            if host is not None:
                raise _forbidden("The request names two hosts.")
            host = value
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
        elif name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = value
    if host is None or _hostname(host.decode("latin-1")) not in LOOPBACK:
        raise _forbidden(f"The request came for the host {_shown(host)}; this service answers its own machine only.")
    if origin is not None and origin.lower() != b"http://" + host.lower():
        raise _forbidden(f"The request came from the site {_shown(origin)}.")
    if site not in (None, b"none", b"same-origin"):
        raise _forbidden(f"The request came from another site ({_shown(site)}).")
    if scope["method"] == "POST":
        if not _is_json(content_type):
            what = f"The body is {_shown(content_type)}; it must be application/json."
            raise RequestRefused(415, InvalidInput(what, hint="send the header Content-Type: application/json"))
        if encoding not in (None, b"identity"):
            raise RequestRefused(415, InvalidInput(f"The body is encoded as {_shown(encoding)}.", hint="send it as it is"))


def _hostname(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_json(content_type: bytes | None) -> bool:
    if content_type == b"application/json":
        return True
    kind, _, rest = (content_type or b"").lower().partition(b";")
    return kind.strip() == b"application/json" and rest.strip() in (b"", b"charset=utf-8", b'charset="utf-8"')


def _shown(value: bytes | None) -> str:
    return "not named" if value is None else repr(value[:200].decode("latin-1"))


def _forbidden(what: str) -> RequestRefused:
    return RequestRefused(403, PermissionDenied(what, hint="call it from this machine, as http://127.0.0.1:PORT or http://localhost:PORT"))


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went away. Raises RequestRefused when it is too large (413) or does not come (408).

    What is too large is still read, to a bound, and thrown away: a client that sends reads the answer only after it has sent.
    """
    chunks: list[bytes] = []
    n_bytes = 0
    try:
        async with asyncio.timeout(_BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                n_bytes += len(chunk)
                if n_bytes <= MOST_BODY_BYTES:
                    chunks.append(chunk)
                elif chunks:
                    chunks.clear()
                if not message.get("more_body", False) or n_bytes > _DRAINED_BODIES * MOST_BODY_BYTES:
                    break
    except TimeoutError as error:
        raise RequestRefused(408, InvalidInput(f"The body did not come within {_BODY_S:g} s.", hint="send it again")) from error
    if n_bytes > MOST_BODY_BYTES:
        what = f"The body is larger than {MOST_BODY_BYTES // 2**20} MiB."
        raise RequestRefused(413, InvalidInput(what, hint="send it in parts"))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _once(body: bytes) -> Receive:
    """A channel that gives a body already read, and then waits as long as the request is answered."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    return receive
