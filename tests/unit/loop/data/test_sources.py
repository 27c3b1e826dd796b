from __future__ import annotations

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.core.definitions.tables import Check, Contract, Table
from endcap.core.errors import InvalidInput
from endcap.core.settings import Settings
from endcap.loop.data.engine import open_engine
from endcap.loop.data.records import FileIdentity
from endcap.loop.data.sources import Source, open_source

if TYPE_CHECKING:
    import duckdb


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_engine(n_threads=2) as opened:
        yield opened


def identity(path: Path) -> FileIdentity:
    return FileIdentity(str(path), path.stat().st_size, 0, 0, "0" * 64)


def source_of(table: Table, folder: Path, engine: duckdb.DuckDBPyConnection, zone: str = "UTC") -> Source:
    return open_source(table, folder=folder, zone=zone, engine=engine, digests=identity)


def rows_of(source: Source, what: str = "*") -> list[tuple[Any, ...]]:
    return source.engine.execute(f"SELECT {what} FROM ({source.sql}) ORDER BY ALL").fetchall()


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


# --- CSV


def test_a_csv_column_takes_the_narrowest_type_that_all_values_fit(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    header = "i,n,code,long,d,t,z,b,s,empty,mixed\n"
    (tmp_path / "a.csv").write_text(
        header
        + "1,1.5,007,12345678901234567890,2026-01-02,2026-01-02 03:04,2026-01-02T03:04+02:00,true,x,,1\n"
        + "-2,3,12,1,2026-1-3,2026-01-02,2026-01-02T03:04:05Z,False,1,,x\n"
    )
    source = source_of(Table("t", "a.csv"), tmp_path, engine)
    assert source.columns == {
        "i": "integer",
        "n": "number",
        "code": "text",
        "long": "text",
        "d": "date",
        "t": "timestamp",
        "z": "timestamp",
        "b": "bool",
        "s": "text",
        "empty": "text",
        "mixed": "text",
    }
    assert rows_of(source, "i, n, code, d, CAST(z AS VARCHAR)") == [
        (-2, 3.0, "12", date(2026, 1, 3), "2026-01-02 03:04:05+00"),
        (1, 1.5, "007", date(2026, 1, 2), "2026-01-02 01:04:00+00"),
    ]


def test_a_late_value_still_decides_the_type(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 30_000 + "1.5,oops\n")
    source = source_of(Table("t", "a.csv"), tmp_path, engine)
    assert source.columns == {"x": "number", "y": "text"}
    assert rows_of(source, "sum(x), max(y)") == [(30_001.5, "oops")]


def test_a_promise_decides_how_a_csv_column_is_read(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("code,units,flag,none,part\n12,007,1,,1.0\n13,1,0,,2\n")
    promised = {"code": "text", "units": "integer", "flag": "bool", "none": "number", "part": "integer"}
    table = Table("t", "a.csv", contract=Contract(columns={name: Check(type=type_) for name, type_ in promised.items()}))
    source = source_of(table, tmp_path, engine)
    assert source.columns == promised
    assert rows_of(source) == [("12", 7, True, None, 1), ("13", 1, False, None, 2)]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("|", "a.csv"), ("\t", "a.csv"), ("\t", "a.tsv")])
def test_the_delimiter_is_found(tmp_path: Path, engine: duckdb.DuckDBPyConnection, delimiter: str, name: str) -> None:
    (tmp_path / name).write_text(delimiter.join(["store", '"a ""b"', "units\n"]).replace('"a ""b"', '"a ""b"""') + delimiter.join("xyz") + "\n")
    assert list(source_of(Table("t", name), tmp_path, engine).columns) == ["store", 'a "b"', "units"]


