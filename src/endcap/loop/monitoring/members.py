"""The watch over members: all stores of a model in one pass, those that fell by name, in one reading and one incident."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from endcap.core.definitions.watches import MemberQuality
from endcap.core.durations import count_days
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import require_right
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.deployment.records import BATCHES
from endcap.loop.deployment.routes import find_answers
from endcap.loop.monitoring.incidents import record_incident
from endcap.loop.monitoring.member_outcomes import find_outcome_batches, read_member_outcomes
from endcap.loop.monitoring.records import INCIDENTS, READINGS, Incident, MembersRead, Reading
from endcap.loop.registry.members import find_retired
from endcap.loop.registry.records import MEMBER_METRICS, Version
from endcap.loop.registry.versions import get_version
from endcap.storage.ports import RecordTransaction

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from endcap.loop.evaluation.discoveries import Falls
    from endcap.loop.evaluation.member_days import MemberDays

_MOST_NAMED = 24


@verb("check-members", permission=Permission.EDIT)
def check_members(session: Session, version: Version, watch: MemberQuality) -> Reading:
    """Compare the live error of every member with the error that validation promised for it, and keep one reading.

    The forecasts of all versions that answer for some member count, each against the promise of its own version. Members that fell since the
    reading before, or a model whose typical member exceeds the factor and did not at the reading before, give one incident that names
    up to some dozens; all members stand in a table (``read_member_table``). Members whose version keeps no figures by member are not judged.
    Cost: the outcomes of the window, a few passes over members x days.
    """
    require_right(session, f"model/{version.model}", Permission.EDIT, verb="check-members")
    window_days = count_days(watch.window, what="window")
    rows = _read_rows(session, version, watch, window_days=window_days)
    if rows is None:
        return _keep_reading(session, version, watch, blank=True)
    from endcap.loop.evaluation.discoveries import find_falls

    everything, validated = _sum_promises(session, rows, watch.metric)
    last = everything.days[-1]
    live = everything.between(last - (window_days - 1), last)
    falls = find_falls(live, validated=validated, factor=watch.factor, rate=watch.false_discovery_rate, least_days=watch.least_days)
    stale = _find_stale(everything, n_days=count_days(watch.stale_after, what="stale_after"), retired=find_retired(session, version.model))
    table = _tabulate(live, falls, stale=stale, metric=watch.metric)
    return _keep_reading(session, version, watch, live=live, falls=falls, table=table)


def read_member_table(session: Session, reading: Reading) -> pa.Table:
    """All members of a reading, a row each: ``member``, ``n_days`` and ``n`` outcomes, ``live`` and ``promised`` error, ``p`` and ``q`` (see
    ``evaluation.discoveries``), ``fell``, ``stale``. Raises ValueError for a reading of a watch that does not look at members.
    """
    if reading.members is None:
        raise ValueError(f"the reading {reading.id} is not of a watch over members")
    return _decode(session.blobs.get(reading.members.table))


def _read_rows(session: Session, version: Version, watch: MemberQuality, *, window_days: int) -> pa.Table | None:
    """The outcomes by member and time of every version that answers now, over the window and what is needed to see who is stale."""
    answering = {version.id, *(answer.version for answer in find_answers(session, version.model))}
    batches = [
        batch
        for name in sorted(answering)
        for batch in session.records.find(BATCHES, workspace=session.workspace, where={"version": name}, newest_first=True)
    ]
    n_days = max(window_days, count_days(watch.stale_after, what="stale_after")) + 1
    rows = read_member_outcomes(session, version.model, find_outcome_batches(session, batches, n_days=n_days))
    return rows if rows is not None and rows.num_rows else None


def _sum_promises(session: Session, rows: pa.Table, metric: str) -> tuple[MemberDays, NDArray[np.float64]]:
    """The sums by member and day with the promised errors among them, and how many values each member's newest promise comes from.

    Members that a version promises something for, but that have no outcome at all, stand among them.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from endcap.loop.evaluation.member_days import sum_by_day

    versions = [get_version(session, name) for name in pc.unique(rows["version"]).to_pylist()]
    weights = rows["actual" if metric == "wape" else "n"].to_numpy(zero_copy_only=False).astype(np.float64)
    promised = np.full(rows.num_rows, np.nan)
    tables = {}
    for version in sorted(versions, key=lambda version: version.n):
        partition = {"workspace": session.workspace, "evidence": version.evidence}
        if not session.tables.partitions(MEMBER_METRICS, partition=partition):
            continue
        tables[version.id] = table = session.tables.read(MEMBER_METRICS, partition=partition, columns=["member", "n", metric])
        mine = np.flatnonzero(pc.equal(rows["version"], version.id).to_numpy(zero_copy_only=False))
        places = pc.index_in(rows["member"].take(pa.array(mine)), table["member"].combine_chunks())
        figures = table[metric].to_numpy(zero_copy_only=False).astype(np.float64)
        found = np.asarray(pc.fill_null(places, -1), dtype=np.int64)
        promised[mine] = np.where(found >= 0, np.append(figures, np.nan)[found], np.nan) * weights[mine]
    names = tuple(sorted({*pc.unique(rows["member"]).to_pylist(), *(name for table in tables.values() for name in table["member"].to_pylist())}))
    sums = sum_by_day(rows.append_column("promised", pa.array(promised)), members=names)
    validated = np.zeros(len(names))
    for table in tables.values():  # the newest version last: its promise is the one that stands
        places = pc.index_in(table["member"].combine_chunks(), pa.array(names))
        validated[np.asarray(places, dtype=np.int64)] = table["n"].to_numpy(zero_copy_only=False)
    return sums, validated


