from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import ContractBroken, IntegrityBroken, InvalidInput, StorageFull, Unreachable
from endcap.governance.audit import list_audit
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.loop.data import inspection
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import gone_files, new_files
from endcap.loop.data.ingested import open_ingested
from endcap.loop.data.parts import write_parts
from endcap.loop.data.records import INGESTS, Ingest
from endcap.loop.data.sources import open_source
from endcap.loop.data.verbs import ingest
from endcap.testing.connectors import FakeDatabase
from endcap.testing.faults import Instants, fill, striking
from endcap.testing.sessions import make_session

SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), ("store", pa.string()), ("units", pa.float64()), ("changed", pa.timestamp("us", tz="UTC"))]
)
WALL, DAY = datetime(2026, 1, 2), timedelta(days=1)  # noqa: DTZ001 - a local time has no zone
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
ORDERS = Table("orders", "$SHOP", keys=("store",), event_time="changed", relation="public.orders", watermark="changed")


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> FakeDatabase:
    found = FakeDatabase(SCHEMA, key=["id"])
    monkeypatch.setattr("endcap.loop.data.landing.open_connector", lambda _, **__: found)
    return found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path / "home", start=START)
    yield opened
    opened.ports.close()


def order(id_: int, *, minutes: float = 0, units: float | None = 1.0, store: str | None = "S1") -> dict[str, Any]:
    """An order that was changed so many minutes before eight o'clock."""
    return {"id": id_, "store": store, "units": units, "changed": START - timedelta(minutes=minutes)}


def take(session: Session, table: Table = ORDERS, **options: Any) -> Ingest:
    return ingest(session, table, folder=Path(), **options)


def read(session: Session, record: Ingest, table: Table = ORDERS, *, columns: str = "id, store, units, changed") -> list[dict[str, Any]]:
    with open_engine(session.settings) as engine:
        source = open_ingested(session, table, record, folder=Path(), engine=engine)
        found = engine.sql(f"SELECT {columns} FROM ({source.sql}) ORDER BY ALL").to_arrow_table().to_pylist()
    return [dict(row) for row in found]


def ids(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def names(record: Ingest) -> list[str]:
    return [Path(file.path).name for file in record.files]


def pass_time(session: Session, **length: float) -> None:
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(**length))


# ---- with a watermark


def test_only_rows_near_and_above_the_watermark_are_asked_for(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n, minutes=60 * n) for n in range(1, 8)]
    first = take(session)
    database.rows.append(order(8, minutes=5))
    second = take(session)
    (_, none), (_, since) = database.asked
    assert none is None
    assert since is not None
    assert since.value == START - timedelta(minutes=70)
    assert read(session, second) == database.rows
    assert len(new_files(second, since=first)) == 1
    assert second.n_rows_read == 1
    assert gone_files(second, since=first) == ()


def test_nothing_new_is_the_ingest_that_stands(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1), order(2)]
    first = take(session)
    database.rows.reverse()
    assert take(session) == first
    assert take(session, verify=True) == first
    assert len(list_audit(session)) == 1


def test_rows_that_share_a_watermark_are_neither_lost_nor_doubled(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, overlap="0s")
    database.key = ()
    database.rows = [order(1), order(1), order(2)]
    assert ids(read(session, take(session, table), table)) == [1, 1, 2]
    database.rows += [order(1), order(3)]
    second = take(session, table)
    assert ids(read(session, second, table)) == [1, 1, 1, 2, 3]
    assert take(session, table) == second


def test_the_same_rows_may_come_again_as_files_of_their_own(database: FakeDatabase, session: Session) -> None:
    database.key = ()
    for n in (1, 2, 3):
        database.rows.append(order(7))
        assert ids(read(session, take(session))) == [7] * n


def test_of_equal_rows_as_many_go_as_the_relation_has_lost(database: FakeDatabase, session: Session) -> None:
    database.key = ()
    database.rows = [order(1), order(1), order(1), order(2)]
    take(session)
    database.rows = [order(1), order(2)]
    assert ids(read(session, take(session))) == [1, 2]


def test_a_row_whose_transaction_ended_late_is_found_within_the_overlap(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1, minutes=30)]
    take(session)
    database.rows += [order(2, minutes=39), order(3, minutes=41)]
    assert ids(read(session, take(session))) == [1, 2]
    assert ids(read(session, take(session, verify=True))) == [1, 2, 3]


