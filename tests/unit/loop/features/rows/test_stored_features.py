"""Features read from where they stand, beside the same read by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.definitions.feature_views import FeatureView
from endcap.core.definitions.tables import Contract, Table
from endcap.core.errors import InvalidInput
from endcap.loop.data.engine import open_engine
from endcap.loop.features.rows.stored_features import read_stored
from endcap.loop.features.rows.view_rows import FeatureRows, open_view
from endcap.loop.features.view_joins import Fetched, ask, choose_features, fetch_features
from endcap.testing.sessions import make_session

if TYPE_CHECKING:
    import duckdb

    from endcap.governance.sessions import Session

START = datetime(2026, 1, 5)  # noqa: DTZ001 - plain UTC, as instants of feature rows are
N = 97
TYPES: dict[str, tuple[pa.DataType, Any]] = {
    "flag": (pa.bool_(), lambda i: i % 3 == 0),
    "tiny": (pa.int8(), lambda i: i % 250 - 120),
    "small": (pa.uint16(), lambda i: i * 600),
    "whole": (pa.int64(), lambda i: -(2**60) + i),
    "narrow": (pa.float32(), lambda i: i / 7),
    "number": (pa.float64(), lambda i: [float("nan"), -0.0, float("inf"), i / 3][i % 4]),
    "text": (pa.string(), lambda i: "é" * (i % 5) + str(i)),
    "long": (pa.large_string(), lambda i: str(i) * 30),
    "day": (pa.date32(), lambda i: date(1969, 12, 1) + timedelta(days=i)),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=1) as opened:
        yield opened


@pytest.fixture
def session() -> Session:
    return make_session(start=datetime(2026, 12, 1, tzinfo=UTC))


def make_rows(first: int, n: int, *, nulls: bool) -> pa.Table:
    numbers = range(first, first + n)
    columns = {"k": pa.array([i % 5 for i in numbers]), "at": pa.array([START + timedelta(minutes=i // 2) for i in numbers], pa.timestamp("us"))}
    given = {name: [None if nulls and i % 11 == 3 else value(i) for i in numbers] for name, (_, value) in TYPES.items()}
    return pa.table(columns | {name: pa.array(values, TYPES[name][0]) for name, values in given.items()})


def open_rows(folder: Path, session: Session, engine: duckdb.DuckDBPyConnection, **fields: Any) -> FeatureRows:
    source = Table("t", "t", **{"keys": ("k",), "event_time": "at", "zone": "UTC", "contract": Contract(future=True), **fields})
    return open_view(session, FeatureView(name="v", source=source, features=list(TYPES)), folder=folder, engine=engine)  # type: ignore[arg-type]  # lists


def write(folder: Path, *parts: pa.Table, group: int = 10) -> None:
    (folder / "t").mkdir(exist_ok=True)
    for i, part in enumerate(parts):
        pq.write_table(part, folder / "t" / f"{i}.parquet", row_group_size=group)


def fetch(rows: FeatureRows, *, block: int | None = None) -> list[pa.Table]:
    n = 60
    spine = pa.table({"k": [i % 6 for i in range(n)]})
    at = np.array([round((START + timedelta(minutes=i)).replace(tzinfo=UTC).timestamp() * 1_000_000) for i in range(n)])
    asked = ask(spine, at=at, there=np.arange(n) % 7 != 2, stored=rows.stored_types, name="asked", engine=rows.engine)
    chosen = choose_features(rows, rows.sql, asked, max_age=None)
    found: list[Fetched] = []
    for start in range(0, n, block or n):
        found.append(fetch_features(rows, rows.sql, asked, chosen, start=start, stop=min(start + (block or n), n), n_threads=2))
    return [pa.table(part.take(0, len(part.numbers))) for part in found]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("parts", [(N,), (30, 1, 66)])
@pytest.mark.parametrize("block", [None, 17])
def test_features_that_stand_in_files_are_those_that_the_engine_reads(
    tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection, nulls: bool, parts: tuple[int, ...], block: int | None
) -> None:
    firsts = [sum(parts[:i]) for i in range(len(parts))]
    write(tmp_path, *(make_rows(first, n, nulls=nulls) for first, n in zip(firsts, parts, strict=True)))
    rows = open_rows(tmp_path, session, engine)
    assert rows.standing is not None
    own, theirs = pa.concat_tables(fetch(rows, block=block)), pa.concat_tables(fetch(replace(rows, standing=None), block=block))
    assert own.schema == theirs.schema == pa.schema({name: type_ for name, (type_, _) in TYPES.items()} | {"long": pa.string()})
    assert repr(own.to_pylist()) == repr(theirs.to_pylist())
    assert 0 < own["whole"].null_count < len(own), "some rows find something, and some do not"


def test_what_is_derived_or_lies_in_another_form_does_not_stand_in_files(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    made = make_rows(0, N, nulls=False)
    write(tmp_path, made)
    derived = {"columns": {"double": "whole * 2"}, "keys": ("k",), "event_time": "at", "zone": "UTC", "contract": Contract(future=True)}
    source = Table("t", "t", **derived)  # type: ignore[arg-type]  # of several types
    for features in (["double"], {"x": "number + 1"}, {"when": "at"}):
        view = FeatureView(name="v", source=source, features=features)  # type: ignore[arg-type]  # lists are taken
        assert open_view(session, view, folder=tmp_path, engine=engine).standing is None
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "t.csv").write_text("k,at,x\n1,2026-01-05T00:00:00,2\n")
    csv = FeatureView(name="v", source=Table("c", "c/t.csv", keys=("k",), event_time="at", zone="UTC"), features=["x"])  # type: ignore[arg-type]
    assert open_view(session, csv, folder=tmp_path, engine=engine).standing is None


def test_a_file_that_holds_a_column_in_another_type_is_read_by_the_engine(
    tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection
) -> None:
    other = make_rows(0, 50, nulls=False)
    place = other.column_names.index("number")
    other = other.set_column(place, "number", pa.array(range(50), pa.int64()))
    write(tmp_path, other, make_rows(50, 47, nulls=True))
    rows = open_rows(tmp_path, session, engine)
    assert rows.standing is not None
    assert read_stored(rows.standing, np.array([(1 << 40) + 3, (2 << 40) + 5])) is None
    own, theirs = fetch(rows), fetch(replace(rows, standing=None))
    assert repr(own[0].to_pylist()) == repr(theirs[0].to_pylist())


def test_a_file_that_changes_between_the_readings_is_noticed(tmp_path: Path, session: Session, engine: duckdb.DuckDBPyConnection) -> None:
    write(tmp_path, make_rows(0, N, nulls=False))
    rows = open_rows(tmp_path, session, engine)
    assert rows.standing is not None
    assert read_stored(rows.standing, np.array([0, N - 1]))["whole"].to_pylist() == [-(2**60), -(2**60) + N - 1]  # type: ignore[index]  # it stands there
    for n in (40, N):  # fewer rows, and other rows
        write(tmp_path, make_rows(3, n, nulls=False))
        with pytest.raises(InvalidInput, match="changed while it was read"):
            read_stored(rows.standing, np.array([0, N - 1]))
    (tmp_path / "t" / "0.parquet").write_bytes(b"no such file")
    with pytest.raises(InvalidInput, match="changed while it was read"):
        read_stored(rows.standing, np.array([0]))
