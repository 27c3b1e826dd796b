from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.privacy import opened_rows, sealing
from endcap.governance.privacy.sealing import Mark, mark_personal
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.storage import parquet
from endcap.testing.sessions import make_session

N, GROUP = 1_000, 100
MARKS = dict.fromkeys(("email", "age"), Mark("customer", "customer"))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and row groups of 100 rows, so that a small table has many."""
    for module in (sealing, parquet):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", GROUP)


def people(n: int = N, *, first: int = 0, seed: int = 0) -> pa.Table:
    ids = np.random.default_rng(seed).integers(0, 40, n)
    rows = {
        "customer": ids,
        "email": [None if i % 7 == 0 else f"person{i}@x" for i in ids.tolist()],
        "age": ids * 1.5,
        "n": np.arange(first, first + n),
    }
    return mark_personal(pa.table(rows), MARKS)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = make_session(tmp_path / "home")
    for part in range(2):
        made.tables.write("people", partition={"part": str(part)}, table=people(first=N * part, seed=part))
    yield made
    made.ports.close()


@pytest.fixture
def plain() -> pads.Dataset:
    """The same rows as nobody ever sealed them."""
    return pads.dataset(pa.concat_tables([people(seed=0), people(first=N, seed=1)]))


FILTERS = [
    None,
    pc.field("n") > 1_850,
    pc.field("n") < 0,
    pc.field("customer") == 7,
    (pc.field("email") == "person3@x") & (pc.field("n") < 150),
    pc.field("email").is_null(),
    pc.field("age") > 30,
]
COLUMNS = [None, ["n"], ["email"], ["age", "customer"], [], {"twice": pc.field("age") * 2, "n": pc.field("n")}]


@pytest.mark.parametrize("columns", COLUMNS, ids=str)
@pytest.mark.parametrize("chosen", FILTERS, ids=str)
def test_any_scan_is_that_of_the_plain_rows(session: Session, plain: pads.Dataset, columns: object, chosen: pads.Expression | None) -> None:
    opened = session.tables.scan("people")
    found, expected = opened.to_table(columns=columns, filter=chosen), plain.to_table(columns=columns, filter=chosen)
    assert found.schema.equals(expected.schema)
    assert found.to_pylist() == expected.to_pylist()
    assert found.num_rows == expected.num_rows == opened.count_rows(filter=chosen)
    assert opened.scanner(columns=columns, filter=chosen).to_reader().read_all().to_pylist() == expected.to_pylist()


def test_the_engine_reads_it_as_any_dataset_and_as_often_as_it_likes(session: Session, plain: pads.Dataset) -> None:
    engine = duckdb.connect()
    engine.register("opened", session.tables.scan("people"))
    engine.register("plain", plain)
    for query in (
        "SELECT count(*), sum(age), count(DISTINCT email) FROM {0}",
        "SELECT * FROM {0} WHERE n BETWEEN 950 AND 1050 AND email LIKE 'person1%' ORDER BY n",
        "SELECT a.n, b.email FROM {0} a JOIN {0} b ON a.n = b.n + 1 WHERE b.customer = 3 ORDER BY a.n",
    ):
        assert engine.sql(query.format("opened")).fetchall() == engine.sql(query.format("plain")).fetchall()
    engine.close()


def test_no_more_is_opened_than_is_asked_for(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[str], int]] = []
    unseal = sealing.unseal_rows

    def watch(table: pa.Table, keys: sealing.KeyRing, **given: object) -> pa.Table:
        seen.append((table.num_rows, table.column_names, -1 if given["rows"] is None else len(given["rows"])))  # type: ignore[arg-type]
        return unseal(table, keys, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(opened_rows, "unseal_rows", watch)
    opened = session.tables.scan("people")
    assert opened.to_table(columns=["n", "customer"], filter=pc.field("n") > 3).num_rows == 2 * N - 4
    assert opened.count_rows() == 2 * N
    assert opened.head(5, columns=["n"]).num_rows == 5
    assert seen == [], "plain columns are read beside sealed ones"
    opened.to_table(columns=["age"], filter=pc.field("n") >= 2 * N - 5)
    assert seen == [(GROUP, ["age", "__subject_0"], 5)], "one row group, one column, the subjects of five rows"
    seen.clear()
    batches = opened.to_batches(columns=["email"])
    next(batches)
    assert len(seen) == 1, "a row group is opened when it is its turn"
    assert sum(batch.num_rows for batch in batches) == 2 * N - GROUP
    assert {n for n, _, _ in seen} == {GROUP}


def test_who_is_forgotten_is_missing_from_the_next_scan_on(session: Session) -> None:
    opened, subjects = session.tables.scan("people"), Subjects(session)
    assert opened.to_table(filter=pc.field("customer") == 3)["age"].null_count == 0
    with session.records.transact() as tx:
        subjects.put_shelves(tx, subjects.prepare_forgetting(subjects.name("customer", ["3"])))
    found = opened.to_table(filter=pc.field("customer") == 3)
    assert found.num_rows == found["age"].null_count == found["email"].null_count > 0
    assert opened.to_table(filter=pc.field("customer") == 4)["age"].null_count == 0


def test_partitions_of_other_columns_are_read_together(session: Session) -> None:
    bare = pa.table({"customer": [1], "n": [5_000], "more": ["x"]})
    session.tables.write("people", partition={"part": "2"}, table=bare)
    opened = session.tables.scan("people")
    assert opened.to_table(filter=pc.field("n") == 5_000).to_pylist() == [{"customer": 1, "email": None, "age": None, "n": 5_000, "more": "x"}]
    assert opened.to_table(columns=["more"])["more"].null_count == 2 * N
    assert session.tables.read("people", columns=["more", "age"])["age"].null_count == 1


def test_several_places_are_one_dataset_in_their_order(session: Session) -> None:
    found = session.tables.scan_all("people", partitions=[{"part": "1"}, {"part": "0"}]).to_table(columns=["n"])["n"].to_pylist()
    assert found == [*range(N, 2 * N), *range(N)]


def test_what_reads_past_the_scanner_finds_nothing(session: Session) -> None:
    opened = session.tables.scan("people")
    for read in (lambda: pads.dataset([opened, opened]).to_table(), lambda: [one.to_table() for one in opened.get_fragments()]):
        with pytest.raises(InvalidInput, match="through their scanner alone"):
            read()
    assert opened.filter(pc.field("n") < 5).filter(pc.field("n") > 2).to_table(columns=["n"])["n"].to_pylist() == [3, 4]
    with pytest.raises(pa.ArrowInvalid, match="No match"):
        opened.to_table(columns=["absent"])


def test_a_dataset_holds_nothing_of_who_made_it(session: Session) -> None:
    """As an error with its traceback would: an engine among the callers' names could never be let go of."""

    class Engine:
        pass

    def scan() -> tuple[pads.Dataset, weakref.ref[Engine]]:
        engine = Engine()
        return session.tables.scan("people"), weakref.ref(engine)

    opened, engine = scan()
    gc.collect()
    assert opened.count_rows()
    assert engine() is None


