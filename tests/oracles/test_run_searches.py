"""Searches of runs beside a slow twin, which walks over the runs and reads the filter by splitting it: all stores answer what it does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.governance.sessions import Session
from endcap.loop.training.tracking.tracked_runs import search_runs
from endcap.storage.tracks import Point, Track
from endcap.testing.sessions import make_session

NAMES = ("a", "b", "c")
TEXTS = ("", "x", "X", "xy", "x_y", "%", "it's")
NUMBERS = (0.0, 1.0, -1.0, 2.5, math.nan, math.inf, -math.inf)
STATUSES = ("running", "finished", "failed")

HELD = st.fixed_dictionaries(
    {
        "params": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS)),
        "tags": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS)),
        "metrics": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NUMBERS)),
        "status": st.sampled_from(STATUSES),
        "started_us": st.integers(0, 3).map(lambda n: n * 1000),
    }
)
TEXT_TESTS = st.one_of(
    st.tuples(
        st.sampled_from(["=", "!=", "LIKE", "ilike"]), st.sampled_from([*TEXTS, "x%", "_", "%Y"]).map(lambda t: "'" + t.replace("'", "''") + "'")
    ),
    st.tuples(
        st.sampled_from(["IN", "not in"]), st.lists(st.sampled_from(["x", "xy", "%"]), min_size=1).map(lambda ts: f"({', '.join(map(repr, ts))})")
    ),
    st.tuples(st.sampled_from(["is null", "IS NOT NULL"]), st.just("")),
)
NUMBER_TESTS = st.one_of(
    st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.sampled_from(["0", "1", "-1", "2.5", "1e3"])),
    st.tuples(st.sampled_from(["is null", "is not null"]), st.just("")),
)
COMPARISONS = st.one_of(
    st.tuples(st.sampled_from(["params", "tags"]), st.sampled_from([*NAMES, "unheard"]), TEXT_TESTS),
    st.tuples(st.just("metrics"), st.sampled_from([*NAMES, "unheard"]), NUMBER_TESTS),
    st.tuples(st.just("attributes"), st.just("status"), st.tuples(st.sampled_from(["=", "!="]), st.sampled_from(["'FINISHED'", "'running'"]))),
    st.tuples(st.just("attributes"), st.just("start_time"), st.tuples(st.sampled_from(["<", ">=", "="]), st.sampled_from(["1", "2"]))),
)
FILTERS = st.lists(COMPARISONS, max_size=3).map(
    lambda found: " and ".join(f"{family}.{name} {op} {value}".strip() for family, name, (op, value) in found)
)
ORDERS = st.lists(
    st.tuples(st.sampled_from(["metrics.a", "metrics.b", "params.a", "tags.b", "status", "start_time"]), st.sampled_from(["", " ASC", " desc"])).map(
        "".join
    ),
    max_size=3,
)


def look_up(run: Track, family: str, name: str) -> Any:
    if family == "metrics":
        return run.metrics[name].value if name in run.metrics else None
    if family == "attributes":
        return {"status": run.status.upper(), "start_time": run.started_us // 1000}[name]
    return getattr(run, family).get(name)


def meets_slowly(run: Track, comparison: str) -> bool:
    """Whether a run meets one comparison, read by a pattern that knows no more than this file writes."""
    found = re.fullmatch(r"(\w+)\.(\w+) (=|!=|<=|>=|<|>|(?:not )?in|i?like|is null|is not null)\s*(.*)", comparison, re.IGNORECASE | re.DOTALL)
    assert found is not None
    family, name, operator, said = found[1], found[2], found[3].lower(), found[4]
    value = look_up(run, family, name)
    if operator == "is null" or value is None:
        return operator == "is null" and value is None
    if operator == "is not null":
        return True
    if operator in ("in", "not in"):
        return (value in re.findall(r"'([^']*)'", said)) is (operator == "in")
    if family == "metrics" or name == "start_time":
        wanted = float(said)
        return {"=": value == wanted, "!=": value != wanted, "<": value < wanted, "<=": value <= wanted, ">": value > wanted, ">=": value >= wanted}[
            operator
        ]
    text = said[1:-1].replace("''", "'")
    if name == "status":
        text = text.upper()
    if operator in ("like", "ilike"):
        pattern = "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in text)
        return re.fullmatch(pattern, value, re.DOTALL | (re.IGNORECASE if operator == "ilike" else 0)) is not None
    return (value == text) is (operator == "=")


def search_slowly(runs: list[Track], filter_: str, order: list[str]) -> list[str]:
    found = [run for run in runs if all(meets_slowly(run, part) for part in filter_.split(" and ") if part)]
    found.sort(key=lambda run: run.id)
    found.sort(key=lambda run: run.started_us, reverse=True)
    for term in reversed(order):
        words = term.split()
        family, _, name = words[0].rpartition(".")
        descending = len(words) == 2 and words[1] == "desc"

        def value_of(run: Track, family: str = family or "attributes", name: str = name) -> Any:
            return look_up(run, family, name)

        missing = [run for run in found if value_of(run) is None]
        unknown = [run for run in found if value_of(run) is not None and value_of(run) != value_of(run)]
        rest = [run for run in found if value_of(run) is not None and value_of(run) == value_of(run)]
        found = sorted(rest, key=value_of, reverse=descending) + unknown + missing
    return [run.id for run in found]


@pytest.fixture(params=["memory", "embedded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    made = make_session("memory://" if request.param == "memory" else tmp_path / "home")
    yield made
    made.ports.close()


@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(held=st.lists(HELD, max_size=6), asked=st.lists(st.tuples(FILTERS, ORDERS), min_size=2, max_size=8))
def test_every_store_finds_what_a_walk_over_the_runs_would(session: Session, held: list[dict[str, Any]], asked: list[tuple[str, list[str]]]) -> None:
    session.tracks.delete(session.workspace, [f"r{n}" for n in range(7)])
    runs = []
    for n, one in enumerate(held):
        metrics = {name: Point(name, value, 0) for name, value in one["metrics"].items()}
        runs.append(Track(id=f"r{n}", group="0", **(one | {"metrics": metrics})))
        session.tracks.create(session.workspace, runs[-1])
    for filter_, order in asked:
        expected = search_slowly(runs, filter_, order)
        assert [run.id for run in search_runs(session, filter=filter_, order=order, limit=50)] == expected
        assert [run.id for run in search_runs(session, filter=filter_, order=order, limit=2, skip=1)] == expected[1:3]
