"""Hourly trees: the ratio of an hour's sales to what the rates expect of it, learned directly on a sample of hours.

The same offset, the same features and the same treatment of what all series share as daily trees, and beside them the hour and how the
series sold in it of late. Many times the rows of daily trees to forecast: a companion for their average rather than a champion for millions.
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
from endcap.solutions.forecasting.hours.hour_rows import expand_hours, sample_hours
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.sampling import draw_rows
from endcap.solutions.forecasting.hours.shrunk_rates import SURVEY_DAYS, rates_of
from endcap.solutions.forecasting.hours.trees import TreesFit

_MOST_ROWS = 800_000
_HOURS_OF_A_DAY = 1.5  # of two hours drawn, those that are seen
_ROUNDS = 100
_PARAMETERS = {"learning_rate": 0.08, "num_leaves": 31, "min_data_in_leaf": 400, "min_sum_hessian_in_leaf": 40.0, "feature_fraction": 0.6}
_MOST_FACTOR = 5.0
_SERIES_AT_ONCE = 2_000


@dataclass(frozen=True)
class HourlyTrees:
    """The method."""

    name: str = "hourly_trees"
    baseline: bool = False
    costly: bool = True
    needs: tuple[str, ...] = ("same_hour_mean", "shrunk_rates")

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        rates = rates_of(given)
        panel, facts = shard.latest(SURVEY_DAYS), choose_facts(shard)
        leads, origins = find_leads(panel), training_origins(panel)
        share = min(1.0, _MOST_ROWS / max(rates.shapes.n_series * origins.size * leads.size * _HOURS_OF_A_DAY, 1))
        wanted = draw_rows(panel, origins + panel.start.toordinal(), share=share, seed=seed + 1)
        days = build_rows(
            panel, shapes=rates.shapes, pulses=rates.known_pulses, facts=facts, origins=origins, leads=leads, wanted=wanted, learning=True
        )
        at = origins[days.at // leads.size] if leads.size else days.at
        lead = leads[days.at % leads.size] if leads.size else days.at
        rows = sample_hours(panel, days, shapes=rates.shapes, origins=at, targets=at + lead)
        return tell_rows(rows.features, rows.told, rows.expected, rows.at, facts=facts)

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> HourlyFit:
        rates = rates_of(given)
        text = boost_told(learned, unit=rates.shapes.unit, name=self.name, rounds=_ROUNDS, seed=seed, **_PARAMETERS)
        return HourlyFit(self.name, rates=rates, text=text, facts=facts_of(learned))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> HourlyFit:
        return HourlyFit.revive(self.name, artefacts, given=given)


@dataclass(frozen=True, eq=False)
class HourlyFit(TreesFit):
    """Trees for the ratios of hours."""

    def predict(self, shard: HourPanel) -> Floats:
        panel = shard.latest(self.look_back_days)
        leads, shapes = find_leads(panel), self.rates.shapes
        days = build_rows(
            panel,
            shapes=shapes,
            pulses=self.known_pulses,
            facts=self.facts,
            origins=np.array([panel.n_seen // HOURS]),
            leads=leads,
            wanted=np.ones((panel.n_series, 1), dtype=np.bool_),
            learning=False,
        )
        means = np.empty((panel.n_series, panel.horizon), dtype=np.float32)
        for first in range(0, panel.n_series, _SERIES_AT_ONCE):
            series = np.arange(first, min(first + _SERIES_AT_ONCE, panel.n_series))
            rows = expand_hours(panel, days, shapes=shapes, first_lead=int(leads[0]), n_leads=leads.size, series=series)
            ratios = predict_ratios(self.forest, rows.features, most=_MOST_FACTOR)
            means[series] = (rows.expected * ratios).reshape(series.size, panel.horizon)
        return means
