"""Materialisation: what a view's tables say is computed once, kept for ever, and brought to where it is asked for.

A batch comes to be in this order, and this is what others see of it:

1. Its tiles, its rows and of each key the newest row are written, in parts, under the batch's id. Nobody reads them: no record names them. What
   a killed run left is removed by the next one.
2. The batch's record, its snapshot and the audit row are written in one transaction. From here on offline readers see the batch, whole. Its
   record says that the online store waits.
3. The newest rows of the keys that it touched go to the online store, batch by batch of keys, each of them whole. A reader there sees the
   newer row of some keys before that of others; whatever it sees is offline, too.
4. The record says that the online store has them. A run that was killed before is made good by the next, from the newest rows at rest.

One run of a view goes on at a time; a second waits or says so. The id of a batch is the hash of what it is made from, so that a run that was
killed and is run again writes the same rows under the same id.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from endcap.core.clock import ManualClock
from endcap.core.errors import Conflict, InvalidInput
from endcap.core.identity import identify
from endcap.core.names import quote
from endcap.governance.quotas.usage import count_use
from endcap.governance.sessions import Session
from endcap.loop.data.column_profiles import profile_columns
from endcap.loop.data.column_types import name_type
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import INGESTS, ColumnProfile, Ingest
from endcap.loop.data.verbs import ingest
from endcap.loop.features.kept.arrivals import find_arrivals
from endcap.loop.features.kept.batch_rows import Added, Advance, add_rows
from endcap.loop.features.kept.feature_batches import Written, remove_batches, scan_batches, write_batch
from endcap.loop.features.kept.materialised import list_batches, name_merged, name_places, open_materialised
from endcap.loop.features.kept.spans import Span, unite
from endcap.loop.features.kept.tiles import add_windows, last_due
from endcap.loop.features.lineage import find_personal
from endcap.loop.features.online import name_space, write_online
from endcap.loop.features.pushes import finish_pushes, restore_pushes
from endcap.loop.features.records import (
    EVENT_AT,
    KNOWN_AT,
    MATERIALISATIONS,
    MATERIALISED,
    NEWEST,
    ORDER,
    SNAPSHOTS,
    TILES,
    VIEW_VERSIONS,
    Materialisation,
    Snapshot,
    ViewVersion,
)
from endcap.loop.features.rows.view_sources import plain
from endcap.pipelines.graph import Dataset, Reporter
from endcap.pipelines.open_lineage import Told, keep_work, send_events
from endcap.storage.ports import RecordTransaction

_VERB = "features materialise"
_CAME = "__came"
MOST_APART = 64
"""Batches whose rows rest each in a place of its own; then they are brought together."""
_ONLINE_ROWS = 200_000  # handed to the online store at once


@dataclass
class ViewRun:
    """One run of a view, under its lease."""

    session: Session
    version: ViewVersion
    folder: Path
    reporter: Reporter
    began_s: float = field(default_factory=time.perf_counter)
    began_cpu_s: float = field(default_factory=time.process_time)

    def materialise(self, span: Span | None, *, verify: bool) -> Materialisation:
        if self.version.view.pushed:
            finish_pushes(self.session, self.version)
        before = list_batches(self.session, self.version)
        for batch in before[-1:]:
            lost = batch.online == "done" and any(kept.n_online for kept in before) and not self._stands_online()
            if batch.online == "pending" or lost:
                before[-1] = self._bring_online(batch, everything=lost)
        last = before[-1] if before else None
        self._tidy(last)
        ingests = self._ingest(verify=verify)
        until = max([self.session.now(), *([last.known_until] if last else [])])
        spans = _cover(last, span)
        arrivals = find_arrivals(ingests, before=self._ingests_of(last), kept=last.kept if last else {})
        with open_engine(self.session.settings) as engine:
            advance = Advance(self.session, self.version, engine, self.folder, ingests, arrivals, tuple(before), until, spans)
            content = _identify(advance)
            if last is None or not _waits(last, until):
                return last if last and last.identity in (content, identify(content, last.known_until)) else self._write(advance, content)
            return self._write(advance, identify(content, until))

    def _stands_online(self) -> bool:
        return name_space(self.session, self.version) in self.session.online.spaces()

    def _tidy(self, last: Materialisation | None) -> None:
        """Remove what killed runs left, and the newest rows of batches that are not the newest."""
        batches = list_batches(self.session, self.version)
        remove_batches(self.session, MATERIALISED, self.version, but=name_places(batches))
        remove_batches(self.session, TILES, self.version, but={batch.id for batch in batches})
        remove_batches(self.session, NEWEST, self.version, but={last.id} if last else ())

    def _ingest(self, *, verify: bool) -> dict[str, Ingest]:
        found = {}
        for table in self.version.view.sources:
            name = f"ingest {table.name}"
            self.reporter.step_started(name)
            began_s = time.perf_counter()
            found[table.name] = ingest(self.session, table, folder=self.folder, zone=self.version.zone, verify=verify)
            self.reporter.step_ended(name, status="done", wall_s=time.perf_counter() - began_s, note=f"{found[table.name].n_rows_read:,} rows read")
        return found

    def _ingests_of(self, last: Materialisation | None) -> dict[str, Ingest | None]:
        if last is None:
            return {}
        return {table: self.session.records.get(INGESTS, workspace=self.session.workspace, id=id_) for table, id_ in last.ingests.items()}

    def _write(self, advance: Advance, identity: str) -> Materialisation:
        last, engine, n = advance.last, advance.engine, advance.before[-1].n + 1 if advance.before else 1
        id_ = f"batch_{n:06d}_{identify(identity, last.id if last else None)[:16]}"
        self.reporter.step_started("compute")
        began_s = time.perf_counter()
        added = add_windows(advance) if advance.view.windowed else add_rows(advance)
        version = self._describe(added)
        if added.tiles is not None:
            write_batch(self.session, TILES, version, id_, sql=added.tiles, engine=engine, marks=added.tile_marks)
        rows = self._write_rows(advance, added, id_, n=n)
        self.reporter.step_ended("compute", status="done", wall_s=time.perf_counter() - began_s, note=f"{rows.n_rows:,} rows")
        merged_from = self._merge(advance, version, id_, n_rows=rows.n_rows, n=n)
        newest = self._write_newest(advance, version, id_, rows=rows)
        snapshot = self._profile(advance, version, id_, newest)
        visible = rows.last_visible.replace(tzinfo=UTC) if rows.last_visible else None
        waits = [at for at in (added.waits_until, visible, last.waits_until if last else None) if at is not None and at > advance.until]
        record = Materialisation(
            id=id_,
            view=version.name,
            version=version.version,
            identity=identity,
            at=self.session.now(),
            ingests={name: found.id for name, found in advance.ingests.items()},
            first_tick=rows.first_event.replace(tzinfo=UTC) if rows.first_event else None,
            last_tick=rows.last_event.replace(tzinfo=UTC) if rows.last_event else None,
            n_rows=rows.n_rows,
            n_restated=rows.n_restated,
            n_keys_recomputed=added.n_keys_recomputed,
            n_online=0,
            sha256=rows.sha256,
            cpu_s=round(time.process_time() - self.began_cpu_s, 3),
            wall_s=round(time.perf_counter() - self.began_s, 3),
            n=n,
            known_until=advance.until,
            snapshot=snapshot.id,
            previous=last.id if last else None,
            spans=advance.spans,
            waits_until=max(waits, default=None),
            kept={name: arrival.kept for name, arrival in advance.arrivals.items() if arrival.kept},
            replaced=added.replaced,
            tiles=added.tile_ticks,
            merged_from=merged_from,
            online="pending" if advance.view.online else "none",
        )
        self._record(record, snapshot, version)
        send_events(self.session)
        remove_batches(self.session, NEWEST, version, but={id_})
        remove_batches(self.session, MATERIALISED, version, but=name_places([*advance.before, record]))
        self.version = version
        return self._bring_online(record) if advance.view.online else record

    def _describe(self, added: Added) -> ViewVersion:
        """The version with the types of its columns, which are the same from batch to batch."""
        version, stored = self.version, added.stored_types
        if not stored or version.stored_types == stored:
            return version
        for name, type_ in version.stored_types.items():
            if stored.get(name) != type_:
                raise InvalidInput(
                    f"Feature view '{version.id}' has {name!r} as {stored.get(name, 'nothing')} now, and it was materialised as {type_}.",
                    hint="cast it in the view's definition, which makes a new version of it",
                )
        keys = self.version.view.keys
        return msgspec.structs.replace(
            version,
            key_types={name: name_type(stored[name]) for name in keys},
            feature_types={name: name_type(type_) for name, type_ in stored.items() if name not in keys},
            stored_types=dict(stored),
        )

    def _write_rows(self, advance: Advance, added: Added, id_: str, *, n: int) -> Written:
        if added.rows is None:
            return Written(sha256=identify())
        by = ", ".join([EVENT_AT, *map(quote, advance.view.keys), KNOWN_AT, ORDER])

        def report(n_rows: int) -> None:
            self.reporter.step_advanced(f"compute: {n_rows:,} rows", done=0, total=1)

        sql = f"SELECT * FROM ({added.rows}) ORDER BY {by}"
        return write_batch(self.session, MATERIALISED, self.version, id_, sql=sql, engine=advance.engine, n=n, advance=report)

    def _merge(self, advance: Advance, version: ViewVersion, id_: str, *, n_rows: int, n: int) -> int | None:
        """Bring the rows of the last batches to rest in one place once they are many, since whoever reads them opens a file for each."""
        apart = []
        for batch in reversed(advance.before):
            if batch.merged_from is not None:
                break
            apart.append(batch)
        places = [batch.id for batch in apart[::-1] if batch.n_rows] + ([id_] if n_rows else [])
        rows = scan_batches(self.session, MATERIALISED, version, places) if len(places) >= MOST_APART else None
        if rows is None:
            return None
        advance.engine.register("__apart", rows)
        write_batch(self.session, MATERIALISED, version, name_merged(id_), sql=f"SELECT * FROM __apart ORDER BY {ORDER}", engine=advance.engine)
        return apart[-1].n if apart else n

    def _write_newest(self, advance: Advance, version: ViewVersion, id_: str, *, rows: Written) -> Written:
        """Of each key the newest row that counts: those that stood, and what came or began to count."""
        engine, last, until = advance.engine, advance.last, plain(advance.until)
        columns = ", ".join([*map(quote, version.view.keys), EVENT_AT, KNOWN_AT, ORDER, *(quote(name) for name in version.feature_types)])
        parts = []
        stood = scan_batches(self.session, NEWEST, version, [last.id]) if last else None
        if stood is not None:
            engine.register("__stood", stood)
            parts.append(f"SELECT {columns}, false AS {_CAME} FROM __stood")
        came = scan_batches(self.session, MATERIALISED, version, [id_]) if rows.n_rows else None
        if came is not None:
            engine.register("__batch", came)
            parts.append(f"SELECT {columns}, true AS {_CAME} FROM __batch WHERE greatest({EVENT_AT}, {KNOWN_AT}) <= {until}")
        if last is not None and last.waits_until is not None and any(batch.n_rows for batch in advance.before):
            rest = open_materialised(self.session, version, engine=engine, pushed=False)
            visible = f"greatest({EVENT_AT}, {KNOWN_AT})"
            parts.append(f"SELECT {columns}, true AS {_CAME} FROM ({rest}) WHERE {visible} > {plain(last.known_until)} AND {visible} <= {until}")
        if not parts:
            return Written(sha256=identify())
        keys = ", ".join(map(quote, version.view.keys))
        newest = f"row_number() OVER (PARTITION BY {keys} ORDER BY {EVENT_AT} DESC, {KNOWN_AT} DESC, {ORDER} DESC) = 1"
        sql = f"SELECT * FROM ({' UNION ALL '.join(parts)}) QUALIFY {newest} ORDER BY {keys}"
        return write_batch(self.session, NEWEST, version, id_, sql=sql, engine=engine)

    def _profile(self, advance: Advance, version: ViewVersion, id_: str, newest: Written) -> Snapshot:
        self.reporter.step_started("profile")
        began_s = time.perf_counter()
        rows = scan_batches(self.session, NEWEST, version, [id_]) if newest.n_rows else None
        names = [*version.view.keys, *version.feature_types]
        first = last = None
        profiles: list[ColumnProfile] = []
        if rows is not None:
            profiles = profile_columns(
                rows.scanner(columns=names).to_reader(), personal=find_personal(version.view), n_threads=self.session.settings.n_threads
            )
            advance.engine.register("__newest", rows)
            first, last = advance.engine.execute(f"SELECT min({EVENT_AT}), max({EVENT_AT}) FROM __newest").fetchall()[0]
        self.reporter.step_ended("profile", status="done", wall_s=time.perf_counter() - began_s, note=f"{newest.n_rows:,} keys")
        return Snapshot(
            id=f"snapshot_{id_.removeprefix('batch_')}",
            view=version.name,
            version=version.version,
            at=self.session.now(),
            n_rows=newest.n_rows,
            first_event=first.replace(tzinfo=UTC) if first else None,
            last_event=last.replace(tzinfo=UTC) if last else None,
            profiles=tuple(profiles),
        )

    def _record(self, record: Materialisation, snapshot: Snapshot, version: ViewVersion) -> None:
        """Make the batch one that others see."""
        detail: dict[str, str | int | float | bool | None] = {
            "batch": record.id,
            "identity": record.identity,
            "n_rows": record.n_rows,
            "n_restated": record.n_restated,
            "sha256": record.sha256,
        }
        workspace = self.session.workspace
        with self.session.change(_VERB, thing=f"view/{version.name}", detail=detail) as change:
            where = {"view": version.name, "version": version.version}
            standing = change.tx.find(MATERIALISATIONS, workspace=workspace, where=where, newest_first=True, limit=1)
            if (standing[0].id if standing else None) != record.previous:
                raise Conflict(f"Feature view '{version.id}' was materialised by another run meanwhile.", hint="run it again")
            change.tx.append(SNAPSHOTS, workspace=workspace, record=snapshot)
            change.tx.append(MATERIALISATIONS, workspace=workspace, record=record)
            count_use(self.session, change.tx, f"view/{version.name}", cpu_s=record.cpu_s, wall_s=record.wall_s, n_runs=1)
            self._tell(change.tx, record, version)
            found = change.tx.get_versioned(VIEW_VERSIONS, workspace=workspace, id=version.id)
            if found is not None and found[0].stored_types != version.stored_types:
                described = msgspec.structs.replace(
                    found[0], key_types=version.key_types, feature_types=version.feature_types, stored_types=version.stored_types
                )
                change.tx.put(VIEW_VERSIONS, workspace=workspace, record=described, expected_version=found[1])

    def _tell(self, tx: RecordTransaction, record: Materialisation, version: ViewVersion) -> None:
        """Tell a collector of lineage which tables the batch was made of."""
        cost = {"wallSeconds": round(record.wall_s, 4), "cpuSeconds": round(record.cpu_s, 4)}
        told = Told(id=record.id, subject=f"view/{version.name}", status="done", at=self.session.now(), cost=cost)
        reads = [Dataset(f"table/{name}", version=found) for name, found in record.ingests.items()]
        writes = [Dataset(f"view/{version.name}", version=record.id, fields={**version.key_types, **version.feature_types})]
        keep_work(self.session, tx, told, began=record.at, reads=reads, writes=writes)

    def _bring_online(self, record: Materialisation, *, everything: bool = False) -> Materialisation:
        """Write the newest rows that a batch touched online, and say so in its record.

        ``everything`` writes the newest row of every key, and what was pushed: the online store was emptied, or is another one.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        self.reporter.step_started("online")
        session = replace(self.session, clock=ManualClock(record.known_until))  # by then the rows count, though the clock went back since
        began_s, n_online = time.perf_counter(), 0
        rows = scan_batches(self.session, NEWEST, self.version, [record.id])
        if rows is not None:
            wanted = None if everything else pc.field(_CAME)
            n_rows = rows.count_rows(filter=wanted)
            for chunk in rows.scanner(filter=wanted, batch_size=_ONLINE_ROWS).to_batches():
                self.session.require_warrant(verb=_VERB, thing=f"view/{self.version.name}")
                n_online += write_online(session, self.version, pa.Table.from_batches([chunk]).drop_columns([_CAME]))
                self.reporter.step_advanced("online", done=n_online, total=n_rows)
        if everything and self.version.view.pushed:
            n_online += restore_pushes(session, self.version)
        with self.session.records.transact() as tx:
            found = tx.get_versioned(MATERIALISATIONS, workspace=self.session.workspace, id=record.id)
            assert found is not None, "the batch was recorded"
            done = msgspec.structs.replace(found[0], online="done", n_online=n_online)
            tx.put(MATERIALISATIONS, workspace=self.session.workspace, record=done, expected_version=found[1])
        self.reporter.step_ended("online", status="done", wall_s=time.perf_counter() - began_s, note=f"{n_online:,} keys")
        return done


def _cover(last: Materialisation | None, span: Span | None) -> tuple[Span, ...]:
    """The event times that are to be covered: those that are, and those that were asked for; unasked, all that come after."""
    if last is None:
        return unite([span or (None, None)])
    if span is not None:
        return unite([*last.spans, span])
    return unite([*last.spans, (last.spans[-1][1], None)]) if last.spans[-1][1] is not None else last.spans


def _waits(last: Materialisation, until: datetime) -> bool:
    """Whether rows that lay in the future may have begun to count."""
    return last.waits_until is not None and last.waits_until > last.known_until and until > last.known_until


def _identify(advance: Advance) -> str:
    """What a batch is made from: the definition, what was ingested, what is covered, and the last tick that is due."""
    due = last_due(advance, advance.until) if advance.view.windowed else None
    return identify(advance.version.id, {name: found.identity for name, found in advance.ingests.items()}, advance.spans, due)
