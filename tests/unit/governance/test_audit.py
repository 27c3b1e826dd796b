from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import IntegrityBroken, InvalidInput, PermissionDenied
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_chain import hash_row
from endcap.governance.records import AUDIT_HEADS, AUDIT_ROWS, Actor, AuditRow
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

N_ROWS = 6


def act(session: Session, n: int = 1, *, verb: str = "train") -> None:
    for _ in range(n):
        with session.change(verb, thing=f"model/{session.actor.name}", detail={"rows": 10, "wape": 0.1, "note": "ü", "none": None}):
            pass


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    opened = make_session(tmp_path)
    for _ in range(N_ROWS):
        act(opened)
        assert isinstance(opened.clock, ManualClock)
        opened.clock.advance(timedelta(seconds=1))
    yield opened
    opened.ports.close()


@pytest.fixture
def edit(session: Session, tmp_path: Path) -> Callable[..., None]:
    """Runs statements on the records' file as somebody would who goes around Endcap."""

    def run(statement: str, *values: object) -> None:
        with closing(sqlite3.connect(tmp_path / "records.sqlite")) as connection, connection:
            assert connection.execute(statement, values).rowcount > 0

    return run


def row_of(session: Session, n: int) -> AuditRow:
    row = session.records.get(AUDIT_ROWS, workspace="default", id=f"{n:012d}")
    assert row is not None
    return row


def rehash(row: AuditRow, **changed: object) -> AuditRow:
    row = msgspec.structs.replace(row, **changed)
    return msgspec.structs.replace(row, hash=hash_row(row))


UPDATE = "UPDATE record SET body = ? WHERE kind = 'audit' AND id = ?"


def test_an_untouched_chain_is_intact(session: Session) -> None:
    check = verify_audit(session)
    assert (check.n_rows, check.intact, check.workspace) == (N_ROWS, True, "default")
    assert check.head == row_of(session, N_ROWS).hash
    assert row_of(session, 1).previous == "0" * 64
    assert [row_of(session, n).previous for n in range(2, N_ROWS + 1)] == [row_of(session, n).hash for n in range(1, N_ROWS)]


def test_a_chain_of_nothing_is_intact() -> None:
    assert verify_audit(make_session()).n_rows == 0


CHANGES: list[dict[str, object]] = [
    {"actor": "eve"}, {"verb": "promote"}, {"thing": "x"}, {"outcome": "refused"}, {"detail": {}}, {"n": 99}, {"previous": "f" * 64}, {"hash": ""},
]  # fmt: skip


@pytest.mark.parametrize("changed", CHANGES)
def test_a_changed_row_is_found_where_it_stands(session: Session, edit: Callable[..., None], changed: dict[str, object]) -> None:
    for n in range(1, N_ROWS + 1):
        row = row_of(session, n)
        edit(UPDATE, AUDIT_ROWS.encode(msgspec.structs.replace(row, **changed)), row.id)
        with pytest.raises(IntegrityBroken, match=f"breaks at row {n}") as caught:
            verify_audit(session)
        assert caught.value.details == {"row": n}
        edit(UPDATE, AUDIT_ROWS.encode(row), row.id)
    assert verify_audit(session).n_rows == N_ROWS


@pytest.mark.parametrize("n", range(1, N_ROWS + 1))
def test_a_changed_row_with_its_hash_made_anew_is_found(session: Session, edit: Callable[..., None], n: int) -> None:
    row = row_of(session, n)
    edit(UPDATE, AUDIT_ROWS.encode(rehash(row, actor="eve")), row.id)
    with pytest.raises(IntegrityBroken, match=f"breaks at row {n + 1}" if n < N_ROWS else "ends otherwise"):
        verify_audit(session)


def test_a_changed_time_is_found(session: Session, edit: Callable[..., None]) -> None:
    row = row_of(session, 2)
    edit(UPDATE, AUDIT_ROWS.encode(msgspec.structs.replace(row, at=row.at + timedelta(microseconds=1))), row.id)
    with pytest.raises(IntegrityBroken, match="breaks at row 2"):
        verify_audit(session)


@pytest.mark.parametrize("n", range(1, N_ROWS))
def test_a_missing_row_is_found(session: Session, edit: Callable[..., None], n: int) -> None:
    edit("DELETE FROM record WHERE kind = 'audit' AND id = ?", f"{n:012d}")
    with pytest.raises(IntegrityBroken, match=f"breaks at row {n}"):
        verify_audit(session)


@pytest.mark.parametrize("kept", [0, 1, N_ROWS - 1])
def test_a_tail_that_was_cut_off_is_found(session: Session, edit: Callable[..., None], kept: int) -> None:
    edit("DELETE FROM record WHERE kind = 'audit' AND id > ?", f"{kept:012d}")
    with pytest.raises(IntegrityBroken, match=f"has {kept} rows, but its head says {N_ROWS}") as caught:
        verify_audit(session)
    assert caught.value.details == {"row": kept}


def test_a_row_that_is_no_longer_filed_is_found(session: Session, edit: Callable[..., None]) -> None:
    edit("DELETE FROM filing WHERE kind = 'audit' AND name = '' AND sequence = (SELECT min(sequence) FROM record WHERE kind = 'audit')")
    with pytest.raises(IntegrityBroken, match="breaks at row 1"):
        verify_audit(session)


