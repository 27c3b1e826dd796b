from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.loop.training.artefacts import Artefact, decode_arrays, decode_json, encode_arrays, encode_json

DTYPES = st.sampled_from(["f4", "f8", "i8", "u1", "?", "U7", "M8[D]"])
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b.c", "d e", "ü"]), DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_side=0, max_side=4)))))
def test_arrays_come_back_as_they_went(arrays: dict[str, np.ndarray]) -> None:
    artefact = encode_arrays(arrays)
    assert artefact.kind == "arrays"
    found = decode_arrays(artefact)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_objects_are_refused_going_in_and_coming_out() -> None:
    with pytest.raises(InvalidInput, match="'names' holds objects"):
        encode_arrays({"names": np.array(["a", None], dtype=object)})
    sink = io.BytesIO()
    np.savez(sink, names=np.array([{"a": 1}], dtype=object))
    with pytest.raises(IntegrityBroken):
        decode_arrays(Artefact("arrays", sink.getvalue()))


def test_bytes_that_are_no_arrays_are_refused_as_such() -> None:
    whole = encode_arrays({"x": np.arange(5000) * 1.7}).payload
    bare = io.BytesIO()
    np.save(bare, np.arange(3))
    turned = whole[:80] + bytes(byte ^ 255 for byte in whole[80:90]) + whole[90:]
    for payload in (b"", b"hello", b"PK\x03\x04" + b"x" * 50, whole[:60], whole[:-1], turned, bare.getvalue()):
        with pytest.raises(IntegrityBroken, match="cannot be read"):
            decode_arrays(Artefact("arrays", payload))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_plain_values_come_back_as_they_went(value: object) -> None:
    assert decode_json(encode_json(value)) == value


def test_equal_values_give_equal_bytes() -> None:
    assert encode_json({"b": 1, "a": 2}).payload == encode_json({"a": 2, "b": 1}).payload


def test_a_number_that_json_lacks_comes_back_as_none() -> None:
    assert decode_json(encode_json({"x": math.nan})) == {"x": None}


@pytest.mark.parametrize("payload", [b"", b"{", b"nan", b'"\xff"'])
def test_bytes_that_are_no_json_are_refused_as_such(payload: bytes) -> None:
    with pytest.raises(IntegrityBroken, match="cannot be read"):
        decode_json(Artefact("json", payload))


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="'pickle' is not a kind") as caught:
        Artefact("pickle", b"")
    assert caught.value.hint is None
    with pytest.raises(InvalidInput, match="did you mean 'lightgbm'"):
        Artefact("lightgmb", b"")
