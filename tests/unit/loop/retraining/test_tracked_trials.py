from __future__ import annotations

from typing import Any

import pytest

from endcap.loop.registry.versions import list_versions
from endcap.loop.retraining.tracked_trials import track_trials
from endcap.loop.training.tracking.comparing import compare_runs, show_run
from endcap.loop.training.tracking.experiments import delete_experiment, find_experiment
from endcap.loop.training.tracking.tracked_runs import get_run_track, search_runs


@pytest.fixture
def offered(world: Any) -> Any:
    world.task.offers = [("poor", 0.5), ("good", 0.1), ("best", 0.01)]
    return world


def test_each_trial_of_a_turn_is_a_finished_run_of_the_models_experiment(offered: Any) -> None:
    done = offered.turn()
    session = offered.session
    runs = search_runs(session, experiments=["store-day"], order=["metrics.wape"])
    assert [run.name for run in runs] == ["best", "good", "poor"]
    versions = {version.candidate: version for version in list_versions(session, "store-day")}
    assert set(versions) <= {"poor", "good", "best"}
    for candidate, version in versions.items():
        page = show_run(session, version.identity)
        assert (page.run.name, page.run.status, page.run.actor) == (candidate, "finished", "ada")
        assert (page.run.tags["endcap.run"], page.run.tags["endcap.model"]) == (done.run.id, "store-day")
        assert page.run.params == {"candidate": candidate, "seed": "7", "definition.wish": "first"}
        assert page.run.metrics["wape"].value == version.metrics.wape
        assert page.run.metrics["n"].value == version.metrics.n
        assert [(d.digest, d.context) for d in page.datasets] == [(version.training_set, "training")]
        assert page.environment is not None
        assert "numpy" in page.environment.packages
        step = next(step for step in done.run.steps if step.name == "train")
        assert (page.cost.wall_s, page.cost.cpu_s) == (step.wall_s, step.cpu_s)
    found = compare_runs(session, [run.id for run in runs])
    assert [line.values for line in found.params] == [("best", "good", "poor")]


def test_a_turn_that_trains_nothing_tracks_nothing(world: Any) -> None:
    world.turn(train=False)
    assert find_experiment(world.session, "store-day") is None
    assert search_runs(world.session) == []


def test_the_same_trial_is_tracked_once_and_a_changed_definition_anew(world: Any) -> None:
    world.turn(train=True)
    (first,) = search_runs(world.session)
    data = world.turn(train=False).data
    trials = world.task.train(world.session, None, data).trials
    for _ in range(2):
        track_trials(world.session, world.task, data, trials, run="another", folder=world.folder)
    assert [run.id for run in search_runs(world.session)] == [first.id]
    assert get_run_track(world.session, first.id) == first
    world.task.wish = "second"
    world.turn(train=True)
    assert {run.params["definition.wish"] for run in search_runs(world.session)} == {"first", "second"}


def test_a_deleted_experiment_stays_as_it_is_and_keeps_no_release_waiting(world: Any) -> None:
    world.turn(train=True)
    delete_experiment(world.session, "store-day")
    world.task.wish = "second"
    done = world.turn(train=True)
    assert (done.run.status, [judged.version for judged in done.judged]) == ("done", ["store-day-v2"])
    assert len(search_runs(world.session, stage=None)) == 1
