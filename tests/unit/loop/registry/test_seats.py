"""Challengers and shadows beside the champion, and the pin that holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from endcap.core.errors import Conflict, EndcapError, GateRefused, InvalidInput, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.governance.records import Actor
from endcap.loop.evaluation.records import Groups
from endcap.loop.registry.comparisons import start_comparison
from endcap.loop.registry.pins import pin, unpin
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.loop.registry.seats import withdraw
from endcap.loop.registry.standings import find_pin, get_seats

MODEL = "store-day"
V1, V2, V3 = (f"store-day-v{n}" for n in (1, 2, 3))
rollback = partial(roll_back, prove=lambda _session, _version: "it answers as it did")


@pytest.fixture
def three(shop: Any) -> Any:
    """A champion, and two versions that passed everything but did not beat it."""
    first = shop.register("a")
    shop.judge(first)
    promote(shop.session, first.id, reason="first")
    for identity in ("b", "c"):
        shop.judge_for(shop.register(identity).id, "prod", against=V1, beats=False)
    shop.pass_time(hours=1)
    return shop


def seats(shop: Any) -> list[tuple[str, str, float | None]]:
    return [(seat.version[-2:], seat.role, seat.share) for seat in get_seats(shop.session, MODEL)]


def test_challengers_answer_for_shares_and_shadows_beside(three: Any) -> None:
    row = promote(three.session, V2, role="challenger", share=0.2, reason="see")
    assert (row.role, row.share, row.version, row.champion, row.how, row.n) == ("challenger", 0.2, V2, V1, "promote", 1)
    promote(three.session, V3, role="shadow")
    assert seats(three) == [("v2", "challenger", 0.2), ("v3", "shadow", None)]
    champion = get_champion(three.session, MODEL)
    assert champion is not None
    assert champion.version == V1, "neither moves the champion"
    audited = list_audit(three.session)[1].detail
    assert {name: audited[name] for name in ("version", "role", "share")} == {"version": V2, "role": "challenger", "share": 0.2}


def test_a_share_changes_by_promoting_again_and_a_shadow_may_become_a_challenger(three: Any) -> None:
    promote(three.session, V2, role="shadow")
    promote(three.session, V2, role="challenger")
    assert seats(three) == [("v2", "challenger", 0.1)]
    promote(three.session, V2, role="challenger", share=0.5)
    assert seats(three) == [("v2", "challenger", 0.5)]
    with pytest.raises(Conflict, match="'store-day-v2' is a challenger in 'prod' already"):
        promote(three.session, V2, role="challenger")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"role": "king"}, r"'king' is no role of a release. Roles: \['champion', 'challenger', 'shadow'\]"),
        ({"share": 0.5}, "A champion has no share"),
        ({"role": "shadow", "share": 0.5}, "A shadow has no share"),
        ({"role": "challenger", "share": 0.0}, "A share of 0.0"),
        ({"role": "challenger", "share": 1.0}, "A share of 1.0"),
        ({"role": "challenger", "share": float("nan")}, "A share of nan"),
        ({"role": "challenger", "share": 0.5}, "With 0.5 for other challengers, a share of 0.5 leaves nothing to the champion"),
        ({"role": "challenger", "members": ["1"]}, "A challenger answers for no members of its own"),
        ({"role": "shadow", "segment": "city=x"}, "A shadow answers for no members of its own"),
    ],
)
def test_bad_roles_and_shares_are_refused(three: Any, given: dict[str, Any], match: str) -> None:
    promote(three.session, V3, role="challenger", share=0.5)
    with pytest.raises(InvalidInput, match=match):
        promote(three.session, V2, **given)
    assert seats(three) == [("v3", "challenger", 0.5)]


def test_shares_never_reach_one_when_two_come_at_once(three: Any, tamper: Any) -> None:
    overtaken = tamper(three.session, before=lambda: promote(three.session, V2, role="challenger", share=0.6))
    with pytest.raises(EndcapError, match="leaves nothing to the champion"):
        promote(overtaken, V3, role="challenger", share=0.6)
    assert seats(three) == [("v2", "challenger", 0.6)]


def test_beside_nothing_nobody_stands_and_the_champion_not_beside_itself(shop: Any) -> None:
    version = shop.register("a")
    shop.judge(version)
    with pytest.raises(Conflict, match="has no champion in 'prod' to stand beside"):
        promote(shop.session, version.id, role="shadow")
    promote(shop.session, version.id)
    with pytest.raises(Conflict, match="'store-day-v1' is the champion itself"):
        promote(shop.session, version.id, role="challenger")


@pytest.mark.parametrize("role", ["challenger", "shadow"])
def test_it_need_not_beat_the_champion_but_everything_else(three: Any, role: str) -> None:
    with pytest.raises(GateRefused, match="does not beat store-day-v1"):
        promote(three.session, V2)
    biased = three.register("biased")
    three.judge_for(biased.id, "prod", against=V1, beats=False, biased=True)
    unjudged = three.register("unjudged")
    for version, why in ((biased.id, r"bias is \+20 %"), (unjudged.id, "it was never judged by its gate")):
        with pytest.raises(GateRefused, match=f"'{version}' cannot be released: {why}"):
            promote(three.session, version, role=role)
    assert seats(three) == []
    assert [row.outcome for row in list_audit(three.session, limit=1)] == ["refused"]


def test_withdrawing_leaves_a_row_and_the_champion_cannot_go(three: Any) -> None:
    promote(three.session, V2, role="challenger")
    three.pass_time(hours=1)
    row = withdraw(three.session, V2, reason="worse")
    assert (row.how, row.role, row.version, row.reason, row.actor) == ("withdraw", "challenger", V2, "worse", "ada")
    assert seats(three) == []
    with pytest.raises(Conflict, match="'store-day-v2' is no challenger or shadow in 'prod'") as caught:
        withdraw(three.session, V2)
    assert caught.value.hint == "beside the champion there: nobody"
    with pytest.raises(Conflict, match="'store-day-v1' is the champion in 'prod', and something must answer"):
        withdraw(three.session, V1)
    with pytest.raises(NotFound):
        withdraw(three.session, "store-day-v9")
    with pytest.raises(PermissionDenied):
        withdraw(replace(three.session, role=Role.EDITOR), V2)
    assert [row.how for row in show_history(three.session, MODEL)] == ["withdraw", "promote", "promote"]


def test_a_challenger_that_becomes_the_champion_leaves_its_seat(three: Any) -> None:
    promote(three.session, V2, role="challenger")
    three.judge_for(V2, "prod", against=V1)
    promote(three.session, V2)
    assert seats(three) == []
    assert [(row.how, row.role, row.version[-2:]) for row in show_history(three.session, MODEL)] == [
        ("withdraw", "challenger", "v2"),
        ("promote", "champion", "v2"),
        ("promote", "challenger", "v2"),
        ("promote", "champion", "v1"),
    ]


def test_history_at_an_instant_names_all_who_answered_then(three: Any) -> None:
    promote(three.session, V2, role="challenger")
    promote(three.session, V3, role="shadow")
    three.pass_time(hours=1)
    withdraw(three.session, V3)
    pin(three.session, MODEL, reason="audit")

    def at(hour: str) -> list[tuple[str, str]]:
        return [(row.version[-2:], "pin" if row.how == "pin" else row.role) for row in show_history(three.session, MODEL, at=f"2026-01-05T{hour}")]

    assert at("08:30") == [("v1", "champion")]
    assert at("09:30") == [("v1", "champion"), ("v3", "shadow"), ("v2", "challenger")]
    assert at("10:30") == [("v1", "champion"), ("v1", "pin"), ("v2", "challenger")]
    unpin(three.session, MODEL)
    assert at("10:30") == [("v1", "champion"), ("v2", "challenger")]


def test_a_comparison_and_a_challenger_do_not_run_beside_one_another(three: Any) -> None:
    groups = Groups(("S1", "S2"), ("S3", "S4"))
    promote(three.session, V2, role="challenger")
    with pytest.raises(Conflict, match="store-day-v2 answers for a share of the requests"):
        start_comparison(three.session, V3, groups)
    withdraw(three.session, V2)
    start_comparison(three.session, V3, groups)
    with pytest.raises(GateRefused, match=r"the comparison 'store-day-c1' .* runs"):
        promote(three.session, V2, role="challenger")
    assert promote(three.session, V2, role="shadow").role == "shadow"


def test_a_rolled_back_champion_leaves_those_beside_it(three: Any) -> None:
    promote(three.session, V3, role="shadow")
    three.judge_for(V2, "prod", against=V1)
    promote(three.session, V2)
    rollback(three.session, MODEL)
    assert seats(three) == [("v3", "shadow", None)]


# Pins


def test_what_a_person_pinned_stays(three: Any) -> None:
    three.judge_for(V2, "prod", against=V1)
    promote(three.session, V2)
    bob = replace(three.session, actor=Actor("bob"))
    found = pin(bob, MODEL, reason="stock-taking until Friday")
    assert find_pin(three.session, MODEL) == found
    three.judge_for(V3, "prod", against=V2)
    acts: list[Callable[[], object]] = [
        lambda: promote(three.session, V3),
        *(partial(rollback, s, MODEL) for s in (three.session, three.session.as_system())),
    ]
    for act in acts:
        with pytest.raises(
            EndcapError, match=r"bob has pinned what answers for model 'store-day' in 'prod' since .*: stock-taking until Friday"
        ) as caught:
            act()
        assert caught.value.hint == "ask bob, or take the pin back with: endcap unpin store-day"
        (row,) = list_audit(three.session, limit=1)
        assert (row.outcome, str(row.detail["why"])[:14]) == ("refused", "bob has pinned")
    champion = get_champion(three.session, MODEL)
    assert champion is not None
    assert champion.version == V2
    with pytest.raises(Conflict, match="bob has pinned"):
        pin(three.session, MODEL)
    unpin(three.session, MODEL, reason="it burns")
    assert rollback(three.session, MODEL).version == V1
    (row,) = (row for row in list_audit(three.session) if row.verb == "unpin")
    assert (row.actor, row.detail["pinned_by"]) == ("ada", "bob")


def test_nothing_is_compared_with_what_is_pinned(three: Any) -> None:
    groups = Groups(("S1", "S2"), ("S3", "S4"))
    pin(three.session, MODEL)
    with pytest.raises(Conflict, match="ada has pinned"):
        start_comparison(three.session, V2, groups)
    unpin(three.session, MODEL)
    start_comparison(three.session, V2, groups)


def test_what_was_judged_anew_meanwhile_is_not_compared(three: Any, tamper: Any) -> None:
    late = tamper(three.session, before=lambda: three.judge_for(V2, "prod", against=V1, beats=False, biased=True))
    with pytest.raises(Conflict, match="'store-day-v2' was judged anew a moment ago"):
        start_comparison(late, V2, Groups(("S1", "S2"), ("S3", "S4")))


def test_only_people_pin_and_only_what_answers(shop: Any) -> None:
    with pytest.raises(Conflict, match="Nothing answers for model 'store-day' in 'prod' yet"):
        pin(shop.session, MODEL)
    with pytest.raises(PermissionDenied, match="'system' is no person but a system"):
        pin(shop.session.as_system(), MODEL)
    with pytest.raises(Conflict, match="Nothing that answers for model 'store-day' in 'prod' is pinned"):
        unpin(shop.session, MODEL)
    with pytest.raises(NotFound):
        pin(shop.session, "store-dya")
    assert find_pin(shop.session, MODEL) is None


def test_a_pin_holds_one_environment(three: Any) -> None:
    pin(three.session, MODEL)
    three.judge_for(V2, "dev")
    promote(three.session, V2, environment="dev")
    pin(three.session, MODEL, environment="dev")
    three.judge_for(V3, "dev", against=V2)
    with pytest.raises(GateRefused, match="in 'dev'") as caught:
        promote(three.session, V3, environment="dev")
    assert caught.value.hint == "ask ada, or take the pin back with: endcap unpin store-day --environment dev"


@pytest.mark.parametrize("role", ["challenger", "shadow"])
def test_a_version_that_a_rollback_makes_the_champion_stands_beside_itself_no_more(three: Any, role: str) -> None:
    three.judge_for(V2, "prod", against=V1)
    promote(three.session, V2)
    promote(three.session, V1, role=role)
    promote(three.session, V3, role="shadow")
    row = rollback(three.session, MODEL)
    assert (row.version, seats(three)) == (V1, [("v3", "shadow", None)])
    newest, moved = show_history(three.session, MODEL)[:2]
    assert (newest.how, newest.role, newest.version, newest.reason, newest.proof) == ("withdraw", role, V1, "it is the champion now", "")
    assert moved == row
