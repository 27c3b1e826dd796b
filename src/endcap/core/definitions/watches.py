"""Watches: standing checks on a released model, and what follows a breach."""

from __future__ import annotations

import msgspec

from endcap.core.definitions.gates import METRICS
from endcap.core.definitions.tables import as_names, set_field
from endcap.core.durations import count_days
from endcap.core.errors import DefinitionError, suggest

REACTIONS = ("notify", "retrain")
_BY_MEMBER = ("wape", "mae")


class Quality(msgspec.Struct, frozen=True, tag=True):
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
        set_field(self, "then", _as_reactions(self.then, what="Quality.then"))


class MemberQuality(msgspec.Struct, frozen=True, tag=True):
    """Looks at all members of a model (stores) in one pass and names those whose error fell behind what validation promised each of them.

    A member fell when its live error over the last ``window`` is above ``factor`` times its own validation error by more than chance explains.
    Of the members named, at most about the share ``false_discovery_rate`` is named wrongly. What all members share, such as a storm,
    is said once, about the model, when it alone exceeds the factor. ``then`` names what is done about either, as in ``Quality``. A member
    needs ``least_days`` days with outcomes to be judged; one without any for ``stale_after`` is listed as stale.
    """

    metric: str = "wape"
    factor: float = 1.3
    window: str = "14d"
    false_discovery_rate: float = 0.05
    then: tuple[str, ...] = ("notify", "retrain")
    least_days: int = 5
    stale_after: str = "7d"

    def __post_init__(self) -> None:
        if self.metric not in _BY_MEMBER:
            offered = list(_BY_MEMBER)
            raise DefinitionError(f"{self.metric!r} is not a metric of a watch over members. Metrics: {offered}.", hint=suggest(self.metric, offered))
        if not self.factor > 0:
            raise DefinitionError(f"MemberQuality.factor is {self.factor}; it must be above 0.")
        if not 0 < self.false_discovery_rate < 1:
            raise DefinitionError(f"MemberQuality.false_discovery_rate is {self.false_discovery_rate}; it must be a share between 0 and 1.")
        window = count_days(self.window, what="MemberQuality.window", at_least=2)
        if not 2 <= self.least_days <= window:
            raise DefinitionError(f"MemberQuality.least_days is {self.least_days}; it must be 2 to the {window} days of its window.")
        count_days(self.stale_after, what="MemberQuality.stale_after", at_least=1)
        set_field(self, "then", _as_reactions(self.then, what="MemberQuality.then"))


Watch = Quality | MemberQuality


def _as_reactions(value: object, *, what: str) -> tuple[str, ...]:
    found = as_names(value, what=what)
    for reaction in found:
        if reaction not in REACTIONS:
            raise DefinitionError(f"{reaction!r} is not a reaction. Reactions: {list(REACTIONS)}.", hint=suggest(reaction, REACTIONS))
    return found
