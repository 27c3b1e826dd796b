from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from endcap.solutions.forecasting.member_plots import COLORS, plot_members, plot_statuses

HOSTILE = "<script>alert('$x_{y')</script> --> & \x00\n商店"


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def draw(ratios: list[float], *, statuses: list[str] | None = None, names: list[str] | None = None) -> str:
    n = len(ratios)
    given = statuses or ["bad" if ratio > 1.2 else "good" for ratio in ratios]
    return plot_members(np.array(ratios), given, names or [f"s{i}" for i in range(n)], baseline="weekday_mean", name="m", label="members")


@pytest.mark.parametrize("n", [1, 10, 10_000])
def test_any_number_of_members_makes_a_small_plot_that_names_the_worst(n: int) -> None:
    ratios = np.exp(np.linspace(-0.4, 0.5, n))
    svg = draw(ratios.tolist())
    assert len(svg) < 90_000
    assert f"{n:,} members, the best left" in texts(svg)
    if n > 1:
        assert any(text.startswith(f"the worst: s{n - 1} 1.65") for text in texts(svg))
        assert "var(--bad)" in svg
    assert "var(--good)" in svg


def test_members_without_a_figure_are_left_out_and_extremes_stay_on_the_page() -> None:
    svg = draw([float("nan"), 1e9, 1e-9, 1.0])
    assert "3 members, the best left" in texts(svg)
    assert "nan" not in svg.lower().replace("nand", "")
    assert "inf" not in "".join(texts(svg))


def test_nobody_above_the_line_names_nobody() -> None:
    assert not [text for text in texts(draw([0.5, 0.9, 1.0])) if text.startswith("the worst")]


def test_hostile_names_are_text() -> None:
    svg = draw([0.5, 1.5], names=["fine", HOSTILE])
    assert "<script" not in svg
    assert any("the worst: <scr" in text for text in texts(svg))


def test_statuses_are_one_bar_in_the_order_given() -> None:
    counts = {status: n for n, status in enumerate(COLORS, start=5)}
    svg = plot_statuses(counts, name="s", label="statuses")
    assert [text for text in texts(svg) if text][:2] == ["bad 5", "fallback 6"]
    assert Counter(text.split()[0] for text in texts(svg)).most_common(1)[0][1] == 1
    lonely = plot_statuses({"good": 10_000, "bad": 1}, name="s", label="statuses")
    assert "good 10,000" in texts(lonely), "what has no room is left out, what has it is told"
