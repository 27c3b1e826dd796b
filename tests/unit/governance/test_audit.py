from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.errors import IntegrityBroken, InvalidInput, PermissionDenied
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.audit_chain import hash_row
from endcap.governance.records import AUDIT_HEADS, AUDIT_ROWS, Actor, AuditRow
from endcap.governance.sessions import Session
from endcap.storage.ports import Kind
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


def lived(n: int = 120) -> Session:
    """A chain of many actors, verbs and days, with clocks that jump back; every seventh row is a refusal."""
    ada = make_session()
    start = ada.now()
    for i in range(n):
        session = replace(ada, actor=Actor(f"a{i % 3}"), clock=ManualClock(start + timedelta(hours=5 * i - (30 if i % 11 == 0 else 0))))
        if i % 7 == 0:
            session.record_refusal(f"v{i % 5}", thing=f"model/{i % 4}", detail={})
        else:
            with session.change(f"v{i % 5}", thing=f"model/{i % 4}"):
                pass
    return replace(ada, clock=ManualClock(start + timedelta(hours=5 * n)))


LIVED = lived()
maybe = st.one_of


@given(
    thing=maybe(st.none(), st.sampled_from(["model/0", "model/3", "model/none"])),
    actor=maybe(st.none(), st.sampled_from(["a0", "a2", "nobody"])),
    verb=maybe(st.none(), st.sampled_from(["v0", "v4", "v9"])),
    outcome=maybe(st.none(), st.sampled_from(["done", "refused"])),
    since=maybe(st.none(), st.integers(-50, 700)),
    until=maybe(st.none(), st.integers(-50, 700)),
    before=maybe(st.none(), st.integers(-2, 130)),
    limit=st.integers(0, 130),
)
@settings(max_examples=300, deadline=None)
def test_rows_are_those_that_all_conditions_take_the_newest_first(
    thing: str | None, actor: str | None, verb: str | None, outcome: str | None, since: int | None, until: int | None, before: int | None, limit: int
) -> None:
    start = datetime(2026, 1, 5, 8, tzinfo=UTC)
    first, end = (None if hours is None else start + timedelta(hours=hours) for hours in (since, until))
    if first is not None and end is not None and first >= end:
        return
    rows = reversed(LIVED.records.find(AUDIT_ROWS, workspace="default"))
    for name, value in (("thing", thing), ("actor", actor), ("verb", verb), ("outcome", outcome)):
        rows = [row for row in rows if value is None or getattr(row, name) == value]
    rows = [row for row in rows if (first is None or row.at >= first) and (end is None or row.at < end) and (before is None or row.n < before)]
    found = list_audit(
        LIVED,
        thing=thing,
        actor=actor,
        verb=verb,
        outcome=outcome,
        since=first.isoformat() if first else None,
        until=end.isoformat() if end else None,
        before=before,
        limit=limit,
    )
    assert found == rows[:limit]


def test_times_without_an_offset_are_the_workspace_s() -> None:
    session = replace(make_session(start=datetime(2026, 1, 5, 23, 30, tzinfo=UTC)), zone="Asia/Tokyo")
    act(session)
    assert len(list_audit(session, since="2026-01-06", until="2026-01-07")) == 1
    assert list_audit(session, until="2026-01-06 08:30") == []
    assert len(list_audit(session, since="2026-01-06 08:30")) == 1
    assert list_audit(session, since="2026-01-06 08:30:01") == []


def test_pages_follow_one_another_whatever_is_written_meanwhile() -> None:
    session = make_session()
    act(session, 25)
    seen: list[int] = []
    before: int | None = None
    while page := list_audit(session, actor="ada", before=before, limit=10):
        seen += [row.n for row in page]
        before = page[-1].n
        act(session)
    assert seen == list(range(25, 0, -1))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"outcome": "Done"}, "No row has the outcome 'Done'.*did you mean 'done'"),
        ({"since": "yesterday"}, "'yesterday' is not a time"),
        ({"until": ""}, "'' is not a time"),
        ({"since": "2026-01-06", "until": "2026-01-05"}, "not after its beginning"),
        ({"limit": 100_001}, "the most are 100,000.*export-audit"),
        ({"limit": -1}, "limit is -1"),
        ({"actor": "\ud800"}, "not Unicode"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(options: dict[str, Any], what: str) -> None:
    session = make_session()
    act(session)
    with pytest.raises(InvalidInput, match=what):
        list_audit(session, **options)


def test_a_condition_that_few_rows_meet_costs_those_whatever_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    act(session, 2_000, verb="run")
    session.record_refusal("promote", thing="model/x", detail={})
    act(session, 2_000, verb="run")
    n_read = 0
    decode = Kind.decode

    def counting(kind: Kind[Any], body: bytes) -> Any:
        nonlocal n_read
        n_read += kind.name == "audit"
        return decode(kind, body)

    monkeypatch.setattr(Kind, "decode", counting)
    for options in ({"verb": "promote"}, {"outcome": "refused", "actor": "ada"}, {"verb": "promote", "since": "2026-01-01"}):
        n_read = 0
        assert [row.n for row in list_audit(session, **options)] == [2_001]  # type: ignore[arg-type]
        assert n_read < 300


def test_a_day_is_looked_up_however_long_the_chain_is(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()
    clock = session.clock
    assert isinstance(clock, ManualClock)
    for n in (1_000, 3, 1_000):
        act(session, n)
        clock.advance(timedelta(days=1))
    n_read = 0
    decode = Kind.decode

    def counting(kind: Kind[Any], body: bytes) -> Any:
        nonlocal n_read
        n_read += kind.name == "audit"
        return decode(kind, body)

    monkeypatch.setattr(Kind, "decode", counting)
    assert [row.n for row in list_audit(session, since="2026-01-06", until="2026-01-07")] == [1003, 1002, 1001]
    assert n_read < 600


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
