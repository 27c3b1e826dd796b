"""Lineage of features: which columns of which tables each feature of a view comes from, read off its definition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from endcap.core.definitions.aggregates import Aggregate
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import DefinitionError
from endcap.loop.features.parsing import Node, Parser, open_parser, walk

VALUE, CONDITION = "value", "condition"
ROWS = "*"
"""In place of a column: the table's rows as such, which are counted."""
UNTOLD = ""
"""In place of a column: some of the table's, which of them cannot be told."""
_COUNTS = ("count_star", "count")
_CARRIED = ("value", "last", "min", "max")  # folds that give back what a row said


class SourceColumn(msgspec.Struct, frozen=True, order=True):
    """A column that a feature comes from. ``column`` may be ``*``, the table's rows, which are counted, or '' where it cannot be told which.

    ``role`` is ``value`` where the feature is made of it, ``condition`` where it only says which rows count.
    """

    table: str
    column: str
    role: str = VALUE

    def __str__(self) -> str:
        if self.column == ROWS:
            return f"{self.table} (rows)"
        return f"{self.table}.{self.column}" if self.column != UNTOLD else f"{self.table} (some columns)"


class ViewSources(msgspec.Struct, frozen=True):
    """Where everything of a view comes from: its features and keys by name, and its times. ``given`` are the columns of a SQL view's SELECT;
    None where a star hides them, and for other views.
    """

    features: dict[str, tuple[SourceColumn, ...]]
    keys: dict[str, tuple[SourceColumn, ...]]
    times: tuple[SourceColumn, ...]
    given: tuple[str, ...] | None = None

    @property
    def columns(self) -> tuple[SourceColumn, ...]:
        """Every column that the view reads, each once."""
        return tuple(sorted({*self.times, *(c for found in (*self.features.values(), *self.keys.values()) for c in found)}))


def source_columns(view: FeatureView, *, columns: Mapping[str, Collection[str]] | None = None) -> dict[str, tuple[SourceColumn, ...]]:
    """The source columns of each feature; see ``find_sources``.

    >>> from endcap.core.definitions.aggregates import mean
    >>> sales = Table("sales", "sales.csv", keys=("store",), event_time="day", columns={"dear": "price > 10"})
    >>> view = FeatureView(name="v", source=sales, features={"dear_7d": mean("dear", "7d", where="channel = 'web'")})
    >>> [str(column) for column in source_columns(view)["dear_7d"]]
    ['sales.channel', 'sales.price']
    """
    return find_sources(view, columns=columns).features


def find_sources(view: FeatureView, *, columns: Mapping[str, Collection[str]] | None = None, parser: Parser | None = None) -> ViewSources:
    """Where a view's features, keys and times come from, down to the columns of the tables' files: derived columns are followed.

    ``columns`` are the columns of tables by name, where they are known (they tell whose a column is where two tables are joined); None: only
    what the definitions name is known. ``parser`` is one to use for many views (None: one of its own).

    Of a SQL view each output column is followed through subqueries, joins, CTEs and unions; conditions of a query (WHERE, ON, GROUP BY,
    QUALIFY) count for all that it gives. Where a column cannot be told (``SELECT *`` of two tables), the tables are named with the column
    ''. A SQL view that names no features has those of its SELECT; behind a star these are not known. Raises DefinitionError for SQL that does not
    parse. Cost: the parsing, some milliseconds.
    """
    known = {table.name: _known(table, (columns or {}).get(table.name)) for table in view.sources}
    with nullcontext(parser) if parser is not None else open_parser() as chosen:
        tracer = _Tracer(chosen, {table.name.lower(): table for table in view.sources}, known)
        return _trace_query(view, tracer) if view.sql is not None else _trace_source(view, tracer)


def find_personal(view: FeatureView, sources: ViewSources | None = None) -> frozenset[str]:
    """The keys and features of a view that hold personal data: those it names, and those that carry a column which its table says is personal.

    A sum, a count or a share of such a column is no value of it; of a SQL view that cannot be told, so all that is made of it counts.
    ``sources`` None: they are found, which costs some milliseconds where a table says what is personal, and otherwise nothing.
    """
    if not any(table.personal for table in view.sources):
        return frozenset(view.personal)
    sources = sources or find_sources(view)
    private = {(table.name, column) for table in view.sources for column in table.personal}
    shy = {table.name for table in view.sources if table.personal}
    found = set(view.personal)
    for name, columns in (*sources.keys.items(), *sources.features.items()):
        folded = name in view.features and view.sql is None and view.features[name].fold not in _CARRIED
        made_of = [column for column in columns if column.role == VALUE]
        if not folded and any((c.table, c.column) in private or (c.column == UNTOLD and c.table in shy) for c in made_of):
            found.add(name)
    return frozenset(found)


