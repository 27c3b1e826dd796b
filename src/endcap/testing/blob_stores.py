"""Contract suites of blob stores; see ``endcap.testing.stores`` for how a back end is tested by them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.storage.ports import Ports
from endcap.testing.stores import in_threads


class BlobStoreContract:
    """Blobs: bytes under their own SHA-256."""

    @pytest.mark.parametrize("payload", [b"", b"\x00\xff", b"abc", bytes(range(256)) * 5000])
    def test_bytes_come_back_under_their_sha256(self, ports: Ports, payload: bytes) -> None:
        import hashlib

        digest = ports.blobs.put(payload)
        assert digest == hashlib.sha256(payload).hexdigest()
        assert ports.blobs.has(digest)
        assert ports.blobs.get(digest) == payload

    def test_putting_twice_changes_nothing(self, ports: Ports) -> None:
        assert ports.blobs.put(b"abc") == ports.blobs.put(b"abc")
        assert ports.blobs.get(ports.blobs.put(b"abc")) == b"abc"

    def test_bytes_that_the_caller_changes_later_stay(self, ports: Ports) -> None:
        payload = bytearray(b"abc")
        digest = ports.blobs.put(payload)  # type: ignore[arg-type]  # a bytearray passes for bytes at run time
        payload[0] = 0
        assert ports.blobs.get(digest) == b"abc"

    @pytest.mark.parametrize("digest", ["0" * 64, "", "..", "../records.sqlite", "A" * 64, "0" * 63, "\x00" * 64, "\ud800"])
    def test_a_digest_that_names_nothing_is_not_found(self, ports: Ports, digest: str) -> None:
        assert not ports.blobs.has(digest)
        with pytest.raises(NotFound, match="No bytes are kept"):
            ports.blobs.get(digest)

    def test_many_may_put_the_same_bytes_at_once(self, ports: Ports) -> None:
        payload = b"shelf" * 20_000
        digests = in_threads(lambda _: ports.blobs.put(payload))
        assert len(set(digests)) == 1
        assert ports.blobs.get(digests[0]) == payload

    @pytest.mark.parametrize("chunks", [[], [b""], [b"abc"], [b"a", b"", b"bc"], [bytes(range(256))] * 5000])
    @pytest.mark.parametrize("n_bytes", [1000, 1 << 20])
    def test_a_stream_is_kept_as_its_bytes_would_be(self, ports: Ports, chunks: list[bytes], n_bytes: int) -> None:
        import hashlib

        whole = b"".join(chunks)
        assert ports.blobs.put_stream(iter(chunks)) == (hashlib.sha256(whole).hexdigest(), len(whole))
        digest = ports.blobs.put(whole)
        assert ports.blobs.get(digest) == whole
        read = list(ports.blobs.read_chunks(digest, n_bytes=n_bytes))
        assert b"".join(read) == whole
        assert all(0 < len(piece) <= n_bytes for piece in read)

    def test_a_stream_that_breaks_off_or_is_too_long_leaves_nothing(self, ports: Ports) -> None:
        import hashlib

        def break_off() -> Iterator[bytes]:
            yield b"abc"
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            ports.blobs.put_stream(break_off())
        with pytest.raises(InvalidInput, match="longer than 5 bytes"):
            ports.blobs.put_stream([b"abc", b"def"], most_bytes=5)
        assert not any(ports.blobs.has(hashlib.sha256(kept).hexdigest()) for kept in (b"", b"abc", b"abcdef", b"abcde"))
        assert ports.blobs.put_stream([b"abc", b"de"], most_bytes=5)[1] == 5

    def test_pieces_of_what_is_not_there_are_not_found_at_once(self, ports: Ports) -> None:
        with pytest.raises(NotFound, match="No bytes are kept"):
            ports.blobs.read_chunks("0" * 64)
        with pytest.raises(InvalidInput, match="1 or more"):
            ports.blobs.read_chunks(ports.blobs.put(b"abc"), n_bytes=0)

    def test_many_may_send_the_same_stream_at_once(self, ports: Ports) -> None:
        sent = in_threads(lambda _: ports.blobs.put_stream([b"shelf"] * 1000))
        assert len(set(sent)) == 1
        assert b"".join(ports.blobs.read_chunks(sent[0][0])) == b"shelf" * 1000
