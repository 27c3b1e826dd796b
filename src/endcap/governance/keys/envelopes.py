"""Envelopes: small things that records hold sealed.

An envelope is ``EK``, the format's version, the id of the data key (12 bytes), a nonce (24), and the sealed bytes with their tag (16): 55 bytes more
than what is in it. Its first 15 bytes are the same 20 characters wherever an envelope is written as base64, so that whatever leans on a data key
is found in records that nobody understands.
"""

from __future__ import annotations

import base64
import binascii

from endcap.core.errors import IntegrityBroken
from endcap.governance.keys.ciphers import NONCE_BYTES, TAG_BYTES, decrypt, encrypt
from endcap.governance.keys.data_keys import ID_BYTES, OpenKey, open_key, open_newest
from endcap.governance.sessions import Change, Session

_MARK = b"EK\x01"
_HEAD = len(_MARK) + ID_BYTES


def seal(session: Session, plain: bytes, *, about: str, change: Change | None = None, key: OpenKey | None = None) -> bytes:
    """Bytes sealed under the data key of the session's workspace that seals, which is made when it is first needed.

    ``about`` is what they belong to, such as ``webhook/ID``: nothing sealed for one thing opens as another's. Inside an open ``session.change`` hand
    in the ``change``: a first key is made in its transaction, and what is sealed lies under the key that seals when it ends. What is sealed before
    the transaction that keeps it is checked in it (``require_sealing``); ``key`` is then the one for many (``open_newest``). Raises NotFound where
    the master key is not at hand. Cost: some 30 us and 1 ns a byte, without ``key`` a read; every five minutes an unwrapping.
    """
    key = key or open_newest(session, change)
    head = _MARK + bytes.fromhex(key.id)
    return head + encrypt(key.envelopes, plain, bound=_bind(head, session.workspace, about))


def unseal(session: Session, sealed: bytes, *, about: str, change: Change | None = None) -> bytes:
    """What was sealed in the session's workspace. Raises IntegrityBroken for what was cut or altered, or was sealed elsewhere or for another thing;
    NotFound where its data key was destroyed, or the master key is not at hand. The messages show neither keys nor what is sealed.
    """
    key = open_key(session, read_key_id(sealed), change)
    return decrypt(key.envelopes, sealed[_HEAD:], bound=_bind(sealed[:_HEAD], session.workspace, about))


def seal_text(session: Session, text: str, *, about: str, change: Change | None = None) -> str:
    """A text sealed, as base64: for a field of a record. See ``seal``."""
    return base64.b64encode(seal(session, text.encode(), about=about, change=change)).decode()


def unseal_text(session: Session, sealed: str, *, about: str, change: Change | None = None) -> str:
    """The text of ``seal_text``. Raises what ``unseal`` raises."""
    try:
        payload = base64.b64decode(sealed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no_envelope() from error
    return unseal(session, payload, about=about, change=change).decode()


def read_key_id(sealed: bytes) -> str:
    """The id of the data key that an envelope names. Raises IntegrityBroken for what is no envelope."""
    if not is_envelope(sealed):
        raise _no_envelope()
    return sealed[len(_MARK) : _HEAD].hex()


def is_envelope(payload: bytes) -> bool:
    """Whether bytes look like an envelope of this format."""
    return payload.startswith(_MARK) and len(payload) >= _HEAD + NONCE_BYTES + TAG_BYTES


def mark_of(key: str) -> bytes:
    """The text by which every envelope under a data key begins where it is written as base64."""
    return base64.b64encode(_MARK + bytes.fromhex(key))


def _bind(head: bytes, workspace: str, about: str) -> bytes:
    return b"%b\n%b\n%b" % (head, workspace.encode(), about.encode("utf-8", "surrogatepass"))


def _no_envelope() -> IntegrityBroken:
    return IntegrityBroken("This is nothing that was sealed here: it was cut or altered.", hint="restore it from a backup")