def trace_aggregates(
    aggregates: Iterable[Aggregate], *, columns: Iterable[tuple[Table, str]] = (), parser: Parser | None = None
) -> tuple[SourceColumn, ...]:
    """The columns of files that folds of tables' columns come from, and those behind further ``columns`` (a table's, or expressions over its rows).

    Each aggregate names its table. What it asks for by ``where`` counts as a condition. ``parser`` as in ``find_sources``.

    >>> from endcap.core.definitions.aggregates import sum
    >>> sales = Table("sales", "sales.csv", keys=("store",), columns={"net": "price * units"})
    >>> [str(column) for column in trace_aggregates([sum("net").on(sales)], columns=[(sales, "store")])]
    ['sales.price', 'sales.store', 'sales.units']
    """
    folded, named = [(a.table, a) for a in aggregates if a.table is not None], list(columns)
    tables = {table.name: table for table in (*(table for table, _ in folded), *(table for table, _ in named))}
    with nullcontext(parser) if parser is not None else open_parser() as chosen:
        tracer = _Tracer(chosen, {name.lower(): table for name, table in tables.items()}, {name: _known(t, None) for name, t in tables.items()})
        found = [_trace_feature(aggregate, table, tracer) for table, aggregate in folded]
        return _sorted(frozenset[SourceColumn]().union(*found, *(tracer.expression(table, text) for table, text in named)))


def _known(table: Table, columns: Collection[str] | None) -> _Columns:
    named = (*table.keys, *table.columns, *table.contract.columns)
    return _Columns({name.lower(): name for name in (*(columns or ()), *named)}, whole=columns is not None)


@dataclass(frozen=True)
class _Columns:
    """The columns of a table as far as they are known, by their names in lower case; ``whole``: there are no others."""

    names: dict[str, str]
    whole: bool


Origins = frozenset[SourceColumn]


@dataclass
class _Relation:
    """What a FROM or a query gives: the origins of its columns by lower name, the tables whose other columns pass through it, the tables
    that columns nobody can name come from, the tables whose rows it is made of, and what decides which rows there are.
    """

    names: dict[str, Origins] = field(default_factory=dict)
    passing: tuple[Table, ...] = ()
    vague: tuple[str, ...] = ()
    bases: frozenset[str] = frozenset()
    limits: Origins = frozenset()

    @property
    def everything(self) -> Origins:
        """All that it depends on."""
        tables = (*(table.name for table in self.passing), *self.vague)
        return self.limits.union(*self.names.values(), {SourceColumn(name, UNTOLD) for name in tables})


@dataclass
class _Scope:
    """The relations that a query may name, those of the queries around it, and the columns it has named so far."""

    relations: dict[str, _Relation]
    ctes: dict[str, _Relation]
    outer: _Scope | None = None
    aliases: dict[str, Origins] = field(default_factory=dict)
    bound: frozenset[str] = frozenset()


