"""Showing feature views: those that words find, and one in full, so that a model can be built from it without asking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.durations import parse_duration
from endcap.core.permissions import Permission
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import ColumnProfile
from endcap.loop.features.catalogue import CataloguedView, find_columns, find_head, find_ingest, find_view, list_versions
from endcap.loop.features.differences import describe_differences
from endcap.loop.features.lineage import CONDITION, SourceColumn, ViewSources, find_personal, find_sources
from endcap.loop.features.parsing import Parser, open_parser
from endcap.loop.features.records import (
    EVENT_AT,
    KNOWN_AT,
    MATERIALISATIONS,
    MATERIALISED,
    PARITY_REPORTS,
    SNAPSHOTS,
    VIEW_HEADS,
    VIEW_VERSIONS,
    Materialisation,
    ParityReport,
    Snapshot,
    ViewVersion,
)
from endcap.loop.features.searching import Entry, Match, search
from endcap.loop.registry.view_uses import ViewUse, find_view_uses
from endcap.storage.ports import Kind, require_limit

R = TypeVar("R", bound=msgspec.Struct)

_SHOWN_BATCHES = 5
_LOOKED_AT = 200  # rows among which an example is chosen
_MOST_TEXT = 200


class ProfileLine(msgspec.Struct, frozen=True):
    """The newest profile of a view at a glance: how many keys it had values of, the share of missing values, and how old the newest value was now."""

    at: datetime
    n_rows: int
    null_share: float | None
    last_event: datetime | None
    age_s: float | None


class FoundView(msgspec.Struct, frozen=True, kw_only=True):
    """A view that was found: what it is, why it was found, who uses it, and what its values looked like last (None: never profiled)."""

    name: str
    version: str
    n: int
    keys: tuple[str, ...]
    features: tuple[str, ...]
    owner: str
    description: str
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    why: tuple[str, ...]
    uses: tuple[ViewUse, ...]
    profile: ProfileLine | None


class FeatureLine(msgspec.Struct, frozen=True, kw_only=True):
    """A key or a feature: what it is, what it means, its type (None: not known before the first reading), and where it comes from.

    ``sources`` are columns that it is made of, ``conditions`` those that say which rows count. ``profile`` is of the newest snapshot.
    """

    name: str
    what: str
    meaning: str
    type: str | None
    personal: bool
    sources: tuple[str, ...]
    conditions: tuple[str, ...]
    profile: ColumnProfile | None = None


class TableLine(msgspec.Struct, frozen=True, kw_only=True):
    """A table that a view reads, with what its newest accepted ingest found (None: it was not let in yet, as it is defined now)."""

    name: str
    source: str
    keys: tuple[str, ...]
    event_time: str | None
    zone: str | None
    known: str
    owner: str
    description: str
    purposes: tuple[str, ...]
    n_rows: int | None
    last_event: str | None
    read_at: datetime | None


class VersionLine(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a view: when and by whom it was applied first, whether it stands, and how it differs from the one before."""

    id: str
    n: int
    at: datetime
    actor: str
    stands: bool
    differences: tuple[str, ...]


class ParityLine(msgspec.Struct, frozen=True, kw_only=True):
    """The newest verdict on whether what is served is what the sources say; ``causes`` counts the samples that differed by why they did."""

    at: datetime
    passed: bool
    n_sampled: int
    n_equal: int
    causes: dict[str, int]


class ViewPage(msgspec.Struct, frozen=True, kw_only=True):
    """The specification of a feature view: all that is needed to build a model from it.

    ``sort`` is ``windows``, ``rows`` or ``sql``; ``time`` says in sentences when values are there, how long they hold, and how they are restated.
    ``purposes`` are those that the view and its tables allow (None: any). ``example`` is one of the rows kept, personal columns hidden (None: no
    rows are kept). ``materialisations`` are the newest, ``parity`` is the newest verdict on the version (None: never judged).
    """

    id: str
    name: str
    version: str
    n: int
    stands: bool
    sort: str
    description: str
    owner: str
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    purposes: tuple[str, ...] | None
    keys: tuple[FeatureLine, ...]
    features: tuple[FeatureLine, ...]
    time: tuple[str, ...]
    every: str | None
    where: str | None
    sql: str | None
    known_after: str
    max_age: str | None
    pushed: bool
    online: bool
    tables: tuple[TableLine, ...]
    uses: tuple[ViewUse, ...]
    profile: ProfileLine | None
    materialisations: tuple[Materialisation, ...]
    parity: ParityLine | None
    versions: tuple[VersionLine, ...]
    example: dict[str, str] | None


