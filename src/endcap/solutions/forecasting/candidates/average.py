"""The plain average of several fits: hard to beat where each errs in its own way (Bates and Granger, *The combination of forecasts*, 1969)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats, Panel
from endcap.loop.training.artefacts import Artefact
from endcap.loop.training.models import Candidate, Fitted, MemberFits


@dataclass(frozen=True)
class Average:
    """The candidate. Parts that cannot be fitted on the data are left out; two at least must remain."""

    parts: tuple[Candidate[Panel, Floats], ...]
    name: str = "average"
    baseline: bool = False
    costly: bool = True

    def fit(self, data: Panel, *, seed: int) -> FittedAverage:
        fitted = {}
        for part in self.parts:
            try:
                fitted[part.name] = part.fit(data, seed=seed)
            except InvalidInput:
                continue  # the part says the same in its own line of the leaderboard
        return FittedAverage.of(fitted)

    def revive(self, artefacts: dict[str, Artefact]) -> FittedAverage:
        fitted = {}
        for part in self.parts:
            own = {name.removeprefix(f"{part.name}."): a for name, a in artefacts.items() if name.startswith(f"{part.name}.")}
            if own:
                fitted[part.name] = part.revive(own)
        return FittedAverage.of(fitted)


@dataclass(frozen=True, eq=False)
class FittedAverage:
    parts: dict[str, Fitted[Panel, Floats]]

    @staticmethod
    def of(parts: dict[str, Any]) -> FittedAverage:
        """The average of fits made already. Raises InvalidInput for fewer than two."""
        if len(parts) < 2:
            raise InvalidInput(f"average needs two fitted parts; there are {sorted(parts)}.")
        return FittedAverage(parts)

    @property
    def members(self) -> MemberFits:
        return next((p.members for p in self.parts.values() if p.members.fitted), MemberFits())

    def predict(self, data: Panel) -> Floats:
        return average_answers([part.predict(data) for part in self.parts.values()])

    def to_artefacts(self) -> dict[str, Artefact]:
        return {f"{name}.{file}": artefact for name, part in self.parts.items() for file, artefact in part.to_artefacts().items()}


def average_answers(answers: Sequence[Floats]) -> Floats:
    """The mean of answers of one shape over those that are there; NaN where none is."""
    stacked = np.stack(answers)
    there = np.isfinite(stacked)
    n = there.sum(axis=0)
    total = np.where(there, stacked, 0).sum(axis=0)
    return np.divide(total, n, out=np.full(n.shape, np.nan, dtype=np.float32), where=n > 0).astype(np.float32)
