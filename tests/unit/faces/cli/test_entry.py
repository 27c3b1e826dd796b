from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from endcap.core.errors import EndcapError, GateRefused, InvalidInput, NotFound
from endcap.faces.cli import entry
from endcap.faces.cli.entry import main, print_error, tame
from endcap.faces.codes import EXIT_CODES


def walk(kind: type[EndcapError]) -> Iterator[type[EndcapError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from walk(below)


def ours() -> list[type[EndcapError]]:
    return [kind for kind in walk(EndcapError) if kind.__module__ == "endcap.core.errors"]


def leave(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *arguments: str, value: object = None) -> object:
    """The exit code where a command ends so."""

    @click.group()
    def group() -> None: ...

    @group.command("do", params=[click.Option(["--json"], is_flag=True)])
    def do(json: bool) -> object:
        if error is not None:
            raise error
        return value

    monkeypatch.setattr("endcap.faces.cli.commands.build_group", lambda: group)
    with pytest.raises(SystemExit) as left:
        main(["do", *arguments])
    return left.value.code


def test_every_error_has_an_exit_code_and_every_exit_code_an_error() -> None:
    assert {kind.code for kind in ours()} == set(EXIT_CODES)
    assert len(ours()) == 18
    assert all(0 < code < 126 for code in EXIT_CODES.values())


@pytest.mark.parametrize("kind", ours(), ids=lambda kind: kind.__name__)
def test_an_error_leaves_by_its_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[EndcapError]) -> None:
    error = kind("it is so", hint="do otherwise", row=3)
    assert leave(monkeypatch, error) == EXIT_CODES[kind.code]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: it is so\n  hint: do otherwise\n")
    assert leave(monkeypatch, error, "--json") == EXIT_CODES[kind.code]
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {"error": "it is so", "code": kind.code, "hint": "do otherwise", "details": {"row": 3}}


def test_an_error_keeps_its_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "EXIT_CODES", {})
    cause = NotFound("gone")
    assert leave(monkeypatch, cause) == 1


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (6, 6), ("text", 0)])
def test_a_command_that_ends_well_leaves_with_what_it_returned(monkeypatch: pytest.MonkeyPatch, value: object, code: int) -> None:
    assert leave(monkeypatch, None, value=value) == code


def test_stopping_it_is_not_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_what_nobody_foresaw_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        leave(monkeypatch, ZeroDivisionError("a fault of ours"))


def test_wrong_options_leave_with_2_in_words_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["ls", "--bogus"])
    assert left.value.code == 2
    assert "Error: No such option '--bogus'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["ls", "--bogus", "--json"])
    assert left.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err)["code"] == "invalid_input"
    assert "--bogus" in json.loads(said.err)["error"]


def test_version_and_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in ((["--version"], f"endcap {version('endcap')}\n"), (["-h"], "Usage: endcap"), (["ls", "--help"], "Usage: endcap ls")):
        monkeypatch.setattr(sys, "argv", ["endcap", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
        assert capsys.readouterr().out.startswith(said)


def test_an_error_without_a_hint_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (GateRefused("no"), "error: no\n"),
        (
            InvalidInput("column '\x1b[2J\x9b1m\r\x00' is bad\n- twice", hint="\x07"),
            "error: column '\\x1b[2J\\x9b1m\\x0d\\x00' is bad\n- twice\n  hint: \\x07\n",
        ),
    ):
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        print_error(error, as_json=False)
        assert written.getvalue() == said


def test_words_of_every_language_stay_as_they_are() -> None:
    text = "Straße\tüber 北京\nпродажи €·…"
    assert tame(text) == text


def test_bad_state_is_an_error_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "records.sqlite").write_bytes(b"no database at all, whoever wrote it" * 50)
    with pytest.raises(SystemExit) as left:
        main(["ls", "--home", str(tmp_path / "home")])
    assert left.value.code in set(EXIT_CODES.values())
    assert capsys.readouterr().err.startswith("error: ")
