"""The head of an answer goes over the wire with what follows it at once, and waits for nothing else."""

import asyncio
import socket
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from endcap.faces.http.wire import BoundedProtocol, JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Wire:
    """A transport that remembers what it was handed, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.closed_after = len(self.pieces)

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


class _Told:
    """A transport before another one, that notes each piece."""

    def __init__(self, inner: Any, pieces: list[bytes]) -> None:
        self._inner = inner
        self._pieces = pieces

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._inner.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def join(wire: Wire) -> Any:
    return JoiningTransport(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def turn_over() -> None:
    await asyncio.sleep(0)


def test_a_head_goes_with_the_body_that_follows_at_once(wire: Wire) -> None:
    async def answer() -> None:
        joined = join(wire)
        joined.write(HEAD)
        joined.write(b"{}")
        await turn_over()

    asyncio.run(answer())
    assert wire.pieces == [HEAD + b"{}"]


def test_a_head_does_not_wait_for_a_body_that_comes_later(wire: Wire) -> None:
    async def answer() -> None:
        joined = join(wire)
        joined.write(HEAD)
        await turn_over()
        assert wire.pieces == [HEAD]
        joined.write(b"{}")
        joined.write(b"more")

    asyncio.run(answer())
    assert wire.pieces == [HEAD, b"{}", b"more"]


def test_two_answers_to_one_packet_keep_their_order(wire: Wire) -> None:
    async def answer() -> None:
        joined = join(wire)
        for body in (b"{}", b"[]"):
            joined.write(HEAD)
            joined.write(body)
        joined.write(HEAD)
        await turn_over()

    asyncio.run(answer())
    assert wire.pieces == [HEAD + b"{}", HEAD + b"[]", HEAD]


def test_a_head_is_written_before_the_end(wire: Wire) -> None:
    async def answer() -> None:
        joined = join(wire)
        joined.write(HEAD)
        joined.close()
        await turn_over()

    asyncio.run(answer())
    assert wire.pieces == [HEAD]
    assert wire.closed_after == 1


def test_the_protocol_of_the_service_answers_in_one_piece() -> None:
    """By uvicorn's own writing of head and body, through the sockets of the machine."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask() -> list[bytes]:
        pieces: list[bytes] = []
        config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
        config.load()
        near, far = socket.socketpair()

        class Watching(BoundedProtocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
                super().connection_made(cast("asyncio.Transport", _Told(transport, pieces)))

        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: Watching(config, uvicorn.server.ServerState(), {}), near)
        far.setblocking(False)
        await loop.sock_sendall(far, b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
        assert (await asyncio.wait_for(loop.sock_recv(far, 65_536), 30)).endswith(b"\r\n\r\n{}")
        far.close()
        return pieces

    assert len(asyncio.run(ask())) == 1


def test_all_else_is_what_the_transport_does(wire: Wire) -> None:
    async def ask() -> str:
        return str(join(wire).get_extra_info("peername"))

    assert asyncio.run(ask()) == "the peername"
