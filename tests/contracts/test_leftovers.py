from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from endcap.core.clock import ManualClock
from endcap.core.errors import NotSignedIn
from endcap.governance.audit import list_audit
from endcap.governance.holders import Holder
from endcap.governance.lockout import begin_attempt, name_drawer
from endcap.governance.privacy.records import SWEEPINGS
from endcap.governance.quotas.places import hold_place
from endcap.governance.quotas.records import PLACES, Place
from endcap.governance.records import (
    HOUSE,
    SERVICES,
    SET_UP_CODES,
    TOKEN_USES,
    TOKENS,
    WRONG_PASSWORDS,
    Service,
    SetUpCode,
    Token,
    TokenUse,
    WrongPasswords,
)
from endcap.governance.rights.records import SHARE_USES, SHARES, Share, ShareUse
from endcap.governance.services import list_running, note_service
from endcap.governance.sessions import Session
from endcap.governance.signin.records import (
    PAGE_SESSION_USES,
    PAGE_SESSIONS,
    SIGNED_OUT,
    USED_STATES,
    PageSession,
    PageSessionUse,
    SignedOut,
    UsedState,
)
from endcap.pipelines.open_lineage import LINEAGE_EVENTS, LineageEvent
from endcap.project import leftovers
from endcap.project.leftovers import OF_HOUSE, OF_WORKSPACES, remove_leftovers
from endcap.project.retention import apply_retention, set_retention, show_retention, sweep_house_when_due
from endcap.storage.ports import Kind, Ports
from endcap.testing.places import open_session

NOW = datetime.fromisoformat("2026-01-05T08:00:00+00:00")
LATER = NOW + timedelta(days=3000)
FAR = Holder("far", "another kernel", 1, "1", 1)


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def put(session: Session, kind: Kind[Any], *records: Any, workspace: str = HOUSE) -> None:
    with session.records.transact() as tx:
        for record in records:
            tx.append(kind, workspace=workspace, record=record)


def ids(session: Session, kind: Kind[Any], *, workspace: str = HOUSE) -> list[str]:
    return [kind.id_of(record) for record in session.records.find(kind, workspace=workspace)]


def place(name: str, state: str, ended_at: datetime | None) -> Place:
    return Place(
        id=name, workspace="w", actor="a", subject="model/m", holder=FAR, arrived_at=ago(900), expires_at=LATER, state=state, ended_at=ended_at
    )


def code(name: str, expires_at: datetime) -> SetUpCode:
    return SetUpCode(id=name, hash="h", made_at=ago(900), made_by="ada", expires_at=expires_at)


