"""Reading features online: the newest row that is known, how fresh it is, and why a value is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.sessions import Session
from endcap.loop.features.online import MOST_KEYS, OnlineRow, name_space, open_online, read_online, sample_online, write_online
from endcap.loop.features.records import ALWAYS, VIEW_VERSIONS, ViewVersion
from endcap.testing.sessions import make_session
from endcap.testing.views import know_view

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["memory", "embedded"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    opened = make_session("memory://" if request.param == "memory" else tmp_path / "home", start=NOW)
    yield opened
    opened.ports.close()


def microseconds(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def rows(columns: dict[str, Any], *, event: list[datetime], known: list[datetime] | None = None) -> pa.Table:
    times = {"__event_at": event, "__known_at": known or event}
    plain = {name: pa.array([instant.replace(tzinfo=None) for instant in instants], pa.timestamp("us")) for name, instants in times.items()}
    return pa.table(plain | columns)


def know_user(session: Session, **options: Any) -> ViewVersion:
    return know_view(session, "user", keys={"id": "integer"}, features={"clicks": "integer", "rate": "number"}, **options)


def test_the_newest_known_row_of_each_key_is_written_and_read(session: Session) -> None:
    version = know_user(session)
    table = rows(
        {"clicks": [1, 2, 3, 4, 5, 6], "rate": [0.1, None, float("nan"), 0.4, 0.5, 0.6], "id": [7, 7, 8, 8, None, 9]},
        event=[NOW - 2 * HOUR, NOW - HOUR, NOW - HOUR, NOW - HOUR, NOW, NOW - HOUR],
        known=[NOW, NOW - HOUR, NOW, NOW - HOUR, NOW, NOW + HOUR],
    )
    assert write_online(session, version, table) == 2
    assert write_online(session, version, table) == 2
    reader = open_online(session, ["user"])
    assert (reader.keys, reader.views, reader.features) == (("id",), (version.id,), {version.id: ("clicks", "rate")})
    (one,) = reader.read_one(7)
    assert one == OnlineRow((2, None), microseconds(NOW - HOUR), microseconds(NOW - HOUR), 3_600_000_000, None)
    (many,) = reader.read([8, 7, 9, None, 8])
    assert many.columns["clicks"] == [3, 2, None, None, 3]
    assert str(many.columns["rate"]) == "[nan, None, None, None, nan]"
    assert many.reasons == [None, None, "absent", "no key", None]
    assert many.known_us == [microseconds(NOW), microseconds(NOW - HOUR), None, None, microseconds(NOW)]
    assert reader.read_one(9)[0] == OnlineRow(None, None, None, None, "absent")
    assert reader.read_one(None)[0].reason == "no key"
    assert session.online.spaces() == [name_space(session, version)]


def test_of_rows_with_the_same_times_the_last_in_the_order_of_ingest_counts(session: Session) -> None:
    version = know_user(session)
    table = rows({"id": [7] * 3, "clicks": [1, 2, 3], "rate": [0.0] * 3, "__order": [5, 9, 7]}, event=[NOW] * 3)
    assert write_online(session, version, table) == 1
    assert open_online(session, ["user"]).read_one(7)[0].values == (2, 0.0)
    assert write_online(session, version, table.drop_columns(["__order"])) == 1
    assert open_online(session, ["user"]).read_one(7)[0].values == (3, 0.0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_the_batches_the_store_says_what_a_search_through_all_rows_says(data: st.DataObject) -> None:
    session = make_session(start=NOW)
    version = know_user(session, max_age="3h")
    hours = st.integers(0, 4).map(lambda n: NOW - n * HOUR)
    entry = st.tuples(st.sampled_from([1, 2, 3, None]), hours, st.integers(0, 5).map(lambda n: NOW + HOUR - n * HOUR), st.integers(0, 9))
    batches = data.draw(st.lists(st.lists(entry, max_size=8), max_size=4))
    said: list[tuple[int | None, datetime, datetime, int, int]] = []
    for n, batch in enumerate(batches):
        known = [max(event, known) for _, event, known, _ in batch]
        columns = {"id": pa.array([e[0] for e in batch], pa.int64()), "clicks": pa.array([e[3] for e in batch], pa.int64())}
        columns |= {"rate": pa.nulls(len(batch), pa.float64()), "__order": pa.array(range(len(batch)), pa.int64())}
        write_online(session, version, rows(columns, event=[e[1] for e in batch], known=known))
        said += [(e[0], e[1], k, 100 * n + place, e[3]) for place, (e, k) in enumerate(zip(batch, known, strict=True))]
    reader = open_online(session, ["user"])
    for key in (1, 2, 3, 4):
        there = [entry for entry in said if entry[0] == key and entry[2] <= NOW]
        newest = max(there, key=lambda entry: entry[1:4], default=None)
        (one,) = reader.read_one(key)
        if newest is None:
            assert one.reason == "absent"
        elif newest[1] < NOW - 3 * HOUR:
            assert (one.values, one.reason, one.event_us) == (None, "expired", microseconds(newest[1]))
        else:
            assert one == OnlineRow(
                (newest[4], None), microseconds(newest[1]), microseconds(newest[2]), (NOW - newest[1]) // timedelta(microseconds=1), None
            )


def test_a_row_is_missing_once_it_is_older_than_its_age_allows(session: Session) -> None:
    version = know_user(session, max_age="2h")
    write_online(session, version, rows({"id": [7, 8], "clicks": [1, 2], "rate": [0.5, 0.5]}, event=[NOW - 2 * HOUR, NOW - HOUR]))
    reader = open_online(session, ["user"])
    assert [row.reason for row in (*reader.read_one(7), *reader.read_one(8))] == [None, None]
    assert isinstance(session.clock, ManualClock)
    session.clock.advance(timedelta(microseconds=1))
    assert reader.read_one(7)[0] == OnlineRow(None, microseconds(NOW - 2 * HOUR), microseconds(NOW - 2 * HOUR), 7_200_000_001, "expired")
    (found,) = reader.read([7, 8] * 10)
    assert found.columns == {"clicks": [None, 2] * 10, "rate": [None, 0.5] * 10}
    assert found.reasons == ["expired", None] * 10
    assert found.event_us == [microseconds(NOW - 2 * HOUR), microseconds(NOW - HOUR)] * 10


def test_facts_without_a_time_hold_for_ever(session: Session) -> None:
    version = know_user(session)
    table = rows({"id": [7], "clicks": [1], "rate": [0.5]}, event=[ALWAYS.replace(tzinfo=UTC)], known=[NOW])
    write_online(session, version, table)
    (view,) = read_online(session, ["user"], {"id": [7]}).views
    assert (view.features, view.event_at, view.known_at, view.age_s, view.reasons) == ({"clicks": [1], "rate": [0.5]}, [None], [NOW], [None], [None])


def test_many_views_are_read_by_the_keys_of_each(session: Session) -> None:
    user = know_user(session)
    pair = know_view(session, "pair", keys={"item": "text", "id": "integer"}, features={"seen": "bool", "last": "date"})
    item = know_view(session, "item", keys={"item": "text"}, features={"title": "text", "since": "timestamp"})
    write_online(session, user, rows({"id": [1, 2], "clicks": [10, 20], "rate": [0.1, 0.2]}, event=[NOW] * 2))
    write_online(session, pair, rows({"item": ["a", "b"], "id": [1, 1], "seen": [True, None], "last": [None, date(2026, 1, 2)]}, event=[NOW] * 2))
    since = datetime(2025, 12, 31, 23)  # noqa: DTZ001 - times of rows are plain
    write_online(session, item, rows({"item": ["a"], "title": ["Grün"], "since": [since]}, event=[NOW]))
    reader = open_online(session, ["pair", "user", "item"])
    assert reader.keys == ("item", "id")
    values = [row.values for row in reader.read_one("a", 1)]
    assert values == [(True, None), (10, 0.1), ("Grün", since)]
    assert [row.reason for row in reader.read_one("b", None)] == ["no key", "no key", "absent"]
    answer = read_online(session, ["pair", "user", "item"], {"id": [1, 1, 2, None], "item": ["a", "b", "a", "a"]})
    assert (answer.at, answer.n_keys) == (NOW, 4)
    assert [view.features for view in answer.views] == [
        {"seen": [True, None, None, None], "last": [None, date(2026, 1, 2), None, None]},
        {"clicks": [10, 10, 20, None], "rate": [0.1, 0.1, 0.2, None]},
        {"title": ["Grün", None, "Grün", "Grün"], "since": [since, None, since, since]},
    ]
    assert [view.reasons for view in answer.views] == [
        [None, None, "absent", "no key"],
        [None, None, None, "no key"],
        [None, "absent", None, None],
    ]
    assert [(view.view, view.version) for view in answer.views] == [("pair", pair.version), ("user", user.version), ("item", item.version)]
    assert msgspec.json.decode(msgspec.json.encode(answer))["views"][0]["features"]["last"] == [None, "2026-01-02", None, None]


def test_a_changed_definition_has_rows_of_its_own_and_the_old_one_is_still_read(session: Session) -> None:
    old = know_user(session)
    write_online(session, old, rows({"id": [7], "clicks": [1], "rate": [0.5]}, event=[NOW]))
    before = open_online(session, ["user"])
    new = know_user(session, where="clicks > 0")
    assert new.id != old.id
    assert open_online(session, ["user"]).read_one(7)[0].reason == "absent"
    write_online(session, new, rows({"id": [7], "clicks": [2], "rate": [0.5]}, event=[NOW]))
    both = open_online(session, [new.id, old.id])
    assert [row.values for row in both.read_one(7)] == [(2, 0.5), (1, 0.5)]
    assert before.read_one(7)[0].values == (1, 0.5)


def test_rows_of_a_table_whose_types_changed_are_outdated_until_they_are_written_again(session: Session) -> None:
    version = know_user(session)
    write_online(session, version, rows({"id": [7], "clicks": [1], "rate": [0.5]}, event=[NOW]))
    other = msgspec.structs.replace(version, feature_types={"clicks": "number", "rate": "number"})
    with session.records.transact() as tx:
        _, expected = tx.get_versioned(VIEW_VERSIONS, workspace="default", id=version.id) or (version, 0)
        tx.put(VIEW_VERSIONS, workspace="default", record=other, expected_version=expected)
    reader = open_online(session, ["user"])
    assert (reader.read_one(7)[0].reason, reader.read([7] * 9)[0].reasons) == ("outdated", ["outdated"] * 9)
    assert write_online(session, other, rows({"id": [7], "clicks": [1.5], "rate": [0.5]}, event=[NOW])) == 1
    assert reader.read_one(7)[0].values == (1.5, 0.5)


def test_workspaces_do_not_see_one_another(session: Session) -> None:
    other = replace(session, workspace="other")
    know_user(session)
    version = know_user(other)
    write_online(other, version, rows({"id": [7], "clicks": [1], "rate": [0.5]}, event=[NOW]))
    assert open_online(session, ["user"]).read_one(7)[0].reason == "absent"
    assert open_online(other, ["user"]).read_one(7)[0].values == (1, 0.5)
    with pytest.raises(NotFound, match="No feature view 'user' in workspace 'third'"):
        open_online(replace(session, workspace="third"), ["user"])


def test_keys_of_every_type_are_found_in_each_form_that_they_come_in(session: Session) -> None:
    ids = [str(UUID(int=n)) for n in range(3)]
    version = know_view(session, "thing", keys={"u": "uuid", "d": "date", "b": "bool", "t": "text"}, features={"f": "integer"})
    table = rows({"u": ids, "d": [date(2026, 1, 1)] * 3, "b": [True, False, True], "t": ["", "ü", "a"], "f": [1, 2, 3]}, event=[NOW] * 3)
    write_online(session, version, table)
    reader = open_online(session, ["thing"])
    forms: list[dict[str, Any]] = [
        {"u": ids, "d": [date(2026, 1, 1)] * 3, "b": [True, False, True], "t": ["", "ü", "a"]},
        {"u": [UUID(text) for text in ids], "d": ["2026-01-01"] * 3, "b": np.array([True, False, True]), "t": pa.array(["", "ü", "a"])},
        {"u": [text.upper() for text in ids], "d": pa.array([date(2026, 1, 1)] * 3), "b": (True, False, True), "t": np.array(["", "ü", "a"])},
    ]
    assert [reader.read(form)[0].columns["f"] for form in forms] == [[1, 2, 3]] * 3
    sampled = sample_online(session, version, 10)
    assert sorted(zip(*sampled.values(), strict=True)) == sorted(zip(*(forms[0][name] for name in "udbt"), strict=True))
    assert len(sample_online(session, version, 2)["u"]) == 2


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"id": ["7"]}, "is keyed by 'id' (integer), and a key has '7', a str. Hint: a whole number"),
        ({"id": [7, 7.0, None]}, "a key has 7.0, a float"),
        ({"id": [7, True]}, "a key has True, a bool"),
        ({"user": [7]}, "The keys have no column 'id'. Columns: ['user']"),
        ({"id": [7], "day": [1]}, "None of these views is keyed by 'day'. Keys: ['id']"),
        ({"id": 7}, "The key column 'id' is a int"),
        ({"id": "777"}, "The key column 'id' is a str"),
        ({"id": [7] * (MOST_KEYS + 1)}, "10,001 keys were asked for at once; the most are 10,000. Hint: ask in parts"),
        ({}, "The keys have no column 'id'"),
    ],
)
def test_keys_that_are_none_are_refused(session: Session, keys: dict[str, Any], says: str) -> None:
    know_user(session)
    with pytest.raises(InvalidInput, match=re.escape(says)):
        read_online(session, ["user"], keys)


def test_columns_of_different_length_and_keys_with_too_few_parts_are_refused(session: Session) -> None:
    know_view(session, "pair", keys={"a": "integer", "b": "integer"}, features={"f": "number"})
    reader = open_online(session, ["pair"])
    with pytest.raises(InvalidInput, match=re.escape("differ in length: {'a': 2, 'b': 1}")):
        reader.read({"a": [1, 2], "b": [1]})
    with pytest.raises(InvalidInput, match="keys are given by column"):
        reader.read([1, 2])
    with pytest.raises(InvalidInput, match=re.escape("A key has 1 values; these views are keyed by ['a', 'b']")):
        reader.read_one(1)
    assert reader.read({"a": [], "b": []})[0].columns == {"f": []}


def test_ten_thousand_keys_are_answered_at_once(session: Session) -> None:
    version = know_user(session)
    ids = np.random.default_rng(1).permutation(20_000)
    write_online(session, version, rows({"id": ids, "clicks": ids, "rate": ids / 2}, event=[NOW] * 20_000))
    asked = list(range(-500, MOST_KEYS - 500))
    (found,) = open_online(session, ["user"]).read(asked)
    assert found.columns["clicks"] == [None] * 500 + asked[500:]
    assert found.columns["rate"][500:] == [key / 2 for key in asked[500:]]


REFUSED: list[tuple[Callable[[Session], Any], type[Exception], str]] = [
    (lambda s: open_online(s, ["usr"]), NotFound, "No feature view 'usr'.*did you mean 'user'"),
    (lambda s: open_online(s, ["user@000000000000"]), NotFound, "no version '000000000000'"),
    (lambda s: open_online(s, ["user", "user"]), InvalidInput, "named twice"),
    (lambda s: open_online(s, []), InvalidInput, "The views to read are"),
    (lambda s: open_online(s, "user"), InvalidInput, "give a list of names"),
    (lambda s: open_online(s, ["offline"]), InvalidInput, "is not kept online.*online=True"),
    (lambda s: open_online(s, ["fresh"]), InvalidInput, "was never materialised.*endcap features materialise fresh"),
]


@pytest.mark.parametrize(("act", "error", "says"), REFUSED)
def test_views_that_cannot_be_read_are_refused(session: Session, act: Callable[[Session], Any], error: type[Exception], says: str) -> None:
    know_user(session)
    know_view(session, "offline", keys={"id": "integer"}, features={"f": "number"}, online=False)
    fresh = know_view(session, "fresh", keys={"id": "integer"}, features={"f": "number"})
    with session.records.transact() as tx:
        unknown = msgspec.structs.replace(fresh, key_types={}, feature_types={}, stored_types={})
        tx.put(VIEW_VERSIONS, workspace="default", record=unknown, expected_version=2)
    with pytest.raises(error, match=says):
        act(session)


def test_a_row_of_another_type_is_refused_and_nothing_is_written(session: Session) -> None:
    version = know_user(session)
    with pytest.raises(InvalidInput, match="keeps 'clicks' as integer, and double came"):
        write_online(session, version, rows({"id": [7], "clicks": [1.5], "rate": [0.5]}, event=[NOW]))
    with pytest.raises(InvalidInput, match="without the column 'rate'"):
        write_online(session, version, rows({"id": [7], "clicks": [1]}, event=[NOW]))
    assert session.online.spaces() == []
    assert (
        write_online(
            session, version, rows({"id": pa.array([], pa.int64()), "clicks": pa.array([], pa.int64()), "rate": pa.array([], pa.float64())}, event=[])
        )
        == 0
    )


def test_reading_asks_for_the_right_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    from endcap.core import permissions

    version = know_user(session)
    write_online(session, version, rows({"id": [7], "clicks": [1], "rate": [0.5]}, event=[NOW]))
    viewer = replace(session, role=Role.VIEWER)
    reader = open_online(viewer, ["user"])
    monkeypatch.setitem(permissions._HELD, Role.VIEWER, frozenset())
    assert reader.read_one(7)[0].values == (1, 0.5)
    with pytest.raises(PermissionDenied, match="'features online' needs the permission 'read'"):
        open_online(viewer, ["user"])
    assert [row.outcome for row in list_audit(session) if row.verb == "features online"] == ["refused"]
