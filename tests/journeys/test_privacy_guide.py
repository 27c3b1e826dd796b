"""The guide to privacy: its project is applied and its commands are typed in the order in which they stand there."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from endcap.assembly import open_house
from endcap.loop.features.online import read_online

GUIDE = Path(__file__).parents[2] / "docs" / "privacy.md"


def test_the_guide_does_what_it_says(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    (project,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    (tmp_path / "project.py").write_text(project, encoding="utf-8")
    rows = [f"{n},planted-{n}@example.org,{20 + n},{n}.5,2026-03-0{n}" for n in (1, 2, 3)]
    (tmp_path / "people.csv").write_text("\n".join(["customer_id,email,age,spend,seen", *rows, ""]), encoding="utf-8")
    for words in (["apply", "--yes"], ["features", "materialise", "facts"], ["users", "add", "dora"], ["users", "add", "bea"]):
        said = cli(*words)
        assert said.code == 0, f"{words}: {said.out}{said.err}"
    assert len(lines) == 15
    for line in lines:
        command, *arguments = shlex.split(line, comments=True)
        assert command == "endcap"
        said = cli(*arguments)
        assert said.code == (2 if "# refused" in line else 0), f"{line}: {said.out}{said.err}"
        if "--yes" in line and not said.code:
            held = [path for path in (tmp_path / ".endcap").rglob("*") if path.is_file() and b"planted" in path.read_bytes()]
            assert held == []
            with open_house(tmp_path / ".endcap") as house:
                read = read_online(house.session(), ["facts"], {"customer_id": [1, 2]})
            assert read.views[0].features["email"] == ["planted-1@example.org", None]
