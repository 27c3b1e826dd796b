"""Landing against its slow, obvious twin: whatever comes, changes and goes, what is kept is what a full read would give."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.definitions.tables import Table
from endcap.governance.sessions import Session
from endcap.loop.data.landing import land
from endcap.loop.data.records import INGESTS, FileIdentity, Ingest
from endcap.testing.connectors import FakeDatabase
from endcap.testing.sessions import make_session

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("number", pa.float64()), ("mark", pa.int64())])
OVERLAP = 4

# A turn: ids that are written, how far below the greatest mark of before each may lie, what they hold, and whether what came is accepted.
written = st.tuples(
    st.integers(0, 9), st.integers(-3, OVERLAP), st.sampled_from(["a", "b", None, "\0"]), st.sampled_from([0.0, 1.5, float("nan"), None])
)
equal = st.tuples(st.integers(0, 1), st.integers(0, 1), st.just("a"), st.just(0.0))  # rows that mostly are alike
repeated = st.lists(st.tuples(st.lists(equal, max_size=5), st.booleans()), min_size=2, max_size=5)
turns = st.lists(st.tuples(st.lists(written, max_size=5), st.booleans()), min_size=1, max_size=6)


@contextmanager
def home() -> Iterator[Session]:
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(Path(folder) / "home")
        yield session
        session.ports.close()


def accept(session: Session, paths: tuple[Path, ...], n: int) -> None:
    record = Ingest(
        id=f"ingest_{n}",
        table="orders",
        definition="d",
        identity=f"i{n}",
        at=datetime(2026, 1, 5, tzinfo=UTC),
        status="accepted",
        files=tuple(FileIdentity(str(path), 0, 0, 0, "") for path in paths),
        n_rows=0,
        first_event=None,
        last_event=None,
        profile=(),
        broken=(),
        wall_s=0.0,
    )
    with session.records.transact() as tx:
        tx.append(INGESTS, workspace=session.workspace, record=record)


def kept(paths: tuple[Path, ...]) -> Counter[str]:
    return Counter(repr(row) for path in paths for row in pq.read_table(path).to_pylist())


def held(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(row) for row in rows)


@settings(max_examples=12, deadline=None)
@given(turns=turns)
def test_a_table_is_what_the_relation_is(turns: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
    """Rows are inserted and changed, the marks of the late ones within the overlap; each visit may be refused."""
    table = Table("orders", "$SHOP", relation="public.orders", watermark="mark", overlap=OVERLAP)
    database, top = FakeDatabase(SCHEMA, key=["id"], batch_rows=2), 0
    with home() as session:
        for n, (changes, accepted) in enumerate(turns):
            standing = {row["id"]: row for row in database.rows}
            for id_, below, text, number in changes:
                standing[id_] = {"id": id_, "text": text, "number": number, "mark": top - below}
            database.rows = list(standing.values())
            files = land(session, table, database, zone="UTC")
            assert kept(files.paths) == held(database.rows)
            if accepted:
                accept(session, files.paths, n)
                top = max((row["mark"] for row in database.rows), default=top)


@settings(max_examples=12, deadline=None)
@given(turns=repeated)
def test_a_table_without_a_key_has_each_row_as_often_as_the_relation(turns: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
    """Rows are only inserted, equal ones too."""
    table = Table("orders", "$SHOP", relation="public.orders", watermark="mark", overlap=OVERLAP)
    database, top = FakeDatabase(SCHEMA, batch_rows=2), 0
    with home() as session:
        for n, (changes, accepted) in enumerate(turns):
            database.rows += [{"id": id_, "text": text, "number": number, "mark": top - below} for id_, below, text, number in changes]
            files = land(session, table, database, zone="UTC")
            assert kept(files.paths) == held(database.rows)
            if accepted:
                accept(session, files.paths, n)
                top = max((row["mark"] for row in database.rows), default=top)


@settings(max_examples=12, deadline=None)
@given(turns=turns)
def test_a_table_of_versions_has_every_row_that_was_there_at_an_accepted_visit(turns: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
    table = Table("orders", "$SHOP", relation="public.orders", watermark="mark", overlap=OVERLAP, known_at="mark")
    database, top = FakeDatabase(SCHEMA, key=["id"], batch_rows=2), 0
    versions: Counter[str] = Counter()
    with home() as session:
        for n, (changes, accepted) in enumerate(turns):
            standing = {row["id"]: row for row in database.rows}
            for id_, below, text, number in changes:
                standing[id_] = {"id": id_, "text": text, "number": number, "mark": top - below}
            database.rows = list(standing.values())
            files = land(session, table, database, zone="UTC")
            assert kept(files.paths) == versions | held(database.rows)
            if accepted:
                accept(session, files.paths, n)
                versions |= held(database.rows)
                top = max((row["mark"] for row in database.rows), default=top)


@settings(max_examples=12, deadline=None)
@given(turns=turns)
def test_a_relation_that_is_read_whole_keeps_its_files_where_its_rows_are_the_same(turns: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
    table = Table("orders", "$SHOP", relation="public.orders")
    database = FakeDatabase(SCHEMA, batch_rows=2)
    before: tuple[Counter[str], tuple[Path, ...]] | None = None
    with home() as session:
        for n, (changes, accepted) in enumerate(turns):
            database.rows = [{"id": id_, "text": text, "number": number, "mark": below} for id_, below, text, number in reversed(changes)]
            files = land(session, table, database, zone="UTC")
            now = held(database.rows)
            assert kept(files.paths) == now
            assert before is None or (before[0] == now) == (before[1] == files.paths)
            before = now, files.paths
            if accepted:
                accept(session, files.paths, n)
