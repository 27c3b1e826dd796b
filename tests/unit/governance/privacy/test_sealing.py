from __future__ import annotations

import decimal
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.core.errors import IntegrityBroken, InvalidInput
from endcap.governance.privacy.sealing import (
    SEALED,
    Mark,
    Place,
    as_texts,
    blank_table,
    is_sealed,
    mark_personal,
    read_marks,
    seal_table,
    unseal_table,
)
from endcap.governance.privacy.subjects import Subjects
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

PLACE = {"workspace": "default", "part": "0"}
AT = Place("people", PLACE)
NOON = datetime(2026, 3, 4, 12)  # noqa: DTZ001 - a column of plain times
COLUMNS: dict[str, pa.Array] = {
    "email": pa.array(["ada@x", "", "ada@y", None, "홍길동", "b"]),
    "age": pa.array([1.5, float("nan"), None, -0.0, float("inf"), 5.0]),
    "n": pa.array([1, None, -(2**63), 2**63 - 1, 0, 7]),
    "small": pa.array([1, None, 3, 4, 5, 6], pa.uint16()),
    "flag": pa.array([True, False, None, True, True, False]),
    "day": pa.array([date(1, 1, 1), None, date(9999, 12, 31)] * 2),
    "at": pa.array([NOON, None, NOON] * 2, pa.timestamp("us", "UTC")),
    "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-3.00")] * 2, pa.decimal128(9, 2)),
    "word": pa.array(["u", None, "v"] * 2).dictionary_encode(),
    "raw": pa.array([b"", b"\x00", None] * 2, pa.binary()),
    "seen": pa.array([["a", "b"], [], None] * 2),
    "last": pa.array([{"us": 1, "x": date(2026, 1, 1)}, None, {"us": 2, "x": None}] * 2, pa.struct([("us", pa.int64()), ("x", pa.date32())])),
    "none": pa.nulls(6),
}


