"""OpenLineage: what each run read and wrote, told to whoever collects lineage, as events of the published schema (https://openlineage.io/spec).

A run gives a START when it begins and a COMPLETE, FAIL or ABORT when it ends. Events are kept in the transaction that writes the run, and sent
afterwards in their order: to a file, a line each, or by POST. What cannot be sent within five seconds is sent with the next run's: a run waits
no longer for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid5

import msgspec

from endcap.core.errors import Conflict, EndcapError, Unreachable
from endcap.governance.keys.secrets import SecretReader
from endcap.governance.sessions import Session
from endcap.pipelines.graph import Dataset
from endcap.pipelines.records import Run
from endcap.storage.ports import Kind, RecordTransaction

logger = logging.getLogger(__name__)

PRODUCER = "https://pypi.org/project/endcap"
_SPEC = "https://openlineage.io/spec"
_RUN_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
    "schema": "1-2-0/SchemaDatasetFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
}
_IDS = UUID("5d3c7a0e-2b7f-4c0e-9a35-8f1f6a1f2c11")  # any; it keeps our ids apart from those of others
_ENDINGS = {"done": "COMPLETE", "failed": "FAIL", "killed": "ABORT"}
_WITHIN_S = 5.0
_MOST_AT_ONCE = 200
_SECRET = "$secret:"


class LineageEvent(msgspec.Struct, frozen=True):
    """An event that is to be sent (``pending``) or was. ``body`` is its JSON, '' once it was sent."""

    id: str
    run: str
    at: datetime
    status: str
    body: str


LINEAGE_EVENTS = Kind("lineage-event", LineageEvent, "id", (("status",),))


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of one execution, of a graph or of anything else that reads and writes: what it was for (``subject``), and how it stands.

    ``status`` is running, done, failed or killed; ``cost`` may name seconds of the clock and of CPU and the greatest memory.
    """

    id: str
    subject: str
    status: str
    at: datetime
    error: str = ""
    cost: dict[str, float] = {}


def describe_run(run: Run, *, workspace: str, reads: Iterable[Dataset] = (), writes: Iterable[Dataset] = ()) -> dict[str, Any]:
    """The event of a run as it stands: START while it runs. ``reads`` and ``writes`` are named once each."""
    ended = run.status != "running"
    spent = {"wallSeconds": round(run.wall_s, 4), "cpuSeconds": round(run.cpu_s, 4), "peakMiB": max((s.peak_mib for s in run.steps), default=0.0)}
    at = run.ended_at if ended and run.ended_at else run.started_at
    told = Told(id=run.id, subject=run.subject, status=run.status, at=at, error=run.error, cost=spent if ended else {})
    return describe(told, workspace=workspace, reads=reads, writes=writes)


