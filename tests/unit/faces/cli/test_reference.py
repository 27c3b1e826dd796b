from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from endcap.core.permissions import Role, permissions_of
from endcap.faces.cli.commands import offered_verbs
from endcap.faces.cli.reference import main, write_reference
from endcap.faces.codes import EXIT_CODES, HTTP_STATUSES
from endcap.faces.http.remote import local_verbs, remote_verbs
from endcap.project.verbs import load_verbs

PAGE = Path(__file__).parents[4] / "docs" / "reference.md"


def section(title: str) -> str:
    return write_reference().partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_page_in_the_repository_is_up_to_date() -> None:
    assert main(["--check", str(PAGE)]) == 0


def test_every_verb_stands_on_the_page_once() -> None:
    commands = re.findall(r"^### `endcap ([a-z][a-z -]*?)(?: [A-Z_ ]+)?`$", section("Commands"), flags=re.MULTILINE)
    others = re.findall(r"^- \*\*([a-z -]+)\*\*", section("Verbs that only Python calls"), flags=re.MULTILINE)
    assert commands == [*offered_verbs(), "up"]
    assert sorted([*commands[:-1], *others]) == sorted(load_verbs())


@pytest.mark.parametrize("name", list(offered_verbs()))
def test_a_command_stands_with_its_arguments_options_help_and_permission(name: str) -> None:
    entry = offered_verbs()[name]
    text = re.search(rf"^### `endcap {name}(?: [A-Z_ ]+)?`$.*?(?=^### |\Z)", section("Commands"), flags=re.MULTILINE | re.DOTALL)
    assert text is not None
    for parameter in entry.parameters:
        if parameter.name in ("folder", "password", "reporter"):
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert f"`--{parameter.name.replace('_', '-')}`" in text[0]
        else:
            assert parameter.name.upper() in text[0].splitlines()[0]
    assert entry.summary.replace("``", "`") in text[0]
    assert f"Permission: {entry.permission}. Python: `endcap.{entry.room}.{entry.call.__name__}`." in text[0]


def test_who_may_do_what() -> None:
    lines = section("Who may do what").strip().splitlines()
    assert lines[0] == f"| verb | {' | '.join(Role)} |"
    rows = {cells[0]: cells[1:] for line in lines[2:] if (cells := [cell.strip() for cell in line.strip("|").split("|")])}
    assert set(rows) == set(load_verbs())
    for name, entry in load_verbs().items():
        assert [mark == "yes" for mark in rows[name]] == [entry.permission in permissions_of(role) for role in Role]


@pytest.mark.parametrize(("title", "done", "codes"), [("Exit codes", 0, EXIT_CODES), ("Statuses of HTTP", 200, HTTP_STATUSES)])
def test_what_an_error_gives(title: str, done: int, codes: dict[str, int]) -> None:
    lines = section(title).strip().splitlines()[2:]
    told = {word.strip(): int(cells[0]) for line in lines if (cells := line.strip("| ").split(" | ")) for word in cells[1].split(",")}
    assert told == {"done": done, **{name.replace("_", " "): code for name, code in codes.items()}}


def test_paths_of_http() -> None:
    text = section("HTTP")
    rows = re.findall(r"^\| `(\S+)` \| (GET, POST|POST) \| ([a-z -]+) \|$", text, flags=re.MULTILINE)
    assert [(entry.path, "GET, POST" if entry.by_query else "POST", name) for name, entry in remote_verbs().items()] == rows
    assert dict(re.findall(r"^- \*\*([a-z -]+)\*\*: (.+)$", text, flags=re.MULTILINE)) == local_verbs()


def test_a_page_is_written_and_its_age_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "reference.md"
    assert main(["--check", str(page)]) == 1
    assert capsys.readouterr().err == f"{page} is out of date. Hint: make docs\n"
    assert main(["--write", str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("| 3 |", "| 33 |"), encoding="utf-8")
    assert main(["--check", str(page)]) == 1
    assert "| 33 |" in page.read_text(encoding="utf-8"), "a check changes nothing"
