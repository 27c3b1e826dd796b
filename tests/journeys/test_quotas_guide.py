"""The guide to quotas, typed in the order in which it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endcap.faces.http.rates import EVERY_S
from endcap.governance.quotas.places import EXPIRY_S, MOST_WAITING

GUIDE = Path(__file__).parents[2] / "docs" / "quotas.md"


def test_the_guide_does_what_it_says(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.py").write_text("", encoding="utf-8")
    text = GUIDE.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE) for line in block.splitlines()]
    assert len(lines) == 10
    for line in lines:
        command, *arguments = shlex.split(line, comments=True)
        assert command == "endcap"
        said = cli(*arguments)
        assert said.code == (2 if "# refused" in line else 0), f"{line}: {said.out}{said.err}"
    left = cli("quotas", "ls", "--everywhere", "--json").json
    assert [(line["actor"], line["limit"]) for line in left] == [
        ("", "cpu-minutes"),
        ("", "storage"),
        ("", "runs"),
        ("bob", "cpu-minutes"),
        ("bob", "runs"),
    ]


def test_the_guide_s_figures_are_those_of_the_code() -> None:
    text = " ".join(GUIDE.read_text(encoding="utf-8").split())
    assert f"on another machine after {EXPIRY_S:.0f} s" in text
    assert (MOST_WAITING, EVERY_S) == (8, 5.0)
    assert "eight runs wait at most" in text
    assert "every five seconds" in text
