"""The demo's story, lived through by a chain of four stores whose one method needs no trees."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from endcap.core.errors import NotFound
from endcap.project.demo import World, main, tell
from endcap.project.demo_worlds import real_world, simulated_world
from endcap.project.sample import write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain, Shift


def small_world() -> World:
    """12 weeks old; on its fourth day demand trebles at every store. Its gate is plain, so that the first training after that passes."""
    opened = date(2025, 1, 6)
    first = opened + timedelta(weeks=12)
    shift_on, last = first + timedelta(days=3), first + timedelta(days=8)
    chain = Chain(7, n_stores=4, opened=opened, shifts=(Shift(on=shift_on, stores=1.0, level=3.0),))

    def lay_out(folder: Path) -> None:
        write_sample(folder, seed=7, chain=chain, last=first)
        path = folder / "project.py"
        text = path.read_text(encoding="utf-8").replace("bias=0.05", "better_than=[], bias=None, most={'wape': 0.6}")
        path.write_text(text.replace('slices=["format"],', 'slices=["format"], candidates=["shrunk_rates"],'), encoding="utf-8")

    def live(folder: Path, day: date) -> None:
        write_sales(folder, chain, day - timedelta(days=1), day)
        write_plan(folder, chain, day)

    def spoil(folder: Path) -> None:
        import pyarrow.parquet as pq

        path = folder / "data" / "sales" / f"{opened.isoformat()}.parquet"
        pq.write_table(chain.spoil(pq.read_table(path), how="negative", rng=np.random.default_rng(7)), path)

    return World(
        title="A small chain",
        zone="Europe/Berlin",
        first_morning=first,
        shift_on=shift_on,
        last_morning=last,
        model="store-day",
        lay_out=lay_out,
        live=live,
        spoil=spoil,
        truth=lambda: None,
        shift="Demand trebles.",
    )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    out = tmp_path_factory.mktemp("out")
    return tell(small_world(), out=out).lines, out


def first_of(lines: list[str], *words: str) -> int:
    return next(n for n, line in enumerate(lines) if all(word in line for word in words))


def test_the_story_goes_from_the_defects_to_the_audit(story: Any) -> None:
    lines, _ = story
    chapters = [
        ("refused whole", "'sales' breaks"),
        ("keeps its contract",),
        ("is released", "store-day-v1"),
        ("Back-test, WAPE",),
        ("forecasts are delivered",),
        ("Now the days pass",),
        ("the watch is breached: live wape",),
        ("trained again, because a watch is breached",),
        ("The champion changes",),
        ("asks for its release",),
        ("Refused, by the call that anyone would use",),
        ("What answered when",),
        ("The audit chain holds", "intact"),
    ]
    places = [first_of(lines, *words) for words in chapters]
    assert places == sorted(places)


def test_the_change_is_seen_after_it_came_and_not_before(story: Any) -> None:
    lines, _ = story
    seen = date.fromisoformat(lines[first_of(lines, "the watch is breached")][:10])
    assert small_world().shift_on < seen <= small_world().shift_on + timedelta(days=7)


def test_a_page_is_left_that_tells_it(story: Any) -> None:
    lines, out = story
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The audit chain holds" in page
    assert lines[-1].startswith("The story took")


def test_the_simulated_world_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    world = simulated_world(7)
    assert (world.first_morning, world.shift_on) == (date(2026, 3, 2), date(2026, 3, 16))
    assert world.truth().column_names == ["store_id", "expected", "demand", "ts"]
    assert world.truth().equals(simulated_world(7).truth())
    assert not world.truth().equals(simulated_world(8).truth())


def test_the_simulated_worlds_days_are_written_as_they_come(tmp_path: Path) -> None:
    world = simulated_world(7)
    world.lay_out(tmp_path)
    world.live(tmp_path, world.first_morning + timedelta(days=1))
    names = sorted(path.stem for path in (tmp_path / "data" / "sales").iterdir())
    assert names == ["2025-01-06", world.first_morning.isoformat()]
    before = (tmp_path / "data" / "sales" / "2025-01-06.parquet").read_bytes()
    world.spoil(tmp_path)
    assert (tmp_path / "data" / "sales" / "2025-01-06.parquet").read_bytes() != before


def test_without_the_real_data_it_is_said_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match=r"holds no freshretailnet/sales_hourly\.parquet"):
        real_world(tmp_path, seed=7)
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