@pytest.fixture(params=["memory", "embedded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    made = make_session("memory://" if request.param == "memory" else tmp_path / "home")
    yield made
    made.ports.close()


def people(**more: Any) -> pa.Table:
    return mark_personal(
        pa.table({"customer": [1, 2, 1, 3, None, 2], **(more or COLUMNS)}), dict.fromkeys(more or COLUMNS, Mark("customer", "customer"))
    )


def forget(session: Session, *values: str, kind: str = "customer") -> None:
    subjects = Subjects(session)
    shelves = subjects.prepare_forgetting(subjects.name(kind, values))
    with session.records.transact() as tx:
        subjects.put_shelves(tx, shelves)


def same(a: pa.Table, b: pa.Table) -> bool:
    return a.schema.equals(b.schema) and all(repr(a[name].to_pylist()) == repr(b[name].to_pylist()) for name in a.column_names)


def test_what_is_written_comes_back_and_lies_sealed(session: Session) -> None:
    table = people()
    assert session.tables.write("people", partition=PLACE, table=table) == 6
    raw = session.ports.tables.read("people", partition=PLACE)
    assert {raw.schema.field(name).type for name in COLUMNS if name != "none"} == {pa.large_binary()}
    assert raw["customer"].to_pylist() == [1, 2, 1, 3, None, 2]
    assert is_sealed(raw.schema)
    found = session.tables.read("people", partition=PLACE)
    assert same(found, table)
    assert read_marks(found.schema) == read_marks(table.schema)  # written again, it is sealed again
    assert same(session.tables.scan("people", partition=PLACE).to_table(), table)


def test_no_byte_of_a_value_lies_in_the_home(tmp_path: Path) -> None:
    session = make_session(tmp_path / "home")
    session.tables.write("people", partition=PLACE, table=people(email=[f"planted-value-{n}" for n in range(6)]))
    session.ports.close()
    held = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(held) > 2
    assert not any(b"planted-value" in payload for payload in held)


def test_equal_values_do_not_look_equal(session: Session) -> None:
    session.tables.write("people", partition=PLACE, table=people(email=["the same"] * 6))
    raw = session.ports.tables.read("people", partition=PLACE)["email"].to_pylist()
    assert len(set(raw)) == 6


def test_columns_are_read_one_by_one_and_partitions_together(session: Session) -> None:
    for part in ("0", "1"):
        session.tables.write("people", partition={**PLACE, "part": part}, table=people())
    found = session.tables.read("people", partition={"workspace": "default"}, columns=["email"])
    assert found.column_names == ["email"]
    assert found["email"].to_pylist() == COLUMNS["email"].to_pylist() * 2
    assert session.tables.read("people", columns=["customer"]).column_names == ["customer"]


def test_a_forgotten_subject_reads_as_missing_and_rows_and_digests_stay(session: Session) -> None:
    session.tables.write("people", partition=PLACE, table=people(email=list("abcdef")))
    before = session.ports.tables.read("people", partition=PLACE)
    forget(session, "1")
    found = session.tables.read("people", partition=PLACE)
    assert found["email"].to_pylist() == [None, "b", None, "d", "e", "f"]
    assert found["customer"].to_pylist() == [1, 2, 1, 3, None, 2]
    assert session.ports.tables.read("people", partition=PLACE).equals(before)
    session.tables.write("people", partition=PLACE, table=people(email=list("abcdef")))
    assert session.tables.read("people", partition=PLACE)["email"].to_pylist() == [None, "b", None, "d", "e", "f"]


def test_a_key_that_is_personal_is_sealed_as_its_own_subject(session: Session) -> None:
    emails = ["a@x", "홍길동@x", "a@x", None]
    table = mark_personal(pa.table({"email": emails, "n": [1, 2, 3, 4]}), dict.fromkeys(("email", "n"), Mark("email", "email")))
    session.tables.write("people", partition=PLACE, table=table)
    assert same(session.tables.read("people", partition=PLACE), table)
    forget(session, "홍길동@x", kind="email")
    assert session.tables.read("people", partition=PLACE).to_pylist() == [
        {"email": "a@x", "n": 1},
        {"email": None, "n": None},
        {"email": "a@x", "n": 3},
        {"email": None, "n": 4},
    ]


def test_two_subjects_in_a_table_are_forgotten_one_by_one(session: Session) -> None:
    table = pa.table({"buyer": ["a", "b"], "seller": ["b", "a"], "note": ["to a", "to b"], "bank": ["of b", "of a"]})
    marked = mark_personal(table, {"note": Mark("buyer", "buyer"), "bank": Mark("seller", "seller")})
    session.tables.write("people", partition=PLACE, table=marked)
    forget(session, "a", kind="buyer")
    found = session.tables.read("people", partition=PLACE)
    assert (found["note"].to_pylist(), found["bank"].to_pylist()) == ([None, "to b"], ["of b", "of a"])


def test_values_of_nobody_stay_whoever_is_forgotten(session: Session) -> None:
    table = mark_personal(pa.table({"store": [1], "last": ["ada"]}), {"last": Mark(None, "customer")})
    session.tables.write("people", partition=PLACE, table=table)
    forget(session, "1", "ada")
    assert session.tables.read("people", partition=PLACE)["last"].to_pylist() == ["ada"]


def test_another_workspace_neither_reads_nor_shares_keys(session: Session) -> None:
    session.tables.write("people", partition=PLACE, table=people(email=list("abcdef")))
    other = replace(session, workspace="other")
    assert Subjects(other).name("customer", ["1"]) != Subjects(session).name("customer", ["1"])
    assert other.tables.read("people", partition=PLACE)["email"].to_pylist() == [None] * 6


def test_tables_without_personal_columns_pass_as_they_are(session: Session) -> None:
    table = pa.table({"a": [1, 2]})
    assert session.tables.seal(table, "people", partition=PLACE) is table
    assert session.tables.unseal(table, "people", partition=PLACE) is table
    assert session.tables.blank(table) is table
    assert Subjects(session).count() == 0


def test_altered_and_missing_pieces_are_found(session: Session) -> None:
    sealed = seal_table(people(email=list("abcdef")), Subjects(session), place=AT)
    subjects = Subjects(session)
    with pytest.raises(IntegrityBroken, match="'email' do not open"):
        unseal_table(sealed.slice(1), subjects, place=AT)
    place = sealed.column_names.index("email")
    pieces = sealed["email"].to_pylist()
    for broken in ([pieces[2], *pieces[1:2], pieces[0], *pieces[3:]], [b"x", *pieces[1:]], [b"", *pieces[1:]]):
        column = pa.array(broken, pa.large_binary())
        with pytest.raises(IntegrityBroken, match="'email' do not open"):
            unseal_table(sealed.set_column(place, sealed.schema.field(place), column), subjects, place=AT)
    with pytest.raises(IntegrityBroken, match="without '__subject_0'"):
        unseal_table(sealed.drop_columns(["__subject_0"]), subjects, place=AT)
    renamed = sealed.rename_columns(["mail" if name == "email" else name for name in sealed.column_names])
    with pytest.raises(IntegrityBroken, match="'mail' do not open"):
        unseal_table(renamed, subjects, place=AT)


def test_rows_that_do_not_carry_their_subject_are_refused(session: Session) -> None:
    with pytest.raises(InvalidInput, match="no such column"):
        session.tables.write("people", partition=PLACE, table=people(email=list("abcdef")).drop_columns(["customer"]))
    with pytest.raises(InvalidInput, match="cannot be named by values of type list"):
        session.tables.seal(mark_personal(pa.table({"c": [[1]], "x": ["a"]}), {"x": Mark("c", "c")}), "people", partition=PLACE)


def test_no_rows_and_rows_of_nobody(session: Session) -> None:
    empty = people(email=pa.array([None] * 6, pa.string())).slice(0, 0)
    assert same(session.tables.unseal(session.tables.seal(empty, "people", partition=PLACE), "people", partition=PLACE), empty)
    nobody = mark_personal(pa.table({"c": pa.nulls(2), "x": ["a", None]}), {"x": Mark("c", "c")})
    assert same(session.tables.unseal(session.tables.seal(nobody, "people", partition=PLACE), "people", partition=PLACE), nobody)


def test_what_leaves_the_house_holds_nobody_who_was_forgotten(session: Session) -> None:
    table = people(email=list("abcdef"))
    assert blank_table(table, Subjects(session)).equals(table)
    session.tables.seal(table, "people", partition=PLACE)
    forget(session, "2")
    assert session.tables.blank(table)["email"].to_pylist() == ["a", None, "c", "d", "e", None]


def test_a_number_and_its_text_are_one_subject() -> None:
    columns = [pa.array([12, None]), pa.array([12.0, float("nan")]), pa.array(["12", None]), pa.array([12, None], pa.uint8())]
    assert [as_texts(column) for column in columns] == [["12", None]] * 4
    assert as_texts(pa.array([date(2026, 1, 2)])) == ["2026-01-02"]
    assert as_texts(pa.array([True])) == ["true"]
    assert as_texts(pa.array([0.5])) == ["0.5"]


ROWS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 5)), st.one_of(st.none(), st.text()), st.one_of(st.none(), st.floats())), max_size=40)


