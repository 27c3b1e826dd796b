"""Watches: standing checks on a released model, and what follows a breach."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.gates import METRICS
from endcap.core.definitions.tables import as_names, set_field
from endcap.core.durations import count_days
from endcap.core.errors import DefinitionError, suggest

REACTIONS = ("notify", "retrain")


class Quality(msgspec.Struct, frozen=True):
    """Compares the error of forecasts that were delivered with the error that validation promised.

    A breach is a live error over the last ``window`` above ``factor`` times the validation error. ``then`` names what is done about it:
    ``notify`` records an incident for people to see, ``retrain`` trains a new version, which the gate judges as any other.
    ``least_rows`` outcomes are needed before the watch says anything.
    """

    metric: str = "wape"
    factor: float = 1.3
    window: str = "7d"
    then: tuple[str, ...] = ("notify", "retrain")
    least_rows: int = 20

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise DefinitionError(f"{self.metric!r} is not a metric of a watch. Metrics: {list(METRICS)}.", hint=suggest(self.metric, METRICS))
        if not self.factor > 0:
            raise DefinitionError(f"Quality.factor is {self.factor}; it must be above 0.")
        if self.least_rows < 1:
            raise DefinitionError(f"Quality.least_rows is {self.least_rows}; it must be at least 1.")
        count_days(self.window, what="Quality.window", at_least=1)
        set_field(self, "then", as_names(self.then, what="Quality.then"))
        for reaction in self.then:
            if reaction not in REACTIONS:
                raise DefinitionError(f"{reaction!r} is not a reaction. Reactions: {list(REACTIONS)}.", hint=suggest(reaction, REACTIONS))
