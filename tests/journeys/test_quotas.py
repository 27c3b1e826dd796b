"""Two workspaces and three people share a house with quotas, by command line and by HTTP; and what is left of runs that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.faces.http.application import build_application
from endcap.faces.http.rates import Rates
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.people import add_user, grant_role
from endcap.governance.quotas.costs import list_costs
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.queue import list_queue
from endcap.governance.quotas.records import PLACES, USAGES, Capacity, Place
from endcap.governance.quotas.recounting import recount_storage
from endcap.governance.records import HOUSE
from endcap.governance.tokens import make_token
from endcap.pipelines.records import RUNS

MODEL = "store-day"
PEOPLE = {"ada": ("demand", "owner"), "bob": ("demand", "editor"), "cleo": ("trust", "owner")}
ONE = Capacity(runs=1)


class Team(NamedTuple):
    """A house with its people, asked by HTTP as any of them."""

    house: House
    folder: Path
    client: TestClient
    tokens: dict[str, str]

    def ask(self, who: str, verb: str, **parameters: object) -> Any:
        return self.client.post(f"/api/v1/{verb}", json=parameters, headers={"Authorization": f"Bearer {self.tokens[who]}"})


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, open_shop: Callable[..., Any]) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("shared")
    open_shop(folder).define("weekday_mean")
    with open_house(folder / ".endcap") as house:
        root = house.session()
        add_user(root, "root")
        for name, (workspace, role) in PEOPLE.items():
            add_user(root, name)
            grant_role(root, name, role, workspace=workspace)
        tokens = {name: make_token(root, "test", user=name, workspace=workspace).token for name, (workspace, _) in PEOPLE.items()}
        app = build_application(house, folder=folder, rates=Rates())
        with TestClient(app, base_url="http://127.0.0.1:8420", raise_server_exceptions=False) as client:
            yield Team(house, folder, client, tokens)


def test_an_admin_settles_what_workspaces_may_and_owners_what_people_may(team: Team, cli: Callable[..., Any]) -> None:
    where = ("--project", team.folder)
    made = cli("quotas", "set", "--workspace", "demand", "--runs", "2", "--storage", "1GB", "--json", *where).json
    assert [(line["limit"], line["allowed"]) for line in made] == [("storage", 1e9), ("runs", 2)]
    assert team.ask("ada", "quotas/set", actor="bob", runs=1, memory="2GB", requests="1000/s").status_code == 200
    refused = team.ask("ada", "quotas/set", runs=9)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert team.ask("bob", "quotas/set", actor="bob", runs=9).status_code == 403
    assert team.ask("cleo", "quotas/set", actor="bob", runs=9).status_code == 200, "bob in cleo's own workspace"
    seen = team.ask("bob", "quotas/ls").json()
    assert {(line["actor"], line["limit"]) for line in seen} == {
        ("", "runs"),
        ("", "storage"),
        ("bob", "runs"),
        ("bob", "memory"),
        ("bob", "requests"),
    }
    assert {line["workspace"] for line in team.ask("cleo", "quotas/ls").json()} == {"trust"}
    whole = cli("quotas", "ls", "--everywhere", "--json", *where).json
    assert {(line["workspace"], line["actor"]) for line in whole} == {("demand", ""), ("demand", "bob"), ("trust", "bob")}
    assert "2 at once" in cli("quotas", "show", "--workspace", "demand", *where).out
    assert cli("quotas", "set", "--actor", "bo", "--runs", "1", *where).code == 3


def test_a_run_is_metered_to_who_ran_it_and_refused_once_the_minutes_are_used_up(team: Team, cli: Callable[..., Any]) -> None:
    ran = team.ask("bob", "run", model=MODEL)
    assert ran.status_code == 200, ran.text
    told = {line["of"]: line for line in team.ask("ada", "cost", by="actor").json()}
    steps = ran.json()["run"]["steps"]
    assert told["bob"]["cpu_s"] == pytest.approx(sum(step["cpu_s"] for step in steps), abs=0.01)
    assert told["bob"]["n_runs"] == 1
    (of_model,) = [line for line in team.ask("ada", "cost").json() if line["of"] == f"model/{MODEL}"]
    assert of_model["held_bytes"] > 0
    assert all(line["cpu_s"] == 0 for line in team.ask("cleo", "cost").json())
    recounted = team.ask("ada", "quotas/recount").json()
    assert recounted["n_bytes"] == recounted["n_bytes_before"], "what was counted step by step is what is there"
    on_disk = dict(team.house.ports.blobs.list_digests())
    in_tables = sum(n for _, _, n in team.house.ports.tables.list_sizes(partition={"workspace": "demand"}))
    assert recounted["n_bytes"] == sum(on_disk.values()) + in_tables, "only this workspace has put anything"
    assert team.ask("ada", "quotas/set", actor="bob", cpu_minutes="0.0001/month").status_code == 200
    refused = team.ask("bob", "run", model=MODEL)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["retry-after"]) == refused.json()["details"]["retry_after_s"] > 0
    assert "has used" in refused.json()["error"]
    session = team.house.session(workspace="demand")
    assert list_audit(session, outcome="refused", actor="bob")[0].detail["why"] == "quota"
    told_here = cli("run", MODEL, "--memory", "3GB", "--json", "--workspace", "demand", "--project", team.folder)
    assert told_here.code == 0, "somebody else's minutes are not used up"
    assert cli("quotas", "set", "--workspace", "demand", "--cpu-minutes", "0.0001", "--project", team.folder).code == 0
    refused_here = cli("run", MODEL, "--json", "--workspace", "demand", "--project", team.folder)
    assert (refused_here.code, refused_here.error["code"]) == (11, "quota_exceeded")
    assert cli("quotas", "clear", "--workspace", "demand", "--only", "cpu-minutes", "--project", team.folder).code == 0
    assert team.ask("ada", "quotas/clear", actor="bob", only=["cpu-minutes"]).status_code == 200
    assert verify_audit(session).intact


def test_who_waits_for_whom_is_seen_by_their_own_and_left_by_http(team: Team, cli: Callable[..., Any]) -> None:
    demand, trust = team.house.session(actor="bob", workspace="demand"), team.house.session(actor="cleo", workspace="trust")
    lines: list[Any] = []

    def look_and_leave(_: float) -> None:
        lines.extend(team.ask("bob", "queue").json())
        assert [line["subject"] for line in team.ask("cleo", "queue").json()] == ["model/theirs", "-"]
        assert team.ask("cleo", "leave-queue", place=lines[1]["id"]).status_code == 404
        shown = cli("queue", "--project", team.folder).out
        assert "model/ours" in shown
        assert "the machine runs as many as it may" in shown
        assert team.ask("bob", "leave-queue", place=lines[1]["id"]).status_code == 200

    with (
        hold_place(trust, "model/theirs", capacity=ONE),
        pytest.raises(Exception, match="'bob' took the run of 'model/ours' out of the queue"),
        hold_place(demand, "model/ours", capacity=ONE, wait=look_and_leave),
    ):
        raise AssertionError("it has no place")
    assert [(line["number"], line["actor"], line["subject"]) for line in lines] == [(0, "-", "-"), (1, "bob", "model/ours")]


# Runs that are killed. Each is a process of its own, which says how far it is; it is waited for by what it says.

_CHILD = """
import sys, time
from pathlib import Path
from endcap.assembly import open_house
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.records import Capacity
from endcap.pipelines.graph import Outcome, Step
from endcap.pipelines.runner import run_steps