@pytest.mark.parametrize("removed", [True, False])
def test_a_head_that_was_changed_or_removed_is_found(session: Session, edit: Callable[..., None], removed: bool) -> None:
    if removed:
        edit("DELETE FROM record WHERE kind = 'audit-head'")
    else:
        found = session.records.get(AUDIT_HEADS, workspace="default", id="head")
        assert found is not None
        edit("UPDATE record SET body = ? WHERE kind = 'audit-head'", AUDIT_HEADS.encode(msgspec.structs.replace(found, hash="f" * 64)))
    with pytest.raises(IntegrityBroken, match=f"has {N_ROWS} rows, but its head says"):
        verify_audit(session)


def test_a_row_added_behind_the_head_is_found(session: Session) -> None:
    last = row_of(session, N_ROWS)
    forged = rehash(last, n=N_ROWS + 1, actor="eve", previous=last.hash)
    with session.records.transact() as tx:
        tx.append(AUDIT_ROWS, workspace="default", record=forged)
    with pytest.raises(IntegrityBroken, match=f"has {N_ROWS + 1} rows, but its head says {N_ROWS}"):
        verify_audit(session)


def test_a_row_put_between_others_is_found(session: Session, edit: Callable[..., None]) -> None:
    rows = [row_of(session, n) for n in range(1, N_ROWS + 1)]
    act(session)
    shifted = [rows[0], rehash(rows[1], actor="eve"), *rows[1:]]
    for place, row in enumerate(shifted, start=1):
        edit(UPDATE, AUDIT_ROWS.encode(row), f"{place:012d}")
    with pytest.raises(IntegrityBroken, match="breaks at row 3"):
        verify_audit(session)


def test_rows_in_another_order_are_found(session: Session, edit: Callable[..., None]) -> None:
    third, fourth = row_of(session, 3), row_of(session, 4)
    edit(UPDATE, AUDIT_ROWS.encode(fourth), third.id)
    edit(UPDATE, AUDIT_ROWS.encode(third), fourth.id)
    with pytest.raises(IntegrityBroken, match="breaks at row 3"):
        verify_audit(session)


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xff", b'{"n": 1'])
def test_a_row_that_is_no_row_any_more_is_found(session: Session, edit: Callable[..., None], body: bytes) -> None:
    edit(UPDATE, body, f"{2:012d}")
    with pytest.raises(IntegrityBroken, match="'audit' does not read as one"):
        verify_audit(session)


@pytest.mark.parametrize("url", ["memory", "embedded"])
def test_many_writers_keep_the_chain_and_it_verifies_while_they_write(tmp_path: Path, url: str) -> None:
    session = make_session("memory://" if url == "memory" else tmp_path / "home")
    writing = threading.Event()
    writing.set()

    def verify() -> int:
        n_checked = 0
        while writing.is_set():
            verify_audit(session)
            n_checked += 1
        return n_checked

    with ThreadPoolExecutor(9) as pool:
        checking = pool.submit(verify)
        try:
            list(pool.map(lambda n: act(replace(session, actor=Actor(f"a{n}")), 6), range(8)))
        finally:
            writing.clear()
        assert checking.result(timeout=60) > 0
    assert verify_audit(session).n_rows == 48
    assert [row.n for row in list_audit(session, limit=100)] == list(range(48, 0, -1))
    assert [len(list_audit(session, actor=f"a{n}")) for n in range(8)] == [6] * 8
    session.ports.close()


def test_rows_are_listed_newest_first_by_thing_and_actor() -> None:
    ada = make_session()
    bob = replace(ada, actor=Actor("bob"))
    for session, verb in ((ada, "one"), (bob, "two"), (ada, "three")):
        act(session, verb=verb)
    with bob.change("four", thing="model/ada"):
        pass
    assert [row.verb for row in list_audit(ada)] == ["four", "three", "two", "one"]
    assert [row.verb for row in list_audit(ada, limit=2)] == ["four", "three"]
    assert [row.verb for row in list_audit(ada, thing="model/ada")] == ["four", "three", "one"]
    assert [row.verb for row in list_audit(ada, actor="bob")] == ["four", "two"]
    assert [row.verb for row in list_audit(ada, thing="model/ada", actor="ada")] == ["three", "one"]
    assert [row.verb for row in list_audit(ada, thing="model/ada", actor="ada", limit=1)] == ["three"]
    assert list_audit(ada, thing="model/nobody") == []
    for options in ({}, {"thing": "model/ada", "actor": "ada"}):
        with pytest.raises(InvalidInput, match="limit is -1"):
            list_audit(ada, limit=-1, **options)


def test_reading_the_audit_asks_for_a_permission() -> None:
    session = make_session()

    class Refusing(Session):
        def require(self, permission: object, *, verb: str) -> None:
            raise PermissionDenied(f"{verb} {permission}")

    refusing = Refusing(**{name: getattr(session, name) for name in ("actor", "role", "workspace", "zone", "ports", "clock", "new_id")})
    with pytest.raises(PermissionDenied, match="audit read"):
        list_audit(refusing)
    with pytest.raises(PermissionDenied, match="verify-audit read"):
        verify_audit(refusing)
