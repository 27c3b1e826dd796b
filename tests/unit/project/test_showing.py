from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from endcap.core.errors import NotFound
from endcap.loop.evaluation.records import CheckResult
from endcap.loop.registry.versions import record_verdict
from endcap.project.applying import apply
from endcap.project.showing import ModelView, VersionView, ls, show


def test_a_workspace_without_models_lists_none(project: Any) -> None:
    assert ls(project.session) == []


def test_a_model_that_never_ran_is_shown_as_it_is(project: Any) -> None:
    apply(project.session, folder=project.folder)
    (line,) = ls(project.session)
    assert (line.model, line.champion, line.wape, line.versions, line.last_run, line.last_origin, line.open_breach) == (
        "store-day",
        None,
        None,
        0,
        None,
        None,
        False,
    )
    view = show(project.session, "store-day")
    assert isinstance(view, ModelView)
    assert (view.champion, view.champion_version, view.verdict, view.versions, view.last_run, view.last_batch) == (None, None, None, (), None, None)


def test_a_list_says_what_answers_and_how_good_it_was(lived: Any) -> None:
    (line,) = ls(lived.session)
    assert (line.champion, line.candidate, line.versions, line.last_run, line.open_breach) == ("store-day-v1", "shrunk_rates", 1, "done", False)
    assert line.last_origin == lived.session.now().date().isoformat()
    assert line.wape is not None
    assert 0 < line.wape < 0.5
    assert (line.metric, line.figure) == ("wape", line.wape)


def test_a_model_is_shown_with_all_that_is_known_of_it(lived: Any) -> None:
    view = show(lived.session, "store-day")
    assert isinstance(view, ModelView)
    assert view.champion is not None
    assert view.champion_version is not None
    assert view.verdict is not None
    assert view.champion.version == view.champion_version.id == view.verdict.version == "store-day-v1"
    assert set(view.champion_version.baselines) <= view.champion_version.leaderboard.keys()
    assert {"weekday", "day ahead", "format", "member"} == {piece.by for piece in view.champion_version.slices}
    assert view.last_run is not None
    assert view.last_batch is not None
    assert view.last_batch.run == view.last_run.id
    assert len(view.readings) == 1


def test_a_model_is_shown_with_the_verdict_that_its_champion_stands_on(project: Any) -> None:
    project.run()
    session = project.session

    def read() -> ModelView:
        view = show(session, "store-day")
        assert isinstance(view, ModelView)
        return view

    standing = read().verdict
    assert standing is not None
    check = CheckResult(check="bias", passed=False, figure=0.2, limit="0.05", sentence="bias is +20 %")
    later = record_verdict(session, replace_struct(standing, id="verdict_later", environment="dev", passed=False, checks=(check,)))
    assert read().verdict == standing
    assert show(session, "store-day-v1").verdict == later
    assert [live.version for live in read().live] == ["store-day-v1"]


def test_a_version_is_shown_with_its_verdict(lived: Any) -> None:
    view = show(lived.session, "store-day-v1")
    assert isinstance(view, VersionView)
    assert (view.version.id, view.champion) == ("store-day-v1", True)
    assert view.verdict is not None
    assert view.verdict.passed


@pytest.mark.parametrize("thing", ["store-dya", "store-day-v9", "", "~"])
def test_what_is_not_there_is_not_found(lived: Any, thing: str) -> None:
    with pytest.raises(NotFound):
        show(lived.session, thing)


def test_another_workspace_shows_its_own(lived: Any) -> None:
    other = replace(lived.session, workspace="other")
    assert ls(other) == []
    with pytest.raises(NotFound):
        show(other, "store-day")
