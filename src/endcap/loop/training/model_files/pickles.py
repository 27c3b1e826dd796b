"""Pickles under any name: they are found by their bytes, never opened."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import PurePosixPath

ENDINGS = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".mar", ".sav")
"""Names that only serialised objects have."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"x\x01": "zlib",
    b"x\x9c": "zlib",
    b"x\xda": "zlib",
    b"x^": "zlib",
}
_OBJECTS = re.compile(rb"'[|<>=]?O\d*'")
_BEGINNINGS = frozenset(bytes([letter]) for letter in b"(cS]}lIFLVUXGKJMNdt)")
_NEWEST_PROTOCOL = 5
_LOOKED_AT = 1 << 20


def find_pickle(path: str, payload: bytes) -> str | None:
    r"""Why a file is a serialised object, or may hold one unseen; None when it is neither. Nothing in it is run.

    >>> find_pickle("weights.bin", b"\x80\x04N.")
    'its bytes are a pickle'
    >>> find_pickle("conda.yaml", b"channels:\n- conda-forge\n") is None
    True
    """
    name = PurePosixPath(path.lower())
    ending = next((suffix for suffix in name.suffixes if suffix in ENDINGS), None)
    if ending is not None:
        return f"its name ends in {ending}"
    if payload[:1] == b"\x80" and len(payload) > 1 and payload[1] <= _NEWEST_PROTOCOL:
        return "its bytes are a pickle"
    if _is_text_pickle(payload):
        return "its bytes are a pickle of an old protocol"
    packed = next((what for magic, what in _PACKED.items() if payload.startswith(magic)), None)
    if packed is not None:
        return f"it is packed with {packed}, where a pickle would not be seen"
    if payload[257:262] == b"ustar":
        return "it is a tar archive, where a pickle would not be seen"
    if payload[:4] == b"PK\x03\x04" or zipfile.is_zipfile(io.BytesIO(payload)):
        return _find_in_zip(payload)
    if payload.startswith(b"\x93NUMPY") and _OBJECTS.search(payload[:_LOOKED_AT].partition(b"\n")[0]):
        return "its array holds objects"
    return None


def _is_text_pickle(payload: bytes) -> bool:
    """Whether a file begins with a pickle of protocol 0 or 1, whatever follows it. Those begin with any of some letters: the opcodes are followed."""
    if payload[:1] not in _BEGINNINGS:
        return False
    n_opcodes, last = 0, 0
    try:
        for _, _, position in pickletools.genops(io.BytesIO(payload[:_LOOKED_AT])):
            n_opcodes, last = n_opcodes + 1, position or 0
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, KeyError):
        return n_opcodes > 20  # so many in a row are no accident: it goes on behind what was looked at
    return n_opcodes > 2 or len(payload) <= last + 2  # a text such as "N. B." begins with two


def _find_in_zip(payload: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            for entry in archive.infolist():
                if PurePosixPath(entry.filename.lower()).suffix in ENDINGS:
                    return f"it is an archive that holds {entry.filename[:80]!r}"
                if entry.filename != "schema.json":
                    with archive.open(entry) as inner:
                        head = inner.read(262)
                    why = find_pickle("entry", head) if head[:4] != b"PK\x03\x04" else "it is an archive in an archive"
                    if why:
                        return f"it is an archive that holds {entry.filename[:80]!r}: {why}"
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        return f"it is an archive that cannot be looked into: {error}"
    return None
