from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, GateRefused, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.evaluation.records import CheckResult, Groups
from endcap.loop.registry.comparisons import compare, find_comparison, get_comparison, list_comparisons, read_groups, start_comparison
from endcap.loop.registry.records import COMPARISONS, MEMBER_METRICS, MEMBER_STATES
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.versions import record_verdict

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"
NAMES = [f"S{i:03d}" for i in range(40)]
GROUPS = Groups(tuple(NAMES[:20]), tuple(NAMES[20:]))
V1, V2, V3 = "store-day-v1", "store-day-v2", "store-day-v3"


@pytest.fixture
def two(shop: Any) -> Any:
    """A champion with figures by member, and a version that did not beat it."""
    release(shop, "a", evidence="e1")
    keep_members(shop, "e1")
    challenge(shop, "b")
    return shop


def release(shop: Any, identity: str, **changes: Any) -> Any:
    version = shop.register(identity, **changes)
    champion = get_champion(shop.session, MODEL)
    shop.judge(version, against=champion.version if champion else None)
    return promote(shop.session, version.id)


def challenge(shop: Any, identity: str, *, bias: bool = True) -> Any:
    """A version that passed all checks but the one against the champion."""
    version = shop.register(identity)
    verdict = shop.judge(version, passed=False, against=V1)
    checks = (
        CheckResult(check="wape against the best baseline (naive)", passed=True, figure=0.8, limit="below 1", sentence="beats it"),
        CheckResult(check=f"wape against the champion ({V1})", passed=False, figure=1.0, limit="below 1", sentence="does not clearly beat it"),
        CheckResult(check="bias", passed=bias, figure=0.2, limit="0.05", sentence="bias is +20 %"),
    )
    record_verdict(shop.session, msgspec.structs.replace(verdict, id=f"{verdict.id}_b", checks=checks))
    return version


def keep_members(shop: Any, evidence: str) -> None:
    n = len(NAMES)
    table = pa.table(
        {
            "member": NAMES,
            "n": [56] * n,
            "wape": [0.1 + i / 1000 for i in range(n)],
            "mae": [float(1 + i) for i in range(n)],
            "bias": [0.0] * n,
            "fact city_id": [str(i % 4) for i in range(n)],
        }
    )
    shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": evidence}, table=table)


def refused(shop: Any) -> list[tuple[str, object]]:
    return [(row.verb, row.detail.get("why")) for row in list_audit(shop.session) if row.outcome == "refused"]


def test_a_comparison_is_kept_with_its_lists_and_who_started_it(two: Any) -> None:
    found = start_comparison(two.session, V2, GROUPS, seed=7, share=0.5, by=("city_id",), reason="new method")
    assert (found.id, found.champion, found.challenger, found.n_a, found.n_b) == ("store-day-c1", V1, V2, 20, 20)
    assert (found.since, found.started_by, found.until, found.reason) == (two.session.now(), "ada", None, "new method")
    assert read_groups(two.session, found) == GROUPS
    assert find_comparison(two.session, MODEL) == get_comparison(two.session, MODEL) == found
    (row,) = (row for row in list_audit(two.session) if row.verb == "start-comparison")
    detail = {"challenger": V2, "members": found.members, "comparison": found.id, "champion": V1, "n_a": 20, "n_b": 20}
    assert (row.outcome, row.thing, row.detail) == ("done", "model/store-day", detail)


def test_the_challenger_need_not_beat_the_champion_but_everything_else(two: Any) -> None:
    biased = challenge(two, "c", bias=False)
    with pytest.raises(GateRefused, match=rf"'{V3}' cannot be compared: bias is \+20 %"):
        start_comparison(two.session, biased.id, GROUPS)
    unjudged = two.register("d")
    with pytest.raises(GateRefused, match="it was never judged by its gate"):
        start_comparison(two.session, unjudged.id, GROUPS)
    assert refused(two) == [("start-comparison", "it was never judged by its gate"), ("start-comparison", "bias is +20 %")]
    assert list_comparisons(two.session, MODEL) == []


