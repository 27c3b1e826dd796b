from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions import aggregates as ag
from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import Conflict, ContractBroken, IntegrityBroken, InvalidInput, NotFound, PermissionDenied, StorageFull, Unreachable
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.sessions import Session
from endcap.loop.data.engine import open_engine
from endcap.loop.features.catalogue import find_view, register_view
from endcap.loop.features.kept import runs
from endcap.loop.features.kept.feature_batches import place, scan_batches
from endcap.loop.features.kept.materialisation import materialise
from endcap.loop.features.kept.materialised import find_newest, list_batches, open_materialised, read_materialised, read_newest
from endcap.loop.features.online import name_space, read_online
from endcap.loop.features.parity import check_parity
from endcap.loop.features.pushes import push
from endcap.loop.features.records import ALWAYS, MATERIALISATIONS, MATERIALISED, NEWEST, SNAPSHOTS, TILES, Materialisation
from endcap.pipelines.graph import SilentReporter
from endcap.pipelines.leases import hold_lease
from endcap.storage.backends.online_memory import MemoryOnline
from endcap.testing.sessions import make_session

START = datetime(2026, 3, 4, 9, tzinfo=UTC)
SALES = Table("sales", "sales", keys=("store",), event_time="at", contract=Contract(future=True))
DAILY = FeatureView(name="daily", source=SALES, features={"units": ag.sum("units", "2d"), "n": ag.count("*", "1d")})
LATEST = FeatureView(name="latest", source=SALES, features=["units"])
PUSHED = FeatureView(name="pushed", source=SALES, features=["units"], pushed=True)


def day(n: int, hour: int = 12) -> datetime:
    return datetime(2026, 3, n, hour)  # noqa: DTZ001 - a column of plain times


class Shop:
    """A folder of files and a session in which views of it are applied."""

    def __init__(self, folder: Path, session: Session) -> None:
        self.folder, self.session = folder, session
        self.n_written = 0

    def write(self, name: str, rows: list[tuple[str | None, datetime, Any]], **more: Any) -> None:
        path = self.folder / "sales" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        columns = {"store": pa.array([r[0] for r in rows], pa.string()), "at": pa.array([r[1] for r in rows], pa.timestamp("us"))}
        units = pa.array([r[2] for r in rows], pa.int64() if not rows or isinstance(rows[0][2], int) else None)
        pq.write_table(pa.table({**columns, "units": units, **more}), path)
        self.n_written += 1
        os.utime(path, ns=(0, self.n_written))

    def apply(self, *views: FeatureView) -> None:
        for view in views:
            with self.session.change("apply", thing=view.name) as change:
                register_view(self.session, change, view, folder=self.folder)

    def wait(self, days: int = 1) -> None:
        assert isinstance(self.session.clock, ManualClock)
        self.session.clock.advance(timedelta(days=days))

    def read(self, view: str, *columns: str) -> list[tuple[Any, ...]]:
        """The kept rows by event time, key and known-at."""
        with open_engine(n_threads=1) as engine:
            rows = open_materialised(self.session, find_view(self.session, view), engine=engine)
            names = ", ".join(columns or ("store", "__event_at", "__known_at", "units"))
            return engine.execute(f"SELECT {names} FROM ({rows}) ORDER BY __event_at, store, __known_at, __order").fetchall()

    def answer(self, view: str, *stores: str, feature: str = "units") -> list[Any]:
        return read_online(self.session, [view], {"store": list(stores)}).views[0].features[feature]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path, make_session(start=START))
    shop.write("one", [("a", day(1), 1), ("a", day(2), 2), ("b", day(2), 5)])
    shop.apply(DAILY, LATEST)
    return shop


