"""The design matrix of the global trees: one row per series, origin and day ahead, from what was seen at that origin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Floats, Indexes, Panel
from endcap.loop.features.panels.kernels import PanelSpec, compute_panel_features, compute_same_phase_means
from endcap.solutions.forecasting.day_kinds import HOLIDAY_FACT, WORKDAY_FACT, weekdays

BASE_WINDOW = 84
_SAME_WEEKDAY = (1, 4, 8)
_WINDOWS = (7, 28)
_MOST_ROWS = 400_000
_MOST_ORIGINS = 104
_WARM_UP = 28


@dataclass(frozen=True, eq=False)
class Design:
    """Rows ordered by origin, series, day ahead. ``base`` is each row's recent mean of log1p; ``origins`` the origin of each row."""

    values: NDArray[np.float32]
    base: NDArray[np.float64]
    origins: Indexes
    origin_list: Indexes


def training_origins(panel: Panel) -> Indexes:
    """The origins to learn from: every week back from the latest whose targets are all seen, every other day when weeks are few.

    At most two years of weeks, and at most 400,000 rows; none before four weeks of history.
    """
    latest = panel.n_seen - panel.horizon - panel.lead
    earliest = panel.hidden + _WARM_UP
    n_weeks = (latest - earliest) // 7 + 1
    if latest < earliest + 7:
        return np.empty(0, dtype=np.int64)
    step = 7 if n_weeks >= 16 else 2
    most = max(4, min(_MOST_ORIGINS, _MOST_ROWS // max(1, panel.n_series * panel.horizon)))
    return np.arange(latest, earliest - 1, -step, dtype=np.int64)[:most][::-1]


def name_columns(panel: Panel) -> list[str]:
    """The columns that a panel can fill, in the order of the matrix.

    What stands for a place in the calendar is offered only when a place was seen twice: in a first year it would learn the season's growth.
    """
    columns = ["day ahead", "weekday"]
    columns += [f"mean {w}" for w in _WINDOWS] + [f"deviation {w}" for w in _WINDOWS]
    columns += [f"same weekday {k}" for k in _SAME_WEEKDAY]
    if panel.n_seen > 364 + BASE_WINDOW + 28:
        columns += ["year ago", "day of year", "day of month"]
    for name in panel.ahead:
        if name != panel.open_fact:
            columns += [f"ahead {name}", f"ahead {name} less usual", f"effect {name}"]
            if name in (HOLIDAY_FACT, WORKDAY_FACT):
                columns += [f"ahead {name} before", f"ahead {name} after"]
    columns += [f"past {name}" for name in panel.past]
    columns += [f"view {name}" for name in panel.offered]
    return columns + [f"static {name}" for name, fact in panel.statics.items() if len(fact.labels) > 1]


def build_design(panel: Panel, origins: Indexes, columns: list[str], *, statics: dict[str, tuple[str, ...]] | None = None) -> Design:
    """The matrix for some origins. ``statics`` gives the labels to code static facts by: those of the fit; None takes the panel's own.

    Late and restated cells are undone for each origin, so that a row of training sees what it would have seen on the day. Cost: one pass
    of the kernels over the panel, and the rows; with revisions one pass per origin.
    """
    if panel.revisions and origins.size > 1:
        parts = [build_design(panel.seen_at(int(o)), np.array([o]), columns, statics=statics) for o in origins]
        return Design(
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.base for p in parts]),
            np.concatenate([p.origins for p in parts]),
            origins,
        )
    return _Builder(panel, origins, statics).build(columns)


def build_labels(panel: Panel, design: Design) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Each row's label (log1p of the target less its base) and its target; NaN where the target is not seen or masked."""
    target = panel.target.astype(np.float64)
    ticks = (design.origin_list + panel.lead)[:, None] + np.arange(panel.horizon)
    inside = ticks < panel.n_seen
    values = np.where(inside[None], target[:, np.minimum(ticks, panel.n_seen - 1)], np.nan)
    actual = values.transpose(1, 0, 2).reshape(-1)
    return (np.log1p(actual) - design.base).astype(np.float32), actual


