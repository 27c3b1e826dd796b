"""The read that must answer within a millisecond: ``features online``, without a thread and without looking the views up each time."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import msgspec

from endcap.core.settings import Settings
from endcap.faces.http.answers import encode_result
from endcap.faces.http.calls import Calls
from endcap.faces.http.remote import RemoteVerb
from endcap.governance.rights.checks import stamp_standing
from endcap.governance.sessions import Session
from endcap.loop.features.online import OnlineReader, note_reading, open_online

READER_S = 1.0
"""How long a reader is kept: by then a version that has become the standing one is seen."""
_MOST_READERS = 256
_FEW_KEYS = 200  # more take over two milliseconds, in which nobody else would be answered


class OnlineReads:
    """Answers ``features online``. Readers are kept for a second, by who asks for which views, and what rights leave of them."""

    def __init__(self, settings: Settings, remote: RemoteVerb, calls: Calls) -> None:
        self._remote = remote
        self._calls = calls
        self._decode = msgspec.json.Decoder(remote.parameters).decode
        self._readers: dict[tuple[Any, ...], tuple[float, OnlineReader]] = {}
        self._near = settings.online is None  # else a round trip to a server, in which others are answered

    async def answer(self, body: bytes, session: Session) -> bytes:
        """The answer to a body, as the verb gives it. Raises what the verb raises."""
        session.require(self._remote.verb.permission, verb=self._remote.verb.name)
        try:
            asked: Any = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            asked = self._remote.parse_body(body)  # says what is wrong with it
        n_keys = max(map(len, asked.keys.values()), default=0)
        if self._near and n_keys <= _FEW_KEYS:
            return encode_result(self._open(session, asked.views, asked.purpose).answer(asked.keys))
        return await self._calls.run(lambda: encode_result(self._open(session, asked.views, asked.purpose).answer(asked.keys)))

    def _open(self, session: Session, views: Sequence[str], purpose: str | None = None) -> OnlineReader:
        if any("/" in name for name in views):
            reader = open_online(session, views, purpose=purpose)  # what is shared may be taken back at any moment
            note_reading(session, reader)
            return reader
        asker = (session.workspace, session.holder.name, session.role, session.admin, stamp_standing(session))
        now, wanted = monotonic(), (*asker, purpose, tuple(views))
        kept = self._readers.get(wanted)
        if kept is not None and now - kept[0] < READER_S:
            note_reading(session, kept[1])
            return kept[1]
        reader = open_online(session, views, purpose=purpose)
        note_reading(session, reader)
        if len(self._readers) >= _MOST_READERS:
            self._readers.clear()
        self._readers[wanted] = (now, reader)
        return reader
