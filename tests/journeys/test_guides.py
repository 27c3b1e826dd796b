"""The guides, lived through: their projects are applied, their commands typed and their Python run, in the order in which they stand there."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.assembly import open_house
from endcap.faces.http.rates import EVERY_S
from endcap.governance.quotas.places import EXPIRY_S, MOST_WAITING
from endcap.loop.features.online import read_online

DOCS = Path(__file__).parents[2] / "docs"
USAGE, REFUSED = 2, 6
"""Exit codes of what is asked wrongly, and of what a gate refuses."""

Cli = Callable[..., Any]


def read_blocks(guide: str) -> tuple[str, list[tuple[str, str]]]:
    """The project with which a guide begins, and the blocks of code behind it with their language; without a project it is empty."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / guide).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if blocks[0][0] != "python":
        return "", blocks
    (_, project), *rest = blocks
    assert project.startswith("import endcap as ec")
    return project, rest


def type_lines(cli: Cli, blocks: list[tuple[str, str]], *, refused: int, names: dict[str, Any] | None = None) -> Iterator[tuple[str, int]]:
    """Type the commands and run the Python, block by block; each line that was typed with its exit code, which is what the guide says.

    A command ends well, or with ``refused`` where its comment says "refused". ``RUN`` in a command is what the Python before it called ``run_id``.
    """
    names = {} if names is None else names
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "guide", "exec"), names)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line, comments=True)
            assert command == "endcap"
            said = cli(*(names["run_id"] if argument == "RUN" else argument for argument in arguments))
            assert said.code == (refused if "# refused" in line else 0), f"{line}: {said.out}{said.err}"
            yield line, said.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which everything happens."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def write_customers(path: Path) -> None:
    """3,000 customers, who leave more often when they have not bought for long."""
    rng = np.random.default_rng(1)
    days, orders, age = rng.integers(0, 200, 3000), rng.poisson(4, 3000), rng.integers(18, 80, 3000)
    left = rng.random(3000) < 1 / (1 + np.exp(2.2 - 0.022 * days + 0.25 * orders))
    country = rng.choice(["AT", "DE", "NL"], 3000, p=[0.2, 0.6, 0.2])
    rows = [f"C{i},{c},{d},{o},{a},{int(x)}" for i, (c, d, o, a, x) in enumerate(zip(country, days, orders, age, left, strict=True))]
    write_lines(path, ["customer,country,days_since_order,orders,age,left", *rows])


def write_sales(path: Path) -> None:
    """Sixty days of six stores, up to yesterday."""
    today = datetime.now(UTC).date()
    rows = [
        f"S{store},{today - timedelta(days=back)},{(back * store) % 11},{9.5 + store},{'web' if back % 3 else 'till'}"
        for back in range(60, 0, -1)
        for store in range(1, 7)
    ]
    write_lines(path, ["store_id,day,units,price,channel", *rows])


def test_gates(cli: Cli, folder: Path) -> None:
    project, blocks = read_blocks("gates.md")
    (folder / "project.py").write_text(project, encoding="utf-8")
    write_customers(folder / "customers.csv")
    assert len(list(type_lines(cli, blocks, refused=REFUSED))) >= 6


def test_features(cli: Cli, folder: Path) -> None:
    project, blocks = read_blocks("features.md")
    (folder / "project.py").write_text(project, encoding="utf-8")
    write_sales(folder / "sales.csv")
    assert len(list(type_lines(cli, blocks, refused=USAGE))) >= 10
    assert (folder / "out" / "features" / "views" / "newest_price.html").exists()


def test_privacy(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, blocks = read_blocks("privacy.md")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    (folder / "project.py").write_text(project, encoding="utf-8")
    rows = [f"{n},planted-{n}@example.org,{20 + n},{n}.5,2026-03-0{n}" for n in (1, 2, 3)]
    write_lines(folder / "people.csv", ["customer_id,email,age,spend,seen", *rows])
    for words in (["apply", "--yes"], ["features", "materialise", "facts"], ["users", "add", "dora"], ["users", "add", "bea"]):
        said = cli(*words)
        assert said.code == 0, f"{words}: {said.out}{said.err}"
    typed, forgotten = 0, 0
    for line, code in type_lines(cli, blocks, refused=USAGE):
        typed += 1
        if "--yes" in line and not code:
            forgotten += 1
            held = [path for path in (folder / ".endcap").rglob("*") if path.is_file() and b"planted" in path.read_bytes()]
            assert held == []
            with open_house(folder / ".endcap") as house:
                read = read_online(house.session(), ["facts"], {"customer_id": [1, 2]})
            assert read.views[0].features["email"] == ["planted-1@example.org", None]
    assert typed == 16
    assert forgotten >= 1


def test_quotas(cli: Cli, folder: Path) -> None:
    project, blocks = read_blocks("quotas.md")
    (folder / "project.py").write_text(project, encoding="utf-8")
    assert len(list(type_lines(cli, blocks, refused=USAGE))) == 10
    left = cli("quotas", "ls", "--everywhere", "--json").json
    assert [(line["actor"], line["limit"]) for line in left] == [
        ("", "cpu-minutes"),
        ("", "storage"),
        ("", "runs"),
        ("bob", "cpu-minutes"),
        ("bob", "runs"),
    ]


def test_the_figures_of_quotas_are_those_of_the_code() -> None:
    text = " ".join((DOCS / "quotas.md").read_text(encoding="utf-8").split())
    assert f"on another machine after {EXPIRY_S:.0f} s" in text
    assert (MOST_WAITING, EVERY_S) == (8, 5.0)
    assert "eight runs wait at most" in text
    assert "every five seconds" in text
