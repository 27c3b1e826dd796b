"""Tracing: from a prediction back to the version, the training set, the tables and the files."""

from __future__ import annotations

from endcap.core.clock import describe_instant, describe_span
from endcap.core.errors import NotFound
from endcap.core.permissions import Permission
from endcap.governance.privacy.rights import HIDDEN, show_personal
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import INGESTS
from endcap.loop.deployment.batches import add_ids
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch, TraceStep
from endcap.loop.registry.live import ON_AN_OVERRIDE
from endcap.loop.registry.records import COMPARISONS, RELEASES, VERSIONS
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.pipelines.records import EDGES


@verb("trace", permission=Permission.READ)
def trace(session: Session, thing: str) -> list[TraceStep]:
    """Walk from a prediction (its id), or a version, back to everything it was made from.

    Prediction, batch and the tables it was made from where they are newer than the training set, version, verdict, who released it,
    training set, tables as ingested, files with their SHA-256. Cost: one partition
    of the log and a handful of records.
    """
    steps: list[TraceStep] = []
    version_id = thing
    if "~" in thing:
        version_id = thing.split("~", 1)[0]
        steps.extend(_trace_prediction(session, thing))
    version = get_version(session, version_id)
    m = version.metrics
    wape = "not scored" if m.wape is None else f"WAPE {m.wape:.4f} in validation"
    steps.append(TraceStep(f"version/{version.id}", "version", f"{version.candidate}, {wape}, trained by {version.created_by}"))
    steps.extend(TraceStep(f"file/{f.sha256}", "artefact", f"{f.name} ({f.kind}, {f.n_bytes} bytes)") for f in version.files)
    verdict = latest_verdict(session, version.id)
    if verdict is not None:
        word = "passed" if verdict.passed else "overridden" if verdict.override else "refused"
        steps.append(TraceStep(f"verdict/{verdict.id}", "verdict", f"{word}: {verdict.sentence}"))
    for release in session.records.find(RELEASES, workspace=session.workspace, where={"version": version.id}):
        word = f"{ON_AN_OVERRIDE}; " if release.overridden else ""
        what = f"{word}by {release.actor} at {describe_instant(release.at)} {release.reason}".rstrip()
        steps.append(TraceStep(f"release/{release.id}", release.how, what))
    for comparison in session.records.find(COMPARISONS, workspace=session.workspace, where={"challenger": version.id}):
        since = f"by {comparison.started_by} since {describe_instant(comparison.since)}"
        what = f"challenger of {comparison.champion} for {comparison.n_b} members, {since} {comparison.how}".rstrip()
        steps.append(TraceStep(f"comparison/{comparison.id}", "comparison", what))
    if version.training_set:
        steps.append(TraceStep(f"training-set/{version.training_set}", "training set", f"days up to {version.trained_until}"))
    for table, ingest_id in version.tables.items():
        steps.extend(_trace_table(session, table, ingest_id))
    return steps


def read_prediction(session: Session, prediction: str) -> tuple[Batch, str]:
    """The batch of a prediction, and its answer in a line. Raises NotFound. Cost: one partition of the log."""
    import pyarrow.compute as pc

    version, _, rest = prediction.partition("~")
    origin = rest.partition("~")[0]
    missing = NotFound(f"No prediction {prediction!r} in workspace '{session.workspace}'.", hint="ids stand in the prediction log")
    found = session.records.get(VERSIONS, workspace=session.workspace, id=version)
    batch = session.records.get(BATCHES, workspace=session.workspace, id=f"{found.model}/{origin}/{version}") if found else None
    if batch is None:
        raise missing
    rows = add_ids(session.tables.read(PREDICTIONS, partition=batch.partition), batch)
    rows = rows.filter(pc.equal(rows["prediction_id"], prediction))
    if rows.num_rows == 0:
        raise missing
    row = rows.to_pylist()[0]
    from endcap.governance.privacy.sealing import read_marks

    marks = read_marks(rows.schema)
    shown = show_personal(session, {mark.table for mark in marks.values()}, verb="trace")
    keys = ", ".join(f"{key}={HIDDEN if key in marks and not shown else row[key]}" for key in batch.keys)
    figures = [row[name] for name in ("forecast", "lower_90", "upper_90")]
    forecast, lower, upper = ("none" if figure is None else f"{figure:.4g}" for figure in figures)  # a solution may give no limits
    return batch, f"{keys}, {row['ts']}: {forecast} ({lower} to {upper})"


def _trace_prediction(session: Session, prediction: str) -> list[TraceStep]:
    batch, answer = read_prediction(session, prediction)
    made = f"{batch.n_rows} rows from the origin {batch.moment}, predicted at {describe_instant(batch.predicted_at)}, run {batch.run}"
    steps = [TraceStep(f"prediction/{prediction}", "prediction", answer), TraceStep(f"batch/{batch.id}", "batch", made)]
    if batch.data != get_version(session, batch.version).training_set:
        # The forecast was made from newer rows than the version was trained on: both ways lead back to files.
        for edge in session.records.find(EDGES, workspace=session.workspace, where={"target": f"data/{batch.data}"}):
            kind, _, identity = edge.source.partition("/")
            ingest = session.records.get(INGESTS, workspace=session.workspace, id=identity) if kind == "ingest" else None
            if ingest is not None:
                steps.extend(_trace_table(session, ingest.table, ingest.id))
    return steps


def _trace_table(session: Session, table: str, ingest_id: str) -> list[TraceStep]:
    ingest = session.records.get(INGESTS, workspace=session.workspace, id=ingest_id)
    if ingest is None:
        return [TraceStep(f"table/{table}", "table", f"its ingest {ingest_id} is not kept here")]
    what = f"{ingest.n_rows} rows from {describe_span(ingest.first_event, ingest.last_event)}, ingested at {describe_instant(ingest.at)}"
    files = [TraceStep(f"source/{f.path}", "file", f"{f.n_bytes} bytes, sha256 {f.sha256}") for f in ingest.files]
    return [TraceStep(f"table/{table}", "table", what), *files]
