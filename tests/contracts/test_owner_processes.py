"""Owners and admins who take one another away from processes of their own: of two at once one is refused, whatever keeps the records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.owners import has_owner
from endcap.governance.people import add_user, find_user, grant_role, list_people
from endcap.testing.sessions import make_session

REMOVING = """
import sys
from dataclasses import replace
from endcap.core.errors import EndcapError
from endcap.governance.credentials import open_by_user
from endcap.governance.people import find_user, grant_role, set_admin
from endcap.testing.sessions import make_session

own, other = sys.argv[2:]
home = make_session(sys.argv[1])
found = open_by_user(home.records, find_user(home.records, own), workspace=None)
session = replace(home, actor=found.actor, role=found.role, admin=found.admin, warrant=found.warrant)
for call in (lambda: grant_role(session, other, "viewer"), lambda: set_admin(session, other, revoke=True)):
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        call()
        print("done", flush=True)
    except EndcapError as error:
        print(error.code, flush=True)
"""


def read(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go(*children: subprocess.Popen[str]) -> list[str]:
    """What each says after all were told to go."""
    assert [read(child) for child in children] == ["ready"] * len(children)
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return sorted(read(child) for child in children)


@pytest.mark.parametrize("back_end", ["embedded", "postgres"])
def test_of_two_who_remove_each_other_from_two_processes_one_is_refused(back_end: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = str(tmp_path / "home") if back_end == "embedded" else request.getfixturevalue("postgres_home")()
    owner = make_session(url, actor="root")
    for name in ("ada", "bob", "cleo"):
        add_user(owner, name, admin=name != "cleo")
        grant_role(owner, name, "owner")
    children = [
        subprocess.Popen([sys.executable, "-c", REMOVING, url, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for names in (("ada", "bob"), ("bob", "ada"))
    ]
    try:
        assert go(*children) == ["done", "permission_denied"], "whoever was removed first removes nobody, though a third owner is left"
        left = [person.name for person in list_people(owner) if person.roles["default"] == "owner"]
        assert len(left) == 2
        assert "cleo" in left
        assert has_owner(owner.records, "default")
        said = go(*children)
        assert said == ["done", "permission_denied"], "and who is no owner any more has no standing as an admin of theirs either"
        assert sum(find_user(owner.records, name).admin for name in ("ada", "bob")) == 1
        for child in children:
            child.communicate(timeout=60)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert [row.outcome for row in list_audit(owner, house=True, limit=2)].count("refused") == 1
    verify_audit(owner)
    verify_audit(owner, house=True)
    owner.ports.close()
