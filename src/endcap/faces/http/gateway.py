"""Who is let in, and the quick routes before all others.

A page of another site, open in a browser that reaches the service, must not use it: requests are taken by the service's own names alone (a name
that was bound to its address afterwards is refused), never from another origin, and bodies only as ``application/json``, which no form of another
site can send; pages of ours alone take forms, each with what only they know. Then whoever asks is signed in, and only then is a body read. Files of
runs are PUT, and handed on as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from endcap.core.errors import EndcapError, InvalidInput, NotSignedIn, Unreachable
from endcap.core.settings import format_bytes
from endcap.faces.http.answers import RequestRefused, encode_error, encode_result, send_json, status_of, tell_unforeseen
from endcap.faces.http.heads import STREAMED, Head, Place, read_head, require_json, require_place
from endcap.faces.http.mlflow.faults import describe_fault
from endcap.faces.http.prefixes import choose_workspace, split_workspace
from endcap.faces.http.rates import Rates
from endcap.faces.http.sessions import SESSION
from endcap.governance.sessions import Session

MOST_BODY_BYTES = 16 * 2**20
"""The largest body: 10,000 keys of eight columns take about 2 MB, a text of 1 MB in a push stays readable enough to be refused by name."""
_BODY_S = 30.0
_DRAINED_BODIES = 8
MLFLOW = ("/api/2.0/mlflow", "/api/3.0/mlflow")
OPEN = frozenset(("/healthz", "/health"))
"""What anybody may ask who reaches the service: whether it is up."""
UNREAD = frozenset(("/v1/traces",))
"""What clients send in other forms than JSON and nobody here reads: the answer is that it is not offered."""
SET_UP = "/api/v1/setup"
"""What a stranger may send: the set-up code of a home without users."""
_MOST_STRANGE_BYTES = 16 * 2**10
_BODIED = frozenset(("POST", "PUT", "PATCH", "DELETE"))

_STOPPED = Unreachable("The service was stopped before this call had ended.", hint="what it had not written is not done: call again once it is up")

Quick = Callable[[bytes, Session], Awaitable[bytes]]
"""A route from the bytes of a body, and who sent it, to those of an answer."""


class SigningIn(Protocol):
    """Finds out who asks. Both raise RequestRefused for who is not let in."""

    def find_kept(self, head: Head) -> Session | None:
        """The session of someone who signed in a moment ago; None where that is to be found out."""
        ...

    async def sign_in(self, head: Head, scope: Scope) -> Session: ...

    def admit_stranger(self, head: Head, scope: Scope) -> Session:
        """The session of nobody, who may say a set-up code."""
        ...


class Showing(Protocol):
    """Pages, which sign people in and out on their own."""

    def takes(self, path: str) -> bool:
        """Whether a path is that of a page."""
        ...

    async def answer(self, scope: Scope, receive: Receive, send: Send, head: Head) -> None: ...


class Gateway:
    """The ASGI application: lets requests in, reads their bodies, answers ``quick`` paths itself and hands the rest on.

    The session of a request is put into its scope. ``announce`` is called once, when requests are answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        quick: Mapping[str, Quick],
        signing_in: SigningIn,
        *,
        pages: Showing | None = None,
        place: Place | None = None,
        rates: Rates | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._quick = quick
        self._signing_in = signing_in
        self._pages = pages
        self._place = place or Place()
        self._rates = rates
        self._announce = announce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            with suppress(asyncio.CancelledError):  # an end that waits for nothing
                await self._live(receive, send)
            return
        scope, workspace = split_workspace(scope)
        try:
            await self._answer(scope, receive, send, workspace=workspace)
        except RequestRefused as refused:
            await _tell_refused(send, scope["path"], refused)
        except asyncio.CancelledError:  # the service ends and does not wait for it
            with suppress(RuntimeError):  # an answer that had begun is left as it is
                await send_json(send, encode_error(_STOPPED), status=status_of(_STOPPED), headers=((b"connection", b"close"),))

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            self._announce()
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send, *, workspace: bytes | None) -> None:
        method, path, head = scope["method"], scope["path"], read_head(scope["headers"])
        page = self._pages if self._pages is not None and workspace is None and self._pages.takes(path) else None
        require_place(head, self._place, followed=page is not None and method == "GET")
        if page is not None:
            await page.answer(scope, receive, send, head)
            return
        if workspace is not None:
            choose_workspace(head, workspace)
        streamed = method == "PUT" and path.startswith(STREAMED)
        if method in _BODIED and not streamed and path not in UNREAD:
            require_json(head, method=method)
        if path in OPEN and method not in _BODIED and workspace is None:
            await self._app(scope, receive, send)
            return
        if b"cookie" in head and b"authorization" not in head:
            send = _unkept(send)
        strange = path == SET_UP and method == "POST"
        session = (
            self._signing_in.admit_stranger(head, scope) if strange else self._signing_in.find_kept(head) or await self._sign_in(head, scope, send)
        )
        if self._rates is not None:
            await self._rates.require(session)
        scope[SESSION] = session
        if path in self._quick and method != "POST":
            error = InvalidInput(f"{path} takes POST, not {method}.", hint="send it by POST")
            raise RequestRefused(405, error, headers=((b"allow", b"POST"),))
        if streamed or method not in _BODIED:
            await self._app(scope, _watched(receive) if streamed else receive, send)
            return
        body = await read_body(receive, most_bytes=_MOST_STRANGE_BYTES if strange else None)
        if body is None:
            return
        quick = self._quick.get(path)
        if quick is None:
            await self._app(scope, _once(body), send)
            return
        try:
            answer = await quick(body, session)
        except EndcapError as error:
            await send_json(send, encode_error(error), status=status_of(error))
        except Exception as error:
            await send_json(send, encode_error(tell_unforeseen(error)), status=500)
            raise  # uvicorn writes it down
        else:
            await send_json(send, answer)

    async def _sign_in(self, head: Head, scope: Scope, send: Send) -> Session:
        try:
            return await self._signing_in.sign_in(head, scope)
        except RequestRefused:
            raise
        except Exception as error:
            await send_json(send, encode_error(tell_unforeseen(error)), status=500, headers=((b"connection", b"close"),))
            raise  # uvicorn writes it down


