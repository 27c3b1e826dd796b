"""The plots of members: ten or ten thousand of them at a glance. Manners are those of ``plots``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.solutions.forecasting.plots import BAD, BASELINE, GOOD, GRID, INK, MUTED, PAST, TRUTH, draw, place_axes, shorten

COLORS = {"bad": BAD, "fallback": PAST, "stale": TRUTH, "new": MUTED, "unsure": BASELINE, "good": GOOD, "retired": GRID}
_COLUMNS = 220
_MOST_RATIO = 4.0
_TICKS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 4.0)
_NAMED = 3

Doubles = NDArray[np.float64]


def plot_members(ratios: Doubles, statuses: Sequence[str], names: Sequence[str], *, baseline: str, name: str, label: str) -> str:
    """Each member's error over its baseline's, in order, coloured by status; below the line a member does better than the baseline.

    Arrays have one length; members without a ratio (NaN) are left out. Up to 220 members each have a bar of their own; of more, each bar is the
    mean of neighbours in the order, in the colour of what most of them are. The worst three are named. The axis is logarithmic; ratios beyond a
    quarter and four stand at its ends.
    """
    there = np.flatnonzero(np.isfinite(ratios))
    order = there[np.argsort(ratios[there], kind="stable")]
    logs = np.log(np.clip(ratios[order], 1 / _MOST_RATIO, _MOST_RATIO))
    edges = np.linspace(0, order.size, min(order.size, _COLUMNS) + 1).round().astype(int)
    heights = [float(logs[a:b].mean()) for a, b in pairwise(edges)]
    kinds = [_most([statuses[i] for i in order[a:b]]) for a, b in pairwise(edges)]

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=46, right=16, top=26, bottom=26)
        axes.bar(
            np.arange(len(heights)) + 0.5, heights, width=1.0 if len(heights) > 60 else 0.82, color=[COLORS[kind] for kind in kinds], linewidth=0
        )
        axes.axhline(0, color=INK, linewidth=0.9)
        low, high = min([*heights, -0.05]), max([*heights, 0.05])
        axes.set_ylim(low * 1.12, high * 1.3)
        axes.set_xlim(0, max(len(heights), 1))
        ticks = [tick for tick in _TICKS if low * 1.12 <= np.log(tick) <= high * 1.3]
        axes.set_yticks([np.log(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_title(f"error / error of {baseline}", fontsize=9.5, color=MUTED, loc="left", pad=6)
        below = {"xycoords": "axes fraction", "xytext": (0, -16), "textcoords": "offset points", "fontsize": 9}
        axes.annotate(f"{order.size:,} members, the best left", (0, 0), color=MUTED, **below)
        worst = [f"{shorten(names[i], most=22)} {ratios[i]:.2f}" for i in order[::-1][:_NAMED] if ratios[i] > 1]
        if worst:
            axes.annotate(f"the worst: {', '.join(worst)}", (1, 0), ha="right", color=INK, **below)

    return draw(name, 680, 210, paint, label=label)


def plot_statuses(counts: Mapping[str, int], *, name: str, label: str) -> str:
    """One bar of all members, cut by status, with how many they are beneath."""

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=4, right=4, top=4, bottom=24)
        total, start = max(1, sum(counts.values())), 0.0
        free = -1.0
        for status, n in counts.items():
            width = n / total
            axes.barh([0], [width], left=[start], color=COLORS[status], height=1.0, linewidth=0)
            text = f"{status} {n:,}"
            place = max(start, free)
            if place + 0.0095 * len(text) <= 1.0:  # what has no room stands in the table beneath the plot
                axes.annotate(
                    text, (place, 0), xycoords=("data", "axes fraction"), xytext=(0, -15), textcoords="offset points", fontsize=9, color=INK
                )
                free = place + 0.0105 * len(text) + 0.01
            start += width
        axes.set_xlim(0, 1)
        axes.axis("off")

    return draw(name, 680, 46, paint, label=label)


def _most(statuses: Sequence[str]) -> str:
    """What most are; of equals, what deserves a look first."""
    return max(COLORS, key=statuses.count)