def _find_stale(sums: MemberDays, *, n_days: int, retired: Collection[str]) -> NDArray[np.bool_]:
    """Members whose newest outcome is ``n_days`` or more older than the newest of all, save retired ones; nobody where outcomes do not reach that
    far.
    """
    import numpy as np

    if sums.days.size < n_days + 1:
        return np.zeros(len(sums.members), np.bool_)
    return np.asarray(sums.n[:, -n_days:].sum(axis=1) == 0) & ~np.isin(np.array(sums.members), sorted(retired))


def _tabulate(live: MemberDays, falls: Falls, *, stale: NDArray[np.bool_], metric: str) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    weight = (live.actual if metric == "wape" else live.n).sum(axis=1)
    usable = weight > 0

    def share(total: NDArray[np.float64]) -> pa.Array:
        values = np.divide(total, weight, out=np.zeros_like(total), where=usable)
        return pa.array(values, mask=~usable | ~np.isfinite(values))

    return pa.table(
        {
            "member": pa.array(live.members, pa.string()),
            "n_days": pa.array((live.n > 0).sum(axis=1), pa.int32()),
            "n": pa.array(live.n.sum(axis=1).astype(np.int64)),
            "live": share(live.absolute.sum(axis=1)),
            "promised": share(live.promised.sum(axis=1)),
            "p": pa.array(falls.p, mask=~falls.judged),
            "q": pa.array(falls.q, mask=~falls.judged),
            "fell": pa.array(falls.fell),
            "stale": pa.array(stale),
        }
    )


def _keep_reading(
    session: Session,
    version: Version,
    watch: MemberQuality,
    *,
    blank: bool = False,
    live: MemberDays | None = None,
    falls: Falls | None = None,
    table: pa.Table | None = None,
) -> Reading:
    """Write the reading, and in the same transaction as its audit row the incident of what is new in it."""
    today = session.now().date()
    if blank or live is None or falls is None or table is None:
        reading = _make_reading(session, version, watch, first=today, last=today)
        _write(session, reading, incident=None)
        return reading
    before = _find_before(session, reading_of=version, watch=watch)
    fallen_before = _fallen(read_member_table(session, before)) if before is not None else set()
    fallen = _fallen(table)
    order = _worst_first(table)
    new, recovered = [name for name in order if name not in fallen_before], sorted(fallen_before - fallen)
    whole = falls.common > watch.factor
    stale = table.filter(table["stale"])["member"].to_pylist()
    digest = session.blobs.put(_encode(table))
    read = MembersRead(
        n_members=table.num_rows,
        n_judged=int(falls.judged.sum()),
        n_fell=len(fallen),
        n_new=len(new),
        n_recovered=len(recovered),
        n_stale=len(stale),
        common=falls.common,
        whole=whole,
        table=digest,
        named=tuple(order[:_MOST_NAMED]),
        recovered=tuple(recovered[:_MOST_NAMED]),
        stale=tuple(stale[:_MOST_NAMED]),
    )
    reading = _make_reading(session, version, watch, first=_day(live.days[0]), last=_day(live.days[-1]), live=live, falls=falls, read=read)
    newly_whole = whole and not (before is not None and before.members is not None and before.members.whole)
    sentence = _describe(read, table, watch=watch, new=new, newly_whole=newly_whole) if new or newly_whole else ""
    incident = None
    if sentence:
        identity = identify(reading.version, watch, reading.last.isoformat(), sorted(new), newly_whole)
        incident = Incident(
            id=identity, model=version.model, version=version.id, at=session.now(), sentence=sentence, reactions=watch.then, members=digest
        )
    _write(session, reading, incident=incident)
    return reading


