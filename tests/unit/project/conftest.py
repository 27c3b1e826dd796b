"""A small chain with a project of its own, whose one method needs no trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from endcap.core.clock import ManualClock
from endcap.governance.sessions import Session
from endcap.project.running import RunResult, run
from endcap.project.sample import write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain
from endcap.testing.sessions import make_session

OPENED = date(2025, 1, 6)
TODAY = OPENED + timedelta(weeks=16)
SLICES = '    slices=["format"],'


@dataclass
class Project:
    """A folder with a project, and a session on its home."""

    folder: Path
    session: Session
    chain: Chain

    @property
    def file(self) -> Path:
        return self.folder / "project.py"

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert old in text
        self.file.write_text(text.replace(old, new), encoding="utf-8")

    def wake(self, *, days: int = 1) -> None:
        """Some mornings on, with the files as they stand then."""
        assert isinstance(self.session.clock, ManualClock)
        start = self.session.now().date()
        self.session.clock.advance(timedelta(days=days))
        write_sales(self.folder, self.chain, start, start + timedelta(days=days))
        write_plan(self.folder, self.chain, start + timedelta(days=days))

    def run(self, **options: object) -> RunResult:
        return run(self.session, "store-day", folder=self.folder, **options)  # type: ignore[arg-type]  # options by name


def lay_out(folder: Path, *, home: str | Path = "memory://") -> Project:
    chain = Chain(7, n_stores=6, opened=OPENED)
    write_sample(folder, seed=7, chain=chain, last=TODAY)
    start = datetime.combine(TODAY, datetime.min.time(), tzinfo=UTC) + timedelta(hours=6)
    made = Project(folder, make_session(home, start=start, zone="Europe/Berlin"), chain)
    made.change(SLICES, f'{SLICES}\n    candidates=["shrunk_rates"],\n    backtest_origins=4,')
    # Six stores and two judged weeks say little; which method is how good is a question for other tests.
    made.change("bias=0.05", "better_than=[], bias=0.4, most={'wape': 0.5}")
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Laid out, not applied."""
    return lay_out(tmp_path)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that ran on two mornings. Shared by a module: read, do not change."""
    made = lay_out(tmp_path_factory.mktemp("lived"))
    made.run()
    made.wake()
    made.run()
    yield made
    made.session.ports.close()


@pytest.fixture(scope="module", params=["memory", "folder"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that ran once, in memory and in a folder. Shared by a module."""
    folder = tmp_path_factory.mktemp("kept")
    made = lay_out(folder / "project", home="memory://" if request.param == "memory" else folder / "home")
    made.run()
    yield made
    made.session.ports.close()
