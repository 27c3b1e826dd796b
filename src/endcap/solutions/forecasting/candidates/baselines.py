"""Baselines: what anybody would do without a model. They always run, and are what a model must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.features.panels.kernels import compute_same_phase_means
from endcap.loop.training.artefacts import Artefact
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.day_kinds import weekdays

_FLAG_WINDOW = 84
_MOST_FLAGS = 4


@dataclass(frozen=True)
class SeasonalNaive:
    """The value one season before: the latest seen day that lies a multiple of ``season`` days before the target."""

    season: int
    baseline: bool = True
    costly: bool = False

    @property
    def name(self) -> str:
        return f"seasonal_naive_{self.season}"

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def fit(self, data: Panel, *, seed: int) -> SeasonalNaive:
        need = self.season + data.hidden + (0 if self.season < 300 else 28)
        if data.n_seen < need:
            raise InvalidInput(f"{self.name} needs {need} days of history; there are {data.n_seen}.")
        return self

    def predict(self, data: Panel) -> Floats:
        target = data.target
        back = self.season * -(-(data.offsets + 1) // self.season)
        ticks = data.n_seen + data.offsets - back
        answer = np.full((data.n_series, data.horizon), np.nan, dtype=np.float32)
        for _ in range(4):  # a missing day is looked for up to three seasons earlier
            there = ticks >= 0
            values = np.full_like(answer, np.nan)
            values[:, there] = target[:, ticks[there]]
            answer = np.where(np.isnan(answer), values, answer)
            ticks = ticks - self.season
        return answer

    def to_artefacts(self) -> dict[str, Artefact]:
        return {}

    def revive(self, artefacts: dict[str, Artefact]) -> SeasonalNaive:
        return self


@dataclass(frozen=True)
class WeekdayMean:
    """The mean of the latest four values of the same weekday."""

    name: str = "weekday_mean"
    baseline: bool = True
    costly: bool = False

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def fit(self, data: Panel, *, seed: int) -> WeekdayMean:
        return self

    def predict(self, data: Panel) -> Floats:
        means: Floats = compute_same_phase_means(data.target, origins=[data.n_seen], leads=data.offsets, counts=(4,), period=7)
        return means[0, :, 0, :]

    def to_artefacts(self) -> dict[str, Artefact]:
        return {}

    def revive(self, artefacts: dict[str, Artefact]) -> WeekdayMean:
        return self


@dataclass(frozen=True)
class FlagMedian:
    """The median of the latest 12 weeks over days of the same weekday and the same known-ahead flags (promotion, holiday).

    Without a day of the same flags the weekday mean answers. Flags are the known-ahead facts that are only ever 0 or 1; the first four
    are used.
    """

    name: str = "flag_median"
    baseline: bool = True
    costly: bool = False

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def fit(self, data: Panel, *, seed: int) -> FlagMedian:
        if not flag_facts(data):
            raise InvalidInput("flag_median needs a known-ahead fact that is 0 or 1; there is none.")
        return self

    def predict(self, data: Panel) -> Floats:
        answer = WeekdayMean().predict(data)
        names = flag_facts(data)[:_MOST_FLAGS]
        if not names:
            return answer
        first = max(0, data.n_seen - _FLAG_WINDOW)
        target = data.target[:, first:]
        codes = np.zeros((data.n_series, data.origin + data.lead + data.horizon), dtype=np.int8)
        for bit, name in enumerate(names):
            codes |= (np.nan_to_num(data.ahead[name]) > 0).astype(np.int8) << bit
        day_of = weekdays(data, n_ticks=codes.shape[1])
        for place, tick in enumerate(data.targets):
            same = codes[:, first : data.n_seen] == codes[:, tick : tick + 1]
            found = median(np.where(same & (day_of[first : data.n_seen] == day_of[tick]), target, np.nan))
            answer[:, place] = np.where(np.isnan(found), answer[:, place], found)
        return answer

    def to_artefacts(self) -> dict[str, Artefact]:
        return {}

    def revive(self, artefacts: dict[str, Artefact]) -> FlagMedian:
        return self


def flag_facts(panel: Panel) -> list[str]:
    """The known-ahead facts that take only the values 0 and 1, both of them, among what is seen; not the one that says open."""
    found = []
    for name, values in panel.ahead.items():
        seen = values[:, : panel.n_seen]
        ones, zeros = int((seen == 1).sum()), int((seen == 0).sum())
        if name != panel.open_fact and ones and zeros and ones + zeros == int(np.isfinite(seen).sum()):
            found.append(name)
    return found


def median(values: Floats) -> NDArray[np.float32]:
    """The median along the second axis without NaN; NaN where there is nothing."""
    ordered = np.sort(values, axis=1)  # NaN sort last
    n = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum((n - 1) // 2, 0), np.maximum(n // 2, 0)
    middle = (ordered[rows, low] + ordered[rows, np.minimum(high, values.shape[1] - 1)]) / 2 if values.shape[1] else np.full(len(values), np.nan)
    return np.where(n > 0, middle, np.nan).astype(np.float32)