def test_a_changed_row_takes_the_place_of_the_older_one(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n, minutes=600 - n) for n in range(1, 5)]
    first = take(session)
    database.rows[1] = order(2, units=9.0)
    second = take(session)
    assert read(session, second) == sorted(database.rows, key=lambda row: row["id"])
    assert len(gone_files(second, since=first)) == 1
    assert read(session, first)[1]["units"] == 1.0  # what runs under way read stays one visit longer
    database.rows.append(order(11))
    take(session)
    with pytest.raises(InvalidInput, match=r"is gone, which ingest .* let in. Hint: newer rows took its place: ingest it again"):
        read(session, first)


def test_the_key_is_what_the_contract_says_is_unique_before_the_primary_key(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, contract=Contract(unique=("store",)))
    database.rows = [order(1, minutes=100, store="S1"), order(2, minutes=100, store="S2")]
    take(session, table)
    database.rows[0] = order(5, store="S1")
    assert ids(read(session, take(session, table), table)) == [2, 5]


def test_without_a_key_older_rows_stay_and_the_window_is_what_the_relation_holds(database: FakeDatabase, session: Session) -> None:
    database.key = ()
    database.rows = [order(1, minutes=100), order(2)]
    take(session)
    database.rows = [order(1), order(3)]  # the first was changed, the second is gone
    found = read(session, take(session), columns="id, changed")
    assert [(row["id"], row["changed"]) for row in found] == [(1, START - timedelta(minutes=100)), (1, START), (3, START)]


def test_all_rows_of_the_window_may_go(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1), order(2)]
    take(session)
    database.rows = []
    gone = take(session)
    assert (gone.n_rows, read(session, gone)) == (0, [])
    database.rows = [order(3)]
    assert ids(read(session, take(session))) == [3]


def test_a_table_with_known_at_keeps_every_version_of_a_row(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, known_at="changed", event_time="date_trunc('day', changed)")
    database.rows = [order(1, minutes=100), order(2, minutes=100)]
    first = take(session, table)
    database.rows[0] = order(1, units=5.0)
    second = take(session, table)
    assert [(row["id"], row["units"]) for row in read(session, second, table)] == [(1, 1.0), (1, 5.0), (2, 1.0)]
    assert gone_files(second, since=first) == ()
    assert take(session, table, verify=True) == second


def test_a_watermark_in_the_future_does_not_hide_what_comes_before_it(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, contract=Contract(future=True))
    database.rows = [order(1, minutes=-1_000_000)]
    take(session, table)
    pass_time(session, hours=1)
    database.rows.append(order(2, minutes=-55))
    assert ids(read(session, take(session, table), table)) == [1, 2]


@pytest.mark.parametrize(
    ("type_", "values", "since"),
    [
        (pa.int32(), [100, 20_000, 20_001], 10_000),
        (pa.date32(), [date(2026, 1, 2), date(2026, 1, 3), date(2026, 1, 4)], date(2026, 1, 2)),
        (pa.timestamp("us"), [WALL, WALL + DAY, WALL + 2 * DAY], WALL + DAY - timedelta(minutes=10)),
    ],
)
def test_whole_numbers_dates_and_local_times_are_watermarks(
    database: FakeDatabase, session: Session, type_: pa.DataType, values: list[Any], since: object
) -> None:
    database.schema = pa.schema([("id", pa.int64()), ("mark", type_)])
    table = Table("orders", "$SHOP", relation="public.orders", watermark="mark")
    database.rows = [{"id": n, "mark": value} for n, value in enumerate(values[:2])]
    take(session, table)
    database.rows.append({"id": 2, "mark": values[2]})
    assert len(read(session, take(session, table), table, columns="id")) == 3
    asked = database.asked[1][1]
    assert asked is not None
    assert asked.value == since


def test_a_visit_begins_where_the_last_accepted_rows_ended(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, known_at="changed", contract=Contract(columns={"units": Check(least=0)}))
    database.rows = [order(1, minutes=100)]
    take(session, table)
    database.rows.append(order(2, minutes=20, units=-1.0))
    for _ in range(2):
        with pytest.raises(ContractBroken, match="units"):
            take(session, table)
    database.rows[1] = order(2, units=1.0)  # mended where it came from; the bad version is not kept for ever
    assert [row["units"] for row in read(session, take(session, table), table)] == [1.0, 1.0]


# ---- without one


def test_without_a_watermark_all_rows_are_read_and_equal_rows_are_the_same_file(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, watermark=None)
    database.rows = [order(n) for n in range(7)]
    first = take(session, table)
    database.rows = database.rows[4:] + database.rows[:4]
    assert take(session, table) == first
    database.rows = [order(1, units=2.0), order(9), order(9)]
    second = take(session, table)
    assert read(session, second, table) == database.rows
    assert set(names(first)).isdisjoint(names(second))
    assert [since for _, since in database.asked] == [None, None, None]


