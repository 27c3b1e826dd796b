"""Online rows of views with personal columns: each lies under the key of whom it is about, and a key that is personal under a pseudonym.

A sealed row keeps its stamp, so that stores tell the newer one as ever; behind it stand the name of the subject (16 bytes), a nonce (12) and the rest
of the row, sealed by AES-256-GCM with the stamp, the space and the key that it stands under bound to it. A row whose key was destroyed is as if it
were not there. Cost: some 10 us more a row than one that is not sealed, and the subjects' keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from endcap.core.errors import Conflict, IntegrityBroken
from endcap.governance.keys.data_keys import KEPT_OPEN
from endcap.governance.privacy.subjects import NOBODY, REF_BYTES, Subjects
from endcap.governance.sessions import Session
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import ViewVersion
from endcap.storage.ports import STAMP_BYTES, OnlineStore

if TYPE_CHECKING:
    from endcap.loop.features.online_rows import RowCodec

_NONCE, _LENGTH = 12, 2
_TRIES = 5
_HEAD = STAMP_BYTES + REF_BYTES + _NONCE


@dataclass(frozen=True)
class Seat:
    """How the rows of one space are sealed: the codec that packs them, the column that says whose each is (None: nobody can tell) and what such
    subjects are called, and whether keys are personal, too.
    """

    codec: RowCodec
    subject: str | None
    kind: str
    hidden: bool

    def name_subjects(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> list[str | None]:
        """Of each row the value that names its subject, as text."""
        import pyarrow as pa

        from endcap.governance.privacy.sealing import as_texts

        if self.subject is None or not keys:
            return [None] * len(keys)
        if self.subject in self.codec.keys:
            values: list[Any] = self.codec.decode_keys(keys)[list(self.codec.keys).index(self.subject)]
        else:
            values = self.codec.decode_rows(rows).values[list(self.codec.features).index(self.subject)]
        return as_texts(pa.array(values))


class SealedOnline:
    """An ``OnlineStore`` before another one. Spaces without a seat pass through."""

    def __init__(self, session: Session, inner: OnlineStore, seats: Mapping[str, Seat]) -> None:
        self._session, self._inner, self._seats = session, inner, dict(seats)
        self._named = Subjects(session), session.now()

    @property
    def _subjects(self) -> Subjects:
        """The subjects, whose pepper is looked at anew after some minutes: it may have been lost since."""
        known, since = self._named
        now = self._session.now()
        if abs(now - since) < KEPT_OPEN:
            return known
        self._named = fresh, _ = Subjects(self._session), now
        return fresh

    @property
    def n_rows_at_once(self) -> int:
        return self._inner.n_rows_at_once

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """See ``OnlineStore``. Rows of subjects who were forgotten are passed over."""
        seat = self._seats.get(space)
        if seat is None or not keys:
            return self._inner.write(space, keys=keys, rows=rows)
        for _ in range(_TRIES):
            try:
                sealed = self._seal(space, seat, keys, rows)
            except Conflict:
                if self._subjects.stands():
                    raise
            else:
                if self._subjects.stands():
                    return self._inner.write(space, keys=sealed[0], rows=sealed[1])
            self._named = Subjects(self._session), self._session.now()  # what names lead to was lost meanwhile
        raise Conflict(f"The keys of subjects were lost {_TRIES} times while rows of '{space}' were sealed.", hint="give the same command again")

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        places = [(space, self._hide(space, keys)) for space, keys in requests]
        found = self._inner.read(places)
        return [self._open(space, own, rows) if space in self._seats else rows for (space, own), rows in zip(places, found, strict=True)]

    def get(self, space: str, key: bytes) -> bytes | None:
        if space not in self._seats:
            return self._inner.get(space, key)
        place = self._hide(space, [key])
        return self._open(space, place, [self._inner.get(space, *place)])[0]

    def sample(self, space: str, n: int) -> list[tuple[bytes, bytes]]:
        """See ``OnlineStore``. Rows whose key was destroyed are not among them, so there may be fewer."""
        drawn = self._inner.sample(space, n)
        if space not in self._seats:
            return drawn
        return [(key, row) for key, row in self._unseal(space, [key for key, _ in drawn], [row for _, row in drawn]) if row is not None]

    def remove(self, space: str, keys: Sequence[bytes]) -> int:
        return self._inner.remove(space, self._hide(space, keys))

    def count(self, space: str) -> int:
        return self._inner.count(space)

    def drop(self, space: str) -> None:
        self._inner.drop(space)

    def spaces(self) -> list[str]:
        return self._inner.spaces()

    def close(self) -> None:
        self._inner.close()

    def _seal(self, space: str, seat: Seat, keys: Sequence[bytes], rows: Sequence[bytes]) -> tuple[Sequence[bytes], list[bytes]]:
        """The places and the sealed rows of those whose subjects were not forgotten."""
        refs = self._name(seat, keys, rows)
        known = self._subjects.obtain(set(refs))
        self._subjects.note_kind(seat.kind)
        nonces = os.urandom(_NONCE * len(keys))
        cuts = pairwise(range(0, _NONCE * len(keys) + 1, _NONCE))
        own = [(key, row, ref, nonces[a:b]) for key, row, ref, (a, b) in zip(keys, rows, refs, cuts, strict=True) if ref in known]
        ciphers, places = _make_ciphers(known), self._hide(space, [key for key, *_ in own])
        sealed = []
        for place, (key, row, ref, nonce) in zip(places, own, strict=True):
            stamp, rest = row[:STAMP_BYTES], row[STAMP_BYTES:]
            plain = len(key).to_bytes(_LENGTH, "big") + key + rest if seat.hidden else rest
            sealed.append(stamp + ref + nonce + ciphers[ref].encrypt(nonce, plain, _bind(stamp, place, space)))
        return places, sealed

    def _name(self, seat: Seat, keys: Sequence[bytes], rows: Sequence[bytes]) -> list[bytes]:
        texts = seat.name_subjects(keys, rows)
        named = dict.fromkeys(texts)
        told = dict(zip(named, self._subjects.name(seat.kind if seat.subject is not None else NOBODY[0], named), strict=True))
        return [told[text] for text in texts]

    def _hide(self, space: str, keys: Sequence[bytes]) -> Sequence[bytes]:
        seat = self._seats.get(space)
        return self._subjects.pseudonyms(space, keys) if seat is not None and seat.hidden else keys

    def _open(self, space: str, places: Sequence[bytes], rows: Sequence[bytes | None]) -> list[bytes | None]:
        return [row for _, row in self._unseal(space, places, rows)]

    def _unseal(self, space: str, places: Sequence[bytes], rows: Sequence[bytes | None]) -> Iterator[tuple[bytes, bytes | None]]:
        """The rows of some places as they were packed, each with its key as it is; None for no row, and for one whose key was destroyed."""
        from cryptography.exceptions import InvalidTag

        seat = self._seats[space]
        ciphers = _make_ciphers(self._subjects.find({row[STAMP_BYTES : STAMP_BYTES + REF_BYTES] for row in rows if row is not None}))
        for place, row in zip(places, rows, strict=True):
            cipher = ciphers.get(row[STAMP_BYTES : STAMP_BYTES + REF_BYTES]) if row is not None else None
            if row is None or cipher is None:
                yield place, None
                continue
            stamp = row[:STAMP_BYTES]
            try:
                plain = cipher.decrypt(row[STAMP_BYTES + REF_BYTES : _HEAD], row[_HEAD:], _bind(stamp, place, space))
            except InvalidTag as error:
                raise IntegrityBroken(
                    f"A row of the online space '{space}' does not open: it was altered, or stood elsewhere.",
                    hint="materialise the view again: endcap features materialise",
                ) from error
            if not seat.hidden:
                yield place, stamp + plain
                continue
            start = _LENGTH + int.from_bytes(plain[:_LENGTH], "big")
            yield plain[_LENGTH:start], stamp + plain[start:]


def open_store(session: Session, versions: Iterable[ViewVersion]) -> OnlineStore:
    """The online store for rows of versions of views: as it is where none has a personal column."""
    from endcap.loop.features.online import make_codec, name_space

    seats = {}
    for version in versions:
        marks = find_marks(version.view)
        if not marks:
            continue
        chosen = next((mark for mark in marks.values() if mark.subject is not None), next(iter(marks.values())))
        hidden = any(key in marks for key in version.key_types)
        seats[name_space(session, version)] = Seat(make_codec(version), chosen.subject, chosen.kind, hidden)
    return SealedOnline(session, session.online, seats) if seats else session.online


def _bind(stamp: bytes, place: bytes, space: str) -> bytes:
    return b"%b%b%b%b" % (stamp, len(place).to_bytes(4), place, space.encode())


def _make_ciphers(keys: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return {ref: AESGCM(key) for ref, key in keys.items()}
