from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from endcap.core.definitions.gates import Gate
from endcap.core.errors import Conflict, IntegrityBroken
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit
from endcap.loop.evaluation.records import VERDICTS
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.loop.retraining.offers import offer_version, register_trial
from endcap.pipelines.code import read_lock


@pytest.fixture
def made(world: Any) -> SimpleNamespace:
    """What a turn that was stopped before its release leaves: data, and trials that were trained on them."""
    world.task.offers = [("poor", 0.5), ("good", 0.1), ("best", 0.01)]
    data = world.turn(train=False).data
    poor, good, best = world.task.train(world.session, None, data).trials
    return SimpleNamespace(data=data, poor=poor, good=good, best=best)


def register(world: Any, made: Any, trial: Any, **changes: Any) -> Any:
    return register_trial(world.session, world.task, made.data, trial, **{"tables": {"sales": "ingest_000001"}, "run": "run_1", **changes})


def offer(world: Any, made: Any, trial: Any, *, session: Any = None, **options: Any) -> Any:
    version = register(world, made, trial)
    return offer_version(session or world.session, world.task, version, reason="a test", **options)


def test_a_version_keeps_all_that_it_was_made_of(world: Any, made: Any) -> None:
    version = register(world, made, made.good)
    assert (version.id, version.candidate, version.created_by, version.run) == ("store-day-v1", "good", "ada", "run_1")
    assert (version.training_set, version.definition, version.tables) == (made.data.digest, world.task.identity, {"sales": "ingest_000001"})
    assert (version.files, version.metrics, version.leaderboard, version.evidence) == (
        made.good.files,
        made.good.metrics,
        made.good.leaderboard,
        made.good.evidence,
    )
    assert version.lock == read_lock()
    assert {"python", "numpy"} <= version.lock.keys()
    assert version.trained_until == made.data.last_day


def test_equal_trials_are_one_version_and_unlike_ones_are_not(world: Any, made: Any) -> None:
    first = register(world, made, made.good)
    assert register(world, made, made.good, run="run_2") == first
    assert register(world, made, made.best).id == "store-day-v2"
    world.task.wish = "second"
    assert register(world, made, made.good).id == "store-day-v3"


def test_a_version_that_passes_is_released_with_the_reason(world: Any, made: Any) -> None:
    judged = offer(world, made, made.good)
    assert (judged.version, judged.candidate, judged.passed, judged.released) == ("store-day-v1", "good", True, True)
    assert judged.sentence == "all 2 checks passed"
    assert show_history(world.session, "store-day")[0].reason == "a test"
    verdict = latest_verdict(world.session, judged.version)
    assert verdict is not None
    assert (verdict.passed, verdict.against, verdict.n_pairs, verdict.at) == (True, None, 6, world.session.now())


def test_a_gate_may_ask_for_the_parity_of_what_the_version_reads(world: Any, made: Any) -> None:
    world.task.gate = Gate(bias=None, parity="7d")
    made.data = msgspec.structs.replace(made.data, views={"traffic": "1a2b3c4d5e6f"})
    judged = offer(world, made, made.good)
    assert (judged.passed, judged.released) == (False, False)
    assert judged.sentence == "parity of 'traffic@1a2b3c4d5e6f' was never checked (endcap parity traffic)"
    verdict = latest_verdict(world.session, judged.version)
    assert verdict is not None
    assert [(check.check, check.passed) for check in verdict.checks][-1] == ("parity", False)
    made.data = msgspec.structs.replace(made.data, views={})
    assert offer(world, made, made.best).released


def test_a_refusal_is_a_sentence_and_an_audit_row_and_no_exception(world: Any, made: Any) -> None:
    judged = offer(world, made, made.poor)
    assert (judged.passed, judged.released) == (False, False)
    assert judged.sentence.startswith("does not clearly beat the best baseline (naive) on wape: ratio 1.667")
    row = list_audit(world.session)[0]
    assert (row.verb, row.outcome, row.thing, row.detail["version"]) == ("promote", "refused", "model/store-day", judged.version)
    assert row.detail["why"] == judged.sentence
    assert get_champion(world.session, "store-day") is None


def test_a_challenger_is_judged_against_the_champion_of_the_moment(world: Any, made: Any) -> None:
    offer(world, made, made.good)
    worse = offer(world, made, made.poor)
    assert not worse.passed
    better = offer(world, made, made.best, n_tried=2)
    assert better.released
    verdict = latest_verdict(world.session, better.version)
    assert verdict is not None
    assert verdict.against == "store-day-v1"
    assert verdict.checks[1].check == "wape against the champion (store-day-v1)"
    assert world.task.tried == [1, 1, 2]


def test_the_champion_offered_again_is_left_as_it_is(world: Any, made: Any) -> None:
    offer(world, made, made.good)
    again = offer(world, made, made.good)
    assert (again.passed, again.released, again.sentence) == (True, False, "it is the champion already")
    assert len(world.session.records.find(VERDICTS, workspace="default")) == 1


def test_an_editor_may_offer_and_the_version_waits(world: Any, made: Any) -> None:
    judged = offer(world, made, made.good, session=replace(world.session, role=Role.EDITOR))
    assert (judged.passed, judged.released) == (True, False)
    assert judged.sentence.startswith("all 2 checks passed; it is not released: 'ada' is editor")
    assert list_audit(world.session)[0].detail == {"needs": "release"}
    assert promote(world.session, judged.version).version == judged.version


def test_a_champion_that_changes_during_the_judgement_is_said(world: Any, made: Any) -> None:
    weigh, task = world.task.weigh, world.task
    other = register(world, made, made.best)

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        evidence = weigh(*args, **kwargs)
        task.weigh = weigh
        assert offer_version(world.session, task, other, reason="quicker").released
        return evidence

    task.weigh = overtaken
    judged = offer(world, made, made.good)
    assert (judged.passed, judged.released) == (False, False)
    assert judged.sentence.endswith("it was judged against no champion, but the champion is now store-day-v1.")


def test_a_champion_that_changes_at_the_last_moment_is_a_conflict(world: Any, made: Any, tamper: Callable[..., Any]) -> None:
    good, best = register(world, made, made.good), register(world, made, made.best)
    session = world.session

    def overtake_at_the_release() -> None:
        """The first transaction writes the verdict; before the second comes somebody else."""
        slower.ports.records.interrupt(lambda: offer_version(session, world.task, best, reason="quicker"))

    slower = tamper(session, before=overtake_at_the_release)
    with pytest.raises(Conflict, match="changed a moment ago"):
        offer_version(slower, world.task, good, reason="slower")
    assert [release.version for release in show_history(session, "store-day")] == [best.id]


def test_a_champion_whose_files_are_gone_is_not_beaten_by_default(world: Any, made: Any) -> None:
    offer(world, made, made.good)
    champion = get_version(world.session, "store-day-v1")
    held = world.session.blobs

    class Emptied:
        def get(self, digest: str) -> bytes:
            if digest == champion.files[0].sha256:
                raise IntegrityBroken(f"The bytes kept under {digest} were changed at rest.")
            return held.get(digest)

    broken: Any = replace(world.session, ports=replace(world.session.ports, blobs=Emptied()))
    with pytest.raises(IntegrityBroken):
        offer(world, made, made.best, session=broken)
    assert latest_verdict(world.session, "store-day-v2") is None
