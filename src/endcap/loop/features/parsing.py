"""SQL as the engine's own parser reads it: trees of queries and expressions. Nothing is bound or run, and no table is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from endcap.core.errors import DefinitionError

if TYPE_CHECKING:
    import duckdb

Node = dict[str, Any]


class Parser:
    """Turns SQL text into trees. Half a millisecond a text; each text is parsed once."""

    def __init__(self, engine: duckdb.DuckDBPyConnection) -> None:
        self.engine = engine
        self._trees: dict[str, Node] = {}

    @cached_property
    def aggregates(self) -> frozenset[str]:
        """The names of the engine's aggregate functions."""
        rows = self.engine.execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'").fetchall()
        return frozenset(name for (name,) in rows)

    def parse_query(self, sql: str) -> Node:
        """The tree of one SELECT. Raises DefinitionError for what does not parse, for anything else, and for several statements.

        A PIVOT whose columns its rows decide is none: what it gives would change from day to day.
        """
        statement = sql.strip().rstrip(";")
        tree = self._parse(statement)
        if tree["error"]:
            said = _say(tree, statement) if tree.get("error_type") == "parser" else "it does something else."
            raise DefinitionError(f"This is not one SELECT: {said}", hint="a view's sql is one SELECT in DuckDB's dialect")
        if len(tree["statements"]) != 1:
            raise DefinitionError(f"These are {len(tree['statements'])} statements, and a view's sql is one SELECT.")
        node: Node = tree["statements"][0]["node"]
        return node

    def parse_expression(self, expression: str) -> Node:
        """The tree of one expression over a row. Raises DefinitionError for what is none."""
        # Twice, since each form stops what the other would let pass: in parentheses `a, b` is a row of two, in a cast `a AS INT) --` is whole.
        statement = f"SELECT ({expression}\n) AS __value, CAST({expression}\n AS VARCHAR) AS __text"
        tree = self._parse(statement)
        if tree["error"]:
            raise DefinitionError(f"{expression!r} is not an expression: {_first_line(tree)}")
        node = tree["statements"][0]["node"]
        one = len(tree["statements"]) == 1 and node["type"] == "SELECT_NODE" and len(node["select_list"]) == 2
        if not one or node["from_table"]["type"] != "EMPTY" or node["where_clause"] or node["modifiers"]:
            raise DefinitionError(f"{expression!r} is not one expression.")
        value: Node = node["select_list"][0]
        return value

    def _parse(self, statement: str) -> Node:
        if statement not in self._trees:
            ((text,),) = self.engine.execute("SELECT json_serialize_sql(?)", [statement]).fetchall()
            self._trees[statement] = msgspec.json.decode(text)
        return self._trees[statement]


@contextmanager
def open_parser() -> Iterator[Parser]:
    """A parser for the calling thread, on an engine that may touch nothing outside of it. Some 20 ms."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": 1,
    }
    engine = duckdb.connect(":memory:", config=config)
    try:
        yield Parser(engine)
    finally:
        engine.close()


def walk(node: Any) -> Iterator[Node]:
    """Every part of a tree, those above before those below."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _say(tree: Node, statement: str) -> str:
    place = tree.get("position")
    near = f" near {statement[max(int(place) - 20, 0) : int(place) + 20]!r}" if place else ""
    return f"{_first_line(tree)}{near}."


def _first_line(tree: Node) -> str:
    return str(tree.get("error_message", "")).splitlines()[0].removesuffix(".")