class _Builder:
    """Fills the columns one by one, each of shape (n_origins, n_series, horizon)."""

    def __init__(self, panel: Panel, origins: Indexes, statics: dict[str, tuple[str, ...]] | None) -> None:
        self.panel, self.origins, self.statics = panel, origins, statics
        self.last = origins - panel.hidden - 1  # the last tick seen at each origin
        self.targets = (origins + panel.lead)[:, None] + np.arange(panel.horizon)
        self.shape = (origins.size, panel.n_series, panel.horizon)
        self.log: Floats = np.log1p(panel.target)
        self.recent = compute_panel_features(self.log, spec=PanelSpec(windows=(*_WINDOWS, BASE_WINDOW)), ticks=self.last)
        self.base = self.recent.column(f"mean_{BASE_WINDOW}").T.astype(np.float64)  # n_origins x n_series

    def build(self, columns: list[str]) -> Design:
        n = int(np.prod(self.shape))
        values = np.empty((n, len(columns)), dtype=np.float32)
        for i, name in enumerate(columns):
            values[:, i] = np.broadcast_to(self.column(name), self.shape).reshape(-1)
        base = np.broadcast_to(self.base[:, :, None], self.shape).reshape(-1)
        return Design(values, base, np.repeat(self.origins, self.panel.n_series * self.panel.horizon), self.origins)

    def column(self, name: str) -> NDArray[np.float64]:
        word, _, rest = name.partition(" ")
        if name in ("day ahead", "weekday", "day of month", "day of year"):
            return self._calendar(name)[:, None, :]
        if word in ("mean", "deviation"):
            values = self.recent.column(f"{word}_{rest}").T.astype(np.float64)
            return (values - self.base if word == "mean" else values)[:, :, None]
        if word == "same":
            return self._same_weekday(int(rest.split(" ")[1]))
        if name == "year ago":
            return self._at(self.log, self.targets - 364, limit=self.last) - self.base[:, :, None]
        if word == "past":
            return self._past(rest)
        if word == "view":
            known = self.panel.known.get(rest)
            return np.full((1, 1, 1), np.nan) if known is None else known[:, self.origins].T.astype(np.float64)[:, :, None]
        if word == "static":
            return self._static(rest)[None, :, None]
        return self._fact(name)

    def _calendar(self, name: str) -> NDArray[np.float64]:
        if name == "day ahead":
            return np.broadcast_to(self.panel.offsets, self.targets.shape).astype(np.float64)
        if name == "weekday":
            return weekdays(self.panel, n_ticks=int(self.targets.max()) + 1)[self.targets].astype(np.float64)
        days = self.panel.days(self.targets)
        begin = days.astype("datetime64[M]" if name == "day of month" else "datetime64[Y]").astype("datetime64[D]")
        return (days - begin).astype(np.float64) + 1

    def _same_weekday(self, count: int) -> NDArray[np.float64]:
        means = compute_same_phase_means(self.log, origins=self.last + 1, leads=self.panel.offsets, counts=(count,), period=7)
        return means[0].transpose(1, 0, 2).astype(np.float64) - self.base[:, :, None]

    def _past(self, name: str) -> NDArray[np.float64]:
        features = compute_panel_features(self.panel.past[name], spec=PanelSpec(windows=(7,), deviations=False), ticks=self.last)
        return features.column("mean_7").T.astype(np.float64)[:, :, None]

    def _static(self, name: str) -> NDArray[np.float64]:
        fact = self.panel.statics.get(name)
        if fact is None:
            return np.full(self.panel.n_series, -1.0)
        if self.statics is None or name not in self.statics:
            return fact.codes.astype(np.float64)
        places = {label: i for i, label in enumerate(self.statics[name])}
        recode = np.array([places.get(label, -1) for label in fact.labels] + [-1], dtype=np.float64)
        return recode[fact.codes]

    def _fact(self, name: str) -> NDArray[np.float64]:
        kind, _, rest = name.partition(" ")
        fact = next((f for f in sorted(self.panel.ahead, key=len, reverse=True) if rest == f or rest.startswith(f + " ")), None)
        if fact is None:
            return np.full((1, 1, 1), np.nan)
        values, how = self.panel.ahead[fact], rest[len(fact) :].strip()
        if kind == "effect":
            return self._effect(values)[:, :, None]
        if how in ("before", "after"):
            # The day after the last target is not known at the origin, so that no row of training may show it either.
            return self._at(values, self.targets + (-1 if how == "before" else 1), limit=self.targets[:, -1])
        at_target = self._at(values, self.targets)
        if how == "less usual":
            seen = values[:, : self.panel.n_seen]
            usual = compute_panel_features(np.ascontiguousarray(seen), spec=PanelSpec(windows=(28,), deviations=False), ticks=self.last)
            return at_target - usual.column("mean_28").T.astype(np.float64)[:, :, None]
        return at_target

    def _effect(self, values: Floats) -> NDArray[np.float64]:
        """How the series sold on days with the fact above its mean, within the base's window, against its base."""
        seen = values[:, : self.panel.n_seen]
        there = np.isfinite(seen)
        middle = np.where(there, seen, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        flagged = np.where(seen > middle[:, None], self.log, np.nan).astype(np.float32)
        spec = PanelSpec(windows=(BASE_WINDOW,), deviations=False)
        return compute_panel_features(flagged, spec=spec, ticks=self.last).column(f"mean_{BASE_WINDOW}").T.astype(np.float64) - self.base

    def _at(self, values: Floats, ticks: Indexes, *, limit: Indexes | None = None) -> NDArray[np.float64]:
        """Values at ticks (n_origins x horizon) as (n_origins, n_series, horizon); NaN outside the array or after ``limit``."""
        inside = (ticks >= 0) & (ticks < values.shape[1])
        if limit is not None:
            inside &= ticks <= limit[:, None]
        found = values[:, np.clip(ticks, 0, values.shape[1] - 1)].transpose(1, 0, 2).astype(np.float64)
        return np.where(inside[:, None, :], found, np.nan)
