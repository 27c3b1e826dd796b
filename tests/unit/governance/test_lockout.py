from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from endcap.core.errors import NotFound, NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance import lockout
from endcap.governance.audit import list_audit
from endcap.governance.lockout import FIRST_WAIT, FORGOTTEN_AFTER, FREE, LONGEST_WAIT, Attempt, begin_attempt, end_attempt, name_drawer
from endcap.governance.people import add_user, list_people, set_password, unlock_user
from endcap.governance.records import HOUSE, KNOWN_NETWORKS, WRONG_PASSWORDS
from endcap.governance.sessions import Session
from endcap.testing.sessions import make_session

HOME, OFFICE, ELSEWHERE = "10.0.0.9", "192.0.2.7", "203.0.113.5"

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def owner() -> Session:
    session = make_session(actor="root")
    add_user(session, "ada")
    add_user(session, "bob")
    return session


def attempt(session: Session, name: str = "ada", network: str = ELSEWHERE) -> Attempt:
    return begin_attempt(session.records, name, network=network, now=session.now())


def is_shut(session: Session, name: str = "ada", network: str = ELSEWHERE) -> bool:
    try:
        attempt(session, name, network)
    except NotSignedIn as error:
        return 1 <= int(str(error.details["wait_s"])) <= LONGEST_WAIT.total_seconds()
    return False


def go_on(session: Session, length: timedelta) -> None:
    session.clock.advance(length)  # type: ignore[attr-defined]  # a ManualClock


def guess_until_shut(session: Session, name: str = "ada", network: str = ELSEWHERE) -> int:
    n = 0
    while not is_shut(session, name, network):
        n += 1
    return n


def test_waits_begin_after_so_many_wrong_ones_grow_and_end(owner: Session) -> None:
    assert guess_until_shut(owner) == FREE
    waited = FIRST_WAIT
    for _ in range(9):
        go_on(owner, waited - timedelta(seconds=1))
        assert is_shut(owner)
        go_on(owner, timedelta(seconds=1))
        assert guess_until_shut(owner) == 1, "one more, and the next wait"
        waited = min(2 * waited, LONGEST_WAIT)
    assert waited == LONGEST_WAIT
    go_on(owner, LONGEST_WAIT)
    end_attempt(owner.records, attempt(owner))
    assert guess_until_shut(owner, network=HOME) == FREE, "the right one wipes them out"


def test_wrong_ones_of_another_day_are_forgotten(owner: Session) -> None:
    for _ in range(FREE - 1):
        attempt(owner)
    go_on(owner, FORGOTTEN_AFTER)
    assert guess_until_shut(owner) == FREE


def test_who_is_no_user_waits_as_a_user_does_in_the_same_words(owner: Session) -> None:
    said = []
    for name in ("ada", "nobody-here", "", "../ada", "x" * 5000, "ada\x00", "한글", "🙂", "'; DROP TABLE record; --", "\ud800"):
        assert guess_until_shut(owner, name) == FREE
        with pytest.raises(NotSignedIn) as refused:
            attempt(owner, name)
        said.append(str(refused.value.to_dict()))
        assert not refused.value.user
    assert len(set(said)) == 1
    kept = owner.records.find(WRONG_PASSWORDS, workspace=HOUSE)
    assert len(kept) == 10
    assert "nobody-here" not in repr(kept), "what strangers typed is not written down"


def test_who_guesses_elsewhere_does_not_shut_the_networks_that_a_user_came_from(owner: Session) -> None:
    for network in (HOME, OFFICE):
        end_attempt(owner.records, attempt(owner, network=network))
    guess_until_shut(owner)
    assert not is_shut(owner, network=HOME)
    assert not is_shut(owner, network=OFFICE)
    assert is_shut(owner, network="198.51.100.1"), "another stranger"
    assert guess_until_shut(owner, network=HOME) == FREE - 1, "which has its own count"
    assert not is_shut(owner, network=OFFICE)
    known = owner.records.find(KNOWN_NETWORKS, workspace=HOUSE)
    assert HOME not in repr(known)
    assert [len(found.networks) for found in known] == [2]
    for i in range(20):
        end_attempt(owner.records, attempt(owner, "bob", f"198.51.100.{i}"))
    assert [len(found.networks) for found in owner.records.find(KNOWN_NETWORKS, workspace=HOUSE)] == [2, 8]


def test_an_admin_ends_a_wait_and_so_does_a_new_password(owner: Session) -> None:
    end_attempt(owner.records, attempt(owner, network=HOME))
    guess_until_shut(owner)
    guess_until_shut(owner, network=HOME)
    waits = {person.name: person.locked_until for person in list_people(owner, everybody=True)}
    assert waits == {"ada": owner.now() + FIRST_WAIT, "bob": None}
    unlock_user(owner, "ada")
    assert {person.locked_until for person in list_people(owner, everybody=True)} == {None}
    assert not is_shut(owner)
    assert not is_shut(owner, network=HOME)
    rows = list_audit(owner, house=True, limit=1)
    assert [(row.verb, row.thing, row.detail) for row in rows] == [("users unlock", "user/ada", {"waited": True})]
    unlock_user(owner, "bob")
    assert list_audit(owner, house=True, limit=1)[0].detail == {"waited": False}
    guess_until_shut(owner)
    set_password(owner, "ada", password="pine under marble")
    assert not is_shut(owner)
    with pytest.raises(NotFound, match="There is no user 'eve'"):
        unlock_user(owner, "eve")
    with pytest.raises(PermissionDenied, match="does not administer the house"):
        unlock_user(Session(**{**vars(owner), "admin": False, "role": Role.OWNER}), "ada")
    go_on(owner, LONGEST_WAIT)
    assert not list_people(owner, everybody=True)[0].locked_until


def test_two_names_in_one_drawer_wait_for_one_another(owner: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockout, "_DRAWER_BITS", 4)
    other = next(name for name in (f"user{i}" for i in range(1000)) if name_drawer(name) == name_drawer("ada"))
    guess_until_shut(owner, other)
    assert is_shut(owner)


@pytest.mark.parametrize("back_end", ["embedded", "postgres"])
def test_many_at_once_in_many_stores_are_no_more_than_many_in_turn(back_end: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = tmp_path / "home" if back_end == "embedded" else request.getfixturevalue("postgres_home")()
    stores = [make_session(url) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        shut = list(pool.map(lambda i: is_shut(stores[i % 3]), range(3 * FREE)))
    assert shut.count(False) == FREE
    for session in stores:
        session.ports.close()
    again = make_session(url, start=stores[0].now())
    assert is_shut(again), "and it holds for who opens the home anew"
    again.ports.close()
