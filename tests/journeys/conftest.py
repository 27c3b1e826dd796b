from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from endcap.faces.cli.entry import main
from endcap.project.sample import SAMPLE, write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain


class Said(NamedTuple):
    """What a command said and how it ended."""

    code: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The one document on standard error, with nothing on standard output."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        return json.loads(self.err)


def call(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return Said(left.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def cli() -> Callable[..., Said]:
    """The command line in this process."""
    return call


@pytest.fixture(scope="module", params=["folder", "postgres"])
def new_home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path | str]:
    """Gives new homes of one sort: what asks for it runs on every sort."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_home")
    return lambda: tmp_path_factory.mktemp("state") / "home"


OPENED = date(2025, 1, 6)


class Shop(NamedTuple):
    """A simulated chain, 40 weeks old, and the folder of its project."""

    folder: Path
    chain: Chain
    today: date

    def define(self, *candidates: str, **changes: str) -> None:
        """Write the definition: the sample's, with few candidates so that it trains in a moment."""
        given = {"gate": "ec.Gate(bias=0.1)", "candidates": repr(list(candidates)), **changes}
        kept = [line for line in SAMPLE.splitlines() if line.strip().partition("=")[0] not in given]
        assert kept.pop() == ")", "the sample ends in its model"
        kept += [f"    {name}={value}," for name, value in given.items()]
        (self.folder / "project.py").write_text("\n".join([*kept, ")", ""]), encoding="utf-8")

    def lay_out(self) -> None:
        write_sample(self.folder, seed=self.chain.seed, chain=self.chain, last=self.today)

    def live_until(self, day: date) -> Shop:
        """The files as they stand in the morning of a later day."""
        write_sales(self.folder, self.chain, self.today, day)
        write_plan(self.folder, self.chain, day)
        return self._replace(today=day)


@pytest.fixture(scope="session")
def open_shop() -> Callable[..., Shop]:
    """Lays out a project of 12 stores in a folder."""

    def lay_out(folder: Path, **given: Any) -> Shop:
        shop = Shop(folder, Chain(7, n_stores=12, opened=OPENED, **given), OPENED + timedelta(weeks=40))
        shop.lay_out()
        return shop

    return lay_out