class _Tracer:
    def __init__(self, parser: Parser, tables: Mapping[str, Table], known: Mapping[str, _Columns]) -> None:
        self.parser, self.tables, self.known = parser, tables, known
        self.spelled: dict[str, str] = {}  # names that queries give, as they are written

    # Columns of a table

    def column(self, table: Table, name: str, role: str = VALUE) -> Origins:
        """A column of a table; a derived one is followed to the columns of the files."""
        name = self.known[table.name].names.get(name.lower(), name)
        if name in table.columns:
            return self.expression(table, table.columns[name], role=role, derived=False)
        return frozenset({SourceColumn(table.name, name, role)})

    def expression(self, table: Table, text: str, *, role: str = VALUE, derived: bool = True) -> Origins:
        """What a column's name or an expression over a table's rows comes from. A text that does not parse is taken as a column's name."""
        if derived and text.lower() in self.known[table.name].names:
            return self.column(table, text, role)
        try:
            tree = self.parser.parse_expression(text)
        except DefinitionError:
            return frozenset({SourceColumn(table.name, text, role)})
        parts = named_columns(tree)
        found: set[SourceColumn] = set()
        for path in parts:
            name = path[1] if len(path) > 1 and path[0].lower() == table.name.lower() else path[0]
            found |= self.column(table, name, role) if derived else {SourceColumn(table.name, name, role)}
        return frozenset(found)

    # Queries

    def query(self, node: Node, ctes: dict[str, _Relation], outer: _Scope | None) -> _Relation:
        ctes = dict(ctes)
        for entry in node["cte_map"]["map"]:
            ctes[entry["key"].lower()] = self._rename(self.query(entry["value"]["query_node"], ctes, outer), entry["value"]["aliases"])
        if node["type"] == "SELECT_NODE":
            return self._select(node, ctes, outer)
        if node["type"] == "SET_OPERATION_NODE":
            united = _unite([self.query(child, ctes, outer) for child in node["children"]], by_name=node["setop_type"] == "UNION_BY_NAME")
            if node["setop_type"] in ("EXCEPT", "INTERSECT") or not node["setop_all"]:  # which rows there are depends on all they hold
                return _narrow(united, united.everything)
            return united
        if node["type"] == "RECURSIVE_CTE_NODE":
            first = self.query(node["left"], ctes, outer)
            return _unite([first, self.query(node["right"], ctes | {node["cte_name"].lower(): first}, outer)])
        return self._vague()

    def _select(self, node: Node, ctes: dict[str, _Relation], outer: _Scope | None) -> _Relation:
        scope = _Scope({}, ctes, outer)
        conditions = set(self._from(node["from_table"], scope)).union(*(relation.limits for relation in scope.relations.values()))
        found = _Relation(bases=frozenset[str]().union(*(r.bases for r in scope.relations.values())))
        items: dict[str, Origins] = {}
        for place, item in enumerate(node["select_list"]):
            if _multiplies(item):
                conditions |= self._references(item, scope)
            if item["class"] == "STAR":
                self._spread(item, scope, found)
                items |= found.names
            elif not item["alias"] and _gives_several(item):
                self._give_untold(self._references(item, scope), found)
            else:
                name = item["alias"] or (item["column_names"][-1] if item["class"] == "COLUMN_REF" else f"column {place}")
                self.spelled[name.lower()] = name
                items[name.lower()] = scope.aliases[name.lower()] = self._references(item, scope)
        found.names = items
        for part in (node["where_clause"], self._groups(node), node["having"], node["qualify"]):  # these may name items of the SELECT
            conditions |= self._references(part, scope)
        kinds = {modifier["type"] for modifier in node["modifiers"]}
        if kinds - {"ORDER_MODIFIER"}:  # an order alone changes no row; with a limit, or as the first of several, it decides
            conditions |= self._references(node["modifiers"], scope)
        if any(modifier["type"] == "DISTINCT_MODIFIER" and not modifier["distinct_on_targets"] for modifier in node["modifiers"]):
            conditions |= found.everything
        return _narrow(found, frozenset(conditions))

    def _groups(self, node: Node) -> list[Node]:
        """What the rows of a SELECT are grouped by: expressions, the places of items, or all items without an aggregate."""
        items: list[Node] = node["select_list"]
        if node["aggregate_handling"] == "FORCE_AGGREGATES":
            return [item for item in items if not any(part.get("function_name") in self.parser.aggregates for part in walk(item))]
        found = []
        for group in node["group_expressions"]:
            place = group["literal"]["text"] if group["class"] == "CONSTANT" else ""
            found.append(items[int(place) - 1] if place.isdigit() and 0 < int(place) <= len(items) else group)
        return found

    def _give_untold(self, origins: Origins, found: _Relation) -> None:
        """Add columns whose names nobody knows before the query runs."""
        found.vague += tuple(sorted({column.table for column in origins})) or tuple(table.name for table in self.tables.values())

    def _spread(self, star: Node, scope: _Scope, found: _Relation) -> None:
        """Add what a star gives, all of the relations or of the one it names."""
        wanted = star["relation_name"].lower()
        left_out = {str(name).lower() for name in star["exclude_list"]}
        renamed = {entry["key"]["column"].lower(): entry["value"].lower() for entry in star["rename_list"]}
        if wanted and wanted not in scope.relations:  # the fields of a struct
            self._give_untold(self._lookup(star["relation_name"], scope), found)
        if star["columns"]:  # some of them, by a pattern
            self._give_untold(frozenset().union(*(relation.everything for relation in scope.relations.values())), found)
        for alias, relation in scope.relations.items():
            if wanted and alias != wanted:
                continue
            for name, origins in relation.names.items():
                if name not in left_out:
                    found.names[renamed.get(name, name)] = found.names.get(name, frozenset()) | origins
            found.passing += relation.passing
            found.vague += relation.vague
        for old, new in renamed.items():
            found.names.setdefault(new, self._lookup(old, scope))
        for entry in star["replace_list"]:
            found.names[entry["key"].lower()] = self._references(entry["value"], scope)

    def _from(self, node: Node, scope: _Scope) -> Origins:
        """Add what a FROM names to the scope; returns what its joins ask about."""
        kind, alias = node["type"], (node["alias"] or "").lower()
        if kind == "JOIN":
            found = self._from(node["left"], scope)
            before = dict(scope.relations)
            found |= self._from(node["right"], scope)
            if node["ref_type"] == "NATURAL":
                found |= self._share(list(before.values()), [r for name, r in scope.relations.items() if name not in before])
            found = found.union(*(self._of(relation, name) for name in node["using_columns"] for relation in scope.relations.values()))
            return found | self._references(node["condition"], scope)
        if kind == "BASE_TABLE":
            name = node["table_name"].lower()
            relation = scope.ctes.get(name) if not node["schema_name"] else None
            relation = relation or self._table(self.tables.get(name))
            scope.relations[alias or name] = self._rename(relation, node["column_name_alias"])
        elif kind == "SUBQUERY":
            relation = self.query(node["subquery"]["node"], scope.ctes, scope)
            scope.relations[alias or f"subquery {len(scope.relations)}"] = self._rename(relation, node["column_name_alias"])
        elif kind == "TABLE_FUNCTION":
            origins = self._references(node["function"], scope)
            name = alias or node["function"]["function_name"].lower()
            own = node["function"]["function_name"].lower()
            columns = [str(column).lower() for column in node["column_name_alias"]] or [own]
            columns += [name] if name not in columns else []  # the row itself is named so
            columns += ["ordinality"] if node["with_ordinality"] == "WITH_ORDINALITY" else []
            scope.relations[name] = _Relation(dict.fromkeys(columns, origins), vague=tuple(sorted({c.table for c in origins})))
            return origins  # as many rows as they say
        elif kind == "EXPRESSION_LIST":
            columns = [f"col{i}" for i in range(len(node["values"][0]))]
            scope.relations[alias or "values"] = _Relation(dict.fromkeys(columns, frozenset()))
        elif kind != "EMPTY":
            scope.relations[alias or kind] = self._vague()
        return frozenset()

    @staticmethod
    def _share(left: list[_Relation], right: list[_Relation]) -> Origins:
        """The columns that two sides of a natural join have in common."""
        names = {name for relation in left for name in relation.names} & {name for relation in right for name in relation.names}
        found = frozenset[SourceColumn]().union(*(relation.names.get(name, frozenset()) for relation in (*left, *right) for name in names))
        loose = {table.name for relation in (*left, *right) for table in relation.passing}
        loose |= {name for relation in (*left, *right) for name in relation.vague}
        return found | frozenset(SourceColumn(name, UNTOLD) for name in loose)

    def _table(self, table: Table | None) -> _Relation:
        if table is None:
            return self._vague()
        names = {name: self.column(table, name) for name in self.known[table.name].names}
        passing = () if self.known[table.name].whole else (table,)
        return _Relation(names, passing=passing, bases=frozenset({table.name}))

    def _vague(self) -> _Relation:
        """What nobody can follow: it may hold anything of the tables."""
        names = tuple(table.name for table in self.tables.values())
        return _Relation(vague=names, bases=frozenset(names))

    @staticmethod
    def _rename(relation: _Relation, aliases: list[Any]) -> _Relation:
        if not aliases:
            return relation
        names = [str(alias).lower() for alias in aliases]
        if relation.passing or relation.vague:  # which column has which place is not known
            return replace(relation, names=dict.fromkeys(names, relation.everything))
        kept = [*names, *list(relation.names)[len(names) :]]
        return replace(relation, names=dict(zip(kept, relation.names.values(), strict=False)))

    # Expressions

    def _references(self, node: Any, scope: _Scope) -> Origins:
        """All that an expression (or several) is made of."""
        if isinstance(node, list):
            return frozenset[SourceColumn]().union(*(self._references(part, scope) for part in node))
        if not isinstance(node, dict):
            return frozenset()
        kind = node.get("class")
        if kind == "COLUMN_REF":
            return self._resolve(node["column_names"], scope)
        if kind == "STAR":
            return frozenset[SourceColumn]().union(*(relation.everything for relation in scope.relations.values()))
        if kind == "LAMBDA":
            own = {name.lower() for path in named_columns(node["lhs"]) for name in path[:1]}
            inner = _Scope(scope.relations, scope.ctes, scope.outer, scope.aliases, scope.bound | own)
            return self._references(node["expr"], inner)
        found: Origins = frozenset()
        if kind == "SUBQUERY":
            inside = self.query(node["subquery"]["node"], scope.ctes, scope)
            return inside.everything | self._references(node.get("child"), scope)
        if kind in ("FUNCTION", "WINDOW"):
            if node["function_name"] in _COUNTS and not node["arguments"]:
                found = frozenset(SourceColumn(name, ROWS) for relation in scope.relations.values() for name in relation.bases)
            if node["schema"]:  # `names.list_filter(...)` is a function of a column
                found |= self._resolve([node["schema"]], scope)
        return found.union(*(self._references(part, scope) for name, part in node.items() if name not in ("qualified_name", "type_expr")))

    def _resolve(self, path: list[str], scope: _Scope) -> Origins:
        for place, name in enumerate(path[:-1]):
            relation = _find_relation(name.lower(), scope)
            if relation is not None:
                return self._of(relation, path[place + 1])
        return self._lookup(path[0], scope)

    def _lookup(self, name: str, scope: _Scope | None) -> Origins:
        """A column that is named without its relation."""
        key = name.lower()
        if scope is None or key in scope.bound:
            return frozenset()
        named = [relation.names[key] for relation in scope.relations.values() if key in relation.names]
        if named:
            return frozenset[SourceColumn]().union(*named)
        if key in scope.aliases:
            return scope.aliases[key]
        passing = {table.name: table for relation in scope.relations.values() for table in relation.passing}
        vague = frozenset(SourceColumn(table, UNTOLD) for relation in scope.relations.values() for table in relation.vague)
        if len(passing) == 1 and not vague:
            return self.column(next(iter(passing.values())), name)
        unsure = vague | frozenset(SourceColumn(table, UNTOLD) for table in passing)
        return unsure or self._lookup(name, scope.outer)

    def _of(self, relation: _Relation, name: str) -> Origins:
        if name.lower() in relation.names:
            return relation.names[name.lower()]
        if len(relation.passing) == 1 and not relation.vague:
            return self.column(relation.passing[0], name)
        return frozenset(SourceColumn(table, UNTOLD) for table in (*(t.name for t in relation.passing), *relation.vague))


