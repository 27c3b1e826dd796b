"""Shrunk rates: a quick level of each series on the slow shapes of what it resembles and of its place.

A level is what was sold over what the shape expects of the same seen hours, so that an hour in which demand could not be seen needs no
imputation; recent days count more. It is drawn to the series' slow level by pseudo-days, and that one to the level of its likeness and
place (shrinkage as of James and Stein, *Estimation with quadratic loss*, 1961). Cheap: a pass over eight weeks of cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from endcap.loop.features.hour_panels import HOURS, HourPanel
from endcap.loop.features.panels import Floats
from endcap.loop.training.artefacts import Artefact
from endcap.solutions.forecasting.hours import kernels
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.same_hour_mean import shapes_of
from endcap.solutions.forecasting.hours.shapes import Doubles, Shapes, find_patterns, see
from endcap.solutions.forecasting.hours.tallies import correct_shapes, tally_corrections

_LOOK_BACK_DAYS = 56
_QUICK, _SLOW = 4.0, 20.0
_QUICK_PSEUDO_DAYS, _SLOW_PSEUDO_DAYS = 2.0, 0.5
_FILE = "shapes.npz"


@dataclass(frozen=True)
class ShrunkRates:
    """The method."""

    name: str = "shrunk_rates"
    baseline: bool = False
    needs: tuple[str, ...] = ("same_hour_mean",)

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        return tally_corrections(shard, shapes_of(given))

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> RatesFit:
        return RatesFit(correct_shapes(shapes_of(given), learned))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> RatesFit:
        return RatesFit(Shapes.from_artefact(artefacts[_FILE]))


@dataclass(frozen=True, eq=False)
class RatesFit:
    """Shapes by likeness and place; levels are taken from the panel that is forecast."""

    shapes: Shapes
    look_back_days: int = _LOOK_BACK_DAYS

    def survey(self, shard: HourPanel) -> Learned:
        return {}

    def inform(self, surveys: Sequence[Learned]) -> RatesFit:
        return self

    def predict(self, shard: HourPanel) -> Floats:
        panel = shard.latest(self.look_back_days)
        means = np.empty((panel.n_series, panel.horizon), dtype=np.float32)
        likeness, place = self.shapes.expand(patterns := find_patterns(panel))
        rows, places = self.shapes.rows(panel), self.shapes.place_rows(panel)
        kernels.fill_targets(self.levels(panel), panel.targets, patterns.of_day, rows, places, likeness, place, means)
        return means

    def levels(self, panel: HourPanel) -> Doubles:
        """What each series sells in a day of kind 1, as of the panel's origin."""
        patterns = find_patterns(panel)
        likeness, place = self.shapes.expand(patterns)
        sold, unseen = see(panel)
        n_days = -(-panel.n_seen // HOURS)
        ages = np.maximum(panel.n_seen - HOURS * (np.arange(n_days) + 1.0), 0.0) / HOURS
        sums = np.zeros((panel.n_series, 2, 2))
        keeps = np.array([0.5 ** (1 / _QUICK), 0.5 ** (1 / _SLOW)])
        rows, places = self.shapes.rows(panel), self.shapes.place_rows(panel)
        kernels.fill_levels(sold, unseen, 0, patterns.of_day, rows, places, likeness, place, ages, keeps, sums)
        (quick, quick_days), (slow, slow_days) = sums[:, 0].T, sums[:, 1].T
        slow_level = (slow + _SLOW_PSEUDO_DAYS * self.shapes.prior_levels(panel)) / (slow_days + _SLOW_PSEUDO_DAYS)
        level: Doubles = (quick + _QUICK_PSEUDO_DAYS * slow_level) / (quick_days + _QUICK_PSEUDO_DAYS)
        return np.maximum(level, 0.0)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {_FILE: self.shapes.to_artefact()}
