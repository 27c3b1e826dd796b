"""Shrunk rates: a quick level of each series on the slow shapes of what it resembles and of its place.

A level is what was sold over what the shape expects of the same seen hours, so that an hour in which demand could not be seen needs no
imputation; recent days count more. It is drawn to the series' slow level by pseudo-days, and that one to the level of its likeness and
place (shrinkage as of James and Stein, *Estimation with quadratic loss*, 1961). Cheap: a pass over six weeks of cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.training.artefacts import Artefact
from endcap.solutions.forecasting.hours import day_kernels
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.pulses import KEEPS, PSEUDO_DAYS, Pulses, merge_pulses, survey_pulses
from endcap.solutions.forecasting.hours.same_hour_mean import shapes_of
from endcap.solutions.forecasting.hours.shapes import Doubles, Shapes, find_patterns, see
from endcap.solutions.forecasting.hours.tallies import correct_shapes, tally_corrections

LOOK_BACK_DAYS = 42
SURVEY_DAYS = 84
_FILE = "shapes.npz"


@dataclass(frozen=True)
class ShrunkRates:
    """The method."""

    name: str = "shrunk_rates"
    baseline: bool = False
    costly: bool = False
    needs: tuple[str, ...] = ("same_hour_mean",)

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        return tally_corrections(shard, shapes_of(given))

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> RatesFit:
        return RatesFit(correct_shapes(shapes_of(given), learned))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> RatesFit:
        return RatesFit(Shapes.from_artefact(artefacts[_FILE]))


@dataclass(frozen=True, eq=False)
class RatesFit:
    """Shapes by likeness and place; levels are taken from the panel that is forecast. A survey is for methods that build on this one."""

    shapes: Shapes
    pulses: Pulses | None = None
    look_back_days: int = LOOK_BACK_DAYS
    needs_survey: bool = False

    def survey(self, shard: HourPanel) -> Learned:
        return survey_pulses(shard.latest(SURVEY_DAYS), self.shapes, n_days=SURVEY_DAYS)

    def inform(self, surveys: Iterable[Learned]) -> RatesFit:
        return replace(self, pulses=merge_pulses(surveys, self.shapes))

    def predict(self, shard: HourPanel) -> Floats:
        panel = shard.latest(self.look_back_days)
        return self.shapes.spread_levels(self.levels(panel)[:, None], panel, first_day=0)

    def levels(self, panel: HourPanel) -> Doubles:
        """What each series sells in a day of kind 1, as of the panel's origin."""
        patterns = find_patterns(panel)
        likeness, place = self.shapes.expand(patterns)
        rows = np.stack((self.shapes.rows(panel), self.shapes.place_rows(panel)))
        levels = np.empty(panel.n_series)
        priors = self.shapes.prior_levels(panel)
        day_kernels.fill_levels(*see(panel), patterns.of_day, rows, likeness, place, priors, KEEPS, PSEUDO_DAYS, levels)
        return levels

    @property
    def known_pulses(self) -> Pulses:
        """What the latest survey told. Raises InvalidInput where there was none."""
        if self.pulses is None:
            raise InvalidInput("shrunk_rates was fitted, but not informed by a survey of all shards.", hint="call survey on each, then inform")
        return self.pulses

    def to_artefacts(self) -> dict[str, Artefact]:
        return {_FILE: self.shapes.to_artefact()}


def rates_of(given: Mapping[str, HourFit]) -> RatesFit:
    """The shrunk rates among the fits given. Raises InvalidInput where they are not."""
    fit = given.get("shrunk_rates")
    if not isinstance(fit, RatesFit):
        raise InvalidInput(f"A method that builds on shrunk_rates was given fits of {sorted(given)} only.")
    return fit
