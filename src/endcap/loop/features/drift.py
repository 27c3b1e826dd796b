"""Skew and drift: how far the values of a feature view are from those of another day, or from those a model was trained on."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.features.records import SNAPSHOTS, TRAINING_PROFILES, VIEW_VERSIONS, DriftReport, Snapshot, TrainingProfile

if TYPE_CHECKING:
    from endcap.loop.data.records import ColumnProfile

_TRAINING = "training"
_MOST_OFFERED = 100


@verb("features drift", permission=Permission.READ)
def compare_drift(session: Session, view: str, *, snapshot: str | None = None, against: str | None = None, model: str | None = None) -> DriftReport:
    """Compare the values of a feature view with those of another snapshot, or with those a model was trained on.

    ``view`` is a view's name, or ``name@version`` for snapshots of that version alone. ``snapshot`` is the id of one of them (None: the newest).
    ``against`` is the id of another snapshot, the name of a model's version such as ``store-day-v3``, or ``training`` for what the model's
    newest version that reads the view was trained on (None: ``training`` where a model is named, and otherwise the snapshot before).
    ``model`` is the model by whose importances the features are ranked (None: by the distance alone, or by those of the version that is compared
    with).

    Features are ranked by distance times importance. One has drifted where its population stability index is above .2 and what chance explains,
    or its Kolmogorov-Smirnov distance is above .1, or the share of missing values moved by 5 points, and the difference is beyond chance when all
    features are counted (false discovery rate 5 %); fewer than 100 rows are not judged. A snapshot holds the newest row of each
    key, a training set as many as its spine has: keys that were trained on often count for more there. Raises NotFound where there is
    no such snapshot or training. Cost: two records and about a millisecond a feature; no row is read.
    """
    from endcap.loop.data.distances import compare_profiles

    newer = _find_snapshot(session, view, snapshot)
    name = newer.view
    trained: TrainingProfile | None = None
    if model is not None:
        trained = _find_training(session, name, model)
    reference: Snapshot | TrainingProfile
    if against == _TRAINING or (against is None and model is not None):
        if trained is None:
            raise InvalidInput("Against 'training' of which model?", hint=f"endcap features drift {view} --against training --model MODEL")
        reference = trained
    elif against is None:
        reference = _find_before(session, view, newer)
    else:
        reference = _find_reference(session, name, against)
    if isinstance(reference, TrainingProfile):
        trained = trained or reference
    importances = trained.importances or None if trained is not None else None
    fresh = _features_of(session, newer, name)
    known = _features_of(session, reference, name, others={profile.name for profile in fresh})
    found = compare_profiles(known, fresh, importances=importances)
    return DriftReport(
        view=name,
        snapshot=newer.id,
        snapshot_at=newer.at,
        snapshot_rows=newer.n_rows,
        reference=reference.id,
        reference_at=reference.at,
        reference_rows=reference.n_rows,
        model=trained.model if trained is not None and importances is not None else None,
        distances=found.distances,
        new=found.new,
        vanished=found.vanished,
        notes=tuple(_list_notes(newer, reference, trained)),
    )


def _find_snapshot(session: Session, view: str, snapshot: str | None) -> Snapshot:
    name, _, version = view.partition("@")
    if snapshot is None:
        found = session.records.find(SNAPSHOTS, workspace=session.workspace, where=_where(view), newest_first=True, limit=1)
        if not found:
            raise NotFound(f"Feature view '{view}' has no snapshot yet.", hint=f"endcap features materialise {name}")
        return found[0]
    one = session.records.get(SNAPSHOTS, workspace=session.workspace, id=snapshot)
    if one is None or one.view != name or version not in ("", one.version):
        offered = _offer(session, view)
        raise NotFound(f"Feature view '{view}' has no snapshot '{snapshot}'. Newest: {offered[:5]}.", hint=suggest(snapshot, offered))
    return one


def _where(view: str) -> dict[str, str]:
    name, _, version = view.partition("@")
    return {"view": name, "version": version} if version else {"view": name}


def _offer(session: Session, view: str) -> list[str]:
    return [s.id for s in session.records.find(SNAPSHOTS, workspace=session.workspace, where=_where(view), newest_first=True, limit=_MOST_OFFERED)]


def _find_before(session: Session, view: str, newer: Snapshot) -> Snapshot:
    """The snapshot taken before another; more are read step by step, as they are large."""
    limit = 2
    while True:
        found = session.records.find(SNAPSHOTS, workspace=session.workspace, where=_where(view), newest_first=True, limit=limit)
        places = [i for i, one in enumerate(found) if one.id == newer.id]
        if places and places[0] + 1 < len(found):
            return found[places[0] + 1]
        if len(found) < limit:
            raise NotFound(
                f"There is no snapshot of feature view '{view}' before '{newer.id}'.",
                hint=f"compare with a training: endcap features drift {view} --model MODEL",
            )
        limit *= 4


def _find_training(session: Session, view: str, model: str) -> TrainingProfile:
    """The newest version of a model that was trained on the view."""
    trained = session.records.find(TRAINING_PROFILES, workspace=session.workspace, where={"model": model}, newest_first=True)
    for profile in trained:
        if view in profile.views:
            return profile
    if not trained:
        raise NotFound(f"No version of model '{model}' has kept what it was trained on.", hint=f"see its versions with: endcap versions {model}")
    raise NotFound(f"No version of model '{model}' was trained on feature view '{view}'. Views of its newest: {sorted(trained[0].views)}.")


def _find_reference(session: Session, view: str, against: str) -> Snapshot | TrainingProfile:
    one = session.records.get(SNAPSHOTS, workspace=session.workspace, id=against)
    if one is not None and one.view == view:
        return one
    trained = session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=against)
    if trained is None:
        offered = _offer(session, view)
        raise NotFound(
            f"'{against}' is neither a snapshot of feature view '{view}' nor a version that kept what it was trained on."
            f" Newest snapshots: {offered[:5]}.",
            hint=suggest(against, offered),
        )
    if view not in trained.views:
        raise NotFound(f"'{against}' was not trained on feature view '{view}'. Its views: {sorted(trained.views)}.")
    return trained


def _features_of(session: Session, side: Snapshot | TrainingProfile, view: str, *, others: Collection[str] = ()) -> list[ColumnProfile]:
    """The view's own features: a snapshot holds its keys too, and a model may have been trained on other views beside it.

    ``others`` are features as another side calls them, for a training on a version that was never materialised here.
    """
    version = side.version if isinstance(side, Snapshot) else side.views[view]
    defined = session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=f"{view}@{version}")
    if isinstance(side, Snapshot):
        keys = defined.key_types if defined is not None else {}
        return [profile for profile in side.profiles if profile.name not in keys]
    own = {*others, *(defined.feature_types if defined is not None else ())}
    return [profile for profile in side.profiles if profile.name in own]


def _list_notes(newer: Snapshot, reference: Snapshot | TrainingProfile, trained: TrainingProfile | None) -> list[str]:
    notes = []
    version = reference.version if isinstance(reference, Snapshot) else reference.views[newer.view]
    if version != newer.version:
        notes.append(f"the view was defined otherwise then: version {version}, now {newer.version}")
    if trained is not None and not trained.importances:
        notes.append(f"{trained.id} does not tell how much it leans on each feature: ranked by distance alone")
    if isinstance(reference, Snapshot) and reference.at > newer.at:
        notes.append("the reference is the newer of the two")
    return notes
