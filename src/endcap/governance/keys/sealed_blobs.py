"""The blob store as a session sees it: what is declared to be encrypted lies sealed in it, and is read as if it did not.

A sealed blob is kept under the SHA-256 of its sealed bytes, as any other, so that backups and restores check it without a key. A record of the
workspace leads there from the SHA-256 of the plain bytes, which is what everybody records and what is checked when they are read, and holds
the file's own key, sealed: equal files of two workspaces have nothing in common, and keys rotate without a byte of a file being touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from endcap.core.errors import Conflict, IntegrityBroken, InvalidInput, NotFound
from endcap.governance.keys.ciphers import KEY_BYTES
from endcap.governance.keys.data_keys import is_gone, open_newest
from endcap.governance.keys.envelopes import read_key_id, seal, unseal
from endcap.governance.keys.records import SEALED_BLOBS, SealedBlob
from endcap.governance.keys.resealing import SealedKind
from endcap.governance.keys.sealings import is_sealing
from endcap.governance.keys.streams import cut, open_stream, seal_stream
from endcap.governance.sessions import Change, Session
from endcap.storage.ports import CHUNK_BYTES, BlobStore, changed_bytes, missing_bytes, require_chunk_bytes, too_many_bytes
from endcap.storage.wrapped import WrappedBlobs

SEALED_FILES = SealedKind(SEALED_BLOBS, ("key",), lambda blob, _: about_blob(blob.id))
_BOUND = b"endcap blob"


def about_blob(digest: str) -> str:
    """What the key of a file is bound to."""
    return f"blob/{digest}"


@dataclass(frozen=True)
class SealedBlobs(WrappedBlobs):
    """A ``BlobStore`` before another one, for a session: what is put is sealed where the session or its workspace declares so."""

    session: Session

    def put(self, payload: bytes) -> str:
        if not is_sealing(self.session):
            return self.inner.put(payload)
        digest = hashlib.sha256(payload).hexdigest()
        known = self._find(digest)
        if known is None or not self._stands(known):
            self.put_stream([payload])
        return digest

    def get(self, digest: str) -> bytes:
        try:
            return self.inner.get(digest)
        except NotFound:
            return b"".join(self._open(digest))

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        """See ``BlobStore``. Raises InvalidInput inside a transaction of the same thread, where sealed bytes cannot be put on record."""
        if not is_sealing(self.session):
            return self.inner.put_stream(chunks, most_bytes=most_bytes)
        total, n_bytes, key = hashlib.sha256(), 0, os.urandom(KEY_BYTES)

        def watch() -> Iterator[bytes]:
            nonlocal n_bytes
            for chunk in chunks:
                n_bytes += len(chunk)
                if most_bytes is not None and n_bytes > most_bytes:
                    raise too_many_bytes(most_bytes)
                total.update(chunk)
                yield chunk

        sealed, _ = self.inner.put_stream(seal_stream(key, watch(), bound=_BOUND))
        digest = total.hexdigest()
        self._file(digest, sealed, n_bytes, key)
        return digest, n_bytes

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        require_chunk_bytes(n_bytes)
        try:
            return self.inner.read_chunks(digest, n_bytes=n_bytes)
        except NotFound:
            return cut(self._open(digest), n_bytes)

    def has(self, digest: str) -> bool:
        return self.inner.has(digest) or self.is_sealed(digest)

    def is_sealed(self, digest: str) -> bool:
        """Whether the workspace keeps these bytes sealed. They may lie there in plain besides, put there by others or before."""
        known = self._find(digest)
        return known is not None and self.inner.has(known.sealed)

    def carry(self, digests: Sequence[str]) -> BlobStore:
        """A store of the same that reads these digests and can be sent to another process. It holds the keys of those that are sealed."""
        if not self.session.ports.records.find(SEALED_BLOBS, workspace=self.session.workspace, limit=1):
            return self.inner
        found = {digest: known for digest in dict.fromkeys(digests) if not self.inner.has(digest) and (known := self._find(digest)) is not None}
        if not found:
            return self.inner
        return CarriedBlobs(self.inner, {digest: (blob.sealed, self._unseal(blob)) for digest, blob in found.items()})

    def _find(self, digest: str) -> SealedBlob | None:
        return self.session.ports.records.get(SEALED_BLOBS, workspace=self.session.workspace, id=digest)

    def _open(self, digest: str) -> Iterator[bytes]:
        """The plain bytes in pieces. Raises NotFound at once, IntegrityBroken as ``read_chunks``."""
        known = self._find(digest)
        if known is None:
            raise missing_bytes(digest)
        return _open(self.inner, digest, known.sealed, self._unseal(known))

    def _unseal(self, blob: SealedBlob) -> bytes:
        return unseal(self.session, blob.key, about=about_blob(blob.id))

    def _stands(self, blob: SealedBlob) -> bool:
        """Whether a record still leads to bytes that can be opened."""
        return self.inner.has(blob.sealed) and not is_gone(self.session, read_key_id(blob.key))

    def _file(self, digest: str, sealed: str, n_bytes: int, key: bytes) -> None:
        """Lead from the plain digest to the sealed one. Another's record of the same bytes stands, as long as its bytes do."""
        open_newest(self.session)  # unwrapped before the transaction, as that may take its time
        with self.session.ports.records.transact() as tx:
            found = tx.get_versioned(SEALED_BLOBS, workspace=self.session.workspace, id=digest)
            if found is None or not self._stands(found[0]):
                blob = SealedBlob(digest, sealed, n_bytes, seal(self.session, key, about=about_blob(digest), change=Change(tx)))
                tx.put(SEALED_BLOBS, workspace=self.session.workspace, record=blob, expected_version=found[1] if found else 0)

    def __reduce__(self) -> NoReturn:
        raise InvalidInput("The blobs of a session are not sent to other processes.", hint="send those that carry() gives")


@dataclass(frozen=True)
class CarriedBlobs(WrappedBlobs):
    """Blobs for another process, which reads those that were named and puts none. ``keys`` gives the sealed digest and the key by the plain one."""

    keys: Mapping[str, tuple[str, bytes]]

    def __repr__(self) -> str:
        return f"CarriedBlobs({len(self.keys)} keys)"

    def get(self, digest: str) -> bytes:
        return b"".join(self.read_chunks(digest))

    def read_chunks(self, digest: str, *, n_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        if digest not in self.keys:
            return self.inner.read_chunks(digest, n_bytes=n_bytes)
        return cut(_open(self.inner, digest, *self.keys[digest]), require_chunk_bytes(n_bytes))

    def has(self, digest: str) -> bool:
        return digest in self.keys or self.inner.has(digest)

    def put(self, payload: bytes) -> str:
        raise Conflict("Carried blobs are read, not written.")

    def put_stream(self, chunks: Iterable[bytes], *, most_bytes: int | None = None) -> tuple[str, int]:
        raise Conflict("Carried blobs are read, not written.")


def _open(inner: BlobStore, digest: str, sealed: str, key: bytes) -> Iterator[bytes]:
    """Plain bytes in pieces, the last one only if all of them together are what the digest says."""
    try:
        pieces = open_stream(key, inner.read_chunks(sealed), bound=_BOUND)
    except NotFound as error:
        raise missing_bytes(digest) from error

    def check() -> Iterator[bytes]:
        total, held = hashlib.sha256(), b""
        try:
            for piece in pieces:
                if held:
                    yield held
                total.update(piece)
                held = piece
        except IntegrityBroken as error:
            raise changed_bytes(digest) from error
        if total.hexdigest() != digest:
            raise changed_bytes(digest)
        if held:
            yield held

    return check()