def test_one_comparison_at_a_time(two: Any) -> None:
    start_comparison(two.session, V2, GROUPS)
    challenge(two, "c")
    with pytest.raises(Conflict, match="'store-day' is compared already: 'store-day-c1', store-day-v1 against store-day-v2, since"):
        start_comparison(two.session, V3, GROUPS)


def test_the_champion_is_not_compared_with_itself_and_a_model_without_one_not_at_all(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    with pytest.raises(Conflict, match="has no champion to compare with"):
        start_comparison(shop.session, version.id, GROUPS)
    with pytest.raises(Conflict, match="has no champion to compare with"):
        compare(shop.session, MODEL, challenger=version.id)
    promote(shop.session, version.id)
    with pytest.raises(Conflict, match="is the champion itself"):
        start_comparison(shop.session, version.id, GROUPS)
    with pytest.raises(NotFound, match="was never compared"):
        get_comparison(shop.session, MODEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "wap"}, r"'wap' is not a metric of a comparison. Metrics: .* did you mean 'wape'"),
        ({"smallest": 0.0}, "The smallest difference is 0.0"),
        ({"smallest": float("nan")}, "The smallest difference is nan"),
        ({"n_days": 6}, "A comparison of 6 days was asked for; it takes 7 to 180"),
        ({"n_days": 181}, "it takes 7 to 180"),
        ({"groups": Groups(("S1",), ("S2", "S3"))}, "The groups hold 1 and 2 members"),
        ({"groups": Groups(("S1", "S2"), ("S2", "S3"))}, "must be apart"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(two: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        start_comparison(two.session, V2, options.pop("groups", GROUPS), **options)


def test_while_it_runs_no_version_is_promoted_and_a_rollback_ends_it(two: Any) -> None:
    release(two, "c")
    v3_challenger = challenge(two, "d")
    running = start_comparison(two.session, v3_challenger.id, GROUPS)
    ready = two.register("e")
    two.judge(ready, against=V3)
    with pytest.raises(GateRefused, match="cannot be released: the comparison 'store-day-c1' of store-day-v3 with store-day-v4 runs"):
        promote(two.session, ready.id)
    assert refused(two)[0][0] == "promote"
    assert rollback(two.session, MODEL, reason="complaints").version == V1
    ended = get_comparison(two.session, MODEL)
    assert (ended.id, ended.how, ended.ended_by, ended.finding) == (running.id, "rolled back", "ada", "complaints")
    assert ended.until == two.session.now()
    assert find_comparison(two.session, MODEL) is None
    (row,) = (row for row in list_audit(two.session) if row.verb == "rollback")
    assert row.detail["comparison"] == running.id


def test_a_comparison_that_starts_while_a_version_is_promoted_stops_the_promotion(two: Any, tamper: Callable[..., Any]) -> None:
    ready = two.register("e")
    two.judge(ready, against=V1)
    late = tamper(two.session, before=lambda: start_comparison(two.session, V2, GROUPS))
    with pytest.raises(Conflict, match=r"'store-day-v3' cannot be released: the comparison 'store-day-c1'"):
        promote(late, ready.id)
    assert len(show_history(two.session, MODEL)) == 1


def test_a_comparison_and_its_audit_row_are_kept_together(two: Any, tamper: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="full"):
        start_comparison(tamper(two.session, breaks="comparison"), V2, GROUPS)
    assert two.session.records.find(COMPARISONS, workspace="default") == []
    assert not [row for row in list_audit(two.session) if row.verb == "start-comparison"]


def test_groups_are_drawn_alike_from_the_champions_members(two: Any) -> None:
    found = compare(two.session, MODEL, challenger=V2, by="city_id", share=0.25, seed=3)
    groups = read_groups(two.session, found)
    assert (len(groups.a), len(groups.b), found.seed, found.share, found.by) == (30, 10, 3, 0.25, ("city_id",))
    assert sorted([*groups.a, *groups.b]) == NAMES
    cities = [NAMES.index(name) % 4 for name in groups.b]
    assert all(2 <= cities.count(city) <= 3 for city in range(4))
    assert [balance.what for balance in found.balance] == ["mean actual", "wape in validation"]


def test_retired_members_are_neither_drawn_nor_known(two: Any) -> None:
    day = pa.nulls(1, pa.date32())
    states = pa.table({"member": ["S007"], "first_row": day, "last_row": day, "retired": [True]})
    two.session.tables.write(MEMBER_STATES, partition={"workspace": "default", "model": MODEL}, table=states)
    with pytest.raises(InvalidInput, match=r"1 member is not known to the model: \['S007'\]"):
        compare(two.session, MODEL, challenger=V2, a="S001,S002", b="S003,S007")
    groups = read_groups(two.session, compare(two.session, MODEL, challenger=V2))
    assert sorted([*groups.a, *groups.b]) == [name for name in NAMES if name != "S007"]


def test_lists_are_given_as_names_or_as_files(two: Any, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("\ufeffS003\n\nS004 \r\nS005\n", encoding="utf-8")
    found = compare(two.session, MODEL, challenger=V2, a="S001, S002", b=f"@{tmp_path / 'b.txt'}")
    assert read_groups(two.session, found) == Groups(("S001", "S002"), ("S003", "S004", "S005"))
    assert (found.seed, found.share) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": "S001,S002"}, "One list of members is given without the other"),
        ({"a": "S001,S002", "b": "S003,S004", "by": "city_id"}, "Lists of members are given, and facts"),
        ({"a": "S001,S002", "b": "S003,X1,X2"}, r"2 members are not known to the model: \['X1', 'X2'\]"),
        ({"a": "S001,S002", "b": "@nowhere.txt"}, "--b @nowhere.txt cannot be read"),
        ({"by": "city"}, r"has no fact 'city'. Facts: \['city_id'\]. .* did you mean 'city_id'"),
        ({"share": 2.0}, "The share is 2.0"),
    ],
)
def test_what_cannot_be_compared_is_said(two: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compare(two.session, MODEL, challenger=V2, **options)
    assert list_comparisons(two.session, MODEL) == []


def test_a_version_of_another_model_or_without_members_is_not_compared(two: Any, shop_of: Callable[..., Any]) -> None:
    two.define("other")
    foreign = two.register("x", model="other")
    with pytest.raises(InvalidInput, match="'other-v1' is a version of 'other', not of 'store-day'"):
        compare(two.session, MODEL, challenger=foreign.id)
    two.session.tables.delete(MEMBER_METRICS, partition={"workspace": "default", "evidence": "e1"})
    with pytest.raises(NotFound, match="keeps no figures by member"):
        compare(two.session, MODEL, challenger=V2)


def test_only_who_may_release_may_compare(two: Any) -> None:
    editor = replace(two.session, role=Role.EDITOR)
    with pytest.raises(PermissionDenied):
        start_comparison(editor, V2, GROUPS)
    assert list_comparisons(editor, MODEL) == []


def test_comparisons_are_counted_and_found_by_id(two: Any) -> None:
    first = start_comparison(two.session, V2, GROUPS)
    release_before = get_champion(two.session, MODEL)
    assert release_before is not None
    with two.session.change("test", thing="model/store-day") as change:
        from endcap.loop.registry.comparisons import end_comparison

        end_comparison(two.session, change, first, how="kept a")
    second = start_comparison(two.session, V2, GROUPS)
    assert [entry.id for entry in list_comparisons(two.session, MODEL)] == ["store-day-c2", "store-day-c1"]
    assert get_comparison(two.session, MODEL) == second
    assert get_comparison(two.session, MODEL, comparison="store-day-c1").how == "kept a"
    with pytest.raises(NotFound, match=r"no comparison 'store-day-c3'. Comparisons: \['store-day-c2', 'store-day-c1'\]"):
        get_comparison(two.session, MODEL, comparison="store-day-c3")
    with pytest.raises(Conflict, match="has ended: kept a, by ada"), two.session.change("test", thing="model/store-day") as change:
        end_comparison(two.session, change, first, how="kept b")