def test_a_run_reads_what_is_new_and_a_second_finds_nothing(shop: Shop) -> None:
    first = materialise(shop.session, "daily")
    assert (first.n, first.n_rows, first.n_restated, first.n_online, first.online) == (1, 5, 0, 2, "done")
    assert (first.first_tick, first.last_tick) == (datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC))
    assert materialise(shop.session, "daily") == first
    shop.wait()
    shop.write("two", [("a", day(4), 7)])
    second = materialise(shop.session, "daily")
    assert (second.n, second.n_rows, second.n_restated, second.previous) == (2, 2, 0, first.id)
    assert shop.read("daily", "store", "__event_at", "units", "n")[-2:] == [("a", day(5, 0), 7, 1), ("b", day(5, 0), None, 0)]
    assert shop.answer("daily", "a", "b", "nobody") == [7, None, None]
    assert [audit.verb for audit in list_audit(shop.session)].count("features materialise") == 2
    verify_audit(shop.session)


def test_no_row_is_due_and_yet_time_is_kept(shop: Shop) -> None:
    materialise(shop.session, "daily")
    shop.wait(10)
    quiet = materialise(shop.session, "daily")
    assert (quiet.n, quiet.n_rows) == (2, 2)  # the rows that say that there are none any more
    shop.wait(10)
    assert (materialise(shop.session, "daily").n_rows, len(list_batches(shop.session, find_view(shop.session, "daily")))) == (0, 3)


def test_late_rows_are_said_anew_and_nothing_is_taken_back(shop: Shop) -> None:
    materialise(shop.session, "daily")
    before = shop.read("daily")
    shop.wait()
    shop.write("late", [("a", day(2, 13), 10)])
    second = materialise(shop.session, "daily")
    assert (second.n_rows, second.n_restated, second.n_keys_recomputed) == (4, 2, 1)
    after = shop.read("daily")
    assert [row for row in after if row in before] == before
    known = shop.session.now().replace(tzinfo=None)
    assert ("a", day(3, 0), known, 13) in after
    assert ("a", day(4, 0), known, 12) in after


def test_a_row_view_appends_and_says_since_when_a_late_row_was_known(shop: Shop) -> None:
    first = materialise(shop.session, "latest")
    shop.wait()
    shop.write("two", [("a", day(1, 13), 3), ("b", day(5, 8), 6)])
    second = materialise(shop.session, "latest")
    assert (first.n_rows, second.n_rows, second.n_restated) == (3, 2, 1)
    now = shop.session.now().replace(tzinfo=None)
    assert shop.read("latest") == [
        ("a", day(1), day(1), 1),
        ("a", day(1, 13), now, 3),
        ("a", day(2), day(2), 2),
        ("b", day(2), day(2), 5),
        ("b", day(5, 8), day(5, 8), 6),
    ]
    assert shop.answer("latest", "a", "b") == [2, 6]


def test_keys_that_are_uuids_are_said_anew_and_found_again(tmp_path: Path) -> None:
    session = make_session(start=START)
    keys = [uuid.UUID(int=n) for n in (1, 2)]
    source = Table("ids", "ids", keys=("id",), event_time="at", contract=Contract(future=True))
    views = [
        FeatureView(name="newest", source=source, features=["x"], pushed=True),
        FeatureView(name="folded", source=source, features={"n": ag.sum("x", "3d")}),
    ]
    shop = Shop(tmp_path, session)

    def write(name: str, *rows: tuple[uuid.UUID, datetime, int]) -> None:
        path = tmp_path / "ids" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        ids = pa.array([key.bytes for key, _, _ in rows], pa.uuid())
        pq.write_table(pa.table({"id": ids, "at": [at for _, at, _ in rows], "x": [x for _, _, x in rows]}), path)

    write("one", (keys[0], day(2), 1), (keys[1], day(3), 2))
    shop.apply(*views)
    for view in views:
        materialise(session, view.name)
    shop.wait()
    write("two", (keys[0], day(3), 5), (keys[1], day(2), 9))  # late, both
    for view in views:
        assert materialise(session, view.name).n == 2
        assert check_parity(session, view.name, instants=0).passed
    push(session, "newest", [{"id": str(keys[0]), "x": 7, "__event_at": day(4).replace(tzinfo=UTC)}])
    with open_engine(n_threads=1) as engine:
        engine.execute("CREATE TABLE wanted AS SELECT CAST(? AS UUID) AS id", [str(keys[0])])
        rows = open_materialised(session, find_view(session, "newest"), engine=engine, keys="wanted")
        assert [row[0] for row in engine.execute(f"SELECT x FROM ({rows}) ORDER BY __event_at").fetchall()] == [1, 5, 7]
    answer = read_online(session, ["newest", "folded"], {"id": [str(key) for key in keys]})
    assert [view.features for view in answer.views] == [{"x": [7, 2]}, {"n": [6, 11]}]


