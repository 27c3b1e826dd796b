"""Where a subject is: rows in our stores, versions that were trained on them, and what the destruction of a key cannot undo."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from endcap.core.definitions.tables import Table
from endcap.core.errors import NotFound
from endcap.governance.privacy.records import LEGAL_HOLDS
from endcap.governance.privacy.subjects import REF_BYTES, Subjects
from endcap.governance.records import AUDIT_ROWS, HOUSE
from endcap.governance.sessions import Session
from endcap.loop.data.records import QUARANTINE
from endcap.loop.deployment.records import PREDICTIONS
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import MATERIALISED, NEWEST, PUSHED, TILES, TRAINING_SETS, VIEW_VERSIONS, ViewVersion
from endcap.loop.features.training_sets import TRAINING_ROWS
from endcap.loop.monitoring.records import OUTCOME_SUMS, OUTCOMES
from endcap.loop.registry.live import find_live_releases
from endcap.loop.registry.records import VERSIONS, Version

if TYPE_CHECKING:
    import pyarrow as pa

_BY_VIEW = (MATERIALISED, NEWEST, TILES, PUSHED)
_DATASETS = {
    MATERIALISED: "feature rows",
    NEWEST: "newest feature rows",
    TILES: "tiles of windows",
    PUSHED: "pushed rows",
    TRAINING_ROWS: "rows of a training set",
    QUARANTINE: "quarantined rows",
    PREDICTIONS: "logged predictions",
    OUTCOMES: "outcomes of predictions",
    OUTCOME_SUMS: "sums of outcomes",
}
_BATCH_ROWS = 262_144


class HeldRows(msgspec.Struct, frozen=True):
    """Rows of a subject that lie in our stores, which cannot be read without its key: of which thing, what they are, and how many."""

    thing: str
    what: str
    n_rows: int


class TrainedVersion(msgspec.Struct, frozen=True):
    """A version that was trained on rows of a subject: by which thing, where it answers ('': nowhere), and how it is trained again ('': not)."""

    version: str
    by: str
    answers: str
    retrain: str


class StayingThing(msgspec.Struct, frozen=True):
    """What stays of a subject, why, and until when ('': nobody says)."""

    thing: str
    why: str
    until: str = ""


def in_workspace(session: Session, workspace: str) -> Session:
    """The same actor in another workspace, behind a check of the caller's own."""
    return replace(session, workspace=workspace)


def find_held(session: Session, refs: Collection[bytes]) -> Iterator[HeldRows]:
    """The rows of subjects in all that is sealed, by thing. Cost: 24 bytes a row of what is sealed, in batches; the footers of all else."""
    found: dict[tuple[str, str], int] = {}
    for dataset, what in _DATASETS.items():
        for partition in session.tables.partitions(dataset, partition={"workspace": session.workspace}):
            n_rows = _count_rows(session, dataset, partition, refs)
            if n_rows:
                place = (_name_thing(dataset, partition), what)
                found[place] = found.get(place, 0) + n_rows
    for (thing, what), n_rows in found.items():
        yield HeldRows(thing, what, n_rows)


def list_trained(session: Session, held: Sequence[HeldRows]) -> Iterator[TrainedVersion]:
    """The versions that were trained on views, or training sets, which hold a subject."""
    things = {rows.thing for rows in held}
    sets = session.records.find(TRAINING_SETS, workspace=session.workspace)
    identities = {one.identity: f"training-set/{one.id}" for one in sets if f"training-set/{one.id}" in things}
    live: dict[str, dict[str, str]] = {}
    for version in session.records.find(VERSIONS, workspace=session.workspace):
        by = [f"view/{name}@{own}" for name, own in version.views.items() if f"view/{name}@{own}" in things]
        by += [place for name, place in identities.items() if version.training_set and version.training_set in (name, place.partition("/")[2])]
        if not by:
            continue
        if version.model not in live:
            live[version.model] = {found.version: found.environment for found in find_live_releases(session, version.model)}
        yield TrainedVersion(version.id, ", ".join(by), live[version.model].get(version.id, ""), _tell_retraining(version))


def list_holds(session: Session, kind: str, held: Sequence[HeldRows]) -> list[StayingThing]:
    """The holds for the law on what has rows of a subject, and on the tables that name such subjects."""
    names = {rows.thing.partition("@")[0] for rows in held}
    for version in session.records.find(VIEW_VERSIONS, workspace=session.workspace):
        names |= {f"table/{table.name}" for table in version.view.sources if table.whose == kind}
    holds = session.records.find(LEGAL_HOLDS, workspace=session.workspace)
    return [
        StayingThing(hold.id, f"held for the law: {hold.reason}", "until the hold is lifted")
        for hold in holds
        if hold.lifted_at is None and hold.id in names
    ]


