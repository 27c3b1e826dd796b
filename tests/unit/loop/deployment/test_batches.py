from __future__ import annotations

import csv
import errno
import itertools
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.errors import InvalidInput, NotFound, PermissionDenied, StorageFull
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.deployment.batches import _is_unique, add_ids, find_batch, log_predictions, read_batch, sweep_log
from endcap.loop.deployment.deliveries import deliver_predictions
from endcap.loop.deployment.records import BATCHES, PREDICTIONS
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.sessions import make_session

ORIGIN = date(2026, 1, 5)
COLUMNS = ["store_id", "ts", "forecast", "lower_90", "upper_90", "version", "predicted_at"]


@pytest.fixture
def version(shop: Any) -> Any:
    return shop.register("a")


def two_stores(shop: Any, **columns: Any) -> pa.Table:
    return shop.answers({"store_id": ["S1", "S2"]}, start=ORIGIN, **columns)


def logged(shop: Any, batch: Any) -> pa.Table:
    return add_ids(shop.session.tables.read(PREDICTIONS, partition=batch.partition), batch)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_logged_is_what_was_answered_in_order(shop: Any, version: Any) -> None:
    table = two_stores(shop)
    batch = shop.deliver(version, table, origin=ORIGIN)
    assert (batch.id, batch.n_rows) == ("store-day/2026-01-05/store-day-v1", 6)
    rows = logged(shop, batch)
    assert rows.drop_columns(["prediction_id"]).equals(table)
    assert rows["prediction_id"][0].as_py() == "store-day-v1~2026-01-05~S1~2026-01-05T00:00"


def test_logging_the_same_twice_changes_nothing(shop: Any, version: Any) -> None:
    first = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    rows = logged(shop, first)
    second = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    assert second == first
    assert logged(shop, second).equals(rows)
    assert len(shop.session.records.find(BATCHES, workspace="default")) == 1


def test_a_batch_of_the_same_version_and_origin_is_replaced_whole(shop: Any, version: Any) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    fewer = shop.answers({"store_id": ["S2"]}, start=ORIGIN)
    batch = shop.deliver(version, fewer, origin=ORIGIN)
    assert logged(shop, batch).num_rows == 3
    assert [kept.n_rows for kept in shop.session.records.find(BATCHES, workspace="default")] == [3]


@pytest.mark.parametrize("missing", ["store_id", "ts", "forecast", "lower_90", "upper_90"])
def test_answers_that_lack_a_column_leave_the_old_ones(shop: Any, version: Any, missing: str) -> None:
    batch = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    before = logged(shop, batch)
    with pytest.raises(InvalidInput, match=rf"lack the columns \['{missing}'\]"):
        log_predictions(shop.session, [(batch, [two_stores(shop).drop_columns([missing])])])
    assert logged(shop, batch).equals(before)
    assert shop.session.records.find(BATCHES, workspace="default") == [batch]


def test_two_answers_to_one_question_are_refused(shop: Any, version: Any) -> None:
    table = two_stores(shop)
    with pytest.raises(InvalidInput, match="several rows of the same keys and ts"):
        shop.deliver(version, pa.concat_tables([table, table.slice(0, 1)]), origin=ORIGIN)
    assert shop.session.tables.partitions(PREDICTIONS) == []


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2), st.integers(0, 3)), max_size=12),
    ordered=st.booleans(),
)
def test_rows_are_unique_or_not_in_any_order(rows: list[tuple[str | None, int, int]], ordered: bool) -> None:
    rows = sorted(rows, key=str) if ordered else rows
    store, item, hour = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    ts = [datetime(2026, 1, 5, h) for h in hour]  # noqa: DTZ001 - the table's own time
    table = pa.table({"store": pa.array(store, pa.string()), "item": pa.array(item, pa.int64()), "ts": pa.array(ts, pa.timestamp("us"))})
    chunked = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    assert _is_unique(chunked, ["store", "item"]) == (len(set(rows)) == len(rows))


