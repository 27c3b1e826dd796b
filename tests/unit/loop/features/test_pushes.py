"""Pushed rows: checked strictly, kept offline, newest online, and made good by the next push after a kill at any instant."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput, NotFound, PermissionDenied, StorageFull
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.features import pushes
from endcap.loop.features.online import open_online, write_online
from endcap.loop.features.pushes import MOST_ROWS, finish_pushes, merge_pushes, push
from endcap.loop.features.records import PUSH_MERGES, PUSHED, PUSHES, ViewVersion
from endcap.testing.faults import Instants, fill, kill, striking
from endcap.testing.sessions import make_session
from endcap.testing.views import know_view

EVERY = int(os.environ.get("ENDCAP_TEST_EVERY", "6"))  # of the instants of a push one in so many is tried; the benchmark tries all
NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["memory", "embedded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    opened = make_session("memory://" if request.param == "memory" else tmp_path / "home", start=NOW)
    yield opened
    opened.ports.close()


def know_cart(session: Session, **options: Any) -> ViewVersion:
    return know_view(session, "cart", keys={"id": "integer"}, features={"n": "integer", "value": "number"}, **{"pushed": True} | options)


def row(key: Any = 7, n: Any = 1, value: Any = 0.5, at: Any = NOW, **more: Any) -> dict[str, Any]:
    return {"id": key, "n": n, "value": value, "__event_at": at, **more}


def at_rest(session: Session) -> list[dict[str, Any]]:
    try:
        return session.tables.read(PUSHED).to_pylist()
    except NotFound:
        return []


def advance(session: Session, step: timedelta) -> datetime:
    assert isinstance(session.clock, ManualClock)
    return session.clock.advance(step)


def read(session: Session, key: Any = 7) -> tuple[Any, ...] | None:
    return open_online(session, ["cart"]).read_one(key)[0].values


def test_what_is_pushed_is_read_online_and_kept_offline_with_the_instant_it_was_known(session: Session) -> None:
    version = know_cart(session)
    done = push(session, "cart", [row(at=NOW - MINUTE), row(8, n=None, value=2, at="2026-01-05T08:59:00+01:00")])
    assert (done.view, done.version, done.at, done.n, done.n_rows, done.n_online, done.online) == ("cart", version.version, NOW, 1, 2, 2, "done")
    assert (read(session), read(session, 8)) == ((1, 0.5), (None, 2.0))
    plain = NOW.replace(tzinfo=None)
    kept = at_rest(session)
    assert [(entry["id"], entry["n"], entry["value"], entry["__event_at"], entry["__known_at"]) for entry in kept] == [
        (7, 1, 0.5, plain - MINUTE, plain),
        (8, None, 2.0, plain - MINUTE, plain),
    ]
    assert session.records.find(PUSHES, workspace="default") == [done]
    assert [entry.verb for entry in list_audit(session) if entry.verb.startswith("features")] == []
    assert session.tables.partitions(PUSHED) == [{"batch": done.id, "version": version.version, "view": "cart", "workspace": "default"}]


def test_a_push_older_than_what_stands_is_kept_offline_and_changes_nothing_online(session: Session) -> None:
    version = know_cart(session)
    push(session, "cart", [row(n=1)])
    later = push(session, "cart", [row(n=2, at=NOW - MINUTE), row(8, n=3)])
    assert (later.n, later.n_rows, later.n_online) == (2, 2, 1)
    assert (read(session), read(session, 8)) == ((1, 0.5), (3, 0.5))
    assert len(at_rest(session)) == 3
    materialised = pa.table(
        {"id": [7], "n": [9], "value": [9.0]} | {name: pa.array([NOW.replace(tzinfo=None) - MINUTE]) for name in ("__event_at", "__known_at")}
    )
    assert write_online(session, version, materialised) == 0
    assert read(session) == (1, 0.5)


def test_of_two_pushes_about_the_same_instant_the_later_counts_online_and_offline(session: Session) -> None:
    know_cart(session)
    push(session, "cart", [row(n=1)])
    push(session, "cart", [row(n=2)])
    assert read(session) == (2, 0.5)
    newest = max(at_rest(session), key=lambda entry: (entry["__event_at"], entry["__known_at"], entry["__order"]))
    assert newest["n"] == 2


def test_a_table_is_taken_as_rows_are(session: Session) -> None:
    know_view(session, "wide", keys={"u": "uuid", "d": "date"}, features={"b": "bool", "s": "text", "t": "timestamp", "x": "number"}, pushed=True)
    unique = "123E4567-E89B-12D3-A456-426614174000"
    local = datetime(2026, 1, 1, 12)  # noqa: DTZ001 - as the table has it
    given = {"u": UUID(unique), "d": "2026-01-02", "b": True, "s": "ü", "t": "2026-01-01T12:00:00", "x": 3, "__event_at": "2026-01-05T07:00:00Z"}
    push(session, "wide", [given])
    table = pa.table(
        {
            "s": pa.array(["ü"]).dictionary_encode(),
            "x": [3],
            "t": pa.array([local], pa.timestamp("s")),
            "b": [True],
            "d": [date(2026, 1, 2)],
            "u": [unique],
        }
        | {"__event_at": pa.array([datetime(2026, 1, 5, 8, tzinfo=timezone(timedelta(hours=1)))])}
    )
    push(session, "wide", table)
    first, second = ({name: value for name, value in entry.items() if name != "__order"} for entry in at_rest(session))
    assert first == second
    assert first["u"] == unique.lower()
    assert open_online(session, ["wide"]).read_one(unique, date(2026, 1, 2))[0].values == (True, "ü", local, 3.0)


def test_times_without_an_offset_are_read_in_the_zone_that_is_declared(session: Session) -> None:
    know_cart(session, zone="Asia/Tokyo")
    push(session, "cart", [row(at="2026-01-05T16:30"), row(8, at=datetime(2026, 1, 5, 7, 30, tzinfo=UTC))])
    naive = pa.table({"id": [9], "n": [1], "value": [0.5], "__event_at": pa.array([datetime(2026, 1, 5, 16, 30)])})  # noqa: DTZ001 - in Tokyo
    push(session, "cart", naive)
    assert {entry["__event_at"] for entry in at_rest(session)} == {datetime(2026, 1, 5, 7, 30)}  # noqa: DTZ001 - plain UTC


def test_numbers_are_kept_as_the_column_is_stored(session: Session) -> None:
    know_cart(session, stored={"n": "TINYINT", "value": "FLOAT"})
    push(session, "cart", [row(n=-128, value=0.1)])
    narrow = float(np.float32(0.1))
    assert (read(session), at_rest(session)[0]["value"]) == ((-128, narrow), narrow)
    for wrong in (row(n=128), row(value=1e300)):
        with pytest.raises(InvalidInput, match="Nothing was changed"):
            push(session, "cart", [wrong])
    assert len(at_rest(session)) == 1


TABLE = pa.table({"id": [7], "n": [1], "value": [0.5], "__event_at": pa.array([NOW])})
WRONG: list[tuple[Any, str]] = [
    ([], "has 0 rows; it may have 1 to 10,000"),
    (TABLE.slice(0, 0), "has 0 rows"),
    ([row(key) for key in range(MOST_ROWS + 1)], "has 10,001 rows; it may have 1 to 10,000. Nothing was changed. Hint: push in parts"),
    ({"id": 7}, "came as a dict. Nothing was changed. Hint: give a list of rows"),
    ("id=7", "came as a str"),
    ([7], "has a int for row 0"),
    ([row(), {"id": 8}], "has no column '__event_at' in row 1"),
    ([row(), row(8, colour="red")], "has the column 'colour' in row 1, which the view has not"),
    ([{**row(), "valu": 1.0}], "has the column 'valu' in row 0, which the view has not. Nothing was changed. Hint: did you mean 'value'?"),
    (TABLE.drop_columns(["n"]), "has no column 'n'. It needs: ['id', '__event_at', 'n', 'value']"),
    (TABLE.append_column("m", [[1]]), "has the column 'm', which the view has not"),
    (TABLE.append_column("n", [[1]]), "has columns that share a name"),
    ([row(), row(None)], "has no 'id' in row 1"),
    ([row(at=None)], "has no '__event_at' in row 0"),
    ([row("7")], "has '7' (a str) for 'id' in row 0, which is integer"),
    ([row(), row(8, n=1.0)], "has 1.0 (a float) for 'n' in row 1, which is integer"),
    ([row(n=True)], "has True (a bool) for 'n'"),
    ([row(n=2**63)], "(a int) for 'n' in row 0"),
    ([row(value="0.5")], "has '0.5' (a str) for 'value' in row 0, which is number"),
    ([row(value=False)], "has False (a bool) for 'value'"),
    ([row(value=float("nan"))], "has nan (a float) for 'value' in row 0, which is number. Nothing was changed. Hint: a number is finite"),
    ([row(value=float("-inf"))], "has -inf (a float) for 'value'"),
    ([row(value=2**53 + 1)], "whole ones have at most 53 bits"),
    (TABLE.set_column(2, "value", [[float("inf")]]), "has inf for 'value' in row 0"),
    (TABLE.set_column(2, "value", [[float("nan")]]), "has nan for 'value' in row 0"),
    (TABLE.set_column(2, "value", [["0.5"]]), "has 'value' as string, and it is number"),
    (TABLE.set_column(0, "id", [[7.0]]), "has 'id' as double, and it is integer"),
    (TABLE.set_column(0, "id", [pa.array([2**63], pa.uint64())]), "has a value of 'id' that BIGINT does not hold"),
    (TABLE.set_column(3, "__event_at", [["2026-01-05T08:00Z"]]), "has '__event_at' as string, and it is instant"),
    ([row(at="2026-01-05T08:00")], "has a time without an offset in '__event_at', row 0, and neither the view nor its table says its zone"),
    (TABLE.set_column(3, "__event_at", pa.array([NOW.replace(tzinfo=None)])), "has a time without an offset"),
    ([row(at="yesterday")], "has 'yesterday' (a str) for '__event_at' in row 0, which is instant"),
    ([row(at=1_767_600_000)], "has 1767600000 (a int) for '__event_at'"),
    ([row(), row(8, at=NOW + timedelta(milliseconds=250))], "is about 2026-01-05 08:00:00 UTC in row 1, 250 ms from now"),
    ([row(), row(8), row(7, n=2)], "has the same key in its rows 0 and 2"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "says"), WRONG)
def test_a_push_that_is_wrong_is_refused_and_nothing_is_changed(session: Session, rows: Any, says: str) -> None:
    version = know_cart(session)
    with pytest.raises(InvalidInput, match=re.escape(says)) as raised:
        push(session, "cart", rows)
    assert str(raised.value).startswith(f"A push to '{version.id}' ")
    assert (at_rest(session), session.records.find(PUSHES, workspace="default"), session.online.spaces()) == ([], [], [])


def test_texts_have_a_limit_and_keys_too(session: Session) -> None:
    know_view(session, "note", keys={"k": "text"}, features={"s": "text"}, pushed=True)
    push(session, "note", [{"k": "k" * 2048, "s": "ü" * 32_768, "__event_at": NOW}])
    with pytest.raises(InvalidInput, match=r"a text of 1,000,000 bytes for 's' in row 1; the most are 65,536.*keep it elsewhere"):
        push(session, "note", [{"k": "a", "s": None, "__event_at": NOW}, {"k": "b", "s": "x" * 1_000_000, "__event_at": NOW}])
    with pytest.raises(InvalidInput, match="2,049 bytes; the most are 2,048"):
        push(session, "note", [{"k": "k" * 2049, "s": "", "__event_at": NOW}])
    with pytest.raises(InvalidInput, match="for 's' in row 0, which is text"):
        push(session, "note", [{"k": "a", "s": "\ud800", "__event_at": NOW}])
    assert len(at_rest(session)) == 1


def test_values_of_personal_columns_are_not_shown(session: Session) -> None:
    know_cart(session, personal=("id", "value"))
    with pytest.raises(InvalidInput, match=r"has a value \(a str\) for 'id' in row 0") as raised:
        push(session, "cart", [row("ada@example.com")])
    assert "ada" not in str(raised.value.to_dict())


def test_only_views_that_say_so_and_whose_types_are_known_take_pushes(session: Session) -> None:
    know_cart(session, pushed=False)
    with pytest.raises(InvalidInput, match=r"takes no pushes\. Hint: define it with pushed=True"):
        push(session, "cart", [row()])
    with pytest.raises(NotFound, match=r"No feature view 'carts'.*did you mean 'cart'"):
        push(session, "carts", [row()])
    with pytest.raises(PermissionDenied, match="'features push' needs the permission 'edit'"):
        push(replace(session, role=Role.VIEWER), "cart", [row()])


def test_a_view_that_is_not_online_keeps_what_is_pushed_offline(session: Session) -> None:
    know_cart(session, online=False)
    done = push(session, "cart", [row()])
    assert (done.online, done.n_online, len(at_rest(session)), session.online.spaces()) == ("none", 0, 1, [])


def test_many_pushes_become_few_files_and_no_row_is_lost(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushes, "MERGE_FROM", 3)
    version = know_cart(session)
    for n in range(1, 21):
        push(session, "cart", [row(n=n, at=advance(session, 5 * MINUTE))])
        kept = {(entry["n"], entry["__event_at"], entry["__known_at"], entry["__order"]) for entry in at_rest(session)}
        assert {entry[0] for entry in kept} == set(range(1, n + 1))
        assert len(kept) == n
    push(session, "cart", [row(n=21)])
    for _ in range(5):
        assert {entry["n"] for entry in at_rest(session)} == set(range(1, 22))
        advance(session, timedelta(hours=2))
        merge_pushes(session, version)
    assert len(session.tables.partitions(PUSHED)) <= 6
    assert sorted(entry["n"] for entry in at_rest(session)) == list(range(1, 22))
    assert session.records.find(PUSH_MERGES, workspace="default", where={"view": "cart", "version": version.version, "removed": True})


def prepare(home: Path) -> None:
    """A home where a view stands, with one push."""
    session = make_session(home, start=NOW)
    know_cart(session)
    push(session, "cart", [row(n=1, at=NOW - MINUTE)])
    session.ports.close()


def push_at(home: Path, at: datetime, n: int, **options: Any) -> Any:
    session = make_session(home, start=at)
    session = replace(session, new_id=lambda prefix: f"{prefix}_{n}")
    try:
        return push(session, "cart", [row(n=n, at=at), row(8, n=n, at=at)], **options)
    finally:
        session.ports.close()


def look(home: Path) -> tuple[list[Any], list[tuple[Any, ...] | None], set[str]]:
    """What a home says: the values at rest, those online, and how its pushes stand."""
    session = make_session(home, start=NOW + MINUTE)
    try:
        found = sorted((entry["id"], entry["n"]) for entry in at_rest(session))
        states = {entry.online for entry in session.records.find(PUSHES, workspace="default")}
        return found, [read(session), read(session, 8)], states
    finally:
        session.ports.close()


def in_child(work: Callable[[], object]) -> bool:
    """Do something in a process of its own; whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def test_a_push_killed_at_any_instant_is_whole_or_not_and_the_next_makes_it_good(tmp_path: Path) -> None:
    prepare(tmp_path / "prepared")
    counted = Instants(kill, at=None)
    shutil.copytree(tmp_path / "prepared", tmp_path / "counted")
    with striking(tmp_path / "counted", counted):
        push_at(tmp_path / "counted", NOW, 2)
    n_instants, n_killed, n_left = len(counted.names), 0, 0
    assert n_instants > 15
    tried = range(1, n_instants + 1, EVERY)
    for at in tried:
        home = tmp_path / str(at)
        shutil.copytree(tmp_path / "prepared", home)

        def act(home: Path = home, at: int = at) -> None:
            with striking(home, Instants(kill, at=at)):
                push_at(home, NOW, 2)

        n_killed += not in_child(act)
        kept, online, states = look(home)
        assert kept in ([(7, 1)], [(7, 1), (7, 2), (8, 2)])
        assert online in ([(1, 0.5), None], [(2, 0.5), (2, 0.5)])
        assert not (online[1] and len(kept) == 1)  # nothing is served that is not at rest
        n_left += "pending" in states
        done = push_at(home, NOW + MINUTE, 3)
        assert (done.n_online, done.online) == (2, "done")
        kept, online, states = look(home)
        assert kept in ([(7, 1), (7, 3), (8, 3)], [(7, 1), (7, 2), (7, 3), (8, 2), (8, 3)])
        assert online == [(3, 0.5), (3, 0.5)]
        later = make_session(home, start=NOW + timedelta(minutes=20))
        finish_pushes(later, know_cart(later))
        later.ports.close()
        assert "pending" not in look(home)[2]
    assert n_killed == len(tried)
    assert n_left > 0


def test_a_push_that_could_not_be_put_online_is_finished_by_the_next(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare(home)
    counted = Instants(kill, at=None)
    shutil.copytree(home, tmp_path / "counted")
    with striking(tmp_path / "counted", counted):
        push_at(tmp_path / "counted", NOW, 2)
    first_online = next(at for at, name in enumerate(counted.names, 1) if name.startswith("before INSERT") and "row" in name.split()[2])
    with striking(home, Instants(fill, at=first_online, lasts=True)), pytest.raises(StorageFull):
        push_at(home, NOW, 2)
    assert look(home) == ([(7, 1), (7, 2), (8, 2)], [(1, 0.5), None], {"pending", "done"})
    session = make_session(home, start=NOW)
    assert finish_pushes(session, know_cart(session)) == 1
    session.ports.close()
    assert look(home) == ([(7, 1), (7, 2), (8, 2)], [(2, 0.5), (2, 0.5)], {"done"})
