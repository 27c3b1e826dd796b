"""What a terminal shows of releases: what stands on an override is red wherever it stands."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from endcap.faces.cli.release_text import (
    row_of_release,
    style_of,
    tell_environment,
    tell_pin,
    tell_release,
    tell_releases,
    tell_request,
    tell_verdict,
)
from endcap.faces.cli.rendering import show
from endcap.loop.deployment.records import TraceStep
from endcap.loop.evaluation.records import CheckResult, Override, Verdict
from endcap.loop.registry.live import ON_AN_OVERRIDE, LiveRelease
from endcap.loop.registry.overrides import OverrideStanding
from endcap.loop.registry.records import Approval, ApprovalRequest, ApprovalView, Environment, ModelRecord, Pin, Release, Retirement
from endcap.project.showing import ModelLine, ModelView

AT = datetime(2026, 3, 3, 14, 5, tzinfo=UTC)
CHECK = CheckResult(check="bias", passed=False, figure=0.2, limit="0.05", sentence="bias is +20 %")
WORD = Override(owner="ada", reason="the old one is broken", expires_at=AT + timedelta(days=3), second="bob")
VERDICT = Verdict(id="verdict_1", model="m", version="m-v2", at=AT, passed=False, checks=(CHECK,))
REQUEST = ApprovalRequest(
    id="approval_1",
    model="m",
    version="m-v2",
    environment="prod",
    kind="override",
    verdict="verdict_1",
    requested_by="ada",
    at=AT,
    expires_at=AT + timedelta(days=3),
    n_needed=1,
    reason="the old one is broken",
)


def release(**changes: Any) -> Release:
    given = {
        "id": "release_1",
        "model": "m",
        "environment": "prod",
        "version": "m-v2",
        "previous": None,
        "at": AT,
        "actor": "ada",
        "how": "promote",
        "reason": "",
        "verdict": "verdict_1",
        "verdict_sentence": "all 2 checks passed",
        **changes,
    }
    return Release(**given)


def view(**changes: Any) -> ModelView:
    model = ModelRecord("m", "tracked", "identity", "{}", AT, "ada")
    return ModelView(model, None, None, None, (), None, None, (), (), **changes)


def printed(result: Any) -> str:
    out = io.StringIO()
    show(result, Console(file=out, width=400, force_terminal=True, color_system="standard", highlight=False))
    return out.getvalue()


RED = "\x1b[31m"


def test_a_verdict_is_told_check_by_check() -> None:
    assert list(tell_verdict(None)) == [("never judged", "")]
    assert list(tell_verdict(VERDICT)) == [("gate: refused", "red"), ("  REFUSED bias is +20 %", "red")]
    waiting = Verdict(id="v", model="m", version="m-v2", at=AT, passed=False, checks=(CheckResult(**{**vars_of(CHECK), "check": "approvals"}),))
    assert next(tell_verdict(waiting)) == ("gate: waits for approval", "yellow")
    overridden = Verdict(
        id="v", model="m", version="m-v2", at=AT, passed=False, checks=(CHECK,), kind="override", override=WORD, environment="staging"
    )
    first, second = tell_verdict(overridden)
    assert first == ("OVERRIDDEN of staging by ada with bob until 2026-03-06 14:05 UTC: the old one is broken", "bold red")
    assert second == ("  REFUSED bias is +20 %", "red")


def vars_of(check: CheckResult) -> dict[str, Any]:
    return {name: getattr(check, name) for name in check.__struct_fields__}


def test_a_model_that_ends_says_so_in_lists_and_where_it_is_shown_though_nothing_answers() -> None:
    line = ModelLine("m", "m-v2", "trees", None, AT, 2, None, None, False, retired="RETIRES 2026-03-17")
    assert "m-v2 RETIRES 2026-03-17" in printed([line])
    ends = Retirement(model="m", at=AT, by="ada", reason="replaced", effective_at=AT)
    said = "Model 'm' is RETIRED as of 2026-03-03 14:05 UTC, by ada: replaced"
    assert list(tell_releases(view(retirement=ends))) == [(f"  {said}", "bold red")]
    assert said in printed(view(retirement=ends))


def test_rows_on_an_override_are_red_in_lists_and_the_others_are_not() -> None:
    line = ModelLine("m", "m-v2", "trees", None, AT, 2, None, None, False)
    assert style_of(release()) == style_of(line) == style_of("anything") == ""
    assert style_of(release(overridden=True)) == "red"
    doubted = ModelLine("m", "m-v2", "trees", None, AT, 2, None, None, False, override="expired")
    assert style_of(doubted) == "red"
    assert ("m-v2 OVERRIDDEN" in printed([doubted]), "OVERRIDDEN" in printed([line])) == (True, False)
    assert RED in printed([release(overridden=True)])
    words = [("release", "by ada"), ("release", f"{ON_AN_OVERRIDE}; by ada"), ("verdict", "overridden: by ada"), ("verdict", "passed: all")]
    assert [style_of(TraceStep("thing", kind, what)) for kind, what in words] == ["", "red", "red", ""]
    assert RED not in printed([release()])


@pytest.mark.parametrize(
    ("changes", "how", "verdict"),
    [
        ({}, "promote", "all 2 checks passed"),
        ({"role": "challenger", "share": 0.1}, "promote as challenger for 0.1 of the requests", "all 2 checks passed"),
        ({"environment": "dev", "role": "shadow"}, "promote as shadow in dev", "all 2 checks passed"),
        ({"overridden": True, "verdict_sentence": "overridden by ada"}, "promote", "OVERRIDDEN: overridden by ada"),
        ({"how": "rollback", "proof": "3 answers are the same"}, "rollback", "all 2 checks passed; proved: 3 answers are the same"),
    ],
)
def test_a_row_of_history_says_as_what_where_and_on_what(changes: dict[str, Any], how: str, verdict: str) -> None:
    row = row_of_release(release(**changes))
    assert (row["how"], row["verdict"]) == (how, verdict)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, ["m-v2 answers in prod, since 2026-03-03 14:05 UTC", "  all 2 checks passed"]),
        (
            {"previous": "m-v1", "reason": "spring"},
            ["m-v2 answers in prod, in the place of m-v1, since 2026-03-03 14:05 UTC", "  all 2 checks passed", "  spring"],
        ),
        (
            {"role": "challenger", "share": 0.1, "previous": "m-v1"},
            ["m-v2 answers in prod as challenger for 0.1 of the requests, since 2026-03-03 14:05 UTC", "  all 2 checks passed"],
        ),
        ({"how": "withdraw", "role": "shadow"}, ["m-v2 answers no more in prod, since 2026-03-03 14:05 UTC", "  all 2 checks passed"]),
        (
            {"how": "rollback", "proof": "3 answers are the same"},
            ["m-v2 answers in prod, since 2026-03-03 14:05 UTC", "  all 2 checks passed", "  proved: 3 answers are the same"],
        ),
    ],
)
def test_a_release_just_made_says_who_answers_and_on_what(changes: dict[str, Any], lines: list[str]) -> None:
    assert [line for line, _ in tell_release(release(**changes))] == lines


def test_a_release_on_an_override_is_told_in_red() -> None:
    told = list(tell_release(release(overridden=True, verdict_sentence="by ada")))
    assert [style for _, style in told] == ["bold red", "bold red"]
    assert told[1][0] == "  OVERRIDDEN: by ada"


def test_an_environment_that_was_set_says_what_it_asks_for() -> None:
    places = (Environment(name="prod", after="staging", approvals=2), Environment(name="dev", home="postgresql://db", approvals=1))
    assert [line for place in places for line, _ in tell_environment(place)] == [
        "prod comes after staging, in this home; 2 people approve each release",
        "dev takes versions that answered nowhere before, in postgresql://db; 1 person approves each release",
    ]


@pytest.mark.parametrize(("expired", "word"), [(True, "EXPIRED 2026-03-06 14:05 UTC"), (False, "until 2026-03-06 14:05 UTC")])
def test_a_model_says_on_whose_word_it_stands_what_holds_it_and_who_waits(expired: bool, word: str) -> None:
    told = view(
        override=OverrideStanding("ada", "the old one is broken", AT + timedelta(days=3), "bob", expired),
        pin=Pin("m/prod", "m", "prod", "carol", AT, "stock-taking"),
        live=(
            LiveRelease("m", "prod", "m-v2", "champion", "r", AT, True),
            LiveRelease("m", "prod", "m-v1", "champion of some members", "r", AT),
            LiveRelease("m", "prod", "m-v4", "champion of some members", "r", AT, True),
            LiveRelease("m", "dev", "m-v3", "champion", "r", AT, True),
        ),
        waiting=(ApprovalView(REQUEST, (), 1),),
    )
    lines = list(tell_releases(told))
    assert word in lines[0][0]
    assert lines[0][0].startswith("  OVERRIDDEN by ada with bob, ")
    assert lines[0][1] == "bold red"
    assert [line for line, _ in lines[1:]] == [
        "  pinned by carol since 2026-03-03 14:05 UTC: stock-taking",
        "  m-v4 is the champion of some members in prod since 2026-03-03 14:05 UTC, OVERRIDDEN: it did not pass its gate",
        "  m-v3 is the champion in dev since 2026-03-03 14:05 UTC, OVERRIDDEN: it did not pass its gate",
        "  m-v2 waits for an override in prod: 1 of 1 missing until 2026-03-06 14:05 UTC (endcap approve m-v2)",
    ]
    assert list(tell_releases(view())) == []


def test_requests_pins_and_environments_are_told() -> None:
    assert [line for line, _ in tell_request(REQUEST)] == [
        "approval_1: the override of m-v2 for prod is pending",
        "  1 person asked, until 2026-03-06 14:05 UTC: endcap approve m-v2",
        "  the old one is broken",
    ]
    assert next(tell_pin(Pin("m/prod", "m", "prod", "carol", AT, "")))[0] == "the pin of carol on m in prod holds what answers"
    waits = ApprovalView(REQUEST, (Approval("a", "approval_1", "m-v2", "bob", AT, "rejected", "too high"),), 1, {"ada": "registered it"})
    for result, words in (([waits], ("bob rejected (too high)", "ada (registered it)")), ([Environment(name="prod")], ("this one",))):
        assert all(word in printed(result) for word in words)