def test_compressed_and_marked_csv_is_read(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x,y\r\n1,2\r\n"))
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbfx,y\n3,4\n")
    assert rows_of(source_of(Table("t", "a.csv.gz"), tmp_path, engine)) == [(1, 2)]
    assert rows_of(source_of(Table("t", "b.csv"), tmp_path, engine)) == [(3, 4)]


def test_csv_files_agree_by_name_not_by_place(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,a\n")
    (tmp_path / "b.csv").write_text("y;x\nb;2.5\n")
    (tmp_path / "c.csv").write_text("x,y\n")
    source = source_of(Table("t", "."), tmp_path, engine)
    assert source.columns == {"x": "number", "y": "text"}
    assert rows_of(source) == [(1.0, "a"), (2.5, "b")]


def test_a_csv_whose_columns_differ_is_named(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,a\n")
    (tmp_path / "b.csv").write_text("x,z\n1,a\n")
    with pytest.raises(InvalidInput, match=r"b\.csv lacks \['y'\] and adds \['z'\], compared with .*a\.csv"):
        source_of(Table("t", "."), tmp_path, engine)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("1,2,3\n", "it has 3 columns where the header has 2"),
        ("1\n", "it has 1 columns where the header has 2"),
        ('"open,1\n', "a quote is opened and not closed"),
        (b"\xff\xfe,1\n", "it is not UTF-8"),
    ],
)
def test_a_bad_line_in_the_middle_names_file_and_line(tmp_path: Path, engine: duckdb.DuckDBPyConnection, bad: str | bytes, said: str) -> None:
    good = b"".join(b"%d,%d\n" % (i, i) for i in range(3000))
    (tmp_path / "a.csv").write_bytes(b"x,y\n" + good)
    (tmp_path / "b.csv").write_bytes(b"x,y\n" + good + (bad if isinstance(bad, bytes) else bad.encode()) + good)
    with pytest.raises(InvalidInput, match=rf"line 3002 of .*b\.csv cannot be read: {said}") as raised:
        source_of(Table("t", "."), tmp_path, engine)
    assert raised.value.__cause__ is not None
    assert raised.value.details["line"] == 3002


def test_a_line_far_below_that_is_not_utf_8_is_named(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_bytes(b"street,x\n" + b"Konigsallee,1\n" * 20_000 + "Königsallee,2\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"line 20002 of .* cannot be read: it is not UTF-8") as caught:
        rows_of(source_of(Table("a", "a.csv"), tmp_path, engine))
    assert "iconv -f WINDOWS-1252 -t UTF-8" in (caught.value.hint or "")


def test_a_column_without_a_name_is_called_by_its_place(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text(",x,y,\n0,1,1,\n1,2,1,\n")
    found = source_of(Table("a", "a.csv"), tmp_path, engine)
    assert found.columns == {"column_1": "integer", "x": "integer", "y": "integer", "column_4": "text"}


@pytest.mark.parametrize(
    ("head", "said", "hint"),
    [
        (b"PK\x03\x04\x14\x00", r"a workbook of Excel \(.xlsx\)", "CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", r"an old Excel \(.xls\)", "CSV UTF-8"),
        (b"PAR1\x15\x04", "a Parquet file", "call it .parquet"),
        (b"\x1f\x8b\x08\x00", "zipped by gzip", "call it .csv.gz"),
        ("x,y\n1,2\n".encode("utf-16"), "is UTF-16", "iconv -f UTF-16"),
        ("Straße,x\n1,2\n".encode("latin-1"), "is not UTF-8", "iconv -f WINDOWS-1252 -t UTF-8 FILE"),
    ],
)
def test_what_is_called_csv_and_is_none_is_called_by_its_name(
    tmp_path: Path, engine: duckdb.DuckDBPyConnection, head: bytes, said: str, hint: str
) -> None:
    (tmp_path / "a.csv").write_bytes(head)
    with pytest.raises(InvalidInput, match=said) as caught:
        source_of(Table("a", "a.csv"), tmp_path, engine)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (",Sales report,\nstore,date,units\n", "names one of 3 columns, 'Sales report': it looks like a title"),
        ("# exported by a till\nstore;date;units\n", "is one column, and the second line has 3: it looks like a title"),
        ("sep=;\nx;y\n1;2\n", "is 'sep=,', a note to Excel"),
        ("x,X\n1,2\n", r"names 'x' and 'X' \(columns 1 and 2\)"),
        (",column_1\n1,2\n", "names 'column_1' and 'column_1'"),
        ("<table><tr>\n", "begins as HTML or XML does"),
        ('[{"x": 1}]\n', "begins as JSON does"),
        ("17,2026-01-01,5.5\n18,2026-01-02,6\n", "holds values such as '17'"),
    ],
)
def test_a_csv_begins_with_a_header(tmp_path: Path, engine: duckdb.DuckDBPyConnection, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        source_of(Table("t", "a.csv"), tmp_path, engine)


def test_a_csv_that_is_no_csv_is_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"x,y\n1,2\n")
    with pytest.raises(InvalidInput, match=r"header of .*a\.csv\.gz cannot be read"):
        source_of(Table("t", "a.csv.gz"), tmp_path, engine)
    (tmp_path / "b.csv").write_bytes("préis,y\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        source_of(Table("t", "b.csv"), tmp_path, engine)


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_text_comes_back_as_it_was_written(tmp_path: Path, engine: duckdb.DuckDBPyConnection, rows: list[tuple[str, str]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [("a", "b"), *rows]]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    table = Table("t", "a.csv", contract=Contract(columns={"a": Check(type="text"), "b": Check(type="text")}))
    assert sorted(rows_of(source_of(table, tmp_path, engine))) == sorted(rows)


# --- Parquet


def test_parquet_keeps_its_types(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a.parquet", {"x": pa.array([1], pa.uint16()), "l": [["a"]], "none": pa.nulls(1), "d": [date(2026, 1, 1)]})
    table = Table("t", "a.parquet", contract=Contract(columns={"none": Check(type="number")}))
    source = source_of(table, tmp_path, engine)
    assert source.columns == {"x": "integer", "l": "varchar[]", "none": "number", "d": "date"}
    assert [file.path for file in source.files] == [str(tmp_path / "a.parquet")]


def test_a_truncated_or_foreign_parquet_is_named(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    whole = parquet(tmp_path / "s/a.parquet", {"x": list(range(1000))}).read_bytes()
    bad = tmp_path / "s/b.parquet"
    for payload, said in ((whole[: len(whole) // 2], "cut off"), (b"x,y\n1,2\n", "no Parquet file"), (b"", "it is empty")):
        bad.write_bytes(payload)
        with pytest.raises(InvalidInput, match=rf"b\.parquet: .*{said}") as raised:
            source_of(Table("t", "s"), tmp_path, engine)
        assert raised.value.__cause__ is not None


def test_parquet_files_agree_by_name(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a.parquet", {"x": pa.array([1], pa.int8()), "y": ["a"], "z": pa.nulls(1)})
    parquet(tmp_path / "b.parquet", {"y": ["b"], "x": [2.5], "z": ["late"]})
    source = source_of(Table("t", "."), tmp_path, engine)
    assert source.columns == {"x": "number", "y": "text", "z": "text"}
    assert rows_of(source) == [(1.0, "a", None), (2.5, "b", "late")]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"x": ["1"], "t": [datetime(2026, 1, 1)]}, r"column 'x' is integer in .*a\.parquet and text in .*b\.parquet"),  # noqa: DTZ001 - naive is the case
        ({"x": [1]}, r"b\.parquet lacks \['t'\]"),
        ({"x": [1], "t": [datetime(2026, 1, 1)], "more": [1]}, r"b\.parquet adds \['more'\]"),  # noqa: DTZ001 - naive is the case
        ({"x": [1], "t": [datetime(2026, 1, 1, tzinfo=UTC)]}, r"column 't' is timestamp in .* and timestamp with a zone in"),
    ],
)
def test_a_schema_that_changes_between_files_is_named(tmp_path: Path, engine: duckdb.DuckDBPyConnection, other: dict[str, Any], said: str) -> None:
    parquet(tmp_path / "a.parquet", {"x": [1], "t": [datetime(2026, 1, 1)]})  # noqa: DTZ001 - naive is the case
    parquet(tmp_path / "b.parquet", other)
    with pytest.raises(InvalidInput, match=said):
        source_of(Table("t", "."), tmp_path, engine)


def test_columns_that_differ_only_in_case_are_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a.parquet", {"x": [1], "X": [2]})
    with pytest.raises(InvalidInput, match="'x' and 'X', which SQL cannot tell apart"):
        source_of(Table("t", "a.parquet"), tmp_path, engine)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_partition_folders_are_columns_and_outer_ones_are_not(tmp_path: Path, engine: duckdb.DuckDBPyConnection, form: str) -> None:
    for day, store in (("2026-01-01", "007"), ("2026-01-02", "8")):
        path = tmp_path / f"team=x/s/day={day}/store={store}/a.{form}"
        parquet(path, {"u": [1]}) if form == "parquet" else (path.parent.mkdir(parents=True), path.write_text("u\n1\n"))
    source = source_of(Table("t", "team=x/s"), tmp_path, engine)
    assert source.columns == {"u": "integer", "day": "date", "store": "text"}
    assert rows_of(source) == [(1, date(2026, 1, 1), "007"), (1, date(2026, 1, 2), "8")]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_without_rows_are_tables(tmp_path: Path, engine: duckdb.DuckDBPyConnection, form: str) -> None:
    if form == "csv":
        (tmp_path / "a.csv").write_text("x,t")
    else:
        parquet(tmp_path / "a.parquet", {"x": pa.array([], pa.int64()), "t": pa.array([], pa.date32())})
    assert rows_of(source_of(Table("t", f"a.{form}", event_time="t"), tmp_path, engine)) == []


# --- names, expressions


HOSTILE = ['we"ird', "semi;colon", "a b", "x'); DROP TABLE t; --", "select", "é", "{curly}", "50%"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_hostile_names_are_only_names(tmp_path: Path, engine: duckdb.DuckDBPyConnection, form: str) -> None:
    path = tmp_path / f"it's [1] *.{form}"
    if form == "parquet":
        parquet(path, {name: [i] for i, name in enumerate(HOSTILE)})
    else:
        path.write_text(",".join('"' + n.replace('"', '""') + '"' for n in HOSTILE) + "\n" + ",".join(map(str, range(len(HOSTILE)))) + "\n")
    source = source_of(Table("t", path.name, keys=tuple(HOSTILE)), tmp_path, engine)
    assert list(source.columns) == HOSTILE
    assert rows_of(source) == [tuple(range(len(HOSTILE)))]
    assert [rows_of(source, source.resolve(name)) for name in HOSTILE] == [[(i,)] for i in range(len(HOSTILE))]


@pytest.mark.parametrize("name", ["a*b", "q[1]'s é", "w?t", "back\\slash", "{a,b}", "x;y--", "~t"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_with_a_hostile_name_is_read_as_itself(tmp_path: Path, engine: duckdb.DuckDBPyConnection, name: str, form: str) -> None:
    for i, stem in enumerate((name, "aZb", "q1's é", "wat")):
        path = tmp_path / f"{stem}.{form}"
        parquet(path, {"x": [i]}) if form == "parquet" else path.write_text(f"x\n{i}\n")
    assert rows_of(source_of(Table("t", f"{name}.{form}"), tmp_path, engine)) == [(0,)]


def test_a_name_that_the_engine_cannot_spell_is_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a\\[x].parquet", {"x": [0]})
    with pytest.raises(InvalidInput, match="a path may not hold a backslash beside"):
        source_of(Table("t", "a\\[x].parquet"), tmp_path, engine)


def test_an_expression_is_bound_and_given_back(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a.parquet", {"units": [2], "price": [1.5]})
    source = source_of(Table("t", "a.parquet", columns={"sales": "units * price"}), tmp_path, engine)
    assert source.columns == {"units": "integer", "price": "number", "sales": "number"}
    assert source.resolve("sales") == '"sales"'
    assert source.resolve("sales / units") == "sales / units"
    assert rows_of(source) == [(2, 1.5, 3.0)]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("unit", r"Table 't' has no column 'unit'. Columns: \['units'\]. Hint: did you mean 'units'\?"),
        ("units; DROP TABLE x", "cannot be read"),
        ("1); SELECT (2", "cannot be read"),
        ("1) --", "cannot be read"),
        ("units -- two", "cannot be read"),
        ("1) AS __bound, CAST(2 AS VARCHAR) AS __text --", "cannot be read"),
        ("1) AS __bound, CAST(2 AS VARCHAR) AS __text; SELECT 1 --", "cannot be read"),
        ("units, units", "cannot be read"),
        ("units +", "cannot be read"),
        ("nothing(units)", "cannot be read"),
    ],
)
def test_what_does_not_bind_is_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection, expression: str, said: str) -> None:
    parquet(tmp_path / "a.parquet", {"units": [2]})
    source = source_of(Table("t", "a.parquet"), tmp_path, engine)
    with pytest.raises(InvalidInput, match=said):
        source.resolve(expression)
    with pytest.raises(InvalidInput, match=said):
        source_of(Table("t", "a.parquet", columns={"d": expression}), tmp_path, engine)


def test_names_that_are_taken_or_absent_are_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    parquet(tmp_path / "a.parquet", {"units": [2]})
    parquet(tmp_path / "b.parquet", {"__event_time": [2]})
    with pytest.raises(InvalidInput, match="derives the column 'Units', which its files have already"):
        source_of(Table("t", "a.parquet", columns={"Units": "1"}), tmp_path, engine)
    with pytest.raises(InvalidInput, match="the name is Endcap's own"):
        source_of(Table("t", "b.parquet"), tmp_path, engine)
    with pytest.raises(InvalidInput, match=r"has no column 'unit'.*did you mean 'units'"):
        source_of(Table("t", "a.parquet", keys=("unit",)), tmp_path, engine)


# --- times


def local_times(table: Table, folder: Path, engine: duckdb.DuckDBPyConnection, zone: str = "Europe/Berlin") -> list[str | None]:
    source = source_of(table, folder, engine, zone)
    return [row[0] for row in source.engine.execute(f"SELECT CAST(__event_time AS VARCHAR) FROM ({source.sql}) ORDER BY i").fetchall()]


def test_a_store_that_moves_zone_stays_on_the_tables_clock(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    """Its offsets change from one day to the next: no hour is lost or doubled, for they are instants; wall times without one are the table's."""
    rows = ["a,2026-03-01T23:30+01:00", "a,2026-03-02T07:30+09:00", "a,2026-03-02T08:30+09:00", "b,2026-03-01 23:30"]
    (tmp_path / "a.csv").write_text("\n".join(["store,at", *rows, ""]))
    source = source_of(Table("t", "a.csv", event_time="at", zone="Europe/Berlin"), tmp_path, engine)
    assert rows_of(source, "store, CAST(__event_time AS VARCHAR)") == [
        ("a", "2026-03-01 23:30:00"),
        ("a", "2026-03-01 23:30:00"),
        ("a", "2026-03-02 00:30:00"),
        ("b", "2026-03-01 23:30:00"),
    ]


def test_offsets_become_wall_time_and_may_differ_by_row(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text(
        "i,t\n0,2026-07-01T10:00:00Z\n1,2026-07-01T10:00:00+05:30\n2,2026-07-01 10:00\n3,2026-07-01\n4,\n5,01.07.2026\n6,2026-01-01T10:00:00-0300\n"
    )
    assert local_times(Table("t", "a.csv", event_time="t"), tmp_path, engine) == [
        "2026-07-01 12:00:00",
        "2026-07-01 06:30:00",
        "2026-07-01 10:00:00",
        "2026-07-01 00:00:00",
        None,
        None,
        "2026-01-01 14:00:00",
    ]


def test_instants_become_wall_time_on_both_sides_of_a_change_of_clocks(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    instants = [
        datetime(2026, 3, 29, 0, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    ]
    parquet(tmp_path / "a.parquet", {"i": [0, 1, 2], "t": instants})
    assert local_times(Table("t", "a.parquet", event_time="t"), tmp_path, engine) == [
        "2026-03-29 01:30:00",
        "2026-03-29 03:30:00",
        "2026-10-25 02:30:00",
    ]


def test_wall_times_that_clocks_skip_or_repeat_stay_as_they_stand(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("i,d,hour\n0,2026-03-29,2\n1,2026-10-25,2\n2,2026-10-25,23\n")
    table = Table("t", "a.csv", event_time="d + hour * interval 1 hour", zone="Europe/Berlin")
    assert local_times(table, tmp_path, engine, zone="UTC") == ["2026-03-29 02:00:00", "2026-10-25 02:00:00", "2026-10-25 23:00:00"]


def test_known_at_is_in_utc(tmp_path: Path, engine: duckdb.DuckDBPyConnection) -> None:
    (tmp_path / "a.csv").write_text("i,k\n0,2026-07-01 10:00\n1,2026-07-01T10:00+05:30\n2,2026-01-01\n")
    source = source_of(Table("t", "a.csv", known_at="k"), tmp_path, engine, "Europe/Berlin")
    assert [row[0] for row in rows_of(source, "CAST(__known_at AS VARCHAR)")] == [
        "2025-12-31 23:00:00",
        "2026-07-01 04:30:00",
        "2026-07-01 08:00:00",
    ]


@pytest.mark.parametrize(("column", "hint"), [("epoch", "to_timestamp"), ("flag", None)])
def test_a_time_of_another_type_is_refused(tmp_path: Path, engine: duckdb.DuckDBPyConnection, column: str, hint: str | None) -> None:
    parquet(tmp_path / "a.parquet", {"epoch": [1_700_000_000], "flag": [True]})
    with pytest.raises(InvalidInput, match="which is no time") as raised:
        source_of(Table("t", "a.parquet", event_time=column), tmp_path, engine)
    assert (raised.value.hint is None) == (hint is None)
    assert hint is None or hint in str(raised.value)


# --- the engine


def test_the_engine_knows_zones_offline_and_leaves_nothing_behind() -> None:
    with open_engine(Settings(memory_limit=2**31, n_threads=1)) as opened:
        row = opened.execute("SELECT CAST(timezone('Europe/Berlin', TIMESTAMPTZ '2026-07-01 10:00+00') AS VARCHAR)").fetchone()
        assert row == ("2026-07-01 12:00:00",)
        spill = Path(str((opened.execute("SELECT current_setting('temp_directory')").fetchone() or [""])[0]))
        assert opened.execute("SELECT current_setting('autoinstall_known_extensions'), current_setting('threads')").fetchone() == (False, 1)
        assert spill.is_dir()
    assert not spill.exists()
