from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest

from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.data.drawings import draw_distributions
from endcap.loop.data.records import ColumnProfile

NAMESPACE = "{http://www.w3.org/2000/svg}"


def profiled(values: Any, **options: Any) -> ColumnProfile:
    return profile_columns(pa.table({"x": values}), n_threads=1, **options)[0]


def read(drawing: str) -> ET.Element:
    return ET.fromstring(drawing)


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in read(drawing).iter(f"{NAMESPACE}text")]


def heights(drawing: str, kind: str) -> np.ndarray:
    """How high the shape stands over the floor at each step."""
    points = next(read(drawing).iter(NAMESPACE + kind)).attrib["points"]
    y = np.array([float(point.split(",")[1]) for point in points.split()])
    return y[0] - y[1:-1:2]


def test_numbers_are_drawn_where_they_are() -> None:
    rng = np.random.default_rng(1)
    a, b = profiled(rng.normal(0, 1, 20_000)), profiled(rng.normal(2, 1, 20_000))
    drawing = draw_distributions(a, b, names=("training", "today"))
    before, after = heights(drawing, "polygon"), heights(drawing, "polyline")
    assert before.size == after.size == 48
    assert np.argmax(before) < 24 < np.argmax(after)
    assert max(before.max(), after.max()) == pytest.approx(124, abs=0.2)
    assert {"training", "today", "missing: training 0.0%, today 0.0%"} < set(texts(drawing))
    assert draw_distributions(a, b, names=("training", "today")) == drawing
    assert len(drawing) < 5_000


def test_categories_are_bars_with_their_shares() -> None:
    a, b = profiled(["x"] * 6 + ["y"] * 4), profiled(["x"] * 5 + ["z"] * 5)
    said = texts(draw_distributions(a, b))
    assert {"x", "y", "z", "60.0% > 50.0%", "40.0% > 0.0%", "0.0% > 50.0%"} < set(said)
    many = profiled([f"c{i:02}" for i in range(40)])
    assert texts(draw_distributions(many, many)).count("others") == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([5.0] * 10, [5.0] * 3),
        ([0.0] * 10, [0.0] * 3),
        ([1.5], []),
        ([None, None], [1.0, 9.0]),
        ([-1e299, 1e299], [0.0]),
        ([float("inf")], [1.0]),
        (["a"], [None]),
        ([True, False], [True]),
        ([1.0], ["a"]),
    ],
)
def test_what_is_odd_is_drawn_all_the_same(a: list[Any], b: list[Any]) -> None:
    for left, right in ((profiled(a), profiled(b)), (profiled(b), profiled(a))):
        drawing = draw_distributions(left, right)
        read(drawing)
        assert "nan" not in drawing
        assert "inf" not in re.sub("text-anchor", "", drawing)


def test_where_there_is_nothing_to_draw_it_says_so() -> None:
    hidden = profiled([1.0, 2.0], personal=["x"])
    assert "there is nothing to draw" in texts(draw_distributions(hidden, hidden))
    assert "no rows" in texts(draw_distributions(profiled(pa.array([], pa.string())), profiled(pa.array([], pa.string()))))


def test_names_hold_no_mark_up() -> None:
    evil = '</text><script>alert(1)</script>"\x00\x1b\ud800'
    profile = ColumnProfile(name=evil, type="text", n=1, n_null=0, n_distinct=1, top=[(evil, 1)])
    drawing = draw_distributions(profile, profile, names=(evil, evil))
    assert not list(read(drawing).iter(f"{NAMESPACE}script"))
    assert not {"\x00", "\x1b", "\ud800"} & set(drawing)
