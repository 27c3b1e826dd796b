"""Differences between two definitions of a feature view, field by field, for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import msgspec

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table

_SHORT = 80
_MOST_LINES = 40
_APART = ("features", "sql", "source", "tables", "meanings")


def describe_differences(old: FeatureView, new: FeatureView) -> tuple[str, ...]:
    """One line a difference, none for equal definitions; features and tables are compared one by one, SQL by its lines.

    >>> from endcap.core.definitions.aggregates import sum
    >>> sales = Table("sales", "sales.csv", keys=("store",), event_time="day")
    >>> old = FeatureView(name="v", source=sales, features={"u": sum("units", "7d")})
    >>> new = FeatureView(name="v", source=sales, features={"u": sum("units", "14d"), "w": sum("units", "28d")}, owner="demand")
    >>> for line in describe_differences(old, new): print(line)
    + feature w: sum(units, 28d)
    feature u: sum(units, 7d) -> sum(units, 14d)
    owner: "" -> "demand"
    """
    return tuple(_differ(old, new))


def _differ(old: FeatureView, new: FeatureView) -> Iterator[str]:
    yield from _differ_named("feature", {n: str(f) for n, f in old.features.items()}, {n: str(f) for n, f in new.features.items()})
    if old.sql is not None and new.sql is not None:
        yield from _differ_lines(old.sql, new.sql)
    elif old.sql != new.sql:
        yield f"sql: {_show(old.sql)} -> {_show(new.sql)}"
    yield from _differ_tables({t.name: t for t in old.sources}, {t.name: t for t in new.sources})
    for field in new.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if field not in _APART and before != after:
            yield f"{field}: {_show(before)} -> {_show(after)}"
    yield from _differ_named("meaning", old.meanings, new.meanings)


def _differ_named(what: str, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    for name in (name for name in new if name not in old):
        yield f"+ {what} {name}: {_cut(new[name])}"
    for name in sorted(old.keys() - new.keys()):
        yield f"- {what} {name}: {_cut(old[name])}"
    for name, text in old.items():
        if new.get(name, text) != text:
            yield f"{what} {name}: {_cut(text)} -> {_cut(new[name])}"


def _differ_lines(old: str, new: str) -> Iterator[str]:
    lines = [line for line in difflib.ndiff(old.strip().splitlines(), new.strip().splitlines()) if line[:2] in ("- ", "+ ")]
    for line in lines[:_MOST_LINES]:
        yield f"{line[:2]}sql: {_cut(line[2:].rstrip())}"
    if len(lines) > _MOST_LINES:
        yield f"and {len(lines) - _MOST_LINES} more lines of sql"


def _differ_tables(old: dict[str, Table], new: dict[str, Table]) -> Iterator[str]:
    for name in sorted(new.keys() - old.keys()):
        yield f"+ table {name}: {_cut(new[name].source)}"
    for name in sorted(old.keys() - new.keys()):
        yield f"- table {name}: {_cut(old[name].source)}"
    for name in sorted(old.keys() & new.keys()):
        for field in new[name].__struct_fields__:
            before, after = getattr(old[name], field), getattr(new[name], field)
            if before != after:
                yield f"table {name}, {field}: {_show(before)} -> {_show(after)}"


def _show(value: Any) -> str:
    return _cut(msgspec.json.encode(value).decode()) if value is not None else "none"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."
