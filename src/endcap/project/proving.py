"""Proving: a version of any model shows that it still answers as it did, before it answers again.

A version that was registered is asked its input example; one that its model's cycle trained is asked what it was asked last, from the data that it
read then, and is compared with the prediction log.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from endcap.core.definitions.forecasts import Forecast
from endcap.core.definitions.models import Model
from endcap.core.errors import IntegrityBroken, NotFound
from endcap.governance.sessions import Session
from endcap.loop.deployment.engines.opening import open_version
from endcap.loop.deployment.proving import TOLERANCE, prove
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch
from endcap.loop.registry.records import MODEL_DEFINITIONS, ModelRecord, Version
from endcap.loop.registry.versions import get_model, read_artefacts
from endcap.loop.retraining.tasks import DataRef, Task
from endcap.project.definitions import make_task, read_definition

if TYPE_CHECKING:
    import pyarrow as pa

_COMPARED = ("forecast", "lower_90", "upper_90")
_MOST_ROWS = 1_000


def prove_version(session: Session, version: Version) -> str:
    """Show that a version answers as it did, and say in a sentence what was compared. It is what ``rollback`` asks before anything moves.

    Every file is read against its digest. Then a registered version answers its input example; one of a forecast makes its last batch anew, of
    which up to 1,000 rows are compared, if its definition and the data of then are kept. Raises IntegrityBroken when a file
    or an answer is not what it was. Cost: reading the files, and one batch of predictions.
    """
    n_files = len(read_artefacts(session, version))
    files = f"its {n_files} file{'s are' if n_files != 1 else ' is'} what {'they were' if n_files != 1 else 'it was'}"
    if version.engine:
        return f"{files}; {prove(session, version, open_version(session, version))}"
    definition = _read_definition_of(session, version)
    if definition is None:
        return f"{files}; its model was defined anew since, so that its answers were not compared"
    batch = _find_batch(session, version)
    if not isinstance(definition, Forecast) or batch is None:
        return f"{files}; it has not answered before, so that nothing was compared"
    return f"{files}; {_prove_batch(session, make_task(definition), version, batch)}"


def _read_definition_of(session: Session, version: Version) -> Forecast | Model | None:
    """The definition that a version was made by; None where only a later one is kept."""
    record = get_model(session, version.model)
    kept = session.records.get(MODEL_DEFINITIONS, workspace=session.workspace, id=version.definition)
    if kept is not None:
        return read_definition(ModelRecord(kept.model, kept.solution, kept.identity, kept.definition, kept.at, kept.actor))
    return read_definition(record) if record.identity == version.definition else None


def _find_batch(session: Session, version: Version) -> Batch | None:
    """The newest batch of a version whose data are kept."""
    batches = session.records.find(BATCHES, workspace=session.workspace, where={"version": version.id}, newest_first=True, limit=20)
    return next((batch for batch in batches if batch.n_rows and session.blobs.has(batch.data)), None)


def _prove_batch(session: Session, task: Task, version: Version, batch: Batch) -> str:
    logged = _read_logged(session, batch)
    data = DataRef(
        digest=batch.data, origin=batch.origin, first_day=batch.first, last_day=batch.last, n_rows=0, n_series=0, hour=batch.hour
    )  # what was counted when it was assembled plays no part in answering
    found = _answer_again(task.answer(session, version, data).parts, wanted=set(_key_rows(logged, batch)), batch=batch)
    rows = {name: logged[name].to_pylist() for name in _COMPARED}
    exact = True
    for place, key in enumerate(_key_rows(logged, batch)):
        if key not in found:
            raise IntegrityBroken(f"'{version.id}' gives no answer for {_name_row(key, batch)} from {batch.moment} any more, and gave one then.")
        old = tuple(rows[name][place] for name in _COMPARED)
        if not _agree(old, found[key], tolerance=TOLERANCE):
            said = f"{_name_row(key, batch)} is {found[key]} and was {old} (forecast and its 90 % interval)"
            raise IntegrityBroken(f"'{version.id}' does not answer from {batch.moment} as it did: {said}.", hint=f"endcap trace {version.id}")
        exact = exact and _agree(old, found[key], tolerance=0.0)
    how = "to the last digit" if exact else f"within {TOLERANCE:g} of each"
    return f"it gives the {logged.num_rows:,} answers from {batch.moment} that were logged, {how}"


def _read_logged(session: Session, batch: Batch) -> pa.Table:
    """The first rows of a batch as they stand in the log."""
    columns = [*batch.keys, "ts", *_COMPARED]
    parts = [{**batch.partition, "part": f"{n:04d}"} for n in range(batch.n_parts)]
    for part in parts:
        try:
            table = session.tables.read(PREDICTIONS, partition=part, columns=columns)
        except NotFound as error:
            raise IntegrityBroken(f"A part of the batch {batch.id} is gone from the log.", hint="restore it from a backup") from error
        if table.num_rows:
            return table.slice(0, _MOST_ROWS)
    raise IntegrityBroken(f"The batch {batch.id} told of {batch.n_rows:,} rows, and none is in the log.", hint="restore it from a backup")


Key = tuple[object, ...]


def _answer_again(parts: Iterable[pa.Table], *, wanted: set[Key], batch: Batch) -> Mapping[Key, tuple[float | None, ...]]:
    """The answers to the rows that are wanted; of parts no more are made than hold them."""
    found: dict[Key, tuple[float | None, ...]] = {}
    making = iter(parts)
    for part in making:
        values = zip(*(part[name].to_pylist() for name in _COMPARED), strict=True)
        found.update((key, value) for key, value in zip(_key_rows(part, batch), values, strict=True) if key in wanted)
        if len(found) == len(wanted):
            break
    if isinstance(making, Generator):
        making.close()  # what it holds open goes now
    return found


def _key_rows(rows: pa.Table, batch: Batch) -> list[Key]:
    return list(zip(*(rows[name].to_pylist() for name in (*batch.keys, "ts")), strict=True))


def _agree(old: tuple[float | None, ...], new: tuple[float | None, ...], *, tolerance: float) -> bool:
    before, now = (np.array([np.nan if value is None else value for value in values], dtype=np.float64) for values in (old, new))
    return bool(np.allclose(before, now, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True))


def _name_row(key: Key, batch: Batch) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip((*batch.keys, "ts"), key, strict=True))
