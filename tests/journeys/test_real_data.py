"""The example on real data: FreshRetailNet, found through ENDCAP_DATA, in an extract of 40 of its 898 stores."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import endcap as ec
from endcap.core.names import quote_text
from endcap.core.zones import start_of_day
from endcap.project.definitions import load_definitions

EXAMPLE = Path(__file__).parents[2] / "examples" / "freshretail"
ZONE = "Asia/Shanghai"
N_STORES = 40
DATA = os.environ.get("ENDCAP_DATA", "")

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (Path(DATA) / "freshretailnet").is_dir(), reason="ENDCAP_DATA names no folder with freshretailnet/"),
]


@pytest.fixture(scope="module")
def extract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables with the rows of some stores, in a folder that can stand for ENDCAP_DATA."""
    source, folder = Path(DATA) / "freshretailnet", tmp_path_factory.mktemp("extract")
    (folder / "freshretailnet").mkdir()
    with duckdb.connect(":memory:", config={"threads": 1}) as engine:
        stores = f"(SELECT store_id FROM {_scan(source / 'stores.parquet')} ORDER BY hash(store_id) LIMIT {N_STORES})"
        for name in ("sales_hourly", "conditions_daily", "stores", "products"):
            kept = f" WHERE store_id IN {stores}" if name != "products" else ""
            target = quote_text(str(folder / "freshretailnet" / f"{name}.parquet"))
            engine.execute(f"COPY (SELECT * FROM {_scan(source / f'{name}.parquet')}{kept}) TO {target} (FORMAT parquet)")
    return folder


def _scan(path: Path) -> str:
    return f"read_parquet({quote_text(str(path))})"


@pytest.fixture(scope="module")
def answered(extract: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Runs a model of the example once, with every candidate; gives the result, the champion's version and its predictions."""
    home = tmp_path_factory.mktemp("state")
    done: dict[str, Any] = {}

    def run(model: str) -> Any:
        if model not in done:
            out = home / f"{model}.parquet"
            with pytest.MonkeyPatch.context() as patch, ec.open_house(home / "home") as house:
                patch.setenv("ENDCAP_DATA", str(extract))
                result = ec.run(house.session(), model, folder=EXAMPLE)
                version = ec.show(house.session(), result.champion).version if result.champion else None
                if result.batch is not None:
                    ec.predictions(house.session(), model, out=out, utc=True)
            done[model] = (result, version, pq.read_table(out) if result.batch is not None else None)
        return done[model]

    return run


def test_the_example_loads_and_applies(tmp_path: Path) -> None:
    definitions = load_definitions(EXAMPLE)
    assert set(definitions.models) == {"store-day", "store-day-plan", "store-item-hour"}
    with ec.open_house(tmp_path / "home") as house:
        planned = ec.apply(house.session(), folder=EXAMPLE)
        assert {(model.name, model.change) for model in planned.models} == {(name, "new") for name in definitions.models}
        assert {model.change for model in ec.apply(house.session(), folder=EXAMPLE).models} == {"unchanged"}


def test_store_day_answers_for_every_store_from_the_end_of_the_data(answered: Callable[[str], Any]) -> None:
    result, version, table = answered("store-day")
    assert result.champion is not None, [judged.sentence for judged in result.judged]
    assert set(version.leaderboard) >= {"weekday_mean", "shrunk_rates", "trees", "members"}
    days = sorted({ts.date() for ts in table["ts"].to_pylist()})
    assert days == [result.batch.origin + timedelta(days=i) for i in range(7)]
    assert table.num_rows == N_STORES * 7 == result.batch.n_rows
    assert pc.count_distinct(table["store_id"]).as_py() == N_STORES
    assert pa.types.is_integer(table.schema.field("store_id").type)
    assert pc.min(table["forecast"]).as_py() > 0
    for below, above in (("lower_90", "forecast"), ("forecast", "upper_90"), ("forecast", "demand")):
        assert pc.all(pc.less_equal(table[below], table[above])).as_py(), (below, above)
    assert pc.any(pc.less(table["forecast"], table["demand"])).as_py()


def test_facts_that_nobody_knew_are_named(answered: Callable[[str], Any]) -> None:
    result, _, _ = answered("store-day")
    assert {fact.partition(" ")[0] for fact in result.batch.missing_facts} == {"discount", "activity"}


def test_the_days_are_those_of_shanghai(answered: Callable[[str], Any]) -> None:
    _, _, table = answered("store-day")
    for local, instant in zip(table["ts"].to_pylist()[:7], table["ts_utc"].to_pylist()[:7], strict=True):
        assert instant == start_of_day(local.date(), zone=ZONE)


def test_the_plan_is_made_six_days_ahead_on_data_two_days_late(answered: Callable[[str], Any], extract: Path) -> None:
    result, version, table = answered("store-day-plan")
    assert result.champion is not None, [judged.sentence for judged in result.judged]
    assert result.batch.first == result.batch.origin + timedelta(days=6)
    assert result.batch.last == result.batch.origin + timedelta(days=12)
    assert table.num_rows == N_STORES * 7
    last = pc.max(pq.read_table(extract / "freshretailnet" / "sales_hourly.parquet", columns=["dt"])["dt"]).as_py()
    assert version.trained_until <= last
    assert result.batch.origin == last + timedelta(days=3), "the last day is known two days after it has ended"
    assert version.trained_until == result.batch.origin - timedelta(days=3)
