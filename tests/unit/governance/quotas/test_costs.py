from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from endcap.assembly import House, open_house
from endcap.core.clock import ManualClock
from endcap.core.errors import InvalidInput, PermissionDenied
from endcap.governance.quotas.costs import list_costs
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.usage import count_use
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session


@pytest.fixture
def house() -> Iterator[House]:
    clock = ManualClock(make_session().now())
    with open_house("memory://", clock=clock) as opened:
        yield opened


def work(session: Session, thing: str, cpu_s: float, payload: bytes = b"") -> None:
    """A run that costs something and keeps some bytes."""
    with hold_place(session, thing) as own:
        if payload:
            own.blobs.put(payload)
        with own.records.transact() as tx:
            count_use(own, tx, thing, cpu_s=cpu_s, wall_s=2 * cpu_s, n_runs=1)


def test_costs_are_told_by_thing_actor_day_and_workspace(house: House) -> None:
    ada, bob, other = house.session(actor="ada"), house.session(actor="bob"), house.session(actor="ada", workspace="other")
    work(ada, "model/a", 10.0, b"a" * 100)
    work(bob, "model/a", 5.0)
    assert isinstance(house.clock, ManualClock)
    house.clock.advance(timedelta(days=1))
    work(bob, "view/v", 20.0, b"b" * 50)
    work(other, "model/z", 1.0)
    told = [(line.of, line.cpu_s, line.wall_s, line.n_runs, line.stored_bytes, line.held_bytes) for line in list_costs(ada)]
    assert told == [("view/v", 20.0, 40.0, 1, 50, 50), ("model/a", 15.0, 30.0, 2, 100, 100)]
    assert [(line.of, line.cpu_s, line.held_bytes) for line in list_costs(ada, by="actor")] == [("bob", 25.0, 50), ("ada", 10.0, 100)]
    assert [(line.of, line.cpu_s, line.held_bytes) for line in list_costs(ada, by="day")] == [("2026-01-05", 15.0, None), ("2026-01-06", 20.0, None)]
    assert [(line.of, line.cpu_s) for line in list_costs(ada, by="workspace")] == [("default", 35.0), ("other", 1.0)]
    assert [(line.of, line.cpu_s) for line in list_costs(ada, since="2026-01-06")] == [("view/v", 20.0), ("model/a", 0.0)]
    assert [(line.of, line.cpu_s) for line in list_costs(ada, until="2026-01-05")] == [("model/a", 15.0), ("view/v", 0.0)]
    assert [line.cpu_s for line in list_costs(ada, since="2025-12-01", by="day")] == [15.0, 20.0]


def test_the_whole_home_is_for_its_admins(house: House) -> None:
    owner = replace(house.session(actor="olga"), admin=False)
    work(owner, "model/a", 1.0)
    with pytest.raises(PermissionDenied, match="does not administer the house"):
        list_costs(owner, by="workspace")


def test_nothing_used_costs_nothing_and_bad_input_is_refused(house: House) -> None:
    session = house.session()
    assert list_costs(session) == []
    with pytest.raises(InvalidInput, match=r"by is 'modle'; it must be one of"):
        list_costs(session, by="modle")
    with pytest.raises(InvalidInput, match="holds no day"):
        list_costs(session, since="2026-01-06", until="2026-01-05")
    with pytest.raises(InvalidInput, match="is not a time"):
        list_costs(session, since="yesterday")
