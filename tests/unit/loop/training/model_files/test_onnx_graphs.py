from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from endcap.core.errors import InvalidInput
from endcap.loop.training.model_files.onnx_graphs import check_graph
from endcap.testing.packages import make_onnx_graph

GRAPH = make_onnx_graph([[2.0], [1.0]], [0.5])


def nest(payload: bytes, *, levels: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    for _ in range(levels):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g, node.attribute, graph.node
            size, n = bytearray(), len(payload)
            while n > 127:
                size.append(n & 127 | 128)
                n >>= 7
            payload = tag + bytes([*size, n]) + payload
    return payload


def model(graph: bytes) -> bytes:
    return b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph


def test_a_graph_that_stands_by_itself_passes() -> None:
    check_graph(GRAPH)
    check_graph(make_onnx_graph([[1.0]], [0.0], operator="LinearRegressor", domain="ai.onnx.ml"))


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "numbers of another file": (lambda: make_onnx_graph([[1.0]], [0.0], elsewhere="weights.bin"), "takes numbers from other files"),
    "numbers of the machine's files": (lambda: make_onnx_graph([[1.0]], [0.0], elsewhere="../../../etc/passwd"), "takes numbers from other files"),
    "an operator of somebody's own": (lambda: make_onnx_graph([[1.0]], [0.0], operator="Shell", domain="evil.ops"), "of 'evil.ops'"),
    "a nest": (lambda: model(nest(b"", levels=60)), "nested more than"),
    "an operator deep within": (
        lambda: model(nest(b"\x0a\x0b\x22\x03Run\x3a\x04evil", levels=3)),
        "the operator 'Run' of 'evil'",
    ),
    "nothing": (lambda: b"", "no graph"),
    "a text": (lambda: b"hello", "no message|break off"),
    "cut": (lambda: GRAPH[:-20], "break off"),
    "an endless number": (lambda: b"\xff" * 30, "never ends"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_leans_on_anything_else_is_refused(what: str) -> None:
    make, match = WRONG[what]
    with pytest.raises(InvalidInput, match=match):
        check_graph(make())


def test_damaged_bytes_are_looked_at_without_harm() -> None:
    rnd = random.Random(3)
    for _ in range(2000):
        damaged = bytearray(GRAPH)
        for _ in range(rnd.randint(1, 4)):
            damaged[rnd.randrange(len(damaged))] = rnd.randrange(256)
        try:
            check_graph(bytes(damaged))
        except InvalidInput as error:
            assert "no ONNX model" in error.what  # noqa: PT017 - nothing else may be raised