def _find_relation(name: str, scope: _Scope | None) -> _Relation | None:
    while scope is not None:
        if name in scope.relations:
            return scope.relations[name]
        scope = scope.outer
    return None


def _gives_several(item: Node) -> bool:
    """Whether an item of a SELECT may become several columns, or columns of other names."""
    return any(part.get("class") == "STAR" for part in walk(item)) or (item["class"] == "FUNCTION" and item["function_name"] == "unnest")


def _multiplies(item: Node) -> bool:
    """Whether an item of a SELECT makes several rows of one."""
    return any(part.get("class") == "FUNCTION" and part["function_name"] == "unnest" for part in walk(item))


def _narrow(relation: _Relation, conditions: Origins) -> _Relation:
    """The same rows, of which conditions leave some."""
    extra = frozenset(_as_condition(column) for column in conditions)
    names = {name: _merge(origins, extra) for name, origins in relation.names.items()}
    return replace(relation, names=names, limits=relation.limits | extra)


def _unite(relations: list[_Relation], *, by_name: bool = False) -> _Relation:
    """Rows of several queries under the names of the first: by place where all places are known, otherwise from anywhere."""
    first = relations[0]
    bases = frozenset[str]().union(*(relation.bases for relation in relations))
    limits = frozenset[SourceColumn]().union(*(relation.limits for relation in relations))
    if by_name or any(relation.passing or relation.vague for relation in relations):
        tables = tuple({table.name: table for relation in relations for table in relation.passing}.values())
        vague = tuple(dict.fromkeys(name for relation in relations for name in relation.vague))
        names = {name: frozenset[SourceColumn]().union(*(r.names.get(name, frozenset()) for r in relations)) for r in relations for name in r.names}
        return _Relation(names, tables, vague, bases, limits)
    places = [list(relation.names.values()) for relation in relations]
    names = {name: frozenset[SourceColumn]().union(*(p[i] for p in places if i < len(p))) for i, name in enumerate(first.names)}
    return _Relation(names, bases=bases, limits=limits)


