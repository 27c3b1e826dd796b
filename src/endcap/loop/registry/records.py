"""Records of the registry."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import msgspec

from endcap.loop.evaluation.records import Balance, Metrics, SliceMetrics
from endcap.storage.ports import Kind

ENVIRONMENTS = ("dev", "staging", "prod")
"""The environments that every workspace has, in their order; the last is what customers see."""
PROD = ENVIRONMENTS[-1]
ROLES = ("champion", "challenger", "shadow")
"""How a release answers: for all that no other takes, for a share, or beside the others without being heard."""
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


class ModelDefinition(msgspec.Struct, frozen=True):
    """A definition that a model once had, by its identity: what older versions were made from."""

    identity: str
    model: str
    solution: str
    definition: str
    at: datetime
    actor: str


class Retirement(msgspec.Struct, frozen=True, kw_only=True):
    """A model that ends: from ``effective_at`` on it is neither trained nor released nor asked any more.

    ``consumers`` leaned on it when that was said. One record a model; ``withdrawn_at`` None: it stands.
    """

    model: str
    at: datetime
    by: str
    reason: str
    effective_at: datetime
    consumers: tuple[str, ...] = ()
    withdrawn_at: datetime | None = None


class VersionFile(msgspec.Struct, frozen=True):
    """One file of a version; its bytes rest under their digest."""

    name: str
    kind: str
    sha256: str
    n_bytes: int


class Field(msgspec.Struct, frozen=True):
    """One input or output of a version: its type (``double``, ``long``, ``string``, ``boolean``, ``datetime`` ...) and, of a tensor, its shape with
    -1 for any length. ``name`` is '' where only the place counts.
    """

    name: str
    type: str
    shape: tuple[int, ...] = ()
    required: bool = True


class Signature(msgspec.Struct, frozen=True):
    """What goes into a version and what comes out."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...] = ()


