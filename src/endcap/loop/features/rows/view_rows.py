"""Feature rows: what a view says of each key, at which instant, and since when it was known, as one relation of the engine.

Every sort of view comes down to the same columns: the keys, ``__event_at`` (the instant a row is about), ``__known_at`` (the instant from
which it was known), ``__order`` (its place in the order of ingest) and the features. Between rows of the same key and both times the greatest
``__order`` counts: files of an earlier ingest come first, then files as the ingest lists them, then rows as they stand; pushed rows come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.names import quote
from endcap.core.permissions import Permission
from endcap.governance.rights.checks import find_standing, require_right
from endcap.governance.sessions import Session
from endcap.loop.data.column_types import name_type
from endcap.loop.data.failures import reading
from endcap.loop.data.records import Ingest
from endcap.loop.data.sources import EVENT_TIME
from endcap.loop.features.checks import check_view
from endcap.loop.features.records import EVENT_AT, KNOWN_AT, ORDER, PUSHED, VIEW_VERSIONS
from endcap.loop.features.rows.stored_features import StoredFeatures, find_stored
from endcap.loop.features.rows.view_queries import run_query
from endcap.loop.features.rows.view_sources import (
    OpenTable,
    Span,
    clamp,
    key_column,
    of_keys,
    open_table,
    plain,
    plain_type,
    resolve_condition,
    resolve_value,
)
from endcap.loop.features.rows.windows import WindowPlan, plan_windows, tiles_sql, windows_sql

if TYPE_CHECKING:
    import duckdb

    from endcap.loop.data.records import FileIdentity


@dataclass(frozen=True)
class FeatureRows:
    """A view's rows, ready to be queried by the engine that opened them.

    ``sql`` is a SELECT of the keys, ``__event_at`` and ``__known_at`` (plain timestamps, UTC), ``__order`` and the features, in no
    particular order; columns that nobody asks for cost nothing. ``key_types`` and ``feature_types`` are Endcap's, ``stored_types`` DuckDB's of
    both. ``ingests`` are the ingests that the rows come from, by table. ``standing`` is where the features of all rows stand just as they are
    wanted (None: they are computed, or some were pushed).
    """

    view: FeatureView
    key_types: dict[str, str]
    feature_types: dict[str, str]
    stored_types: dict[str, str]
    sql: str = field(repr=False)
    ingests: dict[str, Ingest] = field(repr=False)
    engine: duckdb.DuckDBPyConnection = field(repr=False, compare=False)
    standing: StoredFeatures | None = field(default=None, repr=False)


def open_view(
    session: Session,
    view: FeatureView,
    *,
    folder: Path,
    engine: duckdb.DuckDBPyConnection,
    ingests: Mapping[str, Ingest] | None = None,
    keys: str | None = None,
    span: Span | None = None,
    pushed: bool = True,
    only: Mapping[str, Sequence[FileIdentity]] | None = None,
) -> FeatureRows:
    """The feature rows of a view.

    ``folder`` is where relative paths of its tables begin. ``ingests`` says by the name of each table which ingest of it is read (None: each
    table is ingested now, so that new rows are seen). ``keys`` names a relation of the engine with the keys' columns: only rows of keys that
    stand there are wanted. ``span`` is the first and the last event time (instants, None: unbounded) for which rows are wanted, both
    included; windows look back before it as far as they reach. ``pushed`` adds the rows that programs pushed. ``only`` reads some
    files of a table, by its name, such as ``new_files`` names (None: all).

    An event time is the instant at which the table's zone shows it, see ``Source``; of a row that sums up an interval (``Table.interval``; a date
    that windows fold is a day) it is the interval's end. A row becomes known at the table's ``known_at``, or else
    its ``known_after`` after its event time. A row without an event time, or with a null in a key, is no feature row.
    Ticks of a windowed view may lie after the present: what their windows would hold if no more rows came. Where a table has no ``known_at``, a
    tick's values are known once all its rows are: the longer of the view's ``known_after`` and the table's after the tick.

    Raises InvalidInput for keys, features or conditions that do not bind, and for types that no feature has; DefinitionError for SQL that
    ``check_view`` refuses; ContractBroken for tables that are refused. Cost: that of ingesting and opening the tables; rows are read when
    ``sql`` is run, but the SELECT of a SQL view runs now, once for each engine and ingest.
    """
    session = _look_behind(session, view)
    standing: StoredFeatures | None = None
    if view.sql is not None:
        name, stored, found = run_query(session, view, folder=folder, ingests=ingests or {}, engine=engine, only=only or {}, keys=keys)
        sql = f"SELECT * FROM {name}{restrict(view, keys=keys, span=span)}"
    else:
        assert view.source is not None, "the definition has looked"
        name = view.source.name
        ingest, files = (ingests or {}).get(name), (only or {}).get(name)
        table = open_table(session, view.source, folder=folder, engine=engine, ingest=ingest, only=files, folded=view.windowed)
        check_view(view, columns={name: list(table.source.columns)})
        if view.windowed:
            sql = _window_view(plan_windows(view, table), keys=keys, span=span)
        else:
            sql = f"SELECT * FROM ({_row_view(view, table)}){restrict(view, keys=keys, span=span)}"
        sql, stored = plain_columns(sql, view=view, engine=engine)
        found = {table.ingest.table: table.ingest}
        standing = None if view.windowed else find_stored(view, table, stored=stored)
    if pushed and view.pushed:
        sql, standing = add_pushed(sql, session=session, view=view, stored=stored, engine=engine, tail=restrict(view, keys=keys, span=span)), None
    return FeatureRows(
        view=view,
        key_types={name: name_type(stored[name]) for name in view.keys},
        feature_types={name: name_type(type_) for name, type_ in stored.items() if name not in view.keys},
        stored_types=stored,
        sql=sql,
        ingests=found,
        engine=engine,
        standing=standing,
    )


def _look_behind(session: Session, view: FeatureView) -> Session:
    """The session that reads a view's tables. Whoever may read a view that was applied reads its rows, even where a table of it is closed to them,
    as whoever applied it could; the tables of any other definition are read by their own rights. Raises NotFound for a view that is closed.
    """
    if find_standing(session) is None:
        return session
    require_right(session, f"view/{view.name}", Permission.READ, verb="training-set")
    return session if session.records.get(VIEW_VERSIONS, workspace=session.workspace, id=view.id) is None else session.without_veil()


def _row_view(view: FeatureView, table: OpenTable) -> str:
    source = table.source
    columns = [f"{key_column(source, key, view=view)} AS {quote(key)}" for key in view.keys]
    columns += [f"{table.event_at} AS {EVENT_AT}", f"{clamp(table, view.known_after)} AS {KNOWN_AT}", f"{table.order} AS {ORDER}"]
    columns += [f"({resolve_value(feature.column, source, view=view, name=name)}) AS {quote(name)}" for name, feature in view.features.items()]
    conditions = [f"{quote(key)} IS NOT NULL" for key in view.keys]
    if view.where is not None:
        conditions.append(f"({resolve_condition(view.where, source, view=view)}\n)")
    conditions += [f"isfinite({EVENT_TIME})"] if source.table.event_time is not None else []
    return f"SELECT {', '.join(columns)} FROM ({source.sql_by_file}) WHERE {' AND '.join(conditions)}"


def _window_view(plan: WindowPlan, *, keys: str | None, span: Span | None) -> str:
    first, last = span or (None, None)
    ticks = None
    if first is not None or last is not None:
        ticks = (
            plan.ticks.first if first is None else plan.ticks.number(first) - plan.folds.reach,
            plan.ticks.last if last is None else plan.ticks.last_until(last),
        )
    return windows_sql(plan, tiles=tiles_sql(plan, keys=keys, ticks=ticks), span=span)


def restrict(view: FeatureView, *, keys: str | None, span: Span | None) -> str:
    """The WHERE of a relation of feature rows that leaves those that are wanted; empty where all are."""
    conditions = []
    if keys is not None:
        conditions.append(of_keys(view, keys))
    first, last = span or (None, None)
    conditions += [f"{EVENT_AT} >= {plain(first)}"] if first is not None else []
    conditions += [f"{EVENT_AT} <= {plain(last)}"] if last is not None else []
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def plain_columns(sql: str, *, view: FeatureView, engine: duckdb.DuckDBPyConnection) -> tuple[str, dict[str, str]]:
    """Feature rows in types that travel, see ``plain_type``: the SELECT and DuckDB's type of each key and feature."""
    with reading(view):
        found = {row[0]: row[1] for row in engine.execute(f"DESCRIBE {sql}").fetchall()}
    stored, replaced = {}, {}
    for name, type_ in found.items():
        if name in (EVENT_AT, KNOWN_AT, ORDER):
            continue
        stored[name] = plain_type(type_, view=view, what="key" if name in view.keys else "feature", name=name)
        if stored[name] != type_:
            replaced[name] = f"CAST({quote(name)} AS {stored[name]}) AS {quote(name)}"
    if replaced:
        sql = f"SELECT * REPLACE ({', '.join(replaced.values())}) FROM ({sql})"
    return sql, stored


def add_pushed(sql: str, *, session: Session, view: FeatureView, stored: Mapping[str, str], engine: duckdb.DuckDBPyConnection, tail: str) -> str:
    """The same feature rows and those that were pushed to the view's version, in the same types; they come last in the order of ingest."""
    partition = {"workspace": session.workspace, "view": view.name, "version": view.version}
    if not session.tables.partitions(PUSHED, partition=partition):
        return sql
    name = f"__pushed_{view.version}"
    engine.register(name, session.tables.scan(PUSHED, partition=partition))
    columns = [f"CAST({quote(key)} AS {stored[key]}) AS {quote(key)}" for key in view.keys]
    columns += [EVENT_AT, KNOWN_AT, ORDER]
    columns += [f"CAST({quote(key)} AS {type_}) AS {quote(key)}" for key, type_ in stored.items() if key not in view.keys]
    return f"{sql} UNION ALL SELECT * FROM (SELECT {', '.join(columns)} FROM {name}){tail}"
