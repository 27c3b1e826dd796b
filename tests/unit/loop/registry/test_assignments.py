"""Releases and rollbacks of some members; that any series of them adds up is in tests/oracles/test_assignments.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from endcap.core.errors import Conflict, GateRefused, IntegrityBroken, InvalidInput, NotFound
from endcap.governance.audit import list_audit, verify_audit
from endcap.loop.registry.assignments import Lines, read_assignment
from endcap.loop.registry.records import CHAMPIONS, MEMBER_METRICS, RELEASES, Standing
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"
STORES = {"1": "Berlin", "2": "Berlin", "3": "Essen", "4": None}


def add_version(shop: Any, identity: str, *, stores: dict[str, Any] | None = None) -> str:
    """A version with members that passed its gate against the champion of now."""
    shop.pass_time(hours=1)
    stores = STORES if stores is None else stores
    version = shop.register(identity, evidence=(identity * 64)[:64])
    table = pa.table({"member": list(stores), "fact city": pa.array(list(stores.values()), pa.string())})
    shop.session.tables.write(MEMBER_METRICS, partition={"workspace": "default", "evidence": version.evidence}, table=table)
    champion = get_champion(shop.session, MODEL)
    shop.judge(version, against=champion.version if champion else None)
    return str(version.id)


def answers(shop: Any) -> dict[str, str]:
    champion = get_champion(shop.session, MODEL)
    assert champion is not None
    found = dict.fromkeys(STORES, champion.version[-2:])
    assignment = read_assignment(shop.session, champion)
    if assignment is not None:
        found |= {m: assignment.versions[code][-2:] for m, code in zip(assignment.members, assignment.codes, strict=True)}
    return found


@pytest.fixture
def two(shop: Any) -> Any:
    """A champion for all, and a second version that passed."""
    promote(shop.session, add_version(shop, "a"))
    add_version(shop, "b")
    return shop


def test_some_members_get_a_version_and_the_others_keep_theirs(two: Any) -> None:
    row = promote(two.session, f"{MODEL}-v2", members=["3", "1", "3"], reason="pilot")
    assert answers(two) == {"1": "v2", "2": "v1", "3": "v2", "4": "v1"}
    assert (row.version, row.champion, row.n_members, row.sample, row.moved) == (f"{MODEL}-v2", f"{MODEL}-v1", 2, ("1", "3"), {f"{MODEL}-v2": 2})
    assert msgspec.json.decode(two.session.blobs.get(row.members)) == ["1", "3"]
    champion = get_champion(two.session, MODEL)
    assert champion is not None
    assert champion.version == f"{MODEL}-v1"
    assert champion.since < row.at, "for the others nothing changed"
    (audited,) = list_audit(two.session, limit=1)
    assert {name: audited.detail[name] for name in ("version", "n_members", "members", "sample")} == {
        "version": f"{MODEL}-v2",
        "n_members": 2,
        "members": row.members,
        "sample": "1, 3",
    }


def test_a_segment_names_members_by_a_fact(two: Any) -> None:
    assert promote(two.session, f"{MODEL}-v2", segment="city=Berlin").segment == "city=Berlin"
    assert answers(two) == {"1": "v2", "2": "v2", "3": "v1", "4": "v1"}
    rollback(two.session, MODEL, segment="city=Berlin")
    assert set(answers(two).values()) == {"v1"}


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"members": ["1", "x", "y"]}, r"2 of 3 members named are no members of 'store-day-v\d': 'x', 'y'\."),
        ({"members": [str(i) for i in range(1, 12)]}, r"7 of 11 members named are no members of .*: '10', '11', '5', '6', '7' \.\.\."),
        ({"members": []}, "The list of members is empty"),
        ({"members": "17"}, "'17'"),
        ({"members": ["1"], "segment": "city=Berlin"}, "Both members and the segment"),
        ({"segment": "Berlin"}, "'Berlin' is no segment"),
        ({"segment": "=Berlin"}, "is no segment"),
        ({"segment": "town=Berlin"}, r"have no fact 'town'. Facts: \['city'\]"),
        ({"segment": "city=Bonn"}, r"has city=Bonn. Values: \['Berlin', 'Essen'\]"),
    ],
)
@pytest.mark.parametrize("act", ["promote", "rollback"])
def test_a_bad_choice_of_members_moves_nobody(two: Any, chosen: dict[str, Any], match: str, act: str) -> None:
    before, n_rows = get_champion(two.session, MODEL), len(list_audit(two.session))
    with pytest.raises(InvalidInput, match=match):
        promote(two.session, f"{MODEL}-v2", **chosen) if act == "promote" else rollback(two.session, MODEL, **chosen)
    assert get_champion(two.session, MODEL) == before
    assert len(list_audit(two.session)) == n_rows


def test_a_version_without_members_is_not_released_in_parts(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    promote(shop.session, version.id)
    second = shop.register("b")
    shop.judge(second, against=version.id)
    with pytest.raises(NotFound, match="'store-day-v2' keeps no figures by member"):
        promote(shop.session, second.id, members=["1"])


def test_the_first_release_is_for_all(shop: Any) -> None:
    version = add_version(shop, "a")
    with pytest.raises(Conflict, match="Nothing answers for model 'store-day' yet"):
        promote(shop.session, version, members=["1"])
    assert get_champion(shop.session, MODEL) is None


def test_some_members_need_a_passing_verdict_too(two: Any) -> None:
    shop = two
    late = shop.register("late", evidence=("b" * 64))
    with pytest.raises(GateRefused, match="never judged"):
        promote(shop.session, late.id, members=["1"])
    shop.judge(late, passed=False, sentence="too high", against=f"{MODEL}-v1")
    with pytest.raises(GateRefused, match="too high"):
        promote(shop.session, late.id, members=["1"])
    assert set(answers(shop).values()) == {"v1"}


def test_members_that_have_the_version_are_not_moved(two: Any) -> None:
    promote(two.session, f"{MODEL}-v2", members=["1", "2"])
    with pytest.raises(Conflict, match=r"'store-day-v2' answers for all of these 2 members already"):
        promote(two.session, f"{MODEL}-v2", members=["1", "2"])
    assert promote(two.session, f"{MODEL}-v2", members=["2", "3"]).moved == {f"{MODEL}-v2": 1}
    rollback(two.session, MODEL)
    assert answers(two) == {"1": "v2", "2": "v2", "3": "v1", "4": "v1"}, "the newest release is taken back, the first pilot stands"


def test_a_pilot_that_is_released_for_all_and_taken_back_is_a_pilot_again(two: Any) -> None:
    promote(two.session, f"{MODEL}-v2", members=["1"])
    promote(two.session, f"{MODEL}-v2")
    champion = get_champion(two.session, MODEL)
    assert champion is not None
    assert read_assignment(two.session, champion) is None
    assert rollback(two.session, MODEL, again=True).version == f"{MODEL}-v1"
    assert answers(two) == {"1": "v2", "2": "v1", "3": "v1", "4": "v1"}
    assert rollback(two.session, MODEL, again=True).version == f"{MODEL}-v1"
    assert set(answers(two).values()) == {"v1"}


def test_the_champion_may_be_given_back_to_members_that_were_moved_apart(two: Any) -> None:
    promote(two.session, f"{MODEL}-v2", members=["1", "2"])
    promote(two.session, f"{MODEL}-v1", members=["2"])
    assert answers(two) == {"1": "v2", "2": "v1", "3": "v1", "4": "v1"}
    rollback(two.session, MODEL, members=["2"])
    assert answers(two)["2"] == "v2", "what answered for it before was the pilot"


def test_members_at_their_first_release_cannot_go_back_and_nobody_does(two: Any) -> None:
    promote(two.session, f"{MODEL}-v2", members=["1"])
    with pytest.raises(
        Conflict, match=r"1 of 2 members of model 'store-day' have no version to go back to: 'store-day-v1' is their first release \(2\)"
    ):
        rollback(two.session, MODEL, members=["1", "2"])
    assert answers(two)["1"] == "v2"


def test_history_answers_for_a_member(two: Any) -> None:
    two.pass_time(hours=1)
    pilot = promote(two.session, f"{MODEL}-v2", members=["1"], reason="pilot")
    two.pass_time(hours=1)
    back = rollback(two.session, MODEL, members=["1"], reason="complaints")
    first, second = show_history(two.session, MODEL, member="2"), show_history(two.session, MODEL, member="1")
    assert [(row.version, row.previous) for row in first] == [(f"{MODEL}-v1", None)]
    assert [(row.version[-2:], row.previous and row.previous[-2:], row.reason) for row in second] == [
        ("v1", "v2", "complaints"),
        ("v2", "v1", "pilot"),
        ("v1", None, ""),
    ]
    (then,) = show_history(two.session, MODEL, member="1", at=pilot.at.isoformat())
    assert (then.version, then.at, then.actor, then.reason) == (f"{MODEL}-v2", pilot.at, "ada", "pilot")
    (other,) = show_history(two.session, MODEL, member="2", at=back.at.isoformat())
    assert other.at == first[0].at
    with pytest.raises(InvalidInput, match="'17'"):
        show_history(two.session, MODEL, member="17")


@pytest.mark.parametrize("breaks", ["audit", "release"])
def test_a_partial_release_is_kept_whole_or_not_at_all(two: Any, tamper: Callable[..., Any], breaks: str) -> None:
    before, n_rows = get_champion(two.session, MODEL), len(two.session.records.find(RELEASES, workspace="default"))
    with pytest.raises(OSError, match="full"):
        promote(tamper(two.session, breaks=breaks), f"{MODEL}-v2", members=["1"])
    assert get_champion(two.session, MODEL) == before
    assert len(two.session.records.find(RELEASES, workspace="default")) == n_rows
    verify_audit(two.session)


def test_of_two_partial_releases_that_overlap_the_second_is_told(two: Any, tamper: Callable[..., Any]) -> None:
    overtaken = tamper(two.session, before=lambda: promote(two.session, f"{MODEL}-v2", members=["1"]))
    with pytest.raises(Conflict, match="changed a moment ago"):
        promote(overtaken, f"{MODEL}-v2", members=["2"])
    assert answers(two)["2"] == "v1"


class CountingRecords:
    """A store that counts what is asked of it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.n = inner, 0

    def __getattr__(self, name: str) -> Any:
        self.n += 1
        return getattr(self.inner, name)


