"""Answers: a result or an error as JSON, and the messages of ASGI that carry it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import Send

from endcap.core.errors import EndcapError
from endcap.faces.codes import HTTP_STATUSES

JSON = (b"content-type", b"application/json")
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_result(result: Any) -> bytes:
    """A result as the command line's ``--json`` prints it."""
    return _encoder.encode(result)


def encode_error(error: EndcapError) -> bytes:
    """The one JSON shape of an error."""
    return _encoder.encode(error.to_dict())


def status_of(error: EndcapError) -> int:
    return HTTP_STATUSES[error.code]


def tell_retry(error: EndcapError) -> tuple[tuple[bytes, bytes], ...]:
    """The header that says when to ask again, of an error that knows."""
    seconds = error.details.get("retry_after_s")
    return ((b"retry-after", b"%d" % seconds),) if isinstance(seconds, int) else ()


async def send_json(send: Send, body: bytes, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """A whole answer."""
    told = [JSON, (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


class RequestRefused(Exception):
    """A request that reaches no verb: an error of the house with a status of its own.

    By default the connection ends with the answer, as the rest of the request was not read.
    """

    def __init__(self, status: int, error: EndcapError, *, headers: tuple[tuple[bytes, bytes], ...] = ((b"connection", b"close"),)) -> None:
        super().__init__(error.what)
        self.status = status
        self.error = error
        self.headers = headers


def tell_unforeseen(error: Exception) -> EndcapError:
    """What a client is told of an error that nobody foresaw: its kind, not its text, which might hold anything."""
    return EndcapError(f"The service failed: {type(error).__name__}.", hint="its log holds the whole error; please report it")