class _Counts(msgspec.Struct):
    n: int
    n_null: int


class _Glance(msgspec.Struct, frozen=True):
    """Of a snapshot what a list shows; what the values were like is passed over."""

    id: str
    view: str
    version: str
    at: datetime
    n_rows: int
    last_event: datetime | None
    profiles: tuple[_Counts, ...]


_GLANCES = Kind(SNAPSHOTS.name, _Glance, SNAPSHOTS.id, SNAPSHOTS.indexes, of=lambda found: (f"view/{found.view}",))


@verb("features search", permission=Permission.READ)
def search_views(session: Session, words: Sequence[str] = (), *, limit: int | None = None) -> list[FoundView]:
    """Find feature views by words, best first, with why each was found, who uses it, and what its values looked like last.

    Every word must match somewhere: in a name, a key, a feature, a tag, a label, an owner, a description, a meaning, or in what the view is made
    of (tables, their columns, SQL). A word matches what begins with it, whatever its case and accents. Without words all views are listed.
    ``limit`` is how many are shown at most (None: all). Cost grows with the number of views: 10,000 take half a second, and 50 microseconds for each
    that is shown.
    """
    require_limit(limit)
    records, workspace = session.records, session.workspace
    versions = {version.id: version for version in records.find(VIEW_VERSIONS, workspace=workspace)}
    heads = records.find(VIEW_HEADS, workspace=workspace)
    matches = search([Entry(versions[head.id].definition, head.labels) for head in heads], [words] if isinstance(words, str) else words)[:limit]
    uses = find_view_uses(session)
    found = []
    for match in matches:
        head = heads[match.place]
        snapshot = _find_newest(session, _GLANCES, head.name, head.version)
        profile = _line_of(snapshot, now=session.now()) if snapshot else None
        found.append(_describe_found(match, versions[head.id], head.labels, uses=uses.get(head.name, ()), profile=profile))
    return found


@verb("features show", permission=Permission.READ, lent={"view": ("view",)})
def show_view(session: Session, view: str) -> ViewPage:
    """Show a feature view in full: what it means, from which columns, when known and how fresh, who owns and uses it, versions, an example row.

    ``store_traffic`` is the version that stands, ``store_traffic@1a2b3c4d5e6f`` another. Everything is read from records but the example row, for
    which some of the kept rows are looked at.
    """
    kept = find_view(session, view)
    return describe_view(session, kept, uses=find_view_uses(session, views=[kept.name]).get(kept.name, ()))


def describe_view(session: Session, kept: ViewVersion, *, uses: tuple[ViewUse, ...], parser: Parser | None = None) -> ViewPage:
    """The specification of one version of a view. ``parser`` is one to use for many (None: one of its own)."""
    definition, head = kept.view, find_head(session, kept.name)
    sources = find_sources(definition, columns=find_columns(session, definition.sources), parser=parser)
    personal = find_personal(definition, sources)
    snapshot = _find_newest(session, SNAPSHOTS, kept.name, kept.version)
    profiles = {profile.name: profile for profile in snapshot.profiles} if snapshot else {}
    where = {"view": kept.name, "version": kept.version}
    batches = session.records.find(MATERIALISATIONS, workspace=session.workspace, where=where, newest_first=True, limit=_SHOWN_BATCHES)
    return ViewPage(
        id=kept.id,
        name=kept.name,
        version=kept.version,
        n=kept.n,
        stands=head.version == kept.version,
        sort="sql" if definition.sql is not None else "windows" if definition.windowed else "rows",
        description=definition.description,
        owner=definition.owner,
        tags=definition.tags,
        labels=head.labels,
        purposes=find_purposes(definition),
        keys=tuple(_describe_keys(kept, definition, sources, personal)),
        features=tuple(_describe_features(kept, definition, sources, personal, profiles)),
        time=tuple(describe_time(definition, zone=_zone_of(definition, kept))),
        every=definition.every,
        where=definition.where,
        sql=definition.sql,
        known_after=definition.known_after,
        max_age=definition.max_age,
        pushed=definition.pushed,
        online=definition.online,
        tables=tuple(_describe_table(session, table) for table in definition.sources),
        uses=uses,
        profile=_line_of(snapshot, now=session.now()) if snapshot else None,
        materialisations=tuple(batches),
        parity=_describe_parity(_find_newest(session, PARITY_REPORTS, kept.name, kept.version)),
        versions=tuple(_describe_versions(list_versions(session, kept.name), standing=head.version)),
        example=_find_example(session, kept, personal),
    )


