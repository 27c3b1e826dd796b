"""Folders that grow: only what is new is read, and what is known of the rest stays true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import ContractBroken, InvalidInput
from endcap.governance.sessions import Session
from endcap.loop.data import inspection
from endcap.loop.data.digests import digest_file
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import gone_files, new_files
from endcap.loop.data.paths import DataFiles
from endcap.loop.data.records import FileIdentity, Ingest
from endcap.loop.data.sources import Source, open_source
from endcap.loop.data.verbs import ingest, list_ingests
from endcap.testing.sessions import make_session

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
HOURLY = Table(
    "sales",
    "sales",
    keys=("store",),
    event_time="day",
    contract=Contract(columns={"units": Check(type="number", nulls=False, least=0)}, unique=("store", "day")),
)


@pytest.fixture
def session() -> Session:
    return make_session(start=NOW)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the files that were opened for a scan, scan by scan."""
    opened: list[list[str]] = []
    real = inspection.open_files

    def spy(table: Table, files: DataFiles, identities: tuple[FileIdentity, ...], **options: Any) -> Source:
        opened.append([Path(file.path).name for file in identities])
        return real(table, files, identities, **options)

    monkeypatch.setattr(inspection, "open_files", spy)
    return opened


def put(folder: Path, name: str, rows: str, header: str = "store,day,units") -> Path:
    path = folder / "sales" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{header}\n{rows}")
    return path


def names(files: Sequence[FileIdentity]) -> list[str]:
    return [Path(file.path).name for file in files]


def rows_of(session: Session, table: Table, folder: Path, what: str = "*", **options: Any) -> list[tuple[Any, ...]]:
    with open_engine(n_threads=1) as engine:
        source = open_source(table, folder=folder, zone="UTC", engine=engine, digests=lambda path: digest_file(session, path), **options)
        return engine.execute(f"SELECT {what} FROM ({source.sql}) ORDER BY ALL").fetchall()


