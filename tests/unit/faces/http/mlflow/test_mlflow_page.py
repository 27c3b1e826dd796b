from __future__ import annotations

import re
from pathlib import Path

from endcap.faces.http.mlflow.meanings import STAGES
from endcap.faces.http.mlflow.refused import REFUSED
from endcap.faces.http.mlflow.routes import MODULES, list_calls

PAGE = (Path(__file__).parents[5] / "docs" / "mlflow.md").read_text(encoding="utf-8")


def test_the_page_lists_every_call_with_what_it_does() -> None:
    told = dict(re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) /\S+)` \| (.+) \|$", PAGE, re.MULTILINE))
    calls = {f"{entry.method} {entry.path.replace(':path}', '}')}": entry.summary for entry in list_calls()}
    assert told == calls


def test_the_page_lists_every_refusal_with_what_to_do_instead() -> None:
    part = PAGE.partition("## What is refused")[2].partition("## What goes wrong")[0]
    told = [tuple(cells) for cells in re.findall(r"^\| `(/\S+)` \| (.+) \| (.+) \|$", part, re.MULTILINE)]
    assert told == [tuple(refused) for refused in REFUSED]


def test_calls_are_found_in_every_module_that_holds_some() -> None:
    held = {entry.answer.__module__ for entry in list_calls()}
    assert held == {module.__name__ for module in MODULES}
    folder = Path(MODULES[0].__file__ or "").parent
    assert {f"{MODULES[0].__package__}.{path.stem}" for path in folder.glob("*.py") if re.search(r"^@call\(", path.read_text(), re.MULTILINE)} == held


def test_a_stage_is_told_where_an_alias_is() -> None:
    for stage in STAGES:
        assert f"stage `{stage.capitalize()}`" in PAGE
