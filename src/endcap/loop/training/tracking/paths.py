"""Paths of the files of runs and logged models: the one place that says which are safe."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from endcap.core.errors import InvalidInput

_MOST_CHARACTERS = 1000
_MOST_PART_BYTES = 250  # file systems, where clients put what they fetch, end at 255
_MOST_PARTS = 100
_MOST_ENCODINGS = 5
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")  # file:, C:, http:


def require_path(text: object) -> str:
    """The same path if it is relative, with ``/`` between its parts, and stays where it is put, however often somebody decodes it.

    Raises InvalidInput for what climbs (``..``, also encoded or in other letters of Unicode), absolute paths, drives and schemes, backslashes,
    control characters, empty parts, a part of more than 250 bytes, more than 100 parts and a path of more than 1,000 characters. The error's
    details say ``refused``, by which a face knows what to write into the audit.

    >>> require_path("plots/loss%step%3.png")
    'plots/loss%step%3.png'
    """
    if not isinstance(text, str):
        raise InvalidInput(f"{text!r} is no path of a file: it is no text.")
    why = _object(text)
    if why is not None:
        raise InvalidInput(f"{text[:200]!r} is no path of a file: {why}.", hint="give a relative path such as plots/loss.png", refused="path")
    return text


def _object(text: str) -> str | None:
    """What speaks against a path; None when nothing does."""
    if not text:
        return "it is empty"
    if len(text) > _MOST_CHARACTERS:
        return f"it has {len(text):,} characters, and the most are {_MOST_CHARACTERS:,}"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return "it holds a control character"
    if "\\" in text:
        return "it holds a backslash"
    if text.startswith("/"):
        return "it is absolute"
    if _SCHEME.match(text):
        return "it begins with a drive or a scheme"
    parts = text.split("/")
    if "" in parts:
        return "a part of it is empty"
    if len(parts) > _MOST_PARTS:
        return f"it has {len(parts)} parts, and the most are {_MOST_PARTS}"
    if any(len(part.encode()) > _MOST_PART_BYTES for part in parts):
        return f"a part of it has more than {_MOST_PART_BYTES} bytes"
    return "it climbs out, or hides that it does" if _climbs(text) else None


def _climbs(text: str) -> bool:
    """Whether a path leads elsewhere, as it is or decoded any number of times."""
    n_parts = text.count("/")
    for _ in range(_MOST_ENCODINGS):
        plain = unicodedata.normalize("NFKC", text).replace("\\", "/")
        if any(not part.strip(". ") for part in plain.split("/")) or "\x00" in text or text.count("/") + text.count("\\") != n_parts:
            return True
        decoded = unquote(text, errors="replace")
        if decoded == text:
            return False
        text = decoded
    return True
