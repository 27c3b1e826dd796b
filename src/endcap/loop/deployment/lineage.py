"""Lineage: from a column to every live release that leans on it, and from a prediction back to its columns and files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from endcap.core.clock import describe_span
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, NotFound, suggest
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import may_see
from endcap.governance.sessions import Session
from endcap.governance.verbs import verb
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.deployment.model_sources import ModelSources, find_model_sources
from endcap.loop.deployment.tracing import read_prediction
from endcap.loop.features.catalogue import find_columns
from endcap.loop.features.lineage import CONDITION, ROWS, UNTOLD, SourceColumn, find_sources
from endcap.loop.features.parsing import Parser, open_parser
from endcap.loop.features.records import TRAINING_PROFILES, VIEW_HEADS, VIEW_VERSIONS, ViewVersion
from endcap.loop.registry.live import ON_AN_OVERRIDE, find_live_releases
from endcap.loop.registry.records import MODEL_DEFINITIONS, MODELS, VERSIONS, ModelRecord, Version
from endcap.loop.training.tracking.tracked_runs import list_datasets

_PREDICTIONS = "predictions://"


class LineageNode(msgspec.Struct, frozen=True):
    """A thing on the way: ``depth`` steps from the one asked for, reached ``through`` the things before it. ``live``: it answers now."""

    thing: str
    what: str
    depth: int
    through: tuple[str, ...] = ()
    live: bool = False


class Lineage(msgspec.Struct, frozen=True):
    """All that a thing was made from (``upstream``) or that leans on it (``downstream``), nearest first."""

    thing: str
    what: str
    direction: str
    nodes: tuple[LineageNode, ...]

    @property
    def live(self) -> tuple[LineageNode, ...]:
        return tuple(node for node in self.nodes if node.live)


@verb("lineage", permission=Permission.READ)
def show_lineage(session: Session, thing: str, *, upstream: bool = False, downstream: bool = False) -> Lineage:
    """Show what a thing was made from, or what leans on it: from a column to every live release, from a prediction to its columns.

    ``thing`` is a column (``sales.units``), a table, a feature (``store_traffic.units_7d``), a feature view, a model, a version or a prediction's
    id; where two are called alike, write ``table/sales``, ``view/sales``, ``model/sales``. ``upstream`` walks to what it was made from: columns,
    tables as ingested, files; ``downstream`` to features, versions that answer now, releases, and tables made of predictions. Neither is asked for:
    predictions and versions are walked upstream, all else downstream. Raises InvalidInput for both, NotFound with the nearest name.
    Cost: one look at every model and feature view of the workspace.
    """
    if upstream and downstream:
        raise InvalidInput("Lineage is walked in one direction.", hint="give --upstream or --downstream")
    with open_parser() as parser:
        chart = _Chart(session, parser)
        chart.draw()
        found = chart.resolve(thing)
        backwards = upstream or (not downstream and found.partition("/")[0] in ("prediction", "version", "release"))
        if backwards:
            chart.draw_history(found)
        elif found.startswith("model/"):
            chart.draw_answers(found)
    return Lineage(found, chart.what.get(found, ""), "upstream" if backwards else "downstream", tuple(_walk(chart, found, backwards=backwards)))


def walk_downstream(session: Session, thing: str) -> list[LineageNode]:
    """All that leans on a thing by its full name, nearest first; nothing where nobody knows it."""
    with open_parser() as parser:
        chart = _Chart(session, parser)
        chart.draw()
    return _walk(chart, thing, backwards=False)


@dataclass
class _Chart:
    """Things and the edges between them: targets by source, sources by target, a line about each."""

    session: Session
    parser: Parser
    targets: dict[str, dict[str, None]] = field(default_factory=dict)
    sources: dict[str, dict[str, None]] = field(default_factory=dict)
    what: dict[str, str] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    tables: dict[str, Table] = field(default_factory=dict)
    drawn: set[str] = field(default_factory=set)

    def join(self, source: str, target: str) -> None:
        self.targets.setdefault(source, {})[target] = None
        self.sources.setdefault(target, {})[source] = None

    def draw(self) -> None:
        """All views and models as defined, and the versions that answer now with their releases."""
        session = self.session
        for head in session.records.find(VIEW_HEADS, workspace=session.workspace):
            kept = session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=head.id)
            if kept is not None:
                self._draw_view(kept.view, f"view/{head.name}", what=f"feature view, version {head.version}")
        for model in session.records.find(MODELS, workspace=session.workspace):
            self.what[f"model/{model.name}"] = f"model of {model.solution}, defined by {model.applied_by}"
            self._draw_sources(find_model_sources(model.definition, solution=model.solution, parser=self.parser), f"model/{model.name}")
            for live in find_live_releases(session, model.name):
                release = f"release/{live.release}"
                word = f", {ON_AN_OVERRIDE}" if live.overridden else ""
                self.what[release] = f"{live.role} of {model.name} in {live.environment} since {live.since:%Y-%m-%d %H:%M}Z{word}"
                self.live.add(release)
                self.join(f"version/{live.version}", release)
                self._draw_version(live.version, model)
                if live.role == "champion":
                    self.join(release, f"predictions/{model.name}")
            self.what.setdefault(f"predictions/{model.name}", f"what {model.name} answered, as logged")
        for table in list(self.tables.values()):
            self._draw_table(table)

    def draw_history(self, thing: str) -> None:
        """What leads to a version or a prediction: the rows, the tables as they were ingested then, the files."""
        kind, _, name = thing.partition("/")
        if kind == "prediction":
            batch, answer = read_prediction(self.session, name)
            self.what[thing] = answer
            self.what[f"batch/{batch.id}"] = f"{batch.n_rows} rows from the origin {batch.moment}, predicted at {batch.predicted_at:%Y-%m-%d %H:%M}Z"
            self.join(f"batch/{batch.id}", thing)
            self.join(f"version/{batch.version}", f"batch/{batch.id}")
            name = batch.version
        found = self.session.records.get(VERSIONS, workspace=self.session.workspace, id=name)
        if found is not None:
            model = self.session.records.get(MODELS, workspace=self.session.workspace, id=found.model)
            self._draw_version(found.id, model)
            for table, ingest in found.tables.items():
                self._draw_ingest(f"table/{table}", self.session.records.get(INGESTS, workspace=self.session.workspace, id=ingest))

    def draw_answers(self, thing: str) -> None:
        """What leans on a model: its versions that answer now, and what it answered. Not drawn for others, whose way leads through versions."""
        name = thing.partition("/")[2]
        for live in find_live_releases(self.session, name):
            self.join(thing, f"version/{live.version}")
        self.join(thing, f"predictions/{name}")

    def resolve(self, thing: str) -> str:
        """The full name of a thing. Raises NotFound with the nearest."""
        session, text = self.session, thing.strip()
        if "~" in text:
            return text if text.startswith("prediction/") else f"prediction/{text}"
        known = {name for name in (*self.what, *self.targets, *self.sources) if may_see(session, _thing_of(name))}
        candidates = [text, *(f"{kind}/{text}" for kind in ("column", "feature", "table", "view", "model", "version", "release"))]
        for candidate in candidates:
            if candidate in known:
                return candidate
        version = session.records.get(VERSIONS, workspace=session.workspace, id=text.removeprefix("version/"))
        if version is not None:
            self.what[f"version/{version.id}"] = _describe_version(version)
            return f"version/{version.id}"
        table, _, column = text.removeprefix("column/").partition(".")
        if (
            column
            and table in self.tables
            and may_see(session, f"table/{table}")
            and column in find_columns(session, [self.tables[table]]).get(table, ())
        ):
            self.what[f"column/{table}.{column}"] = "no model and no view reads it by name"
            return f"column/{table}.{column}"
        short = {name.partition("/")[2]: name for name in known}
        raise NotFound(
            f"Nothing is called {thing!r} in workspace '{session.workspace}'.", hint=suggest(text, [*short, *known]) or "list names with: endcap ls"
        )

    def _draw_view(self, view: FeatureView, name: str, *, what: str) -> None:
        if name in self.drawn:
            return
        self.drawn.add(name)
        self.what[name] = f"{what}, by {', '.join(view.keys)}"
        self._know(view.sources)
        found = find_sources(view, columns=find_columns(self.session, view.sources), parser=self.parser)
        for feature, columns in found.features.items():
            thing = f"feature/{name.removeprefix('view/')}.{feature}"
            self.what[thing] = "feature"
            self.join(thing, name)
            for column in columns:
                self.join(self._column(column), thing)
        for column in (*found.times, *(c for columns in found.keys.values() for c in columns)):
            self.join(self._column(column), name)

    def _draw_sources(self, found: ModelSources, target: str) -> None:
        self._know(found.tables)
        for view in found.views:
            name = f"view/{view.name}"
            if name not in self.drawn:  # defined with the model, and never applied by itself
                self._draw_view(view, name, what=f"feature view, version {view.version}")
            self.join(name, target)
        for column in found.columns:
            self.join(self._column(column), target)

    def _draw_version(self, version_id: str, model: ModelRecord | None) -> None:
        """A version with what it was made from: the views at the versions it was trained on, the columns of its own definition."""
        name = f"version/{version_id}"
        version = self.session.records.get(VERSIONS, workspace=self.session.workspace, id=version_id)
        if version is None or name in self.drawn:
            return
        self.drawn.add(name)
        self.what[name] = _describe_version(version)
        kept = self.session.records.get(MODEL_DEFINITIONS, workspace=self.session.workspace, id=version.definition)
        definition = (kept.definition, kept.solution) if kept else (model.definition, model.solution) if model else None
        if definition is not None:
            found = find_model_sources(definition[0], solution=definition[1], parser=self.parser)
            self._draw_sources(msgspec.structs.replace(found, views=()), name)
        for view, view_version in self._views_of(version).items():
            self.join(self._draw_trained_view(view, view_version), name)
        self._draw_run(version, name)

    def _draw_run(self, version: Version, name: str) -> None:
        """The run that made a version, and the datasets that somebody's training code said it used."""
        if not version.run:
            return
        run = f"run/{version.run}"
        self.what[run] = "run" if version.code is None or not version.code.source else f"run of {version.code.source}"
        self.join(run, name)
        for dataset in list_datasets(self.session, version.run):
            thing = f"dataset/{dataset.name}@{dataset.digest}"
            self.what[thing] = f"dataset{f' for {dataset.context}' if dataset.context else ''}, from {dataset.source_type}"
            self.join(thing, run)

    def _views_of(self, version: Version) -> dict[str, str]:
        profile = self.session.records.get(TRAINING_PROFILES, workspace=self.session.workspace, id=version.id)
        return {**version.views, **(profile.views if profile else {})}

    def _draw_trained_view(self, view: str, version: str) -> str:
        """The view as a version was trained on it: the standing one under its plain name, an older one under its own."""
        session = self.session
        head = session.records.get(VIEW_HEADS, workspace=session.workspace, id=view)
        if head is not None and head.version == version:
            return f"view/{view}"
        kept: ViewVersion | None = session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=f"{view}@{version}")
        name = f"view/{view}@{version}"
        workspace, shared, _ = view.partition("/")
        if shared:
            self.what[name] = f"feature view of workspace '{workspace}', as it was shared"
        elif kept is None:
            self.what[name] = "a version of the view that is not kept here"
        else:
            self._draw_view(kept.view, name, what="feature view, an earlier version")
        return name

    def _know(self, tables: Iterable[Table]) -> None:
        for table in tables:
            self.tables[table.name] = table

    def _column(self, column: SourceColumn) -> str:
        thing = f"column/{column.table}.{column.column or ROWS}"
        said = {ROWS: "its rows, which are counted", UNTOLD: "some of its columns"}.get(column.column, "column")
        self.what.setdefault(thing, said if column.role != CONDITION else f"{said}, as a condition")
        self.join(f"table/{column.table}", thing)
        return thing

    def _draw_table(self, table: Table) -> None:
        """A table with where it comes from: the newest rows that were let in, or another model's predictions."""
        name = f"table/{table.name}"
        self.what[name] = f"table, from {table.source}"
        if table.source.startswith(_PREDICTIONS):
            self.join(f"predictions/{table.source.removeprefix(_PREDICTIONS)}", name)
        where = {"table": table.name}
        for ingest in self.session.records.find(INGESTS, workspace=self.session.workspace, where=where, newest_first=True, limit=5):
            if ingest.status == "accepted":
                self._draw_ingest(name, ingest)
                break

    def _draw_ingest(self, table: str, ingest: Ingest | None) -> None:
        if ingest is None:
            return
        thing = f"ingest/{ingest.id}"
        self.what.setdefault(table, "table")
        self.what[thing] = (
            f"{ingest.n_rows} rows from {describe_span(ingest.first_event, ingest.last_event)}, ingested at {ingest.at:%Y-%m-%d %H:%M}Z"
        )
        self.join(thing, table)
        for file in ingest.files:
            self.what[f"file/{file.path}"] = f"{file.n_bytes} bytes, sha256 {file.sha256}"
            self.join(f"file/{file.path}", thing)


def _thing_of(name: str) -> str:
    """The thing that may be closed with which a name is, as a column with its table."""
    sort, _, plain = name.partition("/")
    if sort in ("column", "feature"):
        return f"{'table' if sort == 'column' else 'view'}/{plain.partition('.')[0].partition('@')[0]}"
    return f"view/{plain.partition('@')[0]}" if sort == "view" else name


def _walk(chart: _Chart, thing: str, *, backwards: bool) -> list[LineageNode]:
    edges = chart.sources if backwards else chart.targets
    depths, through = {thing: 0}, dict[str, list[str]]()
    waiting = deque([thing])
    while waiting:
        here = waiting.popleft()
        for other in edges.get(here, ()):
            if other not in depths:
                depths[other] = depths[here] + 1
                waiting.append(other)
            if depths[other] == depths[here] + 1:
                through.setdefault(other, []).append(here)
    del depths[thing]
    return [LineageNode(name, chart.what.get(name, ""), depth, tuple(through[name]), name in chart.live) for name, depth in depths.items()]


def _describe_version(version: Version) -> str:
    until = f", trained until {version.trained_until}" if version.trained_until else ""
    return f"{version.candidate}{until}, by {version.created_by}"
