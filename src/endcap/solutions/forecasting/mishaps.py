"""Mishaps, planted on purpose: versions that a gate must refuse. For the demo and for tests of gates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from endcap.governance.sessions import Session
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.retraining.tasks import DataRef, Trial
from endcap.loop.training.artefacts import Artefact
from endcap.loop.training.models import NO_MEMBERS, MemberFits
from endcap.solutions.forecasting.backtests import choose_origins, run_backtest
from endcap.solutions.forecasting.candidates.shrunk_rates import FittedRates, ShrunkRates
from endcap.solutions.forecasting.task import ForecastTask
from endcap.solutions.forecasting.training import build_candidates, finish_trial


@dataclass(frozen=True)
class WrongUnit:
    """Shrunk rates learned from sales in another unit: all its forecasts are ``times`` too large."""

    times: float
    name: str = "shrunk_rates"
    baseline: bool = False
    costly: bool = False

    def fit(self, data: Panel, *, seed: int) -> FittedWrongUnit:
        return FittedWrongUnit(ShrunkRates().fit(data, seed=seed), self.times)

    def revive(self, artefacts: dict[str, Artefact]) -> FittedRates:
        return ShrunkRates().revive(artefacts)


@dataclass(frozen=True, eq=False)
class FittedWrongUnit:
    rates: FittedRates
    times: float

    @property
    def members(self) -> MemberFits:
        return NO_MEMBERS

    def predict(self, data: Panel) -> Floats:
        return self.rates.predict(data) * np.float32(self.times)

    def to_artefacts(self) -> dict[str, Artefact]:
        return replace(self.rates, scale=self.times).to_artefacts()


def train_in_wrong_unit(session: Session, task: ForecastTask, data: DataRef, *, times: float = 2.0) -> Trial:
    """A trial of shrunk rates whose every forecast is ``times`` too large, back-tested and put to rest as any other."""
    panel = task.read_panel(session, data)
    candidates = {
        **build_candidates(tuple(name for name in task.forecast.offered if name not in ("average", "by_member"))),
        "shrunk_rates": WrongUnit(times),
    }
    candidates = {name: c for name, c in candidates.items() if name not in ("trees", "members")}
    origins, notes = choose_origins(panel, n=task.forecast.n_origins)
    test = run_backtest(panel, candidates, origins=origins, seed=task.seed, notes=notes)
    return task.rest(session, finish_trial(panel, task.forecast, test, candidates, "shrunk_rates"), panel, data)
