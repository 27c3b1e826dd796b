"""Training sets: spine rows with the features of their keys as they were known at their instants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.purposes import require_purpose
from endcap.core.definitions.tables import Table
from endcap.core.errors import IntegrityBroken, InvalidInput, NotFound, PermissionDenied
from endcap.core.identity import identify
from endcap.core.permissions import Permission
from endcap.governance.privacy.rights import require_personal
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.usage import count_use
from endcap.governance.sessions import Session
from endcap.governance.verbs import Spoken, verb
from endcap.loop.data.records import Ingest
from endcap.loop.features.declared import require_as_declared
from endcap.loop.features.lending import AskedView, resolve_views
from endcap.loop.features.personal import find_marks, mark_tables
from endcap.loop.features.records import PUSHES, TRAINING_SETS, TrainingSet
from endcap.pipelines.graph import Dataset
from endcap.pipelines.machine import find_capacity
from endcap.pipelines.open_lineage import Told, keep_work, send_events
from endcap.storage.files import delivering
from endcap.storage.ports import RecordTransaction

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from endcap.governance.privacy.sealing import Mark
    from endcap.loop.features.contents import Contents
    from endcap.loop.features.rows.view_rows import FeatureRows
    from endcap.loop.features.rows.view_sources import Span
    from endcap.loop.features.spines import Given, Spine
    from endcap.loop.features.view_joins import Asked, Chosen

    Sink = Callable[[pa.Table], None]

TRAINING_ROWS = "training-sets"
"""The dataset of rows that were asked for without a file: by workspace, training set and part."""

_FETCH_SHARE, _BLOCK_SHARE = 1 / 8, 1 / 32
"""Of the memory limit, what features may take that were read at once, and what a block of rows on its way out may; of these there are two."""

_BLOCK_ROWS = 262_144
"""The most rows of a block on its way out: it stays in the cache while it is looked at, and the memory of one is used again by another."""

PROFILED_ROWS = 250_000
"""The most rows that the profiles of a training set are of, drawn evenly: a figure is as good off so many, and all take a tenth of the time."""

_FEATURE_BYTES = 16
_LOOKED_AT = 8_192  # rows, to see whether a column repeats
_SPINE_ROWS = 1_000_000
_HINT = "give out= a file, such as rows.parquet or rows.csv, in a folder that you may write to"


@dataclass(frozen=True)
class TrainingRows:
    """The rows of a training set, and its record."""

    table: pa.Table
    record: TrainingSet


@dataclass(frozen=True)
class _Joined:
    """A view that is being joined: its rows, the SQL that reads them, what the spine asks of it, and what its features are called."""

    rows: FeatureRows
    relation: str
    asked: Asked
    names: dict[str, str]
    entry: AskedView


@verb("training-set", permission=Permission.EDIT)
def build_training_set(
    session: Session,
    spine: Annotated["Given", Spoken(Path)],  # noqa: UP037 - the name is the type checker's alone, and Spoken must be found without it
    views: Annotated[Sequence[FeatureView | str], Spoken(Sequence[str])],
    *,
    at: str,
    zone: str | None = None,
    folder: Path = Path(),
    out: Path | None = None,
    full_names: bool = False,
    purpose: str | None = None,
) -> TrainingSet:
    """Join rows of keys and instants to feature views, each as it was known at that instant, and keep what came of it.

    For each row of the spine and each view: the newest row of that key whose event time and known-at are not after the instant; by event time,
    then known-at, then order of ingest. Missing where there is none, or where it is older than the view's ``max_age``. There are as many rows as
    the spine has, in its order; a row with a null in a key, or without an instant, stays and finds nothing.

    ``spine`` is a pyarrow, pandas or Polars table, the path of a Parquet or CSV file (or folder), or a declared table. ``views`` are definitions,
    or names of views that stand (``user_7d``, ``user_7d@1a2b3c4d5e6f``; ``WORKSPACE/user_7d`` where another workspace shares it, as its rows were
    let in there). ``at`` names the column of instants; ``zone`` is that of times without one (None: the one that the spine's table declares).
    ``folder`` is where relative paths begin. ``out`` is the file, replaced whole: CSV where its name ends in ``.csv``, otherwise Parquet; None: the
    house keeps the rows, see ``read_training_set``. ``full_names`` calls features ``view__feature``. ``purpose`` is what the rows are for (None:
    not said), which views and tables that state purposes must allow.

    The same spine, views and ingests are not joined twice: the record that stands is returned. Raises InvalidInput for what does not fit
    (a key that is not there or of another type, instants without a zone, features that share a name), NotFound for a view that is not known,
    PermissionDenied, audited, for a purpose that is not allowed, and for definitions by which less is personal than by those that stand, from who may
    not apply them; then nothing is written. Cost: a reading of the views' keys and times, and one of
    their features, in time in line with rows; in memory in line with the spine's rows, features that do not fit into the limit are read by turns.
    """
    began = time.perf_counter(), time.process_time()
    from endcap.loop.data.engine import open_engine
    from endcap.loop.features.spines import open_spine, read_instants

    wanted = resolve_views(session, views, folder=folder, verb="training-set")
    _require_purpose(session, purpose, [asked.view for asked in wanted], spine)
    given_tables = [spine] if isinstance(spine, Table) else []
    require_as_declared(session, [asked.view for asked in wanted if asked.lender is None], given_tables, verb="training-set")
    with hold_place(session, "training-set", capacity=find_capacity(session.settings), verb="training-set") as own:
        with open_engine(own.settings) as engine:
            given = open_spine(own, spine, folder=folder, engine=engine)
            instants = read_instants(given, at, zone=zone, engine=engine)
            joined = _open_views(own, wanted, given, instants, full_names=full_names, engine=engine)
            spine_sha256 = _digest_spine(given)
            identity = _identify(own, spine_sha256, joined, at=at, zone=zone or given.zone, full_names=full_names)
            marks = _mark_rows(spine, [(entry.rows.view, entry.names) for entry in joined])
            if marks and out is not None:
                require_personal(own, {mark.table for mark in marks.values()}, verb="training-set")
            standing = _find_standing(own, identity, out=out)
            if standing is not None:
                return standing
            record = _write(own, given, joined, out=out, marks=marks)
        wall_s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
        record = msgspec.structs.replace(record, identity=identity, spine_sha256=spine_sha256, purpose=purpose, wall_s=wall_s, cpu_s=cpu_s)
        _file(own, record)
    send_events(session)
    return record


def _file(session: Session, record: TrainingSet) -> None:
    """Put a training set on record, what it cost and where its rows come from, in one change."""
    detail = {"rows": record.n_rows, "purpose": record.purpose}
    with session.change("training-set", thing=f"training-set/{record.id}", detail=detail) as change:
        change.tx.append(TRAINING_SETS, workspace=session.workspace, record=record)
        count_use(session, change.tx, "training-set", cpu_s=record.cpu_s, wall_s=record.wall_s, n_runs=1)
        _tell(session, change.tx, record)


def _tell(session: Session, tx: RecordTransaction, record: TrainingSet) -> None:
    """Tell a collector of lineage which views and tables the rows were made of."""
    cost = {"wallSeconds": round(record.wall_s, 4), "cpuSeconds": round(record.cpu_s, 4)}
    told = Told(id=record.id, subject="training-set", status="done", at=session.now(), cost=cost)
    reads = [Dataset(f"view/{name}", version=version) for name, version in record.views.items()]
    reads += [Dataset(f"table/{name}", version=found) for name, found in record.ingests.items()]
    keep_work(session, tx, told, began=record.at, reads=reads, writes=[Dataset(f"training-set/{record.id}", version=record.sha256)])


def training_set(
    session: Session,
    spine: Given,
    views: Sequence[FeatureView | str],
    *,
    at: str,
    zone: str | None = None,
    folder: Path = Path(),
    full_names: bool = False,
    purpose: str | None = None,
) -> TrainingRows:
    """The rows of a training set in memory, with their record; see ``build_training_set``, whose arguments these are. The house keeps them too."""
    from endcap.loop.features.spines import as_arrow

    given = spine if isinstance(spine, str | Path | Table) else as_arrow(spine)
    made = build_training_set(session, given, views, at=at, zone=zone, folder=folder, full_names=full_names, purpose=purpose)
    rows = read_training_set(session, made)
    if isinstance(given, str | Path | Table):
        return TrainingRows(rows, made)
    schema = rows.schema
    for i, field in enumerate(given.schema.remove_metadata()):
        schema = schema.set(i, field)  # Parquet has no name for a few types of Arrow, such as days counted in milliseconds
    return TrainingRows(rows.cast(schema), made)


def read_training_set(session: Session, record: TrainingSet) -> pa.Table:
    """The rows of a training set: of the house, or of the Parquet file that it was written to.

    Raises NotFound where they are gone, InvalidInput for a CSV file, whose types are lost, IntegrityBroken where they are not what was written, and
    PermissionDenied, audited, for who may not see the personal columns among them.
    """
    from endcap.governance.privacy.sealing import read_marks

    rows = _read_rows(session, record)
    require_personal(session, {mark.table for mark in read_marks(rows.schema).values()}, verb="training-set")
    return rows


def _read_rows(session: Session, record: TrainingSet) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if record.path is None:
        return session.tables.read(TRAINING_ROWS, partition=_place(session, record.id))
    if _is_csv(Path(record.path)):
        raise InvalidInput(
            f"The rows of training set '{record.id}' are the CSV file {record.path}, whose types are lost.", hint="build it as Parquet"
        )
    try:
        rows = pq.read_table(record.path, partitioning=None)
    except FileNotFoundError as error:
        raise NotFound(f"The rows of training set '{record.id}' are gone: there is no {record.path}.", hint="build it again") from error
    except (pa.ArrowException, OSError) as error:
        raise IntegrityBroken(f"The rows of training set '{record.id}' cannot be read: {error}.", hint="build it again") from error
    if _digest(rows) != record.sha256:
        raise IntegrityBroken(f"{record.path} no longer holds the rows of training set '{record.id}'.", hint="build it again")
    return rows


def _require_purpose(session: Session, purpose: str | None, views: Sequence[FeatureView], spine: Given) -> None:
    try:
        require_purpose(purpose, asker="The training set", tables=[spine] if isinstance(spine, Table) else [], views=views)
    except PermissionDenied as error:
        session.record_refusal("training-set", thing=f"workspace/{session.workspace}", detail={"purpose": purpose, "why": error.what})
        raise


def _open_views(
    session: Session,
    wanted: Sequence[AskedView],
    spine: Spine,
    instants: tuple[Any, Any],
    *,
    full_names: bool,
    engine: duckdb.DuckDBPyConnection,
) -> list[_Joined]:
    """Open every view, with all that may be wrong with it, before a row is joined. A table that two views read is ingested once."""
    from endcap.loop.features.rows.view_rows import open_view
    from endcap.loop.features.spines import fit_keys
    from endcap.loop.features.view_joins import ask

    at, there = instants
    taken = dict.fromkeys((name.lower() for name in spine.schema.names), "the spine")
    ingests: dict[str, Ingest] = {}
    numbered: dict[tuple[tuple[str, str], ...], Asked] = {}  # views of the same keys ask the same
    joined = []
    for n, entry in enumerate(wanted):
        view, folder, own = entry.view, entry.folder, entry.lender is None
        known = {table.name: ingests[_mark(table, folder)] for table in view.sources if _mark(table, folder) in ingests} if own else entry.ingests
        rows = open_view(entry.lender or session, view, folder=folder, engine=engine, ingests=known)
        if own:
            ingests |= {_mark(table, folder): rows.ingests[table.name] for table in view.sources if table.name in rows.ingests}
        names = _name_features(rows, taken, full_names=full_names)
        typed = tuple((key, rows.stored_types[key]) for key in view.keys)
        if typed not in numbered:
            keys = fit_keys(spine, rows.key_types, view=view.name, engine=engine)
            numbered[typed] = ask(keys, at=at, there=there, stored=rows.stored_types, name=f"__spine_{n}", engine=engine)
        asked = numbered[typed]
        rows, relation = _make_readable(entry.lender or session, rows, asked, folder=folder, name=f"__view_{n}")
        joined.append(_Joined(rows, relation, asked, names, entry))
    return joined


def _mark_rows(spine: Given, views: Sequence[tuple[FeatureView, dict[str, str]]]) -> dict[str, Mark]:
    """The columns of the rows that are personal, those of the spine among them; ``views`` come with what their features are called."""
    from endcap.governance.privacy.sealing import Mark

    found = mark_tables([spine]) if isinstance(spine, Table) else {}
    for view, names in views:
        for own, mark in find_marks(view).items():
            found.setdefault(names.get(own, own), Mark(names.get(mark.subject, mark.subject) if mark.subject else None, mark.kind, mark.table))
    return found


def _mark(table: Table, folder: Path) -> str:
    return identify(table, str(folder.resolve()))


def _name_features(rows: FeatureRows, taken: dict[str, str], *, full_names: bool) -> dict[str, str]:
    """What each feature is called, and note who has which name. Names are told apart whatever their case, since engines do not."""
    view = rows.view
    names = {feature: f"{view.name}__{feature}" if full_names else feature for feature in rows.feature_types}
    for feature, name in names.items():
        other = taken.setdefault(name.lower(), f"feature view '{view.name}'")
        if other != f"feature view '{view.name}'":
            hint = "rename the spine's column" if full_names else f"full_names=True calls it '{view.name}__{feature}'"
            raise InvalidInput(f"Feature view '{view.name}' has the feature {feature!r}, and {other} has a column {name!r}.", hint=hint)
    return names


def _make_readable(session: Session, rows: FeatureRows, asked: Asked, *, folder: Path, name: str) -> tuple[FeatureRows, str]:
    """The view with what is wanted of it, and SQL that may be run twice.

    Rows of Parquet files are read twice, each time the columns that are wanted, and by their event time where that leaves out a good part. What must
    be computed or parsed is kept in the engine, which spills what does not fit.
    """
    from endcap.loop.features.rows.view_rows import open_view

    view, engine = rows.view, rows.engine
    span = asked.span(view.max_age)
    if span is None:
        return rows, f"SELECT * FROM ({rows.sql}) LIMIT 0"
    files = [file.path for ingest in rows.ingests.values() for file in ingest.files]
    if view.source is not None and not view.windowed and all(path.endswith(".parquet") for path in files):
        if any(_is_mostly_within(ingest, span) for ingest in rows.ingests.values()):
            return rows, rows.sql
        rows = open_view(session, view, folder=folder, engine=engine, ingests=rows.ingests, span=span)
        return rows, rows.sql
    rows = open_view(session, view, folder=folder, engine=engine, ingests=rows.ingests, keys=asked.relation, span=span)
    from endcap.loop.data.failures import reading

    with reading(view):
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {rows.sql}")
    return rows, f"SELECT * FROM {name}"


def _is_mostly_within(ingest: Ingest, span: Span) -> bool:
    """Whether at least half of the time over which an ingest reaches is wanted; to look at every row's time then costs more than it spares."""
    if ingest.first_event is None or ingest.last_event is None:
        return False
    try:
        first, last = datetime.fromisoformat(ingest.first_event), datetime.fromisoformat(ingest.last_event)
    except ValueError:
        return False  # beyond the years that dates have
    wanted_first, wanted_last = span
    wanted = min(last, wanted_last or last) - max(first, wanted_first or first)
    return wanted >= (last - first) / 2


def _join(session: Session, spine: Spine, joined: Sequence[_Joined]) -> Iterator[pa.Table]:
    """The spine's rows with their features, in blocks in their order; one without rows where the spine has none."""
    from endcap.loop.features.view_joins import choose_features, fetch_features
    from endcap.pipelines.machine import limit_memory

    limit = limit_memory(session.settings)
    chosen: list[Chosen] = [choose_features(view.rows, view.relation, view.asked, max_age=view.rows.view.max_age) for view in joined]
    n_threads = session.settings.n_threads
    for start, stop in _split(spine.n_rows, most=int(limit * _FETCH_SHARE) // (_FEATURE_BYTES * (1 + sum(len(view.names) for view in joined)))):
        found = [
            fetch_features(view.rows, view.relation, view.asked, own, start=start, stop=stop, n_threads=n_threads)
            for view, own in zip(joined, chosen, strict=True)
        ]
        most = int(limit * _BLOCK_SHARE / max(1.0, sum(features.row_bytes for features in found)))
        for first, last in _split(stop - start, most=min(most, _BLOCK_ROWS)):
            rows = spine.read(None, start + first, start + last)
            for view, features in zip(joined, found, strict=True):
                for name, column in features.take(first, last).items():
                    rows = rows.append_column(view.names[name], column)
            yield rows


def _split(n: int, *, most: int) -> Iterator[tuple[int, int]]:
    """Stretches of ``n`` rows of about one length, of at most ``most`` rows (or one); a single one without any where there are none."""
    n_parts = max(1, -(-n // max(1, most)))
    bounds = [n * i // n_parts for i in range(n_parts + 1)]
    return pairwise(bounds)


def _write(session: Session, spine: Spine, joined: Sequence[_Joined], *, out: Path | None, marks: Mapping[str, Mark]) -> TrainingSet:
    """Write the rows, and look at each on its way out. What the record says of who asked, and of what it took, is still to be filled in."""
    from endcap.loop.data.column_profiles import profile_columns

    id_ = session.new_id("training-set")

    def seal(block: pa.Table, n: int) -> pa.Table:
        if out is not None:
            return session.tables.blank(block)  # a file holds nobody who was forgotten
        return session.tables.seal(block, TRAINING_ROWS, partition=_part(session, id_, n))

    tally = _Tally([name for view in joined for name in view.names.values()], n_rows=spine.n_rows, marks=marks, seal=seal)
    with _open_sink(session, id_, out=out) as opened, _beside(opened) as sink:
        passed = (batch for block in tally.passing(_join(session, spine, joined), sink) for batch in block.to_batches())
        profiles = profile_columns(passed, personal=set(marks), n_threads=session.settings.n_threads)
    return TrainingSet(
        id=id_,
        identity="",
        at=session.now(),
        views={view.entry.name: view.rows.view.version for view in joined},
        ingests={f"{view.entry.prefix}{table}": ingest.id for view in joined for table, ingest in view.rows.ingests.items()},
        spine_sha256="",
        sha256=tally.sha256,
        n_rows=spine.n_rows,
        n_missing=tally.n_missing,
        profiles=tuple(profiles),
        path=None if out is None else str(out.resolve()),
        cpu_s=0.0,
        wall_s=0.0,
    )


class _Tally:
    """What passed on its way out: its digest, as it is kept, and, by feature, how many values are missing (NaN among them).

    ``seal`` makes of a block whose columns ``marks`` names as personal, and which is the n-th, what is kept of it.
    """

    def __init__(self, features: Sequence[str], *, n_rows: int, marks: Mapping[str, Mark], seal: Callable[[pa.Table, int], pa.Table]) -> None:
        self._marks, self._seal = marks, seal
        self.n_missing = dict.fromkeys(features, 0)
        self._step = max(1, -(-n_rows // PROFILED_ROWS))
        self._contents: Contents | None = None

    def passing(self, blocks: Iterator[pa.Table], sink: Sink) -> Iterator[pa.Table]:
        """Hand on each block to the sink; yields the features of every so many rows, for their profiles."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from endcap.governance.privacy.sealing import mark_personal
        from endcap.loop.features.contents import Contents

        n = 0
        for number, block in enumerate(blocks):
            kept = self._seal(mark_personal(block, self._marks), number) if self._marks else block
            self._contents = self._contents or Contents(kept.schema)
            self._contents.add(kept)
            for name in self.n_missing:
                self.n_missing[name] += pc.sum(pc.is_null(block[name], nan_is_null=True)).as_py() or 0
            sink(kept)
            features = block.select(list(self.n_missing))
            yield features if self._step == 1 else features.take(pa.array(np.arange(-n % self._step, block.num_rows, self._step)))
            n += block.num_rows

    @property
    def sha256(self) -> str:
        assert self._contents is not None, "there is a block even without rows"
        return self._contents.hexdigest()


def _digest(rows: pa.Table) -> str:
    from endcap.loop.features.contents import Contents

    contents = Contents(rows.schema)
    contents.add(rows)
    return contents.hexdigest()


def _digest_spine(spine: Spine) -> str:
    from endcap.loop.features.contents import Contents

    contents = Contents(spine.schema)
    for start in range(0, spine.n_rows, _SPINE_ROWS):
        contents.add(spine.read(None, start, min(start + _SPINE_ROWS, spine.n_rows)))
    return contents.hexdigest()


def _identify(session: Session, spine_sha256: str, joined: Sequence[_Joined], *, at: str, zone: str | None, full_names: bool) -> str:
    """The hash of all that the rows depend on."""
    views = []
    for entry in joined:
        view, there = entry.rows.view, entry.entry.lender or session
        where = {"view": view.name, "version": view.version}
        pushed = there.records.find(PUSHES, workspace=there.workspace, where=where, newest_first=True, limit=1) if view.pushed else []
        views.append([entry.entry.id, [push.id for push in pushed]])
    ingests = [sorted((name, ingest.identity) for name, ingest in entry.rows.ingests.items()) for entry in joined]
    return identify("training-set", spine_sha256, at, zone, full_names, views, ingests)


def _find_standing(session: Session, identity: str, *, out: Path | None) -> TrainingSet | None:
    """A training set that is the same, with its rows where they are wanted; None where they must be joined."""
    from endcap.governance.privacy.sealing import read_marks

    for record in session.records.find(TRAINING_SETS, workspace=session.workspace, where={"identity": identity}, newest_first=True):
        kept = record.path is None and bool(session.tables.partitions(TRAINING_ROWS, partition=_place(session, record.id)))
        if kept and out is None:
            return record
        if kept and out is not None:
            rows = _read_rows(session, record)
            with _open_file(out) as sink:
                sink(rows)
            sha256 = _digest(rows) if read_marks(rows.schema) else record.sha256  # what is kept is sealed, and the digest is of that
            return msgspec.structs.replace(record, path=str(out.resolve()), sha256=sha256)
        if out is not None and record.path == str(out.resolve()) and _still_there(session, record):
            return record
    return None


def _still_there(session: Session, record: TrainingSet) -> bool:
    try:
        _read_rows(session, record)
    except (NotFound, InvalidInput, IntegrityBroken):
        return False
    return True


def _place(session: Session, id_: str) -> dict[str, str]:
    return {"workspace": session.workspace, "training_set": id_}


def _part(session: Session, id_: str, n: int) -> dict[str, str]:
    return {**_place(session, id_), "part": f"{n:05d}"}


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


@contextmanager
def _beside(sink: Sink) -> Iterator[Sink]:
    """The same sink, which takes in a block while the next is made, and no more than one."""
    with ThreadPoolExecutor(1, thread_name_prefix="rows") as thread:
        last: Future[None] | None = None

        def hand_over(rows: pa.Table) -> None:
            nonlocal last
            if last is not None:
                last.result()
            last = thread.submit(sink, rows)

        yield hand_over
        if last is not None:
            last.result()


@contextmanager
def _open_sink(session: Session, id_: str, *, out: Path | None) -> Iterator[Sink]:
    """Where rows go: the file, which is there whole or not at all; or parts kept by the house, none of which stay when the block raises."""
    if out is not None:
        with _open_file(out) as sink:
            yield sink
        return
    parts: list[dict[str, str]] = []

    def keep(rows: pa.Table) -> None:
        parts.append(_part(session, id_, len(parts)))
        with _explaining("The rows"):
            session.tables.write(TRAINING_ROWS, partition=parts[-1], table=rows)

    try:
        yield keep
    except BaseException:
        for part in parts:
            session.tables.delete(TRAINING_ROWS, partition=part)
        raise


@contextmanager
def _open_file(out: Path) -> Iterator[Sink]:
    import pyarrow.csv as pacsv

    with delivering(out, what=str(out), hint=_HINT) as file:
        writer: Any = None

        def write(rows: pa.Table) -> None:
            nonlocal writer
            with _explaining(str(out)):
                if writer is None:
                    writer = pacsv.CSVWriter(file, rows.schema) if _is_csv(out) else _open_parquet(rows, file)
                writer.write_table(rows)

        yield write
        if writer is not None:
            writer.close()


def _open_parquet(rows: pa.Table, file: IO[bytes]) -> Any:
    """A writer that every reader of Parquet understands. A dictionary is tried for what repeats among the first rows; fractions never do."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def repeats(column: pa.ChunkedArray) -> bool:
        is_number = pa.types.is_integer(column.type) or pa.types.is_temporal(column.type)
        return not pa.types.is_floating(column.type) and (not is_number or pc.count_distinct(column).as_py() <= len(column) / 2)

    first = rows.slice(0, _LOOKED_AT)
    repeating = [name for name in rows.column_names if repeats(first[name])]
    return pq.ParquetWriter(file, rows.schema, compression="snappy", use_dictionary=repeating)


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Say of columns that a file cannot hold what is the matter."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise InvalidInput(f"{what} cannot be written: {error}.", hint="leave out columns of nested or unusual types, or write Parquet") from error
