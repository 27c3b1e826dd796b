"""The protocol by which the loop runs a model of any solution."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from endcap.core.definitions.charters import Charter
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.gates import Gate
from endcap.core.definitions.tables import Table
from endcap.core.definitions.watches import Watch
from endcap.core.zones import name_moment
from endcap.governance.sessions import Session
from endcap.loop.data.records import ColumnProfile, Ingest
from endcap.loop.evaluation.records import Metrics, SliceMetrics
from endcap.loop.registry.records import Version, VersionFile
from endcap.pipelines.graph import StepContext

if TYPE_CHECKING:
    import pyarrow as pa

    from endcap.loop.evaluation.evidence import Evidence


class Members(msgspec.Struct, frozen=True):
    """Some members of a model: those named, or (``but``) all but those."""

    names: frozenset[str] = frozenset()
    but: bool = False

    def __contains__(self, name: str) -> bool:
        return (name in self.names) != self.but

    @property
    def everybody(self) -> bool:
        return self.but and not self.names


EVERYBODY = Members(but=True)


class DataRef(msgspec.Struct, frozen=True, kw_only=True):
    """What a model reads at one origin, kept as bytes under ``digest``; it is the training set and the source of forecasts in one.

    ``hour`` is the local hour of an hourly model's origin; None for a daily one's, which is the start of the day. ``views`` are the versions
    of the feature views by name that a new fit reads, ``profiles`` what their features were like on the ``n_profiled`` rows it may learn from.
    """

    digest: str
    origin: date
    first_day: date
    last_day: date
    n_rows: int
    n_series: int
    notes: tuple[str, ...] = ()
    hour: int | None = None
    views: dict[str, str] = {}
    profiles: tuple[ColumnProfile, ...] = ()
    n_profiled: int = 0

    @property
    def moment(self) -> str:
        """The origin as text."""
        return name_moment(self.origin, self.hour)


def refer_to(version: Version) -> DataRef:
    """The data that a version was trained on, as far as the version tells of them: how many rows and series they had it does not."""
    day = version.trained_until or date.min
    return DataRef(digest=version.training_set, origin=day, first_day=day, last_day=day, n_rows=0, n_series=0, views=version.views)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trained candidate that may become a version, with its evidence kept under a digest.

    ``importances`` says how much it leans on each feature of the views, as shares of all that it reads; empty: it does not tell.
    """

    candidate: str
    files: tuple[VersionFile, ...]
    metrics: Metrics
    leaderboard: dict[str, Metrics]
    baselines: tuple[str, ...]
    slices: tuple[SliceMetrics, ...]
    evidence: str
    members: int = 0
    members_fallen_back: dict[str, str] = {}
    importances: dict[str, float] = {}
    trained_until: date
    notes: tuple[str, ...] = ()


class Training(msgspec.Struct, frozen=True):
    """What training gave: trials in the order in which they are offered to the gate. Empty: nothing was trained."""

    trials: tuple[Trial, ...] = ()


class Answers(msgspec.Struct, frozen=True):
    """Answers in parts, made as they are taken, so that no more than one part need be in memory; the days of the first and the last answer;
    and which known-ahead facts were missing for some of them.
    """

    parts: Iterable[pa.Table]
    first: date
    last: date
    missing_facts: tuple[str, ...] = ()


class Task(Protocol):
    """A model as the loop sees it."""

    @property
    def name(self) -> str: ...
    @property
    def solution(self) -> str: ...
    @property
    def identity(self) -> str:
        """The hash of the definition."""
        ...

    @property
    def definition(self) -> str:
        """The definition as JSON."""
        ...

    @property
    def tables(self) -> tuple[Table, ...]: ...
    @property
    def views(self) -> tuple[FeatureView, ...]:
        """The feature views that it reads, whose tables are among ``tables``."""
        ...

    @property
    def purpose(self) -> str | None:
        """What it is for, which the tables and views must allow."""
        ...

    @property
    def encrypted(self) -> bool:
        """Whether what its runs write is encrypted at rest."""
        ...

    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def watch(self) -> tuple[Watch, ...]: ...
    @property
    def seed(self) -> int: ...

    def assemble(
        self, session: Session, context: StepContext, *, ingests: dict[str, Ingest], folder: Path, now: datetime, origin: str | None
    ) -> DataRef:
        """Read the tables into what the model reads. ``origin`` is an ISO day or hour; None is chosen from the data and the clock."""
        ...

    def train(self, session: Session, context: StepContext, data: DataRef) -> Training:
        """Back-test every candidate, choose, fit."""
        ...

    @property
    def charter(self) -> Charter | None:
        """Why the model exists, as far as it was said."""
        ...

    def gate_of(self, environment: str) -> Gate:
        """What a version must pass to answer in an environment; ``gate`` is that of ``prod``."""
        ...

    def weigh(self, session: Session, version: Version, *, champion: Version | None, n_tried: int) -> Evidence:
        """The evidence that a version was kept with, with the champion's forecasts on the same rows; ``n_tried`` trials were offered, this one
        included.
        """
        ...

    def answer(self, session: Session, version: Version, data: DataRef, *, members: Members = EVERYBODY) -> Answers:
        """Answers of a version for some members at the data's origin: keys, ts, forecast, lower_90, upper_90 and what else the solution gives."""
        ...

    def join(self, session: Session, data: DataRef) -> int:
        """Join the outcomes that are known by now to what was predicted, and keep them. Returns how many were joined."""
        ...

    def zone(self, session: Session) -> str:
        """The zone in which ``ts`` is written."""
        ...

    def name_tick(self, session: Session) -> str:
        """The tick of now (a day, an hour): what was assembled at one tick is assembled anew at the next."""
        ...