def test_a_row_more_than_once_is_not_the_same_as_once(database: FakeDatabase, session: Session) -> None:
    table = msgspec.structs.replace(ORDERS, watermark=None)
    for rows in ([order(1)], [order(1)] * 2, [order(1)] * 3, [order(1), order(1, units=2.0), order(1)]):
        database.rows = rows
        assert len(read(session, take(session, table), table)) == len(rows)


def test_an_empty_table_is_let_in_with_its_columns(database: FakeDatabase, session: Session) -> None:
    for table in (ORDERS, msgspec.structs.replace(ORDERS, name="whole", watermark=None)):
        record = take(session, table)
        assert (record.status, record.n_rows) == ("accepted", 0)
        assert list(record.stored_types) == ["id", "store", "units", "changed"]
        database.rows = [order(1)]
        assert ids(read(session, take(session, table), table)) == [1]
        database.rows = []


def test_only_the_columns_that_are_selected_leave_the_database(database: FakeDatabase, session: Session) -> None:
    table = Table("orders", "$SHOP", relation="public.orders", select=("units", "id"))
    database.rows = [order(1)]
    assert list(take(session, table).stored_types) == ["id", "units"]
    assert database.asked == [(("id", "units"), None)]


# ---- columns that change


def test_a_column_that_is_gone_is_named_where_it_is_needed(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1)]
    take(session)
    database.schema = SCHEMA.remove(1)
    with pytest.raises(InvalidInput, match="Table 'orders' has no column 'store'"):
        take(session)
    selecting = msgspec.structs.replace(ORDERS, select=("id", "store", "changed"))
    with pytest.raises(InvalidInput, match=r"relation 'public.orders' has no column 'store'. Columns: \['changed', 'id', 'units'\]"):
        take(session, selecting)
    loose = msgspec.structs.replace(ORDERS, keys=())
    assert list(take(session, loose).stored_types) == ["id", "units", "changed"]


def test_with_other_columns_all_rows_are_read_anew_unless_versions_would_be_lost(database: FakeDatabase, session: Session) -> None:
    versions = msgspec.structs.replace(ORDERS, name="versions", known_at="changed")
    database.rows = [order(1, minutes=300), order(2)]
    take(session), take(session, versions)
    database.schema = SCHEMA.append(pa.field("city", pa.string()))
    database.rows = [{**row, "city": "Ulm"} for row in database.rows]
    found = take(session)
    assert database.asked[-1][1] is None
    assert read(session, found, columns="city") == [{"city": "Ulm"}] * 2
    with pytest.raises(InvalidInput, match=r"columns of 'public.orders' are others than .*'city' is new. Hint: name the columns that stay"):
        take(session, versions)
    kept = msgspec.structs.replace(versions, select=tuple(SCHEMA.names))
    assert take(session, kept).n_rows == 2


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relation": "public.nothing"}, "no relation 'public.nothing'"),
        ({"watermark": "chnged"}, "has no column 'chnged'.*did you mean 'changed'"),
        ({"watermark": "store"}, "the watermark 'store' of 'public.orders' is of type string. Hint: take a column of whole numbers"),
        ({"watermark": "units"}, "is of type double"),
        ({"overlap": 5}, "overlap is 5. Hint: a count for whole numbers"),
        ({"watermark": "id", "overlap": "5min"}, "overlap is '5min'"),
        ({"select": ("store", "changed")}, r"does not select \['id'\], by which changed rows"),
        ({"personal": ("email",)}, "has no column 'email'"),
    ],
)
def test_what_a_relation_does_not_have_is_told(database: FakeDatabase, session: Session, changes: dict[str, Any], said: str) -> None:
    database.rows = [order(1)]
    with pytest.raises(InvalidInput, match=said):
        take(session, msgspec.structs.replace(ORDERS, **changes))
    assert list_audit(session)[0].outcome == "refused"


def test_a_watermark_may_not_be_missing(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1), {**order(2), "changed": None}]
    with pytest.raises(InvalidInput, match="is null in 1 rows, which would never be read"):
        take(session)


def test_a_server_that_goes_away_leaves_all_as_it_was(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n) for n in range(20)]
    database.fails_after = 2
    with pytest.raises(Unreachable, match="stopped in the middle"):
        take(session)
    assert parquet_files(session) == []
    database.fails_after = None
    first = take(session)
    database.rows += [order(n) for n in range(20, 40)]
    database.fails_after = 3
    with pytest.raises(Unreachable):
        take(session)
    assert len(read(session, first)) == 20
    assert parquet_files(session) == names(first)
    database.fails_after = None
    assert len(read(session, take(session))) == 40


