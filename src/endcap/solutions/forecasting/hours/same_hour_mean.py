"""The baseline: what the same hour of the last four weeks sold on average, where demand could be seen.

An hour that was never seen in that time takes the series' mean over the hours that were, times the shape of what it resembles; a series of
which nothing was seen takes the level of what it resembles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HOURS, HourPanel
from endcap.loop.training.artefacts import Artefact
from endcap.solutions.forecasting.hours import kernels
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.shapes import KINDS, DayPatterns, Doubles, Shapes, see
from endcap.solutions.forecasting.hours.tallies import fit_shapes, tally_shapes

_DAYS = 28
_FILE = "shapes.npz"
_EVERY_KIND = DayPatterns(np.zeros(1, dtype=np.int64), np.full((1, KINDS), 1 / KINDS))


@dataclass(frozen=True)
class SameHourMean:
    """The method. What shards tell are the shapes by likeness, on which other methods build."""

    name: str = "same_hour_mean"
    baseline: bool = True
    costly: bool = False
    needs: tuple[str, ...] = ()

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        return tally_shapes(shard)

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> MeanFit:
        return MeanFit(fit_shapes(learned))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> MeanFit:
        return MeanFit(Shapes.from_artefact(artefacts[_FILE]))


@dataclass(frozen=True, eq=False)
class MeanFit:
    """Shapes by likeness, for hours that were never seen."""

    shapes: Shapes
    look_back_days: int = _DAYS
    needs_survey: bool = False

    def survey(self, shard: HourPanel) -> Learned:
        return {}

    def inform(self, surveys: Iterable[Learned]) -> MeanFit:
        return self

    def predict(self, shard: HourPanel) -> Floats:
        panel = shard.latest(self.look_back_days)
        means = np.empty((panel.n_series, HOURS))
        sold, unseen = see(panel)
        kernels.fill_same_hour_means(sold, unseen, _DAYS, means)
        answer: Floats = np.maximum(_fill_gaps(means, panel, self.shapes)[:, panel.targets % HOURS], 0.0).astype(np.float32)
        return answer

    def to_artefacts(self) -> dict[str, Artefact]:
        return {_FILE: self.shapes.to_artefact()}


def shapes_of(given: Mapping[str, HourFit]) -> Shapes:
    """The shapes that the baseline learned. Raises InvalidInput where it is not among the fits given."""
    fit = given.get("same_hour_mean")
    if not isinstance(fit, MeanFit):
        raise InvalidInput(f"A method that builds on the shapes of same_hour_mean was given fits of {sorted(given)} only.")
    return fit.shapes


def _fill_gaps(means: Doubles, panel: HourPanel, shapes: Shapes) -> Doubles:
    """``means`` (n_series x 24) with missing ones filled, in place: by the level of the row's others, or of what the series resembles."""
    holed = np.flatnonzero(np.isnan(means).any(axis=1))
    if holed.size == 0:
        return means
    rows, places = shapes.expand(_EVERY_KIND)
    expected = (rows[shapes.rows(panel)[holed]] * places[shapes.place_rows(panel)[holed]])[:, 0]
    there = np.isfinite(means[holed])
    above, below = np.where(there, means[holed], 0.0).sum(axis=1), np.where(there, expected, 0.0).sum(axis=1)
    level = np.divide(above, below, out=shapes.prior_levels(panel)[holed], where=below > 0)
    means[holed] = np.where(there, means[holed], level[:, None] * expected)
    return means
