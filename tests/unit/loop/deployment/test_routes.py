from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.loop.deployment.routes import Answering, combine_answers, find_answers, route_members
from endcap.loop.evaluation.records import Groups
from endcap.loop.registry.comparisons import start_comparison
from endcap.loop.registry.releases import promote
from endcap.loop.registry.rollbacks import roll_back

rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")

MODEL = "store-day"
GROUPS = Groups(("S1", "S2"), ("S3", "S4"))
VERSIONS = ("v0", "v1", "v2")
MEMBERS = [f"S{i}" for i in range(8)]


def test_nothing_answers_before_a_release(shop: Any) -> None:
    assert find_answers(shop.session, MODEL) == ()


def test_a_champion_answers_for_all_and_a_challenger_for_its_members(shop: Any) -> None:
    first, second = shop.register("a"), shop.register("b")
    shop.judge(first)
    promote(shop.session, first.id)
    assert find_answers(shop.session, MODEL) == (Answering(first.id, None, "champion"),)
    shop.judge(second, against=first.id)
    promote(shop.session, second.id)
    shop.judge(first, against=second.id)
    start_comparison(shop.session, first.id, GROUPS)
    assert find_answers(shop.session, MODEL) == (
        Answering(second.id, None, "champion", "store-day-c1"),
        Answering(first.id, frozenset({"S3", "S4"}), "challenger", "store-day-c1"),
    )
    rollback(shop.session, MODEL)
    assert find_answers(shop.session, MODEL) == (Answering(first.id, None, "champion"),)


def test_a_comparison_goes_before_an_assignment() -> None:
    assigned = {"S1": "v7", "S3": "v7", "S2": "v1"}
    assert combine_answers("v1", assigned=assigned, challenger="v2", groups=GROUPS, comparison="c1") == (
        Answering("v1", None, "champion", "c1"),
        Answering("v7", frozenset({"S1"}), "champion", "c1"),
        Answering("v2", frozenset({"S3", "S4"}), "challenger", "c1"),
    )


@settings(max_examples=100, deadline=None)
@given(
    assigned=st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(VERSIONS)),
    tested=st.sets(st.sampled_from(MEMBERS)),
    challenger=st.sampled_from(VERSIONS),
)
def test_every_member_is_answered_once_by_the_right_version(assigned: dict[str, str], tested: set[str], challenger: str) -> None:
    groups = Groups((), tuple(sorted(tested))) if tested else None
    answers = combine_answers("v1", assigned=assigned, challenger=challenger, groups=groups, comparison="c1" if tested else "")
    assert sum(answer.members is None for answer in answers) == 1
    named = [member for answer in answers for member in answer.members or ()]
    assert len(named) == len(set(named))
    places = route_members(answers, pa.chunked_array([MEMBERS[:3], MEMBERS[3:]]))
    for member, place in zip(MEMBERS, places, strict=True):
        assert answers[place].version == (challenger if member in tested else assigned.get(member, "v1"))


def test_rows_of_many_members_are_routed_at_once() -> None:
    members = [f"S{i}" for i in range(10_000)]
    answers = combine_answers("v1", assigned=dict.fromkeys(members[::3], "v0"), challenger="v2", groups=Groups((), tuple(members[1::3])))
    rows = pa.array(members * 100)
    places = route_members(answers, rows)
    assert [int((places == place).sum()) for place in range(3)] == [333_300, 333_400, 333_300]


def test_without_an_entry_for_the_others_there_is_no_route() -> None:
    with pytest.raises(ValueError, match="0 of the answers are for all other members"):
        route_members([Answering("v1", frozenset({"S1"}), "champion")], pa.array(["S1"]))
