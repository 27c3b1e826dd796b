"""Runs that are killed, run out of disk or meet another: the next one goes on where they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
MODEL = "store-day"

# Shares of the instants of a run; all of them are tried by: make bench NAME=kill-storm
SAMPLES = {
    "first": ("kill:1%", "kill:36%", "kill:83%", "full:17%"),
    "changed": ("kill:45%", "kill:71%", "kill:96%", "full:66%"),
    "next-hour": ("kill:45%", "late:94%", "full:75%"),
}
PAUSING = """
import sys
from pathlib import Path
from endcap.assembly import open_house
from endcap.pipelines.graph import SilentReporter
from endcap.project.running import run

class Pausing(SilentReporter):
    def step_started(self, name):
        if name == "train":
            print("at train", flush=True)
            sys.stdin.readline()

with open_house(sys.argv[2]) as house:
    run(house.session(), "store-day", folder=Path(sys.argv[1]), reporter=Pausing())
"""


@pytest.mark.parametrize("world", SAMPLES)
def test_a_run_that_is_hurt_at_any_instant_is_made_good_by_the_next(world: str) -> None:
    command = [sys.executable, "-m", "endcap.testing.kills", world, *SAMPLES[world]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    *trials, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(trial["name"], trial["problems"]) for trial in trials if trial["problems"]] == []
    assert [trial["killed"] for trial in trials] == [True] * len(SAMPLES[world])
    assert (done.returncode, summary["n_tried"], summary["n_failed"]) == (0, len(trials), 0)


def test_two_runs_at_once_and_one_that_is_killed(tmp_path: Path, cli: Cli, open_shop: Callable[..., Any]) -> None:
    shop = open_shop(tmp_path / "shop")
    shop.define("weekday_mean")
    home = tmp_path / "home"
    where = ("--project", shop.folder, "--home", home)
    first = subprocess.Popen([sys.executable, "-c", PAUSING, shop.folder, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "at train\n"
        second = cli("run", MODEL, "--json", *where)
        (going,) = cli("runs", "--json", *where).json
        assert (second.code, second.error["code"]) == (5, "conflict")
        assert second.error["error"].startswith(f"'model/{MODEL}' is held by {going['id']} of ")
        assert f"(process {first.pid} on " in second.error["error"]
        assert "--wait" in second.error["hint"]
        assert cli("ls", *where).code == 0
        waited = cli("run", MODEL, "--wait", "1s", *where)
        assert (waited.code, "after 1.0 s of waiting" in waited.err) == (5, True)
    finally:
        first.kill()
        first.communicate()
    third = cli("run", MODEL, "--json", *where)
    assert (third.code, third.json["champion"]) == (0, f"{MODEL}-v1")
    statuses = {step["name"]: step["status"] for step in third.json["run"]["steps"]}
    assert [statuses[name] for name in ("ingest sales", "assemble", "train")] == ["cached", "cached", "done"]
    runs = cli("runs", "--json", *where).json
    assert [(r["id"] == going["id"], r["status"]) for r in runs] == [(False, "done"), (True, "killed")]
    assert runs[1]["error"] == "It was killed, or fell silent, at step 'train'."
