"""A server that answers at once: what it fetched once from another it says again from memory, until something is changed through it.

    python benchmarks/at_once.py PORT OTHER_PORT

What a client waits for before it is its own time, and that of the sockets: no server answers sooner.
"""

from __future__ import annotations

import asyncio
import http.client
import sys

_HELD_BACK = frozenset(("transfer-encoding", "content-length", "connection"))
_OURS = frozenset(("host", "connection", "content-length"))


class Replay(asyncio.Protocol):
    """One connection. GETs that were seen are answered from memory; all else goes to the other server first."""

    seen: dict[bytes, bytes]
    other: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, _, rest = self._read.partition(b"\r\n\r\n")
            line, *said = head.split(b"\r\n")
            heads = {name.decode().lower(): value.strip().decode() for name, _, value in (each.partition(b":") for each in said)}
            n_bytes = int(heads.get("content-length", 0))
            if len(rest) < n_bytes:
                return
            self._read = rest[n_bytes:]
            self._transport.write(self._answer(line, heads, rest[:n_bytes]))

    def _answer(self, line: bytes, heads: dict[str, str], body: bytes) -> bytes:
        known = self.seen.get(line)
        if known is not None:
            return known
        method, path, _ = line.decode().split(" ")
        connection = http.client.HTTPConnection("127.0.0.1", self.other)
        try:
            connection.request(method, path, body=body or None, headers={name: value for name, value in heads.items() if name not in _OURS})
            answer = connection.getresponse()
            payload = answer.read()
        finally:
            connection.close()
        told = "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders() if name.lower() not in _HELD_BACK)
        whole = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{told}content-length: {len(payload)}\r\n\r\n".encode() + payload
        if method == "GET":
            self.seen[line] = whole
        else:
            self.seen.clear()
        return whole


async def serve(port: int, other: int) -> None:
    made = type("Connection", (Replay,), {"seen": {}, "other": other})
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
