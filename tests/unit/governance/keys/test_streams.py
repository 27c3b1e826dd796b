from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import IntegrityBroken
from endcap.governance.keys import streams
from endcap.governance.keys.streams import HEAD, PIECE_BYTES, cut, open_stream, seal_stream

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECE_BYTES", 8)


def sealed(plain: bytes, key: bytes = KEY, bound: bytes = b"it") -> list[bytes]:
    return list(seal_stream(key, [plain], bound=bound))


def opened(pieces: list[bytes], bound: bytes = b"it") -> bytes:
    return b"".join(open_stream(KEY, pieces, bound=bound))


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 16, 17, 100])
def test_whatever_length_comes_back(n: int) -> None:
    plain, pieces = bytes(range(n)), sealed(bytes(range(n)))
    assert opened(pieces) == plain
    assert opened([b"".join(pieces)]) == plain
    assert opened([bytes([byte]) for byte in b"".join(pieces)]) == plain, "it need not come as it was cut"
    assert pieces[0] == HEAD
    assert len(pieces) == 1 + max(1, -(-n // 8))


@given(chunks=st.lists(st.binary(max_size=30), max_size=6), n=st.integers(1, 9))
def test_cutting_changes_no_byte(chunks: list[bytes], n: int) -> None:
    pieces = list(cut(chunks, n))
    assert b"".join(pieces) == b"".join(chunks)
    assert all(len(piece) == n for piece in pieces[:-1])


def test_pieces_in_another_order_left_out_doubled_or_cut_off_do_not_open() -> None:
    head, *pieces = sealed(bytes(range(40)))
    a, b, *rest = pieces
    for forged in (
        [head, b, a, *rest],
        [head, a, *rest],
        [head, a, a, b, *rest],
        [head, *pieces[:-1]],
        [head, *pieces, pieces[-1]],
        [head, *pieces[:-1], pieces[-1][:-1]],
        [head, *pieces, b"\x00"],
        [head],
        [],
        pieces,
        [b"EKS\x02", *pieces],
    ):
        with pytest.raises(IntegrityBroken, match="does not open"):
            opened(forged)


def test_pieces_of_another_stream_do_not_open() -> None:
    mine, theirs = sealed(bytes(16)), sealed(bytes(16), key=bytes(32))
    with pytest.raises(IntegrityBroken):
        opened([*mine[:2], theirs[2]])
    with pytest.raises(IntegrityBroken):
        opened(mine, bound=b"other")


@given(data=st.data())
def test_an_altered_bit_anywhere_is_found_before_its_piece_is_given(data: st.DataObject) -> None:
    whole = bytearray(b"".join(sealed(bytes(range(30)))))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    given_: list[bytes] = []
    with pytest.raises(IntegrityBroken):
        given_.extend(open_stream(KEY, [bytes(whole)], bound=b"it"))
    assert bytes(range(30)).startswith(b"".join(given_))


def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECE_BYTES", PIECE_BYTES)

    def source() -> Iterator[bytes]:
        for _ in range(200):
            yield bytes(500_000)

    tracemalloc.start()
    n = sum(map(len, open_stream(KEY, seal_stream(KEY, source(), bound=b""), bound=b"")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 100_000_000
    assert peak < 20_000_000
