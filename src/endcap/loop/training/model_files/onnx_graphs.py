"""ONNX graphs, looked at on the wire: no bytes from other files, no operators that are not ONNX Runtime's own.

The message types are those of ``onnx.proto`` (IR version 3 to 13), of which only the fields that matter are followed.
"""

from __future__ import annotations

from collections.abc import Iterator

from endcap.core.errors import InvalidInput

MOST_BYTES = (1 << 31) - 1  # Protobuf's own limit
_MOST_DEPTH = 40
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft")
_FOLLOWED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "opset": {},
}
_DOMAIN_OF = {"node": 7, "opset": 1, "function": 10}
_EXTERNAL_DATA, _DATA_LOCATION, _OPERATOR = 13, 14, 4


def check_graph(payload: bytes) -> None:
    """Raise InvalidInput unless the bytes are a model of ONNX that stands by itself. Cost: one look at every message."""
    if len(payload) > MOST_BYTES:
        raise _refuse(f"it has {len(payload):,} bytes; the most are {MOST_BYTES:,}")
    waiting = [("model", memoryview(payload), 0)]
    n_graphs = 0
    while waiting:
        what, body, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise _refuse(f"it is nested more than {_MOST_DEPTH} deep")
        n_graphs += what == "graph"
        operator, domain = "", ""
        for field, value in _read_fields(body):
            if what == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value == 1)):
                raise _refuse(
                    "it takes numbers from other files",
                    hint="log it in one file: mlflow.onnx.log_model(graph, name='model', save_as_external_data=False)",
                )
            if isinstance(value, int):
                continue
            if field == _DOMAIN_OF.get(what):
                domain = bytes(value).decode("utf-8", "replace")
            elif what == "node" and field == _OPERATOR:
                operator = bytes(value).decode("utf-8", "replace")
            elif field in _FOLLOWED[what]:
                waiting.append((_FOLLOWED[what][field], value, depth + 1))
        if domain not in _DOMAINS and what != "function":
            named = f"the operator {operator[:40]!r} of" if operator else "operators of"
            raise _refuse(f"it asks for {named} {domain[:60]!r}, which is code of somebody's own", hint=f"use operators of {list(_DOMAINS[1:4])}")
    if not n_graphs:
        raise _refuse("it holds no graph")


def _read_fields(body: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: numbers as such, everything with a length as its bytes."""
    place, end = 0, len(body)
    while place < end:
        tag, place = _read_varint(body, place)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _read_varint(body, place)
            yield field, value
            continue
        n_bytes = {1: 8, 5: 4}.get(wire, -1)
        if wire == 2:
            n_bytes, place = _read_varint(body, place)
        if n_bytes < 0 or place + n_bytes > end or field == 0:
            raise _refuse("its bytes are no message, or break off")
        if wire == 2:
            yield field, body[place : place + n_bytes]
        place += n_bytes


def _read_varint(body: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(body):
            raise _refuse("its bytes break off")
        byte = body[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise _refuse("its bytes hold a number that never ends")


def _refuse(why: str, *, hint: str = "log it anew: mlflow.onnx.log_model(model, name='model')") -> InvalidInput:
    return InvalidInput(f"This is no ONNX model that can be served: {why}.", hint=hint)
