"""Who may call which verb: each row of the table is refused to a role without its permission, before anything else, and each refusal is audited."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from endcap.core import permissions
from endcap.core.errors import PermissionDenied
from endcap.core.permissions import Permission, Role, permissions_of
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.verbs import Verb
from endcap.project.verbs import load_verbs
from endcap.testing.sessions import make_session

ALL = sorted(load_verbs().items())


class Untouchable:  # noqa: PLW1641 - it has a hash, that of all it refuses
    """An argument that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"an argument was looked at ({name}) before the permission")

    def __str__(self) -> str:
        raise AssertionError("an argument was written down before the permission")

    __repr__ = __bool__ = __len__ = __iter__ = __fspath__ = __hash__ = __str__  # type: ignore[assignment]  # they all refuse

    def __eq__(self, other: object) -> bool:
        raise AssertionError("an argument was compared before the permission")


def call_blindly(entry: Verb, session: Any) -> None:
    """Call a verb with arguments that nobody may look at."""
    required = [parameter for parameter in entry.parameters if parameter.default is inspect.Parameter.empty]
    values = [Untouchable() for parameter in required if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    options = {parameter.name: Untouchable() for parameter in entry.parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    entry.call(session, *values, **options)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("name", "entry"), ALL)
def test_a_role_without_the_permission_is_refused_before_any_argument_is_looked_at(
    name: str, entry: Verb, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each role, with exactly that permission taken from it; so too the verbs that every role may call."""
    monkeypatch.setitem(permissions._HELD, role, permissions_of(role) - {entry.permission})
    session = make_session(role=role)
    with pytest.raises(PermissionDenied, match=f"'{name}' needs the permission '{entry.permission}'"):
        call_blindly(entry, session)
    monkeypatch.undo()
    (row,) = list_audit(session)
    assert (row.verb, row.outcome, row.actor, row.thing) == (name, "refused", "ada", "workspace/default")
    assert row.detail == {"needs": str(entry.permission)}


@pytest.mark.parametrize(("name", "entry"), ALL)
def test_a_viewer_may_read_and_change_what_is_their_own_and_nothing_else(name: str, entry: Verb) -> None:
    session = make_session(role=Role.VIEWER)
    try:
        call_blindly(entry, session)
    except PermissionDenied:
        assert entry.permission not in (Permission.READ, Permission.SELF)
    except (AssertionError, TypeError):  # it went on to its arguments
        assert entry.permission in (Permission.READ, Permission.SELF)
    else:
        assert entry.permission is Permission.READ


def test_every_refusal_stands_in_one_chain() -> None:
    """A viewer tries each verb, then an owner who does not administer the house, and the chains say each time what was asked for and refused."""
    viewer = make_session(role=Role.VIEWER)
    refused = [name for name, entry in ALL if entry.permission not in (Permission.READ, Permission.SELF)]
    for name in refused:
        with pytest.raises(PermissionDenied):
            call_blindly(load_verbs()[name], viewer)
    rows = list_audit(viewer, outcome="refused", limit=1000)
    assert [(row.verb, row.actor, row.thing) for row in reversed(rows)] == [(name, "ada", "workspace/default") for name in refused]
    assert verify_audit(viewer).n_rows == len(refused) > 40
    admin = make_session()
    owner = replace(admin, admin=False)
    for verb, call in ((verb, load_verbs()[verb].call) for verb in ("audit", "verify-audit", "sign-audit", "export-audit")):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            call(owner, *([Path("x")] if verb == "export-audit" else []), house=True)
    for name, values in (("users add", ["cleo"]), ("users disable", ["cleo"]), ("rotate-audit-key", [])):
        with pytest.raises(PermissionDenied, match="does not administer the house"):
            load_verbs()[name].call(owner, *values)
    asked = ["audit", "verify-audit", "sign-audit", "export-audit", "users add", "users disable", "rotate-audit-key"]
    assert [(row.verb, row.thing) for row in reversed(list_audit(admin, house=True, outcome="refused"))] == [(name, "house") for name in asked]
