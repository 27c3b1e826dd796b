"""Back-tests at rolling origins: every candidate forecasts from what was seen then, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Indexes, Panel, join_keys
from endcap.loop.training.models import Candidate, Fitted
from endcap.solutions.forecasting.candidates.average import FittedAverage
from endcap.solutions.forecasting.finishing import finish
from endcap.solutions.forecasting.intervals import collect_residuals, fit_intervals

Cube = NDArray[np.float64]
PanelCandidate = Candidate[Panel, NDArray[np.float32]]
PanelFit = Fitted[Panel, NDArray[np.float32]]

_LEAST_SEEN = (14, 7)
_REFIT_EVERY_DAYS = 28


@dataclass(frozen=True, eq=False)
class BackTest:
    """Cubes n_series x n_origins x horizon. The first ``n_choosing`` origins serve to choose and calibrate, the others to judge.

    Where the history is too short to keep them apart, ``n_choosing`` is 0 and all origins do both, which ``notes`` says.
    """

    origins: Indexes
    n_choosing: int
    actual: Cube
    forecasts: dict[str, Cube]
    refused: dict[str, str]
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> slice:
        return slice(self.n_choosing, None)

    @property
    def choosing(self) -> slice:
        return slice(0, self.n_choosing or None)


def choose_origins(panel: Panel, *, n: int) -> tuple[Indexes, tuple[str, ...]]:
    """Up to ``n`` origins, a week apart, the last with all its targets seen; closer together when the history is short, and says so.

    Each leaves two weeks of history before it, one week when there is no more. None at all when the history is shorter than that and
    the horizon together: then nothing can be judged, and only a baseline may answer.
    """
    latest = panel.n_seen - panel.horizon - panel.lead
    for least in _LEAST_SEEN:
        earliest = panel.hidden + least
        if latest >= earliest:
            break
    else:
        need = _LEAST_SEEN[-1] + panel.hidden + panel.horizon + panel.lead
        return np.empty(0, dtype=np.int64), (f"{panel.n_seen} days of history are too short for a back-test, which needs {need}",)
    weekly = np.arange(latest, earliest - 1, -7, dtype=np.int64)[:n][::-1]
    if weekly.size >= min(4, n):
        return weekly, () if weekly.size == n else (f"the history is short: {weekly.size} back-test origins instead of {n}",)
    step = max(1, (latest - earliest) // max(1, n - 1))
    close = np.arange(latest, earliest - 1, -step, dtype=np.int64)[:n][::-1]
    return close, (f"the history is short: {close.size} back-test origins, {step} days apart instead of a week",)


def run_backtest(
    panel: Panel,
    candidates: Mapping[str, PanelCandidate],
    *,
    origins: Indexes,
    seed: int,
    notes: tuple[str, ...] = (),
    advance: Callable[[int, int], object] = lambda _done, _total: None,
) -> BackTest:
    """Forecasts of every candidate at every origin, from the panel as it was known there.

    Candidates are fitted anew at each origin, costly ones every four weeks; one that cannot be fitted at the last origin is refused
    with its reason. Cost: n_origins times the candidates' fits and forecasts.
    """
    shape = (panel.n_series, origins.size, panel.horizon)
    forecasts = {name: np.full(shape, np.nan) for name in candidates}
    refused: dict[str, str] = {}
    fits: dict[str, tuple[int, PanelFit]] = {}
    for place, origin in enumerate(origins):
        seen = panel.seen_at(int(origin))
        refused = {}
        now: dict[str, PanelFit] = {}
        for name, candidate in candidates.items():
            kept = fits.get(name)
            costly = getattr(candidate, "costly", False)
            try:
                if name == "average":
                    parts = {part.name: now[part.name] for part in getattr(candidate, "parts", ()) if part.name in now}
                    now[name] = FittedAverage.of(parts)
                elif kept is not None and costly and origin - kept[0] < _REFIT_EVERY_DAYS:
                    now[name] = kept[1]
                else:
                    now[name] = candidate.fit(seen, seed=seed)
                    fits[name] = (int(origin), now[name])
            except InvalidInput as error:
                refused[name] = error.what
                continue
            forecasts[name][:, place] = finish(now[name].predict(seen), seen)
        advance(place + 1, int(origins.size))
    if origins.size == 0:
        refused = _find_refused(panel, candidates, seed=seed)
    n_choosing = origins.size // 2 if origins.size >= 4 else 0
    if n_choosing == 0 and origins.size:
        notes = (*notes, "the history is too short to keep apart the origins that choose from those that judge")
    offered = {name: cube for name, cube in forecasts.items() if name not in refused}
    return BackTest(origins, n_choosing, cut_actual(panel, origins), offered, refused, notes)


def _find_refused(panel: Panel, candidates: Mapping[str, PanelCandidate], *, seed: int) -> dict[str, str]:
    """Without an origin only baselines are kept, and of them those that the history allows."""
    refused = {}
    for name, candidate in candidates.items():
        if not candidate.baseline:
            refused[name] = "without a back-test nothing would show what it is worth"
            continue
        try:
            candidate.fit(panel, seed=seed)
        except InvalidInput as error:
            refused[name] = error.what
    return refused


def cut_actual(panel: Panel, origins: Indexes) -> Cube:
    """What became known of the targets of each origin; NaN where masked, missing or not seen yet."""
    target = panel.target
    ticks = origins[:, None] + panel.lead + np.arange(panel.horizon)
    found = target[:, np.minimum(ticks, panel.n_seen - 1)].astype(np.float64)
    return np.where((ticks < panel.n_seen)[None], found, np.nan)


def bound_backtest(panel: Panel, test: BackTest, forecast: Cube) -> tuple[Cube, Cube]:
    """90 % limits for a candidate's back-test forecasts, each origin's from residuals that were known at that origin.

    The first origins have none and no limits. Cost: one fit of intervals per origin.
    """
    keys = tuple(join_keys(panel.keys))
    lower, upper = np.full(forecast.shape, np.nan), np.full(forecast.shape, np.nan)
    for place, origin in enumerate(test.origins):
        seen, earlier = panel.seen_at(int(origin)), test.origins[:place]
        # Outcomes as they stood at this origin: what was restated afterwards is not in them.
        known = collect_residuals(seen, origins=earlier, actual=cut_actual(seen, earlier), forecast=forecast[:, :place])
        if known.errors.size == 0:
            continue
        intervals = fit_intervals(known, keys=keys, start_weekday=panel.start.weekday())
        low, high = intervals.apply(forecast[:, place].astype(np.float32), seen)
        lower[:, place], upper[:, place] = low, high
    return lower, upper
