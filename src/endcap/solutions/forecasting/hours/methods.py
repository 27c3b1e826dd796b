"""The protocols that every hourly method keeps: shards tell, a fit merges what they told, and the fit forecasts shard by shard.

The order for one method: ``learn`` on every shard, ``fit`` once, ``survey`` on every shard, ``inform`` once; the informed fit predicts, and
is what later methods find in ``given``. When new hours have come, ``survey`` and ``inform`` bring the fit to the new origin without
training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from endcap.loop.features.panels.day_panels import Floats
from endcap.loop.features.panels.hour_panels import HourPanel
from endcap.loop.training.artefacts import Artefact

Learned = dict[str, NDArray[Any]]


class HourFit(Protocol):
    """A method after training. Immutable."""

    @property
    def look_back_days(self) -> int:
        """How many whole days before the origin ``predict`` reads, beside the current one: ``shard.latest`` of it gives the same answers."""
        ...

    @property
    def needs_survey(self) -> bool:
        """Whether ``predict`` asks for a survey; where it does not, whoever only wants answers spares a pass over all shards."""
        ...

    def survey(self, shard: HourPanel) -> Learned:
        """What forecasts of other shards must know of this one (how its products sold of late); empty for a method that looks at a shard alone."""
        ...

    def inform(self, surveys: Iterable[Learned]) -> Self:
        """The same fit, knowing what the surveys of all shards told at the origin to forecast from; an earlier survey is forgotten.

        They are taken one by one, so that a generator of them need not be in memory at once.
        """
        ...

    def predict(self, shard: HourPanel) -> Floats:
        """Mean demand in stock of each target hour, n_series x horizon: finite, never below 0, for every series, with a history or without."""
        ...

    def to_artefacts(self) -> dict[str, Artefact]:
        """What is needed to answer the same again, by file name; fits that it builds on (``needs``) and surveys are not among them."""
        ...


class HourMethod(Protocol):
    """A method that may become a version. ``baseline`` ones always run and are what others must beat.

    ``costly`` ones take about ten times as long to answer as the others, for each origin to come: they go first only if they are better by
    more than half a percent.
    """

    @property
    def name(self) -> str: ...

    @property
    def baseline(self) -> bool: ...

    @property
    def costly(self) -> bool: ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the methods whose fits, made on the same panel, must be in ``given``."""
        ...

    def learn(self, shard: HourPanel, *, given: Mapping[str, HourFit], seed: int) -> Learned:
        """What a block of series tells: arrays, small beside the block. The heavy part; may run in another process or thread."""
        ...

    def fit(self, learned: Sequence[Learned], *, given: Mapping[str, HourFit], seed: int) -> HourFit:
        """One fit from what all blocks told, in the order of the blocks. Raises InvalidInput when that is too little, and says what is missing."""
        ...

    def revive(self, artefacts: Mapping[str, Artefact], *, given: Mapping[str, HourFit]) -> HourFit:
        """The fit that was put to rest."""
        ...
