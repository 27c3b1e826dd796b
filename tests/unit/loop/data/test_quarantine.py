"""Bad rows are put aside with their reasons, and nothing downstream sees them."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
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
from endcap.core.errors import ContractBroken, DefinitionError, InvalidInput, NotFound
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.data import verbs
from endcap.loop.data.digests import digest_file
from endcap.loop.data.engine import open_engine
from endcap.loop.data.file_sets import new_files
from endcap.loop.data.ingested import open_ingested, read_quarantined
from endcap.loop.data.records import QUARANTINE, Ingest
from endcap.loop.data.sources import open_source
from endcap.loop.data.verbs import deliver_quarantine, ingest, list_ingests
from endcap.testing.sessions import make_session

NOW = datetime(2026, 3, 3, 12, tzinfo=UTC)
UNITS = Check(type="number", nulls=False, least=0, most=100)


def table_of(quarantine: float | None = 0.5, **contract: Any) -> Table:
    given = {"columns": {"units": UNITS}, "unique": ("store", "day"), **contract}
    return Table("sales", "sales", keys=("store",), event_time="day", contract=Contract(quarantine=quarantine, **given))


@pytest.fixture
def session() -> Session:
    return make_session(start=NOW)


def put(folder: Path, rows: str, name: str = "1.csv", header: str = "store,day,units") -> Path:
    path = folder / "sales" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{header}\n{rows}".encode() if isinstance(rows, str) else rows)
    return path


def seen(session: Session, table: Table, record: Ingest, folder: Path, what: str = "store, units", **options: Any) -> list[tuple[Any, ...]]:
    with open_engine(n_threads=2) as engine:
        source = open_ingested(session, table, record, folder=folder, engine=engine, **options)
        return engine.execute(f"SELECT {what} FROM ({source.sql}) ORDER BY ALL").fetchall()


GOOD = "".join(f"g{i},2026-02-{1 + i % 28:02},{i % 7}\n" for i in range(40))


@pytest.mark.parametrize(
    ("bad", "reasons"),
    [
        ("a,2026-03-01,x\n", {"type: column 'units' is not number": 1}),
        ("a,2026-03-01,\n", {"nulls: column 'units' is missing": 1}),
        ("a,2026-03-01,-1\nb,2026-03-01,101\n", {"least: column 'units' is below 0": 1, "most: column 'units' is above 100": 1}),
        ("a,2026-03-01,inf\n", {"infinite: column 'units' is infinite": 1, "most: column 'units' is above 100": 1}),
        ("a,2026-03-04,1\n", {"future: event time is in the future": 1}),
        ("a,yesterday,1\n", {"event_time: event time 'day' is no time": 1}),
        ("a,2026-03-01,1\na,2026-03-01,2\n", {"unique: ['store', 'day'] occur more than once": 2}),
        ("a,2026-03-01,1,9\n", {"line: it has 4 columns where the header has 3": 1}),
        ("a,2026-03-01\n", {"line: it has 2 columns where the header has 3": 1}),
        ('a,"2026"-03-01,1\n', {"line: its quotes do not fit": 1}),
        ("a,2026-03-04,-1\n", {"future: event time is in the future": 1, "least: column 'units' is below 0": 1}),
    ],
)
def test_a_bad_row_is_put_aside_with_every_reason(tmp_path: Path, session: Session, bad: str, reasons: dict[str, int]) -> None:
    half = len(GOOD.splitlines()) // 2
    lines = GOOD.splitlines(keepends=True)
    path = put(tmp_path, "".join(lines[:half]) + bad + "".join(lines[half:]))
    record = ingest(session, table_of(), folder=tmp_path)
    n_bad = len(bad.splitlines())
    assert (record.status, record.n_rows, record.n_rows_read, record.n_quarantined) == ("accepted", 40, 40 + n_bad, n_bad)
    assert [facts.n_quarantined for facts in record.facts] == [n_bad]
    view = deliver_quarantine(session, "sales", out=tmp_path / "out/rows.csv")
    assert (view.n_rows, view.reasons) == (n_bad, reasons)
    assert {row["__file"] for row in view.sample} == {str(path)}
    assert seen(session, table_of(), record, tmp_path) == sorted((f"g{i}", float(i % 7)) for i in range(40))
    assert {check.n_rows for check in record.quarantined} <= set(reasons.values()) | {n_bad}
    assert record.stored_types["units"] == "DOUBLE", "the type is what it promised, as though the bad rows had never been"
    assert all(column.n == 40 for column in record.profile)


@pytest.mark.parametrize(
    ("promised", "good", "bad", "stored"),
    [
        ("integer", "1", "1.5", "BIGINT"),
        ("date", "2026-01-01", "2026-01-01 10:00", "DATE"),
        ("timestamp", "2026-01-01T10:00+01:00", "then", "TIMESTAMP WITH TIME ZONE"),
        ("bool", "true", "2", "BOOLEAN"),
        (None, "1", "", "BIGINT"),
    ],
)
def test_types_are_those_of_the_rows_that_are_left(tmp_path: Path, session: Session, promised: str | None, good: str, bad: str, stored: str) -> None:
    table = Table("sales", "sales", contract=Contract(columns={"x": Check(type=promised, nulls=False)}, quarantine=0.5))
    put(tmp_path, f"a,{good}\na,{bad}\nb,{good}\n", header="store,x")
    record = ingest(session, table, folder=tmp_path)
    assert (record.n_quarantined, record.stored_types["x"]) == (1, stored)
    assert seen(session, table, record, tmp_path, "store, typeof(x)") == [("a", stored), ("b", stored)]


def test_what_is_delivered_tells_file_line_reasons_and_the_row(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-01,-1\n" + "torn,line\n" + '"q ""x""",2026-03-01,007x\n')
    ingest(session, table_of(), folder=tmp_path)
    out = tmp_path / "rows.csv"
    view = deliver_quarantine(session, "sales", out=out)
    assert view.path == str(out)
    with out.open(encoding="utf-8", newline="") as stream:
        rows = {row["store"] or row["__text"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {"a", "torn,line", 'q "x"'}
    assert rows['q "x"'] | {"__file": ""} == {
        "__file": "",
        "__row": "",
        "__line": "",
        "__reasons": "type: column 'units' is not number",
        "__text": "",
        "store": 'q "x"',
        "day": "2026-03-01",
        "units": "007x",
    }
    assert (rows["torn,line"]["__line"], rows["torn,line"]["__reasons"]) == ("43", "line: it has 2 columns where the header has 3")
    deliver_quarantine(session, "sales", out=tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 3
    with pytest.raises(InvalidInput, match="is a folder"):
        deliver_quarantine(session, "sales", out=tmp_path)
    assert list(tmp_path.glob(".*.part")) == []


def test_parquet_rows_are_put_aside_by_their_number(tmp_path: Path, session: Session) -> None:
    (tmp_path / "sales").mkdir()
    rows = {"store": ["a", "b", "c", "d"], "day": [datetime(2026, 3, 1)] * 4, "units": [1.0, -1.0, float("nan"), 4.0]}  # noqa: DTZ001 - naive is the case
    pq.write_table(pa.table(rows), tmp_path / "sales/1.parquet")
    record = ingest(session, table_of(), folder=tmp_path)
    kept = read_quarantined(session, "sales", record.id)
    assert kept.select(["__row", "__line", "__reasons", "store", "units"]).to_pylist() == [
        {"__row": 1, "__line": None, "__reasons": ["least: column 'units' is below 0"], "store": "b", "units": "-1.0"},
        {"__row": 2, "__line": None, "__reasons": ["nulls: column 'units' is missing"], "store": "c", "units": "nan"},
    ]
    assert seen(session, table_of(), record, tmp_path) == [("a", 1.0), ("d", 4.0)]


def test_above_the_share_the_batch_is_refused_whole(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-01,-1\nb,2026-03-01\n")
    with pytest.raises(ContractBroken) as raised:
        ingest(session, table_of(0.04), folder=tmp_path)
    message = str(raised.value)
    assert (
        "breaks 2 promises of its contract; nothing was accepted, since 2 of 42 rows are bad (4.76%) and at most 4.00% may be put aside:" in message
    )
    assert "- least: column 'units' is below 0 in 1 of 42 rows, such as store=a" in message
    assert "- line: the line does not fit the header in 1 of 42 rows, such as file=" in message
    (record,) = list_ingests(session)
    assert (record.status, record.n_quarantined, record.facts) == ("refused", 0, ())
    assert session.tables.partitions(QUARANTINE) == []
    assert ingest(session, table_of(2 / 42), folder=tmp_path).n_quarantined == 2, "as many as the share allows"


def test_without_a_quarantine_a_bad_line_stops_the_batch(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "b,2026-03-01\n")
    with pytest.raises(InvalidInput, match=r"line 42 of .*1\.csv cannot be read: it has 2 columns where the header has 3"):
        ingest(session, table_of(None), folder=tmp_path)


@pytest.mark.parametrize("n", [30, 30_000])
def test_an_open_quote_stops_the_batch_even_so(tmp_path: Path, session: Session, n: int) -> None:
    """What follows an open quote is in no row and in no bad line: nobody can say what was lost."""
    lines = "".join(f"g{i},2026-02-01,1\n" for i in range(n))
    put(tmp_path, lines + 'a,"2026-03-01,1\n' + lines)
    with pytest.raises(InvalidInput, match=r"1\.csv cannot be taken apart into rows.*a quote is opened and not closed"):
        ingest(session, table_of(1.0, unique=None), folder=tmp_path)
    assert session.tables.partitions(QUARANTINE) == []


def test_what_is_wrong_with_the_table_itself_is_not_put_aside(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "a,2026-01-01,1\nb,2026-01-01,-1\n")
    with pytest.raises(ContractBroken, match="fresh: the newest row is older"):
        ingest(session, table_of(fresh="2d"), folder=tmp_path)
    with pytest.raises(ContractBroken, match="missing: column 'price' is not there"):
        ingest(session, table_of(columns={"price": Check(), "units": UNITS}), folder=tmp_path)
    assert session.tables.partitions(QUARANTINE) == []


def test_a_bad_row_does_not_take_its_good_twin_along(tmp_path: Path, session: Session) -> None:
    put(tmp_path, "a,2026-03-01,-1\na,2026-03-01,5\nb,2026-03-01,1\nb,2026-03-01,1\nc,2026-03-01,1\n")
    record = ingest(session, table_of(0.9), folder=tmp_path)
    assert seen(session, table_of(0.9), record, tmp_path) == [("a", 5.0), ("c", 1.0)]
    assert deliver_quarantine(session, "sales").reasons == {"unique: ['store', 'day'] occur more than once": 2, "least: column 'units' is below 0": 1}


def test_what_was_the_future_stays_aside_when_it_has_come(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-04,1\n")
    first = ingest(session, table_of(), folder=tmp_path)
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(days=30))
    put(tmp_path, "b,2026-03-20,1\nc,2026-09-01,1\n", "2.csv")
    second = ingest(session, table_of(), folder=tmp_path)
    assert second.previous == first.id
    assert (second.n_rows, second.n_quarantined, [facts.n_quarantined for facts in second.facts]) == (41, 1, [1, 1])
    stores = [row[0] for row in seen(session, table_of(), second, tmp_path)]
    assert (len(stores), "a" in stores, "b" in stores, "c" in stores) == (41, False, True, False)
    assert seen(session, table_of(), second, tmp_path, only=new_files(second, since=first)) == [("b", 1.0)]
    assert deliver_quarantine(session, "sales").n_rows == 2
    assert deliver_quarantine(session, "sales", ingest=second.id).n_rows == 1


def test_a_quarantine_follows_its_file_to_another_name(tmp_path: Path, session: Session) -> None:
    path = put(tmp_path, GOOD + "a,2026-03-01,-1\nb,torn\n")
    first = ingest(session, table_of(), folder=tmp_path)
    path.rename(path.with_name("9.csv"))
    again = ingest(session, table_of(), folder=tmp_path)
    assert again == first
    assert len(seen(session, table_of(), again, tmp_path)) == 40
    put(tmp_path, "z,2026-03-01,1\n", "2.csv")
    second = ingest(session, table_of(), folder=tmp_path)
    assert (second.previous, second.n_rows, len(seen(session, table_of(), second, tmp_path))) == (first.id, 41, 41)


def test_bad_rows_cannot_be_read_by_forgetting_the_ingest(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-01,-1\n")
    record = ingest(session, table_of(), folder=tmp_path)
    with open_engine(n_threads=1) as engine:
        for given in ({}, {"ingest": record}):
            with pytest.raises(InvalidInput, match="puts bad rows aside, and which ones only its ingest knows"):
                open_source(table_of(), folder=tmp_path, zone="UTC", engine=engine, digests=lambda path: digest_file(session, path), **given)


def test_the_audit_counts_what_was_put_aside(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-01,-1\n")
    ingest(session, table_of(), folder=tmp_path)
    (row,) = list_audit(session)
    assert (row.detail["status"], row.detail["n_rows"], row.detail["n_rows_read"], row.detail["n_quarantined"]) == ("accepted", 40, 41, 1)


def test_who_comes_second_leaves_no_rows_behind(tmp_path: Path, session: Session) -> None:
    put(tmp_path, GOOD + "a,2026-03-01,-1\n")
    standing = ingest(session, table_of(), folder=tmp_path)
    late = msgspec.structs.replace(standing, id="late")
    rows = read_quarantined(session, "sales", standing.id)
    assert verbs._write(session, late, bad=rows) == standing
    assert [found["ingest"] for found in session.tables.partitions(QUARANTINE)] == [standing.id]


def test_nothing_put_aside_and_nothing_known(tmp_path: Path, session: Session) -> None:
    with pytest.raises(NotFound, match="Table 'sales' has no accepted ingest"):
        deliver_quarantine(session, "sales")
    put(tmp_path, GOOD)
    record = ingest(session, table_of(), folder=tmp_path)
    view = deliver_quarantine(session, "sales", out=tmp_path / "none.csv")
    assert (record.n_quarantined, view.n_rows, view.reasons, view.sample) == (0, 0, {}, [])
    assert (tmp_path / "none.csv").read_text().startswith('"__file","__row","__line"')


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(DefinitionError, match="it is a share of rows, above 0 and at most 1"):
        Contract(quarantine=share)


values = st.sampled_from(["1", "2", "-1", "x", "", "inf", "007", "101"])
days = st.sampled_from(["2026-03-01", "2026-03-02", "2026-03-09", "soon", ""])
stores = st.sampled_from(["a", "b", "c", "é", 'q"x', "n\nl"])
plain = st.sampled_from(["a", "b", "é", 'q"x'])
rows = st.one_of(st.tuples(stores, days, values), st.tuples(plain, days), st.tuples(plain, days, values, st.just("9")))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(rows, max_size=12), min_size=1, max_size=3))
def test_rows_seen_and_rows_put_aside_are_the_rows_of_the_files(tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[str, ...]]]) -> None:
    """None twice, none lost, and each put aside for what an obvious reading of the contract says."""
    folder, session, table = tmp_path_factory.mktemp("aside"), make_session(start=NOW), table_of(1.0)
    for number, content in enumerate(files):
        path = folder / "sales" / f"{number}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerows([("store", "day", "units"), *content])
    record = ingest(session, table, folder=folder)
    kept = [row for content in files for row in content]
    fits = [row for row in kept if len(row) == 3]

    def is_good(row: tuple[str, ...]) -> bool:
        return row[1] in ("2026-03-01", "2026-03-02", "") and row[2] in ("1", "2", "007")

    sound = Counter((row[0], row[1]) for row in fits if is_good(row) and row[1])
    good = [row for row in fits if is_good(row) and (not row[1] or sound[row[0], row[1]] == 1)]
    got = seen(session, table, record, folder, "store, CAST(day AS VARCHAR), units")
    assert Counter(got) == Counter((store, day or None, float(units)) for store, day, units in good)
    assert (record.n_rows, record.n_quarantined, record.n_rows_read) == (len(good), len(kept) - len(good), len(kept))
    aside = deliver_quarantine(session, "sales", out=folder / "aside.parquet")
    assert aside.n_rows == len(kept) - len(good)
    put_aside = (
        Counter(row["store"] for row in pq.read_table(folder / "aside.parquet").to_pylist() if row["__line"] is None) if aside.n_rows else Counter()
    )
    assert put_aside == Counter(row[0] for row in fits) - Counter(row[0] for row in good)
