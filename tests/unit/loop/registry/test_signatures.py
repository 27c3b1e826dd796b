from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput
from endcap.loop.registry.records import Field, Signature
from endcap.loop.registry.signatures import MOST_ROWS, fit_example, read_example, read_signature


def told(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": msgspec.json.encode(fields).decode(), "outputs": None, "params": None}


def tensor(dtype: str, shape: list[Any], **more: Any) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **more}


def test_columns_and_tensors_are_read() -> None:
    found = read_signature(told({"type": "double", "name": "price"}, {"type": "string", "name": "store", "required": False}))
    assert found == Signature((Field("price", "double"), Field("store", "string", (), False)))
    assert read_signature(told(tensor("float32", [-1, 28, 28], name="image"))) == Signature((Field("image", "float", (-1, 28, 28)),))
    assert read_signature(told({"type": "array", "items": {"type": "long"}, "name": "basket"})) == Signature((Field("basket", "any"),))
    assert read_signature(None) is None
    assert read_signature({"inputs": None, "outputs": None}) is None


@pytest.mark.parametrize(
    "signature",
    [
        "text",
        {"inputs": "{"},
        {"inputs": '{"type": "double"}'},
        {"inputs": 5},
        told({"type": 3, "name": "a"}),
        told({"type": "double", "name": 3}),
        told({"type": "double", "name": "a"}, {"type": "long", "name": "a"}),
        told(tensor("float32", [])),
        told(tensor("float32", [-1, 1e9])),
        told(tensor("float32", [-2])),
        told(tensor("float32", [True])),
        told(tensor("complex64", [-1])),
        told({"type": "tensor"}),
        {"inputs": "[" * 100_000},
    ],
)
def test_a_signature_that_makes_no_sense_is_refused(signature: Any) -> None:
    with pytest.raises(InvalidInput, match=r"[Ss]ignature"):
        read_signature(signature)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"columns": ["a", "b"], "data": [[1, "x"], [2, "y"]]}', {"a": [1, 2], "b": ["x", "y"]}),
        (b'{"columns": ["a"], "index": [5], "data": [[1.5]]}', {"a": [1.5]}),
        (b'{"columns": [0, 1], "data": [[1, 2]]}', [[1, 2]]),
        (b"[[1.0, 2.0], [3.0, 4.0]]", [[1.0, 2.0], [3.0, 4.0]]),
        (b'{"inputs": [[1.0]]}', [[1.0]]),
        (b'{"image": [[1.0], [2.0]], "weight": [1, 2]}', {"image": [[1.0], [2.0]], "weight": [1, 2]}),
        (b'[{"a": 1}, {"a": 2}]', {"a": [1, 2]}),
        (b"[1, 2]", [1, 2]),
    ],
)
def test_the_forms_of_examples_that_the_client_writes_are_read(payload: bytes, expected: Any) -> None:
    assert read_example(payload) == expected


def test_of_a_long_example_the_first_rows_are_kept() -> None:
    assert read_example(msgspec.json.encode([[n] for n in range(500)])) == [[n] for n in range(MOST_ROWS)]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"{", b"null", b'"text"', b"[]", b"{}", b'{"a": []}', b'{"a": [1], "b": [1, 2]}', b'[{"a": 1}, {"b": 2}]', b"\xff", b"[" * 100_000),
        b'{"columns": ["a"], "data": []}',
        b'{"columns": ["a"], "data": [[1, 2]]}',
        b'{"columns": ["a", "a"], "data": [[1, 2]]}',
        b'{"data": [1], "indices": [0], "indptr": [0], "shape": [1, 1], "x": 3}',
    ],
)
def test_an_example_that_holds_no_rows_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidInput, match="input example"):
        read_example(payload)


def fit(example: Any, *fields: dict[str, Any]) -> pa.Table:
    return fit_example(example, read_signature(told(*fields)) if fields else None)


def test_an_example_gets_the_types_and_the_order_of_its_signature() -> None:
    fields = [{"type": "float", "name": "a"}, {"type": "long", "name": "b"}, {"type": "datetime", "name": "c"}, {"type": "binary", "name": "d"}]
    rows = fit({"d": ["aGk=", None], "c": ["2026-01-05T08:00:00", None], "b": [1, 2.0], "a": ["NaN", 1]}, *fields)
    assert rows.schema.names == ["a", "b", "c", "d"]
    assert [str(each) for each in rows.schema.types] == ["float", "int64", "timestamp[us]", "binary"]
    assert rows["b"].to_pylist() == [1, 2]
    assert rows["d"].to_pylist() == [b"hi", None]
    assert fit({"a": [1.0]}, {"type": "double", "name": "a"}, {"type": "double", "name": "b", "required": False}).column_names == ["a"]
    assert fit([[1.0, 2.0]], {"type": "double", "name": "a"}, {"type": "double", "name": "b"}).to_pydict() == {"a": [1.0], "b": [2.0]}
    assert fit({"x": [1], "y": ["z"]}).to_pydict() == {"x": [1], "y": ["z"]}


def test_tensors_become_one_list_a_row() -> None:
    rows = fit([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], tensor("float32", [-1, 2, 2]))
    assert rows.column_names == ["inputs"]
    assert str(rows.schema.field(0).type) == "fixed_size_list<item: float>[4]"
    assert rows["inputs"].to_pylist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    named = fit({"image": [[1.0], [2.0]]}, tensor("float64", [-1, 1], name="image"))
    assert named.column_names == ["image"]
    assert fit([[1.0, 2.0]]).column_names == ["inputs"]
    assert fit([1, 2], tensor("int64", [-1]))["inputs"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("example", "fields"),
    [
        ({"a": [1.0]}, [{"type": "double", "name": "b"}]),
        ({"a": [1.0], "b": [1.0]}, [{"type": "double", "name": "a"}]),
        ({"a": ["x"]}, [{"type": "double", "name": "a"}]),
        ({"a": [1.5]}, [{"type": "long", "name": "a"}]),
        ({"a": [2**40]}, [{"type": "integer", "name": "a"}]),
        ({"a": [1]}, [{"type": "boolean", "name": "a"}]),
        ({"a": [1]}, [{"type": "string", "name": "a"}]),
        ({"a": ["soon"]}, [{"type": "datetime", "name": "a"}]),
        ({"a": ["!"]}, [{"type": "binary", "name": "a"}]),
        ({"a": [[1]]}, [{"type": "double", "name": "a"}]),
        ({"a": [1]}, [tensor("float32", [-1, 2])]),
        ([[1.0, 2.0]], [tensor("float32", [-1, 3])]),
        ([[1.0], [1.0, 2.0]], [tensor("float32", [-1, 2])]),
        ([[[1.0]]], [tensor("float32", [-1, 1])]),
        ([[], []], [tensor("float32", [-1, 0])]),
        ([[1.0]], [{"type": "double", "name": "a"}, {"type": "double", "name": "b"}]),
    ],
)
def test_an_example_that_does_not_fit_its_signature_is_refused(example: Any, fields: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput):
        fit(example, *fields)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
)


@settings(deadline=None)
@given(ANYTHING)
def test_any_json_is_read_or_refused_and_never_breaks(value: Any) -> None:
    signature = Signature((Field("a", "double"), Field("b", "long")))
    try:
        for each in (signature, None):
            fit_example(read_example(msgspec.json.encode(value)), each)
    except InvalidInput as error:
        assert error.what  # noqa: PT017 - nothing else may be raised