def test_a_run_that_was_cut_short_in_more_parts_leaves_no_row_of_them(shop: Any, version: Any) -> None:
    batch, whole = shop.deliver(version, two_stores(shop), origin=ORIGIN), two_stores(shop, forecast=[9.0] * 6)

    def cut_short() -> Iterator[pa.Table]:
        yield from (whole.slice(place, 1) for place in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log_predictions(shop.session, [(batch, cut_short())])
    (again,) = log_predictions(shop.session, [(batch, iter([whole.slice(0, 4), whole.slice(4)]))])
    assert (again.n_rows, again.n_parts) == (6, 2)
    assert logged(shop, again).drop_columns(["prediction_id"]).equals(whole)


def test_rows_that_belong_to_no_batch_are_swept_and_others_stay(shop: Any, version: Any) -> None:
    batch = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    rows, tables = logged(shop, batch), shop.session.tables
    for names in ({"data": "other"}, {"version": "store-day-v9"}, {"origin": "2026-01-04"}):
        tables.write(PREDICTIONS, partition={**batch.partition, **names, "part": "0000"}, table=two_stores(shop))
    tables.write(PREDICTIONS, partition={**batch.partition, "model": "another", "part": "0000"}, table=two_stores(shop))
    assert sweep_log(shop.session, batch.model) == 3
    assert sweep_log(shop.session, batch.model) == 0
    assert logged(shop, batch).equals(rows)
    assert {partition["model"] for partition in tables.partitions(PREDICTIONS)} == {batch.model, "another"}


def test_a_write_that_fails_half_way_leaves_the_old_answers(tmp_path: Path, shop_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(tmp_path)
    shop = shop_of(session)
    try:
        version = shop.register("a")
        batch = shop.deliver(version, two_stores(shop), origin=ORIGIN)
        before = logged(shop, batch)

        def fail(table: pa.Table, *, sink: Any) -> int:
            sink.write(b"PAR1 and then the disk was full")
            raise OSError("the disk is full")

        monkeypatch.setattr("endcap.storage.backends.embedded.write_parquet", fail)
        with pytest.raises(OSError, match="full"):
            shop.deliver(version, two_stores(shop, forecast=[0.0] * 6), origin=ORIGIN)
        assert logged(shop, batch).equals(before)
    finally:
        session.ports.close()


def test_a_record_that_fails_leaves_rows_that_the_next_try_replaces(shop: Any, version: Any, tamper: Callable[..., Any]) -> None:
    broken = replace(shop, session=tamper(shop.session, breaks="audit"))
    with pytest.raises(OSError, match="full"):
        broken.deliver(version, two_stores(shop), origin=ORIGIN)
    with pytest.raises(NotFound):
        find_batch(shop.session, "store-day")
    batch = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    assert logged(shop, batch).num_rows == 6
    assert [row.verb for row in list_audit(shop.session)] == ["log-predictions", "register"]


KEYS = st.one_of(st.none(), st.text(st.sampled_from("~%7E25null/=. ü\x00\n'"), max_size=5))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the fixture is a class
@given(st.sets(st.tuples(KEYS, KEYS), min_size=1, max_size=12))
def test_ids_are_as_different_as_their_keys(shop_of: Callable[..., Any], keys: set[tuple[str | None, str | None]]) -> None:
    shop = shop_of(make_session())
    first, second = ([pair[i] for pair in sorted(keys, key=repr)] for i in (0, 1))
    table = shop.answers({"a": pa.array(first, pa.string()).to_pylist(), "b": second}, start=ORIGIN, n_days=2)
    table = table.set_column(0, "a", table["a"].cast(pa.string())).set_column(1, "b", table["b"].cast(pa.string()))
    batch = shop.deliver(shop.register("a"), table, origin=ORIGIN, keys=("a", "b"))
    ids = logged(shop, batch)["prediction_id"].to_pylist()
    assert len(set(ids)) == 2 * len(keys)
    assert all(one.count("~") == 4 for one in ids)


def test_whole_numbers_are_keys_as_they_stand(shop: Any, version: Any) -> None:
    batch = shop.deliver(version, shop.answers({"store_id": [1, 20]}, start=ORIGIN, n_days=1), origin=ORIGIN)
    assert logged(shop, batch)["prediction_id"].to_pylist() == [f"store-day-v1~2026-01-05~{n}~2026-01-05T00:00" for n in (1, 20)]


def test_a_file_has_its_columns_in_their_order(shop: Any, version: Any, tmp_path: Path) -> None:
    shuffled = two_stores(shop).select(["upper_90", "ts", "lower_90", "forecast", "store_id"])
    shop.deliver(version, shuffled, origin=ORIGIN)
    done = deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv")
    assert (done.n_rows, done.version, done.origin, done.path) == (6, "store-day-v1", ORIGIN.isoformat(), str(tmp_path / "f.csv"))
    deliver_predictions(shop.session, "store-day", out=tmp_path / "f.parquet")
    table = pq.read_table(tmp_path / "f.parquet")
    rows = read_csv(tmp_path / "f.csv")
    assert list(rows[0]) == table.column_names == COLUMNS
    assert rows[4] == {
        "store_id": "S2",
        "ts": "2026-01-06 00:00:00",
        "forecast": "14",
        "lower_90": "9",
        "upper_90": "24",
        "version": "store-day-v1",
        "predicted_at": "2026-01-05 08:00:00",
    }
    assert table.schema.field("ts").type == pa.timestamp("us")
    assert table["forecast"].to_pylist() == [float(row["forecast"]) for row in rows]


def test_what_else_a_solution_gives_stands_last(shop: Any, version: Any, tmp_path: Path) -> None:
    table = two_stores(shop).add_column(0, "demand", pa.array([1.5] * 6))
    shop.deliver(version, table, origin=ORIGIN)
    deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv")
    assert list(read_csv(tmp_path / "f.csv")[0]) == [*COLUMNS, "demand"]


def test_local_times_carry_no_offset_and_instants_do(tmp_path: Path, shop_of: Callable[..., Any]) -> None:
    shop = shop_of(make_session(start=datetime(2026, 1, 5, 5, 30, 15, 999_999, tzinfo=UTC)))
    shop.define()
    shop.deliver(shop.register("a"), two_stores(shop), origin=ORIGIN, zone="Asia/Shanghai")
    deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv", utc=True)
    row = read_csv(tmp_path / "f.csv")[0]
    assert list(row) == [*COLUMNS, "ts_utc", "predicted_at_utc"]
    assert (row["ts"], row["ts_utc"]) == ("2026-01-05 00:00:00", "2026-01-04T16:00:00Z")
    assert (row["predicted_at"], row["predicted_at_utc"]) == ("2026-01-05 13:30:15", "2026-01-05T05:30:15Z")
    deliver_predictions(shop.session, "store-day", out=tmp_path / "f.parquet", utc=True)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.schema.field("ts_utc").type == pa.timestamp("us", tz="UTC")
    assert table["predicted_at"][0].as_py() == datetime(2026, 1, 5, 13, 30, 15, 999_999)  # noqa: DTZ001 - local by design


@pytest.mark.parametrize(
    ("zone", "local", "instant"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, 0), "2026-03-28T23:00:00+00:00"),  # noqa: DTZ001 - local by design
        ("Europe/Berlin", datetime(2026, 3, 30, 0), "2026-03-29T22:00:00+00:00"),  # noqa: DTZ001 - the day before has 23 hours
        ("Europe/Berlin", datetime(2026, 10, 25, 2, 30), "2026-10-25T00:30:00+00:00"),  # noqa: DTZ001 - comes twice: the first
        ("Europe/Berlin", datetime(2026, 3, 29, 2, 30), "2026-03-29T01:00:00+00:00"),  # noqa: DTZ001 - never comes: the next that does
        ("Africa/Cairo", datetime(2026, 4, 24, 0), "2026-04-23T22:00:00+00:00"),  # noqa: DTZ001 - a day that begins at one
    ],
)
def test_hours_that_a_clock_skips_or_shows_twice(shop: Any, version: Any, zone: str, local: datetime, instant: str) -> None:
    table = pa.table({"store_id": ["S1"], "ts": pa.array([local], pa.timestamp("us")), "forecast": [1.0], "lower_90": [0.0], "upper_90": [2.0]})
    batch = shop.deliver(version, table, origin=local.date(), zone=zone)
    row = read_batch(shop.session, batch, utc=True).to_pylist()[0]
    assert row["ts"] == local
    assert row["ts_utc"].isoformat() == instant


