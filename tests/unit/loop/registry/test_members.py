from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest

from endcap.core.errors import InvalidInput, NotFound
from endcap.loop.registry.members import list_members, summarize_members
from endcap.loop.registry.records import MEMBER_METRICS, MEMBER_STATES, MEMBER_STATUSES, Version

DAY = date(2026, 1, 4)


@pytest.fixture
def version(shop: Any) -> Version:
    """Five members judged; by the newest data one is gone, one stopped, one came."""
    made: Version = shop.register("a", evidence="e" * 64, trained_until=DAY)
    rows = {
        "member": ["a", "b", "c", "d", "e"],
        "n": [10, 10, 10, 10, 0],
        "wape": [0.1, 0.5, 0.2, 0.3, None],
        "mae": [1.0, 5.0, 2.0, 3.0, None],
        "bias": [0.0, 0.4, 0.1, 0.0, None],
        "coverage_90": [0.9, 0.5, 0.9, 0.9, None],
        "fallback": [None, None, None, None, "too few days"],
        "status": ["good", "bad", "unsure", "good", "fallback"],
        "candidate": ["members"] * 5,
        "baseline": ["weekday_mean"] * 5,
        "baseline_wape": [0.2, 0.4, 0.2, 0.4, None],
        "ratio": [0.5, 1.25, 1.01, 0.75, None],
        "last_row": [DAY] * 5,
        "fact city": ["x", "y", "x", None, "x"],
    }
    shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": made.evidence}, table=pa.table(rows))
    return made


def note(shop: Any, last: dict[str, date], *, retired: tuple[str, ...] = ()) -> None:
    rows = {"member": list(last), "first_row": list(last.values()), "last_row": list(last.values()), "retired": [m in retired for m in last]}
    shop.session.tables.write(MEMBER_STATES, partition={"workspace": "default", "model": "store-day"}, table=pa.table(rows))


def statuses(shop: Any, version: Version) -> dict[str, str]:
    return {line.member: line.status for line in list_members(shop.session, version.id, limit=0, order="member")}


def test_members_are_listed_with_what_they_were_judged_by(shop: Any, version: Version) -> None:
    first = list_members(shop.session, version.id)[0]
    assert (first.member, first.status, first.ratio, first.baseline, first.facts, first.last_row) == (
        "b",
        "bad",
        1.25,
        "weekday_mean",
        {"city": "y"},
        DAY,
    )
    assert [line.facts for line in list_members(shop.session, version.id, order="member")] == [
        {"city": "x"},
        {"city": "y"},
        {"city": "x"},
        {},
        {"city": "x"},
    ]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "bdcae"),
        ({"order": "ratio"}, "bcdae"),
        ({"order": "status"}, "becda"),
        ({"order": "member"}, "abcde"),
        ({"status": "good"}, "da"),
        ({"status": "stale"}, ""),
        ({"segment": "city=x"}, "cae"),
        ({"segment": "city=x", "status": "fallback"}, "e"),
        ({"limit": 2}, "bd"),
    ],
)
def test_members_are_filtered_and_ordered(shop: Any, version: Version, asked: dict[str, Any], expected: str) -> None:
    assert "".join(line.member for line in list_members(shop.session, version.id, **asked)) == expected


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"status": "baad"}, r"'baad' is no status of members. Offered: .* did you mean 'bad'"),
        ({"order": "size"}, "'size' is no order of members"),
        ({"segment": "town=x"}, r"have no fact 'town'. Facts: \['city'\]"),
        ({"segment": "city=z"}, r"No member of 'store-day-v1' has city=z. Values: \['x', 'y'\]"),
        ({"limit": -1}, "limit is -1"),
    ],
)
def test_what_cannot_be_listed_is_told(shop: Any, version: Version, asked: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidInput, match=match):
        list_members(shop.session, version.id, **asked)


def test_the_newest_data_say_who_is_gone_stopped_and_came(shop: Any, version: Version) -> None:
    later = DAY + timedelta(days=20)
    note(shop, {"a": DAY, "b": DAY, "c": later - timedelta(days=14), "d": DAY, "e": DAY, "f": later, "g": DAY}, retired=("d", "g"))
    assert statuses(shop, version) == {"a": "stale", "b": "bad", "c": "unsure", "d": "retired", "e": "fallback", "f": "new"}
    assert {line.member: line.last_row for line in list_members(shop.session, version.id)}["f"] == later
    summary = summarize_members(shop.session, version)
    assert summary is not None
    assert (summary.n, summary.by_status) == (6, {"bad": 1, "fallback": 1, "stale": 1, "new": 1, "unsure": 1, "retired": 1})
    assert list(summary.by_status) == [status for status in MEMBER_STATUSES if status != "good"]
    assert [line.member for line in summary.worst] == ["b"]
    assert summary.fallen_back == {"too few days": 1}


def test_members_of_an_old_fit_are_stale(shop: Any, version: Version) -> None:
    for weeks, expected in ((13, "good"), (14, "stale")):
        note(shop, dict.fromkeys("abcde", DAY + timedelta(weeks=weeks)))
        assert statuses(shop, version)["a"] == expected


def test_a_version_without_members_has_no_summary(shop: Any) -> None:
    assert summarize_members(shop.session, shop.register("a")) is None
    with pytest.raises(NotFound, match="'store-day-v1' keeps no figures by member"):
        list_members(shop.session, "store-day-v1")
