"""The guide to features, lived through: its project is applied, its commands are typed and its Python is run, in the order they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "features.md"


def read_blocks() -> list[tuple[str, str]]:
    """The blocks of code with their language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def write_sales(path: Path) -> None:
    """Sixty days of six stores, up to yesterday."""
    today = datetime.now(UTC).date()
    lines = ["store_id,day,units,price,channel"]
    for back in range(60, 0, -1):
        for store in range(1, 7):
            lines.append(f"S{store},{today - timedelta(days=back)},{(back * store) % 11},{9.5 + store},{'web' if back % 3 else 'till'}")
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def test_the_guide_does_what_it_says(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, project), *rest = read_blocks()
    assert (first, project.startswith("import endcap as ec")) == ("python", True)
    (tmp_path / "project.py").write_text(project, encoding="utf-8")
    write_sales(tmp_path / "sales.csv")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    typed = 0
    for language, code in rest:
        if language == "python":
            exec(compile(code, str(GUIDE), "exec"), names)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line, comments=True)
            assert command == "endcap"
            said = cli(*arguments)
            assert said.code == 0, f"{line}: {said.err}"
            typed += 1
    assert typed >= 10
    assert (tmp_path / "out" / "features" / "views" / "newest_price.html").exists()
