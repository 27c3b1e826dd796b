"""Views by name, those that other workspaces share among them: each with the session that reads it where it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import InvalidInput, NotFound, PermissionDenied
from endcap.governance.rights.shares import enter_share, hand_out
from endcap.governance.sessions import Session
from endcap.loop.data.records import Ingest
from endcap.loop.features.catalogue import find_ingest, find_view, require_zone
from endcap.loop.features.personal import find_marks
from endcap.loop.features.records import ViewVersion


@dataclass(frozen=True)
class AskedView:
    """A view that rows are joined to. ``lender`` reads it where another workspace shares it (None: it is one's own), as of ``ingests``.

    ``folder`` is where the relative paths of its tables begin; ``name`` is that of the view, with its workspace where that is another.
    """

    view: FeatureView
    folder: Path
    name: str
    lender: Session | None = None
    ingests: Mapping[str, Ingest] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What stands before the names of its tables: the workspace they are of, where that is another."""
        return "" if self.lender is None else f"{self.lender.workspace}/"

    @property
    def id(self) -> str:
        return f"{self.name}@{self.view.version}"


def find_lent(session: Session, name: str, *, verb: str) -> tuple[Session, ViewVersion]:
    """A version of a view by name, or ``WORKSPACE/NAME`` where another workspace shares it, and the session that reads it there.

    Raises NotFound, in the same words whether or not there is such a workspace; and PermissionDenied, audited, for a shared view that has got
    personal columns: those are never shared.
    """
    where, plain = enter_share(session, name, sorts=("view",))
    version = find_view(where, plain)
    if where is not session and (marks := find_marks(version.view)):
        session.record_refusal(verb, thing=f"view/{name[:200]}", detail={"why": "personal columns are never shared"})
        what = f"Feature view '{name}' has the personal columns {sorted(marks)}, which are never shared."
        raise PermissionDenied(what, hint="ask for a view without them")
    hand_out(where, f"view/{version.name}", verb=verb)
    return where, version


def resolve_views(session: Session, views: Sequence[FeatureView | str], *, folder: Path, verb: str) -> list[AskedView]:
    """The definitions that are asked for. Raises InvalidInput for none, for what is no view and for one that is named twice."""
    given = [views] if isinstance(views, FeatureView | str) else list(views)
    if not given:
        raise InvalidInput("A training set needs a feature view.", hint="views=['user_7d']")
    found: list[AskedView] = []
    for entry in given:
        if isinstance(entry, str):
            found.append(_resolve(session, entry, verb=verb))
        elif isinstance(entry, FeatureView):
            found.append(AskedView(entry, folder, entry.name))
        else:
            raise InvalidInput(f"{entry!r} is no feature view.", hint="give an ec.FeatureView or the name of one that stands")
    names = [asked.name for asked in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"Feature view '{name}' is asked for twice: {[one.id for one in found if one.name == name]}.", hint="name it once")
    return found


def _resolve(session: Session, name: str, *, verb: str) -> AskedView:
    where, version = find_lent(session, name, verb=verb)
    require_zone(where, version.view, version)
    if where is session:
        return AskedView(version.view, Path(version.folder), version.name)
    ingests = {table.name: find_ingest(where.without_veil(), table) for table in version.view.sources}
    missing = sorted(table for table, ingest in ingests.items() if ingest is None)
    if missing:
        raise NotFound(f"Workspace '{where.workspace}' has let no rows in for the feature view '{name}'.", hint="ask its owner to materialise it")
    known = {table: ingest for table, ingest in ingests.items() if ingest is not None}
    return AskedView(version.view, Path(version.folder), f"{where.workspace}/{version.name}", where, known)
