"""Checks of a view before it is known to the workspace: what its SQL says, without reading a row."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import DefinitionError, InvalidInput, NotFound, suggest
from endcap.governance.sessions import Session
from endcap.loop.data.records import FileIdentity
from endcap.loop.features.lineage import find_sources, named_columns
from endcap.loop.features.parsing import Node, Parser, open_parser, walk

_ROW_MAKERS = frozenset({"unnest", "range", "generate_series", "generate_subscripts"})
_CLOCK = ("now", "today", "current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "get_current_time")
_CHANCE = ("random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "setseed", "nextval", "currval")
_OUTSIDE = ("getenv", "getvariable", "setval", "current_setting", "version", "current_user", "session_user", "user", "current_role", "write_log")
_RUNNING = ("current_query", "current_query_id", "current_connection_id", "current_transaction_id", "txid_current", "sleep_ms", "pg_sleep", "stats")
_CATALOG = ("current_database", "current_catalog", "current_schema", "current_schemas", "in_search_path", "vector_type", "pg_conf_load_time")
_TIMES = ("get_current_timestamp", "transaction_timestamp", "pg_postmaster_start_time", "ago")
_UNSTEADY = frozenset((*_CLOCK, *_TIMES, *_CHANCE, *_OUTSIDE, *_RUNNING, *_CATALOG))
_HEADER = re.compile(r"[\w][\w .%&#€$()/:°²³-]*")  # what a file may well call a column though no expression is written so


def check_view(view: FeatureView, *, columns: Mapping[str, Collection[str]], parser: Parser | None = None) -> None:
    """Raise DefinitionError for a view that could never be computed, or whose values would not be the same when computed again.

    Refused are SQL that does not parse, anything but one SELECT, tables that were not declared (files, other schemas and functions that give
    rows among them), tables inside of expressions, and the clock, randomness and the environment: what is known of an instant must not depend
    on when it was asked for. ``columns`` are those of tables by name, where they are known: a column that is none of them is refused with the
    nearest; of other tables the first reading tells. ``parser`` is one to use for many views (None: one of its own). Reads nothing. Cost: the
    parsing, half a millisecond an expression.
    """
    what = f"Feature view '{view.name}'"
    with nullcontext(parser) if parser is not None else open_parser() as chosen:
        try:
            if view.sql is not None:
                _check_query(view, chosen)
                _check_given(view, columns, chosen)
            else:
                assert view.source is not None, "a view without sql has a source"
                _check_expressions(view, view.source, chosen, known=columns.get(view.source.name))
        except DefinitionError as error:
            raise DefinitionError(f"{what}: {error.what}", hint=error.hint) from error


def read_columns(session: Session, tables: Iterable[Table], *, folder: Path) -> dict[str, tuple[str, ...]]:
    """The columns that the files of tables have now; tables that cannot be read are left out. Nothing is kept.

    Cost: the footer of each Parquet file, a scan of CSV files for their types.
    """
    from endcap.loop.data.engine import open_engine
    from endcap.loop.data.sources import open_source

    found = {}
    with open_engine(session.settings) as engine:
        for table in tables:
            plain = msgspec.structs.replace(table, contract=Contract())  # what rows promise is not asked
            try:
                source = open_source(
                    plain, folder=folder, zone=session.zone, engine=engine, digests=lambda path: FileIdentity(str(path), 0, 0, 0, "")
                )
            except (InvalidInput, NotFound):
                continue
            found[table.name] = tuple(source.columns)
    return found


def _check_query(view: FeatureView, parser: Parser) -> None:
    assert view.sql is not None, "the caller has looked"
    tree = parser.parse_query(view.sql)
    declared = {table.name.lower() for table in view.tables}
    ctes = {entry["key"].lower() for part in walk(tree) if "cte_map" in part for entry in part["cte_map"]["map"]}
    ctes |= {part["cte_name"].lower() for part in walk(tree) if part.get("type") == "RECURSIVE_CTE_NODE"}
    for part in walk(tree):
        kind = part.get("type")
        if part.get("sample"):
            raise DefinitionError("its sql draws a sample, which is not the same when it is drawn again.", hint="choose rows by a hash of their key")
        if kind == "BASE_TABLE":
            name = ".".join(str(word) for word in (part["catalog_name"], part["schema_name"], part["table_name"]) if word)
            if name.lower() not in declared | ctes:
                names = sorted(table.name for table in view.tables)
                raise DefinitionError(
                    f"its sql reads {name!r}, which is not among its tables {names}.",
                    hint=suggest(name, [*names, *ctes]) or "declare it as an ec.Table and list it: tables=[...]",
                )
        elif kind == "TABLE_FUNCTION" and part["function"]["function_name"].lower() not in _ROW_MAKERS:
            raise DefinitionError(
                f"its sql takes rows from {part['function']['function_name']}(...); it may read its declared tables only.",
                hint="declare files as an ec.Table and list it: tables=[...]",
            )
        elif kind == "SHOW_REF":
            raise DefinitionError("its sql describes a table instead of reading it.", hint="a view's sql is one SELECT of rows")
    _check_parts(tree)
    for text in (view.event_time, view.known_at, *(feature.column for feature in view.features.values())):
        if text is not None and not _HEADER.fullmatch(text):
            _check_expression(text, parser)


def _check_given(view: FeatureView, columns: Mapping[str, Collection[str]], parser: Parser) -> None:
    """Keys and times must be among what the SELECT gives, as far as that can be told."""
    given = find_sources(view, columns=columns, parser=parser).given
    if given is None:
        return
    plain = [feature.column for feature in view.features.values()]
    for name in (*view.keys, *(text for text in (view.event_time, view.known_at, *plain) if text and re.fullmatch(r"\w+", text))):
        if name.lower() not in {column.lower() for column in given}:
            raise DefinitionError(
                f"its sql gives no column {name!r}. Columns: {list(given)}.",
                hint=suggest(name, given) or f"name it in the SELECT: ... AS {name}",
            )


def _check_expressions(view: FeatureView, table: Table, parser: Parser, *, known: Collection[str] | None) -> None:
    names = None if known is None else {name.lower() for name in (*known, *table.columns)}
    for key in view.keys:
        _require(key, names, known, table)
    for text, condition in _texts(view):
        if names is not None and text.lower() in names and not condition:
            continue
        if names is None and not condition and _HEADER.fullmatch(text) and text.count("(") == text.count(")"):
            try:
                tree = parser.parse_expression(text)
            except DefinitionError:
                continue  # a column of such a name, or none: the first reading tells
        else:
            tree = parser.parse_expression(text)
        _check_expression(text, parser)
        for path in named_columns(tree):
            qualified = len(path) > 1 and path[0].lower() == table.name.lower()
            _require(path[1] if qualified else path[0], names, known, table)


def _texts(view: FeatureView) -> Iterator[tuple[str, bool]]:
    """Every column or expression of a view of one table, and whether it is a condition."""
    if view.where is not None:
        yield view.where, True
    waiting: list[Aggregate] = list(view.features.values())
    for feature in waiting:
        waiting += feature.parts
        if feature.column not in ("", "*"):
            yield feature.column, False
        if feature.where is not None:
            yield feature.where, True


def _require(name: str, names: Collection[str] | None, known: Collection[str] | None, table: Table) -> None:
    if names is not None and known is not None and name.lower() not in names:
        offered = sorted({*known, *table.columns})
        shown = f"{offered[:20]}{' and more' if len(offered) > 20 else ''}"
        raise DefinitionError(f"table '{table.name}' has no column {name!r}. Columns: {shown}.", hint=suggest(name, offered))


def _check_expression(text: str, parser: Parser) -> None:
    tree = parser.parse_expression(text)
    if any(part.get("class") == "SUBQUERY" for part in walk(tree)):
        raise DefinitionError(f"{text!r} reads a table; an expression is over the columns of one row.", hint="write a view with sql='SELECT ...'")
    _check_parts(tree)


def _check_parts(tree: Node) -> None:
    for part in walk(tree):
        if part.get("sample") is not None:
            raise DefinitionError("it takes a sample of rows, which is not the same when it is drawn again.", hint="choose rows by a condition")
        kind = part.get("class")
        name = part["function_name"] if kind in ("FUNCTION", "WINDOW") else part["column_names"][-1] if kind == "COLUMN_REF" else ""
        if name.lower() in _UNSTEADY and (kind != "COLUMN_REF" or name.lower().startswith(("current_", "local"))):
            raise DefinitionError(
                f"it asks for {name}, which is not the same when it is computed again.",
                hint="features are as of an instant that whoever reads them gives: use the rows' own times, and windows",
            )
        if kind == "PARAMETER":
            raise DefinitionError("it has a parameter, and nobody gives it a value.", hint="write the value itself")