def test_rows_of_the_future_are_kept_and_count_when_they_are_due(shop: Shop) -> None:
    shop.write("plan", [("a", day(6), 60)])
    first = materialise(shop.session, "latest")
    assert (first.n_rows, first.waits_until) == (4, datetime(2026, 3, 6, 12, tzinfo=UTC))
    assert shop.answer("latest", "a") == [2]
    shop.wait(1)
    assert materialise(shop.session, "latest").n_online == 0
    shop.wait(2)
    due = materialise(shop.session, "latest")
    assert (due.n_rows, due.n_online, due.waits_until) == (0, 1, None)
    assert shop.answer("latest", "a") == [60]
    assert materialise(shop.session, "latest") == due
    materialise(shop.session, "daily")
    assert shop.read("daily", "store", "__event_at", "units")[-1] == ("a", day(7, 0), 60)


def test_what_a_table_knew_later_comes_when_it_was_known(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_session(start=START))
    table = Table("sales", "sales", keys=("store",), event_time="at", known_at="known", contract=Contract(future=True))
    shop.apply(FeatureView(name="daily", source=table, features={"units": ag.sum("units", "1d")}))
    shop.write("one", [("a", day(1), 1), ("a", day(1, 13), 10)], known=pa.array([day(1), day(6)], pa.timestamp("us")))
    first = materialise(shop.session, "daily")
    assert (first.n_rows, first.waits_until) == (2, datetime(2026, 3, 6, 12, tzinfo=UTC))
    shop.wait(3)
    second = materialise(shop.session, "daily")
    assert (second.n_rows, second.n_restated, second.waits_until) == (2, 2, None)
    assert ("a", day(2, 0), day(6), 11) in shop.read("daily")


def test_a_table_that_lost_files_takes_nothing_back(shop: Shop) -> None:
    shop.write("two", [("a", day(3), 4)])
    materialise(shop.session, "daily")
    before, moved = shop.read("daily"), shop.folder / "two.parquet"
    (shop.folder / "sales" / "two.parquet").rename(moved)
    shop.wait()
    second = materialise(shop.session, "daily")
    assert (second.n_restated, len(second.kept["sales"])) == (0, 1)
    assert shop.read("daily")[: len(before)] == before
    assert ("a", day(5, 0), day(5, 0), 4) in shop.read("daily")  # of the window from 3 March: what was known stays known
    moved.rename(shop.folder / "sales" / "two.parquet")
    shop.wait()
    third = materialise(shop.session, "daily")
    assert (third.n_restated, third.n_keys_recomputed, third.kept) == (0, 0, {})


def test_a_file_that_is_replaced_says_anew_only_what_differs(shop: Shop) -> None:
    for view in ("daily", "latest"):
        materialise(shop.session, view)
    shop.wait()
    shop.write("one", [("a", day(1), 1), ("a", day(2), 3), ("b", day(2), 5), ("a", day(4), 9)])
    daily, latest = materialise(shop.session, "daily"), materialise(shop.session, "latest")
    assert (daily.n_rows, daily.n_restated) == (4, 2)  # a's values of 3 and 4 March, and both stores' of the 5th
    now = shop.session.now().replace(tzinfo=None)
    assert [row for row in shop.read("daily") if row[2] == now] == [("a", day(3, 0), now, 4), ("a", day(4, 0), now, 3)]
    assert (latest.n_rows, latest.n_restated) == (2, 1)
    assert [row for row in shop.read("latest") if row[2] == now] == [("a", day(2), now, 3)]


def test_an_export_under_the_days_name_replaces_the_one_before(shop: Shop) -> None:
    materialise(shop.session, "daily")
    shop.wait()
    (shop.folder / "sales" / "one.parquet").unlink()
    shop.write("export-2", [("a", day(1), 1), ("a", day(2), 2), ("b", day(2), 5), ("b", day(4), 1)])
    second = materialise(shop.session, "daily")
    assert (second.n_rows, second.n_restated, second.kept) == (2, 0, {})