@given(ROWS, st.sets(st.integers(0, 5)))
def test_any_rows_come_back_less_the_forgotten(rows: list[tuple[int | None, str | None, float | None]], gone: set[int]) -> None:
    session = make_session()
    table = pa.table({"c": pa.array([r[0] for r in rows], pa.int64()), "t": pa.array([r[1] for r in rows], pa.string()), "x": [r[2] for r in rows]})
    table = table.set_column(2, "x", table["x"].cast(pa.float64()))
    marked = mark_personal(table, dict.fromkeys(("t", "x"), Mark("c", "c")))
    sealed = session.tables.seal(marked, "people", partition=PLACE)
    forget(session, *map(str, sorted(gone)), kind="c")
    found = session.tables.unseal(sealed, "people", partition=PLACE)
    expected = [(c, None if c in gone else t, None if c in gone else x) for c, t, x in rows]
    assert repr(list(zip(*(found[name].to_pylist() for name in ("c", "t", "x")), strict=True))) == repr(expected)


def test_many_subjects_are_sealed_by_columns() -> None:
    session = make_session()
    ids = np.random.default_rng(0).integers(0, 3000, 20_000)
    table = mark_personal(pa.table({"c": ids, "x": [f"person {n}" for n in ids.tolist()]}), {"x": Mark("c", "c")})
    sealed = session.tables.seal(table, "people", partition=PLACE)
    assert Subjects(session).count() == len(set(ids.tolist()))
    assert same(session.tables.unseal(sealed, "people", partition=PLACE), table)


def test_what_was_written_before_it_was_declared_is_read_beside_what_is_sealed(session: Session) -> None:
    plain = people(email=list("abcdef"))
    session.ports.tables.write(
        "people", partition={**PLACE, "part": "1"}, table=plain.cast(pa.schema([field.remove_metadata() for field in plain.schema]))
    )
    session.tables.write("people", partition=PLACE, table=plain)
    assert session.tables.read("people")["email"].to_pylist() == list("abcdef") * 2
    assert session.tables.read("people", columns=["email"]).column_names == ["email"]
    assert session.tables.scan("people").to_table()["email"].to_pylist() == list("abcdef") * 2
    with pytest.raises(InvalidInput, match=r"'mail'|cannot be read as one table"):
        session.tables.read("people", columns=["mail"])
    session.ports.tables.write("mixed", partition=PLACE, table=pa.table({"a": [1]}))
    session.ports.tables.write("mixed", partition={**PLACE, "part": "1"}, table=pa.table({"a": ["x"]}))
    with pytest.raises(InvalidInput, match="cannot be read as one table"):
        session.tables.read("mixed")


