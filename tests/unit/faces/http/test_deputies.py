"""Confused deputies: work that a request began stops when who began it may no longer do it, whatever they signed in with."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.permissions import Permission
from endcap.faces.http import application
from endcap.faces.http.application import build_application
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.groups import add_group, grant_group, join_group, leave_group
from endcap.governance.people import add_user, disable_user, grant_role
from endcap.governance.sessions import Session
from endcap.governance.tokens import make_token, revoke_token, rotate_token
from endcap.governance.verbs import verb
from endcap.pipelines.graph import Outcome, Step, StepContext
from endcap.pipelines.records import RUNS
from endcap.pipelines.runner import run_steps

GOOD = "pine under marble"

pytestmark = pytest.mark.usefixtures("quick_passwords")
Take = Callable[[House, str], object]


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://", clock=ManualClock(datetime(2026, 1, 5, 8, tzinfo=UTC))) as opened:
        owner = opened.session()
        add_user(owner, "ada")
        add_user(owner, "bob", password=GOOD)
        add_group(owner, "demand")
        grant_group(owner, "demand", "editor")
        join_group(owner, "demand", "bob")
        yield opened


@pytest.fixture
def work(house: House, tmp_path: Path, remote: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Begins a run over HTTP; while its first step goes on, something is taken away. Gives the answer and the steps that ran."""
    ran: list[str] = []
    taking: list[Callable[[], object]] = []

    def first(_: StepContext) -> Outcome:
        ran.append("first")
        for take in taking:
            take()
        return Outcome(1)

    def second(_: StepContext) -> Outcome:
        ran.append("second")
        return Outcome(2)

    @verb("toil", permission=Permission.EDIT)
    def toil(session: Session, *, changing: bool = False) -> int:
        """Toil. ``changing`` is whether a change is what comes next, and not a step."""
        if changing:
            first(None)  # type: ignore[arg-type]  # it looks at nothing
            with session.as_system().change("release", thing="model/store-day"):
                ran.append("second")
            return 2
        return int(run_steps(session, (Step("first", first, int), Step("second", second, int)), subject="model/store-day").values["second"])

    monkeypatch.setattr(application, "remote_verbs", lambda: {"toil": remote(toil)})
    client = TestClient(build_application(house, folder=tmp_path), base_url="http://127.0.0.1:8420", raise_server_exceptions=False)

    def begin(said: str, take: Callable[[], object], *, changing: bool = False) -> tuple[Any, list[str]]:
        taking[:], ran[:] = [take], []
        return client.post("/api/v1/toil", json={"changing": changing}, headers={"Authorization": said}), list(ran)

    with client:
        yield begin


def nothing(_: House, __: str) -> None:
    pass


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize(
    ("take", "why"),
    [
        (nothing, ""),
        (lambda house, _: leave_group(house.session(), "demand", user="bob"), "'bob' is not editor"),
        (lambda house, _: grant_group(house.session(), "demand", "viewer"), "'bob' is not editor"),
        (lambda house, _: disable_user(house.session(), "bob"), "'bob' was disabled"),
    ],
)
def test_what_a_request_began_stops_when_the_right_is_gone(
    house: House, work: Callable[..., Any], take: Take, why: str, by_token: bool, changing: bool
) -> None:
    token = make_token(house.session(), "nightly", user="bob")
    said = f"Bearer {token.token}" if by_token else f"Basic {base64.b64encode(f'bob:{GOOD}'.encode()).decode()}"
    answer, ran = work(said, lambda: take(house, token.id), changing=changing)
    if not why:
        assert (answer.status_code, ran) == (200, ["first", "second"])
        return
    assert (answer.status_code, answer.json()["code"], ran) == (403, "permission_denied", ["first"])
    assert answer.json()["error"].startswith(why)
    (row,) = list_audit(house.session(), outcome="refused")
    assert (row.verb, row.detail["why"].startswith(why)) == ("release" if changing else "run", True)
    assert [run.status for run in house.ports.records.find(RUNS, workspace="default")] == ([] if changing else ["failed"])
    verify_audit(house.session())


@pytest.mark.parametrize(
    ("take", "status"),
    [
        (lambda house, token: revoke_token(house.session(), token), 403),
        (lambda house, token: rotate_token(house.session(), token, overlap="0s"), 403),
        (lambda house, token: rotate_token(house.session(), token), 200),
        (lambda house, _: grant_role(house.session(), "bob", "owner"), 200),
    ],
)
def test_what_a_token_began_ends_with_the_token(house: House, work: Callable[..., Any], take: Take, status: int) -> None:
    token = make_token(house.session(), "nightly", user="bob")
    answer, ran = work(f"Bearer {token.token}", lambda: take(house, token.id))
    assert (answer.status_code, len(ran)) == (status, 2 if status == 200 else 1)
