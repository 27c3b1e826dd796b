"""Whatever the order in which files come, and however many runs it takes: what was materialised is what a slow and obvious computation says."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.definitions import aggregates as ag
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import open_materialised, read_newest
from endcap.loop.features.online import read_online
from endcap.loop.features.rows.view_rows import open_view
from endcap.testing.sessions import make_session

DAY = timedelta(days=1)
ZERO = datetime(2026, 3, 27)  # noqa: DTZ001 - plain times in UTC, as the columns are
KNOWN_AFTER = timedelta(hours=6)
KEYS = ("a", "b")
WINDOW = 3
FEATURES = {
    "s": ag.sum("u", "3d"),
    "n": ag.count("*", "1d"),
    "m": ag.mean("u", "2d"),
    "lo": ag.min("u", "3d"),
    "hi": ag.max("u", "2d"),
    "d": ag.distinct("u", "3d"),
}


@dataclass(frozen=True)
class Row:
    key: str
    at: datetime
    value: int
    known: datetime | None = None


@dataclass
class World:
    """A table of files, a view of it, a clock, and all that is known of when what came."""

    folder: Path
    session: Session
    runs: list[datetime] = field(default_factory=list)
    files: dict[str, list[Row]] = field(default_factory=dict)
    n_written: int = 0

    def run(self, *views: str) -> None:
        for view in views:
            materialise(self.session, view)
        self.runs.append(self.session.now().replace(tzinfo=None))

    def put(self, name: str, rows: list[Row]) -> None:
        self.files[name] = rows
        columns: dict[str, Any] = {
            "key": pa.array([row.key for row in rows], pa.string()),
            "at": pa.array([row.at for row in rows], pa.timestamp("us")),
            "u": pa.array([row.value for row in rows], pa.int64()),
        }
        if rows and rows[0].known is not None:
            columns["known"] = pa.array([row.known for row in rows], pa.timestamp("us"))
        path = self.folder / "rows" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path)
        self.n_written += 1
        os.utime(path, ns=(0, self.n_written))  # written twice within a tick of the file system's clock, it is another file all the same

    def wait(self, hours: int) -> None:
        clock = self.session.clock
        assert isinstance(clock, ManualClock)
        clock.advance(timedelta(hours=hours))

    def read(self, view: str, at: datetime) -> dict[str, tuple[Any, ...]]:
        """What the kept rows say at an instant: of each key the event time and the features."""
        return self.read_many(view, [at])[at]

    def read_many(self, view: str, instants: list[datetime]) -> dict[datetime, dict[str, tuple[Any, ...]]]:
        with open_engine(n_threads=1) as engine:
            sql = open_materialised(self.session, find_view(self.session, view), engine=engine)
            return newest_of(engine.sql(sql).to_arrow_table().to_pylist(), instants)


def newest_of(rows: list[dict[str, Any]], instants: list[datetime]) -> dict[datetime, dict[str, tuple[Any, ...]]]:
    found = {}
    for at in instants:
        seen: dict[str, tuple[Any, dict[str, Any]]] = {}
        for row in rows:
            stamp = (row["__event_at"], row["__known_at"], row["__order"])
            if stamp[0] <= at and stamp[1] <= at and (row["key"] not in seen or seen[row["key"]][0] < stamp):
                seen[row["key"]] = (stamp, row)
        found[at] = {key: (stamp[0], *(v for n, v in row.items() if n != "key" and n[:2] != "__")) for key, (stamp, row) in seen.items()}
    return found


def fold(rows: list[Row], tick: datetime) -> tuple[Any, ...]:
    """The features of a key at a tick, from all of its rows that count."""

    def within(days: int) -> list[int]:
        return [row.value for row in rows if tick - days * DAY < row.at <= tick]

    s, n, m, hi = within(3), within(1), within(2), within(2)
    return (
        sum(s) if s else None,
        len(n),
        sum(m) / len(m) if m else None,
        min(s) if s else None,
        max(hi) if hi else None,
        len(set(s)),
    )


class Slow:
    """Feature rows as they should be, made run by run from all rows that are known."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, datetime, datetime, tuple[Any, ...]]] = []
        self.stands: dict[tuple[str, datetime], tuple[Any, ...]] = {}
        self.given: datetime | None = None

    def run(self, rows: list[Row], now: datetime) -> None:
        by_key = defaultdict(list)
        for row in rows:
            by_key[row.key].append(row)
        for key, own in by_key.items():
            tick = datetime.combine(min(row.at for row in own).date(), datetime.min.time())
            while tick + KNOWN_AFTER <= now:
                if any(tick - (WINDOW + 1) * DAY < row.at <= tick for row in own):
                    values = fold(own, tick)
                    told = self.given is not None and tick + KNOWN_AFTER <= self.given
                    if self.stands.get((key, tick)) != values:
                        self.rows.append((key, tick, now if told else tick + KNOWN_AFTER, values))
                        self.stands[key, tick] = values
                tick += DAY
        self.given = now

    def read(self, at: datetime) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        for key, tick, _, values in sorted((row for row in self.rows if row[1] <= at and row[2] <= at), key=lambda row: row[1:3]):
            found[key] = (tick, *values)
        return found


