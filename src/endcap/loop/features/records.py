"""Records of features: which views there are, what was materialised and pushed, and what their values looked like."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.errors import IntegrityBroken
from endcap.loop.data.records import ColumnDistance, ColumnProfile
from endcap.storage.ports import Kind

EVENT_AT = "__event_at"  # the instant a feature row is about, UTC, microseconds
KNOWN_AT = "__known_at"  # the instant from which it was known, UTC, microseconds
ALWAYS = datetime(1, 1, 1)  # noqa: DTZ001 - a plain timestamp in UTC, as the columns are: the event time of facts without one
ORDER = "__order"  # its place in the order of ingest: the last word between rows of the same key and both times
MATERIALISED = "features"  # dataset of feature rows, by workspace, view, version and batch
PUSHED_FIRST = 1 << 62  # the order of pushed rows begins here: they come after all that were ingested
PUSHED = "pushed-features"  # the same of rows that programs pushed
NEWEST = "newest-features"  # of each key the newest row that counts, by workspace, view, version and batch; that of the newest batch alone is kept
TILES = "feature-tiles"  # partial aggregates by key and tick, by workspace, view, version and batch


class ViewVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a feature view, as it was applied.

    ``id`` is ``name@version``; ``n`` counts the versions of the name from 1. ``folder`` is where the relative paths of its tables begin.
    ``key_types`` and ``feature_types`` are Endcap's, ``stored_types`` DuckDB's of all columns; they are empty until its tables were read once.
    """

    id: str
    name: str
    version: str
    n: int
    definition: str
    folder: str
    zone: str
    at: datetime
    actor: str
    key_types: dict[str, str] = {}
    feature_types: dict[str, str] = {}
    stored_types: dict[str, str] = {}

    @property
    def view(self) -> FeatureView:
        """The definition itself. Raises IntegrityBroken when it does not read as one."""
        try:
            return msgspec.json.decode(self.definition, type=FeatureView)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise IntegrityBroken(f"The definition of feature view '{self.id}' does not read as one: {error}.", hint="apply it again") from error


class ViewHead(msgspec.Struct, frozen=True, kw_only=True):
    """The standing version of a feature view by name, and the labels that people gave it."""

    name: str
    version: str
    n: int
    since: datetime
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


