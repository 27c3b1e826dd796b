"""Arrays as compressed bytes: the form in which pieces of a panel rest. LZ4, since they are read far more often than written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import IntegrityBroken, InvalidInput

_LENGTH = 4


class _Piece(msgspec.Struct):
    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Named arrays of numbers or flags as bytes; flags take a bit each. One pass over the arrays. Raises InvalidInput for arrays of objects."""
    import pyarrow as pa

    pieces, bodies = [], []
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise InvalidInput(f"The array '{name}' holds objects; only numbers and text of fixed width are packed.")
        plain = np.packbits(array) if array.dtype == np.bool_ else np.ascontiguousarray(array)
        body = pa.compress(plain.tobytes(), codec="lz4", asbytes=True) if plain.nbytes else b""
        pieces.append(_Piece(name, array.dtype.str, array.shape, len(body)))
        bodies.append(body)
    head = msgspec.json.encode(pieces)
    return b"".join([len(head).to_bytes(_LENGTH, "little"), head, *bodies])


def unpack_arrays(payload: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of ``pack_arrays``, each its own memory. Raises IntegrityBroken for bytes that are none."""
    import pyarrow as pa

    found: dict[str, NDArray[Any]] = {}
    try:
        n_head = int.from_bytes(payload[:_LENGTH], "little")
        at = _LENGTH + n_head
        for piece in msgspec.json.decode(payload[_LENGTH:at], type=list[_Piece]):
            dtype, n = np.dtype(piece.dtype), int(np.prod(piece.shape, dtype=np.int64))
            flags = dtype == np.bool_
            n_plain = -(-n // 8) if flags else n * dtype.itemsize
            plain = pa.decompress(memoryview(payload)[at : at + piece.n_bytes], n_plain, codec="lz4") if n_plain else b""
            at += piece.n_bytes
            values = np.frombuffer(plain, dtype=np.uint8 if flags else dtype)
            found[piece.name] = (np.unpackbits(values, count=n).view(np.bool_) if flags else values).reshape(piece.shape)
        if at != len(payload):
            raise ValueError("bytes are left over")
    except (ValueError, TypeError, OSError, pa.ArrowException, msgspec.DecodeError) as error:
        raise IntegrityBroken("These bytes are no packed arrays.") from error
    return found
