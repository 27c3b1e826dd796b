"""The report's plots, as SVG text: the same arrays give the same bytes.

Colours are names of the page's style sheet (``var(--forecast)``), so that a plot follows light and dark; text stays text, in the page's
font. Names are drawn as they are, never read as formulas. Each plot costs some ten milliseconds, whatever the number of rows: what grows
(series, judged rows) is counted into cells before it is drawn.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from endcap.loop.evaluation.records import name_metric

Doubles = NDArray[np.float64]
Days = NDArray[np.datetime64]

INK, MUTED, GRID = "#20262f", "#66717f", "#dfe3e8"
ACTUAL, FORECAST, PAST, BAND = "#2b333d", "#1f6fc9", "#7aa9dd", "#c4dbf4"
BASELINE, TRUTH, GOOD, BAD = "#a7b0bb", "#cf8207", "#2c8a57", "#c5352d"
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    ACTUAL: "actual",
    FORECAST: "forecast",
    PAST: "past",
    BAND: "band",
    BASELINE: "baseline",
    TRUTH: "truth",
    GOOD: "good",
    BAD: "bad",
}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "legend.fontsize": 9.5,
    "lines.solid_capstyle": "round",
}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
NO_BREAK = "\N{NO-BREAK SPACE}"  # a second line that keeps labels level
_SCATTER_MOST = 600
_SLICE_LABEL = 20
_CHARACTER = 5.6  # width of a letter at 9.5 px, on the wide side
_BOLD = 1.12  # how much wider a label is than one that is not bold
# Style is a setting of the whole process; one plot at a time may hold it.
_DRAWING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Curve:
    """What was and what is to come, of one series or a sum. ``past`` parts are forecasts as delivered at their time; None where not drawn.

    ``days`` and ``actual`` have one length, as have ``ahead``, ``forecast`` and its limits; ``truth`` covers ``truth_days``.
    """

    days: Days
    actual: Doubles
    ahead: Days
    forecast: Doubles
    lower: Doubles | None = None
    upper: Doubles | None = None
    past: Doubles | None = None
    truth_days: Days | None = None
    truth: Doubles | None = None


def plot_curve(curve: Curve, *, name: str, label: str, unit: str, origin: np.datetime64, wide: bool) -> str:
    """Actual values, then the forecast with its band; a dotted line marks the origin. ``wide`` is the plot of the total, else a small one."""
    width, height = (680, 270) if wide else (330, 170)

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=52, right=12, top=40 if wide else 10, bottom=34)
        _paint_truth(axes, curve)
        if curve.lower is not None and curve.upper is not None:
            axes.fill_between(curve.ahead, curve.lower, curve.upper, color=BAND, linewidth=0, label="90 % interval")
        if curve.past is not None and np.isfinite(curve.past).any():
            axes.plot(curve.days, curve.past, color=PAST, linewidth=1.2, linestyle=(0, (3, 1.5)), label="forecast as delivered")
        axes.plot(curve.days, curve.actual, color=ACTUAL, linewidth=1.4, label="actual", **_marks(curve.actual))
        axes.plot(curve.ahead, curve.forecast, color=FORECAST, linewidth=1.8, label="forecast", **_marks(curve.forecast, always=True))
        axes.axvline(origin, color=MUTED, linewidth=0.9, linestyle=":")
        _from_zero(axes)
        _tick_days(axes, curve.days, curve.ahead, most=10 if wide else 5)
        _tick_values(axes)
        if wide:
            axes.set_ylabel(shorten(unit, most=34))
            _legend(axes)

    return draw(name, width, height, paint, label=label)


def plot_leaderboard(
    names: Sequence[str],
    figures: Sequence[float | None],
    *,
    baselines: Sequence[str],
    chosen: str,
    write: Callable[[float], str],
    name: str,
    label: str,
) -> str:
    """Bars of an error, least on top; baselines grey, the chosen one marked with a word and full colour. ``write`` says a figure."""
    order = sorted(range(len(names)), key=lambda i: math.inf if figures[i] is None else float(figures[i] or 0.0))
    values = [figures[i] for i in order]
    texts = [names[i] + (" (chosen)" if names[i] == chosen else "") for i in order]
    colors = [FORECAST if names[i] == chosen else BASELINE if names[i] in baselines else PAST for i in order]

    def paint(figure: Any) -> None:
        axes = _bar_axes(figure, texts, right=58, wider=_BOLD)
        _bars(axes, values, colors, write=write)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        for text, i in zip(axes.get_yticklabels(), order, strict=True):
            text.set_fontweight("bold" if names[i] == chosen else "normal")

    return draw(name, 480, 24 + 21 * len(names), paint, label=label)


def plot_ratio(ratio: float, lower: float, upper: float, *, passed: bool, name: str, label: str) -> str:
    """A ratio of errors with its interval on a line, against 1: left of it is better."""
    low, high = (value if math.isfinite(value) else ratio for value in (lower, upper))

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=12, right=12, top=6, bottom=30)
        color = GOOD if passed else BAD
        axes.plot([low, high], [0, 0], color=color, linewidth=3)
        axes.plot([ratio], [0], color=color, marker="o", markersize=8)
        axes.axvline(1.0, color=INK, linewidth=1.2)
        reach = max(abs(1 - low), abs(high - 1), 0.05) * 1.15
        axes.set_xlim(1 - reach, 1 + reach)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = [1 - reach * 0.8, 1 - reach * 0.4, 1.0, 1 + reach * 0.4, 1 + reach * 0.8]
        axes.set_xticks(ticks, ["equal" if tick == 1.0 else f"{tick:.2f}" for tick in ticks])

    return draw(name, 300, 56, paint, label=label)


def plot_slices(
    labels: Sequence[str],
    errors: Sequence[float | None],
    bias: Sequence[float | None],
    *,
    title: str,
    write: Callable[[float], str],
    name: str,
    label: str,
) -> str:
    """An error and, beside it, bias of each slice: right of the middle too much was forecast, left too little."""

    def paint(figure: Any) -> None:
        left = _label_width([shorten(text, most=_SLICE_LABEL) for text in labels])
        height = figure.get_figheight() * 72
        room = 400 - left - 12
        axes = [figure.add_axes(_box(400, height, x, 24, w, height - 30)) for x, w in ((left, room * 0.52), (left + room * 0.56, room * 0.44))]
        for side, heading in zip(axes, (title, "bias"), strict=True):
            side.set_title(heading, fontsize=9.5, color=MUTED, loc="left", pad=4)
            side.set_xticks([])
            side.spines["bottom"].set_visible(False)
        _name_bars(axes[0], labels, most=_SLICE_LABEL)
        _bars(axes[0], errors, [PAST] * len(labels), write=write)
        axes[1].set_yticks([])
        _bars(axes[1], bias, [TRUTH if (value or 0.0) > 0 else BASELINE for value in bias], write=format_signed)
        axes[1].spines["left"].set_visible(False)
        axes[1].axvline(0, color=MUTED, linewidth=0.8)

    return draw(name, 400, 40 + 19 * len(labels), paint, label=label)


def plot_coverage(labels: Sequence[str], coverage: Sequence[float | None], *, promised: float, name: str, label: str) -> str:
    """The share of actual values inside the interval, as a dot for each slice, against what the interval promises."""

    def paint(figure: Any) -> None:
        axes = _bar_axes(figure, labels, right=46, bottom=26)
        there = [(place, value) for place, value in enumerate(coverage) if value is not None]
        axes.axvline(promised, color=INK, linewidth=1.2)
        for place, value in there:
            axes.plot([promised, value], [place, place], color=PAST, linewidth=2)
            axes.plot([value], [place], color=FORECAST, marker="o", markersize=6)
            axes.annotate(f"{value:.0%}", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", va="center")
        least = min([value for _, value in there], default=promised)
        low = max(0.0, math.floor((min(least, promised) - 0.08) * 10) / 10)
        axes.set_xlim(low, 1.02)
        ticks = sorted({low, round((low + promised) / 2, 2), promised, 1.0})
        axes.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])

    return draw(name, 400, 44 + 19 * len(labels), paint, label=label)


def plot_judged(days: Days, actual: Doubles, forecast: Doubles, rival: Doubles | None, *, rival_name: str, unit: str, name: str, label: str) -> str:
    """Sums over the series at the judged origins: one piece of line for each origin. Arrays are n_origins x horizon."""

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=52, right=12, top=40, bottom=34)
        for place in range(days.shape[0]):
            first = place == 0
            if rival is not None:
                axes.plot(days[place], rival[place], color=BASELINE, linewidth=1.2, label=rival_name if first else None, **_marks(rival[place]))
            axes.plot(days[place], actual[place], color=ACTUAL, linewidth=1.4, label="actual" if first else None, **_marks(actual[place]))
            marks = _marks(forecast[place], always=True)
            axes.plot(days[place], forecast[place], color=FORECAST, linewidth=1.7, label="forecast" if first else None, **marks)
        _from_zero(axes)
        _tick_days(axes, days.reshape(-1), most=8)
        _tick_values(axes)
        axes.set_ylabel(shorten(unit, most=34))
        _legend(axes)

    return draw(name, 680, 260, paint, label=label)


def plot_agreement(forecast: Doubles, actual: Doubles, lower: Doubles, upper: Doubles, *, unit: str, name: str, label: str) -> str:
    """Actual against forecast of every judged row, by counts where they are many, with the usual interval at that size of forecast.

    The four arrays have one length and no NaN. Axes are square roots, so that small and large series can both be seen. Cost: O(rows).
    """

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=58, right=14, top=40, bottom=44)
        x, y = np.sqrt(np.maximum(forecast, 0)), np.sqrt(np.maximum(actual, 0))
        most = float(max(x.max(), y.max(), 1e-9)) * 1.03
        middle, low, high = _usual_band(x, np.sqrt(np.maximum(lower, 0)), np.sqrt(np.maximum(upper, 0)), most=most)
        if x.size <= _SCATTER_MOST:
            axes.scatter(x, y, s=12, color=FORECAST, alpha=0.55, linewidths=0, label="a judged day")
        else:
            axes.hexbin(x, y, gridsize=42, mincnt=1, bins="log", extent=(0, most, 0, most), cmap=_ink_map(), linewidths=0)
            axes.plot([], [], color=FORECAST, linestyle="", marker="h", markersize=7, label="judged days, full where many")
        axes.plot([0, most], [0, most], color=INK, linewidth=1.0, label="actual = forecast")
        if middle.size > 1:
            # Lines above the cells: an area would lie hidden under them.
            for limit, text in ((low, "usual 90 % interval"), (high, None)):
                axes.plot(middle, limit, color=TRUTH, linewidth=1.3, linestyle="--", label=text)
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        ticks = _root_ticks(most)
        axes.set_xticks(np.sqrt(ticks), [format_number(tick) for tick in ticks])
        axes.set_yticks(np.sqrt(ticks), [format_number(tick) for tick in ticks])
        axes.grid(visible=True)
        axes.set_xlabel(f"forecast, {shorten(unit, most=30)}")
        axes.set_ylabel("actual")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, handlelength=1.4, columnspacing=1.2)

    return draw(name, 420, 400, paint, label=label)


@dataclass(frozen=True, eq=False)
class Timeline:
    """What happened to a model: readings of one metric (instants, figure, limit, breached), releases by label, incidents; instants in one zone."""

    at: Days
    figures: Doubles
    limits: Doubles
    breached: NDArray[np.bool_]
    releases: tuple[tuple[np.datetime64, str], ...]
    incidents: Days
    daily_days: Days
    daily: Doubles


def plot_timeline(line: Timeline, *, metric: str, name: str, label: str) -> str:
    """Live error over time against its limit; crosses are breaches, upright lines releases, triangles incidents."""

    def paint(figure: Any) -> None:
        axes = place_axes(figure, left=52, right=16, top=62, bottom=34)
        if line.daily.size:
            axes.plot(line.daily_days, line.daily, color=BASELINE, linewidth=1, label="each day", **_marks(line.daily))
        if line.at.size:
            axes.plot(line.at, line.figures, color=FORECAST, linewidth=1.6, marker="o", markersize=5, label="live error, as read")
            axes.plot(line.at, line.limits, color=BAD, linewidth=1.2, linestyle="--", label="limit", **_marks(line.limits))
            bad = line.breached
            if bad.any():
                axes.plot(line.at[bad], line.figures[bad], color=BAD, linestyle="", marker="X", markersize=9, label="breach")
        highest = _from_zero(axes, room=1.18)
        if line.incidents.size:
            axes.plot(
                line.incidents, np.full(line.incidents.size, highest * 0.96), color=BAD, linestyle="", marker="v", markersize=7, label="incident"
            )
        _paint_releases(axes, line.releases)
        instants = np.concatenate([line.at, line.incidents, line.daily_days, np.array([at for at, _ in line.releases], dtype="datetime64[us]")])
        _tick_days(axes, instants, most=8)
        if metric in ("wape", "rmspe", "day_wape"):
            axes.yaxis.set_major_formatter(lambda value, _place: f"{value:.0%}")
        axes.grid(visible=True, axis="y")
        axes.set_ylabel(shorten(name_metric(metric), most=20))
        if line.at.size or line.daily.size or line.incidents.size:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.13), ncols=5, handlelength=1.4, columnspacing=1.2)

    return draw(name, 680, 280, paint, label=label)


def format_number(value: float | None) -> str:
    """A number for people: thousands apart, about three digits that say something; a dash where there is none.

    >>> [format_number(value) for value in (12345678.0, 12345.6, 431.2, 43.12, 4.312, 0.0431, 0.0, None)]
    ['12.3 M', '12,346', '431', '43.1', '4.31', '0.043', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e7:
        return f"{value / 1e6:,.1f} M"
    if size >= 99.95:
        return f"{value:,.0f}"
    if size == 0:
        return "0"
    return f"{value:.{1 if size >= 9.995 else 2 if size >= 0.1 else 3}f}".rstrip("0").rstrip(".") if size >= 0.001 else f"{value:.1e}"


def format_percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none.

    >>> [format_percent(share) for share in (0.0312, None)]
    ['3.1%', '–']
    """
    return "–" if share is None or not math.isfinite(share) else f"{share:.{digits}%}"


def format_signed(share: float | None) -> str:
    """A share that leans to one side, with its sign.

    >>> [format_signed(share) for share in (0.0312, -0.0312, -0.0001, None)]
    ['+3.1%', '−3.1%', '0.0%', '–']
    """
    if share is None or not math.isfinite(share):
        return "–"
    return "0.0%" if abs(share) < 0.0005 else f"{share:+.1%}".replace("-", "−")


def format_day(day: date, *, year: bool = True) -> str:
    """A day in words that no locale changes.

    >>> format_day(date(2026, 3, 2))
    '2 Mar 2026'
    """
    return f"{day.day} {_MONTHS[day.month - 1]}{f' {day.year}' if year else ''}"


def draw(name: str, width: float, height: float, paint: Callable[[Any], None], *, label: str) -> str:
    """SVG text of a figure of ``width`` x ``height`` px. ``name`` keeps apart the ids of plots on one page; ``label`` is read aloud."""
    import io
    from html import escape

    import matplotlib as mpl
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    sink = io.StringIO()
    with _DRAWING, mpl.style.context(["default", {**_STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        # Text is drawn by the reader's fonts; that the font used to measure it lacks a letter does not matter.
        warnings.filterwarnings("ignore", message="Glyph ", category=UserWarning)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(sink, format="svg", metadata={"Date": None})
    body = sink.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # ids that repeat from plot to plot and that nothing refers to
    opening, rest = body.split(">", 1)
    viewed = re.search(r'viewBox="[^"]*"', opening)
    assert viewed is not None, "matplotlib writes a viewBox"
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {viewed.group(0)}'
    head = f'{start} width="{width:g}" height="{height:g}" role="img" aria-label="{escape(_clean(label))}">'
    return head + re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{_NAMES[found.group(0)]})" if found.group(0) in _NAMES else found.group(0), rest)


def _box(width: float, height: float, left: float, top: float, box_width: float, box_height: float) -> tuple[float, float, float, float]:
    return left / width, 1 - (top + box_height) / height, box_width / width, box_height / height


def place_axes(figure: Any, *, left: float, right: float, top: float, bottom: float) -> Any:
    width, height = figure.get_size_inches() * 72
    return figure.add_axes(_box(width, height, left, top, width - left - right, height - top - bottom))


def _bar_axes(figure: Any, labels: Sequence[str], *, right: float, bottom: float = 8, wider: float = 1.0) -> Any:
    axes = place_axes(figure, left=_label_width(labels) * wider, right=right, top=8, bottom=bottom)
    _name_bars(axes, labels)
    return axes


def _name_bars(axes: Any, labels: Sequence[str], *, most: int = 30) -> None:
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks(range(len(labels)), [shorten(text, most=most) for text in labels], color=INK, fontsize=9.5)
    axes.tick_params(axis="y", length=0)


def _bars(axes: Any, values: Sequence[float | None], colors: Sequence[str], *, write: Callable[[float], str]) -> None:
    """Horizontal bars with their figures beside them; a missing one says so."""
    there = [0.0 if value is None else float(value) for value in values]
    axes.barh(range(len(there)), there, color=colors, height=0.62)
    axes.set_ylim(len(there) - 0.45, -0.55)
    low, high = min([0.0, *there]), max([0.0, *there])
    # Room in px for the figures, which stand outside the bars.
    before, after = (46.0 if low < 0 else 0.0), (52.0 if None in values else 46.0 if max(there, default=0.0) >= 0 else 6.0)
    unit = ((high - low) or 1.0) / max(axes.bbox.width - before - after, 20.0)
    axes.set_xlim(low - before * unit, high + after * unit)
    for place, (value, bar) in enumerate(zip(values, there, strict=True)):
        text = "not scored" if value is None else write(bar)
        back = bar < 0
        axes.annotate(
            text, (bar, place), xytext=(-4 if back else 4, 0), textcoords="offset points", va="center", ha="right" if back else "left", fontsize=9
        )


def _label_width(labels: Sequence[str]) -> float:
    return 14 + _CHARACTER * max((_columns(shorten(text)) for text in labels), default=4)


def _columns(text: str) -> float:
    """Letters of a text, the wide ones of the East counted twice."""
    return sum(1.9 if ord(letter) >= 0x1100 else 1.0 for letter in text)


def _paint_truth(axes: Any, curve: Curve) -> None:
    if curve.truth_days is not None and curve.truth is not None and np.isfinite(curve.truth).any():
        axes.plot(curve.truth_days, curve.truth, color=TRUTH, linewidth=0.9, label="truth of the simulation")


def _paint_releases(axes: Any, releases: Sequence[tuple[np.datetime64, str]]) -> None:
    """Upright lines with labels, on two levels where they stand close."""
    for place, (at, text) in enumerate(releases):
        axes.axvline(at, color=GOOD, linewidth=1.2)
        axes.annotate(
            shorten(text, most=14),
            (at, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2 + 11 * (place % 2)),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
            color=GOOD,
        )


def _marks(values: Doubles, *, always: bool = False) -> dict[str, Any]:
    """Markers where a line alone would not be seen: a value between two gaps draws nothing."""
    there = np.isfinite(values)
    alone = there & ~np.concatenate(([False], there[:-1])) & ~np.concatenate((there[1:], [False]))
    if always and values.size <= 40:
        return {"marker": "o", "markersize": 3.2}
    return {"marker": "o", "markersize": 2.4, "markevery": np.flatnonzero(alone).tolist()} if alone.any() else {}


def _from_zero(axes: Any, *, room: float = 1.06) -> float:
    """An axis that starts at 0 (below it only for values below it). Returns its upper end."""
    axes.margins(x=0.015)
    low, high = axes.dataLim.intervaly
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    high = high * room if high > 0 else 1.0
    axes.set_ylim(min(0.0, low), high)
    return float(high)


def _tick_values(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _place: format_number(value))
    axes.grid(visible=True, axis="y")
    axes.tick_params(length=0)


def _tick_days(axes: Any, *days: Days, most: int) -> None:
    """Days at whole weeks' distance where the span allows it, at most ``most`` of them, the year under the first and where it changes."""
    first = min(part.min() for part in days if part.size)
    last = max(part.max() for part in days if part.size)
    first_day, last_day = (int(end.astype("datetime64[D]").astype(np.int64)) for end in (first, last))
    span = last_day - first_day + 1
    pad = np.timedelta64(max(span * 36, 720), "m")
    step = next((s for s in (1, 2, 7, 14, 28, 56, 91, 182, 364) if span / s <= most), 728)
    monday = 4  # 1970-01-05, the first Monday of the epoch
    ticks = np.arange(first_day, last_day + 1)
    kept = ticks[(ticks - (monday if step >= 7 else first_day)) % step == 0]
    kept = (kept if kept.size else ticks[:1]).astype("datetime64[D]")
    labels, shown = [], 0
    for tick in kept.astype(object):
        labels.append(f"{format_day(tick, year=False)}\n{tick.year if tick.year != shown else NO_BREAK}")
        shown = tick.year
    axes.set_xticks(kept, labels)
    axes.set_xlim(first - pad, last + pad)
    axes.tick_params(length=0)


def _legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=5, handlelength=1.6, columnspacing=1.4)


