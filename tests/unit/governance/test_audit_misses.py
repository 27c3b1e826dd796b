from __future__ import annotations

from dataclasses import replace

import pytest

from endcap.core.errors import PermissionDenied
from endcap.core.permissions import Role
from endcap.governance.audit_misses import describe_miss
from endcap.governance.people import add_user
from endcap.governance.records import Actor
from endcap.governance.rights.guards import close_thing
from endcap.governance.sessions import Session
from endcap.testing.audits import act
from endcap.testing.sessions import make_session


@pytest.fixture
def session() -> Session:
    made = make_session()
    act(made, verb="promote", thing="model/store-day")
    act(replace(made, actor=Actor("bob")), verb="train", thing="model/store-hour")
    return made


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, []),
        ({"thing": None, "limit": 50, "house": False}, []),
        (
            {"verb": "promot"},
            [
                "No row of the audit of workspace 'default' is found by verb 'promot'.",
                "No row has the verb 'promot' at all: did you mean 'promote'?",
            ],
        ),
        (
            {"actor": "bbo", "thing": "model/store-days"},
            [
                "No row of the audit of workspace 'default' is found by thing 'model/store-days', actor 'bbo'.",
                "No row has the thing 'model/store-days' at all: did you mean 'model/store-day'?",
                "No row has the actor 'bbo' at all: did you mean 'bob'?",
            ],
        ),
        (
            {"actor": "bob", "verb": "promote"},
            ["No row of the audit of workspace 'default' is found by actor 'bob', verb 'promote'.", "Each alone may be there: leave some out."],
        ),
        ({"since": "2030-01-01"}, ["No row of the audit of workspace 'default' is found by since '2030-01-01'."]),
        (
            {"verb": "rollback"},
            [..., "The verb 'rollback' was never asked for."],
        ),
        ({"verb": "rolback"}, [..., "No row has the verb 'rolback' at all: did you mean 'rollback'?"]),
        (
            {"actor": "q\x1b[2J"},
            [..., r"No row has the actor 'q\x1b[2J' at all."],
        ),
    ],
)
def test_what_was_looked_for_and_what_is_near(session: Session, asked: dict[str, object], says: list[str]) -> None:
    told = describe_miss(session, asked, verbs=["rollback"])
    assert [line for line, wanted in zip(told, says, strict=True) if wanted not in (..., line)] == []


def test_what_is_closed_is_as_if_it_never_was(session: Session) -> None:
    add_user(session, "eve")
    eve = replace(session, actor=Actor("eve"), role=Role.VIEWER, admin=False)
    act(replace(session, actor=Actor("carol")), verb="retire", thing="model/secret-day")
    near = describe_miss(eve, {"thing": "model/secret-days", "actor": "carola", "verb": "retir"})
    assert [line.endswith("?") for line in near] == [False, True, True, True]
    close_thing(session, "model/secret-day", owner="carol", verb="rights restrict")
    for thing in ("model/secret-day", "model/secret-days", "model/sicret-day"):
        told = describe_miss(eve, {"thing": thing, "actor": "carola", "verb": "retir"})
        assert told[1] == f"No row has the thing '{thing}' at all: did you mean 'model/store-day'?", "which is open"
        assert told[2] == "No row has the actor 'carola' at all."
        assert "retire" not in told[3]


def test_the_house_is_for_its_admins(session: Session) -> None:
    add_user(session, "eve")
    assert describe_miss(session, {"house": True, "thing": "user/evee"})[1] == "No row has the thing 'user/evee' at all: did you mean 'user/eve'?"
    with pytest.raises(PermissionDenied):
        describe_miss(replace(session, admin=False), {"house": True, "thing": "user/evee"})
