"""Records of deployment."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from endcap.core.zones import name_moment
from endcap.storage.ports import Kind

PREDICTIONS = "predictions"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of predictions: the partitions of the log that share its names, and what it was made from.

    ``hour`` is the local hour of an hourly model's origin; None for a daily one's, which is the start of the day.
    ``n_parts`` is how many parts it was written in; ``members`` identifies the members it answers for ('' for all).
    """

    id: str
    workspace: str
    model: str
    version: str
    origin: date
    predicted_at: datetime
    n_rows: int
    first: date
    last: date
    zone: str
    keys: tuple[str, ...]
    data: str
    run: str
    missing_facts: tuple[str, ...] = ()
    hour: int | None = None
    n_parts: int = 1
    members: str = ""

    @property
    def moment(self) -> str:
        """The origin as text."""
        return name_moment(self.origin, self.hour)

    @property
    def answered(self) -> str:
        """The id of the record that says which batches answer for its origin."""
        return f"{self.model}/{self.moment}"

    @property
    def partition(self) -> dict[str, str]:
        """What its parts share. Other data or members, another partition: a batch made anew is there as a whole or not at all."""
        data = f"{self.data[:16]}-{self.members[:16]}" if self.members else self.data[:16]
        return {"workspace": self.workspace, "model": self.model, "origin": self.moment, "version": self.version, "data": data}


class Answered(msgspec.Struct, frozen=True):
    """Which batches answer for one origin of a model, the champion's first."""

    id: str
    model: str
    moment: str
    batches: tuple[str, ...]
    at: datetime


class Delivery(msgspec.Struct, frozen=True):
    """Predictions written for somebody: a file, or a folder of ``n_files``; ``first_id`` is the id of the first row, '' when there is none."""

    model: str
    version: str
    origin: str
    n_rows: int
    path: str
    first_id: str = ""
    n_files: int = 1


class TraceStep(msgspec.Struct, frozen=True):
    """One thing on the way from a prediction back to the files it was made from."""

    thing: str
    what: str
    detail: str


BATCHES = Kind("batch", Batch, "id", (("model",), ("version",)), of=lambda batch: (f"model/{batch.model}",))
ANSWERED = Kind("answered", Answered, "id", (("model",),), of=lambda answered: (f"model/{answered.model}",))