def token(name: str, expires_at: datetime, revoked_at: datetime | None = None) -> Token:
    return Token(
        id=name,
        label="l",
        user="ada",
        workspace="w",
        role="viewer",
        hash="h",
        made_at=ago(900),
        made_by="ada",
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


def page_session(name: str, expires_at: datetime, ended_at: datetime | None = None) -> PageSession:
    return PageSession(
        id=name, hash="h", user="ada", user_version=1, by="password", identity="", made_at=ago(900), expires_at=expires_at, ended_at=ended_at
    )


def share(name: str, revoked_at: datetime | None) -> Share:
    return Share(id=name, workspace="w", thing="view/v", to="x", at=ago(900), by="ada", revoked_at=revoked_at)


CASES: dict[str, tuple[Kind[Any], list[Any], list[str]]] = {
    "places": (
        PLACES,
        [
            place("old", "ended", ago(8)),
            place("young", "ended", ago(6)),
            place("waits", "waiting", None),
            place("runs", "running", None),
        ],
        ["young", "waits", "runs"],
    ),
    "set-up-codes": (SET_UP_CODES, [code("old", ago(31)), code("young", ago(29))], ["young"]),
    "sign-ins": (USED_STATES, [UsedState("old", ago(2)), UsedState("young", ago(0.5))], ["young"]),
    "sign-outs": (SIGNED_OUT, [SignedOut("old", ago(2)), SignedOut("young", ago(0.5))], ["young"]),
    "wrong-passwords": (
        WRONG_PASSWORDS,
        [WrongPasswords("old", 20, ago(2), ago(1.9), "locked"), WrongPasswords("young", 20, ago(0.5), ago(0.4), "locked")],
        ["young"],
    ),
    "share-uses": (
        SHARE_USES,
        [ShareUse("s/old", "2026-01-02"), ShareUse("s/young", "2026-01-04"), ShareUse("s/now", "2026-01-05")],
        ["s/young", "s/now"],
    ),
    "shares": (SHARES, [share("old", ago(401)), share("young", ago(399)), share("stands", None)], ["young", "stands"]),
    "tokens": (
        TOKENS,
        [token("old", ago(401)), token("revoked", LATER, ago(401)), token("young", ago(399)), token("opens", LATER)],
        ["young", "opens"],
    ),
    "services": (
        SERVICES,
        [
            Service(id="old", host="h", machine="another", pid=1, began="1", since=ago(401)),
            Service(id="young", host="h", machine="another", pid=1, began="1", since=ago(399)),
        ],
        ["young"],
    ),
    "sessions": (
        PAGE_SESSIONS,
        [page_session("old", ago(91)), page_session("ended", LATER, ago(91)), page_session("young", ago(89)), page_session("open", LATER)],
        ["young", "open"],
    ),
    "lineage-events": (
        LINEAGE_EVENTS,
        [
            LineageEvent("old", "r", ago(31), "sent", ""),
            LineageEvent("young", "r", ago(29), "sent", ""),
            LineageEvent("kept", "r", ago(900), "pending", "{}"),
        ],
        ["young", "kept"],
    ),
}


def plant(session: Session, name: str) -> tuple[Kind[Any], list[str], str]:
    kind, records, stay = CASES[name]
    workspace = "w" if any(sort.name == name for sort in OF_WORKSPACES) else HOUSE
    put(session, kind, *records, workspace=workspace)
    return kind, stay, workspace


def test_every_sort_has_a_case() -> None:
    assert set(CASES) == {sort.name for sort in (*OF_HOUSE, *OF_WORKSPACES)} | {"sessions"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_what_is_over_since_long_goes_and_nothing_else(ports: Ports, monkeypatch: pytest.MonkeyPatch, name: str, at_once: int) -> None:
    monkeypatch.setattr(leftovers, "_AT_ONCE", at_once)
    session = open_session(ports)
    kind, stay, workspace = plant(session, name)
    n = len(CASES[name][1]) - len(stay)
    assert remove_leftovers(session.records, ["w"], now=NOW, dry_run=True) == {name: n}
    assert remove_leftovers(session.records, ["w"], now=NOW) == {name: n}
    assert ids(session, kind, workspace=workspace) == stay
    assert remove_leftovers(session.records, ["w"], now=NOW) == {}


def test_marks_of_use_go_with_what_was_used(ports: Ports) -> None:
    session = open_session(ports)
    for name in ("tokens", "sessions"):
        plant(session, name)
    put(session, TOKEN_USES, TokenUse("old", ago(402)), TokenUse("opens", ago(402)))
    put(session, PAGE_SESSION_USES, PageSessionUse("ended", ago(91)), PageSessionUse("open", ago(91)))
    remove_leftovers(session.records, [], now=NOW)
    assert (ids(session, TOKEN_USES), ids(session, PAGE_SESSION_USES)) == (["opens"], ["open"])


def test_what_comes_back_to_life_while_it_is_looked_at_stays(ports: Ports) -> None:
    session = open_session(ports)
    drawer = name_drawer("ada")
    put(session, WRONG_PASSWORDS, WrongPasswords(drawer, 3, ago(2)))

    class Late:
        """The records, to which somebody else gets between the look and the taking."""

        def find(self, kind: Kind[Any], **given: Any) -> list[Any]:
            found = session.records.find(kind, **given)
            if kind is WRONG_PASSWORDS:
                begin_attempt(session.records, "ada", network="n", now=NOW)
            return found

        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(session.records, name)

    assert remove_leftovers(Late(), [], now=NOW) == {}  # type: ignore[arg-type]  # a store but for one method
    assert ids(session, WRONG_PASSWORDS) == [drawer]


def test_two_sweeps_at_once_take_nothing_twice(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_AT_ONCE", 2)
    session = open_session(ports)
    put(session, USED_STATES, *[UsedState(f"{n}", ago(2) if n != 1 else NOW) for n in range(9)])
    other: list[dict[str, int]] = []

    class Crowded:
        """The records, in which another sweep, whose clock is ahead, goes by after the first look."""

        def find(self, kind: Kind[Any], **given: Any) -> list[Any]:
            found = session.records.find(kind, **given)
            if kind is USED_STATES and not other:
                other.append(remove_leftovers(session.records, [], now=NOW + timedelta(days=2)))
            return found

        def __getattr__(self, name: str) -> Callable[..., Any]:
            return getattr(session.records, name)

    mine = remove_leftovers(Crowded(), [], now=NOW)  # type: ignore[arg-type]  # a store but for one method
    assert other[0]["sign-ins"] + mine.get("sign-ins", 0) == 9
    assert ids(session, USED_STATES) == []


def test_the_period_of_page_sessions_is_the_house_s_to_declare(ports: Ports) -> None:
    session = open_session(ports)
    plant(session, "sessions")
    other = open_session(ports, workspace="w")
    rules = set_retention(other, "sessions", "ever")
    assert (rules.id, rules.periods) == (HOUSE, {"sessions": "ever"})
    assert remove_leftovers(session.records, [], now=NOW) == {}
    set_retention(session, "sessions", "30d")
    (line,) = [line for line in show_retention(other) if line.log == "sessions"]
    assert (line.period, line.n_expired) == ("30d", 3)
    (line,) = [line for line in show_retention(replace(other, admin=False)) if line.log == "sessions"]
    assert (line.period, line.n_expired) == ("30d", 0), "how many there are is for admins"
    assert apply_retention(session, dry_run=True).leftovers == {"sessions": 3}
    assert apply_retention(replace(session, admin=False)).leftovers == {}
    assert apply_retention(session).leftovers == {"sessions": 3}
    assert ids(session, PAGE_SESSIONS) == ["open"]
    row = list_audit(session.in_house())[0]
    assert (row.verb, row.thing, row.detail) == ("retention apply", "house", {"n_sessions": 3})


def test_the_house_is_swept_once_a_day(ports: Ports) -> None:
    session = open_session(ports)
    assert isinstance(session.clock, ManualClock)
    plant(session, "places")
    plant(session, "lineage-events")
    assert sweep_house_when_due(session, ["w"]) == {"places": 1, "lineage-events": 1}
    put(session, PLACES, place("another", "ended", ago(8)))
    assert sweep_house_when_due(session, ["w"]) == {}
    session.clock.advance(timedelta(days=1))
    assert sweep_house_when_due(session, ["w"]) == {"places": 2, "lineage-events": 1}
    (swept,) = session.records.find(SWEEPINGS, workspace=HOUSE)
    assert (swept.id, swept.day) == (HOUSE, "2026-01-06")


def test_a_run_after_a_sweep_finds_its_place_and_a_name_its_wait(ports: Ports) -> None:
    session = open_session(ports)
    clock = session.clock
    assert isinstance(clock, ManualClock)
    with hold_place(session, "model/a"):
        for _ in range(10):
            begin_attempt(session.records, "ada", network="n", now=session.now())
        with pytest.raises(NotSignedIn):
            begin_attempt(session.records, "ada", network="n", now=session.now())
        clock.advance(timedelta(days=30))
        assert remove_leftovers(session.records, [], now=session.now()) == {"wrong-passwords": 1}
        assert begin_attempt(session.records, "ada", network="n", now=session.now()).n_wrong == 1
    clock.advance(timedelta(days=8))
    assert remove_leftovers(session.records, [], now=session.now()) == {"places": 1, "wrong-passwords": 1}


def test_a_service_that_runs_here_stays_however_long(ports: Ports) -> None:
    session = open_session(ports)
    running = note_service(session.records, "http://127.0.0.1:1", now=ago(3000))
    assert remove_leftovers(session.records, [], now=NOW) == {}
    assert list_running(session.records) == [running]
