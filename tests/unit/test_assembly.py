from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from endcap.assembly import open_house
from endcap.core.clock import CountingIds, ManualClock, SystemClock
from endcap.core.errors import EndcapError, InvalidInput
from endcap.core.permissions import Role
from endcap.core.settings import Settings
from endcap.governance.audit import list_audit, verify_audit
from endcap.governance.sessions import Session
from endcap.pipelines.machine import limit_memory

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)


def act(session: Session) -> None:
    with session.change("test", thing="model/x"):
        pass


def test_a_home_is_made_kept_and_found_again(tmp_path: Path) -> None:
    home = tmp_path / "deep" / ".endcap"
    for _ in range(2):
        with open_house(home, clock=ManualClock(AT), new_id=CountingIds()) as house:
            act(house.session(actor="ada"))
    with open_house(str(home)) as house:
        assert [row.actor for row in list_audit(house.session())] == ["ada", "ada"]
        assert verify_audit(house.session()).n_rows == 2


def test_a_home_in_memory_ends_with_itself() -> None:
    with open_house("memory://") as house:
        act(house.session())
        assert len(list_audit(house.session())) == 1
    with open_house("memory://") as house:
        assert list_audit(house.session()) == []


def test_a_session_is_one_actor_in_one_workspace() -> None:
    with open_house("memory://", clock=ManualClock(AT), new_id=CountingIds(), zone="Asia/Tokyo") as house:
        session = house.session(actor="bob", role=Role.VIEWER, workspace="recommend")
        assert (session.actor.name, session.role, session.workspace, session.zone, session.now()) == (
            "bob",
            Role.VIEWER,
            "recommend",
            "Asia/Tokyo",
            AT,
        )
        assert session.new_id("run") == "run_000001"
        assert house.session().workspace == "default"
        assert house.session().role is Role.OWNER


def test_without_a_name_the_user_of_the_machine_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_house("memory://") as house:
        monkeypatch.setattr(getpass, "getuser", lambda: "grace")
        assert house.session().actor.name == "grace"

        def nobody() -> str:
            raise KeyError("uid not found: 4711")

        monkeypatch.setattr(getpass, "getuser", nobody)
        assert house.session().actor.name == "unknown"
        assert isinstance(house.session().clock, SystemClock)


def test_settings_come_from_python_or_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_MEMORY_LIMIT", "3GB")
    monkeypatch.setenv("ENDCAP_EXECUTOR", "processes")
    with open_house("memory://") as house:
        assert house.session().settings == Settings(memory_limit=3 * 10**9, executor="processes")
    with open_house("memory://", settings=Settings(n_workers=2)) as house:
        settings = house.session().settings
        assert (settings.executor, settings.n_workers) == ("here", 2)
        assert settings.memory_limit == limit_memory(Settings())
    monkeypatch.setenv("ENDCAP_WORKERS", "many")
    with pytest.raises(InvalidInput, match="ENDCAP_WORKERS is 'many'"):
        open_house("memory://")


@pytest.mark.parametrize("workspace", ["", "a/b", "..", "ü", "x" * 101])
def test_a_workspace_has_a_name_that_is_safe_everywhere(workspace: str) -> None:
    with open_house("memory://") as house, pytest.raises(InvalidInput, match="cannot be the name of a workspace"):
        house.session(workspace=workspace)


def test_a_zone_that_does_not_exist_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'Europe/Berlni' is not a time zone"):
        open_house(tmp_path / "home", zone="Europe/Berlni")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["postgresql://x", "", "file.txt"])
def test_a_home_that_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(EndcapError):
        open_house(home)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_house_left_by_an_error_is_closed(tmp_path: Path) -> None:
    def fail() -> None:
        with open_house(tmp_path) as house:
            act(house.session())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with open_house(tmp_path) as house:
        assert verify_audit(house.session()).n_rows == 1


def test_a_home_that_is_not_given_is_the_one_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENDCAP_HOME", raising=False)
    for said, given, found in (
        (None, None, ".endcap"),
        ("", None, ".endcap"),
        ("shared", None, "shared"),
        (str(tmp_path / "far"), None, "far"),
        ("shared", "given", "given"),
    ):
        if said is not None:
            monkeypatch.setenv("ENDCAP_HOME", said)
        with open_house(given) as house:
            assert house.ports.folder is not None
            assert house.ports.folder.resolve() == tmp_path / found
    monkeypatch.setenv("ENDCAP_HOME", "memory://")
    with open_house() as house:
        assert house.ports.url == "memory://"
    monkeypatch.setenv("ENDCAP_HOME", "mysql://ada:secret-word@db.example/endcap")
    with pytest.raises(EndcapError) as refused:
        open_house()
    assert "secret-word" not in str(refused.value)
