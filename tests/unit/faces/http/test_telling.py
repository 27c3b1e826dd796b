from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from endcap.assembly import House, open_house
from endcap.core.settings import Settings
from endcap.faces.http import telling as room
from endcap.faces.http.telling import tell_once, telling
from endcap.governance.notices import list_notices, notify
from endcap.governance.webhooks import add_webhook
from endcap.testing.receivers import receiving


@pytest.fixture
def house() -> Iterator[House]:
    with open_house("memory://", settings=Settings(webhook_hosts=("127.0.0.1",))) as opened:
        yield opened


def tell(house: House, workspace: str = "default") -> None:
    session = house.session(workspace=workspace)
    with session.change("promote", thing="version/v2") as change:
        notify(session, change, kind="release", thing="version/v2", sentence="v2 answers")


def test_every_workspace_is_told_of_its_own(house: House) -> None:
    assert tell_once(house) == 0
    with receiving() as receiver:
        for workspace in ("default", "shoes"):
            add_webhook(house.session(workspace=workspace), f"http://127.0.0.1:{receiver.port}/{workspace}")
            tell(house, workspace)
        tell(house, "hats")
        assert tell_once(house) == 2
        assert [request.path for request in receiver.requests] == ["/default", "/shoes"]
        assert tell_once(house) == 0


def test_it_goes_on_after_a_round_that_failed_and_ends_with_its_block(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, rounds = room.tell_once, []

    def fails_first(given: House) -> int:
        rounds.append(1)
        if len(rounds) == 1:
            raise RuntimeError("the first round")
        return right(given)

    monkeypatch.setattr(room, "tell_once", fails_first)
    with receiving() as receiver:
        add_webhook(house.session(), f"http://127.0.0.1:{receiver.port}/x")
        tell(house)
        with telling(house, every_s=0.01):
            assert receiver.arrived.wait(20)
            until = time.monotonic() + 20
            while list_notices(house.session())[0].n_delivered == 0 and time.monotonic() < until:
                time.sleep(0.01)
        assert list_notices(house.session())[0].n_delivered == 1
        n_rounds = len(rounds)
        time.sleep(0.05)
        assert len(rounds) == n_rounds
    assert "the first round" in capsys.readouterr().err