def count_calls(shop: Any, act: Callable[[Any], object]) -> int:
    records = CountingRecords(shop.session.records)
    act(replace(shop.session, ports=replace(shop.session.ports, records=records)))
    return records.n


@pytest.mark.parametrize("names", [["1"], [str(i) for i in range(300)]])
def test_the_records_asked_for_do_not_grow_with_the_members(shop: Any, names: Sequence[str]) -> None:
    stores = dict.fromkeys([*names, "other"], "Berlin")
    promote(shop.session, add_version(shop, "a", stores=stores))
    second = add_version(shop, "b", stores=stores)
    n_rows = len(list_audit(shop.session, limit=1000))
    assert count_calls(shop, lambda session: promote(session, second, members=names)) == 13
    assert count_calls(shop, lambda session: rollback(session, MODEL, members=names)) == 14
    assert len(list_audit(shop.session, limit=1000)) == n_rows + 2
    assert len(shop.session.records.find(CHAMPIONS, workspace="default")) == 1


def test_an_assignment_that_is_gone_is_told(two: Any) -> None:
    promote(two.session, f"{MODEL}-v2", members=["1"])
    champion = get_champion(two.session, MODEL)
    assert champion is not None
    with pytest.raises(IntegrityBroken, match="Which version answers for which member"):
        read_assignment(two.session, msgspec.structs.replace(champion, assignment="0" * 64))


def test_nobody_goes_back_to_what_is_spent_whoever_they_stand_with() -> None:
    first, pilot, second = (Standing(n, f"release_{n}", f"{MODEL}-v{n}") for n in (1, 2, 3))
    lines, _ = Lines((first,)).promote(pilot, ["1"])
    lines, _ = lines.promote(second, None)
    back, moved = lines.roll_back(None)
    assert [line[-1].n for line in (back.own, back.line_of("1"))] == [1, 2]
    back, moved = lines.roll_back(None, spent={2})
    assert [line[-1].n for line in (back.own, back.line_of("1"))] == [1, 1]
    assert (moved.own, moved.stayed) == (True, frozenset())
    alone, moved = back.roll_back(["1", "2"], spent={1})
    assert (alone, moved.anybody, moved.stayed) == (back, False, frozenset({"1", "2"}))
