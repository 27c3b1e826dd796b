"""Pages of feature views: self-contained HTML, one a view and an index, made from the specification alone. No scripts; everything is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from endcap.core.clock import describe_local
from endcap.core.durations import format_duration
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import QUANTILES, ColumnProfile
from endcap.loop.features.catalogue import list_views
from endcap.project.view_showing import FeatureLine, ProfileLine, ViewPage, list_specifications, show_view
from endcap.storage.files import delivering

_TEMPLATES = ("view_page.html", "view.html", "view_index.html")
_N_BINS, _WIDTH, _HEIGHT = 32, 160, 38
_MOST_BARS = 5


class PagesWritten(msgspec.Struct, frozen=True):
    """The pages that were written: how many views they describe, and where the first to open is."""

    n_views: int
    path: str


@verb("features page", permission=Permission.READ)
def write_view_page(session: Session, view: str, *, out: Path) -> PagesWritten:
    """Write the specification of a feature view as one HTML page that needs nothing else, with a small plot of each feature's newest values.

    ``out`` is the file to write. Personal columns are neither plotted nor shown. Raises NotFound for an unknown view; nothing is half-written.
    """
    page = show_view(session, view)
    _write(out, _Pages().render_view(page, index=False))
    return PagesWritten(1, str(out))


@verb("features pages", permission=Permission.READ)
def write_view_pages(session: Session, *, out: Path) -> PagesWritten:
    """Write a page for each feature view of the workspace, and an index of them.

    ``out`` is the folder to write into: ``index.html``, and the pages under ``views``. Cost: some 10 ms a view.
    """
    pages, described = _Pages(), list_specifications(session, list_views(session))
    for page in described:
        _write(out / "views" / f"{page.name}.html", pages.render_view(page, index=True))
    index = out / "index.html"
    _write(index, pages.render_index(described, workspace=session.workspace, at=session.now()))
    return PagesWritten(len(described), str(index))


class Plot(msgspec.Struct, frozen=True):
    """What is drawn of a feature's newest values: bins as SVG with their ends, or bars of frequent values (value, rows, percent), or a note."""

    missing: str
    svg: str = ""
    low: str = ""
    high: str = ""
    bars: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


def plot_feature(line: FeatureLine) -> Plot:
    """The plot of a feature's profile. Of a personal one nothing is drawn."""
    profile = line.profile
    if profile is None or not profile.n:
        return Plot("–", note="never profiled" if profile is None else "no rows")
    missing = f"{profile.n_null / profile.n:.1%}"
    if line.personal:
        return Plot(missing, note="personal: not shown")
    if profile.top:
        most = max(n for _, n in profile.top)
        shown = profile.top[:_MOST_BARS]
        return Plot(missing, bars=tuple((value, f"{n:,}", f"{100 * n / most:.1f}") for value, n in shown))
    bins = _bin(profile)
    if bins is not None:
        low, high, shares = bins
        return Plot(missing, svg=_draw(shares), low=f"{low:.4g}", high=f"{high:.4g}")
    if profile.least is not None and profile.most is not None:
        return Plot(missing, note=f"{profile.least} to {profile.most}")
    if profile.mean is not None:
        return Plot(missing, note=f"{profile.mean:.1%} true" if profile.type == "bool" else f"mean {profile.mean:.4g}")
    return Plot(missing, note=f"{profile.n_distinct:,} distinct values")


def _bin(profile: ColumnProfile) -> tuple[float, float, list[float]] | None:
    """The share of values in equal bins between the 1 % and the 99 % quantile; None where there is nothing to spread."""
    if profile.quantiles is None:
        return None
    low, high = profile.quantiles[0], profile.quantiles[-1]
    if not low < high:
        return None
    pieces: list[tuple[tuple[float, float], float]]
    if profile.histogram is not None:
        pieces = [(ends, float(n)) for ends, n in zip(pairwise(profile.histogram.edges), profile.histogram.counts, strict=True)]
    else:
        pieces = [((a, b), q - p) for (a, b), (p, q) in zip(pairwise(profile.quantiles), pairwise(QUANTILES), strict=True)]
    shares = [0.0] * _N_BINS
    width = (high - low) / _N_BINS
    for (start, end), mass in pieces:
        first, last = (start - low) / width, (end - low) / width
        for place in range(max(int(first), 0), min(int(last) + 1, _N_BINS)):
            part = min(last, place + 1) - max(first, place)
            if last > first:
                shares[place] += mass * max(part, 0.0) / (last - first)
            elif first >= place:
                shares[place] += mass
    return low, high, shares


def _draw(shares: list[float]) -> str:
    """Bars as SVG; only numbers are written into it."""
    most = max(shares) or 1.0
    step = _WIDTH / len(shares)
    bars = "".join(
        f'<rect x="{place * step:.1f}" y="{_HEIGHT * (1 - share / most):.1f}" width="{step - 0.6:.1f}" height="{_HEIGHT * share / most:.1f}"/>'
        for place, share in enumerate(shares)
        if share > 0
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="how the values are spread">{bars}</svg>'


class _Pages:
    """The templates, read once."""

    def __init__(self) -> None:
        from importlib.resources import files

        from jinja2 import DictLoader, Environment, StrictUndefined
        from markupsafe import Markup

        folder = files("endcap.project")
        sources = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in _TEMPLATES}
        self.environment = Environment(loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        self.environment.filters["drawn"] = Markup  # plots hold numbers only
        self.environment.filters["local"] = describe_local
        self.environment.filters["moment"] = lambda at: f"{at:%Y-%m-%d %H:%M}"

    def render_view(self, view: ViewPage, *, index: bool) -> str:
        features = [(line, plot_feature(line)) for line in view.features]
        context: dict[str, Any] = {
            "view": view,
            "features": features,
            "newest": _say_newest(view.profile),
            "usage": "\n".join(_usage(view)),
            "index": index,
        }
        return self.environment.get_template("view.html").render(context)

    def render_index(self, views: list[ViewPage], *, workspace: str, at: datetime) -> str:
        context: dict[str, Any] = {"views": [(view, _say_newest(view.profile)) for view in views], "workspace": workspace, "at": at}
        return self.environment.get_template("view_index.html").render(context)


def _say_newest(profile: ProfileLine | None) -> str:
    if profile is None:
        return "never profiled"
    age = "" if profile.age_s is None else f", the newest value {format_duration(max(profile.age_s, 0.0))} old when this was written"
    return f"{profile.n_rows:,} keys profiled on {profile.at:%Y-%m-%d %H:%M}{age}"


def _usage(view: ViewPage) -> Iterator[str]:
    """How a model, a training set and an answer read the view."""
    keys = ", ".join(key.name for key in view.keys)
    yield f"# a model reads it as it was known at each origin; in project.py, where {view.name} is defined"
    yield f"ec.Forecast(..., features=[{view.name}])"
    yield ""
    yield f"# any spine with {keys} and a time, as the view was known then"
    yield f'ec.training_set(session, spine, ["{view.name}"], at="time")'
    yield ""
    yield "# what a program asks for at the moment it answers; over HTTP: POST /api/v1/features/online (endcap up)"
    yield "from endcap.loop.features.online import read_online"
    yield f'read_online(session, ["{view.name}"], {{{", ".join(f"{json.dumps(key.name, ensure_ascii=False)}: [...]" for key in view.keys)}}})'


def _write(out: Path, page: str) -> None:
    payload = page.encode(errors="xmlcharrefreplace")
    with delivering(out, what=f"The page {out}", hint="give a file in a folder that you may write to", n_bytes=len(payload)) as file:
        file.write(payload)
