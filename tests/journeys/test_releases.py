"""The life of a model in a team: people approve what passed, somebody answers for what did not, a pin holds, a rollback proves itself, and the
history says at any instant who put what into production on which evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

import endcap as ec
from endcap.core.errors import Conflict, GateRefused
from endcap.core.permissions import Role
from endcap.core.zones import start_of_day
from endcap.faces.cli.commands import build_group
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.notices import list_notices
from endcap.governance.sessions import Session
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.approvals import approve, list_approvals
from endcap.loop.registry.environments import set_environment
from endcap.loop.registry.overrides import override
from endcap.loop.registry.pins import pin, unpin
from endcap.loop.registry.standings import get_seats
from endcap.project.judging import judge_version
from endcap.project.showing import ModelView

MODEL = "store-day"
V1, V2, V3 = (f"{MODEL}-v{n}" for n in (1, 2, 3))
FIRST = date(2025, 1, 6) + timedelta(weeks=40)
GUIDE = Path(__file__).parents[2] / "docs" / "releases.md"
LENIENT = "ec.Gate(bias=None, better_than=[], approvals=1)"
STRICT = 'ec.Gate(bias=None, better_than=[], most={"wape": 0.000001}, approvals=1)'


class Team(NamedTuple):
    folder: Path
    home: Path
    shop: Any
    house: Any
    clock: ec.ManualClock

    def session(self, name: str, role: Role = Role.APPROVER) -> Session:
        return replace(self.house.session(actor=name), role=role)

    def run(self, gate: str, *, seed: int) -> Any:
        """Ada changes the definition and trains."""
        self.clock.advance(timedelta(hours=1))
        self.shop.define("weekday_mean", gate=gate, seed=str(seed))
        return ec.run(self.session("ada", Role.EDITOR), MODEL, folder=self.folder, train=True)

    def show(self) -> ModelView:
        shown = ec.show(self.session("ada"), MODEL)
        assert isinstance(shown, ModelView)
        return shown


@pytest.fixture
def team(tmp_path: Path, open_shop: Callable[..., Any]) -> Iterator[Team]:
    shop = open_shop(tmp_path)
    clock = ec.ManualClock(start_of_day(FIRST, zone="UTC") + timedelta(hours=6))
    with ec.open_house(tmp_path / "home", clock=clock) as house:
        yield Team(tmp_path, tmp_path / "home", shop, house, clock)


def test_the_life_of_a_model_in_a_team(team: Team) -> None:
    ada, bob = team.session("ada", Role.EDITOR), team.session("bob")

    # What passed waits for somebody else to look at it; the run asked by itself.
    (judged, *_) = team.run(LENIENT, seed=1).judged
    assert (judged.version, judged.released, judged.waits) == (V1, False, True)
    assert list_notices(bob)[0].kind == "approval-requested"
    (asked,) = (told for told in list_approvals(bob) if told.request.version == V1)
    assert asked.n_missing == 1
    assert "ada" in asked.hands
    approve(bob, V1, comment="looks right")
    row = ec.promote(bob, V1, reason="the first")
    assert row.verdict_sentence == "all 1 checks passed"
    first_at = row.at

    # A second one does the same, and a pin holds it against schedules and people.
    (judged, *_) = team.run(LENIENT, seed=2).judged
    second = judged.version
    approve(bob, second)
    team.clock.advance(timedelta(minutes=1))
    ec.promote(bob, second)
    pin(bob, MODEL, reason="stock-taking")
    done = team.run(LENIENT, seed=3)
    assert (done.champion, done.run.status) == (second, "done"), "a run goes on when it may not release"
    with pytest.raises(Conflict, match="bob has pinned what answers for model 'store-day' in 'prod'"):
        ec.rollback(bob, MODEL)
    unpin(bob, MODEL)

    # The way back proves itself, once.
    back = ec.rollback(bob, MODEL, reason="too high")
    assert (back.version, back.previous) == (V1, second)
    assert "what they were" in back.proof or "what it was" in back.proof
    with pytest.raises(Conflict, match=r"no version to go back to"):
        ec.rollback(bob, MODEL)

    # What its gate refused answers on somebody's word, for a while, and a second person's.
    refused = team.run(STRICT, seed=4).judged[0].version
    with pytest.raises(GateRefused, match="wape is"):
        ec.promote(bob, refused)
    override(team.session("carol"), refused, reason="the shop opens tomorrow", expires="2d")
    assert [told.request.kind for told in list_approvals(bob) if told.request.version == refused] == ["override"]
    approve(bob, refused)
    team.clock.advance(timedelta(minutes=1))
    row = ec.promote(bob, refused)
    assert row.overridden
    assert row.verdict_sentence.startswith("overridden by carol with bob until 2025-10-15")
    told = team.show().override
    assert told is not None
    assert not told.expired
    team.clock.advance(timedelta(days=3))
    told = team.show().override
    assert told is not None
    assert told.expired
    assert [line.override for line in ec.ls(ada)] == ["expired"]

    # What was in production then, who put it there, on what evidence?
    (found,) = ec.history(ada, MODEL, at=first_at.isoformat())
    assert (found.version, found.actor, found.reason, found.verdict_sentence) == (V1, "bob", "the first", "all 1 checks passed")
    steps = [(row.version, row.how, row.overridden) for row in reversed(ec.history(ada, MODEL))]
    assert steps == [
        (V1, "promote", False),
        (second, "promote", False),
        (second, "pin", False),
        (second, "unpin", False),
        (V1, "rollback", False),
        (refused, "promote", True),
    ]
    verify_audit(ada)


def test_a_version_goes_from_one_environment_to_the_next_and_to_another_store(team: Team, tmp_path: Path) -> None:
    owner, bob = team.session("olga", Role.OWNER), team.session("bob")
    set_environment(owner, "prod", after="staging", store=str(tmp_path / "eu"))
    done = team.run("ec.Gate(bias=None, better_than=[], most={'wape': 9})", seed=1)
    assert done.champion is None
    with pytest.raises(GateRefused, match="it never answered in 'staging', which comes before 'prod'"):
        ec.promote(bob, V1)
    verdict = judge_version(bob, V1, environment="staging")
    assert (verdict.passed, verdict.environment) == (True, "staging")
    ec.promote(bob, V1, environment="staging")
    row = ec.promote(bob, V1)
    with ec.open_house(tmp_path / "eu") as there:
        assert ec.history(there.session(actor="eve"), MODEL) == [row]
        assert [audited.verb for audited in list_audit(there.session())] == ["copy-release", "copy-version"]
    others = [judged.version for judged in team.run("ec.Gate(bias=None, better_than=[], most={'wape': 9})", seed=2).judged]
    judge_version(bob, others[0], environment="staging")
    ec.promote(bob, others[0], environment="staging", role="shadow")
    ec.promote(bob, others[0], role="challenger", share=0.25)
    assert [(seat.version, seat.share) for seat in get_seats(bob, MODEL)] == [(others[0], 0.25)]
    assert isinstance(ec.show(bob, others[0]).verdict, Verdict)


def test_every_command_of_the_guide_is_one() -> None:
    group = build_group()
    lines = re.findall(r"^endcap (.+?)(?:\s+#.*)?$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(lines) >= 12
    for line in lines:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        command: click.Command = group
        while isinstance(command, click.Group):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        command.make_context(name, words, resilient_parsing=False)  # raises for an option that is not there
