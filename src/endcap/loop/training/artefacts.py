"""Artefacts: the forms in which a fit rests. LightGBM's text, ONNX, skops with an allow-list, NumPy arrays without objects, JSON."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, InvalidInput, suggest

KINDS = ("arrays", "json", "lightgbm", "onnx", "skops", "attachment")
"""How a file of a version is read. An attachment is kept and handed back, and never read to answer."""


class Artefact(msgspec.Struct, frozen=True):
    """The bytes of one file of a version and how they are to be read."""

    kind: str
    payload: bytes

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"{self.kind!r} is not a kind of artefact. Kinds: {list(KINDS)}.", hint=suggest(self.kind, KINDS))


def encode_arrays(arrays: Mapping[str, NDArray[Any]]) -> Artefact:
    """Named arrays as one artefact. Raises InvalidInput for arrays of objects, which would need code to be read."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InvalidInput(f"The array '{name}' holds objects; an artefact holds numbers and text of fixed width.")
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **arrays)
    return Artefact("arrays", sink.getvalue())


def decode_arrays(artefact: Artefact) -> dict[str, NDArray[Any]]:
    """The named arrays of an artefact. Raises IntegrityBroken for bytes that are none."""
    try:
        found = np.load(io.BytesIO(artefact.payload), allow_pickle=False)
        return {name: found[name] for name in found.files}
    except (ValueError, OSError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:  # AttributeError: one bare array
        raise IntegrityBroken("An artefact of arrays cannot be read.") from error


def encode_json(value: Any) -> Artefact:
    """Plain values as one artefact."""
    return Artefact("json", msgspec.json.encode(value, order="deterministic"))


def decode_json(artefact: Artefact) -> Any:
    """The plain values of an artefact."""
    try:
        return msgspec.json.decode(artefact.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityBroken("An artefact of JSON cannot be read.") from error