def test_the_newest_origin_answers_and_an_older_one_when_asked_for(shop: Any, version: Any) -> None:
    for days in (1, 2, 0):
        shop.pass_time(hours=1)
        shop.deliver(version, two_stores(shop), origin=ORIGIN + timedelta(days=days))
    assert find_batch(shop.session, "store-day").origin == ORIGIN + timedelta(days=2)
    assert find_batch(shop.session, "store-day", origin="2026-01-05").origin == ORIGIN


def test_of_one_origin_the_version_that_answered_last(shop: Any) -> None:
    for identity in ("a", "b"):
        shop.pass_time(hours=1)
        shop.deliver(shop.register(identity), two_stores(shop), origin=ORIGIN)
    assert find_batch(shop.session, "store-day").version == "store-day-v2"


@pytest.mark.parametrize("origin", ["2026-01-06", "", "tomorrow"])
def test_an_origin_that_was_never_answered_is_not_found(shop: Any, version: Any, origin: str, tmp_path: Path) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    with pytest.raises(NotFound):
        deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv", origin=origin)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_and_one_without_predictions_are_not_found(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No model 'store-dya'"):
        deliver_predictions(shop.session, "store-dya", out=tmp_path / "f.csv")
    with pytest.raises(NotFound, match="'store-day' has no predictions") as caught:
        deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv")
    assert caught.value.hint == "make them with: endcap run store-day"


