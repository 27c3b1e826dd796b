from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.core.errors import InvalidInput
from endcap.project.definitions import load_definitions
from endcap.project.sample import write_plan, write_sales, write_sample
from endcap.solutions.shop import Chain

CHAIN = Chain(3, n_stores=4)
LAST = CHAIN.opened + timedelta(weeks=6)


def read_all(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "data" / "sales").iterdir())])


def test_a_sample_is_the_chains_files_as_they_stand_that_morning(tmp_path: Path) -> None:
    files = write_sample(tmp_path, seed=3, chain=CHAIN, last=LAST)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "project.py",
        f"data/sales/{CHAIN.opened}.parquet",
        "data/plan.parquet",
        "data/stores.parquet",
    ]
    assert read_all(tmp_path).equals(CHAIN.sales(CHAIN.opened, LAST))
    plan = pq.read_table(tmp_path / "data" / "plan.parquet")
    assert plan["date"].to_pylist()[-1] == LAST + timedelta(days=27)
    assert pq.read_table(tmp_path / "data" / "stores.parquet").equals(CHAIN.stores())


def test_its_definition_file_uses_every_part_once(tmp_path: Path) -> None:
    write_sample(tmp_path, seed=3, chain=CHAIN, last=LAST)
    found = load_definitions(tmp_path)
    assert sorted(found.tables) == ["plan", "sales", "stores"]
    model = found.models["store-day"]
    assert (model.open, sorted(model.known_ahead), model.slices, model.horizon_days) == ("open", ["holiday", "open", "promotion"], ("format",), 7)
    for table in found.tables.values():
        assert list(tmp_path.glob(table.source)), f"{table.name} has files"


def test_day_by_day_the_files_come_to_the_same(tmp_path: Path) -> None:
    write_sample(tmp_path, seed=3, chain=CHAIN, last=LAST)
    for day in range(3):
        write_sales(tmp_path, CHAIN, LAST + timedelta(days=day), LAST + timedelta(days=day + 1))
    write_plan(tmp_path, CHAIN, LAST + timedelta(days=3))
    assert read_all(tmp_path).equals(CHAIN.sales(CHAIN.opened, LAST + timedelta(days=3)))
    assert pq.read_table(tmp_path / "data" / "plan.parquet")["date"].to_pylist()[-1] == LAST + timedelta(days=30)


def test_writing_again_doubles_nothing_and_leaves_no_parts(tmp_path: Path) -> None:
    for _ in range(2):
        write_sample(tmp_path, seed=3, chain=CHAIN, last=LAST)
    assert read_all(tmp_path).num_rows == CHAIN.sales(CHAIN.opened, LAST).num_rows
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_without_a_chain_the_seed_chooses_one_of_sixty_weeks(tmp_path: Path) -> None:
    write_sample(tmp_path / "a", seed=3)
    write_sample(tmp_path / "b", seed=4)
    a, b = read_all(tmp_path / "a"), read_all(tmp_path / "b")
    assert a["date"].to_pylist()[-1] < date(2025, 1, 6) + timedelta(weeks=60)
    assert not a.equals(b)


def test_a_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_sample(tmp_path / "taken", seed=3, chain=CHAIN, last=LAST)
    assert (tmp_path / "taken").read_text() == "mine"