def test_rows_that_were_changed_at_rest_are_found_when_they_are_read(session: Session) -> None:
    raw = session.ports.tables.read("people", partition={"part": "0"})
    exchanged = pa.concat_tables([raw.slice(GROUP, GROUP), raw.slice(0, GROUP), raw.slice(2 * GROUP)])  # whole blocks of one file
    for broken in (
        exchanged,
        raw.slice(GROUP),
        raw.slice(1),
        pa.concat_tables([raw.slice(GROUP, GROUP), raw.slice(0, GROUP - 1)]),
        raw.slice(0, GROUP // 2),
    ):
        session.ports.tables.write("people", partition={"part": "0"}, table=broken)
        with pytest.raises(IntegrityBroken, match="do not open"):
            session.tables.scan("people").to_table()


def test_nothing_plain_is_written_while_it_is_read(session: Session, tmp_path: Path) -> None:
    before = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    session.tables.scan("people").to_table()
    session.tables.read("people")
    after = {path: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert not any(b"person1@x" in path.read_bytes() for path in after)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.text(max_size=3))), max_size=30), st.integers(1, 7), st.integers(0, 3))
def test_any_blocks_come_back(rows: list[tuple[int, str | None]], size: int, wanted: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (sealing, parquet):
            patch.setattr(module, "ROW_GROUP_ROWS", size)
        session = replace(make_session(), workspace="default")
        table = pa.table({"c": pa.array([row[0] for row in rows], pa.int64()), "t": pa.array([row[1] for row in rows], pa.string())})
        session.tables.write("rows", partition={"p": "0"}, table=mark_personal(table, {"t": Mark("c", "c")}))
        opened = session.tables.scan("rows")
        assert opened.to_table().to_pylist() == table.to_pylist()
        assert opened.to_table(filter=pc.field("c") == wanted).to_pylist() == [row for row in table.to_pylist() if row["c"] == wanted]
        session.ports.close()