def list_staying(session: Session, kind: str, *, held: Sequence[HeldRows]) -> Iterator[StayingThing]:
    """What the destruction of a key cannot undo for subjects of a kind, and what must be kept."""
    from endcap.loop.features.lineage import find_personal, find_sources

    loss = Subjects(session).find_loss()
    if loss is not None:
        why = f"what was sealed before {loss:%Y-%m-%d %H:%M} UTC reads as missing, whosever: its keys were lost with a master key"
        yield StayingThing(f"workspace/{session.workspace}", why, "for ever; whose it was, and who was forgotten before, cannot be known any more")
    tables: dict[str, Table] = {}
    for version in session.records.find(VIEW_VERSIONS, workspace=session.workspace):
        view = version.view
        own = [table for table in view.sources if table.whose == kind]
        tables.update((table.name, table) for table in own)
        marks = find_marks(view)
        n_plain = _count_plain(session, version) if any(mark.kind == kind for mark in marks.values()) else 0
        if n_plain:
            why = f"{n_plain} parts were written before their columns were declared personal, or by an older Endcap: they lie in plain"
            yield StayingThing(f"view/{version.id}", why, "until the version is superseded and swept: endcap retention set features")
        mixed = sorted(name for name, mark in marks.items() if mark.kind == kind and mark.subject is None)
        if mixed:
            why = f"{mixed} mix subjects, and no column says whose a value is: they lie under the workspace's key"
            yield StayingThing(f"view/{version.id}", why, "until the view is removed, or materialised anew from sources without the person")
        others = sorted({mark.kind for mark in marks.values() if mark.subject is not None} - {kind}) if own else []
        if others:
            why = f"its rows name people by {others}, not by '{kind}'"
            yield StayingThing(f"view/{version.id}", why, f"until they are forgotten by that, too: endcap forget --key {others[0]}=...")
        if own:
            yield from _list_folded(view.id, sorted(set(view.features) - find_personal(view)), sources=find_sources(view).features, tables=own)
    for name, table in sorted(tables.items()):
        if not table.is_landed:
            yield StayingThing(f"table/{name}", f"its source {table.source} is not Endcap's: what stands there is read again, and left missing here")
        else:
            yield StayingThing(f"table/{name}", "the database it is fetched from is not Endcap's: what stands there is left missing here")
        if session.tables.partitions(QUARANTINE, partition={"workspace": session.workspace, "table": name}):
            why = "lines that were put aside whole lie under the workspace's key, as nobody can tell whose each is"
            yield StayingThing(f"quarantine/{name}", why, "until its period: endcap retention set quarantine")
        if table.keep:
            yield StayingThing(f"table/{name}", "it is to be kept by law; the key is destroyed here all the same: keep the source", table.keep)
    for record in session.records.find(TRAINING_SETS, workspace=session.workspace):
        if record.path is not None and any(rows.thing == f"view/{name}@{own}" for name, own in record.views.items() for rows in held):
            yield StayingThing(f"training-set/{record.id}", f"it was written to the file {record.path}, which is not Endcap's", "until it is removed")
    for row in session.ports.records.find(AUDIT_ROWS, workspace=HOUSE, where={"verb": "backup"}):
        if row.outcome == "done":
            why = f"the backup of {row.at:%Y-%m-%d %H:%M} UTC holds the sealed rows and the key; a restore closes the key again by the list beside it"
            yield StayingThing(f"backup/{row.detail.get('backup', '')}", why, f"until it is removed from {row.detail.get('place', '')}")
    yield StayingThing("audit", "its rows name the person by a keyed hash alone, and a chain from which rows are taken proves nothing", "for ever")


def _count_plain(session: Session, version: ViewVersion) -> int:
    """The parts of a view with personal columns that are not sealed."""
    from endcap.governance.privacy.sealing import is_sealed

    where = {"workspace": session.workspace, "view": version.name, "version": version.version}
    n = 0
    for dataset in (MATERIALISED, NEWEST, PUSHED):
        for partition in session.tables.partitions(dataset, partition=where):
            with suppress(NotFound):  # it went meanwhile
                n += not is_sealed(session.tables.inner.scan(dataset, partition=partition).schema)
    return n


def _list_folded(view: str, plain: Sequence[str], *, sources: object, tables: Sequence[Table]) -> Iterator[StayingThing]:
    """Features that are made of personal columns and are no values of them, such as counts."""
    private = {(table.name, column) for table in tables for column in table.personal}
    assert isinstance(sources, dict), "features by name"
    folded = [name for name in plain if any((c.table, c.column) in private for c in sources.get(name, ()))]
    if folded:
        yield StayingThing(f"view/{view}", f"{folded} are sums, counts or shares over personal columns, not values of them: they are not sealed")


def _tell_retraining(version: Version) -> str:
    return "" if version.engine or not version.definition else f"endcap run {version.model}"


def _name_thing(dataset: str, partition: dict[str, str]) -> str:
    if dataset in _BY_VIEW:
        return f"view/{partition['view']}@{partition['version']}"
    if dataset == TRAINING_ROWS:
        return f"training-set/{partition['training_set']}"
    return f"table/{partition['table']}" if dataset == QUARANTINE else f"model/{partition.get('model', '')}"


def _count_rows(session: Session, dataset: str, partition: dict[str, str], refs: Collection[bytes]) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    from endcap.governance.privacy.sealing import list_refs

    try:
        rows = session.tables.inner.scan(dataset, partition=partition)
    except NotFound:
        return 0  # it went meanwhile
    names, n = list_refs(rows.schema), 0
    if not names:
        return 0
    wanted = pa.array(list(refs), pa.binary())

    def named(column: pa.Array) -> pa.Array:
        return pc.is_in(pc.binary_slice(column.cast(pa.binary()), 0, REF_BYTES), value_set=wanted)

    for batch in rows.scanner(columns=names, batch_size=_BATCH_ROWS).to_batches():
        found = named(batch.column(0))
        for place in range(1, len(names)):
            found = pc.or_(found, named(batch.column(place)))
        n += pc.sum(found).as_py() or 0
    return n