@pytest.fixture(scope="module")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def make(*, dated: bool) -> World:
        folder = tmp_path_factory.mktemp("world")
        session = make_session(start=(ZERO + timedelta(days=4, hours=8)).replace(tzinfo=UTC))
        table = Table("rows", "rows", keys=("key",), event_time="at", known_at="known" if dated else None, contract=Contract(future=True))
        views = (
            FeatureView(name="windows", source=table, features=FEATURES, known_after="6h"),
            FeatureView(name="rows", source=table, features=["u"]),
        )
        for view in views:
            with session.change("apply", thing=view.name) as change:
                register_view(session, change, view, folder=folder)
        return World(folder, session)

    return make


hours = st.integers(0, 9 * 24)
values = st.integers(0, 5)
plain_rows = st.lists(
    st.builds(lambda key, hour, value: Row(key, ZERO + timedelta(hours=hour), value), st.sampled_from(KEYS), hours, values), min_size=1, max_size=5
)
steps = st.lists(st.tuples(st.lists(plain_rows, max_size=2), st.integers(0, 50)), min_size=1, max_size=4)
quick = settings(
    max_examples=int(os.environ.get("ENDCAP_EXAMPLES", "6")),
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a failing example of four runs is read more quickly than it is shrunk
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def instants_of(world: World) -> list[datetime]:
    days = [ZERO + n * DAY + KNOWN_AFTER for n in range(14)]
    return sorted({at for at in [*world.runs, *days, *(run - timedelta(seconds=1) for run in world.runs)] if at <= world.runs[-1]})


@quick
@given(steps=steps)
def test_runs_give_what_was_known_at_each_instant(make_world: Any, steps: list[tuple[list[list[Row]], int]]) -> None:
    world, slow = make_world(dated=False), Slow()
    world.put("first", [Row("a", ZERO + timedelta(hours=30), 1)])
    for n, (files, wait) in enumerate(steps):
        for place, rows in enumerate(files):
            world.put(f"{n}-{place}", rows)
        world.run("windows")
        slow.run([row for rows in world.files.values() for row in rows], world.runs[-1])
        world.wait(wait)
    instants = instants_of(world)
    found = world.read_many("windows", instants)
    assert [found[at] for at in instants] == [slow.read(at) for at in instants]
    online = read_online(world.session, ["windows"], {"key": list(KEYS)}).views[0]
    now = world.read("windows", world.session.now().replace(tzinfo=None))
    assert {key: value for key, value in zip(KEYS, online.features["n"], strict=True) if value is not None} == {k: v[2] for k, v in now.items()}
    newest = read_newest(world.session, find_view(world.session, "windows"))
    assert {row["key"]: row["s"] for row in (newest.to_table().to_pylist() if newest else [])} == {
        key: value[1] for key, value in world.read("windows", world.runs[-1]).items()
    }


@quick
@given(steps=steps)
def test_rows_give_what_was_known_at_each_instant(make_world: Any, steps: list[tuple[list[list[Row]], int]]) -> None:
    world = make_world(dated=False)
    world.put("first", [Row("a", ZERO + timedelta(hours=30), 1)])
    told: list[dict[str, Any]] = []
    seen: set[str] = set()
    for n, (files, wait) in enumerate(steps):
        for place, rows in enumerate(files):
            world.put(f"{n}-{place}", rows)
        world.run("rows")
        given = world.runs[-2] if len(world.runs) > 1 else ZERO - DAY
        for name in sorted(set(world.files) - seen):
            for place, row in enumerate(world.files[name]):
                known = world.runs[-1] if row.at <= given else row.at
                told.append({"key": row.key, "__event_at": row.at, "__known_at": known, "__order": (n, name, place), "u": row.value})
        seen = set(world.files)
        world.wait(wait)
    instants = instants_of(world)
    assert world.read_many("rows", instants) == newest_of(told, instants)
    online = read_online(world.session, ["rows"], {"key": list(KEYS)}).views[0]
    last = newest_of(told, [world.runs[-1]])[world.runs[-1]]
    assert online.features["u"] == [last[key][1] if key in last else None for key in KEYS]


dated_rows = st.lists(
    st.builds(
        lambda key, hour, value, late: Row(key, ZERO + timedelta(hours=hour), value, ZERO + timedelta(hours=hour + late)),
        st.sampled_from(KEYS),
        hours,
        values,
        st.integers(0, 60),
    ),
    min_size=1,
    max_size=5,
)


@quick
@given(steps=st.lists(st.tuples(st.lists(dated_rows, max_size=2), st.integers(0, 50)), min_size=1, max_size=4))
def test_where_the_table_says_when_it_knew_runs_give_one_computation(make_world: Any, steps: list[tuple[list[list[Row]], int]]) -> None:
    world = make_world(dated=True)
    world.put("first", [Row("a", ZERO + timedelta(hours=30), 1, ZERO + timedelta(hours=70))])
    for n, (files, wait) in enumerate(steps):
        for place, rows in enumerate(files):
            world.put(f"{n}-{place}", rows)
        world.run("windows", "rows")
        world.wait(wait)
    instants = instants_of(world)
    for name in ("windows", "rows"):
        version = find_view(world.session, name)
        with open_engine(n_threads=1) as engine:
            whole = open_view(world.session, version.view, folder=world.folder, engine=engine)
            expected = newest_of(engine.sql(whole.sql).to_arrow_table().to_pylist(), instants)
        assert world.read_many(name, instants) == expected
        online = read_online(world.session, [name], {"key": list(KEYS)}).views[0]
        last = expected[world.runs[-1]]
        assert [at and at.replace(tzinfo=None) for at in online.event_at] == [last[key][0] if key in last else None for key in KEYS]


@quick
@given(steps=st.lists(st.tuples(st.dictionaries(st.sampled_from(["x", "y"]), plain_rows, max_size=2), st.integers(0, 50)), min_size=2, max_size=4))
def test_files_that_are_replaced_say_anew_what_differs(make_world: Any, steps: list[tuple[dict[str, list[Row]], int]]) -> None:
    world, slow = make_world(dated=False), Slow()
    world.put("first", [Row("a", ZERO + timedelta(hours=30), 1)])
    for files, wait in steps:
        for name, rows in files.items():
            world.put(name, rows)
        world.run("windows")
        slow.run([row for rows in world.files.values() for row in rows], world.runs[-1])
        world.wait(wait)
    instants = instants_of(world)
    found = world.read_many("windows", instants)
    assert [found[at] for at in instants] == [slow.read(at) for at in instants]


@pytest.mark.parametrize(("every", "same"), [("1h", "hour"), ("1d", "weekday")])
@pytest.mark.parametrize("first", [datetime(2026, 3, 27), datetime(2026, 10, 23)])  # noqa: DTZ001 - wall times, days before the clocks change
def test_ticks_keep_their_place_across_a_change_of_clocks(tmp_path: Path, every: str, same: Any, first: datetime) -> None:
    world = World(tmp_path, make_session(start=(first - DAY).replace(tzinfo=UTC)))
    table = Table("rows", "rows", keys=("key",), event_time="at", zone="Europe/Berlin", contract=Contract(future=True))
    far = "3d" if every == "1h" else "14d"
    features = {
        "s": ag.sum("u", "1d"),
        "same": ag.sum("u", far, same=same),
        "std": ag.std("u", "2d"),
        "last": ag.last("u", "1d"),
        "lag": ag.lag("u", "1d"),
    }
    view = FeatureView(name="windows", source=table, features=features, every=every)
    with world.session.change("apply", thing=view.name) as change:
        register_view(world.session, change, view, folder=tmp_path)
    for n in range(5):
        world.put(str(n), [Row("ab"[hour % 2], first + n * DAY + timedelta(minutes=7 + 61 * hour), hour * n % 5) for hour in range(23)])
        world.wait(24)
        if n != 2:
            world.run("windows")
    version = find_view(world.session, "windows")
    with open_engine(n_threads=1) as engine:
        names = "key, __event_at, __known_at, s, same, round(std, 9), last, lag"
        whole = open_view(world.session, view, folder=tmp_path, engine=engine)
        until = world.runs[-1].isoformat(sep=" ")
        expected = engine.execute(f"SELECT {names} FROM ({whole.sql}) WHERE __known_at <= TIMESTAMP '{until}' ORDER BY ALL").fetchall()
        kept = engine.execute(f"SELECT {names} FROM ({open_materialised(world.session, version, engine=engine)}) ORDER BY ALL").fetchall()
    assert len(expected) >= 8
    assert kept == expected
