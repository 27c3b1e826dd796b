"""From rows that come in to what is said of them: a view is materialised, its values move, and the command line tells which and how far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = """import endcap as ec

visits = ec.Table("visits", "visits/*.parquet", keys=["shopper"], event_time="day", zone="UTC", personal=["age"])
shoppers = ec.FeatureView(name="shoppers", source=visits, features=["basket", "channel", "active", "age"], online=False)
"""


def write_day(folder: Path, day: int, *, basket: float, channels: list[str], active: float) -> None:
    rng = np.random.default_rng(day)
    n = 600
    rows = {
        "shopper": np.arange(n),
        "day": pa.array([f"2025-01-{day:02}"] * n).cast(pa.date32()),
        "basket": rng.gamma(2.0, basket, n),
        "channel": rng.choice(channels, n).tolist(),
        "active": pa.array(rng.random(n) < active, mask=rng.random(n) < 0.01),
        "age": rng.integers(18, 90, n),
    }
    pq.write_table(pa.table(rows), folder / f"{day:02}.parquet")


def test_values_that_move_are_named_by_how_far(tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = tmp_path / "visits"
    folder.mkdir()
    (tmp_path / "project.py").write_text(PROJECT, encoding="utf-8")

    def do(*arguments: str) -> Any:
        return cli(*arguments, "--project", tmp_path)

    write_day(folder, 1, basket=10.0, channels=["web", "till"], active=0.5)
    assert do("apply", "--yes").code == 0
    assert do("features", "materialise", "shoppers").code == 0
    alone = do("features", "drift", "shoppers")
    assert (alone.code, "no snapshot of feature view 'shoppers' before" in alone.err) == (3, True)
    write_day(folder, 2, basket=10.0, channels=["web", "till"], active=0.5)
    assert do("features", "materialise", "shoppers").code == 0
    quiet = do("features", "drift", "shoppers", "--json").json
    assert [d["drifted"] for d in quiet["distances"]] == [False] * 4
    write_day(folder, 3, basket=16.0, channels=["web", "till", "app"], active=0.5)
    assert do("features", "materialise", "shoppers").code == 0
    report = do("features", "drift", "shoppers", "--json").json
    assert {d["column"] for d in report["distances"]} == {"basket", "channel", "active", "age"}, "a key is no feature"
    assert {d["column"] for d in report["distances"] if d["drifted"]} == {"basket", "channel"}
    channel = next(d for d in report["distances"] if d["column"] == "channel")
    assert [name for name, _ in channel["new"]] == ["app"]
    age = next(d for d in report["distances"] if d["column"] == "age")
    assert (age.get("psi"), "counts only" in age["reason"]) == (None, True), "of what is personal nothing is kept that could be compared"
    first = do("features", "drift", "shoppers", "--against", quiet["reference"])
    assert "2 of 4 features drifted" in first.out
    assert "new: app (" in first.out
