"""Forecasts are judged by their cycle, and again by anybody: with the champion of now, by the gate of another environment, by a gate that changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from endcap.core.errors import GateRefused
from endcap.governance.audit import list_audit
from endcap.loop.evaluation.records import Verdict
from endcap.loop.registry.approvals import list_approvals
from endcap.loop.registry.records import VERSIONS
from endcap.loop.registry.releases import get_champion, promote
from endcap.loop.registry.versions import get_version, latest_verdict
from endcap.project.applying import apply
from endcap.project.judging import judge_version

GATE = "better_than=[], bias=0.4, most={'wape': 0.5}"
V1 = "store-day-v1"


def find(verdict: Verdict, name: str) -> Any:
    return next(check for check in verdict.checks if check.check.startswith(name))


def test_a_forecast_shows_what_its_gate_asks_for(project: Any) -> None:
    more = "slices={'format': 0.6}, fairness={'format': 3}, slice_rows=10, calibration=0.1"
    project.change(GATE, f"{GATE}, {more}, latency_ms=60_000, size_mb=5, fresh='14d', charter=True")
    charter = 'ec.Charter(problem="waste", business_metric="waste per store")'
    project.change('    slices=["format"],', f'    slices=["format"],\n    charter={charter},')
    result = project.run()
    verdict = latest_verdict(project.session, result.judged[0].version)
    assert verdict is not None
    assert verdict.passed, verdict.sentence
    said = {check.check: check.sentence for check in verdict.checks}
    assert list(said) == ["bias", "wape", "wape by format", "fairness by format", "calibration", "freshness", "latency", "size", "charter"]
    assert set(find(verdict, "wape by format").figures) == set(find(verdict, "fairness by format").figures)
    assert said["latency"].startswith("an answer of 42 forecasts takes ")
    assert said["freshness"].startswith("its training data reach to 2025-04-27, younger than")
    by_hand = {one.value: one.metrics.wape for one in get_version(project.session, V1).slices if one.by == "format"}
    for value, figure in find(verdict, "wape by format").figures.items():
        assert figure == pytest.approx(by_hand[value], rel=1e-5)


def test_a_changed_gate_trains_nothing_and_judges_anew(project: Any) -> None:
    project.change(GATE, f"{GATE}, charter=True")
    assert project.run().champion is None
    with pytest.raises(GateRefused, match="the model has no charter"):
        promote(project.session, V1)
    n_versions = len(project.session.records.find(VERSIONS, workspace="default"))
    project.change(f"{GATE}, charter=True", GATE)
    (line,) = (planned for planned in apply(project.session, folder=project.folder).models)
    assert line.change == "reworded"
    verdict = judge_version(project.session, V1)
    assert verdict.passed
    assert promote(project.session, V1).verdict == verdict.id
    assert len(project.session.records.find(VERSIONS, workspace="default")) == n_versions


def test_a_version_is_judged_anew_when_the_champion_changed(project: Any) -> None:
    project.change(GATE, "better_than=['champion'], bias=0.4")
    project.run()
    session = project.session
    verdicts = {v.id: latest_verdict(session, v.id) for v in session.records.find(VERSIONS, workspace="default")}
    assert get_champion(session, "store-day").version == V1
    again = judge_version(session, V1)
    assert (again.passed, again.against) == (True, V1)
    assert find(again, "wape against the champion").sentence == "it is the champion itself"
    first = verdicts[V1]
    assert first is not None
    assert {check.check: check.figure for check in again.checks}["bias"] == find(first, "bias").figure
    project.change("backtest_origins=4", "backtest_origins=5")
    project.run()
    second = judge_version(session, "store-day-v2")
    assert second.against == V1
    assert "store-day-v1" in find(second, "wape against the champion (store-day-v1)").check
    assert list_audit(session)[0].verb == "record-verdict"


def test_a_verdict_counts_for_its_environment(project: Any) -> None:
    project.change(
        '    slices=["format"],', '    slices=["format"],\n    gates={"staging": ec.Gate(better_than=[], bias=None, most={"wape": 0.01})},'
    )
    project.run()
    staging = judge_version(project.session, V1, environment="staging")
    assert (staging.passed, [check.check for check in staging.checks]) == (False, ["wape"])
    assert judge_version(project.session, V1, environment="dev").passed
    assert latest_verdict(project.session, V1) is not None


def test_a_version_that_lacks_only_approvals_waits_and_people_are_asked(project: Any) -> None:
    project.change(GATE, f"{GATE}, approvals=1")
    result = project.run()
    assert result.champion is None
    assert [(judged.version, judged.passed, judged.waits) for judged in result.judged] == [(V1, False, True)]
    assert "needs 1 approval, has 0" in result.judged[0].sentence
    (waiting,) = list_approvals(project.session)
    assert waiting.request.version == V1


def test_words_and_gates_are_no_part_of_what_a_version_is_made_of(project: Any) -> None:
    project.run()
    before = get_version(project.session, V1)
    project.change('    slices=["format"],', '    slices=["format"],\n    charter=ec.Charter(problem="waste"),')
    project.change(GATE, f"{GATE}, approvals=2, charter=True")
    assert project.run().judged == ()
    apply(project.session, folder=project.folder)
    assert msgspec.structs.asdict(get_version(project.session, V1)) == msgspec.structs.asdict(before)
    verdict = judge_version(project.session, V1)
    assert verdict.sentence.startswith("the model's charter names no business metric")
