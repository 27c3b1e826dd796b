"""The guide to gates, lived through: its project is applied, its training code runs, its commands are typed in the order they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "gates.md"
CODES = {0: "done", 6: "refused"}


def read_blocks() -> list[tuple[str, str]]:
    """The blocks of code with their language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def write_customers(path: Path) -> None:
    """3,000 customers, who leave more often when they have not bought for long."""
    rng = np.random.default_rng(1)
    days, orders, age = rng.integers(0, 200, 3000), rng.poisson(4, 3000), rng.integers(18, 80, 3000)
    left = rng.random(3000) < 1 / (1 + np.exp(2.2 - 0.022 * days + 0.25 * orders))
    country = rng.choice(["AT", "DE", "NL"], 3000, p=[0.2, 0.6, 0.2])
    lines = ["customer,country,days_since_order,orders,age,left"]
    lines += [f"C{i},{c},{d},{o},{a},{int(x)}" for i, (c, d, o, a, x) in enumerate(zip(country, days, orders, age, left, strict=True))]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def test_the_guide_does_what_it_says(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, project), *rest = read_blocks()
    assert (first, project.startswith("import endcap as ec")) == ("python", True)
    (tmp_path / "project.py").write_text(project, encoding="utf-8")
    write_customers(tmp_path / "customers.csv")
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
            said = cli(*(names["run_id"] if argument == "RUN" else argument for argument in arguments))
            refused = "# refused" in line
            assert said.code == (6 if refused else 0), f"{line}: {said.out}{said.err}"
            typed += 1
    assert typed >= 6
