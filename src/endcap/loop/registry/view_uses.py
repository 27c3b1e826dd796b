"""Who uses which feature view: models whose definitions read it, versions that were trained on it, and which of those answer now."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from endcap.governance.sessions import Session
from endcap.loop.features.records import TRAINING_PROFILES, VIEW_VERSIONS, ViewVersion
from endcap.loop.registry.assignments import read_assignment
from endcap.loop.registry.comparisons import find_comparison
from endcap.loop.registry.records import MODELS
from endcap.loop.registry.releases import get_champion
from endcap.storage.ports import Kind


class ViewUse(msgspec.Struct, frozen=True, kw_only=True):
    """How one model uses a view.

    ``declared``: its definition reads the view. ``versions`` says of each of its versions that was trained on the view, newest first, on
    which version of the view; ``answering`` names those of them that answer now, for all members or some.
    """

    model: str
    declared: bool = False
    versions: dict[str, str] = {}
    answering: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.answering:
            return f"{self.model} (answers by {', '.join(self.answering)})"
        n = len(self.versions)
        return f"{self.model} ({n} version{'s' if n > 1 else ''}, none answers)" if n else f"{self.model} (not trained on it yet)"


class _Trained(msgspec.Struct, frozen=True):
    """Of a training profile whom it is of; what the features were like is passed over."""

    id: str
    model: str
    views: dict[str, str]


_TRAINED = Kind(TRAINING_PROFILES.name, _Trained, TRAINING_PROFILES.id, of=lambda found: (f"model/{found.model}",))


class _Named(msgspec.Struct):
    name: str


class _Reads(msgspec.Struct):
    """Of a model's definition: the views that it reads."""

    features: tuple[_Named, ...] = ()


def find_view_uses(session: Session, *, views: Collection[str] | None = None) -> dict[str, tuple[ViewUse, ...]]:
    """The uses of each view by its name (None: of all that are used), by model. A view that nobody uses is left out.

    Cost: one pass over the models and over what was trained on features, and three records for each model that uses one.
    """
    declared: dict[str, set[str]] = {}
    for model in session.records.find(MODELS, workspace=session.workspace):
        for view in msgspec.json.decode(model.definition, type=_Reads).features:
            declared.setdefault(view.name, set()).add(model.name)
    trained: dict[str, dict[str, dict[str, str]]] = {}
    for profile in session.records.find(_TRAINED, workspace=session.workspace, newest_first=True):
        for name, version in profile.views.items():
            trained.setdefault(name, {}).setdefault(profile.model, {})[profile.id] = version
    wanted = sorted({*declared, *trained} & set(views)) if views is not None else sorted({*declared, *trained})
    answering: dict[str, frozenset[str]] = {}
    found: dict[str, tuple[ViewUse, ...]] = {}
    for name in wanted:
        uses = []
        for model_name in sorted({*declared.get(name, ()), *trained.get(name, {})}):
            if model_name not in answering:
                answering[model_name] = _find_answering(session, model_name)
            versions = trained.get(name, {}).get(model_name, {})
            answers = tuple(version for version in versions if version in answering[model_name])
            uses.append(ViewUse(model=model_name, declared=model_name in declared.get(name, ()), versions=versions, answering=answers))
        found[name] = tuple(uses)
    return found


def find_answering_views(session: Session, model: str) -> dict[str, ViewVersion]:
    """The versions of views, by id, that those versions of a model read which answer now. A view that was never applied is left out."""
    found: dict[str, ViewVersion] = {}
    for version in sorted(_find_answering(session, model)):
        profile = session.records.get(TRAINING_PROFILES, workspace=session.workspace, id=version)
        for name, view_version in profile.views.items() if profile else ():
            kept = session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=f"{name}@{view_version}")
            if kept is not None:
                found[kept.id] = kept
    return found


def _find_answering(session: Session, model: str) -> frozenset[str]:
    """The versions that answer for some member of a model."""
    champion = get_champion(session, model)
    if champion is None:
        return frozenset()
    assignment = read_assignment(session, champion)
    comparison = find_comparison(session, model)
    others = (*(assignment.versions if assignment else ()), *([comparison.challenger] if comparison else []))
    return frozenset((champion.version, *others))