def named_columns(node: Any) -> list[tuple[str, ...]]:
    """The columns that an expression names, as paths (``table.column``, ``struct.field``); names that a lambda binds are not among them."""
    found: dict[tuple[str, ...], None] = {}
    bound = {name for part in walk(node) if part.get("class") == "LAMBDA" for name in _parameters(part["lhs"])}
    for part in walk(node):
        if part.get("class") == "COLUMN_REF" and part["column_names"][0] not in bound:
            found[tuple(part["column_names"])] = None
        elif part.get("class") in ("FUNCTION", "WINDOW") and part.get("schema"):
            found[(part["schema"],)] = None
    return list(found)


def _parameters(node: Any) -> Iterable[str]:
    return (part["column_names"][0] for part in walk(node) if part.get("class") == "COLUMN_REF")


def _as_condition(column: SourceColumn) -> SourceColumn:
    return msgspec.structs.replace(column, role=CONDITION)


def _merge(origins: Origins, conditions: Origins) -> Origins:
    """Values and conditions; what is a value of the column is not also named as its condition."""
    values = {(c.table, c.column) for c in origins if c.role == VALUE}
    return origins | frozenset(c for c in conditions if (c.table, c.column) not in values)


# Views


def _trace_source(view: FeatureView, tracer: _Tracer) -> ViewSources:
    table = view.source
    assert table is not None, "a view without sql has a source"
    where = tracer.expression(table, view.where, role=CONDITION) if view.where else frozenset()
    times = _times(table, (table.event_time, table.known_at), tracer)
    features = {name: _sorted(_merge(_trace_feature(feature, table, tracer), where)) for name, feature in view.features.items()}
    return ViewSources(features, {key: _sorted(tracer.column(table, key)) for key in view.keys}, times)