def describe(told: Told, *, workspace: str, reads: Iterable[Dataset] = (), writes: Iterable[Dataset] = ()) -> dict[str, Any]:
    """The event of an execution. ``reads`` and ``writes`` are named once each."""
    namespace = f"endcap.{workspace}"
    run_facets: dict[str, Any] = {"processing_engine": _facet("processing_engine", name="Endcap", version=_own_version())}
    if told.cost:
        run_facets["endcap_cost"] = {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunFacet", **told.cost}
    if told.error:
        run_facets["errorMessage"] = _facet("errorMessage", message=told.error, programmingLanguage="Python")
    return {
        "eventType": _ENDINGS.get(told.status, "START"),
        "eventTime": told.at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "run": {"runId": str(uuid5(_IDS, f"{workspace}/{told.id}")), "facets": run_facets},
        "job": {
            "namespace": namespace,
            "name": told.subject,
            "facets": {"jobType": _facet("jobType", processingType="BATCH", integration="ENDCAP", jobType="RUN")},
        },
        "inputs": [_describe_dataset(found, namespace) for found in _unique(reads)],
        "outputs": [_describe_dataset(found, namespace) for found in _unique(writes)],
        "producer": PRODUCER,
        "schemaURL": _RUN_EVENT,
    }


def keep_work(
    session: Session, tx: RecordTransaction, told: Told, *, began: datetime, reads: Iterable[Dataset] = (), writes: Iterable[Dataset] = ()
) -> None:
    """Keep both events of something that has ended, in the transaction that makes its work stand."""
    if session.settings.lineage is None:
        return
    start = msgspec.structs.replace(told, status="running", at=began, error="", cost={})
    for event in (describe(start, workspace=session.workspace), describe(told, workspace=session.workspace, reads=reads, writes=writes)):
        keep_event(session, tx, event, run=told.id)


def keep_event(session: Session, tx: RecordTransaction, event: Mapping[str, Any], *, run: str) -> None:
    """Keep an event for sending, in the transaction that writes its run; nothing where nobody collects them."""
    if session.settings.lineage is None:
        return
    body = msgspec.json.encode(event).decode()
    record = LineageEvent(f"{run}/{event['eventType']}", run, session.now(), "pending", body)
    try:
        tx.append(LINEAGE_EVENTS, workspace=session.workspace, record=record)
    except Conflict:
        logger.debug("the event %s stands already", record.id)


def send_events(session: Session, *, within_s: float = _WITHIN_S, passed_s: Callable[[], float] = monotonic) -> int:
    """Send what is pending, oldest first, some hundreds at most and for ``within_s`` seconds (by ``passed_s``) at most.

    Returns how many were sent; what failed, or was not come to, stays and is told in the log.
    """
    target = session.settings.lineage
    if target is None:
        return 0
    pending = session.records.find(LINEAGE_EVENTS, workspace=session.workspace, where={"status": "pending"}, limit=_MOST_AT_ONCE)
    n_sent, until_s = 0, passed_s() + within_s
    for event in pending:
        left_s = until_s - passed_s()
        if left_s <= 0:
            logger.warning("lineage of run %s and of those after it is not sent yet: %d events took %g s", event.run, n_sent, within_s)
            break
        try:
            _send(target, event.body.encode(), key=_open_key(session), timeout_s=left_s)
        except EndcapError as error:
            logger.warning("lineage of run %s is not sent yet: %s", event.run, error)
            break
        _mark_sent(session, event)
        n_sent += 1
    return n_sent


def _open_key(session: Session) -> str | None:
    """What the collector asks for, at the moment of sending. Raises NotFound where it is a secret that the workspace has not."""
    key = session.settings.lineage_key
    return SecretReader(session).read(key.removeprefix(_SECRET)) if key is not None and key.startswith(_SECRET) else key


def _mark_sent(session: Session, event: LineageEvent) -> None:
    with session.records.transact() as tx:
        found = tx.get_versioned(LINEAGE_EVENTS, workspace=session.workspace, id=event.id)
        if found is not None and found[0].status == "pending":
            sent = msgspec.structs.replace(event, status="sent", body="")
            tx.put(LINEAGE_EVENTS, workspace=session.workspace, record=sent, expected_version=found[1])


def _send(target: str, body: bytes, *, key: str | None, timeout_s: float) -> None:
    scheme = target.partition("://")[0] if "://" in target else "file"
    if scheme == "file":
        _append(Path(unquote(urlsplit(target).path)) if "://" in target else Path(target), body)
    else:
        _post(target, body, key=key, timeout_s=timeout_s)


def _append(path: Path, body: bytes) -> None:
    """One line at the end of a file, in one write, so that lines of several processes do not mix."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            n_written = os.write(descriptor, body + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unreachable(f"The file of lineage events {path} cannot be written: {error.strerror}.") from error
    if n_written <= len(body):
        raise Unreachable(f"The file of lineage events {path} took {n_written} of {len(body) + 1} bytes.", hint="make room on its disk")


def _post(target: str, body: bytes, *, key: str | None, timeout_s: float) -> None:
    import http.client

    parts = urlsplit(target)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    place = f"{parts.path or '/api/v1/lineage'}{'?' + parts.query if parts.query else ''}"
    connection = connect(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("POST", place, body=body, headers=headers)
        answer = connection.getresponse()
        answer.read(2**16)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"The collector of lineage at {parts.hostname} does not answer: {error}.") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:  # redirects are not followed: the key would go along
        raise Unreachable(f"The collector of lineage at {parts.hostname} answered {answer.status}.")


def _describe_dataset(dataset: Dataset, namespace: str) -> dict[str, Any]:
    facets: dict[str, Any] = {}
    if dataset.version:
        facets["version"] = _facet("version", datasetVersion=dataset.version)
    if dataset.fields:
        facets["schema"] = _facet("schema", fields=[{"name": name, "type": type_} for name, type_ in dataset.fields.items()])
    return {"namespace": dataset.namespace or namespace, "name": dataset.name, "facets": facets}


def _unique(datasets: Iterable[Dataset]) -> list[Dataset]:
    """Each name once, as it was said last."""
    return list({(found.namespace, found.name): found for found in datasets}.values())


def _facet(facet: str, /, **values: Any) -> dict[str, Any]:
    place = _FACETS[facet]
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/facets/{place}.json#/$defs/{place.partition('/')[2]}", **values}


@lru_cache(maxsize=1)
def _own_version() -> str:
    return version("endcap")
