"""The drill: work goes on, a backup is made, the home is destroyed, and what comes back holds all that was acknowledged before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endcap.testing.backup_drills import drill

# Shares of the instants of a backup and of a restore; all of them are tried by: make bench NAME=backup
SAMPLES = ("kill:2%", "kill:40%", "kill:96%", "full:20%", "full:70%", "full:98%")


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_what_is_hurt_at_any_instant_leaves_nothing_half_written_and_goes_on(verb: str) -> None:
    done = subprocess.run([sys.executable, "-m", "endcap.testing.backup_kills", verb, *SAMPLES], capture_output=True, text=True, check=False)
    *wrong, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert (wrong, summary["n_tried"], summary["n_failed"]) == ([], len(SAMPLES), 0)
    assert summary["ended"].keys() == {"-9", "9"}, "each was killed, or told that the disk is full"


@pytest.mark.parametrize("sort", ["folder", "postgres", "files"])
def test_a_home_that_is_written_to_is_backed_up_destroyed_and_restored(sort: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """``files`` is a home in PostgreSQL whose files rest in a folder; one of PostgreSQL comes back in a folder."""
    home: str | Path = tmp_path / "home"
    if sort != "folder":
        server, url = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_home")()
        home = url if sort == "postgres" else f"{url}&files={tmp_path / 'files'}"

    def destroy() -> None:
        if sort == "folder":
            shutil.rmtree(home)
        else:
            server.execute(f"DROP SCHEMA {str(home).partition('schema=')[2].partition('&')[0]} CASCADE")
            shutil.rmtree(tmp_path / "files", ignore_errors=True)

    new_home = request.getfixturevalue("postgres_home")() if sort == "files" else tmp_path / "new"
    done = drill(home, str(tmp_path / "vault"), new_home, destroy=destroy)
    assert done.faults == ()
    assert done.n_acknowledged >= 12
    assert done.n_said > done.n_acknowledged
    assert done.last.n_bytes_new is not None
    assert done.last.n_bytes_new < done.last.n_bytes, "the second backup copied what was new"


def test_a_home_that_answers_is_not_restored_over(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """A service that was just started on an empty home is in the way, and so it is while it is backed up from elsewhere: that goes well."""
    command = [
        sys.executable,
        "-m",
        "endcap.faces.cli.entry",
        "up",
        "--port",
        "0",
        "--project",
        str(tmp_path),
        "--home",
        str(tmp_path / "home"),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"].startswith("http")
        assert cli("backup", tmp_path / "vault", "--home", tmp_path / "home").code == 0
        refused = cli("restore", tmp_path / "vault", "--home", tmp_path / "home", "--json")
        assert (refused.code, refused.error["code"]) == (5, "conflict")
        assert f"is served by process {process.pid} since" in refused.error["error"]
        rows = cli("audit", "--house", "--home", tmp_path / "home", "--json").json
        assert [(row["verb"], row["outcome"]) for row in rows] == [("restore", "refused"), ("backup", "done")]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close() if process.stdout else None
    stopped = cli("restore", tmp_path / "vault", "--home", tmp_path / "home", "--json")
    assert "is not empty" in stopped.error["error"]
    assert cli("restore", tmp_path / "vault", "--home", tmp_path / "new").code == 0
