"""Records of deployment."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from endcap.storage.ports import Kind

PREDICTIONS = "predictions"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of predictions: a partition of the log, and what it was made from."""

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

    @property
    def partition(self) -> dict[str, str]:
        return {"workspace": self.workspace, "model": self.model, "origin": self.origin.isoformat(), "version": self.version}


class Delivery(msgspec.Struct, frozen=True):
    """A file of predictions written for somebody; ``first_id`` is the id in the log of its first row, '' when it has none."""

    model: str
    version: str
    origin: date
    n_rows: int
    path: str
    first_id: str = ""


class TraceStep(msgspec.Struct, frozen=True):
    """One thing on the way from a prediction back to the files it was made from."""

    thing: str
    what: str
    detail: str


BATCHES = Kind("batch", Batch, "id", (("model",), ("version",)))
