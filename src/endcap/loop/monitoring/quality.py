"""Quality: outcomes joined to the predictions that were delivered, and the watch that compares the live error with validation's."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from endcap.core.definitions.watches import Quality
from endcap.core.durations import count_days
from endcap.core.errors import InvalidInput
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_change, require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import BATCHES, PREDICTIONS, Batch
from endcap.loop.monitoring.incidents import record_incident
from endcap.loop.monitoring.member_outcomes import read_member_outcomes
from endcap.loop.monitoring.records import INCIDENTS, OUTCOME_SUMS, OUTCOMES, READINGS, Incident, Reading
from endcap.loop.registry.records import Version
from endcap.loop.registry.versions import get_model

if TYPE_CHECKING:
    import pyarrow as pa


@verb("join-outcomes", permission=Permission.EDIT)
def join_outcomes(session: Session, model: str, actuals: pa.Table) -> int:
    """Write beside every logged prediction the outcome that has arrived since.

    ``actuals`` holds the keys, ``ts`` and ``actual``, each key and time once. Each batch that the actuals reach is joined anew and its
    partition of outcomes replaced, so that late and corrected outcomes count; outcomes of times before the first of the actuals stay as they
    are. Returns the number of outcomes that stand. Cost: the batches that overlap.
    """
    require_change(session, f"model/{model}", Permission.EDIT, verb="join-outcomes")
    if actuals.num_rows == 0:
        return 0
    import pyarrow as pa
    import pyarrow.compute as pc

    from endcap.governance.privacy.sealing import mark_personal, read_marks

    named = [name for name in actuals.column_names if name != "actual"]
    if actuals.group_by(named).aggregate([]).num_rows != actuals.num_rows:
        raise InvalidInput(f"Outcomes for '{model}' hold several rows of the same {named}.", hint="one row per series and time")
    bounds = pc.min_max(actuals["ts"]).as_py()
    first, last = bounds["min"].date(), bounds["max"].date()
    n = 0
    for batch in session.records.find(BATCHES, workspace=session.workspace, where={"model": model}):
        if batch.first > last or batch.last < first:
            continue
        wanted = [*batch.keys, "ts", "forecast", "lower_90", "upper_90"]
        rows = session.tables.read(PREDICTIONS, partition=batch.partition, columns=wanted)
        known = [actuals.select([*batch.keys, "ts", "actual"])]
        if batch.first < first and session.tables.partitions(OUTCOMES, partition=batch.partition):
            kept = session.tables.read(OUTCOMES, partition=batch.partition, columns=known[0].column_names)
            known.append(kept.filter(pc.less(kept["ts"], bounds["min"])))
        joined = rows.join(pa.concat_tables(known), keys=[*batch.keys, "ts"], join_type="inner")
        if joined.num_rows:
            n += session.tables.write(OUTCOMES, partition=batch.partition, table=mark_personal(joined, read_marks(rows.schema)))
    return n


@verb("check-quality", permission=Permission.EDIT)
def check_quality(session: Session, version: Version, watch: Quality) -> Reading:
    """Compare the live error of a version's delivered forecasts with its validation error, over the newest ``window`` of outcomes.

    Of several forecasts of one value the one made last is counted. Keeps the reading; a breach that was none at the
    reading before also writes an incident. Too few outcomes: a reading without a figure, never a breach. Cost: the outcomes of the window.
    """
    require_right(session, f"model/{version.model}", Permission.EDIT, verb="check-quality")
    window_days = count_days(watch.window, what="window")
    figure, n, first, last = _live_figure(session, version, metric=watch.metric, window_days=window_days, least_rows=watch.least_rows)
    validation: float | None = getattr(version.metrics, watch.metric)
    limit = None if validation is None else validation * watch.factor
    breached = figure is not None and limit is not None and figure > limit
    reading = Reading(
        id=identify(version.id, watch, last.isoformat(), session.now().isoformat()),
        model=version.model,
        version=version.id,
        at=session.now(),
        metric=watch.metric,
        first=first,
        last=last,
        n=n,
        figure=figure,
        validation=validation,
        limit=limit,
        breached=breached,
    )
    with session.records.transact() as tx:
        if tx.get(READINGS, workspace=session.workspace, id=reading.id) is None:
            tx.append(READINGS, workspace=session.workspace, record=reading)
    if breached:
        _raise_incident(session, reading, watch)
    return reading


@verb("readings", permission=Permission.READ)
def list_readings(session: Session, model: str, *, limit: int = 60) -> list[Reading]:
    """What the watches of a model read, newest first. ``limit`` is how many readings are listed."""
    get_model(session, model)
    return session.records.find(READINGS, workspace=session.workspace, where={"model": model}, newest_first=True, limit=limit)


@verb("incidents", permission=Permission.READ)
def list_incidents(session: Session, *, model: str | None = None, limit: int = 20) -> list[Incident]:
    """Breaches, newest first, with what was done about them.

    ``model`` is whose breaches (None: all); ``limit`` is how many are listed.
    """
    where = {"model": model} if model else None
    return session.records.find(INCIDENTS, workspace=session.workspace, where=where, newest_first=True, limit=limit)


def read_outcomes(session: Session, batches: list[Batch]) -> pa.Table | None:
    """The outcomes of some batches with a column ``origin``; None when there are none."""
    import pyarrow as pa

    found = []
    for batch in batches:
        if session.tables.partitions(OUTCOMES, partition=batch.partition):
            rows = session.tables.read(OUTCOMES, partition=batch.partition)
            found.append(rows.append_column("origin", pa.array([batch.origin] * rows.num_rows, pa.date32())))
    return pa.concat_tables(found) if found else None


def _live_figure(session: Session, version: Version, *, metric: str, window_days: int, least_rows: int) -> tuple[float | None, int, date, date]:
    import numpy as np

    from endcap.loop.evaluation.metrics import measure

    today = session.now().date()
    batches = session.records.find(BATCHES, workspace=session.workspace, where={"version": version.id}, newest_first=True)
    reach = max((batch.last for batch in batches), default=today)
    recent = [b for b in batches if b.last >= reach - timedelta(days=4 * window_days + 30)]
    if any(session.tables.partitions(OUTCOME_SUMS, partition=batch.partition) for batch in recent[:_LATEST]):
        return _summed_figure(session, version, recent, metric=metric, window_days=window_days, least_rows=least_rows)
    rows = read_outcomes(session, recent)
    if rows is None:
        return None, 0, today, today
    days = rows["ts"].to_numpy().astype("datetime64[D]")
    last = days.max()
    first = last - np.timedelta64(window_days - 1, "D")
    keys = [name for name in rows.column_names if name not in _NOT_KEYS]
    kept = rows.filter(days >= first)
    newest = kept.group_by([*keys, "ts"]).aggregate([("origin", "max")]).rename_columns([*keys, "ts", "origin"])
    counted = kept.join(newest, keys=[*keys, "ts", "origin"], join_type="inner")
    y, f = counted["actual"].to_numpy().astype(np.float64), counted["forecast"].to_numpy().astype(np.float64)
    n = int(np.isfinite(y).sum())
    figure = getattr(measure(y, f), metric) if n >= least_rows else None
    return figure, n, first.astype(object), last.astype(object)


def _summed_figure(
    session: Session, version: Version, batches: list[Batch], *, metric: str, window_days: int, least_rows: int
) -> tuple[float | None, int, date, date]:
    """The same where outcomes are kept as sums by member and time."""
    import numpy as np

    # Sums are kept of the forecast made last, so batches that end before the window begins hold none of it.
    reach = max(batch.last for batch in batches)
    near = [b for b in batches if b.last >= reach - timedelta(days=window_days + 2 * max(1, (b.last - b.first).days))]
    rows = read_member_outcomes(session, version.model, near)
    today = session.now().date()
    if rows is None or rows.num_rows == 0:
        return None, 0, today, today
    days = rows["ts"].to_numpy().astype("datetime64[D]")
    last = days.max()
    first = last - np.timedelta64(window_days - 1, "D")
    total = {name: float(rows[name].to_numpy()[days >= first].sum()) for name in ("n", "actual", "absolute", "squared")}
    n = int(total["n"])
    above, below = {"wape": ("absolute", "actual"), "rmse": ("squared", "n")}.get(metric, ("absolute", "n"))
    figure = None
    if n >= least_rows and total[below] > 0:
        figure = total[above] / total[below]
        figure = float(np.sqrt(figure)) if metric == "rmse" else figure
    return figure, n, first.astype(object), last.astype(object)


_LATEST = 100  # batches looked at to see in which form outcomes are kept
_NOT_KEYS = {"ts", "forecast", "lower_90", "upper_90", "actual", "origin"}


def _raise_incident(session: Session, reading: Reading, watch: Quality) -> None:
    sentence = (
        f"live {reading.metric} {reading.figure:.4f} over {reading.first} to {reading.last} is above its limit {reading.limit:.4f}"
        f" ({watch.factor:g} x validation {reading.validation:.4f})"
    )
    identity = identify(reading.version, watch, reading.last.isoformat())
    thing = f"model/{reading.model}"
    if _stays_breached(session, reading) or session.records.get(INCIDENTS, workspace=session.workspace, id=identity) is not None:
        return
    with session.change("check-quality", thing=thing, detail={"version": reading.version, "breach": sentence}) as change:
        incident = Incident(id=identity, model=reading.model, version=reading.version, at=session.now(), sentence=sentence, reactions=watch.then)
        record_incident(session, change, incident)


def _stays_breached(session: Session, reading: Reading) -> bool:
    """Whether the reading before was breached too: one incident stands for a breach, however many days it lasts."""
    where = {"version": reading.version}
    newest = session.records.find(READINGS, workspace=session.workspace, where=where, newest_first=True, limit=10)
    before = [r for r in newest if r.metric == reading.metric and r.last < reading.last and _span(r) == _span(reading)]
    return bool(before) and before[0].breached


def _span(reading: Reading) -> timedelta:
    return reading.last - reading.first