def test_only_new_files_are_read_and_the_record_covers_all(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\nb,2026-03-01,2.5\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-03-02,3\n")
    put(tmp_path, "3.csv", "")
    second = ingest(session, HOURLY, folder=tmp_path)
    assert reads == [["1.csv"], ["2.csv", "3.csv"]]
    assert (first.previous, first.n_rows, first.n_rows_read) == (None, 2, 2)
    assert (second.previous, second.n_rows, second.n_rows_read) == (first.id, 3, 1)
    assert (second.first_event, second.last_event) == ("2026-03-01T00:00:00", "2026-03-02T00:00:00")
    assert [(facts.ingest, facts.n_rows, facts.first_event) for facts in second.facts] == [
        (first.id, 2, "2026-03-01T00:00:00"),
        (second.id, 1, "2026-03-02T00:00:00"),
        (second.id, 0, None),
    ]
    assert {(column.name, column.n) for column in second.profile} == {("store", 1), ("day", 1), ("units", 1)}, "a profile is of what was read"
    assert names(new_files(second, since=first)) == ["2.csv", "3.csv"]
    assert names(new_files(second, since=None)) == ["1.csv", "2.csv", "3.csv"]
    assert gone_files(second, since=first) == gone_files(second, since=None) == ()


def test_the_identity_is_that_of_a_read_from_scratch(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-03-02,3\n")
    grown, scratch = ingest(session, HOURLY, folder=tmp_path), ingest(make_session(start=NOW), HOURLY, folder=tmp_path)
    assert (grown.identity, grown.files, grown.n_rows, grown.stored_types) == (scratch.identity, scratch.files, scratch.n_rows, scratch.stored_types)


def test_rewritten_and_vanished_files_are_named(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    doomed = put(tmp_path, "2.csv", "a,2026-03-02,1\n")
    put(tmp_path, "3.csv", "a,2026-03-03,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    doomed.unlink()
    put(tmp_path, "3.csv", "a,2026-03-03,2\nb,2026-02-03,2\n")
    second = ingest(session, HOURLY, folder=tmp_path)
    assert reads[1:] == [["3.csv"]]
    assert (second.n_rows, second.first_event) == (3, "2026-02-03T00:00:00")
    assert names(new_files(second, since=first)) == ["3.csv"]
    assert names(gone_files(second, since=first)) == ["2.csv", "3.csv"]
    put(tmp_path, "1.csv", "")
    (tmp_path / "sales/1.csv").unlink()
    third = ingest(session, HOURLY, folder=tmp_path)
    assert len(reads) == 2, "where files only went nothing is read"
    assert (third.n_rows, third.n_rows_read, third.profile, third.previous) == (2, 0, (), second.id)
    assert [facts.ingest for facts in third.facts] == [second.id]


def test_another_definition_or_zone_reads_everything(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-03-02,1\n")
    ingest(session, HOURLY, folder=tmp_path, zone="Asia/Tokyo")
    ingest(session, msgspec.structs.replace(HOURLY, known_after="1h"), folder=tmp_path)
    assert reads[1:] == [["1.csv", "2.csv"]] * 2
    assert [record.previous for record in list_ingests(session)] == [None] * 3


def test_a_bad_new_file_is_refused_without_reading_the_old_ones(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    bad = put(tmp_path, "2.csv", "a,2026-03-02,x\nb,2026-03-02,1\n")
    with pytest.raises(ContractBroken, match="type: column 'units' is not number in 1 of 2 rows, such as store=a"):
        ingest(session, HOURLY, folder=tmp_path)
    assert reads[1:] == [["2.csv"]]
    refused = list_ingests(session)[0]
    assert (refused.status, refused.facts, refused.profile, refused.n_rows, refused.n_rows_read) == ("refused", (), (), 3, 2)
    bad.unlink()
    assert ingest(session, HOURLY, folder=tmp_path) == first
    put(tmp_path, "2.csv", "a,2026-03-02,7\n")
    assert ingest(session, HOURLY, folder=tmp_path).previous == first.id, "a refused ingest is no ground to stand on"


def test_unique_is_asked_of_the_new_files_alone(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-03-01,2\n")
    assert ingest(session, HOURLY, folder=tmp_path).status == "accepted"
    put(tmp_path, "3.csv", "a,2026-03-02,2\na,2026-03-02,2\n")
    with pytest.raises(ContractBroken, match="unique"):
        ingest(session, HOURLY, folder=tmp_path)


def test_freshness_is_asked_of_all_rows(tmp_path: Path, session: Session) -> None:
    table = msgspec.structs.replace(HOURLY, contract=Contract(fresh="2d"))
    put(tmp_path, "1.csv", "a,2026-03-03,1\n")
    ingest(session, table, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-01-01,1\n")
    assert ingest(session, table, folder=tmp_path).last_event == "2026-03-03T00:00:00", "a late file of old rows makes no table stale"
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=3))
    put(tmp_path, "3.csv", "a,2026-01-02,1\n")
    with pytest.raises(ContractBroken, match="fresh"):
        ingest(session, table, folder=tmp_path)


def test_a_value_that_widens_a_column_reads_everything_again(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    put(tmp_path, "1.csv", "7,2026-03-01,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "8,2026-03-02,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "3.csv", "B9,2026-03-02,1\n")
    third = ingest(session, HOURLY, folder=tmp_path)
    assert reads[1:] == [["2.csv"], ["3.csv"], ["1.csv", "2.csv", "3.csv"]]
    assert (third.previous, third.stored_types["store"]) == (None, "VARCHAR")
    put(tmp_path, "4.csv", "9,2026-03-03,1\n")
    fourth = ingest(session, HOURLY, folder=tmp_path)
    assert (fourth.previous, reads[4:]) == (third.id, [["4.csv"]])
    assert rows_of(session, HOURLY, tmp_path, "store, units", ingest=fourth, only=new_files(fourth, since=third)) == [("9", 1.0)]
    assert [row[0] for row in rows_of(session, HOURLY, tmp_path, "store", ingest=fourth)] == ["7", "8", "9", "B9"]


def test_a_column_without_values_may_become_something_later(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    table = Table("sales", "sales")
    put(tmp_path, "1.csv", "a,\n", header="store,price")
    first = ingest(session, table, folder=tmp_path)
    assert (first.stored_types["price"], rows_of(session, table, tmp_path, ingest=first)) == ("NULL", [("a", None)])
    put(tmp_path, "2.csv", "b,\n", header="store,price")
    assert ingest(session, table, folder=tmp_path).previous == first.id
    put(tmp_path, "3.csv", "b,1.5\n", header="store,price")
    third = ingest(session, table, folder=tmp_path)
    assert (third.previous, third.stored_types["price"]) == (None, "DOUBLE")
    assert rows_of(session, table, tmp_path, "sum(price)", ingest=third) == [(1.5,)]


def test_a_new_file_with_other_columns_is_named(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    ingest(session, HOURLY, folder=tmp_path)
    put(tmp_path, "2.csv", "a,2026-03-02,1\n", header="store,day,unit")
    with pytest.raises(InvalidInput, match=r"2\.csv lacks \['units'\] and adds \['unit'\], compared with .*1\.csv"):
        ingest(session, HOURLY, folder=tmp_path)


@pytest.mark.parametrize(("later", "previous"), [(pa.int8(), True), (pa.int32(), True), (pa.int64(), False), (pa.float64(), False)])
def test_parquet_types_of_new_files_fit_or_all_are_read(tmp_path: Path, session: Session, later: pa.DataType, previous: bool) -> None:
    table = Table("sales", "sales")
    (tmp_path / "sales").mkdir()
    pq.write_table(pa.table({"x": pa.array([1], pa.int32()), "none": pa.nulls(1)}), tmp_path / "sales/1.parquet")
    first = ingest(session, table, folder=tmp_path)
    pq.write_table(pa.table({"none": pa.nulls(1), "x": pa.array([2], later)}), tmp_path / "sales/2.parquet")
    second = ingest(session, table, folder=tmp_path)
    assert second.previous == (first.id if previous else None)
    assert rows_of(session, table, tmp_path, "x, none", ingest=second) == [(1, None), (2, None)]
    assert rows_of(session, table, tmp_path, "typeof(x)", ingest=second, only=second.files[1:]) == [(second.stored_types["x"],)]


def test_parquet_text_in_a_new_file_names_both_files(tmp_path: Path, session: Session) -> None:
    table = Table("sales", "sales")
    (tmp_path / "sales").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "sales/1.parquet")
    ingest(session, table, folder=tmp_path)
    later = tmp_path / "sales/2.parquet"
    pq.write_table(pa.table({"x": ["1"]}), later)
    with pytest.raises(InvalidInput, match=r"column 'x' is integer in .*1\.parquet and text in .*2\.parquet"):
        ingest(session, table, folder=tmp_path)
    later.write_bytes(later.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match=r"2\.parquet: it is no Parquet file, or it is cut off"):
        ingest(session, table, folder=tmp_path)
    assert [record.status for record in list_ingests(session)] == ["accepted"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_partitions_of_new_files_are_read_as_the_old_ones(tmp_path: Path, session: Session, form: str) -> None:
    table = Table("sales", "sales")

    def write(day: str, store: str) -> None:
        path = tmp_path / f"sales/day={day}/store={store}/a.{form}"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"x": [1]}), path) if form == "parquet" else path.write_text("x\n1\n")

    write("2026-01-01", "007")
    first = ingest(session, table, folder=tmp_path)
    write("2026-01-02", "8")
    second = ingest(session, table, folder=tmp_path)
    assert second.previous == first.id
    chosen = new_files(second, since=first)
    assert rows_of(session, table, tmp_path, "x, day, store", ingest=second, only=chosen) == [(1, date(2026, 1, 2), "8")]


# --- reading what an ingest let in


def test_an_ingest_is_read_though_files_have_come_since(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    path = put(tmp_path, "2.csv", "b,2026-03-01,nobody has looked at this\n")
    assert rows_of(session, HOURLY, tmp_path, "store, units", ingest=first) == [("a", 1.0)]
    path.unlink()
    put(tmp_path, "1.csv", "a,2026-03-01,2\n")
    with pytest.raises(InvalidInput, match=r"1\.csv is not as ingest '.*' found it"):
        rows_of(session, HOURLY, tmp_path, ingest=first)


def test_the_same_bytes_elsewhere_are_read_there(tmp_path: Path, session: Session) -> None:
    put(tmp_path / "one", "1.csv", "a,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path / "one")
    moved = (tmp_path / "one").rename(tmp_path / "two")
    assert rows_of(session, HOURLY, moved, "store, units", ingest=ingest(session, HOURLY, folder=moved)) == [("a", 1.0)]
    put(moved, "1.csv", "a,2026-03-01,2\n")
    with pytest.raises(InvalidInput, match="is not as ingest"):
        rows_of(session, HOURLY, moved, ingest=first)


def test_a_refused_ingest_is_not_read(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,-1\n")
    with pytest.raises(ContractBroken):
        ingest(session, HOURLY, folder=tmp_path)
    with pytest.raises(InvalidInput, match="was refused; nothing may be read of it"):
        rows_of(session, HOURLY, tmp_path, ingest=list_ingests(session)[0])


def test_only_asks_for_files_that_are_there(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    with pytest.raises(InvalidInput, match="is to be read without any file"):
        rows_of(session, HOURLY, tmp_path, ingest=first, only=())
    with pytest.raises(InvalidInput, match=r"lacks .*1\.csv as it was"):
        rows_of(session, HOURLY, tmp_path, ingest=first, only=[msgspec.structs.replace(first.files[0], sha256="0" * 64)])


def test_a_file_by_another_name_is_not_new(tmp_path: Path, session: Session, reads: list[list[str]]) -> None:
    path = put(tmp_path, "1.csv", "a,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    path.rename(path.with_name("2.csv"))
    put(tmp_path, "3.csv", "a,2026-03-02,1\n")
    second = ingest(session, HOURLY, folder=tmp_path)
    assert (reads[1:], names(new_files(second, since=first)), gone_files(second, since=first)) == ([["3.csv"]], ["3.csv"], ())
    put(tmp_path, "4.csv", "a,2026-03-02,1\n")
    third = ingest(session, HOURLY, folder=tmp_path)
    assert len(new_files(third, since=second)) == 1, "the same rows twice are two files"
    assert (third.n_rows, len(rows_of(session, HOURLY, tmp_path, ingest=third, only=new_files(third, since=second)))) == (3, 1)


def test_types_of_an_ingest_spare_the_look_at_values(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "1.csv", "007,2026-03-01,1\n")
    first = ingest(session, HOURLY, folder=tmp_path)
    # Read by itself this number would be one; as part of its table it is a code.
    put(tmp_path, "2.csv", "12,2026-03-02,1\n")
    second = ingest(session, HOURLY, folder=tmp_path)
    assert rows_of(session, HOURLY, tmp_path, "store", ingest=second, only=new_files(second, since=first)) == [("12",)]
    assert rows_of(session, HOURLY, tmp_path, "store", only=new_files(second, since=first)) == [(12,)]


cells = st.sampled_from(["", "1", "2.5", "007", "x", "2026-01-01", "true"])
steps = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.lists(st.tuples(st.integers(0, 2), cells), max_size=3))), min_size=1, max_size=6
)


@settings(max_examples=10, deadline=None)
@given(steps)
def test_however_a_folder_grows_it_is_read_as_from_scratch(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, Any]]) -> None:
    """Files come, change and go; after each step records and rows are those of a first look, and new and gone files make the difference."""
    folder, session, table = tmp_path_factory.mktemp("grown"), make_session(start=NOW), Table("sales", "sales")
    before: Ingest | None = None
    for number, rows in steps:
        path = folder / "sales" / f"{number}.csv"
        if rows is None:
            path.unlink(missing_ok=True)
        else:
            put(folder, path.name, "".join(f"{store},{cell}\n" for store, cell in rows), header="store,cell")
        if not any((folder / "sales").glob("*")):
            continue
        grown, scratch = ingest(session, table, folder=folder), ingest(make_session(start=NOW), table, folder=folder)
        assert (grown.identity, grown.n_rows, grown.first_event, grown.last_event) == (scratch.identity, scratch.n_rows, None, None)
        assert [f.n_rows for f in grown.facts] == [f.n_rows for f in scratch.facts]
        as_text = "store::VARCHAR, cell::VARCHAR"
        assert rows_of(session, table, folder, as_text, ingest=grown) == rows_of(session, table, folder, as_text, ingest=grown, only=grown.files)
        came, went = set(new_files(grown, since=before)), set(gone_files(grown, since=before))
        kept = Counter(f.sha256 for f in (before.files if before else ())) - Counter(f.sha256 for f in went)
        assert kept + Counter(f.sha256 for f in came) == Counter(f.sha256 for f in grown.files)
        before = grown