def list_specifications(session: Session, views: Iterable[CataloguedView]) -> list[ViewPage]:
    """The specification of each view, with who uses what looked up once for all."""
    uses = find_view_uses(session)
    with open_parser() as parser:
        return [describe_view(session, found.standing, uses=uses.get(found.head.name, ()), parser=parser) for found in views]


def find_purposes(view: FeatureView) -> tuple[str, ...] | None:
    """What a view may be used for: the purposes that it and every table it reads allow, None for any. Empty: nothing satisfies them all."""
    stated = [purposes for purposes in (view.purposes, *(table.purposes for table in view.sources)) if purposes]
    return tuple(name for name in stated[0] if all(name in others for others in stated)) if stated else None


def describe_time(view: FeatureView, *, zone: str) -> list[str]:
    """When values of a view are there, how long they hold, and what happens to them afterwards, in sentences."""
    after = f"{view.known_after} after" if parse_duration(view.known_after) else "at"
    if view.windowed:
        ticks = {"1d": "at midnight of each day", "7d": "at midnight of each Monday"}.get(view.every or "", f"every {view.every}")
        told = [f"A value is computed {ticks} in {zone}, over the windows before it, from what was known by then, and is there {after} that tick."]
        told.append("Rows that become known later make the value anew, to be seen from then on; what was seen before is not changed.")
    elif view.sql is not None and view.event_time is None:
        told = ["It has no event time: its values hold for ever."]
    elif view.sql is not None:
        known = f"from {view.known_at} on" if view.known_at else f"{after} its event time"
        told = [f"The event time is {view.event_time}, in {zone} where it has no offset; a row is there {known}."]
    else:
        assert view.source is not None, "a view without sql has a source"
        when = f"{after} its event time ({view.source.event_time}, in {zone})" if view.source.event_time else "always: its table has no event time"
        told = [f"Each row of '{view.source.name}' is a value, there {when}{_known(view.source)}."]
        told.append("Of several rows of a key the one with the newest event time counts; a row that says it anew counts from when it was known.")
    told.append(f"A value older than {view.max_age} counts as missing." if view.max_age else "A value holds until a newer one comes, however old.")
    if view.pushed:
        told.append("Programs may push values, which count from the moment they arrive.")
    return told


def _known(table: Table) -> str:
    if table.known_at is not None:
        return f", and not before {table.known_at}"
    return f", and not before {table.known_after} after it" if parse_duration(table.known_after) else ""


def _describe_found(
    match: Match, version: ViewVersion, labels: tuple[str, ...], *, uses: tuple[ViewUse, ...], profile: ProfileLine | None
) -> FoundView:
    told = match.told
    return FoundView(
        name=told.name,
        version=version.version,
        n=version.n,
        keys=told.keys or (told.source.keys if told.source else ()),
        features=tuple(told.features or version.feature_types),
        owner=told.owner,
        description=told.description,
        tags=told.tags,
        labels=labels,
        why=match.why,
        uses=uses,
        profile=profile,
    )


def _find_newest(session: Session, kind: Kind[R], name: str, version: str) -> R | None:
    """The newest record of a version of a view."""
    where = {"view": name, "version": version}
    found = session.records.find(kind, workspace=session.workspace, where=where, newest_first=True, limit=1)
    return found[0] if found else None


def _line_of(snapshot: Snapshot | _Glance, *, now: datetime) -> ProfileLine:
    n, n_null = sum(profile.n for profile in snapshot.profiles), sum(profile.n_null for profile in snapshot.profiles)
    last = snapshot.last_event
    age_s = (now - (last if last.tzinfo else last.replace(tzinfo=UTC))).total_seconds() if last is not None and last.year > 1 else None
    return ProfileLine(snapshot.at, snapshot.n_rows, n_null / n if n else None, last, age_s)


def _describe_parity(report: ParityReport | None) -> ParityLine | None:
    if report is None:
        return None
    causes = {cause.cause: cause.n for cause in report.differences}
    return ParityLine(at=report.at, passed=report.passed, n_sampled=report.n_sampled, n_equal=report.n_equal, causes=causes)


