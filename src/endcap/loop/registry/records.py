"""Records of the registry."""

from __future__ import annotations

from datetime import date, datetime

import msgspec

from endcap.loop.evaluation.records import Balance, Metrics
from endcap.storage.ports import Kind

PROD = "prod"
MEMBER_METRICS = "member-metrics"
"""Figures of each member of a version, as judged: a partition for each version's evidence, see ``endcap.loop.registry.members``."""
MEMBER_STATES = "member-states"
"""When each member of a model had its first and newest row, as of the newest data: a partition a model."""
MEMBER_STATUSES = ("bad", "fallback", "stale", "new", "unsure", "good", "retired")
"""What deserves a look first: worse than its baseline beyond noise; answering by its fallback; without a new row for two weeks, or by a fit
older than 13 weeks; unknown when the version was trained; worse than its baseline, yet within noise, or hardly judged; at least as good as
its baseline; gone, and not forecast any more."""


class ModelRecord(msgspec.Struct, frozen=True):
    """A model as it was last applied. ``definition`` is the JSON of what the user wrote."""

    name: str
    solution: str
    identity: str
    definition: str
    applied_at: datetime
    applied_by: str


class VersionFile(msgspec.Struct, frozen=True):
    """One file of a version; its bytes rest under their digest."""

    name: str
    kind: str
    sha256: str
    n_bytes: int


class SliceMetrics(msgspec.Struct, frozen=True):
    """The figures of one slice: ``by`` is a column, ``weekday``, ``day ahead`` or ``member``; ``value`` which of them."""

    by: str
    value: str
    metrics: Metrics


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One trained artefact. ``identity`` says what it was made of: equal identity, interchangeable version.

    ``leaderboard`` holds the figures of every candidate on the same judged rows, baselines among them; ``slices`` those of this one.
    ``evidence`` is the digest of its back-test rows in the solution's form. ``members_fallen_back`` gives the reason for each member that
    answers by its fallback.
    """

    id: str
    model: str
    n: int
    candidate: str
    identity: str
    created_at: datetime
    created_by: str
    run: str
    files: tuple[VersionFile, ...]
    metrics: Metrics
    leaderboard: dict[str, Metrics]
    baselines: tuple[str, ...]
    slices: tuple[SliceMetrics, ...] = ()
    members: int = 0
    members_fallen_back: dict[str, str] = {}
    trained_until: date | None = None
    training_set: str = ""
    evidence: str = ""
    tables: dict[str, str] = {}
    definition: str = ""
    lock: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class MemberLine(msgspec.Struct, frozen=True):
    """The judged figures of one member of a version; None where it had no outcome, ``fallback`` the reason it has no fit of its own.

    ``status`` is one of ``MEMBER_STATUSES``; ``candidate`` is the method that answers for it; ``ratio`` its error over that of the version's
    best ``baseline`` on the same rows; ``last_row`` the day of its newest row; ``facts`` are its static facts, by which segments are named.
    """

    member: str
    n: int
    wape: float | None
    mae: float | None
    bias: float | None
    coverage_90: float | None
    fallback: str | None
    status: str = "unsure"
    candidate: str = ""
    baseline: str | None = None
    baseline_wape: float | None = None
    ratio: float | None = None
    last_row: date | None = None
    facts: dict[str, str] = {}


class MemberSummary(msgspec.Struct, frozen=True):
    """Members at a glance: how many there are by status, the worst of the bad ones, and how many answer by their fallback for which reason."""

    n: int
    by_status: dict[str, int]
    worst: tuple[MemberLine, ...] = ()
    fallen_back: dict[str, int] = {}


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """A promotion that stands for some member: the n-th row of the model's history, and the version it made answer."""

    n: int
    release: str
    version: str


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a model's history: from ``at`` on ``version`` answers for the members that were moved, all of them or some.

    ``champion`` is the version that answers from then on for members that ``assignment`` does not name (see
    ``endcap.loop.registry.assignments``). ``n_members`` None: everybody was moved; otherwise how many, ``members`` the digest under which
    their names are kept as JSON, and ``sample`` the first of them. Members who went back to several versions are counted in ``moved`` by
    version; ``version`` is then the one that most of them got. ``segment`` is the segment that was asked for.
    """

    id: str
    model: str
    environment: str
    version: str
    previous: str | None
    at: datetime
    actor: str
    how: str  # promote | rollback | comparison
    reason: str
    verdict: str
    verdict_sentence: str = ""
    n: int = 1
    champion: str = ""
    assignment: str = ""
    segment: str | None = None
    n_members: int | None = None
    members: str = ""
    sample: tuple[str, ...] = ()
    moved: dict[str, int] = {}


class Champion(msgspec.Struct, frozen=True):
    """Which version answers now. One record per model and environment, changed only with its history row.

    ``release`` is the newest row of the history, its ``n``-th; ``version`` answers since ``since`` for all members but those that the
    assignment kept under ``assignment`` names ('': nobody was ever moved apart). ``standing`` are the promotions to which a rollback returns,
    the last of them the one that stands.
    """

    id: str
    release: str
    version: str
    since: datetime
    standing: tuple[Standing, ...] = ()
    n: int = 1
    assignment: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions on two lists of members: ``champion`` answers for group a, ``challenger`` for group b, from ``since`` on.

    ``members`` is the digest of both lists. ``seed``, ``share`` and ``by`` say how they were drawn (None and empty: they were given).
    ``metric`` is compared over at most ``n_days`` days; ``smallest`` is the smallest difference worth knowing, as a share of the champion's
    figure. ``until`` None: it runs. ``how`` it ended: ``kept a``, ``kept b`` or ``rolled back``; ``finding`` is what was known by then.
    """

    id: str
    model: str
    environment: str
    champion: str
    challenger: str
    members: str
    n_a: int
    n_b: int
    since: datetime
    started_by: str
    metric: str
    smallest: float
    n_days: int
    verdict: str
    seed: int | None = None
    share: float | None = None
    by: tuple[str, ...] = ()
    balance: tuple[Balance, ...] = ()
    reason: str = ""
    until: datetime | None = None
    ended_by: str = ""
    how: str = ""
    finding: str = ""


MODELS = Kind("model", ModelRecord, "name")
VERSIONS = Kind("version", Version, "id", (("model",), ("identity",)))
RELEASES = Kind("release", Release, "id", (("model",), ("version",)))
CHAMPIONS = Kind("champion", Champion, "id")
COMPARISONS = Kind("comparison", Comparison, "id", (("model",), ("challenger",)))
