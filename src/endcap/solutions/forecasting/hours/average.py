"""The plain average of daily and hourly trees: each errs in its own way (Bates and Granger, *The combination of forecasts*, 1969)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.training.artefacts import Artefact, decode_json, encode_json
from endcap.solutions.forecasting.hours.methods import HourFit, Learned

_FILE = "average.json"


@dataclass(frozen=True)
class Average:
    """The method. It learns nothing of its own; all of ``parts`` must have a fit."""

    parts: tuple[str, ...] = ("daily_trees", "hourly_trees")
    name: str = "average"
    baseline: bool = False
    costly: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return self.parts

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        return {}

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> AverageFit:
        return AverageFit(_choose_parts(self.parts, given))

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> AverageFit:
        return AverageFit(_choose_parts(tuple(decode_json(artefacts[_FILE])), given))


@dataclass(frozen=True, eq=False)
class AverageFit:
    """The fits that are averaged, by name."""

    parts: dict[str, HourFit]

    @property
    def look_back_days(self) -> int:
        return max(part.look_back_days for part in self.parts.values())

    @property
    def needs_survey(self) -> bool:
        return any(part.needs_survey for part in self.parts.values())

    def survey(self, shard: HourPanel) -> Learned:
        return {f"{name}.{key}": values for name, part in self.parts.items() for key, values in part.survey(shard).items()}

    def inform(self, surveys: Iterable[Learned]) -> AverageFit:
        told = list(surveys)

        def own(survey: Learned, name: str) -> Learned:
            return {key.removeprefix(f"{name}."): values for key, values in survey.items() if key.startswith(f"{name}.")}

        return replace(self, parts={name: part.inform(own(survey, name) for survey in told) for name, part in self.parts.items()})

    def predict(self, shard: HourPanel) -> Floats:
        answers = [part.predict(shard) for part in self.parts.values()]
        total = np.zeros((shard.n_series, shard.horizon))
        for answer in answers:
            total += answer
        return (total / len(answers)).astype(np.float32)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {_FILE: encode_json(list(self.parts))}


def _choose_parts(names: tuple[str, ...], given: Mapping[str, HourFit]) -> dict[str, HourFit]:
    missing = [name for name in names if name not in given]
    if missing:
        raise InvalidInput(f"average needs fits of {list(names)}; {missing} are not among those given: {sorted(given)}.")
    return {name: given[name] for name in names}