def parquet_files(session: Session) -> list[str]:
    return sorted(path.name for path in session.ports.landing.path.rglob("*") if path.is_file() and path.name not in ("lock", "book.json"))


def test_texts_of_a_megabyte_and_awkward_names_come_through(database: FakeDatabase, session: Session) -> None:
    hostile = "a\"; DROP TABLE x; --'$.*"
    database.schema = pa.schema([("id", pa.int64()), (hostile, pa.string())])
    table = Table("orders", "$SHOP", relation="public.orders", watermark="id", contract=Contract(unique=(hostile,)))
    database.rows = [{"id": n, hostile: f"{n}" * 2**20} for n in range(4)]
    take(session, table)
    database.rows[0] = {"id": 20_000, hostile: "0" * 2**20}
    found = read(session, take(session, table), table, columns="*")
    assert sorted((row["id"], len(row[hostile])) for row in found) == [(1, 2**20), (2, 2**20), (3, 2**20), (20_000, 2**20)]


# ---- how it is kept


def test_a_landed_table_is_read_through_its_ingest_alone(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1)]
    take(session)
    with open_engine() as engine, pytest.raises(InvalidInput, match=r"read through that ingest alone\. Hint: open it with open_ingested"):
        open_source(ORDERS, folder=Path(), zone="UTC", engine=engine, digests=lambda path: pytest.fail(str(path)))


def test_files_are_for_their_owner_alone(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1)]
    record = take(session)
    part = Path(record.files[0].path)
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert stat.S_IMODE(part.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(session.ports.landing.path.stat().st_mode) == 0o700


def test_a_part_that_was_changed_at_rest_is_not_read(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1)]
    record = take(session)
    part = Path(record.files[0].path)
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(IntegrityBroken, match="was changed at rest"):
        read(session, record)


def test_what_was_removed_is_fetched_again(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(1, minutes=300), order(2)]
    record = take(session)
    shutil.rmtree(session.ports.landing.path)
    again = take(session)
    assert ids(read(session, again)) == [1, 2]
    Path(again.files[0].path).unlink()
    assert ids(read(session, take(session))) == [1, 2]
    (book,) = session.ports.landing.path.rglob("book.json")
    book.write_text("{")
    with pytest.raises(IntegrityBroken, match="does not read as the book of a table's parts"):
        take(session)
    assert record.n_rows == 2


def test_a_home_may_move(database: FakeDatabase, session: Session, tmp_path: Path) -> None:
    database.rows = [order(1)]
    record = take(session)
    session.ports.close()
    (tmp_path / "home").rename(tmp_path / "moved")
    moved = make_session(tmp_path / "moved", start=START)
    assert read(moved, record) == database.rows
    assert take(moved) == record
    moved.ports.close()


def test_a_home_in_memory_keeps_its_rows_in_a_folder_that_ends_with_it(database: FakeDatabase) -> None:
    session = make_session(start=START)
    database.rows = [order(1)]
    record = take(session)
    assert read(session, record) == database.rows
    folder = session.ports.landing.path
    session.ports.close()
    assert not folder.exists()


def test_rows_are_cut_into_parts_of_bounded_size(tmp_path: Path) -> None:
    rows = pa.RecordBatch.from_pydict({"id": list(range(1000))})
    parts = write_parts(tmp_path, iter([rows] * 10), prefix="one", n_bytes=2 * rows.nbytes)
    assert [part.n_rows for part in parts] == [2000] * 5
    assert len({part.name for part in parts}) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(part.name for part in parts)


def test_only_new_parts_are_read_by_the_next_ingest(database: FakeDatabase, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = inspection.open_files
    monkeypatch.setattr(
        inspection,
        "open_files",
        lambda table, files, identities, **options: opened.append(len(identities)) or real(table, files, identities, **options),
    )
    for n in range(3):
        database.rows.append(order(n, minutes=10 - n))
        take(session)
    assert opened == [1, 1, 1]


def test_personal_columns_are_counted_and_not_shown(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n, store=f"S{n}") for n in range(4)]
    profile = {column.name: column for column in take(session, msgspec.structs.replace(ORDERS, personal=("store", "units"))).profile}
    assert (profile["store"].n, profile["store"].n_distinct, profile["store"].top) == (4, 4, [])
    assert (profile["units"].mean, profile["units"].most, profile["units"].quantiles) == (None, None, None)
    assert profile["id"].most == 3
    plain = {column.name: column for column in take(session).profile}
    assert plain["store"].top
    assert plain["units"].mean == 1.0