class Materialisation(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of feature rows that was computed and kept, and with it all that stands of a view up to then.

    ``ingests`` names the accepted ingest of each table that it was computed from; ``first_tick`` and ``last_tick`` are the event times it
    covers (UTC; None without rows), ``n_rows`` the rows it added, of which ``n_restated`` say anew what was said before. ``identity`` is the
    hash of definition, ingests and span: the same is not computed twice. ``sha256`` is of the rows' content.

    ``n`` counts the batches of a version from 1. ``known_until`` is the instant up to which all is there that was known; ``spans`` are the event
    times that are covered, each from its first to before its last instant (None: without end), those of earlier batches among them.
    ``waits_until`` is the instant at which the last of the rows will count that lie in the future (None: none does). ``kept`` names, by table,
    what the files held that went and whose rows stay known. ``replaced`` are the ends (both included) of intervals whose tiles in earlier batches
    no longer count, ``tiles`` those of the ticks whose tiles this batch added. ``merged_from`` is the first of the batches whose rows rest in one
    place with this one's (None: they rest by batch). ``online`` is ``pending`` until the online store has the rows, then ``done``, or ``none`` for
    a view that is not kept there.
    """

    id: str
    view: str
    version: str
    identity: str
    at: datetime
    ingests: dict[str, str]
    first_tick: datetime | None
    last_tick: datetime | None
    n_rows: int
    n_restated: int
    n_keys_recomputed: int
    n_online: int
    sha256: str
    cpu_s: float
    wall_s: float
    n: int
    known_until: datetime
    snapshot: str | None = None
    previous: str | None = None
    spans: tuple[tuple[datetime | None, datetime | None], ...] = ()
    waits_until: datetime | None = None
    kept: dict[str, tuple[str, ...]] = {}
    replaced: tuple[tuple[datetime, datetime], ...] = ()
    tiles: tuple[datetime, datetime] | None = None
    merged_from: int | None = None
    online: str = "none"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a view's values looked like at one materialisation: of each key the newest row, profiled by column."""

    id: str
    view: str
    version: str
    at: datetime
    n_rows: int
    first_event: datetime | None
    last_event: datetime | None
    profiles: tuple[ColumnProfile, ...]


class TrainingProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What the features looked like that a version of a model was trained on.

    ``id`` is the version's name; ``views`` the version of each view by name. No two of a model's views share a feature's name, so that a
    profile's name is the feature's. ``importances`` says how much the model leans on each, as shares of all that it reads (empty: it does
    not tell).
    """

    id: str
    model: str
    at: datetime
    n_rows: int
    views: dict[str, str]
    profiles: tuple[ColumnProfile, ...]
    importances: dict[str, float] = {}


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far the values of a view in one snapshot are from those of another, or from those a model was trained on.

    ``reference`` is the id of the other snapshot, or the name of the model's version; ``model`` whose importances the features are ranked by (None:
    by distance alone). ``distances`` are of the features that both have, those first that matter most; ``new`` and ``vanished`` the others.
    ``notes`` say what a reader should know of the two sides.
    """

    view: str
    snapshot: str
    snapshot_at: datetime
    snapshot_rows: int
    reference: str
    reference_at: datetime
    reference_rows: int
    model: str | None
    distances: tuple[ColumnDistance, ...]
    new: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> tuple[str, ...]:
        """The features that are far by their distances and beyond chance as well."""
        return tuple(distance.column for distance in self.distances if distance.drifted)


class TrainingSet(msgspec.Struct, frozen=True, kw_only=True):
    """Spine rows joined to feature views as they were known then.

    ``identity`` is the hash of the spine's content, the views' versions and the ingests they were read from; ``sha256`` is of the rows.
    ``profiles`` are of up to 250,000 of them, drawn evenly; ``n_missing`` counts all.
    """

    id: str
    identity: str
    at: datetime
    views: dict[str, str]
    ingests: dict[str, str]
    spine_sha256: str
    sha256: str
    n_rows: int
    n_missing: dict[str, int]
    profiles: tuple[ColumnProfile, ...]
    path: str | None
    cpu_s: float
    wall_s: float
    purpose: str | None = None


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that a program pushed: kept for ever offline, and online where they are newer than what stands there.

    ``at`` is the instant from which they are known; ``n`` counts the pushes of the version from 1. ``online`` is ``pending`` until the rows are
    where they belong, then ``done``, or ``none`` for a view that is not kept online; ``void`` where the process was killed before a row was
    kept. ``n_online`` of the rows took a place online.
    """

    id: str
    view: str
    version: str
    at: datetime
    n: int
    n_rows: int
    n_online: int = 0
    online: str = "pending"


class PushMerge(msgspec.Struct, frozen=True, kw_only=True):
    """One file at rest that was made of the ``parts``, pushes or merges by id, which say the same; ``removed`` once they are gone."""

    id: str
    view: str
    version: str
    at: datetime
    parts: tuple[str, ...]
    removed: bool = False


class ParityExample(msgspec.Struct, frozen=True, kw_only=True):
    """One value that was not what the sources say.

    ``key`` is the key's columns by name, ``differs`` by feature what was served and what should have been; columns declared personal, and values
    where the key is personal, are left out. ``served_at`` and ``expected_at`` are the event times of the two rows, None where there is none.
    """

    at: datetime
    key: dict[str, Any]
    about: str
    served_at: datetime | None
    expected_at: datetime | None
    differs: dict[str, tuple[Any, Any]]


class ParityCause(msgspec.Struct, frozen=True, kw_only=True):
    """How many samples differed for one cause (see ``endcap.loop.features.parity_causes``), in which features, and some of them."""

    cause: str
    n: int
    features: dict[str, int]
    examples: tuple[ParityExample, ...]


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what a view serves online is what its sources say: the verdict on a sample of keys and instants.

    ``version`` is the one that stands, ``served_version`` the one whose rows are served. ``instants`` begins with the moment of the check, where
    the online store itself was read; at the others its batches were. ``behind`` is how late rows may come, ``n_missing`` for how many samples nothing
    was served. It ``passed`` when every sample was equal.
    """

    id: str
    view: str
    version: str
    served_version: str
    at: datetime
    actor: str
    passed: bool
    n_keys: int
    instants: tuple[datetime, ...]
    n_sampled: int
    n_equal: int
    n_missing: int
    differences: tuple[ParityCause, ...]
    behind: str
    seed: int


def _of_view(found: Any) -> tuple[str, ...]:
    return (f"view/{found.view}",)


def _of_name(found: ViewVersion | ViewHead) -> tuple[str, ...]:
    return (f"view/{found.name}",)


def _of_views(found: TrainingSet) -> tuple[str, ...]:
    return tuple(f"view/{name}" for name in found.views)


VIEW_VERSIONS = Kind("feature-view", ViewVersion, "id", (("name",),), of=_of_name)
VIEW_HEADS = Kind("feature-view-head", ViewHead, "name", of=_of_name)
MATERIALISATIONS = Kind("materialisation", Materialisation, "id", (("view",), ("view", "version"), ("identity",)), of=_of_view)
SNAPSHOTS = Kind("feature-snapshot", Snapshot, "id", (("view",), ("view", "version")), of=_of_view)
TRAINING_PROFILES = Kind("training-profile", TrainingProfile, "id", (("model",),), of=lambda found: (f"model/{found.model}", f"version/{found.id}"))
TRAINING_SETS = Kind("training-set", TrainingSet, "id", (("identity",),), of=_of_views, tells=True)
PUSH_MERGES = Kind("feature-push-merge", PushMerge, "id", (("view", "version", "removed"),), of=_of_view)
PUSHES = Kind("feature-push", Push, "id", (("view",), ("view", "version"), ("view", "version", "online")), of=_of_view)
PARITY_REPORTS = Kind("parity-report", ParityReport, "id", (("view",), ("view", "version")), of=_of_view)