def _usual_band(x: Doubles, low: Doubles, high: Doubles, *, most: float) -> tuple[Doubles, Doubles, Doubles]:
    """Medians of the limits where forecasts are alike (24 steps of the axis), so that the line does not follow single rows."""
    step = np.minimum((x / most * 24).astype(np.int64), 23)
    groups = [place for place in (np.flatnonzero(step == i) for i in range(24)) if place.size >= 5]
    middle, lower, upper = (np.array([float(np.median(values[place])) for place in groups]) for values in (x, low, high))
    return middle, lower, upper


def _root_ticks(most: float) -> list[float]:
    """Four or so round values for an axis of square roots that ends at ``most`` (itself a root)."""
    top = most**2
    rough = [top * share for share in (0.03, 0.2, 0.5, 0.9)]
    found = {0.0}
    for value in rough:
        size = 10 ** math.floor(math.log10(value))
        found.add(size * max(step for step in (1, 2, 3, 5) if step * size <= value * 1.001))
    return sorted(found)


def _ink_map() -> Any:
    """Few to many as one colour from faint to full, so that it reads on light and dark."""
    from matplotlib.colors import ListedColormap, to_rgb

    return ListedColormap([(*to_rgb(FORECAST), float(alpha)) for alpha in np.linspace(0.22, 1.0, 24)])


def _clean(text: str) -> str:
    """A text without what a page cannot hold or what would break its line."""
    return "".join(letter if letter.isprintable() else "\N{MIDDLE DOT}" for letter in text)


def shorten(text: str, *, most: int = 30) -> str:
    """A name on one line, its middle left out where it is long."""
    cleaned = _clean(text)
    if len(cleaned) <= most:
        return cleaned
    return f"{cleaned[: most // 2]}…{cleaned[-(most - most // 2 - 1) :]}"
