"""What a view served, drawn at random, beside what its sources say.

At the moment of the check the online store itself is read; at instants before, what it held is made up from the batches and pushes that had come by
then. The other side is computed from the sources anew, at the same instant, as known at it. Why the two differ is told by ``parity_causes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.durations import parse_duration
from endcap.core.errors import InvalidInput
from endcap.core.names import quote
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.features.catalogue import list_versions
from endcap.loop.features.kept.materialised import list_batches
from endcap.loop.features.online import EXPIRED, OUTDATED, OnlineRows, make_codec, name_space, open_online, sample_online
from endcap.loop.features.parity_causes import CAUSES, FeatureRow, Finding, Limits, explain, newest, same_value
from endcap.loop.features.parity_rows import KEYS, Held, Key, draw_keys, name_keys, plain_utc, read_held, read_rows
from endcap.loop.features.personal import drop_forgotten, find_marks
from endcap.loop.features.records import Materialisation, ParityCause, ParityExample, ViewVersion
from endcap.loop.features.rows.view_rows import FeatureRows, open_view

if TYPE_CHECKING:
    import duckdb

_EXAMPLES = 3
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - plain times in UTC are counted from it


@dataclass(frozen=True)
class Sample:
    """What was served of a key (by its number) at an instant, and why nothing was."""

    n: int
    at: datetime
    served: FeatureRow | None
    reason: str | None
    batch: Materialisation | None


@dataclass(frozen=True)
class Difference:
    """A sample that was not what the sources say."""

    sample: Sample
    finding: Finding


@dataclass(frozen=True)
class Compared:
    """What was drawn, served and found: the version whose rows are online, the instant of the look and those before it, and the keys by number."""

    served: ViewVersion
    now: datetime
    moments: tuple[datetime, ...]
    features: tuple[str, ...]
    keys: Sequence[Key]
    samples: Sequence[Sample]
    differences: Sequence[Difference]


def sample_served(
    session: Session, standing: ViewVersion, *, n_keys: int, n_instants: int, back: timedelta, behind: timedelta, seed: int
) -> Compared:
    """Draw keys and instants, and hold what was served of them against what the sources say. See ``check_parity``."""
    served = _find_served(session, standing)
    rng, now = np.random.default_rng(seed), session.now()
    moments = _draw_moments(session, served, n_instants, now=now, back=back, rng=rng) if served == standing else []
    with open_engine(session.settings) as engine:
        check = _Check(session, standing, served, engine, now, Limits(behind, _max_age(standing.view), _tick(standing.view)))
        drawn = check.draw(n_keys, rng=rng)
        if not drawn:
            raise InvalidInput(f"Feature view '{standing.id}' has no key to compare, neither online nor in its sources.")
        samples, differences = check.compare(drawn, moments)
    return Compared(served, now, tuple(moments), tuple(check.rows.feature_types), drawn, samples, differences)


def _find_served(session: Session, standing: ViewVersion) -> ViewVersion:
    """The version whose rows are online: the one asked for, or else the newest other of the same keys that has some. Itself where none has."""
    versions = [version for version in list_versions(session, standing.name) if version.view.online and version.view.keys == standing.view.keys]
    return next((version for version in [standing, *versions] if session.online.count(name_space(session, version))), standing)


def _draw_moments(session: Session, served: ViewVersion, n: int, *, now: datetime, back: timedelta, rng: np.random.Generator) -> list[datetime]:
    """Instants since the first batch, none of them a moment at which a batch was written."""
    batches = list_batches(session, served)
    if not batches or not n:
        return []
    first = max(batches[0].at, now - back)
    span_us = (now - first) // timedelta(microseconds=1)
    return [first + timedelta(microseconds=int(us)) for us in np.sort(rng.integers(0, span_us, n))] if span_us > 0 else []


@dataclass
class _Check:
    """One check, with the engine that reads both sides."""

    session: Session
    standing: ViewVersion
    served: ViewVersion
    engine: duckdb.DuckDBPyConnection
    now: datetime
    limits: Limits

    def __post_init__(self) -> None:
        self._codec = make_codec(self.served)
        self._ingests: dict[str, Ingest] = {}
        self.rows: FeatureRows

    def draw(self, n: int, *, rng: np.random.Generator) -> list[Key]:
        """Up to ``n`` keys: half of those online, the rest from the sources, each once."""
        bare = self._open(_bare(self.standing.view))
        self._ingests = dict(bare.ingests)
        sampled = sample_online(self.session, self.served, n - n // 2)
        online = list(zip(*(sampled[key] for key in self.standing.view.keys), strict=True)) if set(sampled) == set(self.standing.view.keys) else []
        found = {self._codec.encode_key(key): key for key in [*sorted(online, key=repr), *draw_keys(bare, n, rng=rng)]}
        return drop_forgotten(self.session, self.standing.view, list(found.values()))[:n]

    def compare(self, keys: Sequence[Key], moments: Sequence[datetime]) -> tuple[list[Sample], list[Difference]]:
        """Both sides of every key at now and at each of the moments."""
        batches = list_batches(self.session, self.served)
        now = self._read_online(keys)
        types = {name: self.served.stored_types[name] for name in self.standing.view.keys}
        name_keys(self.engine, keys, types=types, least=[sample.served.event_at if sample.served else None for sample in now])
        held = read_held(self.session, self.served, engine=self.engine, n_keys=len(keys)) if moments or batches else [[] for _ in keys]
        past = [self._serve(n, held[n], batches, at) for at in moments for n in range(len(keys))]
        self.rows = self._open(self.standing.view, keys=KEYS)
        since = plain_utc(min([self.now, *moments])) - self.limits.behind
        rows = read_rows(self.rows, since=since, n_keys=len(keys))
        moved = self._find_moved(batches)
        samples = [*now, *past]
        found = []
        for sample in samples:
            batch = sample.batch
            then = [] if batch is None or batch.id not in moved else [kept.row for kept in held[sample.n] if kept.batch <= batch.n]
            finding = self._explain(sample, rows[sample.n], then)
            if finding is not None:
                found.append(Difference(sample, finding))
        return samples, found

    def _explain(self, sample: Sample, rows: Sequence[FeatureRow], then: Sequence[FeatureRow]) -> Finding | None:
        if self.served.id != self.standing.id or sample.reason == OUTDATED:
            expected = newest(rows, sample.at, max_age=self.limits.max_age)
            return Finding("definition", f"rows of version {self.served.version} are served, and {self.standing.version} stands", expected)
        found = explain(sample.served, rows, then, at=sample.at, limits=self.limits)
        if found is not None and found.cause == "missing online" and sample.reason == EXPIRED:
            return Finding("stale", "what was online was too old to be served", found.expected)
        return found

    def _open(self, view: FeatureView, *, keys: str | None = None) -> FeatureRows:
        folder = Path(self.standing.folder)
        return open_view(self.session, view, folder=folder, engine=self.engine, ingests=self._ingests or None, keys=keys)

    def _read_online(self, keys: Sequence[Key]) -> list[Sample]:
        columns = dict(zip(self.standing.view.keys, map(list, zip(*keys, strict=True)), strict=True))
        now_us = (plain_utc(self.now) - _EPOCH) // timedelta(microseconds=1)
        (found,) = open_online(self.session, [self.served.id], within=True).read_at(columns, now_us)
        batches = list_batches(self.session, self.served)
        return [Sample(n, plain_utc(self.now), _row(found, n), found.reasons[n], batches[-1] if batches else None) for n in range(len(keys))]

    def _serve(self, n: int, held: Sequence[Held], batches: Sequence[Materialisation], at: datetime) -> Sample:
        """What the store gave at an instant: the newest row that batches and pushes had brought by then, unless it was too old."""
        batch = max((batch for batch in batches if batch.at <= at), key=lambda batch: batch.n)
        until, moment = plain_utc(batch.known_until), plain_utc(at)
        brought = [kept.row for kept in held if kept.row.visible_at <= (moment if kept.batch == 0 else until) and kept.batch <= batch.n]
        row = max(brought, key=lambda row: (row.event_at, row.known_at), default=None)
        if row is not None and self.limits.max_age is not None and row.event_at < moment - self.limits.max_age:
            return Sample(n, moment, None, EXPIRED, batch)
        return Sample(n, moment, row, None, batch)

    def _find_moved(self, batches: Sequence[Materialisation]) -> set[str]:
        """The batches that were computed from other files than lie there now."""
        now = {name: ingest.identity for name, ingest in self._ingests.items()}
        found = set()
        for batch in batches:
            then = {name: self.session.records.get(INGESTS, workspace=self.session.workspace, id=id_) for name, id_ in batch.ingests.items()}
            if any(ingest is None or ingest.identity != now.get(name) for name, ingest in then.items()):
                found.add(batch.id)
        return found


def tell_causes(view: FeatureView, features: Sequence[str], keys: Sequence[Key], differences: Sequence[Difference]) -> tuple[ParityCause, ...]:
    """The differences by cause, most frequent first, with a few examples; what is personal is left out of them."""
    by_cause: dict[str, list[Difference]] = {}
    for difference in differences:
        by_cause.setdefault(difference.finding.cause, []).append(difference)
    found = []
    for cause, of_cause in sorted(by_cause.items(), key=lambda item: (-len(item[1]), CAUSES.index(item[0]))):
        counts: dict[str, int] = {}
        for difference in of_cause:
            for name in _differing(features, difference):
                counts[name] = counts.get(name, 0) + 1
        examples = tuple(_show(view, features, keys[difference.sample.n], difference) for difference in of_cause[:_EXAMPLES])
        found.append(ParityCause(cause=cause, n=len(of_cause), features=dict(sorted(counts.items())), examples=examples))
    return tuple(found)


def _differing(features: Sequence[str], difference: Difference) -> dict[str, tuple[Any, Any]]:
    served, expected = difference.sample.served, difference.finding.expected
    ours, theirs = (row.values if row is not None else (None,) * len(features) for row in (served, expected))
    if len(ours) != len(features):  # of another definition
        return {}
    return {name: (a, b) for name, a, b in zip(features, ours, theirs, strict=True) if not same_value(a, b)}


def _show(view: FeatureView, features: Sequence[str], key: Key, difference: Difference) -> ParityExample:
    hidden = set(find_marks(view))
    whose = bool(hidden & set(view.keys))
    served, expected = difference.sample.served, difference.finding.expected
    return ParityExample(
        at=difference.sample.at.replace(tzinfo=UTC),
        key={name: value for name, value in zip(view.keys, key, strict=True) if name not in hidden},
        about=difference.finding.about,
        served_at=served.event_at.replace(tzinfo=UTC) if served else None,
        expected_at=expected.event_at.replace(tzinfo=UTC) if expected else None,
        differs={} if whose else {name: pair for name, pair in _differing(features, difference).items() if name not in hidden},
    )


def _row(found: OnlineRows, n: int) -> FeatureRow | None:
    event_us, known_us = found.event_us[n], found.known_us[n]
    if event_us is None or known_us is None or found.reasons[n] is not None:
        return None
    values = tuple(column[n] for column in found.columns.values())
    return FeatureRow(_EPOCH + timedelta(microseconds=event_us), _EPOCH + timedelta(microseconds=known_us), values)


def _bare(view: FeatureView) -> FeatureView:
    """The same keys without windows, for a look at which there are."""
    if not view.windowed:
        return view
    name = next(name for name in ("present", "present_too", *map(str, range(len(view.keys)))) if name not in view.keys)
    return FeatureView(
        name=view.name,
        source=view.source,
        keys=view.keys,
        where=view.where,
        features={name: Aggregate("value", f"{quote(view.keys[0])} IS NOT NULL")},
    )


def _max_age(view: FeatureView) -> timedelta | None:
    return None if view.max_age is None else parse_duration(view.max_age)


def _tick(view: FeatureView) -> timedelta | None:
    return parse_duration(view.every) if view.every is not None else None
