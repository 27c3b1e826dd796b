from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import IntegrityBroken
from endcap.faces.http import sweeping as module
from endcap.faces.http.sweeping import sweep_once, sweeping
from endcap.governance.audit import list_audit
from endcap.governance.groups import add_group, grant_group
from endcap.governance.sessions import Session
from endcap.loop.features.records import SNAPSHOTS, Snapshot
from endcap.project.retention import set_retention

START = datetime(2026, 3, 4, 9, tzinfo=UTC)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return open_house(tmp_path / "home", clock=ManualClock(START))


def look(house: House, workspace: str) -> None:
    with house.ports.records.transact() as tx:
        for n in (1, 2):
            at = START - timedelta(days=100)
            found = Snapshot(id=f"{workspace}{n}", view="v", version="1", at=at, n_rows=1, first_event=None, last_event=None, profiles=())
            tx.append(SNAPSHOTS, workspace=workspace, record=found)


def test_each_workspace_is_swept_by_its_own_rules_once_a_day(house: House) -> None:
    for workspace in ("default", "web", "shop"):
        look(house, workspace)
    assert sweep_once(house) == {}
    set_retention(house.session(), "snapshots", "30d")
    set_retention(house.session(workspace="web"), "snapshots", "30d")
    assert sweep_once(house) == {"default": 1, "web": 1}
    assert sweep_once(house) == {}
    assert len(house.ports.records.find(SNAPSHOTS, workspace="shop")) == 2
    row = list_audit(house.session())[0]
    assert (row.actor, row.verb, row.detail) == ("system", "retention apply", {"n_snapshots": 1})
    house.close()


def test_a_workspace_that_only_a_group_has_a_role_in_is_swept_and_one_that_fails_keeps_no_other_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_group(house.session(), "team")
    grant_group(house.session(workspace="hats"), "team", "viewer")
    asked: list[str] = []

    def sweep(session: Session) -> None:
        asked.append(session.workspace)
        if session.workspace == "default":
            raise IntegrityBroken("It was changed at rest.")

    monkeypatch.setattr(module, "sweep_when_due", sweep)
    with pytest.raises(ExceptionGroup, match="not all workspaces") as caught:
        sweep_once(house)
    assert [str(error) for error in caught.value.exceptions] == ["It was changed at rest."]
    assert asked == ["default", "hats"]
    house.close()


def test_it_runs_beside_the_service_until_the_block_ends(house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    swept, failed = threading.Event(), threading.Event()

    def once(given: House) -> dict[str, int]:
        assert given is house
        if not failed.is_set():
            failed.set()
            raise OSError("the disk is away")
        swept.set()
        return {}

    monkeypatch.setattr(module, "sweep_once", once)
    with sweeping(house, every_s=0.001):
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "sweeping")
        assert swept.wait(timeout=60)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert "the disk is away" in capfd.readouterr().err
    house.close()
