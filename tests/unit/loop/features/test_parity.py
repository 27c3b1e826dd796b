from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.aggregates import count, mean, sum  # noqa: A004 - as users write them
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Table
from endcap.core.errors import InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import read_newest
from endcap.loop.features.online import name_space, write_online
from endcap.loop.features.parity import check_parity, find_parity, name_causes
from endcap.loop.features.pushes import push
from endcap.loop.features.records import PARITY_REPORTS, ParityReport, ViewVersion
from endcap.testing.sessions import make_session

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = datetime(2026, 3, 2, 6, tzinfo=UTC)
STORES = tuple(range(40))


class World:
    """A folder with a table of sales that grows, a view of it, and the session that materialises it."""

    def __init__(self, folder: Path, *, zone: str = "UTC", known: bool = False, **given: Any) -> None:
        self.folder, self.known = folder, known
        self.session: Session = make_session(start=START)
        self.rng = np.random.default_rng(3)
        (folder / "sales").mkdir(parents=True)
        known_at = {"known_at": "seen"} if known else {}
        self.table = Table("sales", "sales/*.parquet", keys=["store_id"], event_time="ts", zone=zone, **known_at)
        self.view = FeatureView(**{"name": "traffic", "source": self.table, "keys": ["store_id"], **(given or WINDOWS)})
        self.add_days([START + day * DAY for day in range(-10, 1)])
        self.apply()

    @property
    def now(self) -> datetime:
        return self.session.now()

    @property
    def version(self) -> ViewVersion:
        return find_view(self.session, "traffic")

    def advance(self, span: timedelta) -> None:
        assert isinstance(self.session.clock, ManualClock)
        self.session.clock.advance(span)

    def add_days(self, days: list[datetime]) -> None:
        """A file with rows of three hours of each day, as far as they have passed."""
        times = [day.replace(hour=hour, tzinfo=None) for day in days for hour in (0, 2, 4) if day.replace(hour=hour) < self.now]
        rows = [(store, at) for store in STORES for at in times]
        self.add(rows, self.rng.normal(10, 3, len(rows)).tolist())

    def add(self, rows: list[tuple[int, datetime]], units: list[float], *, seen: datetime | None = None) -> None:
        """One file more."""
        stores, times = zip(*rows, strict=True)
        columns: dict[str, Any] = {"store_id": stores, "ts": pa.array(times, pa.timestamp("us")), "units": pa.array(units, pa.float64())}
        if self.known:
            columns["seen"] = pa.array([seen.replace(tzinfo=None) if seen else at for at in times], pa.timestamp("us"))
        path = self.folder / "sales" / f"{len(list((self.folder / 'sales').iterdir())):03d}.parquet"
        pq.write_table(pa.table(columns), path)

    def apply(self, **changed: Any) -> None:
        self.view = msgspec.structs.replace(self.view, **changed)
        with self.session.change("apply", thing=f"view/{self.view.id}") as change:
            register_view(self.session, change, self.view, folder=self.folder)

    def materialise(self) -> None:
        materialise(self.session, "traffic")

    def check(self, **given: Any) -> ParityReport:
        return check_parity(self.session, "traffic", **{"keys": 30, **given})

    def serve(self, change: Callable[[pa.Table], pa.Table]) -> None:
        """Write what stands online once more, changed."""
        rows = read_newest(self.session, self.version)
        assert rows is not None
        assert write_online(self.session, self.version, change(rows.to_table())) == len(STORES)