def test_values_open_where_they_were_sealed_and_nowhere_else(session: Session) -> None:
    """Whoever may write the files moves values of one person to another table, partition, block, row or column of theirs."""
    inner = session.ports.tables
    here, there = ({**PLACE, "part": part} for part in "01")
    for dataset, place, first in (("people", here, "a"), ("people", there, "g"), ("others", here, "m")):
        emails = [chr(ord(first) + n) for n in range(6)]
        session.tables.write(dataset, partition=place, table=people(email=emails, phone=emails[::-1]))
    own = inner.read("people", partition=here)
    for dataset, place in (("people", there), ("others", here)):
        kept = inner.read(dataset, partition=place)
        inner.write(dataset, partition=place, table=own)
        with pytest.raises(IntegrityBroken, match="were sealed for 'people'"):
            session.tables.read(dataset, partition=place)
        lying = own.cast(kept.schema)  # with the description of what lay there
        inner.write(dataset, partition=place, table=lying)
        with pytest.raises(IntegrityBroken, match="do not open"):
            session.tables.read(dataset, partition=place)
        inner.write(dataset, partition=place, table=own)
        with pytest.raises(IntegrityBroken, match=r"same partition|were sealed for"):
            session.tables.scan(dataset)
        inner.write(dataset, partition=place, table=kept)
    at, other = own.column_names.index("email"), own.column_names.index("phone")
    swapped = own.set_column(at, own.schema.field(at), own["phone"]).set_column(other, own.schema.field(other), own["email"])
    moved = [own["email"].to_pylist()[n] for n in (2, 1, 0, 3, 4, 5)]
    rows = own.set_column(at, own.schema.field(at), pa.array(moved, pa.large_binary()))
    whole = own.take(pa.array([2, 1, 0, 3, 4, 5]))  # rows of one person exchanged, whatever stands beside
    retyped = own.cast(own.schema.set(at, own.schema.field(at).with_metadata(inner.read("people", partition=there).schema.field(at).metadata)))
    for broken in (swapped, rows, whole, retyped):
        inner.write("people", partition=here, table=broken)
        with pytest.raises(IntegrityBroken, match=r"do not open|were sealed for"):
            session.tables.read("people", partition=here)
    inner.write("people", partition=here, table=own)
    assert session.tables.read("people", partition=here)["email"].to_pylist() == list("abcdef")
    with pytest.raises(IntegrityBroken, match="were sealed for 'people'"):
        session.tables.write("others", partition=here, table=own)


def test_a_value_stays_at_its_row_and_of_its_length(session: Session) -> None:
    table = mark_personal(pa.table({"customer": [1, 1, 1], "email": ["ab", None, "c"]}), {"email": Mark("customer", "customer")})
    session.tables.write("people", partition=PLACE, table=table)
    raw = session.ports.tables.read("people", partition=PLACE)
    first, _, last = raw["email"].to_pylist()
    for pieces in ([None, first, last], [first, last, None], [first[:-1], None, first[-1:] + last], [first + last, None, None]):
        broken = raw.set_column(1, raw.schema.field(1), pa.array(pieces, pa.large_binary()))
        session.ports.tables.write("people", partition=PLACE, table=broken)
        with pytest.raises(IntegrityBroken, match="'email' do not open"):
            session.tables.read("people", partition=PLACE)


def test_what_another_form_sealed_says_so(session: Session) -> None:
    session.tables.write("people", partition=PLACE, table=people(email=list("abcdef")))
    raw = session.ports.tables.read("people", partition=PLACE)
    at = raw.column_names.index("email")
    said = msgspec.json.decode(raw.schema.field(at).metadata[SEALED])
    older = msgspec.json.encode({name: value for name, value in said.items() if name not in ("place", "form")})
    raw = raw.cast(raw.schema.set(at, raw.schema.field(at).with_metadata({SEALED: older})))
    session.ports.tables.write("people", partition=PLACE, table=raw)
    for read in (session.tables.read, session.tables.scan):
        with pytest.raises(IntegrityBroken, match=r"'email' are in form 1, of another Endcap; this one opens form 2\..*materialise"):
            read("people", partition=PLACE)