def say(what):
    print(what, flush=True)

class Told:
    def step_started(self, name):
        say(name)
    def step_ended(self, name, **_):
        pass
    def step_advanced(self, name, **_):
        pass

def burn(context):
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    return Outcome(None)

def hang(context):
    say("second step")
    sys.stdin.read()
    return Outcome(None)

home, what, subject = sys.argv[1:]
with open_house(home) as house:
    session = house.session(actor="bob")
    if what == "run":
        run_steps(session, (Step("a", burn, type(None)), Step("b", hang, type(None))), subject=subject)
    else:
        with hold_place(session, subject, capacity=Capacity(runs=1), reporter=Told()):
            say("running")
            sys.stdin.read()
"""


@contextmanager
def child(home: Path, what: str, subject: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(home), what, subject],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def states(house: House) -> dict[str, str]:
    found: list[Place] = [
        place for state in ("ended", "running", "waiting") for place in house.ports.records.find(PLACES, workspace=HOUSE, where={"state": state})
    ]
    return {place.subject: place.state for place in found}


def test_who_waits_goes_on_when_who_runs_is_killed_and_who_is_killed_waiting_is_passed_over(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_house(home) as house, child(home, "hold", "model/a") as first:
        assert read_line(first) == "running"
        with child(home, "hold", "model/b") as second, child(home, "hold", "model/c") as third:
            assert "the machine runs as many as it may; 'model/a' of 'bob' goes on" in read_line(second)
            assert "'model/a' of 'bob' goes on" in read_line(third)
            ahead, behind = sorted((second, third), key=lambda process: _number(house, process))
            kill(ahead)
            assert len(list_queue(house.session())) == 2, "who was killed waits no more"
            kill(first)
            told = read_line(behind)
            while told != "running":
                told = read_line(behind)
            assert sorted(states(house).values()) == ["ended", "ended", "running"]
            kill(behind)
        with hold_place(house.session(), "model/d", capacity=ONE, wait_s=0):
            assert states(house)["model/d"] == "running"


def _number(house: House, process: subprocess.Popen[str]) -> int:
    return next(line.number for line in list_queue(house.session()) if line.process.startswith(f"process {process.pid} on"))


def test_a_run_that_is_killed_has_cost_what_its_ended_steps_did(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with open_house(home) as house, child(home, "run", "model/a") as process:
        assert read_line(process) == "second step"
        kill(process)
        session = house.session()
        (run,) = session.records.find(RUNS, workspace="default")
        (step,) = run.steps
        assert step.cpu_s > 0.04
        usages = session.records.find(USAGES, workspace="default")  # two, where midnight fell between its begin and the step's end
        assert {(usage.actor, usage.thing) for usage in usages} == {("bob", "model/a")}
        assert sum(usage.n_runs for usage in usages) == 1
        assert sum(usage.cpu_s for usage in usages) == step.cpu_s
        assert [line.cpu_s for line in list_costs(session)] == [round(step.cpu_s, 3)]
        before = recount_storage(session)
        assert before.n_bytes == before.n_bytes_before