PEOPLE = msgspec.structs.replace(ORDERS, personal=("store", "units"))


def test_personal_columns_are_sealed_in_the_landed_copy_and_read_as_they_are(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n, minutes=10 - n, store=f"planted-{n % 3}") for n in range(9)]
    first = take(session, PEOPLE)
    assert [row["store"] for row in read(session, first, PEOPLE)] == [f"planted-{n % 3}" for n in range(9)]
    assert not any(b"planted" in path.read_bytes() for path in session.ports.landing.path.rglob("*") if path.is_file())
    database.rows[8] = order(8, minutes=2, store="planted-0", units=5.0)  # within the overlap: said anew
    database.rows.append(order(9, minutes=1, store="planted-1"))
    second = take(session, PEOPLE)
    assert [(row["store"], row["units"]) for row in read(session, second, PEOPLE)][8:] == [("planted-0", 5.0), ("planted-1", 1.0)]
    assert second.n_rows == 10
    assert not any(b"planted" in path.read_bytes() for path in session.ports.landing.path.rglob("*") if path.is_file())


def test_who_was_forgotten_is_missing_in_the_landed_copy_though_the_database_has_them(database: FakeDatabase, session: Session) -> None:
    database.rows = [order(n, minutes=10 - n, store=f"planted-{n % 3}") for n in range(9)]
    take(session, PEOPLE)
    subjects = Subjects(session)
    shelves = subjects.prepare_forgetting(subjects.name("store", ["planted-1"]))
    with session.records.transact() as tx:
        subjects.put_shelves(tx, shelves)
    database.rows.append(order(9, minutes=0.5, store="planted-1"))
    found = read(session, take(session, PEOPLE), PEOPLE)
    assert [row["store"] for row in found] == ["planted-0", None, "planted-2"] * 3 + [None]
    assert [row["id"] for row in found] == list(range(10))


# ---- whatever happens in the middle


def test_a_process_that_is_killed_leaves_the_rows_of_before_or_the_new_ones(database: FakeDatabase, session: Session, tmp_path: Path) -> None:
    """Whenever the files are others the home is copied, as a kill would leave it: there the rows of before are read, and the next visit ends well."""
    copies: list[Path] = []
    seen: list[list[tuple[str, int]]] = []

    def copy(name: str) -> None:
        state = sorted((path.name, path.name == "book.json" and path.stat().st_ino) for path in session.ports.landing.path.rglob("*"))
        if not seen or seen[-1] != state:
            seen.append(state)
            copies.append(tmp_path / f"copy-{len(copies)}")
            shutil.copytree(tmp_path / "home", copies[-1], ignore=shutil.ignore_patterns("*-shm"))

    land_for_change(session, database)
    with striking(tmp_path / "home", Instants(copy, at=1, lasts=True)):
        take(session)
    assert len(copies) > 8
    for home in copies:
        left = make_session(home, start=START)
        left.new_id("ingest")  # the first id is taken
        standing = left.records.find(INGESTS, workspace="default")[-1]
        assert read(left, standing) in (BEFORE, AFTER)
        assert read(left, take(left)) == AFTER
        folder = next(left.ports.landing.path.rglob("book.json")).parent
        named = {part["name"] for generation in json.loads((folder / "book.json").read_bytes())["generations"] for part in generation["parts"]}
        assert {path.name for path in folder.iterdir()} == named | {"book.json", "lock"}
        left.ports.close()


def test_a_disk_that_is_full_changes_nothing(database: FakeDatabase, session: Session, tmp_path: Path) -> None:
    land_for_change(session, database)
    standing, n_refused = session.records.find(INGESTS, workspace="default")[-1], 0
    for at in range(1, 1000, 7):  # files are written in many small pieces
        instants = Instants(fill, at=at, lasts=True)
        with striking(tmp_path / "home" / "landed", instants), suppress(StorageFull):
            take(session)
        if session.records.find(INGESTS, workspace="default")[-1] != standing:
            break
        assert read(session, standing) == BEFORE
        n_refused += 1
    assert n_refused > 10
    assert read(session, session.records.find(INGESTS, workspace="default")[-1]) == AFTER


BEFORE = [order(n, minutes=400 - n) for n in range(1, 9)]
AFTER = [*BEFORE[1:6], order(7, units=7.0), *(order(n) for n in range(20, 24))]


def land_for_change(session: Session, database: FakeDatabase) -> None:
    """A visit, after which rows are added, changed and removed."""
    database.rows = BEFORE
    take(session)
    database.rows = AFTER
