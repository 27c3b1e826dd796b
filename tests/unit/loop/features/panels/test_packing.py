from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.features.panels.packing import pack_arrays, unpack_arrays

KINDS = st.sampled_from([np.dtype(kind) for kind in ("f4", "f8", "i4", "i8", "u1", "?", "U3", "M8[us]")])
ARRAYS = st.dictionaries(
    st.text(max_size=8), KINDS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))), max_size=4
)


@settings(max_examples=80, deadline=None)
@given(ARRAYS)
def test_arrays_come_back_bit_by_bit(arrays: dict[str, Any]) -> None:
    found = unpack_arrays(pack_arrays(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_flags_take_a_bit_and_strides_do_not_matter() -> None:
    flags = np.zeros((64, 1000), dtype=np.bool_)
    assert len(pack_arrays({"flags": flags})) < 1000
    cells = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(unpack_arrays(pack_arrays({"cells": cells[::2, 1::2]}))["cells"], cells[::2, 1::2])


def test_equal_arrays_give_equal_bytes() -> None:
    one, other = (pack_arrays({"a": np.arange(1000) % 7, "b": np.zeros(3)}) for _ in range(2))
    assert one == other


def test_objects_are_not_packed() -> None:
    with pytest.raises(InvalidInput, match="The array 'names' holds objects"):
        pack_arrays({"names": np.array(["a", None], dtype=object)})


@pytest.mark.parametrize("cut", [0, 3, 4, 20, -1])
def test_bytes_that_were_cut_are_none(cut: int) -> None:
    payload = pack_arrays({"a": np.arange(100.0), "b": np.ones(3, dtype=np.bool_)})
    with pytest.raises(IntegrityBroken, match="These bytes are no packed arrays"):
        unpack_arrays(payload[:cut])


def test_bytes_that_were_changed_or_added_to_are_none() -> None:
    payload = pack_arrays({"a": np.arange(100.0)})
    for wrong in (payload + b"x", b"PK\x03\x04" + payload, b"\x02\x00\x00\x00{}", payload.replace(b"<f8", b"<x8")):
        with pytest.raises(IntegrityBroken):
            unpack_arrays(wrong)
