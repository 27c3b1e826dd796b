"""Drawings of profiles, as SVG text for pages: the same profiles give the same bytes.

Colours are names of the page's style sheet with a value to fall back on, so that a drawing follows light and dark; text stays text, in the
page's font.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from endcap.loop.data.distances import spread_of
from endcap.loop.data.histograms import Spread
from endcap.loop.data.records import ColumnProfile

Doubles = NDArray[np.float64]

_WIDTH, _LEFT, _RIGHT, _TOP, _PLOT = 480, 8, 472, 26, 130
_N_BARS = 48
_MOST_BARS = 12
_ROW = 22
_MOST_CHARACTERS = 26
_ENDS = np.array([0.005, 0.995])
_INK, _MUTED, _GRID = "var(--ink, #20262f)", "var(--muted, #66717f)", "var(--grid, #dfe3e8)"
_A, _B = "var(--baseline, #a7b0bb)", "var(--forecast, #1f6fc9)"
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def draw_distributions(a: ColumnProfile, b: ColumnProfile, *, names: tuple[str, str] = ("reference", "now")) -> str:
    """Two profiles of a column, one over the other: numbers as shares of rows along the line, categories as bars beside one another.

    ``names`` are what the two are called. Numbers are drawn between the values that half a percent lie beyond; of categories the twelve most
    frequent. Where there is nothing to draw (no rows, a personal column, another type), the drawing says so. A fraction of a millisecond.
    """
    left, right = spread_of(a), spread_of(b)
    if left.counts.size or right.counts.size:
        body, height = _draw_numbers(left, right, (a, b)), _TOP + _PLOT + 40
    elif a.top or b.top:
        body, height = _draw_categories(a, b)
    else:
        body, height = [_text(_LEFT, _TOP + 16, "there is nothing to draw", _MUTED)], _TOP + 40
    missing = ", ".join(f"{name} {p.n_null / p.n:.1%}" for name, p in zip(names, (a, b), strict=True) if p.n)
    legend = [
        f'<rect x="{_LEFT}" y="6" width="10" height="10" fill="{_A}"/>',
        _text(_LEFT + 15, 15, names[0]),
        f'<rect x="{_LEFT + 160}" y="6" width="10" height="10" fill="{_B}"/>',
        _text(_LEFT + 175, 15, names[1]),
        _text(_LEFT, height - 6, f"missing: {missing}" if missing else "no rows", _MUTED),
    ]
    title = f"<title>{_safe(a.name)}: {_safe(names[0])} and {_safe(names[1])}</title>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-size="11" font-family="sans-serif">'
    return "\n".join([head, title, *legend, *body, "</svg>"])


def _draw_numbers(a: Spread, b: Spread, profiles: tuple[ColumnProfile, ColumnProfile]) -> list[str]:
    drawn = [spread for spread in (a, b) if spread.counts.size]
    ends = np.array([spread.quantiles(_ENDS) for spread in drawn])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not high > low:
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    edges = np.linspace(low, high, _N_BARS + 1)
    shares = []
    for spread, profile in zip((a, b), profiles, strict=True):
        # What stands on an edge belongs to the bar before it; the first bar has what stands on its lower edge.
        below = spread.share_up_to(np.concatenate([[np.nextafter(low, -np.inf)], edges[1:]]))
        shares.append(np.diff(below) * (spread.n / max(profile.n, 1)))
    most = max(float(part.max()) for part in shares) or 1.0
    floor = _TOP + _PLOT
    x = _LEFT + (edges - low) / (high - low) * (_RIGHT - _LEFT)
    steps = []
    for part in shares:
        y = floor - part / most * (_PLOT - 6)
        corners = " ".join(f"{x[i]:.1f},{y[i]:.1f} {x[i + 1]:.1f},{y[i]:.1f}" for i in range(_N_BARS))
        steps.append(f"{x[0]:.1f},{floor} {corners} {x[-1]:.1f},{floor}")
    marks = [(low, "start"), ((low + high) / 2, "middle"), (high, "end")]
    return [
        f'<polygon points="{steps[0]}" fill="{_A}" fill-opacity="0.55"/>',
        f'<polyline points="{steps[1]}" fill="none" stroke="{_B}" stroke-width="1.6"/>',
        f'<line x1="{_LEFT}" y1="{floor}" x2="{_RIGHT}" y2="{floor}" stroke="{_GRID}"/>',
        *(
            _text(_LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT), floor + 14, f"{value:.4g}", _MUTED, anchor=anchor)
            for value, anchor in marks
        ),
    ]


def _draw_categories(a: ColumnProfile, b: ColumnProfile) -> tuple[list[str], int]:
    of_a, of_b = ({name: n / max(p.n, 1) for name, n in p.top} for p in (a, b))
    names = sorted({**of_a, **of_b}, key=lambda name: (-max(of_a.get(name, 0.0), of_b.get(name, 0.0)), name))
    shown = names[:_MOST_BARS]
    rows: list[tuple[str, Sequence[float]]] = [(name, (of_a.get(name, 0.0), of_b.get(name, 0.0))) for name in shown]
    rest = [max((p.n - p.n_null) / max(p.n, 1) - sum(of.get(name, 0.0) for name in shown), 0.0) for p, of in ((a, of_a), (b, of_b))]
    rows += [("others", rest)] if max(rest) > 1e-9 else []
    most = max(share for _, shares in rows for share in shares) or 1.0
    start, room, parts = 170, _RIGHT - 170 - 106, []
    for i, (name, shares) in enumerate(rows):
        y = _TOP + i * _ROW
        parts.append(_text(start - 8, y + 13, name if len(name) <= _MOST_CHARACTERS else f"{name[:_MOST_CHARACTERS]}…", anchor="end"))
        for share, colour, down in ((shares[0], _A, 2), (shares[1], _B, 10)):
            parts.append(f'<rect x="{start}" y="{y + down}" width="{share / most * room:.1f}" height="7" fill="{colour}"/>')
        parts.append(_text(_RIGHT, y + 13, f"{shares[0]:.1%} > {shares[1]:.1%}", _MUTED, anchor="end"))
    return parts, _TOP + len(rows) * _ROW + 26


def _text(x: float, y: float, text: str, colour: str = _INK, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Text that no mark-up hides in, without the characters that XML has no room for."""
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))
