"""What goes over the wire beside a request and its answer: heads of requests may neither be endless nor come drop by drop, and those of answers
go together with what follows them.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from endcap.core.errors import EndcapError, InvalidInput
from endcap.faces.http.answers import encode_error

MOST_HEAD_BYTES = 64 * 2**10
"""The largest head, the URL with it; what arrives together with the last of it is read before that is seen. Tokens and cookies take 4 KiB."""
HEAD_S = 30.0
"""How long a head may take from its first byte."""


_HEAD = b"HTTP/1.1 "


class JoiningTransport:
    """A transport that writes the head of an answer together with the first of its body, so that one packet wakes the client once.

    A body that does not follow within the same turn of the loop is not waited for.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, data: bytes) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._inner.write(held + data)
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            self._inner.write(data)

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._inner.write(held)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it, which keeps whatever comes until a head ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._n_head = 0
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", JoiningTransport(transport, self.loop))

    def on_message_begin(self) -> None:
        self._in_head, self._n_head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        self._n_head += len(data)
        if self._n_head > MOST_HEAD_BYTES:
            hint = "send what is long in the body"
            self._refuse(431, InvalidInput(f"The head of the request is larger than {MOST_HEAD_BYTES // 1024} KiB.", hint=hint))
        elif self._head_timer is None:
            late = InvalidInput(f"The head of the request did not come within {HEAD_S:g} s.", hint="send it again")
            self._head_timer = self.loop.call_later(HEAD_S, self._refuse, 408, late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, error: EndcapError) -> None:
        """Say what is wrong where no other answer is under way, and end the connection."""
        self._end_head()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = encode_error(error)
            reason = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}[status]
            head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, reason, len(body)) + body)
        self.transport.close()
