"""Runs of anybody's training code: what they are told while they go on, and finding them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import UNSET

from endcap.core.clock import draw_hex
from endcap.core.errors import Conflict, InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.quotas.usage import count_use
from endcap.governance.rights.veils import require_track
from endcap.governance.sessions import Session
from endcap.governance.verbs import Spoken, verb
from endcap.loop.training.tracking.experiments import choose_experiment, find_deleted, require_active_experiment
from endcap.loop.training.tracking.names import MOST_TAG, require_batch_limits, require_keys, require_pairs, require_title
from endcap.loop.training.tracking.records import COST_METRICS, COUNTED, DATASETS, DEFAULT_EXPERIMENT, STATUSES, Counted, Dataset
from endcap.loop.training.tracking.searching import parse_filter, parse_order, require_found
from endcap.pipelines.graph import Dataset as LineageDataset
from endcap.pipelines.open_lineage import Told, describe, keep_event, send_events
from endcap.storage.track_search import meets
from endcap.storage.tracks import Condition, Point, Stage, Track, TrackBatch, missing_track

_LOG = "track log"
_MOST_DATASET_TEXT = 16_000_000
_MOST_COST_S = 1e8  # three years: more is a mistake


def start_run(
    session: Session,
    *,
    experiment: str = DEFAULT_EXPERIMENT,
    name: str = "",
    actor: str = "",
    started_us: int | None = None,
    tags: Mapping[str, str] | None = None,
) -> Track:
    """Start a run in an experiment (its id). Raises NotFound without the experiment, Conflict where it is deleted.

    ``name`` empty: it gets one; ``actor`` empty: who asks; ``started_us`` None: now. Instants are kept to the millisecond, as clients say them.
    """
    session.require(Permission.EDIT, verb=_LOG)
    require_active_experiment(session, experiment)
    identity = draw_hex(session.new_id, "tracked")
    told = dict(tags or {})
    require_pairs(told, what="tag", most=MOST_TAG)
    run = Track(
        id=identity,
        group=experiment,
        name=require_title(name or f"run-{identity[-8:]}", what="run"),
        actor=actor or session.actor.name,
        started_us=cut_to_ms(count_us(session.now()) if started_us is None else started_us),
        tags=told,
    )
    session.tracks.create(session.workspace, run)
    _tell(session, run)
    return run


def record_run(session: Session, run: Track) -> bool:
    """Keep a run that has ended already, with all it holds; one of its id that stands stays as it is. Returns whether it was kept now.

    Raises InvalidInput beyond the limits of a batch, NotFound without its experiment, Conflict where that is deleted.
    """
    session.require(Permission.EDIT, verb=_LOG)
    require_active_experiment(session, run.group)
    require_batch_limits(TrackBatch(params=run.params, tags=run.tags, points=list(run.metrics.values()), name=run.name))
    if session.tracks.read(session.workspace, [run.id]) != [None]:
        return False
    try:
        session.tracks.create(session.workspace, run)
    except Conflict:
        return False  # another process came first
    return True


def update_run(session: Session, run: str, *, name: str | None = None, status: str | None = None, ended_us: int | None = None) -> Track:
    """Name a run anew, or say how it goes. What is None stays.

    A status that ends it says when: ``ended_us``, or else now; one that does not takes the end away. Raises NotFound, Conflict for a deleted run.
    """
    session.require(Permission.EDIT, verb=_LOG)
    if name is not None:
        require_title(name, what="run")
    if status is not None and status not in STATUSES:
        raise InvalidInput(f"{status[:50]!r} is no status of a run. Statuses: {list(STATUSES)}.", hint=suggest(status, STATUSES))
    ended: int | msgspec.UnsetType | None = UNSET if ended_us is None else cut_to_ms(ended_us)
    if ended_us is None and status is not None:
        ended = None if status in ("running", "scheduled") else cut_to_ms(count_us(session.now()))
    session.tracks.write(session.workspace, run, TrackBatch(name=name, status=status, ended_us=ended))
    found = get_run_track(session, run)
    if status in _TOLD:
        _count_cost(session, found)
        _tell(session, found)
    return found


@verb("track delete-run", permission=Permission.EDIT)
def delete_run(session: Session, run: str) -> Track:
    """Mark a run as deleted: it is not listed and takes no more, until it is restored. Nothing is lost."""
    return _mark(session, run, "deleted", verb_name="track delete-run")


@verb("track restore-run", permission=Permission.EDIT)
def restore_run(session: Session, run: str) -> Track:
    """Bring a deleted run back."""
    return _mark(session, run, "active", verb_name="track restore-run")


def get_run_track(session: Session, run: str) -> Track:
    """A run by id with its parameters, tags and the last point of each metric. Raises NotFound."""
    session.require(Permission.READ, verb="track show")
    (found,) = session.tracks.read(session.workspace, [run])
    if found is None:
        raise NotFound(f"There is no run {run[:100]!r} in workspace '{session.workspace}'.", hint="list them with: endcap track search")
    return found


def log(session: Session, run: str, batch: TrackBatch) -> None:
    """Add parameters, tags and points to a run, all or nothing.

    Limits: names of 250 characters (letters, digits, spaces and ``_ - . : /``), 6,000 for a parameter's value, 8,000 for a tag's, 1,000 points,
    100 parameters and 100 tags at once. NaN and the infinities are kept as they are; a clock that jumps back is no error, as steps order points.
    Raises InvalidInput beyond the limits, NotFound, Conflict for a parameter that was logged with another value or a run that is deleted.
    Cost: one write to the disk, and some 10 us a point.
    """
    session.require(Permission.EDIT, verb=_LOG)
    require_batch_limits(batch)
    session.tracks.write(session.workspace, run, batch)


@verb("track search", permission=Permission.READ)
def search_runs(
    session: Session,
    *,
    filter: str = "",  # noqa: A002 - the word of MLflow's clients
    experiments: Sequence[str] | None = None,
    order: Sequence[str] = (),
    stage: Annotated[Stage | None, Spoken(str)] = "active",
    limit: int = 20,
    skip: int = 0,
) -> list[Track]:
    """Find runs, by default the last started first.

    ``filter`` is which, in MLflow's language: ``metrics.rmse < 1 and params.model = 'tree' and attributes.status = 'FINISHED'``; ``experiments``
    is in which of them, by id or name (None: all); ``order`` is by what, such as ``metrics.rmse DESC``; ``stage`` is active, deleted, or in
    Python None for both; ``limit`` is how many; ``skip`` is how many are passed over. Cost: a look at the values of each name asked for, then the
    runs returned.
    """
    if stage not in ("active", "deleted", None):
        raise InvalidInput(f"{stage!r} is no stage. Stages: ['active', 'deleted'].")
    asked, orders = parse_filter(filter), parse_order(order)
    conditions = list(asked.conditions)
    if asked.datasets:
        conditions.append(Condition("attribute", "id", "in", _find_by_datasets(session, asked.datasets)))
    groups = None if experiments is None else [choose_experiment(session, said).id for said in experiments]
    if stage == "active" and (deleted := find_deleted(session)):
        if groups is None:
            conditions.append(Condition("attribute", "group", "not in", sorted(deleted)))
        else:
            groups = [group for group in groups if group not in deleted]
    return session.tracks.search(
        session.workspace, groups=groups, conditions=conditions, order=orders, stage=stage, limit=require_found(limit), skip=skip
    )


@verb("track metric", permission=Permission.READ)
def read_metric(session: Session, run: str, name: str, *, limit: int | None = None, skip: int = 0) -> list[Point]:
    """All points of a metric of a run, by instant, then step.

    ``limit`` is how many (None: all); ``skip`` is how many are passed over. A metric that was never logged has none. Raises NotFound without the run.
    """
    found = session.tracks.read_points(session.workspace, run, name, limit=limit, skip=skip)
    if not found:
        get_run_track(session, run)
    return found


def log_datasets(session: Session, run: str, datasets: Sequence[Dataset]) -> None:
    """Keep which datasets a run used, each once for its name, digest and context. Raises NotFound without the run."""
    session.require(Permission.EDIT, verb=_LOG)
    require_track(session, get_run_track(session, run), verb=_LOG)
    for dataset in datasets:
        _require_dataset(dataset, run)
    with session.records.transact() as tx:
        standing = {(d.name, d.digest, d.context) for d in tx.find(DATASETS, workspace=session.workspace, where={"run": run})}
        for dataset in datasets:
            key = (dataset.name, dataset.digest, dataset.context)
            if key not in standing:
                tx.append(DATASETS, workspace=session.workspace, record=dataset)
                standing.add(key)


def list_datasets(session: Session, run: str) -> list[Dataset]:
    """The datasets that a run used, in the order they were told; of a run that is not there, none."""
    session.require(Permission.READ, verb="track show")
    if session.tracks.read(session.workspace, [run]) == [None]:
        return []
    return session.records.find(DATASETS, workspace=session.workspace, where={"run": run})


_TOLD = {"finished": "done", "failed": "failed", "killed": "killed"}


def _count_cost(session: Session, run: Track) -> None:
    """Count to the actor what a run told that it cost, once, however often it ends; what is no number of seconds counts nothing."""
    if session.place is not None:
        return  # a run of ours that goes on around it counts its own
    told = (run.metrics.get(name) for name in COST_METRICS[:2])
    wall_s, cpu_s = (point.value if point is not None and 0 <= point.value < _MOST_COST_S else 0.0 for point in told)
    with session.records.transact() as tx:
        if tx.get(COUNTED, workspace=session.workspace, id=run.id) is None:
            tx.append(COUNTED, workspace=session.workspace, record=Counted(run.id))
            count_use(session, tx, f"experiment/{run.group}", cpu_s=cpu_s, wall_s=wall_s, n_runs=1)


def _tell(session: Session, run: Track) -> None:
    """Tell a collector of lineage that a run began or ended, with the datasets it used and the models it logged; nothing without a collector."""
    if session.settings.lineage is None:
        return
    from endcap.loop.training.tracking.logged_models import list_of_run  # which follows runs, too

    status = _TOLD.get(run.status, "running")
    reads: list[LineageDataset] = []
    writes: list[LineageDataset] = []
    if status != "running":
        used = session.records.find(DATASETS, workspace=session.workspace, where={"run": run.id})
        reads = [LineageDataset(d.name, namespace=d.source_type, version=d.digest) for d in used]
        writes = [LineageDataset(f"logged-model/{model}") for model in list_of_run(session, run.id)]
    at = datetime.fromtimestamp((run.ended_us if status != "running" and run.ended_us is not None else run.started_us) / 1e6, tz=UTC)
    told = Told(id=run.id, subject=f"experiment/{run.group}", status=status, at=at)
    with session.records.transact() as tx:
        keep_event(session, tx, describe(told, workspace=session.workspace, reads=reads, writes=writes), run=run.id)
    if status != "running":
        send_events(session)


def count_us(at: datetime) -> int:
    """An instant in microseconds of UTC since 1970."""
    return round(at.timestamp() * 1_000_000)


def cut_to_ms(at_us: int) -> int:
    """An instant to the millisecond, in microseconds: so that a search by milliseconds finds what was shown in milliseconds."""
    return at_us // 1000 * 1000


def _mark(session: Session, run: str, stage: Stage, *, verb_name: str) -> Track:
    (standing,) = session.tracks.read(session.workspace, [run])
    if standing is None:
        raise missing_track(run)
    require_track(session, standing, verb=verb_name)
    with session.change(verb_name, thing=f"run/{run}") as change:
        change.detail.update(experiment=standing.group, name=standing.name)
        if standing.stage != stage:
            session.tracks.write(session.workspace, run, TrackBatch(stage=stage))
    return msgspec.structs.replace(standing, stage=stage)


def _require_dataset(dataset: Dataset, run: str) -> None:
    if dataset.run != run:
        raise InvalidInput(f"The dataset '{dataset.name}' says that the run '{dataset.run}' used it, not '{run}'.")
    require_title(dataset.name, what="dataset")
    if dataset.context:
        require_keys([dataset.context], what="dataset's context")
    for what in ("digest", "source_type", "source", "schema", "profile"):
        n = len(getattr(dataset, what))
        if n > (_MOST_DATASET_TEXT if what in ("schema", "profile") else 65_536):
            raise InvalidInput(f"The {what} of the dataset '{dataset.name}' has {n:,} characters, which are too many.")


def _find_by_datasets(session: Session, conditions: Sequence[Condition]) -> list[str]:
    """The runs that used a dataset which meets each of the conditions; not always the same one. Cost grows with the datasets that are looked at."""
    found: set[str] | None = None
    for condition in conditions:
        where = {condition.name: condition.value} if condition.operator == "=" else None
        met = {
            dataset.run
            for dataset in session.records.find(DATASETS, workspace=session.workspace, where=where)
            if meets(Track(id="", group="", tags={name: getattr(dataset, name) for name in ("name", "digest", "context")}), condition)
        }
        found = met if found is None else found & met
    return sorted(found or ())