WINDOWS = {
    "features": {"units_3d": sum("units", "3d"), "mean_7d": mean("units", "7d"), "n_7d": count("units", "7d")},
    "every": "1d",
    "known_after": "1h",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.materialise()
    yield made
    made.session.ports.close()


def test_what_is_served_is_what_the_sources_say(world: World) -> None:
    report = world.check()
    assert (report.passed, report.n_keys, report.n_sampled, report.n_equal, report.n_missing) == (True, 30, 30, 30, 0)
    assert report.instants == (world.now,), "no batch is older than now"
    world.advance(DAY)
    world.add_days([world.now])
    world.materialise()
    world.advance(2 * HOUR)
    report = world.check(instants=5, behind="6h")
    assert (report.passed, report.n_sampled, report.n_equal, report.differences) == (True, 30 * 6, 30 * 6, ())
    assert all(START <= at <= world.now for at in report.instants)


def test_a_stale_store(world: World) -> None:
    world.advance(DAY)
    world.add_days([world.now])
    report = world.check(instants=0)
    assert (report.passed, name_causes(report)) == (False, {"stale": 30})
    (cause,) = report.differences
    assert len(cause.examples) == 3
    assert (cause.examples[0].served_at, cause.examples[0].expected_at) == (datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC))
    assert cause.examples[0].about == "a row that is newer by 24:00 was known"
    assert set(cause.features) == {"units_3d", "mean_7d"}
    assert world.check(instants=0, behind="6h").passed, "it is known since five hours"
    world.materialise()
    assert world.check(instants=0).passed
    world.advance(2 * HOUR)
    report = world.check(instants=8)
    assert set(name_causes(report)) == {"stale"}, "at the instants before the store was filled again"
    assert world.check(instants=8, behind="6h").passed


def late(world: World) -> None:
    """Rows of yesterday come, long after its windows were given out."""
    world.advance(3 * HOUR)
    day = START.replace(hour=0, tzinfo=None)
    world.add([(store, day - 3 * HOUR) for store in STORES], [100.0] * len(STORES), seen=world.now - HOUR)


@pytest.mark.parametrize("known", [True, False])
def test_late_rows(tmp_path: Path, known: bool) -> None:
    world = World(tmp_path, known=known)
    world.materialise()
    late(world)
    report = world.check(instants=0)
    assert name_causes(report) == {"late row": 30}
    (cause,) = report.differences
    assert cause.features == {"mean_7d": 30, "n_7d": 30, "units_3d": 30}
    about = (
        "the row of 2026-03-02 was said anew at" if known else "rows came since that change what was true at 2026-03-02; their table does not say so"
    )
    assert cause.examples[0].about.startswith(about)
    world.materialise()
    assert world.check(instants=0).passed
    world.advance(HOUR)
    report = world.check(instants=20, seed=1)
    assert set(name_causes(report)) == {"late row"}, "what was served meanwhile is not what a training set would have"
    if known:
        assert world.check(instants=20, seed=1, behind="2h").passed


def test_a_changed_definition(world: World) -> None:
    served = world.version
    world.apply(where="units > 5")
    report = world.check()
    assert (report.passed, report.version, report.served_version) == (False, world.version.version, served.version)
    assert name_causes(report) == {"definition": 30}
    (cause,) = report.differences
    assert cause.examples[0].about == f"rows of version {served.version} are served, and {world.version.version} stands"
    assert check_parity(world.session, served.id, keys=30).passed, "whoever reads the version before gets what it says"
    world.materialise()
    assert world.check(instants=0).passed


def slipped(hours: float) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        moved = [at + hours * HOUR for at in rows["__event_at"].to_pylist()]
        return rows.set_column(rows.schema.get_field_index("__event_at"), "__event_at", pa.array(moved, pa.timestamp("us")))

    return change


def test_a_version_of_other_keys_is_not_what_is_served(world: World) -> None:
    world.apply(keys=("store_id", "units"), features={"n_7d": count("units", "7d")})
    with pytest.raises(InvalidInput, match="was never materialised"):
        world.check()


