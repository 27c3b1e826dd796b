"""The way back: proved, once, and never past a pin."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from endcap.core.clock import SystemIds
from endcap.core.errors import Conflict, EndcapError, GateRefused, IntegrityBroken, NotFound, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.sessions import Session
from endcap.loop.registry.records import RELEASES, Version
from endcap.loop.registry.releases import get_champion, promote, show_history
from endcap.loop.registry.rollbacks import roll_back
from endcap.testing.sessions import make_session

MODEL = "store-day"
V1, V2, V3 = (f"store-day-v{n}" for n in (1, 2, 3))


@pytest.fixture
def three(shop: Any) -> Any:
    for identity in ("a", "b", "c"):
        shop.pass_time(hours=1)
        version = shop.register(identity)
        found = get_champion(shop.session, MODEL)
        shop.judge(version, against=found.version if found else None)
        promote(shop.session, version.id)
    shop.pass_time(hours=1)
    return shop


def champion(shop: Any, environment: str = "prod") -> str | None:
    found = get_champion(shop.session, MODEL, environment=environment)
    return found.version if found else None


def agree(_session: Session, version: Version) -> str:
    return f"{version.id} gives the 3 answers it gave"


def test_the_version_proves_itself_before_anything_moves(three: Any) -> None:
    seen: list[tuple[str, str | None]] = []

    def prove(session: Session, version: Version) -> str:
        seen.append((version.id, champion(three)))
        return "it gives the 3 answers it gave"

    row = roll_back(three.session, MODEL, prove=prove, reason="complaints")
    assert seen == [(V2, V3)], "asked once, while the other still answered"
    assert (row.version, row.proof) == (V2, "it gives the 3 answers it gave")
    assert show_history(three.session, MODEL)[0] == row


@pytest.mark.parametrize("error", [IntegrityBroken, NotFound, Conflict])
def test_one_that_does_not_prove_itself_is_refused_audited_and_nothing_moves(three: Any, error: type[EndcapError]) -> None:
    def fail(_session: Session, _version: Version) -> str:
        raise error("row 2 is 3.1 and was 4.2.")

    before = get_champion(three.session, MODEL)
    with pytest.raises(error, match="'store-day-v2' does not prove that it answers as it did, so nothing was moved: row 2") as caught:
        roll_back(three.session, MODEL, prove=fail)
    assert caught.value.hint == "see what it is made of with: endcap show store-day-v2"
    assert get_champion(three.session, MODEL) == before
    (row,) = list_audit(three.session, limit=1)
    assert (row.verb, row.outcome, row.detail["version"], row.detail["why"]) == ("rollback", "refused", V2, "row 2 is 3.1 and was 4.2.")


def test_an_editor_is_refused_by_the_room_itself(three: Any) -> None:
    with pytest.raises(PermissionDenied):
        roll_back(replace(three.session, role=Role.EDITOR), MODEL, prove=agree)


def test_a_second_one_in_a_row_says_how_and_pins_and_seats_between_do_not_count(three: Any) -> None:
    from endcap.loop.registry.pins import pin, unpin

    roll_back(three.session, MODEL, prove=agree)
    pin(three.session, MODEL)
    unpin(three.session, MODEL)
    three.judge(three.register("d"), against=V2)
    promote(three.session, "store-day-v4", role="shadow")
    with pytest.raises(Conflict, match="It went back already"):
        roll_back(three.session, MODEL, prove=agree)
    promote(three.session, "store-day-v4")
    assert roll_back(three.session, MODEL, prove=agree).version == V2
    assert roll_back(three.session, MODEL, prove=agree, again=True).version == V1


def test_an_environment_goes_back_by_itself(three: Any) -> None:
    for version, before in ((V1, None), (V3, V1)):
        three.judge_for(version, "dev", against=before)
        promote(three.session, version, environment="dev")
    with pytest.raises(Conflict, match="it has no release in 'staging'"):
        roll_back(three.session, MODEL, prove=agree, environment="staging")
    assert roll_back(three.session, MODEL, prove=agree, environment="dev").version == V1
    assert (champion(three), champion(three, "dev")) == (V3, V1)
    roll_back(three.session, MODEL, prove=agree)  # the one in dev was not of prod


def test_history_never_runs_backwards_when_the_clock_does(three: Any) -> None:
    early = replace(three.session, clock=type(three.clock)(three.session.now().replace(hour=1)))
    row = roll_back(early, MODEL, prove=agree)
    newest, before, *_ = show_history(three.session, MODEL)
    assert newest == row
    assert newest.at == before.at, "the clock of this host was hours behind"
    assert list_audit(three.session, limit=1)[0].detail["clock_behind_s"] == 36_000.0
    (found,) = show_history(three.session, MODEL, at=newest.at.isoformat())
    assert found == newest


@pytest.mark.parametrize("embedded", [False, True])
def test_in_a_storm_there_is_always_one_champion_and_the_history_adds_up(tmp_path: Path, shop_of: Callable[..., Any], embedded: bool) -> None:
    session = replace(make_session(tmp_path if embedded else "memory://"), new_id=SystemIds())
    shop = shop_of(session)
    shop.define()
    for n in range(4):
        shop.judge(shop.register(f"{n}"), against=champion(shop))
        if n == 0:
            promote(session, V1)
    line = threading.Barrier(4)

    def storm(n: int) -> set[str]:
        said = set()
        line.wait()
        for i in range(12):
            try:
                if (n + i) % 3 == 2:
                    roll_back(session, MODEL, prove=agree, again=bool(i % 2))
                    said.add("rolled back")
                else:
                    standing = champion(shop)
                    version = f"store-day-v{1 + (n * 5 + i) % 4}"
                    shop.judge_for(version, "prod", against=standing)
                    promote(session, version)
                    said.add("promoted")
            except (Conflict, GateRefused) as error:
                said.add(error.code)
            assert champion(shop) is not None
        return said

    try:
        with ThreadPoolExecutor(4) as threads:
            said = set().union(*threads.map(storm, range(4)))
        assert {"promoted", "rolled back"} <= said
        rows = session.records.find(RELEASES, workspace="default")
        assert [row.n for row in rows] == list(range(1, len(rows) + 1)), "each move counts one on"
        assert [row.previous for row in rows] == [None, *(row.champion for row in rows[:-1])], "each row begins where the one before ended"
        assert all(a.at <= b.at for a, b in pairwise(rows))
        final = get_champion(session, MODEL)
        assert final is not None
        assert (final.version, final.release, final.n) == (rows[-1].champion, rows[-1].id, rows[-1].n)
        verify_audit(session)
    finally:
        session.ports.close()
