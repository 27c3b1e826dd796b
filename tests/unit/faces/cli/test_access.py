from __future__ import annotations

import re
from pathlib import Path

import pytest

from endcap.core.permissions import Permission, Role, permissions_of
from endcap.faces.cli.access import main, write_page
from endcap.faces.cli.commands import offered_verbs
from endcap.faces.http.mlflow.artefacts import TRANSFERS
from endcap.faces.http.mlflow.routes import list_calls
from endcap.faces.http.remote import local_verbs, remote_verbs
from endcap.faces.matrix import ADMINS, read_calls, read_matrix
from endcap.project.verbs import load_verbs

PAGE = Path(__file__).parents[4] / "docs" / "access.md"


def table(title: str) -> list[dict[str, str]]:
    """The rows of the table under a title, by the names of its columns."""
    lines = [line for line in write_page().partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines() if line.startswith("|")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_page_in_the_repository_is_up_to_date() -> None:
    assert main(["--check", str(PAGE)]) == 0


def test_every_verb_stands_once_with_who_may_and_how() -> None:
    rows = {row["verb"]: row for row in table("Verbs")}
    assert list(rows) == list(load_verbs())
    assert len(table("Verbs")) == len(rows)
    for name, verb in load_verbs().items():
        row = rows[name]
        assert row["permission"] == verb.permission
        assert [role for role in Role if row[role] == "yes"] == [role for role in Role if verb.permission in permissions_of(role)]
        assert row["admin of the house"] == ADMINS.get(name, "-")
        assert row["CLI"] == (f"`endcap {name}`" if name in offered_verbs() else "-")
        assert row["HTTP"] == (f"`{remote_verbs()[name].path}`" if name in remote_verbs() else "-")
        assert row["Python"] == f"`endcap.{verb.room}.{verb.call.__name__}`"
    for name, reason in local_verbs().items():
        assert f"- **{name}**: {reason}" in write_page()


def test_every_call_of_mlflow_stands_once_with_who_may() -> None:
    rows = table("Calls of the MLflow protocol")
    assert [(row["method"], row["path"].strip("`"), row["verb"]) for row in rows] == [(r.method, r.path, r.needs.verb) for r in read_calls()]
    assert len(rows) == len(list_calls()) + len(TRANSFERS)
    for row, entry in zip(rows, read_calls(), strict=True):
        assert row["permission"].partition(",")[0] == entry.needs.permission
        assert ("release" in row["permission"].partition(",")[2]) == entry.needs.releasing
        assert [role for role in Role if row[role] == "yes"] == list(entry.roles)
    counted = {row["verb"]: row["MLflow calls"] for row in table("Verbs")}
    assert {name: n for name, n in counted.items() if n != "-"} == {row.verb: str(len(row.calls)) for row in read_matrix() if row.calls}


def test_every_permission_stands() -> None:
    assert [row["permission"] for row in table("Permissions")] == list(Permission)


def test_a_verb_for_reading_is_no_verb_for_changing_over_mlflow() -> None:
    """What GET asks for is to read; what changes something asks for more."""
    for row in read_calls():
        reading = row.method == "GET" or row.path.endswith(("/search", "/get-latest-versions"))
        assert (row.needs.permission is Permission.READ) == reading, row
        verb = load_verbs().get(row.needs.verb)
        assert verb is None or verb.permission == row.needs.permission, row


def test_a_page_is_written_and_its_age_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "access.md"
    assert main(["--check", str(page)]) == 1
    assert capsys.readouterr().err == f"{page} is out of date. Hint: make docs\n"
    assert main(["--write", str(page)]) == 0
    assert main(["--check", str(page)]) == 0
    page.write_text(re.sub(r"\| yes \|", "| no |", page.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    assert main(["--check", str(page)]) == 1
