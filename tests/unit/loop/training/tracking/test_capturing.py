from __future__ import annotations

import math
import platform
import subprocess
from pathlib import Path

import msgspec
import pytest

from endcap.loop.training.tracking.capturing import (
    ENVIRONMENT_TAG,
    CostMeter,
    capture_environment,
    keep_environment,
    read_cost,
    read_environment,
    read_git,
    tell_cost,
)
from endcap.loop.training.tracking.records import RunCost, RunEnvironment
from endcap.storage.tracks import Point, Track
from endcap.testing.sessions import make_session


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org", *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", ".")
    (tmp_path / "train.py").write_text("print(1)\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_an_environment_says_python_packages_machine_and_commit(repository: Path) -> None:
    found = capture_environment(folder=repository)
    assert found.python == platform.python_version()
    assert found.packages["msgspec"].split(" ")[0] == msgspec.__version__
    assert found.packages["numpy"].split(" sha256:")[1].isalnum()
    assert (len(found.git_commit), found.git_clean) == (40, True)
    assert found.n_cpus is not None
    assert found.n_cpus >= 1
    assert found.memory_bytes is not None
    assert found.memory_bytes > 2**20


def test_a_changed_or_new_file_makes_a_tree_unclean(repository: Path) -> None:
    commit, clean = read_git(repository)
    assert clean
    (repository / "train.py").write_text("print(2)\n")
    assert read_git(repository) == (commit, False)
    git(repository, "checkout", "-q", ".")
    (repository / "new.py").write_text("")
    assert read_git(repository) == (commit, False)


def test_where_there_is_no_git_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert read_git(tmp_path) == ("", None)
    assert read_git(tmp_path / "nothing") == ("", None)
    git(tmp_path, "init", "-q", ".")
    assert read_git(tmp_path) == ("", None), "there is no commit yet"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_git(tmp_path) == ("", None)


def test_a_process_that_stands_in_no_folder_any_more_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert capture_environment().git_commit == ""


def test_a_repository_cannot_make_git_run_what_it_names(repository: Path) -> None:
    trap = repository / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {repository / 'sprung'}\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    assert read_git(repository)[0]
    assert not (repository / "sprung").exists()


def test_environments_are_kept_once_and_found_by_the_runs_tags() -> None:
    session = make_session()
    environment = RunEnvironment(python="3.12.1", packages={"numpy": "2.1"}, git_commit="a" * 40, git_clean=False, n_cpus=2)
    tags = keep_environment(session, environment)
    assert keep_environment(session, environment) == tags
    assert (tags["endcap.git_commit"], tags["endcap.git_clean"]) == ("a" * 40, "false")
    assert read_environment(session, Track(id="a", group="1", tags=tags)) == environment
    assert read_environment(session, Track(id="a", group="1")) is None
    told = {"mlflow.source.git.commit": "b" * 40}
    assert read_environment(session, Track(id="a", group="1", tags=told)) == RunEnvironment(git_commit="b" * 40)
    for digest in ("nothing", "0" * 64, "../x", session.blobs.put(b"other bytes"), session.blobs.put(b'{"python": 7}')):
        assert read_environment(session, Track(id="a", group="1", tags={ENVIRONMENT_TAG: digest})) is None


def test_cost_is_measured_kept_as_metrics_and_read_back() -> None:
    meter = CostMeter()
    assert sum(range(300_000)) > 0
    cost = meter.read()
    assert cost.wall_s is not None
    assert 0 < cost.wall_s < 60
    assert cost.cpu_s is not None
    assert cost.cpu_s >= 0
    assert cost.peak_bytes is not None
    assert cost.peak_bytes > 2**20
    points = tell_cost(cost, at_us=5)
    track = Track(id="a", group="1", metrics={point.name: point for point in points})
    assert read_cost(track, n_bytes=3) == msgspec.structs.replace(cost, n_bytes=3)
    assert tell_cost(RunCost(cpu_s=1.0), at_us=5) == [Point("endcap.cpu_s", 1.0, 5)]


def test_a_run_that_told_no_cost_took_from_its_start_to_its_end() -> None:
    assert read_cost(Track(id="a", group="1", started_us=1_000_000, ended_us=3_500_000)) == RunCost(wall_s=2.5)
    assert read_cost(Track(id="a", group="1")) == RunCost()
    lie = {"endcap.peak_bytes": Point("endcap.peak_bytes", math.inf, 0)}
    assert read_cost(Track(id="a", group="1", metrics=lie)).peak_bytes is None