class Code(msgspec.Struct, frozen=True):
    """Which code trained a version: the git commit ('' outside of git), whether the tree was clean (None: not known), the file or module."""

    commit: str = ""
    clean: bool | None = None
    source: str = ""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One trained artefact. ``identity`` says what it was made of: equal identity, interchangeable version.

    ``leaderboard`` holds the figures of every candidate on the same judged rows, baselines among them; ``slices`` those of this one.
    ``evidence`` is the digest of its back-test rows in the solution's form. ``members_fallen_back`` gives the reason for each member that
    answers by its fallback. ``engine`` names what answers with its files ('': the model's own solution); ``example`` is the digest of an input
    with the answers given to it when the version was made; ``views`` are the versions by name of the feature views it was trained on;
    ``source`` is where its files were logged (``run/ID/PATH``, ``logged-model/ID``), '' where nobody logged them.
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
    engine: str = ""
    signature: Signature | None = None
    example: str = ""
    views: dict[str, str] = {}
    code: Code | None = None
    source: str = ""


class ModelWords(msgspec.Struct, frozen=True):
    """What people say of a model, which may change: a description, tags, and aliases that are names for versions and release nothing."""

    model: str
    description: str = ""
    tags: dict[str, str] = {}
    aliases: dict[str, str] = {}
    changed_at: datetime | None = None


class VersionWords(msgspec.Struct, frozen=True):
    """What people say of a version, which may change."""

    version: str
    model: str
    description: str = ""
    tags: dict[str, str] = {}
    changed_at: datetime | None = None


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

    ``role`` is one of ``ROLES``; ``share`` of the requests that a challenger gets. ``how`` is promote, rollback, comparison, withdraw (a challenger
    or shadow that answers no more), pin or unpin. ``n`` counts the moves of the environment's champion; a row that moves none bears the number
    of the last that did. ``overridden`` says that it stands on an override and not on a passed gate; ``proof`` what was compared before it
    answered.
    """

    id: str
    model: str
    environment: str
    version: str
    previous: str | None
    at: datetime
    actor: str
    how: str
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
    role: str = "champion"
    share: float | None = None
    overridden: bool = False
    proof: str = ""


class Seat(msgspec.Struct, frozen=True):
    """A challenger or a shadow that answers now, since the row ``release`` of the history; ``share`` of the requests is a challenger's."""

    version: str
    role: str
    share: float | None
    release: str
    since: datetime


class Seats(msgspec.Struct, frozen=True):
    """Who answers beside the champion of a model in an environment. One record, changed only with its history row."""

    id: str
    model: str
    environment: str
    seats: tuple[Seat, ...] = ()


class Pin(msgspec.Struct, frozen=True):
    """A person's word that what answers in an environment stays until they take it back; ``until`` None: nobody took it back."""

    id: str
    model: str
    environment: str
    by: str
    at: datetime
    reason: str
    until: datetime | None = None


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A place where releases answer. ``after`` names the environment in which a version must answer (or have answered) first; None: none.

    ``approvals`` are asked at least, whatever a model's gate says. ``home`` is the URL of another store to which versions are copied, their hashes
    checked; None: this one, where promotion moves a name.
    """

    name: str
    after: str | None = None
    approvals: int = 0
    home: str | None = None
    changed_at: datetime | None = None
    changed_by: str = ""


class ApprovalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A version that waits for people. ``kind`` is ``gate`` (its verdict passed but for approvals) or ``override``.

    ``n_needed`` approvals by ``expires_at``; ``verdict`` is what was found; an override's are ``reason``, and ``override_until`` when it ends.
    ``granted`` is the verdict by which the version may be released, recorded when the last of them approved.
    """

    id: str
    model: str
    version: str
    environment: str
    kind: str
    verdict: str
    requested_by: str
    at: datetime
    expires_at: datetime
    n_needed: int
    reason: str = ""
    override_until: datetime | None = None
    status: str = "pending"  # pending | approved | rejected | expired
    closed_at: datetime | None = None
    granted: str = ""


class Approval(msgspec.Struct, frozen=True):
    """One person's answer to a request: ``approved`` or ``rejected``, with what they said. One a person and request."""

    id: str
    request: str
    version: str
    by: str
    at: datetime
    answer: str
    comment: str


class ApprovalView(msgspec.Struct, frozen=True):
    """A request with the answers that people gave to it, the number of approvals it still waits for, and who may not approve, and why."""

    request: ApprovalRequest
    answers: tuple[Approval, ...]
    n_missing: int
    hands: dict[str, str] = {}


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


def _of_model(found: Any) -> tuple[str, ...]:
    return (f"model/{found.model}",)


def _of_version(found: Any) -> tuple[str, ...]:
    """What a version that is lent to others takes along."""
    return f"model/{found.model}", f"version/{found.version}"


def _of_place(found: Champion) -> tuple[str, ...]:
    return (f"model/{found.id.partition('/')[0]}",)


def _of_definition(found: ModelRecord | ModelDefinition) -> tuple[str, ...]:
    """Of a version that is lent, what its model is defined as goes along."""
    name = found.name if isinstance(found, ModelRecord) else found.model
    return f"model/{name}", f"definition/{name}"


MODELS = Kind("model", ModelRecord, "name", of=_of_definition)
MODEL_DEFINITIONS = Kind("model-definition", ModelDefinition, "identity", (("model",),), of=_of_definition)
RETIREMENTS = Kind("retirement", Retirement, "model", of=_of_model)
VERSIONS = Kind("version", Version, "id", (("model",), ("identity",)), of=lambda found: (f"model/{found.model}", f"version/{found.id}"))
MODEL_WORDS = Kind("model-words", ModelWords, "model", of=_of_model)
VERSION_WORDS = Kind("version-words", VersionWords, "version", (("model",),), of=_of_version)
RELEASES = Kind("release", Release, "id", (("model",), ("version",)), of=_of_model)
CHAMPIONS = Kind("champion", Champion, "id", of=_of_place)
COMPARISONS = Kind("comparison", Comparison, "id", (("model",), ("challenger",)), of=_of_model)
SEATS = Kind("seats", Seats, "id", of=_of_model)
PINS = Kind("pin", Pin, "id", (("model",),), of=_of_model)
ENVIRONMENT_RECORDS = Kind("environment", Environment, "name")
APPROVAL_REQUESTS = Kind("approval-request", ApprovalRequest, "id", (("model",), ("version",), ("status",)), of=_of_model)
APPROVALS = Kind("approval", Approval, "id", (("request",), ("version",)), of=lambda given: (f"model/{given.version.rpartition('-v')[0]}",))