@pytest.mark.parametrize("out", ["folder", "file.txt/f.csv", "n" * 300 + ".csv", "."])
def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(shop: Any, version: Any, tmp_path: Path, out: str) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=r"cannot be written|is a folder"):
        deliver_predictions(shop.session, "store-day", out=tmp_path / out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file.txt", "folder"]
    assert (tmp_path / "file.txt").read_text() == "mine"


def test_a_file_is_replaced_whole_and_its_folder_made(shop: Any, version: Any, tmp_path: Path) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    out = tmp_path / "new" / "f.csv"
    for _ in range(2):
        deliver_predictions(shop.session, "store-day", out=out)
    assert len(read_csv(out)) == 6
    assert [path.name for path in out.parent.iterdir()] == ["f.csv"]


@pytest.mark.parametrize("name", ["f.csv", "f.parquet"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_delivery_that_finds_no_room_leaves_the_old_file_whenever_it_does(shop: Any, version: Any, tmp_path: Path, name: str, code: int) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    out = tmp_path / "out" / name
    out.parent.mkdir()
    out.write_bytes(b"the old file")
    n_refused = 0
    for at in itertools.count(1):
        instants = Instants(partial(fill, code=code), at=at, lasts=True)
        with striking(tmp_path, instants), suppress(StorageFull):
            deliver_predictions(shop.session, "store-day", out=out)
        refused = out.read_bytes() == b"the old file"
        n_refused += refused
        assert [path.name for path in out.parent.iterdir()] == [name]
        if at > len(instants.names):
            break
        out.write_bytes(b"the old file")
    assert not refused
    assert n_refused > 3
    assert deliver_predictions(shop.session, "store-day", out=out).n_rows == 6


def test_a_delivery_into_a_folder_that_is_read_only_says_so_and_the_old_file_stands(shop: Any, version: Any, tmp_path: Path) -> None:
    shop.deliver(version, two_stores(shop), origin=ORIGIN)
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "endcap-test", folder], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets tests mount nothing, and some users write where they may not")
    try:
        out = folder / "f.csv"
        out.write_text("old")
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(StorageFull, match=rf"disk under {folder} takes no more: Read-only file system; .* were wanted") as caught:
            deliver_predictions(shop.session, "store-day", out=out)
        assert "writable" in str(caught.value)
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("f.csv", "old")]
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        assert deliver_predictions(shop.session, "store-day", out=out).n_rows == 6
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_viewer_reads_and_does_not_write(shop: Any, version: Any, tmp_path: Path) -> None:
    batch = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    viewer = replace(shop.session, role=Role.VIEWER)
    assert deliver_predictions(viewer, "store-day", out=tmp_path / "f.csv").n_rows == 6
    with pytest.raises(PermissionDenied):
        log_predictions(viewer, [(batch, [two_stores(shop)])])


def test_workspaces_keep_their_own_answers(shop: Any, version: Any, shop_of: Callable[..., Any]) -> None:
    mine = shop.deliver(version, two_stores(shop), origin=ORIGIN)
    other = shop_of(replace(shop.session, workspace="other"))
    other.define()
    theirs = other.deliver(other.register("a"), two_stores(shop, forecast=[0.0] * 6), origin=ORIGIN)
    assert logged(shop, mine)["forecast"].to_pylist() != [0.0] * 6
    assert logged(shop, theirs)["forecast"].to_pylist() == [0.0] * 6


def in_parts(shop: Any, version: Any, *stores: str, **changes: Any) -> Any:
    """A batch of one part a store, of the same data whoever is in it."""
    tables = [shop.answers({"store_id": [store]}, start=ORIGIN, n_days=1) for store in stores]
    batch = shop.deliver(version, tables[0], origin=ORIGIN, **changes)
    return log_predictions(shop.session, [(batch, iter(tables))])[0]


def test_parts_are_one_batch_in_their_order(shop: Any, version: Any, tmp_path: Path) -> None:
    batch = in_parts(shop, version, "S3", "S1", "S2")
    assert (batch.n_rows, batch.n_parts) == (3, 3)
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S3", "S1", "S2"]
    delivery = deliver_predictions(shop.session, "store-day", out=tmp_path / "f.csv")
    assert (delivery.n_rows, delivery.first_id) == (3, "store-day-v1~2026-01-05~S3~2026-01-05T00:00")


def test_fewer_parts_of_the_same_data_leave_none_of_the_old(shop: Any, version: Any) -> None:
    in_parts(shop, version, "S1", "S2", "S3")
    batch = in_parts(shop, version, "S2")
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S2"]
    assert len(shop.session.tables.partitions(PREDICTIONS)) == 1


def test_parts_that_a_killed_run_left_are_no_answers(shop: Any, version: Any, tamper: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="full"):
        in_parts(replace(shop, session=tamper(shop.session, breaks="audit")), version, "S1", "S2")
    assert shop.session.tables.partitions(PREDICTIONS)
    batch = in_parts(shop, version, "S3")
    assert logged(shop, batch)["store_id"].to_pylist() == ["S3"]


def test_parts_that_were_not_taken_away_yet_are_not_read(shop: Any, version: Any) -> None:
    batch = in_parts(shop, version, "S1")
    left = shop.answers({"store_id": ["S9"]}, start=ORIGIN, n_days=1)
    shop.session.tables.write(PREDICTIONS, partition={**batch.partition, "part": "0001"}, table=left)
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S1"]


def test_other_data_give_another_partition_and_the_old_one_goes(shop: Any, version: Any) -> None:
    in_parts(shop, version, "S1", "S2")
    batch = in_parts(shop, version, "S3", data="e" * 64)
    assert read_batch(shop.session, batch)["store_id"].to_pylist() == ["S3"]
    assert {p["data"] for p in shop.session.tables.partitions(PREDICTIONS)} == {"e" * 16}


def test_hours_of_a_day_are_batches_of_their_own_and_the_newest_is_found(shop: Any, version: Any) -> None:
    for hour in (5, 23, 7):
        shop.deliver(version, two_stores(shop), origin=ORIGIN, hour=hour)
    assert find_batch(shop.session, "store-day").moment == "2026-01-05T23:00"
    assert find_batch(shop.session, "store-day", origin="2026-01-05T07:00").hour == 7
    with pytest.raises(NotFound, match="no predictions from the origin 2026-01-05T08:00"):
        find_batch(shop.session, "store-day", origin="2026-01-05T08:00")
    shop.deliver(version, two_stores(shop), origin=ORIGIN + timedelta(days=1))
    assert find_batch(shop.session, "store-day").moment == "2026-01-06"


def test_several_versions_answer_for_one_origin_the_champion_first(shop: Any, version: Any, tmp_path: Path) -> None:
    other = shop.register("b")
    one, two = (shop.deliver(v, shop.answers({"store_id": [s]}, start=ORIGIN), origin=ORIGIN) for v, s in ((version, "S1"), (other, "S2")))
    assert find_batch(shop.session, "store-day").version == other.id
    log_predictions(shop.session, [(one, None), (two, None)])
    delivery = deliver_predictions(shop.session, "store-day", out=tmp_path / "f.parquet")
    assert delivery.version == f"{version.id}, {other.id}"
    rows = pq.read_table(tmp_path / "f.parquet")
    assert set(zip(rows["store_id"].to_pylist(), rows["version"].to_pylist(), strict=True)) == {("S1", version.id), ("S2", other.id)}


def test_no_batch_at_all_writes_nothing(shop: Any) -> None:
    n = len(list_audit(shop.session))
    assert log_predictions(shop.session, []) == []
    assert len(list_audit(shop.session)) == n
