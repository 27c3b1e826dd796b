"""Daily trees: what the shrunk rates expect of a day, corrected by trees over discounts, pulses and the series' own late days.

The label is what was sold in a day's seen hours over what the rates had expected of the same hours, weighted by the latter: Poisson's
likelihood with the rates as offset, so that an hour in which demand could not be seen needs no imputation. The hours keep the rates'
profile. What all series have in common on a day (weather, a holiday) is taken out of the labels: a month holds too few days to learn it
from, and trees that try take the month's growth for a law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.loop.training.artefacts import Artefact
from endcap.solutions.forecasting.hours.boosting import boost_told, facts_of, predict_ratios, tell_rows
from endcap.solutions.forecasting.hours.day_rows import build_rows, choose_facts, find_leads, training_origins
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.sampling import draw_rows
from endcap.solutions.forecasting.hours.shrunk_rates import SURVEY_DAYS, rates_of
from endcap.solutions.forecasting.hours.trees import TreesFit

_MOST_ROWS = 1_200_000
_ROUNDS = 100
_PARAMETERS = {"learning_rate": 0.08, "num_leaves": 63, "min_data_in_leaf": 200, "min_sum_hessian_in_leaf": 40.0, "feature_fraction": 0.6}
_MOST_FACTOR = 5.0


@dataclass(frozen=True)
class DailyTrees:
    """The method."""

    name: str = "daily_trees"
    baseline: bool = False
    costly: bool = False
    needs: tuple[str, ...] = ("same_hour_mean", "shrunk_rates")

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        rates = rates_of(given)
        panel, facts = shard.latest(SURVEY_DAYS), choose_facts(shard)
        leads, origins = find_leads(panel), training_origins(panel)
        share = min(1.0, _MOST_ROWS / max(rates.shapes.n_series * origins.size * leads.size, 1))
        wanted = draw_rows(panel, origins + panel.start.toordinal(), share=share, seed=seed)
        rows = build_rows(
            panel, shapes=rates.shapes, pulses=rates.known_pulses, facts=facts, origins=origins, leads=leads, wanted=wanted, learning=True
        )
        return tell_rows(rows.features, rows.told, rows.expected, rows.at, facts=facts)

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> DailyFit:
        rates = rates_of(given)
        text = boost_told(learned, unit=rates.shapes.unit, name=self.name, rounds=_ROUNDS, seed=seed, **_PARAMETERS)
        return DailyFit(self.name, rates=rates, text=text, facts=facts_of(learned))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> DailyFit:
        return DailyFit.revive(self.name, artefacts, given=given)


@dataclass(frozen=True, eq=False)
class DailyFit(TreesFit):
    """Trees for the ratios of days."""

    def predict(self, shard: HourPanel) -> Floats:
        panel, shapes = shard.latest(self.look_back_days), self.rates.shapes
        today, leads = panel.n_seen // HOURS, find_leads(panel)
        rows = build_rows(
            panel,
            shapes=shapes,
            pulses=self.known_pulses,
            facts=self.facts,
            origins=np.array([today]),
            leads=leads,
            wanted=np.ones((panel.n_series, 1), dtype=np.bool_),
            learning=False,
        )
        levels = rows.levels * predict_ratios(self.forest, rows.features, most=_MOST_FACTOR)
        return shapes.spread_levels(levels.reshape(panel.n_series, leads.size), panel, first_day=today + int(leads[0]))