def _trace_feature(feature: Aggregate, table: Table, tracer: _Tracer) -> Origins:
    if feature.fold == "ratio":
        return frozenset[SourceColumn]().union(*(_trace_feature(part, table, tracer) for part in feature.parts))
    if feature.fold == "time_since":
        found = frozenset(_times(table, (table.event_time,), tracer))
    elif feature.column == ROWS:
        found = frozenset({SourceColumn(table.name, ROWS)})
    else:
        found = tracer.expression(table, feature.column)
    return _merge(found, tracer.expression(table, feature.where, role=CONDITION)) if feature.where else found


def _trace_query(view: FeatureView, tracer: _Tracer) -> ViewSources:
    assert view.sql is not None, "the caller has looked"
    tree = tracer.parser.parse_query(view.sql)
    try:
        relation = tracer.query(tree, {}, None)
    except KeyError:  # another release of the engine spells this part of a tree otherwise
        relation = tracer._vague()
    scope = _Scope({view.name.lower(): relation}, {})

    def trace(text: str) -> tuple[SourceColumn, ...]:
        if text.lower() in relation.names:
            return _sorted(relation.names[text.lower()])
        try:
            found = tracer._references(tracer.parser.parse_expression(text), scope)
        except DefinitionError:
            found = frozenset()
        return _sorted(_merge(found or tracer._lookup(text, scope), relation.limits))

    taken = {name.lower() for name in (*view.keys, *(text for text in (view.event_time, view.known_at) if text))}
    given = {name: feature.column for name, feature in view.features.items()}
    given = given or {tracer.spelled.get(name, name): name for name in relation.names if name not in taken}
    times = {column for text in (view.event_time, view.known_at) if text for column in trace(text)}
    columns = None if relation.passing or relation.vague else tuple(tracer.spelled.get(name, name) for name in relation.names)
    return ViewSources({name: trace(text) for name, text in given.items()}, {key: trace(key) for key in view.keys}, _sorted(times), columns)


def _times(table: Table, texts: Iterable[str | None], tracer: _Tracer) -> tuple[SourceColumn, ...]:
    return _sorted(column for text in texts if text for column in tracer.expression(table, text))


def _sorted(columns: Iterable[SourceColumn]) -> tuple[SourceColumn, ...]:
    return tuple(sorted(columns))
