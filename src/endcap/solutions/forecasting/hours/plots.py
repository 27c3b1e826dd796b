"""The plots of hours: what only an hourly model's report shows. Manners are those of ``forecasting.plots``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.solutions.forecasting.plots import BASELINE, FORECAST, MUTED, TRUTH, draw, format_number, place_axes

Doubles = NDArray[np.float64]

_TICKS = range(0, 24, 3)


def plot_hours(errors: Doubles, rival: Doubles | None, bias: Doubles, *, metric: str, rival_name: str, name: str, label: str) -> str:
    """An error by local hour of the day, the best baseline's beside it, and below it the bias: above the line too much was forecast.

    Arrays have 24 values, NaN where an hour was not judged. The bias is a mean error in units of what is forecast: a share would shout
    where nearly nothing is sold.
    """

    def paint(figure: Any) -> None:
        hours = np.arange(errors.size)
        width, height = figure.get_size_inches() * 72
        axes = place_axes(figure, left=52, right=12, top=40, bottom=110)
        if rival is not None:
            axes.plot(hours, rival, color=BASELINE, linewidth=1.3, marker="o", markersize=3, label=rival_name)
        axes.plot(hours, errors, color=FORECAST, linewidth=1.8, marker="o", markersize=4, label="forecast")
        axes.set_ylim(0, _reach(errors, rival) * 1.08)
        axes.set_ylabel(metric)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=3, handlelength=1.6, columnspacing=1.4)
        below = figure.add_axes((52 / width, 26 / height, 1 - 64 / width, 66 / height))
        there = np.where(np.isfinite(bias), bias, 0.0)
        below.bar(hours, there, color=[TRUTH if value > 0 else BASELINE for value in there], width=0.62, linewidth=0)
        below.axhline(0, color=MUTED, linewidth=0.8)
        most = max(float(np.abs(there).max(initial=0.0)), 1e-9) * 1.15
        below.set_ylim(-most, most)
        below.set_ylabel("mean error")
        for part in (axes, below):
            part.set_xlim(-0.6, errors.size - 0.4)
            part.set_xticks(list(_TICKS), [f"{hour:02}:00" for hour in _TICKS] if part is below else [""] * len(_TICKS))
            part.yaxis.set_major_locator(_few_ticks(3 if part is below else 5))
            part.yaxis.set_major_formatter(lambda value, _place: format_number(value).replace("-", "\N{MINUS SIGN}"))
            part.grid(visible=True, axis="y")
            part.tick_params(length=0)

    return draw(name, 680, 300, paint, label=label)


def plot_hour_coverage(coverage: Sequence[float | None], *, promised: float, name: str, label: str) -> str:
    """The share of actual values inside the interval by hour of the day, against what the interval promises."""

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=52, right=12, top=10, bottom=26)
        shares = np.array([np.nan if share is None else share for share in coverage])
        axes.axhline(promised, color=MUTED, linewidth=1.0)
        axes.plot(np.arange(shares.size), shares, color=FORECAST, linewidth=1.4, marker="o", markersize=4)
        axes.set_ylim(min(promised - 0.1, float(np.nanmin(shares, initial=promised)) - 0.03), 1.02)
        axes.set_xlim(-0.6, shares.size - 0.4)
        axes.set_xticks(list(_TICKS), [f"{hour:02}:00" for hour in _TICKS])
        axes.yaxis.set_major_locator(_few_ticks(4))
        axes.yaxis.set_major_formatter(lambda value, _place: f"{value:.0%}" if value <= 1 else "")
        axes.grid(visible=True, axis="y")
        axes.tick_params(length=0)

    return draw(name, 680, 150, paint, label=label)


def _reach(*lines: Doubles | None) -> float:
    most = max((float(np.nanmax(line, initial=0.0)) for line in lines if line is not None), default=0.0)
    return most or 1.0


def _few_ticks(n: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(n)
