from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import msgspec
import pytest

from endcap.core.errors import Conflict, EndcapError, InvalidInput, NotSignedIn, PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.credentials import check_user
from endcap.governance.people import add_user, has_users, list_people
from endcap.governance.records import HOUSE, SET_UP_CODES, Actor
from endcap.governance.sessions import Session
from endcap.governance.setting_up import make_setup_code, set_up
from endcap.testing.sessions import make_session

GOOD = "pine under marble"

pytestmark = pytest.mark.usefixtures("quick_passwords")


@pytest.fixture
def owner() -> Session:
    """Whoever opened the home."""
    return make_session(actor="root")


def stranger(session: Session) -> Session:
    """Who comes over the network."""
    return replace(session, actor=Actor("nobody", "nobody"), role=Role.VIEWER, admin=False)


def test_who_says_the_code_becomes_the_first_owner_once(owner: Session) -> None:
    made = make_setup_code(owner)
    assert made.expires_at == owner.now() + timedelta(hours=1)
    person = set_up(stranger(owner), made.code, "ada", password=GOOD)
    assert (person.name, person.admin, person.roles, person.has_password, person.made_by) == ("ada", True, {"default": "owner"}, True, "ada")
    assert check_user(owner.records, "ada", GOOD).admin
    with pytest.raises(Conflict, match="This home has users, so there is nothing to set up"):
        set_up(stranger(owner), made.code, "eve", password=GOOD)
    with pytest.raises(Conflict, match="This home has users"):
        make_setup_code(owner)
    rows = [(row.verb, row.actor, row.thing, row.outcome) for row in list_audit(owner, house=True)]
    assert rows == [
        ("setup", "nobody", "house", "refused"),
        ("setup", "nobody", "user/ada", "done"),
        ("setup-code", "root", "house", "done"),
    ]
    verify_audit(owner, house=True)


def test_a_code_is_kept_as_a_hash_and_shown_nowhere(owner: Session) -> None:
    made = make_setup_code(owner)
    secret = made.code.split("_", 2)[2]
    assert len(secret) == 43, "256 bits"
    kept = owner.records.find(SET_UP_CODES, workspace=HOUSE)
    for text in (repr(made), repr(kept), repr(list_audit(owner, house=True)), msgspec.json.encode(kept).decode()):
        assert secret not in text


def test_a_forged_truncated_or_expired_code_sets_nothing_up_and_is_audited(owner: Session) -> None:
    made, other = make_setup_code(owner), make_setup_code(owner, expires="1min")
    secret = made.code.split("_", 2)[2]
    wrong = [
        made.code[:-1],
        made.code + "A",
        f"setup_{other.code.split('_')[1]}_{secret}",
        f"setup_000_{secret}",
        "",
        "setup",
        "x" * 10_000,
        "setup_%00_'--",
        "한글",
    ]
    for code in wrong:
        with pytest.raises(NotSignedIn, match="The set-up code is wrong, was used, or has expired") as refused:
            set_up(stranger(owner), code, "eve", password=GOOD)
        assert secret not in str(refused.value.to_dict())
    owner.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # a ManualClock
    with pytest.raises(NotSignedIn):
        set_up(stranger(owner), other.code, "eve", password=GOOD)
    rows = list_audit(owner, house=True, outcome="refused")
    assert len(rows) == len(wrong) + 1
    assert not has_users(owner.records)
    for name, password in (("../eve", GOOD), ("system", GOOD), ("", GOOD), ("x" * 300, GOOD), ("eve", None), ("eve", ""), ("eve", "short")):
        with pytest.raises(InvalidInput):
            set_up(stranger(owner), made.code, name, password=password)
    assert set_up(stranger(owner), made.code, "ada", password=GOOD).admin, "what was typed wrong takes no code"


def test_a_code_is_made_by_who_opened_the_home_alone(owner: Session) -> None:
    for session, error in ((stranger(owner), PermissionDenied), (replace(owner, admin=False), PermissionDenied)):
        with pytest.raises(error):
            make_setup_code(session)
    for expires in ("10s", "2d", "soon"):
        with pytest.raises(InvalidInput):
            make_setup_code(owner, expires=expires)
    add_user(owner, "ada")
    with pytest.raises(Conflict):
        make_setup_code(owner)
    assert owner.records.find(SET_UP_CODES, workspace=HOUSE) == []


@pytest.mark.parametrize("back_end", ["embedded", "postgres"])
def test_of_many_who_say_codes_at_once_one_is_the_first(back_end: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    session = make_session(tmp_path / "home" if back_end == "embedded" else request.getfixturevalue("postgres_home")(), actor="root")
    codes, gate = [make_setup_code(session).code, make_setup_code(session).code], Barrier(4)

    def say(i: int) -> str:
        gate.wait()
        try:
            return set_up(stranger(session), codes[i % 2], f"user{i}", password=GOOD).name
        except EndcapError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(say, range(4)))
    assert sum(name.startswith("user") for name in said) == 1
    assert set(said) <= {"conflict", "not_signed_in", *(f"user{i}" for i in range(4))}
    assert [person.name for person in list_people(session, everybody=True)] == [name for name in said if name.startswith("user")]
    assert len(list_audit(session, house=True, outcome="refused")) == 3
    session.ports.close()
