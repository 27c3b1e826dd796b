"""Methods for sparse demand, by the day and with the shapes' hours: Croston's and that of Teunter, Syntetos and Babai.

Croston (*Forecasting and stock control for intermittent demands*, 1972) smooths the size of a day's sales and the interval between days
with any; Syntetos and Boylan (*The accuracy of intermittent demand estimates*, 2005) take out its bias by the factor 1 - alpha/2. Teunter,
Syntetos and Babai (*Intermittent demand: linking forecasting to inventory obsolescence*, 2011) smooth the chance of a day's sale on every day
instead, so that what nobody buys any more fades. A day's size is what was sold over what its shape expects of the hours in which demand was
seen, and a day counts as long as the share of its hours that were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.training.artefacts import Artefact, encode_json
from endcap.solutions.forecasting.hours import day_kernels
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.shapes import find_patterns, see
from endcap.solutions.forecasting.hours.shrunk_rates import RatesFit, rates_of

_LOOK_BACK_DAYS = 56
# Smoothing of sizes and of intervals or chances: the middle of what both papers recommend.
_SIZE_ALPHA, _CHANCE_ALPHA = 0.1, 0.1
_LEAST_SHARE = 0.25


@dataclass(frozen=True)
class SparseDemand:
    """The method, of either kind."""

    name: Literal["croston", "tsb"]
    baseline: bool = False
    costly: bool = False
    needs: tuple[str, ...] = ("same_hour_mean", "shrunk_rates")

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        return {}

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> SparseFit:
        return SparseFit(rates_of(given), fading=self.name == "tsb")

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> SparseFit:
        return SparseFit(rates_of(given), fading=self.name == "tsb")


@dataclass(frozen=True, eq=False)
class SparseFit:
    """The rates whose shapes are used, and whether chances fade without sales (TSB) or wait for the next (Croston)."""

    rates: RatesFit
    fading: bool
    look_back_days: int = _LOOK_BACK_DAYS
    needs_survey: bool = False

    def survey(self, shard: HourPanel) -> Learned:
        return {}

    def inform(self, surveys: Iterable[Learned]) -> SparseFit:
        return self

    def predict(self, shard: HourPanel) -> Floats:
        panel, shapes = shard.latest(self.look_back_days), self.rates.shapes
        likeness, place = shapes.expand(patterns := find_patterns(panel))
        rows = np.stack((shapes.rows(panel), shapes.place_rows(panel)))
        levels = np.empty(panel.n_series)
        day_kernels.fill_sparse_levels(
            *see(panel),
            patterns.of_day,
            rows,
            likeness,
            place,
            shapes.prior_levels(panel),
            self.fading,
            _SIZE_ALPHA,
            _CHANCE_ALPHA,
            _LEAST_SHARE,
            levels,
        )
        return shapes.spread_levels(levels[:, None], panel, first_day=0)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {"sparse.json": encode_json({"fading": self.fading})}
