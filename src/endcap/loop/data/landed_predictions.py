"""Logged predictions as a table: each batch of a model's prediction log becomes a file of the home, once.

Columns: the model's keys; ``ts``, the local start of the interval that is forecast, and ``target_day``, its date; ``forecast``, ``lower_90``,
``upper_90``; ``version``; ``origin``, the local time that was forecast from; ``predicted_at``, the instant at which the batch was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import TYPE_CHECKING

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, NotFound
from endcap.core.identity import identify
from endcap.core.names import require_name
from endcap.core.zones import name_moment
from endcap.governance.sessions import Session
from endcap.loop.data.parts import Generation, Part, hold_parts, locate, write_parts
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.sealed_parts import seal_batches, settle_copies
from endcap.storage.ports import Kind

if TYPE_CHECKING:
    import pyarrow as pa

SCHEME = "predictions://"
DATASET = "predictions"
_OWN = ("ts", "target_day", "forecast", "lower_90", "upper_90", "version", "origin", "predicted_at")


class LoggedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What this floor needs to know of a batch of predictions, whose record a floor above keeps: the same record by fewer of its fields."""

    id: str
    workspace: str
    model: str
    version: str
    origin: date
    predicted_at: datetime
    zone: str
    keys: tuple[str, ...]
    data: str
    hour: int | None = None
    n_parts: int = 1
    members: str = ""

    @property
    def partitions(self) -> Iterator[dict[str, str]]:
        """Where its rows stand in the log, part by part."""
        data = f"{self.data[:16]}-{self.members[:16]}" if self.members else self.data[:16]
        own = {"workspace": self.workspace, "model": self.model, "origin": name_moment(self.origin, self.hour), "version": self.version, "data": data}
        return ({**own, "part": f"{n:04d}"} for n in range(self.n_parts))

    @property
    def mark(self) -> str:
        """How the names of its files begin: another batch in its place has another."""
        return identify(self.id, self.data, self.members, self.predicted_at, self.n_parts)[:24]


LOGGED_BATCHES = Kind("batch", LoggedBatch, "id", (("model",), ("version",)), of=lambda batch: (f"model/{batch.model}",))


def land_predictions(session: Session, table: Table) -> DataFiles:
    """Put the batches of a model's log that are not there yet into files, and forget those that the log has no more.

    Raises InvalidInput for a model without predictions in the workspace, or where its log changes meanwhile. Cost: a look at the records of the
    model's batches, and one pass over the rows of those that are new.
    """
    model = require_name(table.source.removeprefix(SCHEME), what="model")
    source = settle_copies(session, table, source=identify(DATASET, model))
    with hold_parts(locate(session, table.name, source=source), source=table.source) as folder:
        batches = session.records.find(LOGGED_BATCHES, workspace=session.workspace, where={"model": model})
        if not batches:
            raise InvalidInput(
                f"Table '{table.name}' reads the predictions of model '{model}', which has none in workspace '{session.workspace}'.",
                hint=f"make them first: endcap run {model}",
            )
        newest = folder.book.generations[-1] if folder.book.generations else None
        there: dict[str, list[Part]] = {}
        for part in newest.parts if newest is not None else ():
            if (folder.path / part.name).exists():
                there.setdefault(part.name.partition("-")[0], []).append(part)
        staged: list[Part] = []
        parts: list[Part] = []
        for batch in batches:
            kept = there.get(batch.mark)
            if kept is None:
                kept = write_parts(folder.staging, seal_batches(session, table, _read(session, batch, table=table)), prefix=batch.mark)
                staged += kept
            parts += kept
        if newest is not None and not staged and newest.names == {part.name for part in parts}:
            return DataFiles("parquet", folder.paths(newest))
        number = 1 if newest is None else newest.number + 1
        found = Generation(number=number, at=session.now(), parts=tuple(parts), columns={})
        folder.keep([*([newest] if newest is not None else []), found], staged=staged)
        return DataFiles("parquet", folder.paths(found))


def _read(session: Session, batch: LoggedBatch, *, table: Table) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.compute as pc

    taken = [key for key in batch.keys if key in _OWN]
    if taken:
        raise InvalidInput(f"Table '{table.name}': the model '{batch.model}' has the keys {taken}, which are columns of predictions as a table.")
    origin = datetime.combine(batch.origin, datetime.min.time()).replace(hour=batch.hour or 0)
    said = {
        "version": pa.scalar(batch.version, pa.string()),
        "origin": pa.scalar(origin, pa.timestamp("us")),
        "predicted_at": pa.scalar(batch.predicted_at, pa.timestamp("us", tz="UTC")),
    }
    for partition in batch.partitions:
        try:
            rows = session.tables.read(DATASET, partition=partition)
        except NotFound as error:
            what = f"Table '{table.name}': the predictions '{batch.id}' were made anew while they were read."
            raise InvalidInput(what, hint="run again") from error
        columns = {key: rows[key] for key in batch.keys}
        columns |= {"ts": rows["ts"], "target_day": pc.cast(rows["ts"], pa.date32())}
        columns |= {name: pc.cast(rows[name], pa.float64()) for name in ("forecast", "lower_90", "upper_90")}
        columns |= {name: pa.repeat(value, rows.num_rows) for name, value in said.items()}
        found = pa.table(columns)
        yield from found.to_batches() or [pa.RecordBatch.from_arrays([pa.array([], f.type) for f in found.schema], schema=found.schema)]