def test_spans_are_filled_back_once(shop: Shop) -> None:
    first = materialise(shop.session, "daily", since="2026-03-04")
    assert [row[1] for row in shop.read("daily")] == [day(4, 0), day(4, 0)]
    back = materialise(shop.session, "daily", since="2026-03-01", until="2026-03-02")
    assert (back.n_rows, back.first_tick, back.last_tick) == (1, datetime(2026, 3, 2, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
    assert materialise(shop.session, "daily", since="2026-03-01", until="2026-03-02") == back
    assert materialise(shop.session, "daily", until="2026-03-01").n_rows == 0
    assert materialise(shop.session, "daily").n_rows == 0  # the third of March stays open until somebody asks for it
    assert materialise(shop.session, "daily", since="2026-03-02").n_rows == 2
    assert first.spans == ((datetime(2026, 3, 4, tzinfo=UTC), None),)
    assert find_newest(shop.session, find_view(shop.session, "daily")).spans == ((None, None),)  # type: ignore[union-attr]  # it was materialised
    other = Shop(shop.folder, make_session(start=START))
    other.apply(DAILY)
    materialise(other.session, "daily")
    assert shop.read("daily") == other.read("daily")
    assert shop.answer("daily", "a", "b") == other.answer("daily", "a", "b")


def test_a_first_span_that_ends_goes_on_from_there(shop: Shop) -> None:
    materialise(shop.session, "latest", until="2026-03-01")
    assert [row[1] for row in shop.read("latest")] == [day(1)]
    materialise(shop.session, "latest")
    assert [row[1] for row in shop.read("latest")] == [day(1), day(2), day(2)]


@pytest.mark.parametrize(("since", "until", "said"), [("2026-03-05", "2026-03-01", "holds no day"), ("March", None, "not a day")])
def test_spans_that_are_none(shop: Shop, since: str, until: str | None, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        materialise(shop.session, "daily", since=since, until=until)
    assert list_batches(shop.session, find_view(shop.session, "daily")) == []


def test_an_unknown_view_is_told_with_the_nearest(shop: Shop) -> None:
    with pytest.raises(NotFound, match="did you mean 'daily'"):
        materialise(shop.session, "dayly")


def test_a_table_without_rows(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_session(start=START))
    shop.apply(DAILY, LATEST)
    shop.write("none", [])
    for view in ("daily", "latest"):
        found = materialise(shop.session, view)
        assert (found.n_rows, found.n_online, found.first_tick) == (0, 0, None)
        assert materialise(shop.session, view) == found
        assert read_materialised(shop.session, find_view(shop.session, view)) is None
        assert shop.answer(view, "a") == [None]
    shop.write("some", [("a", day(3), 4)])
    assert materialise(shop.session, "daily").n_rows == 1


def test_a_table_without_files_keeps_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_session(start=START))
    shop.apply(DAILY)
    with pytest.raises(InvalidInput):
        materialise(shop.session, "daily")
    assert list_batches(shop.session, find_view(shop.session, "daily")) == []


def test_a_key_without_a_value_is_no_row(shop: Shop) -> None:
    shop.write("two", [(None, day(2), 4)])
    assert materialise(shop.session, "latest").n_rows == 3


def test_a_column_of_another_type_is_refused_and_nothing_kept(shop: Shop) -> None:
    first = materialise(shop.session, "latest")
    shop.wait()
    shop.write("two", [("a", day(3), 1.5)])
    with pytest.raises(InvalidInput, match="'units' as DOUBLE now, and it was materialised as BIGINT"):
        materialise(shop.session, "latest")
    assert [batch.id for batch in list_batches(shop.session, find_view(shop.session, "latest"))] == [first.id]
    assert shop.answer("latest", "a") == [2]


def test_a_column_that_went_is_refused_and_nothing_kept(shop: Shop) -> None:
    first = materialise(shop.session, "latest")
    path = shop.folder / "sales" / "one.parquet"
    pq.write_table(pq.read_table(path).rename_columns(["store", "at", "unit"]), path)
    with pytest.raises(InvalidInput, match="units"):
        materialise(shop.session, "latest")
    assert [batch.id for batch in list_batches(shop.session, find_view(shop.session, "latest"))] == [first.id]


def test_rows_that_break_a_contract_are_refused_and_nothing_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path, make_session(start=START))
    table = msgspec.structs.replace(SALES, contract=Contract(unique=("store",)))
    shop.apply(FeatureView(name="latest", source=table, features=["units"]))
    shop.write("one", [("a", day(1), 1), ("a", day(2), 1)])
    with pytest.raises(ContractBroken):
        materialise(shop.session, "latest")
    assert list_batches(shop.session, find_view(shop.session, "latest")) == []


def test_a_clock_that_went_back_takes_nothing_back(shop: Shop) -> None:
    first = materialise(shop.session, "daily")
    earlier = replace(shop.session, clock=ManualClock(START - timedelta(days=2)))
    assert materialise(earlier, "daily") == first
    shop.write("late", [("a", day(2, 13), 10)])
    second = materialise(earlier, "daily")
    assert second.known_until == first.known_until
    assert {row[2] for row in shop.read("daily") if row[3] in (12, 13)} == {START.replace(tzinfo=None)}
    assert shop.answer("daily", "a") == [12]


TOTALS = FeatureView(
    name="totals",
    sql='SELECT store, max("at") AS "at", sum(units) AS units, avg(units) AS mean FROM sales GROUP BY store',
    tables=[SALES],  # type: ignore[arg-type]  # lists are taken, as users write them
    keys=("store",),
    event_time="at",
)
RULES = FeatureView(name="rules", sql="SELECT store, count(*) AS units FROM sales GROUP BY store", tables=(SALES,), keys=("store",))


def test_a_select_adds_the_rows_that_differ(shop: Shop) -> None:
    shop.apply(TOTALS, RULES)
    totals, rules = materialise(shop.session, "totals"), materialise(shop.session, "rules")
    assert (totals.n_rows, totals.n_online, rules.n_rows) == (2, 2, 2)
    assert materialise(shop.session, "totals") == totals
    shop.wait()
    shop.write("two", [("a", day(2, 11), 10), ("c", day(4), 1)])
    totals, rules = materialise(shop.session, "totals"), materialise(shop.session, "rules")
    now = shop.session.now().replace(tzinfo=None)
    assert (totals.n_rows, totals.n_restated, rules.n_rows, rules.n_restated) == (2, 1, 2, 1)
    assert shop.read("totals") == [("a", day(2), day(2), 3), ("a", day(2), now, 13), ("b", day(2), day(2), 5), ("c", day(4), day(4), 1)]
    always = ALWAYS
    assert shop.read("rules") == [("a", always, always, 2), ("a", always, now, 3), ("b", always, always, 1), ("c", always, now, 1)]
    assert shop.answer("rules", "a", "b", "c") == [3, 1, 1]
    (shop.folder / "sales" / "two.parquet").unlink()
    shop.wait()
    assert materialise(shop.session, "rules").n_rows == 1  # a's again; what was known of c stays known
    assert shop.answer("rules", "a", "b", "c") == [2, 1, 1]


def test_one_run_at_a_time(shop: Shop) -> None:
    subject = f"features/{DAILY.id}"
    with hold_lease(shop.session, subject), pytest.raises(Conflict, match="is held"):
        materialise(replace(shop.session), "daily")
    reached, go = threading.Event(), threading.Event()

    class Waiting(SilentReporter):
        def step_started(self, name: str) -> None:
            if name == "compute":
                reached.set()
                go.wait(20)

    first: list[Materialisation] = []
    running = threading.Thread(target=lambda: first.append(materialise(shop.session, "daily", reporter=Waiting())))
    running.start()
    assert reached.wait(20)
    second: list[Materialisation] = []
    other = threading.Thread(target=lambda: second.append(materialise(shop.session, "daily", wait="1min")))
    other.start()
    go.set()
    running.join(30)
    other.join(30)
    assert first == second
    assert len(list_batches(shop.session, find_view(shop.session, "daily"))) == 1


class Refusing(MemoryOnline):
    """An online store that takes nothing."""

    def write(self, space: str, *, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        raise StorageFull("It takes no more.")


def test_what_the_online_store_did_not_take_is_brought_by_the_next_run(shop: Shop) -> None:
    with pytest.raises(StorageFull):
        materialise(replace(shop.session, ports=replace(shop.session.ports, online=Refusing())), "daily")
    left = find_newest(shop.session, find_view(shop.session, "daily"))
    assert left is not None
    assert (left.online, left.n_online, len(shop.read("daily"))) == ("pending", 0, left.n_rows)
    done = materialise(shop.session, "daily")
    assert (done.id, done.online, done.n_online) == (left.id, "done", 2)
    assert shop.answer("daily", "a") == [2]


def test_an_online_store_that_was_lost_is_filled_anew(shop: Shop) -> None:
    shop.apply(PUSHED)
    materialise(shop.session, "pushed")
    shop.wait()
    push(shop.session, "pushed", [{"store": "z", "units": 9, "__event_at": day(4).replace(tzinfo=UTC)}])
    assert shop.answer("pushed", "a", "z") == [2, 9]
    shop.session.online.drop(name_space(shop.session, find_view(shop.session, "pushed")))
    assert shop.answer("pushed", "a", "z") == [None, None]
    materialise(shop.session, "pushed")
    assert shop.answer("pushed", "a", "b", "z") == [2, 5, 9]


def test_a_push_that_was_cut_short_is_finished_by_the_next_run(shop: Shop) -> None:
    shop.apply(PUSHED)
    materialise(shop.session, "pushed")

    class Away(MemoryOnline):
        def write(self, *args: Any, **given: Any) -> int:
            raise Unreachable("The online store does not answer.")

    away = replace(shop.session, ports=replace(shop.session.ports, online=Away()))
    with pytest.raises(Unreachable):
        push(away, "pushed", [{"store": "z", "units": 9, "__event_at": day(3).replace(tzinfo=UTC)}])
    assert shop.answer("pushed", "z") == [None]
    materialise(shop.session, "pushed")
    assert shop.answer("pushed", "z") == [9]


def test_what_a_killed_run_did_not_bring_online_is_brought_by_the_next(shop: Shop) -> None:
    first = materialise(shop.session, "daily")
    version = find_view(shop.session, "daily")
    shop.session.online.drop(f"default/{version.id}")
    with shop.session.records.transact() as tx:
        found = tx.get_versioned(MATERIALISATIONS, workspace="default", id=first.id)
        assert found is not None
        tx.put(MATERIALISATIONS, workspace="default", record=msgspec.structs.replace(first, online="pending", n_online=0), expected_version=found[1])
    assert shop.answer("daily", "a") == [None]
    assert materialise(shop.session, "daily") == first
    assert shop.answer("daily", "a") == [2]


def test_batches_come_to_rest_together(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_APART", 3)
    version, found = find_view(shop.session, "daily"), []
    for n in range(7):
        shop.write(f"day-{n}", [("a", day(4 + n, 3), n), ("b", day(1 + n, 4), 1)])
        found.append(materialise(shop.session, "daily"))
        assert len(shop.read("daily")) == sum(batch.n_rows for batch in found)
        shop.wait()
    assert [batch.merged_from for batch in found] == [None, None, 1, None, None, 4, None]
    there = [p["batch"] for p in shop.session.tables.partitions(MATERIALISED, partition=place(shop.session, version))]
    assert there == [found[-1].id, f"merged_{found[2].id}", f"merged_{found[5].id}"]
    materialise(shop.session, "daily")
    other = Shop(shop.folder, replace(make_session(start=START), clock=shop.session.clock))
    other.apply(DAILY)
    materialise(other.session, "daily")
    assert shop.answer("daily", "a", "b") == other.answer("daily", "a", "b")


def test_what_a_killed_run_left_is_nobodys(shop: Shop) -> None:
    first = materialise(shop.session, "daily")
    version, tables = find_view(shop.session, "daily"), shop.session.tables
    left = tables.read(MATERIALISED, partition=place(shop.session, version, first.id))
    for dataset in (MATERIALISED, NEWEST, TILES):
        tables.write(dataset, partition={**place(shop.session, version, "batch_000002_left"), "part": "00000"}, table=left)
    assert len(shop.read("daily")) == first.n_rows
    shop.wait()
    second = materialise(shop.session, "daily")
    kept = {dataset: {p["batch"] for p in tables.partitions(dataset, partition=place(shop.session, version))} for dataset in (MATERIALISED, NEWEST)}
    assert kept == {MATERIALISED: {first.id, second.id}, NEWEST: {second.id}}


def test_a_view_that_is_not_kept_online(shop: Shop) -> None:
    view = msgspec.structs.replace(LATEST, name="offline", online=False)
    shop.apply(view)
    found = materialise(shop.session, "offline")
    assert (found.n_rows, found.online, found.n_online) == (3, "none", 0)
    assert shop.session.online.count(f"default/{view.id}") == 0


def test_a_snapshot_says_what_the_newest_rows_look_like(shop: Shop) -> None:
    view = msgspec.structs.replace(LATEST, name="named", personal=("store",))
    shop.apply(view)
    found = materialise(shop.session, "named")
    snapshot = shop.session.records.get(SNAPSHOTS, workspace="default", id=found.snapshot or "")
    assert snapshot is not None
    assert (snapshot.n_rows, snapshot.first_event) == (2, datetime(2026, 3, 2, 12, tzinfo=UTC))
    profiles = {profile.name: profile for profile in snapshot.profiles}
    assert (profiles["units"].least, profiles["units"].most, profiles["units"].n) == (2, 5, 2)
    assert (profiles["store"].n_distinct, profiles["store"].top) == (2, [])
    newest = read_newest(shop.session, find_view(shop.session, "named"))
    assert newest is not None
    assert sorted(newest.to_table().column("units").to_pylist()) == [2, 5]


def test_many_rows_rest_in_parts(tmp_path: Path) -> None:
    session = replace(make_session(start=START), settings=Settings(memory_limit=256 * 2**20, n_threads=1))
    shop = Shop(tmp_path, session)
    shop.apply(LATEST)
    shop.write("many", [(f"s{n}", day(1 + n % 3), n) for n in range(300_000)])
    told: list[str] = []

    class Telling(SilentReporter):
        def step_advanced(self, name: str, *, done: int, total: int) -> None:
            told.append(name)

    found = materialise(session, "latest", reporter=Telling())
    version = find_view(session, "latest")
    parts = session.tables.partitions(MATERIALISED, partition=place(session, version, found.id))
    assert (found.n_rows, found.n_online, len(parts) > 1) == (300_000, 300_000, True)
    assert {"online"} < set(told)
    rows = scan_batches(session, MATERIALISED, version, [found.id])
    assert rows is not None
    order = rows.to_table(columns=["__order"]).column(0).to_pylist()
    assert len(set(order)) == 300_000


def test_rows_that_are_gone_are_missed(shop: Shop) -> None:
    found = materialise(shop.session, "latest")
    version = find_view(shop.session, "latest")
    shop.session.tables.delete(MATERIALISED, partition={**place(shop.session, version, found.id), "part": "00000"})
    with pytest.raises(IntegrityBroken, match="3 rows, and some are gone"):
        read_materialised(shop.session, version)


def test_what_was_never_materialised_is_told(shop: Shop) -> None:
    version = find_view(shop.session, "daily")
    for read in (read_materialised, read_newest):
        with pytest.raises(NotFound, match="was never materialised"):
            read(shop.session, version)


def test_who_may_only_read_may_not_materialise(shop: Shop) -> None:
    with pytest.raises(PermissionDenied):
        materialise(replace(shop.session, role=Role.VIEWER), "daily")


def test_runs_that_are_killed_are_made_good() -> None:
    shares = ("kill:47%", "kill:96%", "full:60%")
    done = subprocess.run([sys.executable, "-m", "endcap.testing.feature_kills", *shares], capture_output=True, text=True, timeout=300, check=False)
    *trials, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(trial["name"], trial["problems"]) for trial in trials if trial["problems"]] == []
    assert [trial["killed"] for trial in trials] == [True, True, False]
    assert (done.returncode, summary["n_failed"]) == (0, 0)