def test_keys_of_several_columns_and_types(tmp_path: Path) -> None:
    (tmp_path / "prices").mkdir()
    days = [date(2026, 3, 1) + timedelta(days=n) for n in range(20)]
    ids = [str(UUID(int=n)) for n in range(20)]
    known = pa.array([START.replace(tzinfo=None) - HOUR] * 20, pa.timestamp("us"))
    columns = {"item": ids, "day": days, "shop": [f"Köln {n % 3}" for n in range(20)], "ts": known, "price": [n / 7 for n in range(20)]}
    pq.write_table(pa.table(columns), tmp_path / "prices" / "1.parquet")
    table = Table("prices", "prices/*.parquet", keys=["item"], event_time="ts", zone="UTC", columns={"id": "CAST(item AS UUID)"})
    session = make_session(start=START)
    for name, keys in (("by_all", ("id", "shop", "day")), ("by_shop", ("shop",))):
        view = FeatureView(name=name, source=table, keys=keys, features=["price"])
        with session.change("apply", thing=f"view/{view.id}") as change:
            register_view(session, change, view, folder=tmp_path)
        materialise(session, name)
        report = check_parity(session, name)
        assert (report.passed, report.n_keys) == (True, 3 if name == "by_shop" else 20)
        session.online.drop(name_space(session, find_view(session, name)))
        assert name_causes(check_parity(session, name)) == {"missing online": report.n_keys}


def test_a_slip_of_the_time_zone(world: World) -> None:
    world.advance(6 * HOUR)
    world.serve(slipped(8))
    report = world.check(instants=0)
    assert name_causes(report) == {"time zone": 30}
    assert report.differences[0].examples[0].about == "served 8:00 off its instant"
    assert report.differences[0].features == {}, "the values are right"


def test_windows_of_another_zones_days(world: World) -> None:
    """Times of Shanghai were taken for UTC when the store was filled: each day begins eight hours late, with other rows in its windows."""
    wrong = read_newest(world.session, world.version)
    assert wrong is not None
    table = msgspec.structs.replace(world.table, zone="Asia/Shanghai")
    world.apply(source=table)
    world.materialise()
    assert world.check().passed
    write_online(world.session, world.version, wrong.to_table())
    report = world.check()
    assert name_causes(report) == {"time zone": 30}
    assert report.differences[0].examples[0].about == "served 8:00 off its instant"


def narrowed(rows: pa.Table) -> pa.Table:
    for name in ("units_3d", "mean_7d"):
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(pa.float32()).cast(pa.float64()))
    return rows


def test_floats_that_were_narrowed(world: World) -> None:
    world.serve(narrowed)
    report = world.check(instants=0)
    assert set(name_causes(report)) == {"narrowed"}
    assert report.n_equal <= 3, "a few numbers are the same either way"
    assert set(report.differences[0].features) == {"mean_7d", "units_3d"}
    served, expected = report.differences[0].examples[0].differs["mean_7d"]
    assert served != expected
    assert served == float(np.float32(expected))


def test_rows_that_are_missing_on_either_side(world: World) -> None:
    world.session.online.drop(name_space(world.session, world.version))
    report = world.check(instants=0)
    assert (name_causes(report), report.n_missing) == ({"missing online": 30}, 30)
    world.serve(lambda rows: rows)
    day = pa.array([START.replace(hour=0, tzinfo=None)] * 50, pa.timestamp("us"))
    ghosts = {"store_id": range(100, 150), "__event_at": day, "__known_at": day, "units_3d": [1.0] * 50, "mean_7d": [1.0] * 50, "n_7d": [1] * 50}
    assert write_online(world.session, world.version, pa.table(ghosts)) == 50
    report = world.check(instants=0, keys=100)
    assert set(name_causes(report)) == {"missing offline"}
    assert report.n_equal == len(STORES)


def test_a_value_that_is_simply_wrong(world: World) -> None:
    world.serve(lambda rows: rows.set_column(rows.schema.get_field_index("n_7d"), "n_7d", pa.array([7] * len(rows), pa.int64())))
    report = world.check(instants=0)
    assert name_causes(report) == {"value": 30}
    assert report.differences[0].features == {"n_7d": 30}