async def _tell_refused(send: Send, path: str, refused: RequestRefused) -> None:
    """In the shape that the path's clients read. MLflow's asks again for minutes, unseen, after 429: right for a quota of requests, and not for a
    password, which is wrong at once.
    """
    if not path.startswith(MLFLOW):
        await send_json(send, encode_error(refused.error), status=refused.status, headers=refused.headers)
        return
    status = 401 if refused.status == 429 and isinstance(refused.error, NotSignedIn) else refused.status
    await send_json(send, encode_result(describe_fault(refused.error)), status=status, headers=refused.headers)


async def read_body(receive: Receive, *, most_bytes: int | None = None) -> bytes | None:
    """The whole body; None when the client went away. Raises RequestRefused when it is too large (413) or does not come (408).

    ``most_bytes`` None is the 16 MiB that somebody who is signed in may send. What is too large is still read, to a bound, and thrown away: a client
    that sends reads the answer only after it has sent.
    """
    most = MOST_BODY_BYTES if most_bytes is None else most_bytes
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
                if n_bytes <= most:
                    chunks.append(chunk)
                elif chunks:
                    chunks.clear()
                if not message.get("more_body", False) or n_bytes > _DRAINED_BODIES * most:
                    break
    except TimeoutError as error:
        raise RequestRefused(408, InvalidInput(f"The body did not come within {_BODY_S:g} s.", hint="send it again")) from error
    if n_bytes > most:
        what = f"The body is larger than {format_bytes(most)}."
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


def _unkept(send: Send) -> Send:
    """A channel for what a cookie opened: whoever uses the browser after a sign-out does not find it there."""

    async def send_unkept(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"cache-control", b"no-store")]}
        await send(message)

    return send_unkept


def _watched(receive: Receive) -> Receive:
    """A channel of a body that is handed on as it comes: whoever sends nothing for 30 s within it counts as gone."""
    whole = False

    async def receive_part() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(_BODY_S):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = not message.get("more_body", False)
        return message

    return receive_part
