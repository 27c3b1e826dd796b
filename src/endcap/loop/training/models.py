"""The protocols that every model of every solution keeps: a candidate is fitted, a fit answers and can be put to rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from endcap.loop.training.artefacts import Artefact

Data = TypeVar("Data", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class Fitted(Protocol[Data, Answer]):
    """A candidate after training. Immutable."""

    def predict(self, data: Data) -> Answer:
        """Answers for what ``data`` lets it see. The same data give the same answers."""
        ...

    def to_artefacts(self) -> dict[str, Artefact]:
        """Everything needed to answer the same again, by file name."""
        ...

    @property
    def members(self) -> MemberFits:
        """How each member's own fit went; empty for a fit that has no members."""
        ...


class Candidate(Protocol[Data, Answer]):
    """A method that may become a version. ``baseline`` ones always run and are what others must beat."""

    @property
    def name(self) -> str: ...

    @property
    def baseline(self) -> bool: ...

    def fit(self, data: Data, *, seed: int) -> Fitted[Data, Answer]:
        """Learn from what ``data`` lets it see. Raises InvalidInput when that is too little for this method, and says what is missing."""
        ...

    def revive(self, artefacts: dict[str, Artefact]) -> Fitted[Data, Answer]:
        """The fit that was put to rest."""
        ...


@dataclass(frozen=True)
class MemberFits:
    """Members by name: those that have a fit of their own, and the reason for those that answer by their fallback."""

    fitted: tuple[str, ...] = ()
    fallen_back: dict[str, str] = field(default_factory=dict)


NO_MEMBERS = MemberFits()
