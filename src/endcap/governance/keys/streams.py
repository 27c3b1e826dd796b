"""Long bytes sealed in pieces, of which never more than two are in memory.

The construction STREAM (V. T. Hoang, R. Reyhanitabar, P. Rogaway, D. Vizár: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015) over AES-256-GCM: the nonce of a piece is its number and whether it is the last one, so pieces that were altered,
left out, doubled, exchanged or cut off at the end do not open. A key seals one stream, ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from endcap.core.errors import IntegrityBroken
from endcap.governance.keys.ciphers import TAG_BYTES

PIECE_BYTES = 1 << 20
"""Of the plain bytes; the last piece is shorter, and may be empty."""
HEAD = b"EKS\x01"
_MOST_PIECES = 1 << 32


def seal_stream(key: bytes, chunks: Iterable[bytes], *, bound: bytes) -> Iterator[bytes]:
    """The sealed stream in pieces: a head of 4 bytes, then for each MiB 16 bytes more. ``key`` is for this stream alone."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    yield HEAD
    waiting = b""
    for n, piece in enumerate(chain(cut(chunks, PIECE_BYTES), [None])):
        if n >= _MOST_PIECES:
            raise IntegrityBroken(f"A stream of more than {_MOST_PIECES:,} MiB cannot be sealed as one.", hint="cut it into several files")
        if n:
            yield cipher.encrypt(_nonce(n - 1, last=piece is None), waiting, HEAD + bound)
        elif piece is None:
            yield cipher.encrypt(_nonce(0, last=True), b"", HEAD + bound)
        waiting = piece or b""


class StreamOpener:
    """The pieces of a sealed stream, opened in whatever order. ``bound`` and ``key`` are those that it was sealed with."""

    def __init__(self, key: bytes, *, bound: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher, self._bound = AESGCM(key), HEAD + bound

    def open(self, piece: bytes, n: int, *, last: bool) -> bytes:
        """The plain bytes of the ``n``-th piece behind the head. Raises IntegrityBroken for what is not that piece of the stream."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(_nonce(n, last=last), piece, self._bound)
        except InvalidTag as error:
            raise _broken() from error


def open_stream(key: bytes, chunks: Iterable[bytes], *, bound: bytes) -> Iterator[bytes]:
    """The plain bytes in pieces of a MiB. Raises IntegrityBroken before the first piece that is not what was sealed, or at an early end."""
    opener, rest = StreamOpener(key, bound=bound), iter(cut(chunks, PIECE_BYTES + TAG_BYTES, first=len(HEAD)))
    if next(rest, b"") != HEAD:
        raise _broken()
    piece = next(rest, None)
    n = 0
    while piece is not None:
        following = next(rest, None)
        plain = opener.open(piece, n, last=following is None)
        if plain:
            yield plain
        piece, n = following, n + 1
    if n == 0:
        raise _broken()


def cut(chunks: Iterable[bytes], n_bytes: int, *, first: int | None = None) -> Iterator[bytes]:
    """The same bytes in pieces of ``n_bytes``, the first one of ``first`` (None: like the others), the last one shorter.

    >>> list(cut([b"abc", b"", b"defgh"], 4, first=1))
    [b'a', b'bcde', b'fgh']
    """
    held: list[bytes] = []
    size, wanted = 0, n_bytes if first is None else first
    for chunk in chunks:
        rest = memoryview(chunk)
        while size + len(rest) >= wanted:
            taken, rest = rest[: wanted - size], rest[wanted - size :]
            yield b"".join((*held, taken))
            held.clear()
            size, wanted = 0, n_bytes
        if rest:
            held.append(bytes(rest))
            size += len(rest)
    if held:
        yield b"".join(held)


def _nonce(n: int, *, last: bool) -> bytes:
    return bytes(7) + n.to_bytes(4) + bytes([last])


def _broken() -> IntegrityBroken:
    return IntegrityBroken(
        "A sealed file does not open: pieces of it were altered, cut off or exchanged, or it was sealed under another key.",
        hint="restore it from a backup",
    )