def _make_reading(
    session: Session,
    version: Version,
    watch: MemberQuality,
    *,
    first: date,
    last: date,
    live: MemberDays | None = None,
    falls: Falls | None = None,
    read: MembersRead | None = None,
) -> Reading:
    """The figures of all judged members together stand in the reading's own fields."""
    figure = validation = None
    n = 0
    if live is not None and falls is not None:
        judged = live.select(falls.judged)
        n = int(live.n.sum())
        weight = float((judged.actual if watch.metric == "wape" else judged.n).sum())
        if weight > 0:
            figure, validation = float(judged.absolute.sum()) / weight, float(judged.promised.sum()) / weight
    return Reading(
        id=identify(version.id, watch, last.isoformat(), session.now().isoformat()),
        model=version.model,
        version=version.id,
        at=session.now(),
        metric=f"{watch.metric} by member",
        first=first,
        last=last,
        n=n,
        figure=figure,
        validation=validation,
        limit=None if validation is None else validation * watch.factor,
        breached=read is not None and (read.whole or read.n_fell > 0),
        members=read,
    )


def _write(session: Session, reading: Reading, *, incident: Incident | None) -> None:
    """Both or neither: who fell is new only once, so a reading without its incident would hide it for good."""
    if incident is None:
        with session.records.transact() as tx:
            _append_reading(tx, session.workspace, reading)
        return
    detail = {"version": incident.version, "breach": incident.sentence[:500], "members": incident.members}
    with session.change("check-members", thing=f"model/{incident.model}", detail=detail) as change:
        _append_reading(change.tx, session.workspace, reading)
        if change.tx.get(INCIDENTS, workspace=session.workspace, id=incident.id) is None:
            record_incident(session, change, incident)


def _append_reading(tx: RecordTransaction, workspace: str, reading: Reading) -> None:
    if tx.get(READINGS, workspace=workspace, id=reading.id) is None:
        tx.append(READINGS, workspace=workspace, record=reading)


def _find_before(session: Session, *, reading_of: Version, watch: MemberQuality) -> Reading | None:
    """The newest reading of the model by a watch of this metric and window: whoever had fallen under the version before has not fallen anew."""
    span = timedelta(days=count_days(watch.window, what="window") - 1)
    where = {"model": reading_of.model}
    for reading in session.records.find(READINGS, workspace=session.workspace, where=where, newest_first=True, limit=40):
        if reading.members is not None and reading.metric == f"{watch.metric} by member" and reading.last - reading.first <= span:
            return reading
    return None


def _describe(read: MembersRead, table: pa.Table, *, watch: MemberQuality, new: Sequence[str], newly_whole: bool) -> str:
    said = []
    if newly_whole:
        said.append(f"the whole model: the typical member's error is {read.common:.2f} x what validation promised (limit {watch.factor:g} x)")
    if new:
        figures = {row["member"]: row for row in table.filter(table["fell"]).select(["member", "live", "promised"]).to_pylist()}
        shown = [f"{name} {figures[name]['live']:.4f} (promised {figures[name]['promised']:.4f})" for name in new[:_MOST_NAMED]]
        more = f" and {len(new) - len(shown):,} more" if len(new) > len(shown) else ""
        beyond = ", beyond what all share" if read.whole else ""
        said.append(f"{len(new):,} of {read.n_judged:,} members fell in {watch.metric}{beyond}: {', '.join(shown)}{more}")
        if read.n_fell > len(new):
            said.append(f"{read.n_fell - len(new):,} had fallen before")
    if read.n_recovered:
        said.append(f"{read.n_recovered:,} recovered")
    if read.n_stale:
        said.append(f"{read.n_stale:,} without outcomes for {watch.stale_after}")
    return "; ".join(said)


def _worst_first(table: pa.Table) -> list[str]:
    """Those that fell, by how many times their error is what was promised."""
    import pyarrow.compute as pc

    fallen = table.filter(table["fell"])
    ratio = pc.divide(fallen["live"], fallen["promised"])
    names: list[str] = fallen["member"].take(pc.sort_indices(ratio, sort_keys=[("", "descending")])).to_pylist()
    return names


def _fallen(table: pa.Table) -> set[str]:
    return set(table.filter(table["fell"])["member"].to_pylist())


def _day(value: np.datetime64) -> date:
    found: date = value.astype("datetime64[D]").astype(object)
    return found


def _encode(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _decode(payload: bytes) -> pa.Table:
    import pyarrow as pa

    with pa.ipc.open_file(pa.BufferReader(payload)) as reader:
        return reader.read_all()