def _describe_keys(kept: ViewVersion, view: FeatureView, sources: ViewSources, personal: frozenset[str]) -> Iterable[FeatureLine]:
    for key in view.keys:
        yield FeatureLine(
            name=key,
            what="key",
            meaning=view.meanings.get(key, ""),
            type=kept.key_types.get(key),
            personal=key in personal,
            **_split(sources.keys.get(key, ())),
        )


def _describe_features(
    kept: ViewVersion, view: FeatureView, sources: ViewSources, personal: frozenset[str], profiles: Mapping[str, ColumnProfile]
) -> Iterable[FeatureLine]:
    told = {name: feature.column if feature.fold == "value" else str(feature) for name, feature in view.features.items()}
    for name in told or dict.fromkeys((*kept.feature_types, *sources.features)):
        profile = profiles.get(name)
        yield FeatureLine(
            name=name,
            what=told.get(name, name),
            meaning=view.meanings.get(name, ""),
            type=kept.feature_types.get(name) or (profile.type if profile else None),
            personal=name in personal,
            profile=_count_only(profile) if profile is not None and name in personal else profile,
            **_split(sources.features.get(name, ())),
        )


def _count_only(profile: ColumnProfile) -> ColumnProfile:
    """The counts of a personal column, whatever was kept of it before somebody said that it is personal."""
    nothing: dict[str, Any] = {"least": None, "most": None, "mean": None, "deviation": None, "quantiles": None, "top": [], "histogram": None}
    return msgspec.structs.replace(profile, **nothing)


def _split(columns: Iterable[SourceColumn]) -> dict[str, Any]:
    told = [(str(column), column.role) for column in columns]
    return {"sources": tuple(c for c, role in told if role != CONDITION), "conditions": tuple(c for c, role in told if role == CONDITION)}


def _zone_of(view: FeatureView, kept: ViewVersion) -> str:
    return view.zone or next((table.zone for table in view.sources if table.zone), None) or kept.zone


def _describe_table(session: Session, table: Table) -> TableLine:
    ingest = find_ingest(session, table)
    return TableLine(
        name=table.name,
        source=table.source,
        keys=table.keys,
        event_time=table.event_time,
        zone=table.zone or session.zone,
        known=_describe_known(table),
        owner=table.owner,
        description=table.description,
        purposes=table.purposes,
        n_rows=ingest.n_rows if ingest else None,
        last_event=ingest.last_event if ingest else None,
        read_at=ingest.at if ingest else None,
    )


def _describe_known(table: Table) -> str:
    """When a row of a table is known, in words."""
    if table.known_at is not None:
        return f"from {table.known_at} on"
    after = f"{table.known_after} after" if parse_duration(table.known_after) else "at"
    if table.interval is not None:
        return f"{after} the end of its interval ({table.interval})" if parse_duration(table.interval) else f"{after} its event time"
    return f"{after} the end of its day where its event time is a date, otherwise {after} its event time"


def _describe_versions(versions: list[ViewVersion], *, standing: str) -> Iterable[VersionLine]:
    """Newest first, each beside the one before it."""
    for place, version in enumerate(versions):
        before = versions[place + 1].view if place + 1 < len(versions) else None
        yield VersionLine(
            id=version.id,
            n=version.n,
            at=version.at,
            actor=version.actor,
            stands=version.version == standing,
            differences=describe_differences(before, version.view) if before is not None else (),
        )


def _find_example(session: Session, kept: ViewVersion, personal: frozenset[str]) -> dict[str, str] | None:
    """Of some of the rows kept the one that says most, and of those the newest."""
    partition = {"workspace": session.workspace, "view": kept.name, "version": kept.version}
    there = session.tables.partitions(MATERIALISED, partition=partition)
    for place in reversed(there[-_SHOWN_BATCHES:]):
        rows: list[dict[str, Any]] = session.tables.scan(MATERIALISED, partition=place).head(_LOOKED_AT).to_pylist()
        if rows:
            row = max(rows, key=lambda row: (sum(value is not None for value in row.values()), row[EVENT_AT]))
            return {_plain_name(name): "(personal)" if name in personal else _as_text(value) for name, value in row.items() if name in _shown(row)}
    return None


def _shown(row: Mapping[str, object]) -> list[str]:
    return [name for name in row if not name.startswith("__") or name in (EVENT_AT, KNOWN_AT)]


def _plain_name(name: str) -> str:
    return {EVENT_AT: "event time (UTC)", KNOWN_AT: "known at (UTC)"}.get(name, name)


def _as_text(value: object) -> str:
    if value is None:
        return "missing"
    text = value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."