def test_a_value_that_had_grown_too_old_is_stale(tmp_path: Path) -> None:
    world = World(tmp_path, max_age="2d", **WINDOWS)
    world.materialise()
    world.advance(3 * DAY)
    assert world.check(instants=0).differences[0].cause == "stale"
    world.add_days([world.now + day * DAY for day in range(-2, 1)])
    report = world.check(instants=0)
    assert (name_causes(report), report.n_missing) == ({"stale": 30}, 30)


def test_rows_as_they_come(tmp_path: Path) -> None:
    world = World(tmp_path, features=["units"])
    world.materialise()
    assert world.check().passed
    world.advance(DAY)
    world.add_days([world.now])
    assert name_causes(world.check(instants=0)) == {"stale": 30}


def test_pushed_rows_are_on_both_sides(tmp_path: Path) -> None:
    world = World(tmp_path, features=["units"], pushed=True)
    world.materialise()
    world.advance(HOUR)
    push(world.session, "traffic", [{"store_id": store, "units": 99.5, "__event_at": world.now - timedelta(minutes=1)} for store in STORES[:20]])
    world.advance(HOUR)
    report = world.check(instants=10, keys=40)
    assert (report.passed, report.n_sampled) == (True, 40 * 11)
    world.session.online.drop(name_space(world.session, world.version))
    assert name_causes(world.check(instants=0, keys=40)) == {"missing online": 40}


def test_a_report_is_kept_and_audited(world: World) -> None:
    first = world.check()
    world.apply(where="units > 5")
    second = world.check(keys=5, seed=9)
    assert find_parity(world.session, "traffic") == second
    assert find_parity(world.session, f"traffic@{first.version}") == first
    assert find_parity(world.session, "nothing") is None
    assert world.session.records.find(PARITY_REPORTS, workspace="default") == [first, second]
    rows = [row for row in list_audit(world.session) if row.verb == "parity"]
    assert [row.detail for row in rows] == [
        {"report": report.id, "passed": report.passed, "n_sampled": report.n_sampled, "n_equal": report.n_equal} for report in (second, first)
    ]
    assert (second.n_keys, second.seed, second.actor) == (5, 9, "ada")


def test_the_same_seed_draws_the_same_instants(world: World) -> None:
    world.advance(DAY)
    assert world.check(seed=4).instants == world.check(seed=4).instants != world.check(seed=5).instants


def test_what_is_personal_is_in_no_report(tmp_path: Path) -> None:
    world = World(tmp_path, personal=["units_3d"], **WINDOWS)
    world.materialise()
    world.advance(DAY)
    world.add_days([world.now])
    (cause,) = world.check(instants=0).differences
    assert set(cause.examples[0].differs) == {"mean_7d"}
    assert set(cause.examples[0].key) == {"store_id"}
    world.apply(personal=("store_id",))
    world.materialise()
    world.serve(narrowed)
    (cause,) = world.check(instants=0).differences
    assert (cause.examples[0].key, cause.examples[0].differs) == ({}, {})


def test_what_cannot_be_compared(world: World) -> None:
    with pytest.raises(NotFound, match="No feature view 'trafic'"):
        check_parity(world.session, "trafic")
    for given in ({"keys": 0}, {"keys": 10_001}, {"instants": -1}, {"instants": 101}):
        with pytest.raises(InvalidInput, match="Parity cannot draw"):
            world.check(**given)
    with pytest.raises(InvalidInput, match="'soon' is not a length of time"):
        world.check(behind="soon")
    world.apply(name="others")
    with pytest.raises(InvalidInput, match="was never materialised"):
        check_parity(world.session, "others")
    world.apply(name="offline", online=False)
    with pytest.raises(InvalidInput, match="is not kept online"):
        check_parity(world.session, "offline")
    assert world.session.records.find(PARITY_REPORTS, workspace="default") == []


def test_a_viewer_may_not(world: World) -> None:
    with pytest.raises(PermissionDenied, match="'parity' needs the permission 'edit'"):
        check_parity(replace(world.session, role=Role.VIEWER), "traffic")
