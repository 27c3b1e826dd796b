from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest

from endcap.core.errors import NotFound
from endcap.faces.cli.commands import build_group
from endcap.faces.cli.service import UP_OPTIONS, build_up, open_project
from endcap.faces.http import PORT
from endcap.governance.setting_up import MadeSetUpCode

TOLD = """Endcap listens on http://127.0.0.1:9
Nobody was made a user. Until 09:00 UTC, once, whoever has this code becomes the first owner:
setup_1_x
"""
TOLD_JSON = '{"url":"http://127.0.0.1:9"}\n{"setup_code":"setup_1_x","expires_at":"2026-01-05T09:00:00Z"}\n'


def test_a_home_is_made_in_the_folder_of_the_project(tmp_path: Path) -> None:
    with open_project(tmp_path, home=None, zone="Asia/Tokyo") as house:
        assert house.zone == "Asia/Tokyo"
    assert (tmp_path / ".endcap").is_dir()
    with open_project(tmp_path, home=str(tmp_path / "home"), zone="UTC"):
        assert (tmp_path / "home").is_dir()


def test_the_environment_says_where_the_home_is_where_no_option_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDCAP_HOME", str(tmp_path / "of the environment"))
    with open_project(tmp_path, home=None, zone="UTC") as house:
        assert house.ports.folder == tmp_path / "of the environment"
    with open_project(tmp_path, home=str(tmp_path / "given"), zone="UTC") as house:
        assert house.ports.folder == tmp_path / "given"
    assert not (tmp_path / ".endcap").exists()
    monkeypatch.setenv("ENDCAP_HOME", " ")
    with open_project(tmp_path, home=None, zone="UTC") as house:
        assert house.ports.folder == tmp_path / ".endcap"


@pytest.mark.parametrize("name", ["ls", "up", "restore"])
def test_the_help_of_a_command_names_the_variable(name: str) -> None:
    command = build_group().commands[name]
    (option,) = (one for one in command.params if isinstance(one, click.Option) and one.name == "home")
    assert "ENDCAP_HOME" in (option.help or "")


def test_a_project_that_is_not_there_has_no_home_unless_it_is_laid_out(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no folder"):
        open_project(tmp_path / "absent", home=None, zone="UTC")
    assert not (tmp_path / "absent").exists()
    with open_project(tmp_path / "new", home=None, zone="UTC", laying_out=True):
        assert (tmp_path / "new" / ".endcap").is_dir()


def test_up_is_the_last_command_and_says_what_it_takes() -> None:
    assert list(build_group().commands)[-1] == "up"
    options = {p.name: p for p in build_up().params if isinstance(p, click.Option)}
    assert {f"--{name.replace('_', '-')}" for name in options} == {*UP_OPTIONS, "--names", "--as-json", "--project", "--home", "--workspace-zone"} - {
        "--name"
    }
    assert options["port"].default == PORT
    assert all(option.help and option.help.endswith((".", "]")) for option in options.values())


@pytest.mark.parametrize(("flags", "said"), [((), TOLD), (("--json",), TOLD_JSON)])
def test_up_hands_on_what_was_given_and_says_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    seen: list[dict[str, Any]] = []

    def fake(house: Any, *, announce: Any, announce_code: Any, **given: Any) -> None:
        seen.append({"zone": house.zone, **given})
        announce("http://127.0.0.1:9")
        announce_code(MadeSetUpCode(code="setup_1_x", expires_at=datetime(2026, 1, 5, 9, tzinfo=UTC)))

    monkeypatch.setattr("endcap.faces.http.serving.serve", fake)
    arguments = [
        "up",
        "--port",
        "9",
        "--name",
        "a.example",
        "--name",
        "b.example",
        "--project",
        str(tmp_path),
        "--workspace-zone",
        "Europe/Berlin",
        *flags,
    ]
    assert build_group().main(args=arguments, standalone_mode=False) == 0
    given = {"host": "127.0.0.1", "port": 9, "names": ("a.example", "b.example"), "tls_cert": None, "tls_key": None, "behind_proxy": False}
    assert seen == [{"zone": "Europe/Berlin", "folder": tmp_path, **given}]
    assert capsys.readouterr().out == said
