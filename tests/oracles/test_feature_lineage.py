"""Lineage of SQL views against the engine: a column whose change changes a feature is among those the feature is said to come from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.loop.features.checks import check_view
from endcap.loop.features.lineage import UNTOLD, ViewSources, find_sources
from endcap.loop.features.parsing import Parser, open_parser

COLUMNS = {
    "sales": {"store": "s", "day": "d", "units": "n", "price": "n", "kind": "n", "web": "b", "parts": "l"},
    "plan": {"store": "s", "day": "d", "visitors": "n", "promo": "b"},
}
TABLES = tuple(Table(name, f"{name}.csv", keys=("store",), event_time="day") for name in COLUMNS)
SQL = [
    "SELECT store, units * price AS a, kind FROM sales WHERE web",
    "SELECT store, sum(units) AS a, max(price) FILTER (WHERE web) AS b, count(*) AS n FROM sales WHERE kind > 2 GROUP BY 1 HAVING sum(price) > 9",
    "SELECT * FROM sales",
    "SELECT * EXCLUDE (day) REPLACE (units + kind AS units) RENAME (price AS cost) FROM sales",
    "SELECT s.store, s.units, p.* EXCLUDE (store, day) FROM sales s JOIN plan p ON s.store = p.store AND s.day = p.day",
    "SELECT store, units, visitors FROM sales LEFT JOIN plan USING (store, day)",
    "SELECT * FROM sales NATURAL JOIN plan",
    "SELECT store, day, a FROM (SELECT store, day, units AS a, price FROM sales) WHERE price > 4",
    """WITH s AS (SELECT store, day, sum(units) AS u FROM sales GROUP BY ALL), p AS (SELECT * FROM plan WHERE promo)
       SELECT s.store, u / visitors AS rate FROM s JOIN p USING (store, day)""",
    "SELECT s.store, units FROM sales s JOIN (SELECT store, day FROM plan WHERE promo GROUP BY ALL HAVING sum(visitors) > 2) p USING (store, day)",
    "SELECT store, units AS a FROM sales UNION ALL SELECT store, visitors FROM plan",
    "SELECT store, kind AS a FROM sales UNION SELECT store, visitors FROM plan",
    "SELECT store, kind AS a FROM sales INTERSECT SELECT store, visitors FROM plan",
    "SELECT store, kind AS a FROM sales EXCEPT SELECT store, visitors FROM plan",
    "SELECT store, units FROM sales UNION BY NAME SELECT store, visitors FROM plan",
    "SELECT DISTINCT store, kind FROM sales",
    "SELECT DISTINCT ON (store) store, units FROM sales ORDER BY store, day, kind, price, units",
    "SELECT store, units FROM sales ORDER BY price, units, store LIMIT 7",
    "SELECT store, row_number() OVER (PARTITION BY store ORDER BY day, units) AS n, lag(price) OVER (ORDER BY store, day, price) AS p FROM sales",
    "SELECT store, units FROM sales QUALIFY rank() OVER (PARTITION BY store ORDER BY price) = 1",
    "SELECT store, CASE WHEN EXISTS (SELECT 1 FROM plan p WHERE p.store = s.store AND p.promo) THEN units END AS a FROM sales s",
    "SELECT store, units FROM sales WHERE day IN (SELECT day FROM plan WHERE visitors > 4)",
    "SELECT store, (SELECT max(visitors) FROM plan p WHERE p.store = s.store) AS v FROM sales s",
    "SELECT s.store, p.promo, p.visitors FROM sales s ASOF LEFT JOIN plan p ON s.store = p.store AND s.day >= p.day",
    "SELECT store, t.part FROM sales, unnest(parts) AS t(part)",
    "SELECT store, unnest(parts) AS part FROM sales",
    "SELECT store, list_sum(list_transform(parts, lambda x: x * kind)) AS a, [x + 1 FOR x IN parts IF x > 2] AS b FROM sales",
    "SELECT store, units + 1 AS a, a * price AS b FROM sales",
    "SELECT store, COLUMNS('pri.*|un.*') FROM sales",
    "SELECT store, COLUMNS(lambda c: c LIKE 'k%') + 1 FROM sales",
    "SELECT t.a, t.b FROM (SELECT store, units, price FROM sales) AS t(a, b)",
    "WITH RECURSIVE r AS (SELECT store, units AS n, 0 AS i FROM sales UNION ALL SELECT store, n + 1, i + 1 FROM r WHERE i < 2) SELECT * FROM r",
    "SELECT store, x.b FROM sales, LATERAL (SELECT units + price AS b) x",
    "SELECT a.store, b.units FROM sales a, sales b WHERE a.store = b.store AND a.kind < b.kind",
    "SELECT v.a, s.units FROM (VALUES ('s1', 1), ('s2', 2)) AS v(a, b) JOIN sales s ON s.store = v.a",
    "FROM sales SELECT store, struct_pack(u := units, p := price) AS pair",
    "SELECT store, pair.u FROM (SELECT store, struct_pack(u := units, p := price) AS pair FROM sales)",
    "SELECT store, pair.* FROM (SELECT store, struct_pack(u := units, p := price) AS pair FROM sales)",
    "SELECT * FROM (PIVOT sales ON kind IN (1, 2) USING sum(units) GROUP BY store)",
    "SELECT store, sum(units) AS a FROM sales GROUP BY ROLLUP (store, kind)",
    "SELECT any_value(store) AS store, units // 3 AS third, count(*) AS n FROM sales GROUP BY third",
    "SELECT store, x FROM sales, range(2) AS r(x) WHERE units > x",
]


def draw(sort: str, rng: random.Random) -> Any:
    return {
        "s": lambda: f"s{rng.randrange(3)}",
        "d": lambda: f"2026-01-0{rng.randrange(1, 6)}",
        "n": lambda: rng.randrange(10),
        "b": lambda: rng.random() < 0.5,
        "l": lambda: [rng.randrange(6) for _ in range(rng.randrange(1, 4))],
    }[sort]()


def fill(changed: tuple[str, str] | None) -> duckdb.DuckDBPyConnection:
    """An engine with both tables, always the same but for the column that is changed."""
    engine = duckdb.connect(":memory:", config={"threads": 1})
    types = {"s": "VARCHAR", "d": "DATE", "n": "INTEGER", "b": "BOOLEAN", "l": "INTEGER[]"}
    for table, columns in COLUMNS.items():
        drawn = []
        for name, sort in columns.items():
            said = "other" if (table, name) == changed else "first"
            drawn.append([draw(sort, random.Random(f"{said} {table} {name} {i}")) for i in range(40)])
        engine.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {types[sort]}' for name, sort in columns.items())})")
        engine.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", list(zip(*drawn, strict=True)))
    return engine


@dataclass
class Worlds:
    """The tables as they are, and as they are with one column changed; what a SELECT gives in each is asked for once."""

    engines: dict[tuple[str, str] | None, duckdb.DuckDBPyConnection]
    answers: dict[tuple[str, tuple[str, str] | None], dict[str, list[str]]] = field(default_factory=dict)

    def answer(self, sql: str, changed: tuple[str, str] | None = None) -> dict[str, list[str]]:
        """The values of each output column, in an order that says nothing of their rows."""
        if (sql, changed) not in self.answers:
            found = self.engines[changed].execute(sql)
            names, rows = [column[0] for column in found.description or ()], found.fetchall()
            self.answers[sql, changed] = {name.lower(): sorted(str(row[i]) for row in rows) for i, name in enumerate(names)}
        return self.answers[sql, changed]


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    changes = [None, *((table, column) for table, columns in COLUMNS.items() for column in columns)]
    made = Worlds({changed: fill(changed) for changed in changes})
    yield made
    for engine in made.engines.values():
        engine.close()


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with open_parser() as made:
        yield made


def trace(sql: str, names: list[str], parser: Parser, *, known: bool = True) -> ViewSources:
    view = FeatureView(name="v", sql=sql, tables=TABLES, keys=("nobody",), features=list(names))  # type: ignore[arg-type]  # a list of names is taken
    return find_sources(view, columns={name: list(columns) for name, columns in COLUMNS.items()} if known else None, parser=parser)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sql", SQL)
def test_what_changes_a_feature_is_among_its_sources(sql: str, known: bool, worlds: Worlds, parser: Parser) -> None:
    before = worlds.answer(sql)
    sources = trace(sql, list(before), parser, known=known).features
    said = {name: {(source.table, source.column) for source in found} for name, found in sources.items()}
    n_changed = 0
    for table, column in worlds.engines.keys() - {None}:
        after = worlds.answer(sql, (table, column))
        for name in before:
            if after.get(name) != before[name]:
                n_changed += 1
                assert said[name] & {(table, column), (table, UNTOLD)}, f"{name} depends on {table}.{column}, told: {sorted(said[name])}"
    assert n_changed > 0


@pytest.mark.parametrize("sql", SQL)
def test_the_columns_that_a_select_gives_are_known_or_said_to_be_unknown(sql: str, worlds: Worlds, parser: Parser) -> None:
    names = list(worlds.answer(sql))
    given = trace(sql, [], parser).given
    if given is not None:
        assert [name.lower() for name in given if not name.startswith("column ")] == [name for name in names if "(" not in name]
    columns = {name: list(columns) for name, columns in COLUMNS.items()}
    check_view(FeatureView(name="v", sql=sql, tables=TABLES, keys=tuple(n for n in names if n.isidentifier())[:1]), columns=columns, parser=parser)


def test_most_forms_are_told_to_the_column(worlds: Worlds, parser: Parser) -> None:
    """To say of everything that it cannot be told would be right as well, and worth nothing."""
    told = {sql: [c for found in trace(sql, list(worlds.answer(sql)), parser).features.values() for c in found if c.column == UNTOLD] for sql in SQL}
    assert sum(not columns for columns in told.values()) >= len(SQL) - 7, [sql for sql, columns in told.items() if columns]
