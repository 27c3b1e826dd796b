"""What both kinds of trees share: a fit that corrects the rates by a forest over what all shards told of late days."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from endcap.core.errors import InvalidInput
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.training.artefacts import Artefact, decode_json, encode_json
from endcap.solutions.forecasting.hours.forest import Forest, read_forest
from endcap.solutions.forecasting.hours.methods import HourFit, Learned
from endcap.solutions.forecasting.hours.pulses import RECALLED_DAYS, Pulses, merge_pulses, survey_pulses
from endcap.solutions.forecasting.hours.shrunk_rates import RatesFit, rates_of

_TEXT, _HEAD = "trees.txt", "trees.json"


@dataclass(frozen=True, eq=False)
class TreesFit:
    """LightGBM's own text, the rates that it corrects and the known-ahead facts that it reads, in order."""

    name: str
    rates: RatesFit
    text: str
    facts: tuple[str, ...]
    pulses: Pulses | None = None
    needs_survey: bool = True

    @classmethod
    def revive(cls, name: str, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> Self:
        return cls(name, rates_of(given), artefacts[_TEXT].payload.decode(), tuple(decode_json(artefacts[_HEAD])["facts"]))

    @property
    def look_back_days(self) -> int:
        return self.rates.look_back_days

    def survey(self, shard: HourPanel) -> Learned:
        return survey_pulses(shard.latest(self.look_back_days), self.rates.shapes, n_days=RECALLED_DAYS)

    def inform(self, surveys: Iterable[Learned]) -> Self:
        return replace(self, pulses=merge_pulses(surveys, self.rates.shapes))

    @property
    def known_pulses(self) -> Pulses:
        """What the latest survey told. Raises InvalidInput where there was none."""
        if self.pulses is None:
            raise InvalidInput(f"{self.name} was fitted, but not informed by a survey of all shards.", hint="call survey on each, then inform")
        return self.pulses

    @cached_property
    def forest(self) -> Forest:
        return read_forest(self.text)

    def to_artefacts(self) -> dict[str, Artefact]:
        return {_TEXT: Artefact("lightgbm", self.text.encode()), _HEAD: encode_json({"facts": list(self.facts)})}
