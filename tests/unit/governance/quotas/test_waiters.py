from __future__ import annotations

import pytest

from endcap.core.errors import QuotaExceeded
from endcap.governance.quotas import places
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.records import PLACES, Capacity
from endcap.governance.records import HOUSE
from endcap.testing.sessions import make_session

ONE = Capacity(runs=1)


def test_of_one_process_so_many_runs_wait_and_the_next_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MOST_WAITING", 1)
    session, refused = make_session(), []

    def ask_for_more(_: float) -> None:
        with pytest.raises(QuotaExceeded, match="1 runs of this process wait in the queue already") as caught, hold_place(session, "c", capacity=ONE):
            raise AssertionError("it has no place")
        refused.append(caught.value.details["retry_after_s"])
        raise KeyboardInterrupt

    with hold_place(session, "a", capacity=ONE), pytest.raises(KeyboardInterrupt), hold_place(session, "b", capacity=ONE, wait=ask_for_more):
        raise AssertionError("it has no place")
    assert refused == [10]
    assert session.records.find(PLACES, workspace=HOUSE, where={"state": "waiting"}) == []
    with hold_place(session, "d", capacity=ONE, wait_s=0):
        assert len(session.records.find(PLACES, workspace=HOUSE, where={"state": "running"})) == 1
